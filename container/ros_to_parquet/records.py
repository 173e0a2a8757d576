"""Messages that are decoded one at a time, by their format's own library: JSON and the like.

A format makes a `RecordType` of a schema: the Arrow columns, and a function from a message's bytes to a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ros_to_parquet.bag.model import MessageBlock
from ros_to_parquet.decode import Decoded
from ros_to_parquet.layout import MAX_MESSAGE_BYTES

MAX_NAMES: Final = 20
"""Fields without a column that a remark names."""


class RecordError(ValueError):
    """A message that becomes no row; says which field and why."""


@dataclass(slots=True)
class Notes:
    """What was met in messages that became rows.

    Attributes:
        repaired_strings: strings that are not UTF-8 text and had what is wrong escaped.
        unnamed: paths of fields that the schema does not name, and that have no column.
    """

    repaired_strings: int = 0
    unnamed: set[str] = field(default_factory=set)

    def text(self, value: str) -> str:
        """``value`` as Arrow takes it: half of a surrogate pair is no text."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.repaired_strings += 1
            return value.encode("utf-8", "backslashreplace").decode()
        return value

    def unnamed_field(self, path: str) -> None:
        if len(self.unnamed) < MAX_NAMES:
            self.unnamed.add(path)


@dataclass(frozen=True, slots=True)
class RecordType:
    """A message type: its columns, and how a message becomes one value for each.

    ``parse`` raises `RecordError` for a message that is not of the type.
    """

    schema: pa.Schema
    parse: Callable[[bytes, Notes], tuple[Any, ...]]


class RecordDecoder:
    """Decodes the messages of one connection; in the place of `ros_to_parquet.decode.Decoder`."""

    has_stamp = False
    expansion = 16
    """As of `ros_to_parquet.decode.Decoder`: numbers and texts are Python objects until then."""

    def __init__(self, record_type: RecordType) -> None:
        self.schema = record_type.schema
        self._parse = record_type.parse
        self._notes = Notes()
        self._repaired_before = 0
        self._begin()

    def _begin(self) -> None:
        self._fed = 0
        self._indices: list[int] = []
        self._rows: list[tuple[Any, ...]] = []
        self._rejected: list[tuple[int, str]] = []

    def feed(self, block: MessageBlock) -> None:
        """Decodes a block's messages; their columns are had from ``take``. The block is not kept."""
        for start, length in zip(block.starts.tolist(), block.lengths.tolist(), strict=True):
            try:
                if length > MAX_MESSAGE_BYTES:
                    raise RecordError(f"{length} bytes long, more than the {MAX_MESSAGE_BYTES} of one row")
                self._rows.append(self._parse(block.data[start : start + length].tobytes(), self._notes))
                self._indices.append(self._fed)
            except RecordError as error:
                self._rejected.append((self._fed, str(error)))
            self._fed += 1

    def take(self) -> Decoded:
        """The columns of all messages fed since the last time."""
        columns = [
            pa.array([row[place] for row in self._rows], column.type)
            for place, column in enumerate(self.schema)
        ]
        repaired, self._repaired_before = (
            self._notes.repaired_strings - self._repaired_before,
            self._notes.repaired_strings,
        )
        decoded = Decoded(
            columns, np.array(self._indices, np.int64), self._rejected, repaired, None, self._remark()
        )
        self._begin()
        return decoded

    def _remark(self) -> str:
        if not self._notes.unnamed:
            return ""
        names = ", ".join(sorted(self._notes.unnamed))
        return f"messages have fields that their schema does not name, and that are in no column: {names}"
