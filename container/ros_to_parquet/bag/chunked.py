"""What ROS 1 bags and MCAP have in common: records in a file, chunks of records among them."""

from __future__ import annotations

import dataclasses
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag.blocks import ConnectionTable, Definition
from ros_to_parquet.bag.decompress import Unpacked, decompress, decompress_into, pieces
from ros_to_parquet.bag.index import ChunkIndex
from ros_to_parquet.bag.model import (
    BagFormat,
    Connection,
    Damage,
    Int64Array,
    MessageBlock,
    Messages,
    UInt8Array,
    note,
)
from ros_to_parquet.bag.scan import (
    BEGINNING_BYTES,
    Batch,
    Cut,
    Framing,
    Large,
    Overrun,
    Passed,
    R,
    Span,
    merged,
    part,
    walk,
    walked_from_chunk,
    without,
)
from ros_to_parquet.bag.source import GAP_BYTES, UNKNOWN_BYTES, CountedSource, ForwardBuffer, Readable
from ros_to_parquet.bag.streams import BOMB, is_bomb
from ros_to_parquet.memory import MemoryBudget

_HEADER_BYTES = 64
"""About what precedes a message in its record."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a chunk's record says; ``stored`` is cut off where the record is. ``crc32`` is 0 for none.

    What is stored begins after ``head_bytes`` of the record and has ``stored_bytes``.
    """

    compression: str
    size_bytes: int
    crc32: int
    stored: UInt8Array
    head_bytes: int
    stored_bytes: int


class ChunkFraming(Framing[R], Protocol[R]):
    """How a format lays out its records, in chunks too."""

    CHUNK: int
    """The opcode of a chunk's record."""

    MESSAGE: int
    """The opcode of a message's record."""

    INDEX: int
    """The opcode of a record that says where a chunk before it has messages: not needed to find them."""

    def all_records(self, data: UInt8Array) -> R:
        """The records at the start of a buffer as far as lengths lead, whatever is in them."""

    def first(self, window: UInt8Array, size: int) -> R:
        """The record of ``size`` bytes that begins at the start of a window, and has its header there."""

    def unusable(self, records: R) -> npt.NDArray[np.bool_]:
        """Which are messages that lack what is needed of their header."""

    def doubtful(self, records: R) -> npt.NDArray[np.bool_]:
        """Which of a chunk's records must be taken for debris when their lengths do not lead to its end."""


