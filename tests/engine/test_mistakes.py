"""Mistakes on the command line: each is a line that says it and an exit code that fits, and no traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ros_to_parquet.cli import main
from ros_to_parquet.commands.outcome import explain
from ros_to_parquet.contract import ExitCode
from tests.engine.sample_bags import write_bag

DEEP = "[" * 200_000
EMPTY = "an empty path names no place"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a drive ``d``, a file of JSON that is too deep to be read, and an empty folder."""
    place = tmp_path_factory.mktemp("place")
    write_bag(place / "a.bag", messages=2)
    (place / "deep.json").write_text(DEEP)
    (place / "folder").mkdir()
    words = ["extract", str(place / "a.bag"), "--output", str(place / "lake"), "--drive-id", "d"]
    assert main(words) == ExitCode.OK
    return place


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["frames", "lake", "--drive-id", "d", "--sync", "deep.json"], ExitCode.USAGE, "--sync: not JSON"),
        (["frames", "lake", "--drive-id", "d", "--sync", ""], ExitCode.USAGE, EMPTY),
        (["frames", "lake", "--drive-id", "d", "--sync", "folder"], ExitCode.INPUT_MISSING, "a folder, not"),
        (["extract", "a.bag", "--output", "x", "--quality", "deep.json"], ExitCode.USAGE, "--quality: not J"),
        (["extract", "a.bag", "--output", "x", "--drive-id", ""], ExitCode.USAGE, "drive id ''"),
        (["run", "--plan", "deep.json"], ExitCode.PLAN_REFUSED, "deep.json: not JSON"),
        (["fleet", "lake", "--near", ""], ExitCode.USAGE, "expected LAT,LON,KM"),
        (
            ["fleet", "lake", "--since", "2", "--until", "1"],
            ExitCode.USAGE,
            "--since 2 is not before --until 1",
        ),
        (
            ["rebuild", "lake", "--drive-id", "d", "--output", "x.mcap", "--from", "9" * 20],
            ExitCode.USAGE,
            f"--from {'9' * 20} is not before the last time that there is",
        ),
        (["report", "lake", "--drive-id", "d", "--output", ""], ExitCode.USAGE, EMPTY),
        (["finish", "lake", "--drive-id", "d", "--catalog", ""], ExitCode.USAGE, "iceberg:NAME"),
    ],
)
def test_a_mistake_is_said_in_a_line(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    code: ExitCode,
    said: str,
) -> None:
    monkeypatch.chdir(place)
    assert main(command) == code
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["exit_code"]) == ("failed", code)
    assert said in event["reason"]
    assert not Path("x").exists()


def extract_without_rights(lake: Path, *bags: Path) -> subprocess.CompletedProcess[str]:
    """``extract`` as who may not read everything, which root may."""
    words = [sys.executable, "-m", "ros_to_parquet", "extract", *map(str, bags), "--output", str(lake)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root, and nothing to give up its rights with")
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag", messages=2)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    done = extract_without_rights(tmp_path / "lake", tmp_path / "a.bag", closed)
    assert done.returncode == ExitCode.ACCESS_DENIED
    assert f"{closed}: permission denied" in done.stderr
    assert not (tmp_path / "lake").exists()


def test_a_folder_below_that_may_not_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    write_bag(tmp_path / "bags" / "a.bag", messages=2)
    closed = tmp_path / "bags" / "lost+found"
    closed.mkdir(mode=0o000)
    done = extract_without_rights(tmp_path / "lake", tmp_path / "bags")
    assert done.returncode == ExitCode.OK
    said = [json.loads(line) for line in done.stderr.splitlines()]
    (left_out,) = [each for each in said if each["event"] == "folder_left_out"]
    assert (left_out["folder"], left_out["reason"]) == (str(closed), "Permission denied")


def test_no_catalogue_is_made_of_a_lake_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyiceberg")
    words = ["catalog", str(tmp_path / "none"), "iceberg:drives", "--property", "type=sql"]
    assert main([*words, "--property", f"uri=sqlite:///{tmp_path}/catalog.db"]) == ExitCode.INPUT_MISSING
    assert "no lake is there" in capsys.readouterr().err


def test_a_full_scratch_disk_is_no_fault_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, reason = explain(OSError(errno.ENOSPC, "No space left on device"))
    assert (code, f"No space left on device; scratch is {tmp_path}: make room" in reason) == (73, True)
