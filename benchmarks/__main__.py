"""Speed, CPU and memory of the engine beside its peers and its limits, in one run.

    .venv/bin/python -m benchmarks [--quick] [--only SECTION ...] [--markdown | --json FILE]

Two generated bags stand for the field: ``telemetry`` (Imu, Odometry, TF, LaserScan, diagnostics, GPS) and
``sensor`` (JPEG cameras, a raw image, a lidar, a little telemetry), each as ROS 1 lz4 and as MCAP zstd. Every
measurement is a process of its own, start-up included; the contenders take turns, and figures are medians.
docs/benchmarks.md says how each section is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import growth, limits, peers, s3, startup
from benchmarks.cache import Bag, cached_bag
from benchmarks.report import Report, Table, as_json, as_markdown, readme_table, tables, target_table

BAGS = tuple((kind, suffix) for kind in ("telemetry", "sensor") for suffix in (".bag", ".mcap"))
SECTIONS = ("peers", "limit", "parquet", "growth", "startup", "s3")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: ``scale`` 1.0 is 229,200 messages of telemetry and 815 MB of sensor data."""

    scale: float
    repeat: int
    growth_messages: int


FULL = Size(scale=1.0, repeat=3, growth_messages=500_000)
QUICK = Size(scale=0.1, repeat=1, growth_messages=50_000)


def main() -> None:
    arguments = _parse()
    if arguments.load:
        _measure_load(arguments)
        return
    size = QUICK if arguments.quick else FULL
    size = Size(
        arguments.scale or size.scale,
        arguments.repeat or size.repeat,
        size.growth_messages,
    )
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=arguments.scratch) as folder:
        report = measure_all(size, frozenset(arguments.only), Path(folder))
    if arguments.json:
        arguments.json.write_text(f"{json.dumps(as_json(report), indent=1)}\n")
    found = [*tables(report), target_table(report)]
    if arguments.markdown:
        print(f"{describe(report.machine)}\n")
        if report.comparisons:
            print(f"{readme_table(report)}\n")
        print("\n\n".join(as_markdown(table) for table in found))
    else:
        _print(describe(report.machine), found)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the size, one round: under two minutes"
    )
    parser.add_argument("--load", action="store_true", help="instead of all that: 1,000 drives in Airflow")
    parser.add_argument("--scale", type=float, help="of both bags; 1.0 is the full size")
    parser.add_argument("--repeat", type=int, metavar="N", help="medians of this many rounds")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="some sections")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, the README's table first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where outputs go (default: TMPDIR)")
    return parser.parse_args()


def _measure_load(arguments: argparse.Namespace) -> None:
    """The provider's figures: `load`."""
    from benchmarks import load

    asked = load.Load(drives=100, big=1000) if arguments.quick else load.Load()
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=arguments.scratch) as folder:
        steps = load.measure_all(asked, Path(folder), _say)
    if arguments.json:
        arguments.json.write_text(f"{json.dumps([asdict(step) for step in steps], indent=1)}\n")
    found = load.tables(asked, steps)
    if arguments.markdown:
        print("\n\n".join(as_markdown(table) for table in found))
    else:
        _print("", found)


def measure_all(size: Size, sections: frozenset[str], scratch: Path) -> Report:
    """The sections, one after another; says on stderr where it is."""
    report = Report(_machine(size))
    if "peers" in sections:
        _install_peers()
        for kind, suffix in BAGS:
            bag = _bag(kind, suffix, size)
            _say(f"peers on {bag.name}")
            report.comparisons[bag.name] = peers.compare(bag, repeat=size.repeat, scratch=scratch)
            report.bags[bag.name] = {"messages": bag.messages, "bytes": bag.size_bytes}
    if sections & {"limit", "parquet"}:
        for kind, suffix in BAGS:
            bag = _bag(kind, suffix, size)
            _say(f"limits on {bag.name}")
            with limits.recorded(bag, scratch) as kept:
                if "limit" in sections:
                    report.limits.append(limits.undecoded(bag, kept, repeat=size.repeat, scratch=scratch))
                if "parquet" in sections and suffix == ".mcap":
                    report.encodings.append(limits.encoding(bag, kept, repeat=size.repeat, scratch=scratch))
    if "growth" in sections:
        _say("growth")
        report.steps = growth.grow(size.growth_messages, repeat=size.repeat, scratch=scratch)
    if "startup" in sections:
        _say("start-up")
        bag = _bag("telemetry", ".mcap", size)
        report.first_byte_s = startup.first_read_s(bag, repeat=max(3, size.repeat), scratch=scratch)
    if "s3" in sections:
        with s3.serving(scratch) as server:
            for kind in ("telemetry", "sensor"):
                bag = _bag(kind, ".mcap", size)
                _say(f"S3, {bag.name}")
                report.from_s3.append(s3.from_s3(bag, server, repeat=size.repeat, scratch=scratch))
    return report


def _bag(kind: str, suffix: str, size: Size) -> Bag:
    return cached_bag(kind, suffix, size.scale)


def _install_peers() -> None:
    try:
        peers.install()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        _say(f"peers could not be installed, and show so: {error}")


def _say(what: str) -> None:
    print(f"[benchmarks] {what}", file=sys.stderr, flush=True)


def _machine(size: Size) -> dict[str, Any]:
    said = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in said.splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else platform.processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.system(),
        "python": platform.python_version(),
        "scale": size.scale,
        "rounds": size.repeat,
    }


def describe(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}; scale {machine['scale']:g}, medians of {machine['rounds']} rounds"
    )


def _print(head: str, found: list[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(head, highlight=False)
    for table in found:
        shown = RichTable(title=table.title, title_justify="left", caption=table.note or None)
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if number == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


if __name__ == "__main__":
    main()
