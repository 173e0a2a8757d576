"""rosbag2's folders and SQLite's files, from listing to manifest."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ros_to_parquet import contract
from ros_to_parquet.contract import BagStatus, ExitCode
from ros_to_parquet.info import read_info
from ros_to_parquet.run import ShardError
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
