"""What a run takes in requests, and leaves in Airflow's database, by the number of its drives and shards.

Counts are exact, so that one request more a drive, or a list that grows with shards, is seen.
``make benchmarks ARGS=--load`` measures the same with a thousand drives.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import botocore.client
import pytest
from airflow.models.trigger import Trigger
from airflow.providers.common.compat.sdk import TaskDeferred
from cryptography.fernet import Fernet

from airflow_batch_ros import fanout as fanouts
from airflow_batch_ros.causes import Cause
from airflow_batch_ros.failures import FailedShard
from airflow_batch_ros.fanout import Fanout, FanoutError
from airflow_batch_ros.jobs import (
    LIVE,
    DriveJob,
    SubmitOptions,
    Work,
    describe,
    drive_job,
    submit_request,
    terminate,
)
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.pace import Pace
from airflow_batch_ros.plan import pack
from airflow_batch_ros.sensors.batch import RosToParquetBatchSensor
from airflow_batch_ros.summary import CLEAR_TASK, DRIVES_SHOWN, DriveSummary, as_dict, failure_message
from airflow_batch_ros.triggers import batch as triggers
from airflow_batch_ros.triggers.batch import RosToParquetBatchTrigger
from benchmarks import load
from benchmarks.report import as_markdown
from ros_to_parquet import contract
from ros_to_parquet.contract import BagSlice, Generation, JobRecord, Plan, Run
from tests.provider import builders
from tests.provider.builders import conf, put
from tests.provider.waiting import QUEUE, wait_for_end

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client


MYSQL_TEXT_BYTES = 65_535
"""What its text column holds, in which Airflow keeps a trigger's arguments."""


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
        # still there. The drive; whether other runs have begun it; what of it is in the lake.
        assert calls == {
            "PutObject": 4 * drives + 1,
            "GetObject": 2 * drives,
            "ListObjectsV2": 3 * drives,
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
            at_once.wait(120.0)
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
            if at_once.wait(120.0) == 0:
                many.kill()  # Batch has none of them yet
            at_once.wait(120.0)
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


# --- one sensor for all -----------------------------------------------------------------------------


def entries(job_ids: Sequence[str], output: str) -> list[dict[str, Any]]:
    """What the operator would have returned for these jobs, a drive each."""
    plan = builders.plan([builders.bag("a.bag")])
    record = JobRecord(plan.plan_id, 0, "", "name", QUEUE, 0)
    jobs = [
        drive_job(
            replace(plan, drive_id=f"drive_{number}", output=output),
            Work.SUBMITTED,
            replace(record, job_id=job_id),
            submitted_shards=1,
            job_queue=QUEUE,
            fail_on=["failed"],
        )
        for number, job_id in enumerate(job_ids)
    ]
    return [job.as_dict() for job in jobs]


def submit_many(batch: BatchClient, definition: str, count: int) -> list[str]:
    """Jobs that hang, or wait for others that do."""

    def submit(number: int) -> str:
        return batch.submit_job(jobName=f"many-{number}", jobQueue=QUEUE, jobDefinition=definition)["jobId"]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(submit, range(count)))


def deferred(
    jobs: list[dict[str, Any]], context: dict[str, Any], **arguments: Any
) -> RosToParquetBatchTrigger:
    """The trigger of a sensor of these jobs, after it was in Airflow's database."""
    sensor = RosToParquetBatchSensor(task_id="wait", jobs=jobs, deferrable=True, **arguments)
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(context)  # type: ignore[arg-type]
    return restarted(caught.value.trigger)


def restarted(trigger: Any) -> RosToParquetBatchTrigger:
    """The trigger as the next triggerer has it from Airflow's database."""
    path, arguments = trigger.serialize()
    kept = Trigger(classpath=path, kwargs=arguments)
    encrypted = Fernet(Fernet.generate_key()).encrypt(
        kept.encrypted_kwargs.encode()
    )  # these tests have no key
    assert len(encrypted) < MYSQL_TEXT_BYTES
    found = RosToParquetBatchTrigger(**kept.kwargs)
    assert found.serialize() == trigger.serialize()
    return found


async def run_until(trigger: RosToParquetBatchTrigger, reached: Callable[[], bool]) -> None:
    """Runs a trigger that does not fire; cancels it, as a triggerer that stops does."""
    waiting = asyncio.ensure_future(fire(trigger))
    while not reached():
        assert not waiting.done(), "it has fired"
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def fire(trigger: RosToParquetBatchTrigger) -> list[Any]:
    return [event.payload async for event in trigger.run()]


