"""``ros-to-parquet rebuild``: Parquet back to a bag."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from ros_to_parquet import contract
from ros_to_parquet.commands.arguments import add_lake, add_topic_globs, parse_time
from ros_to_parquet.commands.outcome import UsageError, fail
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.text import print_table, say

if TYPE_CHECKING:
    from ros_to_parquet.rebuild import Rebuilt


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    back = commands.add_parser(
        "rebuild",
        help="Parquet back to a bag",
        description="Writes the recorded messages of a drive, or some of them, from the lake to an MCAP file "
        "that ROS 2, Foxglove and the mcap tools open. TIME is ISO 8601 (UTC unless it says otherwise) or "
        "seconds since 1970, with up to nine decimals.",
    )
    add_lake(back, drive=True)
    back.add_argument("--output", required=True, metavar="BAG", help="MCAP file to write; path or URI")
    add_topic_globs(back)
    back.add_argument("--from", dest="start", metavar="TIME", help="first log time to take")
    back.add_argument("--to", dest="stop", metavar="TIME", help="first log time not to take")
    back.set_defaults(call=command_rebuild)


def command_rebuild(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.lake import Lake
    from ros_to_parquet.rebuild import RebuildError, Window, rebuild

    window = Window()
    if arguments.start is not None:
        window = dataclasses.replace(window, start_ns=parse_time(arguments.start))
    if arguments.stop is not None:
        window = dataclasses.replace(window, stop_ns=parse_time(arguments.stop))
    if contract.bag_format(arguments.output) not in (None, "mcap"):
        raise UsageError(f"--output {arguments.output}: what is written is an MCAP file; name it .mcap")
    if window.start_ns >= window.stop_ns:
        stop = "the last time that there is" if arguments.stop is None else f"--to {arguments.stop}"
        raise UsageError(f"--from {arguments.start} is not before {stop}")
    begin = time.monotonic()
    try:
        rebuilt = rebuild(
            Lake(arguments.lake),
            arguments.drive_id,
            arguments.output,
            topics=contract.ExtractOptions(tuple(arguments.topics), tuple(arguments.exclude)),
            window=window,
        )
    except RebuildError as error:
        return fail(ExitCode.INPUT_MISSING, str(error))
    print_rebuilt(rebuilt, arguments.output, seconds=time.monotonic() - begin)
    return int(ExitCode.OK)


def print_rebuilt(rebuilt: Rebuilt, output: str, *, seconds: float) -> None:
    """Prints what was written of each topic, and what of the recorded bags cannot be in it."""
    print_table(
        ("topic", "type", "messages"),
        [(topic.topic, topic.type_name, f"{topic.messages:,}") for topic in rebuilt.topics],
    )
    for topic in rebuilt.topics:
        if topic.rejected:
            say(f"! {topic.topic}: {topic.rejected:,} messages were rejected when the drive was extracted")
        if topic.unwritten:
            say(f"! {topic.topic}: {topic.unwritten:,} messages are {topic.unwritten_as}: not written")
        if topic.repaired_strings:
            say(f"! {topic.topic}: {topic.repaired_strings:,} strings were not UTF-8 and stay escaped")
    if rebuilt.not_extracted:
        say(f"! {rebuilt.not_extracted:,} messages are of topics that were not extracted")
    if rebuilt.flawed_bags:
        say(f"! {rebuilt.flawed_bags:,} bags were damaged or unreadable: what could be read is there")
    if rebuilt.extras_left_out:
        say(f"! {rebuilt.extras_left_out:,} attachments and metadata records are not in the lake")
    if rebuilt.unfinished:
        print("! an extraction of this drive is under way or has failed: what it has finished is there")
    print(f"{rebuilt.messages:,} messages, {rebuilt.size_bytes / 1e6:,.1f} MB in {seconds:.1f} s")
    say(output)
