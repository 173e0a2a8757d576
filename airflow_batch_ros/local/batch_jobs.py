"""Runs AWS Batch jobs on this machine: as processes, or as containers.

What AWS documents for Batch is what happens here: states in their order, array jobs and their parents,
dependencies, attempts and ``evaluateOnExit``, time-outs, terminate and cancel, exit codes and reasons,
log lines while the job runs, and a limit on how many run at once. This module knows nothing of HTTP or
moto; `moto_batch` joins it to the API. How an attempt runs is a `runners.Runner`'s.

One lock guards all jobs. An attempt has a thread that starts it, waits for it, and then takes the lock to
say what follows; nothing else polls.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from airflow_batch_ros.local.faults import (
    FaultBoard,
    HostReclaimed,
    ImageNotFound,
    InForce,
    JobEnds,
    JobFault,
    JobStuck,
    JobUnknown,
    job_matches,
)
from airflow_batch_ros.local.runners import CannotStartError, ContainerSpec, Execution, Exit, Launch, Runner

MIN_ARRAY_SIZE, MAX_ARRAY_SIZE = 2, 10_000
MAX_DEPENDENCIES = 20
MAX_ATTEMPTS = 10
MAX_RETRY_RULES = 5

EXITED = "Essential container in task exited"
NOT_STARTED = "Task failed to start"
TIMED_OUT = "Job attempt duration exceeded timeout"
DEPENDENCY_FAILED = "Dependent Job failed"
CHILD_FAILED = "Array Child Job failed"


_JobFault = TypeVar("_JobFault", bound=JobFault)


class BatchError(ValueError):
    """What AWS answers with a ClientException."""


class Status(StrEnum):
    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    RUNNABLE = "RUNNABLE"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED)


# --- what is asked for ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. ``exit_code`` is None where no process ran."""

    exit_code: int | None
    status_reason: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """One of ``evaluateOnExit``: a pattern is exact, or a prefix where it ends with ``*``; None takes all."""

    retry: bool
    on_exit_code: str | None = None
    on_reason: str | None = None
    on_status_reason: str | None = None

    def matches(self, outcome: Outcome) -> bool:
        exit_code = "" if outcome.exit_code is None else str(outcome.exit_code)
        return (
            _matches(self.on_exit_code, exit_code)
            and _matches(self.on_reason, outcome.reason or "")
            and _matches(self.on_status_reason, outcome.status_reason)
        )


def _matches(pattern: str | None, text: str) -> bool:
    if pattern is None:
        return True
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


@dataclass(frozen=True, slots=True)
class RetryStrategy:
    attempts: int = 1
    rules: tuple[RetryRule, ...] = ()

    def retries(self, outcome: Outcome, *, attempt: int) -> bool:
        """A failed ``attempt`` (the first is 1) that ended so is followed by another.

        The first rule that matches decides; where none does, the job is tried again.
        """
        if attempt >= self.attempts:
            return False
        return next((rule.retry for rule in self.rules if rule.matches(outcome)), True)


def parse_retry_strategy(raw: Mapping[str, Any] | None) -> RetryStrategy:
    """The ``retryStrategy`` of a job definition or a SubmitJob.

    Raises:
        BatchError: attempts outside 1 to 10, more than five rules, a rule without a condition or with an
            unknown action.
    """
    if not raw:
        return RetryStrategy()
    attempts = raw.get("attempts", 1)
    if not 1 <= attempts <= MAX_ATTEMPTS:
        raise BatchError(f"retryStrategy.attempts must be between 1 and {MAX_ATTEMPTS}, not {attempts}")
    raw_rules = raw.get("evaluateOnExit") or []
    if len(raw_rules) > MAX_RETRY_RULES:
        raise BatchError(f"evaluateOnExit takes at most {MAX_RETRY_RULES} conditions, not {len(raw_rules)}")
    if raw_rules and "attempts" not in raw:
        raise BatchError("retryStrategy.attempts must be specified with evaluateOnExit")
    return RetryStrategy(attempts, tuple(_parse_rule(rule) for rule in raw_rules))


