"""The engine and its peers on one bag, taking turns."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.cache import Bag, cached_bag
from benchmarks.measure import ROOT, Measurement, ProcessError

PEERS = ROOT / ".local" / "benchmarks-peers"
OURS = "ros-to-parquet"
NAIVE = "rosbags + pyarrow"
ROBOTO = "roboto (Rust) + pyarrow"
RERUN = "Rerun mcap convert (Rust)"
GREPROS = "grepros, Parquet sink"
REFERENCE = "bagpy, CSV, fastparquet"

ROUND_BUDGET_S = 20.0
"""A contender that has taken longer in all is not run again."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do it.

    Attributes:
        argv: with ``{bag}`` and ``{out}``, a folder.
        formats: what it says it reads.
        keeps: of the messages, in words; beside the rows, which are counted.
        whole: whether that is everything, as Parquet.
        share: of the bag that is run; the rest is reckoned linearly.
        parquet: whether it writes any.
    """

    name: str
    argv: list[str]
    keeps: str
    whole: bool = False
    formats: tuple[str, ...] = (".bag", ".mcap")
    share: float = 1.0
    parquet: bool = True
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """Of a contender on a bag; ``error`` says why there is no ``measured``."""

    contender: Contender
    measured: Measurement | None
    rows: int | None = None
    error: str = ""


def contenders() -> list[Contender]:
    python = str(PEERS / "bin" / "python")

    def script(name: str, *arguments: str) -> list[str]:
        return [python, "-m", f"benchmarks.peer_scripts.{name}", *(arguments or ("{bag}", "{out}"))]

    (rerun,) = list(PEERS.glob("lib/python*/site-packages/rerun_cli/rerun")) or [PEERS / "bin" / "rerun"]
    return [
        Contender(OURS, measure.extract("{bag}", "{out}"), "yes", whole=True),
        Contender(
            RERUN,
            [str(rerun), "mcap", "convert", "{bag}", "-o", "{out}/drive.rrd"],
            "as .rrd, a viewer's format",
            formats=(".mcap",),
            parquet=False,
            environment=_rerun_environment(),
        ),
        Contender(ROBOTO, script("roboto_arrow"), "yes", whole=True, formats=(".mcap",)),
        Contender(
            NAIVE,
            measure.module("benchmarks.peer_scripts.rosbags_pyarrow", "{bag}", "{out}"),
            "yes",
            whole=True,
        ),
        Contender("rosbags-dataframe", script("dataframe"), "nested arrays fail"),
        Contender(
            "mcap-ros2-support",
            script("mcap_ros2", "{bag}"),
            "decoded, not written",
            formats=(".mcap",),
            share=0.1,
            parquet=False,
        ),
        Contender(GREPROS, script("grepros_parquet"), "nested arrays as text", share=0.1),
        Contender(
            REFERENCE,
            script("reference_method"),
            "arrays as columns or text",
            formats=(".bag",),
            share=0.1,
            environment=(("MPLBACKEND", "Agg"),),
        ),
    ]


def _rerun_environment() -> tuple[tuple[str, str], ...]:
    """Its settings lie with it, where `install` turns its usage reports off, and not in the user's home."""
    return tuple((name, str(PEERS / "rerun")) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"))


def install() -> None:
    """Makes the peers' environment from ``peers.txt``, once for each content of it.

    Raises:
        subprocess.CalledProcessError: it cannot be had; the peers then show as not installed.
    """
    lock = Path(__file__).with_name("peers.txt")
    stamp = PEERS / ".stamp"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return
    print(f"[benchmarks] making {PEERS.relative_to(ROOT)} (1 GB)", file=sys.stderr, flush=True)
    subprocess.run([ROOT / "scripts" / "benchmark-peers", PEERS, lock], check=True, cwd=ROOT)
    rerun = next(item for item in contenders() if item.name == RERUN)
    subprocess.run(
        [rerun.argv[0], "analytics", "disable"],
        check=True,
        env=os.environ | dict(rerun.environment),
        stdout=subprocess.DEVNULL,
    )
    stamp.write_text(lock.read_text())


def compare(bag: Bag, *, repeat: int, scratch: Path, chosen: Sequence[str] = ()) -> list[Result]:
    """Every contender on ``bag``; medians of ``repeat`` rounds in which they take turns."""
    runs: dict[str, list[Measurement]] = {}
    failed: dict[str, Result] = {}
    rows: dict[str, int] = {}
    entered = [item for item in contenders() if not chosen or item.name in chosen]
    for item in entered:
        if bag.path.suffix not in item.formats:
            failed[item.name] = Result(item, None, error=f"does not read {bag.path.suffix}")
    for _ in range(repeat):
        for item in entered:
            done = runs.setdefault(item.name, [])
            if item.name in failed or (done and sum(each.wall_s for each in done) > ROUND_BUDGET_S):
                continue
            if item.share < 1 and done:
                continue
            try:
                measured, found = _measure(item, bag, scratch, count_rows=not done)
            except ProcessError as error:
                failed[item.name] = Result(item, None, error=str(error))
                continue
            done.append(measured)
            if found is not None:
                rows[item.name] = found
    return [
        failed.get(item.name) or Result(item, measure.median(runs[item.name]), rows=rows.get(item.name))
        for item in entered
    ]


def _measure(item: Contender, bag: Bag, scratch: Path, *, count_rows: bool) -> tuple[Measurement, int | None]:
    if item.share == 1:
        return _run_once(item, bag, scratch, count_rows=count_rows)
    share = item.share
    part, smaller = (cached_bag(bag.kind, bag.path.suffix, bag.scale * each) for each in (share, share / 5))
    few, _ = _run_once(item, smaller, scratch, count_rows=False)
    many, rows = _run_once(item, part, scratch, count_rows=count_rows)
    rest = (bag.messages - part.messages) / (part.messages - smaller.messages)
    return dataclasses.replace(
        many,
        wall_s=many.wall_s + max(0.0, many.wall_s - few.wall_s) * rest,
        cpu_s=many.cpu_s + max(0.0, many.cpu_s - few.cpu_s) * rest,
        output_bytes=round(many.output_bytes / share),
    ), None if rows is None else round(rows * bag.messages / part.messages)


def _run_once(
    item: Contender, bag: Bag, scratch: Path, *, count_rows: bool
) -> tuple[Measurement, int | None]:
    with measure.folder(scratch) as out:
        argv = [word.format(bag=bag.path, out=out) for word in item.argv]
        measured = measure.run(argv, scratch, extra=dict(item.environment))
        if not item.parquet:
            return dataclasses.replace(measured, output_bytes=measure.bytes_below(out)), None
        measured = dataclasses.replace(measured, output_bytes=measure.bytes_below(out, "*.parquet"))
        if not count_rows:
            return measured, None
        return measured, int(measure.run(measure.module("benchmarks.rows", str(out)), scratch).said)
