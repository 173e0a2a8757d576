"""Topics that share a decoder: each gets its own messages, rejects and counts, in its own order."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

import ros_to_parquet
from ros_to_parquet import contract, run
from ros_to_parquet.bag import MessageBlock, join
from ros_to_parquet.contract import ExtractOptions, Manifest
from ros_to_parquet.decode import Decoder
from ros_to_parquet.local_plan import make_plan
from tests.engine.bag.bag_bytes import (
    T0,
    McapFile,
    Ros1Bag,
    mcap_channel,
    mcap_message,
    mcap_schema,
    ros1_message,
)

TOPICS = 12
CHUNKS = 30
BAD_TEXT, CUT_OFF, GROWS = 3, 5, 7


def text_of(topic: int, chunk: int, rng: random.Random) -> bytes:
    if topic == GROWS and chunk in (10, 11, 20):
        return b"x" * (join.SMALL_BYTES + chunk)
    if topic == BAD_TEXT and chunk % 3 == 0:
        return b"\xff%d" % chunk
    return b"%d of %d " % (topic, chunk) + b"." * rng.randint(0, 40)


def payload_of(text: bytes, topic: int, chunk: int, encoding: str) -> bytes:
    body = struct.pack("<I", len(text)) + text
    if encoding == "cdr":
        body = b"\0\1\0\0" + struct.pack("<I", len(text) + 1) + text + b"\0"
    return body[:-2] if topic == CUT_OFF and chunk % 7 == 0 else body


def make_bag(folder: Path, encoding: str) -> tuple[Path, dict[int, list[tuple[int, bytes]]], dict[int, int]]:
    """A bag with one or two messages a topic and chunk; its texts by topic; where each chunk begins."""
    rng = random.Random(8)
    texts: dict[int, list[tuple[int, bytes]]] = {topic: [] for topic in range(TOPICS)}
    places = {}
    ros1, mcap = Ros1Bag(), McapFile()
    for chunk in range(CHUNKS):
        messages = []
        for topic in rng.choices(range(TOPICS), k=4) + list(range(TOPICS)):
            time_ns = T0 + chunk * 1000 + len(messages)
            text = text_of(topic, chunk, rng)
            texts[topic].append((time_ns, text))
            messages.append((topic, time_ns, payload_of(text, topic, chunk, encoding)))
        counts = {topic: sum(each[0] == topic for each in messages) for topic in range(TOPICS)}
        if encoding == "ros1":
            places[chunk] = ros1.position
            head = [] if chunk else [ros1.connection(topic, f"/t{topic}") for topic in range(TOPICS)]
            ros1.chunk(head + [ros1_message(*each) for each in messages], counts, "lz4")
        else:
            places[chunk] = len(mcap.data)
            head = [mcap_schema(1), *(mcap_channel(topic, 1, f"/t{topic}") for topic in range(TOPICS))]
            content = b"" if chunk else mcap.define(*head)
            content += b"".join(mcap_message(topic, 0, *each) for topic, *each in messages)  # type: ignore[arg-type]
            mcap.chunk(content, counts, "zstd")
    path = folder / ("a.bag" if encoding == "ros1" else "a.mcap")
    path.write_bytes(ros1.bytes() if encoding == "ros1" else mcap.bytes())
    return path, texts, places


def extract(*bags: Path, output: Path) -> Manifest:
    plan = make_plan(
        [str(bag) for bag in bags],
        output=str(output),
        drive_id="drive",
        options=ExtractOptions(),
        overwrite=False,
        take_over=False,
    )
    return run.run_shard(plan, 0, run.JobIdentity("", 1, ""))


def escaped(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


@pytest.mark.parametrize("encoding", ["ros1", "cdr"])
def test_each_topic_gets_what_is_its_own(tmp_path: Path, encoding: str) -> None:
    bag, texts, places = make_bag(tmp_path, encoding)
    manifest = extract(bag, output=tmp_path / "lake")
    lake = ros_to_parquet.open(str(tmp_path / "lake"))
    topics = {result.topic: result for result in manifest.topics}
    assert sorted(topics) == sorted(f"/t{topic}" for topic in range(TOPICS))
    for topic, messages in texts.items():
        result = topics[f"/t{topic}"]
        cut_off = [time_ns for time_ns, _ in messages if topic == CUT_OFF and (time_ns - T0) // 1000 % 7 == 0]
        good = [(time_ns, escaped(text)) for time_ns, text in messages if time_ns not in cut_off]
        rows = lake.dataset(f"t{topic}").to_table(columns=["log_time_ns", "data"]).to_pylist()
        assert [(row["log_time_ns"], row["data"]) for row in rows] == good
        assert (result.messages, result.rows, result.rejected) == (len(messages), len(good), len(cut_off))
        assert [(reject.log_time_ns, reject.offset) for reject in result.rejects] == [
            (time_ns, places[(time_ns - T0) // 1000]) for time_ns in cut_off
        ][: contract.MAX_REASONS]
        assert result.repaired_strings == sum(b"\xff" in text for _, text in messages)
        assert (result.first_log_time_ns, result.last_log_time_ns) == (messages[0][0], messages[-1][0])
    assert topics[f"/t{CUT_OFF}"].rejected > 4 and topics[f"/t{BAD_TEXT}"].repaired_strings > 9


def test_what_is_small_is_decoded_with_what_is_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed = []
    feed = Decoder.feed_together

    def watched(self: Decoder, blocks: list[MessageBlock]) -> None:
        fed.append(len(blocks))
        feed(self, blocks)

    bag, _, _ = make_bag(tmp_path, "ros1")
    monkeypatch.setattr(Decoder, "feed_together", watched)
    extract(bag, output=tmp_path / "lake")
    trials, large = TOPICS, 3
    assert len(fed) <= trials + large + 3
    assert max(fed) >= TOPICS - 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Decoder]:
    """Every decoder that is made."""
    decoders = []
    begin = Decoder.__init__

    def kept(self: Decoder, *arguments: object) -> None:
        decoders.append(self)
        begin(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "__init__", kept)
    return decoders


def test_bags_with_the_same_types_share_their_programs(tmp_path: Path, made: list[Decoder]) -> None:
    bags = []
    for number in range(20):
        bag = Ros1Bag()
        bag.chunk(
            [bag.connection(0, "/a"), ros1_message(0, T0 + number, struct.pack("<I", 1) + b"x")], {0: 1}
        )
        bags.append(tmp_path / f"{number}.bag")
        bags[-1].write_bytes(bag.bytes())
    manifest = extract(*bags, output=tmp_path / "lake")
    assert manifest.topics[0].rows == len(manifest.bags) == 20
    assert len(made) == 2  # one to try the layout with


def test_a_type_of_one_topic_has_one_program(tmp_path: Path, made: list[Decoder]) -> None:
    bag = Ros1Bag()
    head = [bag.connection(n, f"/t{n}", f"test/T{n}", f"uint8 a{n}\n") for n in range(5)]
    bag.chunk([*head, *(ros1_message(n, T0 + n, b"\7") for n in range(5))], dict.fromkeys(range(5), 1))
    (tmp_path / "a.bag").write_bytes(bag.bytes())
    manifest = extract(tmp_path / "a.bag", output=tmp_path / "lake")
    assert [topic.rows for topic in manifest.topics] == [1] * 5
    assert len(made) == 5  # what a layout is tried with, decodes its messages too
