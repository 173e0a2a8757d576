"""What became of a run's drives: manifests first, Batch's word for what left none."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_batch_ros import cost
from airflow_batch_ros.causes import Cause, cause_of, cause_of_problem
from airflow_batch_ros.cost import DriveCost
from airflow_batch_ros.failures import LOGS_A_DRIVE, LOGS_A_RUN, FailedShard, add_log_lines, failed_shards
from airflow_batch_ros.jobs import DriveJob, Work, describe, end_reason, job_seconds, job_state
from airflow_batch_ros.lake import (
    DRIVE_THREADS,
    Lake,
    drive_folder,
    find_replacing,
    read_holdings,
    replaced_in_words,
    said_by,
)
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    MAX_REASONS,
    DriveManifest,
    DriveState,
    FinishOptions,
    FinishRecord,
    JobRecord,
    Manifest,
    Plan,
    StepState,
    TableTotal,
    one_line,
)

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client

MAX_TABLES = 2000
"""Tables that the summary lists, over all drives; all are counted, and in the manifests."""

MAX_REASON_LENGTH = 500

CLEAR_TASK = "Clear the operator's task and what follows it to run only the shards that are missing."

DRIVES_SHOWN = 100
"""Failed drives that a message names; the summary has them all."""

CAUSES_SHOWN = 10
"""Lines a drive in messages and logs."""

FINDINGS_SHOWN = 3
"""Of a drive's quality checks in logs, where it has not failed."""

_SEVERITY = (
    DriveState.SUCCEEDED,
    DriveState.SUCCEEDED_WITH_REJECTS,
    DriveState.DAMAGED,
    DriveState.PARTIAL,
    DriveState.FAILED,
)


class SummaryError(RuntimeError):
    """What has become of a drive cannot be read; the message names it, and says what AWS said."""


@dataclass(frozen=True, slots=True)
class DriveSummary:
    """How a drive ended.

    Attributes:
        failed_shards: the first `MAX_REASONS`, of ``failed_shard_count``.
        causes: how many shards failed by which cause; where none did, how many bags and topics.
        finish: what was done after the drive's commit; None where nothing was to do, or it has not ended.
        report: URI of the drive's report; empty where there is none.
        cost: what it has cost, where its plan says what that is by.
        replaced: whether another run has replaced the drive, so that nothing of this one's is left; then the
            ``result`` is empty, and the job's work `Work.NOTHING`: what the lake has counts for that run.
    """

    job: DriveJob
    state: DriveState
    result: DriveManifest
    failed_shards: tuple[FailedShard, ...] = ()
    failed_shard_count: int = 0
    job_state: str | None = None
    job_seconds: float | None = None
    manifest_uri: str = ""
    notes: tuple[str, ...] = field(default=())
    causes: Mapping[Cause, int] = field(default_factory=dict)
    finish: FinishRecord | None = None
    report: str = ""
    cost: DriveCost | None = None
    replaced: bool = False

    @property
    def failed(self) -> bool:
        """Whether the drive counts as failed."""
        return contract.fails_on(self.job.fail_on, self.state, self.result.quality)


def fails(failed: int, drives: int, min_success_ratio: float) -> bool:
    """Whether a run fails of whose drives so many have.

    >>> fails(1, 20, 0.95), fails(2, 20, 0.95), fails(1, 20, 1.0)
    (False, True, True)
    """
    return (drives - failed) / max(1, drives) < min_success_ratio - 1e-9


def run_fails(drives: Sequence[DriveSummary]) -> bool:
    """Whether the run fails; of several confs the strictest ``min_success_ratio`` counts."""
    ratio = max((drive.job.min_success_ratio for drive in drives), default=1.0)
    return bool(drives) and fails(sum(drive.failed for drive in drives), len(drives), ratio)


