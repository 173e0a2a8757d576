"""The engine that runs jobs, without the API before it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_batch_ros.local.batch_jobs import (
    EXITED,
    NOT_STARTED,
    BatchEngine,
    BatchError,
    Job,
    JobRequest,
    Outcome,
    RetryRule,
    RetryStrategy,
    Status,
    parse_retry_strategy,
    substitute,
)
from airflow_batch_ros.local.batch_stack import RETRY_STRATEGY
from airflow_batch_ros.local.processes import start_time
from airflow_batch_ros.local.runners import ContainerSpec, ProcessExecution, ProcessRunner
from ros_to_parquet.contract import ExitCode

from .conftest import PATIENCE_S


@pytest.mark.parametrize(
    ("rule", "outcome", "matches"),
    [
        (RetryRule(retry=True, on_exit_code="75"), Outcome(75, EXITED), True),
        (RetryRule(retry=True, on_exit_code="75"), Outcome(7, EXITED), False),
        (RetryRule(retry=True, on_exit_code="7"), Outcome(75, EXITED), False),
        (RetryRule(retry=True, on_exit_code="7*"), Outcome(75, EXITED), True),
        (RetryRule(retry=True, on_exit_code="1*"), Outcome(None, NOT_STARTED), False),
        (RetryRule(retry=True, on_exit_code="*"), Outcome(None, NOT_STARTED), True),
        (RetryRule(retry=True, on_reason="*"), Outcome(1, EXITED), True),
        (RetryRule(retry=True, on_reason="OutOfMemory*"), Outcome(137, EXITED, "OutOfMemoryError: x"), True),
        (RetryRule(retry=True, on_reason="Memory*"), Outcome(137, EXITED, "OutOfMemoryError: x"), False),
        (
            RetryRule(retry=True, on_status_reason="Host EC2*"),
            Outcome(None, "Host EC2 (i-1) terminated"),
            True,
        ),
        (
            RetryRule(retry=True, on_status_reason="host ec2*"),
            Outcome(None, "Host EC2 (i-1) terminated"),
            False,
        ),
        (RetryRule(retry=True, on_exit_code="1", on_reason="x"), Outcome(1, EXITED), False),
    ],
)
def test_rules(rule: RetryRule, outcome: Outcome, matches: bool) -> None:
    assert rule.matches(outcome) is matches


@pytest.mark.parametrize(
    ("outcome", "retried"),
    [
        (Outcome(None, "Host EC2 (instance i-0123) terminated."), True),
        (Outcome(None, "Your Spot Task was interrupted."), True),
        (Outcome(ExitCode.RETRY, EXITED), True),
        (Outcome(137, EXITED, "OutOfMemoryError: Container killed due to memory usage"), False),
        (Outcome(None, NOT_STARTED, "CannotPullContainerError: no such image"), False),
        *((Outcome(code, EXITED), False) for code in ExitCode if code not in (ExitCode.OK, ExitCode.RETRY)),
    ],
)
def test_what_the_job_definition_retries(outcome: Outcome, retried: bool) -> None:
    strategy = parse_retry_strategy(RETRY_STRATEGY)
    assert strategy.retries(outcome, attempt=1) is retried
    assert strategy.retries(outcome, attempt=3) is False


def test_without_a_strategy_there_is_one_attempt() -> None:
    assert parse_retry_strategy(None) == parse_retry_strategy({}) == RetryStrategy(attempts=1)
    assert not RetryStrategy().retries(Outcome(1, EXITED), attempt=1)


def test_rules_are_asked_in_order_and_none_is_a_retry() -> None:
    strategy = RetryStrategy(
        5, (RetryRule(retry=False, on_exit_code="1"), RetryRule(retry=True, on_exit_code="1*"))
    )
    assert [strategy.retries(Outcome(code, EXITED), attempt=1) for code in (1, 12, 2)] == [False, True, True]


def test_parameters() -> None:
    parameters = {"a": "1", "ab": "2", "ref": "Ref::a"}
    assert substitute(["Ref::a", "Ref::ab", "x=Ref::a,Ref::ab.", "Ref::ref", "Ref::c", "a"], parameters) == [
        "1",
        "2",
        "x=1,2.",
        "Ref::a",
        "Ref::c",
        "a",
    ]


def processes(scratch: Path) -> ProcessRunner:
    return ProcessRunner(
        entrypoint=(sys.executable, "-I", "-S"), base_environment={"PATH": os.defpath}, scratch=scratch
    )


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[BatchEngine]:
    engine = BatchEngine(
        slots=2,
        runner=processes(tmp_path),
        metadata_url="http://m",
        kill_grace_s=1,
    )
    yield engine
    engine.close()


def request(code: str, log: list[tuple[str, str]] | None = None, **more: object) -> JobRequest:
    fields = {
        "name": "job",
        "queue": "queue",
        "log_prefix": "definition",
        "command": ("-c", code),
        "container": ContainerSpec(image="any", vcpus=1, memory_mib=512),
        "environment": {"X": "1"},
        "retry": RetryStrategy(),
        "timeout_s": None,
        "array_size": None,
        "depends_on": (),
        "log": lambda stream, line: log.append((stream, line)) if log is not None else None,
    }
    return JobRequest(**(fields | more))  # type: ignore[arg-type]


def wait(job: Job, status: Status) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while job.status is not status:
        assert time.monotonic() < deadline, f"{job.status}, not {status}"
        time.sleep(0.005)


def test_a_job(engine: BatchEngine, tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    job = engine.submit(
        request("import os; print(os.environ['X'], os.getcwd() == os.environ['HOME'])", lines)
    )
    wait(job, Status.SUCCEEDED)
    assert job.log_stream is not None
    assert job.log_stream.startswith("definition/default/")
    assert lines == [(job.log_stream, "1 True")]
    assert engine.jobs("queue") == [job]
    assert engine.jobs("other") == []
    assert list(tmp_path.iterdir()) == []


def test_the_log_stream_is_known_while_the_attempt_runs(engine: BatchEngine) -> None:
    lines: list[tuple[str, str]] = []
    code = "import os; print(os.environ['ECS_CONTAINER_METADATA_URI_V4'], flush=True); input()"
    job = engine.submit(request(f"{code.replace('input()', 'import time; time.sleep(600)')}", lines))
    while not lines:
        time.sleep(0.005)
    ((stream, url),) = lines
    attempt_id = url.removeprefix("http://m/")
    assert engine.log_stream(attempt_id) == stream == job.log_stream
    engine.terminate(job.id, "enough")
    wait(job, Status.FAILED)
    assert engine.log_stream(attempt_id) is None


def test_closing_ends_all_processes_and_starts_none(tmp_path: Path) -> None:
    engine = BatchEngine(slots=2, runner=processes(tmp_path), metadata_url="http://m", kill_grace_s=600)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    lines: list[tuple[str, str]] = []
    running = [engine.submit(request(stubborn, lines)) for _ in range(2)]
    waiting = engine.submit(request(""))
    while len(lines) < 2:
        time.sleep(0.005)
    pids = [job.execution.process.pid for job in running if isinstance(job.execution, ProcessExecution)]
    assert len(pids) == 2
    started = time.monotonic()
    engine.close(grace_s=0.3)
    assert 0.3 <= time.monotonic() - started < 60
    assert [start_time(pid) for pid in pids] == [None, None]
    assert [job.status for job in running] == [Status.FAILED, Status.FAILED]
    assert waiting.status is Status.RUNNABLE
    late = engine.submit(request(""))
    assert late.status is Status.RUNNABLE


def test_a_broken_disk_is_a_job_that_did_not_start(tmp_path: Path) -> None:
    engine = BatchEngine(slots=1, runner=processes(tmp_path / "gone"), metadata_url="http://m")
    jobs = [engine.submit(request("")) for _ in range(2)]  # the second: the slot is free again
    for job in jobs:
        wait(job, Status.FAILED)
        assert job.status_reason == NOT_STARTED
        assert "gone" in (job.attempts[0].outcome.reason or "")


def test_a_long_chain_fails_from_its_first_link(engine: BatchEngine) -> None:
    blocker = engine.submit(request("import time; time.sleep(600)"))
    other = engine.submit(request("import time; time.sleep(600)"))
    from airflow_batch_ros.local.batch_jobs import Dependency

    chain = engine.submit(request("", array_size=5000, depends_on=(Dependency("", "SEQUENTIAL"),)))
    engine.terminate(chain.children[0].id, "no")
    assert chain.status is Status.FAILED
    assert chain.child_counts()["FAILED"] == 5000
    for job in (blocker, other):
        engine.terminate(job.id, "over")


def test_submitting_from_many_threads(engine: BatchEngine) -> None:
    jobs: list[Job] = []
    threads = [threading.Thread(target=lambda: jobs.append(engine.submit(request("")))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        wait(job, Status.SUCCEEDED)
    assert sorted(job.number for job in jobs) == list(range(20))


def test_refusals_leave_nothing_behind(engine: BatchEngine) -> None:
    with pytest.raises(BatchError):
        engine.submit(request("", array_size=1))
    assert engine.jobs("queue") == []
