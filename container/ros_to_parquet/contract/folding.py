"""Manifests put together: into a drive's commit, and into what counts of all there are."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from ros_to_parquet.contract.images import is_image_type
from ros_to_parquet.contract.keys import manifest_folder, schema_of
from ros_to_parquet.contract.manifest import (
    BagResult,
    DriveManifest,
    Manifest,
    SchemaTotal,
    TableTotal,
    TopicResult,
    Transformed,
    bytes_written_of,
)
from ros_to_parquet.contract.names import topic_matches
from ros_to_parquet.contract.options import ExtractOptions, make_same_rows, what_makes_rows
from ros_to_parquet.contract.outcomes import MAX_REASONS, BagStatus, DriveState
from ros_to_parquet.contract.plan import BagSlice, Plan, Run, run_in_words
from ros_to_parquet.contract.wire import CONTRACT_VERSION

_MORE_MEMORY = "--memory-limit"
"""What reasons name that more memory helps against."""

_OF_A_BAG = re.compile(r"bag (?P<bag>.+?)(?: at offset \d+: |: not tried again, )")
"""Begins the problem of a bag that is damaged or cannot be read; see `fold` and `KnownUnreadable`."""


def _idle_rules(plan: Plan, topics: Mapping[str, bool]) -> list[str]:
    """What of the plan's rules fits none of ``topics`` (each has pictures or not): often a misspelt name."""
    options = plan.options
    pictures = [topic for topic, has_pictures in topics.items() if has_pictures]

    def is_idle(glob: str, of: Iterable[str]) -> bool:
        return not any(topic_matches(topic, [glob]) for topic in of)

    idle = [
        f"topics: there is no message of a topic that matches {glob!r} (ros-to-parquet info BAG lists topics)"
        for glob in options.include_topics
        if glob != "*" and is_idle(glob, topics)
    ]
    if not topics:
        if options.exclude_topics and not idle:
            left_out = ", ".join(map(repr, options.exclude_topics))
            idle.append(f"topics: there is no message but of topics that are left out ({left_out})")
        return idle
    idle += [
        f"transform {rule.name}: no topic matches {rule.topics!r}"
        for rule in options.transforms
        if is_idle(rule.topics, topics)
    ]
    idle += [
        f"images: no topic with pictures matches {rule.topics!r}"
        for rule in options.images
        if rule.changes and is_idle(rule.topics, pictures)
    ]
    idle += [
        f"quality: no topic matches {glob!r}"
        for glob in dict.fromkeys(rule.topics for rule in plan.quality)
        if is_idle(glob, topics)
    ]
    return idle


