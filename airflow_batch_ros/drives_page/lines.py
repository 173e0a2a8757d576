"""How a run's drives stand, a line each, at a cost that does not grow with their shards.

A drive that is committed costs one request, another one four and a hundredth of a DescribeJobs; one that has
ended without a commit a list of the drive's plans more, and a request for each other one. Nothing is listed
that has an entry a shard, unless Batch has forgotten a job that never finished its drive.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_batch_ros import console, planning
from airflow_batch_ros.jobs import (
    DEFAULT_LOG_GROUP,
    ENDED,
    LIVE,
    Work,
    describe,
    end_reason,
    job_state,
    log_group,
)
from airflow_batch_ros.lake import Lake, drive_folder, find_replacing, replaced_in_words
from airflow_batch_ros.runs import RunDrive
from airflow_batch_ros.status import Underway
from airflow_batch_ros.summary import DriveSummary
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    ContractError,
    DriveManifest,
    DriveState,
    JobRecord,
    Plan,
    QualityLevel,
    Run,
    fails_on,
    one_line,
)

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

T = TypeVar("T")

THREADS = 32
"""Drives looked at together: half of `clients.MAX_CONNECTIONS`, for others use the same client."""

NOTE_LENGTH = 300

NOTHING_TO_DO = "nothing_to_do"
"""State of a drive whose bags earlier runs have extracted."""

_RUNNING = ("STARTING", "RUNNING")


@dataclass(frozen=True, slots=True)
class Shards:
    """How many of a drive's shards are in which state."""

    total: int = 0
    done: int = 0
    running: int = 0
    failed: int = 0

    @property
    def waiting(self) -> int:
        return max(0, self.total - self.done - self.running - self.failed)


@dataclass(frozen=True, slots=True)
class DriveLine:
    """How a drive of a run stands.

    Attributes:
        state: a `contract.DriveState` where it has ended, else `status.Underway` or `NOTHING_TO_DO`.
        failing: whether it has ended as the conf's ``fail_on`` says.
        note: why, in a line, where all is not well.
        quality: what the quality checks came to, in words; empty where all is well or none was made.
        committed: whether its manifest is there, so that nothing here changes any more.
        replaced: whether another run has replaced it, for which all counts that the lake has of it.
    """

    drive_id: str
    source: str
    plan_id: str
    state: str
    failing: bool = False
    shards: Shards = Shards()
    bags: int = 0
    tables: int = 0
    rows: int = 0
    rejected: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    shard_seconds: float = 0.0
    job_id: str = ""
    job_state: str = ""
    note: str = ""
    quality: str = ""
    committed: bool = False
    replaced: bool = False

    @property
    def ended(self) -> bool:
        return self.state in (*DriveState, NOTHING_TO_DO)


@dataclass(frozen=True, slots=True)
class Links:
    """Where a line leads: URLs, empty where there is nothing to lead to."""

    job: str = ""
    log: str = ""
    report: str = ""


@dataclass(frozen=True, slots=True)
class RunDigest:
    """How a run stood when its page was written; beside that page, for the list of all runs."""

    contract_version: int
    run: Run
    submitted_at: str
    written_at: str
    drives: int
    states: tuple[str, ...]
    counts: tuple[int, ...]
    failing: int
    rows: int
    rejected: int
    bytes_read: int
    bytes_written: int
    ended: bool

    @property
    def by_state(self) -> dict[str, int]:
        return dict(zip(self.states, self.counts, strict=True))


def digest_of(run: Run, lines: Sequence[DriveLine], *, submitted_at: str, written_at: str) -> RunDigest:
    states = count_states(lines)
    return RunDigest(
        contract_version=contract.CONTRACT_VERSION,
        run=run,
        submitted_at=submitted_at,
        written_at=written_at,
        drives=len(lines),
        states=tuple(states),
        counts=tuple(states.values()),
        failing=sum(line.failing for line in lines),
        rows=sum(line.rows for line in lines),
        rejected=sum(line.rejected for line in lines),
        bytes_read=sum(line.bytes_read for line in lines),
        bytes_written=sum(line.bytes_written for line in lines),
        ended=all(line.ended for line in lines),
    )


def count_states(lines: Iterable[DriveLine]) -> dict[str, int]:
    """Drives by state, the most frequent first."""
    return dict(Counter(line.state for line in lines).most_common())


def run_slug(run: Run) -> str:
    """A name for files of a run's page.

    >>> run_slug(Run("dag", "manual__1"))
    '0e6ccd1f56a5e99a'
    """
    return hashlib.sha256(f"{run.dag_id}\n{run.run_id}".encode()).hexdigest()[:16]


# --- a line a drive ---------------------------------------------------------------------------------


