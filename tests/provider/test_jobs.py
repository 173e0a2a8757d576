"""Batch requests, names and reasons; what waiting knows; all without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import ClientError, ParamValidationError, ReadTimeoutError

from airflow_batch_ros import jobs
from airflow_batch_ros.jobs import (
    DriveJob,
    Progress,
    Sizes,
    SubmitError,
    SubmitOptions,
    command,
    count_states,
    describe_exit,
    end_reason,
    job_name,
    job_seconds,
    live_jobs,
    look_at,
    next_generation,
    read_progress,
    submit_next,
    submit_request,
)
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.stuck import why_runnable
from airflow_batch_ros.waiting import Amount, Waiting, amount_of
from ros_to_parquet import contract
from ros_to_parquet.contract import Generation, JobRecord
from tests.provider.builders import bag, plan

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

LAKE = Lake(cast(Any, None), "s3://lake/out")
PLAN = plan([bag("a.bag"), bag("b.bag"), bag("c.bag")])
PLAN_WORDS = [
    "run",
    "--plan",
    f"s3://lake/out/_plans/drive_id=drive_1/{PLAN.plan_id}/plan.json",
    "--plan-sha256",
    contract.sha256(contract.to_json(PLAN)),
]


def generation(*shards: int, number: int = 0) -> Generation:
    return Generation(1, PLAN.plan_id, number, shards)


# --- requests ---------------------------------------------------------------------------------------


def test_job_names_follow_batchs_rules() -> None:
    assert job_name("drive.1", "0123456789ab", 12) == "drive_1-0123456789ab-g12"
    longest = job_name("x" * 128, "0123456789ab", 10_000)
    assert len(longest) == 128
    assert longest.endswith("x-0123456789ab-g10000")


def test_a_plain_job_is_told_its_shard() -> None:
    assert command(LAKE, PLAN, generation(2)) == [*PLAN_WORDS, "--shard", "2"]


def test_an_array_over_all_shards_needs_no_map() -> None:
    assert command(LAKE, PLAN, generation(0, 1, 2)) == PLAN_WORDS


def test_an_array_over_some_shards_is_told_which() -> None:
    some = generation(0, 2, number=1)
    assert command(LAKE, PLAN, some) == [
        *PLAN_WORDS,
        "--index-map",
        f"s3://lake/out/_plans/drive_id=drive_1/{PLAN.plan_id}/generation-1.json",
        "--index-map-sha256",
        contract.sha256(contract.to_json(some)),
    ]


def test_the_plain_request() -> None:
    assert submit_request(LAKE, PLAN, generation(1), SubmitOptions("queue", "definition")) == {
        "jobName": f"drive_1-{PLAN.plan_id}-g0",
        "jobQueue": "queue",
        "jobDefinition": "definition",
        "containerOverrides": {"command": [*PLAN_WORDS, "--shard", "1"]},
        "tags": {"ros-to-parquet:drive": "drive_1", "ros-to-parquet:plan": PLAN.plan_id},
        "propagateTags": True,
    }


def test_the_request_with_everything() -> None:
    options = SubmitOptions(
        "queue",
        "definition",
        vcpus=0.5,
        memory_mib=4096,
        tags={"team": "perception"},
        extra={
            "timeout": {"attemptDurationSeconds": 600},
            "shareIdentifier": "low",
            "jobName": "mine",
            "containerOverrides": {"environment": [{"name": "A", "value": "1"}], "command": ["rm"]},
        },
    )
    request = submit_request(LAKE, PLAN, generation(0, 1, 2), options)
    assert request["jobName"] == f"drive_1-{PLAN.plan_id}-g0"
    assert request["arrayProperties"] == {"size": 3}
    assert request["timeout"] == {"attemptDurationSeconds": 600}
    assert request["shareIdentifier"] == "low"
    assert request["tags"]["team"] == "perception"
    assert request["containerOverrides"] == {
        "environment": [{"name": "A", "value": "1"}],
        "command": PLAN_WORDS,
        "resourceRequirements": [{"type": "VCPU", "value": "0.5"}, {"type": "MEMORY", "value": "4096"}],
    }


def test_the_request_for_the_largest_array_fits_batchs_limits() -> None:
    large = plan([bag(f"{number}.bag") for number in range(10_000)], output=f"s3://{'b' * 63}/{'p' * 450}")
    lake = Lake(cast(Any, None), large.output)
    request = submit_request(
        lake,
        large,
        Generation(1, large.plan_id, 7, tuple(range(1, 10_000))),
        SubmitOptions("q" * 128, "d" * 128),
    )
    assert len(json.dumps(request["containerOverrides"])) < 8192
    assert len(json.dumps(request)) < 30 * 1024


# --- generations ------------------------------------------------------------------------------------

RECORD = JobRecord(PLAN.plan_id, 0, "id", "name", "queue", 3)


@pytest.mark.parametrize(
    ("progress", "number"),
    [
        (Progress((0, 1, 2), False), 0),
        (Progress((0, 1, 2), False, generation(0, 1, 2)), 0),
        (Progress((2,), False, generation(0, 1, 2), RECORD, "FAILED"), 1),
        (Progress((2,), False, generation(2, number=4), RECORD, "FAILED"), 5),
    ],
)
def test_a_generation_that_was_never_submitted_is_taken_up(progress: Progress, number: int) -> None:
    assert next_generation(progress) == number


class Batch:
    """Answers SubmitJob with a script of errors; knows the jobs that got through."""

    def __init__(self, *script: Exception | str, blind: int = 0) -> None:
        self.script = list(script)
        self.blind = blind  # answers of ListJobs that do not show jobs yet
        self.jobs: list[dict[str, Any]] = []
        self.asked = 0

    def submit_job(self, **request: Any) -> dict[str, Any]:
        step = self.script.pop(0) if self.script else "takes it"
        if step in ("takes it", "takes it and is not heard"):
            self.jobs.append(
                {"jobId": f"id-{len(self.jobs)}", "jobName": request["jobName"], "status": "RUNNABLE"}
            )
        if step == "takes it and is not heard":
            raise ReadTimeoutError(endpoint_url="http://batch")
        if isinstance(step, Exception):
            raise step
        return {"jobId": self.jobs[-1]["jobId"]}

    def get_paginator(self, name: str) -> Any:
        assert name == "list_jobs"
        return self

    def paginate(self, *, jobQueue: str, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:  # noqa: N803
        self.asked += 1
        if self.asked <= self.blind:
            return [{"jobSummaryList": []}]
        wanted = filters[0]["values"][0].lower()
        return [{"jobSummaryList": [job for job in self.jobs if job["jobName"].lower() == wanted]}]


class Store(Lake):
    """A lake that keeps its objects in a dict."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), "s3://lake/out")
        object.__setattr__(self, "objects", {})

    __slots__ = ("objects",)
    objects: dict[str, bytes]

    def create(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, data) is data

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def keys(self, folder: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(f"{folder}/"))


