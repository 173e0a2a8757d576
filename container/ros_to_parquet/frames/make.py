"""Makes a frames table of a drive in a lake."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.fs as fs

from ros_to_parquet import contract
from ros_to_parquet.contract import FramePose, FramesTable, FrameTopic, Manifest, Match
from ros_to_parquet.frames.arrays import Int64Array, column, one_array, spread
from ros_to_parquet.frames.columns import GAP_FIELD, KEY_FIELDS, TIME_FIELDS
from ros_to_parquet.frames.errors import FramesError
from ros_to_parquet.frames.interpolate import Between, interpolate
from ros_to_parquet.frames.match import NONE, Matched, match, shares
from ros_to_parquet.frames.poses import POSE, TF_TYPES, Poses, TfTopic, find_edges
from ros_to_parquet.frames.reading import METADATA_KEY, RESULT_KEY
from ros_to_parquet.frames.sources import (
    Cache,
    Groups,
    LakeTopic,
    Source,
    Stretch,
    open_topic,
    reach,
    read_stretch,
)
from ros_to_parquet.frames.ticks import Rate, Recorded
from ros_to_parquet.frames.tree import Way, find_way, why_apart
from ros_to_parquet.lake import Lake, no_drive, read_whole
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget
from ros_to_parquet.parquet import LOG_TIME, TableWriters, int64_column, time_column
from ros_to_parquet.storage import arrow_filesystem, join, normalize, open_storage
from ros_to_parquet.text import and_more

_WINDOW_ROWS = 65_536
"""Frames that are worked on at a time, at most."""

_MOST_REASONS = 5
"""Of a column."""


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """What became of one column.

    Attributes:
        source: the topic, or the frames of a pose.
        matched: frames that have a value; all others are null.
        reasons: why, the most frequent first, with how many frames.
    """

    column: str
    source: str
    matched: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FramesResult:
    """A frames table that was written.

    Attributes:
        path: of its file, relative to the lake's URI.
        problems: what is not as the table's description has it, a sentence each.
    """

    name: str
    drive_id: str
    path: str
    rows: int
    size_bytes: int
    columns: tuple[ColumnResult, ...]
    problems: tuple[str, ...]


def write_frames(
    lake_uri: str, drive_id: str, table: FramesTable, *, budget: MemoryBudget = DEFAULT_BUDGET
) -> FramesResult:
    """Makes the table of what the drive has in the lake now, and puts it in the place of an earlier one.

    Raises:
        FramesError: it cannot be made of this drive, or another run has replaced the drive meanwhile.
    """
    lake_uri = normalize(lake_uri)
    storage = open_storage(lake_uri, upload_memory_bytes=budget.upload)
    record = read_whole(storage, lake_uri, drive_id)
    manifests = contract.standing_manifests(record.manifests, record.commits)
    if not manifests:
        raise FramesError(no_drive(lake_uri, drive_id, Lake(lake_uri).drives()))
    filesystem, root = arrow_filesystem(lake_uri)
    path = contract.frames_key(table.name, drive_id)
    plans = sorted({manifest.plan_id for manifest in manifests})
    replaced = f"{lake_uri}: drive {drive_id!r} was replaced while its frames table was made: make it again"
    try:
        with ExitStack() as stack:
            making = _Making(filesystem, root, manifests, table, Cache(budget.limit // 4), stack)
            writers = stack.enter_context(TableWriters(storage, lake_uri, budget=budget))
            said = json.dumps({"plans": plans, "table": asdict(table)}, sort_keys=True)
            writers.open(path, making.schema, {METADATA_KEY: said})
            for rows in making.batches(budget.row_group):
                writers.append(path, rows)
            columns = tuple(each.result() for each in making.columns)
            writers.describe(path, {RESULT_KEY: _said_of(columns, making.problems)})
            written = writers.finish()[path]
            writers.publish()
    except FileNotFoundError as error:
        raise FramesError(replaced) from error
    for plan_id in plans:
        if not any(storage.objects(join(lake_uri, contract.manifest_folder(drive_id, plan_id)))):
            storage.delete(join(lake_uri, path))  # it came after the sweep that would have taken it
            raise FramesError(replaced)
    return FramesResult(
        name=table.name,
        drive_id=drive_id,
        path=path,
        rows=written.rows,
        size_bytes=written.upload.size_bytes,
        columns=columns,
        problems=tuple(making.problems),
    )


def _said_of(columns: Sequence[ColumnResult], problems: Sequence[str]) -> str:
    return json.dumps({"columns": [asdict(each) for each in columns], "problems": problems})


# --- what there is of a topic -----------------------------------------------------------------------


def _files_of(manifests: Iterable[Manifest], topic: str) -> list[contract.OutputFile]:
    wanted = contract.topic_key(topic)
    return [
        file
        for manifest in manifests
        for each in manifest.topics
        if contract.topic_key(each.topic) == wanted
        for file in each.files
        if file.rows
    ]


def _topics_with_rows(manifests: Iterable[Manifest]) -> list[str]:
    return sorted({each.topic for manifest in manifests for each in manifest.topics if each.rows})


def _tf_topics(manifests: Iterable[Manifest], wanted: Sequence[str]) -> list[TfTopic]:
    """Topics of transforms, as they were recorded; those that are ``wanted``, or all."""
    keys = {contract.topic_key(topic) for topic in wanted}
    found: dict[str, list[str]] = {}
    for manifest in manifests:
        for each in manifest.topics:
            is_tf = each.type_name.replace("/msg/", "/") in TF_TYPES and each.transform is None
            if is_tf and (not keys or contract.topic_key(each.topic) in keys):
                found.setdefault(each.topic, []).extend(file.path for file in each.files if file.rows)
    return [TfTopic(name, tuple(paths)) for name, paths in sorted(found.items())]


# --- columns ----------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _TopicColumn:
    """A topic's column; ``source`` is None where the drive has no rows of it."""

    topic: FrameTopic
    source: LakeTopic | None
    is_reference: bool
    rows: int = 0
    matched: int = 0

    @property
    def name(self) -> str:
        return self.topic.column or contract.table_name(self.topic.topic)

    @property
    def type(self) -> pa.DataType:
        gap = [GAP_FIELD] if self._interpolated else []
        fields = self.source.choice.fields if self.source else ()
        return pa.struct([*TIME_FIELDS, *gap, *fields, *KEY_FIELDS])

    @property
    def _interpolated(self) -> bool:
        return self.topic.method is Match.INTERPOLATED and not self.is_reference

    def values(self, at: Int64Array, cache: Cache, itself: Stretch | None) -> pa.Array:
        """A row for each frame. The reference's are ``itself``, and what is at a frame's place is its own."""
        self.rows += len(at)
        if self.source is None:
            return pa.nulls(len(at), self.type)
        if self.is_reference and itself is not None:
            places = np.arange(len(at), dtype=np.int64)
            matched, stretch = Matched(places, places, places), itself
        else:
            begin, end = reach(self.source.groups, int(at.min()), int(at.max()), self.topic.tolerance_ns)
            read = read_stretch(self.source, cache, begin, end, at=at)
            if read is None:
                return pa.nulls(len(at), self.type)
            stretch = read
            matched = match(stretch.times, at, self.topic.method, self.topic.tolerance_ns)
        there = matched.before != NONE
        self.matched += int(np.count_nonzero(there))
        if not there.any():
            return pa.nulls(len(at), self.type)
        some = Matched(matched.before[there], matched.after[there], matched.near[there])
        return spread(self._made(stretch, at[there], some), there)

    def _made(self, stretch: Stretch, at: Int64Array, matched: Matched) -> pa.Array:
        near = stretch.times[matched.near]
        children = [column(near), column(near - at)]
        first = stretch.take(matched.before)
        values = [one_array(each) for each in first.columns[1:]]
        if self._interpolated:
            children.append(column(stretch.times[matched.after] - stretch.times[matched.before]))
            other = [one_array(each) for each in stretch.take(matched.after).columns[1:]]
            share = shares(stretch.times, at, matched)
            between = Between(share, matched.near != matched.before)
            values = [interpolate(one, two, between) for one, two in zip(values, other, strict=True)]
        children += values
        children += self._key(stretch, matched.near)
        return pa.StructArray.from_arrays(children, fields=list(self.type))

    def _key(self, stretch: Stretch, places: Int64Array) -> list[pa.Array]:
        assert self.source is not None
        groups = self.source.groups
        group = stretch.group[places]
        used, file = np.unique(groups.file[group], return_inverse=True)
        paths = pa.array([self.source.paths[place] for place in used], pa.string())
        return [
            paths.take(column(file.astype(np.int64))),
            column(groups.number[group].astype(np.int32)),
            column(groups.start[group] + stretch.row[places]),
        ]

    def result(self) -> ColumnResult:
        missed = self.rows - self.matched
        reasons: tuple[str, ...] = ()
        if missed and self.source is None:
            reasons = (f"the drive has no rows of it: {missed:,}",)
        elif missed:
            both = "messages on both sides" if self._interpolated else "message"
            before = " before it" if self.topic.method is Match.PREVIOUS else ""
            within = (
                "" if self.topic.tolerance_ns == contract.UNLIMITED_NS
                else f" within {self.topic.tolerance_ns / 1e6:g} ms"
            )  # fmt: skip
            reasons = (f"no {both}{before}{within}: {missed:,}",)
        return ColumnResult(self.name, self.topic.topic, self.matched, reasons)


