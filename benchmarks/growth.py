"""How cost grows with messages, topics and nesting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.cache import Bag, cached_series
from benchmarks.measure import Measurement

TOLERANCE = 1.25
"""Cost may grow by as much more than what it is a cost of, before it is called more than linear."""

NOISE_S = 0.05
"""CPU-seconds that say nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """One bag of a series. ``cost_s`` is CPU beyond that of a bag of one message, which is start-up."""

    series: str
    value: int
    bag: Bag
    measured: Measurement
    cost_s: float
    grown_from: Step | None

    @property
    def growth(self) -> float | None:
        """Of the cost, from the step before."""
        if self.grown_from is None or self.grown_from.cost_s < NOISE_S:
            return None
        return self.cost_s / self.grown_from.cost_s

    @property
    def more_than_linear(self) -> bool:
        if self.grown_from is None or self.growth is None:
            return False
        return self.growth > TOLERANCE * self.value / self.grown_from.value


def series(messages: int) -> dict[str, list[tuple[int, dict[str, int]]]]:
    """What is varied, its values, and the bags' numbers. ``messages`` is the most of the first series."""
    rest = messages // 5
    return {
        "messages": [
            (count, {"messages": count, "topics": 1, "nesting": 1})
            for count in (messages // 100, messages // 10, messages)
        ],
        "topics": [
            (count, {"messages": rest, "topics": count, "nesting": 1}) for count in (1, 10, 100, 500, 2000)
        ],
        "nesting": [(depth, {"messages": rest, "topics": 1, "nesting": depth}) for depth in (1, 2, 3, 4)],
    }


def grow(messages: int, *, repeat: int, scratch: Path) -> list[Step]:
    """All series; within each, bags take turns."""
    empty = cached_series(messages=1, topics=1, nesting=1)
    steps: list[Step] = []
    for name, entries in series(messages).items():
        bags = [empty] + [cached_series(**numbers) for _, numbers in entries]
        start, *medians = _measure(bags, repeat=repeat, scratch=scratch)
        before = None
        for (value, _), bag, measured in zip(entries, bags[1:], medians, strict=True):
            before = Step(name, value, bag, measured, max(0.0, measured.cpu_s - start.cpu_s), before)
            steps.append(before)
    return steps


def _measure(bags: Sequence[Bag], *, repeat: int, scratch: Path) -> list[Measurement]:
    runs: list[list[Measurement]] = [[] for _ in bags]
    for _ in range(repeat):
        for bag, done in zip(bags, runs, strict=True):
            with measure.folder(scratch) as out:
                done.append(measure.run(measure.extract(bag.path, out), scratch))
    return [measure.median(done) for done in runs]
