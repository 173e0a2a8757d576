"""What numbers of a drive's topics say, by each check's limits; docs/quality.md defines the checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ros_to_parquet.bag.model import Int64Array
from ros_to_parquet.contract import (
    QualityCheck,
    QualityLevel,
    QualityLimits,
    QualityRule,
    quality_limits,
)
from ros_to_parquet.quality.histogram import Histogram
from ros_to_parquet.quality.numbers import TICK_NS, WINDOW_NS, Numbers, TopicNumbers
from ros_to_parquet.quality.values import CAMERAS, Frame
from ros_to_parquet.report.time_axis import TimeAxis

MIN_INTERVALS = 10
"""With fewer, nothing is usual."""

MIN_MESSAGES = 10
"""With fewer, stamps and values are not judged: one message that is latched says nothing."""

REGULAR_FACTOR = 3.0
"""A topic is regular, and can have gaps, if nine in ten intervals are below so many times the usual."""

SAME_INTERVAL = 0.1
"""Cameras are compared whose usual intervals differ by less than this part."""

COARSE_S = 5.0
"""Delays of more are known to 1 %: too coarse to tell how they vary."""

MOST_DETAIL = 500
"""Characters: names are their authors' own."""

_SENSORS = frozenset(
    {
        "sensor_msgs/CompressedImage",
        "sensor_msgs/Image",
        "sensor_msgs/Imu",
        "sensor_msgs/LaserScan",
        "sensor_msgs/MagneticField",
        "sensor_msgs/PointCloud2",
    }
)
"""Values of these never stay the same; others may be constant, or set only now and then."""

_FRAMES = {Frame.EMPTY: "empty", Frame.CUT_OFF: "cut off", Frame.TOO_SHORT: "shorter than their size says"}


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a topic, in words too; see `contract.QualityFinding`."""

    check: QualityCheck
    value: float
    unit: str
    detail: str
    log_time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A check of a topic; ``limit`` is what the number is beyond, None where it is ok."""

    topic: str
    type_name: str
    messages: int
    measure: Measure
    limits: QualityLimits
    level: QualityLevel
    limit: float | None


def usual_interval_ns(intervals: Histogram) -> tuple[float | None, bool]:
    """The median interval, None where there are too few; whether most are about as long."""
    if intervals.total < MIN_INTERVALS:
        return None, False
    usual = intervals.quantile(0.5)
    return usual, intervals.quantile(0.9) < REGULAR_FACTOR * usual


def judge(numbers: Numbers, axis: TimeAxis, rules: Sequence[QualityRule]) -> list[Result]:
    """Every check of every topic that there is something to say of; ``numbers`` are settled."""
    synchrony = _synchrony([each for each in numbers.topics.values() if each.type_name in CAMERAS])
    results = []
    for key, topic in sorted(numbers.topics.items()):
        limits = quality_limits(rules, topic.topic)
        measures = [*_measures(topic, axis, limits), *([synchrony[key]] if key in synchrony else [])]
        for measure in measures:
            if measure.check in limits:
                level, limit = limits[measure.check].level(measure.check, measure.value)
                of = limits[measure.check]
                measure = replace(measure, detail=measure.detail[:MOST_DETAIL])
                results.append(
                    Result(topic.topic, topic.type_name, topic.messages, measure, of, level, limit)
                )
    return results


def _measures(
    topic: TopicNumbers, axis: TimeAxis, limits: Mapping[QualityCheck, QualityLimits]
) -> Iterator[Measure]:
    gap = limits.get(QualityCheck.GAP, QualityLimits(None, None))
    yield from _times(topic, axis, gap.warn if gap.warn is not None else gap.error)
    yield from _stamps(topic)
    yield from _values(topic)
    if topic.frames:
        yield _frames(topic)
    if (clouds := topic.returns.total) >= MIN_MESSAGES and (usual := topic.returns.quantile(0.5)):
        few = topic.returns.count_below(usual / 2)
        yield Measure(
            QualityCheck.RETURNS,
            few / clouds,
            "",
            f"{few:,} of {clouds:,} have less than half of the usual {usual:,.0f} returns",
        )