def summarize(
    s3: S3Client, batch: BatchClient, logs: CloudWatchLogsClient, jobs: Sequence[DriveJob]
) -> list[DriveSummary]:
    """How the drives of a run ended, whose jobs have; with log lines of the first shards that failed.

    Raises:
        ContractError: a manifest is none.
        SummaryError: a manifest, or a job, cannot be read.
    """
    from botocore.exceptions import ClientError

    details = describe(batch, [job.job_id for job in jobs if job.job_id])

    planned: dict[tuple[str, str], cost.Planned] = {}
    records: dict[tuple[str, str], list[JobRecord]] = {}

    def one(job: DriveJob) -> DriveSummary:
        lake = Lake(s3, job.output)
        try:
            drive = summarize_drive(batch, lake, job, details.get(job.job_id or ""))
            if job.work != Work.NOTHING and (found := cost.read_planned(lake, job)):
                planned[job.output, job.drive_id] = found
                records[job.output, job.drive_id] = cost.read_records(lake, job)
            return drive
        except ClientError as error:
            raise SummaryError(
                f"drive {job.drive_id!r}: its job has ended, and what it left below {job.output}/_manifests "
                f"cannot be read: {error.operation_name}: {said_by(error)}; nothing is lost: try again"
            ) from error

    drives = []
    logs_left = LOGS_A_RUN
    with ThreadPoolExecutor(DRIVE_THREADS, thread_name_prefix="drives") as pool:
        found = list(pool.map(one, jobs))
    ended = [
        cost.Ended(drive.job, planned[place], drive.result)
        for drive in found
        if (place := (drive.job.output, drive.job.drive_id)) in planned
    ]
    costs = cost.measure(batch, ended, records, say=logging.getLogger(__name__).warning)
    for drive in found:
        drive = dataclasses.replace(drive, cost=costs.get((drive.job.output, drive.job.drive_id)))
        if drive.failed_shards and logs_left:
            shards = add_log_lines(logs, drive.failed_shards, at_most=min(LOGS_A_DRIVE, logs_left))
            logs_left -= sum(bool(shard.log_lines) for shard in shards)
            drive = dataclasses.replace(drive, failed_shards=shards)
        drives.append(drive)
    return drives


def summarize_drive(
    batch: BatchClient, lake: Lake, job: DriveJob, detail: Mapping[str, Any] | None
) -> DriveSummary:
    """How a drive ended, whose job (``detail`` by DescribeJobs) has.

    Raises:
        ContractError: a manifest cannot be read.
    """
    if job.work == Work.NOTHING:
        result = _held(lake, job)
        uri, report = _manifest_uri(lake, job, ""), _report_there(lake, job.drive_id)
        unreadable = {Cause.BAG_UNREADABLE: job.unreadable} if job.unreadable else {}
        return DriveSummary(job, result.state, result, manifest_uri=uri, causes=unreadable, report=report)
    folder = drive_folder(lake, job.drive_id, job.plan_id)
    uri = _manifest_uri(lake, job, job.plan_id)
    state, seconds = (job_state(detail), job_seconds(detail)) if job.job_id else (None, None)
    if folder.commit and (commit := lake.load(DriveManifest, folder.commit)):
        uri += "drive.json"
        flaws = _causes_of(commit)
        finish = lake.load(FinishRecord, folder.finish) if folder.finish else None
        notes = _undone(lake, job, finish, state)
        if lacking := contract.lacking_manifests([commit], ((job.plan_id, each) for each in folder.shards)):
            notes = (f"{lacking}, with their rows: put them back, or set 'overwrite' in a new run", *notes)
        report = _report_of(lake, finish)
        return DriveSummary(
            *(job, commit.state, commit, (), 0, state, seconds, uri, notes, flaws), finish, report
        )
    if by := find_replacing(lake, job.drive_id, job.plan_id):
        return DriveSummary(
            dataclasses.replace(job, work=Work.NOTHING),
            DriveState.SUCCEEDED,
            _empty(job, DriveState.SUCCEEDED),
            job_state=state,
            job_seconds=seconds,
            manifest_uri=_manifest_uri(lake, job, by.plan_id) + "drive.json",
            notes=(replaced_in_words(by),),
            report=_report_there(lake, job.drive_id),
            replaced=True,
        )
    plan = lake.load(Plan, contract.plan_key(job.drive_id, job.plan_id))
    if plan is None:
        reason = f"its plan {job.plan_uri} is gone"
        empty = _empty(job, DriveState.FAILED)
        lost = {Cause.LOST: 1}
        return DriveSummary(job, DriveState.FAILED, empty, (), 0, state, seconds, uri, (reason,), lost)
    keys = [folder.shards[shard] for shard in sorted(folder.shards)]
    result = contract.fold(plan, lake.load_all(Manifest, keys))
    missing = [shard for shard in range(len(plan.shards)) if shard not in folder.shards]
    causes: dict[Cause, int] = {}
    failed: list[FailedShard] = []
    for shard in failed_shards(batch, lake, job, folder, missing, detail):
        causes[shard.cause] = causes.get(shard.cause, 0) + 1
        if len(failed) < MAX_REASONS:
            failed.append(shard)
    notes = ()
    if not missing:
        # Every shard is done, but the last job ended before it could commit the drive.
        result = dataclasses.replace(result, state=max(result.state, DriveState.PARTIAL, key=_SEVERITY.index))
        why = end_reason(detail) if detail else "Batch does not know the job"
        notes = (
            f"all shards are done, but the drive is not committed ({why}); what retries the run commits it",
        )
        causes = {cause_of(detail): 1}
    return DriveSummary(
        *(job, result.state, result, tuple(failed), len(missing), state, seconds, uri, notes, causes)
    )


