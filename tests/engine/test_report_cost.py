"""What a drive has cost, as its report says it: by its manifests and the prices in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ros_to_parquet import cli, contract
from ros_to_parquet.contract import BagResult, Manifest, Pricing
from ros_to_parquet.lake import DriveRecord, Lake
from ros_to_parquet.report.cost import Cost
from ros_to_parquet.report.drive import Drive, describe_drive
from ros_to_parquet.report.make import make_report
from tests.engine.sample_bags import write_bag

SPOT = Pricing("FARGATE_SPOT", "eu-west-1", "ARM64", "q", 2.0, 4.0, 0.01, 0.001, "USD", "AWS list", 60.0)
HOURLY = 0.024


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Manifest]:
    folder = tmp_path_factory.mktemp("priced")
    bags = [folder / "a.bag", folder / "b.mcap"]
    for bag in bags:
        write_bag(bag)
    words = ["extract", *map(str, bags), "--output", str(folder / "lake"), "--drive-id", "x"]
    assert cli.main(words) == 0
    lake = Lake(str(folder / "lake"))
    (manifest,) = lake.drive("x").manifests
    return lake, manifest


def described(*shards: Manifest) -> Drive:
    """Each of another number."""
    numbered = tuple(replace(shard, shard=number) for number, shard in enumerate(shards))
    return describe_drive(DriveRecord("x", (), numbered))


def found(*shards: Manifest) -> tuple[Drive, Cost]:
    drive = described(*shards)
    assert drive.cost is not None
    return drive, drive.cost


def sized(bag: BagResult, bytes_read: int) -> BagResult:
    return replace(bag, bytes_read=bytes_read)


def test_a_shard_costs_its_seconds_and_bags_and_topics_share_it(made: tuple[Lake, Manifest]) -> None:
    bags: Sequence[BagResult] = made[1].bags
    read = sized(bags[0], 300), sized(bags[1], 100)
    shard = replace(made[1], seconds=3600.0, pricing=SPOT, bags=read, bytes_read=400)
    drive, cost = found(shard, replace(shard, seconds=1.0))
    hour, minute = HOURLY, HOURLY / 60  # a minute at least
    assert [each.cost for each in drive.shards] == [pytest.approx(hour), pytest.approx(minute)]
    assert (cost.amount, cost.currency) == (pytest.approx(hour + minute), "USD")
    assert (cost.vcpu_seconds, cost.gb_seconds) == (2 * 3660, 4 * 3660)
    shares = {bag.name: bag.cost / cost.amount for bag in drive.bags}
    assert shares == {"a.bag": pytest.approx(0.75), "b.mcap": pytest.approx(0.25)}
    assert sum(topic.cost for topic in drive.topics) == pytest.approx(cost.amount)
    dearest = max(drive.topics, key=lambda topic: topic.cost)
    assert dearest.bytes_in == max(topic.bytes_in for topic in drive.topics)
    # Of shards that read nothing the bags have equal parts.
    idle, total = found(replace(shard, bags=(sized(bags[0], 0), sized(bags[1], 0)), bytes_read=0))
    assert idle.bags[0].cost == pytest.approx(total.amount / 2)


def test_shards_without_a_price_or_of_another_currency_are_counted(made: tuple[Lake, Manifest]) -> None:
    priced = replace(made[1], pricing=SPOT)
    assert described(made[1]).cost is None
    assert described().cost is None
    euros = replace(priced, pricing=replace(SPOT, currency="EUR"))
    drive, cost = found(made[1], priced, priced, euros)
    assert (cost.unpriced, cost.currency, cost.pricings) == (2, "USD", (SPOT,))
    assert [each.cost is None for each in drive.shards] == [True, False, False, True]


def test_the_page_says_it_where_it_is_known(made: tuple[Lake, Manifest]) -> None:
    lake, manifest = made
    _, page = make_report(lake, "x")
    assert 'id="cost"' not in page
    assert "cost</th>" not in page
    key = contract.manifest_key("x", manifest.plan_id, manifest.shard)
    path = Path(lake.uri.removeprefix("file://")) / key
    before = path.read_bytes()
    try:
        path.write_bytes(contract.to_json(replace(manifest, seconds=3600.0, pricing=SPOT)))
        _, page = make_report(lake, "x")
    finally:
        path.write_bytes(before)
    assert page.count("cost</th>") == 3  # topics, bags, shards
    section = page[page.index('id="cost"') :]
    assert "0.024 USD" in section
    assert "FARGATE_SPOT ARM64" in section
    amounts = re.findall(r"([\d.]+) USD</td></tr>", page[page.index('id="topics"') : page.index('id="bags"')])
    assert sum(map(float, amounts)) == pytest.approx(HOURLY, rel=0.1)


def test_manifests_of_earlier_versions_have_no_price(made: tuple[Lake, Manifest]) -> None:
    text = contract.to_json(made[1]).replace(b'"pricing":null,', b"")
    assert contract.from_json(Manifest, text, where="here") == made[1]
    with_price = replace(made[1], pricing=SPOT)
    assert contract.from_json(Manifest, contract.to_json(with_price), where="here") == with_price
