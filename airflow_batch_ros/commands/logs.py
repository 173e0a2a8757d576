"""``airflow-batch-ros logs``: what the shards of a run wrote, from CloudWatch, with drive and shard named."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.looking import FoundRun, add_run, find_run
from airflow_batch_ros.commands.terminal import EXIT_HELP, CommandError, Exit, guarded, shards_named

if TYPE_CHECKING:
    from airflow_batch_ros.runs import RunDrive
    from airflow_batch_ros.status import ShardState
    from ros_to_parquet.contract import Plan

FOLLOW_S = 2.0

LATE_LOOKS = 2
"""At a stream whose shard has ended, while lines are followed: the last of them may come late."""


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
    """A log stream of a shard, or of the job that plans the run.

    Attributes:
        shard: None of the job that plans.
        attempt: 0 where the job had but one, or which it was is not known.
        grows: the shard has not ended.
    """

    drive_id: str
    shard: int | None
    group: str
    name: str
    attempt: int
    grows: bool

    @property
    def label(self) -> str:
        whose = "planning" if self.shard is None else f"{self.drive_id}/{self.shard}"
        return whose + (f"#{self.attempt}" if self.attempt else "")

    @property
    def what(self) -> str:
        return "planning" if self.shard is None else f"drive {self.drive_id}, shard {self.shard}"


@dataclass(slots=True)
class Reading:
    """How far the streams have been read.

    Attributes:
        tokens: CloudWatch's place in each stream, by its name.
        looks_left: how often a stream is to be looked at again.
        told: what was said of what is missing: once is enough.
        old: shards of a drive that were done before their lines began to be followed.
    """

    tokens: dict[str, str] = field(default_factory=dict)
    looks_left: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    old: dict[str, set[int]] = field(default_factory=dict)

    def tell(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            print(text, file=sys.stderr, flush=True)


def _logs(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    reading = Reading()
    rounds = LATE_LOOKS if arguments.follow else 1
    while rounds:
        live, planner = _planning_streams(arguments, run)
        for stream in planner:
            for text in _new_lines(run, stream, reading):
                print(f"{stream.label} | {text}", flush=True)
        for drive in run.drives:
            # Before the lines: those of a shard that ends meanwhile are read in full then.
            drive_live, streams = _find_streams(arguments, run, drive, reading)
            live = live or drive_live
            for stream in streams:
                for text in _new_lines(run, stream, reading):
                    print(f"{stream.label} | {text}", flush=True)
        rounds = LATE_LOOKS if arguments.follow and live else rounds - 1
        if rounds:
            time.sleep(FOLLOW_S)
    if not reading.looks_left and not reading.told:
        print(_why_nothing(arguments), file=sys.stderr)
    return Exit.OK


def _why_nothing(arguments: argparse.Namespace) -> str:
    if arguments.all:
        return "no shard has begun"
    if arguments.follow:
        return "nothing runs, and no shard has failed; --shard N or --all for the lines of others"
    return "no shard has failed without a manifest; --shard N or --all for others"


def _new_lines(run: FoundRun, stream: Stream, reading: Reading) -> Iterator[str]:
    """The stream's lines since the last time; that there is no such stream is said."""
    from botocore.exceptions import ClientError

    from airflow_batch_ros.lake import error_code

    left = LATE_LOOKS if stream.grows else reading.looks_left.get(stream.name, LATE_LOOKS)
    if not left:
        return
    reading.looks_left[stream.name] = left - 1
    while True:
        token = reading.tokens.get(stream.name)
        place: dict[str, Any] = {"nextToken": token} if token else {}
        try:
            page = run.clients.logs.get_log_events(
                logGroupName=stream.group, logStreamName=stream.name, startFromHead=True, **place
            )
        except ClientError as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            if not stream.grows:
                reading.tell(
                    f"{stream.what}: CloudWatch has no stream {stream.name} "
                    f"in {stream.group}: nothing was written, or it is past the group's retention"
                )
            return
        for event in page["events"]:
            yield from event["message"].splitlines() or [""]
        reading.tokens[stream.name] = page["nextForwardToken"]
        if page["nextForwardToken"] == token:
            return


def _planning_streams(arguments: argparse.Namespace, run: FoundRun) -> tuple[bool, list[Stream]]:
    """Whether a Batch job plans the run now, and its streams: where it has failed, or all are asked for."""
    from airflow_batch_ros import planning
    from airflow_batch_ros.jobs import DEFAULT_LOG_GROUP, log_group

    found = planning.find(run.clients.batch, run.lake, run.records[-1].run)
    if found is None:
        return False, []
    wanted = found.failed or arguments.all or (arguments.follow and found.live)
    names = _stream_names(found.detail) if wanted and not arguments.shard else []
    group = log_group(found.detail) or DEFAULT_LOG_GROUP
    return found.live, [
        Stream("", None, group, name, attempt if len(names) > 1 else 0, found.live)
        for attempt, name in enumerate(names, 1)
    ]


