"""Arrow arrays of numpy arrays, without a copy (``pa.array`` of a numpy array would import pandas)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_TYPES = {np.dtype(np.int64): pa.int64(), np.dtype(np.float64): pa.float64(), np.dtype(np.int32): pa.int32()}


def column(values: npt.NDArray[Any], valid: BoolArray | None = None) -> pa.Array:
    """``values`` as an Arrow array, null where they are not ``valid``."""
    values = np.ascontiguousarray(values)
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(_TYPES[values.dtype], len(values), [bits, pa.py_buffer(values)])


def spread(values: pa.Array, valid: BoolArray) -> pa.Array:
    """``values`` at the places that are ``valid``, in order; nulls at the others."""
    if valid.all():
        return values
    return values.take(column(np.cumsum(valid, dtype=np.int64) - 1, valid))


def one_array(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """All chunks as one array."""
    if isinstance(values, pa.Array):
        return values
    return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()


def floats(values: pa.Array) -> Float64Array:
    """Numbers in double precision; a null is not a number."""
    found = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=np.float64)


def integers(values: pa.Array) -> Int64Array:
    """Integers without nulls."""
    found = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=np.int64)
