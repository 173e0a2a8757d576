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
from ros_to_parquet.bag.decompress import decompress
from ros_to_parquet.bag.index import ChunkIndex
from ros_to_parquet.bag.model import BagFormat, Connection, Damage, Int64Array, MessageBlock, UInt8Array
from ros_to_parquet.bag.scan import Batch, Framing, Overrun, R, Span, merged, part, walk, without
from ros_to_parquet.bag.source import GAP_BYTES, CountedSource, ForwardBuffer
from ros_to_parquet.memory import MemoryBudget


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a chunk's record says; ``stored`` is cut off where the record is. ``crc32`` is 0 for none."""

    compression: str
    size_bytes: int
    crc32: int
    stored: UInt8Array


class ChunkFraming(Framing[R], Protocol[R]):
    """How a format lays out its records, in chunks too."""

    CHUNK: int
    """The opcode of a chunk's record."""

    def all_records(self, data: UInt8Array) -> R:
        """The records at the start of a buffer as far as lengths lead, whatever is in them."""

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
        self._framing = framing
        self._budget = budget
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
    def _run(self, data: UInt8Array, records: R, offsets: Int64Array) -> Iterator[MessageBlock]:
        """The messages among records of one buffer; ``offsets`` say where to find them in the bag."""

    def _read(
        self, span: Span, index: ChunkIndex | None, definitions: Sequence[Definition]
    ) -> Iterator[MessageBlock]:
        """The messages of all records of a span, in and outside of chunks; damage is noted.

        With an ``index``, and its ``definitions``, chunks that hold nothing wanted are left out.
        """
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
        self.damage.extend(self._table.undefined())
        if compressed := self._table.compressed_messages:
            self.compressions["zstd"] = self.compressions.get("zstd", 0) + compressed

    def _walk(self, spans: Sequence[Span], overruns: list[tuple[int, int]]) -> Iterator[MessageBlock]:
        """The messages of spans, ascending; notes where one should have ended, and where it did."""
        if not spans:
            return
        begins = np.array([span.walk_from for span in spans], np.int64)
        ends = np.array([span.end for span in spans], np.int64)
        buffer = ForwardBuffer(self._source, merged(begins, ends, GAP_BYTES))
        reached = 0
        for span in spans:
            if reached > span.walk_from:
                start = max(span.begin, reached)
                span = dataclasses.replace(span, walk_from=start, begin=start)
            for found in walk(buffer, self._framing, span):
                if isinstance(found, Batch):
                    yield from self._batch(found)
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
        self.damage.append(Damage(offset, reason, ends_bag))

    def _batch(self, batch: Batch[R]) -> Iterator[MessageBlock]:
        records = batch.records
        offsets = batch.offset + records.starts
        done = 0
        for row in [*np.flatnonzero(records.kinds == self._framing.CHUNK).tolist(), len(records)]:
            if done < row:
                yield from self._run(batch.window, part(records, done, row), offsets[done:row])
            if row < len(records):
                window = batch.window[records.starts[row] : records.ends[row]]
                yield from self._chunk(int(offsets[row]), window)
            done = row + 1

    def _chunk(self, offset: int, record: UInt8Array, *, cut: bool = False) -> Iterator[MessageBlock]:
        """A chunk's messages; of one that is cut off (and noted as damage), those that are there."""
        chunk = self._open_chunk(record)
        problems = []
        if chunk is None:
            if not cut:
                self._harm(offset, "a chunk's header cannot be read")
            return
        compression = chunk.compression or "none"
        self.compressions[compression] = self.compressions.get(compression, 0) + 1
        content, problem = decompress(chunk.compression, chunk.stored, chunk.size_bytes)
        if problem:
            problems.append(problem)
        elif chunk.crc32 and zlib.crc32(content.data) != chunk.crc32:
            problems.append("its checksum is wrong")
        records = self._framing.all_records(content)
        reached = int(records.ends[-1]) if len(records) else 0
        if reached < len(content):  # a length is wrong, or the end is missing
            doubtful = np.flatnonzero(self._framing.doubtful(records))
            records = part(records, 0, int(doubtful[0]) if len(doubtful) else len(records))
            problems.append(f"its records break off after {reached:,} of {len(content):,} bytes")
        elif unreadable := np.count_nonzero(records.kinds < 0):
            problems.append(f"{unreadable:,} of its records have unreadable headers")
        if problems and not cut:
            self._harm(offset, f"a chunk (compression: {compression}) is damaged: {'; '.join(problems)}")
        yield from self._run(content, records, np.full(len(records), offset, np.int64))


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
