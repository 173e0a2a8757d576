"""ROS 1 bags: tidy ones by rosbags' writer, odd ones by hand."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from bag_bytes import (
    DEFINITION,
    MD5,
    T0,
    Memory,
    Ros1Bag,
    by_topic,
    read,
    ros1_chunk,
    ros1_connection,
    ros1_index,
    ros1_message,
    ros1_record,
    simple_ros1,
    u32,
)
from rosbags.rosbag1 import Reader, Writer
from rosbags.typesys import Stores, get_typestore

from ros_to_parquet.bag import LocalFile, MessageBlock, open_bag
from ros_to_parquet.bag.blocks import MAX_BLOCK_MESSAGES
from ros_to_parquet.memory import DEFAULT_BUDGET, share_out

COMPRESSIONS = ["none", "bz2", "lz4", "roslz4"]


@pytest.mark.parametrize("compression", [None, Writer.CompressionFormat.BZ2, Writer.CompressionFormat.LZ4])
def test_equals_rosbags_reader(tmp_path, compression) -> None:
    path = tmp_path / "written.bag"
    store = get_typestore(Stores.ROS1_NOETIC)
    writer = Writer(path)
    if compression:
        writer.set_compression(compression)
    random = np.random.default_rng(7)
    with writer:
        imu = writer.add_connection(
            "/imu", "sensor_msgs/msg/Imu", typestore=store, callerid="/driver", latching=1
        )
        image = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        for number in range(2000):
            writer.write(imu, T0 + number * 5_000_000, random.bytes(random.integers(0, 400)))
            if number % 100 == 0:
                writer.write(image, T0 + number * 5_000_001, random.bytes(100_000))
    with LocalFile(path) as file:
        found = read(file)
    assert found.is_as_expected
    assert found.reader.bytes_read == path.stat().st_size
    assert set(found.reader.compressions) == {compression.name.lower() if compression else "none"}
    with Reader(path) as reader:
        expected: dict[str, list[tuple[int, bytes]]] = {}
        for connection, time_ns, data in reader.messages():
            expected.setdefault(connection.topic, []).append((time_ns, bytes(data)))
        definitions = {connection.topic: connection.msgdef.data for connection in reader.connections}
    assert found.by_topic == expected
    by_name = {connection.topic: connection for connection in found.reader.connections()}
    assert {topic: connection.definition for topic, connection in by_name.items()} == definitions
    assert by_name["/imu"].metadata == {"callerid": "/driver", "latching": "1"}
    assert by_name["/imu"].definition_hash == "6a62c6daae103f4ff57a132d6f95cec2"
    assert (by_name["/imu"].type_name, by_name["/imu"].definition_format) == ("sensor_msgs/Imu", "ros1msg")
    assert by_name["/imu"].encoding == "ros1"


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("indexed", [True, False])
def test_compressions(compression: str, indexed: bool) -> None:
    data, messages = simple_ros1(compression=compression, indexed=indexed)
    found = read(data)
    assert found.by_topic == by_topic(messages)
    assert found.reader.compressions == {compression.removeprefix("ros"): 3}
    if indexed:
        assert found.is_as_expected
    else:
        assert found.reader.expected_counts() is None
        assert [(damage.offset, damage.ends_bag) for damage in found.reader.damage] == [(len(data), True)]
        assert found.reasons == ["the bag was never closed: it may lack its last messages"]


def test_blocks_are_as_documented() -> None:
    bag = Ros1Bag()
    head = bag.connection(5, "/a")
    payloads = [b"x" * n for n in (0, 3, 1)]
    start = bag.position
    bag.chunk([head, *(ros1_message(5, T0 + n, payload) for n, payload in enumerate(payloads))], {5: 3})
    (block,) = read_blocks(bag.bytes())
    assert block.lengths.tolist() == [0, 3, 1]
    assert block.log_times_ns.tolist() == [T0, T0 + 1, T0 + 2]
    assert block.offsets.tolist() == [start] * 3
    assert block.publish_times_ns is None and block.sequences is None
    assert (block.connection.definition, block.connection.definition_hash) == (DEFINITION, MD5)


def read_blocks(data: bytes) -> list[MessageBlock]:
    return list(open_bag(Memory(data), budget=share_out(4 << 30)).blocks())  # no chunk here is large for it


def test_blocks_are_bounded() -> None:
    bag = Ros1Bag()
    many = MAX_BLOCK_MESSAGES * 2 + 1
    small = ros1_message(0, T0, b"")
    large = ros1_message(1, T0, bytes(DEFAULT_BUDGET.block // 2 - 1))
    huge = ros1_message(1, T0, bytes(DEFAULT_BUDGET.block + 1))
    definitions = [bag.connection(0, "/small"), bag.connection(1, "/large")]
    bag.chunk([*definitions, *[small] * many, large, large, large, huge, large], {0: many, 1: 5})
    sizes = [(block.connection.topic, len(block)) for block in read_blocks(bag.bytes())]
    assert sizes == [
        ("/small", MAX_BLOCK_MESSAGES),
        ("/small", MAX_BLOCK_MESSAGES),
        ("/small", 1),
        ("/large", 2),
        ("/large", 1),
        ("/large", 1),
        ("/large", 1),
    ]


def test_no_messages() -> None:
    found = read(Ros1Bag().bytes())
    assert found.is_as_expected and found.messages == [] and found.reader.connections() == []
    bag = Ros1Bag()
    bag.connection(0, "/silent")
    found = read(bag.bytes())
    assert found.is_as_expected and [connection.topic for connection in found.reader.connections()] == [
        "/silent"
    ]


@pytest.mark.parametrize("order", [("conn", "op", "time"), ("time", "conn", "op"), ("op", "time", "conn")])
def test_any_order_of_header_fields(order) -> None:
    bag = Ros1Bag()
    records = [
        bag.connection(0, "/a"),
        ros1_message(0, T0, b"usual"),
        ros1_message(0, T0 + 1, b"odd", order=order),
    ]
    bag.chunk([*records, *records[1:]], {0: 4})
    found = read(bag.bytes())
    assert found.is_as_expected and found.payloads("/a") == [b"usual", b"odd", b"usual", b"odd"]


def test_more_layouts_of_headers_than_are_expected() -> None:
    bag = Ros1Bag()
    records = [bag.connection(0, "/a")]
    for number in range(40):
        header = {f"x{number:02}": b"1", "op": b"\x02", "conn": u32(0), "time": u32(number) + u32(1)}
        records.append(ros1_record(header, b"%d" % number))
    bag.chunk(records, {0: 40})
    found = read(bag.bytes())
    assert found.is_as_expected
    assert found.by_topic["/a"] == [(number * 10**9 + 1, b"%d" % number) for number in range(40)]


def test_message_before_its_connection_and_connection_in_the_index_alone() -> None:
    bag = Ros1Bag()
    late = bag.connection(0, "/late")
    bag.connection(1, "/index_only")
    bag.chunk(
        [ros1_message(0, T0, b"0"), ros1_message(1, T0, b"1"), late, ros1_message(0, T0, b"2")], {0: 2, 1: 1}
    )
    found = read(bag.bytes())
    assert found.is_as_expected
    assert (found.payloads("/late"), found.payloads("/index_only")) == ([b"0", b"2"], [b"1"])
    found = read(bag.bytes(indexed=False))
    assert found.payloads("/late") == [b"0", b"2"]
    assert found.reasons[0] == "1 messages of connection 1, which the bag never defines"


def test_two_connections_on_a_topic_stay_two() -> None:
    bag = Ros1Bag()
    records = [bag.connection(0, "/a", callerid=b"/one"), bag.connection(1, "/a", callerid=b"/two")]
    bag.chunk([*records, ros1_message(1, T0, b"1"), ros1_message(0, T0, b"0")], {0: 1, 1: 1})
    found = read(bag.bytes())
    assert found.is_as_expected
    assert [connection.metadata["callerid"] for connection in found.reader.connections()] == ["/one", "/two"]
    assert len(found.messages) == 2


@pytest.mark.parametrize("indexed", [True, False])
def test_a_connection_that_is_defined_anew_is_another(indexed: bool) -> None:
    bag = Ros1Bag()
    first, second = bag.connection(3, "/a"), ros1_connection(3, "/a", "other_msgs/Thing", "int8 x\n")
    bag.chunk([first, ros1_message(3, T0, b"1"), second, ros1_message(3, T0, b"2")], {3: 2})
    bag.chunk([ros1_message(3, T0, b"3")], {3: 1})
    bag.chunk([first, ros1_message(3, T0, b"4")], {3: 1})
    found = read(bag.bytes(indexed=indexed))
    assert [(each.topic, each.type_name) for each in found.reader.connections()] == [
        ("/a", "std_msgs/String"),
        ("/a", "other_msgs/Thing"),
    ]
    assert found.reader.counts == {0: 2, 1: 2}
    assert found.reader.expected_counts() == ({0: 2, 1: 2} if indexed else None)


def test_large_connection_ids() -> None:
    bag = Ros1Bag()
    ids = [0, 65_535, 65_536, 2**32 - 1]
    bag.chunk(
        [bag.connection(conn, f"/{conn}") for conn in ids]
        + [ros1_message(conn, T0, b"%d" % conn) for conn in ids],
        dict.fromkeys(ids, 1),
    )
    found = read(bag.bytes())
    assert found.is_as_expected
    assert found.by_topic == {f"/{conn}": [(T0, b"%d" % conn)] for conn in ids}


def test_wanted_topics_are_yielded_and_all_are_counted() -> None:
    data, messages = simple_ros1()
    found = read(data, wanted=lambda topic: topic == "b")
    assert found.is_as_expected
    assert found.by_topic == by_topic(message for message in messages if message.topic == "b")
    topics = {connection.id: connection.topic for connection in found.reader.connections()}
    counts = {topics[connection_id]: count for connection_id, count in found.reader.counts.items()}
    assert counts == Counter(message.topic for message in messages)


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_small_topic_does_not_keep_whole_chunks_in_memory(compression: str) -> None:
    bag = Ros1Bag()
    definitions = [bag.connection(0, "/small"), bag.connection(1, "/large")]
    records = [ros1_message(0, T0 + n, b"%d" % n) for n in range(3)]
    bag.chunk([*definitions, *records, ros1_message(1, T0, bytes(1_000_000))], {0: 3, 1: 1}, compression)
    large, small = open_bag(Memory(bag.bytes())).blocks()
    assert large.lengths.tolist() == [1_000_000]
    assert not np.shares_memory(small.data, large.data)
    (alone,) = open_bag(Memory(bag.bytes()), wanted=lambda topic: topic == "/small").blocks()
    assert alone.data.tobytes() == b"012"
    assert (alone.starts.tolist(), alone.lengths.tolist()) == ([0, 1, 2], [1, 1, 1])
    assert alone.log_times_ns.tolist() == small.log_times_ns.tolist()


@pytest.mark.parametrize("gap", [1, 3, 4, 7, 8, 13, 16, 1000])
def test_gap_of_zeros_before_the_index(gap: int) -> None:
    data, messages = simple_ros1(gap=gap)
    found = read(data)
    assert found.is_as_expected and found.by_topic == by_topic(messages)


@pytest.mark.parametrize("gap", [4, 5, 8, 100])
@pytest.mark.parametrize("indexed", [True, False])
def test_zeros_between_chunks_and_at_the_end(gap: int, indexed: bool) -> None:
    bag = Ros1Bag()
    bag.chunk([bag.connection(0, "/a"), ros1_message(0, T0, b"1")], {0: 1})
    bag.add(bytes(gap))
    bag.chunk([ros1_message(0, T0, b"2")], {0: 1})
    bag.add(bytes(gap))
    found = read(bag.bytes(indexed=indexed))
    assert found.payloads("/a") == [b"1", b"2"]
    assert len(found.reader.damage) == (0 if indexed else 1)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("factor", [8, 16, 20, 100_000])
def test_index_records_that_lie_about_their_length(indexed: bool, factor: int) -> None:
    bag = Ros1Bag()
    for chunk in range(3):
        records = [bag.connection(0, "/a")] if chunk == 0 else []
        bag.chunk([*records, *(ros1_message(0, T0 + n, b"%d%d" % (chunk, n)) for n in range(3))], {0: 3})
        bag.add(ros1_index(0, [(T0, 7)] * 3, said_bytes=3 * factor))
    found = read(bag.bytes(indexed=indexed))
    assert found.payloads("/a") == [b"%d%d" % (chunk, n) for chunk in range(3) for n in range(3)]
    assert len(found.reader.damage) == (0 if indexed else 1)


def test_an_index_record_with_a_wrong_count() -> None:
    bag = Ros1Bag()
    bag.chunk([bag.connection(0, "/a"), ros1_message(0, T0, b"1")], {0: 1})
    entry = ros1_index(0, [(T0, 7)])
    bag.add(entry.replace(b"count=" + u32(1), b"count=" + u32(9)))
    bag.chunk([ros1_message(0, T0, b"2")], {0: 1})
    found = read(bag.bytes())
    assert found.is_as_expected and found.payloads("/a") == [b"1", b"2"]


def test_messages_outside_of_chunks() -> None:
    bag = Ros1Bag()
    bag.add(bag.connection(0, "/a"))
    place = bag.position
    bag.add(ros1_message(0, T0, b"1"))
    places = [place, bag.position]
    bag.add(ros1_message(0, T0 + 1, b"2"))
    places.append(bag.position)
    bag.chunk([ros1_message(0, T0 + 2, b"3")], {0: 1})
    places.append(bag.position)
    bag.add(ros1_message(0, T0 + 3, b"4"))
    data = bag.bytes()
    found = read(data)
    assert found.payloads("/a") == [b"1", b"2", b"3", b"4"]
    (block,) = read_blocks(data)
    assert block.offsets.tolist() == places


def test_records_of_unknown_kind_are_skipped() -> None:
    bag = Ros1Bag()
    odd = ros1_record({"op": b"\x63"}, b"whatever")
    bag.add(odd)
    bag.chunk([bag.connection(0, "/a"), odd, ros1_message(0, T0, b"1"), odd], {0: 1})
    bag.add(odd)
    found = read(bag.bytes())
    assert found.is_as_expected and found.payloads("/a") == [b"1"]


# --- damage -----------------------------------------------------------------------------------------


def three_chunks(second: bytes, *, indexed: bool = True) -> tuple[bytes, int]:
    """A bag whose second chunk is given as a record, and that one's offset."""
    bag = Ros1Bag()
    bag.chunk([bag.connection(0, "/a"), ros1_message(0, T0, b"first")], {0: 1})
    place = bag.position
    bag.chunks[place] = {0: 2}
    bag.add(second)
    bag.chunk([ros1_message(0, T0, b"last")], {0: 1})
    return bag.bytes(indexed=indexed), place


