"""ROS 1 bags, format 2.0 (wiki.ros.org/Bags/Format/2.0)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag.blocks import Definition, groups
from ros_to_parquet.bag.chunked import Chunk, ChunkedReader, ChunkFraming
from ros_to_parquet.bag.index import ChunkEntries, ChunkIndex, IndexBuilder, flat_entries, index_pieces
from ros_to_parquet.bag.model import (
    BagError,
    BagFormat,
    Connection,
    Int64Array,
    MessageBlock,
    Messages,
    UInt8Array,
)
from ros_to_parquet.bag.scan import (
    Broken,
    Look,
    Need,
    Records,
    Scanner,
    Skip,
    gather,
    part,
    plan_span,
    slice_bounds,
)
from ros_to_parquet.bag.source import MAX_KEPT_BYTES, CountedSource, HasEnd, Kept
from ros_to_parquet.memory import MemoryBudget

MAGIC = b"#ROSBAG V2.0\n"

MESSAGE, BAG_HEADER, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7

_USUAL_DATA_START = 4117
"""Bag headers are padded to 4,096 bytes so that they can be written again when the bag is closed."""

_MAX_HEADER_BYTES = 1 << 20
_INDEX_ENTRY_BYTES = 12
_CHUNK_INFO_ENTRY = np.dtype([("conn", "<u4"), ("count", "<u4")])
_MAX_INDEX_RECORD_BYTES = 64 << 20

_SCAN = """
input data
output heads uint32
output sizes uint32
begin
  data end 0=
while
  data I-> stack dup heads <- stack data skip
  data I-> stack dup sizes <- stack data skip
