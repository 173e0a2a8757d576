"""Which files of a drive a catalogue is to point at, and what their columns are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ros_to_parquet import contract
from ros_to_parquet.contract import OutputFile
from ros_to_parquet.drift import TopicDefinition
from ros_to_parquet.lake import DriveRecord
from ros_to_parquet.schema_records import read_definitions
from ros_to_parquet.storage import Storage


class CatalogError(ValueError):
    """A catalogue that cannot be written, or a lake that it cannot hold; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What has been done in a catalogue.

    Attributes:
        tables: the catalogue's names of the tables that have the drive's rows, and of views of these.
        changed: how many partitions (Glue) or files (Iceberg) were added, changed and removed; 0 where all
            was as it should be.
        left_out: what the catalogue cannot hold, a sentence each.
    """

    tables: tuple[str, ...] = ()
    changed: int = 0
    left_out: tuple[str, ...] = ()

    def add(self, other: Registered) -> Registered:
        return Registered(
            tuple(sorted({*self.tables, *other.tables})),
            self.changed + other.changed,
            tuple(dict.fromkeys((*self.left_out, *other.left_out))),
        )


def may_be_elsewhere(record: DriveRecord) -> bool:
    """Whether a catalogue may have files of the drive in other tables than its manifests name now."""
    return not record.manifests or any(commit.replaces for commit in record.commits)


Partition = tuple[str, str]
"""A table of the lake and the digits of a definition."""


def partitions(record: DriveRecord) -> dict[Partition, list[OutputFile]]:
    """The drive's files with rows, by where they belong, in the order of their paths."""
    found: dict[Partition, list[OutputFile]] = {}
    for file in sorted(record.files(), key=lambda file: file.path):
        digits = contract.schema_of(file.path)
        if file.rows and digits:
            found.setdefault((file.path.partition("/")[0], digits), []).append(file)
    return found


def topics_of(record: DriveRecord) -> dict[str, list[str]]:
    """By table of the lake, its topics in the drive."""
    found: dict[str, dict[str, None]] = {}
    for manifest in contract.standing_manifests(record.manifests, record.commits):
        for topic in manifest.topics:
            found.setdefault(topic.table, {})[topic.topic] = None
    return {table: sorted(topics) for table, topics in found.items()}


def definitions(
    storage: Storage, output: str, found: Mapping[Partition, Sequence[OutputFile]]
) -> dict[Partition, TopicDefinition]:
    """The definition of each partition, where it can be read."""
    read = read_definitions(
        storage, output, [(table, digits, files[0].path) for (table, digits), files in found.items()]
    )
    return {key: each for key, each in zip(found, read, strict=True) if each is not None}