def fold(plan: Plan, manifests: Iterable[Manifest]) -> DriveManifest:
    """The drive's manifest from its shards' manifests (all of them for a commit).

    A sequence of them may be in any order; an iterator must be in the order of shards, and none is kept.
    With manifests missing the state is ``partial``, or ``failed`` where there are none. A run that could read
    none of its bags replaces nothing: what the lake had of the drive stays.
    """
    by_shard = (
        sorted(manifests, key=lambda manifest: manifest.shard)
        if isinstance(manifests, Sequence)
        else manifests
    )
    shards = bytes_read = bytes_written = 0
    seconds = 0.0
    tables: dict[str, TableTotal] = {}
    schemas: dict[str, tuple[SchemaTotal, ...]] = {}
    statuses: dict[str, BagStatus] = {}
    unverified: set[str] = set()
    problems: list[str] = []
    topics: dict[str, bool] = {}
    severity = list(BagStatus)
    for manifest in by_shard:
        shards += 1
        bytes_read += manifest.bytes_read
        bytes_written += manifest.bytes_written
        seconds += manifest.seconds
        for bag in manifest.bags:
            known = statuses.get(bag.name, BagStatus.OK)
            statuses[bag.name] = max(known, bag.status, key=severity.index)
            if bag.verified is None:
                unverified.add(bag.name)
            for damage in bag.damage:
                place = f" at offset {damage.offset}" if damage.offset >= 0 else ""
                problems.append(f"bag {bag.name}{place}: {damage.reason}")
            problems += [f"bag {bag.name}: {remark}" for remark in bag.remarks]
        for topic in manifest.topics:
            total = tables.get(topic.table, TableTotal(topic.table, (), (), 0, 0, 0, 0))
            tables[topic.table] = TableTotal(
                table=topic.table,
                topics=_with(total.topics, topic.topic),
                type_names=_with(total.type_names, topic.type_name),
                messages=total.messages + topic.messages,
                rows=total.rows + topic.rows,
                rejected=total.rejected + topic.rejected,
                bytes_written=total.bytes_written + bytes_written_of(topic),
                transforms=add_transforms(total.transforms, (topic.transform,) if topic.transform else ()),
                files_beside=total.files_beside + sum(each.files for each in topic.beside),
                bytes_in=total.bytes_in + topic.bytes_in,
            )
            schemas[topic.table] = add_schemas((*schemas.get(topic.table, ()), *file_schemas(topic)))
            topics[topic.topic] = topics.get(topic.topic, False) or is_image_type(topic.type_name)
            if topic.rejected:
                first = topic.rejects[0]
                problems.append(
                    f"topic {topic.topic}: {topic.rejected} of {topic.messages} messages rejected; "
                    f"the first: bag {first.bag} at offset {first.offset}: {first.reason}"
                )
            if topic.remark:
                problems.append(f"topic {topic.topic}: {topic.remark}")
        del problems[MAX_REASONS:]
    problems = [*problems, *map(str, plan.unreadable)][:MAX_REASONS]
    rejected = sum(table.rejected for table in tables.values())
    unreadable = sum(status is BagStatus.UNREADABLE for status in statuses.values())
    if shards == len(plan.shards) and unreadable < len(statuses):
        problems = [*_idle_rules(plan, topics), *problems][:MAX_REASONS]
    damaged = sum(status is BagStatus.DAMAGED for status in statuses.values())
    if not shards or (statuses and unreadable == len(statuses)):
        state = DriveState.FAILED
    elif shards < len(plan.shards):
        state = DriveState.PARTIAL
    elif unreadable or damaged:
        state = DriveState.DAMAGED
    elif rejected:
        state = DriveState.SUCCEEDED_WITH_REJECTS
    else:
        state = DriveState.SUCCEEDED
    replaces = () if state is DriveState.FAILED else plan.replaces
    if plan.replaces and not replaces and shards == len(plan.shards):
        kept = "nothing is replaced, for no bag could be read: what the lake had of the drive stays"
        problems = [kept, *problems][:MAX_REASONS]
    return DriveManifest(
        contract_version=CONTRACT_VERSION,
        plan_id=plan.plan_id,
        run=plan.run,
        drive_id=plan.drive_id,
        state=state,
        shards=shards,
        bags=len(statuses),
        unreadable_bags=unreadable,
        damaged_bags=damaged,
        unverified_bags=len(unverified),
        messages=sum(table.messages for table in tables.values()),
        rows=sum(table.rows for table in tables.values()),
        rejected=rejected,
        bytes_read=bytes_read,
        bytes_written=bytes_written,
        shard_seconds=round(seconds, 3),
        tables=tuple(dataclasses.replace(tables[name], schemas=schemas[name]) for name in sorted(tables)),
        problems=tuple(problems),
        replaces=replaces,
        covered=plan.covered,
    )


def blamed_bag(problem: str) -> str:
    """The bag that one of a drive manifest's problems says is damaged or cannot be read; empty for no bag."""
    found = _OF_A_BAG.match(problem)
    return found["bag"] if found else ""


