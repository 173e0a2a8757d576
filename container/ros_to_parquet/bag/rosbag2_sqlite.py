"""rosbag2's SQLite bags (``.db3``), from their first schema to version 4."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import apsw
import numpy as np

from ros_to_parquet.bag.blocks import MAX_BLOCK_MESSAGES, ConnectionTable
from ros_to_parquet.bag.join import joined
from ros_to_parquet.bag.model import (
    BagError,
    BagFormat,
    Connection,
    Damage,
    Int64Array,
    MessageBlock,
    Messages,
    UInt8Array,
    note,
)
from ros_to_parquet.bag.source import CountedSource, own_pages
from ros_to_parquet.bag.sqlite_files import LOG, Database
from ros_to_parquet.memory import MemoryBudget

_LEAST_ROWID, _MOST_ROWID = -(1 << 63), (1 << 63) - 1

_MAX_ROWS = 64
"""Rows taken at a time; what is larger than its part of a block is taken alone."""

_MAX_GAPS = 1000
"""Unreadable stretches after which the rest is given up."""

_MAX_TEXT_BYTES = 1 << 20
"""Of a name, a definition or a profile; a longer one is left out."""

_HEAP_BYTES = 32 << 20
"""What SQLite takes for itself at most: pages that it keeps, and rows that are read."""

_ERRORS = (apsw.Error, MemoryError, UnicodeError)
"""What a damaged database raises; it may ask for impossible amounts of memory, or hold names of any bytes."""


class _OutOfOrderError(apsw.CorruptError):
    """A table's pages do not lead from row id to row id."""


