"""How often a topic's messages came, and when they did not."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ros_to_parquet.quality.histogram import Histogram
from ros_to_parquet.quality.judge import usual_interval_ns
from ros_to_parquet.report.drive import Topic, share_of
from ros_to_parquet.report.tables import TIMES, Tables, has_times, timed
from ros_to_parquet.report.time_axis import TimeAxis

BINS = 360
"""Of the time axis, in which messages are counted."""

GAP_FACTOR = 5.0
"""An interval so many times the usual one is a gap."""

MAX_GAPS = 500
"""Of a topic; the longest are kept."""

MOST_ROWS = 10_000_000
"""Of a topic, whose log times are read; of more, evenly spread ones'."""

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
        counts: messages in each of `BINS` equal parts of the time axis; of those that were not read by what
            manifests and files say of them, as if they had come evenly.
        usual_s: the median of the intervals between two messages; None where there are too few.
        regular: whether that says much, so that gaps could be looked for.
        gaps: in order of time.
        out_of_order: messages that were recorded before the one in front of them in the table.
        repeated: messages of the same log time as the one before.
        share: of the messages, whose log times were read.
    """

    counts: npt.NDArray[np.float64]
    usual_s: float | None
    regular: bool
    gaps: tuple[Gap, ...]
    out_of_order: int
    repeated: int
    share: float = 1.0


def measure_rate(tables: Tables, axis: TimeAxis, topic: Topic) -> Rate:
    """Reads the topic's log times, or a sample of them, and nothing else of it."""
    counts = np.zeros(BINS)
    intervals = Histogram()
    longest: list[tuple[int, int]] = []
    out_of_order = repeated = read = 0
    before: int | None = None
    files = topic.files
    parts = [part for part in topic.parts for _ in part.files]
    unread = np.ones(len(topic.spans), dtype=bool)
    all_known = len(topic.parts) == len(topic.spans)
    last_part, last_file = -1, -1
    for group in tables.row_groups(
        files, lambda schema: [TIMES] if has_times(schema) else [], most_rows=MOST_ROWS
    ):
        part = parts[group.file]
        unread[part.number] = False
        if group.batches is None:
            first, last = group.times_ns or (part.first_ns, part.last_ns)
            _spread_evenly(counts, axis, first, last, group.rows)
            before = None
            continue
        next_ones = (last_file, last_file + 1) if all_known else (last_file,)
        if not group.follows or group.file not in next_ones:
            before = None
        # Across a part's border order says nothing: other shards wrote at the same time.
        continues = part.number == last_part and before is not None
        last_part, last_file = part.number, group.file
        for batch in group.batches:
            times: Int64Array = timed(batch).column(TIMES).to_numpy(zero_copy_only=False)
            read += batch.num_rows
            if not len(times):
                continue
            counts += np.bincount(axis.bins(times, BINS), minlength=BINS)
            ordered = times if before is None else np.concatenate(([before], times))
            steps = _steps(ordered)
            inside = steps if continues or before is None else steps[1:]
            out_of_order += int(np.count_nonzero(inside < 0))
            repeated += int(np.count_nonzero(inside == 0))
            _note_intervals(steps, ordered, intervals, longest)
            before, continues = int(times[-1]), True
    for first, last, rows in topic.spans[unread].tolist():
        _spread_evenly(counts, axis, first, last, rows)
    share = share_of(read, topic)
    if topic.transformed and not read:  # it need not keep log times
        counts, share = np.zeros(BINS), 1.0
    if share < 1:
        _note_pauses(topic.spans, longest)
    usual_ns, regular = usual_interval_ns(intervals)
    gaps = [
        Gap(start, start + length)
        for length, start in longest
        if usual_ns is not None and regular and length > GAP_FACTOR * usual_ns
        if not axis.is_pause(start, start + length)
    ]
    gaps = sorted(set(gaps), key=lambda gap: gap.start_ns)
    usual_s = None if usual_ns is None else usual_ns / 1e9
    return Rate(counts, usual_s, regular, tuple(gaps), out_of_order, repeated, share)


def _steps(times: Int64Array) -> Int64Array:
    """From each time to the next; what is no 64-bit integer is the greatest, or the least, that there is."""
    steps = np.diff(times)
    later = times[1:] > times[:-1]
    bounds = np.iinfo(np.int64)
    return np.where(later == (steps > 0), steps, np.where(later, bounds.max, bounds.min))


def _spread_evenly(
    counts: npt.NDArray[np.float64], axis: TimeAxis, first_ns: int, last_ns: int, rows: int
) -> None:
    """Counts so many messages between two log times."""
    ends = axis.on_axis_ns(np.array([first_ns, last_ns], dtype=np.int64)) * (BINS / axis.length_ns)
    start, stop = np.clip(ends, 0, BINS - 1e-6)
    bins = np.arange(int(start), int(stop) + 1)
    inside = np.minimum(bins + 1, stop) - np.maximum(bins, start)
    counts[bins] += rows * (inside / inside.sum() if inside.sum() > 0 else 1 / len(bins))


def _note_pauses(spans: Int64Array, longest: list[tuple[int, int]]) -> None:
    """Intervals between parts, which manifests know whether the parts were read or not."""
    ordered = spans[np.argsort(spans[:, 0], kind="stable")]
    reached = np.maximum.accumulate(ordered[:-1, 1])
    for start, stop in zip(reached.tolist(), ordered[1:, 0].tolist(), strict=True):
        _keep_longest(longest, (stop - start, start))


def _note_intervals(
    steps: Int64Array, times: Int64Array, intervals: Histogram, longest: list[tuple[int, int]]
) -> None:
    intervals.add(steps[steps > 0])
    count = min(MAX_GAPS, len(steps))
    for place in np.argpartition(steps, len(steps) - count)[len(steps) - count :] if count else ():
        start, stop = times[place : place + 2].tolist()
        _keep_longest(longest, (stop - start, start))


def _keep_longest(longest: list[tuple[int, int]], entry: tuple[int, int]) -> None:
    """Of pairs of length and start."""
    if entry[0] <= 0:
        return
    if len(longest) < MAX_GAPS:
        heapq.heappush(longest, entry)
    elif entry > longest[0]:
        heapq.heapreplace(longest, entry)


def longest_gaps(gaps: Sequence[Gap], count: int) -> list[Gap]:
    """The longest, the longest first."""
    return sorted(gaps, key=lambda gap: gap.seconds, reverse=True)[:count]
