"""Objects by URI, on S3 and on this machine's disk: one small set of verbs, one set of errors.

S3 errors are translated here and nowhere else. What S3 promises is what the engine builds on: a put is
all or nothing, a conditional put has one winner, a listing shows what was put before it.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 8 << 20
"""Size of the first parts of a multipart upload; what is smaller is put in one request."""

PARTS_OF_A_SIZE = 500
"""Parts after which they grow by `PART_BYTES`: S3 takes 10,000 of them, which so can hold 840 GB."""

UPLOAD_MEMORY_BYTES = 128 << 20
"""What the uploads of one `S3Storage` together hold in memory; what waits beyond it is on scratch disk."""

CLIENT_ATTEMPTS = 8
"""Tries of one request, by the client itself, with growing waits."""

READ_BYTES = 8 << 20
"""Size of ranged reads; one is in flight ahead of the reader."""


class StorageError(OSError):
    """A store did not do what was asked; the message names the URI."""


class NotFoundError(StorageError, FileNotFoundError):
    """There is no such object or bucket."""


class AccessDeniedError(StorageError, PermissionError):
    """The store refused access."""


class ExistsError(StorageError, FileExistsError):
    """A conditional put found the object already there."""


class ChangedError(StorageError):
    """The object is no longer the one that was asked for."""


class TransientError(StorageError):
    """Throttling, a server error or the network, after the client's own retries: a later try may work."""


class LocationError(StorageError, ValueError):
    """A path or URI that names no place, or one that is not supported."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object: its URI, size and ETag (on disk: size and time of modification)."""

    uri: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that nobody published or aborted. ``upload_id`` is S3's; on disk ``uri`` is the file."""

    uri: str
    upload_id: str


class Source(Protocol):
    """An object opened for reading; see ``ros_to_parquet.bag.model.RandomAccess``."""

    @property
    def size(self) -> int: ...
    @property
    def name(self) -> str: ...
    def read_at(self, offset: int, length: int) -> bytes: ...
    def local_path(self) -> str: ...
    def close(self) -> None: ...


class Upload(Protocol):
    """An object being written; it is not there until ``publish``, and never after ``abort``.

    ``abort`` may follow a ``publish``, done or failed; it does not take back one that is done.
    """

    uri: str
    size_bytes: int

    def write(self, data: Any) -> int: ...
    def publish(self) -> None: ...
    def abort(self) -> None: ...


class Storage(Protocol):
    """Verbs on URIs. All raise `StorageError` or one of its kinds."""

    def head(self, uri: str) -> ObjectInfo: ...
    def read(self, uri: str) -> bytes: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def create(self, uri: str, data: bytes) -> None:
        """Writes the object unless it exists (`ExistsError`); of two at once one wins."""
        ...

    def delete(self, uri: str) -> None:
        """Deletes the object; no error where there is none."""
        ...

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        """Every object below ``folder`` (a URI; a final slash is implied), in no promised order."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly below ``folder``, sorted."""
        ...

    def open(self, info: ObjectInfo) -> Source:
        """The object for reading; reads raise `ChangedError` when its ETag is no longer ``info``'s."""
        ...

    def upload(self, uri: str) -> Upload: ...
    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        """Uploads below ``folder`` that go on, or whose process was killed (S3 keeps and bills those)."""
        ...

    def end(self, unfinished: Unfinished) -> None:
        """Aborts somebody else's upload; no error if it has ended meanwhile."""
        ...


def join(base: str, key: str) -> str:
    """``base`` (an output URI) and a relative key."""
    return f"{base.rstrip('/')}/{key}"


