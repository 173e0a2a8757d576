"""The lake back to a bag: the proof that nothing was lost, and clips."""

from __future__ import annotations

import dataclasses
import os
import random
import sqlite3
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mcap.reader
import mcap.writer
import mcap_ros1.decoder
import mcap_ros2.decoder
import pytest
from mcap.records import DataEnd, Footer, Header
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Rosbag1Writer

from ros_to_parquet.bag import BagError, LocalFile, open_bag
from ros_to_parquet.bag.mcap_writer import McapChannel, McapSchema, McapWriter
from ros_to_parquet.cli import main
from ros_to_parquet.commands.arguments import parse_time
from ros_to_parquet.commands.outcome import UsageError
from ros_to_parquet.contract import ExitCode, ExtractOptions
from ros_to_parquet.definitions import ROS2_DISTRIBUTIONS
from ros_to_parquet.encode import CDR
from ros_to_parquet.lake import Lake
from ros_to_parquet.layout import definition_of
from ros_to_parquet.memory import DEFAULT_BUDGET
from ros_to_parquet.program import ROS1
from ros_to_parquet.rebuild import RebuildError, Window, rebuild
from ros_to_parquet.storage import ExistsError
from tests.engine import roundtrip
from tests.engine.decode import naive, oracles
from tests.engine.decode.blocks import HEADERS
from tests.engine.decode.test_standard_types import layouts
from tests.engine.sample_bags import START_NS, TOPICS, write_bag

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

REAL_BAGS = Path(__file__).parents[2].parent / "shared" / "bags"
FILES = sorted(path for path in REAL_BAGS.glob("*/*") if path.suffix in (".bag", ".mcap", ".db3"))

NORMALISED = {
    "padding that was not zero",  # whatever was in the writer's memory
    "bytes behind the last field",  # some writers end messages at a multiple of four bytes
}
"""Why rebuilt messages of the real bags are not what was recorded, where they are not."""


def extract(*bags: Path, lake: Path) -> None:
    assert main(["extract", *map(str, bags), "--output", str(lake), "--drive-id", "d"]) == 0


def read_with_mcap(path: Path) -> tuple[Header, Any, list[tuple[Any, Any, Any]]]:
    """By `mcap`'s own reader, every checksum checked, through the index."""
    with path.open("rb") as file:
        reader = mcap.reader.make_reader(file, validate_crcs=True)
        assert isinstance(reader, mcap.reader.SeekingReader)
        messages = list(reader.iter_messages())
        summary = reader.get_summary()
        header = reader.get_header()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == len(messages)
    counts = Counter(message.channel_id for _, _, message in messages)
    assert {key: count for key, count in summary.statistics.channel_message_counts.items() if count} == counts
    with path.open("rb") as file:
        stream = mcap.reader.NonSeekingReader(file, validate_crcs=True)
        in_file = [message for _, _, message in stream.iter_messages(log_time_order=False)]
    assert in_file == [message for _, _, message in messages]  # written in the order of log times
    assert_checksum_of_data(path)
    own = open_bag(LocalFile(path))
    assert sum(len(block) for block in own.blocks()) == len(messages)
    assert own.damage == []
    return header, summary, messages


def assert_checksum_of_data(path: Path) -> None:
    """`mcap`'s readers take a checksum of 0 for none."""
    with path.open("rb") as file:
        records = list(StreamReader(file, emit_chunks=True).records)
    (end,) = (record for record in records if isinstance(record, DataEnd))
    (footer,) = (record for record in records if isinstance(record, Footer))
    data = path.read_bytes()[: footer.summary_start - 13]  # the end's own record
    assert end.data_section_crc == zlib.crc32(data)
    summary = path.read_bytes()[footer.summary_start : -12]
    assert footer.summary_crc == zlib.crc32(summary)


