"""The fuzz targets without a fuzzer: their seeds, their corpus, and some hundred changes of the seeds."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import bags, mcap_file, ros1_file, sqlite_file
from tests.fuzz.mutation import plain
from tests.fuzz.targets import CORPUS, TARGETS
from tests.fuzz.types import join, split

CHANGES = 100
BAG_SEEDS = {
    "ros1": bags.ros1_seeds,
    "mcap": bags.mcap_seeds,
    "sqlite": bags.sqlite_seeds,
    "packed": bags.packed_seeds,
}


@pytest.mark.parametrize("name", BAG_SEEDS)
def test_seeds_are_whole_bags(name: str) -> None:
    seeds = BAG_SEEDS[name]()
    # Packed or not, a bag is extracted in the same way.
    variants = [each for each in bags.VARIANTS if name != "packed" or each != "extracted"]
    for seed in seeds:
        assert seed.before_damage(seed.data) == len(seed.messages)
        bags.check(seed.data, seeds, variants=variants)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_in_the_corpus(name: str) -> None:
    target = TARGETS[name]()
    for data in target.seeds.values():
        target.check(data)
    for path in sorted((CORPUS / name).iterdir()):
        target.check(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_changes_of_the_seeds(name: str) -> None:
    target = TARGETS[name]()
    rng = random.Random(name)
    inputs = list(target.seeds.values())
    for _ in range(CHANGES):
        data = target.changed(rng.choice(inputs), 1 << 16, rng, plain(rng))
        target.check(data)
        inputs.append(data)


def test_bags_put_together_again_are_the_same() -> None:
    for seed in bags.ros1_seeds():
        assert ros1_file.build(ros1_file.parse(seed.data)) == seed.data
    for seed in bags.mcap_seeds():
        if seed.name != "mcap-stream":  # its frames do not say how much is in them
            assert mcap_file.build(mcap_file.parse(seed.data)) == seed.data
    for data in TARGETS["types"]().seeds.values():
        assert join(split(data)) == data


def test_places_in_a_bag_are_moved_with_what_is_there() -> None:
    """So that a change at its beginning leaves an index that is right, and all of it is read."""
    for seed in (*bags.ros1_seeds(), *bags.mcap_seeds()):
        file = ros1_file if seed.name.startswith("ros1") else mcap_file
        parsed = file.parse(seed.data)
        # The header is there twice: nothing but the places of all that follows is changed.
        data = file.build(type(parsed)((parsed.records[0], *parsed.records), parsed.rest))
        found = bags._read(data)
        assert found is not None and len(found.messages) == len(seed.messages)


def test_what_lies_on_the_pages_of_a_database() -> None:
    """A page that nothing but rows is on costs these rows and those after them at most."""
    counts: set[int] = set()
    for seed in bags.sqlite_seeds():
        size = sqlite_file.page_size(seed.data)
        for start in range(0, len(seed.data), size):
            broken = seed.data[:start] + b"\xff" * size + seed.data[start + size :]
            counts.add(seed.before_damage(broken))
            bags.check(broken, [seed], variants=[])
    assert 0 in counts and len(counts) >= 5


def test_a_reader_that_loses_a_message_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (seed, *_) = bags.mcap_seeds()
    read = bags.read

    def forgetful(*args: object, **options: object) -> object:
        found = read(*args, **options)  # type: ignore[arg-type]
        del found.messages[2]
        return found

    monkeypatch.setattr(bags, "read", forgetful)
    with pytest.raises(AssertionError, match="of 12 messages before the damage 1 are not there"):
        bags.check(seed.data, [seed], variants=[])
