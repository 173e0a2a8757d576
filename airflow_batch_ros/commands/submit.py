"""``airflow-batch-ros submit``: drives to Parquet on AWS Batch, without Airflow."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.looking import explained
from airflow_batch_ros.commands.running import add_wait, report, submit_planning
from airflow_batch_ros.commands.settings import SettingsError
from airflow_batch_ros.commands.terminal import EXIT_HELP, Exit, guarded, positive, teller
from airflow_batch_ros.plan import DEFAULT_SHARD_BYTES
from airflow_batch_ros.twice import TwiceError, load_json

if TYPE_CHECKING:
    from airflow_batch_ros.clients import Clients
    from airflow_batch_ros.commands.settings import Settings
    from airflow_batch_ros.conf import PipelineConf
    from airflow_batch_ros.jobs import SubmitOptions

CONF_VARIABLE = f"{settings_of.PREFIX}CONF"
BELOW_VARIABLE = f"{settings_of.PREFIX}BELOW"

_RUN_ID = r"[A-Za-z0-9][A-Za-z0-9_.~:+-]{0,199}"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "submit",
        help="plan drives and submit their Batch jobs, without Airflow",
        description="Plans all drives of a conf and submits a Batch job for each. Nothing needs to stay up "
        "after: the shard that completes a drive commits it. The same run id again submits nothing that is "
        "live or done.",
        epilog=EXIT_HELP,
    )
    add_conf(parser)
    parser.add_argument(
        "--marker",
        metavar="URI",
        help="an object s3://bucket/key whose folder is the drive; the conf, if any, then says all else",
    )
    parser.add_argument(
        "--below",
        metavar="URI",
        help=f"of a marker: the drive's id is its path below this one (default: {BELOW_VARIABLE} in the "
        "environment)",
    )
    parser.add_argument(
        "--run-id", type=_run_id, metavar="ID", help="default: one of the time and chance, which is printed"
    )
    parser.add_argument(
        "--remote",
        action="store_true",
        help="plan in a Batch job too: nothing but its submission happens here",
    )
    parser.add_argument(
        "--planner-definition",
        metavar="NAME_OR_ARN",
        help=f"job definition for --remote (default: {settings_of.DEFAULTS['planner_definition']})",
    )
    add_wait(parser)
    settings_of.add_job_options(parser, default=settings_of.DEFAULTS["job_queue"])
    settings_of.add_connection(parser)
    parser.set_defaults(run=guarded(_submit))


def add_conf(parser: argparse.ArgumentParser) -> None:
    """The flags of commands that plan."""
    parser.add_argument(
        "--conf",
        metavar="FILE",
        help="JSON as the DAG takes it: a file, s3://bucket/key, - for stdin, or the JSON itself "
        f"(default: {CONF_VARIABLE} in the environment)",
    )
    parser.add_argument(
        "--shard-bytes",
        type=positive,
        default=DEFAULT_SHARD_BYTES,
        metavar="N",
        help="stored bytes of bags that one container reads; larger bags are split (default: %(default)s)",
    )
    parser.add_argument(
        "--prices",
        metavar="FILE",
        help='JSON {"vcpu_hour": ..., "gb_hour": ..., "currency": ...}: what you pay (default: the conf\'s '
        "prices, else AWS's list prices as this version knows them)",
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command that plans is asked for, checked. ``settings`` have what a stack says."""

    settings: Settings
    clients: Clients
    conf: PipelineConf
    output: str
    options: SubmitOptions


def read_asked(arguments: argparse.Namespace, say: Callable[[str], None], *, needed: Sequence[str]) -> Asked:
    """``needed`` are settings beside output and those of jobs.

    Raises:
        ConfError: the conf cannot be run, or names what is not allowed.
        SettingsError: a setting is missing, or is none.
    """
    from airflow_batch_ros.allowed import check_allowed, of_job_definition
    from airflow_batch_ros.conf import parse_conf
    from airflow_batch_ros.jobs import DEFAULT_MAX_MEMORY_MIB, SubmitOptions

    settings = settings_of.read_settings(arguments)
    clients = settings.clients()
    conf = parse_conf(_raw_conf(arguments, clients))
    said = settings.prices()
    if said is not None and (arguments.prices is not None or conf.prices is None):
        conf = replace(conf, prices=said)
    in_conf = conf.output if arguments.output is None else None
    names = [
        "job_queue",
        "job_definition",
        "requester_pays",
        *needed,
        *(["output"] if in_conf is None else []),
    ]
    settings = settings_of.with_defaults(settings_of.with_stack(settings, clients, needed=names))
    output = in_conf or settings.output()
    options = SubmitOptions(
        job_queue=settings.given["job_queue"].value,
        job_definition=settings.given["job_definition"].value,
        vcpus=settings.number("vcpus", float),
        memory_mib=settings.number("memory_mib", int),
        max_memory_mib=settings.number("max_memory_mib", int) or DEFAULT_MAX_MEMORY_MIB,
        on_demand_queue=settings.find("on_demand_queue") or "",
        tags=settings.tags,
        extra={"shareIdentifier": share} if (share := settings.find("share_identifier")) else {},
        requester_pays=settings.flag("requester_pays"),
    )
    in_jobs = of_job_definition(clients.batch, options, say=say)
    check_allowed(conf, output, (settings.allow_list(), in_jobs))
    return Asked(settings, clients, conf, output, options)


