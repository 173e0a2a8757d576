"""What `submit` and `retry` do alike: submit a run's drives, wait for their jobs, say what became of them."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_batch_ros.commands.terminal import (
    CommandError,
    Exit,
    Terminated,
    megabytes,
    positive_seconds,
    print_json,
    seconds,
    table_lines,
    words,
)

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

    from airflow_batch_ros.clients import Clients
    from airflow_batch_ros.jobs import DriveJob, SubmitOptions
    from airflow_batch_ros.lake import Lake
    from airflow_batch_ros.planning import Planning, PlanningRecord
    from airflow_batch_ros.summary import DriveSummary
    from ros_to_parquet.contract import Run

DEFAULT_POLL_S = 30.0
MIN_POLL_S = 0.5


def add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="stay until all drives have ended; without it nothing needs to stay up: the shard that "
        "completes a drive commits it",
    )
    parser.add_argument(
        "--poll-seconds",
        type=positive_seconds,
        default=DEFAULT_POLL_S,
        metavar="N",
        help="most seconds between two looks; the first ones follow sooner (default: %(default)g)",
    )
    parser.add_argument(
        "--runnable-timeout",
        type=seconds,
        metavar="SECONDS",
        help="with --wait: say why a job stays RUNNABLE for longer (default: never)",
    )
    parser.add_argument(
        "--end-stuck", action="store_true", help="end what stays RUNNABLE longer than --runnable-timeout"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout; lines for people on stderr")


def report(
    arguments: argparse.Namespace,
    clients: Clients,
    jobs: Sequence[DriveJob],
    *,
    run: str,
    output: str,
    say: Callable[[str], None],
) -> int:
    """What was submitted, or with ``--wait`` what became of it; returns the exit code."""
    head = {"run": run, "output": output}
    if not arguments.wait:
        if arguments.json:
            print_json({**head, "drives": [job.as_dict() for job in jobs]})
        say(f"to look after it: airflow-batch-ros status {run} --output {output}")
        return Exit.OK
    with _saying_what_goes_on(run, output):
        wait(
            clients.batch,
            jobs,
            say=say,
            poll_s=arguments.poll_seconds,
            runnable_timeout_s=arguments.runnable_timeout,
            end_stuck=arguments.end_stuck,
        )
    return _finish(arguments, clients, jobs, head=head, say=say)


@contextmanager
def _saying_what_goes_on(run: str, output: str) -> Iterator[None]:
    """Where what waits inside is stopped, or cannot ask any more, says how to look at the jobs, or end them.

    SIGTERM stops it as Ctrl-C does.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with _terminable():
            yield
    except (KeyboardInterrupt, BotoCoreError, ClientError):
        at = f"{run} --output {output}"
        print(
            f"waits no longer, but the jobs go on: airflow-batch-ros status {at} says how they stand, "
            f"airflow-batch-ros cancel {at} ends them",
            file=sys.stderr,
        )
        raise


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say what signals do
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def submit_planning(
    arguments: argparse.Namespace,
    clients: Clients,
    lake: Lake,
    run: Run,
    options: SubmitOptions,
    *,
    definition: str,
    say: Callable[[str], None],
) -> int:
    """Has a Batch job plan and submit a run that is recorded; returns the exit code.

    With ``--wait`` it stays until the drives have ended.
    """
    from airflow_batch_ros import planning, runs
    from airflow_batch_ros.jobs import RefusedError, SubmitError
    from airflow_batch_ros.status import read_standings

    try:
        record, new = planning.submit(
            clients.batch,
            clients.submitter,
            lake,
            run,
            job_queue=options.job_queue,
            job_definition=definition,
            tags=options.tags,
            share_identifier=options.extra.get("shareIdentifier"),
        )
    except SubmitError as error:
        code = Exit.REFUSED if isinstance(error, RefusedError) else Exit.RETRY
        raise CommandError(str(error), code) from error
    say(f"{'submitted' if new else 'adopted'} job {record.job_id}, which plans")
    if not arguments.wait:
        if arguments.json:
            planned_by = {"job_id": record.job_id, "job_queue": record.job_queue}
            print_json({"run": run.run_id, "output": lake.output, "planned_by": planned_by, "drives": []})
        say(f"to look after it: airflow-batch-ros status {run.run_id} --output {lake.output}")
        return Exit.OK
    with _saying_what_goes_on(run.run_id, lake.output):
        found = _wait_for_planning(clients.batch, record, say=say, poll_s=arguments.poll_seconds)
    if found.state != "SUCCEEDED":
        look = f"airflow-batch-ros logs {run.run_id} --output {lake.output}"
        raise CommandError(
            f"{found.said}; its lines: {look}",
            Exit.RETRY if found.exit_code == Exit.RETRY else Exit.REFUSED,
        )
    standings = read_standings(clients.batch, lake, runs.drives_of(runs.find(lake, run.run_id)))
    jobs = [standing.job for standing in standings if standing.job is not None]
    return report(arguments, clients, jobs, run=run.run_id, output=lake.output, say=say)


