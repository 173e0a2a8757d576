"""Tries what the build of the image has left of the packages: bags of each kind to Parquet, and their report.

Run by the Dockerfile with the image's own Python; ends with an error where something is missing.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

import ros_to_parquet
from ros_to_parquet import contract
from ros_to_parquet.cli import main
from ros_to_parquet.pictures import FORMATS

MESSAGES = 40
DRIVE = "check"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000

MODULES = (
    *("apsw", "awkward.forth", "fsspec", "google.protobuf", "lz4.frame", "matplotlib.pyplot"),
    *("numpy.linalg", "pyarrow.compute", "pyarrow.dataset", "pyarrow.fs", "ruamel.yaml", "zstandard"),
)
SERVICES = ("batch", "cloudformation", "logs", "s3", "sts")


def messages(types: Any, number: int, *, ros1: bool) -> Iterator[tuple[str, Any]]:
    """A message a topic: what is plotted, what makes a track, frames of cameras of each format, a lidar."""
    time = types["builtin_interfaces/msg/Time"](number, 0)
    header = types["std_msgs/msg/Header"](*((number,) if ros1 else ()), time, "base")
    vector, nine = types["geometry_msgs/msg/Vector3"], np.zeros(9)
    turn = types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    still, turning = vector(0.0, 0.0, 9.8), vector(0.1, 0.2, 0.1 * number)
    yield "/imu", types["sensor_msgs/msg/Imu"](header, turn, nine, turning, nine, still, nine)
    status = types["sensor_msgs/msg/NavSatStatus"](0, 1)
    yield "/fix", types["sensor_msgs/msg/NavSatFix"](header, status, 48 + number * 1e-5, 9.0, 300.0, nine, 0)
    pixels = np.full(48, number, dtype=np.uint8)
    yield "/image", types["sensor_msgs/msg/Image"](header, 4, 4, "rgb8", 0, 12, pixels)
    field = types["sensor_msgs/msg/PointField"]
    fields = [field(name, 4 * place, 7, 1) for place, name in enumerate("xyz")]
    cloud = np.random.default_rng(number).normal(size=(50, 3)).astype("<f4").view(np.uint8).reshape(-1)
    yield "/points", types["sensor_msgs/msg/PointCloud2"](header, 1, 50, fields, False, 12, 600, cloud, True)
    for name in FORMATS:
        out = io.BytesIO()
        Image.fromarray(pixels.reshape(4, 4, 3)).save(out, name)
        data = np.frombuffer(out.getvalue(), dtype=np.uint8)
        yield f"/camera/{name.lower()}", types["sensor_msgs/msg/CompressedImage"](header, name, data)


def write(writer: Any, *, ros1: bool, start_ns: int) -> int:
    """Fills a bag; how many messages it has."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
    connections: dict[str, Any] = {}
    with writer:
        for number in range(MESSAGES):
            for topic, message in messages(store.types, number, ros1=ros1):
                name = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, name, typestore=store)
                writer.write(connections[topic], start_ns + number * STEP_NS, serialize(message, name))
    return MESSAGES * len(connections)


def write_bags(folder: Path) -> int:
    """Bags of each kind, one after the other in time; how many messages they have."""
    writers: list[Any] = []
    for compression in rosbag1.Writer.CompressionFormat:
        writers.append(rosbag1.Writer(folder / f"{compression.name}.bag"))
        writers[-1].set_compression(compression)
    for plugin in rosbag2.StoragePlugin:
        writers.append(rosbag2.Writer(folder / plugin.name, version=9, storage_plugin=plugin))
        writers[-1].set_compression(rosbag2.CompressionMode.MESSAGE, rosbag2.CompressionFormat.ZSTD)
    return sum(
        write(
            writer,
            ros1=isinstance(writer, rosbag1.Writer),
            start_ns=START_NS + place * MESSAGES * STEP_NS,
        )
        for place, writer in enumerate(writers)
    )


def check(folder: Path) -> None:
    for name in MODULES:
        import_module(name)
    session = import_module("boto3").Session(region_name="eu-west-1")
    for name in SERVICES:
        session.client(name, aws_access_key_id="none", aws_secret_access_key="none")
    bags, lake_folder = folder / "bags", folder / "lake"
    bags.mkdir()
    count = write_bags(bags)
    words = ["extract", str(bags), "--output", str(lake_folder), "--drive-id", DRIVE]
    assert main([*words, "--pointcloud", "decoded", "--report"]) == contract.ExitCode.OK
    lake = ros_to_parquet.open(str(lake_folder))
    rows = {table: lake.dataset(table).to_table().num_rows for table in lake.tables()}
    assert sum(rows.values()) == count, rows
    page = (lake_folder / contract.report_key(DRIVE)).read_text()
    cameras = 1 + len(FORMATS)
    drawn = {what: page.count(what) for what in ("<svg", "data:image/jpeg", 'alt="/points')}
    assert drawn["<svg"] > len(rows), drawn
    assert drawn["data:image/jpeg"] >= 8 * cameras, drawn
    assert drawn['alt="/points'] == 1, drawn
    print(f"checked: {count} messages of {len(rows)} tables, and a report with {drawn}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        check(Path(temporary))
