"""Where a coordinate frame is, at any time, by TF.

All transforms on the way from one frame to the other are put, frame by frame, into a file on scratch disk,
whose parts are read as a topic's row groups are; so what is in memory does not grow with the drive.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as fs
import pyarrow.parquet as pq

from ros_to_parquet.contract import Clock, FramePose, Match
from ros_to_parquet.frames.arrays import (
    BoolArray,
    Float64Array,
    Int64Array,
    column,
    floats,
    integers,
    one_array,
    spread,
)
from ros_to_parquet.frames.errors import FramesError
from ros_to_parquet.frames.interpolate import Between, slerp
from ros_to_parquet.frames.match import NONE, match, shares
from ros_to_parquet.frames.sources import LOG_TIME, Cache, Groups, Part, reach, read_stretch
from ros_to_parquet.frames.tree import MAX_EDGES, Edge, Way
from ros_to_parquet.report.tables import type_at
from ros_to_parquet.storage.local import local_errors

TF_TYPES = ("tf2_msgs/TFMessage", "tf/tfMessage")

_STATIC = "tf_static"
_BATCH_ROWS = 4_096
_PART_ROWS = 65_536
_LEAST_NORM = 1e-3

_VALUES = ("x", "y", "z", "qx", "qy", "qz", "qw")
_SCHEMA = pa.schema([("", pa.int64()), ("time_ns", pa.int64()), *((name, pa.float64()) for name in _VALUES)])

_VECTOR = pa.struct([(name, pa.float64()) for name in "xyz"])
_QUATERNION = pa.struct([(name, pa.float64()) for name in "xyzw"])
POSE = pa.struct([("translation", _VECTOR), ("rotation", _QUATERNION), ("gap_ns", pa.int64())])
"""``gap_ns``: the longest time between two transforms that were interpolated between."""


@dataclass(frozen=True, slots=True)
class TfTopic:
    """A topic of transforms; paths of its files."""

    name: str
    paths: tuple[str, ...]

    @property
    def static(self) -> bool:
        return self.name.rpartition("/")[2] == _STATIC


@dataclass(frozen=True, slots=True, eq=False)
class Transforms:
    """Transforms of one edge, an entry (or row) each: rotations are x, y, z, w and of length 1."""

    translation: Float64Array
    rotation: Float64Array


# --- reading ----------------------------------------------------------------------------------------

_FRAME_IDS = ("transforms.list.element.header.frame_id", "transforms.list.element.child_frame_id")


def find_edges(filesystem: fs.FileSystem, root: str, topics: Sequence[TfTopic]) -> set[Edge]:
    """The edges of all topics. One that is also sent on a topic of moving transforms is not static.

    Raises:
        FramesError: there are more than anyone has.
    """
    moving: dict[tuple[str, str], bool] = {}
    for topic in topics:
        for _, transforms in _transforms(filesystem, root, topic, _FRAME_IDS):
            pairs = pa.table(_frames(transforms), names=["parent", "child"]).group_by(["parent", "child"])
            for pair in pairs.aggregate([]).to_pylist():
                key = pair["parent"], pair["child"]
                if None in key:
                    continue
                moving[key] = moving.get(key, False) or not topic.static
            if len(moving) > MAX_EDGES:
                raise FramesError(
                    f"topic {topic.name}: more than {MAX_EDGES:,} pairs of coordinate frames: these are no "
                    "names"
                )
    return {Edge(*key, not is_moving) for key, is_moving in moving.items()}


def _transforms(
    filesystem: fs.FileSystem, root: str, topic: TfTopic, columns: Sequence[str]
) -> Iterator[tuple[Int64Array, pa.StructArray]]:
    """Log times and transforms, those of a message one behind the other."""
    for path in topic.paths:
        with pq.ParquetFile(filesystem.open_input_file(f"{root}/{path}")) as file:
            _check_columns(topic, path, file.schema_arrow)
            for batch in file.iter_batches(_BATCH_ROWS, columns=[LOG_TIME, *columns], use_threads=False):
                lists = batch.column("transforms")
                counts = np.asarray(lists.value_lengths().fill_null(0))  # a message in JSON may have none
                logs = np.repeat(integers(batch.column(LOG_TIME)), counts)
                yield logs, lists.flatten()


_NEEDED = {
    "header.frame_id": pa.types.is_string,
    "header.stamp.sec": pa.types.is_integer,
    "header.stamp.nanosec": pa.types.is_integer,
    "child_frame_id": pa.types.is_string,
    **{f"transform.translation.{name}": pa.types.is_floating for name in "xyz"},
    **{f"transform.rotation.{name}": pa.types.is_floating for name in "xyzw"},
}


def _check_columns(topic: TfTopic, path: str, columns: pa.Schema) -> None:
    """A bag can define its own TFMessage."""
    kind = type_at(columns, "transforms")
    inner = kind.value_type if kind is not None and pa.types.is_list(kind) else None
    fields = pa.schema(inner if inner is not None and pa.types.is_struct(inner) else [])
    for name, is_needed in _NEEDED.items():
        there = type_at(fields, name)
        if there is None or not is_needed(there):
            raise FramesError(
                f"topic {topic.name}: its transforms have no {name} as TF's have ({path}); name the "
                '"topics" whose transforms are to be taken'
            )


def _frames(transforms: pa.StructArray) -> list[pa.Array]:
    """Parents and children; ROS has had slashes before their names."""
    ids = transforms.field("header").field("frame_id"), transforms.field("child_frame_id")
    return [pc.utf8_ltrim(each, characters="/") for each in ids]


# --- samples ----------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class EdgeFile:
    """The transforms of an edge on scratch disk: a `sources.Source`."""

    edge: Edge
    groups: Groups
    file: BinaryIO
    places: list[tuple[int, int]]

    def load(self, group: int) -> Part:
        start, size = self.places[group]
        with local_errors(tempfile.gettempdir()):
            self.file.seek(start)
            data = self.file.read(size)
        table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
        return Part.of(integers(one_array(table.column("time_ns"))), table)


class _EdgeWriter:
    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        with local_errors(tempfile.gettempdir()):
            self.file: BinaryIO = tempfile.TemporaryFile(prefix="ros-to-parquet-")  # noqa: SIM115
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._places: list[tuple[int, int]] = []
        self._entries: list[tuple[int, int, int, int, int, int, int]] = []

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= _PART_ROWS:
            self._write()

    def _write(self) -> None:
        if not self._waiting_rows:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _SCHEMA) as stream:
            stream.write_table(table)
        data = sink.getvalue()
        with local_errors(tempfile.gettempdir()):
            start = self.file.tell()
            self.file.write(data)
        times = integers(one_array(table.column("time_ns")))
        size = table.get_total_buffer_size()
        number = len(self._places)
        self._entries.append((int(times.min()), int(times.max()), len(times), 0, size, 0, number))
        self._places.append((start, data.size))
        self._waiting, self._waiting_rows = [], 0

    def done(self) -> EdgeFile:
        self._write()
        return EdgeFile(self.edge, Groups.of(self._entries), self.file, self._places)


class Poses:
    """Transforms of all edges that some poses are made of; to be closed.

    Attributes:
        bad: transforms left out, by edge: their numbers are not finite, or their quaternion is no rotation.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moving: dict[Edge, EdgeFile] = {}
        self._static: dict[Edge, tuple[Int64Array, Transforms]] = {}
        self.bad: Counter[Edge] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._moving.values():
            each.file.close()

    def read(
        self, filesystem: fs.FileSystem, root: str, topics: Sequence[TfTopic], edges: Sequence[Edge]
    ) -> None:
        """Takes the transforms of ``edges`` from the topics; each edge is to be given once."""
        writers = {edge: _EdgeWriter(edge) for edge in edges if not edge.static}
        static: dict[Edge, list[pa.Table]] = {edge: [] for edge in edges if edge.static}
        wanted = (*_FRAME_IDS, "transforms.list.element.header.stamp", "transforms.list.element.transform")
        try:
            for topic in topics:
                for logs, transforms in _transforms(filesystem, root, topic, wanted) if edges else ():
                    for edge, rows in self._of_edges(logs, transforms, edges):
                        if not edge.static:
                            if not topic.static:
                                writers[edge].add(rows)
                        else:
                            static[edge] = [_changes(pa.concat_tables([*static[edge], rows]))]
        finally:
            self._moving |= {edge: writer.done() for edge, writer in writers.items()}
        for edge, tables in static.items():
            if tables and tables[0].num_rows:
                self._static[edge] = integers(one_array(tables[0].column(""))), _values(tables[0])

    def _of_edges(
        self, logs: Int64Array, transforms: pa.StructArray, edges: Sequence[Edge]
    ) -> Iterator[tuple[Edge, pa.Table]]:
        parents, children = _frames(transforms)
        for edge in edges:
            here = pc.and_(pc.equal(children, edge.child), pc.equal(parents, edge.parent)).fill_null(False)
            places = np.flatnonzero(here.to_numpy(zero_copy_only=False))
            if not len(places):
                continue
            some = transforms.take(column(places))
            rows = _samples(logs[places], some, self._clock)
            sound = _sound(rows)
            self.bad[edge] += int(np.count_nonzero(~sound))
            if sound.any():
                yield edge, rows if sound.all() else rows.take(column(np.flatnonzero(sound)))

    def sources(self, way: Way) -> list[EdgeFile]:
        return [self._moving[edge] for edge in way.edges if edge in self._moving]

    def at(
        self, way: Way, pose: FramePose, times: Int64Array, cache: Cache, reasons: Counter[str]
    ) -> pa.Array:
        """The pose at each of the times, as `POSE`; null where it cannot be had, and why is counted."""
        valid = np.ones(len(times), dtype=np.bool_)
        gaps = np.zeros(len(times), dtype=np.int64)
        whole = _identity(len(times))
        for edges, upside_down in ((way.from_parent, True), (way.from_child, False)):
            # The way leads down from the frame that both are below: the last edge is the first step.
            steps = _identity(len(times))
            for edge in reversed(edges):
                found, there, gap = self._edge_at(edge, times, pose.tolerance_ns, cache, reasons, valid)
                steps = compose(steps, found)
                valid &= there
                gaps = np.maximum(gaps, gap)
            whole = compose(whole, inverse(steps) if upside_down else steps)
        return _pose_array(whole, gaps, valid)

    def _edge_at(
        self,
        edge: Edge,
        times: Int64Array,
        tolerance_ns: int,
        cache: Cache,
        reasons: Counter[str],
        valid: BoolArray,
    ) -> tuple[Transforms, BoolArray, Int64Array]:
        """The edge's transform at each time, where there is one, and how long it was interpolated over."""
        none, no_gap = np.zeros(len(times), dtype=np.bool_), np.zeros(len(times), dtype=np.int64)
        if edge not in self._static and (edge.static or not len(self._moving[edge].groups)):
            reasons[f"{edge}: all of its transforms were left out"] += int(np.count_nonzero(valid))
            return _identity(len(times)), none, no_gap
        if edge.static:
            since, values = self._static[edge]
            places = (np.searchsorted(since, times, side="right") - 1).clip(min=0)
            return _at(values, places), ~none, no_gap
        source = self._moving[edge]
        begin, end = reach(source.groups, int(times.min()), int(times.max()), tolerance_ns)
        stretch = read_stretch(source, cache, begin, end, at=times)
        if stretch is None:
            self._count(edge, source.groups, times[valid], tolerance_ns, reasons)
            return _identity(len(times)), none, no_gap
        matched = match(stretch.times, times, Match.INTERPOLATED, tolerance_ns)
        there = matched.before != NONE
        self._count(edge, source.groups, times[valid & ~there], tolerance_ns, reasons)
        if not there.any():
            return _identity(len(times)), none, no_gap
        matched = match(stretch.times, times[there], Match.INTERPOLATED, tolerance_ns)
        first, other = (_values(stretch.take(each)) for each in (matched.before, matched.after))
        between = Between(shares(stretch.times, times[there], matched), matched.near != matched.before)
        share = between.share[:, None]
        line = np.where(
            share == 0, first.translation, (1 - share) * first.translation + share * other.translation
        )
        found = _identity(len(times))
        found.translation[there] = line
        found.rotation[there] = slerp(first.rotation, other.rotation, between)
        no_gap[there] = stretch.times[matched.after] - stretch.times[matched.before]
        return found, there, no_gap

    def _count(
        self, edge: Edge, groups: Groups, times: Int64Array, tolerance_ns: int, reasons: Counter[str]
    ) -> None:
        outside = (times < groups.first.min()) | (times > groups.last.max())
        for why, count in (
            ("before its first or after its last transform", int(np.count_nonzero(outside))),
            (
                f"no transforms on both sides within {tolerance_ns / 1e6:g} ms",
                int(np.count_nonzero(~outside)),
            ),
        ):
            if count:
                reasons[f"{edge}: {why}"] += count


