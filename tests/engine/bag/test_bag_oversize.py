"""Chunks and messages larger than a reader may hold in memory."""

from __future__ import annotations

import dataclasses
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zstandard
from bag_bytes import (
    T0,
    McapFile,
    Memory,
    Ros1Bag,
    mcap_channel,
    mcap_chunk,
    mcap_message,
    mcap_schema,
    ros1_chunk,
    ros1_message,
)

from ros_to_parquet.bag import BagReader, LocalFile, MessageBlock, RandomAccess, open_bag
from ros_to_parquet.bag import source as source_module
from ros_to_parquet.memory import DEFAULT_BUDGET

BUDGET = dataclasses.replace(DEFAULT_BUDGET, window=4096, chunk=20_000, message=10_000, block=64_000)
SIZES = (100, 30_000, 9_000, 200_000, 0, 4_000)
OVERSIZE = [30_000, 200_000]


def payload(number: int, size: int) -> bytes:
    return np.random.default_rng(number).bytes(size)


def blocks_of(source: RandomAccess | bytes) -> tuple[BagReader, list[MessageBlock]]:
    reader = open_bag(Memory(source) if isinstance(source, bytes) else source, budget=BUDGET)
    return reader, list(reader.blocks())


def check(reader: BagReader, blocks: list[MessageBlock]) -> None:
    """Every message is there with its time, the small ones with what is in them."""
    assert reader.counts == {0: len(SIZES)}
    times = [time for block in blocks for time in block.log_times_ns.tolist()]
    assert sorted(times) == [T0 + number for number in range(len(SIZES))]
    lengths = [length for block in blocks if block.oversize for length in block.lengths.tolist()]
    assert lengths == OVERSIZE
    for block in blocks:
        assert len(block.data) < 3 * BUDGET.chunk
        for start, length, time in zip(block.starts, block.lengths, block.log_times_ns, strict=True):
            if not block.oversize:
                number = int(time) - T0
                assert block.data[start : start + length].tobytes() == payload(number, SIZES[number])


def ros1_records() -> list[bytes]:
    return [ros1_message(0, T0 + number, payload(number, size)) for number, size in enumerate(SIZES)]


def mcap_records() -> list[bytes]:
    return [mcap_message(0, 7, T0 + number, payload(number, size)) for number, size in enumerate(SIZES)]


MCAP_HEAD = mcap_schema(1) + mcap_channel(0, 1, "/a")


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("compression", ["none", "lz4", "roslz4", "bz2"])
def test_ros1_chunks(compression: str, indexed: bool) -> None:
    bag = Ros1Bag()
    bag.chunk([bag.connection(0, "/a"), *ros1_records()], {0: len(SIZES)}, compression)
    reader, blocks = blocks_of(bag.bytes(indexed=indexed))
    check(reader, blocks)
    assert len(reader.damage) == (not indexed)
    assert {offset for block in blocks for offset in block.offsets.tolist()} == {4117}
    assert reader.compressions == {compression.removeprefix("ros"): 1}


@pytest.mark.parametrize("compression", ["", "lz4", "zstd", "zstd-stream"])
def test_mcap_chunks(compression: str) -> None:
    file = McapFile()
    file.chunk(MCAP_HEAD + b"".join(mcap_records()), {0: len(SIZES)}, compression)
    reader, blocks = blocks_of(file.bytes(summary=False))
    check(reader, blocks)
    assert reader.damage == []
    assert all((block.sequences == 7).all() for block in blocks if block.sequences is not None)


def test_messages_outside_of_chunks_are_skipped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "READ_BYTES", 4096)
    file = McapFile()
    file.add(MCAP_HEAD + b"".join(mcap_records()))
    file.count({0: len(SIZES)})
    source = Memory(file.bytes())
    reader, blocks = blocks_of(source)
    check(reader, blocks)
    assert reader.damage == [] and reader.bytes_read < len(source.data) - 100_000
    bag = Ros1Bag(b"".join(ros1_records()))
    bag.connection(0, "/a")
    check(*blocks_of(bag.bytes()))


def test_messages_of_topics_that_nobody_wants_are_counted_alone() -> None:
    file = McapFile()
    file.add(MCAP_HEAD + b"".join(mcap_records()))
    reader = open_bag(Memory(file.bytes()), wanted=lambda _: False, budget=BUDGET)
    assert list(reader.blocks()) == [] and reader.counts == {0: len(SIZES)}


