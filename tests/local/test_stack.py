"""Starting, stopping, crashing: nothing is left behind, and what was stored is there again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from airflow_batch_ros.local import EmbeddedAws, LocalAwsError, ServerOptions
from airflow_batch_ros.local.processes import start_time
from airflow_batch_ros.local.state import StateFolder, find_running, read_kept

from .conftest import PATIENCE_S, Jobs

OPTIONS = ServerOptions(entrypoint=(sys.executable, "-I", "-S"), slots=2)
PRINT_PID = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def make(folder: Path, *buckets: str) -> EmbeddedAws:
    return EmbeddedAws(folder / "aws", buckets=buckets, options=OPTIONS)


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(stat[stat.rindex(")") + 2 :].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def start_job(aws: EmbeddedAws) -> int:
    """A job that runs for a minute; its process id."""
    jobs = Jobs(aws.client("batch"), aws.client("logs"))
    job_id = jobs.submit(PRINT_PID)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        job = jobs.until(job_id, lambda job: job["status"] == "RUNNING")
        try:
            return int(jobs.lines(job)[0])
        except (ClientError, IndexError):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def assert_all_gone(pids: list[int]) -> None:
    assert len(pids) >= 3, "server, SeaweedFS and a job"
    deadline = time.monotonic() + PATIENCE_S
    while left := [pid for pid in pids if start_time(pid) is not None]:
        assert time.monotonic() < deadline, f"processes {left} still run"
        time.sleep(0.01)


def sockets(aws: EmbeddedAws) -> list[Path]:
    """What SeaweedFS leaves in /tmp; of this one alone, for others may run on this machine."""
    ports = read_kept(aws.state).s3_ports.values()
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def test_a_life(tmp_path: Path) -> None:
    tmp_path /= "a folder, of any name"
    with make(tmp_path, "drives") as aws:
        assert aws.owned
        server = aws.server
        aws.client("s3").put_object(Bucket="drives", Key="kept", Body=b"x" * 1_000_000)
        pids = [server.pid, *children(server.pid)]
        start_job(aws)
        assert set(children(server.pid)) > set(pids[1:])
        pids = [server.pid, *children(server.pid)]
        assert len(pids) == 3
        assert find_running(aws.state) == server

        # Somebody else over the same folder joins, and leaves it as it is.
        with make(tmp_path, "lake") as other:
            assert not other.owned
            assert other.server == server
            other.client("s3").head_bucket(Bucket="lake")
        assert find_running(aws.state) == server

    assert_all_gone(pids)
    assert sockets(aws) == []
    assert find_running(aws.state) is None
    assert not aws.state.scratch.exists()
    with pytest.raises(LocalAwsError, match="not started"):
        aws.environment()

    with make(tmp_path) as again:
        found = again.client("s3").get_object(Bucket="drives", Key="kept")["Body"].read()
        assert found == b"x" * 1_000_000
        assert again.server.endpoint_url == server.endpoint_url
        assert again.server.s3_endpoint_url == server.s3_endpoint_url
        assert again.server.access_key == server.access_key

        # Killed with no chance to do anything: the kernel takes the children along, the data stays.
        again.client("s3").put_object(Bucket="drives", Key="last", Body=b"y")
        start_job(again)
        pids = [again.server.pid, *children(again.server.pid)]
        os.kill(again.server.pid, signal.SIGKILL)
        assert_all_gone(pids)
        assert find_running(again.state) is None

    with make(tmp_path) as third:
        assert third.client("s3").get_object(Bucket="drives", Key="last")["Body"].read() == b"y"
        # Without its store it is no AWS any more.
        (weed,) = children(third.server.pid)
        os.kill(weed, signal.SIGKILL)
        with pytest.raises(LocalAwsError, match="SeaweedFS ended with exit code -9"):
            third.wait()


def test_secrets_are_for_the_owner_alone(aws: EmbeddedAws) -> None:
    for path in (aws.state.kept, aws.state.running):
        assert aws.server.secret_key in path.read_text()
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_what_clients_are_told(
    aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch, case: Callable[[str], str]
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(case("no_proxy"), "corp.example")
    environment = aws.environment()
    connection = json.loads(environment["AIRFLOW_CONN_AWS_DEFAULT"])
    assert connection == {
        "conn_type": "aws",
        "login": aws.server.access_key,
        "password": aws.server.secret_key,
        "extra": {
            "region_name": "us-east-1",
            "endpoint_url": aws.server.endpoint_url,
            "service_config": {"s3": {"endpoint_url": aws.server.s3_endpoint_url}},
        },
    }
    code = """
