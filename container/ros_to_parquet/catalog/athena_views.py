"""Athena's views, as its catalogue keeps them: a topic's definitions as one, with every cast written out."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from ros_to_parquet.catalog.columns import presto_text, quoted

PARTITIONS: Final = ("schema", "drive_id")

_BEGIN: Final = "/* Presto View: "
_END: Final = " */"


def view_query(database: str, parts: Sequence[tuple[str, pa.Schema]], common: pa.Schema) -> str:
    """SQL for all rows of several tables, each given by its name and columns, in the columns of all.

    ``common`` are those columns (`drift.common_columns`); a table that lacks one has nulls there.
    """
    return "\nUNION ALL\n".join(_select(database, name, columns, common) for name, columns in parts)


def _select(database: str, name: str, columns: pa.Schema, common: pa.Schema) -> str:
    chosen = []
    for each in common:
        column = quoted(each.name.lower())
        if each.name not in columns.names:
            chosen.append(f"CAST(NULL AS {presto_text(each.type)}) AS {column}")
            continue
        value = _adapted(column, columns.field(each.name).type, each.type, 0)
        chosen.append(column if value == column else f"{value} AS {column}")
    chosen += [quoted(partition) for partition in PARTITIONS]
    return f"SELECT {', '.join(chosen)}\nFROM {quoted(database)}.{quoted(name)}"


def _adapted(value: str, kind: pa.DataType, wanted: pa.DataType, depth: int) -> str:
    """SQL for ``value`` of a type as another one. A cast of a row goes by places, so its fields are named."""
    if presto_text(kind) == presto_text(wanted):
        return value
    if pa.types.is_struct(kind):
        names = {each.name: each.type for each in kind}
        fields = [
            _adapted(f"{value}.{quoted(each.name.lower())}", names[each.name], each.type, depth)
            if each.name in names
            else "NULL"
            for each in wanted
        ]
        return f"IF({value} IS NULL, NULL, CAST(ROW({', '.join(fields)}) AS {presto_text(wanted)}))"
    if pa.types.is_list(kind):
        item = f"e{depth}"
        inner = _adapted(item, kind.value_type, wanted.value_type, depth + 1)
        return f"transform({value}, {item} -> {inner})"
    return f"CAST({value} AS {presto_text(wanted)})"


def view_text(database: str, query: str, common: pa.Schema) -> str:
    """What a view's ``ViewOriginalText`` is: the query and its columns, as JSON in base64."""
    columns = [{"name": each.name.lower(), "type": presto_text(each.type)} for each in common]
    columns += [{"name": name, "type": "varchar"} for name in PARTITIONS]
    said = {"originalSql": query, "catalog": "awsdatacatalog", "schema": database, "columns": columns}
    return f"{_BEGIN}{base64.b64encode(json.dumps(said).encode()).decode()}{_END}"


def read_view(text: str) -> dict[str, Any]:
    """What `view_text` has written."""
    said: dict[str, Any] = json.loads(base64.b64decode(text.removeprefix(_BEGIN).removesuffix(_END)))
    return said
