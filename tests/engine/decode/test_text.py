"""Strings: UTF-8 or not, terminated or not, wide in each of three ways; bools of any byte."""

from __future__ import annotations

import random
import struct
from bisect import bisect_left
from dataclasses import replace

import pytest

from ros_to_parquet.decode import Decoder
from ros_to_parquet.layout import resolve_layout
from ros_to_parquet.program import Wire

from . import naive
from .blocks import HEADERS, block, connection, rows

RAW = [
    b"plain",
    "ä€𝄞".encode(),
    b"\xff",
    b"a\xc3",
    b"\xa4b",
    b"",
    b"x\xed\xa0\x80y",
    b"nul\0inside",
    "ö".encode() * 30,
    b"\xff" * 9,
]
ESCAPED = [
    "plain",
    "ä€𝄞",
    "\\xff",
    "a\\xc3",
    "\\xa4b",
    "",
    "x\\xed\\xa0\\x80y",
    "nul\0inside",
    "ö" * 30,
    "\\xff" * 9,
]


def decoder_of(text: str, encoding: str) -> Decoder:
    return Decoder(resolve_layout(connection("pkg/Type", text, encoding=encoding)), encoding)


def cdr_text(raw: bytes, number: int) -> bytes:
    padding = bytes(-len(raw) % 4)
    return HEADERS["le"] + struct.pack("<I", len(raw)) + raw + padding + struct.pack("<I", number)


def test_bytes_that_are_not_utf8_are_escaped_and_counted() -> None:
    ros1 = decoder_of("string s\nuint8 n", "ros1")
    payloads = [struct.pack("<I", len(raw)) + raw + b"\7" for raw in RAW]
    decoded = ros1.decode(block(payloads, encoding="ros1"))
    assert [row["s"] for row in rows(ros1, decoded)] == ESCAPED
    assert decoded.repaired_strings == 5
    cdr = decoder_of("string s\nuint32 n", "cdr")
    decoded = cdr.decode(block([cdr_text(raw + b"\0", 7) for raw in RAW]))
    assert [row["s"] for row in rows(cdr, decoded)] == ESCAPED
    assert decoded.repaired_strings == 5
    assert cdr.decode(block([cdr_text(b"ok\0", 7)])).repaired_strings == 0


def test_bad_bytes_inside_sequences_and_after_clean_blocks() -> None:
    decoder = decoder_of("string[] s", "ros1")
    for texts in ([b"a", b"b"], [b"\xff", b"c"]):
        body = b"".join(struct.pack("<I", len(raw)) + raw for raw in texts)
        decoder.feed(block([struct.pack("<I", 2) + body], encoding="ros1"))
    decoded = decoder.take()
    assert [row["s"] for row in rows(decoder, decoded)] == [["a", "b"], ["\\xff", "c"]]
    assert decoded.repaired_strings == 1


def test_which_messages_had_bad_bytes_however_deep() -> None:
    decoder = decoder_of(
        "string s\nPart[2] parts\nstring[] more\n" + "=" * 80 + "\nMSG: pkg/Part\nuint8 n\nstring[] labels",
        "ros1",
    )
    rng = random.Random(4)
    expected = []

    def one(message: int) -> bytes:
        bad = rng.random() < 0.2
        expected.extend([message] * bad)
        raw = b"\xffx" if bad else b"ok"
        return struct.pack("<I", len(raw)) + raw

    def some(message: int) -> bytes:
        count = rng.choice((0, 0, 1, 3))
        return struct.pack("<I", count) + b"".join(one(message) for _ in range(count))

    payloads = []
    for message in range(60):
        good = one(message) + b"".join(b"\1" + some(message) for _ in range(2)) + some(message)
        if message % 20 == 7:  # rejected, and so not counted
            del expected[bisect_left(expected, message) :]
            good = good[:-1]
        payloads.append(good)
    for part in (payloads[:10], payloads[10:]):
        decoder.feed(block(part, encoding="ros1"))
    decoded = decoder.take()
    assert [index for index, _ in decoded.rejected] == [7, 27, 47]
    assert decoded.repaired is not None and sorted(decoded.repaired.tolist()) == expected
    assert decoded.repaired_strings == len(expected) > 30


