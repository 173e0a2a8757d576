"""Batch over HTTP: jobs are processes, and what AWS documents is what happens."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from airflow_batch_ros.local import JOB_DEFINITION, JOB_QUEUE, EmbeddedAws

from .conftest import KILL_GRACE_S, PATIENCE_S, SLEEP, SLOTS, Jobs

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(600)
"""
WHO = "import os; print(os.environ['AWS_BATCH_JOB_ARRAY_INDEX'])"


def fails(index: int) -> str:
    return f"import os, sys; sys.exit(os.environ['AWS_BATCH_JOB_ARRAY_INDEX'] == '{index}')"


def waits_for(gate: Path) -> str:
    """A job that ends well once the file is there."""
    return f"import os, time\nwhile not os.path.exists('{gate}'): time.sleep(0.01)"


def retry(*rules: dict[str, str], attempts: int = 3) -> dict[str, Any]:
    return {"attempts": attempts, "evaluateOnExit": list(rules)} if rules else {"attempts": attempts}


def refusal(error: pytest.ExceptionInfo[ClientError]) -> str:
    assert error.value.response["Error"]["Code"] == "ClientException"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return error.value.response["Error"]["Message"]


@pytest.fixture
def full(jobs: Jobs) -> Iterator[list[str]]:
    """All slots taken."""
    blockers = [jobs.submit(SLEEP, name="blocker") for _ in range(SLOTS)]
    for blocker in blockers:
        jobs.until(blocker, lambda job: job["status"] == "RUNNING")
    yield blockers
    for blocker in blockers:
        jobs.batch.terminate_job(jobId=blocker, reason="test over")
    for blocker in blockers:
        jobs.wait(blocker)


# --- one job ----------------------------------------------------------------------------------------


def test_a_job_that_succeeds(jobs: Jobs) -> None:
    before_ms = time.time() * 1000
    job = jobs.run("print('one'); print('two')", name="a-job")
    assert job["status"] == "SUCCEEDED"
    assert job["statusReason"] == "Essential container in task exited"
    assert job["jobName"] == "a-job"
    assert job["jobArn"].endswith(f":job/{job['jobId']}")
    assert job["jobQueue"].endswith(f":job-queue/{JOB_QUEUE}")
    assert job["jobDefinition"].rpartition(":")[0].endswith(f":job-definition/{JOB_DEFINITION}")
    assert job["container"]["exitCode"] == 0
    assert "reason" not in job["container"]
    (attempt,) = job["attempts"]
    assert attempt["container"]["exitCode"] == 0
    assert attempt["container"]["logStreamName"] == job["container"]["logStreamName"]
    assert attempt["statusReason"] == "Essential container in task exited"
    times = [job["createdAt"], attempt["startedAt"], attempt["stoppedAt"], job["stoppedAt"]]
    assert times == sorted(times)
    assert before_ms - 1 <= job["createdAt"] <= time.time() * 1000
    assert jobs.lines(job) == ["one", "two"]


def test_a_job_that_fails(jobs: Jobs) -> None:
    job = jobs.run("import sys; print('no', file=sys.stderr); sys.exit(65)")
    assert job["status"] == "FAILED"
    assert job["statusReason"] == "Essential container in task exited"
    assert job["container"]["exitCode"] == 65
    assert len(job["attempts"]) == 1
    assert jobs.lines(job) == ["no"]


def test_a_signal_is_an_exit_code_above_128(jobs: Jobs) -> None:
    assert jobs.run("import os; os.kill(os.getpid(), 9)")["container"]["exitCode"] == 137


