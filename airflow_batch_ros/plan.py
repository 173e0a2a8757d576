"""From an S3 listing to a drive's plan: which objects are bags, which are new, and who reads what.

Pure but for `list_drive` and `read_coverage`, which read S3.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from airflow_batch_ros.conf import DriveSource, NameGlobs, PipelineConf
from airflow_batch_ros.lake import Holding, Lake, drive_folders, read_holdings
from ros_to_parquet import __version__, contract
from ros_to_parquet.contract import (
    BAG_ENDINGS,
    CONTRACT_VERSION,
    MAX_ARRAY_SIZE,
    MAX_REASONS,
    BagSlice,
    BagStatus,
    ContractError,
    ExtractOptions,
    FileBeside,
    KnownUnreadable,
    Manifest,
    Plan,
    PlannedBag,
    Pricing,
    Run,
    bag_format,
    recording_stem,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

DEFAULT_SHARD_BYTES = 1 << 30

SPLITTABLE = frozenset({"rosbag1", "mcap"})
"""Formats (`bag_format`) whose files are cut into slices; those that are packed are not."""

_METADATA = "metadata.yaml"
_NAMES_SHOWN = 5


class PlanError(ValueError):
    """A drive that cannot be planned; the message names the drive and says what to do."""


class NoBagsError(PlanError):
    """A drive without a bag to take."""


class ChangedBagsError(PlanError):
    """A drive of which the lake has rows of bags as they no longer are."""


_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects cannot be read before they are restored."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object below a drive's prefix.

    Attributes:
        name: its key without the prefix.
        archived: it cannot be read before it is restored.
    """

    name: str
    size_bytes: int
    etag: str
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """What is below a drive's prefix.

    Attributes:
        objects: those directly below it and in rosbag2 folders directly below it; all with ``recursive``.
        folders: folders that were not looked into, with their final slash.
    """

    objects: tuple[ListedObject, ...]
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """What earlier plans have extracted of a drive.

    Attributes:
        done: slices that are done with the same options, by (name, size, ETag) of the bag; ``bag`` is 0.
        other: bags of which rows are in the lake by other options, by name: who did it.
        present: names of bags of which rows are in the lake.
        unreadable: why bags cannot be read, by what ``done`` has (`contract.unreadable_bags`).
        by_plans: whether some plan stood for its manifests, so that bags count as ``present`` (and as
            ``other``) that gave no row.
    """

    done: Mapping[tuple[str, int, str], frozenset[BagSlice]] = dataclasses.field(default_factory=dict)
    other: Mapping[str, str] = dataclasses.field(default_factory=dict)
    present: frozenset[str] = frozenset()
    unreadable: Mapping[tuple[str, int, str], str] = dataclasses.field(default_factory=dict)
    by_plans: bool = False


# --- listing ----------------------------------------------------------------------------------------


def list_drive(
    s3: S3Client, source: DriveSource, *, recursive: bool, output: str, requester_pays: bool = False
) -> Listing:
    """Lists a drive, however many pages that takes. What lies below ``output`` is not part of it."""
    own = _below(source, output)
    asked: _Asked = {"Bucket": source.bucket, "OptionalObjectAttributes": ["RestoreStatus"]}
    if requester_pays:
        asked["RequestPayer"] = "requester"
    if recursive:
        found = _objects(s3, source, asked)
        return Listing(tuple(each for each in found if own is None or not each.name.startswith(own)))
    objects, folders = _level(s3, source, "", asked)
    skipped = []
    for folder in folders:
        if folder != own and _is_rosbag2(s3, source, folder, asked):
            objects += _level(s3, source, folder, asked)[0]
        elif folder != own:
            skipped.append(folder)
    return Listing(tuple(objects), tuple(skipped))


def _below(source: DriveSource, output: str) -> str | None:
    """The output's folder as a name below the source; None where it is not."""
    own = f"{output}/"
    return own.removeprefix(source.uri) if own.startswith(source.uri) and own != source.uri else None


