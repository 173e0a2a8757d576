"""Streams of bytes inside of other bytes: decompressed ones, and parts of a source."""

from __future__ import annotations

import bz2
import lzma
import tempfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import lz4.frame
import zstandard

from ros_to_parquet import termination
from ros_to_parquet.bag.source import READ_BYTES, UNKNOWN_BYTES, ByteStream, CountedSource, LocalFile

_INPUT_BYTES = 1 << 20

_FED_BYTES = 4 << 10
"""Compressed bytes fed at a time: zstd, which takes no limit, makes at most 128 MiB of as many."""

_STEP_BYTES = 16 << 10
"""Content made at a time: what is lost of it, where the next is broken, is less."""

_CHECKSUM_BYTES = {"gzip": 8, "lz4": 4, "zstd": 4}
"""At the end, and fed alone: a wrong checksum costs nothing of what was made before."""

_MAX_REST_BYTES = 32 << 20
"""Read for the sake of a checksum alone: the index of a bag, and the like."""

_ERRORS = (
    *(RuntimeError, OSError, EOFError, ValueError, MemoryError),
    *(zlib.error, lzma.LZMAError, zstandard.ZstdError),
)


_TOO_MUCH_MEMORY = ("Memory usage limit", "too much memory")
"""How xz and zstd say so."""

MAX_RATIO = 10_000
FREE_BYTES = 16 << 30
"""What unpacks to more than so many times its size, and to more than this, is taken for a bomb."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Zlib:
    """zlib's decompressor with the manners of the others."""

    def __init__(self, window_bits: int) -> None:
        self._stream = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


class _Zstd:
    """Likewise zstandard's, which makes all that there is of what it is fed: so that is little at a time."""

    _PIECE_BYTES = 256
    """At most 8 MiB are made of as many."""

    def __init__(self, memory_bytes: int) -> None:
        self._stream = zstandard.ZstdDecompressor(max_window_size=memory_bytes).decompressobj()
        self._rest = b""
        self._error: zstandard.ZstdError | None = None

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data + self._rest

    @property
    def needs_input(self) -> bool:
        return not self._rest and self._error is None

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if self._error is not None:
            raise self._error
        data = self._rest + data
        made: list[bytes] = []
        size = place = 0
        while place < len(data) and size < max_length and not self._stream.eof:
            piece = data[place : place + self._PIECE_BYTES]
            place += len(piece)
            try:
                made.append(self._stream.decompress(piece))
            except zstandard.ZstdError as error:  # what was made before it comes first
                self._error = error
                break
            size += len(made[-1])
        self._rest = data[place:]
        return b"".join(made)


_DECODERS: Mapping[str, Callable[[int], _Decoder]] = {
    "gzip": lambda _: _Zlib(31),
    "deflate": lambda _: _Zlib(-15),
    "bzip2": lambda _: bz2.BZ2Decompressor(),
    "xz": lambda memory_bytes: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory_bytes),
    "lz4": lambda _: lz4.frame.LZ4FrameDecompressor(),
    "zstd": _Zstd,
}
"""By what they may take in memory."""

MAX_MEMORY_BYTES = 128 << 20
"""What a decompressor may take: zstd's own default. ``xz -9`` asks for 65 MiB, ``zstd --long`` for 128."""