def normalize(location: str) -> str:
    """A URI or path as a URI this module knows: ``s3://bucket[/key]`` or an absolute path.

    One place has one URI: without ``..``, doubled or final slashes (but links are not followed).

    Raises:
        LocationError: no such place, or one that is not supported.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        return os.path.abspath(Path(location).expanduser())  # noqa: PTH100 (resolve follows links)
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise LocationError(f"{location}: a file URI has three slashes (file:///...), or use a path")
        return os.path.abspath(urllib.parse.unquote(f"/{path}"))  # noqa: PTH100
    if scheme != "s3":
        raise LocationError(f"{location}: no support for {scheme}://; use s3:// or a path")
    if not rest or rest.startswith("/"):
        raise LocationError(f"{location}: names no bucket (s3://bucket/...)")
    return location.rstrip("/")


def open_storage(uri: str) -> Storage:
    """The storage that ``uri`` lives on."""
    return S3Storage() if uri.startswith("s3://") else LocalStorage()


# --- this machine -----------------------------------------------------------------------------------


@contextmanager
def _local_errors(path: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except FileExistsError as error:
        raise ExistsError(f"{path}: already there") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{path}: no such file") from error
    except PermissionError as error:
        raise AccessDeniedError(f"{path}: permission denied") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _local_info(path: Path) -> ObjectInfo:
    stat = path.stat()
    return ObjectInfo(str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


class LocalStorage:
    """Files by absolute path."""

    def head(self, uri: str) -> ObjectInfo:
        with _local_errors(uri):
            if Path(uri).is_dir():
                raise NotFoundError(f"{uri}: a folder, not a file")
            return _local_info(Path(uri))

    def read(self, uri: str) -> bytes:
        with _local_errors(uri):
            return Path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        upload = LocalUpload(uri)
        upload.write(data)
        upload.publish()

    def create(self, uri: str, data: bytes) -> None:
        upload = LocalUpload(uri)
        upload.write(data)
        upload.publish(exclusive=True)

    def delete(self, uri: str) -> None:
        with _local_errors(uri):
            Path(uri).unlink(missing_ok=True)
            for folder in Path(uri).parents:
                try:
                    folder.rmdir()
                except OSError:
                    break  # not empty: as on S3, a folder lives as long as what is in it

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        with _local_errors(folder):
            for parent, _, names in os.walk(folder):
                for name in names:
                    path = Path(parent, name)
                    if path.is_file() and not name.startswith(LocalUpload.PARTIAL):
                        with suppress(FileNotFoundError):  # deleted since it was listed
                            yield _local_info(path)

    def folders(self, folder: str) -> list[str]:
        with _local_errors(folder):
            if not Path(folder).is_dir():
                return []
            return sorted(entry.name for entry in Path(folder).iterdir() if entry.is_dir())

    def open(self, info: ObjectInfo) -> LocalSource:
        return LocalSource(info)

    def upload(self, uri: str) -> LocalUpload:
        return LocalUpload(uri)

    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.startswith(LocalUpload.PARTIAL):
                    yield Unfinished(str(Path(parent, name)), "")

    def end(self, unfinished: Unfinished) -> None:
        self.delete(unfinished.uri)


class LocalSource:
    """A file opened for positioned reads."""

    def __init__(self, info: ObjectInfo) -> None:
        with _local_errors(info.uri):
            self._file = Path(info.uri).open("rb")  # noqa: SIM115 (closed by close)
            if info.etag and _local_info(Path(info.uri)).etag != info.etag:
                self._file.close()
                raise ChangedError(f"{info.uri}: changed since it was planned")
        self._info = info
        self.size = os.fstat(self._file.fileno()).st_size

    @property
    def name(self) -> str:
        return self._info.uri

    def read_at(self, offset: int, length: int) -> bytes:
        with _local_errors(self.name):
            data = os.pread(self._file.fileno(), length, offset)
            while 0 < len(data) < length and (
                more := os.pread(self._file.fileno(), length - len(data), offset + len(data))
            ):
                data += more  # one pread stops at 2 GiB
            return data

    def local_path(self) -> str:
        return self.name

    def close(self) -> None:
        self._file.close()


_FOLDER_TRIES = 100


class LocalUpload:
    """A file written beside its place and moved there when published."""

    PARTIAL = ".partial-"

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.size_bytes = 0
        with _local_errors(uri):
            handle, self._partial = self._begin(Path(uri).parent)
            self._file = os.fdopen(handle, "wb")

    def _begin(self, folder: Path) -> tuple[int, str]:
        """A file in the folder, which others may remove while it is empty (`LocalStorage.delete`)."""
        for _ in range(_FOLDER_TRIES):
            with suppress(FileNotFoundError, FileExistsError):
                folder.mkdir(parents=True, exist_ok=True)
                return tempfile.mkstemp(prefix=self.PARTIAL, dir=folder)
        raise NotADirectoryError(f"{folder} cannot be made")

    def write(self, data: Any) -> int:
        with _local_errors(self.uri):
            written = self._file.write(data)
        self.size_bytes += written
        return written

    def publish(self, *, exclusive: bool = False) -> None:
        with _local_errors(self.uri):
            self._file.close()
            Path(self._partial).chmod(0o666 & ~_UMASK)
            if not exclusive:
                Path(self._partial).replace(self.uri)
                return
            try:
                Path(self.uri).hardlink_to(self._partial)
            finally:
                Path(self._partial).unlink()

    def abort(self) -> None:
        with _local_errors(self.uri):
            Path(self._partial).unlink(missing_ok=True)
            with suppress(OSError):  # it writes what it still holds, to a disk that may be full
                self._file.close()


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


_UMASK = _read_umask()


# --- S3 ---------------------------------------------------------------------------------------------

_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NotFound", "404"}
_DENIED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "KMS.DisabledException",
    "KMS.AccessDeniedException",
}
_CONDITION = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"{uri}: {code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
        if code in _CONDITION:
            raise ChangedError(said) from error
        if code in _NOT_FOUND:
            raise NotFoundError(said) from error
        if code == "InvalidObjectState":
            raise AccessDeniedError(f"{uri}: archived (Glacier); restore it first") from error
        if code in _DENIED or status == 403:
            raise AccessDeniedError(said) from error
        if status >= 500 or code in {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout"}:
            raise TransientError(said) from error
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

            retries: Any = {"mode": "standard", "total_max_attempts": CLIENT_ATTEMPTS}
            config = Config(
                retries=retries,
                max_pool_connections=32,
                connect_timeout=10,
                read_timeout=60,
                s3={"addressing_style": "path"} if _has_endpoint() else {},
            )
            _client = boto3.session.Session().client("s3", config=config)
        return _client


def _has_endpoint() -> bool:
    # A server on one address has no bucket.host names to resolve.
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


class S3Storage:
    """Objects by ``s3://bucket/key``."""

    def __init__(self) -> None:
        self._upload_memory = _Memory(UPLOAD_MEMORY_BYTES)

    def head(self, uri: str) -> ObjectInfo:
        bucket, key = split_s3(uri)
        if not key:
            raise NotFoundError(f"{uri}: a bucket, not an object")
        with _s3_errors(uri):
            found = s3_client().head_object(Bucket=bucket, Key=key)
        return ObjectInfo(uri, found["ContentLength"], found["ETag"].strip('"'))

    def read(self, uri: str) -> bytes:
        bucket, key = split_s3(uri)
        with _s3_errors(uri):
            return s3_client().get_object(Bucket=bucket, Key=key)["Body"].read()

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = split_s3(uri)
        with _s3_errors(uri):
            s3_client().put_object(Bucket=bucket, Key=key, Body=data)

    def create(self, uri: str, data: bytes) -> None:
        bucket, key = split_s3(uri)
        try:
            with _s3_errors(uri):
                s3_client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ChangedError as error:
            raise ExistsError(f"{uri}: already there") from error

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
        return S3Source(info)

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


