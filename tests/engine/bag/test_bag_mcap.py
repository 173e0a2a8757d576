"""MCAP files: tidy ones by rosbags' and mcap's writers, odd ones by hand."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from io import BytesIO

import mcap.reader
import mcap.writer
import numpy as np
import pytest
import zstandard
from bag_bytes import (
    DEFINITION,
    MCAP_MAGIC,
    T0,
    McapFile,
    Memory,
    by_topic,
    mcap_channel,
    mcap_chunk,
    mcap_header,
    mcap_message,
    mcap_record,
    mcap_schema,
    read,
    simple_mcap,
    text,
    u32,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ros_to_parquet.bag import LocalFile, open_bag
from ros_to_parquet.memory import DEFAULT_BUDGET

COMPRESSIONS = ["", "lz4", "zstd", "zstd-stream"]


@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
@pytest.mark.parametrize("with_metadata", [True, False])
def test_rosbag2_files(tmp_path, mode, with_metadata) -> None:
    folder = tmp_path / "bag"
    store = get_typestore(Stores.ROS2_HUMBLE)
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    random = np.random.default_rng(7)
    expected: dict[str, list[tuple[int, bytes]]] = {"/imu": [], "/image": []}
    with writer:
        imu = writer.add_connection("/imu", "sensor_msgs/msg/Imu", typestore=store)
        image = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        for number in range(2000):
            time_ns = T0 + number * 5_000_000
            payload = b"\0\1\0\0" + random.bytes(random.integers(0, 400))
            writer.write(imu, time_ns, payload)
            expected["/imu"].append((time_ns, payload))
            if number % 100 == 0:
                payload = b"\0\1\0\0" + bytes(100_000)
                writer.write(image, time_ns + 1, payload)
                expected["/image"].append((time_ns + 1, payload))
    metadata = (folder / "metadata.yaml").read_text() if with_metadata else None
    with LocalFile(folder / "bag.mcap") as file:
        found = read(file, metadata=metadata)
    assert found.is_as_expected and found.by_topic == expected
    connection = next(each for each in found.reader.connections() if each.topic == "/imu")
    assert (connection.type_name, connection.encoding) == ("sensor_msgs/msg/Imu", "cdr")
    assert connection.definition_format == "ros2msg"
    assert "MSG: geometry_msgs/Quaternion" in connection.definition
    assert "offered_qos_profiles" in connection.metadata
    assert ("zstd" in found.reader.compressions) == (mode != CompressionMode.NONE)


@pytest.mark.parametrize("compression", list(mcap.writer.CompressionType))
@pytest.mark.parametrize("use_chunking", [True, False])
def test_equals_mcap_reader(compression, use_chunking) -> None:
    file = BytesIO()
    writer = mcap.writer.Writer(
        file, chunk_size=5000, compression=compression, use_chunking=use_chunking, enable_data_crcs=True
    )
    writer.start("ros1", "library")
    schema = writer.register_schema("std_msgs/String", "ros1msg", DEFINITION.encode())
    channels = [writer.register_channel(f"/{n}", "ros1", schema, {"n": str(n)}) for n in range(3)]
    random = np.random.default_rng(5)
    for number in range(500):
        writer.add_message(
            channels[number % 7 % 3], T0 + number, random.bytes(number % 90), T0 - number, number * 3
        )
        if number % 200 == 100:
            writer.add_attachment(1, 2, "photo", "image/png", bytes(20_000))
            writer.add_metadata("more", {"a": "b"})
    writer.finish()
    reader = mcap.reader.make_reader(BytesIO(file.getvalue()))
    expected: dict[str, list[tuple[int, int, int, bytes]]] = {}
    for _, channel, message in reader.iter_messages(log_time_order=False):
        row = (message.log_time, message.publish_time, message.sequence, message.data)
        expected.setdefault(channel.topic, []).append(row)
    found: dict[str, list[tuple[int, int, int, bytes]]] = {}
    ours = open_bag(Memory(file.getvalue()))
    for block in ours.blocks():
        assert block.publish_times_ns is not None and block.sequences is not None
        rows = zip(
            block.log_times_ns.tolist(),
            block.publish_times_ns.tolist(),
            block.sequences.tolist(),
            (
                block.data[start : start + length].tobytes()
                for start, length in zip(block.starts, block.lengths, strict=True)
            ),
            strict=True,
        )
        found.setdefault(block.connection.topic, []).extend(rows)
    assert found == expected
    assert ours.expected_counts() == ours.counts and not ours.damage
    connection = ours.connections()[1]
    assert (connection.encoding, connection.definition_format) == ("ros1", "ros1msg")
    assert (connection.definition, connection.metadata) == (DEFINITION, {"n": "1"})


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_compressions(compression: str, chunks: int) -> None:
    data, messages = simple_mcap(compression=compression, chunks=chunks)
    found = read(data)
    assert found.is_as_expected and found.by_topic == by_topic(messages)
    name = compression.removesuffix("-stream") or "none"
    assert found.reader.compressions == ({name: chunks} if chunks else {})


@pytest.mark.parametrize("chunks", [0, 3])
def test_without_summary(chunks: int) -> None:
    data, messages = simple_mcap(chunks=chunks, summary=False)
    found = read(data)
    assert found.by_topic == by_topic(messages)
    assert not found.reader.damage and found.reader.expected_counts() is None
    data, messages = simple_mcap(chunks=chunks, summary=False, closed=False)
    found = read(data)
    assert found.by_topic == by_topic(messages)
    assert found.reasons == ["the file was never closed: it may lack its last messages"]
    assert found.reader.damage[0].ends_bag and found.reader.damage[0].offset == len(data)


def test_chunks_without_message_indexes() -> None:
    file = McapFile()
    head = file.define(mcap_schema(1), mcap_channel(0, 1, "/a"))
    file.chunk(head + mcap_message(0, 0, T0, b"x"), {})
    file.count({0: 1})
    found = read(file.bytes())
    assert found.payloads("/a") == [b"x"]
    assert found.is_as_expected


def test_a_schema_that_each_chunk_has_again_takes_no_more_room() -> None:
    schema = mcap_schema(1, data=DEFINITION + "#" * 2000)
    head = schema + mcap_channel(0, 1, "/a")
    chunks = b"".join(mcap_chunk(head + mcap_message(0, n, T0 + n, b"x")) for n in range(100))
    data = McapFile(MCAP_MAGIC + mcap_header() + chunks).bytes(summary=False)
    found = read(data, budget=replace(DEFAULT_BUDGET, limit=400_000))
    assert found.payloads("/a") == [b"x"] * 100
    assert not found.reader.damage
    (connection,) = found.reader.connections()
    assert connection.definition.startswith(DEFINITION)


def test_a_channel_whose_metadata_come_in_another_order_is_the_same() -> None:
    file = McapFile()
    metadata = {"one": "1", "two": "2"}
    head = file.define(mcap_schema(1), mcap_channel(0, 1, "/a", metadata=metadata))
    again = mcap_channel(0, 1, "/a", metadata=dict(reversed(metadata.items())))
    for number, each in enumerate((head, again)):
        file.chunk(each + mcap_message(0, number, T0 + number, b"x"), {0: 1})
    found = read(file.bytes())
    assert found.is_as_expected and found.payloads("/a") == [b"x"] * 2
    (connection,) = found.reader.connections()
    assert connection.metadata == metadata


def test_summary_without_checksum() -> None:
    data, messages = simple_mcap(crc=False)
    found = read(data)
    assert found.is_as_expected and found.by_topic == by_topic(messages)


def test_offsets_lead_to_the_message() -> None:
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")))
    places = [len(file.data)]
    file.add(mcap_message(0, 1, T0, b"alone"))
    places.append(len(file.data))
    file.chunk(mcap_message(0, 2, T0, b"in a chunk") + mcap_message(0, 3, T0, b"too"), {0: 2})
    offsets = [
        offset for block in open_bag(Memory(file.bytes())).blocks() for offset in block.offsets.tolist()
    ]
    assert offsets == [places[0], places[1], places[1]]


def test_no_messages() -> None:
    found = read(McapFile().bytes())
    assert found.is_as_expected and found.messages == [] and found.reader.connections() == []


def test_schemas_of_all_kinds() -> None:
    file = McapFile()
    head = file.define(
        mcap_schema(1, "pkg/msg/Idl", "ros2idl", "module pkg {};"),
        mcap_schema(2, "foxglove.Thing", "jsonschema", "{}"),
        mcap_channel(10, 1, "/idl", "cdr", {"topic_type_hash": "RIHS01_aa", "offered_qos_profiles": "[]"}),
        mcap_channel(11, 2, "/json", "json"),
        mcap_channel(12, 0, "/none", "raw"),
    )
    file.chunk(head + b"".join(mcap_message(n, 0, T0, b"{}") for n in (10, 11, 12)), {10: 1, 11: 1, 12: 1})
    found = read(file.bytes())
    assert found.is_as_expected and len(found.messages) == 3
    assert [
        (each.topic, each.type_name, each.definition_format, each.encoding, each.definition_hash)
        for each in found.reader.connections()
    ] == [
        ("/idl", "pkg/msg/Idl", "ros2idl", "cdr", "RIHS01_aa"),
        ("/json", "foxglove.Thing", "jsonschema", "json", ""),
        ("/none", "", "", "raw", ""),
    ]


def test_a_header_that_passes_over_messages_is_said() -> None:
    header = bytearray(mcap_header())
    message = mcap_message(0, 0, T0, b"1")
    header[1:9] = (len(header) - 9 + len(message)).to_bytes(8, "little")
    channel = mcap_schema(1, "a/A", "ros2msg", "") + mcap_channel(0, 1, "/a")
    for summary in (b"", mcap_record(15, bytes(4)) + mcap_record(2, bytes(20)) + MCAP_MAGIC):
        found = read(MCAP_MAGIC + bytes(header) + message + channel + summary)
        assert found.messages == []
        (damage, *_) = [each for each in found.reader.damage if "longer than its fields" in each.reason]
        assert damage.offset == len(MCAP_MAGIC)


@pytest.mark.parametrize("more", [b"123", b"later", bytes(8), text("a later version's field, longer")])
def test_fields_of_a_later_version_in_a_header_without_counts(more: bytes) -> None:
    file = McapFile(data=MCAP_MAGIC + mcap_record(1, mcap_header()[9:] + more))
    file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")) + mcap_message(0, 1, T0, b"1"))
    found = read(file.bytes(summary=False))
    assert found.reasons == [] and found.payloads("/a") == [b"1"]


def test_padding_and_unknown_records_are_skipped() -> None:
    unknown = mcap_record(0x7F, b"from the future") + mcap_record(0x99, b"private")
    file = McapFile(data=MCAP_MAGIC + mcap_record(1, mcap_header()[9:] + b"more fields"))
    file.add(unknown)
    schema = mcap_schema(1)
    longer = mcap_record(3, schema[9:] + b"more fields")
    content = file.define(longer, mcap_channel(0, 1, "/a")) + unknown + mcap_message(0, 1, T0, b"1") + unknown
    file.chunk(content, {0: 1}, padding=b"more fields")
    file.add(unknown + mcap_record(9, bytes(1000)) + mcap_record(12, bytes(50)))
    file.chunk(mcap_message(0, 1, T0, b"2"), {0: 1})
    found = read(file.bytes())
    assert found.is_as_expected and found.payloads("/a") == [b"1", b"2"]


def test_wanted_topics_are_yielded_and_all_are_counted() -> None:
    data, messages = simple_mcap()
    found = read(data, wanted=lambda topic: topic == "/b")
    assert found.is_as_expected
    assert found.by_topic == by_topic(message for message in messages if message.topic == "/b")
    assert sum(found.reader.counts.values()) == len(messages)


@pytest.mark.parametrize("summary", [True, False])
def test_a_channel_that_is_defined_anew_is_another(summary: bool) -> None:
    file = McapFile()
    first = file.define(mcap_schema(1), mcap_channel(3, 1, "/a"))
    second = mcap_channel(3, 1, "/b")
    file.chunk(first + mcap_message(3, 1, T0, b"1") + second + mcap_message(3, 2, T0, b"2"), {3: 2})
    file.chunk(mcap_message(3, 3, T0, b"3"), {3: 1})
    file.chunk(first + mcap_message(3, 4, T0, b"4"), {3: 1})
    found = read(file.bytes(summary=summary))
    assert (found.payloads("/a"), found.payloads("/b")) == ([b"1", b"4"], [b"2", b"3"])
    if summary:
        assert found.is_as_expected


def test_messages_compressed_one_by_one() -> None:
    frame = zstandard.compress
    mebibyte = b"\0\1\0\0" + bytes(1 << 20)
    no_frame = b"\x28\xb5\x2f\xfdno frame"
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0\1\0\0unsized")
    payloads = [frame(b"\0\1\0\0a"), b"\0\1\0\0plain", unsized, no_frame, frame(b""), *[frame(mebibyte)] * 40]
    file = McapFile()
    head = file.define(mcap_schema(1), mcap_channel(0, 1, "/a"), mcap_channel(1, 1, "/json", "json"))
    content = head + b"".join(mcap_message(0, 0, T0, payload) for payload in payloads)
    file.chunk(content + mcap_message(1, 0, T0, payloads[0]), {0: len(payloads), 1: 1})
    found = read(file.bytes())
    assert found.is_as_expected
    plain = [b"\0\1\0\0a", b"\0\1\0\0plain", b"\0\1\0\0unsized", no_frame, b"", *[mebibyte] * 40]
    assert found.payloads("/a") == plain
    assert found.payloads("/json") == [payloads[0]]
    assert found.reader.compressions == {"none": 1, "zstd": 44}
    blocks = [block for block in open_bag(Memory(file.bytes())).blocks() if block.connection.topic == "/a"]
    assert len(blocks) == 3 and max(len(block.data) for block in blocks) <= DEFAULT_BUDGET.block


# --- damage -----------------------------------------------------------------------------------------


def three_chunks(second: bytes, **options: bool) -> tuple[bytes, int]:
    """A file whose second chunk is given as a record, and that one's offset."""
    file = McapFile()
    head = file.define(mcap_schema(1), mcap_channel(0, 1, "/a"))
    file.chunk(head + mcap_message(0, 1, T0, b"first"), {0: 1})
    place = len(file.data)
    file.add(second)
    file.chunk(mcap_message(0, 4, T0, b"last"), {0: 1})
    return file.bytes(**options), place


