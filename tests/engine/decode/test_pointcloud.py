"""Decoded point clouds against a naive decoder, and back to the bytes they were."""

from __future__ import annotations

import dataclasses
import itertools
import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ros_to_parquet.decode import Decoder
from ros_to_parquet.layout import Layout, resolve_layout, standard_layout
from ros_to_parquet.pointcloud import (
    GAPS,
    MAX_TABLES,
    CloudDecoder,
    CloudPart,
    CloudTable,
    column_type,
    is_point_cloud,
)
from ros_to_parquet.program import ROS1, Wire
from tests.engine.decode import naive
from tests.engine.decode.blocks import HEADERS, block, connection

CLOUD = "sensor_msgs/msg/PointCloud2"
WIRES = {
    "ros1": (ROS1, b""),
    "le": (Wire("CDR"), HEADERS["le"]),
    "be": (Wire("CDR", big_endian=True), HEADERS["be"]),
}
CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}
BITS = {1: "B", 2: "B", 3: "H", 4: "H", 5: "I", 6: "I", 7: "I", 8: "Q"}
SIZES = {datatype: struct.calcsize(f"={code}") for datatype, code in CODES.items()}


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A message, but for its header. Fields are (name, offset, datatype, count)."""

    fields: list[tuple[str, int, int, int]]
    point_step: int
    width: int
    data: bytes
    height: int = 1
    row_step: int = 0
    is_bigendian: bool = False

    def message(self, wire: Wire) -> dict[str, Any]:
        stamp = {"sec": 7, "nanosec": self.width}
        header = {"stamp": stamp, "frame_id": "lidar"}
        return {
            "header": {"seq": 1, **header} if wire is ROS1 else header,
            "height": self.height,
            "width": self.width,
            "fields": [
                dict(zip(("name", "offset", "datatype", "count"), field, strict=True))
                for field in self.fields
            ],
            "is_bigendian": self.is_bigendian,
            "point_step": self.point_step,
            "row_step": self.row_step,
            "data": self.data,
            "is_dense": True,
        }

    def points(self, codes: dict[int, str] = BITS) -> list[list[Any]] | None:
        """Values by field and point, one number after another; None where that cannot be."""
        count = self.width * self.height
        ends = [offset + SIZES.get(kind, 1 << 40) * max(1, times) for _, offset, kind, times in self.fields]
        lengths = [SIZES.get(kind, 0) * max(1, times) for _, _, kind, times in self.fields]
        if not self.fields or max(ends) > self.point_step or count * self.point_step > len(self.data):
            return None
        if sum(lengths) > 4 * self.point_step or len(self.fields) > 1_000:
            return None
        packed = self.width * self.point_step
        stride = self.row_step
        if stride < packed or (self.height - 1) * stride + packed > len(self.data):
            stride = packed
        order = ">" if self.is_bigendian else "<"
        columns: list[list[Any]] = [[] for _ in self.fields]
        for row in range(self.height if count else 0):
            for place in range(self.width):
                start = row * stride + place * self.point_step
                for column, (_, offset, kind, times) in zip(columns, self.fields, strict=True):
                    if times < 2:
                        column += struct.unpack_from(f"{order}{codes[kind]}", self.data, start + offset)
                    else:
                        code = f"{order}{times}{codes[kind]}"
                        column.append(list(struct.unpack_from(code, self.data, start + offset)))
        return columns


def layout_of(wire: str) -> Layout:
    return (
        standard_layout(CLOUD, "ros1_noetic", 1)
        if wire == "ros1"
        else standard_layout(CLOUD, "ros2_jazzy", 2)
    )


def decode(clouds: list[Cloud], wire: str = "le") -> tuple[list[pa.Array], list[CloudPart], Layout]:
    """The columns as recorded, and what becomes of them."""
    layout = layout_of(wire)
    codec, header = WIRES[wire]
    payloads = [header + naive.encode(layout.root, codec, cloud.message(codec)) for cloud in clouds]
    encoding = "ros1" if wire == "ros1" else "cdr"
    decoded = Decoder(layout, encoding).decode(block(payloads, encoding=encoding))
    assert not decoded.rejected
    return decoded.columns, CloudDecoder(layout).split(decoded), layout


def bits(column: pa.Array, kind: int, times: int) -> list[Any]:
    """A column of points with its numbers as they are in memory, unsigned."""
    unsigned = {1: pa.uint8(), 2: pa.uint16(), 4: pa.uint32(), 8: pa.uint64()}[SIZES[kind]]
    flat = column.flatten()
    numbers = (flat.flatten() if times > 1 else flat).view(unsigned).to_pylist()
    if times > 1:
        numbers = [numbers[start : start + times] for start in range(0, len(numbers), times)]
    ends = column.offsets.to_pylist()
    return [numbers[start:end] for start, end in itertools.pairwise(ends)]


def check(clouds: list[Cloud], wire: str = "le") -> list[CloudPart]:
    """Every cloud is decoded as the naive decoder has it, or kept as recorded; all bytes come back."""
    recorded, parts, _ = decode(clouds, wire)
    met: list[int] = []
    for part in parts:
        rows = part.decoded.rows
        met += rows.tolist()
        assert rows.tolist() == sorted(rows)
        assert part.decoded.stamps_ns is not None
        assert part.decoded.stamps_ns.tolist() == [7 * 10**9 + clouds[row].width for row in rows]
        expected = [column.take(pa.array(rows)) for column in recorded]
        if part.table is None:
            assert part.problem
            assert part.decoded.columns == expected
            assert all(clouds[row].points() is None for row in rows)
            continue
        columns = dict(zip(part.table.schema.names, part.decoded.columns, strict=True))
        for column, field in zip(part.decoded.columns, part.table.schema, strict=True):
            assert column.type == field.type
            assert len(column) == len(rows)
            column.validate(full=True)
        for number, (name, (_, kind, times)) in enumerate(
            zip(part.table.point_names, part.table.columns, strict=True)
        ):
            assert columns[name].type == column_type(kind, times)
            points = [clouds[row].points() for row in rows]
            assert bits(columns[name], kind, times) == [each[number] for each in points if each is not None]
        for given_columns in (
            part.decoded.columns,
            [pa.concat_arrays([column, column]).slice(len(rows)) for column in part.decoded.columns],
        ):
            for before, after in zip(expected, part.table.recorded(given_columns), strict=True):
                assert before == after
    assert sorted(met) == list(range(len(clouds)))
    return parts


NAMES = ("x", "y", "z", "X", "intensity", "", "stamp", "width", "data", "a b=c", "data_gaps", "ä")


@st.composite
def field_lists(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(NAMES), st.integers(0, 20), st.sampled_from((*CODES, 0, 9)), st.integers(0, 3)
            ),
            max_size=5,
        )
    )


@st.composite
def some_clouds(draw: st.DrawFn) -> list[Cloud]:
    """Clouds of a few ways that points may lie, with data that is too long, too short or just right."""
    layouts = draw(
        st.lists(st.tuples(field_lists(), st.integers(0, 6), st.booleans()), min_size=1, max_size=3)
    )
    clouds = []
    for _ in range(draw(st.integers(1, 6))):
        fields, more, is_bigendian = draw(st.sampled_from(layouts))
        step = more + max(
            (offset + SIZES.get(kind, 1) * max(1, times) for _, offset, kind, times in fields), default=0
        )
        step = draw(st.sampled_from((step, step, step, step, max(0, step - more - 1))))
        width, height = draw(st.integers(0, 4)), draw(st.integers(0, 3))
        row_step = draw(st.sampled_from((0, width * step, width * step + 3, 2**32 - 1)))
        size = height * max(width * step, row_step if row_step < 1_000 else 0)
        size = max(0, size + draw(st.sampled_from((0, 0, 0, 0, -1, 5))))
        data = draw(st.binary(min_size=size, max_size=size))
        if draw(st.booleans()):  # gaps of zeros
            free = np.ones(size, np.bool_)
            stride = row_step if width * step <= row_step < 1_000 else width * step
            for start in (row * stride + place * step for row in range(height) for place in range(width)):
                for _, offset, kind, times in fields:
                    free[start + offset : start + offset + SIZES.get(kind, 0) * max(1, times)] = False
            data = bytes(0 if gap else byte for byte, gap in zip(data, free.tolist(), strict=True))
        clouds.append(Cloud(fields, step, width, data, height, row_step, is_bigendian))
    return clouds


XYZ = [("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1)]


@settings(max_examples=150, deadline=None)
@example([Cloud(XYZ, 12, 1 << 31, b"", 1 << 31)], "le")
@example([Cloud(XYZ, 2**32 - 1, 2**32 - 1, b"\1" * 30, 2**32 - 1, 2**32 - 1)], "le")
@example([Cloud(XYZ, 2**32 - 1, 0, b"ab"), Cloud(XYZ, 2**32 - 1, 2**32 - 1, b"", 0, 2**32 - 1)], "be")
@example([Cloud(XYZ, 16, 2, bytes(range(32)), 1, 2**32 - 1)], "ros1")
@given(some_clouds(), st.sampled_from(tuple(WIRES)))
def test_any_cloud_is_decoded_as_by_the_naive_decoder_and_comes_back(clouds: list[Cloud], wire: str) -> None:
    check(clouds, wire)


def velodyne(number: int) -> Cloud:
    """As PCL writes them: 1.0 in the fourth float, room behind the ring."""
    points = [
        struct.pack("<4ffH6x", 1.5 * place, -0.0, math.inf, 1.0, number, place % 16)
        for place in range(number)
    ]
    fields = [*XYZ, ("intensity", 16, 7, 1), ("ring", 20, 4, 1)]
    return Cloud(fields, 28, number, b"".join(points))


def test_what_pcl_leaves_between_fields_is_kept() -> None:
    (part,) = check([velodyne(3), velodyne(0), velodyne(2)])
    assert part.table is not None
    rows = pa.RecordBatch.from_arrays(part.decoded.columns, schema=part.table.schema).to_pylist()
    assert rows[0]["x"] == [0.0, 1.5, 3.0]
    assert [math.copysign(1, value) for value in rows[0]["y"]] == [-1.0] * 3
    assert rows[2]["z"] == [math.inf, math.inf]
    assert (rows[0]["intensity"], rows[0]["ring"], rows[1]["ring"]) == ([3.0] * 3, [0, 1, 2], [])
    assert rows[0][GAPS] == (struct.pack("<f", 1.0) + bytes(6)) * 3
    assert rows[1][GAPS] is None
    assert "data" not in rows[0]
    assert [field["name"] for field in rows[0]["fields"]] == ["x", "y", "z", "intensity", "ring"]


def test_every_bit_of_a_nan_survives() -> None:
    """Signalling and quiet ones, with payloads, in both byte orders and sizes."""
    floats, doubles = (0x7F800001, 0xFFC12345), (0x7FF0000000000001, 0xFFF8DEADBEEF0001)
    for order, is_bigendian in (("<", False), (">", True)):
        data = b"".join(struct.pack(f"{order}IQ", *pair) for pair in zip(floats, doubles, strict=True))
        (part,) = check([Cloud([("f", 0, 7, 1), ("d", 4, 8, 1)], 12, 2, data, is_bigendian=is_bigendian)])
        assert [bits(part.decoded.columns[-3], 7, 1), bits(part.decoded.columns[-2], 8, 1)] == [
            [list(floats)],
            [list(doubles)],
        ]
        assert part.decoded.columns[-1].null_count == 1


def test_rows_of_points_with_room_behind_them() -> None:
    """Organised: 2 rows of 3 points, each row 4 bytes longer than its points."""
    row = struct.pack("<3H", 1, 2, 3) + b"\xaa\xbb\xcc\xdd"
    padded = Cloud([("v", 0, 4, 1)], 2, 3, row + row.replace(b"\1", b"\7"), 2, 10)
    unpadded_end = dataclasses.replace(padded, data=padded.data[:-4])
    (part,) = check([padded, unpadded_end])
    assert part.decoded.columns[-2].to_pylist() == [[1, 2, 3, 7, 2, 3]] * 2
    assert part.decoded.columns[-1].to_pylist() == [b"\xaa\xbb\xcc\xdd" * 2, b"\xaa\xbb\xcc\xdd"]
    check([dataclasses.replace(padded, data=bytes(range(12)), row_step=6), padded])
    zeros = dataclasses.replace(padded, data=row.translate(bytes(0 if b > 9 else b for b in range(256))) * 2)
    (part,) = check([zeros])
    assert part.decoded.columns[-1].to_pylist() == [None]


def test_a_row_step_that_does_not_fit_is_not_believed() -> None:
    data = struct.pack("<6H", *range(6))
    for row_step in (0, 3, 7, 12, 1_000, 2**32 - 1):
        (part,) = check([Cloud([("v", 0, 4, 1)], 2, 3, data, 2, row_step)])
        assert part.decoded.columns[-2].to_pylist() == [list(range(6))]


def test_fields_that_overlap_are_each_decoded() -> None:
    fields = [("rgb", 0, 7, 1), ("rgba", 0, 6, 1), ("b", 0, 2, 1), ("bgra", 0, 2, 4)]
    (part,) = check([Cloud(fields, 4, 1, struct.pack("<I", 0x3F800001))])
    assert [column.to_pylist() for column in part.decoded.columns[-5:]] == [
        [[struct.unpack("<f", struct.pack("<I", 0x3F800001))[0]]],
        [[0x3F800001]],
        [[1]],
        [[[1, 0, 128, 63]]],
        [None],
    ]
    nine = [(f"f{number}", 0, 7, 1) for number in range(9)]
    (part,) = check([Cloud(nine, 4, 1, bytes(4))])
    assert (part.table, part.problem) == (None, "its fields overlap more than 4 times")


def test_names_of_columns() -> None:
    fields = [(name, 0, 2, 1) for name in ("x", "x", "X", "", "", "stamp", "data", "width", "a b.c")]
    table = CloudTable(
        (pa.field("width", pa.uint32()),), tuple((name, kind, count) for name, _, kind, count in fields)
    )
    assert table.point_names == ["x", "x_", "X__", "unnamed", "unnamed_", "stamp_", "data", "width_", "a_b_c"]
    _, (part,), layout = decode([Cloud([("data", 0, 2, 1), ("fields", 1, 2, 0)], 2, 1, b"ab")])
    assert part.table is not None
    assert part.table.point_names == ["data_", "fields_"], "a reader may have both kinds of table before it"
    assert part.table.columns[1] == ("fields", 2, 1), "a count of 0 is 1"
    (text,) = part.table.metadata.values()
    assert CloudTable.from_metadata(layout, text) == part.table


@pytest.mark.parametrize(
    ("cloud", "problem"),
    [
        (Cloud(XYZ, 12, 2, bytes(23)), "data is 23 bytes long, 1 x 2 points of 12 bytes do not fit"),
        (Cloud([], 12, 2, bytes(24)), "it has no fields"),
        (Cloud([("x", 0, 9, 1)], 12, 2, bytes(24)), "field 'x' has the unknown datatype 9"),
        (Cloud([("x", 9, 7, 1)], 12, 2, bytes(24)), "field 'x' ends 13 bytes into a point, point_step is 12"),
        (
            Cloud([("x", 0, 7, 2**32 - 1)], 12, 2, bytes(24)),
            "field 'x' ends 17179869180 bytes into a point, ",
        ),
        (Cloud([("x", 0, 1, 1)] * 1001, 1001, 0, b""), "1001 fields, more than 1000"),
    ],
)
def test_clouds_that_cannot_be_decoded_stay_as_recorded(cloud: Cloud, problem: str) -> None:
    good = Cloud(XYZ, 12, 1, bytes(12))
    decoded, kept = check([cloud, good, cloud])
    assert decoded.decoded.rows.tolist() == [1]
    assert kept.decoded.rows.tolist() == [0, 2]
    assert kept.problem.startswith(problem)


def test_fields_that_change_make_another_table() -> None:
    one = Cloud(XYZ, 12, 1, bytes(range(12)))
    padded = Cloud(XYZ, 16, 1, bytes(range(16)))
    ring = Cloud([*XYZ, ("ring", 12, 2, 1)], 13, 1, bytes(range(13)))
    wide_ring = Cloud([*XYZ, ("ring", 12, 4, 1)], 14, 1, bytes(range(14)))
    parts = check([one, ring, padded, wide_ring, one, ring])
    assert sorted(part.decoded.rows.tolist() for part in parts) == [[0, 2, 4], [1, 5], [3]]
    tables = [part.table for part in parts if part.table is not None]
    hashes = {table.schema_hash("01234567") for table in tables}
    assert len(hashes) == 3
    assert all(len(digits) == 8 for digits in hashes)
    assert hashes.isdisjoint({table.schema_hash("76543210") for table in tables})


def test_the_number_of_tables_has_a_limit() -> None:
    clouds = [Cloud([(f"f{number}", 0, 2, 1)], 1, 1, b"\1") for number in range(MAX_TABLES + 2)]
    _, parts, _ = decode(clouds)
    (kept,) = (part for part in parts if part.table is None)
    assert len(parts) == MAX_TABLES + 1
    assert (kept.problem, len(kept.decoded.rows)) == (f"they have more than {MAX_TABLES} sets of fields", 2)


def test_which_messages_are_clouds() -> None:
    assert is_point_cloud(layout_of("ros1"))
    assert is_point_cloud(layout_of("le"))
    for text in ("uint8[] data", "uint32 width\nuint8[] data"):
        assert not is_point_cloud(resolve_layout(connection(CLOUD, text)))
    assert not is_point_cloud(standard_layout("sensor_msgs/msg/PointCloud", "ros2_jazzy", 2))
