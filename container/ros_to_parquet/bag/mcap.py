"""MCAP, version 0 (mcap.dev/spec)."""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag.blocks import Definition
from ros_to_parquet.bag.chunked import Chunk, ChunkedReader, ChunkFraming
from ros_to_parquet.bag.decompress import COMPRESSIONS
from ros_to_parquet.bag.extras import HELD_BYTES, Attachment, Extras, MetadataRecord
from ros_to_parquet.bag.index import ChunkEntries, ChunkIndex, IndexBuilder, flat_entries, index_pieces
from ros_to_parquet.bag.model import BagFormat, Connection, Int64Array, MessageBlock, Messages, UInt8Array
from ros_to_parquet.bag.scan import (
    Batch,
    Broken,
    Large,
    Look,
    Need,
    Passed,
    Records,
    Scanner,
    Skip,
    gather,
    part,
    plan_span,
    slice_bounds,
)
from ros_to_parquet.bag.source import (
    MAX_KEPT_BYTES,
    READ_BYTES,
    CountedSource,
    ForwardBuffer,
    HasEnd,
    Kept,
    Summed,
)
from ros_to_parquet.memory import MemoryBudget, readable

MAGIC = b"\x89MCAP0\r\n"

HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 1, 2, 3, 4, 5, 6
MESSAGE_INDEX, CHUNK_INDEX, ATTACHMENT, ATTACHMENT_INDEX, STATISTICS = 7, 8, 9, 10, 11
METADATA, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = 12, 13, 14, 15

_KINDS = range(HEADER, DATA_END + 1)

_END_KINDS = (DATA_END, FOOTER, CHUNK_INDEX, ATTACHMENT_INDEX, STATISTICS, METADATA_INDEX, SUMMARY_OFFSET)
"""Records that follow the data."""

_RECORD_HEAD_BYTES = 9
_FOOTER_BYTES = _RECORD_HEAD_BYTES + 20
_DATA_END_BYTES = _RECORD_HEAD_BYTES + 4
_MAX_CHUNK_HEAD_BYTES = 4096
_MAX_HEADER_BYTES = 4096
_MAX_ATTACHMENT_HEAD_BYTES = 64 << 10
_MESSAGE_INDEX_HEAD_BYTES = _RECORD_HEAD_BYTES + 2 + 4
_MESSAGE_INDEX_ENTRY_BYTES = 16
_MESSAGE_INDEX_PLACE = np.dtype([("channel", "<u2"), ("start", "<u8")])
_CHUNK_INDEX_HEAD = np.dtype([("times", "V16"), ("start", "<u8"), ("length", "<u8"), ("places_bytes", "<u4")])

