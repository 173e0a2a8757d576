"""rosbag2's SQLite bags (``.db3``), from their first schema to version 4."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ros_to_parquet.bag.blocks import MAX_BLOCK_MESSAGES, ConnectionTable, Messages, joined
from ros_to_parquet.bag.model import BagError, BagFormat, Connection, Damage, MessageBlock
from ros_to_parquet.bag.source import CountedSource
from ros_to_parquet.memory import MemoryBudget

MAGIC = b"SQLite format 3\0"

_ROWS = """
SELECT rowid, IFNULL(CAST(topic_id AS INTEGER), -1), IFNULL(CAST(timestamp AS INTEGER), 0),
    IFNULL(CAST(data AS BLOB), x'')
FROM messages WHERE rowid >= ? ORDER BY rowid
"""

_LEAST_ROWID, _MOST_ROWID = -(1 << 63), (1 << 63) - 1

_MAX_ROWS = 64
"""Rows taken at a time, whose sizes are not known before: this many of the largest are held in memory."""

_MAX_GAPS = 1000
"""Unreadable stretches after which the rest is given up."""

_ERRORS = (sqlite3.Error, MemoryError)
"""What a damaged database raises; it may ask for impossible amounts of memory."""


class SqliteReader:
    """A SQLite bag, read in the order of its rows. It cannot be split: its first slice is the whole.

    Raises:
        BagError: no rosbag2 database, or one that is damaged where its topics are.
    """

    format: BagFormat = "sqlite3"

    def __init__(
        self,
        source: CountedSource,
        *,
        wanted: Callable[[str], bool],
        budget: MemoryBudget,
        slice_index: int,
    ) -> None:
        self.damage: list[Damage] = []
        self.compressions: dict[str, int] = {}
        self._source = source
        self._budget = budget
        self._table = ConnectionTable(wanted, budget)
        self.counts = self._table.counts
        self._expected: dict[int, int] | None = {}
        self._counted = slice_index > 0
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._path = ""
        if slice_index > 0:
            return
        self._path = source.local_path()
        page_bytes, missing_bytes = _header(source)
        if missing_bytes > 0:
            self._harm(source.size, f"the file is cut off: its last {missing_bytes:,} bytes are not there")
            if cut_bytes := source.size % page_bytes:
                self._copy_without(cut_bytes)
        try:
            with closing(self._connect()) as database:
                for topic_id, connection in _topics(database):
                    self._table.define(topic_id, connection)
        except _ERRORS as error:
            raise BagError(
                f"the SQLite database cannot be read: {error}; `sqlite3 FILE .recover` may help"
            ) from error

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    def connections(self) -> list[Connection]:
        return list(self._table.connections)

    def expected_counts(self) -> dict[int, int] | None:
        if not self._counted:
            self._counted = True
            try:
                with closing(self._connect()) as database:
                    self._expected = self._table.expected(_count(database, self._source.size))
            except _ERRORS:  # what is damaged cannot be counted, and is reported when it is read
                self._expected = None
        return self._expected

    def blocks(self) -> Iterator[MessageBlock]:
        if not self._path:
            return
        with closing(self._connect()) as database:
            for rows in self._rows(database):
                data, starts, lengths = joined(rows.payloads)
                messages = Messages(
                    connections=np.array(rows.topic_ids, np.int64),
                    starts=starts,
                    lengths=lengths,
                    log_times_ns=np.array(rows.timestamps, np.int64),
                    publish_times_ns=None,
                    sequences=None,
                    offsets=np.array(rows.rowids, np.int64),
                )
                yield from self._table.blocks(data, messages)
        self.damage.extend(self._table.undefined())
        if compressed := self._table.compressed_messages:
            self.compressions["zstd"] = compressed
        self.expected_counts()  # while the file is there
        if self._scratch is not None:
            self._scratch.cleanup()

    def _harm(self, rowid: int, reason: str, *, ends_bag: bool = False) -> None:
        self.damage.append(Damage(rowid, reason, ends_bag))

    def _copy_without(self, cut_bytes: int) -> None:
        """Leaves out a page that is cut off, for SQLite would take zeros for the rest of it."""
        self._scratch = tempfile.TemporaryDirectory(prefix="ros-to-parquet-")
        copy = str(Path(self._scratch.name) / "whole-pages.db3")
        shutil.copyfile(self._path, copy)
        os.truncate(copy, self._source.size - cut_bytes)
        self._path = copy

    def _connect(self) -> sqlite3.Connection:
        """A connection that changes nothing, takes no lock, and may be used by another thread."""
        uri = f"{Path(self._path).absolute().as_uri()}?mode=ro&immutable=1"
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        database.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(self._source.size, 1 << 20))
        database.execute("PRAGMA writable_schema = ON")  # or a file that is cut off cannot be read at all
        return database

    def _rows(self, database: sqlite3.Connection) -> Iterator[_Rows]:
        """All rows that can be read, some at a time; where some cannot, damage is noted."""
        rows = _Rows()
        first = _LEAST_ROWID
        most = _MAX_ROWS
        gaps = 0
        while True:
            try:
                for taken in _fetch(database, first, most, self._budget.block):
                    rows.extend(*taken)
                    first = rows.rowids[-1] + 1
                    if rows.size_bytes >= self._budget.block or len(rows.rowids) >= MAX_BLOCK_MESSAGES:
                        yield rows
                        rows = _Rows()
                break
            except _ERRORS as error:
                if most > 1:  # again, one by one: the others of the rows taken together can be read
                    most = 1
                    continue
                gaps += 1
                begin = max(first, 0)
                readable = _next_readable(database, first) if gaps < _MAX_GAPS else None
                if readable is None:
                    self._harm(begin, f"rows from {begin:,} on cannot be read: {error}", ends_bag=True)
                    break
                self._harm(begin, f"rows {begin:,} to {readable - 1:,} cannot be read: {error}")
                first, most = readable, _MAX_ROWS
        if rows.rowids:
            yield rows


class _Rows:
    """Rows of the table of messages in columns (as tuples, they would keep the garbage collector busy)."""

    def __init__(self) -> None:
        self.rowids: list[int] = []
        self.topic_ids: list[int] = []
        self.timestamps: list[int] = []
        self.payloads: list[bytes] = []
        self.size_bytes = 0

    def extend(
        self,
        rowids: Sequence[int],
        topic_ids: Sequence[int],
        timestamps: Sequence[int],
        payloads: Sequence[bytes],
    ) -> None:
        self.rowids.extend(rowids)
        self.topic_ids.extend(topic_ids)
        self.timestamps.extend(timestamps)
        self.payloads.extend(payloads)
        self.size_bytes += sum(map(len, payloads))


def _fetch(
    database: sqlite3.Connection, first: int, most: int, most_bytes: int
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """The rows from row id ``first`` on, in columns; ``most`` at a time, fewer where they are large.

    Raises:
        sqlite3.Error: the next row, or one of those that would be next, cannot be read.
    """
    cursor = database.execute(_ROWS, (first,))
    limit = 1
    while taken := cursor.fetchmany(limit):
        rowids, topic_ids, timestamps, payloads = zip(*taken, strict=True)
        if rowids[0] < first or rowids[-1] < rowids[0]:  # a loop in a damaged file would never end
            raise sqlite3.DatabaseError("the rows are out of order")
        yield rowids, topic_ids, timestamps, payloads
        first = rowids[-1] + 1
        limit = max(1, min(most, most_bytes // max(1, *map(len, payloads))))


def _next_readable(database: sqlite3.Connection, first: int) -> int | None:
    """The next row id after ``first`` from where rows can be read; None if there is none."""

    def rows_are_there(rowid: int) -> bool:
        try:
            return database.execute(_ROWS + " LIMIT 1", (rowid,)).fetchone() is not None
        except _ERRORS:
            return False

    first = max(first, 0)
    step = 1
    while not rows_are_there(first + step):
        step *= 2
        if first + step > _MOST_ROWID:
            return None
    unreadable, readable = first + step // 2, first + step
    while readable - unreadable > 1:
        middle = (unreadable + readable) // 2
        if rows_are_there(middle):
            readable = middle
        else:
            unreadable = middle
    return readable


def _count(database: sqlite3.Connection, size: int) -> dict[int, int]:
    """Messages by topic id.

    Raises:
        sqlite3.Error: a part of the messages cannot be read, or there is no end of them.
    """
    million = 1_000_000
    steps = itertools.count(1)
    # A row takes more than 10 bytes and less than 30 steps, so more steps are a loop in a damaged file.
    database.set_progress_handler(lambda: next(steps) * million > 3 * size + 10 * million, million)
    query = "SELECT IFNULL(CAST(topic_id AS INTEGER), -1), COUNT(*) FROM messages GROUP BY 1"
    return dict(database.execute(query).fetchall())


def _header(source: CountedSource) -> tuple[int, int]:
    """The size of a page, and how many bytes the file lacks by its own header (0 where it does not say)."""
    head = source.read_at(0, 100).ljust(100, b"\0")
    page_bytes, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    page_bytes = 65_536 if page_bytes == 1 else max(page_bytes, 512)
    if head[24:28] != head[92:96]:  # then the count of pages is left over from an older version of SQLite
        return page_bytes, -source.size % page_bytes
    return page_bytes, max(pages * page_bytes - source.size, 0)


def _topics(database: sqlite3.Connection) -> Iterator[tuple[int, Connection]]:
    """The topics by their recorded id.

    Raises:
        BagError: there are no tables of topics and messages.
        sqlite3.Error: they cannot be read.
    """
    columns = {table: _columns(database, table) for table in ("topics", "messages", "message_definitions")}
    for table in ("topics", "messages"):
        if not columns[table]:
            raise BagError(f"a SQLite database, but no rosbag2 bag: it has no table {table!r}")
    definitions: dict[tuple[str, str], tuple[str, str]] = {}
    for type_name, encoding, text, digest in database.execute(
        _select(
            columns["message_definitions"],
            ("topic_type", "encoding", "encoded_message_definition", "type_description_hash"),
            "message_definitions" if columns["message_definitions"] else "(SELECT 1 LIMIT 0)",
        )
    ):
        definitions[type_name, digest] = (encoding, text)
        definitions.setdefault((type_name, ""), (encoding, text))
    names = ("name", "type", "serialization_format", "offered_qos_profiles", "type_description_hash")
    rows = database.execute(_select(columns["topics"], names, "topics ORDER BY id", "CAST(id AS INTEGER)"))
    for topic_id, topic, type_name, encoding, qos, digest in rows:
        definition_format, definition = (
            definitions.get((type_name, digest))
            or definitions.get((type_name, ""))
            # An event of a service is defined by the service.
            or definitions.get((type_name.removesuffix("_Event"), ""))
            or ("", "")
        )
        yield (
            topic_id,
            Connection(
                id=0,
                topic=topic,
                type_name=type_name,
                definition=definition,
                definition_format=definition_format if definition_format in ("ros2msg", "ros2idl") else "",
                definition_hash=digest,
                encoding=encoding or "cdr",
                metadata={"offered_qos_profiles": qos} if qos else {},
            ),
        )


def _select(columns: set[str], names: Sequence[str], rest: str, *first: str) -> str:
    """A query of columns as text, empty where a bag's version of the schema has no such column."""
    texts = [f"IFNULL(CAST({name} AS TEXT), '')" if name in columns else "''" for name in names]
    return f"SELECT {', '.join((*first, *texts))} FROM {rest}"


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
