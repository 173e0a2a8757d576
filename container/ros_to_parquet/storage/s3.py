"""S3, by boto3. Its errors are translated here and nowhere else.

What S3 promises is what the engine builds on: a put is all or nothing, a conditional put has one winner,
a listing shows what was put before it.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ros_to_parquet import contract, termination
from ros_to_parquet.memory import DEFAULT_BUDGET
from ros_to_parquet.storage.model import (
    AccessDeniedError,
    ChangedError,
    ExistsError,
    NotFoundError,
    ObjectInfo,
    StorageError,
    TransientError,
    Unfinished,
)
from ros_to_parquet.storage.ranges import READ_BYTES, RangeSource
from ros_to_parquet.storage.scratch import Memory, Spool

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 8 << 20
"""Size of the first parts of a multipart upload; what is smaller is put in one request."""

PARTS_OF_A_SIZE = 500
"""Parts after which they grow by `PART_BYTES`: S3 takes 10,000 of them, which so can hold 840 GB."""

CLIENT_ATTEMPTS = 8
"""Tries of one request, by the client itself, with growing waits; ``AWS_MAX_ATTEMPTS`` says otherwise."""

CONFLICT_TRIES = 5
"""Of a conditional put that another one of the same object is in the way of."""

_BODY_TRIES = 5
_READ_BYTES = 1 << 20

REQUEST_PAYER_VARIABLE = "ROS_TO_PARQUET_REQUEST_PAYER"
"""Environment variable: ``requester`` says that who reads pays, as some buckets of bags demand."""

READS = ("HeadObject", "GetObject", "ListObjectsV2")
"""Operations that such a bucket only answers who says so; other buckets do not mind being told."""

_CONFLICT = {"ConditionalRequestConflict", "409"}
_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NotFound", "404"}
_DENIED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
}
_CONDITION = {"PreconditionFailed", "412", *_CONFLICT}


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        message = str(error.response.get("Error", {}).get("Message", ""))
        said = f"{uri}: S3 answered {error.operation_name} with {code}: {message}".rstrip(": .")
        if advice := contract.s3_advice(error.operation_name, code, message):
            said = f"{said}; {advice}"
        if code in _CONDITION:
            raise ChangedError(said) from error
        if code in _NOT_FOUND:
            raise NotFoundError(said) from error
        if status >= 500 or "Throttling" in code or code in ("SlowDown", "RequestTimeout"):  # KMS's too
            raise TransientError(said) from error
        if code in _DENIED or status == 403 or code.startswith("KMS."):
            raise AccessDeniedError(said) from error
        raise StorageError(said) from error
    except aws.NoCredentialsError as error:
        raise AccessDeniedError(f"{uri}: no AWS credentials found") from error
    except (
        aws.PartialCredentialsError,
        aws.CredentialRetrievalError,
        aws.ProfileNotFound,
        aws.SSOError,
        aws.TokenRetrievalError,
    ) as error:
        raise AccessDeniedError(f"{uri}: {error}") from error
    except (
        aws.ConnectionError,
        aws.HTTPClientError,
        aws.IncompleteReadError,
        aws.ResponseStreamingError,
    ) as error:
        raise TransientError(f"{uri}: {error}") from error
    except aws.BotoCoreError as error:
        raise StorageError(f"{uri}: {error}") from error


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


_client_lock = threading.Lock()
_client: S3Client | None = None


def s3_client() -> S3Client:
    """The process' S3 client: credentials, region and endpoint as boto3 finds them."""
    global _client
    with _client_lock:
        if _client is None:
            import boto3
            from botocore.config import Config

            attempts = client_attempts(CLIENT_ATTEMPTS)
            retries: Any = {"mode": "standard", "total_max_attempts": attempts}
            config = Config(
                retries=retries,
                max_pool_connections=32,
                connect_timeout=10,
                read_timeout=60,
                s3={"addressing_style": "path"} if _has_endpoint() else {},
            )
            client = boto3.session.Session().client("s3", config=config)
            if _pays_as_requester():
                for operation in READS:
                    client.meta.events.register(f"provide-client-params.s3.{operation}", _say_who_pays)
            _client = client
        return _client


