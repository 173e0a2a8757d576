"""Where the program ``ros-to-parquet`` begins and ends: what is set before anything large is imported."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # importing typing takes longer than all of this module
if TYPE_CHECKING:
    from typing import Final, NoReturn

_GC_THRESHOLD: Final = 100_000
"""Allocations between two collections. Importing makes as many objects, of which none is garbage."""

_MALLOC_SETTINGS: Final = {
    "M_MMAP_THRESHOLD": (-3, 32 << 20),  # blocks of messages come and go: they are kept
    "M_TRIM_THRESHOLD": (-1, 64 << 20),
    "M_ARENA_MAX": (-8, 1),  # what one thread frees another can have; Arrow has its own allocator
}
"""Number and value of each, for glibc's ``mallopt``."""


def main() -> NoReturn:
    """Runs a command and ends the process with its exit code."""
    try:
        tune()
        from ros_to_parquet import cli

        code = cli.main()
    except KeyboardInterrupt:  # while modules are imported: later, the command line catches it
        code = interrupted()
    leave(code)


def interrupted() -> int:
    """Says so as a command does that was interrupted later, while it ran; gives the exit code."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a keyboard, it may well come twice
    from ros_to_parquet.commands.outcome import fail
    from ros_to_parquet.contract import ExitCode

    return fail(ExitCode.RETRY, "interrupted")


def tune() -> None:
    """Sets this process up for large buffers, but for what its environment sets otherwise."""
    gc.set_threshold(_GC_THRESHOLD)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would wait for work in a busy loop
    if not any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        set_malloc()


def set_malloc() -> bool:
    """Sets glibc's malloc up for large buffers; False where the C library is another one."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(number, value) for number, value in _MALLOC_SETTINGS.values())


def leave(code: int) -> NoReturn:
    """Ends the process. All files are closed and threads done: taking modules apart would change nothing."""
    from contextlib import suppress

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the command line has said so, or there is nobody to tell
            print(end="", file=stream, flush=True)  # which minds no stream that is closed
    os._exit(code)
