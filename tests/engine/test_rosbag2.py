"""rosbag2's folders and SQLite's files, from listing to manifest."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import zstandard
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ros_to_parquet import contract
from ros_to_parquet.contract import BagStatus, ExitCode
from ros_to_parquet.errors import ShardError
from ros_to_parquet.info import read_info
from tests.engine.sample_bags import START_NS
from tests.engine.test_run import cli, drive_manifest, extract, plan_for, rows

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

RECORDER = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA wal_autocheckpoint = 0")
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    text = f"message {number}".encode() + b"\\0"
    data = b"\\0\\1\\0\\0" + len(text).to_bytes(4, "little") + text
    row = (int(sys.argv[4]) + number, data)
    database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)", row)
os._exit(9)  # as if it were killed: nothing is closed
"""


def make_database(path: Path) -> Path:
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)"
    )
    database.execute(
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)"
    )
    database.execute("CREATE INDEX timestamp_idx ON messages (timestamp ASC)")
    database.execute("INSERT INTO topics VALUES(1, '/status', 'std_msgs/msg/String', 'cdr')")
    database.commit()
    database.close()
    return path


def record(path: Path, first: int, last: int) -> None:
    """Adds messages as a recorder that is killed does."""
    words = [sys.executable, "-c", RECORDER, str(path), str(first), str(last), str(START_NS)]
    assert subprocess.run(words, check=False).returncode == 9


def texts(lake: Path) -> list[str]:
    found: list[str] = rows(lake, "status").column("data").to_pylist()
    return found


def add(path: Path, count: int, *, index: bool = True, first: int = 0) -> Path:
    """Messages in a database that is closed; without an index and with a gap in the rows' numbers, so that
    nothing in it tells how many there were."""
    database = sqlite3.connect(make_database(path))
    rows = [(START_NS + first + number, message(first + number)) for number in range(count)]
    database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)", rows)
    if not index:
        database.execute("DROP INDEX timestamp_idx")
        database.execute("UPDATE messages SET id = 1000 WHERE id = (SELECT max(id) FROM messages)")
    database.commit()
    database.close()
    return path


def message(number: int) -> bytes:
    text = f"message {number}".encode() + b"\0"
    return b"\0\1\0\0" + len(text).to_bytes(4, "little") + text


def metadata(files: dict[str, int | None], *, total: int, version: int = 9, topic: str = "/status") -> str:
    """A metadata.yaml of a recording of one topic; with counts by file where they are given."""
    lines = [
        "rosbag2_bagfile_information:",
        f"  version: {version}",
        "  storage_identifier: sqlite3",
        "  relative_file_paths:",
        *(f"    - {name}" for name in files),
        "  duration:",
        "    nanoseconds: 5",
        f"  message_count: {total}",
        "  topics_with_message_count:",
        "    - topic_metadata:",
        f"        name: {topic}",
        "        type: std_msgs/msg/String",
        "        serialization_format: cdr",
        '        offered_qos_profiles: "- history: 3\\n  depth: 0"',
        f"      message_count: {total}",
        '  compression_format: ""',
        '  compression_mode: ""',
    ]
    if any(count is not None for count in files.values()):
        lines.append("  files:")
        for name, count in files.items():
            lines += [f"    - path: {name}", f"      message_count: {count}"]
    return "\n".join(lines) + "\n"


def results(folder: Path, tmp_path: Path) -> dict[str, contract.BagResult]:
    """What became of the bags of a folder, by file name."""
    return {Path(bag.name).name: bag for bag in extract(folder, output=tmp_path / "lake").bags}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "listed",
    [
        ("run_0.db3", "run_1.db3", "run_2.db3", "run_3.db3"),
        ("run/run_0.db3", "run/run_1.db3", "run/run_2.db3", "run/run_3.db3"),  # before version 4
        ("run_0.db3.zstd", "run_1.db3.zstd", "run_2.db3.zstd", "run_3.db3.zstd"),  # decompressed meanwhile
    ],
)
def test_a_file_that_is_not_there_is_said_once_and_one_that_is_not_listed_is_read(
    folder: Path, tmp_path: Path, listed: tuple[str, ...]
) -> None:
    for number in (0, 2, 7):
        add(folder / f"run_{number}.db3", 10, first=10 * number)
    (folder / "metadata.yaml").write_text(metadata(dict.fromkeys(listed), total=40))
    found = results(folder, tmp_path)
    assert [each.reason for each in found["run_0.db3"].damage] == [
        "run_1.db3 of the same recording, which metadata.yaml lists, is not there",
        "run_3.db3 of the same recording, which metadata.yaml lists, is not there",
    ]
    assert found["run_2.db3"].damage == found["run_7.db3"].damage == ()
    assert [each.remarks for each in found.values()] == [
        (), (), ("its folder's metadata.yaml does not list it",)
    ]  # fmt: skip
    assert len(texts(tmp_path / "lake")) == 30
    commit = drive_manifest(tmp_path / "lake")
    assert commit.state == "damaged" and len(commit.problems) == 3
    assert commit.problems[2] == "bag run_7.db3: its folder's metadata.yaml does not list it"


