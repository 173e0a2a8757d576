"""Shards end to end: bags to Parquet, manifests, commits, leases; as processes where exit codes matter."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import ros_to_parquet
from ros_to_parquet import __version__, bag, contract, lake, parquet, reading, run
from ros_to_parquet.bag import chunked, source
from ros_to_parquet.cli import build_parser
from ros_to_parquet.commands.run import command_run
from ros_to_parquet.contract import (
    BagStatus,
    DriveState,
    ExitCode,
    ExtractOptions,
    Manifest,
    ParquetStyle,
    Plan,
)
from ros_to_parquet.drift import DriftError
from ros_to_parquet.errors import ShardError
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget, share_out
from ros_to_parquet.reading import ReadAhead, memory_bytes
from ros_to_parquet.storage import LocalSource, LocalStorage, LocalUpload, NotFoundError, StorageError
from tests.engine.bag.bag_bytes import simple_mcap, simple_ros1
from tests.engine.sample_bags import START_NS, TOPICS, write_bag

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

REAL_BAGS = Path(__file__).parents[2].parent / "shared" / "bags"
JOB = run.JobIdentity("", 1, "")


def plan_for(*bags: Path, output: Path, drive_id: str | None = "drive_1", **changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "output": str(output),
        "drive_id": drive_id,
        "options": ExtractOptions(),
        "overwrite": False,
        "take_over": False,
    }
    return make_plan([str(bag) for bag in bags], **arguments | changes)


def extract(*bags: Path, output: Path, budget: MemoryBudget = DEFAULT_BUDGET, **changes: Any) -> Manifest:
    return run.run_shard(plan_for(*bags, output=output, **changes), 0, JOB, budget=budget)


def cli(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``ros-to-parquet`` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "ros_to_parquet", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def events(done: subprocess.CompletedProcess[str], name: str) -> list[dict[str, Any]]:
    """The events of that name in a process' log."""
    return [event for event in map(json.loads, done.stderr.splitlines()) if event["event"] == name]


def rows(output: Path, table: str) -> pa.Table:
    return ros_to_parquet.open(str(output)).dataset(table).to_table().sort_by("log_time_ns")


# --- what is in the tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bag", ".mcap", ".db3"])
def test_every_value_of_every_message(tmp_path: Path, suffix: str) -> None:
    bag = tmp_path / f"drive{suffix}"
    write_bag(bag)
    manifest = extract(bag, output=tmp_path / "lake")
    assert [bag.status for bag in manifest.bags] == [BagStatus.OK]
    assert manifest.bags[0].verified is True
    assert {topic.topic: topic.rows for topic in manifest.topics} == dict.fromkeys(TOPICS, 40)

    imu = rows(tmp_path / "lake", "imu.data").to_pylist()
    images = rows(tmp_path / "lake", "camera.image.compressed").to_pylist()
    with AnyReader([bag]) as reader:
        expected = [
            (connection.topic, time_ns, reader.deserialize(data, connection.msgtype))
            for connection, time_ns, data in reader.messages()
        ]
    expected_imu = [(time_ns, message) for topic, time_ns, message in expected if topic == "/imu/data"]
    for row, (time_ns, message) in zip(imu, expected_imu, strict=True):
        assert row["log_time_ns"] == time_ns
        assert row["log_time"].timestamp() == pytest.approx(time_ns / 1e9, abs=1e-6)
        assert row["stamp_ns"] == message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert row["header"]["frame_id"] == "base"
        assert row["linear_acceleration"]["x"] == message.linear_acceleration.x
        assert row["orientation_covariance"] == message.orientation_covariance.tolist()
        assert row["bag"] == bag.name
        assert row["drive_id"] == "drive_1"
    frames = [message.data.tobytes() for topic, _, message in expected if topic == "/camera/image/compressed"]
    assert [row["data"] for row in images] == frames


