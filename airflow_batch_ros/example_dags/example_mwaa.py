"""Drives on Amazon MWAA, on the queue and job definition of a stack; docs/mwaa.md says how to set it up.

The Airflow Variable `ros_to_parquet_stack` names the stack; the connection `aws_default`, as MWAA has it, is
the environment's execution role.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_batch_ros.conf import param_schema
from airflow_batch_ros.task_group import ros_to_parquet

with DAG(
    dag_id="example_mwaa",
    schedule=None,
    catchup=False,
    tags=["ros", "example"],
    doc_md=__doc__,
    params={"drives_to_process": Param(**param_schema("drives_to_process"))},
) as dag:

    @task
    def report(summary: dict[str, Any]) -> None:
        for drive in summary["drives"]:
            print(f"{drive['drive_id']}: {drive['state']}, {drive['rows']} rows, {drive['manifest']}")

    drives = ros_to_parquet(
        stack_name="{{ var.value.ros_to_parquet_stack }}",
        tags={"airflow": "{{ dag.dag_id }}"},
        default_args={"retries": 2},
    )
    report(drives.output)
