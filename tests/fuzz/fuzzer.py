"""Runs one target under atheris: ``python -m tests.fuzz.fuzzer TARGET FINDINGS``, and libFuzzer's arguments.

An input that raises is kept in the folder ``FINDINGS``, once for each place that raises, and fuzzing goes on.
A hang, too much memory or a crash of native code ends the process, as libFuzzer has it: ``__main__`` goes on.
"""

from __future__ import annotations

import hashlib
import random
import sys
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ros_to_parquet"]):
    import ros_to_parquet.bag.rosbag2_sqlite
    import ros_to_parquet.decoders  # noqa: F401
    from tests.fuzz.targets import TARGETS


def main(name: str, findings: Path, arguments: list[str]) -> None:
    target = TARGETS[name]()
    known: set[str] = set()

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except Exception as error:  # noqa: BLE001 (kept, and reported at the end)
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__}-{Path(last.filename).stem}-{last.name}-{last.lineno}"
            if place not in known:
                known.add(place)
                _keep(findings, place, data, error)

    def mutate(data: bytes, most_bytes: int, seed: int) -> bytes:
        return target.changed(data, most_bytes, random.Random(seed), atheris.Mutate)

    atheris.Setup([sys.argv[0], *arguments], check, custom_mutator=mutate)
    atheris.Fuzz()


def _keep(findings: Path, place: str, data: bytes, error: Exception) -> None:
    path = findings / f"{place}-{hashlib.sha256(data).hexdigest()[:8]}"
    if any(findings.glob(f"{place}-*")):
        return
    path.write_bytes(data)
    path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))
    print(f"FINDING {path}: {error!r:.300}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
