"""Waits until jobs of the embedded Batch are where a test wants them, and ends those that a test leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from airflow_batch_ros.jobs import LIVE, describe, job_state

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

QUEUE = "ros-to-parquet"
PATIENCE_S = 60.0
"""For what takes a moment, on a machine that may be busy."""


def until(condition: Callable[[], bool], what: str = "it is so") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def wait_for_end(batch: BatchClient, job_ids: Sequence[str]) -> None:
    until(lambda: not LIVE & states(batch, job_ids), "jobs have ended")


def wait_until_running(batch: BatchClient, *job_ids: str) -> None:
    until(lambda: states(batch, job_ids) == {"RUNNING"}, "jobs run")


def states(batch: BatchClient, job_ids: Sequence[str]) -> set[str]:
    """Of those that Batch knows."""
    return {job_state(detail) for detail in describe(batch, job_ids).values()}


def end_all(batch: BatchClient) -> None:
    """Those too that have not begun, or they would keep a place from the next test's."""
    for status in sorted(LIVE):
        pages = batch.get_paginator("list_jobs").paginate(jobQueue=QUEUE, jobStatus=status)  # type: ignore[arg-type]
        for job in [job for page in pages for job in page["jobSummaryList"]]:
            batch.terminate_job(jobId=job["jobId"], reason="the test is over")
