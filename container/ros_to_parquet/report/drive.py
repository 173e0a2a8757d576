"""What a drive's manifests say, put in the order in which people ask."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ros_to_parquet import contract
from ros_to_parquet.contract import (
    BagResult,
    BagStatus,
    DriveManifest,
    DriveQuality,
    DriveState,
    Manifest,
    TopicResult,
)
from ros_to_parquet.report.cost import Cost, CostSum
from ros_to_parquet.report.time_axis import TimeAxis, make_axis

if TYPE_CHECKING:
    from ros_to_parquet.lake import DriveRecord, DriveScan

MOST_PARTS = 1_000
"""Of a topic, whose files are known by name: with more shards every second, fourth, ... one's are."""

MOST_DAMAGE = contract.MAX_REASONS
"""Of a bag, that is told."""

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TopicFile:
    """A Parquet file, by its path in the lake."""

    path: str
    rows: int


@dataclass(frozen=True, slots=True)
class TopicPart:
    """What one shard made of a topic: its files, in the order in which they were written.

    ``number`` is its place among all of the topic's parts, as in `Topic.spans`.
    """

    number: int
    first_ns: int
    last_ns: int
    files: tuple[TopicFile, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of one type over all shards.

    Attributes:
        type_name: ``package/Type``, for both versions of ROS.
        definitions: hashes of its definitions, as its partitions ``schema=`` have them.
        first_ns, last_ns: log times; 0 where there is no message.
        schemas: the digits of the partitions ``schema=`` that its files are in.
        spans: of each part that has messages first and last log time and rows in files: an array of three
            columns.
        parts: in the order of their first log time; all, or evenly spread ones of more than `MOST_PARTS`.
        cost: of the shards that have one, by the topic's share of the bytes of their messages.
    """

    name: str
    table: str
    type_name: str
    definitions: tuple[str, ...]
    messages: int
    rows: int
    rejected: int
    bytes_in: int
    bytes_out: int
    first_ns: int
    last_ns: int
    schemas: tuple[str, ...]
    spans: Int64Array
    parts: tuple[TopicPart, ...]
    remarks: tuple[str, ...]
    transformed: bool
    cost: float = 0.0

    @property
    def files(self) -> list[TopicFile]:
        """Of the parts, in order."""
        return [file for part in self.parts for file in part.files]

    @property
    def paths(self) -> Iterator[str]:
        """Of the files, in order."""
        return (file.path for file in self.files)

    @property
    def rate_hz(self) -> float | None:
        """Messages a second between the first and the last."""
        span = self.last_ns - self.first_ns
        return (self.messages - 1) / span * 1e9 if span > 0 and self.messages > 1 else None


def share_of(read: int, topic: Topic) -> float:
    """What part of a topic's rows was read, where so many were."""
    rows = int(topic.spans[:, 2].sum())
    return read / rows if rows else 1.0


@dataclass(frozen=True, slots=True)
class Bag:
    """A bag over all shards that had a slice of it.

    Attributes:
        shards: how many those are.
        seconds: of those shards, by the bag's share of the bytes that they read.
        peak_memory_bytes: the most of those shards.
        tries: how often those shards were begun.
        damage: the first `MOST_DAMAGE`.
        first_ns, last_ns: log times; None where no message was extracted, or an earlier version did it.
        cost: of the shards that have one, shared out as ``seconds``.
    """

    name: str
    status: BagStatus
    size_bytes: int
    messages: int
    extracted: int
    verified: bool | None
    damage: tuple[str, ...]
    shards: int
    seconds: float
    bytes_read: int
    peak_memory_bytes: int
    tries: int
    first_ns: int | None
    last_ns: int | None
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Shard:
    """What a shard took. ``tries`` is how often it was begun: attempts of jobs, and generations of them.

    ``cost`` is None where its manifest has no price, or one in another currency than the drive's.
    """

    plan_id: str
    number: int
    bags: int
    seconds: float
    bytes_read: int
    bytes_written: int
    peak_memory_bytes: int
    tries: int
    job_id: str
    engine_version: str
    finished_at: str
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive as its standing manifests say; see `contract.standing_manifests`.

    Attributes:
        state: the worst of its commits; None where no run has committed it.
        plans: ids of the plans whose rows it has.
        shards: in the order of plans and numbers.
        quality: results of quality checks, one for each plan that has some.
        cost: what they have cost; None where no manifest says a price.
    """

    drive_id: str
    state: DriveState | None
    plans: tuple[str, ...]
    run_ids: tuple[str, ...]
    topics: tuple[Topic, ...]
    bags: tuple[Bag, ...]
    shards: tuple[Shard, ...]
    problems: tuple[str, ...]
    quality: tuple[DriveQuality, ...] = ()
    cost: Cost | None = None

    @property
    def messages(self) -> int:
        return sum(topic.messages for topic in self.topics)

    @property
    def rows(self) -> int:
        return sum(topic.rows for topic in self.topics)

    @property
    def rejected(self) -> int:
        return sum(topic.rejected for topic in self.topics)

    @property
    def first_ns(self) -> int:
        return min((topic.first_ns for topic in self.topics if topic.messages), default=0)

    @property
    def last_ns(self) -> int:
        return max((topic.last_ns for topic in self.topics if topic.messages), default=0)

    def time_axis(self) -> TimeAxis:
        return make_axis(
            (first, last)
            for topic in self.topics
            for first, last, _ in zip(*topic.spans.T.tolist(), strict=True)
        )

    def of_type(self, *names: str) -> list[Topic]:
        """Topics of these types that have rows as they were recorded."""
        return [
            each for each in self.topics if each.type_name in names and each.rows and not each.transformed
        ]


def describe_drive(record: DriveRecord) -> Drive:
    """A drive's manifests as one."""
    standing = contract.standing_manifests(record.manifests, record.commits)
    return _describe(record.drive_id, record.commits, {}, standing)


def describe_scan(drive_id: str, scan: DriveScan) -> Drive:
    """Likewise, of manifests that are not all there at once.

    Raises:
        ReplacedError: the drive was replaced meanwhile.
    """
    return _describe(drive_id, scan.commits, scan.tries, scan.standing)


def _describe(
    drive_id: str,
    commits: Sequence[DriveManifest],
    tries: Mapping[tuple[str, int], int],
    standing: Iterable[Manifest],
) -> Drive:
    topics: dict[tuple[str, str], _Topic] = {}
    bags: dict[tuple[str, str], _Bag] = {}
    shards: list[Shard] = []
    costs = CostSum()
    for manifest in standing:
        shard = _shard(manifest, tries, costs.add(manifest))
        shards.append(shard)
        bytes_in = sum(result.bytes_in for result in manifest.topics)
        for result in manifest.topics:
            key = result.topic, _plain(result.type_name)
            share = result.bytes_in / bytes_in if bytes_in else 1 / len(manifest.topics)
            topics.setdefault(key, _Topic(result.table)).add(result, (shard.cost or 0.0) * share)
        for bag in manifest.bags:
            bags.setdefault((bag.name, bag.etag), _Bag()).add(bag, shard)
    plans = tuple(dict.fromkeys(shard.plan_id for shard in shards))
    counted = [commit for commit in commits if commit.plan_id in plans]
    states = [commit.state for commit in counted]
    complete = {commit.plan_id for commit in counted} >= set(plans)
    return Drive(
        drive_id=drive_id,
        state=max(states, key=list(DriveState).index) if states and complete else None,
        plans=plans,
        run_ids=tuple(dict.fromkeys(commit.run.run_id for commit in counted)),
        topics=tuple(each.topic(*key) for key, each in sorted(topics.items())),
        bags=tuple(each.bag(name) for (name, _), each in sorted(bags.items())),
        shards=tuple(shards),
        problems=tuple(problem for commit in counted for problem in commit.problems),
        quality=tuple(commit.quality for commit in counted if commit.quality),
        cost=costs.cost(),
    )


def _plain(type_name: str) -> str:
    return type_name.replace("/msg/", "/")


def _shard(manifest: Manifest, tries: Mapping[tuple[str, int], int], cost: float | None) -> Shard:
    return Shard(
        plan_id=manifest.plan_id,
        number=manifest.shard,
        bags=len(manifest.bags),
        seconds=manifest.seconds,
        bytes_read=manifest.bytes_read,
        bytes_written=manifest.bytes_written,
        peak_memory_bytes=manifest.peak_memory_bytes,
        tries=max(tries.get((manifest.plan_id, manifest.shard), 1), 1),
        job_id=manifest.job_id,
        engine_version=manifest.engine_version,
        finished_at=manifest.finished_at,
        cost=cost,
    )


@dataclass(slots=True)
class _Topic:
    """A topic in the making; of what grows with its parts numbers alone are kept, and some files."""

    table: str
    definitions: dict[str, None] = field(default_factory=dict)
    schemas: set[str] = field(default_factory=set)
    messages: int = 0
    rows: int = 0
    rejected: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    spans: array[int] = field(default_factory=lambda: array("q"))
    parts: list[TopicPart] = field(default_factory=list)
    every: int = 1
    remarks: dict[str, None] = field(default_factory=dict)
    transformed: bool = False
    cost: float = 0.0

    def add(self, result: TopicResult, cost: float) -> None:
        self.cost += cost
        self.definitions[result.schema_hash[:8]] = None
        self.schemas |= {contract.schema_of(file.path) for file in result.files} - {""}
        self.messages += result.messages
        self.rows += result.rows
        self.rejected += result.rejected
        self.bytes_in += result.bytes_in
        self.bytes_out += sum(file.size_bytes for file in result.files)
        if result.remark and len(self.remarks) < contract.MAX_REASONS:
            self.remarks[result.remark] = None
        self.transformed |= result.transform is not None
        if result.first_log_time_ns is None or result.last_log_time_ns is None:
            return
        number = len(self.spans) // 3
        rows = sum(file.rows for file in result.files)
        self.spans.extend((result.first_log_time_ns, result.last_log_time_ns, rows))
        if number % self.every == 0:
            files = tuple(TopicFile(file.path, file.rows) for file in result.files)
            self.parts.append(TopicPart(number, result.first_log_time_ns, result.last_log_time_ns, files))
        if len(self.parts) > MOST_PARTS:
            self.every *= 2
            self.parts = [part for part in self.parts if part.number % self.every == 0]

    def topic(self, name: str, type_name: str) -> Topic:
        spans = np.array(self.spans, dtype=np.int64).reshape(-1, 3)
        return Topic(
            name=name,
            table=self.table,
            type_name=type_name,
            definitions=tuple(self.definitions),
            messages=self.messages,
            rows=self.rows,
            rejected=self.rejected,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            first_ns=int(spans[:, 0].min()) if len(spans) else 0,
            last_ns=int(spans[:, 1].max()) if len(spans) else 0,
            schemas=tuple(sorted(self.schemas)),
            spans=spans,
            parts=tuple(sorted(self.parts, key=lambda part: part.first_ns)),
            remarks=tuple(self.remarks),
            transformed=self.transformed,
            cost=self.cost,
        )


@dataclass(slots=True)
class _Bag:
    """A bag in the making."""

    status: BagStatus = BagStatus.OK
    size_bytes: int = 0
    messages: int = 0
    extracted: int = 0
    checks: set[bool | None] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)
    shards: int = 0
    seconds: float = 0.0
    bytes_read: int = 0
    peak_memory_bytes: int = 0
    tries: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    cost: float = 0.0

    def add(self, result: BagResult, shard: Shard) -> None:
        self.status = max(self.status, result.status, key=list(BagStatus).index)
        self.size_bytes = result.size_bytes
        self.messages += result.messages
        self.extracted += result.extracted
        self.checks.add(result.verified)
        self.damage += [damage.reason for damage in result.damage[: MOST_DAMAGE - len(self.damage)]]
        self.shards += 1
        share = result.bytes_read / shard.bytes_read if shard.bytes_read else 1 / shard.bags
        self.seconds += shard.seconds * share
        self.cost += (shard.cost or 0.0) * share
        self.bytes_read += result.bytes_read
        self.peak_memory_bytes = max(self.peak_memory_bytes, shard.peak_memory_bytes)
        self.tries += shard.tries
        if result.first_log_time_ns is not None and result.last_log_time_ns is not None:
            first, last = result.first_log_time_ns, result.last_log_time_ns
            self.first_ns = first if self.first_ns is None else min(self.first_ns, first)
            self.last_ns = last if self.last_ns is None else max(self.last_ns, last)

    def bag(self, name: str) -> Bag:
        return Bag(
            name=name,
            status=self.status,
            size_bytes=self.size_bytes,
            messages=self.messages,
            extracted=self.extracted,
            verified=False if False in self.checks else None if None in self.checks else True,
            damage=tuple(self.damage),
            shards=self.shards,
            seconds=self.seconds,
            bytes_read=self.bytes_read,
            peak_memory_bytes=self.peak_memory_bytes,
            tries=self.tries,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            cost=self.cost,
        )
