"""Removes what no manifest of a drive names any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, Manifest, Plan
from ros_to_parquet.lake.leases import has_lease
from ros_to_parquet.lake.records import THREADS, list_drive, load_all, shard_of, standing_commits
from ros_to_parquet.log import event
from ros_to_parquet.picture_files import remove_folders
from ros_to_parquet.storage import (
    AccessDeniedError,
    Storage,
    Unfinished,
    arrow_filesystem,
    join,
)


def sweep(storage: Storage, plan: Plan) -> list[str]:
    """Removes the drive's files that no manifest names, and manifests that are replaced or void.

    Uploads of killed tries are ended, too. A listing that lacks manifests of the plan is not gone by.
    While the plan has the drive's lease, that is: later, files without a manifest are another run's work.
    Returns the URIs of what it removed.
    """
    if not has_lease(storage, plan):
        return []
    keys = list_drive(storage, plan.output, plan.drive_id)
    if sum(uri.split("/")[-2] == plan.plan_id for uri in keys.manifests) < len(plan.shards):
        reason = "the listing lacks manifests that are there"
        event("not_swept", drive_id=plan.drive_id, reason=reason)
        return []
    own_uri = join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
    own = list(load_all(storage, DriveManifest, [uri for uri in keys.commits if uri == own_uri]))
    # Not those that it replaces: that nobody can read one may be why the drive was extracted again.
    done = {plan.plan_id, *(replaced for commit in own for replaced in commit.replaces)}
    others = [uri for uri in keys.commits if uri.split("/")[-2] not in done]
    last_words = {commit.plan_id: commit for commit in (*own, *load_all(storage, DriveManifest, others))}
    superseded = {replaced for commit in last_words.values() for replaced in commit.replaces}
    kept: list[str] = []
    void: list[str] = []
    for uri in keys.manifests:
        plan_id, shard = shard_of(uri)
        if plan_id not in superseded:
            (void if contract.is_void(shard, last_words.get(plan_id)) else kept).append(uri)
    named: set[str] = set()
    named_folders: set[str] = set()
    for manifest in load_all(storage, Manifest, kept):
        named.update(contract.paths_of(manifest))
        named_folders.update(contract.folders_of(manifest))

    def orphans_in(table: str) -> list[str]:
        return [uri for uri, path in _drive_files(storage, plan, table) if path not in named]

    def manifests_of(plan_id: str) -> list[str]:
        folder = join(plan.output, contract.manifest_folder(plan.drive_id, plan_id))
        return [info.uri for info in storage.objects(folder)]

    tables = [name for name in storage.folders(plan.output) if not name.startswith("_")]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="lake") as pool:
        orphans = [uri for found in pool.map(orphans_in, tables) for uri in found]
        orphans += [uri for uri, path in _attachments(storage, plan) if path not in named]
        folders = [path for path in _file_folders(storage, plan) if path not in named_folders]
        orphans += _stale_frames(storage, plan, superseded)
        orphans += _unnamed_quality(storage, plan, last_words)
        replaced = void + [uri for found in pool.map(manifests_of, sorted(superseded)) for uri in found]
        unfinished = _unfinished(storage, plan)
        if not has_lease(storage, plan):  # so what was found is older than any other run's work
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
