"""Measures topics while a shard extracts them; see `numbers` for what."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import pyarrow as pa

from ros_to_parquet.bag.model import Int64Array
from ros_to_parquet.contract import QualityRule, quality_limits
from ros_to_parquet.quality.numbers import MOST_NS, TICK_NS, Border, Numbers, Part, Run, TopicNumbers, dump
from ros_to_parquet.quality.values import CAMERAS, Facts, Frame

PENDING_MESSAGES = 1 << 16
"""Times of so many messages wait, for numpy's work costs by the piece."""

OPENED = 1024
"""Of a camera's frames, the first of a shard is opened and one in so many others."""

MOST_OPENED_BYTES = 32 << 20
MOST_OPENED_PIXELS = 50_000_000
"""A frame of more is not opened."""

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(slots=True, eq=False)
class Stream:
    """The messages of one connection of the bag, or slice of it, that is being read."""

    topic: _Topic
    connection: int
    times: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    stamps: array[int] = field(default_factory=lambda: array("q"))
    row_times: array[int] = field(default_factory=lambda: array("q"))
    values: array[int] = field(default_factory=lambda: array("q"))
    first_log_ns: int = 0
    last_log_ns: int = 0
    messages: int = 0
    first_stamp_ns: int = 0
    last_stamp_ns: int = 0
    first_values: int = 0
    last_values: int = 0
    first_run: Run | None = None
    run: Run | None = None

    def settle(self) -> tuple[Int64Array, Int64Array]:
        """Takes what waits; log times and offsets of it, in the order in which they were recorded."""
        offsets = np.array(self.offsets, dtype=np.int64)
        times, stamps, row_times = (
            np.array(waiting, dtype=np.int64) for waiting in (self.times, self.stamps, self.row_times)
        )
        values = np.array(self.values, dtype=np.int64)
        for waiting in (self.times, self.offsets, self.stamps, self.row_times, self.values):
            del waiting[:]
        numbers = self.topic.numbers
        row_times = np.clip(row_times, -MOST_NS, MOST_NS)
        if len(times):
            backwards, repeats = _disorder(times, self.last_log_ns if self.messages else None)
            numbers.log_backwards += backwards
            numbers.log_repeats += repeats
            if not self.messages:
                self.first_log_ns = int(times[0])
            self.messages += len(times)
            self.last_log_ns = int(times[-1])
        if len(stamps):
            self._settle_stamps(stamps, row_times)
        if len(values):
            self._settle_values(values, row_times)
        return np.clip(times, -MOST_NS, MOST_NS), offsets

    def _settle_stamps(self, stamps: Int64Array, row_times: Int64Array) -> None:
        numbers = self.topic.numbers
        numbers.stamped += len(stamps)
        there = stamps != 0
        bounded = np.clip(stamps, -MOST_NS, MOST_NS)
        if self.topic.camera:
            numbers.note_stamps(np.where(there, bounded, row_times) // TICK_NS)
        if not there.all():
            numbers.unset += len(stamps) - int(np.count_nonzero(there))
            stamps, bounded, row_times = stamps[there], bounded[there], row_times[there]
            if not len(stamps):
                return
        numbers.delays.add(row_times - bounded)
        backwards, repeats = _disorder(stamps, self.last_stamp_ns or None)
        numbers.stamp_backwards += backwards
        numbers.stamp_repeats += repeats
        self.first_stamp_ns = self.first_stamp_ns or int(stamps[0])
        self.last_stamp_ns = int(stamps[-1])

    def _settle_values(self, values: Int64Array, times: Int64Array) -> None:
        numbers = self.topic.numbers
        begun = self.run
        if begun is None:
            self.first_values = int(values[0])
        begins = np.flatnonzero(np.diff(values, prepend=self.last_values if begun else values[0]))
        numbers.changed += len(begins)
        numbers.same += len(values) - len(begins) - (begun is None)
        self.last_values = int(values[-1])
        starts = begins if len(begins) and not begins[0] else np.concatenate(([0], begins))
        stops = np.append(starts[1:], len(values)) - 1
        runs = Runs(stops - starts + 1, times[starts], times[stops])
        first, last = runs.at(0), runs.at(-1)
        if begun is not None and (not len(begins) or begins[0]):  # it goes on
            first = Run(begun.messages + first.messages, begun.first_ns, first.last_ns)
        elif begun is not None:
            self._end_run(begun)
        if len(starts) == 1:
            self.run = first
            return
        self._end_run(first)
        if longest := runs.longest():
            numbers.note_run(longest)
        self.run = last

    def _end_run(self, run: Run) -> None:
        if self.first_run is None:
            self.first_run = run  # which the slice before may have begun
        else:
            self.topic.numbers.note_run(run)

    def border(self, bag: int, member: int, part: int) -> Border:
        """How it begins and ends, with all settled."""
        none = Run(0, 0, 0)
        return Border(
            *(bag, member, self.connection, part, self.first_log_ns, self.last_log_ns),
            *(self.first_stamp_ns, self.last_stamp_ns, self.first_values, self.last_values),
            self.first_run or self.run or none,
            self.run or none,
            self.first_run is None,
        )


def _disorder(times: Int64Array, before: int | None) -> tuple[int, int]:
    """How many times are less than the one in front, and how many the same; ``before`` is in front of all."""
    if before is not None:
        times = np.concatenate(([before], times))
    return int(np.count_nonzero(times[1:] < times[:-1])), int(np.count_nonzero(times[1:] == times[:-1]))


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of equal values: how many messages each has, and log times of its first and last."""

    messages: Int64Array
    first_ns: Int64Array
    last_ns: Int64Array

    def at(self, place: int) -> Run:
        return Run(int(self.messages[place]), int(self.first_ns[place]), int(self.last_ns[place]))

    def longest(self) -> Run | None:
        """Of those between the first and the last; None where all are of one message."""
        some = np.flatnonzero(self.messages[1:-1] > 1) + 1
        if not len(some):
            return None
        lengths = (self.last_ns - self.first_ns)[some]
        order = np.lexsort((-self.first_ns[some], self.messages[some], lengths))
        return self.at(int(some[order[-1]]))


@dataclass(slots=True, eq=False)
class _Topic:
    """A topic of the bag, or slice of it, that is being read."""

    numbers: TopicNumbers
    streams: list[Stream] = field(default_factory=list)
    first_ns: int | None = None
    last_ns: int = 0
    least_ns: int = 0
    most_ns: int = 0

    @property
    def camera(self) -> bool:
        return self.numbers.type_name in CAMERAS

    def settle(self) -> None:
        """Takes what waits of its connections, of whole chunks."""
        settled = [each for stream in self.streams if len((each := stream.settle())[0])]
        if not settled:
            return
        times = np.concatenate([each for each, _ in settled])
        self.numbers.messages += len(times)
        if (np.diff(times) < 0).any():
            offsets = np.concatenate([each for _, each in settled])
            times = times[np.lexsort((times, offsets))]
        least, most = int(times.min()), int(times.max())
        if self.first_ns is None:
            self.first_ns, self.least_ns, self.most_ns = int(times[0]), least, most
            starts = times[:-1]
        else:
            starts = np.concatenate(([self.last_ns], times[:-1]))
        self.numbers.note_intervals(times[len(times) - len(starts) :] - starts, starts)
        self.last_ns = int(times[-1])
        self.least_ns, self.most_ns = min(self.least_ns, least), max(self.most_ns, most)


MAX_TOPICS = 1_000
"""Of a shard that are measured, the first ones: what is kept of each has no place in the memory limit."""


class Watch:
    """Measures the topics of one shard.

    Args:
        rules: limits of checks that are not the defaults: a topic without any check is not measured.
    """

    def __init__(self, rules: Sequence[QualityRule] = ()) -> None:
        self._rules = rules
        self._numbers = Numbers()
        self._place = (0, 0, 0)
        self._split = False
        self._topics: dict[tuple[str, str], _Topic] = {}
        self._pending = 0
        self._streams = 0
        self._offset = -1
        self._opens = find_spec("PIL") is not None

    def begin(self, bag: int, member: int, part: int, *, split: bool) -> None:
        """What follows is of slice ``part`` of the plan's bag number ``bag``, or of a bag in that archive."""
        self._place = (bag, member, part)
        self._split = split

    def stream(self, topic: str, type_name: str, connection: int) -> Stream | None:
        """A connection whose messages are to be measured; None where nothing is checked of the topic."""
        if self._rules and not quality_limits(self._rules, topic):
            return None
        key = (topic, type_name)
        if key not in self._topics:
            if len(self._topics) >= MAX_TOPICS:
                return None
            self._topics[key] = _Topic(self._numbers.of(topic, type_name))
        stream = Stream(self._topics[key], connection)
        self._topics[key].streams.append(stream)
        self._streams += 1
        return stream

    def note_block(self, offset: int) -> None:
        """A block follows of the chunk, or record, at ``offset``; to be called before its messages."""
        if offset != self._offset:
            self._offset = offset
            if self._pending >= max(PENDING_MESSAGES, 16 * self._streams):
                self._settle()

    def note_messages(self, stream: Stream, log_times_ns: Int64Array, offsets: Int64Array) -> None:
        """Takes messages, whether they become rows or not."""
        _extend(stream.times, log_times_ns)
        _extend(stream.offsets, offsets)
        self._pending += len(log_times_ns)

    def note_rows(self, stream: Stream, facts: Facts) -> None:
        """Takes the stream's own rows."""
        numbers = stream.topic.numbers
        _extend(stream.row_times, facts.log_times_ns)
        if facts.stamps_ns is not None:
            _extend(stream.stamps, facts.stamps_ns)
        if facts.signatures is not None:
            _extend(stream.values, facts.signatures)
        numbers.rows += len(facts.log_times_ns)
        for path, which in facts.not_finite:
            if rows := int(np.count_nonzero(which)):
                numbers.note_not_finite(path, rows)
        if facts.frames is not None:
            for kind, count in enumerate(np.bincount(facts.frames).tolist()):
                if count:
                    numbers.frames[kind] = numbers.frames.get(kind, 0) + count
            if facts.blobs is not None and self._opens:
                _open_some(numbers, facts.log_times_ns, facts.frames, facts.blobs)
        if facts.returns is not None:
            numbers.returns.add(facts.returns)

    def end(self) -> None:
        """The bag, or slice, is done."""
        self._settle()
        bag, member, part = self._place
        for topic in self._topics.values():
            numbers = topic.numbers
            if topic.first_ns is not None:
                span = (topic.first_ns, topic.last_ns, topic.least_ns, topic.most_ns)
                numbers.add_part(Part(bag, member, part, *span))
            for stream in topic.streams:
                if stream.messages:
                    numbers.add_border(stream.border(bag, member, part))
            if not self._split:
                numbers.settle_borders()
        self._topics = {}
        self._streams = 0
        self._offset = -1

    def _settle(self) -> None:
        self._pending = 0
        for topic in self._topics.values():
            topic.settle()

    def dump(self) -> str:
        """All of it, for the manifest."""
        return dump(self._numbers)


def _extend(numbers: array[int], more: Int64Array) -> None:
    numbers.frombytes(np.ascontiguousarray(more).view(np.uint8).data)


def _open_some(numbers: TopicNumbers, times: Int64Array, frames: Int64Array, blobs: pa.Array) -> None:
    """Decodes all pixels of a few frames: of the first, and of those whose log times fall to the lot."""
    lots = (times.view(np.uint64) * _MIX >> np.uint64(32)) % np.uint64(OPENED) == 0
    if not numbers.opened:
        lots[0] = True
    whole = (frames == Frame.JPEG) | (frames == Frame.PNG)
    for place in np.flatnonzero(lots & whole).tolist():
        data = blobs[place].as_buffer()
        if data.size > MOST_OPENED_BYTES:
            continue
        numbers.opened += 1
        if problem := _problem_of(data.to_pybytes()):
            numbers.unopened += 1
            numbers.problem = numbers.problem or problem


def _problem_of(data: bytes) -> str:
    """Why the pixels of a JPEG or PNG cannot be decoded; empty where they can."""
    from ros_to_parquet.pictures import DEPTH_HEADER_BYTES, PictureError, check_file, claim_of

    is_depth = data[DEPTH_HEADER_BYTES:].startswith(b"\x89PNG")
    message = {"format": "compressedDepth" if is_depth else "", "data": data}
    try:
        claim = claim_of(message)
        if claim.width * claim.height <= MOST_OPENED_PIXELS:
            check_file(message)
    except PictureError as error:
        return str(error)
    return ""
