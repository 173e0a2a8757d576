"""What MCAP's conformance suite asks of readers: every kind of content with every set of optional parts.

The suite's own files are not needed: they are all combinations of ten switches of a writer, which is below.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator

import pytest
from mcap.reader import NonSeekingReader

from tests.engine.bag.bag_bytes import MCAP_MAGIC, Message, mcap_record, read, text

pytestmark = pytest.mark.oracle

SWITCHES = {
    "ch": "messages are in a chunk",
    "mx": "message indexes",
    "st": "statistics",
    "rsh": "schemas again in the summary",
    "rch": "channels again in the summary",
    "ax": "attachment index",
    "mdx": "metadata index",
    "chx": "chunk index",
    "sum": "summary offsets",
    "pad": "records end in bytes that this version does not know",
}

MESSAGES = {
    "NoData": [],
    "OneMessage": [(1, 0)],
    "OneSchemalessMessage": [(0, 0)],
    "TenMessages": [(1, number) for number in range(10)],
    "OneAttachment": [],
    "OneMetadata": [],
}
"""By content: schema id and number of each message."""

PADDING = b"\x01\x02\x03"


def write(content: str, on: frozenset[str]) -> tuple[bytes, list[Message]]:
    """The file and its messages. Offsets and counts are true."""

    def record(opcode: int, body: bytes) -> bytes:
        return mcap_record(opcode, body + PADDING if "pad" in on else body)

    messages = [Message("example", number, bytes((1, 2, 3, number))) for _, number in MESSAGES[content]]
    schema_ids = sorted({schema_id for schema_id, _ in MESSAGES[content]})
    schemas = b"".join(
        record(3, struct.pack("<H", each) + text("Example") + text("c") + text(b"\x04\x05\x06"))
        for each in schema_ids
        if each
    )
    channels = b"".join(
        record(4, struct.pack("<HH", 1, each) + text("example") + text("a") + text(text("foo") + text("bar")))
        for each in schema_ids
    )
    body = schemas + channels
    places = []
    for message in messages:
        places.append((message.log_time_ns, len(body)))
        head = struct.pack("<HIQQ", 1, message.log_time_ns, message.log_time_ns, message.log_time_ns)
        body += mcap_record(5, head + message.payload)
    data = MCAP_MAGIC + record(1, text("") + text(""))
    groups: list[tuple[int, bytes]] = []
    if "ch" in on and messages:
        start, times = len(data), (messages[0].log_time_ns, messages[-1].log_time_ns)
        data += record(
            6,
            struct.pack("<QQQI", *times, len(body), zlib.crc32(body))
            + text("")
            + struct.pack("<Q", len(body))
            + body,
        )
        end, offsets = len(data), b""
        if "mx" in on:
            offsets = struct.pack("<HQ", 1, end)
            entries = b"".join(struct.pack("<QQ", *place) for place in places)
            data += record(7, struct.pack("<H", 1) + text(entries))
        if "chx" in on:
            sizes = text("") + struct.pack("<QQ", len(body), len(body))
            index = struct.pack("<QQQQ", *times, start, end - start) + text(offsets)
            groups.append((8, record(8, index + struct.pack("<Q", len(data) - end) + sizes)))
    else:
        data += body
    if content == "OneAttachment":
        start = len(data)
        attachment = struct.pack("<QQ", 2, 1) + text("myFile") + text("application/octet-stream")
        attachment += struct.pack("<Q", 3) + b"\x01\x02\x03"
        data += mcap_record(9, attachment + struct.pack("<I", zlib.crc32(attachment)))
        if "ax" in on:
            index = struct.pack("<QQQQQ", start, len(data) - start, 2, 1, 3)
            groups.append((10, record(10, index + text("myFile") + text("application/octet-stream"))))
    if content == "OneMetadata":
        start = len(data)
        data += record(12, text("myMetadata") + text(text("foo") + text("bar")))
        if "mdx" in on:
            index = struct.pack("<QQ", start, len(data) - start) + text("myMetadata")
            groups.append((13, record(13, index)))
    if "rsh" in on and schemas:
        groups.append((3, schemas))
    if "rch" in on and channels:
        groups.append((4, channels))
    if "st" in on:
        times = (messages[0].log_time_ns, messages[-1].log_time_ns) if messages else (0, 0)
        counts = struct.pack("<HQ", 1, len(messages)) if messages else b""
        numbers = (
            len(messages),
            sum(map(bool, schema_ids)),
            len(schema_ids),
            int(content == "OneAttachment"),
            int(content == "OneMetadata"),
            int("ch" in on and bool(messages)),
        )
        groups.append((11, record(11, struct.pack("<QHIIIIQQ", *numbers, *times) + text(counts))))
    data += record(15, struct.pack("<I", 0))
    start = len(data)
    offsets = b""
    for opcode, group in groups:
        offsets += record(14, struct.pack("<BQQ", opcode, len(data), len(group)))
        data += group
    offset_start = len(data) if "sum" in on and groups else 0
    if offset_start:
        data += offsets
    footer = struct.pack("<BQQQ", 2, 20, start if groups else 0, offset_start)
    crc = zlib.crc32(data[start:] + footer)
    return data + footer + struct.pack("<I", crc) + MCAP_MAGIC, messages


def variants() -> Iterator[frozenset[str]]:
    for size in range(len(SWITCHES) + 1):
        yield from map(frozenset, itertools.combinations(SWITCHES, size))


@pytest.mark.parametrize("content", MESSAGES)
def test_every_variant(content: str) -> None:
    tried = 0
    for on in variants():
        data, messages = write(content, on)
        found = read(data)
        assert found.messages == messages, sorted(on)
        assert found.reasons == [], sorted(on)
        assert found.reader.expected_counts() == (found.reader.counts if "st" in on else None), sorted(on)
        tried += 1
        if {"ch", "pad"} <= on and messages:
            continue  # mcap for Python does not skip what ends the records of a chunk
        theirs = [
            Message(channel.topic, message.log_time, message.data)
            for _, channel, message in NonSeekingReader(io.BytesIO(data)).iter_messages()
        ]
        assert theirs == messages, sorted(on)
    assert tried == 2 ** len(SWITCHES)
