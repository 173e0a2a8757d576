"""Frames tables as a conf, or the command line, asks for them: JSON in, `contract.FramesTable` out.

Standard library only, as the contract: Airflow checks a conf with it before anything is submitted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ros_to_parquet.contract import (
    FRAMES_TOLERANCE_NS,
    POSE_TOLERANCE_NS,
    UNLIMITED_NS,
    Clock,
    FramePose,
    FramesTable,
    FrameTopic,
    Match,
    table_name,
    topic_key,
)

UNLIMITED = "unlimited"
"""As a tolerance: the last message before the frame, however old."""

MIN_RATE_HZ, MAX_RATE_HZ = 0.001, 10_000.0
MAX_TOLERANCE_MS = 86_400_000.0

OWN_COLUMNS = ("time", "time_ns", "drive_id")
"""Of every frames table; ``drive_id`` is its partition."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_COLUMN = r"[A-Za-z0-9_%][A-Za-z0-9_.%-]{0,199}"

_TABLE_KEYS = ("name", "reference", "rate_hz", "clock", "tolerance_ms", "topics", "pose")
_TOPIC_KEYS = ("column", "method", "tolerance_ms", "clock", "fields")
_POSE_KEYS = ("parent", "child", "column", "tolerance_ms", "topics")

_EXAMPLE = (
    '{"reference": "/camera/image_raw", "topics": {"/imu/data": {"method": "interpolated"}}, '
    '"pose": {"parent": "map", "child": "base_link"}}'
)

_MILLISECONDS: Mapping[str, Any] = {"type": "number", "minimum": 0, "maximum": MAX_TOLERANCE_MS}
_TOLERANCE: Mapping[str, Any] = {
    "anyOf": [_MILLISECONDS, {"const": UNLIMITED}],
    "description": f"how far a message may be from a frame; {FRAMES_TOLERANCE_NS // 1_000_000} by default",
}
_TEXTS: Mapping[str, Any] = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
_CLOCK: Mapping[str, Any] = {
    "type": "string",
    "enum": [each.value for each in Clock],
    "description": "which of a message's times; `log_time` by default",
}

_POSE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["parent", "child"],
    "additionalProperties": False,
    "properties": {
        "parent": {"type": "string", "minLength": 1, "description": "the frame that it is wanted in"},
        "child": {"type": "string", "minLength": 1, "description": "the frame whose pose is wanted"},
        "column": {"type": "string", "pattern": f"^{_COLUMN}$", "description": "`pose` by default"},
        "tolerance_ms": {
            **_MILLISECONDS,
            "description": "how far the transforms that it is interpolated between may be from a frame; "
            f"{POSE_TOLERANCE_NS // 1_000_000} by default",
        },
        "topics": {**_TEXTS, "description": "to take transforms from; all of TF's types by default"},
    },
}

_TABLE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {
            "type": "string",
            "pattern": f"^{_NAME}$",
            "description": "of the table; `frames` by default",
        },
        "reference": {
            "type": "string",
            "minLength": 1,
            "description": "topic whose messages are the frames; this or `rate_hz`",
        },
        "rate_hz": {
            "type": "number",
            "minimum": MIN_RATE_HZ,
            "maximum": MAX_RATE_HZ,
            "description": "frames at a fixed rate",
        },
        "clock": _CLOCK,
        "tolerance_ms": _TOLERANCE,
        "topics": {
            "type": "object",
            "description": "a column each, by the topic's name",
            "propertyNames": {"minLength": 1},
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "column": {
                        "type": "string",
                        "pattern": f"^{_COLUMN}$",
                        "description": "its name; that of the topic's table by default",
                    },
                    "method": {
                        "type": "string",
                        "enum": [each.value for each in Match],
                        "description": "which message a frame gets; `nearest` by default",
                    },
                    "tolerance_ms": _TOLERANCE,
                    "clock": _CLOCK,
                    "fields": {
                        **_TEXTS,
                        "description": "paths as `pose.position`; `*` is all, also blobs; all but blobs and "
                        "points of clouds by default",
                    },
                },
            },
        },
        "pose": {
            "anyOf": [_POSE_SCHEMA, {"type": "array", "items": _POSE_SCHEMA, "minItems": 1}],
            "description": "columns of poses by TF",
        },
    },
    "if": {"required": ["reference"]},
    "then": {"not": {"required": ["rate_hz"]}},
    "else": {"required": ["rate_hz", "topics"]},
}

