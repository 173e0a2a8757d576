"""The fuzz targets by name: seeds, what is checked, and how inputs are changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fuzz import bags, mcap_file, packed_file, ros1_file, sqlite_file, types
from tests.fuzz.mutation import Raw

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that are kept, in a folder for each target: what failed once, and what reaches much."""

Mutate = Callable[[bytes, bytes, random.Random, Raw], bytes]


@dataclass(frozen=True)
class Target:
    """
    Attributes:
        seeds: inputs to begin with, by name.
        check: raises for an input of which something does not hold.
        mutate: an input with one change; gets another input to take parts of.
    """

    seeds: Mapping[str, bytes]
    check: Callable[[bytes], None]
    mutate: Mutate

    def changed(self, data: bytes, most_bytes: int, rng: random.Random, raw: Raw) -> bytes:
        """An input for the fuzzer: a few changes of ``data``, or one of a seed, of which much is known."""
        others = list(self.seeds.values())
        if rng.random() < 0.2:
            return self.mutate(rng.choice(others), rng.choice(others), rng, raw)[:most_bytes]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = self.mutate(data, rng.choice(others), rng, raw)
        return data[:most_bytes]


def _of_bags(seeds: list[bags.Seed], mutate: Mutate) -> Target:
    return Target({seed.name: seed.data for seed in seeds}, partial(bags.check, seeds=seeds), mutate)


TARGETS: Mapping[str, Callable[[], Target]] = {
    "ros1": lambda: _of_bags(bags.ros1_seeds(), ros1_file.mutate),
    "mcap": lambda: _of_bags(bags.mcap_seeds(), mcap_file.mutate),
    "sqlite": lambda: _of_bags(bags.sqlite_seeds(), sqlite_file.mutate),
    "packed": lambda: _of_bags(bags.packed_seeds(), packed_file.mutate),
    "types": lambda: Target(types.seeds(), types.check, types.mutate),
}
