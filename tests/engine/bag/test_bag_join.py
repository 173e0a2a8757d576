"""Small blocks become large ones, and nothing else changes."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field

import pytest

from ros_to_parquet.bag import MessageBlock, join, open_bag
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget
from tests.engine.bag.bag_bytes import (
    T0,
    McapFile,
    Memory,
    Ros1Bag,
    mcap_channel,
    mcap_message,
    mcap_schema,
    ros1_message,
)

TOPICS = 30
CHUNKS = 12


@dataclass
class Made:
    """A bag; by topic and type of connection (log time, payload, offset) of its messages in their order."""

    data: bytes = b""
    messages: dict[tuple[str, str], list[tuple[int, bytes, int]]] = field(default_factory=dict)

    def add(self, topic: str, type_name: str, *message: int | bytes) -> None:
        self.messages.setdefault((topic, type_name), []).append(message)  # type: ignore[arg-type]


def payload_of(conn: int, rng: random.Random) -> bytes:
    """Most are small, some are empty; two topics are large now and then, and one always is."""
    if conn == 2 or (conn in (0, 1) and rng.random() < 0.2):
        return rng.randbytes(rng.randint(2_000, 6_000))
    return rng.randbytes(rng.choice((0, 3, 40, 300)))


def make_ros1(compression: str) -> Made:
    """Connection 5 means another type from the middle of chunk 6 on."""
    rng = random.Random(1)
    bag, made = Ros1Bag(), Made()
    for chunk in range(CHUNKS):
        position = bag.position
        records = [] if chunk else [bag.connection(conn, f"/t{conn}") for conn in range(TOPICS)]
        counts: dict[int, int] = {}
        for number in range(rng.randint(1, 120)):
            if chunk == 6 and number == 20:
                records.append(bag.connection(5, "/t5", "std_msgs/Other"))
            conn = rng.choice((0, 1, 2, 5, rng.randrange(TOPICS)))
            other = conn == 5 and (chunk, number) >= (6, 20)
            message = (T0 + chunk * 1000 + number, payload_of(conn, rng))
            records.append(ros1_message(conn, *message))
            made.add(f"/t{conn}", "std_msgs/Other" if other else "std_msgs/String", *message, position)
            counts[conn] = counts.get(conn, 0) + 1
        bag.chunk(records, counts, compression)
    made.data = bag.bytes()
    return made


def make_mcap(compression: str) -> Made:
    rng = random.Random(2)
    file, made = McapFile(), Made()
    channels = [mcap_channel(conn, 1, f"/t{conn}") for conn in range(TOPICS)]
    head = file.define(mcap_schema(1), *channels)
    for chunk in range(CHUNKS):
        content = b"" if chunk else head
        position = len(file.data)
        counts: dict[int, int] = {}
        for number in range(rng.randint(1, 120)):
            conn = rng.choice((0, 1, 2, rng.randrange(TOPICS)))
            time_ns, payload = T0 + chunk * 1000 + number, payload_of(conn, rng)
            content += mcap_message(conn, chunk * 1000 + number, time_ns, payload)
            made.add(f"/t{conn}", "std_msgs/msg/String", time_ns, payload, position)
            counts[conn] = counts.get(conn, 0) + 1
        file.chunk(content, counts, compression)
    made.data = file.bytes()
    return made


BAGS = {
    "rosbag1": make_ros1("none"),
    "rosbag1 lz4": make_ros1("lz4"),
    "mcap": make_mcap(""),
    "mcap zstd": make_mcap("zstd"),
}


def budget(joined_bytes: int, window_bytes: int = DEFAULT_BUDGET.window) -> MemoryBudget:
    """Chunks of half a window's bytes are read together."""
    return dataclasses.replace(DEFAULT_BUDGET, joined=joined_bytes, window=window_bytes)


def found_in(blocks: list[MessageBlock]) -> dict[tuple[str, str], list[tuple[int, bytes, int]]]:
    found = Made()
    for block in blocks:
        rows = zip(*(each.tolist() for each in (block.starts, block.lengths, block.offsets)), strict=True)
        for time_ns, (start, length, offset) in zip(block.log_times_ns.tolist(), rows, strict=True):
            payload = block.data[start : start + length].tobytes()
            found.add(block.connection.topic, block.connection.type_name, time_ns, payload, offset)
        if block.sequences is not None and block.publish_times_ns is not None:
            assert (block.log_times_ns == T0 + block.sequences).all()
            assert (block.publish_times_ns == block.log_times_ns - 5).all()
    return found.messages


