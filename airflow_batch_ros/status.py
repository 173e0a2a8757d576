"""How a run's drives stand now, shard by shard and bag by bag: manifests, records and Batch. Only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_batch_ros import planning
from airflow_batch_ros.failures import FailedShard, failed_shards
from airflow_batch_ros.jobs import DriveJob, Progress, Work, drive_job, read_progress
from airflow_batch_ros.lake import DRIVE_THREADS, DriveFolder, Lake, drive_folder
from airflow_batch_ros.runs import RunDrive
from airflow_batch_ros.summary import summarize_drive
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    MAX_REASONS,
    BagResult,
    BagSlice,
    BagStatus,
    ContractError,
    DriveManifest,
    DriveState,
    Manifest,
    Plan,
)

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient


class ShardState(StrEnum):
    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    WAITING = "waiting"


class Underway(StrEnum):
    """States of a drive that has not ended; see `contract.DriveState` for the others."""

    PLANNING = "planning"
    NOT_PLANNED = "not_planned"
    NOT_SUBMITTED = "not_submitted"
    WAITING = "waiting"
    RUNNING = "running"
    UNKNOWN = "unknown"
    """A record of the drive is not what it should be, or of another version."""


COVERED = "in_the_lake"
"""State of a bag that an earlier run extracted."""

REPLACED = "replaced"
"""State of a bag of a drive that another run has replaced."""

_RUNNING = ("STARTING", "RUNNING")


@dataclass(frozen=True, slots=True)
class BagStanding:
    """How a bag stands.

    Attributes:
        state: a `BagStatus` once all its slices are done, else a `ShardState`; `COVERED` where an earlier run
            has extracted it, `REPLACED` where a later one has replaced the drive.
        slices, slices_done: of the plan.
        messages, extracted: found, and of those wanted; in the slices that are done.
        damage: what could not be read; the first, with its offset.
    """

    name: str
    state: str
    size_bytes: int = 0
    slices: int = 0
    slices_done: int = 0
    messages: int = 0
    extracted: int = 0
    damage: str = ""


@dataclass(frozen=True, slots=True)
class DriveStanding:
    """How a drive stands.

    Attributes:
        state: a `DriveState` where it has ended, else `Underway`.
        shards: how many are in which state; none of a drive that another run has replaced.
        result: what the manifests there are say.
        failing: whether it has ended in a state that the conf's ``fail_on`` names.
        failed_shards: the first `MAX_REASONS`, with their reasons.
        report: URI of the drive's report; empty where there is none.
    """

    drive_id: str
    source: str
    state: DriveState | Underway
    shards: Mapping[ShardState, int] = field(default_factory=dict)
    result: DriveManifest | None = None
    failing: bool = False
    failed_shards: tuple[FailedShard, ...] = ()
    notes: tuple[str, ...] = ()
    job: DriveJob | None = None
    job_state: str | None = None
    bags: tuple[BagStanding, ...] = ()
    report: str = ""

    @property
    def ended(self) -> bool:
        return isinstance(self.state, DriveState)


def read_standings(
    batch: BatchClient, lake: Lake, drives: Sequence[RunDrive], *, bags: bool = False
) -> list[DriveStanding]:
    """How each drive stands, in their order; with ``bags`` each of its bags too."""

    def one(drive: RunDrive) -> DriveStanding:
        try:
            return read_standing(batch, lake, drive, bags=bags)
        except ContractError as error:
            return DriveStanding(drive.drive_id, drive.source.uri, Underway.UNKNOWN, notes=(str(error),))

    with ThreadPoolExecutor(DRIVE_THREADS, thread_name_prefix="drives") as pool:
        standings = list(pool.map(one, drives))
    open_states = (Underway.NOT_PLANNED, Underway.NOT_SUBMITTED)
    runs = {
        drive.record.run
        for drive, standing in zip(drives, standings, strict=True)
        if standing.state in open_states
    }
    plannings = {run: planning.find(batch, lake, run) for run in runs}
    return [
        _with_planning(drive, standing, plannings[drive.record.run])
        if standing.state in open_states
        else standing
        for drive, standing in zip(drives, standings, strict=True)
    ]


def _with_planning(
    drive: RunDrive, standing: DriveStanding, found: planning.Planning | None
) -> DriveStanding:
    """A drive that was not submitted, with what is known of the Batch job that plans its run."""
    if found is None:
        return standing
    if found.live:
        return replace(standing, state=Underway.PLANNING, notes=(found.said,))
    if found.failed:
        failing = contract.fails_on(drive.record.conf.fail_on, DriveState.FAILED)
        return replace(standing, state=DriveState.FAILED, failing=failing, notes=(found.said,))
    return standing


def read_standing(batch: BatchClient, lake: Lake, drive: RunDrive, *, bags: bool) -> DriveStanding:
    """How one drive stands.

    Raises:
        ContractError: a plan or manifest is none, or of another version.
    """
    plan = lake.load(Plan, contract.plan_key(drive.drive_id, drive.plan_id))
    if plan is None:
        return DriveStanding(drive.drive_id, drive.source.uri, Underway.NOT_PLANNED)
    queue = drive.record.submit_options.job_queue
    progress = read_progress(batch, lake, plan, job_queue=queue, write=False)
    job = drive_job(
        plan,
        Work.SUBMITTED if plan.shards else Work.NOTHING,
        progress.record,
        submitted_shards=len(progress.generation.shards) if progress.generation else 0,
        job_queue=queue,
        fail_on=drive.record.conf.fail_on,
    )
    folder = drive_folder(lake, plan.drive_id, plan.plan_id)
    live = progress.live and not folder.commit
    states = shard_states(batch, plan, folder, progress)
    counts = Counter(states)
    so_far: DriveManifest | None = None
    of_bags: list[Manifest] = []
    if bags or live:
        keys = [folder.shards[shard] for shard in sorted(folder.shards)]
        so_far = contract.fold(plan, _noted(lake.load_all(Manifest, keys), of_bags if bags else None))
    standings = bag_standings(plan, of_bags, states) if bags else ()
    if live:
        failing = [shard for shard, state in enumerate(states) if state is ShardState.FAILED]
        return DriveStanding(
            plan.drive_id,
            plan.source,
            Underway.RUNNING if counts[ShardState.RUNNING] or counts[ShardState.DONE] else Underway.WAITING,
            counts,
            so_far,
            failed_shards=tuple(
                failed_shards(batch, lake, job, folder, failing[:MAX_REASONS], progress.detail)
            ),
            job=job,
            job_state=progress.state,
            bags=standings,
        )
    if plan.shards and not folder.commit and progress.record is None:
        return DriveStanding(
            plan.drive_id, plan.source, Underway.NOT_SUBMITTED, counts, job=job, bags=standings
        )
    summary = summarize_drive(batch, lake, job, progress.detail)
    if summary.replaced:
        counts.clear()
        standings = tuple(BagStanding(bag.name, REPLACED, bag.size_bytes) for bag in plan.bags if bags)
    return DriveStanding(
        plan.drive_id,
        plan.source,
        summary.state,
        counts,
        summary.result,
        summary.failed,
        summary.failed_shards,
        summary.notes,
        job,
        summary.job_state,
        standings,
        summary.report,
    )


def _noted(manifests: Iterable[Manifest], of_bags: list[Manifest] | None) -> Iterator[Manifest]:
    """The manifests as they come; what they say of bags is kept, and of topics not: those of 10,000 shards do
    not fit into memory."""
    for manifest in manifests:
        if of_bags is not None:
            of_bags.append(replace(manifest, topics=()))
        yield manifest


def shard_states(batch: BatchClient, plan: Plan, folder: DriveFolder, progress: Progress) -> list[ShardState]:
    """The state of each shard: its manifest's word first, then Batch's of the last job."""
    ended = progress.record is not None and not progress.live
    states = [
        ShardState.DONE if shard in folder.shards else ShardState.FAILED if ended else ShardState.WAITING
        for shard in range(len(plan.shards))
    ]
    if ended or progress.record is None or progress.generation is None:
        return states
    shards = progress.generation.shards
    if not progress.record.array_size:
        seen = {shards[0]: progress.state}
    else:
        seen = {
            shards[index]: status
            for status in (*_RUNNING, "FAILED")
            for index in _children(batch, progress.record.job_id, status)
        }
    for shard, status in seen.items():
        if states[shard] is not ShardState.DONE and status in (*_RUNNING, "FAILED"):
            states[shard] = ShardState.FAILED if status == "FAILED" else ShardState.RUNNING
    return states


def _children(batch: BatchClient, job_id: str, status: str) -> Iterable[int]:
    """The indexes of an array's children in one state."""
    pages = batch.get_paginator("list_jobs").paginate(arrayJobId=job_id, jobStatus=status)  # type: ignore[arg-type]
    for page in pages:
        for job in page["jobSummaryList"]:
            yield job["arrayProperties"]["index"]


