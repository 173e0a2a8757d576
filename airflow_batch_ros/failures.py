"""Shards that left no manifest: the cause of each, its reason in words, its last log lines and its link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_batch_ros import console
from airflow_batch_ros.causes import Cause, cause_of, last_exit_code
from airflow_batch_ros.jobs import (
    DEFAULT_LOG_GROUP,
    DESCRIBE_LIMIT,
    DriveJob,
    batch_reasons,
    describe,
    describe_exit,
    end_reason,
    log_group,
)
from airflow_batch_ros.lake import DriveFolder, Lake, error_code
from ros_to_parquet import contract
from ros_to_parquet.contract import FailedRecord, Generation, StartedRecord

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_logs import CloudWatchLogsClient

Left = TypeVar("Left", FailedRecord, StartedRecord)

LOG_LINES = 5
"""Last lines of a failed shard's log that are shown."""

LOG_LINE_LENGTH = 300

LOGS_A_DRIVE = 3
"""Failed shards of a drive whose lines are shown: the first of each cause."""

LOGS_A_RUN = 10

_EMPTY_PAGES = 3
"""CloudWatch may answer without lines though it has some, and then says where to ask again."""


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard without a manifest, and why.

    Attributes:
        reason: in words: the engine's own, else Batch's.
        job_id: the Batch job, or the array's child, that ran it last; empty where none did.
        url: the console's page of its log, else of its job; empty where the console is not known.
        log_lines: the last ones, where they were asked for; in brackets why there are none.
    """

    shard: int
    cause: Cause
    reason: str
    exit_code: int | None = None
    job_id: str = ""
    log_group: str = ""
    log_stream: str = ""
    url: str = ""
    log_lines: tuple[str, ...] = ()


def failed_shards(
    batch: BatchClient,
    lake: Lake,
    job: DriveJob,
    folder: DriveFolder,
    missing: Sequence[int],
    detail: Mapping[str, Any] | None,
) -> Iterator[FailedShard]:
    """Why each of the ``missing`` shards has no manifest: its own record, else what Batch says.

    ``detail`` is the drive's job as DescribeJobs has it; None where Batch does not know it. What is read of a
    shard is let go of before many others are: of thousands it is hundreds of MB.
    """
    generation = (
        None
        if job.job_id is None or job.generation is None
        else lake.load(Generation, contract.generation_key(job.drive_id, job.plan_id, job.generation))
    )
    batch_ids = _batch_ids(job, generation, missing)
    region = batch.meta.region_name
    base = (
        console.base_of(job.console_url)
        if job.console_url
        else console.base_for(batch.meta.endpoint_url, region)
    )
    for first in range(0, len(missing), DESCRIBE_LIMIT):
        some = missing[first : first + DESCRIBE_LIMIT]
        ids = [batch_ids[shard] for shard in some if shard in batch_ids]
        details = describe(batch, ids) if job.array_size else {}
        if job.job_id and detail is not None:
            details[job.job_id] = dict(detail)
        unheard = [shard for shard in some if not _last_stream(details.get(batch_ids.get(shard, "")))]
        records = _by_shard(lake, FailedRecord, folder.failed, some)
        starts = _by_shard(lake, StartedRecord, folder.started, unheard)
        for shard in some:
            job_id = batch_ids.get(shard, "")
            own = details.get(job_id)
            started = starts.get(shard)
            failed = _explain(shard, records.get(shard), own, job_id)
            stream = _last_stream(own)
            if not stream and started and (own is None or started.job_id in ("", job_id)):
                stream = started.log_stream
            group = log_group(own) or DEFAULT_LOG_GROUP
            url = ""
            if base and (stream or job_id):
                url = (
                    console.log_url(base, region, group, stream)
                    if stream
                    else console.job_url(base, region, job_id)
                )
            yield replace(failed, log_group=group, log_stream=stream, url=url)


def add_log_lines(
    logs: CloudWatchLogsClient, shards: Sequence[FailedShard], *, at_most: int = LOGS_A_DRIVE
) -> tuple[FailedShard, ...]:
    """The shards, with the last log lines of the first of each cause."""
    first: dict[Cause, int] = {}
    for place, shard in enumerate(shards):
        if shard.log_stream or shard.url:
            first.setdefault(shard.cause, place)
    chosen = set(list(first.values())[:at_most])
    return tuple(
        replace(shard, log_lines=_lines_of(logs, shard)) if place in chosen else shard
        for place, shard in enumerate(shards)
    )


def _lines_of(logs: CloudWatchLogsClient, shard: FailedShard) -> tuple[str, ...]:
    if not shard.log_stream:
        return ("(it left no log)",)
    return last_lines(logs, shard.log_group, shard.log_stream)


def last_lines(logs: CloudWatchLogsClient, group: str, stream: str) -> tuple[str, ...]:
    """The last lines of a log stream, cut to `LOG_LINE_LENGTH`; one in brackets where there are none."""
    from botocore.exceptions import BotoCoreError, ClientError

    place: dict[str, Any] = {}
    try:
        for _ in range(_EMPTY_PAGES):
            page = logs.get_log_events(
                logGroupName=group, logStreamName=stream, limit=LOG_LINES, startFromHead=False, **place
            )
            if page["events"]:
                lines = [line for event in page["events"] for line in event["message"].splitlines()]
                return tuple(_cut(line) for line in lines[-LOG_LINES:])
            place = {"nextToken": page["nextBackwardToken"]}
    except ClientError as error:
        if error_code(error) != "ResourceNotFoundException":
            return (_cut(f"(its log cannot be read: {error})"),)
        return (_cut(f"(CloudWatch has no stream {stream} in {group})"),)
    except BotoCoreError as error:
        return (_cut(f"(its log cannot be read: {error})"),)
    return ("(its log is empty)",)


def _explain(
    shard: int, record: FailedRecord | None, own: Mapping[str, Any] | None, job_id: str
) -> FailedShard:
    """Cause and reason of one shard, by its record and its Batch job ``own``."""
    if record is not None and own is not None and not _is_last(record, own, job_id):
        record = None  # of an earlier attempt or generation: it says less than Batch does of the last one
    if record is not None:
        said = batch_reasons(own) if own is not None else []
        reason = "; ".join([f"{describe_exit(record.exit_code)}: {record.reason}", *said])
        cause = cause_of(own, exit_code=record.exit_code, reason=record.reason)
        return FailedShard(shard, cause, reason, record.exit_code, job_id)
    if own is not None:
        return FailedShard(shard, cause_of(own), end_reason(own), last_exit_code(own), job_id)
    return FailedShard(shard, Cause.LOST, _unknown(job_id), job_id=job_id)


def _is_last(record: FailedRecord, own: Mapping[str, Any], job_id: str) -> bool:
    return record.job_id in ("", job_id) and record.attempt >= len(own.get("attempts") or [])


def _by_shard(
    lake: Lake, kind: type[Left], keys: Mapping[int, str], shards: Sequence[int]
) -> dict[int, Left]:
    wanted = [keys[shard] for shard in shards if shard in keys]
    return {record.shard: record for record in lake.load_all(kind, wanted)}


def _batch_ids(job: DriveJob, generation: Generation | None, missing: Sequence[int]) -> dict[int, str]:
    """The Batch job, or the array's child, that ran each shard in the job's generation."""
    places = {shard: index for index, shard in enumerate(generation.shards)} if generation else {}
    return {
        shard: f"{job.job_id}:{places[shard]}" if job.array_size else str(job.job_id)
        for shard in missing
        if shard in places
    }


def _last_stream(detail: Mapping[str, Any] | None) -> str:
    return str(((detail or {}).get("container") or {}).get("logStreamName") or "")


def _unknown(job_id: str) -> str:
    if not job_id:
        return "was not submitted"
    return (
        f"Batch does not know job {job_id} (it forgets a job about a week after its end, and asks region and "
        "account of the connection), and the shard left no record"
    )


def _cut(text: str) -> str:
    return text if len(text) <= LOG_LINE_LENGTH else f"{text[: LOG_LINE_LENGTH - 3]}..."
