"""The DAG `ros_image_pipeline` run for real: Airflow, its database, S3, Batch and the engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros.assets import DRIVES_ALIAS, LakeDrive
from airflow_batch_ros.jobs import describe
from airflow_batch_ros.local import JobEnds
from ros_to_parquet.contract import fleet_key, frames_key
from tests.provider.bags import MESSAGES, UNREADABLE, cut_off, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import DAGS
from tests.provider.runs import asset_events, query, run

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

pytestmark = pytest.mark.airflow

NOTHING_SUBMITTED = {"submit": "failed", "wait": "upstream_failed", "announce": "success"}
ALL_GOOD = {"submit": "success", "wait": "success", "announce": "success"}


@pytest.fixture
def dag(airflow_database: None) -> Any:
    """Parsed anew for each test: Airflow 2's ``test`` leaves the run's conf in the DAG's params."""
    from runpy import run_path

    return run_path(str(DAGS / "ros_image_pipeline.py"))["dag"]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, bucket: str, definitions: dict[str, str]) -> None:
    """What an installation sets once."""
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT", f"s3://{bucket}/lake")
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_JOB_DEFINITION", definitions["good"])


def drives(bucket: str, *names: str) -> dict[str, Any]:
    return {name: {"bucket": bucket, "prefix": f"raw/{name}"} for name in names}


def test_a_plain_conf_is_enough(dag: Any, s3: S3Client, bucket: str, variables: None) -> None:
    put(s3, bucket, "raw/drive_1/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/drive_10/b.bag", body=ros1_bag(first=100))
    conf = {"drives_to_process": drives(bucket, "drive_1", "drive_10")}
    state, tasks, returned = run(dag, conf)
    assert (state, tasks) == ("success", ALL_GOOD)
    assert [entry["work"] for entry in returned["submit"]] == ["submitted", "submitted"]
    totals = returned["wait"]["totals"]
    assert (totals["states"], totals["rows"]) == ({"succeeded": 2}, 2 * MESSAGES)
    events = asset_events(DRIVES_ALIAS, f"s3://{bucket}/lake")
    assert [LakeDrive.from_extra(event).as_dict() for event in events] == [
        {
            "drive_id": drive["drive_id"],
            "state": "succeeded",
            "source": f"s3://{bucket}/raw/{drive['drive_id']}/",
            "output": f"s3://{bucket}/lake",
            "plan_id": drive["plan_id"],
            "manifest": f"s3://{bucket}/lake/_manifests/drive_id={drive['drive_id']}/{drive['plan_id']}/drive.json",
            "bags": 1,
            "messages": MESSAGES,
            "rows": MESSAGES,
            "rejected": 0,
            "tables": {"temperature": MESSAGES},
            "bytes_read": drive["bytes_read"],
            "bytes_written": drive["bytes_written"],
            "report": f"s3://{bucket}/lake/_reports/drive_id={drive['drive_id']}/report.html",
            "console_url": drive["console_url"],
        }
        for drive in returned["wait"]["drives"]
    ]
    assert all(event["bytes_read"] > 0 and event["bytes_written"] > 0 for event in events)
    assert all("batch/home" in event["console_url"] for event in events)

    # The same again: there is nothing to do, and that is no failure.
    state, tasks, returned = run(dag, conf)
    assert (state, tasks) == ("success", ALL_GOOD)
    assert [entry["work"] for entry in returned["submit"]] == ["nothing", "nothing"]
    assert returned["wait"]["totals"]["rows"] == 2 * MESSAGES
    (report, _) = (drive["report"] for drive in returned["wait"]["drives"])
    assert report == f"s3://{bucket}/lake/_reports/drive_id=drive_1/report.html", "of the run before"
    assert len(asset_events(DRIVES_ALIAS, f"s3://{bucket}/lake")) == 2, "nothing new, so nothing to announce"


