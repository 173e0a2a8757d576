"""Attachments and metadata records of MCAP files: listed in manifests, copied into the lake."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import mcap.reader
import pytest
from mcap.writer import CompressionType, Writer

import ros_to_parquet
from ros_to_parquet import attachments, contract
from ros_to_parquet.bag import LocalFile, extras, open_bag
from ros_to_parquet.bag.archive import _Aside
from ros_to_parquet.bag.extras import Attachment
from ros_to_parquet.bag.mcap import McapReader
from ros_to_parquet.contract import BagStatus, ExtractOptions, Manifest
from ros_to_parquet.info import read_info
from ros_to_parquet.rebuild import rebuild
from tests.engine.bag.bag_bytes import (
    T0,
    McapFile,
    Memory,
    mcap_attachment,
    mcap_channel,
    mcap_message,
    mcap_metadata,
    mcap_record,
    mcap_schema,
)
from tests.engine.test_run import extract, plan_for

CALIBRATION = b"fx: 500\nfy: 501\n"


def mcap_file(*records: bytes, chunks: int = 2, **options: Any) -> bytes:
    """Records between chunks of messages."""
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")))
    for number in range(max(chunks, len(records))):
        if number < len(records):
            file.add(records[number])
        file.chunk(mcap_message(0, number, T0 + number, b"\0\1\0\0\2\0\0\0a\0"), {0: 1})
    return file.bytes(**options)


def extract_mcap(folder: Path, data: bytes, **options: Any) -> Manifest:
    (folder / "x.mcap").write_bytes(data)
    return extract(folder / "x.mcap", output=folder / "lake", **options)


@pytest.mark.parametrize("summary", [True, False])
@pytest.mark.parametrize("topics", ["*", "/none"])
def test_they_are_in_the_manifest_whatever_is_wanted(tmp_path: Path, summary: bool, topics: str) -> None:
    data = mcap_file(
        mcap_metadata("car", plate="M-AB 12", driver="é"),
        mcap_attachment("calib/front left.yaml", CALIBRATION),
        mcap_metadata("empty"),
        mcap_attachment("", b"", media_type=""),
        summary=summary,
    )
    manifest = extract_mcap(tmp_path, data, options=ExtractOptions(include_topics=(topics,)))
    (bag,) = manifest.bags
    assert bag.status is BagStatus.OK and bag.messages == 4
    assert bag.metadata == (
        contract.BagMetadata("car", (("plate", "M-AB 12"), ("driver", "é"))),
        contract.BagMetadata("empty", ()),
    )
    first, second = bag.attachments
    assert (first.name, first.media_type) == ("calib/front left.yaml", "text/plain")
    assert (first.log_time_ns, first.create_time_ns) == (T0, T0 - 7)
    assert data[first.offset :].startswith(CALIBRATION) and first.size_bytes == len(CALIBRATION)
    assert first.crc_ok and second.crc_ok
    assert (tmp_path / "lake" / first.path).read_bytes() == CALIBRATION
    assert (tmp_path / "lake" / second.path).read_bytes() == b""
    assert first.path.startswith("_attachments/drive_id=drive_1/")
    assert first.path.endswith("-0000-0000-front_left.yaml")
    assert contract.from_json(Manifest, contract.to_json(manifest), where="x") == manifest


def test_what_another_writer_wrote(tmp_path: Path) -> None:
    stream = io.BytesIO()
    writer = Writer(stream, compression=CompressionType.ZSTD)
    writer.start()
    writer.add_metadata("m", {"k": "v"})
    writer.add_attachment(create_time=1, log_time=2, name="n", media_type="text/x", data=b"content")
    writer.finish()
    (bag,) = extract_mcap(tmp_path, stream.getvalue()).bags
    assert [(each.name, each.crc_ok, each.log_time_ns) for each in bag.attachments] == [("n", True, 2)]
    assert bag.metadata == (contract.BagMetadata("m", (("k", "v"),)),)


def test_manifests_of_before_are_still_read(tmp_path: Path) -> None:
    manifest = extract_mcap(tmp_path, mcap_file())
    raw = json.loads(contract.to_json(manifest))
    for name in ("attachments", "metadata", "extras_left_out", "unread"):
        del raw["bags"][0][name]
    assert contract.from_json(Manifest, json.dumps(raw).encode(), where="x") == manifest


def test_checksums(tmp_path: Path) -> None:
    data = mcap_file(
        mcap_attachment("none", b"1", crc=0),
        mcap_attachment("wrong", b"2", crc=7),
        mcap_attachment("ok", b"3"),
    )
    (bag,) = extract_mcap(tmp_path, data).bags
    assert [each.crc_ok for each in bag.attachments] == [None, False, True]
    assert [(tmp_path / "lake" / each.path).read_bytes() for each in bag.attachments] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("summary", [True, False])
def test_large_ones_are_not_held_in_memory(summary: bool) -> None:
    large = bytes(64 << 20)
    memory = Memory(mcap_file(mcap_attachment("large", large), summary=summary))
    tracemalloc.start()
    reader = open_bag(memory)
    assert sum(map(len, reader.blocks())) == 2 and reader.damage == []
    assert isinstance(reader, McapReader)
    (attachment,) = reader.extras.attachments
    assert sum(map(len, reader.attachment_pieces(attachment))) == len(large)
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()
    assert (attachment.content, attachment.size_bytes) == (None, len(large))
    assert reader.attachment_crc32(attachment) != 0


def test_one_that_is_cut_off_is_not_read_into_memory() -> None:
    memory = Memory(mcap_file(mcap_attachment("large", bytes(64 << 20)))[: 50 << 20])
    tracemalloc.start()
    reader = open_bag(memory)
    list(reader.blocks())
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    assert "cut off inside a large attachment" in reader.damage[0].reason


def test_too_large_to_copy_is_listed_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MAX_COPIED_BYTES", 10)
    data = mcap_file(mcap_attachment("large", b"01234567890"), mcap_attachment("small", b"0123456789"))
    large, small = extract_mcap(tmp_path, data).bags[0].attachments
    assert (large.path, large.crc_ok) == ("", None) and small.path
    assert data[large.offset :][: large.size_bytes] == b"01234567890"


def test_as_many_as_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "MAX_RECORDS", 2)
    monkeypatch.setattr(extras, "MAX_METADATA_BYTES", 9)
    records = [mcap_attachment(str(number), b"") for number in range(5)]
    records += [
        mcap_metadata("long", key="123456"),
        mcap_metadata("m", key="12345"),
        mcap_metadata("m", k="v"),
    ]
    (bag,) = extract_mcap(tmp_path, mcap_file(*records)).bags
    assert [each.name for each in bag.attachments] == ["0", "1"]
    assert [each.values for each in bag.metadata] == [(("key", "12345"),)]
    assert bag.extras_left_out == 3 + 2


def test_of_many_bags_in_an_archive_as_many_are_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "MAX_RECORDS", 2)
    written: list[bytes] = []
    write = _Aside.write

    def noted(self: _Aside, attachment: Attachment, content: bytes) -> None:
        written.append(content)
        write(self, attachment, content)

    monkeypatch.setattr(_Aside, "write", noted)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.mcap", mcap_file(mcap_attachment("a", b"%d" % number)))
    (bag,) = extract(tmp_path / "x.zip", output=tmp_path / "lake").bags
    assert written == [b"0", b"1"]
    assert ([each.member for each in bag.attachments], bag.extras_left_out) == (["0.mcap", "1.mcap"], 2)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (mcap_record(9, b"\1" * 12), "an attachment record cannot be read"),
        (mcap_record(12, b"\1\0\0\0x\1\0\0"), "a metadata record cannot be read"),
    ],
)
def test_broken_records_are_damage(record: bytes, reason: str) -> None:
    reader = open_bag(Memory(mcap_file(record)))
    assert sum(map(len, reader.blocks())) == 2
    assert reason in reader.damage[0].reason


@pytest.mark.parametrize("count", [2, 3, 5])
def test_slices_have_each_once(count: int) -> None:
    names = [str(number) for number in range(6)]
    data = mcap_file(*(mcap_attachment(name, b"x" * 50) for name in names))
    found = []
    for index in range(count):
        reader = open_bag(Memory(data), slice_index=index, slice_count=count)
        list(reader.blocks())
        assert isinstance(reader, McapReader)
        found += [each.name for each in reader.extras.attachments]
    assert found == names


def test_copies_that_no_manifest_names_are_swept(tmp_path: Path) -> None:
    first = extract_mcap(tmp_path, mcap_file(mcap_attachment("a.txt", b"1")))
    lake = tmp_path / "lake"
    (old,) = first.bags[0].attachments
    orphan = lake / contract.attachment_folder("drive_1") / "000000000000-00000-0000-0000-x"
    orphan.write_bytes(b"of an attempt that was killed")
    other = lake / contract.attachment_folder("drive_10") / "000000000000-00000-0000-0000-x"
    other.parent.mkdir()
    other.write_bytes(b"of another drive")
    second = extract_mcap(tmp_path, mcap_file(mcap_attachment("a.txt", b"22")), overwrite=True)
    (new,) = second.bags[0].attachments
    assert (lake / new.path).read_bytes() == b"22"
    assert not (lake / old.path).exists() and not orphan.exists() and other.exists()


def test_a_shard_run_again_replaces_its_copies(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(mcap_file(mcap_attachment("a.txt", b"1")))
    plan = plan_for(tmp_path / "x.mcap", output=tmp_path / "lake")
    manifest = extract(tmp_path / "x.mcap", output=tmp_path / "lake")
    folder = tmp_path / "lake" / contract.manifest_folder("drive_1", plan.plan_id)
    for path in list(folder.iterdir()):
        path.unlink()
    again = extract(tmp_path / "x.mcap", output=tmp_path / "lake")
    assert again.bags == manifest.bags
    assert len(list((tmp_path / "lake" / "_attachments").rglob("*.txt"))) == 1


def test_info_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.mcap"
    records = [mcap_attachment("a.yaml", CALIBRATION), mcap_metadata("car", plate="M", x="y" * 99)]
    path.write_bytes(mcap_file(*records))
    info = read_info(str(path))
    info.print()
    said = capsys.readouterr().out
    assert "attachment   a.yaml (16 bytes, text/plain)" in said
    assert f"metadata     car: plate='M', x='{'y' * 60}...'" in said
    (record,) = info.as_dict()["metadata"]
    assert record == {"name": "car", "values": (("plate", "M"), ("x", "y" * 99)), "member": ""}


def test_rebuild_writes_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MAX_COPIED_BYTES", 3 << 20)
    large = random.Random(1).randbytes(2 << 20)
    for name in ("x_0.mcap", "x_1.mcap"):
        records = [
            mcap_metadata("car", plate="M"),
            mcap_metadata("rosbag2", serialized_metadata="files: [x]"),
        ]
        records += [mcap_attachment(f"{name}.bin", large), mcap_attachment("huge", bytes(4 << 20))]
        (tmp_path / name).write_bytes(mcap_file(*records))
    extract(tmp_path / "x_0.mcap", tmp_path / "x_1.mcap", output=tmp_path / "lake")
    path = tmp_path / "again.mcap"
    rebuilt = rebuild(ros_to_parquet.open(str(tmp_path / "lake")), "drive_1", str(path))
    assert (rebuilt.messages, rebuilt.extras_left_out) == (8, 2)
    with path.open("rb") as stream:
        reader = mcap.reader.make_reader(stream, validate_crcs=True)
        assert [(each.name, each.metadata) for each in reader.iter_metadata()] == [("car", {"plate": "M"})]
        found = [(each.name, each.media_type, each.log_time, each.data) for each in reader.iter_attachments()]
        assert found == [(f"x_{n}.mcap.bin", "text/plain", T0, large) for n in range(2)]
        statistics = reader.get_summary().statistics
    assert (statistics.attachment_count, statistics.metadata_count) == (2, 1)
    again = open_bag(LocalFile(path))
    assert sum(map(len, again.blocks())) == 8 and again.damage == []
    assert isinstance(again, McapReader) and len(again.extras.attachments) == 2


def test_those_of_bags_in_archives(tmp_path: Path) -> None:
    """What a stream has passed cannot be had again, unless it is small; what is stored as it is can."""
    large = bytes(2 << 20)
    data = mcap_file(mcap_attachment("a", b"1"), mcap_attachment("large", large), mcap_metadata("m", k="v"))
    (tmp_path / "x.mcap.gz").write_bytes(gzip.compress(data, 1))
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("in/y.mcap", data)
    bags = extract(tmp_path / "x.mcap.gz", tmp_path / "y.zip", output=tmp_path / "lake").bags
    for bag, member, copied in zip(bags, ("", "in/y.mcap"), (["a"], ["a", "large"]), strict=True):
        assert bag.status is BagStatus.OK
        assert bag.metadata == (contract.BagMetadata("m", (("k", "v"),), member),)
        assert [(each.name, each.member) for each in bag.attachments] == [("a", member), ("large", member)]
        assert [each.name for each in bag.attachments if each.path] == copied
        assert all(each.crc_ok is True for each in bag.attachments if each.path)
