"""What a generation is given, by what the one before had and failed by; `test_fanout` has it end to end."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_batch_ros import adapt
from airflow_batch_ros.adapt import MAX_TIMEOUT_S, Had, grow, more_memory
from airflow_batch_ros.causes import Cause
from airflow_batch_ros.jobs import Sizes, SubmitOptions, submit_request
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.stack.parameters import FARGATE_MEMORY_MIB
from ros_to_parquet.contract import Generation, JobRecord
from tests.provider.builders import bag, plan

OPTIONS = SubmitOptions("queue", "definition")
MOST = OPTIONS.max_memory_mib


@pytest.mark.parametrize(
    ("memory_mib", "vcpus", "fargate", "at_most", "more"),
    [
        (4096, 2.0, False, MOST, (8192, None)),
        (100_000, 2.0, False, MOST, (MOST, None)),
        (200_000, 2.0, False, MOST, (200_000, None)),  # never less than before
        (4096, 1.0, True, MOST, (8192, None)),
        (8192, 1.0, True, MOST, (16_384, 2.0)),
        (16_384, 2.0, True, MOST, (32_768, 8.0)),
        (512, 0.25, True, MOST, (1024, None)),
        (61_440, 8.0, True, MOST, (122_880, 16.0)),
        (122_880, 16.0, True, MOST, (122_880, None)),
        (8192, 1.0, True, 10_240, (10_240, 2.0)),
    ],
)
def test_memory_doubles_within_what_there_is(
    memory_mib: int, vcpus: float, fargate: bool, at_most: int, more: tuple[int, float | None]
) -> None:
    assert more_memory(memory_mib, vcpus, fargate=fargate, at_most=at_most) == more


@pytest.mark.parametrize("vcpus", FARGATE_MEMORY_MIB)
def test_whatever_fargate_has_leads_to_what_it_has(vcpus: str) -> None:
    for memory_mib in FARGATE_MEMORY_MIB[vcpus]:
        size, count = more_memory(memory_mib, float(vcpus), fargate=True, at_most=MOST)
        assert size in FARGATE_MEMORY_MIB[f"{float(vcpus) if count is None else count:g}"]
        assert size >= min(2 * memory_mib, MOST)


def after(
    cause: Cause, last: Sizes | None = None, *, had: Had | None = None, often: int = 0, **options: Any
) -> tuple[Sizes, list[str]]:
    given = Had(memory_mib=4096, vcpus=2.0, timeout_s=3600)
    return grow(had or given, last or Sizes(), {cause: 3}, SubmitOptions("q", "d", **options), often=often)


def test_what_ran_out_is_doubled_and_nothing_else() -> None:
    assert after(Cause.OUT_OF_MEMORY) == (Sizes(8192), ["3 shards ran out of memory: 8192 MiB after 4096"])
    assert after(Cause.TIMEOUT) == (Sizes(timeout_s=7200), ["3 shards ran out of time: 7200 s after 3600"])
    assert after(Cause.ENGINE_ERROR) == (Sizes(), [])
    most = after(Cause.TIMEOUT, had=Had(timeout_s=MAX_TIMEOUT_S - 1))[0]
    assert most.timeout_s == MAX_TIMEOUT_S


def test_what_was_given_stays_unless_no_machine_has_it() -> None:
    last = Sizes(8192, 2.0, 7200)
    assert after(Cause.THROTTLED, last, had=Had(8192, 2.0, 7200)) == (last, [])
    assert after(Cause.STUCK_IN_RUNNABLE, last)[0] == Sizes(timeout_s=7200)


def test_what_the_run_asks_for_counts_where_it_is_more() -> None:
    assert after(Cause.OUT_OF_MEMORY, memory_mib=16_384)[0] == Sizes()
    assert after(Cause.OUT_OF_MEMORY, memory_mib=6000)[0] == Sizes(8192)


def test_where_batch_has_forgotten_the_job() -> None:
    assert after(Cause.OUT_OF_MEMORY, Sizes(8192), had=Had())[0] == Sizes(16_384)
    assert after(Cause.OUT_OF_MEMORY, had=Had(), memory_mib=1000)[0] == Sizes(2000)
    sizes, (said,) = after(Cause.OUT_OF_MEMORY, had=Had())
    assert (sizes, said) == (
        Sizes(),
        "3 shards ran out of memory, and Batch no longer says how much that was",
    )
    assert after(Cause.TIMEOUT, had=Had())[0] == Sizes()


def test_what_is_reclaimed_again_and_again_goes_where_it_is_not() -> None:
    sizes, said = after(Cause.SPOT_RECLAIM, often=1, on_demand_queue="steady")
    assert (sizes, said) == (
        Sizes(job_queue="steady"),
        ["1 shard was reclaimed twice or more: to queue steady"],
    )
    assert after(Cause.ENGINE_ERROR, sizes, often=1, on_demand_queue="steady") == (sizes, [])
    assert after(Cause.SPOT_RECLAIM, on_demand_queue="steady") == (Sizes(), [])


class Described:
    """Knows every job by a description that is as large as they are."""

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        attempts = [{"statusReason": "Host EC2 (instance i-1) terminated."}] * 2
        return {"jobs": [{"jobId": each, "attempts": attempts, "container": "x" * 20_000} for each in jobs]}


def test_descriptions_of_thousands_of_shards_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = tuple(range(3000))
    made = plan([bag("a.bag")])
    record = JobRecord(made.plan_id, 0, "job", "name", "queue", len(shards))
    lake = SimpleNamespace(load=lambda *_: Generation(1, made.plan_id, 0, shards))
    monkeypatch.setattr(adapt, "recorded_jobs", lambda *_: [record])
    tracemalloc.start()
    try:
        assert adapt._reclaimed_often(cast(Any, Described()), cast(Any, lake), made, shards) == len(shards)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_the_request_of_a_generation_with_sizes() -> None:
    made = plan([bag("a.bag")])
    lake = Lake(cast(Any, None), made.output)
    generation, sizes = Generation(1, made.plan_id, 1, (0,)), Sizes(8192, 4.0, 7200, "steady")
    kinds = (("GPU", "1"), ("MEMORY", "4096"))
    extra = {
        "timeout": {"attemptDurationSeconds": 3600},
        "containerOverrides": {"resourceRequirements": [{"type": kind, "value": n} for kind, n in kinds]},
    }
    options = SubmitOptions("queue", "definition", extra=extra)
    request = submit_request(lake, made, generation, options, sizes=sizes)
    assert (request["jobQueue"], request["timeout"]) == ("steady", {"attemptDurationSeconds": 7200})
    assert {
        each["type"]: each["value"] for each in request["containerOverrides"]["resourceRequirements"]
    } == {
        "GPU": "1",
        "MEMORY": "8192",
        "VCPU": "4",
    }
    own = submit_request(
        lake, made, generation, options, sizes=sizes.but(("memory_mib", "vcpus", "job_queue"))
    )
    assert (own["jobQueue"], own["timeout"]) == ("queue", {"attemptDurationSeconds": 7200})
    assert (
        own["containerOverrides"]["resourceRequirements"]
        == extra["containerOverrides"]["resourceRequirements"]
    )
