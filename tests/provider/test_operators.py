"""Operator, sensor and trigger, as Airflow calls them, against a real S3 and a Batch with real jobs."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from botocore.exceptions import ClientError

from airflow_batch_ros.assets import lake_drives
from airflow_batch_ros.fanout import KilledError
from airflow_batch_ros.hooks.batch import RosToParquetBatchHook
from airflow_batch_ros.jobs import describe, job_state
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.local import ImageNotFound, JobStuck
from airflow_batch_ros.operators.batch import RosToParquetBatchOperator
from airflow_batch_ros.sensors.batch import RosToParquetBatchSensor
from airflow_batch_ros.triggers import batch as triggers
from airflow_batch_ros.triggers.batch import RosToParquetBatchTrigger
from ros_to_parquet import contract
from tests.engine.installed import install
from tests.engine.sample_bags import write_defined
from tests.provider.bags import MESSAGES, UNREADABLE, cut_off, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import make_context
from tests.provider.waiting import end_all, wait_for_end, wait_until_running

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

pytestmark = pytest.mark.airflow

SMALL = 8000


class Pipeline:
    """Operator and sensor over one bucket."""

    def __init__(self, s3: S3Client, batch: BatchClient, bucket: str, definitions: dict[str, str]) -> None:
        self.s3, self.batch, self.bucket, self.definitions = s3, batch, bucket, definitions
        self.context = make_context(f"run-{bucket}")

    def conf(self, *drives: str, **optional: Any) -> dict[str, Any]:
        raw = {drive: {"bucket": self.bucket, "prefix": drive} for drive in drives}
        return {"drives_to_process": raw, "report": False, "fleet": False, **optional}

    def operator(self, *drives: str, definition: str = "good", **changes: Any) -> RosToParquetBatchOperator:
        settings: dict[str, Any] = {
            "task_id": "submit",
            "conf": self.conf(*drives),
            "output_uri": f"s3://{self.bucket}/lake",
            "job_definition": self.definitions[definition],
            **changes,
        }
        return RosToParquetBatchOperator(**settings)

    def submit(self, *drives: str, **changes: Any) -> list[dict[str, Any]]:
        return self.operator(*drives, **changes).execute(self.context)  # type: ignore[arg-type]

    def sensor(self, jobs: Any, **changes: Any) -> RosToParquetBatchSensor:
        settings = {"task_id": "wait", "jobs": jobs, "deferrable": False, "poke_interval": 0.1, **changes}
        return RosToParquetBatchSensor(**settings)

    def wait(self, jobs: Any, **changes: Any) -> dict[str, Any]:
        summary: dict[str, Any] = self.sensor(jobs, **changes).execute(self.context)  # type: ignore[arg-type]
        return summary

    def put(self, key: str, body: bytes) -> None:
        put(self.s3, self.bucket, key, body=body)

    def state(self, job_id: str) -> str:
        return job_state(describe(self.batch, [job_id]).get(job_id))


@pytest.fixture
def pipeline(
    s3: S3Client, batch: BatchClient, bucket: str, definitions: dict[str, str]
) -> Iterator[Pipeline]:
    made = Pipeline(s3, batch, bucket, definitions)
    made.put("good/a.bag", ros1_bag())
    yield made
    end_all(batch)


# --- operator ---------------------------------------------------------------------------------------


def test_the_operator_returns_an_entry_a_drive_and_stores_links(pipeline: Pipeline) -> None:
    (entry,) = pipeline.submit("good", console_base_url="http://console/")
    assert json.loads(json.dumps(entry)) == entry
    plan_id = contract.make_plan_id(contract.Run("some_dag", f"run-{pipeline.bucket}"), "good")
    lake = f"s3://{pipeline.bucket}/lake"
    assert entry == {
        "drive_id": "good",
        "work": "submitted",
        "source": f"s3://{pipeline.bucket}/good/",
        "output": lake,
        "plan_id": plan_id,
        "plan_uri": f"{lake}/_plans/drive_id=good/{plan_id}/plan.json",
        "job_id": entry["job_id"],
        "job_name": f"good-{plan_id}-g0",
        "job_queue": "ros-to-parquet",
        "generation": 0,
        "array_size": 0,
        "submitted_shards": 1,
        "shards": 1,
        "bags": 1,
        "bag_bytes": len(ros1_bag()),
        "covered": 0,
        "unreadable": 0,
        "ignored": 0,
        "fail_on": ["failed", "partial"],
        "min_success_ratio": 1.0,
        "console_url": f"http://console/batch/home?region=us-east-1#jobs/detail/{entry['job_id']}",
        "estimated_cost": entry["estimated_cost"],
    }
    assert entry["estimated_cost"] > 0
    urls = pipeline.context["ti"].pushed["ros_to_parquet_links"]
    assert urls["Batch job"] == entry["console_url"]
    assert set(urls) == {"Batch job", "Batch logs", "Parquet lake"}


def test_the_conf_comes_from_the_run_and_the_params(pipeline: Pipeline) -> None:
    pipeline.context["params"] = {"fail_on": ["damaged"], "recursive": None, "unrelated": 1}
    pipeline.context["dag_run"] = SimpleNamespace(
        conf=pipeline.conf("good", output=f"s3://{pipeline.bucket}/other")
    )
    (entry,) = pipeline.submit(conf=None)
    assert entry["fail_on"] == ["damaged"]
    assert entry["output"] == f"s3://{pipeline.bucket}/other", "the conf's wins"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"conf": {"drives_to_process": {}}}, "key 'drives_to_process' names no drive"),
        ({"conf": None}, "key 'drives_to_process' is missing"),
        ({"conf": "{"}, "it is text, and not JSON"),
        ({"output_uri": None}, "key 'output': missing, and there is no default (argument output_uri of the"),
        ({"output_uri": "lake"}, "argument 'output_uri' of the operator: expected an S3 URI"),
        ({"memory_mib": "much"}, "argument memory_mib: a number is expected, not 'much'"),
        ({"memory_mib": -5}, "argument memory_mib: a number above 0 is expected, not -5"),
        ({"vcpus": "nan"}, "argument vcpus: a number above 0 is expected, not 'nan'"),
        ({"shard_bytes": "many"}, "argument shard_bytes: a number is expected, not 'many'"),
        ({"shard_bytes": math.inf}, "argument shard_bytes: a number is expected, not inf"),
        ({"shard_bytes": 0}, "argument shard_bytes: a number above 0 is expected, not 0"),
        ({"shard_bytes": -1}, "argument shard_bytes: a number above 0 is expected, not -1"),
        ({"tags": "team=a"}, "argument tags: a mapping is expected, not 'team=a'"),
        ({"tags": {"team": None}}, "argument tags: 'team': text is expected, not None"),
        ({"submit_options": ["timeout"]}, "argument submit_options: a mapping is expected, not ['timeout']"),
        ({"submit_options": {"timeOut": {}}}, 'submit_options: Unknown parameter in input: "timeOut", must'),
        (
            {"submit_options": {"timeout": 60}},
            "submit_options: Invalid type for parameter timeout, value: 60",
        ),
        (
            {"submit_options": {"containerOverrides": {"environment": ["A=b"]}}},
            "argument submit_options: Invalid type for parameter containerOverrides.environment[0], value",
        ),
        ({"requester_pays": "False"}, "argument requester_pays: True, False or None is expected, not 'Fal"),
    ],
)
def test_a_bad_conf_fails_without_a_retry(pipeline: Pipeline, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(AirflowFailException) as caught:
        pipeline.submit("good", **changes)
    assert text in str(caught.value)


def test_a_refusal_leaves_no_links_and_says_each_thing_once(pipeline: Pipeline) -> None:
    for changes in ({"conf": {}}, {"conf": pipeline.conf("empty")}):
        with pytest.raises(AirflowFailException) as caught:
            pipeline.submit(**changes)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert pipeline.context["ti"].pushed["ros_to_parquet_links"] == {}, "or Airflow logs errors"


def test_an_aws_that_cannot_be_asked_is_said_in_a_sentence(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AIRFLOW_CONN_AWS_DEFAULT", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with pytest.raises(AirflowException, match="connection 'nowhere': You must specify a region") as caught:
        pipeline.submit("good", aws_conn_id="nowhere")
    assert not isinstance(caught.value, AirflowFailException)


def test_a_misspelt_key_of_the_run_is_refused(pipeline: Pipeline) -> None:
    pipeline.context["dag_run"] = SimpleNamespace(conf=pipeline.conf("good", overwritte=True))
    with pytest.raises(AirflowFailException, match="key 'overwritte' is unknown"):
        pipeline.submit(conf=None)


def test_two_tasks_of_one_run_take_a_drive_to_a_lake_each(pipeline: Pipeline) -> None:
    (one,) = pipeline.submit("good")
    other = f"s3://{pipeline.bucket}/other"
    for work in ("submitted", "adopted"):
        (two,) = pipeline.submit("good", output_uri=other, definition="hang")
        assert (two["work"], two["output"]) == (work, other)
    assert one["job_id"] != two["job_id"]
    with pytest.raises(AirflowFailException, match="that take the drive need lakes of their own"):
        pipeline.submit(conf=pipeline.conf("good", topics={"include": ["/imu"]}))


def test_a_queue_that_is_not_there_fails_without_a_retry(pipeline: Pipeline) -> None:
    with pytest.raises(AirflowFailException, match="Job queue nope does not exist"):
        pipeline.submit("good", job_queue="nope")


def test_a_drive_without_bags_fails_without_a_retry(pipeline: Pipeline) -> None:
    with pytest.raises(AirflowFailException, match="drive 'empty': no bag directly under"):
        pipeline.submit("good", "empty")


def test_a_drive_of_another_run_fails_with_a_retry(pipeline: Pipeline) -> None:
    pipeline.submit("good", definition="hang")
    pipeline.context = make_context("another")
    with pytest.raises(AirflowException, match="has it since") as caught:
        pipeline.submit("good")
    assert not isinstance(caught.value, AirflowFailException)


def test_what_a_job_is_given(pipeline: Pipeline) -> None:
    (entry,) = pipeline.submit(
        "good",
        definition="hang",
        vcpus="0.5",
        memory_mib=1024,
        tags={"team": "perception", "day": 20261120},
        submit_options={"timeout": {"attemptDurationSeconds": 90}},
    )
    detail = describe(pipeline.batch, [entry["job_id"]])[entry["job_id"]]
    given = {each["type"]: each["value"] for each in detail["container"]["resourceRequirements"]}
    assert given == {"VCPU": "0.5", "MEMORY": "1024"}
    assert detail["timeout"] == {"attemptDurationSeconds": 90}
    assert (detail["tags"]["team"], detail["tags"]["day"]) == ("perception", "20261120")


def test_a_killed_operator_ends_what_it_submitted(pipeline: Pipeline) -> None:
    operator = pipeline.operator("good", definition="hang")
    (entry,) = operator.execute(pipeline.context)  # type: ignore[arg-type]
    operator.on_kill()
    wait_for_end(pipeline.batch, [entry["job_id"]])
    assert pipeline.state(entry["job_id"]) == "FAILED"


def test_an_operator_that_is_killed_before_it_began_submits_nothing(pipeline: Pipeline) -> None:
    operator = pipeline.operator("good")
    operator.on_kill()
    with pytest.raises(KilledError):
        operator.execute(pipeline.context)  # type: ignore[arg-type]
    assert Lake(pipeline.s3, f"s3://{pipeline.bucket}/lake").keys("_plans") == []


# --- sensor -----------------------------------------------------------------------------------------


def test_the_report_of_a_drive_is_made_named_and_linked(pipeline: Pipeline) -> None:
    jobs = pipeline.submit(conf=pipeline.conf("good", report=True), console_base_url="http://console/")
    (drive,) = pipeline.wait(jobs)["drives"]
    assert drive["report"] == f"s3://{pipeline.bucket}/lake/_reports/drive_id=good/report.html"
    assert [(step["step"], step["state"]) for step in drive["finish"]] == [("report", "done")]
    key = drive["report"].removeprefix(f"s3://{pipeline.bucket}/")
    page = pipeline.s3.get_object(Bucket=pipeline.bucket, Key=key)["Body"].read().decode()
    assert f"{MESSAGES:,} messages = {MESSAGES:,} rows + 0 rejects" in page
    link = pipeline.context["ti"].pushed["ros_to_parquet_links"]["Drive report"]
    assert link.startswith(
        f"http://console/s3/object/{pipeline.bucket}?region=us-east-1&prefix=lake%2F_reports"
    )


def test_the_summary_of_a_good_run(pipeline: Pipeline) -> None:
    pipeline.put("more/x.bag", ros1_bag(first=50))
    pipeline.put("more/y.bag", ros1_bag(first=90, topic="/outside"))
    pipeline.put("more/notes.txt", b"")
    jobs = pipeline.submit("good", "more", shard_bytes=str(SMALL))
    summary = pipeline.wait(jobs)
    assert json.loads(json.dumps(summary)) == summary
    good, more = summary["drives"]
    assert more == {
        "drive_id": "more",
        "state": "succeeded",
        "failed": False,
        "work": "submitted",
        "source": f"s3://{pipeline.bucket}/more/",
        "output": f"s3://{pipeline.bucket}/lake",
        "plan_id": jobs[1]["plan_id"],
        "manifest": f"s3://{pipeline.bucket}/lake/_manifests/drive_id=more/{jobs[1]['plan_id']}/drive.json",
        "job_id": jobs[1]["job_id"],
        "job_state": "SUCCEEDED",
        "job_seconds": more["job_seconds"],
        "console_url": jobs[1]["console_url"],
        "bags": 2,
        "damaged_bags": 0,
        "unreadable_bags": 0,
        "unverified_bags": 0,
        "covered": 0,
        "ignored": 1,
        "shards": 2,
        "shards_done": 2,
        "messages": 2 * MESSAGES,
        "rows": 2 * MESSAGES,
        "rejected": 0,
        "bytes_read": more["bytes_read"],
        "bytes_written": more["bytes_written"],
        "shard_seconds": more["shard_seconds"],
        "table_count": 2,
        "tables": [
            {
                "table": name,
                "type": "sensor_msgs/Temperature",
                "messages": MESSAGES,
                "rows": MESSAGES,
                "rejected": 0,
                "bytes_written": table["bytes_written"],
                "cost": table["cost"],
            }
            for name, table in zip(("outside", "temperature"), more["tables"], strict=True)
        ],
        "failed_shard_count": 0,
        "causes": {},
        "failed_shards": [],
        "problems": [],
        "drift_count": 0,
        "drift": [],
        "report": None,
        "finish": [],
        "quality": more["quality"],
        "cost": more["cost"],
    }
    found = more["quality"]["findings"]
    assert (more["quality"]["level"], more["quality"]["warn"], len(found)) == ("warn", 2, 2)
    assert found[0].startswith("topic /outside: coverage 0.5 (warn below 0.95)"), "it is in one of two bags"
    assert (more["cost"]["attempts"], more["cost"]["cost"] > 0) == (2, True)
    assert more["job_seconds"] > 0
    assert more["bytes_written"] > 0
    assert good["rows"] == MESSAGES
    totals = summary["totals"]
    assert (totals["drives"], totals["states"], totals["rows"]) == (2, {"succeeded": 2}, 3 * MESSAGES)
    pages = Lake(pipeline.s3, f"s3://{pipeline.bucket}/lake")
    (index, page) = (pages.read(key) for key in pages.keys("_reports") if key.endswith(".html"))
    assert index is not None
    assert page is not None
    assert f"run-{pipeline.bucket}".encode() in index
    assert b">good<" in page
    assert jobs[0]["console_url"].replace("&", "&amp;").encode() in page


def test_a_page_that_cannot_be_written_is_said_and_fails_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_batch_ros.drives_page import static

    def refuse(*_: Any, **__: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not yours"}}, "PutObject")

    monkeypatch.setattr(static, "write_run", refuse)
    jobs = pipeline.submit("good")
    sensor, said = pipeline.sensor(jobs), []
    sensor.log.warning = lambda text, *values: said.append(text % values)  # type: ignore[method-assign,assignment]
    assert sensor.execute(pipeline.context)["totals"]["rows"] == MESSAGES  # type: ignore[arg-type]
    (text,) = [line for line in said if "could not be written" in line]
    assert f"s3://{pipeline.bucket}/lake/_reports/index.html could not be written" in text
    assert "AccessDenied" in text
    monkeypatch.undo()
    lake = Lake(pipeline.s3, f"s3://{pipeline.bucket}/lake")
    pipeline.wait(jobs, drives_page=False)
    assert lake.keys("_reports") == []


def test_a_definition_that_changes_within_a_drive_is_in_the_summary(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    changed = write_defined(
        tmp_path / "b.bag",
        "float32 temperature\n",
        [{"temperature": 0.5}],
        topic="/temperature",
        kind="car/msg/Temperature",
    )
    pipeline.put("good/b.bag", changed.read_bytes())
    (drive,) = pipeline.wait(pipeline.submit("good"))["drives"]
    assert (drive["state"], drive["drift_count"], len(drive["drift"])) == ("succeeded", 1, 1)
    assert "topic /temperature: its definition changed from bag b.bag on: added (" in drive["drift"][0]
    assert "`temperature` float64 -> float32: read as float64" in drive["drift"][0]


def test_transforms_of_the_conf_run_in_the_job_and_are_counted(pipeline: Pipeline, tmp_path: Path) -> None:
    package = install(
        tmp_path, "def every_second(rows, topic):\n    return rows[::2]", {"half": "every_second"}
    )
    install(tmp_path, "def broken(rows, topic):\n    return rows['no']", {"broken": "broken"})
    pipeline.batch.register_job_definition(
        jobDefinitionName="with-transforms",
        type="container",
        containerProperties={
            "image": "ros-to-parquet",
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}],
            "environment": [{"name": "PYTHONPATH", "value": os.pathsep.join([str(tmp_path), *sys.path])}],
        },
    )
    pipeline.put("other/a.bag", ros1_bag())
    pipeline.put("third/a.bag", ros1_bag())
    runs = [("good", "half"), ("other", "broken"), ("third", "unheard_of")]
    jobs = [
        job
        for drive, name in runs
        for job in pipeline.submit(
            conf=pipeline.conf(drive, transforms={"/temp*": name}), job_definition="with-transforms"
        )
    ]
    with pytest.raises(AirflowFailException) as caught:
        pipeline.wait(jobs)
    summary = pipeline.context["ti"].pushed["return_value"]
    ((table,), none, nothing) = (drive["tables"] for drive in summary["drives"])
    assert (table["messages"], table["rows"], none, nothing) == (MESSAGES, MESSAGES, [], [])
    made = {"name": "half", "distribution": package, "version": "1.2"}
    assert table["transforms"] == [{**made, "rows_in": MESSAGES, "rows_out": MESSAGES // 2}]
    said = str(caught.value)
    assert (
        "exit code 4 (a transform failed, or gave what no table can be: the log has its traceback): " in said
    )
    assert "topic /temperature, bag a.bag, 20 rows of log times 1970-01-01T00:00:00.000000000Z to " in said
    assert "transform unheard_of is not installed where the engine runs; installed: broken, half" in said


def test_failed_drives_fail_the_task_with_all_causes_in_one_message(pipeline: Pipeline) -> None:
    pipeline.put("junk/x.bag", UNREADABLE)
    (good,) = pipeline.submit("good")
    (junk,) = pipeline.submit("junk")
    pipeline.put("part/x.bag", ros1_bag())
    pipeline.put("part/y.bag", ros1_bag(first=50))
    (part,) = pipeline.submit("part", definition="some fail", shard_bytes=SMALL)
    with pytest.raises(AirflowFailException) as caught:
        pipeline.wait([good, junk, part])
    lines = str(caught.value).splitlines()
    manifests = f"s3://{pipeline.bucket}/lake/_manifests"
    assert lines[0] == "2 of 3 drives failed:"
    assert (
        lines[1]
        == f"- junk: failed, 1 of 1 shards done ({manifests}/drive_id=junk/{junk['plan_id']}/drive.json)"
    )
    assert lines[2].startswith("    bag x.bag at offset 0: ")
    assert lines[3] == f"- part: partial, 1 of 2 shards done ({manifests}/drive_id=part/{part['plan_id']}/)"
    assert lines[4].startswith("    shard 1: engine_error: exit code 70 (log stream test-some-fail/")
    assert "/cloudwatch/home?region=us-east-1#logsV2:" in lines[5]
    assert lines[6] == "        | told to exit 70"
    assert lines[7:] == [
        "Clear the operator's task and what follows it to run only the shards that are missing."
    ]
    # All the same the summary is there, for tasks that follow in any case.
    summary = pipeline.context["ti"].pushed["return_value"]
    assert [drive["state"] for drive in summary["drives"]] == ["succeeded", "failed", "partial"]
    (failed,) = summary["drives"][2]["failed_shards"]
    assert failed == {
        "shard": 1,
        "cause": "engine_error",
        "reason": "exit code 70",
        "exit_code": 70,
        "job_id": f"{part['job_id']}:1",
        "log_stream": failed["log_stream"],
        "url": lines[5].strip(),
        "log_lines": ["told to exit 70"],
    }
    assert failed["log_stream"].replace("/", "$252F") in failed["url"]
    assert [drive["causes"] for drive in summary["drives"]] == [
        {},
        {"bag_unreadable": 1},
        {"engine_error": 1},
    ]
    assert summary["totals"]["causes"] == {"bag_unreadable": 1, "engine_error": 1}
    assert summary["drives"][2]["rows"] == MESSAGES
    assert pipeline.wait(pipeline.submit("part", shard_bytes=SMALL))["drives"][0]["rows"] == 2 * MESSAGES


def test_a_job_killed_for_memory_is_said_with_the_meaning_of_its_code(pipeline: Pipeline) -> None:
    with pytest.raises(
        AirflowFailException, match=r"exit code 137 \(killed by the system, most often for memory\)"
    ):
        pipeline.wait(pipeline.submit("good", definition="oom"))


def test_what_never_started_is_said_with_a_link_to_its_job(pipeline: Pipeline, aws: EmbeddedAws) -> None:
    """Not with the log that an earlier job of the shard has left."""
    pipeline.put("bad/x.bag", ros1_bag())
    (first,) = pipeline.submit("bad")
    wait_for_end(pipeline.batch, [first["job_id"]])
    lake = Lake(pipeline.s3, first["output"])
    for key in (
        contract.manifest_key("bad", first["plan_id"], 0),
        contract.drive_manifest_key("bad", first["plan_id"]),
    ):
        lake.delete(key)  # as if it had been killed before them; that it began is recorded
    with aws.faults(ImageNotFound(job="bad-*")):
        (second,) = pipeline.submit("bad")
        with pytest.raises(AirflowFailException) as caught:
            pipeline.wait([second])
    place = "    shard 0: image_missing: CannotPullContainerError: "
    lines = str(caught.value).splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith(place))
    assert lines[at + 1].endswith(f"#jobs/detail/{second['job_id']}")
    assert lines[at + 2] == "        | (it left no log)"


def test_the_engines_own_reason_comes_first(pipeline: Pipeline) -> None:
    jobs = pipeline.submit("good", definition="hang")
    pipeline.batch.terminate_job(jobId=jobs[0]["job_id"], reason="make room")
    wait_for_end(pipeline.batch, [jobs[0]["job_id"]])
    pipeline.put("good/a.bag", ros1_bag(first=5, messages=3))  # no longer what was planned
    with pytest.raises(
        AirflowFailException,
        match=r"shard 0: input_missing: exit code 66 \(a bag is not there, or is not the one",
    ):
        pipeline.wait(pipeline.submit("good"))


def test_fail_on_decides_what_fails(pipeline: Pipeline) -> None:
    pipeline.put("short/x.bag", cut_off(ros1_bag(messages=2000)))
    jobs = pipeline.submit("short")
    (drive,) = pipeline.wait(jobs)["drives"]
    assert (drive["state"], drive["failed"], drive["damaged_bags"]) == ("damaged", False, 1)
    assert drive["problems"]
    with pytest.raises(
        AirflowFailException, match="1 of 1 drive failed:\n- short: damaged, 1 of 1 shards done"
    ):
        pipeline.wait([{**jobs[0], "fail_on": ["damaged"]}])


def test_a_quality_check_fails_a_drive_whose_limits_the_conf_has(pipeline: Pipeline) -> None:
    pipeline.put("checked/x.bag", ros1_bag())
    drives = {"checked": {"bucket": pipeline.bucket, "prefix": "checked/"}}
    conf = {"drives_to_process": drives, "quality": {"*": {"gap": {"warn": 0.1, "error": 0.5}}}}
    jobs = pipeline.submit(conf={**conf, "fail_on": ["failed", "quality_error"]})
    with pytest.raises(
        AirflowFailException, match=r"- checked: succeeded, 1 of 1 .*\n    topic /temperature: gap 0\.99"
    ):
        pipeline.wait(jobs)
    (drive,) = pipeline.wait([{**jobs[0], "fail_on": ["failed"]}])["drives"]
    assert (drive["failed"], drive["quality"]["level"]) == (False, "error")


@pytest.mark.parametrize(("ratio", "fails"), [(0.5, False), (0.6, True)])
def test_a_share_of_the_drives_decides(pipeline: Pipeline, ratio: float, fails: bool) -> None:
    (good,) = pipeline.submit("good", min_success_ratio=str(ratio))
    assert good["min_success_ratio"] == ratio
    pipeline.put("bad/x.bag", ros1_bag())
    made = pipeline.conf("bad", min_success_ratio=ratio)
    (bad,) = pipeline.submit(conf=made, min_success_ratio=1.0, definition="oom")
    assert bad["min_success_ratio"] == ratio, "the conf's wins"
    sensor = pipeline.sensor([good, bad])
    said: list[str] = []
    sensor.log.info = lambda text, *_: said.append(text)  # type: ignore[method-assign]
    try:
        summary = sensor.execute(pipeline.context)  # type: ignore[arg-type]
        message = ""
    except AirflowFailException as error:
        summary, message = pipeline.context["ti"].pushed["return_value"], str(error)
    how = f"1 of 2 drives failed (success ratio 0.5, min_success_ratio {ratio})"
    totals = summary["totals"]
    assert (totals["failed"], totals["failed_drives"], totals["causes"]) == (fails, 1, {"out_of_memory": 1})
    if fails:
        assert message.startswith(f"{how}:\n- bad: failed")
    else:
        assert not message
        place = said.index(f"{how}, which does not fail the run:")
        assert said[place + 1].startswith("- bad: failed (s3://")
        assert said[place + 2].startswith("    shard 0: out_of_memory: exit code 137")


def test_the_log_says_why_a_drive_is_not_whole_that_does_not_fail_the_run(pipeline: Pipeline) -> None:
    pipeline.put("short/x.bag", cut_off(ros1_bag(messages=2000)))
    sensor = pipeline.sensor(pipeline.submit("short"))
    said: list[str] = []
    sensor.log.info = lambda text, *_: said.append(text)  # type: ignore[method-assign]
    (drive,) = sensor.execute(pipeline.context)["drives"]  # type: ignore[arg-type]
    place = next(place for place, text in enumerate(said) if text.startswith("drive short: damaged: 1 bags"))
    reasons = [f"    {problem}" for problem in drive["problems"]]
    assert said[place + 1 :][: len(reasons)] == reasons != []


def test_topics_that_take_no_message_are_said(pipeline: Pipeline) -> None:
    made = pipeline.conf("good", topics={"include": ["/temprature"]})
    for work in ("submitted", "nothing"):
        jobs = pipeline.submit(conf=made)
        assert jobs[0]["work"] == work
        (drive,) = pipeline.wait(jobs)["drives"]
        (problem,) = drive["problems"]
        assert problem.startswith("topics: there is no message of a topic that matches '/temprature' (")
        pipeline.context = make_context(f"another-{pipeline.bucket}")
    pipeline.put("none/x.bag", ros1_bag(messages=0))
    assert pipeline.wait(pipeline.submit("none"))["drives"][0]["problems"] == []


def test_a_timeout_says_that_the_jobs_go_on(pipeline: Pipeline) -> None:
    jobs = pipeline.submit("good", definition="hang")
    said = r"not all of 1 Batch jobs have ended after 0\.2 s, the timeout; they go on: clear this task"
    with pytest.raises(AirflowSensorTimeout, match=said):
        pipeline.wait(jobs, timeout=0.2)
    if AIRFLOW_V_3_0_PLUS:
        context: Any = pipeline.context
        deferred = pipeline.sensor(jobs, deferrable=True, timeout=0.2)
        with pytest.raises(AirflowSensorTimeout, match=said):
            deferred.resume_execution("__fail__", {"error": "Trigger timeout"}, context)
    assert pipeline.state(jobs[0]["job_id"]) in ("RUNNABLE", "STARTING", "RUNNING")


def test_soft_fail_skips(pipeline: Pipeline) -> None:
    with pytest.raises(AirflowSkipException):
        pipeline.wait(pipeline.submit("good", definition="oom"), soft_fail=True)


def test_a_drive_with_nothing_new_has_the_state_it_had(pipeline: Pipeline) -> None:
    pipeline.put("short/x.bag", cut_off(ros1_bag(messages=2000)))
    (first,) = pipeline.wait(pipeline.submit("short"))["drives"]
    pipeline.context = make_context("another")
    jobs = pipeline.submit("short")
    assert (jobs[0]["work"], jobs[0]["job_id"]) == ("nothing", None)
    (again,) = pipeline.wait(jobs, deferrable=True)["drives"]
    for table in first["tables"]:
        assert table.pop("cost") > 0
    same = ("state", "messages", "rows", "tables", "problems", "damaged_bags", "bytes_written")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}
    assert again["cost"] is None  # of this run
    assert (again["job_state"], again["shards"], again["covered"]) == (None, 0, 1)


def test_bags_that_cannot_be_read_are_not_tried_by_the_next_run(pipeline: Pipeline) -> None:
    pipeline.put("junk/x.bag", UNREADABLE)
    pipeline.put("mixed/a.bag", ros1_bag())
    pipeline.put("mixed/x.bag", UNREADABLE)
    junk, mixed = (pipeline.submit(name)[0] for name in ("junk", "mixed"))
    with pytest.raises(AirflowFailException, match="junk: failed"):
        pipeline.wait([junk, mixed])
    pipeline.context = make_context("another")
    jobs = [pipeline.submit(name)[0] for name in ("junk", "mixed")]
    assert [(job["work"], job["covered"], job["unreadable"]) for job in jobs] == [
        ("nothing", 0, 1),
        ("nothing", 1, 1),
    ]
    # A drive that was asked for by name and gives no row is no success, however often it is tried.
    with pytest.raises(
        AirflowFailException, match=r"(?s)1 of 2 drives failed:\n- junk: failed.*not tried again"
    ):
        pipeline.wait(jobs)
    summary = pipeline.context["ti"].pushed["return_value"]
    assert [
        (drive["state"], drive["failed"], drive["bags"], drive["unreadable_bags"], drive["rows"])
        for drive in summary["drives"]
    ] == [("failed", True, 1, 1, 0), ("damaged", False, 2, 1, MESSAGES)]
    assert summary["totals"]["causes"] == {"bag_unreadable": 2}
    pipeline.put("junk/x.bag", ros1_bag())
    pipeline.context = make_context("a third")
    (drive,) = pipeline.wait(pipeline.submit("junk"))["drives"]
    assert (drive["state"], drive["rows"]) == ("succeeded", MESSAGES)


def test_a_drive_that_another_run_has_replaced_fails_nothing(pipeline: Pipeline) -> None:
    jobs = pipeline.submit("good")
    assert pipeline.wait(jobs)["drives"][0]["rows"] == MESSAGES
    pipeline.context = make_context("another")
    over = pipeline.wait(pipeline.submit(conf=pipeline.conf("good", overwrite=True)))
    summary = pipeline.wait(jobs)
    (drive,) = summary["drives"]
    assert (drive["state"], drive["failed"], drive["work"], drive["rows"]) == (
        "succeeded",
        False,
        "nothing",
        0,
    )
    assert (drive["failed_shards"], drive["causes"], summary["totals"]["failed"]) == ([], {}, False)
    (said,) = drive["problems"]
    assert said.startswith("replaced by run 'another' of DAG 'some_dag' (succeeded): ")
    assert drive["manifest"] == over["drives"][0]["manifest"]
    assert (lake_drives(summary), len(lake_drives(over))) == ([], 1), "what the lake has was announced once"


def test_a_night_in_which_nothing_is_new_is_a_good_one(pipeline: Pipeline) -> None:
    pipeline.put("fleet/car_1/x.bag", ros1_bag())
    drives = {"drives_to_process": {"bucket": pipeline.bucket, "prefix": "fleet/*/"}, "report": False}
    jobs = pipeline.submit(conf=drives)
    assert [job["drive_id"] for job in jobs] == ["car_1"]
    assert pipeline.wait(jobs)["totals"]["rows"] == MESSAGES
    pipeline.context = make_context("the next one")
    assert pipeline.submit(conf=drives) == []
    summary = pipeline.wait([], deferrable=True)
    assert (summary["drives"], summary["totals"]["failed"]) == ([], False)


def test_a_job_that_batch_does_not_know_is_said(pipeline: Pipeline) -> None:
    (entry,) = pipeline.submit("good", definition="hang")
    lost = [{**entry, "job_id": "00000000-0000-0000-0000-000000000000"}]
    with pytest.raises(
        AirflowFailException, match="shard 0: lost: Batch does not know job 00000000-0000-0000-0000-0000"
    ):
        pipeline.wait(lost, unknown_after_s=0.0)


def test_an_uncommitted_drive_is_no_success(pipeline: Pipeline) -> None:
    jobs = pipeline.submit("good")
    wait_for_end(pipeline.batch, [jobs[0]["job_id"]])
    lake = Lake(pipeline.s3, jobs[0]["output"])
    lake.delete(contract.drive_manifest_key("good", jobs[0]["plan_id"]))
    with pytest.raises(AirflowFailException, match="all shards are done, but the drive is not committed"):
        pipeline.wait(jobs)
    assert pipeline.wait(pipeline.submit("good"))["drives"][0]["state"] == "succeeded"


def test_reasons_are_bounded_and_counts_exact(pipeline: Pipeline) -> None:
    for number in range(105):
        pipeline.put(f"many/{number:03d}.bag", b"x")
    jobs = pipeline.submit("many", definition="oom", shard_bytes=1)
    assert jobs[0]["array_size"] == 105
    with pytest.raises(AirflowFailException) as caught:
        pipeline.wait(jobs)
    (drive,) = pipeline.context["ti"].pushed["return_value"]["drives"]
    assert (drive["failed_shard_count"], len(drive["failed_shards"])) == (105, 100)
    assert drive["causes"] == {"out_of_memory": 105}
    assert len([shard for shard in drive["failed_shards"] if shard.get("log_lines")]) == 1
    assert "    and 95 more; see the manifests" in str(caught.value).splitlines()


def test_the_jobs_of_a_mapped_operator_are_taken(pipeline: Pipeline) -> None:
    pipeline.put("more/x.bag", ros1_bag())
    mapped = [pipeline.submit("good"), pipeline.submit("more")]
    assert pipeline.wait(mapped)["totals"]["rows"] == 2 * MESSAGES


@pytest.mark.parametrize(
    ("jobs", "text"),
    [("[{'a': 1}]", "in Python write submit.output"), (None, "takes what")],
)
def test_other_jobs_are_refused(pipeline: Pipeline, jobs: Any, text: str) -> None:
    with pytest.raises(AirflowFailException, match=text):
        pipeline.wait(jobs)


# --- deferral ---------------------------------------------------------------------------------------


def defer(pipeline: Pipeline, jobs: Any, **changes: Any) -> RosToParquetBatchTrigger:
    with pytest.raises(TaskDeferred) as caught:
        pipeline.wait(jobs, deferrable=True, **changes)
    assert caught.value.method_name == "execute_complete"
    trigger = caught.value.trigger
    assert isinstance(trigger, RosToParquetBatchTrigger)
    return trigger


def test_one_trigger_waits_for_all_jobs(pipeline: Pipeline, gate: Path) -> None:
    pipeline.put("more/x.bag", ros1_bag())
    jobs = pipeline.submit("good", "more", definition="gated")
    sensor = pipeline.sensor(jobs, deferrable=True, timeout=3600)
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(pipeline.context)  # type: ignore[arg-type]
    assert caught.value.timeout is not None
    assert caught.value.timeout.total_seconds() == 3600
    gate.touch()
    (event,) = asyncio.run(collect(caught.value.trigger))
    assert event == {"status": "ended", "states": {"SUCCEEDED": 2}}
    summary = pipeline.sensor(jobs).execute_complete(pipeline.context, event)  # type: ignore[arg-type]
    assert summary["totals"]["states"] == {"succeeded": 2}


async def collect(trigger: Any) -> list[Any]:
    return [event.payload async for event in trigger.run()]


@pytest.mark.parametrize("deferred", [True, False])
def test_the_log_says_how_far_the_shards_are(pipeline: Pipeline, gate: Path, deferred: bool) -> None:
    pipeline.put("good/b.bag", ros1_bag(first=50))
    jobs = pipeline.submit("good", shard_bytes=SMALL, definition="gated")
    waits: Any = defer(pipeline, jobs) if deferred else pipeline.sensor(jobs)
    said: list[str] = []

    def note(text: str, *_: Any) -> None:
        said.append(text)
        gate.touch()  # the jobs go on when the first line is there

    waits.log.info = note
    if deferred:
        asyncio.run(collect(waits))
    else:
        waits.execute(pipeline.context)
    said = [line for line in said if line.startswith("jobs: ")]
    assert said[0].endswith("; 0 of 2 shards done")
    assert re.search(r"; 2 of 2 shards done, [0-9.]+ MB/s$", said[-1])


@pytest.mark.parametrize("deferred", [True, False])
def test_a_job_that_stays_runnable_is_ended_with_why(
    pipeline: Pipeline, aws: EmbeddedAws, deferred: bool
) -> None:
    pipeline.put("good/b.bag", ros1_bag(first=50))
    with aws.faults(JobStuck(job="good-*", reason="CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY")):
        jobs = pipeline.submit("good", shard_bytes=SMALL)
        assert jobs[0]["array_size"] == 2
        stuck: dict[str, Any] = {"runnable_timeout": timedelta(seconds=0.2), "end_stuck": True}
        sensor = pipeline.sensor(jobs, **stuck)
        with pytest.raises(AirflowFailException) as caught:
            if deferred:
                (event,) = asyncio.run(collect(defer(pipeline, jobs, **stuck)))
                sensor.execute_complete(pipeline.context, event)  # type: ignore[arg-type]
            else:
                sensor.execute(pipeline.context)  # type: ignore[arg-type]
    assert "shard 1: stuck_in_runnable: Stuck in RUNNABLE for " in str(caught.value)
    assert " s: CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY" in str(caught.value)
    assert pipeline.wait(pipeline.submit("good"))["drives"][0]["rows"] == 2 * MESSAGES


def test_a_job_that_stays_runnable_is_said_and_left(pipeline: Pipeline, aws: EmbeddedAws) -> None:
    with aws.faults(JobStuck(job="good-*")) as faults:
        sensor = pipeline.sensor(pipeline.submit("good"), runnable_timeout=0.0)
        said: list[str] = []

        def note(text: str, *_: Any) -> None:
            if text.startswith("job "):
                said.append(text)
                faults.end()  # there is a machine now

        sensor.log.warning = note  # type: ignore[method-assign,assignment]
        assert sensor.execute(pipeline.context)["totals"]["rows"] == MESSAGES  # type: ignore[arg-type]
    (text,) = said
    assert "Stuck in RUNNABLE for " in text
    assert text.endswith(": MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT")


def test_the_trigger_is_serialized_exactly(pipeline: Pipeline) -> None:
    jobs = pipeline.submit("good", definition="hang")
    trigger = defer(pipeline, jobs, terminate_on_kill=True, poke_interval=12, unknown_after_s=7.0)
    path, arguments = trigger.serialize()
    assert path == "airflow_batch_ros.triggers.batch.RosToParquetBatchTrigger"
    assert arguments == {
        "job_ids": [jobs[0]["job_id"]],
        "poll_interval_s": 12.0,
        "unknown_after_s": 7.0,
        "terminate_on_kill": True,
        "aws_conn_id": "aws_default",
        "region_name": None,
        "job_ids_uri": None,
        "runnable_timeout_s": None,
        "end_stuck": False,
        "amount": [1, 0, jobs[0]["bag_bytes"]],
    }
    assert RosToParquetBatchTrigger(**arguments).serialize() == trigger.serialize()


def test_no_deferral_when_all_has_ended(pipeline: Pipeline) -> None:
    jobs = pipeline.submit("good")
    wait_for_end(pipeline.batch, [jobs[0]["job_id"]])
    assert pipeline.wait(jobs, deferrable=True)["totals"]["rows"] == MESSAGES


def test_a_batch_that_cannot_be_asked_ends_the_wait_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "region_name": "us-east-1",
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    monkeypatch.setenv(
        "AIRFLOW_CONN_NOBODY",
        json.dumps({"conn_type": "aws", "login": "a", "password": "b", "extra": extra}),
    )
    monkeypatch.setattr(triggers, "MAX_FAILURES", 3)
    trigger = RosToParquetBatchTrigger(
        job_ids=["x"],
        poll_interval_s=0.01,
        unknown_after_s=1,
        terminate_on_kill=False,
        aws_conn_id="nobody",
        region_name=None,
    )
    (event,) = asyncio.run(collect(trigger))
    assert event["status"] == "error"
    assert event["message"].startswith("Batch could not be asked: Could not connect to the endpoint URL")
    with pytest.raises(AirflowException, match="Batch could not be asked"):
        RosToParquetBatchSensor(task_id="wait", jobs=[]).execute_complete({}, event)  # type: ignore[typeddict-item]


class StuckBatch:
    """Knows one job, which is RUNNABLE until it is terminated; refuses to describe jobs at some requests."""

    def __init__(self, *, refuses: int) -> None:
        self.state = "RUNNABLE"
        self.asked = 0
        self.refuses = refuses

    def describe_jobs(self, **_: Any) -> dict[str, Any]:
        self.asked += 1
        if self.asked == self.refuses:
            raise ClientError({"Error": {"Code": "ServerException", "Message": "no"}}, "DescribeJobs")
        reason = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"
        return {"jobs": [{"jobId": "x", "status": self.state, "jobQueue": "q", "statusReason": reason}]}

    def describe_job_queues(self, **_: Any) -> dict[str, Any]:
        return {"jobQueues": []}

    def terminate_job(self, **_: Any) -> None:
        self.state = "FAILED"


@pytest.mark.parametrize("refuses", [0, 1, 2])
def test_a_stuck_job_is_ended_whatever_poll_batch_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, refuses: int
) -> None:
    batch = StuckBatch(refuses=refuses)
    trigger = RosToParquetBatchTrigger(
        job_ids=["x"],
        poll_interval_s=0.01,
        unknown_after_s=60,
        terminate_on_kill=False,
        aws_conn_id=None,
        region_name=None,
        runnable_timeout_s=0.0,
        end_stuck=True,
    )
    monkeypatch.setattr(trigger, "_hook", lambda: SimpleNamespace(batch=batch))
    (event,) = asyncio.run(collect(trigger))
    assert event == {"status": "ended", "states": {"FAILED": 1}}


# --- killed while waiting ---------------------------------------------------------------------------


@pytest.mark.parametrize("terminate_on_kill", [True, False])
def test_killed_while_deferred(pipeline: Pipeline, terminate_on_kill: bool) -> None:
    (job,) = pipeline.submit("good", definition="hang")
    wait_until_running(pipeline.batch, job["job_id"])
    trigger = defer(pipeline, [job], terminate_on_kill=terminate_on_kill)

    async def kill() -> None:
        waiting = asyncio.ensure_future(collect(trigger))
        await asyncio.sleep(0.5)
        waiting.cancel("__airflow_user_action__")  # as Airflow 3.3 does, which then calls on_kill
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pipeline.state(job["job_id"]) == "RUNNING"
        await trigger.on_kill()

    asyncio.run(kill())
    if terminate_on_kill:
        wait_for_end(pipeline.batch, [job["job_id"]])
        with pytest.raises(AirflowFailException, match="the Airflow task that waits for it was killed"):
            pipeline.wait([job])
    else:
        time.sleep(0.3)
        assert pipeline.state(job["job_id"]) == "RUNNING"


def test_a_cancellation_keeps_its_message_while_batch_is_asked(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By that message Airflow 3.3 knows that a user acted, and calls on_kill."""
    trigger = defer(pipeline, pipeline.submit("good", definition="hang"))
    monkeypatch.setattr(triggers, "look_at", lambda batch, ids: time.sleep(1.0))

    async def cancel() -> tuple[Any, ...]:
        waiting = asyncio.ensure_future(collect(trigger))
        await asyncio.sleep(0.5)
        waiting.cancel("__airflow_user_action__")
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        return caught.value.args

    assert asyncio.run(cancel()) == ("__airflow_user_action__",)


