"""MCAP files taken apart and put together again, for mutators: lengths, places and checksums fit anew."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import lz4.frame
import zstandard

from tests.fuzz.mutation import Raw, number, number_in, rearranged

MAGIC = b"\x89MCAP0\r\n"
FOOTER, CHUNK, CHUNK_INDEX, DATA_END = 2, 6, 8, 15

_MOST_BYTES = 1 << 20
_PLACES: Mapping[int, tuple[tuple[int, int], ...]] = {
    2: ((0, 8), (8, 8), (16, 4)),
    3: ((0, 2), (2, 4)),
    4: ((0, 2), (2, 2), (4, 4)),
    5: ((0, 2), (2, 4), (6, 8), (14, 8)),
    6: ((0, 8), (8, 8), (16, 8), (24, 4), (28, 4)),
    7: ((0, 2), (2, 4), (6, 8)),
    8: ((0, 8), (16, 8), (24, 8), (32, 4), (36, 2), (38, 8)),
    9: ((0, 8), (16, 4)),
    11: ((0, 8), (8, 2), (10, 4), (42, 4), (46, 2), (48, 8)),
    12: ((0, 4),),
}
"""By opcode: where numbers lie in a record's body, and their sizes."""


@dataclass(frozen=True)
class Record:
    """A record; a chunk that could be unpacked has records, too.

    ``start`` is where it was in the file it was read from; ``lie`` is added to the length it says it has,
    or a chunk says its content has.
    """

    kind: int
    body: bytes
    inner: tuple[Record, ...] | None = None
    compression: bytes = b""
    rest: bytes = b""
    start: int = -1
    end: int = -1
    lie: int = 0
    right_crc: bool = True


@dataclass(frozen=True)
class File:
    records: tuple[Record, ...]
    rest: bytes = b""


def parse(data: bytes) -> File:
    records = []
    position = len(MAGIC)
    for record in _records(data, position):
        records.append(_opened(record) if record.kind == CHUNK else record)
        position = record.end
    return File(tuple(records), data[position:])


def _records(data: bytes, position: int) -> Iterator[Record]:
    while position + 9 <= len(data):
        start = position
        kind, size = struct.unpack_from("<BQ", data, position)
        position += 9 + size
        if kind == 0 or position > len(data):
            return
        yield Record(kind, data[start + 9 : position], start=start, end=position)


def _opened(chunk: Record) -> Record:
    body = chunk.body
    if len(body) < 40:
        return chunk
    named = 32 + struct.unpack_from("<I", body, 28)[0]
    compression, stored = body[32:named], body[named + 8 :]
    try:
        if compression == b"zstd":
            content = zstandard.ZstdDecompressor().decompress(stored, max_output_size=_MOST_BYTES)
        elif compression == b"lz4":
            content = lz4.frame.decompress(stored)
        elif compression == b"":
            content = stored
        else:
            return chunk
    except (RuntimeError, OSError, ValueError, EOFError, MemoryError, zstandard.ZstdError):
        return chunk
    inner = tuple(_records(content, 0))
    reached = inner[-1].end if inner else 0
    return replace(chunk, inner=inner, compression=compression, rest=content[reached:])


def _bytes(record: Record) -> bytes:
    body, lie = record.body, record.lie
    if record.inner is not None:
        content = b"".join(map(_bytes, record.inner)) + record.rest
        pack = {b"zstd": zstandard.compress, b"lz4": lz4.frame.compress, b"": bytes}[record.compression]
        stored = pack(content)
        crc32 = zlib.crc32(content) if record.right_crc else 12345
        body = body[:16] + struct.pack("<QI", (len(content) + lie) % (1 << 64), crc32)
        body += struct.pack("<I", len(record.compression)) + record.compression
        body += struct.pack("<Q", len(stored)) + stored
        lie = 0
    return struct.pack("<BQ", record.kind, (len(body) + lie) % (1 << 64)) + body


