"""MCAP, version 0 (mcap.dev/spec)."""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag.blocks import Definition, Messages
from ros_to_parquet.bag.chunked import Chunk, ChunkedReader, ChunkFraming
from ros_to_parquet.bag.decompress import MAX_CHUNK_BYTES
from ros_to_parquet.bag.model import BagFormat, Connection, Int64Array, MessageBlock, UInt8Array
from ros_to_parquet.bag.scan import Broken, Look, Need, Records, Scanner, Skip, gather, part, plan_span
from ros_to_parquet.bag.source import CountedSource
from ros_to_parquet.memory import MemoryBudget

MAGIC = b"\x89MCAP0\r\n"

HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 1, 2, 3, 4, 5, 6
CHUNK_INDEX, ATTACHMENT_INDEX, STATISTICS, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = 8, 10, 11, 13, 14, 15

_END_KINDS = (DATA_END, FOOTER, CHUNK_INDEX, ATTACHMENT_INDEX, STATISTICS, METADATA_INDEX, SUMMARY_OFFSET)
"""Records that follow the data."""

_RECORD_HEAD_BYTES = 9
_FOOTER_BYTES = _RECORD_HEAD_BYTES + 20
_MAX_SUMMARY_BYTES = 256 << 20
_MAX_CHUNK_HEAD_BYTES = 4096
_MESSAGE_INDEX_HEAD_BYTES = _RECORD_HEAD_BYTES + 2 + 4
_MESSAGE_INDEX_ENTRY_BYTES = 16

_BINARY_SCHEMAS = ("protobuf", "flatbuffer")

_MESSAGE_HEAD = np.dtype(
    [("channel", "<u2"), ("sequence", "<u4"), ("log_time", "<i8"), ("publish_time", "<i8")]
)

_SCAN = """
input data
output heads uint8
output sizes int64
begin
  data end 0=
while
  data B-> heads
  data q-> stack
  dup 0 < if halt then
  dup sizes <- stack
  data skip
repeat
"""


