"""Speed and memory of the engine, side by side with a message-by-message one, as ratios of one run.

    .venv/bin/python -m benchmarks [--scale 0.2] [--repeat 3]

Two generated bags stand for the field: ``telemetry`` (Imu, Odometry, TF, LaserScan, diagnostics, GPS) and
``sensor`` (JPEG cameras, a raw image, a lidar, a little telemetry), each as ROS 1 lz4 and as MCAP zstd. Every
measurement is a process of its own, start-up included; the contenders take turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.bags import make_bag

CONTENDERS = {
    "ros-to-parquet": [sys.executable, "-m", "ros_to_parquet.cli", "extract", "{bag}", "--output", "{out}"],
    "rosbags + pyarrow": [sys.executable, "-m", "benchmarks.naive", "{bag}", "{out}"],
}


COLUMNS = (
    "bag", "messages", "MB", "tool", "wall s", "CPU s", "peak MB", "Parquet MB",
    "messages/s", "MB/s", "ratio",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measurement:
    wall_s: float
    cpu_s: float
    peak_bytes: int
    output_bytes: int


def measure(command: list[str], bag: Path, scratch: Path) -> Measurement:
    """Runs one contender on one bag in a process of its own."""
    out = Path(tempfile.mkdtemp(dir=scratch))
    argv = [word.format(bag=bag, out=out) for word in command]
    begin = time.monotonic()
    child = os.posix_spawn(argv[0], argv, os.environ | {"PYTHONPATH": "."}, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(scratch / "stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ])  # fmt: skip
    _, status, usage = os.wait4(child, 0)
    wall_s = time.monotonic() - begin
    if status:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{(scratch / 'stderr').read_text()}")
    output_bytes = sum(path.stat().st_size for path in out.rglob("*.parquet"))
    shutil.rmtree(out)
    return Measurement(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10, output_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--scale", type=float, default=1.0, help="1.0: telemetry 230,000 messages, sensor 600 MB"
    )
    parser.add_argument("--repeat", type=int, default=3, help="medians of this many rounds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        scratch = Path(folder)
        cores = len(os.sched_getaffinity(0))
        python = sys.version.split()[0]
        print(f"{cores} cores, Python {python}, scale {arguments.scale}, {arguments.repeat} rounds\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for kind in ("telemetry", "sensor"):
            for suffix in (".bag", ".mcap"):
                bag = scratch / f"{kind}{suffix}"
                messages = _make_bag_elsewhere(bag, kind, arguments.scale)
                compare(bag, kind, messages, repeat=arguments.repeat, scratch=scratch)
                bag.unlink()


def _make_bag_elsewhere(bag: Path, kind: str, scale: float) -> int:
    """In a process of its own: a child's peak memory is at least its parent's when it was started."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make_bag, bag, kind, scale=scale).result()


def compare(bag: Path, kind: str, messages: int, *, repeat: int, scratch: Path) -> None:
    """Prints one table row a contender; the ratio is the naive one's median wall time to the row's."""
    runs: dict[str, list[Measurement]] = {name: [] for name in CONTENDERS}
    for _ in range(repeat):
        for name, command in CONTENDERS.items():
            runs[name].append(measure(command, bag, scratch))
    megabytes = bag.stat().st_size / 1e6
    slowest = statistics.median(each.wall_s for each in runs["rosbags + pyarrow"])
    for name, measured in runs.items():
        wall_s = statistics.median(each.wall_s for each in measured)
        cpu_s = statistics.median(each.cpu_s for each in measured)
        peak = max(each.peak_bytes for each in measured) / 1e6
        written = measured[0].output_bytes / 1e6
        print(
            f"| {kind}{bag.suffix} | {messages:,} | {megabytes:.0f} | {name} | {wall_s:.2f} | {cpu_s:.2f} "
            f"| {peak:.0f} | {written:.0f} | {messages / wall_s:,.0f} | {megabytes / wall_s:.0f} "
            f"| {slowest / wall_s:.1f}x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
