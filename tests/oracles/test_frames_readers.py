"""Frames tables as others read them: pandas, polars, Hugging Face's datasets and PyTorch, where installed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ros_to_parquet.cli import main
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.lake import Lake
from tests.docs.blocks import blocks_of
from tests.engine.sample_bags import write_bag

pytestmark = pytest.mark.oracle

FRAMES = 40
SPREAD = "lake/_frames/frames/**/*.parquet"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A lake of two drives, as docs/frames.md has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for number in (1, 2):
        bag = tmp_path / f"{number}.bag"
        write_bag(bag, messages=FRAMES)
        drive = ["--drive-id", f"drive_{number}"]
        assert main(["extract", str(bag), "--output", "lake", *drive]) == ExitCode.OK
        flags = ["--reference", "/camera/image/compressed", "--topic", "/imu/data=interpolated"]
        assert main(["frames", "lake", *drive, *flags]) == ExitCode.OK
    yield


def expected() -> list[Any]:
    """As pyarrow reads it."""
    return list(Lake("lake").frames().to_table().column("imu.data").to_pylist())


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet("lake/_frames/frames")
    assert list(frame.columns) == ["time", "time_ns", "camera.image.compressed", "imu.data", "drive_id"]
    assert sorted(frame["drive_id"].unique()) == ["drive_1", "drive_2"]
    found = [None if value is None else value["gap_ns"] for value in frame["imu.data"]]
    assert found == [None if value is None else value["gap_ns"] for value in expected()]


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(SPREAD, hive_partitioning=True)
    assert frame.sort("drive_id", "time_ns")["imu.data"].to_list() == expected()


def test_datasets_and_torch() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        "parquet", data_files=SPREAD, split="train", cache_dir=os.environ["HF_DATASETS_CACHE"]
    )
    assert rows["imu.data"][:] == expected()
    assert datasets.Dataset(Lake("lake").frames().to_table())["imu.data"][:] == expected()
    torch = pytest.importorskip("torch")
    there = rows.filter(lambda row: row["imu.data"] is not None)
    turns = there.map(lambda row: row["imu.data"]["angular_velocity"], remove_columns=there.column_names)
    loader = torch.utils.data.DataLoader(turns.with_format("torch"), batch_size=16)
    found = torch.cat([batch["x"] for batch in loader]).tolist()
    wanted = [value["angular_velocity"]["x"] for value in expected() if value is not None]
    assert all(math.isclose(one, two, rel_tol=1e-6) for one, two in zip(found, wanted, strict=True))


def test_what_the_documentation_says(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pandas", "polars", "datasets", "torch"):
        pytest.importorskip(name)
    blocks = [each.body for each in blocks_of("docs/frames.md") if each.language == "py"]
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "docs/frames.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) > 2 * FRAMES // 8
