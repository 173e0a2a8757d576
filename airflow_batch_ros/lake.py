"""The small objects that runs keep in the lake: plans, job records, leases, manifests. S3 by boto3."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ros_to_parquet import contract
from ros_to_parquet.contract import ContractError, DriveManifest, Manifest, Plan

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

READ_THREADS = 16
"""Manifests read at a time: a drive of 10,000 shards is read in seconds."""

DRIVE_THREADS = 4
"""Drives read at a time, each with `READ_THREADS` for manifests: `clients.MAX_CONNECTIONS` together."""

TRIES = 5
"""Of what a client does not try again by itself: a body that was cut, a put that met another one."""


class TooLargeError(ValueError):
    """An object has more bytes than are wanted of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object's bytes and ETag, and how long ago it was written by the store's own clock."""

    data: bytes
    etag: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Lake:
    """Objects below an output URI (``s3://bucket/prefix``), by keys as `ros_to_parquet.contract` makes them.

    All methods raise botocore's ``ClientError`` for what they do not say.
    """

    s3: S3Client
    output: str

    @property
    def bucket(self) -> str:
        return self.output.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """Of the output's keys: empty, or ending in ``/``."""
        path = self.output.removeprefix("s3://").partition("/")[2]
        return f"{path}/" if path else ""

    def uri(self, key: str) -> str:
        return f"{self.output}/{key}"

    def read(self, key: str, *, most_bytes: int | None = None) -> bytes | None:
        """The object's bytes; None where there is none.

        Raises:
            TooLargeError: it has more than ``most_bytes``; none of them is read.
        """
        found = self.find(key, most_bytes=most_bytes)
        return None if found is None else found.data

    def find(self, key: str, *, most_bytes: int | None = None) -> Found | None:
        """The object with what a conditional put needs to know; None where there is none.

        Raises:
            TooLargeError: see `read`.
        """
        from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

        for tries_left in reversed(range(TRIES)):
            try:
                answer = self.s3.get_object(Bucket=self.bucket, Key=self.prefix + key)
            except ClientError as error:
                if error_code(error) in ("NoSuchKey", "404"):
                    return None
                raise
            size_bytes = answer["ContentLength"]
            if most_bytes is not None and size_bytes > most_bytes:
                answer["Body"].close()
                raise TooLargeError(f"{self.uri(key)}: {size_bytes:,} bytes, more than {most_bytes:,}")
            try:
                data = answer["Body"].read()
            except (HTTPClientError, IncompleteReadError):
                if not tries_left:
                    raise
                _wait(TRIES - tries_left)
            else:
                return Found(data, answer["ETag"], _age_s(answer))
        raise AssertionError("the last try returns or raises")

    def exists(self, key: str) -> bool:
        """Whether there is such an object, and it may be read; without the right to list S3 says no more."""
        from botocore.exceptions import ClientError

        try:
            self.s3.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except ClientError as error:
            if error_code(error) in ("404", "NoSuchKey", "403", "AccessDenied"):
                return False
            raise
        return True

    def load(self, kind: type[T], key: str) -> T | None:
        """The object as a dataclass of the contract; None where there is none.

        Raises:
            ContractError: it is not one.
        """
        data = self.read(key)
        return None if data is None else contract.from_json(kind, data, where=self.uri(key))

    def create(self, key: str, data: bytes, *, content_type: str | None = None) -> bool:
        """Writes the object unless there is one: of two at once, one gets True."""
        return self._put(key, data, {"IfNoneMatch": "*", **_typed(content_type)})

    def replace(self, key: str, data: bytes, *, etag: str, content_type: str | None = None) -> bool:
        """Writes the object if it still has ``etag``."""
        return self._put(key, data, {"IfMatch": etag, **_typed(content_type)})

    def write(self, key: str, data: bytes, *, content_type: str | None = None) -> None:
        """Writes the object, whether there is one or not."""
        typed: Any = _typed(content_type)
        self.s3.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, **typed)

    def _put(self, key: str, data: bytes, condition: dict[str, Any]) -> bool:
        from botocore.exceptions import ClientError

        for tries_left in reversed(range(TRIES)):
            try:
                self.s3.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, **condition)
            except ClientError as error:
                if error_code(error) == "ConditionalRequestConflict" and tries_left:
                    _wait(TRIES - tries_left)
                    continue
                refusals = ("PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey")
                if error_code(error) not in refusals:
                    raise
                # The answer to a put that was carried out may be lost, and the client's next try refused.
                tried_before = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
                return bool(tried_before) and self.read(key) == data
            return True
        raise AssertionError("the last try returns or raises")

    def delete(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def keys(self, folder: str) -> list[str]:
        """Keys below ``folder``, relative to the output, sorted."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}{folder}/"
        )
        return sorted(
            item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", [])
        )

    def folders(self, folder: str, *, most: int | None = None) -> list[str]:
        """Names of the folders directly in ``folder``, with their final slash; the first ``most``, or all."""
        prefix = f"{self.prefix}{folder}/"
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket,
            Prefix=prefix,
            Delimiter="/",
            PaginationConfig={} if most is None else {"PageSize": most},
        )
        found = (
            each["Prefix"].removeprefix(prefix) for page in pages for each in page.get("CommonPrefixes", [])
        )
        return list(itertools.islice(found, most))

    def newest_folders(self, folder: str) -> list[list[str]]:
        """The keys of each folder in ``folder``, of the one that was written to last first."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}{folder}/"
        )
        keys: dict[str, list[str]] = {}
        written: dict[str, Any] = {}
        for page in pages:
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self.prefix)
                name = key.rpartition("/")[0]
                keys.setdefault(name, []).append(key)
                written[name] = max(written.get(name, item["LastModified"]), item["LastModified"])
        return [keys[name] for name in sorted(keys, key=lambda name: (written[name], name), reverse=True)]

    def load_all(self, kind: type[T], keys: Iterable[str], *, unread: list[str] | None = None) -> Iterator[T]:
        """The objects of ``keys`` that are there, several requests at a time, in the keys' order.

        Raises:
            ContractError: one is none, and there is no ``unread`` for what is wrong with it.
        """
        wanted = list(keys)
        with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="lake") as pool:
            for start in range(0, len(wanted), READ_THREADS * 4):
                part = wanted[start : start + READ_THREADS * 4]
                for key, data in zip(part, pool.map(self.read, part), strict=True):
                    if data is None:
                        continue
                    try:
                        found = contract.from_json(kind, data, where=self.uri(key))
                    except ContractError as error:
                        if unread is None:
                            raise
                        unread.append(str(error))
                    else:
                        yield found