import boto3
print(boto3.client("batch").describe_job_queues()["jobQueues"][0]["jobQueueName"])
print("lake" in [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]])
"""
    proxies = {case(name): "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    proxies[case("no_proxy")] = "corp.example"
    base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=base | proxies | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["ros-to-parquet", "True"], done.stderr


def test_the_users_aws_does_not_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with make(tmp_path) as aws:
        aws.ensure_buckets("lake")
        aws.client("s3").head_bucket(Bucket="lake")
        assert aws.client("sts").get_caller_identity()["Account"]


def test_two_who_start_at_once_get_the_same(tmp_path: Path) -> None:
    both = [make(tmp_path), make(tmp_path)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(EmbeddedAws.start, both))
    try:
        assert both[0].server == both[1].server
        assert sorted(aws.owned for aws in both) == [False, True]
    finally:
        for aws in both:
            aws.stop()
    assert find_running(both[0].state) is None


def test_new_buckets_are_allowed_too(tmp_path: Path, aws: EmbeddedAws) -> None:
    jobs = Jobs(aws.client("batch"), aws.client("logs"))

    def allowed() -> list[str]:
        job = jobs.run("import os; print(os.environ['ROS_TO_PARQUET_ALLOW'])")
        return jobs.lines(job)[0].split(",")

    before = allowed()
    aws.allow("s3://drives/", "s3://elsewhere/drives/")
    assert allowed() == sorted({*before, "s3://elsewhere/drives/"})


@pytest.mark.parametrize("option", ["port", "s3_port"])
def test_a_port_that_is_taken(tmp_path: Path, option: str) -> None:
    before = children(os.getpid())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        aws = EmbeddedAws(tmp_path, options=ServerOptions(**{option: port}))
        with pytest.raises(LocalAwsError) as error:
            aws.start()
    why = (
        f"did not start: port {port} is taken; choose another one, or 0 for any (see {aws.state.server_log})"
    )
    assert why in str(error.value)
    assert "is taken" in aws.state.server_log.read_text()
    assert find_running(aws.state) is None
    assert children(os.getpid()) == before


def test_a_process_that_has_the_pid_by_now_is_left_alone(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        fields = {
            "pid": bystander.pid, "started": "1", "started_at": "", "endpoint_url": "", "s3_endpoint_url": "",
            "region": "", "slots": 1, "access_key": "", "secret_key": "",
        }  # fmt: skip
        state.running.write_text(json.dumps(fields))
        state.lock.touch()
        assert run_cli("local", "down", "--state-dir", str(tmp_path)) == (0, "not running\n")
        assert bystander.poll() is None
        bystander.kill()


# --- the command line -------------------------------------------------------------------------------

CLI = (sys.executable, "-c", "import sys; from airflow_batch_ros.cli import main; sys.exit(main())")


def run_cli(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*CLI, "local", "up", "--state-dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                return process
        raise AssertionError("it did not come up")

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_up_ends_all_with_itself(
    tmp_path: Path, foreground: Callable[[], subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = foreground()
    aws = EmbeddedAws.attach(tmp_path)
    pids = [process.pid, aws.server.pid, *children(aws.server.pid)]
    process.send_signal(number)
    assert process.wait(120) == (-9 if number is signal.SIGKILL else 0)
    assert_all_gone(pids)
    assert find_running(aws.state) is None


def test_up_in_the_background(tmp_path: Path) -> None:
    where = ("--state-dir", str(tmp_path / "it's here"))
    assert run_cli("local", "status", *where) == (3, "not running\n")
    assert run_cli("local", "env", *where) == (3, "")
    code, said = run_cli("local", "up", "--detach", "--bucket", "drives", *where)
    assert (code, said.splitlines()[0]) == (0, "up")
    try:
        aws = EmbeddedAws.attach(where[1])
        for endpoint in (aws.server.endpoint_url, aws.server.s3_endpoint_url):
            assert endpoint in said
        assert not aws.owned
        code, said = run_cli("local", "up", "--detach", "--bucket", "lake", *where)
        assert (code, said.splitlines()[0]) == (0, "already up")
        code, said = run_cli("local", "status", *where)
        assert (code, said.splitlines()[0]) == (0, "up")
        assert str(aws.server.pid) in said

        _, exports = run_cli("local", "env", *where)
        python = (
            "import boto3; print([bucket['Name'] for bucket in boto3.client('s3').list_buckets()['Buckets']])"
        )
        shell = f'{exports}\n"{sys.executable}" -c "{python}"'
        environment = os.environ | {"AWS_SESSION_TOKEN": "stale", "AWS_PROFILE": "nobody"}
        done = subprocess.run(
            ["sh", "-c", shell], capture_output=True, text=True, check=False, env=environment
        )
        assert done.stdout == "['drives', 'lake']\n", done.stderr
        pids = [aws.server.pid, *children(aws.server.pid)]
    finally:
        code, said = run_cli("local", "down", *where)
    assert (code, said) == (0, f"ended (process {aws.server.pid})\n")
    assert [start_time(pid) for pid in pids] == [None, None]
    assert run_cli("local", "down", *where) == (0, "not running\n")


def test_up_with_a_name_that_no_bucket_can_have(tmp_path: Path) -> None:
    words = ("local", "up", "--state-dir", str(tmp_path), "--bucket", "No_Bucket")
    done = subprocess.run([*CLI, *words], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("bucket 'No_Bucket' could not be made: ")
    assert "Traceback" not in done.stderr
    assert run_cli("local", "status", "--state-dir", str(tmp_path)) == (3, "not running\n")
