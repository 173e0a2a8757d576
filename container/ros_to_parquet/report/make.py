"""Makes the report of a drive in a lake."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from ros_to_parquet import contract, finish
from ros_to_parquet.lake import Lake, ReplacedError, check_whole, list_commits, scan_drive
from ros_to_parquet.log import now
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget
from ros_to_parquet.report import page
from ros_to_parquet.report.clouds import find_clouds
from ros_to_parquet.report.drive import Drive, describe_scan
from ros_to_parquet.report.frame_tree import find_tree
from ros_to_parquet.report.frames import find_frames
from ros_to_parquet.report.rates import measure_rate
from ros_to_parquet.report.series import find_series
from ros_to_parquet.report.tables import Tables
from ros_to_parquet.report.track import find_track
from ros_to_parquet.storage import join, open_storage

T = TypeVar("T")

_TRIES = 3


class ReportError(LookupError):
    """There is no such drive in the lake; the message says which there are."""


def make_report(
    lake: Lake, drive_id: str, *, budget: MemoryBudget = DEFAULT_BUDGET, ends_at: float = math.inf
) -> tuple[Drive, str]:
    """What the manifests say of the drive, and its report as HTML.

    Args:
        ends_at: on the monotonic clock: each part of the report stops to read at its share of the time.

    Raises:
        ReportError: the lake has nothing of it.
    """
    drive = _read_drive(lake, drive_id)
    if not drive.shards:
        there = lake.drives()
        names = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        raise ReportError(f"{lake.uri}: no drive {drive_id!r}; there are {names or 'none'}")
    tables, axis = Tables(lake.uri, topics=len(drive.topics)), drive.time_axis()
    begin = time.monotonic()
    cut_short: list[str] = []

    def part(name: str, until: float, read: Callable[[], T]) -> T:
        tables.ends_at, tables.out_of_time = begin + until * (ends_at - begin), False
        result = read()
        if tables.out_of_time:
            cut_short.append(name)
        return result

    # What is left of the time at the end is for drawing.
    found = page.Found(
        rates=part("timeline", 0.3, lambda: [measure_rate(tables, axis, topic) for topic in drive.topics]),
        track=part("track", 0.35, lambda: find_track(tables, drive)),
        sheet=part("cameras", 0.5, lambda: find_frames(tables, drive, memory_bytes=budget.limit)),
        clouds=part("lidar", 0.55, lambda: find_clouds(tables, drive)),
        tree=part("frames", 0.6, lambda: find_tree(tables, drive)),
        series=part("fields", 0.8, lambda: find_series(tables, drive, axis)),
        cut_short=tuple(cut_short),
    )
    draw_until = begin + 0.95 * (ends_at - begin)
    return drive, page.render(drive, axis, found, lake=lake.uri, made_at=now(), draw_until=draw_until)


def _read_drive(lake: Lake, drive_id: str) -> Drive:
    for tries_left in reversed(range(_TRIES)):
        try:
            scan = scan_drive(open_storage(lake.uri), lake.uri, drive_id)
            check_whole(lake.uri, drive_id, scan.lacking)
            return describe_scan(drive_id, scan)
        except ReplacedError:
            if not tries_left:
                raise
    raise AssertionError


def write_report(about: finish.Drive) -> str:
    """Makes a drive's report as a finishing step; its path, relative to the lake.

    Raises:
        StepError: the drive is gone.
    """
    path = contract.report_key(about.drive_id)
    for _ in range(_TRIES):
        commits = list_commits(about.storage, about.output, about.drive_id)
        try:
            _, text = make_report(
                Lake(about.output), about.drive_id, budget=about.budget, ends_at=about.ends_at
            )
        except ReportError as error:
            raise finish.StepError(str(error)) from error
        about.storage.write(join(about.output, path), text.encode())
        # Another run may have committed meanwhile, and written its report before this older one.
        if list_commits(about.storage, about.output, about.drive_id) == commits:
            break
    return path
