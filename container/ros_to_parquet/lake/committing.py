"""The last word on a run's work on a drive: its commit, or that another run has taken the drive over."""

from __future__ import annotations

import dataclasses

from ros_to_parquet import contract
from ros_to_parquet.contract import DriveManifest, Manifest, Plan
from ros_to_parquet.lake.leases import has_lease, release_lease
from ros_to_parquet.lake.records import list_commits, list_drive, load_all, standing_commits
from ros_to_parquet.lake.sweeping import sweep
from ros_to_parquet.log import event
from ros_to_parquet.storage import NotFoundError, Storage, join


def commit_drive(storage: Storage, plan: Plan) -> DriveManifest | None:
    """Commits the drive if all of its shards have a manifest; None while some are missing.

    Idempotent, and safe from several shards at once: the drive manifest is written by a conditional put,
    then what it replaces and what no manifest names is removed, then the lease is given back.

    Where another run has taken the drive over, it is that last word (`contract.take_over`), and nothing is
    done.
    """
    keys = list_drive(storage, plan.output, plan.drive_id, plan.plan_id)
    uri = join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
    if keys.commits:
        commit = contract.from_json(DriveManifest, storage.read(uri), where=uri)
    elif len(keys.manifests) < len(plan.shards):
        return None
    else:
        from ros_to_parquet.quality.table import Gathered

        measured = Gathered()
        commit = contract.fold(plan, map(measured.add, load_all(storage, Manifest, keys.manifests)))
        if commit.shards < len(plan.shards):  # removed meanwhile: another run has replaced this one's
            return None
        commit = dataclasses.replace(commit, quality=measured.judge(storage, plan))
        commit = _last_word(storage, plan, _with_drift(storage, plan, commit))
    if commit.taken_over_by is None:
        sweep(storage, plan)
        release_lease(storage, plan)
    return commit


def last_committed(storage: Storage, output: str, drive_id: str) -> str | None:
    """Id of the plan whose commit is the drive's last one; None where there is none."""
    standing = standing_commits(load_all(storage, DriveManifest, list_commits(storage, output, drive_id)))
    firsts = [join(output, contract.manifest_key(drive_id, each.plan_id, 0)) for each in standing]
    ended = {manifest.plan_id: manifest.finished_at for manifest in load_all(storage, Manifest, firsts)}
    return max(ended, key=lambda plan_id: ended[plan_id], default=None)


def read_commit(storage: Storage, plan: Plan) -> DriveManifest | None:
    """The plan's last word on its drive; None where there is none."""
    uri = join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
    try:
        return contract.from_json(DriveManifest, storage.read(uri), where=uri)
    except NotFoundError:
        return None


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
        manifests = list_drive(storage, plan.output, plan.drive_id, plan_id).manifests
        if len(manifests) == len(other.shards) and not other.replaces:
            continue  # nothing can come any more
        _last_word(
            storage, other, contract.take_over(other, load_all(storage, Manifest, manifests), plan.run)
        )
        ended = True
    return ended


def is_replaced(storage: Storage, plan: Plan, key: str) -> bool:
    """Whether a run that is committed has replaced the plan; to be asked when a manifest of it is written.

    Such a run's sweep may have looked through the plan's folder before that, and then comes no more. It had
    the lease, and its commit says so before it sweeps; or, where a third run has replaced that one, what was
    in the folder is gone: ``key`` is of an object that was.
    """
    if has_lease(storage, plan):
        return False
    try:
        storage.head(join(plan.output, key))
    except NotFoundError:
        return True
    commits = list_drive(storage, plan.output, plan.drive_id).commits
    return any(plan.plan_id in commit.replaces for commit in load_all(storage, DriveManifest, commits))


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


def _open_plans(storage: Storage, plan: Plan) -> list[str]:
    """Ids of the drive's other plans of which a shard was begun and which have no last word."""
    folder = join(plan.output, contract.manifest_folder(plan.drive_id, "")).rstrip("/")
    begun: dict[str, bool] = {}
    for info in storage.objects(folder):
        plan_id, name = info.uri.split("/")[-2:]
        if name != contract.FINISH_NAME:  # which may be left of a plan that was replaced meanwhile
            begun[plan_id] = begun.get(plan_id, True) and name != "drive.json"
    return sorted(plan_id for plan_id, is_open in begun.items() if is_open and plan_id != plan.plan_id)