class McapReader(ChunkedReader[Records]):
    """An MCAP file, read forward.

    The summary at its end, where there is one, tells where chunks begin (to split the file, and to go on
    after a broken record) and how many messages there should be; messages are found without it. Of a stream
    the summary is had last, and only checked against.
    """

    format: BagFormat = "mcap"

    def __init__(
        self,
        source: CountedSource,
        *,
        wanted: Callable[[str], bool],
        budget: MemoryBudget,
        slice_index: int,
        slice_count: int,
    ) -> None:
        framing = _Framing()
        super().__init__(source, framing, wanted=wanted, budget=budget)
        self._schemas: dict[int, _Schema] = {}
        self._data_ended = False
        self._summary = _Summary(data_end=source.size)
        self._end = _End()  # of a stream
        self._closed = (
            not source.forward
            and source.size >= 2 * len(MAGIC) + _FOOTER_BYTES
            and source.read_at(source.size - len(MAGIC), len(MAGIC)) == MAGIC
        )
        if self._closed:
            data_end = source.size - _FOOTER_BYTES - len(MAGIC)
            try:
                self._summary = _read_summary(source, framing, data_end)
            except ValueError as error:
                self._harm(data_end, f"the summary cannot be used, the file is read without it: {error}")
                self._summary = _Summary(data_end)
        self._schemas.update(self._summary.schemas)
        for definition in self._summary.definitions:
            self._table.define(definition.recorded_id, definition.content)
        self._split = slice_count > 1 and self._can_be_split()
        self._span = plan_span(
            size=source.size,
            data_start=len(MAGIC),
            data_end=self._summary.data_end,
            anchors=sorted(self._summary.chunks) if slice_count == 1 or self._split else (),
            slice_index=slice_index,
            slice_count=slice_count,
        )

    def expected_counts(self) -> dict[int, int] | None:
        statistics = self._summary.statistics
        if statistics is None:
            return None
        if not self._split:
            return self._table.expected(statistics if self._span is not None else {})
        recorded: Counter[int] = Counter()
        total: Counter[int] = Counter()
        for offset, counts in self._summary.chunks.items():
            total.update(counts)
            if self._span is not None and self._span.begin <= offset < self._span.end:
                recorded.update(counts)
        # Without message indexes, or with messages outside of chunks, chunks do not tell it all.
        return self._table.expected(recorded) if total == +Counter(statistics) else None

    def blocks(self) -> Iterator[MessageBlock]:
        if self._span is None:
            self.damage.clear()  # the first slice has it
            return
        yield from self._read(self._span)
        if self._source.forward:
            self._check_end()
        if not self._closed and not any(damage.ends_bag for damage in self.damage):
            reason = (
                "the file was cut off in its summary, after the last message"
                if self._data_ended
                else "the file was never closed: it may lack its last messages"
            )
            self._harm(self._source.size, reason, ends_bag=True)

    def _check_end(self) -> None:
        """Takes the summary from the records that ended the stream."""
        source = self._end.source(self._source.size)
        self._closed = source is not None
        if source is not None:
            footer_start = source.size - _FOOTER_BYTES - len(MAGIC)
            try:
                self._summary = _read_summary(source, self._framing, footer_start)
            except ValueError as error:
                self._harm(footer_start, f"the summary cannot be used to check the file: {error}")

    def _can_be_split(self) -> bool:
        """Whether a reader that starts in the middle knows all channels."""
        summary = self._summary
        used = set(summary.statistics or ()).union(*summary.chunks.values())
        return bool(summary.chunks) and bool(used) and all(channel in self._table for channel in used)

    def _open_chunk(self, record: UInt8Array) -> Chunk | None:
        if len(record) < _RECORD_HEAD_BYTES or record[0] != CHUNK:
            return None
        body = record[_RECORD_HEAD_BYTES:]
        fields = _Fields(body[:_MAX_CHUNK_HEAD_BYTES].tobytes())
        try:
            fields.skip(16)
            size_bytes, crc32 = fields.integer(8), fields.integer(4)
            compression = fields.text()
            stored_bytes = fields.integer(8)
        except ValueError:
            return None
        return Chunk(compression, size_bytes, crc32, body[fields.position :][:stored_bytes])

    def _run(self, data: UInt8Array, records: Records, offsets: Int64Array) -> Iterator[MessageBlock]:
        if self._source.forward and len(records):
            self._end.add(data, records, offsets)
        definitions = []
        for row in np.flatnonzero(np.isin(records.kinds, (SCHEMA, CHANNEL, DATA_END))).tolist():
            body = data[records.bodies[row] : records.ends[row]].tobytes()
            kind = records.kinds[row]
            try:
                if kind == SCHEMA:
                    schema_id, schema = _schema(body)
                    self._schemas[schema_id] = schema
                elif kind == CHANNEL:
                    definitions.append(_channel(body, self._schemas, position=int(records.starts[row])))
                else:
                    self._data_ended = True
            except ValueError as error:
                name = "schema" if kind == SCHEMA else "channel"
                self._harm(int(offsets[row]), f"a {name} record cannot be read: {error}")
        is_message = records.kinds == MESSAGE
        whole = is_message & (records.ends - records.bodies >= _MESSAGE_HEAD.itemsize)
        rows = np.flatnonzero(whole)
        if np.count_nonzero(is_message) > len(rows):
            lost = np.flatnonzero(is_message & ~whole)
            self._harm(int(offsets[lost[0]]), f"{len(lost):,} message records are too short for their header")
        bodies = records.bodies[rows]
        heads = gather(data, bodies, _MESSAGE_HEAD)
        messages = Messages(
            connections=heads["channel"].astype(np.int64),
            starts=bodies + _MESSAGE_HEAD.itemsize,
            lengths=records.ends[rows] - bodies - _MESSAGE_HEAD.itemsize,
            log_times_ns=heads["log_time"].astype(np.int64),
            publish_times_ns=heads["publish_time"].astype(np.int64),
            sequences=heads["sequence"].astype(np.int64),
            offsets=offsets[rows],
        )
        yield from self._table.blocks(data, messages, definitions)


# --- records ----------------------------------------------------------------------------------------


