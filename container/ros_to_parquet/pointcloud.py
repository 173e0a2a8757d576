"""Point clouds as columns: ``data`` of ``sensor_msgs/PointCloud2`` by the cloud's own fields, and back.

A cloud says itself how its points lie in ``data`` (``fields``, ``point_step``, ``row_step``), so clouds of
one topic can differ. Those with the same fields become columns together; bytes that belong to no field are
kept where they are not zero, so that `CloudTable.recorded` gives every byte back.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ros_to_parquet.bag.model import Int64Array, UInt8Array
from ros_to_parquet.decode import Decoded
from ros_to_parquet.layout import Layout, Node, Primitive, String, Struct
from ros_to_parquet.layout import Sequence as SequenceNode
from ros_to_parquet.schema import ELEMENT, RESERVED_COLUMNS, arrow_fields, unique_names

POINT_CLOUD: Final = "sensor_msgs/msg/PointCloud2"

GAPS: Final = "data_gaps"
"""Column: bytes of ``data`` that belong to no field, in their order; null where they are zero and ``data`` is
as long as the cloud says."""

METADATA_KEY: Final = "ros_to_parquet.pointcloud"
"""Key-value metadata of a file: JSON list of [name, datatype, count], one a column of points."""

MAX_FIELDS: Final = 1_000
MAX_OVERLAP: Final = 4
"""Fields may take together this many times the bytes of a point: what overlaps is decoded twice."""
MAX_TABLES: Final = 100
"""Sets of fields of one connection that get columns of their own."""

_DATATYPES: Final = {
    1: pa.int8(),
    2: pa.uint8(),
    3: pa.int16(),
    4: pa.uint16(),
    5: pa.int32(),
    6: pa.uint32(),
    7: pa.float32(),
    8: pa.float64(),
}
"""By ``sensor_msgs/PointField``'s numbers."""

_UNWELCOME: Final = re.compile(r"[ ,;{}()\n\t=.\x00]")
"""What Hive, Spark or paths of Parquet do not take in a column's name."""


# --- fields ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PointField:
    """One of a cloud's fields: ``count`` numbers of ``datatype``, ``offset`` bytes into each point."""

    name: str
    offset: int
    datatype: int
    count: int

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return int(_DATATYPES[self.datatype].byte_width)


_Columns: TypeAlias = tuple[tuple[str, int, int], ...]
"""(name, datatype, count) of each of a cloud's fields: what makes a table."""


@dataclass(frozen=True, slots=True)
class PointLayout:
    """How points lie in ``data``."""

    fields: tuple[PointField, ...]
    point_step: int
    is_bigendian: bool

    @property
    def columns(self) -> _Columns:
        """What the columns of points are made of."""
        return tuple((field.name, field.datatype, field.count) for field in self.fields)

    @property
    def problem(self) -> str:
        """Why points cannot be decoded by it; empty where they can."""
        if not self.fields:
            return "it has no fields"
        if len(self.fields) > MAX_FIELDS:
            return f"{len(self.fields)} fields, more than {MAX_FIELDS}"
        for field in self.fields:
            if field.datatype not in _DATATYPES:
                return f"field {field.name!r} has the unknown datatype {field.datatype}"
            end = field.offset + field.width * field.count
            if end > self.point_step:
                return f"field {field.name!r} ends {end} bytes into a point, point_step is {self.point_step}"
        if sum(field.width * field.count for field in self.fields) > MAX_OVERLAP * self.point_step:
            return f"its fields overlap more than {MAX_OVERLAP} times"
        return ""

    def gaps(self) -> npt.NDArray[np.bool_]:
        """Which bytes of a point belong to no field, shape (point_step,).

        To be asked where there are points, which are all in memory: else ``point_step`` can be any number.
        """
        free = np.ones(self.point_step, np.bool_)
        for field in self.fields:
            free[field.offset : field.offset + field.width * field.count] = False
        return free


def column_type(datatype: int, count: int) -> pa.DataType:
    """The type of a column of points: one list a cloud, of numbers, or of lists of ``count`` numbers."""
    item = _DATATYPES[datatype]
    if count > 1:
        item = pa.list_(pa.field(ELEMENT, item, nullable=False), count)
    return pa.list_(pa.field(ELEMENT, item, nullable=False))


