"""``airflow-batch-ros plan``: what a run would do, take and cost. Submits nothing, and writes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.submit import add_conf, read_asked
from airflow_batch_ros.commands.terminal import (
    EXIT_HELP,
    Exit,
    guarded,
    megabytes,
    positive,
    positive_seconds,
    print_json,
    table_lines,
    teller,
)

if TYPE_CHECKING:
    from airflow_batch_ros.estimate import Estimate, Estimator
    from airflow_batch_ros.fanout import Look
    from airflow_batch_ros.sampling import DriveSample
    from ros_to_parquet.contract import Plan

SAMPLE_LINES = 30
"""Topics, and problems, of a drive that are said in lines for people."""

BAGS_SHOWN = 1000
"""Of ``--bags``, in lines for people; JSON has all."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A drive as it would be run. ``estimate`` is None where nothing is known of the containers."""

    look: Look
    plan: Plan
    estimate: Estimate | None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="what a run would do, take and cost; submits nothing",
        description="Lists all drives of a conf, as submit does, and says their bags, shards and sizes, and "
        "how long they will take and what they will cost. Submits nothing and writes nothing.",
        epilog=f"{EXIT_HELP}; with --sample 1 where a look has found something wrong",
    )
    add_conf(parser)
    parser.add_argument("--bags", action="store_true", help="each bag too")
    parser.add_argument(
        "--sample",
        action="store_true",
        help="look into a bag of each drive: its topics, types that nobody defines, damage; and whether bags "
        "may be read. Needs ros-to-parquet[engine] here",
    )
    parser.add_argument(
        "--sample-seconds",
        type=positive_seconds,
        default=60.0,
        metavar="N",
        help="of log time (default: %(default)g)",
    )
    parser.add_argument(
        "--sample-mib",
        type=positive,
        default=64,
        metavar="N",
        help="most that is read of a bag, and likewise of its index (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout; lines for people on stderr")
    settings_of.add_job_options(parser, default=settings_of.DEFAULTS["job_queue"])
    settings_of.add_connection(parser)
    parser.set_defaults(run=guarded(_plan))


def _plan(arguments: argparse.Namespace) -> int:
    from airflow_batch_ros.fanout import Fanout, FanoutError
    from airflow_batch_ros.pricing import find_containers, find_missing
    from airflow_batch_ros.sampling import check_engine, lines_of, sample_drives
    from ros_to_parquet.contract import Run

    say = teller(arguments)
    if arguments.sample:
        check_engine()
    asked = read_asked(arguments, say, needed=())
    fanout = Fanout(
        s3=asked.clients.s3,
        batch=asked.clients.batch,
        submitter=asked.clients.submitter,
        output=asked.output,
        conf=asked.conf,
        run=Run("", ""),
        options=asked.options,
        shard_bytes=arguments.shard_bytes,
        containers=find_containers(asked.clients.batch, asked.options, own=asked.conf.prices, say=say),
        say=say,
    )
    looks, problems, retry_helps = fanout.look()
    todo = [look for look in looks if look.plan is not None and not look.left_out]
    estimator = fanout.make_estimator([look.source.drive_id for look in todo]) if todo else None
    drives = [
        Foreseen(look, look.plan, estimator.estimate(look.plan) if estimator else None)
        for look in todo
        if look.plan is not None
    ]
    left_out = [look for look in looks if look.left_out]
    samples: Mapping[str, DriveSample] = {}
    if arguments.sample:
        samples = sample_drives(
            asked.clients.session,
            asked.clients.s3,
            [drive.plan for drive in drives],
            seconds=arguments.sample_seconds,
            max_bytes=arguments.sample_mib << 20,
            requester_pays=asked.options.requester_pays,
        )
    if arguments.json:
        found = as_dict(asked.output, drives, left_out, problems, estimator, bags=arguments.bags)
        for entry in found["drives"] if arguments.sample else ():
            entry["sample"] = samples[entry["drive_id"]].as_dict()
        print_json(found)
    told = lines(drives, left_out, estimator, bags=arguments.bags)
    missing = [
        f"! {each} does not exist: submit would be refused"
        for each in find_missing(asked.clients.batch, asked.options)
    ]
    for line in (*lines_of(list(samples.values()), most=SAMPLE_LINES), *missing, *told):
        say(line)
    if problems:
        raise FanoutError(problems, retry_helps=retry_helps)
    return Exit.DRIVES_FAILED if any(sample.problems for sample in samples.values()) else Exit.OK


