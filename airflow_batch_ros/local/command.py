"""``airflow-batch-ros local``: the embedded AWS on its own, for DAGs and tools of any kind."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

from airflow_batch_ros.local import fault_client
from airflow_batch_ros.local.airflow import DEFAULT_HOME, PASSWORD, USER, AirflowOptions, LocalAirflow
from airflow_batch_ros.local.batch_stack import IMAGE, JOB_DEFINITION, JOB_QUEUE
from airflow_batch_ros.local.console import BASE_PATH as CONSOLE_PATH
from airflow_batch_ros.local.faults import (
    BATCH_ERRORS,
    KINDS,
    S3_ERRORS,
    BatchRefusal,
    Fault,
    FaultError,
    S3Error,
    describe,
    field_types,
)
from airflow_batch_ros.local.stack import DEFAULT_STATE_DIR, EmbeddedAws, stop_running
from airflow_batch_ros.local.state import (
    ContainerOptions,
    Credentials,
    LocalAwsError,
    ServerOptions,
    StateFolder,
    find_running,
)

EXIT_NOT_RUNNING = 3
AIRFLOW_BUCKETS = ("drives", "lake")
AIRFLOW_OUTPUT = "s3://lake/drives"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "local",
        help="an AWS on this machine: S3, Batch and CloudWatch Logs, with jobs that run for real",
        description="S3 (SeaweedFS) and Batch, CloudWatch Logs and more (moto) on the loopback interface. "
        "Batch jobs run as processes of the engine, or as containers of its image.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    up = actions.add_parser("up", help="start it; until Ctrl-C, or in the background with --detach")
    _add_state_dir(up)
    up.add_argument("--detach", action="store_true", help="start it in the background, until `local down`")
    up.add_argument(
        "--bucket",
        action="append",
        default=[],
        metavar="NAME",
        help="make this bucket and let jobs use it, alone with other buckets and URIs named; repeatable",
    )
    up.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="URI",
        help="let jobs use what is below s3://bucket/prefix/; repeatable",
    )
    up.add_argument(
        "--all-interfaces",
        action="store_true",
        help="listen on all network interfaces, as in a container, not on loopback alone: anyone who reaches "
        "the ports can then run jobs",
    )
    up.add_argument(
        "--credentials",
        type=_parse_credentials,
        metavar="KEY:SECRET",
        help="of S3 (default: the last ones, or new ones)",
    )
    _add_server_options(up)
    up.set_defaults(run=_up)

    airflow = actions.add_parser(
        "airflow",
        help="start it with an Airflow before it, until Ctrl-C",
        description=f"`airflow standalone` with user and password {USER!r} over an embedded AWS with the "
        f"buckets {' and '.join(AIRFLOW_BUCKETS)}; all on this machine alone. AIRFLOW_VAR_* and "
        "AIRFLOW_CONN_* of the environment are kept.",
    )
    _add_state_dir(airflow)
    airflow.add_argument(
        "--dags", type=Path, default=Path("dags"), help="folder of the DAGs (default: %(default)s)"
    )
    airflow.add_argument(
        "--airflow-home",
        type=Path,
        default=DEFAULT_HOME,
        metavar="DIR",
        help="Airflow's database, logs and login (default: %(default)s)",
    )
    airflow.add_argument(
        "--airflow-port", type=_port, default=0, help="of Airflow (default: 8080, or a free one)"
    )
    _add_server_options(airflow)
    airflow.set_defaults(run=_airflow, all_interfaces=False, credentials=None)

    for name, run, text in (
        ("down", _down, "end the one that runs, with its jobs; S3's data stays"),
        ("status", _status, f"say whether it runs and where; exit code {EXIT_NOT_RUNNING} if not"),
        ("env", _env, 'print environment variables for a shell: eval "$(airflow-batch-ros local env)"'),
    ):
        action = actions.add_parser(name, help=text, description=text)
        _add_state_dir(action)
        action.set_defaults(run=run)
    _add_fault_parser(actions)


def _add_fault_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fault = actions.add_parser(
        "fault",
        help="what goes wrong on purpose: add, list, clear",
        description="What goes wrong on purpose in the one that runs, for every client and job. Faults of S3 "
        "need `local up --s3-faults`. They end with it, or by `clear`.",
    )
    verbs = fault.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = verbs.add_parser("add", help="put one in force; prints its id")
    kinds = add.add_subparsers(title="faults", metavar="FAULT", required=True)
    for name, kind in KINDS.items():
        text = inspect.cleandoc(kind.__doc__ or "")
        parser = kinds.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_state_dir(parser)
        _add_fields(parser, kind)
        parser.set_defaults(run=_fault_add, fault=kind)
    listing = verbs.add_parser("list", help="those in force, with what they have met and how often they hit")
    _add_state_dir(listing)
    listing.set_defaults(run=_fault_list)
    clear = verbs.add_parser("clear", help="end those named, or all")
    _add_state_dir(clear)
    clear.add_argument("id", nargs="*", help="as `add` and `list` print it (default: all)")
    clear.set_defaults(run=_fault_clear)


def _add_fields(parser: argparse.ArgumentParser, kind: type[Fault]) -> None:
    choices = {S3Error: S3_ERRORS, BatchRefusal: BATCH_ERRORS}.get(kind)
    types = field_types(kind)
    for each in dataclasses.fields(kind):
        required = each.default is dataclasses.MISSING
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            dest=f"field_{each.name}",
            type=types[each.name],
            default=None if required else each.default,
            required=required,
            choices=list(choices) if choices and each.name == "error" else None,
            help=None if required else "default: %(default)s",
        )


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=_port, default=0, help="of all but S3 (default: the last one, or a free one)"
    )
    parser.add_argument("--s3-port", type=_port, default=0, help="of S3 (default: likewise)")
    parser.add_argument(
        "--s3-faults",
        action="store_true",
        help="have a proxy before S3, without which `local fault` has none of S3's",
    )
    parser.add_argument(
        "--slots", type=_slots, default=0, help="jobs that run at a time (default: one a CPU)"
    )
    parser.add_argument(
        "--containers",
        action="store_true",
        help="run jobs as containers of their job definition's image, with its limits, on this machine's "
        "Docker; they reach these servers alone",
    )
    parser.add_argument(
        "--image",
        default=IMAGE,
        help="with --containers: of the job definition that is there from the start (default: %(default)s)",
    )
    parser.add_argument(
        "--network",
        default="",
        help="with --containers: a Docker network that these servers are on (default: one of their own, on "
        "whose address of this machine they then listen instead of on loopback)",
    )
    parser.add_argument("--network-host", default="", metavar="NAME", help="their name on that --network")


def _add_state_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=DEFAULT_STATE_DIR,
        metavar="DIR",
        help="S3's data, logs and ports (default: %(default)s)",
    )


def _parse_credentials(text: str) -> Credentials:
    access_key, _, secret_key = text.partition(":")
    if not (access_key and secret_key):
        raise argparse.ArgumentTypeError("KEY:SECRET is expected")
    return Credentials(access_key, secret_key)


def _port(text: str) -> int:
    return _whole(text, most=65_535)


def _slots(text: str) -> int:
    return _whole(text, most=10_000)


def _whole(text: str, *, most: int) -> int:
    if not text.isdecimal() or len(text) > len(str(most)) or int(text) > most:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to {most} is expected, not {text!r:.40}")
    return int(text)


def _server_options(arguments: argparse.Namespace) -> ServerOptions:
    if bool(arguments.network) != bool(arguments.network_host):
        raise LocalAwsError("--network and --network-host go together")
    containers = None
    if arguments.containers:
        containers = ContainerOptions(
            image=arguments.image, network=arguments.network, host=arguments.network_host
        )
    return ServerOptions(
        port=arguments.port,
        s3_port=arguments.s3_port,
        slots=arguments.slots,
        all_interfaces=arguments.all_interfaces,
        credentials=arguments.credentials,
        containers=containers,
        s3_faults=arguments.s3_faults,
    )


def _airflow(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    dags = arguments.dags.absolute()
    try:
        if not dags.is_dir():
            raise LocalAwsError(f"there is no folder {dags}: --dags names the folder of the DAGs")
        aws = EmbeddedAws(
            arguments.state_dir, buckets=AIRFLOW_BUCKETS, allow=["s3://"], options=_server_options(arguments)
        )
        with aws:
            options = AirflowOptions(
                home=arguments.airflow_home.absolute(),
                dags=dags,
                port=arguments.airflow_port,
                environment={**aws.environment(), "AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT": AIRFLOW_OUTPUT},
            )
            print("starting Airflow: half a minute, more the first time", flush=True)
            with LocalAirflow(options) as airflow:
                _print_server(aws, arguments.state_dir)
                print(f"  bags, lake  s3://{AIRFLOW_BUCKETS[0]}/, {AIRFLOW_OUTPUT}/")
                print(f"  DAGs        {dags}")
                print(f"  logs        {airflow.log}")
                print(f"Airflow: {airflow.url}  user {USER}, password {PASSWORD}. Ctrl-C ends it", flush=True)
                airflow.wait()
    except KeyboardInterrupt:
        print("ended")
    except LocalAwsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _up(arguments: argparse.Namespace) -> int:
    try:
        options = _server_options(arguments)
    except LocalAwsError as error:
        print(error, file=sys.stderr)
        return 2
    aws = EmbeddedAws(arguments.state_dir, buckets=arguments.bucket, allow=arguments.allow, options=options)
    there_before = find_running(aws.state) is not None
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        aws.start(detached=arguments.detach)
        print("already up" if there_before else "up")
        _print_server(aws, arguments.state_dir)
        if aws.owned:
            print("Ctrl-C ends it", flush=True)
            aws.wait()
    except KeyboardInterrupt:
        print("ending")
    except LocalAwsError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        aws.stop()
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _down(arguments: argparse.Namespace) -> int:
    server = stop_running(StateFolder(arguments.state_dir.absolute()))
    print("not running" if server is None else f"ended (process {server.pid})")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    try:
        aws = EmbeddedAws.attach(arguments.state_dir)
    except LocalAwsError:
        print("not running")
        return EXIT_NOT_RUNNING
    print("up")
    _print_server(aws, arguments.state_dir)
    return 0


def _env(arguments: argparse.Namespace) -> int:
    try:
        aws = EmbeddedAws.attach(arguments.state_dir)
    except LocalAwsError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_RUNNING
    # A session's token or a profile would go with the credentials, and be refused.
    print("unset AWS_SESSION_TOKEN AWS_PROFILE")
    for name, value in aws.environment().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _fault_add(arguments: argparse.Namespace) -> int:
    try:
        aws = EmbeddedAws.attach(arguments.state_dir)
    except LocalAwsError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_RUNNING
    kind: type[Fault] = arguments.fault
    values = {each.name: getattr(arguments, f"field_{each.name}") for each in dataclasses.fields(kind)}
    try:
        (added,) = fault_client.add(aws.server, [kind(**values)])
    except (FaultError, LocalAwsError) as error:
        print(error, file=sys.stderr)
        return 2
    print(added)
    return 0


def _fault_list(arguments: argparse.Namespace) -> int:
    try:
        aws = EmbeddedAws.attach(arguments.state_dir)
    except LocalAwsError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_RUNNING
    for each in fault_client.shown(aws.server):
        print(f"{each.id}  hit {each.hits} of {each.met}  {describe(each.fault)}")
    return 0


def _fault_clear(arguments: argparse.Namespace) -> int:
    try:
        aws = EmbeddedAws.attach(arguments.state_dir)
    except LocalAwsError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_RUNNING
    ended = fault_client.end(aws.server, arguments.id)
    if unknown := sorted(set(arguments.id) - set(ended)):
        print(f"not in force: {', '.join(unknown)}; `list` says what is", file=sys.stderr)
        return 2
    print("\n".join(ended) or "none in force")
    return 0


def _print_server(aws: EmbeddedAws, state_dir: Path) -> None:
    server = aws.server
    print(f"  S3          {server.s3_endpoint_url}")
    print(f"  Batch, logs {server.endpoint_url} ({server.region})")
    print(f"  jobs        queue {JOB_QUEUE}, definition {JOB_DEFINITION}")
    print(f"              {server.jobs}, {server.slots} at a time")
    print(f"  console     {server.endpoint_url}{CONSOLE_PATH}/batch/home")
    print(f"  process     {server.pid}, since {server.started_at}")
    print(f"  folder      {aws.state.path}")
    option = "" if state_dir == DEFAULT_STATE_DIR else f" --state-dir {shlex.quote(str(state_dir))}"
    print(f'  in a shell  eval "$(airflow-batch-ros local env{option})"')
