"""Archives and compressed files: bags packed, and changed inside or as they are packed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

import lz4.frame
import zstandard

from tests.fuzz import mcap_file, ros1_file
from tests.fuzz.mutation import Raw, number_in

PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 1, mtime=0),
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "lz4": lz4.frame.compress,
    "zst": zstandard.compress,
    "zip-stored": lambda data: zipped([(_name(data), data)], zipfile.ZIP_STORED),
    "zip-deflated": lambda data: zipped(
        [("drive/notes.txt", b"notes"), (_name(data), data)], zipfile.ZIP_DEFLATED
    ),
    "tar": lambda data: tarred([(_name(data), data), ("drive/notes.txt", b"notes")]),
    "tar.gz": lambda data: gzip.compress(tarred([(_name(data), data)]), 1, mtime=0),
    "zip-of-gz": lambda data: zipped(
        [(f"{_name(data)}.gz", gzip.compress(data, 1, mtime=0))], zipfile.ZIP_STORED
    ),
}

_ERRORS = (
    *(OSError, EOFError, ValueError, RuntimeError, MemoryError, IndexError),
    *(zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile),
)
_MOST_BYTES = 1 << 18


def _name(data: bytes) -> str:
    return "drive/a.bag" if data.startswith(ros1_file.MAGIC) else "drive/a.mcap"


def zipped(files: list[tuple[str, bytes]], method: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return packed.getvalue()


def tarred(files: list[tuple[str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue().rstrip(b"\0") + bytes(1024)  # not to 10 KiB, which only costs time


def unpacked(data: bytes) -> bytes:
    """The bag in one of the simple kinds; what cannot be unpacked as it is."""
    try:
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                return unpacked(file.read(_MOST_BYTES))
        if data.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(data, _MOST_BYTES)
        if data.startswith(b"\xfd7zXZ\0"):
            return lzma.LZMADecompressor().decompress(data, _MOST_BYTES)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=_MOST_BYTES)
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return archive.read(archive.infolist()[-1])[:_MOST_BYTES]
        if data[257:262] == b"ustar":
            size = int(data[124:135], 8)
            return data[512 : 512 + size]
    except _ERRORS:
        pass
    return data


def mutate(data: bytes, other: bytes, rng: random.Random, raw: Raw) -> bytes:
    """One change: of the packed bytes, of numbers among them, or of the bag, which is packed again."""
    kind = rng.random()
    if kind < 0.3:
        return raw(data, len(data) + 64)
    if kind < 0.5 and data:
        size = rng.choice((1, 2, 4, 8))
        # What archives say of their files is at either end.
        place = rng.choice((rng.randrange(len(data)), len(data) - rng.randint(1, 150), rng.randrange(600)))
        return number_in(data, place, size, rng)
    bag = unpacked(data)
    if kind < 0.8:
        change = ros1_file.mutate if bag.startswith(ros1_file.MAGIC) else mcap_file.mutate
        bag = change(bag, unpacked(other), rng, raw)
    return PACK[rng.choice(list(PACK))](bag)
