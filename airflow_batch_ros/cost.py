"""What drives have cost: the time that containers ran, attempt by attempt, at the prices of the plans.

Batch is asked for a hundred jobs or array children at a time, of all drives together, at a bounded rate and
for `MAX_CHILDREN` at most; what it does not say is reckoned by the seconds in manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.jobs import DESCRIBE_LIMIT, DriveJob, recorded_jobs
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.pace import Pace
from airflow_batch_ros.pricing import on_queue
from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, JobRecord, Plan, Pricing

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

MAX_CHILDREN = 50_000
"""Jobs and array children whose attempts are asked for, of all drives of a run: 500 requests."""

DESCRIBES_PER_S = 20.0
"""AWS takes near 50 requests a second of an account, which others use too."""

MAX_BAGS = 500
"""Bags whose costs the summary lists, over all drives, the dearest of each drive first."""

_BAGS_A_DRIVE = 100


@dataclass(frozen=True, slots=True)
class Usage:
    """What containers ran.

    Attributes:
        attempts: that began to run; of manifests, those that left one.
        failed_attempts: those that ended other than by themselves and well.
        vcpu_seconds: as billed; so are GB-seconds.
        spot_seconds: of ``seconds``, on Spot.
        cost: of all of it; ``failed_cost`` of the failed attempts.
    """

    attempts: int = 0
    failed_attempts: int = 0
    seconds: float = 0.0
    spot_seconds: float = 0.0
    vcpu_seconds: float = 0.0
    gb_seconds: float = 0.0
    cost: float = 0.0
    failed_cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.attempts + other.attempts,
            self.failed_attempts + other.failed_attempts,
            self.seconds + other.seconds,
            self.spot_seconds + other.spot_seconds,
            self.vcpu_seconds + other.vcpu_seconds,
            self.gb_seconds + other.gb_seconds,
            self.cost + other.cost,
            self.failed_cost + other.failed_cost,
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """What a drive's plan says of cost.

    Attributes:
        bags: names and stored bytes, the largest first; the first `_BAGS_A_DRIVE` of ``bag_count``.
        bag_bytes: of all bags.
    """

    pricing: Pricing
    bags: tuple[tuple[str, int], ...]
    bag_count: int
    bag_bytes: int


@dataclass(frozen=True, slots=True)
class DriveCost:
    """What a drive has cost in a run, all its generations together.

    ``by_attempts``: by Batch's word on each attempt; else by the seconds in manifests, which know nothing of
    attempts that failed or of the time in which a container begins.
    """

    planned: Planned
    usage: Usage
    by_attempts: bool
    estimated: float | None = None

    def bags(self, most: int) -> list[dict[str, Any]]:
        """The cost shared out among the bags, by their stored bytes."""
        whole = max(1, self.planned.bag_bytes)
        return [
            {"bag": name, "cost": rounded(self.usage.cost * size / whole)}
            for name, size in self.planned.bags[:most]
        ]

    def tables(self, result: DriveManifest) -> dict[str, float]:
        """Likewise among the tables, by the bytes of their messages."""
        # Of manifests of an earlier version only what was written is known.
        known = all(table.bytes_in or not table.messages for table in result.tables)
        sizes = {each.table: each.bytes_in if known else each.bytes_written for each in result.tables}
        whole = max(1, sum(sizes.values()))
        return {table: rounded(self.usage.cost * size / whole) for table, size in sizes.items()}

    def as_dict(self, *, most_bags: int) -> dict[str, Any]:
        usage, pricing = self.usage, self.planned.pricing
        return {
            "cost": rounded(usage.cost),
            "currency": pricing.currency,
            "estimated": None if self.estimated is None else rounded(self.estimated),
            "by": "attempts" if self.by_attempts else "manifests",
            "prices": pricing.origin,
            "platform": pricing.platform,
            "attempts": usage.attempts,
            "failed_attempts": usage.failed_attempts,
            "failed_cost": rounded(usage.failed_cost),
            "vcpu_seconds": round(usage.vcpu_seconds, 1),
            "gb_seconds": round(usage.gb_seconds, 1),
            "spot_share": round(usage.spot_seconds / usage.seconds, 4) if usage.seconds else None,
            "bag_count": self.planned.bag_count,
            "bags": self.bags(most_bags),
        }


@dataclass(frozen=True, slots=True)
class Ended:
    """A drive whose job has ended, with what its manifests say."""

    job: DriveJob
    planned: Planned
    result: DriveManifest

    @property
    def place(self) -> tuple[str, str]:
        """A run may write a drive to several lakes."""
        return self.job.output, self.job.drive_id


def read_planned(lake: Lake, job: DriveJob) -> Planned | None:
    """What the drive's plan says of cost; None where it says nothing."""
    plan = lake.load(Plan, contract.plan_key(job.drive_id, job.plan_id))
    if plan is None or plan.pricing is None:
        return None
    sizes = sorted(((bag.name, bag.size_bytes) for bag in plan.bags), key=lambda bag: -bag[1])
    total = sum(size for _, size in sizes)
    return Planned(plan.pricing, tuple(sizes[:_BAGS_A_DRIVE]), len(sizes), total)