def test_what_a_job_finds_in_its_environment(
    aws: EmbeddedAws, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.run(
        "import os, json; print(json.dumps(dict(os.environ)))",
        containerOverrides={"environment": [{"name": "MINE", "value": "1"}, {"name": "HOME", "value": "/x"}]},
    )
    found = json.loads(jobs.lines(job)[0])
    for name in ("PATH", "LANG", "LC_CTYPE", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "TMPDIR", "PYTHONUNBUFFERED"):
        found.pop(name, None)
    metadata = found.pop("ECS_CONTAINER_METADATA_URI_V4")
    assert metadata.startswith(aws.server.endpoint_url)
    assert found == {
        "MINE": "1",
        "HOME": "/x",
        "ROS_TO_PARQUET_ALLOW": "s3://drives/,s3://lake/",
        "AWS_ACCESS_KEY_ID": aws.server.access_key,
        "AWS_SECRET_ACCESS_KEY": aws.server.secret_key,
        "AWS_DEFAULT_REGION": aws.server.region,
        "AWS_ENDPOINT_URL": aws.server.endpoint_url,
        "AWS_ENDPOINT_URL_S3": aws.server.s3_endpoint_url,
        "AWS_BATCH_CE_NAME": "ros-to-parquet",
        "AWS_BATCH_JQ_NAME": JOB_QUEUE,
        "AWS_BATCH_JOB_ID": job["jobId"],
        "AWS_BATCH_JOB_ATTEMPT": "1",
    }


def test_a_job_learns_its_log_stream_as_a_container_does(jobs: Jobs) -> None:
    code = (
        "import json, os, urllib.request as r; url = os.environ['ECS_CONTAINER_METADATA_URI_V4'];"
        "print(json.load(r.urlopen(url))['LogOptions']['awslogs-stream'])"
    )
    job = jobs.run(code)
    assert jobs.lines(job) == [job["container"]["logStreamName"]]
    assert job["container"]["logStreamName"].startswith(f"{JOB_DEFINITION}/default/")


def test_parameters_of_the_definition_and_of_the_job(aws: EmbeddedAws, jobs: Jobs) -> None:
    definition = jobs.batch.register_job_definition(
        jobDefinitionName="with-parameters",
        type="container",
        parameters={"who": "nobody", "what": "bag"},
        containerProperties={
            "image": "any",
            "command": ["-c", "import sys; print(sys.argv[1:])", "Ref::who", "x-Ref::what", "Ref::other"],
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}],
        },
    )["jobDefinitionArn"]
    answer = jobs.batch.submit_job(
        jobName="p", jobQueue=JOB_QUEUE, jobDefinition=definition, parameters={"who": "me"}
    )
    job = jobs.wait(answer["jobId"])
    assert jobs.lines(job) == ["['me', 'x-bag', 'Ref::other']"]
    assert job["parameters"] == {"who": "me", "what": "bag"}


def test_lines_are_there_while_the_job_runs(jobs: Jobs) -> None:
    job_id = jobs.submit(f"print('early', flush=True); {SLEEP}")
    job = jobs.until(job_id, lambda job: job["status"] == "RUNNING")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            lines = jobs.lines(job)
            break
        except ClientError:  # the stream is made with its first line
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert lines == ["early"]
    assert jobs.describe(job_id)["status"] == "RUNNING"
    jobs.batch.terminate_job(jobId=job_id, reason="enough")
    jobs.wait(job_id)


def test_many_lines_and_a_long_one(jobs: Jobs) -> None:
    job = jobs.run("for i in range(3000): print(i)\nprint('x' * 300_000)\nprint('last', end='')")
    stream = job["container"]["logStreamName"]
    seen: list[str] = []
    token: dict[str, str] = {}
    while True:
        page = jobs.logs.get_log_events(
            logGroupName="/aws/batch/job", logStreamName=stream, startFromHead=True, limit=1000, **token
        )
        if not page["events"]:
            break
        seen += [event["message"] for event in page["events"]]
        token = {"nextToken": page["nextForwardToken"]}
    assert seen[:3000] == [str(i) for i in range(3000)]
    assert "".join(seen[3000:]) == "x" * 300_000 + "last"
    assert max(map(len, seen)) <= 256 * 1024


def test_what_a_job_leaves_running_ends_with_it(jobs: Jobs) -> None:
    left = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    job = jobs.run(f"import subprocess, sys; print({left}.pid)")
    assert job["status"] == "SUCCEEDED"
    assert_gone(int(jobs.lines(job)[0]))


def test_each_attempt_has_a_disk_of_its_own(jobs: Jobs) -> None:
    code = "import os; print(os.getcwd()); print(os.listdir('.')); open('left', 'w')"
    first, second = jobs.run(code), jobs.run(code)
    (first_folder, first_found), (second_folder, second_found) = jobs.lines(first), jobs.lines(second)
    assert first_folder != second_folder
    assert first_found == second_found == "[]"


def test_tags(jobs: Jobs) -> None:
    assert jobs.run("", tags={"drive": "d1"})["tags"] == {"drive": "d1"}


def assert_gone(pid: int) -> None:
    from airflow_batch_ros.local.processes import start_time

    deadline = time.monotonic() + PATIENCE_S
    while start_time(pid) is not None:
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


# --- arrays -----------------------------------------------------------------------------------------


