"""Objects by URI: one small set of verbs, one set of errors.

On this machine's disk, on S3 (by boto3), and on whatever pyarrow or fsspec opens.
"""

from __future__ import annotations

import os
import posixpath
import urllib.parse
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ros_to_parquet.memory import DEFAULT_BUDGET
from ros_to_parquet.storage import arrow_files, fsspec_files
from ros_to_parquet.storage.arrow_files import ArrowFiles
from ros_to_parquet.storage.filesystem import Files, FileSystemStorage, refuse_passwords
from ros_to_parquet.storage.fsspec_files import FsspecFiles
from ros_to_parquet.storage.local import LocalSource, LocalStorage, LocalUpload
from ros_to_parquet.storage.model import (
    AccessDeniedError,
    ChangedError,
    ExistsError,
    LocationError,
    NativeUpload,
    NotAFileError,
    NotFoundError,
    ObjectInfo,
    Source,
    Storage,
    StorageError,
    TransientError,
    Unfinished,
    Upload,
    join,
)
from ros_to_parquet.storage.ranges import READ_BYTES
from ros_to_parquet.storage.s3 import PART_BYTES, S3Storage

if TYPE_CHECKING:
    import pyarrow.fs as fs

__all__ = [
    "PART_BYTES",
    "READ_BYTES",
    "AccessDeniedError",
    "ChangedError",
    "ExistsError",
    "FileSystemStorage",
    "LocalSource",
    "LocalStorage",
    "LocalUpload",
    "LocationError",
    "NativeUpload",
    "NotAFileError",
    "NotFoundError",
    "ObjectInfo",
    "S3Storage",
    "Source",
    "Storage",
    "StorageError",
    "TransientError",
    "Unfinished",
    "Upload",
    "arrow_filesystem",
    "is_uri",
    "join",
    "normalize",
    "open_storage",
]


def is_uri(location: str) -> bool:
    """Whether it is a URI, not a path."""
    return "://" in location


def normalize(location: str) -> str:
    """A URI or path as a URI this package knows: ``scheme://...`` or an absolute path.

    One place has one URI: without ``..``, doubled or final slashes (but links are not followed, S3's keys
    are what they are, and so is what a web server is asked for).

    Raises:
        LocationError: no such place, or one that is not supported.
    """
    if not location:
        raise LocationError("an empty path names no place: is a variable not set?")
    scheme, separator, rest = location.partition("://")
    if not separator:
        return os.path.abspath(Path(location).expanduser())  # noqa: PTH100 (resolve follows links)
    authority, _, path = rest.partition("/")
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise LocationError(f"{location}: a file URI has three slashes (file:///...), or use a path")
        return os.path.abspath(urllib.parse.unquote(f"/{path}"))  # noqa: PTH100
    if scheme == "s3":
        if not authority:
            raise LocationError(f"{location}: names no bucket (s3://bucket/...)")
        return location.rstrip("/")
    if scheme not in arrow_files.SCHEMES and not fsspec_files.is_known(scheme):
        raise LocationError(
            f"{location}: no support for {scheme}://; use a path, s3://, gs://, abfs://, hdfs://, https:// "
            "or another one that fsspec knows"
        )
    if "::" in location:
        raise LocationError(f"{location}: chained URIs are not supported")
    refuse_passwords(location, authority)
    if scheme in fsspec_files.WEB:
        return location
    if scheme == "memory":  # has no host
        authority, path = "", rest
    elif not authority and scheme not in ("hdfs", "viewfs"):
        raise LocationError(f"{location}: names no host or bucket ({scheme}://name/...)")
    inside = posixpath.normpath(f"/{path}").strip("/")
    if not authority and not inside:
        raise LocationError(f"{location}: names no place ({scheme}:///path, memory://path)")
    return f"{scheme}://{authority}{'/' if inside and scheme != 'memory' else ''}{inside}"


def open_storage(
    uri: str, *, upload_memory_bytes: int = DEFAULT_BUDGET.upload, read_bytes: int = READ_BYTES
) -> Storage:
    """The storage that ``uri`` lives on.

    Args:
        upload_memory_bytes: what its uploads together hold in memory; what waits beyond is on scratch disk.
        read_bytes: the most that one request of an object read ahead asks for; some are held at a time.
    """
    if uri.startswith("s3://"):
        return S3Storage(upload_memory_bytes=upload_memory_bytes, read_bytes=read_bytes)
    if is_uri(uri):
        files = _files(uri)
        return FileSystemStorage(files, upload_memory_bytes=upload_memory_bytes, read_bytes=read_bytes)
    return LocalStorage()


def _files(uri: str) -> Files:
    scheme, _, rest = uri.partition("://")
    return _opened(f"{scheme}://{rest.partition('/')[0] if scheme != 'memory' else ''}")


@cache
def _opened(root: str) -> Files:
    if root.partition("://")[0] in arrow_files.SCHEMES:
        return ArrowFiles.open(root)
    return FsspecFiles.open(root)


def arrow_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Arrow's filesystem for what is at and below a URI, and the URI's path in it; only for reading."""
    import pyarrow.fs as fs

    if uri.startswith("s3://") or not is_uri(uri):
        filesystem, path = fs.FileSystem.from_uri(urllib.parse.quote(uri, safe="/:") if is_uri(uri) else uri)
        return filesystem, path
    files = _files(uri)
    if isinstance(files, ArrowFiles):
        return files.filesystem, files.path(uri)
    from ros_to_parquet.storage.arrow_reading import reading_filesystem

    return reading_filesystem(open_storage(uri)), uri
