"""Frames tables of real drives, where what two topics say of one thing can be held against each other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ros_to_parquet.lake import Lake
from tests.engine.frames.drives import extracted, made, values

REAL_BAGS = Path(__file__).parents[3].parent / "shared" / "bags"
pytestmark = pytest.mark.skipif(not REAL_BAGS.is_dir(), reason="the real bags are not here")


def lake_of(tmp_path: Path, name: str) -> Lake:
    return extracted(tmp_path / "lake", REAL_BAGS / name)


def test_poses_are_where_the_turtles_say_they_are(tmp_path: Path) -> None:
    """TF and pose messages come from two nodes of one simulator."""
    result, rows = made(
        lake_of(tmp_path, "cruise-automation+rosbag.js/example-lz4.bag"),
        reference="/turtle2/pose",
        topics={
            "/turtle2/pose": {"column": "two"},
            "/turtle1/pose": {"column": "one", "method": "interpolated"},
        },
        pose=[
            {"parent": "world", "child": "turtle2"},
            {"parent": "turtle2", "child": "turtle1", "column": "between"},
            {"parent": "turtle1", "child": "carrot", "column": "carrot"},
        ],
    )
    assert result.columns[-1].matched == len(rows), "a static transform holds at any time"
    there = [row for row in rows if row["pose"] and row["between"] and row["one"]]
    assert (len(rows), len(there)) == (1344, 1342)
    for row in there:
        place, two, one = row["pose"]["translation"], row["two"], row["one"]
        assert math.hypot(place["x"] - two["x"], place["y"] - two["y"]) < 0.002
        ahead, aside = one["x"] - two["x"], one["y"] - two["y"]
        cosine, sine = math.cos(two["theta"]), math.sin(two["theta"])
        between = row["between"]["translation"]
        assert between["x"] == pytest.approx(cosine * ahead + sine * aside, abs=0.02)
        assert between["y"] == pytest.approx(cosine * aside - sine * ahead, abs=0.02)


def test_a_laser_that_is_tilted(tmp_path: Path) -> None:
    """The axis goes up and down between the scans; both of its ends turn with it."""
    result, rows = made(
        lake_of(tmp_path, "facontidavide+PlotJuggler/tilt_laser.bag"),
        reference="/scan",
        clock="stamp",
        pose={"parent": "tilt_base", "child": "laser"},
        topics={"/imu_data": {"method": "interpolated", "fields": ["orientation"]}},
    )
    turns = [row["pose"]["rotation"] for row in rows if row["pose"]]
    assert len(turns) == result.columns[-1].matched > 150
    assert np.allclose([math.hypot(*turn.values()) for turn in turns], 1)
    assert np.ptp([turn["y"] for turn in turns]) > 0.1
    assert all(
        math.hypot(*row["imu_data"]["orientation"].values()) == pytest.approx(1)
        for row in rows
        if row["imu_data"]
    )


def test_odometry_between_its_messages(tmp_path: Path) -> None:
    """At 30 a second and half the speed of walking, the straight line is where the robot was."""
    lake = lake_of(tmp_path, "locusrobotics+fuse/turtlebot3.bag")
    _, rows = made(
        lake,
        reference="/scan",
        topics={
            "/odom": {"method": "interpolated", "fields": ["pose.pose.position"]},
            "/joint_states": {"method": "nearest", "tolerance_ms": 20, "fields": ["position"]},
            "/cmd_vel": {"method": "previous", "tolerance_ms": "unlimited"},
        },
    )
    odom = lake.topic("/odom").to_table(columns=["log_time_ns", "pose"]).sort_by("log_time_ns")
    times = np.array(odom["log_time_ns"])
    places = np.array([pose["pose"]["position"]["x"] for pose in odom["pose"].to_pylist()])
    at = np.array([row["time_ns"] for row in rows])
    last = dict(zip(times.tolist(), places.tolist(), strict=True))
    unique = np.array(sorted(last))
    expected = np.interp(at, unique, [last[time] for time in unique.tolist()])
    found = [
        math.nan if row["odom"] is None else row["odom"]["pose"]["pose"]["position"]["x"] for row in rows
    ]
    inside = np.isfinite(found)
    assert inside.sum() > 450
    assert np.allclose(np.array(found)[inside], expected[inside], atol=1e-9)
    joints = lake.topic("/joint_states").to_table(columns=["log_time_ns"])
    near = np.abs(np.array(joints["log_time_ns"])[None, :] - at[:, None]).min(axis=1)
    deltas = values(rows, "joint_states", "delta_ns")
    assert [delta is not None for delta in deltas] == (near <= 20_000_000).tolist()
    assert all(abs(delta) == best for delta, best in zip(deltas, near, strict=True) if delta is not None)
    first = min(np.array(lake.topic("/cmd_vel").to_table(columns=["log_time_ns"])["log_time_ns"]))
    assert [row["cmd_vel"] is not None for row in rows] == (at >= first).tolist()
