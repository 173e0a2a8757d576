"""How columns are written as Parquet: encodings, codecs, pages, statistics."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet.contract import ParquetStyle

COMPRESSION: Final = "zstd"
COMPRESSION_LEVEL: Final = 1

PAGE_BYTES: Final = 1 << 20
"""Pages are ended past this many bytes, so that one image or cloud can be read without its neighbours."""

_PAGE_CHECK_ROWS: Final = 1024
"""Arrow looks at a page's size after this many rows, or fewer where they are told to be long."""

_SAMPLE_BYTES: Final = 64 << 10
_INCOMPRESSIBLE: Final = 0.95


def writer_options(
    batches: Sequence[pa.RecordBatch], *, style: ParquetStyle, sorted_by: Sequence[str] = ()
) -> dict[str, Any]:
    """Options of ``ParquetWriter`` for a table whose first rows are ``batches``.

    An encoding that fits each leaf's type: byte-stream-split for floats, delta for integers and times,
    dictionary for strings alone. In the compatible style all but strings are plain, and ``uint32`` is
    written as a signed 64-bit integer. Nothing is compressed that does not get smaller. Statistics where
    they prune: not on blobs, nor within lists, where readers cannot use them.

    Args:
        sorted_by: top-level columns without children that every row group is sorted by.
    """
    schema = batches[0].schema
    encodings: dict[str, str] = {}
    dictionaries: list[str] = []
    statistics: list[str] = []
    codecs: dict[str, str] = {}
    levels: dict[str, int] = {}
    plain = set(incompressible_leaves(batches[0]))
    places: dict[str, int] = {}
    named = Counter(path for path, _ in leaves(schema))
    for path, kind in leaves(schema):
        places[path] = len(places)
        if path in plain:
            codecs[path] = "none"
        else:
            codecs[path] = COMPRESSION
            levels[path] = COMPRESSION_LEVEL
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
            dictionaries.append(path)
        elif style is ParquetStyle.COMPATIBLE or named[path] > 1:
            pass  # a name with a dot may be another one's path, and options are by path
        elif pa.types.is_floating(kind) and not pa.types.is_float16(kind):
            encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
            encodings[path] = "DELTA_BINARY_PACKED"
        if not is_blob(kind) and ".list." not in path and ".key_value." not in path:
            statistics.append(path)
    return {
        "compression": codecs,
        "compression_level": levels,
        "use_dictionary": dictionaries or False,
        "column_encoding": encodings or None,
        "write_statistics": statistics or False,
        "write_page_index": True,
        "data_page_size": PAGE_BYTES,
        "write_batch_size": _rows_per_page(batches),
        "sorting_columns": [pq.SortingColumn(places[name]) for name in sorted_by] or None,
        "version": "1.0" if style is ParquetStyle.COMPATIBLE else "2.6",
    }


def recorded_schema(metadata: pq.FileMetaData) -> pa.Schema:
    """The Arrow schema that a file was written from, whatever the types that it is stored as."""
    said = metadata.metadata or {}
    if stored := said.get(b"ARROW:schema"):
        schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(stored)))
        return schema.with_metadata({key: said[key] for key in said if key != b"ARROW:schema"})
    return metadata.schema.to_arrow_schema()


def read_as(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """Rows of a file in wider columns than it has: those that it lacks are null."""
    arrays = [
        rows.column(each.name).cast(each.type)
        if each.name in rows.column_names
        else pa.nulls(rows.num_rows, each.type)
        for each in columns
    ]
    return pa.table(arrays, schema=columns)


def leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet path and type of every leaf column, as ``pyarrow.parquet`` names them."""
    for column in schema:
        yield from _leaves(column.name, column.type)


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if pa.types.is_struct(kind):
        for child in kind:
            yield from _leaves(f"{path}.{child.name}", child.type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_map(kind):  # none that the engine makes, but a transform may
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    else:
        yield path, kind


def is_blob(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _rows_per_page(batches: Sequence[pa.RecordBatch]) -> int:
    """Rows after which the longest of the table's own blobs fills a page."""
    rows = sum(batch.num_rows for batch in batches)
    longest = max(
        (
            sum(batch.column(place).nbytes for batch in batches)
            for place, field in enumerate(batches[0].schema)
            if is_blob(field.type)
        ),
        default=0,
    )
    return int(max(1, min(_PAGE_CHECK_ROWS, PAGE_BYTES * rows // max(1, longest))))


def incompressible_leaves(batch: pa.RecordBatch) -> list[str]:
    """Paths of the blob columns of which a sample does not get smaller."""
    found = []
    codec = pa.Codec(COMPRESSION, compression_level=COMPRESSION_LEVEL)
    for path, kind in leaves(batch.schema):
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) or "." in path:
            continue
        column = batch.column(path)
        data = column.buffers()[-1]
        if data is None or not data.size:
            continue
        middle = max(0, data.size // 2 - _SAMPLE_BYTES // 2)
        sample = data.slice(middle, min(_SAMPLE_BYTES, data.size - middle))
        if len(codec.compress(sample)) > _INCOMPRESSIBLE * sample.size:
            found.append(path)
    return found
