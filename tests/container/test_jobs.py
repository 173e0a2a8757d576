"""Batch jobs as containers of the real image, on an embedded AWS outside any container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from airflow_batch_ros.local import JOB_DEFINITION, JOB_QUEUE, EmbeddedAws, ServerOptions
from airflow_batch_ros.local.containers import JOB_LABEL, OUT_OF_MEMORY, OWNER_LABEL
from airflow_batch_ros.local.state import ContainerOptions, LocalAwsError, read_kept
from tests.engine.sample_bags import TOPICS, write_bag
from tests.local.conftest import Jobs

IMAGE = os.environ.get("ROS_TO_PARQUET_IMAGE", "")
PYTHON_IMAGE = "ros-to-parquet-test-python"
"""The image with Python for an entry point, so that a job can be a snippet."""

SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
ROUNDS = 40

pytestmark = pytest.mark.skipif(not IMAGE, reason="needs a built image: scripts/test-container")


def docker(*words: str, stdin: str | None = None) -> str:
    return subprocess.run(
        ["docker", *words], input=stdin, capture_output=True, text=True, check=True
    ).stdout.strip()


def options(image: str) -> ServerOptions:
    return ServerOptions(
        containers=ContainerOptions(image=image), slots=2, kill_grace_s=1.0, minimum_timeout_s=1
    )


@pytest.fixture(scope="module")
def python_image() -> Iterator[str]:
    docker("build", "--tag", PYTHON_IMAGE, "-", stdin=f'FROM {IMAGE}\nENTRYPOINT ["python"]\n')
    yield PYTHON_IMAGE
    docker("image", "rm", PYTHON_IMAGE)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory, python_image: str) -> Iterator[EmbeddedAws]:
    folder = tmp_path_factory.mktemp("aws")
    with EmbeddedAws(folder, buckets=["drives", "lake"], options=options(python_image)) as running:
        yield running
    assert left(running) == []


@pytest.fixture(scope="module")
def jobs(aws: EmbeddedAws) -> Jobs:
    return Jobs(aws.client("batch"), aws.client("logs"))


def left(aws: EmbeddedAws) -> list[str]:
    """Containers and networks that a server has on this machine."""
    label = f"label={OWNER_LABEL}={read_kept(aws.state).owner}"
    found = docker("ps", "--all", "--quiet", "--filter", label).split()
    return found + docker("network", "ls", "--quiet", "--filter", label).split()


def wait_until_gone(aws: EmbeddedAws) -> None:
    deadline = time.monotonic() + 30
    while found := left(aws):
        assert time.monotonic() < deadline, f"still there: {found}"
        time.sleep(0.1)


def wait_for_line(jobs: Jobs, job_id: str, line: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        job = jobs.describe(job_id)
        if "logStreamName" in job["container"]:
            try:
                if line in jobs.lines(job):
                    return
            except ClientError as error:
                assert error.response["Error"]["Code"] == "ResourceNotFoundException"
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


def requirements(memory_mib: int, vcpus: float = 1) -> list[dict[str, str]]:
    return [{"type": "MEMORY", "value": str(memory_mib)}, {"type": "VCPU", "value": str(vcpus)}]


def test_a_job_and_what_it_finds(aws: EmbeddedAws, jobs: Jobs) -> None:
    code = (
        "import json, os, sys; print(json.dumps([dict(os.environ), os.getuid(), sys.argv[1:]]));"
        "print('to standard error', file=sys.stderr); sys.exit(3)"
    )
    extra = {"environment": [{"name": "MINE", "value": "1"}]}
    job = jobs.run(code, "Ref::plan", "x", parameters={"plan": "s3://lake/p"}, containerOverrides=extra)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Essential container in task exited")
    assert job["container"]["exitCode"] == 3
    first, second = sorted(jobs.lines(job), reverse=True)
    assert first == "to standard error"
    environment, user, arguments = json.loads(second)
    assert arguments == ["s3://lake/p", "x"]
    assert user == 10001
    assert environment["MINE"] == "1"
    assert environment["AWS_BATCH_JOB_ID"] == job["jobId"]
    assert environment["AWS_BATCH_JOB_ATTEMPT"] == "1"
    assert environment["AWS_ENDPOINT_URL_S3"] == aws.server.s3_endpoint_url
    assert environment["TMPDIR"] == "/scratch"  # the image's own


def test_an_array_and_attempts(jobs: Jobs) -> None:
    code = (
        "import os, sys; print(os.environ['AWS_BATCH_JOB_ARRAY_INDEX']);"
        "sys.exit(75 if os.environ['AWS_BATCH_JOB_ATTEMPT'] == '1' else 0)"
    )
    parent_id = jobs.submit(code, arrayProperties={"size": 2})
    assert (
        jobs.until(parent_id, lambda job: job["status"] in ("SUCCEEDED", "FAILED"), 60)["status"]
        == "SUCCEEDED"
    )
    for index in range(2):
        child = jobs.describe(f"{parent_id}:{index}")
        assert [attempt["container"]["exitCode"] for attempt in child["attempts"]] == [75, 0]
        assert jobs.lines(child) == [str(index)]


def test_too_much_memory_is_out_of_memory_and_not_retried(jobs: Jobs) -> None:
    job = jobs.run("b'x' * (200 << 20)", containerOverrides={"resourceRequirements": requirements(64)})
    assert job["status"] == "FAILED"
    assert (job["container"]["exitCode"], job["container"]["reason"]) == (137, OUT_OF_MEMORY)
    assert len(job["attempts"]) == 1
    assert job["attempts"][0]["container"]["reason"] == OUT_OF_MEMORY


def test_limits_reach_the_kernel(jobs: Jobs) -> None:
    code = """