PAIR = ros1_message(0, T0, b"second") + ros1_message(0, T0, b"third")
WHOLE, FIRST = len(PAIR), len(ros1_message(0, T0, b"second"))


BOTH, SECOND, THIRD = [b"second", b"third"], [b"second"], [b"third"]

BROKEN_CHUNKS = [
    (
        ros1_chunk(PAIR, "bz2").replace(b"BZh9", b"BZx9"),
        [],
        rf"bz2\) is damaged: {WHOLE} bytes recorded",
    ),
    (ros1_chunk(PAIR, "lz4", compression=b"snappy"), [], r"compression 'snappy' is not supported"),
    (ros1_chunk(PAIR, "lz4", size=u32(7)), BOTH, rf"7 bytes recorded, {WHOLE} found"),
    (ros1_chunk(PAIR, "lz4", size=u32(2**32 - 1)), BOTH, r"4,294,967,295 bytes recorded"),
    (ros1_chunk(PAIR, "none", size=u32(999)), BOTH, rf"999 bytes recorded, {WHOLE} found"),
    (ros1_chunk(PAIR[:-3]), SECOND, rf"records break off after {FIRST} of {WHOLE - 3} bytes"),
    (ros1_chunk(PAIR + b"junk"), BOTH, rf"records break off after {WHOLE} of {WHOLE + 4} bytes"),
    (ros1_chunk(PAIR.replace(b"op=", b"xx=", 1)), THIRD, r"1 of its records have unreadable headers"),
    (ros1_chunk(PAIR.replace(b"conn=", b"co==n", 1)), THIRD, r"1 messages do not say of which connection"),
    (ros1_chunk(ros1_message(9, T0, b"?") + PAIR), BOTH, r"1 messages of connection 9, which the bag never"),
    (
        ros1_chunk(ros1_record({"op": b"\x07", "conn": u32(1)}, b"\xff" * 9) + PAIR),
        BOTH,
        r"a connection record cannot be read",
    ),
]


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(("second", "kept", "reason"), BROKEN_CHUNKS)
def test_a_broken_chunk_costs_no_more_than_itself(second, kept, reason, indexed) -> None:
    data, place = three_chunks(second, indexed=indexed)
    found = read(data)
    assert found.payloads("/a") == [b"first", *kept, b"last"]
    assert len(found.reader.damage) == (1 if indexed else 2)
    damage = found.reader.damage[0]
    assert damage.offset == place and not damage.ends_bag
    assert re.search(reason, found.reasons[0]), found.reasons


