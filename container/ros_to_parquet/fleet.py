"""The fleet tables: what all drives of a lake are searched by, one small Parquet file a drive and table.

They follow from the manifests and the GPS fixes alone, so that they can be written again at any time; no two
drives share a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet import contract, lake
from ros_to_parquet.contract import FLEET_TABLES, DriveManifest, DriveState, Plan
from ros_to_parquet.log import event
from ros_to_parquet.parquet_options import read_as
from ros_to_parquet.places import Extent, Fixes, Track, extents_of, find_fixes, make_track, nearest_m
from ros_to_parquet.report.drive import Drive, Shard, describe_drive
from ros_to_parquet.storage import AccessDeniedError, NotFoundError, Storage, join

_THREADS: Final = 16

_TIME: Final = pa.timestamp("us", tz="UTC")
_SPAN: Final = (
    ("first_log_time", _TIME),
    ("last_log_time", _TIME),
    ("first_log_time_ns", pa.int64()),
    ("last_log_time_ns", pa.int64()),
)
_EXTENT: Final = tuple(
    (name, pa.float64()) for name in ("min_latitude", "max_latitude", "min_longitude", "max_longitude")
)
_POINT: Final = pa.struct(
    [("log_time_ns", pa.int64()), ("latitude", pa.float64()), ("longitude", pa.float64())]
)

SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "drives": pa.schema(
        [
            ("drive_id", pa.string()),
            ("state", pa.string()),
            *_SPAN,
            ("duration_s", pa.float64()),
            *_EXTENT,
            ("gps_topic", pa.string()),
            ("gps_fixes", pa.int64()),
            ("gps_sampled", pa.bool_()),
            ("track", pa.list_(pa.field("element", _POINT))),
            ("track_error_m", pa.float64()),
            ("bags", pa.int64()),
            ("damaged_bags", pa.int64()),
            ("unreadable_bags", pa.int64()),
            ("unverified_bags", pa.int64()),
            ("topics", pa.int64()),
            ("messages", pa.int64()),
            ("rows", pa.int64()),
            ("rejected", pa.int64()),
            ("bytes_read", pa.int64()),
            ("bytes_written", pa.int64()),
            ("shards", pa.int64()),
            ("shard_seconds", pa.float64()),
            ("finished_at", _TIME),
            ("dag_id", pa.string()),
            ("run_id", pa.string()),
            ("plan_id", pa.string()),
            ("source", pa.string()),
            ("output", pa.string()),
            ("engine_version", pa.string()),
            ("problems", pa.list_(pa.field("element", pa.string()))),
        ]
    ),
    "bags": pa.schema(
        [
            ("drive_id", pa.string()),
            ("bag", pa.string()),
            ("uri", pa.string()),
            ("status", pa.string()),
            *_SPAN,
            *_EXTENT,
            ("size_bytes", pa.int64()),
            ("messages", pa.int64()),
            ("extracted", pa.int64()),
            ("verified", pa.bool_()),
            ("damage", pa.list_(pa.field("element", pa.string()))),
        ]
    ),
    "topics": pa.schema(
        [
            ("drive_id", pa.string()),
            ("topic", pa.string()),
            ("type", pa.string()),
            ("table", pa.string()),
            ("schemas", pa.list_(pa.field("element", pa.string()))),
            *_SPAN,
            *_EXTENT,
            ("messages", pa.int64()),
            ("rows", pa.int64()),
            ("rejected", pa.int64()),
            ("rate_hz", pa.float64()),
            ("bytes_in", pa.int64()),
            ("bytes_written", pa.int64()),
        ]
    ),
}
"""Times are log times; latitudes and longitudes are of the drive's fixes in that time, in degrees."""

_MADE_FROM: Final = b"ros_to_parquet.made_from"
"""Metadata of a file: a hash of the names of the manifests that it follows from."""


def write_fleet(storage: Storage, output: str, drive_id: str) -> list[str]:
    """Writes a drive's rows of the fleet tables; removes those of a drive that has no manifest any more.

    Returns the paths that it wrote, relative to ``output``.

    Raises:
        StorageError: the lake cannot be read or written.
    """

    def write(record: lake.DriveRecord) -> list[str]:
        drive = describe_drive(record)
        if not drive.shards:
            for table in FLEET_TABLES:
                storage.delete(join(output, contract.fleet_key(table, drive_id)))
            return []
        written = []
        for table, rows in _rows(storage, output, record, drive).items():
            written.append(contract.fleet_key(table, drive_id))
            storage.write(join(output, written[-1]), _parquet(table, rows, made_from(record)))
        return written

    return lake.derive(storage, output, drive_id, write)


