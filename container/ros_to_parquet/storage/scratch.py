"""What waits to be sent to a store: in memory while there is room, else in temporary files."""

from __future__ import annotations

import io
import tempfile
import threading
from typing import Any, BinaryIO

from ros_to_parquet.storage.local import local_errors


class Memory:
    """An amount of memory that threads share."""

    def __init__(self, size_bytes: int) -> None:
        self._left_bytes = size_bytes
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Whether there is as much left; it is taken then."""
        with self._lock:
            if size_bytes > self._left_bytes:
                return False
            self._left_bytes -= size_bytes
            return True

    def give(self, size_bytes: int) -> None:
        with self._lock:
            self._left_bytes += size_bytes


class Spool:
    """Bytes that wait to be sent: in memory while there is room, else in a temporary file."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._taken_bytes = 0
        self._file: BinaryIO = io.BytesIO()
        self.size_bytes = 0

    def write(self, data: Any) -> None:
        size_bytes = memoryview(data).nbytes
        if isinstance(self._file, io.BytesIO):
            if self._memory.take(size_bytes):
                self._taken_bytes += size_bytes
            else:
                self._spill()
        with local_errors(tempfile.gettempdir()):
            self._file.write(data)
        self.size_bytes += size_bytes

    def _spill(self) -> None:
        held = self.read()
        self.clear()
        with local_errors(tempfile.gettempdir()):
            self._file = tempfile.TemporaryFile(prefix="ros-to-parquet-")  # noqa: SIM115 (closed by clear)
            self._file.write(held)
        self.size_bytes = len(held)

    def rewound(self) -> BinaryIO:
        """All of it, as a file on disk or an ``io.BytesIO`` at its start; good until it is cleared."""
        with local_errors(tempfile.gettempdir()):
            self._file.flush()
            self._file.seek(0)
        return self._file

    def read(self) -> bytes:
        """All of it."""
        with local_errors(tempfile.gettempdir()):
            return self.rewound().read()

    def clear(self) -> None:
        self._file.close()
        self._file = io.BytesIO()
        self._memory.give(self._taken_bytes)
        self._taken_bytes = self.size_bytes = 0
