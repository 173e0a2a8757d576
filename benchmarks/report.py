"""What was measured as tables: for a terminal, as Markdown, as JSON; and beside what is aimed at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.growth import Step
from benchmarks.limits import Encoding, Limit
from benchmarks.peers import GREPROS, NAIVE, OURS, REFERENCE, RERUN, ROBOTO, Result
from benchmarks.s3 import FromS3

PEAK_MIB = 700
STARTUP_S = 0.8


@dataclass(slots=True)
class Report:
    """Everything that one run of the benchmarks found, section by section."""

    machine: dict[str, Any]
    comparisons: dict[str, list[Result]] = field(default_factory=dict)
    bags: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: list[Limit] = field(default_factory=list)
    encodings: list[Encoding] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    first_byte_s: float | None = None
    from_s3: list[FromS3] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """``found`` and ``wanted`` as text; ``met`` whether it is."""

    name: str
    found: str
    wanted: str
    met: bool


def tables(report: Report) -> Iterator[Table]:
    """All sections that were measured."""
    for name, results in report.comparisons.items():
        yield _comparison(name, report.bags[name], results)
    if report.limits:
        yield Table(
            "The limit: reading, decompressing and writing the same tables with no decoding",
            ("bag", "ours wall s", "limit wall s", "ours CPU s", "limit CPU s", "speed of the limit's"),
            [
                (
                    each.bag.name,
                    f"{each.ours.wall_s:.2f}",
                    f"{each.undecoded.wall_s:.2f}",
                    f"{each.ours.cpu_s:.2f}",
                    f"{each.undecoded.cpu_s:.2f}",
                    f"{each.reached:.0%}",
                )
                for each in report.limits
            ],
        )
    if report.encodings:
        yield Table(
            "Writing the same tables as Parquet, one thread: our encodings and pyarrow's defaults with zstd",
            ("bag", "ours CPU s", "defaults CPU s", "ours MB", "defaults MB"),
            [
                (
                    each.bag.name,
                    f"{each.ours_cpu_s:.2f}",
                    f"{each.defaults_cpu_s:.2f}",
                    f"{each.ours_bytes / 1e6:.1f}",
                    f"{each.defaults_bytes / 1e6:.1f}",
                )
                for each in report.encodings
            ],
        )
    if report.steps:
        yield Table(
            "Growth: CPU beyond start-up",
            ("series", "value", "messages", "MB", "wall s", "CPU s", "CPU µs a message", "CPU ms a MB",
             "grown", "input grown", ""),
            [_step(each) for each in report.steps],
        )  # fmt: skip
    if report.first_byte_s is not None:
        rows = [("on disk", f"{report.first_byte_s:.2f}")]
        rows += [(f"S3, {each.bag.name}", f"{each.first_byte_s:.2f}") for each in report.from_s3]
        yield Table("Start-up: from the process' start to the first byte of the bag", ("bag", "s"), rows)
    if report.from_s3:
        yield Table(
            "From S3 to S3, the server on the same cores; beside boto3's download of the bag, to nowhere",
            ("bag", "MB", "wall s", "CPU s", "peak MB", "MB/s", "download MB/s", "GETs of the bag",
             "GETs of it a GB", "requests in all"),
            [_s3(each) for each in report.from_s3],
        )  # fmt: skip


def _comparison(name: str, bag: dict[str, Any], results: Sequence[Result]) -> Table:
    ours = _wall(results, OURS)
    rows = []
    partly = False
    for result in results:
        tool, measured = result.contender.name, result.measured
        if result.contender.share < 1:
            tool += " *"
            partly = partly or measured is not None
        if measured is None:
            rows.append((tool, result.error, *[""] * 7))
            continue
        lost = bag["messages"] - result.rows if result.rows is not None else 0
        rows.append(
            (
                tool,
                f"{measured.wall_s:.2f}",
                f"{measured.cpu_s:.2f}",
                f"{measured.peak_bytes / 1e6:.0f}",
                f"{bag['bytes'] / 1e6 / measured.wall_s:.0f}",
                f"{bag['messages'] / measured.wall_s:,.0f}",
                f"{measured.wall_s / ours:.1f}x" if ours else "",
                f"{measured.output_bytes / 1e6:.0f}" if measured.output_bytes else "",
                result.contender.keeps + (f"; {lost:,} rows missing" if lost else ""),
            )
        )
    return Table(
        f"{name}: {bag['messages']:,} messages, {bag['bytes'] / 1e6:.0f} MB",
        (
            "tool",
            "wall s",
            "CPU s",
            "peak MB",
            "MB/s",
            "messages/s",
            "to ours",
            "output MB",
            "keeps everything?",
        ),
        rows,
        "* a tenth of the bag was run and the rest reckoned linearly; the peak is of that tenth"
        if partly
        else "",
    )


def _wall(results: Sequence[Result], name: str) -> float | None:
    return next(
        (each.measured.wall_s for each in results if each.contender.name == name and each.measured), None
    )


def _step(step: Step) -> tuple[str, ...]:
    before = step.grown_from
    return (
        step.series,
        f"{step.value:,}",
        f"{step.bag.messages:,}",
        f"{step.bag.size_bytes / 1e6:.1f}",
        f"{step.measured.wall_s:.2f}",
        f"{step.measured.cpu_s:.2f}",
        f"{step.cost_s / step.bag.messages * 1e6:.1f}",
        f"{step.cost_s * 1e9 / step.bag.size_bytes:.0f}",
        "" if step.growth is None else f"{step.growth:.2f}x",
        "" if before is None else f"{step.value / before.value:.2f}x",
        "MORE THAN LINEAR" if step.more_than_linear else "",
    )


def _s3(each: FromS3) -> tuple[str, ...]:
    megabytes = each.bag.size_bytes / 1e6
    return (
        each.bag.name,
        f"{megabytes:.0f}",
        f"{each.ours.wall_s:.2f}",
        f"{each.ours.cpu_s:.2f}",
        f"{each.ours.peak_bytes / 1e6:.0f}",
        f"{megabytes / each.ours.wall_s:.0f}",
        f"{megabytes / each.download.wall_s:.0f}",
        f"{each.bag_requests}",
        f"{each.bag_requests / megabytes * 1e3:.0f}",
        ", ".join(f"{count} {method}" for method, count in sorted(each.requests.items())),
    )


def targets(report: Report) -> Iterator[Target]:
    """What is aimed at, of what was measured."""
    for name, results in report.comparisons.items():
        yield from _comparison_targets(name, results)
    for limit in report.limits:
        yield Target(
            f"{limit.bag.name}: speed of the no-decode limit's",
            f"{limit.reached:.0%}",
            "75%",
            limit.reached >= 0.75,
        )
    for each in report.encodings:
        if each.bag.kind == "telemetry":
            size, cpu = each.ours_bytes / each.defaults_bytes, each.ours_cpu_s / each.defaults_cpu_s
            yield Target(
                f"{each.bag.name}: Parquet's size to pyarrow's defaults", f"{size:.2f}", "1.00", size <= 1
            )
            yield Target(f"{each.bag.name}: its CPU to theirs", f"{cpu:.2f}", "1.00", cpu <= 1)
    if report.steps:
        flagged = [f"{step.series} {step.value:,}" for step in report.steps if step.more_than_linear]
        yield Target("cost grows linearly", ", ".join(flagged) or "yes", "yes", not flagged)
    starts = {} if report.first_byte_s is None else {"on disk": report.first_byte_s}
    starts |= {f"S3, {each.bag.name}": each.first_byte_s for each in report.from_s3}
    for where, seconds in starts.items():
        yield Target(f"start-up, {where}", f"{seconds:.2f} s", f"{STARTUP_S} s", seconds < STARTUP_S)


_WANTED = {
    "telemetry": {NAIVE: 15.0, ROBOTO: 6.0, GREPROS: 100.0, REFERENCE: 100.0, RERUN: 1.0},
    "sensor": {RERUN: 1.8},
}


def _comparison_targets(name: str, results: Sequence[Result]) -> Iterator[Target]:
    kind = name.partition(".")[0]
    mine = next((each.measured for each in results if each.contender.name == OURS), None)
    if mine is None:
        yield Target(f"{name}: runs", "no", "yes", False)
        return
    for peer, wanted in _WANTED[kind].items():
        wall_s = _wall(results, peer)
        if wall_s is not None:
            ratio = wall_s / mine.wall_s
            yield Target(f"{name}: faster than {peer}", f"{ratio:.1f}x", f"{wanted:g}x", ratio >= wanted)
    others = [
        (each.measured.wall_s, each.contender.name)
        for each in results
        if each.contender.whole and each.contender.name != OURS and each.measured is not None
    ]
    if kind == "sensor" and others:
        wall_s, peer = min(others)
        ratio = wall_s / mine.wall_s
        yield Target(
            f"{name}: faster than the next that keeps all ({peer})", f"{ratio:.1f}x", "2x", ratio >= 2
        )
    peak_mib = mine.peak_bytes / (1 << 20)
    yield Target(f"{name}: peak memory", f"{peak_mib:.0f} MiB", f"{PEAK_MIB} MiB", peak_mib < PEAK_MIB)


def target_table(report: Report) -> Table:
    rows = [(each.name, each.found, each.wanted, "met" if each.met else "MISSED") for each in targets(report)]
    scale = report.machine["scale"]
    smaller = "" if scale >= 1 else f" of the full size; at {scale:g} of it start-up counts for more"
    return Table(f"Aims{smaller}", ("aim", "found", "wanted", ""), rows)


def as_markdown(table: Table) -> str:
    lines = [f"| {' | '.join(row)} |" for row in [table.columns, ("---",) * len(table.columns), *table.rows]]
    return "\n".join([f"**{table.title}**", "", *lines, *([f"\n{table.note}"] if table.note else [])])


_README_PEERS = (RERUN, ROBOTO, NAIVE, GREPROS, REFERENCE)


def readme_table(report: Report) -> str:
    """The README's: a row a bag, ours and how much longer each peer takes."""
    columns = ("bag", "MB", "messages", "wall", "MB/s", "peak memory", *_README_PEERS)
    rows = []
    for name, results in report.comparisons.items():
        bag = report.bags[name]
        by_name = {each.contender.name: each for each in results}
        mine = by_name[OURS].measured
        if mine is None:
            continue
        ratios = [
            "" if (found := by_name.get(peer)) is None or found.measured is None
            else f"{found.measured.wall_s / mine.wall_s:.1f}x"
            for peer in _README_PEERS
        ]  # fmt: skip
        rows.append(
            (
                name,
                f"{bag['bytes'] / 1e6:.0f}",
                f"{bag['messages']:,}",
                f"{mine.wall_s:.2f} s",
                f"{bag['bytes'] / 1e6 / mine.wall_s:.0f}",
                f"{mine.peak_bytes / 1e6:.0f} MB",
                *ratios,
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ("---",) * len(columns), *rows])