class S3Source:
    """An object read by ranges, the next one in flight while the reader works on the last."""

    _KEPT_RANGES = 3

    def __init__(self, info: ObjectInfo) -> None:
        self._info = info
        self._bucket, self._key = split_s3(info.uri)
        self.size = info.size_bytes
        self._ranges: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="s3-read")
        self._scratch: str | None = None

    @property
    def name(self) -> str:
        return self._info.uri

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        pieces = []
        while offset < end:
            number, start = divmod(offset, READ_BYTES)
            data = self._range(number)
            piece = data[start : start + end - offset] if start or end - offset < len(data) else data
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _range(self, number: int) -> bytes:
        self._request(number)
        data = self._ranges[number].result()
        if number - 1 in self._ranges or number == 0:  # read forward: the next range will be wanted
            self._request(number + 1)
        self._ranges.move_to_end(number)
        while len(self._ranges) > self._KEPT_RANGES:
            self._ranges.popitem(last=False)
        return data

    def _request(self, number: int) -> None:
        if number not in self._ranges and number * READ_BYTES < self.size:
            self._ranges[number] = self._pool.submit(self._fetch, number)

    def _fetch(self, number: int) -> bytes:
        start = number * READ_BYTES
        end = min(start + READ_BYTES, self.size)
        attempts = 3
        while True:
            try:
                return self._get(start, end)
            except ChangedError as error:
                raise ChangedError(f"{self.name}: changed since it was planned") from error
            except TransientError:  # a body cut off in the middle, which the client itself does not repeat
                attempts -= 1
                if not attempts:
                    raise

    def _get(self, start: int, end: int) -> bytes:
        with _s3_errors(self.name):
            condition: Any = {"IfMatch": self._info.etag} if self._info.etag else {}
            answer = s3_client().get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{end - 1}", **condition
            )
            data = answer["Body"].read()
        if len(data) != end - start:
            raise TransientError(f"{self.name}: got {len(data)} of {end - start} bytes at {start}")
        return data

    def local_path(self) -> str:
        if self._scratch is None:
            folder = tempfile.mkdtemp(prefix="ros-to-parquet-")
            self._scratch = str(Path(folder) / Path(self._key).name)
            with _local_errors(self._scratch), Path(self._scratch).open("wb") as file:
                for start in range(0, self.size, READ_BYTES):
                    file.write(self.read_at(start, READ_BYTES))
        return self._scratch

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._scratch is not None:
            shutil.rmtree(Path(self._scratch).parent, ignore_errors=True)
            self._scratch = None


