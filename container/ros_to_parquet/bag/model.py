"""What the readers yield: connections and blocks of undecoded messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ros_to_parquet.text import and_more

Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

BagFormat = Literal["rosbag1", "mcap", "sqlite3"]


class BagError(ValueError):
    """A bag of which nothing can be read: wrong magic, unsupported version, encrypted, empty file.

    The message names what is wrong and what to do; the caller adds the bag's URI.
    """


@dataclass(frozen=True, slots=True)
class Connection:
    """One stream of messages of one topic, type and definition, as a bag records it.

    Attributes:
        id: unique within one reader; a connection redefined with other content gets a new one.
        topic: as recorded, with or without its leading slash.
        type_name: as recorded, e.g. ``sensor_msgs/Imu`` or ``sensor_msgs/msg/Imu``.
        definition: text of the message definition with its dependencies, in base64 where it is binary
            (``protobuf``, ``flatbuffer``); empty where the bag has none.
        definition_format: ``ros1msg``, ``ros2msg``, ``ros2idl``, the MCAP schema encoding where it is
            another, or empty where the bag has no definition.
        definition_hash: ROS 1 md5sum or ROS 2 RIHS01 string as recorded; empty where the bag has none.
        encoding: ``ros1`` or ``cdr``; any other message encoding as the bag names it.
        metadata: latching, callerid, QoS and the like, as text.
        member: the bag that it is of, by its path in an archive; empty outside of archives.
    """

    id: int
    topic: str
    type_name: str
    definition: str
    definition_format: str
    definition_hash: str
    encoding: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    member: str = ""


@dataclass(slots=True)
class LogTimes:
    """The first and the last of log times, in nanoseconds since 1970; None where there are none."""

    first_ns: int | None = None
    last_ns: int | None = None

    def add(self, times_ns: npt.NDArray[Any]) -> bool:
        """Whether one of ``times_ns``, of which there is one at least, is the first now."""
        first, last = int(times_ns.min()), int(times_ns.max())
        self.last_ns = last if self.last_ns is None else max(last, self.last_ns)
        is_first = self.first_ns is None or first < self.first_ns
        if is_first:
            self.first_ns = first
        return is_first


@dataclass(frozen=True, slots=True)
class MessageBlock:
    """Consecutive messages of one connection that lie in one buffer (for example: a chunk).

    Attributes:
        data: the buffer, uint8, shape (bytes,), most often shared with other blocks: not to be written to.
        starts: int64, shape (messages,), where each message's payload starts in ``data``.
        lengths: int64, shape (messages,), payload sizes in bytes.
        log_times_ns: int64, shape (messages,), nanoseconds since 1970.
        publish_times_ns: likewise, or None where the format records none.
        sequences: int64, shape (messages,), or None where the format records none.
        offsets: int64, shape (messages,), to find a message again, for people: the byte offset in the
            bag file of the chunk that holds it (of the record itself outside of chunks; the row id in
            SQLite bags).
        oversize: the messages are larger than the reader holds in memory: ``data`` is empty, ``starts`` are 0
            and ``lengths`` at least what they are.
    """

    connection: Connection
    data: UInt8Array
    starts: Int64Array
    lengths: Int64Array
    log_times_ns: Int64Array
    publish_times_ns: Int64Array | None
    sequences: Int64Array | None
    offsets: Int64Array
    oversize: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, start: int, stop: int) -> MessageBlock:
        """Messages ``start`` to ``stop`` of it, in the same buffer."""

        def cut(array: Int64Array | None) -> Int64Array | None:
            return None if array is None else array[start:stop]

        return MessageBlock(
            connection=self.connection,
            data=self.data,
            starts=self.starts[start:stop],
            lengths=self.lengths[start:stop],
            log_times_ns=self.log_times_ns[start:stop],
            publish_times_ns=cut(self.publish_times_ns),
            sequences=cut(self.sequences),
            offsets=self.offsets[start:stop],
            oversize=self.oversize,
        )


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of any connections that lie in one buffer; see `MessageBlock`, without its buffer.

    ``connections``, int64, shape (messages,), are ids: as the bag records them until they are resolved.
    """

    connections: Int64Array
    starts: Int64Array
    lengths: Int64Array
    log_times_ns: Int64Array
    publish_times_ns: Int64Array | None
    sequences: Int64Array | None
    offsets: Int64Array

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self, which: Int64Array | slice) -> Messages:
        """Some of the messages, by index."""
        publish_times_ns, sequences = self.publish_times_ns, self.sequences
        return Messages(
            self.connections[which],
            self.starts[which],
            self.lengths[which],
            self.log_times_ns[which],
            None if publish_times_ns is None else publish_times_ns[which],
            None if sequences is None else sequences[which],
            self.offsets[which],
        )

    def at(self, starts: Int64Array) -> Messages:
        """The messages in a buffer where they start there."""
        return dataclasses.replace(self, starts=starts)

    @classmethod
    def joined(cls, parts: Sequence[Messages]) -> Messages:
        """One after the other; all of one format."""

        def all_of(name: str) -> Int64Array | None:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        return cls(*(all_of(each.name) for each in dataclasses.fields(cls)))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a bag that could not be read.

    Attributes:
        offset: byte offset in the bag file where it begins; -1 where a place cannot be named.
        reason: one sentence, for people.
        ends_bag: nothing after it was read.
    """

    offset: int
    reason: str
    ends_bag: bool


MAX_DAMAGE = 1000
"""Damaged parts of a bag that are kept: of more, the last one."""


def note(found: list[Damage], damage: Damage) -> None:
    """Adds damage to what was found, which has `MAX_DAMAGE` at most."""
    if len(found) >= MAX_DAMAGE:
        last = found.pop()
        damage = dataclasses.replace(damage, ends_bag=damage.ends_bag or last.ends_bag)
    found.append(damage)


class RandomAccess(Protocol):
    """A bag's bytes, wherever they are. ``read_at`` returns fewer bytes than asked at the end only."""

    @property
    def size(self) -> int: ...
    @property
    def name(self) -> str: ...
    def read_at(self, offset: int, length: int) -> bytes: ...
    def local_path(self) -> str:
        """A path of the file on this machine (staged to scratch if it is elsewhere), for SQLite."""
        ...