def test_every_optional_key(dag: Any, aws: EmbeddedAws, s3: S3Client, bucket: str, variables: None) -> None:
    database = bucket.replace("-", "_")
    put(s3, bucket, "raw/drive_1/deep/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/drive_1/deep/b.bag", body=ros1_bag(topic="/other"))
    put(s3, bucket, "raw/drive_1/deep/no.bag", body=UNREADABLE)
    put(s3, bucket, "packages/car_msgs/msg/Wheel.msg", body=b"uint8 side")
    state, _, returned = run(
        dag,
        {
            "drives_to_process": drives(bucket, "drive_1"),
            "topics": {"include": ["/temp*"], "exclude": ["/nothing"]},
            "bags": {"exclude": ["*/no.bag"]},
            "output": f"s3://{bucket}/elsewhere",
            "recursive": True,
            "overwrite": True,
            "fail_on": ["failed", "partial", "damaged"],
            "ros_distro": "humble",
            "msg_path": [f"s3://{bucket}/packages/"],
            "pointcloud": "decoded",
            "images": {"/cam*": "png", "/camera": {"form": "recorded"}},
            "report": False,
            "catalog": {"kind": "glue", "database": database},
            "sync": {"reference": "/temperature", "topics": {"/nowhere": {}}},
        },
    )
    assert state == "success"
    assert s3.head_object(Bucket=bucket, Key=f"elsewhere/{frames_key('frames', 'drive_1')}")["ContentLength"]
    assert s3.head_object(Bucket=bucket, Key=f"elsewhere/{fleet_key('topics', 'drive_1')}")["ContentLength"]
    tables = aws.client("glue").get_tables(DatabaseName=database)["TableList"]
    assert {table["Name"].partition("___")[0] for table in tables} == {"fleet", "temperature"}
    (drive,) = returned["wait"]["drives"]
    assert [
        (each["step"], each["state"]) for each in drive["finish"] if each["step"] in ("fleet", "catalog")
    ] == [
        ("fleet", "done"),
        ("catalog", "done"),
    ]
    assert drive["output"] == f"s3://{bucket}/elsewhere"
    assert [table["table"] for table in drive["tables"]] == ["temperature"]
    assert (drive["bags"], drive["ignored"]) == (2, 1)


def test_a_drive_whose_bags_are_broken(dag: Any, s3: S3Client, bucket: str, variables: None) -> None:
    put(s3, bucket, "raw/good/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/short/a.bag", body=cut_off(ros1_bag(messages=2000)))
    put(s3, bucket, "raw/junk/a.bag", body=UNREADABLE)
    state, tasks, returned = run(
        dag, {"drives_to_process": drives(bucket, "good", "junk", "short"), "report": False, "fleet": False}
    )
    assert (state, tasks) == ("failed", {**ALL_GOOD, "wait": "failed"})
    summary = returned["wait"]
    assert {drive["drive_id"]: drive["state"] for drive in summary["drives"]} == {
        "good": "succeeded",
        "junk": "failed",
        "short": "damaged",
    }
    assert summary["totals"]["rows"] > MESSAGES, "of the broken ones what could be read is there"
    # What is in the lake is announced, though the run failed.
    events = asset_events(DRIVES_ALIAS, f"s3://{bucket}/lake")
    assert [(event["drive_id"], event["state"]) for event in events] == [
        ("good", "succeeded"),
        ("short", "damaged"),
    ]