def _samples(logs: Int64Array, transforms: pa.StructArray, clock: Clock) -> pa.Table:
    times = logs
    if clock is Clock.STAMP:
        stamp = transforms.field("header").field("stamp")
        seconds, rest = (integers(stamp.field(name).fill_null(0)) for name in ("sec", "nanosec"))
        times = seconds * 1_000_000_000 + rest
    transform = transforms.field("transform")
    translation, rotation = transform.field("translation"), transform.field("rotation")
    turned = np.stack([floats(rotation.field(name)) for name in "xyzw"], axis=1)
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(turned, axis=1)[:, None]
        turned = np.where((norms < _LEAST_NORM) | np.isinf(norms), np.nan, turned / norms)
    return pa.table(
        [
            column(logs),
            column(times),
            *(translation.field(name).cast(pa.float64()) for name in "xyz"),
            *(column(np.ascontiguousarray(turned[:, place])) for place in range(4)),
        ],
        schema=_SCHEMA,
    )


def _sound(rows: pa.Table) -> BoolArray:
    found: BoolArray = np.logical_and.reduce(
        [np.isfinite(floats(one_array(rows.column(name)))) for name in _VALUES]
    )
    return found


def _changes(rows: pa.Table) -> pa.Table:
    """A static edge's transforms in the order of the log, without those that repeat the one before."""
    rows = rows.combine_chunks()
    rows = rows.take(column(np.argsort(integers(one_array(rows.column(""))), kind="stable")))
    values = np.stack([floats(one_array(rows.column(name))) for name in _VALUES], axis=1)
    new = np.append(True, (values[1:] != values[:-1]).any(axis=1))
    return rows.take(column(np.flatnonzero(new)))