def build(file: File) -> bytes:
    """The file's bytes; a summary that said rightly where chunks are, and its checksum, do so again."""
    pieces: list[bytes] = []
    moved: dict[int, int] = {}
    sizes: dict[int, int] = {}
    position = len(MAGIC)
    for record in file.records:
        pieces.append(_bytes(record))
        if record.start not in moved:
            moved[record.start] = position
            sizes[record.start] = len(pieces[-1])
        position += len(pieces[-1])
    starts = [len(MAGIC)]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    for place, record in enumerate(file.records):
        if record.kind == CHUNK_INDEX and len(record.body) >= 36:
            pieces[place] = _bytes(replace(record, body=_moved_index(record.body, moved, sizes)))
        elif record.kind == FOOTER and len(record.body) == 20:
            summary, offsets, crc32 = struct.unpack("<QQI", record.body)
            summary = moved.get(summary, summary)
            head = struct.pack("<BQQQ", FOOTER, 20, summary, moved.get(offsets, offsets))
            if crc32:
                before = MAGIC + b"".join(pieces[:place])
                crc32 = zlib.crc32(before[summary or len(before) :] + head)
            pieces[place] = _bytes(replace(record, body=head[9:] + struct.pack("<I", crc32)))
    return MAGIC + b"".join(pieces) + file.rest


def _moved_index(body: bytes, moved: dict[int, int], sizes: dict[int, int]) -> bytes:
    start, _, places_bytes = struct.unpack_from("<QQI", body, 16)
    if start not in moved:
        return body
    head = body[:16] + struct.pack("<QQI", moved[start], sizes[start], places_bytes)
    pairs = body[36 : 36 + places_bytes]
    places = b""
    for pair in range(0, len(pairs) // 10 * 10, 10):
        channel, place = struct.unpack_from("<HQ", pairs, pair)
        places += struct.pack("<HQ", channel, moved.get(place, place))
    return head + places + pairs[len(places) :] + body[36 + places_bytes :]


# --- changes ----------------------------------------------------------------------------------------


def mutate(data: bytes, other: bytes, rng: random.Random, raw: Raw) -> bytes:
    """One change to a file, mostly one that leaves everything else to be understood."""
    if rng.random() < 0.15:
        return raw(data, len(data) + 64)
    file = parse(data)
    if not file.records:
        return raw(data, len(data) + 64)
    others = list(parse(other).records)
    records = list(file.records)
    chunks = [place for place, record in enumerate(records) if record.inner is not None]
    if chunks and rng.random() < 0.4:
        place = rng.choice(chunks)
        records[place] = _changed_chunk(records[place], others, rng, raw)
    elif rng.random() < 0.3:
        records = rearranged(records, others, rng)
    else:
        place = rng.randrange(len(records))
        records[place] = _changed(records[place], rng, raw)
    rest = raw(file.rest, 64) if rng.random() < 0.03 else file.rest
    return build(File(tuple(records), rest))


def _changed_chunk(chunk: Record, others: list[Record], rng: random.Random, raw: Raw) -> Record:
    assert chunk.inner is not None
    inner = list(chunk.inner)
    if rng.random() < 0.02:  # more than a reader may hold, in few bytes
        return replace(
            chunk, rest=bytes(rng.choice((1 << 20, 1 << 23))), compression=rng.choice((b"lz4", b"zstd"))
        )
    match rng.randrange(7):
        case 0:
            return replace(chunk, compression=rng.choice((b"", b"lz4", b"zstd")))
        case 1:
            found = [each for record in others for each in record.inner or ()]
            return replace(chunk, inner=tuple(rearranged(inner, found, rng)))
        case 2:
            return replace(chunk, rest=raw(chunk.rest, 64))
        case 3:
            return replace(chunk, lie=rng.choice((-9, -1, 1, 9, 100, 1 << 24, 1 << 40, (1 << 64) - 100)))
        case 4:
            return replace(chunk, right_crc=not chunk.right_crc)
        case _ if inner:
            place = rng.randrange(len(inner))
            inner[place] = _changed(inner[place], rng, raw)
            return replace(chunk, inner=tuple(inner))
    return chunk


def _changed(record: Record, rng: random.Random, raw: Raw) -> Record:
    record = replace(record, inner=None)
    match rng.randrange(6):
        case 0 | 1 if record.kind in _PLACES:
            place, size = rng.choice(_PLACES[record.kind])
            return replace(record, body=number_in(record.body, place, size, rng))
        case 2 if len(record.body) >= 8:
            size = rng.choice((1, 2, 4, 8))
            return replace(record, body=number_in(record.body, rng.randrange(len(record.body)), size, rng))
        case 3:
            return replace(record, kind=number(record.kind, 1, rng))
        case 4:
            return replace(record, lie=rng.choice((-9, -1, 1, 9, 1000, 1 << 31, 1 << 62, 1 << 63)))
    return replace(record, body=raw(record.body, len(record.body) + 16))