def line_of_summary(drive: DriveSummary) -> DriveLine:
    """Of a drive whose end the sensor has just read; no request."""
    job = drive.job
    if drive.replaced:
        return DriveLine(
            *(job.drive_id, job.source, job.plan_id, str(drive.state)),
            job_id=job.job_id or "",
            job_state=drive.job_state or "",
            note=_note(drive.notes),
            replaced=True,
        )
    if job.work == Work.NOTHING:
        # What the lake has of it is of other runs, and counts there.
        return DriveLine(
            *(job.drive_id, job.source, job.plan_id, NOTHING_TO_DO, drive.failed),
            note=_covered(job.covered, job.unreadable),
        )
    line = _ended_line(job.drive_id, job.source, job.plan_id, drive.result)
    first = drive.failed_shards[0] if drive.failed_shards else None
    notes = [*drive.notes, *drive.result.problems]
    if first is not None:
        more = drive.failed_shard_count - 1
        said = f"shard {first.shard}: {first.cause}: {first.reason}"
        notes.insert(0, f"{said} (and {more} more)" if more else said)
    done = drive.result.shards
    return replace(
        line,
        state=str(drive.state),
        failing=drive.failed,
        shards=Shards(job.shards, done, failed=max(0, job.shards - done)),
        job_id=job.job_id or "",
        job_state=drive.job_state or "",
        note=_note(notes),
    )


def read_lines(
    batch: BatchClient,
    lake: Lake,
    drives: Sequence[RunDrive],
    *,
    known: Mapping[str, DriveLine] | None = None,
) -> list[DriveLine]:
    """How each drive stands, in their order. Lines of ``known``, by plan id, are taken as they are.

    One of which a manifest or record is none, or of another version, is `Underway.UNKNOWN`.
    """
    known = known or {}
    by_plan: dict[str, DriveLine] = {}

    def committed(drive: RunDrive) -> DriveLine | None:
        return _or_unknown(drive, lambda: _committed(lake, drive))

    def recorded(drive: RunDrive) -> list[JobRecord] | DriveLine:
        return _or_unknown(drive, lambda: records_of(lake, drive.drive_id, drive.plan_id))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="drives") as pool:
        unknown = [drive for drive in drives if drive.plan_id not in known]
        found = list(pool.map(committed, unknown))
        by_plan.update((line.plan_id, line) for line in found if line is not None)
        open_drives = [drive for drive, line in zip(unknown, found, strict=True) if line is None]
        of_drives = list(pool.map(recorded, open_drives))
        by_plan.update((each.plan_id, each) for each in of_drives if isinstance(each, DriveLine))
        open_drives = [drive for drive in open_drives if drive.plan_id not in by_plan]
        records = [each for each in of_drives if not isinstance(each, DriveLine)]
        details = describe(batch, [each[-1].job_id for each in records if each])
        plannings: dict[Run, planning.Planning | None] = {}
        for drive, each in zip(open_drives, records, strict=True):
            if not each and drive.record.run not in plannings:
                plannings[drive.record.run] = planning.find(batch, lake, drive.record.run)

        def stands(drive: RunDrive, of_drive: Sequence[JobRecord]) -> DriveLine:
            if not of_drive:
                return _or_unknown(drive, lambda: _unsubmitted(lake, drive, plannings[drive.record.run]))
            detail = details.get(of_drive[-1].job_id)
            return _or_unknown(drive, lambda: _submitted(lake, drive, of_drive, detail))

        for line in pool.map(stands, open_drives, records):
            by_plan[line.plan_id] = line
    return [known.get(drive.plan_id) or by_plan[drive.plan_id] for drive in drives]


def _or_unknown(drive: RunDrive, read: Callable[[], T]) -> T | DriveLine:
    try:
        return read()
    except ContractError as error:
        note = _note([str(error)])
        return DriveLine(drive.drive_id, drive.source.uri, drive.plan_id, Underway.UNKNOWN, note=note)


def _committed(lake: Lake, drive: RunDrive) -> DriveLine | None:
    commit = lake.load(DriveManifest, contract.drive_manifest_key(drive.drive_id, drive.plan_id))
    if commit is None:
        return None
    line = _ended_line(drive.drive_id, drive.source.uri, drive.plan_id, commit)
    failing = fails_on(drive.record.conf.fail_on, commit.state, commit.quality)
    # Of one that another run took over only the shards that count are said.
    return replace(line, failing=failing, shards=Shards(commit.shards, commit.shards), committed=True)


def _ended_line(drive_id: str, source: str, plan_id: str, result: DriveManifest) -> DriveLine:
    quality = result.quality
    return DriveLine(
        drive_id=drive_id,
        source=source,
        plan_id=plan_id,
        state=str(result.state),
        bags=result.bags,
        tables=len(result.tables),
        rows=result.rows,
        rejected=result.rejected,
        bytes_read=result.bytes_read,
        bytes_written=result.bytes_written,
        shard_seconds=result.shard_seconds,
        note=_note(result.problems),
        quality=str(quality) if quality is not None and quality.level is not QualityLevel.OK else "",
    )


