"""``docker compose up`` on this checkout and a drive through it; slow: ``scripts/test-container`` runs it."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.container.conftest import Stack
from tests.engine.sample_bags import TOPICS, write_bag

RUN_PATIENCE_S = 240
ROUNDS = 40
DAG_RUNS = "/api/v2/dags/ros_image_pipeline/dagRuns"


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    status, answer = stack.request("POST", "/auth/token", {"username": "airflow", "password": "airflow"})
    assert status == 201, answer
    return str(answer["access_token"])


def trigger(stack: Stack, token: str, conf: Any) -> tuple[int, Any]:
    return stack.request("POST", DAG_RUNS, {"logical_date": None, "conf": conf}, token=token)


def wait_for_run(stack: Stack, token: str, run_id: str) -> str:
    deadline = time.monotonic() + RUN_PATIENCE_S
    while time.monotonic() < deadline:
        _, run = stack.request("GET", f"{DAG_RUNS}/{run_id}", token=token)
        if run["state"] in ("success", "failed"):
            return str(run["state"])
        time.sleep(1)
    return "still running"


def test_ports_are_published_on_loopback_alone(stack: Stack) -> None:
    services = json.loads(stack.compose("config", "--format", "json"))["services"]
    published = {
        name: [port["host_ip"] for port in service.get("ports", [])] for name, service in services.items()
    }
    assert {name for name, addresses in published.items() if addresses} == {"api-server", "aws"}
    assert {address for addresses in published.values() for address in addresses} == {"127.0.0.1"}


def test_the_login_is_asked_for(stack: Stack) -> None:
    assert stack.request("GET", "/api/v2/dags")[0] == 401
    assert stack.request("POST", "/auth/token", {"username": "airflow", "password": "wrong"})[0] == 401


def test_dags_import(stack: Stack, token: str) -> None:
    _, errors = stack.request("GET", "/api/v2/importErrors", token=token)
    assert errors["import_errors"] == []


def test_a_bad_conf_is_refused(stack: Stack, token: str) -> None:
    status, answer = trigger(stack, token, {"drives_to_process": {"drive_1": {"bucket": "drives"}}})
    assert status == 400
    assert "'prefix' is a required property" in answer["detail"]


def test_a_drive_goes_through_and_stays(stack: Stack, token: str, tmp_path: Path) -> None:
    s3 = stack.s3()
    for name in ("first.bag", "second.mcap"):
        write_bag(tmp_path / name, messages=ROUNDS)
        s3.upload_file(str(tmp_path / name), "drives", f"drive_1/{name}")
    conf = {"drives_to_process": {"drive_1": {"bucket": "drives", "prefix": "drive_1/"}}}
    status, run = trigger(stack, token, conf)
    assert status == 200, run
    run_id = run["dag_run_id"]
    assert wait_for_run(stack, token, run_id) == "success", stack.compose("logs", "--tail", "60")

    _, xcom = stack.request(
        "GET", f"{DAG_RUNS}/{run_id}/taskInstances/wait/xcomEntries/return_value", token=token
    )
    (drive,) = xcom["value"]["drives"]
    assert drive["state"] == "succeeded"
    assert drive["messages"] == drive["rows"] == 2 * ROUNDS * len(TOPICS)
    (job,) = stack.batch().describe_jobs(jobs=[drive["job_id"]])["jobs"]
    assert (job["container"]["image"], job["container"]["exitCode"]) == (
        "airflow-batch-ros/ros-to-parquet",
        0,
    )

    # The data is in a volume: it is there after the service was.
    stack.compose("restart", "aws")
    stack.compose("up", "--wait", "aws")
    found = s3.list_objects_v2(Bucket="lake", Prefix="drives/imu.data/").get("Contents", [])
    rows = 0
    for entry in found:
        body = s3.get_object(Bucket="lake", Key=entry["Key"])["Body"].read()
        rows += pq.read_metadata(io.BytesIO(body)).num_rows
    assert rows == 2 * ROUNDS


def test_the_demo_takes_its_drives_through(stack: Stack) -> None:
    said = stack.compose("run", "--rm", "demo")
    assert "2 succeeded" in said
    assert f"Airflow http://localhost:{stack.airflow_port}  user airflow, password airflow" in said
    assert f"http://localhost:{stack.airflow_port}" in stack.compose("logs", "--no-log-prefix", "login")
