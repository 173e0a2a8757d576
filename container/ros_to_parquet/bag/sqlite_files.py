"""A database and the files beside it for SQLite to read by large ranges, from wherever they are.

SQLite's own code decides what a write-ahead log or a rollback journal means: they are shown to it as they
are, and what it would write to the database (a rollback) is kept in memory. Nothing is written to a source.
"""

# ruff: noqa: ARG002, N802 (methods and their arguments are as SQLite has them)

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import apsw

from ros_to_parquet.bag.source import CountedSource

LOG, JOURNAL = "-wal", "-journal"
"""What SQLite appends to a database's name: its write-ahead log, and its rollback journal."""

LEAST_RANGE_BYTES = 64 << 10
"""What is read where SQLite goes to; going on from there, ranges double."""

GAP_BYTES = 1 << 20
"""What is read rather than left out: a request to a store takes as long as reading this, or longer."""

MOST_RANGE_BYTES = 1 << 20
"""The largest range: a store's source makes larger requests of successive ones, and reads ahead."""

_NAME = "bag.db3"
_serial = itertools.count(1)


class Database:
    """A database open for reading, by any thread, but by one at a time.

    Args:
        source: the database. What a read of it raises that is no `OSError` comes out of the connection too.
        beside: the write-ahead log and the rollback journal that lie beside it, by `LOG` and `JOURNAL`.
        size: of how many of the source's bytes the database is taken to be.
        kept_bytes: what is kept in memory of each source.
    """

    def __init__(
        self, source: CountedSource, beside: Mapping[str, CountedSource], *, size: int, kept_bytes: int
    ) -> None:
        self._files = _Files(source, beside, size=size, kept_bytes=kept_bytes)
        with ExitStack() as stack:
            stack.callback(self._files.unregister)
            connection = apsw.Connection(_NAME, flags=apsw.SQLITE_OPEN_READWRITE, vfs=self._files.name)
            stack.callback(connection.close)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            # Without memory shared with others, SQLite reads a write-ahead log only so.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA temp_store = MEMORY")
            self._opened = stack.pop_all()
        self.connection = connection

    @property
    def is_rolled_back(self) -> bool:
        """Whether SQLite has taken back a transaction that was not finished, by its journal."""
        return self._files.database.is_changed

    def raise_failure(self) -> None:
        """Raises what a source raised, if it did: that is no damage of the database."""
        if self._files.failure is not None:
            raise self._files.failure

    def close(self) -> None:
        self._opened.close()


class RangeCache:
    """Reads of any size made of few and large ones; going forward they grow to `MOST_RANGE_BYTES`."""

    def __init__(self, source: CountedSource, *, kept_bytes: int) -> None:
        self._source = source
        self._most_bytes = kept_bytes
        self._ranges: list[tuple[int, int, bytes]] = []  # start, end and content, the latest used first
        self._kept_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on; fewer at the source's end only."""
        if self._ranges:
            start, end, data = self._ranges[0]
            if start <= offset and offset + length <= end:
                return data[offset - start : offset - start + length]
        pieces = []
        stop = min(offset + length, self._source.size)
        while offset < stop:
            start, end, data = self._range(offset)
            pieces.append(data[offset - start : stop - start])
            offset = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _range(self, offset: int) -> tuple[int, int, bytes]:
        """The range that holds the offset, which becomes the latest used."""
        for place, held in enumerate(self._ranges):
            if held[0] <= offset < held[1]:
                self._ranges.insert(0, self._ranges.pop(place))
                return held
        begin, size = offset, LEAST_RANGE_BYTES
        for start, end, _ in self._ranges:
            longer = min(2 * (end - start), MOST_RANGE_BYTES)
            if longer > size and end <= offset < end + max(longer, GAP_BYTES):
                begin, size = end, longer
        stop = min([start for start, _, _ in self._ranges if start > offset], default=self._source.size)
        data = self._source.read_at(begin, min((offset // size + 1) * size, stop) - begin)
        if begin + len(data) <= offset:
            raise OSError(f"{len(data)} bytes could be read at {begin} of {self._source.size}")
        self._kept_bytes += len(data)
        while self._kept_bytes > self._most_bytes and self._ranges:
            self._kept_bytes -= len(self._ranges.pop()[2])
        self._ranges.insert(0, (begin, begin + len(data), data))
        return self._ranges[0]


class _File:
    """One file as SQLite's virtual file system has it (https://www.sqlite.org/c3ref/io_methods.html).

    What is written is kept in memory, by the page that it is.
    """

    def __init__(self, files: _Files, source: CountedSource | None, size: int) -> None:
        self._files = files
        self._cache = None if source is None else RangeCache(source, kept_bytes=files.kept_bytes)
        self._size = size
        self._pages: dict[int, bytes] = {}
        self._page_bytes = 0
        self.is_changed = False

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._pages and (page := self._page(offset, amount)) is not None:
            return page
        if self._cache is None or offset >= self._size:
            return b""
        try:
            return self._cache.read(offset, min(amount, self._size - offset))
        except OSError as error:
            self._files.failure = error
            raise

    def _page(self, offset: int, amount: int) -> bytes | None:
        start = offset // self._page_bytes * self._page_bytes
        page = self._pages.get(start)
        return None if page is None else page[offset - start : offset - start + amount]

    def xWrite(self, data: Any, offset: int) -> None:
        page = bytes(data)
        self._page_bytes = self._page_bytes or len(page)
        if len(page) != self._page_bytes or offset % len(page):
            raise apsw.ReadOnlyError(f"{len(page)} bytes at {offset}, which are no page")
        self._pages[offset] = page
        self._size = max(self._size, offset + len(page))
        self.is_changed = True

    def xTruncate(self, newsize: int) -> None:
        self.is_changed = self.is_changed or newsize != self._size
        self._size = newsize

    def xFileSize(self) -> int:
        return self._size

    def xSync(self, flags: int) -> None:
        pass

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 4096

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        pass


class _DatabaseFile(_File):
    def xRead(self, amount: int, offset: int) -> bytes:
        data = super().xRead(amount, offset)
        if len(data) < amount:  # SQLite would take zeros for the rest of it
            raise apsw.IOError(f"{amount} bytes at {offset} are not all there")
        return data


class _FileBeside(_File):
    """A log or journal: SQLite empties it when it has made use of it, which needs no keeping."""

    def xWrite(self, data: Any, offset: int) -> None:
        pass


class _Files(apsw.VFS):
    """The files of one database."""

    def __init__(
        self, database: CountedSource, beside: Mapping[str, CountedSource], *, size: int, kept_bytes: int
    ) -> None:
        self.kept_bytes = kept_bytes
        self.name = f"ros-to-parquet-{next(_serial)}"
        self.failure: OSError | None = None
        self.database = _DatabaseFile(self, database, size)
        self._beside = dict(beside)
        super().__init__(self.name, base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:
        flags[1] = flags[0]
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path == _NAME:
            return self.database
        if path not in (_NAME + LOG, _NAME + JOURNAL):
            raise apsw.CantOpenError(f"{path}: no file of the database")
        source = self._beside.get(path.removeprefix(_NAME))
        return _FileBeside(self, source, source.size if source else 0)

    def xAccess(self, pathname: str, flags: int) -> bool:
        return pathname.removeprefix(_NAME) in self._beside

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._beside.pop(filename.removeprefix(_NAME), None)

    def xFullPathname(self, name: str) -> str:
        return name
