"""``ros-to-parquet fleet``: which drives have this topic near here, last week."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ros_to_parquet.commands.arguments import add_lake, parse_time
from ros_to_parquet.commands.outcome import UsageError
from ros_to_parquet.contract import ExitCode

if TYPE_CHECKING:
    from ros_to_parquet.fleet import Found, Place

_UNITS_S: Final = {"h": 3_600, "d": 86_400, "w": 604_800}

_TOPICS_SHOWN: Final = 3


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    fleet = commands.add_parser(
        "fleet",
        help="find drives by topic, place and time",
        description="Searches the fleet tables of a lake (_fleet/), which a finishing step of each drive "
        "writes. All that is asked for has to be so at once: a drive is found that recorded such a topic "
        "near there at that time. TIME is ISO 8601 (UTC unless it says otherwise), seconds since 1970, or "
        "how long ago: 12h, 7d, 2w.",
    )
    add_lake(fleet)
    fleet.add_argument(
        "--topic", nargs="+", default=["*"], metavar="GLOB", help="topics to look for; * crosses /"
    )
    fleet.add_argument(
        "--near",
        metavar="LAT,LON,KM",
        help="within so many kilometres of a place, in degrees: --near=-33.86,151.21,2",
    )
    fleet.add_argument("--since", metavar="TIME", help="with messages at that time or later")
    fleet.add_argument("--until", metavar="TIME", help="with messages before that time")
    fleet.add_argument(
        "--update",
        action="store_true",
        help="first write the tables for drives that they lack or that have changed, and forget drives gone",
    )
    fleet.add_argument("--update-all", action="store_true", help="first write the tables for all drives")
    fleet.add_argument("--json", action="store_true", help="as JSON")
    fleet.set_defaults(call=command_fleet)


def command_fleet(arguments: argparse.Namespace) -> int:
    from ros_to_parquet import fleet
    from ros_to_parquet.lake import no_lake
    from ros_to_parquet.storage import normalize, open_storage
    from ros_to_parquet.text import and_more, print_table, say

    query = fleet.Query(
        topics=tuple(arguments.topic),
        near=None if arguments.near is None else parse_place(arguments.near),
        since_ns=_time(arguments.since),
        until_ns=_time(arguments.until),
    )
    if query.since_ns is not None and query.until_ns is not None and query.since_ns >= query.until_ns:
        raise UsageError(f"--since {arguments.since} is not before --until {arguments.until}")
    output = normalize(arguments.lake)
    storage = open_storage(output)
    updated = None
    if arguments.update or arguments.update_all:
        updated = fleet.update_fleet(storage, output, all_drives=arguments.update_all)
    drives, topics = (
        fleet.read_fleet(storage, output, table, columns) for table, columns in fleet.SEARCHED.items()
    )
    code = ExitCode.INPUT_MISSING if updated and updated.left else ExitCode.OK
    found = fleet.find_drives(drives, topics, query)
    lacking = fleet.missing(storage, output)
    if not (drives.num_rows or lacking or (updated and updated.removed)):
        raise no_lake(output)
    if arguments.json:
        said = {
            "drives": [each.as_dict() for each in found],
            "not_in_the_tables": lacking,
            "left_as_they_were": updated.left if updated else (),
        }
        print(json.dumps(said, indent=2))
        return int(code)
    if updated:
        print(f"{len(updated.written):,} drives written, {len(updated.removed):,} removed")
        for text in updated.left:
            say(f"! left as it was: {text}")
    if found:
        header = ("drive", "first", "minutes", "state", *(("km",) if query.near else ()), "topics")
        print_table(header, [_row(each, near=query.near is not None) for each in found])
    print(f"{len(found):,} of {drives.num_rows:,} drives")
    if lacking:
        say(f"! not in the fleet tables: {and_more(lacking)}; --update writes them")
    return int(code)


def _row(found: Found, *, near: bool) -> Sequence[str]:
    from ros_to_parquet.history import time_text

    names = [name for name, _ in found.topics]
    more = [f"and {len(names) - _TOPICS_SHOWN} more"] if len(names) > _TOPICS_SHOWN else []
    distance = (f"{found.distance_km:.1f}",) if near and found.distance_km is not None else ()
    return (
        found.drive_id,
        time_text(found.first_ns),
        f"{(found.last_ns - found.first_ns) / 60e9:.1f}",
        found.state,
        *distance,
        ", ".join([*names[:_TOPICS_SHOWN], *more]),
    )


def _time(text: str | None) -> int | None:
    if text is None:
        return None
    ago = re.fullmatch(r"(\d+)([hdw])", text)
    return time.time_ns() - int(ago[1]) * _UNITS_S[ago[2]] * 10**9 if ago else parse_time(text)


def parse_place(text: str) -> Place:
    """The place that ``LAT,LON,KM`` says.

    >>> parse_place("48.137,11.575,5")
    Place(latitude=48.137, longitude=11.575, radius_km=5.0)

    Raises:
        UsageError: it says none.
    """
    from ros_to_parquet.fleet import Place

    try:
        latitude, longitude, radius_km = map(float, text.split(","))
        return Place(latitude, longitude, radius_km)
    except ValueError as error:
        raise UsageError(f"--near {text}: expected LAT,LON,KM, as 48.137,11.575,5: {error}") from error
