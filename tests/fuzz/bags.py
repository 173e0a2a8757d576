"""The targets of the bag readers: what must hold of any bytes, and of bags that something was done to."""

from __future__ import annotations

import gzip
import io
import resource
import sqlite3
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from ros_to_parquet.bag import BagError, open_bag
from ros_to_parquet.bag.archive import ArchiveReader
from ros_to_parquet.bag.model import MessageBlock
from ros_to_parquet.contract import ExtractOptions
from ros_to_parquet.decoders import Decoders, prepare
from ros_to_parquet.definitions import STANDARD_TYPES, DefinitionError
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.memory import LEAST_LIMIT_BYTES, share_out
from ros_to_parquet.run import JobIdentity, run_shard
from tests.engine.bag.bag_bytes import (
    T0,
    McapFile,
    Memory,
    Message,
    Read,
    Ros1Bag,
    mcap_attachment,
    mcap_channel,
    mcap_message,
    mcap_metadata,
    mcap_schema,
    read,
    ros1_index,
    ros1_message,
)
from tests.fuzz import mcap_file, packed_file, ros1_file, sqlite_file

BUDGET = share_out(LEAST_LIMIT_BYTES)
NARROW = replace(BUDGET, window=4096, chunk=64, joined=256, block=4096)
"""Chunks are decompressed as they are read, and blocks are small."""


@dataclass(frozen=True)
class Seed:
    """A bag, its messages in the order of the file, and how many of them lie before what was done to it."""

    name: str
    data: bytes
    messages: Sequence[Message]
    before_damage: Callable[[bytes], int]


# --- what must hold ---------------------------------------------------------------------------------


def check(data: bytes, seeds: Sequence[Seed], *, variants: Sequence[str] | None = None) -> None:
    """Reads a bag and checks what holds for any bytes, and what is known of it from ``seeds``.

    Args:
        variants: in which other ways to read it, of `VARIANTS`; by default one, which the bytes choose,
            seldom the slow one.
    """
    if variants is None:
        *quick, slow = VARIANTS
        choice = zlib.crc32(data) % 50
        variants = [quick[choice % len(quick)] if choice else slow]
    with memory_within_limit():
        found = _read(data)
        known: Counter[Message] = Counter()
        for seed in seeds:
            known |= Counter(seed.messages[: seed.before_damage(data)])
        if found is None:
            assert not known, f"refused, {known.total()} messages are before the damage"
            return
        _assert_has(found.messages, known)
        for variant in variants:
            try:
                VARIANTS[variant](data, found, known)
            except BagError:  # what SQLite makes of a broken page is not the same every time
                assert found.reader.damage and not known


@contextmanager
def memory_within_limit() -> Iterator[None]:
    """The process's peak grows by the memory limit at most."""
    before = _peak_bytes()
    yield
    used = _peak_bytes() - before
    assert used <= BUDGET.limit, f"{used:,} bytes of memory for a limit of {BUDGET.limit:,}"


def _read(data: bytes) -> Read | None:
    try:
        return read(Memory(data), budget=BUDGET)
    except BagError as error:
        assert str(error)
        return None


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _assert_has(messages: Iterable[Message], known: Counter[Message]) -> None:
    lost = known - Counter(messages)
    assert not lost, f"of {known.total()} messages before the damage {lost.total()} are not there: {lost}"


def _narrow(data: bytes, found: Read, known: Counter[Message]) -> None:
    narrow = read(Memory(data), budget=NARROW)
    _assert_has(narrow.messages, known)
    if found.reader.format == "sqlite3" and narrow.reader.damage:
        return  # a large row is had by its number, to which a broken tree need not lead
    assert bool(narrow.reader.damage) == bool(found.reader.damage), (narrow.reasons, found.reasons)
    if not found.reader.damage:
        assert Counter(narrow.messages) == Counter(found.messages)


def _is_ambiguous(found: Read) -> bool:
    """Whether a connection's id may mean several in the bag, so that its index cannot tell them apart."""
    table = getattr(found.reader, "_table", None)
    return table is None or table.is_ambiguous