def as_json(report: Report) -> dict[str, Any]:
    """All figures, and the aims."""
    return {
        "machine": report.machine,
        "bags": report.bags,
        "comparisons": {
            name: [
                {
                    "tool": each.contender.name,
                    "keeps": each.contender.keeps,
                    "share_run": each.contender.share,
                    "rows": each.rows,
                    "error": each.error,
                    "measured": None if each.measured is None else _plain(each.measured),
                }
                for each in results
            ]
            for name, results in report.comparisons.items()
        },
        "limits": [
            {"bag": each.bag.name, "ours": _plain(each.ours), "undecoded": _plain(each.undecoded)}
            for each in report.limits
        ],
        "encodings": [_without_bag(each) for each in report.encodings],
        "growth": [
            {
                "series": each.series,
                "value": each.value,
                "messages": each.bag.messages,
                "bytes": each.bag.size_bytes,
                "measured": _plain(each.measured),
                "cost_s": each.cost_s,
                "growth": each.growth,
                "more_than_linear": each.more_than_linear,
            }
            for each in report.steps
        ],
        "first_byte_s": report.first_byte_s,
        "s3": [
            {
                "bag": each.bag.name,
                "bytes": each.bag.size_bytes,
                "ours": _plain(each.ours),
                "download": _plain(each.download),
                "requests": dict(each.requests),
                "bag_requests": each.bag_requests,
                "first_byte_s": each.first_byte_s,
            }
            for each in report.from_s3
        ],
        "aims": [asdict(each) for each in targets(report)],
    }


def _plain(measured: Any) -> dict[str, Any]:
    """Without what the process said."""
    return {key: value for key, value in asdict(measured).items() if key != "said"}


def _without_bag(each: Encoding) -> dict[str, Any]:
    return {key: value for key, value in asdict(each).items() if key != "bag"} | {"bag": each.bag.name}