class ChunkedReader(ABC, Generic[R]):
    """A `BagReader` of a bag of records and chunks, which a subclass lays out.

    Chunks that hold nothing wanted by the bag's index are left out: neither read nor decompressed, and their
    messages counted as the index has them. If the rest is not as the index says (counts of a connection,
    places, a connection with two meanings, any damage), what was left out is read after it, so that an index
    that lies costs the order of rows and nothing else. It is believed where nothing speaks against it: a
    connection that takes on a wanted topic only within chunks that are left out is not found.
    """

    format: BagFormat

    def __init__(
        self,
        source: CountedSource,
        framing: ChunkFraming[R],
        *,
        wanted: Callable[[str], bool],
        budget: MemoryBudget,
    ) -> None:
        self.damage: list[Damage] = []
        self.compressions: dict[str, int] = {}
        self.unread_messages = 0
        self._source = source
        self._data: Readable = source
        """The source, as records and chunks are read of it."""
        self._framing = framing
        self._budget = budget
        self._largest = {"chunk": budget.chunk, "record": budget.message + _HEADER_BYTES}
        self._unpacked_bytes = 0
        self._is_given_up = False
        self._table = ConnectionTable(wanted, budget)
        self.counts = self._table.counts

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    def connections(self) -> list[Connection]:
        return list(self._table.connections)

    @abstractmethod
    def expected_counts(self) -> dict[int, int] | None: ...

    @abstractmethod
    def _open_chunk(self, record: UInt8Array) -> Chunk | None:
        """A chunk's record that is whole or cut off; None if it is none or its header cannot be read."""

    @abstractmethod
    def _found(self, data: UInt8Array, records: R, offsets: Int64Array) -> tuple[Messages, list[Definition]]:
        """Messages and connections among records of one buffer; ``offsets`` say where they are in the bag."""

    def _run(
        self, data: UInt8Array, records: R, offsets: Int64Array, *, joined: bool = False
    ) -> Iterator[MessageBlock]:
        """The messages among records of one buffer; it is of several chunks where it is ``joined``."""
        messages, definitions = self._found(data, records, offsets)
        if joined and definitions:
            rows = np.searchsorted(records.starts, [each.position for each in definitions])
            definitions = [
                dataclasses.replace(each, offset=offset)
                for each, offset in zip(definitions, offsets[rows].tolist(), strict=True)
            ]
        yield from self._table.blocks(data, messages, definitions)

    def _passed(self, record: Passed) -> None:
        """Takes note of a record that was not read, and that the framing said to note."""

    def _read(
        self, span: Span, index: ChunkIndex | None, definitions: Sequence[Definition]
    ) -> Iterator[MessageBlock]:
        """The messages of all records of a span, in and outside of chunks; damage is noted.

        With an ``index``, and its ``definitions``, chunks that hold nothing wanted are left out.
        """
        span = walked_from_chunk(span, self._begins_chunk)
        left_out = merged(index.left_out, index.left_out_ends) if index else []
        overruns: list[tuple[int, int]] = []
        yield from self._walk(without(span, left_out), overruns)
        if index and left_out:
            if self._is_as_told(index) and not overruns:
                self._count(index.left_out_messages)
            else:
                for definition in definitions:  # of which the walk may have found another meaning
                    self._table.define(definition.recorded_id, definition.content)
                yield from self._walk(_to_be_read(span, left_out, overruns), [])
        yield from self._table.rest()
        for damage in self._table.undefined():
            note(self.damage, damage)
        if compressed := self._table.compressed_messages:
            self.compressions["zstd"] = self.compressions.get("zstd", 0) + compressed

    def _walk(self, spans: Sequence[Span], overruns: list[tuple[int, int]]) -> Iterator[MessageBlock]:
        """The messages of spans, ascending; notes where one should have ended, and where it did."""
        if not spans:
            return
        begins = np.array([span.walk_from for span in spans], np.int64)
        ends = np.array([span.end for span in spans], np.int64)
        window_bytes = self._budget.window
        pieces_to_read = None
        if not self._source.forward:
            pieces_to_read = self._source.expect(merged(begins, ends, GAP_BYTES), window_bytes)
        buffer = ForwardBuffer(self._data, pieces_to_read, window_bytes=window_bytes)
        reached = 0
        for span in spans:
            if reached > span.walk_from:
                start = max(span.begin, reached)
                span = dataclasses.replace(span, walk_from=start, begin=start)
            for found in walk(buffer, self._framing, span, largest=self._largest):
                if isinstance(found, Batch):
                    yield from self._batch(found)
                elif isinstance(found, Passed):
                    self._passed(found)
                elif isinstance(found, Large):
                    yield from self._large(found, buffer)
                elif isinstance(found, Overrun):
                    reached = found.offset
                    overruns.append((span.end, reached))
                else:
                    self._harm(found.offset, found.reason, ends_bag=found.ends_bag)
                    yield from self._chunk(found.offset, found.window, cut=True)

    def _is_as_told(self, index: ChunkIndex) -> bool:
        """Whether the chunks that were read are as the index says."""
        told = index.own_messages - index.left_out_messages
        table = self._table
        return (
            not self.damage
            and not table.undefined()
            and not table.is_ambiguous
            and table.expected(told) == self.counts
        )

    def _count(self, unread: Mapping[int, int]) -> None:
        for connection_id, count in self._table.expected(unread).items():
            self.counts[connection_id] += count
            self.unread_messages += count

    def _harm(self, offset: int, reason: str, *, ends_bag: bool = False) -> None:
        note(self.damage, Damage(offset, reason, ends_bag))

    def _batch(self, batch: Batch[R]) -> Iterator[MessageBlock]:
        records = batch.records
        offsets = batch.offset + records.starts
        # A stream's end is kept as it goes by, with all that is in it.
        tells = (records.kinds != self._framing.INDEX) | self._source.forward
        chunks: list[tuple[int, UInt8Array]] = []
        done = 0
        for row in [*np.flatnonzero(records.kinds == self._framing.CHUNK).tolist(), len(records)]:
            if tells[done:row].any():
                yield from self._chunks(chunks)
                chunks = []
                yield from self._run(batch.window, part(records, done, row), offsets[done:row])
            if row < len(records):
                window = batch.window[records.starts[row] : records.ends[row]]
                chunks.append((int(offsets[row]), window))
            done = row + 1
        yield from self._chunks(chunks)

    def _chunks(self, chunks: Sequence[tuple[int, UInt8Array]]) -> Iterator[MessageBlock]:
        """The messages of chunks, given by offset and record, several at a time where they are small.

        What is done with them costs by the step, too. Half a window is still in a processor's cache.
        """
        together: list[tuple[int, Chunk]] = []
        most_bytes = self._budget.window // 2
        size_bytes = 0
        for offset, record in chunks:
            chunk = self._open_chunk(record)
            more_bytes = chunk.size_bytes if chunk else most_bytes
            if size_bytes + more_bytes > most_bytes:
                yield from self._together(together)
                together, size_bytes = [], 0
            if chunk is None:
                yield from self._chunk(offset, record)
            else:
                together.append((offset, chunk))
                size_bytes += chunk.size_bytes
        yield from self._together(together)

    def _together(self, chunks: Sequence[tuple[int, Chunk]]) -> Iterator[MessageBlock]:
        """The messages of chunks in one run; one by one where anything is wrong with one of them."""
        found = self._joined(chunks) if len(chunks) > 1 else None
        if found is None:
            for offset, chunk in chunks:
                yield from self._alone(offset, chunk)
            return
        if self._gives_up(chunks[0][0]):
            return
        content, records, offsets = found
        for _, chunk in chunks:
            self._count_chunk(chunk)
        self._unpacked_bytes += len(content)
        yield from self._run(content, records, offsets, joined=True)

    def _joined(self, chunks: Sequence[tuple[int, Chunk]]) -> tuple[UInt8Array, R, Int64Array] | None:
        """The content of chunks as one, its records, and the offset of the chunk that each is of.

        None where a chunk is not as it should be.
        """
        ends = np.cumsum([chunk.size_bytes for _, chunk in chunks])
        content: UInt8Array = np.empty(int(ends[-1]), np.uint8)
        for (_, chunk), end in zip(chunks, ends.tolist(), strict=True):
            own = content[end - chunk.size_bytes : end]
            if not decompress_into(chunk.compression, chunk.stored, own):
                return None
            if chunk.crc32 and zlib.crc32(own.data) != chunk.crc32:
                return None
        content.flags.writeable = False
        records = self._framing.all_records(content)
        last = np.searchsorted(records.ends, ends)
        if not len(records) or records.ends[-1] != ends[-1] or (records.ends[last] != ends).any():
            return None
        if (records.kinds < 0).any() or self._framing.unusable(records).any():
            return None
        counts = np.diff(last, prepend=-1)
        return content, records, np.repeat([offset for offset, _ in chunks], counts)

    def _chunk(self, offset: int, record: UInt8Array, *, cut: bool = False) -> Iterator[MessageBlock]:
        """A chunk's messages; of one that is cut off (and noted as damage), those that are there."""
        chunk = self._open_chunk(record)
        if chunk is not None:
            yield from self._alone(offset, chunk, cut=cut)
        elif not cut:
            self._harm(offset, "a chunk's header cannot be read")

    def _alone(self, offset: int, chunk: Chunk, *, cut: bool = False) -> Iterator[MessageBlock]:
        """The messages of one chunk, and what is wrong with it."""
        if self._gives_up(offset):
            return
        problems = []
        if chunk.size_bytes > self._budget.chunk:
            yield from self._unpacked(offset, chunk, pieces(chunk.stored, self._budget.window), cut=cut)
            return
        compression = self._count_chunk(chunk)
        content, problem = decompress(
            chunk.compression, chunk.stored, chunk.size_bytes, most_bytes=self._budget.chunk
        )
        if problem:
            problems.append(problem)
        elif chunk.crc32 and zlib.crc32(content.data) != chunk.crc32:
            problems.append("its checksum is wrong")
        self._unpacked_bytes += len(content)
        records = self._framing.all_records(content)
        reached = int(records.ends[-1]) if len(records) else 0
        if reached < len(content):  # a length is wrong, or the end is missing
            doubtful = np.flatnonzero(self._framing.doubtful(records))
            records = part(records, 0, int(doubtful[0]) if len(doubtful) else len(records))
            problems.append(f"its records break off after {reached:,} of {len(content):,} bytes")
        elif unreadable := np.count_nonzero(records.kinds < 0):
            problems.append(f"{unreadable:,} of its records have unreadable headers")
        if problems and not cut:
            self._harm_chunk(offset, compression, problems)
        yield from self._run(content, records, np.full(len(records), offset, np.int64))

    def _gives_up(self, offset: int) -> bool:
        """Whether chunks are not unpacked any more, from the one at ``offset`` on."""
        if not self._is_given_up and is_bomb(self._unpacked_bytes, self._source):
            self._is_given_up = True
            self._harm(offset, BOMB, ends_bag=True)
        return self._is_given_up

    def _begins_chunk(self, offset: int) -> bool:
        """Whether a chunk begins where the index says so; it is noted where none does."""
        chunk = self._open_chunk(np.frombuffer(self._source.read_at(offset, BEGINNING_BYTES), np.uint8))
        if chunk and offset + chunk.head_bytes + chunk.stored_bytes <= self._source.size:
            return True
        self._harm(offset, "the index says that a chunk begins here, and none does")
        return False

    def _count_chunk(self, chunk: Chunk) -> str:
        compression = chunk.compression or "none"
        self.compressions[compression] = self.compressions.get(compression, 0) + 1
        return compression

    def _harm_chunk(self, offset: int, compression: str, problems: list[str]) -> None:
        self._harm(offset, f"a chunk (compression: {compression}) is damaged: {'; '.join(problems)}")

    # --- what is too large to be in memory

    def _large(self, found: Large, buffer: ForwardBuffer) -> Iterator[MessageBlock]:
        """The messages of a large chunk, or what is known of a large message."""
        record = self._framing.first(found.window, found.size)
        kind = int(record.kinds[0])
        if kind == self._framing.CHUNK:
            chunk = self._open_chunk(found.window)
            if chunk is None:
                if not found.cut:
                    self._harm(found.offset, "a chunk's header cannot be read")
                return
            if self._gives_up(found.offset):
                return
            begin = found.offset + chunk.head_bytes
            end = min(begin + chunk.stored_bytes, found.offset + found.size)
            stored = self._stored(buffer, begin, end)
            yield from self._unpacked(found.offset, chunk, stored, cut=found.cut)
        elif not found.cut:
            yield from self._oversize(found, found.offset)

    def _stored(self, buffer: ForwardBuffer, begin: int, end: int) -> Iterator[bytes]:
        """What is stored from ``begin`` to ``end``, some at a time."""
        while begin < end:
            piece = buffer.window(begin, min(self._budget.window, end - begin))[: end - begin]
            if not len(piece):
                return
            begin += len(piece)
            yield piece.tobytes()

    def _unpacked(
        self, offset: int, chunk: Chunk, stored: Iterator[bytes], *, cut: bool
    ) -> Iterator[MessageBlock]:
        """The messages of a chunk that is decompressed as it is read; damage is noted when all is read."""
        compression = self._count_chunk(chunk)
        content = Unpacked(
            chunk.compression,
            stored,
            piece_bytes=self._budget.window,
            window_bytes=self._budget.limit // 8,
        )
        end = min(chunk.size_bytes, UNKNOWN_BYTES)  # of any 64 bits; places have 63
        inner = Span(0, 0, end, end, np.zeros(0, np.int64))
        buffer = ForwardBuffer(content, None, window_bytes=self._budget.window)
        broken = ""
        reached = 0
        for found in walk(buffer, self._framing, inner, largest=self._largest):
            if isinstance(found, Batch):
                offsets = np.full(len(found.records), offset, np.int64)
                yield from self._run(found.window, found.records, offsets)
            elif isinstance(found, Large):
                yield from self._oversize(found, offset)
            elif isinstance(found, Cut):
                broken, reached = found.reason, found.offset
            elif isinstance(found, Passed) and not broken:
                broken, reached = "no record begins where one should", found.offset
        size_bytes, crc32 = content.finish(chunk.size_bytes)
        self._unpacked_bytes += size_bytes
        problems = [content.problem] if content.problem else []
        if size_bytes != chunk.size_bytes:
            there = "more" if size_bytes > chunk.size_bytes else f"{size_bytes:,}"
            problems.insert(0, f"{chunk.size_bytes:,} bytes recorded, {there} found")
        elif chunk.crc32 and crc32 != chunk.crc32:
            problems.append("its checksum is wrong")
        if broken:
            problems.append(f"its records break off after {reached:,} of {size_bytes:,} bytes: {broken}")
        if problems and not cut:
            self._harm_chunk(offset, compression, problems)

    def _oversize(self, found: Large, offset: int) -> Iterator[MessageBlock]:
        record = self._framing.first(found.window, found.size)
        if int(record.kinds[0]) != self._framing.MESSAGE:
            self._harm(offset, f"a record of {found.size:,} bytes is neither a message nor a chunk: left out")
            return
        messages, _ = self._found(found.window, record, np.array([offset], np.int64))
        yield from self._table.oversize(messages)


def _to_be_read(
    span: Span, left_out: Sequence[tuple[int, int]], overruns: Sequence[tuple[int, int]]
) -> list[Span]:
    """What was left out of a span, but for what records before it reached into."""
    spans = []
    for start, end in left_out:
        begin = max([start, *(reached for due, reached in overruns if due <= start)])
        end = min(end, span.end)
        if begin < end:
            spans.append(dataclasses.replace(span, walk_from=begin, begin=begin, end=end))
    return spans