# --- tables ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CloudTable:
    """A table of decoded clouds.

    Attributes:
        message: the message's fields as recorded, ``data`` included.
        columns: (name, datatype, count) of each of the cloud's fields.
    """

    message: tuple[pa.Field, ...]
    columns: _Columns

    @property
    def point_names(self) -> list[str]:
        """Names of the columns of points: those of the fields, where no other column has them."""
        taken = [*RESERVED_COLUMNS, GAPS, *(field.name for field in self.message)]
        names = (_UNWELCOME.sub("_", name) or "unnamed" for name, _, _ in self.columns)
        return unique_names(names, taken=taken)

    @property
    def schema(self) -> pa.Schema:
        """The message's fields but for ``data``, the columns of points, and `GAPS`."""
        return pa.schema(
            [
                *(field for field in self.message if field.name != "data"),
                *(
                    pa.field(name, column_type(datatype, count), nullable=False)
                    for name, (_, datatype, count) in zip(self.point_names, self.columns, strict=True)
                ),
                pa.field(GAPS, pa.binary()),
            ]
        )

    @property
    def metadata(self) -> dict[str, str]:
        return {METADATA_KEY: json.dumps(self.columns)}

    @classmethod
    def from_metadata(cls, layout: Layout, text: str) -> CloudTable:
        """Of a file's metadata; the inverse of ``metadata``."""
        columns = tuple((name, datatype, count) for name, datatype, count in json.loads(text))
        return cls(tuple(arrow_fields(layout)), columns)

    def schema_hash(self, digits: str) -> str:
        """Eight hex digits for the table of a definition whose own are ``digits``."""
        text = f"{digits} {json.dumps(self.columns)}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]

    def recorded(self, columns: Sequence[pa.Array]) -> list[pa.Array]:
        """Columns of ``schema`` as the message's own, ``data`` among them."""
        given = dict(zip(self.schema.names, columns, strict=True))
        clouds = _Clouds(given)
        places = np.zeros(len(clouds.rows), np.int64)
        parts = []
        for members, layout in clouds.by_layout():
            points = [given[name] for name in self.point_names]
            parts.append(_encode(clouds, members, layout, points, given[GAPS]))
            places[members] = np.arange(len(members)) + sum(len(part) for part in parts[:-1])
        data = pa.concat_arrays(parts) if parts else pa.array([], pa.binary())
        if len(parts) > 1:
            data = data.take(_numbers(pa.int64(), places))
        return [data if field.name == "data" else given[field.name] for field in self.message]


@dataclass(frozen=True, slots=True)
class CloudPart:
    """Rows that go to one table.

    Attributes:
        table: None for clouds that are kept as recorded.
        problem: why they are; the first one's.
    """

    decoded: Decoded
    table: CloudTable | None
    problem: str = ""


class CloudDecoder:
    """Makes columns of the clouds of one connection; ``layout`` is one that `is_point_cloud`."""

    def __init__(self, layout: Layout) -> None:
        self._message = tuple(arrow_fields(layout))
        self._tables: dict[_Columns, CloudTable] = {}

    def split(self, decoded: Decoded) -> list[CloudPart]:
        """The rows by what they become: a part a set of fields, and one of those kept as recorded."""
        clouds = _Clouds(dict(zip((field.name for field in self._message), decoded.columns, strict=True)))
        groups: dict[_Columns, list[_Group]] = {}
        kept: list[Int64Array] = []
        problems: dict[int, str] = {}
        for rows, layout in clouds.by_layout():
            problem = layout.problem or self._excess(layout)
            if problem:
                kept.append(rows)
                problems[int(rows[0])] = problem
                continue
            whole = clouds.are_whole(rows, layout.point_step)
            if not whole.all():
                kept.append(rows[~whole])
                problems[int(kept[-1][0])] = clouds.shortage(int(kept[-1][0]), layout.point_step)
            if whole.any():
                groups.setdefault(layout.columns, []).append((rows[whole], layout))
        parts = [
            CloudPart(self._decoded(decoded, clouds, members), self._table(columns))
            for columns, members in groups.items()
        ]
        if kept:
            rows = np.sort(np.concatenate(kept))
            columns = _taken(decoded.columns, rows)
            parts.append(CloudPart(_part(decoded, columns, rows), None, problems[min(problems)]))
        return parts

    def _excess(self, layout: PointLayout) -> str:
        """Counts the tables: why the layout's clouds get none; empty where they do."""
        if layout.columns not in self._tables and len(self._tables) == MAX_TABLES:
            return f"they have more than {MAX_TABLES} sets of fields"
        self._table(layout.columns)
        return ""

    def _table(self, columns: _Columns) -> CloudTable:
        if columns not in self._tables:
            self._tables[columns] = CloudTable(self._message, columns)
        return self._tables[columns]

    def _decoded(self, decoded: Decoded, clouds: _Clouds, groups: list[_Group]) -> Decoded:
        """Columns of clouds with the same fields, in the order of the messages."""
        members = np.concatenate([rows for rows, _ in groups])
        order = np.argsort(members, kind="stable")
        rows = members[order]
        message = [
            column
            for column, field in zip(decoded.columns, self._message, strict=True)
            if field.name != "data"
        ]
        columns = message if len(rows) == len(decoded.rows) else _taken(message, rows)
        points = zip(*(_decode(clouds, each, layout) for each, layout in groups), strict=True)
        columns += [_ordered(arrays, order) for arrays in points]
        return _part(decoded, columns, rows)


