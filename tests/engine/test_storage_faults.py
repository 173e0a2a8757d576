"""The engine over an S3 that fails: each error in words, what passes survived, and no bag blamed for it."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ros_to_parquet
from airflow_batch_ros.local import Fault, S3Cut, S3Error, S3LostAnswer, S3StaleListing
from airflow_batch_ros.local.faults import S3_ERRORS
from ros_to_parquet import cli, contract
from ros_to_parquet.contract import ExitCode, s3_advice
from ros_to_parquet.storage import (
    AccessDeniedError,
    ChangedError,
    ExistsError,
    NotFoundError,
    S3Storage,
    StorageError,
    TransientError,
    join,
    ranges,
)
from ros_to_parquet.storage import s3 as s3_module
from tests.engine.sample_bags import write_bag

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

_clients: dict[int, Any] = {}
"""By how often they try: making one takes longer than most tests here."""

MESSAGES = 160
PART_BYTES = 100_000


@pytest.fixture
def s3(faulty_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """The faulty S3 as this process' own; a function that sets how often a client tries."""
    for name, value in faulty_aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranges, "_WAIT_S", 0.001)
    monkeypatch.setattr(s3_module, "_wait", lambda tried: None)

    def try_(attempts: int) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts))
        monkeypatch.setattr(s3_module, "_client", _clients.get(attempts))
        _clients[attempts] = s3_module.s3_client()

    try_(1)
    return try_


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", PART_BYTES)


@pytest.fixture(scope="module")
def bucket(faulty_aws: EmbeddedAws) -> str:
    faulty_aws.ensure_buckets("faulty-engine")
    return "faulty-engine"


@pytest.fixture
def base(bucket: str, s3: Any) -> str:
    return f"s3://{bucket}/{uuid.uuid4().hex[:12]}"


def _upload(storage: S3Storage, uri: str, size: int) -> None:
    upload = storage.upload(uri)
    upload.write(bytes(size))
    upload.publish()


VERBS: dict[str, tuple[str, Callable[[S3Storage, str], Any]]] = {
    "head": ("HeadObject", lambda storage, uri: storage.head(uri)),
    "read": ("GetObject", lambda storage, uri: storage.read(uri)),
    "write": ("PutObject", lambda storage, uri: storage.write(uri, b"new")),
    "create": ("PutObject", lambda storage, uri: storage.create(f"{uri}-2", b"new")),
    "delete": ("DeleteObject", lambda storage, uri: storage.delete(uri)),
    "objects": ("ListObjectsV2", lambda storage, uri: list(storage.objects(uri))),
    "folders": ("ListObjectsV2", lambda storage, uri: storage.folders(uri)),
    "unfinished": ("ListMultipartUploads", lambda storage, uri: list(storage.unfinished(uri))),
    "publish": ("PutObject", lambda storage, uri: _upload(storage, uri, 10)),
    "begin parts": ("CreateMultipartUpload", lambda storage, uri: _upload(storage, uri, PART_BYTES)),
    "part": ("UploadPart", lambda storage, uri: _upload(storage, uri, PART_BYTES)),
    "complete": ("CompleteMultipartUpload", lambda storage, uri: _upload(storage, uri, PART_BYTES)),
}
ERRORS: dict[str, tuple[type[StorageError], str]] = {
    "AccessDenied": (AccessDeniedError, r"; let the role that asks do s3:\w+"),
    "KMSAccessDenied": (AccessDeniedError, r"KMS key .* let the role that asks do kms:\w+ with that key"),
    "KMSDisabled": (AccessDeniedError, r"KMS key that it is encrypted with cannot be used: enable it"),
    "InvalidObjectState": (AccessDeniedError, r"archived \(Glacier\): restore it first .*, then run again"),
    "ExpiredToken": (AccessDeniedError, r"check the credentials"),
    "NoSuchKey": (NotFoundError, "NoSuchKey"),
    "NoSuchBucket": (NotFoundError, "check the bucket's name"),
    "PreconditionFailed": (ChangedError, "PreconditionFailed"),
    "InternalError": (TransientError, "InternalError"),
    "ServiceUnavailable": (TransientError, "ServiceUnavailable"),
    "SlowDown": (TransientError, "SlowDown: Please reduce your request rate"),
}


