"""Bags made to do harm: what they make the engine do, from bag to lake."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import lz4.frame
import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard

from ros_to_parquet import run
from ros_to_parquet.bag import index, streams
from ros_to_parquet.bag.model import MAX_DAMAGE
from ros_to_parquet.contract import BagResult, BagStatus, ExitCode, Manifest, TopicResult, table_name
from ros_to_parquet.memory import DECODER_BYTES, DEFAULT_BUDGET, TABLE_BYTES
from tests.engine.bag.bag_bytes import (
    MCAP_MAGIC,
    T0,
    McapFile,
    Ros1Bag,
    mcap_attachment,
    mcap_channel,
    mcap_chunk,
    mcap_header,
    mcap_message,
    mcap_metadata,
    mcap_record,
    mcap_schema,
    ros1_bag_header,
    ros1_chunk,
    ros1_message,
    ros1_record,
    text,
    u32,
)
from tests.engine.hostile import extract

CDR = b"\0\1\0\0"
MCAP_END = mcap_record(15, u32(0)) + mcap_record(2, struct.pack("<QQI", 0, 0, 0)) + MCAP_MAGIC


def cdr(value: str) -> bytes:
    return CDR + u32(len(value) + 1) + value.encode() + b"\0"


def mcap_of(*records: bytes, topic: str = "/a") -> bytes:
    head = MCAP_MAGIC + mcap_header() + mcap_schema(1) + mcap_channel(1, 1, topic)
    return head + b"".join(records) + MCAP_END


BEFORE, AFTER = mcap_message(1, 0, T0, cdr("before")), mcap_message(1, 1, T0 + 1, cdr("after"))


class Lake:
    """What became of one bag."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.exit_code = run.exit_code(manifest)
        for topic in manifest.topics:
            assert topic.messages == topic.rows + topic.rejected

    @property
    def bag(self) -> BagResult:
        return self.manifest.bags[0]

    @property
    def reasons(self) -> list[str]:
        return [damage.reason for damage in self.bag.damage]

    @property
    def topics(self) -> dict[str, TopicResult]:
        return {topic.topic: topic for topic in self.manifest.topics}

    def texts(self) -> list[str]:
        """Of all topics that are strings, in the order of the log times."""
        tables = [
            pq.read_table(self.folder / file.path)
            for topic in self.manifest.topics
            for file in topic.files
            if topic.type_name.endswith("/String")
        ]
        rows = [
            row
            for table in tables
            for row in zip(table["log_time_ns"].to_pylist(), table["data"].to_pylist(), strict=True)
        ]
        return [value for _, value in sorted(rows)]


Extract = Callable[[str, bytes], Lake]


@pytest.fixture
def made(tmp_path: Path) -> Extract:
    """Extracts a bag of these bytes. What it writes outside of the lake is an error."""

    def extracted(name: str, data: bytes) -> Lake:
        bag = tmp_path / "bags" / name
        bag.parent.mkdir(exist_ok=True)
        if data:
            bag.write_bytes(data)
        lake = tmp_path / "far" / "down" / "lake"
        manifest = extract(bag, lake)
        outside = [path for path in tmp_path.rglob("*") if path.is_file() and lake not in path.parents]
        assert outside == [bag]
        return Lake(lake, manifest)

    return extracted


# --- names ------------------------------------------------------------------------------------------

NAMES = [
    *("../../etc", "/../../etc/passwd", "/", "//", "///", "/.", "/..", "/a\0b", "/a\nb", "/a%2Fb", "/a b"),
    *(
        "/\u202eevil\u202c",
        "/\N{GRINNING FACE}",
        "/e\u0301",
        "/\u00e9",
        "/\u0639\u0631\u0628",
        "/Foo",
        "/foo",
    ),
    *("/" + "x" * 300, "/" + "x" * 301, "/" + "\N{GRINNING FACE}" * 100, "/" + "n" * 60_000),
    *("/con", "/a\\b", "C:\\x", "/a=b", "/schema=00", "/_x", "/.hidden", "//.hidden", "~", "/\x7f"),
]
"""What a topic may be called that a file system, a shell or a query engine would make something of."""


