"""A name of a process that its machine can tell alive from dead by, also when its number was given again."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def own() -> str:
    """Of this process; empty where the system does not tell enough (it is no Linux)."""
    return _name(os.getpid()) or ""


def is_alive(process: str) -> bool | None:
    """Whether the process of that name runs; None where this machine cannot know (another one's, or none)."""
    machine, _, pid = process.rpartition(" ")[0].rpartition(" ")
    here = _machine()
    if not here or machine != here:
        return None
    return _name(int(pid)) == process


def in_words(process: str) -> str:
    """For people.

    >>> in_words("host boot pid:[1] 17 2000")
    'process 17 on host'
    """
    words = process.split(" ")
    return f"process {words[-2]} on {words[0]}"


def _machine() -> str:
    """This machine since it was started, and the container on it; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _name(pid: int) -> str | None:
    """None where there is no such process, or it has ended and nobody has asked for its exit code."""
    machine = _machine()
    try:
        # Name in brackets, which may hold anything; then state, ... and the 22nd field, its start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{machine} {pid} {fields[19]}" if machine and fields[0] not in "ZX" else None