def _slices(data: bytes, found: Read, known: Counter[Message]) -> None:
    """Where nothing speaks against a bag nor against any slice of it, the slices are the whole."""

    def without_topics(messages: Iterable[Message]) -> Counter[Message]:
        """An index may lie about these to a slice that does not have the connections' records."""
        return Counter(replace(message, topic="") for message in messages)

    slices = [read(Memory(data), budget=BUDGET, slice_index=index, slice_count=3) for index in range(3)]
    together = [message for each in slices for message in each.messages]
    _assert_has(without_topics(together), without_topics(known.elements()))
    agreed = found.is_as_expected and not _is_ambiguous(found)
    if agreed and not any(each.reader.damage for each in slices):
        assert Counter(together) == Counter(found.messages)


def _filtered(data: bytes, found: Read, _known: Counter[Message]) -> None:
    """Of one topic alone there is what there is of it among all, and all messages are counted."""
    topics = sorted({connection.topic for connection in found.reader.connections()})
    if not found.is_as_expected or _is_ambiguous(found):
        topics = topics[:1]
    for topic in topics[:3]:
        one = read(Memory(data), budget=BUDGET, wanted=lambda name, topic=topic: name == topic)
        assert all(each.topic == topic for each in one.messages)
        if found.is_as_expected and not _is_ambiguous(found):
            assert Counter(one.messages) == Counter(each for each in found.messages if each.topic == topic)
            assert one.reader.counts == found.reader.counts
            assert one.is_as_expected


def _stream(data: bytes, found: Read, known: Counter[Message]) -> None:
    """A bag that is packed is read as it comes."""
    if isinstance(found.reader, ArchiveReader):
        return
    packed = Memory(gzip.compress(data, 1, mtime=0))
    try:
        streamed = read(packed, budget=BUDGET)
    except BagError:
        assert not known
        assert found.reader.damage or not found.messages
        return
    _assert_has(streamed.messages, known)
    if not found.reader.damage and not streamed.reader.damage:
        assert Counter(map(_told, streamed.messages)) == Counter(map(_told, found.messages))
        # Where an id means several topics, the index, which a stream has last, says which it meant at first.
        if not _is_ambiguous(found):
            assert Counter(streamed.messages) == Counter(found.messages)


def _told(message: Message) -> tuple[int, bytes]:
    return message.log_time_ns, message.payload


def _decoded(data: bytes, found: Read, _known: Counter[Message]) -> None:
    """Every message is a row or a reject."""
    decoders = Decoders()
    refused: set[int] = set()
    rows = rejected = 0
    made: dict[int, object] = {}
    for block in open_bag(Memory(data), budget=BUDGET).blocks():
        connection_id = block.connection.id
        if block.oversize:
            rejected += len(block)
            continue
        if connection_id not in made and connection_id not in refused:
            try:
                made[connection_id] = prepare(block, STANDARD_TYPES, decoders).decoder
            except DefinitionError as error:
                assert str(error)
                refused.add(connection_id)
        if connection_id in refused:
            rejected += len(block)
            continue
        here = _decode(made[connection_id], block)
        rows += here
        rejected += len(block) - here
    assert rows + rejected == len(found.messages)


def _decode(decoder: object, block: MessageBlock) -> int:
    decoder.feed(block)  # type: ignore[attr-defined]
    decoded = decoder.take()  # type: ignore[attr-defined]
    indices = sorted([*decoded.rows.tolist(), *(index for index, _ in decoded.rejected)])
    assert indices == list(range(len(block)))
    assert all(len(column) == len(decoded.rows) for column in decoded.columns)
    return len(decoded.rows)


