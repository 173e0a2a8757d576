"""The command line ``airflow-batch-ros``.

Each command is a module with ``add_parser(subparsers)``, which sets ``run`` to a function that takes the
parsed arguments and returns the exit code. Modules import what is heavy when they run, so that help is fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from airflow_batch_ros.commands import cancel, drives_page, logs, plan, retry, status, submit
from airflow_batch_ros.commands.terminal import Exit, fail
from airflow_batch_ros.image import command as image
from airflow_batch_ros.local import command as local
from airflow_batch_ros.stack import command as stack
from ros_to_parquet import standard_output
from ros_to_parquet.standard_output import StandardOutputError

COMMANDS = (submit, plan, status, logs, cancel, retry, drives_page, stack, image, local)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="airflow-batch-ros",
        description="ROS bags in S3 become Parquet tables, from Airflow on AWS Batch.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    try:
        with standard_output.checked():
            arguments = build_parser().parse_args(argv)
            exit_code: int = arguments.run(arguments)
    except StandardOutputError as error:
        standard_output.discard()
        return Exit.OK if error.reader_gone else fail(error, Exit.REFUSED)
    return exit_code
