"""How the program begins and ends. That it runs, and with which exit codes, the other tests have."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SHOW = """
import os, platform
from ros_to_parquet import entry
calls = []
set_malloc = entry.set_malloc
entry.set_malloc = lambda: calls.append(set_malloc())
entry.tune()
print(os.environ["OPENBLAS_NUM_THREADS"], calls)
"""
HAS_GLIBC = platform.libc_ver()[0] == "glibc"

FREED = """
import ctypes
from ros_to_parquet import entry
{tune}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    with open("/proc/self/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[7])
taken = []
for _ in range(2):
    before = faults()
    memory = libc.malloc(16 << 20)
    ctypes.memset(memory, 1, 16 << 20)
    libc.free(memory)
    taken.append(faults() - before)
print(*taken)
"""


def said(code: str, **environment: str) -> str:
    """What a program prints."""
    own = ("GLIBC_TUNABLES", "OPENBLAS_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(not HAS_GLIBC, reason="glibc's settings")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults by /proc")
def test_memory_that_was_freed_is_kept_for_the_next_block() -> None:
    first, again = map(int, said(FREED.format(tune="entry.tune()")).split())
    assert again < first / 10
    first, again = map(int, said(FREED.format(tune="")).split())
    assert again > first / 2, "what the setting is for"


def test_settings_of_the_user_are_left() -> None:
    assert said(SHOW) == f"1 [{HAS_GLIBC}]"
    assert said(SHOW, GLIBC_TUNABLES="glibc.malloc.check=0", OPENBLAS_NUM_THREADS="3") == "3 []"


def test_a_closed_standard_output_is_no_fault() -> None:
    command = f"'{sys.executable}' -m ros_to_parquet transforms >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_printed_last_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from ros_to_parquet import entry; print('x' * 9000); entry.leave(7)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, len(done.stdout)) == (7, 9001)
