"""Objects by URI, on S3 and on this machine's disk: one small set of verbs, one set of errors."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from ros_to_parquet.memory import DEFAULT_BUDGET
from ros_to_parquet.storage.local import LocalSource, LocalStorage, LocalUpload
from ros_to_parquet.storage.model import (
    AccessDeniedError,
    ChangedError,
    ExistsError,
    LocationError,
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

__all__ = [
    "PART_BYTES",
    "READ_BYTES",
    "AccessDeniedError",
    "ChangedError",
    "ExistsError",
    "LocalSource",
    "LocalStorage",
    "LocalUpload",
    "LocationError",
    "NotFoundError",
    "ObjectInfo",
    "S3Storage",
    "Source",
    "Storage",
    "StorageError",
    "TransientError",
    "Unfinished",
    "Upload",
    "join",
    "normalize",
    "open_storage",
]


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


def open_storage(uri: str, *, upload_memory_bytes: int = DEFAULT_BUDGET.upload) -> Storage:
    """The storage that ``uri`` lives on.

    ``upload_memory_bytes``: what its uploads together hold in memory; what waits beyond is on scratch disk.
    """
    return S3Storage(upload_memory_bytes=upload_memory_bytes) if uri.startswith("s3://") else LocalStorage()
