"""Where a drive went: by its GPS fixes, else by its odometry."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ros_to_parquet.report.drive import Drive, Topic, share_of
from ros_to_parquet.report.tables import MOST_NUMBER, TIMES, Tables, is_numeric, leaf, type_at

MOST_POINTS = 2_000

MOST_ROWS = 2_000_000
"""That are read; of more, evenly spread ones."""

SPEED_WINDOW_NS = 500_000_000
"""To each side of a point: its speed is that between the last points within."""

MIN_SPEED_NS = 100_000_000
"""Points that are nearer in time have no speed of their own."""

EARTH_RADIUS_M = 6_371_008.8

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Track:
    """A path over the ground.

    Attributes:
        east_m, north_m: from the first point; of odometry: x and y of its own frame.
        speed_mps: at each point, over the second around it.
        origin: latitude and longitude of the first point; None for odometry.
        length_m: between the points that are kept.
        left_out: fixes that are no place: not finite, outside of the earth, or without a fix by their status.
        share: of the topic's rows, that were read.
    """

    topic: Topic
    east_m: Float64Array
    north_m: Float64Array
    speed_mps: Float64Array
    origin: tuple[float, float] | None
    length_m: float
    left_out: int
    share: float = 1.0


def find_track(tables: Tables, drive: Drive) -> Track | None:
    """The track of the drive's most frequent GPS topic with places, else of its odometry."""
    for type_name, read in (("sensor_msgs/NavSatFix", _gps), ("nav_msgs/Odometry", _odometry)):
        for topic in sorted(drive.of_type(type_name), key=lambda topic: -topic.rows):
            track = read(tables, topic)
            if track is not None:
                return track
    return None


def _gps(tables: Tables, topic: Topic) -> Track | None:
    share, (times, latitude, longitude, status) = _columns(
        tables, topic, [TIMES, "latitude", "longitude", "status.status"]
    )
    finite = np.isfinite(latitude) & np.isfinite(longitude)
    places = finite & (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180) & (status >= 0)
    if np.count_nonzero(places) < 2:
        return None
    latitude, longitude = latitude[places], np.unwrap(longitude[places], period=360.0)
    scale = np.radians(1.0) * EARTH_RADIUS_M
    east = (longitude - longitude[0]) * scale * np.cos(np.radians(latitude[0]))
    north = (latitude - latitude[0]) * scale
    origin = (float(latitude[0]), float((longitude[0] + 180) % 360 - 180))
    left_out = int(np.count_nonzero(~places))
    return replace(_track(topic, times[places], east, north), origin=origin, left_out=left_out, share=share)


def _odometry(tables: Tables, topic: Topic) -> Track | None:
    share, (times, x, y) = _columns(tables, topic, [TIMES, "pose.pose.position.x", "pose.pose.position.y"])
    finite = (np.abs(x) < MOST_NUMBER) & (np.abs(y) < MOST_NUMBER)
    if np.count_nonzero(finite) < 2:
        return None
    left_out = int(np.count_nonzero(~finite))
    return replace(_track(topic, times[finite], x[finite], y[finite]), left_out=left_out, share=share)


def _columns(tables: Tables, topic: Topic, names: list[str]) -> tuple[float, list[Float64Array]]:
    """The part of the rows that was read; every n-th of them in order of time: about `MOST_POINTS`."""
    files = topic.files
    there = sum(files[number].rows for number in tables.chosen(len(files)))
    step = max(min(there, MOST_ROWS) // MOST_POINTS, 1)
    kept: list[list[Float64Array]] = [[] for _ in names]
    seen = 0

    def all_or_none(schema: pa.Schema) -> list[str]:  # of a definition without them there is no track
        return names if all(is_numeric(type_at(schema, name)) for name in names) else []

    for batch in tables.batches(files, all_or_none, most_rows=MOST_ROWS):
        places = np.arange(-seen % step, batch.num_rows, step)
        seen += batch.num_rows
        for values, name in zip(kept, names, strict=True):
            column = leaf(batch, name).to_numpy(zero_copy_only=False)[places]
            values.append((column - topic.first_ns if name == TIMES else column).astype(np.float64))
    columns = [np.concatenate(values) if values else np.empty(0) for values in kept]
    order = np.argsort(columns[0], kind="stable")
    return share_of(seen, topic), [column[order] for column in columns]


def _track(topic: Topic, times_ns: Float64Array, east_m: Float64Array, north_m: Float64Array) -> Track:
    steps_m = np.hypot(np.diff(east_m), np.diff(north_m))
    # Over half a second to each side: fixes that were logged at once would make any speed.
    before = np.searchsorted(times_ns, times_ns - SPEED_WINDOW_NS, side="left")
    after = np.searchsorted(times_ns, times_ns + SPEED_WINDOW_NS, side="right") - 1
    before, after = np.minimum(before, np.maximum(after - 1, 0)), after
    lone = after == before
    seconds = np.where(lone, np.inf, np.maximum(times_ns[after] - times_ns[before], MIN_SPEED_NS)) / 1e9
    speed_mps = np.hypot(east_m[after] - east_m[before], north_m[after] - north_m[before]) / seconds
    return Track(topic, east_m, north_m, speed_mps, None, float(steps_m.sum()), 0)
