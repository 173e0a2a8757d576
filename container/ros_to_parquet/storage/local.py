"""Files on this machine's disk, by absolute path."""

from __future__ import annotations

import io
import os
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ros_to_parquet import termination
from ros_to_parquet.log import event
from ros_to_parquet.storage.model import (
    AccessDeniedError,
    ChangedError,
    ExistsError,
    NotAFileError,
    NotFoundError,
    ObjectInfo,
    StorageError,
    Unfinished,
)

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def local_errors(path: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except FileExistsError as error:
        raise ExistsError(f"{path}: already there") from error
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    except NotADirectoryError as error:
        raise NotFoundError(f"{path}: no such file: a part of its path is a file, not a folder") from error
    except PermissionError as error:
        raise AccessDeniedError(f"{path}: permission denied") from error
    except OSError as error:
        # Not its own text: Arrow has another one, of several lines.
        raise StorageError(f"{path}: {os.strerror(error.errno) if error.errno else error}") from error


def _info(uri: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(uri, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


class LocalStorage:
    """Files by absolute path."""

    def head(self, uri: str) -> ObjectInfo:
        with local_errors(uri):
            found = Path(uri).stat()
            if stat.S_ISDIR(found.st_mode):
                raise NotAFileError(f"{uri}: a folder, not a file")
            if not stat.S_ISREG(found.st_mode):
                raise NotAFileError(f"{uri}: a pipe or device, not a file: save what it gives to one first")
            return _info(uri, found)

    def read(self, uri: str) -> bytes:
        with local_errors(uri):
            return Path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        _put(uri, data, exclusive=False)

    def create(self, uri: str, data: bytes) -> None:
        _put(uri, data, exclusive=True)

    def delete(self, uri: str) -> None:
        with local_errors(uri):
            Path(uri).unlink(missing_ok=True)
            for folder in Path(uri).parents:
                try:
                    folder.rmdir()
                except OSError:
                    break  # not empty: as on S3, a folder lives as long as what is in it

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        with local_errors(folder):
            if Path(folder).is_dir():
                os.scandir(folder).close()  # os.walk takes one that may not be read for an empty one
            for parent, _, names in os.walk(folder, onerror=_left_out):
                for name in names:
                    path = Path(parent, name)
                    if path.is_file() and not name.startswith(LocalUpload.PARTIAL):
                        with suppress(FileNotFoundError):  # deleted since it was listed
                            yield _info(str(path), path.stat())

    def folders(self, folder: str) -> list[str]:
        with local_errors(folder):
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


def _left_out(error: OSError) -> None:
    """Says that a folder below what is looked through may not be read, as a disk's ``lost+found``."""
    if not isinstance(error, FileNotFoundError):  # deleted since it was listed
        event("folder_left_out", folder=error.filename, reason=error.strerror)


class LocalSource:
    """A file opened for positioned reads."""

    def __init__(self, info: ObjectInfo) -> None:
        with local_errors(info.uri):
            self._file = Path(info.uri).open("rb")  # noqa: SIM115 (closed by close)
            if info.etag and _info(info.uri, Path(info.uri).stat()).etag != info.etag:
                self._file.close()
                raise ChangedError(f"{info.uri}: changed since it was planned")
        self._info = info
        self.size = os.fstat(self._file.fileno()).st_size

    @property
    def name(self) -> str:
        return self._info.uri

    def read_at(self, offset: int, length: int) -> bytes:
        with local_errors(self.name):
            data = os.pread(self._file.fileno(), length, offset)
            while 0 < len(data) < length and (
                more := os.pread(self._file.fileno(), length - len(data), offset + len(data))
            ):
                data += more  # one pread stops at 2 GiB
            return data

    def read_into(self, offset: int, memory: memoryview) -> int:
        if not hasattr(os, "preadv"):
            data = self.read_at(offset, len(memory))
            memory[: len(data)] = data
            return len(data)
        with local_errors(self.name):
            read = 0
            while (
                read < len(memory)
                and (  # one call stops at 2 GiB
                    more := os.preadv(self._file.fileno(), [memory[read:]], offset + read)
                )
            ):
                read += more
            return read

    def local_path(self) -> str:
        return self.name

    def close(self) -> None:
        self._file.close()


_FOLDER_TRIES = 100

_PUT_TRIES = 5

_NAME_KEPT = 100
"""Bytes of a file's name that the one beside it ends in: who finds it knows whose it was."""


def _append(path: str, _flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)  # not made again if somebody removed it


class _OpenFiles:
    """Files that are written to at their end, of which only those last written to are open.

    A shard has a file a topic until all are done: thousands, where a process may open 1,024.
    """

    MOST = 128

    def __init__(self) -> None:
        self._files: OrderedDict[str, io.FileIO] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, path: str, data: Any) -> int:
        view = memoryview(data).cast("B")
        with self._lock:
            file = self._files.pop(path, None) or io.FileIO(path, "ab", opener=_append)
            self._files[path] = file
            while len(self._files) > self.MOST:
                self._files.popitem(last=False)[1].close()
            written = 0
            while written < len(view):  # one write stops at 2 GiB, or where the disk is full
                written += file.write(view[written:])
        return written

    def close(self, path: str) -> None:
        with self._lock:
            file = self._files.pop(path, None)
        if file is not None:
            file.close()


_open_files = _OpenFiles()


class LocalUpload:
    """A file written beside its place and moved there when published."""

    PARTIAL = ".partial-"

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.size_bytes = 0
        with local_errors(uri):
            handle, self._partial = self._begin(Path(uri))
            os.close(handle)

    def _begin(self, path: Path) -> tuple[int, str]:
        """A file in its folder, which others may remove while it is empty (`LocalStorage.delete`)."""
        kept = os.fsencode(path.name)[-_NAME_KEPT:].decode(errors="ignore")
        folder, suffix = path.parent, f"-{kept}"
        for _ in range(_FOLDER_TRIES):
            with suppress(FileNotFoundError, FileExistsError):
                folder.mkdir(parents=True, exist_ok=True)
                return tempfile.mkstemp(prefix=self.PARTIAL, suffix=suffix, dir=folder)
        raise NotADirectoryError(f"{folder} cannot be made")

    def write(self, data: Any) -> int:
        with local_errors(self.uri):
            written = _open_files.write(self._partial, data)
        self.size_bytes += written
        return written

    def native(self) -> pa.NativeFile:
        import pyarrow as pa  # which storage needs for nothing else

        with local_errors(self.uri):
            os.close(_append(self._partial, 0))  # it is there, for Arrow would make it again
            return pa.OSFile(self._partial, "wb")

    def wrote(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def publish(self, *, exclusive: bool = False) -> None:
        with local_errors(self.uri):
            _open_files.close(self._partial)
            Path(self._partial).chmod(0o666 & ~_UMASK)
            if not exclusive:
                Path(self._partial).replace(self.uri)
                return
            try:
                Path(self.uri).hardlink_to(self._partial)
            finally:
                Path(self._partial).unlink()

    def abort(self) -> None:
        with local_errors(self.uri):
            _open_files.close(self._partial)
            Path(self._partial).unlink(missing_ok=True)


def _put(uri: str, data: bytes, *, exclusive: bool) -> None:
    with termination.deferred():
        for left in range(_PUT_TRIES, 0, -1):
            upload = LocalUpload(uri)
            try:
                upload.write(data)
                upload.publish(exclusive=exclusive)
                return
            except NotFoundError:  # somebody's sweep took it for a dead process'
                if left == 1:
                    raise
            finally:
                upload.abort()


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


_UMASK = _read_umask()
