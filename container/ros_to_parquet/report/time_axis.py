"""A drive's time without its long pauses: bags of a drive may be years apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAUSE_S = 60.0
"""A pause that is in none of the spans is left out if it is longer than this, and than `PAUSE_SHARE`."""

MOMENT_S = 1e-6
"""What is shorter is no time to speak of: single messages."""

PAUSE_SHARE = 0.2
"""Of all the time that something was recorded."""

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Stretches of log time, one after the other, with nothing between them.

    Attributes:
        starts_ns, stops_ns: of each stretch, in order.
        begins_ns: where each begins on the axis.
    """

    starts_ns: Int64Array
    stops_ns: Int64Array
    begins_ns: UInt64Array

    @property
    def length_ns(self) -> int:
        """At least one nanosecond."""
        return max(int(_apart(self.starts_ns, self.stops_ns).sum()), 1)

    @property
    def is_long(self) -> bool:
        """Whether there is a time between the first and the last message, but for pauses."""
        return self.length_ns >= MOMENT_S * 1e9

    @property
    def pauses(self) -> int:
        return max(len(self.starts_ns) - 1, 0)

    def on_axis_ns(self, times_ns: Int64Array) -> UInt64Array:
        """Where log times are on the axis; one in a pause is where the pause is."""
        number = np.clip(np.searchsorted(self.starts_ns, times_ns, side="right") - 1, 0, None)
        starts, stops = self.starts_ns[number], self.stops_ns[number]
        placed: UInt64Array = self.begins_ns[number] + _apart(starts, np.clip(times_ns, starts, stops))
        return placed

    def bins(self, times_ns: Int64Array, count: int) -> Int64Array:
        """Which of ``count`` equal parts of the axis each log time is in."""
        parts = self.on_axis_ns(times_ns).astype(np.float64) * (count / self.length_ns)
        return np.clip(parts.astype(np.int64), 0, count - 1)

    def is_pause(self, start_ns: int, stop_ns: int) -> bool:
        """Whether one of the pauses that are left out lies between two log times."""
        return bool(np.any((self.stops_ns[:-1] >= start_ns) & (self.starts_ns[1:] <= stop_ns)))

    def between_ns(self, start_ns: int, stop_ns: int) -> int:
        """How much of the time between two log times is on the axis."""
        start, stop = self.on_axis_ns(np.array([start_ns, stop_ns], dtype=np.int64)).tolist()
        return int(stop - start)

    def seconds(self, time_ns: int) -> float:
        """Where a log time is, from the beginning of the axis."""
        return float(self.on_axis_ns(np.array([time_ns], dtype=np.int64))[0]) / 1e9


def make_axis(spans_ns: Iterable[tuple[int, int]]) -> TimeAxis:
    """The axis of the times between each first and last message."""
    merged = _merged(spans_ns)
    recorded_ns = sum(stop - start for start, stop in merged)
    return _axis(_merged(merged, pause_ns=max(PAUSE_S * 1e9, PAUSE_SHARE * recorded_ns)))


def union_axis(axes: Iterable[TimeAxis]) -> TimeAxis:
    """The axis of the times that are on one of several: however short, time on none of them is a pause."""
    spans = (
        span for axis in axes for span in zip(axis.starts_ns.tolist(), axis.stops_ns.tolist(), strict=True)
    )
    return _axis(_merged(spans))


def _merged(spans_ns: Iterable[tuple[int, int]], *, pause_ns: float = 0.0) -> list[tuple[int, int]]:
    """In order, those that are no more than ``pause_ns`` apart put together."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans_ns):
        if merged and start - merged[-1][1] <= pause_ns:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged


def _axis(spans_ns: Sequence[tuple[int, int]]) -> TimeAxis:
    starts = np.array([start for start, _ in spans_ns], dtype=np.int64)
    stops = np.array([stop for _, stop in spans_ns], dtype=np.int64)
    lengths = _apart(starts, stops)
    return TimeAxis(starts, stops, np.cumsum(lengths) - lengths)


def _apart(starts_ns: Int64Array, stops_ns: Int64Array) -> UInt64Array:
    """How far stops are behind starts: up to 2^64 ns, where a bag's times are any 64 bits."""
    apart: UInt64Array = stops_ns.view(np.uint64) - starts_ns.view(np.uint64)
    return apart