def _causes_of(result: DriveManifest) -> dict[Cause, int]:
    """How many bags and topics are not whole, by cause, of a drive whose shards are all done."""
    counts = Counter(cause_of_problem(text) for text in result.problems if "messages rejected" in text)
    counts[Cause.BAG_UNREADABLE] += result.unreadable_bags + result.damaged_bags
    return dict(+counts)


def _undone(lake: Lake, job: DriveJob, finish: FinishRecord | None, job_state: str | None) -> tuple[str, ...]:
    """What to say of finishing steps that are not done. The drive is committed, and whole, without them."""
    again = f"ros-to-parquet finish {lake.output} --drive-id {job.drive_id} does it again"
    if finish is not None:
        return tuple(
            f"finishing step {each.step} {each.state}: {each.problem}; {again}"
            for each in finish.steps
            if each.state is not StepState.DONE
        )
    if job_state == "SUCCEEDED":  # then there was nothing to do
        return ()
    plan = lake.load(Plan, contract.plan_key(job.drive_id, job.plan_id))
    if plan is None or plan.finish == FinishOptions():
        return ()
    return (f"what follows the drive's commit has not ended; {again}",)


def _report_of(lake: Lake, finish: FinishRecord | None) -> str:
    """URI of the report that a run has made; empty where it has not."""
    wrote = [path for each in finish.steps for path in each.wrote] if finish else []
    return next((lake.uri(path) for path in wrote if path.startswith(f"{contract.REPORTS_FOLDER}/")), "")


def _report_there(lake: Lake, drive_id: str) -> str:
    """URI of the report that earlier runs have left; empty where they have not."""
    key = contract.report_key(drive_id)
    return lake.uri(key) if key in lake.keys(key.rpartition("/")[0]) else ""


