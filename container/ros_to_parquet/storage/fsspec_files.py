"""What fsspec opens: every scheme that it has, or has been given, an implementation of."""

from __future__ import annotations

import io
import posixpath
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from ros_to_parquet.storage.filesystem import Fetch, filesystem_errors
from ros_to_parquet.storage.model import LocationError, NotFoundError, ObjectInfo, StorageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

WEB = frozenset({"http", "https"})

_OBJECT_STORES = frozenset({"gcs", "az", "adl", "oss", "oci", "b2", "memory"})
"""Schemes of stores whose put is all or nothing."""

_CHECKSUMS = ("ETag", "etag", "md5Hash", "md5", "Content-MD5", "content_hash", "checksum", "sha")
_TIMES = (
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "modified",
    "updated",
    "modify",
    "created",
)
"""What filesystems call these in what they say of a file."""


def is_known(scheme: str) -> bool:
    """Whether fsspec knows the scheme; what it needs for it may not be installed."""
    try:
        import fsspec
    except ModuleNotFoundError:
        return True  # who opens it is told
    return scheme in fsspec.available_protocols()


class FsspecFiles:
    """A filesystem of fsspec's. One that is not made for several threads is used by one at a time."""

    def __init__(self, filesystem: AbstractFileSystem, scheme: str) -> None:
        self.puts_whole = scheme in _OBJECT_STORES
        self._filesystem = filesystem
        self._scheme = scheme
        self._lock: AbstractContextManager[Any] = (
            nullcontext() if filesystem.async_impl else threading.RLock()
        )

    @classmethod
    def open(cls, root: str) -> FsspecFiles:
        """The filesystem of a URI without a path.

        Raises:
            LocationError: a package is missing; says which.
        """
        scheme = root.partition("://")[0]
        try:
            import fsspec

            kind = fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            reason = "pip install fsspec" if isinstance(error, ModuleNotFoundError) else str(error)
            raise LocationError(f"{root}: {scheme}:// needs another package: {reason}") from error
        with filesystem_errors(root):
            return cls(kind(**kind._get_kwargs_from_urls(root)), scheme)

    def _path(self, uri: str) -> str:
        return str(self._filesystem._strip_protocol(uri))

    def stat(self, uri: str) -> ObjectInfo:
        with self._lock:
            self._filesystem.invalidate_cache()
            found = self._filesystem.info(self._path(uri))
        if found.get("type") == "directory":
            raise FileNotFoundError(uri)
        return _info(uri, found)

    def reader(self, uri: str) -> Fetch:
        path = self._path(uri)

        def fetch(start: int, end: int) -> bytes:
            with self._lock:
                data: bytes = self._filesystem.cat_file(path, start=start, end=end)
            if len(data) > end - start:
                raise StorageError(
                    f"{uri}: the server gives no parts of a file (range requests); download it"
                )
            return data

        return fetch

    def _list(self, folder: str) -> list[tuple[str, Mapping[str, Any]]]:
        """URIs of what is directly in a folder, and what is said of them; nothing where it is not there."""
        if self._scheme in WEB:
            raise NotFoundError(
                f"{folder}: no such file, or a folder: a web server's files are read one by one, by name"
            )
        path = self._path(folder)
        with self._lock:
            self._filesystem.invalidate_cache()
            try:
                found = self._filesystem.ls(path, detail=True)
            except FileNotFoundError:
                return []
        names = [(str(each["name"]).rstrip("/"), each) for each in found]
        return [
            (f"{folder}/{posixpath.basename(name)}", each)
            for name, each in names
            if name.strip("/") != path.strip("/")
        ]

    def files(self, folder: str) -> Iterator[ObjectInfo]:
        for uri, found in self._list(folder):
            if found["type"] == "directory":
                yield from self.files(uri)
            elif found["type"] == "file":
                yield _info(uri, found)
            else:  # a link
                try:
                    yield self.stat(uri)
                except FileNotFoundError:
                    continue

    def folders(self, folder: str) -> Iterator[str]:
        return (posixpath.basename(uri) for uri, found in self._list(folder) if found["type"] == "directory")

    def put(self, uri: str, data: BinaryIO) -> None:
        self._refuse_web(uri)
        path = self._path(uri)
        with self._lock:
            if not self.puts_whole:
                self._filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
            if isinstance(data, io.BytesIO):
                self._filesystem.pipe_file(path, data.getvalue())
            else:
                self._filesystem.put_file(f"/dev/fd/{data.fileno()}", path)

    def create(self, uri: str, data: bytes) -> None:
        with self._lock:
            self._filesystem.pipe_file(self._path(uri), data, mode="create")

    def move(self, uri: str, target: str) -> None:
        with self._lock:
            self._filesystem.mv(self._path(uri), self._path(target))

    def delete(self, uri: str) -> None:
        self._refuse_web(uri)
        with self._lock:
            self._filesystem.rm_file(self._path(uri))

    def _refuse_web(self, uri: str) -> None:
        if self._scheme in WEB:
            raise LocationError(f"{uri}: a web server is only read")


def _info(uri: str, found: Mapping[str, Any]) -> ObjectInfo:
    size = found.get("size")
    if size is None:
        raise StorageError(f"{uri}: the server does not tell the file's size; download it")
    for name in _CHECKSUMS:
        if checksum := found.get(name):
            return ObjectInfo(uri, int(size), str(checksum).strip('"'))
    for name in _TIMES:
        if moment := found.get(name):
            stamp = moment.timestamp() if isinstance(moment, datetime) else moment
            return ObjectInfo(uri, int(size), f"{size}-{stamp}")
    return ObjectInfo(uri, int(size), "")
