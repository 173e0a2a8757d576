"""Two transforms for ros-to-parquet, as an example for your own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ros_to_parquet.transforms import TopicInfo

CHANNELS = {"mono8": 1, "8UC1": 1, "rgb8": 3, "bgr8": 3, "8UC3": 3}
"""Encodings of a byte a channel, and how many they have."""


def image_brightness(rows: pa.RecordBatch, topic: TopicInfo) -> pa.RecordBatch:
    """Images without their pixels: ``brightness`` is their mean (0 to 255), null in other encodings."""
    if topic.type_name.replace("/msg/", "/") != "sensor_msgs/Image":
        raise ValueError(f"{topic.topic} is {topic.type_name}: choose topics of sensor_msgs/Image alone")
    brightness = [
        mean_of(np.frombuffer(data.as_buffer(), np.uint8), width=width, height=height, step=step, name=name)
        for data, width, height, step, name in zip(
            rows.column("data"),
            *(rows.column(name).to_pylist() for name in ("width", "height", "step", "encoding")),
            strict=True,
        )
    ]
    return rows.drop_columns(["data"]).append_column("brightness", pa.array(brightness, pa.float64()))


def mean_of(data: np.ndarray, *, width: int, height: int, step: int, name: str) -> float | None:
    """Mean of an image's bytes, without the padding behind each line; None where there is none to be had."""
    used = width * CHANNELS.get(name, 0)
    if not used or not height or step < used or len(data) != height * step:
        return None
    return float(data.reshape(height, step)[:, :used].mean())


class OnePerSecond:
    """The first row of every second, of any topic."""

    def __init__(self, _: TopicInfo) -> None:
        self._second = -1

    def transform(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        seconds = rows.column("log_time_ns").to_numpy() // 1_000_000_000
        is_first = np.diff(seconds, prepend=self._second) != 0
        self._second = int(seconds[-1])
        return rows.filter(pa.array(is_first))
