"""What a drive's manifests say: read as they were at one moment, however many there are."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, Manifest, SchemaTotal
from ros_to_parquet.storage import NotFoundError, Storage, StorageError, join
from ros_to_parquet.text import and_more

T = TypeVar("T")

THREADS = 16
"""Requests at a time: a drive of 10,000 shards is read in seconds."""

READ_TRIES = 20


@dataclass(frozen=True, slots=True)
class DriveRecord:
    """All that manifests say of one drive; see `contract.standing_manifests`."""

    drive_id: str
    commits: tuple[DriveManifest, ...]
    manifests: tuple[Manifest, ...]

    @property
    def superseded(self) -> frozenset[str]:
        """Plan ids whose output a commit has replaced."""
        return frozenset(plan_id for commit in self.commits for plan_id in commit.replaces)

    @property
    def lacking(self) -> str:
        """See `contract.lacking_manifests`."""
        return contract.lacking_manifests(
            self.commits, ((each.plan_id, each.shard) for each in self.manifests)
        )

    def files(self) -> list[contract.OutputFile]:
        """The drive's Parquet files: each of its rows is in exactly one of them."""
        standing = contract.standing_manifests(self.manifests, self.commits)
        return [file for manifest in standing for topic in manifest.topics for file in topic.files]


def read_drive(storage: Storage, output: str, drive_id: str) -> DriveRecord:
    """Reads every manifest of a drive, as they were at one moment.

    Raises:
        StorageError: it is replaced again and again meanwhile.
    """
    keys = list_drive(storage, output, drive_id)
    for _ in range(READ_TRIES):
        record = DriveRecord(
            drive_id=drive_id,
            commits=tuple(load_all(storage, DriveManifest, keys.commits)),
            # Without the numbers that quality checks are made of: the commit alone asks for them, and of
            # 10,000 shards they are a gigabyte.
            manifests=tuple(
                dataclasses.replace(each, quality="") for each in load_all(storage, Manifest, keys.manifests)
            ),
        )
        read, keys = keys, list_drive(storage, output, drive_id)
        # Listing takes its time, too; but for what a new last word makes void, nothing ever goes.
        if (
            keys.commits == read.commits
            and set(keys.manifests) >= set(read.manifests)
            and (len(record.commits), len(record.manifests)) == (len(read.commits), len(read.manifests))
        ):
            return record
    raise StorageError(f"{output}: drive {drive_id} is being replaced again and again; try again later")


def read_whole(storage: Storage, output: str, drive_id: str) -> DriveRecord:
    """As `read_drive`.

    Raises:
        LackingError: the drive lacks manifests, and so rows.
        StorageError: as `read_drive`.
    """
    record = read_drive(storage, output, drive_id)
    check_whole(output, drive_id, record.lacking)
    return record


def derive(storage: Storage, output: str, drive_id: str, make: Callable[[DriveRecord], T]) -> T:
    """What ``make`` makes of a drive's record, once more each time that manifests have changed meanwhile.

    So of several that write what follows from the manifests at once, the last to end has written what
    follows from those that are there. ``make`` may find that files are gone (`FileNotFoundError`).

    Raises:
        LackingError: the drive lacks manifests; what was made of it before stays as it is.
        StorageError: the drive is replaced again and again meanwhile.
    """
    for _ in range(READ_TRIES):
        before = list_drive(storage, output, drive_id)
        record = read_whole(storage, output, drive_id)
        try:
            made = make(record)
        except FileNotFoundError:
            if list_drive(storage, output, drive_id) == before:
                raise
            continue
        if list_drive(storage, output, drive_id) == before:
            return made
    raise StorageError(f"{output}: drive {drive_id} is being replaced again and again; try again later")


@dataclass(frozen=True, slots=True)
class DriveScan:
    """What manifests say of one drive, those of shards one after the other.

    Attributes:
        tries: of each shard, by plan id and number: how many have begun.
        standing: see `contract.standing_manifests`; raises `ReplacedError` where the drive changes meanwhile.
        lacking: see `contract.lacking_manifests`.
    """

    commits: tuple[DriveManifest, ...]
    tries: Mapping[tuple[str, int], int]
    standing: Iterator[Manifest]
    lacking: str


class LackingError(NotFoundError):
    """Manifests that a drive's commits count are not there."""


class ReplacedError(StorageError):
    """A run has replaced a drive while it was read."""


def scan_drive(storage: Storage, output: str, drive_id: str) -> DriveScan:
    """As `read_drive`, without keeping the shards' manifests, of which there may be 10,000."""
    keys = list_drive(storage, output, drive_id)
    commits = tuple(load_all(storage, DriveManifest, keys.commits))

    def standing() -> Iterator[Manifest]:
        read = 0
        for manifest in load_all(storage, Manifest, keys.manifests):
            read += 1
            yield from contract.standing_manifests([manifest], commits)
        if (len(commits), read, list_commits(storage, output, drive_id)) != (
            *(len(keys.commits), len(keys.manifests)),
            keys.commits,
        ):
            raise ReplacedError(f"{output}: drive {drive_id} was replaced while it was read; try again")

    lacking = contract.lacking_manifests(commits, map(shard_of, keys.manifests))
    return DriveScan(commits, keys.tries, standing(), lacking)


