"""Definitions of one topic held against each other, field by field, and the columns that hold several.

A definition is compared by its columns, so that point clouds, JSON, protobuf and what transforms make are
compared as ROS messages are. What a reader has to do to have both as one table is the class of the change
(`Change`), whichever of the two is older: what one definition adds, the other one lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Final, TypeAlias

import pyarrow as pa

from ros_to_parquet import layout
from ros_to_parquet.bag.model import Connection
from ros_to_parquet.contract import Change
from ros_to_parquet.definitions import PLACEHOLDER, DefinitionError, full_type_name
from ros_to_parquet.schema import ELEMENT, RESERVED_COLUMNS
from ros_to_parquet.text import and_more

_INTEGERS: Final = {
    (signed, bits): getattr(pa, f"{'int' if signed else 'uint'}{bits}")()
    for signed in (True, False)
    for bits in (8, 16, 32, 64)
}
_FLOATS: Final = (pa.float16(), pa.float32(), pa.float64())

_NAMES: Final = {
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.binary(): "bytes",
    pa.bool_(): "bool",
}
"""As ROS calls them, where Arrow does not."""


class DriftError(ValueError):
    """Definitions that no table holds together; the message names them, and what differs."""


@dataclass(frozen=True, slots=True)
class TopicDefinition:
    """What a ``schema=`` partition of a table is made of.

    Attributes:
        columns: of its files, the engine's own among them.
        text: the message definition, in the format that ``text_format`` names.
        transform: ``name version`` of the transform that made the columns; empty where none did.
    """

    columns: pa.Schema
    type_name: str = ""
    text: str = ""
    text_format: str = ""
    encoding: str = ""
    transform: str = ""


class Kind(StrEnum):
    """What has become of a field."""

    ADDED = "added"
    REMOVED = "removed"
    WIDENED = "widened"
    BROKEN = "broken"


_CHANGES: Final = {
    Kind.WIDENED: Change.WIDENED,
    Kind.ADDED: Change.ADDED,
    Kind.REMOVED: Change.ADDED,
    Kind.BROKEN: Change.BROKEN,
}
_SEVERITY: Final = tuple(Change)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that differs.

    Attributes:
        path: ``twist.linear.x``; ``points[].x`` within a list; empty for the message itself.
        old: its type, empty where it is added.
        new: likewise, empty where it is removed.
        reason: why no table holds both; for what is widened to a third type, that type.
    """

    path: str
    kind: Kind
    old: str = ""
    new: str = ""
    reason: str = ""

    def __str__(self) -> str:
        name = f"`{self.path}`" if self.path else "the message"
        match self.kind:
            case Kind.ADDED:
                return f"{name} added ({self.new})"
            case Kind.REMOVED:
                return f"{name} removed ({self.old})"
        types = f"{self.old} -> {self.new}" if self.old else f"-> {self.new}"
        return f"{name} {types}{f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True, slots=True)
class Difference:
    """How one definition differs from another.

    Attributes:
        change: the worst of ``fields``.
        fields: all that differ in what they hold.
        notes: what else differs: names of types, constants, the order of fields.
    """

    change: Change
    fields: tuple[FieldChange, ...] = ()
    notes: tuple[str, ...] = ()

    def texts(self) -> list[str]:
        """All of it, for people; what decides the class first."""
        worst = sorted(self.fields, key=lambda each: -_SEVERITY.index(_CHANGES[each.kind]))
        return [*map(str, worst), *self.notes]


