"""A storage as a filesystem of pyarrow's, to read Parquet from what only fsspec opens."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.fs as fs

from ros_to_parquet.storage.model import NotFoundError, Source, Storage


def reading_filesystem(storage: Storage) -> fs.FileSystem:
    """Files of ``storage`` by their URIs. They are only opened for reading; folders are not listed."""
    return fs.PyFileSystem(_Handler(storage))


class _Handler(fs.FileSystemHandler):  # type: ignore[misc]
    # fsspec's own handler would read without `FsspecFiles`' lock, and a changed file as if it were not.
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def get_type_name(self) -> str:
        return "ros-to-parquet"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        try:
            return fs.FileInfo(path, fs.FileType.File, size=self._storage.head(path).size_bytes)
        except NotFoundError:
            return fs.FileInfo(path, fs.FileType.NotFound)

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(_SourceFile(self._storage.open(self._storage.head(path))), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return self.open_input_file(path)

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("a filesystem for reading files")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = (
        _refused
    )
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refused


class _SourceFile(io.RawIOBase):
    def __init__(self, source: Source) -> None:
        self._source = source
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.size}[whence]
        )
        return self._place

    def read(self, size: int = -1) -> bytes:
        data = self._source.read_at(self._place, self._source.size if size < 0 else size)
        self._place += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()
