"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from ros_to_parquet import contract, memory
from ros_to_parquet.commands.outcome import UsageError
from ros_to_parquet.contract import CATALOG_DATABASE, CatalogKind, CatalogOptions, GlueFiles
from ros_to_parquet.log import event
from ros_to_parquet.memory import MemoryBudget

_FRACTION = re.compile(r"(?P<whole>.*\d)[.,](?P<digits>\d{1,9})(?P<zone>[^\d].*)?")


_KINDS: Final = {
    "glue": (CatalogKind.GLUE, GlueFiles.LISTED),
    "glue-folders": (CatalogKind.GLUE, GlueFiles.FOLDERS),
    "iceberg": (CatalogKind.ICEBERG, GlueFiles.LISTED),
}


def add_lake(parser: argparse.ArgumentParser, *, drive: bool = False) -> None:
    """The lake, and with ``drive`` the one of its drives that the command is about."""
    parser.add_argument("lake", metavar="LAKE", help="where the lake is; path or URI")
    if drive:
        parser.add_argument("--drive-id", required=True, metavar="ID")


def add_topic_globs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topics",
        nargs="+",
        default=["*"],
        metavar="GLOB",
        help="topics to take; * crosses / (default: all)",
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="GLOB", help="topics to leave out; wins over --topics"
    )


def add_finish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report",
        action="store_true",
        help="make the drive's report: one HTML page in the lake, as the command report does",
    )
    parser.add_argument(
        "--fleet", action="store_true", help="write its rows of the tables that the command fleet searches"
    )
    parser.add_argument(
        "--catalog",
        metavar="KIND:DATABASE",
        help="register its tables as the command catalog does: glue:DATABASE, glue-folders:DATABASE or "
        "iceberg:NAMESPACE",
    )
    add_sync(parser)


def add_sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sync",
        metavar="JSON",
        help="frames tables, as the conf's sync has them: a file, a URI, or the JSON itself",
    )


def add_memory_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="most memory to take beside what libraries take: 512MiB, 2G, or bytes; what does not fit goes "
        "to scratch disk (TMPDIR), a message larger than a quarter of it is a reject (default: "
        f"{memory.VARIABLE}, or 1GiB, or what fits in the container)",
    )


def read_finish(arguments: argparse.Namespace) -> contract.FinishOptions:
    """The finishing steps that are asked for."""
    return contract.FinishOptions(
        report=arguments.report,
        fleet=arguments.fleet,
        catalog=None if arguments.catalog is None else parse_catalog(arguments.catalog),
        sync=() if arguments.sync is None else read_sync(arguments.sync),
    )


def parse_catalog(text: str) -> CatalogOptions:
    """What ``KIND:DATABASE`` says.

    >>> parse_catalog("glue:drives").database
    'drives'

    Raises:
        UsageError: it is not of that form.
    """
    kind, _, database = text.partition(":")
    if kind not in _KINDS or not re.fullmatch(CATALOG_DATABASE, database):
        raise UsageError(
            f"{text}: expected {', '.join(f'{each}:NAME' for each in _KINDS)}, the name of lower-case "
            "letters, digits and _"
        )
    return CatalogOptions(_KINDS[kind][0], database, _KINDS[kind][1])


def read_sync(given: str) -> tuple[contract.FramesTable, ...]:
    """The frames tables that ``--sync`` asks for.

    Raises:
        UsageError: it is no JSON, or not that of frames tables.
        StorageError: it cannot be read.
    """
    from ros_to_parquet.storage import normalize, open_storage

    text = given
    if not given.lstrip().startswith(("{", "[")):
        uri = normalize(given)
        storage = open_storage(uri)
        storage.head(uri)  # which says in words that it is a folder
        text = storage.read(uri).decode("utf-8", "replace")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--sync: not JSON: {error}") from error
    return checked_sync(raw, "--sync")


def checked_sync(raw: object, where: str) -> tuple[contract.FramesTable, ...]:
    from ros_to_parquet.sync_conf import parse_sync

    problems: list[str] = []
    tables = parse_sync(raw, problems, where=where)
    if problems:
        raise UsageError("; ".join(problems))
    return tables


def read_budget(arguments: argparse.Namespace) -> MemoryBudget:
    """What may be taken of memory; the log says so where nobody asked for it.

    Raises:
        UsageError: what was asked for is no limit.
    """
    try:
        chosen = memory.choose_limit(arguments.memory_limit, os.environ, memory.container_memory())
    except memory.MemoryLimitError as error:
        raise UsageError(str(error)) from error
    if chosen.note:
        event("memory_limit", limit=memory.readable(chosen.limit_bytes), note=chosen.note)
    return memory.share_out(chosen.limit_bytes)


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time (UTC unless it says otherwise) or of seconds since then.

    >>> parse_time("1970-01-01T00:00:01.000000002Z"), parse_time("1.000000002"), parse_time("1970-01-02")
    (1000000002, 1000000002, 86400000000000)

    Raises:
        UsageError: it is neither.
    """
    match = _FRACTION.fullmatch(text)
    whole, nanoseconds = text, 0
    if match:
        whole, nanoseconds = match["whole"] + (match["zone"] or ""), int(match["digits"].ljust(9, "0"))
    try:
        if whole.isascii() and whole.isdigit() and len(whole) != len("20260101"):
            seconds = int(whole)
        else:
            moment = datetime.fromisoformat(whole)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    except ValueError as error:
        raise UsageError(
            f"{text} is no time: ISO 8601, as 2026-11-20T09:30:00.5Z, or seconds since 1970"
        ) from error
    return seconds * 1_000_000_000 + nanoseconds
