"""An embedded AWS for one machine: S3, Batch whose jobs run for real, CloudWatch Logs. See `EmbeddedAws`."""

from airflow_batch_ros.local.batch_stack import JOB_DEFINITION, JOB_QUEUE
from airflow_batch_ros.local.stack import EmbeddedAws
from airflow_batch_ros.local.state import LocalAwsError, ServerOptions

__all__ = ["JOB_DEFINITION", "JOB_QUEUE", "EmbeddedAws", "LocalAwsError", "ServerOptions"]
