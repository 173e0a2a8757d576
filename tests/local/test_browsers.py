"""Requests that a browser sends to the embedded AWS on behalf of others: it asks nobody who they are."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from airflow_batch_ros.local import JOB_DEFINITION, JOB_QUEUE, EmbeddedAws
from airflow_batch_ros.local.console import BASE_PATH, VIEW_PATH

JOB = json.dumps({"jobName": "forged", "jobQueue": JOB_QUEUE, "jobDefinition": JOB_DEFINITION})


def send(aws: EmbeddedAws, method: str, path: str, body: str = "", **headers: str) -> int:
    """The status of the answer; ``headers`` as a browser would set them."""
    parts = urlsplit(aws.server.endpoint_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        return connection.getresponse().status
    finally:
        connection.close()


def forged_jobs(aws: EmbeddedAws) -> int:
    everything = [{"name": "JOB_NAME", "values": ["forged"]}]
    return len(aws.client("batch").list_jobs(jobQueue=JOB_QUEUE, filters=everything)["jobSummaryList"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec_Fetch_Site": "same-site", "Origin": "http://127.0.0.1:3000"},
        {"Origin": "https://evil.example"},  # of a browser from before these headers
        {"Origin": "null"},
        {
            "Sec_Fetch_Site": "same-origin",
            "Host": "evil.example:5000",
        },  # a name that resolves to this machine
        {"Origin": "http://evil.example:5000", "Host": "evil.example:5000"},
    ],
)
def test_other_sites_submit_nothing_and_see_nothing(aws: EmbeddedAws, headers: dict[str, str]) -> None:
    before = forged_jobs(aws)
    assert send(aws, "POST", "/v1/submitjob", JOB, Content_Type="text/plain", **headers) == 403
    assert send(aws, "GET", f"{VIEW_PATH}?path={BASE_PATH}/batch/home", **headers) == 403
    assert send(aws, "GET", "/", **headers) == 403
    assert forged_jobs(aws) == before


def test_what_is_no_browsers_and_the_pages_own_requests_are_answered(aws: EmbeddedAws) -> None:
    before = forged_jobs(aws)
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20261121/us-east-1/batch/aws4_request"}
    assert send(aws, "POST", "/v1/submitjob", JOB, **signed) == 200
    assert forged_jobs(aws) == before + 1
    own = {"Sec_Fetch_Site": "same-origin", "Origin": aws.server.endpoint_url}
    assert send(aws, "GET", f"{VIEW_PATH}?path={BASE_PATH}/batch/home", **own) == 200
    assert send(aws, "GET", f"{VIEW_PATH}?path={BASE_PATH}/batch/home", Sec_Fetch_Site="none") == 200
    # A link from Airflow's pages leads to a page that shows nothing by itself.
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert send(aws, "GET", f"{BASE_PATH}/batch/home", **link) == 200
