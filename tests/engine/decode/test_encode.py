"""Columns back into messages: against `rosbags`' serialization and the naive codec, byte for byte."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_to_parquet.decode import Decoder
from ros_to_parquet.definitions import ROS2_DISTRIBUTIONS, DefinitionError
from ros_to_parquet.encode import CDR, Encoded, Encoder
from ros_to_parquet.layout import Layout, definition_of, resolve_layout
from ros_to_parquet.program import ROS1

from . import naive, oracles
from .blocks import HEADERS, block, connection
from .test_random_types import connections
from .test_standard_types import layouts

CASES = {"ros1": (ROS1, b""), "cdr": (CDR, HEADERS["le"])}
STORES = {"ros1": "ros1_noetic"} | {name: f"ros2_{name}" for name in ROS2_DISTRIBUTIONS}


def split(encoded: Encoded) -> list[bytes]:
    ends = encoded.ends.tolist()
    assert (ends[-1] if ends else 0) == len(encoded.data)
    return [encoded.data[start:end].tobytes() for start, end in zip([0, *ends[:-1]], ends, strict=bool(ends))]


def random_payloads(layout: Layout, encoding: str, rng: random.Random, count: int) -> list[bytes]:
    wire, header = CASES[encoding]
    messages = [naive.random_message(layout.root, wire, rng) for _ in range(count)]
    return [header + naive.encode(layout.root, wire, message) for message in messages]


def columns_of(layout: Layout, encoding: str, payloads: list[bytes]) -> list[pa.Array]:
    decoded = Decoder(layout, encoding).decode(block(payloads, encoding=encoding))
    assert decoded.rejected == []
    return decoded.columns


@pytest.mark.parametrize("name", STORES)
def test_all_standard_types_equal_rosbags(name: str) -> None:
    """Values at random, through `rosbags`' objects: what it serializes is decoded and encoded again."""
    encoding = "ros1" if name == "ros1" else "cdr"
    store = oracles.typestore(STORES[name])
    rng = random.Random(name)
    found = layouts(STORES[name])
    assert len(found) > 100
    for layout in found:
        type_name = layout.root.type_name
        payloads = random_payloads(layout, encoding, rng, 6)
        if layout.root.fields:
            theirs = [
                bytes(store.serialize_ros1(store.deserialize_ros1(payload, type_name), type_name))
                if encoding == "ros1"
                else bytes(store.serialize_cdr(store.deserialize_cdr(payload, type_name), type_name))
                for payload in payloads
            ]
            # `rosbags` ends CDR messages at a multiple of four bytes
            assert [one[: len(other)] for one, other in zip(theirs, payloads, strict=True)] == payloads
        columns = columns_of(layout, encoding, payloads)
        encoder = Encoder(layout, encoding)
        assert split(encoder.encode(columns, 6)) == payloads, type_name
        part = [column.slice(2, 3) for column in columns]
        assert split(encoder.encode(part, 3)) == payloads[2:5], type_name


@pytest.mark.parametrize("encoding", CASES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_types_made_at_random(encoding: str, data: st.DataObject) -> None:
    layout = resolve_layout(data.draw(connections(encoding)))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    payloads = random_payloads(layout, encoding, rng, 9)
    columns = columns_of(layout, encoding, payloads)
    start, stop = sorted((rng.randint(0, 9), rng.randint(0, 9)))
    part = [column.slice(start, stop - start) for column in columns]
    assert split(Encoder(layout, encoding).encode(part, stop - start)) == payloads[start:stop]


def test_wide_strings_long_doubles_and_nested_sequences() -> None:
    text = (
        "wstring w\nfloat128 q\nuint8 u\nwstring[] ws\nfloat128[2] qs\nInner[] items\nfloat64[] d\n"
        f"{'=' * 80}\nMSG: pkg/Inner\nwstring<=3[2] names\nbool[] flags\nbyte[] raw\nfloat128[] q\n"
    )
    layout = resolve_layout(connection("pkg/msg/Root", text))
    payloads = random_payloads(layout, "cdr", random.Random(1), 50)
    assert split(Encoder(layout, "cdr").encode(columns_of(layout, "cdr", payloads), 50)) == payloads


@pytest.mark.parametrize("encoding", CASES)
def test_messages_with_many_elements(encoding: str) -> None:
    text = f"Inner[] items\n{'=' * 80}\nMSG: pkg/Inner\nuint8 kind\nstring name\nfloat64[] values\n"
    layout = resolve_layout(connection("pkg/msg/Root", text, encoding=encoding))
    wire, header = CASES[encoding]
    items = [{"kind": n % 7, "name": "n" * (n % 5), "values": [0.5] * (n % 3)} for n in range(30_000)]
    payload = header + naive.encode(layout.root, wire, {"items": items})
    columns = columns_of(layout, encoding, [payload])
    assert split(Encoder(layout, encoding).encode(columns, 1)) == [payload]


def test_no_rows() -> None:
    layout = resolve_layout(connection("sensor_msgs/msg/Imu"))
    columns = [array.slice(0, 0) for array in columns_of(layout, "cdr", [])]
    assert split(Encoder(layout, "cdr").encode(columns, 0)) == []


def test_columns_that_are_not_the_layouts_are_refused() -> None:
    encoder = Encoder(resolve_layout(connection("pkg/msg/A", "uint32 a\nstring b\n")), "cdr")
    good = [pa.array([1, 2], pa.uint32()), pa.array(["x", "y"])]
    assert len(encoder.encode(good, 2).ends) == 2
    with pytest.raises(ValueError, match="column a is 2 x int32, not 2 x uint32"):
        encoder.encode([good[0].cast(pa.int32()), good[1]], 2)
    with pytest.raises(ValueError, match="column b is 1 x string, not 2 x string"):
        encoder.encode([good[0], good[1].slice(1)], 2)
    with pytest.raises(ValueError, match="1 nulls in a column of string"):
        encoder.encode([good[0], pa.array(["x", None])], 2)
    with pytest.raises(DefinitionError, match="'json' is not supported"):
        Encoder(resolve_layout(connection("pkg/msg/A", "uint32 a\n")), "json")


@pytest.mark.parametrize("store", ["ros1_noetic", f"ros2_{ROS2_DISTRIBUTIONS[0]}"])
def test_texts_of_definitions_define_the_same_types(store: str) -> None:
    """For this engine, and for `rosbags`."""
    encoding = "ros1" if store.startswith("ros1") else "cdr"
    version = 1 if encoding == "ros1" else 2
    for layout in layouts(store):
        name, (text, definition_format) = layout.root.type_name, definition_of(layout)
        assert definition_format == f"ros{version}msg"
        again = resolve_layout(connection(name, text, encoding=encoding, definition_format=definition_format))
        assert again.root == layout.root
        if "builtin_interfaces" in name or not layout.root.fields:
            continue
        theirs = get_typestore(Stores.EMPTY)
        types = get_types_from_msg(text, name)
        if version == 1:  # of built-in types where ROS 2 has messages
            assert types[name][1] == oracles.typestore(store).fielddefs[name][1]
        else:
            theirs.register(types)
            assert theirs.hash_rihs01(name) == oracles.typestore(store).hash_rihs01(name)
