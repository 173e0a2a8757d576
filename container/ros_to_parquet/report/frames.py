"""Frames of a drive's cameras, evenly spread over its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ros_to_parquet.contract import FILES_FOLDER
from ros_to_parquet.memory import DEFAULT_LIMIT_BYTES
from ros_to_parquet.report.drive import Drive, Topic
from ros_to_parquet.report.pictures import PictureError, opened_picture, picture_of, small_jpeg
from ros_to_parquet.report.tables import Tables, spread

if TYPE_CHECKING:
    from PIL import Image

FRAMES_A_CAMERA = 8
MOST_FRAMES = 64
MOST_CAMERAS = 16
WIDTH = 320
"""Of a small picture, pixels."""

ENOUGH = 2 * WIDTH
"""Pixels to the longer side that are looked at, or up to twice as many."""

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


def find_frames(tables: Tables, drive: Drive, *, memory_bytes: int = DEFAULT_LIMIT_BYTES) -> ContactSheet:
    """Some frames of each camera. Each row group that has one is read, one at a time."""
    topics = sorted(drive.of_type(*_TYPES), key=lambda topic: topic.name)
    shown = topics[:MOST_CAMERAS]
    count = min(FRAMES_A_CAMERA, max(2, MOST_FRAMES // max(len(shown), 1)))
    cameras = tuple(_camera(tables, drive.drive_id, topic, count, memory_bytes) for topic in shown)
    return ContactSheet(cameras, tuple(topics[MOST_CAMERAS:]))


def _camera(tables: Tables, drive_id: str, topic: Topic, count: int, memory_bytes: int) -> Camera:
    frames = []
    files = topic.files
    for row in tables.rows_at(files, spread(sum(file.rows for file in files), count), _COLUMNS):
        try:
            jpeg, size = small_jpeg(_picture(tables, drive_id, row, memory_bytes), WIDTH)
            frames.append(Frame(row["log_time_ns"], jpeg, size))
        except PictureError as error:
            frames.append(Frame(row["log_time_ns"], b"", (0, 0), str(error)))
    return Camera(topic, tuple(frames))


def _picture(tables: Tables, drive_id: str, row: Mapping[str, Any], memory_bytes: int) -> Image.Image:
    """The row's picture, wherever a rule for images has put it."""
    if "image" in row:
        return opened_picture(row["image"], enough=ENOUGH, memory_bytes=memory_bytes)
    if "image_path" in row:
        file = _file(tables, drive_id, row["image_path"])
        return opened_picture(file, enough=ENOUGH, memory_bytes=memory_bytes)
    if "data" not in row and "video_path" in row:
        raise PictureError(f"it is in a video alone: {row['video_path']}")
    return picture_of(row, enough=ENOUGH, memory_bytes=memory_bytes)


def _file(tables: Tables, drive_id: str, path: object) -> bytes:
    """A file beside the drive's tables; a bag can define an ``image_path`` of its own, that says anything."""
    folders = path.split("/") if isinstance(path, str) else []
    own = len(folders) == 5 and (folders[0], folders[2]) == (FILES_FOLDER, f"drive_id={drive_id}")
    if not own or ".." in folders:
        raise PictureError("its image_path is no file of the drive")
    try:
        return tables.read("/".join(folders))
    except FileNotFoundError as error:
        raise PictureError("its file is not there") from error