def named_mcap() -> bytes:
    pieces = [MCAP_MAGIC + mcap_header() + mcap_schema(1)]
    for number, name in enumerate(NAMES):
        pieces += [mcap_channel(number, 1, name), mcap_message(number, 0, T0 + number, cdr(f"{number}"))]
    return b"".join([*pieces, MCAP_END])


def named_ros1() -> bytes:
    bag = Ros1Bag()
    records = []
    for number, name in enumerate(NAMES):
        payload = u32(len(f"{number}")) + f"{number}".encode()
        records += [bag.connection(number, name), ros1_message(number, T0 + number, payload)]
    bag.chunk(records, dict.fromkeys(range(len(NAMES)), 1))
    return bag.bytes()


TOPICS = """CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT,
    offered_qos_profiles TEXT);"""
MESSAGES = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"


def database(script: str, topics: Sequence[str] = ("/a",), rows: Sequence[tuple[object, ...]] = ()) -> bytes:
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(script)
        made.executemany(
            "INSERT INTO topics VALUES(?, ?, 'std_msgs/msg/String', 'cdr', '')", enumerate(topics, start=1)
        )
        made.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", rows)
        made.commit()
        return made.serialize()


def named_sqlite() -> bytes:
    rows = [(number + 1, T0 + number, cdr(f"{number}")) for number in range(len(NAMES))]
    return database(TOPICS + MESSAGES, NAMES, rows)


@pytest.mark.parametrize(
    ("ending", "make"), [(".mcap", named_mcap), (".bag", named_ros1), (".db3", named_sqlite)]
)
def test_no_topic_chooses_where_it_is_written(made: Extract, ending: str, make: Callable[[], bytes]) -> None:
    lake = made(f"a{ending}", make())
    assert lake.bag.status is BagStatus.OK
    assert sorted(lake.topics) == sorted(NAMES)
    assert all(topic.rows == 1 for topic in lake.topics.values())
    assert sorted(lake.texts(), key=int) == [f"{number}" for number in range(len(NAMES))]
    tables = {path.name for path in lake.folder.iterdir()} - {"_plans", "_manifests", "_leases", "_quality"}
    assert tables >= {table_name(name) for name in NAMES}
    assert all(name.isascii() and len(name) <= 200 and name[0] not in "." for name in tables)


def test_names_of_attachments_are_no_paths(made: Extract) -> None:
    names = [
        "../../../etc/cron.d/x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\0b",
        "a\nb",
        "C:\\x",
        "x" * 5000,
        "\u202egpj",
    ]
    lake = made("a.mcap", mcap_of(BEFORE, *(mcap_attachment(name, b"content") for name in names), AFTER))
    assert [kept.name for kept in lake.bag.attachments] == names
    for kept in lake.bag.attachments:
        assert (lake.folder / kept.path).resolve().is_relative_to(lake.folder)
        assert (lake.folder / kept.path).read_bytes() == b"content"
        assert kept.path.isascii() and ".." not in kept.path.split("/")


def test_members_of_an_archive_are_no_paths(made: Extract) -> None:
    names = [
        "../../x.mcap",
        "/etc/y.mcap",
        "a/../../z.mcap",
        "\u202ee.mcap",
        "new\nline.mcap",
        "x" * 300 + ".mcap",
    ]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, name in enumerate(names):
            data = mcap_of(mcap_message(1, 0, T0 + number, cdr(f"{number}")))
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            header = tarfile.TarInfo(f"link{kind.decode()}.mcap")
            header.type, header.linkname = kind, "/etc/passwd"
            tar.addfile(header)
    lake = made("a.tar", file.getvalue())
    assert sorted(lake.texts()) == [f"{number}" for number in range(len(names))]
    assert "4 files in it left, not a bag" in lake.bag.remarks[0]


