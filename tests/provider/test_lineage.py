"""What OpenLineage is told, by Airflow's own provider of it where that is there: `scripts/test-optional`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros.sensors.batch import RosToParquetBatchSensor
from tests.provider.bags import MESSAGES, UNREADABLE, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import DAGS
from tests.provider.runs import run
from tests.provider.test_jobs import drive_job

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.airflow


@pytest.fixture
def lineage() -> Any:
    pytest.importorskip("airflow.providers.openlineage")
    from airflow_batch_ros import lineage

    return lineage


@pytest.fixture
def events(
    lineage: Any, airflow_database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A file to which OpenLineage's listener writes each event, a line each; in tasks' processes too."""
    path = tmp_path / "events.jsonl"
    transport = json.dumps({"type": "file", "log_file_path": str(path), "append": True})
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", transport)
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__NAMESPACE", "tests")
    from airflow.listeners.listener import get_listener_manager
    from airflow.providers.openlineage import conf
    from airflow.providers.openlineage.plugins.listener import OpenLineageListener

    for name in dir(conf):
        clear = getattr(getattr(conf, name), "cache_clear", None)
        if clear is not None:
            clear()
    listener = OpenLineageListener()
    manager = get_listener_manager()
    manager.add_listener(listener)
    yield path
    manager.pm.unregister(listener)


def told(path: Path, task: str, kind: str) -> dict[str, Any]:
    """The last event of that kind of a task."""
    said = [json.loads(line) for line in path.read_text().splitlines()]
    found = [each for each in said if each["job"]["name"].endswith(f".{task}") and each["eventType"] == kind]
    assert found, [(each["job"]["name"], each["eventType"]) for each in said]
    return dict(found[-1])


def test_events_of_a_run_name_bags_and_tables(
    events: Path, s3: S3Client, bucket: str, definitions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runpy import run_path

    put(s3, bucket, "raw/good/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/good/b.bag", body=ros1_bag(first=100))
    put(s3, bucket, "raw/junk/a.bag", body=UNREADABLE)
    dag = run_path(str(DAGS / "task_group_dag.py"))["dag"]
    conf = {"bucket": bucket, "job_definition": definitions["good"], "drives": ["good", "junk"]}
    state, _, _ = run(dag, {**conf, "fail_on": "failed"})
    assert state == "failed", "a drive of which nothing can be read fails it"

    (good, junk) = told(events, "submit", "COMPLETE")["inputs"]
    assert (good["namespace"], good["name"]) == (f"s3://{bucket}", "raw/good")
    statistics = good["inputFacets"]["inputStatistics"]
    assert (statistics["fileCount"], statistics["size"]) == (2, 2 * len(ros1_bag()))
    assert junk["name"] == "raw/junk"

    event = told(events, "wait", "FAIL")
    (read,) = event["inputs"]
    assert (read["name"], read["inputFacets"]["inputStatistics"]["rowCount"]) == ("raw/good", 2 * MESSAGES)
    (table,) = event["outputs"]
    assert (table["namespace"], table["name"]) == (f"s3://{bucket}", "lake/temperature")
    assert table["outputFacets"]["outputStatistics"]["rowCount"] == 2 * MESSAGES
    assert table["outputFacets"]["outputStatistics"]["size"] > 0
    columns = {field["name"]: field["type"] for field in table["facets"]["schema"]["fields"]}
    assert columns["log_time"] == "timestamp[us, tz=UTC]"
    assert columns["temperature"] == "double"
    assert table["facets"]["documentation"]["description"] == "topic /temperature, sensor_msgs/Temperature"


def test_a_task_names_a_bounded_number_of_datasets(lineage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAX_DATASETS", 3)
    found = lineage.of_jobs([drive_job() for _ in range(10)])
    assert (len(found.inputs), found.outputs) == (3, [])


def test_nothing_is_told_of_drives_before_they_have_ended(lineage: Any) -> None:
    sensor = RosToParquetBatchSensor(task_id="wait", jobs=[])
    found = sensor.get_openlineage_facets_on_failure(None)
    assert (found.inputs, found.outputs) == ([], [])
