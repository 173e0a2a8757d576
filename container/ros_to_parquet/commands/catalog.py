"""``ros-to-parquet catalog``: a lake's tables in AWS Glue or Iceberg."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ros_to_parquet.commands.arguments import add_lake, parse_catalog
from ros_to_parquet.commands.outcome import UsageError, fail
from ros_to_parquet.contract import CatalogKind, ExitCode

if TYPE_CHECKING:
    from ros_to_parquet.catalog.files import Registered

_LEFT_OUT_SHOWN: Final = 20


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    catalog = commands.add_parser(
        "catalog",
        help="register a lake's tables in AWS Glue or Iceberg",
        description="Registers the tables of a lake's drives where other engines find them, and forgets "
        "those of drives that are gone. What is registered points at exactly the files that manifests name. "
        "glue: for Athena and Trino, partitions list their files; glue-folders: for Spark too, but while a "
        "drive is replaced rows can be seen twice; iceberg: by pyiceberg, in any catalogue that it knows.",
    )
    add_lake(catalog)
    catalog.add_argument(
        "catalog",
        metavar="KIND:DATABASE",
        help="glue:DATABASE, glue-folders:DATABASE or iceberg:NAMESPACE",
    )
    catalog.add_argument("--drive-id", nargs="+", metavar="ID", help="these drives alone (default: all)")
    catalog.add_argument(
        "--property",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of pyiceberg's catalogue (type=sql, uri=sqlite:///catalog.db, ...); may be given several times "
        "(default: pyiceberg's own configuration, else Glue)",
    )
    catalog.set_defaults(call=command_catalog)


def command_catalog(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.catalog.files import CatalogError
    from ros_to_parquet.catalog.registering import open_catalog
    from ros_to_parquet.lake import LackingError, no_lake
    from ros_to_parquet.storage import NotFoundError, join, normalize, open_storage
    from ros_to_parquet.text import say

    options = parse_catalog(arguments.catalog)
    if arguments.property and options.kind is not CatalogKind.ICEBERG:
        raise UsageError("--property is of Iceberg's catalogues")
    properties = _properties(arguments.property)
    output = normalize(arguments.lake)
    storage = open_storage(output)
    drives = [name.removeprefix("drive_id=") for name in storage.folders(join(output, "_manifests"))]
    if missing := [each for each in arguments.drive_id or () if each not in drives]:
        raise NotFoundError(f"{output}: no drive {', '.join(missing)}")
    found: list[Registered] = []
    left: list[str] = []
    try:
        chosen = arguments.drive_id is not None
        put, forget_gone = open_catalog(storage, output, options, properties, everywhere=chosen)
        for drive_id in arguments.drive_id or drives:
            try:
                found.append(put(drive_id))
            except LackingError as error:
                left.append(str(error))
        gone = 0 if chosen else forget_gone()
    except CatalogError as error:
        return fail(ExitCode.OUTPUT_FAILED, str(error))
    if not found and not gone and not left:
        raise no_lake(output)
    _print_registered(found, gone)
    for text in left:
        say(f"! left as it was: {text}")
    return int(ExitCode.INPUT_MISSING if left else ExitCode.OK)


def _properties(given: Sequence[str]) -> dict[str, str]:
    for text in given:
        if not text.partition("=")[1]:
            raise UsageError(f"--property {text}: expected KEY=VALUE")
    return {key: value for key, _, value in (text.partition("=") for text in given)}


def _print_registered(found: Sequence[Registered], gone: int) -> None:
    from ros_to_parquet.catalog.files import Registered
    from ros_to_parquet.text import say

    total = Registered()
    for each in found:
        total = total.add(each)
    for name in total.tables:
        say(name)
    for text in total.left_out[:_LEFT_OUT_SHOWN]:
        say(f"! left out: {text}")
    if len(total.left_out) > _LEFT_OUT_SHOWN:
        print(f"! and {len(total.left_out) - _LEFT_OUT_SHOWN:,} more are left out")
    print(
        f"{len(total.tables):,} tables of {len(found):,} drives: {total.changed:,} changes, {gone:,} removed"
    )
