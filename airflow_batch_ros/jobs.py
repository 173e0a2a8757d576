"""A drive's Batch jobs: names, submission, adoption, and why shards failed. Takes clients, holds no state.

Job ids and states are Batch's words; generations, shards and records are `ros_to_parquet.contract`'s.
"""

from __future__ import annotations

import dataclasses
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.causes import last_exit_code
from airflow_batch_ros.lake import Lake, error_code
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    CONTRACT_VERSION,
    EXIT_CODE_HELP,
    ExitCode,
    Generation,
    JobRecord,
    Plan,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_batch import BatchClient

LIVE = frozenset({"SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING"})
ENDED = frozenset({"SUCCEEDED", "FAILED"})
UNKNOWN = "UNKNOWN"
"""Not a state of Batch's: a job that DescribeJobs does not know (any more)."""

DESCRIBE_LIMIT = 100
"""Ids that one DescribeJobs takes."""

MAX_JOB_NAME_LENGTH = 128

DEFAULT_LOG_GROUP = "/aws/batch/job"
"""Where Batch jobs log unless their definition says otherwise."""

_PAYER = {"name": "ROS_TO_PARQUET_REQUEST_PAYER", "value": "requester"}
"""By which the engine says that it pays."""

SUBMIT_TRIES = 6

TERMINATE_THREADS = 8

_IDS_SHOWN = 10

_LOOKED_AT = ("status", "arrayProperties", "createdAt", "stoppedAt", "attempts")

DEFAULT_MAX_MEMORY_MIB = 122_880
"""The most that Fargate has."""

THROTTLED = frozenset(
    {"TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded", "SlowDown"}
)
"""Errors after which Batch has certainly done nothing."""

_PASSING = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeout"),
        *("RequestTimeoutException", "RequestTimeTooSkewed", "RequestThrottled"),
        *("RequestThrottledException", "ThrottledException", "PriorRequestNotComplete"),
    }
)
"""Other errors of requests that may pass: what credentials, clocks and time have to do with."""

_NO_SUCH_QUEUE = re.compile(r"job ?queue .*(does not exist|not found)", re.IGNORECASE | re.DOTALL)


class SubmitError(RuntimeError):
    """A drive's job could not be submitted; the message names the drive and what Batch said."""


class RefusedError(SubmitError):
    """Batch has refused a job for good: there is none, and asking again cannot help."""


