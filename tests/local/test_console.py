"""The pages at which a run's links lead, over HTTP: what they show, and that it is shown as text."""

from __future__ import annotations

import urllib.parse
import urllib.request

from airflow_batch_ros.console import job_url, object_url
from airflow_batch_ros.local import EmbeddedAws
from airflow_batch_ros.local.console import BASE_PATH, VIEW_PATH

from .conftest import Jobs


def fetch(aws: EmbeddedAws, path: str) -> str:
    with urllib.request.urlopen(aws.server.endpoint_url + path) as answer:
        return str(answer.read().decode())


def view(aws: EmbeddedAws, link: str) -> str:
    """What the page behind ``link`` fetches and shows."""
    parts = urllib.parse.urlsplit(link)
    asked = {"path": parts.path, "query": parts.query, "fragment": parts.fragment}
    return fetch(aws, f"{VIEW_PATH}?{urllib.parse.urlencode(asked)}")


def test_a_job_with_its_log_and_its_array(aws: EmbeddedAws, jobs: Jobs) -> None:
    job = jobs.run("import sys; print('<b>bold & brave</b>'); sys.exit(3)", name="shown")
    base = aws.server.endpoint_url + BASE_PATH
    shown = view(aws, job_url(base, "us-east-1", job["jobId"]))
    assert "<h1>shown</h1>" in shown
    assert '<span class="FAILED">FAILED</span>' in shown
    assert "&lt;b&gt;bold &amp; brave&lt;/b&gt;" in shown
    assert "<b>bold" not in shown
    assert "data-live" not in shown
    assert "shown" in view(aws, f"{base}/batch/home?region=us-east-1#jobs")

    parent_id = jobs.submit("", name="parent", arrayProperties={"size": 2})
    jobs.wait(parent_id)
    shown = view(aws, job_url(base, "us-east-1", parent_id))
    assert "2 children" in shown
    assert "parent:1</a>" in shown

    stream = job["container"]["logStreamName"]
    link = f"{base}/cloudwatch/home?region=us-east-1#logsV2:log-groups/log-group/"
    group = view(aws, f"{link}$252Faws$252Fbatch$252Fjob")
    assert stream in group
    quoted = urllib.parse.quote(urllib.parse.quote(stream, safe=""), safe="").replace("%", "$")
    one = view(aws, f"{link}$252Faws$252Fbatch$252Fjob/log-events/{quoted}")
    assert "bold &amp; brave" in one


def test_folders_of_a_bucket(aws: EmbeddedAws) -> None:
    s3 = aws.client("s3")
    s3.put_object(Bucket="lake", Key="console/a b/part.parquet", Body=b"12345")
    s3.put_object(Bucket="lake", Key="console/<i>", Body=b"")
    base = aws.server.endpoint_url + BASE_PATH
    top = view(aws, f"{base}/s3/buckets/lake?region=us-east-1&prefix=console%2F")
    assert "prefix=console%2Fa%20b%2F" in top
    assert "&lt;i&gt;" in top
    assert "part.parquet</a></td><td>5</td>" in view(aws, f"{base}/s3/buckets/lake?prefix=console%2Fa%20b%2F")
    assert ">lake</a>" in view(aws, f"{base}/s3/buckets")


def test_a_page_in_a_bucket_is_shown_and_can_do_nothing(aws: EmbeddedAws) -> None:
    s3 = aws.client("s3")
    s3.put_object(
        Bucket="lake", Key="console/report.html", Body=b"<h1 id='x'>Drive</h1><script>go()</script>"
    )
    s3.put_object(Bucket="lake", Key="console/rows.parquet", Body=b"12345")
    base = aws.server.endpoint_url + BASE_PATH
    shown = view(aws, object_url(base, "us-east-1", "s3://lake/console/report.html"))
    assert '<iframe sandbox srcdoc="&lt;h1 id=&#x27;x&#x27;&gt;Drive&lt;/h1&gt;&lt;script&gt;' in shown
    assert "<script>" not in shown
    assert "<td>5</td>" in view(aws, object_url(base, "us-east-1", "s3://lake/console/rows.parquet"))
    assert "Not found" in view(aws, object_url(base, "us-east-1", "s3://lake/console/none.html"))


def test_what_is_not_there_is_said(aws: EmbeddedAws) -> None:
    base = aws.server.endpoint_url + BASE_PATH
    assert "No such job" in view(aws, f"{base}/batch/home#jobs/detail/gone")
    assert "NoSuchBucket" in view(aws, f"{base}/s3/buckets/no-such-bucket")
    assert "No such page" in view(aws, f"{base}/ec2/home")
    for link in ("s3/buckets/no%20name", "s3/object/lake?prefix=", "cloudwatch/home#logsV2:log-groups/x/"):
        assert "Not found" in view(aws, f"{base}/{link}")
    assert "<main></main>" in fetch(aws, f"{BASE_PATH}/batch/home")
