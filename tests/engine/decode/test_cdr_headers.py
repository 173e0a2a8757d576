"""What a message's CDR header says: byte order, version, kinds that are refused, none at all."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

from ros_to_parquet.decode import Decoder
from ros_to_parquet.layout import Layout, resolve_layout, standard_layout
from ros_to_parquet.program import Wire

from . import naive
from .blocks import HEADERS, block, connection, rows

CDR = Wire("CDR")
XCDR2 = Wire("XCDR2", max_align=4, delimiters="collections")
DELIMITED = replace(XCDR2, delimiters="all")
HEADERLESS = replace(CDR, header_bytes=0, padding=0)
BY_ID = {
    **{first: replace(wire, big_endian=True) for first, wire in ((0, CDR), (6, XCDR2), (16, XCDR2))},
    **{first + 1: wire for first, wire in ((0, CDR), (6, XCDR2), (16, XCDR2))},
    **{first: replace(DELIMITED, big_endian=True) for first in (8, 20)},
    **{first + 1: DELIMITED for first in (8, 20)},
}


def layout_of(name: str) -> Layout:
    return standard_layout(name, "ros2_jazzy", 2)


def test_kinds_mixed_in_one_block_keep_their_order() -> None:
    layout = layout_of("diagnostic_msgs/msg/DiagnosticArray")
    rng = random.Random(2)
    messages, payloads = [], []
    for _ in range(200):
        representation = rng.choice(list(BY_ID))
        message = naive.random_message(layout.root, BY_ID[representation], rng)
        messages.append(message)
        body = naive.encode(layout.root, BY_ID[representation], message)
        payloads.append(bytes([0, representation, 0, 0]) + body)
    bad = {3: b"", 50: b"\0\1", 77: payloads[77][:-9], 120: b"\0\3\0\0" + payloads[120][4:]}
    for index, payload in bad.items():
        payloads[index] = payload
    decoder = Decoder(layout, "cdr")
    decoded = decoder.decode(block(payloads))
    assert [index for index, _ in decoded.rejected] == list(bad)
    good = [message for index, message in enumerate(messages) if index not in bad]
    assert decoded.rows.tolist() == [index for index in range(200) if index not in bad]
    assert naive.same(rows(decoder, decoded), good)
    assert decoded.stamps_ns is not None
    stamps = [message["header"]["stamp"] for message in good]
    assert decoded.stamps_ns.tolist() == [s["sec"] * 10**9 + s["nanosec"] for s in stamps]


@pytest.mark.parametrize("representation", [2, 3, 4, 10, 11, 18, 19])
def test_kinds_that_are_refused(representation: int) -> None:
    decoded = Decoder(layout_of("std_msgs/msg/UInt8"), "cdr").decode(
        block([bytes([0, representation, 0, 0, 5])])
    )
    ((index, reason),) = decoded.rejected
    assert index == 0
    assert reason.startswith(f"CDR representation 0x{representation:04x} is not supported: ")


@pytest.mark.parametrize("big_endian", [False, True])
def test_messages_without_a_header_decode_if_every_byte_agrees(big_endian: bool) -> None:
    layout = resolve_layout(connection("pkg/Type", "float64 a\nstring s\nint64[] v\nuint16 b"))
    wire = replace(HEADERLESS, big_endian=big_endian)
    message = {"a": 1.1, "s": "text", "v": [1, 2], "b": 0x0102}
    payload = naive.encode(layout.root, wire, message)
    decoder = Decoder(layout, "cdr")
    decoded = decoder.decode(block([payload, payload + b"\0", payload[:-1], payload]))
    assert rows(decoder, decoded) == [message, message]
    assert [index for index, _ in decoded.rejected] == [1, 2]
    assert decoded.rejected[0][1] == (
        f"no CDR header ({payload[:4].hex(' ')}), and without one: 1 bytes left over after the last field"
    )


def test_a_header_that_is_there_is_believed() -> None:
    """A message cut off by four bytes must not decode as one without a header."""
    layout = layout_of("std_msgs/msg/Float64")
    payload = HEADERS["le"] + struct.pack("<d", 1.5)
    decoder = Decoder(layout, "cdr")
    decoded = decoder.decode(block([payload, payload[:-4]]))
    assert decoded.rejected == [(1, "ends 4 bytes or more too early, in field data")]


def test_empty_messages() -> None:
    decoder = Decoder(layout_of("std_msgs/msg/Empty"), "cdr")
    payloads = [HEADERS["le"] + bytes(size) for size in range(7)]
    decoded = decoder.decode(block(payloads))
    assert decoded.columns == []
    assert decoded.rows.tolist() == [0, 1, 2, 3, 4]
    assert decoded.rejected == [(size, f"{size} bytes left over after the last field") for size in (5, 6)]
    ros1 = Decoder(standard_layout("std_msgs/msg/Empty", "ros1_noetic", 1), "ros1")
    decoded = ros1.decode(block([b"", b"\0"], encoding="ros1"))
    assert decoded.rows.tolist() == [0]
    assert decoded.rejected == [(1, "1 bytes left over after the last field")]


def test_newer_appendable_messages_are_read_as_far_as_known() -> None:
    old = resolve_layout(connection("pkg/Type", "Inner[] items\nuint8 z\n" + INNER.format(more="")))
    new = resolve_layout(
        connection("pkg/Type", "Inner[] items\nuint8 z\nstring w\n" + INNER.format(more="float64 b"))
    )
    message = {"items": [{"a": 1, "b": 2.0}, {"a": 3, "b": 4.0}], "z": 9, "w": "new"}
    payload = b"\0\x09\0\0" + naive.encode(new.root, DELIMITED, message)
    decoder = Decoder(old, "cdr")
    decoded = decoder.decode(block([payload]))
    assert rows(decoder, decoded) == [{"items": [{"a": 1}, {"a": 3}], "z": 9}]
    older = b"\0\x09\0\0" + naive.encode(old.root, DELIMITED, {"items": [{"a": 1}], "z": 9})
    decoded = Decoder(new, "cdr").decode(block([older]))
    assert len(decoded.rejected) == 1


INNER = f"{'=' * 80}\nMSG: pkg/Inner\nuint32 a\n{{more}}\n"


def test_a_delimiter_that_does_not_fit() -> None:
    layout = resolve_layout(connection("pkg/Type", "uint32 a\nuint32 b"))
    number = struct.Struct("<I").pack
    decoder = Decoder(layout, "cdr")
    payloads = [b"\0\x09\0\0" + number(size) + number(1) + number(2) for size in (8, 4, 9)]
    decoded = decoder.decode(block(payloads))
    assert decoded.rows.tolist() == [0]
    assert decoded.rejected == [
        (index, "the length in front of the message does not fit what is in it") for index in (1, 2)
    ]
