"""Joins `batch_jobs` to moto's Batch API, and enforces AWS's limits where moto does not.

moto keeps what it does well: compute environments, queues, job definitions (CloudFormation's too), tags.
Its five job actions (submit, describe, list, terminate, cancel) are replaced by those here. moto is
pinned for that.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from moto.batch.exceptions import ClientException
from moto.batch.models import BatchBackend, JobDefinition, JobQueue
from moto.batch.responses import BatchResponse
from moto.logs.models import LogsBackend

from airflow_batch_ros.local.batch_jobs import (
    Attempt,
    BatchEngine,
    BatchError,
    Dependency,
    Job,
    JobRequest,
    RetryStrategy,
    Status,
    parse_retry_strategy,
    substitute,
)
from airflow_batch_ros.local.runners import ContainerSpec

LOG_GROUP = "/aws/batch/job"
MAX_SUBMIT_BYTES = 30 * 1024
MAX_OVERRIDES_BYTES = 8_192
MAX_DESCRIBED_JOBS = 100
MAX_LISTED_JOBS = 100
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def install(
    engine: BatchEngine,
    *,
    minimum_timeout_s: int,
    client_environment: Mapping[str, str],
) -> None:
    """Have moto's Batch, in every region of this process, run its jobs with ``engine``.

    Args:
        minimum_timeout_s: the least ``attemptDurationSeconds``; AWS's is 60.
        client_environment: endpoints and credentials that jobs find in their environment.
    """

    def submit_job(response: BatchResponse) -> str:
        return _submit_job(
            response,
            engine,
            minimum_timeout_s=minimum_timeout_s,
            client_environment=client_environment,
        )

    actions: dict[str, Callable[[BatchResponse], str]] = {
        "submitjob": submit_job,
        "describejobs": lambda response: _describe_jobs(response, engine),
        "listjobs": lambda response: _list_jobs(response, engine),
        "terminatejob": lambda response: _end_job(response, engine.terminate),
        "canceljob": lambda response: _end_job(response, engine.cancel),
    }
    for name, action in actions.items():
        setattr(BatchResponse, name, _as_client_exception(action))

    register = BatchBackend.register_job_definition

    def register_job_definition(backend: BatchBackend, *args: Any, **kwargs: Any) -> JobDefinition:
        try:
            parse_retry_strategy(kwargs.get("retry_strategy"))
            _parse_timeout_s(kwargs.get("timeout"), minimum_timeout_s=minimum_timeout_s)
        except BatchError as error:
            raise ClientException(str(error)) from error
        return register(backend, *args, **kwargs)

    setattr(BatchBackend, "register_job_definition", register_job_definition)  # noqa: B010


def _as_client_exception(action: Callable[[BatchResponse], str]) -> Callable[[BatchResponse], str]:
    def answer(response: BatchResponse) -> str:
        try:
            return action(response)
        except BatchError as error:
            raise ClientException(str(error)) from error

    return answer


# --- SubmitJob --------------------------------------------------------------------------------------


def _submit_job(
    response: BatchResponse,
    engine: BatchEngine,
    *,
    minimum_timeout_s: int,
    client_environment: Mapping[str, str],
) -> str:
    body = json.loads(response.body)
    size_bytes = len(response.body)
    if size_bytes > MAX_SUBMIT_BYTES:
        raise BatchError(f"the request has {size_bytes} bytes, SubmitJob takes at most {MAX_SUBMIT_BYTES}")
    overrides = body.get("containerOverrides") or {}
    if len(json.dumps(overrides, separators=(",", ":"))) > MAX_OVERRIDES_BYTES:
        raise BatchError(f"Container Overrides length must be at most {MAX_OVERRIDES_BYTES}")
    name = body.get("jobName", "")
    if not _JOB_NAME.fullmatch(name):
        raise BatchError(
            f"Job name should match valid pattern: 1 to 128 letters, digits, '-' and '_', "
            f"the first a letter or digit; not {name[:140]!r}"
        )
    backend = response.batch_backend
    queue = _find_queue(backend, body.get("jobQueue", ""))
    share = body.get("shareIdentifier")
    if bool(share) != bool(queue.schedule_policy):
        raise BatchError(
            f"Job queue {queue.name} has {'a' if queue.schedule_policy else 'no'} scheduling policy: "
            f"shareIdentifier {'is missing' if queue.schedule_policy else 'is not for it'}"
        )
    definition = _find_definition(backend, body.get("jobDefinition", ""))
    container = _effective_container(definition, overrides)
    parameters = {**(definition.parameters or {}), **(body.get("parameters") or {})}
    retry = parse_retry_strategy(body.get("retryStrategy") or definition.retry_strategy)
    timeout_raw = body.get("timeout") or definition.timeout
    depends_on = tuple(
        Dependency(raw.get("jobId", ""), raw.get("type", "")) for raw in body.get("dependsOn") or ()
    )
    command = substitute(container["command"], parameters)
    environment = {variable["name"]: variable["value"] for variable in container["environment"]}
    job = engine.submit(
        JobRequest(
            name=name,
            queue=queue.arn,
            log_prefix=definition.name,
            command=tuple(command),
            container=_parse_container(container),
            environment={
                **environment,
                **client_environment,
                "AWS_DEFAULT_REGION": response.region,
                "AWS_BATCH_JQ_NAME": queue.name,
                "AWS_BATCH_CE_NAME": queue.environments[0].name if queue.environments else "",
            },
            retry=retry,
            timeout_s=_parse_timeout_s(timeout_raw, minimum_timeout_s=minimum_timeout_s),
            array_size=(body.get("arrayProperties") or {}).get("size"),
            depends_on=depends_on,
            log=partial(_put_log_line, backend.logs_backend),
            shown={
                "jobQueue": queue.arn,
                **({"shareIdentifier": share} if share else {}),
                "jobDefinition": definition.arn,
                "parameters": parameters,
                "dependsOn": body.get("dependsOn") or [],
                "retryStrategy": {"attempts": retry.attempts, "evaluateOnExit": _shown_rules(retry)},
                "timeout": timeout_raw or {},
                "platformCapabilities": definition.platform_capabilities or [],
                "propagateTags": bool(body.get("propagateTags")),
                "container": container | {"command": command},
            },
        )
    )
    arn = _job_arn(job)
    if tags := body.get("tags"):
        backend.tag_resource(arn, tags)
    return json.dumps({"jobArn": arn, "jobName": name, "jobId": job.id})


def _find_queue(backend: BatchBackend, name: str) -> JobQueue:
    queue = backend.get_job_queue(name)
    if queue is None:
        raise BatchError(f"Job queue {name} does not exist")
    if queue.state == "DISABLED":
        raise BatchError(f"Job queue {name} is not in ENABLED state")
    return queue


def _find_definition(backend: BatchBackend, name: str) -> JobDefinition:
    definition = backend.get_job_definition(name)
    if definition is None:
        raise BatchError(f"Job definition {name} does not exist")
    if definition.status != "ACTIVE":
        raise BatchError(f"Job definition {definition.arn} is not in ACTIVE state")
    if definition.type != "container" or definition.container_properties is None:
        raise BatchError(f"Job definition {definition.arn}: only container jobs run here")
    return definition


def _effective_container(definition: JobDefinition, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The definition's container with what SubmitJob overrides."""
    defined: Mapping[str, Any] = definition.container_properties or {}
    container = {**defined, **overrides}
    by_name = {
        variable["name"]: variable["value"]
        for source in (defined, overrides)
        for variable in source.get("environment") or ()
    }
    container["environment"] = [{"name": name, "value": value} for name, value in by_name.items()]
    requirements = {
        requirement["type"]: requirement["value"]
        for source in (defined, overrides)
        for requirement in source.get("resourceRequirements") or ()
    }
    container["resourceRequirements"] = [
        {"type": kind, "value": value} for kind, value in requirements.items()
    ]
    container["command"] = list(container.get("command") or ())
    return container


