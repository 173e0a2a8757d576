"""What only a whole Airflow shows: REST, a scheduler, and a triggerer that a kill has to reach."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros import runs
from airflow_batch_ros.drives_page.plugin import has_page
from airflow_batch_ros.jobs import LIVE, SubmitOptions, describe, job_state, terminate
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.local.airflow import session_members
from ros_to_parquet.contract import Run
from tests.local.sockets import listening
from tests.provider.bags import MESSAGES, ros1_bag
from tests.provider.builders import conf, put
from tests.provider.conftest import EXAMPLES, ROOT
from tests.provider.waiting import wait_for_end

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.slow,
    pytest.mark.skipif(version("apache-airflow").startswith("2."), reason="Airflow 2 has another REST API"),
]

DAG = "ros_image_pipeline"
EXAMPLE_DAGS = ("example_new_drives_sqs", "example_drives_in_lake")
BUCKET = "standalone"
LAKE = f"s3://{BUCKET}/lake"
PATIENCE_S = 300.0


@dataclass
class Standalone:
    """``airflow standalone``, by its REST API."""

    url: str
    token: str = ""
    session: int = 0

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def xcom(self, dag_id: str, run_id: str, task: str) -> Any:
        """What a task returned; a mapped one's index follows its name in ``task``, as ``name/0``."""
        task_id, _, index = task.partition("/")
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        value = self.call("GET", f"{path}?map_index={index or -1}")["value"]
        return json.loads(value) if isinstance(value, str) else value

    def trigger(self, conf: dict[str, Any]) -> str:
        run = self.call("POST", f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def task(self, run_id: str, task_id: str) -> str | None:
        found = self.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/{task_id}")
        return None if found["state"] is None else str(found["state"])

    def states(self, run_id: str) -> dict[str, Any]:
        """The run's, and each task's by name."""
        run = self.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run_id}")
        tasks = self.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {"run": run["state"], **{each["task_id"]: each["state"] for each in tasks}}


