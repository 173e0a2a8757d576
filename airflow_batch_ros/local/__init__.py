"""An embedded AWS for one machine: S3, Batch whose jobs run for real, CloudWatch Logs. See `EmbeddedAws`.

`airflow_batch_ros.local.faults` has what can go wrong in it on purpose.
"""

from airflow_batch_ros.local.batch_stack import JOB_DEFINITION, JOB_QUEUE
from airflow_batch_ros.local.faults import (
    BatchLateAnswer,
    BatchRefusal,
    BatchThrottling,
    Fault,
    FaultError,
    HostReclaimed,
    ImageNotFound,
    JobEnds,
    JobStuck,
    JobUnknown,
    LogsMissing,
    S3Cut,
    S3Error,
    S3LostAnswer,
    S3Slow,
    S3StaleListing,
)
from airflow_batch_ros.local.stack import EmbeddedAws
from airflow_batch_ros.local.state import LocalAwsError, ServerOptions

__all__ = [
    "JOB_DEFINITION",
    "JOB_QUEUE",
    "BatchLateAnswer",
    "BatchRefusal",
    "BatchThrottling",
    "EmbeddedAws",
    "Fault",
    "FaultError",
    "HostReclaimed",
    "ImageNotFound",
    "JobEnds",
    "JobStuck",
    "JobUnknown",
    "LocalAwsError",
    "LogsMissing",
    "S3Cut",
    "S3Error",
    "S3LostAnswer",
    "S3Slow",
    "S3StaleListing",
    "ServerOptions",
]
