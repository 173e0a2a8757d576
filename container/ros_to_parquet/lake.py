"""A drive's state in the lake, read from its manifests; and the lake as datasets of what they name."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, Manifest, Plan, SchemaTotal
from ros_to_parquet.log import event
from ros_to_parquet.picture_files import remove_folders
from ros_to_parquet.storage import (
    AccessDeniedError,
    NotFoundError,
    Storage,
    StorageError,
    Unfinished,
    arrow_filesystem,
    join,
    normalize,
    open_storage,
)
from ros_to_parquet.text import and_more

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

    from ros_to_parquet.drift import TopicDefinition
    from ros_to_parquet.history import TopicDrift
    from ros_to_parquet.report.drive import Topic

T = TypeVar("T")

_THREADS = 16
"""Requests at a time: a drive of 10,000 shards is read in seconds."""

_READ_TRIES = 20


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

    def files(self) -> list[contract.OutputFile]:
        """The drive's Parquet files: each of its rows is in exactly one of them."""
        standing = contract.standing_manifests(self.manifests, self.commits)
        return [file for manifest in standing for topic in manifest.topics for file in topic.files]


def read_drive(storage: Storage, output: str, drive_id: str) -> DriveRecord:
    """Reads every manifest of a drive, as they were at one moment.

    Raises:
        StorageError: it is replaced again and again meanwhile.
    """
    keys = _list_drive(storage, output, drive_id)
    for _ in range(_READ_TRIES):
        record = DriveRecord(
            drive_id=drive_id,
            commits=tuple(_load(storage, DriveManifest, keys.commits)),
            # Without the numbers that quality checks are made of: the commit alone asks for them, and of
            # 10,000 shards they are a gigabyte.
            manifests=tuple(
                dataclasses.replace(each, quality="") for each in _load(storage, Manifest, keys.manifests)
            ),
        )
        read, keys = keys, _list_drive(storage, output, drive_id)
        # Listing takes its time, too; but for what a new last word makes void, nothing ever goes.
        if (
            keys.commits == read.commits
            and set(keys.manifests) >= set(read.manifests)
            and (len(record.commits), len(record.manifests)) == (len(read.commits), len(read.manifests))
        ):
            return record
    raise StorageError(f"{output}: drive {drive_id} is being replaced again and again; try again later")


def derive(storage: Storage, output: str, drive_id: str, make: Callable[[DriveRecord], T]) -> T:
    """What ``make`` makes of a drive's record, once more each time that manifests have changed meanwhile.

    So of several that write what follows from the manifests at once, the last to end has written what
    follows from those that are there. ``make`` may find that files are gone (`FileNotFoundError`).

    Raises:
        StorageError: the drive is replaced again and again meanwhile.
    """
    for _ in range(_READ_TRIES):
        before = _list_drive(storage, output, drive_id)
        try:
            made = make(read_drive(storage, output, drive_id))
        except FileNotFoundError:
            if _list_drive(storage, output, drive_id) == before:
                raise
            continue
        if _list_drive(storage, output, drive_id) == before:
            return made
    raise StorageError(f"{output}: drive {drive_id} is being replaced again and again; try again later")


@dataclass(frozen=True, slots=True)
class DriveScan:
    """What manifests say of one drive, those of shards one after the other.

    Attributes:
        tries: of each shard, by plan id and number: how many have begun.
        standing: see `contract.standing_manifests`; raises `ReplacedError` where the drive changes meanwhile.
    """

    commits: tuple[DriveManifest, ...]
    tries: Mapping[tuple[str, int], int]
    standing: Iterator[Manifest]


class ReplacedError(StorageError):
    """A run has replaced a drive while it was read."""


