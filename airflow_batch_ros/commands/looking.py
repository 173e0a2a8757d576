"""What commands over a run that is there have in common: finding it, by its id, in its lake."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.terminal import CommandError, Exit

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
        CommandError: the lake is not there, or may not be read.
    """
    from airflow_batch_ros import runs

    clients, lake = open_lake(arguments)
    with explained(lake):
        records = runs.find(lake, arguments.name)
    return FoundRun(arguments.name, clients, lake, records, runs.drives_of(records, only=arguments.drive))


def open_lake(arguments: argparse.Namespace) -> tuple[Clients, Lake]:
    """Raises `SettingsError` where no output is said."""
    from airflow_batch_ros.lake import Lake

    settings = settings_of.read_settings(arguments)
    clients = settings.clients()
    settings = settings_of.with_stack(settings, clients, needed=("output",))
    return clients, Lake(clients.s3, settings.output())


@contextmanager
def explained(lake: Lake) -> Iterator[None]:
    """What S3 refuses of the lake inside, in words with what to check. What may pass is raised as it is.

    Raises:
        CommandError: the bucket is not there, or S3 refuses what is asked of it.
    """
    from botocore.exceptions import ClientError

    from airflow_batch_ros.lake import error_code, said_by
    from ros_to_parquet.contract import s3_advice

    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code == "NoSuchBucket":
            said = (
                f"there is no bucket {lake.bucket}; check the output (--output, {settings_of.PREFIX}OUTPUT, "
                f"{settings_of.DEFAULT_FILE} or --stack), and the account that is asked"
            )
        elif s3_advice(error.operation_name, code, str(error)):
            said = f"{error.operation_name} is refused: {said_by(error)}"
        else:
            raise
        raise CommandError(f"lake {lake.output}: {said}", Exit.REFUSED) from error
