"""Standard output whose errors are told from all others: a full disk behind it, a reader that has gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO, cast


class StandardOutputError(Exception):
    """Standard output cannot be written; the message says why.

    No `OSError`: argparse drops those of what it prints.

    Attributes:
        reader_gone: as of ``| head``, which has seen enough: no fault.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror or error}")
        self.reader_gone = isinstance(error, BrokenPipeError)


class _Checked:
    """A stream whose errors are `StandardOutputError`; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise StandardOutputError(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise StandardOutputError(error) from error


@contextmanager
def checked() -> Iterator[None]:
    """What is printed in here is written at its end, or raises `StandardOutputError`."""
    if sys.stdout is None:  # closed: print minds it as little
        yield
        return
    with redirect_stdout(cast(TextIO, _Checked(sys.stdout))):
        try:
            yield
        except SystemExit:  # of --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()


def discard() -> None:
    """Has what is not yet written go nowhere, so that it fails no second time as the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
