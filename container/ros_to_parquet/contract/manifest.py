"""What shards and drives leave behind: records of tries, manifests, totals, definitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ros_to_parquet.contract.options import ExtractOptions
from ros_to_parquet.contract.outcomes import BagStatus, DriveState
from ros_to_parquet.contract.plan import BagSlice, Pricing, Run
from ros_to_parquet.contract.quality import DriveQuality


class Change(StrEnum):
    """How a definition of a topic differs from another one, by what it takes to read both as one table.

    ``same``: nothing, the columns are the same; ``widened``: a cast that keeps every value; ``added``: nulls,
    where one of them lacks fields (and casts, where types are wider too); ``broken``: no table holds both.
    """

    SAME = "same"
    WIDENED = "widened"
    ADDED = "added"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class StartedRecord:
    """A shard in flight: written first by every try, under a number of its own."""

    plan_id: str
    shard: int
    job_id: str
    attempt: int
    log_stream: str
    started_at: str


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """Why an attempt of a shard ended without a manifest."""

    plan_id: str
    shard: int
    job_id: str
    attempt: int
    exit_code: int
    reason: str
    failed_at: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that became no row."""

    bag: str
    offset: int
    """Where it lies in the bag file (the chunk that holds it, or the record; the row id in SQLite)."""
    log_time_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One Parquet file.

    Attributes:
        path: relative to the output URI.
        first_log_time_ns: the least of its column; None where it has none (no rows, a transform that leaves
            the column out), or an earlier version wrote the manifest.
        last_log_time_ns: likewise, the greatest.
        first_bag: the bag that ``first_log_time_ns`` is of, as in the column ``bag``; without it, of the rows
            that were written first.
    """

    path: str
    rows: int
    size_bytes: int
    first_log_time_ns: int | None = None
    last_log_time_ns: int | None = None
    first_bag: str = ""


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files of a table's rows: pictures, videos. All there are in a folder that no other try of a shard has.

    Attributes:
        folder: relative to the output URI, without a final slash. The rows say which file is whose.
        files: of the topic and definition; those of others may be there too.
        size_bytes: of them together.
    """

    folder: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a transform made of a topic's rows.

    Attributes:
        name: of its entry point.
        distribution: the package that it is of.
        version: of that package.
        rows_in: given to it: all of the topic's rows.
        rows_out: taken from it: those in the table.
    """

    name: str
    distribution: str
    version: str
    rows_in: int
    rows_out: int

    def __str__(self) -> str:
        return (
            f"transform {self.name} ({self.distribution} {self.version}) "
            f"made {self.rows_out:,} rows of {self.rows_in:,}"
        )


@dataclass(frozen=True, slots=True)
class TopicResult:
    """What a shard made of one topic and definition. ``messages == rows + rejected``, always."""

    topic: str
    table: str
    type_name: str
    schema_hash: str
    messages: int
    rows: int
    rejected: int
    repaired_strings: int
    """Strings that were not UTF-8; kept with their bad bytes escaped."""
    bytes_in: int
    first_log_time_ns: int | None
    last_log_time_ns: int | None
    files: tuple[OutputFile, ...]
    rejects: tuple[Reject, ...]
    """The first `MAX_REASONS` of them."""
    remark: str = ""
    """What a reader of the table should know, e.g. that the bag's own definition did not fit."""
    transform: Transformed | None = None
    """Where the rows went through one: ``files`` have the rows that came out of it."""
    beside: tuple[FileSet, ...] = ()
    """Pictures and videos of the rows."""


