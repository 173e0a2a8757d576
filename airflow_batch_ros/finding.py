"""Drives found by patterns of folders: listings with delimiters, a level at a time, bounded and paced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.arrivals import drive_id_of
from airflow_batch_ros.conf import (
    MAX_DRIVE_ID_LENGTH,
    ConfError,
    DrivePattern,
    DriveSource,
    PipelineConf,
    overlaps,
)
from airflow_batch_ros.pace import Pace
from airflow_batch_ros.plan import PlanError
from ros_to_parquet.contract import is_allowed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_FOLDERS = 10_000
"""Folders that a pattern may match, at each of its levels: what a run hands on grows with its drives."""

THREADS = 16

LISTINGS_PER_S = 100.0

_SHOWN = 5


def find_drives(
    s3: S3Client, pattern: DrivePattern, *, output: str, requester_pays: bool = False
) -> list[DriveSource]:
    """The drives that the pattern finds, as S3 lists their folders now; the lake is none.

    Raises:
        PlanError: it finds nothing or too much.
        botocore's ``ClientError``: S3 does not list them.
    """
    found = [
        DriveSource(drive_id(pattern, prefix), pattern.bucket, prefix, found=True)
        for prefix in _folders(s3, pattern, requester_pays=requester_pays)
        if not f"s3://{pattern.bucket}/{prefix}".startswith(f"{output}/")
    ]
    if not found:
        raise PlanError(f"{_name(pattern)} matches only folders of the lake {output}; check 'output'")
    # S3 takes any name for a folder, also one that an allow-list has to read as a step upwards.
    if strays := [drive.uri for drive in found if not is_allowed(drive.uri, [pattern.base])]:
        raise PlanError(f"{_name(pattern)} finds what steps upwards: {', '.join(strays[:_SHOWN])}")
    return found


def with_found(conf: PipelineConf, found: Iterable[Sequence[DriveSource]]) -> PipelineConf:
    """The conf with the drives that each of its patterns finds.

    A folder that the conf names itself, or an earlier pattern finds, keeps that name.

    Raises:
        ConfError: two folders would be one drive, or one lies in another.
    """
    drives = list(conf.drives)
    for of_pattern in found:
        known = {drive.uri for drive in drives}
        drives += [drive for drive in of_pattern if drive.uri not in known]
    if problems := [*_clashes(drives), *overlaps(drives)]:
        raise ConfError(problems)
    return replace(conf, drives=tuple(drives), found=True)


def drive_id(pattern: DrivePattern, prefix: str) -> str:
    """The id of the drive in a folder that the pattern matches.

    For the star of the pattern's own id stand the names of the folders in whose place the prefix has stars,
    with dots between; made an id as `arrivals.drive_id_of` does.

    >>> drive_id(DrivePattern("eu.*", "raw", "fleet/*/2026-*/bags/"), "fleet/car_7/2026-11-20/bags/")
    'eu.car_7.2026-11-20'
    """
    levels = zip(_levels(pattern.prefix), _levels(prefix), strict=True)
    named = "/".join(name for level, name in levels if "*" in level)
    return pattern.drive_id.replace("*", drive_id_of(named, uri=f"s3://{pattern.bucket}/{prefix}"))


def _clashes(drives: Sequence[DriveSource]) -> Iterator[str]:
    first: dict[str, DriveSource] = {}
    for drive in drives:
        known = first.setdefault(drive.drive_id, drive)
        if known is not drive:
            yield (
                f"drive {drive.drive_id!r}: {known.uri} and {drive.uri} would both be it; give the pattern "
                'of one another id, such as "fleet_b.*"'
            )
        if len(drive.drive_id) > MAX_DRIVE_ID_LENGTH:
            yield (
                f"drive {drive.drive_id!r}: {drive.uri} would have an id of more than {MAX_DRIVE_ID_LENGTH} "
                "characters; give its pattern a shorter one"
            )


def _folders(s3: S3Client, pattern: DrivePattern, *, requester_pays: bool) -> list[str]:
    """The prefixes that the pattern matches, in order."""
    asked: dict[str, Any] = {"Bucket": pattern.bucket}
    if requester_pays:
        asked["RequestPayer"] = "requester"
    pace = Pace(LISTINGS_PER_S)
    levels = _levels(pattern.prefix)
    here = [""]
    seen: list[str] = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="finding") as pool:
        for level in levels:
            if "*" not in level:
                here = [f"{prefix}{level}/" for prefix in here]
                continue
            below: list[str] = []
            for folders, first_ones in pool.map(partial(_below, s3, asked, pace, level), here):
                seen += first_ones[: _SHOWN - len(seen)]
                below += folders
                if len(below) > MAX_FOLDERS:
                    pool.shutdown(cancel_futures=True)
                    raise PlanError(
                        f"{_name(pattern)} matches more than {MAX_FOLDERS:,} folders; make it narrower, and "
                        "take the drives in several runs"
                    )
            here = below
        if "*" not in levels[-1]:
            there = pool.map(partial(_is_there, s3, asked, pace), here)
            here = [prefix for prefix, is_there in zip(here, there, strict=True) if is_there]
    if not here:
        others = f"there are {', '.join(seen)}" if seen else "nothing is there"
        raise PlanError(f"{_name(pattern)} matches no folder; {others}; check 'bucket' and 'prefix'")
    return sorted(here)


def _below(
    s3: S3Client, asked: dict[str, Any], pace: Pace, level: str, prefix: str
) -> tuple[list[str], list[str]]:
    """The folders in ``prefix`` that ``level`` matches, and the first ones whose names begin as it does.

    As shells and engines do, a star does not find names that begin with ``.`` or ``_``.
    """
    names = _names(level)
    hidden = (f"{prefix}.", f"{prefix}_") if level.startswith("*") else ()
    found: list[str] = []
    seen: list[str] = []
    pages = s3.get_paginator("list_objects_v2").paginate(
        **asked, Prefix=f"{prefix}{level.partition('*')[0]}", Delimiter="/"
    )
    pace.wait()
    for page in pages:
        folders = [each["Prefix"] for each in page.get("CommonPrefixes", [])]
        folders = [each for each in folders if not each.startswith(hidden)]
        seen += folders[: _SHOWN - len(seen)]
        found += [each for each in folders if names.fullmatch(_levels(each)[-1])]
        if len(found) > MAX_FOLDERS:
            break
        pace.wait()
    return found, seen


def _is_there(s3: S3Client, asked: dict[str, Any], pace: Pace, prefix: str) -> bool:
    pace.wait()
    return bool(s3.list_objects_v2(**asked, Prefix=prefix, MaxKeys=1).get("KeyCount"))


def _names(level: str) -> re.Pattern[str]:
    """What a level of a pattern matches. Many stars cost no more than few: nothing is tried twice."""
    first, *between, last = map(re.escape, level.split("*"))
    return re.compile(f"{first}{''.join(f'(?>.*?{each})' for each in between)}.*{last}", re.DOTALL)


def _levels(prefix: str) -> list[str]:
    return prefix.removesuffix("/").split("/")


def _name(pattern: DrivePattern) -> str:
    return f"pattern {pattern.drive_id!r} ({pattern.uri})"