def _taken(columns: Sequence[pa.Array], rows: Int64Array) -> list[pa.Array]:
    return [column.take(_numbers(pa.int64(), rows)) for column in columns]


def _part(decoded: Decoded, columns: list[pa.Array], rows: Int64Array) -> Decoded:
    stamps = decoded.stamps_ns
    return Decoded(columns, decoded.rows[rows], [], 0, None if stamps is None else stamps[rows])


def is_point_cloud(layout: Layout) -> bool:
    """Whether messages are ``PointCloud2`` as ROS defines it (the header may be of ROS 1 or 2)."""
    nodes = {field.name: field.node for field in layout.root.fields}
    fields = nodes.get("fields")
    item = fields.item if isinstance(fields, SequenceNode) else None
    points = {field.name: field.node for field in item.fields} if isinstance(item, Struct) else {}
    return (
        layout.root.type_name == POINT_CLOUD
        and nodes.keys() == {*_CLOUD, "header", "fields", "data"}
        and points.keys() == {*_FIELD, "name"}
        and isinstance(points["name"], String)
        and all(_is(nodes[name], kind) for name, kind in _CLOUD.items())
        and all(_is(points[name], kind) for name, kind in _FIELD.items())
        and isinstance(nodes["data"], SequenceNode)
        and _is(nodes["data"].item, "uint8")
    )


_CLOUD: Final = {
    "height": "uint32",
    "width": "uint32",
    "is_bigendian": "bool",
    "point_step": "uint32",
    "row_step": "uint32",
    "is_dense": "bool",
}
_FIELD: Final = {"offset": "uint32", "datatype": "uint8", "count": "uint32"}


def _is(node: Node | None, name: str) -> bool:
    return isinstance(node, Primitive) and node.name == name


_Group: TypeAlias = tuple[Int64Array, PointLayout]


# --- clouds ------------------------------------------------------------------------------------------