# --- times ------------------------------------------------------------------------------------------


def test_times_at_the_ends_of_what_can_be_said(made: Extract) -> None:
    """MCAP's are unsigned: from 2^63 on they are those below zero, as `rebuild` takes them back."""
    times = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]
    messages = [
        mcap_record(5, struct.pack("<HIQQ", 1, number, time, time) + cdr(f"{number}"))
        for number, time in enumerate(times)
    ]
    lake = made("a.mcap", mcap_of(*messages))
    (file,) = lake.topics["/a"].files
    rows = pq.read_table(lake.folder / file.path)["log_time_ns"].to_pylist()
    assert sorted(rows) == sorted(time - (time >> 63 << 64) for time in times)


def test_times_of_ros1_of_any_bits(made: Extract) -> None:
    pairs = [(0, 0), (2**32 - 1, 10**9 - 1), (2**32 - 1, 2**32 - 1), (0, 2**32 - 1), (2**31, 2**31)]
    bag = Ros1Bag()
    records = [bag.connection(0, "/a")]
    for pair in pairs:
        header = {"op": b"\2", "conn": u32(0), "time": struct.pack("<II", *pair)}
        records.append(ros1_record(header, u32(1) + b"x"))
    bag.chunk(records, {0: len(pairs)})
    lake = made("a.bag", bag.bytes())
    (file,) = lake.topics["/a"].files
    rows = pq.read_table(lake.folder / file.path)["log_time_ns"].to_pylist()
    assert sorted(rows) == sorted(seconds * 10**9 + nanoseconds for seconds, nanoseconds in pairs)
    assert lake.bag.status is BagStatus.OK


# --- databases that are programs --------------------------------------------------------------------

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
VIEW = f"{ENDLESS} SELECT x AS rowid, x AS id, 1 AS topic_id, x AS timestamp, x'00' AS data FROM c"
TOPICS_VIEW = f"{ENDLESS} SELECT x AS id, '/a' AS name, 'T' AS type, 'cdr' AS serialization_format FROM c"


COMPUTED = (
    "id INTEGER PRIMARY KEY, topic_id, timestamp, data GENERATED ALWAYS AS (zeroblob(1000000000)) VIRTUAL"
)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"{TOPICS} CREATE VIEW messages AS {VIEW};", "its 'messages' is not a table but of kind 'view'"),
        (
            f"{MESSAGES} CREATE VIEW topics AS {TOPICS_VIEW};",
            "its 'topics' is not a table but of kind 'view'",
        ),
        (f"{TOPICS} CREATE TABLE messages({COMPUTED});", "its 'messages' has columns that are computed"),
        (
            f"{TOPICS} CREATE TABLE messages(rowid, oid, _rowid_, topic_id, data);",
            "its messages have no row ids",
        ),
        (
            f"{TOPICS} CREATE VIRTUAL TABLE messages USING fts5(topic_id, timestamp, data);",
            "of kind 'virtual'",
        ),
    ],
)
def test_databases_that_make_rows_up_are_refused(made: Extract, script: str, reason: str) -> None:
    lake = made("a.db3", database_of(script))
    assert lake.exit_code is ExitCode.BAG_UNREADABLE
    assert reason in lake.reasons[0]


def database_of(script: str) -> bytes:
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(script)
        return made.serialize()


def test_values_of_any_kind_in_a_database(made: Extract) -> None:
    lake = made(
        "a.db3",
        database(
            TOPICS + MESSAGES,
            rows=[
                *((1, time, cdr("x")) for time in (0, 2**63 - 1, -(2**63), "q", 1.5, None, "9" * 30)),
                *((1, 1, data) for data in ("text", 3, None, 2.5)),
                *((topic, 1, cdr("x")) for topic in ("z", None, 2**62, -1)),
            ],
        ),
    )
    assert lake.bag.extracted == 11 and lake.topics["/a"].rows == 7
    assert sum(int(reason.split()[0]) for reason in lake.reasons if "never defines" in reason) == 4