class _Framing(ChunkFraming[Records]):
    """Record: opcode (uint8), length (uint64), body."""

    CHUNK = CHUNK

    def __init__(self) -> None:
        self._scanner = Scanner(_SCAN, overhead_bytes=_RECORD_HEAD_BYTES, head_is_size=False)

    def all_records(self, data: UInt8Array) -> Records:
        kinds, sizes, ends = self._scanner.scan(data)
        bodies = ends - sizes
        return Records(kinds=kinds, starts=bodies - _RECORD_HEAD_BYTES, bodies=bodies, ends=ends)

    def doubtful(self, records: Records) -> npt.NDArray[np.bool_]:
        return ~np.isin(records.kinds, (SCHEMA, CHANNEL, MESSAGE))

    def records(self, window: UInt8Array) -> Records:
        records = self.all_records(window)
        unsound = np.flatnonzero(records.kinds == 0)
        return part(records, 0, int(unsound[0])) if len(unsound) else records

    def step(self, window: UInt8Array, left: int, /) -> Look | Need | Skip | Broken:
        if left == len(MAGIC) and window.tobytes() == MAGIC:  # the end of a stream
            return Skip(left)
        if len(window) < _RECORD_HEAD_BYTES:
            return Look(_RECORD_HEAD_BYTES)
        kind = int(window[0])
        size = int.from_bytes(window[1:_RECORD_HEAD_BYTES].tobytes(), "little")
        if kind == 0:
            return Broken("no record begins where one should")
        if kind not in (SCHEMA, CHANNEL, MESSAGE, CHUNK):
            return Skip(_RECORD_HEAD_BYTES + size)
        if MAX_CHUNK_BYTES < size <= left - _RECORD_HEAD_BYTES:
            return Broken(f"a record says it is {size:,} bytes long")
        return Need(_RECORD_HEAD_BYTES + size, "chunk" if kind == CHUNK else "record")


class _Fields:
    """The fields of a record, one after the other.

    Raises:
        ValueError: they do not end within the record.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def __bool__(self) -> bool:
        return self.position < len(self._data)

    def skip(self, size: int) -> None:
        self.bytes(size)

    def bytes(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            raise ValueError("its fields go past its end")
        return self._data[start : self.position]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "little")

    def text(self) -> str:
        return self.bytes(self.integer(4)).decode("utf-8", "backslashreplace")

    def map(self) -> _Fields:
        return _Fields(self.bytes(self.integer(4)))


@dataclass(frozen=True, slots=True)
class _Schema:
    name: str
    encoding: str
    text: str


_NO_SCHEMA = _Schema("", "", "")


def _schema(body: bytes) -> tuple[int, _Schema]:
    fields = _Fields(body)
    schema_id, name, encoding = fields.integer(2), fields.text(), fields.text()
    if encoding in _BINARY_SCHEMAS:
        text = base64.b64encode(fields.bytes(fields.integer(4))).decode()
    else:
        text = fields.text()
    return schema_id, _Schema(name, encoding, text)


def _channel(body: bytes, schemas: Mapping[int, _Schema], *, position: int) -> Definition:
    """A channel as a connection; without type where its schema is 0 or not known.

    Raises:
        ValueError: it is cut off.
    """
    fields = _Fields(body)
    channel_id = fields.integer(2)
    schema = schemas.get(fields.integer(2), _NO_SCHEMA)
    topic, encoding, pairs = fields.text(), fields.text(), fields.map()
    metadata = {}
    while pairs:
        key = pairs.text()
        metadata[key] = pairs.text()
    connection = Connection(
        id=0,
        topic=topic,
        type_name=schema.name,
        definition=schema.text,
        definition_format=schema.encoding,
        definition_hash=metadata.get("topic_type_hash", ""),
        encoding=encoding,
        metadata=metadata,
    )
    return Definition(channel_id, position, connection)


# --- the summary ------------------------------------------------------------------------------------


class _Source(Protocol):
    size: int

    def read_at(self, offset: int, length: int) -> bytes: ...


class _End:
    """What comes after a stream's data: the bytes of its records from there on, as a source."""

    def __init__(self) -> None:
        self.size = 0
        self._start = 0
        self._data = bytearray()
        self._is_closed = False

    def add(self, data: UInt8Array, records: Records, offsets: Int64Array) -> None:
        """Keeps what of the records comes after the data."""
        first = 0
        if not self._data:
            ends = np.flatnonzero(np.isin(records.kinds, _END_KINDS))
            if not len(ends):
                return
            first = int(ends[0])
            self._start = int(offsets[first])
        if len(self._data) <= _MAX_SUMMARY_BYTES:
            self._data += data[records.starts[first] : records.ends[-1]].data
        self._is_closed = bool(records.kinds[-1] == FOOTER)

    def source(self, size: int) -> _End | None:
        """The end of a file of ``size`` bytes; None where it is not whole."""
        self.size = size
        is_whole = self._start + len(self._data) + len(MAGIC) == size
        return self if self._is_closed and is_whole else None

    def read_at(self, offset: int, length: int) -> bytes:
        """Raises `ValueError` for what comes before."""
        if offset < self._start:
            raise ValueError(f"it begins at byte {offset:,}, before the data's end at {self._start:,}")
        return bytes(self._data[offset - self._start :][:length])


