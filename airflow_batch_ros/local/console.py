"""Pages for the links that lead to the AWS console: a job, its log, a folder of the lake.

The addresses are the console's own below `BASE_PATH`, so that Airflow's option ``console_base_url`` is all
that differs. What follows ``#`` never reaches a server: the page sends it along and shows what comes back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import parse_qs, quote, unquote

BASE_PATH = "/console"
VIEW_PATH = f"{BASE_PATH}/view"
SHOWN = 100
"""Jobs, log streams and objects on a page."""
SHOWN_LINES = 1_000
SHOWN_BYTES = 10_000_000
"""Of an HTML file."""

PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Embedded AWS</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 0; color: #1b2733; }}
nav {{ background: #1f3a4d; padding: .7em 1.5em; }} nav b, nav a {{ color: #fff; margin-right: 1.5em; }}
main {{ padding: 1em 1.5em; }} a {{ color: #0b62a4; }} h1 {{ font-size: 1.25em; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }} th {{ text-align: left; color: #5a6b7a; font-weight: 500; }}
th, td {{ padding: .25em 1.2em .25em 0; border-bottom: 1px solid #e3e8ec; vertical-align: top; }}
pre {{ background: #f5f7f9; padding: 1em; white-space: pre-wrap; overflow-wrap: anywhere; }}
iframe {{ width: 100%; height: calc(100vh - 10em); border: 1px solid #e3e8ec; }}
.SUCCEEDED {{ color: #17803d; }} .FAILED {{ color: #b42318; }}
</style>
<nav><b>Embedded AWS</b> <a href="{BASE_PATH}/batch/home#jobs">Batch jobs</a>
<a href="{BASE_PATH}/cloudwatch/home#logsV2:log-groups">Logs</a> <a href="{BASE_PATH}/s3/buckets">S3</a></nav>
<main></main>
<script>
async function show() {{
  const {{pathname: path, search, hash}} = location;
  const where = {{path, query: search.slice(1), fragment: hash.slice(1)}};
  const answer = await fetch("{VIEW_PATH}?" + new URLSearchParams(where));
  document.querySelector("main").innerHTML = await answer.text();
}}
addEventListener("hashchange", show);
setInterval(() => {{ if (document.querySelector("[data-live]")) show(); }}, 2000);
show();
</script>
</html>
"""

Client = Callable[[str], Any]
"""Makes a boto3 client of a service."""


def render(client: Client, *, path: str, query: str, fragment: str) -> str:
    """What a page shows, as HTML: of ``/console/batch/home``, ``#jobs/detail/...`` and so on."""
    from botocore.exceptions import ClientError, ParamValidationError

    place = path.removeprefix(BASE_PATH).strip("/")
    try:
        if place == "batch/home":
            kind, _, job_id = fragment.partition("/detail/")
            return _job(client, unquote(job_id)) if job_id and kind == "jobs" else _jobs(client)
        if place == "cloudwatch/home":
            return _logs(client, fragment)
        if place == "s3/buckets":
            return _buckets(client)
        if place.startswith("s3/buckets/"):
            prefix = parse_qs(query).get("prefix", [""])[0]
            return _folder(client, unquote(place.removeprefix("s3/buckets/")), prefix)
        if place.startswith("s3/object/"):
            key = parse_qs(query).get("prefix", [""])[0]
            return _object(client, unquote(place.removeprefix("s3/object/")), key)
    except (ClientError, ParamValidationError) as error:
        return f"<h1>Not found</h1><p>{escape(str(error))}</p>"
    return f"<h1>No such page</h1><p>The embedded AWS has no page {escape(path)}.</p>"


def cached(client: Client) -> Client:
    """``client`` that makes one a service: making one takes a third of a second."""
    return functools.cache(client)


# --- Batch ------------------------------------------------------------------------------------------


