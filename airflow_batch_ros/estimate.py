"""How long a plan will take, and what it will cost: by its bytes and by the speed that earlier runs had.

What is learned is read from a few drives of the lake, with at most `LEARN_REQUESTS` requests a run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_batch_ros.lake import Lake
from airflow_batch_ros.pricing import Containers
from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, ExtractOptions, Plan, Pricing

MB = 1e6

DEFAULT_MB_PER_S: Mapping[str, float] = {"rosbag1": 35.0, "mcap": 30.0, "sqlite3": 60.0}
"""Stored MB a second and vCPU, by what a bag's name promises, where the lake has nothing to learn from: half
of what a quiet core does with a bag of small messages, which take longest (docs/benchmarks.md)."""

DEFAULT_PACKED_MB_PER_S = 25.0
"""Likewise, of archives and of files that are compressed whole."""

MOST_USED_VCPUS = 4.0
"""More are not counted on: a shard reads its bags one after the other."""

ENGINE_START_S = 2.0
"""From a process' start to its first read of a bag."""

CONTAINER_START_S = {"FARGATE": 30.0, "FARGATE_SPOT": 30.0}
"""While the image is pulled, which is paid for too. An EC2 instance has it already, most often."""

LEARN_BYTES = 64e6
"""A shard: those of drives with fewer on average teach nothing, for most of their time is no reading."""

LEARN_DRIVES = 8
LEARN_REQUESTS = 1 + LEARN_DRIVES * 4

_ALMOST_ALL = 0.8
"""Of a drive's bytes, for its speed to be called that of a format."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Stored MB a second and vCPU, by format, as earlier runs had them; ``drives``: how many taught it."""

    by_format: Mapping[str, float] = field(default_factory=dict)
    drives: int = 0

    def of(self, form: str) -> float:
        if form in self.by_format:
            return self.by_format[form]
        return DEFAULT_MB_PER_S.get(form, DEFAULT_PACKED_MB_PER_S)

    def origin(self, form: str) -> str:
        return "learned" if form in self.by_format else "default"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan will take.

    Attributes:
        seconds: of its longest container.
        container_seconds: of all, as they are billed.
        largest_shard_bytes: stored bytes of bags.
        cost: in ``pricing``'s currency.
    """

    seconds: float
    container_seconds: float
    largest_shard_bytes: int
    cost: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "container_seconds": round(self.container_seconds, 1),
            "largest_shard_bytes": self.largest_shard_bytes,
            "cost": round(self.cost, 6),
        }


@dataclass(frozen=True, slots=True)
class Estimator:
    """By what plans are estimated."""

    containers: Containers
    speeds: Speeds = field(default_factory=Speeds)

    def estimate(self, plan: Plan) -> Estimate:
        pricing = self.containers.pricing
        sizes = [
            [(plan.bags[part.bag].format, plan.bags[part.bag].size_bytes / part.count) for part in shard]
            for shard in plan.shards
        ]
        seconds = [self._seconds(shard, pricing) for shard in sizes]
        billed = sum(max(pricing.least_s, each) for each in seconds)
        return Estimate(
            seconds=max(seconds, default=0.0),
            container_seconds=billed,
            largest_shard_bytes=int(max((sum(size for _, size in shard) for shard in sizes), default=0)),
            cost=contract.container_cost(pricing, billed),
        )

    def wall_seconds(self, estimates: Sequence[Estimate]) -> float:
        """Of a run: as long as its longest container, or as its queue's vCPUs take for all of them."""
        longest = max((each.seconds for each in estimates), default=0.0)
        total = sum(each.container_seconds for each in estimates)
        if not self.containers.max_vcpus:
            return longest
        at_once = max(1, int(self.containers.max_vcpus // self.containers.pricing.vcpus))
        return max(longest, total / at_once)

    def _seconds(self, shard: Iterable[tuple[str, float]], pricing: Pricing) -> float:
        vcpus = min(pricing.vcpus, MOST_USED_VCPUS)
        reading = sum(size / MB / self.speeds.of(form) for form, size in shard) / vcpus
        return CONTAINER_START_S.get(pricing.platform, 0.0) + ENGINE_START_S + reading


def learn_speeds(lake: Lake, drive_ids: Sequence[str], options: ExtractOptions, *, vcpus: float) -> Speeds:
    """What drives of the lake took: of these drives, or where it has none of them of others.

    ``vcpus`` are taken for those of plans that do not say theirs. Drives of small shards teach nothing (see
    `LEARN_BYTES`). What cannot be read any more, as it is of
    another version, teaches nothing.
    """
    found: dict[str, list[float]] = {}
    there = {folder.removeprefix("drive_id=").rstrip("/") for folder in lake.folders("_manifests", most=1000)}
    own = [drive_id for drive_id in drive_ids if drive_id in there]
    drives = 0
    for drive_id in _spread(own or sorted(there), LEARN_DRIVES):
        learned = _learn(lake, drive_id, options, vcpus=vcpus)
        if learned is not None:
            form, speed = learned
            found.setdefault(form, []).append(speed)
            drives += 1
    return Speeds({form: statistics.median(speeds) for form, speeds in found.items()}, drives)


def _learn(lake: Lake, drive_id: str, options: ExtractOptions, *, vcpus: float) -> tuple[str, float] | None:
    """The format of almost all that one of a drive's plans had, and its stored MB a second and vCPU."""
    root = contract.manifest_folder(drive_id, "")
    for folder in lake.folders(root.rstrip("/"), most=2):
        plan_id = folder.rstrip("/")
        try:
            commit = lake.load(DriveManifest, contract.drive_manifest_key(drive_id, plan_id))
            plan = lake.load(Plan, contract.plan_key(drive_id, plan_id))
        except contract.ContractError:
            continue
        if plan is None or commit is None or commit.shards < len(plan.shards) or commit.shard_seconds <= 0:
            continue
        sizes: dict[str, float] = {}
        for part in (part for shard in plan.shards for part in shard):
            bag = plan.bags[part.bag]
            sizes[bag.format] = sizes.get(bag.format, 0.0) + bag.size_bytes / part.count
        if not sizes:
            continue
        form, whole = max(sizes, key=sizes.__getitem__), sum(sizes.values())
        # With other topics less or more of each bag may have been read.
        count = whole if plan.options == options else commit.bytes_read
        used = min(plan.pricing.vcpus if plan.pricing else vcpus, MOST_USED_VCPUS)
        if sizes[form] >= _ALMOST_ALL * whole and count >= LEARN_BYTES * len(plan.shards):
            return form, count / MB / commit.shard_seconds / used
    return None


def _spread(items: Sequence[str], count: int) -> list[str]:
    """``count`` of them, or all, evenly spread."""
    step = max(1.0, len(items) / count)
    return [items[int(place * step)] for place in range(min(count, len(items)))]
