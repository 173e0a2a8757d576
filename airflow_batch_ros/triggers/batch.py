"""The trigger that waits for a run's Batch jobs: one for all of them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from botocore.exceptions import BotoCoreError, ClientError

from airflow_batch_ros.hooks.batch import RosToParquetBatchHook
from airflow_batch_ros.jobs import look_at, shown_ids, terminate
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.stuck import look_after
from airflow_batch_ros.waiting import Amount, Waiting

T = TypeVar("T")

MAX_JOB_IDS = 1000
"""In a trigger itself. Airflow keeps it, encrypted, in a text column; MySQL's takes 64 KiB, and so many ids
are 54. Of more jobs the ids are in the lake."""

MAX_FAILURES = 10
"""Polls in a row that may fail, each after the client's own retries, before the wait is given up."""

MIN_INTERVAL_S = 1.0

FIRST_POLL_S = 3.0
"""The sensor has just looked. And a scheduler that has not yet heard of the task's deferral takes it, when it
is queued again, for one whose process was lost, and spends a retry on it."""

JITTER = 0.2

KILLED = "the Airflow task that waits for it was killed"

_USER_ACTION = "__airflow_user_action__"
_HAS_ON_KILL = hasattr(BaseTrigger, "on_kill")


class RosToParquetBatchTrigger(BaseTrigger):
    """Fires one event when the last of the jobs has ended.

    The event is ``{"status": "ended", "states": {state: number of jobs}}``, or, when Batch could not be
    asked, ``{"status": "error", "message": text}``.

    :param job_ids: Batch job ids.
    :param poll_interval_s: most seconds between two polls. Before, they are a fifth of the time waited so
        far, so that short jobs are noticed soon and long ones cost few requests.
    :param unknown_after_s: seconds after which a job that Batch does not know counts as ended.
    :param runnable_timeout_s: seconds after which a job that is RUNNABLE is stuck, which the log then says;
        None for never.
    :param end_stuck: end such jobs.
    :param terminate_on_kill: end the jobs when a user acts on the waiting task; never when the triggerer
        restarts.
    :param job_ids_uri: S3 URI of a list of further ids, as JSON; see `MAX_JOB_IDS`.
    :param amount: what the jobs have to do, as ``[shards, shards_before, bag_bytes]`` of `waiting.Amount`: so
        the log says how far they are.
    """

    def __init__(
        self,
        *,
        job_ids: list[str],
        poll_interval_s: float,
        unknown_after_s: float,
        terminate_on_kill: bool,
        aws_conn_id: str | None,
        region_name: str | None,
        job_ids_uri: str | None = None,
        runnable_timeout_s: float | None = None,
        end_stuck: bool = False,
        amount: Sequence[int] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_ids = job_ids
        self.poll_interval_s = poll_interval_s
        self.unknown_after_s = unknown_after_s
        self.terminate_on_kill = terminate_on_kill
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.job_ids_uri = job_ids_uri
        self.runnable_timeout_s = runnable_timeout_s
        self.end_stuck = end_stuck
        self.amount = list(amount)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "job_ids": self.job_ids,
                "poll_interval_s": self.poll_interval_s,
                "unknown_after_s": self.unknown_after_s,
                "terminate_on_kill": self.terminate_on_kill,
                "aws_conn_id": self.aws_conn_id,
                "region_name": self.region_name,
                "job_ids_uri": self.job_ids_uri,
                "runnable_timeout_s": self.runnable_timeout_s,
                "end_stuck": self.end_stuck,
                "amount": self.amount,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            yield TriggerEvent(await self._wait())  # type: ignore[no-untyped-call]
        except asyncio.CancelledError as error:
            # Airflow 3.3 calls on_kill() itself. Before, a triggerer that stops and a user who acts on the
            # task look alike from here; but only the user's act changes the task's state.
            maybe_by_user = not _HAS_ON_KILL and error.args != (_USER_ACTION,)
            if self.terminate_on_kill and maybe_by_user:
                await self._end_jobs_unless_deferred()
            raise

    async def on_kill(self) -> None:
        """Ends the jobs, if that was asked for."""
        if not self.terminate_on_kill:
            return
        for problem in await in_thread(self._end_jobs):
            self.log.error("could not terminate %s", problem)

    def _end_jobs(self) -> list[str]:
        ids = self._all_ids()
        self.log.info("killed: terminating Batch jobs %s", shown_ids(ids))
        return terminate(self._hook().batch, ids, KILLED)

    def _all_ids(self) -> list[str]:
        if self.job_ids_uri is None:
            return self.job_ids
        folder, _, name = self.job_ids_uri.rpartition("/")
        data = Lake(self._hook().s3, folder).read(name)
        if data is None:
            raise LookupError(f"the list of jobs to wait for, {self.job_ids_uri}, is gone: clear the task")
        return [*self.job_ids, *json.loads(data)]

    async def _end_jobs_unless_deferred(self) -> None:
        try:
            if not await self._is_deferred():
                await self.on_kill()
        except Exception:
            # Raised from here it would take the cancellation's place, and fail a task that only moves on.
            self.log.exception("was the task killed? Airflow does not say, so its jobs are left as they are")

    async def _wait(self) -> dict[str, Any]:
        batch = await in_thread(lambda: self._hook().batch)
        try:
            ids = await in_thread(self._all_ids)
        except (ClientError, BotoCoreError, LookupError) as error:
            return {"status": "error", "message": f"the jobs to wait for could not be read: {error}"}
        waiting = Waiting(
            ids,
            unknown_after_s=self.unknown_after_s,
            runnable_timeout_s=self.runnable_timeout_s,
            amount=Amount(*self.amount),
        )
        started = time.monotonic()
        failures = 0
        await asyncio.sleep(min(self.poll_interval_s, FIRST_POLL_S))
        while True:
            try:
                details = await in_thread(lambda: look_at(batch, waiting.open))
                if news := waiting.update(details):
                    self.log.info(news)
                if self.runnable_timeout_s is not None:
                    for stuck in await in_thread(lambda: look_after(batch, waiting, end=self.end_stuck)):
                        self.log.warning(stuck)
            except (ClientError, BotoCoreError) as error:
                failures += 1
                self.log.warning("asking Batch failed (%d of %d): %s", failures, MAX_FAILURES, error)
                if failures == MAX_FAILURES:
                    return {"status": "error", "message": f"Batch could not be asked: {error}"}
            else:
                failures = 0
                if not waiting.open:
                    return {"status": "ended", "states": waiting.counts}
            interval_s = max(MIN_INTERVAL_S, (time.monotonic() - started) / 5)
            await asyncio.sleep(
                min(self.poll_interval_s, interval_s) * random.uniform(1 - JITTER, 1 + JITTER)
            )

    def _hook(self) -> RosToParquetBatchHook:
        return RosToParquetBatchHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)

    async def _is_deferred(self) -> bool:
        """Whether the task still waits for this trigger, by Airflow's database."""
        instance = self.task_instance
        if instance is None:
            return True
        state = await in_thread(lambda: _task_state(instance))
        return state == "deferred"


async def in_thread(call: Callable[[], T]) -> T:
    """``call`` in a thread, so that a cancellation is raised here at once and with its message.

    In asgiref's threads, since from those alone older triggerers find their way back to Airflow's API. They
    lose the message of a cancellation, which tells Airflow 3.3 that a user acted; the shield keeps it.
    """
    return await asyncio.shield(asyncio.ensure_future(sync_to_async(call, thread_sensitive=False)()))


def _task_state(instance: Any) -> str | None:
    """The state of a task instance now."""
    if AIRFLOW_V_3_0_PLUS:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        states = RuntimeTaskInstance.get_task_states(
            dag_id=instance.dag_id,
            task_ids=[instance.task_id],
            run_ids=[instance.run_id],
            map_index=instance.map_index,
        )
        # A mapped task's key has its index at the end.
        state = next(iter(states.get(instance.run_id, {}).values()), None)
    else:
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        with create_session() as session:
            state = (
                session.query(TaskInstance.state)
                .filter_by(
                    dag_id=instance.dag_id,
                    task_id=instance.task_id,
                    run_id=instance.run_id,
                    map_index=instance.map_index,
                )
                .scalar()
            )
    return None if state is None else str(getattr(state, "value", state))
