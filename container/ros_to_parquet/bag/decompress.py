"""Decompression of chunks and messages that trusts no length it is told."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import lz4.frame
import numpy as np
import zstandard

from ros_to_parquet.bag.model import UInt8Array
from ros_to_parquet.bag.source import behind

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_TRUSTED_BYTES = 16 << 20
"""Of a message: a size that may be allocated because a header says so; a larger one is grown into."""

_PIECE_BYTES = 4 << 10
"""What is fed at a time when as much as possible is to be had from a broken stream."""

_SALVAGED_BYTES = 64 << 10
"""What is had at a time of a stream that may be broken."""

_LEAST_WINDOW_BYTES = 8 << 20
"""How far back a zstd frame may always refer, which takes as much memory: as its format asks of readers."""

_ERRORS = (RuntimeError, OSError, EOFError, ValueError, MemoryError, zstandard.ZstdError)


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


_STREAMS: dict[str, Callable[[], _Stream]] = {
    "bz2": bz2.BZ2Decompressor,
    "lz4": lz4.frame.LZ4FrameDecompressor,
}

COMPRESSIONS = ("", "none", "zstd", *_STREAMS)


def pieces(data: UInt8Array, piece_bytes: int) -> Iterator[bytes]:
    """The bytes of an array, some at a time."""
    for start in range(0, len(data), piece_bytes):
        yield data[start : start + piece_bytes].tobytes()


def unpack(
    compression: str, stored: Iterator[bytes], *, piece_bytes: int, window_bytes: int
) -> Iterator[bytes]:
    """The content of one or several streams in a row, in pieces of at most ``piece_bytes``.

    A zstd frame may refer back to ``window_bytes`` before, or to 8 MiB.

    Raises:
        Any of `_ERRORS`: it is cut off or broken, after what there is of it.
    """
    if compression in ("", "none"):
        yield from stored
    elif compression == "zstd":
        yield from _unpack_zstd(stored, piece_bytes, max(window_bytes, _LEAST_WINDOW_BYTES))
    elif compression in _STREAMS:
        yield from _unpack_stream(_STREAMS[compression], stored, piece_bytes)
    else:
        raise ValueError(_not_supported(compression))


def _unpack_zstd(stored: Iterator[bytes], piece_bytes: int, window_bytes: int) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=window_bytes)
    # read1 gives what there is after each step of input, so that what precedes a broken place is not lost.
    source: Any = _Feed(stored)
    with decompressor.stream_reader(source, read_across_frames=True) as reader:
        while piece := reader.read1(piece_bytes):
            yield piece


def _unpack_stream(
    new_stream: Callable[[], _Stream], stored: Iterator[bytes], piece_bytes: int
) -> Iterator[bytes]:
    stream = new_stream()
    fed = b""
    while True:
        if stream.eof:
            fed = stream.unused_data or next(stored, b"")
            if not fed:
                return
            stream = new_stream()
        elif stream.needs_input and not (fed := next(stored, b"")):
            raise EOFError("the compressed data is cut off")
        if piece := stream.decompress(fed, piece_bytes):
            yield piece
        fed = b""


class _Feed:
    """Pieces of bytes as a file to read."""

    def __init__(self, stored: Iterator[bytes]) -> None:
        self._stored = stored
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._stored, b""))
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken.tobytes()


class Unpacked:
    """The content of a chunk as a source that is read forward and kept nowhere.

    ``problem`` says what is wrong with it, as far as it was read.
    """

    def __init__(
        self, compression: str, stored: Iterator[bytes], *, piece_bytes: int, window_bytes: int
    ) -> None:
        self.problem = ""
        self._pieces = unpack(compression, stored, piece_bytes=piece_bytes, window_bytes=window_bytes)
        self._position = 0
        self._crc32 = 0
        self._rest = memoryview(b"")

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset``, which is not before the end of what was read last."""
        taken = []
        while self._position < offset + length and self._more():
            skipped = min(max(offset - self._position, 0), len(self._rest))
            end = min(offset + length - self._position, len(self._rest))
            if skipped < end:
                taken.append(self._rest[skipped:end])
            self._position += end
            self._rest = self._rest[end:]
        return taken[0].tobytes() if len(taken) == 1 else b"".join(taken)

    def read_behind(self, kept: memoryview, offset: int, length: int) -> memoryview:
        """``kept``, and behind it what `read_at` gives."""
        return behind(kept, self.read_at(offset, length))

    def _more(self) -> bool:
        """Whether there are bytes at hand; the next piece is made where there are none."""
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except _ERRORS as error:
                self.problem = str(error)
                piece = None
            if piece is None:
                return False
            self._crc32 = zlib.crc32(piece, self._crc32)
            self._rest = memoryview(piece)
        return True

    def finish(self, most_bytes: int) -> tuple[int, int]:
        """Reads to the end, or past ``most_bytes``; how many bytes there were, and their CRC-32."""
        while self._position <= most_bytes and self._more():
            self._position += len(self._rest)
            self._rest = memoryview(b"")
        return self._position, self._crc32