def test_an_array(jobs: Jobs) -> None:
    parent_id = jobs.submit(
        WHO + "; print(os.environ['AWS_BATCH_JOB_ID'], os.environ['AWS_BATCH_JOB_ARRAY_SIZE'])",
        arrayProperties={"size": 3},
    )
    parent = jobs.wait(parent_id)
    assert parent["status"] == "SUCCEEDED"
    assert parent["arrayProperties"]["size"] == 3
    assert parent["arrayProperties"]["statusSummary"] == {
        "SUBMITTED": 0, "PENDING": 0, "RUNNABLE": 0, "STARTING": 0, "RUNNING": 0, "SUCCEEDED": 3, "FAILED": 0,
    }  # fmt: skip
    assert parent["attempts"] == []
    children = jobs.batch.describe_jobs(jobs=[f"{parent_id}:{index}" for index in range(3)])["jobs"]
    for index, child in enumerate(children):
        assert child["jobId"] == f"{parent_id}:{index}"
        assert child["arrayProperties"] == {"index": index}
        assert jobs.lines(child) == [str(index), f"{parent_id}:{index} 3"]


def test_an_array_fails_with_a_child_when_all_have_ended(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = (
        f"import os, sys\nif os.environ['AWS_BATCH_JOB_ARRAY_INDEX'] == '0': sys.exit(3)\n{waits_for(gate)}"
    )
    parent_id = jobs.submit(code, arrayProperties={"size": 3})
    jobs.until(f"{parent_id}:0", lambda job: job["status"] == "FAILED")
    assert jobs.describe(parent_id)["status"] == "PENDING"
    gate.touch()
    parent = jobs.wait(parent_id)
    assert parent["status"] == "FAILED"
    assert parent["statusReason"] == "Array Child Job failed"
    summary = parent["arrayProperties"]["statusSummary"]
    assert (summary["SUCCEEDED"], summary["FAILED"]) == (2, 1)


def test_children_are_retried_one_by_one(jobs: Jobs) -> None:
    code = """
import os, sys
sys.exit(75 if os.environ['AWS_BATCH_JOB_ARRAY_INDEX'] == os.environ['AWS_BATCH_JOB_ATTEMPT'] == '1' else 0)
"""
    parent_id = jobs.submit(code, arrayProperties={"size": 2})
    assert jobs.wait(parent_id)["status"] == "SUCCEEDED"
    assert [len(jobs.describe(f"{parent_id}:{index}")["attempts"]) for index in range(2)] == [1, 2]


def test_terminating_a_parent_ends_its_children(jobs: Jobs) -> None:
    parent_id = jobs.submit(SLEEP, arrayProperties={"size": SLOTS + 2})
    jobs.until(parent_id, lambda job: job["arrayProperties"]["statusSummary"]["RUNNING"] == SLOTS)
    jobs.batch.terminate_job(jobId=parent_id, reason="changed my mind")
    parent = jobs.wait(parent_id)
    assert parent["status"] == "FAILED"
    assert parent["statusReason"] == "changed my mind"
    assert parent["isTerminated"] is True
    assert parent["arrayProperties"]["statusSummary"]["FAILED"] == SLOTS + 2
    exit_codes = []
    for index in range(SLOTS + 2):
        child = jobs.describe(f"{parent_id}:{index}")
        assert (child["status"], child["statusReason"]) == ("FAILED", "changed my mind")
        exit_codes.append(child["container"].get("exitCode"))
    assert exit_codes == [143] * SLOTS + [None] * 2


def test_the_largest_array(jobs: Jobs, full: list[str]) -> None:
    parent_id = jobs.submit("", arrayProperties={"size": 10_000})
    assert jobs.describe(parent_id)["arrayProperties"]["statusSummary"]["RUNNABLE"] == 10_000
    jobs.batch.terminate_job(jobId=parent_id, reason="only looking")
    assert jobs.describe(parent_id)["arrayProperties"]["statusSummary"]["FAILED"] == 10_000


# --- attempts ---------------------------------------------------------------------------------------


def exit_codes(job: dict[str, Any]) -> list[int | None]:
    return [attempt["container"].get("exitCode") for attempt in job["attempts"]]


EXIT_AS_TOLD = "import os, sys; sys.exit(int(sys.argv[int(os.environ['AWS_BATCH_JOB_ATTEMPT'])]))"


def test_the_default_definition_retries_75_and_nothing_else(jobs: Jobs) -> None:
    job = jobs.run(EXIT_AS_TOLD, "75", "0")
    assert (job["status"], exit_codes(job)) == ("SUCCEEDED", [75, 0])
    streams = {attempt["container"]["logStreamName"] for attempt in job["attempts"]}
    assert len(streams) == 2
    job = jobs.run(EXIT_AS_TOLD, "75", "75", "75", "0")
    assert (job["status"], exit_codes(job)) == ("FAILED", [75, 75, 75])
    job = jobs.run(EXIT_AS_TOLD, "1", "0")
    assert (job["status"], exit_codes(job)) == ("FAILED", [1])
    assert job["retryStrategy"]["attempts"] == 3
    assert len(job["retryStrategy"]["evaluateOnExit"]) == 4


def test_a_strategy_given_at_submit_wins(jobs: Jobs) -> None:
    job = jobs.run(EXIT_AS_TOLD, "1", "1", "0", retryStrategy=retry(attempts=2))
    assert (job["status"], exit_codes(job)) == ("FAILED", [1, 1])
    assert job["retryStrategy"] == {"attempts": 2, "evaluateOnExit": []}


def test_the_first_rule_that_matches_decides_and_none_is_a_retry(jobs: Jobs) -> None:
    rules = retry(
        {"onExitCode": "7*", "action": "exit"},
        {"onExitCode": "70", "action": "RETRY"},
        {"onStatusReason": "Essential container*", "onExitCode": "3", "action": "EXIT"},
        {"onReason": "Out*", "action": "EXIT"},
    )
    assert exit_codes(jobs.run(EXIT_AS_TOLD, "70", "0", retryStrategy=rules)) == [70]
    assert exit_codes(jobs.run(EXIT_AS_TOLD, "3", "0", retryStrategy=rules)) == [3]
    assert exit_codes(jobs.run(EXIT_AS_TOLD, "4", "0", retryStrategy=rules)) == [4, 0]


def test_a_program_that_cannot_start(aws: EmbeddedAws, tmp_path_factory: pytest.TempPathFactory) -> None:
    from airflow_batch_ros.local import ServerOptions

    options = ServerOptions(entrypoint=("/no/such/program",))
    with EmbeddedAws(tmp_path_factory.mktemp("other"), options=options) as other:
        jobs = Jobs(other.client("batch"), other.client("logs"))
        job = jobs.run(
            "", retryStrategy=retry({"onReason": "CannotStartContainer*", "action": "RETRY"}, attempts=2)
        )
    assert job["status"] == "FAILED"
    assert job["statusReason"] == "Task failed to start"
    assert "CannotStartContainerError" in job["container"]["reason"]
    assert "/no/such/program" in job["container"]["reason"]
    assert exit_codes(job) == [None, None]
    assert "logStreamName" not in job["container"]


# --- time-outs, terminate, cancel -------------------------------------------------------------------


def test_a_timeout_ends_the_attempt_and_is_not_retried(jobs: Jobs) -> None:
    job = jobs.run(SLEEP, timeout={"attemptDurationSeconds": 1}, retryStrategy=retry())
    assert job["status"] == "FAILED"
    assert job["statusReason"] == "Job attempt duration exceeded timeout"
    assert exit_codes(job) == [143]
    assert job["timeout"] == {"attemptDurationSeconds": 1}
    assert 1000 <= job["stoppedAt"] - job["startedAt"] < 600_000


def test_a_job_that_ignores_sigterm_is_killed(jobs: Jobs) -> None:
    job = jobs.run(STUBBORN, timeout={"attemptDurationSeconds": 1})
    assert exit_codes(job) == [137]
    assert job["statusReason"] == "Job attempt duration exceeded timeout"
    assert 1000 + KILL_GRACE_S * 1000 <= job["stoppedAt"] - job["startedAt"] < 600_000


def test_terminate_sends_sigterm_first(jobs: Jobs) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(9)))\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    )
    job_id = jobs.submit(code, retryStrategy=retry())
    wait_for_line(jobs, job_id, "ready")
    jobs.batch.terminate_job(jobId=job_id, reason="no longer wanted")
    job = jobs.wait(job_id)
    assert (job["status"], job["statusReason"], exit_codes(job)) == ("FAILED", "no longer wanted", [9])
    assert job["isTerminated"] is True
    assert jobs.lines(job) == ["ready", "bye"]