class _Asked(TypedDict):
    """What all listings of a drive are asked with."""

    Bucket: str
    OptionalObjectAttributes: list[Literal["RestoreStatus"]]
    RequestPayer: NotRequired[Literal["requester"]]


def _objects(s3: S3Client, source: DriveSource, asked: _Asked) -> Iterator[ListedObject]:
    pages = s3.get_paginator("list_objects_v2").paginate(**asked, Prefix=source.prefix)
    for page in pages:
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):  # a folder's marker, as consoles make them
                yield _listed(item, source)


def _listed(item: ObjectTypeDef, source: DriveSource) -> ListedObject:
    restored = bool(item.get("RestoreStatus", {}).get("RestoreExpiryDate"))
    archived = item.get("StorageClass") in _ARCHIVES and not restored
    return ListedObject(
        item["Key"].removeprefix(source.prefix), item["Size"], item["ETag"].strip('"'), archived
    )


def _level(
    s3: S3Client, source: DriveSource, folder: str, asked: _Asked
) -> tuple[list[ListedObject], list[str]]:
    """The objects and the folders directly below ``folder``."""
    objects: list[ListedObject] = []
    folders: list[str] = []
    pages = s3.get_paginator("list_objects_v2").paginate(
        **asked, Prefix=source.prefix + folder, Delimiter="/"
    )
    for page in pages:
        found = page.get("Contents", [])
        objects += [_listed(item, source) for item in found if not item["Key"].endswith("/")]
        folders += [each["Prefix"].removeprefix(source.prefix) for each in page.get("CommonPrefixes", [])]
    return objects, folders


def _is_rosbag2(s3: S3Client, source: DriveSource, folder: str, asked: _Asked) -> bool:
    """Whether ``folder`` has a metadata.yaml; one request, however large the folder is."""
    key = f"{source.prefix}{folder}{_METADATA}"
    found = s3.list_objects_v2(**asked, Prefix=key, MaxKeys=1)
    return any(item["Key"] == key for item in found.get("Contents", []))


# --- which objects are bags -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """A listing sorted out: bags to take, and the names of what is no bag or left out by globs."""

    bags: tuple[PlannedBag, ...]
    ignored: tuple[str, ...]


def select_bags(source: DriveSource, listing: Listing, globs: NameGlobs) -> Selection:
    """Sorts a listing out.

    Raises:
        NoBagsError: there is no bag.
        PlanError: one recording seems to be there twice.
    """
    metadata = {each.name for each in listing.objects if _basename(each.name) == _METADATA}
    beside: dict[str, list[ListedObject]] = {}
    taken: set[str] = set()
    bags, left_out, ignored = [], [], list(listing.folders)
    for each in listing.objects:
        if owner := contract.sqlite_owner(each.name):
            beside.setdefault(owner, []).append(each)
    for each in sorted(listing.objects, key=lambda each: each.name):
        kind = bag_format(each.name)
        if owner := contract.sqlite_owner(each.name):
            if owner not in taken:  # names in order: a database comes before what is beside it
                ignored.append(each.name)
        elif kind is None:
            if each.name not in metadata:
                ignored.append(each.name)
        elif _taken(each.name, globs):
            bags.append(_planned(source, each, kind, metadata, beside.get(each.name, ())))
            taken.add(each.name)
        else:
            left_out.append(each.name)
    if not bags:
        raise NoBagsError(_no_bags(source, listing, left_out))
    _refuse_twins(source, bags)
    return Selection(tuple(bags), tuple(sorted([*ignored, *left_out])))


def _planned(
    source: DriveSource,
    each: ListedObject,
    kind: str,
    metadata: set[str],
    beside: Sequence[ListedObject],
) -> PlannedBag:
    folder = _folder(each.name)
    described = kind.startswith(("mcap", "sqlite3")) and f"{folder}{_METADATA}" in metadata
    return PlannedBag(
        uri=source.uri + each.name,
        name=each.name,
        format=kind,
        size_bytes=each.size_bytes,
        etag=each.etag,
        recording=(folder.rstrip("/") or ".") if described else each.name,
        metadata_uri=f"{source.uri}{folder}{_METADATA}" if described else "",
        beside=tuple(
            FileBeside(source.uri + other.name, other.size_bytes, other.etag)
            for other in sorted(beside, key=lambda other: other.name)
            if other.size_bytes and not other.name.endswith(contract.SQLITE_SHARED)
        ),
    )


