"""Messages that do not decode: rejected alone, with a reason, at a cost that does not multiply."""

from __future__ import annotations

import random
import struct
import time

import pytest

from ros_to_parquet.bag.model import MessageBlock
from ros_to_parquet.decode import LONG_BYTES, Decoder
from ros_to_parquet.layout import resolve_layout, standard_layout
from ros_to_parquet.program import ROS1, Wire

from . import naive
from .blocks import HEADERS, block, connection, rows

TYPE = """
std_msgs/Header header
string name
Part[] parts
float64[] values
uint8[] blob
Part[2] pair
duration[3] spans
================================================================================
MSG: pkg/Part
bool on
string label
float64 x
"""
ENCODINGS = {"ros1": (ROS1, b""), "cdr": (Wire("CDR"), HEADERS["le"])}


def decoder_of(text: str, encoding: str = "cdr", *, long_bytes: int = LONG_BYTES) -> Decoder:
    return Decoder(
        resolve_layout(connection("pkg/Type", text, encoding=encoding)), encoding, long_bytes=long_bytes
    )


def reasons(text: str, *payloads: bytes, encoding: str = "ros1") -> list[str]:
    decoder = decoder_of(text, encoding)
    decoded = decoder.decode(block(payloads, encoding=encoding))
    assert len(decoded.rejected) == len(payloads)
    return [reason for _, reason in decoded.rejected]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_message_cut_off_anywhere_is_rejected_alone(encoding: str) -> None:
    wire, header = ENCODINGS[encoding]
    layout = resolve_layout(connection("pkg/Type", TYPE, encoding=encoding))
    rng = random.Random(5)
    good = naive.random_message(layout.root, wire, rng)
    good |= {"name": "named", "values": [1.0, 2.0], "blob": b"abc"}
    whole = header + naive.encode(layout.root, wire, good)
    decoder = Decoder(layout, encoding)
    for size in range(len(whole)):
        cut = whole[:size]
        decoded = decoder.decode(block([whole, cut, whole], encoding=encoding))
        assert [index for index, _ in decoded.rejected] == [1], size
        assert naive.same(rows(decoder, decoded), [good, good])
    padding = range(1, 4) if encoding == "cdr" else ()
    for extra in range(1, 9):
        decoded = decoder.decode(block([whole, whole + bytes(extra), whole], encoding=encoding))
        rejected = [] if extra in padding else [(1, f"{extra} bytes left over after the last field")]
        assert decoded.rejected == rejected
        assert decoded.rows.tolist() == ([0, 1, 2] if extra in padding else [0, 2])


def test_reasons_name_the_field() -> None:
    number = struct.Struct("<I").pack
    assert reasons("uint16 a\nuint32 b\nuint8 c", b"", b"\0", b"\0" * 4, b"\0" * 6, b"\0" * 8) == [
        "ends 7 bytes or more too early, in field a",
        "ends 6 bytes or more too early, in field a",
        "ends 3 bytes or more too early, in field b",
        "ends 1 bytes or more too early, in field c",
        "1 bytes left over after the last field",
    ]
    assert reasons("Part[] parts\n" + TYPE[TYPE.index("===") :], number(1) + b"\1" + number(9) + b"abc") == [
        "field parts says it has 1 elements, 8 bytes are left"
    ]
    assert reasons(
        "Part[] parts\n" + TYPE[TYPE.index("===") :],
        number(1) + b"\1" + number(9) + bytes(9),
        number(1) + b"\1" + number(4_000_000_000) + bytes(9),
        number(4_000_000_000) + bytes(100),
        b"\0\0",
    ) == [
        "ends 8 bytes or more too early, in field parts[].x",
        "field parts[].label says it is 4000000000 bytes long, 9 are left",
        "field parts says it has 4000000000 elements, 100 bytes are left",
        "ends too early, in the length of field parts",
    ]
    assert reasons("float64[] v", HEADERS["le"] + number(1) + bytes(8), encoding="cdr") == [
        "ends 4 bytes or more too early, in field v"
    ]


def test_counts_of_elements_without_size_are_bounded() -> None:
    text = "std_msgs/Empty[] nothing\nuint8 x"
    decoder = decoder_of(text, "ros1")
    payloads = [struct.pack("<IB", count, 7) for count in (3, 0, 16, 17, 2**32 - 1)]
    decoded = decoder.decode(block(payloads, encoding="ros1"))
    assert decoded.rows.tolist() == [0, 1, 2]
    assert [reason for _, reason in decoded.rejected] == [
        "field nothing says it has 17 elements of no size, more than 16",
        "field nothing says it has 4294967295 elements of no size, more than 16",
    ]
    assert [len(row["nothing"]) for row in rows(decoder, decoded)] == [3, 0, 16]


def test_a_block_of_nothing_but_rejects_gives_empty_columns() -> None:
    decoder = decoder_of(TYPE)
    decoded = decoder.decode(block([b"\0\1\0\0abc"] * 3))
    assert len(decoded.rejected) == 3
    assert rows(decoder, decoded) == []
    assert decoded.stamps_ns is not None
    assert decoded.stamps_ns.tolist() == []
    decoded = decoder.decode(block([]))
    assert (decoded.rejected, rows(decoder, decoded)) == ([], [])


