"""What bags hold beside messages, kept: attachments as files of the lake, metadata in the manifest."""

from __future__ import annotations

import posixpath
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from ros_to_parquet import contract, termination
from ros_to_parquet.bag.extras import Attachment, HasExtras
from ros_to_parquet.bag.model import BagReader
from ros_to_parquet.storage import Storage, join

MAX_COPIED_BYTES = 1 << 30
"""A larger attachment stays in the bag; the manifest says where."""


@dataclass(frozen=True, slots=True)
class KeptExtras:
    """What of a bag slice goes into its `contract.BagResult`."""

    attachments: tuple[contract.Attachment, ...] = ()
    metadata: tuple[contract.BagMetadata, ...] = ()
    left_out: int = 0


def keep_extras(
    reader: BagReader,
    storage: Storage,
    output: str,
    folder: str,
    *,
    reading: Callable[[], AbstractContextManager[None]],
    copied: Callable[[str], None],
) -> KeptExtras:
    """Copies the attachments of a reader whose blocks are exhausted to ``{output}/{folder}``.

    A copy has its name from its place in the bag; it is nothing until a manifest names it. ``reading`` is
    entered to read the bag, and ``copied`` told the URI of each copy before it is there.
    """
    if not isinstance(reader, HasExtras):
        return KeptExtras()
    extras = reader.extras
    kept = []
    for number, attachment in enumerate(extras.attachments):
        path, crc_ok = "", None
        if attachment.is_readable and attachment.size_bytes <= MAX_COPIED_BYTES:
            path = f"{folder}-{number:04d}-{_file_name(attachment.name)}"
            copied(join(output, path))
            crc_ok = _copy(reader, attachment, storage, join(output, path), reading)
        kept.append(
            contract.Attachment(
                name=attachment.name,
                media_type=attachment.media_type,
                log_time_ns=attachment.log_time_ns,
                create_time_ns=attachment.create_time_ns,
                offset=attachment.offset,
                size_bytes=attachment.size_bytes,
                crc_ok=crc_ok,
                path=path,
                member=attachment.member,
            )
        )
    return KeptExtras(
        attachments=tuple(kept),
        metadata=tuple(
            contract.BagMetadata(record.name, record.values, record.member) for record in extras.metadata
        ),
        left_out=extras.left_out,
    )


def _file_name(name: str) -> str:
    """The last part of a name, in characters that any store takes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", posixpath.basename(name.replace("\\", "/")))[-100:] or "_"


def _copy(
    reader: HasExtras,
    attachment: Attachment,
    storage: Storage,
    uri: str,
    reading: Callable[[], AbstractContextManager[None]],
) -> bool | None:
    """Whether what was copied is what the bag's checksum says; None where it has none."""

    def pieces() -> Iterator[bytes]:
        with reading():
            yield from reader.attachment_pieces(attachment)

    crc32 = attachment.head_crc32
    with ExitStack() as unless_published:
        with termination.deferred():
            upload = storage.upload(uri)
            unless_published.callback(upload.abort)
        for piece in pieces():
            crc32 = zlib.crc32(piece, crc32)
            upload.write(piece)
        with termination.deferred():
            upload.publish()
            unless_published.pop_all()
    with reading():
        recorded = reader.attachment_crc32(attachment)
    return None if recorded == 0 else recorded == crc32
