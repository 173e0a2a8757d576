"""Commits of drives with many shards, and commits that meet other runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ros_to_parquet import contract, lake
from ros_to_parquet.contract import (
    CONTRACT_VERSION,
    BagResult,
    BagSlice,
    BagStatus,
    ExtractOptions,
    Lease,
    Manifest,
    OutputFile,
    Plan,
    PlannedBag,
    Run,
    TopicResult,
)
from ros_to_parquet.frames.make import write_frames
from ros_to_parquet.report.make import make_report
from ros_to_parquet.storage import LocalStorage, NotFoundError, ObjectInfo, Storage, StorageError, join


def plan_of(output: Path, shards: int, *, plan_id: str = "plan", replaces: tuple[str, ...] = ()) -> Plan:
    return Plan(
        contract_version=CONTRACT_VERSION,
        plan_id=plan_id,
        run=Run("dag", "run"),
        drive_id="d",
        source="s3://raw/d/",
        output=str(output),
        options=ExtractOptions(),
        bags=tuple(PlannedBag(f"/{n}.bag", f"{n}.bag", "rosbag1", 1, "", f"{n}.bag") for n in range(shards)),
        shards=tuple((BagSlice(number),) for number in range(shards)),
        replaces=replaces,
    )


def manifest_of(plan: Plan, shard: int) -> Manifest:
    path = f"imu/schema=0/drive_id=d/{contract.shard_name(plan.plan_id, shard)}.parquet"
    rejects = (contract.Reject("0.bag", 1, 2, "short"),)
    topic = TopicResult(
        "/imu", "imu", "T", "0", 2, 1, 1, 0, 9, 0, 9, (OutputFile(path, 1, 4),), rejects, remark="odd"
    )
    bag = BagResult(f"{shard}.bag", BagSlice(shard), BagStatus.OK, 1, "", 1, 2, 2, 2, True, ())
    return Manifest(
        CONTRACT_VERSION, "1", plan.plan_id, "d", shard, ExtractOptions(), "", 1, "", "", "", 1.5, 1, 1, 4,
        (topic,), (bag,), plan.replaces,
    )  # fmt: skip


def write_shard(plan: Plan, shard: int) -> None:
    manifest = manifest_of(plan, shard)
    storage = LocalStorage()
    storage.write(join(plan.output, manifest.topics[0].files[0].path), b"PAR1")
    key = contract.manifest_key("d", plan.plan_id, shard)
    storage.write(join(plan.output, key), contract.to_json(manifest))


def take_lease(plan: Plan) -> None:
    lease = Lease("d", plan.plan_id, plan.run, "2026-01-01T00:00:00Z")
    LocalStorage().write(join(plan.output, contract.lease_key("d")), contract.to_json(lease))


class WatchedStorage(LocalStorage):
    """Counts reads, and calls ``meanwhile`` once, before the first call of a verb on a URI with ``where``."""

    def __init__(self, where: str = "", meanwhile: Callable[[], object] | None = None) -> None:
        self.reads: Counter[str] = Counter()
        self._where = where
        self._meanwhile = meanwhile

    def _happen(self, uri: str) -> None:
        if self._meanwhile is not None and self._where in uri:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()

    def read(self, uri: str) -> bytes:
        self._happen(uri)
        self.reads[uri.rpartition("/")[2]] += 1
        return super().read(uri)

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        self._happen(folder)
        return super().objects(folder)


def parquet_files(output: Path) -> list[str]:
    return sorted(path.name for path in output.rglob("*.parquet"))


def test_a_shard_that_is_not_the_last_reads_no_manifest(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 30)
    take_lease(plan)
    for shard in range(29):
        write_shard(plan, shard)
    storage = WatchedStorage()
    assert lake.commit_drive(storage, plan) is None
    assert storage.reads.total() == 0
    write_shard(plan, 29)
    commit = lake.commit_drive(storage, plan)
    assert commit is not None
    assert (commit.shards, commit.rows, commit.rejected) == (30, 30, 30)
    assert storage.reads["00007.json"] == 2  # for the commit, and for the sweep


def test_manifests_fold_alike_one_by_one_and_together(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 150)
    manifests = [manifest_of(plan, shard) for shard in range(150)]
    together = contract.fold(plan, manifests[::-1])
    assert contract.fold(plan, iter(manifests)) == together
    assert len(together.problems) == contract.MAX_REASONS
    assert (together.shards, together.shard_seconds, together.bytes_written) == (150, 225.0, 600)


def test_of_two_commits_at_once_the_slow_one_leaves_the_next_runs_files_alone(tmp_path: Path) -> None:
    """The fast one gives the lease back; another run takes it and publishes; only then the slow one looks."""
    plan, following = plan_of(tmp_path, 1), plan_of(tmp_path, 1, plan_id="following")
    take_lease(plan)
    write_shard(plan, 0)

    def fast_one_commits_and_the_following_run_publishes() -> None:
        lake.commit_drive(LocalStorage(), plan)
        take_lease(following)
        write_shard(following, 0)
        (tmp_path / contract.manifest_key("d", "following", 0)).unlink()  # not yet

    slow = WatchedStorage("imu/schema=0", fast_one_commits_and_the_following_run_publishes)
    assert lake.commit_drive(slow, plan) is not None
    assert parquet_files(tmp_path) == ["following-00000.parquet", "plan-00000.parquet"]
    lease = contract.from_json(Lease, (tmp_path / contract.lease_key("d")).read_bytes(), where="x")
    assert lease.plan_id == "following"


def test_a_commit_after_the_lease_was_given_back_removes_nothing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 1)
    write_shard(plan, 0)
    orphan = tmp_path / "imu" / "schema=0" / "drive_id=d" / "other-00000.parquet"
    orphan.write_bytes(b"PAR1")
    assert lake.commit_drive(LocalStorage(), plan) is not None
    assert orphan.exists()


@pytest.mark.parametrize("place", ["old/00001.json", "old/drive.json"])
def test_manifests_that_are_replaced_while_they_are_read(tmp_path: Path, place: str) -> None:
    old = plan_of(tmp_path, 3, plan_id="old")
    new = plan_of(tmp_path, 2, plan_id="new", replaces=("old",))
    take_lease(old)
    for shard in range(3):
        write_shard(old, shard)
    lake.commit_drive(LocalStorage(), old)
    take_lease(new)
    for shard in range(2):
        write_shard(new, shard)

    reader = WatchedStorage(place, lambda: lake.commit_drive(LocalStorage(), new))
    record = lake.read_drive(reader, str(tmp_path), "d")
    assert [file.path.rpartition("/")[2] for file in record.files()] == [
        "new-00000.parquet",
        "new-00001.parquet",
    ]
    assert parquet_files(tmp_path) == ["new-00000.parquet", "new-00001.parquet"]


class GoingStorage(LocalStorage):
    """Of each list of a drive, the last shard's manifest is gone before it is read."""

    def read(self, uri: str) -> bytes:
        if uri.endswith("/00001.json"):
            raise NotFoundError(uri)
        return super().read(uri)


