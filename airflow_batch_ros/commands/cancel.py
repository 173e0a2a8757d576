"""``airflow-batch-ros cancel``: ends a run's jobs, and gives its drives back."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.looking import FoundRun, add_run, find_run
from airflow_batch_ros.commands.terminal import EXIT_HELP, Exit, guarded, print_json, seconds, teller

if TYPE_CHECKING:
    from airflow_batch_ros.runs import RunDrive

DEFAULT_REASON = "ended by airflow-batch-ros cancel"
DEFAULT_PATIENCE_S = 60.0
"""Batch gives a container 30 seconds to end."""

POLL_S = 1.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "cancel",
        help="end the live jobs of a run; what is done stays, and retry goes on from there",
        description="Ends the live jobs of a run, waits until they have ended, and gives the drives back, so "
        "that other runs can have them. What is done stays; retry goes on from there. An Airflow task that "
        "retries would submit again: end that first.",
        epilog=EXIT_HELP,
    )
    add_run(parser)
    parser.add_argument(
        "--reason", default=DEFAULT_REASON, metavar="TEXT", help="that Batch shows (default: %(default)s)"
    )
    parser.add_argument(
        "--patience-seconds",
        type=seconds,
        default=DEFAULT_PATIENCE_S,
        metavar="N",
        help="how long to wait for jobs to end (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout; lines for people on stderr")
    settings_of.add_connection(parser)
    parser.set_defaults(run=guarded(_cancel))


def _cancel(arguments: argparse.Namespace) -> int:
    from airflow_batch_ros.jobs import terminate
    from ros_to_parquet.contract import ContractError

    say = teller(arguments)
    run = find_run(arguments)
    if planner := _end_planning(arguments, run, say):  # first: it would go on submitting
        say(f"planning job {planner} did not end yet; try again")
        return Exit.RETRY
    live: dict[str, dict[str, str]] = {}
    unread: dict[str, str] = {}
    for drive in run.drives:
        live[drive.drive_id] = {}
        try:
            live[drive.drive_id] = _live_jobs(run, drive)
        except ContractError as error:  # the jobs of the other drives are ended all the same
            unread[drive.drive_id] = f"drive {drive.drive_id}: what it runs is not known: {error}"
    problems: list[str] = []
    for drive_id, jobs in live.items():
        failed = terminate(run.clients.batch, jobs, arguments.reason or DEFAULT_REASON)
        problems += [f"drive {drive_id}: {problem}" for problem in failed]
        for job_id, state in jobs.items():
            say(f"drive {drive_id}: ending job {job_id}, which is {state}")
    still = _wait_for_end([job for jobs in live.values() for job in jobs], run, arguments.patience_seconds)
    entries: list[dict[str, Any]] = []
    for drive in run.drives:
        jobs = live[drive.drive_id]
        left = [job for job in jobs if job in still]
        released = False
        try:
            released = not left and _give_back(run, drive)
        except ContractError as error:
            unread.setdefault(drive.drive_id, f"drive {drive.drive_id}: it is not given back: {error}")
        if jobs or drive.drive_id not in unread:
            say(f"drive {drive.drive_id}: {_said(len(jobs), left, released=released)}")
        entries.append(
            {"drive_id": drive.drive_id, "ended": list(jobs), "still_live": left, "given_back": released}
        )
    if arguments.json:
        said = [*problems, *unread.values()]
        print_json({"run": run.name, "output": run.lake.output, "drives": entries, "problems": said})
    for problem in problems:
        say(f"could not end {problem}")
    for problem in unread.values():
        say(problem)
    if problems or still:
        return Exit.RETRY
    return Exit.REFUSED if unread else Exit.OK


def _end_planning(arguments: argparse.Namespace, run: FoundRun, say: Callable[[str], None]) -> str | None:
    """Ends the Batch job that plans the run, where one does; its id if it is live even so."""
    from airflow_batch_ros import planning
    from airflow_batch_ros.jobs import terminate

    found = planning.find(run.clients.batch, run.lake, run.records[-1].run)
    if found is None or not found.live:
        return None
    say(f"ending {found.said}")
    problems = terminate(run.clients.batch, [found.record.job_id], arguments.reason or DEFAULT_REASON)
    for problem in problems:
        say(f"could not end {problem}")
    still = _wait_for_end([found.record.job_id], run, arguments.patience_seconds)
    return next(iter(still), None)


def _live_jobs(run: FoundRun, drive: RunDrive) -> dict[str, str]:
    from airflow_batch_ros.jobs import live_jobs

    queue = drive.record.submit_options.job_queue
    return live_jobs(run.clients.batch, run.lake, drive.drive_id, drive.plan_id, job_queue=queue)


def _wait_for_end(job_ids: list[str], run: FoundRun, patience_s: float) -> set[str]:
    """The jobs that are live after ``patience_s``."""
    from airflow_batch_ros.jobs import LIVE, describe, job_state

    deadline = time.monotonic() + patience_s
    while True:
        details = describe(run.clients.batch, job_ids)
        job_ids = [job_id for job_id in job_ids if job_state(details.get(job_id)) in LIVE]
        if not job_ids or time.monotonic() >= deadline:
            return set(job_ids)
        time.sleep(min(POLL_S, patience_s))


def _give_back(run: FoundRun, drive: RunDrive) -> bool:
    """Gives the drive's lease back, if it is this run's and nothing of it is live; says whether it did."""
    from airflow_batch_ros import lease

    held = lease.holder(run.lake, drive.drive_id)
    if held is None or held.plan_id != drive.plan_id or _live_jobs(run, drive):
        return False
    lease.release(run.lake, drive.drive_id, drive.plan_id)
    return True


def _said(count: int, left: list[str], *, released: bool) -> str:
    if left:
        return (
            f"{', '.join(left)} did not end yet; the drive stays this run's until then, and another "
            "run that wants it then takes it over"
        )
    ended = "nothing was live" if count == 0 else "its job has ended" if count == 1 else "its jobs have ended"
    return f"{ended}, and other runs can have the drive now" if released else ended
