"""Drives of many shards: memory does not grow with them, whatever their files' times are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ros_to_parquet import contract
from ros_to_parquet.contract import CONTRACT_VERSION, ExtractOptions, Manifest, OutputFile, TopicResult
from ros_to_parquet.frames.make import write_frames
from ros_to_parquet.memory import share_out
from tests.engine.frames.drives import table_of
from tests.engine.sample_bags import START_NS

SECOND_NS = 10**9
PLAN_ID = "0123456789ab"
FAST, SLOW = 500, 10
"""Messages a shard."""

LIMIT_BYTES = 8 << 20

NOISE = np.random.default_rng(3).random(FAST * 250)


def write_lake(path: Path, shards: int, *, apart_ns: int = SECOND_NS) -> int:
    """A drive of shards of a second each, that begin so far apart; how many bytes a topic's rows are."""
    size = 0
    for shard in range(shards):
        start = START_NS + shard * apart_ns
        results = []
        for table, count, width in (("fast", FAST, 250), ("slow", SLOW, 1)):
            times = start + np.arange(count) * (SECOND_NS // count) + shard  # no two shards have one time
            values = pa.FixedSizeListArray.from_arrays(pa.array(NOISE[: count * width]), width)
            rows = pa.table({"log_time_ns": times, "number": times - START_NS, "values": values})
            key = f"{table}/schema=0/drive_id=d/{contract.shard_name(PLAN_ID, shard)}.parquet"
            (path / key).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows, path / key, compression="none", use_dictionary=False)
            file = OutputFile(key, count, 1, int(times[0]), int(times[-1]))
            results.append(
                TopicResult(
                    f"/{table}",
                    table,
                    "T",
                    "0",
                    count,
                    count,
                    0,
                    0,
                    1,
                    int(times[0]),
                    int(times[-1]),
                    (file,),
                    (),
                )
            )
            size += rows.nbytes
        manifest = Manifest(
            CONTRACT_VERSION, "1", PLAN_ID, "d", shard, ExtractOptions(), "", 1, "", "", "", 1.0, 1, 1, 1,
            tuple(results), (),
        )  # fmt: skip
        place = path / contract.manifest_key("d", PLAN_ID, shard)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(contract.to_json(manifest))
    return size


def peak_of(lake: Path) -> int:
    """The most that Arrow has at a time while the table is made, within a limit of `LIMIT_BYTES`."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        result = write_frames(
            str(lake),
            "d",
            table_of(reference="/slow", topics={"/fast": {"method": "interpolated", "tolerance_ms": 1500}}),
            budget=share_out(LIMIT_BYTES),
        )
    finally:
        pa.set_memory_pool(before)
    fast = next(column for column in result.columns if column.column == "fast")
    assert result.rows - 10 <= fast.matched <= result.rows
    peak: int = pool.max_memory()
    return peak


def check(lake: Path, shards: int) -> None:
    rows = pq.read_table(lake / contract.frames_key("frames", "d")).to_pylist()
    assert len(rows) == shards * SLOW
    for row in rows:
        if row["fast"] is not None:
            assert abs(row["fast"]["delta_ns"]) <= SECOND_NS // FAST
            # The nearer message's: whole numbers are not interpolated.
            assert row["fast"]["number"] == row["fast"]["time_ns"] - START_NS


@pytest.mark.parametrize("shards", [20, pytest.param(400, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_shards(tmp_path: Path, shards: int) -> None:
    size = write_lake(tmp_path, shards)
    assert size > 2 * LIMIT_BYTES
    assert peak_of(tmp_path) < LIMIT_BYTES
    check(tmp_path, shards)


def test_shards_that_all_have_the_same_times(tmp_path: Path) -> None:
    """No row group can be let go before the end: they are read again instead of all being held."""
    size = write_lake(tmp_path, 20, apart_ns=0)
    assert size > 2 * LIMIT_BYTES
    assert peak_of(tmp_path) < 1.5 * LIMIT_BYTES, "the rows next to each frame are of all of them"
    check(tmp_path, 20)
