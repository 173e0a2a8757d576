"""Planning as a Batch job of its own: its submission, and the records by which a run's planning is found.

Such a job runs ``ros-to-parquet submit`` or ``ros-to-parquet retry`` in the image, which hand over to this
package's command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.causes import cause_of
from airflow_batch_ros.jobs import LIVE, MAX_JOB_NAME_LENGTH, describe, find_job, job_state, submit_once
from airflow_batch_ros.lake import Lake
from ros_to_parquet import contract
from ros_to_parquet.contract import CONTRACT_VERSION, Run

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

EXIT_MEANINGS: Mapping[int, str] = {
    2: "wrong conf or settings",
    4: "refused: a drive cannot be planned, or access is denied",
    75: "another run has a drive, or something that passes",
}
"""What exit codes of planning jobs mean; see `commands.terminal.Exit`."""


@dataclass(frozen=True, slots=True)
class PlanningRecord:
    """A Batch job that plans a run, or has."""

    contract_version: int
    run: Run
    job_id: str
    job_queue: str
    submitted_at: str


@dataclass(frozen=True, slots=True)
class Planning:
    """A planning job as it stands. ``detail`` is Batch's; None where Batch does not know it (any more)."""

    record: PlanningRecord
    state: str
    detail: Mapping[str, Any] | None

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def failed(self) -> bool:
        return self.state == "FAILED"

    @property
    def said(self) -> str:
        """How it stands, in words."""
        job = f"planning job {self.record.job_id}"
        return (
            f"{job} has failed: {cause_of(self.detail)}: {self._reason()}"
            if self.failed
            else f"{job} is {self.state}"
        )

    @property
    def exit_code(self) -> int | None:
        code = ((self.detail or {}).get("container") or {}).get("exitCode")
        return None if code is None else int(code)

    def _reason(self) -> str:
        code = self.exit_code
        if code is None:
            detail = self.detail or {}
            reasons = ((detail.get("container") or {}).get("reason"), detail.get("statusReason"))
            return "; ".join(str(reason) for reason in reasons if reason) or "Batch gives no reason"
        meaning = EXIT_MEANINGS.get(code)
        return f"exit code {code}{f' ({meaning})' if meaning else ''}"


def submit(
    batch: BatchClient,
    submitter: BatchClient,
    lake: Lake,
    run: Run,
    *,
    job_queue: str,
    job_definition: str,
    tags: Mapping[str, str],
    share_identifier: str | None = None,
) -> tuple[PlanningRecord, bool]:
    """Has a Batch job plan and submit a run whose record is in the lake; whether that is a new job.

    A planning job of the run that is live is left to do it.

    Raises:
        SubmitError: Batch refused it.
    """
    records = _records(lake, run)
    name = job_name(lake.output, run.run_id, len(records))
    for record in records:
        if job_state(describe(batch, [record.job_id]).get(record.job_id)) in LIVE:
            return record, False
    unrecorded = find_job(batch, job_queue, name)
    request: dict[str, Any] = {
        "jobName": name,
        "jobQueue": job_queue,
        "jobDefinition": job_definition,
        "containerOverrides": {"command": ["retry", run.run_id, "--output", lake.output]},
        "tags": {"ros-to-parquet:run": run.run_id, **tags},
        "propagateTags": True,
    }
    if share_identifier:
        request["shareIdentifier"] = share_identifier
    job_id = unrecorded or submit_once(batch, submitter, request, what=f"planning of run {run.run_id!r}")
    return _save(lake, run, job_id, job_queue), unrecorded is None


def is_planning_job() -> bool:
    """Whether this process is a Batch job."""
    return "AWS_BATCH_JOB_ID" in os.environ


def save_own(lake: Lake, run: Run) -> None:
    """Where this process is a Batch job, records it as one that plans the run."""
    job_id, queue = os.environ.get("AWS_BATCH_JOB_ID"), os.environ.get("AWS_BATCH_JQ_NAME")
    if job_id and queue:
        _save(lake, run, job_id, queue)


def find(batch: BatchClient, lake: Lake, run: Run) -> Planning | None:
    """The run's planning job that was submitted last; None for a run that was planned elsewhere."""
    records = _records(lake, run)
    if not records:
        return None
    detail = describe(batch, [records[-1].job_id]).get(records[-1].job_id)
    return Planning(records[-1], job_state(detail), detail)


def job_name(output: str, run_id: str, number: int) -> str:
    """By Batch's rules, unlike those of other runs and lakes, and of the run's earlier planning.

    >>> job_name("s3://lake", "nightly:1", 0)
    'plan-nightly_1-6219aeae-0'
    """
    tail = f"-{contract.sha256(f'{output} {run_id}'.encode())[:8]}-{number}"
    name = "plan-" + re.sub(r"[^A-Za-z0-9_-]", "_", run_id)
    return name[: MAX_JOB_NAME_LENGTH - len(tail)] + tail


def _records(lake: Lake, run: Run) -> list[PlanningRecord]:
    """Oldest first."""
    found = lake.load_all(PlanningRecord, lake.keys(contract.planning_folder(run.run_id)))
    return sorted((each for each in found if each.run == run), key=lambda each: each.submitted_at)


def _save(lake: Lake, run: Run, job_id: str, job_queue: str) -> PlanningRecord:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record = PlanningRecord(CONTRACT_VERSION, run, job_id, job_queue, now)
    key = f"{contract.planning_folder(run.run_id)}/{job_id}.json"
    # The job itself, and who submitted it: the first one's record stays.
    return record if lake.create(key, contract.to_json(record)) else lake.load(PlanningRecord, key) or record
