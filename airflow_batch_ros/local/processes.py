"""Small things about processes, locks and ports that the embedded AWS needs."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOWEST_PORT, _HIGHEST_PORT = 10_240, 32_000
"""Below the range that systems give out to outgoing connections."""

_BACKLOG = 128
_TAKEN = "port {} is taken; choose another one, or 0 for any"

PORT_TRIES = 5
"""A port that is free when it is chosen may be another's when it is listened on."""


def die_with_parent() -> Callable[[], None] | None:
    """A ``preexec_fn`` that has the kernel kill the child when the thread that started it ends.

    None where the kernel cannot do that (elsewhere than Linux).
    """
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    # Little may be done between fork and exec: it is looked up here, and PyDLL keeps the interpreter's lock.
    prctl = ctypes.PyDLL(None).prctl

    def request_death() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return request_death


def start_time(pid: int) -> str | None:
    """When the process ``pid`` started, in the kernel's clock ticks; None where there is none.

    With the pid it names a process for good: pids are used again. On systems without ``/proc``
    the answer is empty for any live process.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        return ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Fields are counted after the command's name, which may hold blanks and parentheses.
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return None if state == "Z" else fields[18]


def end_process(pid: int, started: str, *, patience_s: float) -> bool:
    """SIGTERM to exactly the process that ``pid`` and ``started`` name, SIGKILL after ``patience_s``.

    False where it was not there any more.
    """
    if start_time(pid) != started:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while start_time(pid) == started:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += patience_s
        time.sleep(0.02)
    return True


class FileLock:
    """An exclusive lock that the kernel drops when its holder ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self, *, patience_s: float = 0.3) -> bool:
        """Take the lock; False where another process holds it, for longer than `is_locked` needs to look."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(file)
                    return False
                time.sleep(0.005)
            else:
                self._file = file
                return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_locked(path: Path) -> bool:
    """Some process holds the `FileLock` over ``path``."""
    if not path.exists():
        return False
    lock = FileLock(path)
    if not lock.acquire(patience_s=0):
        return True
    lock.release()
    return False


def choose_port(asked: int, *, remembered: int, taken: Collection[int] = ()) -> int:
    """A port of the loopback interface: the one ``asked`` for, else the ``remembered`` one, else any.

    Zero is none. Any is a port on which nothing listens, outside the range that systems give out to
    outgoing connections, and not in ``taken``.

    Raises:
        OSError: something listens on the port that was asked for.
    """
    if asked:
        if not _is_free(asked):
            raise OSError(_TAKEN.format(asked))
        return asked
    candidates = random.sample(range(_LOWEST_PORT, _HIGHEST_PORT), k=_HIGHEST_PORT - _LOWEST_PORT)
    for port in (remembered, *candidates):
        if port and port not in taken and _is_free(port):
            return port
    raise OSError(f"nothing is free between ports {_LOWEST_PORT} and {_HIGHEST_PORT} of 127.0.0.1")


def listen(address: str, asked: int, *, remembered: int) -> socket.socket:
    """A socket that listens on a port of ``address``: as `choose_port` has it, or on another if that is lost.

    Raises:
        OSError: something listens on the port that was asked for, or many were lost.
    """
    lost: set[int] = set()
    while True:
        port = choose_port(asked, remembered=remembered, taken=lost)
        try:
            return socket.create_server((address, port), backlog=_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or len(lost) + 1 == PORT_TRIES:
                raise
            if asked:
                raise OSError(_TAKEN.format(asked)) from error
        lost.add(port)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what just ended does not matter
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
