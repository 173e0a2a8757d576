"""SQLite bags changed by page and by statement, and what of a small one lies on which of its pages."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from tests.fuzz.mutation import Raw, number

INTERIOR, LEAF = 5, 13

_ENDLESS = "WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM c)"
_OLD_MESSAGES = "ALTER TABLE messages RENAME TO old"
_COPY = "INSERT INTO messages SELECT id, topic_id, timestamp, data FROM old"
_STATEMENTS = (
    "INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, timestamp, data FROM messages LIMIT 3",
    "INSERT INTO messages(id, topic_id, timestamp, data) VALUES({n}, 1, {n}, x'00010000')",
    "INSERT INTO messages(topic_id, timestamp, data) VALUES({v}, {v}, {v})",
    "INSERT INTO messages(topic_id, timestamp, data) VALUES(1, 5, zeroblob({k}))",
    "UPDATE messages SET timestamp = {v} WHERE id % 5 = 0",
    "UPDATE messages SET topic_id = {v} WHERE id % 5 = 0",
    "UPDATE messages SET data = {v} WHERE id % 5 = 0",
    "UPDATE messages SET id = {n} WHERE id = 3",
    "DELETE FROM messages WHERE id % {k} = 0",
    "DELETE FROM messages WHERE id > {k}",
    "INSERT INTO topics(id, name, type, serialization_format) VALUES({n}, '/a', {v}, 'cdr')",
    "INSERT INTO topics(name, type, serialization_format) VALUES({v}, {v}, {v})",
    "UPDATE topics SET name = {v} WHERE id = 1",
    "UPDATE topics SET serialization_format = {v} WHERE id = 1",
    "DELETE FROM topics WHERE id = 1",
    "DROP TABLE messages",
    "DROP TABLE topics",
    "DROP INDEX timestamp_idx",
    "CREATE INDEX timestamp_idx ON messages(timestamp)",
    "CREATE INDEX timestamp_idx ON messages(timestamp) WHERE timestamp > {n}",
    "CREATE INDEX timestamp_idx ON topics(id)",
    "ALTER TABLE messages RENAME COLUMN data TO {c}",
    "ALTER TABLE messages RENAME COLUMN timestamp TO {c}",
    "ALTER TABLE messages RENAME COLUMN id TO {c}",
    "ALTER TABLE messages ADD COLUMN {c} DEFAULT {v}",
    "ALTER TABLE topics ADD COLUMN {c} DEFAULT {v}",
    f"{_OLD_MESSAGES}; CREATE TABLE messages({{c}}, topic_id, timestamp, data); {_COPY}",
    (
        f"{_OLD_MESSAGES}; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data) "
        f"WITHOUT ROWID; {_COPY}"
    ),
    f"{_OLD_MESSAGES}; CREATE VIEW messages AS SELECT id AS rowid, * FROM old",
    (
        f"{_OLD_MESSAGES}; CREATE VIEW messages AS {_ENDLESS} "
        "SELECT id AS rowid, 1 AS topic_id, 2 AS timestamp, x'00' AS data FROM c"
    ),
    (
        f"ALTER TABLE topics RENAME TO old; CREATE VIEW topics AS {_ENDLESS} "
        "SELECT id, 'name' AS name, 'type' AS type FROM c"
    ),
    "CREATE VIEW message_definitions AS SELECT * FROM messages",
    (
        "CREATE TABLE message_definitions(topic_type, encoding, encoded_message_definition, "
        "type_description_hash)"
    ),
    "INSERT INTO message_definitions VALUES('std_msgs/msg/String', {v}, {v}, '')",
    "CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM topics; END",
    "PRAGMA user_version = {k}",
    "VACUUM",
    "PRAGMA page_size = 1024; VACUUM",
    "PRAGMA auto_vacuum = 1; VACUUM",
    "REINDEX",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = {k} WHERE name = 'messages'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = {k} WHERE name = 'topics'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = {k} WHERE name = 'timestamp_idx'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = {v} WHERE name = 'messages'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET type = {v} WHERE name = 'messages'",
)
_VALUES = (
    *("NULL", "0", "-1", "1.5", "'text'", "'/a'", "x''", "x'00010000'", "'9223372036854775808'", "1e300"),
    *(
        "9223372036854775807",
        "-9223372036854775808",
        "x'28b52ffd'",
        "CAST(x'ff' AS TEXT)",
        "'ros2msg'",
        "'cdr'",
    ),
)
_COLUMNS = ("rowid", "oid", "_rowid_", "data", "ID", "x", "type_description_hash", "timestamp")


def mutate(data: bytes, other: bytes, rng: random.Random, raw: Raw) -> bytes:
    """One change: of bytes, of a place in a page that means something, or by a statement."""
    kind = rng.random()
    if kind < 0.2:
        return raw(data, len(data) + 64)
    if kind < 0.6:
        return _changed_page(data, other, rng, raw)
    return _executed(data, rng)


def _executed(data: bytes, rng: random.Random) -> bytes:
    statement = rng.choice(_STATEMENTS).format(
        n=number(rng.randrange(100), 8, rng) - (1 << 63) * rng.randrange(2),
        k=rng.choice((0, 1, 2, 3, 5, 100, 3000)),
        v=rng.choice(_VALUES),
        c=rng.choice(_COLUMNS),
    )
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        try:
            database.deserialize(data)
            # A statement on a damaged database may run without end.
            database.set_progress_handler(lambda: 1, 100_000)
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
            database.executescript(statement)
        except (sqlite3.Error, MemoryError, OverflowError, UnicodeError):
            return data
        changed = database.serialize()
    return changed if 0 < len(changed) <= 1 << 18 else data


def _changed_page(data: bytes, other: bytes, rng: random.Random, raw: Raw) -> bytes:
    page_bytes = page_size(data)
    pages = [data[start : start + page_bytes] for start in range(0, len(data), page_bytes)]
    if not pages:
        return raw(data, 64)
    place = rng.randrange(len(pages))
    page = bytearray(pages[place])
    head = 100 if place == 0 else 0
    if len(page) < head + 12:
        return raw(data, len(data) + 64)
    match rng.randrange(8):
        case 0:  # what SQLite's header says
            if place == 0:
                at, size = rng.choice(
                    ((16, 2), (18, 1), (20, 1), (24, 4), (28, 4), (32, 4), (44, 4), (56, 4), (92, 4))
                )
                _put(page, at, size, rng)
            else:
                page[0] = rng.choice((2, 5, 10, 13, 0))
        case 1:  # what the page's header says
            at, size = rng.choice(((1, 2), (3, 2), (5, 2), (7, 1), (8, 4)))
            _put(page, head + at, size, rng)
        case 2:  # where a cell is
            _put(page, head + 8 + 2 * rng.randrange(8), 2, rng)
        case 3 | 4:  # a number within a cell: its size, row id, types, an overflow page
            starts = [int.from_bytes(page[at : at + 2], "big") for at in range(head + 8, head + 28, 2)]
            at = rng.choice(starts) + rng.randrange(12)
            _put(page, at, rng.choice((1, 4)), rng)
        case 5:  # a page is there twice
            page = bytearray(pages[rng.randrange(len(pages))])
        case 6:
            of = other[: page_bytes * 64]
            at = rng.randrange(max(len(of) // page_bytes, 1)) * page_bytes
            page = bytearray(of[at : at + page_bytes].ljust(page_bytes, b"\0"))
        case _:
            page = bytearray(raw(bytes(page), page_bytes).ljust(page_bytes, b"\0"))
    pages[place] = bytes(page)
    return b"".join(pages)


def _put(page: bytearray, at: int, size: int, rng: random.Random) -> None:
    if at + size <= len(page):
        value = number(int.from_bytes(page[at : at + size], "big"), size, rng)
        page[at : at + size] = value.to_bytes(size, "big")


# --- the pages of rows ------------------------------------------------------------------------------


def page_size(data: bytes) -> int:
    size = int.from_bytes(data[16:18], "big")
    return size if size in (512, 1024, 2048, 4096, 8192, 16_384, 32_768) else 4096


def pages_of_rows(data: bytes, root: int) -> dict[int, frozenset[int]]:
    """By row id of the table whose root page is ``root``: the pages that must be read to have the row.

    A plain reading of a sound database with https://www.sqlite.org/fileformat.html beside it.
    """
    return dict(_rows(data, page_size(data), root, frozenset()))


def _rows(data: bytes, size: int, number_: int, path: frozenset[int]) -> Iterator[tuple[int, frozenset[int]]]:
    page = data[(number_ - 1) * size : number_ * size]
    path |= {number_}
    head = 100 if number_ == 1 else 0
    cells = int.from_bytes(page[head + 3 : head + 5], "big")
    pointers = head + (12 if page[head] == INTERIOR else 8)
    for pointer in range(pointers, pointers + 2 * cells, 2):
        cell = int.from_bytes(page[pointer : pointer + 2], "big")
        if page[head] == INTERIOR:
            yield from _rows(data, size, int.from_bytes(page[cell : cell + 4], "big"), path)
            continue
        payload, cell = _varint(page, cell)
        row_id, cell = _varint(page, cell)
        yield row_id, path | frozenset(_overflow(data, size, page, cell, payload))
    if page[head] == INTERIOR:
        yield from _rows(data, size, int.from_bytes(page[head + 8 : head + 12], "big"), path)


def _overflow(data: bytes, size: int, page: bytes, cell: int, payload: int) -> Iterator[int]:
    most = size - 35
    if payload <= most:
        return
    least = (size - 12) * 32 // 255 - 23
    local = least + (payload - least) % (size - 4)
    local = local if local <= most else least
    following = int.from_bytes(page[cell + local : cell + local + 4], "big")
    while following:
        yield following
        following = int.from_bytes(data[(following - 1) * size :][:4], "big")


def _varint(page: bytes, place: int) -> tuple[int, int]:
    value = 0
    for count in range(9):
        byte = page[place + count]
        if count == 8:
            return (value << 8) | byte, place + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, place + count + 1
    raise AssertionError("unreachable")
