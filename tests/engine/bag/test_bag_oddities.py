"""What recorders and tools do to bags, for both chunked formats, whole and in slices."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from bag_bytes import (
    T0,
    McapFile,
    Message,
    Ros1Bag,
    by_topic,
    mcap_channel,
    mcap_chunk,
    mcap_message,
    mcap_record,
    mcap_schema,
    read,
    ros1_message,
    ros1_record,
    simple_mcap,
    simple_ros1,
    text,
)


def in_slices(data: bytes, count: int, **options: Any) -> list[Message]:
    """All messages of all slices; each as its index says, and whole."""
    messages: list[Message] = []
    for index in range(count):
        part = read(data, slice_index=index, slice_count=count, **options)
        assert part.is_as_expected
        messages += part.messages
    return messages


def with_reversed_index(data: bytes, start: int, end: int, split: Callable[[bytes], list[bytes]]) -> bytes:
    return data[:start] + b"".join(reversed(split(data[start:end]))) + data[end:]


def ros1_with_unsorted_index() -> tuple[bytes, list[Message]]:
    data, messages = simple_ros1(chunks=6)
    infos = [place - 8 for place in range(len(data)) if data.startswith(b"op=\x06", place)]
    size = infos[1] - infos[0]
    assert infos == list(range(infos[0], infos[0] + 6 * size, size))
    return with_reversed_index(
        data,
        infos[0],
        infos[0] + 6 * size,
        lambda index: [index[place : place + size] for place in range(0, len(index), size)],
    ), messages


def mcap_with_unsorted_index() -> tuple[bytes, list[Message]]:
    data, messages = simple_mcap(chunks=6, crc=False)
    index_head = mcap_record(8, bytes(0))[:1]
    footer = len(data) - 37
    summary = int.from_bytes(data[footer + 9 : footer + 17], "little")
    place, found = summary, []
    while place < footer:
        size = 9 + int.from_bytes(data[place + 1 : place + 9], "little")
        if data[place : place + 1] == index_head:
            found.append((place, place + size))
        place += size
    assert len(found) == 6
    return with_reversed_index(
        data,
        found[0][0],
        found[-1][1],
        lambda index: [index[start - found[0][0] : end - found[0][0]] for start, end in found],
    ), messages


@pytest.mark.parametrize("make", [ros1_with_unsorted_index, mcap_with_unsorted_index])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_an_index_whose_chunks_are_not_in_order(make: Callable[[], Any], count: int) -> None:
    data, messages = make()
    assert by_topic(in_slices(data, count)) == by_topic(messages)
    only_a = in_slices(data, count, wanted=lambda topic: topic == "/a")
    assert by_topic(only_a) == {"/a": by_topic(messages)["/a"]}


def ros1_chunks(*chunks: Sequence[bytes], counts: Sequence[dict[int, int]], **connections: str) -> bytes:
    bag = Ros1Bag()
    for number, topic in enumerate(connections.values()):
        bag.connection(number, topic)
    for records, of_chunk in zip(chunks, counts, strict=True):
        bag.chunk(records, of_chunk)
    return bag.bytes()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_chunks_whose_times_are_not_in_order(count: int) -> None:
    times = [5, 3, 9, 1]
    ros1 = ros1_chunks(
        *([ros1_message(0, T0 + time, b"%d" % time)] for time in times), counts=[{0: 1}] * 4, a="/a"
    )
    file = McapFile()
    file.define(mcap_schema(1), mcap_channel(0, 1, "/a"))
    for time in times:
        file.chunk(mcap_message(0, 0, T0 + time, b"%d" % time), {0: 1})
    for data in (ros1, file.bytes()):
        assert [message.payload for message in in_slices(data, count)] == [b"5", b"3", b"9", b"1"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_messages_before_their_definition(count: int) -> None:
    """In an earlier chunk even: the index has it."""
    bag = Ros1Bag()
    definition = bag.connection(0, "/a")
    bag.chunk([ros1_message(0, T0, b"1")], {0: 1})
    bag.chunk([ros1_message(0, T0, b"2"), definition, ros1_message(0, T0, b"3")], {0: 2})
    file = McapFile()
    defined = file.define(mcap_schema(1), mcap_channel(0, 1, "/a"))
    file.chunk(mcap_message(0, 0, T0, b"1"), {0: 1})
    file.chunk(mcap_message(0, 0, T0, b"2") + defined + mcap_message(0, 0, T0, b"3"), {0: 2})
    for data in (bag.bytes(), file.bytes()):
        found = in_slices(data, count)
        assert [(message.topic, message.payload) for message in found] == [
            ("/a", b"1"),
            ("/a", b"2"),
            ("/a", b"3"),
        ]


@pytest.mark.parametrize("count", range(1, 8))
def test_definitions_that_change_between_chunks_in_slices(count: int) -> None:
    """Every chunk says what it means: slices are the whole, topic by topic."""
    bag = Ros1Bag()
    file = McapFile()
    for number in range(6):
        topic = "/b" if number in (2, 3) else "/a"
        first = bag.connection(0, topic)
        bag.chunk([first, ros1_message(0, T0, b"%d" % number)], {0: 1})
        schema, channel = mcap_schema(1), mcap_channel(0, 1, topic)
        if number == 0:
            file.define(schema, channel)
        file.chunk(schema + channel + mcap_message(0, 0, T0, b"%d" % number), {0: 1})
    for data in (bag.bytes(), file.bytes()):
        rows: list[Message] = []
        for index in range(count):
            rows += read(data, slice_index=index, slice_count=count).messages
        assert {topic: [payload for _, payload in of] for topic, of in by_topic(rows).items()} == {
            "/a": [b"0", b"1", b"4", b"5"],
            "/b": [b"2", b"3"],
        }


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_index_with_two_definitions_of_a_connection_cannot_be_followed(count: int) -> None:
    """The first slice reads all, so that what a chunk defines holds in the next one, too."""
    bag = Ros1Bag()
    first, second = bag.connection(0, "/a"), Ros1Bag().connection(0, "/b")
    bag.chunk([first, ros1_message(0, T0, b"1")], {0: 1})
    bag.chunk([second, ros1_message(0, T0, b"2")], {0: 1})
    bag.chunk([ros1_message(0, T0, b"3")], {0: 1})
    bag.connections[1] = second
    parts = [read(bag.bytes(), slice_index=index, slice_count=count) for index in range(count)]
    assert [len(part.messages) for part in parts] == [3] + [0] * (count - 1)
    assert "connection 0 is defined in two ways" in parts[0].reasons[0]
    assert {topic: len(rows) for topic, rows in parts[0].by_topic.items()} == {"/a": 1, "/b": 2}


@pytest.mark.parametrize("count", [1, 3])
def test_empty_definitions(count: int) -> None:
    bag = Ros1Bag()
    bag.chunk([bag.connection(0, "/a", "std_msgs/Empty", ""), ros1_message(0, T0, b"")], {0: 1})
    file = McapFile()
    defined = file.define(mcap_schema(1, "std_msgs/msg/Empty", data=""), mcap_channel(0, 1, "/a"))
    file.chunk(defined + mcap_message(0, 0, T0, b""), {0: 1})
    for data, kind in ((bag.bytes(), "ros1msg"), (file.bytes(), "ros2msg")):
        assert [message.payload for message in in_slices(data, count)] == [b""]
        (connection,) = read(data).reader.connections()
        assert (connection.definition, connection.definition_format) == ("", kind)


@pytest.mark.parametrize("count", [1, 2])
def test_chunks_without_anything(count: int) -> None:
    bag = Ros1Bag()
    head = bag.connection(0, "/a")
    file = McapFile()
    file.define(mcap_schema(1), mcap_channel(0, 1, "/a"))
    for records, counts in ((b"", {}), (b"x", {0: 1}), (b"", {})):
        bag.chunk([head, ros1_message(0, T0, b"x")] if records else [], counts)
        file.chunk(mcap_message(0, 0, T0, b"x") if records else b"", counts)
    file.add(mcap_chunk(b""))
    for data in (bag.bytes(), file.bytes()):
        assert [message.payload for message in in_slices(data, count)] == [b"x"]
        assert in_slices(data, count, wanted=lambda _: False) == []


@pytest.mark.parametrize("compression", ["", "lz4", "zstd", "bz2"])
def test_compressed_chunks_that_store_nothing_at_all(compression: str) -> None:
    """Not even an empty stream."""
    head = {"op": b"\x05", "compression": compression.encode() or b"none", "size": bytes(4)}
    bag = Ros1Bag()
    bag.connection(0, "/a")
    bag.add(ros1_record(head))
    bag.chunk([ros1_message(0, T0, b"x")], {0: 1})
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/a")))
    file.add(mcap_record(6, struct.pack("<QQQI", T0, T0, 0, 0) + text(compression) + bytes(8)))
    file.add(mcap_message(0, 0, T0, b"x"))
    file.count({0: 1})
    for data in (bag.bytes(), file.bytes()):
        found = read(data)
        assert found.is_as_expected
        assert found.payloads("/a") == [b"x"]
