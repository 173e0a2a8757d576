"""SECURITY.md names the tests that hold what it says: they are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_tests_that_are_named_exist() -> None:
    named, current = 0, ROOT
    for quoted in re.findall(r"`((?:tests/|test_|::test_)[^`]*)`", (ROOT / "SECURITY.md").read_text()):
        place, _, test = quoted.partition("::")
        if place.startswith("tests/"):
            current = ROOT / place
        elif place:
            (current,) = (ROOT / "tests").rglob(place)
        assert current.exists(), quoted
        assert not test or f"def {test}(" in current.read_text(), quoted
        named += 1
    assert named > 30


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "SECURITY.md").read_text()):
        assert (ROOT / target).exists(), target