def until(
    condition: Callable[[], bool],
    what: str,
    *,
    tolerate: tuple[type[Exception], ...] = (),
    instead: Callable[[], object] = lambda: "",
) -> None:
    """Waits for what should become so; ``instead`` tells what is so, where it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if condition():
                return
        except tolerate:
            pass
        assert time.monotonic() < deadline, f"waited in vain: {what} {instead()}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def queue_url(aws: EmbeddedAws) -> str:
    """Of an SQS queue that is told of new objects."""
    return str(aws.client("sqs").create_queue(QueueName="new-drives")["QueueUrl"])


@pytest.fixture(scope="module")
def airflow(
    aws: EmbeddedAws,
    tmp_path_factory: pytest.TempPathFactory,
    definitions: dict[str, str],
    queue_url: str,
) -> Iterator[Standalone]:
    """``airflow-batch-ros local airflow`` over the embedded AWS that runs already; Ctrl-C ends all of it."""
    aws.ensure_buckets(BUCKET)
    tmp_path = tmp_path_factory.mktemp("standalone")
    home = tmp_path / "airflow"
    dags = shutil.copytree(ROOT / "dags", tmp_path / "dags")
    for name in EXAMPLE_DAGS:
        shutil.copy(EXAMPLES / f"{name}.py", dags)
    environment = {
        **os.environ,
        "AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT": LAKE,
        "AIRFLOW_VAR_ROS_TO_PARQUET_JOB_DEFINITION": definitions["hang"],
        # In the database, not the environment: the triggerer has to ask for it.
        "AIRFLOW_VAR_ROS_TO_PARQUET_AWS_CONN_ID": "aws_in_database",
        "ROS_TO_PARQUET_QUEUE_URL": queue_url,
        **({"ROS_TO_PARQUET_LAKE": LAKE} if version("apache-airflow").startswith("3.0") else {}),
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("airflow-batch-ros"), "local", "airflow"),
                *("--state-dir", aws.state.path, "--airflow-home", home, "--dags", dags),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    running = Standalone("")

    def is_up() -> bool:
        said = (tmp_path / "log").read_text()
        assert process.poll() is None, said[-3000:]
        if found := re.search(r"^Airflow: (\S+)  user (\S+), password (\S+)\. ", said, re.MULTILINE):
            running.url, login = found[1], {"username": found[2], "password": found[3]}
            running.token = running.call("POST", "/auth/token", login)["access_token"]
        return found is not None

    def knows_the_dag() -> bool:
        running.call("GET", f"/api/v2/dags/{DAG}")
        return True

    session = 0
    try:
        until(is_up, "airflow standalone")
        until(knows_the_dag, "the DAG", tolerate=(urllib.error.HTTPError,))
        session = json.loads((home / "session.json").read_text())["pid"]
        assert len(session_members(session)) > 4
        running.session = session
        assert not [each for each in listening(session_members(session)) if not each[0].is_loopback]
        connection = json.loads(aws.environment()["AIRFLOW_CONN_AWS_DEFAULT"])
        connection |= {"connection_id": "aws_in_database", "extra": json.dumps(connection["extra"])}
        running.call("POST", "/api/v2/connections", connection)
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        exit_code = process.wait()
    assert exit_code == 0, (tmp_path / "log").read_text()[-3000:]
    assert session_members(session) == []
    aws.client("s3").list_buckets()  # it was there before, and is left


def test_bad_confs_are_refused_and_a_kill_reaches_the_jobs(
    airflow: Standalone, aws: EmbeddedAws, s3: S3Client, batch: BatchClient
) -> None:
    bucket = BUCKET
    put(s3, bucket, "drive_1/a.bag", body=ros1_bag())
    for bad in ({}, {"drives_to_process": {"a/b": {"bucket": bucket, "prefix": "drive_1/"}}}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            airflow.trigger(bad)
        assert caught.value.code == 400
        assert "drives_to_process" in caught.value.read().decode()

    run_id = airflow.trigger({"drives_to_process": {"drive_1": {"bucket": bucket, "prefix": "drive_1/"}}})
    until(lambda: airflow.task(run_id, "wait") == "deferred", "the sensor defers")
    (job,) = airflow.xcom(DAG, run_id, "submit")

    def links(task: str) -> Any:
        found = airflow.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/links")
        return {name: url for name, url in found["extra_links"].items() if url}

    # Airflow stores links one by one, after it has said that the task is deferred. There is no report yet.
    until(lambda: len(links("wait")) == len(links("submit")) == 3, "the links are stored")
    console = f"{aws.server.endpoint_url}/console/batch/home?region=us-east-1"
    assert links("submit")["Batch job"] == f"{console}#jobs/detail/{job['job_id']}"
    assert links("wait") == links("submit")

    def triggerer() -> Any:
        return airflow.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/wait")["triggerer_job"]

    until(lambda: triggerer() is not None, "a triggerer has the trigger")
    time.sleep(3.0)  # it starts what it has within a second
    (detail,) = batch.describe_jobs(jobs=[job["job_id"]])["jobs"]
    assert detail["status"] in ("STARTING", "RUNNING")

    airflow.call("PATCH", f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/wait", {"new_state": "failed"})
    wait_for_end(batch, [job["job_id"]])
    (detail,) = batch.describe_jobs(jobs=[job["job_id"]])["jobs"]
    assert (detail["status"], detail["statusReason"]) == (
        "FAILED",
        "the Airflow task that waits for it was killed",
    )

    # A scheduler that is about to fail the run does so after it was cleared, too, and nothing runs any more.
    states = partial(airflow.states, run_id)
    until(lambda: states()["run"] == "failed", "the run has ended", instead=states)

    # Cleared as from the UI, the task submits what is missing, and nothing else.
    clear = {"dag_run_id": run_id, "task_ids": ["submit"], "include_downstream": True, "dry_run": False}
    airflow.call("POST", f"/api/v2/dags/{DAG}/clearTaskInstances", {**clear, "only_failed": False})
    until(lambda: airflow.task(run_id, "wait") == "deferred", "the sensor defers again", instead=states)
    (again,) = airflow.xcom(DAG, run_id, "submit")
    assert (again["work"], again["generation"], again["plan_id"]) == ("submitted", 1, job["plan_id"])
    batch.terminate_job(jobId=again["job_id"], reason="the test is over")
    until(lambda: airflow.task(run_id, "wait") == "failed", "the sensor has heard of it")
    assert airflow.xcom(DAG, run_id, "wait")["totals"]["causes"] == {"cancelled": 1}


def test_a_message_starts_a_drive_and_the_drive_what_goes_on_from_it(
    airflow: Standalone, aws: EmbeddedAws, s3: S3Client, queue_url: str
) -> None:
    put(s3, BUCKET, "fleet/car_7/a.bag", body=ros1_bag())
    put(s3, BUCKET, "fleet/car_7/_COMPLETE")
    record = {"bucket": {"name": BUCKET}, "object": {"key": "fleet/car_7/_COMPLETE"}}
    body = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": record}]})
    aws.client("sqs").send_message(QueueUrl=queue_url, MessageBody=body)

    def finished(dag_id: str) -> list[str]:
        runs = airflow.call("GET", f"/api/v2/dags/{dag_id}/dagRuns")["dag_runs"]
        assert not [run for run in runs if run["state"] == "failed"], runs
        return [str(run["dag_run_id"]) for run in runs if run["state"] == "success"]

    # The second may be done before Airflow says that the first is.
    until(lambda: all(map(finished, EXAMPLE_DAGS)), "both DAGs", tolerate=(urllib.error.HTTPError,))
    (arrived,), (gone_on,) = map(finished, EXAMPLE_DAGS)
    found = airflow.xcom("example_new_drives_sqs", arrived, "find_drives")
    assert found == {f"{BUCKET}.fleet.car_7": {"bucket": BUCKET, "prefix": "fleet/car_7/"}}
    (drive,) = airflow.xcom("example_drives_in_lake", gone_on, "drives")
    assert (drive["drive_id"], drive["state"]) == (f"{BUCKET}.fleet.car_7", "succeeded")
    assert drive["tables"] == {"temperature": MESSAGES}
    columns = airflow.xcom("example_drives_in_lake", gone_on, "look_at/0")["temperature"]
    assert {"log_time", "temperature", "drive_id"} <= set(columns)


@pytest.mark.skipif(not has_page(), reason="this Airflow has no such pages")
def test_the_page_of_drives_is_behind_the_login(airflow: Standalone, s3: S3Client) -> None:
    """The Variables name its lake and its connection, which is in the database."""
    run = Run(DAG, "manual__page")
    options = SubmitOptions("queue", "definition")
    runs.save(Lake(s3, LAKE), run, conf(BUCKET), options=options, shard_bytes=1)

    def get(path: str, cookie: str = "") -> tuple[str, str]:
        """Where it ended, and what was there."""
        headers = {"Cookie": f"_token={cookie}"} if cookie else {}
        request = urllib.request.Request(f"{airflow.url}/ros-to-parquet/{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.url), answer.read().decode()

    for path in ("", f"run?dag={DAG}&run={run.run_id}"):
        url, text = get(path)
        assert url.startswith(f"{airflow.url}/auth/login?next=")
        assert run.run_id not in text
        url, text = get(path, airflow.token)
        assert url == f"{airflow.url}/ros-to-parquet/{path}"
        assert run.run_id in text
    (plugin,) = [
        each for each in airflow.call("GET", "/api/v2/plugins")["plugins"] if each["name"] == "ros_to_parquet"
    ]
    assert [view["href"] for view in plugin["external_views"]] == ["/ros-to-parquet/"]


@dataclass
class Triggerer:
    """A process, and how it was started."""

    parent: int
    command: list[str]
    environment: dict[str, str]


def triggerers(session: int) -> dict[int, Triggerer]:
    """The processes ``airflow triggerer`` of a session, by pid: not those that they have started."""
    found = {}
    for pid in session_members(session):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if b"triggerer" in words:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            variables = dict(each.decode().split("=", 1) for each in environment if b"=" in each)
            found[pid] = Triggerer(parent, [word.decode() for word in words if word], variables)
    return {pid: each for pid, each in found.items() if each.parent not in found}


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_triggerer_that_ends_and_is_started_again_goes_on(
    airflow: Standalone, s3: S3Client, batch: BatchClient, tmp_path: Path
) -> None:
    """One sensor of many drives: no job is ended or submitted again, and all are counted once.

    The last test here: the triggerer is not that of ``airflow standalone`` any more.
    """
    drives = [f"drive_{number:03d}" for number in range(120)]
    put(s3, BUCKET, *(f"{drive}/a.bag" for drive in drives), body=ros1_bag())
    conf = {drive: {"bucket": BUCKET, "prefix": f"{drive}/"} for drive in drives}
    run_id = airflow.trigger({"drives_to_process": conf})
    until(lambda: airflow.task(run_id, "wait") == "deferred", "the sensor defers")
    jobs = [job["job_id"] for job in airflow.xcom(DAG, run_id, "submit")]
    assert len(jobs) == len(drives)
    had: list[int] = []

    def another_has_it() -> bool:
        found = airflow.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/wait")[
            "triggerer_job"
        ]
        if found is not None and found["id"] not in had:
            had.append(found["id"])
            return True
        return False

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "triggerer").open("ab") as log:
            return subprocess.Popen(
                found.command, env=found.environment, stdout=log, stderr=log, start_new_session=True
            )

    until(another_has_it, "a triggerer has the trigger")
    ((pid, found),) = triggerers(airflow.session).items()
    os.kill(pid, signal.SIGTERM)
    until(lambda: pid not in session_members(airflow.session), "the triggerer ends")
    again = start()
    try:
        until(another_has_it, "a second one has it")
        os.killpg(again.pid, signal.SIGKILL)
        again.wait()
        again = start()
        until(another_has_it, "a third one has it, when Airflow has missed the second")
        assert {job_state(detail) for detail in describe(batch, jobs).values()} <= LIVE
        assert airflow.task(run_id, "wait") == "deferred"
        assert terminate(batch, jobs, "the test ends it") == []
        until(lambda: airflow.task(run_id, "wait") == "failed", "the sensor hears of it")
        totals = airflow.xcom(DAG, run_id, "wait")["totals"]
        assert (totals["drives"], totals["states"]) == (len(drives), {"failed": len(drives)})
        reasons = {detail["statusReason"] for detail in describe(batch, jobs).values()}
        assert reasons == {"the test ends it"}, "the triggerers that ended left them alone"
    finally:
        os.killpg(again.pid, signal.SIGKILL)
        again.wait()
