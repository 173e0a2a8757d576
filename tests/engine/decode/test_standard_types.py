"""Every standard type, in both encodings and byte orders, against `rosbags` and a naive codec."""

from __future__ import annotations

import random
import re
from typing import Any

import mcap_ros1.decoder
import mcap_ros2.decoder
import pytest
from mcap.records import Schema

from ros_to_parquet.decode import Decoder
from ros_to_parquet.definitions import PLACEHOLDER, ROS2_DISTRIBUTIONS
from ros_to_parquet.layout import Layout, resolve_layout, standard_layout
from ros_to_parquet.program import ROS1, Wire

from . import naive, oracles
from .blocks import HEADERS, block, connection, rows

CASES = {
    "ros1": (ROS1, b""),
    "cdr-le": (Wire("CDR"), HEADERS["le"]),
    "cdr-be": (Wire("CDR", big_endian=True), HEADERS["be"]),
}


def layouts(store: str) -> list[Layout]:
    version = 1 if store.startswith("ros1") else 2
    return [standard_layout(name, store, version) for name in oracles.typestore(store).fielddefs]


@pytest.mark.parametrize("case", CASES)
def test_all_types_equal_rosbags(case: str) -> None:
    store = "ros1_noetic" if case == "ros1" else f"ros2_{ROS2_DISTRIBUTIONS[0]}"
    found = layouts(store)
    assert len(found) > 150
    rng = random.Random(case)
    for layout in found:
        assert_equals_rosbags(layout, case, rng)


@pytest.mark.parametrize("distribution", ROS2_DISTRIBUTIONS[1:])
def test_types_that_differ_between_distributions_equal_rosbags(distribution: str) -> None:
    rng = random.Random(distribution)
    older = layouts(f"ros2_{distribution}")
    newest = {layout.root.type_name: layout.root for layout in layouts(f"ros2_{ROS2_DISTRIBUTIONS[0]}")}
    for layout in older:
        if layout.root != newest.get(layout.root.type_name):
            assert_equals_rosbags(layout, rng.choice(["cdr-le", "cdr-be"]), rng)


@pytest.mark.parametrize("encoding", ["ros1", "cdr"])
def test_all_types_equal_mcaps_decoders(encoding: str) -> None:
    """A second opinion, from the definitions' texts on: resolved here, and by `mcap`'s parsers."""
    store_name, wire, header = {
        "ros1": ("ros1_noetic", ROS1, b""),
        "cdr": ("ros2_jazzy", Wire("CDR"), HEADERS["le"]),
    }[encoding]
    factory = (mcap_ros1 if encoding == "ros1" else mcap_ros2).decoder.DecoderFactory()
    store = oracles.typestore(store_name)
    rng = random.Random(encoding)
    for number, (name, (_, fields)) in enumerate(store.fielddefs.items(), start=1):
        if name.startswith("builtin_interfaces") or fields[0][0] == PLACEHOLDER:
            continue
        text, _ = store.generate_msgdef(name, 1 if encoding == "ros1" else 2)
        if re.search(r"MSG: \S+\n(=|$)", text):
            continue  # ROS 1's own parser fails on an empty message among others
        source = connection(name, text, encoding=encoding)
        root = resolve_layout(source).root
        message = canonical(naive.random_message(root, wire, rng))
        payload = header + naive.encode(root, wire, message)
        recorded_name = name.replace("/msg/", "/") if encoding == "ros1" else name
        schema = Schema(id=number, name=recorded_name, encoding=source.definition_format, data=text.encode())
        decode = factory.decoder_for(encoding, schema)
        assert decode is not None
        assert naive.same(oracles.from_object(decode(payload), root), message), name
        decoder = Decoder(resolve_layout(source), encoding)
        (row,) = rows(decoder, decoder.decode(block([payload], encoding=encoding)))
        assert naive.same(row, dict(zip(decoder.schema.names, message.values(), strict=True))), name


def canonical(value: Any) -> Any:
    """``value`` with nanoseconds below a second in every time: `mcap` moves the rest to the seconds."""
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"sec", "nanosec"}:
        return {"sec": value["sec"], "nanosec": value["nanosec"] % 10**9}
    return {name: canonical(item) for name, item in value.items()}


def assert_equals_rosbags(layout: Layout, case: str, rng: random.Random) -> None:
    wire, header = CASES[case]
    root, name = layout.root, layout.root.type_name
    messages = [naive.random_message(root, wire, rng) for _ in range(5)]
    payloads = [header + naive.encode(root, wire, message) for message in messages]
    store = oracles.typestore(layout.source)
    deserialize = store.deserialize_ros1 if case == "ros1" else store.deserialize_cdr
    for message, payload in zip(messages, payloads, strict=True):
        theirs = deserialize(payload, name)
        assert not root.fields or naive.same(oracles.from_object(theirs, root), message)
    encoding = "ros1" if case == "ros1" else "cdr"
    decoder = Decoder(layout, encoding)
    decoded = decoder.decode(block(payloads, encoding=encoding))
    assert decoded.rejected == []
    assert decoded.rows.tolist() == [0, 1, 2, 3, 4]
    expected = [dict(zip(decoder.schema.names, message.values(), strict=True)) for message in messages]
    assert naive.same(rows(decoder, decoded), expected), name
    index = layout.header_index
    if index is None:
        assert decoded.stamps_ns is None
    else:
        stamps = [message[root.fields[index].name]["stamp"] for message in messages]
        assert decoded.stamps_ns is not None
        assert decoded.stamps_ns.tolist() == [s["sec"] * 10**9 + s["nanosec"] for s in stamps]