@dataclass(frozen=True, slots=True)
class TableSchemas:
    """The topics and definitions that a table has, in the order of their first log times."""

    topics: tuple[str, ...] = ()
    schemas: tuple[SchemaTotal, ...] = ()

    def add(self, topics: Iterable[str], schemas: Iterable[SchemaTotal]) -> TableSchemas:
        return TableSchemas(
            tuple(dict.fromkeys((*self.topics, *topics))),
            contract.add_schemas((*self.schemas, *schemas)),
        )


def read_schemas(storage: Storage, output: str, drive_id: str) -> dict[str, TableSchemas]:
    """What a drive has rows of, by table; see `contract.standing_manifests`.

    Drive manifests say it for all shards at once; only of plans that are not committed are shards' read.

    Raises:
        StorageError: it is replaced again and again meanwhile.
    """
    for _ in range(READ_TRIES):
        found: dict[str, TableSchemas] = {}
        keys = list_drive(storage, output, drive_id)
        commits = list(load_all(storage, DriveManifest, keys.commits))
        superseded = {plan_id for commit in commits for plan_id in commit.replaces}
        # An earlier version's commit does not say it.
        saying = [
            commit for commit in commits if all(each.schemas or not each.rows for each in commit.tables)
        ]
        for commit in saying:
            if commit.plan_id not in superseded:
                for each in commit.tables:
                    found[each.table] = found.get(each.table, TableSchemas()).add(each.topics, each.schemas)
        done = superseded | {commit.plan_id for commit in saying}
        uris = [uri for uri in keys.manifests if uri.split("/")[-2] not in done]
        read = 0
        for manifest in load_all(storage, Manifest, uris):
            read += 1
            if contract.standing_manifests([manifest], commits):
                for topic in manifest.topics:
                    table = found.get(topic.table, TableSchemas())
                    found[topic.table] = table.add([topic.topic], contract.file_schemas(topic))
        if len(commits) == len(keys.commits) and read == len(uris):
            return found  # else a commit has replaced some of them meanwhile
    raise StorageError(f"{output}: drive {drive_id} is being replaced again and again; try again later")


def list_commits(storage: Storage, output: str, drive_id: str) -> list[str]:
    """URIs of the drive's drive manifests: another list means that something has become of it."""
    return list_drive(storage, output, drive_id).commits


def standing_commits(commits: Iterable[DriveManifest]) -> list[DriveManifest]:
    """The commits that no later one has replaced."""
    commits = list(commits)
    superseded = {plan_id for commit in commits for plan_id in commit.replaces}
    return [each for each in commits if each.plan_id not in superseded and each.taken_over_by is None]


def no_lake(uri: str) -> NotFoundError:
    """What a command says of a place where nothing of a lake is."""
    return NotFoundError(f"{uri}: no lake is there (no drive has a manifest)")


def check_whole(uri: str, drive_id: str, lacking: str) -> None:
    """Checks that a drive which is read lacks no rows.

    Raises:
        LackingError: manifests are ``lacking`` that its commits count.
    """
    if lacking:
        raise LackingError(
            f"{uri}: drive {drive_id!r}: {lacking}: put them back, or extract the drive again (overwrite)"
        )


def no_drive(uri: str, drive_id: str, known: Sequence[str]) -> str:
    """What a command says of a drive that the lake has nothing of; it has the ``known`` ones."""
    return f"{uri}: no drive {drive_id!r}; there are {and_more(known) or 'none'}"


@dataclass(frozen=True, slots=True)
class DriveKeys:
    """URIs of a drive's manifests, of each kind sorted; ``tries`` as in `DriveScan`."""

    commits: list[str]
    manifests: list[str]
    tries: Mapping[tuple[str, int], int] = field(compare=False)


def list_drive(storage: Storage, output: str, drive_id: str, plan_id: str = "") -> DriveKeys:
    """Of one plan, or of all."""
    folder = join(output, contract.manifest_folder(drive_id, plan_id)).rstrip("/")
    uris = sorted(info.uri for info in storage.objects(folder))
    names = [uri.rpartition("/")[2] for uri in uris]
    begun = [
        shard_of(uri)
        for uri, name in zip(uris, names, strict=True)
        if re.fullmatch(r"\d+\.started(-\d+)?\.json", name)
    ]
    return DriveKeys(
        commits=[uri for uri, name in zip(uris, names, strict=True) if name == "drive.json"],
        manifests=[uri for uri, name in zip(uris, names, strict=True) if re.fullmatch(r"\d+\.json", name)],
        tries=Counter(begun),
    )


def shard_of(uri: str) -> tuple[str, int]:
    """Plan id and shard of a manifest, or of the record of a try."""
    plan_id, name = uri.split("/")[-2:]
    return plan_id, int(name.partition(".")[0])


def load_all(storage: Storage, kind: type[T], uris: Sequence[str]) -> Iterator[T]:
    """The objects that are (still) there, in order; only some at a time are in memory."""

    def read(uri: str) -> bytes | None:
        try:
            return storage.read(uri)
        except NotFoundError:
            return None

    with ThreadPoolExecutor(THREADS, thread_name_prefix="lake") as pool:
        for start in range(0, len(uris), 4 * THREADS):
            some = uris[start : start + 4 * THREADS]
            for uri, data in zip(some, pool.map(read, some), strict=True):
                if data is not None:
                    yield contract.from_json(kind, data, where=uri)