def scan_drive(storage: Storage, output: str, drive_id: str) -> DriveScan:
    """As `read_drive`, without keeping the shards' manifests, of which there may be 10,000."""
    keys = _list_drive(storage, output, drive_id)
    commits = tuple(_load(storage, DriveManifest, keys.commits))

    def standing() -> Iterator[Manifest]:
        read = 0
        for manifest in _load(storage, Manifest, keys.manifests):
            read += 1
            yield from contract.standing_manifests([manifest], commits)
        if (len(commits), read, list_commits(storage, output, drive_id)) != (
            *(len(keys.commits), len(keys.manifests)),
            keys.commits,
        ):
            raise ReplacedError(f"{output}: drive {drive_id} was replaced while it was read; try again")

    return DriveScan(commits, keys.tries, standing())


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
    """
    for _ in range(_READ_TRIES):
        found: dict[str, TableSchemas] = {}
        keys = _list_drive(storage, output, drive_id)
        commits = list(_load(storage, DriveManifest, keys.commits))
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
        for manifest in _load(storage, Manifest, uris):
            read += 1
            if contract.standing_manifests([manifest], commits):
                for topic in manifest.topics:
                    table = found.get(topic.table, TableSchemas())
                    found[topic.table] = table.add([topic.topic], contract.file_schemas(topic))
        if len(commits) == len(keys.commits) and read == len(uris):
            break  # else a commit has replaced some of them meanwhile
    return found


@dataclass(frozen=True, slots=True)
class _DriveKeys:
    """URIs of a drive's manifests, of each kind sorted; ``tries`` as in `DriveScan`."""

    commits: list[str]
    manifests: list[str]
    tries: Mapping[tuple[str, int], int] = field(compare=False)


def _list_drive(storage: Storage, output: str, drive_id: str, plan_id: str = "") -> _DriveKeys:
    """Of one plan, or of all."""
    folder = join(output, contract.manifest_folder(drive_id, plan_id)).rstrip("/")
    uris = sorted(info.uri for info in storage.objects(folder))
    names = [uri.rpartition("/")[2] for uri in uris]
    begun = [
        (uri.split("/")[-2], int(name.partition(".")[0]))
        for uri, name in zip(uris, names, strict=True)
        if re.fullmatch(r"\d+\.started(-\d+)?\.json", name)
    ]
    return _DriveKeys(
        commits=[uri for uri, name in zip(uris, names, strict=True) if name == "drive.json"],
        manifests=[uri for uri, name in zip(uris, names, strict=True) if re.fullmatch(r"\d+\.json", name)],
        tries=Counter(begun),
    )


def _load(storage: Storage, kind: type[T], uris: Sequence[str]) -> Iterator[T]:
    """The objects that are (still) there, in order; only some at a time are in memory."""

    def read(uri: str) -> bytes | None:
        try:
            return storage.read(uri)
        except NotFoundError:
            return None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="lake") as pool:
        for start in range(0, len(uris), 4 * _THREADS):
            some = uris[start : start + 4 * _THREADS]
            for uri, data in zip(some, pool.map(read, some), strict=True):
                if data is not None:
                    yield contract.from_json(kind, data, where=uri)


def commit_drive(storage: Storage, plan: Plan) -> DriveManifest | None:
    """Commits the drive if all of its shards have a manifest; None while some are missing.

    Idempotent, and safe from several shards at once: the drive manifest is written by a conditional put,
    then what it replaces and what no manifest names is removed, then the lease is given back.

    Where another run has taken the drive over, it is that last word (`contract.take_over`), and nothing is
    done.
    """
    keys = _list_drive(storage, plan.output, plan.drive_id, plan.plan_id)
    uri = join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
    if keys.commits:
        commit = contract.from_json(DriveManifest, storage.read(uri), where=uri)
    elif len(keys.manifests) < len(plan.shards):
        return None
    else:
        from ros_to_parquet.quality.table import Gathered

        measured = Gathered()
        commit = contract.fold(plan, map(measured.add, _load(storage, Manifest, keys.manifests)))
        if commit.shards < len(plan.shards):  # removed meanwhile: another run has replaced this one's
            return None
        commit = dataclasses.replace(commit, quality=measured.judge(storage, plan))
        commit = _last_word(storage, plan, _with_drift(storage, plan, commit))
    if commit.taken_over_by is None:
        sweep(storage, plan)
        release_lease(storage, plan)
    return commit


def list_commits(storage: Storage, output: str, drive_id: str) -> list[str]:
    """URIs of the drive's drive manifests: another list means that something has become of it."""
    return _list_drive(storage, output, drive_id).commits


