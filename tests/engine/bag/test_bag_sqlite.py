"""rosbag2's SQLite bags of all versions of the schema, damaged ones too."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import numpy as np
import pytest
import zstandard
from bag_bytes import DEFINITION, T0, Memory, read
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ros_to_parquet.bag import BagError, LocalFile, open_bag
from ros_to_parquet.bag.blocks import MAX_BLOCK_MESSAGES
from ros_to_parquet.memory import DEFAULT_BUDGET

MESSAGES = """CREATE TABLE messages(
    id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, data BLOB NOT NULL)"""
TOPICS = {
    1: "id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL",
    2: "id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,"
    " offered_qos_profiles TEXT NOT NULL",
    4: "id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,"
    " offered_qos_profiles TEXT NOT NULL, type_description_hash TEXT NOT NULL",
}
DEFINITIONS = """CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL,
    encoding TEXT NOT NULL, encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL)"""


def make(path: Path, rows, *, version: int = 4, topics=None, page_size: int = 4096) -> Path:
    """A bag of (topic id, time, payload) rows."""
    topics = topics or {1: "/a", 2: "/b"}
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute(f"CREATE TABLE topics({TOPICS[version]})")
        database.execute(MESSAGES)
        database.execute("CREATE INDEX timestamp_idx ON messages (timestamp ASC)")
        more = {1: (), 2: ("- history: 3",), 4: ("- history: 3", "RIHS01_aa")}[version]
        for topic_id, name in topics.items():
            row = (topic_id, name, "std_msgs/msg/String", "cdr", *more)
            database.execute(f"INSERT INTO topics VALUES({','.join('?' * len(row))})", row)
        if version == 4:
            database.execute(DEFINITIONS)
            values = ("std_msgs/msg/String", "ros2msg", DEFINITION, "RIHS01_aa")
            database.execute("INSERT INTO message_definitions VALUES(1, ?, ?, ?, ?)", values)
        database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", rows)
        database.commit()
    return path


def read_file(path: Path, **options):
    with LocalFile(path) as file:
        return read(file, **options)


def some_rows(count: int, size: int = 40) -> list[tuple[int, int, bytes]]:
    return [(1 + n % 3 // 2, T0 + n, b"\0\1\0\0" + b"%06d" % n * (size // 6)) for n in range(count)]


def as_topics(rows, names=("/a", "/b")) -> dict[str, list[tuple[int, bytes]]]:
    found: dict[str, list[tuple[int, bytes]]] = {}
    for topic_id, time_ns, payload in rows:
        found.setdefault(names[topic_id - 1], []).append((time_ns, payload))
    return found


@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.MESSAGE])
def test_rosbag2_files(tmp_path, mode) -> None:
    folder = tmp_path / "bag"
    store = get_typestore(Stores.ROS2_JAZZY)
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    random = np.random.default_rng(7)
    rows = []
    with writer:
        imu = writer.add_connection("/imu", "sensor_msgs/msg/Imu", typestore=store)
        image = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        for number in range(1500):
            row = (1, T0 + number * 7, b"\0\1\0\0" + random.bytes(random.integers(0, 400)))
            writer.write(imu, *row[1:])
            rows.append(row)
            if number % 100 == 0:
                row = (2, T0 + number * 7 + 1, b"\0\1\0\0" + bytes(100_000))
                writer.write(image, *row[1:])
                rows.append(row)
    path = folder / "bag.db3"
    found = read_file(path, metadata=(folder / "metadata.yaml").read_text())
    assert found.is_as_expected and found.by_topic == as_topics(rows, ("/imu", "/image"))
    assert found.reader.bytes_read == path.stat().st_size
    assert found.reader.compressions == ({"zstd": len(rows)} if mode == CompressionMode.MESSAGE else {})
    connection = found.reader.connections()[0]
    assert (connection.topic, connection.type_name, connection.encoding) == (
        "/imu",
        "sensor_msgs/msg/Imu",
        "cdr",
    )
    assert (connection.definition_format, "MSG: geometry_msgs/Vector3" in connection.definition) == (
        "ros2msg",
        True,
    )
    assert connection.definition_hash == store.hash_rihs01("sensor_msgs/msg/Imu")


@pytest.mark.parametrize("version", [1, 2, 4])
def test_schemas(tmp_path, version: int) -> None:
    rows = some_rows(100)
    found = read_file(make(tmp_path / "a #1?.db3", rows, version=version))
    assert found.is_as_expected and found.by_topic == as_topics(rows)
    connection = found.reader.connections()[0]
    assert connection.metadata == ({} if version == 1 else {"offered_qos_profiles": "- history: 3"})
    assert connection.definition_hash == ("RIHS01_aa" if version == 4 else "")
    assert connection.definition_format == ("ros2msg" if version == 4 else "")
    assert connection.definition == (DEFINITION if version == 4 else "")


def test_order_offsets_and_bounds(tmp_path) -> None:
    rows = [(1, T0 - n, b"") for n in range(MAX_BLOCK_MESSAGES + 10)]
    rows += [(2, T0, bytes(DEFAULT_BUDGET.block // 4))] * 9
    with LocalFile(make(tmp_path / "a.db3", rows)) as file:
        blocks = list(open_bag(file).blocks())
    offsets: dict[str, list[int]] = {"/a": [], "/b": []}
    for block in blocks:
        offsets[block.connection.topic] += block.offsets.tolist()
    assert offsets["/a"] == list(range(1, MAX_BLOCK_MESSAGES + 11))
    assert offsets["/b"] == list(range(MAX_BLOCK_MESSAGES + 11, len(rows) + 1))
    assert max(len(block) for block in blocks) <= MAX_BLOCK_MESSAGES
    assert max(int(block.lengths.sum()) for block in blocks) <= DEFAULT_BUDGET.block
    assert blocks[0].log_times_ns[:3].tolist() == [T0, T0 - 1, T0 - 2]
    assert blocks[0].publish_times_ns is None and blocks[0].sequences is None


def test_no_messages(tmp_path) -> None:
    found = read_file(make(tmp_path / "a.db3", []))
    assert found.is_as_expected and found.messages == []
    assert [connection.topic for connection in found.reader.connections()] == ["/a", "/b"]
    assert found.reader.expected_counts() == {0: 0, 1: 0}


def test_only_the_first_slice_reads(tmp_path) -> None:
    rows = some_rows(50)
    path = make(tmp_path / "a.db3", rows)
    assert read_file(path, slice_index=0, slice_count=3).by_topic == as_topics(rows)
    source = Memory(path.read_bytes())  # without a folder: its local path must not be asked for
    second = read(source, slice_index=1, slice_count=3)
    assert second.messages == [] and second.is_as_expected and second.reader.expected_counts() == {}


def test_wanted_topics_are_yielded_and_all_are_counted(tmp_path) -> None:
    rows = some_rows(50)
    found = read_file(make(tmp_path / "a.db3", rows), wanted=lambda topic: topic == "/b")
    assert found.is_as_expected
    assert found.by_topic == as_topics(row for row in rows if row[0] == 2) | {}
    assert sum(found.reader.counts.values()) == 50


# --- what is read of it ------------------------------------------------------------------------------


def mixed_rows(count: int, *, large: int) -> list[tuple[int, int, bytes]]:
    """Small messages of topic 1 and a large one of topic 2 after every 50th."""
    random = np.random.default_rng(5)
    rows = []
    for number in range(count):
        rows.append((1, T0 + 2 * number, random.bytes(300)))
        if number % 50 == 49:
            rows.append((2, T0 + 2 * number + 1, random.bytes(large)))
    return rows


def test_a_large_file_is_read_forward_and_once(tmp_path) -> None:
    rows = mixed_rows(30_000, large=60_000)
    data = make(tmp_path / "a.db3", rows).read_bytes()
    assert len(data) > 45 << 20
    source = Memory(data)
    found = read(source)
    assert found.is_as_expected and found.by_topic == as_topics(rows)
    assert len(data) * 0.99 < found.reader.bytes_read < len(data) * 1.05
    assert len(source.reads) < 80
    assert found.reader.bytes_read == sum(min(length, len(data) - start) for start, length in source.reads)


def test_large_messages_of_unwanted_topics_are_not_fetched(tmp_path) -> None:
    rows = mixed_rows(1000, large=3_000_000)
    data = make(tmp_path / "a.db3", rows).read_bytes()
    found = read(Memory(data), wanted=lambda topic: topic == "/a")
    assert found.is_as_expected and found.by_topic == {"/a": as_topics(rows)["/a"]}
    assert sum(found.reader.counts.values()) == len(rows)
    assert found.reader.bytes_read < len(data) / 10


def test_times_far_off_and_out_of_order_are_counted(tmp_path) -> None:
    rows = [(1, T0 - n * (-1) ** n, b"%d" % n * 99) for n in range(20_000)]
    rows[7:9] = [(1, 1 << 62, b""), (1, -5, b"")]
    found = read_file(make(tmp_path / "a.db3", rows))
    assert found.is_as_expected and len(found.messages) == len(rows)


@pytest.mark.parametrize("at_read", [1, 2, 3, 6, 20])
def test_an_error_of_the_source_is_no_damage(tmp_path, at_read: int) -> None:
    class Failing(Memory):
        def read_at(self, offset: int, length: int) -> bytes:
            if len(self.reads) + 1 >= at_read:
                raise ConnectionResetError("the network is gone")
            return super().read_at(offset, length)

    data = make(tmp_path / "a.db3", mixed_rows(2000, large=1_000_000)).read_bytes()
    with pytest.raises(ConnectionResetError, match="the network is gone"):
        read(Failing(data))


# --- counts -----------------------------------------------------------------------------------------


def test_rows_that_the_index_has_and_the_table_lost(tmp_path) -> None:
    """A page that says it has fewer rows is sound: nothing but the index tells that more were there."""
    rows = some_rows(3000, size=300)
    path = make(tmp_path / "a.db3", rows)
    data = bytearray(path.read_bytes())
    page = data.index(b"001500" * 50) // 4096 * 4096
    data[page + 4] -= 3  # the lower byte of the count of rows
    path.write_bytes(data)
    found = read_file(path)
    assert len(found.messages) == 2997 and not found.reasons
    assert found.reader.expected_counts() == found.reader.counts | {-1: 3}


def test_rows_that_the_index_lacks(tmp_path) -> None:
    path = make(tmp_path / "a.db3", some_rows(3000, size=300))
    data = bytearray(path.read_bytes())
    with closing(apsw.Connection(str(path))) as database:
        query = "SELECT pageno FROM dbstat WHERE name = 'timestamp_idx' AND pagetype = 'leaf'"
        pages = [page for (page,) in database.execute(query)]
    data[(pages[1] - 1) * 4096 + 4] -= 3
    path.write_bytes(data)
    found = read_file(path)
    assert len(found.messages) == 3000 and found.reader.expected_counts() is None
    assert found.reasons == ["its index has 2,997 messages, and 3,000 were found"]


@pytest.mark.parametrize("deleted", [0, 1])
def test_without_an_index_the_numbers_of_rows_tell(tmp_path, deleted: int) -> None:
    path = make(tmp_path / "a.db3", some_rows(100))
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP INDEX timestamp_idx")
        database.execute("DELETE FROM messages WHERE id = 50 AND ?", (deleted,))
        database.commit()
    found = read_file(path)
    assert len(found.messages) == 100 - deleted and not found.reasons
    assert found.reader.expected_counts() == (None if deleted else found.reader.counts)


def test_compressed_messages_without_metadata(tmp_path) -> None:
    rows = [(1, T0 + n, b"\0\1\0\0payload %d" % n) for n in range(20)]
    stored = [(topic_id, time_ns, zstandard.compress(payload)) for topic_id, time_ns, payload in rows]
    found = read_file(make(tmp_path / "a.db3", stored))
    assert found.is_as_expected and found.by_topic == as_topics(rows)
    assert found.reader.compressions == {"zstd": 20}


def test_odd_values(tmp_path) -> None:
    path = make(tmp_path / "a.db3", [])
    with closing(sqlite3.connect(path)) as database:
        for table, columns in (("messages", "topic_id, timestamp, data"), ("topics", "name, type")):
            database.execute(f"DROP TABLE {table}")
            database.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, {columns})")
        rows = [
            (1, "12", "text"),
            ("1", 13.7, 5),
            (1, None, None),
            (None, 1, b""),
            (-7, 1, b""),
            (99_999, 1, b""),
        ]
        database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", rows)
        database.execute("INSERT INTO topics VALUES(1, CAST(x'2fff' AS TEXT), NULL)")
        database.commit()
    found = read_file(path)
    assert found.by_topic == {"/\\xff": [(12, b"text"), (13, b"5"), (0, b"")]}
    assert found.reasons == [
        "1 messages of connection -7, which the bag never defines",
        "1 messages of connection -1, which the bag never defines",
        "1 messages of connection 99999, which the bag never defines",
    ]
    assert found.reader.expected_counts() == {0: 3, -1: 3}


def test_databases_that_are_no_bags(tmp_path) -> None:
    path = tmp_path / "a.db3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other(x)")
    with pytest.raises(BagError, match="no rosbag2 bag: it has no table 'topics'"):
        read_file(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE topics({TOPICS[4]})")
    with pytest.raises(BagError, match="it has no table 'messages'"):
        read_file(path)
    path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(BagError, match=r"SQLite database cannot be read: .*recover"):
        read_file(path)


ENDLESS = "WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM c)"


@pytest.mark.parametrize(
    ("table", "view"),
    [
        ("topics", f"{ENDLESS} SELECT id, 'name' AS name, 'type' AS type FROM c"),
        ("messages", f"{ENDLESS} SELECT id AS rowid, 1 AS topic_id, 2 AS timestamp, x'00' AS data FROM c"),
    ],
)
def test_views_without_end_are_refused(tmp_path, table: str, view: str) -> None:
    path = make(tmp_path / "a.db3", some_rows(3))
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"DROP TABLE {table}")
        database.execute(f"CREATE VIEW {table} AS {view}")
    with pytest.raises(BagError, match=f"its '{table}' is not a table but of kind 'view'"):
        read_file(path)


def test_a_loop_of_pages_among_topics_ends(tmp_path) -> None:
    """Pages that hold each page of the level below them many times: more rows than anybody could read."""
    path = make(tmp_path / "a.db3", some_rows(3), page_size=512)
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'topics'").fetchone()
    data = bytearray(path.read_bytes())
    leaf = bytes(data[(root - 1) * 512 : root * 512])
    first = len(data) // 512 + 1
    data[(root - 1) * 512 : root * 512] = interior_page(first)
    for level in range(1, 8):
        data += interior_page(first + level)
    data += leaf
    data[28:32] = (len(data) // 512).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(BagError, match="interrupted"):
        read_file(path)


def interior_page(child: int, *, cells: int = 60) -> bytes:
    """A page of a table's tree that has the same page below it again and again."""
    place = child.to_bytes(4, "big")
    start = 512 - 5 * cells
    head = b"\x05\0\0" + cells.to_bytes(2, "big") + start.to_bytes(2, "big") + b"\0" + place
    starts = b"".join((start + 5 * cell).to_bytes(2, "big") for cell in range(cells))
    return (head + starts).ljust(start, b"\0") + (place + b"\x7f") * cells


