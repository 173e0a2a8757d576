"""``ros-to-parquet report``: a drive as one HTML page."""

from __future__ import annotations

import argparse
from typing import Any

from ros_to_parquet import contract
from ros_to_parquet.commands.arguments import add_lake
from ros_to_parquet.commands.outcome import UsageError, fail
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.text import say


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    report = commands.add_parser(
        "report",
        help="a drive in the lake as one HTML page",
        description="What a drive is and whether it is all there: topics over time and their gaps, the "
        "track, frames of cameras, a lidar cloud, numeric fields, coordinate frames, bags and shards, in one "
        "file that needs no network.",
    )
    add_lake(report, drive=True)
    report.add_argument(
        "--output",
        metavar="FILE",
        help="HTML file to write; path or URI (default: in the lake, _reports/drive_id=ID/report.html)",
    )
    report.set_defaults(call=command_report)


def command_report(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.lake import Lake
    from ros_to_parquet.report.make import ReportError, make_report
    from ros_to_parquet.storage import NotAFileError, NotFoundError, join, normalize, open_storage

    lake = Lake(arguments.lake)
    inside = join(lake.uri, contract.report_key(arguments.drive_id))
    uri = normalize(inside if arguments.output is None else arguments.output)
    try:
        open_storage(uri).head(uri)
    except NotAFileError as error:
        raise UsageError(f"--output {error}") from error
    except NotFoundError:
        pass
    try:
        drive, page = make_report(lake, arguments.drive_id)
    except ReportError as error:
        return fail(ExitCode.INPUT_MISSING, str(error))
    open_storage(uri).write(uri, page.encode())
    print(f"{drive.messages:,} messages of {len(drive.topics)} topics, {len(page.encode()) / 1e6:.1f} MB")
    say(uri)
    return int(ExitCode.OK)