_OTHER_KINDS = {
    HEADER: "a header",
    SCHEMA: "a schema",
    CHANNEL: "a channel",
    ATTACHMENT: "an attachment",
    METADATA: "a metadata",
    DATA_END: "an end",
}

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
        self.extras = Extras()
        self._data_ended = False
        self._passed_over = (0, 0, 0)
        """Where the header record is, how many bytes it has after its fields that begin as a record does, and
        where that record would end."""
        self._schema_bytes = 0
        self._data_crc32 = 0
        self._summed: Summed | None = None
        self._last_kind = CHUNK
        self._reached = 0
        """The kind of the last record outside of chunks, and where it ended."""
        self._summary = _Summary(data_end=source.size)
        self._kept = Kept()  # of a stream
        self._has_footer = False
        self._closed = (
            not source.forward
            and source.size >= 2 * len(MAGIC) + _FOOTER_BYTES
            and source.read_at(source.size - len(MAGIC), len(MAGIC)) == MAGIC
        )
        if self._closed:
            footer_start = source.size - _FOOTER_BYTES - len(MAGIC)
            try:
                begin, end = slice_bounds(source.size, slice_index, slice_count)
                builder = IndexBuilder(wanted, begin=begin, end=end)
                self._summary = _read_summary(source, framing, footer_start, builder)
            except ValueError as error:
                self._harm(footer_start, f"the summary cannot be used, the file is read without it: {error}")
                self._summary = _Summary(source.size - len(MAGIC))  # a footer may be missing, too
            if slice_count == 1:
                self._sum_data(self._summary.data_end)
        self._schemas.update(self._summary.schemas)
        for definition in self._summary.definitions:
            self._table.define(definition.recorded_id, definition.content)
        self._is_indexed = self._knows_channels()
        self._split = slice_count > 1 and self._is_indexed
        self._span = plan_span(
            size=source.size,
            data_start=len(MAGIC),
            data_end=self._summary.data_end,
            anchors=(self._summary.chunks if slice_count == 1 or self._split else ChunkIndex()).offsets,
            slice_index=slice_index,
            slice_count=slice_count,
        )

    def _sum_data(self, data_end: int) -> None:
        """Has the checksum of the data made as it is read, where the file has one, just before ``data_end``.

        The data begins where the file does.
        """
        record = _Fields(self._source.read_at(data_end - _DATA_END_BYTES, _DATA_END_BYTES))
        with suppress(ValueError):
            if record.integer(1) == DATA_END and record.integer(8) == _DATA_END_BYTES - _RECORD_HEAD_BYTES:
                self._data_crc32 = record.integer(4)
        if self._data_crc32:
            self._summed = self._data = Summed(self._source, data_end - _DATA_END_BYTES)
            self._summed.read_at(0, len(MAGIC))

    def expected_counts(self) -> dict[int, int] | None:
        statistics = self._summary.statistics
        if statistics is None:
            return None
        if not self._split:
            return self._table.expected(statistics if self._span is not None else {})
        own = self._summary.chunks.own_messages if self._span is not None else {}
        return self._table.expected(own) if self._chunks_tell_all() else None

    def blocks(self) -> Iterator[MessageBlock]:
        if self._span is None:
            self.damage.clear()  # the first slice has it
            return
        trusted = self._is_indexed and self._chunks_tell_all()
        yield from self._read(
            self._span, self._summary.chunks if trusted else None, self._summary.definitions
        )
        if self._source.forward:
            self._check_end()
        if self._summed and self._summed.crc32() not in (None, self._data_crc32):
            self._harm(-1, "the checksum of all its data is wrong: something in it is not as it was recorded")
        offset, more, end = self._passed_over
        if more and end <= self._source.size and self._summary.statistics is None:  # which would count them
            self._harm(
                offset, f"the header record is {more:,} bytes longer than its fields: what lies there is lost"
            )
        if not self._closed and not any(damage.ends_bag for damage in self.damage):
            reason = (
                "the file was cut off in its summary, after the last message"
                if self._data_ended
                else "the file was never closed: it may lack its last messages"
            )
            self._harm(self._source.size, reason, ends_bag=True)

    def _batch(self, batch: Batch[Records]) -> Iterator[MessageBlock]:
        kinds = batch.records.kinds
        offsets = batch.offset + batch.records.starts
        follows = self._reached == offsets[0]
        before = np.append(self._last_kind if follows else CHUNK, kinds[:-1])
        orphans = np.flatnonzero((kinds == MESSAGE_INDEX) & (before != CHUNK) & (before != MESSAGE_INDEX))
        if len(orphans):
            self._harm(
                int(offsets[orphans[0]]),
                "an index of messages that follows no chunk: what is before it was one, or is left over",
            )
        self._last_kind, self._reached = int(kinds[-1]), batch.offset + int(batch.records.ends[-1])
        yield from super()._batch(batch)

    def _large(self, found: Large, buffer: ForwardBuffer) -> Iterator[MessageBlock]:
        self._last_kind, self._reached = int(found.window[0]), found.offset + found.size
        yield from super()._large(found, buffer)

    def _check_end(self) -> None:
        """Takes the summary from the records that ended the stream."""
        self._closed = self._has_footer and self._kept.size + len(MAGIC) == self._source.size
        if self._closed:
            footer_start = self._kept.size - _FOOTER_BYTES
            builder = IndexBuilder(lambda _: True, begin=0, end=footer_start)
            try:
                self._summary = _read_summary(self._kept, _Framing(), footer_start, builder)
            except ValueError as error:
                self._harm(footer_start, f"the summary cannot be used to check the file: {error}")

    def _keep_schema(self, offset: int, schema_id: int, schema: _Schema) -> None:
        """Keeps a schema; past what the memory limit has room for, without its text."""
        if self._schemas.get(schema_id) == schema:  # each chunk may have it again
            return
        self._schema_bytes += len(schema.text)
        if self._schema_bytes > self._budget.limit // 8:
            self._harm(
                offset,
                f"schema {schema.name:.80} and what follows are left: definitions of {self._schema_bytes:,} "
                f"bytes have no room in the memory limit; raise --memory-limit to "
                f"{readable(2 * self._budget.limit)}",
            )
            schema = replace(schema, text="", encoding="")
        self._schemas[schema_id] = schema

    def _keep_end(self, data: UInt8Array, records: Records, offsets: Int64Array) -> None:
        """Keeps the records that come after the data."""
        first = 0
        if not self._kept:
            ends = np.flatnonzero(np.isin(records.kinds, _END_KINDS))
            if not len(ends):
                return
            first = int(ends[0])
        if len(self._kept) <= MAX_KEPT_BYTES:
            self._kept.add(int(offsets[first]), data[records.starts[first] : records.ends[-1]].data)
        self._has_footer = bool(records.kinds[-1] == FOOTER)

    def attachment_pieces(self, attachment: Attachment) -> Iterator[bytes]:
        if attachment.content is not None:
            yield attachment.content
            return
        position, end = attachment.offset, attachment.offset + attachment.size_bytes
        self._source.expect([(position, end)])
        while position < end and (data := self._source.read_at(position, min(READ_BYTES, end - position))):
            yield data
            position += len(data)

    def attachment_crc32(self, attachment: Attachment) -> int:
        if attachment.content is not None:
            return attachment.crc32
        return int.from_bytes(self._source.read_at(attachment.offset + attachment.size_bytes, 4), "little")

    def _passed(self, record: Passed) -> None:
        kind, body = int(record.window[0]), record.window[_RECORD_HEAD_BYTES:]
        try:
            if kind == HEADER:
                size = int.from_bytes(record.window[1:_RECORD_HEAD_BYTES].tobytes(), "little")
                self._header(record.offset, body.tobytes(), size)
            elif kind == ATTACHMENT:
                self._attachment(record.offset + _RECORD_HEAD_BYTES, body)
            elif kind == METADATA:  # too large to be kept
                self.extras.left_out += 1
        except ValueError as error:
            what = "a header" if kind == HEADER else "an attachment"
            self._harm(record.offset, f"{what} record cannot be read: {error}")

    def _header(self, offset: int, body: bytes, size: int) -> None:
        """Nothing in it is needed. More bytes may be a later version's fields; records, if its size is wrong.

        Raises:
            ValueError: its fields do not fit.
        """
        fields = _Fields(body)
        for _ in ("profile", "library"):
            fields.text()
        head = body[fields.position : fields.position + _RECORD_HEAD_BYTES]
        if size - fields.position >= _RECORD_HEAD_BYTES and (not head or head[0] in _KINDS):
            length = int.from_bytes(head[1:], "little")
            end = offset + 2 * _RECORD_HEAD_BYTES + fields.position + length
            self._passed_over = (offset, size - fields.position, end)

    def _attachment(self, offset: int, body: UInt8Array) -> None:
        """Keeps an attachment whose record has its body at ``offset``, or the beginning of it.

        Raises:
            ValueError: its fields do not fit.
        """
        fields = _Fields(body[:_MAX_ATTACHMENT_HEAD_BYTES].tobytes())
        log_time, create_time = fields.integer(8), fields.integer(8)
        name, media_type, size = fields.text(), fields.text(), fields.integer(8)
        start = fields.position
        content, crc32 = None, 0
        if start + size + 4 <= len(body) and self.extras.may_hold(size):
            content = body[start : start + size].tobytes()
            crc32 = int.from_bytes(body[start + size : start + size + 4].tobytes(), "little")
        self.extras.add_attachment(
            Attachment(
                name=name,
                media_type=media_type,
                log_time_ns=log_time,
                create_time_ns=create_time,
                offset=offset + start,
                size_bytes=size,
                head_crc32=zlib.crc32(body[:start].tobytes()),
                content=content,
                crc32=crc32,
                is_readable=content is not None or not self._source.forward,
            )
        )

    def _extra(self, kind: int, offset: int, body: UInt8Array) -> None:
        """Keeps an attachment or metadata record that is all there.

        Raises:
            ValueError: its fields do not fit.
        """
        if kind == ATTACHMENT:
            self._attachment(offset + _RECORD_HEAD_BYTES, body)
            return
        fields = _Fields(body.tobytes())
        name, pairs = fields.text(), fields.map()
        values = []
        while pairs:
            key = pairs.text()
            values.append((key, pairs.text()))
        self.extras.add_metadata(MetadataRecord(name, tuple(values)))

    def _knows_channels(self) -> bool:
        """Whether a reader that does not read all chunks knows all channels."""
        chunks = self._summary.chunks
        used = set(self._summary.statistics or ()) | chunks.messages.keys()
        return len(chunks.offsets) > 0 and bool(used) and all(channel in self._table for channel in used)

    def _chunks_tell_all(self) -> bool:
        """Whether chunks have all the messages by the index: not without message indexes, or with messages
        outside of chunks."""
        statistics = self._summary.statistics
        return statistics is not None and self._summary.chunks.messages == +Counter(statistics)

    def _open_chunk(self, record: UInt8Array) -> Chunk | None:
        return _opened(record)

    def _found(
        self, data: UInt8Array, records: Records, offsets: Int64Array
    ) -> tuple[Messages, list[Definition]]:
        if self._source.forward and len(records):
            self._keep_end(data, records, offsets)
        definitions = []
        for row in np.flatnonzero(np.isin(records.kinds, list(_OTHER_KINDS))).tolist():
            kind = int(records.kinds[row])
            record = data[records.bodies[row] : records.ends[row]]
            try:
                if kind in (ATTACHMENT, METADATA):
                    self._extra(kind, int(offsets[row]), record)
                    continue
                body = record.tobytes()
                if kind == HEADER:
                    self._header(int(offsets[row]), body, len(body))
                elif kind == SCHEMA:
                    self._keep_schema(int(offsets[row]), *_schema(body))
                elif kind == CHANNEL:
                    definitions.append(_channel(body, self._schemas, position=int(records.starts[row])))
                else:
                    self._data_ended = True
            except ValueError as error:
                self._harm(int(offsets[row]), f"{_OTHER_KINDS[kind]} record cannot be read: {error}")
        unusable = self._framing.unusable(records)
        rows = np.flatnonzero((records.kinds == MESSAGE) & ~unusable)
        if len(lost := np.flatnonzero(unusable)):
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
        return messages, definitions


