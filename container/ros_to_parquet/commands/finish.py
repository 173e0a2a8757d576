"""``ros-to-parquet finish``: what is done for a drive once it is committed, again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from ros_to_parquet import contract
from ros_to_parquet.commands.arguments import add_finish, add_lake, add_memory_limit, read_budget, read_finish
from ros_to_parquet.commands.outcome import fail
from ros_to_parquet.text import say


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    finish = commands.add_parser(
        "finish",
        help="what is done for a drive once it is committed, again",
        description="Does the finishing steps of a drive that is in the lake: those that its last run asked "
        "for, or those that are asked for here.",
    )
    add_lake(finish, drive=True)
    add_finish(finish)
    add_memory_limit(finish)
    finish.set_defaults(call=command_finish)


def command_finish(arguments: argparse.Namespace) -> int:
    from ros_to_parquet import finish
    from ros_to_parquet.storage import normalize, open_storage

    output, asked = normalize(arguments.lake), read_finish(arguments)
    try:
        finished = finish.finish_committed(
            open_storage(output),
            output,
            arguments.drive_id,
            asked if asked != contract.FinishOptions() else None,
            budget=read_budget(arguments),
            again=True,
        )
    except finish.StepError as error:
        return fail(error.exit_code, str(error))
    print_finished(finished.steps, output)
    if not finished.steps:
        say(
            f"Nothing to do: no finishing step is asked for, here or by the last run of {arguments.drive_id}."
        )
    return int(finished.code)


def print_finished(steps: Iterable[contract.StepResult], output: str) -> None:
    """Prints what became of each finishing step."""
    from ros_to_parquet import finish

    for line in finish.lines(steps, output):
        say(line)
