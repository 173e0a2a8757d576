"""A topic read a stretch at a time: the same rows as all of it at once, in bounded memory."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros_to_parquet.contract import Match
from ros_to_parquet.frames.arrays import Int64Array, column, integers, one_array
from ros_to_parquet.frames.match import NONE, match
from ros_to_parquet.frames.sources import Cache, Groups, Part, reach, read_stretch
from ros_to_parquet.frames.ticks import PAUSE_NS, Rate, Recorded
from tests.engine.frames.drives import MS, extracted, image, made, speed, transform, write

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

Row = tuple[int, int]
"""Time by the topic's clock, and by the log."""


class Rows:
    """Parts made of rows; how often each was asked for is counted."""

    def __init__(self, parts: list[list[Row]]) -> None:
        self.parts = parts
        self.loads = 0
        entries = []
        for number, part in enumerate(self.parts):
            times = [time for time, _ in part]
            entries.append((min(times), max(times), len(part), 0, 16 * len(part), 0, number))
        self.groups = Groups.of(entries)

    def load(self, group: int) -> Part:
        self.loads += 1
        times, logs = (np.array(each, dtype=np.int64) for each in zip(*self.parts[group], strict=True))
        table = pa.table([column(logs), column(np.arange(len(logs)) + 100 * group)], names=["", "mark"])
        return Part.of(times, table)

    def wanted(self) -> list[tuple[int, int, int]]:
        """Time, log time and mark of the rows that count, in order: of one time the last."""
        rows = [
            (time, log, 100 * group + place)
            for group, part in enumerate(self.parts)
            for place, (time, log) in enumerate(part)
        ]
        rows.sort(key=lambda row: row[:2])
        return [
            row for row, after in zip(rows, [*rows[1:], None], strict=True) if not after or after[0] > row[0]
        ]


ROW = st.tuples(st.integers(-30, 30), st.integers(0, 5))
PARTS = st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=1, max_size=6)


