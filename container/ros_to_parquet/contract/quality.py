"""Quality checks: their names, limits and rules, and what they find."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ros_to_parquet.contract.names import topic_matches
from ros_to_parquet.contract.outcomes import MAX_REASONS, DriveState, FailOn


class QualityLevel(StrEnum):
    """What a quality check says of a topic."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


class QualityCheck(StrEnum):
    """What is checked of a topic; docs/quality.md defines each."""

    RATE = "rate"
    GAP = "gap"
    COVERAGE = "coverage"
    LOG_ORDER = "log_order"
    LOG_REPEATS = "log_repeats"
    STAMP_ORDER = "stamp_order"
    STAMP_REPEATS = "stamp_repeats"
    STAMP_UNSET = "stamp_unset"
    STAMP_OFFSET = "stamp_offset"
    STAMP_AHEAD = "stamp_ahead"
    LATENCY = "latency"
    FROZEN = "frozen"
    NOT_FINITE = "not_finite"
    FRAMES = "frames"
    CAMERA_SYNC = "camera_sync"
    RETURNS = "returns"


QUALITY_BELOW = frozenset({QualityCheck.RATE, QualityCheck.COVERAGE})
"""Checks whose number is bad if it is below its limits; of all others, if it is above."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """From where on a number is a ``warn`` or an ``error``; None for never. Both None: it is not checked."""

    warn: float | None
    error: float | None

    @property
    def off(self) -> bool:
        return self.warn is None and self.error is None

    def level(self, check: QualityCheck, value: float) -> tuple[QualityLevel, float | None]:
        """The level of a number, and the limit that it is beyond."""
        for level, limit in ((QualityLevel.ERROR, self.error), (QualityLevel.WARN, self.warn)):
            if limit is not None and (value < limit if check in QUALITY_BELOW else value > limit):
                return level, limit
        return QualityLevel.OK, None


QUALITY_DEFAULTS: Mapping[QualityCheck, QualityLimits] = {
    QualityCheck.RATE: QualityLimits(0.9, 0.5),
    QualityCheck.GAP: QualityLimits(5.0, 50.0),
    QualityCheck.COVERAGE: QualityLimits(0.95, 0.5),
    QualityCheck.LOG_ORDER: QualityLimits(0.0, 0.01),
    QualityCheck.LOG_REPEATS: QualityLimits(0.01, None),
    QualityCheck.STAMP_ORDER: QualityLimits(0.0, 0.01),
    QualityCheck.STAMP_REPEATS: QualityLimits(0.0, 0.1),
    QualityCheck.STAMP_UNSET: QualityLimits(0.0, None),
    QualityCheck.STAMP_OFFSET: QualityLimits(0.5, 10.0),
    QualityCheck.STAMP_AHEAD: QualityLimits(0.01, 1.0),
    QualityCheck.LATENCY: QualityLimits(0.2, 2.0),
    QualityCheck.FROZEN: QualityLimits(10.0, None),
    QualityCheck.NOT_FINITE: QualityLimits(0.0, 0.1),
    QualityCheck.FRAMES: QualityLimits(0.0, 0.01),
    QualityCheck.CAMERA_SYNC: QualityLimits(0.02, 0.1),
    QualityCheck.RETURNS: QualityLimits(0.01, 0.1),
}


@dataclass(frozen=True, slots=True)
class QualityRule:
    """Limits of one check, by its name, for topics (a shell glob, as those of `ExtractOptions`)."""

    topics: str
    check: QualityCheck
    warn: float | None
    error: float | None


def quality_limits(rules: Iterable[QualityRule], topic: str) -> Mapping[QualityCheck, QualityLimits]:
    """The limits of every check that a topic is to have; of several rules the longest glob's counts."""
    limits = dict(QUALITY_DEFAULTS)
    for rule in sorted(rules, key=lambda rule: (len(rule.topics), rule.topics)):
        if topic_matches(topic, [rule.topics]):
            limits[rule.check] = QualityLimits(rule.warn, rule.error)
    return {check: limit for check, limit in limits.items() if not limit.off}


def parse_quality(raw: object) -> tuple[tuple[QualityRule, ...], list[str]]:
    """Rules from ``{glob: {check: {"warn": number, "error": number}}}``, and what is wrong, in words.

    ``null`` in place of a glob's checks is none of them, in place of a check's limits not this one, and in
    place of a number never this level. A number that is left out is the default.

    >>> parse_quality({"/imu/*": {"gap": {"error": 20}}})[0]
    (QualityRule(topics='/imu/*', check=<QualityCheck.GAP: 'gap'>, warn=5.0, error=20.0),)
    """
    example = '{"/imu/*": {"gap": {"warn": 3, "error": 20}}}'
    if not isinstance(raw, Mapping):
        return (), [f"expected an object like {example}, not {raw!r:.80}"]
    rules: list[QualityRule] = []
    problems: list[str] = []
    for glob, checks in sorted(raw.items(), key=lambda item: str(item[0])):
        if not isinstance(glob, str) or not glob:
            problems.append(f'{glob!r} is no glob of topics; for example "/imu/*"')
        elif checks is None:
            rules += [QualityRule(glob, check, None, None) for check in QualityCheck]
        elif not isinstance(checks, Mapping):
            problems.append(f"{glob!r}: expected an object of checks or null, not {checks!r:.80}")
        else:
            for name, limits in checks.items():
                if name not in tuple(QualityCheck):
                    problems.append(f"{glob!r}: no check {name!r:.80}; there are {', '.join(QualityCheck)}")
                    continue
                limit, problem = _parse_limits(QualityCheck(name), limits)
                rules.append(QualityRule(glob, QualityCheck(name), limit.warn, limit.error))
                problems += [f"{glob!r}, check {name!r}: {problem}"] if problem else []
    return tuple(sorted(rules, key=lambda rule: (rule.topics, rule.check))), problems