OF_A_HEAD: dict[int, tuple[type[StorageError], str]] = {
    400: (StorageError, "check the credentials that are used, their region, and the KMS key"),
    403: (AccessDeniedError, "s3:GetObject, and s3:ListBucket of the bucket"),
    404: (NotFoundError, "Not Found"),
    412: (ChangedError, "Precondition Failed"),
    500: (TransientError, "Internal Server Error"),
    503: (TransientError, "Service Unavailable"),
}
"""An answer without a body says no more."""


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("verb", VERBS)
def test_each_error_of_each_verb_is_of_its_kind_and_in_words(
    faulty_aws: EmbeddedAws, base: str, verb: str
) -> None:
    operation, act = VERBS[verb]
    storage = S3Storage()
    for error, (kind, said) in ERRORS.items():
        uri = join(base, f"x-{error}")
        storage.write(uri, b"before")
        if verb == "head":
            kind, said = OF_A_HEAD[S3_ERRORS[error][0]]
        if (verb, kind) == ("create", ChangedError):
            kind, said = ExistsError, "already there"
        with (
            faulty_aws.faults(S3Error(error=error, operation=operation, key=f"*/x-{error}*")),
            pytest.raises(StorageError) as caught,
        ):
            act(storage, uri)
        assert type(caught.value) is kind, error
        assert str(caught.value).startswith(uri)
        assert re.search(said, str(caught.value))
        assert kind is ExistsError or f": S3 answered {operation} with " in str(caught.value)
        assert storage.read(uri) == b"before", "what is refused changes nothing"
        act(storage, uri)  # it works when that is over


@pytest.mark.parametrize("error", ["InternalError", "ServiceUnavailable", "SlowDown"])
def test_what_passes_is_tried_again(
    faulty_aws: EmbeddedAws, s3: Callable[[int], None], base: str, error: str
) -> None:
    s3(3)
    storage, uri = S3Storage(), join(base, "x")
    storage.write(uri, b"before")
    with faulty_aws.faults(S3Error(error=error, times=2, key="*/x")) as faults:
        assert storage.read(uri) == b"before"
        assert faults.hits() == 2


def test_how_often_is_a_setting_of_boto3s(
    faulty_aws: EmbeddedAws, s3: Callable[[int], None], base: str
) -> None:
    s3(2)
    with faulty_aws.faults(S3Error(error="SlowDown")) as faults:
        with pytest.raises(TransientError):
            S3Storage().head(join(base, "x"))
        assert faults.hits() == 2


# --- bodies that are cut ----------------------------------------------------------------------------


def test_a_body_that_is_cut_goes_on_where_it_ended(faulty_aws: EmbeddedAws, base: str) -> None:
    content = bytes(range(256)) * 16_384
    storage, uri = S3Storage(), join(base, "bag")
    storage.write(uri, content)
    source = storage.open(storage.head(uri))
    with faulty_aws.faults(S3Cut(operation="GetObject", after_bytes=1_000_000)) as faults:
        assert source.read_at(0, len(content)) == content
        assert faults.hits() == 5, "a megabyte each"
        assert source.bytes_fetched == len(content)
    source.close()


def test_a_body_of_which_nothing_comes_is_a_network_that_may_come_back(
    faulty_aws: EmbeddedAws, base: str
) -> None:
    storage, uri = S3Storage(), join(base, "bag")
    storage.write(uri, bytes(1000))
    source = storage.open(storage.head(uri))
    with faulty_aws.faults(S3Cut(operation="GetObject")) as faults:
        with pytest.raises(TransientError, match=f"{uri}: got 0 of 1000 bytes at 0"):
            source.read_at(0, 1000)
        assert faults.hits() == 5
        with pytest.raises(TransientError, match=f"{uri}: the connection was cut each time, after 0 bytes"):
            storage.read(uri)
    source.close()
    with faulty_aws.faults(S3Cut(operation="GetObject", times=4, after_bytes=10)):
        assert storage.read(uri) == bytes(1000)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [1000, 2 * PART_BYTES + 1])
def test_what_is_sent_and_cut_is_sent_again(
    faulty_aws: EmbeddedAws, s3: Callable[[int], None], base: str, size: int
) -> None:
    s3(3)
    with faulty_aws.faults(S3Cut(operation="put", after_bytes=500, times=2)) as faults:
        _upload(S3Storage(), join(base, "x"), size)
        assert faults.hits() == 2
    assert S3Storage().head(join(base, "x")).size_bytes == size


