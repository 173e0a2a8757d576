"""One program run as a process of its own: wall time, CPU and peak memory, its children's included.

The measuring process stays small, for a child's peak memory is at least its parent's when it was started:
nothing here imports more than the standard library.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0


class ProcessError(RuntimeError):
    """A program that failed; the text is the last thing it said."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. Times in seconds; ``output_bytes`` of all files written, ``said`` is its standard output."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    output_bytes: int = 0
    said: str = ""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a measured process: this tree's packages, and bytecode kept as an image keeps it."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": f"{ROOT / 'container'}{os.pathsep}{ROOT}"} | dict(extra or {})


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this tree."""
    return [sys.executable, "-m", name, *arguments]


def run(argv: list[str], scratch: Path, *, extra: Mapping[str, str] | None = None) -> Measurement:
    """Runs a command to its end.

    Raises:
        ProcessError: it failed, took longer than `TIMEOUT_S`, or is not there.
    """
    said, complained = scratch / "stdout", scratch / "stderr"
    files = [
        (os.POSIX_SPAWN_OPEN, number, str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number, path in ((1, said), (2, complained))
    ]
    begin = time.monotonic()
    try:
        child = os.posix_spawn(argv[0], argv, environment(extra), file_actions=files)
    except FileNotFoundError as error:
        raise ProcessError(f"not installed: {argv[0]}") from error
    watch = threading.Timer(TIMEOUT_S, _kill, (child,))
    watch.start()
    try:
        _, status, usage = os.wait4(child, 0)
    except KeyboardInterrupt:
        _kill(child)
        os.waitpid(child, 0)
        raise
    finally:
        watch.cancel()
    wall_s = time.monotonic() - begin
    if status:
        if wall_s >= TIMEOUT_S:
            raise ProcessError(f"not done after {TIMEOUT_S:.0f} s")
        raise ProcessError(_last_line(complained) or _last_line(said) or f"ended with status {status}")
    cpu_s = usage.ru_utime + usage.ru_stime
    text = said.read_text(errors="replace")
    return Measurement(wall_s, cpu_s, usage.ru_maxrss << 10, said=text)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-200:] if lines else ""


@contextlib.contextmanager
def folder(scratch: Path) -> Iterator[Path]:
    """An empty folder below ``scratch``, removed with all that is in it."""
    made = Path(tempfile.mkdtemp(dir=scratch))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def bytes_below(path: Path, pattern: str = "*") -> int:
    return sum(each.stat().st_size for each in path.rglob(pattern) if each.is_file())


def median(measurements: Sequence[Measurement]) -> Measurement:
    """Medians of times, the highest peak."""
    return Measurement(
        statistics.median(each.wall_s for each in measurements),
        statistics.median(each.cpu_s for each in measurements),
        max(each.peak_bytes for each in measurements),
        measurements[0].output_bytes,
        measurements[0].said,
    )


def extract(bag: str | Path, output: str | Path) -> list[str]:
    """The engine's own command."""
    return module("ros_to_parquet", "extract", str(bag), "--output", str(output))
