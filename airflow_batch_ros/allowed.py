"""Where a run may read and write: lists of places that the deployment allows, whatever its conf names.

The lists come from who deploys and who writes the DAG, never from a conf; each of them has to allow a place.
Jobs hold their plan to the job definition's own list once more. Nothing here imports Airflow or boto3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batch_ros.conf import ConfError, DrivePattern, PipelineConf
from airflow_batch_ros.jobs import SubmitOptions, find_definition
from airflow_batch_ros.lake import error_code
from ros_to_parquet.contract import ALLOW_VARIABLE, is_allowed

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

_SHOWN = 10
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "403"})


@dataclass(frozen=True, slots=True)
class AllowList:
    """URIs at and below which a run may read and write; none allows nothing. ``origin`` names its place."""

    uris: tuple[str, ...]
    origin: str


def parse_allowed(raw: str | Sequence[str], *, origin: str) -> AllowList:
    """``raw``: S3 URIs of buckets and folders, or their text with commas between.

    Raises:
        ConfError: one of them is no such URI.
    """
    texts = raw.split(",") if isinstance(raw, str) else raw
    uris = tuple(stripped for text in texts if (stripped := text.strip()))
    if problems := [
        f"{origin}: {uri!r} is no place of S3's; write s3://bucket or s3://bucket/folder, without '*'"
        for uri in uris
        if not re.fullmatch(r"s3://[^/*{}]+(/[^*{}]*)?", uri)
    ]:
        raise ConfError(problems)
    return AllowList(uris, origin)


def of_job_definition(
    batch: BatchClient, options: SubmitOptions, *, say: Callable[[str], None]
) -> AllowList | None:
    """What jobs submitted with ``options`` are allowed by their definition; None if it has no list.

    Where it may not be read, that is said, and the jobs alone hold their plans to it.
    """
    from botocore.exceptions import ClientError

    name = options.job_definition.rpartition("job-definition/")[2]
    try:
        found = find_definition(batch, options.job_definition)
    except ClientError as error:
        if error_code(error) not in _DENIED:
            raise
        say(
            f"the connection may not read job definition {name} (batch:DescribeJobDefinitions): whether its "
            "jobs may read and write what the conf names, only they will say"
        )
        return None
    # Without a definition there are no jobs: SubmitJob says so.
    for variable in (found or {}).get("containerProperties", {}).get("environment", ()):
        if variable["name"] == ALLOW_VARIABLE and variable["value"].strip():
            uris = tuple(stripped for uri in variable["value"].split(",") if (stripped := uri.strip()))
            return AllowList(uris, f"{ALLOW_VARIABLE} of job definition {name}")
    return None


def check_allowed(conf: PipelineConf, output: str, lists: Iterable[AllowList | None]) -> None:
    """To be called before anything is read or written.

    Raises:
        ConfError: a list leaves out what the conf names, or ``output``; every such place is named.
    """
    named = [(f"drive {drive.drive_id!r}", drive.uri) for drive in conf.drives]
    named += [(f"drive {each.drive_id!r}", uri) for each in conf.patterns for uri in _reach(each)]
    named += [("key 'msg_path'", uri) for uri in conf.options.msg_paths]
    named.append(("key 'output'" if conf.output is not None else "output", output))
    problems = [
        f"{where}: {uri} is outside of what this deployment allows ({_shown(allowed)})"
        for allowed in lists
        if allowed is not None
        for where, uri in named
        if not is_allowed(uri, allowed.uris)
    ]
    if problems:
        raise ConfError(problems)


def _reach(pattern: DrivePattern) -> tuple[str, ...]:
    """The folder that all it may find lies below; the pattern itself where its path steps upwards."""
    return (pattern.base,) if is_allowed(pattern.uri, [pattern.base]) else (pattern.base, pattern.uri)


def _shown(allowed: AllowList) -> str:
    uris = ", ".join(allowed.uris[:_SHOWN]) or "nothing"
    more = f" and {len(allowed.uris) - _SHOWN} more" if len(allowed.uris) > _SHOWN else ""
    return f"{uris}{more}: {allowed.origin}"