# --- answers that are lost --------------------------------------------------------------------------


def test_a_create_whose_answer_was_lost_is_done(
    faulty_aws: EmbeddedAws, s3: Callable[[int], None], base: str
) -> None:
    s3(3)
    storage = S3Storage()
    with faulty_aws.faults(S3LostAnswer(operation="PutObject", times=1)):
        storage.create(join(base, "lease"), b"mine")
    with faulty_aws.faults(S3LostAnswer(operation="PutObject", times=1)), pytest.raises(ExistsError):
        storage.create(join(base, "lease"), b"of another")
    with pytest.raises(ExistsError):
        storage.create(join(base, "lease"), b"mine")  # it was there before the first try
    assert storage.read(join(base, "lease")) == b"mine"


def test_a_create_that_meets_another_waits_for_its_end(faulty_aws: EmbeddedAws, base: str) -> None:
    storage = S3Storage()
    with faulty_aws.faults(S3Error(error="ConditionalRequestConflict", times=2)) as faults:
        storage.create(join(base, "lease"), b"mine")
        assert faults.hits() == 2
    with faulty_aws.faults(S3Error(error="ConditionalRequestConflict")), pytest.raises(ExistsError):
        storage.create(join(base, "other"), b"mine")


@pytest.mark.usefixtures("small_parts")
def test_an_upload_whose_completion_was_done_and_not_answered_is_published(
    faulty_aws: EmbeddedAws, s3: Callable[[int], None], base: str
) -> None:
    s3(3)
    with faulty_aws.faults(
        S3LostAnswer(operation="CompleteMultipartUpload", times=1),
        S3Error(error="NoSuchUpload", operation="CompleteMultipartUpload", times=1),
    ) as faults:
        _upload(S3Storage(), join(base, "x"), PART_BYTES)
        assert faults.hits() == 2
    assert S3Storage().head(join(base, "x")).size_bytes == PART_BYTES
    with (
        faulty_aws.faults(S3Error(error="NoSuchUpload", operation="CompleteMultipartUpload")),
        pytest.raises(NotFoundError, match="NoSuchUpload"),
    ):
        _upload(S3Storage(), join(base, "other"), PART_BYTES)


# --- bags -------------------------------------------------------------------------------------------


def _bag(folder: Path, name: str) -> bytes:
    path = folder / name
    write_bag(path, messages=MESSAGES)
    return path.read_bytes()


def _zip(folder: Path) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.mcap", _bag(folder, "a.mcap"))
    return held.getvalue()


def _tar(folder: Path) -> bytes:
    held = io.BytesIO()
    data = _bag(folder, "a.bag")
    with tarfile.open(fileobj=held, mode="w:xz") as archive:
        member = tarfile.TarInfo("in/a.bag")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return held.getvalue()


BAGS: dict[str, Callable[[Path], bytes]] = {
    "a.bag": lambda folder: _bag(folder, "a.bag"),
    "a.mcap": lambda folder: _bag(folder, "a.mcap"),
    "a.db3": lambda folder: _bag(folder, "a.db3"),
    "a.mcap.gz": lambda folder: gzip.compress(_bag(folder, "a.mcap")),
    "a.db3.gz": lambda folder: gzip.compress(_bag(folder, "a.db3")),
    "a.zip": _zip,
    "a.tar.xz": _tar,
}