class Decompressed:
    """The content of compressed bytes, as a `ByteStream`, in memory that its size does not change.

    Several streams in a row are one, as the formats' own tools have it (gzip's members, zstd's frames);
    zeros may follow. A wrong checksum is a problem, after the content.

    Args:
        source: where the compressed bytes are.
        codec: ``gzip``, ``bzip2``, ``xz``, ``lz4``, ``zstd``, or ``deflate``, which is one stream alone.
        start: where they begin in the source.
        size: how many there are.
        memory_bytes: what the decompressor may take.
    """

    def __init__(
        self,
        source: CountedSource,
        codec: str,
        *,
        start: int = 0,
        size: int = UNKNOWN_BYTES,
        memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        self.problem = ""
        self._source = source
        self._codec = codec
        self._memory_bytes = memory_bytes
        self._decoder = _DECODERS[codec](memory_bytes)
        self._start = self._place = start
        self._end = start + size
        self._input = b""
        self._taken = 0  # of the input
        self._ready = b""
        self._ended = False
        self._is_stuck = False

    def read(self, length: int) -> bytes:
        pieces = [self._ready]
        found = len(self._ready)
        while found < length and not self._ended:
            pieces.append(self._step())
            found += len(pieces[-1])
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._ready = data[length:]
        return data[:length]

    def _step(self) -> bytes:
        if self._decoder.eof:
            self._follow()
            return b""
        decoder = self._decoder
        must_feed = decoder.needs_input or self._is_stuck
        fed = self._feed() if must_feed else b""
        try:
            made = decoder.decompress(fed, _STEP_BYTES)
        except _ERRORS as error:
            if any(said in str(error) for said in _TOO_MUCH_MEMORY):
                more = "raise --memory-limit, or " if self._memory_bytes < MAX_MEMORY_BYTES else ""
                self._end_with(
                    f"the {self._codec} data takes more than the {self._memory_bytes:,} bytes of memory "
                    f"that are left to unpack it: {more}unpack it first"
                )
            else:
                self._end_with(f"the {self._codec} data is damaged before its byte {self._used:,}: {error}")
            return b""
        if decoder.eof:
            self._taken -= len(decoder.unused_data or b"")
        elif must_feed and not (fed or made):
            self._end_with(f"the {self._codec} data is cut off after {self._used:,} bytes")
        # LZ4's decoder does not say that it needs input where what it has is not a whole block.
        self._is_stuck = not made
        return made

    @property
    def _used(self) -> int:
        """How many of the compressed bytes have been fed."""
        return self._place - self._start - len(self._input) + self._taken

    def _follow(self) -> None:
        """Begins the next stream, if there is one."""
        if self._codec == "deflate":
            self._ended = True
            return
        while self._fill(1) and not self._input[self._taken]:
            self._taken += 1
        if self._fill(1):
            self._decoder = _DECODERS[self._codec](self._memory_bytes)
        else:
            self._ended = True

    def _feed(self) -> bytes:
        last = _CHECKSUM_BYTES.get(self._codec, 0)
        there = self._fill(_FED_BYTES + last)
        end = self._taken + min(there - last if there > last else there, _FED_BYTES)
        fed, self._taken = self._input[self._taken : end], end
        return fed

    def _fill(self, least: int) -> int:
        """Bytes of input that are at hand: at least so many, where there are as many."""
        while len(self._input) - self._taken < least:
            more = self._source.read_at(self._place, min(_INPUT_BYTES, self._end - self._place))
            if not more:
                break
            self._place += len(more)
            self._input = self._input[self._taken :] + more
            self._taken = 0
        return len(self._input) - self._taken

    def _end_with(self, problem: str) -> None:
        self.problem = problem
        self._ended = True


class Section:
    """A part of a source as a `ByteStream`."""

    def __init__(self, source: CountedSource, start: int, size: int) -> None:
        self.problem = ""
        self._source = source
        self._start = start
        self._place = start
        self._end = start + size

    def read(self, length: int) -> bytes:
        length = min(length, self._end - self._place)
        data = self._source.read_at(self._place, length) if length > 0 else b""
        self._place += len(data)
        if len(data) < length:
            found = self._place - self._start
            self.problem = f"it is cut off: {found:,} of {self._end - self._start:,} bytes are there"
        return data


class Bounded:
    """A stream that ends where it has become a decompression bomb, by what was read of the ``root``."""

    def __init__(self, stream: ByteStream, root: CountedSource) -> None:
        self._stream = stream
        self._root = root
        self._found = 0
        self._is_bomb = False

    @property
    def problem(self) -> str:
        return BOMB if self._is_bomb else self._stream.problem

    def read(self, length: int) -> bytes:
        self._is_bomb = self._is_bomb or is_bomb(self._found, self._root)
        if self._is_bomb:
            return b""
        data = self._stream.read(length)
        self._found += len(data)
        return data


BOMB = (
    f"it unpacks to more than {MAX_RATIO:,} times its size and is taken for a decompression bomb: what "
    "follows is not read; unpack it first if it is none"
)


def is_bomb(unpacked_bytes: int, source: CountedSource) -> bool:
    return unpacked_bytes > max(FREE_BYTES, MAX_RATIO * source.bytes_read)


class Checked:
    """A stream whose CRC-32 and size are known."""

    def __init__(self, stream: ByteStream, crc32: int, size: int) -> None:
        self._stream = stream
        self._expected = crc32, size
        self._found = 0, 0

    @property
    def problem(self) -> str:
        (crc32, size), (expected_crc32, expected_size) = self._found, self._expected
        if self._stream.problem:
            return self._stream.problem
        if size != expected_size:
            return f"{expected_size:,} bytes are recorded, {size:,} found"
        return "" if crc32 == expected_crc32 else "its checksum is wrong"

    def read(self, length: int) -> bytes:
        data = self._stream.read(length)
        crc32, size = self._found
        self._found = zlib.crc32(data, crc32), size + len(data)
        return data


class Window:
    """A part of a source that can be read anywhere, as `RandomAccess`.

    Where its CRC-32 is given, it is held against as much as is read in order from the start.
    """

    def __init__(
        self, source: CountedSource, start: int, size: int, name: str, *, crc32: int | None = None
    ) -> None:
        self.size = size
        self.name = name
        self._source = source
        self._start = start
        self._staged: Staged | None = None
        self._expected_crc32 = crc32
        self._crc32 = 0
        self._checked = 0

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        data = self._source.read_at(self._start + offset, length) if length > 0 else b""
        if self._expected_crc32 is not None and offset <= self._checked < offset + len(data):
            self._crc32 = zlib.crc32(memoryview(data)[self._checked - offset :], self._crc32)
            self._checked = offset + len(data)
        return data

    def finish(self) -> str:
        """What is wrong with it, where all of it has been read, but for a few bytes at the end."""
        if self._expected_crc32 is None or self.size - self._checked > _MAX_REST_BYTES:
            return ""
        while self._checked < self.size:
            if not self.read_at(self._checked, READ_BYTES):
                break
        return "" if self._crc32 == self._expected_crc32 else "its checksum is wrong"

    def local_path(self) -> str:
        if self._staged is None:
            self._staged = Staged(self)
        return self._staged.local_path()


class Staged(LocalFile):
    """A source's bytes in a file on scratch disk, gone when it is closed."""

    def __init__(self, source: Window | CountedSource) -> None:
        with ExitStack() as unless_whole:
            with termination.deferred():
                self._folder = tempfile.TemporaryDirectory(prefix="ros-to-parquet-")
                unless_whole.callback(self._folder.cleanup)
            path = Path(self._folder.name) / "staged"
            with path.open("wb") as file:
                place = 0
                while data := source.read_at(place, READ_BYTES):
                    file.write(data)
                    place += len(data)
            super().__init__(path)
            unless_whole.pop_all()

    def close(self) -> None:
        super().close()
        self._folder.cleanup()
