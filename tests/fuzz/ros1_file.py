"""ROS 1 bags taken apart and put together again, for mutators: lengths and places are made to fit anew."""

from __future__ import annotations

import bz2
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import lz4.frame

from tests.fuzz.mutation import Raw, number, number_in, rearranged

MAGIC = b"#ROSBAG V2.0\n"
BAG_HEADER, CHUNK, CHUNK_INFO, MESSAGE = b"\x03", b"\x05", b"\x06", b"\x02"

_PACK = {b"none": bytes, b"bz2": bz2.compress, b"lz4": lz4.frame.compress}
_UNPACK = {b"none": bytes, b"bz2": bz2.decompress, b"lz4": lz4.frame.decompress}
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Record:
    """A record: header fields in order, and a body, or the records of a chunk.

    ``start`` and ``end`` are where it was in the bag it was read from (in its chunk, for those in chunks);
    ``lie`` is added to the length of its body that it says it has.
    """

    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    inner: tuple[Record, ...] | None = None
    rest: bytes = b""
    start: int = -1
    end: int = -1
    lie: int = 0

    def get(self, name: bytes) -> bytes:
        return dict(self.fields).get(name, b"")

    def having(self, name: bytes, value: bytes) -> Record:
        fields = tuple((key, value if key == name else old) for key, old in self.fields)
        return replace(self, fields=fields)

    @property
    def kind(self) -> bytes:
        return self.get(b"op")


@dataclass(frozen=True)
class Bag:
    """The records of a bag as far as they can be told, and what follows."""

    records: tuple[Record, ...] = field(default_factory=tuple)
    rest: bytes = b""


def parse(data: bytes) -> Bag:
    records: list[Record] = []
    position = len(MAGIC)
    for record in _records(data, position):
        if record.kind == CHUNK:
            record = _opened(record)
        records.append(record)
        position = record.end
    return Bag(tuple(records), data[position:])


def _records(data: bytes, position: int) -> Iterator[Record]:
    while position + 8 <= len(data):
        start = position
        head = struct.unpack_from("<I", data, position)[0]
        body = position + 8 + head
        if not head > 0 or body > len(data):
            return
        fields = _fields(data[position + 4 : body - 4])
        position = body + struct.unpack_from("<I", data, body - 4)[0]
        if fields is None or position > len(data):
            return
        yield Record(fields, data[body:position], start=start, end=position)


