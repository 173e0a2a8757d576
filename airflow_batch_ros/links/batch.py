"""Links from a task to the AWS console, or to whatever stands in for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_batch_ros import console
from airflow_batch_ros.jobs import DEFAULT_LOG_GROUP, DriveJob
from ros_to_parquet.contract import REPORTS_FOLDER

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

LINKS_KEY = "ros_to_parquet_links"
"""XCom key of the links' URLs, by name."""


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


class DriveReportLink(_StoredLink):
    """The drive's report; of several drives, the folder of all reports. There once the sensor has ended."""

    name = "Drive report"


def urls(
    base: str,
    region: str,
    jobs: Sequence[DriveJob],
    log_group: str | None,
    *,
    reports: Sequence[str] = (),
) -> dict[str, Any]:
    """The operator's links by name; a link that has no place to lead to is left out.

    ``reports`` are URIs of the drives' reports, where there are some.
    """
    found: dict[str, Any] = {}
    ids = [job.job_id for job in jobs if job.job_id]
    if ids:
        one = console.job_url(base, region, ids[0])
        found[BatchJobLink.name] = one if len(ids) == 1 else console.jobs_url(base, region)
        found[BatchLogsLink.name] = console.log_url(base, region, log_group or DEFAULT_LOG_GROUP)
    if jobs:
        found[LakeLink.name] = console.folder_url(base, region, jobs[0].output)
    if reports:
        of_all = f"{jobs[0].output}/{REPORTS_FOLDER}"
        found[DriveReportLink.name] = (
            console.object_url(base, region, reports[0])
            if len(jobs) == 1
            else console.folder_url(base, region, of_all)
        )
    return found