def test_columns_that_have_the_name_of_the_row_id(tmp_path) -> None:
    path = make(tmp_path / "a.db3", some_rows(3))
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE messages ADD COLUMN RowId DEFAULT 'x'")
    found = read_file(path)
    assert found.is_as_expected and len(found.messages) == 3
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE messages ADD COLUMN oid")
        database.execute("ALTER TABLE messages ADD COLUMN _rowid_")
    with pytest.raises(BagError, match="its messages have no row ids"):
        read_file(path)


def test_a_topic_without_an_id_has_no_messages(tmp_path) -> None:
    path = tmp_path / "a.db3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE topics(id, name, type, serialization_format)")
        database.execute("INSERT INTO topics VALUES(NULL, '/a', 'x/Y', 'cdr'), (1, '/b', 'x/Y', 'cdr')")
        database.execute(MESSAGES)
        database.execute("INSERT INTO messages VALUES(1, 1, 5, x'00')")
        database.commit()
    found = read_file(path)
    assert found.by_topic == {"/b": [(5, b"\0")]}


def test_rows_that_a_search_in_a_damaged_page_misses_are_damage(tmp_path) -> None:
    """A row id of 0 among rows in order: read in their order all are there, sought by row id some are not."""
    rows = some_rows(24, size=20)
    rows[12] = (1, T0 + 12, b"x" * 1500)
    path = make(tmp_path / "a.db3", rows, page_size=512)
    data = path.read_bytes()
    (place,) = (found.start() for found in re.finditer(rb"\x12\x05\0[\x01\x09]\x06", data))
    path.write_bytes(data[:place] + b"\0" + data[place + 1 :])
    whole = {row[1:] for row in rows}
    for block_bytes in (1 << 20, 4096):  # the large row is read by itself, by its row id
        found = read_file(path, budget=replace(DEFAULT_BUDGET, block=block_bytes))
        there = {(message.log_time_ns, message.payload) for message in found.messages}
        assert there <= whole
        assert there == whole or any("cannot be read" in reason for reason in found.reasons)