def _parse_rule(raw: Mapping[str, str]) -> RetryRule:
    action = raw.get("action", "").upper()
    if action not in ("RETRY", "EXIT"):
        raise BatchError(f"evaluateOnExit.action must be RETRY or EXIT, not {raw.get('action')!r}")
    if not raw.keys() & {"onExitCode", "onReason", "onStatusReason"}:
        raise BatchError("evaluateOnExit needs at least one of onExitCode, onReason and onStatusReason")
    return RetryRule(
        retry=action == "RETRY",
        on_exit_code=raw.get("onExitCode"),
        on_reason=raw.get("onReason"),
        on_status_reason=raw.get("onStatusReason"),
    )


def substitute(command: Sequence[str], parameters: Mapping[str, str]) -> list[str]:
    """``command`` with each ``Ref::name`` replaced by the parameter; unknown names stay as they are.

    >>> substitute(["run", "--plan", "Ref::plan", "Ref::x"], {"plan": "s3://b/p"})
    ['run', '--plan', 's3://b/p', 'Ref::x']
    """
    return [
        re.sub(r"Ref::([A-Za-z0-9_-]+)", lambda ref: parameters.get(ref[1], ref[0]), part) for part in command
    ]


@dataclass(frozen=True, slots=True)
class Dependency:
    """One of ``dependsOn``: ``kind`` is empty, ``SEQUENTIAL`` (no job id) or ``N_TO_N``."""

    job_id: str
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One SubmitJob, resolved against its job definition.

    Attributes:
        queue: what jobs are listed by.
        log_prefix: log streams are ``{log_prefix}/default/{id of the attempt}``.
        command: what the image's entry point is given.
        container: what is asked of the container, where one runs it.
        timeout_s: of one attempt.
        array_size: None for a plain job.
        log: takes a log stream's name and a line, from the attempt's thread.
        shown: what DescribeJobs shows of it as it stands.
    """

    name: str
    queue: str
    log_prefix: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    container: ContainerSpec
    retry: RetryStrategy
    timeout_s: float | None
    array_size: int | None
    depends_on: tuple[Dependency, ...]
    log: Callable[[str, str], None]
    shown: Mapping[str, Any] = field(default_factory=dict)


# --- what came of it --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that ended. Times are milliseconds since 1970; ``started_at_ms`` None: no process ran."""

    outcome: Outcome
    log_stream: str | None
    started_at_ms: int | None
    stopped_at_ms: int


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """A plain job, an array's parent (it has ``children``) or an array's child (it has ``index``)."""

    id: str
    number: int
    """Its place among all jobs submitted; children share their parent's."""
    request: JobRequest
    created_at_ms: int
    parent: Job | None = None
    index: int | None = None
    children: list[Job] = field(default_factory=list)
    status: Status = Status.SUBMITTED
    status_reason: str | None = None
    started_at_ms: int | None = None
    stopped_at_ms: int | None = None
    log_stream: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    cancelled: bool = False
    terminated: bool = False
    waits_for: set[str] = field(default_factory=set)
    open_children: int = 0
    stop_reason: str | None = None
    """Why a starting or running attempt is being ended: it is not retried."""
    execution: Execution | None = None
    stuck_by: str | None = None
    """The id of the fault by which it stays RUNNABLE."""
    reclaimed: bool = False
    """The host of the running attempt was taken away."""

    def child_counts(self) -> dict[str, int]:
        counts = Counter(child.status for child in self.children)
        return {status.value: counts[status] for status in Status}