def test_clearing_runs_what_failed_alone_and_with_more_memory(
    dag: Any, aws: EmbeddedAws, s3: S3Client, bucket: str, variables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the same id is what clearing all of its tasks makes of it."""
    from airflow.models.dagrun import DagRun

    monkeypatch.setattr(DagRun, "generate_run_id", lambda *_, **__: f"cleared-{bucket}")
    put(s3, bucket, "raw/drive_1/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/drive_2/b.bag", body=ros1_bag(first=100))
    conf = {"drives_to_process": drives(bucket, "drive_1", "drive_2"), "report": False, "fleet": False}
    when = datetime(2026, 1, 1, tzinfo=UTC)
    with aws.faults(JobEnds(job="drive_2-*", exit_code=137)):
        state, tasks, returned = run(dag, conf, logical_date=when)
    assert (state, tasks["submit"], tasks["wait"]) == ("failed", "success", "failed")
    assert returned["wait"]["totals"]["causes"] == {"out_of_memory": 1}
    first = returned["submit"]
    state, tasks, returned = run(dag, conf, logical_date=when)
    assert (state, tasks) == ("success", ALL_GOOD)
    one, two = returned["submit"]
    assert [one["plan_id"], two["plan_id"]] == [job["plan_id"] for job in first], "the same run"
    assert (one["work"], one["job_id"]) == ("done", first[0]["job_id"])
    assert (two["work"], two["generation"]) == ("submitted", 1)
    detail = describe(aws.client("batch"), [two["job_id"]])[two["job_id"]]
    assert {"type": "MEMORY", "value": "1024"} in detail["container"]["resourceRequirements"]
    assert returned["wait"]["totals"]["rows"] == 2 * MESSAGES


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"drives_to_process": {}},
        {"drives_to_process": {"drive 1": {"bucket": "raw-data", "prefix": "x/"}}},
        {"drives_to_process": {"drive_1": {"bucket": "raw-data"}}},
        {"drives_to_process": {"drive_1": {"bucket": "raw-data", "prefix": "x/"}}, "fail_on": ["broken"]},
        {"drives_to_process": {"drive_1": {"bucket": "raw-data", "prefix": "x/"}}, "ros_distro": "hydra"},
    ],
)
def test_a_bad_conf_is_refused_before_anything_runs(dag: Any, conf: dict[str, Any], variables: None) -> None:
    with pytest.raises(Exception, match=r"Invalid input for param|No value passed") as caught:
        run(dag, conf)
    assert type(caught.value).__name__ == "ParamValidationError"


def test_what_the_schema_cannot_say_fails_the_first_task(dag: Any, bucket: str, variables: None) -> None:
    twice = {name: {"bucket": bucket, "prefix": "raw/same"} for name in ("a", "b")}
    state, tasks, _ = run(dag, {"drives_to_process": twice, "overwritte": True})
    assert (state, tasks) == ("failed", NOTHING_SUBMITTED)


def test_a_dag_of_ones_own(
    airflow_database: None, s3: S3Client, bucket: str, definitions: dict[str, str], gate: Path
) -> None:
    """Its jobs begin when the sensor was rescheduled twice: each poke is a task of its own."""
    from runpy import run_path

    put(s3, bucket, "raw/one/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/two/a.bag", body=UNREADABLE)
    own = run_path(str(DAGS / "own_dag.py"))["dag"]
    earlier, given_up = pokes(), Event()

    def open_the_gate() -> None:
        while pokes() < earlier + 2 and not given_up.wait(0.2):
            pass
        gate.touch()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(open_the_gate)
        try:
            state, tasks, returned = run(own, {"bucket": bucket, "job_definition": definitions["gated"]})
        finally:
            given_up.set()
    assert (state, set(tasks.values())) == ("success", {"success"})
    assert returned["wait"]["totals"]["states"] == {"succeeded": 1, "failed": 1}, "it fails on damaged alone"
    assert pokes() >= earlier + 2


def pokes() -> int:
    """How often a sensor was rescheduled."""
    ((number,),) = query("select count(*) from task_reschedule")
    return int(number)


@pytest.mark.skipif(not version("apache-airflow").startswith("2."), reason="Airflow 3 asks its API")
def test_on_airflow_2_the_trigger_reads_the_tasks_state_from_the_database(
    dag: Any, s3: S3Client, bucket: str, variables: None
) -> None:
    from airflow_batch_ros.triggers.batch import _task_state

    put(s3, bucket, "raw/good/a.bag", body=ros1_bag())
    done = dag.test(run_conf={"drives_to_process": drives(bucket, "good")})
    asked = {"dag_id": done.dag_id, "run_id": done.run_id, "map_index": -1}
    assert _task_state(SimpleNamespace(task_id="wait", **asked)) == "success"
    assert _task_state(SimpleNamespace(task_id="none", **asked)) is None


def test_a_drive_without_bags_submits_nothing(dag: Any, s3: S3Client, bucket: str, variables: None) -> None:
    put(s3, bucket, "raw/good/a.bag", body=ros1_bag())
    state, tasks, _ = run(dag, {"drives_to_process": drives(bucket, "good", "empty")})
    assert (state, tasks) == ("failed", NOTHING_SUBMITTED)
    assert not s3.list_objects_v2(Bucket=bucket, Prefix="lake/").get("Contents")
