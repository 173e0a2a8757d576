"""``ros-to-parquet``: the engine's command line. What AWS Batch runs is ``ros-to-parquet run``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ros_to_parquet import __version__, contract, fleet_command, memory, termination
from ros_to_parquet.catalog import command as catalog_command
from ros_to_parquet.contract import ALLOW_VARIABLE, EXIT_CODE_HELP, ContractError, ExitCode
from ros_to_parquet.errors import unexpected
from ros_to_parquet.log import event, now
from ros_to_parquet.termination import TerminatedError
from ros_to_parquet.text import print_table, say, shown

if TYPE_CHECKING:
    from ros_to_parquet.contract import Manifest, Plan
    from ros_to_parquet.history import TopicDrift
    from ros_to_parquet.memory import MemoryBudget
    from ros_to_parquet.rebuild import Rebuilt

# Heavy imports (numpy, pyarrow, boto3) happen in the commands that need them: --version and --help are for
# people, and a container's health check.

OPEN_FILES = 10_000

FINDINGS_SHOWN = 10
"""Of a drive's quality checks."""

REPORT_MODULES = ("matplotlib", "PIL")
"""Of the extra ``report``."""

PLANNING_COMMANDS = ("submit", "retry")
PLANNING_GROUP = "ros_to_parquet.commands"
"""Entry points by which airflow-batch-ros does them, where it is installed beside the engine: then an image
can plan too, whose only entry point this is."""


