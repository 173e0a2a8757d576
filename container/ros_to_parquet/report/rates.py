"""How often a topic's messages came, and when they did not."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ros_to_parquet.quality.histogram import Histogram
from ros_to_parquet.quality.judge import usual_interval_ns
from ros_to_parquet.report.drive import Topic
from ros_to_parquet.report.tables import TIMES, Tables, has_times, timed
from ros_to_parquet.report.time_axis import TimeAxis

BINS = 360
"""Of the time axis, in which messages are counted."""

GAP_FACTOR = 5.0
"""An interval so many times the usual one is a gap."""

MAX_GAPS = 500
"""Of a topic; the longest are kept."""

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without a message of a topic that comes regularly."""

    start_ns: int
    stop_ns: int

    @property
    def seconds(self) -> float:
        return (self.stop_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Rate:
    """A topic over the time axis.

    Attributes:
        counts: messages in each of `BINS` equal parts of the time axis.
        usual_s: the median of the intervals between two messages; None where there are too few.
        regular: whether that says much, so that gaps could be looked for.
        gaps: in order of time.
        out_of_order: messages that were recorded before the one in front of them in the table.
        repeated: messages of the same log time as the one before.
    """

    counts: npt.NDArray[np.int64]
    usual_s: float | None
    regular: bool
    gaps: tuple[Gap, ...]
    out_of_order: int
    repeated: int


def measure_rate(tables: Tables, axis: TimeAxis, topic: Topic) -> Rate:
    """Reads the topic's log times, and nothing else of it."""
    counts = np.zeros(BINS, dtype=np.int64)
    intervals = Histogram()
    longest: list[tuple[int, int]] = []
    out_of_order = repeated = 0
    before: int | None = None
    for part in topic.parts:
        continues = False  # across a part's border order says nothing: other shards wrote at the same time
        for batch in tables.batches(part.paths, lambda schema: [TIMES] if has_times(schema) else []):
            times: Int64Array = timed(batch).column(TIMES).to_numpy(zero_copy_only=False)
            if not len(times):
                continue
            counts += np.bincount(axis.bins(times, BINS), minlength=BINS)
            ordered = times if before is None else np.concatenate(([before], times))
            steps = np.diff(ordered)
            inside = steps if continues or before is None else steps[1:]
            out_of_order += int(np.count_nonzero(inside < 0))
            repeated += int(np.count_nonzero(inside == 0))
            _note_intervals(steps, ordered, intervals, longest)
            before, continues = int(times[-1]), True
    usual_ns, regular = usual_interval_ns(intervals)
    gaps = [
        Gap(start, start + length)
        for length, start in longest
        if usual_ns is not None and regular and length > GAP_FACTOR * usual_ns
        if not axis.is_pause(start, start + length)
    ]
    gaps.sort(key=lambda gap: gap.start_ns)
    usual_s = None if usual_ns is None else usual_ns / 1e9
    return Rate(counts, usual_s, regular, tuple(gaps), out_of_order, repeated)


def _note_intervals(
    steps: Int64Array, times: Int64Array, intervals: Histogram, longest: list[tuple[int, int]]
) -> None:
    intervals.add(steps[steps > 0])
    count = min(MAX_GAPS, len(steps))
    for place in np.argpartition(steps, len(steps) - count)[len(steps) - count :] if count else ():
        entry = (int(steps[place]), int(times[place]))
        if entry[0] <= 0:
            continue
        if len(longest) < MAX_GAPS:
            heapq.heappush(longest, entry)
        elif entry > longest[0]:
            heapq.heapreplace(longest, entry)


def longest_gaps(gaps: Sequence[Gap], count: int) -> list[Gap]:
    """The longest, the longest first."""
    return sorted(gaps, key=lambda gap: gap.seconds, reverse=True)[:count]