PAIR = mcap_message(0, 2, T0, b"second") + mcap_message(0, 3, T0, b"third")
FIRST, WHOLE = len(mcap_message(0, 2, T0, b"second")), len(PAIR)
BOTH = [b"second", b"third"]
SIZE_PLACE = 9 + 16


def resized(record: bytes, size: int) -> bytes:
    return record[:SIZE_PLACE] + struct.pack("<Q", size) + record[SIZE_PLACE + 8 :]


BROKEN_CHUNKS = [
    (mcap_chunk(PAIR, crc=77), BOTH, r"a chunk \(compression: none\) is damaged: its checksum is wrong"),
    (mcap_chunk(PAIR, "zstd").replace(b"\x28\xb5", b"\x28\xb6"), [], rf"zstd\) is damaged: {WHOLE} bytes"),
    (mcap_chunk(PAIR, "lz4").replace(b"lz4", b"xyz"), [], r"compression 'xyz' is not supported"),
    (resized(mcap_chunk(PAIR, "lz4"), 2**64 - 1), BOTH, r"18,446,744,073,709,551,615 bytes recorded"),
    (resized(mcap_chunk(PAIR, "zstd"), 2**33), BOTH, rf"8,589,934,592 bytes recorded, {WHOLE} found"),
    (mcap_chunk(PAIR[:-3]), [b"second"], rf"records break off after {FIRST} of {WHOLE - 3} bytes"),
    (mcap_chunk(PAIR + b"junk"), BOTH, rf"records break off after {WHOLE} of {WHOLE + 4} bytes"),
    (mcap_chunk(mcap_record(5, b"short") + PAIR), BOTH, r"1 message records are too short for their header"),
    (mcap_chunk(mcap_message(9, 0, T0, b"?") + PAIR), BOTH, r"1 messages of connection 9, which the bag"),
    (mcap_chunk(mcap_record(4, b"\1\0\1\0\xff\0\0\0") + PAIR), BOTH, r"a channel record cannot be read"),
    (mcap_chunk(mcap_record(3, b"\1") + PAIR), BOTH, r"a schema record cannot be read"),
    (mcap_record(6, bytes(20)), [], r"a chunk's header cannot be read"),
]


