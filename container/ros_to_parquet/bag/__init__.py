"""Bag readers: undecoded messages of a bag file, in blocks, read forward once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from ros_to_parquet.bag import mcap, rosbag1
from ros_to_parquet.bag.archive import HEAD_BYTES, SQLITE_MAGIC, ArchiveReader, packing
from ros_to_parquet.bag.model import (
    BagError,
    BagFormat,
    BagReader,
    Connection,
    Damage,
    MessageBlock,
    RandomAccess,
)
from ros_to_parquet.bag.source import CountedSource, LocalFile
from ros_to_parquet.bag.streams import MAX_MEMORY_BYTES
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget

__all__ = [
    "BagError",
    "BagFormat",
    "BagReader",
    "Connection",
    "Damage",
    "LocalFile",
    "MessageBlock",
    "RandomAccess",
    "open_bag",
]


def every_topic(_topic: str) -> bool:
    return True


def open_bag(
    source: RandomAccess,
    *,
    wanted: Callable[[str], bool] = every_topic,
    slice_index: int = 0,
    slice_count: int = 1,
    metadata: str | None = None,
    beside: Mapping[str, RandomAccess] | None = None,
    budget: MemoryBudget = DEFAULT_BUDGET,
) -> BagReader:
    """A reader of a bag, or of all bags in an archive; the format is told from the first bytes.

    Args:
        source: the bag's bytes.
        wanted: whether a topic's messages are to be yielded; those of all others are counted.
        slice_index: which slice of the bag to read. It owns the chunks (and the messages outside of chunks)
            whose offset is in [index * size // count, (index + 1) * size // count). Of a bag that cannot be
            split (it has no index, is a database or is packed) slice 0 is the whole, the others are empty.
        slice_count: how many slices there are.
        metadata: text of the ``metadata.yaml`` in a rosbag2 folder.
        beside: files that SQLite left beside a database, by what they add to its name (``-wal``: messages
            that are not in it yet; ``-journal``: how to take back what was not finished).
        budget: how much may be in memory at a time; how large a chunk, a message and a block may be.

    Raises:
        BagError: nothing can be read of it; says why and what to do.
        OSError: or whatever else the source raises.
    """
    if not 0 <= slice_index < slice_count:
        raise ValueError(f"slice {slice_index} of {slice_count}")
    counted = CountedSource(source)
    if metadata is not None:
        _check_metadata(metadata)
    head = counted.read_at(0, HEAD_BYTES)
    if packing(head):
        return ArchiveReader(
            counted,
            partial(_open, wanted=wanted, budget=budget),
            slice_index=slice_index,
            memory_bytes=min(MAX_MEMORY_BYTES, 5 * budget.limit // 8),
        )
    return _open(
        counted,
        head,
        wanted=wanted,
        budget=budget,
        slice_index=slice_index,
        slice_count=slice_count,
        beside={name: CountedSource(each) for name, each in (beside or {}).items()},
    )


def _open(
    source: CountedSource,
    head: bytes,
    *,
    wanted: Callable[[str], bool],
    budget: MemoryBudget,
    slice_index: int = 0,
    slice_count: int = 1,
    beside: Mapping[str, CountedSource] = MappingProxyType({}),
) -> BagReader:
    kind = _sniff(head, source.size)
    if kind == "rosbag1":
        return rosbag1.Rosbag1Reader(
            source, wanted=wanted, budget=budget, slice_index=slice_index, slice_count=slice_count
        )
    if kind == "mcap":
        return mcap.McapReader(
            source, wanted=wanted, budget=budget, slice_index=slice_index, slice_count=slice_count
        )
    from ros_to_parquet.bag.rosbag2_sqlite import SqliteReader

    return SqliteReader(source, wanted=wanted, budget=budget, slice_index=slice_index, beside=beside)


def _sniff(head: bytes, size: int) -> BagFormat:
    if size == 0:
        raise BagError("the file is empty (0 bytes): the recording or the copy of it failed")
    if head.startswith(rosbag1.MAGIC):
        return "rosbag1"
    if head.startswith(mcap.MAGIC):
        return "mcap"
    if head.startswith(SQLITE_MAGIC):
        return "sqlite3"
    if head.startswith((b"#ROSRECORD V", b"#ROSBAG V1")):
        version = head.split(b"\n")[0][:32].decode("ascii", "replace")
        how = (
            "ROS 1's `rosbag filter OLD.bag NEW.bag True` writes it anew as 2.0"
            if version.endswith("V1.2")
            else "no ROS of today reads it; have it rewritten as 2.0 by a release of its time"
        )
        raise BagError(f"a ROS 1 bag of an old version ({version}): {how}")
    if head.startswith(b"#ROSBAG V"):
        version = head.split(b"\n")[0][:32].decode("ascii", "replace")
        raise BagError(f"a ROS 1 bag of a version that is not supported ({version}); 2.0 is")
    if head.startswith(b"\x89MCAP") and len(head) >= len(mcap.MAGIC):
        raise BagError(
            f"an MCAP file of version {chr(head[5])!r}, which is not supported ('0' is): "
            "take a newer ros-to-parquet, or have it written anew by the tool that made it"
        )
    if any(magic.startswith(head) for magic in (rosbag1.MAGIC, mcap.MAGIC, SQLITE_MAGIC)):
        raise BagError(f"a bag that is cut off after {size} bytes: nothing is in it")
    raise BagError(f"neither a ROS 1 bag, an MCAP file nor a SQLite bag: it begins with {head[:16].hex(' ')}")


def _check_metadata(text: str) -> None:
    """Refuses messages compressed in an unknown way. zstd shows in them, what a file is packed with in it."""
    said = dict(re.findall(r"^\s*(compression_mode|compression_format):[ \t]*[\"']?([\w.-]*)", text, re.M))
    mode, name = said.get("compression_mode", "").lower(), said.get("compression_format", "").lower()
    if mode == "message" and name != "zstd":
        raise BagError(
            f"compressed by message with {name or 'an unnamed format'} by rosbag2; zstd is supported: "
            "convert it with `ros2 bag convert`"
        )
