"""Addresses of pages of the AWS console, or of what stands in for it."""

from __future__ import annotations

from urllib.parse import quote, urlsplit


def default_base(region: str) -> str:
    """The AWS console of a region's partition."""
    if region.startswith("cn-"):
        return f"https://{region}.console.amazonaws.cn"
    if region.startswith("us-gov-"):
        return f"https://{region}.console.amazonaws-us-gov.com"
    return f"https://{region}.console.aws.amazon.com"


def base_for(endpoint_url: str, region: str) -> str:
    """The console of who answers at an endpoint; empty where that is not AWS."""
    host = urlsplit(endpoint_url).hostname or ""
    return default_base(region) if host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws")) else ""


def base_of(url: str) -> str:
    """The console that a job's page is of."""
    return url.partition("/batch/home")[0]


def job_url(base: str, region: str, job_id: str) -> str:
    """The page of a Batch job, or of an array's child."""
    return f"{base}/batch/home?region={region}#jobs/detail/{quote(job_id, safe='')}"


def jobs_url(base: str, region: str) -> str:
    """The page of all Batch jobs."""
    return f"{base}/batch/home?region={region}#jobs"


def log_url(base: str, region: str, group: str, stream: str = "") -> str:
    """The page of a log group, or of a stream in it."""
    events = f"/log-events/{_twice(stream)}" if stream else ""
    return f"{base}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{_twice(group)}{events}"


def folder_url(base: str, region: str, uri: str) -> str:
    """The page of a folder in S3."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    folder = quote(f"{prefix}/" if prefix else "", safe="")
    return f"{base}/s3/buckets/{bucket}?region={region}&prefix={folder}"


def object_url(base: str, region: str, uri: str) -> str:
    """The page of an object in S3, which opens it."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return f"{base}/s3/object/{bucket}?region={region}&prefix={quote(key, safe='')}"


def _twice(name: str) -> str:
    """Quoted as the console wants names of logs: twice, with $ for %."""
    return quote(quote(name, safe=""), safe="").replace("%", "$")
