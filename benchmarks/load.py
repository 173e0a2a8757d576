"""A fleet's night planned, submitted, waited for and summed up: requests, seconds, memory, bytes in Airflow.

The embedded AWS holds the drives; its Batch is busy, so that every job waits as RUNNABLE until it is ended.
Each step is a process of its own (`load_steps`), as a task of Airflow is. The bags, of a few bytes each, are
made once and kept: planning lists them and opens none.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.cache import CACHE
from benchmarks.load_steps import BAG_BYTES, THREADS, Task
from benchmarks.report import Table

BUCKET = "load-drives"
BIG_DRIVE = "big_drive"

AWS_LATENCY_S = 0.03
"""What a small request to S3 or Batch of one's own region takes, about: added to each in one of the steps."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much: drives, bags in each (every bag is a shard), and bags of one big drive."""

    drives: int = 1000
    bags: int = 100
    big: int = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """What a step said of itself; see `load_steps`."""

    name: str
    seconds: float
    cpu_s: float
    calls: Mapping[str, int]
    start_bytes: int
    peak_bytes: int
    sizes: Mapping[str, int]


def measure_all(load: Load, scratch: Path, say: Callable[[str], None]) -> list[Step]:
    """All steps, one after another."""
    from airflow_batch_ros.local import EmbeddedAws, ServerOptions

    # A job holds the only place that there is; all others wait for it.
    busy = ServerOptions(entrypoint=("sh", "-c", "sleep infinity"), slots=1, kill_grace_s=1.0)
    steps = []
    with EmbeddedAws(CACHE / "load", buckets=[BUCKET], options=busy) as aws:
        _make_bags(aws, load, say)
        _fill_queue(aws)
        many = [f"drive_{number:04d}" for number in range(load.drives)]
        for lake, drives, wanted in (
            ("many", many, ("submit", "submit again", "poll", "end", "status", "sum up")),
            ("slow", many, ("submit, slow",)),
            ("big", [BIG_DRIVE], ("submit", "end", "status", "sum up", "retry", "finish", "commit")),
        ):
            with _bucket(aws, f"load-lake-{lake}") as output:
                for name in wanted:
                    say(f"{lake}: {name}")
                    slow = name.endswith("slow")
                    task = Task(
                        step=name.split(",")[0].removesuffix(" again").replace(" ", "_"),
                        bucket=BUCKET,
                        drives=drives,
                        lake=output,
                        jobs=str(scratch / f"{lake}.json"),
                        latency_s=AWS_LATENCY_S if slow else 0.0,
                    )
                    steps.append(_run(aws, f"{lake}: {name}", task, scratch))
    return steps


def _run(aws: Any, name: str, task: Task, scratch: Path) -> Step:
    airflow = {
        "AIRFLOW_HOME": str(scratch / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{scratch}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }
    command = measure.module("benchmarks.load_steps", json.dumps(asdict(task)))
    environment = measure.environment({**aws.environment(), **airflow})
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return Step(name, **json.loads(done.stdout.splitlines()[-1]))


def _make_bags(aws: Any, load: Load, say: Callable[[str], None]) -> None:
    """Bags whose names and sizes are a recorder's, a prefix a drive; those that an earlier run made stay."""
    s3 = aws.client("s3")
    wanted = {f"drive_{number:04d}": load.bags for number in range(load.drives)} | {BIG_DRIVE: load.big}
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    there = {item["Key"] for page in pages for item in page.get("Contents", [])}
    keys = [f"{drive}/bag_{number:05d}.bag" for drive, count in wanted.items() for number in range(count)]
    missing = [key for key in keys if key not in there]
    if missing:
        say(f"making {len(missing)} objects")
    with ThreadPoolExecutor(THREADS) as pool:
        list(
            pool.map(
                lambda key: s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode().ljust(BAG_BYTES)), missing
            )
        )


def _fill_queue(aws: Any) -> None:
    """Takes Batch's only place with a job that does not end."""
    aws.client("batch").submit_job(jobName="busy", jobQueue="ros-to-parquet", jobDefinition="ros-to-parquet")


@contextlib.contextmanager
def _bucket(aws: Any, name: str) -> Iterator[str]:
    """URI in an empty bucket, which is emptied again at the end."""
    aws.ensure_buckets(name)
    s3 = aws.client("s3")

    def empty() -> None:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
            if keys := [{"Key": item["Key"]} for item in page.get("Contents", [])]:
                s3.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})

    empty()  # what a run that was killed has left
    try:
        yield f"s3://{name}/lake"
    finally:
        empty()


def tables(load: Load, steps: Sequence[Step]) -> list[Table]:
    """Requests, seconds and memory; then sizes."""
    rows = [
        (
            step.name,
            f"{step.seconds:.1f}",
            f"{step.cpu_s:.1f}",
            f"{sum(step.calls.values()):,}",
            ", ".join(f"{name} {count:,}" for name, count in sorted(step.calls.items())),
            f"{step.start_bytes / 1e6:.0f}",
            f"{step.peak_bytes / 1e6:.0f}",
        )
        for step in steps
    ]
    sizes = [(step.name, name, f"{size:,}") for step in steps for name, size in step.sizes.items()]
    title = (
        f"{load.drives:,} drives of {load.bags:,} bags, each a shard; one of {load.big:,}; "
        f"slow: {AWS_LATENCY_S * 1000:.0f} ms more a request"
    )
    return [
        Table(title, ("step", "s", "CPU s", "requests", "of them", "MB before", "MB at most"), rows),
        Table("Bytes", ("step", "what", "bytes"), sizes),
    ]
