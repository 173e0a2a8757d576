"""MCAP files that differ in one number: ``python -m benchmarks.series_bags PATH MESSAGES TOPICS NESTING``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

NUMBERS = 64
"""Float64 in a message, whatever the nesting: 64, 8 x 8, 4 x 4 x 4 or 4 x 4 x 2 x 2."""

DISTINCT = 256
"""Messages made; what follows repeats them."""

_SHAPES = {1: (64,), 2: (8, 8), 3: (4, 4, 4), 4: (4, 4, 2, 2)}


def make_series_bag(path: Path, *, messages: int, topics: int, nesting: int) -> int:
    """Writes ``messages`` in all to ``topics`` in turn; arrays are nested ``nesting`` deep."""
    store = get_typestore(Stores.ROS2_JAZZY)
    shape = _SHAPES[nesting]
    names = [f"series_msgs/msg/Level{depth}" for depth in range(nesting)]
    for depth, name in enumerate(names):
        body = "float64[] values" if depth == nesting - 1 else f"{names[depth + 1]}[] values"
        head = "std_msgs/Header header\n" if depth == 0 else ""
        store.register(get_types_from_msg(head + body, name))
    rng = np.random.default_rng(3)
    types: Any = store.types

    def nested(depth: int) -> Any:
        if depth == nesting - 1:
            return rng.normal(size=shape[depth])
        return [types[names[depth + 1]](nested(depth + 1)) for _ in range(shape[depth])]

    payloads = []
    for number in range(min(DISTINCT, messages)):
        stamp = types["builtin_interfaces/msg/Time"](1_700_000_000 + number, 0)
        header = types["std_msgs/msg/Header"](stamp, "base_link")
        payloads.append(store.serialize_cdr(types[names[0]](header, nested(0)), names[0]))
    folder = path.with_suffix("")
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        connections = [
            writer.add_connection(f"/topic_{number}", names[0], typestore=store) for number in range(topics)
        ]
        for number in range(messages):
            time_ns = 1_700_000_000 * 10**9 + number * 10**5
            writer.write(connections[number % topics], time_ns, payloads[number % len(payloads)])
    (folder / f"{folder.name}.mcap").rename(path)
    (folder / "metadata.yaml").unlink()
    folder.rmdir()
    return messages


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[2:]]
    print(make_series_bag(Path(sys.argv[1]), messages=numbers[0], topics=numbers[1], nesting=numbers[2]))
