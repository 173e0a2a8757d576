"""Plots as SVG whose colours are the page's, so that they are right in its light and its dark form."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ros_to_parquet.report.rates import BINS as RATE_BINS
from ros_to_parquet.report.rates import Rate
from ros_to_parquet.report.series import BINS as SERIES_BINS
from ros_to_parquet.report.series import Group
from ros_to_parquet.report.time_axis import MOMENT_S, TimeAxis
from ros_to_parquet.report.track import Track
from ros_to_parquet.text import shown

# Colours that stand for the page's own: each is replaced by its variable.
_INK, _FAINT, _GAP = "#000001", "#000002", "#000003"
_LINES = ("#000011", "#000012", "#000013", "#000014")
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _GAP: "var(--bad)",
    **{colour: f"var(--line-{number})" for number, colour in enumerate(_LINES, 1)},
}

_STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.4,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
    "axes.formatter.useoffset": False,
}

LEAST_MARK = 0.002
"""Of a gap, that can be seen: a part of the strip."""

MOST_TICKS = 6
"""As many as a phone has room for."""

FEW_POINTS = 20
"""Fewer are marked: a line through them would look like more, and one alone has no line."""

STRIP_MESSAGES = 4
"""A strip's bins are joined until most have so many: else a slow topic looks like one with gaps."""


