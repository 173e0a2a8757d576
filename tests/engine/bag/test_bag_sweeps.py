"""What must hold for every format: windows and slices of any size, files cut off or broken anywhere."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bag_bytes import (
    T0,
    McapFile,
    Memory,
    Message,
    Read,
    Ros1Bag,
    by_topic,
    mcap_channel,
    mcap_message,
    mcap_schema,
    read,
    ros1_message,
    simple_mcap,
    simple_ros1,
)

from ros_to_parquet.bag import BagError, open_bag, source
from ros_to_parquet.memory import DEFAULT_BUDGET

Made = tuple[bytes, list[Message]]


def simple_sqlite(folder: Path, *, rows: int = 30) -> Made:
    """A small bag in pages of 512 bytes."""
    path = folder / "made.db3"
    messages = [
        Message("/b" if n % 3 == 2 else "/a", T0 + n, b"payload %05d;" % n * (30 if n == 7 else 3))
        for n in range(rows)
    ]
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            """PRAGMA page_size = 512;
            CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format);
            INSERT INTO topics VALUES(1, '/a', 'std_msgs/msg/String', 'cdr'),
                (2, '/b', 'std_msgs/msg/String', 'cdr');
            CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data);"""
        )
        database.executemany(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)",
            [(1 + (m.topic == "/b"), m.log_time_ns, m.payload) for m in messages],
        )
        database.commit()
    data = path.read_bytes()
    path.unlink()
    return data, messages


def mixed_mcap(compression: str = "zstd") -> Made:
    """Messages in chunks and between them, defined in the first chunk and again in the summary."""
    file = McapFile()
    messages = [Message("/a", T0 + n, b"payload %03d" % n) for n in range(12)]
    records = [mcap_message(0, n, m.log_time_ns, m.payload) for n, m in enumerate(messages)]
    file.chunk(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")) + b"".join(records[:3]), {0: 3})
    for place in (3, 6, 9):
        file.add(records[place])
        file.count({0: 1})
        file.chunk(records[place + 1] + records[place + 2], {0: 2}, compression)
    return file.bytes(), messages


def mixed_ros1(compression: str = "lz4") -> Made:
    bag = Ros1Bag()
    messages = [Message("/a", T0 + n, b"payload %03d" % n) for n in range(12)]
    records = [ros1_message(0, m.log_time_ns, m.payload) for m in messages]
    bag.chunk([bag.connection(0, "/a"), *records[:3]], {0: 3})
    for place in (3, 6, 9):
        bag.add(records[place])
        bag.chunk([records[place + 1], records[place + 2]], {0: 2}, compression)
    return bag.bytes(), messages


CHUNKED: dict[str, Callable[[], Made]] = {
    "ros1": lambda: simple_ros1(chunks=5),
    "ros1-lz4": lambda: simple_ros1(chunks=5, compression="lz4"),
    "ros1-unindexed": lambda: simple_ros1(chunks=5, indexed=False),
    "ros1-gap": lambda: simple_ros1(chunks=5, gap=1000),
    "ros1-mixed": mixed_ros1,
    "mcap": lambda: simple_mcap(chunks=5),
    "mcap-zstd": lambda: simple_mcap(chunks=5, compression="zstd"),
    "mcap-no-summary": lambda: simple_mcap(chunks=5, summary=False),
    "mcap-unchunked": lambda: simple_mcap(chunks=0, per_chunk=20),
    "mcap-mixed": mixed_mcap,
}


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("chunk_bytes", [10, 200, 1 << 20])
@pytest.mark.parametrize("window_bytes", [16, 257, 10_000])
def test_windows_of_any_size(
    name: str, window_bytes: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that are decompressed as they are read, too."""
    data, messages = CHUNKED[name]()
    monkeypatch.setattr(source, "READ_BYTES", window_bytes)
    budget = dataclasses.replace(DEFAULT_BUDGET, window=window_bytes, chunk=chunk_bytes)
    found = read(data, budget=budget)
    assert found.by_topic == by_topic(messages)
    assert [damage.offset for damage in found.reader.damage] == (
        [len(data)] if name == "ros1-unindexed" else []
    )


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("read_bytes", [100, 8 << 20])
def test_slices_are_the_whole(name: str, read_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, messages = CHUNKED[name]()
    monkeypatch.setattr(source, "READ_BYTES", read_bytes)
    budget = dataclasses.replace(DEFAULT_BUDGET, window=read_bytes, chunk=30 * read_bytes)
    most = 0
    for count in range(1, 12):
        slices = [read(data, slice_index=index, slice_count=count, budget=budget) for index in range(count)]
        together = [message for part in slices for message in part.messages]
        assert by_topic(together) == by_topic(messages)
        most = max(most, sum(bool(part.messages) for part in slices))
        for part in slices:
            expected = part.reader.expected_counts()
            if expected is not None and "mixed" not in name:
                assert expected == part.reader.counts
        assert sum(len(part.reader.damage) for part in slices) == ("unindexed" in name)
    if name in ("ros1-unindexed", "mcap-no-summary", "mcap-unchunked"):
        assert most == 1
    else:
        assert most >= 3


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
@pytest.mark.parametrize("moved", [1, 5, 34, 70, 100])
def test_a_slice_does_not_begin_where_the_index_lies(kind: str, moved: int) -> None:
    """Walking from within a chunk might pass over messages that lie outside of chunks."""
    messages = [Message("/a", T0 + n, b"payload %03d" % n) for n in range(30)]
    if kind == "ros1":
        bag = Ros1Bag()
        records = [ros1_message(0, m.log_time_ns, m.payload) for m in messages]
        bag.chunk([bag.connection(0, "/a"), *records[:10]], {0: 10})
        for record in records[10:]:
            bag.add(record)
        bag.chunks = {place + moved: counts for place, counts in bag.chunks.items()}
        data = bag.bytes()
    else:
        file = McapFile()
        records = [mcap_message(0, n, m.log_time_ns, m.payload) for n, m in enumerate(messages)]
        file.chunk(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")) + b"".join(records[:10]), {0: 10})
        for record in records[10:]:
            file.add(record)
        file.count({0: 20})
        (place,) = file.chunk_places
        told, lie = place.to_bytes(8, "little"), (place + moved).to_bytes(8, "little")
        file.chunk_indexes = file.chunk_indexes.replace(told, lie)
        data = file.bytes(crc=False)
    reasons: list[str] = []
    for count in range(2, 7):
        slices = [read(data, slice_index=index, slice_count=count) for index in range(count)]
        assert by_topic(m for part in slices for m in part.messages) == by_topic(messages)
        reasons += [reason for part in slices for reason in part.reasons]
    assert "the index says that a chunk begins here, and none does" in reasons


def test_slices_of_what_has_messages_outside_of_chunks_do_not_claim_to_know_their_number() -> None:
    data, _ = mixed_mcap()
    assert read(data).reader.expected_counts() == {0: 12}
    assert read(data, slice_index=0, slice_count=2).reader.expected_counts() is None


def bytes_of(memory: Memory) -> int:
    return sum(min(length, memory.size - offset) for offset, length in memory.reads)


def test_reads_are_few_large_and_forward() -> None:
    bag = Ros1Bag()
    random = np.random.default_rng(0)
    head = [bag.connection(0, "/a")]
    for chunk in range(30):
        messages = [ros1_message(0, T0, random.bytes(200_000)) for _ in range(5)]
        bag.chunk([*(head if chunk == 0 else []), *messages], {0: 5})
    memory = Memory(bag.bytes())
    found = read(memory)
    assert found.is_as_expected
    assert found.reader.bytes_read == sum(
        min(length, memory.size - offset) for offset, length in memory.reads
    )
    assert found.reader.bytes_read <= memory.size + source.HEAD_BYTES + source.TAIL_BYTES
    large = [(offset, length) for offset, length in memory.reads if length > 100_000]
    assert len(memory.reads) - len(large) <= 3
    assert large == sorted(large) and len(large) <= -(-memory.size // source.READ_BYTES) + 1
    assert all(length == source.READ_BYTES for _, length in large[:-1])
    memory.reads.clear()
    read(memory, slice_index=1, slice_count=3)
    assert sum(min(length, memory.size - offset) for offset, length in memory.reads) < memory.size / 3 + (
        18 << 20
    )


@pytest.mark.parametrize("name", ["ros1", "mcap", "sqlite"])
def test_blocks_may_be_read_by_another_thread(name: str, tmp_path: Path) -> None:
    data, messages = simple_sqlite(tmp_path) if name == "sqlite" else CHUNKED[name]()
    reader = open_bag(Memory(data, tmp_path))
    with ThreadPoolExecutor(1) as pool:
        blocks = pool.submit(lambda: list(reader.blocks())).result()
    assert sum(map(len, blocks)) == len(messages)
    assert reader.expected_counts() == reader.counts


# --- cut off ----------------------------------------------------------------------------------------


def prefix_of(found: Read, messages: list[Message]) -> int:
    """How many messages were found; they must be the first ones of each topic."""
    whole = by_topic(messages)
    for topic, rows in found.by_topic.items():
        assert rows == whole[topic][: len(rows)]
    return len(found.messages)


UNCOMPRESSED: dict[str, Callable[[], Made]] = {
    "ros1": lambda: simple_ros1(chunks=3, per_chunk=2),
    "ros1-unindexed": lambda: simple_ros1(chunks=3, per_chunk=2, indexed=False),
    "ros1-mixed": lambda: mixed_ros1("none"),
    "mcap": lambda: simple_mcap(chunks=3, per_chunk=2),
    "mcap-unchunked": lambda: simple_mcap(chunks=0, per_chunk=6),
    "mcap-mixed": lambda: mixed_mcap(""),
}


@pytest.mark.parametrize("name", UNCOMPRESSED)
def test_cut_off_anywhere_gives_every_whole_message(name: str) -> None:
    data, messages = UNCOMPRESSED[name]()
    ends = [data.index(message.payload) + len(message.payload) for message in messages]
    for size in range(4050 if "ros1" in name else 8, len(data)):
        try:
            found = read(data[:size])
        except BagError:
            assert size < 4200
            continue
        assert found.reader.damage
        assert prefix_of(found, messages) >= sum(end <= size for end in ends)


@pytest.mark.parametrize(
    ("make", "compression"),
    [(simple_ros1, "lz4"), (simple_ros1, "bz2"), (simple_mcap, "lz4"), (simple_mcap, "zstd")],
)
def test_cut_off_anywhere_gives_every_whole_chunk(make: Callable[..., Made], compression: str) -> None:
    data, messages = make(chunks=3, per_chunk=2, compression=compression)
    ends = []
    for count in (1, 2):  # what follows a chunk is the next one, or the end of the data
        fewer, _ = make(chunks=count, per_chunk=2, compression=compression)
        start = 4117 if make is simple_ros1 else 0
        ends.append(next(place for place in range(start, len(fewer)) if fewer[place] != data[place]))
    for size in range(4050 if make is simple_ros1 else 8, len(data)):
        try:
            found = read(data[:size])
        except BagError:
            assert size < 4200
            continue
        assert found.reader.damage
        assert prefix_of(found, messages) >= 2 * sum(end <= size for end in ends)


def test_a_database_cut_off_anywhere_gives_every_whole_page(tmp_path: Path) -> None:
    data, messages = simple_sqlite(tmp_path)
    found = read(data, tmp_path)
    assert found.is_as_expected and found.by_topic == by_topic(messages)
    counts = []
    for size in range(0, len(data), 7):
        try:
            found = read(data[:size], tmp_path)
        except BagError:
            counts.append(0)
            continue
        assert found.reader.damage
        counts.append(prefix_of(found, messages))
    assert counts == sorted(counts)
    assert set(counts) == {0, 7, 9, 17, 25}


def test_what_decompresses_of_a_chunk_that_is_cut_off_is_kept() -> None:
    random = np.random.default_rng(3)
    payloads = [random.bytes(3000) for _ in range(500)]
    bag = Ros1Bag()
    head = bag.connection(0, "/a")
    content = [head, *(ros1_message(0, T0, payload) for payload in payloads)]
    file = McapFile()
    mcap_content = mcap_schema(1) + mcap_channel(0, 1, "/a")
    mcap_content += b"".join(mcap_message(0, 0, T0, payload) for payload in payloads)
    for compression in ("none", "lz4", "bz2", "zstd"):
        if compression in ("none", "lz4", "bz2"):
            bag = Ros1Bag()
            bag.chunk(content, {0: 500}, compression)
            data = bag.bytes(indexed=False)
            found = read(data[: 4117 + (len(data) - 4117) * 4 // 5]).payloads("/a")
            assert 200 < len(found) < 450 and found == payloads[: len(found)]
        if compression in ("none", "lz4", "zstd"):
            file = McapFile()
            file.chunk(mcap_content, {0: 500}, compression.replace("none", ""))
            data = file.bytes()
            found = read(data[: len(data) * 4 // 5]).payloads("/a")
            assert 200 < len(found) < 450 and found == payloads[: len(found)]


# --- broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CHUNKED, "sqlite"])
def test_broken_anywhere_raises_nothing_else_and_ends(name: str, tmp_path: Path) -> None:
    """Bytes changed, zeroed, cut out or put in at random."""
    data, messages = simple_sqlite(tmp_path) if name == "sqlite" else CHUNKED[name]()
    random = np.random.default_rng(len(name))
    start = 4100 if "ros1" in name else 0
    outcomes: Counter[str] = Counter()
    for _ in range(250):
        broken = bytearray(data)
        for _ in range(random.integers(1, 4)):
            place = int(random.integers(start if random.random() < 0.9 else 0, len(broken)))
            size = int(random.integers(1, 12))
            how = random.integers(0, 5)
            if how == 0:
                broken[place] ^= 1 << random.integers(0, 8)
            elif how == 1:
                broken[place : place + size] = random.bytes(min(size, len(broken) - place))
            elif how == 2:
                broken[place : place + size] = b"\xff" * min(size, len(broken) - place)
            elif how == 3:
                del broken[place : place + size]
            else:
                broken[place:place] = random.bytes(size)
        try:
            found = read(bytes(broken), tmp_path)
        except BagError:
            outcomes["refused"] += 1
            continue
        outcomes["damaged" if found.reader.damage else "read"] += 1
        assert len(found.messages) <= 3 * len(messages)
    assert outcomes["damaged"] > 20


def test_random_bytes_after_the_magic() -> None:
    random = np.random.default_rng(1)
    for magic in (b"#ROSBAG V2.0\n", b"\x89MCAP0\r\n"):
        for size in (0, 1, 10, 100, 5000, 100_000):
            for _ in range(20):
                try:
                    assert read(magic + random.bytes(size)).reader.damage
                except BagError:
                    continue
