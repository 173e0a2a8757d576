"""What a run's containers are and cost: by the job definition, the queue's machines and the price table.

At most three requests a queue, whatever the number of drives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.jobs import SubmitOptions, find_definition
from airflow_batch_ros.lake import error_code
from airflow_batch_ros.prices import EC2_LEAST_S, FARGATE_LEAST_S, PLATFORMS, Prices, price_of
from ros_to_parquet.contract import Pricing

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "403"})

_ARM_FAMILY = re.compile(r"default_arm64$|[a-z]+\d+[a-z]*g[a-z]*(\.|$)")
"""Instance types, or families, of Graviton."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What a queue's jobs run on: its first compute environment that is known.

    Attributes:
        platform: one of `prices.PLATFORMS`.
        architecture: as Batch names it; empty where that is for the job definition to say.
        max_vcpus: most vCPUs at a time, of all its environments together; None where nobody says.
    """

    platform: str
    architecture: str = ""
    max_vcpus: int | None = None


@dataclass(frozen=True, slots=True)
class Containers:
    """What a run's containers are. ``max_vcpus``: most that its queue has at a time, where that is said."""

    pricing: Pricing
    max_vcpus: int | None = None


def find_containers(
    batch: BatchClient, options: SubmitOptions, *, own: Prices | None, say: Callable[[str], None]
) -> Containers | None:
    """What containers submitted with ``options`` are and cost; None where Batch does not say.

    What the connection may not ask for is said, and what is left taken for it.
    """
    from botocore.exceptions import ClientError

    job_queue, job_definition = options.job_queue, options.job_definition
    try:
        definition = find_definition(batch, job_definition)
    except ClientError as error:
        if error_code(error) not in _DENIED:
            raise
        definition = None  # `allowed.of_job_definition` says so
    container = (definition or {}).get("containerProperties") or {}
    overrides = options.extra.get("containerOverrides") or {}
    has = {**_resources(container), **_asked(options), **_resources(overrides)}
    if "VCPU" not in has or "MEMORY" not in has:
        return None
    capabilities = (definition or {}).get("platformCapabilities") or ["EC2"]
    fallback = Machines("FARGATE" if "FARGATE" in capabilities else "EC2")
    machines = find_machines(batch, job_queue, say=say) or fallback
    runtime = container.get("runtimePlatform") or {}
    pricing = make_pricing(
        machines,
        region=batch.meta.region_name,
        job_queue=job_queue,
        architecture=str(runtime.get("cpuArchitecture") or ""),
        vcpus=has["VCPU"],
        memory_gb=has["MEMORY"] / 1024,
        own=own,
    )
    return Containers(pricing, machines.max_vcpus)


def find_missing(batch: BatchClient, options: SubmitOptions) -> list[str]:
    """The queues and the definition of ``options`` that do not exist, in words.

    What the connection may not ask for is taken to exist.
    """
    from botocore.exceptions import ClientError

    job_queue, job_definition = options.job_queue, options.job_definition
    missing = []
    try:
        missing += [
            f"job queue {queue!r}"
            for queue in dict.fromkeys((job_queue, options.on_demand_queue))
            if queue and not batch.describe_job_queues(jobQueues=[queue])["jobQueues"]
        ]
    except ClientError as error:
        if error_code(error) not in _DENIED:
            raise
    try:
        if find_definition(batch, job_definition) is None:
            missing.append(f"job definition {job_definition!r}")
    except ClientError as error:
        if error_code(error) not in _DENIED:
            raise
    return missing


def make_pricing(
    machines: Machines,
    *,
    region: str,
    job_queue: str,
    architecture: str,
    vcpus: float,
    memory_gb: float,
    own: Prices | None,
) -> Pricing:
    """What containers of that size cost on ``machines``."""
    architecture = architecture or machines.architecture or "X86_64"
    price = price_of(
        machines.platform,
        region=region,
        architecture=architecture,
        vcpus=vcpus,
        memory_gb=memory_gb,
        own=own,
    )
    return Pricing(
        platform=machines.platform,
        region=region,
        architecture=architecture,
        job_queue=job_queue,
        vcpus=vcpus,
        memory_gb=memory_gb,
        vcpu_hour=price.vcpu_hour,
        gb_hour=price.gb_hour,
        currency=price.currency,
        origin=price.origin,
        least_s=FARGATE_LEAST_S if machines.platform.startswith("FARGATE") else EC2_LEAST_S,
    )


def on_queue(batch: BatchClient, pricing: Pricing, job_queue: str, *, say: Callable[[str], None]) -> Pricing:
    """``pricing`` for jobs that went to another queue."""
    if job_queue == pricing.job_queue:
        return pricing
    machines = find_machines(batch, job_queue, say=say)
    if machines is None or machines.platform == pricing.platform:
        return replace(pricing, job_queue=job_queue)
    own = (
        Prices(pricing.vcpu_hour, pricing.gb_hour, pricing.currency) if pricing.origin == "as said" else None
    )
    return make_pricing(
        machines,
        region=pricing.region,
        job_queue=job_queue,
        architecture=pricing.architecture,
        vcpus=pricing.vcpus,
        memory_gb=pricing.memory_gb,
        own=own,
    )


def find_machines(batch: BatchClient, job_queue: str, *, say: Callable[[str], None]) -> Machines | None:
    """What a queue's jobs run on; None where Batch does not say, or the connection may not ask."""
    from botocore.exceptions import ClientError

    try:
        queues = batch.describe_job_queues(jobQueues=[job_queue])["jobQueues"]
        order = sorted(
            (each for queue in queues for each in queue["computeEnvironmentOrder"]),
            key=lambda each: each["order"],
        )
        names = [each["computeEnvironment"] for each in order]
        found = (
            batch.describe_compute_environments(computeEnvironments=names)["computeEnvironments"]
            if names
            else []
        )
    except ClientError as error:
        if error_code(error) not in _DENIED:
            raise
        say(
            f"the connection may not ask what queue {job_queue.rpartition('/')[2]} runs on "
            f"(batch:{error.operation_name}): costs are reckoned as on demand"
        )
        return None
    return _machines(names, found)


def _machines(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> Machines | None:
    def place(environment: Mapping[str, Any]) -> int:
        known = [environment.get("computeEnvironmentArn"), environment.get("computeEnvironmentName")]
        return next((names.index(each) for each in known if each in names), len(names))

    resources = [each.get("computeResources") or {} for each in sorted(found, key=place)]
    resources = [each for each in resources if each.get("type") in PLATFORMS]
    if not resources:
        return None
    types = resources[0].get("instanceTypes") or ()
    is_arm = bool(types) and all(_ARM_FAMILY.match(each) for each in types)
    return Machines(
        platform=str(resources[0]["type"]),
        architecture="ARM64" if is_arm else "",
        max_vcpus=sum(int(each.get("maxvCpus") or 0) for each in resources) or None,
    )


def _resources(container: Mapping[str, Any]) -> dict[str, float]:
    """What a definition or an override says of vCPUs and memory (MiB), in newer words or older ones."""
    older = {"VCPU": container.get("vcpus"), "MEMORY": container.get("memory")}
    said = {name: float(value) for name, value in older.items() if value}
    newer = {each["type"]: each["value"] for each in container.get("resourceRequirements") or ()}
    return said | {name: float(newer[name]) for name in ("VCPU", "MEMORY") if name in newer}


def _asked(options: SubmitOptions) -> dict[str, float]:
    asked = {"VCPU": options.vcpus, "MEMORY": options.memory_mib}
    return {name: float(value) for name, value in asked.items() if value}
