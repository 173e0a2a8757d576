"""What ROS 1 bags and MCAP have in common: records in a file, chunks of records among them."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag.blocks import ConnectionTable
from ros_to_parquet.bag.decompress import decompress
from ros_to_parquet.bag.model import BagFormat, Connection, Damage, Int64Array, MessageBlock, UInt8Array
from ros_to_parquet.bag.scan import Batch, Framing, R, Span, part, walk
from ros_to_parquet.bag.source import CountedSource, ForwardBuffer
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
    """A `BagReader` of a bag of records and chunks, which a subclass lays out."""

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

    def _read(self, span: Span) -> Iterator[MessageBlock]:
        """The messages of all records of a span, in and outside of chunks; damage is noted."""
        for found in walk(ForwardBuffer(self._source), self._framing, span):
            if isinstance(found, Batch):
                yield from self._batch(found)
            else:
                self._harm(found.offset, found.reason, ends_bag=found.ends_bag)
                yield from self._chunk(found.offset, found.window, cut=True)
        self.damage.extend(self._table.undefined())
        if compressed := self._table.compressed_messages:
            self.compressions["zstd"] = self.compressions.get("zstd", 0) + compressed

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