def last_committed(storage: Storage, output: str, drive_id: str) -> str | None:
    """Id of the plan whose commit is the drive's last one; None where there is none."""
    standing = standing_commits(_load(storage, DriveManifest, list_commits(storage, output, drive_id)))
    firsts = [join(output, contract.manifest_key(drive_id, each.plan_id, 0)) for each in standing]
    ended = {manifest.plan_id: manifest.finished_at for manifest in _load(storage, Manifest, firsts)}
    return max(ended, key=lambda plan_id: ended[plan_id], default=None)


def read_commit(storage: Storage, plan: Plan) -> DriveManifest | None:
    """The plan's last word on its drive; None where there is none."""
    uri = join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
    try:
        return contract.from_json(DriveManifest, storage.read(uri), where=uri)
    except NotFoundError:
        return None


def _last_word(storage: Storage, plan: Plan, word: DriveManifest) -> DriveManifest:
    """``word``, or what was written before it."""
    uri = join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
    try:
        storage.create(uri, contract.to_json(word))
    except FileExistsError:
        return contract.from_json(DriveManifest, storage.read(uri), where=uri)
    return word


def _with_drift(storage: Storage, plan: Plan, commit: DriveManifest) -> DriveManifest:
    from ros_to_parquet.schema_records import find_drift

    found = find_drift(storage, plan, commit)
    for each in found[: contract.MAX_REASONS]:
        event(
            "schema_drift",
            drive_id=plan.drive_id,
            topic=each.topic,
            change=each.change,
            bag=each.bag,
            schema=each.schema,
            before=each.before,
            before_drive=each.before_drive,
            fields=list(each.fields),
        )
    return dataclasses.replace(commit, drift=tuple(found[: contract.MAX_REASONS]), drift_count=len(found))


def end_others(storage: Storage, plan: Plan) -> bool:
    """Ends what other runs have begun of the drive and not committed; whether there was any.

    To be called with the lease: whoever had it before may be dead, or only slow, and about to write a
    manifest. From here on it is void.
    """
    ended = False
    for plan_id in _open_plans(storage, plan):
        uri = join(plan.output, contract.plan_key(plan.drive_id, plan_id))
        try:
            other = contract.from_json(Plan, storage.read(uri), where=uri)
        except NotFoundError:
            continue  # somebody tidied up; without its plan no shard can be run
        manifests = _list_drive(storage, plan.output, plan.drive_id, plan_id).manifests
        if len(manifests) == len(other.shards) and not other.replaces:
            continue  # nothing can come any more
        _last_word(storage, other, contract.take_over(other, _load(storage, Manifest, manifests), plan.run))
        ended = True
    return ended


def _open_plans(storage: Storage, plan: Plan) -> list[str]:
    """Ids of the drive's other plans of which a shard was begun and which have no last word."""
    folder = join(plan.output, contract.manifest_folder(plan.drive_id, "")).rstrip("/")
    begun: dict[str, bool] = {}
    for info in storage.objects(folder):
        plan_id, name = info.uri.split("/")[-2:]
        if name != contract.FINISH_NAME:  # which may be left of a plan that was replaced meanwhile
            begun[plan_id] = begun.get(plan_id, True) and name != "drive.json"
    return sorted(plan_id for plan_id, is_open in begun.items() if is_open and plan_id != plan.plan_id)


