"""Where a conf may lead: the lists of operator, Airflow's configuration, settings and job definition."""

from __future__ import annotations

import re
from runpy import run_path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from botocore.exceptions import ClientError

from airflow_batch_ros.allowed import AllowList, check_allowed, of_job_definition, parse_allowed
from airflow_batch_ros.conf import CONF_KEYS, ConfError, parse_conf
from airflow_batch_ros.jobs import SubmitOptions
from airflow_batch_ros.operators.batch import RosToParquetBatchOperator
from airflow_batch_ros.task_group import ros_to_parquet
from ros_to_parquet.contract import is_allowed
from tests.provider.builders import put
from tests.provider.conftest import EXAMPLES, ROOT
from tests.provider.test_commands import Shell
from tests.provider.test_commands import shell as shell
from tests.provider.test_operators import Pipeline
from tests.provider.test_operators import pipeline as pipeline

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

pytestmark = pytest.mark.airflow

ALLOWED = ("s3://raw/fleet/", "s3://lake", "s3://other/a")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://raw/fleet/", True),
        ("s3://raw/fleet", True),
        ("s3://raw/fleet/car_7/x.bag", True),
        ("s3://raw/fleet/..car/x.bag", True),
        ("s3://raw/fleet_2/", False),
        ("s3://raw/", False),
        ("s3://raw", False),
        ("s3://raw/Fleet/", False),
        ("s3://raw//fleet/", False),
        ("s3://raw/fleet/../secret/", False),
        ("s3://raw/fleet/..", False),
        ("s3://raw/fleet/%2e%2e/secret/", False),
        ("s3://raw/fleet/.%2E/secret/", False),
        ("s3://raw/fleet/%252e%252e/secret/", False),
        ("s3://raw/fleet/..%2fsecret/", False),
        ("s3://raw/fleet/..\\secret/", False),
        ("s3://raw/%66leet/", False),
        ("s3://lake", True),
        ("s3://lake/drives", True),
        ("s3://lake-of-others/drives", False),
        ("s3://lake.others/drives", False),
        ("s3://LAKE/drives", False),
        ("S3://lake/drives", False),
        ("https://lake/drives", False),
        ("s3://other/a", True),
        ("s3://other/ab", False),
        ("/s3://lake/", False),
    ],
)
def test_places_are_compared_by_whole_parts(uri: str, allowed: bool) -> None:
    assert is_allowed(uri, ALLOWED) is allowed
    assert not is_allowed(uri, ())


def conf(**optional: Any) -> dict[str, Any]:
    drives = {"one": {"bucket": "raw", "prefix": "fleet/one"}, "two": {"bucket": "elsewhere", "prefix": ""}}
    return {"drives_to_process": drives, **optional}


def test_every_place_of_a_conf_is_held_to_every_list() -> None:
    named = parse_conf(conf(output="s3://lakes/x", msg_path=["s3://lake/msgs", "s3://raw/msgs"]))
    some = AllowList(ALLOWED, "one list")
    with pytest.raises(ConfError) as caught:
        check_allowed(named, "s3://lakes/x", [None, some, AllowList(("s3://",), "another")])
    assert caught.value.problems == tuple(
        f"{place} is outside of what this deployment allows ({', '.join(ALLOWED)}: one list)"
        for place in (
            "drive 'two': s3://elsewhere/",
            "key 'msg_path': s3://raw/msgs",
            "key 'output': s3://lakes/x",
        )
    )
    with pytest.raises(ConfError, match=r"output: s3://raw/out is outside .*\(nothing: an empty list\)"):
        check_allowed(parse_conf(conf()), "s3://raw/out", [AllowList((), "an empty list")])
    check_allowed(named, "s3://lakes/x", [None, AllowList(("s3://",), "all of S3")])


def test_a_list_that_is_none_is_refused() -> None:
    origin = "option x"
    assert parse_allowed(" s3://a , s3://b/c/,", origin=origin).uris == ("s3://a", "s3://b/c/")
    assert parse_allowed(["s3://a/with,comma"], origin=origin).uris == ("s3://a/with,comma",)
    for bad in ("s3://a/*", "s3://", "s3:///x", "a/b", "{{ params.output }}", "s3://{{ params.bucket }}/"):
        with pytest.raises(ConfError) as caught:
            parse_allowed(bad, origin=origin)
        assert f"option x: {bad!r} is no place of S3's" in str(caught.value)