class BatchEngine:
    """All jobs, and the attempts of those that run.

    Args:
        slots: attempts that run at the same time; the others wait as RUNNABLE, first come, first served.
        runner: starts attempts.
        metadata_url: an attempt's ``ECS_CONTAINER_METADATA_URI_V4`` is this, a slash and the attempt's id;
            see `log_stream`.
        kill_grace_s: from SIGTERM to SIGKILL.
        board: what is to go wrong.
    """

    def __init__(
        self,
        *,
        slots: int,
        runner: Runner,
        metadata_url: str,
        kill_grace_s: float = 30.0,
        board: FaultBoard | None = None,
    ) -> None:
        self._board = board or FaultBoard()
        self._board.on_change(self._release_stuck)
        self._slots = slots
        self._runner = runner
        self._metadata_url = metadata_url
        self._kill_grace_s = kill_grace_s
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._numbers = itertools.count()
        self._dependents: dict[str, list[Job]] = defaultdict(list)
        self._ended: deque[Job] = deque()
        self._runnable: deque[Job] = deque()
        self._stuck: list[Job] = []
        self._attempt_threads: set[threading.Thread] = set()
        self._log_streams: dict[str, str] = {}
        self._closed = False

    # --- the API ------------------------------------------------------------------------------------

    def submit(self, request: JobRequest) -> Job:
        """Take a job in.

        Raises:
            BatchError: array size or dependencies that AWS would refuse.
        """
        size = request.array_size
        if size is not None and not MIN_ARRAY_SIZE <= size <= MAX_ARRAY_SIZE:
            raise BatchError(
                f"arrayProperties.size must be between {MIN_ARRAY_SIZE} and {MAX_ARRAY_SIZE}, not {size}"
            )
        with self._lock:
            self._check_dependencies(request)
            job = Job(
                id=str(uuid.uuid4()), number=next(self._numbers), request=request, created_at_ms=_now_ms()
            )
            self._jobs[job.id] = job
            for index in range(size or 0):
                child = Job(
                    id=f"{job.id}:{index}",
                    number=job.number,
                    request=request,
                    created_at_ms=job.created_at_ms,
                    parent=job,
                    index=index,
                )
                self._jobs[child.id] = child
                job.children.append(child)
            job.open_children = len(job.children)
            job.status = Status.PENDING
            for part in job.children or [job]:
                self._await_dependencies(part)
            self._advance()
            return job

    def job(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def jobs(self, queue: str) -> list[Job]:
        """Plain jobs and array parents of ``queue``, the newest first."""
        with self._lock:
            found = [job for job in self._jobs.values() if job.request.queue == queue and job.parent is None]
        return found[::-1]

    def is_unknown(self, job: Job) -> bool:
        """Whether it is to be told of nobody, this time."""
        return self._fault(JobUnknown, job) is not None

    def log_stream(self, attempt_id: str) -> str | None:
        """The log stream of a running attempt, by the id in its metadata URL."""
        return self._log_streams.get(attempt_id)

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job whatever it does, of an array all children. Nothing where it is unknown or has ended."""
        self._stop(job_id, reason, running_too=True)

    def cancel(self, job_id: str, reason: str) -> None:
        """End a job that has not started yet; of an array, the children that have not."""
        self._stop(job_id, reason, running_too=False)

    def close(self, *, grace_s: float = 2.0) -> None:
        """End all attempts: SIGTERM, after ``grace_s`` SIGKILL. No attempt starts any more."""
        with self._lock:
            self._closed = True
            threads = list(self._attempt_threads)
            for job in self._running():
                job.stop_reason = "The embedded AWS was stopped"
                self._end_execution(job, grace_s=grace_s)
        deadline = time.monotonic() + grace_s + 5
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # --- states (all of these hold the lock) --------------------------------------------------------

    def _check_dependencies(self, request: JobRequest) -> None:
        if len(request.depends_on) > MAX_DEPENDENCIES:
            raise BatchError(
                f"dependsOn takes at most {MAX_DEPENDENCIES} jobs, not {len(request.depends_on)}"
            )
        for dependency in request.depends_on:
            if dependency.kind not in ("", "SEQUENTIAL", "N_TO_N"):
                raise BatchError(f"dependsOn.type must be SEQUENTIAL or N_TO_N, not {dependency.kind!r}")
            if dependency.kind and request.array_size is None:
                raise BatchError(f"a {dependency.kind} dependency needs an array job")
            if dependency.kind == "SEQUENTIAL":
                if dependency.job_id:
                    raise BatchError("a SEQUENTIAL dependency takes no jobId")
                continue
            other = self._jobs.get(dependency.job_id)
            if other is None:
                raise BatchError(f"dependsOn: job {dependency.job_id!r} does not exist")
            if dependency.kind == "N_TO_N" and len(other.children) != request.array_size:
                raise BatchError(
                    f"an N_TO_N dependency needs arrays of one size: {request.array_size} here, "
                    f"{len(other.children)} in job {other.id}"
                )

    def _await_dependencies(self, job: Job) -> None:
        job.status = Status.PENDING
        for dependency in job.request.depends_on:
            if dependency.kind == "SEQUENTIAL":
                assert job.parent is not None and job.index is not None
                if job.index == 0:
                    continue
                other = job.parent.children[job.index - 1]
            else:
                other = self._jobs[dependency.job_id]
                if dependency.kind == "N_TO_N":
                    assert job.index is not None
                    other = other.children[job.index]
            if other.status is Status.FAILED:
                self._finish(job, Status.FAILED, DEPENDENCY_FAILED)
                return
            if other.status is not Status.SUCCEEDED:
                job.waits_for.add(other.id)
                self._dependents[other.id].append(job)
        if not job.waits_for:
            self._make_runnable(job)

    def _make_runnable(self, job: Job) -> None:
        job.status = Status.RUNNABLE
        self._runnable.append(job)

    def _finish(self, job: Job, status: Status, reason: str | None) -> None:
        job.status = status
        job.status_reason = reason
        job.stopped_at_ms = _now_ms()
        self._ended.append(job)

    def _advance(self) -> None:
        """All that follows from jobs that ended, then start what there are slots for."""
        while self._ended:
            job = self._ended.popleft()
            for dependent in self._dependents.pop(job.id, ()):
                if dependent.status is not Status.PENDING:
                    continue
                if job.status is Status.FAILED:
                    self._finish(dependent, Status.FAILED, DEPENDENCY_FAILED)
                    continue
                dependent.waits_for.discard(job.id)
                if not dependent.waits_for:
                    self._make_runnable(dependent)
            if job.parent is not None:
                self._child_ended(job.parent)
        while self._runnable and len(self._attempt_threads) < self._slots and not self._closed:
            job = self._runnable.popleft()
            if job.status is not Status.RUNNABLE:
                continue  # cancelled while it waited
            if stuck := self._fault(JobStuck, job):
                self._hold(job, stuck)
                continue
            job.status = Status.STARTING
            job.status_reason = None
            thread = threading.Thread(
                target=self._run_attempt, args=(job,), name=f"job {job.id}", daemon=True
            )
            self._attempt_threads.add(thread)
            thread.start()

    def _child_ended(self, parent: Job) -> None:
        parent.open_children -= 1
        if parent.open_children:
            return
        if all(child.status is Status.SUCCEEDED for child in parent.children):
            self._finish(parent, Status.SUCCEEDED, None)
        else:
            self._finish(parent, Status.FAILED, parent.stop_reason or CHILD_FAILED)

    def _stop(self, job_id: str, reason: str, *, running_too: bool) -> None:
        with self._lock:
            target = self._jobs.get(job_id)
            if target is None or target.status.is_final:
                return
            if target.children:
                target.stop_reason = reason
                target.terminated, target.cancelled = running_too, not running_too
            for job in target.children or [target]:
                if job.status.is_final:
                    continue
                if job.status in (Status.STARTING, Status.RUNNING):
                    if running_too and job.stop_reason is None:
                        job.terminated = True
                        job.stop_reason = reason
                        self._end_execution(job, grace_s=self._kill_grace_s)
                else:
                    job.terminated, job.cancelled = running_too, not running_too
                    self._finish(job, Status.FAILED, reason)
            self._advance()

    def _attempt_ended(self, job: Job, attempt: Attempt) -> None:
        job.attempts.append(attempt)
        outcome = attempt.outcome
        if outcome.exit_code == 0 and job.stop_reason is None:
            self._finish(job, Status.SUCCEEDED, outcome.status_reason)
        elif job.stop_reason is None and job.request.retry.retries(outcome, attempt=len(job.attempts)):
            job.status_reason = outcome.status_reason
            self._make_runnable(job)
        else:
            self._finish(job, Status.FAILED, outcome.status_reason)

    # --- faults -------------------------------------------------------------------------------------

    def _fault(self, kind: type[_JobFault], job: Job) -> InForce[_JobFault] | None:
        return self._board.befalling(kind, lambda fault: job_matches(fault, job.request.name, job.index))

    def _hold(self, job: Job, stuck: InForce[JobStuck]) -> None:
        job.stuck_by, job.status_reason = stuck.id, stuck.fault.reason
        self._stuck.append(job)
        if stuck.fault.cancel_after_s is not None:
            _after(stuck.fault.cancel_after_s, self._cancel_stuck, job, stuck)

    def _cancel_stuck(self, job: Job, stuck: InForce[JobStuck]) -> None:
        with self._lock:
            if job.stuck_by == stuck.id:
                self.cancel(job.id, stuck.fault.reason)

    def _release_stuck(self) -> None:
        with self._lock:
            for job in self._stuck:
                if job.stuck_by is not None and not self._board.has(job.stuck_by):
                    job.stuck_by = None
                    self._runnable.append(job)
            self._stuck = [job for job in self._stuck if job.stuck_by is not None]
            self._advance()

    def _reclaim(self, job: Job, execution: Execution) -> None:
        with self._lock:
            if job.execution is execution:
                job.reclaimed = True
                execution.kill()

    # --- attempts -----------------------------------------------------------------------------------

    def _run_attempt(self, job: Job) -> None:
        attempt_id = uuid.uuid4().hex
        self._log_streams[attempt_id] = f"{job.request.log_prefix}/default/{attempt_id}"
        try:
            execution = self._start(job, attempt_id)
        except CannotStartError as error:
            attempt = self._not_started(job, str(error))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            attempt = self._not_started(job, f"CannotStartContainerError: {error}")
        else:
            attempt = self._attempt(job, execution, self._log_streams[attempt_id])
        with self._lock:
            del self._log_streams[attempt_id]
            self._attempt_ended(job, attempt)
            self._attempt_threads.discard(threading.current_thread())
            self._advance()

    def _start(self, job: Job, attempt_id: str) -> Execution:
        if self._fault(ImageNotFound, job):
            image = job.request.container.image
            raise CannotStartError(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve "
                f"ref {image}: {image}: not found"
            )
        if ends := self._fault(JobEnds, job):
            return _Ended(Exit(ends.fault.exit_code, ends.fault.reason))
        return self._runner.start(self._launch(job, attempt_id))

    def _not_started(self, job: Job, reason: str) -> Attempt:
        return Attempt(Outcome(None, job.stop_reason or NOT_STARTED, reason), None, None, _now_ms())

    def _attempt(self, job: Job, execution: Execution, log_stream: str) -> Attempt:
        request = job.request
        with self._lock:
            job.execution = execution
            job.status = Status.RUNNING
            job.status_reason = None
            job.log_stream = log_stream
            job.started_at_ms = started_at_ms = _now_ms()
            if self._closed or job.stop_reason is not None:  # asked for while it started
                self._end_execution(job, grace_s=0.0 if self._closed else self._kill_grace_s)
        reclaimed = self._fault(HostReclaimed, job)
        at_line = None if reclaimed is None else reclaimed.fault.at_line

        def copy(stream: str, line: str) -> None:
            request.log(stream, line)
            if at_line is not None and fnmatchcase(line, at_line):
                self._reclaim(job, execution)

        reader = threading.Thread(target=_copy_lines, args=(execution, log_stream, copy), daemon=True)
        reader.start()
        if reclaimed is not None and at_line is None:
            self._reclaim(job, execution)
        timer = None
        if request.timeout_s is not None:
            timer = _after(request.timeout_s, self._expire, job, execution)
        try:
            ended = execution.wait()
        except OSError as error:
            ended = Exit(None, f"CannotInspectContainerError: {error}")
        with self._lock:
            job.execution = None
        if timer is not None:
            timer.cancel()
        reason = ended.reason
        try:
            execution.close()
        except OSError as error:
            reason = f"{reason or ''} CannotRemoveContainerError: {error}".strip()
        reader.join(2.0)  # a grandchild that left the group may hold the pipe: do not wait for it
        if job.reclaimed:
            job.reclaimed = False
            outcome = Outcome(None, f"Host EC2 (instance i-{uuid.uuid4().hex[:17]}) terminated.")
            return Attempt(outcome, log_stream, started_at_ms, _now_ms())
        outcome = Outcome(ended.code, job.stop_reason or EXITED, reason)
        return Attempt(outcome, log_stream, started_at_ms, _now_ms())

    def _launch(self, job: Job, attempt_id: str) -> Launch:
        environment = {
            **job.request.environment,
            "AWS_BATCH_JOB_ID": job.id,
            "AWS_BATCH_JOB_ATTEMPT": str(len(job.attempts) + 1),
            "ECS_CONTAINER_METADATA_URI_V4": f"{self._metadata_url}/{attempt_id}",
        }
        name = job.request.name
        if job.parent is not None:
            environment["AWS_BATCH_JOB_ARRAY_INDEX"] = str(job.index)
            environment["AWS_BATCH_JOB_ARRAY_SIZE"] = str(job.request.array_size)
            name = f"{name}-{job.index}"
        return Launch(
            name=f"{name}-{attempt_id[:12]}",
            job_id=job.id,
            command=job.request.command,
            environment=environment,
            container=job.request.container,
        )

    def _running(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.execution is not None]

    def _expire(self, job: Job, execution: Execution) -> None:
        with self._lock:
            if job.execution is execution and job.stop_reason is None:
                job.stop_reason = TIMED_OUT
                self._end_execution(job, grace_s=self._kill_grace_s)

    def _end_execution(self, job: Job, *, grace_s: float) -> None:
        """SIGTERM to the attempt now, SIGKILL to all of it later; nothing where none runs yet."""
        execution = job.execution
        if execution is None:
            return
        execution.terminate()

        def kill() -> None:
            with self._lock:
                if job.execution is execution:
                    execution.kill()

        _after(grace_s, kill)


@dataclass(frozen=True, slots=True)
class _Ended:
    """An attempt that ended before it did anything."""

    how: Exit

    def lines(self) -> Iterator[bytes]:
        return iter(())

    def wait(self) -> Exit:
        return self.how

    def terminate(self) -> None:
        """It has ended."""

    def kill(self) -> None:
        """It has ended."""

    def close(self) -> None:
        """Nothing is left of it."""


def _copy_lines(execution: Execution, stream: str, log: Callable[[str, str], None]) -> None:
    for line in execution.lines():
        if text := line.decode("utf-8", "replace"):
            log(stream, text)


def _after(delay_s: float, function: Callable[..., None], *args: object) -> threading.Timer:
    timer = threading.Timer(delay_s, function, args)
    timer.daemon = True
    timer.start()
    return timer


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