def wait_for_line(jobs: Jobs, job_id: str, line: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        job = jobs.describe(job_id)
        if "logStreamName" in job["container"]:
            try:
                if line in jobs.lines(job):
                    return
            except ClientError as error:
                assert error.response["Error"]["Code"] == "ResourceNotFoundException"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_terminate_kills_in_the_end(jobs: Jobs) -> None:
    job_id = jobs.submit(STUBBORN)
    wait_for_line(jobs, job_id, "ready")
    jobs.batch.terminate_job(jobId=job_id, reason="go")
    job = jobs.wait(job_id)
    assert (job["status"], job["statusReason"], exit_codes(job)) == ("FAILED", "go", [137])


def test_cancel_and_terminate_before_the_start(jobs: Jobs, full: list[str]) -> None:
    cancelled, terminated = jobs.submit("print(1)"), jobs.submit("print(1)")
    assert jobs.describe(cancelled)["status"] == "RUNNABLE"
    jobs.batch.cancel_job(jobId=cancelled, reason="c")
    jobs.batch.terminate_job(jobId=terminated, reason="t")
    for job_id, reason, flag in ((cancelled, "c", "isCancelled"), (terminated, "t", "isTerminated")):
        job = jobs.describe(job_id)
        assert (job["status"], job["statusReason"], job["attempts"], job[flag]) == (
            "FAILED",
            reason,
            [],
            True,
        )
        assert "startedAt" not in job


def test_cancel_leaves_a_running_job_alone(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = jobs.submit(waits_for(gate))
    jobs.until(job_id, lambda job: job["status"] == "RUNNING")
    jobs.batch.cancel_job(jobId=job_id, reason="too late")
    gate.touch()
    assert jobs.wait(job_id)["status"] == "SUCCEEDED"


def test_terminating_what_ended_or_never_was_changes_nothing(jobs: Jobs) -> None:
    job = jobs.run("")
    jobs.batch.terminate_job(jobId=job["jobId"], reason="late")
    jobs.batch.terminate_job(jobId=str(uuid.uuid4()), reason="unknown")
    assert jobs.describe(job["jobId"]) == job


# --- slots ------------------------------------------------------------------------------------------


def test_jobs_wait_for_a_slot(jobs: Jobs, full: list[str]) -> None:
    job_id = jobs.submit("")
    time.sleep(0.2)
    assert jobs.describe(job_id)["status"] == "RUNNABLE"
    jobs.batch.terminate_job(jobId=full[0], reason="make room")
    assert jobs.wait(job_id)["status"] == "SUCCEEDED"


def test_no_more_than_the_slots_run_at_a_time(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    parent_id = jobs.submit(waits_for(gate), arrayProperties={"size": 7})

    def running() -> int:
        summary = jobs.describe(parent_id)["arrayProperties"]["statusSummary"]
        return int(summary["RUNNING"] + summary["STARTING"])

    jobs.until(parent_id, lambda _: running() >= SLOTS)
    gate.touch()
    most = SLOTS
    while jobs.describe(parent_id)["status"] == "PENDING":
        most = max(most, running())
    assert jobs.describe(parent_id)["status"] == "SUCCEEDED"
    assert most == SLOTS


# --- dependencies -----------------------------------------------------------------------------------


def test_a_job_waits_for_another(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = jobs.submit(waits_for(gate))
    second = jobs.submit("", dependsOn=[{"jobId": first}])
    assert jobs.describe(second)["status"] == "PENDING"
    gate.touch()
    job = jobs.wait(second)
    assert job["status"] == "SUCCEEDED"
    assert job["startedAt"] >= jobs.describe(first)["stoppedAt"]
    assert job["dependsOn"] == [{"jobId": first}]


def test_a_failed_dependency_fails_what_depends_on_it(jobs: Jobs) -> None:
    first = jobs.submit("import sys, time; time.sleep(0.2); sys.exit(1)")
    second = jobs.submit("", dependsOn=[{"jobId": first}])
    third = jobs.submit("", dependsOn=[{"jobId": second}], arrayProperties={"size": 2})
    after = [jobs.wait(job_id) for job_id in (second, third)]
    late = jobs.run("", dependsOn=[{"jobId": first}])
    for job in (*after, late, jobs.describe(f"{third}:1")):
        assert job["status"] == "FAILED"
        assert job["attempts"] == []
    assert {job["statusReason"] for job in (after[0], late, jobs.describe(f"{third}:1"))} == {
        "Dependent Job failed"
    }


def test_n_to_n(jobs: Jobs) -> None:
    first = jobs.submit(fails(1), arrayProperties={"size": 3})
    second = jobs.submit("", arrayProperties={"size": 3}, dependsOn=[{"jobId": first, "type": "N_TO_N"}])
    assert jobs.wait(second)["status"] == "FAILED"
    statuses = [jobs.describe(f"{second}:{index}")["status"] for index in range(3)]
    assert statuses == ["SUCCEEDED", "FAILED", "SUCCEEDED"]


def test_sequential(jobs: Jobs) -> None:
    first = jobs.submit("", arrayProperties={"size": 3}, dependsOn=[{"type": "SEQUENTIAL"}])
    assert jobs.wait(first)["status"] == "SUCCEEDED"
    children = [jobs.describe(f"{first}:{index}") for index in range(3)]
    for earlier, later in itertools.pairwise(children):
        assert earlier["stoppedAt"] <= later["startedAt"]
    broken = jobs.submit(fails(1), arrayProperties={"size": 4}, dependsOn=[{"type": "SEQUENTIAL"}])
    jobs.wait(broken)
    statuses = [jobs.describe(f"{broken}:{index}")["status"] for index in range(4)]
    assert statuses == ["SUCCEEDED", "FAILED", "FAILED", "FAILED"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"dependsOn": [{"jobId": "nope"}]}, "does not exist"),
        ({"dependsOn": [{"type": "SEQUENTIAL"}]}, "array"),
        ({"dependsOn": [{"jobId": "x"}] * 21}, "at most 20"),
    ],
)
def test_dependencies_that_aws_refuses(jobs: Jobs, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ClientError) as error:
        jobs.submit("", **more)
    assert says in refusal(error)


def test_n_to_n_needs_arrays_of_one_size(jobs: Jobs) -> None:
    first = jobs.submit("", arrayProperties={"size": 2})
    with pytest.raises(ClientError) as error:
        jobs.submit("", arrayProperties={"size": 3}, dependsOn=[{"jobId": first, "type": "N_TO_N"}])
    assert "3 here, 2 in job" in refusal(error)
    jobs.wait(first)


# --- limits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 10_001])
def test_array_sizes_that_aws_refuses(jobs: Jobs, size: int) -> None:
    with pytest.raises(ClientError) as error:
        jobs.submit("", arrayProperties={"size": size})
    assert "between 2 and 10000" in refusal(error)


@pytest.mark.parametrize("name", ["a" * 129, "-a", "_a", "a b", "a.b", "ä", "a/b"])
def test_job_names_that_aws_refuses(jobs: Jobs, name: str) -> None:
    with pytest.raises(ClientError) as error:
        jobs.submit("", name=name)
    assert "Job name should match valid pattern" in refusal(error)


@pytest.mark.parametrize("name", ["a" * 128, "1", "A-b_9"])
def test_job_names_that_aws_takes(jobs: Jobs, name: str) -> None:
    assert jobs.run("", name=name)["jobName"] == name


def test_overrides_of_8192_bytes_and_no_more(jobs: Jobs) -> None:
    command = ["-c", "", "x" * (8192 - len('{"command":["-c","",""]}'))]
    overrides = {"command": command}
    assert jobs.run("", containerOverrides=overrides)["status"] == "SUCCEEDED"
    command[2] += "x"
    with pytest.raises(ClientError) as error:
        jobs.submit("", containerOverrides=overrides)
    assert refusal(error) == "Container Overrides length must be at most 8192"


def test_a_request_of_more_than_30_kib(jobs: Jobs) -> None:
    parameters = {f"p{index}": "x" * 1000 for index in range(40)}
    with pytest.raises(ClientError) as error:
        jobs.submit("", parameters=parameters)
    assert "30720" in refusal(error)


def test_describe_takes_a_hundred_ids(jobs: Jobs) -> None:
    job = jobs.run("")
    ids = [job["jobId"], *(str(uuid.uuid4()) for _ in range(99))]
    assert [found["jobId"] for found in jobs.batch.describe_jobs(jobs=ids)["jobs"]] == [job["jobId"]]
    assert jobs.batch.describe_jobs(jobs=[job["jobArn"]])["jobs"][0]["jobId"] == job["jobId"]
    with pytest.raises(ClientError) as error:
        jobs.batch.describe_jobs(jobs=[*ids, "one more"])
    assert "at most 100" in refusal(error)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ({"attempts": 0}, "between 1 and 10"),
        ({"attempts": 11}, "between 1 and 10"),
        (retry(*[{"onExitCode": "1", "action": "RETRY"}] * 6), "at most 5"),
        (retry({"action": "RETRY"}), "at least one"),
        (retry({"onExitCode": "1", "action": "MAYBE"}), "RETRY or EXIT"),
        ({"evaluateOnExit": [{"onExitCode": "1", "action": "RETRY"}]}, "attempts must be specified"),
    ],
)
def test_retry_strategies_that_aws_refuses(jobs: Jobs, strategy: dict[str, Any], says: str) -> None:
    with pytest.raises(ClientError) as error:
        jobs.submit("", retryStrategy=strategy)
    assert says in refusal(error)
    with pytest.raises(ClientError) as error:
        jobs.batch.register_job_definition(
            jobDefinitionName="refused",
            type="container",
            retryStrategy=strategy,
            containerProperties={"image": "x", "vcpus": 1, "memory": 512},
        )
    assert says in refusal(error)


