"""What an embedded AWS keeps in its folder, and how others find out whether it runs."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from airflow_batch_ros.local.processes import is_locked, start_time

EXIT_ALREADY_RUNNING = 3
"""Exit code of a server that found another one over its folder."""


class LocalAwsError(RuntimeError):
    """The embedded AWS, or a part of it, did not start or ended; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class Credentials:
    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """How jobs run as containers.

    Attributes:
        image: of the job definition that is there from the start; other definitions name theirs.
        network: a Docker network, on which this server is ``host``; empty makes one with no way out but to
            this machine, on whose address there the server then listens.
    """

    image: str = "ros-to-parquet"
    network: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How an embedded AWS runs.

    Attributes:
        region: its only region.
        port: of Batch, logs and the rest; 0 is that of the last run, or any free one.
        s3_port: likewise.
        entrypoint: what a job's command is given to, as to the image's entry point; containers have it.
        containers: jobs run as containers of their images; None runs them as processes of the engine.
        slots: jobs that run at the same time; 0 is one a CPU.
        kill_grace_s: from SIGTERM to SIGKILL when a job is terminated or timed out.
        minimum_timeout_s: the least ``attemptDurationSeconds`` of a job; AWS's is 60.
        all_interfaces: listen on all of them, not on loopback alone, so that other containers can reach it.
            moto checks no credentials, and whoever may submit a job can run the engine: only behind a wall.
        credentials: of S3; None is those of the last run, or new ones.
        s3_faults: have a proxy before S3, without which there are no faults of S3's.
    """

    region: str = "us-east-1"
    port: int = 0
    s3_port: int = 0
    entrypoint: tuple[str, ...] = ("ros-to-parquet",)
    slots: int = 0
    kill_grace_s: float = 30.0
    minimum_timeout_s: int = 60
    all_interfaces: bool = False
    credentials: Credentials | None = None
    containers: ContainerOptions | None = None
    s3_faults: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """What a running server says about itself.

    Attributes:
        started: see `processes.start_time`.
        started_at: ISO 8601, UTC; for people.
        jobs: what jobs run as; for people.
        s3_faults: S3 is reached through a proxy that has faults.
    """

    pid: int
    started: str
    started_at: str
    endpoint_url: str
    s3_endpoint_url: str
    region: str
    slots: int
    access_key: str
    secret_key: str
    jobs: str = "processes"
    s3_faults: bool = False

    def client(self, service: str) -> Any:
        """A boto3 client of ``service``, whatever the user's environment and files say of AWS or proxies."""
        from botocore.config import Config
        from botocore.session import Session

        nothing_of_the_user = {
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
        }
        return Session(nothing_of_the_user).create_client(
            service,
            region_name=self.region,
            endpoint_url=self.s3_endpoint_url if service == "s3" else self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(proxies={}),
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays the same from run to run: credentials, and ports where they are still free.

    Attributes:
        owner: of what is started outside this machine's processes.
    """

    credentials: Credentials
    owner: str
    port: int = 0
    s3_ports: Mapping[str, int] = field(default_factory=dict)
    s3_proxy_port: int = 0


@dataclass(frozen=True, slots=True)
class StateFolder:
    path: Path

    @property
    def s3(self) -> Path:
        """All of S3's data."""
        return self.path / "s3"

    @property
    def scratch(self) -> Path:
        """Working directories of running jobs."""
        return self.path / "scratch"

    @property
    def seaweed_log(self) -> Path:
        return self.path / "seaweedfs.log"

    @property
    def server_log(self) -> Path:
        return self.path / "server.log"

    @property
    def lock(self) -> Path:
        """Held by the server for as long as it lives."""
        return self.path / "lock"

    @property
    def running(self) -> Path:
        """A `RunningServer`, there while the server is ready."""
        return self.path / "running.json"

    @property
    def kept(self) -> Path:
        return self.path / "kept.json"


def find_running(state: StateFolder) -> RunningServer | None:
    """The server over ``state`` that is up and ready; None where none is."""
    try:
        raw = json.loads(state.running.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    server = RunningServer(**raw)
    # Otherwise the file is what a server that was killed left behind.
    return server if start_time(server.pid) == server.started and is_locked(state.lock) else None


def write_running(state: StateFolder, server: RunningServer) -> None:
    _write_private(state.running, asdict(server))


def read_kept(state: StateFolder) -> Kept:
    """What the last run kept; new credentials where there was none."""
    try:
        raw = json.loads(state.kept.read_text())
    except FileNotFoundError:
        credentials = Credentials(f"LOCAL{secrets.token_hex(8).upper()}", secrets.token_urlsafe(24))
        return Kept(credentials, _new_owner())
    owner = raw.get("owner") or _new_owner()
    proxy_port = raw.get("s3_proxy_port", 0)
    return Kept(Credentials(**raw["credentials"]), owner, raw["port"], raw["s3_ports"], proxy_port)


def _new_owner() -> str:
    return secrets.token_hex(6)


def write_kept(state: StateFolder, kept: Kept) -> None:
    _write_private(state.kept, asdict(kept))


def _write_private(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` in one step; it holds a secret, so nobody else may read it."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=1)
    draft.replace(path)
