"""The embedded AWS, as others use it: `EmbeddedAws` starts it, makes the stack, and says how to reach it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from airflow_batch_ros.local import batch_stack, fault_client
from airflow_batch_ros.local.console import BASE_PATH as CONSOLE_PATH
from airflow_batch_ros.local.fault_client import FaultsInForce
from airflow_batch_ros.local.faults import Fault
from airflow_batch_ros.local.processes import end_process
from airflow_batch_ros.local.state import (
    EXIT_ALREADY_RUNNING,
    LocalAwsError,
    RunningServer,
    ServerOptions,
    StateFolder,
    find_running,
)

DEFAULT_STATE_DIR = Path(".local/aws")
START_PATIENCE_S = 90.0
STOP_PATIENCE_S = 15.0


class EmbeddedAws:
    """S3, Batch and CloudWatch Logs on this machine, with jobs that run for real: as processes of the
    engine, or as containers of its image.

    A context manager; or `start` and `stop`. All it starts ends with this process, unless detached. Where
    one runs already over the same folder it is used as it is, and left running at the end.

    Args:
        state_dir: S3's data, logs and ports; kept between runs.
        buckets: made where missing, and what jobs may read and write.
        allow: further URIs that jobs may read and write, as ``s3://bucket/prefix/``.
        options: how the server runs.

    >>> with EmbeddedAws(buckets=["drives", "lake"]) as aws:  # doctest: +SKIP
    ...     os.environ.update(aws.environment())
    ...     aws.client("s3").list_buckets()
    """

    def __init__(
        self,
        state_dir: Path | str = DEFAULT_STATE_DIR,
        *,
        buckets: Sequence[str] = (),
        allow: Sequence[str] = (),
        options: ServerOptions | None = None,
    ) -> None:
        self.state = StateFolder(Path(state_dir).absolute())
        self._buckets = tuple(buckets)
        self._allow = tuple(allow)
        self._options = options or ServerOptions()
        self._server: RunningServer | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, detached: bool = False) -> Self:
        """Start what does not run yet; return when jobs can be submitted.

        Args:
            detached: it goes on when this process ends, until `stop_running`.

        Raises:
            LocalAwsError: it did not start.
        """
        self._server = find_running(self.state) or self._launch(detached=detached)
        try:
            self.ensure_buckets(*self._buckets)
            self.allow(*self._allow)
        except BaseException:
            self.stop()
            raise
        if detached:
            self._process = None
        return self

    @classmethod
    def attach(cls, state_dir: Path | str = DEFAULT_STATE_DIR) -> Self:
        """The one that runs over ``state_dir``, whoever started it; `stop` leaves it running.

        Raises:
            LocalAwsError: none does.
        """
        aws = cls(state_dir)
        aws._server = find_running(aws.state)
        if aws._server is None:
            raise LocalAwsError(f"no embedded AWS runs over {aws.state.path}: airflow-batch-ros local up")
        return aws

    def wait(self) -> None:
        """Block until a server that was started here ends by itself.

        Raises:
            LocalAwsError: it ended with an error.
        """
        if self._process is not None and self._process.wait() != 0:
            raise LocalAwsError(f"the embedded AWS ended: {_last_line(self.state.server_log)}")

    def stop(self) -> None:
        """End what `start` started: servers and jobs. What ran before `start`, or is detached, stays."""
        process, self._process, self._server = self._process, None, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def owned(self) -> bool:
        """`stop` will end it: it was started here, and not detached."""
        return self._process is not None

    @property
    def server(self) -> RunningServer:
        """Endpoints, credentials and process id.

        Raises:
            LocalAwsError: not started.
        """
        if self._server is None:
            raise LocalAwsError(
                "the embedded AWS is not started: call start(), or use it as a context manager"
            )
        return self._server

    def environment(self) -> dict[str, str]:
        """Environment variables with which boto3, the engine and Airflow's ``aws_default`` reach it."""
        server = self.server
        connection = {
            "conn_type": "aws",
            "login": server.access_key,
            "password": server.secret_key,
            "extra": {
                "region_name": server.region,
                "endpoint_url": server.endpoint_url,
                "service_config": {"s3": {"endpoint_url": server.s3_endpoint_url}},
            },
        }
        without_proxy = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", "127.0.0.1"]
        host = urlsplit(server.endpoint_url).hostname
        if host not in (None, "127.0.0.1"):
            without_proxy.append(str(host))
        hosts = ",".join(filter(None, without_proxy))
        return {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_DEFAULT_REGION": server.region,
            "AWS_ENDPOINT_URL": server.endpoint_url,
            "AWS_ENDPOINT_URL_S3": server.s3_endpoint_url,
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
            "AIRFLOW__ROS_TO_PARQUET__CONSOLE_BASE_URL": f"{server.endpoint_url}{CONSOLE_PATH}",
            "NO_PROXY": hosts,
            "no_proxy": hosts,  # which goes before the other one where the user has it
        }

    def client(self, service: str) -> Any:
        """A boto3 client of ``service``, whatever this process' environment says."""
        return self.server.client(service)

    def ensure_buckets(self, *names: str) -> None:
        """Make buckets that are not there, and let jobs read and write them.

        Raises:
            LocalAwsError: S3 does not take a name.
        """
        from botocore.exceptions import ClientError, ParamValidationError

        s3 = self.client("s3")
        there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
        for name in names:
            if name not in there:
                try:
                    s3.create_bucket(Bucket=name)
                except (ClientError, ParamValidationError) as error:
                    raise LocalAwsError(f"bucket {name!r} could not be made: {error}") from error
        self.allow(*(f"s3://{name}/" for name in names))

    def allow(self, *uris: str) -> None:
        """Let jobs submitted from now on read and write below ``uris`` too."""
        containers = self._options.containers
        image = batch_stack.IMAGE if containers is None else containers.image
        batch_stack.allow(self.client("batch"), uris, image=image)

    @contextmanager
    def faults(self, *faults: Fault) -> Iterator[FaultsInForce]:
        """Have these go wrong inside the ``with``, for every client and every job.

        Of several that fit a request or a job, the first one befalls it. Those of S3 need
        ``ServerOptions(s3_faults=True)``.

        Raises:
            FaultError: one has values that it cannot have.
            LocalAwsError: one is of S3's, and there is no proxy before S3.

        >>> with aws.faults(S3Error(error="SlowDown", key="*.bag", times=3)) as faults:  # doctest: +SKIP
        ...     ...
        ...     assert faults.hits() == 3
        """
        server = self.server
        in_force = FaultsInForce(server, fault_client.add(server, faults))
        try:
            yield in_force
        finally:
            in_force.end()

    def _launch(self, *, detached: bool) -> RunningServer:
        try:
            self.state.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalAwsError(f"{self.state.path} cannot be its folder: {error.strerror}") from error
        settings = {"state_dir": str(self.state.path), "detached": detached, "options": asdict(self._options)}
        with self.state.server_log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow_batch_ros.local.server", json.dumps(settings)],
                cwd=self.state.path,
                # Nothing of the user's AWS: not a profile that moto would look for, not a credential.
                env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._process = process
        try:
            server = self._wait_until_ready(process)
        except BaseException:
            self.stop()
            raise
        if server.pid != process.pid:
            self._process = None
        return server

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> RunningServer:
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            server = find_running(self.state)
            if server is not None:
                return server
            # Another process may be starting one over the same folder: then that one is waited for.
            if process.poll() not in (None, EXIT_ALREADY_RUNNING):
                raise LocalAwsError(
                    f"the embedded AWS did not start: {_last_line(self.state.server_log)} "
                    f"(see {self.state.server_log})"
                )
            time.sleep(0.02)
        raise LocalAwsError(
            f"the embedded AWS did not start within {START_PATIENCE_S:.0f} s: "
            f"see {self.state.server_log} and {self.state.seaweed_log}"
        )


def stop_running(state: StateFolder) -> RunningServer | None:
    """End the server that runs over ``state``, whoever started it, with its jobs; None where none does."""
    server = find_running(state)
    if server is None or not end_process(server.pid, server.started, patience_s=STOP_PATIENCE_S):
        return None
    return server


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
    return "no reason given"