def _submit(arguments: argparse.Namespace) -> int:
    from airflow_batch_ros import planning, runs
    from airflow_batch_ros.fanout import Fanout, FanoutError
    from airflow_batch_ros.lake import Lake
    from airflow_batch_ros.pricing import find_containers
    from ros_to_parquet.contract import Run

    say = teller(arguments)
    asked = read_asked(arguments, say, needed=["planner_definition"] * arguments.remote)
    settings, clients, conf = asked.settings, asked.clients, asked.conf
    output, options = asked.output, asked.options
    run = Run("", arguments.run_id or make_run_id())
    # Before all else: with its id a run that is cut short can be taken up again.
    say(f"run {run.run_id}, output {output}")
    lake = Lake(clients.s3, output)
    if arguments.remote or planning.is_planning_job():
        # What plans fails out of sight: the run stays, and says why.
        with explained(lake):
            runs.save(lake, run, conf, options=options, shard_bytes=arguments.shard_bytes)
    if arguments.remote:
        definition = settings.given["planner_definition"].value
        return submit_planning(arguments, clients, lake, run, options, definition=definition, say=say)
    planning.save_own(lake, run)
    try:
        jobs = Fanout(
            s3=clients.s3,
            batch=clients.batch,
            submitter=clients.submitter,
            output=output,
            conf=conf,
            run=run,
            options=options,
            shard_bytes=arguments.shard_bytes,
            containers=find_containers(clients.batch, options, own=conf.prices, say=say),
            say=say,
        ).submit_all()
    except FanoutError:
        print(f"with {settings.described('output', 'job_queue', 'job_definition')}:", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print(
            f"stopped; submit again with --run-id {run.run_id} goes on, airflow-batch-ros cancel "
            f"{run.run_id} --output {output} ends what is submitted",
            file=sys.stderr,
        )
        return Exit.INTERRUPTED
    return report(arguments, clients, jobs, run=run.run_id, output=output, say=say)


def make_run_id() -> str:
    """The time (UTC) and six hex digits of chance: in order of time, and no two alike."""
    import secrets
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _raw_conf(arguments: argparse.Namespace, clients: Clients) -> Any:
    """What is said of the conf, with the drive of a marker."""
    conf = arguments.conf or os.environ.get(CONF_VARIABLE)
    if getattr(arguments, "marker", None) is None:
        if getattr(arguments, "below", None) is not None:
            raise SettingsError("--below is of a --marker, which is not said")
        if not conf:
            raise SettingsError(f"no conf is said: say --conf, or {CONF_VARIABLE} in the environment")
        return _read_conf(conf, clients)
    from airflow_batch_ros.arrivals import drive_below

    below = arguments.below or os.environ.get(BELOW_VARIABLE)
    if not below:
        raise SettingsError(f"a --marker needs --below, or {BELOW_VARIABLE} in the environment")
    rest = _read_conf(conf, clients) if conf else {}
    if not isinstance(rest, dict) or "drives_to_process" in rest:
        raise SettingsError("beside a --marker the conf is an object without drives_to_process")
    return {**rest, "drives_to_process": drive_below(arguments.marker, below=below)}


def _read_conf(given: str, clients: Clients) -> Any:
    """The conf from a file, S3, stdin, or what is given itself."""
    if given.lstrip().startswith("{"):
        text, shown = given, "--conf"
    elif given.startswith("s3://"):
        shown = f"--conf {given}"
        text = _read_object(given, clients, shown)
    elif given == "-":
        text, shown = sys.stdin.read(), "--conf -"
    else:
        shown = f"--conf {given}"
        try:
            text = Path(given).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{shown} cannot be read: {error}") from error
    try:
        return load_json(text)
    except TwiceError as error:
        raise SettingsError(f"{shown}: {error}") from error
    except ValueError as error:
        raise SettingsError(f"{shown} is not JSON: {error}") from error


def _read_object(uri: str, clients: Clients, shown: str) -> str:
    """Raises `SettingsError` where there is no such object, or it may not be read."""
    from botocore.exceptions import ClientError

    from airflow_batch_ros.lake import Lake, error_code, said_by
    from ros_to_parquet.contract import s3_advice

    folder, _, name = uri.rpartition("/")
    if not re.fullmatch("s3://[^/]+/.*[^/]", uri):
        raise SettingsError(f"{shown}: s3://bucket/key is expected")
    try:
        found = Lake(clients.s3, folder).read(name)
    except ClientError as error:
        if not s3_advice(error.operation_name, error_code(error), str(error)):
            raise
        raise SettingsError(f"{shown} cannot be read: {said_by(error)}") from error
    if found is None:
        raise SettingsError(f"{shown} cannot be read: there is no such object")
    return found.decode(errors="replace")


def _run_id(text: str) -> str:
    if not re.fullmatch(_RUN_ID, text):
        raise argparse.ArgumentTypeError(
            "letters, digits and any of _.~:+- are expected, beginning with a letter or digit"
        )
    return text
