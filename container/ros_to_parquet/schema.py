"""Arrow types of a layout, and the hash that names a message definition."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from ros_to_parquet.bag.model import Connection
from ros_to_parquet.definitions import CUSTOM, PLACEHOLDER
from ros_to_parquet.layout import Array, Layout, Node, Primitive, Sequence, String, Struct

RESERVED_COLUMNS: Final = frozenset(
    {"log_time", "log_time_ns", "stamp", "stamp_ns", "publish_time_ns", "sequence"}
    | {"bag", "drive_id", "schema"}
)
"""The engine's own columns and the partitions of its tables; a field of these names is renamed."""

ELEMENT: Final = "element"
"""Name of a list's items, as Parquet calls them."""

_NUMBERS: Final = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "uint8": pa.uint8(),
    "int16": pa.int16(),
    "uint16": pa.uint16(),
    "int32": pa.int32(),
    "uint32": pa.uint32(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "float128": pa.binary(16),
}


def arrow_fields(layout: Layout) -> list[pa.Field]:
    """The message's own columns, none of them nullable, in the definition's order.

    A message is a struct, an array or sequence a list, a fixed-size array a fixed-size list; ``uint8[]``
    is binary, ``uint8[N]`` fixed-size binary; ``time`` and ``duration`` are structs of ``sec`` and
    ``nanosec``. What Parquet cannot hold is adapted: a message without fields is a struct of ROS 2's own
    placeholder, a ``uint8``; an array of size 0 is a list, always empty; a long double is its 16 bytes.

    A name of the engine's own columns gets a trailing underscore, and so does one that differs from an
    earlier one in case alone (most readers fold it).
    """
    names = unique_names((field.name for field in layout.root.fields), taken=RESERVED_COLUMNS)
    return [
        pa.field(name, arrow_type(field.node), nullable=False)
        for name, field in zip(names, layout.root.fields, strict=True)
    ]


def unique_names(names: Iterable[str], *, taken: Iterable[str] = ()) -> list[str]:
    """``names``, with underscores behind those that are taken or met before, case not counting.

    What is no text in them (half of a surrogate pair) is escaped.

    >>> unique_names(["stamp", "D", "d"], taken={"stamp"})
    ['stamp_', 'D', 'd_']
    """
    used = {name.lower() for name in taken}
    unique = []
    for given in names:
        name = given.encode("utf-8", "backslashreplace").decode()
        while name.lower() in used:
            name += "_"
        used.add(name.lower())
        unique.append(name)
    return unique


def arrow_type(node: Node) -> pa.DataType:
    """The Arrow type of a node; see ``arrow_fields``."""
    match node:
        case Primitive():
            return _NUMBERS[node.name]
        case String():
            return pa.string()
        case Struct():
            if not node.fields:
                return pa.struct([pa.field(PLACEHOLDER, pa.uint8(), nullable=False)])
            names = unique_names(field.name for field in node.fields)
            return pa.struct(
                [
                    pa.field(name, arrow_type(field.node), nullable=False)
                    for name, field in zip(names, node.fields, strict=True)
                ]
            )
        case Array():
            if node.size and _is_uint8(node.item):
                return pa.binary(node.size)
            element = pa.field(ELEMENT, arrow_type(node.item), nullable=False)
            return pa.list_(element, node.size) if node.size else pa.list_(element)
        case Sequence():
            if _is_uint8(node.item):
                return pa.binary()
            return pa.list_(pa.field(ELEMENT, arrow_type(node.item), nullable=False))


def _is_uint8(node: Node) -> bool:
    return isinstance(node, Primitive) and node.name == "uint8"


# --- hashes ------------------------------------------------------------------------------------------

_MD5 = re.compile(r"([0-9a-f]{32})")
_RIHS01 = re.compile(r"RIHS01_([0-9a-f]{64})")


def schema_hash(connection: Connection, layout: Layout) -> str:
    """First eight hex digits of the definition's hash: ROS 1's md5sum, or ROS 2's RIHS01 hash.

    As recorded; where the bag has none (or ``*``), or its definition is not the one that is used, it is
    computed from the layout, so that one definition has one hash whatever recorded it.
    """
    used = layout.source == "recorded" or (not connection.definition and layout.source != CUSTOM)
    recorded = connection.definition_hash.strip() if used else ""
    if layout.ros_version == 1:
        match = _MD5.fullmatch(recorded.lower())
        return (match[1] if match else md5sum(layout.root))[:8]
    match = _RIHS01.fullmatch(recorded)
    return (match[1] if match else rihs01(layout.root))[:8]