def test_what_decompresses_of_a_broken_chunk_is_kept() -> None:
    random = np.random.default_rng(3)
    payloads = [random.bytes(30_000) for _ in range(40)]
    content = b"".join(ros1_message(0, T0, payload) for payload in payloads)
    for compression in ("lz4", "bz2"):
        record = bytearray(ros1_chunk(content, compression))
        middle = len(record) * 9 // 10
        record[middle : middle + 1000] = bytes(1000)
        data, _ = three_chunks(bytes(record))
        found = read(data).payloads("/a")
        assert (found[0], found[-1]) == (b"first", b"last")
        assert len(found) >= 20 and found[1:20] == payloads[:19]


@pytest.mark.parametrize(
    "junk", [b"\x07junk", b"\xff" * 40, u32(12) + b"\x08\0\0\0op=x", u32(5) + b"op=\x05" * 9]
)
def test_after_a_broken_record_the_index_says_where_to_go_on(junk: bytes) -> None:
    data, place = three_chunks(junk)
    found = read(data)
    assert found.payloads("/a") == [b"first", b"last"]
    assert [(damage.offset, damage.ends_bag) for damage in found.reader.damage] == [(place, False)]
    found = read(three_chunks(junk, indexed=False)[0])
    assert found.payloads("/a") == [b"first"]
    assert [(damage.offset, damage.ends_bag) for damage in found.reader.damage] == [(place, True)]