class Queue:
    """A queue with one live job, which has ``name``; Batch has no other queue."""

    def __init__(self, queue: str, name: str) -> None:
        self.queue = queue
        self.job = {"jobId": "lost", "jobName": name, "status": "RUNNING"}

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, *, jobQueue: str, filters: Any) -> list[dict[str, Any]]:  # noqa: N803
        return [{"jobSummaryList": [self.job] if jobQueue == self.queue else []}]

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        return {"jobs": [self.job] if "lost" in jobs else []}


@pytest.mark.parametrize("queue", ["on-demand", "chosen"])
def test_a_job_that_was_not_recorded_is_found_where_it_may_be(queue: str) -> None:
    """A retry that chooses a queue takes it instead of the one that its generation was to go to."""
    lake = Store()
    for number in (0, 1):
        generation = Generation(contract.CONTRACT_VERSION, PLAN.plan_id, number, (0, 1, 2))
        key = contract.generation_key(PLAN.drive_id, PLAN.plan_id, number)
        lake.create(key, contract.to_json(generation))
    sizes = contract.to_json(Sizes(job_queue="on-demand"))
    lake.create(contract.sizes_key(PLAN.drive_id, PLAN.plan_id, 1), sizes)
    first = JobRecord(PLAN.plan_id, 0, "first", "name", "spot", 3)
    lake.create(contract.job_record_key(PLAN.drive_id, PLAN.plan_id, 0), contract.to_json(first))
    batch = cast(Any, Queue(queue, job_name(PLAN.drive_id, PLAN.plan_id, 1)))
    record = read_progress(batch, lake, PLAN, job_queue="chosen").record
    assert record is not None
    assert (record.job_id, record.job_queue, record.generation) == ("lost", queue, 1)
    lake.objects.pop(contract.job_record_key(PLAN.drive_id, PLAN.plan_id, 1))
    live = live_jobs(batch, lake, PLAN.drive_id, PLAN.plan_id, job_queue="chosen")
    assert live == {"lost": "RUNNING"}