# --- the proof ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_real_bags_come_back_byte_for_byte(tmp_path: Path, path: Path) -> None:
    try:
        recorded = roundtrip.read(path)
    except BagError:
        return
    if not recorded.messages and recorded.rejected == recorded.foreign:
        with pytest.raises(RebuildError, match="messages are json" if recorded.foreign else "no message was"):
            roundtrip.extract_and_rebuild(path, tmp_path)
        return
    rebuilt, output = roundtrip.extract_and_rebuild(path, tmp_path)
    outcome = roundtrip.compare(recorded, roundtrip.read(output).messages)
    assert outcome.total() == rebuilt.messages == len(recorded.messages)
    assert outcome.keys() <= NORMALISED | {"equal"}
    # what is neither ros1 nor cdr is not read here: nothing of it is written
    assert sum(topic.rejected + topic.unwritten for topic in rebuilt.topics) == recorded.rejected
    _, _, messages = read_with_mcap(output)
    assert len(messages) == len(recorded.messages)


@pytest.mark.parametrize("encoding", ["ros1", "cdr"])
def test_every_standard_type_comes_back_byte_for_byte(tmp_path: Path, encoding: str) -> None:
    """Written and read by `mcap`; one channel a type, values at random."""
    store = "ros1_noetic" if encoding == "ros1" else f"ros2_{ROS2_DISTRIBUTIONS[0]}"
    wire, header = (ROS1, b"") if encoding == "ros1" else (CDR, HEADERS["le"])
    rng = random.Random(store)
    written = []
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = mcap.writer.Writer(file)
        writer.start(profile="ros1" if encoding == "ros1" else "ros2")
        for number, layout in enumerate(layouts(store)):
            name = layout.root.type_name
            schema_id = writer.register_schema(
                name.replace("/msg/", "/") if encoding == "ros1" else name,
                "ros1msg" if encoding == "ros1" else "ros2msg",
                definition_of(layout)[0].encode() or b"# empty\n",
            )
            topic = f"/{name}"
            channel_id = writer.register_channel(topic, encoding, schema_id, metadata={"callerid": name})
            for count in range(4):
                message = naive.random_message(layout.root, wire, rng)
                payload = header + naive.encode(layout.root, wire, message)
                log_time = count * 1_000 + number
                writer.add_message(channel_id, log_time, payload, log_time + 5, sequence=count)
                written.append((topic, log_time, log_time + 5, count, payload))
        writer.finish()
    rebuilt, output = roundtrip.extract_and_rebuild(tmp_path / "a.mcap", tmp_path)
    assert rebuilt.messages == len(written) > 600
    back, _, messages = read_with_mcap(output)
    assert back.profile == ("ros1" if encoding == "ros1" else "ros2")
    assert [
        (channel.topic, message.log_time, message.publish_time, message.sequence, message.data)
        for _, channel, message in messages
    ] == sorted(written, key=lambda each: each[1])
    assert all(channel.metadata == {"callerid": channel.topic[1:]} for _, channel, _ in messages)


def test_what_a_message_does_not_tell_is_normalised(tmp_path: Path) -> None:
    """Each way in which recorded bytes are not kept, in a bag of its own making."""
    text = "bool b\nuint32 n\nstring s\n"
    good = b"\1\0\0\0\7\0\0\0\3\0\0\0ab\0"
    payloads = {
        "equal": HEADERS["le"] + good,
        "a bool that was neither 0 nor 1": HEADERS["le"] + b"\3" + good[1:],
        "padding that was not zero": HEADERS["le"] + good[:1] + b"\0\x9a\0" + good[4:],
        "big-endian": HEADERS["be"] + b"\1\0\0\0\0\0\0\7\0\0\0\3ab\0",
        "text that was not UTF-8": HEADERS["le"] + good[:12] + b"\xff\xfe\0",
        "a string without its terminator": HEADERS["le"] + good[:8] + b"\2\0\0\0ab",
        "bytes behind the last field": HEADERS["le"] + good + b"\0",
        "options in the CDR header": b"\0\1\0\1" + good,
        "no CDR header": good,
    }
    schema = McapSchema("pkg/msg/A", "ros2msg", text)
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file.write, [McapChannel("/a", "cdr", schema)], profile="ros2", library="")
        for number, payload in enumerate(payloads.values()):
            writer.add(1, memoryview(payload), log_time_ns=number, publish_time_ns=number, sequence=number)
        writer.close()
    rebuilt, output = roundtrip.extract_and_rebuild(path, tmp_path)
    assert (rebuilt.topics[0].rejected, rebuilt.topics[0].repaired_strings) == (0, 1)
    outcome = roundtrip.compare(roundtrip.read(path), roundtrip.read(output).messages)
    assert outcome == Counter(list(payloads))


