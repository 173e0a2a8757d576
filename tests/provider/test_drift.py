"""Definitions that changed, in what Airflow is given: bounded, and counted."""

from __future__ import annotations

import dataclasses
import json

from airflow_batch_ros.jobs import DriveJob, Work
from airflow_batch_ros.summary import CAUSES_SHOWN, DriveSummary, as_dict, log_lines
from ros_to_parquet import contract
from ros_to_parquet.contract import MAX_REASONS, Change, Drift, DriveState
from tests.provider.builders import bag, manifest, plan


def summary(number: int) -> DriveSummary:
    of = plan([bag("a.bag")])
    result = contract.fold(of, [manifest(of, 0)])
    drift = Drift(
        "/imu", "imu", Change.WIDENED, "1a2b3c4d", "5e6f7a8b", "drive_0", "a.bag", 5,
        ("`x` float32 -> float64",), 1,
    )  # fmt: skip
    result = dataclasses.replace(result, drift=(drift,) * MAX_REASONS, drift_count=250)
    job = DriveJob(
        drive_id=f"drive_{number}", work=Work.NOTHING, source=of.source, output=of.output, plan_id=of.plan_id,
        plan_uri="", job_id=None, job_name=None, job_queue="", generation=None, array_size=0,
        submitted_shards=0, shards=1, bags=1, bag_bytes=1, covered=0, ignored=0, fail_on=(),
    )  # fmt: skip
    return DriveSummary(job, DriveState.SUCCEEDED, result)


def test_a_run_of_many_changes_keeps_a_bounded_number_of_them() -> None:
    drives = [summary(number) for number in range(5)]
    told = as_dict(drives)
    assert [len(drive["drift"]) for drive in told["drives"]] == [MAX_REASONS, 0, 0, 0, 0]
    assert [drive["drift_count"] for drive in told["drives"]] == [250] * 5
    assert told["drives"][0]["drift"][0] == (
        "topic /imu: its definition changed from bag a.bag on: widened (schema 1a2b3c4d here, "
        "5e6f7a8b in drive drive_0): `x` float32 -> float64"
    )
    assert len(json.dumps(told)) < 30_000
    lines = log_lines(drives[:1])
    assert sum("its definition changed" in line for line in lines) == CAUSES_SHOWN
    assert lines[CAUSES_SHOWN + 1] == "    and 240 more definitions that changed; see ros-to-parquet drift"