def as_dict(drives: Sequence[DriveSummary]) -> dict[str, Any]:
    """The sensor's return value: small, JSON-able, exact in its counts, bounded in its reasons."""
    budget, table_budget, drift_budget, bag_budget = MAX_REASONS, MAX_TABLES, MAX_REASONS, cost.MAX_BAGS
    quality_budget = step_budget = MAX_REASONS
    entries = []
    for drive in drives:
        shards = [
            {
                "shard": each.shard,
                "cause": str(each.cause),
                "reason": _short(each.reason),
                "exit_code": each.exit_code,
                "job_id": each.job_id,
                "log_stream": each.log_stream,
                "url": each.url,
                **({"log_lines": list(each.log_lines)} if each.log_lines else {}),
            }
            for each in drive.failed_shards[:budget]
        ]
        budget -= len(shards)
        problems = [_short(text) for text in (*drive.notes, *drive.result.problems)[:budget]]
        budget -= len(problems)
        of_tables = drive.cost.tables(drive.result) if drive.cost else {}
        tables = [
            _table_dict(table, of_tables.get(table.table)) for table in drive.result.tables[:table_budget]
        ]
        table_budget -= len(tables)
        of_drive = drive.cost.as_dict(most_bags=bag_budget) if drive.cost else None
        bag_budget -= len(of_drive["bags"]) if of_drive else 0
        drift = [_short(str(each)) for each in drive.result.drift[:drift_budget]]
        drift_budget -= len(drift)
        findings = _findings(drive)[:quality_budget]
        quality_budget -= len(findings)
        steps = _steps(drive, step_budget)
        step_budget -= sum(bool(each["problem"]) for each in steps)
        said = _drive_dict(drive, tables, shards, problems, drift, findings, steps)
        entries.append({**said, "cost": of_drive})
    return {"drives": entries, "totals": _totals(drives)}


def _table_dict(table: TableTotal, table_cost: float | None) -> dict[str, Any]:
    transforms = [dataclasses.asdict(each) for each in table.transforms]
    return {
        "table": table.table,
        "type": ", ".join(table.type_names),
        "messages": table.messages,
        "rows": table.rows,
        "rejected": table.rejected,
        "bytes_written": table.bytes_written,
        **({} if table_cost is None else {"cost": table_cost}),
        **({"transforms": transforms} if transforms else {}),
        **({"files_beside": table.files_beside} if table.files_beside else {}),
    }


def _drive_dict(
    drive: DriveSummary,
    tables: list[dict[str, Any]],
    shards: list[dict[str, Any]],
    problems: list[str],
    drift: list[str],
    findings: list[str],
    steps: list[dict[str, Any]],
) -> dict[str, Any]:
    result, job = drive.result, drive.job
    return {
        "drive_id": job.drive_id,
        "state": str(drive.state),
        "failed": drive.failed,
        "work": job.work,
        "source": job.source,
        "output": job.output,
        "plan_id": job.plan_id,
        "manifest": drive.manifest_uri,
        "job_id": job.job_id,
        "job_state": drive.job_state,
        "job_seconds": drive.job_seconds,
        "console_url": job.console_url,
        "bags": result.bags,
        "damaged_bags": result.damaged_bags,
        "unreadable_bags": result.unreadable_bags,
        "unverified_bags": result.unverified_bags,
        "covered": job.covered,
        "ignored": job.ignored,
        "shards": job.shards,
        "shards_done": result.shards,
        "messages": result.messages,
        "rows": result.rows,
        "rejected": result.rejected,
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
        "shard_seconds": result.shard_seconds,
        "table_count": len(result.tables),
        "tables": tables,
        "failed_shard_count": drive.failed_shard_count,
        "causes": {str(cause): count for cause, count in drive.causes.items()},
        "failed_shards": shards,
        "problems": problems,
        "drift_count": result.drift_count,
        "drift": drift,
        "quality": result.quality.as_dict(findings) if result.quality else None,
        "report": drive.report or None,
        "finish": steps,
    }


def _steps(drive: DriveSummary, budget: int) -> list[dict[str, Any]]:
    """Its finishing steps; of their problems the first ``budget`` are said."""
    steps = []
    for each in drive.finish.steps if drive.finish else ():
        problem = _short(each.problem) if budget > 0 else ""
        budget -= bool(problem)
        steps.append({**dataclasses.asdict(each), "problem": problem, "wrote": len(each.wrote)})
    return steps