@pytest.mark.parametrize("count", [210, pytest.param(1000, marks=pytest.mark.long)])
def test_a_wait_for_many_jobs_outlives_the_triggerer(
    batch: BatchClient,
    bucket: str,
    definitions: dict[str, str],
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    """Some jobs end before it stops, the others while nobody looks; each is counted once."""
    monkeypatch.setattr(triggers, "FIRST_POLL_S", 0.0)
    ids = submit_many(batch, definitions["hang"], count)
    assert terminate(batch, ids[: count // 2], "ended early") == []
    wait_for_end(batch, ids[: count // 2])
    trigger = deferred(entries(ids, f"s3://{bucket}/lake"), context, terminate_on_kill=True)
    polls, later_polls = -(-count // 100), -(-(count - count // 2) // 100)
    with counted_calls(monkeypatch) as calls:
        asyncio.run(run_until(trigger, lambda: calls["DescribeJobs"] >= polls + later_polls))
    assert set(calls) == {"DescribeJobs"}, "a triggerer that stops ends no job"
    states = {detail["status"] for detail in describe(batch, ids[count // 2 :]).values()}
    assert states <= LIVE

    assert terminate(batch, ids[count // 2 :], "ended late") == []
    wait_for_end(batch, ids[count // 2 :])
    with counted_calls(monkeypatch) as calls:
        (event,) = asyncio.run(fire(restarted(trigger)))
    assert event == {"status": "ended", "states": {"FAILED": count}}
    assert calls == {"DescribeJobs": polls}


def test_ids_that_do_not_fit_into_a_trigger_are_in_the_lake(
    s3: S3Client,
    batch: BatchClient,
    bucket: str,
    definitions: dict[str, str],
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triggers, "FIRST_POLL_S", 0.0)
    monkeypatch.setattr(triggers, "MAX_JOB_IDS", 2)
    ids = submit_many(batch, definitions["hang"], 5)
    trigger = deferred(entries(ids, f"s3://{bucket}/lake"), context, terminate_on_kill=True)
    assert trigger.job_ids == ids[:2]
    uri = str(trigger.job_ids_uri)
    assert uri.startswith(f"s3://{bucket}/lake/_plans/waits/")
    key = uri.removeprefix(f"s3://{bucket}/")
    assert json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) == ids[2:]

    asyncio.run(trigger.on_kill())
    wait_for_end(batch, ids)
    assert asyncio.run(fire(trigger)) == [{"status": "ended", "states": {"FAILED": 5}}]

    s3.delete_object(Bucket=bucket, Key=key)
    (event,) = asyncio.run(fire(trigger))
    assert event["status"] == "error"
    assert f"{uri}, is gone: clear the task" in event["message"]


def test_a_thousand_ids_fit_into_any_database() -> None:
    ids = [str(uuid.uuid4()) for _ in range(triggers.MAX_JOB_IDS)]
    uri = f"s3://{'b' * 63}/{'p' * 900}/_plans/waits/0123456789abcdef.json"
    restarted(
        RosToParquetBatchTrigger(
            job_ids=ids,
            poll_interval_s=30.0,
            unknown_after_s=300.0,
            terminate_on_kill=True,
            aws_conn_id="a" * 250,
            region_name="us-gov-west-1",
            job_ids_uri=uri,
            amount=(10_000_000, 10_000_000, 10**18),
        )
    )


# --- what is said of them ---------------------------------------------------------------------------


def failed_drive(*, shards: int, reason: str) -> DriveSummary:
    """How a drive ended whose shards failed but for one, with long reasons."""
    plan = builders.plan([builders.bag(f"{bag}.bag") for bag in range(shards)])
    (entry,) = entries([str(uuid.uuid4())], "s3://lake/out")
    job = replace(DriveJob.from_dict(entry), shards=shards, fail_on=("partial",))
    failed = tuple(
        FailedShard(shard, Cause.ENGINE_ERROR, reason, 70, log_stream="stream")
        for shard in range(1, min(shards, contract.MAX_REASONS + 1))
    )
    result = contract.fold(plan, [builders.manifest(plan, 0, rejected=1)])
    return DriveSummary(
        job,
        result.state,
        result,
        failed,
        shards - 1,
        "FAILED",
        9.0,
        "s3://lake/m/",
        (),
        {Cause.ENGINE_ERROR: shards - 1},
    )


def test_a_summary_grows_with_drives_by_bounded_bytes_and_not_with_shards() -> None:
    one = failed_drive(shards=300, reason="r" * 900)
    drives = [replace(one, job=replace(one.job, drive_id=f"drive_{number:04d}")) for number in range(1000)]
    summary = as_dict(drives)
    assert summary["totals"]["failed_shards"] == 299 * 1000, "counts are exact"
    assert sum(len(drive["failed_shards"]) for drive in summary["drives"]) == contract.MAX_REASONS
    assert sum(len(drive["problems"]) for drive in summary["drives"]) == 0, "shards come first"
    size = len(json.dumps(summary))
    few = len(json.dumps(as_dict(drives[:100])))
    assert (size - few) / 900 < 1200, "bytes of a drive beyond the reasons"
    assert size < 1_400_000

    message = str(failure_message(drives))
    lines = message.splitlines()
    assert lines[0] == "1000 of 1000 drives failed:"
    assert sum(line.startswith("- drive_") for line in lines) == DRIVES_SHOWN
    assert sum(line.startswith("    shard ") for line in lines) <= contract.MAX_REASONS
    assert lines[-2] == "- and 900 more (900 partial): each is in the summary"
    assert lines[-1] == CLEAR_TASK
    assert len(message) < 100_000

    more_shards = as_dict([replace(drive, failed_shard_count=9999) for drive in drives])
    assert len(json.dumps(more_shards)) < size + 2 * len(drives), "digits alone"


def test_drives_that_cannot_be_run_are_named_up_to_a_number() -> None:
    error = FanoutError([f"drive {number}: no bag" for number in range(1000)], retry_helps=False)
    lines = str(error).splitlines()
    assert len(error.problems) == 1000
    assert (lines[0], lines[-1]) == ("1000 drives cannot be run; nothing was submitted:", "- and 900 more")
    assert len(lines) == 102


def test_what_the_operator_returns_is_a_few_hundred_bytes_a_drive() -> None:
    (entry,) = entries([str(uuid.uuid4())], "s3://a-bucket-of-some-length/and/a/prefix")
    assert len(json.dumps(entry)) < 1000
    lists = {name: value for name, value in entry.items() if isinstance(value, list | dict)}
    assert lists == {"fail_on": ["failed"]}


# --- one drive of as many shards as an array takes --------------------------------------------------


def big_plan(bags: int) -> Plan:
    made = [builders.bag(f"{number:05d}.bag", 100) for number in range(bags)]
    work = [(bag, [BagSlice(0)]) for bag in made]
    return builders.plan(made, shards=pack(work, 100))


def test_ten_thousand_shards_are_a_job_of_bounded_size() -> None:
    plan = big_plan(contract.MAX_ARRAY_SIZE)
    assert len(plan.shards) == contract.MAX_ARRAY_SIZE
    every_other = Generation(contract.CONTRACT_VERSION, plan.plan_id, 1, tuple(range(1, 10_000, 2)))
    request = submit_request(Lake(cast("Any", None), plan.output), plan, every_other, SubmitOptions("q", "d"))
    assert request["arrayProperties"] == {"size": 5000}
    assert len(json.dumps(request)) < 2000
    job = drive_job(plan, Work.SUBMITTED, None, submitted_shards=5000, job_queue="q", fail_on=["failed"])
    assert len(json.dumps(job.as_dict())) < 1000
    done = contract.fold(
        plan, (builders.manifest(plan, shard, rejected=1) for shard in range(len(plan.shards)))
    )
    assert (done.shards, done.rows, done.rejected) == (10_000, 100_000, 10_000)
    assert len(done.problems) == contract.MAX_REASONS
    assert len(contract.to_json(done)) < 20_000


def test_more_bags_than_an_array_takes_are_packed() -> None:
    plan = big_plan(contract.MAX_ARRAY_SIZE + 1)
    assert len(plan.shards) == 5001, "two bags in each"
    assert sum(len(shard) for shard in plan.shards) == contract.MAX_ARRAY_SIZE + 1


@pytest.mark.long
def test_the_benchmark_of_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CACHE", tmp_path)
    small = load.Load(drives=11, bags=2, big=10)
    steps = {step.name: step for step in load.measure_all(small, tmp_path, lambda _: None)}
    submitted = steps["many: submit"]
    assert submitted.calls["SubmitJob"] == 11
    assert submitted.start_bytes < submitted.peak_bytes < 1e9
    assert steps["slow: submit, slow"].calls == submitted.calls
    assert "SubmitJob" not in steps["many: submit again"].calls
    assert steps["big: retry"].calls["SubmitJob"] == 1
    assert steps["big: commit"].sizes["drive.json"] > 0
    shown = "\n".join(as_markdown(table) for table in load.tables(small, list(steps.values())))
    assert "| many: sum up | return value | " in shown
