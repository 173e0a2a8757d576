"""One shard: its bags are read forward once, decoded in columns, written as Parquet, and committed.

The order is what makes it safe to kill at any point: started record, Parquet (invisible until published),
manifest. No manifest, it did not happen.

What makes rows of messages is imported only when reading has begun: it takes as long as the first chunks do.
"""

from __future__ import annotations

import json
import os
import re
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, assert_never

from ros_to_parquet import __version__, contract, finish, lake, termination
from ros_to_parquet.attachments import keep_extras
from ros_to_parquet.bag.archive import ArchiveReader
from ros_to_parquet.bag.model import LogTimes, MessageBlock, differing_counts
from ros_to_parquet.contract import BagStatus, ExitCode, ExtractOptions, Manifest, Plan
from ros_to_parquet.errors import ShardError
from ros_to_parquet.log import event, now
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget
from ros_to_parquet.picture_files import PictureFiles, remove_folders
from ros_to_parquet.reading import Item, OpenedBag, ReadBag, UnreadableBag, input_errors, read_ahead
from ros_to_parquet.recording import Folder, other_counts, plain_name
from ros_to_parquet.storage import (
    AccessDeniedError,
    ChangedError,
    NotFoundError,
    Storage,
    StorageError,
    TransientError,
    join,
    open_storage,
)

if TYPE_CHECKING:
    from ros_to_parquet.definitions import TypeSource
    from ros_to_parquet.extraction import Extraction
    from ros_to_parquet.images import ImageRules
    from ros_to_parquet.transforms import Transforms

_REMOVALS = 16
"""Files removed at a time."""


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Who runs the shard: an attempt of a Batch job, or the command line."""

    job_id: str
    attempt: int
    log_stream: str

    @classmethod
    def from_environment(cls) -> JobIdentity:
        """As AWS Batch tells it."""
        attempt = batch_number("AWS_BATCH_JOB_ATTEMPT")
        return cls(
            job_id=os.environ.get("AWS_BATCH_JOB_ID", ""),
            attempt=1 if attempt is None else attempt,
            log_stream=_own_log_stream(),
        )


def batch_number(name: str) -> int | None:
    """A number that AWS Batch tells by an environment variable; None where it is not set, or empty.

    Raises:
        ShardError: somebody else has set it to something else.
    """
    text = os.environ.get(name)
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        reason = f"{name} is {text!r}; AWS Batch sets it to a whole number"
        raise ShardError(reason, ExitCode.USAGE)
    return int(text)


def _own_log_stream() -> str:
    """The container's log stream by the ECS metadata endpoint; empty where there is none."""
    endpoint = os.environ.get("ECS_CONTAINER_METADATA_URI_V4")
    if not endpoint:
        return ""
    import urllib.request  # brings HTTP, TLS and mail with it: a tenth of start-up

    try:
        with urllib.request.urlopen(endpoint, timeout=2) as answer:
            return str(json.load(answer).get("LogOptions", {}).get("awslogs-stream", ""))
    except (OSError, ValueError) as error:
        event("log_stream_unknown", reason=str(error))
        return ""


