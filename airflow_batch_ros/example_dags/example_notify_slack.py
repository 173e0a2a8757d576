"""Tells a Slack channel of drives that failed: which ones and why, with a link to the log.

It needs `apache-airflow-providers-slack`, without which there is no DAG here, and its connection
`slack_default` with an incoming webhook.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_batch_ros.conf import param_schema
from airflow_batch_ros.task_group import ros_to_parquet

# Names of bags are in it, which are not to call anybody: Slack reads <!channel> and <@user>.
TEXT = """\
{% set why = exception | default("it was ended from outside") | string | truncate(3000) -%}
*{{ dag.dag_id }}* has failed: <{{ ti.log_url }}|{{ ti.task_id }} of {{ run_id }}>
```
{{ why | replace("&", "&amp;") | replace("<", "&lt;") | replace(">", "&gt;") }}
```"""

if find_spec("airflow.providers.slack"):
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    tell = SlackWebhookNotifier(text=TEXT)

    with DAG(
        dag_id="example_notify_slack",
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
