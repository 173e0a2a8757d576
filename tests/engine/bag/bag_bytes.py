"""Bags made by hand, byte by byte, so that tests can make the odd ones; and a plain way to read any."""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lz4.frame
import zstandard

from ros_to_parquet.bag import BagReader, open_bag

DEFINITION = "string data\n"
MD5 = "992ce8a1687cec8c8bd883ec73ca41d1"
T0 = 1_700_000_000_123_456_789


@dataclass
class Memory:
    """Bytes as a source; keeps a list of what was read. ``folder`` is where SQLite gets its file."""

    data: bytes
    folder: Path | None = None
    name: str = "memory"
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def local_path(self) -> str:
        assert self.folder is not None
        path = self.folder / "bag.db3"
        path.write_bytes(self.data)
        return str(path)


@dataclass(frozen=True)
class Message:
    topic: str
    log_time_ns: int
    payload: bytes


@dataclass
class Read:
    """What a reader gave: all messages in the order of its blocks."""

    reader: BagReader
    messages: list[Message]

    @property
    def reasons(self) -> list[str]:
        return [damage.reason for damage in self.reader.damage]

    @property
    def by_topic(self) -> dict[str, list[tuple[int, bytes]]]:
        return by_topic(self.messages)

    def payloads(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.messages if message.topic == topic]

    @property
    def is_as_expected(self) -> bool:
        """Nothing is damaged, and all that the bag's own index promises was found."""
        return not self.reader.damage and self.reader.expected_counts() == self.reader.counts


def read(source: bytes | Any, folder: Path | None = None, **options: Any) -> Read:
    """Reads a bag and checks what holds for every reader and bag."""
    reader = open_bag(Memory(source, folder) if isinstance(source, bytes) else source, **options)
    wanted = options.get("wanted", lambda topic: True)
    messages = []
    found: dict[int, int] = {}
    for block in reader.blocks():
        assert len(block) > 0
        assert block.connection in reader.connections()
        assert block.starts.min() >= 0 and block.lengths.min() >= 0
        assert block.oversize or (block.starts + block.lengths).max() <= len(block.data)
        for array in (block.publish_times_ns, block.sequences, block.offsets, block.log_times_ns):
            assert array is None or (array.dtype == "int64" and len(array) == len(block))
        found[block.connection.id] = found.get(block.connection.id, 0) + len(block)
        for start, length, log_time in zip(block.starts, block.lengths, block.log_times_ns, strict=True):
            payload = block.data[start : start + length].tobytes()
            messages.append(Message(block.connection.topic, int(log_time), payload))
    connections = reader.connections()
    assert [connection.id for connection in connections] == sorted(reader.counts)
    for connection in connections:
        if wanted(connection.topic):
            assert found.get(connection.id, 0) == reader.counts[connection.id]
    return Read(reader, messages)


