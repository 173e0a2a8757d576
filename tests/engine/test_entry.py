"""How the program begins and ends. That it runs, and with which exit codes, the other tests have."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ros_to_parquet.contract import ExitCode
from tests.engine.sample_bags import write_bag

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


FULL = Path("/dev/full")
FAULT = "standard output cannot be written: No space left on device"
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="a device that is always full")
both_ways = pytest.mark.parametrize("buffered", [True, False])


def shell(command: str, *, buffered: bool = True) -> subprocess.CompletedProcess[str]:
    """``PROGRAM`` in the command is ``ros-to-parquet``."""
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    command = command.replace("PROGRAM", f"'{sys.executable}' -m ros_to_parquet")
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )


@needs_full
@both_ways
@pytest.mark.parametrize("command", ["transforms", "--help", "extract BAG --output LAKE"])
def test_a_full_disk_behind_standard_output_is_said_in_a_line(
    tmp_path: Path, command: str, buffered: bool
) -> None:
    write_bag(tmp_path / "a.mcap", messages=2)
    words = command.replace("BAG", f"'{tmp_path}/a.mcap'").replace("LAKE", f"'{tmp_path}/lake'")
    done = shell(f"PROGRAM {words} > {FULL}", buffered=buffered)
    assert done.returncode == ExitCode.OUTPUT_FAILED
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["exit_code"], last["reason"]) == ("failed", 73, FAULT)
    assert "Traceback" not in done.stderr
    assert FULL.is_char_device()


@needs_full
@both_ways
def test_who_prints_nothing_minds_no_full_disk(buffered: bool) -> None:
    done = shell(f"PROGRAM info no.bag > {FULL}", buffered=buffered)
    assert (done.returncode, len(done.stderr.splitlines())) == (ExitCode.INPUT_MISSING, 1)


@both_ways
@pytest.mark.parametrize("words", ["transforms", "--help"])
def test_a_reader_that_has_gone_is_no_fault(words: str, buffered: bool) -> None:
    # Whoever reads has ended for certain before anything is written.
    done = shell(f"(sleep 0.1; PROGRAM {words}; echo $? >&2) | true", buffered=buffered)
    assert done.stderr == "0\n"


INTERRUPTED_AT = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupts(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[-1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

from ros_to_parquet import entry
sys.meta_path.insert(0, Interrupts())
entry.main()
"""


@pytest.mark.parametrize(
    "module",
    ["ros_to_parquet.cli", "ros_to_parquet.contract", "ros_to_parquet.commands.outcome", "argparse"],
)
def test_interrupted_while_modules_are_imported_it_ends_as_it_does_later(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, module], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (ExitCode.RETRY, "")
    said = json.loads(done.stderr)
    assert (said["event"], said["exit_code"], said["reason"]) == ("failed", 75, "interrupted")


def test_little_is_imported_before_an_interrupt_is_caught() -> None:
    code = "import sys; old = set(sys.modules); import ros_to_parquet.entry; print(*set(sys.modules) - old)"
    assert set(said(code).split()) == {"__future__", "gc", "ros_to_parquet", "ros_to_parquet.entry"}