def read_records(lake: Lake, job: DriveJob) -> list[JobRecord]:
    """The jobs of all generations of a drive; the first one's is known without asking."""
    if job.job_id is None or job.generation is None:
        return []
    if job.generation:
        return recorded_jobs(lake, job.drive_id, job.plan_id)
    return [JobRecord(job.plan_id, 0, job.job_id, job.job_name or "", job.job_queue, job.array_size)]


def measure(
    batch: BatchClient,
    drives: Sequence[Ended],
    records: Mapping[tuple[str, str], Sequence[JobRecord]],
    *,
    say: Callable[[str], None],
    pace: Pace | None = None,
) -> dict[tuple[str, str], DriveCost]:
    """The costs of the drives by output and id; ``records`` are their jobs, likewise."""
    from botocore.exceptions import BotoCoreError, ClientError

    pace = pace or Pace(DESCRIBES_PER_S)
    prices: dict[tuple[Pricing, str], Pricing] = {}
    wanted: list[tuple[tuple[str, str], str, Pricing]] = []
    asked: dict[tuple[str, str], int] = {}
    for drive in drives:
        mine = []
        for record in records.get(drive.place, ()):
            planned = (drive.planned.pricing, record.job_queue)
            if planned not in prices:
                try:
                    prices[planned] = on_queue(batch, *planned, say=say)
                except (ClientError, BotoCoreError) as error:
                    say(f"costs are reckoned as planned, for Batch does not say what a queue is: {error}")
                    prices[planned] = drive.planned.pricing
            ids = [f"{record.job_id}:{child}" for child in range(record.array_size)] or [record.job_id]
            mine += [(drive.place, each, prices[planned]) for each in ids]
        if len(wanted) + len(mine) <= MAX_CHILDREN:
            wanted += mine
            asked[drive.place] = len(mine)
    heard: dict[tuple[str, str], _Heard] = {}
    for first in range(0, len(wanted), DESCRIBE_LIMIT):
        some = wanted[first : first + DESCRIBE_LIMIT]
        pace.wait()
        try:
            answer = batch.describe_jobs(jobs=[job_id for _, job_id, _ in some])
        except (ClientError, BotoCoreError) as error:
            say(f"costs are reckoned by manifests, for Batch does not say what ran: {error}")
            break
        details = {job["jobId"]: job for job in answer["jobs"]}
        for place, job_id, pricing in some:
            if job_id in details:
                heard.setdefault(place, _Heard()).add(usage_of(details[job_id], pricing))
    return {
        drive.place: _cost_of(drive, heard.get(drive.place), asked.get(drive.place, 0)) for drive in drives
    }