@dataclass(frozen=True, slots=True)
class DriveFolder:
    """The keys that one plan of a drive has below ``_manifests``, by what they are.

    Of several tries of a shard ``started`` has the last one's record. ``finish`` has what became of the steps
    after the commit.
    """

    shards: dict[int, str]
    started: dict[int, str]
    failed: dict[int, str]
    commit: str | None
    finish: str | None

    @property
    def begun(self) -> bool:
        """Whether a shard was begun: what follows a commit may be left of a plan that was replaced."""
        return bool(self.shards or self.started or self.failed)


def drive_folders(lake: Lake, drive_id: str) -> dict[str, DriveFolder]:
    """Of every plan that has begun to extract the drive, by plan id."""
    root = contract.manifest_folder(drive_id, "").rstrip("/")
    plans: dict[str, list[str]] = {}
    for key in lake.keys(root):
        plan_id, _, name = key.removeprefix(f"{root}/").partition("/")
        if name:
            plans.setdefault(plan_id, []).append(key)
    return {plan_id: _folder(keys) for plan_id, keys in plans.items()}


def drive_folder(lake: Lake, drive_id: str, plan_id: str) -> DriveFolder:
    """Of one plan."""
    return _folder(lake.keys(contract.manifest_folder(drive_id, plan_id)))


def _folder(keys: Iterable[str]) -> DriveFolder:
    shards: dict[int, str] = {}
    started: dict[int, tuple[int, str]] = {}
    failed: dict[int, str] = {}
    commit = finish = None
    for key in keys:
        stem, _, ending = key.rpartition("/")[2].removesuffix(".json").partition(".")
        kind, _, number = ending.partition("-")
        if stem == "drive":
            commit = key
        elif key.endswith(f"/{contract.FINISH_NAME}"):
            finish = key
        elif not stem.isdigit():
            continue
        elif not kind:
            shards[int(stem)] = key
        elif kind == "started":
            started[int(stem)] = max(started.get(int(stem), (0, "")), (int(number or 1), key))
        elif kind == "failed":
            failed[int(stem)] = key
    return DriveFolder(shards, {shard: key for shard, (_, key) in started.items()}, failed, commit, finish)


