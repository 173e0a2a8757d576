"""Records of runs in the lake: what each was asked for, so that others find its drives by the run's id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from airflow_batch_ros.conf import DriveSource, PipelineConf
from airflow_batch_ros.jobs import SubmitOptions
from airflow_batch_ros.lake import Lake
from ros_to_parquet import contract
from ros_to_parquet.contract import CONTRACT_VERSION, Run

_SHOWN = 10


class RunNotFoundError(LookupError):
    """No run of that id, or several, or not of that drive; the message says what to name."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run was asked for. A run whose operator is mapped has several.

    Attributes:
        options: how jobs are submitted: `SubmitOptions` as JSON.
        submitted_at: when it was last submitted, or retried with the same options: ISO 8601, UTC.
    """

    contract_version: int
    run: Run
    conf: PipelineConf
    options: str
    shard_bytes: int
    submitted_at: str

    @property
    def submit_options(self) -> SubmitOptions:
        return SubmitOptions(**json.loads(self.options))

    @property
    def name(self) -> str:
        """What `find` takes."""
        return f"{self.run.dag_id}/{self.run.run_id}" if self.run.dag_id else self.run.run_id


@dataclass(frozen=True, slots=True)
class RunDrive:
    """A drive of a run, with the newest record that names it."""

    source: DriveSource
    record: RunRecord

    @property
    def drive_id(self) -> str:
        return self.source.drive_id

    @property
    def plan_id(self) -> str:
        return contract.make_plan_id(self.record.run, self.drive_id)


def save(
    lake: Lake, run: Run, conf: PipelineConf, *, options: SubmitOptions, shard_bytes: int
) -> tuple[str, bool]:
    """Leaves a run's record, or renews the one that says the same; its key, and whether it is new."""
    said = json.dumps(asdict(options), sort_keys=True)
    record = RunRecord(CONTRACT_VERSION, run, conf, said, shard_bytes, submitted_at="")
    digest = contract.sha256(contract.to_json(record))[:12]
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    data = contract.to_json(replace(record, submitted_at=now))
    key = contract.run_key(run.run_id, digest)
    new = lake.create(key, data)
    if not new:
        lake.write(key, data)
    return key, new


def is_recorded(lake: Lake, run_id: str) -> bool:
    """Whether a run of that id was submitted to Batch."""
    return bool(lake.keys(contract.run_folder(run_id)))


def find(lake: Lake, name: str) -> list[RunRecord]:
    """The records of the run that ``name`` means, oldest first: a run id, or ``dag_id/run_id``.

    Raises:
        RunNotFoundError: there is none, or several DAGs have one.
    """
    dag_id, slash, run_id = name.rpartition("/")
    records = list(lake.load_all(RunRecord, lake.keys(contract.run_folder(run_id))))
    if slash:
        records = [record for record in records if record.run.dag_id == dag_id]
    dag_ids = sorted({record.run.dag_id for record in records})
    if not records:
        raise RunNotFoundError(
            f"no run {name!r} in {lake.output}: check its id (of an Airflow run, its run id or "
            "dag_id/run_id), and that the output is the one it was submitted with"
        )
    if len(dag_ids) > 1:
        names = ", ".join(f"{dag_id}/{run_id}" for dag_id in dag_ids[:_SHOWN])
        raise RunNotFoundError(f"run {name!r} is of several DAGs; say which: {names}")
    return sorted(records, key=lambda record: record.submitted_at)


def of_run(lake: Lake, run: Run) -> list[RunRecord]:
    """The records of just that run, oldest first; none where it was not submitted to this lake."""
    found = lake.load_all(RunRecord, lake.keys(contract.run_folder(run.run_id)))
    return sorted((each for each in found if each.run == run), key=lambda record: record.submitted_at)


def earlier_drives(lake: Lake, run: Run, conf: PipelineConf) -> tuple[DriveSource, ...] | None:
    """The drives of an earlier try of the run with this conf, whose patterns are not to be asked again."""
    for record in lake.load_all(RunRecord, lake.keys(contract.run_folder(run.run_id))):
        named = tuple(drive for drive in record.conf.drives if not drive.found)
        if (
            record.run == run
            and record.conf.found
            and replace(record.conf, drives=named, found=False) == conf
        ):
            return record.conf.drives
    return None


def to_be_found(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records of a run whose patterns nobody has asked yet."""
    done = [record.conf.patterns for record in records if record.conf.found]
    return [
        record
        for record in records
        if record.conf.patterns and not record.conf.found and record.conf.patterns not in done
    ]


def newest_runs(
    lake: Lake, *, skip: int = 0, count: int, unread: list[str] | None = None
) -> tuple[list[list[RunRecord]], bool]:
    """The records of the runs that were submitted or retried last, of each run oldest first.

    Runs of several DAGs that have one id count as one; whether there are older ones is said too. Why records
    are left out that are none, or of another version, goes to ``unread``.

    Raises:
        ContractError: there is such a record, and no ``unread``.
    """
    folders = lake.newest_folders(contract.RUNS_FOLDER)
    keys = [key for folder in folders[skip : skip + count] for key in folder]
    by_run: dict[Run, list[RunRecord]] = {}
    for record in lake.load_all(RunRecord, keys, unread=unread):
        by_run.setdefault(record.run, []).append(record)
    found = [sorted(records, key=lambda record: record.submitted_at) for records in by_run.values()]
    found.sort(key=lambda records: records[-1].submitted_at, reverse=True)
    return found, len(folders) > skip + count


def drives_of(records: Sequence[RunRecord], *, only: Iterable[str] = ()) -> list[RunDrive]:
    """The drives of a run, in the order of its confs; of all records of a drive the newest counts.

    Raises:
        RunNotFoundError: ``only`` names a drive that the run has not.
    """
    drives = {
        source.drive_id: RunDrive(source, record) for record in records for source in record.conf.drives
    }
    wanted = list(only)
    if missing := [drive_id for drive_id in wanted if drive_id not in drives]:
        there = ", ".join(list(drives)[:_SHOWN]) + (
            f" and {len(drives) - _SHOWN} more" if len(drives) > _SHOWN else ""
        )
        raise RunNotFoundError(
            f"run {records[0].run.run_id!r} has no drive {', '.join(map(repr, missing))}; it has {there}"
        )
    return [drive for drive in drives.values() if not wanted or drive.drive_id in wanted]