def compare(old: TopicDefinition, new: TopicDefinition) -> Difference:
    """How ``new`` differs from ``old``.

    - ``same``: the columns are the same: constants, comments, names of types or the order differ alone.
    - ``widened``: where types differ, one type holds every value of both: integers of any size and sign in
      the smallest integer that has them all (none has uint64 and signed ones); floats in the larger; bounded
      and fixed-size arrays, strings and bytes in ones of any size; values in values that may be null.
    - ``added``: fields that one of both lacks; all others are the same or widened.
    - ``broken``: another type; integers that became floats, which mostly have another unit; a field that went
      where another of the same type came (renamed, or something else: nobody can know); names that differ in
      case alone; nothing in common; another message type of which both have fields the other lacks.
    """
    merge = _merge(old, new)
    notes = []
    old_name, new_name = full_type_name(old.type_name), full_type_name(new.type_name)
    if old_name != new_name and all(each.path for each in merge.found):
        notes.append(f"its type is {new_name}, was {old_name}")
    if old.transform != new.transform:
        notes.append(f"its rows are {_made_by(new.transform)}, were {_made_by(old.transform)}")
    said = _Texts()
    said.compare(old, new)
    paths = {each.path for each in merge.found}
    fields = (*merge.found, *(each for each in said.bounds if each.path not in paths))
    if merge.reordered:
        notes.append("the order of its fields differs")
    return Difference(_worst(fields), fields, tuple(dict.fromkeys([*notes, *said.notes])))


def _merge(old: TopicDefinition, new: TopicDefinition) -> _Merge:
    merge = _Merge()
    merge.message(old.columns, new.columns)
    was, name = full_type_name(old.type_name), full_type_name(new.type_name)
    if was != name and {Kind.ADDED, Kind.REMOVED} <= {each.kind for each in merge.found}:
        reason = "another type, and each has fields that the other lacks"
        merge.found.append(FieldChange("", Kind.BROKEN, was, name, reason))
    return merge


def _worst(fields: Iterable[FieldChange]) -> Change:
    return max((_CHANGES[each.kind] for each in fields), key=_SEVERITY.index, default=Change.SAME)


def _made_by(transform: str) -> str:
    return f"made by transform {transform}" if transform else "as recorded"


def find_broken(
    definitions: Iterable[tuple[str, TopicDefinition]],
) -> tuple[str, str, list[FieldChange]] | None:
    """The first two (named by their digits) that no table holds together, and why; None where none are."""
    different: dict[tuple[pa.Schema, str], tuple[str, TopicDefinition]] = {}
    for name, each in definitions:
        key = each.columns.remove_metadata(), full_type_name(each.type_name)
        different.setdefault(key, (name, each))
    for (name, one), (other_name, other) in combinations(different.values(), 2):
        if broken := _broken(one, other):
            return name, other_name, broken
    return None


def _broken(one: TopicDefinition, other: TopicDefinition) -> list[FieldChange]:
    return [each for each in _merge(one, other).found if each.kind is Kind.BROKEN]


def groups(definitions: Iterable[tuple[str, TopicDefinition]]) -> list[list[tuple[str, TopicDefinition]]]:
    """Definitions that go together: each in the first group of which none is broken with it."""
    made: list[list[tuple[str, TopicDefinition]]] = []
    for name, each in definitions:
        group = next((some for some in made if not any(_broken(other, each) for _, other in some)), None)
        if group is None:
            made.append([(name, each)])
        else:
            group.append((name, each))
    return made


def common_columns(
    definitions: Sequence[tuple[str, TopicDefinition]], *, partition: str = "schema"
) -> pa.Schema:
    """The columns that hold the rows of all definitions, given by their digits, in the order they are met.

    What not all have is nullable. ``partition`` says what they are given by, where it is not digits.

    Raises:
        DriftError: no table holds them all.
    """
    if broken := find_broken(definitions):
        one, other, fields = broken
        more = f", and {len(fields) - 1} more" if len(fields) > 1 else ""
        raise DriftError(
            f"its definition changed so that no table holds both {partition}={one} and {partition}={other}: "
            f"{fields[0]}{more}"
        )
    columns = definitions[0][1].columns
    for _, definition in definitions[1:]:
        columns = _Merge().message(columns, definition.columns)
    return columns