def client_error(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "said so"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "SubmitJob",
    )


def submit(batch: Batch) -> tuple[JobRecord, list[float]]:
    slept: list[float] = []
    client = cast(Any, batch)
    record, _ = submit_next(
        client,
        Store(),
        PLAN,
        Progress((0, 1, 2), False),
        SubmitOptions("queue", "definition"),
        submitter=client,
        sleep=slept.append,
    )
    return record, slept


def test_throttling_is_waited_for() -> None:
    batch = Batch(client_error("TooManyRequestsException", 429), client_error("ThrottlingException"))
    record, (first, second) = submit(batch)
    assert (record.job_id, len(batch.jobs), batch.asked) == ("id-0", 1, 0), "there was nothing to look for"
    assert 0.5 <= first <= 1.5 <= 2 * second <= 6.0


@pytest.mark.parametrize("lost", ["takes it and is not heard", client_error("InternalError", 500)])
def test_a_submission_whose_answer_is_lost_makes_no_second_job(lost: Any) -> None:
    batch = Batch(lost)
    record, _ = submit(batch)
    assert [job["jobId"] for job in batch.jobs] == [record.job_id]


def test_a_submission_whose_answer_is_lost_is_looked_for_after_throttling_too() -> None:
    batch = Batch("takes it and is not heard", client_error("TooManyRequestsException", 429), blind=1)
    record, slept = submit(batch)
    assert [job["jobId"] for job in batch.jobs] == [record.job_id]
    assert (len(slept), batch.asked) == (2, 2)


@pytest.mark.parametrize(
    "script",
    [(client_error("ClientException"),), (client_error("TooManyRequestsException"),) * jobs.SUBMIT_TRIES],
)
def test_a_refusal_is_said(script: tuple[Exception, ...]) -> None:
    with pytest.raises(SubmitError) as caught:
        submit(Batch(*script))
    assert str(caught.value).startswith(
        f"drive 'drive_1': Batch did not take job drive_1-{PLAN.plan_id}-g0 for queue 'queue' and definition "
        "'definition': An error occurred"
    )
    assert str(caught.value).endswith("said so")


NOT_SENT = ParamValidationError(report="Invalid type for parameter timeout, value: 60")


