"""The obvious way, as most scripts do it: ``rosbags`` message by message, dicts, ``from_pylist``, Parquet."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rosbags.highlevel import AnyReader


def plain(value: Any) -> Any:
    """A decoded message as nested dicts and lists; byte arrays stay bytes."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name != "__msgtype__"
        }
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype == np.uint8 else value
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def main(bag: Path, output: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    with AnyReader([bag]) as reader:
        for connection, log_time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            rows.setdefault(connection.topic, []).append({"log_time_ns": log_time_ns, **plain(message)})
    for topic, table in rows.items():
        name = topic.strip("/").replace("/", ".")
        pq.write_table(
            pa.Table.from_pylist(table), output / f"{name}.parquet", compression="zstd", compression_level=1
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
