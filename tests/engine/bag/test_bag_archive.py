"""Archives and compressed bags: what is in them is what is in the bags, and nothing of it is lost unsaid."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from bag_bytes import (
    T0,
    McapFile,
    Memory,
    Read,
    Ros1Bag,
    by_topic,
    mcap_channel,
    mcap_message,
    mcap_record,
    mcap_schema,
    read,
    ros1_message,
    simple_mcap,
    simple_ros1,
)

from ros_to_parquet.bag import BagError
from ros_to_parquet.bag.archive import ArchiveReader
from tests.engine.sample_bags import write_bag

BAGS = Path(__file__).parents[4] / "shared" / "bags"

COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "zstd-stream": zstandard.ZstdCompressor(write_content_size=False).compress,
}

METADATA = b"rosbag2_bagfile_information:\n  compression_mode: file\n  compression_format: zstd\n"


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], dialect: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


PACK: Mapping[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "zip": zipped,
    "zip-stored": lambda files: zipped(files, zipfile.ZIP_STORED),
    "zip-bzip2": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "tar": tarred,
    "tar-gnu": lambda files: tarred(files, tarfile.GNU_FORMAT),
    "tar.gz": lambda files: gzip.compress(tarred(files)),
    "tar.zst": lambda files: zstandard.compress(tarred(files)),
    "tar.xz in zip": lambda files: zipped({"inner.tar.xz": lzma.compress(tarred(files))}),
}


def archive(found: Read) -> ArchiveReader:
    assert isinstance(found.reader, ArchiveReader)
    return found.reader


def members(found: Read) -> list[str]:
    return sorted({connection.member for connection in found.reader.connections()})


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    for suffix in (".bag", ".mcap", ".db3"):
        write_bag(folder / f"x{suffix}")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


# --- one compressed bag ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bag", ".mcap", ".db3"])
@pytest.mark.parametrize("codec", COMPRESS)
def test_a_compressed_bag_is_the_bag(
    samples: dict[str, bytes], codec: str, suffix: str, tmp_path: Path
) -> None:
    plain = read(samples[suffix], tmp_path)
    source = Memory(COMPRESS[codec](samples[suffix]))
    found = read(source)
    assert found.by_topic == plain.by_topic
    assert found.is_as_expected
    assert found.reader.counts == plain.reader.counts
    assert found.reader.compressions == plain.reader.compressions
    assert found.reader.connections() == plain.reader.connections()
    assert found.reader.format == f"{plain.reader.format} in {codec.removesuffix('-stream')}"
    assert found.reader.bytes_read == source.size
    assert archive(found).remark == ""


def real_bags() -> list[str]:
    files = sorted(path for path in BAGS.glob("*/*") if path.suffix in (".bag", ".mcap", ".db3"))
    return [str(path.relative_to(BAGS)) for path in files if path.stat().st_size]


@pytest.mark.parametrize("name", real_bags())
def test_a_real_bag_packed_in_any_way_is_the_bag(name: str, tmp_path: Path) -> None:
    data = (BAGS / name).read_bytes()
    plain = read(data, tmp_path)
    packed = (
        COMPRESS["lz4"](data),
        zipped({name: data}, zipfile.ZIP_STORED),
        gzip.compress(tarred({name: data}), 1),
    )
    for source in packed:
        found = read(source, tmp_path)
        assert found.by_topic == plain.by_topic
        assert counts(found) == counts(plain)
        if (expected := plain.reader.expected_counts()) is None:
            assert found.reader.expected_counts() is None
        else:
            assert sum(expected.values()) == sum((found.reader.expected_counts() or {}).values())
        assert bool(found.reasons) == bool(plain.reasons)


def counts(found: Read) -> dict[str, int]:
    return {each.topic: found.reader.counts[each.id] for each in found.reader.connections()}


def test_topics_are_chosen_and_the_others_counted() -> None:
    data, messages = simple_mcap(compression="zstd")
    found = read(gzip.compress(data), wanted=lambda topic: topic == "/b")
    assert found.by_topic == by_topic(message for message in messages if message.topic == "/b")
    assert found.is_as_expected


def test_only_the_first_slice_reads() -> None:
    data, messages = simple_ros1()
    for packed in (gzip.compress(data), zipped({"x.bag": data})):
        parts = [read(packed, slice_index=index, slice_count=3) for index in range(3)]
        assert [len(part.messages) for part in parts] == [len(messages), 0, 0]
        assert all(part.is_as_expected for part in parts)


# --- streams in a row, and what follows them ---------------------------------------------------------


@pytest.mark.parametrize("codec", COMPRESS)
def test_several_streams_in_a_row_are_one(codec: str) -> None:
    data, messages = simple_ros1(chunks=40)
    third = len(data) // 3
    pieces = [data[:third], data[third : 2 * third], data[2 * third :]]
    packed = b"".join(COMPRESS[codec](piece) for piece in pieces) + bytes(700)
    found = read(packed)
    assert found.is_as_expected
    assert found.by_topic == by_topic(messages)


def test_frames_to_be_skipped_are_skipped() -> None:
    data, messages = simple_mcap()
    skipped = b"\x50\x2a\x4d\x18\x05\0\0\0hello"
    found = read(zstandard.compress(data[:900]) + skipped + zstandard.compress(data[900:]) + skipped)
    assert found.is_as_expected
    assert found.by_topic == by_topic(messages)


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "xz", "zstd"])
def test_what_follows_and_is_no_stream_is_said(codec: str) -> None:
    data, messages = simple_ros1()
    found = read(COMPRESS[codec](data) + b"not of it, and 32 bytes or more of that")
    assert found.by_topic == by_topic(messages)
    assert len(found.reasons) == 1
    assert f"the {codec} data is damaged before its byte" in found.reasons[0]


# --- damage ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> dict[str, bytes]:
    """Two bags of 2,000 messages of 1,000 bytes that do not compress."""
    payloads = [random.Random(number).randbytes(1000) for number in range(2000)]
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(1, 1, "/a")))
    bag = Ros1Bag()
    records = [bag.connection(1, "/a")]
    for number, payload in enumerate(payloads):
        file.add(mcap_message(1, number, T0 + number, payload))
        records.append(ros1_message(1, T0 + number, payload))
    for start in range(0, len(records), 50):
        chunk = records[start : start + 50]
        bag.chunk(chunk, {1: len(chunk) - (start == 0)})
    return {"ros1": bag.bytes(), "mcap": file.bytes()}


@pytest.mark.parametrize("codec", COMPRESS)
@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_of_a_stream_that_is_cut_off_what_can_be_read_is_there(
    codec: str, kind: str, large: dict[str, bytes]
) -> None:
    compressed = COMPRESS[codec](large[kind])
    lost = {"bzip2": 900, "lz4": 70, "zstd": 140, "zstd-stream": 140}.get(codec, 20)
    for cut in (len(compressed) * 2 // 3, len(compressed) - 9):
        found = read(compressed[:cut])
        assert found.reasons[-1] == f"the {codec.removesuffix('-stream')} data is cut off after {cut:,} bytes"
        messages = found.by_topic["/a"]
        assert [time_ns for time_ns, _ in messages] == [T0 + number for number in range(len(messages))]
        assert 2000 * cut // len(compressed) - lost - 60 <= len(messages) <= 2000


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
def test_a_wrong_checksum_is_said_and_nothing_lost(codec: str) -> None:
    data, messages = simple_mcap(chunks=50)
    packed = bytearray(COMPRESS[codec](data))
    packed[-6 if codec == "gzip" else -1] ^= 1
    found = read(bytes(packed))
    assert found.by_topic == by_topic(messages)
    assert len(found.reasons) == 1
    assert f"the {codec} data is damaged" in found.reasons[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_checksum_in_a_zip_is_said_and_nothing_lost(method: int) -> None:
    data, messages = simple_ros1(chunks=50)
    packed = bytearray(zipped({"x.bag": data, "y.bag": data}, method))
    place = packed.index(b"PK\x01\x02") + 16
    packed[place] ^= 1
    found = read(bytes(packed))
    assert len(found.messages) == 2 * len(messages)
    assert found.reasons == ["x.bag: its checksum is wrong"]


def test_sizes_that_lie_in_a_zip_are_said() -> None:
    data, messages = simple_ros1()
    packed = bytearray(zipped({"x.bag": data}))
    place = packed.index(b"PK\x01\x02") + 24
    packed[place : place + 4] = (len(data) - 5).to_bytes(4, "little")
    found = read(bytes(packed))
    assert found.by_topic == by_topic(messages)
    assert found.reasons == [f"x.bag: {len(data) - 5:,} bytes are recorded, {len(data):,} found"]


@pytest.mark.parametrize("pack", ["tar", "tar.gz", "tar.zst"])
def test_of_a_tar_that_is_cut_off_what_can_be_read_is_there(pack: str) -> None:
    data, messages = simple_ros1(chunks=100)
    tar = tarred({"a.bag": data, "b.bag": data})
    cut = tar[: len(tar) // 2 + 4000]
    found = read(cut if pack == "tar" else PACK[pack]({}) and COMPRESS["gzip"](cut))
    assert members(found) == ["a.bag", "b.bag"]
    assert len(messages) <= len(found.messages) < 2 * len(messages)
    assert any(reason.startswith("b.bag: it is cut off: ") for reason in found.reasons)
    assert any("the tar archive is cut off inside b.bag" in reason for reason in found.reasons)


def test_a_tar_without_an_end_is_said() -> None:
    data, messages = simple_ros1()
    tar = tarred({"a.bag": data}).rstrip(b"\0")
    tar += bytes(-len(tar) % 512)
    for packed in (tar, gzip.compress(tar)):
        found = read(packed)
        assert found.by_topic == by_topic(messages)
        assert found.reasons == ["the tar archive has no end mark: it may lack its last files"]


def test_a_broken_header_in_a_tar_is_said() -> None:
    data, messages = simple_ros1()
    tar = bytearray(tarred({"a.bag": data, "b.bag": data}))
    second = tar.index(b"b.bag")
    tar[second : second + 5] = b"c.baX"
    for packed in (bytes(tar), gzip.compress(tar)):
        found = read(packed)
        assert found.by_topic == by_topic(messages)
        assert found.reasons == ["the tar archive cannot be read from here on: bad checksum"]
        assert found.reader.damage[0].offset == second


def test_a_bag_in_an_archive_that_cannot_be_read_is_named_and_the_others_are_there() -> None:
    data, messages = simple_ros1()
    for pack in PACK.values():
        found = read(pack({"run/a.bag": b"hello", "run/b.bag": data, "run/c.mcap": data[:5000]}))
        inner = "inner.tar.xz/" if pack is PACK["tar.xz in zip"] else ""
        assert (
            by_topic(m for m in found.messages if m.topic == "/a")["/a"][:5] == by_topic(messages)["/a"][:5]
        )
        assert found.reasons[0].startswith(f"{inner}run/a.bag: neither a ROS 1 bag")
        assert any(reason.startswith(f"{inner}run/c.mcap: cut off inside") for reason in found.reasons)


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (gzip.compress(b"hello world"), r"\(gzip\): neither a ROS 1 bag"),
        (gzip.compress(b""), r"\(gzip\): the file is empty"),
        (b"\x28\xb5\x2f\xfd....", r"the file is empty .*; the zstd data is (cut off|damaged)"),
        (b"BZh91AY", r"the bzip2 data is cut off after 7 bytes"),
        (b"PK\x03\x04....", r"zip archive is cut off or damaged where its directory is .*: copy it again"),
        (zipped({"a.bag": b"x" * 999})[:-30], r"zip archive is cut off or damaged where its directory is"),
        (gzip.compress(zipped({"a.bag": b"x"})), r"a zip archive within compressed data.*: unpack it first"),
        (
            gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(b""))))),
            "packed more than 4 times over",
        ),
    ],
)
def test_refused(packed: bytes, message: str) -> None:
    with pytest.raises(BagError, match=message):
        read(packed)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (8, 0x1, r"x\.bag: it is encrypted: unpack the zip archive with its password first"),
        (
            10,
            9,
            r"x\.bag: it is packed with Deflate64, which is not supported .*: unpack the zip archive first",
        ),
        (10, 77, r"x\.bag: it is packed with method 77"),
        (42, 1, r"x\.bag: it is not where the zip archive's directory says"),
    ],
)
def test_a_zip_that_is_not_supported_is_refused_by_name(place: int, value: int, message: str) -> None:
    data, messages = simple_ros1()
    packed = bytearray(zipped({"x.bag": data, "y.bag": data}))
    entry = packed.index(b"PK\x01\x02")
    packed[entry + place] = value
    found = read(bytes(packed))
    assert found.by_topic == by_topic(messages)
    assert members(found) == ["y.bag"]
    assert re.match(message, found.reasons[0])


# --- archives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACK)
def test_the_bags_of_an_archive_one_after_the_other(
    samples: dict[str, bytes], pack: str, tmp_path: Path
) -> None:
    files = {
        "run/metadata.yaml": METADATA,
        "run/run_0.mcap": samples[".mcap"],
        "run/run_1.db3.zstd": COMPRESS["zstd"](samples[".db3"]),
        "other.bag": samples[".bag"],
        "README.md": b"hello",
        "._other.bag": b"junk of macOS",
        "photos/a.jpg": bytes(20_000),
    }
    found = read(PACK[pack](files), tmp_path)
    inner = "inner.tar.xz/" if pack == "tar.xz in zip" else ""
    names = ["other.bag", "run/run_0.mcap", "run/run_1.db3.zstd"]
    assert members(found) == [f"{inner}{name}" for name in names]
    assert found.is_as_expected
    parts = [read(samples[suffix], tmp_path) for suffix in (".mcap", ".db3", ".bag")]
    assert found.by_topic == by_topic(message for part in parts for message in part.messages)
    assert archive(found).remark == (
        f"3 files in it left, not a bag: {inner}README.md, {inner}._other.bag, {inner}photos/a.jpg"
    )


def test_no_scratch_but_for_sqlite(samples: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("scratch is used")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    files = {"a.bag": samples[".bag"], "b.mcap": samples[".mcap"]}
    for pack in PACK.values():
        assert read(pack(files)).is_as_expected
    with pytest.raises(AssertionError, match="scratch is used"):
        read(COMPRESS["zstd"](samples[".db3"]))


def test_scratch_is_given_back(
    samples: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = read(COMPRESS["zstd"](samples[".db3"]))
    assert found.is_as_expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pack", PACK)
def test_an_archive_without_bags_is_no_damage(pack: str) -> None:
    found = read(PACK[pack]({f"log/{number}.txt": b"text" for number in range(7)}))
    assert found.messages == []
    assert found.is_as_expected
    inner = "inner.tar.xz/" if pack == "tar.xz in zip" else ""
    shown = ", ".join(f"{inner}log/{number}.txt" for number in range(5))
    assert archive(found).remark == f"it holds no bag: {shown} and 2 more"


def test_a_file_without_a_name_in_a_zip_is_passed_over() -> None:
    bag, messages = simple_ros1()
    packed = bytearray(zipped({"x": b"nobody knows", "a.bag": bag}, zipfile.ZIP_STORED))
    entry = packed.index(b"PK\x01\x02")
    packed[entry + 28 : entry + 32] = b"\0\0\1\0"  # the byte of its name is another field's from here on
    found = read(bytes(packed))
    assert found.by_topic == by_topic(messages) and found.is_as_expected


def test_one_recording_that_is_there_twice_is_read_once() -> None:
    data, messages = simple_ros1()
    found = read(zipped({"x.bag": data, "x.orig.bag": data, "sub/x.bag": data}))
    assert members(found) == ["sub/x.bag", "x.bag"]
    assert len(found.messages) == 2 * len(messages)
    assert found.reasons == [
        "x.orig.bag: it seems to be the same recording as x.bag, whose rows would be there twice: not read"
    ]


def test_counts_that_an_index_in_it_does_not_promise_are_said() -> None:
    good, _ = simple_mcap()
    no_index, _ = simple_mcap(summary=False)
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(1, 1, "/lost")))
    file.count({1: 2})
    files = {"good.mcap": good, "lost.mcap": file.bytes()}
    found = read(zipped(files))
    assert found.reader.expected_counts() != found.reader.counts
    found = read(zipped({**files, "no_index.mcap": no_index}))
    assert found.reader.expected_counts() is None
    assert found.reasons == ["an index in it promises other counts: lost.mcap: /lost 2 (0 found)"]


def test_names_that_are_not_text_or_lead_elsewhere() -> None:
    data, _ = simple_ros1()
    tar = tarred({"../up/a.bag": data, "./b.bag": data, "/c.bag": data}, tarfile.GNU_FORMAT)
    odd = tarred({"d-\udcff.bag": data}, tarfile.GNU_FORMAT)
    assert members(read(tar)) == ["../up/a.bag", "b.bag", "c.bag"]
    assert members(read(odd)) == ["d-\\xff.bag"]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here to make a sparse member")
def test_sparse_members_of_a_tar(tmp_path: Path) -> None:
    data, messages = simple_ros1(gap=2_000_000)
    hole = data.index(bytes(1_000_000))
    with (tmp_path / "x.bag").open("wb") as file:
        file.write(data[:hole])
        file.seek(hole + 1_000_000)
        file.write(data[hole + 1_000_000 :])
    for dialect in ("gnu", "posix"):
        command = ["tar", "-S", f"--format={dialect}", "-C", str(tmp_path), "-cf", str(tmp_path / "x.tar")]
        subprocess.run([*command, "x.bag"], check=True)
        tar = (tmp_path / "x.tar").read_bytes()
        for packed in (tar, gzip.compress(tar)):
            found = read(packed)
            assert found.is_as_expected
            assert found.by_topic == by_topic(messages)


def test_what_sqlite_left_beside_a_bag_is_said(samples: dict[str, bytes], tmp_path: Path) -> None:
    files = {"x.db3": samples[".db3"], "x.db3-wal": b"messages", "x.db3-shm": b"none", "y.db3-wal": b""}
    found = read(zipped(files), tmp_path)
    assert found.reasons == [
        "x.db3-wal: what SQLite left beside a bag is not read in an archive: unpack it for all messages"
    ]
    assert archive(found).remark == ""


def test_links_of_a_tar_are_left() -> None:
    data, messages = simple_ros1()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        header = tarfile.TarInfo("x.bag")
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))
        link = tarfile.TarInfo("link.bag")
        link.type, link.linkname = tarfile.SYMTYPE, "x.bag"
        tar.addfile(link)
    found = read(buffer.getvalue())
    assert found.by_topic == by_topic(messages)
    assert archive(found).remark == "1 file in it left, not a bag: link.bag"


def test_a_bomb_takes_time_but_no_memory() -> None:
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(1, 1, "/a")))
    file.add(mcap_message(1, 1, T0, b"before"))
    file.add(mcap_record(9, bytes(150 << 20)))  # an attachment
    file.add(mcap_message(1, 2, T0, b"after"))
    file.count({1: 2})
    packed = COMPRESS["zstd"](zipped({"x.mcap.gz": gzip.compress(file.bytes(), 1)}, zipfile.ZIP_STORED))
    del file
    bomb = zstandard.decompress(packed)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    found = read(bomb)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.payloads("/a") == [b"before", b"after"]
    assert found.is_as_expected
    assert peak_bytes < 64 << 20
