"""A look into a bag: its topics by its index, and its first minute decoded; a bounded part of it is read.

Of a bag with an index (ROS 1, MCAP) that is the index and the slice that the first bytes are; of one that is
packed, its beginning. A database cannot be read in parts: a larger one is left.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ros_to_parquet.bag import open_bag
from ros_to_parquet.bag.archive import SQLITE_MAGIC
from ros_to_parquet.bag.chunked import ChunkedReader
from ros_to_parquet.bag.model import BagReader, Connection, MessageBlock, RandomAccess
from ros_to_parquet.bag.source import READ_BYTES
from ros_to_parquet.beside import find_beside, open_beside
from ros_to_parquet.contract import topic_matches
from ros_to_parquet.decode import Decoder
from ros_to_parquet.decoders import Decoders, prepare
from ros_to_parquet.definitions import DefinitionError, TypeSource
from ros_to_parquet.memory import share_out
from ros_to_parquet.records import RecordDecoder
from ros_to_parquet.storage import normalize, open_storage
from ros_to_parquet.text import print_table, say

DEFAULT_SECONDS = 60.0
DEFAULT_MAX_BYTES = 64 << 20

LEAST_MAX_BYTES = 2 * READ_BYTES
"""Bags are read in steps of half of it."""

_BUDGET = share_out(256 << 20)

_NO_INDEX = "it has no index at its end, as one that was cut off: nothing says what else is in it"

MAX_SAID = 20
"""Of damage, a sentence each; more is counted."""


@dataclass(frozen=True, slots=True)
class TopicSample:
    """A topic as far as it was looked at.

    Attributes:
        messages: in the whole bag, by its index; None where it has none.
        sampled: messages that were decoded; ``rejected`` of them that could not be.
        problem: why its messages can become no rows, or the first of them cannot.
        remark: what a reader of its table should know.
    """

    topic: str
    type_name: str
    encoding: str
    messages: int | None
    sampled: int = 0
    sampled_bytes: int = 0
    rejected: int = 0
    unknown: bool = False
    problem: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class BagSample:
    """What a look into a bag has shown.

    Attributes:
        messages: in the whole bag, by its index; None where it has none.
        seconds: of log time that the messages read are of.
        bytes_read: of ``size_bytes``.
        whole: whether all of it was read.
        note: what was not looked at, and why.
    """

    uri: str
    format: str
    size_bytes: int
    bytes_read: int
    messages: int | None
    seconds: float
    first_log_time_ns: int | None
    whole: bool
    topics: tuple[TopicSample, ...]
    damage: tuple[str, ...]
    damage_count: int
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def print(self) -> None:
        """Prints it for people."""
        say(self.uri)
        known = "no index" if self.messages is None else f"{self.messages:,} messages by its index"
        say(f"  format       {self.format}, {self.size_bytes:,} bytes, {known}")
        say(f"  looked at    {self.seconds:,.1f} s, {self.bytes_read:,} bytes")
        print_table(
            ("  topic", "type", "messages", "sampled", "rejected"),
            [
                (
                    f"  {topic.topic}",
                    topic.type_name,
                    "" if topic.messages is None else f"{topic.messages:,}",
                    f"{topic.sampled:,}",
                    f"{topic.rejected:,}",
                )
                for topic in self.topics
            ],
        )
        said = [f"{topic.topic}: {topic.problem}" for topic in self.topics if topic.problem]
        for line in (*said, *self.damage, *([self.note] if self.note else [])):
            say(f"  ! {line}")


class _EnoughError(Exception):
    """As much was read as may be."""


class _Limited:
    """A source of which a bounded part is read."""

    def __init__(self, source: RandomAccess, most: int) -> None:
        self._source = source
        self.left = most

    @property
    def size(self) -> int:
        return self._source.size

    @property
    def name(self) -> str:
        return self._source.name

    def read_at(self, offset: int, length: int) -> bytes:
        wanted = min(length, self.size - offset)
        if wanted > self.left:
            raise _EnoughError
        data = self._source.read_at(offset, length)
        self.left -= len(data)
        return data

    def local_path(self) -> str:
        if self.size > self.left:
            raise _EnoughError
        self.left -= self.size
        return self._source.local_path()


def read_sample(
    location: str,
    types: TypeSource,
    *,
    include: tuple[str, ...] = ("*",),
    exclude: tuple[str, ...] = (),
    seconds: float = DEFAULT_SECONDS,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> BagSample:
    """Looks into the bag at ``location`` (path or URI).

    At most twice ``max_bytes``, or twice `LEAST_MAX_BYTES`, are read: for the index, and for messages of the
    wanted topics (shell globs).

    Raises:
        BagError: nothing of it can be read.
        StorageError: it is not there, or access is denied.
    """

    def wanted(topic: str) -> bool:
        return topic_matches(topic, include) and not topic_matches(topic, exclude)

    max_bytes = max(max_bytes, LEAST_MAX_BYTES)
    uri = normalize(location)
    storage = open_storage(uri)
    info = storage.head(uri)
    with ExitStack() as stack:
        source = stack.enter_context(closing(storage.open(info)))
        is_database = info.size_bytes > max_bytes and source.read_at(0, len(SQLITE_MAGIC)) == SQLITE_MAGIC
        if is_database:
            note = f"a database of more than {max_bytes:,} bytes: it can be read as a whole only, and was not"
            return BagSample(uri, "sqlite3", info.size_bytes, 0, None, 0.0, None, False, (), (), 0, note)
        index = _read_index(_Limited(source, max_bytes)) if info.size_bytes > max_bytes else {}
        limited = _Limited(source, max_bytes)
        count = -(-info.size_bytes // max_bytes) or 1
        beside = open_beside(stack, storage, uri, find_beside(storage, uri))
        look = _Look(types, wanted, int(seconds * 1e9))
        reader: BagReader | None = None
        try:
            reader = open_bag(
                limited, wanted=wanted, slice_index=0, slice_count=count, beside=beside, budget=_BUDGET
            )
            look.read(reader)
        except _EnoughError:
            look.whole = False
    bytes_read = max_bytes - limited.left
    if reader is None:
        note = f"its first {max_bytes:,} bytes are not enough to open it"
        return BagSample(uri, "", info.size_bytes, bytes_read, None, 0.0, None, False, (), (), 0, note)
    whole = look.whole and count == 1
    # What else has counts of its own has them of what was read.
    tells = whole or isinstance(reader, ChunkedReader)
    expected = index or (_by_topic(reader.connections(), reader.expected_counts() or {}) if tells else {})
    for connection in reader.connections():
        if wanted(connection.topic):
            look.see(connection)
    known = {**dict.fromkeys(look.topics), **dict.fromkeys(key for key in expected if wanted(key[0]))}
    topics = [
        dataclasses.replace(
            look.topics.get(key, TopicSample(*key, None)),
            messages=expected.get(key, 0) if expected else None,
        )
        for key in sorted(known)
    ]
    damage = [each.reason for each in reader.damage]
    return BagSample(
        uri=uri,
        format=reader.format,
        size_bytes=info.size_bytes,
        bytes_read=bytes_read,
        messages=sum(expected.values()) if expected else None,
        seconds=round(look.span_ns / 1e9, 3),
        first_log_time_ns=look.first_ns,
        whole=whole,
        topics=tuple(topics),
        damage=tuple(damage[:MAX_SAID]),
        damage_count=len(damage),
        note=_NO_INDEX if isinstance(reader, ChunkedReader) and not (expected or whole) else "",
    )


_Key = tuple[str, str, str]
"""Topic, type and encoding."""


def _key(connection: Connection) -> _Key:
    return connection.topic, connection.type_name, connection.encoding


def _by_topic(connections: list[Connection], counts: dict[int, int]) -> dict[_Key, int]:
    found: dict[_Key, int] = {}
    for connection in connections:
        if connection.id in counts:
            found[_key(connection)] = found.get(_key(connection), 0) + counts[connection.id]
    return found


def _read_index(source: _Limited) -> dict[_Key, int]:
    """Messages of the whole bag, as far as its index can be read; empty where it cannot."""
    try:
        reader = open_bag(source, wanted=lambda _: False)
        if not isinstance(reader, ChunkedReader) or reader.expected_counts() is None:
            return {}
        for _ in reader.blocks():
            pass
        return _by_topic(reader.connections(), reader.expected_counts() or {})
    except _EnoughError:
        return {}


class _Look:
    """What the first messages of a bag show."""

    def __init__(self, types: TypeSource, wanted: Any, most_ns: int) -> None:
        self._types = types
        self._wanted = wanted
        self._most_ns = most_ns
        self._decoders = Decoders()
        self._made: dict[int, Decoder | RecordDecoder | None] = {}
        self.topics: dict[_Key, TopicSample] = {}
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.whole = True

    @property
    def span_ns(self) -> int:
        return 0 if self.first_ns is None or self.last_ns is None else self.last_ns - self.first_ns

    def read(self, reader: BagReader) -> None:
        """Decodes blocks until their messages span the time that was asked for."""
        for block in reader.blocks():
            if not len(block):
                continue
            low, high = int(block.log_times_ns.min()), int(block.log_times_ns.max())
            self.first_ns = low if self.first_ns is None else min(self.first_ns, low)
            self.last_ns = high if self.last_ns is None else max(self.last_ns, high)
            self._take(block)
            if self.span_ns >= self._most_ns:
                self.whole = False
                return

    def see(self, connection: Connection) -> None:
        """Takes note of a connection of which no message was met."""
        if connection.id not in self._made:
            self._made[connection.id] = self._decoder(_no_messages(connection))

    def _take(self, block: MessageBlock) -> None:
        connection = block.connection
        if connection.id not in self._made:
            self._made[connection.id] = self._decoder(block)
        decoder, key = self._made[connection.id], _key(connection)
        known = self.topics[key]
        count, size = len(block), int(block.lengths.sum())
        rejected, problem = (count, known.problem) if decoder is None else (0, known.problem)
        if decoder is not None and not block.oversize:
            decoder.feed(block)
            refused = decoder.take().rejected
            rejected = len(refused)
            problem = problem or next((str(reason) for _, reason in refused), "")
        self.topics[key] = dataclasses.replace(
            known,
            sampled=known.sampled + count,
            sampled_bytes=known.sampled_bytes + size,
            rejected=known.rejected + rejected,
            problem=problem,
        )

    def _decoder(self, block: MessageBlock) -> Decoder | RecordDecoder | None:
        key = _key(block.connection)
        known = self.topics.setdefault(key, TopicSample(*key, None))
        try:
            made = prepare(block, self._types, self._decoders)
        except DefinitionError as error:
            self.topics[key] = dataclasses.replace(known, unknown=True, problem=known.problem or str(error))
            return None
        self.topics[key] = dataclasses.replace(known, remark=known.remark or made.remark)
        return made.decoder


def _no_messages(connection: Connection) -> MessageBlock:
    none = np.zeros(0, np.int64)
    return MessageBlock(connection, np.zeros(0, np.uint8), none, none, none, None, None, none)