def adaptations(columns: pa.Schema, common: pa.Schema) -> list[str]:
    """What reading ``columns`` as ``common`` does to them: casts, and nulls for fields that they lack."""
    merge = _Merge()
    merge.message(columns, common)
    return [
        f"`{each.path}` is null"
        if each.kind is Kind.ADDED
        else f"`{each.path}` is cast from {each.old} to {each.new}"
        for each in merge.found
        if not each.new.endswith(_NULLABLE)  # which changes no value
    ]


# --- columns -----------------------------------------------------------------------------------------

_NULLABLE: Final = ", may be null"

_Fields: TypeAlias = dict[str, pa.Field]


@dataclass(slots=True)
class _Merge:
    """Two sets of columns becoming one; what differs is noted on the way."""

    found: list[FieldChange] = field(default_factory=list)
    reordered: bool = False

    def message(self, old: pa.Schema, new: pa.Schema) -> pa.Schema:
        """Columns of a file. The engine's own come and go with the format of the bag: that is no change."""
        engine = self._joined("", *(_named(each, own=False) for each in (old, new)))
        self.reordered = False
        fields = self._fields("", *(list(_named(each, own=True).values()) for each in (old, new)))
        return pa.schema([*engine, *fields])

    def _fields(self, path: str, old: list[pa.Field], new: list[pa.Field]) -> list[pa.Field]:
        """The fields of a struct, or of the message."""
        before, after = {each.name: each for each in old}, {each.name: each for each in new}
        if before and after and not before.keys() & after.keys() and PLACEHOLDER not in {*before, *after}:
            self._break(path, and_more(list(before)), and_more(list(after)), "no field is in both")
            return old
        gone, came = dict(_places(before, after)), dict(_places(after, before))
        there = {place: name for name, place in came.items()}
        replaced = {
            name: there[place]
            for name, place in gone.items()
            if place in there and before[name].type == after[there[place]].type and name != PLACEHOLDER
        }
        folded = {name.lower(): name for name in gone}
        replaced |= {folded[name.lower()]: name for name in came if name.lower() in folded}
        for name in gone:
            kind = type_text(before[name].type)
            if name in replaced:
                other = f"`{_join(path, replaced[name])}`"
                self._break(_join(path, name), "", other, f"renamed, or another {kind} in its place")
            else:
                self._note(_join(path, name), Kind.REMOVED, kind, "")
        new_names = set(replaced.values())
        for name in came:
            if name not in new_names:
                self._note(_join(path, name), Kind.ADDED, "", type_text(after[name].type))
        return self._joined(path, before, after)

    def _joined(self, path: str, before: _Fields, after: _Fields) -> list[pa.Field]:
        """All fields in an order that both have them in, where there is one."""
        self.reordered = self.reordered or (
            [name for name in before if name in after] != [name for name in after if name in before]
        )
        behind: dict[str, list[pa.Field]] = {}
        last = ""
        for name, one in after.items():
            if name in before:
                last = name
            else:
                behind.setdefault(last, []).append(one.with_nullable(True))
        merged = behind.get("", [])
        for name, one in before.items():
            merged.append(
                self._field(_join(path, name), one, after[name]) if name in after else one.with_nullable(True)
            )
            merged += behind.get(name, [])
        return merged

    def _field(self, path: str, old: pa.Field, new: pa.Field) -> pa.Field:
        before = len(self.found)
        kind = self._type(path, old.type, new.type)
        nullable = old.nullable or new.nullable
        if old.nullable != new.nullable and before == len(self.found):
            texts = [f"{type_text(each.type)}{_NULLABLE if each.nullable else ''}" for each in (old, new)]
            self._note(path, Kind.WIDENED, *texts)
        return pa.field(old.name, kind, nullable=nullable)

    def _type(self, path: str, old: pa.DataType, new: pa.DataType) -> pa.DataType:
        """The type that holds the values of both; of what is broken, the old one."""
        if old == new:
            return old
        one, other = _plain(old), _plain(new)
        if one == other:
            return one
        if pa.types.is_struct(one) and pa.types.is_struct(other):
            return pa.struct(self._fields(path, list(one), list(other)))
        if pa.types.is_map(one) and pa.types.is_map(other) and one.key_type == other.key_type:
            value = self._field(f"{path}{{}}", one.item_field, other.item_field)
            return pa.map_(one.key_field, value)
        if _is_list(one) and _is_list(other):
            return self._list(path, one, other)
        common = _wider(one, other)
        if common is None:
            self._break(path, type_text(one), type_text(other), _why(one, other))
            return one
        self._widen(path, one, other, common)
        return common

    def _list(self, path: str, old: pa.DataType, new: pa.DataType) -> pa.DataType:
        sizes = [each.list_size if pa.types.is_fixed_size_list(each) else -1 for each in (old, new)]
        nested = any(pa.types.is_nested(_plain(each.value_type)) for each in (old, new))
        items = self if nested else _Merge()  # of numbers, one line for the list says it
        item = items._field(f"{path}[]", old.value_field, new.value_field)
        common = pa.list_(item.with_name(ELEMENT), sizes[0] if sizes[0] == sizes[1] else -1)
        if not nested and any(each.kind is Kind.BROKEN for each in items.found):
            self._break(path, type_text(old), type_text(new), items.found[0].reason)
        elif not nested and (items.found or sizes[0] != sizes[1]):
            self._widen(path, old, new, common)
        elif sizes[0] != sizes[1]:
            one, other = (f"[{size}]" if size >= 0 else "[]" for size in sizes)
            self._note(path, Kind.WIDENED, one, other, "" if other == "[]" else "read as []")
        return common

    def _widen(self, path: str, old: pa.DataType, new: pa.DataType, common: pa.DataType) -> None:
        one, other, both = (type_text(each) for each in (old, new, common))
        reason = "" if both == other else f"read as {both}"
        self._note(path, Kind.WIDENED, one, other if one != other else f"{other}{_NULLABLE}", reason)

    def _break(self, path: str, old: str, new: str, reason: str) -> None:
        self._note(path, Kind.BROKEN, old, new, reason)

    def _note(self, path: str, kind: Kind, old: str, new: str, reason: str = "") -> None:
        self.found.append(FieldChange(path, kind, old, new, reason))