def by_topic(messages: Iterable[Message]) -> dict[str, list[tuple[int, bytes]]]:
    """Each topic's messages in their order: blocks keep that, not the order among topics."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    for message in messages:
        found.setdefault(message.topic, []).append((message.log_time_ns, message.payload))
    return found


# --- ROS 1 ------------------------------------------------------------------------------------------


def ros1_fields(**values: bytes) -> bytes:
    pieces = (name.encode() + b"=" + value for name, value in values.items())
    return b"".join(struct.pack("<I", len(piece)) + piece for piece in pieces)


def ros1_record(header: dict[str, bytes], body: bytes = b"") -> bytes:
    packed = ros1_fields(**header)
    return struct.pack("<I", len(packed)) + packed + struct.pack("<I", len(body)) + body


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def ros1_time(time_ns: int) -> bytes:
    return struct.pack("<II", *divmod(time_ns, 10**9))


def ros1_message(
    conn: int, time_ns: int, payload: bytes, *, order: Sequence[str] = ("op", "conn", "time")
) -> bytes:
    values = {"op": b"\x02", "conn": u32(conn), "time": ros1_time(time_ns)}
    return ros1_record({name: values[name] for name in order}, payload)


def ros1_connection(
    conn: int, topic: str, type_name: str = "std_msgs/String", definition: str = DEFINITION, **more: bytes
) -> bytes:
    body = ros1_fields(
        topic=topic.encode(),
        type=type_name.encode(),
        md5sum=MD5.encode(),
        message_definition=definition.encode(),
        **more,
    )
    return ros1_record({"op": b"\x07", "conn": u32(conn), "topic": topic.encode()}, body)


def ros1_chunk(content: bytes, compression: str = "none", /, **header: bytes) -> bytes:
    stored = {
        "none": lambda data: data,
        "bz2": bz2.compress,
        "lz4": lz4.frame.compress,
        # As ROS's own writer makes it: independent blocks of 1 MiB, a checksum of the content.
        "roslz4": lambda data: lz4.frame.compress(
            data,
            block_size=lz4.frame.BLOCKSIZE_MAX1MB,
            block_linked=False,
            content_checksum=True,
            store_size=False,
        ),
    }[compression](content)
    name = compression.removeprefix("ros").encode()
    fields = {"op": b"\x05", "compression": name, "size": u32(len(content)), **header}
    return ros1_record(fields, stored)


def ros1_index(
    conn: int, times_and_places: Sequence[tuple[int, int]], *, said_bytes: int | None = None
) -> bytes:
    body = b"".join(ros1_time(time_ns) + u32(place) for time_ns, place in times_and_places)
    header = {"op": b"\x04", "ver": u32(1), "conn": u32(conn), "count": u32(len(times_and_places))}
    record = ros1_record(header, body)
    if said_bytes is None:
        return record
    return record[: len(record) - len(body) - 4] + u32(said_bytes) + body


def ros1_chunk_info(chunk_pos: int, counts: dict[int, int]) -> bytes:
    body = b"".join(u32(conn) + u32(count) for conn, count in counts.items())
    header = {
        "op": b"\x06",
        "ver": u32(1),
        "chunk_pos": struct.pack("<Q", chunk_pos),
        "start_time": ros1_time(T0),
        "end_time": ros1_time(T0),
        "count": u32(len(counts)),
    }
    return ros1_record(header, body)


def ros1_bag_header(index_pos: int, conn_count: int, chunk_count: int, **more: bytes) -> bytes:
    header = {
        "op": b"\x03",
        "index_pos": struct.pack("<Q", index_pos),
        "conn_count": u32(conn_count),
        "chunk_count": u32(chunk_count),
        **more,
    }
    size = len(ros1_fields(**header))
    return ros1_record(header, b" " * (4096 - size))


ROS1_DATA_START = 13 + 8 + 4096


@dataclass
class Ros1Bag:
    """A ROS 1 bag of given data records; chunks are noted for the index as they are added."""

    data: bytes = b""
    chunks: dict[int, dict[int, int]] = field(default_factory=dict)
    connections: dict[int, bytes] = field(default_factory=dict)

    @property
    def position(self) -> int:
        return ROS1_DATA_START + len(self.data)

    def add(self, record: bytes) -> None:
        self.data += record

    def connection(self, conn: int, topic: str, *args: str, **more: bytes) -> bytes:
        """A connection record, also kept for the index (the first one of an id)."""
        record = ros1_connection(conn, topic, *args, **more)
        self.connections.setdefault(conn, record)
        return record

    def chunk(self, records: Sequence[bytes], counts: dict[int, int], compression: str = "none") -> None:
        self.chunks[self.position] = counts
        self.add(ros1_chunk(b"".join(records), compression))

    def bytes(self, *, gap: int = 0, indexed: bool = True, chunk_count: int | None = None) -> bytes:
        index_pos = self.position + gap if indexed else 0
        count = len(self.chunks) if chunk_count is None else chunk_count
        index = b"".join(self.connections.values())
        index += b"".join(ros1_chunk_info(pos, counts) for pos, counts in self.chunks.items())
        head = b"#ROSBAG V2.0\n" + ros1_bag_header(index_pos, len(self.connections), count)
        return head + self.data + b"\0" * gap + (index if indexed else b"")


def simple_ros1(
    *, chunks: int = 3, per_chunk: int = 4, compression: str = "none", **options: Any
) -> tuple[bytes, list[Message]]:
    """A tidy bag of two topics, and its messages in the order of the file."""
    bag = Ros1Bag()
    messages: list[Message] = []
    for chunk in range(chunks):
        records = [] if chunk else [bag.connection(0, "/a"), bag.connection(1, "b", callerid=b"/node")]
        index: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
        for _ in range(per_chunk):
            number = len(messages)
            message = Message("b" if number % 3 == 2 else "/a", T0 + number, b"payload %05d;" % number * 3)
            conn = int(message.topic == "b")
            index[conn].append((message.log_time_ns, sum(map(len, records))))
            records.append(ros1_message(conn, message.log_time_ns, message.payload))
            messages.append(message)
        bag.chunk(records, {conn: len(entries) for conn, entries in index.items() if entries}, compression)
        for conn, entries in index.items():
            bag.add(ros1_index(conn, entries))
    return bag.bytes(**options), messages


# --- MCAP -------------------------------------------------------------------------------------------

MCAP_MAGIC = b"\x89MCAP0\r\n"


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return u32(len(data)) + data


def mcap_record(opcode: int, body: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(body)) + body


def mcap_header(profile: str = "ros2") -> bytes:
    return mcap_record(1, text(profile) + text("tests"))


def mcap_schema(
    schema_id: int,
    name: str = "std_msgs/msg/String",
    encoding: str = "ros2msg",
    data: str | bytes = DEFINITION,
) -> bytes:
    return mcap_record(3, struct.pack("<H", schema_id) + text(name) + text(encoding) + text(data))


def mcap_channel(
    channel_id: int, schema_id: int, topic: str, encoding: str = "cdr", metadata: dict[str, str] | None = None
) -> bytes:
    pairs = b"".join(text(key) + text(value) for key, value in (metadata or {}).items())
    return mcap_record(
        4, struct.pack("<HH", channel_id, schema_id) + text(topic) + text(encoding) + text(pairs)
    )


def mcap_message(channel_id: int, sequence: int, time_ns: int, payload: bytes) -> bytes:
    return mcap_record(5, struct.pack("<HIQQ", channel_id, sequence, time_ns, time_ns - 5) + payload)


def mcap_chunk(
    content: bytes, compression: str = "", *, crc: int | None = None, padding: bytes = b""
) -> bytes:
    stored = {
        "": lambda data: data,
        "lz4": lz4.frame.compress,
        "zstd": zstandard.compress,
        # As streaming writers do it: a frame that does not say how much is in it.
        "zstd-stream": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
    }[compression](content)
    checksum = zlib.crc32(content) if crc is None else crc
    body = struct.pack("<QQQI", T0, T0, len(content), checksum) + text(compression.removesuffix("-stream"))
    return mcap_record(6, body + struct.pack("<Q", len(stored)) + stored + padding)


def mcap_message_index(channel_id: int, times_and_places: Sequence[tuple[int, int]]) -> bytes:
    entries = b"".join(struct.pack("<QQ", *pair) for pair in times_and_places)
    return mcap_record(7, struct.pack("<H", channel_id) + text(entries))


def mcap_attachment(
    name: str, content: bytes, *, media_type: str = "text/plain", crc: int | None = None
) -> bytes:
    body = struct.pack("<QQ", T0, T0 - 7) + text(name) + text(media_type)
    body += struct.pack("<Q", len(content)) + content
    return mcap_record(9, body + u32(zlib.crc32(body) if crc is None else crc))


def mcap_metadata(name: str, **values: str) -> bytes:
    pairs = b"".join(text(key) + text(value) for key, value in values.items())
    return mcap_record(12, text(name) + text(pairs))


@dataclass
class McapFile:
    """An MCAP file of given data records; chunks and counts are noted for the summary as they are added."""

    data: bytes = field(default_factory=lambda: MCAP_MAGIC + mcap_header())
    definitions: bytes = b""
    chunk_indexes: bytes = b""
    counts: dict[int, int] = field(default_factory=dict)
    chunk_places: list[int] = field(default_factory=list)

    def add(self, record: bytes) -> None:
        self.data += record

    def define(self, *records: bytes) -> bytes:
        """Schemas and channels, kept for the summary."""
        self.definitions += b"".join(records)
        return b"".join(records)

    def count(self, counts: dict[int, int]) -> None:
        for channel_id, count in counts.items():
            self.counts[channel_id] = self.counts.get(channel_id, 0) + count

    def chunk(self, content: bytes, counts: dict[int, int], compression: str = "", **options: Any) -> None:
        start = len(self.data)
        self.chunk_places.append(start)
        self.add(mcap_chunk(content, compression, **options))
        end = len(self.data)
        places = {}
        for channel_id, count in counts.items():
            places[channel_id] = len(self.data)
            self.add(mcap_message_index(channel_id, [(T0, 0)] * count))
        pairs = b"".join(struct.pack("<HQ", *pair) for pair in places.items())
        self.chunk_indexes += mcap_record(
            8,
            struct.pack("<QQQQ", T0, T0, start, end - start)
            + text(pairs)
            + struct.pack("<Q", len(self.data) - end)
            + text(compression.removesuffix("-stream"))
            + struct.pack("<QQ", 0, len(content)),
        )
        self.count(counts)

    def bytes(self, *, summary: bool = True, closed: bool = True, crc: bool = True) -> bytes:
        data = self.data
        if closed:
            data += mcap_record(15, u32(0))
        start = len(data) if summary else 0
        if summary:
            pairs = b"".join(struct.pack("<HQ", *pair) for pair in self.counts.items())
            statistics = struct.pack("<QHIIIIQQ", sum(self.counts.values()), 1, 1, 0, 0, 1, T0, T0)
            data += self.definitions + self.chunk_indexes + mcap_record(11, statistics + text(pairs))
        if not closed:
            return data
        covered = data[start or len(data) :] + struct.pack("<BQQQ", 2, 20, start, 0)
        footer = struct.pack("<QQI", start, 0, zlib.crc32(covered) if crc else 0)
        return data + mcap_record(2, footer) + MCAP_MAGIC


def simple_mcap(
    *, chunks: int = 3, per_chunk: int = 4, compression: str = "", **options: Any
) -> tuple[bytes, list[Message]]:
    """A tidy file of two topics, and its messages in the order of the file; without chunks if 0."""
    file = McapFile()
    head = file.define(mcap_schema(1), mcap_channel(0, 1, "/a"), mcap_channel(7, 1, "/b", "cdr", {"k": "v"}))
    messages: list[Message] = []
    for chunk in range(max(chunks, 1)):
        content = b"" if chunk else head
        counts: dict[int, int] = {}
        for _ in range(per_chunk):
            number = len(messages)
            message = Message("/b" if number % 3 == 2 else "/a", T0 + number, b"payload %05d;" % number * 3)
            channel_id = 7 if message.topic == "/b" else 0
            counts[channel_id] = counts.get(channel_id, 0) + 1
            content += mcap_message(channel_id, number, message.log_time_ns, message.payload)
            messages.append(message)
        if chunks:
            file.chunk(content, counts, compression)
        else:
            file.add(content)
            file.count(counts)
    return file.bytes(**options), messages
