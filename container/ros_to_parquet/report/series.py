"""Numeric fields over time: the least and the most in each part of the time axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ros_to_parquet import contract
from ros_to_parquet.report.drive import Drive, Topic, share_of
from ros_to_parquet.report.tables import (
    MOST_NUMBER,
    TIMES,
    Tables,
    has_times,
    is_numeric,
    leaf,
    timed,
    type_at,
)
from ros_to_parquet.report.time_axis import TimeAxis

BINS = 180
"""Of the time axis."""

MOST_GROUPS = 60
"""Plots of a drive."""

MOST_GROUPS_A_TOPIC = 8

MOST_VALUES = 16_000_000
"""Of a topic, that are read; of more, evenly spread rows'."""

MOST_VALUES_A_DRIVE = 400_000_000

MOST_LINES = 4
"""Fields of one message that share a plot: x, y, z and w."""

# What is looked at first; then all others by name.
_FIRST = ("sensor_msgs/Imu", "nav_msgs/Odometry", "sensor_msgs/NavSatFix", "geometry_msgs/")
_NOT_PLOTTED = ("sensor_msgs/CameraInfo", "sensor_msgs/Image", "sensor_msgs/CompressedImage")
_ENGINE_COLUMNS = (
    "log_time",
    "log_time_ns",
    "stamp",
    "stamp_ns",
    "publish_time_ns",
    "sequence",
    "bag",
    "header",
)

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """A field: arrays of `BINS`, NaN where no message is."""

    name: str
    least: Float64Array
    most: Float64Array


@dataclass(frozen=True, slots=True)
class Group:
    """Fields of one message within a topic: ``angular_velocity`` with its x, y and z.

    Attributes:
        path: of the message in a row; empty for fields of the topic's own message.
        not_finite: values that are NaN or infinite, or as good as that (`tables.MOST_NUMBER`).
    """

    topic: Topic
    path: str
    lines: tuple[Line, ...]
    not_finite: int

    @property
    def paths(self) -> list[str]:
        """Of each line, in a row."""
        return [f"{self.path}.{line.name}" for line in self.lines] if len(self.lines) > 1 else [self.path]

    @property
    def constant(self) -> bool:
        """Whether no line has two values: nothing to look at."""
        return all(
            not np.any(np.isfinite(line.least)) or np.nanmin(line.least) == np.nanmax(line.most)
            for line in self.lines
        )


@dataclass(frozen=True, slots=True)
class Series:
    """What is to be plotted, what never changes, and how many groups more were not looked at.

    ``shares``: of topics of which not all rows were read, by name, the part that was.
    """

    groups: tuple[Group, ...]
    constants: tuple[Group, ...]
    left_out: int
    shares: Mapping[str, float] = field(default_factory=dict)


def find_series(tables: Tables, drive: Drive, axis: TimeAxis) -> Series:
    """Numeric fields of all topics that are not within lists; each topic is read once."""
    groups: list[Group] = []
    constants: list[Group] = []
    left_out = 0
    shares: dict[str, float] = {}
    for topic in sorted(drive.topics, key=_order):
        files = topic.files
        if not files or topic.type_name in _NOT_PLOTTED or not topic.rows:
            continue
        if tables.is_late():
            break
        found = _groups_of(tables, topic)
        if not found:
            continue
        room = MOST_GROUPS_A_TOPIC if len(groups) < MOST_GROUPS else 0
        left_out += len(found[room:])
        most_values = min(MOST_VALUES, MOST_VALUES_A_DRIVE // len(drive.topics))
        groups_read, share = _read(tables, axis, topic, found[:room], most_values=most_values)
        if share < 1:
            shares[topic.name] = share
        for group in groups_read:
            (constants if group.constant else groups).append(group)
    left_out += len(groups[MOST_GROUPS:])
    return Series(tuple(groups[:MOST_GROUPS]), tuple(constants), left_out, shares)


def _groups_of(tables: Tables, topic: Topic) -> list[list[str]]:
    """What is plotted together, of all definitions of the topic: a field of several is there once."""
    firsts: dict[str, str] = {}
    for file in topic.files:
        firsts.setdefault(contract.schema_of(file.path), file.path)
    paths = list(firsts.values())
    known: set[str] = set()
    groups = []
    for number in tables.chosen(len(paths)):
        schema = tables.schema(paths[number])
        for group in _numeric_groups(schema) if has_times(schema) else ():
            if new := [path for path in group if path not in known]:
                groups.append(new)
                known.update(new)
    return groups


def _order(topic: Topic) -> tuple[int, str]:
    for place, prefix in enumerate(_FIRST):
        if topic.type_name.startswith(prefix):
            return place, topic.name
    return len(_FIRST), topic.name


def _numeric_groups(schema: pa.Schema) -> Iterator[list[str]]:
    """Paths of the fields that are plotted together."""
    columns = [field for field in schema if field.name not in _ENGINE_COLUMNS]
    yield from _groups_in(columns, "")


def _groups_in(fields: list[pa.Field], prefix: str) -> Iterator[list[str]]:
    own = [f"{prefix}{each.name}" for each in fields if is_numeric(each.type)]
    together = bool(prefix) and len(own) <= MOST_LINES
    yield from ([own] if together and own else [[path] for path in own])
    for each in fields:
        if pa.types.is_struct(each.type) and not _is_time(each.type):
            yield from _groups_in(list(each.type), f"{prefix}{each.name}.")


def _is_time(kind: pa.DataType) -> bool:
    return [child.name for child in kind] == ["sec", "nanosec"]


def _read(
    tables: Tables, axis: TimeAxis, topic: Topic, groups: list[list[str]], *, most_values: int
) -> tuple[list[Group], float]:
    """The groups, and the part of the topic's rows that was read."""
    paths = [path for group in groups for path in group]
    if not paths:
        return [], 1.0
    read = 0
    least = {path: np.full(BINS, np.inf) for path in paths}
    most = {path: np.full(BINS, -np.inf) for path in paths}
    not_finite = dict.fromkeys(paths, 0)

    def numbers(schema: pa.Schema) -> list[str]:  # another definition of the topic has others
        return [path for path in paths if is_numeric(type_at(schema, path))]

    for batch in tables.batches(
        topic.files,
        lambda schema: [TIMES, *numbers(schema)] if has_times(schema) else [],
        most_rows=most_values // len(paths),
    ):
        read += batch.num_rows
        rows = timed(batch)
        places = axis.bins(rows.column(TIMES).to_numpy(zero_copy_only=False), BINS)
        for path in numbers(rows.schema):
            column = leaf(rows, path)
            values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            finite = np.abs(values) < MOST_NUMBER
            not_finite[path] += int(np.count_nonzero(~finite)) - column.null_count
            np.minimum.at(least[path], places[finite], values[finite])
            np.maximum.at(most[path], places[finite], values[finite])
    made = []
    for group in groups:
        lines = tuple(
            Line(path.rpartition(".")[2], _or_nan(least[path]), _or_nan(most[path])) for path in group
        )
        parent = group[0].rpartition(".")[0] if len(group) > 1 else group[0]
        made.append(Group(topic, parent, lines, sum(not_finite[path] for path in group)))
    return made, share_of(read, topic)


def _or_nan(values: Float64Array) -> Float64Array:
    return np.where(np.isfinite(values), values, np.nan)