def test_messages_compressed_one_by_one() -> None:
    """Zeros: what is stored is small, and in one of two frames does not say how much it becomes."""
    payloads = [bytes(size) for size in (100, 30_000, 9_000, 200_000, 10_000)]
    file = McapFile()
    head = MCAP_HEAD
    compressors = [zstandard.ZstdCompressor(write_content_size=known) for known in (True, False)]
    frames = [compressors[number % 2].compress(data) for number, data in enumerate(payloads)]
    content = b"".join(mcap_message(0, 7, T0 + number, frame) for number, frame in enumerate(frames))
    file.chunk(head + content, {0: len(frames)})
    reader, blocks = blocks_of(file.bytes(summary=False))
    assert [(block.oversize, block.lengths.tolist()) for block in blocks] == [
        (False, [100]),
        (True, [10_001]),
        (False, [9_000]),
        (True, [10_001]),
        (False, [10_000]),
    ]
    assert reader.counts == {0: 5}


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_large_chunk_that_is_damaged(compression: str) -> None:
    records = [mcap_message(0, n, T0 + n, payload(n, 3000)) for n in range(100)]
    content = MCAP_HEAD + b"".join(records)
    whole = mcap_chunk(content, compression)
    head = McapFile().data

    def found(chunk: bytes) -> tuple[int, list[str]]:
        reader, blocks = blocks_of(head + chunk + McapFile().bytes(summary=False)[len(head) :])
        return sum(map(len, blocks)), [damage.reason for damage in reader.damage]

    assert found(whole) == (100, [])
    count, reasons = found(mcap_chunk(content, compression, crc=zlib.crc32(content) ^ 1))
    assert count == 100 and "its checksum is wrong" in reasons[0]
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    count, reasons = found(bytes(broken))
    assert 30 < count < 70 and f"a chunk (compression: {compression}) is damaged" in reasons[0]
    reader, blocks = blocks_of(head + whole[: len(whole) // 2])
    assert 30 < sum(map(len, blocks)) < 70
    assert [damage.ends_bag for damage in reader.damage] == [True]
    assert "cut off inside a chunk" in reader.damage[0].reason


@pytest.mark.parametrize("compression", ["lz4", "bz2"])
def test_a_chunk_that_holds_more_than_it_says(compression: str) -> None:
    """What it says is there; the rest, which might be without end, is not made."""
    content = Ros1Bag().connection(0, "/a") + ros1_message(0, T0, b"x" * 5000)
    bomb = ros1_chunk(content + bytes(50_000_000), compression, size=len(content).to_bytes(4, "little"))
    reader, blocks = blocks_of(Ros1Bag(bomb).bytes(indexed=False))
    assert [len(block) for block in blocks] == [1] and max(
        len(block.data) for block in blocks
    ) <= BUDGET.chunk
    assert "bytes recorded" in reader.damage[0].reason


def test_a_length_that_reaches_over_the_next_chunk_is_wrong() -> None:
    file = McapFile()
    file.chunk(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")) + mcap_message(0, 0, T0, b"a"), {0: 1})
    place = len(file.data)
    file.add(mcap_message(0, 0, T0 + 1, b"b" * 20_000))
    file.chunk(mcap_message(0, 0, T0 + 2, b"c"), {0: 1})
    data = bytearray(file.bytes())
    data[place + 1 : place + 9] = (20_000 + 22 + 60).to_bytes(8, "little")
    reader, blocks = blocks_of(bytes(data))
    assert [time - T0 for block in blocks for time in block.log_times_ns.tolist()] == [0, 2]
    assert [damage.reason for damage in reader.damage] == [
        "a record says that it is 20,091 bytes long, but a chunk begins within it"
    ]


def test_rows_of_a_database(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db3")) as database:
        database.executescript(
            """CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format);
            INSERT INTO topics VALUES(1, '/a', 'std_msgs/msg/String', 'cdr');
            CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data);"""
        )
        rows = [(1, T0 + number, payload(number, size)) for number, size in enumerate(SIZES)]
        database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", rows)
        database.commit()
    with LocalFile(tmp_path / "a.db3") as file:
        reader, blocks = blocks_of(file)
    check(reader, blocks)
    assert reader.damage == [] and reader.expected_counts() == reader.counts


@pytest.mark.parametrize("junk", [b"\0" * 12, b"\0" * 9, b"\x89MCAP0\r\n", b"\x05"])
@pytest.mark.parametrize("chunk_bytes", [20_000, 1 << 20])
def test_what_is_no_record_in_a_chunk_is_damage(junk: bytes, chunk_bytes: int) -> None:
    """Whether the chunk is decompressed at once or as it is read."""
    file = McapFile()
    file.add(mcap_chunk(MCAP_HEAD + mcap_records()[0] + junk, "zstd"))
    budget = dataclasses.replace(BUDGET, chunk=chunk_bytes)
    reader = open_bag(Memory(file.bytes(summary=False)), budget=budget)
    assert sum(map(len, reader.blocks())) == 1
    (damage,) = reader.damage
    assert "its records break off" in damage.reason or "have unreadable headers" in damage.reason


@pytest.mark.parametrize("zeros", [2, 8, 20, 5_000])
def test_zeros_in_a_large_chunk_are_damage(zeros: int) -> None:
    """Between chunks recorders leave gaps; within one there should be messages where zeros are."""
    content = b"".join(ros1_records())
    for data in (content + bytes(zeros), bytes(zeros) + content):
        bag = Ros1Bag()
        bag.add(bag.connection(0, "/a"))
        bag.add(ros1_chunk(data))
        reader, _ = blocks_of(bag.bytes(indexed=False))
        assert "its records break off after" in reader.damage[0].reason