repeat
"""


class Rosbag1Reader(ChunkedReader["Rosbag1Records"]):
    """A ROS 1 bag, read forward.

    The index at its end, where there is one, tells where chunks begin (to split the bag, and to go on after
    a broken record) and how many messages there should be; messages are found without it. Of a stream the
    index is had last, and only checked against.

    Raises:
        BagError: nothing can be read: cut off inside the header, encrypted, or a recording without a chunk.
    """

    format: BagFormat = "rosbag1"

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
        header = self._read_bag_header()
        self._header = header
        self._closed = header.index_pos != 0
        if not self._closed and source.size <= header.data_start:
            raise BagError(
                "it holds nothing: its recording was never closed (a .bag.active is one), and no chunk was "
                "written; if it goes on, read it when it has ended"
            )
        self._index: _Index | None = None
        self._kept = Kept(header.index_pos)  # of a stream
        if self._closed and not source.forward:
            begin, end = slice_bounds(source.size, slice_index, slice_count)
            try:
                self._index = _read_index(source, framing, header, IndexBuilder(wanted, begin=begin, end=end))
            except ValueError as error:
                self._harm(header.index_pos, f"the index cannot be used, the bag is read without it: {error}")
        self._definitions = self._index.definitions if self._index else []
        for definition in self._definitions:
            self._table.define(definition.recorded_id, definition.content)
        self._span = plan_span(
            size=source.size,
            data_start=header.data_start,
            data_end=header.index_pos if self._index else source.size,
            anchors=(self._index.chunks if self._index else ChunkIndex()).offsets,
            slice_index=slice_index,
            slice_count=slice_count,
        )

    def expected_counts(self) -> dict[int, int] | None:
        if self._index is None:
            return None
        return self._table.expected(self._index.chunks.own_messages if self._span is not None else {})

    def blocks(self) -> Iterator[MessageBlock]:
        if self._span is None:
            self.damage.clear()  # the first slice has it
            return
        yield from self._read(self._span, self._index.chunks if self._index else None, self._definitions)
        if any(damage.ends_bag for damage in self.damage):
            return
        if not self._closed:
            self._harm(
                self._source.size, "the bag was never closed: it may lack its last messages", ends_bag=True
            )
        elif self._source.forward:
            builder = IndexBuilder(lambda _: True, begin=0, end=self._source.size)
            try:
                self._index = _read_index(self._kept, _Framing(), self._header, builder)
            except ValueError as error:
                self._harm(self._header.index_pos, f"the index cannot be used to check the bag: {error}")

    def _read_bag_header(self) -> _BagHeader:
        head = np.frombuffer(self._source.read_at(0, 2 * _USUAL_DATA_START), np.uint8)[len(MAGIC) :]
        fields = _first_header(head)
        if fields is not None and fields.get(b"op") == bytes((BAG_HEADER,)):
            encryptor = _text(fields.get(b"encryptor", b""))
            if encryptor not in ("", "rosbag/NoEncryptor"):
                raise BagError(
                    f"it is encrypted with {encryptor}: decrypt it first (`rosbag decrypt`), where its key is"
                )
            header_length = _integer(head[:4].tobytes())
            padding = _integer(head[4 + header_length : 8 + header_length].tobytes())
            data_start = len(MAGIC) + 8 + header_length + padding
            if data_start <= self._source.size and not _is_misled(head, data_start - len(MAGIC)):
                index_pos = _integer(fields.get(b"index_pos", b""))
                return _BagHeader(data_start, index_pos, _integer(fields.get(b"chunk_count", b"")))
        if _first_header(head[_USUAL_DATA_START - len(MAGIC) :]) is None:
            raise BagError("it is cut off inside its header, or damaged there: no message can be found")
        self._harm(len(MAGIC), "the bag's header is damaged, the bag is read without its index")
        return _BagHeader(_USUAL_DATA_START, 0, 0)

    def _open_chunk(self, record: UInt8Array) -> Chunk | None:
        fields = _first_header(record)
        if fields is None or fields.get(b"op") != bytes((CHUNK,)):
            return None
        head_bytes = 8 + _integer(record[:4].tobytes())
        stored = record[head_bytes:]
        return Chunk(
            compression=_text(fields.get(b"compression", b"none")),
            size_bytes=_integer(fields[b"size"]) if b"size" in fields else len(stored),
            crc32=0,
            stored=stored,
            head_bytes=head_bytes,
            stored_bytes=_integer(record[head_bytes - 4 : head_bytes].tobytes()),
        )

    def _found(
        self, data: UInt8Array, records: Rosbag1Records, offsets: Int64Array
    ) -> tuple[Messages, list[Definition]]:
        if self._closed and self._source.forward and len(records):
            self._keep_index(data, records, offsets)
        definitions = []
        for row in np.flatnonzero(records.kinds == CONNECTION).tolist():
            definition = _definition(data, records, row)
            if definition is None:
                self._harm(int(offsets[row]), "a connection record cannot be read")
            else:
                definitions.append(definition)
        unusable = self._framing.unusable(records)
        rows = np.flatnonzero((records.kinds == MESSAGE) & ~unusable)
        if len(lost := np.flatnonzero(unusable)):
            self._harm(
                int(offsets[lost[0]]), f"{len(lost):,} messages do not say of which connection or time"
            )
        messages = Messages(
            connections=records.connections[rows],
            starts=records.bodies[rows],
            lengths=(records.ends - records.bodies)[rows],
            log_times_ns=records.times_ns[rows],
            publish_times_ns=None,
            sequences=None,
            offsets=offsets[rows],
        )
        return messages, definitions

    def _keep_index(self, data: UInt8Array, records: Rosbag1Records, offsets: Int64Array) -> None:
        """Keeps the records that come where the index should be."""
        first = int(np.searchsorted(offsets, self._header.index_pos))
        if first < len(records) and len(self._kept) <= MAX_KEPT_BYTES:
            self._kept.add(int(offsets[first]), data[records.starts[first] : records.ends[-1]].data)


# --- records ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rosbag1Records(Records):
    """Records with the header fields that are needed of many at once; -1 where a header has none such.

    Attributes:
        connections: ``conn``, the recorded connection id.
        times_ns: ``time``, in nanoseconds.
        counts: ``count``, the entries of an index record.
    """

    connections: Int64Array
    times_ns: Int64Array
    counts: Int64Array


class _Framing(ChunkFraming[Rosbag1Records]):
    """Record: header length, header, body length, body; lengths are uint32."""

    CHUNK, MESSAGE, INDEX = CHUNK, MESSAGE, INDEX

    def __init__(self) -> None:
        self._scanner = Scanner(_SCAN, overhead_bytes=8, head_is_size=True)

    def all_records(self, data: UInt8Array) -> Rosbag1Records:
        heads, sizes, ends = self._scanner.scan(data)
        return self._records(data, heads, ends - sizes, ends)

    def first(self, window: UInt8Array, size: int) -> Rosbag1Records:
        header_length = _integer(window[:4].tobytes())
        heads, bodies, ends = (
            np.array([value], np.int64) for value in (header_length, 8 + header_length, size)
        )
        return self._records(window, heads, bodies, ends)

    def _records(
        self, data: UInt8Array, heads: Int64Array, bodies: Int64Array, ends: Int64Array
    ) -> Rosbag1Records:
        starts = bodies - heads - 8
        kinds, connections, times_ns, counts = _header_values(data, starts + 4, heads)
        return Rosbag1Records(
            kinds=kinds,
            starts=starts,
            bodies=bodies,
            ends=ends,
            connections=connections,
            times_ns=times_ns,
            counts=counts,
        )

    def records(self, window: UInt8Array) -> Rosbag1Records:
        records = self.all_records(window)
        sizes = records.ends - records.bodies
        lies = (
            (records.kinds == INDEX) & (records.counts >= 0) & (sizes != _INDEX_ENTRY_BYTES * records.counts)
        )
        unsound = np.flatnonzero(lies | (records.kinds < 0))
        return part(records, 0, int(unsound[0])) if len(unsound) else records

    def unusable(self, records: Rosbag1Records) -> npt.NDArray[np.bool_]:
        lacking = (records.connections < 0) | (records.times_ns < 0)
        return np.asarray(lacking & (records.kinds == MESSAGE), np.bool_)

    def doubtful(self, records: Rosbag1Records) -> npt.NDArray[np.bool_]:
        return np.asarray(records.kinds < 0, np.bool_)

    def is_chunk(self, window: UInt8Array) -> bool:
        fields = _first_header(window)
        return fields is not None and fields.get(b"op") == bytes((CHUNK,))

    def step(self, window: UInt8Array, left: int, /) -> Look | Need | Skip | Broken:
        zeros = _leading_zeros(window)
        if zeros >= 4 or zeros == left:  # recorders leave gaps of zeros, before the index above all
            return Skip(zeros, "gap of zeros", noted=True)
        if len(window) < 4:
            return Look(4)
        header_length = _integer(window[:4].tobytes())
        if header_length > _MAX_HEADER_BYTES:
            return Broken("no record begins where one should")
        if len(window) < 8 + header_length:
            return Look(8 + header_length)
        fields = _first_header(window)
        if fields is None:
            return Broken("no record begins where one should")
        kind = _integer(fields[b"op"])
        body_start = 8 + header_length
        size = _integer(window[body_start - 4 : body_start].tobytes())
        counted = _INDEX_ENTRY_BYTES * _integer(fields[b"count"]) if b"count" in fields else size
        if kind == INDEX and counted != size:
            return self._index_record(window, left, body_start + size, body_start + counted)
        return Need(body_start + size, "chunk" if kind == CHUNK else "record")

    def _index_record(
        self, window: UInt8Array, left: int, said: int, counted: int
    ) -> Look | Need | Skip | Broken:
        """An index record by the length that it says it has, or that its count of entries gives it.

        Some recorders write ``count * 20`` for the length of ``count`` entries of 12 bytes.
        """
        for size in (said, counted):
            if size > min(left, _MAX_INDEX_RECORD_BYTES):
                continue
            if len(window) < (seen := min(size + _MAX_HEADER_BYTES, left)):
                return Look(seen)
            after = window[size:]
            ends_here = size == left or _leading_zeros(after) >= min(8, len(after))
            if ends_here or _first_header(after) is not None:
                return Skip(size)
        if min(said, counted) > left:
            return Need(min(said, counted))
        return Broken("an index record's length is wrong")


_NO_VALUE = -1
_UINT32 = np.dtype("<u4")
_TIME = np.dtype([("seconds", "<u4"), ("nanoseconds", "<u4")])
_VALUES: Mapping[bytes, np.dtype[Any]] = {
    b"op": np.dtype(np.uint8),
    b"conn": _UINT32,
    b"time": _TIME,
    b"count": _UINT32,
}
_CHUNK_POS: Mapping[bytes, np.dtype[Any]] = {b"chunk_pos": np.dtype("<i8")}

_MAX_LAYOUTS = 8
"""Headers of one length are read all at once for so many orders of their fields; a bag has one or two."""


def _header_values(
    data: UInt8Array, starts: Int64Array, lengths: Int64Array, dtypes: Mapping[bytes, np.dtype[Any]] = _VALUES
) -> Int64Array:
    """The values of ``dtypes`` of all headers; int64, shape (values, headers), -1 where there is none.

    Times are in nanoseconds.

    All headers of a kind are laid out alike by one recorder, so the first one is parsed and the others are
    only compared with it where they are not values.
    """
    values = np.full((len(dtypes), len(starts)), _NO_VALUE, np.int64)
    every = np.arange(len(starts))
    for length, chosen in groups(lengths):
        if length == 0:
            continue
        rows = every[chosen]
        raw = gather(data, starts[rows], np.dtype(f"V{length}")).view(np.uint8).reshape(-1, length)
        for _ in range(_MAX_LAYOUTS):
            alike = _read_alike(values, rows, raw, dtypes)
            rows, raw = rows[~alike], raw[~alike]
            if not len(rows):
                break
        for row in range(len(rows)):
            _read_alike(values, rows[row : row + 1], raw[row : row + 1], dtypes)
    return values


def _read_alike(
    values: Int64Array, rows: Int64Array, raw: UInt8Array, dtypes: Mapping[bytes, np.dtype[Any]]
) -> npt.NDArray[np.bool_]:
    """Reads the headers that are laid out as the first one is; which they are."""
    layout = _layout(raw[0].tobytes())
    if layout is None:
        alone = np.zeros(len(rows), np.bool_)
        alone[0] = True
        return alone
    constant = np.ones(raw.shape[1], bool)
    for start, end in layout.values():
        constant[start:end] = False
    alike: npt.NDArray[np.bool_] = (raw[:, constant] == raw[0, constant]).all(axis=1)
    for number, (name, dtype) in enumerate(dtypes.items()):
        start, end = layout.get(name, (0, 0))
        if end - start == dtype.itemsize:
            found = np.ascontiguousarray(raw[alike, start:end]).view(dtype)[:, 0]
            if dtype == _TIME:
                found = found["seconds"].astype(np.int64) * 1_000_000_000 + found["nanoseconds"]
            values[number, rows[alike]] = found
    return alike


def _is_misled(head: UInt8Array, start: int) -> bool:
    """Whether a bag header leads to where no record begins, though one does where one usually is."""
    usual = _USUAL_DATA_START - len(MAGIC)
    there = head[start:]
    leads = start >= len(head) or _leading_zeros(there) >= 4 or _first_header(there) is not None
    return not leads and start != usual and _first_header(head[usual:]) is not None


def _layout(header: bytes) -> dict[bytes, tuple[int, int]] | None:
    """Where each field's value begins and ends; None where it is no header of fields."""
    layout = {}
    position = 0
    while position < len(header):
        start = position + 4
        end = start + _integer(header[position:start])
        equals = header.find(b"=", start, end)
        if end > len(header) or equals < 0:
            return None
        layout[header[start:equals]] = (equals + 1, end)
        position = end
    return layout