def _extracted(data: bytes, found: Read, _known: Counter[Message]) -> None:
    """A whole shard: each message is a row of a file or counted as a reject, and nothing lies elsewhere."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, redirect_stderr(io.StringIO()):
        folder = Path(name)
        bag, lake = folder / "a.bag", folder / "lake"
        bag.write_bytes(data)
        plan = make_plan(
            [str(bag)],
            output=str(lake),
            drive_id="drive",
            options=ExtractOptions(),
            overwrite=False,
            take_over=False,
        )
        manifest = run_shard(plan, 0, JobIdentity("", 1, ""), budget=BUDGET)
        assert sum(topic.messages for topic in manifest.topics) == len(found.messages)
        for topic in manifest.topics:
            assert topic.messages == topic.rows + topic.rejected, topic
            rows = [pq.read_metadata(lake / file.path).num_rows for file in topic.files]
            assert sum(rows) == topic.rows, topic
        named = {file.path for topic in manifest.topics for file in topic.files}
        there = {str(path.relative_to(lake)) for path in lake.glob("[!_]*/**/*.parquet")}
        assert there == named
        assert {path.name for path in folder.iterdir()} == {"a.bag", "lake"}
        assert bool(manifest.bags[0].damage) >= bool(found.reader.damage)


VARIANTS: dict[str, Callable[[bytes, Read, Counter[Message]], None]] = {
    "narrow": _narrow,
    "slices": _slices,
    "filtered": _filtered,
    "stream": _stream,
    "decoded": _decoded,
    "extracted": _extracted,
}
"""Other ways to read a bag, held against the first."""


# --- seeds of ROS 1 ---------------------------------------------------------------------------------

_POINT = "float64 x\nfloat64 y\nfloat64 z\n"
_TEXT = "string data\n"


def _payload(number: int, *, ros1: bool) -> tuple[str, bytes]:
    """The topic and the content of a message: texts, and a point now and then. No two are alike."""
    header = b"" if ros1 else b"\0\1\0\0"
    if number % 3 == 2:
        return "/b", header + struct.pack("<ddd", number, -number, number / 7)
    text = b"text %04d" % number + b"." * (number % 5)
    if not ros1:
        text += b"\0"
    return "/a", header + struct.pack("<I", len(text)) + text


def _messages(count: int, *, ros1: bool) -> list[Message]:
    made = (_payload(number, ros1=ros1) for number in range(count))
    return [Message(topic, T0 + number, payload) for number, (topic, payload) in enumerate(made)]


def _prefix_counter(data: bytes, dues: Sequence[int]) -> Callable[[bytes], int]:
    """How many messages lie before the first byte that differs, by where the record or chunk of each ends."""

    def before_damage(other: bytes) -> int:
        same = _common_prefix(data, other)
        return sum(due <= same for due in dues)

    return before_damage


def _common_prefix(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def ros1_seeds() -> list[Seed]:
    return [
        _ros1("ros1-none", chunks=3),
        _ros1("ros1-lz4", chunks=2, compression="lz4"),
        _ros1("ros1-bz2", chunks=2, compression="bz2"),
        _ros1("ros1-mixed", chunks=2, outside=2),
        _ros1("ros1-unindexed", chunks=2, outside=1, indexed=False),
        _ros1("ros1-gap", chunks=2, compression="lz4", gap=40),
        _ros1("ros1-redefined", chunks=3, redefine=True),
        _ros1("ros1-padded", chunks=1, padded=True),
    ]


def _ros1(
    name: str,
    *,
    chunks: int,
    compression: str = "none",
    outside: int = 0,
    redefine: bool = False,
    padded: bool = False,
    **options: object,
) -> Seed:
    bag = Ros1Bag()
    messages = _messages(chunks * (4 + outside), ros1=True)
    left = list(messages)
    definitions = [
        bag.connection(0, "/a"),
        bag.connection(1, "/b", "geometry_msgs/Point", _POINT, callerid=b"/node", latching=b"1"),
    ]
    for chunk in range(chunks):
        records = list(definitions) if chunk == 0 else [bag.connection(0, "/a")] if redefine else []
        index: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
        for message in left[:4]:
            conn = int(message.topic == "/b")
            index[conn].append((message.log_time_ns, sum(map(len, records))))
            records.append(ros1_message(conn, message.log_time_ns, message.payload))
        bag.chunk(records, {conn: len(entries) for conn, entries in index.items()}, compression)
        for conn, entries in index.items():
            bag.add(ros1_index(conn, entries))
        for message in left[4 : 4 + outside]:
            bag.add(ros1_message(int(message.topic == "/b"), message.log_time_ns, message.payload))
        left = left[4 + outside :]
    parsed = ros1_file.parse(bag.bytes(**options))  # type: ignore[arg-type]
    head, *records_ = parsed.records
    # Recorders pad it to 4 KiB, which only costs time here.
    small = head if padded else replace(head, body=b" " * 24)
    data = ros1_file.build(replace(parsed, records=(small, *records_)))
    return Seed(name, data, messages, _prefix_counter(data, _ros1_dues(data, compression)))


def _ros1_dues(data: bytes, compression: str) -> list[int]:
    dues = []
    for record in ros1_file.parse(data).records:
        if record.kind == ros1_file.MESSAGE:
            dues.append(record.end)
        stored = record.end - len(record.body)
        inside = [each for each in record.inner or () if each.kind == ros1_file.MESSAGE]
        dues += [stored + each.end if compression == "none" else record.end for each in inside]
    return dues


# --- seeds of MCAP ----------------------------------------------------------------------------------


def mcap_seeds() -> list[Seed]:
    return [
        _mcap("mcap-none", chunks=3),
        _mcap("mcap-lz4", chunks=2, compression="lz4"),
        _mcap("mcap-zstd", chunks=2, compression="zstd"),
        _mcap("mcap-stream", chunks=2, compression="zstd-stream"),
        _mcap("mcap-mixed", chunks=2, compression="zstd", outside=2),
        _mcap("mcap-no-summary", chunks=2, outside=1, summary=False),
        _mcap("mcap-unchunked", chunks=2, per_chunk=0, outside=3),
        _mcap("mcap-no-crc", chunks=2, crc=False),
        _mcap("mcap-extras", chunks=1, extras=True),
    ]


def _mcap(
    name: str,
    *,
    chunks: int,
    per_chunk: int = 4,
    compression: str = "",
    outside: int = 0,
    extras: bool = False,
    **options: bool,
) -> Seed:
    file = McapFile()
    messages = _messages(chunks * (per_chunk + outside), ros1=False)
    left = list(messages)
    head = file.define(
        mcap_schema(1),
        mcap_schema(2, "geometry_msgs/msg/Point", "ros2msg", _POINT),
        mcap_channel(0, 1, "/a"),
        mcap_channel(7, 2, "/b", "cdr", {"offered_qos_profiles": "- depth: 5"}),
    )
    if extras:
        file.add(mcap_metadata("about", car="7"))
        file.add(mcap_attachment("notes.txt", b"some notes"))
    if not per_chunk:
        file.add(head)

    def record(message: Message) -> tuple[int, bytes]:
        channel = 7 if message.topic == "/b" else 0
        return channel, mcap_message(channel, 3, message.log_time_ns, message.payload)

    for chunk in range(chunks):
        content = head if chunk == 0 else b""
        counts: Counter[int] = Counter()
        for message in left[:per_chunk]:
            channel, made = record(message)
            counts[channel] += 1
            content += made
        if per_chunk:
            file.chunk(content, dict(counts), compression)
        for message in left[per_chunk : per_chunk + outside]:
            channel, made = record(message)
            file.count({channel: 1})
            file.add(made)
        left = left[per_chunk + outside :]
    data = file.bytes(**options)
    return Seed(name, data, messages, _prefix_counter(data, _mcap_dues(data, compression)))


def _mcap_dues(data: bytes, compression: str) -> list[int]:
    dues = []
    for record in mcap_file.parse(data).records:
        if record.kind == 5:
            dues.append(record.end)
        stored = record.end - (record.inner[-1].end if record.inner else 0)
        inside = [each for each in record.inner or () if each.kind == 5]
        dues += [record.end if compression else stored + each.end for each in inside]
    return dues


# --- seeds of SQLite --------------------------------------------------------------------------------

_TOPICS = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
    serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL, type_description_hash TEXT);
INSERT INTO topics VALUES(1, '/a', 'std_msgs/msg/String', 'cdr', '- depth: 5', ''),
    (2, '/b', 'geometry_msgs/msg/Point', 'cdr', '', '');
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
    data BLOB NOT NULL);
"""
_INDEX = "CREATE INDEX timestamp_idx ON messages(timestamp ASC);"
_DEFINITIONS = """
CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
    encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);
INSERT INTO message_definitions VALUES(1, 'std_msgs/msg/String', 'ros2msg', 'string data', '');
"""


