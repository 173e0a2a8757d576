"""Small bags of every format, damaged at one byte: from bag to lake nothing is lost that is not said."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ros_to_parquet.contract import BagStatus
from tests.engine.hostile import EVERY_WAY, SAMPLES, How, extract, found_in, sweep

SAMPLED = 10
"""Places of a bag that every run tries in every way; ``make test-long`` tries all."""


@pytest.mark.parametrize("name", SAMPLES)
def test_bags_that_are_whole(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name](tmp_path)
    bag = tmp_path / "bags" / f"a{sample.ending}"
    bag.parent.mkdir()
    bag.write_bytes(sample.data)
    (found,) = found_in(extract(bag.parent, tmp_path / "lake"), tmp_path / "lake").values()
    assert dict(found.rows) == dict.fromkeys(sample.rows, 1)
    assert found.result.status is (BagStatus.DAMAGED if "no index" in name else BagStatus.OK)


@pytest.mark.parametrize("name", SAMPLES)
def test_damage_at_some_bytes(name: str, tmp_path: Path) -> None:
    size = len(SAMPLES[name](tmp_path).data)
    for how in EVERY_WAY:
        places = sorted(random.Random(f"{name} {how}").sample(range(size), SAMPLED))
        tally = sweep(name, how, places, tmp_path)
        assert tally.wrong == []
        assert tally.tried == SAMPLED


@pytest.mark.long
@pytest.mark.parametrize("how", EVERY_WAY)
@pytest.mark.parametrize("name", SAMPLES)
def test_damage_at_every_byte(name: str, how: How, tmp_path: Path) -> None:
    size = len(SAMPLES[name](tmp_path).data)
    tally = sweep(name, how, range(size), tmp_path)
    print(f"{name}, {how}: {tally}")
    assert tally.wrong == []
    assert tally.tried == size
