"""The immutable tree that a message definition resolves to; schema and decoder both derive from it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ros_to_parquet.bag.model import Connection
from ros_to_parquet.definitions import (
    BUILTINS,
    ROS1_BUILTINS,
    STANDARD_TYPES,
    Constant,
    Definition,
    DefinitionError,
    FieldDefinition,
    RosVersion,
    TypeSource,
    full_type_name,
    parse_msg,
)
from ros_to_parquet.idl import parse_idl

__all__ = [
    "Array",
    "DefinitionError",
    "Field",
    "Layout",
    "Node",
    "Primitive",
    "Sequence",
    "String",
    "Struct",
    "fallback_layouts",
    "resolve_layout",
    "standard_layout",
]

MAX_DEPTH: Final = 64
MAX_COLUMNS: Final = 5_000
MAX_MESSAGE_BYTES: Final = 500_000_000
"""Longest message that is decoded, so that a block's columns keep 32-bit offsets whatever happens."""

GIVE_DEFINITIONS: Final = (
    "give its package's message definitions (--msg-path FOLDER, in a conf 'msg_path'), or record with "
    "definitions (MCAP, or SQLite since ROS 2 Iron)"
)

EMPTY_MD5: Final = "d41d8cd98f00b204e9800998ecf8427e"

SIZES: Final = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float32": 4,
    "float64": 8,
    "float128": 16,
}
"""Bytes of each primitive."""


@dataclass(frozen=True, slots=True)
class Primitive:
    """A number or a bool. ``name`` is a key of ``SIZES``; ``declared`` may be ``byte`` or ``char``."""

    name: str
    declared: str


@dataclass(frozen=True, slots=True)
class String:
    """Text: UTF-8, or UTF-16 where it is ``wide``; ``bound`` is 0 where there is none."""

    wide: bool = False
    bound: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    node: Node


@dataclass(frozen=True, slots=True)
class Struct:
    """A message, or ROS 1's ``time`` and ``duration`` (under these names)."""

    type_name: str
    fields: tuple[Field, ...]
    constants: tuple[Constant, ...] = ()


@dataclass(frozen=True, slots=True)
class Array:
    """``size`` items, no more, no less."""

    item: Node
    size: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """Any number of items; ``bound`` is 0 where there is none. The bound is not enforced."""

    item: Node
    bound: int = 0


Node: TypeAlias = Primitive | String | Struct | Array | Sequence


@dataclass(frozen=True, slots=True)
class Layout:
    """A message type, resolved.

    Attributes:
        root: the message.
        ros_version: whose rules the definition follows (``char``, ``byte`` and ``time`` differ).
        source: ``recorded`` (the bag's own definition), or what the type was taken from: a distribution, as
            ``ros1_noetic`` or ``ros2_jazzy``, or ``msg_path``.
    """

    root: Struct
    ros_version: RosVersion
    source: str

    @property
    def header_index(self) -> int | None:
        """Index of the first field that is a ``std_msgs/Header`` with a stamp; None where there is none."""
        for index, field in enumerate(self.root.fields):
            node = field.node
            if isinstance(node, Struct) and node.type_name == "std_msgs/msg/Header" and _has_stamp(node):
                return index
        return None


def _has_stamp(header: Struct) -> bool:
    stamp = next((field.node for field in header.fields if field.name == "stamp"), None)
    return isinstance(stamp, Struct) and [field.name for field in stamp.fields] == ["sec", "nanosec"]


def resolve_layout(connection: Connection, types: TypeSource = STANDARD_TYPES) -> Layout:
    """The layout of a connection's messages.

    From the recorded definition (``ros1msg``, ``ros2msg``, ``ros2idl``); types that it lacks, and a type
    without a definition, are taken from ``types``. Nothing is shared between connections that differ in
    their text.

    Raises:
        DefinitionError: a type is unknown, recursive, too large, or its definition does not parse.
    """
    return _resolve(
        full_type_name(connection.type_name),
        connection.definition,
        connection.definition_format,
        connection.definition_hash,
        ros_version_of(connection),
        types,
    )


def fallback_layouts(connection: Connection, types: TypeSource = STANDARD_TYPES) -> list[Layout]:
    """Types of the connection's name in ``types``, the preferred first, each kind of content once.

    For a bag whose recorded definition is a stub or does not parse: the caller decides, by what decodes.
    Empty where ``types`` do not have it.
    """
    type_name = full_type_name(connection.type_name)
    version = ros_version_of(connection)
    layouts: list[Layout] = []
    for source in types.find(type_name, ros_version=version):
        layout = standard_layout(type_name, source, version, types)
        if all(layout.root != known.root for known in layouts):
            layouts.append(layout)
    return layouts