@dataclass(frozen=True, slots=True)
class Holding:
    """What the lake holds of a drive by one plan; see `contract.standing_manifests`."""

    plan_id: str
    commit: DriveManifest | None
    manifest_keys: tuple[str, ...]


def read_holdings(lake: Lake, drive_id: str, *, but: str) -> list[Holding]:
    """The plans other than ``but`` whose rows are the drive's, with the keys of their shards' manifests.

    Raises:
        ContractError: a manifest is of another contract version, or not there though a commit counts it.
    """
    folders = {plan_id: folder for plan_id, folder in drive_folders(lake, drive_id).items() if plan_id != but}
    keys = [folder.commit for folder in folders.values() if folder.commit]
    commits = {commit.plan_id: commit for commit in lake.load_all(DriveManifest, keys)}
    superseded = {replaced for commit in commits.values() for replaced in commit.replaces}
    there = ((plan_id, shard) for plan_id, folder in folders.items() for shard in folder.shards)
    if lacking := contract.lacking_manifests(commits.values(), there):
        raise ContractError(f"{lake.output}: {lacking}: put them back")
    holdings = []
    for plan_id, folder in folders.items():
        last_word = commits.get(plan_id)
        keys = [key for shard, key in sorted(folder.shards.items()) if not contract.is_void(shard, last_word)]
        if plan_id in superseded or not keys:
            continue
        if last_word is None:
            (first,) = lake.load_all(Manifest, keys[:1])
            if first.replaces:
                continue
        holdings.append(Holding(plan_id, last_word, tuple(keys)))
    return holdings


def find_replacing(lake: Lake, drive_id: str, plan_id: str) -> DriveManifest | None:
    """The commit that has replaced a plan of the drive; None where none has.

    To be asked of a plan without a commit: whatever else is there of one that was replaced counts no more,
    and no retry brings it back. It costs a list of the drive's plans and a request for each other one.

    Raises:
        ContractError: a drive manifest or plan is of another contract version.
    """
    root = contract.manifest_folder(drive_id, "").rstrip("/")
    plans = [name.rstrip("/") for name in lake.folders(root)]
    keys = [contract.drive_manifest_key(drive_id, each) for each in plans if each != plan_id]
    commits = list(lake.load_all(DriveManifest, keys))
    for commit in commits:
        if plan_id in commit.replaces:
            return commit
    # Who replaced it may have been replaced since, and then says so in its plan alone.
    for commit in commits:
        known, unread = set(commit.replaces), list(commit.replaces)
        while unread:
            plan = lake.load(Plan, contract.plan_key(drive_id, unread.pop()))
            earlier = set(plan.replaces) - known if plan is not None else set()
            if plan_id in earlier:
                # It may not have been committed itself: then something is left of what it was to replace.
                return None if drive_folder(lake, drive_id, plan_id).begun else commit
            known |= earlier
            unread += sorted(earlier)
    return None


def replaced_in_words(commit: DriveManifest) -> str:
    """Of a plan that ``commit`` has replaced, for people."""
    return (
        f"replaced by {contract.run_in_words(commit.run)} ({commit.state}): what this run extracted of "
        "the drive is gone, and a retry would not bring it back"
    )


def error_code(error: Any) -> str:
    """The code of a botocore ``ClientError``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def said_by(error: Any) -> str:
    """What AWS answered by a botocore ``ClientError``, and what to do about it where that is known."""
    detail = error.response.get("Error", {})
    said = ": ".join(str(detail[key]) for key in ("Code", "Message") if detail.get(key))
    advice = contract.s3_advice(error.operation_name, error_code(error), str(detail.get("Message", "")))
    return f"{said}; {advice}" if advice else said


def _typed(content_type: str | None) -> dict[str, str]:
    return {} if content_type is None else {"ContentType": content_type}


def _wait(tried: int) -> None:
    """Seconds, ever more of them."""
    time.sleep(random.uniform(0.5, 1.0) * min(0.1 * 2**tried, 5.0))


def _age_s(answer: Any) -> float:
    """Seconds between the object's last change and the answer, by the server's clock alone."""
    from email.utils import parsedate_to_datetime

    sent = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not sent:
        return 0.0
    return max(0.0, float((parsedate_to_datetime(sent) - answer["LastModified"]).total_seconds()))