def test_files_that_are_done_or_compressed_are_there(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.yaml").write_text(
        metadata(dict.fromkeys(f"run_{number}.db3" for number in range(3)), total=30)
    )
    add(folder / "run_0.db3", 10)
    plain = folder / "run_1.db3"
    add(plain, 10, first=10)
    (folder / "run_1.db3.zstd").write_bytes(zstandard.compress(plain.read_bytes()))
    plain.unlink()
    first = results(folder, tmp_path)
    assert [each.reason for each in first["run_0.db3"].damage] == [
        "run_2.db3 of the same recording, which metadata.yaml lists, is not there"
    ]
    add(folder / "run_2.db3", 10, first=20)
    second = results(folder, tmp_path)
    assert list(second) == ["run_2.db3"] and second["run_2.db3"].status is BagStatus.OK


@pytest.mark.parametrize("files", [{"run_0.db3": None}, {"run_0.db3": 10, "run_1.db3": 5}])
@pytest.mark.parametrize("rows", [10, 9, 11])
def test_metadata_tells_where_the_bag_itself_does_not(
    folder: Path, tmp_path: Path, files: dict[str, int | None], rows: int
) -> None:
    for name, count in files.items():
        add(folder / name, rows if name == "run_0.db3" else count or 0, index=False)
    (folder / "metadata.yaml").write_text(metadata(files, total=15 if len(files) == 2 else 10))
    found = results(folder, tmp_path)["run_0.db3"]
    assert (found.messages, found.expected_messages, found.verified) == (rows, 10, rows == 10)
    which = "10" if len(files) == 2 else "/status 10"
    reasons = [f"its folder's metadata.yaml says other counts: {which} ({rows} found)"]
    assert [each.reason for each in found.damage] == ([] if rows == 10 else reasons)


def test_without_metadata_such_a_bag_is_unverified(folder: Path, tmp_path: Path) -> None:
    add(folder / "run_0.db3", 10, index=False)
    assert results(folder, tmp_path)["run_0.db3"].verified is None


def test_a_bag_that_is_whole_by_its_own_index_is_believed(folder: Path, tmp_path: Path) -> None:
    add(folder / "run_0.db3", 10)
    (folder / "metadata.yaml").write_text(metadata({"run_0.db3": 12}, total=12, topic="/other"))
    found = results(folder, tmp_path)["run_0.db3"]
    assert (found.verified, found.expected_messages, found.status) == (True, 10, BagStatus.OK)
    (remark,) = found.remarks
    assert remark.startswith("its folder's metadata.yaml says other counts than the bag itself: ")
    assert remark.endswith(": /other 12 (0 found), /status 0 (10 found)")
    commit = drive_manifest(tmp_path / "lake")
    assert commit.state == "succeeded" and len(commit.problems) == 1


@pytest.mark.parametrize(
    "text", ["", "a: [b", "- 1", "rosbag2_bagfile_information:\n  version: 5\n  files: 3\n"]
)
def test_metadata_that_says_nothing_does_no_harm(folder: Path, tmp_path: Path, text: str) -> None:
    for number in (0, 1):
        add(folder / f"run_{number}.db3", 10)
    (folder / "metadata.yaml").write_text(text)
    found = results(folder, tmp_path)
    assert [each.status for each in found.values()] == [BagStatus.OK] * 2
    remarks = found["run_0.db3"].remarks
    assert found["run_1.db3"].remarks == ()
    if "version" in text:
        assert remarks == ()
    else:
        assert remarks[0].startswith("its folder's metadata.yaml cannot be read")


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("version", [8, 9])
def test_folders_as_rosbags_writes_them(
    tmp_path: Path, plugin: StoragePlugin, version: Literal[8, 9]
) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(tmp_path / "run", version=version, storage_plugin=plugin) as writer:
        for topic in ("/a", "/b"):
            connection = writer.add_connection(topic, "std_msgs/msg/String", typestore=store)
            for number in range(20):
                writer.write(connection, START_NS + number, message(number))
    (found,) = results(tmp_path / "run", tmp_path).values()
    assert (found.messages, found.verified, found.status, found.remarks) == (40, True, BagStatus.OK, ())