def _unsubmitted(lake: Lake, drive: RunDrive, found: planning.Planning | None) -> DriveLine:
    line = DriveLine(drive.drive_id, drive.source.uri, drive.plan_id, Underway.NOT_PLANNED)
    plan = lake.load(Plan, contract.plan_key(drive.drive_id, drive.plan_id))
    if plan is not None:
        line = replace(line, bags=len(plan.bags), shards=Shards(len(plan.shards)))
        if not plan.shards:
            held = DriveState.DAMAGED if plan.covered else DriveState.FAILED
            failing = bool(plan.unreadable) and fails_on(drive.record.conf.fail_on, held)
            note = _covered(len(plan.covered), len(plan.unreadable))
            return replace(line, state=NOTHING_TO_DO, failing=failing, note=note)
        line = replace(line, state=Underway.NOT_SUBMITTED)
    if found is None:
        return line
    if found.live:
        return replace(line, state=Underway.PLANNING, note=_note([found.said]))
    if found.failed:
        failing = fails_on(drive.record.conf.fail_on, DriveState.FAILED)
        return replace(line, state=DriveState.FAILED, failing=failing, note=_note([found.said]))
    return line


def _submitted(
    lake: Lake, drive: RunDrive, records: Sequence[JobRecord], detail: Mapping[str, Any] | None
) -> DriveLine:
    last = records[-1]
    total, size = records[0].array_size or 1, last.array_size or 1
    state = job_state(detail)
    children = ((detail or {}).get("arrayProperties") or {}).get("statusSummary") or {}
    if not any(children.values()):
        children = {state: size}
    done = total - size + children.get("SUCCEEDED", 0)
    running = sum(children.get(each, 0) for each in _RUNNING)
    failed = children.get("FAILED", 0)
    line = DriveLine(
        drive.drive_id,
        drive.source.uri,
        drive.plan_id,
        Underway.RUNNING if running or done or failed else Underway.WAITING,
        shards=Shards(total, done, running, failed),
        job_id=last.job_id,
        job_state=state,
    )
    if state in LIVE:
        return line
    committed = _committed(lake, drive)  # it may have been since it was looked for
    if committed is not None:
        return replace(committed, job_id=last.job_id, job_state=state)
    if by := find_replacing(lake, drive.drive_id, drive.plan_id):
        note = _note([replaced_in_words(by)])
        return replace(line, state=str(DriveState.SUCCEEDED), shards=Shards(), note=note, replaced=True)
    if state not in ENDED:  # Batch has forgotten it
        done = len(drive_folder(lake, drive.drive_id, drive.plan_id).shards)
    ended_as = DriveState.PARTIAL if done else DriveState.FAILED
    why = end_reason(detail) if detail else "Batch does not know the job any more"
    return replace(
        line,
        state=ended_as,
        failing=fails_on(drive.record.conf.fail_on, ended_as),
        shards=Shards(total, done, failed=max(0, total - done)),
        note=_note([why]),
    )


def records_of(lake: Lake, drive_id: str, plan_id: str) -> list[JobRecord]:
    """The jobs of the first and of the last generation, which may be one."""
    keys = [
        key
        for key in lake.keys(contract.plan_folder(drive_id, plan_id))
        if key.rpartition("/")[2].startswith("job-")
    ]
    numbered = sorted(keys, key=lambda key: int(key.rpartition("-")[2].removesuffix(".json")))
    found = (lake.load(JobRecord, key) for key in dict.fromkeys(numbered[:1] + numbered[-1:]))
    return [record for record in found if record is not None]


def _covered(bags: int, unreadable: int) -> str:
    said = f"{bags:,} bags are in the lake already"
    return f"{said}, {unreadable:,} cannot be read" if unreadable else said


def _note(texts: Collection[str]) -> str:
    text = one_line(next(iter(texts), ""))
    return text if len(text) <= NOTE_LENGTH else f"{text[: NOTE_LENGTH - 3]}..."


# --- where lines lead -------------------------------------------------------------------------------


def with_jobs(lake: Lake, lines: Sequence[DriveLine]) -> list[DriveLine]:
    """The lines, with the last job of those that are committed: two or three requests each."""

    def one(line: DriveLine) -> DriveLine:
        if line.job_id or not line.committed:
            return line
        try:
            records = records_of(lake, line.drive_id, line.plan_id)
        except ContractError:
            return line
        return replace(line, job_id=records[-1].job_id) if records else line

    with ThreadPoolExecutor(THREADS, thread_name_prefix="drives") as pool:
        return list(pool.map(one, lines))


def links_of(
    batch: BatchClient,
    lake: Lake,
    lines: Sequence[DriveLine],
    *,
    console_base: str,
    report_url: Callable[[DriveLine], str],
) -> list[Links]:
    """Of each line, in their order: a report once it is there, a log where the job is one container.

    ``console_base`` is empty where no console is known.
    """
    region = batch.meta.region_name
    details = describe(batch, [line.job_id for line in lines if line.job_id]) if console_base else {}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="drives") as pool:
        reports = list(pool.map(lambda line: lake.exists(contract.report_key(line.drive_id)), lines))

    def one(line: DriveLine, report: bool) -> Links:
        job = log = ""
        if console_base and line.job_id:
            job = console.job_url(console_base, region, line.job_id)
            detail = details.get(line.job_id) or {}
            stream = (detail.get("container") or {}).get("logStreamName")
            if stream:
                group = log_group(detail) or DEFAULT_LOG_GROUP
                log = console.log_url(console_base, region, group, stream)
        return Links(job, log, report_url(line) if report else "")

    return [one(line, report) for line, report in zip(lines, reports, strict=True)]
