"""Files beside tables: pictures and videos of rows, in folders that only one try of a shard writes to.

They are there before the shard's manifest, and are nothing until it names their folder: readers find them by
the rows, which have their paths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Self

from ros_to_parquet import contract, termination
from ros_to_parquet.log import event
from ros_to_parquet.storage import Storage, StorageError, join

_PUTS: Final = 16
"""At a time: a put waits for the store far longer than it computes."""

_PIECE_BYTES: Final = 1 << 20


@dataclass(slots=True)
class _Folder:
    """Names given, by ending: ``taken`` by their log times, and ``again`` how often one was wanted later."""

    path: str
    taken: dict[str, set[int]] = field(default_factory=dict)
    again: dict[tuple[int, str], int] = field(default_factory=dict)

    def number(self, log_time_ns: int, suffix: str) -> int:
        """1 for the first file of a time, 2 for the second."""
        taken = self.taken.setdefault(suffix, set())
        if log_time_ns not in taken:
            taken.add(log_time_ns)
            return 1
        key = (log_time_ns, suffix)
        self.again[key] = self.again.get(key, 1) + 1
        return self.again[key]


class PictureFiles:
    """The files of one try of a shard, whose tables' files are called ``name``.

    As a context manager it removes them if an error ends it before `keep`. ``memory_bytes`` of them wait to
    be put.
    """

    def __init__(self, storage: Storage, output: str, drive_id: str, name: str, *, memory_bytes: int) -> None:
        self._storage = storage
        self._output = output
        self._drive_id = drive_id
        self._name = name
        self._memory_bytes = memory_bytes
        self._folders: dict[str, _Folder] = {}
        self._sums: dict[tuple[Hashable, str], tuple[int, int]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._waiting_bytes = 0
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with termination.deferred():
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
            if kind is not None and not self._kept:
                self._discard()

    def _discard(self) -> None:
        for folder in self._folders.values():
            try:
                remove_folders(self._storage, self._output, [folder.path])
            except StorageError as error:  # the drive's next sweep finds it; why there was one is told
                event("not_removed", uri=join(self._output, folder.path), reason=str(error))

    def name(self, table: str, log_time_ns: int, suffix: str) -> str:
        """A path for a file of a row, relative to the output URI: ``.../{log_time_ns}.{suffix}``.

        Another row of that time gets ``{log_time_ns}-2``.
        """
        # Where file systems fold case, tables that differ by it share a folder.
        folder = self._folders.get(table.casefold())
        if folder is None:
            path = contract.files_folder(table, self._drive_id, self._name)
            folder = self._folders[table.casefold()] = _Folder(path)
        number = folder.number(log_time_ns, suffix)
        return f"{folder.path}/{log_time_ns}{f'-{number}' if number > 1 else ''}.{suffix}"

    def put(self, owner: Hashable, path: str, data: bytes) -> None:
        """Has ``data`` be put to a path of `name`; may wait for earlier ones."""
        while self._waiting and self._waiting_bytes + len(data) > self._memory_bytes:
            self._settle_first()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_PUTS, thread_name_prefix="files")
        future = self._pool.submit(self._storage.write, join(self._output, path), data)
        self._waiting.append((future, len(data)))
        self._waiting_bytes += len(data)
        self._count(owner, path, len(data))

    def put_file(self, owner: Hashable, path: str, file: BinaryIO) -> None:
        """Puts what an open file holds, a piece at a time."""
        with termination.deferred():
            upload = self._storage.upload(join(self._output, path))
        try:
            file.seek(0)
            while piece := file.read(_PIECE_BYTES):
                upload.write(piece)
            upload.publish()
        except BaseException:
            with termination.deferred():
                upload.abort()
            raise
        self._count(owner, path, upload.size_bytes)

    def _count(self, owner: Hashable, path: str, size_bytes: int) -> None:
        key = (owner, path.rpartition("/")[0])
        files, total = self._sums.get(key, (0, 0))
        self._sums[key] = (files + 1, total + size_bytes)

    def _settle_first(self) -> None:
        future, size_bytes = self._waiting.popleft()
        self._waiting_bytes -= size_bytes
        future.result()

    def finish(self) -> None:
        """Waits until all are there."""
        while self._waiting:
            self._settle_first()

    def keep(self) -> None:
        """From here on a manifest may name them, whatever goes wrong."""
        self._kept = True

    def sets(self, owner: Hashable) -> tuple[contract.FileSet, ...]:
        """What was put for an owner."""
        return tuple(
            contract.FileSet(folder, files, size_bytes)
            for (whose, folder), (files, size_bytes) in sorted(
                self._sums.items(), key=lambda item: item[0][1]
            )
            if whose == owner
        )


def remove_folders(storage: Storage, output: str, folders: Iterable[str]) -> None:
    """Removes all that is in folders, however much: a page of a listing at a time is in memory."""
    with ThreadPoolExecutor(_PUTS, thread_name_prefix="files") as pool:
        for folder in folders:
            removals: deque[Future[None]] = deque()
            for info in storage.objects(join(output, folder)):
                removals.append(pool.submit(storage.delete, info.uri))
                if len(removals) > 4 * _PUTS:
                    removals.popleft().result()
            for removal in removals:
                removal.result()
