"""What containers cost: the price table, what a run is foreseen to cost, and what it has cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from airflow_batch_ros import cost
from airflow_batch_ros.commands import plan as plan_command
from airflow_batch_ros.conf import DriveSource
from airflow_batch_ros.cost import Ended, Planned, Usage, measure, usage_of
from airflow_batch_ros.estimate import (
    DEFAULT_MB_PER_S,
    DEFAULT_PACKED_MB_PER_S,
    LEARN_REQUESTS,
    Estimator,
    Speeds,
    learn_speeds,
)
from airflow_batch_ros.fanout import PROBLEMS_SHOWN, Look
from airflow_batch_ros.jobs import SubmitOptions, Work, drive_job
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.pace import Pace
from airflow_batch_ros.prices import Prices, price_of
from airflow_batch_ros.pricing import (
    Containers,
    Machines,
    find_containers,
    find_machines,
    find_missing,
    on_queue,
)
from ros_to_parquet import contract
from ros_to_parquet.contract import ExtractOptions, JobRecord, Plan, Pricing
from tests.provider.bags import ros1_bag
from tests.provider.builders import bag, manifest, plan, put, save_manifests, save_plan
from tests.provider.test_commands import Shell, shell
from tests.provider.test_fanout import QUEUE, SMALL
from tests.provider.test_load import counted_calls

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

__all__ = ["shell"]

FARGATE = Pricing("FARGATE", "us-east-1", "X86_64", "a", 2.0, 4.0, 0.04, 0.004, "USD", "list", 60.0)
HOURLY = 2 * 0.04 + 4 * 0.004
MB = 1_000_000


def price(platform: str, *, vcpus: float = 2, memory_gb: float = 8, **changes: Any) -> tuple[float, float]:
    where = {"region": "us-east-1", "architecture": "X86_64", **changes}
    found = price_of(platform, vcpus=vcpus, memory_gb=memory_gb, **where)
    return found.vcpu_hour, found.gb_hour


# --- prices -----------------------------------------------------------------------------------------


def test_the_table_has_a_date_and_says_whose_prices_it_took() -> None:
    table = json.loads(Path(cost.__file__).with_name("prices.json").read_text())
    found = price_of("FARGATE", region="eu-central-1", architecture="X86_64", vcpus=2, memory_gb=4)
    assert (found.origin, found.currency) == (f"AWS list, eu-central-1, {table['as_of']}", "USD")
    assert [found.vcpu_hour, found.gb_hour] == table["fargate"]["eu-central-1"]
    other = price_of("FARGATE", region="mars-1", architecture="X86_64", vcpus=2, memory_gb=4)
    assert other.origin == f"AWS list, us-east-1, {table['as_of']} (of mars-1 none is known)"
    own = price_of(
        "SPOT", region="x", architecture="ARM64", vcpus=1, memory_gb=1, own=Prices(0.5, 0.25, "EUR")
    )
    assert (own.vcpu_hour, own.gb_hour, own.currency, own.origin) == (0.5, 0.25, "EUR", "as said")


def test_spot_and_arm_are_cheaper_and_memory_has_its_price_on_ec2_too() -> None:
    vcpu, gb = price("FARGATE")
    for platform, architecture in (
        ("FARGATE_SPOT", "X86_64"),
        ("FARGATE", "ARM64"),
        ("FARGATE_SPOT", "ARM64"),
    ):
        less_vcpu, less_gb = price(platform, architecture=architecture)
        assert (less_vcpu < vcpu, less_gb < gb) == (True, True)
    compute, general, memory, much = (price("EC2", memory_gb=gb)[0] for gb in (4, 8, 16, 64))
    assert compute < general < memory
    assert much == pytest.approx(4 * memory)
    assert price("EC2")[1] == 0
    assert price("SPOT")[0] < general
    assert price("EC2", region="sa-east-1")[0] > general


# --- what containers are ----------------------------------------------------------------------------


def denied(operation: str) -> ClientError:
    return ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, operation)


class Asked:
    """A Batch of queues and compute environments, and of job definitions where there is one."""

    def __init__(
        self, environments: Mapping[str, Mapping[str, Any]], *, definition: Mapping[str, Any] | None = None
    ) -> None:
        self.environments = environments
        self.definition = definition
        self.meta = type("Meta", (), {"region_name": "us-east-1"})

    def describe_job_queues(self, jobQueues: list[str]) -> Any:  # noqa: N803
        order = [
            {"order": -number, "computeEnvironment": name} for number, name in enumerate(self.environments)
        ]
        return {"jobQueues": [{"jobQueueName": jobQueues[0], "computeEnvironmentOrder": order}]}

    def describe_compute_environments(self, computeEnvironments: list[str]) -> Any:  # noqa: N803
        found = [
            {"computeEnvironmentName": name, "computeResources": self.environments[name]}
            for name in sorted(computeEnvironments)
        ]
        return {"computeEnvironments": found}

    def get_paginator(self, _: str) -> Any:
        definitions = [{"revision": 1, **self.definition}] if self.definition else []
        return type("Pages", (), {"paginate": lambda *_, **__: [{"jobDefinitions": definitions}]})()


def machines(environments: Mapping[str, Mapping[str, Any]]) -> Machines | None:
    return find_machines(Asked(environments), "queue", say=print)  # type: ignore[arg-type]


def test_what_a_queue_runs_on() -> None:
    fargate = {"type": "FARGATE", "maxvCpus": 64}
    spot = {"type": "FARGATE_SPOT", "maxvCpus": 16}
    graviton = {"type": "SPOT", "maxvCpus": 8, "instanceTypes": ["m7g.large", "c7gn"]}
    intel = {"type": "EC2", "maxvCpus": 8, "instanceTypes": ["m7i", "default_x86_64", "g5.xlarge"]}
    assert machines({"b": fargate}) == Machines("FARGATE", "", 64)
    assert machines({"b": fargate, "a": spot}) == Machines(
        "FARGATE_SPOT", "", 80
    )  # the last one's order is least
    assert machines({"a": graviton}) == Machines("SPOT", "ARM64", 8)
    assert machines({"a": intel}) == Machines("EC2", "", 8)
    assert machines({"a": {"type": "UNMANAGED"}}) is None
    assert machines({}) is None


def test_the_containers_of_a_run(batch: BatchClient, definitions: dict[str, str]) -> None:
    options = SubmitOptions(QUEUE, definitions["good"])
    found = find_containers(batch, options, own=None, say=print)
    assert found is not None
    assert found.max_vcpus == 256
    assert (found.pricing.platform, found.pricing.region) == ("FARGATE", batch.meta.region_name)
    assert (found.pricing.vcpus, found.pricing.memory_gb, found.pricing.least_s) == (1.0, 0.5, 60.0)
    larger = find_containers(batch, replace(options, vcpus=4, memory_mib=8192), own=Prices(1, 2), say=print)
    assert larger is not None
    assert (larger.pricing.vcpus, larger.pricing.memory_gb) == (4.0, 8.0)
    assert contract.container_cost(larger.pricing, 3600) == pytest.approx(4 * 1 + 8 * 2)
    extra = {"containerOverrides": {"resourceRequirements": [{"type": "MEMORY", "value": "2048"}]}}
    said = find_containers(batch, replace(options, memory_mib=4096, extra=extra), own=None, say=print)
    assert said is not None
    assert said.pricing.memory_gb == 2.0
    assert find_containers(batch, SubmitOptions(QUEUE, "no-such-definition"), own=None, say=print) is None


def test_what_may_not_be_asked_is_said_and_taken_as_on_demand() -> None:
    definition = {
        "platformCapabilities": ["FARGATE"],
        "containerProperties": {
            "vcpus": 2,
            "memory": 4096,
            "runtimePlatform": {"cpuArchitecture": "ARM64"},
        },
    }
    asked = Asked({"a": {"type": "FARGATE_SPOT"}}, definition=definition)
    options = SubmitOptions("arn:aws:batch:x:1:job-queue/q", "d")
    said: list[str] = []
    found = find_containers(asked, options, own=None, say=said.append)  # type: ignore[arg-type]
    assert found is not None
    assert (found.pricing.platform, found.pricing.architecture, said) == ("FARGATE_SPOT", "ARM64", [])

    def refuse(**_: Any) -> Any:
        raise denied("DescribeJobQueues")

    asked.describe_job_queues = refuse  # type: ignore[method-assign, assignment]
    found = find_containers(asked, options, own=None, say=said.append)  # type: ignore[arg-type]
    assert found is not None
    assert (found.pricing.platform, found.max_vcpus) == ("FARGATE", None)
    (line,) = said
    assert (
        "may not ask what queue q runs on (batch:DescribeJobQueues): costs are reckoned as on demand" in line
    )
    assert find_missing(asked, options) == []  # type: ignore[arg-type]
    asked.definition = None
    assert find_missing(asked, options) == ["job definition 'd'"]  # type: ignore[arg-type]


def test_a_size_of_nothing_is_for_batch_to_refuse() -> None:
    asked: Any = Asked({"a": {"type": "EC2"}}, definition={"containerProperties": {"vcpus": 2, "memory": 64}})
    found = find_containers(asked, SubmitOptions("q", "d", vcpus=0, memory_mib=0), own=None, say=print)
    assert found is not None
    assert (found.pricing.vcpus, found.pricing.memory_gb) == (2.0, 0.0625)


def test_another_queue_has_other_prices() -> None:
    asked: Any = Asked({"a": {"type": "FARGATE_SPOT"}})
    assert on_queue(asked, FARGATE, "a", say=print) is FARGATE
    spot = on_queue(asked, FARGATE, "b", say=print)
    assert (spot.platform, spot.job_queue, spot.is_spot) == ("FARGATE_SPOT", "b", True)
    assert spot.vcpu_hour < FARGATE.vcpu_hour
    own = on_queue(asked, replace(FARGATE, origin="as said"), "b", say=print)
    assert (own.is_spot, own.vcpu_hour, own.gb_hour) == (True, 0.04, 0.004)


# --- the estimate -----------------------------------------------------------------------------------


def estimator(speeds: Speeds | None = None, *, max_vcpus: int | None = None, **changes: Any) -> Estimator:
    return Estimator(Containers(replace(FARGATE, **changes), max_vcpus), speeds or Speeds())


def test_time_and_cost_are_by_bytes_format_speed_and_the_containers() -> None:
    made = plan([bag("a.bag", 7000 * MB), bag("b.mcap", 6000 * MB), bag("c.db3.gz", 10 * MB)])
    found = estimator().estimate(made)
    seconds = [
        32 + 7000 / DEFAULT_MB_PER_S["rosbag1"] / 2,
        32 + 6000 / DEFAULT_MB_PER_S["mcap"] / 2,
        60,  # what Fargate bills at least
    ]
    assert found.container_seconds == pytest.approx(sum(seconds))
    assert found.seconds == pytest.approx(max(seconds))
    assert found.cost == pytest.approx(sum(seconds) / 3600 * HOURLY)
    assert found.largest_shard_bytes == 7000 * MB
    faster = estimator(Speeds({"rosbag1": 350.0}, 1)).estimate(made)
    assert faster.container_seconds == pytest.approx(60 + seconds[1] + 60)
    assert Speeds().of("archive") == DEFAULT_PACKED_MB_PER_S
    assert estimator().estimate(plan([])).cost == 0


def test_a_run_takes_as_long_as_its_queue_needs() -> None:
    made = [estimator().estimate(plan([bag("a.bag", 7000 * MB)])) for _ in range(8)]
    one = made[0].seconds
    assert estimator().wall_seconds(made) == one
    assert estimator(max_vcpus=8).wall_seconds(made) == pytest.approx(2 * one)  # four at a time
    assert estimator(max_vcpus=1000).wall_seconds(made) == one


@pytest.fixture
def lake(s3: S3Client, bucket: str) -> Lake:
    return Lake(s3, f"s3://{bucket}/lake")


def leave(lake: Lake, drive_id: str, made: Plan, *, seconds: float, vcpus: float | None = 2.0) -> None:
    """A drive that has been extracted in so many seconds a shard."""
    pricing = replace(FARGATE, vcpus=vcpus) if vcpus else None
    own = replace(made, drive_id=drive_id, output=lake.output, pricing=pricing)
    own = replace(own, plan_id=contract.make_plan_id(own.run, drive_id))
    save_plan(lake, own)
    manifests = [manifest(own, shard, seconds=seconds) for shard in range(len(own.shards))]
    save_manifests(lake, manifests, commit_of=own)


def test_speeds_are_learned_from_the_lake(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert learn_speeds(lake, ["car_1"], ExtractOptions(), vcpus=1) == Speeds()
    two_bags = plan([bag("a.bag", 100 * MB), bag("b.bag", 300 * MB)])
    leave(lake, "car_1", two_bags, seconds=10)  # 400 MB in 20 s by 2 vCPUs
    leave(lake, "car_2", plan([bag("a.mcap", 100 * MB)]), seconds=2, vcpus=None)
    learned = learn_speeds(lake, ["car_1", "car_9"], ExtractOptions(), vcpus=1)
    assert learned == Speeds({"rosbag1": 10.0}, 1)
    assert (learned.origin("rosbag1"), learned.origin("mcap")) == ("learned", "default")
    # Drives that the lake has nothing of learn from others.
    assert learn_speeds(lake, ["car_9"], ExtractOptions(), vcpus=1) == Speeds(
        {"rosbag1": 10.0, "mcap": 50.0}, 2
    )
    # A drive of several formats teaches none; one of other topics teaches by what was read.
    leave(lake, "car_3", plan([bag("a.mcap", 100 * MB), bag("a.bag", 120 * MB)]), seconds=1)
    assert learn_speeds(lake, ["car_3"], ExtractOptions(), vcpus=1) == Speeds()
    assert learn_speeds(lake, ["car_1"], ExtractOptions(("/x",)), vcpus=1) == Speeds()  # 200 bytes
    # Most of the time of small shards is no reading.
    leave(lake, "car_4", plan([bag("a.bag", MB), bag("b.bag", 120 * MB)]), seconds=5)
    assert learn_speeds(lake, ["car_4"], ExtractOptions(), vcpus=1) == Speeds()
    for number in range(20):
        leave(lake, f"van_{number}", two_bags, seconds=number + 1)
    with counted_calls(monkeypatch) as calls:
        assert learn_speeds(lake, [], ExtractOptions(), vcpus=1).drives > 5
    assert sum(calls.values()) <= LEARN_REQUESTS


# --- what it has cost -------------------------------------------------------------------------------


def attempt(start_s: float, stop_s: float | None, code: int | None = 0) -> dict[str, Any]:
    times = {"startedAt": int(start_s * 1000), "stoppedAt": int(stop_s * 1000)} if stop_s else {}
    return {**times, "container": {} if code is None else {"exitCode": code}}


def test_each_attempt_that_ran_is_paid_for() -> None:
    detail = {
        "attempts": [
            attempt(100, 1900, None),  # reclaimed after half an hour
            attempt(0, None),  # its image could not be pulled
            attempt(2000, 5600),
        ],
        "container": {
            "resourceRequirements": [{"type": "VCPU", "value": "4"}, {"type": "MEMORY", "value": "8192"}]
        },
    }
    found = usage_of(detail, FARGATE)
    hourly = 4 * 0.04 + 8 * 0.004
    assert (found.attempts, found.failed_attempts, found.seconds) == (2, 1, 5400)
    assert (found.vcpu_seconds, found.gb_seconds, found.spot_seconds) == (4 * 5400, 8 * 5400, 0)
    assert found.cost == pytest.approx(1.5 * hourly)
    assert found.failed_cost == pytest.approx(0.5 * hourly)
    brief = usage_of({"attempts": [attempt(10, 12)]}, replace(FARGATE, platform="FARGATE_SPOT"))
    assert (brief.seconds, brief.spot_seconds) == (60, 60)
    assert brief.cost == pytest.approx(HOURLY / 60)
    assert usage_of({}, FARGATE) == Usage()


class Described:
    """A Batch whose jobs and children have each run an hour, but for those it has forgotten."""

    def __init__(self, *, forgotten: Sequence[str] = (), fails: bool = False) -> None:
        self.forgotten = forgotten
        self.fails = fails
        self.asked: list[list[str]] = []

    def describe_jobs(self, jobs: list[str]) -> Any:
        self.asked.append(jobs)
        if self.fails:
            raise denied("DescribeJobs")
        known = [job for job in jobs if job not in self.forgotten]
        return {"jobs": [{"jobId": job, "attempts": [attempt(0.001, 3600.001)]} for job in known]}


def ended(drive_id: str, shards: int, *, seconds: float = 60.0) -> tuple[Ended, JobRecord]:
    made = replace(
        plan([bag(f"{number}.bag") for number in range(shards)]), drive_id=drive_id, pricing=FARGATE
    )
    record = JobRecord(made.plan_id, 0, f"job-{drive_id}", drive_id, "a", shards if shards > 1 else 0)
    job = drive_job(made, Work.SUBMITTED, record, submitted_shards=shards, job_queue="a", fail_on=())
    result = contract.fold(made, [manifest(made, shard, seconds=seconds) for shard in range(shards)])
    return Ended(job, Planned(FARGATE, (("0.bag", 75), ("1.bag", 25)), 2, 100), result), record


def costs(
    batch: Described, *drives: tuple[Ended, JobRecord], said: list[str] | None = None
) -> dict[str, Any]:
    records = {drive.place: [record] for drive, record in drives}
    say = (said if said is not None else []).append
    found = measure(batch, [drive for drive, _ in drives], records, say=say, pace=Pace(1e6))  # type: ignore[arg-type]
    return {drive_id: (each.usage.cost, each.by_attempts) for (_, drive_id), each in found.items()}


def test_batch_is_asked_for_a_hundred_at_a_time_of_all_drives_together() -> None:
    batch = Described()
    drives = [ended(f"car_{number}", 1) for number in range(120)] + [ended("long", 250)]
    found = costs(batch, *drives)
    assert [len(jobs) for jobs in batch.asked] == [100, 100, 100, 70]
    assert found["car_7"] == (pytest.approx(HOURLY), True)
    assert found["long"] == (pytest.approx(250 * HOURLY), True)


def test_what_batch_does_not_say_is_by_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    minute = pytest.approx(HOURLY / 60)
    assert costs(Described(forgotten=["job-x"]), ended("x", 1)) == {"x": (minute, False)}
    # Of an array a child or two may be forgotten: what is known of the others is more than the manifests say.
    assert costs(Described(forgotten=["job-x:1"]), ended("x", 3)) == {"x": (pytest.approx(2 * HOURLY), True)}
    said: list[str] = []
    assert costs(Described(fails=True), ended("x", 1), said=said) == {"x": (minute, False)}
    assert "costs are reckoned by manifests, for Batch does not say what ran" in said[0]
    monkeypatch.setattr(cost, "MAX_CHILDREN", 3)
    batch = Described()
    few = costs(batch, ended("x", 2), ended("y", 2), ended("z", 1))
    assert [by_attempts for _, by_attempts in few.values()] == [True, False, True]
    assert batch.asked == [["job-x:0", "job-x:1", "job-z"]]


def test_each_plan_has_its_prices_and_each_lake_its_drive() -> None:
    first, record = ended("x", 1)
    dearer = replace(FARGATE, vcpu_hour=3 * FARGATE.vcpu_hour, gb_hour=3 * FARGATE.gb_hour, currency="EUR")
    second = Ended(
        replace(first.job, output="s3://other"), replace(first.planned, pricing=dearer), first.result
    )
    records = {first.place: [record], second.place: [replace(record, job_id="job-y")] * 2}
    batch: Any = Described()
    found = measure(batch, [first, second], records, say=print, pace=Pace(1e6))
    assert [each.usage.cost for each in found.values()] == pytest.approx([HOURLY, 6 * HOURLY])
    assert {key: each["cost"] for key, each in cost.totals(found.values()).items()} == {
        "USD": pytest.approx(HOURLY),
        "EUR": pytest.approx(6 * HOURLY),
    }


def test_a_queue_that_cannot_be_asked_about_does_not_take_the_summary_with_it() -> None:
    def busy(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "TooManyRequestsException"}}, "DescribeJobQueues")

    drive, record = ended("x", 1)
    batch: Any = Described()
    batch.describe_job_queues = busy
    said: list[str] = []
    assert costs(batch, (drive, replace(record, job_queue="b")), said=said) == {
        "x": (pytest.approx(HOURLY), True)
    }
    assert "costs are reckoned as planned" in said[0]


def test_the_cost_is_shared_out_by_bytes() -> None:
    drive, record = ended("x", 2)
    (found,) = measure(
        Described(),
        [drive],
        {drive.place: [record]},
        say=print,
        pace=Pace(1e6),  # type: ignore[arg-type]
    ).values()
    said = found.as_dict(most_bags=1)
    assert said["cost"] == pytest.approx(2 * HOURLY)
    assert said["bags"] == [{"bag": "0.bag", "cost": pytest.approx(1.5 * HOURLY)}]
    assert (said["bag_count"], said["attempts"], said["by"]) == (2, 2, "attempts")
    assert found.tables(drive.result) == {"imu": pytest.approx(2 * HOURLY)}
    table = drive.result.tables[0]
    two = replace(drive.result, tables=(table, replace(table, table="gps", bytes_in=3 * table.bytes_in)))
    assert found.tables(two)["gps"] == pytest.approx(1.5 * HOURLY)
    old = replace(two, tables=tuple(replace(each, bytes_in=0) for each in two.tables))
    assert found.tables(old)["gps"] == pytest.approx(HOURLY)


# --- commands ---------------------------------------------------------------------------------------


def test_the_slices_of_a_plan_are_counted_once_however_many_bags_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = plan([bag(f"{number}.bag") for number in range(50)])
    source = DriveSource(made.drive_id, "raw", "drive_1/")
    drive = plan_command.Foreseen(Look(source, made), made, None)
    counted: list[Plan] = []
    count = plan_command._slices
    monkeypatch.setattr(plan_command, "_slices", lambda each: counted.append(each) or count(each))
    found = plan_command.as_dict("s3://lake", [drive], [], [], None, bags=True)
    assert [each["slices"] for each in found["drives"][0]["bag_list"]] == [1] * 50
    assert "    drive_1: 49.bag: 0.0 MB" in plan_command.lines([drive], [], None, bags=True)
    assert len(counted) == 2


def test_plan_says_what_a_run_would_do_and_writes_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shell.s3, shell.bucket, "one/d.mcap", body=b"x" * 30_000)
    words = (
        "plan",
        "--conf",
        shell.conf("one", "two"),
        "--job-definition",
        "test-good",
        "--shard-bytes",
        "10000",
    )
    with counted_calls(monkeypatch) as calls:
        done = shell.run(*words, "--bags")
    assert done.code == 0
    assert not {"PutObject", "DeleteObject", "SubmitJob"} & set(calls)
    lines = done.out.splitlines()
    assert lines[0].split() == [
        "drive",
        "bags",
        "in",
        "the",
        "lake",
        "MB",
        "shards",
        "largest",
        "MB",
        "time",
        "cost",
    ]
    assert lines[1].split()[:3] == ["one", "2", "0"]
    assert lines[-1] == "nothing was submitted"
    assert any(line.startswith("2 drives, 4 bags, ") for line in lines)
    assert any("containers: 1 vCPUs, 512 MiB on FARGATE" in line for line in lines)
    assert any(line.strip() == "one: d.mcap: 0.0 MB in 3 slices" for line in lines)
    found = shell.run(*words, "--json", "--bags").json
    (one, two) = found["drives"]
    assert (one["bags"], one["bag_bytes"] > 30_000, one["formats"]) == (2, True, {"rosbag1": 1, "mcap": 1})
    assert one["bag_list"][1] == {"name": "d.mcap", "format": "mcap", "size_bytes": 30_000, "slices": 3}
    assert found["totals"]["shards"] == one["shards"] + two["shards"]
    assert found["totals"]["cost"] == pytest.approx(
        one["estimate"]["cost"] + two["estimate"]["cost"], abs=2e-6
    )
    assert found["containers"]["prices"].startswith("AWS list, us-east-1, 2")
    assert {each["origin"] for each in found["speeds"]} == {"default"}
    assert shell.lake.keys("_plans") == []


def test_plan_says_which_drives_cannot_be_run_beside_the_others(shell: Shell, tmp_path: Path) -> None:
    own = tmp_path / "prices.json"
    own.write_text('{"vcpu_hour": 36.0, "gb_hour": 0, "currency": "EUR"}')
    words = (
        "plan",
        "--conf",
        shell.conf("one", "nothing"),
        "--job-definition",
        "test-good",
        "--prices",
        str(own),
    )
    done = shell.run(*words, "--json")
    assert done.code == 4
    assert "drive 'nothing': no bag directly under" in done.err
    assert (done.json["problems"][0][:16], len(done.json["drives"])) == ("drive 'nothing':", 1)
    assert (done.json["containers"]["prices"], done.json["totals"]["currency"]) == ("as said", "EUR")
    assert done.json["totals"]["cost"] == pytest.approx(0.01 * done.json["totals"]["container_seconds"])
    own.write_text("{}")
    assert "'vcpu_hour': expected a price" in shell.run(*words).err
    own.unlink()
    assert "cannot be read: " in shell.run(*words).err
    unknown = shell.run("plan", "--conf", shell.conf("one"), "--job-definition", "none")
    assert (unknown.code, "neither time nor cost is foreseen" in unknown.out) == (0, True)


def test_plan_says_what_is_not_taken_as_submit_does(shell: Shell) -> None:
    put(shell.s3, shell.bucket, "deep/top.bag", "deep/sub/x.bag", "deep/notes.txt", body=ros1_bag())
    put(shell.s3, shell.bucket, "many/a.bag", *(f"many/{n:03}.txt" for n in range(contract.MAX_REASONS + 3)))
    words = ("--conf", shell.conf("deep", "many", "one"), "--job-definition", "test-good")
    planned, found = shell.run("plan", *words).out.splitlines(), shell.run("plan", *words, "--json").json
    done = shell.run("submit", *words)
    assert done.code == 0
    said = [line for line in done.out.splitlines() if ": not taken, " in line]
    assert sorted(line for line in planned if ": not taken, " in line) == sorted(said)
    assert "drive deep: not taken, 2: notes.txt, sub/" in said
    (deep, many, one) = found["drives"]
    assert (deep["ignored"], deep["not_taken"]) == (2, ["notes.txt", "sub/"])
    assert (many["ignored"], len(many["not_taken"])) == (contract.MAX_REASONS + 3, contract.MAX_REASONS)
    assert (one["ignored"], one["not_taken"]) == (0, [])


def test_plan_bounds_the_drives_that_it_says_something_of() -> None:
    known = (contract.KnownUnreadable("b.bag", "cut off"),)
    made = replace(plan([bag("a.bag")]), ignored=("x.txt",), ignored_count=1, unreadable=known)
    source = DriveSource(made.drive_id, "raw", "drive_1/")
    drives = [plan_command.Foreseen(Look(source, made), made, None)] * (PROBLEMS_SHOWN + 2)
    lines = plan_command.lines(drives, [], None, bags=False)
    assert lines.count("drive drive_1: not taken, 1: x.txt") == PROBLEMS_SHOWN
    assert "and 2 more drives have what is not taken; --json has all" in lines
    assert sum("bag b.bag: not tried again" in line for line in lines) == PROBLEMS_SHOWN
    assert "and 2 more drives have bags that are not tried again; --json has all" in lines


def test_plan_names_a_queue_or_a_definition_that_does_not_exist(shell: Shell) -> None:
    words = ("plan", "--conf", shell.conf("one"))
    queues = ("--job-queue", "nope", "--on-demand-queue", "nowhere")
    done = shell.run(*words, *queues, "--job-definition", "none")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.startswith("! ")] == [
        "! job queue 'nope' does not exist: submit would be refused",
        "! job queue 'nowhere' does not exist: submit would be refused",
        "! job definition 'none' does not exist: submit would be refused",
    ]
    good = shell.run(*words, "--job-definition", "test-good")
    assert "! " not in good.out


def test_plan_of_a_pattern_says_what_is_new(shell: Shell) -> None:
    put(shell.s3, shell.bucket, "empty/readme.txt")
    conf = json.dumps({"drives_to_process": {"bucket": shell.bucket, "prefix": "*/"}, "report": False})
    assert shell.submit("first", "one", more=("--wait", "--poll-seconds", "0.3")).code == 0
    found = shell.run("plan", "--conf", conf, "--json").json
    assert [drive["drive_id"] for drive in found["drives"]] == ["two"]
    reasons = {each["drive_id"]: each["reason"] for each in found["left_out"]}
    assert reasons["one"] == "nothing is new"
    assert "no bag directly under" in reasons["empty"]


def test_a_run_says_what_it_has_cost(shell: Shell) -> None:
    more = ("--wait", "--poll-seconds", "0.3", "--json", "--shard-bytes", str(SMALL))
    done = shell.submit("paid", "one", "two", more=more)
    assert done.code == 0
    assert "about " in done.err
    drives = {drive["drive_id"]: drive for drive in done.json["drives"]}
    one, two = drives["one"]["cost"], drives["two"]["cost"]
    assert (one["by"], one["attempts"], one["failed_attempts"], one["platform"]) == (
        "attempts",
        1,
        0,
        "FARGATE",
    )
    assert (two["attempts"], two["vcpu_seconds"], two["gb_seconds"]) == (2, 120.0, 60.0)  # a minute at least
    assert two["cost"] == pytest.approx(2 * one["cost"], abs=2e-6)
    assert 0 < one["estimated"] < 10 * one["cost"]
    assert [each["bag"] for each in two["bags"]] == ["b.bag", "c.bag"]
    assert sum(each["cost"] for each in two["bags"]) == pytest.approx(two["cost"], abs=2e-6)
    assert sum(each["cost"] for each in drives["two"]["tables"]) == pytest.approx(two["cost"], abs=2e-6)
    total = done.json["totals"]["costs"]["USD"]
    assert (total["attempts"], total["cost"]) == (3, pytest.approx(one["cost"] + two["cost"], abs=2e-6))
    plain = shell.submit("paid", "one", "two", more=more[:-3])
    (head,) = (line for line in plain.out.splitlines() if line.startswith("drive ") and "state" in line)
    assert head.split()[-1] == "cost"
    key = contract.manifest_key("one", contract.make_plan_id(contract.Run("", "paid"), "one"), 0)
    left = shell.lake.load(contract.Manifest, key)
    assert left is not None
    assert left.pricing is not None
    assert left.pricing.vcpus == 1


def test_attempts_that_failed_are_paid_for_too(shell: Shell) -> None:
    put(shell.s3, shell.bucket, "bad/a.bag", body=ros1_bag())
    put(shell.s3, shell.bucket, "bad/b.bag", body=ros1_bag(first=50))
    more = ("--wait", "--poll-seconds", "0.3", "--json", "--shard-bytes", str(SMALL))
    done = shell.submit("hurt", "bad", does="some-fail", more=more)
    (drive,) = done.json["drives"]
    assert (done.code, drive["state"]) == (1, "partial")
    assert (drive["cost"]["attempts"], drive["cost"]["failed_attempts"]) == (2, 1)
    assert drive["cost"]["failed_cost"] == pytest.approx(drive["cost"]["cost"] / 2, abs=2e-6)
    assert drive["cost"]["spot_share"] == 0
