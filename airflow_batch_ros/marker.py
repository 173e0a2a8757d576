"""An object in S3 that says, by being there, that its folder is a whole drive."""

from __future__ import annotations

import hashlib
import re

from airflow_batch_ros.conf import MAX_DRIVE_ID_LENGTH, ConfError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def drive_of(marker: str, *, below: str) -> dict[str, dict[str, str]]:
    """The conf's ``drives_to_process`` of the folder that ``marker`` (an S3 URI) lies in.

    The drive's id is the folder's path below the S3 URI ``below``, with dots for slashes. Where two folders
    could so get one id, or a character is none of an id's, a hash of the folder's URI is added.

    Raises:
        ConfError: the marker is not in a folder below ``below``.

    >>> drive_of("s3://raw/fleet/car_7/day_1/_DONE", below="s3://raw/fleet/")
    {'car_7.day_1': {'bucket': 'raw', 'prefix': 'fleet/car_7/day_1/'}}
    """
    base = f"{below.rstrip('/')}/"
    folder = marker.rpartition("/")[0]
    path = folder.removeprefix(base)
    if not (marker.startswith(base) and base.startswith("s3://") and path != folder and path):
        raise ConfError([f"marker {marker!r}: it is in no folder below {below!r}"])
    bucket, _, prefix = f"{folder}/".removeprefix("s3://").partition("/")
    return {_drive_id(path, folder): {"bucket": bucket, "prefix": prefix}}


def _drive_id(path: str, folder: str) -> str:
    parts = path.split("/")
    drive_id = ".".join(parts)
    if all(_PLAIN.fullmatch(part) for part in parts) and len(drive_id) <= MAX_DRIVE_ID_LENGTH:
        return drive_id
    tail = f"-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", drive_id).lstrip("_.-") or "drive"
    return clean[: MAX_DRIVE_ID_LENGTH - len(tail)] + tail
