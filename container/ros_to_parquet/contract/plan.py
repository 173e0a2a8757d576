"""What a run does for a drive: its plan, the jobs that do it, and who may write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ros_to_parquet.contract.finishing import FinishOptions
from ros_to_parquet.contract.options import ExtractOptions
from ros_to_parquet.contract.quality import QualityRule

MAX_ARRAY_SIZE = 10_000
"""Children an AWS Batch array job can have; the least is 2."""


@dataclass(frozen=True, slots=True)
class FileBeside:
    """A file that SQLite left beside a database; the end of its URI says which (`SQLITE_BESIDE`)."""

    uri: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class PlannedBag:
    """One bag file.

    Attributes:
        uri: ``s3://bucket/key``, another URI, or a local path.
        name: the file's path below the drive's prefix; the ``bag`` column of its rows (in an archive: with
            the path of the bag in it).
        format: as its name says (`bag_format`); the engine looks at the bytes.
        size_bytes: size when planned.
        etag: the store's ETag when planned; empty where the store has none.
        recording: the rosbag2 folder that holds it (its path below the prefix), or ``name`` itself.
        metadata_uri: the folder's ``metadata.yaml``, empty where there is none.
        beside: SQLite's write-ahead log or rollback journal of it, where they are not empty.
    """

    uri: str
    name: str
    format: str
    size_bytes: int
    etag: str
    recording: str
    metadata_uri: str = ""
    beside: tuple[FileBeside, ...] = ()

    @property
    def content(self) -> tuple[str, int, str]:
        """Name, size and ETag, which the files beside it are part of: what a bag is covered by."""
        return self.name, self.size_bytes, "+".join([self.etag, *(each.etag for each in self.beside)])


@dataclass(frozen=True, slots=True)
class BagSlice:
    """Slice ``index`` of ``count`` of the plan's bag number ``bag``."""

    bag: int
    index: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class KnownUnreadable:
    """A bag of which an earlier run could read nothing; it is not tried again, for it would be the same."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"bag {self.name}: not tried again, for an earlier run could read nothing of it: {self.reason}"


@dataclass(frozen=True, slots=True)
class Run:
    """Who asked: an Airflow run, or a run of the command line (``dag_id`` is empty then)."""

    dag_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Pricing:
    """What each container of a run is and costs, as far as who planned it knew.

    Attributes:
        platform: ``FARGATE``, ``FARGATE_SPOT``, ``EC2`` or ``SPOT``.
        job_queue: whose machines these are.
        memory_gb: 2^30 bytes each, as AWS counts memory.
        vcpu_hour: price of one of ``vcpus`` for an hour.
        gb_hour: of one of ``memory_gb``; 0 where the vCPUs' price has it in it.
        origin: of the prices, for people.
        least_s: seconds of an attempt that are billed at least.
    """

    platform: str
    region: str
    architecture: str
    job_queue: str
    vcpus: float
    memory_gb: float
    vcpu_hour: float
    gb_hour: float
    currency: str
    origin: str
    least_s: float

    @property
    def is_spot(self) -> bool:
        return self.platform in ("SPOT", "FARGATE_SPOT")


def container_cost(pricing: Pricing, seconds: float) -> float:
    """What so many seconds of one of its containers cost.

    >>> container_cost(Pricing("EC2", "", "", "", 2.0, 4.0, 0.05, 0.0, "USD", "", 0.0), 3600)
    0.1
    """
    hourly = pricing.vcpus * pricing.vcpu_hour + pricing.memory_gb * pricing.gb_hour
    return seconds * hourly / 3600


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does for one drive; immutable once saved.

    Attributes:
        plan_id: twelve hex digits of (run, drive); see `make_plan_id`.
        source: ``s3://bucket/prefix/`` of the drive, another URI, or a local path.
        output: URI of the lake, without a final slash.
        shards: each a tuple of bag slices; a shard's number is its place here.
        replaces: plan ids whose output this plan's drive commit supersedes (``overwrite``).
        ignored: objects below the prefix that are not bags (their names; bounded, see `MAX_REASONS`).
        covered: names of bags left out because an earlier manifest covers them.
        unreadable: bags left out because an earlier run could not read them (`unreadable_bags`).
        quality: limits of the quality checks that are not the defaults.
        finish: what is done once the drive is committed.
        pricing: what its containers cost; None where nobody knew, or none is used.
    """

    contract_version: int
    plan_id: str
    run: Run
    drive_id: str
    source: str
    output: str
    options: ExtractOptions
    bags: tuple[PlannedBag, ...]
    shards: tuple[tuple[BagSlice, ...], ...]
    replaces: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_count: int = 0
    covered: tuple[str, ...] = ()
    unreadable: tuple[KnownUnreadable, ...] = ()
    quality: tuple[QualityRule, ...] = ()
    finish: FinishOptions = field(default_factory=FinishOptions)
    pricing: Pricing | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """The shards that one submission of a plan runs: array child ``i`` runs ``shards[i]``."""

    contract_version: int
    plan_id: str
    generation: int
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The Batch job of a generation."""

    plan_id: str
    generation: int
    job_id: str
    job_name: str
    job_queue: str
    array_size: int
    """0 for a plain job."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may write a drive's tables: the plan named here, and no other."""

    drive_id: str
    plan_id: str
    run: Run
    acquired_at: str
    """ISO 8601, UTC; for people."""
    process: str = ""
    """Of a run of the command line: by which its machine knows whether it is alive (`process_id.own`)."""


def run_in_words(run: Run) -> str:
    """For people.

    >>> run_in_words(Run("dag", "r1")), run_in_words(Run("", "extract-1"))
    ("run 'r1' of DAG 'dag'", "run 'extract-1' of the command line")
    """
    return f"run {run.run_id!r} of " + (f"DAG {run.dag_id!r}" if run.dag_id else "the command line")


def make_plan_id(run: Run, drive_id: str) -> str:
    """Twelve hex digits that name what a run does for a drive; the same on every retry of the run."""
    return hashlib.sha256(f"{run.dag_id}\n{run.run_id}\n{drive_id}".encode()).hexdigest()[:12]