def test_rows_of_a_page_that_is_there_twice_are_there_once(tmp_path) -> None:
    rows = some_rows(40, size=20)
    path = make(tmp_path / "a.db3", rows, page_size=512)
    data = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'").fetchone()
    start = (root - 1) * 512
    first, second = (
        start + int.from_bytes(data[start + place : start + place + 2], "big") for place in (12, 14)
    )
    data[first : first + 4] = data[second : second + 4]  # the root's first page is its second one
    path.write_bytes(data)
    found = read_file(path)
    assert "may be missing: the rows are out of order" in found.reasons[0]
    assert len(found.messages) == len(set(found.messages)) > 15


def test_a_list_of_tables_that_is_broken_after_those_of_a_bag(tmp_path) -> None:
    path = make(tmp_path / "a.db3", some_rows(3), page_size=512)
    with closing(sqlite3.connect(path)) as database:
        for number in range(30):
            database.execute(f"CREATE TABLE more_{number}(x, y, z)")
    data = bytearray(path.read_bytes())
    last = int.from_bytes(data[108:112], "big")  # the list is a tree of pages; this is its last one
    data[(last - 1) * 512 : last * 512] = b"\xff" * 512
    path.write_bytes(data)
    assert len(read_file(path).messages) == 3


# --- what SQLite leaves beside it -------------------------------------------------------------------