@pytest.mark.parametrize("claim", [100_000, 1_000_000_000, 4_000_000_000])
def test_a_chunk_that_claims_more_than_there_is(claim: int) -> None:
    data, place = three_chunks(ros1_chunk(PAIR)[: -len(PAIR) - 4] + u32(claim) + PAIR)
    found = read(data)
    assert found.payloads("/a") == [b"first", b"second", b"third", b"last"]
    (damage,) = found.reader.damage
    assert damage.reason.startswith("cut off inside a chunk: ") and f"of {claim:,}"[:-2] in damage.reason
    assert (damage.offset, damage.ends_bag) == (place, False)


def test_an_index_that_cannot_be_used() -> None:
    data, messages = simple_ros1()
    far = data[:13] + data[13:].replace(data[data.index(b"index_pos=") :][:18], b"index_pos=" + b"\x09" * 8)
    for broken, reason in [
        (data.replace(b"chunk_pos=", b"chunk_pox="), "a chunk info record cannot be read"),
        (simple_ros1(chunk_count=7)[0], "7 chunks are recorded, 3 are in the index"),
        (far, "it should begin at byte 651,061,555,542,690,057"),
        (data[:-1], "its records do not lead to its end: it is cut off or broken"),
        (data[: data.rindex(b"op=\x06") - 8], "3 chunks are recorded, 2 are in the index"),
    ]:
        found = read(broken)
        assert found.by_topic == by_topic(messages)
        assert found.reasons[0].startswith("the index cannot be used, the bag is read without it: " + reason)
        assert found.reader.expected_counts() is None


def test_a_bag_header_that_cannot_be_read() -> None:
    data, messages = simple_ros1()
    found = read(data.replace(b"op=\x03", b"oq=\x03"))
    assert found.by_topic == by_topic(messages)
    assert found.reasons[0] == "the bag's header is damaged, the bag is read without its index"


def test_zeroed_out_bag() -> None:
    data, _ = simple_ros1(indexed=False)
    found = read(data[:4117] + bytes(len(data) - 4117))
    assert found.messages == [] and found.reader.damage[0].ends_bag
