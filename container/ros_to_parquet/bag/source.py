"""Where a bag's bytes come from, read in few and large steps."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from ros_to_parquet.bag.model import RandomAccess, UInt8Array

READ_BYTES = 8 << 20
"""One read of a forward pass; reads end at multiples of it."""


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
    """A source that counts what is read of it. One of at most `READ_BYTES` is read once, whole."""

    def __init__(self, source: RandomAccess) -> None:
        self._source = source
        self._whole: bytes | None = None
        self.size = source.size
        self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        if self.size <= READ_BYTES:
            if self._whole is None:
                self._whole = self._read(0, self.size)
            return self._whole[offset : offset + length]
        return self._read(offset, length)

    def local_path(self) -> str:
        """The file's path; it counts as read."""
        path = self._source.local_path()
        self.bytes_read = self.size
        return path

    def _read(self, offset: int, length: int) -> bytes:
        data = self._source.read_at(offset, length)
        self.bytes_read += len(data)
        return data


class Readable(Protocol):
    """Bytes that are read forward; ``read_at`` returns fewer than asked at the end only."""

    def read_at(self, offset: int, length: int) -> bytes: ...


class ForwardBuffer:
    """A window that moves forward over a source, ``window_bytes`` at a time where no more is needed."""

    def __init__(self, source: Readable, window_bytes: int = READ_BYTES) -> None:
        self._source = source
        self._window_bytes = window_bytes
        self._start = 0
        self._data = memoryview(b"")

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
            end = -(-(offset + need) // self._window_bytes) * self._window_bytes
            data = self._source.read_at(start, end - start)
            self._start, self._data = offset, memoryview(b"".join((kept, data)) if kept else data)
        return np.frombuffer(self._data, np.uint8)[offset - self._start :]

    def _exactly(self, offset: int, size: int, at_hand: int) -> UInt8Array:
        """So many bytes in pages of their own (see `give_back`), put together without a second copy."""
        pages = own_pages(size)
        filled = at_hand
        if at_hand:
            pages[:filled] = self._data[offset - self._start :]
        while filled < size:
            step = self._window_bytes - (offset + filled) % self._window_bytes
            data = self._source.read_at(offset + filled, min(step, size - filled))
            if not data:
                break
            pages[filled : filled + len(data)] = data
            filled += len(data)
        self._start, self._data = offset, memoryview(pages)[:filled].toreadonly()
        return np.frombuffer(self._data, np.uint8)


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
