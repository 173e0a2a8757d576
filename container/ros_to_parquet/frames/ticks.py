"""Frames at a fixed rate: when they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from ros_to_parquet.frames.arrays import Int64Array

PAUSE_NS = 60_000_000_000
"""No frames are made in a pause of all topics that is longer."""

_SECOND_NS = 1_000_000_000
_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Rate:
    """Times at a rate, alike in all drives: frame ``k`` is ``k / rate`` seconds after 1970, rounded down."""

    period_ns: Fraction

    @classmethod
    def of(cls, rate_hz: float) -> Rate:
        return cls(_SECOND_NS / Fraction(str(rate_hz)).limit_denominator(1_000_000))

    def between(self, first_ns: int, last_ns: int) -> Int64Array:
        """The times from ``first_ns`` to ``last_ns``, both inclusive."""
        # floor(k * period) >= first where k * period >= first.
        begin = -(-first_ns * self.period_ns.denominator // self.period_ns.numerator)
        count = (last_ns * self.period_ns.denominator + self.period_ns.denominator - 1) // (
            self.period_ns.numerator
        ) - begin + 1  # fmt: skip
        if count <= 0:  # then the first may be past what an integer holds
            return np.zeros(0, dtype=np.int64)
        base, rest = divmod(begin * self.period_ns.numerator, self.period_ns.denominator)
        steps = np.arange(count, dtype=np.int64)
        whole, part = divmod(self.period_ns.numerator, self.period_ns.denominator)
        return base + steps * whole + (rest + steps * part) // self.period_ns.denominator


@dataclass(slots=True, eq=False)
class Recorded:
    """When something was recorded: of each second in which it was, the first and the last time."""

    first: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    last: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    waiting: list[Int64Array] = field(default_factory=list)

    def add(self, times: Int64Array) -> None:
        self.waiting.append(_firsts_and_lasts(times))
        if len(self.waiting) >= _TOGETHER:
            self._merge()

    def _merge(self) -> None:
        ends = np.sort(np.concatenate([self.first, self.last, *self.waiting]))
        seconds, starts = np.unique(ends // _SECOND_NS, return_index=True)
        self.first = ends[starts]
        self.last = ends[np.append(starts[1:], len(ends)) - 1] if len(seconds) else self.last
        self.waiting = []

    def stretches(self) -> Iterator[tuple[int, int]]:
        """From when to when something was recorded without a long pause, in nanoseconds, inclusive."""
        self._merge()
        if not len(self.first):
            return
        # A log time may have any 64 bits: between two of them can lie more than the largest of them.
        pauses = (self.first[1:] - self.last[:-1]).view(np.uint64)
        ends = np.flatnonzero(pauses > PAUSE_NS)
        begins = np.concatenate((self.first[:1], self.first[ends + 1]))
        stops = np.concatenate((self.last[ends], self.last[-1:]))
        yield from zip(begins.tolist(), stops.tolist(), strict=True)


def _firsts_and_lasts(times: Int64Array) -> Int64Array:
    ordered = np.sort(times)
    starts = np.unique(ordered // _SECOND_NS, return_index=True)[1]
    return np.concatenate((ordered[starts], ordered[np.append(starts[1:], len(ordered)) - 1]))