class SqliteReader:
    """A SQLite bag, read in the order of its rows. It cannot be split: its first slice is the whole.

    Of topics that are not wanted, the messages' contents are not read where they fill pages of their own.

    Raises:
        BagError: no rosbag2 database, or one that is damaged where its topics are.
        OSError: or whatever else the source raises.
    """

    format: BagFormat = "sqlite3"

    def __init__(
        self,
        source: CountedSource,
        *,
        wanted: Callable[[str], bool],
        budget: MemoryBudget,
        slice_index: int,
        beside: Mapping[str, CountedSource],
    ) -> None:
        """Of the files ``beside`` it, SQLite's write-ahead log and rollback journal are made use of."""
        self.damage: list[Damage] = []
        self.compressions: dict[str, int] = {}
        self.unread_messages = 0
        self._source = source
        self._beside = beside
        self._size = source.size + sum(each.size for each in beside.values())
        self._budget = budget
        self._table = ConnectionTable(wanted, budget)
        self.counts = self._table.counts
        self._indexed: int | None = None
        self._query = ""
        self._database: Database | None = None
        if slice_index > 0:
            return
        page_bytes, missing_bytes = _header(source)
        if missing_bytes > 0 and not beside:  # what is not in the file may be in those
            self._harm(source.size, f"the file is cut off: its last {missing_bytes:,} bytes are not there")
        if LOG in beside:
            self._harm(
                -1,
                f"the bag was never closed: {beside[LOG].size:,} bytes of its write-ahead log were read with "
                "it, but it may lack its last messages",
            )
        try:
            with ExitStack() as stack:
                # Of a page that is cut off, SQLite would take zeros for the rest.
                whole_pages_bytes = source.size - source.size % page_bytes
                self._database = Database(
                    source, beside, size=whole_pages_bytes, kept_bytes=2 * budget.window
                )
                stack.callback(self._database.close)
                self._begin(self._database, wanted)
                stack.pop_all()
        except _ERRORS as error:
            if self._database is not None:
                self._database.raise_failure()
            raise BagError(
                f"the SQLite database cannot be read: {error}; `sqlite3 FILE .recover` may help"
            ) from error

    def _begin(self, database: Database, wanted: Callable[[str], bool]) -> None:
        connection = database.connection
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, max(self._budget.block // _MAX_ROWS, _MAX_TEXT_BYTES))
        apsw.hard_heap_limit(_HEAP_BYTES)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA writable_schema = ON")  # or a file that is cut off cannot be read at all
        taken: dict[int, bool] = {}
        with _StepLimit(connection, self._size):
            for topic_id, content in _topics(connection):
                self._table.define(topic_id, content)
                taken[topic_id] = taken.get(topic_id, False) or wanted(content.topic)
            for table in _TEXT_TABLES:
                if count := _long_texts(connection, table):
                    self._harm(
                        -1,
                        f"{count:,} rows of its table {table!r} have text of more than {_MAX_TEXT_BYTES:,} "
                        "bytes, which is left out",
                    )
        self._query = _rows_query(
            _row_id(_columns(connection, "messages")),
            [topic_id for topic_id, is_wanted in taken.items() if not is_wanted],
            self._budget.block // _MAX_ROWS,
        )
        if database.is_rolled_back:
            self._harm(
                -1,
                "its last transaction was not finished: by the rollback journal beside it, messages of that "
                "transaction were taken back",
            )

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read + sum(each.bytes_read for each in self._beside.values())

    def connections(self) -> list[Connection]:
        return list(self._table.connections)

    def expected_counts(self) -> dict[int, int] | None:
        """The counts of the rows that were read, held against the number of entries in the index of times.

        That index is a tree of its own beside the rows', and knows no topics: entries without a row that
        could be read count as -1, as do rows of topics that the bag never defines. Of a bag without that
        index, the rows' own numbers tell: rosbag2 counts them from 1.
        """
        if self._database is None:
            return {}
        if self._indexed is None:
            return None
        expected = dict(self.counts)
        if more := self._indexed - sum(expected.values()):
            expected[-1] = more
        return expected

    def blocks(self) -> Iterator[MessageBlock]:
        if self._database is None:
            return
        with closing(self._database) as database:
            index = _IndexCount(database.connection, self._size)
            found = last = 0
            for rows in self._rows(database, index):
                data, starts, lengths = _buffer(rows.payloads)
                messages = Messages(
                    connections=np.array(rows.topic_ids, np.int64),
                    starts=starts,
                    lengths=lengths,
                    log_times_ns=np.array(rows.timestamps, np.int64),
                    publish_times_ns=None,
                    sequences=None,
                    offsets=np.array(rows.rowids, np.int64),
                )
                found += len(messages)
                last = rows.rowids[-1]
                if isinstance(rows.payloads[0], int):
                    yield from self._table.oversize(messages)
                else:
                    yield from self._table.blocks(data, messages)
            yield from self._table.rest()
            if index.is_there:
                self._indexed = index.count_rest()
            elif found == last and not any(each.offset >= 0 for each in self.damage):
                self._indexed = found
            database.raise_failure()
        if self._indexed is not None and self._indexed < found:
            self._harm(-1, f"its index has {self._indexed:,} messages, and {found:,} were found")
            self._indexed = None
        for damage in self._table.undefined():
            note(self.damage, damage)
        if compressed := self._table.compressed_messages:
            self.compressions["zstd"] = compressed

    def _harm(self, rowid: int, reason: str, *, ends_bag: bool = False) -> None:
        note(self.damage, Damage(rowid, reason, ends_bag))

    def _rows(self, database: Database, index: _IndexCount) -> Iterator[_Rows]:
        """All rows that can be read, some at a time; where some cannot, damage is noted.

        The index is counted along with them.
        """
        rows = _Rows()
        first = _LEAST_ROWID
        most = _MAX_ROWS
        gaps = 0
        doubt = ""  # an error at ``first`` that is not noted yet
        while True:
            try:
                for taken in _fetch(database.connection, self._query, first, most, self._budget.message):
                    if (
                        doubt and taken[0][0] > first
                    ):  # a search in a damaged page may miss rows, and say nothing
                        begin, end = max(first, 0), taken[0][0] - 1
                        self._harm(begin, f"rows {begin:,} to {end:,} cannot be read: {doubt}")
                    doubt = ""
                    alone = not isinstance(taken[3][0], bytes)
                    if alone and rows.rowids:
                        yield rows
                        rows = _Rows()
                    rows.extend(*taken)
                    index.follow(*taken)
                    first = rows.rowids[-1] + 1
                    if alone:
                        yield rows
                        rows = _Rows()
                        continue
                    if rows.size_bytes >= self._budget.block or len(rows.rowids) >= MAX_BLOCK_MESSAGES:
                        yield rows
                        rows = _Rows()
                if doubt:
                    self._harm(
                        max(first, 0),
                        f"rows from {max(first, 0):,} on cannot be read: {doubt}",
                        ends_bag=True,
                    )
                break
            except _ERRORS as error:
                database.raise_failure()
                if most > 1:  # again, one by one: the others of the rows taken together can be read
                    if isinstance(error, _OutOfOrderError):  # a search may go on as if nothing were wrong
                        self._harm(max(first, 0), f"rows before {first:,} may be missing: {error}")
                    most = 1
                    doubt = str(error)
                    continue
                doubt = ""
                gaps += 1
                begin = max(first, 0)
                readable = (
                    _next_readable(database.connection, self._query, first) if gaps < _MAX_GAPS else None
                )
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
        self.payloads: list[bytes | memoryview | int] = []
        """One that is large is alone; one that is too large is its size."""
        self.size_bytes = 0

    def extend(
        self,
        rowids: Sequence[int],
        topic_ids: Sequence[int],
        timestamps: Sequence[int],
        payloads: Sequence[bytes | memoryview | int],
    ) -> None:
        self.rowids.extend(rowids)
        self.topic_ids.extend(topic_ids)
        self.timestamps.extend(timestamps)
        self.payloads.extend(payloads)
        self.size_bytes += sum(map(_size, payloads))


def _buffer(payloads: Sequence[bytes | memoryview | int]) -> tuple[UInt8Array, Int64Array, Int64Array]:
    """Payloads in one buffer (see `joined`), where the large one of a row is without a copy."""
    match payloads:
        case [memoryview() as large]:
            return np.frombuffer(large, np.uint8), np.zeros(1, np.int64), np.array([len(large)], np.int64)
        case [int() as size]:
            return np.zeros(0, np.uint8), np.zeros(1, np.int64), np.array([size], np.int64)
        case _:
            return joined([payload for payload in payloads if isinstance(payload, bytes)])


def _size(payload: bytes | memoryview | int) -> int:
    return payload if isinstance(payload, int) else len(payload)


def _row_id(columns: set[str]) -> str:
    """What the row id is called in a table: one of its names that no column has taken."""
    taken = {name.lower() for name in columns}
    free = [name for name in ("rowid", "oid", "_rowid_") if name not in taken]
    if not free:
        raise BagError("a SQLite database, but no rosbag2 bag: its messages have no row ids")
    return free[0]


def _rows_query(row_id: str, unwanted: Sequence[int], small_bytes: int) -> str:
    """A query of rows from a row id on; of ``unwanted`` topics without their contents.

    Of contents that are larger than ``small_bytes`` it gives the size, which is known without reading them.
    """
    topic_id, data = "IFNULL(CAST(topic_id AS INTEGER), -1)", "IFNULL(CAST(data AS BLOB), x'')"
    data = f"CASE WHEN octet_length(data) > {small_bytes} THEN octet_length(data) ELSE {data} END"
    if unwanted:
        data = f"CASE WHEN {topic_id} IN ({', '.join(map(str, unwanted))}) THEN x'' ELSE {data} END"
    time_ns = "IFNULL(CAST(timestamp AS INTEGER), 0)"
    return (
        f"SELECT {row_id}, {topic_id}, {time_ns}, {data} FROM messages WHERE {row_id} >= ? ORDER BY {row_id}"
    )


def _fetch(
    database: apsw.Connection, query: str, first: int, most: int, message_bytes: int
) -> Iterator[tuple[Any, ...]]:
    """The rows from row id ``first`` on, in columns; at most ``most`` at a time, a large one alone.

    In the place of contents larger than ``message_bytes`` is their size.

    Raises:
        apsw.Error: the next row, or one of those that would be next, cannot be read.
    """
    cursor = database.execute(query, (first,))
    limit = 1
    while taken := list(itertools.islice(cursor, limit)):
        found = [first - 1, *(row[0] for row in taken)]
        # A loop of pages in a damaged file would never end; a page that is there twice gives its rows twice.
        in_order = all(map(operator.lt, found, found[1:]))
        if not in_order:
            taken = taken[: next(place for place in range(len(taken)) if found[place + 1] <= found[place])]
            if not taken:
                raise _OutOfOrderError("the rows are out of order")
        rowids, topic_ids, timestamps, payloads = zip(*taken, strict=True)
        begin = 0
        for place, payload in enumerate(payloads):
            if isinstance(payload, int):
                if begin < place:
                    yield tuple(column[begin:place] for column in (rowids, topic_ids, timestamps, payloads))
                content = payload if payload > message_bytes else _large(database, rowids[place])
                yield (
                    rowids[place : place + 1],
                    topic_ids[place : place + 1],
                    timestamps[place : place + 1],
                    (content,),
                )
                begin = place + 1
        if begin < len(rowids):
            yield tuple(column[begin:] for column in (rowids, topic_ids, timestamps, payloads))
        if not in_order:
            raise _OutOfOrderError("the rows are out of order")
        first = rowids[-1] + 1
        limit = most


def _large(database: apsw.Connection, rowid: int) -> memoryview:
    """A large message, in memory of its own and there once."""
    with database.blob_open("main", "messages", "data", rowid, False) as blob:
        content = memoryview(own_pages(blob.length()))
        blob.read_into(content)
    return content


def _next_readable(database: apsw.Connection, query: str, first: int) -> int | None:
    """The next row id after ``first`` from where rows can be read; None if there is none."""

    def rows_are_there(rowid: int) -> bool:
        try:
            return database.execute(f"{query} LIMIT 1", (rowid,)).fetchone() is not None
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


class _IndexCount:
    """The entries of the bag's index of times, counted in stretches while the rows are read.

    An index's pages lie among those of the rows that it was written with: so they need not be fetched again.
    """

    _STRETCH_BYTES = 4 << 20
    _STRETCH_ROWS = 4096

    def __init__(self, database: apsw.Connection, size: int) -> None:
        self._database = database
        query = "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = 'timestamp_idx'"
        try:
            self.is_there = database.execute(query).fetchone() is not None
        except _ERRORS:  # damaged where indexes are listed, after the tables
            self.is_there = False
        self._limit = _StepLimit(database, size)
        self._entries: int | None = 0 if self.is_there else None
        self._counted_to: int | None = None
        self._times: list[int] = []
        self._size_bytes = 0
        self._count("timestamp IS NULL")

    def follow(
        self,
        _rowids: Sequence[int],
        _topic_ids: Sequence[int],
        times: Sequence[int],
        payloads: Sequence[bytes | memoryview | int],
    ) -> None:
        """Takes note of rows that were read, and counts on when they are many."""
        self._times.extend(times)
        self._size_bytes += sum(map(_size, payloads))
        if self._size_bytes >= self._STRETCH_BYTES or len(self._times) >= self._STRETCH_ROWS:
            # One time far off must not have all of the index be read: the middle one of them does not.
            middle = sorted(self._times)[len(self._times) // 2]
            if self._counted_to is None:
                self._count("timestamp <= ?", middle)
            elif middle > self._counted_to:
                self._count("timestamp > ? AND timestamp <= ?", self._counted_to, middle)
            self._counted_to = middle if self._counted_to is None else max(middle, self._counted_to)
            self._times.clear()
            self._size_bytes = 0

    def count_rest(self) -> int | None:
        """All entries; None where they cannot be read."""
        if self._counted_to is None:
            self._count("timestamp IS NOT NULL")
        else:
            self._count("timestamp > ?", self._counted_to)
        return self._entries

    def _count(self, which: str, *values: int) -> None:
        if self._entries is None:
            return
        query = f"SELECT COUNT(*) FROM messages INDEXED BY timestamp_idx WHERE {which}"
        try:
            with self._limit:
                self._entries += self._database.execute(query, values).get
        except _ERRORS:  # damaged, as the rows may be, which are what is reported
            self._entries = None


class _StepLimit:
    """Ends queries that would never end, in a damaged or hostile file, with an `apsw.Error`.

    A row takes more than 10 bytes of a file and less than 30 of SQLite's steps: more steps are a loop.
    """

    _STEPS = 100_000

    def __init__(self, database: apsw.Connection, size: int) -> None:
        self._database = database
        self._most_steps = 3 * size + 10 * self._STEPS
        self._steps = 0

    def __enter__(self) -> None:
        self._database.set_progress_handler(self._is_endless, self._STEPS)

    def __exit__(self, *_: object) -> None:
        self._database.set_progress_handler(None)

    def _is_endless(self) -> bool:
        self._steps += self._STEPS
        return self._steps > self._most_steps


def _header(source: CountedSource) -> tuple[int, int]:
    """The size of a page, and how many bytes the file lacks by its own header (0 where it does not say)."""
    head = source.read_at(0, 100).ljust(100, b"\0")
    page_bytes, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    page_bytes = 65_536 if page_bytes == 1 else max(page_bytes, 512)
    if head[24:28] != head[92:96]:  # then the count of pages is left over from an older version of SQLite
        return page_bytes, -source.size % page_bytes
    return page_bytes, max(pages * page_bytes - source.size, 0)


_TEXT_TABLES = ("topics", "message_definitions")
_TABLES = (*_TEXT_TABLES, "messages")


def _long_texts(database: apsw.Connection, table: str) -> int:
    """How many rows of a table have text that is too long, so that it is left out."""
    names = sorted(_columns(database, table))
    if not names:
        return 0
    is_long = " OR ".join(f"octet_length({_quoted(name)}) > {_MAX_TEXT_BYTES}" for name in names)
    return int(database.execute(f"SELECT COUNT(*) FROM {table} WHERE {is_long}").get)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _topics(database: apsw.Connection) -> Iterator[tuple[int, Connection]]:
    """The topics by their recorded id.

    Raises:
        BagError: there are no tables of topics and messages.
        apsw.Error: they cannot be read.
    """
    columns = {table: _columns(database, table) for table in _TABLES}
    for table in ("topics", "messages"):
        if not columns[table]:
            raise BagError(f"a SQLite database, but no rosbag2 bag: it has no table {table!r}")
    for table in columns:
        if columns[table] and (kind := _kind(database, table)) != "table":  # a view may have rows without end
            raise BagError(
                f"a SQLite database, but no rosbag2 bag: its {table!r} is not a table but of kind {kind!r}"
            )
        if columns[table] and _computed(database, table):  # whatever that makes, and however large
            raise BagError(
                f"a SQLite database, but no rosbag2 bag: its {table!r} has columns that are computed"
            )
    definitions: dict[tuple[str, str], tuple[str, str]] = {}
    names: tuple[str, ...] = ("topic_type", "encoding", "encoded_message_definition", "type_description_hash")
    table = "message_definitions" if columns["message_definitions"] else "(SELECT 1 LIMIT 0)"
    for _, (type_name, encoding, text, digest) in _texts(
        database, columns["message_definitions"], "0", names, table
    ):
        definitions[type_name, digest] = (encoding, text)
        definitions.setdefault((type_name, ""), (encoding, text))
    names = ("name", "type", "serialization_format", "offered_qos_profiles", "type_description_hash")
    for topic_id, (topic, type_name, encoding, qos, digest) in _texts(
        database, columns["topics"], "CAST(id AS INTEGER)", names, "topics ORDER BY id"
    ):
        if topic_id is None:  # SQLite lets a table have such ids, in a damaged file even this one
            continue
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


def _texts(
    database: apsw.Connection, columns: set[str], first: str, names: Sequence[str], rest: str
) -> Iterator[tuple[Any, list[str]]]:
    """What ``first`` gives, and columns as text, empty where a bag's version of the schema has none such."""
    # As bytes, for text in a database may be any.
    blobs = [
        f"CASE WHEN octet_length({name}) > {_MAX_TEXT_BYTES} THEN x'' "
        f"ELSE CAST(IFNULL(CAST({name} AS TEXT), '') AS BLOB) END"
        if name in columns
        else "x''"
        for name in names
    ]
    encoding = str(database.pragma("encoding"))
    for key, *values in database.execute(f"SELECT {first}, {', '.join(blobs)} FROM {rest}"):
        yield key, [value.decode(encoding, "backslashreplace") for value in values]


def _kind(database: apsw.Connection, table: str) -> str:
    """What a name stands for: ``table``, ``view``, ``virtual`` or ``shadow``; empty for nothing."""
    query = "SELECT type FROM pragma_table_list(?) WHERE schema = 'main'"
    return "".join(str(kind) for (kind,) in database.execute(query, (table,)))


def _computed(database: apsw.Connection, table: str) -> bool:
    query = "SELECT COUNT(*) FROM pragma_table_xinfo(?) WHERE hidden > 0"
    return bool(database.execute(query, (table,)).get)


def _columns(database: apsw.Connection, table: str) -> set[str]:
    return {str(name) for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}
