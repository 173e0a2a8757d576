"""What is in a bag: topics, types, counts, times, compression. Read whole, so that every figure is exact."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ros_to_parquet.bag import open_bag
from ros_to_parquet.bag.archive import ArchiveReader
from ros_to_parquet.bag.extras import Extras, HasExtras, MetadataRecord
from ros_to_parquet.beside import find_beside, open_beside
from ros_to_parquet.progress import Progress
from ros_to_parquet.storage import normalize, open_storage
from ros_to_parquet.text import print_table, say


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One connection: a topic, its type, encoding, and how many messages of how many bytes.

    ``bag`` is the bag that it is of, by its path in an archive; empty outside of archives.
    """

    bag: str
    topic: str
    type_name: str
    encoding: str
    definition: str
    messages: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AttachmentInfo:
    """A file within the bag."""

    name: str
    media_type: str
    log_time_ns: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BagInfo:
    """A bag's contents. Times are log times; None where there are no messages."""

    uri: str
    format: str
    size_bytes: int
    compressions: dict[str, int]
    messages: int
    indexed_messages: int | None
    first_log_time_ns: int | None
    last_log_time_ns: int | None
    topics: tuple[TopicInfo, ...]
    damage: tuple[str, ...]
    remark: str = ""
    attachments: tuple[AttachmentInfo, ...] = ()
    metadata: tuple[MetadataRecord, ...] = ()
    extras_left_out: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def print(self) -> None:
        """Prints it for people."""
        how = ", ".join(f"{name} ({count} chunks)" for name, count in sorted(self.compressions.items()))
        say(f"{self.uri}")
        say(f"  format       {self.format}, {self.size_bytes:,} bytes, compression: {how or 'no chunks'}")
        index = (
            "no index to check against"
            if self.indexed_messages is None
            else f"index says {self.indexed_messages:,}"
        )
        say(f"  messages     {self.messages:,} ({index})")
        if self.first_log_time_ns is not None and self.last_log_time_ns is not None:
            first, last = self.first_log_time_ns, self.last_log_time_ns
            say(f"  log time     {_time(first)} to {_time(last)} ({(last - first) / 1e9:,.1f} s)")
        named = ("  bag",) if any(topic.bag for topic in self.topics) else ()
        print_table(
            (*named, "topic" if named else "  topic", "type", "encoding", "definition", "messages", "bytes"),
            [
                (
                    *((f"  {topic.bag}", topic.topic) if named else (f"  {topic.topic}",)),
                    topic.type_name,
                    topic.encoding,
                    topic.definition or "none",
                    f"{topic.messages:,}",
                    f"{topic.size_bytes:,}",
                )
                for topic in self.topics
            ],
        )
        for attachment in self.attachments:
            kind = f", {attachment.media_type}" if attachment.media_type else ""
            say(f"  attachment   {attachment.name} ({attachment.size_bytes:,} bytes{kind})")
        for record in self.metadata:
            say(f"  metadata     {record.name}: {_shown(record)}")
        if self.extras_left_out:
            say(f"  and {self.extras_left_out:,} more attachments and metadata records")
        for problem in (*self.damage, *([self.remark] if self.remark else [])):
            say(f"  ! {problem}")


def _shown(record: MetadataRecord) -> str:
    """Keys and values in one line; long values cut."""
    short = ((key, value if len(value) <= 60 else f"{value[:60]}...") for key, value in record.values)
    return ", ".join(f"{key}={value!r}" for key, value in short)


def _time(nanoseconds: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=nanoseconds // 1000)).isoformat()


def read_info(location: str) -> BagInfo:
    """Reads the bag at ``location`` (path or URI), and shows its progress.

    Raises:
        BagError: nothing of it can be read.
        StorageError: it is not there, or access is denied.
    """
    uri = normalize(location)
    storage = open_storage(uri)
    info = storage.head(uri)
    sizes: Counter[int] = Counter()
    first: int | None = None
    last: int | None = None
    with ExitStack() as stack:
        source = stack.enter_context(closing(storage.open(info)))
        progress = stack.enter_context(Progress(info.size_bytes))
        reader = open_bag(source, beside=open_beside(stack, storage, uri, find_beside(storage, uri)))
        for block in reader.blocks():
            sizes[block.connection.id] += int(block.lengths.sum())
            low, high = int(block.log_times_ns.min()), int(block.log_times_ns.max())
            first = low if first is None else min(low, first)
            last = high if last is None else max(high, last)
            progress.show(reader.bytes_read)
    expected = reader.expected_counts()
    extras = reader.extras if isinstance(reader, HasExtras) else Extras()
    return BagInfo(
        uri=uri,
        format=reader.format,
        size_bytes=info.size_bytes,
        compressions=reader.compressions,
        messages=sum(reader.counts.values()),
        indexed_messages=None if expected is None else sum(expected.values()),
        first_log_time_ns=first,
        last_log_time_ns=last,
        topics=tuple(
            TopicInfo(
                bag=connection.member,
                topic=connection.topic,
                type_name=connection.type_name,
                encoding=connection.encoding,
                definition=connection.definition_format,
                messages=reader.counts.get(connection.id, 0),
                size_bytes=sizes[connection.id],
            )
            for connection in sorted(
                reader.connections(), key=lambda each: (each.member, each.topic, each.id)
            )
        ),
        damage=tuple(
            f"at offset {each.offset}: {each.reason}" if each.offset >= 0 else each.reason
            for each in reader.damage
        ),
        remark=reader.remark if isinstance(reader, ArchiveReader) else "",
        attachments=tuple(
            AttachmentInfo(each.name, each.media_type, each.log_time_ns, each.offset, each.size_bytes)
            for each in extras.attachments
        ),
        metadata=tuple(extras.metadata),
        extras_left_out=extras.left_out,
    )
