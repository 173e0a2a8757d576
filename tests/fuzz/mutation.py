"""What the mutators of all formats share: numbers that readers trip over, and lists of records changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

Raw = Callable[[bytes, int], bytes]
"""Bytes changed at random, to at most so many: the fuzzer's own mutator, or `plain`."""

T = TypeVar("T")

_NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 12, 16, 20, 63, 64, 127, 128, 255, 256, 4096, 65_535, 65_536, 1 << 20),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
_STEPS = (-20, -16, -12, -9, -8, -4, -2, -1, 1, 2, 4, 8, 9, 12, 16, 20, 256)


def number(value: int, size: int, rng: random.Random) -> int:
    """Another value for an unsigned number of ``size`` bytes: near the old one, doubled, or extreme."""
    new = rng.choice(
        (value + rng.choice(_STEPS), rng.choice(_NUMBERS), value ^ 1 << rng.randrange(8 * size), 2 * value)
    )
    return new % (1 << 8 * size)


def number_in(data: bytes, place: int, size: int, rng: random.Random) -> bytes:
    """The bytes with the little-endian number at ``place`` changed; as they are where there is none."""
    if place < 0 or place + size > len(data):
        return data
    value = number(int.from_bytes(data[place : place + size], "little"), size, rng)
    return data[:place] + value.to_bytes(size, "little") + data[place + size :]


def rearranged(records: list[T], others: list[T], rng: random.Random) -> list[T]:
    """One record left out, there twice, elsewhere, swapped with another, or one of ``others`` added."""
    records = list(records)
    if not records:
        return records + others[:1]
    place, other = rng.randrange(len(records)), rng.randrange(len(records))
    match rng.randrange(5):
        case 0:
            del records[place]
        case 1:
            records.insert(other, records[place])
        case 2:
            records.insert(other, records.pop(place))
        case 3:
            records[place], records[other] = records[other], records[place]
        case _:
            records.insert(place, rng.choice(others or records))
    return records


def plain(rng: random.Random) -> Raw:
    """A mutator of bytes for where no fuzzer is: one change."""

    def mutate(data: bytes, most_bytes: int) -> bytes:
        changed = bytearray(data or b"\0")
        place = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[place : place + rng.randint(1, 8)]
            case 3:
                changed[place:place] = rng.randbytes(rng.randint(1, 8))
            case _:
                changed[place:place] = changed[place : place + rng.randint(1, 32)]
        return bytes(changed[:most_bytes])

    return mutate
