"""A night of drives, each with a fault of its own, from the conf to the lake; and the morning after.

All drives are one run: what befalls one is nothing to the others. In the morning the faults are over, and
the same run is submitted again, as clearing the operator's task does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.dataset as ds
import pytest

import ros_to_parquet
from airflow_batch_ros import cli
from airflow_batch_ros.causes import Cause
from airflow_batch_ros.clients import Clients
from airflow_batch_ros.conf import parse_conf
from airflow_batch_ros.fanout import Fanout
from airflow_batch_ros.jobs import ENDED, UNKNOWN, DriveJob, SubmitOptions, describe, job_state
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.local import (
    JOB_QUEUE,
    EmbeddedAws,
    Fault,
    HostReclaimed,
    ImageNotFound,
    JobEnds,
    JobStuck,
    JobUnknown,
    LogsMissing,
    S3Cut,
    S3Error,
    S3LostAnswer,
    S3Slow,
)
from airflow_batch_ros.summary import DriveSummary, SummaryError, failure_message, summarize_drive
from airflow_batch_ros.summary import summarize as summarize_run
from ros_to_parquet import contract
from ros_to_parquet.contract import DriveState, ExitCode, Run
from ros_to_parquet.storage import arrow_filesystem
from tests.faults.conftest import DEFINITION
from tests.provider.bags import MESSAGES, ros1_bag

OUTPUT = "s3://lake/out"
RUN = "night"
SHARD_BYTES = 8000
"""By which each of the bags here gets a shard of its own."""

PATIENCE_S = 300.0


@dataclass(frozen=True)
class Drive:
    """What befalls a drive, and what comes of it in the night.

    Attributes:
        causes: of the shards that failed.
        said: what the run's message says of it, where it fails.
        exit_code: of the shard that failed.
        attempts: of its job, where it is a plain one.
        bags: a shard each.
        long: it takes its time, and others are much like it.
    """

    faults: tuple[Fault, ...]
    state: DriveState = DriveState.SUCCEEDED
    causes: tuple[Cause, ...] = ()
    said: tuple[str, ...] = ()
    exit_code: ExitCode | None = None
    attempts: int | None = 1
    bags: int = 1
    long: bool = False

    @property
    def missing(self) -> int:
        """Shards without a manifest."""
        return len(self.causes)


def bag(drive_id: str) -> dict[str, Any]:
    """Reads of a drive's bags."""
    return {"operation": "GetObject", "bucket": "raw", "key": f"{drive_id}/*"}


def tables(drive_id: str) -> dict[str, Any]:
    """Writes of a drive's tables."""
    return {"operation": "PutObject", "bucket": "lake", "key": f"out/*/schema=*/drive_id={drive_id}/*"}


def lost(key: str) -> S3LostAnswer:
    return S3LostAnswer(operation="PutObject", bucket="lake", key=f"out/{key}", times=1)


def failed(
    cause: Cause,
    *faults: Fault,
    code: ExitCode | None,
    said: tuple[str, ...],
    attempts: int | None = 1,
    long: bool = False,
) -> Drive:
    return Drive(faults, DriveState.FAILED, (cause,), said, code, attempts, long=long)


OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
DRIVES: dict[str, Drive] = {
    "nothing": Drive(()),
    # What passes is survived: within an attempt, or by another one.
    "slow-down": Drive((S3Error(error="SlowDown", **bag("slow-down"), times=4),)),
    "slow": Drive((S3Slow(before_s=0.3, bytes_per_second=40_000, **bag("slow")),), long=True),
    "cut": Drive((S3Cut(after_bytes=3000, **bag("cut")),)),
    "put-500": Drive((S3Error(error="InternalError", **tables("put-500"), times=1),), attempts=2),
    "lost-answers": Drive(
        (
            lost("_leases/drive_id=lost-answers.json"),
            lost("_plans/drive_id=lost-answers/*/plan.json"),
            lost("_plans/drive_id=lost-answers/*/generation-0.json"),
            lost("_plans/drive_id=lost-answers/*/job-0.json"),
            lost("_manifests/drive_id=lost-answers/*/00000.json"),
        ),
    ),
    "reclaimed": Drive((HostReclaimed(job="reclaimed-*", times=1, at_line="*shard_started*"),), attempts=2),
    # What stays is said.
    "unavailable": failed(
        Cause.THROTTLED,
        S3Error(error="ServiceUnavailable", **bag("unavailable")),
        code=ExitCode.RETRY,
        said=("s3://raw/unavailable/0.bag: S3 answered GetObject with ServiceUnavailable",),
        attempts=2,
        long=True,
    ),
    "cut-off": failed(
        Cause.THROTTLED,
        S3Cut(**bag("cut-off")),
        code=ExitCode.RETRY,
        said=("s3://raw/cut-off/0.bag: got 0 of ", "retry helps"),
        attempts=2,
    ),
    "denied": failed(
        Cause.ACCESS_DENIED,
        S3Error(error="AccessDenied", **bag("denied")),
        code=ExitCode.ACCESS_DENIED,
        said=("s3://raw/denied/0.bag: ", "AccessDenied", "let the role that asks do s3:GetObject there"),
        long=True,
    ),
    "read-only": failed(
        Cause.ACCESS_DENIED,
        S3Error(error="AccessDenied", **tables("read-only")),
        code=ExitCode.ACCESS_DENIED,
        said=("s3://lake/out/temperature/schema=", "let the role that asks do s3:PutObject there"),
    ),
    "encrypted": failed(
        Cause.ACCESS_DENIED,
        S3Error(error="KMSAccessDenied", **bag("encrypted")),
        code=ExitCode.ACCESS_DENIED,
        said=("s3://raw/encrypted/0.bag: ", "the KMS key", "do kms:Decrypt with that key"),
    ),
    "archived": failed(
        Cause.ACCESS_DENIED,
        S3Error(error="InvalidObjectState", **bag("archived")),
        code=ExitCode.ACCESS_DENIED,
        said=("s3://raw/archived/0.bag: ", "it is archived (Glacier): restore it first"),
    ),
    "gone": failed(
        Cause.INPUT_MISSING,
        S3Error(error="NoSuchKey", **bag("gone")),
        code=ExitCode.INPUT_MISSING,
        said=("drive gone, bag s3://raw/gone/0.bag: ", "NoSuchKey"),
        long=True,
    ),
    "changed": failed(
        Cause.INPUT_MISSING,
        S3Error(error="PreconditionFailed", **bag("changed")),
        code=ExitCode.INPUT_MISSING,
        said=("drive changed, bag s3://raw/changed/0.bag: changed since it was planned",),
    ),
    "no-image": failed(
        Cause.IMAGE_MISSING,
        ImageNotFound(job="no-image-*"),
        code=None,
        said=("CannotPullContainerError", "not found"),
    ),
    "stuck": failed(
        Cause.STUCK_IN_RUNNABLE,
        JobStuck(job="stuck-*", cancel_after_s=0.5),
        code=None,
        said=("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",),
        attempts=0,
    ),
    "unknown": failed(
        Cause.LOST,
        JobStuck(job="unknown-*"),
        JobUnknown(job="unknown-*"),
        code=None,
        said=("Batch does not know job",),
        attempts=None,
        long=True,
    ),
    "mixed": Drive(
        (
            JobEnds(job="mixed-*-g0", index=1, exit_code=137, reason=OUT_OF_MEMORY),
            HostReclaimed(job="mixed-*-g0", index=2),
            ImageNotFound(job="mixed-*-g0", index=3),
        ),
        DriveState.PARTIAL,
        (Cause.OUT_OF_MEMORY, Cause.SPOT_RECLAIM, Cause.IMAGE_MISSING),
        (
            "2 of 5 shards done",
            "exit code 137",
            OUT_OF_MEMORY,
            "Host EC2 (instance i-",
            "CannotPullContainer",
        ),
        attempts=None,
        bags=5,
    ),
}