def _parse_container(raw: Mapping[str, Any]) -> ContainerSpec:
    """What a container is run with."""
    wants = ["privileged"] if raw.get("privileged") else []
    wants += [
        f"volume {volume['name']}, a folder of the machine or of EFS"
        for volume in raw.get("volumes") or ()
        if (volume.get("host") or {}).get("sourcePath") or volume.get("efsVolumeConfiguration")
    ]
    requirements = {each["type"]: each["value"] for each in raw["resourceRequirements"]}
    linux = raw.get("linuxParameters") or {}
    return ContainerSpec(
        image=raw["image"],
        vcpus=float(requirements.get("VCPU") or raw.get("vcpus") or 1),
        memory_mib=int(requirements.get("MEMORY") or raw.get("memory") or 2048),
        user=raw.get("user"),
        read_only_root=bool(raw.get("readonlyRootFilesystem")),
        init=bool(linux.get("initProcessEnabled")),
        tmpfs=tuple((each["containerPath"], int(each["size"])) for each in linux.get("tmpfs") or ()),
        volumes=tuple(mount["containerPath"] for mount in raw.get("mountPoints") or ()),
        beyond=tuple(wants),
    )


def _parse_timeout_s(raw: Mapping[str, int] | None, *, minimum_timeout_s: int) -> int | None:
    if not raw:
        return None
    timeout_s = raw.get("attemptDurationSeconds", 0)
    if timeout_s < minimum_timeout_s:
        raise BatchError(
            f"timeout.attemptDurationSeconds must be at least {minimum_timeout_s} seconds, not {timeout_s}"
        )
    return timeout_s