@dataclass(frozen=True, slots=True)
class BagDamage:
    """A part of a bag that could not be read; see ``ros_to_parquet.bag.model.Damage``."""

    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attachment of an MCAP file.

    Attributes:
        offset: where its bytes begin in the bag file.
        crc_ok: whether its bytes are as its checksum says; None where it has none, or was not copied.
        path: its copy, relative to the output URI; empty where it was too large for one, or cannot be had
            twice (more than 1 MiB in a bag that is compressed as a whole).
        member: the bag's path in its archive, where it is in one.
    """

    name: str
    media_type: str
    log_time_ns: int
    create_time_ns: int
    offset: int
    size_bytes: int
    crc_ok: bool | None
    path: str
    member: str = ""


@dataclass(frozen=True, slots=True)
class BagMetadata:
    """A metadata record of an MCAP file; ``values`` are pairs of key and value. See `Attachment`."""

    name: str
    values: tuple[tuple[str, ...], ...]
    member: str = ""


@dataclass(frozen=True, slots=True)
class BagResult:
    """What a shard read of one bag slice.

    Attributes:
        bytes_read: bytes that were read: not those of chunks without a wanted topic by the bag's own index.
        messages: messages found, wanted or not, and those of the chunks that were not read.
        extracted: messages of wanted topics: each is a row or a reject.
        verified: every connection has as many messages as the bag's own index says (else ``damage`` says
            which have not), or its folder's ``metadata.yaml`` where it has none; None where that does not
            say either (``unverified``). Of an archive: of all bags in it.
        remarks: what else people should know of it, though nothing of it is damaged.
        unread: how many of ``messages`` are of chunks that were not read; the index is all that says so.
        extras_left_out: attachments and metadata records past the engine's limits, neither listed nor copied.
        first_log_time_ns: the least of the messages that were extracted; None where there is none, or an
            earlier version wrote the manifest.
        last_log_time_ns: likewise, the greatest.
    """

    name: str
    slice: BagSlice
    status: BagStatus
    size_bytes: int
    etag: str
    bytes_read: int
    messages: int
    extracted: int
    expected_messages: int | None
    verified: bool | None
    damage: tuple[BagDamage, ...]
    remarks: tuple[str, ...] = ()
    unread: int = 0
    attachments: tuple[Attachment, ...] = ()
    metadata: tuple[BagMetadata, ...] = ()
    extras_left_out: int = 0
    first_log_time_ns: int | None = None
    last_log_time_ns: int | None = None

    @property
    def content(self) -> tuple[str, int, str]:
        """See `PlannedBag.content`."""
        return self.name, self.size_bytes, self.etag


@dataclass(frozen=True, slots=True)
class Manifest:
    """A shard's commit: no manifest, it did not happen."""

    contract_version: int
    engine_version: str
    plan_id: str
    drive_id: str
    shard: int
    options: ExtractOptions
    job_id: str
    attempt: int
    log_stream: str
    started_at: str
    finished_at: str
    seconds: float
    peak_memory_bytes: int
    bytes_read: int
    bytes_written: int
    topics: tuple[TopicResult, ...]
    bags: tuple[BagResult, ...]
    replaces: tuple[str, ...] = ()
    """The plan's: while it is not empty, the manifest counts only once its drive is committed."""
    memory_limit_bytes: int = 0
    """What the engine was allowed above import: messages larger than a quarter of it are rejects. 0 where an
    earlier version wrote the manifest."""
    pricing: Pricing | None = None
    """The plan's."""
    quality: str = ""
    """Numbers that quality checks of the drive are made of (``ros_to_parquet.quality.numbers``): JSON, zlib,
    base64; empty where there are none."""


@dataclass(frozen=True, slots=True)
class SchemaTotal:
    """One definition of a table of a drive: a ``schema=`` partition with rows.

    Attributes:
        schema: eight hex digits, as in the partition's name.
        first_log_time_ns: see `OutputFile`.
        last_log_time_ns: likewise.
        first_bag: likewise; empty where nobody knows.
        sample: path of one of its files, relative to the output URI.
    """

    schema: str
    rows: int
    first_log_time_ns: int | None
    last_log_time_ns: int | None
    first_bag: str
    sample: str


