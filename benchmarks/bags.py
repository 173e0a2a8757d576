"""Generated bags that stand for the field, deterministic: ``python -m benchmarks.bags PATH KIND SCALE``."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

DURATION_S = 60.0


def make_bag(path: Path, kind: str, *, scale: float) -> int:
    """Writes the bag ``kind`` (``telemetry`` or ``sensor``); ``.bag`` is ROS 1 lz4, ``.mcap`` zstd chunks.

    Returns the number of messages.
    """
    ros1 = path.suffix == ".bag"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    if ros1:
        store.register(
            get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage")
        )
    messages = sorted(_messages(store.types, kind, scale, ros1=ros1), key=lambda message: message[0])
    if ros1:
        rosbag1 = Rosbag1Writer(path)
        rosbag1.set_compression(Rosbag1Writer.CompressionFormat.LZ4)
        with rosbag1 as writer:
            _write(writer, messages, store, store.serialize_ros1)
    else:
        folder = path.with_suffix("")
        rosbag2 = Rosbag2Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        rosbag2.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with rosbag2 as writer:
            _write(writer, messages, store, store.serialize_cdr)
        (folder / f"{folder.name}.mcap").rename(path)
        (folder / "metadata.yaml").unlink()
        folder.rmdir()
    return len(messages)


def _write(writer: Any, messages: list[tuple[int, str, str, Any]], store: Any, serialize: Any) -> None:
    connections: dict[str, Any] = {}
    for time_ns, topic, type_name, message in messages:
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, type_name, typestore=store)
        writer.write(connections[topic], time_ns, serialize(message, type_name))


def _messages(types: Any, kind: str, scale: float, *, ros1: bool) -> Iterator[tuple[int, str, str, Any]]:
    rng = np.random.default_rng(7)
    start_ns = 1_700_000_000 * 10**9
    rates = (
        {"imu": 1600.0, "odom": 800.0, "tf": 1000.0, "fix": 200.0, "scan": 160.0, "diagnostics": 60.0}
        if kind == "telemetry"
        else {
            "imu": 100.0,
            "odom": 30.0,
            "tf": 30.0,
            "camera": 20.0,
            "raw": 4.0,
            "points": 5.0,
            "diagnostics": 1.0,
        }
    )
    makers = _makers(types, rng, ros1=ros1)
    for name, rate in rates.items():
        topic, type_name, make = makers[name]
        for number in range(int(rate * DURATION_S * scale)):
            time_ns = start_ns + int(number * 1e9 / rate) + int(rng.integers(0, 100_000))
            yield time_ns, topic, type_name, make(time_ns, number)


def _makers(types: Any, rng: np.random.Generator, *, ros1: bool) -> dict[str, tuple[str, str, Any]]:
    def new(name: str, *values: Any) -> Any:
        return types[name](*values)

    def header(time_ns: int, number: int, frame: str) -> Any:
        stamp = new("builtin_interfaces/msg/Time", *divmod(time_ns, 10**9))
        return new("std_msgs/msg/Header", *([number] if ros1 else []), stamp, frame)

    def vector() -> Any:
        return new("geometry_msgs/msg/Vector3", *rng.normal(size=3))

    def quaternion() -> Any:
        return new("geometry_msgs/msg/Quaternion", *rng.normal(size=4))

    def imu(time_ns: int, number: int) -> Any:
        covariance = np.full(9, 0.01)
        return new(
            "sensor_msgs/msg/Imu", header(time_ns, number, "imu"), quaternion(), covariance, vector(),
            covariance, vector(), covariance,
        )  # fmt: skip

    def odom(time_ns: int, number: int) -> Any:
        pose = new(
            "geometry_msgs/msg/Pose", new("geometry_msgs/msg/Point", *rng.normal(size=3)), quaternion()
        )
        twist = new("geometry_msgs/msg/Twist", vector(), vector())
        return new(
            "nav_msgs/msg/Odometry", header(time_ns, number, "odom"), "base_link",
            new("geometry_msgs/msg/PoseWithCovariance", pose, np.full(36, 0.1)),
            new("geometry_msgs/msg/TwistWithCovariance", twist, np.full(36, 0.1)),
        )  # fmt: skip

    def tf(time_ns: int, number: int) -> Any:
        return new("tf2_msgs/msg/TFMessage", [
            new("geometry_msgs/msg/TransformStamped", header(time_ns, number, "odom"), f"wheel_{wheel}",
                new("geometry_msgs/msg/Transform", vector(), quaternion()))
            for wheel in range(2)
        ])  # fmt: skip

    def fix(time_ns: int, number: int) -> Any:
        status = new("sensor_msgs/msg/NavSatStatus", 0, 1)
        return new(
            "sensor_msgs/msg/NavSatFix", header(time_ns, number, "gps"), status, 48.1, 11.5,
            500.0 + number * 1e-3, np.full(9, 0.5), 2,
        )  # fmt: skip

    def scan(time_ns: int, number: int) -> Any:
        ranges = rng.uniform(0.2, 30, 1440).astype(np.float32)
        return new(
            "sensor_msgs/msg/LaserScan", header(time_ns, number, "laser"), -3.1, 3.1, 0.0044, 0.0, 0.025,
            0.1, 30.0, ranges, rng.integers(0, 255, 1440).astype(np.float32),
        )  # fmt: skip

    def diagnostics(time_ns: int, number: int) -> Any:
        return new("diagnostic_msgs/msg/DiagnosticArray", header(time_ns, number, ""), [
            new("diagnostic_msgs/msg/DiagnosticStatus", 0, f"node_{node}", "OK", f"hw-{node}", [
                new("diagnostic_msgs/msg/KeyValue", f"key_{key}", f"{rng.random():.4f}") for key in range(8)
            ]) for node in range(6)
        ])  # fmt: skip

    frame = _jpeg(rng)
    rows, columns = np.mgrid[0:480, 0:640]
    scene = np.repeat((rows // 3 + columns // 5)[:, :, None] % 200, 3, axis=2).astype(np.uint8)
    cloud = rng.normal(size=(65_536, 4)).astype(np.float32)

    def camera(time_ns: int, number: int) -> Any:
        # No two frames of a camera are alike: entropy-coded data is as good as random.
        data = np.concatenate([frame[:600], rng.integers(0, 255, len(frame) - 600, dtype=np.uint8)])
        return new("sensor_msgs/msg/CompressedImage", header(time_ns, number, "camera"), "jpeg", data)

    def raw_image(time_ns: int, number: int) -> Any:
        image = (np.roll(scene, number, axis=1) + rng.integers(0, 6, scene.shape, dtype=np.uint8)).reshape(-1)
        return new(
            "sensor_msgs/msg/Image", header(time_ns, number, "camera"), 480, 640, "rgb8", 0, 1920, image
        )

    def points(time_ns: int, number: int) -> Any:
        fields = [
            new("sensor_msgs/msg/PointField", name, 4 * place, 7, 1)
            for place, name in enumerate(("x", "y", "z", "intensity"))
        ]
        moved = np.round(cloud + rng.normal(scale=0.01, size=cloud.shape).astype(np.float32), 3)
        data = moved.view(np.uint8).reshape(-1)
        return new(
            "sensor_msgs/msg/PointCloud2", header(time_ns, number, "lidar"), 1, len(cloud), fields, False, 16,
            16 * len(cloud), data, True,
        )  # fmt: skip

    return {
        "imu": ("/imu", "sensor_msgs/msg/Imu", imu),
        "odom": ("/odom", "nav_msgs/msg/Odometry", odom),
        "tf": ("/tf", "tf2_msgs/msg/TFMessage", tf),
        "fix": ("/fix", "sensor_msgs/msg/NavSatFix", fix),
        "scan": ("/scan", "sensor_msgs/msg/LaserScan", scan),
        "diagnostics": ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", diagnostics),
        "camera": ("/camera/image/compressed", "sensor_msgs/msg/CompressedImage", camera),
        "raw": ("/camera/image_raw", "sensor_msgs/msg/Image", raw_image),
        "points": ("/points", "sensor_msgs/msg/PointCloud2", points),
    }


def _jpeg(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    coarse = Image.fromarray(rng.integers(0, 255, (45, 80, 3), dtype=np.uint8)).resize((1280, 720))
    noisy = np.asarray(coarse, dtype=np.int16) + rng.integers(-12, 12, (720, 1280, 3), dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


if __name__ == "__main__":
    print(make_bag(Path(sys.argv[1]), sys.argv[2], scale=float(sys.argv[3])))
