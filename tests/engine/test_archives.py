"""Compressed bags and archives from end to end: planned, extracted, described, committed, rebuilt."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import uuid
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

import ros_to_parquet
from ros_to_parquet import run
from ros_to_parquet.bag.archive import ArchiveReader
from ros_to_parquet.contract import BagStatus, DriveState, ExitCode, Manifest
from ros_to_parquet.errors import ShardError
from ros_to_parquet.info import read_info
from ros_to_parquet.lake import Lake
from ros_to_parquet.rebuild import rebuild
from ros_to_parquet.storage import TransientError
from ros_to_parquet.storage.ranges import RangeSource
from tests.engine.sample_bags import START_NS, TOPICS, write_bag
from tests.engine.test_run import JOB, cli, extract, plan_for

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A bag of each format, a second apart."""
    folder = tmp_path_factory.mktemp("bags")
    for number, name in enumerate(("a.bag", "b.mcap", "c.db3")):
        write_bag(folder / name, start_ns=START_NS + number * SECOND_NS)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rows(output: Path, table: str) -> list[dict[str, Any]]:
    """All rows in order, without the name of their bag."""
    found = ros_to_parquet.open(str(output)).dataset(table).to_table().sort_by("log_time_ns")
    return list(found.drop_columns(["bag", "drive_id"]).to_pylist())


def test_a_compressed_bag_makes_the_rows_of_the_bag(tmp_path: Path, bags: dict[str, bytes]) -> None:
    packed = {
        "a.bag": gzip.compress,
        "b.mcap": zstandard.compress,
        "c.db3": zstandard.compress,
    }
    for name, compress in packed.items():
        suffix = ".gz" if compress is gzip.compress else ".zstd"
        plain = extract(save(tmp_path / name, bags[name]), output=tmp_path / f"plain-{name}")
        path = save(tmp_path / f"{name}{suffix}", compress(bags[name]))
        manifest = extract(path, output=tmp_path / f"packed-{name}")
        (bag,) = manifest.bags
        assert (bag.name, bag.status, bag.verified) == (path.name, BagStatus.OK, True)
        assert (bag.messages, bag.bytes_read) == (plain.bags[0].messages, path.stat().st_size)
        for table in ("imu.data", "camera.image.compressed"):
            assert rows(tmp_path / f"packed-{name}", table) == rows(tmp_path / f"plain-{name}", table)
        tables = ros_to_parquet.open(str(tmp_path / f"packed-{name}"))
        assert set(tables.dataset("status").to_table()["bag"].to_pylist()) == {path.name}


def test_an_archive_is_one_bag_whose_rows_name_those_in_it(tmp_path: Path, bags: dict[str, bytes]) -> None:
    files = {f"run/{name}": data for name, data in bags.items()} | {"run/notes.txt": b"hello"}
    for path in (
        save(tmp_path / "drive.zip", zipped(files)),
        save(tmp_path / "drive.tar.zst", zstandard.compress(tarred(files))),
    ):
        output = tmp_path / f"lake-{path.name}"
        manifest = extract(path, output=output)
        (bag,) = manifest.bags
        assert (bag.name, bag.status, bag.verified) == (path.name, BagStatus.OK, True)
        assert (bag.messages, bag.extracted, bag.expected_messages) == (480, 480, 480)
        assert bag.remarks == ("1 file in it left, not a bag: run/notes.txt",)
        assert {topic.topic for topic in manifest.topics} == set(TOPICS)
        lake = ros_to_parquet.open(str(output))
        names = lake.dataset("status").to_table().sort_by("log_time_ns")["bag"].to_pylist()
        assert names == [f"{path.name}/run/{name}" for name in sorted(bags) for _ in range(40)]
        assert lake.drive("drive_1").commits[-1].state is DriveState.SUCCEEDED
        again = plan_for(path, output=output)
        assert (again.shards, again.covered) == ((), (path.name,))


def test_an_archive_is_rebuilt_as_its_bags_are(tmp_path: Path, bags: dict[str, bytes]) -> None:
    files = {name: bags[name] for name in ("b.mcap", "c.db3")}
    for name, data in files.items():
        save(tmp_path / name, data)
    extract(*(tmp_path / name for name in files), output=tmp_path / "plain")
    extract(save(tmp_path / "drive.zip", zipped(files)), output=tmp_path / "packed")
    made = [
        rebuild(Lake(str(tmp_path / lake)), "drive_1", str(tmp_path / f"{lake}.mcap"))
        for lake in ("plain", "packed")
    ]
    assert made[0].messages == made[1].messages == 320
    assert made[0].flawed_bags == made[1].flawed_bags == 0
    plain, packed = (read_info(str(tmp_path / f"{lake}.mcap")) for lake in ("plain", "packed"))
    assert packed.topics == plain.topics


