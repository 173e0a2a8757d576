"""Few topics wanted: what holds none of them by the index is not read, and nothing wanted is missed."""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bag_bytes import (
    T0,
    McapFile,
    Memory,
    Message,
    Read,
    Ros1Bag,
    by_topic,
    mcap_channel,
    mcap_message,
    mcap_schema,
    read,
    ros1_index,
    ros1_message,
    simple_ros1,
)
from test_bag_real import BAGS, found_in, names
from test_bag_sweeps import CHUNKED

from ros_to_parquet.bag import chunked, index, source
from ros_to_parquet.storage import S3Storage, s3

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws


def only(topic: str) -> Callable[[str], bool]:
    return lambda each: each == topic


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if chunks were a thousand times as large."""
    monkeypatch.setattr(source, "READ_BYTES", 2000)
    monkeypatch.setattr(source, "HEAD_BYTES", 0)
    monkeypatch.setattr(source, "TAIL_BYTES", 0)
    monkeypatch.setattr(chunked, "GAP_BYTES", 0)


def as_wanted(found: Read, whole: Read, wanted: Callable[[str], bool]) -> None:
    """Of the wanted topics all is there, and counts are those of the whole."""
    assert found.by_topic == {topic: rows for topic, rows in whole.by_topic.items() if wanted(topic)}
    assert found.reader.counts == whole.reader.counts
    assert found.reader.expected_counts() == whole.reader.expected_counts()
    assert found.reasons == whole.reasons


# --- chosen by the index ----------------------------------------------------------------------------


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("name", names(".bag", ".mcap"))
def test_every_topic_of_real_bags_alone(name: str) -> None:
    whole = found_in(name)
    for topic in {connection.topic for connection in whole.reader.connections()}:
        as_wanted(found_in(name, wanted=only(topic)), whole, only(topic))
    nothing = found_in(name, wanted=lambda _: False)
    as_wanted(nothing, whole, lambda _: False)
    if nothing.reader.unread_messages and (BAGS / name).stat().st_size > source.READ_BYTES:
        assert nothing.reader.unread_messages == sum(whole.reader.counts.values())
        assert nothing.reader.bytes_read < whole.reader.bytes_read


def test_real_bags_are_left_out_by_the_index() -> None:
    with_index = [name for name in names(".bag", ".mcap") if found_in(name).reader.expected_counts()]
    unread = [found_in(name, wanted=lambda _: False).reader.unread_messages for name in with_index]
    assert sum(map(bool, unread)) >= len(with_index) - 4


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("slice_count", [1, 2, 3, 7])
def test_slices_of_wanted_topics_are_the_whole(name: str, slice_count: int) -> None:
    data, messages = CHUNKED[name]()
    for topic in ("/a", "/b", "b", "/none"):
        counts: Counter[int] = Counter()
        rows: list[Message] = []
        for number in range(slice_count):
            part = read(data, wanted=only(topic), slice_index=number, slice_count=slice_count)
            whole = read(data, slice_index=number, slice_count=slice_count)
            assert part.reasons == whole.reasons
            if "mixed" not in name:
                assert part.reader.counts == whole.reader.counts
            counts.update(part.reader.counts)
            rows += part.messages
        assert by_topic(rows) == {key: of for key, of in by_topic(messages).items() if key == topic}


def rare_ros1(chunks: int = 12, payload: int = 3000, compression: str = "none") -> bytes:
    """``/rare`` is in the third and in the eighth chunk alone; all chunks have their index records."""
    bag = Ros1Bag()
    definitions = [bag.connection(0, "/often"), bag.connection(1, "/rare")]
    for chunk in range(chunks):
        records = definitions if chunk == 0 else []
        conns = [0, 1] if chunk in (2, 7) else [0, 0]
        records = records + [ros1_message(conn, T0 + chunk, bytes([chunk]) * payload) for conn in conns]
        counts = dict(Counter(conns))
        bag.chunk(records, counts, compression)
        for conn, count in counts.items():
            bag.add(ros1_index(conn, [(T0, 0)] * count))
    return bag.bytes()


def rare_mcap(
    chunks: int = 12, payload: int = 3000, compression: str = "", change: Callable[[McapFile], object] = bool
) -> bytes:
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/often"), mcap_channel(1, 1, "/rare")))
    for chunk in range(chunks):
        channels = [0, 1] if chunk in (2, 7) else [0, 0]
        content = b"".join(
            mcap_message(channel, 0, T0 + chunk, bytes([chunk]) * payload) for channel in channels
        )
        file.chunk(content, dict(Counter(channels)), compression)
    change(file)
    return file.bytes()


RARE = {"ros1": rare_ros1, "mcap": rare_mcap}


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("make", RARE.values(), ids=RARE)
def test_what_is_left_out_is_not_read_nor_is_its_index(make: Callable[..., bytes]) -> None:
    memory = Memory(make())
    found = read(memory, wanted=only("/rare"))
    whole = read(memory.data)
    as_wanted(found, whole, only("/rare"))
    assert len(found.messages) == 2
    assert (found.reader.unread_messages, whole.reader.unread_messages) == (20, 0)
    assert sum(found.reader.compressions.values()) == 2
    touched = np.zeros(memory.size, np.bool_)
    memory.reads.clear()
    read(memory, wanted=only("/rare"))
    for offset, length in memory.reads:
        touched[offset : offset + length] = True
    for chunk in range(3 if make is rare_ros1 else 1, 12):  # its header takes 8,192 bytes
        place = memory.data.index(bytes([chunk]) * 2000)
        assert touched[place : place + 2000].all() == (chunk in (2, 7)), chunk
    assert found.reader.bytes_read < memory.size // 3
    forward = [offset for offset, _ in memory.reads if 10_000 < offset < 70_000]
    assert forward == sorted(forward)


@pytest.mark.parametrize("make", RARE.values(), ids=RARE)
def test_gaps_shorter_than_a_request_is_worth_are_read_over(
    make: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, small_reads: None
) -> None:
    monkeypatch.setattr(chunked, "GAP_BYTES", 4 * 6500)  # between the third and the eighth chunk
    monkeypatch.setattr(source, "READ_BYTES", 50_000)
    memory = Memory(make())
    found = read(memory, wanted=only("/rare"))
    assert len(found.messages) == 2 and found.reader.unread_messages == 20
    assert len([length for _, length in memory.reads if length > 30_000]) == 1


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("make", RARE.values(), ids=RARE)
def test_an_index_in_many_pieces(make: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "READ_BYTES", 53)
    as_wanted(read(make(), wanted=only("/rare")), read(make()), only("/rare"))


def test_an_index_record_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data, messages = simple_ros1()
    monkeypatch.setattr(source, "READ_BYTES", 64)
    monkeypatch.setattr(index, "MAX_INDEX_RECORD_BYTES", 100)
    found = read(data)
    assert found.by_topic == by_topic(messages)
    assert "a record of it would be longer than 100 bytes" in found.reasons[0]


# --- where the index cannot be followed -------------------------------------------------------------


@pytest.mark.usefixtures("small_reads")
def test_chunks_of_which_the_index_says_nothing_are_read() -> None:
    def no_message_indexes(file: McapFile) -> None:
        file.chunk_indexes = file.chunk_indexes.replace(
            struct.pack("<I", 10), struct.pack("<I", 0)
        )  # lengths of the maps; what follows is then not understood

    def no_channels(file: McapFile) -> None:
        file.definitions = b""

    def no_schemas(file: McapFile) -> None:
        file.definitions = mcap_channel(0, 1, "/often") + mcap_channel(1, 1, "/rare")

    def messages_between_chunks(file: McapFile) -> None:
        file.add(mcap_message(1, 0, T0, b"between"))
        file.count({1: 1})

    for change in (no_message_indexes, no_channels, no_schemas, messages_between_chunks):
        data = rare_mcap(change=change)
        found, whole = read(data, wanted=only("/rare")), read(data)
        assert found.by_topic == {"/rare": whole.by_topic["/rare"]}, change
        assert found.reader.unread_messages == 0, change
        assert found.reader.counts == whole.reader.counts, change
    found = read(rare_mcap()[:-1], wanted=only("/rare"))  # no summary at all
    assert len(found.messages) == 2 and found.reader.unread_messages == 0


def ros1_told(*told: dict[int, int], true: tuple[list[int], ...]) -> bytes:
    """Chunks with messages of connections as ``true`` has them and an index as ``told`` has it."""
    bag = Ros1Bag()
    for number, (counts, conns) in enumerate(zip(told, true, strict=True)):
        records = [bag.connection(0, "/a"), bag.connection(1, "/b")] if number == 0 else []
        messages = [ros1_message(conn, T0 + number, bytes([number]) * 3000) for conn in conns]
        bag.chunk([*records, *messages], counts)
    return bag.bytes()


def mcap_told(*told: dict[int, int], true: tuple[list[int], ...]) -> bytes:
    file = McapFile()
    file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/a"), mcap_channel(1, 1, "/b")))
    for number, (counts, conns) in enumerate(zip(told, true, strict=True)):
        messages = [mcap_message(conn, 0, T0 + number, bytes([number]) * 3000) for conn in conns]
        file.chunk(b"".join(messages), counts)
    return file.bytes()


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("make", [ros1_told, mcap_told])
def test_an_index_that_lies_makes_all_of_it_read(make: Callable[..., bytes]) -> None:
    # Two chunks are mixed up by the index: the one it sends to has no message of /b.
    true = ([0], [0], [0, 1], [0])
    data = make({0: 1}, {0: 1, 1: 1}, {0: 1}, {0: 1}, true=true)
    found, whole = read(data, wanted=only("/b")), read(data)
    assert len(found.messages) == 1
    as_wanted(found, whole, only("/b"))
    assert found.reader.unread_messages == 0


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("told", [{}, {0: 0, 1: 0}])
@pytest.mark.parametrize("make", [ros1_told, mcap_told])
def test_a_chunk_that_is_said_to_hold_nothing_is_read(
    make: Callable[..., bytes], told: dict[int, int]
) -> None:
    data = make({0: 1}, told, {0: 1}, true=([0], [0, 1], [0]))
    whole = read(data)
    assert Counter(message.topic for message in whole.messages) == {"/a": 3, "/b": 1}
    assert whole.reader.expected_counts() != whole.reader.counts == {0: 3, 1: 1}
    assert [message.topic for message in read(data, wanted=only("/b")).messages] == ["/b"]


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("make", RARE.values(), ids=RARE)
def test_a_damaged_chunk_makes_all_of_it_read(make: Callable[..., bytes]) -> None:
    data = bytearray(make(compression="bz2" if make is rare_ros1 else "zstd", payload=300))
    place = data.index(b"BZh" if make is rare_ros1 else b"\x28\xb5\x2f\xfd")
    for _ in range(2):  # the third chunk, which holds /rare
        place = data.index(data[place : place + 3], place + 1)
    data[place + 20] ^= 255
    found, whole = read(bytes(data), wanted=only("/rare")), read(bytes(data))
    assert whole.reasons
    as_wanted(found, whole, only("/rare"))


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("shift", [-40, 7, 1000, 7000])
def test_places_that_are_wrong(shift: int) -> None:
    data = rare_ros1()
    offsets = [place for place in range(len(data)) if data.startswith(b"chunk_pos=", place)]
    moved = bytearray(data)
    place = offsets[3] + len(b"chunk_pos=")
    position = int.from_bytes(data[place : place + 8], "little") + shift
    moved[place : place + 8] = struct.pack("<Q", position)
    found = read(bytes(moved), wanted=only("/rare"))
    assert sorted(found.payloads("/rare")) == [bytes([2]) * 3000, bytes([7]) * 3000]


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("slice_count", [1, 3])
def test_a_connection_with_a_second_meaning_makes_all_of_it_read(slice_count: int) -> None:
    def ros1() -> bytes:
        bag = Ros1Bag()
        first, other = bag.connection(0, "/a"), bag.connection(1, "/b")
        anew = Ros1Bag().connection(0, "/c")
        pad = bytes(3000)
        bag.chunk([first, other, ros1_message(0, T0, b"a" + pad)], {0: 1})
        bag.chunk([ros1_message(1, T0, b"b" + pad)], {1: 1})
        bag.chunk([anew, ros1_message(0, T0, b"c" + pad)], {0: 1})
        bag.chunk([ros1_message(1, T0, b"b" + pad)], {1: 1})
        return bag.bytes()

    def mcap() -> bytes:
        file = McapFile()
        file.add(file.define(mcap_schema(1), mcap_channel(0, 1, "/a"), mcap_channel(1, 1, "/b")))
        pad = bytes(3000)
        file.chunk(mcap_message(0, 0, T0, b"a" + pad), {0: 1})
        file.chunk(mcap_message(1, 0, T0, b"b" + pad), {1: 1})
        file.chunk(mcap_channel(0, 1, "/c") + mcap_message(0, 0, T0, b"c" + pad), {0: 1})
        file.chunk(mcap_message(1, 0, T0, b"b" + pad), {1: 1})
        return file.bytes()

    for data in (ros1(), mcap()):
        for topic in ("/a", "/b"):
            slices = [
                read(data, wanted=only(topic), slice_index=number, slice_count=slice_count)
                for number in range(slice_count)
            ]
            whole = [read(data, slice_index=number, slice_count=slice_count) for number in range(slice_count)]
            for part, of_all in zip(slices, whole, strict=True):
                assert part.by_topic.get(topic) == of_all.by_topic.get(topic)
                assert sum(part.reader.counts.values()) == sum(of_all.reader.counts.values())
        both = read(data, wanted=lambda topic: topic in ("/a", "/c"))
        assert {topic: len(rows) for topic, rows in both.by_topic.items()} == {"/a": 1, "/c": 1}


# --- from S3 ----------------------------------------------------------------------------------------


@contextmanager
def counted_gets() -> Iterator[list[int]]:
    """The bytes of each GET's range, as they are asked for."""
    sizes: list[int] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        first, last = params["headers"]["Range"].removeprefix("bytes=").split("-")
        sizes.append(int(last) - int(first) + 1)

    events = s3.s3_client().meta.events
    events.register("before-call.s3.GetObject", note)
    try:
        yield sizes
    finally:
        events.unregister("before-call.s3.GetObject", note)


