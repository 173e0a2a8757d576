"""Where bytes come from changes nothing of what is found in them."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ros_to_parquet.bag import BagReader, open_bag, source
from ros_to_parquet.memory import DEFAULT_BUDGET
from ros_to_parquet.storage import LocalSource, LocalStorage
from tests.engine.bag.bag_bytes import Memory
from tests.engine.bag.test_bag_join import found_in, make_mcap, make_ros1

SMALL = dataclasses.replace(DEFAULT_BUDGET, window=250_000)
BAGS = {"rosbag1": make_ros1("lz4").data, "mcap": make_mcap("zstd").data}


@dataclass
class Shrunk(Memory):
    """Says that it is as large as it was."""

    was: int = 0

    @property
    def size(self) -> int:
        return self.was


def read(reader: BagReader) -> tuple[object, ...]:
    found = found_in(list(reader.blocks()))
    return found, reader.damage, reader.counts, reader.bytes_read


@pytest.mark.parametrize("left", [1.0, 0.6])
@pytest.mark.parametrize("name", BAGS)
def test_a_file_is_read_as_memory_is(
    name: str, left: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "READ_BYTES", 200_000)  # larger ones are read in pieces
    for place in ("HEAD_BYTES", "TAIL_BYTES"):
        monkeypatch.setattr(source, place, 500)
    data = BAGS[name]
    assert len(data) > 3 * SMALL.window
    shown = data[: int(left * len(data))]
    wanted = read(open_bag(Shrunk(shown, was=len(data)), budget=SMALL))

    read_into, pieces = LocalSource.read_into, []

    def counted(file: LocalSource, offset: int, memory: memoryview) -> int:
        pieces.append(offset)
        return read_into(file, offset, memory)

    monkeypatch.setattr(LocalSource, "read_into", counted)
    path = tmp_path / "a.bag"
    path.write_bytes(data)
    with closing(LocalStorage().open(LocalStorage().head(str(path)))) as file:
        path.write_bytes(shown)
        assert read(open_bag(file, budget=SMALL)) == wanted
    assert len(pieces) > 1
