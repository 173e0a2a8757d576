"""From a folder of bags to drives: which files belong together, and under which ids."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_batch_ros.conf import MAX_DRIVE_ID_LENGTH
from airflow_batch_ros.plan import bag_format
from ros_to_parquet.contract import recording_stem

METADATA = "metadata.yaml"


class NoBagsError(FileNotFoundError):
    """A path that holds no bags; the message says what is there."""


@dataclass(frozen=True, slots=True)
class DriveFile:
    """A file of a drive; ``name`` is its path below the drive's prefix, with ``/``."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class DriveFiles:
    drive_id: str
    files: tuple[DriveFile, ...]

    @property
    def recursive(self) -> bool:
        """Whether bags lie deeper than directly below the prefix and in rosbag2 folders there."""
        described = {file.name.rpartition("/")[0] for file in self.files if _base(file.name) == METADATA}
        return any(
            folder and ("/" in folder or folder not in described)
            for file in self.files
            if bag_format(file.name) and (folder := file.name.rpartition("/")[0]) is not None
        )


@dataclass(frozen=True, slots=True)
class Grouping:
    """A folder as drives.

    Attributes:
        notes: a sentence for each thing that a person may not expect.
        not_bags: files that are left out, relative to the folder.
    """

    drives: tuple[DriveFiles, ...]
    notes: tuple[str, ...]
    not_bags: tuple[str, ...]


def group(folder: Path) -> Grouping:
    """``folder`` as drives: each sub-folder is one, and bags directly inside are one named after it.

    A folder that is one rosbag2 recording is one drive. Where a sub-folder holds one recording in two
    formats, which would give every row twice, each format becomes a drive of its own.

    Raises:
        NoBagsError: there is no such path, or no bag below it.
    """
    folder = folder.expanduser().resolve()
    if folder.is_file() and bag_format(folder.name):
        only = DriveFiles(_drive_id(folder.stem, set()), (DriveFile(folder, folder.name),))
        return Grouping((only,), (), ())
    if not folder.is_dir():
        what = "no .bag, .mcap or .db3 file" if folder.exists() else "no such folder"
        raise NoBagsError(f"{folder}: {what}; give a folder whose sub-folders hold bags, or a bag file")
    here: list[DriveFile] = []
    below: dict[str, list[DriveFile]] = {}
    not_bags: list[str] = []
    unreadable: list[str] = []
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        first, slash, rest = name.partition("/")
        if bag_format(name) is None and path.name != METADATA:
            not_bags.append(name)
        elif not (path.is_file() and os.access(path, os.R_OK)):
            unreadable.append(name)
        elif slash:
            below.setdefault(first, []).append(DriveFile(path, rest))
        else:
            here.append(DriveFile(path, name))
    drives: list[DriveFiles] = []
    notes = [f"left out, a broken link or not a file that can be read: {name}" for name in unreadable]
    taken: set[str] = set()
    renamed: list[str] = []
    for name, files in [(folder.name, here), *below.items()]:
        if any(bag_format(file.name) for file in files):
            made = _split(name, files, taken, notes)
            drives += made
            if not made[0].drive_id.startswith(name):
                renamed.append(f"{name} is {', '.join(drive.drive_id for drive in made)}")
    if renamed:
        more = f"; and {len(renamed) - 5} more" if len(renamed) > 5 else ""
        notes.append(f"drive ids have letters, digits and _-. alone: {'; '.join(renamed[:5])}{more}")
    if not drives:
        seen = _seen([*not_bags, *unreadable])
        raise NoBagsError(f"{folder}: no .bag, .mcap or .db3 file in it or below; there is {seen}")
    return Grouping(tuple(drives), tuple(notes), tuple(not_bags))


def whole_folder(folder: Path) -> DriveFiles:
    """All files of ``folder`` as one drive that is named after it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple(DriveFile(path, path.relative_to(folder).as_posix()) for path in paths)
    return DriveFiles(folder.name, files)


def _seen(not_bags: Sequence[str]) -> str:
    if not not_bags:
        return "nothing"
    shown = ", ".join([*not_bags[:3], *(["..."] if len(not_bags) > 3 else [])])
    return f"{len(not_bags)} other file{'' if len(not_bags) == 1 else 's'} ({shown})"


def _files(folder: Path) -> Iterable[Path]:
    """All files below ``folder`` but hidden ones; links are followed, each folder is entered once."""
    entered: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield Path(root) / name


def _split(name: str, files: Sequence[DriveFile], taken: set[str], notes: list[str]) -> list[DriveFiles]:
    """One drive, or one for each form in which a recording is there; new ids go to ``taken``."""
    described = {file.name.rpartition("/")[0] for file in files if _base(file.name) == METADATA}
    forms_of: dict[str, set[str]] = {}
    by_form: dict[str, list[DriveFile]] = {}
    for file in files:
        if bag_format(file.name):
            form = _form(file.name, described)
            by_form.setdefault(form, []).append(file)
            forms_of.setdefault(_recording(file.name, described), set()).add(form)
    twice = sorted(recording for recording, forms in forms_of.items() if len(forms) > 1)
    if not twice:
        return [DriveFiles(_drive_id(name, taken), tuple(files))]
    metadata = [file for file in files if _base(file.name) == METADATA]
    drives = []
    for form, bags in sorted(by_form.items()):
        folders = {bag.name.rpartition("/")[0] for bag in bags}
        described_here = [file for file in metadata if file.name.rpartition("/")[0] in folders]
        drives.append(DriveFiles(_drive_id(f"{name}-{form}", taken), (*bags, *described_here)))
    shown = ", ".join(twice[:3]) + (f" and {len(twice) - 3} more" if len(twice) > 3 else "")
    ids = ", ".join(drive.drive_id for drive in drives)
    notes.append(f"{name}: {shown} is there in more than one format, so each format is a drive: {ids}")
    return drives


def _recording(name: str, described: set[str]) -> str:
    """What the names of one recording have in common, whatever its format."""
    folder, _, base = name.rpartition("/")
    if folder and folder in described:
        return folder
    stem = recording_stem(base)
    return f"{folder}/{stem}" if folder else stem


def _form(name: str, described: set[str]) -> str:
    """The form of a bag file, for a drive's id: ``mcap``, ``bag-gz``, ``orig-bag``, ``rosbag2-db3``."""
    ending = name[len(recording_stem(name)) :].lower().lstrip(".").replace(".", "-")
    return f"rosbag2-{ending}" if name.rpartition("/")[0] in described - {""} else ending


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _drive_id(name: str, taken: set[str]) -> str:
    """``name`` as a drive id that is not ``taken`` yet; letters, digits and ``_-.`` stay as they are."""
    wanted = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.-")[: MAX_DRIVE_ID_LENGTH - 4] or "drive"
    drive_id, number = wanted, 1
    while drive_id in taken:
        number += 1
        drive_id = f"{wanted}-{number}"
    taken.add(drive_id)
    return drive_id
