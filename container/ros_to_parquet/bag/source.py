"""Where a bag's bytes come from, read in few and large steps."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np

from ros_to_parquet.bag.model import RandomAccess, UInt8Array

READ_BYTES = 8 << 20
"""One read of a forward pass."""

GAP_BYTES = 4 << 20
"""What need not be read is read over where it is shorter.

A request of its own costs about what 4 MB more of another one cost, in time (30 ms to the first byte, at 100
MB/s) as in money (0.4 millionths of a dollar, as 40 ms of a vCPU).
"""

HEAD_BYTES = TAIL_BYTES = 64 << 10
"""What is read first of a large bag: enough to tell its format, and a small index at its end."""


@runtime_checkable
class ReadsAhead(Protocol):
    """A source that can be told what will be read of it."""

    def expect(self, pieces: Sequence[tuple[int, int]]) -> None:
        """From here on these pieces, [begin, end) and ascending, will be read, each in one read."""
        ...


class LocalFile:
    """A bag on this machine as `RandomAccess`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: BinaryIO = self._path.open("rb")
        self._size = os.fstat(self._file.fileno()).st_size

    @property
    def size(self) -> int:
        return self._size

    @property
    def name(self) -> str:
        return str(self._path)

    def read_at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def local_path(self) -> str:
        return str(self._path)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CountedSource:
    """A source that counts what is read of it. One of at most `READ_BYTES` is read once, whole.

    Of a larger one, its head and its tail are read once where something in them is asked for.
    """

    def __init__(self, source: RandomAccess) -> None:
        self._source = source
        self._whole: bytes | None = None
        self.size = source.size
        self.bytes_read = 0
        self._ends: dict[int, bytes] = {}
        self._tail_start = max(HEAD_BYTES, self.size - TAIL_BYTES)

    def read_at(self, offset: int, length: int) -> bytes:
        if self.size <= READ_BYTES:
            if self._whole is None:
                self._whole = self._read(0, self.size)
            return self._whole[offset : offset + length]
        if offset + length <= HEAD_BYTES:
            return self._end(0, HEAD_BYTES)[offset : offset + length]
        if offset >= self._tail_start:
            start = offset - self._tail_start
            return self._end(self._tail_start, TAIL_BYTES)[start : start + length]
        return self._read(offset, length)

    def expect(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Tells the source that these ranges will be read next; in which pieces that should be."""
        pieces = [
            (begin, min(begin + READ_BYTES, end))
            for start, end in ranges
            for begin in range(start, end, READ_BYTES)
        ]
        if isinstance(self._source, ReadsAhead) and self.size > READ_BYTES:
            self._source.expect(pieces)
        return pieces

    def local_path(self) -> str:
        """The file's path; it counts as read."""
        path = self._source.local_path()
        self.bytes_read = self.size
        return path

    def _end(self, offset: int, length: int) -> bytes:
        if offset not in self._ends:
            self._ends[offset] = self._read(offset, length)
        return self._ends[offset]

    def _read(self, offset: int, length: int) -> bytes:
        data = self._source.read_at(offset, length)
        self.bytes_read += len(data)
        return data


class ForwardBuffer:
    """A window that moves forward over a source, of which only ``ranges`` are read as far as possible."""

    def __init__(self, source: CountedSource, ranges: Sequence[tuple[int, int]]) -> None:
        self._source = source
        self._start = 0
        self._data = b""
        pieces = source.expect(ranges)
        self._begins = [begin for begin, _ in pieces]
        self._ends = [end for _, end in pieces]

    def window(self, offset: int, need: int) -> UInt8Array:
        """The bytes from ``offset``: those at hand, ``need`` at least (fewer at the source's end only).

        Offsets of successive calls do not decrease. The array is read-only and stays valid.
        """
        at_hand = max(self._start + len(self._data) - offset, 0)
        if at_hand < need:
            kept = self._data[offset - self._start :] if at_hand else b""
            start = offset + at_hand
            data = self._source.read_at(start, self._read_end(offset + need) - start)
            self._start, self._data = offset, kept + data if kept else data
        return np.frombuffer(self._data, np.uint8)[offset - self._start :]

    def _read_end(self, least: int) -> int:
        """Where a read ends that goes to ``least`` at least: with a piece, if that is in one."""
        place = bisect.bisect_left(self._ends, least)
        return self._ends[place] if place < len(self._ends) and self._begins[place] < least else least
