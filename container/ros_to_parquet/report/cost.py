"""What a drive's shards have cost by their manifests: their seconds at the prices of their plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ros_to_parquet.contract import Manifest, Pricing, container_cost
from ros_to_parquet.report.drive import plain_type

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Cost:
    """What is known of it.

    Attributes:
        currency: of all amounts.
        unpriced: shards without a price in that currency: of an earlier version, or run on a machine.
        pricings: of the others, each once.
        by_shard: as the shards; None for one that is unpriced.
        by_bag: by name, each shard's cost shared out by the bytes that were read.
        by_topic: by name and type (`drive.plain_type`), likewise by the bytes of messages.
    """

    amount: float
    currency: str
    vcpu_seconds: float
    gb_seconds: float
    unpriced: int
    pricings: tuple[Pricing, ...]
    by_shard: tuple[float | None, ...]
    by_bag: Mapping[str, float]
    by_topic: Mapping[tuple[str, str], float]


def find_cost(shards: Sequence[Manifest]) -> Cost | None:
    """None where no shard has a price."""
    currencies = Counter(shard.pricing.currency for shard in shards if shard.pricing)
    if not currencies:
        return None
    ((currency, _),) = currencies.most_common(1)
    by_shard: list[float | None] = []
    by_bag: dict[str, float] = {}
    by_topic: dict[tuple[str, str], float] = {}
    pricings: dict[Pricing, None] = {}
    vcpu_seconds = gb_seconds = 0.0
    for shard in shards:
        pricing = shard.pricing
        if pricing is None or pricing.currency != currency:
            by_shard.append(None)
            continue
        seconds = max(shard.seconds, pricing.least_s)
        cost = container_cost(pricing, seconds)
        by_shard.append(cost)
        pricings[pricing] = None
        vcpu_seconds += seconds * pricing.vcpus
        gb_seconds += seconds * pricing.memory_gb
        _share(by_bag, cost, [(bag.name, bag.bytes_read) for bag in shard.bags])
        topics = [((topic.topic, plain_type(topic.type_name)), topic.bytes_in) for topic in shard.topics]
        _share(by_topic, cost, topics)
    return Cost(
        amount=sum(cost for cost in by_shard if cost is not None),
        currency=currency,
        vcpu_seconds=vcpu_seconds,
        gb_seconds=gb_seconds,
        unpriced=by_shard.count(None),
        pricings=tuple(pricings),
        by_shard=tuple(by_shard),
        by_bag=by_bag,
        by_topic=by_topic,
    )


def _share(total: dict[K, float], cost: float, sizes: Sequence[tuple[K, int]]) -> None:
    whole = sum(size for _, size in sizes)
    for key, size in sizes:
        total[key] = total.get(key, 0.0) + cost * (size / whole if whole else 1 / len(sizes))


def shown(amount: float, currency: str) -> str:
    """For people.

    >>> shown(12.345, "USD"), shown(0.00123, "USD"), shown(0, "USD")
    ('12.35 USD', '0.0012 USD', '0 USD')
    """
    return f"{amount:,.2f} {currency}" if amount >= 1 else f"{amount:.2g} {currency}"