def ros_version_of(connection: Connection) -> RosVersion:
    """By the definition's format; where there is none, by the encoding of the messages."""
    if connection.definition_format:
        return 1 if connection.definition_format == "ros1msg" else 2
    return 1 if connection.encoding == "ros1" else 2


@functools.lru_cache(maxsize=1024)
def _resolve(
    type_name: str,
    text: str,
    definition_format: str,
    definition_hash: str,
    version: RosVersion,
    types: TypeSource,
) -> Layout:
    definitions: dict[str, Definition] = {}
    if text.strip("\0 \t\r\n"):
        definitions = _parse(type_name, text, definition_format, version)
        if type_name not in definitions:
            known = ", ".join(sorted(definitions)[:5])
            raise DefinitionError(
                f"type {type_name}: the recorded definition does not define it, but {known}; "
                "record the topic with its own definition"
            )
    elif _may_be_empty(definition_format, definition_hash):
        definitions = {type_name: Definition(type_name, ())}
    recorded = definitions.get(type_name)
    if recorded and recorded.fields:
        return Layout(_Resolver(definitions, version, types).resolve(type_name), version, "recorded")
    if type_name in ("", "*"):
        raise DefinitionError(
            "nothing in the bag says what its messages are: it has no schema for the topic, or '*' as its "
            "type; record the topic with its definition"
        )
    candidates = types.find(type_name, ros_version=version)
    # Without fields it is an empty message, unless what is known of the type tells that it is a stub.
    if recorded and not any(candidate.fields for candidate in candidates.values()):
        return Layout(Struct(type_name, (), recorded.constants), version, "recorded")
    if candidates:
        return standard_layout(type_name, next(iter(candidates)), version, types)
    raise DefinitionError(
        f"type {type_name}: the bag holds no definition of it and it is not a standard type of "
        f"ROS {version}; {GIVE_DEFINITIONS}"
    )


def _may_be_empty(definition_format: str, definition_hash: str) -> bool:
    """Whether an empty text may be the definition of an empty message."""
    if definition_format == "ros1msg":
        return definition_hash == EMPTY_MD5
    return definition_format == "ros2msg"


@functools.lru_cache(maxsize=1024)
def standard_layout(
    type_name: str, source: str, ros_version: RosVersion, types: TypeSource = STANDARD_TYPES
) -> Layout:
    """The layout of a type as ``source`` of ``types`` (``ros1_noetic``, ``ros2_jazzy``) has it.

    Raises:
        DefinitionError: no source has the type.
    """
    return Layout(_Resolver({}, ros_version, types, source).resolve(type_name), ros_version, source)


def definition_of(layout: Layout) -> tuple[str, str]:
    """The definition of a layout's message with its dependencies, as bags record it, and its format.

    That is ``ros1msg`` or ``ros2msg``, or ``ros2idl`` for what ``.msg`` texts cannot say.
    """
    structs: dict[str, Struct] = {}
    _collect(layout.root, structs)
    if any(_needs_idl(field.node) for struct in structs.values() for field in struct.fields):
        return "".join(_idl(struct) for struct in reversed(structs.values())), "ros2idl"
    return _msg_text(structs), "ros1msg" if layout.ros_version == 1 else "ros2msg"


def _msg_text(structs: Mapping[str, Struct]) -> str:
    (_, root), *others = structs.items()
    sections = [_body(root), *(f"MSG: {_short_name(name)}\n{_body(struct)}" for name, struct in others)]
    return f"{'=' * 80}\n".join(sections)


def _collect(node: Node, structs: dict[str, Struct]) -> None:
    if isinstance(node, Array | Sequence):
        _collect(node.item, structs)
    elif isinstance(node, Struct) and node.type_name not in (*ROS1_BUILTINS, *structs):
        structs[node.type_name] = node
        for field in node.fields:
            _collect(field.node, structs)


def _body(struct: Struct) -> str:
    lines = [f"{constant.type_name} {constant.name}={constant.text}" for constant in struct.constants]
    lines += [f"{_declaration(field.node)} {field.name}" for field in struct.fields]
    return "".join(f"{line}\n" for line in lines)


def _declaration(node: Node) -> str:
    match node:
        case Primitive():
            return node.declared
        case String():
            return ("wstring" if node.wide else "string") + (f"<={node.bound}" if node.bound else "")
        case Struct():
            return _short_name(node.type_name)
        case Array():
            return f"{_declaration(node.item)}[{node.size}]"
        case Sequence():
            return f"{_declaration(node.item)}[{f'<={node.bound}' if node.bound else ''}]"