def test_a_timeout_below_the_least(jobs: Jobs) -> None:
    with pytest.raises(ClientError) as error:
        jobs.submit("", timeout={"attemptDurationSeconds": 0})
    assert "at least 1 seconds" in refusal(error)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"jobQueue": "nope"}, "Job queue nope does not exist"),
        ({"jobDefinition": "nope"}, "Job definition nope does not exist"),
        ({"jobDefinition": f"{JOB_DEFINITION}:99"}, "does not exist"),
    ],
)
def test_a_queue_or_definition_that_is_not_there(jobs: Jobs, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ClientError) as error:
        jobs.submit("", **more)
    assert says in refusal(error)


def test_a_disabled_queue_and_a_deregistered_definition(jobs: Jobs) -> None:
    (queue,) = jobs.batch.describe_job_queues(jobQueues=[JOB_QUEUE])["jobQueues"]
    jobs.batch.create_job_queue(
        jobQueueName="closed",
        priority=1,
        state="DISABLED",
        computeEnvironmentOrder=queue["computeEnvironmentOrder"],
    )
    with pytest.raises(ClientError) as error:
        jobs.submit("", jobQueue="closed")
    assert "ENABLED" in refusal(error)
    definition = jobs.batch.register_job_definition(
        jobDefinitionName="old",
        type="container",
        containerProperties={"image": "x", "vcpus": 1, "memory": 512},
    )["jobDefinitionArn"]
    jobs.batch.deregister_job_definition(jobDefinition=definition)
    with pytest.raises(ClientError) as error:
        jobs.submit("", jobDefinition=definition)
    assert "ACTIVE" in refusal(error)


