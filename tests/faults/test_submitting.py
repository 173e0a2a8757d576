"""Planning and submitting while S3 and Batch fail: a drive has one job, or a sentence that says why not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config

from airflow_batch_ros.causes import Cause
from airflow_batch_ros.clients import ONCE, Clients
from airflow_batch_ros.conf import parse_conf
from airflow_batch_ros.fanout import Fanout, FanoutError
from airflow_batch_ros.jobs import SubmitOptions
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.local import (
    JOB_QUEUE,
    BatchLateAnswer,
    BatchRefusal,
    BatchThrottling,
    EmbeddedAws,
    Fault,
    JobStuck,
    S3Cut,
    S3Error,
    S3StaleListing,
)
from airflow_batch_ros.plan import list_drive
from ros_to_parquet import contract
from ros_to_parquet.contract import Plan, Run
from tests.faults.conftest import DEFINITION
from tests.provider.bags import ros1_bag

_numbers = itertools.count(1)


class Night:
    """A run over some drives, whose jobs never start."""

    def __init__(self, clients: Clients, drives: int) -> None:
        self.clients = clients
        self.number = next(_numbers)
        self.drives = [f"submit-{self.number}-{place}" for place in range(drives)]
        for drive in self.drives:
            self.put(drive, "a.bag")
        self.output = f"s3://lake/submit-{self.number}"

    def put(self, drive: str, name: str) -> None:
        self.clients.s3.put_object(Bucket="raw", Key=f"{drive}/{name}", Body=ros1_bag())

    def fanout(self, *, run: str = "run", **changes: Any) -> Fanout:
        conf = {
            "drives_to_process": {each: {"bucket": "raw", "prefix": f"{each}/"} for each in self.drives},
            "report": False,
            "fleet": False,
        }
        settings: dict[str, Any] = {
            "s3": self.clients.s3,
            "batch": self.clients.batch,
            "submitter": self.clients.submitter,
            "output": self.output,
            "conf": parse_conf(conf),
            "run": Run("", f"{run}-{self.number}"),
            "options": SubmitOptions(JOB_QUEUE, DEFINITION),
            **changes,
        }
        return Fanout(**settings)

    def jobs(self, drive: str) -> list[str]:
        """All of a drive's that Batch has."""
        filters: Any = [{"name": "JOB_NAME", "values": [f"{drive}-*"]}]
        pages = self.clients.batch.get_paginator("list_jobs").paginate(jobQueue=JOB_QUEUE, filters=filters)
        return [job["jobId"] for page in pages for job in page["jobSummaryList"]]

    def end(self) -> None:
        for drive in self.drives:
            for job_id in self.jobs(drive):
                self.clients.batch.terminate_job(jobId=job_id, reason="the test is over")


@pytest.fixture
def stuck(aws: EmbeddedAws) -> Iterator[None]:
    with aws.faults(JobStuck(job="submit-*")):
        yield


@pytest.fixture
def make_night(clients: Clients, stuck: None) -> Iterator[Any]:
    made: list[Night] = []

    def make(drives: int = 1) -> Night:
        made.append(Night(clients, drives))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_batch_that_throttles_gets_each_job_once(aws: EmbeddedAws, make_night: Any) -> None:
    night = make_night(8)
    with aws.faults(BatchThrottling(requests_per_second=4, burst=2)) as faults:
        jobs = night.fanout().submit_all()
        assert faults.hits() > 0
    assert [job.work for job in jobs] == ["submitted"] * 8
    assert [night.jobs(job.drive_id) for job in jobs] == [[job.job_id] for job in jobs]


@pytest.mark.parametrize("after_s", [4.0, None], ids=["late", "never"])
def test_a_job_whose_submission_was_not_answered_is_found_again(
    aws: EmbeddedAws, clients: Clients, make_night: Any, after_s: float | None
) -> None:
    night = make_night()
    impatient = clients.session.client("batch", config=Config(retries=ONCE, read_timeout=2.0))
    with aws.faults(BatchLateAnswer(after_s=after_s, times=1)) as faults:
        (job,) = night.fanout(submitter=impatient).submit_all()
        assert faults.hits() == 1
    assert night.jobs(job.drive_id) == [job.job_id]


