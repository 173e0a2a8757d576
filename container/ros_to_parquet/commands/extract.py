"""``ros-to-parquet extract``: bags to Parquet, on this machine."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ros_to_parquet import contract
from ros_to_parquet.commands.arguments import (
    add_finish,
    add_memory_limit,
    add_topic_globs,
    read_budget,
    read_finish,
)
from ros_to_parquet.commands.finish import print_finished
from ros_to_parquet.commands.outcome import UsageError
from ros_to_parquet.contract import BagStatus, ExitCode, Manifest, Plan
from ros_to_parquet.log import event
from ros_to_parquet.text import print_table, say

if TYPE_CHECKING:
    from ros_to_parquet.storage import Storage

FINDINGS_SHOWN: Final = 10
"""Of a drive's quality checks."""


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
    extract = commands.add_parser(
        "extract",
        help="bags to Parquet, on this machine",
        description="Extracts bags into a lake: one table a topic, in OUTPUT/TABLE/schema=.../drive_id=ID/. "
        "Bags that the lake has already are left out, and those that could not be read before.",
    )
    extract.add_argument(
        "bags", nargs="+", metavar="BAG", help="bag file, rosbag2 folder or folder of bags; path or URI"
    )
    extract.add_argument("--output", required=True, metavar="FOLDER_OR_URI", help="where the lake is")
    extract.add_argument(
        "--drive-id", metavar="ID", help="default: the name of the bag, or of the folder of several"
    )
    extract.add_argument(
        "--recursive",
        action="store_true",
        help="bags in folders below, too (without: those of rosbag2 folders directly in a folder)",
    )
    add_topic_globs(extract)
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
    add_finish(extract)
    add_memory_limit(extract)
    extract.set_defaults(call=command_extract)


def command_extract(arguments: argparse.Namespace) -> int:
    from ros_to_parquet import finish, lake, run
    from ros_to_parquet.local_plan import ACTIVE, is_bag_below, make_plan
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
        recursive=arguments.recursive,
        finish=wanted,
        quality=quality,
    )
    storage = open_storage(made.output)
    for name in made.ignored:
        if is_bag_below(name):
            event("not_taken", file=name, reason="it is in a folder below; --recursive takes it")
        else:
            event("recorded_still" if name.endswith(ACTIVE) else "not_a_bag", file=name)
    for name in made.covered:
        event("already_in_the_lake", bag=name)
    for bag in made.unreadable:
        event("not_tried_again", bag=bag.name, reason=bag.reason)
    if not made.shards:
        print_nothing_to_do(made)
        if made.covered and wanted != contract.FinishOptions():
            try:
                finished = finish.finish_committed(storage, made.output, made.drive_id, wanted, budget=budget)
            except finish.StepError as error:  # a run that was taken over has them
                say(f"! {error}")
            else:
                print_finished(finished.steps, made.output)
        return int(ExitCode.OK if made.covered else ExitCode.BAG_UNREADABLE)
    try:
        replaced = count_replaced(storage, made)
        with Progress(sum(bag.size_bytes for bag in made.bags)) as progress:
            job = run.JobIdentity("", 1, "")
            manifest = run.run_shard(made, 0, job, budget=budget, progress=progress.show)
    finally:  # nobody else will come back for it
        lake.release_lease(storage, made)
    print_extracted(made, manifest)
    commit = lake.read_commit(storage, made)
    if commit is not None and commit.replaces and replaced.bags:
        say(f"Replaced: {replaced} that {made.output} had of drive {made.drive_id}")
    print_quality(commit)
    if record := finish.read_record(storage, made.output, made.drive_id, made.plan_id):
        print_finished(record.steps, made.output)
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
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--quality: not JSON: {error}") from error
    if problems:
        raise UsageError(f"--quality: {'; '.join(problems)}")
    return rules


def print_nothing_to_do(plan: Plan) -> None:
    """Prints why a plan has no shards."""
    has, left = len(plan.covered), len(plan.unreadable)
    for bag in plan.unreadable:
        say(f"! {bag}")
    if left:
        say(
            f"Nothing to do: {plan.output} has {has} of {has + left} bags of drive {plan.drive_id} already, "
            "and the others cannot be read (--overwrite tries all again)."
        )
    else:
        say(f"Nothing to do: {plan.output} has all {has} bags of drive {plan.drive_id} already.")


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
    count = _rows(manifest)
    size = manifest.bytes_read / 1e6
    speed = f", {size / manifest.seconds:.0f} MB/s" if manifest.seconds > 0.01 else ""
    print(
        f"{count:,} rows from {_bags(len(manifest.bags))}, {size:,.1f} MB in {manifest.seconds:.1f} s{speed}"
    )
    if count:
        say(f"{plan.output}/*/*/drive_id={plan.drive_id}/*.parquet")


@dataclass(frozen=True, slots=True)
class Held:
    """What a lake has of a drive. Of bags, those that could be read."""

    rows: int = 0
    bags: int = 0

    def __str__(self) -> str:
        return f"{self.rows:,} rows from {_bags(self.bags)}"


def count_replaced(storage: Storage, plan: Plan) -> Held:
    """What the lake has of the drive's plans that this one replaces."""
    from ros_to_parquet import lake

    if not plan.replaces:
        return Held()
    rows = 0
    bags: set[str] = set()
    for manifest in lake.scan_drive(storage, plan.output, plan.drive_id).standing:
        if manifest.plan_id in plan.replaces:
            rows += _rows(manifest)
            bags.update(bag.name for bag in manifest.bags if bag.status is not BagStatus.UNREADABLE)
    return Held(rows, len(bags))


def _rows(manifest: Manifest) -> int:
    """Rows that are in tables."""
    return sum(topic.transform.rows_out if topic.transform else topic.rows for topic in manifest.topics)


def _bags(count: int) -> str:
    return "1 bag" if count == 1 else f"{count:,} bags"


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