def _findings(drive: DriveSummary) -> list[str]:
    """What its quality checks found, errors first."""
    quality = drive.result.quality
    return [_short(str(each)) for each in quality.findings] if quality else []


def _totals(drives: Sequence[DriveSummary]) -> dict[str, Any]:
    states = Counter(str(drive.state) for drive in drives)
    causes: Counter[str] = Counter()
    for drive in drives:
        causes.update({str(cause): count for cause, count in drive.causes.items()})
    counted = ("bags", "messages", "rows", "rejected", "bytes_read", "bytes_written", "shard_seconds")
    sums = {name: sum(getattr(drive.result, name) for drive in drives) for name in counted}
    return {
        "drives": len(drives),
        "states": dict(states),
        "causes": dict(causes),
        "failed": run_fails(drives),
        "failed_drives": sum(drive.failed for drive in drives),
        **sums,
        "failed_shards": sum(each.failed_shard_count for each in drives),
        "costs": cost.totals(drive.cost for drive in drives if drive.cost),
        "quality": dict(
            Counter(str(drive.result.quality.level) for drive in drives if drive.result.quality is not None)
        ),
    }


def failure_message(drives: Sequence[DriveSummary], *, advice: str = CLEAR_TASK) -> str | None:
    """Why the run fails, with the first `DRIVES_SHOWN` failed drives, in one message; None where none failed.

    ``advice`` is how to run the shards that are missing.
    """
    if not run_fails(drives):
        return None
    failed = [drive for drive in drives if drive.failed]
    lines = [f"{_how_many_failed(drives)}:"]
    budget = MAX_REASONS
    for drive in failed[:DRIVES_SHOWN]:
        shown, more = shown_causes(drive, max(0, min(budget, CAUSES_SHOWN)))
        budget -= len(shown)
        lines.append(
            f"- {drive.job.drive_id}: {drive.state}, {drive.result.shards} of {drive.job.shards} shards done"
            f" ({drive.manifest_uri})"
        )
        lines += [*shown, *more]
    if len(failed) > DRIVES_SHOWN:
        states = Counter(str(drive.state) for drive in failed[DRIVES_SHOWN:])
        counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        lines.append(f"- and {len(failed) - DRIVES_SHOWN} more ({counted}): each is in the summary")
    if any(drive.failed_shard_count for drive in failed):
        lines.append(advice)
    return "\n".join(lines)


def _how_many_failed(drives: Sequence[DriveSummary]) -> str:
    count, ratio = sum(drive.failed for drive in drives), max(each.job.min_success_ratio for each in drives)
    said = f"{count} of {len(drives)} {'drive' if len(drives) == 1 else 'drives'} failed"
    if ratio == 1:
        return said
    return f"{said} (success ratio {(len(drives) - count) / len(drives):.4g}, min_success_ratio {ratio:g})"


def tolerated(drives: Sequence[DriveSummary]) -> list[str]:
    """That drives failed, and the run does not; with their causes."""
    failed = [drive for drive in drives if drive.failed]
    if not failed or run_fails(drives):
        return []
    lines = [f"{_how_many_failed(drives)}, which does not fail the run:"]
    for drive in failed:
        shown, more = shown_causes(drive, CAUSES_SHOWN)
        lines += [f"- {drive.job.drive_id}: {drive.state} ({drive.manifest_uri})", *shown, *more]
    return lines


def shown_causes(drive: DriveSummary, limit: int) -> tuple[list[str], list[str]]:
    """The first causes of a drive's state, with log lines where there are some; how many more there are."""
    causes = [_shown_shard(shard) for shard in drive.failed_shards[:limit]]
    rest = [*drive.notes, *drive.result.problems]
    if drive.failed and drive.state not in drive.job.fail_on:
        rest = [*_findings(drive), *rest]
    causes += [[_short(text)] for text in rest[: limit - len(causes)]]
    more = drive.failed_shard_count + len(rest) - len(causes)
    return (
        [f"    {line}" for cause in causes for line in cause],
        [f"    and {more} more; see the manifests"] if more > 0 else [],
    )


