"""``docker compose up`` on this checkout and a drive through it; slow: ``scripts/test-container`` runs it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from tests.engine.sample_bags import TOPICS, write_bag

ROOT = Path(__file__).parents[2]
PROJECT = "airflow-batch-ros-test"
START_PATIENCE_S = 600
RUN_PATIENCE_S = 240
ROUNDS = 40
DAG_RUNS = "/api/v2/dags/ros_image_pipeline/dagRuns"

pytestmark = pytest.mark.skipif(
    "AIRFLOW_BATCH_ROS_COMPOSE" not in os.environ,
    reason="starts the whole compose file: scripts/test-container",
)


@dataclass(frozen=True, slots=True)
class Stack:
    """The services, on ports of their own beside whatever else runs on this machine."""

    airflow_port: int
    aws_port: int
    s3_port: int

    def compose(self, *words: str) -> str:
        """Output of a ``docker compose`` command, which must succeed."""
        ports = {
            "AIRFLOW_PORT": str(self.airflow_port),
            "AWS_PORT": str(self.aws_port),
            "S3_PORT": str(self.s3_port),
        }
        command = ["docker", "compose", "--project-name", PROJECT, *words]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | ports, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-4_000:]}"
        return done.stdout

    def request(
        self, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of Airflow's answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.airflow_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def s3(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.s3_port}",
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local-secret-key",
        )


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nothing listens on."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    services = Stack(*free_ports(3))
    try:
        try:
            services.compose("up", "--build", "--wait", "--wait-timeout", str(START_PATIENCE_S))
        except AssertionError as error:
            error.add_note(services.compose("logs", "--tail", "40"))
            raise
        yield services
    finally:
        services.compose("down", "--volumes")


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

    # The data is in a volume: it is there after the service was.
    stack.compose("restart", "aws")
    stack.compose("up", "--wait", "aws")
    found = s3.list_objects_v2(Bucket="lake", Prefix="drives/imu.data/").get("Contents", [])
    rows = 0
    for entry in found:
        body = s3.get_object(Bucket="lake", Key=entry["Key"])["Body"].read()
        rows += pq.read_metadata(io.BytesIO(body)).num_rows
    assert rows == 2 * ROUNDS
