"""Formats are told from their first bytes; what cannot be read says why and what to do."""

from __future__ import annotations

import pytest
from bag_bytes import (
    T0,
    Memory,
    Ros1Bag,
    by_topic,
    read,
    ros1_bag_header,
    ros1_chunk,
    ros1_message,
    simple_mcap,
    simple_ros1,
)

from ros_to_parquet.bag import BagError, LocalFile, open_bag

METADATA = """rosbag2_bagfile_information:
  version: 5
  compression_format: {format}
  compression_mode: {mode}
"""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"#ROSBAG V1.2\n...", r"old version \(#ROSBAG V1\.2\).*rosbag filter OLD.bag NEW.bag True"),
        (b"#ROSRECORD V1.2\n...", r"old version \(#ROSRECORD V1\.2\).*rosbag filter OLD.bag NEW.bag True"),
        (b"#ROSRECORD V1.1\n...", r"old version \(#ROSRECORD V1\.1\): no ROS of today reads it"),
        (b"#ROSBAG V3.0\n...", r"version that is not supported \(#ROSBAG V3\.0\); 2\.0 is"),
        (b"\x89MCAP1\r\n......", r"MCAP file of version '1'.*take a newer ros-to-parquet"),
        (b"#ROSB", r"cut off after 5 bytes"),
        (b"\x89MCA", r"cut off after 4 bytes"),
        (b"SQLite", r"cut off after 6 bytes"),
        (b"#ROSBAG V2.0\n", r"cut off inside its header"),
        (b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0), r"holds nothing: its recording was never closed"),
        (b"\x00" * 100, r"neither a ROS 1 bag, an MCAP file nor a SQLite bag: it begins with 00 00"),
        (b"hello world", r"neither a ROS 1 bag"),
        (
            b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0, encryptor=b"rosbag/AesCbcEncryptor"),
            r"encrypted with rosbag/AesCbcEncryptor: decrypt it first \(`rosbag decrypt`\)",
        ),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(BagError, match=message):
        open_bag(Memory(data))


@pytest.mark.parametrize("mode", ["message", "MESSAGE"])
def test_unknown_compression_of_rosbag2_is_refused(mode: str) -> None:
    data, _ = simple_mcap()
    with pytest.raises(BagError, match=r"compressed by message with fake_comp .*ros2 bag convert"):
        open_bag(Memory(data), metadata=METADATA.format(format="fake_comp", mode=mode))


@pytest.mark.parametrize(
    "metadata",
    [
        METADATA.format(format="zstd", mode="MESSAGE"),
        METADATA.format(format="fake_comp", mode="FILE"),  # the file's own bytes tell
        METADATA.format(format='""', mode='""'),
        METADATA.format(format="", mode=""),
        "",
        ": [nonsense",
    ],
)
def test_other_metadata_does_not_matter(metadata: str) -> None:
    data, messages = simple_mcap()
    assert read(data, metadata=metadata).by_topic == by_topic(messages)


def test_slice_numbers_are_checked() -> None:
    data, _ = simple_ros1()
    for index, count in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"slice {index} of {count}"):
            open_bag(Memory(data), slice_index=index, slice_count=count)


def test_local_file(tmp_path) -> None:
    data, messages = simple_ros1()
    path = tmp_path / "no name that tells.txt"
    path.write_bytes(data)
    with LocalFile(path) as file:
        assert (file.size, file.name, file.local_path()) == (len(data), str(path), str(path))
        found = read(file)
    assert found.by_topic == by_topic(messages)
    assert found.reader.bytes_read == len(data)


def test_errors_of_the_source_are_its_own() -> None:
    class Failing(Memory):
        def read_at(self, offset: int, length: int) -> bytes:
            raise PermissionError("no")

    with pytest.raises(PermissionError):
        open_bag(Failing(b"#ROSBAG V2.0\n"))


@pytest.mark.parametrize("indexed", [True, False])
def test_chunks_that_are_encrypted_or_compressed_in_an_unknown_way_are_said(indexed: bool) -> None:
    """Of a bag whose header does not say so."""
    bag = Ros1Bag()
    bag.chunk([bag.connection(0, "/a"), ros1_message(0, T0, b"kept")], {0: 1})
    bag.chunks[bag.position] = {0: 1}
    bag.add(ros1_chunk(b"?" * 80, compression=b"aes"))
    found = read(bag.bytes(indexed=indexed))
    assert found.payloads("/a") == [b"kept"]
    assert "compression 'aes' is not supported (none, bz2, lz4 and zstd are)" in found.reasons[0]
