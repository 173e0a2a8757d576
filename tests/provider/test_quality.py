"""Quality checks in what Airflow is given: levels that fail a drive, and findings, bounded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest

from airflow_batch_ros.conf import ConfError, parse_conf
from airflow_batch_ros.jobs import DriveJob, Work
from airflow_batch_ros.summary import FINDINGS_SHOWN, DriveSummary, as_dict, failure_message, log_lines
from ros_to_parquet import contract
from ros_to_parquet.contract import (
    MAX_REASONS,
    DriveQuality,
    DriveState,
    FailOn,
    QualityCheck,
    QualityFinding,
    QualityLevel,
    QualityRule,
)
from tests.provider.builders import bag, manifest, plan

DRIVES = {"drives_to_process": {"drive_1": {"bucket": "raw-data", "prefix": "x/"}}}


def summary(
    number: int, *, warn: int = 0, error: int = 0, fail_on: Sequence[str] = ("failed", "quality_error")
) -> DriveSummary:
    of = plan([bag("a.bag")])
    levels = [QualityLevel.ERROR] * error + [QualityLevel.WARN] * warn
    findings = [
        QualityFinding("/imu", QualityCheck.GAP, level, 70, 50, "x", f"finding {place}")
        for place, level in enumerate(levels)
    ]
    quality = DriveQuality("t.parquet", 30, warn, error, tuple(findings[:MAX_REASONS]))
    result = dataclasses.replace(contract.fold(of, [manifest(of, 0)]), quality=quality)
    job = DriveJob(
        drive_id=f"drive_{number}", work=Work.SUBMITTED, source=of.source, output=of.output,
        plan_id=of.plan_id, plan_uri="", job_id=None, job_name=None, job_queue="", generation=None,
        array_size=0, submitted_shards=1, shards=1, bags=1, bag_bytes=1, covered=0, ignored=0,
        fail_on=tuple(fail_on),
    )  # fmt: skip
    return DriveSummary(job, DriveState.SUCCEEDED, result, manifest_uri="s3://lake/drive.json")


def test_an_error_fails_the_drive_and_the_message_says_which() -> None:
    drives = [summary(1, error=1, warn=2), summary(2, warn=1)]
    assert [drive.failed for drive in drives] == [True, False]
    message = failure_message(drives)
    assert message is not None
    assert message.splitlines()[:3] == [
        "1 of 2 drives failed:",
        "- drive_1: succeeded, 1 of 1 shards done (s3://lake/drive.json)",
        "    topic /imu: gap 70 x (error above 50): finding 0",
    ]
    assert failure_message([summary(1, error=1, fail_on=["failed"])]) is None
    assert failure_message([summary(1, warn=1, fail_on=["quality_warn"])]) is not None


def test_the_log_says_what_was_found() -> None:
    lines = log_lines([summary(1, warn=9)])
    assert "    quality: 0 errors, 9 warnings, 30 checks ok" in lines
    assert sum("finding" in line for line in lines) == FINDINGS_SHOWN


def test_the_summary_is_bounded() -> None:
    told = as_dict([summary(number, warn=200, error=1) for number in range(4)])
    assert [len(drive["quality"]["findings"]) for drive in told["drives"]] == [MAX_REASONS, 0, 0, 0]
    assert {name: told["drives"][3]["quality"][name] for name in ("level", "ok", "warn", "error")} == {
        "level": "error",
        "ok": 30,
        "warn": 200,
        "error": 1,
    }
    assert told["totals"]["quality"] == {"error": 4}
    assert len(json.dumps(told)) < 30_000


def test_a_drive_without_checks_says_so() -> None:
    drive = summary(1)
    drive = dataclasses.replace(drive, result=dataclasses.replace(drive.result, quality=None))
    assert as_dict([drive])["drives"][0]["quality"] is None
    assert not drive.failed
    assert not any("quality" in line for line in log_lines([drive]))


def test_results_of_several_runs_add_up() -> None:
    first, second = (summary(1, warn=60, error=1).result.quality, summary(1, warn=60, error=2).result.quality)
    total = contract.add_quality(first, second)
    assert total is not None
    assert (total.ok, total.warn, total.error, len(total.findings)) == (60, 120, 3, MAX_REASONS)
    assert [each.level for each in total.findings[:4]] == [QualityLevel.ERROR] * 3 + [QualityLevel.WARN]
    assert contract.add_quality(None, second) == second
    assert contract.add_quality(first, None) == first


def test_the_conf_has_limits_and_levels_to_fail_on() -> None:
    conf = parse_conf({**DRIVES, "quality": {"/imu/*": {"gap": {"error": 20}}}, "fail_on": ["quality_error"]})
    assert conf.quality == (QualityRule("/imu/*", QualityCheck.GAP, 5.0, 20.0),)
    assert conf.fail_on == (FailOn.QUALITY_ERROR,)
    assert parse_conf(DRIVES).quality == ()


def test_wrong_limits_are_all_said() -> None:
    with pytest.raises(ConfError) as caught:
        parse_conf({**DRIVES, "quality": {"*": {"gaps": None}, "": None, "/x": 3}})
    assert len(caught.value.problems) == 3
    assert all(problem.startswith("key 'quality': ") for problem in caught.value.problems)
