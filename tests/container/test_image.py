"""The image, run as locked down as a careful job definition would; ``scripts/test-container`` builds it."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import ros_to_parquet
from ros_to_parquet import contract
from ros_to_parquet.local_plan import make_plan
from tests.engine.sample_bags import TOPICS, write_bag, write_mcap

IMAGE = os.environ.get("ROS_TO_PARQUET_IMAGE", "")
MAX_BYTES = 450_000_000
MAX_VERSION_SECONDS = 0.3
ROUNDS = 40
ROOT = Path(__file__).parents[2]
NOBODY = "65534:65534"
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


def python(
    snippet: str, *, options: tuple[str, ...] = (), user: str | None = None, image: str = IMAGE
) -> subprocess.CompletedProcess[str]:
    return run("-c", snippet, options=("--entrypoint=python", *options), user=user, image=image)


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.strip()


def build(tag: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``airflow-batch-ros image build`` as a process."""
    command = [sys.executable, "-c", "import sys; from airflow_batch_ros.cli import main; sys.exit(main())"]
    return subprocess.run(
        [*command, "image", "build", "--engine", "docker", "--tag", tag, *words],
        capture_output=True,
        text=True,
        check=False,
    )


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
    assert labels["base.name"] == "python:3.12-slim-bookworm"
    assert labels["revision"]
    assert labels["description"]
    assert config["Volumes"] == {"/scratch": {}}


def setuid_files(image: str) -> str:
    words = ("find", image, "/", "-xdev", "-type", "f", "-perm", "/6000")
    return docker("run", "--rm", "--user=0", "--entrypoint", *words)


def test_nobody_becomes_root_by_a_file() -> None:
    assert setuid_files(IMAGE) == ""
    snippet = (
        "import os\n"
        "for folder, _, names in os.walk('/'):\n"
        "    for name in names if not folder.startswith(('/proc', '/sys')) else ():\n"
        "        path = os.path.join(folder, name)\n"
        "        if not os.path.islink(path) and 'security.capability' in os.listxattr(path):\n"
        "            print(path)"
    )
    done = python(snippet, user="0")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


SHELLS = ("sh", "bash", "dash", "rbash", "ash", "zsh", "busybox", "perl")
NOT_NEEDED = (
    *(
        "apt",
        "apt-get",
        "dpkg",
        "dpkg-deb",
        "pip",
        "pip3",
        "easy_install",
        "uv",
        "gcc",
        "make",
        "curl",
        "wget",
    ),
    *("su", "login", "newgrp", "chsh", "passwd", "mount", "umount", "nsenter", "unshare", "setpriv", "sudo"),
)


def found(names: tuple[str, ...], *, image: str = IMAGE) -> list[str]:
    """Which of the programs are on the search path of root, or anywhere among programs."""
    snippet = (
        "import glob, os, shutil, sys\n"
        "path = '/opt/ros-to-parquet/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'\n"
        f"print(*[name for name in {names!r} if shutil.which(name, path=path)])"
    )
    done = python(snippet, user="0", image=image)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_there_is_no_shell_and_nothing_that_installs_or_changes_users() -> None:
    assert found((*SHELLS, *NOT_NEEDED)) == []
    assert found(("python", "ros-to-parquet")) == ["python", "ros-to-parquet"], "what is there is found"
    for module in ("pip", "ensurepip"):
        assert "No module named" in python(f"import {module}").stderr
    assert run("-c", "true", options=("--entrypoint=/bin/sh",)).returncode != 0


def test_only_scratch_and_tmp_can_be_written_to() -> None:
    """Whatever the platform makes of the root: by the modes and owners of all that is there."""
    words = ("find", IMAGE, "/", "-xdev", "(", "-type", "f", "-o", "-type", "d", ")")
    look = ("run", "--rm", "--user=0", "--entrypoint", *words)
    assert sorted(docker(*look, "-perm", "/002").splitlines()) == ["/scratch", "/tmp"]
    user, group = python("import os; print(os.getuid(), *{os.getgid(), *os.getgroups()})").stdout.split()
    assert docker(*look, "(", "-user", user, "-o", "-group", group, ")").splitlines() == ["/scratch"]