@pytest.mark.parametrize("window_bytes", [2, 60_000, DEFAULT_BUDGET.window])
@pytest.mark.parametrize("joined_bytes", [1, 5_000, 1 << 20])
@pytest.mark.parametrize("small_bytes", [0, 1_000, 1 << 20])
@pytest.mark.parametrize("name", BAGS)
def test_every_message_is_there_in_order(
    name: str, small_bytes: int, joined_bytes: int, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "SMALL_BYTES", small_bytes)
    made = BAGS[name]
    reader = open_bag(Memory(made.data), budget=budget(joined_bytes, window_bytes))
    assert found_in(list(reader.blocks())) == made.messages
    assert not reader.damage and reader.expected_counts() == reader.counts


@pytest.mark.parametrize("name", BAGS)
def test_of_unwanted_topics_nothing_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "SMALL_BYTES", 1_000)
    made = BAGS[name]
    wanted = ("/t1", "/t2", "/t5")
    found = found_in(list(open_bag(Memory(made.data), wanted=wanted.__contains__).blocks()))
    assert found == {key: messages for key, messages in made.messages.items() if key[0] in wanted}


def test_a_topic_with_little_in_each_chunk_comes_in_one_block() -> None:
    bag = Ros1Bag()
    image = bytes(join.SMALL_BYTES)
    for chunk in range(20):
        head = [bag.connection(conn, f"/t{conn}") for conn in range(3)] if not chunk else []
        texts = [ros1_message(conn, T0 + chunk, b"%d" % chunk) for conn in (1, 2)]
        bag.chunk([*head, ros1_message(0, T0 + chunk, image), *texts], {0: 1, 1: 1, 2: 1}, "lz4")
    alone = budget(DEFAULT_BUDGET.joined, 2 * join.SMALL_BYTES)
    blocks = list(open_bag(Memory(bag.bytes()), budget=alone).blocks())
    assert sorted(len(block) for block in blocks) == [1] * 20 + [20, 20]
    assert sum(block.data.nbytes for block in blocks if len(block) == 20) < 2 * 1_000


def test_messages_of_no_bytes_do_not_wait_for_ever() -> None:
    bag = Ros1Bag()
    for chunk in range(20):
        head = [bag.connection(0, "/empty")] if not chunk else []
        bag.chunk([*head, *[ros1_message(0, T0, b"")] * 50], {0: 50})
    sizes = [len(block) for block in open_bag(Memory(bag.bytes()), budget=budget(10_000, 4_096)).blocks()]
    assert sum(sizes) == 1_000 and max(sizes) <= 200


@pytest.mark.parametrize("window_bytes", [64, DEFAULT_BUDGET.window])
def test_what_is_said_does_not_depend_on_what_is_read_together(window_bytes: int) -> None:
    """Connection 5 is defined in the second chunk alone; in two others messages lack their connection."""
    bag, nameless = Ros1Bag(), ros1_message(1, T0, b"").replace(b"conn=", b"cann=")
    bag.chunk([bag.connection(1, "/one"), ros1_message(1, T0, b"1"), ros1_message(5, T0, b"early")], {})
    bag.chunk([ros1_message(5, T0, b"before"), bag.connection(5, "/five"), ros1_message(5, T0, b"after")], {})
    places = []
    for number in range(3):
        places.append(bag.position)
        bag.chunk([ros1_message(1, T0, b"2"), *[nameless] * number], {})
    reader = open_bag(Memory(bag.bytes(indexed=False)), budget=budget(1, window_bytes))
    found = found_in(list(reader.blocks()))
    payloads = {topic: [payload for _, payload, _ in found[topic, kind]] for topic, kind in found}
    assert payloads == {"/one": [b"1", b"2", b"2", b"2"], "/five": [b"before", b"after"]}
    assert [(each.offset, each.reason) for each in reader.damage if "do not say" in each.reason] == [
        (place, f"{count} messages do not say of which connection or time")
        for count, place in enumerate(places)
        if count
    ]
    assert [each.reason for each in reader.damage if "defines" in each.reason] == [
        "1 messages of connection 5, which the bag never defines"
    ]
