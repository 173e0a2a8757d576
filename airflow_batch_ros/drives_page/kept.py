"""Answers that are kept for a while, each asked for once however many want it at a time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Kept:
    """At most ``size`` answers; the one that was asked for least recently goes first."""

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._asking: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, ask: Callable[[], T], *, seconds: float | Callable[[T], float]) -> T:
        """The answer by ``key``; by ``ask`` where none is kept that is young enough. An error is not kept.

        ``seconds`` is how long it is good for, or says so of the answer.
        """
        with self._lock:
            own = self._asking.setdefault(key, threading.Lock())
        with own:
            try:
                kept = self._find(key)
                if kept is not None:
                    return cast(T, kept[1])
                answer = ask()
                self.put(key, answer, seconds=seconds(answer) if callable(seconds) else seconds)
                return answer
            finally:
                with self._lock:
                    self._asking.pop(key, None)

    def put(self, key: Hashable, answer: Any, *, seconds: float) -> None:
        """Keeps an answer."""
        with self._lock:
            self._answers[key] = (self._clock() + seconds, answer)
            self._answers.move_to_end(key)
            while len(self._answers) > self._size:
                self._answers.popitem(last=False)

    def find(self, key: Hashable) -> Any:
        """The answer by ``key``; None where none is kept that is young enough."""
        kept = self._find(key)
        return None if kept is None else kept[1]

    def _find(self, key: Hashable) -> tuple[float, Any] | None:
        with self._lock:
            found = self._answers.get(key)
            if found is None or found[0] < self._clock():
                return None
            self._answers.move_to_end(key)
            return found
