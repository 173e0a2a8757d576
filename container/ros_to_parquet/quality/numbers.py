"""What a shard measures of each topic, in numbers that add up: any split of the bags gives the same sums.

What two neighbouring slices of a bag decide together (the interval between them, a run of equal values that
goes on) is kept as their borders until all of them are there; see `settle`.
"""

from __future__ import annotations

import base64
import heapq
import json
import zlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from ros_to_parquet.bag.model import Int64Array
from ros_to_parquet.quality.histogram import Histogram
from ros_to_parquet.report.time_axis import TimeAxis, make_axis, union_axis

VERSION = 1

MOST_LONGEST = 20
"""Longest intervals of a topic that are kept, with where they are."""

MOST_FIELDS = 50
"""Fields of a topic whose values that are not finite are counted."""

MOST_STAMPS = 1024
"""Stamps of a camera that are kept for its synchrony with others."""

TICK_NS = 100_000
"""What they are rounded down to."""

WINDOW_NS = 1_000_000_000
"""Where there are more, those of every second, fourth, ... second are kept."""

MOST_LEVEL = 40
"""How often they can be halved: 2^40 seconds are more than log times can say."""

MOST_NS = (1 << 62) - 1
"""Times from here on, and as far before 1970, are taken for it, so that a difference of two is one."""


