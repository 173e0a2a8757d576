"""The pages of a Parquet file, which ``pyarrow`` does not tell; headers are in Thrift's compact protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3


class Page(NamedTuple):
    kind: int
    size: int
    """Bytes of the page when it is not compressed."""


def pages(path: Path, column: str, row_group: int = 0) -> list[Page]:
    """Pages of one column chunk, in the file's order."""
    data = path.read_bytes()
    group = pq.read_metadata(path).row_group(row_group)
    (chunk,) = (
        group.column(number)
        for number in range(group.num_columns)
        if group.column(number).path_in_schema == column
    )
    position = chunk.dictionary_page_offset or chunk.data_page_offset
    end, found = position + chunk.total_compressed_size, []
    while position < end:
        header, position = _struct(data, position)
        found.append(Page(header[1], header[2]))
        position += header[3]
    return found


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _struct(data: bytes, position: int) -> tuple[dict[int, Any], int]:
    """Fields by their ids: integers, bools, binaries and structs, as page headers have."""
    fields: dict[int, Any] = {}
    number = 0
    while byte := data[position]:
        position += 1
        number += byte >> 4
        kind = byte & 0x0F
        if kind in (1, 2):
            fields[number] = kind == 1
        elif kind in (4, 5, 6):
            value, position = _varint(data, position)
            fields[number] = (value >> 1) ^ -(value & 1)
        elif kind == 8:
            size, position = _varint(data, position)
            fields[number] = data[position : position + size]
            position += size
        else:
            assert kind == 12, kind
            fields[number], position = _struct(data, position)
    return fields, position + 1
