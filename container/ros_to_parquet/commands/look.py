"""``ros-to-parquet info``, ``sample`` and ``transforms``: what is there, before anything is extracted."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from ros_to_parquet import contract, memory
from ros_to_parquet.commands.arguments import add_topic_globs
from ros_to_parquet.commands.outcome import UsageError, explain
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.text import print_table, say


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    info = commands.add_parser(
        "info", help="what is in a bag", description="Topics, types, counts, times, compression."
    )
    info.add_argument("bag", metavar="BAG", help="bag file; path or URI")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(call=command_info)

    sample = commands.add_parser(
        "sample",
        help="a look into bags, without reading them whole",
        description="Topics and counts by a bag's index, and its first minute decoded: types that nobody "
        "defines, messages that do not decode, damage. Of each bag at most twice --max-bytes are read.",
    )
    sample.add_argument("bags", nargs="+", metavar="BAG", help="bag files; paths or URIs")
    sample.add_argument("--seconds", type=float, default=60.0, metavar="N", help="of log time (default: 60)")
    sample.add_argument(
        "--max-bytes",
        default="64MiB",
        metavar="SIZE",
        help="of each bag, likewise of its index (default: 64MiB; 16MiB at least)",
    )
    add_topic_globs(sample)
    sample.add_argument(
        "--msg-path", action="append", default=[], metavar="FOLDER_OR_URI", help="as of the command extract"
    )
    sample.add_argument(
        "--ros-distro", choices=contract.ROS_DISTRIBUTIONS, default="", metavar="NAME", help="likewise"
    )
    sample.add_argument("--json", action="store_true", help="as JSON, a line a bag")
    sample.set_defaults(call=command_sample)

    installed = commands.add_parser(
        "transforms",
        help="transforms that are installed",
        description="Code for --transform and the conf's transforms, by name: entry points of installed "
        "packages.",
    )
    installed.set_defaults(call=command_transforms)


def command_info(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.bag.model import BagError
    from ros_to_parquet.info import read_info

    try:
        info = read_info(arguments.bag)
    except BagError as error:
        raise BagError(f"{arguments.bag}: {error}") from error
    if arguments.json:
        print(json.dumps(info.as_dict(), indent=2))
    else:
        info.print()
    return int(ExitCode.OK)


def command_sample(arguments: argparse.Namespace) -> int:
    """Each bag's errors are its own: the others are looked into all the same."""
    from ros_to_parquet.run import read_types
    from ros_to_parquet.sample import read_sample
    from ros_to_parquet.storage import normalize

    try:
        max_bytes = memory.parse_size(arguments.max_bytes)
    except memory.MemoryLimitError as error:
        raise UsageError(f"--max-bytes: {error}") from error
    if not 0 < arguments.seconds < math.inf:
        raise UsageError(f"--seconds {arguments.seconds:g}: expected a finite number above 0")
    options = contract.ExtractOptions(
        msg_paths=tuple(normalize(folder) for folder in arguments.msg_path), ros_distro=arguments.ros_distro
    )
    types = read_types(options)
    code = ExitCode.OK
    for bag in arguments.bags:
        try:
            found = read_sample(
                bag,
                types,
                include=tuple(arguments.topics),
                exclude=tuple(arguments.exclude),
                seconds=arguments.seconds,
                max_bytes=max_bytes,
            )
        except Exception as error:  # noqa: BLE001 (it becomes a line, and the exit code)
            code, reason = explain(error)
            if arguments.json:
                print(json.dumps({"uri": bag, "exit_code": int(code), "problem": reason}), flush=True)
            else:
                say(bag)
                say(f"  ! {reason}")
            continue
        if arguments.json:
            print(json.dumps(found.as_dict()), flush=True)
        else:
            found.print()
    return int(code)


def command_transforms(_: argparse.Namespace) -> int:
    from ros_to_parquet.transforms import GROUP, find_transforms, package_of

    points = [point for several in find_transforms().values() for point in several]
    if not points:
        print(f"None: no package that is installed has an entry point of the group {GROUP}.")
        return int(ExitCode.OK)
    rows = [(point.name, *package_of(point), point.value) for point in points]
    print_table(("transform", "package", "version", "code"), rows)
    return int(ExitCode.OK)