SYNC_SCHEMA: Mapping[str, Any] = {
    "type": ["object", "array"],
    "anyOf": [_TABLE_SCHEMA, {"type": "array", "items": _TABLE_SCHEMA, "minItems": 1}],
}
"""JSON schema of ``sync``: one table, or a list of them."""

_Choice = TypeVar("_Choice", Clock, Match)


def parse_sync(raw: object, problems: list[str], *, where: str = "key 'sync'") -> tuple[FramesTable, ...]:
    """The frames tables that ``raw`` (one object, or a list of them) asks for.

    What is wrong is added to ``problems``, a sentence each that begins with ``where``.

    >>> parse_sync({"rate_hz": 10, "topics": {"/imu": {}}}, [])[0].rate_hz
    10.0
    """
    several = raw if isinstance(raw, list | tuple) and raw else [raw]
    tables: list[FramesTable] = []
    for place, each in enumerate(several):
        here = where if several is not raw or len(several) == 1 else f"{where}, table {place + 1}"
        if not isinstance(each, Mapping):
            problems.append(f"{here}: expected an object like {_EXAMPLE}, not {_shown(each)}")
            continue
        table = _table(each, problems, here)
        if any(table.name.lower() == other.name.lower() for other in tables):
            problems.append(f'{here}: two tables are called {table.name!r}; give each a "name" of its own')
        tables.append(table)
    return tuple(tables)


def _table(raw: Mapping[Any, Any], problems: list[str], where: str) -> FramesTable:
    _refuse_unknown(raw, _TABLE_KEYS, problems, where)
    name = _matching("name", raw, _NAME, "letters, digits, '_' and '-'", problems, where) or "frames"
    where = f"{where}, table {name!r}" if "name" in raw else where
    reference = _text("reference", raw, problems, where)
    rate_hz = _rate(raw["rate_hz"], problems, where) if "rate_hz" in raw else 0.0
    if ("reference" in raw) == ("rate_hz" in raw):
        problems.append(
            f"{where}: either 'reference', the topic whose messages are the frames, or 'rate_hz'; not both"
        )
    clock = _choice("clock", raw, Clock.LOG_TIME, problems, where)
    tolerance_ns = _tolerance(raw, FRAMES_TOLERANCE_NS, problems, where)
    plain = FrameTopic("", tolerance_ns=tolerance_ns, clock=clock)
    topics = tuple(_topics(raw.get("topics", {}), plain, problems, where))
    if reference and topic_key(reference) not in {topic_key(each.topic) for each in topics}:
        topics = (replace(plain, topic=reference), *topics)
    poses = tuple(_poses(raw.get("pose", []), problems, where))
    if rate_hz and not topics:
        problems.append(
            f"{where}: with 'rate_hz' name at least one topic: frames are made while it has messages"
        )
    problems.extend(
        f"{where}: topic {each.topic!r} is the reference: its clock is the table's"
        for each in topics
        if reference and topic_key(each.topic) == topic_key(reference) and each.clock is not clock
    )
    _refuse_doubles(
        [*(each.column or table_name(each.topic) for each in topics), *(each.column for each in poses)],
        problems,
        where,
    )
    return FramesTable(name, reference, rate_hz, clock, topics, poses)


def _refuse_doubles(columns: Sequence[str], problems: list[str], where: str) -> None:
    seen = set(OWN_COLUMNS)
    for column in columns:
        if column.lower() in seen:
            problems.append(f'{where}: two columns are called {column!r}; give one another "column"')
        seen.add(column.lower())


def _topics(raw: object, plain: FrameTopic, problems: list[str], where: str) -> Iterator[FrameTopic]:
    if not isinstance(raw, Mapping):
        problems.append(
            f'{where}: \'topics\': expected an object of topics like {{"/imu/data": {{"method": '
            f'"interpolated"}}}}, not {_shown(raw)}'
        )
        return
    for topic, options in raw.items():
        here = f"{where}, topic {topic!r}"
        if not isinstance(topic, str) or not topic or "*" in topic:
            problems.append(f"{here}: expected the whole name of one topic")
        elif not isinstance(options, Mapping):
            problems.append(f"{here}: expected an object (empty for the defaults), not {_shown(options)}")
        else:
            yield _topic(topic, options, plain, problems, here)


