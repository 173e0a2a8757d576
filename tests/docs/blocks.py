"""The code blocks of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "container/README.md",
)

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.S | re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``line`` is that of its first line, in the page."""

    page: str
    line: int
    language: str
    body: str

    @property
    def commands(self) -> list[str]:
        """Of a console: what is typed, continued lines in one."""
        found: list[str] = []
        for line in self.body.splitlines():
            if line.startswith("$ "):
                found.append(line[2:])
            elif found and found[-1].endswith("\\"):
                found[-1] += "\n" + line
        return found


def blocks_of(page: str) -> Iterator[Block]:
    """In their order."""
    text = (ROOT / page).read_text()
    for found in _BLOCK.finditer(text):
        indent = len(found["indent"])
        body = "".join(line[indent:] for line in found["body"].splitlines(keepends=True))
        yield Block(page, text.count("\n", 0, found.start()) + 2, found["language"], body)
