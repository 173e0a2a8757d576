"""docs/faults.md and docs/local.md name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_batch_ros.local.faults import KINDS, S3_ERRORS
from tests.faults.test_night import DRIVES

ROOT = Path(__file__).parents[2]
FILES = (
    "tests/faults/test_night.py",
    "tests/faults/test_submitting.py",
    "tests/engine/test_storage_faults.py",
    "tests/provider/test_plan.py",
)


def test_every_row_names_tests_and_drives_that_there_are() -> None:
    table = (ROOT / "docs" / "faults.md").read_text()
    tests = {name for file in FILES for name in re.findall(r"def (test_\w+)", (ROOT / file).read_text())}
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    named: set[str] = set()
    for row in rows:
        cell = row.split("|")[4]
        words = set(re.findall(r"`([^`]+)`", cell))
        assert words, f"no test: {row}"
        assert words <= tests | DRIVES.keys(), row
        named |= words
    assert DRIVES.keys() - named == {"nothing"}


def test_every_fault_is_in_the_table() -> None:
    text = (ROOT / "docs" / "local.md").read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` | `{kind.__name__}` |" in text
    for error in S3_ERRORS:
        assert f"`{error}`" in text
