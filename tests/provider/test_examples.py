"""The example DAGs, read by Airflow and run for real; test_standalone.py has those that events start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_batch_ros import cli
from airflow_batch_ros.stack import outputs
from tests.provider.bags import MESSAGES, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import DAGS, EXAMPLES
from tests.provider.runs import query, run
from tests.provider.test_stack import push_image

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

pytestmark = pytest.mark.airflow

SLACK = "example_notify_slack"
GROUP = ("ros_to_parquet.submit", "ros_to_parquet.wait", "ros_to_parquet.announce")


def test_airflow_reads_every_example(airflow_database: None) -> None:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag

    bag = DagBag(str(EXAMPLES), safe_mode=False)
    assert bag.import_errors == {}
    expected = {path.stem for path in EXAMPLES.glob("example_*.py")}
    assert expected == {
        "example_drives_in_lake",
        "example_mwaa",
        "example_new_drives_s3",
        "example_new_drives_sqs",
        "example_notify_slack",
        "example_notify_sns",
    }
    absent = set() if AIRFLOW_V_3_0_PLUS else {"example_new_drives_sqs"}
    assert set(bag.dags) == expected - absent - (set() if find_spec("airflow.providers.slack") else {SLACK})


def test_new_drives_of_an_interval(
    airflow_database: None,
    aws: EmbeddedAws,
    s3: S3Client,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aws.ensure_buckets(bucket)
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_SOURCE", f"s3://{bucket}/fleet/")
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT", f"s3://{bucket}/lake")
    put(s3, bucket, "fleet/car_7/a.bag", "fleet/car_8/a.bag", body=ros1_bag())
    put(s3, bucket, "fleet/car_7/_COMPLETE")
    written = s3.head_object(Bucket=bucket, Key="fleet/car_7/_COMPLETE")["LastModified"]
    # A DAG that is run by hand has the last interval that has ended; intervals begin and end a minute late.
    interval_s = 15 * 60
    end = ((written.timestamp() + 60) // interval_s + 1) * interval_s
    after = datetime.fromtimestamp(end + 10, UTC)

    dag = run_path(str(EXAMPLES / "example_new_drives_s3.py"))["dag"]
    state, tasks, returned = run(dag, logical_date=after)
    assert (state, set(tasks.values())) == ("success", {"success"})
    assert returned["find_drives"] == {f"{bucket}.fleet.car_7": {"bucket": bucket, "prefix": "fleet/car_7/"}}
    assert returned["ros_to_parquet.wait"]["totals"]["rows"] == MESSAGES

    state, tasks, _ = run(dag, logical_date=after + timedelta(seconds=interval_s))
    assert state == "success"
    assert {tasks[name] for name in ("find_drives", *GROUP[:2])} == {"skipped"}


def test_mwaa_finds_everything_by_the_stacks_name(
    airflow_database: None,
    aws: EmbeddedAws,
    s3: S3Client,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"mwaa-{bucket}"
    create = ["stack", "create", name, "--region", "us-east-1"]
    lake = f"s3://{bucket}/lake"
    given = ["--source", f"s3://{bucket}/raw/", "--output", lake, "--network", "nat"]
    assert cli.main([*create, *given]) == 0
    push_image(aws, outputs.read_outputs(aws.client("cloudformation"), name)["RepositoryUri"])
    assert cli.main(create) == 0
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_STACK", name)
    put(s3, bucket, "raw/drive_1/a.bag", body=ros1_bag())

    dag = run_path(str(EXAMPLES / "example_mwaa.py"))["dag"]
    conf: dict[str, Any] = {"drives_to_process": {"drive_1": {"bucket": bucket, "prefix": "raw/drive_1/"}}}
    state, tasks, returned = run(dag, conf)
    assert (state, set(tasks.values())) == ("success", {"success"})
    (drive,) = returned["ros_to_parquet.wait"]["drives"]
    assert (drive["output"], drive["rows"]) == (lake, MESSAGES)
    (job,) = returned["ros_to_parquet.submit"]
    assert name in job["job_queue"]


@pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="test_standalone.py has it for Airflow 3")
def test_on_airflow_2_a_scheduler_goes_on_from_drives_in_the_lake(
    airflow_database: None,
    s3: S3Client,
    bucket: str,
    definitions: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.models.dag import DagModel
    from airflow.models.dagbag import DagBag

    name = "example_drives_in_lake"
    monkeypatch.setenv("ROS_TO_PARQUET_LAKE", f"s3://{bucket}/lake")
    shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    DagBag(str(tmp_path), safe_mode=False).sync_to_db()
    model = DagModel.get_dagmodel(name)
    assert model is not None
    model.set_is_paused(is_paused=False)
    put(s3, bucket, "raw/drive_1/a.bag", body=ros1_bag())
    own = run_path(str(DAGS / "task_group_dag.py"))["make"]("ros_to_parquet_drives")
    conf = {
        "bucket": bucket,
        "job_definition": definitions["good"],
        "drives": ["drive_1"],
        "fail_on": "failed",
    }
    assert run(own, conf)[0] == "success"

    # Its executor starts a program of the name "airflow".
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {
        "PATH": path,
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path),
        "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor",
    }
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "airflow", "scheduler"], env={**os.environ, **settings}
    )
    try:
        deadline = time.monotonic() + 150
        while query("select state from dag_run where dag_id = ?", name) != [("success",)]:
            assert scheduler.poll() is None
            assert time.monotonic() < deadline, query("select * from task_instance where dag_id = ?", name)
            time.sleep(0.5)
    finally:
        scheduler.terminate()
        scheduler.wait()
    returned = query("select value from xcom where dag_id = ? and task_id = 'look_at'", name)
    assert [b"temperature" in value for (value,) in returned] == [True]
