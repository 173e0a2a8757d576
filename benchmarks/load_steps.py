"""One step of `load` in a process of its own: ``python -m benchmarks.load_steps TASK``, TASK as JSON.

It says, as JSON: seconds (imports apart), AWS calls by operation, memory before and at its peak, and sizes.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ros_to_parquet import contract
from ros_to_parquet.contract import BagResult, BagStatus, Manifest, OutputFile, Plan, TopicResult

if TYPE_CHECKING:
    from airflow_batch_ros.clients import Clients
    from airflow_batch_ros.jobs import DriveJob
    from airflow_batch_ros.lake import Lake

TOPICS = 20
THREADS = 16
BAG_BYTES = 32


@dataclass(frozen=True, slots=True)
class Task:
    """What a step is told.

    Attributes:
        drives: prefixes of ``bucket``, each with its bags.
        lake: output URI.
        jobs: file in which ``submit`` leaves what the operator returned, for the other steps.
        latency_s: added to each AWS call.
    """

    step: str
    bucket: str
    drives: list[str]
    lake: str
    jobs: str
    latency_s: float = 0.0


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    step = STEPS[task.step]
    _import_all()
    calls = _count_calls(task.latency_s)
    start_bytes, started, worked = _memory("VmRSS"), time.monotonic(), time.process_time()
    sizes = step(task)
    said = {
        "seconds": time.monotonic() - started,
        "cpu_s": time.process_time() - worked,
        "calls": dict(calls),
        "start_bytes": start_bytes,
        "peak_bytes": _memory("VmHWM"),
        "sizes": sizes,
    }
    print(json.dumps(said))


def _import_all() -> None:
    import airflow_batch_ros.fanout
    import airflow_batch_ros.operators.batch
    import airflow_batch_ros.sensors.batch
    import airflow_batch_ros.status
    import airflow_batch_ros.summary
    import airflow_batch_ros.triggers.batch  # noqa: F401


def _memory(field: str) -> int:
    """``VmRSS``, or ``VmHWM``, of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _count_calls(latency_s: float) -> Counter[str]:
    from botocore.client import BaseClient

    calls: Counter[str] = Counter()
    lock = threading.Lock()
    real = BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(client: Any, operation: str, *arguments: Any) -> Any:
        with lock:
            calls[operation] += 1
        if latency_s:
            time.sleep(latency_s)
        return real(client, operation, *arguments)

    BaseClient._make_api_call = call  # type: ignore[attr-defined]
    return calls


# --- in Airflow's workers ---------------------------------------------------------------------------


def submit(task: Task) -> dict[str, int]:
    """The operator, on its first or a further try."""
    from airflow_batch_ros.operators.batch import RosToParquetBatchOperator

    drives = {drive: {"bucket": task.bucket, "prefix": f"{drive}/"} for drive in task.drives}
    operator = RosToParquetBatchOperator(
        task_id="submit", conf={"drives_to_process": drives}, output_uri=task.lake, shard_bytes=BAG_BYTES
    )
    context = _context()
    returned = operator.execute(context)
    Path(task.jobs).write_text(json.dumps(returned))
    return {"return value": _json_bytes(returned), "other XCom": _json_bytes(context["ti"].pushed)}


def poll(task: Task) -> dict[str, int]:
    """One look of the trigger at all jobs; what Airflow keeps of the trigger and of its event."""
    import asyncio

    from airflow.models.trigger import Trigger
    from cryptography.fernet import Fernet

    from airflow_batch_ros.triggers import batch as triggers

    jobs = [job.job_id for job in _jobs(task) if job.job_id]
    arguments: dict[str, Any] = {
        "job_ids": jobs,
        "poll_interval_s": 30.0,
        "unknown_after_s": 300.0,
        "terminate_on_kill": True,
        "aws_conn_id": "aws_default",
        "region_name": None,
    }
    trigger = triggers.RosToParquetBatchTrigger(**arguments)
    kept = Trigger.encrypt_kwargs(trigger.serialize()[1])  # without a key, as nothing is kept here
    encrypted = Fernet(Fernet.generate_key()).encrypt(kept.encode())

    async def look() -> None:
        waiting = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(triggers.FIRST_POLL_S + 3.0)
        waiting.cancel()

    asyncio.run(look())
    return {"trigger row": len(encrypted)}