def test_texts_of_a_database_that_are_too_long_are_left_out(made: Extract) -> None:
    data = database(TOPICS + MESSAGES, ["/a", "/b" * (1 << 20)], [(1, T0, cdr("x")), (2, T0 + 1, cdr("y"))])
    lake = made("a.db3", data)
    assert lake.texts() == ["x", "y"]
    assert "1 rows of its table 'topics' have text of more than 1,048,576 bytes" in lake.reasons[0]


# --- indexes, ids and checksums that lie ------------------------------------------------------------


@pytest.mark.parametrize("which", ["the header", "the first chunk"])
def test_a_record_that_swallows_a_chunk(made: Extract, which: str) -> None:
    """By the index a chunk begins within it: that one is read, and so is what the record holds."""
    file = McapFile()
    head = file.define(mcap_schema(1), mcap_channel(1, 1, "/a"))
    file.chunk(head + BEFORE, {1: 1})
    place = len(file.data)
    file.chunk(AFTER, {1: 1})
    first = MCAP_MAGIC + mcap_header()
    data = bytearray(file.bytes())
    offset = len(MCAP_MAGIC if which == "the header" else first)
    data[offset + 1 : offset + 9] = struct.pack("<Q", place - len(first) - 9 + 40)
    lake = made("a.mcap", bytes(data))
    assert lake.reasons[0].endswith("but a chunk begins within it")
    assert lake.texts() == ["before", "after"]


def test_an_index_of_places_where_no_chunk_is_loses_nothing(made: Extract) -> None:
    file = McapFile()
    file.chunk(file.define(mcap_schema(1), mcap_channel(1, 1, "/a")) + BEFORE, {1: 1})
    file.chunk(AFTER, {1: 1})
    start = struct.pack("<QQ", T0, file.chunk_places[1])
    file.chunk_indexes = file.chunk_indexes.replace(start, struct.pack("<QQ", T0, file.chunk_places[1] - 30))
    assert made("a.mcap", file.bytes()).texts() == ["before", "after"]


def test_a_chunk_that_is_none_any_more_is_missed(made: Extract) -> None:
    """Without a summary nothing else tells: the index of its messages is left over."""
    file = McapFile()
    file.chunk(file.define(mcap_schema(1), mcap_channel(1, 1, "/a")) + BEFORE, {1: 1})
    file.chunk(AFTER, {1: 1})
    data = bytearray(file.bytes(summary=False))
    data[file.chunk_places[1]] = 0xF9
    lake = made("a.mcap", bytes(data))
    assert lake.texts() == ["before"]
    assert "an index of messages that follows no chunk" in lake.reasons[0]


@pytest.mark.parametrize("place", ["a message", "the header", "nowhere"])
def test_the_checksum_of_all_data(made: Extract, place: str) -> None:
    """Of messages outside of chunks it is the only one."""
    data = mcap_of(BEFORE, AFTER)
    end = data.rindex(MCAP_END)
    data = data[:end] + mcap_record(15, u32(zlib.crc32(data[:end]))) + data[end + 13 :]
    changed = {"a message": data.index(b"after"), "the header": data.index(b"tests"), "nowhere": len(data)}[
        place
    ]
    lake = made("a.mcap", data[:changed] + data[changed : changed + 1].swapcase() + data[changed + 1 :])
    assert lake.texts() == ["before", "After" if place == "a message" else "after"]
    assert any("checksum of all its data is wrong" in reason for reason in lake.reasons) == (
        place != "nowhere"
    )


def test_a_bag_header_that_leads_astray(made: Extract) -> None:
    bag = Ros1Bag()
    bag.chunk([bag.connection(0, "/a"), ros1_message(0, T0, u32(1) + b"x")], {0: 1})
    data = bytearray(bag.bytes())
    place = 13 + 4 + int.from_bytes(data[13:17], "little")
    data[place] ^= 0x40
    lake = made("a.bag", bytes(data))
    assert lake.texts() == ["x"] and lake.bag.status is BagStatus.DAMAGED