def _shown_shard(shard: FailedShard) -> list[str]:
    stream = f" (log stream {shard.log_stream})" if shard.log_stream else ""
    return [_short(f"shard {shard.shard}: {shard.cause}: {shard.reason}") + stream, *shown_log(shard)]


def shown_log(shard: FailedShard) -> list[str]:
    """A failed shard's link and log lines, where its lines were asked for."""
    if not shard.log_lines:
        return []
    return [*([f"    {shard.url}"] if shard.url else []), *(f"    | {line}" for line in shard.log_lines)]


def log_lines(drives: Sequence[DriveSummary]) -> list[str]:
    """For the task's log: a line a drive, and what is to be said of one that does not fail the run."""
    lines = []
    for drive in drives:
        result = drive.result
        seconds = drive.job_seconds or result.shard_seconds
        speed = f", {result.bytes_read / 1e6 / seconds:.1f} MB/s" if seconds and result.bytes_read else ""
        lines.append(
            f"drive {drive.job.drive_id}: {drive.state}: {result.bags} bags, {len(result.tables)} tables, "
            f"{result.messages} messages, {result.rows} rows, {result.rejected} rejected, "
            f"{result.bytes_read / 1e6:.1f} MB read, {result.bytes_written / 1e6:.1f} MB written"
            f"{f' in {seconds:.1f} s' if seconds else ''}{speed}{_shown_cost(drive)}"
        )
        made = [f"    table {table.table}: {each}" for table in result.tables for each in table.transforms]
        lines += made[:CAUSES_SHOWN]
        lines += [f"    {_short(str(each))}" for each in result.drift[:CAUSES_SHOWN]]
        if (unsaid := result.drift_count - CAUSES_SHOWN) > 0:
            lines.append(f"    and {unsaid} more definitions that changed; see ros-to-parquet drift")
        if not drive.failed:  # else `failure_message` says it
            shown, more = shown_causes(drive, CAUSES_SHOWN)
            lines += [*shown, *more]
        if result.quality is not None:
            lines.append(f"    {result.quality}")
            lines += [f"    {each}" for each in _findings(drive)[:FINDINGS_SHOWN] if not drive.failed]
        if drive.report:
            lines.append(f"    report: {drive.report}")
    return lines + tolerated(drives)


def _shown_cost(drive: DriveSummary) -> str:
    if drive.cost is None:
        return ""
    usage, currency = drive.cost.usage, drive.cost.planned.pricing.currency
    lost = f", of it {cost.shown(usage.failed_cost, currency)} in attempts that failed"
    return f", {cost.shown(usage.cost, currency)}{lost if usage.failed_attempts else ''}"


# --- drives of which there is nothing to do ---------------------------------------------------------


def _held(lake: Lake, job: DriveJob) -> DriveManifest:
    """What earlier runs have left of a drive, and could not read of it, as one manifest."""
    total = _empty(job, DriveState.SUCCEEDED)
    for holding in read_holdings(lake, job.drive_id, but=job.plan_id):
        part = holding.commit
        if part is None or part.taken_over_by:
            # What that run did not finish, others have: each bag is covered.
            plan = lake.load(Plan, contract.plan_key(job.drive_id, holding.plan_id))
            if plan is None:
                continue
            keys = holding.manifest_keys
            whole = dataclasses.replace(plan, shards=plan.shards[: len(keys)])
            part = contract.fold(whole, lake.load_all(Manifest, keys))
        if part.state is not DriveState.FAILED:  # of a failed one no row is there
            total = _add(total, _readable(part))
    if not job.unreadable:
        return total
    plan = lake.load(Plan, contract.plan_key(job.drive_id, job.plan_id))
    said = tuple(map(str, plan.unreadable)) if plan else ()
    return dataclasses.replace(
        total,
        state=max(total.state, DriveState.DAMAGED, key=_SEVERITY.index) if job.covered else DriveState.FAILED,
        bags=total.bags + job.unreadable,
        unreadable_bags=job.unreadable,
        problems=_each_once(said, total.problems),
    )