@dataclass(frozen=True, slots=True)
class Run:
    """Messages, one behind the other, whose values are the same; log times of the first and the last."""

    messages: int
    first_ns: int
    last_ns: int

    @property
    def seconds(self) -> float:
        return (self.last_ns - self.first_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Part:
    """When a topic's messages of one slice of a bag came.

    Attributes:
        bag: its number in the plan.
        member: which bag of an archive it is; 0 outside of archives.
        first_ns, last_ns: log times of the first and the last in the order of chunks, and of time in each.
        least_ns, most_ns: of all.
    """

    bag: int
    member: int
    slice: int
    first_ns: int
    last_ns: int
    least_ns: int
    most_ns: int


@dataclass(frozen=True, slots=True)
class Border:
    """How a connection's messages of one slice of a bag begin and end.

    Attributes:
        first_log_ns, last_log_ns: as recorded.
        first_stamp_ns, last_stamp_ns: of those that have one; 0 where none has.
        first_values, last_values: signatures.
        first_run, last_run: lengths 0 where values are not looked at; one run where ``whole``.
    """

    bag: int
    member: int
    connection: int
    slice: int
    first_log_ns: int
    last_log_ns: int
    first_stamp_ns: int
    last_stamp_ns: int
    first_values: int
    last_values: int
    first_run: Run
    last_run: Run
    whole: bool

    def as_numbers(self) -> list[int]:
        runs = (self.first_run, self.last_run)
        return [
            *(self.bag, self.member, self.connection, self.slice, self.first_log_ns, self.last_log_ns),
            *(self.first_stamp_ns, self.last_stamp_ns, self.first_values, self.last_values),
            *(number for run in runs for number in (run.messages, run.first_ns, run.last_ns)),
            int(self.whole),
        ]

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> Border:
        bag, member, connection, part, *times = numbers[:10]
        runs = Run(*numbers[10:13]), Run(*numbers[13:16])
        return cls(bag, member, connection, part, *times, *runs, bool(numbers[16]))  # type: ignore[arg-type, call-arg]


_PART_NUMBERS = 7
_BORDER_NUMBERS = 17


@dataclass(slots=True)
class TopicNumbers:
    """What is measured of a topic of one type.

    Attributes:
        messages: recorded, rejects too.
        intervals: nanoseconds between messages of a slice, in order of time within each chunk.
        longest: of them, with where each begins (log time), `MOST_LONGEST` at most.
        log_backwards: messages whose log time is before that of the message in front, of one connection.
        log_repeats: messages whose log time is the same.
        stamped: rows with a header's stamp, those of 0 (``unset``) among them.
        delays: log time less stamp, of stamps that are set.
        rows: whose values are looked at.
        changed, same: rows whose values differ, or do not, from the row in front, of one connection.
        frozen: the longest run of rows with equal values (that is not a border's).
        not_finite: rows in which a field is NaN or infinite, by its path.
        frames: how many of a camera's are what, by `values.Frame`.
        opened, unopened: frames of which all pixels were decoded, and those among them that could not be.
        problem: of the first of those.
        stamps: of a camera, in ticks, rising; of seconds that ``level`` lets through.
        returns: points of a cloud, or beams of a scan, that have come back.
    """

    topic: str
    type_name: str
    messages: int = 0
    intervals: Histogram = field(default_factory=Histogram)
    longest: list[tuple[int, int]] = field(default_factory=list)
    parts: array[int] = field(default_factory=lambda: array("q"))
    borders: array[int] = field(default_factory=lambda: array("q"))
    log_backwards: int = 0
    log_repeats: int = 0
    stamped: int = 0
    unset: int = 0
    stamp_backwards: int = 0
    stamp_repeats: int = 0
    delays: Histogram = field(default_factory=Histogram)
    rows: int = 0
    changed: int = 0
    same: int = 0
    frozen: Run = Run(0, 0, 0)
    not_finite: dict[str, int] = field(default_factory=dict)
    frames: dict[int, int] = field(default_factory=dict)
    opened: int = 0
    unopened: int = 0
    problem: str = ""
    level: int = 0
    stamps: Int64Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    returns: Histogram = field(default_factory=Histogram)

    def add_part(self, part: Part) -> None:
        self.parts.extend(
            (part.bag, part.member, part.slice, part.first_ns, part.last_ns, part.least_ns, part.most_ns)
        )

    def add_border(self, border: Border) -> None:
        self.borders.extend(border.as_numbers())

    def all_parts(self) -> list[Part]:
        """By recording and slice."""
        rows = np.array(self.parts, dtype=np.int64).reshape(-1, _PART_NUMBERS)
        return [Part(*row) for row in sorted(rows.tolist())]

    def note_intervals(self, steps: Int64Array, starts: Int64Array) -> None:
        """Takes the positive ones of ``steps``, each from the log time of the same place in ``starts``."""
        later = steps > 0
        if not later.all():
            steps, starts = steps[later], starts[later]
        self.intervals.add(steps)
        count = min(MOST_LONGEST, len(steps))
        if not count:
            return
        if len(self.longest) == MOST_LONGEST and int(steps.max()) < self.longest[-1][0]:
            return
        places = np.argpartition(steps, len(steps) - count)[len(steps) - count :]
        self._note_longest(zip(steps[places].tolist(), starts[places].tolist(), strict=True))

    def _note_longest(self, found: Iterable[tuple[int, int]]) -> None:
        self.longest = heapq.nlargest(MOST_LONGEST, [*self.longest, *found])

    def note_run(self, run: Run) -> None:
        """Takes a run that has ended."""
        self.frozen = max(self.frozen, run, key=lambda each: (each.seconds, each.messages, -each.first_ns))

    def note_not_finite(self, path: str, rows: int) -> None:
        if path in self.not_finite or len(self.not_finite) < MOST_FIELDS:
            self.not_finite[path] = self.not_finite.get(path, 0) + rows

    def note_stamps(self, ticks: Int64Array, level: int = 0) -> None:
        """Takes stamps of a camera, of all seconds that ``level`` lets through."""
        self.level = max(self.level, level)
        self.stamps = _of_level(np.sort(np.concatenate([self.stamps, ticks])), self.level)
        while len(self.stamps) > MOST_STAMPS and self.level < MOST_LEVEL:
            self.level += 1
            self.stamps = _of_level(self.stamps, self.level)
        self.stamps = self.stamps[:MOST_STAMPS]  # of one second: no camera's

    def add(self, other: TopicNumbers) -> None:
        """Takes what another shard has measured."""
        for name in (
            *("messages", "log_backwards", "log_repeats", "stamped", "unset", "stamp_backwards"),
            *("stamp_repeats", "rows", "changed", "same", "opened", "unopened"),
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("intervals", "delays", "returns"):
            getattr(self, name).add_all(getattr(other, name))
        self._note_longest(other.longest)
        self.parts.extend(other.parts)
        self.borders.extend(other.borders)
        self.note_run(other.frozen)
        for path, rows in other.not_finite.items():
            self.note_not_finite(path, rows)
        for kind, count in other.frames.items():
            self.frames[kind] = self.frames.get(kind, 0) + count
        self.problem = self.problem or other.problem
        self.note_stamps(other.stamps, other.level)

    def settle_borders(self) -> None:
        """Takes what borders say, of which no more will come."""
        numbers = np.array(self.borders, dtype=np.int64).reshape(-1, _BORDER_NUMBERS).tolist()
        self.borders = array("q")
        borders = [Border.from_numbers(row) for row in sorted(numbers)]
        for _, group in groupby(borders, key=lambda each: (each.bag, each.member, each.connection)):
            self._join(group)

    def _join(self, borders: Iterable[Border]) -> None:
        """Of one connection, in the order of slices."""
        before: Border | None = None
        stamp_ns = values = 0
        run: Run | None = None
        for each in borders:
            if before is not None:
                self.log_backwards += each.first_log_ns < before.last_log_ns
                self.log_repeats += each.first_log_ns == before.last_log_ns
            if stamp_ns and each.first_stamp_ns:
                self.stamp_backwards += each.first_stamp_ns < stamp_ns
                self.stamp_repeats += each.first_stamp_ns == stamp_ns
            before, stamp_ns = each, each.last_stamp_ns or stamp_ns
            if not each.first_run.messages:
                continue
            first = each.first_run
            if run is not None and values == each.first_values:
                self.same += 1
                first = Run(run.messages + first.messages, run.first_ns, first.last_ns)
            elif run is not None:
                self.changed += 1
                self.note_run(run)
            if not each.whole:
                self.note_run(first)
            run, values = first if each.whole else each.last_run, each.last_values
        if run is not None:
            self.note_run(run)


def _of_level(ticks: Int64Array, level: int) -> Int64Array:
    return ticks[ticks // (WINDOW_NS // TICK_NS) % (1 << level) == 0] if level else ticks


class Numbers:
    """What is measured of all topics, of some shards of a plan."""

    def __init__(self) -> None:
        self.topics: dict[tuple[str, str], TopicNumbers] = {}

    def of(self, topic: str, type_name: str) -> TopicNumbers:
        """The topic's, which may be new; types are named ``package/Type`` for both versions of ROS."""
        key = (topic, type_name.replace("/msg/", "/"))
        if key not in self.topics:
            self.topics[key] = TopicNumbers(*key)
        return self.topics[key]

    def add(self, other: Numbers) -> None:
        for (topic, type_name), numbers in other.topics.items():
            self.of(topic, type_name).add(numbers)

    def settle(self) -> TimeAxis:
        """Takes what slices and bags say together, once all shards' are added; the time that was recorded."""
        recorded: dict[tuple[int, int], dict[str, list[int]]] = {}
        for topic in self.topics.values():
            topic.settle_borders()
            for part in topic.all_parts():
                spans = recorded.setdefault((part.bag, part.member), {})
                span = spans.setdefault(topic.topic, [part.least_ns, part.most_ns])
                span[:] = min(span[0], part.least_ns), max(span[1], part.most_ns)
        axis = union_axis(
            make_axis((start, stop) for start, stop in spans.values()) for spans in recorded.values()
        )
        for topic in self.topics.values():
            _settle_intervals(topic, axis)
        return axis


def _settle_intervals(topic: TopicNumbers, axis: TimeAxis) -> None:
    """Adds intervals between slices and between bags; time that was not recorded is no part of any."""
    spans = []
    for _, group in groupby(topic.all_parts(), lambda each: (each.bag, each.member)):
        slices = list(group)
        for one, other in pairwise(slices):
            _note_interval(topic, one.last_ns, other.first_ns - one.last_ns)
        spans.append((min(each.least_ns for each in slices), max(each.most_ns for each in slices)))
    _leave_out_pauses(topic, axis)
    latest_ns: int | None = None
    for start_ns, stop_ns in sorted(spans):
        if latest_ns is not None and start_ns > latest_ns:
            _note_interval(topic, latest_ns, axis.between_ns(latest_ns, start_ns))
        latest_ns = stop_ns if latest_ns is None else max(latest_ns, stop_ns)


def _note_interval(topic: TopicNumbers, start_ns: int, length_ns: int) -> None:
    topic.note_intervals(np.array([length_ns]), np.array([start_ns]))


def _leave_out_pauses(topic: TopicNumbers, axis: TimeAxis) -> None:
    """A pause of a recording is longer than all other intervals, so that the longest are all to look at."""
    shortened = []
    for length_ns, start_ns in topic.longest:
        recorded_ns = axis.between_ns(start_ns, start_ns + length_ns)
        if recorded_ns < length_ns:
            topic.intervals.move(length_ns, recorded_ns)
        if recorded_ns:
            shortened.append((recorded_ns, start_ns))
    topic.longest = heapq.nlargest(MOST_LONGEST, shortened)


def dump(numbers: Numbers) -> str:
    """As a manifest has it; empty where nothing is measured."""
    if not numbers.topics:
        return ""
    topics = [_as_json(numbers.topics[key]) for key in sorted(numbers.topics)]
    text = json.dumps({"version": VERSION, "topics": topics}, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode()


def load(text: str) -> Numbers | None:
    """What `dump` wrote; None where another version of the engine did."""
    numbers = Numbers()
    said = json.loads(zlib.decompress(base64.b64decode(text)))
    if said["version"] != VERSION:
        return None
    for each in said["topics"]:
        numbers.of(each["topic"], each["type_name"]).add(_from_json(each))
    return numbers


_HISTOGRAMS = ("intervals", "delays", "returns")
_ARRAYS = ("parts", "borders")
_NAMES = ("topic", "type_name")


def _as_json(topic: TopicNumbers) -> dict[str, Any]:
    """Without what is as it is from the beginning."""
    said: dict[str, Any] = {}
    for each in fields(topic):
        value = getattr(topic, each.name)
        if each.name in _HISTOGRAMS:
            value = value.as_pairs()
        elif each.name in _ARRAYS or each.name == "stamps":
            value = value.tolist()
        elif each.name == "frozen":
            value = [value.messages, value.first_ns, value.last_ns] if value.messages else []
        if each.name == "stamps" and value:
            value = [value[0], *(other - one for one, other in pairwise(value))]  # half as long
        if value or each.name in _NAMES:
            said[each.name] = value
    return said


def _from_json(said: Mapping[str, Any]) -> TopicNumbers:
    topic = TopicNumbers(said["topic"], said["type_name"])
    for name, value in said.items():
        made = value
        if name in _HISTOGRAMS:
            made = Histogram.from_pairs(value)
        elif name in _ARRAYS:
            made = array("q", value)
        elif name == "stamps":
            made = np.cumsum(np.array(value, dtype=np.int64))
        elif name == "frozen":
            made = Run(*value)
        elif name == "longest":
            made = [(length, start) for length, start in value]
        elif name == "frames":
            made = {int(kind): count for kind, count in value.items()}
        setattr(topic, name, made)
    return topic
