"""An embedded AWS whose jobs are snippets of Python, and a short way to run them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_batch_ros.local import JOB_DEFINITION, JOB_QUEUE, EmbeddedAws, ServerOptions

SLOTS = 2
KILL_GRACE_S = 1.0
FINAL = ("SUCCEEDED", "FAILED")
PATIENCE_S = 60.0
"""For what takes a moment, on a machine that may be busy."""

SLEEP = "import time; time.sleep(600)"
"""A job that runs until it is ended."""


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    options = ServerOptions(
        entrypoint=(sys.executable, "-I", "-S"), slots=SLOTS, kill_grace_s=KILL_GRACE_S, minimum_timeout_s=1
    )
    with EmbeddedAws(tmp_path_factory.mktemp("aws"), buckets=["drives", "lake"], options=options) as aws:
        yield aws


@dataclass(frozen=True)
class Jobs:
    """Runs snippets of Python as Batch jobs."""

    batch: Any
    logs: Any

    def submit(self, code: str, *arguments: str, name: str = "job", **more: Any) -> str:
        overrides = {"command": ["-c", code, *arguments], **more.pop("containerOverrides", {})}
        more = {"jobQueue": JOB_QUEUE, "jobDefinition": JOB_DEFINITION, **more}
        answer = self.batch.submit_job(jobName=name, containerOverrides=overrides, **more)
        return str(answer["jobId"])

    def describe(self, job_id: str) -> dict[str, Any]:
        (job,) = self.batch.describe_jobs(jobs=[job_id])["jobs"]
        return dict(job)

    def until(
        self, job_id: str, condition: Callable[[dict[str, Any]], bool], patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        while not condition(job := self.describe(job_id)):
            assert time.monotonic() < deadline, f"still {job['status']} after {patience_s} s: {job}"
            time.sleep(0.01)
        return job

    def wait(self, job_id: str) -> dict[str, Any]:
        return self.until(job_id, lambda job: job["status"] in FINAL)

    def run(self, code: str, *arguments: str, **more: Any) -> dict[str, Any]:
        return self.wait(self.submit(code, *arguments, **more))

    def lines(self, job: dict[str, Any]) -> list[str]:
        stream = job["container"]["logStreamName"]
        answer = self.logs.get_log_events(
            logGroupName="/aws/batch/job", logStreamName=stream, startFromHead=True
        )
        return [event["message"] for event in answer["events"]]


@pytest.fixture(scope="session")
def jobs(aws: EmbeddedAws) -> Jobs:
    return Jobs(aws.client("batch"), aws.client("logs"))
