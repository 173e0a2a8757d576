"""A progress bar on a terminal, a log event now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self

from tqdm import tqdm

from ros_to_parquet.log import event

LOG_INTERVAL_S = 10.0


class Progress:
    """Shows bytes done of ``total_bytes``, on standard error."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._bar = tqdm(
            total=total_bytes, unit="B", unit_scale=True, leave=False, dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._quiet = bool(self._bar.disable)
        self._next_log = time.monotonic() + LOG_INTERVAL_S

    def show(self, done_bytes: int) -> None:
        """To be called as often as one likes."""
        if not self._quiet:
            self._bar.update(done_bytes - self._bar.n)
        elif (at := time.monotonic()) >= self._next_log:
            event("progress", bytes_read=done_bytes, bytes_total=self._total)
            self._next_log = at + LOG_INTERVAL_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