def made_from(record: lake.DriveRecord) -> str:
    """Changes whenever the drive's manifests do."""
    names = [f"{each.plan_id}/{each.shard}" for each in record.manifests]
    names += [f"{each.plan_id}/drive" for each in record.commits]
    return contract.sha256("\n".join(sorted(names)).encode())[:16]


def _parquet(table: str, rows: Sequence[Mapping[str, Any]], made_from: str) -> bytes:
    schema = SCHEMAS[table].with_metadata({_MADE_FROM: made_from.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue())


def _rows(
    storage: Storage, output: str, record: lake.DriveRecord, drive: Drive
) -> dict[str, list[dict[str, Any]]]:
    fixes = find_fixes(storage, output, drive)
    last = max(drive.shards, key=lambda shard: (shard.finished_at, shard.plan_id))
    plans = {plan.plan_id: plan for plan in _plans(storage, output, drive)}
    uris = {bag.name: bag.uri for plan_id in drive.plans if plan_id in plans for bag in plans[plan_id].bags}
    commit = next((each for each in record.commits if each.plan_id == last.plan_id), None)
    topics = [each for each in drive.topics if each.messages]
    spans = [(each.first_ns, each.last_ns) for each in topics]
    times = [(each.first_ns, each.last_ns) for each in drive.bags]
    return {
        "drives": [_drive_row(output, drive, fixes, last, plans.get(last.plan_id), commit)],
        "bags": [
            {
                "drive_id": drive.drive_id,
                "bag": bag.name,
                "uri": uris.get(bag.name),
                "status": str(bag.status),
                **_span(*span),
                **_extent(extent),
                "size_bytes": bag.size_bytes,
                "messages": bag.messages,
                "extracted": bag.extracted,
                "verified": bag.verified,
                "damage": list(bag.damage[: contract.MAX_REASONS]),
            }
            for bag, span, extent in zip(drive.bags, times, extents_of(fixes, times), strict=True)
        ],
        "topics": [
            {
                "drive_id": drive.drive_id,
                "topic": topic.name,
                "type": topic.type_name,
                "table": topic.table,
                "schemas": list(topic.schemas),
                **_span(topic.first_ns, topic.last_ns),
                **_extent(extent),
                "messages": topic.messages,
                "rows": topic.rows,
                "rejected": topic.rejected,
                "rate_hz": topic.rate_hz,
                "bytes_in": topic.bytes_in,
                "bytes_written": topic.bytes_out,
            }
            for topic, extent in zip(topics, extents_of(fixes, spans), strict=True)
        ],
    }


def _drive_row(
    output: str,
    drive: Drive,
    fixes: Fixes | None,
    last: Shard,
    plan: Plan | None,
    commit: DriveManifest | None,
) -> dict[str, Any]:
    """``last`` is the shard that ended last, ``plan`` and ``commit`` are of its plan."""
    said = bool(drive.messages)
    first_ns, last_ns = (drive.first_ns, drive.last_ns) if said else (None, None)
    track = make_track(fixes) if fixes else None
    run = commit.run if commit else plan.run if plan else None
    statuses = [bag.status for bag in drive.bags]
    return {
        "drive_id": drive.drive_id,
        "state": str(drive.state or DriveState.PARTIAL),
        **_span(first_ns, last_ns),
        "duration_s": (drive.last_ns - drive.first_ns) / 1e9 if said else None,
        **_extent(fixes.extent() if fixes else None),
        "gps_topic": fixes.topic if fixes else None,
        "gps_fixes": len(fixes) if fixes else 0,
        "gps_sampled": fixes.sampled if fixes else False,
        "track": _points(track) if track else None,
        "track_error_m": track.error_m if track else None,
        "bags": len(drive.bags),
        "damaged_bags": statuses.count(contract.BagStatus.DAMAGED),
        "unreadable_bags": statuses.count(contract.BagStatus.UNREADABLE),
        "unverified_bags": sum(bag.verified is None for bag in drive.bags),
        "topics": sum(bool(topic.messages) for topic in drive.topics),
        "messages": drive.messages,
        "rows": drive.rows,
        "rejected": drive.rejected,
        "bytes_read": sum(shard.bytes_read for shard in drive.shards),
        "bytes_written": sum(shard.bytes_written for shard in drive.shards),
        "shards": len(drive.shards),
        "shard_seconds": sum(shard.seconds for shard in drive.shards),
        "finished_at": _moment(last.finished_at),
        "dag_id": run.dag_id if run else None,
        "run_id": run.run_id if run else None,
        "plan_id": last.plan_id,
        "source": plan.source if plan else None,
        "output": output,
        "engine_version": last.engine_version,
        "problems": list(drive.problems[: contract.MAX_REASONS]),
    }


def _plans(storage: Storage, output: str, drive: Drive) -> Iterator[Plan]:
    for plan_id in drive.plans:
        uri = join(output, contract.plan_key(drive.drive_id, plan_id))
        try:
            yield contract.from_json(Plan, storage.read(uri), where=uri)
        except (NotFoundError, AccessDeniedError) as error:  # somebody tidied up; rows lack its URIs
            event("plan_unknown", drive_id=drive.drive_id, reason=str(error))


def _span(first_ns: int | None, last_ns: int | None) -> dict[str, int | None]:
    return {
        "first_log_time": None if first_ns is None else first_ns // 1000,
        "last_log_time": None if last_ns is None else last_ns // 1000,
        "first_log_time_ns": first_ns,
        "last_log_time_ns": last_ns,
    }


def _extent(extent: Extent | None) -> dict[str, float | None]:
    return {name: getattr(extent, name) if extent else None for name, _ in _EXTENT}


def _points(track: Track) -> list[dict[str, float]]:
    columns = (track.times_ns.tolist(), track.latitude.tolist(), track.longitude.tolist())
    return [dict(zip(_POINT.names, point, strict=True)) for point in zip(*columns, strict=True)]


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# --- for all drives ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Updated:
    """Ids of drives, by what was done for them.

    Attributes:
        left: why drives that lack manifests are left as they were.
    """

    written: tuple[str, ...]
    removed: tuple[str, ...]
    left: tuple[str, ...] = ()


def missing(storage: Storage, output: str) -> list[str]:
    """Ids of the drives that have manifests and no rows of the fleet tables."""
    return sorted(_drives(storage, output) - _listed(storage, output))


def update_fleet(storage: Storage, output: str, *, all_drives: bool = False) -> Updated:
    """Writes the rows of drives whose manifests have changed, or of all; removes those of drives gone."""
    there = _drives(storage, output)
    listed = _listed(storage, output)

    def is_stale(drive_id: str) -> bool:
        if all_drives or drive_id not in listed:
            return True
        record = lake.read_drive(storage, output, drive_id)
        return _read_made_from(storage, output, drive_id) != made_from(record)

    left: list[str] = []

    def write(drive_id: str) -> str:
        try:
            return drive_id if is_stale(drive_id) and write_fleet(storage, output, drive_id) else ""
        except lake.LackingError as error:
            left.append(str(error))
            return ""

    with ThreadPoolExecutor(4, thread_name_prefix="fleet") as pool:
        written = tuple(filter(None, pool.map(write, sorted(there))))
        gone = sorted(_listed(storage, output) - _drives(storage, output))
        list(pool.map(lambda drive_id: write_fleet(storage, output, drive_id), gone))
    return Updated(written, tuple(gone), tuple(sorted(left)))


def _drives(storage: Storage, output: str) -> set[str]:
    return {name.removeprefix("drive_id=") for name in storage.folders(join(output, "_manifests"))}


def _listed(storage: Storage, output: str) -> set[str]:
    """Drives that have rows in every fleet table."""
    there = [
        {info.uri.rpartition("/")[2].removesuffix(".parquet") for info in storage.objects(folder)}
        for folder in (join(output, f"{contract.FLEET_FOLDER}/{table}") for table in FLEET_TABLES)
    ]
    return set.intersection(*there)


def _read_made_from(storage: Storage, output: str, drive_id: str) -> str:
    """Of the table that is written last."""
    try:
        data = storage.read(join(output, contract.fleet_key(FLEET_TABLES[-1], drive_id)))
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    except (NotFoundError, pa.ArrowInvalid):
        return ""
    return str(metadata.get(_MADE_FROM, b"").decode())


def read_fleet(storage: Storage, output: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All drives' rows of a fleet table, by drive; all columns, or some."""
    wanted = pa.schema([each for each in SCHEMAS[table] if columns is None or each.name in columns])
    folder = join(output, f"{contract.FLEET_FOLDER}/{table}")
    uris = sorted(info.uri for info in storage.objects(folder) if info.uri.endswith(".parquet"))

    def read(uri: str) -> bytes | None:
        try:
            return storage.read(uri)
        except NotFoundError:  # its drive has gone meanwhile
            return None

    tables = [wanted.empty_table()]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fleet") as pool:
        for data in pool.map(read, uris):
            if data is not None:
                file = pq.ParquetFile(pa.BufferReader(data))
                there = file.schema_arrow.names
                found = file.read([name for name in wanted.names if name in there], use_threads=False)
                tables.append(found if found.schema.equals(wanted) else read_as(found, wanted))
    return pa.concat_tables(tables)


# --- search ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Within ``radius_km`` of a latitude and longitude, in degrees."""

    latitude: float
    longitude: float
    radius_km: float

    def __post_init__(self) -> None:
        numbers = (self.latitude, self.longitude, self.radius_km)
        if not all(map(math.isfinite, numbers)) or abs(self.latitude) > 90 or abs(self.longitude) > 180:
            raise ValueError("latitude is from -90 to 90, longitude from -180 to 180, in degrees")
        if self.radius_km < 0:
            raise ValueError("a distance is not less than 0")


@dataclass(frozen=True, slots=True)
class Query:
    """What drives are asked for: all of it has to be so. Times are log times, in nanoseconds.

    Attributes:
        topics: shell globs (`contract.topic_matches`); a drive has a row of a topic of one of them.
        near: the drive was there while it recorded such a topic.
        since_ns: such a topic has a message at that time or later; ``until_ns``: before.
    """

    topics: tuple[str, ...] = ("*",)
    near: Place | None = None
    since_ns: int | None = None
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A drive that was asked for.

    Attributes:
        topics: those that fit, with their rows.
        first_ns, last_ns: log times of these.
        distance_km: how near it came to the place that was asked for; 0 within its track's error.
    """

    drive_id: str
    state: str
    topics: tuple[tuple[str, int], ...]
    first_ns: int
    last_ns: int
    distance_km: float | None
    run_id: str | None
    problems: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "drive_id": self.drive_id,
            "state": self.state,
            "topics": dict(self.topics),
            "first_log_time_ns": self.first_ns,
            "last_log_time_ns": self.last_ns,
            "distance_km": self.distance_km,
            "run_id": self.run_id,
            "problems": self.problems,
        }


SEARCHED: Final[Mapping[str, tuple[str, ...]]] = {
    "drives": ("drive_id", "state", "track", "track_error_m", "run_id", "problems"),
    "topics": ("drive_id", "topic", "rows", "first_log_time_ns", "last_log_time_ns"),
}
"""The columns that `find_drives` looks at."""


def find_drives(drives: pa.Table, topics: pa.Table, query: Query) -> list[Found]:
    """The drives of the fleet tables ``drives`` and ``topics`` that a query asks for, oldest first."""
    fitting: dict[str, list[dict[str, Any]]] = {}
    for row in topics.select(SEARCHED["topics"]).to_pylist():
        if (
            row["rows"]
            and (query.since_ns is None or row["last_log_time_ns"] >= query.since_ns)
            and (query.until_ns is None or row["first_log_time_ns"] < query.until_ns)
            and contract.topic_matches(row["topic"], query.topics)
        ):
            fitting.setdefault(row["drive_id"], []).append(row)
    found = []
    tracks = _tracks(drives) if query.near else ()
    for number, drive in enumerate(drives.select(["drive_id", "state", "run_id", "problems"]).to_pylist()):
        rows = fitting.get(drive["drive_id"], [])
        distance_km = None
        if rows and query.near:
            rows, distance_km = _near(tracks[number], rows, query.near, query)
        if rows:
            found.append(
                Found(
                    drive_id=drive["drive_id"],
                    state=drive["state"],
                    topics=tuple(sorted((row["topic"], row["rows"]) for row in rows)),
                    first_ns=min(row["first_log_time_ns"] for row in rows),
                    last_ns=max(row["last_log_time_ns"] for row in rows),
                    distance_km=distance_km,
                    run_id=drive["run_id"],
                    problems=len(drive["problems"] or ()),
                )
            )
    return sorted(found, key=lambda each: (each.first_ns, each.drive_id))


def _tracks(drives: pa.Table) -> list[Track]:
    """Of each drive, its track; one without a point where it has none."""
    errors = drives.column("track_error_m").fill_null(0.0).to_pylist()
    column = drives.column("track").combine_chunks()
    points = column.flatten()
    times, latitude, longitude = (points.field(name).to_numpy() for name in _POINT.names)
    lengths = column.value_lengths().fill_null(0).to_numpy()
    ends = np.cumsum(lengths)
    return [
        Track(times[begin:end], latitude[begin:end], longitude[begin:end], error)
        for begin, end, error in zip(ends - lengths, ends, errors, strict=True)
    ]


def _near(
    track: Track, rows: list[dict[str, Any]], near: Place, query: Query
) -> tuple[list[dict[str, Any]], float | None]:
    """The topics that were recorded near a place, in the time that is asked for; how near, in kilometres."""
    if not len(track.times_ns):
        return [], None
    kept = []
    nearest = math.inf
    known: dict[tuple[int, int], float] = {}
    for row in rows:
        first_ns, last_ns = row["first_log_time_ns"], row["last_log_time_ns"]
        span = (
            first_ns if query.since_ns is None else max(first_ns, query.since_ns),
            last_ns if query.until_ns is None else min(last_ns, query.until_ns - 1),
        )
        if span not in known:
            known[span] = nearest_m(track.between(*span), near.latitude, near.longitude) / 1000
        if known[span] <= near.radius_km:
            kept.append(row)
            nearest = min(nearest, known[span])
    return kept, round(nearest, 3) if kept else None
