"""The image, run as locked down as a careful job definition would; ``scripts/test-container`` builds it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import ros_to_parquet
from ros_to_parquet import contract
from tests.engine.sample_bags import TOPICS, write_bag

IMAGE = os.environ.get("ROS_TO_PARQUET_IMAGE", "")
MAX_BYTES = 450_000_000
MAX_VERSION_SECONDS = 0.3
ROUNDS = 40
LOCKED_DOWN = (
    "--read-only",
    "--tmpfs=/tmp",
    "--network=none",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)

pytestmark = pytest.mark.skipif(not IMAGE, reason="needs a built image: scripts/test-container")


def run(
    *words: str, options: tuple[str, ...] = (), user: str | None = None, image: str = IMAGE
) -> subprocess.CompletedProcess[str]:
    """Runs the image with arguments ``words``, by default as the image's own user."""
    as_user = (f"--user={user}",) if user else ()
    command = ["docker", "run", "--rm", *LOCKED_DOWN, *as_user, *options, image, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def inspected() -> dict[str, Any]:
    output = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=True).stdout
    (image,) = json.loads(output)
    return image


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    for name in ("first.bag", "second.mcap", "third.db3"):
        write_bag(folder / name, messages=ROUNDS)
    # A folder that only this user may enter is not one that the image's user reads.
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_size(inspected: dict[str, Any]) -> None:
    assert inspected["Size"] < MAX_BYTES


def test_config(inspected: dict[str, Any]) -> None:
    config = inspected["Config"]
    assert int(config["User"]) > 0
    assert config["Entrypoint"] == ["ros-to-parquet"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["title"] == "ros-to-parquet"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == ros_to_parquet.__version__


def test_version() -> None:
    assert run("--version").stdout == f"ros-to-parquet {ros_to_parquet.__version__}\n"


def test_version_is_fast_enough_for_a_health_check() -> None:
    # Timed inside, so that starting a container does not count; the least of five, so that neighbours do not.
    script = (
        "import subprocess, time\n"
        "def once():\n"
        "    begin = time.perf_counter()\n"
        "    subprocess.run(['ros-to-parquet', '--version'], check=True, stdout=subprocess.DEVNULL)\n"
        "    return time.perf_counter() - begin\n"
        "print(min(once() for _ in range(5)))"
    )
    timed = run("-c", script, options=("--entrypoint=python",))
    assert float(timed.stdout) < MAX_VERSION_SECONDS, timed.stderr


@pytest.mark.parametrize("name", ["first.bag", "second.mcap", "third.db3"])
def test_info(bags: Path, name: str) -> None:
    done = run("info", "--json", f"/bags/{name}", options=(f"--volume={bags}:/bags:ro",))
    assert done.returncode == 0, done.stderr
    assert all(topic in done.stdout for topic in TOPICS)
    json.loads(done.stdout)


@pytest.mark.parametrize("user", [None, "65534:65534"], ids=["own user", "any user"])
def test_extract(bags: Path, tmp_path: Path, user: str | None) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    lake.chmod(0o777)
    done = run(
        *("extract", "/bags", "--output", "/lake", "--drive-id", "drive_1"),
        options=(f"--volume={bags}:/bags:ro", f"--volume={lake}:/lake"),
        user=user,
    )
    assert done.returncode == 0, done.stderr
    written = list(lake.glob("imu.data/*/drive_id=drive_1/*.parquet"))
    rows = sum(pq.read_metadata(path).num_rows for path in written)
    assert rows == 3 * ROUNDS


def test_errors_are_exit_codes(tmp_path: Path) -> None:
    broken = tmp_path / "broken.bag"
    broken.write_bytes(b"not a bag at all")
    tmp_path.chmod(0o755)
    done = run(
        *("extract", "/bags/broken.bag", "--output", "/tmp/lake"),
        options=(f"--volume={tmp_path}:/bags:ro",),
    )
    assert done.returncode == contract.ExitCode.BAG_UNREADABLE, done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_from_it_with_transforms(bags: Path, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "transforms"
    made = f"{IMAGE.partition(':')[0]}-example:test"
    build = ["docker", "build", "--tag", made, "--build-arg", f"ENGINE={IMAGE}", str(example)]
    subprocess.run(build, check=True)
    listed = run("transforms", image=made)
    assert "one_per_second" in listed.stdout, listed.stderr
    lake = tmp_path / "lake"
    lake.mkdir()
    lake.chmod(0o777)
    done = run(
        *("extract", "/bags", "--output", "/lake", "--drive-id", "drive_1"),
        *("--transform", "/imu/data=one_per_second"),
        options=(f"--volume={bags}:/bags:ro", f"--volume={lake}:/lake"),
        image=made,
    )
    assert done.returncode == 0, done.stderr
    written = list(lake.glob("imu.data/*/drive_id=drive_1/*.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in written) == 3, "one a bag"
