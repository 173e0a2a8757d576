"""``ros-to-parquet drift`` and ``views``: topics whose definition changed, and SQL that reads them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from ros_to_parquet.commands.arguments import add_lake, add_topic_globs
from ros_to_parquet.contract import ExitCode

if TYPE_CHECKING:
    from ros_to_parquet.history import TopicDrift


DRIFT_FIELDS: Final = 20
"""Fields of a change that are printed; JSON has all."""


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    drift = commands.add_parser(
        "drift",
        help="topics of a lake whose definition changed",
        description="Which topics of a lake have several definitions: how these differ field by field, from "
        "which drive and bag on, and in how many drives and rows. A topic is broken if no table holds all.",
    )
    add_lake(drift)
    add_topic_globs(drift)
    drift.add_argument("--all", action="store_true", help="topics with one definition too")
    drift.add_argument("--json", action="store_true", help="as JSON")
    drift.set_defaults(call=command_drift)

    views = commands.add_parser(
        "views",
        help="SQL views of a lake's topics, for DuckDB",
        description="Prints SQL that makes a view of each topic in DuckDB, named as its table. Definitions "
        "that one table holds are read together; what is cast and what is null is in the view's comment. "
        "Else the topic has a view for each definition, TABLE@DIGITS.",
    )
    add_lake(views)
    add_topic_globs(views)
    views.set_defaults(call=command_views)


def command_drift(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.history import lines

    found = _read_drift(arguments, single=arguments.all)
    if arguments.json:
        print(json.dumps({"topics": [each.as_dict() for each in found]}, indent=2))
        return int(ExitCode.OK)
    for line in lines(found, fields=DRIFT_FIELDS):
        print(line)
    if not found:
        some = arguments.all or _read_drift(arguments, single=True)
        print("No topic has more than one definition." if some else "No topic of the lake matches.")
    return int(ExitCode.OK)


def command_views(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.storage import normalize
    from ros_to_parquet.views import statements

    found = _read_drift(arguments, single=True)
    for statement in statements(normalize(arguments.lake), found):
        print(statement)
    if not found:
        print("-- No topic of the lake matches.")
    return int(ExitCode.OK)


def _read_drift(arguments: argparse.Namespace, *, single: bool) -> list[TopicDrift]:
    """Raises `storage.NotFoundError` where there is no lake."""
    from ros_to_parquet.lake import Lake, no_lake

    lake = Lake(arguments.lake)
    if not lake.drives():
        raise no_lake(lake.uri)
    return lake.drift(arguments.topics, exclude=arguments.exclude, single=single)
