"""``airflow-batch-ros retry``: submits what a run lacks, as clearing the Airflow task does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.looking import FoundRun, add_run, find_run
from airflow_batch_ros.commands.running import add_wait, report
from airflow_batch_ros.commands.terminal import EXIT_HELP, guarded, teller

if TYPE_CHECKING:
    from airflow_batch_ros.jobs import DriveJob, SubmitOptions
    from airflow_batch_ros.runs import RunRecord


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "retry",
        help="submit the shards that a run lacks; never what is live or done",
        description="Submits for each drive of a run the shards that are missing, as a new generation; "
        "drives that are live or done stay as they are. Jobs are as they were when the run was submitted, "
        "but with more memory or time where shards ran out of it, and as is said here.",
        epilog=EXIT_HELP,
    )
    add_run(parser)
    add_wait(parser)
    settings_of.add_job_options(parser, default="what the run was submitted with")
    settings_of.add_connection(parser)
    parser.set_defaults(run=guarded(_retry))


def _retry(arguments: argparse.Namespace) -> int:
    from airflow_batch_ros import planning

    say = teller(arguments)
    run = find_run(arguments)
    planning.save_own(run.lake, run.records[-1].run)
    jobs = _submit_missing(arguments, run, say)
    return report(arguments, run.clients, jobs, run=run.name, output=run.lake.output, say=say)


def _submit_missing(
    arguments: argparse.Namespace, run: FoundRun, say: Callable[[str], None]
) -> list[DriveJob]:
    """Drives of one record together, as they were submitted.

    Raises:
        ConfError: what the run was asked for is not allowed (any more).
        FanoutError: of some drives; the others are submitted.
    """
    from airflow_batch_ros import runs
    from airflow_batch_ros.allowed import check_allowed, of_job_definition
    from airflow_batch_ros.fanout import Fanout, FanoutError
    from airflow_batch_ros.pricing import find_containers

    allowed = settings_of.read_settings(arguments).allow_list()
    by_record: dict[RunRecord, list[str]] = {}
    for drive in run.drives:
        by_record.setdefault(drive.record, []).append(drive.drive_id)
    unasked = [] if arguments.drive else runs.to_be_found(run.records)
    by_record.update((record, []) for record in unasked)
    asked = []
    for record, wanted in by_record.items():
        drives = tuple(source for source in record.conf.drives if source.drive_id in wanted)
        # What patterns found the record has by name: they are not asked again.
        conf = (
            record.conf
            if record in unasked
            else replace(record.conf, drives=drives, patterns=(), found=False)
        )
        options = _options(arguments, record)
        in_jobs = of_job_definition(run.clients.batch, options, say=say)
        check_allowed(conf, run.lake.output, (allowed, in_jobs))
        asked.append((record, conf, options))
    jobs: list[DriveJob] = []
    errors: list[FanoutError] = []
    for record, conf, options in asked:
        try:
            jobs += Fanout(
                s3=run.clients.s3,
                batch=run.clients.batch,
                submitter=run.clients.submitter,
                output=run.lake.output,
                conf=conf,
                run=record.run,
                options=options,
                shard_bytes=record.shard_bytes,
                containers=find_containers(run.clients.batch, options, own=conf.prices, say=say),
                say=say,
                chosen=_chosen(arguments),
            ).submit_all()
        except FanoutError as error:
            errors.append(error)
    if errors:
        raise FanoutError(
            [problem for error in errors for problem in error.problems],
            retry_helps=all(error.retry_helps for error in errors),
            submitted=len(jobs) + sum(error.submitted for error in errors),
        )
    return jobs


def _chosen(arguments: argparse.Namespace) -> frozenset[str]:
    """What is said here, and so not adapted to what shards failed by; vCPUs and memory go together."""
    flags = settings_of.read_flags(arguments)
    said = {name for name in ("vcpus", "memory_mib", "job_queue") if flags.find(name) is not None}
    return frozenset(said | {"vcpus", "memory_mib"} if said & {"vcpus", "memory_mib"} else said)


def _options(arguments: argparse.Namespace, record: RunRecord) -> SubmitOptions:
    """Those of the run, but for what a flag says; environment and file are for new runs."""
    flags = settings_of.read_flags(arguments)
    options = record.submit_options
    vcpus, memory_mib = flags.number("vcpus", float), flags.number("memory_mib", int)
    extra = dict(options.extra)
    if vcpus is not None or memory_mib is not None:
        overrides = dict(extra.get("containerOverrides", {}))
        overrides.pop("resourceRequirements", None)  # the run's own would win
        extra["containerOverrides"] = overrides
    if share := flags.find("share_identifier"):
        extra["shareIdentifier"] = share
    return replace(
        options,
        job_queue=flags.find("job_queue") or options.job_queue,
        job_definition=flags.find("job_definition") or options.job_definition,
        vcpus=options.vcpus if vcpus is None else vcpus,
        memory_mib=options.memory_mib if memory_mib is None else memory_mib,
        max_memory_mib=flags.number("max_memory_mib", int) or options.max_memory_mib,
        on_demand_queue=flags.find("on_demand_queue") or options.on_demand_queue,
        tags={**options.tags, **flags.tags},
        requester_pays=flags.flag("requester_pays", default=options.requester_pays),
        extra={name: value for name, value in extra.items() if value or name != "containerOverrides"},
    )
