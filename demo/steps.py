"""Steps of the demo on the console: announced, alive while they work, and with their seconds when done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


@dataclass(slots=True)
class Step:
    """A step at work. ``detail`` is what its last line will say."""

    title: str
    _progress: Progress
    _task: TaskID
    _console: Console
    _started: float = field(default_factory=time.monotonic)
    detail: str = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def advance(self, count: int) -> None:
        """So many more bytes are done."""
        self._progress.advance(self._task, count)

    def now(self, text: str) -> None:
        """What is going on; where nobody watches, a line each time it changes."""
        shown = f"{self.title}: {text}"
        if not self._console.is_terminal and shown != self._progress.tasks[0].description:
            self._console.print(f"    {escape(text)}", highlight=False, soft_wrap=True)
        self._progress.update(self._task, description=shown)


@dataclass(slots=True)
class Steps:
    """Numbers the steps of one program run."""

    console: Console
    count: int
    _number: int = 0

    @contextmanager
    def step(self, title: str, *, total_bytes: int | None = None) -> Iterator[Step]:
        """Announce a step, show it at work, and say how long it took. ``total_bytes`` makes a bar."""
        self._number += 1
        label = f"[dim]{self._number}/{self.count}[/]"
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total_bytes is not None:
            columns += [BarColumn(), DownloadColumn(), TransferSpeedColumn()]
        progress = Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
        progress.disable = not self.console.is_terminal
        if not self.console.is_terminal:
            self.console.print(f"{label} {escape(title)} …", highlight=False)
        with progress:
            step = Step(title, progress, progress.add_task(title, total=total_bytes), self.console)
            yield step
        detail = f": {escape(step.detail)}" if step.detail else ""
        self.console.print(
            f"{label} [green]✓[/] [bold]{escape(title)}[/]{detail}  [dim]{step.seconds:.1f} s[/]",
            highlight=False,
            soft_wrap=True,
        )
