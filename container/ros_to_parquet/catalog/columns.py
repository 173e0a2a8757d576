"""Columns of the lake's files in the types of other systems, and what of them cannot be had there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from ros_to_parquet.contract import sha256
from ros_to_parquet.schema import ELEMENT

OWN: Final = (("publish_time_ns", pa.int64()), ("sequence", pa.int64()))
"""Columns that files of one definition have or lack, by the format of the bag."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_]+")

_LOSSY: Final = re.compile(r"[^a-z0-9_.]|__|_\.|\._|^[_.]|[_.]$|\.\.")

MAX_NAME: Final = 100
"""Characters of a table's name in a catalogue, so that what is added to it stays within anybody's limit."""


def catalog_name(table: str) -> str:
    """A table's name in a catalogue, where names are lower-case letters, digits and ``_``.

    ``.`` becomes ``__``. A name that would not be one table's alone, or is too long, ends in a hash.

    >>> catalog_name("imu.data"), catalog_name("imu_data"), catalog_name("Imu.data")
    ('imu__data', 'imu_data', 'imu__data_hbea4cf73')
    """
    name = re.sub(r"[^a-z0-9_]", "_", table.lower().replace(".", "__"))
    if not _LOSSY.search(table) and len(name) <= MAX_NAME:
        return name
    plain = re.sub(r"_{3,}", "__", name).strip("_")[:MAX_NAME].rstrip("_")
    return f"{plain or 'topic'}_h{sha256(table.encode())[:8]}"


def definition_name(table: str, digits: str) -> str:
    """Of a table that holds one definition alone; no `catalog_name` has three underscores in a row."""
    return f"{catalog_name(table)}___{digits}"


@dataclass(frozen=True, slots=True)
class _Selection:
    """What of some columns another system has.

    Attributes:
        adapt: the type that a type without children is read as; None where there is none.
        takes: whether a column or field of a struct can be called so.
        left_out: what it has not, each with its reason; filled as columns are gone through.
    """

    adapt: Callable[[pa.DataType], pa.DataType | None]
    takes: Callable[[str], bool]
    left_out: list[str] = field(default_factory=list)

    def fields(self, path: str, given: Iterable[pa.Field]) -> list[pa.Field]:
        kept = []
        for each in given:
            place = f"{path}.{each.name}" if path else each.name
            if not self.takes(each.name):
                self.left_out.append(f"{place}: its name is not of letters, digits and _")
            elif (kind := self.type(place, each.type)) is not None:
                kept.append(pa.field(each.name, kind))
        return kept

    def type(self, path: str, kind: pa.DataType) -> pa.DataType | None:
        """The type of what can be had of it: lists without sizes, values without dictionaries, nullable."""
        if pa.types.is_dictionary(kind):
            return self.type(path, kind.value_type)
        if pa.types.is_struct(kind):
            fields = self.fields(path, kind)
            return pa.struct(fields) if fields else None
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            item = self.type(f"{path}[]", kind.value_type)
            return None if item is None else pa.list_(pa.field(ELEMENT, item))
        if pa.types.is_map(kind):
            key, item = (self.type(f"{path}{{}}", each) for each in (kind.key_type, kind.item_type))
            return None if key is None or item is None else pa.map_(key, item)
        found = self.adapt(kind)
        if found is None:
            self.left_out.append(f"{path}: there is no type for {kind}")
        return found


def with_own(columns: pa.Schema) -> pa.Schema:
    """``columns`` and those of the engine's own that other files of the definition may have."""
    fields = list(columns)
    place = columns.get_field_index("log_time_ns") + 1
    for name, kind in reversed(OWN):
        if place and name not in columns.names:
            fields.insert(place, pa.field(name, kind))
    return pa.schema(fields)


# --- Hive and Presto ---------------------------------------------------------------------------------

_HIVE: Final = {
    pa.bool_(): ("boolean", "boolean"),
    pa.int8(): ("tinyint", "tinyint"),
    pa.uint8(): ("smallint", "smallint"),
    pa.int16(): ("smallint", "smallint"),
    pa.uint16(): ("int", "integer"),
    pa.int32(): ("int", "integer"),
    pa.uint32(): ("bigint", "bigint"),
    pa.int64(): ("bigint", "bigint"),
    pa.uint64(): ("bigint", "bigint"),
    pa.float32(): ("float", "real"),
    pa.float64(): ("double", "double"),
    pa.string(): ("string", "varchar"),
    pa.large_string(): ("string", "varchar"),
    pa.binary(): ("binary", "varbinary"),
    pa.large_binary(): ("binary", "varbinary"),
    pa.date32(): ("date", "date"),
}
"""Type in a table's columns, and in a view's SQL. An unsigned integer is in the next larger one."""


def hive_columns(columns: pa.Schema) -> tuple[pa.Schema, list[str]]:
    """What of ``columns`` a Hive table has, and what it cannot have.

    Files are read by the names of their columns, which Athena knows letters, digits and ``_`` in; what has
    other names, and types that Hive has not, are left out.
    """
    selection = _Selection(_hive_type, lambda name: bool(_PLAIN.fullmatch(name)))
    return pa.schema(selection.fields("", columns)), selection.left_out


def _hive_type(kind: pa.DataType) -> pa.DataType | None:
    if kind in _HIVE or pa.types.is_decimal128(kind):
        return kind
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    return None


def hive_text(kind: pa.DataType) -> str:
    """A type of `hive_columns`, as Glue has it.

    >>> hive_text(pa.list_(pa.struct([("X", pa.uint16())])))
    'array<struct<x:int>>'
    """
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{each.name.lower()}:{hive_text(each.type)}' for each in kind)}>"
    if pa.types.is_list(kind):
        return f"array<{hive_text(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{hive_text(kind.key_type)},{hive_text(kind.item_type)}>"
    return _text(kind, 0)


def presto_text(kind: pa.DataType) -> str:
    """A type of `hive_columns`, as Athena's SQL has it.

    >>> presto_text(pa.list_(pa.struct([("X", pa.uint16())])))
    'array(row("x" integer))'
    """
    if pa.types.is_struct(kind):
        return f"row({', '.join(f'{quoted(each.name.lower())} {presto_text(each.type)}' for each in kind)})"
    if pa.types.is_list(kind):
        return f"array({presto_text(kind.value_type)})"
    if pa.types.is_map(kind):
        return f"map({presto_text(kind.key_type)}, {presto_text(kind.item_type)})"
    return _text(kind, 1)


def _text(kind: pa.DataType, which: int) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return _HIVE[kind][which]


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


# --- Iceberg -----------------------------------------------------------------------------------------


def iceberg_columns(columns: pa.Schema) -> tuple[pa.Schema, list[str]]:
    """What of ``columns`` an Iceberg table has, in the types that it reads files as, and what it cannot have.

    Integers of fewer than 32 bits are ``int``, unsigned ones of 32 and 64 bits ``long``.
    """
    selection = _Selection(_iceberg_type, lambda _: True)
    return pa.schema(selection.fields("", columns)), selection.left_out


def _iceberg_type(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(kind):
        large = kind.bit_width == 64 or (kind.bit_width == 32 and pa.types.is_unsigned_integer(kind))
        return pa.int64() if large else pa.int32()
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):  # what files have in nanoseconds, Iceberg's version 2 cannot read
        return kind if kind.unit == "us" and kind.tz in (None, "UTC") else None
    plain = pa.types.is_boolean(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    more = pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal128(kind) or pa.types.is_date32(kind)
    return kind if plain or more or pa.types.is_string(kind) or pa.types.is_binary(kind) else None
