"""Frames tables in the conf: what is meant, and every complaint's text."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from airflow_batch_ros.conf import ConfError, conf_schema, parse_conf
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    UNLIMITED_NS,
    Clock,
    FinishOptions,
    FramePose,
    FramesTable,
    FrameTopic,
    Match,
)
from ros_to_parquet.sync_conf import parse_sync

MS = 1_000_000
DRIVES = {"drives_to_process": {"drive_1": {"bucket": "raw-data", "prefix": "drive_1/"}}}
PLAIN: dict[str, Any] = {"reference": "/camera"}


def refuses_by_schema(sync: object) -> bool:
    try:
        jsonschema.validate({**DRIVES, "sync": sync}, conf_schema())
    except jsonschema.ValidationError:
        return True
    return False


def test_defaults() -> None:
    assert parse_conf({**DRIVES, "sync": PLAIN}).finish.sync == (
        FramesTable(reference="/camera", topics=(FrameTopic("/camera"),)),
    )
    assert parse_conf(DRIVES).finish.sync == parse_conf({**DRIVES, "sync": None}).finish.sync == ()


def test_all_of_it() -> None:
    sync = {
        "name": "train",
        "reference": "/camera",
        "clock": "stamp",
        "tolerance_ms": 20,
        "topics": {
            "/imu": {"method": "interpolated", "tolerance_ms": 2.5, "fields": ["angular_velocity.z"]},
            "/mode": {
                "method": "previous",
                "tolerance_ms": "unlimited",
                "clock": "log_time",
                "column": "mode",
            },
            "camera": {"fields": ["*"]},
        },
        "pose": [
            {"parent": "/map", "child": "base"},
            {"parent": "map", "child": "nose", "column": "nose", "tolerance_ms": 90, "topics": ["/tf"]},
        ],
    }
    assert not refuses_by_schema(sync)
    assert parse_conf({**DRIVES, "sync": [sync, {"rate_hz": 10, "topics": {"/imu": {}}}]}).finish.sync == (
        FramesTable(
            name="train",
            reference="/camera",
            clock=Clock.STAMP,
            topics=(
                FrameTopic("/imu", "", Match.INTERPOLATED, 5 * MS // 2, Clock.STAMP, ("angular_velocity.z",)),
                FrameTopic("/mode", "mode", Match.PREVIOUS, UNLIMITED_NS, Clock.LOG_TIME),
                FrameTopic("camera", "", Match.NEAREST, 20 * MS, Clock.STAMP, ("*",)),
            ),
            poses=(
                FramePose("map", "base"),
                FramePose("map", "nose", "nose", 90 * MS, ("/tf",)),
            ),
        ),
        FramesTable(rate_hz=10.0, topics=(FrameTopic("/imu"),)),
    )


def test_it_goes_through_the_plan() -> None:
    """As JSON in a plan, tolerances without limit too."""
    options = FinishOptions(
        sync=tuple(
            parse_sync(
                {
                    "reference": "/a",
                    "topics": {"/b": {"tolerance_ms": "unlimited"}},
                    "pose": {"parent": "p", "child": "c"},
                },
                [],
            )
        )
    )
    assert contract.from_json(FinishOptions, contract.to_json(options), where="x") == options
    assert contract.from_json(FinishOptions, b"{}", where="x") == FinishOptions()


BAD: list[tuple[object, str]] = [
    ("/camera", "key 'sync': expected an object like {\"reference\": "),
    ([], "key 'sync': expected an object like"),
    ([PLAIN, 7], "key 'sync', table 2: expected an object like"),
    ({}, "key 'sync': either 'reference', the topic whose messages are the frames, or 'rate_hz'; not both"),
    ({**PLAIN, "rate_hz": 10}, "key 'sync': either 'reference', the topic"),
    ({"rate_hz": 10}, "key 'sync': with 'rate_hz' name at least one topic"),
    (
        {"rate_hz": 0, "topics": {"/a": {}}},
        "key 'sync': 'rate_hz': expected a number from 0.001 to 10000, not 0",
    ),
    ({"rate_hz": True, "topics": {"/a": {}}}, "key 'sync': 'rate_hz': expected a number"),
    ({"reference": ""}, "key 'sync': 'reference': expected text, not \"\""),
    (
        {**PLAIN, "refrence": "/a"},
        "key 'sync': key 'refrence' is unknown; known are name, reference, rate_hz",
    ),
    ({**PLAIN, "name": "a/b"}, "key 'sync': 'name': \"a/b\" is no name here: letters, digits, '_' and '-'"),
    ({**PLAIN, "clock": "header"}, "key 'sync': 'clock': expected log_time or stamp, not \"header\""),
    ({**PLAIN, "tolerance_ms": -1}, "key 'sync': 'tolerance_ms': expected milliseconds from 0 to 86,400,000"),
    ({**PLAIN, "tolerance_ms": "any"}, 'or "unlimited", not "any"'),
    ({**PLAIN, "topics": ["/imu"]}, "key 'sync': 'topics': expected an object of topics like"),
    ({**PLAIN, "topics": {"/imu": "nearest"}}, "topic '/imu': expected an object (empty for the defaults)"),
    (
        {**PLAIN, "topics": {"/imu": {"methods": 1}}},
        "topic '/imu': key 'methods' is unknown; known are column",
    ),
    (
        {**PLAIN, "topics": {"/imu": {"method": "last"}}},
        "'method': expected nearest or previous or interpolated",
    ),
    ({**PLAIN, "topics": {"/imu": {"fields": "x"}}}, "'fields': expected a list of names, not \"x\""),
    ({**PLAIN, "topics": {"/imu": {"fields": []}}}, "'fields': expected a list of names, not []"),
    ({**PLAIN, "topics": {"/imu": {"column": "a b"}}}, "topic '/imu': 'column': \"a b\" is no name here"),
    ({**PLAIN, "pose": "map"}, "key 'sync': 'pose': expected {\"parent\": \"map\", "),
    ({**PLAIN, "pose": {"parent": "map"}}, "key 'sync': 'pose': key 'child' is missing"),
    (
        {**PLAIN, "pose": {"parent": "map", "child": "x", "tolerance_ms": "unlimited"}},
        "any time apart nothing",
    ),
]

BAD_BEYOND_THE_SCHEMA: list[tuple[object, str]] = [
    ({"rate_hz": 10, "topics": {}}, "with 'rate_hz' name at least one topic"),
    ({**PLAIN, "topics": {"/a/*": {}}}, "key 'sync', topic '/a/*': expected the whole name of one topic"),
    ([PLAIN, PLAIN], "key 'sync', table 2: two tables are called 'frames'; give each a \"name\" of its own"),
    ({**PLAIN, "topics": {"/a/b": {}, "/c": {"column": "A.b"}}}, "two columns are called 'A.b'; give one"),
    ({**PLAIN, "topics": {"/time": {}}}, "two columns are called 'time'"),
    ({**PLAIN, "pose": [{"parent": "a", "child": "b"}] * 2}, "two columns are called 'pose'"),
    ({**PLAIN, "pose": {"parent": "/a", "child": "a"}}, "parent and child are both 'a'"),
    ({**PLAIN, "pose": {"parent": "/", "child": "a"}}, "key 'parent' names no coordinate frame"),
    (
        {**PLAIN, "topics": {"/camera": {"clock": "stamp"}}},
        "topic '/camera' is the reference: its clock is the table's",
    ),
    (
        {**PLAIN, "topics": {"/imu": {"method": "interpolated", "tolerance_ms": "unlimited"}}},
        "topic '/imu': between messages that are any time apart nothing is interpolated: give 'tolerance_ms'",
    ),
    ({"name": "t", "reference": "/a", "topics": {"/b": {"column": "time_ns"}}}, "key 'sync', table 't': two"),
]


@pytest.mark.parametrize(("sync", "said"), [*BAD, *BAD_BEYOND_THE_SCHEMA])
def test_what_is_wrong_is_said(sync: object, said: str) -> None:
    with pytest.raises(ConfError) as refused:
        parse_conf({**DRIVES, "sync": sync})
    assert said in str(refused.value)


@pytest.mark.parametrize("sync", [sync for sync, _ in BAD])
def test_the_schema_refuses_it_too(sync: object) -> None:
    assert refuses_by_schema(sync)


@pytest.mark.parametrize("sync", [PLAIN, [PLAIN], None])
def test_the_schema_takes_what_is_right(sync: object) -> None:
    assert not refuses_by_schema(sync)