# --- in Airflow -------------------------------------------------------------------------------------


def refusal(pipeline: Pipeline, **changes: Any) -> str:
    """Why the operator refuses; it has then written nothing."""
    with pytest.raises(AirflowFailException) as caught:
        pipeline.submit("good", **changes)
    found = pipeline.s3.list_objects_v2(Bucket=pipeline.bucket)["Contents"]
    assert [each["Key"] for each in found] == ["good/a.bag"]
    return str(caught.value)


def test_the_dags_author_and_the_deployment_say_what_a_conf_may_name(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"s3://{pipeline.bucket}"
    said = refusal(pipeline, allowed_uris=[f"{own}/lake"])
    assert (
        f"drive 'good': {own}/good/ is outside of what this deployment allows ({own}/lake: argument" in said
    )
    monkeypatch.setenv("AIRFLOW__ROS_TO_PARQUET__ALLOWED_URIS", f"{own}/good,{own}/lak")
    said = refusal(pipeline, allowed_uris=[own])
    assert f"output: {own}/lake is outside of" in said, "a DAG cannot add to what the deployment allows"
    assert "option allowed_uris in section ros_to_parquet of Airflow's configuration" in said
    monkeypatch.setenv("AIRFLOW__ROS_TO_PARQUET__ALLOWED_URIS", "somewhere")
    assert "'somewhere' is no place of S3's" in refusal(pipeline)
    monkeypatch.setenv("AIRFLOW__ROS_TO_PARQUET__ALLOWED_URIS", f"{own}/good/, {own}/lake")
    assert pipeline.submit("good", allowed_uris=(own,))[0]["work"] == "submitted"


@pytest.fixture
def definition(batch: BatchClient, bucket: str) -> str:
    """The ARN of a definition whose jobs may read and write in the test's bucket, unlike an earlier one."""
    arn = ""
    for allowed in ("s3://nowhere/", f"s3://{bucket}/good/,s3://{bucket}/lake/"):
        arn = batch.register_job_definition(
            jobDefinitionName=f"allows-{bucket}",
            type="container",
            containerProperties={
                "image": "ros-to-parquet",
                "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}],
                "environment": [{"name": "ROS_TO_PARQUET_ALLOW", "value": allowed}],
            },
        )["jobDefinitionArn"]
    return arn


def test_what_jobs_may_not_do_is_not_planned(pipeline: Pipeline, definition: str) -> None:
    name, _, revision = definition.rpartition("/")[2].partition(":")
    for words in (definition, name, f"{name}:{revision}"):
        said = refusal(pipeline, job_definition=words, conf=pipeline.conf("good", msg_path=["s3://msgs/x"]))
        assert "key 'msg_path': s3://msgs/x is outside of what this deployment allows (s3://" in said
        assert f"ROS_TO_PARQUET_ALLOW of job definition {name}" in said
    assert "s3://nowhere/: " in refusal(pipeline, job_definition=f"{name}:1")
    assert "s3://nowhere/: " in refusal(pipeline, submit_options={"jobDefinition": f"{name}:1"})
    (entry,) = pipeline.submit("good", job_definition=name)
    assert pipeline.wait([entry])["totals"]["states"] == {"succeeded": 1}, "the engine is told the same"


def test_where_the_definition_may_not_be_read_that_is_said() -> None:
    def get_paginator(_: str) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "DescribeJobDefinitions")

    batch: Any = SimpleNamespace(get_paginator=get_paginator)
    code, lines = "AccessDeniedException", list[str]()
    assert of_job_definition(batch, SubmitOptions("queue", "name:3"), say=lines.append) is None
    assert "the connection may not read job definition name:3 (batch:DescribeJobDefinitions)" in lines[0]
    code = "InternalError"
    with pytest.raises(ClientError):
        of_job_definition(batch, SubmitOptions("queue", "name:3"), say=lines.append)