# --- records ----------------------------------------------------------------------------------------


class _Framing(ChunkFraming[Records]):
    """Record: opcode (uint8), length (uint64), body."""

    CHUNK, MESSAGE, INDEX = CHUNK, MESSAGE, MESSAGE_INDEX

    def __init__(self) -> None:
        self._scanner = Scanner(_SCAN, overhead_bytes=_RECORD_HEAD_BYTES, head_is_size=False)

    def all_records(self, data: UInt8Array) -> Records:
        kinds, sizes, ends = self._scanner.scan(data)
        kinds[kinds == 0] = -1  # no record is of this kind
        bodies = ends - sizes
        return Records(kinds=kinds, starts=bodies - _RECORD_HEAD_BYTES, bodies=bodies, ends=ends)

    def first(self, window: UInt8Array, size: int) -> Records:
        kinds, starts, bodies, ends = (
            np.array([value], np.int64) for value in (int(window[0]), 0, _RECORD_HEAD_BYTES, size)
        )
        return Records(kinds=kinds, starts=starts, bodies=bodies, ends=ends)

    def unusable(self, records: Records) -> npt.NDArray[np.bool_]:
        short = records.ends - records.bodies < _MESSAGE_HEAD.itemsize
        return np.asarray(short & (records.kinds == MESSAGE), np.bool_)

    def doubtful(self, records: Records) -> npt.NDArray[np.bool_]:
        return ~np.isin(records.kinds, (SCHEMA, CHANNEL, MESSAGE))

    def records(self, window: UInt8Array) -> Records:
        records = self.all_records(window)
        unsound = np.flatnonzero(records.kinds < 0)
        return part(records, 0, int(unsound[0])) if len(unsound) else records

    def is_chunk(self, window: UInt8Array) -> bool:
        chunk = _opened(window)
        return chunk is not None and chunk.compression in COMPRESSIONS

    def step(self, window: UInt8Array, left: int, /) -> Look | Need | Skip | Broken:
        if left == len(MAGIC) and window.tobytes() == MAGIC:  # the end of a stream
            return Skip(left, noted=True)
        if len(window) < _RECORD_HEAD_BYTES:
            return Look(_RECORD_HEAD_BYTES)
        kind = int(window[0])
        size = int.from_bytes(window[1:_RECORD_HEAD_BYTES].tobytes(), "little")
        if kind == 0:
            return Broken("no record begins where one should")
        if kind in (ATTACHMENT, METADATA) and size > HELD_BYTES:
            seen = min(_RECORD_HEAD_BYTES + size, _MAX_ATTACHMENT_HEAD_BYTES, left)
            if len(window) < seen:
                return Look(seen)
            what = "large attachment" if kind == ATTACHMENT else "large metadata record"
            return Skip(_RECORD_HEAD_BYTES + size, what, noted=True)
        if kind == HEADER:
            seen = min(_RECORD_HEAD_BYTES + size, _MAX_HEADER_BYTES, left)
            return Look(seen) if len(window) < seen else Skip(_RECORD_HEAD_BYTES + size, noted=True)
        if kind not in (SCHEMA, CHANNEL, MESSAGE, CHUNK, ATTACHMENT, METADATA):
            return Skip(_RECORD_HEAD_BYTES + size)
        return Need(_RECORD_HEAD_BYTES + size, "chunk" if kind == CHUNK else "record")