# --- ListJobs ---------------------------------------------------------------------------------------


@pytest.fixture
def queue(jobs: Jobs) -> str:
    """A queue in which nothing else is."""
    (main,) = jobs.batch.describe_job_queues(jobQueues=[JOB_QUEUE])["jobQueues"]
    name = f"queue-{uuid.uuid4().hex[:8]}"
    jobs.batch.create_job_queue(
        jobQueueName=name,
        priority=1,
        state="ENABLED",
        computeEnvironmentOrder=main["computeEnvironmentOrder"],
    )
    return name


def named(*values: str) -> list[dict[str, Any]]:
    return [{"name": "JOB_NAME", "values": list(values)}]


def test_list_by_name(jobs: Jobs, queue: str) -> None:
    ids = {name: jobs.submit("", name=name, jobQueue=queue) for name in ("Drive-1", "drive-10", "other")}
    array = jobs.submit("", name="drive-array", jobQueue=queue, arrayProperties={"size": 2})
    for job_id in (*ids.values(), array):
        jobs.wait(job_id)

    def listed(*values: str) -> list[str]:
        found = jobs.batch.list_jobs(jobQueue=queue, filters=named(*values))["jobSummaryList"]
        return [summary["jobId"] for summary in found]

    assert listed("drive-1") == listed("DRIVE-1") == [ids["Drive-1"]]
    assert listed("drive-*") == [array, ids["drive-10"], ids["Drive-1"]]
    assert listed("other", "drive-10") == [ids["other"], ids["drive-10"]]
    assert listed("nothing") == []
    (summary,) = jobs.batch.list_jobs(jobQueue=queue, filters=named("drive-array"))["jobSummaryList"]
    assert summary["status"] == "SUCCEEDED"
    assert summary["arrayProperties"] == {"size": 2}


