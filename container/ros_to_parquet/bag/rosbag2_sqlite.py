"""rosbag2's SQLite bags (``.db3``), from their first schema to version 4."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from ros_to_parquet.bag.blocks import MAX_BLOCK_BYTES, MAX_BLOCK_MESSAGES, ConnectionTable, Messages, joined
from ros_to_parquet.bag.model import BagError, BagFormat, Connection, Damage, MessageBlock
from ros_to_parquet.bag.source import CountedSource

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

_Row = tuple[int, int, int, bytes]


class SqliteReader:
    """A SQLite bag, read in the order of its rows. It cannot be split: its first slice is the whole.

    Raises:
        BagError: no rosbag2 database, or one that is damaged where its topics are.
    """

    format: BagFormat = "sqlite3"

    def __init__(self, source: CountedSource, *, wanted: Callable[[str], bool], slice_index: int) -> None:
        self.damage: list[Damage] = []
        self.compressions: dict[str, int] = {}
        self._source = source
        self._table = ConnectionTable(wanted)
        self.counts = self._table.counts
        self._expected: dict[int, int] | None = {}
        self._counted = slice_index > 0
        self._path = "" if slice_index else source.local_path()
        if not self._path:
            return
        missing_bytes = _missing_bytes(source)
        if missing_bytes > 0:
            self._harm(source.size, f"the file is cut off: its last {missing_bytes:,} bytes are not there")
        try:
            with closing(self._connect()) as database:
                for topic_id, connection in _topics(database):
                    self._table.define(topic_id, connection)
        except sqlite3.Error as error:
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
            except sqlite3.Error:  # what is damaged cannot be counted, and is reported when it is read
                self._expected = None
        return self._expected

    def blocks(self) -> Iterator[MessageBlock]:
        if not self._path:
            return
        with closing(self._connect()) as database:
            for rows in self._rows(database):
                rowids, topic_ids, timestamps, payloads = zip(*rows, strict=True)
                data, starts, lengths = joined(payloads)
                messages = Messages(
                    connections=np.array(topic_ids, np.int64),
                    starts=starts,
                    lengths=lengths,
                    log_times_ns=np.array(timestamps, np.int64),
                    publish_times_ns=None,
                    sequences=None,
                    offsets=np.array(rowids, np.int64),
                )
                yield from self._table.blocks(data, messages)
        self.damage.extend(self._table.undefined())
        if compressed := self._table.compressed_messages:
            self.compressions["zstd"] = compressed
        self.expected_counts()  # while the file is there

    def _harm(self, rowid: int, reason: str, *, ends_bag: bool = False) -> None:
        self.damage.append(Damage(rowid, reason, ends_bag))

    def _connect(self) -> sqlite3.Connection:
        """A connection that changes nothing, takes no lock, and may be used by another thread."""
        uri = f"{Path(self._path).absolute().as_uri()}?mode=ro&immutable=1"
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        database.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(self._source.size, 1 << 20))
        database.execute("PRAGMA writable_schema = ON")  # or a file that is cut off cannot be read at all
        return database

    def _rows(self, database: sqlite3.Connection) -> Iterator[list[_Row]]:
        """All rows that can be read, in lists of bounded size; where some cannot, damage is noted."""
        rows: list[_Row] = []
        size_bytes = 0
        first = _LEAST_ROWID
        most = _MAX_ROWS
        gaps = 0
        while True:
            try:
                for taken in _fetch(database, first, most):
                    rows += taken
                    size_bytes += sum(len(row[3]) for row in taken)
                    first = taken[-1][0] + 1
                    if size_bytes >= MAX_BLOCK_BYTES or len(rows) >= MAX_BLOCK_MESSAGES:
                        yield rows
                        rows, size_bytes = [], 0
                break
            except sqlite3.Error as error:
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
        if rows:
            yield rows


def _fetch(database: sqlite3.Connection, first: int, most: int) -> Iterator[list[_Row]]:
    """The rows from row id ``first`` on, at most ``most`` at a time, fewer where they are large.

    Raises:
        sqlite3.Error: the next row, or one of those that would be next, cannot be read.
    """
    cursor = database.execute(_ROWS, (first,))
    limit = 1
    while taken := cursor.fetchmany(limit):
        rowids = [first - 1, *(row[0] for row in taken)]
        if any(after <= before for before, after in itertools.pairwise(rowids)):
            raise sqlite3.DatabaseError("the rows are out of order")
        yield taken
        first = rowids[-1] + 1
        largest = max(len(row[3]) for row in taken)
        limit = max(1, min(most, MAX_BLOCK_BYTES // max(largest, 1)))


def _next_readable(database: sqlite3.Connection, first: int) -> int | None:
    """The next row id after ``first`` from where rows can be read; None if there is none."""

    def rows_are_there(rowid: int) -> bool:
        try:
            return database.execute(_ROWS + " LIMIT 1", (rowid,)).fetchone() is not None
        except sqlite3.Error:
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


def _missing_bytes(source: CountedSource) -> int:
    """How many bytes the file lacks by its own header; 0 where it does not say."""
    head = source.read_at(0, 100)
    if len(head) < 100:
        return 0
    page_bytes, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    if head[24:28] != head[92:96]:  # the count of pages is of an older version of SQLite's, and not valid
        return 0
    return max(pages * (65_536 if page_bytes == 1 else page_bytes) - source.size, 0)


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
            definitions.get((type_name, digest)) or definitions.get((type_name, "")) or ("", "")
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