@dataclass(frozen=True, slots=True)
class _Summary:
    """What the end of the file says.

    Attributes:
        data_end: where the data section ends.
        definitions: channels whose schema is there, too.
        chunks: by each chunk's offset, its messages by channel id; empty where that is not recorded.
        statistics: messages by channel id; None where that is not recorded.
    """

    data_end: int
    schemas: dict[int, _Schema] = field(default_factory=dict)
    definitions: list[Definition] = field(default_factory=list)
    chunks: dict[int, dict[int, int]] = field(default_factory=dict)
    statistics: dict[int, int] | None = None


def _read_summary(source: _Source, framing: ChunkFraming[Records], footer_start: int) -> _Summary:
    """The summary of a file that ends in a footer.

    Raises:
        ValueError: it is broken.
    """
    footer = _Fields(source.read_at(footer_start, _FOOTER_BYTES))
    if footer.integer(1) != FOOTER or footer.integer(8) != _FOOTER_BYTES - _RECORD_HEAD_BYTES:
        raise ValueError("the footer is not where it should be")
    summary_start = footer.integer(8)
    footer.skip(8)
    crc32 = footer.integer(4)
    if summary_start == 0:
        return _Summary(footer_start)
    if not len(MAGIC) <= summary_start <= footer_start:
        raise ValueError(f"it should begin at byte {summary_start:,} of {source.size:,}")
    if footer_start - summary_start > _MAX_SUMMARY_BYTES:
        raise ValueError(f"{footer_start - summary_start:,} bytes are more than any summary has")
    covered = source.read_at(summary_start, footer_start + _FOOTER_BYTES - 4 - summary_start)
    if crc32 and zlib.crc32(covered) != crc32:
        raise ValueError("its checksum is wrong")
    data = np.frombuffer(covered, np.uint8)[: footer_start - summary_start]
    records = framing.all_records(data)
    if (int(records.ends[-1]) if len(records) else 0) != len(data):
        raise ValueError("its records do not lead to its end")
    schemas: dict[int, _Schema] = {}
    channels: list[bytes] = []
    chunks: dict[int, dict[int, int]] = {}
    statistics = None
    for kind, start, end in zip(
        records.kinds.tolist(), records.bodies.tolist(), records.ends.tolist(), strict=True
    ):
        body = data[start:end].tobytes()
        if kind == SCHEMA:
            schemas.update([_schema(body)])
        elif kind == CHANNEL:
            channels.append(body)
        elif kind == CHUNK_INDEX:
            offset, counts = _chunk_index(body)
            if not len(MAGIC) <= offset < summary_start:
                raise ValueError(f"it says that a chunk is at byte {offset:,}")
            chunks[offset] = counts
        elif kind == STATISTICS:
            statistics = _statistics(body)
        elif kind in (HEADER, FOOTER, MESSAGE, CHUNK, DATA_END):
            raise ValueError("it holds records that belong elsewhere")
    definitions = [
        _channel(body, schemas, position=0)
        for body in channels
        if (schema_id := int.from_bytes(body[2:4], "little")) == 0 or schema_id in schemas
    ]
    return _Summary(summary_start, schemas, definitions, chunks, statistics)


def _chunk_index(body: bytes) -> tuple[int, dict[int, int]]:
    """A chunk's offset, and its messages by channel id as the sizes of its message indexes give them."""
    fields = _Fields(body)
    fields.skip(16)
    chunk_start, chunk_length = fields.integer(8), fields.integer(8)
    pairs = fields.map()
    index_length = fields.integer(8)
    places = []
    while pairs:
        channel_id = pairs.integer(2)
        places.append((pairs.integer(8), channel_id))
    if not places:  # a writer that leaves message indexes out
        return chunk_start, {}
    places.sort()
    ends = [start for start, _ in places[1:]] + [chunk_start + chunk_length + index_length]
    counts = {}
    for (start, channel_id), end in zip(places, ends, strict=True):
        count, rest = divmod(end - start - _MESSAGE_INDEX_HEAD_BYTES, _MESSAGE_INDEX_ENTRY_BYTES)
        if rest or count < 0:
            return chunk_start, {}
        counts[channel_id] = count
    return chunk_start, counts


def _statistics(body: bytes) -> dict[int, int] | None:
    """Messages by channel id; None where they are not recorded."""
    fields = _Fields(body)
    message_count = fields.integer(8)
    fields.skip(2 + 4 + 4 + 4 + 4 + 8 + 8)
    pairs = fields.map()
    counts = {}
    while pairs:
        channel_id = pairs.integer(2)
        counts[channel_id] = pairs.integer(8)
    return counts if sum(counts.values()) == message_count else None