@pytest.mark.parametrize(
    ("script", "for_good"),
    [
        ((client_error("ClientException"),), True),
        ((client_error("AccessDeniedException", 403),), True),
        ((client_error("TooManyRequestsException", 429), client_error("ClientException")), True),
        ((client_error("ExpiredTokenException", 403),), False),
        ((client_error("Unheard", 408),), False),
        ((client_error("ClientException", 0),), False),
        ((client_error("ServerException", 500),) * jobs.SUBMIT_TRIES, False),
        ((client_error("ServerException", 500), client_error("ClientException")), False),
        ((NOT_SENT,), True),
        ((client_error("ServerException", 500), NOT_SENT), False),
    ],
)
def test_what_is_refused_for_good_is_told_from_what_is_not_known(
    script: tuple[Exception, ...], for_good: bool
) -> None:
    with pytest.raises(SubmitError) as caught:
        submit(Batch(*script))
    assert isinstance(caught.value, jobs.RefusedError) == for_good


@pytest.mark.parametrize("said", ["Job queue nope does not exist", "JobQueue nope not found."])
def test_a_queue_that_is_not_there_has_no_jobs(said: str) -> None:
    assert jobs.find_job(cast(Any, Listing("ClientException", said)), "nope", "x") is None


@pytest.mark.parametrize(
    ("code", "said"), [("ClientException", "no"), ("ServerException", "Job queue nope does not exist")]
)
def test_other_errors_of_listing_are_not_taken_for_that(code: str, said: str) -> None:
    with pytest.raises(ClientError):
        jobs.find_job(cast(Any, Listing(code, said)), "nope", "x")


class Listing:
    """A Batch that does not list jobs."""

    def __init__(self, code: str, said: str) -> None:
        self._error = ClientError({"Error": {"Code": code, "Message": said}}, "ListJobs")

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Iterator[Any]:
        raise self._error
        yield


def test_names_that_differ_in_case_alone_are_not_taken_for_ours() -> None:
    batch = Batch()
    batch.jobs = [{"jobId": "other", "jobName": "DRIVE", "status": "RUNNING"}]
    assert jobs.find_job(cast(Any, batch), "queue", "drive") is None
    assert jobs.find_job(cast(Any, batch), "queue", "DRIVE") == "other"


def test_a_live_job_is_found_before_newer_ones_that_ended() -> None:
    batch = Batch()
    batch.jobs = [
        {"jobId": "old", "jobName": "x", "status": "FAILED", "createdAt": 1},
        {"jobId": "live", "jobName": "x", "status": "RUNNING", "createdAt": 2},
        {"jobId": "new", "jobName": "x", "status": "SUCCEEDED", "createdAt": 3},
    ]
    assert jobs.find_job(cast(Any, batch), "queue", "x") == "live"


# --- what Batch says --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        (
            {"container": {"exitCode": 65}, "statusReason": "Essential container in task exited"},
            "exit code 65 (nothing could be read from any of the bags)",
        ),
        (
            {
                "container": {
                    "exitCode": 137,
                    "reason": "OutOfMemoryError: no more memory",
                },
                "statusReason": "Essential container in task exited",
            },
            "exit code 137 (killed by the system, most often for memory); OutOfMemoryError: no more memory",
        ),
        (
            {"container": {}, "statusReason": "Job attempt duration exceeded timeout"},
            "Job attempt duration exceeded timeout",
        ),
        (
            {"statusReason": "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"},
            "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
        ),
        (
            {
                "attempts": [
                    {"container": {"exitCode": 1}, "statusReason": "first"},
                    {
                        "container": {"reason": "CannotPullContainerError: no"},
                        "statusReason": "Task failed to start",
                    },
                ]
            },
            "CannotPullContainerError: no; Task failed to start",
        ),
        ({"status": "FAILED"}, "ended as FAILED, Batch gives no reason"),
    ],
)
def test_reasons(detail: dict[str, Any], reason: str) -> None:
    assert end_reason(detail) == reason


def test_unknown_exit_codes_are_said_as_they_are() -> None:
    assert describe_exit(42) == "exit code 42"


def test_seconds_are_from_submission_to_end() -> None:
    assert job_seconds({"createdAt": 1000, "startedAt": 2000, "stoppedAt": 3500}) == 2.5
    assert job_seconds({"createdAt": 1000}) is None
    assert job_seconds(None) is None