@dataclass(slots=True, eq=False)
class _PoseColumn:
    """A pose's column; ``way`` is None where the drive's transforms do not connect the frames: ``apart``."""

    pose: FramePose
    poses: Poses
    way: Way | None
    apart: str
    matched: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return self.pose.column

    @property
    def type(self) -> pa.DataType:
        return POSE

    def values(self, at: Int64Array, cache: Cache, _: Stretch | None) -> pa.Array:
        if self.way is None:
            self.reasons["no transforms connect the two"] += len(at)
            return pa.nulls(len(at), POSE)
        values = self.poses.at(self.way, self.pose, at, cache, self.reasons)
        self.matched += len(values) - values.null_count
        return values

    def result(self) -> ColumnResult:
        reasons = tuple(f"{why}: {count:,}" for why, count in self.reasons.most_common(_MOST_REASONS))
        return ColumnResult(self.name, f"{self.pose.child} in {self.pose.parent}", self.matched, reasons)


# --- the table --------------------------------------------------------------------------------------


class _Making:
    def __init__(
        self,
        filesystem: fs.FileSystem,
        root: str,
        manifests: Sequence[Manifest],
        table: FramesTable,
        cache: Cache,
        stack: ExitStack,
    ) -> None:
        self._table = table
        self._cache = cache
        self.problems: list[str] = []
        self._topics = [self._open(filesystem, root, manifests, topic) for topic in table.topics]
        self._reference = next((each.source for each in self._topics if each.is_reference), None)
        if table.reference and self._reference is None:
            there = _topics_with_rows(manifests)
            raise FramesError(
                f"topic {table.reference}, the reference: the drive has no rows of it; there are "
                f"{and_more(there) or 'none'}"
            )
        poses = _open_poses(filesystem, root, manifests, table, stack)
        for each in poses:
            what = f"pose of {each.pose.child!r} in {each.pose.parent!r}"
            if each.way is None:
                self.problems.append(f"{what}: no transforms connect them: {each.apart}")
            elif bad := sum(each.poses.bad[edge] for edge in each.way.edges):
                self.problems.append(
                    f"{what}: {bad:,} transforms were left out: their numbers are not finite, or their "
                    "quaternion is no rotation"
                )
        self.columns: list[_TopicColumn | _PoseColumn] = [*self._topics, *poses]
        self.schema = pa.schema(
            [
                pa.field("time", LOG_TIME, nullable=False),
                pa.field("time_ns", pa.int64(), nullable=False),
                *(pa.field(each.name, each.type) for each in self.columns),
            ]
        )

    def _open(
        self, filesystem: fs.FileSystem, root: str, manifests: Sequence[Manifest], topic: FrameTopic
    ) -> _TopicColumn:
        files = _files_of(manifests, topic.topic)
        if not files:
            self.problems.append(f"topic {topic.topic}: the drive has no rows of it")
        source = open_topic(filesystem, root, topic, files) if files else None
        is_reference = contract.topic_key(topic.topic) == contract.topic_key(self._table.reference or "/")
        return _TopicColumn(topic, source, is_reference)

    def batches(self, window_bytes: int) -> Iterator[pa.RecordBatch]:
        """The table's rows, in order of time."""
        for at, itself in self._frames(window_bytes):
            columns = [each.values(at, self._cache, itself) for each in self.columns]
            self._cache.drop_unused()
            yield pa.RecordBatch.from_arrays(
                [time_column(at), int64_column(at), *columns], schema=self.schema
            )

    def _frames(self, window_bytes: int) -> Iterator[tuple[Int64Array, Stretch | None]]:
        """Times of frames, some at a time, and what of the reference is there."""
        if self._reference is not None:
            groups = self._reference.groups
            whole = int(groups.first.min()), int(groups.last.max())
            for first, last in _windows(*whole, lambda a, b: self._load(a, b, window_bytes, groups)):
                stretch = read_stretch(self._reference, self._cache, first, last, repeated=True)
                if stretch is not None:
                    for start in range(0, len(stretch.times), _WINDOW_ROWS):
                        part = stretch.slice(start, _WINDOW_ROWS)
                        yield part.times, part
            return
        rate = Rate.of(self._table.rate_hz)
        for begin, end in self._recorded().stretches():
            for first, last in _windows(begin, end, lambda a, b: self._load(a, b, window_bytes, None, rate)):
                at = rate.between(first, last)
                if len(at):
                    yield at, None

    def _recorded(self) -> Recorded:
        recorded = Recorded()
        for each in self._topics:
            if each.source is not None:
                for group in range(len(each.source.groups)):
                    recorded.add(each.source.times(group))
        return recorded

    def _sources(self) -> Iterator[tuple[Source, int]]:
        for each in self._topics:
            if each.source is not None:
                yield each.source, each.topic.tolerance_ns
        for column_ in self.columns:
            if isinstance(column_, _PoseColumn) and column_.way is not None:
                for source in column_.poses.sources(column_.way):
                    yield source, column_.pose.tolerance_ns

    def _load(
        self, first: int, last: int, window_bytes: int, reference: Groups | None, rate: Rate | None = None
    ) -> float:
        """How full a stretch of time makes memory: 1 is as full as it may be."""
        if reference is not None:
            frames = float((reference.rows * reference.overlap(first, last)).sum())
        else:
            assert rate is not None
            frames = (last - first) / float(rate.period_ns)
        if frames <= 1:
            return 0.0
        size = 0.0
        for source, tolerance_ns in self._sources():
            groups = source.groups
            if len(groups):
                begin, end = reach(groups, first, last, tolerance_ns)
                rows = groups.rows * groups.overlap(begin, end)
                if groups is not reference:  # of others, only those next to a frame are taken
                    rows = np.minimum(rows, 2 * frames)
                size += float((groups.size * rows / groups.rows).sum())
        return max(frames / _WINDOW_ROWS, size / window_bytes)