def test_list_by_definition(jobs: Jobs, queue: str) -> None:
    """By name all revisions, by ARN one."""
    name = f"Listed-{uuid.uuid4().hex[:8]}"
    ids = {}
    for _ in range(2):
        arn = jobs.batch.register_job_definition(
            jobDefinitionName=name,
            type="container",
            containerProperties={"image": "x", "vcpus": 1, "memory": 512},
        )["jobDefinitionArn"]
        ids[arn] = jobs.submit("", jobDefinition=arn, jobQueue=queue)
    other = jobs.submit("", jobQueue=queue)
    for job_id in (*ids.values(), other):
        jobs.wait(job_id)

    def listed(*values: str) -> list[str]:
        filters = [{"name": "JOB_DEFINITION", "values": list(values)}]
        found = jobs.batch.list_jobs(jobQueue=queue, filters=filters)["jobSummaryList"]
        return [summary["jobId"] for summary in found]

    first, second = ids
    assert listed(first) == [ids[first]]
    assert listed(second, JOB_DEFINITION) == [other, ids[second]]
    assert listed(name) == listed(f"{name[:-1]}*") == [ids[second], ids[first]]
    assert listed(name.lower()) == listed(f"{first[:-1]}*") == []


def test_list_by_status(jobs: Jobs, queue: str) -> None:
    good, bad = jobs.submit("", jobQueue=queue), jobs.submit("import sys; sys.exit(4)", jobQueue=queue)
    jobs.wait(good), jobs.wait(bad)
    running = jobs.submit(SLEEP, jobQueue=queue)
    jobs.until(running, lambda job: job["status"] == "RUNNING")

    def listed(**status: str) -> list[str]:
        return [
            summary["jobId"] for summary in jobs.batch.list_jobs(jobQueue=queue, **status)["jobSummaryList"]
        ]

    assert listed() == listed(jobStatus="RUNNING") == [running]
    assert listed(jobStatus="SUCCEEDED") == [good]
    assert listed(jobStatus="FAILED") == [bad]
    (summary,) = jobs.batch.list_jobs(jobQueue=queue, jobStatus="FAILED")["jobSummaryList"]
    assert summary["container"] == {"exitCode": 4}
    jobs.batch.terminate_job(jobId=running, reason="done")
    jobs.wait(running)


