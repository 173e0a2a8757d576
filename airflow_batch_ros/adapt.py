"""What the next generation of a drive's shards is given more of, by the causes that the last one failed by.

All children of an array share their sizes, so a generation is given the most that one of its shards needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.causes import Cause, reclaims
from airflow_batch_ros.failures import failed_shards
from airflow_batch_ros.jobs import (
    Progress,
    Sizes,
    SubmitOptions,
    Work,
    describe,
    drive_job,
    look_at,
    recorded_jobs,
)
from airflow_batch_ros.lake import Lake, drive_folder
from airflow_batch_ros.stack.parameters import FARGATE_MEMORY_MIB
from ros_to_parquet import contract
from ros_to_parquet.contract import Generation, Plan

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

MAX_TIMEOUT_S = 14 * 86_400
"""Of an attempt: AWS lets no Fargate task run longer."""

RECLAIMS = 2
"""A shard that was reclaimed that often, in all generations together, is not put on Spot again."""


@dataclass(frozen=True, slots=True)
class Had:
    """What a job had; None where Batch does not say it (any more)."""

    memory_mib: int | None = None
    vcpus: float | None = None
    timeout_s: int | None = None
    fargate: bool = False


def next_sizes(
    batch: BatchClient,
    lake: Lake,
    plan: Plan,
    progress: Progress,
    options: SubmitOptions,
    *,
    chosen: Collection[str] = (),
) -> tuple[Sizes, list[str]]:
    """What the generation after the one of ``progress``, which has ended, is given; and why, in words.

    Of the ``chosen`` ones nothing is given beyond what the generations before had.
    """
    if progress.record is None or progress.generation is None or not progress.missing:
        return Sizes(), []
    job = drive_job(
        plan, Work.SUBMITTED, progress.record, submitted_shards=0, job_queue=options.job_queue, fail_on=()
    )
    folder = drive_folder(lake, plan.drive_id, plan.plan_id)
    causes: Counter[Cause] = Counter()
    job_ids: list[str] = []
    for shard in failed_shards(batch, lake, job, folder, progress.missing, progress.detail):
        causes[shard.cause] += 1
        job_ids.append(shard.job_id)
    if "memory_mib" in chosen:
        del causes[Cause.OUT_OF_MEMORY]
    moves = options.on_demand_queue and "job_queue" not in chosen
    often = _reclaimed_often(batch, lake, plan, progress.missing) if moves else 0
    had = _had(progress.detail)
    if had.memory_mib is None and job_ids[0]:  # of an array's parent it may not be said
        had = _had(describe(batch, job_ids[:1]).get(job_ids[0]))
    return grow(had, progress.sizes, causes, options, often=often)


def grow(
    had: Had, last: Sizes, causes: Mapping[Cause, int], options: SubmitOptions, *, often: int = 0
) -> tuple[Sizes, list[str]]:
    """The sizes that follow those of the ``last`` generation, and why.

    What a generation was given more of stays, unless no machine was found that has as much.

    Args:
        had: what the last job had, by Batch.
        causes: how many of the missing shards failed by which cause.
        often: how many of them were reclaimed `RECLAIMS` times or more.
    """
    said = []
    stuck = bool(causes.get(Cause.STUCK_IN_RUNNABLE))
    memory_mib, vcpus = (None, None) if stuck else (last.memory_mib, last.vcpus)
    timeout_s = last.timeout_s
    if count := causes.get(Cause.OUT_OF_MEMORY, 0):
        before = had.memory_mib or last.memory_mib or options.memory_mib
        if before is None:
            said.append(f"{_shards(count)} out of memory, and Batch no longer says how much that was")
        else:
            wanted = more_memory(before, had.vcpus, fargate=had.fargate, at_most=options.max_memory_mib)
            memory_mib, vcpus = wanted
            change = f"{memory_mib} MiB after {before}" if memory_mib > before else f"{before} MiB, the most"
            said.append(f"{_shards(count)} out of memory: {change}")
    if count := causes.get(Cause.TIMEOUT, 0):
        before = had.timeout_s or last.timeout_s
        if before is None:
            said.append(f"{_shards(count)} out of time, and Batch no longer says how much that was")
        else:
            timeout_s = min(2 * before, max(MAX_TIMEOUT_S, before))
            said.append(f"{_shards(count)} out of time: {timeout_s} s after {before}")
    job_queue = last.job_queue if options.on_demand_queue else ""
    if often and job_queue != options.on_demand_queue:
        job_queue = options.on_demand_queue
        noun = "1 shard was" if often == 1 else f"{often} shards were"
        said.append(f"{noun} reclaimed twice or more: to queue {job_queue}")
    if memory_mib is not None and memory_mib <= (options.memory_mib or 0):
        memory_mib = vcpus = None  # the run asks for as much by now
    return Sizes(memory_mib, vcpus, timeout_s, job_queue), said


def more_memory(
    memory_mib: int, vcpus: float | None, *, fargate: bool, at_most: int
) -> tuple[int, float | None]:
    """Twice the memory, or the most there is, and the vCPUs that go with it: None for as many as before.

    Fargate has memory in steps by the vCPUs; the fewest vCPUs that have as much are taken, and no fewer than
    before.

    >>> more_memory(8192, 1, fargate=True, at_most=122_880)
    (16384, 2.0)
    """
    wanted = max(memory_mib, min(2 * memory_mib, at_most))
    if not fargate:
        return wanted, None
    sizes = [
        (float(count), size)
        for count, steps in FARGATE_MEMORY_MIB.items()
        if float(count) >= (vcpus or 0)
        for size in steps
        if memory_mib < size <= at_most
    ]
    enough = [(count, size) for count, size in sizes if size >= wanted]
    found = min(enough, default=None) or max(sizes, key=lambda each: (each[1], -each[0]), default=None)
    if found is None:
        return memory_mib, None
    return found[1], found[0] if found[0] != vcpus else None


def _had(detail: Mapping[str, Any] | None) -> Had:
    if detail is None:
        return Had()
    container = detail.get("container") or {}
    has = {each["type"]: each["value"] for each in container.get("resourceRequirements") or ()}
    memory, vcpus = has.get("MEMORY") or container.get("memory"), has.get("VCPU") or container.get("vcpus")
    return Had(
        memory_mib=int(memory) if memory else None,
        vcpus=float(vcpus) if vcpus else None,
        timeout_s=(detail.get("timeout") or {}).get("attemptDurationSeconds"),
        fargate="FARGATE" in (detail.get("platformCapabilities") or ()),
    )


def _reclaimed_often(batch: BatchClient, lake: Lake, plan: Plan, missing: tuple[int, ...]) -> int:
    """How many of the shards were reclaimed `RECLAIMS` times, by what Batch knows of all generations."""
    counts: Counter[int] = Counter()
    wanted = frozenset(missing)
    for record in recorded_jobs(lake, plan.drive_id, plan.plan_id):
        key = contract.generation_key(plan.drive_id, plan.plan_id, record.generation)
        generation = lake.load(Generation, key)
        ids = {
            f"{record.job_id}:{index}" if record.array_size else record.job_id: shard
            for index, shard in enumerate(generation.shards if generation else ())
            if shard in wanted
        }
        for job_id, look in look_at(batch, list(ids)).items():
            counts[ids[job_id]] += reclaims(look)
    return sum(count >= RECLAIMS for count in counts.values())


def _shards(count: int) -> str:
    return f"{count} shard{'' if count == 1 else 's'} ran"
