"""The decoder that fits a connection's messages, and what its table is called and says of itself."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ros_to_parquet.bag.model import Connection, MessageBlock
from ros_to_parquet.decode import Decoder, choose_layout
from ros_to_parquet.definitions import DefinitionError, TypeSource
from ros_to_parquet.json_types import json_type
from ros_to_parquet.layout import Layout, definition_of
from ros_to_parquet.protobuf_types import protobuf_type
from ros_to_parquet.records import RecordDecoder, RecordType
from ros_to_parquet.schema import schema_hash

RECORD_TYPES: Final[Mapping[str, Callable[[Connection], RecordType]]] = {
    "json": json_type,
    "protobuf": protobuf_type,
}
"""By message encoding: those that are decoded one message at a time."""


MAX_DEFINITION_CHARACTERS: Final = 1 << 20
"""A longer one is not parsed, which takes fifty times as much memory; ROS's own have some thousands."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What decodes a connection's messages.

    Attributes:
        decoder: of its own for messages that are decoded one at a time, else `Decoders.shared`.
        connection: with the definition that the decoder goes by, wherever it came from.
        schema_hash: eight hex digits of that definition.
        remark: what a reader of the table should know; empty where there is nothing.
    """

    decoder: Decoder | RecordDecoder
    connection: Connection
    schema_hash: str
    remark: str = ""


class Decoders:
    """Decoders by layout and encoding, made once: topics and bags have the same types again and again."""

    def __init__(self) -> None:
        self._trial: dict[tuple[int, str], Decoder] = {}
        self._shared: dict[tuple[int, str], Decoder] = {}

    def __len__(self) -> int:
        return len(self._trial) + len(self._shared)

    def trial(self, layout: Layout, encoding: str) -> Decoder:
        """The one to try a layout with; it holds nothing."""
        return self._one_of(self._trial, layout, encoding)

    def shared(self, layout: Layout, encoding: str) -> Decoder:
        """The one that connections of this layout share; it may hold messages of theirs.

        At first it is the one that the layout was tried with: most layouts are tried once, and a decoder
        takes tens of kilobytes.
        """
        key = (id(layout), encoding)
        if key not in self._shared and key in self._trial:
            self._shared[key] = self._trial.pop(key)
        return self._one_of(self._shared, layout, encoding)

    @staticmethod
    def _one_of(made: dict[tuple[int, str], Decoder], layout: Layout, encoding: str) -> Decoder:
        key = (id(layout), encoding)  # the decoder keeps the layout, and so its id
        if key not in made:
            made[key] = Decoder(layout, encoding)
        return made[key]


def prepare(block: MessageBlock, types: TypeSource, decoders: Decoders) -> Prepared:
    """The decoder for the connection of ``block``, its first one.

    Raises:
        DefinitionError: its messages cannot be decoded; says why and what to do.
    """
    connection = block.connection
    if len(connection.definition) > MAX_DEFINITION_CHARACTERS:
        raise DefinitionError(
            f"type {connection.type_name:.80}: its definition has {len(connection.definition):,} characters, "
            f"more than {MAX_DEFINITION_CHARACTERS:,}"
        )
    if record_type := RECORD_TYPES.get(connection.encoding):
        return Prepared(RecordDecoder(record_type(connection)), connection, _text_hash(connection))
    layout, remark = choose_layout(block, types, decoders.trial)
    decoder = decoders.shared(layout, connection.encoding)
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
