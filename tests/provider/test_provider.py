"""What Airflow sees of the provider without running anything: its info, its links, the DAG file."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from airflow_batch_ros import console
from airflow_batch_ros.links import batch as links
from airflow_batch_ros.provider import get_provider_info
from tests.provider.test_jobs import drive_job

DAG_FILE = Path(__file__).parents[2] / "dags" / "ros_image_pipeline.py"


def test_the_info_is_found_by_its_entry_point_and_fits_airflows_schema() -> None:
    (entry,) = entry_points(group="apache_airflow_provider", name="provider_info").select(
        module="airflow_batch_ros.provider"
    )
    assert entry.load() is get_provider_info
    for name in ("provider_info.schema.json", "provider.yaml.schema.json"):
        schema = files("airflow") / name
        if schema.is_file():
            jsonschema.validate(get_provider_info(), json.loads(schema.read_text()))
            return
    pytest.fail("this Airflow has no schema of provider info")


def test_every_module_and_class_that_the_info_names_is_there() -> None:
    info = get_provider_info()
    modules = [
        importlib.import_module(name)
        for kind in ("operators", "sensors", "hooks", "triggers")
        for entry in info[kind]
        for name in entry["python-modules"]
    ]
    names = {name for module in modules for name in dir(module)}
    assert {"RosToParquetBatchOperator", "RosToParquetBatchSensor", "RosToParquetBatchTrigger"} <= names
    for path in info["extra-links"]:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name)().name


def test_the_dag_file_is_parsed_without_clients_and_heavy_libraries() -> None:
    heavy = ("boto3", "botocore", "aiobotocore", "pyarrow", "numpy", "rosbags")
    code = (
        f"import runpy, sys; dag = runpy.run_path({str(DAG_FILE)!r})['dag']\n"
        f"print([name for name in {heavy} if name in sys.modules], sorted(dag.task_ids))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] ['announce', 'submit', 'wait']"


@pytest.mark.parametrize(
    ("region", "base"),
    [
        ("eu-central-1", "https://eu-central-1.console.aws.amazon.com"),
        ("cn-north-1", "https://cn-north-1.console.amazonaws.cn"),
        ("us-gov-west-1", "https://us-gov-west-1.console.amazonaws-us-gov.com"),
    ],
)
def test_links_lead_to_the_console_of_the_partition(region: str, base: str) -> None:
    assert console.default_base(region) == base
    assert console.base_for(f"https://batch.{region}.amazonaws.com", region) == base
    assert console.base_for("http://127.0.0.1:5000", region) == ""


def test_urls_of_one_drive_and_of_several() -> None:
    one: Any = drive_job()
    urls = links.urls("https://aws", "eu-west-1", [one], "/ros/log")
    assert urls == {
        "Batch job": "https://aws/batch/home?region=eu-west-1#jobs/detail/id",
        "Batch logs": "https://aws/cloudwatch/home?region=eu-west-1#logsV2:log-groups/log-group/$252Fros$252Flog",
        "Parquet lake": "https://aws/s3/buckets/lake?region=eu-west-1&prefix=out%2F",
    }
    assert links.urls("https://aws", "eu-west-1", [one, one], None)["Batch job"].endswith("#jobs")


def test_a_report_is_linked_and_of_several_their_folder() -> None:
    one: Any = drive_job()
    reports = [f"s3://lake/out/_reports/drive_id={each}/report.html" for each in "ab"]
    of_one = links.urls("https://aws", "eu-west-1", [one], None, reports=reports[:1])
    key = "out%2F_reports%2Fdrive_id%3Da%2Freport.html"
    assert of_one["Drive report"] == f"https://aws/s3/object/lake?region=eu-west-1&prefix={key}"
    of_two = links.urls("https://aws", "eu-west-1", [one, one], None, reports=reports)
    folder = "https://aws/s3/buckets/lake?region=eu-west-1&prefix=out%2F_reports%2F"
    assert of_two["Drive report"] == folder
