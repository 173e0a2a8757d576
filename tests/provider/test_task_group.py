"""The task group: what it is made of, and DAGs that use it run for real."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_batch_ros.assets import LakeDrive, arrived_drives, lake_drives, triggering_drives
from airflow_batch_ros.task_group import ros_to_parquet
from tests.provider.bags import MESSAGES, UNREADABLE, cut_off, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import DAGS
from tests.provider.runs import asset_events, run

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DRIVE = LakeDrive(
    *("d", "succeeded", "s3://raw/d/", "s3://lake", "p", "s3://lake/m", 1, 3, 2, 1, {"imu": 2}),
    bytes_read=700,
    bytes_written=300,
    report="s3://lake/_reports/drive_id=d/report.html",
    console_url="https://console/job",
)


def a_dag() -> Any:
    return DAG(dag_id="d", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None)


def test_arguments_are_given_once_and_reach_the_tasks() -> None:
    with a_dag() as dag:
        before, after = BaseOperator(task_id="before"), BaseOperator(task_id="after")
        group = ros_to_parquet(
            drives={"drive_1": {"bucket": "raw", "prefix": "d/"}},
            output_uri="s3://lake/x",
            stack_name="ros",
            fail_on=["damaged"],
            min_success_ratio=0.5,
            runnable_timeout=timedelta(hours=2),
            end_stuck=True,
            aws_conn_id="aws",
            region_name="eu-west-1",
            deferrable=False,
            timeout=77,
            default_args={"retries": 4},
            vcpus=2,
        )
        before >> group >> after
    assert group.submit.conf == {"drives_to_process": {"drive_1": {"bucket": "raw", "prefix": "d/"}}}
    assert (group.submit.output_uri, group.submit.stack_name, group.submit.vcpus) == ("s3://lake/x", "ros", 2)
    assert (group.submit.fail_on, group.submit.min_success_ratio) == (["damaged"], 0.5)
    assert (group.wait.runnable_timeout, group.wait.end_stuck) == (timedelta(hours=2), True)
    assert (group.wait.deferrable, group.wait.timeout, group.wait.terminate_on_kill) == (False, 77, True)
    for each in (group.submit, group.wait):
        assert (each.aws_conn_id, each.region_name) == ("aws", "eu-west-1")
    for name in ("submit", "wait", "announce"):
        assert dag.get_task(f"ros_to_parquet.{name}").retries == 4
    # What follows the group waits for the drives, not for their announcement.
    assert group.submit.upstream_task_ids == {"before"}
    assert group.wait.downstream_task_ids == {"after", "ros_to_parquet.announce"}


def test_default_arguments_of_group_and_dag_hold_where_nothing_else_is_given() -> None:
    of_dag = {
        "aws_conn_id": "aws",
        "region_name": "eu-west-1",
        "output_uri": "s3://lake/x",
        "job_queue": "night",
        "deferrable": False,
        "terminate_on_kill": False,
        "poke_interval": 77,
        "pool": "drives",
    }
    of_group = {"poke_interval": 88, "mode": "reschedule", "drives_page": False, "memory_mib": 4096}
    with DAG(dag_id="d", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None, default_args=of_dag):
        group = ros_to_parquet(job_queue="day", default_args=of_group)
        plain = ros_to_parquet("plain", aws_conn_id=None, deferrable=True, terminate_on_kill=True)
    submit, wait = group.submit, group.wait
    assert (submit.output_uri, submit.job_queue, submit.memory_mib) == ("s3://lake/x", "day", 4096)
    assert (wait.deferrable, wait.terminate_on_kill, wait.drives_page) == (False, False, False)
    assert (wait.poke_interval, wait.mode) == (88, "reschedule")
    for each in (submit, wait):
        assert (each.aws_conn_id, each.region_name, each.pool) == ("aws", "eu-west-1", "drives")
    assert (plain.submit.aws_conn_id, plain.wait.aws_conn_id) == (None, None)
    assert (plain.wait.deferrable, plain.wait.terminate_on_kill, plain.wait.poke_interval) == (True, True, 77)


def test_what_nobody_gives_is_as_the_documentation_says() -> None:
    with a_dag():
        group = ros_to_parquet()
    assert (group.submit.aws_conn_id, group.submit.region_name) == ("aws_default", None)
    wait = group.wait
    assert (wait.deferrable, wait.poke_interval, wait.terminate_on_kill) == (True, 30, True)
    assert (wait.drives_page, wait.end_stuck, wait.runnable_timeout) == (True, False, None)


def test_names_and_events_can_be_left_out() -> None:
    with a_dag() as dag:
        group = ros_to_parquet(prefix_group_id=False, asset_alias=None)
        other = ros_to_parquet("other", conf={"drives_to_process": {}})
    assert sorted(dag.task_ids) == ["other.announce", "other.submit", "other.wait", "submit", "wait"]
    assert (group.announce, group.submit.conf, other.submit.conf) == (None, None, {"drives_to_process": {}})


def test_what_cannot_be_meant_is_refused() -> None:
    with a_dag(), pytest.raises(ValueError, match="takes 'drives' or 'conf', not both"):
        ros_to_parquet(drives={}, conf={})
    with a_dag(), pytest.raises(Exception, match="outputt_uri"):
        ros_to_parquet(outputt_uri="s3://lake")


def test_an_event_says_what_it_was_given() -> None:
    extra = DRIVE.as_extra()
    assert LakeDrive.from_extra(extra) == DRIVE
    # Airflow 2.11 and 3.0 make a set of an extra's items.
    assert len(frozenset(extra.items())) == len(extra)


def test_an_event_of_an_older_release_is_read_and_another_ones_is_not() -> None:
    extra = DRIVE.as_extra()
    for name in ("bytes_read", "bytes_written", "report", "console_url"):
        del extra[name]
    found = LakeDrive.from_extra(extra)
    assert (found.rows, found.bytes_read, found.report) == (2, 0, "")
    with pytest.raises(KeyError):
        LakeDrive.from_extra({"plan_id": "p"})


def test_only_what_this_run_committed_is_announced() -> None:
    def entry(name: str, state: str, work: str = "submitted", failed: bool = False) -> dict[str, Any]:
        told = {**DRIVE.as_dict(), "drive_id": name, "state": state, "work": work, "failed": failed}
        return {**told, "tables": [{"table": "imu", "rows": 2}, {"table": "empty", "rows": 0}]}

    summary = {
        "drives": [
            entry("good", "succeeded"),
            entry("adopted", "succeeded_with_rejects", work="adopted"),
            entry("done", "damaged", work="done"),
            entry("unwanted", "damaged", failed=True),
            entry("partial", "partial"),
            entry("failed", "failed", failed=True),
            entry("old", "succeeded", work="nothing"),
        ]
    }
    found = lake_drives(summary)
    assert [drive.drive_id for drive in found] == ["good", "adopted", "done"]
    assert all(drive.tables == {"imu": 2} for drive in found)
    assert {(drive.bytes_read, drive.bytes_written, drive.report) for drive in found} == {
        (700, 300, DRIVE.report)
    }


class Event:
    def __init__(self, extra: Any) -> None:
        self.extra = extra


@pytest.mark.parametrize("key", ["triggering_asset_events", "triggering_dataset_events"])
def test_what_started_a_run_is_read_once(key: str) -> None:
    arrived = {"from_trigger": True, "payload": {"drives_to_process": {"a": {"bucket": "b", "prefix": "a/"}}}}
    events = [Event(DRIVE.as_extra()), Event(None), Event({"of": "another asset"}), Event(arrived)]
    context = {key: {"alias": events, "asset": events}}
    assert triggering_drives(context) == [DRIVE]
    assert arrived_drives(context) == {"a": {"bucket": "b", "prefix": "a/"}}
    assert triggering_drives({}) == []


@pytest.mark.airflow
def test_a_dag_around_the_group(
    airflow_database: None, s3: S3Client, bucket: str, definitions: dict[str, str]
) -> None:
    from runpy import run_path

    put(s3, bucket, "raw/good/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/short/a.bag", body=cut_off(ros1_bag(messages=2000)))
    put(s3, bucket, "raw/junk/a.bag", body=UNREADABLE)
    dag = run_path(str(DAGS / "task_group_dag.py"))["dag"]
    conf = {"bucket": bucket, "job_definition": definitions["good"]}
    state, tasks, returned = run(dag, {**conf, "drives": ["good", "junk"], "fail_on": "damaged"})
    assert (state, set(tasks.values())) == ("success", {"success"})
    assert returned["count"] == MESSAGES
    announced = asset_events("my_drives", f"s3://{bucket}/lake")
    assert [drive["drive_id"] for drive in announced] == ["good"]

    # A drive that the run fails on is not announced; the run is failed though the last task is not.
    state, tasks, _ = run(dag, {**conf, "drives": ["short"], "fail_on": "damaged"})
    assert (state, tasks["count"], tasks["drives.announce"]) == ("failed", "upstream_failed", "success")
    assert asset_events("my_drives", f"s3://{bucket}/lake") == announced