def _times(topic: TopicNumbers, axis: TimeAxis, gap_factor: float | None) -> Iterator[Measure]:
    if topic.messages < 2:
        return
    yield Measure(
        QualityCheck.LOG_ORDER,
        topic.log_backwards / topic.messages,
        "",
        f"{topic.log_backwards:,} of {topic.messages:,} messages were recorded after a later one",
    )
    yield Measure(
        QualityCheck.LOG_REPEATS,
        topic.log_repeats / topic.messages,
        "",
        f"{topic.log_repeats:,} of {topic.messages:,} messages have the log time of the one before",
    )
    usual_ns, regular = usual_interval_ns(topic.intervals)
    if usual_ns is None or not regular:
        return
    parts = topic.all_parts()
    span_ns = axis.between_ns(min(each.least_ns for each in parts), max(each.most_ns for each in parts))
    usual = f"{usual_ns / 1e9:.4g} s"
    wanted = span_ns / usual_ns + 1
    yield Measure(
        QualityCheck.RATE,
        topic.messages / wanted,
        "",
        f"{topic.messages:,} messages in {span_ns / 1e9:.4g} s; one every {usual} would be {wanted:,.0f}",
    )
    length_ns, start_ns = topic.longest[0]
    detail = f"the longest is {length_ns / 1e9:.4g} s, the usual interval {usual}"
    if gap_factor is not None:
        gaps = topic.intervals.count_above(gap_factor * usual_ns)
        detail = f"{gaps:,} of more than {gap_factor:g} times the usual interval; {detail}"
    yield Measure(QualityCheck.GAP, length_ns / usual_ns, "x", detail, start_ns)
    yield Measure(
        QualityCheck.COVERAGE,
        min(1.0, span_ns / axis.length_ns),
        "",
        f"{span_ns / 1e9:.4g} of {axis.length_ns / 1e9:.4g} s lie between its first and its last message",
    )


def _stamps(topic: TopicNumbers) -> Iterator[Measure]:
    if topic.stamped < MIN_MESSAGES:
        return
    there = topic.stamped - topic.unset
    yield Measure(
        QualityCheck.STAMP_UNSET,
        topic.unset / topic.stamped,
        "",
        f"{topic.unset:,} of {topic.stamped:,} headers have the stamp 0",
    )
    if there < MIN_MESSAGES:
        return
    yield Measure(
        QualityCheck.STAMP_ORDER,
        topic.stamp_backwards / there,
        "",
        f"{topic.stamp_backwards:,} of {there:,} stamps are before that of the message in front",
    )
    yield Measure(
        QualityCheck.STAMP_REPEATS,
        topic.stamp_repeats / there,
        "",
        f"{topic.stamp_repeats:,} of {there:,} stamps are that of the message in front",
    )
    low, middle, high = (topic.delays.quantile(share) / 1e9 for share in (0.01, 0.5, 0.99))
    side = "before" if middle >= 0 else "after"
    yield Measure(
        QualityCheck.STAMP_OFFSET,
        abs(middle),
        "s",
        f"half of all stamps are {abs(middle):.4g} s or more {side} the log time",
    )
    yield Measure(
        QualityCheck.STAMP_AHEAD,
        max(0.0, -low),
        "s",
        f"1 % of all stamps are {-low:.4g} s or more after the log time"
        if low < 0
        else "stamps are before the log time",
    )
    if abs(middle) <= COARSE_S:
        yield Measure(
            QualityCheck.LATENCY,
            high - middle,
            "s",
            f"1 % of all messages are logged {high:.4g} s or more after their stamp, half {middle:.4g} s",
        )


