"""A drive's Parquet files, a bounded part at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from ros_to_parquet.storage import arrow_filesystem

if TYPE_CHECKING:
    import pyarrow as pa

    from ros_to_parquet.report.drive import TopicFile

BATCH_ROWS = 65_536

TIMES = "log_time_ns"

MOST_OPENED = 1_500
"""Files that each part of the report opens of a drive: in S3 one takes some requests."""

MOST_OPENED_A_TOPIC = 256

BUFFER_BYTES = 4 << 20
"""Of large values that are read at a time."""
LEAST_OPENED_A_TOPIC = 4

MOST_NUMBER = 1e100
"""Numbers from here on are taken for infinite: with them differences would be, and no plot can be drawn."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Some rows of a file that lie together.

    Attributes:
        file: its number among those that were asked for.
        follows: whether the rows before it, of the same file, were read too, or there are none.
        times_ns: least and most log time; None where the file does not say.
        batches: its rows; None where they are not of the sample.
    """

    file: int
    rows: int
    follows: bool
    times_ns: tuple[int, int] | None
    batches: Iterator[pa.RecordBatch] | None


class Tables:
    """The Parquet files below a lake's URI, by their paths in manifests.

    What is read of many or large files is a sample, evenly spread: whole row groups.

    Args:
        topics: of the drive, which share the files that are opened.

    Attributes:
        ends_at: on the monotonic clock: from then on nothing more is read.
        out_of_time: whether something was not read for that.
    """

    def __init__(self, lake_uri: str, *, topics: int = 1) -> None:
        self._filesystem, self._root = arrow_filesystem(lake_uri)
        share = MOST_OPENED // max(topics, 1)
        self._most_opened = max(LEAST_OPENED_A_TOPIC, min(share, MOST_OPENED_A_TOPIC))
        self.ends_at = math.inf
        self.out_of_time = False

    def open(self, path: str, *, buffer_bytes: int = 0) -> pq.ParquetFile:
        """With ``buffer_bytes`` columns are read so much at a time; else together, in few requests."""
        file = self._filesystem.open_input_file(f"{self._root}/{path}")
        return pq.ParquetFile(file, pre_buffer=not buffer_bytes, buffer_size=buffer_bytes)

    def read(self, path: str) -> bytes:
        """What a file beside the tables holds."""
        with self._filesystem.open_input_stream(f"{self._root}/{path}") as file:
            return bytes(file.read())

    def schema(self, path: str) -> pa.Schema:
        with self.open(path) as file:
            return file.schema_arrow

    def chosen(self, count: int) -> list[int]:
        """Numbers of those of ``count`` files that are opened."""
        return spread(count, self._most_opened)

    def row_groups(
        self,
        files: Sequence[TopicFile],
        choose: Callable[[pa.Schema], Sequence[str]],
        *,
        most_rows: int,
    ) -> Iterator[RowGroup]:
        """The row groups of those of the files that are opened, in order, and about ``most_rows`` in all.

        The columns are chosen by a file's schema: where none is, none of its row groups is there. A column is
        named by its path in a row: ``pose.position.x``. Files of one topic can be of several definitions, and
        anybody can define a ``sensor_msgs/Imu`` of their own: `type_at` says what is there.
        """
        chosen = self.chosen(len(files))
        rows = sum(files[number].rows for number in chosen)
        share = min(1.0, most_rows / max(rows, 1))
        for number in chosen:
            if self.is_late():
                return
            with self.open(files[number].path) as file:
                columns = list(choose(file.schema_arrow))
                if not columns:
                    continue
                taken = set(spread(file.num_row_groups, math.ceil(share * file.num_row_groups)))
                for group in range(file.num_row_groups):
                    metadata = file.metadata.row_group(group)
                    batches = None
                    if group in taken and not self.is_late():
                        batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)
                    yield RowGroup(
                        file=number,
                        rows=metadata.num_rows,
                        follows=group == 0 or group - 1 in taken,
                        times_ns=_times_of(metadata),
                        batches=batches,
                    )

    def batches(
        self,
        files: Sequence[TopicFile],
        choose: Callable[[pa.Schema], Sequence[str]],
        *,
        most_rows: int,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of the sample; see `row_groups`."""
        for group in self.row_groups(files, choose, most_rows=most_rows):
            yield from group.batches or ()

    def rows_at(
        self, files: Sequence[TopicFile], places: Sequence[int], columns: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The rows of these numbers, counted over all the files; ``places`` in rising order.

        Lists of numbers are arrays, blobs are bytes or a view of them. Of each row that is asked for, the row
        group that it is in is read.
        """
        wanted = list(places)
        begin = 0
        for each in files:
            here = [place - begin for place in wanted if place < begin + each.rows]
            if here and not self.is_late():
                yield from self._rows_of(each.path, here, columns)
            wanted = wanted[len(here) :]
            begin += each.rows

    def _rows_of(self, path: str, places: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        wanted = list(places)
        begin = 0
        with self.open(path, buffer_bytes=BUFFER_BYTES) as file:
            there = [each for each in columns if type_at(file.schema_arrow, each) is not None]
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                here = [place - begin for place in wanted if place < begin + count]
                if here:
                    yield from _rows_in(file, group, here, there)
                wanted = wanted[len(here) :]
                begin += count

    def is_late(self) -> bool:
        """Whether nothing more is to be read."""
        late = time.monotonic() > self.ends_at
        self.out_of_time |= late
        return late


def spread(rows: int, count: int) -> list[int]:
    """Numbers of ``count`` rows, the middle of as many equal parts.

    >>> spread(100, 4), spread(2, 4)
    ([12, 37, 62, 87], [0, 1])
    """
    if count >= rows:
        return list(range(rows))
    return [int((place + 0.5) * rows / count) for place in range(count)]


def _rows_in(
    file: pq.ParquetFile, group: int, places: Sequence[int], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Some rows of a row group."""
    import pyarrow as pa

    table = file.read_row_group(group, columns=columns)
    rows = [
        {
            name: _value(next(each for each in table.column(name).slice(place, 1).chunks if len(each)))
            for name in table.column_names
        }
        for place in places
    ]
    del table
    pa.default_memory_pool().release_unused()
    return rows


def _value(one: pa.Array) -> Any:
    """The value of an array of one; blobs, which may be large, are not copied."""
    import pyarrow as pa

    kind = one.type
    if one.null_count:
        return None
    if pa.types.is_binary(kind):
        _, offsets, data = one.buffers()
        start, stop = np.frombuffer(offsets, dtype=np.int32)[one.offset : one.offset + 2].tolist()
        return memoryview(data.slice(start, stop - start)) if stop > start else b""
    if (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) and is_numeric(kind.value_type):
        numbers = one.flatten()
        if not numbers.null_count:
            return np.array(numbers)
    return one[0].as_py()


def _times_of(group: pq.RowGroupMetaData) -> tuple[int, int] | None:
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema == TIMES:
            said = column.statistics
            known = said is not None and said.has_min_max and isinstance(said.min, int)
            return (said.min, said.max) if known else None
    return None


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
