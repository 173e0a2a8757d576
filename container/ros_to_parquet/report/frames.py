"""Frames of a drive's cameras, evenly spread over its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ros_to_parquet.report.drive import Drive, Topic
from ros_to_parquet.report.pictures import PictureError, opened_picture, picture_of, small_jpeg
from ros_to_parquet.report.tables import Tables

if TYPE_CHECKING:
    from PIL import Image

FRAMES_A_CAMERA = 8
MOST_FRAMES = 64
MOST_CAMERAS = 16
WIDTH = 320
"""Of a small picture, pixels."""

_COLUMNS = (
    *("log_time_ns", "data", "format", "encoding", "width", "height", "step", "is_bigendian"),
    *("image", "image_path", "video_path"),
)
_TYPES = ("sensor_msgs/CompressedImage", "sensor_msgs/Image")


@dataclass(frozen=True, slots=True)
class Frame:
    """A small picture (JPEG), or why there is none. ``size`` is the small one's."""

    log_time_ns: int
    jpeg: bytes
    size: tuple[int, int]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Camera:
    topic: Topic
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """``left_out``: cameras that are not shown."""

    cameras: tuple[Camera, ...]
    left_out: tuple[Topic, ...]


def find_frames(tables: Tables, drive: Drive) -> ContactSheet:
    """Some frames of each camera. Each row group that has one is read, one at a time."""
    topics = sorted(drive.of_type(*_TYPES), key=lambda topic: topic.name)
    shown = topics[:MOST_CAMERAS]
    count = min(FRAMES_A_CAMERA, max(2, MOST_FRAMES // max(len(shown), 1)))
    return ContactSheet(tuple(_camera(tables, topic, count) for topic in shown), tuple(topics[MOST_CAMERAS:]))


def _camera(tables: Tables, topic: Topic, count: int) -> Camera:
    frames = []
    for row in tables.rows_at(topic.paths, spread(topic.rows, count), _COLUMNS):
        try:
            jpeg, size = small_jpeg(_picture(tables, row), WIDTH)
            frames.append(Frame(row["log_time_ns"], jpeg, size))
        except PictureError as error:
            frames.append(Frame(row["log_time_ns"], b"", (0, 0), str(error)))
    return Camera(topic, tuple(frames))


def _picture(tables: Tables, row: Mapping[str, Any]) -> Image.Image:
    """The row's picture, wherever a rule for images has put it."""
    if "image" in row:
        return opened_picture(row["image"])
    if "image_path" in row:
        return opened_picture(tables.read(row["image_path"]))
    if "data" not in row and "video_path" in row:
        raise PictureError(f"it is in a video alone: {row['video_path']}")
    return picture_of(row)


def spread(rows: int, count: int) -> Sequence[int]:
    """Numbers of ``count`` rows, the middle of as many equal parts.

    >>> spread(100, 4), spread(2, 4)
    ([12, 37, 62, 87], [0, 1])
    """
    return sorted({int((place + 0.5) * rows / count) for place in range(count)}) if rows else []
