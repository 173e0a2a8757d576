"""Every bag that others recorded and that lies beside the repository, against readers not our own."""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from contextlib import closing
from pathlib import Path

import mcap.reader
import pytest
import zstandard
from bag_bytes import Message, Read, by_topic, read
from rosbags.rosbag1 import Reader

from ros_to_parquet.bag import BagError, LocalFile
from ros_to_parquet.bag.decompress import ZSTD_MAGIC

BAGS = Path(__file__).parents[4] / "shared" / "bags"

pytestmark = pytest.mark.skipif(not BAGS.is_dir(), reason="no folder of real bags beside the repository")


def found_in(name: str, **options: int) -> Read:
    with LocalFile(BAGS / name) as file:
        return read(file, **options)


def names(*suffixes: str) -> list[str]:
    files = sorted(path for path in BAGS.glob("*/*") if path.suffix in suffixes and path.stat().st_size)
    return [str(path.relative_to(BAGS)) for path in files]


SITE = "Tiryoh+rosbag-analyzer-web"

REFUSED_BY_ROSBAGS = {
    f"{SITE}/test_truncated.bag": Counter({"/rosout_agg": 3}),
    f"{SITE}/test_unindexed.bag": Counter({"/rosout_agg": 10, "/diagnostics_agg": 4}),
}
DAMAGED = {
    f"{SITE}/test_truncated.bag": "cut off inside a chunk: 1,875 of 5,593 bytes are there",
    f"{SITE}/test_unindexed.bag": "the bag was never closed: it may lack its last messages",
    f"{SITE}/test_sample_truncated.mcap": "cut off inside a record: 58 of 79 bytes are there",
}


def check_damage(name: str, found: Read) -> None:
    if name in DAMAGED:
        assert found.reasons == [DAMAGED[name]]
        assert found.reader.expected_counts() is None
    else:
        assert found.is_as_expected
    assert found.reader.bytes_read == (BAGS / name).stat().st_size


@pytest.mark.parametrize("name", names(".bag"))
def test_ros1_equals_rosbags(name: str) -> None:
    found = found_in(name)
    check_damage(name, found)
    if name in REFUSED_BY_ROSBAGS:
        assert Counter(message.topic for message in found.messages) == REFUSED_BY_ROSBAGS[name]
        return
    with Reader(BAGS / name) as reader:
        expected = [Message(c.topic, time_ns, bytes(data)) for c, time_ns, data in reader.messages()]
        assert len(reader.connections) == len(found.reader.connections())
    # rosbags gives messages in the order of time, of equal times in any order.
    assert Counter(found.messages) == Counter(expected)


@pytest.mark.parametrize("name", names(".mcap"))
def test_mcap_equals_mcap(name: str) -> None:
    found = found_in(name)
    check_damage(name, found)
    expected = []
    with (BAGS / name).open("rb") as file:
        make = mcap.reader.NonSeekingReader if name in DAMAGED else mcap.reader.make_reader
        try:
            for _, channel, message in make(file).iter_messages(log_time_order=False):
                payload = message.data
                if payload.startswith(ZSTD_MAGIC):
                    payload = zstandard.decompress(payload)
                expected.append(Message(channel.topic, message.log_time, payload))
        except struct.error:  # as mcap says that a file is cut off
            assert name in DAMAGED
    assert by_topic(found.messages) == by_topic(expected)
    assert len(found.messages) > 0


