"""Requests of several threads kept to a rate that the service takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_S = 0.5
"""A pause this long is made up for at once."""


class Pace:
    """Lets its callers pass at most ``per_s`` times a second, after a few that pass at once.

    >>> waited = []
    >>> pace = Pace(2.0, sleep=waited.append, clock=lambda: 0.0)
    >>> for _ in range(4):
    ...     pace.wait()
    >>> waited
    [0.0, 0.0, 0.5, 1.0]
    """

    def __init__(
        self,
        per_s: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = 1 / per_s
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._next_s = clock() - BURST_S

    def wait(self) -> None:
        """Sleeps until it is the caller's turn."""
        with self._lock:
            now_s = self._clock()
            at_s = max(self._next_s, now_s - BURST_S)
            self._next_s = at_s + self._interval_s
        self._sleep(max(0.0, at_s - now_s))
