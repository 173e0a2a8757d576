"""Chooses what of a fuzzed corpus is kept in the repository: the smallest inputs that together reach most.

``python -m tests.fuzz.keep TARGET`` takes from ``.local/fuzz/TARGET/corpus`` what leads through pairs of
lines of the engine that no seed and no smaller input does. What is in ``tests/fuzz/corpus/TARGET`` stays.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import ros_to_parquet
from tests.fuzz.targets import CORPUS, TARGETS

MOST_BYTES = 48 << 10
"""In all, for a target."""

Pair = tuple[str, int, int]


def main(name: str) -> None:
    target = TARGETS[name]()
    folder = CORPUS / name
    reached: set[Pair] = set()
    kept = sorted(path.read_bytes() for path in folder.iterdir())
    for data in (*target.seeds.values(), *kept):
        reached |= pairs(target.check, data)
    size = sum(map(len, kept))
    fuzzed = (path.read_bytes() for path in Path(f".local/fuzz/{name}/corpus").iterdir())
    added = 0
    for data in sorted(fuzzed, key=len):
        if size + len(data) > MOST_BYTES:
            break
        if new := pairs(target.check, data) - reached:
            reached |= new
            size += len(data)
            added += 1
            (folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    print(f"{name}: {added} inputs added, {size:,} bytes in all, {len(reached):,} pairs of lines")


def pairs(check: Callable[[bytes], None], data: bytes) -> set[Pair]:
    """The pairs of lines of the engine, one run after the other, that an input leads through."""
    engine = str(Path(ros_to_parquet.__file__).parent)
    found: set[Pair] = set()

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(engine):
            return None
        before = 0

        def trace_lines(inner: FrameType, event: str, _argument: Any) -> Any:
            nonlocal before
            if event == "line":
                found.add((path, before, inner.f_lineno))
                before = inner.f_lineno
            return trace_lines

        return trace_lines

    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
