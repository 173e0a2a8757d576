"""What a drive's manifests say, put in the order in which people ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ros_to_parquet import contract
from ros_to_parquet.contract import BagResult, BagStatus, DriveState, Manifest, TopicResult
from ros_to_parquet.report.time_axis import TimeAxis, make_axis

if TYPE_CHECKING:
    from ros_to_parquet.lake import DriveRecord


@dataclass(frozen=True, slots=True)
class TopicPart:
    """What one shard made of a topic: its files, in the order in which they were written."""

    first_ns: int
    last_ns: int
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of one type over all shards.

    Attributes:
        type_name: ``package/Type``, for both versions of ROS.
        definitions: hashes of its definitions, as its partitions ``schema=`` have them.
        first_ns, last_ns: log times; 0 where there is no message.
        parts: in the order of their first log time.
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
    parts: tuple[TopicPart, ...]
    remarks: tuple[str, ...]
    transformed: bool

    @property
    def paths(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.paths

    @property
    def rate_hz(self) -> float | None:
        """Messages a second between the first and the last."""
        span = self.last_ns - self.first_ns
        return (self.messages - 1) / span * 1e9 if span > 0 and self.messages > 1 else None


@dataclass(frozen=True, slots=True)
class Bag:
    """A bag over all shards that had a slice of it."""

    name: str
    status: BagStatus
    size_bytes: int
    messages: int
    extracted: int
    verified: bool | None
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive as its standing manifests say; see `contract.standing_manifests`.

    Attributes:
        state: the worst of its commits; None where no run has committed it.
        plans: ids of the plans whose rows it has.
        shards: their manifests.
    """

    drive_id: str
    state: DriveState | None
    plans: tuple[str, ...]
    run_ids: tuple[str, ...]
    topics: tuple[Topic, ...]
    bags: tuple[Bag, ...]
    shards: tuple[Manifest, ...]
    problems: tuple[str, ...]

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
        return make_axis((part.first_ns, part.last_ns) for topic in self.topics for part in topic.parts)

    def of_type(self, *names: str) -> list[Topic]:
        """Topics of these types that have rows as they were recorded."""
        return [
            each for each in self.topics if each.type_name in names and each.rows and not each.transformed
        ]


def describe_drive(record: DriveRecord) -> Drive:
    """A drive's manifests as one."""
    shards = contract.standing_manifests(record.manifests, record.commits)
    plans = tuple(dict.fromkeys(shard.plan_id for shard in shards))
    commits = [commit for commit in record.commits if commit.plan_id in plans]
    states = [commit.state for commit in commits]
    complete = {commit.plan_id for commit in commits} >= set(plans)
    return Drive(
        drive_id=record.drive_id,
        state=max(states, key=list(DriveState).index) if states and complete else None,
        plans=plans,
        run_ids=tuple(dict.fromkeys(commit.run.run_id for commit in commits)),
        topics=tuple(_topics(shards)),
        bags=tuple(_bags(shards)),
        shards=tuple(shards),
        problems=tuple(problem for commit in commits for problem in commit.problems),
    )


def _topics(shards: Sequence[Manifest]) -> Iterator[Topic]:
    found: dict[tuple[str, str], list[TopicResult]] = {}
    for shard in shards:
        for result in shard.topics:
            found.setdefault((result.topic, plain_type(result.type_name)), []).append(result)
    for (name, type_name), results in sorted(found.items()):
        timed = [each for each in results if each.first_log_time_ns is not None]
        parts = [
            TopicPart(
                each.first_log_time_ns or 0, each.last_log_time_ns or 0, tuple(f.path for f in each.files)
            )
            for each in timed
        ]
        yield Topic(
            name=name,
            table=results[0].table,
            type_name=type_name,
            definitions=tuple(dict.fromkeys(each.schema_hash[:8] for each in results)),
            messages=sum(each.messages for each in results),
            rows=sum(each.rows for each in results),
            rejected=sum(each.rejected for each in results),
            bytes_in=sum(each.bytes_in for each in results),
            bytes_out=sum(file.size_bytes for each in results for file in each.files),
            first_ns=min((part.first_ns for part in parts), default=0),
            last_ns=max((part.last_ns for part in parts), default=0),
            parts=tuple(sorted(parts, key=lambda part: part.first_ns)),
            remarks=tuple(dict.fromkeys(each.remark for each in results if each.remark)),
            transformed=any(each.transform for each in results),
        )


def plain_type(type_name: str) -> str:
    """``package/Type``, for both versions of ROS."""
    return type_name.replace("/msg/", "/")


def _bags(shards: Sequence[Manifest]) -> Iterator[Bag]:
    found: dict[tuple[str, str], list[BagResult]] = {}
    for shard in shards:
        for bag in shard.bags:
            found.setdefault((bag.name, bag.etag), []).append(bag)
    for (name, _), slices in sorted(found.items()):
        checks = [each.verified for each in slices]
        yield Bag(
            name=name,
            status=max((each.status for each in slices), key=list(BagStatus).index),
            size_bytes=slices[0].size_bytes,
            messages=sum(each.messages for each in slices),
            extracted=sum(each.extracted for each in slices),
            verified=False if False in checks else None if None in checks else True,
            damage=tuple(damage.reason for each in slices for damage in each.damage),
        )
