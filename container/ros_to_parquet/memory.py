"""How much memory a shard may take, and who may take how much of it.

The limit is on peak resident memory above what the imports take (`IMPORT_BYTES`). What does not fit goes to
scratch disk (``TMPDIR``) or is read again in smaller steps; a message that cannot fit is a reject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_LIMIT_BYTES: Final = 1 << 30
LEAST_LIMIT_BYTES: Final = 128 << 20
"""Below it, one part of an upload and one block of messages are too much beside everything else."""

IMPORT_BYTES: Final = 128 << 20
"""Interpreter and libraries: what a shard of a bag without messages takes, and a little more."""

TABLE_BYTES: Final = 18 << 10
DECODER_BYTES: Final = 54 << 10
"""What a topic's table takes until the shard is done, and a type's decoder: of few columns."""

VARIABLE: Final = "ROS_TO_PARQUET_MEMORY_LIMIT"
"""Environment variable: the limit where the command line gives none."""


class MemoryLimitError(ValueError):
    """A limit that is no size, or one that nothing can be done with."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Shares of the limit, in bytes. See `share_out` for how they add up.

    Attributes:
        limit: of peak resident memory above import.
        message: a larger message is a reject.
        large: a larger message is worked on alone, and its row is written to a file of its own kind.
        chunk: a chunk with more, stored or decompressed, is decompressed as it is read.
        window: one read of a bag, or request ahead of it; what records of a large chunk are found in.
        block: messages of one connection handed on at a time.
        joined: messages that wait until there are more of their connection to be handed on together.
        read_ahead: messages read and decompressed ahead of the decoder.
        take: messages of one connection decoded before they become Arrow arrays, which cost by the column.
        pending: messages of all connections together that are decoded and not yet Arrow arrays.
        row_group: a table's rows, in memory, of which a row group is written.
        waiting: rows of all tables together that wait in memory for their row group; others do on scratch.
        in_flight: rows that are being encoded.
        upload: parts of S3 uploads; others wait on scratch.
        alone: a large message as columns, with what encoding them takes.
        tables: decoders and tables that are open, by `TABLE_BYTES` and `DECODER_BYTES`.
        pictures: pictures that are being decoded and encoded.
        videos: encoders of videos.
        files: pictures that wait to be put.
    """

    limit: int
    message: int
    large: int
    chunk: int
    window: int
    block: int
    joined: int
    read_ahead: int
    take: int
    pending: int
    row_group: int
    waiting: int
    in_flight: int
    upload: int
    alone: int
    tables: int
    pictures: int
    videos: int
    files: int


def share_out(limit_bytes: int) -> MemoryBudget:
    """The shares of a limit.

    In 32nds of it, at one time, and how often the bytes counted are in memory:

    - reading: windows and ranges in flight (4), a chunk as stored and decompressed with where its messages
      lie (1 x 4), joined (1 x 2), read ahead (1);
    - decoding: pending messages as they were decoded, while one connection's become arrays (2 x 1.5);
    - writing: waiting (2), in flight with what encoding takes (2 x 1.5), uploads with the parts being sent
      (4 + 1);

    24 of 32: the rest is what allocators keep back, and what a file's footer and statistics take. A large
    message comes when the writers have settled and is not read ahead of, so that it may be in memory three
    times over (24): as read, as decoded, as a Parquet page.

    Tables may be so many that they take 24 more: no bag has both thousands of topics and large messages.

    Pictures (8), videos (12) and files that wait to be put (1) come beside that where they are asked for. Of
    what is written pixels are then no part, or packed.

    Reads, row groups and what waits gain nothing past the sizes here, so they stop growing at the default or
    before: memory that is touched for the first time costs more than what is done with it.
    """
    share = limit_bytes // 32
    mebibyte = 1 << 20
    return MemoryBudget(
        limit=limit_bytes,
        message=8 * share,
        large=share,
        chunk=share,
        window=min(share // 4, 8 * mebibyte),
        block=min(share // 2, 16 * mebibyte),
        joined=min(share, 16 * mebibyte),
        read_ahead=min(share, 8 * mebibyte),
        take=min(share // 8, 4 * mebibyte),
        pending=min(2 * share, 16 * mebibyte),
        row_group=min(2 * share, 32 * mebibyte),
        waiting=min(2 * share, 32 * mebibyte),
        in_flight=min(2 * share, 64 * mebibyte),
        upload=4 * share,
        alone=26 * share,
        tables=24 * share,
        pictures=8 * share,
        videos=12 * share,
        files=share,
    )


DEFAULT_BUDGET: Final = share_out(DEFAULT_LIMIT_BYTES)

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size: ``2GiB``, ``512M``, ``1.5 GB``, ``268435456``. With an ``i``, units go by 1,024.

    >>> parse_size("512MiB"), parse_size("2G"), parse_size("100000")
    (536870912, 2000000000, 100000)

    Raises:
        MemoryLimitError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match["binary"] and not match["unit"]):
        raise MemoryLimitError(
            f"{text!r} is no size: give bytes, or a number with a unit as 512MiB, 2G, 1.5GiB"
        )
    base = 1024 if match["binary"] else 1000
    return int(float(match["number"]) * base ** " kmgt".index(match["unit"].lower() or " "))


def parse_limit(text: str) -> int:
    """A memory limit in bytes.

    Raises:
        MemoryLimitError: it is no size, or too small.
    """
    limit_bytes = parse_size(text)
    if limit_bytes < LEAST_LIMIT_BYTES:
        raise MemoryLimitError(
            f"a memory limit of {text} is too small: {readable(LEAST_LIMIT_BYTES)} is the least"
        )
    return limit_bytes


def readable(size_bytes: int) -> str:
    """A size for people and for `parse_size`, rounded up: ``512MiB``."""
    return f"{-(-size_bytes // (1 << 20)):,}MiB".replace(",", "")


@dataclass(frozen=True, slots=True)
class ChosenLimit:
    """A limit, and a note for the log: where it comes from if nobody asked for it, or why it is too much."""

    limit_bytes: int
    note: str = ""


def choose_limit(
    given: str | None, environment: Mapping[str, str], container_bytes: int | None
) -> ChosenLimit:
    """The limit asked for, else the environment's, else the default or what fits in the container.

    Args:
        given: on the command line.
        container_bytes: what the container's processes may take together; None for no limit.

    Raises:
        MemoryLimitError: what is asked for is no limit.
    """
    asked = given or environment.get(VARIABLE)
    # The kernel counts what the files written leave in its cache too, and takes back most of it, not all.
    fits = None if container_bytes is None else container_bytes * 15 // 16 - IMPORT_BYTES
    if asked:
        limit_bytes = parse_limit(asked)
        if fits is not None and limit_bytes > fits:
            return ChosenLimit(limit_bytes, f"the container has {readable(container_bytes or 0)} in all")
        return ChosenLimit(limit_bytes)
    if fits is None or fits >= DEFAULT_LIMIT_BYTES:
        return ChosenLimit(DEFAULT_LIMIT_BYTES)
    note = f"from the container, which has {readable(container_bytes or 0)} in all"
    if fits < LEAST_LIMIT_BYTES:
        return ChosenLimit(LEAST_LIMIT_BYTES, f"the least there is; {note}")
    return ChosenLimit(fits, note)


_NO_LIMIT_BYTES = 1 << 60
"""Version 1 of cgroups says a number about as large for no limit."""


def container_memory(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """What the process' control group may take, or one above it, in bytes; None for no limit.

    A container sees its own group at the root of the file system, whatever its path is called outside.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        here = folder / path.lstrip("/")
        for place in (here, *here.parents):
            try:
                said = (place / name).read_text().strip()
            except OSError:
                said = "max"
            if said.isdigit() and int(said) < _NO_LIMIT_BYTES:
                found.append(int(said))
            if place == folder:
                break
    return min(found, default=None)
