"""What a drive's manifests say, put in the order in which people ask."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
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

    Of one that runs have tried before in vain (it could not be read, no topic of it was wanted), the run that
    made rows of it counts, or the last.

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
        state: of all its bags and topics together, whichever run did them; None where a run has not ended.
        plans: ids of the plans whose rows it has.
        shards: in the order of plans and numbers.
        problems: of the runs, each once: every run says again which bags it has not tried.
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
    bags: dict[str, dict[Hashable, _Bag]] = {}
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
            tried = bags.setdefault(bag.name, {})
            tried.setdefault(contract.bag_version(manifest, bag), _Bag(bag.slice.count)).add(bag, shard)
    plans = tuple(dict.fromkeys(shard.plan_id for shard in shards))
    counted = [commit for commit in commits if commit.plan_id in plans]
    kept = [(name, bag) for name, each in sorted(bags.items()) for bag in _kept(list(each.values()))]
    described = tuple(bag.bag(name) for name, bag in kept)
    in_use = {plan_id for _, bag in kept for plan_id in bag.plans}
    rejected = any(topic.rejected for topic in topics.values())
    return Drive(
        drive_id=drive_id,
        state=_state(shards, commits, described, rejected=rejected),
        plans=plans,
        run_ids=tuple(dict.fromkeys(commit.run.run_id for commit in counted)),
        topics=tuple(each.topic(*key) for key, each in sorted(topics.items())),
        bags=described,
        shards=tuple(shards),
        problems=tuple(
            dict.fromkeys(_problems((each for each in counted if each.plan_id in in_use), described))
        ),
        quality=tuple(commit.quality for commit in counted if commit.quality),
        cost=costs.cost(),
    )


def _state(
    shards: Iterable[Shard], commits: Iterable[DriveManifest], bags: Sequence[Bag], *, rejected: bool
) -> DriveState | None:
    """As `contract.fold` has it, of all runs together."""
    ended: dict[str, str] = {}
    for shard in shards:
        ended[shard.plan_id] = max(ended.get(shard.plan_id, ""), shard.finished_at)
    last_words = {commit.plan_id: commit for commit in commits}
    if not ended or not last_words.keys() >= ended.keys():
        return None
    unreadable = sum(bag.status is BagStatus.UNREADABLE for bag in bags)
    if bags and unreadable == len(bags):
        return DriveState.FAILED
    # What was left of a run that was taken over, the next one that is committed has done: not always the one
    # that took it over, which may have died too, or have planned anew since.
    committed = (when for plan_id, when in ended.items() if last_words[plan_id].taken_over_by is None)
    if max(committed, default="") < max(ended.values()):
        return DriveState.PARTIAL
    if unreadable or any(bag.status is BagStatus.DAMAGED for bag in bags):
        return DriveState.DAMAGED
    return DriveState.SUCCEEDED_WITH_REJECTS if rejected else DriveState.SUCCEEDED


def _kept(tried: Sequence[_Bag]) -> list[_Bag]:
    """As `contract.counting_bags` has it, of results that are summed up."""
    return [bag for bag in tried if bag.extracted] or [max(tried, key=lambda bag: bag.finished_at)]


def _problems(commits: Iterable[DriveManifest], bags: Iterable[Bag]) -> Iterator[str]:
    """What commits say, but of bags that another run has read whole."""
    whole = {bag.name for bag in bags if bag.status is BagStatus.OK}
    for commit in commits:
        for problem in commit.problems:
            if contract.blamed_bag(problem) not in whole:
                yield problem


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
    """A bag, of one content and one choice of rows, in the making.

    ``status``, ``checks`` and ``damage`` are of the slices that could be read, unless ``unreadable`` ones are
    still missing.
    """

    slices: int
    plans: dict[str, None] = field(default_factory=dict)
    finished_at: str = ""
    readable: int = 0
    unreadable: list[str] = field(default_factory=list)
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
        self.plans[shard.plan_id] = None
        self.finished_at = max(self.finished_at, shard.finished_at)
        reasons = [damage.reason for damage in result.damage[:MOST_DAMAGE]]
        if result.status is BagStatus.UNREADABLE:
            self.unreadable = reasons
        else:
            self.readable += 1
            self.status = max(self.status, result.status, key=list(BagStatus).index)
            self.checks.add(result.verified)
            self.damage += reasons[: MOST_DAMAGE - len(self.damage)]
        self.size_bytes = result.size_bytes
        self.messages += result.messages
        self.extracted += result.extracted
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
        unread = bool(self.unreadable) and self.readable < self.slices  # by no run
        checks = self.checks | {None} if unread else self.checks
        return Bag(
            name=name,
            status=BagStatus.UNREADABLE if unread else self.status,
            size_bytes=self.size_bytes,
            messages=self.messages,
            extracted=self.extracted,
            verified=False if False in checks else None if None in checks else True,
            damage=tuple([*self.damage, *self.unreadable][:MOST_DAMAGE] if unread else self.damage),
            shards=self.shards,
            seconds=self.seconds,
            bytes_read=self.bytes_read,
            peak_memory_bytes=self.peak_memory_bytes,
            tries=self.tries,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            cost=self.cost,
        )
