"""Blocks of messages made by hand, and what decodes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ros_to_parquet.bag.model import Connection, MessageBlock
from ros_to_parquet.decode import Decoded, Decoder

HEADERS = {"le": b"\0\1\0\0", "be": b"\0\0\0\0"}


def connection(
    type_name: str,
    definition: str = "",
    *,
    encoding: str = "cdr",
    definition_format: str | None = None,
    definition_hash: str = "",
) -> Connection:
    if definition_format is None:
        definition_format = ("ros1msg" if encoding == "ros1" else "ros2msg") if definition else ""
    return Connection(0, "/topic", type_name, definition, definition_format, definition_hash, encoding)


def block(payloads: Sequence[bytes], *, gap: bytes = b"\xff\xff\xff", encoding: str = "cdr") -> MessageBlock:
    """The payloads one after another, with bytes between them that belong to none."""
    data = gap + b"".join(payload + gap for payload in payloads)
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    starts = np.cumsum(lengths + len(gap)) - lengths
    times = np.arange(len(payloads), dtype=np.int64)
    return MessageBlock(
        connection("pkg/msg/Type", encoding=encoding),
        np.frombuffer(data, np.uint8),
        starts,
        lengths,
        times,
        None,
        None,
        times,
    )


def rows(decoder: Decoder, decoded: Decoded) -> list[dict[str, Any]]:
    """The decoded messages; checks on the way that the arrays are what the schema says."""
    for array, field in zip(decoded.columns, decoder.schema, strict=True):
        assert array.type == field.type
        assert len(array) == len(decoded.rows)
        array.validate(full=True)
    values = [array.to_pylist() for array in decoded.columns]
    return [dict(zip(decoder.schema.names, row, strict=True)) for row in zip(*values, strict=True)] or [
        {} for _ in decoded.rows
    ]
