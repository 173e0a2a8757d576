"""Any filesystem that pyarrow or fsspec opens, as a storage.

Promises, by what the filesystem gives:

- A put is all or nothing: at once where the store's own put is, else to a hidden file that is then moved.
- An upload is on scratch disk until it is published, so that nothing is there of one that was killed.
- Of two that create an object at once, one wins where the store has a conditional put and fsspec's
  implementation of it makes use of that (``gcs://``, ``az://``), and always within one process. Elsewhere
  the object is looked for and then put: two processes at the very same moment may both win.
- An object is known by its ETag or checksum where the filesystem has one, else by size and time of
  modification; what was read is checked against it.
"""

from __future__ import annotations

import errno
import io
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol

from ros_to_parquet.memory import DEFAULT_BUDGET
from ros_to_parquet.storage.model import (
    AccessDeniedError,
    ChangedError,
    ExistsError,
    LocationError,
    NotFoundError,
    ObjectInfo,
    StorageError,
    TransientError,
    Unfinished,
)
from ros_to_parquet.storage.ranges import READ_BYTES, RangeSource
from ros_to_parquet.storage.scratch import Memory, Spool

HIDDEN = ".partial-"
"""What the names of files begin with that are not published yet."""

_PUT_TRIES = 5

Fetch = Callable[[int, int], bytes]


class Files(Protocol):
    """A filesystem by URI. Its errors are whatever it raises; see `filesystem_errors`."""

    puts_whole: bool
    """Whether what is put is not visible before all of it is there."""

    def stat(self, uri: str) -> ObjectInfo:
        """Raises `FileNotFoundError` where there is no file."""
        ...

    def reader(self, uri: str) -> Fetch:
        """A function that gives the bytes from a start to an end, from several threads."""
        ...

    def files(self, folder: str) -> Iterator[ObjectInfo]: ...
    def folders(self, folder: str) -> Iterator[str]:
        """Names of the folders directly in it."""
        ...

    def put(self, uri: str, data: BinaryIO) -> None:
        """Writes the file; ``data`` is at its start, and is a file on disk or an ``io.BytesIO``."""
        ...

    def create(self, uri: str, data: bytes) -> None:
        """As `put`; raises `FileExistsError` where the filesystem finds one there."""
        ...

    def move(self, uri: str, target: str) -> None: ...
    def delete(self, uri: str) -> None: ...


_TRANSIENT_STATUS = {408, 425, 429}
_TRANSIENT_WORDS = (
    "NETWORK_CONNECTION",
    "SLOW_DOWN",
    "SERVICE_UNAVAILABLE",
    "INTERNAL_FAILURE",
    "REQUEST_TIMEOUT",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "timed out",
    "Couldn't connect",
    "Server disconnected",
)
_NETWORK_ERRNO = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
}
_DENIED_WORDS = ("ACCESS_DENIED", "PERMISSION_DENIED", "UNAUTHENTICATED", "SIGNATURE_DOES_NOT_MATCH")


@contextmanager
def filesystem_errors(uri: str) -> Iterator[None]:
    """Whatever a filesystem raises as the kind of `StorageError` that it means."""
    try:
        yield
    except (StorageError, MemoryError):
        raise
    except Exception as error:
        raise _translated(uri, error) from error


