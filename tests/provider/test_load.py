"""What a run takes in requests, and leaves in Airflow's database, by the number of its drives and shards.

Counts are exact, so that one request more a drive, or a list that grows with shards, is seen.
``make benchmarks ARGS=--load`` measures the same with a thousand drives.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import botocore.client
import pytest

from airflow_batch_ros import fanout as fanouts
from airflow_batch_ros.fanout import Fanout
from airflow_batch_ros.jobs import SubmitOptions
from airflow_batch_ros.pace import Pace
from ros_to_parquet.contract import Run
from tests.provider.builders import conf, put
from tests.provider.test_fanout import QUEUE, wait_for_end

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client


@contextmanager
def counted_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """AWS calls made inside, of all threads, by operation."""
    calls: Counter[str] = Counter()
    lock = threading.Lock()
    real = botocore.client.BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(self: Any, operation: str, *args: Any) -> Any:
        with lock:
            calls[operation] += 1
        return real(self, operation, *args)

    with monkeypatch.context() as patch:
        patch.setattr(botocore.client.BaseClient, "_make_api_call", call)
        yield calls


@pytest.fixture
def fanout(
    s3: S3Client, batch: BatchClient, bucket: str, definitions: dict[str, str]
) -> Iterator[Callable[..., Fanout]]:
    """Makes fan-outs over new drives of jobs that hang, which end with the test."""
    made: list[Fanout] = []

    def make(run_id: str, *, drives: int, bags: int) -> Fanout:
        names = [f"{run_id}_{number}" for number in range(drives)]
        put(s3, bucket, *(f"{name}/{bag}.bag" for name in names for bag in range(bags)))
        made.append(
            Fanout(
                s3=s3,
                batch=batch,
                submitter=batch,
                output=f"s3://{bucket}/lake",
                conf=conf(bucket, *names),
                run=Run("dag", f"{bucket}-{run_id}"),
                options=SubmitOptions(QUEUE, definitions["hang"]),
                shard_bytes=3,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.kill("the test is over")


def test_requests_grow_with_drives_alone(
    fanout: Callable[..., Fanout], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id, drives, bags in (("one", 1, 1), ("four", 4, 2), ("shards", 2, 40)):
        first = fanout(run_id, drives=drives, bags=bags)
        with counted_calls(monkeypatch) as calls:
            jobs = first.submit_all()
        assert [job.shards for job in jobs] == [bags] * drives
        # Lease, plan, generation and the job's record; the run's record once. Is there a plan; is the lease
        # still there. The drive; what of it is in the lake.
        assert calls == {
            "PutObject": 4 * drives + 1,
            "GetObject": 2 * drives,
            "ListObjectsV2": 2 * drives,
            "SubmitJob": drives,
        }
        with counted_calls(monkeypatch) as calls:
            assert {job.work for job in replace(first).submit_all()} == {"adopted"}
        # The run's record, tried and renewed. Plan, generation, job's record; where they are, and manifests.
        assert calls == {
            "PutObject": 2,
            "GetObject": 3 * drives,
            "ListObjectsV2": 2 * drives,
            "DescribeJobs": drives,
        }


def test_drives_are_handled_at_once_and_come_in_order(
    fanout: Callable[..., Fanout], batch: BatchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    drives = 6
    at_once = threading.Barrier(drives)
    many = fanout("many", drives=drives, bags=1)

    class Waiting:
        def submit_job(self, **request: Any) -> Any:
            at_once.wait(30.0)
            return batch.submit_job(**request)

    many.submitter = Waiting()  # type: ignore[assignment]
    jobs = many.submit_all()
    assert [job.drive_id for job in jobs] == [f"many_{number}" for number in range(drives)]
    assert sorted(many.owned) == sorted(str(job.job_id) for job in jobs)


def test_killed_while_several_are_on_their_way_it_ends_them_all(
    fanout: Callable[..., Fanout], batch: BatchClient
) -> None:
    drives, at_a_time = 9, 3
    at_once = threading.Barrier(at_a_time)
    many = replace(fanout("killed", drives=drives, bags=1), threads=at_a_time)
    submitted: list[str] = []

    class Killing:
        def submit_job(self, **request: Any) -> Any:
            if at_once.wait(30.0) == 0:
                many.kill()  # Batch has none of them yet
            at_once.wait(30.0)
            answer = batch.submit_job(**request)
            submitted.append(answer["jobId"])
            return answer

    many.submitter = Killing()  # type: ignore[assignment]
    with pytest.raises(fanouts.KilledError):
        many.submit_all()
    assert len(submitted) == at_a_time, "no more is submitted"
    wait_for_end(batch, submitted)
    assert {job["status"] for job in batch.describe_jobs(jobs=submitted)["jobs"]} == {"FAILED"}


def test_an_error_that_is_no_drives_own_ends_what_has_not_begun(
    fanout: Callable[..., Fanout], batch: BatchClient
) -> None:
    many = replace(fanout("broken", drives=5, bags=1), threads=1)
    asked: list[str] = []

    class Broken:
        def submit_job(self, **request: Any) -> Any:
            asked.append(request["jobName"])
            raise ZeroDivisionError

    many.submitter = Broken()  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        many.submit_all()
    assert len(asked) < 5
    again = replace(many, submitter=batch, submitting={})
    assert {job.work for job in again.submit_all()} == {"submitted"}


def test_submissions_keep_to_a_rate() -> None:
    now_s = 100.0
    slept: list[float] = []
    pace = Pace(10.0, sleep=slept.append, clock=lambda: now_s)
    for _ in range(8):
        pace.wait()
    assert slept == pytest.approx([0, 0, 0, 0, 0, 0, 0.1, 0.2])
    now_s = 200.0
    pace.wait()
    assert slept[-1] == 0, "after a pause it goes on at once"
