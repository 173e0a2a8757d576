"""``airflow-batch-ros image push`` to a registry on this machine, with a login and without."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_batch_ros.image.engine import ImageError, find_engine, login, push

PASSWORD = "secret-of-the-registry"
HTPASSWD = "AWS:$2b$05$abcdefghijklmnopqrstuuIwTm9henchirBqUfvuoNrWExGiIP5SK\n"
"""bcrypt of it."""

PATIENCE_S = 30

pytestmark = [
    pytest.mark.skipif(
        "ROS_TO_PARQUET_IMAGE" not in os.environ, reason="needs a Docker engine: scripts/test-container"
    ),
    pytest.mark.skipif(
        shutil.which("docker-registry") is None,
        reason="needs a registry (Debian and Ubuntu: apt-get install docker-registry)",
    ),
]


@contextmanager
def registry(folder: Path, *, htpasswd: str = "") -> Iterator[str]:
    """A registry on the loopback interface; its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"localhost:{probe.getsockname()[1]}"
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
        "http": {"addr": address},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    try:
        wait_for(f"http://{address}/v2/", folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it asks for a login
        except OSError as error:
            if time.monotonic() > deadline:
                error.add_note(log.read_text())
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="module")
def small_image() -> Iterator[str]:
    """An image of one small file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    name = f"ros-to-parquet-push-test:{uuid.uuid4().hex[:12]}"
    subprocess.run(["docker", "import", "-", name], input=archive.getvalue(), check=True, capture_output=True)
    yield name
    remove(name)


def remove(*names: str) -> None:
    subprocess.run(["docker", "image", "rm", "--force", *names], capture_output=True, check=False)


def manifest_digest(address: str, repository: str, tag: str) -> str:
    """What the registry itself says."""
    accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    request = urllib.request.Request(f"http://{address}/v2/{repository}/manifests/{tag}", headers=accept)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.headers["Docker-Content-Digest"])


def test_the_digest_is_the_registrys(small_image: str, tmp_path: Path) -> None:
    with registry(tmp_path) as address:
        remote = f"{address}/team/ros-to-parquet"
        command = [
            sys.executable,
            "-c",
            "import sys; from airflow_batch_ros.cli import main; sys.exit(main())",
        ]
        words = ["image", "push", "--engine", "docker", "--tag", small_image, "--to", f"{remote}:one"]
        for _ in range(2):  # what is there already has the same digest
            done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert re.fullmatch(rf"{remote}@sha256:[0-9a-f]{{64}}\n", done.stdout)
            assert "The push refers to" in done.stderr
            digest = done.stdout.strip().partition("@")[2]
            assert digest == manifest_digest(address, "team/ros-to-parquet", "one")
        remove(f"{remote}:one")


def test_a_login_is_for_one_push(small_image: str, tmp_path: Path) -> None:
    engine = find_engine("docker")
    with registry(tmp_path, htpasswd=HTPASSWD) as address:
        remote = f"{address}/team/ros-to-parquet"
        with pytest.raises(ImageError, match=f"{remote}:one could not be pushed.*docker login {address}"):
            push(engine, small_image, remote, "one")
        with (
            pytest.raises(ImageError, match=f"{address} refuses the login: .*(?i:unauthorized)"),
            login(engine, address, "AWS", "wrong"),
        ):
            pass
        with login(engine, address, "AWS", PASSWORD) as environment:
            pushed = push(engine, small_image, remote, "one", environment)
            (folder,) = environment.values()
            assert PASSWORD not in subprocess.run(["ps", "axww"], capture_output=True, text=True).stdout
        assert pushed.startswith(f"{remote}@sha256:")
        assert not Path(folder).exists()
        with pytest.raises(ImageError, match="could not be pushed"):  # nothing stays logged in
            push(engine, small_image, remote, "two")
        remove(f"{remote}:one", f"{remote}:two")
