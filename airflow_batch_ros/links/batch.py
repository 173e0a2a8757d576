"""Links from a task to the AWS console, or to whatever stands in for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_batch_ros.jobs import DriveJob

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

LINKS_KEY = "ros_to_parquet_links"
"""XCom key of the links' URLs, by name."""

DEFAULT_LOG_GROUP = "/aws/batch/job"
"""Where Batch jobs log unless their definition says otherwise."""


class _StoredLink(BaseOperatorLink):
    """A link whose URL the task has stored: the operator when it submitted, the sensor when it began."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The URL; empty until it was stored."""
        urls = XCom.get_value(key=LINKS_KEY, ti_key=ti_key)
        return str(urls.get(self.name, "")) if isinstance(urls, dict) else ""


class BatchJobLink(_StoredLink):
    """The drive's Batch job; of several drives, the queue's jobs."""

    name = "Batch job"


class BatchLogsLink(_StoredLink):
    """The jobs' logs in CloudWatch."""

    name = "Batch logs"


class LakeLink(_StoredLink):
    """The lake in S3."""

    name = "Parquet lake"


def default_console_base(region: str) -> str:
    """The AWS console of a region's partition."""
    if region.startswith("cn-"):
        return f"https://{region}.console.amazonaws.cn"
    if region.startswith("us-gov-"):
        return f"https://{region}.console.amazonaws-us-gov.com"
    return f"https://{region}.console.aws.amazon.com"


def job_url(base: str, region: str, job_id: str) -> str:
    """The console's page of a Batch job."""
    return f"{base}/batch/home?region={region}#jobs/detail/{quote(job_id, safe='')}"


def base_of(url: str) -> str:
    """The console that a job's page is of."""
    return url.partition("/batch/home")[0]


def urls(base: str, region: str, jobs: Sequence[DriveJob], log_group: str | None) -> dict[str, Any]:
    """The operator's links by name; a link that has no place to lead to is left out."""
    found: dict[str, Any] = {}
    ids = [job.job_id for job in jobs if job.job_id]
    if len(ids) == 1:
        found[BatchJobLink.name] = job_url(base, region, ids[0])
    elif ids:
        found[BatchJobLink.name] = f"{base}/batch/home?region={region}#jobs"
    if ids:
        # The console wants the group's name quoted twice, with $ for %.
        group = quote(quote(log_group or DEFAULT_LOG_GROUP, safe=""), safe="").replace("%", "$")
        found[BatchLogsLink.name] = (
            f"{base}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{group}"
        )
    if jobs:
        bucket, _, prefix = jobs[0].output.removeprefix("s3://").partition("/")
        folder = quote(f"{prefix}/" if prefix else "", safe="")
        found[LakeLink.name] = f"{base}/s3/buckets/{bucket}?region={region}&prefix={folder}"
    return found
