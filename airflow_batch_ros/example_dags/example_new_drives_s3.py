"""Processes drives as they arrive, by looking for them in S3 four times an hour. Any Airflow; no queue.

Uploaders write an object `_COMPLETE` to a drive's folder when all bags are there. Each run takes the drives
whose marker was written in its interval: the same ones when it is cleared or run again. Set `catchup=True` to
have the intervals taken too in which Airflow was down. Variable `ros_to_parquet_source`: where drives arrive,
`s3://bucket/prefix/`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, task
from airflow.timetables.interval import CronDataIntervalTimetable

from airflow_batch_ros.arrivals import marked_drives
from airflow_batch_ros.task_group import ros_to_parquet

LATE = timedelta(minutes=1)
"""Intervals end this long before their run begins, for S3's clock is another than Airflow's."""

with DAG(
    dag_id="example_new_drives_s3",
    schedule=CronDataIntervalTimetable("*/15 * * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["ros", "example"],
    doc_md=__doc__,
) as dag:

    @task(multiple_outputs=False)
    def find_drives(source: str, **context: Any) -> dict[str, dict[str, str]]:
        from airflow_batch_ros.hooks.batch import RosToParquetBatchHook

        bucket, _, prefix = source.removeprefix("s3://").partition("/")
        found = marked_drives(
            RosToParquetBatchHook().s3,
            bucket,
            prefix,
            since=context["data_interval_start"] - LATE,
            before=context["data_interval_end"] - LATE,
        )
        if not found:
            raise AirflowSkipException(f"no drive has arrived below {source}")
        return found

    ros_to_parquet(
        drives=find_drives("{{ var.value.ros_to_parquet_source }}"),
        stack_name="{{ var.value.get('ros_to_parquet_stack', '') }}",
        output_uri="{{ var.value.get('ros_to_parquet_output', '') }}",
        default_args={"retries": 2},
    )