from pathlib import Path
cgroup = Path("/sys/fs/cgroup")
if (cgroup / "cpu.max").exists():
    quota, period = (cgroup / "cpu.max").read_text().split()
    memory = (cgroup / "memory.max").read_text()
else:
    quota, period = (int((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    memory = (cgroup / "memory" / "memory.limit_in_bytes").read_text()
print(int(quota) / int(period), int(memory) >> 20)
"""
    job = jobs.run(code, containerOverrides={"resourceRequirements": requirements(300, 0.25)})
    assert jobs.lines(job) == ["0.25 300"]


def test_the_root_is_read_only_and_scratch_is_not(jobs: Jobs) -> None:
    code = (
        "import errno, pathlib\n"
        "pathlib.Path('/scratch/x').write_text('x')\n"
        "try: pathlib.Path('/opt/x').write_text('x')\n"
        "except OSError as error: print(errno.errorcode[error.errno])"
    )
    job = jobs.run(code)
    assert (job["status"], jobs.lines(job)) == ("SUCCEEDED", ["EROFS"])


def test_a_job_reaches_the_embedded_aws_and_nothing_else(aws: EmbeddedAws, jobs: Jobs) -> None:
    code = """
import json, os, socket, sys, urllib.request
with urllib.request.urlopen(os.environ["ECS_CONTAINER_METADATA_URI_V4"], timeout=5) as answer:
    print(json.load(answer)["LogOptions"]["awslogs-stream"])
host, _, port = os.environ["AWS_ENDPOINT_URL_S3"].removeprefix("http://").partition(":")
socket.create_connection((host, int(port)), timeout=5).close()
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
except OSError:
    print("no way out")
"""
    job = jobs.run(code)
    assert jobs.lines(job) == [job["container"]["logStreamName"], "no way out"]


def test_lines_come_while_it_runs_and_terminate_is_sigterm(jobs: Jobs) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(9)))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    job_id = jobs.submit(code)
    wait_for_line(jobs, job_id, "ready")
    assert jobs.describe(job_id)["status"] == "RUNNING"
    jobs.batch.terminate_job(jobId=job_id, reason="no longer wanted")
    job = jobs.wait(job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "no longer wanted")
    assert job["container"]["exitCode"] == 9
    assert jobs.lines(job) == ["ready", "bye"]


def test_a_timeout_kills_what_does_not_listen(jobs: Jobs) -> None:
    job = jobs.run(SLEEP, timeout={"attemptDurationSeconds": 1})  # process 1 ignores SIGTERM by default
    assert (job["status"], job["statusReason"]) == ("FAILED", "Job attempt duration exceeded timeout")
    assert job["container"]["exitCode"] == 137
    assert "reason" not in job["container"]
    assert len(job["attempts"]) == 1


def test_many_lines_and_a_long_one(jobs: Jobs) -> None:
    job = jobs.run("for i in range(500): print(i)\nprint('x' * 300_000)\nprint('last', end='')")
    lines = jobs.lines(job)
    assert lines[:500] == [str(i) for i in range(500)]
    assert "".join(lines[500:]) == "x" * 300_000 + "last"
    assert max(map(len, lines)) <= 256 * 1024


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"image": "no-such-image:here"}, "CannotPullContainerError: no image no-such-image:here"),
        ({"privileged": True}, "CannotCreateContainerError: not given here: privileged"),
        (
            {"volumes": [{"name": "etc", "host": {"sourcePath": "/etc"}}]},
            "CannotCreateContainerError: not given here: volume etc",
        ),
    ],
)
def test_what_cannot_start(jobs: Jobs, python_image: str, properties: dict[str, Any], reason: str) -> None:
    container = {"image": python_image, "resourceRequirements": requirements(64), **properties}
    definition = jobs.batch.register_job_definition(
        jobDefinitionName="cannot", type="container", containerProperties=container
    )["jobDefinitionArn"]
    job = jobs.run("", jobDefinition=definition)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith(reason)
    assert "exitCode" not in job["container"]


def test_an_image_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        LocalAwsError, match=r"image 'no-such-image'.*docker build --tag no-such-image container"
    ):
        EmbeddedAws(tmp_path, options=options("no-such-image")).start()


def test_containers_end_with_a_server_that_is_killed(tmp_path: Path, python_image: str) -> None:
    with EmbeddedAws(tmp_path / "aws", options=options(python_image)) as aws:
        jobs = Jobs(aws.client("batch"), aws.client("logs"))
        job_id = jobs.submit(SLEEP)
        wait_for_line(jobs, job_id, "ready")
        assert docker("ps", "--quiet", "--filter", f"label={JOB_LABEL}={job_id}")
        os.kill(aws.server.pid, signal.SIGKILL)
        wait_until_gone(aws)


def test_the_engine_extracts_a_drive(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag", messages=ROUNDS)
    conf = {"drives_to_process": {"drive_1": {"bucket": "drives", "prefix": "drive_1/"}}}
    with EmbeddedAws(tmp_path / "aws", buckets=["drives", "lake"], options=options(IMAGE)) as aws:
        body = (tmp_path / "a.bag").read_bytes()
        aws.client("s3").put_object(Bucket="drives", Key="drive_1/a.bag", Body=body)
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("airflow-batch-ros"), "submit", "--conf", json.dumps(conf)),
                *("--output", "s3://lake/drives", "--wait", "--json"),
                *("--job-queue", JOB_QUEUE, "--job-definition", JOB_DEFINITION),
            ],
            env=os.environ | aws.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (drive,) = json.loads(done.stdout)["drives"]
        assert drive["state"] == "succeeded"
        assert drive["rows"] == drive["messages"] == ROUNDS * len(TOPICS)
    assert left(aws) == []
