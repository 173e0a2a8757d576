"""SIGTERM at given moments of a shard: real processes that get the signal in the middle of a step."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ros_to_parquet
from ros_to_parquet import contract, run, termination
from ros_to_parquet.contract import ExitCode, ExtractOptions, Manifest, Plan
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.storage import READ_BYTES, join, open_storage
from tests.engine.sample_bags import write_mcap

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

MESSAGES = 24
MESSAGE_BYTES = 1 << 20
LARGE_BYTES = 12 << 20
"""Of a message that is encoded alone."""

AT = """
import functools, importlib, os, signal, sys
from ros_to_parquet import cli

def signal_at(place, when):
    module, _, name = place.partition(":")
    target = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        target = getattr(target, part)
    step = getattr(target, last)

    @functools.wraps(step)
    def signalled(*arguments, **named):
        if when == "before":
            os.kill(os.getpid(), signal.SIGTERM)
        result = step(*arguments, **named)
        if when == "after":
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    setattr(target, last, signalled)

for step in sys.argv[1].split():
    signal_at(*step.split("="))
sys.exit(cli.main(sys.argv[2:]))
"""

RUN = "ros_to_parquet.run"
READING = "ros_to_parquet.reading"
EXTRACTION = "ros_to_parquet.extraction"
LOCAL = "ros_to_parquet.storage.local"
S3 = "ros_to_parquet.storage.s3"
PARQUET = "ros_to_parquet.parquet"

UNPUBLISHED = {
    "as it starts": f"{RUN}:JobIdentity.from_environment=after",
    "record of its start": f"{RUN}:check_lease=after",
    "bag opened": f"{READING}:open_bag=after",
    "block decoded": f"{EXTRACTION}:Extraction.add=after",
    "rows put aside": f"{PARQUET}:RowScratch.write=after",
    "row group encoded": f"{PARQUET}:TableFile.encode=after",
    "all files ended": f"{PARQUET}:TableWriters.finish=after",
    "large row encoded": f"{PARQUET}:_LargeScratch.hand_on=before",
    "file begun": f"{LOCAL}:tempfile.mkstemp=after",
    "given up already": f"{EXTRACTION}:Extraction.add=after {PARQUET}:TableFile.abort=before",
}
PUBLISHED = {
    "files published": f"{PARQUET}:_publish=before",
    "manifest made": f"{RUN}:_manifest=after",
    "drive committed": "ros_to_parquet.lake:commit_drive=before",
}


ON_S3 = {
    "part sent": f"{S3}:S3Upload._send_part=after",
    "part to be sent": f"{S3}:S3Upload._send_part=before",
    "block decoded": UNPUBLISHED["block decoded"],
    "upload ended": f"{EXTRACTION}:Extraction.add=after {S3}:_abort_multipart=before",
}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of noise, one of them large: several row groups and parts of an upload, at the least limit."""
    rng = np.random.default_rng(5)
    sizes = [LARGE_BYTES if number == MESSAGES // 2 else MESSAGE_BYTES for number in range(MESSAGES)]
    payloads = [b"\0\1\0\0" + bytes(8) + size.to_bytes(4, "little") + rng.bytes(size) for size in sizes]
    return write_mcap(tmp_path_factory.mktemp("bag") / "a.mcap", "std_msgs/msg/UInt8MultiArray", payloads)


def planned(bag: Path | str, output: str) -> Plan:
    return make_plan(
        [str(bag)],
        output=output,
        drive_id="drive_1",
        options=ExtractOptions(),
        overwrite=False,
        take_over=False,
    )


def run_command(plan: Plan) -> list[str]:
    uri = join(plan.output, contract.plan_key(plan.drive_id, plan.plan_id))
    return ["run", "--plan", uri, "--memory-limit", "128MiB"]


def ended_at(steps: str, plan: Plan, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The shard of ``plan`` in a process that gets SIGTERM when it takes ``steps`` (module:name=before).

    Whatever it leaves on scratch disk is an error.
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", AT, steps, *run_command(plan)],
        env={**os.environ, **environment, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert list(scratch.iterdir()) == []
    return done


def check_said(done: subprocess.CompletedProcess[str]) -> None:
    """It says why it ended, and nothing that looks like a fault."""
    assert done.returncode == ExitCode.RETRY, done.stderr
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("failed", 75)
    assert "ended by SIGTERM" in last["reason"]
    assert "Traceback" not in done.stderr


def files_of(plan: Plan) -> tuple[set[str], Manifest | None]:
    """Parquet files in the lake, and the shard's manifest."""
    storage = open_storage(plan.output)
    uris = {info.uri for info in storage.objects(plan.output)}
    manifest_uri = join(plan.output, contract.manifest_key(plan.drive_id, plan.plan_id, 0))
    manifest = None
    if manifest_uri in uris:
        manifest = contract.from_json(Manifest, storage.read(manifest_uri), where=manifest_uri)
    return {uri for uri in uris if uri.endswith(".parquet")}, manifest


def check_lake(plan: Plan, *, published: bool) -> None:
    """All of the shard or nothing is there, nothing is half there, and it can be run again."""
    files, manifest = files_of(plan)
    assert list(open_storage(plan.output).unfinished(plan.output)) == []
    assert (manifest is not None) == published
    named = (
        {join(plan.output, file.path) for topic in manifest.topics for file in topic.files}
        if manifest
        else set()
    )
    assert files == named
    run.run_shard(plan, 0, run.JobIdentity("", 2, ""))
    assert ros_to_parquet.open(plan.output).dataset("topic").count_rows() == MESSAGES


@pytest.mark.parametrize("step", UNPUBLISHED.values(), ids=UNPUBLISHED)
def test_before_it_is_published_nothing_is_left(bag: Path, tmp_path: Path, step: str) -> None:
    plan = planned(bag, str(tmp_path / "lake"))
    check_said(ended_at(step, plan, tmp_path))
    check_lake(plan, published=False)


@pytest.mark.parametrize("step", PUBLISHED.values(), ids=PUBLISHED)
def test_what_is_being_published_is_published_whole(bag: Path, tmp_path: Path, step: str) -> None:
    plan = planned(bag, str(tmp_path / "lake"))
    check_said(ended_at(step, plan, tmp_path))
    check_lake(plan, published=True)


@pytest.mark.parametrize(
    ("step", "published"),
    [*((step, False) for step in ON_S3.values()), (PUBLISHED["files published"], True)],
    ids=[*ON_S3, "files published"],
)
def test_on_s3_no_upload_is_left(
    bag: Path,
    tmp_path: Path,
    embedded_aws: EmbeddedAws,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    published: bool,
) -> None:
    environment = embedded_aws.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ros_to_parquet.storage.s3._client", None)
    bucket = f"ended-{uuid.uuid4().hex[:12]}"
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    plan = planned(bag, f"s3://{bucket}/lake")
    check_said(ended_at(step, plan, tmp_path, **environment))
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    check_lake(plan, published=published)


class Stalled(BaseHTTPRequestHandler):
    """S3 with one object, which stops answering after the first ranges of it."""

    data = b""
    answers = 2
    asked_for_more = threading.Event()
    over = threading.Event()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        start, end = (int(digits) for digits in re.findall(r"\d+", self.headers["Range"]))
        if start >= self.answers * READ_BYTES:
            self.asked_for_more.set()
            self.over.wait()
            self.close_connection = True
            return
        part = self.data[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.send_header("ETag", '"1"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stalled(bag: Path) -> Iterator[str]:
    Stalled.data = bag.read_bytes()
    Stalled.asked_for_more.clear()
    Stalled.over.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalled)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Stalled.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_store_that_does_not_answer_is_not_waited_for(
    stalled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"AWS_ENDPOINT_URL_S3": stalled, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ros_to_parquet.storage.s3._client", None)
    plan = planned("s3://bucket/a.mcap", str(tmp_path / "lake"))
    child = subprocess.Popen(
        [sys.executable, "-m", "ros_to_parquet", *run_command(plan)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert Stalled.asked_for_more.wait(60)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    check_said(subprocess.CompletedProcess([], child.returncode, "", said))
    files, manifest = files_of(plan)
    assert (files, manifest) == (set(), None)
    assert list(open_storage(plan.output).unfinished(plan.output)) == []


def test_deferred_ends_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: nested, and in a thread, which no signal interrupts."""
    monkeypatch.setattr(termination, "PATIENCE_S", 3600)
    before = signal.getsignal(signal.SIGTERM)
    termination.listen()
    passed = []
    try:
        with pytest.raises(termination.TerminatedError), termination.deferred():
            with termination.deferred():
                signal.raise_signal(signal.SIGTERM)
                passed.append("inner")
            thread = threading.Thread(target=lambda: passed.extend(_deferred_in_a_thread()))
            thread.start()
            thread.join()
            signal.raise_signal(signal.SIGTERM)
            passed.append("outer")
        assert passed == ["inner", "thread", "outer"]
        with termination.deferred():  # told once is told
            pass
        with pytest.raises(termination.TerminatedError):
            termination.check()
        termination.listen()
        with pytest.raises(termination.TerminatedError) as ended, termination.deferred():
            signal.raise_signal(signal.SIGTERM)
            raise OSError("what was being done has failed, too")
        assert isinstance(ended.value.__context__, OSError)
    finally:
        termination.listen()
        signal.signal(signal.SIGTERM, before)


def _deferred_in_a_thread() -> list[str]:
    with termination.deferred():
        return ["thread"]
