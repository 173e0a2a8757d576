"""The task group in DAGs of one's own: after a task that finds drives, before tasks that use the summary."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_batch_ros.task_group import ros_to_parquet


def make(asset_alias: str) -> Any:
    with DAG(dag_id=f"task_group_{asset_alias}", schedule=None, catchup=False) as dag:

        @task
        def find_drives(**context: Any) -> dict[str, dict[str, str]]:
            conf = context["dag_run"].conf
            return {drive: {"bucket": conf["bucket"], "prefix": f"raw/{drive}/"} for drive in conf["drives"]}

        @task
        def count(summary: dict[str, Any]) -> int:
            rows: int = summary["totals"]["rows"]
            return rows

        drives = ros_to_parquet(
            "drives",
            drives=find_drives(),
            output_uri="s3://{{ dag_run.conf['bucket'] }}/lake",
            job_definition="{{ dag_run.conf['job_definition'] }}",
            fail_on=["{{ dag_run.conf['fail_on'] }}"],
            asset_alias=asset_alias,
            memory_mib=512,
            poke_interval=1,
        )
        count(drives.output)
    return dag


dag = make("my_drives")