@contextmanager
def _figure(
    width: float, height: float, label: str, taken: Callable[[str], None], *, layout: bool = True
) -> Iterator[Figure]:
    """A figure of so many inches; ``taken`` gets its SVG. Each has ids of its own."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(width, height), layout="constrained" if layout else None)
        FigureCanvasSVG(figure)
        yield figure
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    taken(_tidy(out.getvalue(), label))


def _tidy(svg: str, label: str) -> str:
    """Without what only a file of its own needs, with rounded numbers, and with what it shows in words."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\">", "<g>", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _LONG_NUMBER.sub(_rounded, tag[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = re.sub(r" ?\n([LMCQz]) ?", r"\1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    head = f'<svg {view[0]} role="img" aria-label="{html.escape(shown(label))}"'
    head += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :].strip()


_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}"


def strip(axis: TimeAxis, rate: Rate, label: str) -> str:
    """A topic's rate over the drive's time, from nothing to its most; gaps are marked."""
    taken: list[str] = []
    counts = _joined(rate)
    with _figure(7.2, 0.3, label, taken.append, layout=False) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        edges = np.linspace(0, 1, len(counts) + 1)
        axes.stairs(counts / max(counts.max(), 1), edges, fill=True, color=_LINES[0], linewidth=0)
        axes.broken_barh(_marks(axis, rate), (0, 1.02), facecolors=_GAP, linewidth=0)
    return taken[0]


def _marks(axis: TimeAxis, rate: Rate) -> list[tuple[float, float]]:
    """Where gaps begin and how wide they are, as parts of the strip; those that would touch are one."""
    marks: list[tuple[float, float]] = []
    for gap in rate.gaps:
        start, stop = (axis.seconds(time) * 1e9 / axis.length_ns for time in (gap.start_ns, gap.stop_ns))
        stop = max(stop, start + LEAST_MARK)
        if marks and start <= sum(marks[-1]) + LEAST_MARK:
            marks[-1] = marks[-1][0], max(stop - marks[-1][0], marks[-1][1])
        else:
            marks.append((start, stop - start))
    return marks


def _joined(rate: Rate) -> npt.NDArray[np.float64]:
    """The counts in fewer bins, where one has few messages."""
    usual = rate.counts[rate.counts > 0].mean() if rate.counts.any() else 1.0
    filled = np.count_nonzero(rate.counts) / RATE_BINS
    per_bin = usual * (filled if rate.regular else 1.0)
    for together in (1, 2, 3, 4, 6, 8, 12, 18, 24, 36, 60):
        if per_bin * together >= STRIP_MESSAGES:
            break
    joined: npt.NDArray[np.float64] = rate.counts.reshape(-1, together).sum(axis=1)
    return joined


def ticks(axis: TimeAxis) -> list[tuple[float, str]]:
    """Where times are on the axis below the strips, from 0 to 1, and what they are; none at its very ends."""
    seconds = axis.length_ns / 1e9
    if not axis.is_long:
        return []
    values = [float(value) for value in MaxNLocator(MOST_TICKS).tick_values(0, seconds)]
    return [(value / seconds, clock(value)) for value in values if 0.04 < value / seconds < 0.96]


def clock(seconds: float) -> str:
    """Time from the drive's beginning.

    >>> clock(7.5), clock(75), clock(3675), clock(1e-9)
    ('7.5 s', '1:15', '1:01:15', '0 s')
    """
    if seconds < MOMENT_S:
        return "0 s"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def track_map(track: Track, label: str) -> str:
    """The track on a grid of metres, the faster the brighter; and where it begins and ends."""
    taken: list[str] = []
    with _figure(5.0, 4.2, label, taken.append) as figure:
        axes = figure.add_subplot()
        points = np.column_stack((track.east_m, track.north_m))
        fastest = max(float(np.percentile(track.speed_mps, 99.5)), 1e-9)
        lines = LineCollection(
            list(np.stack((points[:-1], points[1:]), axis=1)),
            cmap=mpl.colormaps["viridis"],
            norm=Normalize(0, fastest),
            linewidths=2.5,
            capstyle="round",
        )
        lines.set_array(track.speed_mps[1:])
        axes.add_collection(lines)
        axes.plot(*points[0], marker="o", color=_INK, markersize=7, markerfacecolor="none")
        axes.annotate("start", points[0], xytext=(7, 5), textcoords="offset points")
        axes.plot(*points[-1], marker="s", color=_INK, markersize=6, markerfacecolor="none")
        axes.annotate("end", points[-1], xytext=(7, -11), textcoords="offset points")
        axes.set_aspect("equal", adjustable="datalim")
        axes.autoscale_view()
        gps = track.origin is not None
        axes.set_xlabel("east, m" if gps else "x, m")
        axes.set_ylabel("north, m" if gps else "y, m")
        figure.colorbar(lines, ax=axes, label="speed, m/s", shrink=0.7, aspect=30).outline.set_visible(False)
    return taken[0]


def group_plot(axis: TimeAxis, group: Group, label: str) -> str:
    """The fields of one message over the drive's time: the range of values in each part of it."""
    taken: list[str] = []
    with _figure(4.2, 1.9, label, taken.append) as figure:
        axes = figure.add_subplot()
        places = (np.arange(SERIES_BINS) + 0.5) * axis.length_ns / 1e9 / SERIES_BINS
        for line, colour in zip(group.lines, _LINES, strict=False):
            here = np.isfinite(line.least)
            axes.fill_between(
                places[here], line.least[here], line.most[here], color=colour, alpha=0.35, linewidth=0
            )
            middle = (line.least[here] + line.most[here]) / 2
            dots = "." if np.count_nonzero(here) < FEW_POINTS else None
            axes.plot(places[here], middle, color=colour, linewidth=1.1, marker=dots, label=line.name)
        if len(group.lines) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=1.0)
        _time_ticks(axes, axis)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return taken[0]


def _time_ticks(axes: Axes, axis: TimeAxis) -> None:
    axes.set_xlim(0, axis.length_ns / 1e9)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))


def time_of_day(time_ns: int) -> str:
    """The end of `when`, without the day.

    >>> time_of_day(1_700_000_000_123_456_789)
    '22:13:20.123'
    """
    return when(time_ns).rpartition(" ")[2]


def day(time_ns: int) -> str:
    """The beginning of `when`.

    >>> day(1_700_000_000_123_456_789)
    '2023-11-14'
    """
    return when(time_ns).partition(" ")[0]


def when(time_ns: int) -> str:
    """A log time as people read it: UTC, milliseconds.

    >>> when(1_700_000_000_123_456_789)
    '2023-11-14 22:13:20.123'
    """
    try:
        moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    except (OverflowError, OSError, ValueError):  # what clocks that are not set record
        return f"{time_ns} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns % 1_000_000_000 // 1_000_000:03}"


def numbers(values: Sequence[float]) -> str:
    """The range of some values, for a description."""
    finite = [value for value in values if np.isfinite(value)]
    return f"{min(finite):.4g} to {max(finite):.4g}" if finite else "no finite value"