def _topic(
    topic: str, raw: Mapping[Any, Any], plain: FrameTopic, problems: list[str], where: str
) -> FrameTopic:
    _refuse_unknown(raw, _TOPIC_KEYS, problems, where)
    method = _choice("method", raw, plain.method, problems, where)
    tolerance_ns = _tolerance(raw, plain.tolerance_ns, problems, where)
    if tolerance_ns == UNLIMITED_NS and method is Match.INTERPOLATED:
        problems.append(f"{where}: between messages that are any time apart nothing is interpolated: "
                        "give 'tolerance_ms'")  # fmt: skip
    return FrameTopic(
        topic=topic,
        column=_matching("column", raw, _COLUMN, "letters, digits, '_', '-', '.' and '%'", problems, where),
        method=method,
        tolerance_ns=tolerance_ns,
        clock=_choice("clock", raw, plain.clock, problems, where),
        fields=_texts("fields", raw, problems, where),
    )


def _poses(raw: object, problems: list[str], where: str) -> Iterator[FramePose]:
    for each in raw if isinstance(raw, list | tuple) else [raw]:
        here = f"{where}: 'pose'"
        if not isinstance(each, Mapping):
            problems.append(f'{here}: expected {{"parent": "map", "child": "base_link"}}, not {_shown(each)}')
            continue
        _refuse_unknown(each, _POSE_KEYS, problems, here)
        parent, child = (_text(key, each, problems, here).lstrip("/") for key in ("parent", "child"))
        for key, value in (("parent", parent), ("child", child)):
            if key not in each:
                problems.append(f"{here}: key {key!r} is missing")
            elif not value:
                problems.append(f"{here}: key {key!r} names no coordinate frame")
        if parent and parent == child:
            problems.append(f"{here}: parent and child are both {parent!r}")
        tolerance_ns = _tolerance(each, POSE_TOLERANCE_NS, problems, here)
        if tolerance_ns == UNLIMITED_NS:
            problems.append(f"{here}: between transforms that are any time apart nothing is interpolated: "
                            "give 'tolerance_ms'")  # fmt: skip
        column = _matching("column", each, _COLUMN, "letters, digits, '_', '-', '.' and '%'", problems, here)
        yield FramePose(parent, child, column or "pose", tolerance_ns, _texts("topics", each, problems, here))


# --- values -----------------------------------------------------------------------------------------


def _refuse_unknown(raw: Mapping[Any, Any], known: Sequence[str], problems: list[str], where: str) -> None:
    problems.extend(
        f"{where}: key {key!r} is unknown; known are {', '.join(known)}" for key in raw if key not in known
    )


def _text(key: str, raw: Mapping[Any, Any], problems: list[str], where: str) -> str:
    value = raw.get(key, "")
    if not isinstance(value, str) or (key in raw and not value):
        problems.append(f"{where}: {key!r}: expected text, not {_shown(value)}")
        return ""
    return value


def _matching(
    key: str, raw: Mapping[Any, Any], pattern: str, words: str, problems: list[str], where: str
) -> str:
    value = _text(key, raw, problems, where)
    if value and not re.fullmatch(pattern, value):
        problems.append(f"{where}: {key!r}: {_shown(value)} is no name here: {words}, not too many of them")
        return ""
    return value


def _texts(key: str, raw: Mapping[Any, Any], problems: list[str], where: str) -> tuple[str, ...]:
    if key not in raw:
        return ()
    value = raw[key]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(x, str) and x for x in value):
        problems.append(f"{where}: {key!r}: expected a list of names, not {_shown(value)}")
        return ()
    return tuple(value)


def _choice(key: str, raw: Mapping[Any, Any], default: _Choice, problems: list[str], where: str) -> _Choice:
    value = raw.get(key, default.value)
    choices = type(default)
    if isinstance(value, str) and value in tuple(choices):
        return choices(value)
    problems.append(f"{where}: {key!r}: expected {' or '.join(choices)}, not {_shown(value)}")
    return default


def _rate(value: object, problems: list[str], where: str) -> float:
    rate_hz = _number(value)
    if rate_hz is not None and MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        return rate_hz
    problems.append(
        f"{where}: 'rate_hz': expected a number from {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g}, not {_shown(value)}"
    )
    return 0.0


def _tolerance(raw: Mapping[Any, Any], default_ns: int, problems: list[str], where: str) -> int:
    if "tolerance_ms" not in raw:
        return default_ns
    value = raw["tolerance_ms"]
    if value == UNLIMITED:
        return UNLIMITED_NS
    milliseconds = _number(value)
    if milliseconds is not None and 0 <= milliseconds <= MAX_TOLERANCE_MS:
        return round(milliseconds * 1e6)
    problems.append(
        f"{where}: 'tolerance_ms': expected milliseconds from 0 to {MAX_TOLERANCE_MS:,.0f}, "
        f'or "{UNLIMITED}", not {_shown(value)}'
    )
    return default_ns


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _shown(value: object) -> str:
    """``value`` for a message: as JSON has it, and short."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
