"""Fuzzes one target for so many seconds: ``python -m tests.fuzz TARGET SECONDS`` (see scripts/fuzz).

Inputs that reach something new are kept in ``.local/fuzz/TARGET/corpus``, where the next run goes on from;
what fails in ``.local/fuzz/TARGET/findings``. ``python -m tests.fuzz TARGET FILE`` tries one input.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from ros_to_parquet.memory import IMPORT_BYTES, LEAST_LIMIT_BYTES
from tests.fuzz.targets import CORPUS, TARGETS

HANG_SECONDS = 10
RUNS = 5000
"""After so many a new process begins: atheris never gives back the result of a comparison of arrays."""

SLACK_BYTES = 2 << 30
"""For what the fuzzer keeps so. Each input's own memory is held to the limit by the targets."""

_STATUS = re.compile(r"^#(\d+)\s.*cov: (\d+) ft: (\d+)")


def main(name: str, what: str) -> int:
    if name not in TARGETS:
        print(f"no target {name!r}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if not what.isdecimal():
        TARGETS[name]().check(Path(what).read_bytes())
        print(f"{what}: nothing wrong")
        return 0
    return fuzz(name, int(what))


def fuzz(name: str, seconds: int) -> int:
    folder = Path(".local/fuzz") / name
    corpus, seeds, findings = (folder / each for each in ("corpus", "seeds", "findings"))
    for each in (corpus, seeds, findings):
        each.mkdir(parents=True, exist_ok=True)
    for seed, data in TARGETS[name]().seeds.items():
        (seeds / seed).write_bytes(data)
    limit_bytes = IMPORT_BYTES + LEAST_LIMIT_BYTES + SLACK_BYTES
    end = time.monotonic() + seconds
    executions = edges = features = 0
    while (left := int(end - time.monotonic())) > 0:
        arguments = [
            f"-max_total_time={left}",
            f"-runs={RUNS + len(list(corpus.iterdir()))}",
            f"-timeout={HANG_SECONDS}",
            f"-rss_limit_mb={limit_bytes >> 20}",
            f"-artifact_prefix={findings}/",
            *("-max_len=65536", "-len_control=0"),
            *map(str, (corpus, seeds, CORPUS / name)),
        ]
        command = [sys.executable, "-m", "tests.fuzz.fuzzer", name, str(findings), *arguments]
        here = 0
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if status := _STATUS.match(line):
                    here = int(status[1])
                    edges, features = max(edges, int(status[2])), max(features, int(status[3]))
        executions += here
        if process.returncode and not here:
            return 1  # it does not even begin
    found = sorted(path.name for path in findings.iterdir() if path.suffix != ".txt")
    print(
        f"{name}: {executions:,} executions in {seconds:,} s, {edges:,} edges, {features:,} features, "
        f"{len(found)} findings{' in ' + str(findings) if found else ''}",
        *found,
        sep="\n  ",
    )
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(main(*sys.argv[1:]))
