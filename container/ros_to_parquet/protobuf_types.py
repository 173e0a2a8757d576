"""Protobuf messages: columns from the schema's descriptors, rows by the ``protobuf`` library."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pyarrow as pa

from ros_to_parquet.bag.model import Connection
from ros_to_parquet.definitions import PLACEHOLDER, DefinitionError
from ros_to_parquet.layout import MAX_COLUMNS, MAX_DEPTH
from ros_to_parquet.records import Notes, RecordError, RecordType
from ros_to_parquet.schema import ELEMENT, RESERVED_COLUMNS, unique_names

Convert: TypeAlias = Callable[[Any, Notes], Any]

_JSON_MESSAGES: Final = frozenset(
    {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
)
"""Messages that stand for JSON, and hold each other."""


@dataclass(frozen=True, slots=True)
class _Node:
    type: pa.DataType
    nullable: bool
    convert: Convert


def protobuf_type(connection: Connection) -> RecordType:
    """The type of a connection's protobuf messages, by its ``FileDescriptorSet`` (in base64).

    A message is a struct, a repeated field a list, a map a list of ``key`` and ``value``, an enumeration its
    number. Nullable is what can be absent: messages, members of a ``oneof``, ``optional`` fields. A message
    within itself, and what stands for JSON (``google.protobuf.Struct``), is a column of JSON text.

    Raises:
        DefinitionError: the descriptors are missing, cannot be used, or make too many columns; or the
            library is not installed.
    """
    where = f"type {connection.type_name}"
    if connection.definition_format != "protobuf":
        raise DefinitionError(
            f"{where}: protobuf messages need a schema of encoding 'protobuf' (a FileDescriptorSet), "
            f"not {connection.definition_format!r}"
        )
    message_class, decode_error = _message_class(connection, where)
    names, nodes = _Builder(where).members(message_class.DESCRIPTOR, (), taken=RESERVED_COLUMNS)

    def parse(payload: bytes, notes: Notes) -> tuple[Any, ...]:
        try:
            message = message_class.FromString(payload)
            return _values(message, nodes, notes)
        except (decode_error, UnicodeDecodeError) as error:
            raise RecordError(f"not a {connection.type_name}: {error}") from error

    return RecordType(pa.schema(_fields(names, nodes)), parse)


def _message_class(connection: Connection, where: str) -> tuple[Any, type[Exception]]:
    """The class of a connection's messages, and what it raises for bytes that are none."""
    try:
        from google.protobuf import (  # type: ignore[import-untyped]
            descriptor_pb2,
            descriptor_pool,
            message,
            message_factory,
        )
    except ModuleNotFoundError as error:
        raise DefinitionError(
            f"{where}: protobuf messages need the package protobuf (pip install protobuf)"
        ) from error
    try:
        data = base64.b64decode(connection.definition, validate=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(data)
        pool = descriptor_pool.DescriptorPool()
        _add_files(pool, {file.name: file for file in files.file})
        found = message_factory.GetMessageClass(pool.FindMessageTypeByName(connection.type_name))
    except RecursionError as error:
        raise DefinitionError(f"{where}: its protobuf schema is nested too deep") from error
    except (binascii.Error, message.DecodeError, KeyError, TypeError, ValueError) as error:
        raise DefinitionError(
            f"{where}: its protobuf schema cannot be used: {error}; it must be a FileDescriptorSet with the "
            "type and all that it imports"
        ) from error
    return found, message.DecodeError


def _add_files(pool: Any, files: dict[str, Any]) -> None:
    """Adds files to the pool, those that one imports before it: a set may have them in any order."""
    added: set[str] = set()

    def add(name: str) -> None:
        if name in added or name not in files:
            return
        added.add(name)
        for dependency in files[name].dependency:
            add(dependency)
        pool.AddSerializedFile(files[name].SerializeToString())

    for name in files:
        add(name)


class _Builder:
    """Nodes of one message type."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._made = 0

    def members(
        self, descriptor: Any, seen: tuple[str, ...], *, taken: frozenset[str] = frozenset()
    ) -> tuple[list[str], list[tuple[Any, _Node]]]:
        """Column names of a message's fields, and the fields with their nodes."""
        seen = (*seen, descriptor.full_name)
        nodes = [(field, self._node(field, seen)) for field in descriptor.fields]
        return unique_names((field.name for field, _ in nodes), taken=taken), nodes

    def _node(self, field: Any, seen: tuple[str, ...]) -> _Node:
        if _is_map(field):
            return self._map(field, seen)
        item = self._item(field, seen)
        if not field.is_repeated:
            return _Node(item.type, bool(field.has_presence), item.convert)

        def convert(values: Any, notes: Notes) -> list[Any]:
            return [item.convert(value, notes) for value in values]

        return _Node(pa.list_(pa.field(ELEMENT, item.type, nullable=False)), False, convert)

    def _map(self, field: Any, seen: tuple[str, ...]) -> _Node:
        entry = field.message_type.fields_by_name
        key, value = self._item(entry["key"], seen), self._item(entry["value"], seen)
        kind = pa.struct(
            [pa.field("key", key.type, nullable=False), pa.field("value", value.type, nullable=False)]
        )

        def convert(values: Any, notes: Notes) -> list[dict[str, Any]]:
            return [
                {"key": key.convert(name, notes), "value": value.convert(values[name], notes)}
                for name in sorted(values)
            ]

        return _Node(pa.list_(pa.field(ELEMENT, kind, nullable=False)), False, convert)

    def _item(self, field: Any, seen: tuple[str, ...]) -> _Node:
        """One value of a field."""
        self._made += 1
        if self._made > MAX_COLUMNS:  # counted as they are made: messages in messages multiply
            raise DefinitionError(f"{self._where}: its protobuf schema has more than {MAX_COLUMNS} fields")
        if field.message_type is None:
            if field.type == field.TYPE_BYTES:
                return _Node(pa.binary(), False, _unchanged)
            return _Node(*_SCALARS[field.cpp_type])
        inner = field.message_type
        if inner.full_name in (*seen, *_JSON_MESSAGES) or len(seen) > MAX_DEPTH:
            return _Node(pa.string(), False, _as_json)
        names, nodes = self.members(inner, seen)
        if not nodes:
            kind = pa.struct([pa.field(PLACEHOLDER, pa.uint8(), nullable=False)])
            return _Node(kind, False, lambda _message, _notes: {PLACEHOLDER: 0})

        def convert(message: Any, notes: Notes) -> dict[str, Any]:
            return dict(zip(names, _values(message, nodes, notes), strict=True))

        return _Node(pa.struct(_fields(names, nodes)), False, convert)


def _is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _fields(names: list[str], nodes: list[tuple[Any, _Node]]) -> list[pa.Field]:
    return [
        pa.field(name, node.type, nullable=node.nullable)
        for name, (_, node) in zip(names, nodes, strict=True)
    ]


def _values(message: Any, nodes: list[tuple[Any, _Node]], notes: Notes) -> tuple[Any, ...]:
    """One value a field of the message."""
    from google.protobuf import unknown_fields

    for unknown in unknown_fields.UnknownFieldSet(message):
        notes.unnamed_field(f"{type(message).DESCRIPTOR.full_name} number {unknown.field_number}")
    return tuple(_value(message, field, node, notes) for field, node in nodes)


def _value(message: Any, field: Any, node: _Node, notes: Notes) -> Any:
    # Of the type: a message's own attributes are its fields first, whatever they are called.
    if node.nullable and not type(message).HasField(message, field.name):
        return None
    return node.convert(getattr(message, field.name), notes)


def _unchanged(value: Any, _notes: Notes) -> Any:
    return value


def _text(value: Any, notes: Notes) -> str:
    return notes.text(value)


def _as_json(message: Any, notes: Notes) -> str:
    from google.protobuf import json_format

    try:
        return notes.text(json_format.MessageToJson(message, indent=None))
    # The first quotes what is in it; the last two are of fields that are called as what is needed of it.
    except (json_format.SerializeToJsonError, RecursionError, AttributeError, TypeError) as error:
        raise RecordError(f"a {type(message).DESCRIPTOR.full_name} that JSON cannot say") from error


_SCALARS: Final[dict[int, tuple[pa.DataType, bool, Convert]]] = {
    # google.protobuf.descriptor.FieldDescriptor.CPPTYPE_*
    1: (pa.int32(), False, _unchanged),
    2: (pa.int64(), False, _unchanged),
    3: (pa.uint32(), False, _unchanged),
    4: (pa.uint64(), False, _unchanged),
    5: (pa.float64(), False, _unchanged),
    6: (pa.float32(), False, _unchanged),
    7: (pa.bool_(), False, _unchanged),
    8: (pa.int32(), False, _unchanged),
    9: (pa.string(), False, _text),
}
