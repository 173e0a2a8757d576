"""Small bags made with ``rosbags``, for tests of what comes after reading and decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from tests.engine.bag.bag_bytes import McapFile, mcap_channel, mcap_message, mcap_schema

START_NS = 1_700_000_000_123_456_789
TOPICS = ("/imu/data", "/gps/fix", "/camera/image/compressed", "/status")


def write_bag(path: Path, *, messages: int = 40, start_ns: int = START_NS) -> None:
    """Writes ``messages`` rounds of an Imu, a fix, a camera frame and a string.

    The ending says the format: ``.bag``, ``.mcap`` or ``.db3``.
    """
    ros1 = path.suffix == ".bag"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
    writer: Any
    if ros1:
        writer, folder = Rosbag1Writer(path), None
    else:
        folder = path.with_name(f"{path.stem}_{path.suffix[1:]}_folder")
        plugin = StoragePlugin.MCAP if path.suffix == ".mcap" else StoragePlugin.SQLITE3
        writer = Rosbag2Writer(folder, version=9, storage_plugin=plugin)
    rng = np.random.default_rng(3)
    with writer:
        connections: dict[str, Any] = {}
        for number in range(messages):
            for offset, (topic, message) in enumerate(_round(store.types, number, start_ns, rng, ros1=ros1)):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
                time_ns = start_ns + number * 10_000_000 + offset
                writer.write(connections[topic], time_ns, serialize(message, message.__msgtype__))
    if folder is not None:
        (bag,) = folder.glob(f"*{path.suffix}")
        bag.rename(path)
        (folder / "metadata.yaml").unlink()
        folder.rmdir()


def write_defined(
    path: Path,
    text: str,
    values: Sequence[Mapping[str, Any]],
    *,
    topic: str,
    kind: str,
    start_ns: int = START_NS,
) -> Path:
    """A bag (its ending says the format) of messages of a type that ``text`` defines, a second apart."""
    ros1 = path.suffix == ".bag"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(text, kind))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    folder = path.with_name(f"{path.name}-folder")
    plugin = StoragePlugin.MCAP if path.suffix == ".mcap" else StoragePlugin.SQLITE3
    writer: Any = Rosbag1Writer(path) if ros1 else Rosbag2Writer(folder, version=9, storage_plugin=plugin)
    with writer:
        connection = writer.add_connection(topic, kind, typestore=store)
        for number, value in enumerate(values):
            message = store.types[kind](**value)
            data = store.serialize_ros1(message, kind) if ros1 else store.serialize_cdr(message, kind)
            writer.write(connection, start_ns + number * 1_000_000_000, data)
    if not ros1:
        (bag,) = folder.glob(f"*{path.suffix}")
        bag.rename(path)
        (folder / "metadata.yaml").unlink()
        folder.rmdir()
    return path


def write_mcap(
    path: Path,
    type_name: str,
    payloads: list[bytes],
    *,
    schema: str | bytes = "",
    schema_encoding: str = "",
    encoding: str = "cdr",
) -> Path:
    """An MCAP file with the messages ``payloads`` on ``/topic``, a nanosecond apart."""
    file = McapFile()
    file.add(file.define(mcap_schema(1, type_name, schema_encoding, schema)))
    file.add(file.define(mcap_channel(1, 1, "/topic", encoding)))
    for number, payload in enumerate(payloads):
        file.add(mcap_message(1, number, START_NS + number, payload))
    file.count({1: len(payloads)})
    path.write_bytes(file.bytes())
    return path


def _round(types: Any, number: int, start_ns: int, rng: Any, *, ros1: bool) -> list[tuple[str, Any]]:
    stamp = types["builtin_interfaces/msg/Time"](*divmod(start_ns + number * 10_000_000 - 5_000, 10**9))
    header = types["std_msgs/msg/Header"](*([number] if ros1 else []), stamp, "base")
    vector = types["geometry_msgs/msg/Vector3"]
    quaternion = types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    covariance = np.arange(9.0)
    imu = types["sensor_msgs/msg/Imu"](
        header,
        quaternion,
        covariance,
        vector(*rng.normal(size=3)),
        covariance,
        vector(number, 0.5, -1.0),
        covariance,
    )
    fix = types["sensor_msgs/msg/NavSatFix"](
        header, types["sensor_msgs/msg/NavSatStatus"](0, 1), 48.0 + number, 11.0, 500.0, covariance, 2
    )
    jpeg = rng.integers(0, 255, 2_000, dtype=np.uint8)
    image = types["sensor_msgs/msg/CompressedImage"](header, "jpeg", jpeg)
    return [
        ("/imu/data", imu),
        ("/gps/fix", fix),
        ("/camera/image/compressed", image),
        ("/status", types["std_msgs/msg/String"](f"round {number}")),
    ]
