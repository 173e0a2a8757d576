"""Objects read by ranges, ahead of a reader that goes forward."""

from __future__ import annotations

import bisect
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ros_to_parquet import termination
from ros_to_parquet.storage.local import local_errors
from ros_to_parquet.storage.model import ObjectInfo, TransientError

READ_BYTES = 8 << 20
"""The most that one request asks for, where there is memory for it."""

LEAST_BYTES = 64 << 10
"""The least that one request asks for: a request costs more than reading this."""

GAP_BYTES = 256 << 10
"""A reader that leaves out no more than this goes forward: a chunk's index, not a chunk."""

READS_AHEAD = 4
"""Requests in flight ahead of a reader that goes forward, for one of S3's gives 50 to 90 MB/s."""

_KEPT_RANGES = 4
_TRIES = 5
_WAIT_S = 0.1
"""Before the second try; twice as long before each that follows."""


@dataclass(frozen=True, slots=True)
class _Range:
    start: int
    end: int
    data: Future[bytes]


class RangeSource:
    """An object as a `Source`, for one thread.

    What is read ahead is never more than what was read in one go just before: a reader that goes forward has
    `READS_AHEAD` requests in flight after a few reads, one that jumps has none, and nothing is fetched of
    what is jumped over. A reader that says what it will read (`expect`) gets that ahead, and nothing else.
    Beside what the reader asks for, at most `READS_AHEAD` times ``read_bytes`` are held.

    ``requests`` and ``bytes_fetched`` count the ranges that were asked for.
    """

    def __init__(
        self,
        info: ObjectInfo,
        fetch: Callable[[int, int], bytes],
        *,
        file_name: str,
        read_bytes: int = READ_BYTES,
    ) -> None:
        """``fetch(start, end)`` gives these bytes, at most ``read_bytes``; called from several threads.

        It gives fewer where the connection was cut: the rest is asked for then.
        """
        self._info = info
        self._fetch = fetch
        self._file_name = file_name
        self._read_bytes = read_bytes
        self.size = info.size_bytes
        self.requests = 0
        self.bytes_fetched = 0
        self._counting = threading.Lock()
        self._held: list[_Range] = []
        self._expected: Sequence[tuple[int, int]] = ()
        self._expected_ends: list[int] = []
        self._next = 0
        self._run_bytes = 0
        self._pool = ThreadPoolExecutor(READS_AHEAD + 1, thread_name_prefix="range-read")
        self._scratch: str | None = None

    @property
    def name(self) -> str:
        return self._info.uri

    def expect(self, pieces: Sequence[tuple[int, int]]) -> None:
        """From here on these pieces, [start, end), ascending and at most ``read_bytes`` each, will be read.

        None for a reader that does not know: what is read ahead is then found out again.
        """
        self._expected = pieces
        self._expected_ends = [end for _, end in pieces]

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if not 0 <= offset - self._next <= GAP_BYTES:
            self._run_bytes = 0
        ranges = self._cover(offset, end)
        if self._expected:
            limit = self._read_expected(end)
        else:
            self._read_ahead(ranges[-1].end, end + min(self._run_bytes, READS_AHEAD * self._read_bytes))
            limit = end + READS_AHEAD * self._read_bytes
        self._run_bytes += end - offset
        self._next = end
        pieces = []
        for each in ranges:
            data = each.data.result()
            start, stop = max(offset - each.start, 0), min(end - each.start, len(data))
            pieces.append(data[start:stop])  # not a copy where it is all
        self._drop(end, limit)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _cover(self, offset: int, end: int) -> list[_Range]:
        """Ranges, requested by now, that together have the bytes, in order."""
        ranges = []
        while offset < end:
            here = next((each for each in self._held if each.start <= offset < each.end), None)
            if here is None:
                here = self._request(offset, min(max(end, offset + LEAST_BYTES), offset + self._read_bytes))
            else:  # the last one used is dropped last
                self._held.remove(here)
                self._held.append(here)
            ranges.append(here)
            offset = here.end
        return ranges

    def _read_ahead(self, start: int, limit: int) -> None:
        """Requests what follows ``start`` as far as ``limit``, in pieces as large as that allows."""
        limit = min(limit, self.size)
        piece = max(min(self._read_bytes, self._run_bytes), LEAST_BYTES)
        while start < limit:
            here = next((each for each in self._held if each.start <= start < each.end), None)
            if here is None:
                if start + piece > limit < self.size:
                    return  # later, when there is room for a whole one
                here = self._request(start, start + piece)
            start = here.end

    def _read_expected(self, end: int) -> int:
        """Requests the next pieces that are expected after ``end``; where the last of them ends."""
        limit = end
        following = bisect.bisect_right(self._expected_ends, end)
        for start, limit in self._expected[following : following + READS_AHEAD]:
            begin = max(start, end)
            if not any(each.start <= begin < each.end for each in self._held):
                self._request(begin, limit)
        return limit

    def _drop(self, end: int, limit: int) -> None:
        """Lets go of what was read, but for some small ranges, and of what a jump has left behind."""
        ahead = [each for each in self._held if each.end > end and each.start < limit]
        small = [each for each in self._held if each.end <= end and each.end - each.start <= LEAST_BYTES]
        kept = small[-_KEPT_RANGES:] + ahead
        for each in set(self._held).difference(kept):
            each.data.cancel()
        self._held = kept

    def _request(self, start: int, end: int) -> _Range:
        """As far as ``end``, but not what is there already."""
        end = min([end, self.size, *(each.start for each in self._held if each.start > start)])
        made = _Range(start, end, self._pool.submit(self._get, start, end))
        self._held.append(made)
        return made

    def _get(self, start: int, end: int) -> bytes:
        """The bytes, in as many requests as it takes: a body that is cut off goes on where it ended.

        Only tries in a row that give nothing are counted.
        """
        pieces: list[bytes] = []
        place, tried = start, 0
        while place < end:
            if tried:
                time.sleep(random.uniform(0.5, 1.0) * _WAIT_S * 2**tried)
            with self._counting:
                self.requests += 1
            tried += 1
            try:
                data = self._fetch(place, end)
            except TransientError:
                if tried == _TRIES:
                    raise
                continue
            if len(data) > end - place or (not data and tried == _TRIES):
                got = place - start + len(data)
                raise TransientError(f"{self.name}: got {got} of {end - start} bytes at {start}")
            if data:
                pieces.append(data)
                place += len(data)
                tried = 0
            with self._counting:
                self.bytes_fetched += len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def local_path(self) -> str:
        if self._scratch is None:
            with termination.deferred():
                folder = tempfile.mkdtemp(prefix="ros-to-parquet-")
                self._scratch = str(Path(folder) / self._file_name)
            with local_errors(self._scratch), Path(self._scratch).open("wb") as file:
                for start in range(0, self.size, self._read_bytes):
                    file.write(self.read_at(start, self._read_bytes))
        return self._scratch

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._held = []
        if self._scratch is not None:
            shutil.rmtree(Path(self._scratch).parent, ignore_errors=True)
            self._scratch = None