def test_a_recording_that_was_killed_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    bag = make_database(folder / "run_0.db3")
    record(bag, 0, 50)
    (folder / "run_1.db3-wal").write_bytes(b"without its database")
    manifest = extract(folder, output=tmp_path / "lake")
    assert texts(tmp_path / "lake") == [f"message {number}" for number in range(50)]
    (result,) = manifest.bags
    assert (result.messages, result.verified, result.status) == (50, True, BagStatus.DAMAGED)
    assert result.damage[0].reason.startswith("the bag was never closed")
    plan = plan_for(folder, output=tmp_path / "lake")
    assert plan.shards == () and plan.ignored == (str(folder / "run_1.db3-wal"),)

    assert read_info(str(bag)).messages == 50
    record(bag, 50, 60)
    with pytest.raises(ShardError, match=r"rows of run_0\.db3 are in the lake already, of other content"):
        plan_for(folder, output=tmp_path / "lake")
    extract(folder, output=tmp_path / "lake", overwrite=True)
    assert len(texts(tmp_path / "lake")) == 60


def test_a_log_that_changed_or_is_elsewhere_is_refused(tmp_path: Path) -> None:
    bag = make_database(tmp_path / "a.db3")
    record(bag, 0, 5)
    plan = plan_for(bag, output=tmp_path / "lake")
    path = tmp_path / "lake" / contract.plan_key("drive_1", plan.plan_id)
    elsewhere = dataclasses.replace(
        plan.bags[0], beside=(contract.FileBeside("/elsewhere/a.db3-wal", 9, ""),)
    )
    other = tmp_path / "lake" / "other.json"
    other.write_bytes(contract.to_json(dataclasses.replace(plan, bags=(elsewhere,))))
    done = cli("run", "--plan", other, "--shard", "0", ROS_TO_PARQUET_ALLOW=str(tmp_path))
    assert done.returncode == ExitCode.PLAN_REFUSED
    assert "/elsewhere/a.db3-wal is outside of what" in done.stderr
    record(bag, 5, 6)
    done = cli("run", "--plan", path, "--shard", "0")
    assert done.returncode == ExitCode.INPUT_MISSING
    assert "a.db3-wal: changed since it was planned" in done.stderr


def test_databases_on_s3_are_read_by_ranges(tmp_path: Path, embedded_aws: EmbeddedAws) -> None:
    bucket = f"db3-{uuid.uuid4().hex[:12]}"
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    bag = make_database(tmp_path / "a.db3")
    database = sqlite3.connect(bag)
    database.execute("INSERT INTO topics VALUES(2, '/image', 'sensor_msgs/msg/Image', 'cdr')")
    database.executemany(
        "INSERT INTO messages(topic_id, timestamp, data) VALUES(2, ?, zeroblob(3000000))",
        [(START_NS - 100 + number,) for number in range(20)],
    )
    database.commit()
    database.close()
    record(bag, 0, 50)
    for path in (bag, tmp_path / "a.db3-wal"):
        s3.put_object(Bucket=bucket, Key=f"drive/{path.name}", Body=path.read_bytes())
    environment = embedded_aws.environment()
    lake = tmp_path / "lake"
    done = cli(
        "extract", f"s3://{bucket}/drive", "--output", lake, "--drive-id", "drive_1",
        "--topics", "/status", **environment,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    assert texts(lake) == [f"message {number}" for number in range(50)]
    commit = drive_manifest(lake)
    assert commit.bytes_read < bag.stat().st_size / 4
    done = cli("info", f"s3://{bucket}/drive/a.db3", **environment)
    assert done.returncode == ExitCode.OK and "messages     70 (index says 70)" in done.stdout