def _needs_idl(node: Node) -> bool:
    if isinstance(node, Array | Sequence):
        return isinstance(node.item, Array | Sequence) or _needs_idl(node.item)
    return isinstance(node, Primitive) and node.declared == "wchar"


_IDL_NAMES: Final = {"bool": "boolean", "byte": "octet", "float32": "float", "float64": "double"} | {
    "float128": "long double"
}


def _idl(struct: Struct) -> str:
    """Modules with one struct, its constants, and typedefs for arrays within sequences."""
    *modules, name = struct.type_name.split("/")
    typedefs: list[str] = []

    def spec(node: Node) -> str:
        match node:
            case Primitive():
                return _IDL_NAMES.get(node.declared, node.declared)
            case String():
                return ("wstring" if node.wide else "string") + (f"<{node.bound}>" if node.bound else "")
            case Struct():
                return node.type_name.replace("/", "::")
            case Sequence():
                return f"sequence<{spec(node.item)}{f', {node.bound}' if node.bound else ''}>"
            case Array():
                declared = declaration(node, f"{name}__{len(typedefs)}")
                typedefs.append(f"typedef {declared};\n")
                return declared.partition("[")[0].rpartition(" ")[2]

    def declaration(node: Node, declared: str) -> str:
        sizes = ""
        while isinstance(node, Array):
            sizes, node = f"{sizes}[{node.size}]", node.item
        return f"{spec(node)} {declared}{sizes}"

    members = "".join(f"{declaration(field.node, field.name)};\n" for field in struct.fields)
    begin = "".join(f"module {module} {{\n" for module in modules)
    if struct.constants:
        begin += f"module {name}_Constants {{\n{''.join(map(_idl_constant, struct.constants))}}};\n"
    return f"{begin}{''.join(typedefs)}struct {name} {{\n{members}}};\n" + "};\n" * len(modules)


def _idl_constant(constant: Constant) -> str:
    kind, text = constant.type_name, constant.text
    if kind in ("string", "wstring") and not text.startswith('"'):
        text = f'"{text}"'
    elif kind in ("char", "wchar") and not re.fullmatch(r"-?\d+", text):
        text = f"'{text}'"
    return (
        f"const {_IDL_NAMES.get(kind, kind)} {constant.name} = {text.upper() if kind == 'bool' else text};\n"
    )


def _short_name(type_name: str) -> str:
    """``pkg/Name`` of ``pkg/msg/Name``, as definitions have it."""
    return type_name.replace("/msg/", "/")


def _parse(type_name: str, text: str, definition_format: str, version: RosVersion) -> dict[str, Definition]:
    if definition_format in ("ros1msg", "ros2msg", ""):
        return parse_msg(text, type_name, ros_version=version)
    if definition_format in ("ros2idl", "omgidl"):
        return parse_idl(text, type_name)
    raise DefinitionError(
        f"type {type_name}: definitions in {definition_format!r} are not supported; "
        "ros1msg, ros2msg and ros2idl are"
    )


