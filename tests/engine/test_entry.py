"""How the program begins and ends. That it runs, and with which exit codes, the other tests have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ros_to_parquet import entry

DOCKERFILE = Path(__file__).parents[2] / "container" / "Dockerfile"
SHOW = """
import os, sys
from ros_to_parquet import entry
print("begun", os.getpid(), flush=True)
entry.tune()
print(os.environ.get("GLIBC_TUNABLES"), os.environ.get("OPENBLAS_NUM_THREADS"), *sys.argv[1:], flush=True)
"""


def show(**environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in entry.ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, "two words"],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(not entry._has_glibc(), reason="glibc's settings")
def test_the_program_begins_again_with_settings_that_are_read_once() -> None:
    first, second, last = show()
    assert first == second, "another process"
    assert last.split(maxsplit=2) == [*(entry.ENVIRONMENT[name] for name in entry.ENVIRONMENT), "two words"]


@pytest.mark.skipif(not entry._has_glibc(), reason="glibc's settings")
def test_it_begins_again_once_where_a_loader_takes_the_settings_away() -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in entry.ENVIRONMENT}
    lost = f"import os\nos.environ.pop('GLIBC_TUNABLES', None)\n{SHOW}"
    done = subprocess.run(
        [sys.executable, "-c", lost], env=inherited, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.count("begun") == 2


def test_a_closed_standard_output_is_no_fault() -> None:
    command = f"'{sys.executable}' -m ros_to_parquet transforms >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_settings_of_the_user_are_left() -> None:
    begun, last = show(GLIBC_TUNABLES="glibc.malloc.check=0", OPENBLAS_NUM_THREADS="3")
    assert begun.startswith("begun")
    assert last.split(maxsplit=2) == ["glibc.malloc.check=0", "3", "two words"]


def test_what_is_printed_last_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from ros_to_parquet import entry; print('x' * 9000); entry.leave(7)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, len(done.stdout)) == (7, 9001)


def test_the_image_says_the_same() -> None:
    lines = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    said = dict(word.split("=", 1) for line in lines if line.startswith("ENV ") for word in line.split()[1:])
    assert said.items() >= entry.ENVIRONMENT.items()
