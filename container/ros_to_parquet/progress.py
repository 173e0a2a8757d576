"""A progress bar on a terminal, a log event now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn, Self

from ros_to_parquet.log import event

if TYPE_CHECKING:
    from tqdm import tqdm

LOG_INTERVAL_S = 10.0


class Progress:
    """Shows bytes done of ``total_bytes``, on standard error."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._bar = _bar(total_bytes) if sys.stderr.isatty() else None
        self._next_log = time.monotonic() + LOG_INTERVAL_S

    def show(self, done_bytes: int) -> None:
        """To be called as often as one likes."""
        if self._bar is not None:
            self._bar.update(done_bytes - self._bar.n)
        elif (at := time.monotonic()) >= self._next_log:
            event("progress", bytes_read=done_bytes, bytes_total=self._total)
            self._next_log = at + LOG_INTERVAL_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar(total_bytes: int) -> tqdm[NoReturn]:
    from tqdm import tqdm  # in a job, importing it is for nothing

    return tqdm(total=total_bytes, unit="B", unit_scale=True, leave=False, dynamic_ncols=True)
