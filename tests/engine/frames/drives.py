"""Small drives in a lake whose messages a test knows, and frames tables of them made the slow way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_to_parquet import run
from ros_to_parquet.contract import ExtractOptions, FramesTable, PointClouds
from ros_to_parquet.frames.make import FramesResult, write_frames
from ros_to_parquet.lake import Lake
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.memory import DEFAULT_BUDGET
from ros_to_parquet.sync_conf import parse_sync
from tests.engine.sample_bags import START_NS

STORE = get_typestore(Stores.ROS1_NOETIC)
STORE.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
STORE.register(get_types_from_msg("std_msgs/Header header\nfloat64 value\nint32 count", "car/msg/Speed"))
TYPES: Any = STORE.types

MS = 1_000_000
SMALL_GROUPS = replace(DEFAULT_BUDGET, row_group=6_000, take=2_000, block=2_000, pending=2_000, joined=0)
"""Some tens of rows a row group, where the default has hundreds of thousands."""


@dataclass(frozen=True, slots=True)
class Message:
    """``at_ns`` is the log time, counted from `START_NS`."""

    at_ns: int
    topic: str
    message: Any


def write(path: Path, messages: Iterable[Message]) -> Path:
    """A ROS 1 bag of the messages, in the order given."""
    with Writer(path) as writer:
        connections: dict[tuple[str, str], Any] = {}
        for each in messages:
            kind = each.message.__msgtype__
            if (each.topic, kind) not in connections:
                connections[each.topic, kind] = writer.add_connection(each.topic, kind, typestore=STORE)
            data = STORE.serialize_ros1(each.message, kind)
            writer.write(connections[each.topic, kind], START_NS + each.at_ns, data)
    return path


def extracted(
    output: Path,
    *bags: Path,
    drive_id: str = "d",
    small_groups: bool = False,
    overwrite: bool = False,
    pointcloud: PointClouds = PointClouds.RECORDED,
) -> Lake:
    """A lake of drive ``d``: a shard, and so a file a topic, for each bag."""
    for bag in bags:
        plan = make_plan(
            [str(bag)],
            output=str(output),
            drive_id=drive_id,
            options=ExtractOptions(pointcloud=pointcloud),
            overwrite=overwrite,
            take_over=False,
        )
        budget = SMALL_GROUPS if small_groups else DEFAULT_BUDGET
        run.run_shard(plan, 0, run.JobIdentity("", 1, ""), budget=budget)
    return Lake(str(output))


def table_of(**sync: Any) -> FramesTable:
    problems: list[str] = []
    (table,) = parse_sync(sync, problems)
    assert problems == []
    return table


def made(lake: Lake, drive_id: str = "d", **sync: Any) -> tuple[FramesResult, list[dict[str, Any]]]:
    """What was made, and its rows."""
    table = table_of(**sync)
    result = write_frames(lake.uri, drive_id, table)
    rows = lake.frames(table.name, [drive_id]).to_table().to_pylist()
    assert len(rows) == result.rows
    for column in result.columns:
        assert sum(row[column.column] is not None for row in rows) == column.matched
    return result, rows


def stamp(ns: int) -> Any:
    return TYPES["builtin_interfaces/msg/Time"](*divmod(START_NS + ns, 10**9))


def header(stamp_ns: int = 0, frame: str = "base", number: int = 0) -> Any:
    return TYPES["std_msgs/msg/Header"](number, stamp(stamp_ns), frame)


def speed(
    at_ns: int, value: float, *, topic: str = "/speed", count: int = 0, stamp_ns: int | None = None
) -> Message:
    when = at_ns if stamp_ns is None else stamp_ns
    return Message(at_ns, topic, TYPES["car/msg/Speed"](header(when), value, count))


def image(at_ns: int, number: int, *, topic: str = "/camera", stamp_ns: int | None = None) -> Message:
    when = at_ns if stamp_ns is None else stamp_ns
    pixels = np.full(3 * 4 * 2, number % 256, dtype=np.uint8)
    kind = TYPES["sensor_msgs/msg/Image"]
    return Message(at_ns, topic, kind(header(when, "camera", number), 2, 4, "rgb8", 0, 12, pixels))


def transform(
    at_ns: int,
    *edges: tuple[str, str, Sequence[float], Sequence[float]],
    topic: str = "/tf",
    stamp_ns: int | None = None,
) -> Message:
    """Edges: parent, child, translation and quaternion."""
    when = at_ns if stamp_ns is None else stamp_ns
    made = [
        TYPES["geometry_msgs/msg/TransformStamped"](
            header(when, parent),
            child,
            TYPES["geometry_msgs/msg/Transform"](
                TYPES["geometry_msgs/msg/Vector3"](*map(float, place)),
                TYPES["geometry_msgs/msg/Quaternion"](*map(float, turn)),
            ),
        )
        for parent, child, place, turn in edges
    ]
    return Message(at_ns, topic, TYPES["tf2_msgs/msg/TFMessage"](made))


def values(rows: Iterable[Mapping[str, Any]], column: str, field: str) -> list[Any]:
    return [None if row[column] is None else row[column][field] for row in rows]
