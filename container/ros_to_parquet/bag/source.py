"""Where a bag's bytes come from, read in few and large steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol

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

    forward = False
    """Whether bytes come once, in their order, so that nothing can be read at the end first."""

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


class ByteStream(Protocol):
    """Bytes that come once, in their order."""

    @property
    def problem(self) -> str:
        """What is wrong where they end, once that has been met; empty where nothing is."""
        ...

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes; fewer at the end only."""
        ...


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