def _taken(name: str, globs: NameGlobs) -> bool:
    def matches(patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return matches(globs.include) and not matches(globs.exclude)


def _no_bags(source: DriveSource, listing: Listing, left_out: Sequence[str]) -> str:
    where = f"drive {source.drive_id!r}: no bag directly under {source.uri}"
    if left_out:
        return f"{where}: the conf's 'bags' leaves out all {len(left_out)}: {and_more(left_out)}"
    if not listing.objects and not listing.folders:
        return f"{where}: nothing is there; check 'bucket' and 'prefix'"
    seen = []
    if listing.objects:
        names = [each.name for each in listing.objects]
        seen.append(f"{_count(names, 'object')}, none a bag ({BAG_ENDINGS}): {and_more(names)}")
    if listing.folders:
        seen.append(
            f"{_count(listing.folders, 'sub-folder')} ({and_more(listing.folders)}); "
            "set 'recursive' if the bags are in there"
        )
    one = len(listing.objects or listing.folders) == 1
    return f"{where}: there {'is' if one else 'are'} {' and '.join(seen)}"


def _refuse_twins(source: DriveSource, bags: Sequence[PlannedBag]) -> None:
    """One recording that is there twice would give every row twice."""
    recordings: dict[str, dict[str, str]] = {}  # stem: form of the recording: glob that takes it
    for bag in bags:
        recordings.setdefault(recording_stem(bag.name), {})[bag.name] = bag.name
        if bag.metadata_uri and bag.recording != ".":
            recordings.setdefault(bag.recording, {})[f"{bag.recording}/"] = f"{bag.recording}/*"
    twins = [
        sorted(forms.items(), key=lambda form: (".orig." in form[0], form[0]))
        for forms in recordings.values()
        if len(forms) > 1
    ]
    if twins:
        named = and_more([" and ".join(form for form, _ in forms) for forms in twins])
        example = json.dumps({"exclude": [glob for forms in twins[:_NAMES_SHOWN] for _, glob in forms[1:]]})
        raise PlanError(
            f"drive {source.drive_id!r}: under {source.uri} one recording seems to be there more than once: "
            f'{named}; say which to leave out, for example "bags": {example}'
        )


def _refuse_archived(source: DriveSource, listing: Listing, bags: Sequence[PlannedBag]) -> None:
    """A job that reads one would fail. Those that the lake has already may be archived as they like."""
    archived = {each.name for each in listing.objects if each.archived}
    found = [bag.name for bag in bags if bag.name in archived]
    if found:
        raise PlanError(
            f"drive {source.drive_id!r}: under {source.uri} {_count(found, 'bag')} to read "
            f"{'is' if len(found) == 1 else 'are'} archived (Glacier): {and_more(found)}; restore what is to "
            "be read (aws s3api restore-object) and try again, or leave it out by the conf's 'bags'"
        )


# --- what is new ------------------------------------------------------------------------------------


def read_coverage(
    lake: Lake, drive_id: str, options: ExtractOptions, *, plan_id: str, by_plans: bool = True
) -> Coverage:
    """What plans other than ``plan_id`` have extracted of the drive.

    ``by_plans`` reads two objects of a plan that was committed whole, however many shards it has; else all of
    its manifests are read.

    Raises:
        PlanError: a manifest is of another contract version.
    """
    found = _Found(options)
    stood = False
    try:
        for holding in read_holdings(lake, drive_id, but=plan_id):
            whole = _whole_plan(lake, drive_id, holding) if by_plans else None
            if whole is not None:
                stood = True
                found.add_plan(whole)
                continue
            for manifest in lake.load_all(Manifest, holding.manifest_keys):
                found.add(manifest)
    except ContractError as error:
        raise PlanError(
            f"drive {drive_id!r}: {error}; or set 'overwrite' to extract the drive again"
        ) from error
    return Coverage(
        done={bag: frozenset(slices) for bag, slices in found.done.items()},
        other=found.other,
        present=frozenset(found.present),
        unreadable=found.unreadable,
        by_plans=stood,
    )


@dataclass(slots=True)
class _Found:
    """What standing manifests and plans say so far; see `Coverage`."""

    options: ExtractOptions
    done: dict[tuple[str, int, str], set[BagSlice]] = dataclasses.field(default_factory=dict)
    other: dict[str, str] = dataclasses.field(default_factory=dict)
    present: set[str] = dataclasses.field(default_factory=set)
    unreadable: dict[tuple[str, int, str], str] = dataclasses.field(default_factory=dict)

    def add(self, manifest: Manifest) -> None:
        unreadable = contract.unreadable_bags([manifest], self.options, engine_version=__version__)
        self.unreadable.update(unreadable)
        same = contract.make_same_rows(manifest.options, self.options)
        for bag in manifest.bags:
            if bag.status is not BagStatus.UNREADABLE and same:
                self._add_slice(bag.content, bag.slice)
            if bag.extracted:  # else no row of it is in the lake
                self._add_rows(bag.name, manifest.plan_id, same=same)

    def add_plan(self, plan: Plan) -> None:
        """A plan of which all slices are in the lake."""
        same = contract.make_same_rows(plan.options, self.options)
        for shard in plan.shards:
            for part in shard:
                bag = plan.bags[part.bag]
                if same:
                    self._add_slice(bag.content, part)
                self._add_rows(bag.name, plan.plan_id, same=same)

    def _add_slice(self, content: tuple[str, int, str], part: BagSlice) -> None:
        self.done.setdefault(content, set()).add(dataclasses.replace(part, bag=0))

    def _add_rows(self, name: str, plan_id: str, *, same: bool) -> None:
        self.present.add(name)
        if not same:
            self.other[name] = f"plan {plan_id}, with other options"


def _whole_plan(lake: Lake, drive_id: str, holding: Holding) -> Plan | None:
    """The plan whose every slice is in the lake; None where only the manifests say what is."""
    commit = holding.commit
    if commit is None or commit.taken_over_by is not None or commit.unreadable_bags or not commit.messages:
        return None
    if len(holding.manifest_keys) < 2:  # that one says it as well
        return None
    plan = lake.load(Plan, contract.plan_key(drive_id, holding.plan_id))
    return plan if plan is not None and len(plan.shards) == commit.shards else None


def earlier_plans(lake: Lake, drive_id: str, *, but: str) -> tuple[str, ...]:
    """Ids of the plans that an overwriting plan replaces: all others that have left anything."""
    return tuple(sorted(plan_id for plan_id in drive_folders(lake, drive_id) if plan_id != but))


@dataclass(frozen=True, slots=True)
class Todo:
    """What there is to do of a drive.

    Attributes:
        bags: with the slices that are still to do.
        covered: names of bags that are in the lake whole.
        unreadable: bags that are not tried again.
    """

    bags: tuple[tuple[PlannedBag, list[BagSlice]], ...]
    covered: tuple[str, ...] = ()
    unreadable: tuple[KnownUnreadable, ...] = ()


def todo(bags: Sequence[PlannedBag], coverage: Coverage, *, drive_id: str, shard_bytes: int) -> Todo:
    """What there is to do of ``bags``.

    A bag of which an earlier run did some slices gets the others alone, so that no row is there twice.

    Raises:
        ChangedBagsError: rows of bags are in the lake by other content.
        PlanError: rows of a bag are in the lake by other options.
    """
    changed = True
    work: list[tuple[PlannedBag, list[BagSlice]]] = []
    covered: list[str] = []
    unreadable: list[KnownUnreadable] = []
    clashes: list[str] = []
    for bag in bags:
        slices = coverage.done.get(bag.content, frozenset())
        counts = {each.count for each in slices}
        if any(sum(each.count == count for each in slices) == count for count in counts):
            covered.append(bag.name)
        elif not slices and bag.content in coverage.unreadable:  # whatever rows there are
            unreadable.append(KnownUnreadable(bag.name, coverage.unreadable[bag.content]))
        elif bag.name in coverage.other:
            changed = False
            clashes.append(f"{bag.name} ({coverage.other[bag.name]})")
        elif len(counts) > 1 or (not slices and bag.name in coverage.present):
            clashes.append(f"{bag.name} (its content was another)")
        else:
            count = min(counts) if counts else slice_count(bag, shard_bytes)
            left = [BagSlice(0, index, count) for index in range(count)]
            work.append((bag, [each for each in left if each not in slices]))
    if clashes:
        raise (ChangedBagsError if changed else PlanError)(
            f"drive {drive_id!r}: rows of {and_more(clashes)} are in the lake already, and would be there "
            "twice; set 'overwrite' to replace what the drive has, or write to another 'output'"
        )
    return Todo(tuple(work), tuple(covered), tuple(unreadable))


def slice_count(bag: PlannedBag, shard_bytes: int) -> int:
    """Into how many slices a bag is cut: each at most ``shard_bytes``; one where it cannot be cut."""
    if bag.format not in SPLITTABLE:
        return 1
    return min(MAX_ARRAY_SIZE, max(1, math.ceil(bag.size_bytes / shard_bytes)))


# --- who reads what ---------------------------------------------------------------------------------


def pack(
    work: Sequence[tuple[PlannedBag, Sequence[BagSlice]]], shard_bytes: int
) -> tuple[tuple[BagSlice, ...], ...]:
    """Bag slices (numbered by their place in ``work``) packed in order into shards.

    A shard holds at most ``shard_bytes`` of stored bytes, or one slice that is larger. With more than
    `MAX_ARRAY_SIZE` shards the limit is doubled until they fit.
    """
    limit = shard_bytes
    while True:
        shards: list[list[BagSlice]] = []
        held = math.inf
        for place, (bag, slices) in enumerate(work):
            for part in slices:
                size = bag.size_bytes / part.count
                if held + size > limit:
                    shards.append([])
                    held = 0
                shards[-1].append(dataclasses.replace(part, bag=place))
                held += size
        if len(shards) <= MAX_ARRAY_SIZE:
            return tuple(tuple(shard) for shard in shards)
        limit *= 2


def make_plan(
    s3: S3Client,
    lake: Lake,
    source: DriveSource,
    conf: PipelineConf,
    *,
    run: Run,
    shard_bytes: int,
    requester_pays: bool = False,
    pricing: Pricing | None = None,
) -> Plan:
    """A drive's plan, from what S3 holds now; nothing is written.

    A drive whose bags are all covered, or not to be read, gets a plan without bags and shards. One that a
    pattern found, of which bags have changed, is extracted again as a whole, where all that the lake has of
    it is still there.

    Raises:
        PlanError: the drive cannot be planned.
    """
    plan_id = contract.make_plan_id(run, source.drive_id)
    listing = list_drive(
        s3, source, recursive=conf.recursive, output=lake.output, requester_pays=requester_pays
    )
    selection = select_bags(source, listing, conf.bags)
    work, replaces = _find_todo(lake, source, conf, selection.bags, plan_id=plan_id, shard_bytes=shard_bytes)
    _refuse_archived(source, listing, [bag for bag, _ in work.bags])
    return Plan(
        contract_version=CONTRACT_VERSION,
        plan_id=plan_id,
        run=run,
        drive_id=source.drive_id,
        source=source.uri,
        output=lake.output,
        options=conf.options,
        bags=tuple(bag for bag, _ in work.bags),
        shards=pack(work.bags, shard_bytes),
        replaces=replaces,
        ignored=selection.ignored[:MAX_REASONS],
        ignored_count=len(selection.ignored),
        covered=work.covered,
        unreadable=work.unreadable,
        finish=conf.finish,
        pricing=pricing,
        quality=conf.quality,
    )


def _find_todo(
    lake: Lake,
    source: DriveSource,
    conf: PipelineConf,
    bags: Sequence[PlannedBag],
    *,
    plan_id: str,
    shard_bytes: int,
) -> tuple[Todo, tuple[str, ...]]:
    """What there is to do of a drive, and ids of the plans that it replaces."""
    drive_id = source.drive_id

    def left(coverage: Coverage) -> Todo:
        return todo(bags, coverage, drive_id=drive_id, shard_bytes=shard_bytes)

    if conf.overwrite:
        return left(Coverage()), earlier_plans(lake, drive_id, but=plan_id)
    coverage = read_coverage(lake, drive_id, conf.options, plan_id=plan_id)
    if coverage.by_plans:
        try:
            return left(coverage), ()
        except PlanError:  # perhaps by bags that gave no row
            coverage = read_coverage(lake, drive_id, conf.options, plan_id=plan_id, by_plans=False)
    try:
        return left(coverage), ()
    except ChangedBagsError:
        if not source.found or coverage.present - {bag.name for bag in bags}:
            raise
        return left(Coverage()), earlier_plans(lake, drive_id, but=plan_id)


def check_saved(plan: Plan, source: DriveSource, conf: PipelineConf) -> None:
    """Raises `PlanError` where the run's saved plan is not what the conf asks for now."""
    if plan.source != source.uri or plan.options != conf.options:
        raise PlanError(
            f"drive {plan.drive_id!r}: this run ({plan.run.run_id}) was planned with source {plan.source}, "
            f"topics {list(plan.options.include_topics)} but not {list(plan.options.exclude_topics)}, "
            f"ros_distro {plan.options.ros_distro!r}, msg_path {list(plan.options.msg_paths)}, "
            f"pointcloud {plan.options.pointcloud}, parquet {plan.options.parquet}, "
            f"transforms { {rule.topics: rule.name for rule in plan.options.transforms} }, "
            f"images { {rule.topics: str(rule) for rule in plan.options.images} }; the "
            "conf says otherwise now, so start a new run; two tasks of one run that take the drive need "
            "lakes of their own"
        )


def check_fresh(lake: Lake, plan: Plan, *, missing: Iterable[int]) -> None:
    """Checks that no other run has extracted what the plan's ``missing`` shards would.

    To be called when a run comes back to a drive that it had lost, and so may have been done meanwhile.

    Raises:
        PlanError: it was done meanwhile.
    """
    wanted: dict[str, set[tuple[int, int]]] = {}
    for shard in missing:
        for part in plan.shards[shard]:
            wanted.setdefault(plan.bags[part.bag].name, set()).add((part.index, part.count))
    for holding in read_holdings(lake, plan.drive_id, but=plan.plan_id):
        if holding.plan_id in plan.replaces:
            continue
        for manifest in lake.load_all(Manifest, holding.manifest_keys):
            for bag in manifest.bags:
                slices = wanted.get(bag.name, set())
                same = (bag.slice.index, bag.slice.count) in slices
                other_cut = any(count != bag.slice.count for _, count in slices)
                if bag.status is not BagStatus.UNREADABLE and (same or other_cut or plan.replaces):
                    raise PlanError(
                        f"drive {plan.drive_id!r}: since this run ({plan.run.run_id}) was planned, another "
                        f"(plan {manifest.plan_id}) has extracted {bag.name}; start a new run, which takes "
                        "what is new"
                    )


# --- words ------------------------------------------------------------------------------------------


def _basename(name: str) -> str:
    return name.rpartition("/")[2]


def _folder(name: str) -> str:
    """The folder of a name: empty, or with its final slash."""
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def and_more(names: Sequence[str], most: int = _NAMES_SHOWN) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
