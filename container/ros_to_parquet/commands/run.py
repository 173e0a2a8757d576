"""``ros-to-parquet run``: one shard of a plan, as AWS Batch runs it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ros_to_parquet import contract
from ros_to_parquet.commands.arguments import add_memory_limit, read_budget
from ros_to_parquet.commands.outcome import UsageError, explain, fail
from ros_to_parquet.contract import ALLOW_VARIABLE, ContractError, Plan
from ros_to_parquet.log import event, now
from ros_to_parquet.termination import TerminatedError
from ros_to_parquet.text import shown


def add_parser(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` gave."""
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
    add_memory_limit(run)
    run.set_defaults(call=command_run)


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
        return fail(code, reason)
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
    from ros_to_parquet.run import batch_number

    if arguments.shard is not None:
        shard = int(arguments.shard)
    elif (index := batch_number("AWS_BATCH_JOB_ARRAY_INDEX")) is not None:
        shard = index
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