@pytest.mark.parametrize("make", RARE.values(), ids=RARE)
def test_requests_to_s3(
    make: Callable[..., bytes], embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "_client", None)
    bucket = f"choice-{uuid.uuid4().hex[:12]}"
    embedded_aws.client("s3").create_bucket(Bucket=bucket)
    data = make(payload=3_000_000)  # chunks of 6 MB
    storage, uri = S3Storage(), f"s3://{bucket}/rare.bag"
    storage.write(uri, data)
    results = {}
    for wanted in ("/rare", "/often"):
        with counted_gets() as gets, closing(storage.open(storage.head(uri))) as opened:
            found = read(opened, wanted=only(wanted))
        assert found.is_as_expected
        results[wanted] = (sum(gets), found.reader.bytes_read, len(gets))
        assert abs(sum(gets) - found.reader.bytes_read) < 150_000  # the source may still have head and tail
    fetched, said, requests = results["/rare"]
    assert fetched < 2 * 6_100_000 and requests <= 6
    fetched, said, requests = results["/often"]
    assert said >= len(data) - 100_000
    assert requests <= len(data) // (8 << 20) + 5


@pytest.mark.skipif(not BAGS.is_dir(), reason="no folder of real bags beside the repository")
def test_names_of_real_bags_are_not_none() -> None:
    assert names(".bag") and names(".mcap")
