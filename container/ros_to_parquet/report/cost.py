"""What a drive's shards have cost by their manifests: their seconds at the prices of their plans."""

from __future__ import annotations

from dataclasses import dataclass, field

from ros_to_parquet.contract import Manifest, Pricing, container_cost

MOST_PRICINGS = 20
"""Different prices that are told."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What is known of it.

    Attributes:
        currency: of all amounts; the first shard's that has a price.
        unpriced: shards without a price in that currency: of an earlier version, or run on a machine.
        pricings: of the others, each once; the first `MOST_PRICINGS`.
    """

    amount: float
    currency: str
    vcpu_seconds: float
    gb_seconds: float
    unpriced: int
    pricings: tuple[Pricing, ...]


@dataclass(slots=True)
class CostSum:
    """A cost in the making, shard by shard."""

    amount: float = 0.0
    currency: str = ""
    vcpu_seconds: float = 0.0
    gb_seconds: float = 0.0
    unpriced: int = 0
    pricings: dict[Pricing, None] = field(default_factory=dict)

    def add(self, shard: Manifest) -> float | None:
        """The shard's own; None where it has no price."""
        pricing = shard.pricing
        if pricing is None or (self.currency and pricing.currency != self.currency):
            self.unpriced += 1
            return None
        self.currency = pricing.currency
        seconds = max(shard.seconds, pricing.least_s)
        cost = container_cost(pricing, seconds)
        self.amount += cost
        self.vcpu_seconds += seconds * pricing.vcpus
        self.gb_seconds += seconds * pricing.memory_gb
        if len(self.pricings) < MOST_PRICINGS:
            self.pricings[pricing] = None
        return cost

    def cost(self) -> Cost | None:
        """None where no shard has a price."""
        if not self.currency:
            return None
        return Cost(
            self.amount,
            self.currency,
            self.vcpu_seconds,
            self.gb_seconds,
            self.unpriced,
            tuple(self.pricings),
        )


def shown(amount: float, currency: str) -> str:
    """For people.

    >>> shown(12.345, "USD"), shown(0.00123, "USD"), shown(0, "USD")
    ('12.35 USD', '0.0012 USD', '0 USD')
    """
    return f"{amount:,.2f} {currency}" if amount >= 1 else f"{amount:.2g} {currency}"
