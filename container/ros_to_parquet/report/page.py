"""The report's page: HTML that asks nobody for anything."""

from __future__ import annotations

import base64
import html
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ros_to_parquet import __version__
from ros_to_parquet.contract import BagStatus, DriveQuality, DriveState, QualityLevel
from ros_to_parquet.report import plots
from ros_to_parquet.report.clouds import CloudView
from ros_to_parquet.report.cost import Cost
from ros_to_parquet.report.cost import shown as shown_cost
from ros_to_parquet.report.drive import Drive, Shard, Topic
from ros_to_parquet.report.frame_tree import FrameTree
from ros_to_parquet.report.frames import FRAMES_A_CAMERA, Camera, ContactSheet
from ros_to_parquet.report.rates import Rate, longest_gaps
from ros_to_parquet.report.series import Group, Series
from ros_to_parquet.report.tables import spread
from ros_to_parquet.report.time_axis import TimeAxis
from ros_to_parquet.report.track import Track
from ros_to_parquet.text import shown

T = TypeVar("T")

MOST_ROWS = 300
"""Of each table; the manifests have all."""

MOST_STRIPS = 120

MOST_PLOTS = 60

STILL_M = 0.01
"""A track that never leaves so small a place is none."""

MOST_DAMAGE_SHOWN = 3
"""Of a bag."""

MOST_GAPS_SHOWN = 5

MOST_TEXT = 1_000
"""Characters of a cell or a line: names are their authors' own."""

MOST_BYTES = 4_900_000
"""Of the page: of a drive that has more to show, less is shown."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser lets the page fetch: nothing."""