def decompress(
    compression: str, data: UInt8Array, size_bytes: int, *, most_bytes: int
) -> tuple[UInt8Array, str]:
    """A chunk's content, or the first part of it where not all can be had.

    Args:
        compression: ``none`` (or empty), ``bz2``, ``lz4`` or ``zstd``, the latter two as frames.
        data: what is stored, maybe cut off.
        size_bytes: the content's size as recorded, at most ``most_bytes``.
        most_bytes: of content that is not as recorded, no more is decompressed.

    Returns:
        The content as a read-only array and an empty string, or what there is of it and what is wrong.
    """
    if compression in ("", "none"):
        problem = "" if len(data) == size_bytes else f"{size_bytes:,} bytes recorded, {len(data):,} found"
        return data, problem
    if compression not in COMPRESSIONS:
        return data[:0], _not_supported(compression)
    if not size_bytes and not len(data):
        return data, ""  # a chunk that holds nothing may be no stream, either
    try:
        return np.frombuffer(_decompress_whole(compression, data, size_bytes), np.uint8), ""
    except _ERRORS:
        pass  # the second way, piece by piece, says what is wrong
    content, problem = _salvage(compression, pieces(data, _PIECE_BYTES), most_bytes)
    if len(content) != size_bytes:
        problem = f"{size_bytes:,} bytes recorded, {len(content):,} found" + (problem and f" ({problem})")
    return np.frombuffer(content, np.uint8), problem


def decompress_into(compression: str, data: UInt8Array, content: UInt8Array) -> bool:
    """Whether a chunk's content is exactly as large as ``content``, which then holds it.

    What is wrong where it is not, `decompress` says.
    """
    if compression in ("", "none"):
        if len(data) != len(content):
            return False
        content[:] = data
        return True
    if compression not in COMPRESSIONS:
        return False
    try:
        if compression == "zstd":
            frame = zstandard.get_frame_parameters(data.data)
            # What a checksum says, only decompression as a whole tells.
            if frame.content_size == len(content) and not frame.has_checksum:
                reader = zstandard.ZstdDecompressor().stream_reader(data.data)
                return reader.readinto(content.data) == len(content)
        content[:] = np.frombuffer(_decompress_whole(compression, data, len(content)), np.uint8)
    except _ERRORS:
        return False
    return True


def _not_supported(compression: str) -> str:
    return f"compression {compression!r} is not supported (none, bz2, lz4 and zstd are)"


def _decompress_whole(compression: str, data: UInt8Array, size_bytes: int) -> bytes:
    """The content of one stream of exactly ``size_bytes``.

    Raises:
        Any of `_ERRORS`, also where it is another size.
    """
    view = data.data
    if compression == "zstd":
        if zstandard.frame_content_size(view) > size_bytes:
            raise ValueError("zstd frame larger than recorded")
        content = zstandard.ZstdDecompressor().decompress(view, max_output_size=size_bytes)
        ended = True
    else:
        stream = lz4.frame.LZ4FrameDecompressor() if compression == "lz4" else bz2.BZ2Decompressor()
        content = stream.decompress(view, max_length=size_bytes)
        ended = stream.eof
    if len(content) != size_bytes or not ended:
        raise ValueError("not the size that is recorded")
    return content


def _salvage(compression: str, stored: Iterator[bytes], most_bytes: int) -> tuple[bytes, str]:
    """As much as can be had of one or several streams in a row, up to a limit, and what is wrong."""
    found: list[bytes] = []
    size_bytes = 0
    problem = ""
    try:
        for piece in unpack(compression, stored, piece_bytes=_SALVAGED_BYTES, window_bytes=4 * most_bytes):
            found.append(piece)
            size_bytes += len(piece)
            if size_bytes > most_bytes:
                break
    except _ERRORS as error:
        problem = str(error)
    return b"".join(found)[:most_bytes], problem


def decompress_message(data: bytes, *, most_bytes: int) -> bytes | None:
    """The content of one zstd frame (rosbag2's compression by message), None where it is none.

    Of content with more than ``most_bytes``, so many bytes and one are returned.
    """
    try:
        size_bytes = zstandard.frame_content_size(data)
        if 0 <= size_bytes <= min(most_bytes, _TRUSTED_BYTES):
            return zstandard.ZstdDecompressor().decompress(data)
    except _ERRORS:
        return None
    content, problem = _salvage("zstd", iter((data,)), most_bytes + 1)
    if problem or len(content) < min(size_bytes, most_bytes + 1):
        return None
    return content
