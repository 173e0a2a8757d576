"""Small real bags, as bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

MESSAGES = 20


def ros1_bag(*, topic: str = "/temperature", messages: int = MESSAGES, first: int = 0) -> bytes:
    """A ROS 1 bag of ``sensor_msgs/Temperature``, one message a chunk's few hundred bytes apart."""
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = store.types["sensor_msgs/msg/Temperature"]
    header = store.types["std_msgs/msg/Header"]
    time = store.types["builtin_interfaces/msg/Time"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.bag"
        with Writer(path) as writer:
            connection = writer.add_connection(topic, kind.__msgtype__, typestore=store)
            for number in range(first, first + messages):
                message = kind(
                    header=header(seq=number, stamp=time(sec=number, nanosec=0), frame_id="base"),
                    temperature=float(np.sin(number)),
                    variance=0.1,
                )
                data = store.serialize_ros1(message, kind.__msgtype__)
                writer.write(connection, number * 1_000_000_000, data)
        return path.read_bytes()


def cut_off(bag: bytes) -> bytes:
    """As a recorder leaves a bag when its power goes."""
    return bag[: len(bag) * 2 // 3]


UNREADABLE = b"#ROSBAG V2.0\n" + b"\xff" * 5000