@dataclass(frozen=True, slots=True)
class TableTotal:
    """One table of a drive, over all shards of a plan."""

    table: str
    topics: tuple[str, ...]
    type_names: tuple[str, ...]
    messages: int
    rows: int
    rejected: int
    bytes_written: int
    transforms: tuple[Transformed, ...] = ()
    """One for each transform, and version of it, that rows of the table went through."""
    schemas: tuple[SchemaTotal, ...] = ()
    """In the order of their first log times; none where an earlier version wrote the manifest."""
    files_beside: int = 0
    """Pictures and videos of the rows; their bytes are in ``bytes_written``."""
    bytes_in: int = 0
    """Of messages; 0 where an earlier version wrote the manifest."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A topic's definition that a drive has beside another one, or that the lake has first from this drive.

    Attributes:
        schema: its eight digits, as in ``schema=``.
        before: those of the definition that it is compared with: the drive's own before it, else one that
            the lake had.
        before_drive: a drive that has that one.
        bag: the drive's first bag with the definition, and ``first_log_time_ns`` its first message there.
        fields: what differs, a text each; the first `MAX_FIELDS`.
    """

    topic: str
    table: str
    change: Change
    schema: str
    before: str
    before_drive: str
    bag: str
    first_log_time_ns: int | None
    fields: tuple[str, ...]
    field_count: int

    def __str__(self) -> str:
        since = f" from bag {self.bag} on" if self.bag else ""
        listed = "; ".join(self.fields) or "nothing in its columns"
        more = self.field_count - len(self.fields)
        return (
            f"topic {self.topic}: its definition changed{since}: {self.change} (schema {self.schema} here, "
            f"{self.before} in drive {self.before_drive}): {listed}{f'; and {more} more' if more > 0 else ''}"
        )


MAX_FIELDS = 10
"""Fields of a changed definition that are named in manifests; all are counted."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, and its type in Arrow's words, which may be cut short."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class SchemaRecord:
    """The definition behind a ``schema=`` partition, kept once, so that nobody opens Parquet to compare it.

    Attributes:
        table: of the partition.
        schema: its eight digits.
        topic: one of those that the table is of.
        definition: as in the key-value metadata of the partition's files; so are format and encoding.
        transform: ``name version`` of the transform that made the columns; empty where none did.
        arrow_schema: the columns: Arrow's IPC form of the schema, in base64.
        columns: the same for who has no Arrow; none where an earlier version wrote the record.
        drive_id: the drive that brought it first.
        plan_id: the plan that did.
        first_log_time_ns: of its messages in that drive.
        first_bag: of that drive.
    """

    contract_version: int
    table: str
    schema: str
    topic: str
    type_name: str
    definition: str
    definition_format: str
    encoding: str
    transform: str
    arrow_schema: str
    drive_id: str
    plan_id: str
    first_log_time_ns: int | None
    first_bag: str
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class DriveManifest:
    """The last word on one plan of a drive: its commit, the fold of all its shards' manifests.

    Or, where another run took the drive before all of them were there, the fold of those that count.

    Attributes:
        unverified_bags: bags without an index of their own to check the count against.
        problems: one sentence each, naming bag, topic and offset; the first `MAX_REASONS`.
        taken_over_by: the run that took the drive; None for a commit.
        counted: then the shards whose manifests count: what others write later is void.
        drift: definitions that changed; the first `MAX_REASONS`.
        drift_count: how many there are.
        quality: results of the quality checks; None where none were made.
    """

    contract_version: int
    plan_id: str
    run: Run
    drive_id: str
    state: DriveState
    shards: int
    bags: int
    unreadable_bags: int
    damaged_bags: int
    unverified_bags: int
    messages: int
    rows: int
    rejected: int
    bytes_read: int
    bytes_written: int
    shard_seconds: float
    tables: tuple[TableTotal, ...]
    problems: tuple[str, ...]
    replaces: tuple[str, ...] = ()
    covered: tuple[str, ...] = field(default=())
    taken_over_by: Run | None = None
    counted: tuple[int, ...] = ()
    drift: tuple[Drift, ...] = ()
    drift_count: int = 0
    quality: DriveQuality | None = None


def bytes_written_of(topic: TopicResult) -> int:
    """Bytes of a topic's tables, and of pictures and videos beside them."""
    return sum(file.size_bytes for file in topic.files) + sum(each.size_bytes for each in topic.beside)


def folders_of(manifest: Manifest) -> list[str]:
    """All folders that a manifest names: every file in them is one of its rows'."""
    return sorted({each.folder for topic in manifest.topics for each in topic.beside})


def paths_of(manifest: Manifest) -> list[str]:
    """All files that a manifest names; those in `folders_of` are beside them."""
    files = [file.path for topic in manifest.topics for file in topic.files]
    return files + [each.path for bag in manifest.bags for each in bag.attachments if each.path]
