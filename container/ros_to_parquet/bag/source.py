"""Where a bag's bytes come from, read in few and large steps."""

from __future__ import annotations

import bisect
import mmap
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

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


@runtime_checkable
class ReadsInto(Protocol):
    """A source that reads into memory that is there."""

    def read_into(self, offset: int, memory: memoryview) -> int:
        """Fills ``memory`` from ``offset`` on; how many bytes there were, fewer at the end only."""
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

    forward = False
    """Whether bytes come once, in their order, so that nothing can be read at the end first."""

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

    def expect(
        self, ranges: Sequence[tuple[int, int]], piece_bytes: int | None = None, /
    ) -> list[tuple[int, int]]:
        """Tells the source that these ranges will be read next; in which pieces that should be."""
        step = min(piece_bytes or READ_BYTES, READ_BYTES)
        pieces = [
            (begin, min(begin + step, end)) for start, end in ranges for begin in range(start, end, step)
        ]
        if isinstance(self._source, ReadsAhead) and self.size > READ_BYTES:
            self._source.expect(pieces)
        return pieces

    def read_behind(self, kept: memoryview, offset: int, length: int) -> memoryview:
        """``kept``, and behind it what `read_at` gives."""
        source = self._source
        ends_apart = offset + length > HEAD_BYTES and offset < self._tail_start
        if not (kept and isinstance(source, ReadsInto) and self.size > READ_BYTES and ends_apart):
            return behind(kept, self.read_at(offset, length))
        length = max(min(length, self.size - offset), 0)
        own = np.empty(len(kept) + length, np.uint8).data
        own[: len(kept)] = kept
        read = source.read_into(offset, own[len(kept) :])
        self.bytes_read += read
        return own[: len(kept) + read].toreadonly()

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


def behind(kept: memoryview, data: bytes) -> memoryview:
    """``kept``, and behind it ``data``."""
    return memoryview(b"".join((kept, data)) if kept else data)


class ByteStream(Protocol):
    """Bytes that come once, in their order."""

    @property
    def problem(self) -> str:
        """What is wrong where they end, once that has been met; empty where nothing is."""
        ...

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes; fewer at the end only."""
        ...


class HasEnd(Protocol):
    """What can be read of a source whose end is known."""

    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, length: int) -> bytes: ...
    def expect(
        self, ranges: Sequence[tuple[int, int]], piece_bytes: int | None = None, /
    ) -> list[tuple[int, int]]: ...


UNKNOWN_BYTES = 1 << 62
"""The size of a source that is known at its end only; more than any has."""


class ForwardSource(CountedSource):
    """A stream as a source: no read may begin before the last one did.

    Args:
        stream: its bytes.
        size: how many there are; `UNKNOWN_BYTES` until the end is met.
    """

    forward = True

    def __init__(self, stream: ByteStream, size: int = UNKNOWN_BYTES) -> None:
        self.size = size
        self.bytes_read = 0
        self._stream = stream
        self._start = 0
        self._held = b""

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < self._start:
            raise ValueError(f"byte {offset} of a stream that is past it")
        while (gap := offset - self._start - len(self._held)) > 0:
            self._start += len(self._held)
            self._held = self._next(min(gap, READ_BYTES))
            if not self._held:
                return b""
        held = self._held[offset - self._start :]
        if len(held) < length:
            held = held + self._next(length - len(held)) if held else self._next(length)
        self._start, self._held = offset, held
        return held[:length]

    def read_behind(self, kept: memoryview, offset: int, length: int) -> memoryview:
        return behind(kept, self.read_at(offset, length))

    def _next(self, length: int) -> bytes:
        data = self._stream.read(length)
        self.bytes_read += len(data)
        if len(data) < length and self.size == UNKNOWN_BYTES:
            self.size = self.bytes_read
        return data

    def local_path(self) -> str:
        raise NotImplementedError("a stream is in no file")

    def finish(self) -> str:
        """Reads the rest; what is wrong with the stream, or nothing."""
        while self.read_at(self._start + len(self._held), READ_BYTES):
            pass
        return self._stream.problem


MAX_KEPT_BYTES = 256 << 20
"""More than the index of any bag that is packed whole."""


class Kept:
    """The end of a stream, kept as it went by, to be read again."""

    def __init__(self, start: int = 0) -> None:
        self.size = self._start = start
        self._data = bytearray()

    def add(self, offset: int, data: memoryview) -> None:
        """What came at ``offset``: the first of it, or what follows on the last."""
        if not self._data:
            self._start = offset
        self._data += data
        self.size = self._start + len(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Raises `ValueError` for what is not kept."""
        if offset < self._start:
            raise ValueError(f"it should begin at byte {offset:,}, the data ends at {self._start:,}")
        return bytes(self._data[offset - self._start :][:length])

    def expect(
        self, ranges: Sequence[tuple[int, int]], _piece_bytes: int | None = None, /
    ) -> list[tuple[int, int]]:
        """It is at hand."""
        return list(ranges)