class UsageError(ValueError):
    """Arguments that each parse but do not go together."""


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

    extract = commands.add_parser(
        "extract",
        help="bags to Parquet, on this machine",
        description="Extracts bags into a lake: one table a topic, in OUTPUT/TABLE/schema=.../drive_id=ID/. "
        "Bags that the lake has already are left out.",
    )
    extract.add_argument(
        "bags", nargs="+", metavar="BAG", help="bag file, rosbag2 folder or folder of bags; path or URI"
    )
    extract.add_argument("--output", required=True, metavar="FOLDER_OR_URI", help="where the lake is")
    extract.add_argument(
        "--drive-id", metavar="ID", help="default: the name of the bag, or of the folder of several"
    )
    _add_topic_globs(extract)
    extract.add_argument(
        "--msg-path",
        action="append",
        default=[],
        metavar="FOLDER_OR_URI",
        help="message packages (pkg/msg/Type.msg, also .srv, .action, .idl), for types that a bag does not "
        "define; may be given several times, the first that has a type wins",
    )
    extract.add_argument(
        "--ros-distro",
        choices=contract.ROS_DISTRIBUTIONS,
        default="",
        metavar="NAME",
        help="whose standard types to try first where a bag does not define a type: "
        f"{', '.join(contract.ROS_DISTRIBUTIONS)} (default: the newest)",
    )
    extract.add_argument(
        "--pointcloud",
        choices=[str(choice) for choice in contract.PointClouds],
        default=str(contract.PointClouds.RECORDED),
        help="sensor_msgs/PointCloud2 with its points in a blob, as recorded (default), or decoded: a list "
        "column for each of their fields (x, y, z, intensity, ...)",
    )
    extract.add_argument(
        "--parquet",
        choices=[str(choice) for choice in contract.ParquetStyle],
        default=str(contract.ParquetStyle.COMPATIBLE),
        help="encodings: compatible (default), or compact: smaller, but not for Spark before 4.3",
    )
    extract.add_argument(
        "--transform",
        action="append",
        default=[],
        metavar="GLOB=NAME",
        help="have rows of these topics go through a transform that is installed (see the command "
        "transforms) before they are written; may be given several times",
    )
    extract.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="GLOB=FORM",
        help="what becomes of these topics' pictures: recorded (default); png or jpeg, in the table; "
        "png_files or jpeg_files, beside it; left_out; with options: jpeg_files,max_width=640,quality=85 or "
        "recorded,video=h264; may be given several times, one that names the topic itself wins",
    )
    extract.add_argument(
        "--quality",
        metavar="JSON_OR_FILE",
        help="limits of quality checks by topic, as "
        '\'{"/imu/*": {"gap": {"warn": 3, "error": 20}, "frozen": null}}\'; off: no checks '
        "(default: those of docs/quality.md)",
    )
    extract.add_argument("--overwrite", action="store_true", help="replace what the lake has of this drive")
    extract.add_argument(
        "--strict", action="store_true", help=f"exit {int(ExitCode.STRICT)} on rejects or damage"
    )
    extract.add_argument("--take-over", action="store_true", help="go on although another run has the drive")
    _add_finish(extract)
    _add_memory_limit(extract)
    extract.set_defaults(call=command_extract)

    back = commands.add_parser(
        "rebuild",
        help="Parquet back to a bag",
        description="Writes the recorded messages of a drive, or some of them, from the lake to an MCAP file "
        "that ROS 2, Foxglove and the mcap tools open. TIME is ISO 8601 (UTC unless it says otherwise) or "
        "seconds since 1970, with up to nine decimals.",
    )
    back.add_argument("lake", metavar="LAKE", help="where the lake is; path or URI")
    back.add_argument("--drive-id", required=True, metavar="ID")
    back.add_argument("--output", required=True, metavar="BAG", help="MCAP file to write; path or URI")
    _add_topic_globs(back)
    back.add_argument("--from", dest="start", metavar="TIME", help="first log time to take")
    back.add_argument("--to", dest="stop", metavar="TIME", help="first log time not to take")
    back.set_defaults(call=command_rebuild)

    report = commands.add_parser(
        "report",
        help="a drive in the lake as one HTML page",
        description="What a drive is and whether it is all there: topics over time and their gaps, the "
        "track, frames of cameras, a lidar cloud, numeric fields, coordinate frames, bags and shards, in one "
        "file that needs no network.",
    )
    report.add_argument("lake", metavar="LAKE", help="where the lake is; path or URI")
    report.add_argument("--drive-id", required=True, metavar="ID")
    report.add_argument(
        "--output",
        metavar="FILE",
        help="HTML file to write; path or URI (default: in the lake, _reports/drive_id=ID/report.html)",
    )
    report.set_defaults(call=command_report)

    frames = commands.add_parser(
        "frames",
        help="topics of a drive put together by time, as a table",
        description="Makes a frames table of a drive in the lake: a row for each message of a topic, or at a "
        "fixed rate, with what other topics have at that time, and poses by TF. It is in "
        "LAKE/_frames/NAME/drive_id=ID/, and takes the place of an earlier one of that name.",
    )
    frames.add_argument("lake", metavar="LAKE", help="where the lake is; path or URI")
    frames.add_argument("--drive-id", required=True, metavar="ID")
    _add_sync(frames)
    frames.add_argument("--name", metavar="NAME", help="of the table (default: frames)")
    frames.add_argument("--reference", metavar="TOPIC", help="whose messages are the frames")
    frames.add_argument("--rate-hz", type=float, metavar="RATE", help="frames at a fixed rate instead")
    frames.add_argument(
        "--clock",
        choices=[str(clock) for clock in contract.Clock],
        help="time of a message: when it was recorded (default), or its header's stamp",
    )
    frames.add_argument(
        "--tolerance-ms",
        metavar="MS",
        help=f"how far a message may be from a frame (default: {contract.FRAMES_TOLERANCE_NS // 1_000_000}), "
        "or unlimited",
    )
    frames.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="TOPIC[=METHOD]",
        help=f"a column: {', '.join(contract.Match)} (default: nearest); may be given several times. Fields, "
        "and tolerances of single topics: by --sync",
    )
    frames.add_argument(
        "--pose",
        nargs=2,
        action="append",
        default=[],
        metavar=("PARENT", "CHILD"),
        help="a column: where the coordinate frame CHILD is in PARENT, by TF; may be given several times",
    )
    _add_memory_limit(frames)
    frames.set_defaults(call=command_frames)

    finish = commands.add_parser(
        "finish",
        help="what is done for a drive once it is committed, again",
        description="Does the finishing steps of a drive that is in the lake: those that its last run asked "
        "for, or those that are asked for here.",
    )
    finish.add_argument("lake", metavar="LAKE", help="where the lake is; path or URI")
    finish.add_argument("--drive-id", required=True, metavar="ID")
    _add_finish(finish)
    _add_memory_limit(finish)
    finish.set_defaults(call=command_finish)

    drift = commands.add_parser(
        "drift",
        help="topics of a lake whose definition changed",
        description="Which topics of a lake have several definitions: how these differ field by field, from "
        "which drive and bag on, and in how many drives and rows. A topic is broken if no table holds all.",
    )
    drift.add_argument("lake", metavar="LAKE", help="where the lake is; path or URI")
    _add_topic_globs(drift)
    drift.add_argument("--all", action="store_true", help="topics with one definition too")
    drift.add_argument("--json", action="store_true", help="as JSON")
    drift.set_defaults(call=command_drift)

    views = commands.add_parser(
        "views",
        help="SQL views of a lake's topics, for DuckDB",
        description="Prints SQL that makes a view of each topic in DuckDB, named as its table. Definitions "
        "that one table holds are read together; what is cast and what is null is in the view's comment. "
        "Else the topic has a view for each definition, TABLE@DIGITS.",
    )
    views.add_argument("lake", metavar="LAKE", help="where the lake is; path or URI")
    _add_topic_globs(views)
    views.set_defaults(call=command_views)

    fleet_command.add_parser(commands)
    catalog_command.add_parser(commands)

    info = commands.add_parser(
        "info", help="what is in a bag", description="Topics, types, counts, times, compression."
    )
    info.add_argument("bag", metavar="BAG", help="bag file; path or URI")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(call=command_info)

    sample = commands.add_parser(
        "sample",
        help="a look into bags, without reading them whole",
        description="Topics and counts by a bag's index, and its first minute decoded: types that nobody "
        "defines, messages that do not decode, damage. Of each bag at most twice --max-bytes are read.",
    )
    sample.add_argument("bags", nargs="+", metavar="BAG", help="bag files; paths or URIs")
    sample.add_argument("--seconds", type=float, default=60.0, metavar="N", help="of log time (default: 60)")
    sample.add_argument(
        "--max-bytes",
        default="64MiB",
        metavar="SIZE",
        help="of each bag, likewise of its index (default: 64MiB)",
    )
    _add_topic_globs(sample)
    sample.add_argument(
        "--msg-path", action="append", default=[], metavar="FOLDER_OR_URI", help="as of the command extract"
    )
    sample.add_argument(
        "--ros-distro", choices=contract.ROS_DISTRIBUTIONS, default="", metavar="NAME", help="likewise"
    )
    sample.add_argument("--json", action="store_true", help="as JSON, a line a bag")
    sample.set_defaults(call=command_sample)

    installed = commands.add_parser(
        "transforms",
        help="transforms that are installed",
        description="Code for --transform and the conf's transforms, by name: entry points of installed "
        "packages.",
    )
    installed.set_defaults(call=command_transforms)

    run = commands.add_parser(
        "run",
        help="one shard of a plan: what an AWS Batch job runs",
        description="Runs one shard of a plan. In an array job the shard is AWS_BATCH_JOB_ARRAY_INDEX, or "
        f"that entry of the index map. {ALLOW_VARIABLE} limits where plan, bags, message definitions and "
        "output may lie.",
    )
    run.add_argument("--plan", required=True, metavar="URI")
    run.add_argument("--plan-sha256", metavar="HEX", help="refuse another plan")
    run.add_argument("--shard", type=int, metavar="N", help="for a job that is not an array")
    run.add_argument("--index-map", metavar="URI", help="the generation: which shard each array index runs")
    run.add_argument("--index-map-sha256", metavar="HEX", help="refuse another generation")
    _add_memory_limit(run)
    run.set_defaults(call=command_run)
    return parser


