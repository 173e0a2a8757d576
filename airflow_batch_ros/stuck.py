"""Jobs that stay RUNNABLE: why, as far as Batch says, and their end where that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.causes import RUNNABLE_TOO_LONG
from airflow_batch_ros.jobs import describe, terminate
from airflow_batch_ros.waiting import Waiting

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

MAX_REASON_LENGTH = 1000
"""TerminateJob takes 1,024 characters."""

NOTHING_WRONG = (
    "Batch gives no reason; its queue and compute environments are in order: others may be before it, or "
    "there is no capacity"
)


def look_after(batch: BatchClient, waiting: Waiting, *, end: bool) -> list[str]:
    """A sentence on each job that has become stuck by the last poll; with ``end`` it is terminated.

    Jobs of one queue and size are stuck for one reason, which is asked for once. Where Batch cannot be asked
    for them, they are those of the next poll too.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    said = []
    stuck = waiting.take_stuck()
    ids = [job_id for job_id, _ in stuck]
    try:
        details = describe(batch, ids)
    except (BotoCoreError, ClientError):
        waiting.give_back(ids)
        raise
    whys: dict[tuple[str, str], str] = {}
    for job_id, seconds in stuck:
        if job_id not in details:
            continue  # Batch has forgotten it since
        detail = details[job_id]
        key = (detail["jobQueue"], str((detail.get("container") or {}).get("resourceRequirements")))
        if key not in whys or detail.get("statusReason"):
            whys[key] = why_runnable(batch, detail)
        text = f"{RUNNABLE_TOO_LONG} for {seconds:.0f} s: {whys[key]}"
        said.append(f"job {job_id}: {text}" + ("; it is ended" if end else ""))
        if end:
            problems = terminate(batch, [job_id], text[:MAX_REASON_LENGTH])
            said += [f"could not terminate {problem}" for problem in problems]
    return said


def why_runnable(batch: BatchClient, detail: Mapping[str, Any]) -> str:
    """Why a job, as DescribeJobs has it, does not start: by itself, its queue, its compute environments."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return "; ".join(_reasons(batch, detail)) or NOTHING_WRONG
    except (BotoCoreError, ClientError) as error:
        own = detail.get("statusReason")
        return f"{own or 'Batch gives no reason'} (its queue cannot be asked: {error})"


def _reasons(batch: BatchClient, detail: Mapping[str, Any]) -> list[str]:
    found = [_own_reason(batch, detail)]
    for queue in batch.describe_job_queues(jobQueues=[detail["jobQueue"]])["jobQueues"]:
        found.append(_out_of_order("queue", queue["jobQueueName"], queue))
        names = [each["computeEnvironment"] for each in queue["computeEnvironmentOrder"]]
        environments = batch.describe_compute_environments(computeEnvironments=names)["computeEnvironments"]
        for environment in environments:
            name = environment["computeEnvironmentName"]
            found.append(_out_of_order("compute environment", name, environment))
            found.append(_too_large(detail, name, environment.get("computeResources") or {}))
    return [each for each in found if each]


def _own_reason(batch: BatchClient, detail: Mapping[str, Any]) -> str:
    if reason := detail.get("statusReason"):
        return str(reason)
    if not (detail.get("arrayProperties") or {}).get("size"):
        return ""
    children = batch.list_jobs(arrayJobId=detail["jobId"], jobStatus="RUNNABLE", maxResults=1)
    return str(next((job.get("statusReason") or "" for job in children["jobSummaryList"]), ""))


def _out_of_order(kind: str, name: str, described: Mapping[str, Any]) -> str:
    state, status = described.get("state", "ENABLED"), described.get("status", "VALID")
    if state == "ENABLED" and status == "VALID":
        return ""
    reason = described.get("statusReason")
    return f"{kind} {name} is {state} and {status}" + (f" ({reason})" if reason else "")


def _too_large(detail: Mapping[str, Any], name: str, resources: Mapping[str, Any]) -> str:
    requirements = (detail.get("container") or {}).get("resourceRequirements") or ()
    vcpus = next((float(each["value"]) for each in requirements if each["type"] == "VCPU"), 0.0)
    most = resources.get("maxvCpus")
    if most is None or vcpus <= most:
        return ""
    return f"it asks for {vcpus:g} vCPUs, and compute environment {name} has {most} at most"