def md5sum(struct: Struct) -> str:
    """ROS 1's md5sum of a message: over its constants, then its fields, messages by their own md5sum.

    Source: genmsg, ``compute_md5_text``.
    """
    lines = [f"{constant.type_name} {constant.name}={constant.text}" for constant in struct.constants]
    for field in struct.fields:
        node, suffix = field.node, ""
        if isinstance(node, Array | Sequence):
            suffix = f"[{node.size}]" if isinstance(node, Array) else "[]"
            node = node.item
        if isinstance(node, Struct) and "/" in node.type_name:
            lines.append(f"{md5sum(node)} {field.name}")
        else:
            lines.append(f"{_ros1_name(node)}{suffix} {field.name}")
    return hashlib.md5("\n".join(lines).encode(), usedforsecurity=False).hexdigest()


def _ros1_name(node: Node) -> str:
    match node:
        case Primitive():
            return node.declared
        case Struct():
            return node.type_name  # time, duration
        case _:
            return "string"


_RIHS_TYPES: Final = {
    "int8": 2,
    "uint8": 3,
    "int16": 4,
    "uint16": 5,
    "int32": 6,
    "uint32": 7,
    "int64": 8,
    "uint64": 9,
    "float32": 10,
    "float64": 11,
    "float128": 12,
    "char": 3,  # rosidl makes uint8 of it before it hashes
    "wchar": 14,
    "bool": 15,
    "byte": 16,
}
_RIHS_STRUCT, _RIHS_STRING, _RIHS_WSTRING, _RIHS_BOUNDED_STRING, _RIHS_BOUNDED_WSTRING = 1, 17, 18, 21, 22
_RIHS_ARRAY, _RIHS_BOUNDED_SEQUENCE, _RIHS_SEQUENCE = 48, 96, 144


def rihs01(struct: Struct) -> str:
    """The 64 hex digits of ROS 2's interface hash.

    Source: REP 2011, and ``type_description_interfaces/msg/FieldType`` for the numbers. Only messages
    that ROS 2 itself can have are described there; ROS 1's ``time`` is not among them.
    """
    described: dict[str, dict[str, Any]] = {}
    _describe(struct, described)
    root = described.pop(struct.type_name)
    text = json.dumps(
        {
            "type_description": root,
            "referenced_type_descriptions": [described[name] for name in sorted(described)],
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(struct: Struct, described: dict[str, dict[str, Any]]) -> None:
    if struct.type_name in described:
        return
    fields: list[dict[str, Any]] = []
    described[struct.type_name] = {"type_name": struct.type_name, "fields": fields}
    for field in struct.fields:
        node, kind, capacity = field.node, 0, 0
        if isinstance(node, Array):
            kind, capacity = _RIHS_ARRAY, node.size
            node = node.item
        elif isinstance(node, Sequence):
            kind, capacity = (_RIHS_BOUNDED_SEQUENCE if node.bound else _RIHS_SEQUENCE), node.bound
            node = node.item
        string_capacity, nested = 0, ""
        while isinstance(node, Array | Sequence):  # ROS 2 has no such fields, and no number for them
            size = node.size if isinstance(node, Array) else node.bound
            nested += f"{_RIHS_ARRAY if isinstance(node, Array) else _RIHS_SEQUENCE}:{size}/"
            node = node.item
        match node:
            case Primitive():
                kind += _RIHS_TYPES[node.declared]
            case String(wide=wide, bound=0):
                kind += _RIHS_WSTRING if wide else _RIHS_STRING
            case String(wide=wide, bound=bound):
                kind += _RIHS_BOUNDED_WSTRING if wide else _RIHS_BOUNDED_STRING
                string_capacity = bound
            case Struct():
                kind, nested = kind + _RIHS_STRUCT, nested + node.type_name
                _describe(node, described)
        fields.append(
            {
                "name": field.name,
                "type": {
                    "type_id": kind,
                    "capacity": capacity,
                    "string_capacity": string_capacity,
                    "nested_type_name": nested,
                },
            }
        )
    if not fields:
        fields.append(
            {
                "name": PLACEHOLDER,
                "type": {
                    "type_id": _RIHS_TYPES["uint8"],
                    "capacity": 0,
                    "string_capacity": 0,
                    "nested_type_name": "",
                },
            }
        )