def _parse_limits(check: QualityCheck, raw: object) -> tuple[QualityLimits, str]:
    if raw is None:
        return QualityLimits(None, None), ""
    default = QUALITY_DEFAULTS[check]
    if not isinstance(raw, Mapping) or (raw.keys() - {"warn", "error"}):
        return default, f"expected an object with 'warn' and 'error', or null, not {raw!r:.80}"
    given = {"warn": default.warn, "error": default.error, **raw}
    for name, number in given.items():
        is_number = (
            isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < math.inf
        )
        if number is not None and not is_number:
            return default, f"key {name!r}: expected a number from 0 on or null, not {number!r:.80}"
    warn, error = (None if given[name] is None else float(given[name]) for name in ("warn", "error"))
    if warn is not None and error is not None and (error > warn if check in QUALITY_BELOW else error < warn):
        side = "above" if check in QUALITY_BELOW else "below"
        return default, f"error ({error:g}) is {side} warn ({warn:g}): say both, so that warn comes first"
    return QualityLimits(warn, error), ""


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """A quality check of a topic that is not ok.

    Attributes:
        value: the number that was checked, in ``unit``; ``limit`` is what it is beyond.
        detail: what it is made of, for people.
        log_time_ns: where to look; None where no place is worse than others.
    """

    topic: str
    check: QualityCheck
    level: QualityLevel
    value: float
    limit: float
    unit: str
    detail: str
    log_time_ns: int | None = None

    def __str__(self) -> str:
        side = "below" if self.check in QUALITY_BELOW else "above"
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"topic {self.topic}: {self.check} {self.value:.4g}{unit} ({self.level} {side} {self.limit:g}): "
            f"{self.detail}"
        )


@dataclass(frozen=True, slots=True)
class DriveQuality:
    """Results of the quality checks of a plan's bags; counts are of checks of topics.

    Attributes:
        path: the table that has all of them, relative to the output URI.
        findings: those that are not ok, errors first; the first `MAX_REASONS`.
    """

    path: str
    ok: int
    warn: int
    error: int
    findings: tuple[QualityFinding, ...] = ()

    @property
    def level(self) -> QualityLevel:
        """The worst of all."""
        return QualityLevel.ERROR if self.error else QualityLevel.WARN if self.warn else QualityLevel.OK

    def as_dict(self, findings: Sequence[str] | None = None) -> dict[str, Any]:
        """For JSON; ``findings`` are all in words where they are not given."""
        said = [str(each) for each in self.findings] if findings is None else list(findings)
        counts = {"ok": self.ok, "warn": self.warn, "error": self.error}
        return {"level": str(self.level), **counts, "findings": said}

    def __str__(self) -> str:
        errors = "1 error" if self.error == 1 else f"{self.error:,} errors"
        warnings = "1 warning" if self.warn == 1 else f"{self.warn:,} warnings"
        return f"quality: {errors}, {warnings}, {self.ok:,} checks ok"


def add_quality(first: DriveQuality | None, second: DriveQuality | None) -> DriveQuality | None:
    """Both together, of two plans of a drive; the table is the second's."""
    if first is None or second is None:
        return first or second
    findings = sorted(
        (*first.findings, *second.findings), key=lambda each: each.level is not QualityLevel.ERROR
    )
    return DriveQuality(
        path=second.path,
        ok=first.ok + second.ok,
        warn=first.warn + second.warn,
        error=first.error + second.error,
        findings=tuple(findings[:MAX_REASONS]),
    )


def fails_on(fail_on: Iterable[str], state: DriveState, quality: DriveQuality | None = None) -> bool:
    """Whether a drive fails that ended so.

    >>> fails_on(["failed", "quality_warn"], DriveState.SUCCEEDED, DriveQuality("", ok=9, warn=0, error=1))
    True
    """
    wanted = set(fail_on)
    level = QualityLevel.OK if quality is None else quality.level
    by_quality = (level is QualityLevel.ERROR and FailOn.QUALITY_ERROR in wanted) or (
        level is not QualityLevel.OK and FailOn.QUALITY_WARN in wanted
    )
    return str(state) in wanted or by_quality