class _Memory:
    """An amount of memory that threads share."""

    def __init__(self, size_bytes: int) -> None:
        self._left_bytes = size_bytes
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Whether there is as much left; it is taken then."""
        with self._lock:
            if size_bytes > self._left_bytes:
                return False
            self._left_bytes -= size_bytes
            return True

    def give(self, size_bytes: int) -> None:
        with self._lock:
            self._left_bytes += size_bytes


class _Part:
    """Bytes that wait to be sent: in memory while there is room, else in a temporary file."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self._taken_bytes = 0
        self._file: BinaryIO = io.BytesIO()
        self.size_bytes = 0

    def write(self, data: Any) -> None:
        size_bytes = memoryview(data).nbytes
        if isinstance(self._file, io.BytesIO):
            if self._memory.take(size_bytes):
                self._taken_bytes += size_bytes
            else:
                self._spill()
        with _local_errors(tempfile.gettempdir()):
            self._file.write(data)
        self.size_bytes += size_bytes

    def _spill(self) -> None:
        held = self.read()
        self.clear()
        with _local_errors(tempfile.gettempdir()):
            self._file = tempfile.TemporaryFile(prefix="ros-to-parquet-")  # noqa: SIM115 (closed by clear)
            self._file.write(held)
        self.size_bytes = len(held)

    def read(self) -> bytes:
        """All of it."""
        with _local_errors(tempfile.gettempdir()):
            self._file.seek(0)
            return self._file.read()

    def clear(self) -> None:
        self._file.close()
        self._file = io.BytesIO()
        self._memory.give(self._taken_bytes)
        self._taken_bytes = self.size_bytes = 0


class S3Upload:
    """One put where what is written is small; else a multipart upload that ``publish`` completes."""

    def __init__(self, uri: str, memory: _Memory) -> None:
        self.uri = uri
        self.size_bytes = 0
        self._bucket, self._key = split_s3(uri)
        self._part = _Part(memory)
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
        with _s3_errors(self.uri):
            s3_client().complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                MultipartUpload={
                    "Parts": [
                        {"ETag": etag, "PartNumber": number}
                        for number, etag in enumerate(self._etags, start=1)
                    ]
                },
            )
        self._upload_id = None

    def abort(self) -> None:
        self._part.clear()
        if self._upload_id is not None:
            _abort_multipart(self.uri, self._upload_id)
            self._upload_id = None


def _abort_multipart(uri: str, upload_id: str) -> None:
    bucket, key = split_s3(uri)
    with _s3_errors(uri), suppress(s3_client().exceptions.NoSuchUpload):
        s3_client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