def _opened(record: UInt8Array) -> Chunk | None:
    """See `ChunkedReader._open_chunk`."""
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
    return Chunk(
        compression=compression,
        size_bytes=size_bytes,
        crc32=crc32,
        stored=body[fields.position :][:stored_bytes],
        head_bytes=_RECORD_HEAD_BYTES + fields.position,
        stored_bytes=stored_bytes,
    )


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


@dataclass(frozen=True, slots=True)
class _Summary:
    """What the end of the file says.

    Attributes:
        data_end: where the data section ends.
        definitions: channels whose schema is there, too.
        statistics: messages by channel id; None where that is not recorded.
    """

    data_end: int
    schemas: dict[int, _Schema] = field(default_factory=dict)
    definitions: list[Definition] = field(default_factory=list)
    chunks: ChunkIndex = field(default_factory=ChunkIndex)
    statistics: dict[int, int] | None = None


def _read_summary(source: HasEnd, framing: _Framing, footer_start: int, builder: IndexBuilder) -> _Summary:
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
    checksum = 0

    def watch(data: bytes) -> None:
        nonlocal checksum
        checksum = zlib.crc32(data, checksum)

    schemas: dict[int, _Schema] = {}
    channels: list[bytes] = []
    statistics = None
    for data, records in index_pieces(source, framing, summary_start, footer_start, watch=watch):
        if np.isin(records.kinds, (HEADER, FOOTER, MESSAGE, CHUNK, DATA_END)).any():
            raise ValueError("it holds records that belong elsewhere")
        for row in np.flatnonzero(np.isin(records.kinds, (SCHEMA, CHANNEL, STATISTICS))).tolist():
            body = data[records.bodies[row] : records.ends[row]].tobytes()
            if records.kinds[row] == SCHEMA:
                schemas.update([_schema(body)])
            elif records.kinds[row] == CHANNEL:
                channels.append(body)
                builder.define(
                    int.from_bytes(body[:2], "little"), _channel(body, {}, position=0).content.topic
                )
            else:
                statistics = _statistics(body)
        rows = np.flatnonzero(records.kinds == CHUNK_INDEX)
        if len(rows):
            builder.add(_chunk_indexes(data, records.bodies[rows], records.ends[rows], summary_start))
    watch(source.read_at(footer_start, _FOOTER_BYTES - 4))
    if crc32 and checksum != crc32:
        raise ValueError("its checksum is wrong")
    definitions = [
        _channel(body, schemas, position=0)
        for body in channels
        if (schema_id := int.from_bytes(body[2:4], "little")) == 0 or schema_id in schemas
    ]
    return _Summary(summary_start, schemas, definitions, builder.finish(summary_start), statistics)


