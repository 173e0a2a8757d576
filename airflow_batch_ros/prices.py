"""What containers cost by the hour: a table of AWS's list prices with its date, or what the user pays.

The table is ``prices.json`` beside this module; `docs/cost.md` says how far it goes. Nothing here asks AWS,
or imports Airflow or boto3.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FARGATE_LEAST_S = 60.0
"""Of an attempt that ran, this much is billed at least."""

EC2_LEAST_S = 0.0
"""An instance runs for several jobs, one after the other."""

DEFAULT_REGION = "us-east-1"
"""Whose prices are taken for a region that is not in the table."""

PLATFORMS = ("FARGATE", "FARGATE_SPOT", "EC2", "SPOT")


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a vCPU and of a GB (2^30 bytes) of memory by the hour, as users say them for all their queues."""

    vcpu_hour: float
    gb_hour: float
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class HourlyPrice:
    """What a container of one size pays for by the hour. ``origin`` says where the numbers are from."""

    vcpu_hour: float
    gb_hour: float
    currency: str
    origin: str


def price_of(
    platform: str,
    *,
    region: str,
    architecture: str,
    vcpus: float,
    memory_gb: float,
    own: Prices | None = None,
) -> HourlyPrice:
    """The price of containers on ``platform`` (one of `PLATFORMS`), of a CPU architecture as Batch names it.

    EC2 is a container's share of an instance whose memory fits its vCPUs: an approximation.

    >>> price_of("FARGATE", region="us-east-1", architecture="ARM64", vcpus=2, memory_gb=4)
    HourlyPrice(vcpu_hour=0.032384, gb_hour=0.003556, currency='USD', origin='AWS list, us-east-1, 2026-09')
    """
    if own is not None:
        return HourlyPrice(own.vcpu_hour, own.gb_hour, own.currency, "as said")
    table = _table()
    listed = region if region in table["fargate"] else DEFAULT_REGION
    vcpu_hour, gb_hour = table["fargate"][listed]
    of = f"AWS list, {listed}, {table['as_of']}"
    if listed != region:
        of += f" (of {region} none is known)"
    if platform.startswith("FARGATE"):
        share = table["fargate_arm64"] if architecture == "ARM64" else 1.0
        share *= table["fargate_spot"] if platform == "FARGATE_SPOT" else 1.0
        return HourlyPrice(round(vcpu_hour * share, 6), round(gb_hour * share, 6), table["currency"], of)
    families: list[list[float]] = table["ec2_vcpu"][architecture]
    most_gb, dearest = families[-1]
    per_vcpu = next((price for gb, price in families if memory_gb <= gb * vcpus), dearest)
    # More memory than any family has pays for the vCPUs that come with it.
    per_vcpu *= max(1.0, memory_gb / vcpus / most_gb)
    # Regions differ among each other about as they do on Fargate.
    per_vcpu *= vcpu_hour / table["fargate"][DEFAULT_REGION][0]
    per_vcpu *= table["ec2_spot"] if platform == "SPOT" else 1.0
    return HourlyPrice(round(per_vcpu, 6), 0.0, table["currency"], f"{of}, EC2 approximated")


def parse_prices(raw: object, *, where: str, problems: list[str]) -> Prices | None:
    """The prices that an object says; None, and a problem, where it says none."""
    example = '{"vcpu_hour": 0.0125, "gb_hour": 0.0014}'
    if not isinstance(raw, Mapping):
        problems.append(
            f"{where}: expected an object like {example}, not {json.dumps(raw, default=str)[:80]}"
        )
        return None
    count = len(problems)
    problems += [
        f"{where}: {key!r} is unknown; it has 'vcpu_hour', 'gb_hour' and 'currency'"
        for key in raw
        if key not in ("vcpu_hour", "gb_hour", "currency")
    ]
    for name in ("vcpu_hour", "gb_hour"):
        price = raw.get(name)
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < 1e6:
            problems.append(f"{where}: '{name}': expected a price, a number from 0 on, as in {example}")
    currency = raw.get("currency", "USD")
    if not isinstance(currency, str) or not 1 <= len(currency) <= 8:
        problems.append(f"{where}: 'currency': expected a short name like \"EUR\"")
    if len(problems) > count:
        return None
    return Prices(float(raw["vcpu_hour"]), float(raw["gb_hour"]), str(currency))


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text())
    return table