def _values(rows: pa.Table) -> Transforms:
    values = np.stack([floats(one_array(rows.column(name))) for name in _VALUES], axis=1)
    return Transforms(values[:, :3], values[:, 3:])


# --- transforms -------------------------------------------------------------------------------------


def _identity(count: int) -> Transforms:
    return Transforms(np.zeros((count, 3)), np.tile((0.0, 0.0, 0.0, 1.0), (count, 1)))


def _at(values: Transforms, places: Int64Array) -> Transforms:
    return Transforms(values.translation[places], values.rotation[places])


def compose(outer: Transforms, inner: Transforms) -> Transforms:
    """``inner``, which is in the frame that ``outer`` says, in the frame that ``outer`` is in."""
    return Transforms(
        outer.translation + rotate(outer.rotation, inner.translation),
        _multiply(outer.rotation, inner.rotation),
    )


def inverse(each: Transforms) -> Transforms:
    """The parent in the child."""
    back = each.rotation * (-1.0, -1.0, -1.0, 1.0)
    return Transforms(-rotate(back, each.translation), back)


def rotate(rotation: Float64Array, vector: Float64Array) -> Float64Array:
    """Vectors turned by quaternions of length 1."""
    axis, scalar = rotation[:, :3], rotation[:, 3:]
    twice = 2 * np.cross(axis, vector)
    turned: Float64Array = vector + scalar * twice + np.cross(axis, twice)
    return turned


def _multiply(one: Float64Array, other: Float64Array) -> Float64Array:
    x1, y1, z1, w1 = one.T
    x2, y2, z2, w2 = other.T
    return np.stack(
        [
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
        ],
        axis=1,
    )


def _pose_array(poses: Transforms, gaps: Int64Array, valid: BoolArray) -> pa.Array:
    def fields(values: Float64Array, kind: pa.DataType) -> pa.Array:
        children = [column(np.ascontiguousarray(values[valid, place])) for place in range(values.shape[1])]
        return pa.StructArray.from_arrays(children, fields=list(kind))

    made = pa.StructArray.from_arrays(
        [fields(poses.translation, _VECTOR), fields(poses.rotation, _QUATERNION), column(gaps[valid])],
        fields=list(POSE),
    )
    return spread(made, valid)