@pytest.mark.parametrize("read", [lake.read_drive, lake.read_schemas])
def test_a_drive_that_never_stays_the_same_is_not_read_in_part(
    tmp_path: Path, read: Callable[[Storage, str, str], object]
) -> None:
    plan = plan_of(tmp_path, 2)
    for shard in range(2):
        write_shard(plan, shard)
    with pytest.raises(StorageError, match="drive d is being replaced again and again"):
        read(GoingStorage(), str(tmp_path), "d")


def test_a_replaced_run_does_not_commit_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Or the second manifest may be read beside the first.
    monkeypatch.setattr("ros_to_parquet.lake.records.THREADS", 1)
    old = plan_of(tmp_path, 3, plan_id="old")
    for shard in range(3):
        write_shard(old, shard)
    gone = tmp_path / contract.manifest_key("d", "old", 1)
    late = WatchedStorage("old/00000.json", gone.unlink)
    assert lake.commit_drive(late, old) is None
    assert not (tmp_path / contract.drive_manifest_key("d", "old")).exists()


def begin_shard(plan: Plan, shard: int) -> None:
    started = contract.StartedRecord(plan.plan_id, shard, "", 1, "", "")
    storage = LocalStorage()
    storage.write(
        join(plan.output, contract.started_key("d", plan.plan_id, shard)), contract.to_json(started)
    )
    storage.write(join(plan.output, contract.plan_key("d", plan.plan_id)), contract.to_json(plan))


def rows_of(output: Path) -> list[str]:
    """Files that count."""
    record = lake.read_drive(LocalStorage(), str(output), "d")
    return [file.path.rpartition("/")[2] for file in record.files()]