class _Clouds:
    """What clouds say of themselves, one value a cloud in each array; and ``data``, where it is given."""

    def __init__(self, columns: dict[str, pa.Array]) -> None:
        self.widths = _unsigned(columns["width"])
        self.heights = _unsigned(columns["height"])
        self.row_steps = _unsigned(columns["row_step"])
        self.rows = np.arange(len(self.widths))
        self.counts = self.widths * self.heights
        """Points; below 2**64, as both factors are below 2**32."""
        self._point_steps = _unsigned(columns["point_step"])
        self._fields = columns["fields"]
        self._bigendian = columns["is_bigendian"]
        if "data" in columns:
            offsets, self.data = _binary(columns["data"])
            self.starts = offsets[:-1].astype(np.int64)
            self.lengths = np.diff(offsets).astype(np.uint64)

    def by_layout(self) -> Iterator[tuple[Int64Array, PointLayout]]:
        """The rows by how their points lie."""
        places = _offsets(self._fields)
        item = self._fields.values
        names = item.field(item.type.get_field_index("name")).dictionary_encode()
        described = np.stack(
            [
                _unsigned(names.indices),
                *(_unsigned(item.field(item.type.get_field_index(name))) for name in _FIELD),
            ],
            axis=-1,
        )
        big = _booleans(self._bigendian)
        lengths = np.diff(places)
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            inside = places[rows][:, None] + np.arange(length)
            keys = np.concatenate(
                [
                    self._point_steps[rows][:, None],
                    big[rows][:, None].astype(np.uint64),
                    described[inside].reshape(len(rows), 4 * length),
                ],
                axis=1,
            )
            same = (keys == keys[0]).all()
            unique, which = (keys[:1], None) if same else np.unique(keys, axis=0, return_inverse=True)
            for number, key in enumerate(unique.tolist()):
                yield (
                    rows if which is None else rows[which.reshape(-1) == number],
                    _point_layout(tuple(key), tuple(names.dictionary.to_pylist())),
                )

    def are_whole(self, rows: Int64Array, point_step: int) -> npt.NDArray[np.bool_]:
        """Whether ``data`` has all points."""
        counts, lengths = self.counts[rows], self.lengths[rows]
        # The product overflows only where there are more points than bytes.
        whole: npt.NDArray[np.bool_] = counts * np.uint64(point_step) <= lengths
        whole &= counts <= lengths
        whole |= counts == 0
        return whole

    def shortage(self, row: int, point_step: int) -> str:
        return (
            f"data is {self.lengths[row]} bytes long, {self.heights[row]} x {self.widths[row]} points "
            f"of {point_step} bytes do not fit"
        )

    def strides(self, rows: Int64Array, point_step: int, lengths: npt.NDArray[np.uint64]) -> Int64Array:
        """Bytes from the beginning of a row of points to the next one.

        ``row_step``, where ``data`` has room for rows that long; else rows lie one behind the other, as they
        do in clouds whose ``row_step`` is 0 or wrong.
        """
        packed = self.widths[rows] * np.uint64(point_step)
        steps = self.row_steps[rows]
        rows_before = np.maximum(self.heights[rows], np.uint64(1)) - np.uint64(1)
        padded = (self.counts[rows] > 0) & (steps >= packed) & (packed <= lengths)
        padded &= steps * rows_before <= lengths - np.minimum(packed, lengths)
        return np.where(padded, steps, packed).astype(np.int64)

    def usual_lengths(self, rows: Int64Array, point_step: int) -> npt.NDArray[np.uint64]:
        """How long ``data`` is where its length is not kept."""
        packed = self.widths[rows] * np.uint64(point_step)
        lengths = self.heights[rows] * np.maximum(packed, self.row_steps[rows])
        return np.where(self.counts[rows] > 0, lengths, np.uint64(0))


@functools.lru_cache(maxsize=256)
def _point_layout(key: tuple[int, ...], names: tuple[str, ...]) -> PointLayout:
    point_step, is_bigendian, *described = key
    fields = tuple(
        # A count of 0 is taken for 1, as PCL does.
        PointField(names[name], offset, datatype, max(count, 1))
        for name, offset, datatype, count in zip(*[iter(described)] * 4, strict=True)
    )
    return PointLayout(fields, point_step, bool(is_bigendian))


@dataclass(frozen=True, slots=True)
class _Run:
    """Points at regular distances: ``rows`` rows of ``columns`` of them, from byte ``start`` on."""

    start: int
    rows: int
    columns: int
    stride: int

    @property
    def points(self) -> int:
        return self.rows * self.columns

    def view(
        self, data: UInt8Array, dtype: str, *, offset: int, count: int, point_step: int
    ) -> npt.NDArray[Any]:
        """``count`` numbers of each point, shape (rows, columns, count), in place."""
        kind = np.dtype(dtype)
        shape = (self.rows, self.columns, count)
        strides = (self.stride, point_step, kind.itemsize)
        return np.ndarray(shape, kind, buffer=data, offset=self.start + offset, strides=strides)