def _windows(first: int, last: int, load: Callable[[int, int], float]) -> Iterator[tuple[int, int]]:
    """Stretches from ``first`` to ``last``, both inclusive, each halved until its load is at most 1."""
    waiting = [(first, last)]
    while waiting:
        begin, end = waiting.pop()
        if begin < end and load(begin, end) > 1:
            middle = (begin + end) // 2
            waiting += [(middle + 1, end), (begin, middle)]
        else:
            yield begin, end


def _open_poses(
    filesystem: fs.FileSystem,
    root: str,
    manifests: Sequence[Manifest],
    table: FramesTable,
    stack: ExitStack,
) -> list[_PoseColumn]:
    """All columns of poses; transforms are read twice for each choice of topics, however many there are."""
    columns: dict[FramePose, _PoseColumn] = {}
    for wanted in dict.fromkeys(pose.topics for pose in table.poses):
        topics = _tf_topics(manifests, wanted)
        edges = find_edges(filesystem, root, topics)
        poses = stack.enter_context(Poses(table.clock))
        for pose in table.poses:
            if pose.topics == wanted:
                way = find_way(edges, pose.parent, pose.child)
                apart = "" if way else why_apart(edges, pose.parent, pose.child)
                columns[pose] = _PoseColumn(pose, poses, way, apart)
        ways = [column.way for column in columns.values() if column.poses is poses and column.way]
        poses.read(filesystem, root, topics, sorted({edge for way in ways for edge in way.edges}))
    return [columns[pose] for pose in table.poses]