def _named(columns: pa.Schema, *, own: bool) -> _Fields:
    """The message's own columns, or else the engine's."""
    return {each.name: each for each in columns if (each.name not in RESERVED_COLUMNS) == own}


def _places(names: Iterable[str], others: _Fields) -> Iterator[tuple[str, tuple[str, int]]]:
    """The names that ``others`` lack, each with its place: behind which name that both have, and how far."""
    last, behind = "", 0
    for name in names:
        if name in others:
            last, behind = name, 0
        else:
            yield name, (last, behind)
            behind += 1


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, however Arrow keeps them."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_large_list(kind):
        return pa.list_(kind.value_field)
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The smallest type that has every value of both; None where there is none of their kind."""
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        return _wider_integer(one, other)
    if one in _FLOATS and other in _FLOATS:
        return max(one, other, key=_FLOATS.index)
    if _is_bytes(one) and _is_bytes(other):
        return pa.binary()
    return None


def _wider_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    signs = [pa.types.is_signed_integer(each) for each in (one, other)]
    widths = [each.bit_width for each in (one, other)]
    if signs[0] == signs[1]:
        return _INTEGERS[signs[0], max(widths)]
    signed, unsigned = widths if signs[0] else widths[::-1]
    return _INTEGERS.get((True, max(signed, 2 * unsigned)))


def _why(old: pa.DataType, new: pa.DataType) -> str:
    if pa.types.is_integer(old) and pa.types.is_integer(new):
        return "no integer holds both"
    if pa.types.is_integer(old) and new in _FLOATS:
        return "an integer became a float"
    if old in _FLOATS and pa.types.is_integer(new):
        return "a float became an integer"
    return "another type"


def type_text(kind: pa.DataType) -> str:
    """A type as ROS would write it.

    >>> type_text(pa.list_(pa.float64(), 9)), type_text(pa.struct([("x", pa.int8())])), type_text(pa.binary())
    ('float64[9]', 'struct of x', 'bytes')
    """
    kind = _plain(kind)
    if _is_list(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else ""
        return f"{type_text(kind.value_type)}[{size}]"
    if pa.types.is_struct(kind):
        names = [each.name for each in kind]
        return f"struct of {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    if pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
        return f"bytes[{kind.byte_width}]"
    return _NAMES.get(kind, str(kind))


# --- texts -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Texts:
    """What two ROS definitions say that columns do not: bounds, constants, names of types."""

    bounds: list[FieldChange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def compare(self, old: TopicDefinition, new: TopicDefinition) -> None:
        if not (_is_ros(old) and _is_ros(new)) or old.text == new.text:
            return
        try:
            layouts = [layout.resolve_layout(_connection(each)) for each in (old, new)]
        except DefinitionError as error:
            self.notes.append(f"constants and bounds cannot be compared: {error}")
            return
        self._structs("", layouts[0].root, layouts[1].root)

    def _structs(self, path: str, old: layout.Struct, new: layout.Struct) -> None:
        if path and old.type_name != new.type_name and "/" in old.type_name and "/" in new.type_name:
            self.notes.append(f"`{path}` is {new.type_name}, was {old.type_name}")
        if (old.type_name, new.type_name) not in self._seen:
            self._seen.add((old.type_name, new.type_name))
            self._constants(old, new)
        after = {each.name: each.node for each in new.fields}
        for each in old.fields:
            if each.name in after:
                self._nodes(_join(path, each.name), each.node, after[each.name])

    def _constants(self, old: layout.Struct, new: layout.Struct) -> None:
        before, after = ({each.name: each.text.strip() for each in struct.constants} for struct in (old, new))
        both = before.keys() & after.keys()
        for what, constants in (
            (
                "changed",
                [
                    f"{name} {before[name]} -> {after[name]}"
                    for name in before
                    if before[name] != after.get(name, before[name])
                ],
            ),
            ("removed", [f"{name}={before[name]}" for name in before if name not in both]),
            ("added", [f"{name}={after[name]}" for name in after if name not in both]),
        ):
            if constants:
                self.notes.append(f"constants of {new.type_name} {what}: {and_more(constants)}")

    def _nodes(self, path: str, old: layout.Node, new: layout.Node) -> None:
        match old, new:
            case layout.Struct(), layout.Struct():
                self._structs(path, old, new)
            case (layout.Array() | layout.Sequence(), layout.Array() | layout.Sequence()):
                if isinstance(old, layout.Sequence) and isinstance(new, layout.Sequence):
                    self._bound(path, "[{}]", old.bound, new.bound)
                self._nodes(f"{path}[]", old.item, new.item)
            case layout.String(), layout.String():
                self._bound(path, "string{}", old.bound, new.bound)

    def _bound(self, path: str, text: str, old: int, new: int) -> None:
        if old != new:
            texts = [text.format(f"<={bound}" if bound else "") for bound in (old, new)]
            self.bounds.append(FieldChange(path, Kind.WIDENED, *texts))


def _is_ros(definition: TopicDefinition) -> bool:
    return definition.text_format in ("ros1msg", "ros2msg", "ros2idl") and not definition.transform


def _connection(definition: TopicDefinition) -> Connection:
    return Connection(
        id=0,
        topic="",
        type_name=definition.type_name,
        definition=definition.text,
        definition_format=definition.text_format,
        encoding=definition.encoding,
        definition_hash="",
    )
