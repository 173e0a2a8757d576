"""What pyarrow opens by itself: ``gs://``, ``abfs://``, ``abfss://``, ``hdfs://``, ``viewfs://``."""

from __future__ import annotations

import io
import shutil
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from ros_to_parquet.storage.filesystem import Fetch, filesystem_errors
from ros_to_parquet.storage.model import ObjectInfo

if TYPE_CHECKING:
    import pyarrow.fs as fs

SCHEMES = frozenset({"gs", "abfs", "abfss", "hdfs", "viewfs"})

_OBJECT_STORES = frozenset({"gcs", "abfs", "s3"})
_WHOLE_SECONDS = frozenset({"abfs", "s3"})
"""Types whose times of modification are cut off to seconds, but not in listings."""

_COPY_BYTES = 4 << 20


class ArrowFiles:
    """A filesystem of pyarrow's; ``root`` is the URI whose path in it is ``root_path``."""

    def __init__(self, filesystem: fs.FileSystem, root: str, root_path: str) -> None:
        self.filesystem = filesystem
        self.puts_whole = filesystem.type_name in _OBJECT_STORES
        self._root = root
        self._root_path = root_path.rstrip("/")
        self._unit_ns = 1_000_000_000 if filesystem.type_name in _WHOLE_SECONDS else 1

    @classmethod
    def open(cls, root: str) -> ArrowFiles:
        """The filesystem of a URI without a path."""
        import pyarrow.fs as fs

        with filesystem_errors(root):
            filesystem, path = fs.FileSystem.from_uri(f"{urllib.parse.quote(root, safe='/:@')}/")
        return cls(filesystem, root, path)

    def path(self, uri: str) -> str:
        """Where a URI is in the filesystem."""
        return self._root_path + uri.removeprefix(self._root)

    def _info(self, found: fs.FileInfo) -> ObjectInfo:
        uri = self._root + found.path.removeprefix(self._root_path)
        modified = "" if found.mtime_ns is None else f"{found.size}-{found.mtime_ns // self._unit_ns}"
        return ObjectInfo(uri, found.size, modified)

    def stat(self, uri: str) -> ObjectInfo:
        found = self.filesystem.get_file_info(self.path(uri))
        if not found.is_file:
            raise FileNotFoundError(uri)
        return self._info(found)

    def reader(self, uri: str) -> Fetch:
        file = self.filesystem.open_input_file(self.path(uri))

        def fetch(start: int, end: int) -> bytes:
            data: bytes = file.read_at(end - start, start)
            return data

        return fetch

    def _list(self, folder: str, *, recursive: bool) -> list[fs.FileInfo]:
        import pyarrow.fs as fs

        selector = fs.FileSelector(self.path(folder), recursive=recursive, allow_not_found=True)
        found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
        return found

    def files(self, folder: str) -> Iterator[ObjectInfo]:
        return (self._info(found) for found in self._list(folder, recursive=True) if found.is_file)

    def folders(self, folder: str) -> Iterator[str]:
        if self.filesystem.type_name == "gcs":  # pyarrow lists those that have an object of their own there
            inside = (info.uri.removeprefix(f"{folder}/") for info in self.files(folder))
            return iter({path.partition("/")[0] for path in inside if "/" in path})
        found = self._list(folder, recursive=False)
        return (each.base_name for each in found if not each.is_file)

    def put(self, uri: str, data: BinaryIO) -> None:
        path = self.path(uri)
        if not self.puts_whole:
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(path) as stream:
            if isinstance(data, io.BytesIO):
                stream.write(data.getbuffer())
            else:
                shutil.copyfileobj(data, stream, _COPY_BYTES)

    def create(self, uri: str, data: bytes) -> None:
        self.put(uri, io.BytesIO(data))

    def move(self, uri: str, target: str) -> None:
        self.filesystem.move(self.path(uri), self.path(target))

    def delete(self, uri: str) -> None:
        self.filesystem.delete_file(self.path(uri))
