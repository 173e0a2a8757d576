"""A drive's shards, page by page: what each is, why it failed, and where its job and log are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_batch_ros import console
from airflow_batch_ros.drives_page.lines import DriveLine, read_lines, records_of
from airflow_batch_ros.failures import FailedShard, failed_shards
from airflow_batch_ros.jobs import (
    DEFAULT_LOG_GROUP,
    DESCRIBE_LIMIT,
    Progress,
    Work,
    describe,
    drive_job,
    job_state,
    log_group,
)
from airflow_batch_ros.lake import DriveFolder, Lake, drive_folder
from airflow_batch_ros.runs import RunDrive
from airflow_batch_ros.status import ShardState, shard_states
from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, FinishRecord, Generation, Plan, one_line

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

SHARDS_A_PAGE = DESCRIBE_LIMIT
"""So that a page costs one DescribeJobs."""

_NOTHING = DriveFolder({}, {}, {}, None, None)
_NONE = Progress((), False)


@dataclass(frozen=True, slots=True)
class DriveShards:
    """A drive with the state of each of its shards; empty where it has no plan (yet), or was replaced.

    Attributes:
        bag_bytes: stored, of the plan's bags.
        commit: the drive's manifest, where it is there.
        finish: what was done after that.
    """

    line: DriveLine
    states: tuple[ShardState, ...] = ()
    bag_bytes: int = 0
    commit: DriveManifest | None = None
    finish: FinishRecord | None = None
    plan: Plan | None = None
    folder: DriveFolder = _NOTHING
    progress: Progress = _NONE

    @property
    def counts(self) -> dict[ShardState, int]:
        return dict(Counter(self.states))

    def of(self, state: str) -> list[int]:
        """The shards in a state; all where none is named."""
        return [shard for shard, each in enumerate(self.states) if state in ("", each)]


@dataclass(frozen=True, slots=True)
class ShardLine:
    """One shard, with what Batch knows of the job that ran it last."""

    shard: int
    state: ShardState
    cause: str = ""
    reason: str = ""
    job_id: str = ""
    job_url: str = ""
    log_url: str = ""
    attempts: int = 0
    seconds: float | None = None


def read_drive(batch: BatchClient, lake: Lake, drive: RunDrive) -> DriveShards:
    """How a drive of a run stands, shard by shard.

    Lists its manifests (a request a thousand of them) unless it is committed; reads none of them.

    Raises:
        ContractError: a plan or manifest is of another version.
    """
    (line,) = read_lines(batch, lake, [drive])
    plan = lake.load(Plan, contract.plan_key(drive.drive_id, drive.plan_id))
    if plan is None:
        return DriveShards(line)
    records = records_of(lake, drive.drive_id, drive.plan_id)
    last = records[-1] if records else None
    generation = None
    if last is not None:
        key = contract.generation_key(drive.drive_id, drive.plan_id, last.generation)
        generation = lake.load(Generation, key)
        line = replace(line, job_id=last.job_id)
    detail = describe(batch, [last.job_id]).get(last.job_id) if last else None
    progress = Progress((), line.committed, generation, last, job_state(detail), detail)
    size = sum(bag.size_bytes for bag in plan.bags)
    if line.committed:
        commit = lake.load(DriveManifest, contract.drive_manifest_key(drive.drive_id, drive.plan_id))
        every = range(len(plan.shards))
        done = frozenset(every if commit is None or commit.taken_over_by is None else commit.counted)
        states = [ShardState.DONE if shard in done else ShardState.FAILED for shard in every]
        finish = lake.load(FinishRecord, contract.finish_key(drive.drive_id, drive.plan_id))
        return DriveShards(line, tuple(states), size, commit, finish, plan, progress=progress)
    if line.replaced:
        return DriveShards(line, bag_bytes=size, plan=plan, progress=progress)
    folder = drive_folder(lake, drive.drive_id, drive.plan_id)
    states = shard_states(batch, plan, folder, progress)
    return DriveShards(line, tuple(states), size, None, None, plan, folder, progress)


def read_shards(
    batch: BatchClient, lake: Lake, drive: DriveShards, shards: Sequence[int], *, console_base: str
) -> list[ShardLine]:
    """Of at most `SHARDS_A_PAGE` shards: the job that ran each, and why it failed if it did."""
    generation, record = drive.progress.generation, drive.progress.record
    places = {shard: place for place, shard in enumerate(generation.shards)} if generation else {}
    ids: dict[int, str] = {}
    if record is not None:
        for shard in shards:
            if shard in places:
                ids[shard] = f"{record.job_id}:{places[shard]}" if record.array_size else record.job_id
    details = describe(batch, list(dict.fromkeys(ids.values())))
    failed = [shard for shard in shards if drive.states[shard] is ShardState.FAILED]
    why = _why(batch, lake, drive, failed, console_base)
    region = batch.meta.region_name

    def one(shard: int) -> ShardLine:
        job_id = ids.get(shard, "")
        detail = details.get(job_id)
        line = ShardLine(shard, drive.states[shard], job_id=job_id)
        if job_id and console_base:
            line = replace(line, job_url=console.job_url(console_base, region, job_id))
        if detail:
            line = replace(
                line,
                attempts=len(detail.get("attempts") or ()),
                seconds=_seconds(detail),
                log_url=_log_url(detail, console_base, region),
            )
        if shard in why:
            found = why[shard]
            line = replace(line, cause=str(found.cause), reason=one_line(found.reason))
            if found.log_stream and found.url:
                line = replace(line, log_url=found.url)
        return line

    return [one(shard) for shard in shards]


def _why(
    batch: BatchClient, lake: Lake, drive: DriveShards, failed: Sequence[int], console_base: str
) -> dict[int, FailedShard]:
    if not failed or drive.plan is None or drive.line.committed:
        return {}
    progress = drive.progress
    queue = progress.record.job_queue if progress.record else ""
    job = drive_job(
        drive.plan, Work.SUBMITTED, progress.record, submitted_shards=0, job_queue=queue, fail_on=()
    )
    if console_base and job.job_id:
        url = console.job_url(console_base, batch.meta.region_name, job.job_id)
        job = replace(job, console_url=url)
    found = failed_shards(batch, lake, job, drive.folder, failed, progress.detail)
    return {shard.shard: shard for shard in found}


def _seconds(detail: dict[str, Any]) -> float | None:
    started, stopped = detail.get("startedAt"), detail.get("stoppedAt")
    return (stopped - started) / 1000 if started and stopped else None


def _log_url(detail: dict[str, Any], base: str, region: str) -> str:
    stream = (detail.get("container") or {}).get("logStreamName")
    return (
        console.log_url(base, region, log_group(detail) or DEFAULT_LOG_GROUP, stream)
        if stream and base
        else ""
    )
