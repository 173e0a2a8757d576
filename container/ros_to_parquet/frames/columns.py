"""The same columns from all files of a topic, of whatever version its definition is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ros_to_parquet import drift
from ros_to_parquet.contract import Clock
from ros_to_parquet.definitions import full_type_name
from ros_to_parquet.frames.arrays import column
from ros_to_parquet.frames.errors import FramesError
from ros_to_parquet.pointcloud import POINT_CLOUD
from ros_to_parquet.schema import ELEMENT, RESERVED_COLUMNS, unique_names
from ros_to_parquet.schema_records import definition_of_file

ALL = "*"

KEY_FIELDS = (
    pa.field("file", pa.string()),
    pa.field("row_group", pa.int32()),
    pa.field("row", pa.int64()),
)
"""Where a row is in the lake: its file, below the lake's URI, the row group, and its number in the file."""

TIME_FIELDS = (pa.field("time_ns", pa.int64()), pa.field("delta_ns", pa.int64()))
GAP_FIELD = pa.field("gap_ns", pa.int64())

_OWN = {each.name for each in (*TIME_FIELDS, GAP_FIELD, *KEY_FIELDS)}


@dataclass(frozen=True, slots=True)
class Version:
    """A set of columns that some files of a topic have; ``columns`` as of `recorded_schema`."""

    digits: str
    columns: pa.Schema


@dataclass(frozen=True, slots=True)
class Choice:
    """What is taken of a topic's columns.

    Attributes:
        fields: of the topic's column in a frames table, all of them nullable, in the order of ``names``.
        names: columns of the topic's table that they are of.
        paths: what is to be read for them, where a file has it.
    """

    fields: tuple[pa.Field, ...]
    names: tuple[str, ...]
    paths: tuple[str, ...]


def choose(topic: str, versions: Sequence[Version], wanted: Sequence[str]) -> Choice:
    """The columns that the fields ``wanted`` are.

    Raises:
        FramesError: no version of the definition has one of them, or no table holds all versions.
    """
    definitions = [(each.digits, definition_of_file(each.columns)) for each in versions]
    pruned: list[tuple[str, drift.TopicDefinition]] = []
    met: set[str] = set()
    for digits, definition in definitions:
        if not wanted or ALL in wanted:
            keep = (
                _not_large(full_type_name(definition.type_name) == POINT_CLOUD) if not wanted else _everything
            )
            columns = pa.schema(
                [
                    kept
                    for each in definition.columns
                    if each.name not in RESERVED_COLUMNS and (kept := keep(each))
                ]
            )
            extra = selected(definition.columns, [path for path in wanted if path in RESERVED_COLUMNS], met)
            columns = pa.schema([*extra, *columns])
        else:
            columns = selected(definition.columns, wanted, met)
        pruned.append((digits, drift.TopicDefinition(columns, definition.type_name)))
    if missing := [path for path in wanted if path != ALL and path not in met]:
        names = dict.fromkeys(each.name for _, definition in definitions for each in definition.columns)
        raise FramesError(f"topic {topic}: it has no field {missing[0]!r}; its columns: {', '.join(names)}")
    try:
        common = drift.common_columns(pruned)
    except drift.DriftError as error:
        raise FramesError(f'topic {topic}: {error}; name other "fields"') from error
    columns_of = tuple(each.name for each in common)
    shown = unique_names(columns_of, taken=_OWN)
    fields = tuple(pa.field(name, plain(each.type)) for name, each in zip(shown, common, strict=True))
    return Choice(fields, columns_of, tuple(dict.fromkeys(_paths(common))))


def clock_column(clock: Clock) -> str:
    return "log_time_ns" if clock is Clock.LOG_TIME else "stamp_ns"


def _everything(field: pa.Field) -> pa.Field:
    return field


def _not_large(cloud: bool) -> Callable[[pa.Field], pa.Field | None]:
    """A field without what makes rows large, in lists too: bytes, and the points of a cloud."""

    def keep(field: pa.Field) -> pa.Field | None:
        kind = field.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            return None
        if pa.types.is_list(kind):
            inner = kind.value_type
            if (
                pa.types.is_int8(inner)
                or pa.types.is_uint8(inner)
                or (cloud and not pa.types.is_struct(inner))
            ):
                return None
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            item = keep(kind.value_field)
            if item is None:
                return None
            size = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
            return field if item.type.equals(kind.value_type) else field.with_type(pa.list_(item, size))
        if pa.types.is_struct(kind):
            children = [kept for each in kind if (kept := keep(each)) is not None]
            return field.with_type(pa.struct(children)) if children else None
        return field

    return keep


def selected(columns: pa.Schema, paths: Iterable[str], met: set[str]) -> pa.Schema:
    """The fields at ``paths``, within the messages that they are in; those that are there are ``met``."""
    chosen: dict[str, list[list[str]]] = {}
    for path in paths:
        name, *rest = _steps(path, columns.names)
        if _has(columns, name, rest):
            met.add(path)
            chosen.setdefault(name, []).append(rest)
    return pa.schema([_pruned(each, chosen[each.name]) for each in columns if each.name in chosen])


def _steps(path: str, names: Sequence[str]) -> list[str]:
    return [path] if path in names else path.split(".")


def _has(columns: pa.Schema, name: str, rest: Sequence[str]) -> bool:
    if name not in columns.names:
        return False
    kind = columns.field(name).type
    for step in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
            return False
        kind = kind.field(step).type
    return True


def _pruned(field: pa.Field, paths: Sequence[Sequence[str]]) -> pa.Field:
    if any(not path for path in paths):
        return field
    heads: dict[str, list[Sequence[str]]] = {}
    for head, *rest in paths:
        heads.setdefault(head, []).append(rest)
    return field.with_type(
        pa.struct([_pruned(each, heads[each.name]) for each in field.type if each.name in heads])
    )


def _paths(columns: Iterable[pa.Field], before: str = "") -> Iterable[str]:
    """What to name to read the columns: fields of messages apart, so that others stay unread."""
    for each in columns:
        path = f"{before}{each.name}"
        if pa.types.is_struct(each.type):
            yield from _paths(each.type, f"{path}.")
        else:
            yield path


def plain(kind: pa.DataType) -> pa.DataType:
    """The type in a frames table: nulls everywhere, no fixed sizes (null rows have none), no dictionaries."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(each.name, plain(each.type)) for each in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field(ELEMENT, plain(kind.value_type)))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    return kind


def conform(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """``values`` as the wider type ``kind``: fields that they lack are null."""
    if values.type.equals(kind):
        return values
    if pa.types.is_dictionary(values.type):
        return conform(values.dictionary_decode(), kind)
    if pa.types.is_struct(kind):
        children = [
            conform(values.field(place), each.type) if (place := values.type.get_field_index(each.name)) >= 0
            else pa.nulls(len(values), each.type)
            for each in kind
        ]  # fmt: skip
        nulls = values.is_null() if values.null_count else None
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=nulls)
    if pa.types.is_list(kind) and values.null_count == 0:
        counts = np.asarray(
            values.value_lengths() if not pa.types.is_fixed_size_list(values.type) else [], "i8"
        )
        if pa.types.is_fixed_size_list(values.type):
            counts = np.full(len(values), values.type.list_size, dtype=np.int64)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        items = conform(values.flatten(), kind.value_type)
        return pa.ListArray.from_arrays(column(offsets.astype(np.int32)), items, type=kind)
    return values.cast(kind)