def test_no_secret_is_in_its_layers(inspected: dict[str, Any]) -> None:
    said = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE) + json.dumps(
        inspected["Config"]
    )
    names = r"(?i)\b\w*(secret|password|passwd|token|credential|api_?key|access_?key)\w*\s*=\s*[^\s$]"
    assert not re.findall(names, said)
    assert not re.findall(r"://[^/\s:@]+:[^/\s:@]+@|AKIA[0-9A-Z]{16}|-----BEGIN", said)
    assert not [
        name for name in re.findall(r"\b(PIP_\w+|UV_\w+|HTTPS?_PROXY)=", said) if name != "PIP_PACKAGES"
    ]
    names_of_secrets = (
        "id_rsa",
        "id_ed25519",
        ".netrc",
        ".pypirc",
        ".git-credentials",
        "credentials",
        ".aws",
        ".docker",
    )
    tests: list[str] = []
    for name in names_of_secrets:
        tests += ["-o", "-name", name]
    assert docker("run", "--rm", "--user=0", "--entrypoint", "find", IMAGE, "/", "-xdev", *tests[1:]) == ""


@pytest.mark.parametrize("user", [None, NOBODY], ids=["own user", "any user"])
def test_scratch_is_the_one_place_to_write(user: str | None) -> None:
    snippet = (
        "import os, tempfile\n"
        "tempfile.TemporaryFile().write(bytes(1000))\n"
        "places = ('/', '/opt/ros-to-parquet', '/usr/local', '/var/tmp')\n"
        "print(os.getuid(), tempfile.gettempdir(), [each for each in places if os.access(each, os.W_OK)])"
    )
    done = python(snippet, user=user)
    assert done.stdout == f"{NOBODY.partition(':')[0] if user else 10001} /scratch []\n", done.stderr


def test_packages_that_nobody_asked_for_cost_nothing() -> None:
    layers = docker("history", "--no-trunc", "--format", "{{.Size}} {{.CreatedBy}}", IMAGE).splitlines()
    (extra,) = [layer for layer in layers if '-n "$EXTRA_PACKAGES"' in layer]
    assert extra.startswith("0B ")


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
    timed = python(script)
    assert float(timed.stdout) < MAX_VERSION_SECONDS, timed.stderr


@pytest.mark.parametrize("name", ["first.bag", "second.mcap", "third.db3"])
def test_info(bags: Path, name: str) -> None:
    done = run("info", "--json", f"/bags/{name}", options=(f"--volume={bags}:/bags:ro",))
    assert done.returncode == 0, done.stderr
    assert all(topic in done.stdout for topic in TOPICS)
    json.loads(done.stdout)


