"""A folder and an embedded AWS in which what the documentation says can be typed."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from tests.engine.sample_bags import write_bag, write_defined

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

START_NS = 1_795_166_999_000_000_000
"""2026-11-20T09:29:59Z: the drive of the documentation's clips."""

BUCKETS = ("raw-drives", "lake", "raw", "drives", "my-mwaa-bucket")

CONF: Mapping[str, Any] = {
    "drives_to_process": {
        "drive_1": {"bucket": "raw-drives", "prefix": "2026/11/20/car_7/"},
        "drive_2": {"bucket": "raw-drives", "prefix": "2026/11/21/car_7/"},
    }
}

FRAMES = (
    "ros-to-parquet frames lake --drive-id drive_1 --reference /camera/image/compressed --topic "
    "/imu/data=interpolated"
)

ICEBERG = "ros-to-parquet catalog lake iceberg:fleet --property type=sql --property uri=sqlite:///catalog.db"

RUN = "run_1"
"""What stands for RUN in a command."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """``folder`` is where commands are typed."""

    folder: Path
    environment: Mapping[str, str]

    def copied(self, folder: Path) -> Workspace:
        """For the reader of one page: what another page's commands have left is not there."""
        shutil.copytree(self.folder, folder)
        return replace(self, folder=folder)

    def bash(self, command: str, *, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """What a shell makes of a command; its output is of both streams."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )


def make_workspace(folder: Path, aws: EmbeddedAws) -> Workspace:
    """Bags, drives in S3, a lake here and one there, a run that has ended."""
    home = folder / "home"
    home.mkdir()
    environment = {
        **{name: os.environ[name] for name in ("LANG", "TMPDIR", "PYTHONPATH") if name in os.environ},
        **aws.environment(),
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "CONF": json.dumps(CONF),
        "EVENT_ID": "event_1",
    }
    made = Workspace(folder, environment)
    _write_bags(folder)
    _write_drives(folder, aws)
    for command in (
        "ros-to-parquet extract drive.bag clouds.bag --output lake --drive-id drive_1 --pointcloud decoded",
        "ros-to-parquet fleet lake --update",
        FRAMES,
        "ros-to-parquet extract camera.bag --output lake --drive-id c --images '*=jpeg_files,video=h264'",
        "ros-to-parquet extract speed_1.mcap speed_2.mcap --output s3://lake/drives --drive-id car_7.day_1",
        f"airflow-batch-ros submit --conf conf.json --output s3://lake/drives --run-id {RUN} --wait",
        *([ICEBERG] if find_spec("pyiceberg") else []),
    ):
        done = made.bash(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
    return made


def _write_bags(folder: Path) -> None:
    write_bag(folder / "drive.bag", messages=1_400, start_ns=START_NS)
    write_bag(folder / "old.db3", start_ns=START_NS)
    _write_clouds(folder / "clouds.bag")
    _write_camera(folder / "camera.bag")
    write_defined(
        folder / "speed_1.mcap", "float32 value", [{"value": 1.0}], topic="/car/speed", kind="car/msg/Speed"
    )
    write_defined(
        folder / "speed_2.mcap",
        "float64 value\nstring source",
        [{"value": 2.0, "source": "wheel"}],
        topic="/car/speed",
        kind="car/msg/Speed",
    )
    package = folder / "home" / "ros2_ws" / "src" / "car_msgs" / "msg"
    package.mkdir(parents=True)
    (package / "Wheel.msg").write_text("float64 speed\n")
    (folder / "conf.json").write_text(json.dumps(CONF))


def _write_camera(path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    types: Any = store.types
    kind = "sensor_msgs/msg/CompressedImage"
    with Writer(path) as writer:
        connection = writer.add_connection("/front/image/compressed", kind, typestore=store)
        for number in range(5):
            stamp = types["builtin_interfaces/msg/Time"](*divmod(START_NS, 10**9))
            header = types["std_msgs/msg/Header"](number, stamp, "front")
            jpeg = io.BytesIO()
            Image.new("RGB", (128, 96), (50 * number, 90, 120)).save(jpeg, "JPEG")
            message = types[kind](header, "jpeg", np.frombuffer(jpeg.getvalue(), np.uint8))
            writer.write(connection, START_NS + number * 10**8, store.serialize_ros1(message, kind))


def _write_clouds(path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    types: Any = store.types
    kind = "sensor_msgs/msg/PointCloud2"
    fields = [
        types["sensor_msgs/msg/PointField"](name, 4 * place, 7, 1)
        for place, name in enumerate(("x", "y", "z", "intensity"))
    ]
    with Writer(path) as writer:
        connection = writer.add_connection("/lidar/points", kind, typestore=store)
        for number in range(5):
            stamp = types["builtin_interfaces/msg/Time"](*divmod(START_NS, 10**9))
            header = types["std_msgs/msg/Header"](number, stamp, "lidar")
            points = np.arange(12, dtype="<f4").view("u1")
            cloud = types[kind](header, 1, 3, fields, False, 16, 48, points, True)
            writer.write(connection, START_NS + number * 10**8, store.serialize_ros1(cloud, kind))


def _write_drives(folder: Path, aws: EmbeddedAws) -> None:
    aws.ensure_buckets(*BUCKETS)
    s3 = aws.client("s3")
    bag = (folder / "drive.bag").read_bytes()
    for bucket, key in (
        ("raw-drives", "2026/11/20/car_7/drive.bag"),
        ("raw-drives", "2026/11/21/car_7/drive.bag"),
        ("raw-drives", "drive_1/drive.bag"),
        ("raw-drives", "fleet/car_7/day_1/drive.bag"),
        ("raw", "drive_1/drive.bag"),
    ):
        s3.put_object(Bucket=bucket, Key=key, Body=bag)
    s3.put_object(Bucket="lake", Key="confs/nightly.json", Body=json.dumps(CONF).encode())
