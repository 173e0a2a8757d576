"""Counts of whole numbers in bins of 1 to 1.6 %, which add up whatever order they come in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag.model import Int64Array

_SHIFT = 46
"""What is left of a float64 without these bits is its exponent and six bits of its mantissa: 64 bins each
time that a number doubles, and no logarithm to find them."""

_ONE = int(np.float64(1.0).view(np.int64)) >> _SHIFT


@dataclass(slots=True)
class Histogram:
    """How many values are in which bin. Bin 0 is of zeros, bin -n of values as in n, below zero."""

    counts: dict[int, int] = field(default_factory=dict)

    def add(self, values: Int64Array) -> None:
        if not len(values):
            return
        bins = bins_of(values)
        least = int(bins.min())
        counts = np.bincount(bins - least)
        there = np.flatnonzero(counts)
        for place, count in zip((there + least).tolist(), counts[there].tolist(), strict=True):
            self.counts[place] = self.counts.get(place, 0) + count

    def add_all(self, other: Histogram) -> None:
        for place, count in other.counts.items():
            self.counts[place] = self.counts.get(place, 0) + count

    def move(self, value: int, to: int) -> None:
        """Makes a value that was added another one; 0 for none."""
        (before, after) = bins_of(np.array([value, to], dtype=np.int64)).tolist()
        self.counts[before] -= 1
        if not self.counts[before]:
            del self.counts[before]
        if to:
            self.counts[after] = self.counts.get(after, 0) + 1

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The least value that so many are not above, as the middle of its bin. It must have some."""
        wanted, seen = share * self.total, 0
        for place in sorted(self.counts):
            seen += self.counts[place]
            if seen >= wanted:
                break
        return _middle(place)

    def count_above(self, value: float) -> int:
        """How many are in bins above the value's."""
        (bound,) = bins_of(np.array([value])).tolist()
        return sum(count for place, count in self.counts.items() if place > bound)

    def count_below(self, value: float) -> int:
        """How many are in bins below the value's."""
        (bound,) = bins_of(np.array([value])).tolist()
        return sum(count for place, count in self.counts.items() if place < bound)

    def as_pairs(self) -> list[int]:
        """Bin, count, bin, count, ...; bins rise."""
        return [number for place in sorted(self.counts) for number in (place, self.counts[place])]

    @classmethod
    def from_pairs(cls, pairs: Iterable[int]) -> Histogram:
        numbers = iter(pairs)
        return cls(dict(zip(numbers, numbers, strict=True)))


def bins_of(values: Int64Array | npt.NDArray[np.float64]) -> Int64Array:
    """The bin of each value."""
    sizes = np.maximum(np.abs(values.astype(np.float64)), 1.0)
    bins: Int64Array = ((sizes.view(np.int64) >> _SHIFT) - (_ONE - 1)) * np.sign(values).astype(np.int64)
    return bins


def _middle(place: int) -> float:
    bits = ((abs(place) + _ONE - 1) << _SHIFT) + (1 << (_SHIFT - 1))
    return math.copysign(float(np.int64(bits).view(np.float64)), place) if place else 0.0
