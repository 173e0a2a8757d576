"""Plans of the command line: one drive from paths or URIs, one shard, no Airflow."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ros_to_parquet import __version__, contract, lake, process_id
from ros_to_parquet.beside import find_beside, with_content
from ros_to_parquet.contract import ExitCode, ExtractOptions, PlannedBag
from ros_to_parquet.errors import ShardError
from ros_to_parquet.log import now
from ros_to_parquet.run import output_errors
from ros_to_parquet.storage import (
    ExistsError,
    NotFoundError,
    ObjectInfo,
    Storage,
    is_uri,
    join,
    normalize,
    open_storage,
)
from ros_to_parquet.text import and_more

ACTIVE = ".bag.active"
"""A ROS 1 bag that is being recorded, or whose recorder was killed; taken where it is named, for it grows."""

_METADATA = "metadata.yaml"

_LEASE_TRIES = 5

NO_STEPS = contract.FinishOptions()


def make_plan(
    bags: Sequence[str],
    *,
    output: str,
    drive_id: str | None,
    options: ExtractOptions,
    overwrite: bool,
    take_over: bool,
    recursive: bool = False,
    finish: contract.FinishOptions = NO_STEPS,
    quality: tuple[contract.QualityRule, ...] = (),
) -> contract.Plan:
    """The plan for ``bags`` (files, rosbag2 folders, folders of bags), saved, and the drive's lease taken.

    Of a folder, the bags directly in it are taken and those of rosbag2 folders directly in it; with
    ``recursive`` all; never what is in the lake. The plan's id derives from what is extracted, so that
    running the same command again goes on with it. A plan without shards means that the lake has all of
    the bags that can be read; it is not saved.

    Raises:
        ShardError: no bag found, another run has the drive, or rows of a bag would be there twice.
    """
    output = normalize(output)
    try:
        output.encode()
    except UnicodeEncodeError as error:
        raise ShardError(f"output {output!r}: its name is not UTF-8", ExitCode.USAGE) from error
    found, ignored = _find(bags, output, recursive=recursive)
    if not found:
        raise ShardError(_no_bag(bags, ignored), ExitCode.INPUT_MISSING)
    uris = [each.info.uri for each in found]
    base = posixpath.commonpath([posixpath.dirname(_as_path(uri)) for uri in uris])
    planned = tuple(_planned(each, base) for each in found)
    drive_id = _drive_id(planned, base) if drive_id is None else drive_id
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", drive_id):
        raise ShardError(
            f"drive id {drive_id!r}: letters, digits, _ - . only, a letter or digit first, 80 at most; "
            "use --drive-id",
            ExitCode.USAGE,
        )
    drive = _Drive(drive_id, planned, _source(uris, base), output, tuple(ignored))
    storage = open_storage(drive.output)
    with output_errors():
        for _ in range(_LEASE_TRIES):
            _finish_last(storage, drive.output, drive_id)
            record = _read_committed(storage, drive.output, drive_id)
            if record.lacking and not overwrite:
                reason = f"drive {drive_id}: {record.lacking}, with their rows: put them back, or --overwrite"
                raise ShardError(reason, ExitCode.INPUT_MISSING)
            plan = replace(_plan(drive, record, options, overwrite=overwrite), finish=finish, quality=quality)
            if not plan.shards:
                return plan
            _take_lease(storage, plan, take_over=take_over)
            # Whoever had the lease may have written since the record was read, and may be about to write.
            if (
                not lake.end_others(storage, plan)
                and lake.read_drive(storage, drive.output, drive_id) == record
            ):
                uri = join(drive.output, contract.plan_key(drive_id, plan.plan_id))
                storage.write(uri, contract.to_json(plan))
                return plan
            lake.release_lease(storage, plan)
    raise ShardError(f"drive {drive_id}: other runs change it all the time; try again", ExitCode.PLAN_REFUSED)


@dataclass(frozen=True, slots=True)
class _Drive:
    """What is asked for: bags from ``source`` into the lake at ``output``; ``ignored`` are no bags."""

    drive_id: str
    bags: tuple[PlannedBag, ...]
    source: str
    output: str
    ignored: tuple[str, ...]


def _plan(
    drive: _Drive, record: lake.DriveRecord, options: ExtractOptions, *, overwrite: bool
) -> contract.Plan:
    """The plan for a drive of which the lake has ``record``."""
    drive_id, planned, ignored = drive.drive_id, drive.bags, drive.ignored
    replaces = tuple(sorted(_with_rows(record))) if overwrite else ()
    standing = contract.standing_manifests(record.manifests, record.commits)
    done = set() if overwrite else contract.covered_bags(standing, options)
    unreadable = {} if overwrite else contract.unreadable_bags(standing, options, engine_version=__version__)
    todo = tuple(bag for bag in planned if bag.content not in done and bag.content not in unreadable)
    if not overwrite:
        _refuse_second_rows(drive_id, todo, standing)
    # No more counts of a plan that was replaced or taken over; what one version cannot read, another may,
    # and what a plan could not read is not read by going on with that plan.
    ended = {commit.plan_id for commit in record.commits if commit.taken_over_by}
    ended |= _in_vain(todo, standing)
    made_of = (todo, options, replaces, sorted(record.superseded | ended), __version__)
    what = contract.sha256(repr(made_of).encode())[:16]
    run = contract.Run("", f"extract-{what}")
    return contract.Plan(
        contract_version=contract.CONTRACT_VERSION,
        plan_id=contract.make_plan_id(run, drive_id),
        run=run,
        drive_id=drive_id,
        source=drive.source,
        output=drive.output,
        options=options,
        bags=todo,
        shards=(tuple(contract.BagSlice(number) for number in range(len(todo))),) if todo else (),
        replaces=replaces,
        ignored=tuple(ignored[: contract.MAX_REASONS]),
        ignored_count=len(ignored),
        covered=tuple(bag.name for bag in planned if bag.content in done),
        unreadable=tuple(
            contract.KnownUnreadable(bag.name, unreadable[bag.content])
            for bag in planned
            if bag.content in unreadable and bag.content not in done
        ),
    )


def _with_rows(record: lake.DriveRecord) -> set[str]:
    """Ids of the plans that the drive has rows of; by commits, too, where somebody has removed manifests."""
    committed = {commit.plan_id for commit in record.commits if commit.shards}
    return {manifest.plan_id for manifest in record.manifests} | (committed - record.superseded)


def _in_vain(todo: Sequence[PlannedBag], standing: Iterable[contract.Manifest]) -> set[str]:
    """Ids of the plans that could not read one of the bags to do."""
    wanted = {bag.content for bag in todo}
    return {
        manifest.plan_id
        for manifest in standing
        for bag in manifest.bags
        if bag.status is contract.BagStatus.UNREADABLE and bag.content in wanted
    }


def _source(uris: Sequence[str], base: str) -> str:
    return _as_uri(base) if is_uri(uris[0]) and base != "/" else base


def _finish_last(storage: Storage, output: str, drive_id: str) -> None:
    """Tidies up after a run that has committed and was killed before it gave the lease back."""
    lease = join(output, contract.lease_key(drive_id))
    with suppress(NotFoundError):
        holder = contract.from_json(contract.Lease, storage.read(lease), where=lease)
        storage.head(join(output, contract.drive_manifest_key(drive_id, holder.plan_id)))
        uri = join(output, contract.plan_key(drive_id, holder.plan_id))
        lake.commit_drive(storage, contract.from_json(contract.Plan, storage.read(uri), where=uri))


def _read_committed(storage: Storage, output: str, drive_id: str) -> lake.DriveRecord:
    """The drive's record, after the commit of plans whose process was killed just before it."""
    record = lake.read_drive(storage, output, drive_id)
    done = {manifest.plan_id for manifest in record.manifests}
    for plan_id in sorted(done - {commit.plan_id for commit in record.commits} - record.superseded):
        uri = join(output, contract.plan_key(drive_id, plan_id))
        try:
            plan = contract.from_json(contract.Plan, storage.read(uri), where=uri)
        except NotFoundError:
            continue
        if lake.commit_drive(storage, plan) is not None:
            record = lake.read_drive(storage, output, drive_id)
    return record


