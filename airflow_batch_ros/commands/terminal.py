"""What the commands have in common: what they print where, their errors in words, and exit codes."""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

RIGHT = ">"
"""Marks a column of numbers in `print_table`'s head."""

_MOST_DIGITS = 18
"""Of numbers that all that takes them can hold."""

_MOST_SECONDS = 1e9


class Exit(IntEnum):
    """Exit codes of the commands; those of jobs are `ros_to_parquet.contract.ExitCode`."""

    OK = 0
    DRIVES_FAILED = 1
    USAGE = 2
    NO_SUCH_RUN = 3
    REFUSED = 4
    RETRY = 75
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_HELP = (
    "exit codes: 0 well; 1 a drive has ended in a state that fails the run (fail_on); 2 wrong conf, settings "
    "or command line; 3 no such run; 4 refused, and trying again cannot help; 75 trying again may help"
)


class CommandError(RuntimeError):
    """Ends a command; ``text`` is all there is to say."""

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(text)
        self.code = code


class Terminated(KeyboardInterrupt):
    """SIGTERM where it ends a command as Ctrl-C does, but with an exit code of its own."""


def guarded(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command, with what users and AWS do wrong as a message and an exit code."""

    @functools.wraps(command)
    def run(arguments: argparse.Namespace) -> int:
        from botocore import exceptions as botocore_errors

        from airflow_batch_ros.commands.settings import SettingsError, how_to_say
        from airflow_batch_ros.conf import ConfError
        from airflow_batch_ros.fanout import FanoutError
        from airflow_batch_ros.jobs import THROTTLED
        from airflow_batch_ros.lake import error_code
        from airflow_batch_ros.runs import RunNotFoundError
        from airflow_batch_ros.sampling import SampleError
        from airflow_batch_ros.summary import SummaryError
        from ros_to_parquet.contract import ContractError

        try:
            return command(arguments)
        except (ConfError, SettingsError, SampleError) as error:
            return fail(error, Exit.USAGE)
        except RunNotFoundError as error:
            return fail(error, Exit.NO_SUCH_RUN)
        except CommandError as error:
            return fail(error, error.code)
        except FanoutError as error:
            return fail(error, Exit.RETRY if error.retry_helps else Exit.REFUSED)
        except SummaryError as error:
            return fail(error, Exit.RETRY)
        except ContractError as error:
            return fail(error, Exit.REFUSED)
        except botocore_errors.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            passes = error_code(error) in THROTTLED or status >= 500
            return fail(f"AWS: {error}", Exit.RETRY if passes else Exit.REFUSED)
        except botocore_errors.NoRegionError:
            return fail(f"no AWS region is said: {how_to_say('region')}", Exit.USAGE)
        except botocore_errors.BotoCoreError as error:
            passes = isinstance(error, botocore_errors.ConnectionError | botocore_errors.HTTPClientError)
            return fail(f"AWS could not be asked: {error}", Exit.RETRY if passes else Exit.REFUSED)
        except Terminated:
            return Exit.TERMINATED
        except KeyboardInterrupt:
            return Exit.INTERRUPTED

    return run


def fail(error: object, code: Exit) -> int:
    """Says why a command has failed, and gives its exit code."""
    print(error, file=sys.stderr)
    return code


def teller(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Prints lines for people: on stdout, or on stderr where stdout is for JSON."""
    from ros_to_parquet.contract import one_line

    def tell(text: str) -> None:
        lines = "".join(f"{one_line(line)}\n" for line in text.split("\n"))
        stream = sys.stderr if arguments.json else sys.stdout
        # One write: before the newline that `print` writes by itself another thread's line may come.
        stream.write(lines)
        stream.flush()

    return tell


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2), flush=True)


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns; one whose head begins with `RIGHT` to the right."""
    right = [name.startswith(RIGHT) for name in head]
    from ros_to_parquet.contract import one_line

    lines = [[name.removeprefix(RIGHT) for name in head], *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers to read.

    >>> ranges([3, 5, 6, 7, 9])
    '3, 5 to 7, 9'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def shards_named(numbers: Sequence[int]) -> str:
    return f"shard{'' if len(numbers) == 1 else 's'} {ranges(numbers)}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


def words(state: str) -> str:
    """A state's name to read."""
    return state.replace("_", " ")


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is expected, not {text!r:.40}")
    return number


def positive_seconds(text: str) -> float:
    """A number above 0, for argparse."""
    number = _seconds(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is expected, not {text!r:.40}")
    return number


def seconds(text: str) -> float:
    """A number that is not below 0, for argparse."""
    number = _seconds(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"a number of seconds is expected, 0 or more, not {text!r:.40}")
    return number


def _seconds(text: str) -> float:
    """Not a number where the text is none, or is more than a clock can be asked for."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if number <= _MOST_SECONDS else math.nan
