"""Every row once, whenever the engine is killed: see `tests.engine.kill_runner`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ros_to_parquet
from ros_to_parquet import contract, local_plan, run
from ros_to_parquet.cli import main
from ros_to_parquet.contract import BagSlice, ExtractOptions, Plan, PlannedBag, Run
from ros_to_parquet.parquet import TableWriters
from ros_to_parquet.storage import TransientError, open_storage
from tests.engine.bag.bag_bytes import McapFile, mcap_attachment, mcap_channel, mcap_message, mcap_schema
from tests.engine.kill_runner import Job, RefusedError, Rows, Trial
from tests.engine.sample_bags import START_NS, TOPICS, write_bag
from tests.engine.test_images import STORE, picture, raw, write

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

ROUNDS = 12
BLOBS = 8
BLOB_BYTES = 1_500_000
"""Four of them are more than a part of an upload here."""


@dataclass(frozen=True)
class Drive:
    """``options`` are those of the plan, for the command line."""

    bags: tuple[Path, ...]
    plan: Plan
    expected: Rows
    options: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """Of two bags and three shards: five topics, two attachments."""
    folder = tmp_path_factory.mktemp("bags")
    rounds, blobs = folder / "rounds.bag", folder / "blobs.mcap"
    write_bag(rounds, messages=ROUNDS)
    blobs.write_bytes(_blobs())
    shards = ((BagSlice(0),), (BagSlice(1, 0, 2),), (BagSlice(1, 1, 2),))
    plan = _plan(folder, {rounds: "rosbag1", blobs: "mcap"}, shards, ExtractOptions())
    expected = {
        contract.table_name(topic): [START_NS + number * 10_000_000 + offset for number in range(ROUNDS)]
        for offset, topic in enumerate(TOPICS)
    }
    return Drive((rounds, blobs), plan, {**expected, "blob": [START_NS + number for number in range(BLOBS)]})


def _plan(
    folder: Path, kinds: dict[Path, str], shards: tuple[tuple[BagSlice, ...], ...], options: ExtractOptions
) -> Plan:
    bags = []
    for path, kind in kinds.items():
        info = open_storage(str(path)).head(str(path))
        bags.append(PlannedBag(str(path), path.name, kind, info.size_bytes, info.etag, path.name))
    asked = Run("dag", "run")
    return Plan(
        contract_version=contract.CONTRACT_VERSION,
        plan_id=contract.make_plan_id(asked, "d"),
        run=asked,
        drive_id="d",
        source=str(folder),
        output="",
        options=options,
        bags=tuple(bags),
        shards=shards,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """Of two bags and two shards: a camera whose pictures become files and videos, two of one log time."""
    folder = tmp_path_factory.mktemp("pictures")
    expected: dict[str, list[int]] = {"cam": [], "status": []}
    for name in ("a.bag", "b.bag"):
        begun_ns = START_NS + len(expected["cam"]) * 10**9
        times = [begun_ns, begun_ns + 10**8, begun_ns + 10**8]
        expected["cam"] += times
        expected["status"].append(begun_ns)
        messages = [(time_ns, raw(picture(number))) for number, time_ns in enumerate(times)]
        status = STORE.types["std_msgs/msg/String"]("ok")
        write(folder / name, {"/cam": messages, "/status": [(begun_ns, status)]})
    bags = (folder / "a.bag", folder / "b.bag")
    rule = "png_files,video=h264"
    options = ExtractOptions(images=(contract.parse_image_rule("/cam", rule),))
    plan = _plan(folder, dict.fromkeys(bags, "rosbag1"), ((BagSlice(0),), (BagSlice(1),)), options)
    return Drive(bags, plan, expected, ("--images", f"/cam={rule}"))


def _blobs() -> bytes:
    """Noise in chunks of two messages, and two attachments."""
    rng = np.random.default_rng(7)
    file = McapFile()
    file.add(file.define(mcap_schema(1, "std_msgs/msg/UInt8MultiArray", "", ""), mcap_channel(1, 1, "/blob")))
    file.add(mcap_attachment("calibration.yaml", b"fx: 500\n"))
    for first in range(0, BLOBS, 2):
        content = b"".join(
            mcap_message(1, number, START_NS + number, _blob(rng)) for number in (first, first + 1)
        )
        file.chunk(content, {1: 2})
    file.add(mcap_attachment("map.bin", rng.bytes(100_000)))
    return file.bytes()


def _blob(rng: np.random.Generator) -> bytes:
    return b"\0\1\0\0" + bytes(8) + BLOB_BYTES.to_bytes(4, "little") + rng.bytes(BLOB_BYTES)


FLOWS = ("shards", "extract", "overwrite")
RIVALS = [
    ("shards", "same"),
    ("shards", "other"),
    ("shards", "over"),
    ("extract", "same"),
    ("extract", "over"),
]


@dataclass(frozen=True)
class Place:
    """Where lakes are made, and the moments at which a process can die there."""

    base: str
    moments: tuple[str, ...]
    environment: dict[str, str]


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return Place(str(tmp_path / "lakes"), ("before", "within"), {})
    aws: EmbeddedAws = request.getfixturevalue("embedded_aws")
    bucket = f"killed-{uuid.uuid4().hex[:12]}"
    aws.client("s3").create_bucket(Bucket=bucket)
    return Place(f"s3://{bucket}", ("before", "within", "after"), aws.environment())


def sweep(
    drive: Drive, flow: str, place: Place, tmp_path: Path, *, rival: str = "", samples: int = 0
) -> dict[str, Any]:
    """The report of a `Job`; nothing may have gone wrong."""
    job = Job(
        flow=flow,
        base=place.base,
        scratch=str(tmp_path / "scratch"),
        bags=[str(bag) for bag in drive.bags],
        plan=contract.to_json(drive.plan).decode(),
        expected=drive.expected,
        moments=("before",) if rival else place.moments,
        rival=rival,
        samples=samples,
        options=drive.options,
    )
    path = tmp_path / "job.json"
    path.write_text(json.dumps(asdict(job)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.kill_runner", str(path)],
        env={**os.environ, **place.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["problems"] == []
    return report


@pytest.mark.parametrize(
    ("place", "flow"), [("s3", "shards"), ("disk", "extract"), ("disk", "overwrite")], indirect=["place"]
)
def test_killed_here_and_there(drive: Drive, tmp_path: Path, place: Place, flow: str) -> None:
    report = sweep(drive, flow, place, tmp_path, samples=2)
    assert sum(report["deaths"].values()) >= 1


@pytest.mark.long
@pytest.mark.parametrize("flow", FLOWS)
def test_killed_at_every_change(drive: Drive, tmp_path: Path, place: Place, flow: str) -> None:
    report = sweep(drive, flow, place, tmp_path)
    assert sum(report["deaths"].values()) >= report["changes"] - 2, "threads take turns: one more or less"


@pytest.mark.parametrize(("place", "flow"), [("s3", "shards"), ("disk", "overwrite")], indirect=["place"])
def test_killed_among_pictures(pictures: Drive, tmp_path: Path, place: Place, flow: str) -> None:
    report = sweep(pictures, flow, place, tmp_path, samples=1)
    assert sum(report["deaths"].values()) >= 1


@pytest.mark.long
@pytest.mark.parametrize("flow", FLOWS)
def test_killed_at_every_change_among_pictures(
    pictures: Drive, tmp_path: Path, place: Place, flow: str
) -> None:
    report = sweep(pictures, flow, place, tmp_path)
    assert sum(report["deaths"].values()) >= report["changes"] - 2


@pytest.mark.long
@pytest.mark.parametrize(("flow", "rival"), RIVALS)
def test_overtaken_at_every_change_among_pictures(
    pictures: Drive, tmp_path: Path, place: Place, flow: str, rival: str
) -> None:
    report = sweep(pictures, flow, place, tmp_path, rival=rival)
    assert sum(report["deaths"].values()) >= report["changes"] - 2


def whole_bags(drive: Drive) -> Drive:
    """A shard a bag: a run that knows nothing of slices can take it over."""
    return replace(drive, plan=replace(drive.plan, shards=((BagSlice(0),), (BagSlice(1),))))


@pytest.mark.parametrize(("place", "rival"), [("disk", "other"), ("s3", "same")], indirect=["place"])
def test_overtaken_here_and_there(drive: Drive, tmp_path: Path, place: Place, rival: str) -> None:
    report = sweep(whole_bags(drive), "shards", place, tmp_path, rival=rival, samples=2)
    assert sum(report["deaths"].values()) >= 2


@pytest.mark.long
@pytest.mark.parametrize(("flow", "rival"), RIVALS)
def test_overtaken_at_every_change(drive: Drive, tmp_path: Path, place: Place, flow: str, rival: str) -> None:
    report = sweep(whole_bags(drive), flow, place, tmp_path, rival=rival)
    assert sum(report["deaths"].values()) >= report["changes"] - 2


def test_replaced_when_its_files_are_there_and_its_manifest_is_not(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has replaced the drive looks through it no more: who was too late takes itself back."""
    of_two = whole_bags(drive)
    job = Job(
        flow="shards",
        base=str(tmp_path),
        scratch=str(tmp_path / "scratch"),
        bags=[str(bag) for bag in of_two.bags],
        plan=contract.to_json(of_two.plan).decode(),
        expected=of_two.expected,
        moments=(),
        rival="over",
    )
    trial = Trial(job, "lake")
    trial.prepare()
    write_manifest = run._commit

    def late(storage: Any, plan: Plan, manifest: contract.Manifest, number: int) -> contract.Manifest:
        if (plan.plan_id, manifest.shard) == (of_two.plan.plan_id, 1):
            trial.run_rival()
        return write_manifest(storage, plan, manifest, number)

    monkeypatch.setattr(run, "_commit", late)
    with pytest.raises(RefusedError, match="shard 1 was too late and is taken back"):
        trial.run()
    trial.check_after()


