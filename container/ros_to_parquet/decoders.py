"""The decoder that fits a connection's messages, and what its table is called and says of itself."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ros_to_parquet.bag.model import Connection, MessageBlock
from ros_to_parquet.decode import Decoder, choose_layout
from ros_to_parquet.definitions import TypeSource
from ros_to_parquet.json_types import json_type
from ros_to_parquet.layout import definition_of
from ros_to_parquet.protobuf_types import protobuf_type
from ros_to_parquet.records import RecordDecoder, RecordType
from ros_to_parquet.schema import schema_hash

RECORD_TYPES: Final[Mapping[str, Callable[[Connection], RecordType]]] = {
    "json": json_type,
    "protobuf": protobuf_type,
}
"""By message encoding: those that are decoded one message at a time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decoder for a connection.

    Attributes:
        connection: with the definition that the decoder goes by, wherever it came from.
        schema_hash: eight hex digits of that definition.
        remark: what a reader of the table should know; empty where there is nothing.
    """

    decoder: Decoder | RecordDecoder
    connection: Connection
    schema_hash: str
    remark: str = ""


def prepare(block: MessageBlock, types: TypeSource) -> Prepared:
    """The decoder for the connection of ``block``, its first one.

    Raises:
        DefinitionError: its messages cannot be decoded; says why and what to do.
    """
    connection = block.connection
    if record_type := RECORD_TYPES.get(connection.encoding):
        return Prepared(RecordDecoder(record_type(connection)), connection, _text_hash(connection))
    layout, remark = choose_layout(block, types)
    decoder = Decoder(layout, connection.encoding)
    if remark:  # what the bag records is not what the table is made of
        connection = dataclasses.replace(connection, definition="", definition_format="", definition_hash="")
    digits = schema_hash(connection, layout)
    if layout.source != "recorded":
        text, text_format = definition_of(layout)
        connection = dataclasses.replace(connection, definition=text, definition_format=text_format)
    return Prepared(decoder, connection, digits, remark)


def _text_hash(connection: Connection) -> str:
    text = f"{connection.encoding}\n{connection.type_name}\n{connection.definition}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