def sum_up(task: Task) -> dict[str, int]:
    """The sensor, when its trigger has fired."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    from airflow_batch_ros.sensors.batch import RosToParquetBatchSensor

    sensor = RosToParquetBatchSensor(task_id="wait", jobs=json.loads(Path(task.jobs).read_text()))
    context = _context()
    message = ""
    try:
        returned = sensor.execute_complete(context, {"status": "ended"})
    except AirflowFailException as error:
        message = str(error)
        returned = context["ti"].pushed["return_value"]
    return {"return value": _json_bytes(returned), "failure message": len(message.encode())}


def _context() -> Any:
    pushed: dict[str, Any] = {}
    instance = SimpleNamespace(
        dag_id="load", pushed=pushed, xcom_push=lambda key, value: pushed.update({key: value})
    )
    return {"ti": instance, "run_id": "nightly", "params": {}, "dag_run": SimpleNamespace(conf={})}


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value).encode())


# --- on a terminal ----------------------------------------------------------------------------------


def status(task: Task) -> dict[str, int]:
    """``airflow-batch-ros status``."""
    from airflow_batch_ros.cli import main as command

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        command(["status", "nightly", "--output", task.lake])
    return {"printed": len(said.getvalue())}


def retry(task: Task) -> dict[str, int]:
    """``airflow-batch-ros retry``."""
    from airflow_batch_ros.cli import main as command

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        command(["retry", "nightly", "--output", task.lake])
    return {"printed": len(said.getvalue())}


# --- instead of the engine --------------------------------------------------------------------------


def end(task: Task) -> dict[str, int]:
    """Ends the jobs by TerminateJob; all drives are committed, but every tenth (and one alone) has half of
    its shards' manifests and no more."""
    clients, lake = _open(task)
    jobs = _jobs(task)
    sizes = []
    with ThreadPoolExecutor(THREADS) as pool:
        for number, job in enumerate(jobs):
            plan = _plan(lake, job)
            sizes.append(len(contract.to_json(plan)))
            if number % 10 == 0:
                list(pool.map(partial(_leave, lake, plan), range(len(plan.shards) // 2)))
            else:
                key = contract.drive_manifest_key(plan.drive_id, plan.plan_id)
                one = replace(plan, shards=plan.shards[:1])
                done = replace(contract.fold(one, [_manifest(plan, 0)]), shards=len(plan.shards))
                lake.write(key, contract.to_json(done))
        list(pool.map(lambda job: clients.batch.terminate_job(jobId=str(job.job_id), reason="ended"), jobs))
    return {"plans": sum(sizes), "largest plan": max(sizes)}


def commit(task: Task) -> dict[str, int]:
    """What the engine does when a drive's last shard is done."""
    from ros_to_parquet.lake import commit_drive
    from ros_to_parquet.storage import open_storage

    _, lake = _open(task)
    (job,) = _jobs(task)
    plan = _plan(lake, job)
    storage = open_storage(task.lake)
    started = time.monotonic()
    done = commit_drive(storage, plan)
    assert done is not None
    return {
        "milliseconds": round((time.monotonic() - started) * 1000),
        "drive.json": len(contract.to_json(done)),
    }


def finish(task: Task) -> dict[str, int]:
    """The manifests that `end` left out."""
    _, lake = _open(task)
    (job,) = _jobs(task)
    plan = _plan(lake, job)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(partial(_leave, lake, plan), range(len(plan.shards) // 2, len(plan.shards))))
    return {}


def _open(task: Task) -> tuple[Clients, Lake]:
    from airflow_batch_ros.clients import Clients, open_session
    from airflow_batch_ros.lake import Lake

    clients = Clients(open_session())
    return clients, Lake(clients.s3, task.lake)


def _jobs(task: Task) -> list[DriveJob]:
    from airflow_batch_ros.jobs import DriveJob

    return [DriveJob.from_dict(entry) for entry in json.loads(Path(task.jobs).read_text())]


def _plan(lake: Lake, job: DriveJob) -> Plan:
    plan = lake.load(Plan, contract.plan_key(job.drive_id, job.plan_id))
    assert plan is not None
    return plan


def _leave(lake: Lake, plan: Plan, shard: int) -> None:
    key = contract.manifest_key(plan.drive_id, plan.plan_id, shard)
    lake.write(key, contract.to_json(_manifest(plan, shard)))


def _manifest(plan: Plan, shard: int) -> Manifest:
    """Of a shard with some rows in each of `TOPICS` tables, and a reject."""
    bags = tuple(
        BagResult(
            name=plan.bags[part.bag].name,
            slice=part,
            status=BagStatus.OK,
            size_bytes=plan.bags[part.bag].size_bytes,
            etag=plan.bags[part.bag].etag,
            bytes_read=plan.bags[part.bag].size_bytes,
            messages=10 * TOPICS + 1,
            extracted=10 * TOPICS + 1,
            expected_messages=10 * TOPICS + 1,
            verified=True,
            damage=(),
        )
        for part in plan.shards[shard]
    )
    topics = tuple(
        TopicResult(
            topic=f"/sensors/number_{topic}/data",
            table=f"sensors.number_{topic}.data",
            type_name="sensor_msgs/msg/Imu",
            schema_hash="01234567",
            messages=10 + (not topic),
            rows=10,
            rejected=int(not topic),
            repaired_strings=0,
            bytes_in=3200,
            first_log_time_ns=1,
            last_log_time_ns=2,
            files=(
                OutputFile(
                    f"sensors.number_{topic}.data/schema=01234567/drive_id={plan.drive_id}/{shard:05d}.parquet",
                    10,
                    500,
                ),
            ),
            rejects=()
            if topic
            else (contract.Reject(bags[0].name, 7, 0, "the message ends before its fields do"),),
        )
        for topic in range(TOPICS)
    )
    return Manifest(
        contract_version=contract.CONTRACT_VERSION,
        engine_version="0",
        plan_id=plan.plan_id,
        drive_id=plan.drive_id,
        shard=shard,
        options=plan.options,
        job_id="",
        attempt=1,
        log_stream="",
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:00:10Z",
        seconds=10.0,
        peak_memory_bytes=1,
        bytes_read=100,
        bytes_written=500 * TOPICS,
        topics=topics,
        bags=bags,
    )


STEPS: dict[str, Callable[[Task], dict[str, int]]] = {
    each.__name__: each for each in (submit, poll, sum_up, status, retry, end, finish, commit)
}


if __name__ == "__main__":
    main()
