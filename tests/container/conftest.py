"""The whole of docker-compose.yaml, started once for all tests that want it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

ROOT = Path(__file__).parents[2]
PROJECT = "airflow-batch-ros-test"
START_PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Stack:
    """The services, on ports of their own beside whatever else runs on this machine."""

    airflow_port: int
    aws_port: int
    s3_port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.airflow_port}"

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
        return self._client("s3", self.s3_port)

    def batch(self) -> Any:
        return self._client("batch", self.aws_port)

    def _client(self, service: str, port: int) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local-secret-key",
        )


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nothing listens on."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    if "AIRFLOW_BATCH_ROS_COMPOSE" not in os.environ:
        pytest.skip("starts the whole compose file: scripts/test-container")
    services = Stack(*free_ports(3))
    try:
        try:
            services.compose("--profile", "demo", "build")
            services.compose("up", "--wait", "--wait-timeout", str(START_PATIENCE_S))
        except AssertionError as error:
            error.add_note(services.compose("logs", "--tail", "40"))
            raise
        yield services
    finally:
        services.compose("--profile", "demo", "down", "--volumes")
