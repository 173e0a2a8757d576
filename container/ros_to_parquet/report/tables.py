"""A drive's Parquet files, a bounded part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ros_to_parquet.storage import arrow_filesystem

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536

TIMES = "log_time_ns"


class Tables:
    """The Parquet files below a lake's URI, by their paths in manifests."""

    def __init__(self, lake_uri: str) -> None:
        self._filesystem, self._root = arrow_filesystem(lake_uri)

    def open(self, path: str) -> pq.ParquetFile:
        return pq.ParquetFile(self._filesystem.open_input_file(f"{self._root}/{path}"))

    def read(self, path: str) -> bytes:
        """What a file beside the tables holds."""
        with self._filesystem.open_input_stream(f"{self._root}/{path}") as file:
            return bytes(file.read())

    def schema(self, path: str) -> pa.Schema:
        with self.open(path) as file:
            return file.schema_arrow

    def batches(
        self, paths: Iterable[str], choose: Callable[[pa.Schema], Sequence[str]]
    ) -> Iterator[pa.RecordBatch]:
        """Rows of the files, in order, of the columns that are chosen by a file's schema; none where none is.

        A column is named by its path in a row: ``pose.position.x``. Files of one topic can be of several
        definitions, and anybody can define a ``sensor_msgs/Imu`` of their own: `type_at` says what is there.
        """
        for path in paths:
            with self.open(path) as file:
                if chosen := choose(file.schema_arrow):
                    yield from file.iter_batches(BATCH_ROWS, columns=list(chosen))

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
                there = [each for each in columns if type_at(file.schema_arrow, each) is not None]
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


def type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """The type of a field, by its path in a row; None where there is none."""
    import pyarrow as pa

    name, *rest = path.split(".")
    if name not in schema.names:
        return None
    kind = schema.field(name).type
    for child in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(child) < 0:
            return None
        kind = kind.field(child).type
    return kind


def is_numeric(kind: pa.DataType | None) -> bool:
    """Whether its values can be plotted."""
    import pyarrow as pa

    return kind is not None and bool(
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    )


def has_times(schema: pa.Schema) -> bool:
    """Whether rows have the engine's column of log times: a transform need not keep it."""
    import pyarrow as pa

    return bool(type_at(schema, TIMES) == pa.int64())


def timed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that have a log time: those of a transform need not."""
    times = batch.column(TIMES)
    return batch.filter(times.is_valid()) if times.null_count else batch
