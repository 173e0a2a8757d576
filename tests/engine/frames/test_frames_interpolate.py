"""Values between two messages, each kind against arithmetic written out."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros_to_parquet.frames.interpolate import Between, interpolate, slerp


def between(*shares: float) -> Between:
    values = np.array(shares)
    return Between(values, values > 0.5)


def test_numbers_are_on_the_line() -> None:
    first, other = pa.array([0.0, 10.0, 1.0, -4.0]), pa.array([4.0, 20.0, 2.0, 4.0])
    assert interpolate(first, other, between(0.25, 0.5, 0.0, 1.0)).to_pylist() == [1.0, 15.0, 1.0, 4.0]
    halves = interpolate(first.cast(pa.float32()), other.cast(pa.float32()), between(0.5, 0.5, 0.5, 0.5))
    assert (halves.type, halves.to_pylist()) == (pa.float32(), [2.0, 15.0, 1.5, 0.0])


def test_at_a_message_its_own_value_whatever_the_other_is() -> None:
    nan, inf = math.nan, math.inf
    found = interpolate(pa.array([inf, 1.0, nan, 2.0]), pa.array([nan, inf, 3.0, nan]), between(0, 0, 1, 0.5))
    assert found.to_pylist()[:3] == [inf, 1.0, 3.0]
    assert math.isnan(found.to_pylist()[3])


def test_nulls_stay() -> None:
    found = interpolate(pa.array([None, 1.0, 2.0]), pa.array([1.0, None, 4.0]), between(0.5, 0.5, 0.5))
    assert found.to_pylist() == [None, None, 3.0]


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (pa.array([1, 1], pa.int32()), pa.array([9, 9], pa.int32())),
        (pa.array(["a", "a"]), pa.array(["b", "b"])),
        (pa.array([True, True]), pa.array([False, False])),
        (pa.array([b"1", b"1"]), pa.array([b"22", b"22"])),
        (pa.array([[1], [1]]), pa.array([[2, 3], [2, 3]])),
        (pa.array([[{"x": 1.0}]] * 2), pa.array([[{"x": 2.0}]] * 2)),
    ],
)
def test_what_has_no_values_between_is_the_nearer_ones(first: pa.Array, other: pa.Array) -> None:
    found = interpolate(first, other, between(0.5, 0.75))
    assert found.type == first.type
    assert found.to_pylist() == [first[0].as_py(), other[1].as_py()]


def test_lists_of_one_length_number_by_number() -> None:
    first = pa.array([[0.0, 0.0], [1.0], [], [5.0], None])
    other = pa.array([[1.0, 2.0], [2.0, 3.0], [], [7.0], [1.0]])
    found = interpolate(first, other, between(0.5, 0.75, 0.5, 0.25, 0.25))
    assert found.type == first.type
    assert found.to_pylist() == [[0.5, 1.0], [2.0, 3.0], [], [5.5], None]


def test_messages_field_by_field() -> None:
    kind = pa.struct([("n", pa.int64()), ("v", pa.struct([("x", pa.float64())])), ("name", pa.string())])
    first = pa.array([{"n": 1, "v": {"x": 0.0}, "name": "a"}, None], kind)
    other = pa.array([{"n": 3, "v": {"x": 8.0}, "name": "b"}, {"n": 1, "v": None, "name": ""}], kind)
    found = interpolate(first, other, between(0.25, 0.25))
    assert found.to_pylist() == [{"n": 1, "v": {"x": 2.0}, "name": "a"}, None]


def turn(axis: tuple[float, float, float], angle: float) -> list[float]:
    """A quaternion x, y, z, w."""
    length = math.sqrt(sum(each * each for each in axis))
    return [each / length * math.sin(angle / 2) for each in axis] + [math.cos(angle / 2)]


def test_rotations_turn_at_a_constant_rate() -> None:
    kind = pa.struct([(name, pa.float64()) for name in "xyzw"])
    ends = [dict(zip("xyzw", turn((0, 0, 1), angle), strict=True)) for angle in (0.2, 1.4)]
    shares = (0.0, 0.25, 0.5, 0.9)
    found = interpolate(pa.array([ends[0]] * 4, kind), pa.array([ends[1]] * 4, kind), between(*shares))
    for share, each in zip(shares, found.to_pylist(), strict=True):
        assert 2 * math.atan2(each["z"], each["w"]) == pytest.approx(0.2 + share * 1.2)


AXES = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: sum(x * x for x in axis) > 0.01)


@given(
    start=st.tuples(AXES, st.floats(-3, 3)),
    axis=AXES,
    angle=st.floats(-3.1, 3.1),
    share=st.floats(0.001, 0.999),
    sign=st.sampled_from([1.0, -1.0]),
)
@settings(max_examples=100, deadline=None)
def test_slerp_is_the_start_turned_by_a_part(
    start: tuple[tuple[float, float, float], float],
    axis: tuple[float, float, float],
    angle: float,
    share: float,
    sign: float,
) -> None:
    """By its definition, q0 (q0' q1)^t: q1 is q0 turned by an angle, the result by a part of it."""
    begin = turn(*start)
    end = np.array(multiplied(begin, turn(axis, angle))) * sign
    found = slerp(np.array([begin]), np.array([end]), between(share))[0]
    expected = np.array(multiplied(begin, turn(axis, share * angle)))
    assert np.linalg.norm(found) == pytest.approx(1)
    assert abs(float(found @ expected)) == pytest.approx(1, abs=1e-9)
    assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1e-5


def multiplied(one: list[float], other: list[float]) -> list[float]:
    x1, y1, z1, w1 = one
    x2, y2, z2, w2 = other
    return [
        w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
        w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
        w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
    ]


def test_what_is_no_rotation_is_the_nearer_one() -> None:
    none, some = [0.0] * 4, turn((1, 0, 0), 1.0)
    unset = np.array([none, some, [math.nan] * 4])
    found = slerp(unset, np.array([some, none, some]), between(0.25, 0.25, 0.75))
    assert found[0].tolist() == none
    assert found[1].tolist() == found[2].tolist() == some
