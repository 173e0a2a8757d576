"""Drives that arrive in S3: a drive is there when the marker object that its uploader writes last is.

Nothing here imports Airflow or boto3.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from airflow_batch_ros.conf import MAX_DRIVE_ID_LENGTH, ConfError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MARKER = "_COMPLETE"
"""Name of the object that says that its folder has all of a drive's bags."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a bucket."""

    bucket: str
    key: str


def drive_of(marker: StoredObject, *, name: str = MARKER) -> dict[str, dict[str, str]]:
    """The entry of ``drives_to_process`` that a marker stands for; empty if the object is no marker.

    >>> drive_of(StoredObject("raw", "fleet/2026-11-20/car_7/_COMPLETE"))
    {'raw.fleet.2026-11-20.car_7': {'bucket': 'raw', 'prefix': 'fleet/2026-11-20/car_7/'}}
    """
    folder, _, own = marker.key.rpartition("/")
    if own != name:
        return {}
    prefix = f"{folder}/" if folder else ""
    drive_id = drive_id_of(f"{marker.bucket}/{folder}" if folder else marker.bucket)
    return {drive_id: {"bucket": marker.bucket, "prefix": prefix}}


def drive_below(marker_uri: str, *, below: str) -> dict[str, dict[str, str]]:
    """The entry of ``drives_to_process`` that a marker at ``s3://bucket/key`` stands for.

    The drive's id is of its folder's path below the S3 URI ``below``.

    Raises:
        ConfError: the marker is not in a folder below ``below``.

    >>> drive_below("s3://raw/fleet/car_7/day_1/_DONE", below="s3://raw/fleet/")
    {'car_7.day_1': {'bucket': 'raw', 'prefix': 'fleet/car_7/day_1/'}}
    """
    base = f"{below.rstrip('/')}/"
    folder = marker_uri.rpartition("/")[0]
    path = folder.removeprefix(base)
    if not (marker_uri.startswith(base) and base.startswith("s3://") and path != folder and path):
        raise ConfError([f"marker {marker_uri!r}: it is in no folder below {below!r}"])
    bucket, _, prefix = f"{folder}/".removeprefix("s3://").partition("/")
    return {drive_id_of(path, uri=folder): {"bucket": bucket, "prefix": prefix}}


def drive_id_of(folder: str, *, uri: str = "") -> str:
    """A drive id for a folder: the same each time, another one for each other folder.

    It is the folder's path with dots for slashes. Where two folders could so get one id, or a character is
    none of an id's, a hash of ``uri`` (by default of the path) is added.

    >>> drive_id_of("raw/2026-11-20/car 7")
    'raw.2026-11-20.car_7-90f7dd38'
    """
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9_-]+)*", folder)
    drive_id = folder.replace("/", ".")
    if plain and len(drive_id) <= MAX_DRIVE_ID_LENGTH:
        return drive_id
    digest = hashlib.sha256((uri or folder).encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", drive_id).lstrip("_.-")
    return f"{readable[-(MAX_DRIVE_ID_LENGTH - 9) :].lstrip('_.-')}-{digest}".lstrip("-")


def created_objects(body: str) -> list[StoredObject]:
    """The objects of a message that S3 sent to a queue: by itself, by SNS, or by EventBridge.

    Of messages about deleted objects, and of the one that S3 sends when it is set up, there are none.

    Raises:
        ValueError: not such a message.
    """
    try:
        message = json.loads(body)
    except RecursionError as error:
        raise ValueError("not a notification of S3's: JSON that is nested too deep") from error
    try:
        if isinstance(message.get("Message"), str):  # SNS, unless it delivers raw messages
            return created_objects(message["Message"])
        if message.get("Event") == "s3:TestEvent":
            return []
        if "detail" in message:
            detail = message["detail"]
            created = message["detail-type"] == "Object Created"
            return [_stored(detail["bucket"]["name"], detail["object"]["key"])] if created else []
        return [
            _stored(record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"]))
            for record in message["Records"]
            if record["eventName"].removeprefix("s3:").startswith("ObjectCreated:")
        ]
    except (AttributeError, KeyError, TypeError) as error:
        # Without its words: the queue may be another's, and the reason is logged.
        raise ValueError("JSON, but not a notification of S3's about objects") from error


def _stored(bucket: object, key: object) -> StoredObject:
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise TypeError("names are text")
    return StoredObject(bucket, key)


def marked_drives(
    s3: S3Client, bucket: str, prefix: str, *, since: datetime, before: datetime, name: str = MARKER
) -> dict[str, dict[str, str]]:
    """``drives_to_process`` for the markers below ``prefix`` written in ``[since, before)``."""
    found: dict[str, dict[str, str]] = {}
    for item in _objects(s3, bucket, prefix):
        if since <= item["LastModified"] < before:
            found |= drive_of(StoredObject(bucket, item["Key"]), name=name)
    return found


def _objects(s3: S3Client, bucket: str, prefix: str) -> Iterator[Mapping[str, Any]]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", [])