# --- what the file says ------------------------------------------------------------------------------


def test_rosbags_and_mcaps_decoders_open_what_is_rebuilt(tmp_path: Path) -> None:
    for suffix, decoders in ((".bag", mcap_ros1.decoder), (".mcap", mcap_ros2.decoder)):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        write_bag(folder / f"a{suffix}")
        _, output = roundtrip.extract_and_rebuild(folder / f"a{suffix}", folder)
        with output.open("rb") as file:
            reader = mcap.reader.make_reader(file, decoder_factories=[decoders.DecoderFactory()])
            decoded = [message.decoded_message for message in reader.iter_decoded_messages(topics="/status")]
            assert [message.data for message in decoded] == [f"round {number}" for number in range(40)]
    with AnyReader([output]) as bag:
        assert {connection.topic for connection in bag.connections} == set(TOPICS)
        times = [time_ns for _, time_ns, _ in bag.messages()]
    assert times == [START_NS + number * 10_000_000 + offset for number in range(40) for offset in range(4)]


def test_a_ros1_connection_is_kept(tmp_path: Path) -> None:
    store = oracles.typestore("ros1_noetic")
    with Rosbag1Writer(tmp_path / "a.bag") as writer:
        latched = writer.add_connection(
            "/map", "std_msgs/msg/String", typestore=store, callerid="/server", latching=1
        )
        message = store.types["std_msgs/msg/String"]("x")
        writer.write(latched, 5, store.serialize_ros1(message, "std_msgs/msg/String"))
    _, output = roundtrip.extract_and_rebuild(tmp_path / "a.bag", tmp_path)
    header, summary, messages = read_with_mcap(output)
    ((schema, channel, message),) = messages
    assert (header.profile, channel.message_encoding, schema.encoding) == ("ros1", "ros1", "ros1msg")
    assert schema.name == "std_msgs/String"
    assert channel.metadata == {
        "callerid": "/server",
        "latching": "1",
        "md5sum": "992ce8a1687cec8c8bd883ec73ca41d1",
    }
    assert (message.log_time, message.publish_time, message.sequence) == (5, 5, 0)
    assert len(summary.channels) == 1


