"""What the engine makes of a bag, as other decoders' values can be held against it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

REAL_BAGS = Path(__file__).parents[2].parent / "shared" / "bags"

Values = Mapping[str, list[tuple[int, Any]]]
"""By topic: log time in nanoseconds and message (dicts, lists, str, bytes, numbers) of each, in any order."""


@dataclass(frozen=True)
class Extracted:
    """One bag's tables: by topic the message's own columns, and what the manifest counts."""

    tables: Mapping[str, list[tuple[pa.Schema, list[tuple[int, dict[str, Any]]]]]]
    rejected: Mapping[str, list[int]]
    """Log times of the rejected messages by topic; the manifest lists the first hundred."""
    messages: Mapping[str, int]
    damaged: bool
    unreadable: bool


def extract(bag: Path, folder: Path) -> Extracted:
    """Runs the engine as a user does, and reads back every file that the manifest names."""
    output = folder / "lake"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ros_to_parquet", "extract", str(bag)),
            *("--output", str(output), "--drive-id", "d"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 65), done.stderr
    (path,) = (path for path in output.glob("_manifests/drive_id=d/*/*.json") if path.stem.isdigit())
    manifest = json.loads(path.read_text())
    tables: dict[str, list[tuple[pa.Schema, list[tuple[int, dict[str, Any]]]]]] = {}
    rejected: dict[str, list[int]] = {}
    messages: dict[str, int] = {}
    for topic in manifest["topics"]:
        name = topic["topic"]
        messages[name] = messages.get(name, 0) + topic["messages"]
        rejected.setdefault(name, []).extend(each["log_time_ns"] for each in topic["rejects"])
        for file in topic["files"]:
            table = pq.ParquetFile(output / file["path"]).read()
            own = table.select(table.schema.names[table.schema.names.index("bag") + 1 :])
            times = table.column("log_time_ns").to_pylist()
            rows = own.to_pylist() if own.num_columns else [{} for _ in times]
            tables.setdefault(name, []).append((own.schema, list(zip(times, rows, strict=True))))
    damaged = any(each["status"] == "damaged" for each in manifest["bags"])
    return Extracted(tables, rejected, messages, damaged, done.returncode == 65)


def assert_same(extracted: Extracted, oracle: Values, *, undecoded: Mapping[str, Iterable[int]] = {}) -> int:
    """Every message of the oracle is a row of the same time and value, and there are no others.

    Of a damaged bag the engine may find more, never less.
    ``undecoded``: log times of messages, by topic, that the oracle finds and cannot decode; whatever the
    engine makes of them. Returns how many rows were compared.
    """
    compared = 0
    for topic in sorted(extracted.messages.keys() | oracle.keys() | undecoded.keys()):
        skipped = set(undecoded.get(topic, ())) | set(extracted.rejected.get(topic, ()))
        theirs = oracle.get(topic, [])
        found = len(theirs) + len(list(undecoded.get(topic, ())))
        more = extracted.messages.get(topic, 0) - found
        assert more == 0 or (more > 0 and extracted.damaged), f"{topic}: {found} messages by the oracle"
        ours, wanted = [], []
        for schema, rows in extracted.tables.get(topic, []):
            of_schema = {time for time, _ in rows} - skipped
            ours += [(time, repr(canonical(row))) for time, row in rows if time not in skipped]
            kind = pa.struct(list(schema))
            wanted += [
                (time, repr(canonical(shaped(value, kind)))) for time, value in theirs if time in of_schema
            ]
        extra = Counter(ours) - Counter(wanted)
        lost = Counter(wanted) - Counter(ours)
        assert not lost, f"{topic}: {next(iter(lost))}, but {next(iter(extra), None)}"
        assert extra.total() == 0 or extracted.damaged, f"{topic}: {next(iter(extra))}"
        missing = {time for time, _ in theirs} - {time for time, _ in ours} - skipped
        assert not missing, f"{topic}: no row for {sorted(missing)[:3]}"
        compared += len(wanted)
    return compared


def canonical(value: Any) -> Any:
    """``value`` with times and durations in nanoseconds: decoders move full seconds out of ``nanosec``."""
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"sec", "nanosec"}:
        return value["sec"] * 10**9 + value["nanosec"]
    return {name: canonical(item) for name, item in value.items()}


def shaped(value: Any, kind: pa.DataType) -> Any:
    """A decoder's value as ``to_pylist`` gives a column of type ``kind``."""
    if pa.types.is_struct(kind):
        if not value:  # Parquet has no empty structs
            return {field.name: 0 for field in kind}
        by_name = {name.rstrip("_"): item for name, item in value.items()}
        return {field.name: shaped(by_name[field.name.rstrip("_")], field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [shaped(item, kind.value_type) for item in value]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return value if isinstance(value, bytes) else bytes(int(item) & 0xFF for item in value)
    if pa.types.is_boolean(kind):
        return bool(value)
    if pa.types.is_float32(kind):
        return struct.unpack("<f", struct.pack("<f", value))[0]
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_uint8(kind):
        return int(value) & 0xFF  # ROS 1's char and ROS 2's byte, which some take for int8
    if pa.types.is_integer(kind):
        return int(value)
    return value