def _add_topic_globs(parser: argparse.ArgumentParser) -> None:
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


def _add_finish(parser: argparse.ArgumentParser) -> None:
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
    _add_sync(parser)


def _add_sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sync",
        metavar="JSON",
        help="frames tables, as the conf's sync has them: a file, a URI, or the JSON itself",
    )


def read_finish(arguments: argparse.Namespace) -> contract.FinishOptions:
    """The finishing steps that are asked for."""
    return contract.FinishOptions(
        report=arguments.report,
        fleet=arguments.fleet,
        catalog=catalog_command.parse_catalog(arguments.catalog) if arguments.catalog else None,
        sync=() if arguments.sync is None else read_sync(arguments.sync),
    )


def _add_memory_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="most memory to take beside what libraries take: 512MiB, 2G, or bytes; what does not fit goes "
        "to scratch disk (TMPDIR), a message larger than a quarter of it is a reject (default: "
        f"{memory.VARIABLE}, or 1GiB, or what fits in the container)",
    )


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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Every error a user can cause is one line, no traceback."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in PLANNING_COMMANDS:
        return plan_and_submit(words)
    termination.listen()
    arguments = build_parser().parse_args(words)
    _allow_open_files()
    try:
        code = int(arguments.call(arguments))
        print(end="", flush=True)  # standard output may be closed
    except BrokenPipeError:  # who reads has seen enough (`| head`): no error, and nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = int(ExitCode.OK)
    except ModuleNotFoundError as error:
        extra = "engine,report" if error.name in REPORT_MODULES else "engine"
        reason = f"{error}: this command needs more of it: pip install 'ros-to-parquet[{extra}]'"
        code = _fail(ExitCode.ENGINE_ERROR, reason)
    except KeyboardInterrupt:
        code = _fail(ExitCode.RETRY, "interrupted")
    except (Exception, TerminatedError) as error:  # noqa: BLE001 (each becomes an exit code and a line)
        code = _fail(*explain(error))
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
    return _fail(ExitCode.USAGE, reason)