def test_a_bag_without_definitions_gets_them(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.db3")
    with sqlite3.connect(tmp_path / "a.db3") as database:
        database.execute("DELETE FROM message_definitions")
    _, output = roundtrip.extract_and_rebuild(tmp_path / "a.db3", tmp_path)
    recorded = roundtrip.read(tmp_path / "a.db3")
    back = roundtrip.read(output)
    assert all(layout.source == "recorded" for layout in back.layouts.values())
    assert back.messages == recorded.messages
    with output.open("rb") as file:
        reader = mcap.reader.make_reader(file, decoder_factories=[mcap_ros2.decoder.DecoderFactory()])
        found = [message.decoded_message for message in reader.iter_decoded_messages(topics="/gps/fix")]
    assert [fix.latitude for fix in found] == [48.0 + number for number in range(40)]


@pytest.mark.parametrize("definition", ["", "uint8 stub\n"])
def test_a_definition_that_is_not_what_the_messages_are_is_replaced(tmp_path: Path, definition: str) -> None:
    """Messages of types as an older distribution has them, whose newest definition does not decode them."""
    newest = {layout.root.type_name: layout for layout in layouts(f"ros2_{ROS2_DISTRIBUTIONS[0]}")}
    rng = random.Random(3)
    older, channels, payloads = [], [], []
    for layout in layouts("ros2_foxy"):
        name = layout.root.type_name
        payload = naive.encode(layout.root, CDR, naive.random_message(layout.root, CDR, rng))
        try:
            naive.decode(newest[name].root, CDR, payload)
        except (naive.BadMessageError, KeyError):
            if name in newest:
                older.append(layout)
                encoding = "ros2msg" if definition else ""
                channels.append(McapChannel(f"/{name}", "cdr", McapSchema(name, encoding, definition)))
                payloads.append(HEADERS["le"] + payload)
    assert len(older) > 2
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = McapWriter(file.write, channels, profile="ros2", library="")
        for number, payload in enumerate(payloads, start=1):
            writer.add(
                number, memoryview(payload), log_time_ns=number, publish_time_ns=number, sequence=number
            )
        writer.close()
    recorded = roundtrip.read(tmp_path / "a.mcap")
    _, output = roundtrip.extract_and_rebuild(tmp_path / "a.mcap", tmp_path)
    back = roundtrip.read(output)
    assert [message.payload for message in back.messages] == [each.payload for each in recorded.messages]
    assert all(layout.source == "recorded" for layout in back.layouts.values())
    assert {key: layout.root for key, layout in back.layouts.items()} == {
        key: layout.root for key, layout in recorded.layouts.items()
    }


def test_a_drive_of_both_ros_versions_is_one_file_without_a_profile(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag", messages=5)
    write_bag(tmp_path / "b.mcap", messages=5, start_ns=START_NS + 15_000_000)
    extract(tmp_path / "a.bag", tmp_path / "b.mcap", lake=tmp_path / "lake")
    rebuilt = rebuild(Lake(str(tmp_path / "lake")), "d", str(tmp_path / "out.mcap"))
    header, summary, messages = read_with_mcap(tmp_path / "out.mcap")
    assert (header.profile, len(summary.channels), rebuilt.messages) == ("", 8, 40)
    expected = [*roundtrip.read(tmp_path / "a.bag").messages, *roundtrip.read(tmp_path / "b.mcap").messages]
    outcome = Counter(
        (channel.topic, channel.message_encoding, message.log_time, message.data)
        for _, channel, message in messages
    )
    assert outcome == Counter((one.topic, one.encoding, one.log_time_ns, one.payload) for one in expected)


# --- order and clips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group_bytes", [1_000, DEFAULT_BUDGET.row_group])
def test_bags_that_overlap_in_time_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group_bytes: int
) -> None:
    budget = dataclasses.replace(DEFAULT_BUDGET, row_group=row_group_bytes, take=row_group_bytes)
    monkeypatch.setattr("ros_to_parquet.memory.share_out", lambda _: budget)
    bags = [tmp_path / name for name in ("c.mcap", "a.mcap", "b.mcap")]
    for number, bag in enumerate(bags):
        write_bag(bag, start_ns=START_NS + number * 55_000_000, messages=200)
    extract(*bags, lake=tmp_path / "lake")
    rebuilt = rebuild(Lake(str(tmp_path / "lake")), "d", str(tmp_path / "out.mcap"))
    assert [(topic.topic, topic.messages) for topic in rebuilt.topics] == [(t, 600) for t in sorted(TOPICS)]
    _, summary, messages = read_with_mcap(tmp_path / "out.mcap")
    times = [message.log_time for _, _, message in messages]
    assert times == sorted(times)
    assert len(summary.chunk_indexes) > 1
    expected = [message for bag in bags for message in roundtrip.read(bag).messages]
    assert Counter(roundtrip.read(tmp_path / "out.mcap").messages) == Counter(expected)


def test_messages_of_one_time_stay_in_recorded_order(tmp_path: Path) -> None:
    schema = McapSchema("std_msgs/msg/UInt32", "ros2msg", "uint32 data\n")
    rng = random.Random(1)
    written = [(rng.randrange(5), number) for number in range(1_000)]
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = McapWriter(file.write, [McapChannel("/n", "cdr", schema)], profile="ros2", library="")
        for time_ns, number in written:
            payload = memoryview(HEADERS["le"] + number.to_bytes(4, "little"))
            writer.add(1, payload, log_time_ns=time_ns, publish_time_ns=1, sequence=number)
        writer.close()
    _, output = roundtrip.extract_and_rebuild(tmp_path / "a.mcap", tmp_path)
    _, _, messages = read_with_mcap(output)
    assert [(message.log_time, message.sequence) for _, _, message in messages] == sorted(written)


def test_a_clip_has_the_topics_and_times_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path / "a.bag")
    extract(tmp_path / "a.bag", lake=tmp_path / "lake")
    first, last = START_NS + 10 * 10_000_000, START_NS + 20 * 10_000_000  # rounds 10 to 19, both exact
    capsys.readouterr()
    lake, output = str(tmp_path / "lake"), str(tmp_path / "clip.mcap")
    start, stop = (f"{time_ns // 10**9}.{time_ns % 10**9:09}" for time_ns in (first, last))
    choice = ["--topics", "/imu/*", "/status", "/camera/*", "--exclude", "*compressed"]
    code = main(
        ["rebuild", lake, "--drive-id", "d", "--output", output, *choice, "--from", start, "--to", stop]
    )
    assert code == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "topic      type             messages",
        "/imu/data  sensor_msgs/Imu        10",
        "/status    std_msgs/String        10",
    ]
    expected = [
        message
        for message in roundtrip.read(tmp_path / "a.bag").messages
        if message.topic in ("/imu/data", "/status") and first <= message.log_time_ns < last
    ]
    assert roundtrip.read(tmp_path / "clip.mcap").messages == expected
    nothing = Window(last + 10**12)
    rebuilt = rebuild(Lake(str(tmp_path / "lake")), "d", str(tmp_path / "none.mcap"), window=nothing)
    _, summary, messages = read_with_mcap(tmp_path / "none.mcap")
    assert (rebuilt.messages, messages, len(summary.channels)) == (0, [], 4)


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("0", 0),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123_456_789),
        ("2023-11-14T23:13:20,5+01:00", 1_700_000_000_500_000_000),
        ("2023-11-14 22:13", 1_699_999_980_000_000_000),
        ("20231114", 1_699_920_000_000_000_000),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
    ],
)
def test_times_are_exact(text: str, time_ns: int) -> None:
    assert parse_time(text) == time_ns