def sqlite_seeds() -> list[Seed]:
    return [
        _sqlite("sqlite-index", _TOPICS + _INDEX + _DEFINITIONS, count=24),
        _sqlite("sqlite-plain", _TOPICS, count=40),
        _sqlite("sqlite-large", _TOPICS + _INDEX, count=24, large=1500),
        _sqlite("sqlite-utf16", "PRAGMA encoding = 'UTF-16';" + _TOPICS + _INDEX, count=8),
    ]


def _sqlite(name: str, schema: str, *, count: int, large: int = 0) -> Seed:
    messages = _messages(count, ros1=False)
    if large:
        text = b"\0\1\0\0" + (large + 1).to_bytes(4, "little") + b"x" * large + b"\0"
        messages[count // 2] = Message("/a", T0 + count // 2, text)
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(f"PRAGMA page_size = 512; {schema}")
        database.executemany(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)",
            [(1 + (message.topic == "/b"), message.log_time_ns, message.payload) for message in messages],
        )
        database.commit()
        tables = dict(database.execute("SELECT name, rootpage FROM sqlite_schema"))
        data = database.serialize()
    shared = {
        page
        for table in (1, *tables.values())
        for page in _all_pages(data, table)
        if table != tables["messages"] and table != tables.get("timestamp_idx")
    }
    rows = sqlite_file.pages_of_rows(data, tables["messages"])
    needs = [rows[number] | shared for number in sorted(rows)]
    assert len(needs) == count

    def before_damage(other: bytes) -> int:
        if len(other) != len(data):
            return 0
        changed = {
            page + 1
            for page in range(len(data) // 512)
            if data[page * 512 :][:512] != other[page * 512 :][:512]
        }
        return next((row for row, pages in enumerate(needs) if pages & changed), count)

    return Seed(name, data, messages, before_damage)


# --- seeds of archives ------------------------------------------------------------------------------


def packed_seeds() -> list[Seed]:
    """A small bag in each kind of packing. In a tar, what is known of it holds on; a zip needs its end."""
    seeds = (_ros1("ros1", chunks=2), _mcap("mcap", chunks=2, compression="zstd"))
    return [
        _packed(f"{kind}-{seed.name}", seed, pack(seed.data))
        for kind, pack in packed_file.PACK.items()
        for seed in seeds
    ]


def _packed(name: str, seed: Seed, data: bytes) -> Seed:
    start = data.find(seed.data) if name.startswith("tar-") else -1

    def before_damage(other: bytes) -> int:
        if other == data:
            return len(seed.messages)
        same = _common_prefix(data, other) - start
        return seed.before_damage(seed.data[:same]) if start >= 0 and same > 0 else 0

    return Seed(name, data, seed.messages, before_damage)


def _all_pages(data: bytes, root: int) -> set[int]:
    """The pages of a table of few rows; an index has none that are asked for."""
    pages = {root}
    if data[(root - 1) * 512 + (100 if root == 1 else 0)] in (sqlite_file.INTERIOR, sqlite_file.LEAF):
        for row in sqlite_file.pages_of_rows(data, root).values():
            pages |= row
    return pages