def test_list_children(jobs: Jobs) -> None:
    parent = jobs.submit(fails(1), arrayProperties={"size": 3})
    jobs.wait(parent)
    found = jobs.batch.list_jobs(arrayJobId=parent, jobStatus="SUCCEEDED")["jobSummaryList"]
    assert [summary["arrayProperties"]["index"] for summary in found] == [0, 2]
    found = jobs.batch.list_jobs(arrayJobId=parent, jobStatus="FAILED")["jobSummaryList"]
    assert [summary["jobId"] for summary in found] == [f"{parent}:1"]
    assert jobs.batch.list_jobs(arrayJobId=parent)["jobSummaryList"] == []


def test_list_in_pages(jobs: Jobs, queue: str, full: list[str]) -> None:
    ids = [jobs.submit("", name="page", jobQueue=queue) for _ in range(5)]
    request = {"jobQueue": queue, "filters": named("page"), "maxResults": 2}
    first = jobs.batch.list_jobs(**request)
    jobs.submit("", name="page", jobQueue=queue)  # shifts no page
    second = jobs.batch.list_jobs(**request, nextToken=first["nextToken"])
    third = jobs.batch.list_jobs(**request, nextToken=second["nextToken"])
    found = [s["jobId"] for page in (first, second, third) for s in page["jobSummaryList"]]
    assert found == ids[::-1]
    assert "nextToken" not in third
    pages = jobs.batch.get_paginator("list_jobs").paginate(
        jobQueue=queue, filters=named("page"), PaginationConfig={"PageSize": 4}
    )
    assert [len(page["jobSummaryList"]) for page in pages] == [4, 2]


def test_children_in_pages(jobs: Jobs, full: list[str]) -> None:
    parent = jobs.submit("", arrayProperties={"size": 250})
    pages = list(jobs.batch.get_paginator("list_jobs").paginate(arrayJobId=parent, jobStatus="RUNNABLE"))
    assert [len(page["jobSummaryList"]) for page in pages] == [100, 100, 50]
    indexes = [summary["arrayProperties"]["index"] for page in pages for summary in page["jobSummaryList"]]
    assert indexes == list(range(250))
    jobs.batch.terminate_job(jobId=parent, reason="listed")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({}, "exactly one"),
        ({"jobQueue": JOB_QUEUE, "arrayJobId": "x"}, "exactly one"),
        ({"jobQueue": "nope"}, "does not exist"),
        ({"arrayJobId": "nope"}, "does not exist"),
        ({"jobQueue": JOB_QUEUE, "maxResults": 101}, "between 1 and 100"),
        ({"jobQueue": JOB_QUEUE, "nextToken": "?"}, "nextToken"),
        ({"jobQueue": JOB_QUEUE, "jobStatus": "DONE"}, "Job status is not one of"),
        ({"jobQueue": JOB_QUEUE, "filters": [{"name": "COLOUR", "values": ["x"]}]}, "no filter 'COLOUR'"),
    ],
)
def test_lists_that_aws_refuses(jobs: Jobs, request_: dict[str, Any], says: str) -> None:
    jobs.run("")
    with pytest.raises(ClientError) as error:
        jobs.batch.list_jobs(**request_)
    assert says in refusal(error)