def take_over(plan: Plan, manifests: Iterable[Manifest], by: Run) -> DriveManifest:
    """The last word on a plan that is not committed and whose drive ``by`` has taken.

    ``manifests`` are those there (an iterator: in the order of shards). They count, but for those of a plan
    that replaces others: readers go on seeing what it was to replace.
    """
    counted = () if plan.replaces else tuple(manifests)
    said = (
        f"{run_in_words(by)} has taken the drive over: {len(counted)} of {len(plan.shards)} shards of this "
        "run count, and no other will"
    )
    drive = fold(plan, counted)
    return dataclasses.replace(
        drive,
        state=max(drive.state, DriveState.PARTIAL, key=list(DriveState).index),
        problems=(said, *drive.problems)[:MAX_REASONS],
        replaces=(),
        taken_over_by=by,
        counted=tuple(manifest.shard for manifest in counted),
    )


def file_schemas(topic: TopicResult) -> Iterator[SchemaTotal]:
    """Of each of a topic's files with rows, what it adds to its definition."""
    for file in topic.files:
        digits = schema_of(file.path)
        if file.rows and digits:
            # An earlier version knew the times of all of a topic's messages together; a transform may have
            # left them out.
            said = file if file.first_log_time_ns is not None else topic
            yield SchemaTotal(
                digits,
                file.rows,
                said.first_log_time_ns,
                said.last_log_time_ns,
                file.first_bag,
                file.path,
            )


def _add_schema(first: SchemaTotal, second: SchemaTotal) -> SchemaTotal:
    earliest = min(first, second, key=_by_time)
    lasts = [each.last_log_time_ns for each in (first, second) if each.last_log_time_ns is not None]
    return dataclasses.replace(
        earliest, rows=first.rows + second.rows, last_log_time_ns=max(lasts, default=None)
    )


def add_schemas(schemas: Iterable[SchemaTotal]) -> tuple[SchemaTotal, ...]:
    """All together, in the order of their first log times; those of the same digits are one."""
    added: dict[str, SchemaTotal] = {}
    for each in schemas:
        known = added.get(each.schema)
        added[each.schema] = each if known is None else _add_schema(known, each)
    return tuple(sorted(added.values(), key=_by_time))


def _by_time(schema: SchemaTotal) -> tuple[bool, int, str]:
    return schema.first_log_time_ns is None, schema.first_log_time_ns or 0, schema.schema


def standing_manifests(manifests: Iterable[Manifest], commits: Iterable[DriveManifest]) -> list[Manifest]:
    """The manifests whose rows are the drive's: of all its shard manifests and drive manifests.

    A manifest is a commit of its own, but for these: a later commit has replaced its plan; its plan replaces
    others (``overwrite``) and is not committed yet, so that readers see the old or the new; another run took
    the drive before it was there, and does its work.
    """
    commits = tuple(commits)
    superseded = {plan_id for commit in commits for plan_id in commit.replaces}
    last_words = {commit.plan_id: commit for commit in commits}
    return [
        manifest
        for manifest in manifests
        if manifest.plan_id not in superseded
        and not is_void(manifest.shard, last_words.get(manifest.plan_id))
        and (manifest.plan_id in last_words or not manifest.replaces)
    ]


def lacking_manifests(commits: Iterable[DriveManifest], there: Iterable[tuple[str, int]]) -> str:
    """What is said of a drive that lacks manifests which its commits count; empty where all are there.

    ``there`` has plan and shard of each manifest. No run removes any of a commit that stands: somebody else
    did, and rows would be missing without a word.
    """
    commits = tuple(commits)
    superseded = {plan_id for commit in commits for plan_id in commit.replaces}
    last_words = {commit.plan_id: commit for commit in commits}
    counts = Counter(plan_id for plan_id, shard in there if not is_void(shard, last_words.get(plan_id)))
    lacking = [
        f"{commit.shards - counts[commit.plan_id]} of {commit.shards} shards' manifests in "
        f"{manifest_folder(commit.drive_id, commit.plan_id)} are gone"
        for commit in commits
        if commit.plan_id not in superseded and counts[commit.plan_id] < commit.shards
    ]
    return "; ".join(lacking)


