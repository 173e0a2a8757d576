"""What an MCAP file holds beside messages: attachments and metadata records, within limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

MAX_RECORDS = 1000
"""Attachments, and metadata records, of one bag that are kept; the rest is counted."""

MAX_METADATA_BYTES = 256 << 10
"""What the metadata records of one bag that are kept take together."""

MAX_NAME_BYTES = 256 << 10
"""Likewise the names and media types of attachments."""

HELD_BYTES = 1 << 20
"""An attachment that is no larger is held in memory when it is passed; others are read when asked for."""

_ALL_HELD_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class MetadataRecord:
    """A metadata record: its name, and keys with values in the order of the file. See `Attachment`."""

    name: str
    values: tuple[tuple[str, str], ...]
    member: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file within the bag.

    Attributes:
        offset: where its bytes begin in the bag.
        head_crc32: the checksum of what the record says before them, which the recorded one goes on from.
        content: its bytes, where they are held.
        is_readable: whether its bytes can be had: not of a stream that has gone on, unless they are held.
        member: the bag's path in its archive, where it is in one.
        crc32: the checksum as recorded (0 for none), where ``content`` is held.
    """

    name: str
    media_type: str
    log_time_ns: int
    create_time_ns: int
    offset: int
    size_bytes: int
    head_crc32: int
    content: bytes | None = None
    crc32: int = 0
    is_readable: bool = True
    member: str = ""


class Extras:
    """The attachments and metadata records met so far; ``left_out`` is how many more there were."""

    def __init__(self) -> None:
        self.attachments: list[Attachment] = []
        self.metadata: list[MetadataRecord] = []
        self.left_out = 0
        self._metadata_bytes = 0
        self._name_bytes = 0
        self._held_bytes = 0

    def add_metadata(self, record: MetadataRecord) -> None:
        size = len(record.name) + sum(len(key) + len(value) for key, value in record.values)
        if len(self.metadata) >= MAX_RECORDS or self._metadata_bytes + size > MAX_METADATA_BYTES:
            self.left_out += 1
            return
        self._metadata_bytes += size
        self.metadata.append(record)

    def add_attachment(self, attachment: Attachment) -> bool:
        """Whether it is kept."""
        size = len(attachment.name) + len(attachment.media_type)
        if len(self.attachments) >= MAX_RECORDS or self._name_bytes + size > MAX_NAME_BYTES:
            self.left_out += 1
            return False
        self._name_bytes += size
        self.attachments.append(attachment)
        self._held_bytes += len(attachment.content or b"")
        return True

    def may_hold(self, size_bytes: int) -> bool:
        """Whether there is room for an attachment's bytes."""
        return size_bytes <= HELD_BYTES and self._held_bytes + size_bytes <= _ALL_HELD_BYTES


@runtime_checkable
class HasExtras(Protocol):
    """A bag reader whose format has attachments and metadata; complete when its blocks are exhausted."""

    extras: Extras

    def attachment_pieces(self, attachment: Attachment) -> Iterator[bytes]:
        """An attachment's bytes; fewer than its size where the bag ends before."""
        ...

    def attachment_crc32(self, attachment: Attachment) -> int:
        """Its checksum as recorded; 0 for none."""
        ...