def run_shard(
    plan: Plan,
    shard: int,
    job: JobIdentity,
    *,
    budget: MemoryBudget = DEFAULT_BUDGET,
    progress: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Extracts one shard of a plan, writes its manifest, and commits the drive if it was the last one.

    Who commits the drive also does its finishing steps, which cannot fail the shard. A shard that has its
    manifest is done: it is returned as it is. ``progress`` is called with the bytes of bags read so far, from
    the calling thread.

    Raises:
        ShardError: the shard could not be done; nothing of it is visible.
        StorageError: likewise; the kind of error says why.
    """
    with output_errors():
        return _run_shard(plan, shard, job, budget, progress)


@contextmanager
def output_errors() -> Iterator[None]:
    """What is not there, or not as it should be, is the output: errors of bags are `ShardError` already."""
    try:
        yield
    except (NotFoundError, ChangedError) as error:
        raise ShardError(f"output: {error}", ExitCode.OUTPUT_FAILED) from error


def _run_shard(
    plan: Plan, shard: int, job: JobIdentity, budget: MemoryBudget, progress: Callable[[int], None]
) -> Manifest:
    storage = open_storage(plan.output)
    manifest_uri = join(plan.output, contract.manifest_key(plan.drive_id, plan.plan_id, shard))
    manifest = _read_manifest(storage, manifest_uri)
    if manifest is not None:
        event("shard_already_done", drive_id=plan.drive_id, shard=shard, manifest=manifest_uri)
    else:
        try:
            manifest = _try_shard(storage, plan, shard, job, budget=budget, progress=progress)
        except (ShardError, StorageError) as error:
            # Another try of the shard may have ended meanwhile, and with it all that this one had begun.
            manifest = _read_manifest(storage, manifest_uri)
            if manifest is None and isinstance(error, StorageError):
                check_lease(storage, plan)  # or another run has the drive, which is why
            if manifest is None:
                raise
            event("shard_done_elsewhere", drive_id=plan.drive_id, shard=shard, manifest=manifest_uri)
    commit = lake.commit_drive(storage, plan)
    if commit is not None and contract.is_void(shard, commit):
        _withdraw(storage, plan, manifest)
        raise ShardError(
            f"drive {plan.drive_id}: {commit.problems[0]}; shard {shard} was too late and is taken back",
            ExitCode.PLAN_REFUSED,
        )
    if commit is not None and commit.taken_over_by is None:
        event("drive_committed", drive_id=plan.drive_id, state=commit.state, rows=commit.rows)
        finish.finish_drive(storage, plan, budget=budget)
    return manifest


def _try_shard(
    storage: Storage,
    plan: Plan,
    shard: int,
    job: JobIdentity,
    *,
    budget: MemoryBudget,
    progress: Callable[[int], None],
) -> Manifest:
    check_lease(storage, plan)
    started, number = _start(storage, plan, shard, job)
    event("shard_started", drive_id=plan.drive_id, shard=shard, bags=len(plan.shards[shard]))
    manifest = _extract(plan, shard, started, number, budget=budget, progress=progress)
    if lake.is_replaced(storage, plan, contract.started_key(plan.drive_id, plan.plan_id, shard, number)):
        _withdraw(storage, plan, manifest)
        raise ShardError(
            f"drive {plan.drive_id}: another run has replaced what the lake had of it meanwhile; "
            f"shard {shard} was too late and is taken back",
            ExitCode.PLAN_REFUSED,
        )
    _log_shard(manifest)
    return manifest


def _start(storage: Storage, plan: Plan, shard: int, job: JobIdentity) -> tuple[contract.StartedRecord, int]:
    """The started record and number of this try of the shard, which no other has.

    An earlier one that counts as dead may only be slow: it has files of its own, and of two that end one
    writes the manifest.
    """
    started = contract.StartedRecord(plan.plan_id, shard, job.job_id, job.attempt, job.log_stream, now())
    for number in count(1):
        uri = join(plan.output, contract.started_key(plan.drive_id, plan.plan_id, shard, number))
        try:
            storage.create(uri, contract.to_json(started))
        except FileExistsError:
            continue
        return started, number
    raise AssertionError


def _withdraw(storage: Storage, plan: Plan, manifest: Manifest) -> None:
    """Removes what the manifest of a shard that came too late names, and then the manifest."""
    for path in contract.paths_of(manifest):
        storage.delete(join(plan.output, path))
    remove_folders(storage, plan.output, contract.folders_of(manifest))
    storage.delete(join(plan.output, contract.manifest_key(plan.drive_id, plan.plan_id, manifest.shard)))


def _read_manifest(storage: Storage, uri: str) -> Manifest | None:
    try:
        return contract.from_json(Manifest, storage.read(uri), where=uri)
    except NotFoundError:
        return None


def exit_code(manifest: Manifest) -> ExitCode:
    """The exit code of a shard that has written its manifest."""
    statuses = [bag.status for bag in manifest.bags]
    if statuses and all(status is BagStatus.UNREADABLE for status in statuses):
        return ExitCode.BAG_UNREADABLE
    flawed = any(status is not BagStatus.OK for status in statuses)
    if manifest.options.strict and (flawed or any(topic.rejected for topic in manifest.topics)):
        return ExitCode.STRICT
    return ExitCode.OK


def check_lease(storage: Storage, plan: Plan) -> None:
    """Raises `ShardError` unless the drive's lease is the plan's."""
    uri = join(plan.output, contract.lease_key(plan.drive_id))
    try:
        lease = contract.from_json(contract.Lease, storage.read(uri), where=uri)
    except NotFoundError as error:
        raise ShardError(
            f"drive {plan.drive_id}: this run has no lease on it ({uri} is not there); submit the run again",
            ExitCode.PLAN_REFUSED,
        ) from error
    if lease.plan_id != plan.plan_id:
        raise ShardError(
            f"drive {plan.drive_id}: {lake.describe(lease)}; this run ({plan.run.run_id}) writes nothing",
            ExitCode.PLAN_REFUSED,
        )


def check_options(options: ExtractOptions) -> None:
    """Raises `ShardError` for what plans cannot know to be wrong: folders of types, transforms, images."""
    if options.msg_paths or options.ros_distro or os.environ.get(contract.MSG_PATH_VARIABLE):
        read_types(options)
    if options.transforms:
        read_transforms(options)
    if options.images:
        read_images(options)


def read_types(options: ExtractOptions) -> TypeSource:
    """`load_types` of the options' folders and then the environment's, errors of them as `ShardError`."""
    from ros_to_parquet.msg_path import MsgPathError, folders_of, load_types

    try:
        return load_types(replace(options, msg_paths=(*options.msg_paths, *folders_of(os.environ))))
    except MsgPathError as error:
        raise ShardError(str(error), ExitCode.USAGE) from error
    except (TransientError, AccessDeniedError):
        raise
    except StorageError as error:
        raise ShardError(f"msg path {error}", ExitCode.INPUT_MISSING) from error


def read_transforms(options: ExtractOptions) -> Transforms:
    """The transforms that the options choose, with what is wrong with them as `ShardError`."""
    from ros_to_parquet.transforms import TransformChoiceError, Transforms

    try:
        return Transforms(options.transforms)
    except TransformChoiceError as error:
        raise ShardError(str(error), ExitCode.USAGE) from error


def read_images(options: ExtractOptions) -> ImageRules:
    """The rules for images that the options have, with what is wrong with them as `ShardError`."""
    from ros_to_parquet.images import ImageChoiceError, ImageRules

    try:
        return ImageRules(options.images)
    except ImageChoiceError as error:
        raise ShardError(str(error), ExitCode.USAGE) from error


@contextmanager
def _transform_errors(plan: Plan) -> Iterator[None]:
    from ros_to_parquet.images import ImageChoiceError
    from ros_to_parquet.transforms import TransformChoiceError, TransformError

    try:
        yield
    except TransformError as error:
        raise ShardError(f"drive {plan.drive_id}: {error}", ExitCode.TRANSFORM_FAILED) from error
    except (TransformChoiceError, ImageChoiceError) as error:
        raise ShardError(f"drive {plan.drive_id}: {error}", ExitCode.USAGE) from error


def _extract(
    plan: Plan,
    shard: int,
    started: contract.StartedRecord,
    number: int,
    *,
    budget: MemoryBudget,
    progress: Callable[[int], None],
) -> Manifest:
    """Try ``number`` of a shard; the manifest is another one's that ended first, if there is one."""
    begin = time.monotonic()
    name = contract.shard_name(plan.plan_id, shard, number)
    with read_ahead(plan, shard, budget) as items:
        from ros_to_parquet import parquet
        from ros_to_parquet.extraction import Extraction

        types = read_types(plan.options)
        transforms = read_transforms(plan.options)
        image_rules = read_images(plan.options)
        storage = open_storage(plan.output, upload_memory_bytes=budget.upload)
        with (
            _removed_on_error(storage) as copied,
            PictureFiles(storage, plan.output, plan.drive_id, name, memory_bytes=budget.files) as beside,
            parquet.TableWriters(storage, plan.output, style=plan.options.parquet, budget=budget) as tables,
            closing(
                Extraction(plan, shard, tables, types, transforms, image_rules, beside, budget, name=name)
            ) as extraction,
        ):
            bags = _take_bags(plan, items, extraction, progress=progress, copied=copied.append)
            files = tables.finish()
            extraction.images.finish()
            topics = extraction.results(files)
            quality = extraction.quality()
            check_lease(storage, plan)
            termination.check()
            with termination.deferred():  # what is published and what the manifest names are the same
                copied += [join(plan.output, file.path) for topic in topics for file in topic.files]
                tables.publish()
                manifest = _manifest(
                    plan, shard, started, begin=begin, topics=topics, bags=bags, budget=budget
                )
                manifest = replace(manifest, quality=quality)
                copied.clear()  # from here on a manifest may name them, whatever goes wrong
                beside.keep()
                return _commit(storage, plan, manifest, number)


@contextmanager
def _removed_on_error(storage: Storage) -> Iterator[list[str]]:
    """A list for URIs of what is there before its manifest; an error removes what is in it."""
    uris: list[str] = []
    try:
        yield uris
    except BaseException:
        with termination.deferred():
            for uri in uris:
                try:
                    storage.delete(uri)
                except StorageError as error:  # the drive's next sweep finds it; why there was one is told
                    event("not_removed", uri=uri, reason=str(error))
        raise


def _commit(storage: Storage, plan: Plan, manifest: Manifest, number: int) -> Manifest:
    """Writes the manifest of try ``number``, and removes the files of those that so have lost.

    Of several tries of one shard the first manifest stays, whatever the others do: it is returned.
    """
    uri = join(plan.output, contract.manifest_key(plan.drive_id, plan.plan_id, manifest.shard))
    paths, folders = contract.paths_of(manifest), contract.folders_of(manifest)
    try:
        storage.create(uri, contract.to_json(manifest))
    except FileExistsError:
        event("shard_done_elsewhere", drive_id=plan.drive_id, shard=manifest.shard, manifest=uri)
        lost = set(paths)
        manifest = contract.from_json(Manifest, storage.read(uri), where=uri)
        lost -= set(contract.paths_of(manifest))  # a put that was tried again finds itself
        lost_folders = set(folders) - set(contract.folders_of(manifest))
    else:
        own = contract.shard_name(plan.plan_id, manifest.shard, number)
        others = [contract.shard_name(plan.plan_id, manifest.shard, other) for other in range(1, number)]
        lost = {path.replace(f"/{own}", f"/{other}") for path in paths for other in others}
        lost_folders = {f"{path.rpartition('/')[0]}/{other}" for path in folders for other in others}
    with ThreadPoolExecutor(_REMOVALS, thread_name_prefix="lake") as pool:
        list(pool.map(lambda path: storage.delete(join(plan.output, path)), lost))
    remove_folders(storage, plan.output, sorted(lost_folders))
    return manifest


def _manifest(
    plan: Plan,
    shard: int,
    started: contract.StartedRecord,
    *,
    begin: float,
    topics: tuple[contract.TopicResult, ...],
    bags: list[contract.BagResult],
    budget: MemoryBudget,
) -> Manifest:
    """What the shard did since ``begin``, on the monotonic clock."""
    return Manifest(
        contract_version=contract.CONTRACT_VERSION,
        engine_version=__version__,
        plan_id=plan.plan_id,
        drive_id=plan.drive_id,
        shard=shard,
        options=plan.options,
        job_id=started.job_id,
        attempt=started.attempt,
        log_stream=started.log_stream,
        started_at=started.started_at,
        finished_at=now(),
        seconds=round(time.monotonic() - begin, 3),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        memory_limit_bytes=budget.limit,
        bytes_read=sum(bag.bytes_read for bag in bags),
        bytes_written=sum(contract.bytes_written_of(topic) for topic in topics),
        topics=topics,
        bags=tuple(bags),
        replaces=plan.replaces,
        pricing=plan.pricing,
    )


@dataclass(slots=True)
class _Taken:
    """What has come of a bag slice so far."""

    messages: int = 0
    log_times: LogTimes = field(default_factory=LogTimes)

    def count(self, block: MessageBlock) -> None:
        self.messages += len(block)
        self.log_times.add(block.log_times_ns)


def _take_bags(
    plan: Plan,
    items: Iterable[Item],
    extraction: Extraction,
    *,
    progress: Callable[[int], None],
    copied: Callable[[str], None],
) -> list[contract.BagResult]:
    """Hands bags to the extraction; damage and unreadable bags become their results.

    ``progress`` is called with the bytes read so far, ``copied`` with the URI of each file beside the tables.
    """
    results: list[contract.BagResult] = []
    read_before = 0
    opened: OpenedBag | None = None
    taken = _Taken()
    with _transform_errors(plan):
        for item in items:
            termination.check()
            match item:
                case UnreadableBag():
                    event("bag_unreadable", drive_id=plan.drive_id, bag=item.bag.name, reason=item.reason)
                    results.append(_unreadable_bag(item))
                case OpenedBag():
                    opened, taken = item, _Taken()
                    extraction.begin_bag(item.place)
                case MessageBlock():
                    assert opened is not None
                    taken.count(item)
                    extraction.add(item)
                    progress(read_before + opened.reader.bytes_read)
                case ReadBag():
                    extraction.end_bag()
                    results.append(_read_bag(plan, item.opened, taken, extraction.name, copied))
                    read_before += results[-1].bytes_read
                case _:
                    assert_never(item)
    return results


def _unreadable_bag(item: UnreadableBag) -> contract.BagResult:
    reasons = [contract.BagDamage(0, item.reason), *_missing(item.folder)]
    return _bag_result(
        item.bag, item.part, BagStatus.UNREADABLE, damage=tuple(reasons), remarks=item.folder.remarks
    )


def _read_bag(
    plan: Plan, opened: OpenedBag, taken: _Taken, shard_name: str, copied: Callable[[str], None]
) -> contract.BagResult:
    """The result of a bag slice whose rows are made, and what it holds beside messages, kept."""
    extras = keep_extras(
        opened.reader,
        open_storage(plan.output),
        plan.output,
        f"{contract.attachment_folder(plan.drive_id)}/{shard_name}-{opened.place:04d}",
        reading=lambda: input_errors(plan),
        copied=copied,
    )
    return replace(
        _finished_bag(plan, opened, taken.messages),
        attachments=extras.attachments,
        metadata=extras.metadata,
        extras_left_out=extras.left_out,
        first_log_time_ns=taken.log_times.first_ns,
        last_log_time_ns=taken.log_times.last_ns,
    )


def _missing(folder: Folder) -> list[contract.BagDamage]:
    return [contract.BagDamage(-1, reason) for reason in folder.damage]


def _finished_bag(plan: Plan, opened: OpenedBag, extracted: int) -> contract.BagResult:
    bag, part, reader, folder = opened.bag, opened.part, opened.reader, opened.folder
    messages = sum(reader.counts.values())
    expected = reader.expected_counts()
    expected_messages = None if expected is None else sum(expected.values())
    found = _missing(folder) + [contract.BagDamage(each.offset, each.reason) for each in reader.damage]
    remarks = list(folder.remarks)
    if isinstance(reader, ArchiveReader) and reader.remark:
        remarks.append(reader.remark)
    verified = None
    if expected is not None:
        missed = differing_counts(reader.connections(), reader.counts, expected)
        verified = not missed
        if missed:
            found.append(contract.BagDamage(-1, f"its index promises other counts: {missed}"))
    said = folder.recording.messages(plain_name(bag.uri)) if part.count == 1 else None
    if said is not None:
        differing = other_counts(folder.recording, plain_name(bag.uri), reader)
        if differing and verified:  # by the bag itself, which knows better
            remarks.append(f"its folder's metadata.yaml says other counts than the bag itself: {differing}")
        elif differing:
            found.append(contract.BagDamage(-1, f"its folder's metadata.yaml says other counts: {differing}"))
        if verified is None:
            verified, expected_messages = not differing, said
    # What the index says sums up the rest, so it is not what a long list drops.
    damage = tuple(found[: contract.MAX_REASONS - 1] + found[contract.MAX_REASONS - 1 :][-1:])
    for each in damage:
        event("bag_damaged", drive_id=plan.drive_id, bag=bag.name, offset=each.offset, reason=each.reason)
    return _bag_result(
        bag,
        part,
        BagStatus.DAMAGED if damage else BagStatus.OK,
        bytes_read=reader.bytes_read,
        messages=messages,
        extracted=extracted,
        expected_messages=expected_messages,
        verified=verified,
        damage=damage,
        remarks=tuple(remarks),
        unread=reader.unread_messages,
    )


def _bag_result(
    bag: contract.PlannedBag,
    part: contract.BagSlice,
    status: BagStatus,
    *,
    bytes_read: int = 0,
    messages: int = 0,
    extracted: int = 0,
    expected_messages: int | None = None,
    verified: bool | None = None,
    damage: tuple[contract.BagDamage, ...] = (),
    remarks: tuple[str, ...] = (),
    unread: int = 0,
) -> contract.BagResult:
    return contract.BagResult(
        name=bag.name,
        slice=part,
        status=status,
        size_bytes=bag.size_bytes,
        etag=bag.content[-1],
        bytes_read=bytes_read,
        messages=messages,
        extracted=extracted,
        expected_messages=expected_messages,
        verified=verified,
        damage=damage,
        remarks=remarks,
        unread=unread,
    )


def _log_shard(manifest: Manifest) -> None:
    """The canonical line of a shard."""
    event(
        "shard_done",
        drive_id=manifest.drive_id,
        shard=manifest.shard,
        messages=sum(topic.messages for topic in manifest.topics),
        rows=sum(topic.rows for topic in manifest.topics),
        rejected=sum(topic.rejected for topic in manifest.topics),
        topics=len(manifest.topics),
        bytes_read=manifest.bytes_read,
        bytes_written=manifest.bytes_written,
        seconds=manifest.seconds,
        peak_memory_bytes=manifest.peak_memory_bytes,
    )