def test_a_conf_is_data_and_never_a_template(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_SECRET", "drives")
    drives = {"x": {"bucket": pipeline.bucket, "prefix": "{{ var.value.secret }}/"}}
    pipeline.context["dag_run"] = SimpleNamespace(conf={"drives_to_process": drives})
    operator = pipeline.operator(conf=None)
    operator.render_template_fields(pipeline.context)  # type: ignore[arg-type]
    with pytest.raises(AirflowFailException, match=re.escape("/{{ var.value.secret }}/")):
        operator.execute(pipeline.context)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    ["job_queue", "job_definition", "submit_options", "containerOverrides", "allowed_uris", "stack_name"],
)
def test_a_conf_says_nothing_of_how_jobs_are_run(key: str) -> None:
    assert key not in CONF_KEYS
    with pytest.raises(ConfError, match=f"key '{key}' is unknown"):
        parse_conf(conf(**{key: "x"}))


def test_no_dag_here_takes_settings_from_a_conf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queue, definition, output and the like come from Variables, which no conf can set."""
    monkeypatch.setenv("ROS_TO_PARQUET_QUEUE_URL", "http://localhost/queue")
    seen = 0
    for path in (ROOT / "dags" / "ros_image_pipeline.py", *sorted(EXAMPLES.glob("*.py"))):
        for dag in (each for each in run_path(str(path)).values() if hasattr(each, "task_dict")):
            for task in dag.task_dict.values():
                if isinstance(task, RosToParquetBatchOperator):
                    seen += 1
                    assert "allowed_uris" not in task.template_fields
                    for field in set(task.template_fields) - {"conf", "fail_on"}:
                        rendered = re.findall(r"{{(.*?)}}", str(getattr(task, field)))
                        assert all(re.match(r" (var\.value|dag\.dag_id)\b", each) for each in rendered), field
    assert seen >= 3


def test_a_task_group_hands_the_list_on() -> None:
    from airflow.providers.common.compat.sdk import DAG

    with DAG("with_list"):
        group = ros_to_parquet(allowed_uris=["s3://raw"])
    assert group.submit.allowed_uris == ["s3://raw"]


# --- without Airflow --------------------------------------------------------------------------------


def test_commands_refuse_what_settings_or_the_definition_leave_out(
    shell: Shell, definition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"s3://{shell.bucket}"
    before = shell.s3.list_objects_v2(Bucket=shell.bucket)["KeyCount"]
    for more in ((), ("--remote",)):
        monkeypatch.setenv("AIRFLOW_BATCH_ROS_ALLOWED_URIS", f"{own}/one,{own}/lake")
        done = shell.submit("r", "one", "two", more=more)
        assert (done.code, f"drive 'two': {own}/two/ is outside of what" in done.err) == (2, True)
        assert "allowed_uris from AIRFLOW_BATCH_ROS_ALLOWED_URIS in the environment" in done.err
        monkeypatch.delenv("AIRFLOW_BATCH_ROS_ALLOWED_URIS")
        done = shell.submit("r", "one", more=(*more, "--job-definition", definition))
        assert (done.code, f"drive 'one': {own}/one/ is outside of what" in done.err) == (2, True)
    assert shell.s3.list_objects_v2(Bucket=shell.bucket)["KeyCount"] == before, "nothing is written"
    assert shell.submit("r", "one", more=("--allowed-uris", own)).code == 0
    done = shell.run("retry", "r", "--allowed-uris", f"{own}/lake")
    assert (done.code, f"drive 'one': {own}/one/ is outside of what" in done.err) == (2, True)


def test_arrivals_are_held_to_the_list_too(pipeline: Pipeline) -> None:
    """Who can write to the queue can forge a marker; it names a drive as a conf does."""
    from airflow_batch_ros.arrivals import StoredObject, drive_of

    put(pipeline.s3, pipeline.bucket, "good/secret/_COMPLETE")
    forged = drive_of(StoredObject(pipeline.bucket, "good/secret/_COMPLETE"))
    with pytest.raises(AirflowFailException, match="is outside of what this deployment allows"):
        pipeline.submit(
            conf={"drives_to_process": forged},
            allowed_uris=[f"s3://{pipeline.bucket}/{x}" for x in ("a", "lake")],
        )
