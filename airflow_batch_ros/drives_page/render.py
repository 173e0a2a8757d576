"""The pages as HTML without a script: Jinja escapes whatever a conf or a bag has named."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batch_ros.drives_page.lines import NOTHING_TO_DO, DriveLine, RunDigest, Shards
from airflow_batch_ros.drives_page.shards import ShardLine
from airflow_batch_ros.status import ShardState, Underway
from ros_to_parquet.contract import DriveManifest, DriveState, FinishRecord, TableTotal, one_line

if TYPE_CHECKING:
    from jinja2 import Environment

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"
"""What a browser lets a page fetch and run: nothing."""

STRIP_CELLS = 240
"""Of a drive's strip of shards; of more shards than that a cell shows the worst of several."""

TABLES_SHOWN = 300

_LEVELS = {
    DriveState.SUCCEEDED: "good",
    DriveState.SUCCEEDED_WITH_REJECTS: "fair",
    DriveState.DAMAGED: "fair",
    DriveState.PARTIAL: "bad",
    DriveState.FAILED: "bad",
    NOTHING_TO_DO: "soft",
    Underway.UNKNOWN: "bad",
    ShardState.DONE: "good",
    ShardState.WAITING: "soft",
    "": "soft",
}

_WORST_FIRST = (ShardState.FAILED, ShardState.RUNNING, ShardState.WAITING, ShardState.DONE)

Chip = tuple[str, int, str, bool]
"""A state (empty for all), how many are in it, where they are shown, and whether that is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What all pages have.

    Attributes:
        places: labels and URLs of the pages around it.
        refresh_s: after how long a browser loads it anew; 0 for never.
    """

    lake: str
    written_at: str
    places: Sequence[tuple[str, str]] = ()
    previous_url: str = ""
    previous_word: str = "Previous"
    next_url: str = ""
    next_word: str = "Next"
    refresh_s: int = 0
    refresh_url: str = ""
    refresh_word: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run; ``unknown`` is what is said where its states are not known."""

    dag_id: str
    run_id: str
    submitted_at: str
    drives: int
    states: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    bytes_read: int = 0
    url: str = ""
    airflow_url: str = ""
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPage(Page):
    """``lakes``: each with its URL, and whether it is this one."""

    rows: Sequence[RunRow]
    lakes: Sequence[tuple[str, str, bool]] = ()


@dataclass(frozen=True, slots=True)
class DriveRow:
    line: DriveLine
    url: str = ""
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage(Page):
    """Attributes:
    first, last, of: places of the rows among those that are asked for, from 1.
    more: drives that are not read.
    form: hidden fields of the search; empty where there is nobody to search.
    """

    dag_id: str
    run_id: str
    submitted_at: str
    digest: RunDigest
    shards: Shards
    states: Sequence[Chip]
    rows: Sequence[DriveRow]
    first: int
    last: int
    of: int
    more: int = 0
    form: Mapping[str, str] = field(default_factory=dict)
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrivePage(Page):
    run_id: str
    line: DriveLine
    shards: Shards
    states: Sequence[Chip]
    strip: Sequence[tuple[ShardState, int, int]]
    rows: Sequence[ShardLine]
    first: int
    last: int
    of: int
    bags: int
    bag_bytes: int
    links: Sequence[tuple[str, str]] = ()
    commit: DriveManifest | None = None
    finish: FinishRecord | None = None

    @property
    def strip_cells(self) -> int:
        return sum(cells for _, _, cells in self.strip)

    @property
    def problems(self) -> list[str]:
        return [one_line(text) for text in self.commit.problems] if self.commit else []

    @property
    def tables(self) -> Sequence[TableTotal]:
        return self.commit.tables[:TABLES_SHOWN] if self.commit else ()

    @property
    def table_count(self) -> int:
        return len(self.commit.tables) if self.commit else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage(Page):
    title: str
    text: str


def render(page: RunsPage | RunPage | DrivePage | MessagePage) -> str:
    """The whole page."""
    names = {RunsPage: "runs", RunPage: "run", DrivePage: "drive", MessagePage: "message"}
    template = _environment().get_template(f"{names[type(page)]}.html")
    return template.render(page=page, policy=POLICY, refresh_s=page.refresh_s, css=_css())


def strip_of(states: Sequence[ShardState]) -> list[tuple[ShardState, int, int]]:
    """Stretches of one state: the state, the first cell and how many, of at most `STRIP_CELLS` cells.

    A cell is a shard or, of more of them, neighbours: the worst of those.
    """
    cells = list(states)
    if len(states) > STRIP_CELLS:
        edges = [place * len(states) // STRIP_CELLS for place in range(STRIP_CELLS + 1)]
        cells = [min(states[first:last], key=_WORST_FIRST.index) for first, last in itertools.pairwise(edges)]
    found = []
    first = 0
    for state, alike in itertools.groupby(cells):
        count = len(list(alike))
        found.append((state, first, count))
        first += count
    return found


def words(state: str) -> str:
    """A state as people write it.

    >>> words("succeeded_with_rejects")
    'succeeded with rejects'
    """
    return state.replace("_", " ")


def level(state: str) -> str:
    """How well it is: ``good``, ``fair``, ``bad``, ``live`` for what goes on, ``soft`` for what does not."""
    return _LEVELS.get(state, "live")


def shards_in_words(shards: Shards) -> str:
    """For who cannot see the bar.

    >>> shards_in_words(Shards(8, 3, 2, 1))
    '3 of 8 shards done, 2 running, 1 failed, 2 waiting'
    """
    others = {"running": shards.running, "failed": shards.failed, "waiting": shards.waiting}
    said = [f"{count:,} {word}" for word, count in others.items() if count]
    return ", ".join([f"{shards.done:,} of {shards.total:,} shards done", *said])


def when(iso: str) -> str:
    """A time to the minute, as it was written: in UTC.

    >>> when("2026-11-21T20:17:05.123+00:00")
    '2026-11-21 20:17 UTC'
    """
    try:
        return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return iso


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "words": words,
        "level": level,
        "when": when,
        "shards_in_words": shards_in_words,
        "number": lambda value: f"{value:,.0f}",
        "megabytes": lambda value: f"{value / 1e6:,.1f}",
    }
    return made


def _clean(value: object) -> object:
    """Without characters that turn the text around them: names come from bags."""
    from markupsafe import Markup

    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _css() -> str:
    from markupsafe import Markup

    return Markup((Path(__file__).parent / "page.css").read_text())
