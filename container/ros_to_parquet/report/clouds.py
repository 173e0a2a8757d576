"""Lidar frames from above."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ros_to_parquet.report.drive import Drive, Topic
from ros_to_parquet.report.tables import Tables

SIDE = 280
"""Of the picture, pixels."""

MOST_LIDARS = 6

MOST_POINTS = 1_000_000
"""Of a cloud, that are looked at; of more, every n-th."""

_COLUMNS = (
    *("log_time_ns", "x", "y", "z", "data"),
    *("fields", "width", "height", "point_step", "row_step", "is_bigendian"),
)
# sensor_msgs/PointField's numbers of types.
_DATATYPES: Mapping[int, str] = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CloudView:
    """A cloud from above: x to the top, y to the left, as ROS has them.

    Attributes:
        png: transparent where no point is; the brighter, the higher the highest point there.
        reach_m: from the middle, where the sensor is, to each edge.
        points: that are finite, of those that were looked at.
        not_finite: that are not.
        all_points: that the cloud has; of more than `MOST_POINTS` evenly spread ones are looked at.
        height_m: the least and the most that colours stand for.
        problem: why there is no picture.
    """

    topic: Topic
    log_time_ns: int
    png: bytes
    reach_m: float
    points: int
    not_finite: int
    height_m: tuple[float, float]
    problem: str = ""
    all_points: int = 0


def find_clouds(tables: Tables, drive: Drive) -> list[CloudView]:
    """The middle cloud of each lidar."""
    topics = sorted(drive.of_type("sensor_msgs/PointCloud2"), key=lambda topic: -topic.rows)
    return [
        _view(topic, row)
        for topic in topics[:MOST_LIDARS]
        for row in tables.rows_at(topic.files, [sum(file.rows for file in topic.files) // 2], _COLUMNS)
    ]


def _view(topic: Topic, row: Mapping[str, Any]) -> CloudView:
    try:
        count_of_all, (x, y, z) = _sample(row)
    except ValueError as error:
        return CloudView(topic, row["log_time_ns"], b"", 0.0, 0, 0, (0.0, 0.0), str(error))
    finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    count = int(np.count_nonzero(finite))
    not_finite = len(x) - count
    if not count:
        return CloudView(topic, row["log_time_ns"], b"", 0.0, 0, not_finite, (0.0, 0.0), "it has no points")
    x, y, z = x[finite], y[finite], z[finite]
    reach = max(float(np.percentile(np.maximum(np.abs(x), np.abs(y)), 95)), 1e-3)
    low, high = (float(value) for value in np.percentile(z, (2, 98)))
    inside = (np.abs(x) < reach) & (np.abs(y) < reach)
    # What is nearer to the edge than numbers can tell is rounded to it.
    rows, columns = (
        np.minimum((1 - each[inside] / reach) * SIDE / 2, SIDE - 1).astype(np.int64) for each in (x, y)
    )
    tops = np.full((SIDE, SIDE), -np.inf)
    np.maximum.at(tops, (rows, columns), z[inside])
    return CloudView(
        *(topic, row["log_time_ns"], _coloured(tops, low, high), reach, count, not_finite, (low, high)),
        all_points=count_of_all,
    )


def _coloured(tops: Float64Array, low: float, high: float) -> bytes:
    from matplotlib import colormaps

    there = np.isfinite(tops)
    share = np.where(there, np.clip((tops - low) / max(high - low, 1e-9), 0, 1), 0)
    pixels = (colormaps["viridis"](share * 0.9 + 0.1) * 255).astype(np.uint8)
    pixels[..., 3] = np.where(there, 255, 0)
    out = io.BytesIO()
    Image.fromarray(pixels).quantize(64, method=Image.Quantize.FASTOCTREE).save(out, "PNG", optimize=True)
    return out.getvalue()


def points_of(row: Mapping[str, Any]) -> tuple[Float64Array, Float64Array, Float64Array]:
    """x, y and z of a row of a table of clouds, as recorded or decoded; of `MOST_POINTS` or fewer.

    Raises:
        ValueError: it has no such fields, or too few bytes.
    """
    _, (x, y, z) = _sample(row)
    return x, y, z


def _sample(row: Mapping[str, Any]) -> tuple[int, list[Float64Array]]:
    try:
        return _decoded(row) if row.get("data") is None else _recorded(row)
    except (KeyError, TypeError, OverflowError) as error:  # a bag can define its own sensor_msgs/PointCloud2
        raise ValueError(f"its definition is not that of a cloud: {error!r}") from error


def _decoded(row: Mapping[str, Any]) -> tuple[int, list[Float64Array]]:
    found = [np.asarray(row[name]) for name in ("x", "y", "z")]
    if {each.shape for each in found} != {(found[0].size,)}:
        raise ValueError("its x, y and z are not one number a point each")
    every = -(-found[0].size // MOST_POINTS) or 1
    return found[0].size, [each[::every].astype(np.float64) for each in found]


def _recorded(row: Mapping[str, Any]) -> tuple[int, list[Float64Array]]:
    fields = {field["name"]: field for field in row["fields"]}
    if missing := [name for name in ("x", "y", "z") if name not in fields]:
        raise ValueError(f"its points have no field {missing[0]}")
    width, height, point_step = (int(row[name]) for name in ("width", "height", "point_step"))
    row_step = int(row["row_step"]) or width * point_step
    data = np.frombuffer(row["data"], dtype=np.uint8)
    if not point_step or row_step < width * point_step or len(data) < height * row_step:
        raise ValueError(f"its {len(data)} bytes are not {height} rows of {width} points")
    points = data[: height * row_step].reshape(height, row_step)[:, : width * point_step]
    every = -(-height * width // MOST_POINTS) or 1
    points = points.reshape(height * width, point_step)[::every]
    order = ">" if row["is_bigendian"] else "<"
    found = []
    for name in ("x", "y", "z"):
        field = fields[name]
        if field["datatype"] not in _DATATYPES:
            raise ValueError(f"field {name} is of the unknown datatype {field['datatype']}")
        kind = np.dtype(order + _DATATYPES[field["datatype"]])
        offset = int(field["offset"])
        if offset < 0 or offset + kind.itemsize > point_step:
            raise ValueError(f"field {name} lies beyond the end of a point")
        cells = np.ascontiguousarray(points[:, offset : offset + kind.itemsize])
        found.append(cells.view(kind)[:, 0].astype(np.float64))
    return height * width, found