_STATES = {
    DriveState.SUCCEEDED: ("good", "succeeded"),
    DriveState.SUCCEEDED_WITH_REJECTS: ("fair", "succeeded, with rejects"),
    DriveState.DAMAGED: ("fair", "damaged"),
    DriveState.PARTIAL: ("bad", "partial"),
    DriveState.FAILED: ("bad", "failed"),
    None: ("bad", "not committed"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in the drive's tables.

    Attributes:
        rates: of the drive's topics, in their order.
        cut_short: sections of which not all was read that should have been, for want of time.
    """

    rates: Sequence[Rate]
    track: Track | None
    sheet: ContactSheet
    clouds: Sequence[CloudView]
    tree: FrameTree
    series: Series
    cut_short: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is shown: rows of a table, strips, plots, and frames of a camera.

    ``draw_until``, on the monotonic clock: from then on no more strips and plots.
    """

    rows: int
    strips: int
    plots: int
    frames: int
    draw_until: float = math.inf

    def halved(self) -> Limits:
        rows, strips, plots, frames = (
            max(each // 2, 1) for each in (self.rows, self.strips, self.plots, self.frames)
        )
        return Limits(rows, strips, plots, frames, self.draw_until)

    def drawn(self, what: Sequence[T], most: int) -> Iterator[T]:
        """The first ``most``, until it is time to end."""
        for each in what[:most]:
            if time.monotonic() > self.draw_until:
                return
            yield each


_CSS = (Path(__file__).parent / "report.css").read_text()


def render(
    drive: Drive,
    axis: TimeAxis,
    found: Found,
    *,
    lake: str,
    made_at: str,
    draw_until: float = math.inf,
) -> str:
    """The whole page, of `MOST_BYTES` or less; see `Limits`."""
    limits = Limits(MOST_ROWS, MOST_STRIPS, MOST_PLOTS, FRAMES_A_CAMERA, draw_until)
    while True:
        text = _render(drive, axis, found, limits, lake=lake, made_at=made_at)
        if len(text.encode()) <= MOST_BYTES or limits == limits.halved():
            return text
        limits = limits.halved()


def _render(drive: Drive, axis: TimeAxis, found: Found, limits: Limits, *, lake: str, made_at: str) -> str:
    sections = [
        ("timeline", "Timeline", list(_timeline(drive, axis, found.rates, limits))),
        ("quality", "Quality", list(_quality(drive.quality, limits))),
        ("track", "Track", list(_track(found.track))),
        ("cameras", "Cameras", list(_cameras(axis, found.sheet, limits))),
        ("lidar", "Lidar, from above", list(_clouds(axis, found.clouds))),
        ("fields", "Fields", list(_fields(axis, found.series, limits))),
        ("frames", "Coordinate frames", list(_tree(found.tree, limits))),
        ("topics", "Topics", list(_topics(drive, found.rates, limits))),
        ("bags", "Bags", list(_bags(drive, limits))),
        ("shards", "Shards", list(_shards(drive, limits))),
        ("cost", "Cost", list(_cost(drive.cost))),
    ]
    parts_of = {
        name: [*parts, _CUT_SHORT] if name in found.cut_short else parts for name, _, parts in sections
    }
    shown = [(name, title) for name, title, _ in sections if parts_of[name]]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in shown)
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>\n'
        + "\n".join(parts_of[name])
        + "</section>"
        for name, title in shown
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_text(drive.drive_id)}: drive report</title>
<style>{_CSS}</style></head><body>
<header><p class="soft">Drive report</p><h1>{_text(drive.drive_id)}</h1>
{_state(drive, axis)}
<nav aria-label="sections">{links}</nav></header>
<main>{_proof(drive)}
{body}
</main>
<footer><p class="soft">From <code>{_text(lake)}</code>, made {_text(made_at)} by ros-to-parquet
{__version__}.</p></footer>
</body></html>
"""


_CUT_SHORT = (
    '<p class="bad">Time was up before all of this was read: what is shown is of a part of the drive.</p>'
)


def _sampled(what: str, shares: Sequence[float]) -> Iterator[str]:
    """That not all was read; ``shares`` are of what was."""
    if some := [share for share in shares if share < 1]:
        least = min(some) * 100
        yield (
            f'<p class="soft">{_text(what)}: an evenly spread sample was read, of the largest '
            f"{least:.2g} % of the messages.</p>"
        )


# --- the head ---------------------------------------------------------------------------------------


def _state(drive: Drive, axis: TimeAxis) -> str:
    level, words = _STATES[drive.state]
    span = ""
    if drive.messages:
        span = f" {_text(plots.when(drive.first_ns))} to {_text(plots.when(drive.last_ns))} UTC"
        span += f", {plots.clock(axis.length_ns / 1e9)} recorded" if axis.is_long else ""
    runs = ", ".join(f"<code>{_text(run)}</code>" for run in drive.run_ids[:3])
    return f'<p><span class="state {level}">{words}</span>{span}</p>' + (
        f'<p class="soft">Run {runs}</p>' if runs else ""
    )


def _proof(drive: Drive) -> str:
    verified = sum(bag.verified is True for bag in drive.bags)
    unverified = sum(bag.verified is None for bag in drive.bags)
    flawed = [bag for bag in drive.bags if bag.status is not BagStatus.OK]
    bytes_in = sum(topic.bytes_in for topic in drive.topics)
    bytes_out = sum(topic.bytes_out for topic in drive.topics)
    facts = [
        ("messages", f"{drive.messages:,}"),
        ("rows", f"{drive.rows:,}"),
        ("rejected", f"{drive.rejected:,}"),
        ("topics", f"{len({topic.name for topic in drive.topics}):,}"),
        ("bags", f"{len(drive.bags):,}"),
        ("message bytes", _size(bytes_in)),
        ("Parquet", _size(bytes_out)),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    whole = drive.messages == drive.rows + drive.rejected
    sums = f"{drive.messages:,} messages = {drive.rows:,} rows + {drive.rejected:,} rejects"
    lines = [f'<strong class="{"good" if whole else "bad"}">{sums}</strong>']
    lines.append(f"{verified} of {len(drive.bags)} bags hold as many messages as their own index says")
    if unverified:
        lines.append(f"{unverified} have none to check against")
    if flawed:
        lines.append(f'<span class="bad">{len(flawed)} could not be read whole</span>')
    problems = _list(drive.problems, 20)
    return f'<dl class="facts">{cells}</dl><p>{"; ".join(lines)}.</p>{problems}'


# --- sections ---------------------------------------------------------------------------------------


def _timeline(drive: Drive, axis: TimeAxis, rates: Sequence[Rate], limits: Limits) -> Iterator[str]:
    if not drive.messages:
        return
    cells = []
    pairs = [(topic, rate) for topic, rate in zip(drive.topics, rates, strict=True) if topic.messages]
    for topic, rate in limits.drawn(pairs, limits.strips):
        label = _strip_label(topic, rate)
        gaps = f' <span class="bad">{len(rate.gaps)} gaps</span>' if rate.gaps else ""
        cells.append(
            f'<div class="row"><div class="name">{_text(topic.name)}</div>'
            f'<div class="strip">{plots.strip(axis, rate, label)}</div>'
            f'<div class="rate">{_rate(topic)}{gaps}</div></div>'
        )
    marks = "".join(f'<span style="left:{place:.1%}">{at}</span>' for place, at in plots.ticks(axis))
    cells.append(f'<div class="row"><div class="strip axis" aria-hidden="true">{marks}</div></div>')
    yield f'<div class="strips">{"".join(cells)}</div>'
    strips = len(cells) - 1
    yield from _more(len(pairs), strips, "topics")
    if axis.pauses:
        pauses = "1 pause" if axis.pauses == 1 else f"{axis.pauses:,} pauses"
        left = f"the {plots.clock(axis.length_ns / 1e9)} that remain" if axis.is_long else "single messages"
        yield f"<p>Without {pauses} in which nothing was recorded: times here and below are of {left}.</p>"
    yield (
        '<p class="soft">Each strip is a topic\'s rate, from none to its own most. A gap, marked red, is an '
        "interval of more than five times the topic's usual one, where it comes regularly.</p>"
    )
    shares = [rate.share for rate in rates]
    count = sum(share < 1 for share in shares)
    yield from _sampled(
        f"Log times of {count} topics (in between, rates are by the numbers of messages of files, and gaps "
        "shorter than a file are not seen)",
        shares,
    )
    worst = sorted(
        ((gap, topic) for topic, rate in pairs for gap in longest_gaps(rate.gaps, MOST_GAPS_SHOWN)),
        key=lambda pair: -pair[0].seconds,
    )
    if worst:
        rows = [
            (
                topic.name,
                f"{gap.seconds:.3f} s",
                f"{plots.clock(axis.seconds(gap.start_ns))}",
                plots.when(gap.start_ns),
            )
            for gap, topic in worst[:20]
        ]
        yield "<h3>Longest gaps</h3>" + _table(
            "longest gaps", ("topic", ">length", ">at", "log time, UTC"), rows
        )


def _strip_label(topic: Topic, rate: Rate) -> str:
    gaps = f"{len(rate.gaps)} gaps" if rate.gaps else "no gaps" if rate.regular else "irregular"
    return f"{topic.name}: {topic.messages:,} messages, {_rate(topic)}, {gaps}"


def _rate(topic: Topic) -> str:
    rate = topic.rate_hz
    if rate is None:
        return f"{topic.messages:,}×"
    return f"{rate:,.0f} Hz" if rate >= 100 else f"{rate:.3g} Hz"


def _quality(results: Sequence[DriveQuality], limits: Limits) -> Iterator[str]:
    if not results:
        return
    for result in results:
        marked = ' class="bad"' if result.error else ""
        yield f"<p{marked}>{_text(str(result))}</p>"
    found = [each for result in results for each in result.findings]
    found.sort(key=lambda each: each.level is not QualityLevel.ERROR)
    rows = [
        (
            each.topic,
            str(each.check),
            _Bad(each.level) if each.level is QualityLevel.ERROR else str(each.level),
            f"{each.value:.4g} {each.unit}",
            f"{each.limit:g}",
            each.detail,
            "" if each.log_time_ns is None else plots.when(each.log_time_ns),
        )
        for each in found[: limits.rows]
    ]
    if rows:
        head = ("topic", "check", "level", ">number", ">limit", "what", "log time, UTC")
        yield _table("findings", head, rows)
    yield from _more(sum(each.warn + each.error for each in results), len(rows), "findings")


def _track(track: Track | None) -> Iterator[str]:
    if track is None:
        return
    if max(np.ptp(track.east_m), np.ptp(track.north_m)) < STILL_M:
        yield f"<p>{_text(track.topic.name)} stays where it is.</p>"
        return
    length = f"{track.length_m / 1000:.2f} km" if track.length_m >= 1000 else f"{track.length_m:.0f} m"
    fastest = float(track.speed_mps.max())
    label = f"track of {track.topic.name}: {length}, at most {fastest:.1f} m/s"
    where = (
        f"from latitude {track.origin[0]:.6f}, longitude {track.origin[1]:.6f}"
        if track.origin
        else "in the frame of the odometry, as no GPS topic has a place"
    )
    left_out = f"; {track.left_out:,} fixes are no place" if track.left_out else ""
    yield (
        f'<figure class="track">{plots.track_map(track, label)}'
        f"<figcaption>{_text(track.topic.name)}: {length}, "
        f"at most {fastest:.1f} m/s ({fastest * 3.6:.0f} km/h), {where}{left_out}</figcaption></figure>"
    )
    yield from _sampled("Points", [track.share])


def _cameras(axis: TimeAxis, sheet: ContactSheet, limits: Limits) -> Iterator[str]:
    for whole in sheet.cameras:
        few = [whole.frames[place] for place in spread(len(whole.frames), limits.frames)]
        camera = replace(whole, frames=tuple(few))
        yield f"<h3>{_text(camera.topic.name)}</h3>"
        yield f'<div class="frames">{"".join(_frames(axis, camera))}</div>'
        problems = list(dict.fromkeys(frame.problem for frame in camera.frames if frame.problem))
        if problems:
            bad = sum(bool(frame.problem) for frame in camera.frames)
            why = f"{bad} of {len(camera.frames)} frames cannot be shown: {problems[0]}"
            yield f'<p class="bad">{_text(why)}</p>'
    if sheet.left_out:
        names = ", ".join(topic.name for topic in sheet.left_out[:MOST_ROWS])
        yield f'<p class="soft">Not shown: {_text(names)}</p>'


def _frames(axis: TimeAxis, camera: Camera) -> Iterator[str]:
    for frame in camera.frames:
        if frame.problem:
            continue
        at = plots.clock(axis.seconds(frame.log_time_ns))
        width, height = frame.size
        yield (
            f'<figure><img loading="lazy" width="{width}" height="{height}" '
            f'alt="frame of {_text(camera.topic.name)} at {at}" src="{_data("image/jpeg", frame.jpeg)}">'
            f'<figcaption title="{_text(plots.when(frame.log_time_ns))} UTC">{at} '
            f"<span>{_text(plots.time_of_day(frame.log_time_ns))}</span></figcaption></figure>"
        )


def _clouds(axis: TimeAxis, clouds: Sequence[CloudView]) -> Iterator[str]:
    if not clouds:
        return
    figures = []
    for view in clouds:
        name = _text(view.topic.name)
        at = plots.clock(axis.seconds(view.log_time_ns))
        if view.problem:
            figures.append(f'<p class="bad">{name} at {at}: {_text(view.problem)}</p>')
            continue
        not_finite = f", {view.not_finite:,} not finite" if view.not_finite else ""
        sampled = view.points + view.not_finite < view.all_points
        every = f" of {view.all_points:,}" if sampled else ""
        low, high = view.height_m
        figures.append(
            f'<figure><img loading="lazy" alt="{name} at {at} from above, {view.reach_m:.0f} m to each side" '
            f'src="{_data("image/png", view.png)}">'
            f"<figcaption>{name} at {at}: {view.points:,} points{every}{not_finite}; "
            f"{view.reach_m:.1f} m to each side, x up, y left; colour is height, {low:.1f} to {high:.1f} m"
            "</figcaption></figure>"
        )
    yield f'<div class="clouds">{"".join(figures)}</div>'


def _fields(axis: TimeAxis, series: Series, limits: Limits) -> Iterator[str]:
    plotted: list[str] = []
    if series.groups:
        plotted = [_plot(axis, group) for group in limits.drawn(series.groups, limits.plots)]
        yield f'<div class="plots">{"".join(plotted)}</div>'
        yield from _sampled(f"Fields of {len(series.shares)} topics", list(series.shares.values()))
    if series.constants:
        said = [
            f"{group.topic.name} {path} = {_constant(line.most)}"
            for group in series.constants
            for path, line in zip(group.paths, group.lines, strict=True)
        ]
        listed = _list(said, limits.rows)
        yield f"<details><summary>{len(said):,} fields never change</summary>{listed}</details>"
    left_out = series.left_out + len(series.groups) - len(plotted)
    if left_out:
        yield f'<p class="soft">{left_out:,} more messages within topics are not plotted.</p>'


def _constant(values: Iterable[float]) -> str:
    finite = [value for value in values if value == value]
    return f"{finite[0]:g}" if finite else "never finite"


def _plot(axis: TimeAxis, group: Group) -> str:
    name = f"{group.topic.name} {group.path}".strip()
    ranges = ", ".join(f"{line.name} {plots.numbers([*line.least, *line.most])}" for line in group.lines)
    bad = f'; <span class="bad">{group.not_finite:,} not finite</span>' if group.not_finite else ""
    svg = plots.group_plot(axis, group, f"{name} over time: {ranges}")
    return f"<figure>{svg}<figcaption>{_text(name)}{bad}</figcaption></figure>"


def _tree(tree: FrameTree, limits: Limits) -> Iterator[str]:
    if not tree.edges:
        return
    seen: set[str] = set()
    unlisted = 0

    def below(parent: str, depth: int) -> str:
        nonlocal unlisted
        if parent in seen or depth > 40:
            return ""
        seen.add(parent)
        edges = tree.below(parent)
        unlisted += len(edges[limits.rows :])
        items = [
            f'<li>{_text(edge.child)} <span class="soft">{"static" if edge.static else f"{edge.count:,}×"}'
            f"</span>{below(edge.child, depth + 1)}</li>"
            for edge in edges[: limits.rows]
        ]
        return f"<ul>{''.join(items)}</ul>" if items else ""

    roots = tree.roots[: limits.rows] or [tree.edges[0].parent]
    yield '<ul class="tree">' + "".join(f"<li>{_text(root)}{below(root, 0)}</li>" for root in roots) + "</ul>"
    for child, parents in list(tree.parents_of.items())[:10]:
        yield f'<p class="bad">{_text(child)} has {len(parents)} parents: {_text(", ".join(parents[:5]))}</p>'
    unseen = [edge for edge in tree.edges if edge.parent not in seen]
    if unseen and not unlisted and len(roots) == max(len(tree.roots), 1):
        loop = f"{len(unseen)} transforms are of a loop: {unseen[0].parent} and others"
        yield f'<p class="bad">{_text(loop)}</p>'
    yield from _sampled("Transforms", [tree.share])
    if left_out := tree.left_out + unlisted:
        yield f'<p class="soft">{left_out:,} more transforms are not shown.</p>'


def _topics(drive: Drive, rates: Sequence[Rate], limits: Limits) -> Iterator[str]:
    days = {plots.day(drive.first_ns), plots.day(drive.last_ns)}
    when = plots.time_of_day if len(days) == 1 else plots.when
    head = (
        *(
            "topic",
            "type",
            ">messages",
            ">rate",
            ">rejects",
            ">gaps",
            ">out of order",
            "first, UTC",
            "last, UTC",
        ),
        *(">bytes in", ">Parquet", "definition", *_cost_head(drive)),
    )
    rows = [
        (
            topic.name,
            topic.type_name,
            f"{topic.messages:,}",
            f"{_rate(topic)}",
            _Bad(f"{topic.rejected:,}") if topic.rejected else "0",
            f"{len(rate.gaps):,}" if rate.regular else "",
            f"{rate.out_of_order:,}",
            when(topic.first_ns) if topic.messages else "",
            when(topic.last_ns) if topic.messages else "",
            f"{_size(topic.bytes_in)}",
            f"{_size(topic.bytes_out)}",
            ", ".join(topic.definitions),
            *_cost_cell(drive, topic.cost),
        )
        for topic, rate in list(zip(drive.topics, rates, strict=True))[: limits.rows]
    ]
    yield _table("topics", head, rows)
    yield from _more(len(drive.topics), limits.rows, "topics")
    remarks = [f"{topic.name}: {remark}" for topic in drive.topics for remark in topic.remarks]
    yield _list(remarks, 50)


def _bags(drive: Drive, limits: Limits) -> Iterator[str]:
    bags = drive.bags
    checked: dict[bool | None, str] = {
        True: "as its index says",
        False: _Bad("not as its index says"),
        None: "has no index",
    }
    rows = [
        (
            bag.name,
            bag.status.value if bag.status is BagStatus.OK else _Bad(bag.status.value),
            f"{_size(bag.size_bytes)}",
            f"{bag.messages:,}",
            f"{bag.extracted:,}",
            checked[bag.verified],
            f"{bag.shards:,}",
            f"{bag.seconds:,.1f}",
            _speed(bag.bytes_read, bag.seconds),
            _size(bag.peak_memory_bytes),
            _tries(bag.tries, bag.shards),
            "; ".join(bag.damage[:MOST_DAMAGE_SHOWN]),
            *_cost_cell(drive, bag.cost),
        )
        for bag in _worst_first(bags, lambda bag: bag.status is not BagStatus.OK)[: limits.rows]
    ]
    head = (
        *("bag", "state", ">size", ">messages", ">extracted", "count", ">shards", ">seconds", ">MB/s"),
        *(">peak memory", ">tries", "damage", *_cost_head(drive)),
    )
    yield _table("bags", head, rows)
    yield from _more(len(bags), limits.rows, "bags")
    if any(bag.shards > 1 for bag in bags) or len(bags) > 1:
        yield (
            '<p class="soft">Seconds are of the shards that read a bag, by its share of what they read; '
            "memory is the most of them.</p>"
        )


def _shards(drive: Drive, limits: Limits) -> Iterator[str]:
    shards: Sequence[Shard] = drive.shards
    rows = [
        (
            f"{shard.number}",
            shard.plan_id,
            f"{shard.bags:,}",
            _size(shard.bytes_read),
            f"{shard.seconds:,.1f}",
            _speed(shard.bytes_read, shard.seconds),
            _size(shard.peak_memory_bytes),
            _tries(shard.tries, 1),
            shard.job_id or "on this machine",
            shard.engine_version,
            *_cost_cell(drive, shard.cost),
        )
        for shard in _worst_first(shards, lambda shard: shard.tries > 1)[: limits.rows]
    ]
    seconds = sum(shard.seconds for shard in shards)
    read = sum(shard.bytes_read for shard in shards)
    most = max(shard.peak_memory_bytes for shard in shards)
    tries = sum(shard.tries for shard in shards)
    yield (
        f"<p>{len(shards):,} {'shard' if len(shards) == 1 else 'shards'} took {seconds:,.1f} s together for "
        f"{_size(read)} ({_speed(read, seconds)} MB/s each), at most {_size(most)} of memory, in {tries:,} "
        f"{'try' if tries == 1 else 'tries'}.</p>"
    )
    head = (
        *(">shard", "plan", ">bags", ">read", ">seconds", ">MB/s", ">peak memory", ">tries"),
        *("job", "engine", *_cost_head(drive)),
    )
    yield _table("shards", head, rows)
    yield from _more(len(shards), limits.rows, "shards")


def _cost(cost: Cost | None) -> Iterator[str]:
    if cost is None:
        return
    facts = [
        ("cost", shown_cost(cost.amount, cost.currency)),
        ("vCPU-hours", f"{cost.vcpu_seconds / 3600:,.3g}"),
        ("GB-hours of memory", f"{cost.gb_seconds / 3600:,.3g}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
    yield f'<dl class="facts">{cells}</dl>'
    yield _table(
        "prices",
        ("platform", "region", ">vCPUs", ">memory, GB", ">vCPU-hour", ">GB-hour", "prices"),
        [
            (
                f"{each.platform} {each.architecture}",
                each.region,
                f"{each.vcpus:g}",
                f"{each.memory_gb:g}",
                f"{each.vcpu_hour:g} {each.currency}",
                f"{each.gb_hour:g} {each.currency}",
                each.origin,
            )
            for each in cost.pricings
        ],
    )
    unpriced = f" Of {cost.unpriced:,} shards no such price is known." if cost.unpriced else ""
    yield (
        '<p class="soft">By the seconds of the shards that made these rows, shared out among bags and topics '
        f"by bytes. Attempts that failed are in the run's summary.{unpriced}</p>"
    )


def _cost_head(drive: Drive) -> tuple[str, ...]:
    """The head of a column that tables have where anything is known of costs."""
    return (">cost",) if drive.cost else ()


def _cost_cell(drive: Drive, cost: float | None) -> tuple[str, ...]:
    if drive.cost is None:
        return ()
    return ("" if cost is None else shown_cost(cost, drive.cost.currency),)


def _worst_first(each: Sequence[T], bad: Callable[[T], bool]) -> list[T]:
    """Of a table that does not show all, what is worth a look comes first; else their order stays."""
    return sorted(each, key=lambda one: not bad(one)) if len(each) > MOST_ROWS else list(each)


def _speed(count: int, seconds: float) -> str:
    return f"{count / 1e6 / seconds:,.1f}" if seconds > 0 else ""


def _tries(tries: int, least: int) -> str:
    return _Bad(f"{tries:,}") if tries > least else f"{tries:,}"


# --- pieces -----------------------------------------------------------------------------------------


class _Bad(str):
    """A cell that is marked."""

    __slots__ = ()


def _table(what: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns whose head begins with ``>`` are numbers. All text is escaped.

    A table that is wider than the window can be moved with the keyboard, which needs the focus.
    """
    numbers = [cell.startswith(">") for cell in head]
    top = "".join(
        f'<th scope="col"{_class(number)}>{_text(cell.lstrip(">"))}</th>'
        for cell, number in zip(head, numbers, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_cell(cell, number) for cell, number in zip(row, numbers, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_text(what)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class(number: bool) -> str:
    return ' class="number"' if number else ""


def _cell(cell: str, number: bool) -> str:
    text = _text(cell)
    kind = _class(number) or (' class="name"' if len(cell) > 30 else "")
    marked = f'<span class="bad">{text}</span>' if isinstance(cell, _Bad) else text
    return f"<td{kind}>{marked}</td>"


def _list(lines: Sequence[str], most: int) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{_text(line)}</li>" for line in lines[:most])
    more = f"<li>and {len(lines) - most:,} more; the manifests have them</li>" if len(lines) > most else ""
    return f"<ul>{items}{more}</ul>"


def _more(count: int, most: int, what: str) -> Iterator[str]:
    if count > most:
        yield f'<p class="soft">{count - most:,} more {what} are not shown; the manifests have them.</p>'


def _size(count: int) -> str:
    """Bytes as people read them.

    >>> _size(999), _size(12_345_678)
    ('999 B', '12.3 MB')
    """
    if count < 1000:
        return f"{count} B"
    for unit, size in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 999.5 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e12:,.3g} TB"


def _data(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _text(text: str) -> str:
    said = shown(text)
    return html.escape(said if len(said) <= MOST_TEXT else f"{said[:MOST_TEXT]}...")