def test_cdr_terminators() -> None:
    """One NUL is taken off; a text without it is kept whole, as Fast CDR does, and so is one of length 0."""
    decoder = decoder_of("string s\nuint32 n", "cdr")
    raws = [b"abc\0", b"abc", b"", b"\0", b"\0\0", b"a\0b\0"]
    decoded = decoder.decode(block([cdr_text(raw, 7) for raw in raws]))
    assert [row["s"] for row in rows(decoder, decoded)] == ["abc", "abc", "", "", "\0", "a\0b"]
    assert {row["n"] for row in rows(decoder, decoded)} == {7}
    same_length = decoder.decode(block([cdr_text(raw, 7) for raw in (b"ab\0", b"cd\0", b"ef\0")]))
    assert [row["s"] for row in rows(decoder, same_length)] == ["ab", "cd", "ef"]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("unit", "counts_bytes"), [(4, False), (2, False), (2, True)])
def test_wide_strings(header: str, unit: int, counts_bytes: bool) -> None:
    layout = resolve_layout(connection("pkg/Type", "string a\nwstring b\nwstring[] c\nuint32 d"))
    wire = replace(Wire("CDR"), big_endian=header == "be", wide_unit=unit, wide_counts_bytes=counts_bytes)  # type: ignore[arg-type]
    messages = [
        {"a": "x", "b": "wide ä€𝄞", "c": ["", "y", "zz" * 20], "d": 7},
        {"a": "", "b": "", "c": [], "d": 8},
        {"a": "abc", "b": "A", "c": ["B"], "d": 9},
    ]
    payloads = [HEADERS[header] + naive.encode(layout.root, wire, message) for message in messages]
    decoder = Decoder(layout, "cdr")
    decoded = decoder.decode(block(payloads))
    assert decoded.rejected == []
    assert rows(decoder, decoded) == messages


def test_wide_strings_that_are_not_utf16() -> None:
    utf32 = struct.pack("<IIII", 3, 0x1D11E, 0x61, 0xE4)  # four bytes a unit may be UTF-32
    lone = struct.pack("<IHHHH", 4, 0xD834, 0x20, 0x61, 0x62)  # half of a surrogate pair
    odd = struct.pack("<I", 5) + b"abc"
    found = []
    for payload in (utf32, lone, odd):
        decoder = decoder_of("wstring s", "cdr")
        decoded = decoder.decode(block([HEADERS["le"] + payload]))
        texts = [row["s"] for row in rows(decoder, decoded)]
        found.append((texts, decoded.repaired_strings, [reason for _, reason in decoded.rejected]))
    assert found == [
        (["𝄞aä"], 0, []),
        (["\\x34\\xd8 ab"], 1, []),
        ([], 0, ["field s says it is 5 bytes long, 3 are left"]),
    ]


@pytest.mark.parametrize("encoding", ["ros1", "cdr"])
def test_any_byte_but_zero_is_true(encoding: str) -> None:
    decoder = decoder_of("bool a\nbool[] b\nbool[3] c", encoding)
    header, pad = (b"", b"") if encoding == "ros1" else (HEADERS["le"], b"\0\0\0")
    payload = header + b"\x03" + pad + b"\2\0\0\0\x80\0" + b"\0\xff\1"
    decoded = decoder.decode(block([payload] * 9, encoding=encoding))
    assert rows(decoder, decoded) == [{"a": True, "b": [True, False], "c": [False, True, True]}] * 9


def test_long_double_is_kept_as_bytes() -> None:
    idl = "module pkg { module msg { struct Type { octet a; long double x; sequence<long double> y; }; }; };"
    layout = resolve_layout(connection("pkg/Type", idl, definition_format="ros2idl"))
    message = {"a": 1, "x": bytes(range(16)), "y": [bytes(16), b"\xff" * 16]}
    payload = HEADERS["le"] + naive.encode(layout.root, Wire("CDR"), message)
    decoder = Decoder(layout, "cdr")
    decoded = decoder.decode(block([payload, payload]))
    assert rows(decoder, decoded) == [message, message]
