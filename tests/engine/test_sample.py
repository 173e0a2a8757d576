"""A look into a bag: what it shows, and that no more is read than was allowed."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ros_to_parquet import cli, sample
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.definitions import TypeSource
from ros_to_parquet.sample import BagSample, read_sample
from ros_to_parquet.storage.local import LocalStorage
from tests.engine.bag.bag_bytes import McapFile, mcap_channel, mcap_message, mcap_schema
from tests.engine.sample_bags import START_NS, TOPICS, write_bag, write_defined, write_mcap

MESSAGES = 100
LARGE = 1700
MOST = sample.LEAST_MAX_BYTES
DEFINITION = "uint32 number\nuint8[] data\n"


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small bag a format."""
    folder = tmp_path_factory.mktemp("bags")
    found = {ending: folder / f"x.{ending}" for ending in ("bag", "mcap", "db3")}
    for path in found.values():
        write_bag(path, messages=MESSAGES)
    return found


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bag a format, of 34 MB: a message a second."""
    folder = tmp_path_factory.mktemp("large")
    found = {ending: folder / f"x.{ending}" for ending in ("bag", "mcap", "db3")}
    noise = np.random.default_rng(1).integers(0, 256, (LARGE, 20_000), np.uint8)
    values = [{"number": number, "data": noise[number]} for number in range(LARGE)]
    for path in found.values():
        write_defined(path, DEFINITION, values, topic="/noise", kind="my_msgs/msg/Noise")
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of the reads of bags."""
    sizes: list[int] = []
    real = LocalStorage.open

    def open_counted(self: LocalStorage, info: object) -> object:
        source = real(self, info)  # type: ignore[arg-type]
        read_at = source.read_at

        def counted(offset: int, length: int) -> bytes:
            data = read_at(offset, length)
            sizes.append(len(data))
            return data

        monkeypatch.setattr(source, "read_at", counted, raising=False)
        return source

    monkeypatch.setattr(LocalStorage, "open", open_counted)
    yield sizes


def look(path: Path, **limits: object) -> BagSample:
    return read_sample(str(path), TypeSource(), **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["bag", "mcap", "db3"])
def test_a_small_bag_is_read_whole(bags: dict[str, Path], ending: str) -> None:
    found = look(bags[ending])
    assert found.whole
    assert (found.messages, found.seconds) == (4 * MESSAGES, pytest.approx(1, abs=0.1))
    assert [topic.topic for topic in found.topics] == sorted(TOPICS)
    counts = {(topic.messages, topic.sampled, topic.rejected) for topic in found.topics}
    assert counts == {(MESSAGES, MESSAGES, 0)}
    assert (found.damage, found.note) == ((), "")


def test_times_before_1970(tmp_path: Path) -> None:
    """As unsigned times of 2^63 and more are read."""
    file = McapFile()
    file.add(file.define(mcap_schema(1, "std_msgs/msg/Empty", "", ""), mcap_channel(1, 1, "/a")))
    for number in range(10):
        file.add(mcap_message(1, number, 2**63 + number * 10**8, b"\0\1\0\0\0"))
    (tmp_path / "x.mcap").write_bytes(file.bytes())
    found = look(tmp_path / "x.mcap")
    assert (found.whole, found.seconds, found.first_log_time_ns) == (True, 0.9, -(2**63))


@pytest.mark.parametrize("ending", ["bag", "mcap"])
def test_of_a_large_bag_the_index_and_the_beginning_are_read(
    large: dict[str, Path], ending: str, read: list[int]
) -> None:
    found = look(large[ending], max_bytes=1, seconds=1e6)
    assert sum(read) <= 2 * MOST
    assert found.bytes_read <= MOST < large[ending].stat().st_size / 2
    assert not found.whole
    assert found.messages == LARGE  # by the index
    (topic,) = found.topics
    assert (topic.topic, topic.messages, topic.rejected) == ("/noise", LARGE, 0)
    assert LARGE // 8 < topic.sampled < LARGE // 2
    assert found.damage == ()


@pytest.mark.parametrize("ending", ["bag", "mcap", "db3"])
def test_no_more_than_the_time_that_was_asked_for_is_decoded(large: dict[str, Path], ending: str) -> None:
    found = look(large[ending], seconds=2.0)
    assert 2 <= found.seconds < LARGE - 1
    (topic,) = found.topics
    assert topic.sampled < LARGE
    assert topic.messages == (None if ending == "db3" else LARGE)  # a database's rows are its only index


def test_a_database_is_read_whole_or_not_at_all(large: dict[str, Path], read: list[int]) -> None:
    found = look(large["db3"], max_bytes=MOST)
    assert (found.topics, found.format, sum(read) < 100) == ((), "sqlite3", True)
    assert "it can be read as a whole only, and was not" in found.note


