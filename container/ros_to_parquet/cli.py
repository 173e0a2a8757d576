"""``ros-to-parquet``: the engine's command line. What AWS Batch runs is ``ros-to-parquet run``."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence

from ros_to_parquet import __version__, standard_output, termination
from ros_to_parquet.commands import catalog, drift, extract, finish, fleet, frames, look, rebuild, report, run
from ros_to_parquet.commands.outcome import explain, fail
from ros_to_parquet.contract import EXIT_CODE_HELP, ExitCode
from ros_to_parquet.standard_output import StandardOutputError
from ros_to_parquet.termination import TerminatedError

OPEN_FILES = 10_000

REPORT_MODULES = ("matplotlib", "PIL")
"""Of the extra ``report``."""

PLANNING_COMMANDS = ("submit", "retry")
PLANNING_GROUP = "ros_to_parquet.commands"
"""Entry points by which airflow-batch-ros does them, where it is installed beside the engine: then an image
can plan too, whose only entry point this is."""


def build_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    codes = "\n".join(f"  {int(code):>3}  {EXIT_CODE_HELP[code]}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="ros-to-parquet",
        description="ROS bags (.bag, .mcap, .db3; packed or not) to typed Parquet tables, without ROS.",
        epilog="A URI is s3://, gs://, abfs://, hdfs:// or any other that fsspec opens; bags: https:// too."
        f"\n\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ros-to-parquet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (extract, rebuild, report, frames, finish, drift, fleet, catalog, look, run):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Every error a user can cause is one line, no traceback."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in PLANNING_COMMANDS:
        return plan_and_submit(words)
    termination.listen()
    try:
        with standard_output.checked():
            arguments = build_parser().parse_args(words)
            _allow_open_files()
            code = int(arguments.call(arguments))
    except StandardOutputError as error:
        standard_output.discard()
        code = int(ExitCode.OK) if error.reader_gone else fail(ExitCode.OUTPUT_FAILED, str(error))
    except ModuleNotFoundError as error:
        extra = "engine,report" if error.name in REPORT_MODULES else "engine"
        reason = f"{error}: this command needs more of it: pip install 'ros-to-parquet[{extra}]'"
        code = fail(ExitCode.ENGINE_ERROR, reason)
    except KeyboardInterrupt:
        code = fail(ExitCode.RETRY, "interrupted")
    except (Exception, TerminatedError) as error:  # noqa: BLE001 (each becomes an exit code and a line)
        code = fail(*explain(error))
    if termination.asked():
        termination.leave(code)
    return code


def plan_and_submit(words: Sequence[str]) -> int:
    """A command of airflow-batch-ros: the first word is its name."""
    import signal
    from importlib.metadata import entry_points

    # Planning may stop anywhere and begin again; but a container's first process has to listen.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(ExitCode.RETRY)))
    for command in entry_points(group=PLANNING_GROUP, name=words[0]):
        code: int = command.load()(words)
        return code
    reason = f"{words[0]} is a command of airflow-batch-ros, which this image or environment has not"
    return fail(ExitCode.USAGE, reason)


def _allow_open_files() -> None:
    """As many as the system lets the process have: on disk each table is an open file until all are done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
