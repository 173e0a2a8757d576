"""Drives that look like real ones: a car with cameras, lidar, GPS and IMU goes around a block.

`make_drives` writes two, always the same: ``drive_1``, a morning loop in two lz4 ROS 1 bags, and
``drive_2``, an evening stretch of it as a rosbag2 folder of two zstd MCAP files.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import numpy.typing as npt
from rosbags import rosbag1, rosbag2
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from ruamel.yaml import YAML

from demo import camera, lidar, motion, scenery
from demo import town as town_module
from demo.town import Floats

LATITUDE_DEG, LONGITUDE_DEG, ALTITUDE_M = 48.5216, 9.0576, 341.0
"""Where the town's first crossing would be on Earth."""


@dataclass(frozen=True, slots=True)
class Drive:
    """One drive to generate.

    Attributes:
        start_m, length_m: which part of the loop; the whole loop where ``length_m`` is None.
        files: names of its bag files below the drive's folder, each an equal share of the time.
        ros: 1 or 2.
    """

    name: str
    start: datetime
    light: scenery.Light
    start_m: float
    length_m: float | None
    rolling_mps: float
    standing_s: float
    files: tuple[str, ...]
    ros: int


DRIVES = (
    Drive(
        name="drive_1",
        start=datetime(2026, 5, 12, 8, 15, tzinfo=UTC),
        light=scenery.MORNING,
        start_m=0.0,
        length_m=None,
        rolling_mps=0.0,
        standing_s=1.5,
        files=("drive_1_0.bag", "drive_1_1.bag"),
        ros=1,
    ),
    Drive(
        name="drive_2",
        start=datetime(2026, 5, 12, 18, 40, tzinfo=UTC),
        light=scenery.EVENING,
        start_m=176.0,
        length_m=130.0,
        rolling_mps=8.0,
        standing_s=0.0,
        files=(
            "rosbag2_2026_05_12-18_40_00/rosbag2_2026_05_12-18_40_00_0.mcap",
            "rosbag2_2026_05_12-18_40_00/rosbag2_2026_05_12-18_40_00_1.mcap",
        ),
        ros=2,
    ),
)

LENSES = (
    camera.make_lens("front", width=640, height=360, field_of_view_deg=78, yaw_deg=0, bonnet=True),
    camera.make_lens("left", width=480, height=270, field_of_view_deg=84, yaw_deg=70),
    camera.make_lens("rear", width=320, height=240, field_of_view_deg=90, yaw_deg=180, mount_ahead_m=-1.6),
)
FRONT, LEFT, REAR = LENSES

TOPICS: dict[str, tuple[str, float]] = {
    "/camera/front/image_raw/compressed": ("sensor_msgs/msg/CompressedImage", 10.0),
    "/camera/front/camera_info": ("sensor_msgs/msg/CameraInfo", 10.0),
    "/camera/left/image_raw/compressed": ("sensor_msgs/msg/CompressedImage", 5.0),
    "/camera/left/camera_info": ("sensor_msgs/msg/CameraInfo", 5.0),
    "/camera/rear/image_raw": ("sensor_msgs/msg/Image", 2.0),
    "/lidar/points": ("sensor_msgs/msg/PointCloud2", 10.0),
    "/imu/data": ("sensor_msgs/msg/Imu", 200.0),
    "/gps/fix": ("sensor_msgs/msg/NavSatFix", 10.0),
    "/odom": ("nav_msgs/msg/Odometry", 50.0),
    "/tf": ("tf2_msgs/msg/TFMessage", 50.0),
    "/tf_static": ("tf2_msgs/msg/TFMessage", 0.0),
    "/diagnostics": ("diagnostic_msgs/msg/DiagnosticArray", 1.0),
    "/events": ("std_msgs/msg/String", 0.0),
}
"""Type and messages a second of each topic; 0 for what is sent when there is something to say."""

LATENCY_S = {"/camera": 0.038, "/lidar": 0.104, "/gps": 0.021}
"""From a stamp to its message's arrival; what is not listed takes two milliseconds."""

Message = tuple[int, str, bytes]
"""Log time in ns, topic, serialized message."""