class Readable(Protocol):
    """Bytes that are read forward; ``read_at`` returns fewer than asked at the end only."""

    def read_at(self, offset: int, length: int) -> bytes: ...
    def read_behind(self, kept: memoryview, offset: int, length: int) -> memoryview:
        """``kept``, and behind it what ``read_at`` gives."""
        ...


class Summed:
    """A source whose CRC-32 to ``end`` is had of what is read in order from its begin."""

    def __init__(self, source: Readable, end: int) -> None:
        self._source = source
        self._end = end
        self._reached = 0
        self._crc32 = 0

    def read_at(self, offset: int, length: int) -> bytes:
        data = self._source.read_at(offset, length)
        self._sum(offset, memoryview(data))
        return data

    def read_behind(self, kept: memoryview, offset: int, length: int) -> memoryview:
        data = self._source.read_behind(kept, offset, length)
        self._sum(offset, data[len(kept) :])
        return data

    def _sum(self, offset: int, data: memoryview) -> None:
        if offset <= self._reached < offset + len(data):
            self._crc32 = zlib.crc32(data[self._reached - offset : self._end - offset], self._crc32)
            self._reached = min(offset + len(data), self._end)

    def crc32(self) -> int | None:
        """None where not all was read, or not in order."""
        return self._crc32 if self._reached == self._end else None


class ForwardBuffer:
    """A window that moves forward over a source.

    Args:
        pieces: ranges, ascending, to be read one at a time; of the rest of the source no more than is needed.
            None for all of it, in pieces of ``window_bytes``.
        window_bytes: what needs more at a time gets memory of its own.
    """

    def __init__(
        self, source: Readable, pieces: Sequence[tuple[int, int]] | None, *, window_bytes: int
    ) -> None:
        self._source = source
        self._window_bytes = window_bytes
        self._start = 0
        self._data = memoryview(b"")
        self._begins = None if pieces is None else [begin for begin, _ in pieces]
        self._ends = [end for _, end in pieces or ()]

    def window(self, offset: int, need: int) -> UInt8Array:
        """The bytes from ``offset``: those at hand, ``need`` at least (fewer at the source's end only).

        Offsets of successive calls do not decrease. The array is read-only and stays valid.
        """
        at_hand = max(self._start + len(self._data) - offset, 0)
        if need > max(at_hand, self._window_bytes):
            return self._exactly(offset, need, at_hand)
        if at_hand < need:
            kept = self._data[offset - self._start :] if at_hand else memoryview(b"")
            start = offset + at_hand
            length = self._read_end(offset + need) - start
            self._start, self._data = offset, self._source.read_behind(kept, start, length)
        return np.frombuffer(self._data, np.uint8)[offset - self._start :]

    def peek(self, offset: int, length: int) -> UInt8Array:
        """Bytes anywhere in a source that is no stream, read for themselves unless they are at hand."""
        place = offset - self._start
        if place < 0 or place + length > len(self._data):
            return np.frombuffer(self._source.read_at(offset, length), np.uint8)
        return np.frombuffer(self._data[place : place + length], np.uint8)

    def _exactly(self, offset: int, size: int, at_hand: int) -> UInt8Array:
        """So many bytes in pages of their own (see `give_back`), put together without a second copy."""
        pages = own_pages(size)
        filled = at_hand
        if at_hand:
            pages[:filled] = self._data[offset - self._start :]
        while filled < size:
            start = offset + filled
            end = self._read_end(min(start + self._window_bytes, offset + size))
            data = self._source.read_at(start, min(end, offset + size) - start)
            if not data:
                break
            pages[filled : filled + len(data)] = data
            filled += len(data)
        self._start, self._data = offset, memoryview(pages)[:filled].toreadonly()
        return np.frombuffer(self._data, np.uint8)

    def _read_end(self, least: int) -> int:
        """Where a read ends that goes to ``least`` at least: with a piece, if that is in one."""
        if self._begins is None:
            return -(-least // self._window_bytes) * self._window_bytes
        place = bisect.bisect_left(self._ends, least)
        return self._ends[place] if place < len(self._ends) and self._begins[place] < least else least


def own_pages(size: int) -> mmap.mmap:
    """Memory for one large message, which `give_back` can free."""
    return mmap.mmap(-1, size)


def give_back(data: UInt8Array) -> None:
    """Frees the memory of an array that was made in pages of its own, whoever still refers to it.

    To be called by the one reader of a buffer that holds nothing but one large message.
    """
    base: Any = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
