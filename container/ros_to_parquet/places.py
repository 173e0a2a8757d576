"""Where a drive was, by its GPS fixes: extents, and a track of few points that says how far it is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ros_to_parquet.report.drive import Drive, Topic
from ros_to_parquet.report.tables import TIMES, is_numeric, leaf, type_at
from ros_to_parquet.storage import Storage, join
from ros_to_parquet.storage.arrow_reading import reading_filesystem

EARTH_RADIUS_M: Final = 6_371_008.8

MOST_FILES: Final = 4_000
"""Files of a topic that are read; of more, that many evenly over the drive."""

MOST_FIXES: Final = 1_000_000
"""Fixes that are taken; of more, every n-th of each file."""

TRACK_POINTS: Final = 512

_THREADS: Final = 16

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a message type has its place: paths of columns; of the status, below 0 is no fix."""

    latitude: str = "latitude"
    longitude: str = "longitude"
    status: str = ""


KINDS: Final[Mapping[str, _Kind]] = {
    "sensor_msgs/NavSatFix": _Kind(status="status.status"),
    "gps_common/GPSFix": _Kind(status="status.status"),
    "gps_msgs/GPSFix": _Kind(status="status.status"),
    "foxglove.LocationFix": _Kind(),
    "foxglove_msgs/LocationFix": _Kind(),
    "geographic_msgs/GeoPointStamped": _Kind("position.latitude", "position.longitude"),
    "geographic_msgs/GeoPoseStamped": _Kind("pose.position.latitude", "pose.position.longitude"),
}
"""By type, the most usual first."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The least and greatest latitude and longitude, in degrees."""

    min_latitude: float
    max_latitude: float
    min_longitude: float
    max_longitude: float


@dataclass(frozen=True, slots=True)
class Fixes:
    """A topic's places in the order of their log times.

    Attributes:
        left_out: fixes that are no place: not finite, outside of the earth, at 0, 0, or without a fix.
        sampled: whether others were not looked at, for there are too many.
    """

    topic: str
    times_ns: Int64Array
    latitude: Float64Array
    longitude: Float64Array
    left_out: int = 0
    sampled: bool = False

    def __len__(self) -> int:
        return len(self.times_ns)

    def extent(self, first_ns: int | None = None, last_ns: int | None = None) -> Extent | None:
        """Of the fixes between two log times, both of them included; None where there is none."""
        begin = 0 if first_ns is None else int(np.searchsorted(self.times_ns, first_ns, side="left"))
        end = len(self) if last_ns is None else int(np.searchsorted(self.times_ns, last_ns, side="right"))
        if begin >= end:
            return None
        latitude, longitude = self.latitude[begin:end], self.longitude[begin:end]
        return Extent(
            float(latitude.min()), float(latitude.max()), float(longitude.min()), float(longitude.max())
        )


@dataclass(frozen=True, slots=True)
class Track:
    """A path of at most `TRACK_POINTS` fixes.

    Attributes:
        error_m: how far the fix that is farthest from it is away.
    """

    times_ns: Int64Array
    latitude: Float64Array
    longitude: Float64Array
    error_m: float

    def between(self, first_ns: int, last_ns: int) -> Track:
        """The part of it that was driven between two log times, and up to the points around them."""
        begin = max(int(np.searchsorted(self.times_ns, first_ns, side="right")) - 1, 0)
        end = int(np.searchsorted(self.times_ns, last_ns, side="left")) + 1
        return Track(
            self.times_ns[begin:end], self.latitude[begin:end], self.longitude[begin:end], self.error_m
        )


def find_fixes(storage: Storage, output: str, drive: Drive) -> Fixes | None:
    """The fixes of the drive's most frequent GPS topic that has a place; None where none has."""
    topics = [topic for name in KINDS for topic in drive.of_type(name)]
    for topic in sorted(topics, key=lambda topic: -topic.rows):
        fixes = _read(storage, output, topic)
        if len(fixes):
            return fixes
    return None


def _read(storage: Storage, output: str, topic: Topic) -> Fixes:
    kind = KINDS[topic.type_name]
    paths = list(topic.paths)
    chosen = paths
    if len(paths) > MOST_FILES:
        chosen = [paths[place] for place in np.linspace(0, len(paths) - 1, MOST_FILES).astype(int)]
    step = max(1, -(-topic.rows * len(chosen) // (len(paths) * MOST_FIXES)))
    filesystem = reading_filesystem(storage)

    def read(path: str) -> tuple[Int64Array, list[Float64Array]]:
        names = [kind.latitude, kind.longitude, *([kind.status] if kind.status else [])]
        with pq.ParquetFile(join(output, path), filesystem=filesystem) as file:
            if not all(is_numeric(type_at(file.schema_arrow, name)) for name in (TIMES, *names)):
                return np.empty(0, np.int64), [np.empty(0)] * len(names)
            batch = file.read(columns=[TIMES, *names]).combine_chunks().to_batches()
        if not batch:
            return np.empty(0, np.int64), [np.empty(0)] * len(names)
        values = [leaf(batch[0], name).to_numpy(zero_copy_only=False) for name in (TIMES, *names)]
        return values[0][::step].astype(np.int64), [each[::step].astype(np.float64) for each in values[1:]]

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="places") as pool:
        parts = list(pool.map(read, chosen))
    times = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.int64)
    columns = [np.concatenate(each) for each in zip(*(part[1] for part in parts), strict=True)]
    if not len(times):
        return Fixes(topic.name, times, np.empty(0), np.empty(0))
    latitude, longitude = columns[0], columns[1]
    places = _are_places(latitude, longitude, columns[2] if kind.status else None)
    order = np.argsort(times[places], kind="stable")
    return Fixes(
        topic.name,
        times[places][order],
        latitude[places][order],
        _turned(longitude[places][order]),
        left_out=int(np.count_nonzero(~places)),
        sampled=step > 1 or len(chosen) < len(paths) or len(topic.parts) < len(topic.spans),
    )