_log_streams_lock = threading.Lock()


def _put_log_line(logs: LogsBackend, stream: str, line: str) -> None:
    with _log_streams_lock:
        logs.ensure_log_group(LOG_GROUP)
        logs.ensure_log_stream(LOG_GROUP, stream)
        logs.put_log_events(LOG_GROUP, stream, [{"timestamp": time.time_ns() // 1_000_000, "message": line}])


# --- the other actions ------------------------------------------------------------------------------


def _describe_jobs(response: BatchResponse, engine: BatchEngine) -> str:
    asked = json.loads(response.body).get("jobs") or []
    if len(asked) > MAX_DESCRIBED_JOBS:
        raise BatchError(f"DescribeJobs takes at most {MAX_DESCRIBED_JOBS} jobs, not {len(asked)}")
    found = (engine.job(name.rpartition(":job/")[2]) for name in dict.fromkeys(asked))
    backend = response.batch_backend
    known = (job for job in found if job is not None and not engine.is_unknown(job))
    return json.dumps({"jobs": [_describe(job, backend) for job in known]})


def _list_jobs(response: BatchResponse, engine: BatchEngine) -> str:
    body = json.loads(response.body)
    filters = body.get("filters") or []
    status = body.get("jobStatus")
    parent_id = body.get("arrayJobId")
    if bool(parent_id) == bool(body.get("jobQueue")):
        raise BatchError("exactly one of jobQueue, arrayJobId and multiNodeJobId must be specified")
    limit = body.get("maxResults", MAX_LISTED_JOBS)
    if not 1 <= limit <= MAX_LISTED_JOBS:
        raise BatchError(f"maxResults must be between 1 and {MAX_LISTED_JOBS}, not {limit}")
    if status is not None and status not in list(Status):
        raise BatchError(f"Job status is not one of {' | '.join(Status)}")
    if parent_id:
        if filters:
            raise BatchError("filters apply to a job queue, not to the children of an array job")
        parent = engine.job(parent_id)
        if parent is None:
            raise BatchError(f"Job {parent_id} does not exist")
        jobs = parent.children
    else:
        queue = response.batch_backend.get_job_queue(body["jobQueue"])
        if queue is None:
            raise BatchError(f"Job queue {body['jobQueue']} does not exist")
        jobs = engine.jobs(queue.arn)
    if filters:
        jobs = [job for job in jobs if _passes(job, filters)]
    else:
        jobs = [job for job in jobs if job.status == (status or Status.RUNNING)]
    jobs = [job for job in jobs if not engine.is_unknown(job)]
    return json.dumps(_page(jobs, body.get("nextToken"), limit))


def _page(jobs: Iterable[Job], token: str | None, limit: int) -> dict[str, Any]:
    """Jobs after the one that ``token`` names, so that what is submitted or ends meanwhile shifts no page."""
    position = _position(token) if token else None
    rest = [job for job in jobs if position is None or (-job.number, job.index or 0) > position]
    page: dict[str, Any] = {"jobSummaryList": [_summarize(job) for job in rest[:limit]]}
    if len(rest) > limit:
        last = rest[limit - 1]
        page["nextToken"] = f"{last.number}-{last.index or 0}"
    return page


def _position(token: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d+-\d+", token):
        raise BatchError(f"nextToken {token!r} is not valid")
    number, index = token.split("-")
    return -int(number), int(index)


def _passes(job: Job, filters: Sequence[Mapping[str, Any]]) -> bool:
    if len(filters) > 1:
        raise BatchError("ListJobs takes one filter")
    name, values = filters[0].get("name"), filters[0].get("values") or []
    if name == "JOB_NAME":
        return any(_name_matches(job.request.name, value) for value in values)
    if name == "JOB_DEFINITION":
        arn = job.request.shown["jobDefinition"]
        return any(_definition_matches(arn, value) for value in values)
    if name in ("BEFORE_CREATED_AT", "AFTER_CREATED_AT"):
        limit_ms = int(values[0])
        return job.created_at_ms < limit_ms if name == "BEFORE_CREATED_AT" else job.created_at_ms > limit_ms
    raise BatchError(f"ListJobs has no filter {name!r}")


def _name_matches(name: str, value: str) -> bool:
    """As AWS's JOB_NAME filter: without case, a prefix where the value ends with ``*``."""
    return _matches(name.lower(), value.lower())


def _definition_matches(arn: str, value: str) -> bool:
    """As AWS's JOB_DEFINITION filter: one revision by its ARN, or all by their name, where case counts."""
    if value.startswith("arn:"):
        return arn == value
    return _matches(arn.rpartition("/")[2].rpartition(":")[0], value)


def _matches(name: str, value: str) -> bool:
    return name.startswith(value[:-1]) if value.endswith("*") else name == value


def _end_job(response: BatchResponse, action: Callable[[str, str], None]) -> str:
    body = json.loads(response.body)
    job_id, reason = body.get("jobId"), body.get("reason")
    if not job_id or not reason:
        raise BatchError("jobId and reason are required and must not be empty")
    action(job_id.rpartition(":job/")[2], reason)
    return "{}"


# --- what a job looks like --------------------------------------------------------------------------


def _job_arn(job: Job) -> str:
    return f"{job.request.queue.partition(':job-queue/')[0]}:job/{job.id}"


def _summarize(job: Job) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "jobArn": _job_arn(job),
        "jobId": job.id,
        "jobName": job.request.name,
        "jobDefinition": job.request.shown["jobDefinition"],
        "createdAt": job.created_at_ms,
        "status": job.status.value,
    }
    optional = {
        "statusReason": job.status_reason,
        "startedAt": job.started_at_ms,
        "stoppedAt": job.stopped_at_ms,
        "container": _last_exit(job) or None,
    }
    summary |= {key: value for key, value in optional.items() if value is not None}
    if job.children:
        summary["arrayProperties"] = {"size": len(job.children)}
    elif job.index is not None:
        summary["arrayProperties"] = {"index": job.index}
    return summary


def _describe(job: Job, backend: BatchBackend) -> dict[str, Any]:
    shown = job.request.shown
    description = {
        **_summarize(job),
        **shown,
        "attempts": [_describe_attempt(attempt) for attempt in job.attempts],
        "isCancelled": job.cancelled,
        "isTerminated": job.terminated,
        "tags": backend.list_tags_for_resource(_job_arn(job.parent or job)),
        "container": {**shown["container"], **_last_exit(job)},
    }
    if job.log_stream is not None:
        description["container"]["logStreamName"] = job.log_stream
    if job.children:
        description["arrayProperties"] = {"size": len(job.children), "statusSummary": job.child_counts()}
    return description


def _last_exit(job: Job) -> dict[str, Any]:
    """Exit code and reason that a job which has ended ended with, where it had them."""
    if not job.attempts or not job.status.is_final:
        return {}
    outcome = job.attempts[-1].outcome
    raw = {"exitCode": outcome.exit_code, "reason": outcome.reason}
    return {key: value for key, value in raw.items() if value is not None}


def _describe_attempt(attempt: Attempt) -> dict[str, Any]:
    outcome = attempt.outcome
    container = {"exitCode": outcome.exit_code, "reason": outcome.reason, "logStreamName": attempt.log_stream}
    described: dict[str, Any] = {
        "container": {key: value for key, value in container.items() if value is not None}
        | {"networkInterfaces": []},
        "stoppedAt": attempt.stopped_at_ms,
        "statusReason": outcome.status_reason,
    }
    if attempt.started_at_ms is not None:
        described["startedAt"] = attempt.started_at_ms
    return described


def _shown_rules(retry: RetryStrategy) -> list[dict[str, str]]:
    return [
        {
            key: value
            for key, value in {
                "action": "RETRY" if rule.retry else "EXIT",
                "onExitCode": rule.on_exit_code,
                "onReason": rule.on_reason,
                "onStatusReason": rule.on_status_reason,
            }.items()
            if value is not None
        }
        for rule in retry.rules
    ]
