"""Which message a frame gets: held against looking at every message, and against DuckDB's ASOF join."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros_to_parquet.contract import UNLIMITED_NS, Match
from ros_to_parquet.frames.arrays import Int64Array, column
from ros_to_parquet.frames.match import NONE, match, shares

NEAR = st.integers(-50, 50)
FAR = st.sampled_from([-(2**63), -(2**63) + 1, -1, 0, 2**32 * 10**9, 2**63 - 2, 2**63 - 1])
TIMES = st.lists(st.one_of(NEAR, FAR), max_size=30)
TOLERANCES = st.one_of(st.integers(0, 20), st.sampled_from([2**62, UNLIMITED_NS]))


def arrays(*values: list[int]) -> list[Int64Array]:
    return [np.array(each, dtype=np.int64) for each in values]


def by_hand(times: list[int], at: int, method: Match, tolerance_ns: int) -> tuple[int, int]:
    """What a frame gets, as the words say it: in Python's integers, one message after the other."""
    before = [place for place, time in enumerate(times) if time <= at and at - time <= tolerance_ns]
    after = [place for place, time in enumerate(times) if time >= at and time - at <= tolerance_ns]
    match method:
        case Match.PREVIOUS:
            return (before[-1], before[-1]) if before else (NONE, NONE)
        case Match.INTERPOLATED:
            return (before[-1], after[0]) if before and after else (NONE, NONE)
        case Match.NEAREST:
            found = min(
                before + after, key=lambda place: (abs(times[place] - at), times[place]), default=NONE
            )
            return found, found


@pytest.mark.parametrize("method", Match)
@given(times=TIMES, frames=TIMES, tolerance_ns=TOLERANCES)
@settings(max_examples=80, deadline=None)
def test_as_looking_at_every_message(
    method: Match, times: list[int], frames: list[int], tolerance_ns: int
) -> None:
    times, frames = sorted(set(times)), sorted(frames)
    found = match(*arrays(times, frames), method, tolerance_ns)
    expected = [by_hand(times, at, method, tolerance_ns) for at in frames]
    assert list(zip(found.before.tolist(), found.after.tolist(), strict=True)) == expected
    for at, (before, after), near in zip(frames, expected, found.near.tolist(), strict=True):
        if before == NONE:
            assert near == NONE
        else:
            assert near in (before, after)
            assert abs(times[near] - at) == min(abs(times[each] - at) for each in (before, after))


@given(times=st.lists(NEAR, min_size=2), frames=st.lists(NEAR, min_size=1))
@settings(max_examples=100, deadline=None)
def test_shares_of_the_way(times: list[int], frames: list[int]) -> None:
    times, frames = sorted(set(times)), sorted(frames)
    ours, at = arrays(times, frames)
    found = match(ours, at, Match.INTERPOLATED, 1000)
    there = found.before != NONE
    some = type(found)(found.before[there], found.after[there], found.near[there])
    share = shares(ours, at[there], some)
    assert ((share >= 0) & (share < 1)).all()
    back = ours[some.before] + share * (ours[some.after] - ours[some.before])
    assert np.allclose(back, at[there])


def asof(times: Int64Array, frames: Int64Array, sign: str) -> list[int | None]:
    """The time that DuckDB's ASOF join finds for each frame, on one side of it."""
    messages = pa.table({"t": column(times)})
    wanted = pa.table({"n": column(np.arange(len(frames))), "t": column(frames)})
    assert messages.num_rows
    assert wanted.num_rows
    found = duckdb.sql(
        "SELECT messages.t FROM wanted ASOF LEFT JOIN messages "
        f"ON wanted.t {sign} messages.t ORDER BY wanted.n"
    ).fetchall()
    return [time for (time,) in found]


def test_as_duckdbs_asof_join() -> None:
    rng = np.random.default_rng(7)
    times = np.unique(rng.integers(0, 10**12, 5_000))
    frames = np.sort(np.concatenate((rng.integers(-(10**9), 10**12 + 10**9, 2_000), times[::50])))
    tolerance_ns = 100_000_000
    before, after = asof(times, frames, ">="), asof(times, frames, "<=")
    for method in Match:
        found = match(times, frames, method, tolerance_ns)
        for place, at in enumerate(frames.tolist()):
            sides = [each[place] for each in (before, after)]
            one, two = (None if time is None or abs(time - at) > tolerance_ns else time for time in sides)
            expected: tuple[int | None, int | None]
            if method is Match.PREVIOUS:
                expected = one, one
            elif method is Match.INTERPOLATED:
                expected = (one, two) if one is not None and two is not None else (None, None)
            else:
                near = min(
                    (t for t in (one, two) if t is not None), key=lambda t: (abs(t - at), t), default=None
                )
                expected = near, near
            ours = (found.before[place], found.after[place])
            assert tuple(None if each == NONE else int(times[each]) for each in ours) == expected
