"""Arrow columns to Parquet files: one file a table and shard, row groups bounded over all tables together."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet import termination
from ros_to_parquet.bag.model import Int64Array
from ros_to_parquet.contract import ParquetStyle
from ros_to_parquet.log import event
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget
from ros_to_parquet.parquet_memory import large_options
from ros_to_parquet.parquet_options import writer_options
from ros_to_parquet.row_scratch import Place, RowScratch
from ros_to_parquet.storage import PART_BYTES, NativeUpload, Storage, StorageError, Upload
from ros_to_parquet.storage.local import local_errors

_LEAST_OF_A_ROW_GROUP: Final = 4
"""A row group is written early if a table has this part of one; rows of tables with less are put aside."""

_COLUMN_BYTES: Final = 640
"""What a column of a batch takes beside its values: more than they do where bags have a message a topic."""

_WRITE_BYTES: Final = 16 << 10
"""Smaller writes are put together: the Parquet writer makes several a column and row group."""

_MOST_NATIVE: Final = 64
"""Files that Arrow writes to itself, which all are open until they end: a process may open 1,024."""

_PUBLISH_THREADS: Final = 16
"""A put waits for the store far longer than it computes; thousands of topics are as many."""

LOG_TIME = pa.timestamp("us", tz="UTC")

_SORTED_BY: Final = ("log_time", "log_time_ns")
"""First columns of every table."""


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Which of the engine's own columns a table has beside the message's fields."""

    stamp: bool
    publish_time: bool
    sequence: bool

    def fields(self) -> list[pa.Field]:
        fields = [
            pa.field("log_time", LOG_TIME, nullable=False),
            pa.field("log_time_ns", pa.int64(), nullable=False),
        ]
        if self.stamp:
            fields += [
                pa.field("stamp", LOG_TIME, nullable=False),
                pa.field("stamp_ns", pa.int64(), nullable=False),
            ]
        if self.publish_time:
            fields.append(pa.field("publish_time_ns", pa.int64(), nullable=False))
        if self.sequence:
            fields.append(pa.field("sequence", pa.int64(), nullable=False))
        fields.append(pa.field("bag", pa.dictionary(pa.int32(), pa.string()), nullable=False))
        return fields


def int64_column(values: Int64Array) -> pa.Array:
    """An Arrow view of ``values`` (``pa.array`` of a numpy array would import pandas)."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def time_column(times_ns: Int64Array) -> pa.Array:
    """Nanoseconds as timestamps in microseconds, rounded down."""
    values = np.floor_divide(times_ns, 1000)
    return pa.Array.from_buffers(LOG_TIME, len(values), [None, pa.py_buffer(values)])


def bag_name(name: str) -> pa.Array:
    """An array of one bag's name, for `bag_column` (``pa.array`` would import pandas)."""
    text = name.encode()
    offsets = np.array([0, len(text)], np.int32)
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def bag_column(rows: int, name: pa.Array) -> pa.Array:
    """``rows`` times the one entry of ``name``: with other bags' too, a batch would be as large as all."""
    indices = np.zeros(rows, dtype=np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(indices)]), name
    )


class _Sink(io.RawIOBase):
    """An upload as the file object that Arrow writes to.

    A Parquet writer that is given up still writes its footer when it is collected: after ``cut``, to nowhere.
    """

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._cut = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes if self._cut else self._upload.write(data)

    def cut(self) -> None:
        """What is written from here on is dropped."""
        self._cut = True


class _LargeScratch:
    """A file on scratch disk that Arrow itself writes to: through a file of Python's it would copy a page.

    It has no name, so that it goes when the process does.
    """

    _PIECE_BYTES = 1 << 20

    def __init__(self) -> None:
        with local_errors(tempfile.gettempdir()):
            handle, path = tempfile.mkstemp(prefix="ros-to-parquet-")
            self._written = os.fdopen(handle, "rb")
            self.file = pa.OSFile(path, "wb")
            Path(path).unlink()

    def hand_on(self, sink: _Sink) -> None:
        """Writes all of it to ``sink``, and removes it."""
        self.file.close()
        with local_errors(tempfile.gettempdir()):
            while piece := self._written.read(self._PIECE_BYTES):
                sink.write(piece)
        self.close()

    def close(self) -> None:
        self._written.close()


