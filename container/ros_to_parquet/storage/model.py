"""What every storage is: a small set of verbs on URIs, and one set of errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa


class StorageError(OSError):
    """A store did not do what was asked; the message names the URI."""


class NotFoundError(StorageError, FileNotFoundError):
    """There is no such object or bucket."""


class AccessDeniedError(StorageError, PermissionError):
    """The store refused access."""


class NotAFileError(NotFoundError):
    """What is there is a folder, a pipe or a device."""


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


@runtime_checkable
class NativeUpload(Upload, Protocol):
    """An upload that Arrow can write to itself: through ``write`` it copies every page."""

    def native(self) -> pa.NativeFile:
        """What is to be written to instead of ``write``; `wrote` ends it. Its errors are the system's."""
        ...

    def wrote(self, size_bytes: int) -> None:
        """Notes that all is written, and how much."""
        ...


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