@dataclass(frozen=True)
class Night:
    """What came of the drives: in the night, then in the morning; and the rows of each that the lake had."""

    drives: Mapping[str, Drive]
    jobs: Mapping[str, DriveJob]
    details: Mapping[str, Mapping[str, Any] | None]
    hits: Mapping[str, int]
    night: Mapping[str, DriveSummary]
    rows: Mapping[str, int]
    morning_jobs: Mapping[str, DriveJob]
    morning: Mapping[str, DriveSummary]


def fanout(clients: Clients, drives: Iterable[str]) -> Fanout:
    conf = {
        "drives_to_process": {name: {"bucket": "raw", "prefix": f"{name}/"} for name in drives},
        "report": False,
        "fleet": False,
    }
    return Fanout(
        s3=clients.s3,
        batch=clients.batch,
        submitter=clients.submitter,
        output=OUTPUT,
        conf=parse_conf(conf),
        run=Run("", RUN),
        options=SubmitOptions(JOB_QUEUE, DEFINITION),
        shard_bytes=SHARD_BYTES,
    )


def wait(clients: Clients, jobs: list[DriveJob]) -> dict[str, Mapping[str, Any] | None]:
    """The jobs' details when all have ended, or are not known."""
    ids = [job.job_id for job in jobs if job.job_id]
    deadline = time.monotonic() + PATIENCE_S
    while True:
        details = describe(clients.batch, ids)
        states = {job_id: job_state(details.get(job_id)) for job_id in ids}
        if all(state in ENDED or state == UNKNOWN for state in states.values()):
            return {job.drive_id: details.get(job.job_id or "") for job in jobs}
        assert time.monotonic() < deadline, states
        time.sleep(0.1)


def summarize(
    clients: Clients, jobs: list[DriveJob], details: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, DriveSummary]:
    lake = Lake(clients.s3, OUTPUT)
    return {job.drive_id: summarize_drive(clients.batch, lake, job, details[job.drive_id]) for job in jobs}


def lake_rows() -> Counter[tuple[str, str, int]]:
    """How often each message is in the lake, by its manifests."""
    table = ros_to_parquet.open(OUTPUT).dataset("temperature").to_table(["drive_id", "bag", "log_time_ns"])
    return Counter(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.fixture(scope="module")
def night(aws: EmbeddedAws, clients: Clients, request: pytest.FixtureRequest) -> Night:
    """Of the drives that tests of this session ask for."""
    asked = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    drives = {name: drive for name, drive in DRIVES.items() if name in asked} or {"nothing": Drive(())}
    for name, drive in drives.items():
        for number in range(drive.bags):
            body = ros1_bag(first=number * MESSAGES)
            clients.s3.put_object(Bucket="raw", Key=f"{name}/{number}.bag", Body=body)
    with aws.faults(*(fault for drive in drives.values() for fault in drive.faults)) as faults:
        jobs = fanout(clients, drives).submit_all()
        details = wait(clients, jobs)
        summaries = summarize(clients, jobs, details)
        hits, place = {}, 0
        for name, drive in drives.items():
            hits[name] = min((faults.hits(place + each) for each in range(len(drive.faults))), default=0)
            place += len(drive.faults)
    rows = Counter(drive_id for drive_id, _, _ in lake_rows().elements())
    again = fanout(clients, drives).submit_all()
    morning = summarize(clients, again, wait(clients, again))
    return Night(
        drives,
        {job.drive_id: job for job in jobs},
        details,
        hits,
        summaries,
        rows,
        {job.drive_id: job for job in again},
        morning,
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if drive.long else []) for name, drive in DRIVES.items()],
)
def test_what_comes_of_a_drive_and_what_is_said_of_it(night: Night, name: str) -> None:
    drive, summary = DRIVES[name], night.night[name]
    assert summary.state is drive.state
    assert night.hits[name] > 0 or not drive.faults, "each of its faults has befallen it"
    assert summary.failed_shard_count == drive.missing
    assert tuple(shard.cause for shard in summary.failed_shards) == drive.causes
    if name != "unknown":  # whose job goes on as soon as the faults have ended
        assert night.rows[name] == (drive.bags - drive.missing) * MESSAGES
    assert summary.result.damaged_bags == summary.result.unreadable_bags == 0, "no bag is to blame"
    message = failure_message([summary])
    if drive.state is DriveState.SUCCEEDED:
        assert message is None
    else:
        assert message is not None
        assert f"- {name}: {drive.state}" in message
        for text in drive.said:
            assert text in message
        if drive.exit_code is not None:
            assert [shard.exit_code for shard in summary.failed_shards] == [drive.exit_code]
    detail = night.details[name]
    if drive.attempts is not None:
        assert detail is not None
        assert len(detail["attempts"]) == drive.attempts