def _allow_open_files() -> None:
    """As many as the system lets the process have: on disk each table is an open file until all are done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _fail(code: ExitCode, reason: str) -> int:
    event("failed", exit_code=int(code), reason=reason)
    return int(code)


def explain(error: Exception | TerminatedError) -> tuple[ExitCode, str]:
    """Exit code and reason of whatever a command raised. An unexpected error's traceback is printed."""
    from ros_to_parquet import storage
    from ros_to_parquet.bag.model import BagError
    from ros_to_parquet.errors import ShardError

    match error:
        case ShardError():
            if error.exit_code is ExitCode.TRANSFORM_FAILED and error.__cause__ and error.__cause__.__cause__:
                traceback.print_exception(error.__cause__.__cause__)  # who wrote it wants to see where
            return error.exit_code, str(error)
        case BagError():
            return ExitCode.BAG_UNREADABLE, str(error)
        case UsageError() | storage.LocationError():
            return ExitCode.USAGE, str(error)
        case ContractError():
            return ExitCode.PLAN_REFUSED, str(error)
        case TerminatedError() | storage.TransientError():
            return ExitCode.RETRY, str(error)
        case storage.AccessDeniedError():
            return ExitCode.ACCESS_DENIED, str(error)
        case storage.NotFoundError():
            return ExitCode.INPUT_MISSING, str(error)
        case storage.StorageError():
            return ExitCode.OUTPUT_FAILED, str(error)
        case MemoryError():
            return ExitCode.OUT_OF_MEMORY, "out of memory; give the job more"
        case OSError():  # such as a full disk
            traceback.print_exception(error)
            return ExitCode.ENGINE_ERROR, f"{type(error).__name__}: {error}"
        case _:
            return ExitCode.ENGINE_ERROR, unexpected(error)


# --- run --------------------------------------------------------------------------------------------


