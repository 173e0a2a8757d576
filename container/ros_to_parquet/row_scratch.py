"""Rows that wait on disk for their row group."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

import pyarrow as pa

from ros_to_parquet.storage.local import local_errors

MOST_BYTES: Final = 4 << 30
"""What may wait on disk, or a quarter of what is free there if that is less."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows lie, and how much they take in memory."""

    offset: int
    size_bytes: int
    rows_bytes: int


class RowScratch:
    """Rows of any tables, in one file that has no name: it goes when the process does.

    Written by one thread, read by any. The file grows until `clear`.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._size_bytes = 0
        self._most_bytes = 0

    @property
    def full(self) -> bool:
        return self._file is not None and self._size_bytes >= self._most_bytes

    def write(self, batches: Sequence[pa.RecordBatch], rows_bytes: int) -> Place:
        """Puts rows of one table aside.

        Raises:
            StorageError: the disk is full, or the like.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batches[0].schema.remove_metadata()) as stream:
            for batch in batches:
                stream.write_batch(batch.replace_schema_metadata(None))
        data = sink.getvalue()
        with local_errors(tempfile.gettempdir()):
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="ros-to-parquet-")  # noqa: SIM115 (lives on)
                self._most_bytes = min(MOST_BYTES, shutil.disk_usage(tempfile.gettempdir()).free // 4)
            self._file.write(data)
            self._file.flush()
        place = Place(self._size_bytes, data.size, rows_bytes)
        self._size_bytes += data.size
        return place

    def read(self, place: Place, schema: pa.Schema) -> list[pa.RecordBatch]:
        """The rows again, with ``schema``'s metadata."""
        assert self._file is not None
        with local_errors(tempfile.gettempdir()):
            data = os.pread(self._file.fileno(), place.size_bytes, place.offset)
        with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
            return [batch.replace_schema_metadata(schema.metadata) for batch in stream]

    def clear(self) -> None:
        """Forgets all rows; none of them is to be read any more."""
        if self._file is not None:
            with local_errors(tempfile.gettempdir()):
                self._file.seek(0)
                self._file.truncate()
            self._size_bytes = 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