@dataclass(frozen=True, slots=True)
class _Found:
    """A bag file, the URI of its metadata.yaml (or ""), and what SQLite left beside it."""

    info: ObjectInfo
    metadata: str = ""
    beside: tuple[contract.FileBeside, ...] = ()


def is_bag_below(ignored: str) -> bool:
    """Whether a file that a plan ignores is a bag, in a folder below the one that was named."""
    return contract.bag_format(ignored) is not None


def _no_bag(bags: Sequence[str], ignored: Sequence[str]) -> str:
    below = [name for name in ignored if is_bag_below(name)]
    others = [name for name in ignored if not is_bag_below(name)]
    said = f"{', '.join(bags)}: no bag there ({contract.BAG_ENDINGS})"
    if others:
        said += f"; not bags: {and_more(others)}"
    if any(name.endswith(ACTIVE) for name in others):
        said += f"; a {ACTIVE} may be recorded still: name the file itself to read what it has"
    if below:
        said += f"; in folders below: {and_more(below)}: --recursive takes them"
    return said


def _find(bags: Iterable[str], output: str, *, recursive: bool) -> tuple[list[_Found], list[str]]:
    """Bag files, and the names of what is not taken."""
    found: dict[str, _Found] = {}
    ignored: list[str] = []
    for given in bags:
        uri = normalize(given)
        storage = open_storage(uri)
        try:
            found[uri] = _Found(storage.head(uri), beside=find_beside(storage, uri))
        except NotFoundError:
            folders: dict[str, list[ObjectInfo]] = {}
            for info in storage.objects(uri):
                if not f"{info.uri}/".startswith(f"{output}/"):
                    folders.setdefault(posixpath.dirname(info.uri), []).append(info)
            if not folders and not Path(uri).is_dir():
                raise
            for folder, inside in sorted(folders.items()):
                # directly in the folder, or in a rosbag2 folder directly in it
                metadata = next((info.uri for info in inside if info.uri.endswith(f"/{_METADATA}")), "")
                if recursive or folder == uri or (metadata and posixpath.dirname(folder) == uri):
                    here = {info.uri: info for info in inside if contract.bag_format(info.uri)}
                    _refuse_twins(here)
                    beside = [info for info in inside if contract.sqlite_owner(info.uri) in here]
                    for bag_uri, info in here.items():
                        own = [each for each in beside if contract.sqlite_owner(each.uri) == bag_uri]
                        found[bag_uri] = _Found(info, metadata, with_content(own))
                    known = {*here, metadata, *(info.uri for info in beside)}
                    ignored += [info.uri for info in inside if info.uri not in known]
                else:
                    ignored += [info.uri for info in inside]
    return [found[uri] for uri in sorted(found)], sorted(ignored)