def _are_places(
    latitude: Float64Array, longitude: Float64Array, status: Float64Array | None
) -> npt.NDArray[np.bool_]:
    """Which fixes are places. Receivers without one say so, or NaN, or 0, 0."""
    places = np.isfinite(latitude) & np.isfinite(longitude)
    places &= (np.abs(latitude) <= 90) & (np.abs(longitude) <= 360)
    places &= (latitude != 0) | (longitude != 0)
    return places if status is None else places & (status >= 0)


# --- tracks ------------------------------------------------------------------------------------------


def make_track(fixes: Fixes, points: int = TRACK_POINTS) -> Track:
    """Fixes at about even distances along the way, the first and the last among them."""
    steps = _distance_m(fixes.latitude[:-1], fixes.longitude[:-1], fixes.latitude[1:], fixes.longitude[1:])
    way = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, float(way[-1]), min(points, len(fixes)))
    kept = np.unique(np.concatenate([[0], np.searchsorted(way, wanted), [len(fixes) - 1]]))
    kept = kept[kept < len(fixes)]
    segment = np.clip(np.searchsorted(kept, np.arange(len(fixes)), side="right") - 1, 0, len(kept) - 1)
    begin, end = kept[segment], kept[np.minimum(segment + 1, len(kept) - 1)]
    off = _segment_m(
        fixes.latitude,
        fixes.longitude,
        fixes.latitude[begin],
        fixes.longitude[begin],
        fixes.latitude[end],
        fixes.longitude[end],
    )
    return Track(fixes.times_ns[kept], fixes.latitude[kept], fixes.longitude[kept], float(np.ceil(off.max())))


def nearest_m(track: Track, latitude: float, longitude: float) -> float:
    """How near a track comes to a place, in metres; no fix that it stands for is nearer."""
    begin, end = slice(0, max(len(track.times_ns) - 1, 1)), slice(min(len(track.times_ns) - 1, 1), None)
    count = len(track.times_ns[begin])
    off = _segment_m(
        np.full(count, latitude),
        np.full(count, longitude),
        track.latitude[begin],
        track.longitude[begin],
        track.latitude[end],
        track.longitude[end],
    )
    return max(float(off.min()) - track.error_m, 0.0)


def _distance_m(
    latitude: Float64Array, longitude: Float64Array, to_latitude: Float64Array, to_longitude: Float64Array
) -> Float64Array:
    """Over the sphere (haversine)."""
    first, second = np.radians(latitude), np.radians(to_latitude)
    half = np.sin((second - first) / 2) ** 2
    half += np.cos(first) * np.cos(second) * np.sin(np.radians(to_longitude - longitude) / 2) ** 2
    distance: Float64Array = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
    return distance


def _segment_m(
    latitude: Float64Array,
    longitude: Float64Array,
    from_latitude: Float64Array,
    from_longitude: Float64Array,
    to_latitude: Float64Array,
    to_longitude: Float64Array,
) -> Float64Array:
    """From places to the nearest points of segments, found on planes that touch the earth at the places."""
    shrink = np.cos(np.radians(latitude))
    north, to_north = from_latitude - latitude, to_latitude - from_latitude
    east, to_east = (_turned(from_longitude - longitude), _turned(to_longitude - from_longitude))
    length = (to_east * shrink) ** 2 + to_north**2
    share = -(east * to_east * shrink**2 + north * to_north) / np.where(length > 0, length, 1.0)
    share = np.clip(share, 0.0, 1.0)
    nearest = from_latitude + share * to_north, from_longitude + share * to_east
    return _distance_m(latitude, longitude, *nearest)


def _turned(degrees: Float64Array) -> Float64Array:
    """The same angles from -180 up to 180."""
    return (degrees + 180.0) % 360.0 - 180.0


def extents_of(fixes: Fixes | None, spans: Sequence[tuple[int | None, int | None]]) -> list[Extent | None]:
    """The extent of the fixes within each span of log times; None where it has no times, or no fix."""
    return [
        fixes.extent(first, last) if fixes and first is not None and last is not None else None
        for first, last in spans
    ]