def test_ids_that_overlap_between_chunks_and_the_summary(made: Extract) -> None:
    """The summary calls channel 1 another name and type; what is beside the messages counts for them."""
    file = McapFile()
    file.define(mcap_schema(1, "std_msgs/msg/Int8", data="int8 data"), mcap_channel(1, 1, "/other"))
    file.chunk(mcap_schema(1) + mcap_channel(1, 1, "/a") + BEFORE, {1: 1})
    file.chunk(mcap_schema(1) + mcap_channel(1, 1, "/a") + AFTER, {1: 1})
    lake = made("a.mcap", file.bytes())
    assert lake.texts() == ["before", "after"] and set(lake.topics) == {"/a"}


def test_a_definition_in_the_midst_of_many(made: Extract) -> None:
    """One id, meant in a hundred ways within a chunk: each message goes to the last one before it."""
    content = mcap_schema(1)
    for number in range(200):
        content += mcap_channel(1, 1, f"/t{number % 100}")
        content += mcap_message(1, number, T0 + number, cdr(f"{number}")) * (1 + number % 2)
    lake = made("a.mcap", MCAP_MAGIC + mcap_header() + mcap_chunk(content, "zstd") + MCAP_END)
    assert len(lake.topics) == 100
    for number in range(100):
        assert lake.topics[f"/t{number}"].rows == 2 * (1 + number % 2)


# --- floods -----------------------------------------------------------------------------------------


def test_what_is_found_wrong_is_bounded(made: Extract) -> None:
    broken = struct.pack("<BQ", 3, 0) * 5000  # schemas without anything
    lake = made("a.mcap", mcap_of(BEFORE, broken, AFTER))
    assert lake.texts() == ["before", "after"]
    assert 0 < len(lake.reasons) <= MAX_DAMAGE


def test_messages_of_connections_that_are_many_and_not_defined(made: Extract) -> None:
    bag = Ros1Bag()
    records = [bag.connection(0, "/a"), ros1_message(0, T0, u32(1) + b"x")]
    records += [ros1_message(number, T0, b"") for number in range(1, 2001)]
    bag.chunk(records, {0: 1})
    lake = made("a.bag", bag.bytes(indexed=False))
    assert lake.texts() == ["x"]
    assert any("messages of others, which the bag never defines" in reason for reason in all_damage(lake))


def all_damage(lake: Lake) -> list[str]:
    return [damage.reason for bag in lake.manifest.bags for damage in bag.damage]