def sweep(storage: Storage, plan: Plan) -> list[str]:
    """Removes the drive's files that no manifest names, and manifests that are replaced or void.

    Uploads of killed tries are ended, too. A listing that lacks manifests of the plan is not gone by.
    While the plan has the drive's lease, that is: later, files without a manifest are another run's work.
    Returns the URIs of what it removed.
    """
    if not _has_lease(storage, plan):
        return []
    keys = _list_drive(storage, plan.output, plan.drive_id)
    if sum(uri.split("/")[-2] == plan.plan_id for uri in keys.manifests) < len(plan.shards):
        reason = "the listing lacks manifests that are there"
        event("not_swept", drive_id=plan.drive_id, reason=reason)
        return []
    last_words = {commit.plan_id: commit for commit in _load(storage, DriveManifest, keys.commits)}
    superseded = {replaced for commit in last_words.values() for replaced in commit.replaces}
    kept: list[str] = []
    void: list[str] = []
    for uri in keys.manifests:
        plan_id, name = uri.split("/")[-2:]
        if plan_id not in superseded:
            shard = int(name.removesuffix(".json"))
            (void if contract.is_void(shard, last_words.get(plan_id)) else kept).append(uri)
    named: set[str] = set()
    named_folders: set[str] = set()
    for manifest in _load(storage, Manifest, kept):
        named.update(contract.paths_of(manifest))
        named_folders.update(contract.folders_of(manifest))

    def orphans_in(table: str) -> list[str]:
        return [uri for uri, path in _drive_files(storage, plan, table) if path not in named]

    def manifests_of(plan_id: str) -> list[str]:
        folder = join(plan.output, contract.manifest_folder(plan.drive_id, plan_id))
        return [info.uri for info in storage.objects(folder)]

    tables = [name for name in storage.folders(plan.output) if not name.startswith("_")]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="lake") as pool:
        orphans = [uri for found in pool.map(orphans_in, tables) for uri in found]
        orphans += [uri for uri, path in _attachments(storage, plan) if path not in named]
        folders = [path for path in _file_folders(storage, plan) if path not in named_folders]
        orphans += _stale_frames(storage, plan, superseded)
        orphans += _unnamed_quality(storage, plan, last_words)
        replaced = void + [uri for found in pool.map(manifests_of, sorted(superseded)) for uri in found]
        unfinished = _unfinished(storage, plan)
        if not _has_lease(storage, plan):  # so what was found is older than any other run's work
            return []
        list(pool.map(storage.delete, orphans))
        # Listed only now, for there may be more than fit in memory: each is of one try, which has ended.
        remove_folders(storage, plan.output, folders)
        list(pool.map(storage.delete, replaced))
        list(pool.map(storage.end, unfinished))
    return orphans + [join(plan.output, folder) for folder in folders] + replaced


def _drive_files(storage: Storage, plan: Plan, table: str) -> Iterator[tuple[str, str]]:
    for schema in storage.folders(join(plan.output, table)):
        folder = f"{table}/{schema}/drive_id={plan.drive_id}"
        for info in storage.objects(join(plan.output, folder)):
            yield info.uri, f"{folder}/{info.uri.rpartition('/')[2]}"


def _attachments(storage: Storage, plan: Plan) -> Iterator[tuple[str, str]]:
    folder = contract.attachment_folder(plan.drive_id)
    for info in storage.objects(join(plan.output, folder)):
        yield info.uri, f"{folder}/{info.uri.rpartition('/')[2]}"


def _file_folders(storage: Storage, plan: Plan) -> Iterator[str]:
    """The drive's folders of files beside tables, relative to the output."""
    for table in storage.folders(join(plan.output, contract.FILES_FOLDER)):
        folder = contract.files_folder(table, plan.drive_id)
        for name in storage.folders(join(plan.output, folder)):
            yield f"{folder}/{name}"


def _stale_frames(storage: Storage, plan: Plan, superseded: set[str]) -> list[str]:
    """The drive's frames tables that were made of rows of plans that have been replaced."""
    if not superseded:
        return []
    names = storage.folders(join(plan.output, contract.FRAMES_FOLDER))
    keys = [contract.frames_key(name, plan.drive_id) for name in names]
    there = [key for key in keys if any(storage.objects(join(plan.output, key).rpartition("/")[0]))]
    if not there:
        return []
    from ros_to_parquet.frames.reading import is_made_of

    filesystem, root = arrow_filesystem(plan.output)
    plans = frozenset(superseded)
    return [join(plan.output, key) for key in there if is_made_of(filesystem, f"{root}/{key}", plans)]


def _unnamed_quality(storage: Storage, plan: Plan, last_words: Mapping[str, DriveManifest]) -> list[str]:
    """Results of quality checks that no commit which stands names."""
    named = {commit.quality.path for commit in standing_commits(last_words.values()) if commit.quality}
    folder = contract.quality_folder(plan.drive_id)
    return [
        info.uri
        for info in storage.objects(join(plan.output, folder))
        if f"{folder}/{info.uri.rpartition('/')[2]}" not in named
    ]