def test_batchs_own_errors_are_tried_again_and_refusals_said(aws: EmbeddedAws, make_night: Any) -> None:
    night = make_night()
    with aws.faults(BatchRefusal(operation="SubmitJob", times=1)) as faults:
        (job,) = night.fanout().submit_all()
        assert faults.hits() == 1
    assert night.jobs(job.drive_id) == [job.job_id]
    other = make_night()
    refusal = BatchRefusal(operation="SubmitJob", error="AccessDeniedException")
    with aws.faults(refusal), pytest.raises(FanoutError) as caught:
        other.fanout().submit_all()
    (problem,) = caught.value.problems
    assert problem.startswith(f"drive '{other.drives[0]}': Batch did not take job ")
    assert f"for queue '{JOB_QUEUE}' and definition '{DEFINITION}'" in problem
    assert problem.endswith(f"[{Cause.ACCESS_DENIED}]")


@pytest.mark.parametrize(
    ("fault", "text", "cause", "retry_helps"),
    [
        (
            S3Error(error="AccessDenied", operation="ListObjectsV2"),
            "S3 refused ListObjectsV2 (AccessDenied: Access Denied; let the role that asks do s3:ListBucket",
            Cause.ACCESS_DENIED,
            False,
        ),
        (
            S3Error(error="KMSAccessDenied", operation="PutObject"),
            "is what refuses: let the role that asks do kms:GenerateDataKey with that key",
            Cause.ACCESS_DENIED,
            False,
        ),
        (
            S3Error(error="KMSDisabled", operation="PutObject"),
            "KMS.DisabledException: ",
            Cause.ACCESS_DENIED,
            False,
        ),
        (
            S3Error(error="SlowDown", operation="ListObjectsV2"),
            "AWS did not do ListObjectsV2 (SlowDown: Please reduce your request rate.), tried 2 times; it",
            Cause.THROTTLED,
            True,
        ),
        (
            BatchRefusal(operation="ListJobs", error="AccessDeniedException"),
            "Batch refused ListJobs",
            Cause.ACCESS_DENIED,
            False,
        ),
    ],
    ids=lambda value: getattr(value, "error", None),
)
def test_what_cannot_be_planned_is_said_with_its_drive(
    aws: EmbeddedAws,
    clients: Clients,
    make_night: Any,
    fault: Fault,
    text: str,
    cause: Cause,
    retry_helps: bool,
) -> None:
    night = make_night()
    twice = Config(retries={"mode": "standard", "total_max_attempts": 2})
    s3 = clients.session.client("s3", config=twice)
    if isinstance(fault, BatchRefusal):  # asked where an earlier try has begun
        refusal = BatchRefusal(operation="SubmitJob", error="ClientException")
        with aws.faults(refusal), pytest.raises(FanoutError):
            night.fanout(s3=s3).submit_all()
    with aws.faults(fault), pytest.raises(FanoutError) as caught:
        night.fanout(s3=s3).submit_all()
    (problem,) = caught.value.problems
    assert problem.startswith(f"drive '{night.drives[0]}': ")
    assert text in problem
    assert problem.endswith(f"[{cause}]")
    assert caught.value.retry_helps is retry_helps
    assert "nothing was submitted" in str(caught.value)
    (job,) = night.fanout().submit_all()
    assert night.jobs(job.drive_id) == [job.job_id], "the same run goes on when it is over"


def test_a_plan_that_is_read_through_a_network_that_cuts(aws: EmbeddedAws, make_night: Any) -> None:
    night = make_night()
    (first,) = night.fanout().submit_all()
    key = f"submit-{night.number}/*"
    with aws.faults(S3Cut(operation="GetObject", bucket="lake", key=key, after_bytes=20, times=4)) as faults:
        (again,) = night.fanout().submit_all()
        assert faults.hits() == 4
    assert (again.work, again.job_id) == ("adopted", first.job_id)


def test_a_bag_that_a_listing_does_not_show_yet_is_another_runs(
    aws: EmbeddedAws, clients: Clients, make_night: Any
) -> None:
    night = make_night()
    (drive,) = night.drives
    (source,) = night.fanout().conf.drives
    with aws.faults(S3StaleListing(bucket="raw", key=f"{drive}/")) as faults:
        list_drive(clients.s3, source, recursive=False, output=night.output)
        night.put(drive, "b.bag")
        (job,) = night.fanout().submit_all()
        assert faults.hits() == 2
    plan = Lake(clients.s3, night.output).load(Plan, contract.plan_key(drive, job.plan_id))
    assert plan is not None
    assert [bag.name for bag in plan.bags] == ["a.bag"]
    clients.batch.terminate_job(jobId=str(job.job_id), reason="so that another run can have the drive")
    (other,) = night.fanout(run="next").submit_all()
    assert other.bags == 2, "nothing of the first has been done"
