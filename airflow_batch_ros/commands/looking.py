"""What commands over a run that is there have in common: finding it, by its id, in its lake."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batch_ros.commands import settings as settings_of

if TYPE_CHECKING:
    from airflow_batch_ros.clients import Clients
    from airflow_batch_ros.lake import Lake
    from airflow_batch_ros.runs import RunDrive, RunRecord


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run, with what is asked of it and how to reach it. ``records`` are oldest first."""

    name: str
    clients: Clients
    lake: Lake
    records: list[RunRecord]
    drives: list[RunDrive]


def add_run(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    text = "run id that submit printed; of an Airflow run its run id, or dag_id/run_id"
    if optional:
        parser.add_argument("name", metavar="RUN", nargs="?", help=f"{text} (default: list the newest runs)")
    else:
        parser.add_argument("name", metavar="RUN", help=text)
    parser.add_argument(
        "--drive", action="append", default=[], metavar="ID", help="only this drive; repeatable"
    )


def find_run(arguments: argparse.Namespace) -> FoundRun:
    """The run that the arguments name.

    Raises:
        SettingsError: no output is said.
        RunNotFoundError: there is no such run, or drive.
    """
    from airflow_batch_ros import runs

    clients, lake = open_lake(arguments)
    records = runs.find(lake, arguments.name)
    return FoundRun(arguments.name, clients, lake, records, runs.drives_of(records, only=arguments.drive))


def open_lake(arguments: argparse.Namespace) -> tuple[Clients, Lake]:
    """Raises `SettingsError` where no output is said."""
    from airflow_batch_ros.lake import Lake

    settings = settings_of.read_settings(arguments)
    clients = settings.clients()
    settings = settings_of.with_stack(settings, clients, needed=("output",))
    return clients, Lake(clients.s3, settings.output())
