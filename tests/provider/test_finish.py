"""What follows a drive's commit, in what Airflow and people are told of a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from airflow_batch_ros import lease
from airflow_batch_ros.jobs import DriveJob, Work, drive_job
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.summary import DriveSummary, as_dict, log_lines, summarize_drive
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    CONTRACT_VERSION,
    FinishOptions,
    FinishRecord,
    Plan,
    Run,
    StepResult,
    StepState,
)
from tests.provider.builders import bag, manifest, plan, save_manifests, save_plan

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REPORT = contract.report_key("drive_1")
DONE = StepResult("report", StepState.DONE, 1.5, wrote=(REPORT,))
FAILED = StepResult("report", StepState.FAILED, 2.5, "the store is full")


def committed(s3: S3Client, bucket: str, *, wanted: FinishOptions) -> tuple[Lake, Plan]:
    lake = Lake(s3, f"s3://{bucket}/lake")
    made = plan([bag("a.bag")], output=lake.output, finish=wanted)
    save_plan(lake, made)
    save_manifests(lake, [manifest(made, 0)], commit_of=made)
    return lake, made


def finished(lake: Lake, made: Plan, *steps: StepResult) -> None:
    record = FinishRecord(CONTRACT_VERSION, "1", made.plan_id, made.drive_id, "", steps)
    lake.write(contract.finish_key(made.drive_id, made.plan_id), contract.to_json(record))


def job_of(made: Plan, work: Work = Work.SUBMITTED) -> DriveJob:
    return drive_job(made, work, None, submitted_shards=1, job_queue="q", fail_on=())


def summarized(lake: Lake, job: DriveJob) -> DriveSummary:
    return summarize_drive(None, lake, job, None)  # type: ignore[arg-type] (no job, so nobody is asked)


def told(drive: DriveSummary) -> dict[str, Any]:
    entry: dict[str, Any] = as_dict([drive])["drives"][0]
    return entry


def test_the_summary_leads_to_the_report(s3: S3Client, bucket: str) -> None:
    lake, made = committed(s3, bucket, wanted=FinishOptions(report=True))
    finished(lake, made, DONE)
    drive = summarized(lake, job_of(made))
    entry = told(drive)
    assert entry["report"] == f"{lake.output}/{REPORT}"
    assert entry["finish"] == [
        {"step": "report", "state": "done", "seconds": 1.5, "problem": "", "wrote": 1},
    ]
    assert entry["problems"] == []
    assert f"    report: {lake.output}/{REPORT}" in log_lines([drive])


def test_a_step_that_failed_is_said_and_the_drive_has_not(s3: S3Client, bucket: str) -> None:
    lake, made = committed(s3, bucket, wanted=FinishOptions(report=True))
    finished(lake, made, FAILED)
    entry = told(summarized(lake, job_of(made)))
    assert (entry["state"], entry["failed"], entry["report"]) == ("succeeded", False, None)
    again = f"ros-to-parquet finish {lake.output} --drive-id drive_1 does it again"
    assert entry["problems"] == [f"finishing step report failed: the store is full; {again}"]


def test_of_many_drives_the_first_problems_of_steps_are_said(s3: S3Client, bucket: str) -> None:
    lake, made = committed(s3, bucket, wanted=FinishOptions(report=True))
    finished(lake, made, FAILED, FAILED)
    drives = as_dict([summarized(lake, job_of(made))] * 80)["drives"]
    steps = [step for drive in drives for step in drive["finish"]]
    assert [bool(step["problem"]) for step in steps] == [True] * contract.MAX_REASONS + [False] * 60
    assert {step["state"] for step in steps} == {"failed"}


def test_what_has_not_ended_is_said_where_it_was_asked_for(s3: S3Client, bucket: str) -> None:
    lake, made = committed(s3, bucket, wanted=FinishOptions(report=True))
    (said,) = told(summarized(lake, job_of(made)))["problems"]
    assert said.startswith("what follows the drive's commit has not ended; ros-to-parquet finish")
    lake.delete(contract.plan_key(made.drive_id, made.plan_id))
    save_plan(lake, dataclasses.replace(made, finish=FinishOptions()))
    assert told(summarized(lake, job_of(made)))["problems"] == []


def test_of_a_drive_with_nothing_to_do_the_report_is_the_one_that_is_there(s3: S3Client, bucket: str) -> None:
    lake, made = committed(s3, bucket, wanted=FinishOptions())
    nothing = job_of(plan([], run_id="run_2", output=lake.output), Work.NOTHING)
    assert told(summarized(lake, nothing))["report"] is None
    lake.write(REPORT, b"<html>")
    assert told(summarized(lake, nothing))["report"] == f"{lake.output}/{REPORT}"
    assert made.shards


def test_of_a_drive_with_nothing_to_do_what_several_runs_say_is_said_once(s3: S3Client, bucket: str) -> None:
    lake = Lake(s3, f"s3://{bucket}/lake")
    left = contract.KnownUnreadable("x.bag", "cut off")
    for number in range(3):
        night = plan([bag(f"{number}.bag")], run_id=f"night_{number}", output=lake.output, unreadable=(left,))
        save_plan(lake, night)
        save_manifests(lake, [manifest(night, 0)], commit_of=night)
    covered = ("0.bag", "1.bag", "2.bag")
    last = plan([], run_id="last", output=lake.output, unreadable=(left,), covered=covered)
    save_plan(lake, last)
    drive = summarized(lake, job_of(last, Work.NOTHING))
    assert (drive.state, drive.result.bags, drive.result.unreadable_bags) == ("damaged", 4, 1)
    assert told(drive)["problems"] == [str(left)]


def test_of_a_drive_with_nothing_to_do_no_bag_is_blamed_that_was_read_since(
    s3: S3Client, bucket: str
) -> None:
    lake = Lake(s3, f"s3://{bucket}/lake")
    first = plan([bag("a.bag"), bag("x.bag", etag="cut")], run_id="first", output=lake.output)
    unread = manifest(first, 1, status=contract.BagStatus.UNREADABLE, rows=0)
    left = contract.KnownUnreadable("x.bag", "cut off")
    second = plan([bag("b.bag")], run_id="second", output=lake.output, unreadable=(left,))
    third = plan([bag("x.bag")], run_id="third", output=lake.output)
    for made, others in ((first, [unread]), (second, []), (third, [])):
        save_plan(lake, made)
        save_manifests(lake, [manifest(made, 0), *others], commit_of=made)
    last = plan([], run_id="last", output=lake.output, covered=("a.bag", "b.bag", "x.bag"))
    drive = summarized(lake, job_of(last, Work.NOTHING))
    assert (drive.state, drive.result.bags, told(drive)["problems"]) == ("succeeded", 3, [])


def test_a_record_that_was_left_alone_is_no_run_to_end(s3: S3Client, bucket: str) -> None:
    lake = Lake(s3, f"s3://{bucket}/lake")
    made = plan([bag("a.bag")], output=lake.output)
    save_plan(lake, made)
    finished(lake, made, DONE)
    lease.end_others(lake, "drive_1", "another", Run("dag", "run_2"))
    assert lake.read(contract.drive_manifest_key("drive_1", made.plan_id)) is None
