"""SIGTERM: what Batch sends before it takes an instance back, at a time-out, and when somebody ends a job.

The signal raises `TerminatedError` in the main thread, wherever that is, so that all that was begun is given
up on the way out; `deferred` keeps it from between two steps that belong together. It has thirty seconds:
whatever waits longer than `PATIENCE_S` for a store that does not answer is left where it is.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from ros_to_parquet.contract import ExitCode

PATIENCE_S: Final = 25.0
"""Until the process ends whatever it is at, so that its exit code is its own and not SIGKILL's."""

READER_PATIENCE_S: Final = 2.0
"""For a thread that reads: nothing is lost with it."""


class TerminatedError(BaseException):
    """The process was told to end.

    As little an `Exception` as ``KeyboardInterrupt`` is: libraries catch those, and S3's client tries again.
    """


class _Deferrals(threading.local):
    depth = 0


_deferrals = _Deferrals()
_asked = False
_pending = False


def listen() -> None:
    """From here on SIGTERM raises; to be called by the main thread."""
    global _asked, _pending
    _asked = _pending = False
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(*_: object) -> None:
    global _asked, _pending
    if _asked:  # a second one would break off what the first has begun to give up
        return
    _asked = True
    _thread.start_new_thread(
        _end_at_last, (PATIENCE_S,)
    )  # takes no lock that the main thread may hold just now
    if _deferrals.depth:
        _pending = True
    else:
        _raise()


def _end_at_last(patience_s: float) -> None:
    time.sleep(patience_s)
    os._exit(ExitCode.RETRY)


def _raise() -> NoReturn:
    raise TerminatedError("ended by SIGTERM; run it again, which goes on from what is done")


def asked() -> bool:
    """Whether SIGTERM has come."""
    return _asked


def check() -> None:
    """Raises `TerminatedError` if SIGTERM has come: Python drops what is raised in a destructor."""
    if _asked:
        _raise()


@contextmanager
def deferred() -> Iterator[None]:
    """SIGTERM in here raises at the end of it. For steps that are short, or have to be done together."""
    global _pending
    _deferrals.depth += 1
    try:
        yield
    finally:
        _deferrals.depth -= 1
        # Instead of an error in here, too: the process is to end, and what failed is tried again.
        if _pending and not _deferrals.depth and threading.current_thread() is threading.main_thread():
            _pending = False
            _raise()


def leave(code: int) -> NoReturn:
    """Ends the process, without waiting for threads that wait for a store."""
    os._exit(code)