def _values(topic: TopicNumbers) -> Iterator[Measure]:
    if topic.rows < MIN_MESSAGES or not topic.changed + topic.same:
        return
    if topic.type_name not in CAMERAS:
        # A field without any number is not in use (a battery without a thermometer).
        partly = {path: rows for path, rows in topic.not_finite.items() if rows < topic.rows}
        path, rows = max(partly.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        more = f"; {len(partly) - 1:,} fields more" if len(partly) > 1 else ""
        detail = f"{rows:,} of {topic.rows:,} values of {path} are NaN or infinite{more}" if rows else ""
        yield Measure(QualityCheck.NOT_FINITE, rows / topic.rows, "", detail or "all values are finite")
    run = topic.frozen
    others = topic.same - max(0, run.messages - 1)
    if topic.type_name in _SENSORS or topic.changed >= max(1, others):
        detail, at_ns = "values always change", None
        if run.messages:
            detail = f"{run.messages:,} messages in {run.seconds:.4g} s have the same values"
            at_ns = run.first_ns
        yield Measure(QualityCheck.FROZEN, run.seconds, "s", detail, at_ns)


def _frames(topic: TopicNumbers) -> Measure:
    frames = topic.frames
    total = sum(frames.values())
    said = [f"{frames[kind]:,} {words}" for kind, words in _FRAMES.items() if frames.get(kind)]
    bad = sum(count for kind, count in frames.items() if Frame(kind).bad)
    other = frames.get(Frame.OTHER, 0)
    if 0 < 2 * other < total:  # where most are, it is another format
        bad += other
        said.append(f"{other:,} no picture")
    if topic.unopened:
        bad += topic.unopened
        said.append(f"{topic.unopened:,} that cannot be decoded ({topic.problem})")
    found = ", ".join(said) or "none is bad"
    return Measure(
        QualityCheck.FRAMES,
        bad / total,
        "",
        f"of {total:,} frames, {topic.opened:,} of which were decoded: {found}",
    )


def _synchrony(cameras: Sequence[TopicNumbers]) -> dict[tuple[str, str], Measure]:
    """Of each camera that has a frame of another one to be held against: the first by name of its rate."""
    found: dict[tuple[str, str], Measure] = {}
    references: list[tuple[float, TopicNumbers]] = []
    for camera in sorted(cameras, key=lambda each: (each.topic, each.type_name)):
        usual_ns, regular = usual_interval_ns(camera.intervals)
        if usual_ns is None or not regular:
            continue
        for interval_ns, reference in references:
            if abs(interval_ns - usual_ns) <= SAME_INTERVAL * interval_ns:
                distances = _distances(camera, reference, usual_ns)
                if len(distances) >= MIN_MESSAGES:
                    value = float(np.quantile(distances, 0.95, method="higher")) * TICK_NS / 1e9
                    found[camera.topic, camera.type_name] = Measure(
                        QualityCheck.CAMERA_SYNC,
                        value,
                        "s",
                        f"95 % of {len(distances):,} frames that were compared have one of "
                        f"{reference.topic} within {value:.4g} s",
                    )
                break
        else:
            references.append((usual_ns, camera))
    return found


def _distances(camera: TopicNumbers, reference: TopicNumbers, interval_ns: float) -> Int64Array:
    """Ticks from each frame to the nearest of the other camera, where both were recorded."""
    level = max(camera.level, reference.level)
    window = WINDOW_NS // TICK_NS
    ticks, others = (each.stamps[each.stamps // window % (1 << level) == 0] for each in (camera, reference))
    edge = interval_ns / TICK_NS
    if not len(others):
        return np.empty(0, dtype=np.int64)
    inside = (ticks >= others[0] - edge) & (ticks <= others[-1] + edge)
    if level:  # beyond the seconds that are kept there may be a nearer one
        inside &= (ticks % window >= edge) & (ticks % window <= window - edge)
    ticks = ticks[inside]
    after = np.clip(np.searchsorted(others, ticks), 0, len(others) - 1)
    before = np.clip(after - 1, 0, None)
    nearest: Int64Array = np.minimum(np.abs(others[after] - ticks), np.abs(others[before] - ticks))
    return nearest