def test_arrays_count_their_children() -> None:
    array = {
        "status": "PENDING",
        "arrayProperties": {"size": 5, "statusSummary": {"RUNNING": 2, "SUCCEEDED": 3, "FAILED": 0}},
    }
    young = {"status": "SUBMITTED", "arrayProperties": {"size": 4, "statusSummary": {}}}
    assert count_states([array, young, {"status": "RUNNING"}, None]) == {
        "RUNNING": 3,
        "SUCCEEDED": 3,
        "SUBMITTED": 4,
        "UNKNOWN": 1,
    }


def test_an_entry_of_the_operators_return_value_is_json_and_comes_back() -> None:
    job = drive_job()
    assert DriveJob.from_dict(json.loads(json.dumps(job.as_dict()))) == job


@pytest.mark.parametrize("raw", [{}, {"drive_id": "x"}, "text"])
def test_what_is_no_such_entry_is_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match="not what RosToParquetBatchOperator returns"):
        DriveJob.from_dict(raw)


def drive_job() -> DriveJob:
    return DriveJob(
        drive_id="drive_1",
        work="submitted",
        source="s3://raw/drive_1/",
        output="s3://lake/out",
        plan_id=PLAN.plan_id,
        plan_uri="s3://lake/out/plan.json",
        job_id="id",
        job_name="name",
        job_queue="queue",
        generation=0,
        array_size=3,
        submitted_shards=3,
        shards=3,
        bags=3,
        bag_bytes=300,
        covered=0,
        ignored=0,
        fail_on=("failed", "partial"),
    )


# --- waiting ----------------------------------------------------------------------------------------


def test_waiting_ends_when_the_last_job_has() -> None:
    waiting = Waiting(["a", "b"])
    assert waiting.update({"a": {"status": "RUNNING"}, "b": {"status": "RUNNABLE"}}) == (
        "jobs: 1 RUNNABLE, 1 RUNNING; shards: 1 RUNNABLE, 1 RUNNING"
    )
    assert waiting.update({"a": {"status": "RUNNING"}, "b": {"status": "RUNNABLE"}}) is None
    assert waiting.update({"a": {"status": "FAILED"}, "b": {"status": "RUNNING"}}) is not None
    assert waiting.open == ["b"]
    news = waiting.update({"b": {"status": "SUCCEEDED"}})
    assert news == "jobs: 1 FAILED, 1 SUCCEEDED; shards: 1 FAILED, 1 SUCCEEDED"
    assert waiting.open == []
    assert waiting.states == {"a": "FAILED", "b": "SUCCEEDED"}


def described(*jobs: dict[str, Any]) -> BatchClient:
    """A client by which Batch knows these jobs."""
    return cast("BatchClient", SimpleNamespace(describe_jobs=lambda **_: {"jobs": list(jobs)}))


def array_detail(created_s: float, **children: int) -> dict[str, Any]:
    state = "RUNNING" if children.keys() - {"SUCCEEDED", "FAILED"} else "SUCCEEDED"
    size = sum(children.values())
    properties = {"size": size, "statusSummary": children}
    return {"status": state, "createdAt": int(created_s * 1000), "arrayProperties": properties}


def test_the_news_say_how_far_the_shards_are() -> None:
    now = [1000.0]
    amount = Amount(shards=10, shards_before=2, bag_bytes=10_000_000_000)
    waiting = Waiting(["a", "b"], amount=amount, now=lambda: now[0])
    single = {"status": "RUNNING", "createdAt": 1_005_000}
    news = waiting.update({"a": array_detail(1000, RUNNING=9), "b": single})
    assert news == "jobs: 2 RUNNING; shards: 10 RUNNING; 2 of 12 shards done"
    now[0] = 1100.0
    news = waiting.update({"a": array_detail(1000, RUNNING=5, SUCCEEDED=3, FAILED=1), "b": single})
    assert news is not None
    assert news.endswith("; 5 of 12 shards done, 30.0 MB/s, about 2 min left")
    now[0] = 1200.0
    waiting.update({"a": array_detail(1000, SUCCEEDED=8, FAILED=1), "b": single})
    now[0] = 1250.0
    news = waiting.update({"b": {**single, "status": "SUCCEEDED"}})
    assert news is not None
    assert news.endswith("; 11 of 12 shards done, 36.0 MB/s"), "nothing is left to wait for"


