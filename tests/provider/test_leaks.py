"""A run from conf to lake with things planted: none of them in what tasks, jobs and the embedded AWS log."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from tests.engine.test_log import SECRET, rejected_json, rejected_ros
from tests.provider.bags import UNREADABLE
from tests.provider.test_commands import Shell
from tests.provider.test_commands import shell as shell
from tests.provider.test_operators import Pipeline
from tests.provider.test_operators import pipeline as pipeline

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

pytestmark = pytest.mark.airflow


def job_lines(aws: EmbeddedAws) -> str:
    """All that jobs have logged so far."""
    logs, lines = aws.client("logs"), list[str]()
    for page in logs.get_paginator("filter_log_events").paginate(logGroupName="/aws/batch/job"):
        lines += [event["message"] for event in page["events"]]
    return "\n".join(lines)


def test_messages_and_credentials_of_a_run(
    pipeline: Pipeline,
    aws: EmbeddedAws,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rejected messages of two kinds, a bag that is cut off, one that cannot be read."""
    caplog.set_level(logging.INFO)
    for name, write in (("json", rejected_json), ("ros", rejected_ros)):
        write(tmp_path / f"{name}.mcap")
        pipeline.put(f"planted/{name}.mcap", (tmp_path / f"{name}.mcap").read_bytes())
    pipeline.put("planted/cut.mcap", (tmp_path / "ros.mcap").read_bytes()[:-70])
    pipeline.put("planted/none.bag", UNREADABLE)
    jobs = pipeline.submit("planted", fail_on=["succeeded_with_rejects", "damaged", "partial", "failed"])
    with pytest.raises(AirflowFailException) as caught:
        pipeline.wait(jobs)
    said = "".join(capfd.readouterr()) + caplog.text + str(caught.value)
    told = json.dumps([jobs, pipeline.context["ti"].pushed], default=str)
    lines = job_lines(aws)
    assert "not an integer" in said, "rejects are said"
    assert "bag_damaged" in lines
    server = aws.state.server_log.read_text() + aws.state.seaweed_log.read_text()
    for planted in (SECRET, aws.server.secret_key):
        assert planted not in said
        assert planted not in told
        assert planted not in lines
        assert planted not in server


def test_credentials_that_are_refused(
    pipeline: Pipeline,
    aws: EmbeddedAws,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = json.loads(aws.environment()["AIRFLOW_CONN_AWS_DEFAULT"])
    connection |= {"login": "PLANTED-KEY", "password": "PLANTED-SECRET"}
    connection["extra"]["aws_session_token"] = "PLANTED-TOKEN"
    monkeypatch.setenv("AIRFLOW_CONN_PLANTED", json.dumps(connection))
    with pytest.raises(AirflowException) as caught:
        pipeline.submit("good", aws_conn_id="planted")
    said = str(caught.value)
    assert "S3 refused" in said
    assert "InvalidAccessKeyId" in said
    assert "PLANTED" not in said + "".join(capfd.readouterr()) + caplog.text


def test_commands_with_credentials_that_are_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"PLANTED-{name}")
    done = shell.submit("r", "one")
    assert done.code == 4
    assert "InvalidAccessKeyId" in done.err
    assert "PLANTED" not in done.out + done.err


def test_signatures_in_what_the_embedded_aws_logs(pipeline: Pipeline, aws: EmbeddedAws) -> None:
    def fetch(key: str, **changes: str) -> int:
        asked: dict[str, Any] = {"Bucket": pipeline.bucket, "Key": key}
        url = pipeline.s3.generate_presigned_url("get_object", asked)
        for old, new in changes.items():
            url = url.replace(old, new)
        try:
            with urllib.request.urlopen(url) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert fetch("good/a.bag") == 200
    assert fetch("good/none.bag") == 404
    assert fetch("good/a.bag", good="else") == 403
    for log in (aws.state.server_log, aws.state.seaweed_log):
        text = log.read_text()
        assert "Signature=" not in text
        assert aws.server.secret_key not in text