def command_run(arguments: argparse.Namespace) -> int:
    from ros_to_parquet import run
    from ros_to_parquet.progress import Progress
    from ros_to_parquet.storage import join, normalize, open_storage

    budget = read_budget(arguments)
    job = run.JobIdentity.from_environment()
    check_allowed("job", (normalize(uri) for uri in (arguments.plan, arguments.index_map) if uri))
    plan = load_plan(arguments.plan, arguments.plan_sha256)
    shard = _shard_number(arguments, plan)
    check_allowed(f"drive {plan.drive_id}", _places(plan))
    size_bytes = sum(plan.bags[part.bag].size_bytes // part.count for part in plan.shards[shard])
    try:
        with Progress(size_bytes) as progress:
            manifest = run.run_shard(plan, shard, job, budget=budget, progress=progress.show)
    except (Exception, TerminatedError) as error:  # noqa: BLE001 (each becomes an exit code and a record)
        code, reason = explain(error)
        reason = shown(reason)
        record = contract.FailedRecord(plan.plan_id, shard, job.job_id, job.attempt, int(code), reason, now())
        uri = join(plan.output, contract.failed_key(plan.drive_id, plan.plan_id, shard))
        _record_failure(open_storage(plan.output).write, uri, record)
        return _fail(code, reason)
    return int(run.exit_code(manifest))


def _record_failure(write: Callable[[str, bytes], None], uri: str, record: contract.FailedRecord) -> None:
    from ros_to_parquet.storage import StorageError

    try:
        write(uri, contract.to_json(record))
    except StorageError as error:  # the store may be what failed: the exit code and the log still say it
        event("failure_not_recorded", uri=uri, reason=str(error))


def load_plan(uri: str, digest: str | None) -> Plan:
    """The plan at ``uri``.

    Raises:
        ContractError: not a plan of this contract, or not the one with SHA-256 ``digest``.
    """
    return contract.from_json(contract.Plan, _read_checked(uri, digest), where=uri)


def _read_checked(uri: str, digest: str | None) -> bytes:
    from ros_to_parquet.storage import normalize, open_storage

    uri = normalize(uri)
    data = open_storage(uri).read(uri)
    if digest is not None and contract.sha256(data) != digest:
        raise ContractError(f"{uri}: its SHA-256 is {contract.sha256(data)}, the job was given {digest}")
    return data


def _shard_number(arguments: argparse.Namespace, plan: Plan) -> int:
    index = os.environ.get("AWS_BATCH_JOB_ARRAY_INDEX")
    if arguments.shard is not None:
        shard = int(arguments.shard)
    elif index is not None:
        shard = int(index)
    elif len(plan.shards) == 1:
        shard = 0
    else:
        raise UsageError(
            f"the plan has {len(plan.shards)} shards: --shard says which (an array job knows by itself)"
        )
    if arguments.index_map is not None:
        where = arguments.index_map
        generation = contract.from_json(
            contract.Generation, _read_checked(where, arguments.index_map_sha256), where=where
        )
        if generation.plan_id != plan.plan_id:
            raise ContractError(f"{where}: is of plan {generation.plan_id}, not of {plan.plan_id}")
        if not 0 <= shard < len(generation.shards):
            raise ContractError(f"{where}: has {len(generation.shards)} entries, this is array index {shard}")
        shard = generation.shards[shard]
    if not 0 <= shard < len(plan.shards):
        raise ContractError(f"{arguments.plan}: has {len(plan.shards)} shards, there is no shard {shard}")
    return shard


def check_allowed(what: str, uris: Iterable[str]) -> None:
    """Raises `ContractError` if the deployment's allow-list leaves out one of ``uris``."""
    allowed = [entry.strip() for entry in os.environ.get(ALLOW_VARIABLE, "").split(",") if entry.strip()]
    for uri in uris:
        if allowed and not contract.is_allowed(uri, allowed):
            raise ContractError(
                f"{what}: {uri} is outside of what this deployment allows "
                f"({ALLOW_VARIABLE}: {', '.join(allowed)})"
            )


def _places(plan: Plan) -> Iterator[str]:
    """All that the plan has a job read, and where it writes."""
    yield plan.output
    yield from plan.options.msg_paths
    for bag in plan.bags:
        yield bag.uri
        if bag.metadata_uri:
            yield bag.metadata_uri
        yield from (each.uri for each in bag.beside)


# --- extract ----------------------------------------------------------------------------------------


def command_extract(arguments: argparse.Namespace) -> int:
    from ros_to_parquet import finish, lake, run
    from ros_to_parquet.local_plan import ACTIVE, make_plan
    from ros_to_parquet.progress import Progress
    from ros_to_parquet.storage import normalize, open_storage

    budget = read_budget(arguments)
    wanted = read_finish(arguments)
    quality = read_quality(arguments.quality)
    options = contract.ExtractOptions(
        include_topics=tuple(arguments.topics),
        exclude_topics=tuple(arguments.exclude),
        strict=arguments.strict,
        ros_distro=arguments.ros_distro,
        msg_paths=tuple(normalize(folder) for folder in arguments.msg_path),
        pointcloud=contract.PointClouds(arguments.pointcloud),
        parquet=contract.ParquetStyle(arguments.parquet),
        transforms=parse_transforms(arguments.transform),
        images=parse_images(arguments.images),
    )
    # What cannot be used is said before anything is written.
    run.check_options(options)
    made = make_plan(
        arguments.bags,
        output=arguments.output,
        drive_id=arguments.drive_id,
        options=options,
        overwrite=arguments.overwrite,
        take_over=arguments.take_over,
        finish=wanted,
        quality=quality,
    )
    storage = open_storage(made.output)
    for name in made.ignored:
        event("recorded_still" if name.endswith(ACTIVE) else "not_a_bag", file=name)
    for name in made.covered:
        event("already_in_the_lake", bag=name)
    if not made.shards:
        say(
            f"Nothing to do: {made.output} has all {len(made.covered)} bags of drive {made.drive_id} already."
        )
        if wanted != contract.FinishOptions():
            try:
                record = finish.finish_committed(storage, made.output, made.drive_id, wanted, budget=budget)
            except finish.StepError as error:  # a run that was taken over has them
                say(f"! {error}")
            else:
                print_finished(record, made.output)
        return int(ExitCode.OK)
    try:
        with Progress(sum(bag.size_bytes for bag in made.bags)) as progress:
            job = run.JobIdentity("", 1, "")
            manifest = run.run_shard(made, 0, job, budget=budget, progress=progress.show)
    finally:  # nobody else will come back for it
        lake.release_lease(storage, made)
    print_extracted(made, manifest)
    print_quality(lake.read_commit(storage, made))
    print_finished(finish.read_record(storage, made.output, made.drive_id, made.plan_id), made.output)
    return int(run.exit_code(manifest))


def parse_transforms(given: Sequence[str]) -> tuple[contract.TransformRule, ...]:
    """What ``GLOB=NAME`` arguments say.

    >>> parse_transforms(["/a=b=downsample"])
    (TransformRule(topics='/a=b', name='downsample'),)

    Raises:
        UsageError: one is not of that form, or a glob has two names.
    """
    names: dict[str, str] = {}
    for text in given:
        glob, _, name = text.rpartition("=")
        if not glob or not re.fullmatch(contract.TRANSFORM_NAME, name):
            raise UsageError(f"--transform {text}: expected GLOB=NAME, as '/camera/*=brightness'")
        if names.setdefault(glob, name) != name:
            raise UsageError(f"--transform: {glob} has both {names[glob]} and {name}; a topic has one")
    return contract.transform_rules(names)


def parse_images(given: Sequence[str]) -> tuple[contract.ImageRule, ...]:
    """What ``GLOB=FORM[,OPTION=VALUE...]`` arguments say.

    >>> [str(rule) for rule in parse_images(["/cam/*=png,max_width=640"])]
    ['png,max_width=640']

    Raises:
        UsageError: one is not of that form, or a glob has two.
    """
    rules: dict[str, contract.ImageRule] = {}
    for text in given:
        match = re.fullmatch(r"(?P<glob>.+?)=(?P<form>[a-z_]+(,.*)?)", text)
        if match is None:
            raise UsageError(f"--images {text}: expected GLOB=FORM, as '/camera/*=jpeg_files,max_width=640'")
        try:
            rule = contract.parse_image_rule(match["glob"], match["form"])
        except ValueError as error:
            raise UsageError(f"--images {text}: {error}") from error
        if rules.setdefault(rule.topics, rule) != rule:
            raise UsageError(f"--images: {rule.topics} has both {rules[rule.topics]} and {rule}")
    return contract.image_rules(rules.values())


def print_extracted(plan: Plan, manifest: Manifest) -> None:
    """Prints what became of each bag and topic."""
    rows = [
        (topic.topic, topic.type_name, f"{topic.rows:,}", f"{topic.rejected:,}" if topic.rejected else "")
        for topic in manifest.topics
    ]
    if rows:
        print_table(("topic", "type", "rows", "rejected"), rows)
    for topic in manifest.topics:
        if topic.transform:
            say(f"  {topic.topic}: {topic.transform}")
    for problem in contract.fold(plan, [manifest]).problems:
        say(f"! {problem}")
    count = sum(topic.transform.rows_out if topic.transform else topic.rows for topic in manifest.topics)
    size = manifest.bytes_read / 1e6
    speed = f", {size / manifest.seconds:.0f} MB/s" if manifest.seconds > 0.01 else ""
    bags = "1 bag" if len(manifest.bags) == 1 else f"{len(manifest.bags)} bags"
    print(f"{count:,} rows from {bags}, {size:,.1f} MB in {manifest.seconds:.1f} s{speed}")
    if count:
        say(f"{plan.output}/*/*/drive_id={plan.drive_id}/*.parquet")


def read_quality(given: str | None) -> tuple[contract.QualityRule, ...]:
    """The rules that ``--quality`` says: JSON, or a file of it.

    Raises:
        UsageError: with all that is wrong.
    """
    if given is None:
        return ()
    text = given
    if given == "off":
        text = '{"*": null}'
    elif not given.lstrip().startswith("{"):
        try:
            text = Path(given).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--quality: {given} is no JSON, and no file of it: {error}") from error
    try:
        rules, problems = contract.parse_quality(json.loads(text))
    except ValueError as error:
        raise UsageError(f"--quality: not JSON: {error}") from error
    if problems:
        raise UsageError(f"--quality: {'; '.join(problems)}")
    return rules


def print_quality(commit: contract.DriveManifest | None) -> None:
    """Prints what the quality checks found, the first of it."""
    if commit is None or commit.quality is None:
        return
    print(commit.quality)
    for each in commit.quality.findings[:FINDINGS_SHOWN]:
        say(f"  {each.level}: {each}")
    more = commit.quality.warn + commit.quality.error - FINDINGS_SHOWN
    if more > 0:
        say(f"  and {more:,} more, in {commit.quality.path}")


def print_finished(record: contract.FinishRecord | None, output: str) -> None:
    """Prints what became of each finishing step."""
    from ros_to_parquet import finish

    for line in finish.lines(record, output) if record else ():
        say(line)


def command_finish(arguments: argparse.Namespace) -> int:
    from ros_to_parquet import finish
    from ros_to_parquet.storage import normalize, open_storage

    output, asked = normalize(arguments.lake), read_finish(arguments)
    try:
        record = finish.finish_committed(
            open_storage(output),
            output,
            arguments.drive_id,
            asked if asked != contract.FinishOptions() else None,
            budget=read_budget(arguments),
            again=True,
        )
    except finish.StepError as error:
        return _fail(ExitCode.INPUT_MISSING, str(error))
    print_finished(record, output)
    if record is None:
        say(
            f"Nothing to do: no finishing step is asked for, here or by the last run of {arguments.drive_id}."
        )
    undone = [] if record is None else [step for step in record.steps if step.state != "done"]
    return int(ExitCode.ENGINE_ERROR if undone else ExitCode.OK)


# --- frames -----------------------------------------------------------------------------------------


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
        text = open_storage(uri).read(uri).decode("utf-8", "replace")
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--sync: not JSON: {error}") from error
    return _checked_sync(raw, "--sync")


def _checked_sync(raw: object, where: str) -> tuple[contract.FramesTable, ...]:
    from ros_to_parquet.sync_conf import parse_sync

    problems: list[str] = []
    tables = parse_sync(raw, problems, where=where)
    if problems:
        raise UsageError("; ".join(problems))
    return tables


def _sync_of_flags(arguments: argparse.Namespace) -> dict[str, object]:
    """What the flags of ``frames`` say, as ``sync`` has it."""
    topics: dict[str, dict[str, str]] = {}
    for text in arguments.topic:
        topic, _, method = text.partition("=")
        topics[topic] = {"method": method} if method else {}
    tolerance = arguments.tolerance_ms
    if tolerance is not None:
        with suppress(ValueError):  # "unlimited", or what parse_sync refuses in words
            tolerance = float(tolerance)
    said = {
        "name": arguments.name,
        "reference": arguments.reference,
        "rate_hz": arguments.rate_hz,
        "clock": arguments.clock,
        "tolerance_ms": tolerance,
        "topics": topics,
        "pose": [
            {"parent": parent, "child": child, "column": "pose" if number == 0 else f"pose_{number + 1}"}
            for number, (parent, child) in enumerate(arguments.pose)
        ],
    }
    return {key: value for key, value in said.items() if value not in (None, {}, [])}


def command_frames(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.frames.errors import FramesError
    from ros_to_parquet.frames.make import write_frames
    from ros_to_parquet.storage import join, normalize

    flags = _sync_of_flags(arguments)
    if (arguments.sync is None) == (not flags):
        raise UsageError(
            "either --sync, or flags that say the table: --reference or --rate-hz, --topic, --pose"
        )
    tables = read_sync(arguments.sync) if arguments.sync else _checked_sync(flags, "frames")
    budget = read_budget(arguments)
    for table in tables:
        begin = time.monotonic()
        try:
            made = write_frames(arguments.lake, arguments.drive_id, table, budget=budget)
        except FramesError as error:
            return _fail(ExitCode.INPUT_MISSING, str(error))
        print_table(
            ("column", "of", "frames", "others are null"),
            [
                (each.column, each.source, f"{each.matched:,}", "; ".join(each.reasons))
                for each in made.columns
            ],
        )
        for problem in made.problems:
            say(f"! {problem}")
        seconds = time.monotonic() - begin
        print(f"{made.rows:,} frames, {made.size_bytes / 1e6:,.1f} MB in {seconds:.1f} s")
        say(join(normalize(arguments.lake), made.path))
    return int(ExitCode.OK)


# --- rebuild ----------------------------------------------------------------------------------------

_FRACTION = re.compile(r"(?P<whole>.*\d)[.,](?P<digits>\d{1,9})(?P<zone>[^\d].*)?")


def command_rebuild(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.lake import Lake
    from ros_to_parquet.rebuild import RebuildError, Window, rebuild

    window = Window()
    if arguments.start is not None:
        window = dataclasses.replace(window, start_ns=parse_time(arguments.start))
    if arguments.stop is not None:
        window = dataclasses.replace(window, stop_ns=parse_time(arguments.stop))
    if window.start_ns >= window.stop_ns:
        raise UsageError(f"--from {arguments.start} is not before --to {arguments.stop}")
    begin = time.monotonic()
    try:
        rebuilt = rebuild(
            Lake(arguments.lake),
            arguments.drive_id,
            arguments.output,
            topics=contract.ExtractOptions(tuple(arguments.topics), tuple(arguments.exclude)),
            window=window,
        )
    except RebuildError as error:
        return _fail(ExitCode.INPUT_MISSING, str(error))
    print_rebuilt(rebuilt, arguments.output, seconds=time.monotonic() - begin)
    return int(ExitCode.OK)


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


def print_rebuilt(rebuilt: Rebuilt, output: str, *, seconds: float) -> None:
    """Prints what was written of each topic, and what of the recorded bags cannot be in it."""
    print_table(
        ("topic", "type", "messages"),
        [(topic.topic, topic.type_name, f"{topic.messages:,}") for topic in rebuilt.topics],
    )
    for topic in rebuilt.topics:
        if topic.rejected:
            say(f"! {topic.topic}: {topic.rejected:,} messages were rejected when the drive was extracted")
        if topic.unwritten:
            say(f"! {topic.topic}: {topic.unwritten:,} messages are {topic.unwritten_as}: not written")
        if topic.repaired_strings:
            say(f"! {topic.topic}: {topic.repaired_strings:,} strings were not UTF-8 and stay escaped")
    if rebuilt.not_extracted:
        say(f"! {rebuilt.not_extracted:,} messages are of topics that were not extracted")
    if rebuilt.flawed_bags:
        say(f"! {rebuilt.flawed_bags:,} bags were damaged or unreadable: what could be read is there")
    if rebuilt.extras_left_out:
        say(f"! {rebuilt.extras_left_out:,} attachments and metadata records are not in the lake")
    if rebuilt.unfinished:
        print("! an extraction of this drive is under way or has failed: what it has finished is there")
    print(f"{rebuilt.messages:,} messages, {rebuilt.size_bytes / 1e6:,.1f} MB in {seconds:.1f} s")
    say(output)


# --- drift and views --------------------------------------------------------------------------------

DRIFT_FIELDS = 20
"""Fields of a change that are printed; JSON has all."""


def command_drift(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.history import lines

    found = _read_drift(arguments, single=arguments.all)
    if arguments.json:
        print(json.dumps({"topics": [each.as_dict() for each in found]}, indent=2))
        return int(ExitCode.OK)
    for line in lines(found, fields=DRIFT_FIELDS):
        print(line)
    if not found:
        print("No topic has more than one definition.")
    return int(ExitCode.OK)


def command_views(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.storage import normalize
    from ros_to_parquet.views import statements

    for statement in statements(normalize(arguments.lake), _read_drift(arguments, single=True)):
        print(statement)
    return int(ExitCode.OK)


def _read_drift(arguments: argparse.Namespace, *, single: bool) -> list[TopicDrift]:
    """Raises `storage.NotFoundError` where there is no lake."""
    from ros_to_parquet.lake import Lake, no_lake

    lake = Lake(arguments.lake)
    if not lake.drives():
        raise no_lake(lake.uri)
    return lake.drift(arguments.topics, exclude=arguments.exclude, single=single)


# --- report -----------------------------------------------------------------------------------------


def command_report(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.lake import Lake
    from ros_to_parquet.report.make import ReportError, make_report
    from ros_to_parquet.storage import join, normalize, open_storage

    lake = Lake(arguments.lake)
    try:
        drive, page = make_report(lake, arguments.drive_id)
    except ReportError as error:
        return _fail(ExitCode.INPUT_MISSING, str(error))
    uri = normalize(arguments.output or join(lake.uri, contract.report_key(arguments.drive_id)))
    open_storage(uri).write(uri, page.encode())
    print(f"{drive.messages:,} messages of {len(drive.topics)} topics, {len(page.encode()) / 1e6:.1f} MB")
    say(uri)
    return int(ExitCode.OK)


# --- transforms -------------------------------------------------------------------------------------


def command_transforms(_: argparse.Namespace) -> int:
    from ros_to_parquet.transforms import GROUP, find_transforms, package_of

    points = [point for several in find_transforms().values() for point in several]
    if not points:
        print(f"None: no package that is installed has an entry point of the group {GROUP}.")
        return int(ExitCode.OK)
    rows = [(point.name, *package_of(point), point.value) for point in points]
    print_table(("transform", "package", "version", "code"), rows)
    return int(ExitCode.OK)


# --- info -------------------------------------------------------------------------------------------


def command_info(arguments: argparse.Namespace) -> int:
    from ros_to_parquet.info import read_info

    info = read_info(arguments.bag)
    if arguments.json:
        print(json.dumps(info.as_dict(), indent=2))
    else:
        info.print()
    return int(ExitCode.OK)


def command_sample(arguments: argparse.Namespace) -> int:
    """Each bag's errors are its own: the others are looked into all the same."""
    from ros_to_parquet.msg_path import load_types
    from ros_to_parquet.sample import read_sample

    try:
        max_bytes = memory.parse_size(arguments.max_bytes)
    except memory.MemoryLimitError as error:
        raise UsageError(f"--max-bytes: {error}") from error
    options = contract.ExtractOptions(msg_paths=tuple(arguments.msg_path), ros_distro=arguments.ros_distro)
    types = load_types(options)
    code = ExitCode.OK
    for bag in arguments.bags:
        try:
            found = read_sample(
                bag,
                types,
                include=tuple(arguments.topics),
                exclude=tuple(arguments.exclude),
                seconds=arguments.seconds,
                max_bytes=max_bytes,
            )
        except Exception as error:  # noqa: BLE001 (it becomes a line, and the exit code)
            code, reason = explain(error)
            if arguments.json:
                print(json.dumps({"uri": bag, "exit_code": int(code), "problem": reason}), flush=True)
            else:
                say(f"{bag}\n  ! {reason}")
            continue
        if arguments.json:
            print(json.dumps(found.as_dict()), flush=True)
        else:
            found.print()
    return int(code)