def _jobs(client: Client) -> str:
    batch = client("batch")
    found: list[Mapping[str, Any]] = []
    for each in batch.describe_job_queues()["jobQueues"]:
        everything = [{"name": "AFTER_CREATED_AT", "values": ["0"]}]
        listed = batch.list_jobs(jobQueue=each["jobQueueArn"], filters=everything, maxResults=SHOWN)
        found += listed["jobSummaryList"]
    found.sort(key=lambda job: job["createdAt"], reverse=True)
    rows = [
        (_job_link(job), _status(job), escape(job.get("statusReason", "")), _time(job["createdAt"]))
        for job in found[:SHOWN]
    ]
    live = any(job["status"] not in ("SUCCEEDED", "FAILED") for job in found)
    return _section("Batch jobs", _table(("job", "status", "reason", "created"), rows), live=live)


def _job(client: Client, job_id: str) -> str:
    described = client("batch").describe_jobs(jobs=[job_id])["jobs"]
    if not described:
        return f"<h1>No such job</h1><p>{escape(job_id)}: jobs are gone when the embedded AWS has ended.</p>"
    (job,) = described
    container = job["container"]
    needs = ", ".join(f"{each['type']} {each['value']}" for each in container["resourceRequirements"])
    facts = [
        ("job", escape(job["jobId"])),
        ("status", _status(job)),
        ("reason", escape(" · ".join(filter(None, [job.get("statusReason"), container.get("reason")])))),
        ("exit code", escape(str(container.get("exitCode", "")))),
        ("created", _time(job["createdAt"])),
        ("started", _time(job.get("startedAt"))),
        ("stopped", _time(job.get("stoppedAt"))),
        ("queue", escape(job["jobQueue"].rpartition("/")[2])),
        ("definition", escape(job["jobDefinition"].rpartition("/")[2])),
        ("image", escape(container.get("image", ""))),
        ("limits", escape(needs)),
        ("command", f"<code>{escape(' '.join(container['command']))}</code>"),
    ]
    parts = [_table((), facts)]
    if size := job.get("arrayProperties", {}).get("size"):
        ids = [f"{job['jobId']}:{index}" for index in range(min(size, SHOWN))]
        children = client("batch").describe_jobs(jobs=ids)["jobs"]
        rows = [
            (_job_link(child), _status(child), _log_link(child["container"].get("logStreamName")))
            for child in children
        ]
        parts += [f"<h2>{size} children</h2>", _table(("job", "status", "log"), rows)]
    attempts = [
        (
            str(number),
            escape(str(attempt["container"].get("exitCode", ""))),
            escape(attempt["container"].get("reason") or attempt.get("statusReason", "")),
            _time(attempt.get("startedAt")),
            _time(attempt.get("stoppedAt")),
            _log_link(attempt["container"].get("logStreamName")),
        )
        for number, attempt in enumerate(job["attempts"], 1)
    ]
    if attempts:
        parts += ["<h2>Attempts</h2>"]
        parts += [_table(("", "exit code", "reason", "started", "stopped", "log"), attempts)]
    if stream := container.get("logStreamName"):
        parts += ["<h2>Log</h2>", _lines(client, "/aws/batch/job", stream)]
    live = job["status"] not in ("SUCCEEDED", "FAILED")
    return _section(escape(job["jobName"]), "".join(parts), live=live)


def _job_link(job: Mapping[str, Any]) -> str:
    where = f"{BASE_PATH}/batch/home#jobs/detail/{quote(job['jobId'], safe='')}"
    index = job.get("arrayProperties", {}).get("index")
    return f'<a href="{where}">{escape(job["jobName"])}{"" if index is None else f":{index}"}</a>'


def _status(job: Mapping[str, Any]) -> str:
    return f'<span class="{escape(job["status"])}">{escape(job["status"])}</span>'


# --- logs -------------------------------------------------------------------------------------------


def _logs(client: Client, fragment: str) -> str:
    """``logsV2:log-groups/log-group/GROUP/log-events/STREAM``, each quoted twice with ``$`` for ``%``."""
    names = [unquote(unquote(part.replace("$", "%"))) for part in fragment.split("/")]
    logs = client("logs")
    if len(names) < 3:
        groups = [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]
        return _section("Log groups", _table((), [(_log_link("", group),) for group in groups]), live=False)
    group = names[2]
    if len(names) >= 5:
        return _section(escape(names[4]), _lines(client, group, names[4]), live=True)
    found = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=50)
    rows = [
        (_log_link(stream["logStreamName"], group), _time(stream.get("lastEventTimestamp")))
        for stream in found["logStreams"]
    ]
    return _section(escape(group), _table(("log stream", "last line"), rows), live=True)


