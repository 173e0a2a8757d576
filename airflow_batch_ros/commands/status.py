"""``airflow-batch-ros status``: how a run's drives stand, whoever submitted it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.looking import FoundRun, add_run, explained, find_run, open_lake
from airflow_batch_ros.commands.terminal import (
    EXIT_HELP,
    Exit,
    fail,
    guarded,
    megabytes,
    print_json,
    shards_named,
    table_lines,
    words,
)

if TYPE_CHECKING:
    from airflow_batch_ros.failures import FailedShard
    from airflow_batch_ros.status import BagStanding, DriveStanding

CAUSES_SHOWN = 10

RUNS_SHOWN = 20


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status",
        help="how the drives of a run stand, of Airflow's runs too",
        description="How each drive of a run stands, by what the lake and Batch say; changes nothing. "
        "Without a run: which runs there are.",
        epilog=EXIT_HELP,
    )
    add_run(parser, optional=True)
    parser.add_argument("--bags", action="store_true", help="each bag too")
    parser.add_argument("--json", action="store_true", help="JSON")
    settings_of.add_connection(parser)
    parser.set_defaults(run=guarded(_status))


def _status(arguments: argparse.Namespace) -> int:
    from airflow_batch_ros.status import Underway, read_standings

    if arguments.name is None:
        return _list_runs(arguments)
    run = find_run(arguments)
    drives = _with_logs(run, read_standings(run.clients.batch, run.lake, run.drives, bags=arguments.bags))
    if arguments.json:
        print_json(as_dict(run, drives, bags=arguments.bags))
    else:
        for line in _lines(run, drives, bags=arguments.bags):
            print(line)
    if any(drive.state is Underway.UNKNOWN for drive in drives):
        return Exit.REFUSED
    return Exit.DRIVES_FAILED if _run_fails(run, drives) else Exit.OK


def _run_fails(run: FoundRun, drives: Sequence[DriveStanding]) -> bool:
    """Whether the drives that have failed so far fail the run, whatever becomes of the others."""
    from airflow_batch_ros.summary import fails

    ratio = max((drive.record.conf.min_success_ratio for drive in run.drives), default=1.0)
    return bool(drives) and fails(sum(drive.failing for drive in drives), len(drives), ratio)


def _with_logs(run: FoundRun, drives: Sequence[DriveStanding]) -> list[DriveStanding]:
    """The drives, with the last log lines of the first shards that failed."""
    from airflow_batch_ros.failures import LOGS_A_DRIVE, LOGS_A_RUN, add_log_lines

    left = LOGS_A_RUN
    found = []
    for drive in drives:
        if drive.failed_shards and left:
            at_most = min(LOGS_A_DRIVE, left)
            shards = add_log_lines(run.clients.logs, drive.failed_shards, at_most=at_most)
            left -= sum(bool(shard.log_lines) for shard in shards)
            drive = replace(drive, failed_shards=shards)
        found.append(drive)
    return found


def _list_runs(arguments: argparse.Namespace) -> int:
    """The newest runs of the lake."""
    from airflow_batch_ros import runs

    _, lake = open_lake(arguments)
    unread: list[str] = []
    with explained(lake):
        found, _ = runs.newest_runs(lake, count=RUNS_SHOWN, unread=unread)
    code = Exit.REFUSED if unread else Exit.OK
    for problem in unread:
        fail(problem, code)
    listed = [(records[-1], [drive.drive_id for drive in runs.drives_of(records)]) for records in found]
    if arguments.json:
        entries = [
            {
                "dag_id": last.run.dag_id,
                "run_id": last.run.run_id,
                "submitted_at": last.submitted_at,
                "drives": drives,
            }
            for last, drives in listed
        ]
        print_json({"output": lake.output, "runs": entries})
        return code
    rows = [(last.name, last.submitted_at, f"{len(drives)}") for last, drives in listed]
    for line in (
        table_lines(("run", "last submitted", ">drives"), rows) if rows else [f"no runs in {lake.output}"]
    ):
        print(line)
    return code


def as_dict(run: FoundRun, drives: Sequence[DriveStanding], *, bags: bool) -> dict[str, Any]:
    """What ``--json`` prints."""
    entries = [_drive_dict(drive, bags=bags) for drive in drives]
    counted = ("bags", "messages", "rows", "rejected")
    last = run.records[-1]
    return {
        "run": {"dag_id": last.run.dag_id, "run_id": last.run.run_id},
        "output": run.lake.output,
        "submitted_at": last.submitted_at,
        "ended": all(drive.ended for drive in drives),
        "failed": _run_fails(run, drives),
        "drives": entries,
        "totals": {name: sum(entry[name] for entry in entries) for name in counted},
    }


def _drive_dict(drive: DriveStanding, *, bags: bool) -> dict[str, Any]:
    from airflow_batch_ros.status import ShardState

    result, job = drive.result, drive.job
    entry: dict[str, Any] = {
        "drive_id": drive.drive_id,
        "state": str(drive.state),
        "ended": drive.ended,
        "failed": drive.failing,
        "source": drive.source,
        "plan_id": job.plan_id if job else None,
        "job_id": job.job_id if job else None,
        "job_state": drive.job_state,
        "generation": job.generation if job else None,
        "shards": {str(state): drive.shards.get(state, 0) for state in ShardState},
        "bags": result.bags if result else 0,
        "messages": result.messages if result else 0,
        "rows": result.rows if result else 0,
        "rejected": result.rejected if result else 0,
        "failed_shards": [asdict(shard) for shard in drive.failed_shards],
        "problems": [*drive.notes, *(result.problems if result else ())],
        "drift": [str(each) for each in result.drift] if result else [],
        "quality": result.quality.as_dict() if result and result.quality else None,
        "report": drive.report or None,
    }
    if bags:
        entry["bag_list"] = [asdict(bag) for bag in drive.bags]
    return entry


def _lines(run: FoundRun, drives: Sequence[DriveStanding], *, bags: bool) -> list[str]:
    from airflow_batch_ros.runs import to_be_found
    from airflow_batch_ros.status import ShardState

    last = run.records[-1]
    whose = f"run {last.run.run_id}" + (f" of DAG {last.run.dag_id}" if last.run.dag_id else "")
    head = (
        *("drive", "state", ">shards", ">done", ">running", ">failed", ">waiting"),
        *(">bags", ">messages", ">rows", ">rejects", "job"),
    )
    order = (ShardState.DONE, ShardState.RUNNING, ShardState.FAILED, ShardState.WAITING)
    rows = []
    for drive in drives:
        result = drive.result
        counted = (result.bags, result.messages, result.rows, result.rejected) if result else (0, 0, 0, 0)
        job = drive.job.job_id if drive.job and drive.job.job_id else "-"
        rows.append(
            (
                drive.drive_id,
                words(drive.state),
                f"{sum(drive.shards.values())}",
                *(f"{drive.shards.get(state, 0)}" for state in order),
                *(f"{count:,}" for count in counted),
                f"{job} {drive.job_state or ''}".rstrip(),
            )
        )
    lines = [f"{whose}, output {run.lake.output}, last submitted {last.submitted_at}"]
    lines += table_lines(head, rows) if rows else []
    open_records = to_be_found(run.records)
    for record in open_records:
        lines += [f"drives of {each.uri}: not looked for yet" for each in record.conf.patterns]
    if not rows and not open_records:
        lines.append("no drive had anything to do")
    for drive in drives:
        lines += _causes(run, drive)
    lines += [f"{drive.drive_id}: report {drive.report}" for drive in drives if drive.report]
    if bags:
        for drive in drives:
            lines += ["", f"{drive.drive_id}: bags of {drive.source}", *bag_lines(drive.bags)]
    return lines


def _causes(run: FoundRun, drive: DriveStanding) -> list[str]:
    """Why a drive is not whole, which definitions changed in it, and how to get it on its way."""
    from airflow_batch_ros.status import ShardState, Underway
    from airflow_batch_ros.summary import shown_log
    from ros_to_parquet.contract import DriveState

    alike: dict[str, list[FailedShard]] = {}
    for shard in drive.failed_shards:
        stream = f" (log stream {shard.log_stream})" if shard.log_stream else ""
        alike.setdefault(f"{shard.cause}: {shard.reason}{stream}", []).append(shard)
    causes = [
        [
            f"{shards_named([shard.shard for shard in shards])}: {reason}",
            *(line for shard in shards for line in shown_log(shard)),
        ]
        for reason, shards in alike.items()
    ]
    causes += [[text] for text in (*drive.notes, *(drive.result.problems if drive.result else ()))]
    causes += [[str(each)] for each in (drive.result.drift if drive.result else ())]
    quality = drive.result.quality if drive.result else None
    causes += [[str(each)] for each in (quality.findings if quality else ())]
    more = drive.shards.get(ShardState.FAILED, 0) - len(drive.failed_shards) if drive.failed_shards else 0
    more += max(0, len(causes) - CAUSES_SHOWN)
    lines = [f"    {line}" for cause in causes[:CAUSES_SHOWN] for line in cause]
    if more > 0:
        lines.append(f"    and {more} more")
    unsubmitted = drive.state in (Underway.NOT_PLANNED, Underway.NOT_SUBMITTED)
    unplanned = drive.state is DriveState.FAILED and drive.result is None
    # Of one that is committed no retry brings back what somebody has removed.
    nothing_of_it = drive.state is DriveState.FAILED and drive.shards.get(ShardState.FAILED)
    lacking = drive.state is DriveState.PARTIAL or nothing_of_it or unplanned
    if unsubmitted or (drive.ended and lacking):
        command = f"airflow-batch-ros retry {run.name} --output {run.lake.output}"
        lines.append(f"    to submit what is missing, if nobody is about to: {command}")
    return [f"{drive.drive_id}:", *lines] if lines else []


def bag_lines(bags: Sequence[BagStanding]) -> list[str]:
    head = ("bag", "state", ">MB", ">slices", ">messages", ">extracted", "damage")
    rows = [
        (
            bag.name,
            words(bag.state),
            megabytes(bag.size_bytes) if bag.slices else "",
            f"{bag.slices_done}/{bag.slices}" if bag.slices else "",
            f"{bag.messages:,}" if bag.slices_done else "",
            f"{bag.extracted:,}" if bag.slices_done else "",
            bag.damage,
        )
        for bag in bags
    ]
    return table_lines(head, rows) if rows else ["(none)"]