def _readable(part: DriveManifest) -> DriveManifest:
    """Without the bags that the run could not read: another has, or they are counted once for all runs.

    Nor what it says of them, where it is of no others.
    """
    flawed = DriveState.SUCCEEDED_WITH_REJECTS if part.rejected else DriveState.SUCCEEDED
    if part.damaged_bags:
        flawed, said = part.state, part.problems
    else:
        said = tuple(problem for problem in part.problems if not contract.blamed_bag(problem))
    return dataclasses.replace(
        part,
        state=flawed if part.state is DriveState.DAMAGED else part.state,
        bags=part.bags - part.unreadable_bags,
        unreadable_bags=0,
        problems=said,
    )


def _add(first: DriveManifest, second: DriveManifest) -> DriveManifest:
    tables = {table.table: table for table in first.tables}
    for table in second.tables:
        known = tables.get(table.table)
        tables[table.table] = table if known is None else _add_tables(known, table)
    sums = (
        "shards",
        "bags",
        "unreadable_bags",
        "damaged_bags",
        "unverified_bags",
        "messages",
        "rows",
        "rejected",
        "bytes_read",
        "bytes_written",
        "shard_seconds",
        "drift_count",
    )
    added: dict[str, Any] = {name: getattr(first, name) + getattr(second, name) for name in sums}
    return dataclasses.replace(
        first,
        state=max(first.state, second.state, key=_SEVERITY.index),
        tables=tuple(tables[name] for name in sorted(tables)),
        problems=_each_once(first.problems, second.problems),
        drift=(first.drift + second.drift)[:MAX_REASONS],
        quality=contract.add_quality(first.quality, second.quality),
        **added,
    )


def _each_once(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Every run says again which bags it has not tried."""
    return tuple(dict.fromkeys((*first, *second)))[:MAX_REASONS]


def _add_tables(first: TableTotal, second: TableTotal) -> TableTotal:
    return TableTotal(
        table=first.table,
        topics=tuple(dict.fromkeys(first.topics + second.topics)),
        type_names=tuple(dict.fromkeys(first.type_names + second.type_names)),
        messages=first.messages + second.messages,
        rows=first.rows + second.rows,
        rejected=first.rejected + second.rejected,
        bytes_written=first.bytes_written + second.bytes_written,
        transforms=contract.add_transforms(first.transforms, second.transforms),
        schemas=contract.add_schemas((*first.schemas, *second.schemas)),
        files_beside=first.files_beside + second.files_beside,
        bytes_in=first.bytes_in + second.bytes_in,
    )


def _empty(job: DriveJob, state: DriveState) -> DriveManifest:
    return DriveManifest(
        contract_version=contract.CONTRACT_VERSION,
        plan_id=job.plan_id,
        run=contract.Run("", ""),
        drive_id=job.drive_id,
        state=state,
        shards=0,
        bags=0,
        unreadable_bags=0,
        damaged_bags=0,
        unverified_bags=0,
        messages=0,
        rows=0,
        rejected=0,
        bytes_read=0,
        bytes_written=0,
        shard_seconds=0.0,
        tables=(),
        problems=(),
    )


def _manifest_uri(lake: Lake, job: DriveJob, plan_id: str) -> str:
    return lake.uri(contract.manifest_folder(job.drive_id, plan_id).rstrip("/") + "/")


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= MAX_REASON_LENGTH else f"{text[: MAX_REASON_LENGTH - 3]}..."
