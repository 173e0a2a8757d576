"""Frames tables of a lake, and the rows that their keys lead to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as fs
import pyarrow.parquet as pq

from ros_to_parquet import contract, drift
from ros_to_parquet.frames.arrays import column, integers, one_array
from ros_to_parquet.frames.columns import KEY_FIELDS, selected
from ros_to_parquet.parquet_options import read_as, recorded_schema
from ros_to_parquet.schema_records import definition_of_file
from ros_to_parquet.storage import Storage, arrow_filesystem, join
from ros_to_parquet.text import and_more

METADATA_KEY = "ros_to_parquet.frames"
"""In a file's metadata: JSON of the plans whose rows it was made of, and of the table's description."""

RESULT_KEY = "ros_to_parquet.frames_result"
"""Likewise: how many frames have a value in each column, and why others have none."""


def tables(storage: Storage, lake_uri: str) -> list[str]:
    """Names of the frames tables that a lake has, sorted."""
    names = storage.folders(join(lake_uri, contract.FRAMES_FOLDER))
    return [name for name in names if drives(storage, lake_uri, name)]  # a file system keeps empty folders


def drives(storage: Storage, lake_uri: str, name: str) -> list[str]:
    """The drives that a frames table has rows of, sorted."""
    found = (
        each.uri.split("/")[-2:]
        for each in storage.objects(join(lake_uri, f"{contract.FRAMES_FOLDER}/{name}"))
    )
    return sorted(folder.removeprefix("drive_id=") for folder, file in found if file == contract.FRAMES_FILE)


def dataset(storage: Storage, lake_uri: str, name: str, wanted: Sequence[str] | None) -> ds.Dataset:
    """A frames table of some drives, or of all that it has; with the column ``drive_id``.

    Raises:
        KeyError: no such table, or drive in it.
        drift.DriftError: drives differ so that no table holds both.
    """
    there = drives(storage, lake_uri, name)
    if not there:
        known = ", ".join(tables(storage, lake_uri)) or "none"
        raise KeyError(f"{lake_uri}: no frames table {name}; there are {known}")
    if missing := [each for each in wanted or () if each not in there]:
        raise KeyError(f"{lake_uri}: frames table {name}: nothing of drive {missing[0]}")
    if wanted is not None and not wanted:
        raise KeyError(f"{lake_uri}: frames table {name}: of no drive")
    filesystem, root = arrow_filesystem(lake_uri)
    chosen = there if wanted is None else list(wanted)
    files = [f"{root}/{contract.frames_key(name, drive_id)}" for drive_id in chosen]
    schemas = [
        recorded_schema(pq.read_metadata(file, filesystem=filesystem)).remove_metadata() for file in files
    ]
    definitions = [
        (drive_id, drift.TopicDefinition(schema)) for drive_id, schema in zip(chosen, schemas, strict=True)
    ]
    try:
        common = drift.common_columns(definitions, partition="drive_id")
    except drift.DriftError as error:
        apart = and_more([f"drives={[each for each, _ in group]}" for group in drift.groups(definitions)])
        raise drift.DriftError(
            f"{lake_uri}: frames table {name}: {error}. Read them apart: {apart}"
        ) from error
    partition = pa.schema([("drive_id", pa.string())])
    return ds.dataset(
        files,
        schema=pa.schema([*common, *partition]),
        filesystem=filesystem,
        format="parquet",
        partitioning=ds.HivePartitioning(partition),
        partition_base_dir=root,
    )


def is_made_of(filesystem: fs.FileSystem, path: str, plans: frozenset[str]) -> bool:
    """Whether the frames table at ``path`` has rows of one of the plans, or cannot be read (any more)."""
    try:
        footer = pq.read_metadata(path, filesystem=filesystem)
        said = json.loads((footer.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    except (FileNotFoundError, ValueError):
        return True
    return not plans.isdisjoint(said.get("plans", ()))


def fetch(lake_uri: str, keys: pa.Array | pa.ChunkedArray, columns: Sequence[str] | None) -> pa.Table:
    """The rows of the lake that ``keys`` (a topic's column of a frames table) lead to, in their order.

    A null key is a row of nulls. A row group is read once, whatever the order; all rows that are asked for
    are in memory. Where no key leads anywhere, nobody knows the types: ``columns`` are of type null.

    Raises:
        TypeError: ``keys`` is something else.
        KeyError: the rows have not one of the columns.
        drift.DriftError: definitions differ so that no table holds both.
        FileNotFoundError: the drive has been replaced since the frames table was read.
    """
    struct = _keys(keys)
    filesystem, root = arrow_filesystem(lake_uri)
    there = np.flatnonzero(struct.is_valid().to_numpy(zero_copy_only=False))
    some = struct.take(column(there))
    files = some.field("file").dictionary_encode()
    paths, of_file = files.dictionary.to_pylist(), integers(files.indices)
    groups, rows = integers(some.field("row_group")), integers(some.field("row"))
    pieces, places, schemas = [], [], []
    for place, path in enumerate(paths):
        here = np.flatnonzero(of_file == place)
        with pq.ParquetFile(filesystem.open_input_file(f"{root}/{path}")) as file:
            schemas.append((path, recorded_schema(file.metadata)))
            for number, start in _starts(file, set(groups[here].tolist())):
                found = here[groups[here] == number]
                read = file.read_row_group(number, columns=None if columns is None else list(columns))
                # Of a version without any of the columns there are rows all the same, of nulls.
                pieces.append(
                    read.take(column(rows[found] - start)) if read.num_columns else _empty_rows(len(found))
                )
                places.append(there[found])
    if not pieces:
        names = dict.fromkeys(each.partition(".")[0] for each in columns or ())
        empty = pa.struct([pa.field(name, pa.null()) for name in names])
        return pa.Table.from_struct_array(pa.array([{}] * len(struct), empty))
    common = _columns(lake_uri, schemas, columns)
    table = pa.concat_tables([read_as(each, common) for each in pieces])
    order = np.full(len(struct), -1, dtype=np.int64)
    order[np.concatenate(places)] = np.arange(table.num_rows)
    return table.take(column(order, order >= 0))


def _empty_rows(count: int) -> pa.Table:
    return pa.Table.from_struct_array(pa.array([{}] * count, pa.struct([])))


def _keys(keys: pa.Array | pa.ChunkedArray) -> pa.StructArray:
    kind, names = getattr(keys, "type", None), [each.name for each in KEY_FIELDS]
    if isinstance(kind, pa.StructType) and all(kind.get_field_index(name) >= 0 for name in names):
        return one_array(keys)
    raise TypeError(
        f"keys are a topic's column of a frames table, a struct with {', '.join(names)}; "
        f"not {type(keys).__name__ if kind is None else kind}"
    )


def _columns(
    lake_uri: str, files: Sequence[tuple[str, pa.Schema]], columns: Sequence[str] | None
) -> pa.Schema:
    """What holds the columns of all files, each of which may be null."""
    table = files[0][0].partition("/")[0]
    definitions: list[tuple[str, drift.TopicDefinition]] = []
    met: set[str] = set()
    for path, schema in files:
        definition = definition_of_file(schema)
        wanted = schema if columns is None else selected(schema, columns, met)
        definitions.append((contract.schema_of(path), dataclasses.replace(definition, columns=wanted)))
    if missing := [each for each in columns or () if each not in met]:
        known = dict.fromkeys(name for _, schema in files for name in schema.names)
        raise KeyError(f"{lake_uri}: table {table}: no column {missing[0]}; there are {', '.join(known)}")
    try:
        common = drift.common_columns(definitions)
    except drift.DriftError as error:
        raise drift.DriftError(
            f"{lake_uri}: table {table}: {error}; name other columns, or fetch keys of each apart"
        ) from error
    said = set.intersection(*(set((schema.metadata or {}).items()) for _, schema in files))
    return pa.schema([each.with_nullable(True) for each in common], dict(said))


def _starts(file: pq.ParquetFile, wanted: set[int]) -> Iterator[tuple[int, int]]:
    """The row groups that are ``wanted``, each with the number of its first row in the file."""
    start = 0
    for number in range(file.num_row_groups):
        if number in wanted:
            yield number, start
        start += file.metadata.row_group(number).num_rows