def client_attempts(default: int) -> int:
    """Tries of one request by a client of boto3's: what ``AWS_MAX_ATTEMPTS`` says, or else ``default``.

    Raises:
        StorageError: it says no number of tries.
    """
    text = os.environ.get("AWS_MAX_ATTEMPTS")
    if not text:
        return default
    if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
        raise StorageError(f"AWS_MAX_ATTEMPTS is {text!r}; it can be a whole number from 1 on, or not set")
    return int(text)


def _pays_as_requester() -> bool:
    value = os.environ.get(REQUEST_PAYER_VARIABLE, "")
    if value not in ("", "requester"):
        raise StorageError(f"{REQUEST_PAYER_VARIABLE} is {value!r}; it can be 'requester', or not set")
    return value == "requester"


def _say_who_pays(params: dict[str, Any], **_: object) -> None:
    params["RequestPayer"] = "requester"


def _has_endpoint() -> bool:
    # A server on one address has no bucket.host names to resolve.
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


class S3Storage:
    """Objects by ``s3://bucket/key``."""

    def __init__(
        self, *, upload_memory_bytes: int = DEFAULT_BUDGET.upload, read_bytes: int = READ_BYTES
    ) -> None:
        self._upload_memory = Memory(upload_memory_bytes)
        self._read_bytes = read_bytes

    def head(self, uri: str) -> ObjectInfo:
        bucket, key = split_s3(uri)
        if not key:
            raise NotFoundError(f"{uri}: a bucket, not an object")
        with _s3_errors(uri):
            found = s3_client().head_object(Bucket=bucket, Key=key)
        return ObjectInfo(uri, found["ContentLength"], found["ETag"].strip('"'))

    def read(self, uri: str) -> bytes:
        bucket, key = split_s3(uri)
        for tries_left in reversed(range(_BODY_TRIES)):
            with _s3_errors(uri):
                answer = s3_client().get_object(Bucket=bucket, Key=key)
                data, whole = _read_body(answer)
            if whole:
                return data
            if tries_left:
                _wait(_BODY_TRIES - tries_left)
        raise TransientError(f"{uri}: the connection was cut each time, after {len(data)} bytes at last")

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = split_s3(uri)
        with _s3_errors(uri):
            s3_client().put_object(Bucket=bucket, Key=key, Body=data)

    def create(self, uri: str, data: bytes) -> None:
        bucket, key = split_s3(uri)
        from botocore.exceptions import ClientError

        for tries_left in reversed(range(CONFLICT_TRIES)):
            try:
                with _s3_errors(uri):
                    s3_client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ChangedError as error:
                refused = error.__cause__
                assert isinstance(refused, ClientError)
                if refused.response["Error"]["Code"] in _CONFLICT and tries_left:
                    _wait(CONFLICT_TRIES - tries_left)
                    continue
                # The answer to a put that was carried out may be lost, and the client's next try refused.
                tried_before = refused.response["ResponseMetadata"].get("RetryAttempts", 0)
                if not (tried_before and self.read(uri) == data):
                    raise ExistsError(f"{uri}: already there") from error
            return

    def delete(self, uri: str) -> None:
        bucket, key = split_s3(uri)
        with _s3_errors(uri):
            s3_client().delete_object(Bucket=bucket, Key=key)

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        bucket, key = split_s3(folder)
        prefix = f"{key.rstrip('/')}/" if key else ""
        with _s3_errors(folder):
            for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield ObjectInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))

    def folders(self, folder: str) -> list[str]:
        bucket, key = split_s3(folder)
        prefix = f"{key.rstrip('/')}/" if key else ""
        pages = s3_client().get_paginator("list_objects_v2")
        with _s3_errors(folder):
            return sorted(
                item["Prefix"].removeprefix(prefix).rstrip("/")
                for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
                for item in page.get("CommonPrefixes", [])
            )

    def open(self, info: ObjectInfo) -> S3Source:
        return S3Source(info, read_bytes=self._read_bytes)

    def upload(self, uri: str) -> S3Upload:
        return S3Upload(uri, self._upload_memory)

    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        bucket, key = split_s3(folder)
        prefix = f"{key.rstrip('/')}/" if key else ""
        with _s3_errors(folder):
            for page in (
                s3_client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
            ):
                for item in page.get("Uploads", []):
                    yield Unfinished(f"s3://{bucket}/{item['Key']}", item["UploadId"])

    def end(self, unfinished: Unfinished) -> None:
        _abort_multipart(unfinished.uri, unfinished.upload_id)