def test_types_and_metadata_of_a_file(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.mcap")
    options = ExtractOptions(parquet=ParquetStyle.COMPACT)
    manifest = extract(tmp_path / "a.mcap", output=tmp_path / "lake", options=options)
    topic = next(topic for topic in manifest.topics if topic.topic == "/imu/data")
    path = tmp_path / "lake" / topic.files[0].path
    assert topic.files[0].path == (
        f"imu.data/schema={topic.schema_hash}/drive_id=drive_1/{manifest.plan_id}-00000.parquet"
    )
    assert topic.files[0].size_bytes == path.stat().st_size
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    assert schema.names[:7] == [
        "log_time", "log_time_ns", "stamp", "stamp_ns", "publish_time_ns", "sequence", "bag",
    ]  # fmt: skip
    assert schema.field("log_time").type == pa.timestamp("us", tz="UTC")
    assert not schema.field("log_time").nullable
    assert schema.field("angular_velocity_covariance").type.list_size == 9
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert metadata["ros.topic"] == "/imu/data"
    assert metadata["ros.type"] == "sensor_msgs/msg/Imu"
    assert "angular_velocity_covariance" in metadata["ros.definition"]
    assert metadata["ros.encoding"] == "cdr"
    columns = {
        file.metadata.row_group(0).column(number).path_in_schema: file.metadata.row_group(0).column(number)
        for number in range(file.metadata.num_columns)
    }
    assert "BYTE_STREAM_SPLIT" in columns["linear_acceleration.x"].encodings
    assert "DELTA_BINARY_PACKED" in columns["log_time_ns"].encodings
    assert columns["log_time_ns"].is_stats_set
    assert columns["linear_acceleration.x"].compression == "ZSTD"


def test_what_is_compressed_already_is_not_compressed_again(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    manifest = extract(tmp_path / "a.bag", output=tmp_path / "lake")
    image = next(topic for topic in manifest.topics if topic.topic == "/camera/image/compressed")
    group = pq.ParquetFile(tmp_path / "lake" / image.files[0].path).metadata.row_group(0)
    data = next(
        group.column(number)
        for number in range(group.num_columns)
        if group.column(number).path_in_schema == "data"
    )
    assert data.compression == "UNCOMPRESSED"
    assert not data.is_stats_set


def test_duckdb_reads_it_with_hive_partitions(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    extract(tmp_path / "a.bag", output=tmp_path / "lake")
    query = f"""
        SELECT count(*), min(log_time_ns), max(linear_acceleration.x), any_value(drive_id)
        FROM read_parquet('{tmp_path}/lake/imu.data/**/*.parquet', hive_partitioning = true)
    """
    assert duckdb.sql(query).fetchall() == [(40, START_NS, 39.0, "drive_1")]


@pytest.mark.parametrize(
    ("drive_id", "guessed"), [("2026-11-20", datetime.date(2026, 11, 20)), ("20261120", 20261120)]
)
def test_duckdb_guesses_types_of_partitions_unless_told(
    tmp_path: Path, drive_id: str, guessed: object
) -> None:
    write_bag(tmp_path / "a.bag", messages=1)
    extract(tmp_path / "a.bag", output=tmp_path / "lake", drive_id=drive_id)
    read = (
        f"SELECT drive_id FROM read_parquet('{tmp_path}/lake/imu.data/**/*.parquet', hive_partitioning = true"
    )
    told = "hive_types = {'schema': VARCHAR, 'drive_id': VARCHAR}"
    assert duckdb.sql(f"{read})").fetchall() == [(guessed,)]
    assert duckdb.sql(f"{read}, {told})").fetchall() == [(drive_id,)]


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (ExtractOptions(("/imu/*",)), {"/imu/data"}),
        (ExtractOptions(("*",), ("/camera/*",)), {"/imu/data", "/gps/fix", "/status"}),
        (ExtractOptions(("/*a*",), ("*compressed",)), {"/imu/data", "/status"}),
        (ExtractOptions(("imu",)), set()),
    ],
)
def test_topics_are_chosen_by_globs_over_the_whole_name(
    tmp_path: Path, options: ExtractOptions, taken: set[str]
) -> None:
    write_bag(tmp_path / "a.bag")
    manifest = extract(tmp_path / "a.bag", output=tmp_path / "lake", options=options)
    assert {topic.topic for topic in manifest.topics} == taken
    assert manifest.bags[0].messages == 160
    assert manifest.bags[0].extracted == 40 * len(taken)
    assert manifest.bags[0].verified is True


def test_bags_of_two_formats_in_one_shard_share_tables_in_files_of_their_own(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.mcap")
    write_bag(tmp_path / "b.db3", start_ns=START_NS + 10**9)
    manifest = extract(tmp_path / "a.mcap", tmp_path / "b.db3", output=tmp_path / "lake")
    (imu,) = [topic for topic in manifest.topics if topic.topic == "/imu/data"]
    assert len(imu.files) == 2  # with and without publish time and sequence
    assert imu.rows == sum(file.rows for file in imu.files) == 80
    table = rows(tmp_path / "lake", "imu.data")
    assert table.num_rows == 80
    assert set(table["bag"].to_pylist()) == {"a.mcap", "b.db3"}
    assert table["publish_time_ns"].null_count == 40


def test_a_definition_that_changed_is_read_as_one_table_or_refused_by_name(tmp_path: Path) -> None:
    def bag(name: str, definition: str, start_ns: int) -> Path:
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(definition, "pkg/msg/Speed"))
        speed = store.types["pkg/msg/Speed"]
        message = speed(*[1 for field in dataclasses.fields(speed) if field.name != "__msgtype__"])
        with Rosbag1Writer(tmp_path / name) as writer:
            connection = writer.add_connection("/speed", "pkg/msg/Speed", typestore=store)
            writer.write(connection, start_ns, store.serialize_ros1(message, "pkg/msg/Speed"))
        return tmp_path / name

    old = bag("old.bag", "float64 value", START_NS)
    added = bag("added.bag", "float64 value\nint32 gear", START_NS + 1)
    broken = bag("broken.bag", "int32 value", START_NS + 2)
    extract(old, added, output=tmp_path / "lake")
    assert rows(tmp_path / "lake", "speed")["gear"].to_pylist() == [None, 1]
    extract(broken, output=tmp_path / "lake")
    with pytest.raises(
        DriftError, match=r"table speed: .* no table holds both .*: `value` float64 -> int32: a float became"
    ):
        rows(tmp_path / "lake", "speed")


def test_a_lake_says_which_drive_it_has_not(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag", messages=2)
    extract(tmp_path / "a.bag", output=tmp_path / "lake")
    lake = ros_to_parquet.open(str(tmp_path / "lake"))
    asked: list[Callable[[Any], object]] = [
        lambda drives: lake.topic("/imu/data", drives=drives).count_rows(),
        lambda drives: lake.dataset("imu.data", drives=drives).count_rows(),
        lambda drives: lake.tables(drives),
        lambda drives: [topic.name for topic in lake.topics(drives)],
        lambda drives: lake.quality(drives).count_rows(),
    ]
    for ask in asked:
        assert ask("drive_1") == ask(["drive_1"]) == ask(("drive_1",)) != 0
        with pytest.raises(KeyError, match=f"{tmp_path}/lake: no drive drive_2; there are drive_1"):
            ask(["drive_1", "drive_2"])
        with pytest.raises(KeyError, match="no drive car_7; there are drive_1"):
            ask("car_7")
    with pytest.raises(KeyError, match="no drive drive_2; there are drive_1"):
        lake.drive("drive_2")
    assert lake.drift("/imu/*", single=True) == lake.drift(["/imu/*"], single=True) != []


def test_a_place_without_a_lake(tmp_path: Path) -> None:
    lake = ros_to_parquet.open(str(tmp_path / "lake"))
    assert repr(lake) == f"Lake({str(tmp_path / 'lake')!r})"
    assert lake.drives() == lake.tables() == lake.topics() == []
    for drives in (None, ["drive_1"]):
        with pytest.raises(FileNotFoundError, match="no lake is there"):
            lake.topic("/imu/data", drives=drives)
    with pytest.raises(FileNotFoundError, match="no lake is there"):
        lake.drive("drive_1")


def test_a_topic_without_rows_is_said_to_have_none(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag", messages=1)
    write_many_topics(tmp_path / "b.bag", 1, type_name="std_msgs/msg/Bool", payload=b"", rounds=3)
    extract(tmp_path / "a.bag", tmp_path / "b.bag", output=tmp_path / "lake")
    lake = ros_to_parquet.open(str(tmp_path / "lake"))
    assert {topic.name: topic.rows for topic in lake.topics()}["/topic_0"] == 0
    with pytest.raises(KeyError, match="table topic_0 has no rows: 3 of 3 messages were rejected"):
        lake.topic("/topic_0")


def write_many_topics(bag: Path, topics: int, *, type_name: str, payload: bytes, rounds: int) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    with Rosbag1Writer(bag) as writer:
        connections = [
            writer.add_connection(f"/topic_{number}", type_name, typestore=store) for number in range(topics)
        ]
        for time_ns in range(rounds):
            for connection in connections:
                writer.write(connection, time_ns, payload)


@pytest.mark.parametrize(
    ("type_name", "payload", "limit"),
    [("std_msgs/msg/Empty", b"", "take"), ("std_msgs/msg/Bool", b"\1", "pending")],
)
def test_what_waits_to_become_rows_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_name: str, payload: bytes, limit: str
) -> None:
    """Of messages without payload, and of many topics with little each."""
    monkeypatch.setattr("ros_to_parquet.bag.blocks.MAX_BLOCK_MESSAGES", 10)
    appended = []
    append = parquet.TableWriters.append

    def watched(self: parquet.TableWriters, path: str, rows: pa.RecordBatch) -> None:
        appended.append(rows.num_rows)
        append(self, path, rows)

    monkeypatch.setattr(parquet.TableWriters, "append", watched)
    write_many_topics(tmp_path / "a.bag", 20, type_name=type_name, payload=payload, rounds=400)
    budget = dataclasses.replace(DEFAULT_BUDGET, **{limit: 4 << 10, "joined": 4 << 10})
    manifest = extract(tmp_path / "a.bag", output=tmp_path / "lake", budget=budget)
    assert sum(topic.rows for topic in manifest.topics) == sum(appended) == 8000
    assert max(appended) <= 300


# --- bags that are not whole -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bag", ".mcap", ".db3"])
def test_a_bag_cut_off_keeps_what_can_be_read(tmp_path: Path, suffix: str) -> None:
    bag = tmp_path / f"a{suffix}"
    write_bag(bag, messages=400)
    size = bag.stat().st_size
    os.truncate(bag, size * 6 // 10)
    manifest = extract(bag, output=tmp_path / "lake")
    assert manifest.bags[0].status is BagStatus.DAMAGED
    assert manifest.bags[0].damage
    kept = sum(topic.rows for topic in manifest.topics)
    assert kept > 1600 * 0.4
    commit = drive_manifest(tmp_path / "lake")
    assert commit.state is DriveState.DAMAGED
    assert bag.name in commit.problems[0]


def test_one_unreadable_bag_among_others_is_said_and_the_others_are_there(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    (tmp_path / "b.bag").write_bytes(b"")
    (tmp_path / "c.bag").write_bytes(b"#ROSRECORD V1.2\n" + bytes(100))
    manifest = extract(tmp_path / "a.bag", tmp_path / "b.bag", tmp_path / "c.bag", output=tmp_path / "lake")
    assert [bag.status for bag in manifest.bags] == [BagStatus.OK, BagStatus.UNREADABLE, BagStatus.UNREADABLE]
    commit = drive_manifest(tmp_path / "lake")
    assert commit.state is DriveState.DAMAGED
    assert commit.rows == 160
    assert "b.bag at offset 0: the file is empty (0 bytes)" in commit.problems[0]
    assert "rosbag filter" in commit.problems[1]
    assert run.exit_code(manifest) is ExitCode.OK


def test_rejected_messages_are_counted_with_offset_and_reason(tmp_path: Path) -> None:
    bag = tmp_path / "a.mcap"
    write_bag(bag)
    data = bytearray(bag.read_bytes())
    place = data.find(b"round 7\0")
    data[place - 4 : place] = (200).to_bytes(4, "little")  # a string longer than its message
    bag.write_bytes(data)
    manifest = extract(bag, output=tmp_path / "lake")
    (status,) = [topic for topic in manifest.topics if topic.topic == "/status"]
    assert (status.messages, status.rows, status.rejected) == (40, 39, 1)
    assert status.rejects[0].bag == "a.mcap"
    assert status.rejects[0].log_time_ns == START_NS + 7 * 10_000_000 + 3
    assert "data" in status.rejects[0].reason
    assert run.exit_code(manifest) is ExitCode.OK
    strict = dataclasses.replace(manifest, options=ExtractOptions(strict=True))
    assert run.exit_code(strict) is ExitCode.STRICT


@pytest.mark.skipif(not REAL_BAGS.is_dir(), reason="no folder of real bags beside the project")
@pytest.mark.parametrize(
    "bag",
    sorted(path for path in REAL_BAGS.rglob("*.*") if path.suffix in (".bag", ".mcap", ".db3")),
    ids=lambda path: path.name,
)
def test_real_bags_become_rows_and_counted_rejects(tmp_path: Path, bag: Path) -> None:
    manifest = extract(bag, output=tmp_path / "lake")
    (result,) = manifest.bags
    assert result.extracted == sum(topic.messages for topic in manifest.topics)
    assert result.verified in (True, None)
    written = {
        path.relative_to(tmp_path / "lake").as_posix(): pq.ParquetFile(path).metadata.num_rows
        for path in (tmp_path / "lake").glob("[!_]*/**/*.parquet")
    }
    assert written == {file.path: file.rows for topic in manifest.topics for file in topic.files}
    for topic in manifest.topics:
        assert topic.messages == topic.rows + topic.rejected
        assert topic.rows == sum(file.rows for file in topic.files)
        assert len(topic.rejects) == min(topic.rejected, contract.MAX_REASONS)
    if result.status is BagStatus.UNREADABLE:
        assert bag.stat().st_size == 0


# --- commits, leases, running again ------------------------------------------------------------------


def drive_manifest(output: Path, drive_id: str = "drive_1") -> contract.DriveManifest:
    commits = lake.read_drive(LocalStorage(), str(output), drive_id).commits
    return commits[-1]


def test_running_again_does_nothing_and_says_so(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    arguments = ("extract", tmp_path / "a.bag", "--output", tmp_path / "lake")
    assert cli(*arguments).returncode == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*.parquet")}
    again = cli(*arguments)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*.parquet")} == files


def test_a_new_bag_of_a_drive_is_added(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    write_bag(tmp_path / "bags" / "a.bag")
    extract(tmp_path / "bags", output=tmp_path / "lake")
    write_bag(tmp_path / "bags" / "b.bag", start_ns=START_NS + 10**9)
    plan = plan_for(tmp_path / "bags", output=tmp_path / "lake")
    assert plan.covered == ("a.bag",)
    assert [bag.name for bag in plan.bags] == ["b.bag"]
    run.run_shard(plan, 0, JOB)
    assert rows(tmp_path / "lake", "status").num_rows == 80


def test_a_run_that_was_killed_before_its_commit_is_committed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bag(tmp_path / "a.bag")
    with monkeypatch.context() as patch:
        patch.setattr(lake, "commit_drive", lambda *_: None)
        first = extract(tmp_path / "a.bag", output=tmp_path / "lake")
    assert lake.read_drive(LocalStorage(), str(tmp_path / "lake"), "drive_1").commits == ()
    write_bag(tmp_path / "b.bag", start_ns=START_NS + 10**9)
    plan = plan_for(tmp_path / "a.bag", tmp_path / "b.bag", output=tmp_path / "lake")  # no lease in the way
    assert plan.covered == ("a.bag",)
    assert drive_manifest(tmp_path / "lake").plan_id == first.plan_id


def test_what_is_replaced_is_said_once_it_is(tmp_path: Path) -> None:
    for number, name in enumerate(("a.bag", "b.bag", "c.bag")):
        write_bag(tmp_path / name, messages=10 * (number + 1), start_ns=START_NS + number * 10**9)
    (tmp_path / "bad.bag").write_bytes(b"no bag")
    output = tmp_path / "lake"

    def replaced(*names: str) -> list[str]:
        bags = [tmp_path / name for name in names]
        done = cli("extract", *bags, "--drive-id", "d", "--output", output, "--overwrite")
        assert done.returncode in (ExitCode.OK, ExitCode.BAG_UNREADABLE)
        return [line for line in done.stdout.splitlines() if line.startswith("Replaced")]

    assert replaced("bad.bag") == []
    assert replaced("a.bag", "bad.bag") == []  # of a bag that could not be read there was nothing
    assert cli("extract", tmp_path / "b.bag", "--drive-id", "d", "--output", output).returncode == 0
    assert replaced("bad.bag") == []  # which replaces nothing
    assert replaced("c.bag") == [f"Replaced: 120 rows from 2 bags that {output} had of drive d"]
    assert replaced("a.bag") == [f"Replaced: 120 rows from 1 bag that {output} had of drive d"]


def test_a_bag_that_cannot_be_read_is_not_tried_again(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    (tmp_path / "b.bag").write_bytes(b"")
    arguments = ("extract", tmp_path / "a.bag", tmp_path / "b.bag", "--drive-id", "d", "--output")
    assert cli(*arguments, tmp_path / "lake").returncode == 0
    again = cli(*arguments, tmp_path / "lake")
    assert again.returncode == 0
    assert (
        "! bag b.bag: not tried again, for an earlier run could read nothing of it: the file is"
        in again.stdout
    )
    assert "has 1 of 2 bags of drive d already, and the others cannot be read (--overwrite" in again.stdout
    assert (
        lake.read_drive(LocalStorage(), str(tmp_path / "lake"), "d").commits[-1].state is DriveState.DAMAGED
    )
    (tmp_path / "b.bag").unlink()
    write_bag(tmp_path / "b.bag", start_ns=START_NS + 10**9)  # as copied again, whole
    assert cli(*arguments, tmp_path / "lake").returncode == 0
    assert rows(tmp_path / "lake", "status").num_rows == 80


def test_a_drive_of_which_no_bag_can_be_read_fails_each_time(tmp_path: Path) -> None:
    (tmp_path / "b.bag").write_bytes(b"")
    for told in ("the file is empty (0 bytes)", "has 0 of 1 bags of drive b already, and the others cannot"):
        done = cli("extract", tmp_path / "b.bag", "--output", tmp_path / "lake")
        assert done.returncode == ExitCode.BAG_UNREADABLE
        assert told in done.stdout


def test_what_more_memory_may_read_is_tried_again(tmp_path: Path) -> None:
    """The reason says to raise the limit: whoever does must not be given what was found before."""
    write_bag(tmp_path / "a.bag")
    window = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=window).compressobj()
    data = stream.compress((tmp_path / "a.bag").read_bytes()) + stream.flush()
    (tmp_path / "a.bag.zst").write_bytes(data)
    for _ in range(2):
        left = extract(tmp_path / "a.bag.zst", output=tmp_path / "lake", budget=share_out(128 << 20))
        assert left.bags[0].status is BagStatus.UNREADABLE
        assert left.bags[0].damage[0].reason.endswith(": raise --memory-limit, or unpack it first")
    assert contract.unreadable_bags([left], ExtractOptions(), engine_version=__version__) == {}
    extract(tmp_path / "a.bag.zst", output=tmp_path / "lake")
    assert rows(tmp_path / "lake", "status").num_rows == 40


def test_a_bag_of_which_nothing_was_taken_is_taken_with_other_topics(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    extract(tmp_path / "a.bag", output=tmp_path / "lake", options=ExtractOptions(("/misspelt",)))
    extract(tmp_path / "a.bag", output=tmp_path / "lake", options=ExtractOptions(("/imu/*",)))
    assert rows(tmp_path / "lake", "imu.data").num_rows == 40


def test_strict_or_not_a_bag_is_extracted_once(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    extract(tmp_path / "a.bag", output=tmp_path / "lake")
    again = plan_for(tmp_path / "a.bag", output=tmp_path / "lake", options=ExtractOptions(strict=True))
    assert (again.bags, again.covered) == ((), ("a.bag",))


def test_rows_that_would_be_there_twice_are_refused(tmp_path: Path) -> None:
    bag, output = tmp_path / "a.bag", tmp_path / "lake"
    write_bag(bag)
    imu = ExtractOptions(("/imu/*",))
    extract(bag, output=output, options=imu)
    with pytest.raises(ShardError, match=r"rows of a\.bag are in the lake already.*--overwrite") as caught:
        plan_for(bag, output=output)
    assert caught.value.exit_code is ExitCode.USAGE
    bag.unlink()
    write_bag(bag, messages=7)
    with pytest.raises(ShardError, match=r"rows of a\.bag are in the lake already"):
        plan_for(bag, output=output, options=imu)
    assert rows(output, "imu.data").num_rows == 40
    extract(bag, output=output, overwrite=True)
    assert rows(output, "imu.data").num_rows == 7


def test_a_plan_that_was_replaced_is_not_taken_up_again(tmp_path: Path) -> None:
    """What it writes would be swept at once."""
    (tmp_path / "a.bag").write_bytes(b"")
    write_bag(tmp_path / "b.bag")
    first = plan_for(tmp_path / "a.bag", output=tmp_path / "lake")
    run.run_shard(first, 0, JOB)
    extract(tmp_path / "b.bag", output=tmp_path / "lake", overwrite=True)
    again = plan_for(tmp_path / "a.bag", output=tmp_path / "lake")
    assert [bag.name for bag in again.bags] == ["a.bag"]
    assert again.plan_id != first.plan_id
    assert run.run_shard(again, 0, JOB).bags[0].status is BagStatus.UNREADABLE
    record = lake.read_drive(LocalStorage(), str(tmp_path / "lake"), "drive_1")
    assert again.plan_id in {manifest.plan_id for manifest in record.manifests}


def test_overwrite_replaces_rows_and_removes_the_old_files(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    first = extract(tmp_path / "a.bag", output=tmp_path / "lake")
    second = extract(tmp_path / "a.bag", output=tmp_path / "lake", overwrite=True)
    assert second.replaces == (first.plan_id,)
    names = {path.name for path in (tmp_path / "lake").glob("[!_]*/**/*.parquet")}
    assert names == {f"{second.plan_id}-00000.parquet"}
    assert rows(tmp_path / "lake", "imu.data").num_rows == 40


def test_until_an_overwriting_plan_is_committed_readers_see_the_old_rows(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    write_bag(tmp_path / "b.bag", start_ns=START_NS + 10**9)
    first = extract(tmp_path / "a.bag", tmp_path / "b.bag", output=tmp_path / "lake")
    plan = plan_for(tmp_path / "a.bag", tmp_path / "b.bag", output=tmp_path / "lake", overwrite=True)
    two = dataclasses.replace(plan, shards=((contract.BagSlice(0),), (contract.BagSlice(1),)))
    run.run_shard(two, 0, JOB)
    half = rows(tmp_path / "lake", "status")
    assert half.num_rows == 80
    assert {path.name[:12] for path in (tmp_path / "lake").rglob("*.parquet")} == {
        first.plan_id,
        plan.plan_id,
    }
    run.run_shard(two, 1, JOB)
    assert rows(tmp_path / "lake", "status").to_pylist() == half.to_pylist()
    assert {path.name[:12] for path in (tmp_path / "lake").rglob("*.parquet")} == {plan.plan_id}


def test_orphans_of_a_killed_attempt_are_swept_by_the_commit(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    orphan = tmp_path / "lake" / "imu.data" / "schema=00000000" / "drive_id=drive_1" / "dead-00000.parquet"
    other_drive = orphan.parents[1] / "drive_id=drive_2" / "x-00000.parquet"
    for path in (orphan, other_drive):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PAR1")
    extract(tmp_path / "a.bag", output=tmp_path / "lake")
    assert not orphan.exists()
    assert other_drive.exists()


def test_another_runs_lease_stops_a_shard_and_names_that_run(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    plan = plan_for(tmp_path / "a.bag", output=tmp_path / "lake")
    other = contract.Lease(
        "drive_1", "feedfeedfeed", contract.Run("nightly", "scheduled__7"), "2026-01-01T00:00:00Z"
    )
    lease_path = tmp_path / "lake" / contract.lease_key("drive_1")
    lease_path.write_bytes(contract.to_json(other))
    with pytest.raises(
        ShardError, match="run 'scheduled__7' of DAG 'nightly' has it since 2026-01-01"
    ) as caught:
        run.run_shard(plan, 0, JOB)
    assert caught.value.exit_code is ExitCode.PLAN_REFUSED
    assert list((tmp_path / "lake").rglob("*.parquet")) == []
    with pytest.raises(ShardError, match="--take-over"):
        plan_for(tmp_path / "a.bag", output=tmp_path / "lake")
    lease_path.unlink()
    with pytest.raises(ShardError, match="no lease"):
        run.run_shard(plan, 0, JOB)


def test_a_shard_that_has_its_manifest_is_not_run_again(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    plan = plan_for(tmp_path / "a.bag", output=tmp_path / "lake")
    first = run.run_shard(plan, 0, JOB)
    (tmp_path / "a.bag").unlink()
    assert run.run_shard(plan, 0, JOB) == first


def test_the_last_shard_commits_the_drive_and_gives_the_lease_back(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    write_bag(tmp_path / "b.bag", start_ns=START_NS + 10**9)
    plan = plan_for(tmp_path / "a.bag", tmp_path / "b.bag", output=tmp_path / "lake")
    two = dataclasses.replace(plan, shards=((contract.BagSlice(0),), (contract.BagSlice(1),)))
    run.run_shard(two, 1, JOB)
    assert lake.read_drive(LocalStorage(), str(tmp_path / "lake"), "drive_1").commits == ()
    assert (tmp_path / "lake" / contract.lease_key("drive_1")).exists()
    run.run_shard(two, 0, JOB)
    commit = drive_manifest(tmp_path / "lake")
    assert (commit.state, commit.shards, commit.bags, commit.rows) == (DriveState.SUCCEEDED, 2, 2, 320)
    assert not (tmp_path / "lake" / contract.lease_key("drive_1")).exists()


def test_a_large_bag_can_be_shared_between_shards(tmp_path: Path) -> None:
    bag = tmp_path / "a.bag"
    write_bag(bag, messages=2000)
    plan = plan_for(bag, output=tmp_path / "lake")
    count = 3
    shards = tuple((contract.BagSlice(0, index, count),) for index in range(count))
    sliced = dataclasses.replace(plan, shards=shards)
    parts = [run.run_shard(sliced, number, JOB) for number in range(count)]
    assert [part.bags[0].messages for part in parts] != [8000, 0, 0]
    assert all(part.bags[0].verified for part in parts)
    table = rows(tmp_path / "lake", "status")
    assert table["data"].to_pylist() == [f"round {number}" for number in range(2000)]


# --- the process: exit codes -------------------------------------------------------------------------


def saved_plan(tmp_path: Path, bag: Path) -> tuple[Plan, Path, str]:
    plan = plan_for(bag, output=tmp_path / "lake")
    path = tmp_path / "lake" / contract.plan_key("drive_1", plan.plan_id)
    return plan, path, contract.sha256(path.read_bytes())


def test_run_takes_its_shard_from_the_array_index_and_the_index_map(tmp_path: Path) -> None:
    for number in range(3):
        write_bag(tmp_path / f"{number}.bag", start_ns=START_NS + number * 10**9)
    plan, path, _ = saved_plan(tmp_path, tmp_path)
    three = dataclasses.replace(plan, shards=tuple((contract.BagSlice(number),) for number in range(3)))
    path.write_bytes(contract.to_json(three))
    digest = contract.sha256(path.read_bytes())
    done = cli("run", "--plan", path, "--plan-sha256", digest, AWS_BATCH_JOB_ARRAY_INDEX="1")
    assert done.returncode == 0, done.stderr
    index_map = tmp_path / "generation-1.json"
    index_map.write_bytes(
        contract.to_json(contract.Generation(contract.CONTRACT_VERSION, plan.plan_id, 1, (0, 2)))
    )
    arguments = ("--index-map", index_map, "--index-map-sha256", contract.sha256(index_map.read_bytes()))
    done = cli("run", "--plan", path, "--plan-sha256", digest, *arguments, AWS_BATCH_JOB_ARRAY_INDEX="1")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "lake" / contract.manifest_folder("drive_1", plan.plan_id)
    manifests = sorted(each.name for each in folder.iterdir() if each.name.count(".") == 1)
    assert manifests == ["00001.json", "00002.json"]
    started = contract.from_json(
        contract.StartedRecord, (folder / "00002.started.json").read_bytes(), where="x"
    )
    assert started.shard == 2
    done = cli("run", "--plan", path, "--plan-sha256", digest, AWS_BATCH_JOB_ARRAY_INDEX="7")
    assert done.returncode == ExitCode.PLAN_REFUSED
    done = cli("run", "--plan", path)
    assert done.returncode == ExitCode.USAGE
    assert "--shard says which" in done.stderr


@pytest.mark.parametrize("name", ["AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ATTEMPT"])
@pytest.mark.parametrize("text", ["x", "-1", "1.0"])
def test_what_batch_would_not_set_is_a_usage_error(tmp_path: Path, name: str, text: str) -> None:
    write_bag(tmp_path / "a.bag")
    _, path, _ = saved_plan(tmp_path, tmp_path / "a.bag")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, text)
        with pytest.raises(ShardError, match=f"{name} is {text!r}; AWS Batch sets it") as caught:
            command_run(build_parser().parse_args(["run", "--plan", str(path)]))
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("break_it", "code", "said"),
    [
        ("hash", ExitCode.PLAN_REFUSED, "its SHA-256 is"),
        ("allow", ExitCode.PLAN_REFUSED, "is outside of what this deployment allows"),
        ("allow metadata", ExitCode.PLAN_REFUSED, "elsewhere/metadata.yaml is outside of what"),
        ("bag gone", ExitCode.INPUT_MISSING, "a.bag: no such file"),
        (
            "bag changed",
            ExitCode.INPUT_MISSING,
            "changed since it was planned; a retry would ask for what was planned: start a new run",
        ),
        ("bag empty", ExitCode.BAG_UNREADABLE, "the file is empty"),
        ("no lease", ExitCode.PLAN_REFUSED, "no lease"),
        ("no plan", ExitCode.INPUT_MISSING, "plan.json: no such file"),
    ],
)
def test_exit_codes_and_what_is_said(tmp_path: Path, break_it: str, code: ExitCode, said: str) -> None:
    bag = tmp_path / "a.bag"
    write_bag(bag)
    if break_it == "bag empty":
        bag.write_bytes(b"")
    plan, path, digest = saved_plan(tmp_path, bag)
    environment = {}
    match break_it:
        case "hash":
            digest = "0" * 64
        case "allow":
            environment["ROS_TO_PARQUET_ALLOW"] = f"s3://bucket/,{tmp_path}/lake"
        case "allow metadata":
            environment["ROS_TO_PARQUET_ALLOW"] = str(tmp_path)
            bags = (dataclasses.replace(plan.bags[0], metadata_uri="/elsewhere/metadata.yaml"),)
            path.write_bytes(contract.to_json(dataclasses.replace(plan, bags=bags)))
            digest = contract.sha256(path.read_bytes())
        case "bag gone":
            bag.unlink()
        case "bag changed":
            write_bag(tmp_path / "b.bag", messages=3)
            (tmp_path / "b.bag").replace(bag)
        case "no lease":
            (tmp_path / "lake" / contract.lease_key("drive_1")).unlink()
        case "no plan":
            path.unlink()
    done = cli("run", "--plan", path, "--plan-sha256", digest, **environment)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    for line in done.stderr.splitlines():
        json.loads(line)
    failed = tmp_path / "lake" / contract.failed_key("drive_1", plan.plan_id, 0)
    if break_it in ("bag gone", "bag changed", "no lease"):
        record = contract.from_json(contract.FailedRecord, failed.read_bytes(), where="x")
        assert record.exit_code == code
        assert said in record.reason


def test_an_output_that_vanishes_is_not_called_a_missing_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While bags are still read: a bucket that was deleted, an upload that a lifecycle rule ended."""

    def gone(upload: LocalUpload, data: Any) -> int:
        raise NotFoundError(f"{upload.uri}: NoSuchUpload")

    write_bag(tmp_path / "a.bag")
    plan = plan_for(tmp_path / "a.bag", output=tmp_path / "lake")
    budget = dataclasses.replace(DEFAULT_BUDGET, row_group=1, waiting=1, in_flight=1)
    with monkeypatch.context() as patch:
        patch.setattr(parquet.TableFile, "encode", lambda file, *_, **__: gone(file.upload, b""))
        with pytest.raises(ShardError, match=r"output: .*\.parquet: NoSuchUpload") as caught:
            run.run_shard(plan, 0, JOB, budget=budget)
    assert caught.value.exit_code is ExitCode.OUTPUT_FAILED
    assert extract(tmp_path / "a.bag", output=tmp_path / "lake").bags[0].status is BagStatus.OK


def test_a_bag_that_cannot_be_read_is_not_called_an_output_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: LocalSource, offset: int, length: int) -> bytes:
        raise StorageError(f"{source.name}: Input/output error")

    write_bag(tmp_path / "a.bag")
    plan = plan_for(tmp_path / "a.bag", output=tmp_path / "lake")
    monkeypatch.setattr(LocalSource, "read_at", broken)
    with pytest.raises(ShardError, match=r"bag .*a\.bag: Input/output error") as caught:
        run.run_shard(plan, 0, JOB)
    assert caught.value.exit_code is ExitCode.INPUT_MISSING


def test_an_output_that_cannot_be_there_is_said(tmp_path: Path, embedded_aws: EmbeddedAws) -> None:
    write_bag(tmp_path / "a.bag")
    done = cli(
        "extract", tmp_path / "a.bag", "--output", "s3://no-such-bucket/lake", **embedded_aws.environment()
    )
    assert done.returncode == ExitCode.OUTPUT_FAILED
    assert "output: s3://no-such-bucket/lake" in done.stderr
    done = cli("extract", tmp_path / "a.bag", "--output", tmp_path / "a.bag")
    assert done.returncode == ExitCode.OUTPUT_FAILED
    assert "Traceback" not in done.stderr


def test_sigterm_is_heeded_in_the_middle_of_a_request(tmp_path: Path) -> None:
    """S3's client takes whatever happens meanwhile for a fault of the network, and tries again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        endpoint = {"AWS_ENDPOINT_URL_S3": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k"}
        child = subprocess.Popen(
            [sys.executable, "-m", "ros_to_parquet", "info", "s3://bucket/a.bag"],
            env={**os.environ, **endpoint, "AWS_SECRET_ACCESS_KEY": "s"},
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1 << 16)
            child.send_signal(signal.SIGTERM)
            try:
                _, said = child.communicate(timeout=60)
            finally:
                child.kill()
    assert child.returncode == ExitCode.RETRY, said
    assert "ended by SIGTERM" in said


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_shard_leaves_nothing_visible_and_can_be_run_again(
    tmp_path: Path, kill: signal.Signals
) -> None:
    bag = tmp_path / "a.bag"
    write_bag(bag, messages=20_000)
    plan, path, digest = saved_plan(tmp_path, bag)
    started = tmp_path / "lake" / contract.started_key("drive_1", plan.plan_id, 0)
    child = subprocess.Popen(
        [sys.executable, "-m", "ros_to_parquet", "run", "--plan", str(path), "--plan-sha256", digest],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(kill)
    code = child.wait()
    assert code == (ExitCode.RETRY if kill is signal.SIGTERM else -signal.SIGKILL)
    assert list((tmp_path / "lake").rglob("*.parquet")) == []
    dead = tmp_path / "lake" / "status" / "schema=0" / "drive_id=drive_1" / ".partial-x"  # if it got so far
    dead.parent.mkdir(parents=True)
    dead.write_bytes(b"PAR1")
    assert cli("run", "--plan", path, "--plan-sha256", digest).returncode == 0
    assert rows(tmp_path / "lake", "status")["data"].to_pylist() == [f"round {n}" for n in range(20_000)]
    assert list((tmp_path / "lake").rglob(".partial-*")) == []


def test_extract_from_s3_to_s3(tmp_path: Path, embedded_aws: EmbeddedAws) -> None:
    bucket = f"run-{uuid.uuid4().hex[:12]}"
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    for name in ("a.bag", "b.mcap", "c.db3"):
        write_bag(tmp_path / name)
        s3.put_object(Bucket=bucket, Key=f"raw/drive/{name}", Body=(tmp_path / name).read_bytes())
    environment = embedded_aws.environment()
    done = cli("extract", f"s3://{bucket}/raw/drive", "--output", f"s3://{bucket}/lake", **environment)
    assert done.returncode == 0, done.stderr
    assert "480 rows from 3 bags" in done.stdout
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket, Prefix="lake/")["Contents"]]
    assert sum(key.endswith(".parquet") and not key.startswith("lake/_") for key in keys) == 4 * 3
    assert sum(key.startswith("lake/_quality/") for key in keys) == 1
    assert "lake/_leases/drive_id=drive.json" not in keys
    again = cli("extract", f"s3://{bucket}/raw/drive", "--output", f"s3://{bucket}/lake", **environment)
    assert "has all 3 bags of drive drive already" in again.stdout


def test_the_root_of_a_bucket_and_names_with_spaces(tmp_path: Path, embedded_aws: EmbeddedAws) -> None:
    bucket = f"run-{uuid.uuid4().hex[:12]}"
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    write_bag(tmp_path / "a.bag")
    s3.put_object(Bucket=bucket, Key="día 1 %20.bag", Body=(tmp_path / "a.bag").read_bytes())
    environment = embedded_aws.environment()
    output = f"s3://{bucket}/the lake ü"
    done = cli("extract", f"s3://{bucket}", "--output", output, "--drive-id", "d", **environment)
    assert done.returncode == 0, done.stderr
    query = f"import ros_to_parquet as r; print(r.open({output!r}).dataset('imu.data').count_rows())"
    counted = subprocess.run(
        [sys.executable, "-c", query],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert counted.stdout.strip() == "40"


def test_a_bag_that_is_named_twice_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bags").mkdir()
    monkeypatch.chdir(tmp_path / "bags")
    write_bag(tmp_path / "bags" / "a.bag")
    plan = make_plan(
        ["a.bag", "./a.bag", "../bags/a.bag", ".", f"file://{tmp_path}/bags/"],
        output="../lake",
        drive_id=None,
        options=ExtractOptions(),
        overwrite=False,
        take_over=False,
    )
    assert [bag.name for bag in plan.bags] == ["a.bag"]
    assert plan.output == str(tmp_path / "lake")


def test_a_folder_with_a_recording_twice_is_refused_until_told_which(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    write_bag(tmp_path / "bags" / "a.bag")
    write_bag(tmp_path / "bags" / "a.orig.bag")
    with pytest.raises(ShardError, match=r"a\.bag and a\.orig\.bag seem to be one recording") as caught:
        plan_for(tmp_path / "bags", output=tmp_path / "lake")
    assert caught.value.exit_code is ExitCode.USAGE
    plan = plan_for(tmp_path / "bags" / "a.orig.bag", output=tmp_path / "lake")
    assert [bag.name for bag in plan.bags] == ["a.orig.bag"]


def test_bags_in_folders_below_are_taken_if_that_is_asked_for(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    (bags / "day1" / "noon").mkdir(parents=True)
    for name in ("day1/a.bag", "day1/noon/b.bag"):
        write_bag(bags / name)
    (bags / "notes.txt").write_text("mine")
    below = f"{bags}/day1/a.bag, {bags}/day1/noon/b.bag: --recursive takes them"
    with pytest.raises(ShardError, match=rf"not bags: {bags}/notes\.txt; in folders below: {below}"):
        plan_for(bags, output=tmp_path / "lake")
    lake = bags / "lake"
    done = cli("extract", bags, "--output", lake, "--recursive", "--drive-id", "d")
    assert (done.returncode, "from 2 bags" in done.stdout) == (0, True), done.stderr
    assert set(rows(lake, "imu.data")["bag"].to_pylist()) == {"a.bag", "noon/b.bag"}
    write_bag(bags / "c.bag")
    assert [bag.name for bag in plan_for(bags, output=tmp_path / "lake").bags] == ["c.bag"]
    done = cli("extract", bags, "--output", lake)
    taken_not = [event["file"] for event in events(done, "not_taken")]
    assert taken_not == [f"{bags}/day1/a.bag", f"{bags}/day1/noon/b.bag"]
    assert [event["file"] for event in events(done, "not_a_bag")] == [f"{bags}/notes.txt"]


def test_an_overwriting_run_that_can_read_nothing_replaces_nothing(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    write_bag(tmp_path / "a.bag")
    extract(tmp_path / "a.bag", output=lake)
    before = rows(lake, "imu.data")
    (tmp_path / "a.bag").write_bytes(b"")
    plan = plan_for(tmp_path / "a.bag", output=lake, overwrite=True)
    run.run_shard(plan, 0, JOB)
    commit = ros_to_parquet.lake.read_commit(LocalStorage(), plan)
    assert commit is not None
    assert (commit.state, commit.replaces) == (DriveState.FAILED, ())
    assert commit.problems[0].startswith("nothing is replaced, for no bag could be read")
    assert rows(lake, "imu.data") == before
    (tmp_path / "a.bag").unlink()
    write_bag(tmp_path / "a.bag", messages=3)
    extract(tmp_path / "a.bag", output=lake, overwrite=True)
    assert len(rows(lake, "imu.data")) < len(before)


def test_places_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bag(tmp_path / "a.bag")
    for words in (["a.bag", "--output", ""], ["", "--output", "lake"], ["a.bag", "--output", "lake\udcfe"]):
        done = cli("extract", *words)
        assert (done.returncode, done.stderr.count("\n")) == (ExitCode.USAGE, 1), done.stderr
        assert "an empty path names no place" in done.stderr or "its name is not UTF-8" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.bag"]


def test_what_is_no_file_is_no_bag_and_no_lake(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.bag")
    for given in (tmp_path / "pipe.bag", Path("/dev/null")):
        with pytest.raises(NotFoundError, match=f"{given}: a pipe or device, not a file"):
            plan_for(given, output=tmp_path / "lake")
    write_bag(tmp_path / "a.bag")
    done = cli("extract", tmp_path / "a.bag", "--output", tmp_path / "a.bag")
    assert done.returncode == ExitCode.OUTPUT_FAILED
    assert "a part of its path is a file, not a folder" in done.stderr


def test_topics_that_are_not_there_are_said(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    done = cli("extract", tmp_path / "a.bag", "--output", tmp_path / "lake", "--topics", "/imu_data")
    assert "! topics: there is no message of a topic that matches '/imu_data'" in done.stdout
    done = cli("extract", tmp_path / "a.bag", "--output", tmp_path / "none", "--exclude", "*")
    assert "! topics: there is no message but of topics that are left out ('*')" in done.stdout


def test_names_that_are_not_ascii_or_not_text(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag")
    odd = os.fsencode(tmp_path) + b"/caf\xe9.bag"
    (tmp_path / "a.bag").rename(os.fsdecode(odd))
    extract(Path(os.fsdecode(odd)), output=tmp_path / "lake")
    assert set(rows(tmp_path / "lake", "imu.data")["bag"].to_pylist()) == {"caf\\xe9.bag"}
    write_bag(tmp_path / "東京.bag")
    with pytest.raises(ShardError, match="no drive id can be made of the name '東京': use --drive-id"):
        plan_for(tmp_path / "東京.bag", output=tmp_path / "lake", drive_id=None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match=r"empty: no bag there \(\.bag, \.mcap or \.db3"):
        plan_for(tmp_path / "empty", output=tmp_path / "lake")


def test_more_topics_than_open_files_are_usual(tmp_path: Path) -> None:
    write_many_topics(tmp_path / "a.bag", 200, type_name="std_msgs/msg/Bool", payload=b"\1", rounds=2)
    command = f"{sys.executable} -m ros_to_parquet extract {tmp_path}/a.bag --output {tmp_path}/lake"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -Sn 100; {command}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "400 rows" in done.stdout


def test_read_ahead_passes_errors_on_and_stops_its_thread(tmp_path: Path) -> None:
    from ros_to_parquet.bag import LocalFile, open_bag

    write_bag(tmp_path / "a.bag", messages=2000)
    limits: Any = {"budget_bytes": 1, "large_bytes": 1 << 20}
    closed = []

    def blocks() -> Any:
        try:
            yield from open_bag(LocalFile(tmp_path / "a.bag")).blocks()
        finally:
            closed.append(threading.current_thread().name)

    with ReadAhead(blocks(), memory_bytes, **limits) as ahead:
        assert len(next(iter(ahead)))
    assert closed == ["bag-reader"]
    assert "bag-reader" not in {thread.name for thread in threading.enumerate()}

    def broken() -> Any:
        yield from ()
        raise OSError("disk gone")

    with ReadAhead(broken(), memory_bytes, **limits) as ahead, pytest.raises(OSError, match="disk gone"):
        list(ahead)


def test_of_small_bags_few_are_open_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        write_bag(tmp_path / f"{number:02d}.bag")
    bags = sorted(tmp_path.glob("*.bag"))
    plan = plan_for(*bags, output=tmp_path / "lake", options=ExtractOptions(include_topics=("/none",)))
    opened: list[str] = []

    def open_noted(source: Any, **options: Any) -> Any:
        opened.append(source.name)
        return bag.open_bag(source, **options)

    monkeypatch.setattr(reading, "open_bag", open_noted)
    budget = dataclasses.replace(DEFAULT_BUDGET, read_ahead=3 << 20)
    most = 3 + 2  # of a MiB and their bytes each, the one that is too much, and the one that has been taken
    with reading.read_ahead(plan, 0, budget) as items:
        done = 0
        for item in items:
            if isinstance(item, reading.ReadBag):
                time.sleep(0.1)
                assert len(opened) - done <= most
                done += 1
    assert done == len(opened) == len(bags)


@pytest.mark.parametrize("small_bytes", [0, 1 << 20])
def test_the_next_bag_is_opened_ahead_behind_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(reading, "_SMALL_BAG_BYTES", small_bytes)
    for name in ("a", "b"):
        write_bag(tmp_path / f"{name}.bag")
    plan = plan_for(tmp_path / "a.bag", tmp_path / "b.bag", output=tmp_path / "lake")
    opened: list[str] = []

    def open_noted(source: Any, **options: Any) -> Any:
        opened.append(Path(source.name).stem)
        return bag.open_bag(source, **options)

    monkeypatch.setattr(reading, "open_bag", open_noted)
    kinds = []
    with reading.read_ahead(plan, 0, DEFAULT_BUDGET) as items:
        for item in items:
            kinds.append(type(item).__name__)
            if isinstance(item, reading.ReadBag) and item.opened.place == 0:
                patience = time.monotonic() + (60 if small_bytes else 0.2)
                while len(opened) == 1 and time.monotonic() < patience:
                    time.sleep(0.01)
                assert opened == (["a", "b"] if small_bytes else ["a"])
    assert opened == ["a", "b"]
    assert [kind for kind, _ in itertools.groupby(kinds)] == ["OpenedBag", "MessageBlock", "ReadBag"] * 2


def test_info_prints_topics_types_counts_times_and_compression(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.mcap")
    done = cli("info", tmp_path / "a.mcap")
    assert done.returncode == 0, done.stderr
    for said in (
        "mcap",
        "160 (index says 160)",
        "/imu/data",
        "sensor_msgs/msg/Imu",
        "2023-11-14T22:13:20.123456",
    ):
        assert said in done.stdout
    as_json = json.loads(cli("info", tmp_path / "a.mcap", "--json").stdout)
    assert as_json["messages"] == 160
    assert {topic["topic"]: topic["messages"] for topic in as_json["topics"]} == dict.fromkeys(TOPICS, 40)
    missing = cli("info", tmp_path / "nothing.bag")
    assert missing.returncode == ExitCode.INPUT_MISSING
    assert "nothing.bag: no such file" in missing.stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    write_many_topics(tmp_path / "a.bag", 2000, type_name="std_msgs/msg/Empty", payload=b"", rounds=1)
    shell = f"{sys.executable} -m ros_to_parquet info {tmp_path}/a.bag | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/a.bag\n", "")


def test_without_the_engine_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['numpy'] = None; from ros_to_parquet import cli; cli.main(['info', 'a.bag'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'ros-to-parquet[engine]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_progress_is_shown_on_a_terminal(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag", messages=2000)
    for arguments in (f"info {tmp_path}/a.bag", f"extract {tmp_path}/a.bag --output {tmp_path}/lake"):
        shown = subprocess.run(
            [
                "script",
                "-qec",
                f"stty rows 30 cols 100; {sys.executable} -m ros_to_parquet {arguments}",
                "/dev/null",
            ],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        assert re.search(r"\d+%\|.*B/s", shown), shown


def test_time_columns_round_down_and_keep_the_exact_value() -> None:
    from ros_to_parquet import parquet

    times = np.array([0, 1, 999, 1000, 1_999, -1], dtype=np.int64)
    assert parquet.time_column(times).cast(pa.int64()).to_pylist() == [0, 0, 0, 1, 1, -1]
    assert parquet.int64_column(times).to_pylist() == times.tolist()


def test_an_extract_without_rows_says_why_and_names_no_files(tmp_path: Path) -> None:
    (tmp_path / "a.bag").write_bytes(b"")
    done = cli("extract", tmp_path / "a.bag", "--output", tmp_path / "lake")
    assert done.returncode == ExitCode.BAG_UNREADABLE
    said = done.stdout.splitlines()
    assert said[0].startswith("! bag a.bag at offset 0: the file is empty (0 bytes)")
    assert said[1].startswith("0 rows from 1 bag, 0.0 MB")
    assert len(said) == 2


def test_counts_are_held_against_the_index_topic_by_topic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ros_to_parquet.bag.rosbag1 import Rosbag1Reader

    promised = Rosbag1Reader.expected_counts

    def shifted(reader: Rosbag1Reader) -> dict[int, int] | None:
        counts = dict(promised(reader) or {})
        first, second, *_ = sorted(counts)
        counts[first] += 1
        counts[second] -= 1
        return counts

    monkeypatch.setattr(Rosbag1Reader, "expected_counts", shifted)
    write_bag(tmp_path / "a.bag")
    (result,) = extract(tmp_path / "a.bag", output=tmp_path / "lake").bags
    assert result.verified is False
    assert result.status is BagStatus.DAMAGED
    assert result.messages == result.expected_messages == 160
    assert result.damage[-1].reason == (
        "its index promises other counts: /imu/data 41 (40 found), /gps/fix 39 (40 found)"
    )


@pytest.mark.parametrize("make", [simple_ros1, simple_mcap])
def test_the_manifest_says_what_was_not_read(
    tmp_path: Path, make: Callable[..., tuple[bytes, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("READ_BYTES", 4096), ("HEAD_BYTES", 0), ("TAIL_BYTES", 0)):
        monkeypatch.setattr(source, name, size)
    monkeypatch.setattr(chunked, "GAP_BYTES", 0)
    data, messages = make(chunks=200)
    (tmp_path / "x.bag").write_bytes(data)
    manifest = extract(
        tmp_path / "x.bag", output=tmp_path / "lake", options=ExtractOptions(include_topics=("/none",))
    )
    (bag,) = manifest.bags
    assert (bag.status, bag.verified) == (BagStatus.OK, True)
    assert bag.messages == bag.unread == bag.expected_messages == len(messages)
    assert bag.bytes_read == manifest.bytes_read < len(data)


def test_a_recording_that_was_not_closed_is_read_where_it_is_named(tmp_path: Path) -> None:
    write_bag(tmp_path / "x.bag")
    data, messages = simple_ros1(indexed=False)
    (tmp_path / "y.bag.active").write_bytes(data[: data.rindex(b"payload")])
    plan = plan_for(tmp_path, output=tmp_path / "lake")
    assert [bag.name for bag in plan.bags] == ["x.bag"]
    assert plan.ignored == (str(tmp_path / "y.bag.active"),)
    (tmp_path / "x.bag").unlink()
    with pytest.raises(ShardError, match=r"y\.bag\.active; a \.bag\.active may be .* name the file itself"):
        plan_for(tmp_path, output=tmp_path / "lake")
    plan = plan_for(tmp_path / "y.bag.active", output=tmp_path / "lake", drive_id=None)
    assert (plan.drive_id, plan.bags[0].name, plan.bags[0].format) == ("y", "y.bag.active", "rosbag1")
    (bag,) = run.run_shard(plan, 0, JOB).bags
    assert (bag.status, bag.extracted) == (BagStatus.DAMAGED, len(messages) - 1)