def test_files_that_were_published_before_another_could_not_be_are_taken_back(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = TableWriters.publish

    def cut_off(tables: TableWriters) -> None:
        publish(tables)
        raise TransientError("the network is gone")

    monkeypatch.setattr(TableWriters, "publish", cut_off)
    words = ["extract", *map(str, drive.bags), "--output", str(tmp_path / "lake"), "--drive-id", "d"]
    assert main(words) == contract.ExitCode.RETRY
    assert list((tmp_path / "lake").rglob("*.parquet")) == []


def test_three_at_one_drive(drive: Drive, tmp_path: Path, place: Place) -> None:
    report = sweep(drive, "race", place, tmp_path, samples=1)
    assert sum(report["deaths"].values()) == 3


@pytest.mark.long
def test_three_at_one_drive_many_times(drive: Drive, tmp_path: Path, place: Place) -> None:
    report = sweep(drive, "race", place, tmp_path, samples=100)
    assert report["deaths"]["done"] >= 100 and report["deaths"]["refused"] >= 10


def test_who_reads_while_a_drive_is_replaced_sees_the_old_or_the_new(
    drive: Drive, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, by turns with and without a topic."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ros_to_parquet.storage.s3._client", None)
    output = f"{place.base}/replaced"
    every = {contract.table_name(topic) for topic in TOPICS}
    seen: Counter[str] = Counter()
    over = threading.Event()

    def read() -> None:
        lake = ros_to_parquet.open(output)
        while not over.is_set():
            record = lake.drive("d")
            standing = contract.standing_manifests(record.manifests, record.commits)
            assert len(standing) == 1
            tables = {file.path.partition("/")[0] for file in record.files()}
            assert tables in (every, every - {"status"})
            try:
                times = lake.dataset("imu.data").to_table(["log_time_ns"])["log_time_ns"].to_pylist()
            except FileNotFoundError:  # as it says: its files were replaced after it was asked for
                continue
            assert sorted(times) == drive.expected["imu.data"]
            seen[standing[0].plan_id] += 1

    with ThreadPoolExecutor(1) as pool:
        reader = None
        try:
            for number in range(6):
                plan = local_plan.make_plan(
                    [str(drive.bags[0])],
                    output=output,
                    drive_id="d",
                    options=ExtractOptions(exclude_topics=("/status",) if number % 2 else ()),
                    overwrite=number > 0,
                    take_over=False,
                )
                run.run_shard(plan, 0, run.JobIdentity("", 1, ""))
                reader = reader or pool.submit(read)
                deadline = time.monotonic() + 60
                while not seen[plan.plan_id] and not reader.done():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
        finally:
            over.set()
        assert reader is not None
        reader.result()
    assert len(seen) == 6