def _wait_for_planning(
    batch: BatchClient, record: PlanningRecord, *, say: Callable[[str], None], poll_s: float
) -> Planning:
    """How the Batch job that plans has ended."""
    from airflow_batch_ros.jobs import describe, job_state
    from airflow_batch_ros.planning import Planning
    from airflow_batch_ros.waiting import Waiting

    told = ""
    started = time.monotonic()
    waiting = Waiting([record.job_id])  # Batch may not know of a job at once
    while True:
        details = describe(batch, waiting.open)
        waiting.update(details)
        detail = details.get(record.job_id)
        found = Planning(record, job_state(detail), detail)
        if not waiting.open:
            return found
        if found.said != told:
            say(told := found.said)
        time.sleep(min(poll_s, max(MIN_POLL_S, (time.monotonic() - started) / 5)))


def wait(
    batch: BatchClient,
    jobs: Sequence[DriveJob],
    *,
    say: Callable[[str], None],
    poll_s: float,
    runnable_timeout_s: float | None = None,
    end_stuck: bool = False,
) -> None:
    """Until all jobs have ended; says how many shards of each drive are done when that changes."""
    from airflow_batch_ros.jobs import describe
    from airflow_batch_ros.stuck import look_after
    from airflow_batch_ros.waiting import Waiting

    waiting = Waiting([job.job_id for job in jobs if job.job_id], runnable_timeout_s=runnable_timeout_s)
    told: dict[str, str] = {}
    started = time.monotonic()
    while True:
        details = describe(batch, waiting.open)
        for job in jobs:
            if job.job_id in waiting.open and told.get(job.drive_id) != (news := _progress(job, details)):
                told[job.drive_id] = news
                say(news)
        waiting.update(details)
        for stuck in look_after(batch, waiting, end=end_stuck):
            say(stuck)
        if not waiting.open:
            return
        time.sleep(min(poll_s, max(MIN_POLL_S, (time.monotonic() - started) / 5)))


def _progress(job: DriveJob, details: Mapping[str, Any]) -> str:
    """How far a drive has come by its job, with the shards that earlier jobs did."""
    from airflow_batch_ros.jobs import UNKNOWN, count_states

    detail = details.get(job.job_id or "")
    if detail is None:
        return f"drive {job.drive_id}: Batch does not know its job {job.job_id}"
    counts = count_states([detail])
    done = counts.pop("SUCCEEDED", 0) + job.shards - (job.array_size or 1)
    rest = [f"{count} {state}" for state, count in sorted(counts.items()) if state != UNKNOWN]
    return f"drive {job.drive_id}: " + ", ".join([f"{done} of {job.shards} shards done", *rest])


def _finish(
    arguments: argparse.Namespace,
    clients: Clients,
    jobs: Sequence[DriveJob],
    *,
    head: Mapping[str, Any],
    say: Callable[[str], None],
) -> int:
    from airflow_batch_ros import summary

    drives = summary.summarize(clients.s3, clients.batch, clients.logs, jobs)
    if arguments.json:
        print_json({**head, **summary.as_dict(drives)})
    for line in summary_lines(drives) if drives else ("nothing to do",):
        say(line)
    retry = f"airflow-batch-ros retry {head['run']} --output {head['output']}"
    message = summary.failure_message(drives, advice=f"To run only the shards that are missing: {retry}")
    if message is None:
        return Exit.OK
    say(message)
    return Exit.DRIVES_FAILED


def summary_lines(drives: Sequence[DriveSummary]) -> list[str]:
    """A table of drives; then what is to be said of those that do not fail the run."""
    from airflow_batch_ros.cost import shown as shown_cost
    from airflow_batch_ros.summary import CAUSES_SHOWN, shown_causes, tolerated

    head: tuple[str, ...] = (
        *("drive", "state", ">shards", ">bags", ">messages", ">rows", ">rejects"),
        *(">MB read", ">MB written"),
    )
    rows: list[tuple[str, ...]] = [
        (
            drive.job.drive_id,
            words(drive.state),
            f"{drive.result.shards}/{max(drive.job.shards, drive.result.shards)}",
            f"{drive.result.bags:,}",
            f"{drive.result.messages:,}",
            f"{drive.result.rows:,}",
            f"{drive.result.rejected:,}",
            megabytes(drive.result.bytes_read),
            megabytes(drive.result.bytes_written),
        )
        for drive in drives
    ]
    if any(drive.cost for drive in drives):
        head = (*head, ">cost")
        rows = [
            (
                *row,
                shown_cost(drive.cost.usage.cost, drive.cost.planned.pricing.currency) if drive.cost else "-",
            )
            for row, drive in zip(rows, drives, strict=True)
        ]
    lines = table_lines(head, rows)
    lines += [f"{drive.job.drive_id}: report {drive.report}" for drive in drives if drive.report]
    for drive in drives:
        shown, more = shown_causes(drive, CAUSES_SHOWN)
        if not drive.failed and shown:
            lines += [f"{drive.job.drive_id}:", *shown, *more]
    return lines + tolerated(drives)
