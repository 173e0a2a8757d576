"""``airflow-batch-ros logs``: what the shards of a run wrote, from CloudWatch, with drive and shard named."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.looking import FoundRun, add_run, find_run
from airflow_batch_ros.commands.terminal import EXIT_HELP, CommandError, Exit, guarded

if TYPE_CHECKING:
    from airflow_batch_ros.runs import RunDrive
    from ros_to_parquet.contract import Plan

DEFAULT_LOG_GROUP = "/aws/batch/job"
"""Where Batch jobs log unless their definition says otherwise."""

FOLLOW_S = 2.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "logs",
        help="the CloudWatch lines of a run's shards, by default of those that failed",
        description="Prints what shards wrote to CloudWatch, each line with its drive and shard: of shards "
        "that failed, of those named, or of all. What is not there is said on stderr.",
        epilog=EXIT_HELP,
    )
    add_run(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--shard", type=int, action="append", metavar="N", help="this shard, however it ended; repeatable"
    )
    which.add_argument("--all", action="store_true", help="all shards that have begun")
    parser.add_argument(
        "--follow", action="store_true", help="go on with the lines of what runs, until all has ended"
    )
    settings_of.add_connection(parser)
    parser.set_defaults(run=guarded(_logs))


@dataclass(frozen=True, slots=True)
class Stream:
    """A log stream of a shard. ``attempt`` is 0 where the job had but one, or which it was is not known."""

    drive_id: str
    shard: int
    group: str
    name: str
    attempt: int = 0

    @property
    def label(self) -> str:
        return f"{self.drive_id}/{self.shard}" + (f"#{self.attempt}" if self.attempt else "")


def _logs(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    tokens: dict[Stream, str | None] = {}
    told: set[str] = set()
    lines = 0
    while True:
        # Before the lines: those of a shard that ends meanwhile are read in full then.
        live, streams, notes = _find_streams(arguments, run)
        for note in notes:
            if note not in told:
                told.add(note)
                print(note, file=sys.stderr, flush=True)
        for stream in dict.fromkeys([*tokens, *streams]):
            for text in _new_lines(run, stream, tokens, told):
                print(f"{stream.label} | {text}", flush=True)
                lines += 1
        if not (arguments.follow and live):
            break
        time.sleep(FOLLOW_S)
    if not tokens and not told:
        print("no shard has failed; --shard N or --all shows others", file=sys.stderr)
    return Exit.OK


def _new_lines(
    run: FoundRun, stream: Stream, tokens: dict[Stream, str | None], told: set[str]
) -> Iterator[str]:
    """The stream's lines since the last time; what is missing is said, once."""
    from botocore.exceptions import ClientError

    from airflow_batch_ros.lake import error_code

    token = tokens.setdefault(stream, None)
    while True:
        place: dict[str, Any] = {"nextToken": token} if token else {}
        try:
            page = run.clients.logs.get_log_events(
                logGroupName=stream.group, logStreamName=stream.name, startFromHead=True, **place
            )
        except ClientError as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            if stream.name not in told:
                told.add(stream.name)
                print(
                    f"drive {stream.drive_id}, shard {stream.shard}: CloudWatch has no stream {stream.name} "
                    f"in {stream.group}: nothing was written, or it is past the group's retention",
                    file=sys.stderr,
                    flush=True,
                )
            return
        for event in page["events"]:
            yield from event["message"].splitlines() or [""]
        if page["nextForwardToken"] == token:
            tokens[stream] = token
            return
        token = page["nextForwardToken"]


def _find_streams(arguments: argparse.Namespace, run: FoundRun) -> tuple[bool, list[Stream], list[str]]:
    """Whether something is live, the streams of the shards asked for, and what is to be said of others."""
    from ros_to_parquet import contract
    from ros_to_parquet.contract import Plan

    live, streams, notes = False, [], []
    for drive in run.drives:
        plan = run.lake.load(Plan, contract.plan_key(drive.drive_id, drive.plan_id))
        if plan is None:
            notes.append(f"drive {drive.drive_id}: it has no plan, so nothing of it was submitted")
            continue
        drive_live, found, missing = _of_drive(arguments, run, drive, plan)
        live = live or drive_live
        streams += found
        notes += missing
    return live, streams, notes