@dataclass(slots=True)
class _Heard:
    jobs: int = 0
    usage: Usage = field(default_factory=Usage)

    def add(self, usage: Usage) -> None:
        self.jobs += 1
        self.usage += usage


def _cost_of(drive: Ended, heard: _Heard | None, asked: int) -> DriveCost:
    by_manifests = _by_manifests(drive)
    # Batch forgets jobs: what it still knows of a drive may be less than what the drive's manifests do.
    if heard is not None and (heard.jobs == asked or heard.usage.cost >= by_manifests.cost):
        return DriveCost(drive.planned, heard.usage, True, drive.job.estimated_cost)
    return DriveCost(drive.planned, by_manifests, False, drive.job.estimated_cost)


def usage_of(detail: Mapping[str, Any], pricing: Pricing) -> Usage:
    """What a job or an array's child, as DescribeJobs has it, ran; of the size that Batch says it had."""
    container = detail.get("container") or {}
    has = {each["type"]: float(each["value"]) for each in container.get("resourceRequirements") or ()}
    vcpus = has.get("VCPU") or float(container.get("vcpus") or 0) or pricing.vcpus
    memory_gb = (has.get("MEMORY") or float(container.get("memory") or 0)) / 1024 or pricing.memory_gb
    total = Usage()
    attempts: Iterable[Mapping[str, Any]] = detail.get("attempts") or ()
    for attempt in attempts:
        begun, ended = attempt.get("startedAt"), attempt.get("stoppedAt")
        if not begun or not ended:
            continue  # its container never ran
        well = (attempt.get("container") or {}).get("exitCode") == 0
        seconds = max(pricing.least_s, (ended - begun) / 1000)
        cost = seconds / 3600 * (vcpus * pricing.vcpu_hour + memory_gb * pricing.gb_hour)
        total += Usage(
            attempts=1,
            failed_attempts=0 if well else 1,
            seconds=seconds,
            spot_seconds=seconds if pricing.is_spot else 0.0,
            vcpu_seconds=seconds * vcpus,
            gb_seconds=seconds * memory_gb,
            cost=cost,
            failed_cost=0.0 if well else cost,
        )
    return total


def _by_manifests(drive: Ended) -> Usage:
    """Of the fold of them: their seconds together."""
    pricing, result = drive.planned.pricing, drive.result
    seconds = max(result.shard_seconds, pricing.least_s * result.shards)
    return Usage(
        attempts=result.shards,
        seconds=seconds,
        spot_seconds=seconds if pricing.is_spot else 0.0,
        vcpu_seconds=seconds * pricing.vcpus,
        gb_seconds=seconds * pricing.memory_gb,
        cost=contract.container_cost(pricing, seconds),
    )


def totals(costs: Iterable[DriveCost]) -> dict[str, dict[str, Any]]:
    """Of all drives together, by currency."""
    sums: dict[str, Usage] = {}
    for each in costs:
        currency = each.planned.pricing.currency
        sums[currency] = sums.get(currency, Usage()) + each.usage
    return {
        currency: {
            "cost": rounded(usage.cost),
            "failed_cost": rounded(usage.failed_cost),
            "attempts": usage.attempts,
            "vcpu_seconds": round(usage.vcpu_seconds, 1),
            "gb_seconds": round(usage.gb_seconds, 1),
        }
        for currency, usage in sums.items()
    }


def rounded(amount: float) -> float:
    """To six decimals: a shard may cost a hundredth of a cent."""
    return round(amount, 6)


def shown(amount: float, currency: str) -> str:
    """For people.

    >>> shown(12.345, "USD"), shown(0.00123, "USD"), shown(1234.5, "EUR")
    ('12.35 USD', '0.0012 USD', '1,234.50 EUR')
    """
    return f"{amount:,.2f} {currency}" if amount >= 1 else f"{amount:.2g} {currency}"