def _fields(header: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
    fields = []
    position = 0
    while position + 4 <= len(header):
        size = struct.unpack_from("<I", header, position)[0]
        name, equals, value = header[position + 4 : position + 4 + size].partition(b"=")
        position += 4 + size
        if not equals or position > len(header):
            return None
        fields.append((name, value))
    return tuple(fields) if position == len(header) else None


def _opened(chunk: Record) -> Record:
    unpack = _UNPACK.get(chunk.get(b"compression"))
    if unpack is None:
        return chunk
    try:
        content = unpack(chunk.body)
    except (RuntimeError, OSError, ValueError, EOFError, MemoryError):
        return chunk
    if len(content) > _MOST_BYTES:
        return chunk
    inner = tuple(_records(content, 0))
    reached = inner[-1].end if inner else 0
    return replace(chunk, inner=inner, rest=content[reached:])


def _bytes(record: Record) -> bytes:
    body = record.body
    if record.inner is not None:
        content = b"".join(map(_bytes, record.inner)) + record.rest
        body = _PACK.get(record.get(b"compression"), bytes)(content)
        record = record.having(b"size", struct.pack("<I", (len(content) + record.lie) % (1 << 32)))
    packed = b"".join(
        struct.pack("<I", len(name) + 1 + len(value)) + name + b"=" + value for name, value in record.fields
    )
    said = (len(body) + (0 if record.inner is not None else record.lie)) % (1 << 32)
    return struct.pack("<I", len(packed)) + packed + struct.pack("<I", said) + body


def build(bag: Bag) -> bytes:
    """The bag's bytes; where its header and index said rightly where something is, they do so again."""
    starts: dict[int, int] = {}
    position = len(MAGIC)
    pieces = []
    for record in bag.records:
        starts.setdefault(record.start, position)
        pieces.append(_bytes(record))
        position += len(pieces[-1])
    starts.setdefault(bag.records[-1].end if bag.records else position, position)

    def moved(record: Record) -> Record:
        for kind, name in ((BAG_HEADER, b"index_pos"), (CHUNK_INFO, b"chunk_pos")):
            if record.kind == kind and len(place := record.get(name)) == 8:
                old = int.from_bytes(place, "little")
                record = record.having(name, struct.pack("<Q", starts.get(old, old)))
        return record

    for number_, record in enumerate(bag.records):
        if record.kind in (BAG_HEADER, CHUNK_INFO):
            pieces[number_] = _bytes(moved(record))
    return MAGIC + b"".join(pieces) + bag.rest


# --- changes ----------------------------------------------------------------------------------------


def mutate(data: bytes, other: bytes, rng: random.Random, raw: Raw) -> bytes:
    """One change to a bag, mostly one that leaves everything else to be understood."""
    if rng.random() < 0.15:
        return raw(data, len(data) + 64)
    bag = parse(data)
    if not bag.records:
        return raw(data, len(data) + 64)
    others = list(parse(other).records)
    chunks = [place for place, record in enumerate(bag.records) if record.inner is not None]
    records = list(bag.records)
    if chunks and rng.random() < 0.5:
        place = rng.choice(chunks)
        records[place] = _changed_chunk(records[place], others, rng, raw)
    elif rng.random() < 0.3:
        records = rearranged(records, others, rng)
    else:
        place = rng.randrange(len(records))
        records[place] = _changed(records[place], rng, raw)
    rest = raw(bag.rest, 64) if rng.random() < 0.03 else bag.rest
    return build(Bag(tuple(records), rest))


def _changed_chunk(chunk: Record, others: list[Record], rng: random.Random, raw: Raw) -> Record:
    assert chunk.inner is not None
    inner = list(chunk.inner)
    if rng.random() < 0.02:  # more than a reader may hold, in few bytes
        bomb = replace(chunk, rest=bytes(rng.choice((1 << 20, 1 << 23))))
        return bomb.having(b"compression", rng.choice((b"bz2", b"lz4")))
    match rng.randrange(6):
        case 0:
            return chunk.having(b"compression", rng.choice((b"none", b"bz2", b"lz4")))
        case 1:
            found = [each for record in others for each in record.inner or ()]
            return replace(chunk, inner=tuple(rearranged(inner, found, rng)))
        case 2:
            return replace(chunk, rest=raw(chunk.rest, 64))
        case 3:
            return replace(chunk, lie=rng.choice((-8, -1, 1, 8, 100, 1 << 24, (1 << 32) - 100)))
        case _ if inner:
            place = rng.randrange(len(inner))
            inner[place] = _changed(inner[place], rng, raw)
            return replace(chunk, inner=tuple(inner))
    return chunk


def _changed(record: Record, rng: random.Random, raw: Raw) -> Record:
    name, value = rng.choice(record.fields)
    if record.inner is not None and name in (b"compression", b"size"):
        record = replace(record, inner=None)  # a lie from here on, with the body as it was
    match rng.randrange(6):
        case 0 | 1 if value and len(value) <= 8:
            new = number(int.from_bytes(value, "little"), len(value), rng).to_bytes(len(value), "little")
            return record.having(name, new)
        case 2:
            return record.having(name, raw(value, len(value) + 8))
        case 3:
            fields = rearranged(list(record.fields), [(b"conn", b"\0\0\0\0"), (b"x", b"")], rng)
            return replace(record, fields=tuple(fields))
        case 4 if record.inner is None:
            return replace(record, lie=rng.choice((-12, -4, -1, 1, 4, 12, 1000, 1 << 20, 1 << 31)))
        case 5 if record.inner is None and len(record.body) >= 4:
            return replace(record, body=number_in(record.body, rng.randrange(len(record.body)), 4, rng))
    return (
        record if record.inner is not None else replace(record, body=raw(record.body, len(record.body) + 16))
    )