def test_what_an_earlier_try_has_done_says_nothing_of_the_time_that_is_left() -> None:
    now = [1_000_000.0]
    waiting = Waiting(["old", "new"], amount=Amount(shards=110, bag_bytes=110_000_000), now=lambda: now[0])
    old = {**array_detail(1000, SUCCEEDED=100), "jobId": "old", "stoppedAt": 2_000_000}
    new = {**array_detail(1_000_000, RUNNING=10), "jobId": "new"}
    waiting.update(look_at(described(old, new), waiting.open))
    now[0] += 100
    news = waiting.update({"new": array_detail(1_000_000, RUNNING=5, SUCCEEDED=5)})
    assert news is not None
    assert news.endswith("; 105 of 110 shards done, 0.1 MB/s, about 2 min left")


def test_how_much_there_is_to_do_comes_from_the_jobs() -> None:
    whole = replace(drive_job(), array_size=8, shards=8, bag_bytes=800)
    rest = replace(drive_job(), array_size=0, shards=4, bag_bytes=400)
    done = replace(drive_job(), job_id=None, shards=3, bag_bytes=300)
    assert amount_of([whole, rest, done]) == Amount(shards=9, shards_before=6, bag_bytes=900)
    assert amount_of([]) == Amount()


def test_a_job_that_batch_does_not_know_counts_as_ended_after_a_while() -> None:
    now = [0.0]
    waiting = Waiting(["a"], unknown_after_s=60, clock=lambda: now[0])
    waiting.update({"a": {"status": "RUNNING"}})
    now[0] = 100
    waiting.update({"a": {"status": "RUNNING"}})
    now[0] = 150
    waiting.update({})
    assert waiting.open == ["a"]
    now[0] = 160
    waiting.update({})
    assert (waiting.open, waiting.states) == ([], {"a": "UNKNOWN"})


def test_polls_of_other_processes_count_as_waited() -> None:
    waiting = Waiting(["a"], unknown_after_s=60, waited_s=61)
    waiting.update({})
    assert waiting.open == []


class Clock:
    """Monotonic seconds, and the time of day a thousand seconds ahead of them."""

    def __init__(self) -> None:
        self.s = 0.0

    def waiting(self, *job_ids: str, timeout_s: float | None = 60) -> Waiting:
        return Waiting(
            list(job_ids), runnable_timeout_s=timeout_s, clock=lambda: self.s, now=lambda: self.s + 1000
        )


def test_a_job_that_never_ran_is_stuck_by_batchs_clock() -> None:
    clock = Clock()
    waiting, never = clock.waiting("a"), clock.waiting("a", timeout_s=None)
    young = {"status": "RUNNABLE", "createdAt": 990_000, "attempts": []}
    for each in (waiting, never):
        each.update({"a": young})
        assert each.take_stuck() == []
    clock.s = 50
    for each in (waiting, never):
        each.update({"a": young})
    assert never.take_stuck() == []
    assert waiting.take_stuck() == [("a", 60.0)]
    assert waiting.take_stuck() == [], "it is said once"


def test_a_job_that_runs_now_and_then_is_not_stuck() -> None:
    clock = Clock()
    waiting = clock.waiting("a")
    again = {"status": "RUNNABLE", "createdAt": 1, "attempts": [{"statusReason": "Host EC2"}]}
    waiting.update({"a": again})
    clock.s = 59
    waiting.update({"a": again})
    waiting.update({"a": {"status": "RUNNING"}})
    waiting.update({"a": again})
    clock.s = 118
    waiting.update({"a": again})
    assert waiting.take_stuck() == []
    clock.s = 119
    waiting.update({"a": again})
    assert waiting.take_stuck() == [("a", 60.0)]