def make_drives(folder: Path, *, on_file: Callable[[str, int], None] | None = None) -> list[Path]:
    """The generated drives' folders below ``folder``, made unless they are there already.

    ``on_file`` is told each bag file's name and size as it is done. Ten seconds on one core.
    """
    stamp = folder / ".generator"
    wanted = _generator_hash()
    folders = [folder / drive.name for drive in DRIVES]
    if stamp.exists() and stamp.read_text() == wanted and all(path.is_dir() for path in folders):
        return folders
    stamp.unlink(missing_ok=True)
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    parts = [(drive, part) for drive in DRIVES for part in range(len(drive.files))]
    # The caller may run threads, which a forked process would inherit in an unknown state.
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(parts), os.cpu_count() or 1), mp_context=processes) as pool:
        running = [pool.submit(write_part, drive, part, folder / drive.name) for drive, part in parts]
        for done in as_completed(running):
            path = done.result()
            if on_file is not None:
                on_file(f"{path.relative_to(folder)}", path.stat().st_size)
    for drive in DRIVES:
        if drive.ros == 2:
            _join_metadata([folder / drive.name / name for name in drive.files])
    stamp.write_text(wanted)
    return folders


def _generator_hash() -> str:
    """Of the sources that decide what a drive looks like."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    wanted = {"camera.py", "drive.py", "lidar.py", "motion.py", "scenery.py", "town.py"}
    content = b"".join(source.read_bytes() for source in sources if source.name in wanted)
    return hashlib.sha256(content).hexdigest()


def write_part(drive: Drive, part: int, folder: Path) -> Path:
    """Write one of the drive's bag files below ``folder``; returns its path."""
    world = make_world(drive)
    length_s = float(world.motion.time_s[-1])
    edges = np.linspace(0.0, length_s, len(drive.files) + 1)
    last = part == len(drive.files) - 1
    window = (float(edges[part]), math.inf if last else float(edges[part + 1]))
    messages = sorted(record(world, window), key=lambda message: message[:2])
    path = folder / drive.files[part]
    path.parent.mkdir(parents=True, exist_ok=True)
    if drive.ros == 1:
        _write_ros1(path, messages, world.ros)
    else:
        _write_ros2(path, messages, world.ros)
    return path


class Ros:
    """Messages of one generation of ROS, made and serialized by ``rosbags``."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.store = get_typestore(Stores.ROS1_NOETIC if generation == 1 else Stores.ROS2_HUMBLE)
        if "tf2_msgs/msg/TFMessage" not in self.store.fielddefs:
            definition = "geometry_msgs/TransformStamped[] transforms"
            self.store.register(get_types_from_msg(definition, "tf2_msgs/msg/TFMessage"))

    def make(self, name: str, *values: Any) -> Any:
        """A message of type ``package/Name``, its fields in the order of the definition."""
        package, kind = name.split("/")
        return self.store.types[f"{package}/msg/{kind}"](*values)

    def header(self, stamp_ns: int, frame: str, number: int) -> Any:
        time = self.make("builtin_interfaces/Time", stamp_ns // 10**9, stamp_ns % 10**9)
        if self.generation == 1:
            return self.make("std_msgs/Header", number, time, frame)
        return self.make("std_msgs/Header", time, frame)

    def vector(self, x: float, y: float, z: float) -> Any:
        return self.make("geometry_msgs/Vector3", x, y, z)

    def quaternion(self, *, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> Any:
        cr, sr = math.cos(roll / 2), math.sin(roll / 2)
        cp, sp = math.cos(pitch / 2), math.sin(pitch / 2)
        cy, sy = math.cos(yaw / 2), math.sin(yaw / 2)
        return self.make(
            "geometry_msgs/Quaternion",
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
            cr * cp * cy + sr * sp * sy,
        )

    def serialize(self, topic: str, message: Any) -> bytes:
        kind = TOPICS[topic][0]
        if self.generation == 1:
            return bytes(self.store.serialize_ros1(message, kind))
        return bytes(self.store.serialize_cdr(message, kind))


@dataclass(frozen=True, slots=True)
class World:
    """A drive about to be recorded."""

    drive: Drive
    town: town_module.Town
    motion: motion.Motion
    ros: Ros

    @property
    def start_ns(self) -> int:
        return int(self.drive.start.timestamp()) * 10**9

    def rng(self, *what: str | int) -> np.random.Generator:
        """Chance that is the same whenever the same thing is recorded."""
        words = [zlib.crc32(str(word).encode()) for word in (self.drive.name, *what)]
        return np.random.default_rng([town_module.SEED, *words])


def make_world(drive: Drive) -> World:
    town = town_module.build()
    path = town.ours
    moved = motion.drive_along(
        path,
        start_m=drive.start_m,
        length_m=path.length_m if drive.length_m is None else drive.length_m,
        start_mps=drive.rolling_mps,
        end_mps=drive.rolling_mps,
        standing_s=drive.standing_s,
    )
    return World(drive, town, moved, Ros(drive.ros))


@dataclass(frozen=True, slots=True)
class _Ticks:
    """The messages of a topic within a window of log time: their numbers, stamps (s) and log times."""

    topic: str
    number: npt.NDArray[np.int64]
    time_s: Floats
    log_time_ns: npt.NDArray[np.int64]
    stamp_ns: npt.NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Number, stamp and log time of each message."""
        columns = (self.number.tolist(), self.stamp_ns.tolist(), self.log_time_ns.tolist())
        return iter(list(zip(*columns, strict=True)))


