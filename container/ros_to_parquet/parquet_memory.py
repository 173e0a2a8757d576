"""What memory writing rows as Parquet takes, and how to have it take less where a row is large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa

from ros_to_parquet.parquet_options import is_blob, leaves

_VALUE_BYTES: Final = 10
"""What one value in a list takes beside itself: its levels, and integers made wider."""

_TEXT_BYTES: Final = 60
"""Likewise one text in a list."""

_COPIES_OF_NUMBERS: Final = 6
_COPIES_OF_TEXT: Final = 2.2


def large_options(options: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """``options`` of ``ParquetWriter`` changed to take the least memory for one large text or blob.

    It is written as it is: each dictionary, statistic and codec would hold one copy or more of it.
    """
    codecs, levels = dict(options["compression"]), dict(options["compression_level"])
    statistics = set(options["write_statistics"] or ())
    for path, kind in leaves(schema):
        if _is_text(kind) or is_blob(kind):
            codecs[path] = "none"
            levels.pop(path, None)
            statistics.discard(path)
    return {
        **options,
        "compression": codecs,
        "compression_level": levels,
        "use_dictionary": False,
        "write_statistics": sorted(statistics) or False,
    }


def encoding_bytes(columns: Iterable[pa.Array]) -> int:
    """About what encoding large rows takes at its peak, beside the columns; measured, and rounded up.

    One column is encoded after the other, and all of it at once.
    """
    return max((_encoding_bytes(column, nested=False) for column in columns), default=0)


def _encoding_bytes(array: pa.Array, *, nested: bool) -> int:
    kind = array.type
    if pa.types.is_struct(kind):
        return max((_encoding_bytes(child, nested=nested) for child in array.flatten()), default=0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _encoding_bytes(array.flatten(), nested=True)
    if _is_text(kind) or is_blob(kind):
        return int(_COPIES_OF_TEXT * array.nbytes) + (len(array) * _TEXT_BYTES if nested else 0)
    return int(_COPIES_OF_NUMBERS * array.nbytes) + (len(array) * _VALUE_BYTES if nested else 0)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