def _chunk_indexes(
    data: UInt8Array, bodies: Int64Array, ends: Int64Array, summary_start: int
) -> ChunkEntries:
    """Chunk index records; messages by channel id as the sizes of the chunk's message indexes give them.

    Raises:
        ValueError: one is cut off, or says that a chunk is where none can be.
    """
    sizes = ends - bodies
    if (sizes < _CHUNK_INDEX_HEAD.itemsize).any():
        raise ValueError("its fields go past its end")
    heads = gather(data, bodies, _CHUNK_INDEX_HEAD)
    places_bytes = heads["places_bytes"].astype(np.int64)
    if (_CHUNK_INDEX_HEAD.itemsize + places_bytes + 8 > sizes).any():
        raise ValueError("its fields go past its end")
    offsets = heads["start"].astype(np.int64)
    outside = np.flatnonzero((offsets < len(MAGIC)) | (offsets >= summary_start))
    if len(outside):
        raise ValueError(f"it says that a chunk is at byte {heads['start'][outside[0]]:,}")
    places_start = bodies + _CHUNK_INDEX_HEAD.itemsize
    index_bytes = gather(data, places_start + places_bytes, np.dtype("<i8"))
    chunk_ends = offsets + heads["length"].astype(np.int64) + index_bytes
    chunks, positions = flat_entries(
        places_start, places_bytes // _MESSAGE_INDEX_PLACE.itemsize, _MESSAGE_INDEX_PLACE.itemsize
    )
    entries = gather(data, positions, _MESSAGE_INDEX_PLACE)
    starts, ids = entries["start"].astype(np.int64), entries["channel"].astype(np.int64)
    order = np.lexsort((starts, chunks))
    starts, ids = starts[order], ids[order]
    following = np.append(starts[1:], 0)
    last = np.append(chunks[1:] != chunks[:-1], True)[: len(chunks)]
    following[last] = chunk_ends[chunks[last]]
    counts, rest = np.divmod(
        following[: len(starts)] - starts - _MESSAGE_INDEX_HEAD_BYTES, _MESSAGE_INDEX_ENTRY_BYTES
    )
    tells = np.zeros(len(offsets), np.bool_)
    tells[chunks] = True
    tells[chunks[(rest != 0) | (counts < 0)]] = False
    told = tells[chunks]
    return ChunkEntries(
        offsets=offsets,
        ends=np.maximum(chunk_ends, 1),  # a sum that overflowed is no end, and not one that is unknown
        tells=tells,
        chunks=chunks[told],
        ids=ids[told],
        counts=counts[told],
    )


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