@pytest.mark.parametrize("user", [None, NOBODY], ids=["own user", "any user"])
def test_extract(bags: Path, tmp_path: Path, user: str | None) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    lake.chmod(0o777)
    done = run(
        *("extract", "/bags", "--output", "/lake", "--drive-id", "drive_1", "--report"),
        options=(f"--volume={bags}:/bags:ro", f"--volume={lake}:/lake"),
        user=user,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report: /lake/_reports/drive_id=drive_1/report.html"
    report = (lake / "_reports/drive_id=drive_1/report.html").read_text()
    assert report.count("<svg") > len(TOPICS)
    # No warning of matplotlib's, which has no place for its settings but the one it is given.
    assert all(line.startswith("{") for line in done.stderr.splitlines()), done.stderr
    written = list(lake.glob("imu.data/*/drive_id=drive_1/*.parquet"))
    rows = sum(pq.read_metadata(path).num_rows for path in written)
    assert rows == 3 * ROUNDS


def test_it_plans_too() -> None:
    """`image build` lays the provider beside the engine; Airflow is not needed for it."""
    done = run("submit", "--help")
    assert done.returncode == 0, done.stderr
    assert "--conf" in done.stdout
    assert python("import airflow").returncode == 1


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


# --- SIGTERM ----------------------------------------------------------------------------------------

STAY = """
import sys, threading
from ros_to_parquet import cli, extraction

whole = extraction.Extraction.add

def stay(rows, block):
    whole(rows, block)
    print("in the middle of it", flush=True)
    threading.Event().wait()

extraction.Extraction.add = stay
sys.exit(cli.main(sys.argv[1:]))
"""


def test_sigterm_as_the_first_process(bags: Path, tmp_path: Path) -> None:
    """As a reclaim does it: the signal to PID 1, which has no way to end but its own."""
    lake = tmp_path / "lake"
    plan = make_plan(
        [str(bags / "first.bag")],
        output=str(lake),
        drive_id="drive_1",
        options=contract.ExtractOptions(),
        overwrite=False,
        take_over=False,
    )
    for path in (lake, *lake.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    volumes = (f"--volume={bags}:{bags}:ro", f"--volume={lake}:{lake}")
    plan_path = lake / contract.plan_key("drive_1", plan.plan_id)
    words = ("-c", STAY, "run", "--plan", str(plan_path))
    container = docker("run", "--detach", *LOCKED_DOWN, *volumes, "--entrypoint=python", IMAGE, *words)
    try:
        with subprocess.Popen(
            ["docker", "logs", "--follow", container], stdout=subprocess.PIPE, text=True
        ) as logs:
            assert logs.stdout is not None
            assert "in the middle of it\n" in logs.stdout
            docker("stop", "--time", "20", container)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == str(
            int(contract.ExitCode.RETRY)
        )
    finally:
        docker("rm", "--force", "--volumes", container)
    left = {path.name for path in lake.rglob("*") if path.is_file()}
    assert not [name for name in left if name.endswith(".parquet") or name.startswith(".partial-")]
    record = lake / contract.failed_key("drive_1", plan.plan_id, 0)
    assert json.loads(record.read_text())["exit_code"] == contract.ExitCode.RETRY


# --- images of one's own ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_name() -> Iterator[str]:
    """A name for an image, which is removed afterwards."""
    name = f"ros-to-parquet-test:{uuid.uuid4().hex[:12]}"
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)


def test_extra_packages(own_name: str) -> None:
    built = build(
        own_name,
        "--extra-packages",
        "tree",
        "login",
        "--pip-packages",
        "humanize",
        "--platform",
        "linux/amd64",
    )
    assert built.returncode == 0, built.stderr[-2_000:]
    assert built.stdout == f"{own_name}\n"
    used = python(
        "import humanize, numpy, subprocess\n"
        "subprocess.run(['tree', '--version'], check=True, stdout=subprocess.DEVNULL)\n"
        "print(humanize.naturalsize(1000), numpy.__version__)",
        image=own_name,
    )
    locked = [
        line.split()[0]
        for line in (ROOT / "container" / "requirements.lock").read_text().splitlines()
        if line
    ]
    (numpy,) = [each.removeprefix("numpy==") for each in locked if each.startswith("numpy==")]
    assert used.stdout == f"1.0 kB {numpy}\n", used.stderr
    assert run("--version", image=own_name).returncode == 0
    # login brings files that are setuid.
    assert setuid_files(own_name) == ""
    # Debian's packages may be scripts, and what is named stays.
    assert found((*SHELLS, *NOT_NEEDED), image=own_name) == [
        *("sh", "bash", "dash", "rbash", "perl"),
        *("login", "newgrp"),
    ]


def test_packages_do_not_change_what_is_locked(own_name: str) -> None:
    built = build(own_name, "--pip-packages", "numpy<2")
    assert built.returncode == 4
    assert "conflicting" in built.stderr
    assert "could not be built, as docker says above" in built.stderr


def test_an_image_with_messages_of_its_own(own_name: str, tmp_path: Path) -> None:
    folder = ROOT / "examples" / "image-with-messages"
    docker("build", "--tag", own_name, "--build-arg", f"BASE_IMAGE={IMAGE}", str(folder))
    stamp, place, turns = (1_700_000_000, 5), 2, 3.25
    payload = b"\0\1\0\0" + struct.pack("<iIB7xd", *stamp, place, turns)
    write_mcap(tmp_path / "wheels.mcap", "car_msgs/msg/Wheel", [payload])
    (tmp_path / "lake").mkdir()
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o644)
    volume = f"--volume={tmp_path}:/data"
    words = ("extract", "/data/wheels.mcap", "--output", "/data/lake", "--drive-id", "drive_1")
    done = run(*words, options=(volume,), image=own_name)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "lake").glob("topic/*/*/*.parquet")
    (row,) = pq.read_table(file, partitioning=None).to_pylist()
    assert (row["place"], row["turns_per_second"]) == (place, turns), row


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