def as_dict(
    output: str,
    drives: Sequence[Foreseen],
    left_out: Sequence[Look],
    problems: Sequence[str],
    estimator: Estimator | None,
    *,
    bags: bool,
) -> dict[str, Any]:
    return {
        "output": output,
        "drives": [_drive_dict(drive, bags=bags) for drive in drives],
        "left_out": [{"drive_id": look.source.drive_id, "reason": look.left_out} for look in left_out],
        "problems": list(problems),
        "totals": _totals(drives, estimator),
        "containers": _containers(estimator),
        "speeds": _speeds(drives, estimator),
    }


def _drive_dict(drive: Foreseen, *, bags: bool) -> dict[str, Any]:
    plan = drive.plan
    entry: dict[str, Any] = {
        "drive_id": plan.drive_id,
        "source": plan.source,
        "bags": len(plan.bags),
        "bag_bytes": bag_bytes(plan),
        "formats": dict(Counter(bag.format for bag in plan.bags)),
        "in_the_lake": len(plan.covered),
        "unreadable": [dataclasses.asdict(bag) for bag in plan.unreadable],
        "ignored": plan.ignored_count,
        "not_taken": list(plan.ignored),
        "replaces": len(plan.replaces),
        "shards": len(plan.shards),
        "estimate": drive.estimate.as_dict() if drive.estimate else None,
    }
    if bags:
        slices = _slices(plan)
        entry["bag_list"] = [
            {
                "name": bag.name,
                "format": bag.format,
                "size_bytes": bag.size_bytes,
                "slices": slices[place],
            }
            for place, bag in enumerate(plan.bags)
        ]
    return entry


def _slices(plan: Plan) -> Mapping[int, int]:
    return Counter(part.bag for shard in plan.shards for part in shard)


def bag_bytes(plan: Plan) -> int:
    return sum(bag.size_bytes for bag in plan.bags)


def _totals(drives: Sequence[Foreseen], estimator: Estimator | None) -> dict[str, Any]:
    estimates = [drive.estimate for drive in drives if drive.estimate]
    counted: dict[str, Any] = {
        "drives": len(drives),
        "bags": sum(len(drive.plan.bags) for drive in drives),
        "bag_bytes": sum(bag_bytes(drive.plan) for drive in drives),
        "shards": sum(len(drive.plan.shards) for drive in drives),
    }
    if estimator is not None:
        counted["seconds"] = round(estimator.wall_seconds(estimates), 1)
        counted["container_seconds"] = round(sum(each.container_seconds for each in estimates), 1)
        counted["cost"] = round(sum(each.cost for each in estimates), 6)
        counted["currency"] = estimator.containers.pricing.currency
    return counted


def _containers(estimator: Estimator | None) -> dict[str, Any] | None:
    if estimator is None:
        return None
    pricing = estimator.containers.pricing
    return {
        "platform": pricing.platform,
        "region": pricing.region,
        "architecture": pricing.architecture,
        "vcpus": pricing.vcpus,
        "memory_mib": round(pricing.memory_gb * 1024),
        "vcpu_hour": pricing.vcpu_hour,
        "gb_hour": pricing.gb_hour,
        "currency": pricing.currency,
        "prices": pricing.origin,
        "max_vcpus": estimator.containers.max_vcpus,
    }


def _speeds(drives: Sequence[Foreseen], estimator: Estimator | None) -> list[dict[str, Any]]:
    if estimator is None:
        return []
    formats = sorted({bag.format for drive in drives for bag in drive.plan.bags})
    speeds = estimator.speeds
    return [
        {"format": form, "mb_per_s_per_vcpu": round(speeds.of(form), 2), "origin": speeds.origin(form)}
        for form in formats
    ]


