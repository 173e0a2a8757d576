"""Types made at random: good messages decode to what was written, damaged ones as the naive codec says."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_to_parquet.bag.model import Connection
from ros_to_parquet.decode import LONG_BYTES, Decoder
from ros_to_parquet.layout import Layout, resolve_layout
from ros_to_parquet.program import ROS1, Wire

from . import naive, oracles
from .blocks import block, connection, rows

XCDR2 = Wire("XCDR2", max_align=4, delimiters="collections")
APPENDABLE = replace(XCDR2, delimiters="all")
WIRES = {
    "ros1": (ROS1, b""),
    "cdr-le": (Wire("CDR"), b"\0\1\0\0"),
    "cdr-be": (Wire("CDR", big_endian=True), b"\0\0\0\0"),
    "xcdr2-le": (XCDR2, b"\0\7\0\0"),
    "xcdr2-be": (replace(XCDR2, big_endian=True), b"\0\6\0\0"),
    "appendable-le": (APPENDABLE, b"\0\x09\0\0"),
    "appendable-be": (replace(APPENDABLE, big_endian=True), b"\0\x14\0\0"),
}
NUMBERS = [
    *("bool", "byte", "char", "float32", "float64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
]
FIELD_NAMES = ["a", "b", "c", "d", "e", "E", "stamp", "class"]


@st.composite
def connections(draw: st.DrawFn, encoding: str) -> Connection:
    """A type of up to four messages, each of which holds the ones before it."""
    builtins = [*NUMBERS, "string", *(["time", "duration"] if encoding == "ros1" else ["string<=9"])]
    bodies = []
    for number in range(draw(st.integers(1, 4))):
        names = draw(st.lists(st.sampled_from(FIELD_NAMES), unique=True, max_size=6))
        body = ""
        for name in names:
            kind = draw(st.sampled_from([*builtins, *(f"M{earlier}" for earlier in range(number))]))
            shapes = ["", "", "[]", "[1]", "[3]", *(["[<=2]"] if encoding == "cdr" else [])]
            body += f"{kind}{draw(st.sampled_from(shapes))} {name}\n"
        bodies.append(body)
    *others, root = bodies
    sections = [f"{'=' * 80}\nMSG: pkg/M{number}\n{body}" for number, body in enumerate(others)]
    return connection("pkg/Root", root + "".join(sections) or " \n#\n", encoding=encoding)


@pytest.mark.parametrize("name", WIRES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_messages_equal_what_was_written(name: str, data: st.DataObject) -> None:
    wire, header = WIRES[name]
    encoding = "ros1" if wire is ROS1 else "cdr"
    source = data.draw(connections(encoding))
    layout = resolve_layout(source)
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    messages = [naive.random_message(layout.root, wire, rng) for _ in range(6)]
    payloads = [header + naive.encode(layout.root, wire, message) for message in messages]
    for payload, message in zip(payloads, messages, strict=True):
        assert naive.same(naive.decode(layout.root, wire, payload[len(header) :]), message)

    decoder = Decoder(layout, encoding, long_bytes=data.draw(st.sampled_from((0, LONG_BYTES))))
    decoded = decoder.decode(block(payloads, encoding=encoding))
    assert decoded.rejected == []
    assert naive.same(rows(decoder, decoded), [renamed(decoder, message) for message in messages])
    if wire.delimiters == "none" and layout.root.fields:
        assert_equals_rosbags(source, layout, payloads, messages)


@pytest.mark.parametrize("name", WIRES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_messages_are_rejected_alone(name: str, data: st.DataObject) -> None:
    wire, header = WIRES[name]
    encoding = "ros1" if wire is ROS1 else "cdr"
    layout = resolve_layout(data.draw(connections(encoding)))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    payloads = []
    for _ in range(12):
        payload = naive.encode(layout.root, wire, naive.random_message(layout.root, wire, rng))
        payloads.append(header + damaged(payload, rng))
    expected: dict[int, dict[str, Any]] = {}
    for index, payload in enumerate(payloads):
        try:
            expected[index] = naive.decode(layout.root, wire, payload[len(header) :])
        except naive.BadMessageError:
            continue

    decoder = Decoder(layout, encoding, long_bytes=data.draw(st.sampled_from((0, LONG_BYTES))))
    decoded = decoder.decode(block(payloads, encoding=encoding))
    assert decoded.rows.tolist() == list(expected)
    assert [index for index, _ in decoded.rejected] == [i for i in range(12) if i not in expected]
    assert all(reason for _, reason in decoded.rejected)
    wanted = [renamed(decoder, message) for message in expected.values()]
    assert naive.same(rows(decoder, decoded), wanted)


def damaged(payload: bytes, rng: random.Random) -> bytes:
    """``payload`` as it is, cut off, lengthened, or with bytes changed."""
    how = rng.randrange(5)
    if how == 0:
        return payload[: rng.randint(0, len(payload))]
    if how == 1:
        return payload + rng.randbytes(rng.randint(1, 6))
    if how == 2 and payload:
        changed = bytearray(payload)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 4, 0x80, 0xFF))
        return bytes(changed)
    return payload


def renamed(decoder: Decoder, message: dict[str, Any]) -> dict[str, Any]:
    """Top-level fields under the names of the columns."""
    return dict(zip(decoder.schema.names, message.values(), strict=True))


def assert_equals_rosbags(
    source: Connection, layout: Layout, payloads: list[bytes], messages: list[dict[str, Any]]
) -> None:
    store = get_typestore(Stores.ROS1_NOETIC if source.encoding == "ros1" else Stores.EMPTY)
    store.register(get_types_from_msg(source.definition, source.type_name))
    deserialize = store.deserialize_ros1 if source.encoding == "ros1" else store.deserialize_cdr
    for payload, message in zip(payloads, messages, strict=True):
        theirs = oracles.from_object(deserialize(payload, "pkg/msg/Root"), layout.root)
        assert naive.same(theirs, message)
