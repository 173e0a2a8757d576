"""The generated drives: the same every time, readable, at the promised rates, and true to the town."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.highlevel import AnyReader

from demo import drive, lidar, motion, town
from demo.drive import DRIVES, TOPICS, Drive

SHORT = {
    1: dataclasses.replace(DRIVES[0], length_m=24.0, rolling_mps=8.0),
    2: dataclasses.replace(DRIVES[1], length_m=24.0),
}


@pytest.fixture(scope="module", params=[1, 2])
def generation(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def folder(generation: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short drive, written file by file as `make_drives` does it."""
    folder = tmp_path_factory.mktemp(f"ros{generation}")
    short = SHORT[generation]
    paths = [drive.write_part(short, part, folder) for part in range(len(short.files))]
    if generation == 2:
        drive._join_metadata(paths)
    return folder


@pytest.fixture(scope="module")
def messages(folder: Path, generation: int) -> dict[str, list[tuple[int, Any]]]:
    """Log time and message by topic, read by rosbags."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader(_recordings(folder, generation)) as reader:
        for connection, log_time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((log_time_ns, message))
    return found


def _recordings(folder: Path, generation: int) -> list[Path]:
    return (
        sorted(folder.glob("*.bag"))
        if generation == 1
        else [path for path in folder.iterdir() if path.is_dir()]
    )


def _stamp_s(message: Any) -> float:
    return message.header.stamp.sec + message.header.stamp.nanosec / 1e9


def test_every_topic_is_there_at_its_rate(
    messages: dict[str, list[tuple[int, Any]]], generation: int
) -> None:
    assert set(messages) == set(TOPICS)
    seconds = float(drive.make_world(SHORT[generation]).motion.time_s[-1])
    for topic, (_, rate) in TOPICS.items():
        if rate:
            assert len(messages[topic]) == pytest.approx(seconds * rate, abs=rate * 0.15 + 1), topic
    stamps = np.array([_stamp_s(message) for _, message in messages["/imu/data"]])
    assert np.diff(stamps) == pytest.approx(1 / 200, abs=1e-6)


def test_log_times_follow_stamps_in_order(messages: dict[str, list[tuple[int, Any]]]) -> None:
    for topic, found in messages.items():
        times = [log_time_ns for log_time_ns, _ in found]
        assert times == sorted(times), topic
        if hasattr(found[0][1], "header"):
            late = [log_time_ns / 1e9 - _stamp_s(message) for log_time_ns, message in found]
            assert 0 < min(late) <= max(late) < 0.2, topic


def test_files_share_the_time(folder: Path, generation: int) -> None:
    if generation == 1:
        spans = []
        for path in _recordings(folder, 1):
            with AnyReader([path]) as reader:
                spans.append((reader.start_time, reader.end_time))
        assert len(spans) == 2
        assert spans[0][1] <= spans[1][0]
    else:
        (recording,) = _recordings(folder, 2)
        assert sorted(path.name for path in recording.iterdir()) == [
            "metadata.yaml",
            "rosbag2_2026_05_12-18_40_00_0.mcap",
            "rosbag2_2026_05_12-18_40_00_1.mcap",
        ]
        with AnyReader([recording]) as reader:
            counted = sum(1 for _ in reader.messages())
            assert reader.message_count == counted


def test_pictures_are_of_the_camera_and_move(messages: dict[str, list[tuple[int, Any]]]) -> None:
    for name, size in (("front", (640, 360)), ("left", (480, 270))):
        frames = [
            Image.open(io.BytesIO(message.data.tobytes()))
            for _, message in messages[f"/camera/{name}/image_raw/compressed"]
        ]
        assert {frame.format for frame in frames} == {"JPEG"}
        assert {frame.size for frame in frames} == {size}
        pixels = np.stack([np.asarray(frame.convert("L"), float) for frame in frames])
        assert pixels.std(axis=(1, 2)).min() > 20
        assert np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2)).min() > 2
        info = messages[f"/camera/{name}/camera_info"][0][1]
        assert (info.width, info.height) == size
    raw = messages["/camera/rear/image_raw"][0][1]
    assert (raw.encoding, len(raw.data)) == ("mono8", raw.height * raw.step)


def test_clouds_lie_on_the_ground_and_on_what_stands(messages: dict[str, list[tuple[int, Any]]]) -> None:
    for _, message in messages["/lidar/points"]:
        points = np.frombuffer(message.data.tobytes(), lidar.POINT)
        assert len(points) == message.width > 3000
        assert {field.name: field.offset for field in message.fields} == {
            name: place[1] for name, place in (lidar.POINT.fields or {}).items()
        }
        assert points["z"].min() > -lidar.MOUNT_HEIGHT_M - 0.1
        assert np.hypot(points["x"], points["y"]).max() < lidar.RANGE_M + 1
        on_ground = points["z"] < -lidar.MOUNT_HEIGHT_M + 0.1
        assert 0.05 < on_ground.mean() < 0.9


def test_static_transforms_name_every_frame(messages: dict[str, list[tuple[int, Any]]]) -> None:
    known = {each.child_frame_id for _, message in messages["/tf_static"] for each in message.transforms}
    used = {
        found[0][1].header.frame_id
        for topic, found in messages.items()
        if topic.startswith(("/camera", "/lidar", "/imu", "/gps"))
    }
    assert used <= known


def test_the_same_part_is_the_same_bytes(folder: Path, generation: int, tmp_path: Path) -> None:
    again = drive.write_part(SHORT[generation], 1, tmp_path)
    first = folder / SHORT[generation].files[1]
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(first.read_bytes()).digest()


def test_lz4_frames_are_those_of_ros1(tmp_path: Path) -> None:
    world = drive.make_world(SHORT[1])
    path = tmp_path / "x.bag"
    drive._write_ros1(path, list(drive._gps(world, (0.0, 9.0))), world.ros)
    assert b"\x04\x22\x4d\x18\x64\x60" in path.read_bytes()


def _whole(number: int) -> drive.World:
    return drive.make_world(DRIVES[number])


def test_the_loop_closes() -> None:
    world = _whole(0)
    moved = world.motion
    assert 30 <= moved.time_s[-1] <= 60
    assert np.hypot(moved.x[-1] - moved.x[0], moved.y[-1] - moved.y[0]) < 0.2
    assert moved.heading[-1] - moved.heading[0] == pytest.approx(2 * np.pi, abs=0.02)
    fixes = [
        world.ros.store.deserialize_ros1(data, TOPICS[topic][0])
        for _, topic, data in drive._gps(world, (0.0, 1e9))
    ]
    north = (fixes[-1].latitude - fixes[0].latitude) * 111_200
    east = (fixes[-1].longitude - fixes[0].longitude) * 111_320 * np.cos(np.radians(fixes[0].latitude))
    assert np.hypot(north, east) < 3
    assert max(fix.latitude for fix in fixes) - min(fix.latitude for fix in fixes) > 80 / 111_200


@pytest.mark.parametrize("number", [0, 1])
def test_imu_feels_the_motion(number: int) -> None:
    moved = _whole(number).motion
    # What the gyro and the accelerometer say adds up to the path.
    heading = moved.heading[0] + np.cumsum(moved.yaw_rate) / motion.RATE_HZ
    speed = moved.speed[0] + np.cumsum(moved.acceleration) / motion.RATE_HZ
    assert heading == pytest.approx(moved.heading, abs=0.02)
    assert speed == pytest.approx(moved.speed, abs=0.1)
    assert np.abs(moved.acceleration).max() < 4
    assert np.abs(moved.speed * moved.yaw_rate).max() < 5
    assert 10 < moved.speed.max() < 14


def test_the_imu_messages_carry_it() -> None:
    world = _whole(0)
    window = (8.0, 11.0)
    turning = [
        world.ros.store.deserialize_ros1(data, TOPICS[topic][0])
        for _, topic, data in drive._imu(world, window)
    ]
    rates = np.array([message.angular_velocity.z for message in turning])
    truth = world.motion.at("yaw_rate", np.linspace(*window, len(rates)))
    assert truth.max() > 0.3
    assert np.abs(rates - truth).max() < 0.03
    assert np.mean([message.linear_acceleration.z for message in turning]) == pytest.approx(9.81, abs=0.05)


def test_events_tell_the_drive() -> None:
    world = _whole(0)
    said = [
        world.ros.store.deserialize_ros1(data, TOPICS[topic][0]).data
        for _, topic, data in drive._events(world, (0.0, 1e9))
    ]
    counted = Counter(said)
    assert counted["turning left"] == counted["turn finished"] == 4
    assert (said[0], said[1], said[-1]) == ("recording started", "driving", "recording ended")


def test_the_car_stays_in_its_lane() -> None:
    places = town.build().ours
    south = (np.abs(places.x - 60) < 40) & (places.y < 10)
    assert places.y[south] == pytest.approx(-town.LANE_M / 2, abs=0.05)


def test_make_drives_makes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short: tuple[Drive, ...] = (dataclasses.replace(SHORT[2], length_m=6.0),)
    monkeypatch.setattr(drive, "DRIVES", short)
    made: list[str] = []
    (first,) = drive.make_drives(tmp_path, on_file=lambda name, size: made.append(name))
    assert sorted(made) == [f"drive_2/{name}" for name in short[0].files]
    assert drive.make_drives(tmp_path, on_file=lambda name, size: made.append(name)) == [first]
    assert len(made) == 2
    (tmp_path / ".generator").write_text("another version")
    drive.make_drives(tmp_path, on_file=lambda name, size: made.append(name))
    assert len(made) == 4