class BagReader(Protocol):
    """One bag file, or slice k of n of it, or all bags of an archive, read forward once.

    ``damage``, ``counts``, ``bytes_read`` and ``expected_counts`` are complete when ``blocks()`` is
    exhausted; ``blocks()`` may be called once.
    """

    damage: list[Damage]
    counts: dict[int, int]
    """Messages a connection id, wanted or not; to hold against ``expected_counts``. Of chunks that hold
    nothing wanted by the bag's index, and so were not read, as many as the index says."""
    unread_messages: int
    """How many of them are of chunks that were not read."""
    compressions: dict[str, int]
    """Chunks read by their compression as the bag names it (``none``, ``lz4``, ``bz2``, ``zstd``); a SQLite
    bag's messages count as one chunk each where they are compressed singly, else as none."""

    @property
    def format(self) -> str:
        """A `BagFormat`; for an archive what is in it."""
        ...

    @property
    def bytes_read(self) -> int: ...

    def connections(self) -> list[Connection]:
        """Connections seen so far; after ``blocks()`` all of them, those without messages included."""
        ...

    def blocks(self) -> Iterator[MessageBlock]: ...

    def expected_counts(self) -> dict[int, int] | None:
        """Messages a connection id by the bag's own index or summary for what was asked to be read
        (the slice, where it is one); None where the bag has no index to check against."""
        ...


def differing_counts(
    connections: Iterable[Connection], found: Mapping[int, int], expected: Mapping[int, int]
) -> str:
    """The topics of which another number of messages was found than expected, in words; empty for none.

    By connection: a message too many of one does not make up for one too few of another.
    """
    topics = {
        connection.id: f"{connection.member}: {connection.topic}" if connection.member else connection.topic
        for connection in connections
    }
    differing = [
        f"{topics.get(number, 'rows of no known topic')} {expected.get(number, 0)} "
        f"({found.get(number, 0)} found)"
        for number in sorted(expected.keys() | found.keys())
        if expected.get(number, 0) != found.get(number, 0)
    ]
    return and_more(differing)
