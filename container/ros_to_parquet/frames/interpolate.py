"""Values between two messages.

Numbers with a point are taken on the straight line between both, within messages and fixed arrays too, and
in lists of which both have as many. A message of ``x``, ``y``, ``z`` and ``w`` is a rotation: it is turned at
a constant rate the shorter way (slerp). All else has no values between: it is as the nearer message has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ros_to_parquet.frames.arrays import BoolArray, Float64Array, Int64Array, column, floats

_ROTATION = ("x", "y", "z", "w")
_STRAIGHT = 0.9995
"""Rotations whose quaternions have at least this product are so near that a line between them will do."""
_LEAST_NORM = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """Pairs of messages and where between them a value is wanted.

    Attributes:
        share: of the way from the first to the second, 0 to 1.
        second: the second one is nearer.
    """

    share: Float64Array
    second: BoolArray

    def repeated(self, counts: Int64Array) -> Between:
        return Between(np.repeat(self.share, counts), np.repeat(self.second, counts))


def interpolate(first: pa.Array, other: pa.Array, between: Between) -> pa.Array:
    """Values between those of ``first`` and ``other``, which are of one type."""
    kind = first.type
    if pa.types.is_floating(kind):
        return _line(first, other, between)
    if pa.types.is_struct(kind):
        return _struct(first, other, between)
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return _lists(first, other, between)
    return _nearer(first, other, between)


def _nearer(first: pa.Array, other: pa.Array, between: Between) -> pa.Array:
    places = np.arange(len(first), dtype=np.int64) + between.second * len(first)
    return pa.concat_arrays([first, other]).take(column(places))


def _line(first: pa.Array, other: pa.Array, between: Between) -> pa.Array:
    one, two, share = floats(first), floats(other), between.share
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.where(share == 0, one, np.where(share == 1, two, (1 - share) * one + share * two))
    there = first.is_valid().to_numpy(zero_copy_only=False) & other.is_valid().to_numpy(zero_copy_only=False)
    found = column(values, None if there.all() else there)
    return found if first.type == pa.float64() else found.cast(first.type, safe=False)


def _struct(first: pa.Array, other: pa.Array, between: Between) -> pa.Array:
    kind = first.type
    names = [each.name for each in kind]
    there = first.is_valid().to_numpy(zero_copy_only=False) & other.is_valid().to_numpy(zero_copy_only=False)
    if tuple(names) == _ROTATION and all(pa.types.is_floating(each.type) for each in kind):
        turned = slerp(_quaternions(first), _quaternions(other), between)
        children = [
            column(np.ascontiguousarray(turned[:, place])).cast(each.type, safe=False)
            for place, each in enumerate(kind)
        ]
    else:
        children = [
            interpolate(first.field(place), other.field(place), between) for place in range(len(names))
        ]
    nulls = None if there.all() else pa.array((~there).tolist())
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=nulls)


def _quaternions(values: pa.Array) -> Float64Array:
    return np.stack([floats(values.field(place)) for place in range(4)], axis=1)


def _lists(first: pa.Array, other: pa.Array, between: Between) -> pa.Array:
    nearer = _nearer(first, other, between)
    counts = [np.asarray(each.value_lengths().fill_null(-1)) for each in (first, other)]
    alike = (counts[0] == counts[1]) & (counts[0] >= 0)
    if not alike.any():
        return nearer
    places = column(np.flatnonzero(alike))
    one, two = first.take(places), other.take(places)
    some = Between(between.share[alike], between.second[alike]).repeated(counts[0][alike].astype(np.int64))
    values = interpolate(one.flatten(), two.flatten(), some)
    offsets = np.concatenate(([0], np.cumsum(counts[0][alike]))).astype(np.int32)
    made = pa.ListArray.from_arrays(column(offsets), values, type=first.type)
    if alike.all():
        return made
    order = np.where(alike, np.cumsum(alike) - 1, np.arange(len(first)) + len(made))
    return pa.concat_arrays([made, nearer]).take(column(order))


def slerp(first: Float64Array, other: Float64Array, between: Between) -> Float64Array:
    """Rotations between two, as rows of x, y, z, w; the nearer one as it is where either is no rotation."""
    norms = [np.linalg.norm(each, axis=1) for each in (first, other)]
    sound = (
        (norms[0] > _LEAST_NORM) & (norms[1] > _LEAST_NORM) & np.isfinite(norms[0]) & np.isfinite(norms[1])
    )
    result = np.where(between.second[:, None], other, first)
    inside = sound & (between.share > 0) & (between.share < 1)
    if not inside.any():
        return result
    one, two = first[inside] / norms[0][inside, None], other[inside] / norms[1][inside, None]
    cosine = np.sum(one * two, axis=1)
    two = np.where(cosine[:, None] < 0, -two, two)
    cosine = np.abs(cosine).clip(max=1.0)
    share = between.share[inside]
    angle = np.arccos(cosine)
    straight = cosine > _STRAIGHT
    sine = np.where(straight, 1.0, np.sin(angle))
    weight_one = np.where(straight, 1 - share, np.sin((1 - share) * angle) / sine)
    weight_two = np.where(straight, share, np.sin(share * angle) / sine)
    turned = weight_one[:, None] * one + weight_two[:, None] * two
    result[inside] = turned / np.linalg.norm(turned, axis=1)[:, None]
    return result