def _lines(client: Client, group: str, stream: str) -> str:
    from botocore.exceptions import ClientError

    try:
        answer = client("logs").get_log_events(
            logGroupName=group, logStreamName=stream, startFromHead=False, limit=SHOWN_LINES
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        return "<p>No line yet.</p>"  # a stream is made with its first line
    return f"<pre>{escape(chr(10).join(event['message'] for event in answer['events']))}</pre>"


def _log_link(stream: str | None, group: str = "/aws/batch/job") -> str:
    if stream is None:
        return ""
    path = f"log-group/{_twice(group)}" + (f"/log-events/{_twice(stream)}" if stream else "")
    return f'<a href="{BASE_PATH}/cloudwatch/home#logsV2:log-groups/{path}">{escape(stream or group)}</a>'


def _twice(name: str) -> str:
    return quote(quote(name, safe=""), safe="").replace("%", "$")


# --- S3 ---------------------------------------------------------------------------------------------


def _buckets(client: Client) -> str:
    names = [bucket["Name"] for bucket in client("s3").list_buckets()["Buckets"]]
    return _section("Buckets", _table((), [(_folder_link(name, "", name),) for name in names]), live=False)


def _folder(client: Client, bucket: str, prefix: str) -> str:
    listed = client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=1000)
    above = prefix.rstrip("/").rpartition("/")[0]
    rows = [(_folder_link(bucket, f"{above}/" if above else "", ".."), "", "")] if prefix else []
    rows += [
        (_folder_link(bucket, each["Prefix"], each["Prefix"].removeprefix(prefix)), "", "")
        for each in listed.get("CommonPrefixes", ())
    ]
    rows += [
        (
            _object_link(bucket, each["Key"], each["Key"].removeprefix(prefix)),
            f"{each['Size']:,}",
            escape(each["LastModified"].strftime("%Y-%m-%d %H:%M:%S")),
        )
        for each in listed.get("Contents", ())
    ]
    more = "<p>Only the first 1,000 are shown.</p>" if listed.get("IsTruncated") else ""
    title = escape(f"s3://{bucket}/{prefix}")
    return _section(title, _table(("name", "bytes", "modified (UTC)"), rows) + more, live=False)


def _object(client: Client, bucket: str, key: str) -> str:
    """An HTML file is shown as a page that can do nothing; of others there are size and time."""
    s3 = client("s3")
    found = s3.head_object(Bucket=bucket, Key=key)
    facts = [
        ("bytes", f"{found['ContentLength']:,}"),
        ("modified (UTC)", escape(found["LastModified"].strftime("%Y-%m-%d %H:%M:%S"))),
    ]
    title = escape(f"s3://{bucket}/{key}")
    if not key.endswith(".html") or found["ContentLength"] > SHOWN_BYTES:
        return _section(title, _table((), facts), live=False)
    text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode(errors="replace")
    frame = f'<iframe sandbox srcdoc="{escape(text)}" title="{title}"></iframe>'
    return _section(title, frame, live=False)


def _object_link(bucket: str, key: str, text: str) -> str:
    where = f"{BASE_PATH}/s3/object/{quote(bucket, safe='')}?prefix={quote(key, safe='')}"
    return f'<a href="{where}">{escape(text)}</a>'


def _folder_link(bucket: str, prefix: str, text: str) -> str:
    where = f"{BASE_PATH}/s3/buckets/{quote(bucket, safe='')}?prefix={quote(prefix, safe='')}"
    return f'<a href="{where}">{escape(text)}</a>'


# --- HTML -------------------------------------------------------------------------------------------


def _section(title: str, content: str, *, live: bool) -> str:
    return f"<section{' data-live' if live else ''}><h1>{title}</h1>{content}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of cells that are HTML already."""
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if heads else ''}{body}</table>" if body else "<p>None.</p>"


def _time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