def lines(
    drives: Sequence[Foreseen], left_out: Sequence[Look], estimator: Estimator | None, *, bags: bool
) -> list[str]:
    """For people: a table of drives with its sum, and what the numbers are by."""
    from airflow_batch_ros.cost import shown
    from airflow_batch_ros.fanout import NOTHING_NEW, PROBLEMS_SHOWN, not_taken, not_tried_again, nothing_new

    head = ("drive", ">bags", ">in the lake", ">MB", ">shards", ">largest MB", ">time", ">cost")
    currency = estimator.containers.pricing.currency if estimator else ""
    rows = []
    for drive in drives:
        estimate = drive.estimate
        rows.append(
            (
                drive.plan.drive_id,
                f"{len(drive.plan.bags):,}",
                f"{len(drive.plan.covered):,}",
                megabytes(bag_bytes(drive.plan)),
                f"{len(drive.plan.shards):,}",
                megabytes(estimate.largest_shard_bytes) if estimate else "-",
                duration(estimate.seconds) if estimate else "-",
                shown(estimate.cost, currency) if estimate else "-",
            )
        )
    told = table_lines(head, rows) if rows else []
    plans = [drive.plan for drive in drives]
    ignoring = [plan for plan in plans if plan.ignored_count]
    told += [not_taken(plan) for plan in ignoring[:PROBLEMS_SHOWN]]
    told += _more(len(ignoring) - PROBLEMS_SHOWN, "drives have what is not taken")
    vain = [plan for plan in plans if plan.unreadable]
    told += [line for plan in vain[:PROBLEMS_SHOWN] for line in not_tried_again(plan)]
    told += _more(len(vain) - PROBLEMS_SHOWN, "drives have bags that are not tried again")
    if bags:
        told += itertools.islice((line for plan in plans for line in _bag_lines(plan)), BAGS_SHOWN)
        told += _more(sum(len(plan.bags) for plan in plans) - BAGS_SHOWN, "bags")
    rare = [look for look in left_out if look.left_out != NOTHING_NEW]
    told += [f"{look.source.drive_id}: left out: {look.left_out}" for look in rare[:PROBLEMS_SHOWN]]
    told += _more(len(rare) - PROBLEMS_SHOWN, "drives are left out")
    if len(rare) < len(left_out):
        told.append(f"drives with {nothing_new(left_out)}")
    return [*told, *_sum_lines(drives, estimator), "nothing was submitted"]


def _more(count: int, what: str) -> list[str]:
    """The line for those of which nothing is said, where there are any."""
    return [f"and {count:,} more {what}; --json has all"] if count > 0 else []


def _sum_lines(drives: Sequence[Foreseen], estimator: Estimator | None) -> list[str]:
    from airflow_batch_ros.cost import shown

    totals = _totals(drives, estimator)
    said = (
        f"{totals['drives']:,} drives, {totals['bags']:,} bags, {totals['bag_bytes'] / 1e9:,.2f} GB, "
        f"{totals['shards']:,} shards"
    )
    if not drives:
        return [said]
    if estimator is None:
        return [
            said,
            "neither time nor cost is foreseen: Batch does not say what the job definition's containers are",
        ]
    pricing = estimator.containers.pricing
    limit = estimator.containers.max_vcpus
    learned = f", learned of {estimator.speeds.drives} drives in the lake" if estimator.speeds.drives else ""
    speeds = ", ".join(
        f"{each['format']} {each['mb_per_s_per_vcpu']:g} ({each['origin']})"
        for each in _speeds(drives, estimator)
    )
    at_once = f", at most {limit:,} vCPUs at a time" if limit else ""
    containers = (
        f"containers: {pricing.vcpus:g} vCPUs, {pricing.memory_gb * 1024:.0f} MiB on {pricing.platform} "
        f"({pricing.architecture}, {pricing.region}{at_once})"
    )
    prices = (
        f"prices: {pricing.vcpu_hour:g} a vCPU-hour, {pricing.gb_hour:g} a GB-hour, {pricing.currency} "
        f"({pricing.origin}); S3 requests, storage, logs and network are not in it"
    )
    return [
        f"{said}: about {duration(totals['seconds'])} and {shown(totals['cost'], totals['currency'])}",
        containers,
        prices,
        *([f"speeds, MB/s and vCPU: {speeds}{learned}"] if speeds else []),
    ]


def _bag_lines(plan: Plan) -> Iterator[str]:
    slices = _slices(plan)
    for place, bag in enumerate(plan.bags):
        yield f"    {plan.drive_id}: {bag.name}: {megabytes(bag.size_bytes)} MB" + (
            f" in {slices[place]} slices" if slices[place] > 1 else ""
        )


def duration(seconds: float) -> str:
    """For people.

    >>> duration(42.3), duration(3000), duration(90_000)
    ('42 s', '50 min', '25.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