@pytest.mark.parametrize("share", [0.001, 0.5, 1.0])
def test_rejects_cost_a_few_passes_whatever_their_number(share: float) -> None:
    """Every bad message claims most of the block for itself; that must not be paid a message."""
    layout = standard_layout("diagnostic_msgs/msg/KeyValue", "ros2_humble", 2)
    wire = Wire("CDR")
    good = HEADERS["le"] + naive.encode(layout.root, wire, {"key": "k" * 20, "value": "v" * 20})
    count = 100_000
    claim = struct.pack("<I", len(good) * count // 2)
    bad = HEADERS["le"] + claim + good[8:]
    rng = random.Random(1)
    payloads = [bad if rng.random() < share else good for _ in range(count)]
    decoder = Decoder(layout, "cdr")
    clean, dirty = block([good] * count), block(payloads)
    decoder.decode(clean)
    clean_s = seconds(decoder, clean)
    dirty_s = seconds(decoder, dirty)
    assert dirty_s < 20 * clean_s + 2.0
    decoded = decoder.decode(dirty)
    assert len(decoded.rejected) == payloads.count(bad)
    assert len(decoded.rows) == payloads.count(good)


def seconds(decoder: Decoder, messages: MessageBlock) -> float:
    begin = time.perf_counter()
    decoder.decode(messages)
    return time.perf_counter() - begin


@pytest.mark.parametrize("long_bytes", [0, LONG_BYTES])
def test_columns_of_several_blocks_are_taken_at_once(long_bytes: int) -> None:
    decoder = decoder_of("std_msgs/Header header\nstring s\nuint8[] b", "ros1", long_bytes=long_bytes)

    def message(number: int, text: bytes) -> bytes:
        head = struct.pack("<IIII", number, number, 5, 0)
        return head + struct.pack("<I", len(text)) + text + struct.pack("<I", 1) + bytes([number])

    for begin in (0, 10, 20):
        good = [message(begin + number, b"x" * number) for number in range(9)]
        decoder.feed(block([*good[:4], b"bad", *good[4:]], encoding="ros1"))
    assert decoder.pending_messages == 30
    assert decoder.pending_bytes == 3 * (9 * 25 + 36 + 3)
    decoded = decoder.take()
    assert [index for index, _ in decoded.rejected] == [4, 14, 24]
    assert decoded.rows.tolist() == [index for index in range(30) if index not in (4, 14, 24)]
    wanted = [(begin + number, "x" * number) for begin in (0, 10, 20) for number in range(9)]
    assert [(row["header"]["seq"], row["s"]) for row in rows(decoder, decoded)] == wanted
    assert [row["b"] for row in rows(decoder, decoded)] == [bytes([number]) for number, _ in wanted]
    assert decoded.stamps_ns is not None
    assert decoded.stamps_ns.tolist() == [seq * 10**9 + 5 for seq, _ in wanted]
    assert (decoder.pending_messages, decoder.pending_bytes) == (0, 0)
    assert rows(decoder, decoder.take()) == []


@pytest.mark.parametrize("long_bytes", [0, LONG_BYTES])
def test_arrays_taken_stay_valid(long_bytes: int) -> None:
    decoder = decoder_of("string s\nfloat64[] v", "ros1", long_bytes=long_bytes)
    one = block([struct.pack("<IIId", 0, 0, 1, 1.5)[:4] + struct.pack("<Id", 1, 1.5)] * 50, encoding="ros1")
    first = decoder.decode(one)
    before = rows(decoder, first)
    for _ in range(3):
        decoder.decode(block([struct.pack("<I3sI", 3, b"abc", 0)] * 500, encoding="ros1"))
    del decoder
    assert [array.to_pylist() for array in first.columns] == [["" for _ in before], [[1.5]] * 50]


def test_what_a_block_must_not_be() -> None:
    decoder = decoder_of("uint8 x", "ros1")
    good = block([b"a", b"b"], encoding="ros1")
    outside = MessageBlock(
        good.connection,
        good.data,
        good.starts + 100,
        good.lengths,
        good.log_times_ns,
        None,
        None,
        good.offsets,
    )
    with pytest.raises(ValueError, match="a message of topic /topic lies outside of its block"):
        decoder.feed(outside)


def test_messages_too_long_for_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_to_parquet.decode.MAX_MESSAGE_BYTES", 50)
    monkeypatch.setattr("ros_to_parquet.decode.MAX_PENDING_BYTES", 100)
    decoder = decoder_of("uint8[] x", "ros1")

    def message(size: int) -> bytes:
        return struct.pack("<I", size) + bytes(size)

    decoded = decoder.decode(block([message(46), message(47), message(1)], encoding="ros1"))
    assert decoded.rejected == [(1, "51 bytes long, more than the 50 of one row")]
    assert decoded.rows.tolist() == [0, 2]
    decoder.feed(block([message(46), message(46)], encoding="ros1"))
    with pytest.raises(OverflowError, match=r"more than 100 bytes of messages are pending: take\(\) first"):
        decoder.feed(block([message(1)], encoding="ros1"))
    assert len(decoder.take().rows) == 2