def _fields(header: bytes) -> dict[bytes, bytes] | None:
    layout = _layout(header)
    return None if layout is None else {name: header[start:end] for name, (start, end) in layout.items()}


def _first_header(data: UInt8Array) -> dict[bytes, bytes] | None:
    """The header of the record that begins a buffer; None where none does, or not all of it is there."""
    if len(data) < 4:
        return None
    length = _integer(data[:4].tobytes())
    if not 0 < length <= min(_MAX_HEADER_BYTES, len(data) - 8):
        return None
    fields = _fields(data[4 : 4 + length].tobytes())
    return fields if fields is not None and len(fields.get(b"op", b"")) == 1 else None


def _leading_zeros(data: UInt8Array) -> int:
    for seen in (data[:64], data):
        if seen.any():
            return int(np.argmax(seen != 0))
    return len(data)


def _integer(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


# --- connections and the index ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _BagHeader:
    data_start: int
    index_pos: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class _Index:
    definitions: list[Definition]
    chunks: ChunkIndex


def _definition(data: UInt8Array, records: Rosbag1Records, row: int) -> Definition | None:
    """A connection record; None where it cannot be read."""
    start, body, end = (int(places[row]) for places in (records.starts, records.bodies, records.ends))
    header = _first_header(data[start:end])
    content = _fields(data[body:end].tobytes())
    recorded_id = int(records.connections[row])
    if header is None or content is None or recorded_id < 0 or b"type" not in content:
        return None
    has_definition = b"message_definition" in content
    connection = Connection(
        id=0,
        topic=_text(header.get(b"topic") or content.get(b"topic", b"")),
        type_name=_text(content[b"type"]),
        definition=_text(content.get(b"message_definition", b"")),
        definition_format="ros1msg" if has_definition else "",
        definition_hash=_text(content.get(b"md5sum", b"")).replace("*", ""),
        encoding="ros1",
        metadata={
            _text(name): _text(value)
            for name, value in content.items()
            if name not in (b"topic", b"type", b"message_definition", b"md5sum")
        },
    )
    return Definition(recorded_id, start, connection)


def _read_index(source: HasEnd, framing: _Framing, header: _BagHeader, builder: IndexBuilder) -> _Index:
    """The connections and chunk infos at the bag's end.

    Raises:
        ValueError: they are not (all) there, or contradict themselves.
    """
    if not header.data_start <= header.index_pos <= source.size:
        raise ValueError(f"it should begin at byte {header.index_pos:,} of {source.size:,}")
    definitions: list[Definition] = []
    contents: dict[int, Connection] = {}
    for data, records in index_pieces(source, framing, header.index_pos, source.size):
        if not np.isin(records.kinds, (CONNECTION, CHUNK_INFO)).all():
            raise ValueError("it holds records that belong elsewhere")
        for row in np.flatnonzero(records.kinds == CONNECTION).tolist():
            definition = _definition(data, records, row)
            if definition is None:
                raise ValueError("a connection record cannot be read")
            if contents.setdefault(definition.recorded_id, definition.content) != definition.content:
                raise ValueError(f"connection {definition.recorded_id} is defined in two ways")
            definitions.append(definition)
            builder.define(definition.recorded_id, definition.content.topic)
        rows = np.flatnonzero(records.kinds == CHUNK_INFO)
        if len(rows):
            builder.add(_chunk_infos(data, records, rows, header))
    chunks = builder.finish(header.index_pos)
    if len(chunks.offsets) != header.chunk_count:
        raise ValueError(
            f"{header.chunk_count:,} chunks are recorded, {len(chunks.offsets):,} are in the index"
        )
    if builder.named - contents.keys():
        raise ValueError("it names connections that it does not define")
    return _Index(definitions, chunks)


def _chunk_infos(
    data: UInt8Array, records: Rosbag1Records, rows: Int64Array, header: _BagHeader
) -> ChunkEntries:
    """Chunk info records. Of a chunk's end they say nothing: what follows belongs to it, up to the next one.

    Raises:
        ValueError: one cannot be read, or says that a chunk is where none can be.
    """
    starts, bodies, ends = records.starts[rows], records.bodies[rows], records.ends[rows]
    (offsets,) = _header_values(data, starts + 4, bodies - starts - 8, _CHUNK_POS)
    sizes, rest = np.divmod(ends - bodies, _CHUNK_INFO_ENTRY.itemsize)
    if (offsets == _NO_VALUE).any() or rest.any():
        raise ValueError("a chunk info record cannot be read")
    outside = np.flatnonzero((offsets < header.data_start) | (offsets >= header.index_pos))
    if len(outside):
        raise ValueError(f"it says that a chunk is at byte {offsets[outside[0]]:,}")
    chunks, places = flat_entries(bodies, sizes, _CHUNK_INFO_ENTRY.itemsize)
    entries = gather(data, places, _CHUNK_INFO_ENTRY)
    return ChunkEntries(
        offsets=offsets,
        ends=np.zeros(len(rows), np.int64),
        tells=np.ones(len(rows), np.bool_),
        chunks=chunks,
        ids=entries["conn"].astype(np.int64),
        counts=entries["count"].astype(np.int64),
    )
