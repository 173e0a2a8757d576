"""A drive's state in the lake, read from its manifests; and the lake as datasets of what they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, Manifest, Plan
from ros_to_parquet.storage import NotFoundError, Storage, join, normalize, open_storage

if TYPE_CHECKING:
    import pyarrow.dataset as ds


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
    """Reads every manifest of a drive."""
    root = join(output, f"_manifests/drive_id={drive_id}")
    commits: list[DriveManifest] = []
    manifests: list[Manifest] = []
    for plan_id in storage.folders(root):
        for name, data in _objects(storage, join(root, plan_id)):
            where = f"{root}/{plan_id}/{name}"
            if name == "drive.json":
                commits.append(contract.from_json(DriveManifest, data, where=where))
            else:
                manifests.append(contract.from_json(Manifest, data, where=where))
    return DriveRecord(drive_id=drive_id, commits=tuple(commits), manifests=tuple(manifests))


def _objects(storage: Storage, folder: str) -> Iterable[tuple[str, bytes]]:
    for info in storage.objects(folder):
        name = info.uri.rpartition("/")[2]
        if name.endswith(".json") and not name.endswith((".started.json", ".failed.json")):
            yield name, storage.read(info.uri)


def commit_drive(storage: Storage, plan: Plan) -> DriveManifest | None:
    """Commits the drive if all of its shards have a manifest; None while some are missing.

    Idempotent, and safe from several shards at once: the drive manifest is written by a conditional put,
    then what it replaces and what no manifest names is removed, then the lease is given back.
    """
    manifests = read_manifests(storage, plan)
    if len(manifests) < len(plan.shards):
        return None
    key = join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
    commit = contract.fold(plan, manifests)
    try:
        storage.create(key, contract.to_json(commit))
    except FileExistsError:
        commit = contract.from_json(DriveManifest, storage.read(key), where=key)
    sweep(storage, plan)
    release_lease(storage, plan)
    return commit


def read_manifests(storage: Storage, plan: Plan) -> list[Manifest]:
    """The manifests that the plan's shards have written so far."""
    folder = join(plan.output, contract.manifest_folder(plan.drive_id, plan.plan_id))
    return [
        contract.from_json(Manifest, data, where=f"{folder}/{name}")
        for name, data in _objects(storage, folder)
        if name != "drive.json"
    ]


def sweep(storage: Storage, plan: Plan) -> list[str]:
    """Removes the drive's files that no manifest names, and the manifests of replaced plans.

    Returns the URIs of what it removed.
    """
    record = read_drive(storage, plan.output, plan.drive_id)
    kept = [manifest for manifest in record.manifests if manifest.plan_id not in record.superseded]
    named = {file.path for manifest in kept for topic in manifest.topics for file in topic.files}
    orphans = [uri for uri, path in _drive_files(storage, plan) if path not in named]
    for replaced in record.superseded:
        folder = join(plan.output, contract.manifest_folder(plan.drive_id, replaced))
        orphans += [info.uri for info in storage.objects(folder)]
    for uri in orphans:
        storage.delete(uri)
    return orphans


def _drive_files(storage: Storage, plan: Plan) -> Iterable[tuple[str, str]]:
    for table in storage.folders(plan.output):
        if table.startswith("_"):
            continue
        for schema in storage.folders(join(plan.output, table)):
            folder = f"{table}/{schema}/drive_id={plan.drive_id}"
            for info in storage.objects(join(plan.output, folder)):
                yield info.uri, f"{folder}/{info.uri.rpartition('/')[2]}"


def release_lease(storage: Storage, plan: Plan) -> None:
    """Gives the drive's lease back, where it is still this plan's."""
    uri = join(plan.output, contract.lease_key(plan.drive_id))
    try:
        lease = contract.from_json(contract.Lease, storage.read(uri), where=uri)
    except NotFoundError:
        return
    if lease.plan_id == plan.plan_id:
        storage.delete(uri)


def describe(lease: contract.Lease) -> str:
    """Who has the lease, and since when."""
    owner = lease.run.dag_id or "the command line"
    return f"run {lease.run.run_id} of {owner} has it since {lease.acquired_at}"


# --- reading ----------------------------------------------------------------------------------------


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

    def dataset(self, table: str, *, drives: Sequence[str] | None = None) -> ds.Dataset:
        """One table as a ``pyarrow.dataset``, partition columns ``schema`` and ``drive_id`` as strings.

        Raises:
            KeyError: no such table in these drives.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds
        import pyarrow.fs as fs

        paths = [file.path for file in self._files(drives) if file.path.startswith(f"{table}/")]
        if not paths:
            raise KeyError(
                f"{self.uri}: no table {table}; there are {', '.join(self.tables(drives)) or 'none'}"
            )
        filesystem, root = fs.FileSystem.from_uri(self.uri)
        partitioning = ds.HivePartitioning(pa.schema([("schema", pa.string()), ("drive_id", pa.string())]))
        return ds.dataset(
            [f"{root}/{path}" for path in paths],
            filesystem=filesystem,
            format="parquet",
            partitioning=partitioning,
            partition_base_dir=root,
        )

    def _files(self, drives: Sequence[str] | None) -> list[contract.OutputFile]:
        wanted = self.drives() if drives is None else drives
        return [file for drive_id in wanted for file in self.drive(drive_id).files() if file.rows]