RECORDER = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2].split(";"):
    database.execute(statement)
os._exit(9)  # as if it were killed: nothing is closed
"""

INSERT = """WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
    INSERT INTO messages(topic_id, timestamp, data) SELECT 1 + i % 2, i, randomblob(500) FROM n"""


def killed(path: Path, *statements: str) -> None:
    """Has another process change the bag and end without closing it."""
    done = subprocess.run([sys.executable, "-c", RECORDER, path, ";".join(statements)], check=False)
    assert done.returncode == 9


def read_with_beside(path: Path, **options):
    files = {end: path.with_name(path.name + end) for end in ("-wal", "-journal")}
    beside = {end: Memory(file.read_bytes()) for end, file in files.items() if file.exists()}
    return read_file(path, beside=beside, **options)


def by_sqlite(path: Path, folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """What SQLite itself reads from a copy, which it recovers."""
    folder.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, folder)
    with closing(sqlite3.connect(folder / path.name)) as database:
        return as_topics(database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id"))


def insert(first: int, last: int) -> str:
    return INSERT.format(first=first, last=last)


LOGGED = ("PRAGMA journal_mode = WAL", "PRAGMA wal_autocheckpoint = 0")


@pytest.mark.parametrize(
    "statements",
    [
        (insert(1, 300), insert(301, 400)),
        (
            insert(1, 3000),
            "PRAGMA wal_checkpoint(PASSIVE)",
            insert(3001, 3300),
            "DELETE FROM messages WHERE id = 9",
        ),
        (insert(1, 300), "PRAGMA wal_checkpoint(TRUNCATE)", insert(301, 400), insert(401, 500)),
        (insert(1, 300), "PRAGMA cache_size = 5", "BEGIN", insert(301, 2000)),
    ],
    ids=["one", "partly in the file", "begun again", "not committed"],
)
def test_messages_in_a_write_ahead_log(tmp_path, statements) -> None:
    path = make(tmp_path / "a.db3", [])
    killed(path, *LOGGED, *statements)
    log_bytes = path.with_name("a.db3-wal").stat().st_size
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    found = read_with_beside(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    expected = by_sqlite(path, tmp_path / "copy")
    assert found.by_topic == expected and len(found.messages) >= 300
    assert found.reader.expected_counts() == found.reader.counts
    (reason,) = found.reasons
    assert reason.startswith(
        f"the bag was never closed: {log_bytes:,} bytes of its write-ahead log were read"
    )
    assert found.reader.bytes_read == path.stat().st_size + log_bytes
    assert len(read_file(path).messages) < len(found.messages)


def test_a_message_in_a_log_may_be_larger_than_the_database(tmp_path) -> None:
    path = make(tmp_path / "a.db3", [])
    statement = "INSERT INTO messages(topic_id, timestamp, data) VALUES(1, 1, randomblob(3000000))"
    killed(path, *LOGGED, statement, insert(2, 9))
    found = read_with_beside(path)
    assert found.by_topic == by_sqlite(path, tmp_path / "copy") and len(found.messages) == 9
    assert found.reader.expected_counts() == found.reader.counts


def test_a_log_that_is_torn_or_of_another_time(tmp_path) -> None:
    path = make(tmp_path / "a.db3", some_rows(30))
    killed(path, *LOGGED, *(insert(first, first + 9) for first in range(1, 200, 10)))
    log = path.with_name("a.db3-wal")
    data = log.read_bytes()
    counts = set()
    for number, size in enumerate([0, 31, 32, 33, *range(4000, len(data), 17_321), len(data) - 1, len(data)]):
        log.write_bytes(data[:size])
        found = read_with_beside(path)
        assert found.by_topic == by_sqlite(path, tmp_path / f"{number}")
        counts.add(len(found.messages))
    assert min(counts) == 30 and max(counts) == 230 and len(counts) > 5
    flipped = bytearray(data)
    for place in (0, 9, 17, 25, 32 + 9, len(data) // 2):  # magic, page size, salt, checksum; of a frame; data
        flipped[place] ^= 0x55
        log.write_bytes(flipped)
        found = read_with_beside(path)
        assert found.by_topic == by_sqlite(path, tmp_path / f"flipped-{place}")
        flipped[place] ^= 0x55


def test_a_log_mode_without_a_log(tmp_path) -> None:
    path = make(tmp_path / "a.db3", some_rows(30))
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("DELETE FROM messages WHERE id > 20")
        database.commit()
    assert path.read_bytes()[18:20] == b"\2\2" and not path.with_name("a.db3-wal").exists()
    found = read_file(path)
    assert found.is_as_expected and found.by_topic == as_topics(some_rows(20))


def test_a_transaction_that_was_not_finished_is_taken_back(tmp_path) -> None:
    path = make(tmp_path / "a.db3", some_rows(3000, size=300))
    killed(
        path,
        "PRAGMA cache_size = 5",
        "BEGIN",
        "UPDATE messages SET data = zeroblob(300) WHERE id % 3 = 0",
        "DELETE FROM messages WHERE id BETWEEN 100 AND 900",
        insert(1, 5000),
    )
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    found = read_with_beside(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert found.by_topic == as_topics(some_rows(3000, size=300)) == by_sqlite(path, tmp_path / "copy")
    assert found.reader.expected_counts() == found.reader.counts
    (reason,) = found.reasons
    assert reason.startswith("its last transaction was not finished: by the rollback journal beside it")


def test_a_journal_that_is_done_with(tmp_path) -> None:
    path = make(tmp_path / "a.db3", some_rows(30))
    killed(path, "PRAGMA journal_mode = PERSIST", insert(1, 20))
    assert path.with_name("a.db3-journal").stat().st_size > 0
    found = read_with_beside(path)
    assert found.is_as_expected and len(found.messages) == 50


# --- damage -----------------------------------------------------------------------------------------


def test_a_file_that_is_cut_off_gives_what_is_there(tmp_path) -> None:
    rows = some_rows(3000, size=300)
    path = make(tmp_path / "a.db3", rows)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found = read_file(path)
    kept = len(found.messages)
    assert 1000 < kept < 2000
    assert found.by_topic == as_topics(rows[:kept])
    assert (
        found.reasons[0]
        == f"the file is cut off: its last {len(data) - len(data) // 2:,} bytes are not there"
    )
    assert found.reasons[1].startswith(f"rows from {kept + 1:,} on cannot be read: ")
    assert found.reader.damage[1].ends_bag and found.reader.damage[1].offset == kept + 1
    assert found.reader.expected_counts() is None


def test_after_a_broken_page_reading_goes_on(tmp_path) -> None:
    rows = some_rows(3000, size=300)
    path = make(tmp_path / "a.db3", rows)
    data = bytearray(path.read_bytes())
    for number in (500, 1500, 1501, 2900):
        page = data.index(b"%06d" % number * 50) // 4096 * 4096
        data[page : page + 8] = b"\xff" * 8
    path.write_bytes(data)
    found = read_file(path)
    gaps = [damage.offset for damage in found.reader.damage]
    assert len(gaps) == 3 and gaps == sorted(gaps)
    assert not any(damage.ends_bag for damage in found.reader.damage)
    assert 3000 - len(found.messages) <= 4 * 13  # rows of a page
    expected = {row[1:] for row in rows}
    assert all((message.log_time_ns, message.payload) in expected for message in found.messages)
    assert max(message.log_time_ns for message in found.messages) == rows[-1][1]


def test_a_loop_of_pages_ends(tmp_path) -> None:
    """A page of the table's tree that points to itself would give rows for ever."""
    rows = some_rows(3000, size=300)
    path = make(tmp_path / "a.db3", rows)
    data = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()
    start = (root - 1) * 4096
    assert data[start] == 5  # an interior page: each of its cells begins with a page number
    cells = int.from_bytes(data[start + 3 : start + 5], "big")
    for cell in range(cells // 2, cells):
        place = start + int.from_bytes(data[start + 12 + 2 * cell : start + 14 + 2 * cell], "big")
        data[place : place + 4] = root.to_bytes(4, "big")
    path.write_bytes(data)
    found = read_file(path)
    assert found.reader.damage and len(found.messages) >= 1000
    assert len({message.log_time_ns for message in found.messages}) == len(found.messages)
