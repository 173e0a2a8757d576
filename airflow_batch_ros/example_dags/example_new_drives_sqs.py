"""Processes drives as they arrive, told by S3 through a queue. Airflow 3.

Uploaders write an object `_COMPLETE` to a drive's folder when all bags are there; the bucket notifies the SQS
queue of such objects (suffix filter `_COMPLETE`); the triggerer watches the queue. The queue's URL is needed
when this file is parsed, so it comes from the environment: `ROS_TO_PARQUET_QUEUE_URL`.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, task
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_batch_ros.assets import arrived_drives
from airflow_batch_ros.task_group import ros_to_parquet
from airflow_batch_ros.triggers.arrivals import NewDrivesTrigger

QUEUE_URL = os.environ.get("ROS_TO_PARQUET_QUEUE_URL")

if AIRFLOW_V_3_0_PLUS:
    from airflow.sdk import Asset, AssetWatcher

    queue = NewDrivesTrigger(queue_url=QUEUE_URL) if QUEUE_URL else None
    new_drives = Asset(
        "ros_new_drives", watchers=[AssetWatcher(name="ros_new_drives", trigger=queue)] if queue else []
    )

    with DAG(
        dag_id="example_new_drives_sqs",
        schedule=[new_drives],
        catchup=False,
        tags=["ros", "example"],
        doc_md=__doc__,
    ) as dag:

        @task(multiple_outputs=False)
        def find_drives(**context: Any) -> dict[str, dict[str, str]]:
            found = arrived_drives(context)
            if not found:
                raise AirflowSkipException("no message of a drive started this run")
            return found

        ros_to_parquet(
            drives=find_drives(),
            stack_name="{{ var.value.get('ros_to_parquet_stack', '') }}",
            output_uri="{{ var.value.get('ros_to_parquet_output', '') }}",
            default_args={"retries": 2},
        )