def is_void(shard: int, last_word: DriveManifest | None) -> bool:
    """Whether the shard's manifest came after another run had taken the drive from its plan."""
    return last_word is not None and last_word.taken_over_by is not None and shard not in last_word.counted


def covered_bags(standing: Iterable[Manifest], options: ExtractOptions) -> set[tuple[str, int, str]]:
    """(name, size, ETag) of the bags that standing manifests cover whole, with options of the same rows.

    A bag that could not be read is not covered; see `unreadable_bags`.
    """
    slices: dict[tuple[str, int, str], set[BagSlice]] = {}
    for manifest in standing:
        if make_same_rows(manifest.options, options):
            for bag in manifest.bags:
                if bag.status is not BagStatus.UNREADABLE:
                    place = dataclasses.replace(bag.slice, bag=0)
                    slices.setdefault(bag.content, set()).add(place)
    return {
        bag
        for bag, done in slices.items()
        if any(number == count for count, number in Counter(each.count for each in done).items())
    }


def unreadable_bags(
    standing: Iterable[Manifest], options: ExtractOptions, *, engine_version: str
) -> dict[tuple[str, int, str], str]:
    """Why bags, by (name, size, ETag), cannot be read, as standing manifests say: it would be the same again.

    Not those that another try may read: by another version of the engine than ``engine_version``, with other
    options, with more memory.
    """
    return {
        bag.content: bag.damage[0].reason
        for manifest in standing
        if manifest.engine_version == engine_version and make_same_rows(manifest.options, options)
        for bag in manifest.bags
        if bag.status is BagStatus.UNREADABLE
        and bag.damage
        and not any(_MORE_MEMORY in damage.reason for damage in bag.damage)
    }


def bag_version(manifest: Manifest, bag: BagResult) -> Hashable:
    """Equal where slices are of one whole: of the same content, cut alike, with the same choice of rows."""
    return bag.content, bag.slice.count, what_makes_rows(manifest.options)


def counting_bags(standing: Iterable[Manifest]) -> list[BagResult]:
    """What counts of each bag where several runs have had it, by name.

    Of the versions of a bag (`bag_version`) those that gave rows, or the last; of a slice that could not be
    read, and then could, what was read.
    """
    tried: dict[str, dict[Hashable, list[tuple[str, BagResult]]]] = {}
    for manifest in standing:
        for bag in manifest.bags:
            versions = tried.setdefault(bag.name, {})
            versions.setdefault(bag_version(manifest, bag), []).append((manifest.finished_at, bag))
    counting: list[BagResult] = []
    for name in sorted(tried):
        versions_of = list(tried[name].values())
        with_rows = [results for results in versions_of if any(bag.extracted for _, bag in results)]
        for results in with_rows or [max(versions_of, key=lambda results: max(when for when, _ in results))]:
            read = {bag.slice.index for _, bag in results if bag.status is not BagStatus.UNREADABLE}
            counting += [
                bag
                for _, bag in results
                if bag.status is not BagStatus.UNREADABLE or bag.slice.index not in read
            ]
    return counting


def add_transforms(first: Iterable[Transformed], second: Iterable[Transformed]) -> tuple[Transformed, ...]:
    """Both together: those of one name, distribution and version are one."""
    added: dict[tuple[str, str, str], Transformed] = {}
    for each in (*first, *second):
        known = added.get((each.name, each.distribution, each.version))
        added[each.name, each.distribution, each.version] = (
            each
            if known is None
            else dataclasses.replace(
                each, rows_in=known.rows_in + each.rows_in, rows_out=known.rows_out + each.rows_out
            )
        )
    return tuple(added.values())


def _with(values: tuple[str, ...], value: str) -> tuple[str, ...]:
    return values if value in values else (*values, value)