def _of_drive(
    arguments: argparse.Namespace, run: FoundRun, drive: RunDrive, plan: Plan
) -> tuple[bool, list[Stream], list[str]]:
    from airflow_batch_ros.jobs import read_progress
    from airflow_batch_ros.lake import drive_folder
    from airflow_batch_ros.status import ShardState, shard_states

    queue = drive.record.submit_options.job_queue
    progress = read_progress(run.clients.batch, run.lake, plan, job_queue=queue, write=False)
    folder = drive_folder(run.lake, plan.drive_id, plan.plan_id)
    states = shard_states(run.clients.batch, plan, folder, progress)
    shards = _chosen(arguments, plan, states)
    if arguments.follow and not arguments.shard:
        shards = sorted({*shards, *(n for n, state in enumerate(states) if state is ShardState.RUNNING)})
    jobs = _jobs_of(run, plan, shards)
    details = _describe(run, sorted(set(jobs.values())))
    from ros_to_parquet.contract import StartedRecord

    starts = {
        record.shard: record.log_stream
        for record in run.lake.load_all(
            StartedRecord, [folder.started[shard] for shard in shards if shard in folder.started]
        )
    }
    streams: list[Stream] = []
    notes: list[str] = []
    groups: dict[str, str] = {}
    for shard in shards:
        detail = details.get(jobs.get(shard, ""))
        names = _stream_names(detail) or ([starts[shard]] if starts.get(shard) else [])
        if names:
            group = _group(run, drive, detail, groups)
            many = len(names) > 1
            streams += [
                Stream(plan.drive_id, shard, group, name, attempt if many else 0)
                for attempt, name in enumerate(names, 1)
            ]
        elif not (arguments.follow and states[shard] in (ShardState.WAITING, ShardState.RUNNING)):
            notes.append(f"drive {plan.drive_id}, shard {shard}: {_why_none(shard in jobs, detail)}")
    return progress.live, streams, notes


def _chosen(arguments: argparse.Namespace, plan: Plan, states: Sequence[Any]) -> list[int]:
    from airflow_batch_ros.status import ShardState

    if arguments.shard:
        if beyond := [shard for shard in arguments.shard if not 0 <= shard < len(states)]:
            raise CommandError(
                f"drive {plan.drive_id} has no shard {', '.join(map(str, beyond))}: it has {len(states)}, "
                "the first is 0",
                Exit.USAGE,
            )
        return sorted(set(arguments.shard))
    wanted = {ShardState.FAILED}
    if arguments.all:
        wanted |= {ShardState.DONE, ShardState.RUNNING}
    return [shard for shard, state in enumerate(states) if state in wanted]


def _jobs_of(run: FoundRun, plan: Plan, shards: Sequence[int]) -> dict[int, str]:
    """The Batch job, or the array's child, that each shard was last given to."""
    from airflow_batch_ros.jobs import recorded_jobs
    from ros_to_parquet import contract
    from ros_to_parquet.contract import Generation

    jobs: dict[int, str] = {}
    for record in recorded_jobs(run.lake, plan.drive_id, plan.plan_id):
        key = contract.generation_key(plan.drive_id, plan.plan_id, record.generation)
        generation = run.lake.load(Generation, key)
        for index, shard in enumerate(generation.shards if generation else ()):
            if shard in shards:
                jobs[shard] = f"{record.job_id}:{index}" if record.array_size else record.job_id
    return jobs


def _describe(run: FoundRun, job_ids: Sequence[str]) -> dict[str, Any]:
    from airflow_batch_ros.jobs import describe

    return describe(run.clients.batch, job_ids)


def _stream_names(detail: Mapping[str, Any] | None) -> list[str]:
    """The streams of a job's attempts, oldest first."""
    if detail is None:
        return []
    parts = [
        *(each.get("container") or {} for each in detail.get("attempts") or []),
        detail.get("container") or {},
    ]
    return list(dict.fromkeys(part["logStreamName"] for part in parts if part.get("logStreamName")))


def _group(run: FoundRun, drive: RunDrive, detail: Mapping[str, Any] | None, known: dict[str, str]) -> str:
    """The log group: the job's own, or its definition's where Batch has forgotten the job."""
    from airflow_batch_ros.jobs import log_group

    if detail is not None:
        return log_group(detail) or DEFAULT_LOG_GROUP
    definition = drive.record.submit_options.job_definition
    if definition not in known:
        known[definition] = _definitions_group(run, definition)
    return known[definition]


def _definitions_group(run: FoundRun, definition: str) -> str:
    """The log group that a job definition names: by its ARN, its name or ``name:revision``."""
    from airflow_batch_ros.jobs import log_group

    name, _, revision = definition.partition(":")
    exact = definition.startswith("arn:") or revision
    answer = (
        run.clients.batch.describe_job_definitions(jobDefinitions=[definition])
        if exact
        else run.clients.batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")
    )
    found = max(answer["jobDefinitions"], key=lambda each: each["revision"], default=None)
    detail = {"container": found.get("containerProperties")} if found else None
    return log_group(detail) or DEFAULT_LOG_GROUP


def _why_none(submitted: bool, detail: Mapping[str, Any] | None) -> str:
    if not submitted:
        return "it was not submitted"
    if detail is None:
        return "Batch has forgotten its job (about a week after its end), and it left no record of its stream"
    if detail["status"] in ("SUCCEEDED", "FAILED"):
        reason = detail.get("statusReason") or "no reason given"
        return f"it wrote nothing: its container did not start ({reason})"
    return f"it has not started: it is {detail['status']}"