def test_what_a_run_writes_when_its_drive_was_taken_over_is_void_and_swept(tmp_path: Path) -> None:
    dead, taker = plan_of(tmp_path, 3, plan_id="dead"), plan_of(tmp_path, 1, plan_id="taker")
    begin_shard(dead, 1)
    write_shard(dead, 0)
    take_lease(taker)
    storage = LocalStorage()
    assert lake.end_others(storage, taker)
    assert not lake.end_others(storage, taker)
    for shard in (1, 2):
        write_shard(dead, shard)  # it was only slow
    word = lake.commit_drive(storage, dead)
    assert word is not None
    assert (word.taken_over_by, word.counted, word.state) == (taker.run, (0,), contract.DriveState.PARTIAL)
    said = (
        "run 'run' of DAG 'dag' has taken the drive over: 1 of 3 shards of this run count, and no other will"
    )
    assert word.problems[0] == said
    assert rows_of(tmp_path) == ["dead-00000.parquet"]
    write_shard(taker, 0)
    assert lake.commit_drive(storage, taker) is not None
    assert rows_of(tmp_path) == ["dead-00000.parquet", "taker-00000.parquet"]
    assert parquet_files(tmp_path) == ["dead-00000.parquet", "taker-00000.parquet"]
    left = sorted(path.name for path in (tmp_path / "_manifests" / "drive_id=d" / "dead").iterdir())
    assert left == ["00000.json", "00001.started.json", "drive.json"]


def test_an_overwriting_run_that_was_taken_over_replaces_nothing(tmp_path: Path) -> None:
    old = plan_of(tmp_path, 1, plan_id="old")
    dead = plan_of(tmp_path, 2, plan_id="dead", replaces=("old",))
    taker = plan_of(tmp_path, 1, plan_id="taker")
    take_lease(old)
    write_shard(old, 0)
    lake.commit_drive(LocalStorage(), old)
    begin_shard(dead, 1)
    for shard in range(2):
        write_shard(dead, shard)
    take_lease(taker)
    assert lake.end_others(LocalStorage(), taker)
    lake.commit_drive(LocalStorage(), dead)
    assert rows_of(tmp_path) == ["old-00000.parquet"]


def test_a_run_that_only_lacks_its_commit_is_left_to_it(tmp_path: Path) -> None:
    """Nothing can come to it, and all of it counts."""
    done, taker = plan_of(tmp_path, 2, plan_id="done"), plan_of(tmp_path, 1, plan_id="taker")
    begin_shard(done, 0)
    for shard in range(2):
        write_shard(done, shard)
    assert not lake.end_others(LocalStorage(), taker)
    commit = lake.commit_drive(LocalStorage(), done)
    assert commit is not None and commit.taken_over_by is None


def test_two_last_shards_at_once_commit_the_drive_once(tmp_path: Path) -> None:
    """Each sees all manifests; the other one commits when this one is about to."""
    plan = plan_of(tmp_path, 2)
    take_lease(plan)
    for shard in range(2):
        write_shard(plan, shard)
    first: list[object] = []
    slow = WatchedStorage("00000.json", lambda: first.append(lake.commit_drive(LocalStorage(), plan)))
    assert [lake.commit_drive(slow, plan)] == first
    assert not (tmp_path / contract.lease_key("d")).exists()


def test_a_drive_that_somebody_has_removed_manifests_of_is_not_read_as_less(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 3)
    for shard in range(3):
        write_shard(plan, shard)
    assert lake.commit_drive(LocalStorage(), plan) is not None
    assert len(lake.Lake(str(tmp_path)).drive("d").files()) == 3
    (tmp_path / contract.manifest_key("d", "plan", 1)).unlink()
    gone = "1 of 3 shards' manifests in _manifests/drive_id=d/plan are gone: put them back, or extract"
    with pytest.raises(NotFoundError, match=gone):
        lake.Lake(str(tmp_path)).dataset("imu")
    with pytest.raises(NotFoundError, match=gone):
        make_report(lake.Lake(str(tmp_path)), "d")
    with pytest.raises(NotFoundError, match=gone):
        write_frames(str(tmp_path), "d", contract.FramesTable(rate_hz=1.0))
    # What extracts it again begins by reading it.
    assert lake.read_drive(LocalStorage(), str(tmp_path), "d").lacking


def test_a_commit_that_nobody_can_read_does_not_outlive_what_replaces_it(tmp_path: Path) -> None:
    old, new = plan_of(tmp_path, 1, plan_id="old"), plan_of(tmp_path, 1, plan_id="new", replaces=("old",))
    write_shard(old, 0)
    assert lake.commit_drive(LocalStorage(), old) is not None
    (tmp_path / contract.drive_manifest_key("d", "old")).write_bytes(b'{"contract_ver')
    take_lease(new)
    write_shard(new, 0)
    commit = lake.commit_drive(LocalStorage(), new)
    assert commit is not None
    assert commit.replaces == ("old",)
    assert parquet_files(tmp_path) == ["new-00000.parquet"]
    assert not (tmp_path / contract.manifest_folder("d", "old")).exists()
    assert len(lake.Lake(str(tmp_path)).drive("d").files()) == 1