def _refuse_twins(uris: Iterable[str]) -> None:
    """Raises `ShardError` where a folder has one recording twice, e.g. ``x.orig.bag`` beside ``x.bag``."""
    recordings: dict[str, str] = {}
    for uri in sorted(uris):
        other = recordings.setdefault(contract.recording_stem(uri), uri)
        if other != uri:
            raise ShardError(
                f"{other} and {posixpath.basename(uri)} seem to be one recording, whose rows would be there "
                "twice; name the bags to take instead of their folder",
                ExitCode.USAGE,
            )


def _refuse_second_rows(
    drive_id: str, todo: Sequence[PlannedBag], standing: Iterable[contract.Manifest]
) -> None:
    """Raises `ShardError` where rows of a bag to do are in the drive already: they would be there twice."""
    present = {bag.name for manifest in standing for bag in manifest.bags if bag.extracted}
    if again := [bag.name for bag in todo if bag.name in present]:
        shown = ", ".join(again[:5]) + (f" and {len(again) - 5} more" if len(again) > 5 else "")
        raise ShardError(
            f"drive {drive_id}: rows of {shown} are in the lake already, of other content, other options or "
            "a part of it, and would be there twice; use --overwrite to replace all of the drive, "
            "or another --drive-id",
            ExitCode.USAGE,
        )


def _as_path(uri: str) -> str:
    """The URI as a path, ``/scheme/bucket/key``, without what a web server is asked beside the path."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    return f"/{scheme}/{re.split('[?#]', rest)[0] if scheme in ('http', 'https') else rest}"


def _as_uri(path: str) -> str:
    scheme, _, rest = path.removeprefix("/").partition("/")
    return f"{scheme}://{rest}"


def _planned(found: _Found, base: str) -> PlannedBag:
    info, metadata = found.info, found.metadata
    path = posixpath.relpath(_as_path(info.uri), base)
    name = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # goes into a column
    return PlannedBag(
        uri=info.uri,
        name=name,
        format=contract.bag_format(name.removesuffix(".active")) or "",
        size_bytes=info.size_bytes,
        etag=info.etag,
        recording=(posixpath.dirname(name) or name) if metadata else name,
        metadata_uri=metadata,
        beside=found.beside,
    )


def _drive_id(planned: Sequence[PlannedBag], base: str) -> str:
    first = planned[0].name.removesuffix(".active")
    name = contract.recording_stem(first) if len(planned) == 1 else posixpath.basename(base)
    drive_id = re.sub(r"[^A-Za-z0-9_.-]", "_", name.replace("/", "_")).lstrip("_.-")[:80]
    if not drive_id:  # a made-up one would mix all drives with such names
        raise ShardError(f"no drive id can be made of the name {name!r}: use --drive-id", ExitCode.USAGE)
    return drive_id


def _take_lease(storage: Storage, plan: contract.Plan, *, take_over: bool) -> None:
    """Takes the drive's lease, from a dead run too.

    Raises:
        ShardError: another run has it, or this one in another process.
    """
    uri = join(plan.output, contract.lease_key(plan.drive_id))
    own = contract.Lease(plan.drive_id, plan.plan_id, plan.run, now(), process_id.own())
    for _ in range(_LEASE_TRIES):
        try:
            storage.create(uri, contract.to_json(own))
            return
        except ExistsError:
            pass
        try:
            holder = contract.from_json(contract.Lease, storage.read(uri), where=uri)
        except NotFoundError:
            continue  # given back meanwhile
        if (holder.plan_id, holder.process) == (plan.plan_id, own.process) and own.process:
            return  # a put that was tried again finds itself
        alive = process_id.is_alive(holder.process)
        if alive and not take_over:
            raise ShardError(
                f"drive {plan.drive_id}: {lake.describe(holder)} ({process_id.in_words(holder.process)})",
                ExitCode.PLAN_REFUSED,
            )
        if holder.plan_id != plan.plan_id and alive is None and not take_over:
            raise ShardError(
                f"drive {plan.drive_id}: {lake.describe(holder)}; if that run is dead, use --take-over",
                ExitCode.PLAN_REFUSED,
            )
        storage.write(uri, contract.to_json(own))
        return
    raise ShardError(
        f"drive {plan.drive_id}: several runs are after its lease; try again", ExitCode.PLAN_REFUSED
    )