SAMPLE = ("a.bag", "a.db3", "a.zip")
"""One that is read forward, one that is read as a file, one that is read from its end."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SAMPLE else [pytest.mark.long]) for name in BAGS]
)
def test_no_bag_is_damaged_by_a_network_that_cuts(
    faulty_aws: EmbeddedAws,
    base: str,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever its format: all of it where something comes at last, else no manifest and exit code 75."""
    from ros_to_parquet.bag import source

    monkeypatch.setattr(source, "READ_BYTES", 64 << 10)  # else these are read in one request
    monkeypatch.setattr(source, "HEAD_BYTES", 4 << 10)
    monkeypatch.setattr(source, "TAIL_BYTES", 4 << 10)
    storage = S3Storage()
    storage.write(join(base, f"raw/{name}"), BAGS[name](tmp_path))
    lake, key = join(base, "out"), f"*/raw/{name}"
    words = ["extract", join(base, "raw"), "--output", lake, "--drive-id", "d"]
    faults_for_good: list[Fault] = [S3Cut(operation="GetObject", key=key, skip=1)]
    if name == "a.db3":
        faults_for_good.append(S3Error(error="SlowDown", operation="GetObject", key=key, skip=1))
    for fault in faults_for_good:
        with faulty_aws.faults(fault) as faults:
            assert cli.main(words) == ExitCode.RETRY
            assert faults.hits() >= 5
        said = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
        assert f"raw/{name}" in said[-1]["reason"]
        assert [each for each in said if each["event"] in ("bag_damaged", "bag_unreadable")] == []
        assert ros_to_parquet.open(lake).drive("d").manifests == ()
    with faulty_aws.faults(
        S3Cut(operation="GetObject", key=key, after_bytes=7_000, probability=0.5, seed=4)
    ) as faults:
        assert cli.main(words) == ExitCode.OK
        assert faults.hits() > 0
    (manifest,) = ros_to_parquet.open(lake).drive("d").manifests
    assert [bag.status for bag in manifest.bags] == [contract.BagStatus.OK]
    assert sum(topic.rows for topic in manifest.topics) == 4 * MESSAGES


# --- the drive's commit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        S3LostAnswer(operation="PutObject", key="*/drive.json", times=1),
        S3LostAnswer(operation="PutObject", key="*/00000.json", times=1),
        S3LostAnswer(operation="DeleteObject", times=1),
        S3Error(error="SlowDown", operation="DeleteObject", times=1),
        S3Error(error="AccessDenied", operation="ListMultipartUploads"),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{fault.operation}-{fault.key.rpartition('/')[2]}",
)
def test_a_drive_is_committed_once_whatever_is_lost(
    faulty_aws: EmbeddedAws, s3: Callable[[int], None], base: str, tmp_path: Path, fault: Fault
) -> None:
    s3(3)
    write_bag(tmp_path / "a.bag")
    S3Storage().write(join(base, "raw/a.bag"), (tmp_path / "a.bag").read_bytes())
    lake = join(base, "out")
    with faulty_aws.faults(fault) as faults:
        assert cli.main(["extract", join(base, "raw"), "--output", lake, "--drive-id", "d"]) == ExitCode.OK
        assert faults.hits() == 1
    drive = ros_to_parquet.open(lake).drive("d")
    assert len(drive.commits) == len(drive.manifests) == 1
    assert ros_to_parquet.open(lake).dataset("status").count_rows() == 40


def test_a_listing_that_does_not_show_the_drives_manifests_costs_no_file(
    faulty_aws: EmbeddedAws, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What sweeps the drive by such a listing would take its files for nobody's."""
    write_bag(tmp_path / "a.bag")
    storage = S3Storage()
    lake = join(base, "out")
    storage.write(join(base, "raw/a.bag"), (tmp_path / "a.bag").read_bytes())
    words = ["extract", join(base, "raw"), "--output", lake, "--drive-id", "d"]
    manifests = "*/_manifests/drive_id=d/"
    with faulty_aws.faults(S3StaleListing(key=manifests)) as faults:
        assert list(storage.objects(join(lake, "_manifests/drive_id=d"))) == []
        assert cli.main(words) == ExitCode.OK
        assert faults.hits() >= 1
    assert ros_to_parquet.open(lake).dataset("status").count_rows() == 40
    assert "not_swept" in capsys.readouterr().err


def test_advice_is_of_what_was_asked() -> None:
    said = {
        operation: s3_advice(operation, "AccessDenied", "")
        for operation in ("GetObject", "HeadObject", "ListObjectsV2", "UploadPart", "DeleteObject")
    }
    assert [text.split("do ")[1].split(" there")[0].split(",")[0] for text in said.values()] == [
        "s3:GetObject",
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
        "s3:DeleteObject",
    ]
    assert "kms:GenerateDataKey" in s3_advice(
        "UploadPart", "AccessDenied", "not authorized: kms:GenerateDataKey"
    )
    assert "kms:Decrypt" in s3_advice("GetObject", "KMS.AccessDeniedException", "")
    assert s3_advice("GetObject", "SlowDown", "") == ""
