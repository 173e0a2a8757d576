"""The lake as datasets of what its manifests name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest
from ros_to_parquet.lake.records import (
    READ_TRIES,
    THREADS,
    DriveRecord,
    list_commits,
    load_all,
    no_lake,
    read_whole,
    standing_commits,
)
from ros_to_parquet.storage import (
    StorageError,
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
            schemas=topic.schemas,
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

    def __repr__(self) -> str:
        return f"Lake({self.uri!r})"

    def drives(self) -> list[str]:
        """Ids of all drives that have manifests, sorted."""
        names = self._storage.folders(join(self.uri, "_manifests"))
        return [name.removeprefix("drive_id=") for name in names]

    def drive(self, drive_id: str) -> DriveRecord:
        """What the manifests say of one drive.

        Raises:
            KeyError: no such drive.
            NotFoundError: no lake is there; `LackingError` where the drive lacks manifests.
        """
        record = read_whole(self._storage, self.uri, drive_id)
        self._check(drive_id, is_there=bool(record.commits or record.manifests))
        return record

    def tables(self, drives: str | Sequence[str] | None = None) -> list[str]:
        """Names of the tables that the drives (all by default) have rows in, sorted.

        Raises:
            KeyError: no such drive.
        """
        return sorted({file.path.partition("/")[0] for file in self._files(drives)})

    def topics(self, drives: str | Sequence[str] | None = None) -> list[LakeTopic]:
        """The topics of the drives (all by default): types, counts, times and rates, by name.

        Raises:
            KeyError: no such drive.

        Example:
            >>> [(each.name, each.rate_hz) for each in lake.topics(["drive_1"])]     # doctest: +SKIP
        """
        from ros_to_parquet.report.drive import describe_drive

        found: dict[tuple[str, str], LakeTopic] = {}
        for record in self._records(drives):
            for topic in describe_drive(record).topics:
                new = LakeTopic.of_drive(record.drive_id, topic)
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
        drives: str | Sequence[str] | None = None,
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
        drives: str | Sequence[str] | None = None,
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
            KeyError: no such drive; no such table, or version, in these drives.
            FileNotFoundError: no lake is there.
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
        self, table: str, drives: str | Sequence[str] | None, schema: str | Sequence[str] | None
    ) -> list[contract.OutputFile]:
        found = [file for file in self._files(drives) if file.path.startswith(f"{table}/")]
        if not found:
            if not self.drives():
                raise no_lake(self.uri)
            if said := [topic for topic in self.topics(drives) if topic.table == table]:
                rejected, messages = sum(each.rejected for each in said), sum(each.messages for each in said)
                why = f"{rejected:,} of {messages:,} messages were rejected"
                raise KeyError(f"{self.uri}: table {table} has no rows: {why}")
            raise KeyError(
                f"{self.uri}: no table {table}; there are {', '.join(self.tables(drives)) or 'none'}"
            )
        versions = sorted({contract.schema_of(file.path) for file in found})
        wanted = versions if schema is None else _names(schema)
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
        with ThreadPoolExecutor(THREADS, thread_name_prefix="lake") as pool:
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

    def frames(self, name: str = "frames", drives: str | Sequence[str] | None = None) -> ds.Dataset:
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

        wanted = None if drives is None else _names(drives)
        return reading.dataset(self._storage, self.uri, name, wanted)

    def frames_tables(self) -> list[str]:
        """Names of the lake's frames tables, sorted."""
        from ros_to_parquet.frames import reading

        return reading.tables(self._storage, self.uri)

    def fetch(self, keys: pa.Array | pa.ChunkedArray, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that a topic's column of a frames table stands for: its images, its clouds.

        They are in the order of ``keys``; where those are null, so is the row. Each row group is read once:
        ask for many together, in the order of time. Definitions that differ are read together as `dataset`
        reads them. Where all keys are null, ``columns`` have no type.

        Args:
            columns: of the topic's table, also fields of messages (``header.frame_id``); all by default.

        Raises:
            TypeError: ``keys`` is something else.
            KeyError: the topic has no such column.
            drift.DriftError: definitions differ so that no table holds both.
            FileNotFoundError: the drive was replaced since ``keys`` were read; read the frames again.

        Example:
            >>> table = lake.frames().to_table()  # doctest: +SKIP
            >>> lake.fetch(table["camera.image_raw"], columns=["data"])  # doctest: +SKIP
        """
        from ros_to_parquet.frames import reading

        return reading.fetch(self.uri, keys, columns)

    def quality(self, drives: str | Sequence[str] | None = None) -> ds.Dataset:
        """Results of the quality checks of drives (all by default): a row a topic and check.

        Of a drive whose bags several runs have extracted, each run's bags have rows of their own, by
        ``plan_id``. As `dataset`, it is of the files that there are now.

        Raises:
            KeyError: no such drive.

        Example:
            >>> lake.quality().to_table(filter=ds.field("level") == "error")     # doctest: +SKIP
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        from ros_to_parquet.quality.table import SCHEMA

        wanted = self.drives() if drives is None else _names(drives)
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
        for _ in range(READ_TRIES):
            commits = standing_commits(load_all(self._storage, DriveManifest, uris))
            read, uris = uris, list_commits(self._storage, self.uri, drive_id)
            if uris == read:
                self._check(drive_id, is_there=bool(uris))
                return [commit.quality.path for commit in commits if commit.quality]
        raise StorageError(f"{self.uri}: drive {drive_id} is being replaced again and again; try again later")

    def drift(
        self, topics: str | Sequence[str] = ("*",), *, exclude: str | Sequence[str] = (), single: bool = False
    ) -> list[TopicDrift]:
        """The topics (by shell globs) that have several definitions, and how these differ.

        Args:
            single: those with one definition too.
        """
        from ros_to_parquet.history import read_drift

        options = contract.ExtractOptions(tuple(_names(topics)), tuple(_names(exclude)))
        return read_drift(self._storage, self.uri, options, single=single)

    def _records(self, drives: str | Sequence[str] | None) -> Iterator[DriveRecord]:
        for drive_id in self.drives() if drives is None else _names(drives):
            yield self.drive(drive_id)

    def _check(self, drive_id: str, *, is_there: bool) -> None:
        """A drive of which nothing ``is_there`` may have been begun; else it was misspelt."""
        if not is_there and drive_id not in (known := self.drives()):
            if not known:
                raise no_lake(self.uri)
            raise KeyError(f"{self.uri}: no drive {drive_id}; there are {and_more(known)}")

    def _files(self, drives: str | Sequence[str] | None) -> list[contract.OutputFile]:
        return [file for record in self._records(drives) for file in record.files() if file.rows]


def _names(names: str | Sequence[str]) -> Sequence[str]:
    """A single one is as good as a list of it."""
    return [names] if isinstance(names, str) else names