def test_damage_and_rejects_name_the_bag_in_the_archive(tmp_path: Path, bags: dict[str, bytes]) -> None:
    broken = bytearray(bags["b.mcap"])
    place = broken.find(b"round 7\0")
    broken[place - 4 : place] = (200).to_bytes(4, "little")  # a string longer than its message
    files = {"run/b.mcap": bytes(broken), "run/cut.bag": bags["a.bag"][:-9000]}
    manifest = extract(save(tmp_path / "x.zip", zipped(files)), output=tmp_path / "lake")
    (bag,) = manifest.bags
    assert (bag.status, bag.verified) == (BagStatus.DAMAGED, None)
    assert [damage.reason.partition(":")[0] for damage in bag.damage] == ["run/cut.bag"] * len(bag.damage)
    status = [topic for topic in manifest.topics if topic.topic == "/status" and topic.rejected]
    assert [reject.bag for topic in status for reject in topic.rejects] == ["x.zip/run/b.mcap"]
    assert all(topic.messages == topic.rows + topic.rejected for topic in manifest.topics)
    assert bag.extracted == sum(topic.messages for topic in manifest.topics)
    drive = ros_to_parquet.open(str(tmp_path / "lake")).drive("drive_1").commits[-1]
    assert drive.state is DriveState.DAMAGED
    assert drive.problems[0].startswith("bag x.zip at offset ")


