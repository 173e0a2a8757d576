"""What a bag's own index says of its chunks, and which of them a reader can leave out.

The index of a bag of 500 GB has half a million chunks and a million times a hundred counts: it is read in
pieces, and of each piece only what is needed is kept, some bytes a chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag import source as source_module
from ros_to_parquet.bag.model import Int64Array, UInt8Array
from ros_to_parquet.bag.scan import R, R_co
from ros_to_parquet.bag.source import HasEnd

MAX_INDEX_RECORD_BYTES = 64 << 20
"""No record of an index is longer: the longest are definitions and counts of 65,536 channels."""

MAX_CONNECTIONS, MAX_CHUNKS = 1 << 17, 1 << 22
"""What an index may name: counts take memory by the connection, and offsets by the chunk."""

_PART_BYTES = 512 << 10
"""What is looked at together of an index: in memory that takes ten times as much."""

BoolArray = npt.NDArray[np.bool_]


def _no_offsets() -> Int64Array:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """The chunks of a bag by its index, and the messages that it promises by recorded connection id.

    Attributes:
        offsets: where chunks begin in the bag, int64, shape (chunks,), ascending.
        messages: in all chunks.
        own_messages: in the chunks of the slice.
        left_out: where the slice's chunks begin that hold no wanted message, ascending.
        left_out_ends: where what belongs to each of them ends, their index records included.
        left_out_messages: in the chunks that are left out.
    """

    offsets: Int64Array = field(default_factory=_no_offsets)
    messages: Counter[int] = field(default_factory=Counter)
    own_messages: Counter[int] = field(default_factory=Counter)
    left_out: Int64Array = field(default_factory=_no_offsets)
    left_out_ends: Int64Array = field(default_factory=_no_offsets)
    left_out_messages: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class ChunkEntries:
    """What a piece of an index says of some chunks.

    Attributes:
        offsets: where each begins, int64, shape (chunks,).
        ends: where it ends with its index records; 0 where the index does not say.
        tells: whether the counts say what is in it; bool, shape (chunks,).
        chunks: the place in ``offsets`` that an entry is of, int64, shape (entries,).
        ids: the entry's recorded connection id.
        counts: its messages.
    """

    offsets: Int64Array
    ends: Int64Array
    tells: BoolArray
    chunks: Int64Array
    ids: Int64Array
    counts: Int64Array


class IndexBuilder:
    """Makes a `ChunkIndex` of pieces.

    Args:
        wanted: whether a topic is wanted. A chunk is left out if all that it holds is known, by connections
            that ``define`` has been told of before, and is not wanted. One that is said to hold nothing is
            read: it costs next to nothing if that is so.
        begin: first offset of the slice.
        end: first offset after it.
    """

    def __init__(self, wanted: Callable[[str], bool], *, begin: int, end: int) -> None:
        self._is_wanted = wanted
        self._begin, self._end = begin, end
        self._wanted: dict[int, bool] = {}
        self._count = 0
        self._offsets: list[Int64Array] = []
        self._ends: list[Int64Array] = []
        self._left_out: list[BoolArray] = []
        self._messages: Counter[int] = Counter()
        self._own: Counter[int] = Counter()
        self._left: Counter[int] = Counter()
        self.named: set[int] = set()
        """Recorded connection ids that have entries."""

    def define(self, recorded_id: int, topic: str) -> None:
        self._wanted[recorded_id] = self._wanted.get(recorded_id, False) or self._is_wanted(topic)

    def add(self, entries: ChunkEntries) -> None:
        """Takes a piece of the index.

        Raises:
            ValueError: there is more of it than any bag has.
        """
        ids = sorted(set(entries.ids.tolist()))
        inverse = np.searchsorted(ids, entries.ids)
        self.named.update(ids)
        self._count += len(entries.offsets)
        if len(self.named) > MAX_CONNECTIONS or self._count > MAX_CHUNKS:
            raise ValueError(f"it names more than {MAX_CONNECTIONS:,} connections, or {MAX_CHUNKS:,} chunks")
        may_be_wanted = np.array([self._wanted.get(number, True) for number in ids], np.bool_)
        left_out = np.zeros_like(entries.tells)
        left_out[entries.chunks[entries.counts > 0]] = True
        left_out &= entries.tells
        left_out[entries.chunks[may_be_wanted[inverse] & (entries.counts > 0)]] = False
        own = (entries.offsets >= self._begin) & (entries.offsets < self._end)
        left_out &= own
        for chosen, tally in ((None, self._messages), (own, self._own), (left_out, self._left)):
            entry = slice(None) if chosen is None else chosen[entries.chunks]
            sums = np.zeros(len(ids), np.int64)
            np.add.at(sums, inverse[entry], entries.counts[entry])
            tally.update({number: count for number, count in zip(ids, sums.tolist(), strict=True) if count})
        self._offsets.append(entries.offsets)
        self._ends.append(entries.ends)
        self._left_out.append(left_out)

    def finish(self, data_end: int) -> ChunkIndex:
        """The index of all pieces.

        Raises:
            ValueError: a chunk is there twice.
        """
        if not self._offsets:
            return ChunkIndex()
        offsets, ends = np.concatenate(self._offsets), np.concatenate(self._ends)
        left_out = np.concatenate(self._left_out)
        order = np.argsort(offsets, kind="stable")
        offsets, ends, left_out = offsets[order], ends[order], left_out[order]
        twice = np.flatnonzero(offsets[1:] == offsets[:-1])
        if len(twice):
            raise ValueError(f"it says twice that a chunk is at byte {offsets[twice[0]]:,}")
        following = np.append(offsets[1:], data_end)
        ends = np.where(ends == 0, following, ends)
        if ((ends <= offsets) | (ends > following)).any():  # it contradicts itself: nothing is left out
            return ChunkIndex(offsets, self._messages, self._own)
        return ChunkIndex(offsets, self._messages, self._own, offsets[left_out], ends[left_out], self._left)


def flat_entries(starts: Int64Array, counts: Int64Array, width: int) -> tuple[Int64Array, Int64Array]:
    """Rows of ``counts`` entries of ``width`` bytes each, of which the first is at ``starts``.

    Returns:
        For all entries of all rows: the row, and where the entry is.
    """
    rows = np.repeat(np.arange(len(starts)), counts)
    firsts = np.cumsum(counts) - counts
    return rows, starts[rows] + width * (np.arange(len(rows)) - firsts[rows])


class _AllRecords(Protocol[R_co]):
    def all_records(self, data: UInt8Array) -> R_co: ...


def index_pieces(
    source: HasEnd,
    framing: _AllRecords[R],
    start: int,
    end: int,
    *,
    watch: Callable[[bytes], object] = lambda _: None,
) -> Iterator[tuple[UInt8Array, R]]:
    """The records from ``start`` to ``end``, some at a time, with the buffer that holds them.

    ``watch`` is called with all bytes, in order, before the records among them are yielded.

    Raises:
        ValueError: records do not lead to the end.
    """
    source.expect([(start, end)])
    kept = b""
    while start < end:
        data = source.read_at(start, min(source_module.READ_BYTES, end - start))
        if not data:
            break
        watch(data)
        start += len(data)
        for place in range(0, len(data), _PART_BYTES):
            buffer = np.frombuffer(kept + data[place : place + _PART_BYTES], np.uint8)
            records = framing.all_records(buffer)
            if len(records):
                yield buffer, records
            kept = buffer[int(records.ends[-1]) if len(records) else 0 :].tobytes()
            if len(kept) > MAX_INDEX_RECORD_BYTES:
                raise ValueError(f"a record of it would be longer than {MAX_INDEX_RECORD_BYTES:,} bytes")
    if kept or start < end:
        raise ValueError("its records do not lead to its end: it is cut off or broken")