def _find_streams(
    arguments: argparse.Namespace, run: FoundRun, drive: RunDrive, reading: Reading
) -> tuple[bool, list[Stream]]:
    """Whether the drive has a live job, and the streams of its shards that are asked for."""
    from airflow_batch_ros.jobs import describe, read_progress
    from airflow_batch_ros.lake import drive_folder, find_replacing, replaced_in_words
    from airflow_batch_ros.status import ShardState, shard_states
    from ros_to_parquet import contract
    from ros_to_parquet.contract import Plan, StartedRecord

    plan = run.lake.load(Plan, contract.plan_key(drive.drive_id, drive.plan_id))
    if plan is None:
        reading.tell(f"drive {drive.drive_id}: it has no plan, so nothing of it was submitted")
        return False, []
    queue = drive.record.submit_options.job_queue
    progress = read_progress(run.clients.batch, run.lake, plan, job_queue=queue, write=False)
    folder = drive_folder(run.lake, plan.drive_id, plan.plan_id)
    states = shard_states(run.clients.batch, plan, folder, progress)
    if not (progress.live or folder.commit) and (by := find_replacing(run.lake, plan.drive_id, plan.plan_id)):
        reading.tell(f"drive {plan.drive_id}: {replaced_in_words(by)}")
        # As it is with a drive that is done, none of it has failed: its lines are there if asked for.
        states = [ShardState.DONE] * len(states)
    shards = _chosen(arguments, plan, states, reading)
    jobs = _jobs_of(run, plan, shards)
    details = describe(run.clients.batch, sorted(set(jobs.values())))
    keys = [folder.started[shard] for shard in shards if shard in folder.started]
    starts = {record.shard: record.log_stream for record in run.lake.load_all(StartedRecord, keys)}
    streams: list[Stream] = []
    groups: dict[str, str] = {}
    without: dict[str, list[int]] = {}
    for shard in shards:
        detail = details.get(jobs.get(shard, ""))
        names = _stream_names(detail) or ([starts[shard]] if starts.get(shard) else [])
        grows = progress.live and states[shard] in (ShardState.WAITING, ShardState.RUNNING)
        for attempt, name in enumerate(names, 1):
            group = _group(run, drive, detail, groups)
            number = attempt if len(names) > 1 else 0
            streams.append(Stream(plan.drive_id, shard, group, name, number, grows))
        if not names and not (arguments.follow and grows):
            without.setdefault(_why_none(detail, submitted=shard in jobs), []).append(shard)
    for reason, numbers in without.items():
        reading.tell(f"drive {plan.drive_id}, {shards_named(numbers)}: {reason}")
    return progress.live, streams


def _chosen(
    arguments: argparse.Namespace, plan: Plan, states: Sequence[ShardState], reading: Reading
) -> list[int]:
    """The shards whose lines are asked for."""
    from airflow_batch_ros.status import ShardState

    if arguments.shard:
        if beyond := [shard for shard in arguments.shard if not 0 <= shard < len(states)]:
            raise CommandError(
                f"drive {plan.drive_id} has no shard {', '.join(map(str, beyond))}: it has {len(states)}, "
                "the first is 0",
                Exit.USAGE,
            )
        return sorted(set(arguments.shard))
    begun = {shard for shard, state in enumerate(states) if state is not ShardState.WAITING}
    done = {shard for shard, state in enumerate(states) if state is ShardState.DONE}
    if arguments.all:
        return sorted(begun)
    if arguments.follow:
        return sorted(begun - reading.old.setdefault(plan.drive_id, done))
    return [shard for shard, state in enumerate(states) if state is ShardState.FAILED]


def _jobs_of(run: FoundRun, plan: Plan, shards: Sequence[int]) -> dict[int, str]:
    """The Batch job, or the array's child, that each shard was last given to."""
    from airflow_batch_ros.jobs import recorded_jobs
    from ros_to_parquet import contract
    from ros_to_parquet.contract import Generation

    jobs: dict[int, str] = {}
    wanted = frozenset(shards)
    for record in recorded_jobs(run.lake, plan.drive_id, plan.plan_id):
        key = contract.generation_key(plan.drive_id, plan.plan_id, record.generation)
        generation = run.lake.load(Generation, key)
        for index, shard in enumerate(generation.shards if generation else ()):
            if shard in wanted:
                jobs[shard] = f"{record.job_id}:{index}" if record.array_size else record.job_id
    return jobs


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
    from airflow_batch_ros.jobs import DEFAULT_LOG_GROUP, log_group

    if detail is not None:
        return log_group(detail) or DEFAULT_LOG_GROUP
    definition = drive.record.submit_options.job_definition
    if definition not in known:
        known[definition] = _definitions_group(run, definition)
    return known[definition]


def _definitions_group(run: FoundRun, definition: str) -> str:
    """The log group that a job definition names: by its ARN, its name or ``name:revision``."""
    from airflow_batch_ros.jobs import DEFAULT_LOG_GROUP, find_definition, log_group

    found = find_definition(run.clients.batch, definition)
    detail = {"container": found.get("containerProperties")} if found else None
    return log_group(detail) or DEFAULT_LOG_GROUP


def _why_none(detail: Mapping[str, Any] | None, *, submitted: bool) -> str:
    if not submitted:
        return "it was not submitted"
    if detail is None:
        return "Batch has forgotten its job (about a week after its end), and it left no record of its stream"
    if detail["status"] in ("SUCCEEDED", "FAILED"):
        reason = detail.get("statusReason") or "no reason given"
        return f"it wrote nothing: its container did not start ({reason})"
    return f"it has not started: it is {detail['status']}"
