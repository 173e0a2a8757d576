"""Where a bag's bytes come from, read in few and large steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

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


class ForwardBuffer:
    """A window that moves forward over a source."""

    def __init__(self, source: CountedSource) -> None:
        self._source = source
        self._start = 0
        self._data = b""

    def window(self, offset: int, need: int) -> UInt8Array:
        """The bytes from ``offset``: those at hand, ``need`` at least (fewer at the source's end only).

        Offsets of successive calls do not decrease. The array is read-only and stays valid.
        """
        at_hand = max(self._start + len(self._data) - offset, 0)
        if at_hand < need:
            kept = self._data[offset - self._start :] if at_hand else b""
            start = offset + at_hand
            end = -(-(offset + need) // READ_BYTES) * READ_BYTES
            data = self._source.read_at(start, end - start)
            self._start, self._data = offset, kept + data if kept else data
        return np.frombuffer(self._data, np.uint8)[offset - self._start :]