@pytest.mark.parametrize("name", names(".db3"))
def test_sqlite_equals_a_query(name: str) -> None:
    found = found_in(name)
    check_damage(name, found)
    with closing(sqlite3.connect(f"{(BAGS / name).as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        query = """SELECT name, timestamp, data FROM messages JOIN topics ON topic_id = topics.id
            ORDER BY messages.id"""
        expected = [Message(*row) for row in database.execute(query)]
        topics = {row[0] for row in database.execute("SELECT name FROM topics")}
    assert by_topic(found.messages) == by_topic(expected)
    assert {connection.topic for connection in found.reader.connections()} == topics


@pytest.mark.parametrize("name", names(".bag", ".mcap"))
def test_slices_are_the_whole(name: str) -> None:
    whole = found_in(name)
    for count in (2, 3, 7):
        slices = [found_in(name, slice_index=index, slice_count=count) for index in range(count)]
        assert by_topic(m for part in slices for m in part.messages) == whole.by_topic
        assert sum((Counter(part.reader.counts) for part in slices), Counter()) == +Counter(
            whole.reader.counts
        )
        for part in slices:
            assert part.reader.expected_counts() in (None, part.reader.counts)


def test_counts_are_those_of_the_catalogue() -> None:
    rows = [
        line.split(" | ") for line in (BAGS / "CATALOG.md").read_text().splitlines() if line.startswith("| ")
    ]
    counts = {
        row[0].removeprefix("| "): int(row[5].split(":")[0]) for row in rows if row[5].split(":")[0].isdigit()
    }
    read_names = names(".bag", ".mcap", ".db3")
    assert len(counts) >= len(read_names) >= 43
    counts[f"{SITE}/test_truncated.bag"] = 3  # of a chunk that is cut off: the catalogue counts whole chunks
    for name in read_names:
        assert len(found_in(name).messages) == counts[name], name


def test_refused() -> None:
    with pytest.raises(BagError, match=r"empty \(0 bytes\)"):
        found_in("cruise-automation+rosbag.js/empty-file.bag")


def test_compressed_as_a_file_by_rosbag2() -> None:
    found = found_in(f"{SITE}/test_sample.mcap.zstd")
    assert found.is_as_expected
    assert found.by_topic == found_in(f"{SITE}/test_sample.mcap").by_topic


def test_what_is_recorded_of_connections() -> None:
    by_name = {
        name: {each.topic: each for each in found_in(name).reader.connections()}
        for name in (
            "klintan+rosbag2.js/sample.db3",
            "ros2+rosbag2/talker.db3",
            "ros2+rosbag2/cdr_test_0.mcap",
            "ros2+rosbag2/wrong_rmw_test_0.mcap",
            "ros2+rosbag2/bag_with_topics_and_service_events.db3",
            "ros2+rosbag2/rewriter_a_0.mcap",
            "lichtblick-suite+lichtblick/custom-camera-model.mcap",
            "cruise-automation+webviz/bag-with-empty-message-definition.bag",
            "locusrobotics+fuse/turtlebot3.bag",
        )
    }
    old = by_name["klintan+rosbag2.js/sample.db3"]["/imu"]
    assert (old.type_name, old.definition_format, old.encoding) == ("sensor_msgs/Imu", "", "cdr")
    new = by_name["ros2+rosbag2/talker.db3"]["/topic"]
    assert (new.type_name, new.definition_format) == ("std_msgs/msg/String", "ros2msg")
    assert "string data" in new.definition and "history: 3" in new.metadata["offered_qos_profiles"]
    assert by_name["ros2+rosbag2/cdr_test_0.mcap"]["/test_topic"].encoding == "cdr"
    assert by_name["ros2+rosbag2/wrong_rmw_test_0.mcap"]["/test_topic"].encoding == "wrong_format"
    event = by_name["ros2+rosbag2/bag_with_topics_and_service_events.db3"]["/test_topic1"]
    assert event.definition_hash.startswith("RIHS01_")
    assert by_name["ros2+rosbag2/rewriter_a_0.mcap"]["a_empty"].definition_format == "ros2msg"
    camera = by_name["lichtblick-suite+lichtblick/custom-camera-model.mcap"]["/image/compressed"]
    assert (camera.definition_format, camera.encoding) == ("jsonschema", "json")
    empty = by_name["cruise-automation+webviz/bag-with-empty-message-definition.bag"]["/led_array_status"]
    assert (empty.definition.strip(), empty.definition_format) == ("", "ros1msg")
    assert by_name["locusrobotics+fuse/turtlebot3.bag"]["/odom"].metadata["callerid"]