class S3Source(RangeSource):
    """An object read by ranges, all of them of the version that was asked for."""

    def __init__(self, info: ObjectInfo, *, read_bytes: int) -> None:
        self._bucket, self._key = split_s3(info.uri)
        self._condition: Any = {"IfMatch": info.etag} if info.etag else {}
        super().__init__(info, self._get_range, file_name=Path(self._key).name, read_bytes=read_bytes)

    def _get_range(self, start: int, end: int) -> bytes:
        try:
            with _s3_errors(self.name):
                answer = s3_client().get_object(
                    Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{end - 1}", **self._condition
                )
                return _read_body(answer)[0]
        except ChangedError as error:
            raise ChangedError(f"{self.name}: changed since it was planned") from error


class S3Upload:
    """One put where what is written is small; else a multipart upload that ``publish`` completes."""

    def __init__(self, uri: str, memory: Memory) -> None:
        self.uri = uri
        self.size_bytes = 0
        self._bucket, self._key = split_s3(uri)
        self._part = Spool(memory)
        self._upload_id: str | None = None
        self._etags: list[str] = []

    def write(self, data: Any) -> int:
        before = self._part.size_bytes
        self._part.write(data)
        written = self._part.size_bytes - before
        self.size_bytes += written
        if self._part.size_bytes >= PART_BYTES * (1 + len(self._etags) // PARTS_OF_A_SIZE):
            self._send_part()
        return written

    def _send_part(self) -> None:
        with _s3_errors(self.uri):
            if self._upload_id is None:
                with termination.deferred():  # one whose id is not known cannot be ended
                    started = s3_client().create_multipart_upload(Bucket=self._bucket, Key=self._key)
                    self._upload_id = started["UploadId"]
            part = s3_client().upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=len(self._etags) + 1,
                Body=self._part.read(),
            )
        self._etags.append(part["ETag"])
        self._part.clear()

    def publish(self) -> None:
        if self._upload_id is None:
            with _s3_errors(self.uri):
                s3_client().put_object(Bucket=self._bucket, Key=self._key, Body=self._part.read())
            self._part.clear()
            return
        if self._part.size_bytes:
            self._send_part()
        parts: Any = [
            {"ETag": etag, "PartNumber": number} for number, etag in enumerate(self._etags, start=1)
        ]
        try:
            with _s3_errors(self.uri):
                s3_client().complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._key,
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": parts},
                )
        except NotFoundError:
            # The answer to a completion that was carried out may be lost: a second one finds no upload.
            if not self._is_there():
                raise
        self._upload_id = None

    def _is_there(self) -> bool:
        try:
            return S3Storage().head(self.uri).size_bytes == self.size_bytes
        except NotFoundError:
            return False

    def abort(self) -> None:
        self._part.clear()
        if self._upload_id is not None:
            _abort_multipart(self.uri, self._upload_id)
            self._upload_id = None


def _read_body(answer: Any) -> tuple[bytes, bool]:
    """As much of an answer's body as comes, and whether that is all of it."""
    from botocore import exceptions as aws

    pieces: list[bytes] = []
    try:
        while piece := answer["Body"].read(_READ_BYTES):
            pieces.append(piece)
    except (aws.HTTPClientError, aws.IncompleteReadError):
        return b"".join(pieces), False
    return b"".join(pieces), True


def _wait(tried: int) -> None:
    """Seconds, ever more of them."""
    time.sleep(random.uniform(0.5, 1.0) * min(0.1 * 2**tried, 5.0))


def _abort_multipart(uri: str, upload_id: str) -> None:
    bucket, key = split_s3(uri)
    with _s3_errors(uri), suppress(s3_client().exceptions.NoSuchUpload):
        s3_client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