class Work(StrEnum):
    """What the operator, or the command line, did for a drive."""

    SUBMITTED = "submitted"
    ADOPTED = "adopted"
    DONE = "done"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class DriveJob:
    """What the operator hands to the sensor for one drive; `as_dict` is its XCom.

    Attributes:
        work: ``submitted`` a job now; ``adopted`` a live one of an earlier try; ``done`` by an earlier try;
            ``nothing`` to do, since earlier runs have all bags, or could not read them.
        job_id: the Batch job to wait for; None where there is none.
        array_size: 0 for a plain job.
        shards, bags, bag_bytes: of the whole plan.
        submitted_shards: how many of them the job runs.
        covered: bags not taken since the lake has them already.
        unreadable: bags not taken since an earlier run could read nothing of them.
        ignored: objects not taken since they are no bags or the conf leaves them out.
        fail_on: what a drive fails by: states, levels of quality checks.
        min_success_ratio: share of the run's drives that must not fail, or the run does.
        estimated_cost: of the whole plan, in its prices' currency; None where no prices are known.
    """

    drive_id: str
    work: str
    source: str
    output: str
    plan_id: str
    plan_uri: str
    job_id: str | None
    job_name: str | None
    job_queue: str
    generation: int | None
    array_size: int
    submitted_shards: int
    shards: int
    bags: int
    bag_bytes: int
    covered: int
    ignored: int
    fail_on: tuple[str, ...]
    console_url: str | None = None
    min_success_ratio: float = 1.0
    estimated_cost: float | None = None
    unreadable: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {**asdict(self), "fail_on": list(self.fail_on)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DriveJob:
        """Raises `ValueError` for what is not an entry of the operator's return value."""
        names = {each.name for each in fields(cls)}
        if not isinstance(raw, Mapping) or raw.keys() - names:
            raise ValueError(f"not what RosToParquetBatchOperator returns: {raw!r:.200}")
        try:
            return cls(**{**raw, "fail_on": tuple(raw["fail_on"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not what RosToParquetBatchOperator returns: {raw!r:.200}") from error


def drive_job(
    plan: Plan,
    work: Work,
    record: JobRecord | None,
    *,
    submitted_shards: int,
    job_queue: str,
    fail_on: Iterable[str],
    min_success_ratio: float = 1.0,
    estimated_cost: float | None = None,
) -> DriveJob:
    """The entry of a planned drive; ``job_queue`` where no job is recorded."""
    return DriveJob(
        drive_id=plan.drive_id,
        work=work,
        source=plan.source,
        output=plan.output,
        plan_id=plan.plan_id,
        plan_uri=f"{plan.output}/{contract.plan_key(plan.drive_id, plan.plan_id)}",
        job_id=record.job_id if record else None,
        job_name=record.job_name if record else None,
        job_queue=record.job_queue if record else job_queue,
        generation=record.generation if record else None,
        array_size=record.array_size if record else 0,
        submitted_shards=submitted_shards,
        shards=len(plan.shards),
        bags=len(plan.bags),
        bag_bytes=sum(bag.size_bytes for bag in plan.bags),
        covered=len(plan.covered),
        unreadable=len(plan.unreadable),
        ignored=plan.ignored_count,
        fail_on=tuple(str(state) for state in fail_on),
        min_success_ratio=min_success_ratio,
        estimated_cost=estimated_cost,
    )


# --- names and requests -----------------------------------------------------------------------------


def job_name(drive_id: str, plan_id: str, generation: int) -> str:
    """A name by Batch's rules: letters, digits, ``-`` and ``_``, at most 128.

    >>> job_name("drive.1", "0123456789ab", 0)
    'drive_1-0123456789ab-g0'
    """
    tail = f"-{plan_id}-g{generation}"
    return drive_id.replace(".", "_")[: MAX_JOB_NAME_LENGTH - len(tail)] + tail


def command(lake: Lake, plan: Plan, generation: Generation, *, plan_sha256: str = "") -> list[str]:
    """What the container is told to run; for an array, which shard is each child's comes from its index.

    ``plan_sha256`` is of the plan as it lies in the lake, where an earlier version may have written it.
    """
    plan_uri = lake.uri(contract.plan_key(plan.drive_id, plan.plan_id))
    words = [
        "run",
        "--plan",
        plan_uri,
        "--plan-sha256",
        plan_sha256 or contract.sha256(contract.to_json(plan)),
    ]
    shards = generation.shards
    if len(shards) == 1:
        return [*words, "--shard", str(shards[0])]
    if shards == tuple(range(len(shards))):
        return words
    key = contract.generation_key(plan.drive_id, plan.plan_id, generation.generation)
    digest = contract.sha256(contract.to_json(generation))
    return [*words, "--index-map", lake.uri(key), "--index-map-sha256", digest]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a generation is given other than what the run asks for; None, or empty, for just that.

    ``timeout_s`` is of one attempt.
    """

    memory_mib: int | None = None
    vcpus: float | None = None
    timeout_s: int | None = None
    job_queue: str = ""

    def but(self, chosen: Collection[str]) -> Sizes:
        """These, without the ``chosen`` ones."""
        return dataclasses.replace(self, **{name: getattr(AS_ASKED, name) for name in chosen})


AS_ASKED = Sizes()


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How jobs are submitted; the same for all drives.

    Attributes:
        requester_pays: the buckets of bags bill who reads them; the planner and the jobs say that they pay.
        on_demand_queue: where shards go that Spot has reclaimed twice; empty for nowhere.
        max_memory_mib: what a container is given at most where shards ran out of memory.
        extra: further members of the SubmitJob request, as boto3 names them (``timeout``,
            ``retryStrategy``, ``shareIdentifier``...); what is said here wins, but for the job's name, its
            array and its command. A queue or definition in it becomes the ``job_queue`` and
            ``job_definition``.
    """

    job_queue: str
    job_definition: str
    vcpus: float | None = None
    memory_mib: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    requester_pays: bool = False
    on_demand_queue: str = ""
    max_memory_mib: int = DEFAULT_MAX_MEMORY_MIB

    def __post_init__(self) -> None:
        # Jobs are looked for where they were submitted, so that there is one word on where that is.
        extra = dict(self.extra)
        for name, member in (("job_queue", "jobQueue"), ("job_definition", "jobDefinition")):
            if isinstance(extra.get(member), str):
                object.__setattr__(self, name, extra.pop(member))
        object.__setattr__(self, "extra", extra)


def submit_request(
    lake: Lake,
    plan: Plan,
    generation: Generation,
    options: SubmitOptions,
    *,
    sizes: Sizes = AS_ASKED,
    plan_sha256: str = "",
) -> dict[str, Any]:
    """The SubmitJob request of a generation; its sizes win over what ``options`` say. See `command`."""
    words = command(lake, plan, generation, plan_sha256=plan_sha256)
    overrides: dict[str, Any] = dict(options.extra.get("containerOverrides", {}))
    asked = {
        "VCPU": None if options.vcpus is None else f"{options.vcpus:g}",
        "MEMORY": None if options.memory_mib is None else str(options.memory_mib),
    }
    resources = {kind: value for kind, value in asked.items() if value is not None}
    if "resourceRequirements" in overrides:
        resources = {each["type"]: each["value"] for each in overrides["resourceRequirements"]}
    if sizes.vcpus is not None:
        resources["VCPU"] = f"{sizes.vcpus:g}"
    if sizes.memory_mib is not None:
        resources["MEMORY"] = str(sizes.memory_mib)
    if resources:
        overrides["resourceRequirements"] = [
            {"type": kind, "value": value} for kind, value in resources.items()
        ]
    if options.requester_pays:
        others = [each for each in overrides.get("environment", []) if each["name"] != _PAYER["name"]]
        overrides["environment"] = [*others, _PAYER]
    tags = {"ros-to-parquet:drive": plan.drive_id, "ros-to-parquet:plan": plan.plan_id, **options.tags}
    request: dict[str, Any] = {
        "jobQueue": options.job_queue,
        "jobDefinition": options.job_definition,
        "tags": tags,
        "propagateTags": True,
        **options.extra,
        "jobName": job_name(plan.drive_id, plan.plan_id, generation.generation),
        "containerOverrides": {**overrides, "command": words},
    }
    if sizes.job_queue:
        request["jobQueue"] = sizes.job_queue
    if sizes.timeout_s is not None:
        request["timeout"] = {"attemptDurationSeconds": sizes.timeout_s}
    request.pop("arrayProperties", None)
    if len(generation.shards) > 1:
        request["arrayProperties"] = {"size": len(generation.shards)}
    return request


# --- submission and adoption ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a plan has come.

    Attributes:
        missing: shards without a manifest.
        committed: whether the drive manifest is there.
        generation: the last one that was begun; None before the first.
        record: its job, where it has one.
        state: that job's state by Batch.
        detail: that job as DescribeJobs has it; None where Batch does not know it.
        sizes: what that generation is given.
    """

    missing: tuple[int, ...]
    committed: bool
    generation: Generation | None = None
    record: JobRecord | None = None
    state: str = UNKNOWN
    detail: Mapping[str, Any] | None = field(default=None, compare=False)
    sizes: Sizes = AS_ASKED

    @property
    def live(self) -> bool:
        return self.state in LIVE


def read_progress(
    batch: BatchClient, lake: Lake, plan: Plan, *, job_queue: str, write: bool = True
) -> Progress:
    """How far the plan has come, by what the lake and Batch say.

    A job that was submitted and not recorded, because the operator was killed in between, is found by its
    name and, with ``write``, recorded now.
    """
    generations, records = _numbers(lake, plan)
    generation: Generation | None = None
    record: JobRecord | None = None
    sizes: Sizes | None = None
    if generations:
        last = max(generations)
        generation = lake.load(Generation, contract.generation_key(plan.drive_id, plan.plan_id, last))
        sizes = lake.load(Sizes, contract.sizes_key(plan.drive_id, plan.plan_id, last)) if last else None
        name = job_name(plan.drive_id, plan.plan_id, last)
        if last in records:
            record = lake.load(JobRecord, contract.job_record_key(plan.drive_id, plan.plan_id, last))
        elif found := _find_unrecorded(batch, sizes, job_queue, name):
            queue, job_id = found
            record = (
                _record(batch, lake, plan, generation, job_id, job_queue=queue)
                if write
                else _job_record(plan, generation, job_id, job_queue=queue)
            )
    detail = describe(batch, [record.job_id]).get(record.job_id) if record is not None else None
    state = job_state(detail)
    # After the state: a job that ended before it was looked at has left its manifests by now.
    keys = lake.keys(contract.manifest_folder(plan.drive_id, plan.plan_id))
    there = {key.rpartition("/")[2] for key in keys}
    missing = [shard for shard in range(len(plan.shards)) if f"{shard:05d}.json" not in there]
    return Progress(
        tuple(missing), "drive.json" in there, generation, record, state, detail, sizes or AS_ASKED
    )


def submit_next(
    batch: BatchClient,
    lake: Lake,
    plan: Plan,
    progress: Progress,
    options: SubmitOptions,
    *,
    submitter: BatchClient,
    sizes: Sizes = AS_ASKED,
    chosen: Collection[str] = (),
    plan_sha256: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[JobRecord, Generation]:
    """Submits a job for the plan's missing shards; to be called only where no job of the plan is live.

    ``sizes`` are a new generation's; one that was begun has its own. Of either the ``chosen`` ones are as
    ``options`` say.

    SubmitJob has no idempotency token, so ``submitter`` must not retry it by itself.

    With every manifest there and no drive manifest, the last shard's job is run once more: it finds its
    work done and commits the drive.

    Raises:
        RefusedError: Batch refused it for good, and there is no such job.
        SubmitError: Batch did not take it, or its answer is lost; trying again may help.
    """
    shards = progress.missing or (len(plan.shards) - 1,)
    number = next_generation(progress)
    if progress.generation is not None and progress.generation.generation == number:
        generation, sizes = progress.generation, progress.sizes
    else:
        if number:
            key = contract.sizes_key(plan.drive_id, plan.plan_id, number)
            if not lake.create(key, contract.to_json(sizes)):
                sizes = lake.load(Sizes, key) or sizes
        generation = Generation(CONTRACT_VERSION, plan.plan_id, number, shards)
        key = contract.generation_key(plan.drive_id, plan.plan_id, number)
        if not lake.create(key, contract.to_json(generation)):
            generation = lake.load(Generation, key) or generation
    given = sizes.but(chosen)
    request = submit_request(lake, plan, generation, options, sizes=given, plan_sha256=plan_sha256)
    job_id = submit_once(batch, submitter, request, what=f"drive {plan.drive_id!r}", sleep=sleep)
    queue = str(request["jobQueue"])
    return _record(batch, lake, plan, generation, job_id, job_queue=queue), generation


def next_generation(progress: Progress) -> int:
    """The number of the generation to submit next: one that was saved and never submitted is taken up."""
    if progress.generation is None:
        return 0
    return progress.generation.generation + (progress.record is not None)


def _numbers(lake: Lake, plan: Plan) -> tuple[set[int], set[int]]:
    """The numbers of the generations that were begun, and of those that have a job recorded."""
    numbers: dict[str, set[int]] = {"generation": set(), "job": set()}
    for key in lake.keys(contract.plan_folder(plan.drive_id, plan.plan_id)):
        kind, _, number = key.rpartition("/")[2].removesuffix(".json").partition("-")
        if kind in numbers and number.isdigit():
            numbers[kind].add(int(number))
    return numbers["generation"], numbers["job"]


def _record(
    batch: BatchClient,
    lake: Lake,
    plan: Plan,
    generation: Generation | None,
    job_id: str,
    *,
    job_queue: str,
) -> JobRecord:
    """Saves the generation's job. Of two that were submitted at once the first recorded stays."""
    record = _job_record(plan, generation, job_id, job_queue=job_queue)
    key = contract.job_record_key(plan.drive_id, plan.plan_id, record.generation)
    if lake.create(key, contract.to_json(record)):
        return record
    first = lake.load(JobRecord, key) or record
    if first.job_id != job_id:
        terminate(batch, [job_id], f"{first.job_id} was submitted first for the same shards")
    return first


def _job_record(plan: Plan, generation: Generation | None, job_id: str, *, job_queue: str) -> JobRecord:
    assert generation is not None
    count = len(generation.shards)
    return JobRecord(
        plan_id=plan.plan_id,
        generation=generation.generation,
        job_id=job_id,
        job_name=job_name(plan.drive_id, plan.plan_id, generation.generation),
        job_queue=job_queue,
        array_size=count if count > 1 else 0,
    )


def submit_once(
    batch: BatchClient,
    submitter: BatchClient,
    request: dict[str, Any],
    *,
    what: str,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """SubmitJob, so that no failure in between makes two jobs of one; the job's id.

    After an error that leaves open what Batch has done, the job is looked for by its name.

    Raises:
        RefusedError: Batch refused it for good, and no try before has an answer that is lost.
        SubmitError: it did not take it else, or nobody knows; the messages begin with ``what``.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    problem: Exception | None = None
    open_end = False  # whether Batch may have done what it was asked
    refused = False
    for attempt in range(SUBMIT_TRIES):
        try:
            return submitter.submit_job(**request)["jobId"]
        except ClientError as error:
            problem = error
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            throttled = error_code(error) in THROTTLED
            if not throttled and status < 500:
                refused = not open_end and _is_refusal(error)
                break
            open_end = open_end or not throttled
        except ParamValidationError as error:  # it was not sent
            problem, refused = error, not open_end
            break
        except BotoCoreError as error:
            problem = error
            open_end = True
        # Not all at the same moment again: drives are submitted several at a time.
        sleep(min(2.0**attempt, 20.0) * random.uniform(0.5, 1.5))
        if open_end and (found := find_job(batch, request["jobQueue"], request["jobName"])):
            return found
    kind = RefusedError if refused else SubmitError
    raise kind(
        f"{what}: Batch did not take job {request['jobName']} for queue {request['jobQueue']!r} "
        f"and definition {request['jobDefinition']!r}: {problem}"
    ) from problem


def find_job(batch: BatchClient, job_queue: str, name: str) -> str | None:
    """The id of the queue's job of that name: a live one before others, the newest before older ones.

    None where there is no such job, or no such queue.
    """
    from botocore.exceptions import ClientError

    pages = batch.get_paginator("list_jobs").paginate(
        jobQueue=job_queue, filters=[{"name": "JOB_NAME", "values": [name]}]
    )
    try:
        # Batch matches names without case.
        found = [job for page in pages for job in page["jobSummaryList"] if job["jobName"] == name]
    except ClientError as error:
        if is_missing_queue(error):
            return None
        raise
    found.sort(key=lambda job: (job.get("status") in LIVE, job.get("createdAt", 0)))
    return found[-1]["jobId"] if found else None


def _find_unrecorded(
    batch: BatchClient, sizes: Sizes | None, job_queue: str, name: str
) -> tuple[str, str] | None:
    """Queue and id of a generation's job that was submitted and not recorded.

    It is in the queue of its sizes, or in the run's where whoever submitted it had chosen that one.
    """
    for queue in dict.fromkeys((sizes.job_queue if sizes else "", job_queue)):
        if queue and (job_id := find_job(batch, queue, name)):
            return queue, job_id
    return None


def is_missing_queue(error: ClientError) -> bool:
    """Whether Batch says that there is no such job queue."""
    said = str(error.response.get("Error", {}).get("Message", ""))
    return error_code(error) == "ClientException" and bool(_NO_SUCH_QUEUE.search(said))


def _is_refusal(error: ClientError) -> bool:
    """Whether an error of SubmitJob says that Batch made no job, and will make none of the same request."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error_code(error)
    return 400 <= status < 500 and status not in (408, 429) and code not in THROTTLED | _PASSING


def recorded_jobs(lake: Lake, drive_id: str, plan_id: str) -> list[JobRecord]:
    """The jobs of all generations of a plan, oldest first."""
    keys = [
        key
        for key in lake.keys(contract.plan_folder(drive_id, plan_id))
        if key.rpartition("/")[2].startswith("job-")
    ]
    return sorted(lake.load_all(JobRecord, keys), key=lambda record: record.generation)


def live_jobs(
    batch: BatchClient, lake: Lake, drive_id: str, plan_id: str, *, job_queue: str
) -> dict[str, str]:
    """A plan's live jobs, recorded or not, with their states; at most one, but for moments and mishaps."""
    records = recorded_jobs(lake, drive_id, plan_id)
    ids = [record.job_id for record in records]
    following = records[-1].generation + 1 if records else 0
    sizes = lake.load(Sizes, contract.sizes_key(drive_id, plan_id, following)) if following else None
    if unrecorded := _find_unrecorded(batch, sizes, job_queue, job_name(drive_id, plan_id, following)):
        ids.append(unrecorded[1])
    details = describe(batch, ids)
    states = {job_id: job_state(details.get(job_id)) for job_id in ids}
    return {job_id: state for job_id, state in states.items() if state in LIVE}


# --- what Batch says --------------------------------------------------------------------------------


def describe(batch: BatchClient, job_ids: Sequence[str]) -> dict[str, Any]:
    """DescribeJobs, a hundred ids a request; jobs that Batch does not know are missing in the answer."""
    details: dict[str, Any] = {}
    for start in range(0, len(job_ids), DESCRIBE_LIMIT):
        answer = batch.describe_jobs(jobs=list(job_ids[start : start + DESCRIBE_LIMIT]))
        details.update({job["jobId"]: job for job in answer["jobs"]})
    return details


def look_at(batch: BatchClient, job_ids: Sequence[str]) -> dict[str, Any]:
    """As `describe`, but of each job what a wait needs, so that one for a thousand stays small."""
    looks: dict[str, Any] = {}
    for start in range(0, len(job_ids), DESCRIBE_LIMIT):
        for job_id, detail in describe(batch, job_ids[start : start + DESCRIBE_LIMIT]).items():
            looks[job_id] = {name: detail[name] for name in _LOOKED_AT if name in detail}
    return looks


def job_state(detail: Mapping[str, Any] | None) -> str:
    """The state of a job as `describe` gives it."""
    return UNKNOWN if detail is None else str(detail["status"])


def count_states(details: Iterable[Mapping[str, Any] | None]) -> dict[str, int]:
    """How many shards are in which state: an array counts its children."""
    counts: dict[str, int] = {}
    for detail in details:
        children = (detail or {}).get("arrayProperties", {}).get("statusSummary") or {}
        if not any(children.values()):
            children = {job_state(detail): (detail or {}).get("arrayProperties", {}).get("size") or 1}
        for state, count in children.items():
            if count:
                counts[state] = counts.get(state, 0) + count
    return counts


def job_seconds(detail: Mapping[str, Any] | None) -> float | None:
    """From submission to end, by Batch's clock; None while that is not known."""
    if not detail or not detail.get("createdAt") or not detail.get("stoppedAt"):
        return None
    return round(float(detail["stoppedAt"] - detail["createdAt"]) / 1000, 3)


def find_definition(batch: BatchClient, job_definition: str) -> Mapping[str, Any] | None:
    """A job definition by ARN, ``name:revision``, or name (its newest revision); None where there is none."""
    name, _, revision = job_definition.rpartition("job-definition/")[2].partition(":")
    if revision and job_definition.startswith("arn:"):
        return next(
            iter(batch.describe_job_definitions(jobDefinitions=[job_definition])["jobDefinitions"]), None
        )
    pages = batch.get_paginator("describe_job_definitions")
    found = [
        each
        for page in (
            pages.paginate(jobDefinitionName=name)
            if revision
            else pages.paginate(jobDefinitionName=name, status="ACTIVE")
        )
        for each in page["jobDefinitions"]
        if revision in ("", str(each["revision"]))
    ]
    return max(found, key=lambda each: each["revision"], default=None)


def log_group(detail: Mapping[str, Any] | None) -> str | None:
    """The CloudWatch log group of a job; None where its definition names none, or another log driver."""
    logs = ((detail or {}).get("container") or {}).get("logConfiguration") or {}
    group = (logs.get("options") or {}).get("awslogs-group")
    return None if group is None else str(group)


def end_reason(detail: Mapping[str, Any]) -> str:
    """Why a job or an array's child ended: exit code with its meaning, then the reasons Batch gives."""
    code = last_exit_code(detail)
    words = [] if code is None else [describe_exit(code)]
    return (
        "; ".join([*words, *batch_reasons(detail)])
        or f"ended as {detail.get('status', UNKNOWN)}, Batch gives no reason"
    )


def batch_reasons(detail: Mapping[str, Any]) -> list[str]:
    """The reasons that Batch gives for a job's end, but for the one that says nothing."""
    attempts = detail.get("attempts") or []
    last = (attempts[-1].get("container") or {}) if attempts else {}
    reason = (detail.get("container") or {}).get("reason") or last.get("reason")
    status = detail.get("statusReason") or (attempts[-1].get("statusReason") if attempts else None)
    said = (str(text) for text in (reason, status) if text)
    return list(dict.fromkeys(text for text in said if "Essential container in task exited" not in text))


def describe_exit(code: int) -> str:
    """An exit code with its meaning.

    >>> describe_exit(75)
    'exit code 75 (interrupted by something that passes: throttling, network, reclaim; retry helps)'
    """
    try:
        return f"exit code {code} ({EXIT_CODE_HELP[ExitCode(code)]})"
    except ValueError:
        return f"exit code {code}"


def terminate(batch: BatchClient, job_ids: Iterable[str], reason: str) -> list[str]:
    """TerminateJob for each; returns what went wrong, a sentence each. Ended jobs are left as they are."""
    from botocore.exceptions import BotoCoreError, ClientError

    problems = []
    left = deque(job_ids)

    def end() -> None:
        while True:
            try:
                job_id = left.popleft()
            except IndexError:
                return
            try:
                batch.terminate_job(jobId=job_id, reason=reason)
            except (BotoCoreError, ClientError) as error:
                problems.append(f"job {job_id}: {error}")

    # Several at a time: who is killed has seconds to do it in. Not by an executor, whose lock the thread that
    # a signal interrupts may hold.
    threads = [threading.Thread(target=end) for _ in range(min(TERMINATE_THREADS, len(left)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return problems


def shown_ids(job_ids: Sequence[str]) -> str:
    """For a log: the first ids, and how many more."""
    more = len(job_ids) - _IDS_SHOWN
    return (", ".join(job_ids[:_IDS_SHOWN]) or "(none)") + (f" and {more} more" if more > 0 else "")
