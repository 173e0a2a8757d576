"""Writes MCAP, version 0 (mcap.dev/spec): zstd chunks with message indexes, a summary with statistics."""

from __future__ import annotations

import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import zstandard

from ros_to_parquet.bag.mcap import (
    ATTACHMENT,
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEADER,
    MAGIC,
    MESSAGE,
    METADATA,
    SCHEMA,
    STATISTICS,
)

CHUNK_BYTES: Final = 1 << 20
"""A chunk is closed when its messages take this many bytes: what a viewer loads to show one moment."""

MAX_CHANNELS: Final = 0xFFFF
"""Their ids have 16 bits."""

_MESSAGE_INDEX, _ATTACHMENT_INDEX, _METADATA_INDEX, _SUMMARY_OFFSET = 7, 10, 13, 14
_COMPRESSION, _COMPRESSION_LEVEL = "zstd", 3

_RECORD_HEAD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<BQHIQQ")
_MESSAGE_HEAD_BYTES = _MESSAGE_HEAD.size - _RECORD_HEAD.size
_UINT64_MASK = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class McapSchema:
    """A message definition; ``encoding`` is ``ros1msg``, ``ros2msg`` or ``ros2idl``."""

    name: str
    encoding: str
    text: str


@dataclass(frozen=True, slots=True)
class McapChannel:
    """One stream of messages; ``encoding`` is that of its messages."""

    topic: str
    encoding: str
    schema: McapSchema
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _OpenChunk:
    data: bytearray = field(default_factory=bytearray)
    first_ns: int = _UINT64_MASK
    last_ns: int = 0
    index: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By channel id: time and offset of each message, flat."""


class McapWriter:
    """One MCAP file, written forward through ``write``.

    Channels, at most `MAX_CHANNELS`, are numbered from 1 in the order given; all of them are described before
    the first message, so that a reader that takes the file as a stream knows them, too.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        channels: Iterable[McapChannel],
        *,
        profile: str,
        library: str,
    ) -> None:
        self._write_to = write
        self._channels = list(channels)
        self._schema_ids: dict[McapSchema, int] = {}
        for channel in self._channels:
            self._schema_ids.setdefault(channel.schema, len(self._schema_ids) + 1)
        self._position = 0
        self._data_crc = 0
        self._counts: Counter[int] = Counter()
        self._first_ns: int | None = None
        self._last_ns = 0
        self._chunk = _OpenChunk()
        self._chunk_indexes: list[bytes] = []
        self._attachment_indexes: list[bytes] = []
        self._metadata_indexes: list[bytes] = []
        self._compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL)
        self._write(MAGIC + _record(HEADER, _text(profile) + _text(library)))
        self._write(b"".join(self._schema_records()) + b"".join(self._channel_records()))

    def add(
        self, channel_id: int, payload: memoryview, *, log_time_ns: int, publish_time_ns: int, sequence: int
    ) -> None:
        """Appends a message. Times are unsigned 64-bit numbers, sequences 32-bit ones."""
        log_time_ns &= _UINT64_MASK
        chunk = self._chunk
        chunk.index[channel_id] += (log_time_ns, len(chunk.data))
        chunk.first_ns = min(chunk.first_ns, log_time_ns)
        chunk.last_ns = max(chunk.last_ns, log_time_ns)
        chunk.data += _MESSAGE_HEAD.pack(
            MESSAGE,
            _MESSAGE_HEAD_BYTES + len(payload),
            channel_id,
            sequence & 0xFFFF_FFFF,
            log_time_ns,
            publish_time_ns & _UINT64_MASK,
        )
        chunk.data += payload
        if len(chunk.data) >= CHUNK_BYTES:
            self._close_chunk()

    def add_metadata(self, name: str, values: Iterable[Sequence[str]]) -> None:
        """Writes a metadata record of keys and values."""
        start = self._position
        pairs = b"".join(_text(key) + _text(value) for key, value in values)
        self._write(_record(METADATA, _text(name) + _sized(pairs)))
        place = struct.pack("<QQ", start, self._position - start)
        self._metadata_indexes.append(_record(_METADATA_INDEX, place + _text(name)))

    def add_attachment(
        self,
        *,
        name: str,
        media_type: str,
        log_time_ns: int,
        create_time_ns: int,
        size_bytes: int,
        pieces: Iterable[bytes],
    ) -> None:
        """Writes an attachment of ``size_bytes``, piece by piece.

        Raises:
            ValueError: the pieces are more or less; the file is broken then.
        """
        start = self._position
        times = struct.pack("<QQ", log_time_ns, create_time_ns)
        head = times + _text(name) + _text(media_type) + struct.pack("<Q", size_bytes)
        self._write(_RECORD_HEAD.pack(ATTACHMENT, len(head) + size_bytes + 4) + head)
        crc32, written = zlib.crc32(head), 0
        for piece in pieces:
            self._write(piece)
            crc32, written = zlib.crc32(piece, crc32), written + len(piece)
        if written != size_bytes:
            raise ValueError(f"attachment {name}: {written:,} bytes instead of {size_bytes:,}")
        self._write(struct.pack("<I", crc32))
        place = struct.pack("<QQ", start, self._position - start) + times + struct.pack("<Q", size_bytes)
        self._attachment_indexes.append(_record(_ATTACHMENT_INDEX, place + _text(name) + _text(media_type)))

    def close(self) -> None:
        """Writes the open chunk and the summary. Without it, the file is one that was cut off."""
        if self._chunk.data:
            self._close_chunk()
        self._write(_record(DATA_END, struct.pack("<I", self._data_crc)))
        groups = [
            (SCHEMA, self._schema_records()),
            (CHANNEL, self._channel_records()),
            (STATISTICS, [self._statistics()]),
            (CHUNK_INDEX, self._chunk_indexes),
            (_ATTACHMENT_INDEX, self._attachment_indexes),
            (_METADATA_INDEX, self._metadata_indexes),
        ]
        start = self._position
        summary, offsets = bytearray(), bytearray()
        for kind, records in groups:
            body = b"".join(records)
            if body:
                place = struct.pack("<BQQ", kind, start + len(summary), len(body))
                offsets += _record(_SUMMARY_OFFSET, place)
                summary += body
        footer_head = _RECORD_HEAD.pack(FOOTER, 20) + struct.pack("<QQ", start, start + len(summary))
        crc = zlib.crc32(footer_head, zlib.crc32(offsets, zlib.crc32(summary)))
        self._write(bytes(summary + offsets) + footer_head + struct.pack("<I", crc) + MAGIC)

    def _write(self, data: bytes) -> None:
        self._write_to(data)
        self._position += len(data)
        self._data_crc = zlib.crc32(data, self._data_crc)

    def _close_chunk(self) -> None:
        chunk, self._chunk = self._chunk, _OpenChunk()
        stored = self._compressor.compress(chunk.data)
        times = struct.pack("<QQ", chunk.first_ns, chunk.last_ns)
        body = (
            times
            + struct.pack("<QI", len(chunk.data), zlib.crc32(chunk.data))
            + _text(_COMPRESSION)
            + struct.pack("<Q", len(stored))
            + stored
        )
        start = self._position
        self._write(_record(CHUNK, body))
        size = self._position - start
        indexes = bytearray()
        places: dict[int, int] = {}
        for channel_id, entries in sorted(chunk.index.items()):
            places[channel_id] = self._position + len(indexes)
            indexes += _record(
                _MESSAGE_INDEX,
                struct.pack("<HI", channel_id, len(entries) * 8) + struct.pack(f"<{len(entries)}Q", *entries),
            )
            self._counts[channel_id] += len(entries) // 2
        self._write(bytes(indexes))
        self._chunk_indexes.append(
            _record(
                CHUNK_INDEX,
                times
                + struct.pack("<QQ", start, size)
                + _numbers(places)
                + struct.pack("<Q", len(indexes))
                + _text(_COMPRESSION)
                + struct.pack("<QQ", len(stored), len(chunk.data)),
            )
        )
        self._first_ns = chunk.first_ns if self._first_ns is None else min(self._first_ns, chunk.first_ns)
        self._last_ns = max(self._last_ns, chunk.last_ns)

    def _schema_records(self) -> list[bytes]:
        return [
            _record(
                SCHEMA,
                struct.pack("<H", number) + _text(schema.name) + _text(schema.encoding) + _text(schema.text),
            )
            for schema, number in self._schema_ids.items()
        ]

    def _channel_records(self) -> list[bytes]:
        return [
            _record(
                CHANNEL,
                struct.pack("<HH", number, self._schema_ids[channel.schema])
                + _text(channel.topic)
                + _text(channel.encoding)
                + _sized(b"".join(_text(key) + _text(value) for key, value in channel.metadata)),
            )
            for number, channel in enumerate(self._channels, start=1)
        ]

    def _statistics(self) -> bytes:
        return _record(
            STATISTICS,
            struct.pack(
                "<QHIIIIQQ",
                sum(self._counts.values()),
                len(self._schema_ids),
                len(self._channels),
                len(self._attachment_indexes),
                len(self._metadata_indexes),
                len(self._chunk_indexes),
                self._first_ns or 0,
                self._last_ns,
            )
            + _numbers(self._counts),
        )


def _record(kind: int, body: bytes) -> bytes:
    return _RECORD_HEAD.pack(kind, len(body)) + body


def _sized(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _text(text: str) -> bytes:
    return _sized(text.encode("utf-8", "surrogateescape"))


def _numbers(pairs: Mapping[int, int]) -> bytes:
    return _sized(b"".join(struct.pack("<HQ", key, value) for key, value in sorted(pairs.items())))