@dataclass(slots=True)
class TableFile:
    """One Parquet file in the making.

    Rows are appended by one thread; row groups are encoded by the writer threads, one at a time a file.
    """

    path: str
    schema: pa.Schema
    upload: Upload
    style: ParquetStyle
    large: bool = False
    native: NativeUpload | None = None
    rows: int = 0
    waiting: list[pa.RecordBatch] = field(default_factory=list)
    waiting_bytes: int = 0
    aside: list[Place] = field(default_factory=list)
    aside_bytes: int = 0
    writer: pq.ParquetWriter | None = None
    stream: pa.BufferedOutputStream | None = None
    last: Future[None] | None = None
    sink: _Sink = field(init=False)
    scratch: _LargeScratch | None = None
    said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sink = _Sink(self.upload)

    def encode(
        self,
        scratch: RowScratch,
        aside: Sequence[Place],
        batches: list[pa.RecordBatch],
        before: Future[None] | None,
        *,
        last: bool,
    ) -> None:
        """Writes rows put ``aside`` and ``batches`` as one row group by log time, after the one before it.

        The ``last`` one ends the file, which so holds no memory any more.
        """
        if before is not None:
            before.result()
        batches = [*(batch for place in aside for batch in scratch.read(place, self.schema)), *batches]
        if not batches and self.writer is None:
            batches = [pa.RecordBatch.from_pylist([], schema=self.schema)]
        with local_errors(tempfile.gettempdir() if self.large else self.upload.uri):
            if batches:
                writer = self._begun(batches)
                table = _in_order(pa.Table.from_batches(batches, self.schema).unify_dictionaries())
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            if last:
                self._end()

    def _begun(self, batches: Sequence[pa.RecordBatch]) -> pq.ParquetWriter:
        if self.writer is None:
            options = writer_options(batches, style=self.style, sorted_by=_sorted_by(self.schema))
            if self.large:
                self.scratch = _LargeScratch()
                file, options = self.scratch.file, large_options(options, self.schema)
            else:
                raw = self.native.native() if self.native else pa.PythonFile(self.sink, mode="w")
                file = self.stream = pa.BufferedOutputStream(raw, _WRITE_BYTES)
            self.writer = pq.ParquetWriter(file, self.schema, **options)
        return self.writer

    def _end(self) -> None:
        if self.writer is None:
            return
        if self.said:
            self.writer.add_key_value_metadata(self.said)
        self.writer.close()
        self.writer = None
        if self.stream is not None:
            size_bytes = self.stream.tell()
            self.stream.close()
            self.stream = None
            if self.native:
                self.native.wrote(size_bytes)
        if self.scratch is not None:
            self.scratch.hand_on(self.sink)

    def abort(self) -> None:
        """Gives the file up; to be called when no writer thread is at it."""
        self.sink.cut()
        if self.scratch is not None:
            self.scratch.close()
        self.upload.abort()


def _sorted_by(schema: pa.Schema) -> tuple[str, ...]:
    return _SORTED_BY if tuple(schema.names[: len(_SORTED_BY)]) == _SORTED_BY else ()


def _in_order(table: pa.Table) -> pa.Table:
    """``table`` by log time, so that every row group is what its file declares; mostly as it is."""
    if not _sorted_by(table.schema) or not table.num_rows:
        return table
    log_times = np.concatenate([np.from_dlpack(chunk) for chunk in table.column("log_time_ns").chunks])
    if (log_times[1:] >= log_times[:-1]).all():
        return table
    return table.take(int64_column(np.argsort(log_times, kind="stable")))