def _runs(
    starts: Int64Array, clouds: _Clouds, rows: Int64Array, strides: Int64Array, step: int
) -> list[_Run]:
    """Where the clouds' points lie: clouds that follow one another without a gap are one run."""
    counts = clouds.counts[rows].astype(np.int64)
    flat = (clouds.heights[rows] <= 1) | (strides == clouds.widths[rows].astype(np.int64) * step)
    joined = flat[1:] & flat[:-1] & (starts[1:] == starts[:-1] + counts[:-1] * step)
    firsts = np.concatenate([[0], np.flatnonzero(~joined) + 1])
    points = np.add.reduceat(counts, firsts)
    runs = []
    for first, total in zip(firsts.tolist(), points.tolist(), strict=True):
        if not total:
            continue
        if flat[first]:
            runs.append(_Run(int(starts[first]), 1, total, total * step))
        else:
            row = rows[first]
            width, height = int(clouds.widths[row]), int(clouds.heights[row])
            runs.append(_Run(int(starts[first]), height, width, int(strides[first])))
    return runs


_NO_GAPS: Final = np.zeros(0, np.bool_)


def _dtype(field: PointField, *, is_bigendian: bool) -> str:
    # As whole numbers, so that every bit of a NaN stays what it is.
    return f"{'>' if is_bigendian else '<'}u{field.width}"


def _decode(clouds: _Clouds, rows: Int64Array, layout: PointLayout) -> list[pa.Array]:
    """A column for each field, and `GAPS`."""
    lengths = clouds.lengths[rows]
    strides = clouds.strides(rows, layout.point_step, lengths)
    runs = _runs(clouds.starts[rows], clouds, rows, strides, layout.point_step)
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(clouds.counts[rows].astype(np.int64), out=offsets[1:])
    columns = []
    for field in layout.fields:
        values = np.empty((int(offsets[-1]), field.count), f"=u{field.width}")
        dtype = _dtype(field, is_bigendian=layout.is_bigendian)
        done = 0
        for run in runs:
            source = run.view(
                clouds.data, dtype, offset=field.offset, count=field.count, point_step=layout.point_step
            )
            target = values[done : done + run.points]
            target.reshape(source.shape)[...] = source
            done += run.points
        columns.append(_list_column(field, offsets, values.reshape(-1)))
    gaps = layout.gaps() if runs else _NO_GAPS
    exact = (lengths == clouds.usual_lengths(rows, layout.point_step)).all()
    dense = (lengths == clouds.counts[rows] * np.uint64(layout.point_step)).all()
    if exact and dense and not _any_in_gaps(clouds.data, runs, gaps):
        columns.append(pa.nulls(len(rows), pa.binary()))
    else:
        columns.append(
            _gap_column(clouds, rows, strides, clouds.usual_lengths(rows, layout.point_step), gaps)
        )
    return columns


def _list_column(field: PointField, offsets: npt.NDArray[np.int32], values: npt.NDArray[Any]) -> pa.Array:
    kind = column_type(field.datatype, field.count)
    items = _numbers(_DATATYPES[field.datatype], values)
    if field.count > 1:
        items = pa.Array.from_buffers(kind.value_type, int(offsets[-1]), [None], children=[items])
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets)], children=[items])


def _any_in_gaps(data: UInt8Array, runs: list[_Run], gaps: npt.NDArray[np.bool_]) -> bool:
    """Whether a byte between fields is not zero."""
    edges = np.flatnonzero(np.diff(gaps.astype(np.int8), prepend=0, append=0)).reshape(-1, 2).tolist()
    return any(
        run.view(data, "u1", offset=start, count=stop - start, point_step=len(gaps)).any()
        for run in runs
        for start, stop in edges
    )