@pytest.mark.parametrize("summary", [True, False])
@pytest.mark.parametrize(("second", "kept", "reason"), BROKEN_CHUNKS)
def test_a_broken_chunk_costs_no_more_than_itself(second, kept, reason, summary) -> None:
    data, place = three_chunks(second, summary=summary)
    found = read(data)
    assert found.payloads("/a") == [b"first", *kept, b"last"]
    (damage,) = found.reader.damage
    assert damage.offset == place and not damage.ends_bag
    assert re.search(reason, damage.reason), damage.reason


@pytest.mark.parametrize(
    "junk", [bytes(40), b"\xff" * 40, struct.pack("<BQ", 5, 2**40), struct.pack("<BQ", 9, 2**63)]
)
def test_after_a_broken_record_the_summary_says_where_to_go_on(junk: bytes) -> None:
    data, place = three_chunks(junk)
    found = read(data)
    assert found.payloads("/a") == [b"first", b"last"]
    assert [(damage.offset, damage.ends_bag) for damage in found.reader.damage] == [(place, False)]
    found = read(three_chunks(junk, summary=False)[0])
    assert found.payloads("/a") == [b"first"]
    assert [(damage.offset, damage.ends_bag) for damage in found.reader.damage] == [(place, True)]


@pytest.mark.parametrize("claim", [10_000, 2**33, 2**63 - 1, 2**64 - 1])
def test_a_chunk_that_claims_more_than_there_is(claim: int) -> None:
    chunk = mcap_chunk(PAIR)
    data, place = three_chunks(chunk[:1] + struct.pack("<Q", claim) + chunk[9:])
    found = read(data)
    assert found.payloads("/a") == [b"first", b"second", b"third", b"last"]
    (damage,) = found.reader.damage
    assert damage.reason.startswith("cut off inside a chunk: ")
    assert (damage.offset, damage.ends_bag) == (place, False)


