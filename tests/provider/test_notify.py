"""The examples that tell people of drives that failed: what arrives, at a real SNS topic and at a webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from runpy import run_path
from typing import TYPE_CHECKING, Any

import pytest

from tests.provider.bags import UNREADABLE, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import EXAMPLES
from tests.provider.runs import run

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

pytestmark = pytest.mark.airflow


def run_a_bad_drive(
    example: str, aws: EmbeddedAws, s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Runs an example over a drive that is well and one of which no bag can be read; the run's state."""
    aws.ensure_buckets(bucket)  # jobs of the default definition may go there then
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT", f"s3://{bucket}/lake")
    put(s3, bucket, "raw/good/a.bag", body=ros1_bag())
    put(s3, bucket, "raw/bad/<!channel>.bag", body=UNREADABLE)
    conf = {name: {"bucket": bucket, "prefix": f"raw/{name}/"} for name in ("good", "bad")}
    dag = run_path(str(EXAMPLES / f"{example}.py"))["dag"]
    for task in dag.tasks:
        task.retries = 0
    state, _, _ = run(dag, {"drives_to_process": conf, "report": False})
    return state


@pytest.mark.skipif(
    version("apache-airflow").startswith("3.0"),
    reason="its dag.test() tells callbacks of no exception; its tasks do",
)
def test_a_topic_is_told_which_drives_failed_and_why(
    airflow_database: None, aws: EmbeddedAws, s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = aws.client("sns").create_topic(Name="drives")["TopicArn"]
    sqs = aws.client("sqs")
    queue = sqs.create_queue(QueueName="people")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_TOPIC_ARN", topic)

    assert run_a_bad_drive("example_notify_sns", aws, s3, bucket, monkeypatch) == "failed"
    (message,) = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    sent = json.loads(message["Body"])
    assert sent["Subject"] == "example_notify_sns has failed"
    lines = sent["Message"].splitlines()
    assert lines[0].startswith("example_notify_sns, run manual__")
    assert lines[0].endswith(", task ros_to_parquet.wait:")
    assert "1 of 2 drives failed:" in lines
    assert any(line.startswith("- bad: failed, 1 of 1 shards done") for line in lines)
    assert "<!channel>.bag" in sent["Message"], "the cause names the bag"
    assert "example_notify_sns" in lines[-1], "where the log is"


@contextmanager
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """A server that takes what is posted, and what that was."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", posted
        finally:
            server.shutdown()
            thread.join()


def test_a_channel_is_told_and_nobody_is_called(
    airflow_database: None, aws: EmbeddedAws, s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Slack's provider is installed: ``scripts/test-optional``."""
    pytest.importorskip("airflow.providers.slack")
    with webhook() as (url, posted):
        connection = {"conn_type": "slackwebhook", "host": url, "password": "T000/B000/secret"}
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_DEFAULT", json.dumps(connection))
        assert run_a_bad_drive("example_notify_slack", aws, s3, bucket, monkeypatch) == "failed"
    (message,) = posted
    assert message["text"].startswith("*example_notify_slack* has failed: <")
    assert "- bad: failed, 1 of 1 shards done" in message["text"]
    assert "&lt;!channel&gt;.bag" in message["text"]
    assert "<!channel>" not in message["text"]