@given(parts=PARTS, ends=st.tuples(st.integers(-40, 40), st.integers(-40, 40)), limit=st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_a_stretch_has_the_rows_that_count(parts: list[list[Row]], ends: tuple[int, int], limit: int) -> None:
    source = Rows(parts)
    first, last = min(ends), max(ends)
    stretch = read_stretch(source, Cache(limit), first, last)
    expected = [row for row in source.wanted() if first <= row[0] <= last]
    if stretch is None:
        assert expected == []
        return
    marks = stretch.table.column("mark").to_pylist()
    logs = integers(one_array(stretch.table.column(0))).tolist()
    assert list(zip(stretch.times.tolist(), logs, marks, strict=True)) == expected
    assert [100 * group + row for group, row in zip(stretch.group, stretch.row, strict=True)] == marks
    every = read_stretch(source, Cache(limit), first, last, repeated=True)
    assert every is not None
    assert len(every.times) == sum(first <= time <= last for part in source.parts for time, _ in part)


@pytest.mark.parametrize("method", Match)
@given(
    parts=PARTS,
    frames=st.lists(st.integers(-35, 35), min_size=1, max_size=8),
    tolerance_ns=st.one_of(st.integers(0, 25), st.just(2**63 - 1)),
)
@settings(max_examples=100, deadline=None)
def test_a_stretch_reaches_as_far_as_a_frame_may(
    method: Match, parts: list[list[Row]], frames: list[int], tolerance_ns: int
) -> None:
    """Matching within the stretch that is read is matching with all rows."""
    source = Rows(parts)
    at: Int64Array = np.sort(np.array(frames, dtype=np.int64))
    rows = source.wanted()
    every = np.array([row[0] for row in rows], dtype=np.int64)
    whole = match(every, at, method, tolerance_ns)
    expected = [None if place == NONE else rows[place][2] for place in whole.near.tolist()]
    begin, end = reach(source.groups, int(at.min()), int(at.max()), tolerance_ns)
    for known in (None, at):
        stretch = read_stretch(source, Cache(1), begin, end, at=known)
        if stretch is None:
            assert expected == [None] * len(at)
            continue
        found = match(stretch.times, at, method, tolerance_ns)
        marks = stretch.table.column("mark").to_pylist()
        assert [None if place == NONE else marks[place] for place in found.near.tolist()] == expected
        assert known is None or len(stretch.times) <= 2 * len(at) * len(parts)


def test_parts_that_are_needed_again_are_kept_up_to_a_limit() -> None:
    parts = [[(10 * number + place, 0) for place in range(10)] for number in range(20)]
    in_order = Rows(parts)
    cache = Cache(2 * in_order.load(0).size_bytes)
    in_order.loads = 0
    for first in range(0, 200, 4):
        read_stretch(in_order, cache, first, first + 3)
    assert in_order.loads == 20
    assert len(cache.parts) <= 2
    assert cache.held_bytes == sum(part.size_bytes for part in cache.parts.values())
    cache.drop_unused()
    cache.drop_unused()
    assert (cache.parts, cache.held_bytes) == ({}, 0)
    read_stretch(in_order, cache, 0, 5)
    cache.drop_unused()
    assert len(cache.parts) == 1, "the next stretch may need it"
    tiny = Cache(1)
    read_stretch(in_order, tiny, 0, 199)
    assert len(tiny.parts) == 1


# --- fixed rates ------------------------------------------------------------------------------------


LATEST_NS = 2**63 - 1


@given(
    rate_hz=st.sampled_from([0.001, 0.3, 1.0, 10.0, 29.97, 30.0, 59.94, 1000.0, 10_000.0]),
    first=st.integers(0, LATEST_NS) | st.integers(LATEST_NS - 10**9, LATEST_NS),
    share=st.floats(0, 30),
)
@settings(max_examples=100, deadline=None)
def test_ticks(rate_hz: float, first: int, share: float) -> None:
    """Every tick of a stretch, none beyond it, and those of two stretches as those of both together."""
    rate = Rate.of(rate_hz)
    last = min(first + int(share * 1e9 / rate_hz), LATEST_NS)
    ticks = rate.between(first, last).tolist()
    number = -(-first * rate.period_ns.denominator // rate.period_ns.numerator)
    expected = []
    while (tick := int(number * rate.period_ns)) <= last:
        if tick >= first:
            expected.append(tick)
        number += 1
    assert ticks == expected
    middle = (first + last) // 2
    assert rate.between(first, middle).tolist() + rate.between(middle + 1, last).tolist() == ticks


@given(
    st.lists(
        st.lists(st.integers(-(10**12), 10**12).map(lambda ms: ms * MS), min_size=1, max_size=5), max_size=300
    )
)
@settings(max_examples=100, deadline=None)
def test_stretches_in_which_something_was_recorded(times: list[list[int]]) -> None:
    recorded = Recorded()
    for some in times:
        recorded.add(np.array(some, dtype=np.int64))
    expected: list[list[int]] = []
    for time in sorted(time for some in times for time in some):
        if expected and time - expected[-1][1] <= PAUSE_NS:
            expected[-1][1] = time
        else:
            expected.append([time, time])
    assert [list(each) for each in recorded.stretches()] == expected


def test_a_pause_that_is_longer_than_any_number_of_64_bits() -> None:
    """Log times of 2^63 and more are read as ones before 1970."""
    recorded = Recorded()
    recorded.add(np.array([-(2**63), 10**18]))
    assert list(recorded.stretches()) == [(-(2**63), -(2**63)), (10**18, 10**18)]


# --- on S3 ------------------------------------------------------------------------------------------


def test_on_s3(tmp_path: Path, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = f"frames-{uuid.uuid4().hex[:12]}"
    embedded_aws.client("s3").create_bucket(Bucket=bucket)
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    edge = ("map", "base", (1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0))
    messages = [
        *(image(number * 10 * MS, number) for number in range(30)),
        *(speed(number * 7 * MS, float(number)) for number in range(40)),
        *(transform(at * MS, edge) for at in (0, 300)),
    ]
    bags = [write(tmp_path / f"{place}.bag", messages[place::2]) for place in range(2)]
    lake = extracted(f"s3://{bucket}/a lake", *bags)  # type: ignore[arg-type]
    for number in range(2):  # the second in the place of the first
        result, _ = made(
            lake,
            reference="/camera",
            topics={"/speed": {"method": "interpolated"}},
            pose={"parent": "map", "child": "base"},
        )
        assert [each.matched for each in result.columns] == [30, 28, 30], number
    keys = lake.frames().to_table()["camera"]
    fetched = lake.fetch(keys, columns=["data"]).column("data").to_pylist()
    assert fetched == [bytes([number] * 24) for number in range(30)]
    found = embedded_aws.client("s3").list_objects_v2(Bucket=bucket, Prefix="a lake/_frames/")
    assert [each["Key"] for each in found["Contents"]] == ["a lake/_frames/frames/drive_id=d/frames.parquet"]
    extracted(f"s3://{bucket}/a lake", bags[0], overwrite=True)  # type: ignore[arg-type]
    assert lake.frames_tables() == []