def test_an_index_that_names_too_much_is_not_followed(made: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_CONNECTIONS", 1)
    bag = Ros1Bag()
    bag.chunk(
        [bag.connection(0, "/a"), ros1_message(0, T0, u32(1) + b"x"), bag.connection(1, "/b")], {0: 1, 1: 0}
    )
    lake = made("a.bag", bag.bytes())
    assert lake.texts() == ["x"]
    assert "it names more than 1 connections" in lake.reasons[0]


def test_more_tables_than_there_is_room_for_are_counted_rejects(tmp_path: Path) -> None:
    budget = dataclasses.replace(DEFAULT_BUDGET, tables=2 * TABLE_BYTES + 2 * DECODER_BYTES + 1)
    content = [mcap_channel(n, 1, f"/t{n}") + mcap_message(n, 0, T0 + n, cdr(f"{n}")) for n in range(2, 9)]
    bags, lake = tmp_path / "bags", tmp_path / "lake"
    bags.mkdir()
    for number in range(2):
        (bags / f"{number}.mcap").write_bytes(mcap_of(*content))
    manifest = extract(bags, lake, budget)
    assert [(topic.rows, topic.rejected) for topic in manifest.topics] == [(2, 0)] * 3 + [(0, 2)] * 4
    assert manifest.topics[3].rejects[0].reason == (
        "a table more than the memory limit has room for (3 are there): raise --memory-limit to 2048MiB, or "
        "choose topics"
    )


def test_more_connections_than_there_is_room_for_are_said(tmp_path: Path) -> None:
    budget = dataclasses.replace(DEFAULT_BUDGET, limit=8 * 5 * 2100)
    content = [mcap_channel(n, 1, f"/t{n}") + mcap_message(n, 0, T0 + n, cdr(f"{n}")) for n in range(2, 9)]
    bag = tmp_path / "a.mcap"
    bag.write_bytes(mcap_of(*content))
    manifest = extract(bag, tmp_path / "lake", budget)
    assert sum(topic.rows for topic in manifest.topics) == 4
    assert manifest.bags[0].damage[0].reason == (
        "3 messages of connections past the first 5, for which the memory limit has no room: raise "
        "--memory-limit to 1MiB"
    )


def test_names_and_metadata_of_any_size_are_bounded(made: Extract) -> None:
    flood = [mcap_metadata("n" * 200_000 + str(number)) for number in range(20)]
    flood += [mcap_attachment("n" * 60_000 + str(number), b"x") for number in range(20)]
    lake = made("a.mcap.zst", zstandard.compress(mcap_of(BEFORE, *flood, AFTER)))
    assert lake.texts() == ["before", "after"]
    assert len(lake.bag.metadata) == 1 and len(lake.bag.attachments) == 4
    assert lake.bag.extras_left_out == 35


# --- definitions ------------------------------------------------------------------------------------


def deep_msg(depth: int) -> str:
    line = "=" * 80
    return "".join(f"p/T{n + 1} x\n{line}\nMSG: p/T{n + 1}\n" for n in range(depth)) + "int8 z\n"


def deep_idl(depth: int) -> str:
    structs = "".join(f"struct T{n} {{ T{n + 1} x; }};\n" for n in range(depth - 1, -1, -1))
    return f"module p {{ module msg {{ struct T{depth} {{ long z; }};\n{structs}}};}};"


def deep_protobuf(depth: int) -> bytes:
    """Messages defined within one another."""

    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    inner = field(1, b"L")
    for number in range(depth):
        inner = field(1, b"N%d" % number) + field(3, inner)
    return field(1, field(1, b"a.proto") + field(2, b"p") + field(4, inner) + field(12, b"proto3"))


def protobuf_imports(count: int) -> bytes:
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet()
    for number in range(count):
        file = files.file.add(name=f"f{number}.proto", package="p", syntax="proto3")
        file.message_type.add(name=f"T{number}")
        if number + 1 < count:
            file.dependency.append(f"f{number + 1}.proto")
    return bytes(files.SerializeToString())


def empties(field: str) -> str:
    """Of ROS 1 a message without fields has no bytes, and so has an array of any number of it."""
    return f"{field}\n{'=' * 80}\nMSG: p/T1\n{'=' * 80}\nMSG: p/T2\np/T1[900000000] x\n"


DEPTH = 1000
DEFINITIONS: list[tuple[str, str, str | bytes, str, str]] = [
    ("p/msg/T0", "ros2msg", deep_msg(DEPTH), "cdr", "nested deeper than 64 messages"),
    ("p/msg/T0", "ros2msg", "p/T0 x\n", "cdr", "its definition is recursive: p/msg/T0 -> p/msg/T0"),
    ("p/T0", "ros1msg", deep_msg(DEPTH), "ros1", "nested deeper than 64 messages"),
    ("p/T0", "ros1msg", "p/T0[] x\n", "ros1", "its definition is recursive: p/msg/T0 -> p/msg/T0"),
    ("p/msg/T0", "ros2idl", deep_idl(DEPTH), "cdr", "nested deeper than 64 messages"),
    ("p/msg/T0", "ros2idl", deep_idl(10).replace("long z", "T0 z"), "cdr", "its definition is recursive"),
    (
        *("p/msg/T0", "ros2idl"),
        f"module p {{ module msg {{ struct T0 {{ {'sequence<' * DEPTH}long{'>' * DEPTH} x; }};}};}};",
        *("cdr", "nested too deeply"),
    ),
    (
        *("p/msg/T0", "ros2idl"),
        f"module p {{ module msg {{ const long A = {'1+' * 100_000}1; struct T0 {{ long x[A]; }};}};}};",
        *("cdr", "is past 50,000 words and signs"),
    ),
    ("p/msg/T0", "ros2msg", "int8 x\n" * 150_000, "cdr", "its definition has 1,050,000 characters"),
    ("p/msg/T0", "ros2msg", f"int8[{'9' * 4000}] x\n", "cdr", "bytes a message, more than"),
    ("p/T0", "ros1msg", empties("p/T1[400000000] x"), "ros1", "400000000 values in 0 bytes"),
    ("p/T0", "ros1msg", empties("p/T1[4000000000] x"), "ros1", "4000000000 values in 0 bytes"),
    ("p/T0", "ros1msg", empties("p/T2[] x"), "ros1", "900000000 values in 0 bytes"),
    ("j", "jsonschema", '{"properties":{"x":' * DEPTH + "{}" + "}}" * DEPTH, "json", "recursion depth"),
    ("j", "jsonschema", "[" * 100_000, "json", "recursion depth"),
    ("j", "jsonschema", '{"properties":{"x":{"$ref":"#"}}}', "json", "not UTF-8 text"),
    ("j", "jsonschema", r'{"properties":{"\ud800":{},"a\u0000b":{},"":{}}}', "json", "not UTF-8 text"),
    ("j", "jsonschema", '{"properties":{"x":{}},"required":[["x"],{}]}', "json", "not UTF-8 text"),
    ("p.N999", "protobuf", deep_protobuf(DEPTH), "protobuf", "its protobuf schema"),
    ("p.T0", "protobuf", protobuf_imports(2 * DEPTH), "protobuf", "its protobuf schema is nested too deep"),
]


def test_definitions_that_are_deep_recursive_or_huge(made: Extract) -> None:
    """Rejects that say why, and all other topics are there."""
    records = [BEFORE]
    for number, (name, kind, definition, encoding, _) in enumerate(DEFINITIONS, start=2):
        records += [
            mcap_schema(number, name, kind, definition),
            mcap_channel(number, number, f"/t{number}", encoding),
            mcap_message(number, 0, T0, b"\xff" * 40),
        ]
    lake = made("a.mcap", mcap_of(*records, AFTER))
    assert lake.texts() == ["before", "after"]
    for number, (*_, reason) in enumerate(DEFINITIONS, start=2):
        topic = lake.topics[f"/t{number}"]
        assert (topic.rows, topic.rejected) == (0, 1)
        assert reason in topic.rejects[0].reason, topic.rejects[0].reason[:300]


# --- bombs ------------------------------------------------------------------------------------------


def test_a_zip_whose_files_lie_within_one_another(made: Extract) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0000000.mcap", mcap_of(BEFORE, AFTER))
    data = file.getvalue()
    directory, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = data[directory:end]
    entries = b"".join(entry.replace(b"0000000", b"%07d" % number) for number in range(500))
    tail = bytearray(data[end:])
    tail[8:16] = struct.pack("<HHI", 500, 500, len(entries))
    lake = made("a.zip", data[:directory] + entries + bytes(tail))
    assert lake.texts() == ["before", "after"]
    assert len(lake.reasons) == 100 and "lies within the file before it" in lake.reasons[0]


def test_a_zip_with_a_file_without_a_name(made: Extract) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mcap", mcap_of(BEFORE, AFTER))
        archive.writestr("x", b"")
    data = bytearray(file.getvalue())
    place = data.rindex(b"PK\1\2")
    data[place + 28 : place + 32] = struct.pack("<HH", 0, 0)  # of a name, and of what follows it
    data[place + 32 : place + 34] = struct.pack("<H", 1)  # which is a comment now
    assert made("a.zip", bytes(data)).texts() == ["before", "after"]


@pytest.fixture
def small_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a bomb at 16 GiB is one at 2 MiB."""
    monkeypatch.setattr(streams, "FREE_BYTES", 2 << 20)
    monkeypatch.setattr(streams, "MAX_RATIO", 100)


@pytest.mark.usefixtures("small_bombs")
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_what_unpacks_without_end_is_given_up(made: Extract, pack: Callable[[bytes], bytes]) -> None:
    ending = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz", zstandard.compress: "zst"}[pack]
    attachment = mcap_record(9, bytes(20 << 20))
    lake = made(f"a.mcap.{ending}", pack(mcap_of(BEFORE, attachment, AFTER)))
    assert lake.texts() == ["before"]
    assert any(reason.startswith(streams.BOMB) for reason in lake.reasons)


@pytest.mark.usefixtures("small_bombs")
@pytest.mark.parametrize("compression", ["lz4", "bz2"])
def test_chunks_that_unpack_without_end_are_given_up(made: Extract, compression: str) -> None:
    bag = Ros1Bag()
    head = bag.connection(0, "/a") + ros1_message(0, T0, u32(1) + b"x")
    bomb = ros1_chunk(ros1_message(0, T0, u32((2 << 20) - 4) + bytes((2 << 20) - 4)), compression)
    data = b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0) + ros1_chunk(head, "lz4") + bomb * 8
    lake = made("a.bag", data)
    assert 1 < lake.bag.messages < 8
    assert streams.BOMB in lake.reasons


def test_a_chunk_is_not_unpacked_past_what_it_says(made: Extract) -> None:
    bag = Ros1Bag()
    head = bag.connection(0, "/a") + ros1_message(0, T0, u32(6) + b"before")
    stored, size = lz4.frame.compress(head + bytes(80 << 20)), 40 << 20
    bomb = ros1_record({"op": b"\5", "compression": b"lz4", "size": u32(size)}, stored)
    data = b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0) + bomb
    lake = made("a.bag", data + ros1_chunk(ros1_message(0, T0 + 1, u32(5) + b"after"), "bz2"))
    assert lake.texts() == ["before", "after"]
    assert f"{size:,} bytes recorded, more found" in lake.reasons[0]


@pytest.mark.parametrize("size", [1 << 62, 1 << 63, (1 << 64) - 1])
def test_chunks_and_records_in_them_of_sizes_past_all_places(made: Extract, size: int) -> None:
    content = BEFORE + struct.pack("<BQ", 5, size - 100) + bytes(50)
    body = struct.pack("<QQQI", T0, T0, size, 0) + text("") + struct.pack("<Q", len(content)) + content
    assert "before" in made("a.mcap.zst", zstandard.compress(mcap_of(mcap_record(6, body)))).texts()


def test_a_window_that_is_larger_than_what_is_left_for_it(made: Extract) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = stream.compress(mcap_of(BEFORE, mcap_record(9, bytes(1 << 20)))) + stream.flush()
    lake = made("a.mcap.zst", data)
    assert lake.exit_code is ExitCode.BAG_UNREADABLE
    assert "134,217,728 bytes of memory that are left to unpack it: unpack it first" in lake.reasons[0]
    assert "--memory-limit" not in lake.reasons[0], "no more is given, whatever the limit"


def test_headers_that_are_none(made: Extract) -> None:
    """Of many records in a chunk, each of another kind of nonsense."""
    garbage = np.random.default_rng(1).integers(0, 256, (20_000, 12), dtype=np.uint8)
    garbage[:, :4], garbage[:, 8:] = [4, 0, 0, 0], 0
    bag = Ros1Bag()
    bag.chunk(
        [
            *(bag.connection(0, "/a"), ros1_message(0, T0, u32(6) + b"before")),
            *(garbage.tobytes(), ros1_message(0, T0 + 1, u32(5) + b"after")),
        ],
        {0: 2},
        "lz4",
    )
    lake = made("a.bag", bag.bytes())
    assert lake.texts() == ["before", "after"]
    assert "of its records have unreadable headers" in lake.reasons[0]