@pytest.mark.parametrize(
    ("children", "stuck"),
    [
        ({"RUNNABLE": 9}, True),
        ({"RUNNABLE": 9, "SUCCEEDED": 1}, True),
        ({"RUNNABLE": 9, "RUNNING": 1}, False),
        ({"RUNNABLE": 9, "STARTING": 1}, False),
        ({"PENDING": 10}, False),
    ],
)
def test_an_array_is_stuck_where_none_of_its_children_gets_on(children: dict[str, int], stuck: bool) -> None:
    clock = Clock()
    waiting = clock.waiting("a")
    array = {"status": "PENDING", "arrayProperties": {"size": 10, "statusSummary": children}}
    for clock.s in (0, 60):
        waiting.update({"a": array})
    assert bool(waiting.take_stuck()) is stuck


# --- why a job does not start -----------------------------------------------------------------------


class Queues:
    """Batch with one queue and its compute environment."""

    def __init__(self, queue: dict[str, Any], environment: dict[str, Any]) -> None:
        order = [{"order": 1, "computeEnvironment": "arn:ce"}]
        self.queue = {"jobQueueName": "spot", "computeEnvironmentOrder": order, **queue}
        self.environment = {"computeEnvironmentName": "spot-ce", **environment}

    def describe_job_queues(self, **_: Any) -> Any:
        return {"jobQueues": [self.queue]}

    def describe_compute_environments(self, **_: Any) -> Any:
        return {"computeEnvironments": [self.environment]}

    def list_jobs(self, **_: Any) -> Any:
        return {"jobSummaryList": [{"statusReason": "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"}]}


WELL = {"state": "ENABLED", "status": "VALID"}
LARGE = {"container": {"resourceRequirements": [{"type": "VCPU", "value": "64"}]}}


@pytest.mark.parametrize(
    ("detail", "queue", "environment", "why"),
    [
        ({}, WELL, WELL, "Batch gives no reason; its queue and compute environments are in order: "),
        ({"statusReason": "MISCONFIGURATION:X"}, WELL, WELL, "MISCONFIGURATION:X"),
        ({"arrayProperties": {"size": 2}}, WELL, WELL, "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"),
        ({}, {"state": "DISABLED", "status": "VALID"}, WELL, "queue spot is DISABLED and VALID"),
        (
            {},
            WELL,
            {"state": "ENABLED", "status": "INVALID", "statusReason": "CLIENT_ERROR - Not authorized"},
            "compute environment spot-ce is ENABLED and INVALID (CLIENT_ERROR - Not authorized)",
        ),
        (
            LARGE,
            WELL,
            {**WELL, "computeResources": {"maxvCpus": 16}},
            "it asks for 64 vCPUs, and compute environment spot-ce has 16 at most",
        ),
        (LARGE, WELL, {**WELL, "computeResources": {"maxvCpus": 64}}, "Batch gives no reason"),
    ],
)
def test_why_a_job_does_not_start(
    detail: dict[str, Any], queue: dict[str, Any], environment: dict[str, Any], why: str
) -> None:
    job = {"jobId": "x", "jobQueue": "arn:q", **detail}
    assert why_runnable(cast(Any, Queues(queue, environment)), job).startswith(why)


def test_a_queue_that_cannot_be_asked_is_said() -> None:
    class Denying(Queues):
        def describe_job_queues(self, **_: Any) -> Any:
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "DescribeJobQueues")

    job = {"jobId": "x", "jobQueue": "q", "statusReason": "CAPACITY:X"}
    said = why_runnable(cast(Any, Denying(WELL, WELL)), job)
    assert said.startswith("CAPACITY:X (its queue cannot be asked: ")
