"""Makes plans, manifests and listings for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.conf import PipelineConf, parse_conf
from airflow_batch_ros.lake import Lake
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    CONTRACT_VERSION,
    BagResult,
    BagSlice,
    BagStatus,
    ExtractOptions,
    Manifest,
    OutputFile,
    Plan,
    PlannedBag,
    Reject,
    Run,
    TopicResult,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

GIB = 1 << 30


def conf(bucket: str, *drives: str, **optional: Any) -> PipelineConf:
    """A conf of drives that each have their own folder; without a report, which would take its time."""
    raw = {drive: {"bucket": bucket, "prefix": f"{drive}/"} for drive in drives or ("drive_1",)}
    return parse_conf({"drives_to_process": raw, "report": False, "fleet": False, **optional})


def put(s3: S3Client, bucket: str, *keys: str, body: bytes = b"bag") -> None:
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=body)


def bag(name: str, size_bytes: int = 100, *, etag: str = "e") -> PlannedBag:
    kind = contract.bag_format(name)
    assert kind is not None
    return PlannedBag(f"s3://raw/drive_1/{name}", name, kind, size_bytes, etag, name)


def plan(bags: Sequence[PlannedBag], *, run_id: str = "run_1", **changes: Any) -> Plan:
    """A plan with one shard a bag."""
    run = Run("dag", run_id)
    made = Plan(
        contract_version=CONTRACT_VERSION,
        plan_id=contract.make_plan_id(run, "drive_1"),
        run=run,
        drive_id="drive_1",
        source="s3://raw/drive_1/",
        output="s3://lake/out",
        options=ExtractOptions(),
        bags=tuple(bags),
        shards=tuple((BagSlice(place),) for place in range(len(bags))),
    )
    return dataclasses.replace(made, **changes)


def manifest(
    of: Plan,
    shard: int,
    *,
    status: BagStatus = BagStatus.OK,
    rows: int = 10,
    rejected: int = 0,
    **changes: Any,
) -> Manifest:
    """What a shard would have left."""
    rejects = tuple(Reject(of.bags[0].name, 7, 0, "cut off") for _ in range(rejected))
    topic = TopicResult(
        topic="/imu",
        table="imu",
        type_name="sensor_msgs/msg/Imu",
        schema_hash="01234567",
        messages=rows + rejected,
        rows=rows,
        rejected=rejected,
        repaired_strings=0,
        bytes_in=1000,
        first_log_time_ns=1,
        last_log_time_ns=2,
        files=(OutputFile("imu/x.parquet", rows, 500),),
        rejects=rejects,
    )
    bags = tuple(
        BagResult(
            name=of.bags[part.bag].name,
            slice=part,
            status=status,
            size_bytes=of.bags[part.bag].size_bytes,
            etag=of.bags[part.bag].etag,
            bytes_read=100,
            messages=rows + rejected,
            extracted=rows + rejected,
            expected_messages=rows + rejected,
            verified=True,
            damage=() if status is BagStatus.OK else (contract.BagDamage(3, "cut off"),),
        )
        for part in of.shards[shard]
    )
    made = Manifest(
        contract_version=CONTRACT_VERSION,
        engine_version="0",
        plan_id=of.plan_id,
        drive_id=of.drive_id,
        shard=shard,
        options=of.options,
        job_id="job",
        attempt=1,
        log_stream="stream",
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:00:10Z",
        seconds=10.0,
        peak_memory_bytes=1,
        bytes_read=100,
        bytes_written=500,
        topics=() if status is BagStatus.UNREADABLE else (topic,),
        bags=bags,
        replaces=of.replaces,
    )
    return dataclasses.replace(made, **changes)


def save_plan(lake: Lake, made: Plan) -> None:
    assert lake.create(contract.plan_key(made.drive_id, made.plan_id), contract.to_json(made))


def save_manifests(lake: Lake, manifests: Iterable[Manifest], *, commit_of: Plan | None = None) -> None:
    """Leaves shards' manifests in the lake, and the drive's where they are all of a plan's."""
    left = list(manifests)
    for each in left:
        key = contract.manifest_key(each.drive_id, each.plan_id, each.shard)
        assert lake.create(key, contract.to_json(each))
    if commit_of is not None:
        key = contract.drive_manifest_key(commit_of.drive_id, commit_of.plan_id)
        assert lake.create(key, contract.to_json(contract.fold(commit_of, left)))
