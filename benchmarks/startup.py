"""From the start of the engine's process to the first byte of a bag that it reads."""

from __future__ import annotations

import ctypes
import os
import select
import statistics
import threading
import time
from pathlib import Path

from benchmarks import measure
from benchmarks.cache import Bag

_IN_ACCESS = 0x1
_IN_NONBLOCK = 0o4000


def first_read_s(bag: Bag, *, repeat: int, scratch: Path) -> float:
    """Median seconds, by inotify: the kernel says when the file is first read. Linux only."""
    return statistics.median(_first_read_s(bag.path, scratch) for _ in range(repeat))


def _first_read_s(bag: Path, scratch: Path) -> float:
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(_IN_NONBLOCK)
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(bag), _IN_ACCESS) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    seen: list[float] = []

    def wait() -> None:
        if select.select([watch], [], [], measure.TIMEOUT_S)[0]:
            seen.append(time.monotonic())

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    try:
        with measure.folder(scratch) as out:
            begin = time.monotonic()
            measure.run(measure.extract(bag, out), scratch)
        waiter.join(1.0)
    finally:
        os.close(watch)
    if not seen:
        raise measure.ProcessError("the bag was never read")
    return seen[0] - begin
