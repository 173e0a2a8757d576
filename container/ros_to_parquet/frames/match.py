"""Which of a topic's messages a frame gets: arrays of times in, places of messages out.

Times are nanoseconds, sorted; a place of -1 is none. Differences are taken modulo 2**64, so that times that
no clock should have (far in the past and in the future) do not wrap around.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ros_to_parquet.contract import Match
from ros_to_parquet.frames.arrays import Float64Array, Int64Array

UInt64Array = npt.NDArray[np.uint64]

NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """For each frame the places of two messages.

    Attributes:
        before: what it gets; where it is interpolated, the last message at or before the frame.
        after: likewise the first one at or after it; else as ``before``.
        near: the nearer of both, whose time and row the frame's column has.
    """

    before: Int64Array
    after: Int64Array
    near: Int64Array


def match(times: Int64Array, at: Int64Array, method: Match, tolerance_ns: int) -> Matched:
    """What each frame (its time is ``at``) gets of messages at ``times``, which all differ."""
    match method:
        case Match.PREVIOUS:
            before = _within(times, at, _before(times, at), tolerance_ns)
            return Matched(before, before, before)
        case Match.NEAREST:
            near = _within(times, at, _nearer(times, at, _before(times, at), _after(times, at)), tolerance_ns)
            return Matched(near, near, near)
        case Match.INTERPOLATED:
            before = _within(times, at, _before(times, at), tolerance_ns)
            after = _within(times, at, _after(times, at), tolerance_ns)
            both = (before != NONE) & (after != NONE)
            before, after = np.where(both, before, NONE), np.where(both, after, NONE)
            return Matched(before, after, _nearer(times, at, before, after))


def shares(times: Int64Array, at: Int64Array, matched: Matched) -> Float64Array:
    """How far each frame is on the way between its two messages: from 0 to 1. All are to be matched."""
    way = _distance(times[matched.before], times[matched.after])
    gone = _distance(times[matched.before], at)
    return np.divide(gone, way, out=np.zeros(len(at)), where=way != 0)


def _before(times: Int64Array, at: Int64Array) -> Int64Array:
    return np.searchsorted(times, at, side="right") - 1


def _after(times: Int64Array, at: Int64Array) -> Int64Array:
    places = np.searchsorted(times, at, side="left")
    return np.where(places < len(times), places, NONE)


def _nearer(times: Int64Array, at: Int64Array, before: Int64Array, after: Int64Array) -> Int64Array:
    """Of two as near, the earlier."""
    if not len(times):
        return np.full(len(at), NONE, dtype=np.int64)
    farther = _distance(times[before], at) > _distance(at, times[after])
    return np.where((before == NONE) | ((after != NONE) & farther), after, before)


def _within(times: Int64Array, at: Int64Array, places: Int64Array, tolerance_ns: int) -> Int64Array:
    if not len(times):
        return places
    found = times[places]
    distance = _distance(np.minimum(found, at), np.maximum(found, at))
    return np.where((places != NONE) & (distance <= np.uint64(tolerance_ns)), places, NONE)


def _distance(earlier: Int64Array, later: Int64Array) -> UInt64Array:
    return later.view(np.uint64) - earlier.view(np.uint64)
