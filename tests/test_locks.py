"""What is installed is what was locked, by hash; and what an audit of it comes to is told honestly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = [
    "requirements.lock",
    "container/requirements.lock",
    "container/requirements-build.lock",
    "docker/aws.lock",
    "docker/demo.lock",
    "scripts/audit.lock",
]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_exact_versions_and_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    packages = re.split(r"\n(?=\S)", text.strip())
    assert packages
    for package in packages:
        first, *hashes = package.replace("\\\n", "\n").splitlines()
        assert re.match(r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==[^\s;]+( ; .+)?\s*$", first), first
        assert hashes, f"{first} has no hash"
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}\s*", each) for each in hashes), package
    assert "://" not in text, "a place to install from is for the machine to say"


@pytest.mark.parametrize(
    ("script", "locks"),
    [
        ("scripts/setup", 1),
        ("scripts/audit", 1),
        ("container/Dockerfile", 2),
        ("docker/Dockerfile", 3),
    ],
)
def test_locks_are_installed_by_their_hashes(script: str, locks: int) -> None:
    lines = (ROOT / script).read_text().replace("\\\n", " ").splitlines()
    installs = [line for line in lines if re.search(r"\binstall\b.*-r .*lock", line)]
    assert len(installs) == locks
    assert all("--require-hashes" in line for line in installs)


def test_every_lock_is_audited() -> None:
    (line,) = [
        line for line in (ROOT / "scripts/audit").read_text().splitlines() if line.startswith("for lock in")
    ]
    named = {path for glob in line.split(";")[0].split()[3:] for path in ROOT.glob(glob)}
    assert named == {ROOT / lock for lock in LOCKS}


GOOD = {"name": "one", "version": "1", "vulns": []}
BAD = {"name": "two", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "three", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("reports", "code", "said"),
    [
        ([[GOOD], [GOOD, GOOD]], 0, "b/c.lock: nothing is known of its 2 packages"),
        ([[GOOD], [GOOD, BAD]], 1, "b/c.lock: two 2: PYSEC-1, fixed in 2.1"),
        ([[SKIPPED], [BAD]], 1, "a.lock: 1 of 1 packages NOT AUDITED"),
        (
            [[GOOD], [GOOD, SKIPPED]],
            69,
            "b/c.lock: 1 of 2 packages NOT AUDITED: the service has no answer (three)",
        ),
        ([[GOOD], None], 69, "b/c.lock: its packages NOT AUDITED"),
    ],
)
def test_an_audit_that_was_not_done_is_none(reports: list[Any], code: int, said: str, tmp_path: Path) -> None:
    for name, packages in zip(("a.lock", "b:c.lock"), reports, strict=True):
        text = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
        (tmp_path / name).write_text(text)
    program = [sys.executable, str(ROOT / "scripts" / "audit_report.py"), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert said in done.stdout
