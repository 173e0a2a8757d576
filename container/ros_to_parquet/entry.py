"""Where the program ``ros-to-parquet`` begins and ends: what is set before anything large is imported."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

ENVIRONMENT = {
    "GLIBC_TUNABLES": ":".join(
        (
            f"glibc.malloc.mmap_threshold={32 << 20}",  # blocks of messages come and go: they are kept
            f"glibc.malloc.trim_threshold={64 << 20}",
            "glibc.malloc.arena_max=1",  # what one thread frees another can have; Arrow has its own allocator
        )
    ),
    "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would wait for work in a busy loop
}
"""What a process that extracts is to be started with; the image says it too."""

_BEGUN_AGAIN = "ROS_TO_PARQUET_BEGUN_AGAIN"

_GC_THRESHOLD = 100_000
"""Allocations between two collections. Importing makes as many objects, of which none is garbage."""


def main() -> NoReturn:
    """Runs a command and ends the process with its exit code."""
    tune()
    from ros_to_parquet import cli

    leave(cli.main())


def tune() -> None:
    """Sets this process up for large buffers.

    glibc reads its settings once, before a program runs. Where they are not set, the program begins again in
    the same process, with the same words; once, for a loader takes the settings away from an interpreter that
    has capabilities of its own.
    """
    gc.set_threshold(_GC_THRESHOLD)
    if not {"GLIBC_TUNABLES", _BEGUN_AGAIN} & os.environ.keys() and _has_glibc():
        environment = ENVIRONMENT | {_BEGUN_AGAIN: "1"} | os.environ
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", ENVIRONMENT["OPENBLAS_NUM_THREADS"])


def leave(code: int) -> NoReturn:
    """Ends the process. All files are closed and threads done: taking modules apart would change nothing."""
    print(end="", flush=True)  # which minds no stream that is closed
    print(end="", file=sys.stderr, flush=True)
    os._exit(code)


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # another system, or another C library
        return False
