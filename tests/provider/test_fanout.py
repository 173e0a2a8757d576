"""Leases, plans, submission and retries against a real S3 and a real Batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.client
import pytest

from airflow_batch_ros import fanout as fanouts
from airflow_batch_ros import jobs, lease
from airflow_batch_ros.causes import Cause
from airflow_batch_ros.conf import PipelineConf
from airflow_batch_ros.fanout import Fanout, FanoutError
from airflow_batch_ros.jobs import LIVE, DriveJob, SubmitError, SubmitOptions, describe, job_state
from airflow_batch_ros.lake import Lake, drive_folder
from airflow_batch_ros.local import HostReclaimed, JobEnds
from airflow_batch_ros.summary import summarize_drive
from ros_to_parquet import contract
from ros_to_parquet.contract import DriveState, JobRecord, Lease, Plan, Run
from tests.provider.bags import MESSAGES, ros1_bag
from tests.provider.builders import conf, put
from tests.provider.waiting import QUEUE, wait_for_end

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

SMALL = 8000
"""Shard size by which each of the bags here gets a shard of its own."""


class KilledError(BaseException):
    """The process of an operator ends."""


@contextmanager
def killed_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends whatever runs inside when its AWS call number ``calls`` has been answered."""
    made = 0
    real = botocore.client.BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(self: Any, *args: Any) -> Any:
        nonlocal made
        if made >= calls:
            raise KilledError  # another thread
        answer = real(self, *args)
        made += 1
        if made >= calls:
            raise KilledError
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(botocore.client.BaseClient, "_make_api_call", call)
        yield


@dataclass
class World:
    """A bucket with drives of real bags, and fan-outs over it."""

    aws: EmbeddedAws
    s3: S3Client
    batch: BatchClient
    bucket: str
    definitions: dict[str, str]

    @property
    def lake(self) -> Lake:
        return Lake(self.s3, f"s3://{self.bucket}/lake")

    def fanout(
        self,
        *drives: str,
        run_id: str = "run_1",
        definition: str = "good",
        shard_bytes: int = 1 << 30,
        **optional: Any,
    ) -> Fanout:
        made = optional.pop("made", None) or conf(self.bucket, *drives, **optional)
        return Fanout(
            s3=self.s3,
            batch=self.batch,
            submitter=self.batch,
            output=self.lake.output,
            conf=made,
            run=Run("dag", f"{self.bucket}-{run_id}"),
            options=SubmitOptions(QUEUE, self.definitions[definition]),
            shard_bytes=shard_bytes,
        )

    def wait(self, *jobs: DriveJob) -> None:
        wait_for_end(self.batch, [job.job_id for job in jobs if job.job_id])

    def state(self, job: DriveJob) -> str:
        assert job.job_id is not None
        return job_state(describe(self.batch, [job.job_id]).get(job.job_id))

    def detail(self, job: DriveJob) -> Any:
        assert job.job_id is not None
        return describe(self.batch, [job.job_id])[job.job_id]

    def needs(self, job: DriveJob) -> dict[str, str]:
        """What the job's containers are given."""
        return {each["type"]: each["value"] for each in self.detail(job)["container"]["resourceRequirements"]}

    def rows(self, drive_id: str, plan_id: str) -> int:
        """By the drive's manifest."""
        commit = self.lake.load(contract.DriveManifest, contract.drive_manifest_key(drive_id, plan_id))
        assert commit is not None
        return commit.rows

    def jobs(self, drive_id: str) -> list[Any]:
        """All jobs of a drive that Batch has, of any run over this bucket."""
        plans = {key.split("/")[2] for key in self.lake.keys(f"_plans/drive_id={drive_id}")}
        pages = self.batch.get_paginator("list_jobs").paginate(
            jobQueue=QUEUE, filters=[{"name": "JOB_NAME", "values": [f"{drive_id}-*"]}]
        )
        found = [job for page in pages for job in page["jobSummaryList"]]
        return [job for job in found if job["jobName"].split("-")[-2] in plans]

    def end(self, *drives: str) -> None:
        for drive_id in drives:
            for job in self.jobs(drive_id):
                self.batch.terminate_job(jobId=job["jobId"], reason="the test is over")


@pytest.fixture
def world(
    aws: EmbeddedAws, s3: S3Client, batch: BatchClient, bucket: str, definitions: dict[str, str]
) -> Iterator[World]:
    made = World(aws, s3, batch, bucket, definitions)
    put(s3, bucket, "drive_1/a.bag", body=ros1_bag())
    put(s3, bucket, "drive_2/b.bag", body=ros1_bag(first=100))
    put(s3, bucket, "drive_2/c.bag", body=ros1_bag(first=200))
    yield made
    made.end("drive_1", "drive_2")


# --- the ordinary way -------------------------------------------------------------------------------


