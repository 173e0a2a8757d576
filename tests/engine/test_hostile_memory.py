"""Bags made to take all memory: whole processes, which keep the least limit there is."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import lz4.frame
import numpy as np
import pytest

from ros_to_parquet.contract import Manifest
from ros_to_parquet.lake import Lake
from ros_to_parquet.memory import LEAST_LIMIT_BYTES
from tests.engine.bag.bag_bytes import (
    T0,
    Ros1Bag,
    mcap_chunk,
    mcap_header,
    mcap_message,
    mcap_schema,
    ros1_bag_header,
    ros1_chunk,
    ros1_connection,
    ros1_message,
    ros1_record,
    u32,
)
from tests.engine.test_hostile import AFTER, BEFORE, CDR, MCAP_END, MESSAGES, TOPICS, cdr, mcap_of
from tests.engine.test_memory_limit import MCAP_MAGIC, mcap_channel, nothing_bytes, peak_bytes

__all__ = ["nothing_bytes"]

GIB = 1 << 30


def mcap_giant(path: Path) -> None:
    """A message of 1 GiB, which is a hole in the file."""
    with path.open("wb") as file:
        file.write(mcap_of(BEFORE)[: -len(MCAP_END)])
        file.write(struct.pack("<BQHIQQ", 5, 22 + GIB, 1, 1, T0 + 1, T0) + CDR + u32(GIB - 8))
        file.seek(GIB - 8, 1)
        file.write(AFTER + MCAP_END)


def ros1_giant(path: Path) -> None:
    bag = Ros1Bag()
    begin = bag.connection(0, "/a") + ros1_message(0, T0, u32(6) + b"before")
    message = ros1_message(0, T0 + 1, b"")[:-4] + u32(GIB)
    content = len(message) + GIB
    head = ros1_record({"op": b"\5", "compression": b"none", "size": u32(content)})[:-4] + u32(content)
    with path.open("wb") as file:
        file.write(b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0) + ros1_chunk(begin))
        file.write(head + message + u32(GIB - 4))
        file.seek(GIB - 4, 1)
        file.write(ros1_chunk(ros1_message(0, T0 + 2, u32(5) + b"after")))


def sqlite_giant(path: Path, kind: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(f"{TOPICS} {MESSAGES}")
        database.execute("INSERT INTO topics VALUES(1, '/a', 'std_msgs/msg/String', 'cdr', '')")
        add = "INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)"
        database.execute(add, (T0, cdr("before")))
        if kind == "blob":
            database.execute("INSERT INTO messages VALUES(NULL, 1, 1, zeroblob(900000000))")
        else:
            database.execute("INSERT INTO messages VALUES(NULL, 1, 1, hex(zeroblob(200000000)))")
        database.execute(add, (T0 + 2, cdr("after")))
        database.commit()


def unpacks_to_a_giant(path: Path) -> None:
    """A chunk of some megabytes, one message of which has 1 GiB."""
    bag = Ros1Bag()
    begin = bag.connection(0, "/a") + ros1_message(0, T0, u32(6) + b"before")
    end = ros1_message(0, T0 + 2, u32(5) + b"after")
    message = ros1_message(0, T0 + 1, b"")[:-4] + u32(GIB)
    compressor = lz4.frame.LZ4FrameCompressor()
    zeros = bytes(16 << 20)
    stored = [compressor.begin(), compressor.compress(begin + message)]
    stored += [compressor.compress(zeros) for _ in range(GIB // len(zeros))]
    stored += [compressor.compress(end), compressor.flush()]
    size = u32(len(begin) + len(message) + GIB + len(end))
    chunk = ros1_record({"op": b"\5", "compression": b"lz4", "size": size}, b"".join(stored))
    path.write_bytes(b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0) + chunk)


GIANTS: dict[str, Callable[[Path], None]] = {
    "a.mcap": mcap_giant,
    "a.bag": ros1_giant,
    "blob.db3": lambda path: sqlite_giant(path, "blob"),
    "text.db3": lambda path: sqlite_giant(path, "text"),
    "lz4.bag": unpacks_to_a_giant,
}


def manifest_of(lake: Path) -> Manifest:
    return Lake(str(lake)).drive("d").manifests[0]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "a.mcap" else pytest.mark.long) for name in GIANTS],
)
def test_a_message_of_a_gibibyte_is_a_counted_reject(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    GIANTS[name](tmp_path / name)
    peak = peak_bytes(tmp_path / name, str(tmp_path / "lake"), limit_bytes=LEAST_LIMIT_BYTES)
    (topic,) = manifest_of(tmp_path / "lake").topics
    assert (topic.rows, topic.rejected) == (2, 1)
    assert "of the memory limit" in topic.rejects[0].reason
    assert peak - request.getfixturevalue("nothing_bytes") < LEAST_LIMIT_BYTES // 2


def many_topics(path: Path, count: int) -> None:
    """Of one chunk; each connection has its own topic."""
    content = b"".join(
        ros1_connection(number, f"/topic_{number}") + ros1_message(number, T0, u32(1) + b"x")
        for number in range(count)
    )
    path.write_bytes(b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0) + ros1_chunk(content, "lz4"))


def definitions_of_a_megabyte(path: Path, count: int) -> None:
    content = b"".join(
        mcap_schema(n + 1, f"p/msg/T{n}", "ros2msg", f"int8 a{n}\n#" + "x" * 900_000)
        + mcap_channel(n, n + 1, f"/t{n}")
        + mcap_message(n, 0, T0, CDR + b"\1")
        for n in range(count)
    )
    path.write_bytes(MCAP_MAGIC + mcap_header() + mcap_chunk(content, "zstd") + MCAP_END)


def one_id_for_all(path: Path, count: int) -> None:
    content = b"".join(
        mcap_channel(1, 1, f"/topic_{number}") + mcap_message(1, 0, T0 + number, cdr("x"))
        for number in range(count)
    )
    path.write_bytes(MCAP_MAGIC + mcap_header() + mcap_chunk(mcap_schema(1) + content, "zstd") + MCAP_END)


def broken_records(path: Path, count: int) -> None:
    path.write_bytes(mcap_of(mcap_chunk(struct.pack("<BQ", 3, 0) * count + AFTER, "zstd")))


def ids_without_end(path: Path, count: int) -> None:
    """Messages of as many connections, none of which is defined."""
    message = ros1_message(0, T0, b"")
    records = np.tile(np.frombuffer(message, np.uint8), (count, 1))
    place = message.index(b"conn=") + 5
    records[:, place : place + 4] = np.arange(1, count + 1, dtype="<u4").view(np.uint8).reshape(-1, 4)
    bag = Ros1Bag()
    content = bag.connection(0, "/a") + ros1_message(0, T0, u32(1) + b"x") + records.tobytes()
    path.write_bytes(b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0) + ros1_chunk(content, "lz4"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "make", "count"),
    [
        ("a.bag", many_topics, 100_000),
        ("a.mcap", one_id_for_all, 100_000),
        ("b.mcap", definitions_of_a_megabyte, 600),
        ("c.mcap", broken_records, 1_000_000),
        ("b.bag", ids_without_end, 500_000),
    ],
)
def test_floods(
    name: str, make: Callable[[Path, int], None], count: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each message is a row, a counted reject, or counted in what is said of the bag."""
    make(tmp_path / name, count)
    peak = peak_bytes(tmp_path / name, str(tmp_path / "lake"), limit_bytes=LEAST_LIMIT_BYTES, timeout_s=1200)
    manifest = manifest_of(tmp_path / "lake")
    rows, rejected = (sum(getattr(t, each) for t in manifest.topics) for each in ("rows", "rejected"))
    left = sum(
        int(damage.reason.split()[0].replace(",", ""))
        for damage in manifest.bags[0].damage
        if "messages of connections past" in damage.reason
    )
    above = peak - request.getfixturevalue("nothing_bytes")
    print(json.dumps([name, make.__name__, count, rows, rejected, left, above >> 20]))
    if make in (many_topics, one_id_for_all, definitions_of_a_megabyte):
        assert rows + rejected + left == count
    assert above < LEAST_LIMIT_BYTES
