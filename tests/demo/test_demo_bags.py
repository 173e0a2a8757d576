"""``--bags``: which files of a folder become which drives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_batch_ros.conf import parse_conf
from demo.bags import NoBagsError, group

REAL_BAGS = Path(__file__).parents[2] / "../shared/bags"


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names(folder: Path) -> dict[str, list[str]]:
    return {drive.drive_id: sorted(file.name for file in drive.files) for drive in group(folder).drives}


def test_sub_folders_are_drives_and_bags_beside_them_one_more(tmp_path: Path) -> None:
    root = tree(tmp_path / "fleet", "monday/a.bag", "monday/b.bag", "tuesday/c.mcap", "d.db3", "notes.txt")
    assert names(root) == {"fleet": ["d.db3"], "monday": ["a.bag", "b.bag"], "tuesday": ["c.mcap"]}
    assert group(root).not_bags == ("notes.txt",)
    assert group(root).notes == ()


def test_a_single_bag_is_a_drive(tmp_path: Path) -> None:
    assert names(tree(tmp_path, "my drive.bag") / "my drive.bag") == {"my_drive": ["my drive.bag"]}


def test_ids_are_made_safe_and_different(tmp_path: Path) -> None:
    root = tree(tmp_path, "a+b/x.bag", "a b/x.bag", "_private/x.bag", "ü/x.bag", "ok-1.2_3/x.bag")
    (note,) = group(root).notes
    assert note.endswith(": _private is private; a b is a_b; a+b is a_b-2; ü is drive")
    ids = set(names(root))
    assert ids == {"a_b", "a_b-2", "private", "drive", "ok-1.2_3"}
    parse_conf(
        {"drives_to_process": {drive_id: {"bucket": "bags", "prefix": f"{drive_id}/"} for drive_id in ids}}
    )


def test_a_rosbag2_folder_stays_together(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "r", "day/rec/metadata.yaml", "day/rec/rec_0.db3", "day/rec/rec_1.db3", "day/x.bag"
    )
    assert names(root) == {"day": ["rec/metadata.yaml", "rec/rec_0.db3", "rec/rec_1.db3", "x.bag"]}
    assert not group(root).drives[0].recursive


def test_a_folder_that_is_a_rosbag2_recording_is_one_drive(tmp_path: Path) -> None:
    root = tree(tmp_path / "rec", "metadata.yaml", "rec_0.mcap")
    assert names(root) == {"rec": ["metadata.yaml", "rec_0.mcap"]}
    assert not group(root).drives[0].recursive
    assert names(tree(tmp_path / "two", "rec/metadata.yaml", "rec/rec_0.mcap")) == {
        "rec": ["metadata.yaml", "rec_0.mcap"]
    }


def test_bags_deeper_down_need_the_confs_recursive(tmp_path: Path) -> None:
    (drive,) = group(tree(tmp_path / "r", "car/2026/05/x.bag")).drives
    assert [file.name for file in drive.files] == ["2026/05/x.bag"]
    assert drive.recursive


@pytest.mark.parametrize(
    ("files", "drives"),
    [
        (("talker.mcap", "talker.db3"), {"d-db3": ["talker.db3"], "d-mcap": ["talker.mcap"]}),
        (("x.bag", "x.orig.bag"), {"d-bag": ["x.bag"], "d-orig-bag": ["x.orig.bag"]}),
        (
            ("x.bag", "x/metadata.yaml", "x/x_0.mcap", "y.bag"),
            {"d-bag": ["x.bag", "y.bag"], "d-rosbag2-mcap": ["x/metadata.yaml", "x/x_0.mcap"]},
        ),
    ],
)
def test_one_recording_in_two_formats_becomes_two_drives(
    tmp_path: Path, files: tuple[str, ...], drives: dict[str, list[str]]
) -> None:
    root = tree(tmp_path / "r", *(f"d/{name}" for name in files))
    assert names(root) == drives
    (note,) = group(root).notes
    assert note.startswith("d: ")
    assert all(drive_id in note for drive_id in drives)


def test_hidden_files_and_folders_without_bags_are_no_drives(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", ".cache/x.bag", "d/._x.bag", "d/x.bag", "docs/readme.md")
    assert names(root) == {"d": ["x.bag"]}
    assert group(root).not_bags == ("docs/readme.md",)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    disk = tree(tmp_path / "disk", "x.bag")
    root = tree(tmp_path / "r", "other/y.bag")
    (root / "monday").symlink_to(disk)
    (disk / "again").symlink_to(root)
    assert {"monday": ["x.bag"], "other": ["y.bag"]}.items() <= names(root).items()


def test_no_bags_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(NoBagsError, match=r"no \.bag, \.mcap or \.db3 file in it or below; there is nothing"):
        group(tmp_path)
    with pytest.raises(NoBagsError, match=r"there is 1 other file \(a/x\.txt\)"):
        group(tree(tmp_path, "a/x.txt"))
    with pytest.raises(NoBagsError, match="no such folder"):
        group(tmp_path / "nowhere")


@pytest.mark.skipif(not REAL_BAGS.is_dir(), reason="no folder of real bags")
def test_every_real_bag_is_in_one_drive_or_named() -> None:
    files = {path for path in REAL_BAGS.resolve().rglob("*") if path.is_file()}
    grouping = group(REAL_BAGS)
    taken = [file.path for drive in grouping.drives for file in drive.files]
    left_out = {REAL_BAGS.resolve() / name for name in grouping.not_bags}
    assert len(taken) == len(set(taken))
    assert set(taken) | left_out == files
    assert not set(taken) & left_out


def test_what_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "day/good.bag")
    (root / "day/broken.bag").symlink_to(tmp_path / "nowhere.bag")
    os.mkfifo(root / "day/pipe.mcap")
    assert names(root) == {"day": ["good.bag"]}
    assert [note.rpartition(" ")[2] for note in group(root).notes] == ["day/broken.bag", "day/pipe.mcap"]


def test_a_file_that_is_no_bag_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(NoBagsError, match=r"notes\.txt: no \.bag, \.mcap or \.db3 file"):
        group(tree(tmp_path, "notes.txt") / "notes.txt")