def _ticks(world: World, topic: str, window: tuple[float, float], times: Floats | None = None) -> _Ticks:
    if times is None:
        step_s = 1.0 / TOPICS[topic][1]
        times = np.arange(0.0, float(world.motion.time_s[-1]), step_s)
    latency = next((delay for start, delay in LATENCY_S.items() if topic.startswith(start)), 0.002)
    late = latency * (1.0 + np.abs(world.rng(topic, "latency").normal(0.0, 0.08, len(times))))
    # A recorder sees messages of one topic in order.
    logged = np.maximum.accumulate(times + late)
    inside = (logged >= window[0]) & (logged < window[1])
    number = np.flatnonzero(inside)
    return _Ticks(
        topic,
        number,
        times[inside],
        world.start_ns + np.round(logged[inside] * 1e9).astype(np.int64),
        world.start_ns + np.round(times[inside] * 1e9).astype(np.int64),
    )


def record(world: World, window: tuple[float, float]) -> Iterator[Message]:
    """Every message whose log time, in seconds from the start, lies in ``window``; topic by topic."""
    painted = scenery.paint(world.town, world.drive.light)
    for lens in LENSES:
        yield from _camera(world, painted, lens, window)
    yield from _lidar(world, window)
    yield from _imu(world, window)
    yield from _gps(world, window)
    yield from _odometry(world, window)
    yield from _static_transforms(world, window)
    yield from _diagnostics(world, window)
    yield from _events(world, window)


def _cars(world: World, time_s: float) -> town_module.Cars:
    lead, braking = motion.car_ahead(world.motion, time_s)
    return town_module.cars_at(world.town, time_s, lead_distance_m=lead, lead_braking=braking)