def test_a_plain_job_and_an_array_do_their_drives(world: World) -> None:
    one, two = world.fanout("drive_1", "drive_2", shard_bytes=SMALL).submit_all()
    assert (one.work, one.array_size, one.shards, one.bags) == ("submitted", 0, 1, 1)
    assert (two.work, two.array_size, two.shards, two.bags) == ("submitted", 2, 2, 2)
    assert lease.holder(world.lake, "drive_1") is not None
    world.wait(one, two)
    assert world.rows("drive_1", one.plan_id) == MESSAGES
    assert world.rows("drive_2", two.plan_id) == 2 * MESSAGES
    assert lease.holder(world.lake, "drive_1") is None, "given back with the drive's commit"


def test_a_second_run_has_nothing_to_do_and_a_third_takes_what_is_new(world: World) -> None:
    world.wait(*world.fanout("drive_1").submit_all())
    (again,) = world.fanout("drive_1", run_id="run_2").submit_all()
    assert (again.work, again.job_id, again.bags, again.covered) == ("nothing", None, 0, 1)
    assert lease.holder(world.lake, "drive_1") is None
    found = summarize_drive(world.batch, world.lake, again, None)
    assert (found.state, found.result.rows) == (DriveState.SUCCEEDED, MESSAGES)
    put(world.s3, world.bucket, "drive_1/new.bag", body=ros1_bag(first=50))
    (third,) = world.fanout("drive_1", run_id="run_3").submit_all()
    assert (third.work, third.bags, third.covered) == ("submitted", 1, 1)
    world.wait(third)
    assert world.rows("drive_1", third.plan_id) == MESSAGES


def test_overwriting_replaces(world: World) -> None:
    (first,) = world.fanout("drive_1").submit_all()
    world.wait(first)
    (over,) = world.fanout("drive_1", run_id="run_2", overwrite=True).submit_all()
    world.wait(over)
    assert world.rows("drive_1", over.plan_id) == MESSAGES
    assert drive_folder(world.lake, "drive_1", first.plan_id).commit is None, "its manifests are gone"


def test_who_reads_bags_pays_where_asked_to(world: World) -> None:
    """The planner says so of the bags' bucket and of no other; jobs are told to."""
    put(world.s3, world.bucket, "drive_1/folder/metadata.yaml")
    lake = f"{world.bucket}-lake"
    world.s3.create_bucket(Bucket=lake)
    said: dict[str, set[str | None]] = {}

    def note(request: Any, **_: Any) -> None:
        value = request.headers.get("x-amz-request-payer")
        bucket = urlsplit(request.url).path.split("/")[1]
        said.setdefault(bucket, set()).add(value.decode() if isinstance(value, bytes) else value)

    fanout = replace(world.fanout("drive_1"), output=f"s3://{lake}")
    paying = replace(fanout, options=replace(fanout.options, requester_pays=True))
    for recursive in (False, True):
        made = replace(paying, conf=replace(paying.conf, recursive=recursive), run=Run("", f"r-{recursive}"))
        world.s3.meta.events.register("before-send.s3", note)
        jobs = made.submit_all()
        world.s3.meta.events.unregister("before-send.s3", note)
        assert said == {world.bucket: {"requester"}, lake: {None}}
        world.wait(*jobs)
        if not recursive:
            detail = describe(world.batch, [str(jobs[0].job_id)]).popitem()[1]
            told = {each["name"]: each["value"] for each in detail["container"]["environment"]}
            assert told["ROS_TO_PARQUET_REQUEST_PAYER"] == "requester"


# --- retries ----------------------------------------------------------------------------------------