def standing_commits(commits: Iterable[DriveManifest]) -> list[DriveManifest]:
    """The commits that no later one has replaced."""
    commits = list(commits)
    superseded = {plan_id for commit in commits for plan_id in commit.replaces}
    return [each for each in commits if each.plan_id not in superseded and each.taken_over_by is None]


def _unfinished(storage: Storage, plan: Plan) -> list[Unfinished]:
    """Uploads to the drive's folders, and of its lease; none where the store does not tell."""
    lease = contract.lease_key(plan.drive_id).rpartition("/")[2]
    try:
        return [
            each
            for each in storage.unfinished(plan.output)
            if f"/drive_id={plan.drive_id}/" in each.uri
            or each.uri.rpartition("/")[2].endswith(f"-{lease}")  # as storages name what is put to a file
            or each.uri.startswith(join(plan.output, f"{contract.SCHEMAS_FOLDER}/"))  # all drives': put again
        ]
    except AccessDeniedError as error:  # a right that nothing else needs
        event("unfinished_uploads_unknown", drive_id=plan.drive_id, reason=str(error))
        return []


def _has_lease(storage: Storage, plan: Plan) -> bool:
    uri = join(plan.output, contract.lease_key(plan.drive_id))
    try:
        return contract.from_json(contract.Lease, storage.read(uri), where=uri).plan_id == plan.plan_id
    except NotFoundError:
        return False


def no_lake(uri: str) -> NotFoundError:
    """What a command says of a place where nothing of a lake is."""
    return NotFoundError(f"{uri}: no lake is there (no drive has a manifest)")


def is_replaced(storage: Storage, plan: Plan, key: str) -> bool:
    """Whether a run that is committed has replaced the plan; to be asked when a manifest of it is written.

    Such a run's sweep may have looked through the plan's folder before that, and then comes no more. It had
    the lease, and its commit says so before it sweeps; or, where a third run has replaced that one, what was
    in the folder is gone: ``key`` is of an object that was.
    """
    if _has_lease(storage, plan):
        return False
    try:
        storage.head(join(plan.output, key))
    except NotFoundError:
        return True
    commits = _list_drive(storage, plan.output, plan.drive_id).commits
    return any(plan.plan_id in commit.replaces for commit in _load(storage, DriveManifest, commits))


def release_lease(storage: Storage, plan: Plan) -> None:
    """Gives the drive's lease back, where it is still this plan's."""
    if _has_lease(storage, plan):
        storage.delete(join(plan.output, contract.lease_key(plan.drive_id)))


def describe(lease: contract.Lease) -> str:
    """Who has the lease, and since when."""
    return f"{contract.run_in_words(lease.run)} has it since {lease.acquired_at}"


# --- reading ----------------------------------------------------------------------------------------


PARTITIONS = ("schema", "drive_id")

READ_TOGETHER = b"ros_to_parquet.read_together"
"""Metadata of the schema of a dataset of several definitions: JSON of what is cast and null in each."""