def _camera(
    world: World, painted: scenery.Scenery, lens: camera.Lens, window: tuple[float, float]
) -> Iterator[Message]:
    ros, moved = world.ros, world.motion
    raw = lens is REAR
    topic = f"/camera/{lens.name}/image_raw" + ("" if raw else "/compressed")
    ticks = _ticks(world, topic, window)
    x, y, heading = (moved.at(name, ticks.time_s) for name in ("x", "y", "heading"))
    speed, acceleration = moved.at("speed", ticks.time_s), moved.at("acceleration", ticks.time_s)
    shake = world.rng(topic, "shake").normal(0.0, 0.0006, 4096)
    for place, (number, stamp_ns, log_time_ns) in enumerate(ticks):
        pitch = acceleration[place] * 0.006 + shake[number % 4096] * min(speed[place], 4.0)
        shown = datetime.fromtimestamp(stamp_ns // 10**6 / 1000, UTC)
        view = camera.View(
            x=float(x[place] + lens.mount_ahead_m * math.cos(heading[place])),
            y=float(y[place] + lens.mount_ahead_m * math.sin(heading[place])),
            heading_rad=float(heading[place]),
            pitch_px=round(float(pitch) * lens.focal_px * math.cos(lens.yaw_rad)),
            caption=f"{lens.name.upper()}  {shown:%Y-%m-%d %H:%M:%S}.{shown.microsecond // 1000:03d} UTC"
            + ("" if raw else f"  {max(speed[place], 0) * 3.6:.0f} km/h"),
        )
        picture = camera.render(painted, lens, view, _cars(world, float(ticks.time_s[place])))
        header = ros.header(stamp_ns, f"camera_{lens.name}_optical", number)
        if raw:
            pixels = np.asarray(picture.convert("L")).reshape(-1)
            message = ros.make(
                "sensor_msgs/Image", header, lens.height, lens.width, "mono8", 0, lens.width, pixels
            )
        else:
            data = np.frombuffer(camera.jpeg(picture, quality=88), np.uint8)
            message = ros.make("sensor_msgs/CompressedImage", header, "jpeg", data)
            yield from _camera_info(world, lens, number, stamp_ns, log_time_ns)
        yield log_time_ns, topic, ros.serialize(topic, message)


def _camera_info(
    world: World, lens: camera.Lens, number: int, stamp_ns: int, log_time_ns: int
) -> Iterator[Message]:
    ros = world.ros
    topic = f"/camera/{lens.name}/camera_info"
    focal, middle_x, middle_y = lens.focal_px, lens.width / 2, float(lens.horizon_row)
    message = ros.make(
        "sensor_msgs/CameraInfo",
        ros.header(stamp_ns, f"camera_{lens.name}_optical", number),
        lens.height,
        lens.width,
        "plumb_bob",
        np.zeros(5),
        np.array([focal, 0, middle_x, 0, focal, middle_y, 0, 0, 1]),
        np.eye(3).reshape(-1),
        np.array([focal, 0, middle_x, 0, 0, focal, middle_y, 0, 0, 0, 1, 0]),
        0,
        0,
        ros.make("sensor_msgs/RegionOfInterest", 0, 0, 0, 0, False),
    )
    yield log_time_ns, topic, ros.serialize(topic, message)


_POINT_TYPES = {"<f4": 7, "<u2": 4}
"""PointField's numbers for them."""


def _lidar(world: World, window: tuple[float, float]) -> Iterator[Message]:
    ros, moved, topic = world.ros, world.motion, "/lidar/points"
    fields = [
        ros.make("sensor_msgs/PointField", name, place[1], _POINT_TYPES[place[0].str], 1)
        for name, place in (lidar.POINT.fields or {}).items()
    ]
    firings_s = np.arange(lidar.FIRINGS) * (lidar.TURN_S / lidar.FIRINGS)
    ticks = _ticks(world, topic, window)
    for place, (number, stamp_ns, log_time_ns) in enumerate(ticks):
        times = ticks.time_s[place] + firings_s
        poses = lidar.Poses(*(moved.at(name, times) for name in ("x", "y", "heading")))
        cars = _cars(world, float(ticks.time_s[place]))
        points = lidar.scan(world.town, cars, poses, world.rng(topic, number))
        message = ros.make(
            "sensor_msgs/PointCloud2",
            ros.header(stamp_ns, "lidar", number),
            1,
            len(points),
            fields,
            False,
            lidar.POINT.itemsize,
            lidar.POINT.itemsize * len(points),
            points.view(np.uint8),
            True,
        )
        yield log_time_ns, topic, ros.serialize(topic, message)


def _imu(world: World, window: tuple[float, float]) -> Iterator[Message]:
    ros, moved, topic = world.ros, world.motion, "/imu/data"
    samples = len(moved.time_s)
    rng = world.rng(topic)
    engine = 0.03 + 0.015 * np.minimum(moved.speed, 10.0)
    gyro = rng.normal((0.0011, -0.0007, 0.0009), 0.0025, (samples, 3))
    gyro[:, 2] += moved.yaw_rate
    force = rng.normal(0.0, 1.0, (samples, 3)) * engine[:, None] * (1.0, 1.0, 1.6)
    force[:, 0] += moved.acceleration + 0.02
    force[:, 1] += moved.speed * moved.yaw_rate - 0.015
    force[:, 2] += 9.80665 + 0.01
    roll, pitch = moved.speed * moved.yaw_rate * 0.008, -moved.acceleration * 0.006
    covariances = [np.diag(value).reshape(-1) for value in ([4e-4] * 3, [6e-6] * 3, [1e-2] * 3)]
    for number, stamp_ns, log_time_ns in _ticks(world, topic, window, moved.time_s):
        message = ros.make(
            "sensor_msgs/Imu",
            ros.header(stamp_ns, "imu", number),
            ros.quaternion(roll=roll[number], pitch=pitch[number], yaw=moved.heading[number]),
            covariances[0],
            ros.vector(*gyro[number]),
            covariances[1],
            ros.vector(*force[number]),
            covariances[2],
        )
        yield log_time_ns, topic, ros.serialize(topic, message)


def latitude_longitude(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Degrees of places in the town (WGS 84, on the plane that touches it at the origin)."""
    sin = math.sin(math.radians(LATITUDE_DEG))
    root = math.sqrt(1 - 6.69437999014e-3 * sin * sin)
    meridian = 6378137.0 * (1 - 6.69437999014e-3) / root**3
    parallel = 6378137.0 / root * math.cos(math.radians(LATITUDE_DEG))
    return LATITUDE_DEG + np.degrees(y / meridian), LONGITUDE_DEG + np.degrees(x / parallel)


def _gps(world: World, window: tuple[float, float]) -> Iterator[Message]:
    ros, moved, topic = world.ros, world.motion, "/gps/fix"
    everywhere = np.arange(0.0, float(moved.time_s[-1]), 1.0 / TOPICS[topic][1])
    rng = world.rng(topic)
    # A receiver's error wanders slowly; from fix to fix it hardly changes.
    wander = np.zeros((len(everywhere), 3))
    for place in range(1, len(wander)):
        wander[place] = wander[place - 1] * 0.995 + rng.normal(0.0, (0.03, 0.03, 0.06))
    wander += rng.normal(0.0, 0.02, wander.shape)
    latitude, longitude = latitude_longitude(
        moved.at("x", everywhere) + wander[:, 0], moved.at("y", everywhere) + wander[:, 1]
    )
    covariance = np.diag([0.16, 0.16, 0.64]).reshape(-1)
    for number, stamp_ns, log_time_ns in _ticks(world, topic, window):
        message = ros.make(
            "sensor_msgs/NavSatFix",
            ros.header(stamp_ns, "gps", number),
            ros.make("sensor_msgs/NavSatStatus", 0, 1),
            latitude[number],
            longitude[number],
            ALTITUDE_M + wander[number, 2],
            covariance,
            2,
        )
        yield log_time_ns, topic, ros.serialize(topic, message)


def _odometry(world: World, window: tuple[float, float]) -> Iterator[Message]:
    """``/odom`` and ``/tf``: what wheels and gyro add up to from the start, drift included."""
    ros, moved = world.ros, world.motion
    step_s = 1.0 / motion.RATE_HZ
    yaw = np.cumsum(moved.yaw_rate + 0.0006) * step_s
    x = np.cumsum(moved.speed * 1.002 * np.cos(yaw)) * step_s
    y = np.cumsum(moved.speed * 1.002 * np.sin(yaw)) * step_s
    pose_covariance = np.diag([0.01, 0.01, 1e6, 1e6, 1e6, 0.003]).reshape(-1)
    twist_covariance = np.diag([0.002, 1e-4, 1e6, 1e6, 1e6, 0.001]).reshape(-1)
    every = round(motion.RATE_HZ / TOPICS["/odom"][1])
    for topic in ("/odom", "/tf"):
        for number, stamp_ns, log_time_ns in _ticks(world, topic, window):
            sample = min(number * every, len(yaw) - 1)
            header = ros.header(stamp_ns, "odom", number)
            turned = ros.quaternion(yaw=yaw[sample])
            if topic == "/tf":
                moved_by = ros.vector(x[sample], y[sample], 0.0)
                message = _transforms(ros, [(header, "base_link", moved_by, turned)])
            else:
                place = ros.make("geometry_msgs/Point", x[sample], y[sample], 0.0)
                twist = ros.make(
                    "geometry_msgs/Twist",
                    ros.vector(moved.speed[sample], 0.0, 0.0),
                    ros.vector(0.0, 0.0, moved.yaw_rate[sample]),
                )
                message = ros.make(
                    "nav_msgs/Odometry",
                    header,
                    "base_link",
                    ros.make(
                        "geometry_msgs/PoseWithCovariance",
                        ros.make("geometry_msgs/Pose", place, turned),
                        pose_covariance,
                    ),
                    ros.make("geometry_msgs/TwistWithCovariance", twist, twist_covariance),
                )
            yield log_time_ns, topic, ros.serialize(topic, message)


def _transforms(ros: Ros, transforms: list[tuple[Any, str, Any, Any]]) -> Any:
    """A TFMessage of (header, child frame, translation, rotation)."""
    return ros.make(
        "tf2_msgs/TFMessage",
        [
            ros.make(
                "geometry_msgs/TransformStamped",
                header,
                child,
                ros.make("geometry_msgs/Transform", translation, rotation),
            )
            for header, child, translation, rotation in transforms
        ],
    )


def _static_transforms(world: World, window: tuple[float, float]) -> Iterator[Message]:
    """Where the sensors sit; said once, and again at the start of every file, as recorders do."""
    ros, topic = world.ros, "/tf_static"
    stamp_ns = world.start_ns + round(window[0] * 1e9)
    header = ros.header(stamp_ns, "base_link", 0)
    mounts = [
        ("imu", ros.vector(0.0, 0.0, 0.5), ros.quaternion()),
        ("gps", ros.vector(-0.8, 0.0, 1.6), ros.quaternion()),
        ("lidar", ros.vector(0.0, 0.0, lidar.MOUNT_HEIGHT_M), ros.quaternion()),
    ]
    for lens in LENSES:
        # Optical frames look along z, with x to the right and y down.
        turned = ros.quaternion(roll=-math.pi / 2, yaw=lens.yaw_rad - math.pi / 2)
        mount = ros.vector(lens.mount_ahead_m, 0.0, lens.mount_height_m)
        mounts.append((f"camera_{lens.name}_optical", mount, turned))
    message = _transforms(ros, [(header, *mount) for mount in mounts])
    yield stamp_ns + 10**6, topic, ros.serialize(topic, message)


def _diagnostics(world: World, window: tuple[float, float]) -> Iterator[Message]:
    ros, moved, topic = world.ros, world.motion, "/diagnostics"
    ticks = _ticks(world, topic, window)
    for place, (number, stamp_ns, log_time_ns) in enumerate(ticks):
        rng = world.rng(topic, number)
        speed = float(moved.at("speed", ticks.time_s)[place])
        heat = 61.0 + 9.0 * (1 - math.exp(-number / 20)) + rng.normal(0.0, 0.6)
        rows = [
            (0, "camera_front: stream", "OK", {"fps": f"{10 + rng.normal(0, 0.05):.2f}", "dropped": "0"}),
            (0, "camera_left: stream", "OK", {"fps": f"{5 + rng.normal(0, 0.03):.2f}", "dropped": "0"}),
            (0, "lidar: rotation", "OK", {"rpm": f"{600 + rng.normal(0, 1.5):.1f}"}),
            (0, "gps: receiver", "3D fix", {"satellites": str(rng.integers(11, 17)), "hdop": "0.8"}),
            (
                int(heat > 69.5),
                "computer: temperature",
                "OK" if heat <= 69.5 else "warm",
                {"celsius": f"{heat:.1f}", "load": f"{0.55 + rng.uniform(0, 0.2):.2f}"},
            ),
            (0, "vehicle: bus", "OK", {"speed_kmh": f"{speed * 3.6:.1f}", "gear": "D", "errors": "0"}),
        ]
        statuses = [
            ros.make(
                "diagnostic_msgs/DiagnosticStatus",
                level,
                name,
                said,
                name.split(":")[0],
                [ros.make("diagnostic_msgs/KeyValue", key, value) for key, value in values.items()],
            )
            for level, name, said, values in rows
        ]
        message = ros.make("diagnostic_msgs/DiagnosticArray", ros.header(stamp_ns, "", number), statuses)
        yield log_time_ns, topic, ros.serialize(topic, message)


def _events(world: World, window: tuple[float, float]) -> Iterator[Message]:
    """A sentence whenever something begins or ends."""
    ros, moved, topic = world.ros, world.motion, "/events"
    said = [(0.0, "recording started"), (float(moved.time_s[-1]), "recording ended")]
    for happening, begins, ends in (
        (moved.speed > 0.3, "driving", "standing"),
        (moved.yaw_rate > 0.12, "turning left", "turn finished"),
        (moved.acceleration < -1.2, "braking", "brakes released"),
    ):
        edges = np.flatnonzero(np.diff(happening.astype(np.int8)))
        said += [(float(moved.time_s[edge]), begins if happening[edge + 1] else ends) for edge in edges]
    said.sort()
    times = np.array([time for time, _ in said])
    for number, _stamp_ns, log_time_ns in _ticks(world, topic, window, times):
        message = ros.make("std_msgs/String", said[number][1])
        yield log_time_ns, topic, ros.serialize(topic, message)


def _write_ros1(path: Path, messages: list[Message], ros: Ros) -> None:
    writer = rosbag1.Writer(path)
    writer.set_compression(rosbag1.Writer.CompressionFormat.LZ4)
    writer.compressor = _ros1_lz4
    with writer:
        connections = {
            topic: writer.add_connection(
                topic,
                TOPICS[topic][0],
                typestore=ros.store,
                callerid=f"/{topic.split('/')[1]}_node",
                latching=int(topic == "/tf_static"),
            )
            for topic in _topics_of(messages)
        }
        _write_all(writer, connections, messages)


def _ros1_lz4(chunk: bytes) -> bytes:
    """The frame that ROS 1 itself writes, and the only one that its own reader takes.

    Blocks of 1 MB that stand alone, a checksum over the content, no size; however small the chunk is.
    """
    compressor = lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX1MB, block_linked=False, content_checksum=True
    )
    return bytes(compressor.begin() + compressor.compress(chunk) + compressor.flush())


def _write_ros2(path: Path, messages: list[Message], ros: Ros) -> None:
    """One MCAP file; its own ``metadata.yaml`` is left beside it, for `_join_metadata`."""
    folder = path.with_suffix("")
    writer = rosbag2.Writer(folder, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP)
    writer.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(
                topic,
                TOPICS[topic][0],
                typestore=ros.store,
                offered_qos_profiles=[_quality(latched=topic == "/tf_static")],
            )
            for topic in _topics_of(messages)
        }
        _write_all(writer, connections, messages)
    (folder / path.name).replace(path)


def _topics_of(messages: list[Message]) -> list[str]:
    there = {topic for _, topic, _ in messages}
    return [topic for topic in TOPICS if topic in there]


def _write_all(
    writer: rosbag1.Writer | rosbag2.Writer, connections: dict[str, Connection], messages: list[Message]
) -> None:
    for log_time_ns, topic, data in messages:
        writer.write(connections[topic], log_time_ns, data)


def _quality(*, latched: bool) -> Qos:
    forever = QosTime(2147483647, 4294967295)
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


def _join_metadata(paths: list[Path]) -> None:
    """One ``metadata.yaml`` for the split files of a recording, from each file's own."""
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    infos = []
    for path in paths:
        folder = path.with_suffix("")
        infos.append(yaml.load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"])
        shutil.rmtree(folder)
    joined = dict(infos[0])
    joined["relative_file_paths"] = [path.name for path in paths]
    joined["files"] = list(itertools.chain.from_iterable(info["files"] for info in infos))
    joined["message_count"] = sum(info["message_count"] for info in infos)
    begin = min(info["starting_time"]["nanoseconds_since_epoch"] for info in infos)
    end = max(
        info["starting_time"]["nanoseconds_since_epoch"] + info["duration"]["nanoseconds"] for info in infos
    )
    joined["starting_time"] = {"nanoseconds_since_epoch": begin}
    joined["duration"] = {"nanoseconds": end - begin}
    topics: dict[str, dict[str, Any]] = {}
    for info in infos:
        for topic in info["topics_with_message_count"]:
            known = topics.setdefault(topic["topic_metadata"]["name"], {**topic, "message_count": 0})
            known["message_count"] += topic["message_count"]
    joined["topics_with_message_count"] = list(topics.values())
    with (paths[0].parent / "metadata.yaml").open("w") as out:
        yaml.dump({"rosbag2_bagfile_information": joined}, out)
