"""Files to S3 and back: only what is not there already, with somebody told of every byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.bags import DriveFiles

if TYPE_CHECKING:
    from boto3.s3.transfer import S3Transfer
    from mypy_boto3_s3 import S3Client

Progress = Callable[[int], None]
"""Told how many more bytes are done."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was done: files and bytes moved, files that were the same on both sides, files removed."""

    moved: int
    moved_bytes: int
    same: int
    removed: int


def drive_prefix(drive_id: str) -> str:
    return f"drives/{drive_id}/"


def conf_of(s3: S3Client, drives: Sequence[DriveFiles], *, bucket: str, lake: str) -> dict[str, Any]:
    """The conf of a run over uploaded drives. One that the lake has is done again: there is something to see.

    Args:
        lake: its URI, ``s3://bucket`` or ``s3://bucket/prefix``.
    """
    sources = {drive.drive_id: {"bucket": bucket, "prefix": drive_prefix(drive.drive_id)} for drive in drives}
    conf: dict[str, Any] = {"drives_to_process": sources}
    if any(drive.recursive for drive in drives):
        conf["recursive"] = True
    lake_bucket, _, below = lake.removeprefix("s3://").partition("/")
    manifests = f"{below}/_manifests" if below else "_manifests"
    if any(stored_bytes(s3, lake_bucket, f"{manifests}/drive_id={drive.drive_id}/") for drive in drives):
        conf["overwrite"] = True
    return conf


def upload(s3: S3Client, bucket: str, drives: Sequence[DriveFiles], *, progress: Progress) -> Transfer:
    """Make each drive's prefix in ``bucket`` hold exactly its files.

    A file is sent unless the object has its size and its MD5, which `upload` leaves in the metadata:
    the ETag of an object in parts is not its MD5.
    """
    transfer = _transfer(s3)
    moved = moved_bytes = same = removed = 0
    for drive in drives:
        prefix = drive_prefix(drive.drive_id)
        there = _sizes(s3, bucket, prefix)
        for file in drive.files:
            size, key = file.path.stat().st_size, prefix + file.name
            digest = _md5(file.path)
            if there.pop(key, None) == size and _stored_md5(s3, bucket, key) == digest:
                same += 1
                progress(size)
                continue
            extra = {"Metadata": {"md5": digest}}
            transfer.upload_file(str(file.path), bucket, key, callback=progress, extra_args=extra)
            moved, moved_bytes = moved + 1, moved_bytes + size
        for key in there:  # of an earlier folder of the same name
            s3.delete_object(Bucket=bucket, Key=key)
            removed += 1
    return Transfer(moved, moved_bytes, same, removed)


def download(s3: S3Client, bucket: str, prefix: str, folder: Path, *, progress: Progress) -> Transfer:
    """Make ``folder`` hold exactly what is below ``prefix`` (which ends in ``/``, or is empty).

    Objects are named after their content's plan and never change, so that an equal size is an equal file;
    what is not Parquet is small, and fetched every time.
    """
    moved = moved_bytes = same = 0
    transfer = _transfer(s3)
    there = _sizes(s3, bucket, prefix)
    for key, size in there.items():
        path = folder / key.removeprefix(prefix)
        if path.suffix == ".parquet" and path.is_file() and path.stat().st_size == size:
            same += 1
            progress(size)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        transfer.download_file(bucket, key, str(path), callback=progress)
        moved, moved_bytes = moved + 1, moved_bytes + size
    wanted = {folder / key.removeprefix(prefix) for key in there}
    removed = 0
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path not in wanted:
            path.unlink()
            removed += 1
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return Transfer(moved, moved_bytes, same, removed)


def remove(s3: S3Client, bucket: str, prefix: str) -> None:
    """Delete what is below ``prefix``."""
    for key in _sizes(s3, bucket, prefix):
        s3.delete_object(Bucket=bucket, Key=key)


def stored_bytes(s3: S3Client, bucket: str, prefix: str) -> int:
    return sum(_sizes(s3, bucket, prefix).values())


def _transfer(s3: S3Client) -> S3Transfer:
    from boto3.s3.transfer import S3Transfer, TransferConfig

    parts: Any = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=16 << 20, max_concurrency=2)
    return S3Transfer(s3, parts)


def _sizes(s3: S3Client, bucket: str, prefix: str) -> dict[str, int]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def _stored_md5(s3: S3Client, bucket: str, key: str) -> str | None:
    return s3.head_object(Bucket=bucket, Key=key)["Metadata"].get("md5")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