def test_of_what_is_packed_the_beginning_is_read(
    large: dict[str, Path], tmp_path: Path, read: list[int]
) -> None:
    packed = tmp_path / "x.mcap.gz"
    packed.write_bytes(gzip.compress(large["mcap"].read_bytes(), 1))
    found = look(packed, max_bytes=MOST, seconds=1e6)
    assert sum(read) <= 2 * MOST
    assert (found.messages, found.whole) == (None, False)
    (topic,) = found.topics
    assert (topic.messages, 0 < topic.sampled < LARGE) == (None, True)
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.write(large["db3"], "a/x.db3")
    inner = look(archive, max_bytes=MOST)
    assert not inner.whole


def test_a_type_that_nobody_defines_is_unknown_and_one_that_does_not_fit_rejects(tmp_path: Path) -> None:
    unknown = look(write_mcap(tmp_path / "x.mcap", "my_msgs/msg/Thing", [b"\0\1\0\0abcd"] * 3))
    (topic,) = unknown.topics
    assert (topic.unknown, topic.sampled, topic.rejected) == (True, 3, 3)
    assert "my_msgs/msg/Thing: the bag holds no definition of it" in topic.problem
    good = b"\0\1\0\0\5\0\0\0abcd\0"
    cut = look(write_mcap(tmp_path / "y.mcap", "std_msgs/msg/String", [good, good[:7], good]))
    (topic,) = cut.topics
    assert (topic.unknown, topic.sampled, topic.rejected) == (False, 3, 1)
    assert topic.problem


def test_topics_without_a_message_in_the_sample_are_known_too(bags: dict[str, Path], tmp_path: Path) -> None:
    only = look(bags["mcap"], include=("/imu/*",))
    assert [topic.topic for topic in only.topics] == ["/imu/data"]
    two = tmp_path / "late.mcap"
    file = McapFile()
    for number, topic in enumerate(("/early", "/late"), 1):
        file.add(file.define(mcap_schema(number)))
        file.add(file.define(mcap_channel(number, number, topic)))
    payload = b"\0\1\0\0" + (1_000_000).to_bytes(4, "little") + b"x" * 999_999 + b"\0"
    for number in range(40):
        file.add(mcap_message(1 + (number == 39), number, START_NS + number * 1_000_000_000, payload))
    file.count({1: 39, 2: 1})
    two.write_bytes(file.bytes())
    early, late = look(two, seconds=1e6, max_bytes=MOST).topics
    assert (early.messages, early.sampled > 0, early.unknown) == (39, True, False)
    assert (late.messages, late.sampled) == (1, 0)


@pytest.mark.parametrize("ending", ["bag", "mcap"])
def test_a_bag_that_is_cut_off_is_damaged(
    bags: dict[str, Path], large: dict[str, Path], ending: str, tmp_path: Path
) -> None:
    cut = tmp_path / f"x.{ending}"
    for path in (bags[ending], large[ending]):
        cut.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
        found = look(cut, max_bytes=MOST, seconds=1e6)
        assert found.damage_count == len(found.damage)
        assert found.damage or "no index at its end, as one that was cut off" in found.note
        assert sum(topic.sampled for topic in found.topics) > 0
        assert found.messages is None


def test_the_command(bags: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.bag"
    bad.write_bytes(b"nothing")
    words = [
        "sample",
        "--json",
        "--topics",
        "/imu/*",
        "/status",
        "--",
        str(bags["bag"]),
        str(bad),
        str(bags["db3"]),
    ]
    assert cli.main(words) == ExitCode.BAG_UNREADABLE
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [topic["topic"] for topic in first["topics"]] == ["/imu/data", "/status"]
    assert (second["exit_code"], third["format"]) == (65, "sqlite3")
    assert second["problem"].startswith("neither a ROS 1 bag, an MCAP file nor a SQLite bag")
    assert cli.main(["sample", "--max-bytes", "1MiB", str(bags["mcap"]), str(tmp_path / "none.bag")]) == 66
    out = capsys.readouterr().out
    assert "400 messages by its index" in out
    assert "/camera/image/compressed" in out
    assert out.endswith(f"{tmp_path}/none.bag\n  ! {tmp_path}/none.bag: no such file\n")
    assert cli.main(["sample", str(bags["mcap"]), "--max-bytes", "lots"]) == ExitCode.USAGE
    for seconds in ("0", "-1", "nan", "inf", "1e400"):
        assert cli.main(["sample", str(bags["mcap"]), f"--seconds={seconds}"]) == ExitCode.USAGE
    for folder in (str(tmp_path / "none"), ""):
        assert cli.main(["sample", str(bags["mcap"]), "--msg-path", folder]) == ExitCode.USAGE