class TableWriters:
    """All Parquet files of a shard. Nothing is visible in the store before `publish`.

    ``threads`` encode row groups while the caller goes on decoding; what waits for them is bounded.
    """

    def __init__(
        self,
        storage: Storage,
        output: str,
        *,
        style: ParquetStyle = ParquetStyle.COMPATIBLE,
        budget: MemoryBudget = DEFAULT_BUDGET,
        threads: int = 2,
    ) -> None:
        self._style = style
        self._budget = budget
        self._storage = storage
        self._output = output
        self._files: dict[str, TableFile] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="parquet")
        self._in_flight: deque[tuple[Future[None], int]] = deque()
        self._in_flight_bytes = 0
        self._waiting_bytes = 0
        self._scratch = RowScratch()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with termination.deferred():
            if not self._ended.is_set():
                for file in self._files.values():  # so that row groups in the making send nothing any more
                    file.sink.cut()
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)
            if not self._ended.is_set():
                for file in self._files.values():
                    try:
                        file.abort()
                    except StorageError as error:  # all others still are to be ended, and why be told
                        event("upload_not_ended", uri=file.upload.uri, reason=str(error))
            self._scratch.close()

    def schema_of(self, path: str) -> pa.Schema:
        """The schema of the file at ``path``, which has been opened."""
        return self._files[path].schema

    def open(self, path: str, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
        """Begins the file at ``path`` (relative to the output) with key-value ``metadata``."""
        described = schema.with_metadata(
            {key: value.encode("utf-8", "surrogateescape") for key, value in metadata.items()}
        )
        self._begin(path, described)

    def describe(self, path: str, metadata: Mapping[str, str]) -> None:
        """Adds to the metadata of the file at ``path`` what is known only when its rows are."""
        self._files[path].said |= metadata

    def open_large(self, path: str, like: str) -> None:
        """Begins a file for large rows of the table at ``like``."""
        self._begin(path, self._files[like].schema, large=True)

    def _begin(self, path: str, schema: pa.Schema, *, large: bool = False) -> None:
        with termination.deferred():
            upload = self._storage.upload(f"{self._output}/{path}")
            has_room = len(self._files) < _MOST_NATIVE
            native = upload if isinstance(upload, NativeUpload) and has_room else None
            self._files[path] = TableFile(path, schema, upload, self._style, large=large, native=native)

    def append_large(self, path: str, rows: pa.RecordBatch) -> None:
        """Adds a row that is encoded alone, and is when this returns."""
        file = self._files[path]
        file.waiting.append(rows)
        file.rows += rows.num_rows
        self._flush(file)
        self.settle()

    def settle(self) -> None:
        """Waits for row groups that are being encoded, and puts aside what waits."""
        self._put_aside()
        while self._in_flight:
            self._settle_first()
        pa.default_memory_pool().release_unused()

    def append(self, path: str, rows: pa.RecordBatch) -> None:
        """Adds rows to the file at ``path``; may block while row groups are being encoded."""
        file = self._files[path]
        size = rows.get_total_buffer_size() + _COLUMN_BYTES * rows.num_columns
        file.waiting.append(rows)
        file.waiting_bytes += size
        file.rows += rows.num_rows
        self._waiting_bytes += size
        if file.waiting_bytes + file.aside_bytes >= self._budget.row_group:
            self._flush(file)
        elif self._waiting_bytes >= self._budget.waiting:
            largest = max(self._files.values(), key=lambda candidate: candidate.waiting_bytes)
            if largest.waiting_bytes >= self._budget.row_group // _LEAST_OF_A_ROW_GROUP:
                self._flush(largest)
            else:
                self._put_aside()

    def _put_aside(self) -> None:
        """All rows that wait; where there is no room on disk, as row groups however small."""
        if self._scratch.full:
            for file in self._files.values():
                if file.waiting or file.aside:
                    self._flush(file)
            while self._in_flight:
                self._settle_first()
            self._scratch.clear()
            return
        for file in self._files.values():
            if file.waiting:
                file.aside.append(self._scratch.write(file.waiting, file.waiting_bytes))
                file.aside_bytes += file.waiting_bytes
                self._waiting_bytes -= file.waiting_bytes
                file.waiting, file.waiting_bytes = [], 0

    def _flush(self, file: TableFile, *, last: bool = False) -> None:
        batches, aside, size = file.waiting, file.aside, file.waiting_bytes + file.aside_bytes
        self._waiting_bytes -= file.waiting_bytes
        file.waiting, file.waiting_bytes, file.aside, file.aside_bytes = [], 0, [], 0
        while self._in_flight and self._in_flight_bytes + size > self._budget.in_flight:
            self._settle_first()
        file.last = self._pool.submit(file.encode, self._scratch, aside, batches, file.last, last=last)
        self._in_flight.append((file.last, size))
        self._in_flight_bytes += size

    def _settle_first(self) -> None:
        future, size = self._in_flight.popleft()
        self._in_flight_bytes -= size
        future.result()

    def finish(self) -> dict[str, TableFile]:
        """Encodes what waits and ends every file; returns them by path. They are not visible yet."""
        for file in self._files.values():
            self._flush(file, last=True)
        while self._in_flight:
            self._settle_first()
        return dict(self._files)

    def publish(self) -> None:
        """Makes every file visible; to be called once, after `finish`."""
        small_bytes = self._budget.upload // _PUBLISH_THREADS
        uploads = [file.upload for file in self._files.values()]
        _publish([each for each in uploads if each.size_bytes <= small_bytes], _PUBLISH_THREADS)
        threads = min(_PUBLISH_THREADS, max(1, self._budget.upload // PART_BYTES))
        _publish([each for each in uploads if each.size_bytes > small_bytes], threads)
        self._ended.set()


def _publish(uploads: Sequence[Upload], threads: int) -> None:
    """Each thread has one part of one upload in memory."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="publish")
    try:
        for publication in [pool.submit(upload.publish) for upload in uploads]:
            publication.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