@pytest.mark.parametrize("text", ["", "yesterday", "1.2.3", "12:30", "-5", "1.", "2023-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        parse_time(text)


# --- what is said ------------------------------------------------------------------------------------


def test_what_is_not_in_the_lake_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = McapSchema("std_msgs/msg/String", "ros2msg", "string data\n")
    channels = [McapChannel(topic, "cdr", schema) for topic in ("/a", "/left_out")]
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = McapWriter(file.write, channels, profile="ros2", library="")
        for number, text in enumerate((b"\2\0\0\0x\0", b"\2\0\0\0\xff\0", b"\x63\0\0\0x\0")):
            payload = memoryview(HEADERS["le"] + text)
            for channel_id in (1, 2):
                writer.add(channel_id, payload, log_time_ns=number, publish_time_ns=number, sequence=number)
        writer.close()
    lake = str(tmp_path / "lake")
    options = ["--output", lake, "--drive-id", "d", "--topics", "/a"]
    assert main(["extract", str(tmp_path / "a.mcap"), *options]) == 0
    capsys.readouterr()
    output = tmp_path / "out.mcap"
    assert main(["rebuild", lake, "--drive-id", "d", "--output", str(output)]) == 0
    assert capsys.readouterr().out.splitlines()[1:5] == [
        "/a     std_msgs/msg/String         2",
        "! /a: 1 messages were rejected when the drive was extracted",
        "! /a: 1 strings were not UTF-8 and stay escaped",
        "! 3 messages are of topics that were not extracted",
    ]


def test_messages_that_are_not_ros_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    channels = [
        McapChannel("/n", "cdr", McapSchema("std_msgs/msg/UInt32", "ros2msg", "uint32 data\n")),
        McapChannel(
            "/j", "json", McapSchema("J", "jsonschema", '{"properties": {"a": {"type": "integer"}}}')
        ),
    ]
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = McapWriter(file.write, channels, profile="", library="")
        for channel_id, payload in ((1, HEADERS["le"] + bytes(4)), (2, b'{"a": 3}')):
            writer.add(channel_id, memoryview(payload), log_time_ns=7, publish_time_ns=7, sequence=0)
        writer.close()
    _, output = roundtrip.extract_and_rebuild(tmp_path / "a.mcap", tmp_path)
    assert [message.topic for message in roundtrip.read(output).messages] == ["/n"]
    assert main(["rebuild", str(tmp_path / "lake"), "--drive-id", "d", "--output", f"{output}.2"]) == 0
    assert "! /j: 1 messages are json: not written" in capsys.readouterr().out.splitlines()


def test_what_may_be_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bag(tmp_path / "a.mcap")
    whole = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(whole[: len(whole) // 2])
    write_bag(tmp_path / "b.bag", messages=3)
    lake = tmp_path / "lake"
    extract(tmp_path / "a.mcap", tmp_path / "b.bag", lake=lake)
    (commit,) = lake.rglob("drive.json")
    for unfinished in (False, True):
        if unfinished:  # as before the last shard is done
            commit.unlink()
        capsys.readouterr()
        output = tmp_path / f"{unfinished}.mcap"
        assert main(["rebuild", str(lake), "--drive-id", "d", "--output", str(output)]) == 0
        notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")]
        assert notes[0] == "! 1 bags were damaged or unreadable: what could be read is there"
        assert len(notes) == 1 + unfinished
        assert unfinished is ("under way or has failed" in notes[-1])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--drive-id", "e"], ExitCode.INPUT_MISSING, "no drive e; there are d"),
        (["--drive-id", "d", "--topics", "/x"], ExitCode.INPUT_MISSING, "no topic matches; there are /cam"),
        (["--drive-id", "d", "--from", "9", "--to", "9"], ExitCode.USAGE, "--from 9 is not before --to 9"),
        (["--drive-id", "d", "--output", "o.bag"], ExitCode.USAGE, "o.bag: what is written is an MCAP file"),
        (["--drive-id", "d", "--output", "{lake}/out"], ExitCode.OUTPUT_FAILED, "out: is there already"),
    ],
)
def test_errors_say_what_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: ExitCode,
    said: str,
) -> None:
    lake = tmp_path / "lake"
    write_bag(tmp_path / "a.mcap", messages=2)
    extract(tmp_path / "a.mcap", lake=lake)
    (lake / "out").write_bytes(b"mine")
    given = ["--output", str(tmp_path / "o.mcap"), *(each.format(lake=lake) for each in arguments)]
    assert main(["rebuild", str(lake), *given]) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*o.mcap*")) + list(tmp_path.glob(".partial*"))
    assert (lake / "out").read_bytes() == b"mine"


def test_a_folder_or_a_pipe_is_no_place_for_a_bag_or_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = tmp_path / "lake"
    write_bag(tmp_path / "a.mcap", messages=2)
    extract(tmp_path / "a.mcap", lake=lake)
    places = tmp_path / "places"
    (places / "folder").mkdir(parents=True)
    os.mkfifo(places / "pipe")
    for place in ("folder", "pipe"):
        words = [str(lake), "--drive-id", "d", "--output", str(places / place)]
        assert main(["rebuild", *words]) == ExitCode.OUTPUT_FAILED
        assert main(["report", *words]) == ExitCode.USAGE
        assert capsys.readouterr().err.count("not a file") == 2
    assert (places / "folder").is_dir() and (places / "pipe").is_fifo()
    assert {path.name for path in places.iterdir()} == {"folder", "pipe"}


def test_a_file_that_cannot_be_read_leaves_no_output(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.mcap")
    extract(tmp_path / "a.mcap", lake=tmp_path / "lake")
    (file,) = (tmp_path / "lake" / "imu.data").rglob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + bytes(1_000) + whole[1_004:])  # its data; then all of it
    before = set(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(RebuildError, match=f"imu.data/.*{file.name}: a file of the drive cannot be read"):
            rebuild(Lake(str(tmp_path / "lake")), "d", str(tmp_path / "out.mcap"))
        assert set(tmp_path.iterdir()) == before
        file.unlink(missing_ok=True)


def test_an_output_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.mcap", messages=2)
    extract(tmp_path / "a.mcap", lake=tmp_path / "lake")
    recording = (tmp_path / "a.mcap").read_bytes()
    with pytest.raises(ExistsError):
        rebuild(Lake(str(tmp_path / "lake")), "d", str(tmp_path / "a.mcap"))
    assert (tmp_path / "a.mcap").read_bytes() == recording


def test_only_what_stands_is_rebuilt(tmp_path: Path) -> None:
    """A drive that was extracted again, with ``--overwrite``: no message twice."""
    write_bag(tmp_path / "a.mcap", messages=3)
    extract(tmp_path / "a.mcap", lake=tmp_path / "lake")
    arguments = ["--output", str(tmp_path / "lake"), "--drive-id", "d", "--overwrite"]
    assert main(["extract", str(tmp_path / "a.mcap"), *arguments]) == 0
    rebuilt = rebuild(
        Lake(str(tmp_path / "lake")), "d", str(tmp_path / "out.mcap"), topics=ExtractOptions(("/imu/*",))
    )
    assert [dataclasses.astuple(topic) for topic in rebuilt.topics] == [
        ("/imu/data", "sensor_msgs/msg/Imu", 3, 0, 0, 0, "")
    ]


def test_what_a_run_took_nothing_of_is_not_there_twice(tmp_path: Path) -> None:
    """Of a bag that was extracted with a misspelt topic, and then with the right one."""
    with (tmp_path / "a.mcap").open("wb") as stream:
        writer = mcap.writer.Writer(stream)
        writer.start("ros2", library="")
        schema = writer.register_schema("std_msgs/msg/UInt8", "ros2msg", b"uint8 data")
        channel = writer.register_channel("/n", "cdr", schema)
        writer.add_message(channel, 7, b"\0\1\0\0\5", 7)
        writer.add_attachment(5, 6, "calibration.yaml", "text/yaml", b"k: 1")
        writer.finish()
    for topic in ("/misspelt", "/n"):
        arguments = ["--output", str(tmp_path / "lake"), "--drive-id", "d", "--topics", topic]
        assert main(["extract", str(tmp_path / "a.mcap"), *arguments]) == 0
    rebuilt = rebuild(Lake(str(tmp_path / "lake")), "d", str(tmp_path / "out.mcap"))
    assert ([topic.messages for topic in rebuilt.topics], rebuilt.not_extracted) == ([1], 0)
    with (tmp_path / "out.mcap").open("rb") as stream:
        assert [each.name for each in mcap.reader.make_reader(stream).iter_attachments()] == [
            "calibration.yaml"
        ]


def test_from_s3_to_s3(tmp_path: Path, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket="rebuilt")
    write_bag(tmp_path / "a.mcap", messages=5)
    lake = "s3://rebuilt/the lake"
    assert main(["extract", str(tmp_path / "a.mcap"), "--output", lake, "--drive-id", "d"]) == 0
    output = "s3://rebuilt/clips/a.mcap"
    assert main(["rebuild", lake, "--drive-id", "d", "--output", output]) == 0
    body = s3.get_object(Bucket="rebuilt", Key="clips/a.mcap")["Body"].read()
    (tmp_path / "back.mcap").write_bytes(body)
    assert roundtrip.read(tmp_path / "back.mcap").messages == roundtrip.read(tmp_path / "a.mcap").messages
    assert main(["rebuild", lake, "--drive-id", "d", "--output", output]) == ExitCode.OUTPUT_FAILED
