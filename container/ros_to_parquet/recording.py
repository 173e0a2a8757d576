"""A rosbag2 folder's ``metadata.yaml``, and what is there held against it."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ros_to_parquet import contract
from ros_to_parquet.bag.model import BagReader
from ros_to_parquet.storage import AccessDeniedError, NotFoundError, Storage, join
from ros_to_parquet.text import and_more

_COMPRESSED = (".zstd", ".zst")


class MetadataError(ValueError):
    """A ``metadata.yaml`` that is none."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a ``metadata.yaml`` says of a recording, as far as it does.

    Attributes:
        files: names of its bag files, without folders (which versions before 4 had in them) and without an
            ending for compression, with as many messages as are said to be in each, or None.
        topics: messages by topic, in all files together.
    """

    files: Mapping[str, int | None] = field(default_factory=dict)
    topics: Mapping[str, int] = field(default_factory=dict)

    def messages(self, name: str) -> int | None:
        """How many messages a file is said to have."""
        if len(self.files) == 1 and name in self.files and self.topics:
            return sum(self.topics.values())
        return self.files.get(name)


@functools.lru_cache(maxsize=4)
def parse(text: str) -> Recording:
    """Of any version of the file.

    Raises:
        MetadataError: it is no YAML, or not of a rosbag2 recording.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise MetadataError(" ".join(str(error).split())[:200]) from error
    said = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
    if not isinstance(said, dict):
        raise MetadataError("it has no rosbag2_bagfile_information")
    files: dict[str, int | None] = {}
    for path in _list(said, "relative_file_paths"):
        files[plain_name(str(path))] = None
    for each in _list(said, "files"):
        if isinstance(each, dict) and "path" in each:
            files[plain_name(str(each["path"]))] = _count(each)
    topics: dict[str, int] = {}
    for each in _list(said, "topics_with_message_count"):
        about, count = (each.get("topic_metadata"), _count(each)) if isinstance(each, dict) else (None, None)
        if isinstance(about, dict) and "name" in about and count is not None:
            name = str(about["name"])
            topics[name] = topics.get(name, 0) + count
    return Recording(files, topics)


def _list(said: Mapping[str, Any], key: str) -> list[Any]:
    value = said.get(key)
    return value if isinstance(value, list) else []


def _count(said: Mapping[str, Any]) -> int | None:
    value = said.get("message_count")
    return value if isinstance(value, int) else None


def plain_name(path: str) -> str:
    """A file's name without its folders, and without the ending that rosbag2 adds to compressed ones.

    >>> plain_name("run/run_0.db3.zstd")
    'run_0.db3'
    """
    name = posixpath.basename(path.replace("\\", "/"))
    return next((name.removesuffix(end) for end in _COMPRESSED if name.endswith(end)), name)


@dataclass(frozen=True, slots=True)
class Folder:
    """A bag's folder: what its metadata.yaml says, and what of that is not so.

    Attributes:
        recording: empty where it cannot be read.
        damage: files of the recording that are not there; said once, for its first bag in the plan.
        remarks: what else people should know.
    """

    recording: Recording
    damage: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def check_folder(plan: contract.Plan, bag: contract.PlannedBag, text: str, storage: Storage) -> Folder:
    """Holds the files that ``text`` (a metadata.yaml) lists against those that are there.

    Raises:
        StorageError: what is there cannot be told.
    """
    own = [each for each in plan.bags if each.metadata_uri == bag.metadata_uri]
    is_first = own[0] == bag
    try:
        recording = parse(text)
    except MetadataError as error:
        remark = f"its folder's metadata.yaml cannot be read, so nothing was held against it: {error}"
        return Folder(Recording(), remarks=(remark,) if is_first else ())
    remarks = []
    if recording.files and plain_name(bag.uri) not in recording.files:
        remarks.append("its folder's metadata.yaml does not list it")
    planned = {plain_name(each.uri) for each in own}
    folder = posixpath.dirname(bag.metadata_uri)
    damage = [
        f"{name} of the same recording, which metadata.yaml lists, is not there"
        for name in recording.files
        # What is there and not planned is done already, or left out by the conf.
        if is_first
        and name not in planned
        and not any(_is_there(storage, join(folder, name + end)) for end in ("", *_COMPRESSED))
    ]
    return Folder(recording, tuple(damage), tuple(remarks))


def _is_there(storage: Storage, uri: str) -> bool:
    try:
        storage.head(uri)
    except (NotFoundError, AccessDeniedError):  # the latter for what is not there where it may not be listed
        return False
    return True


def other_counts(recording: Recording, name: str, reader: BagReader) -> str:
    """In words, where a whole bag has not the messages that its recording says; empty where it has."""
    found: dict[str, int] = {}
    for connection in reader.connections():
        found[connection.topic] = found.get(connection.topic, 0) + reader.counts[connection.id]
    if len(recording.files) == 1 and recording.topics:
        differing = [
            f"{topic} {recording.topics.get(topic, 0)} ({found.get(topic, 0)} found)"
            for topic in sorted(recording.topics.keys() | found.keys())
            if recording.topics.get(topic, 0) != found.get(topic, 0)
        ]
        return and_more(differing)
    said, messages = recording.messages(name), sum(found.values())
    return "" if said in (None, messages) else f"{said} ({messages} found)"
