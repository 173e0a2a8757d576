"""Faults of the embedded AWS: each does what it says, to what it is meant for, and to nothing else."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.session import Session

from airflow_batch_ros.cli import main
from airflow_batch_ros.local import (
    JOB_DEFINITION,
    JOB_QUEUE,
    BatchLateAnswer,
    BatchRefusal,
    BatchThrottling,
    EmbeddedAws,
    Fault,
    FaultError,
    HostReclaimed,
    ImageNotFound,
    JobEnds,
    JobStuck,
    JobUnknown,
    LocalAwsError,
    LogsMissing,
    S3Cut,
    S3Error,
    S3LostAnswer,
    S3Slow,
    S3StaleListing,
)
from airflow_batch_ros.local import faults as kinds
from airflow_batch_ros.local.faults import FaultBoard
from airflow_batch_ros.local.s3_proxy import S3Proxy

from .conftest import Jobs

PART = 5 << 20


def client(aws: EmbeddedAws, service: str, **more: Any) -> Any:
    """One that tries once."""
    server = aws.server
    return Session().create_client(
        service,
        region_name=server.region,
        endpoint_url=server.s3_endpoint_url if service == "s3" else server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(retries={"total_max_attempts": 1}, **more),
    )


@pytest.fixture(scope="module")
def s3(faulty_aws: EmbeddedAws) -> Any:
    faulty_aws.ensure_buckets("faults")
    return client(faulty_aws, "s3", max_pool_connections=20)


@pytest.fixture
def key() -> str:
    return f"{uuid.uuid4().hex}/x"


def code(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


# --- S3 ---------------------------------------------------------------------------------------------


def test_what_no_fault_befalls_goes_through_the_proxy_as_it_is(
    faulty_aws: EmbeddedAws, s3: Any, key: str
) -> None:
    """Signatures, conditions, ranges, parts, names, empty and large bodies, several at a time."""
    content = os.urandom(3 * PART)
    s3.put_object(Bucket="faults", Key=key, Body=content, Metadata={"who": "me"}, IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="faults", Key=key, Body=b"", IfNoneMatch="*")
    assert code(caught) == ("PreconditionFailed", 412)
    assert s3.head_object(Bucket="faults", Key=key)["Metadata"] == {"who": "me"}
    with ThreadPoolExecutor(8) as pool:
        ranges = [(start, start + 700_000) for start in range(0, len(content), 700_000)]
        parts = pool.map(
            lambda part: s3.get_object(Bucket="faults", Key=key, Range=f"bytes={part[0]}-{part[1] - 1}")[
                "Body"
            ].read(),
            ranges,
        )
        assert b"".join(parts) == content
    odd = f"{key}/a+b%20c&d ö"
    s3.put_object(Bucket="faults", Key=odd, Body=b"")
    assert s3.get_object(Bucket="faults", Key=odd)["Body"].read() == b""
    upload = {"Bucket": "faults", "Key": f"{key}-parts"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    etag = s3.upload_part(**upload, PartNumber=1, Body=content)["ETag"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    listed = s3.list_objects_v2(Bucket="faults", Prefix=key)["Contents"]
    assert {each["Key"]: each["Size"] for each in listed} == {
        key: len(content),
        odd: 0,
        f"{key}-parts": len(content),
    }
    s3.delete_object(Bucket="faults", Key=odd)
    wrong = Session().create_client(
        "s3",
        endpoint_url=faulty_aws.server.s3_endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=faulty_aws.server.access_key,
        aws_secret_access_key="wrong",
    )
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.get_object(Bucket="faults", Key=key)


@pytest.mark.parametrize("error", kinds.S3_ERRORS)
def test_an_error_of_s3_is_as_s3_words_it(faulty_aws: EmbeddedAws, s3: Any, key: str, error: str) -> None:
    s3.put_object(Bucket="faults", Key=key, Body=b"before")
    status, said, message = kinds.S3_ERRORS[error]
    with faulty_aws.faults(S3Error(error=error, key=key)) as faults:
        for verb, more, kms in (
            (s3.get_object, {}, "kms:Decrypt"),
            (s3.put_object, {"Body": bytes(PART)}, "kms:GenerateDataKey"),
        ):
            with pytest.raises(ClientError) as caught:
                verb(Bucket="faults", Key=key, **more)
            assert code(caught) == (said, status)
            assert caught.value.response["Error"]["Message"] == message.format(kms=kms)
        with pytest.raises(ClientError) as caught:
            s3.head_object(Bucket="faults", Key=key)
        assert code(caught) == (str(status), status), "there is no body, so no code"
        assert faults.hits() == 3
    assert s3.get_object(Bucket="faults", Key=key)["Body"].read() == b"before", "nothing of it was done"


def test_a_fault_befalls_the_verbs_buckets_and_keys_it_is_meant_for(
    faulty_aws: EmbeddedAws, s3: Any, key: str
) -> None:
    folder = key.partition("/")[0]
    upload = {"Bucket": "faults", "Key": key}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    asks = {
        "PutObject": lambda: s3.put_object(Bucket="faults", Key=key, Body=b"x"),
        "GetObject": lambda: s3.get_object(Bucket="faults", Key=key)["Body"].read(),
        "HeadObject": lambda: s3.head_object(Bucket="faults", Key=key),
        "ListObjectsV2": lambda: s3.list_objects_v2(Bucket="faults", Prefix=f"{folder}/x"),
        "ListObjects": lambda: s3.list_objects(Bucket="faults", Prefix=f"{folder}/x"),
        "ListMultipartUploads": lambda: s3.list_multipart_uploads(Bucket="faults", Prefix=f"{folder}/x"),
        "UploadPart": lambda: s3.upload_part(**upload, PartNumber=1, Body=b"x"),
        "ListParts": lambda: s3.list_parts(**upload),
        "CopyObject": lambda: s3.copy_object(Bucket="faults", Key=key, CopySource=f"faults/{folder}/y"),
        "AbortMultipartUpload": lambda: s3.abort_multipart_upload(**upload),
        "DeleteObject": lambda: s3.delete_object(Bucket="faults", Key=key),
    }
    for name in "xy":
        s3.put_object(Bucket="faults", Key=f"{folder}/{name}", Body=b"")
    for name in asks:
        if name == "AbortMultipartUpload":
            continue  # it would be gone for the others
        with faulty_aws.faults(S3Error(error="SlowDown", operation=name, key=f"{folder}/x")) as faults:
            refused = []
            for other, ask in asks.items():
                if other in ("AbortMultipartUpload", "DeleteObject") and other != name:
                    continue
                try:
                    ask()
                except ClientError as error:
                    refused.append(other)
                    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503
            assert refused == [name]
            assert faults.hits() == 1
        s3.put_object(Bucket="faults", Key=key, Body=b"x")
    with faulty_aws.faults(S3Error(error="SlowDown", operation="get", bucket="other", key=key)):
        asks["GetObject"]()
    with faulty_aws.faults(S3Error(error="SlowDown", operation="get", key="*/z")):
        asks["GetObject"]()
    with (
        faulty_aws.faults(S3Error(error="SlowDown", operation="delete", key="*x")),
        pytest.raises(ClientError),
    ):
        asks["AbortMultipartUpload"]()
    asks["AbortMultipartUpload"]()


def fails(s3: Any, key: str) -> bool:
    try:
        s3.head_object(Bucket="faults", Key=key)
    except ClientError:
        return True
    return False


def test_which_of_its_requests_a_fault_befalls(faulty_aws: EmbeddedAws, s3: Any, key: str) -> None:
    s3.put_object(Bucket="faults", Key=key, Body=b"")
    with faulty_aws.faults(S3Error(error="SlowDown", key=key, skip=2, times=3)):
        assert [fails(s3, key) for _ in range(8)] == [False] * 2 + [True] * 3 + [False] * 3
    chosen = []
    for seed in (1, 1, 2):
        with faulty_aws.faults(S3Error(error="SlowDown", key=key, probability=0.5, seed=seed)) as faults:
            chosen.append([fails(s3, key) for _ in range(30)])
            assert faults.hits() == sum(chosen[-1])
    assert chosen[0] == chosen[1] != chosen[2]
    assert 5 < sum(chosen[0]) < 25
    with faulty_aws.faults(
        S3Error(error="SlowDown", key=key, times=1), S3Error(error="NoSuchKey", key=key)
    ) as faults:
        assert [fails(s3, key) for _ in range(3)] == [True] * 3
        assert (faults.hits(0), faults.hits(1)) == (1, 2)


def test_a_body_is_cut_where_it_is_said(faulty_aws: EmbeddedAws, s3: Any, key: str) -> None:
    content = os.urandom(1 << 20)
    s3.put_object(Bucket="faults", Key=key, Body=content)
    with faulty_aws.faults(S3Cut(key=key, after_bytes=300_000, times=2)):
        body = s3.get_object(Bucket="faults", Key=key)["Body"]
        got = b""
        with pytest.raises(BotoCoreError):
            while piece := body.read(10_000):
                got += piece
        assert content.startswith(got)
        assert 290_000 <= len(got) <= 300_000
        with pytest.raises(BotoCoreError):
            s3.put_object(Bucket="faults", Key=key, Body=bytes(1 << 20))
        assert s3.get_object(Bucket="faults", Key=key)["Body"].read() == content, "S3 has the one before"
    with faulty_aws.faults(S3Cut(key=key, after_bytes=1 << 20)):
        assert s3.get_object(Bucket="faults", Key=key)["Body"].read() == content, "it is no longer than that"


@pytest.mark.parametrize("after_bytes", [0, 3, 4])
def test_a_chunked_answer_that_is_cut_has_no_end(after_bytes: int) -> None:
    class Store(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name above)
            pass

        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.wfile.write(b"3\r\n<a>\r\n4\r\n</a>\r\n0\r\n\r\n")

    board = FaultBoard()
    board.add([S3Cut(after_bytes=after_bytes)])
    listener = socket.create_server(("127.0.0.1", 0))
    with HTTPServer(("127.0.0.1", 0), Store) as store:
        threading.Thread(target=store.handle_request, daemon=True).start()
        proxy = S3Proxy(board, listener=listener, store=("127.0.0.1", store.server_port))
        asked = HTTPConnection(*listener.getsockname())
        try:
            asked.request("GET", "/bucket?list-type=2")
            with pytest.raises((HTTPException, ConnectionError)):
                asked.getresponse().read()
        finally:
            asked.close()
            proxy.close()


def test_an_answer_that_is_lost_is_of_a_request_that_was_carried_out(
    faulty_aws: EmbeddedAws, s3: Any, key: str
) -> None:
    with faulty_aws.faults(S3LostAnswer(key=key)) as faults:
        with pytest.raises(BotoCoreError):
            s3.put_object(Bucket="faults", Key=key, Body=b"there")
        assert faults.hits() == 1
    assert s3.get_object(Bucket="faults", Key=key)["Body"].read() == b"there"


def test_a_slow_answer_and_a_slow_body(faulty_aws: EmbeddedAws, s3: Any, key: str) -> None:
    s3.put_object(Bucket="faults", Key=key, Body=bytes(50_000))
    impatient = client(faulty_aws, "s3", read_timeout=0.3)
    with faulty_aws.faults(S3Slow(key=key, before_s=1.0)), pytest.raises(ReadTimeoutError):
        impatient.get_object(Bucket="faults", Key=key)
    for rate, least_s in ((100_000, 0.5), (None, 0.0)):
        with faulty_aws.faults(S3Slow(key=key, bytes_per_second=rate)) as faults:
            begin = time.monotonic()
            assert len(s3.get_object(Bucket="faults", Key=key)["Body"].read()) == 50_000
            assert time.monotonic() - begin >= least_s
            assert faults.hits() == 1


def test_a_stale_listing_goes_on_as_it_was(faulty_aws: EmbeddedAws, s3: Any, key: str) -> None:
    def listed() -> list[str]:
        answer = s3.list_objects_v2(Bucket="faults", Prefix=key)
        return [each["Key"].removeprefix(key) for each in answer.get("Contents", [])]

    for name in ("/a", "/b"):
        s3.put_object(Bucket="faults", Key=key + name, Body=b"")
    with faulty_aws.faults(S3StaleListing(key=f"{key}*")):
        assert listed() == ["/a", "/b"]
        s3.put_object(Bucket="faults", Key=f"{key}/c", Body=b"")
        s3.delete_object(Bucket="faults", Key=f"{key}/a")
        assert listed() == ["/a", "/b"]
    assert listed() == ["/b", "/c"]


def test_faults_of_s3_need_the_proxy(aws: EmbeddedAws) -> None:
    text = r"s3-cut: this embedded AWS has no proxy .*--s3-faults"
    with pytest.raises(LocalAwsError, match=text), aws.faults(S3Cut()):
        pass


# --- Batch ------------------------------------------------------------------------------------------


def test_requests_beyond_the_rate_are_throttled(aws: EmbeddedAws) -> None:
    batch = client(aws, "batch")
    with aws.faults(BatchThrottling(requests_per_second=0.001, burst=3, operation="describe*")) as faults:
        for _ in range(3):
            batch.describe_jobs(jobs=["x"])
        for _ in range(2):
            with pytest.raises(ClientError) as caught:
                batch.describe_jobs(jobs=["x"])
            assert code(caught) == ("TooManyRequestsException", 429)
        batch.list_jobs(jobQueue=JOB_QUEUE)
        assert faults.hits() == 2
    with aws.faults(BatchThrottling(requests_per_second=1, burst=1)) as faults:
        answered = 0
        while answered < 3:
            try:
                batch.describe_jobs(jobs=["x"])
                answered += 1
            except ClientError:
                time.sleep(0.01)
        assert faults.hits() > 0


@pytest.mark.parametrize("error", kinds.BATCH_ERRORS)
def test_a_refusal_of_batch(aws: EmbeddedAws, jobs: Jobs, error: str) -> None:
    batch = client(aws, "batch")
    name = f"refused-{error}"
    with aws.faults(BatchRefusal(error=error, operation="SubmitJob")), pytest.raises(ClientError) as caught:
        batch.submit_job(jobName=name, jobQueue=JOB_QUEUE, jobDefinition=JOB_DEFINITION)
    assert code(caught) == (error, kinds.BATCH_ERRORS[error][0])
    found = batch.list_jobs(jobQueue=JOB_QUEUE, filters=[{"name": "JOB_NAME", "values": [name]}])
    assert found["jobSummaryList"] == []


@pytest.mark.parametrize(
    ("after_s", "patience_s", "error"),
    [(1.0, 0.3, ReadTimeoutError), (None, 20.0, ConnectionClosedError)],
    ids=["late", "never"],
)
def test_a_job_is_submitted_though_the_answer_comes_too_late(
    aws: EmbeddedAws, jobs: Jobs, after_s: float | None, patience_s: float, error: type[Exception]
) -> None:
    impatient = client(aws, "batch", read_timeout=patience_s)
    name = f"late-{uuid.uuid4().hex}"
    with aws.faults(BatchLateAnswer(after_s=after_s)), pytest.raises(error):
        impatient.submit_job(
            jobName=name,
            jobQueue=JOB_QUEUE,
            jobDefinition=JOB_DEFINITION,
            containerOverrides={"command": ["-c", "pass"]},
        )
    found = jobs.batch.list_jobs(jobQueue=JOB_QUEUE, filters=[{"name": "JOB_NAME", "values": [name]}])
    (job,) = found["jobSummaryList"]
    assert jobs.wait(job["jobId"])["status"] == "SUCCEEDED"


def test_a_stuck_job_goes_on_when_the_fault_ends(aws: EmbeddedAws, jobs: Jobs) -> None:
    with aws.faults(JobStuck(job="stuck-*", reason="CAPACITY:NONE")) as faults:
        stuck = jobs.submit("pass", name="stuck-1")
        assert jobs.run("pass", name="other")["status"] == "SUCCEEDED", "others pass it"
        job = jobs.describe(stuck)
        assert (job["status"], job["statusReason"]) == ("RUNNABLE", "CAPACITY:NONE")
        assert faults.hits() == 1
    assert jobs.wait(stuck)["status"] == "SUCCEEDED"


def test_a_stuck_job_is_cancelled_by_its_queue_or_by_somebody(aws: EmbeddedAws, jobs: Jobs) -> None:
    with aws.faults(JobStuck(job="stuck-*", cancel_after_s=0.2)):
        job = jobs.run("pass", name="stuck-2")
        assert (job["status"], job["statusReason"], job["isCancelled"]) == (
            "FAILED",
            "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
            True,
        )
        assert job["attempts"] == []
    with aws.faults(JobStuck(job="stuck-*")) as faults:
        job_id = jobs.submit("pass", name="stuck-3")
        faults.wait()
        jobs.batch.terminate_job(jobId=job_id, reason="enough")
        assert jobs.wait(job_id)["statusReason"] == "enough"
    assert jobs.describe(job_id)["status"] == "FAILED"


def test_a_reclaimed_host_takes_the_attempt_with_it(aws: EmbeddedAws, jobs: Jobs) -> None:
    code = "import time; print('begun 1', flush=True); time.sleep(600)"
    with aws.faults(HostReclaimed(job="spot-*", times=1, at_line="begun*")):
        job = jobs.run(code, name="spot-1", retryStrategy={"attempts": 1})
        assert jobs.lines(job) == ["begun 1"]
        assert re.fullmatch(r"Host EC2 \(instance i-[0-9a-f]{17}\) terminated\.", job["statusReason"])
        assert "exitCode" not in job["container"]
        assert job["status"] == "FAILED"
    rules = {"attempts": 2, "evaluateOnExit": [{"onStatusReason": "Host EC2*", "action": "RETRY"}]}
    with aws.faults(HostReclaimed(job="spot-*", times=1)) as faults:
        job = jobs.run("pass", name="spot-2", retryStrategy=rules)
        assert (job["status"], len(job["attempts"]), faults.hits()) == ("SUCCEEDED", 2, 1)
        assert job["attempts"][0]["statusReason"].startswith("Host EC2 (instance i-")


def test_a_job_that_batch_does_not_know(aws: EmbeddedAws, jobs: Jobs) -> None:
    lost = jobs.submit("pass", name="lost-1", arrayProperties={"size": 2})
    known = jobs.submit("pass", name="known")
    by_name = {"jobQueue": JOB_QUEUE, "filters": [{"name": "JOB_NAME", "values": ["lost-1"]}]}
    with aws.faults(JobUnknown(job="lost-*")):
        answer = jobs.batch.describe_jobs(jobs=[lost, f"{lost}:1", known])["jobs"]
        assert [job["jobId"] for job in answer] == [known]
        assert jobs.batch.list_jobs(**by_name)["jobSummaryList"] == []
    assert jobs.wait(lost)["status"] == "SUCCEEDED"
    with aws.faults(JobUnknown(job="lost-*", times=1)):
        looks = [len(jobs.batch.describe_jobs(jobs=[lost])["jobs"]) for _ in range(3)]
        assert looks == [0, 1, 1]


def test_an_image_that_is_not_there(aws: EmbeddedAws, jobs: Jobs) -> None:
    with aws.faults(ImageNotFound(job="no-image")):
        job = jobs.run("pass", name="no-image")
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith("CannotPullContainerError: ")
    assert "exitCode" not in job["container"]
    assert "startedAt" not in job


def test_an_array_with_mixed_ends(aws: EmbeddedAws, jobs: Jobs) -> None:
    out_of_memory = "OutOfMemoryError: Container killed due to memory usage"
    with aws.faults(
        JobEnds(job="mixed", index=1, exit_code=65),
        JobEnds(job="mixed", index=2, exit_code=137, reason=out_of_memory),
        HostReclaimed(job="mixed", index=3),
        ImageNotFound(job="mixed", index=4),
    ) as faults:
        parent = jobs.run("pass", name="mixed", arrayProperties={"size": 6}, retryStrategy={"attempts": 1})
        assert faults.hits() == 4
    assert parent["status"] == "FAILED"
    children = [jobs.describe(f"{parent['jobId']}:{index}") for index in range(6)]
    assert [child["status"] for child in children] == ["SUCCEEDED", *["FAILED"] * 4, "SUCCEEDED"]
    assert [child["container"].get("exitCode") for child in children] == [0, 65, 137, None, None, 0]
    assert children[2]["container"]["reason"] == out_of_memory


@pytest.mark.parametrize("what", ["stream", "group"])
def test_logs_that_are_missing(aws: EmbeddedAws, jobs: Jobs, what: str) -> None:
    job = jobs.run("print('said')")
    stream = job["container"]["logStreamName"]
    with aws.faults(LogsMissing(what=what, stream=stream)), pytest.raises(ClientError) as caught:
        jobs.lines(job)
    assert code(caught) == ("ResourceNotFoundException", 400)
    assert caught.value.response["Error"]["Message"] == f"The specified log {what} does not exist."
    assert jobs.lines(job) == ["said"]


# --- adding and ending ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (S3Error(error="Teapot"), "s3-error: no error 'Teapot'; there are AccessDenied, "),
        (BatchRefusal(error="x"), "batch-refusal: no error 'x'; there are TooMany"),
        (LogsMissing(what="x"), "'stream' or 'group', not 'x'"),
        (JobStuck(probability=2), "probability is between 0 and 1, not 2"),
        (JobStuck(skip=-1), "job-stuck: skip cannot be -1"),
        (S3Slow(bytes_per_second=0), "bytes_per_second is more than 0"),
    ],
)
def test_values_that_a_fault_does_not_take(faulty_aws: EmbeddedAws, fault: Fault, text: str) -> None:
    with pytest.raises(FaultError, match=re.escape(text)), faulty_aws.faults(fault):
        pass
    with pytest.raises(FaultError, match=re.escape(text)):
        kinds.from_raw(kinds.to_raw(fault))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({}, "no fault None; there are s3-error, "),
        ({"kind": "s3-cut", "where": 1}, "s3-cut has no 'where'; it has skip, times, "),
        ({"kind": "s3-cut", "after_bytes": "1"}, "s3-cut: after_bytes cannot be '1'"),
        ({"kind": "s3-error"}, "s3-error: "),
    ],
)
def test_what_is_no_fault(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(FaultError, match=re.escape(text)):
        kinds.from_raw(raw)


@pytest.mark.parametrize("kind", kinds.KINDS.values(), ids=kinds.KINDS)
def test_every_fault_goes_over_the_wire(kind: type[Fault]) -> None:
    needed = {S3Error: {"error": "SlowDown"}, JobEnds: {"exit_code": 1}}.get(kind, {})  # type: ignore[call-overload]
    fault = kind(**needed, times=3, probability=0.5)
    assert kinds.from_raw(kinds.to_raw(fault)) == fault
    assert kinds.describe(fault).startswith(f"{kinds.name_of(fault)} --times 3 --probability 0.5")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    def run(*words: str) -> tuple[int, list[str]]:
        code = main(["local", "fault", *words])
        done = capsys.readouterr()
        return code, (done.out + done.err).splitlines()

    return run


def test_the_command_line(aws: EmbeddedAws, jobs: Jobs, command: Any, tmp_path: Path) -> None:
    where = ("--state-dir", str(aws.state.path))
    code, (added,) = command("add", "job-stuck", *where, "--job", "cli-*", "--times", "1")
    assert code == 0
    job_id = jobs.submit("pass", name="cli-1")
    assert jobs.run("pass", name="cli-2")["status"] == "SUCCEEDED"
    assert command("list", *where) == (0, [f"{added}  hit 1 of 2  job-stuck --times 1 --job cli-*"])
    unknown = command("clear", *where, "no-such-fault")
    assert unknown == (2, ["not in force: no-such-fault; `list` says what is"])
    assert command("clear", *where) == (0, [added])
    assert jobs.wait(job_id)["status"] == "SUCCEEDED"
    assert command("list", *where) == (0, [])
    assert command("clear", *where) == (0, ["none in force"])
    code, lines = command("add", "s3-error", *where, "--error", "SlowDown")
    assert code == 2
    assert "start it with `airflow-batch-ros local up --s3-faults`" in lines[0]
    code, lines = command("list", "--state-dir", str(tmp_path))
    assert code == 3
    assert lines[0].startswith("no embedded AWS runs over")