def test_killed_anywhere_and_started_again_it_submits_each_drive_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each AWS call in turn, until there are no more."""
    calls = 0
    finished = False
    while not finished:
        calls += 1
        run = f"run_{calls}"
        drives = conf(world.bucket, "drive_1", "drive_2")

        def fanout(run: str = run, drives: PipelineConf = drives) -> Fanout:
            made = world.fanout(made=drives, run_id=run, definition="hang", shard_bytes=SMALL)
            return replace(made, output=f"{made.output}/{run}")

        lake = Lake(world.s3, fanout().output)
        try:
            with killed_after(calls, monkeypatch):
                fanout().submit_all()
            finished = True
        except KilledError:
            pass
        jobs = fanout().submit_all()
        assert [job.drive_id for job in jobs] == ["drive_1", "drive_2"]
        for job in jobs:
            with_name = world.batch.list_jobs(
                jobQueue=QUEUE, filters=[{"name": "JOB_NAME", "values": [f"{job.drive_id}-{job.plan_id}-*"]}]
            )["jobSummaryList"]
            assert [each["jobId"] for each in with_name] == [job.job_id], f"killed after call {calls}"
            assert job.work == ("adopted" if finished else job.work)
            assert len([key for key in lake.keys("_plans") if "/job-" in key and job.drive_id in key]) == 1
            assert lease.holder(lake, job.drive_id).plan_id == job.plan_id  # type: ignore[union-attr]
            world.batch.terminate_job(jobId=str(job.job_id), reason="the test is over")
    assert calls > 15, "the operator makes more calls than that"


@pytest.mark.parametrize(
    "every", [pytest.param(7, id="some calls"), pytest.param(1, id="all calls", marks=pytest.mark.long)]
)
def test_killed_anywhere_in_a_later_generation_it_submits_that_once_and_adopts_it(
    world: World, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """After AWS calls in turn: of the retry after an array failed, and of the one that finds a live array."""
    calls, finished = 1, False
    while not finished:
        run = f"run_{calls}"

        def fanout(run: str = run) -> Fanout:
            made = world.fanout("drive_2", run_id=run, definition="hang", shard_bytes=SMALL)
            return replace(made, output=f"{made.output}/{run}")

        def live(plan_id: str) -> list[str]:
            pages = world.batch.get_paginator("list_jobs").paginate(
                jobQueue=QUEUE, filters=[{"name": "JOB_NAME", "values": [f"drive_2-{plan_id}-*"]}]
            )
            found = [job for page in pages for job in page["jobSummaryList"]]
            return [job["jobId"] for job in found if job["status"] in LIVE]

        def killed(after: int = calls, fanout: Callable[[], Fanout] = fanout) -> bool:
            try:
                with killed_after(after, monkeypatch):
                    fanout().submit_all()
            except KilledError:
                return True
            return False

        (first,) = fanout().submit_all()
        assert first.array_size == 2
        world.batch.terminate_job(jobId=str(first.job_id), reason="fails")
        world.wait(first)
        finished = not killed()
        assert len(live(first.plan_id)) <= 1
        (second,) = fanout().submit_all()
        assert (second.generation, second.array_size) == (1, 2)
        assert live(second.plan_id) == [second.job_id], f"killed after call {calls}"
        finished = not killed() and finished
        (third,) = fanout().submit_all()
        assert (third.work, third.job_id) == ("adopted", second.job_id)
        assert live(second.plan_id) == [second.job_id]
        world.batch.terminate_job(jobId=str(second.job_id), reason="the test is over")
        calls += every
    assert calls > 12, "the operator makes more calls than that"


def test_a_job_is_looked_for_in_the_queue_that_submit_options_name(world: World) -> None:
    def fanout() -> Fanout:
        made = world.fanout("drive_1", definition="hang")
        definition = made.options.job_definition
        extra = {"jobQueue": QUEUE, "jobDefinition": definition}
        return replace(made, options=SubmitOptions("others", "others", extra=extra))

    (first,) = fanout().submit_all()
    world.lake.delete(contract.job_record_key("drive_1", first.plan_id, 0))  # killed before it was saved
    (second,) = fanout().submit_all()
    assert (second.work, second.job_id, second.job_queue) == ("adopted", first.job_id, QUEUE)
    assert len(world.jobs("drive_1")) == 1
    world.end("drive_1")


def test_a_retry_loads_the_saved_plan_and_does_not_list(world: World) -> None:
    (first,) = world.fanout("drive_1", definition="hang").submit_all()
    put(world.s3, world.bucket, "drive_1/late.bag", body=ros1_bag(first=70))
    (again,) = world.fanout("drive_1", definition="hang").submit_all()
    assert (again.work, again.job_id, again.bags) == ("adopted", first.job_id, 1)


def test_a_plan_that_an_earlier_version_saved_goes_on(world: World) -> None:
    """Newer fields are missing in it, and its hash is that of the bytes that are there."""
    first = world.fanout("drive_1", definition="oom")
    (job,) = first.submit_all()
    world.wait(job)
    key = contract.plan_key("drive_1", job.plan_id)
    raw = json.loads(world.lake.read(key) or b"")
    for name in ("pricing", "finish"):
        raw.pop(name)
    world.lake.write(key, json.dumps(raw, sort_keys=True, separators=(",", ":")).encode())
    (again,) = world.fanout("drive_1").submit_all()
    assert again.work == "submitted"
    world.wait(again)
    assert world.rows("drive_1", again.plan_id) == MESSAGES


def test_of_what_failed_the_missing_shards_alone_are_submitted_again(world: World) -> None:
    put(world.s3, world.bucket, "drive_2/d.bag", body=ros1_bag(first=300))
    (first,) = world.fanout("drive_2", definition="some fail", shard_bytes=SMALL).submit_all()
    assert first.array_size == 3
    world.wait(first)
    assert world.state(first) == "FAILED"
    left = lease.holder(world.lake, "drive_2")
    assert left is not None, "the drive is not done: it stays this run's"
    (second,) = world.fanout("drive_2", shard_bytes=SMALL).submit_all()
    assert (second.work, second.array_size, second.submitted_shards, second.generation) == (
        "submitted",
        0,
        1,
        1,
    )
    assert second.job_name == f"drive_2-{second.plan_id}-g1"
    world.wait(second)
    assert world.rows("drive_2", second.plan_id) == 3 * MESSAGES
    (third,) = world.fanout("drive_2").submit_all()
    assert (third.work, third.job_id) == ("done", second.job_id)


def test_several_missing_shards_run_as_an_array_with_an_index_map(world: World) -> None:
    put(world.s3, world.bucket, "drive_2/d.bag", body=ros1_bag(first=300))
    fanout = world.fanout("drive_2", definition="oom", shard_bytes=SMALL)
    (first,) = fanout.submit_all()
    world.wait(first)
    # The first shard is done by hand, so that the array's index is not the shard.
    plan = world.lake.load(Plan, contract.plan_key("drive_2", first.plan_id))
    assert plan is not None
    by_hand = world.batch.submit_job(
        jobName="by-hand",
        jobQueue=QUEUE,
        jobDefinition=world.definitions["good"],
        containerOverrides={"command": ["run", "--plan", first.plan_uri, "--shard", "0"]},
    )["jobId"]
    world.wait(replace(first, job_id=by_hand))
    (second,) = world.fanout("drive_2", shard_bytes=SMALL).submit_all()
    assert (second.array_size, second.submitted_shards) == (2, 2)
    world.wait(second)
    assert world.rows("drive_2", second.plan_id) == 3 * MESSAGES


def test_shards_that_ran_out_of_memory_are_given_twice_as_much(world: World) -> None:
    put(world.s3, world.bucket, "drive_2/d.bag", body=ros1_bag(first=300))
    reason = "OutOfMemoryError: Container killed due to memory usage"
    with world.aws.faults(JobEnds(job="drive_2-*", index=1, exit_code=137, reason=reason)):
        (first,) = world.fanout("drive_2", shard_bytes=SMALL).submit_all()
        world.wait(first)
    assert world.needs(first)["MEMORY"] == "512"
    said: list[str] = []
    fanout = world.fanout("drive_2", definition="oom", shard_bytes=SMALL)
    fanout.say = said.append
    (second,) = fanout.submit_all()
    world.wait(second)
    assert (second.submitted_shards, world.needs(second)["MEMORY"]) == (1, "1024")
    assert "drive drive_2: 1 shard ran out of memory: 1024 MiB after 512" in said
    (third,) = world.fanout("drive_2", definition="hang", shard_bytes=SMALL).submit_all()
    assert world.needs(third)["MEMORY"] == "2048"
    world.end("drive_2")
    world.wait(third)
    # Who says how much gets just that, and what was given once stays.
    chosen = world.fanout("drive_2", definition="hang", shard_bytes=SMALL)
    chosen.options = replace(chosen.options, memory_mib=700)
    chosen.chosen = frozenset({"memory_mib", "vcpus"})
    (fourth,) = chosen.submit_all()
    assert world.needs(fourth)["MEMORY"] == "700"
    world.end("drive_2")
    world.wait(fourth)
    (last,) = world.fanout("drive_2", shard_bytes=SMALL).submit_all()
    world.wait(last)
    assert world.needs(last)["MEMORY"] == "2048"
    assert world.rows("drive_2", last.plan_id) == 3 * MESSAGES


def test_a_shard_that_timed_out_is_given_twice_the_time(world: World) -> None:
    def fanout(definition: str) -> Fanout:
        made = world.fanout("drive_1", definition=definition)
        made.options = replace(made.options, extra={"timeout": {"attemptDurationSeconds": 1}})
        return made

    (first,) = fanout("hang").submit_all()
    world.wait(first)
    ended = summarize_drive(world.batch, world.lake, first, world.detail(first))
    assert ended.causes == {Cause.TIMEOUT: 1}
    (second,) = fanout("hang").submit_all()
    assert world.detail(second)["timeout"] == {"attemptDurationSeconds": 2}


def test_what_spot_reclaims_twice_goes_on_demand(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (spot,) = world.batch.describe_job_queues(jobQueues=[QUEUE])["jobQueues"]
    steady = f"{world.bucket}-on-demand"
    world.batch.create_job_queue(
        jobQueueName=steady,
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=spot["computeEnvironmentOrder"],
    )

    def fanout(definition: str = "good") -> Fanout:
        made = world.fanout("drive_1", definition=definition)
        made.options = replace(made.options, on_demand_queue=steady)
        return made

    with world.aws.faults(HostReclaimed(job="drive_1-*", times=2)):
        (first,) = fanout().submit_all()
        world.wait(first)
        ended = summarize_drive(world.batch, world.lake, first, world.detail(first))
        assert ended.causes == {Cause.SPOT_RECLAIM: 1}
        (second,) = fanout().submit_all()
        world.wait(second)
    assert [first.job_queue, second.job_queue] == [QUEUE, QUEUE], "once is nothing unusual"
    # Killed between the submission and its record, the job is found where it went.
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(jobs, "_record", raise_killed)
        fanout("hang").submit_all()
    (third,) = fanout("hang").submit_all()
    assert (third.work, third.job_queue) == ("adopted", steady)
    assert world.detail(third)["jobQueue"].endswith(f"/{steady}")
    world.batch.terminate_job(jobId=str(third.job_id), reason="make room")
    world.wait(third)
    (last,) = fanout().submit_all()
    assert last.job_queue == steady, "what was moved stays"
    world.wait(last)
    assert world.rows("drive_1", last.plan_id) == MESSAGES


def raise_killed(*_: Any, **__: Any) -> Any:
    raise KilledError


def test_a_drive_that_was_not_committed_is_committed_by_one_more_job(world: World) -> None:
    (first,) = world.fanout("drive_2", shard_bytes=SMALL).submit_all()
    world.wait(first)
    world.lake.delete(contract.drive_manifest_key("drive_2", first.plan_id))
    (second,) = world.fanout("drive_2", shard_bytes=SMALL).submit_all()
    assert (second.work, second.generation, second.submitted_shards) == ("submitted", 1, 1)
    world.wait(second)
    assert world.rows("drive_2", first.plan_id) == 2 * MESSAGES


def test_of_two_at_once_the_job_recorded_first_stays(world: World) -> None:
    (first,) = world.fanout("drive_1", definition="hang").submit_all()
    fanout = world.fanout("drive_1", definition="hang")
    fanout.batch = fanout.submitter = Blind(world.batch)  # type: ignore[assignment]
    key = contract.job_record_key("drive_1", first.plan_id, 0)
    record = world.lake.read(key)
    assert record is not None
    fanout.s3 = Late(world.s3, key, record)  # type: ignore[assignment]
    world.lake.delete(key)
    (second,) = fanout.submit_all()
    assert second.job_id == first.job_id
    others = [job["jobId"] for job in world.jobs("drive_1") if job["jobId"] != first.job_id]
    assert len(others) == 1
    wait_for_end(world.batch, others)
    assert world.state(first) in LIVE


class Blind:
    """A Batch whose ListJobs does not show new jobs yet."""

    def __init__(self, batch: BatchClient) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def get_paginator(self, name: str) -> Any:
        return self

    def paginate(self, **_: Any) -> list[Any]:
        return [{"jobSummaryList": []}]


class Late:
    """An S3 to which somebody else writes ``key`` just before the first put of it here."""

    def __init__(self, s3: S3Client, key: str, data: bytes) -> None:
        self._s3, self._key, self._data = s3, key, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object(self, **request: Any) -> Any:
        if request["Key"].endswith(self._key):
            self._s3.put_object(Bucket=request["Bucket"], Key=request["Key"], Body=self._data)
        return self._s3.put_object(**request)


def test_another_conf_in_the_same_run_is_refused(world: World) -> None:
    world.fanout("drive_1", definition="hang").submit_all()
    with pytest.raises(FanoutError, match="the conf says otherwise now, so start a new run") as caught:
        world.fanout("drive_1", definition="hang", topics={"include": ["/x"]}).submit_all()
    assert not caught.value.retry_helps
    assert lease.holder(world.lake, "drive_1") is not None, "its job is live and needs it"


# --- one writer a drive -----------------------------------------------------------------------------


def test_a_drive_that_another_live_run_has_is_refused_by_name(world: World) -> None:
    (first,) = world.fanout("drive_1", definition="hang").submit_all()
    with pytest.raises(FanoutError) as caught:
        world.fanout("drive_1", "drive_2", run_id="run_2").submit_all()
    assert caught.value.retry_helps
    (problem,) = caught.value.problems
    assert problem.startswith(f"drive 'drive_1': run '{world.bucket}-run_1' of DAG 'dag' has it since 20")
    assert f"(its Batch job {first.job_id} is " in problem
    assert problem.endswith("try again when that run has ended [refused]")
    assert str(caught.value).startswith("1 drive cannot be run; nothing was submitted:\n- drive 'drive_1'")
    assert lease.holder(world.lake, "drive_2") is None
    assert world.jobs("drive_2") == []


def test_a_lease_that_nobody_can_read_is_named_and_said_what_to_do_with(world: World) -> None:
    key = contract.lease_key("drive_1")
    world.lake.create(key, b"{")
    said = f"{world.lake.uri(key)}: not JSON: .*; where no run is writing the drive, delete that object"
    with pytest.raises(FanoutError, match=said):
        world.fanout("drive_1").submit_all()
    world.lake.delete(key)
    assert world.fanout("drive_1").submit_all()


def test_a_dead_runs_lease_is_taken_over_and_it_cannot_come_back(world: World) -> None:
    (first,) = world.fanout("drive_1", definition="hang").submit_all()
    world.batch.terminate_job(jobId=str(first.job_id), reason="dies")
    world.wait(first)
    (second,) = world.fanout("drive_1", run_id="run_2").submit_all()
    world.wait(second)
    assert world.rows("drive_1", second.plan_id) == MESSAGES
    with pytest.raises(
        FanoutError, match=rf"another \(plan {second.plan_id}\) has extracted a.bag; start a new"
    ):
        world.fanout("drive_1").submit_all()
    assert lease.holder(world.lake, "drive_1") is None


def test_a_run_whose_drive_was_taken_over_says_so_and_adds_nothing(world: World) -> None:
    """One of its two shards is done when it dies; another run does the rest; then its job comes to life."""
    (dead,) = world.fanout("drive_2", definition="some fail", shard_bytes=SMALL).submit_all()
    world.wait(dead)
    (taker,) = world.fanout("drive_2", run_id="run_2", shard_bytes=SMALL).submit_all()
    assert (taker.bags, taker.covered) == (1, 1)
    world.wait(taker)
    word = world.lake.load(contract.DriveManifest, contract.drive_manifest_key("drive_2", dead.plan_id))
    assert word is not None
    assert (word.counted, word.rows, word.state) == ((0,), MESSAGES, DriveState.PARTIAL)
    with pytest.raises(FanoutError, match=r"run_2' of DAG 'dag' has taken the drive over: 1 of 2 shards"):
        world.fanout("drive_2", shard_bytes=SMALL).submit_all()
    late = world.batch.submit_job(
        jobName="late",
        jobQueue=QUEUE,
        jobDefinition=world.definitions["good"],
        containerOverrides={"command": ["run", "--plan", dead.plan_uri, "--shard", "1"]},
    )["jobId"]
    wait_for_end(world.batch, [late])
    assert describe(world.batch, [late])[late]["container"]["exitCode"] == 78
    summary = summarize_drive(world.batch, world.lake, dead, None)
    assert summary.failed and "has taken the drive over" in summary.result.problems[0]
    (nothing,) = world.fanout("drive_2", run_id="run_3").submit_all()
    found = summarize_drive(world.batch, world.lake, nothing, None)
    assert (found.state, found.result.rows) == (DriveState.SUCCEEDED, 2 * MESSAGES)


def other_lease(world: World, *, dag_id: str, run_id: str = "other") -> Lease:
    run = Run(dag_id, run_id)
    made = Lease("drive_1", contract.make_plan_id(run, "drive_1"), run, "2026-01-01T00:00:00+00:00")
    assert world.lake.create(contract.lease_key("drive_1"), contract.to_json(made))
    return made


def test_a_run_that_is_still_planning_is_let_be_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_lease(world, dag_id="other_dag")
    with pytest.raises(
        FanoutError, match=r"run 'other' of DAG 'other_dag' has it since .*has not submitted yet"
    ):
        world.fanout("drive_1").submit_all()
    monkeypatch.setattr(lease, "GRACE_S", 0.0)
    (job,) = world.fanout("drive_1", definition="hang").submit_all()
    assert lease.holder(world.lake, "drive_1").plan_id == job.plan_id  # type: ignore[union-attr]


def test_a_run_of_the_command_line_cannot_be_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "GRACE_S", 0.0)
    other_lease(world, dag_id="")
    lease_uri = f"{world.lake.output}/_leases/drive_id=drive_1.json"
    text = rf"run 'other' of the command line has it .*delete {lease_uri} if it is dead"
    with pytest.raises(FanoutError, match=text):
        world.fanout("drive_1").submit_all()
    monkeypatch.setattr(lease, "COMMAND_LINE_GRACE_S", 0.0)
    assert world.fanout("drive_1", definition="hang").submit_all()


def test_a_job_that_was_submitted_and_not_recorded_keeps_its_run_alive(world: World) -> None:
    (first,) = world.fanout("drive_1", definition="hang").submit_all()
    world.lake.delete(contract.job_record_key("drive_1", first.plan_id, 0))
    with pytest.raises(FanoutError, match=f"its Batch job {first.job_id} is"):
        world.fanout("drive_1", run_id="run_2").submit_all()


def test_a_store_without_conditional_overwrite_still_has_one_winner(world: World) -> None:
    other = other_lease(world, dag_id="other_dag")
    mine = replace(other, plan_id="mine")
    lake = Lake(OldStore(world.s3), world.lake.output)  # type: ignore[arg-type]
    assert lease.acquire(lake, mine, sign_of_life=lambda holder, age_s: None)
    assert lease.holder(world.lake, "drive_1") == mine
    assert not lease.acquire(lake, mine, sign_of_life=lambda holder, age_s: None)


class OldStore:
    """An S3 that knows ``If-None-Match`` and not ``If-Match``."""

    def __init__(self, s3: S3Client) -> None:
        self._s3 = s3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object(self, **request: Any) -> Any:
        if "IfMatch" in request:
            raise botocore.client.ClientError({"Error": {"Code": "NotImplemented"}}, "PutObject")
        return self._s3.put_object(**request)


# --- what cannot be planned -------------------------------------------------------------------------


def test_all_problems_come_together_and_nothing_is_submitted(world: World) -> None:
    made = conf(world.bucket, "drive_1", "drive_2", "nowhere")
    put(world.s3, world.bucket, "drive_2/b.orig.bag")
    with pytest.raises(FanoutError) as caught:
        world.fanout(made=made).submit_all()
    assert not caught.value.retry_helps
    assert str(caught.value).startswith(
        "2 drives cannot be run; nothing was submitted:\n- drive 'drive_2': under"
    )
    assert "\n- drive 'nowhere': no bag directly under" in str(caught.value)
    assert world.lake.keys("_plans") == []
    assert world.lake.keys("_leases") == []


def test_a_bucket_that_is_not_there_is_named(world: World) -> None:
    made = conf("no-such-bucket-anywhere", "drive_1")
    with pytest.raises(FanoutError) as caught:
        world.fanout(made=made).submit_all()
    assert not caught.value.retry_helps
    (problem,) = caught.value.problems
    assert problem.startswith("drive 'drive_1': S3 refused ListObjectsV2 (NoSuchBucket: ")
    assert "check bucket 'no-such-bucket-anywhere', output " in problem
    assert problem.endswith(" [input_missing]")
    assert lease.holder(world.lake, "drive_1") is None


def test_a_queue_that_is_not_there_is_named_by_the_retry_too(world: World) -> None:
    problems = []
    for _ in range(2):
        fanout = world.fanout("drive_1", "drive_2")
        fanout.options = SubmitOptions("no-such-queue", world.definitions["good"])
        with pytest.raises(FanoutError) as caught:
            fanout.submit_all()
        problems.append(caught.value.problems)
    assert [len(each) for each in problems] == [2, 2]
    assert all(
        each.startswith(f"drive 'drive_{number}': Batch ") and "queue 'no-such-queue'" in each
        for both in problems
        for number, each in enumerate(both, 1)
    )
    assert not caught.value.retry_helps


def test_access_that_is_denied_while_submitting_does_not_hold_up_the_others(world: World) -> None:
    fanout = world.fanout("drive_1", "drive_2")
    fanout.s3 = Denying(world.s3)  # type: ignore[assignment]
    with pytest.raises(FanoutError) as caught:
        fanout.submit_all()
    assert not caught.value.retry_helps
    assert str(caught.value).startswith(
        "1 drive cannot be run; 1 other is submitted:\n- drive 'drive_1': S3 refused PutObject "
        "(AccessDenied; let the role that asks do s3:PutObject there); "
        f"check bucket '{world.bucket}', output "
    )
    assert str(caught.value).endswith(" [access_denied]")


class Denying:
    """An S3 that does not let generations of drive_1 be written."""

    def __init__(self, s3: S3Client) -> None:
        self._s3 = s3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object(self, **request: Any) -> Any:
        if "drive_1/" in request["Key"] and "generation-" in request["Key"]:
            raise botocore.client.ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject")
        return self._s3.put_object(**request)


def test_a_drive_that_batch_refuses_does_not_hold_up_the_others(world: World) -> None:
    fanout = world.fanout("drive_1", "drive_2", definition="hang")
    fanout.submitter = Refusing(world.batch)  # type: ignore[assignment]
    with pytest.raises(FanoutError) as caught:
        fanout.submit_all()
    assert not caught.value.retry_helps
    assert str(caught.value).startswith(
        "1 drive cannot be run; 1 other is submitted:\n- drive 'drive_1': Batch did"
    )
    assert str(caught.value).endswith(" [refused]")
    assert lease.holder(world.lake, "drive_1") is None
    assert lease.holder(world.lake, "drive_2") is not None
    jobs = world.fanout("drive_1", "drive_2", definition="hang").submit_all()
    assert [job.work for job in jobs] == ["submitted", "adopted"]


class Refusing:
    """A Batch that takes no job of drive_1."""

    def __init__(self, batch: BatchClient) -> None:
        self._batch = batch

    def submit_job(self, **request: Any) -> Any:
        if request["jobName"].startswith("drive_1"):
            said = {
                "Error": {"Code": "ClientException"},
                "ResponseMetadata": {"HTTPStatusCode": 400},
            }
            raise botocore.client.ClientError(said, "SubmitJob")  # type: ignore[arg-type]
        return self._batch.submit_job(**request)


def to_queue(fanout: Fanout, queue: str) -> Fanout:
    fanout.options = replace(fanout.options, job_queue=queue)
    return fanout


def test_a_queue_that_is_not_there_leaves_the_drive_to_the_corrected_command(world: World) -> None:
    for _ in range(2):  # the second try goes on from the plan, and the generation, of the first
        with pytest.raises(FanoutError, match="Job queue nope does not exist") as caught:
            to_queue(world.fanout("drive_1", definition="hang"), "nope").submit_all()
        assert not caught.value.retry_helps
        assert lease.holder(world.lake, "drive_1") is None
    (job,) = world.fanout("drive_1", definition="hang", run_id="corrected").submit_all()
    assert job.work == "submitted"


def test_the_same_run_goes_on_with_the_right_queue(world: World) -> None:
    with pytest.raises(FanoutError):
        to_queue(world.fanout("drive_1", definition="hang"), "nope").submit_all()
    (job,) = world.fanout("drive_1", definition="hang").submit_all()
    assert (job.work, job.generation) == ("submitted", 0)


def test_where_an_answer_may_be_lost_a_refusal_does_not_give_the_drive_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("airflow_batch_ros.jobs.submit_once", lost)
        with pytest.raises(FanoutError) as caught:
            world.fanout("drive_1").submit_all()
    assert caught.value.retry_helps
    holder = lease.holder(world.lake, "drive_1")
    assert holder is not None
    with pytest.raises(FanoutError, match="Job queue nope does not exist"):
        to_queue(world.fanout("drive_1"), "nope").submit_all()
    assert lease.holder(world.lake, "drive_1") == holder, "the first try's job may be there"


def lost(*_: Any, **__: Any) -> Any:
    raise SubmitError("the answer is lost")


# --- ending what was begun --------------------------------------------------------------------------


def test_a_killed_operator_ends_its_jobs(world: World) -> None:
    fanout = world.fanout("drive_1", "drive_2", definition="hang")
    jobs = fanout.submit_all()
    assert fanout.kill() == []
    world.wait(*jobs)
    assert {world.state(job) for job in jobs} == {"FAILED"}


def test_a_job_whose_submission_is_not_confirmed_is_ended_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fanout = world.fanout("drive_1", definition="hang")

    def submit_job(**request: Any) -> Any:
        world.batch.submit_job(**request)
        raise KilledError

    monkeypatch.setattr(fanout, "submitter", type("Submitter", (), {"submit_job": staticmethod(submit_job)}))
    with pytest.raises(KilledError):
        fanout.submit_all()
    assert fanout.kill() == []
    (job,) = world.jobs("drive_1")
    wait_for_end(world.batch, [job["jobId"]])
    assert [job["status"] for job in world.jobs("drive_1")] == ["FAILED"]


@pytest.mark.parametrize("heard", [True, False])
def test_killed_by_a_signal_that_lets_it_go_on_it_submits_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    fanout = replace(world.fanout("drive_1", "drive_2", definition="hang"), threads=1)

    def submit_job(**request: Any) -> Any:
        if not heard:
            fanout.kill()  # the request is on its way, Batch does not show the job yet
        answer = world.batch.submit_job(**request)
        if heard:
            fanout.kill()
        return answer

    monkeypatch.setattr(fanout, "submitter", type("Submitter", (), {"submit_job": staticmethod(submit_job)}))
    with pytest.raises(fanouts.KilledError, match="nothing more is submitted"):
        fanout.submit_all()
    (job,) = world.jobs("drive_1")
    wait_for_end(world.batch, [job["jobId"]])
    assert [job["status"] for job in world.jobs("drive_1")] == ["FAILED"]
    assert world.jobs("drive_2") == []


def test_what_it_leaves_in_the_lake_is_the_contracts(world: World) -> None:
    (job,) = world.fanout("drive_2", definition="hang", shard_bytes=SMALL).submit_all()
    plan = world.lake.load(Plan, contract.plan_key("drive_2", job.plan_id))
    record = world.lake.load(JobRecord, contract.job_record_key("drive_2", job.plan_id, 0))
    assert plan is not None
    assert record == JobRecord(job.plan_id, 0, str(job.job_id), str(job.job_name), QUEUE, 2)
    generation = world.lake.read(contract.generation_key("drive_2", job.plan_id, 0))
    assert json.loads(generation or b"")["shards"] == [0, 1]
    detail = describe(world.batch, [str(job.job_id)])[str(job.job_id)]
    words = detail["container"]["command"]
    assert words == ["run", "--plan", job.plan_uri, "--plan-sha256", contract.sha256(contract.to_json(plan))]
    assert detail["tags"]["ros-to-parquet:drive"] == "drive_2"