def test_a_stream_that_is_cut_off_keeps_what_came_before(tmp_path: Path, bags: dict[str, bytes]) -> None:
    tar = gzip.compress(tarred({"a.mcap": bags["b.mcap"], "b.mcap": bags["b.mcap"]}))
    manifest = extract(save(tmp_path / "x.tgz", tar[: len(tar) * 3 // 4]), output=tmp_path / "lake")
    (bag,) = manifest.bags
    assert bag.status is BagStatus.DAMAGED
    assert any("the gzip data is cut off after" in damage.reason for damage in bag.damage)
    found = ros_to_parquet.open(str(tmp_path / "lake")).dataset("imu.data").to_table()["bag"].to_pylist()
    assert found.count("x.tgz/a.mcap") == 40
    assert 0 < found.count("x.tgz/b.mcap") < 40
    assert 160 < bag.messages < 320


def test_an_archive_without_bags_is_said_and_no_damage(tmp_path: Path, bags: dict[str, bytes]) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    save(folder / "a.bag", bags["a.bag"])
    save(folder / "logs.zip", zipped({"syslog.txt": b"hello"}))
    manifest = extract(folder, output=tmp_path / "lake")
    assert {bag.name: (bag.status, bag.messages, bag.remarks) for bag in manifest.bags} == {
        "a.bag": (BagStatus.OK, 160, ()),
        "logs.zip": (BagStatus.OK, 0, ("it holds no bag: syslog.txt",)),
    }
    drive = ros_to_parquet.open(str(tmp_path / "lake")).drive("drive_1").commits[-1]
    assert (drive.state, drive.unverified_bags) == (DriveState.SUCCEEDED, 0)
    assert drive.problems == ("bag logs.zip: it holds no bag: syslog.txt",)


def test_what_cannot_be_read_at_all_is_unreadable(tmp_path: Path) -> None:
    packed = bytearray(zipped({"x.bag": b"data"}))
    packed[packed.index(b"PK\1\2") + 8] = 1
    manifest = extract(save(tmp_path / "x.zip", bytes(packed)), output=tmp_path / "lake")
    assert manifest.bags[0].status is BagStatus.UNREADABLE
    assert "x.bag: it is encrypted: unpack the zip archive" in manifest.bags[0].damage[0].reason
    assert run.exit_code(manifest) is ExitCode.BAG_UNREADABLE


def test_a_rosbag2_folder_compressed_by_file(tmp_path: Path, bags: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder / "run_0.db3.zstd", zstandard.compress(bags["c.db3"]))
    save(folder / "run_1.mcap.zstd", zstandard.compress(bags["b.mcap"]))
    metadata = "  compression_format: zstd\n  compression_mode: FILE\n"
    save(folder / "metadata.yaml", metadata.encode())
    plan = plan_for(folder, output=tmp_path / "lake")
    assert [(bag.name, bag.format) for bag in plan.bags] == [
        ("run_0.db3.zstd", "sqlite3.zstd"),
        ("run_1.mcap.zstd", "mcap.zstd"),
    ]
    assert all(bag.metadata_uri for bag in plan.bags)
    manifest = run.run_shard(plan, 0, JOB)
    assert [(bag.status, bag.messages) for bag in manifest.bags] == [(BagStatus.OK, 160)] * 2


def test_a_bag_beside_its_compressed_self_is_refused(tmp_path: Path, bags: dict[str, bytes]) -> None:
    save(tmp_path / "a.bag", bags["a.bag"])
    save(tmp_path / "a.bag.gz", gzip.compress(bags["a.bag"]))
    with pytest.raises(ShardError, match=r"a\.bag and a\.bag\.gz seem to be one recording"):
        plan_for(tmp_path, output=tmp_path / "lake")


def test_a_drive_is_called_after_its_archive_without_its_endings(tmp_path: Path) -> None:
    path = save(tmp_path / "morning.tar.gz", b"")
    assert plan_for(path, output=tmp_path / "lake", drive_id=None).drive_id == "morning"


def test_info_of_an_archive(
    tmp_path: Path, bags: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "x.tar.gz", gzip.compress(tarred({"r/a.bag": bags["a.bag"], "note.txt": b""})))
    info = read_info(str(path))
    assert info.format == "rosbag1 in tar in gzip"
    assert (info.messages, info.indexed_messages, info.damage) == (160, 160, ())
    assert [(topic.bag, topic.topic) for topic in info.topics] == [
        ("r/a.bag", topic) for topic in sorted(TOPICS)
    ]
    info.print()
    printed = capsys.readouterr().out
    assert "r/a.bag  /gps/fix" in printed
    assert "! 1 file in it left, not a bag: note.txt" in printed
    done = cli("info", "--json", path)
    assert done.returncode == 0
    assert json.loads(done.stdout) == json.loads(json.dumps(info.as_dict()))


def test_scratch_is_given_back_where_reading_fails(
    tmp_path: Path, bags: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: the process may end without taking its objects apart."""
    path = save(tmp_path / "c.db3.zstd", zstandard.compress(bags["c.db3"]))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def fail(*_: object) -> None:
        assert list(scratch.glob("*/staged"))
        raise TransientError("connection reset")

    monkeypatch.setattr(ArchiveReader, "_adopt", fail)
    with pytest.raises(TransientError) as held:  # with all the frames that it came through
        extract(path, output=tmp_path / "lake")
    assert list(scratch.iterdir()) == []
    assert "reset" in str(held.value)


def test_from_s3_as_a_stream_without_scratch(
    tmp_path: Path, embedded_aws: EmbeddedAws, bags: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"packed-{uuid.uuid4().hex[:12]}"
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    files = {name: bags[name] for name in ("a.bag", "b.mcap")}
    noise = {"noise.bin": bytes(range(256)) * 40_000}  # is passed over where it can be
    objects = {
        "x.bag.gz": gzip.compress(bags["a.bag"]),
        "y.zip": zipped(files | noise),
        "z.tar": tarred(noise | files),
        "w.tar.zst": zstandard.compress(tarred(noise | files)),
    }
    for name, data in objects.items():
        s3.put_object(Bucket=bucket, Key=f"drive/{name}", Body=data)
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ros_to_parquet.storage.s3._client", None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("scratch is used")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    opened: list[RangeSource] = []
    close = RangeSource.close
    monkeypatch.setattr(RangeSource, "close", lambda source: (opened.append(source), close(source))[1])
    manifest = _extract_s3(f"s3://{bucket}/drive", f"s3://{bucket}/lake")
    assert {bag.name: (bag.status, bag.verified, bag.messages) for bag in manifest.bags} == {
        "w.tar.zst": (BagStatus.OK, True, 320),
        "x.bag.gz": (BagStatus.OK, True, 160),
        "y.zip": (BagStatus.OK, True, 320),
        "z.tar": (BagStatus.OK, True, 320),
    }
    own = [source for source in opened if source.name.startswith(f"s3://{bucket}/drive/")]
    fetched = {source.name.rpartition("/")[2]: source.bytes_fetched for source in own}
    assert fetched.keys() == objects.keys()
    assert fetched["z.tar"] < len(noise["noise.bin"])
    assert all(count <= 1.2 * len(objects[name]) for name, count in fetched.items())


def _extract_s3(source: str, output: str) -> Manifest:
    plan = plan_for(source, output=output)  # type: ignore[arg-type]
    return run.run_shard(plan, 0, JOB)