def test_a_summary_that_cannot_be_used() -> None:
    data, messages = simple_mcap()
    plain, _ = simple_mcap(crc=False)
    footer = len(data) - 37
    start = int.from_bytes(data[footer + 9 : footer + 17], "little")

    def patched(data: bytes, place: int, value: bytes) -> bytes:
        return data[:place] + value + data[place + len(value) :]

    for broken, reason in [
        (patched(data, start + 15, b"?"), "its checksum is wrong"),
        (patched(data, footer, b"\x09"), "the footer is not where it should be"),
        (patched(data, footer + 9, struct.pack("<Q", len(data))), "it should begin at byte"),
        (patched(plain, footer + 9, struct.pack("<Q", start + 1)), "its records do not lead to its end"),
        (patched(plain, footer + 9, struct.pack("<Q", 8)), "it holds records that belong elsewhere"),
    ]:
        found = read(broken)
        assert found.by_topic == by_topic(messages), reason
        said = "the summary cannot be used, the file is read without it: "
        assert found.reasons[0].startswith(said + reason)
        assert found.reader.expected_counts() is None


@pytest.mark.parametrize("closing", [b"", b"\x02" + struct.pack("<Q", 20)])
def test_messages_where_the_footer_should_be_are_there(closing: bytes) -> None:
    """A file that ends in the magic, as one of which a part was cut out, and has no footer before it."""
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")))
    for number in range(3):
        file.add(mcap_message(0, number, T0 + number, b"m%d" % number))
    found = read(file.data + closing + b"\x89MCAP0\r\n")
    assert found.payloads("/a") == [b"m0", b"m1", b"m2"]
    assert "the footer is not where it should be" in found.reasons[0]


def test_cut_off_in_the_summary_all_messages_are_there() -> None:
    data, messages = simple_mcap()
    start = int.from_bytes(data[-28:-20], "little")
    cut = data[: start + len(mcap_schema(1))]
    found = read(cut)
    assert found.by_topic == by_topic(messages)
    assert found.reasons == ["the file was cut off in its summary, after the last message"]


def test_statistics_that_lie_are_held_against_what_is_there() -> None:
    file = McapFile()
    file.chunk(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")) + mcap_message(0, 1, T0, b"1"), {0: 1})
    file.count({0: 4, 9: 2})
    found = read(file.bytes())
    assert found.reader.counts == {0: 1}
    assert found.reader.expected_counts() == {0: 5, -1: 2}


def test_fields_longer_than_their_record() -> None:
    file = McapFile()
    file.add(mcap_record(3, b"\1\0" + u32(2**32 - 1) + b"x"))
    file.add(mcap_record(4, b"\1\0\1\0" + u32(3) + b"/ab" + u32(9)))
    found = read(file.bytes())
    assert len(found.reader.damage) == 2 and not found.messages