class _Resolver:
    """Builds the tree of a type out of definitions, and of ``types`` for what they lack."""

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        version: RosVersion,
        types: TypeSource,
        source: str = "",
    ) -> None:
        self._definitions = definitions
        self._version = version
        self._types = types
        self._source = source  # of ``types``, to be preferred
        self._structs: dict[str, Struct] = {}
        self._path: list[str] = []
        self._depths: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._values: dict[str, int] = {}
        if version == 1:
            for name, sec, nanosec in (("time", "uint32", "uint32"), ("duration", "int32", "int32")):
                self._add(
                    Struct(
                        name,
                        (Field("sec", Primitive(sec, sec)), Field("nanosec", Primitive(nanosec, nanosec))),
                    )
                )

    def resolve(self, type_name: str) -> Struct:
        """The struct of ``type_name``, made once a type.

        Raises:
            DefinitionError: see ``resolve_layout``.
        """
        if type_name in self._structs:
            return self._structs[type_name]
        if type_name in self._path:
            cycle = " -> ".join([*self._path[self._path.index(type_name) :], type_name])
            raise DefinitionError(f"type {self._path[0]}: its definition is recursive: {cycle}")
        if len(self._path) >= MAX_DEPTH:
            raise DefinitionError(f"type {self._path[0]}: nested deeper than {MAX_DEPTH} messages")
        definition = self._find(type_name)
        self._path.append(type_name)
        fields = tuple(Field(field.name, self._node(field)) for field in definition.fields)
        self._path.pop()
        return self._add(Struct(type_name, fields, definition.constants))

    def _find(self, type_name: str) -> Definition:
        candidates = [type_name]
        if type_name.endswith("/Header"):
            # ROS resolves a bare Header to std_msgs where the package has none.
            candidates.append("std_msgs/msg/Header")
        for name in candidates:
            if name in self._definitions:
                return self._definitions[name]
        for name in candidates:
            known = self._types.find(name, ros_version=self._version)
            if known:
                return known.get(self._source) or next(iter(known.values()))
        owner = self._path[0] if self._path else type_name
        needed = f", needed by {self._path[-1]}," if self._path else ""
        raise DefinitionError(
            f"type {owner}: there is no definition of {type_name}{needed} in the bag and it is not a "
            f"standard type of ROS {self._version}; {GIVE_DEFINITIONS}"
        )

    def _node(self, field: FieldDefinition) -> Node:
        node = self._item(field)
        for shape, size in reversed([(field.shape, field.size), *field.inner]):
            if shape == "array":
                node = Array(node, size)
            elif shape == "sequence":
                node = Sequence(node, size)
        return node

    def _item(self, field: FieldDefinition) -> Node:
        declared = field.type_name
        if declared in ("string", "wstring"):
            return String(declared == "wstring", field.string_bound)
        if declared in BUILTINS:
            return Primitive(_primitive_name(declared, self._version), declared)
        if self._version == 1 and declared in ROS1_BUILTINS:
            return self._structs[declared]
        if "/" not in declared:
            raise DefinitionError(
                f"type {self._path[0]}: field {field.name} of {self._path[-1]} is a {declared}, "
                "which is not supported"
            )
        return self.resolve(declared)

    def _add(self, struct: Struct) -> Struct:
        """Keeps ``struct``, unless it is deeper, wider or longer than can be decoded."""
        name = struct.type_name
        owner = self._path[0] if self._path else name
        parts = [self._measure(field.node, owner) for field in struct.fields]
        self._depths[name] = 1 + max((part[0] for part in parts), default=0)
        self._columns[name] = max(1, sum(part[1] for part in parts))
        nothing = 0 if self._version == 1 else SIZES["uint8"]  # ROS 2 has a placeholder where no field is
        self._sizes[name] = sum(part[2] for part in parts) if parts else nothing
        self._values[name] = max(1, sum(part[3] for part in parts))
        if self._depths[name] > MAX_DEPTH:
            raise DefinitionError(f"type {owner}: nested deeper than {MAX_DEPTH} messages")
        if self._columns[name] > MAX_COLUMNS:
            raise DefinitionError(f"type {owner}: {self._columns[name]} columns, more than {MAX_COLUMNS}")
        _check_size(owner, self._sizes[name], self._values[name])
        self._structs[name] = struct
        return struct

    def _measure(self, node: Node, owner: str) -> tuple[int, int, int, int]:
        """Depth in messages, columns, smallest size in bytes, and how many values that is."""
        if isinstance(node, Primitive):
            return 0, 1, SIZES[node.name], 1
        if isinstance(node, String):
            return 0, 1, 4, 1
        if isinstance(node, Struct):
            name = node.type_name
            return self._depths[name], self._columns[name], self._sizes[name], self._values[name]
        depth, columns, size, values = self._measure(node.item, owner)
        if isinstance(node, Sequence):
            return depth, columns, 4, 1
        # Within a sequence too, of which a message may have no element.
        _check_size(owner, size * node.size, values * node.size)
        return depth, columns, size * node.size, values * node.size


def _check_size(owner: str, size_bytes: int, values: int) -> None:
    """A message of ROS 1 can have arrays of messages without fields: values that no byte of it pays for."""
    if size_bytes > MAX_MESSAGE_BYTES:
        raise DefinitionError(
            f"type {owner}: at least {size_bytes} bytes a message, more than {MAX_MESSAGE_BYTES}"
        )
    if values > size_bytes + MAX_COLUMNS:
        raise DefinitionError(
            f"type {owner}: {values} values in {size_bytes} bytes: arrays of messages without fields"
        )


def _primitive_name(declared: str, version: RosVersion) -> str:
    # ROS 1: byte is an alias of int8 and char of uint8; ROS 2: both are uint8.
    if declared == "byte":
        return "int8" if version == 1 else "uint8"
    # One unit of UTF-16; some writers give it four bytes.
    return {"char": "uint8", "wchar": "uint32"}.get(declared, declared)