def _common_schema(files: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """The columns of all files, then the partitions; ``files`` are digits and what a file was written from.

    Raises:
        drift.DriftError: no table holds them all.
    """
    import pyarrow as pa

    from ros_to_parquet import drift
    from ros_to_parquet.schema_records import definition_of_file

    kinds: dict[tuple[str, pa.Schema], TopicDefinition] = {}
    said: dict[bytes, bytes] = dict(files[0][1].metadata or {})
    for digits, columns in files:
        kinds.setdefault((digits, columns.remove_metadata()), definition_of_file(columns))
        said = {key: value for key, value in said.items() if (columns.metadata or {}).get(key) == value}
    known = [(digits, each) for (digits, _), each in kinds.items()]
    try:
        common = drift.common_columns(known)
    except drift.DriftError as error:
        together = [list(dict.fromkeys(digits for digits, _ in group)) for group in drift.groups(known)]
        apart = and_more([f"schema={group if len(group) > 1 else group[0]!r}" for group in together])
        raise drift.DriftError(f"{error}. Read them apart: {apart}") from error
    done: dict[str, list[str]] = {}
    for digits, columns in kinds:
        for text in drift.adaptations(columns, common):
            if text not in done.setdefault(digits, []):
                done[digits].append(text)
    if done:
        said[READ_TOGETHER] = json.dumps(done, sort_keys=True).encode()
    return pa.schema([*common, *((name, pa.string()) for name in PARTITIONS)], said)


@dataclass(frozen=True, slots=True)
class LakeTopic:
    """A topic of one type, in one or several drives.

    Attributes:
        type_name: ``package/Type``, for both versions of ROS.
        drives: ids of those that have it.
        schemas: digits of its definitions, as in ``schema=``.
        messages: ``rows + rejected``, always.
        first_log_time_ns: None where there is no message.
        seconds: from the first to the last message, over all drives together.
    """

    name: str
    type_name: str
    table: str
    drives: tuple[str, ...]
    schemas: tuple[str, ...]
    messages: int
    rows: int
    rejected: int
    bytes_written: int
    first_log_time_ns: int | None
    last_log_time_ns: int | None
    seconds: float
    intervals: int
    """Messages that have one before them, in their drive: what ``seconds`` is divided by."""

    @property
    def rate_hz(self) -> float | None:
        """Messages a second while it was recorded; None where one message is all there is."""
        return self.intervals / self.seconds if self.seconds > 0 and self.intervals else None

    @classmethod
    def of_drive(cls, drive_id: str, topic: Topic) -> LakeTopic:
        said = topic.messages > 0
        return cls(
            name=topic.name,
            type_name=topic.type_name,
            table=topic.table,
            drives=(drive_id,),
            schemas=tuple(sorted({contract.schema_of(path) for path in topic.paths} - {""})),
            messages=topic.messages,
            rows=topic.rows,
            rejected=topic.rejected,
            bytes_written=topic.bytes_out,
            first_log_time_ns=topic.first_ns if said else None,
            last_log_time_ns=topic.last_ns if said else None,
            seconds=(topic.last_ns - topic.first_ns) / 1e9,
            intervals=max(topic.messages - 1, 0),
        )

    def add(self, other: LakeTopic) -> LakeTopic:
        """Both together: of one name and type, in other drives."""
        firsts = [each.first_log_time_ns for each in (self, other) if each.first_log_time_ns is not None]
        lasts = [each.last_log_time_ns for each in (self, other) if each.last_log_time_ns is not None]
        return dataclasses.replace(
            self,
            drives=(*self.drives, *other.drives),
            schemas=tuple(sorted({*self.schemas, *other.schemas})),
            messages=self.messages + other.messages,
            rows=self.rows + other.rows,
            rejected=self.rejected + other.rejected,
            bytes_written=self.bytes_written + other.bytes_written,
            first_log_time_ns=min(firsts, default=None),
            last_log_time_ns=max(lasts, default=None),
            seconds=self.seconds + other.seconds,
            intervals=self.intervals + other.intervals,
        )


class Lake:
    """The drives and tables below an output URI, by their manifests: every row exactly once.

    Example:
        >>> lake = ros_to_parquet.open("s3://lake/drives")     # doctest: +SKIP
        >>> lake.dataset("imu.data", drives=["drive_1"]).to_table()     # doctest: +SKIP
    """

    def __init__(self, uri: str) -> None:
        self.uri = normalize(uri)
        self._storage = open_storage(self.uri)

    def drives(self) -> list[str]:
        """Ids of all drives that have manifests, sorted."""
        names = self._storage.folders(join(self.uri, "_manifests"))
        return [name.removeprefix("drive_id=") for name in names]

    def drive(self, drive_id: str) -> DriveRecord:
        """What the manifests say of one drive."""
        return read_drive(self._storage, self.uri, drive_id)

    def tables(self, drives: Sequence[str] | None = None) -> list[str]:
        """Names of the tables that the drives (all by default) have rows in, sorted."""
        return sorted({file.path.partition("/")[0] for file in self._files(drives)})

    def topics(self, drives: Sequence[str] | None = None) -> list[LakeTopic]:
        """The topics of the drives (all by default): types, counts, times and rates, by name.

        Example:
            >>> [(each.name, each.rate_hz) for each in lake.topics(["drive_1"])]     # doctest: +SKIP
        """
        from ros_to_parquet.report.drive import describe_drive

        wanted = self.drives() if drives is None else drives
        found: dict[tuple[str, str], LakeTopic] = {}
        for drive_id in wanted:
            for topic in describe_drive(self.drive(drive_id)).topics:
                new = LakeTopic.of_drive(drive_id, topic)
                key = new.name, new.type_name
                found[key] = found[key].add(new) if key in found else new
        return [found[key] for key in sorted(found)]

    def fleet(self, table: str = "drives") -> pa.Table:
        """One of the fleet tables: ``drives``, ``bags`` or ``topics``; see `ros_to_parquet.fleet`.

        Raises:
            KeyError: no such table.
        """
        from ros_to_parquet.fleet import read_fleet

        if table not in contract.FLEET_TABLES:
            raise KeyError(f"no fleet table {table}; there are {', '.join(contract.FLEET_TABLES)}")
        return read_fleet(self._storage, self.uri, table)

    def topic(
        self,
        topic: str,
        *,
        drives: Sequence[str] | None = None,
        schema: str | Sequence[str] | None = None,
    ) -> ds.Dataset:
        """`dataset` of the topic's table.

        Example:
            >>> lake.topic("/imu/data").to_table(columns=["log_time", "orientation"])  # doctest: +SKIP
        """
        return self.dataset(contract.table_name(topic), drives=drives, schema=schema)

    def dataset(
        self,
        table: str,
        *,
        drives: Sequence[str] | None = None,
        schema: str | Sequence[str] | None = None,
    ) -> ds.Dataset:
        """One table as a ``pyarrow.dataset``, partition columns ``schema`` and ``drive_id`` as strings.

        It has every column that any of the files has, those of older files first. A file that lacks one
        (another format of bag, another version of the definition) has nulls there; a type that is wider in
        another version of the definition is read as that one (`drift.compare` says what is wider). What is
        cast and null in which version is in the metadata of the dataset's schema (`READ_TOGETHER`).

        It is of the files that there are now: to read them when a run has replaced the drive raises
        ``FileNotFoundError``; ask for the dataset again.

        Args:
            schema: one version of the definition alone, or some, by their digits (as in the partition
                ``schema``).

        Raises:
            KeyError: no such table, or version, in these drives.
            drift.DriftError: versions of the definition differ so that no table holds both.
        """
        chosen = self._choose(table, drives, schema)
        while True:
            try:
                return self._dataset(table, chosen)
            except FileNotFoundError:
                before, chosen = chosen, self._choose(table, drives, schema)
                if chosen == before:  # not replaced since the manifests were read, but gone
                    raise

    def _choose(
        self, table: str, drives: Sequence[str] | None, schema: str | Sequence[str] | None
    ) -> list[contract.OutputFile]:
        found = [file for file in self._files(drives) if file.path.startswith(f"{table}/")]
        if not found:
            raise KeyError(
                f"{self.uri}: no table {table}; there are {', '.join(self.tables(drives)) or 'none'}"
            )
        versions = sorted({contract.schema_of(file.path) for file in found})
        wanted = versions if schema is None else [schema] if isinstance(schema, str) else schema
        if missing := [each for each in wanted if each not in versions]:
            raise KeyError(
                f"{self.uri}: table {table}: no schema {', '.join(missing)}; there are {', '.join(versions)}"
            )
        return [file for file in found if contract.schema_of(file.path) in wanted]

    def _dataset(self, table: str, chosen: Sequence[contract.OutputFile]) -> ds.Dataset:
        import pyarrow as pa
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        from ros_to_parquet import drift
        from ros_to_parquet.parquet_options import recorded_schema

        filesystem, root = arrow_filesystem(self.uri)
        files = [f"{root}/{file.path}" for file in chosen]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="lake") as pool:
            footers = pool.map(lambda file: pq.read_metadata(file, filesystem=filesystem), files)
            schemas = [recorded_schema(footer) for footer in footers]
        ages = [file.first_log_time_ns or 0 for file in chosen]
        by_age = sorted(range(len(chosen)), key=lambda number: ages[number])
        try:
            common = _common_schema(
                [(contract.schema_of(chosen[each].path), schemas[each]) for each in by_age]
            )
        except drift.DriftError as error:
            raise drift.DriftError(f"{self.uri}: table {table}: {error}") from error
        return ds.dataset(
            files,
            schema=common,
            filesystem=filesystem,
            format="parquet",
            partitioning=ds.HivePartitioning(pa.schema([(name, pa.string()) for name in PARTITIONS])),
            partition_base_dir=root,
        )

    def frames(self, name: str = "frames", drives: Sequence[str] | None = None) -> ds.Dataset:
        """A frames table as a ``pyarrow.dataset``, with the partition ``drive_id``.

        Args:
            name: as in the conf's ``sync``; `frames_tables` lists them.
            drives: all that have it by default.

        Raises:
            KeyError: no such table, or nothing in it of these drives.
            drift.DriftError: drives differ so that no table holds both.

        Example:
            >>> lake.frames(drives=["drive_1"]).to_table().to_pandas()  # doctest: +SKIP
        """
        from ros_to_parquet.frames import reading

        return reading.dataset(self._storage, self.uri, name, drives)

    def frames_tables(self) -> list[str]:
        """Names of the lake's frames tables, sorted."""
        from ros_to_parquet.frames import reading

        return reading.tables(self._storage, self.uri)

    def fetch(self, keys: pa.Array | pa.ChunkedArray, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that a topic's column of a frames table stands for: its images, its clouds.

        They are in the order of ``keys``; where those are null, so is the row. Each row group is read once:
        ask for many together, in the order of time.

        Args:
            columns: of the topic's table; all by default.

        Raises:
            FileNotFoundError: the drive was replaced since ``keys`` were read; read the frames again.

        Example:
            >>> table = lake.frames().to_table()  # doctest: +SKIP
            >>> lake.fetch(table["camera.image_raw"], columns=["data"])  # doctest: +SKIP
        """
        from ros_to_parquet.frames import reading

        return reading.fetch(self.uri, keys, columns)

    def quality(self, drives: Sequence[str] | None = None) -> ds.Dataset:
        """Results of the quality checks of drives (all by default): a row a topic and check.

        Of a drive whose bags several runs have extracted, each run's bags have rows of their own, by
        ``plan_id``. As `dataset`, it is of the files that there are now.

        Example:
            >>> lake.quality().to_table(filter=ds.field("level") == "error")     # doctest: +SKIP
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        from ros_to_parquet.quality.table import SCHEMA

        wanted = self.drives() if drives is None else drives
        schema = SCHEMA.append(pa.field("drive_id", pa.string()))
        paths = [path for drive_id in wanted for path in self._quality_paths(drive_id)]
        if not paths:
            return ds.dataset(schema.empty_table())
        filesystem, root = arrow_filesystem(self.uri)
        return ds.dataset(
            [f"{root}/{path}" for path in paths],
            schema=schema,
            filesystem=filesystem,
            format="parquet",
            partitioning=ds.HivePartitioning(pa.schema([("drive_id", pa.string())])),
            partition_base_dir=root,
        )

    def _quality_paths(self, drive_id: str) -> list[str]:
        """Tables of the drive's commits, as they were at one moment."""
        uris = list_commits(self._storage, self.uri, drive_id)
        for _ in range(_READ_TRIES):
            commits = standing_commits(_load(self._storage, DriveManifest, uris))
            read, uris = uris, list_commits(self._storage, self.uri, drive_id)
            if uris == read:
                return [commit.quality.path for commit in commits if commit.quality]
        raise StorageError(f"{self.uri}: drive {drive_id} is being replaced again and again; try again later")

    def drift(
        self, topics: Sequence[str] = ("*",), *, exclude: Sequence[str] = (), single: bool = False
    ) -> list[TopicDrift]:
        """The topics (by shell globs) that have several definitions, and how these differ.

        Args:
            single: those with one definition too.
        """
        from ros_to_parquet.history import read_drift

        options = contract.ExtractOptions(tuple(topics), tuple(exclude))
        return read_drift(self._storage, self.uri, options, single=single)

    def _files(self, drives: Sequence[str] | None) -> list[contract.OutputFile]:
        wanted = self.drives() if drives is None else drives
        return [file for drive_id in wanted for file in self.drive(drive_id).files() if file.rows]