def test_in_the_morning_what_is_missing_is_done_and_nothing_else(night: Night) -> None:
    assert {each.state for each in night.morning.values()} == {DriveState.SUCCEEDED}
    for name, drive in night.drives.items():
        job = night.morning_jobs[name]
        if name == "unknown":  # its job is there again, and goes on
            assert job.job_id == night.jobs[name].job_id
        elif drive.missing:
            assert (job.work, job.submitted_shards) == ("submitted", drive.missing)
        else:
            assert job.work == "done"


def test_every_message_is_there_once(night: Night) -> None:
    """By the manifests, and for who reads all files there are."""
    expected = {
        (name, f"{number}.bag", message * 1_000_000_000)
        for name, drive in night.drives.items()
        for number in range(drive.bags)
        for message in range(number * MESSAGES, (number + 1) * MESSAGES)
    }
    rows = lake_rows()
    assert set(rows) == expected
    assert set(rows.values()) == {1}
    filesystem, path = arrow_filesystem(f"{OUTPUT}/temperature")
    assert ds.dataset(path, filesystem=filesystem, format="parquet").count_rows() == len(expected)


def test_a_summary_that_cannot_be_read_says_whose(aws: EmbeddedAws, clients: Clients, night: Night) -> None:
    """As the waiting task says it, which may be tried again."""
    drive, job = next(iter(night.jobs.items()))
    denied = S3Error(error="AccessDenied", operation="GetObject", key=f"out/_manifests/drive_id={drive}/*")
    with aws.faults(denied), pytest.raises(SummaryError) as caught:
        summarize_run(clients.s3, clients.batch, clients.logs, [job])
    assert str(caught.value) == (
        f"drive '{drive}': its job has ended, and what it left below {OUTPUT}/_manifests cannot be read: "
        "GetObject: AccessDenied: Access Denied; let the role that asks do s3:GetObject there; nothing is "
        "lost: try again"
    )
    (summary,) = summarize_run(clients.s3, clients.batch, clients.logs, [job])
    assert summary.state is DriveState.SUCCEEDED


@pytest.mark.parametrize("what", ["stream", "group"])
def test_logs_that_cloudwatch_has_not(
    aws: EmbeddedAws, night: Night, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    drive = next(iter(night.drives))
    words = ["logs", RUN, "--output", OUTPUT, "--shard", "0", "--drive", drive]
    with aws.faults(LogsMissing(what=what)):
        assert cli.main(words) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"drive {drive}, shard 0: CloudWatch has no stream faults/default/")
    assert cli.main(words) == 0
    assert "shard_done" in capsys.readouterr().out


def test_the_plans_shards_are_what_is_counted(night: Night) -> None:
    lake_drives = ros_to_parquet.open(OUTPUT)
    for name, drive in night.drives.items():
        (commit,) = lake_drives.drive(name).commits
        assert (commit.shards, commit.rows) == (drive.bags, drive.bags * MESSAGES)
        assert commit.state is contract.DriveState.SUCCEEDED