def _translated(uri: str, error: Exception) -> StorageError:
    cause = error.__cause__
    # fsspec's HTTP says "not found" of all that fails, with what it was as the cause.
    meant: BaseException = cause if cause and (_status(cause) or isinstance(cause, OSError)) else error
    said = f"{uri}: {str(meant) or type(meant).__name__}"
    status = _status(meant)
    if status in (401, 403) or isinstance(meant, PermissionError):
        return AccessDeniedError(f"{uri}: access denied ({meant})")
    if status in (404, 410) or isinstance(meant, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return NotFoundError(f"{uri}: no such file")
    if status == 412:
        return ChangedError(said)
    if isinstance(meant, FileExistsError):
        return ExistsError(f"{uri}: already there")
    if status in _TRANSIENT_STATUS or status >= 500 or _is_network(meant):
        return TransientError(said)
    if any(word in said for word in _DENIED_WORDS):
        return AccessDeniedError(said)
    if any(word in said for word in _TRANSIENT_WORDS):
        return TransientError(said)
    return StorageError(said)


def _is_network(error: BaseException) -> bool:
    return isinstance(error, (ConnectionError, TimeoutError)) or (
        isinstance(error, OSError) and error.errno in _NETWORK_ERRNO
    )


def _status(error: BaseException) -> int:
    """The HTTP status that an error of one of the client libraries carries; 0 for none."""
    for name in ("status", "status_code", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return 0


class FileSystemStorage:
    """Objects of one filesystem, by URI."""

    _creating = threading.Lock()

    def __init__(
        self,
        files: Files,
        *,
        upload_memory_bytes: int = DEFAULT_BUDGET.upload,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._files = files
        self._upload_memory = Memory(upload_memory_bytes)
        self._read_bytes = read_bytes

    def head(self, uri: str) -> ObjectInfo:
        with filesystem_errors(uri):
            return self._files.stat(uri)

    def read(self, uri: str) -> bytes:
        with filesystem_errors(uri):
            info = self._files.stat(uri)
            return self._files.reader(uri)(0, info.size_bytes) if info.size_bytes else b""

    def write(self, uri: str, data: bytes) -> None:
        self._put(uri, io.BytesIO(data))

    def create(self, uri: str, data: bytes) -> None:
        with self._creating:
            with suppress(NotFoundError):
                self.head(uri)
                raise ExistsError(f"{uri}: already there")
            if not self._files.puts_whole:
                self._put(uri, io.BytesIO(data))
                return
            try:
                with filesystem_errors(uri):
                    self._files.create(uri, data)
            except ChangedError as error:  # a conditional put that another one has preceded
                raise ExistsError(f"{uri}: already there") from error

    def delete(self, uri: str) -> None:
        with suppress(NotFoundError), filesystem_errors(uri):
            self._files.delete(uri)

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        with filesystem_errors(folder):
            for info in self._files.files(folder):
                if not PurePosixPath(info.uri).name.startswith(HIDDEN):
                    yield info

    def folders(self, folder: str) -> list[str]:
        with filesystem_errors(folder):
            return sorted(self._files.folders(folder))

    def open(self, info: ObjectInfo) -> RangeSource:
        with filesystem_errors(info.uri):
            fetch = self._files.reader(info.uri)

        def checked(start: int, end: int) -> bytes:
            with filesystem_errors(info.uri):
                try:
                    data = fetch(start, end)
                except FileNotFoundError:  # of the version that was opened: there may be another
                    data = None
                now = self._files.stat(info.uri)
            if data is None or now.size_bytes != info.size_bytes or (info.etag and now.etag != info.etag):
                raise ChangedError(f"{info.uri}: changed since it was planned")
            return data

        name = PurePosixPath(info.uri.partition("?")[0]).name
        return RangeSource(info, checked, file_name=name, read_bytes=self._read_bytes)

    def upload(self, uri: str) -> FileSystemUpload:
        return FileSystemUpload(uri, self._put, self._upload_memory)

    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        with filesystem_errors(folder):
            for info in self._files.files(folder):
                if PurePosixPath(info.uri).name.startswith(HIDDEN):
                    yield Unfinished(info.uri, "")

    def end(self, unfinished: Unfinished) -> None:
        self.delete(unfinished.uri)

    def _put(self, uri: str, data: BinaryIO) -> None:
        if self._files.puts_whole:
            self._put_or_nothing(uri, data)
            return
        folder, _, name = uri.rpartition("/")
        for left in range(_PUT_TRIES, 0, -1):
            hidden = f"{folder}/{HIDDEN}{uuid.uuid4().hex[:12]}-{name}"
            data.seek(0)
            self._put_or_nothing(hidden, data)
            try:
                self._move(hidden, uri)
                return
            except NotFoundError:  # somebody's sweep took it for a dead process'
                if left == 1:
                    raise
            except StorageError:
                with suppress(StorageError):
                    self.delete(hidden)
                raise

    def _put_or_nothing(self, uri: str, data: BinaryIO) -> None:
        try:
            with filesystem_errors(uri):
                self._files.put(uri, data)
        except BaseException as error:
            # Cut off in the middle by a signal, a stream that is closed may leave what was sent so far.
            if not isinstance(error, StorageError):
                self.delete(uri)
            raise

    def _move(self, uri: str, target: str) -> None:
        try:
            with filesystem_errors(target):
                self._files.move(uri, target)
        except StorageError:
            with suppress(NotFoundError):
                self.head(target)  # some filesystems do not move a file onto another
                self.delete(target)
                with filesystem_errors(target):
                    self._files.move(uri, target)
                return
            raise


class FileSystemUpload:
    """An object that waits in memory or on scratch disk, and is put when it is published."""

    def __init__(self, uri: str, put: Callable[[str, BinaryIO], None], memory: Memory) -> None:
        self.uri = uri
        self.size_bytes = 0
        self._put = put
        self._spool = Spool(memory)

    def write(self, data: Any) -> int:
        before = self._spool.size_bytes
        self._spool.write(data)
        written = self._spool.size_bytes - before
        self.size_bytes += written
        return written

    def publish(self) -> None:
        self._put(self.uri, self._spool.rewound())
        self._spool.clear()

    def abort(self) -> None:
        self._spool.clear()


def refuse_passwords(location: str, authority: str) -> None:
    """Raises `LocationError` where a URI has a password, which would be kept in plans and logs."""
    user, at, host = authority.rpartition("@")
    if at and ":" in user:
        raise LocationError(
            f"{location.replace(authority, f'...@{host}')}: a password in a URI would be written into plans "
            "and logs; give it as fsspec's configuration does (~/.config/fsspec)"
        )
