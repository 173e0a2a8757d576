"""The engine from S3 to S3, beside a plain download of the same object."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.cache import Bag
from benchmarks.measure import Measurement

BUCKET = "benchmarks"


@dataclass(frozen=True, slots=True)
class FromS3:
    """``requests`` by method, of a whole extraction; ``first_byte_s`` from the process' start."""

    bag: Bag
    ours: Measurement
    download: Measurement
    requests: Mapping[str, int]
    bag_requests: int
    first_byte_s: float


class Server:
    """The client's side of ``s3_server``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._about = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise measure.ProcessError("the S3 server ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, question: dict[str, str]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        return self._answer()

    def environment(self, *, counted: bool = False) -> dict[str, str]:
        """Of a process that is to find the server; ``counted`` through its proxy."""
        return {
            "AWS_ENDPOINT_URL_S3": str(self._about["proxy" if counted else "url"]),
            "AWS_ACCESS_KEY_ID": str(self._about["key"]),
            "AWS_SECRET_ACCESS_KEY": str(self._about["secret"]),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def serving(scratch: Path) -> Iterator[Server]:
    """A server over an empty folder, gone afterwards."""
    with measure.folder(scratch) as folder:
        process = subprocess.Popen(
            measure.module("benchmarks.s3_server", str(folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=measure.environment(),
        )
        assert process.stdin is not None
        try:
            yield Server(process)
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def from_s3(bag: Bag, server: Server, *, repeat: int, scratch: Path) -> FromS3:
    """Timed straight against the server; requests and the first byte through the proxy."""
    key = f"drives/{bag.kind}/{bag.path.name}"
    uri = f"s3://{BUCKET}/{key}"
    server.ask({"upload": str(bag.path), "key": key})
    ours, download = [], []
    for number in range(repeat):
        lake = f"s3://{BUCKET}/lakes/{bag.path.name}-{number}"
        ours.append(measure.run(measure.extract(uri, lake), scratch, extra=server.environment()))
        plain = measure.module("benchmarks.download", uri)
        download.append(measure.run(plain, scratch, extra=server.environment()))
    firsts = []
    for number in range(repeat):
        lake = f"s3://{BUCKET}/counted/{bag.path.name}-{number}"
        server.ask({"requests": ""})
        begin = time.monotonic()
        measure.run(measure.extract(uri, lake), scratch, extra=server.environment(counted=True))
        seen = server.ask({"requests": ""})["requests"]
        reads = [each for each in seen if each["method"] == "GET" and each["path"] == f"/{BUCKET}/{key}"]
        firsts.append(min(each["at"] for each in reads) - begin)
    return FromS3(
        bag,
        measure.median(ours),
        measure.median(download),
        Counter(each["method"] for each in seen),
        len(reads),
        statistics.median(firsts),
    )