@pytest.mark.parametrize(("deferred", "state"), [(True, "RUNNING"), (False, "FAILED")])
def test_before_airflow_3_3_the_tasks_state_tells_a_kill_from_a_restart(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, deferred: bool, state: str
) -> None:
    (job,) = pipeline.submit("good", definition="hang")
    wait_until_running(pipeline.batch, job["job_id"])
    trigger = defer(pipeline, [job], terminate_on_kill=True)
    trigger.task_instance = SimpleNamespace(dag_id="d", task_id="wait", run_id="r", map_index=-1)  # type: ignore[assignment]
    monkeypatch.setattr(triggers, "_HAS_ON_KILL", False)
    monkeypatch.setattr(triggers, "_task_state", lambda instance: "deferred" if deferred else "failed")

    async def cancel() -> None:
        waiting = asyncio.ensure_future(collect(trigger))
        await asyncio.sleep(0.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancel())
    if state == "FAILED":
        wait_for_end(pipeline.batch, [job["job_id"]])
    assert pipeline.state(job["job_id"]) == state


@pytest.mark.parametrize("terminate_on_kill", [True, False])
def test_killed_while_poking(pipeline: Pipeline, terminate_on_kill: bool) -> None:
    (job,) = pipeline.submit("good", definition="hang")
    wait_until_running(pipeline.batch, job["job_id"])
    sensor = pipeline.sensor([job], terminate_on_kill=terminate_on_kill, timeout=1.0)
    killer = threading.Timer(0.3, sensor.on_kill)
    killer.start()
    with pytest.raises((AirflowFailException, AirflowSensorTimeout)):
        sensor.execute(pipeline.context)  # type: ignore[arg-type]
    killer.join()
    if terminate_on_kill:
        wait_for_end(pipeline.batch, [job["job_id"]])
    assert pipeline.state(job["job_id"]) == ("FAILED" if terminate_on_kill else "RUNNING")


# --- hook -------------------------------------------------------------------------------------------


def test_the_connections_settings_win_but_submissions_are_sent_once(
    aws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(aws.environment()["AIRFLOW_CONN_AWS_DEFAULT"])
    connection["extra"]["config_kwargs"] = {
        "retries": {"mode": "legacy", "total_max_attempts": 2},
        "read_timeout": 5,
    }
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(connection))
    hook = RosToParquetBatchHook(aws_conn_id="mine", region_name="eu-west-1")
    assert hook.batch.meta.region_name == hook.s3.meta.region_name == "eu-west-1"
    assert hook.s3.meta.endpoint_url == aws.server.s3_endpoint_url
    assert hook.batch.meta.endpoint_url == aws.server.endpoint_url
    assert hook.batch.meta.config.retries["total_max_attempts"] == 2
    assert hook.submitter.meta.config.retries["total_max_attempts"] == 1
    assert hook.batch.meta.config.read_timeout == 5
    assert RosToParquetBatchHook().batch.meta.config.retries == {"mode": "adaptive", "total_max_attempts": 10}
