"""JSON messages: columns from their JSON Schema, rows from their text."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import pyarrow as pa

from ros_to_parquet.bag.model import Connection
from ros_to_parquet.definitions import DefinitionError
from ros_to_parquet.layout import MAX_COLUMNS, MAX_DEPTH
from ros_to_parquet.records import Notes, RecordError, RecordType
from ros_to_parquet.schema import ELEMENT, RESERVED_COLUMNS, unique_names

VALUE_COLUMN: Final = "value"
"""The one column of messages that are not objects with named properties."""

_ABSENT: Final = object()

Convert: TypeAlias = Callable[[Any, Notes], Any]


@dataclass(frozen=True, slots=True)
class _Node:
    """The column of a schema, and how a value (of ``json.loads``) goes into it."""

    type: pa.DataType
    nullable: bool
    convert: Convert


@dataclass(frozen=True, slots=True)
class _Property:
    """A property of an object: its column is nullable where it may be missing or null."""

    key: str
    path: str
    node: _Node
    nullable: bool

    def value(self, given: Mapping[str, Any], notes: Notes) -> Any:
        value = given.get(self.key, _ABSENT)
        if value is _ABSENT or value is None:
            if self.nullable:
                return None
            raise RecordError(f"field {self.path} is {'missing' if value is _ABSENT else 'null'}")
        return self.node.convert(value, notes)


def json_type(connection: Connection) -> RecordType:
    """The type of a connection's JSON messages, by its JSON Schema.

    An object with properties is a struct (the root: columns), an array with items a list; ``number`` is
    float64, ``integer`` int64, text with ``contentEncoding: base64`` binary. A property that is not required
    is nullable. What a schema leaves open (several types, any properties, no schema at all, a schema within
    itself) is a column of JSON text. Messages that are not objects are a column ``value``.

    Raises:
        DefinitionError: the schema does not parse, is another kind of schema, or is too large.
    """
    kind = connection.definition_format
    where = f"type {connection.type_name}"
    if kind not in ("jsonschema", ""):
        raise DefinitionError(
            f"{where}: JSON messages with a definition in {kind!r} are not supported; jsonschema is"
        )
    schema: Any = True
    if connection.definition.strip():
        try:
            schema = json.loads(connection.definition)
        except (ValueError, RecursionError) as error:
            raise DefinitionError(f"{where}: its JSON Schema is not JSON: {error}") from error
    builder = _Builder(schema, where)
    properties = builder.properties(schema, "", ())
    if properties is None:
        node = builder.node(schema, VALUE_COLUMN, ())
        properties = [_Property("", VALUE_COLUMN, node, node.nullable)]
        fields = _fields(properties, names=[VALUE_COLUMN])
        return RecordType(pa.schema(fields), lambda payload, notes: (_root(node, _loads(payload), notes),))
    names = unique_names((each.key for each in properties), taken=RESERVED_COLUMNS)
    convert = _object_values(properties, "")
    return RecordType(
        pa.schema(_fields(properties, names)), lambda payload, notes: convert(_loads(payload), notes)
    )


def _root(node: _Node, value: Any, notes: Notes) -> Any:
    if value is None and node.nullable:
        return None
    return node.convert(value, notes)


def _loads(payload: bytes) -> Any:
    try:
        return json.loads(payload.decode())
    except UnicodeDecodeError as error:
        raise RecordError(
            f"not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}"
        ) from error
    except RecursionError as error:
        raise RecordError("nested too deep") from error
    except ValueError as error:
        raise RecordError(f"not JSON: {error}") from error


def _fields(properties: list[_Property], names: list[str]) -> list[pa.Field]:
    return [
        pa.field(name, each.node.type, nullable=each.nullable)
        for name, each in zip(names, properties, strict=True)
    ]


def _object_values(properties: list[_Property], path: str) -> Callable[[Any, Notes], tuple[Any, ...]]:
    """From an object to one value a property."""
    keys = frozenset(each.key for each in properties)

    def convert(value: Any, notes: Notes) -> tuple[Any, ...]:
        if not isinstance(value, dict):
            raise _wrong(path, value, "an object")
        for key in value.keys() - keys:
            notes.unnamed_field(notes.text(_join(path, key)))
        return tuple(each.value(value, notes) for each in properties)

    return convert


class _Builder:
    """Nodes of one schema document, whose parts may refer to each other."""

    def __init__(self, document: Any, where: str) -> None:
        self._document = document
        self._where = where
        self._made = 0

    def properties(self, schema: Any, path: str, seen: tuple[str, ...]) -> list[_Property] | None:
        """The properties of an object; None where the schema is not one that names them."""
        schema, seen, _ = self._resolved(schema, seen)
        named = schema.get("properties")
        if "object" not in _types(schema) or not isinstance(named, dict) or not named:
            return None
        if len(_types(schema) - {"null"}) > 1 or len(seen) > MAX_DEPTH:
            return None
        required = schema.get("required")
        required = set(map(str, required)) if isinstance(required, list) else set()
        found = []
        for key, inner in named.items():
            inner_path = _join(path, key)
            node = self.node(inner, inner_path, (*seen, inner_path))
            found.append(_Property(key, inner_path, node, node.nullable or key not in required))
        return found

    def node(self, schema: Any, path: str, seen: tuple[str, ...]) -> _Node:
        self._made += 1
        if self._made > MAX_COLUMNS:  # counted as they are made: references can multiply without end
            raise DefinitionError(f"{self._where}: its JSON Schema has more than {MAX_COLUMNS} fields")
        properties = self.properties(schema, path, seen)
        schema, seen, nullable = self._resolved(schema, seen)
        types = _types(schema)
        nullable = nullable or "null" in types
        if properties is not None:
            return _struct(properties, path, nullable)
        match sorted(types - {"null"}):
            case ["array"] if isinstance(schema.get("items"), dict) and "prefixItems" not in schema:
                item = self.node(schema["items"], f"{path}[]", (*seen, f"{path}[]"))
                return _list(item, path, nullable)
            case ["boolean"]:
                return _Node(pa.bool_(), nullable, _exactly(bool, path, "true or false"))
            case ["integer"]:
                return _Node(pa.int64(), nullable, _integer(path))
            case ["number"] | ["integer", "number"]:
                return _Node(pa.float64(), nullable, _number(path))
            case ["string"]:
                if schema.get("contentEncoding") == "base64":
                    return _Node(pa.binary(), nullable, _base64(path))
                return _Node(pa.string(), nullable, _string(path))
        return _Node(pa.string(), nullable, _as_text)

    def _resolved(self, schema: Any, seen: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...], bool]:
        """The schema without references and single choices; what was followed; whether null is a choice.

        Empty (anything goes) where it cannot be told: a reference to elsewhere or to itself.
        """
        nullable = False
        while isinstance(schema, dict) and len(seen) <= MAX_DEPTH:
            if isinstance(reference := schema.get("$ref"), str):
                if reference in seen:
                    return {}, seen, nullable
                seen = (*seen, reference)
                schema = self._referred(reference)
            elif isinstance(parts := schema.get("allOf"), list) and parts:
                schema, seen = self._merged(schema, parts, seen)
            elif "type" not in schema and isinstance(
                choices := schema.get("anyOf") or schema.get("oneOf"), list
            ):
                rest = [choice for choice in choices if choice != {"type": "null"}]
                nullable = nullable or len(rest) < len(choices)
                if len(rest) != 1:
                    return {"enum": _constants(rest)}, seen, nullable
                (schema,) = rest
            else:
                return schema, seen, nullable
        return {}, seen, nullable

    def _merged(
        self, schema: dict[str, Any], parts: list[Any], seen: tuple[str, ...]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            resolved, followed, _ = self._resolved(part, seen)
            seen = (*seen, *followed[len(seen) :])
            for key, value in resolved.items():
                known = merged.get(key)
                if isinstance(known, dict) and isinstance(value, dict):
                    merged[key] = known | value
                elif isinstance(known, list) and isinstance(value, list):
                    merged[key] = known + value
                else:
                    merged.setdefault(key, value)
        return merged, seen

    def _referred(self, reference: str) -> Any:
        place = self._document
        if reference.partition("#")[0]:
            return True
        for part in unquote(reference.removeprefix("#")).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, dict) or key not in place:
                return True
            place = place[key]
        return place


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _types(schema: Mapping[str, Any]) -> set[str]:
    """Names of the types that a schema takes; empty where it does not say."""
    said = schema.get("type")
    if isinstance(said, str):
        return {said}
    if isinstance(said, list):
        return {name for name in said if isinstance(name, str)}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return {_type_of(value) for value in values}
    if "properties" in schema:
        return {"object"}
    return {"array"} if "items" in schema else set()


def _constants(choices: list[Any]) -> list[Any]:
    """The values of choices that are one value each; none where one of them is more."""
    if all(isinstance(choice, dict) and "const" in choice for choice in choices):
        return [choice["const"] for choice in choices]
    return []


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


# --- values -----------------------------------------------------------------------------------------


def _wrong(path: str, value: Any, wanted: str) -> RecordError:
    """Says what kind of value is there, not which: reasons are logged, what messages say is not."""
    place = f"field {path}" if path else "the message"
    return RecordError(f"{place} is {_KINDS[type(value)]}, not {wanted}")


_KINDS: Final = {
    type(None): "null",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}
"""What JSON calls what it is read as."""


def _struct(properties: list[_Property], path: str, nullable: bool) -> _Node:
    names = unique_names(each.key for each in properties)
    values = _object_values(properties, path)

    def convert(value: Any, notes: Notes) -> dict[str, Any]:
        return dict(zip(names, values(value, notes), strict=True))

    return _Node(pa.struct(_fields(properties, names)), nullable, convert)


def _list(item: _Node, path: str, nullable: bool) -> _Node:
    def convert(value: Any, notes: Notes) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(path, value, "an array")
        return [_root(item, each, notes) for each in value]

    element = pa.field(ELEMENT, item.type, nullable=item.nullable)
    return _Node(pa.list_(element), nullable, convert)


def _exactly(kind: type, path: str, wanted: str) -> Convert:
    def convert(value: Any, _notes: Notes) -> Any:
        if not isinstance(value, kind):
            raise _wrong(path, value, wanted)
        return value

    return convert


def _integer(path: str) -> Convert:
    def convert(value: Any, _notes: Notes) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(path, value, "an integer")
        if not -(2**63) <= value < 2**63:
            raise _wrong(path, value, "one of 64 bits")
        return value

    return convert


def _number(path: str) -> Convert:
    def convert(value: Any, _notes: Notes) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _wrong(path, value, "a number")
        try:
            return float(value)
        except OverflowError:
            raise _wrong(path, value, "a number of 64 bits") from None

    return convert


def _string(path: str) -> Convert:
    def convert(value: Any, notes: Notes) -> str:
        if not isinstance(value, str):
            raise _wrong(path, value, "a string")
        return notes.text(value)

    return convert


def _base64(path: str) -> Convert:
    def convert(value: Any, _notes: Notes) -> bytes:
        if not isinstance(value, str):
            raise _wrong(path, value, "a string in base64")
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RecordError(f"field {path} is not base64: {error}") from error

    return convert


def _as_text(value: Any, notes: Notes) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:  # from here the stack has less room than there was to read it
        raise RecordError("nested too deep") from error
    return notes.text(text)
