"""A drive's Parquet files, a bounded part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ros_to_parquet.storage import arrow_filesystem

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536


class Tables:
    """The Parquet files below a lake's URI, by their paths in manifests."""

    def __init__(self, lake_uri: str) -> None:
        self._filesystem, self._root = arrow_filesystem(lake_uri)

    def open(self, path: str) -> pq.ParquetFile:
        return pq.ParquetFile(self._filesystem.open_input_file(f"{self._root}/{path}"))

    def schema(self, path: str) -> pa.Schema:
        with self.open(path) as file:
            return file.schema_arrow

    def batches(self, paths: Iterable[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows of the files, in order, of those of the ``columns`` that a file has; none of one without any.

        A column is named by its path in a row: ``pose.position.x``.
        """
        for path in paths:
            with self.open(path) as file:
                there = [each for each in columns if _has(file.schema_arrow, each)]
                if there:
                    yield from file.iter_batches(BATCH_ROWS, columns=there)

    def rows_at(
        self, paths: Iterable[str], places: Sequence[int], columns: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The rows of these numbers, counted over all the files; ``places`` in rising order.

        Of each that is asked for, the row group that it is in is read.
        """
        wanted = list(places)
        begin = 0
        for path in paths:
            if not wanted:
                return
            with self.open(path) as file:
                there = [each for each in columns if _has(file.schema_arrow, each)]
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    here = [place for place in wanted if place < begin + count]
                    if here:
                        table = file.read_row_group(group, columns=there)
                        for place in here:
                            (row,) = table.slice(place - begin, 1).to_pylist()
                            yield row
                        wanted = wanted[len(here) :]
                    begin += count


def leaf(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The values of one field, by its path in a row; nulls of the messages around it are not carried over."""
    name, *rest = path.split(".")
    values = batch.column(name)
    for child in rest:
        values = values.field(child)
    return values


def _has(schema: pa.Schema, column: str) -> bool:
    import pyarrow as pa

    name, *rest = column.split(".")
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    for child in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(child) < 0:
            return False
        kind = kind.field(child).type
    return True
