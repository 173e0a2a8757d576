"""Decompression of chunks and messages that trusts no length it is told."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from typing import Protocol

import lz4.frame
import numpy as np
import zstandard

from ros_to_parquet.bag.model import UInt8Array

MAX_CHUNK_BYTES = 1 << 30
"""Of a chunk with more, compressed or not, no more is read."""

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_TRUSTED_BYTES = 64 << 20
"""A size that may be allocated because a header says so; a larger one is grown into."""

_PIECE_BYTES = 4 << 10
"""What is fed at a time when as much as possible is to be had from a broken stream."""

_ERRORS = (RuntimeError, OSError, EOFError, ValueError, MemoryError, zstandard.ZstdError)


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_STREAMS: dict[str, Callable[[], _Stream]] = {
    "bz2": bz2.BZ2Decompressor,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
}


def decompress(compression: str, data: UInt8Array, size_bytes: int) -> tuple[UInt8Array, str]:
    """A chunk's content, or the first part of it where not all can be had.

    Args:
        compression: ``none`` (or empty), ``bz2``, ``lz4`` or ``zstd``, the latter two as frames.
        data: what is stored, maybe cut off.
        size_bytes: the content's size as recorded.

    Returns:
        The content as a read-only array and an empty string, or what there is of it and what is wrong.
    """
    if compression in ("", "none"):
        problem = "" if len(data) == size_bytes else f"{size_bytes:,} bytes recorded, {len(data):,} found"
        return data, problem
    if compression not in _STREAMS:
        return data[:0], f"compression {compression!r} is not supported (none, bz2, lz4 and zstd are)"
    try:
        return np.frombuffer(_decompress_whole(compression, data, size_bytes), np.uint8), ""
    except _ERRORS:
        pass  # the second way, piece by piece, says what is wrong
    limit_bytes = min(max(size_bytes, _TRUSTED_BYTES), MAX_CHUNK_BYTES)
    content, problem = _decompress_pieces(_STREAMS[compression], data.tobytes(), limit_bytes)
    if len(content) != size_bytes:
        problem = f"{size_bytes:,} bytes recorded, {len(content):,} found" + (problem and f" ({problem})")
    return np.frombuffer(content, np.uint8), problem


def _decompress_whole(compression: str, data: UInt8Array, size_bytes: int) -> bytes:
    """The content of one stream of exactly ``size_bytes``.

    Raises:
        Any of `_ERRORS`, also where it is another size.
    """
    if size_bytes > MAX_CHUNK_BYTES:
        raise ValueError("more than is allowed")
    view = data.data
    if compression == "zstd":
        if zstandard.frame_content_size(view) > max(size_bytes, _TRUSTED_BYTES):
            raise ValueError("zstd frame larger than recorded")
        content = zstandard.ZstdDecompressor().decompress(view, max_output_size=size_bytes)
        ended = True
    else:
        if compression == "lz4" and size_bytes > max(255 * len(data), _TRUSTED_BYTES):
            raise ValueError("LZ4 cannot expand to as much as recorded")
        stream = lz4.frame.LZ4FrameDecompressor() if compression == "lz4" else bz2.BZ2Decompressor()
        content = stream.decompress(view, max_length=size_bytes)
        ended = stream.eof
    if len(content) != size_bytes or not ended:
        raise ValueError("not the size that is recorded")
    return content


def _decompress_pieces(new_stream: Callable[[], _Stream], data: bytes, limit_bytes: int) -> tuple[bytes, str]:
    """As much as can be had of one or several streams in a row, up to a limit, and what is wrong."""
    pieces: list[bytes] = []
    stream = new_stream()
    found = 0
    position = 0
    fed = b""
    problem = ""
    try:
        while found <= limit_bytes:
            if not fed:
                fed = data[position : position + _PIECE_BYTES]
                position += len(fed)
                if not fed:
                    problem = "" if stream.eof else "the compressed data is cut off"
                    break
            if stream.eof:
                stream = new_stream()
            pieces.append(stream.decompress(fed))
            found += len(pieces[-1])
            fed = (stream.unused_data or b"") if stream.eof else b""
    except _ERRORS as error:
        problem = str(error)
    return b"".join(pieces)[:limit_bytes], problem


def decompress_message(data: bytes) -> bytes | None:
    """The content of one zstd frame (rosbag2's compression by message), None where it is none."""
    try:
        size_bytes = zstandard.frame_content_size(data)
        if 0 <= size_bytes <= _TRUSTED_BYTES:
            return zstandard.ZstdDecompressor().decompress(data)
    except _ERRORS:
        return None
    content, problem = _decompress_pieces(_STREAMS["zstd"], data, MAX_CHUNK_BYTES)
    return None if problem else content
