"""Generated bags, made once and kept in ``.local/benchmarks``, each by a process of its own."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import ROOT

CACHE = ROOT / ".local" / "benchmarks"


@dataclass(frozen=True, slots=True)
class Bag:
    """``scale`` is 1.0 for the sizes that the issue of speed is about; see ``bags.py``."""

    path: Path
    kind: str
    scale: float
    messages: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.path.suffix}"

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


def cached_bag(kind: str, suffix: str, scale: float) -> Bag:
    """The bag ``telemetry`` or ``sensor``, as ``.bag`` (lz4) or ``.mcap`` (zstd)."""
    path, messages = _cached(
        "benchmarks.bags", f"{kind}-{scale:g}", suffix, lambda path: [str(path), kind, str(scale)]
    )
    return Bag(path, kind, scale, messages)


def cached_series(*, messages: int, topics: int, nesting: int) -> Bag:
    """An MCAP file of the series that show how cost grows; see ``series_bags.py``."""
    numbers = [messages, topics, nesting]
    name = "series-" + "-".join(map(str, numbers))
    path, made = _cached(
        "benchmarks.series_bags", name, ".mcap", lambda path: [str(path), *map(str, numbers)]
    )
    return Bag(path, "series", 1.0, made)


def _cached(maker: str, name: str, suffix: str, arguments: Callable[[Path], list[str]]) -> tuple[Path, int]:
    """The file and its messages. A maker that changed makes it anew."""
    source = (ROOT / Path(*maker.split("."))).with_suffix(".py").read_bytes()
    folder = CACHE / hashlib.sha256(source).hexdigest()[:8]
    path, count = folder / f"{name}{suffix}", folder / f"{name}{suffix}.messages"
    if not count.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as making:
            target = Path(making) / path.name
            made = subprocess.run(
                measure.module(maker, *arguments(target)),
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=measure.environment(),
            )
            target.replace(path)
        count.write_text(made.stdout)
    return path, int(count.read_text())
