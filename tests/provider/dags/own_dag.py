"""The operators in a DAG of one's own: drives found by a task, and a sensor that is rescheduled."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG, task

from airflow_batch_ros.operators.batch import RosToParquetBatchOperator
from airflow_batch_ros.sensors.batch import RosToParquetBatchSensor

with DAG(dag_id="own_dag", schedule=None, catchup=False) as dag:

    @task
    def find_drives(**context: object) -> dict[str, dict[str, str]]:
        bucket = context["dag_run"].conf["bucket"]  # type: ignore[attr-defined]
        return {drive: {"bucket": bucket, "prefix": f"raw/{drive}/"} for drive in ("one", "two")}

    submit = RosToParquetBatchOperator(
        task_id="submit",
        conf={"drives_to_process": find_drives(), "fail_on": ["damaged"]},
        output_uri="s3://{{ dag_run.conf['bucket'] }}/lake",
        job_definition="{{ dag_run.conf['job_definition'] }}",
        memory_mib=512,
        tags={"run": "{{ run_id | replace('+', '_') }}"},
    )
    wait = RosToParquetBatchSensor(
        task_id="wait", jobs=submit.output, deferrable=False, mode="reschedule", poke_interval=1
    )
