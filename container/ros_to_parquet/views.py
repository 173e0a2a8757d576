"""SQL that makes a view of each topic in DuckDB, with every cast written out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from ros_to_parquet import drift
from ros_to_parquet.contract import sha256
from ros_to_parquet.drift import TopicDefinition
from ros_to_parquet.history import TopicDrift
from ros_to_parquet.storage import join

_TYPES: Final = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.uint8(): "UTINYINT",
    pa.int16(): "SMALLINT",
    pa.uint16(): "USMALLINT",
    pa.int32(): "INTEGER",
    pa.uint32(): "UINTEGER",
    pa.int64(): "BIGINT",
    pa.uint64(): "UBIGINT",
    pa.float16(): "FLOAT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.large_binary(): "BLOB",
    pa.date32(): "DATE",
    pa.date64(): "DATE",
}

_PARTITION: Final = re.compile(r"/[^/]+=[^/]*/")

_FILE: Final = "_file_of_the_lake"


def statements(lake: str, found: Sequence[TopicDrift]) -> Iterator[str]:
    """SQL for DuckDB: a view of each topic of the lake at ``lake``, named as its table.

    A topic with several definitions is one view, where a table holds them all: what is cast, and what is
    null, is in the view's comment. Else it has a view for each, ``table@digits``, and one for those that go
    together, ``table@digits+digits``. Where DuckDB does not tell names of tables apart, views' have a hash.
    """
    same = Counter(each.table.lower() for each in found)
    for each in found:
        view = each.table
        if same[view.lower()] > 1:
            view += f"_h{sha256(view.encode())[:8]}"
        known = each.definitions()
        left_out = [version.schema for version in each.versions if version.definition is None]
        about = f"Topic {', '.join(each.topics)}"
        if left_out:
            about += f"; left out, for its columns cannot be read: schema {', '.join(left_out)}"
        if not known:
            yield f"-- {_one_line(about)}\n"
        elif each.broken:
            one, other, fields = each.broken
            yield f"DROP VIEW IF EXISTS {_name(view)};\n"
            reason = f"no table holds both schema {one} and {other}: {fields[0]}"
            for digits, definition in known:
                text = f"{about}, {definition.type_name}, schema {digits} alone, for {reason}"
                query = _select(lake, each.table, digits, definition.columns, definition.columns)
                yield _view(f"{view}@{digits}", query, text)
            for group in drift.groups(known):
                if len(group) > 1:
                    name = "+".join(digits for digits, _ in group)
                    yield _view(f"{view}@{name}", *_together(lake, each.table, group, about))
        else:
            yield _view(view, *_together(lake, each.table, known, about))


def _together(
    lake: str, table: str, known: Sequence[tuple[str, TopicDefinition]], about: str
) -> tuple[str, str]:
    """The query, and the comment."""
    common = drift.common_columns(known)
    types = ", ".join(dict.fromkeys(definition.type_name for _, definition in known))
    text = [f"{about}, {types}"]
    for digits, definition in known:
        done = drift.adaptations(definition.columns, common)
        if done:
            text.append(f"in schema {digits}: {', '.join(done)}")
    queries = [_select(lake, table, digits, definition.columns, common) for digits, definition in known]
    return "\nUNION ALL BY NAME\n".join(queries), "; ".join(text)


def _view(name: str, query: str, comment: str) -> str:
    return (
        f"-- {_one_line(comment)}\n"
        f"CREATE OR REPLACE VIEW {_name(name)} AS\n{query};\n"
        f"COMMENT ON VIEW {_name(name)} IS {_text(comment)};\n"
    )


def _select(lake: str, table: str, digits: str, columns: pa.Schema, common: pa.Schema) -> str:
    casts = [
        f"CAST({_name(field.name)} AS {_type(common.field(field.name).type)}) AS {_name(field.name)}"
        for field in columns
        if _type(field.type) != _type(common.field(field.name).type)
    ]
    replaced = f" REPLACE ({', '.join(casts)})" if casts else ""
    files = join(_escaped(lake), f"{table}/schema={digits}/drive_id=*/*.parquet")
    if _PARTITION.search(f"{lake}/"):  # DuckDB would take it for a column
        drive = f"regexp_extract({_FILE}, 'drive_id=([^/]*)/[^/]*$', 1) AS drive_id"
        return (
            f"SELECT * EXCLUDE ({_FILE}){replaced}, {_text(digits)} AS schema, {drive} FROM read_parquet("
            f"{_text(files)}, union_by_name = true, hive_partitioning = false, filename = '{_FILE}')"
        )
    return (
        f"SELECT *{replaced} FROM read_parquet({_text(files)}, union_by_name = true, "
        "hive_partitioning = true, hive_types = {'schema': VARCHAR, 'drive_id': VARCHAR})"
    )


def _type(kind: pa.DataType) -> str:
    """DuckDB's type for what it reads from Parquet."""
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{_name(each.name)} {_type(each.type)}' for each in kind)})"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"{_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({_type(kind.key_type)}, {_type(kind.item_type)})"
    if pa.types.is_dictionary(kind):
        return _type(kind.value_type)
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if pa.types.is_fixed_size_binary(kind):
        return "BLOB"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz is None else "TIMESTAMPTZ"
    if pa.types.is_time(kind):
        return "TIME"
    return _TYPES.get(kind, "BIGINT")  # a duration, which Parquet has not


def _escaped(path: str) -> str:
    """A path in which globs find nothing to do."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
