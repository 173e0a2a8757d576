"""ROS's own reader, writer and decoder (``rosbag`` and ``genpy``) against the engine, from bag to Parquet."""

from __future__ import annotations

import pickle
import random
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag1 import Writer

from ros_to_parquet.layout import standard_layout
from ros_to_parquet.program import ROS1
from tests.engine.decode import naive, oracles
from tests.engine.sample_bags import START_NS, TOPICS, write_bag

from .lake import REAL_BAGS, assert_same, extract

pytestmark = pytest.mark.oracle

PYTHONS = ("/usr/bin/python3", "python3")
"""Where a Python with ROS's own packages may be: Debian and Ubuntu install them for the system's."""

SCRIPT = Path(__file__).with_name("ros1_rosbag.py")

REFUSED = {"empty-file.bag": "empty file"}
"""Real bags that ``rosbag`` does not open, with what it says."""


@dataclass(frozen=True)
class Dump:
    """All messages of a bag by ``rosbag``, by topic; ``undecoded`` those that ``genpy`` cannot decode."""

    values: Mapping[str, list[tuple[int, Any]]]
    undecoded: Mapping[str, list[int]]

    @property
    def messages(self) -> int:
        return sum(map(len, self.values.values())) + sum(map(len, self.undecoded.values()))


@pytest.fixture(scope="session")
def ros_python() -> str:
    for python in PYTHONS:
        try:
            done = subprocess.run([python, "-c", "import rosbag, roslz4"], capture_output=True, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip("no Python with ROS's rosbag; on Debian and Ubuntu: apt-get install python3-rosbag")


def run(python: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


def dump(python: str, bag: Path, folder: Path) -> Dump:
    target = folder / "rosbag.pickle"
    done = run(python, "dump", bag, target)
    assert done.returncode == 0, done.stderr
    values: dict[str, list[tuple[int, Any]]] = {}
    undecoded: dict[str, list[int]] = {}
    for topic, _type_name, _md5, time_ns, _data, value in pickle.loads(target.read_bytes()):
        if value is None:
            undecoded.setdefault(topic, []).append(time_ns)
        else:
            values.setdefault(topic, []).append((time_ns, value))
    return Dump(values, undecoded)


@pytest.mark.skipif(not REAL_BAGS.is_dir(), reason="the folder of real bags is not there")
@pytest.mark.parametrize("bag", sorted(REAL_BAGS.rglob("*.bag")), ids=lambda bag: bag.name)
def test_real_bags(ros_python: str, bag: Path, tmp_path: Path) -> None:
    extracted = extract(bag, tmp_path)
    if bag.name in REFUSED:
        assert REFUSED[bag.name] in run(ros_python, "dump", bag, tmp_path / "none").stderr
        assert extracted.unreadable
        return
    theirs = dump(ros_python, bag, tmp_path)
    compared = assert_same(extracted, theirs.values, undecoded=theirs.undecoded)
    assert compared == sum(map(len, theirs.values.values())) - sum(map(len, extracted.rejected.values()))


@pytest.mark.parametrize("compression", ["none", "bz2", "lz4"])
@pytest.mark.parametrize("chunk_bytes", [1, 3000, 768 * 1024])
def test_bags_that_ros_itself_writes(
    ros_python: str, compression: str, chunk_bytes: int, tmp_path: Path
) -> None:
    source, bag = tmp_path / "source.bag", tmp_path / "ros.bag"
    write_bag(source, messages=30)
    done = run(ros_python, "rewrite", source, bag, compression, chunk_bytes)
    assert done.returncode == 0, done.stderr
    theirs = dump(ros_python, bag, tmp_path)
    assert {topic: len(rows) for topic, rows in theirs.values.items()} == dict.fromkeys(TOPICS, 30)
    assert assert_same(extract(bag, tmp_path), theirs.values) == 30 * len(TOPICS)


@pytest.mark.parametrize("compression", ["none", "bz2", "lz4"])
def test_a_recorder_that_dies_leaves_what_its_reindexing_finds(
    ros_python: str, compression: str, tmp_path: Path
) -> None:
    source, bag = tmp_path / "source.bag", tmp_path / "dead.bag"
    write_bag(source, messages=30)
    assert run(ros_python, "rewrite", source, bag, compression, 2000, 100).returncode == 0
    theirs = dump(ros_python, bag, tmp_path)
    extracted = extract(bag, tmp_path)
    # Of a chunk that was not ended, rosbag's reindexing takes nothing; the engine what is there.
    assert 0 < theirs.messages <= sum(extracted.messages.values()) <= 100
    if sum(extracted.messages.values()) == theirs.messages:
        assert assert_same(extracted, theirs.values) == theirs.messages


def test_every_standard_type(ros_python: str, tmp_path: Path) -> None:
    """Random messages of all of ROS 1's standard types, decoded by ``genpy`` from their definitions."""
    store = oracles.typestore("ros1_noetic")
    rng = random.Random("genpy")
    bag = tmp_path / "all.bag"
    written = 0
    with Writer(bag) as writer:
        for name in sorted(store.fielddefs):
            definition, _ = store.generate_msgdef(name, 1)
            if name.startswith("builtin_interfaces") or re.search(r"MSG: \S+\n(=|$)", definition):
                continue  # genpy reads nothing of a definition that has an empty message among others
            layout = standard_layout(name, "ros1_noetic", 1)
            topic = writer.add_connection(f"/{name.replace('/', '.')}", name, typestore=store)
            for number in range(10):
                message = naive.random_message(layout.root, ROS1, rng)
                writer.write(topic, START_NS + number, naive.encode(layout.root, ROS1, message))
                written += 1
    theirs = dump(ros_python, bag, tmp_path)
    extracted = extract(bag, tmp_path)
    compared = assert_same(extracted, theirs.values, undecoded=theirs.undecoded)
    assert theirs.messages == written > 1500
    assert compared > 0.9 * written
