"""Tells people of drives that failed, by Amazon SNS: which ones and why, and where the log is.

The Airflow Variable `ros_to_parquet_topic_arn` names the topic; who is to hear of it subscribes to that. The
message is the failure of the task: of `wait` all drives that failed with their causes, of `submit` what could
not be planned or submitted.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.amazon.aws.notifications.sns import SnsNotifier
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_batch_ros.conf import param_schema
from airflow_batch_ros.task_group import ros_to_parquet

MESSAGE = """\
{{ dag.dag_id }}, run {{ run_id }}, task {{ ti.task_id }}:

{{ exception | default("it was ended from outside") | string | truncate(100000) }}

{{ ti.log_url }}
"""  # SNS takes 256 KB, and a subject of 100 characters

tell = SnsNotifier(
    target_arn="{{ var.value.ros_to_parquet_topic_arn }}",
    subject="{{ dag.dag_id | truncate(80) }} has failed",
    message=MESSAGE,
)

with DAG(
    dag_id="example_notify_sns",
    schedule=None,
    catchup=False,
    tags=["ros", "example"],
    doc_md=__doc__,
    params={"drives_to_process": Param(**param_schema("drives_to_process"))},
) as dag:
    defaults: dict[str, Any] = {"retries": 2, "on_failure_callback": [tell]}
    ros_to_parquet(
        stack_name="{{ var.value.get('ros_to_parquet_stack', '') }}",
        output_uri="{{ var.value.get('ros_to_parquet_output', '') }}",
        default_args=defaults,
    )