def bag_standings(
    plan: Plan, manifests: Iterable[Manifest], states: Sequence[ShardState]
) -> tuple[BagStanding, ...]:
    """How each of the plan's bags stands, in its order, then those that earlier runs have had."""
    parts: dict[str, list[ShardState]] = {}
    for shard, slices in enumerate(plan.shards):
        for part in slices:
            parts.setdefault(plan.bags[part.bag].name, []).append(states[shard])
    results: dict[str, dict[BagSlice, BagResult]] = {}
    for manifest in manifests:
        for bag in manifest.bags:
            results.setdefault(bag.name, {})[bag.slice] = bag
    found = [
        _bag_standing(bag.name, bag.size_bytes, parts[bag.name], list(results.get(bag.name, {}).values()))
        for bag in plan.bags
    ]
    covered = (BagStanding(name, COVERED) for name in plan.covered)
    left = (BagStanding(bag.name, BagStatus.UNREADABLE, damage=bag.reason) for bag in plan.unreadable)
    return (*found, *covered, *left)


def _bag_standing(
    name: str, size_bytes: int, parts: Sequence[ShardState], results: Sequence[BagResult]
) -> BagStanding:
    open_states = [state for state in parts if state is not ShardState.DONE]
    if open_states:
        state = str(min(open_states, key=[ShardState.FAILED, ShardState.RUNNING, ShardState.WAITING].index))
    else:
        state = str(max((bag.status for bag in results), key=list(BagStatus).index, default=BagStatus.OK))
    damage = [each for bag in results for each in bag.damage]
    at = f"offset {damage[0].offset}: " if damage and damage[0].offset >= 0 else ""
    return BagStanding(
        name=name,
        state=state,
        size_bytes=size_bytes,
        slices=len(parts),
        slices_done=sum(part is ShardState.DONE for part in parts),
        messages=sum(bag.messages for bag in results),
        extracted=sum(bag.extracted for bag in results),
        damage=f"{at}{damage[0].reason}" if damage else "",
    )
