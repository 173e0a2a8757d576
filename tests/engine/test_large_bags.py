"""Bags too large for a test, by what is read of them before the first message."""

from __future__ import annotations

import struct
import tracemalloc

from ros_to_parquet.bag import open_bag

CHUNK_BYTES = 800_000
CONNECTIONS = 100
MESSAGES = 3
"""Of each connection in each chunk."""


def _field(name: bytes, value: bytes) -> bytes:
    return struct.pack("<I", len(name) + 1 + len(value)) + name + b"=" + value


def _record(header: bytes, body: bytes) -> bytes:
    return struct.pack("<I", len(header)) + header + struct.pack("<I", len(body)) + body


class SparseBag:
    """A ROS 1 bag of many chunks as a source, of which only the header and the index are there."""

    name = "sparse.bag"

    def __init__(self, chunks: int) -> None:
        self._index_pos = 4117 + chunks * CHUNK_BYTES
        connections = [
            _record(
                _field(b"op", b"\7") + _field(b"conn", struct.pack("<I", n)) + _field(b"topic", b"/t%d" % n),
                _field(b"type", b"std_msgs/Empty") + _field(b"message_definition", b"\n"),
            )
            for n in range(CONNECTIONS)
        ]
        counts = b"".join(struct.pack("<II", n, MESSAGES) for n in range(CONNECTIONS))
        infos = [
            _record(
                _field(b"op", b"\6") + _field(b"chunk_pos", struct.pack("<Q", 4117 + n * CHUNK_BYTES)), counts
            )
            for n in range(chunks)
        ]
        self.index = b"".join(connections + infos)
        fields = (
            _field(b"op", b"\3")
            + _field(b"index_pos", struct.pack("<Q", self._index_pos))
            + _field(b"chunk_count", struct.pack("<I", chunks))
        )
        head = b"#ROSBAG V2.0\n" + struct.pack("<I", len(fields)) + fields
        self._head = head + struct.pack("<I", 4117 - len(head) - 4) + bytes(4117 - len(head) - 4)
        self.size = self._index_pos + len(self.index)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < len(self._head):
            return self._head[offset : offset + length]
        assert offset >= self._index_pos
        start = offset - self._index_pos
        return self.index[start : start + length]

    def local_path(self) -> str:
        raise NotImplementedError

    def close(self) -> None: ...


def test_a_large_index_is_read_in_pieces_and_little_of_it_is_kept() -> None:
    bag = SparseBag(chunks=50_000)
    tracemalloc.start()
    reader = open_bag(bag, slice_index=1, slice_count=10)
    kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.damage == []
    assert kept_bytes < 3 << 20  # some 50 bytes a chunk
    assert peak_bytes < 32 << 20 < len(bag.index)
    expected = [open_bag(bag, slice_index=n, slice_count=3).expected_counts() or {} for n in range(3)]
    assert [sum(counts[n] for counts in expected) for n in range(CONNECTIONS)] == [150_000] * CONNECTIONS
