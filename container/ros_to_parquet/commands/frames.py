"""``ros-to-parquet frames``: topics of a drive put together by time."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from typing import Any

from ros_to_parquet import contract
from ros_to_parquet.commands.arguments import (
    add_lake,
    add_memory_limit,
    add_sync,
    checked_sync,
    read_budget,
    read_sync,
)
from ros_to_parquet.commands.outcome import UsageError, fail
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.text import print_table, say


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    frames = commands.add_parser(
        "frames",
        help="topics of a drive put together by time, as a table",
        description="Makes a frames table of a drive in the lake: a row for each message of a topic, or at a "
        "fixed rate, with what other topics have at that time, and poses by TF. It is in "
        "LAKE/_frames/NAME/drive_id=ID/, and takes the place of an earlier one of that name.",
    )
    add_lake(frames, drive=True)
    add_sync(frames)
    frames.add_argument("--name", metavar="NAME", help="of the table (default: frames)")
    frames.add_argument("--reference", metavar="TOPIC", help="whose messages are the frames")
    frames.add_argument("--rate-hz", type=float, metavar="RATE", help="frames at a fixed rate instead")
    frames.add_argument(
        "--clock",
        choices=[str(clock) for clock in contract.Clock],
        help="time of a message: when it was recorded (default), or its header's stamp",
    )
    frames.add_argument(
        "--tolerance-ms",
        metavar="MS",
        help=f"how far a message may be from a frame (default: {contract.FRAMES_TOLERANCE_NS // 1_000_000}), "
        "or unlimited",
    )
    frames.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="TOPIC[=METHOD]",
        help=f"a column: {', '.join(contract.Match)} (default: nearest); may be given several times. Fields, "
        "and tolerances of single topics: by --sync",
    )
    frames.add_argument(
        "--pose",
        nargs=2,
        action="append",
        default=[],
        metavar=("PARENT", "CHILD"),
        help="a column: where the coordinate frame CHILD is in PARENT, by TF; may be given several times",
    )
    add_memory_limit(frames)
    frames.set_defaults(call=command_frames)


def command_frames(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.frames.errors import FramesError
    from ros_to_parquet.frames.make import write_frames
    from ros_to_parquet.storage import join, normalize

    flags = _sync_of_flags(arguments)
    if (arguments.sync is None) == (not flags):
        raise UsageError(
            "either --sync, or flags that say the table: --reference or --rate-hz, --topic, --pose"
        )
    tables = checked_sync(flags, "frames") if arguments.sync is None else read_sync(arguments.sync)
    budget = read_budget(arguments)
    for table in tables:
        begin = time.monotonic()
        try:
            made = write_frames(arguments.lake, arguments.drive_id, table, budget=budget)
        except FramesError as error:
            return fail(ExitCode.INPUT_MISSING, str(error))
        print_table(
            ("column", "of", "frames", "others are null"),
            [
                (each.column, each.source, f"{each.matched:,}", "; ".join(each.reasons))
                for each in made.columns
            ],
        )
        for problem in made.problems:
            say(f"! {problem}")
        seconds = time.monotonic() - begin
        print(f"{made.rows:,} frames, {made.size_bytes / 1e6:,.1f} MB in {seconds:.1f} s")
        say(join(normalize(arguments.lake), made.path))
    return int(ExitCode.OK)


def _sync_of_flags(arguments: argparse.Namespace) -> dict[str, object]:
    """What the flags of ``frames`` say, as ``sync`` has it."""
    topics: dict[str, dict[str, str]] = {}
    for text in arguments.topic:
        topic, _, method = text.partition("=")
        topics[topic] = {"method": method} if method else {}
    tolerance = arguments.tolerance_ms
    if tolerance is not None:
        with suppress(ValueError):  # "unlimited", or what parse_sync refuses in words
            tolerance = float(tolerance)
    said = {
        "name": arguments.name,
        "reference": arguments.reference,
        "rate_hz": arguments.rate_hz,
        "clock": arguments.clock,
        "tolerance_ms": tolerance,
        "topics": topics,
        "pose": [
            {"parent": parent, "child": child, "column": "pose" if number == 0 else f"pose_{number + 1}"}
            for number, (parent, child) in enumerate(arguments.pose)
        ],
    }
    return {key: value for key, value in said.items() if value not in (None, {}, [])}
