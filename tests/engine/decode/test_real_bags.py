"""Bags that others recorded, where the folder of them is there: every message, against other decoders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mcap_ros1.decoder
import mcap_ros2.decoder
import pytest
from mcap.records import Schema
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_to_parquet.bag import BagError, LocalFile, open_bag
from ros_to_parquet.bag.model import Connection, MessageBlock
from ros_to_parquet.decode import Decoder, choose_layout
from ros_to_parquet.layout import DefinitionError, Layout, resolve_layout
from ros_to_parquet.program import ROS1, Wire
from ros_to_parquet.schema import md5sum, rihs01

from . import naive, oracles
from .blocks import rows

BAGS = Path(__file__).parents[4] / "shared" / "bags"
FILES = sorted(path for path in BAGS.glob("*/*") if path.suffix in (".bag", ".mcap", ".db3"))
COMPARED = 30
"""Messages a connection that are compared one by one; they are taken evenly from all of its blocks."""

if not FILES:
    pytest.skip("the folder of real bags is not there", allow_module_level=True)


def blocks_of(path: Path) -> list[MessageBlock]:
    try:
        return list(open_bag(LocalFile(path)).blocks())
    except BagError:
        return []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_messages_equal_those_of_other_decoders(path: Path) -> None:
    decoders: dict[int, tuple[Layout, Decoder]] = {}
    seen: Counter[int] = Counter()
    for block in blocks_of(path):
        connection = block.connection
        if connection.id not in decoders:
            try:
                layout, _ = choose_layout(block)
            except DefinitionError:
                continue
            decoders[connection.id] = layout, Decoder(layout, connection.encoding)
        layout, decoder = decoders[connection.id]
        decoded = decoder.decode(block)
        assert len(decoded.rows) + len(decoded.rejected) == len(block)
        messages = rows(decoder, decoded)
        others = other_decoders(layout, connection)
        step = max(1, len(block) // max(1, COMPARED - seen[connection.id]))
        for place in range(0, len(messages), step):
            seen[connection.id] += 1
            index = decoded.rows[place]
            payload = block.data[block.starts[index] : block.starts[index] + block.lengths[index]].tobytes()
            for decode in others:
                wanted = dict(zip(decoder.schema.names, decode(payload).values(), strict=True))
                assert naive.same(messages[place], wanted), (connection.topic, index)
        for index, _ in decoded.rejected:
            payload = block.data[block.starts[index] : block.starts[index] + block.lengths[index]].tobytes()
            with pytest.raises(naive.BadMessageError):
                others[0](payload)


def other_decoders(layout: Layout, connection: Connection) -> list[Callable[[bytes], dict[str, Any]]]:
    """The naive codec, `rosbags` and `mcap`'s decoders: those that know the connection's type."""
    found = [naive_decoder(layout, connection.encoding)]
    if not layout.root.fields or "/srv/" in layout.root.type_name:
        return found  # `rosbags` knows neither types derived from services nor messages of no bytes
    found.append(rosbags_decoder(layout, connection))
    if layout.source == "recorded" and connection.definition_format != "ros2idl":
        found.append(mcap_decoder(layout, connection))
    return found


def naive_decoder(layout: Layout, encoding: str) -> Callable[[bytes], dict[str, Any]]:
    def decode(payload: bytes) -> dict[str, Any]:
        if encoding == "ros1":
            return naive.decode(layout.root, ROS1, payload)
        assert payload[:2] in (b"\0\0", b"\0\1")
        return naive.decode(layout.root, Wire("CDR", big_endian=not payload[1]), payload[4:])

    return decode


def rosbags_decoder(layout: Layout, connection: Connection) -> Callable[[bytes], dict[str, Any]]:
    if layout.source == "recorded":
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(connection.definition, layout.root.type_name))
    else:
        store = oracles.typestore(layout.source)
    deserialize = store.deserialize_ros1 if connection.encoding == "ros1" else store.deserialize_cdr

    def decode(payload: bytes) -> dict[str, Any]:
        message: dict[str, Any] = oracles.from_object(
            deserialize(payload, layout.root.type_name), layout.root
        )
        return message

    return decode


def mcap_decoder(layout: Layout, connection: Connection) -> Callable[[bytes], dict[str, Any]]:
    factory = (mcap_ros1 if connection.encoding == "ros1" else mcap_ros2).decoder.DecoderFactory()
    schema = Schema(
        id=1,
        name=connection.type_name,
        encoding=connection.definition_format,
        data=connection.definition.encode(),
    )
    deserialize = factory.decoder_for(connection.encoding, schema)
    assert deserialize is not None

    def decode(payload: bytes) -> dict[str, Any]:
        message: dict[str, Any] = oracles.from_object(deserialize(payload), layout.root)
        return message

    return decode


def test_recorded_hashes_are_those_computed() -> None:
    compared = 0
    for path in FILES:
        for connection in {block.connection.id: block.connection for block in blocks_of(path)}.values():
            digest = connection.definition_hash
            if not connection.definition or not digest:
                continue
            root = resolve_layout(connection).root
            if connection.encoding == "ros1":
                assert md5sum(root) == digest
                compared += 1
            elif digest.startswith("RIHS01_"):
                assert rihs01(root) == digest.removeprefix("RIHS01_")
                compared += 1
    assert compared > 0
