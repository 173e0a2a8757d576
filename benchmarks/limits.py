"""The engine beside its own limits: with no decoding, and with the Parquet that pyarrow writes by default."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.cache import Bag
from benchmarks.measure import Measurement

_TABLES = "benchmarks.tables"


@dataclass(frozen=True, slots=True)
class Limit:
    """``undecoded``: reading, decompressing and writing alone. The wall times are of whole processes."""

    bag: Bag
    ours: Measurement
    undecoded: Measurement

    @property
    def reached(self) -> float:
        """The share of the limit's speed that the engine has; 1.0 would be decoding for nothing."""
        return self.undecoded.wall_s / self.ours.wall_s


@dataclass(frozen=True, slots=True)
class Encoding:
    """CPU-seconds of writing the same tables as Parquet in one thread, and bytes of it."""

    bag: Bag
    ours_cpu_s: float
    ours_bytes: int
    defaults_cpu_s: float
    defaults_bytes: int


@contextmanager
def recorded(bag: Bag, scratch: Path) -> Iterator[Path]:
    """A folder with the engine's tables of ``bag``."""
    with measure.folder(scratch) as folder:
        measure.run(measure.module(_TABLES, "record", str(bag.path), str(folder)), scratch)
        yield folder


def undecoded(bag: Bag, tables: Path, *, repeat: int, scratch: Path) -> Limit:
    """The engine and its limit, taking turns."""
    ours, limit = [], []
    for _ in range(repeat):
        with measure.folder(scratch) as out:
            ours.append(measure.run(measure.extract(bag.path, out), scratch))
        with measure.folder(scratch) as out:
            replay = measure.module(_TABLES, "replay", str(bag.path), str(tables), str(out))
            limit.append(measure.run(replay, scratch))
    return Limit(bag, measure.median(ours), measure.median(limit))


def encoding(bag: Bag, tables: Path, *, repeat: int, scratch: Path) -> Encoding:
    """The engine's way of writing and pyarrow's defaults with zstd, taking turns."""
    cpu_s: dict[str, list[float]] = {"ours": [], "defaults": []}
    size_bytes: dict[str, int] = {}
    for _ in range(repeat):
        for how, spent in cpu_s.items():
            with measure.folder(scratch) as out:
                done = measure.run(measure.module(_TABLES, "write", how, str(tables), str(out)), scratch)
            said = json.loads(done.said)
            spent.append(said["cpu_s"])
            size_bytes[how] = said["bytes"]
    return Encoding(
        bag,
        statistics.median(cpu_s["ours"]),
        size_bytes["ours"],
        statistics.median(cpu_s["defaults"]),
        size_bytes["defaults"],
    )