def _gap_mask(length: int, run: _Run, gaps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which bytes of a cloud's data belong to no field; ``run`` has all of its points and starts at 0."""
    free = np.ones(length, np.bool_)
    if run.points:
        shape, strides = (run.rows, run.columns, len(gaps)), (run.stride, len(gaps), 1)
        np.ndarray(shape, np.bool_, buffer=free, strides=strides)[...] = gaps
    return free


def _cloud_run(clouds: _Clouds, row: int, stride: int) -> _Run:
    return _Run(0, int(clouds.heights[row]), int(clouds.widths[row]), stride)


def _gap_column(
    clouds: _Clouds,
    rows: Int64Array,
    strides: Int64Array,
    usual: npt.NDArray[np.uint64],
    gaps: npt.NDArray[np.bool_],
) -> pa.Array:
    """Cloud by cloud, as each has a mask of its own."""
    found: list[bytes | None] = []
    for row, stride, expected in zip(rows.tolist(), strides.tolist(), usual.tolist(), strict=True):
        start, length = int(clouds.starts[row]), int(clouds.lengths[row])
        data = clouds.data[start : start + length]
        left = data[_gap_mask(length, _cloud_run(clouds, row, stride), gaps)]
        found.append(left.tobytes() if length != expected or left.any() else None)
    return pa.array(found, pa.binary())


def _encode(
    clouds: _Clouds, rows: Int64Array, layout: PointLayout, columns: list[pa.Array], gap_column: pa.Array
) -> pa.Array:
    """``data`` of the clouds: the inverse of `_decode`."""
    step = layout.point_step
    gaps = layout.gaps() if clouds.counts[rows].any() else _NO_GAPS
    taken = np.uint64(len(gaps) - int(gaps.sum()))
    whole = len(rows) == len(gap_column)
    columns, gap_column = (
        (columns, gap_column)
        if whole
        else (
            [column.take(_numbers(pa.int64(), rows)) for column in columns],
            gap_column.take(_numbers(pa.int64(), rows)),
        )
    )
    lengths = clouds.usual_lengths(rows, step)
    kept = np.flatnonzero(_booleans(gap_column.is_valid()))
    gap_offsets, gap_data = _binary(gap_column)
    gap_lengths = np.diff(gap_offsets).astype(np.uint64)
    lengths[kept] = gap_lengths[kept] + clouds.counts[rows[kept]] * taken
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths.astype(np.int64), out=offsets[1:])
    starts = offsets[:-1].astype(np.int64)
    data = np.zeros(int(offsets[-1]), np.uint8)
    strides = clouds.strides(rows, step, lengths)
    runs = _runs(starts, clouds, rows, strides, step)
    for field, column in zip(layout.fields, columns, strict=True):
        values = column.flatten()
        if field.count > 1:
            values = values.flatten()
        numbers = _values(values, f"=u{field.width}")
        dtype, done = _dtype(field, is_bigendian=layout.is_bigendian), 0
        for run in runs:
            target = run.view(data, dtype, offset=field.offset, count=field.count, point_step=step)
            size = run.points * field.count
            target[...] = numbers[done : done + size].reshape(target.shape)
            done += size
    for place in kept.tolist():
        start, length = int(starts[place]), int(lengths[place])
        free = _gap_mask(length, _cloud_run(clouds, rows[place], int(strides[place])), gaps)
        data[start : start + length][free] = gap_data[gap_offsets[place] : gap_offsets[place + 1]]
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


# --- Arrow arrays ------------------------------------------------------------------------------------


def _ordered(arrays: Sequence[pa.Array], order: Int64Array) -> pa.Array:
    if len(arrays) == 1:
        return arrays[0]
    return pa.concat_arrays(arrays).take(_numbers(pa.int64(), order))


def _numbers(kind: pa.DataType, values: npt.NDArray[Any]) -> pa.Array:
    # Not pa.array(): it imports pandas wherever that is installed.
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _values(array: pa.Array, dtype: str) -> npt.NDArray[Any]:
    """The numbers of an array without nulls, in place."""
    data, kind = array.buffers()[1], np.dtype(dtype)
    if data is None or not len(array):
        return np.zeros(0, kind)
    return np.frombuffer(data, kind, count=len(array), offset=array.offset * kind.itemsize)


def _unsigned(array: pa.Array) -> npt.NDArray[np.uint64]:
    return _values(array, f"=u{array.type.byte_width}").astype(np.uint64)


def _booleans(array: pa.Array) -> npt.NDArray[np.bool_]:
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros(0, np.bool_)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)


def _offsets(array: pa.Array) -> Int64Array:
    """Where the lists of an array begin and end in ``array.values``."""
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros(1, np.int64)
    return np.frombuffer(data, np.int32, count=len(array) + 1, offset=array.offset * 4).astype(np.int64)


def _binary(array: pa.Array) -> tuple[Int64Array, UInt8Array]:
    """Where values begin and end, and all bytes."""
    data = array.buffers()[2]
    return _offsets(array), np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
