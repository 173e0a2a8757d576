"""Why shards fail: a few documented causes, from what AWS Batch and the engine say.

`docs/troubleshooting.md` has the same table for people: what each means, what happens next, what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from ros_to_parquet.contract import ExitCode


class Cause(StrEnum):
    """Why a shard has no manifest, or a drive was not submitted. Each has exactly one."""

    SPOT_RECLAIM = "spot_reclaim"
    OUT_OF_MEMORY = "out_of_memory"
    DISK = "disk"
    TIMEOUT = "timeout"
    THROTTLED = "throttled"
    ACCESS_DENIED = "access_denied"
    INPUT_MISSING = "input_missing"
    BAG_UNREADABLE = "bag_unreadable"
    TYPE_UNKNOWN = "type_unknown"
    IMAGE_MISSING = "image_missing"
    STUCK_IN_RUNNABLE = "stuck_in_runnable"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    ENGINE_ERROR = "engine_error"
    LOST = "lost"


HELP: Mapping[Cause, str] = {
    Cause.SPOT_RECLAIM: "AWS took the machine back",
    Cause.OUT_OF_MEMORY: "the container needed more memory than it had",
    Cause.DISK: "the container's disk is full",
    Cause.TIMEOUT: "it took longer than an attempt may",
    Cause.THROTTLED: "throttling, the network or a service's own fault, for longer than is waited",
    Cause.ACCESS_DENIED: "a role may not do what is needed",
    Cause.INPUT_MISSING: "a bag, a message package or the output is not there, or is not what was planned",
    Cause.BAG_UNREADABLE: "a bag, or messages in it, cannot be read",
    Cause.TYPE_UNKNOWN: "no definition of a message type is known",
    Cause.IMAGE_MISSING: "the image cannot be pulled, or is not the engine's",
    Cause.STUCK_IN_RUNNABLE: "Batch found no machine for it",
    Cause.CANCELLED: "somebody ended the job",
    Cause.REFUSED: "what was asked for cannot be done: conf, plan, transform, or another run has the drive",
    Cause.ENGINE_ERROR: "an error of the engine itself",
    Cause.LOST: "neither Batch nor the shard says",
}

_ACCESS_CODES = frozenset(
    {
        *("AccessDenied", "403", "AccessDeniedException", "UnrecognizedClientException"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException"),
        *("KMS.DisabledException", "KMS.KMSInvalidStateException", "KMS.NotFoundException"),
        "InvalidObjectState",
    }
)
_MISSING_CODES = frozenset({"NoSuchBucket", "404", "NoSuchKey", "PermanentRedirect"})

RUNNABLE_TOO_LONG = "Stuck in RUNNABLE"
"""Begins the reason with which a wait ends a job that found no machine."""

# Of a job's own statusReason. AWS words these; they are exact enough to be asked before anything else, for
# the exit code is then only that of a container that was told to stop.
_RECLAIMED = re.compile(r"Host EC2 .*terminated|Your Spot Task was interrupted", re.IGNORECASE)
_TIMED_OUT = re.compile(r"Job attempt duration exceeded timeout", re.IGNORECASE)
_STUCK = re.compile(
    rf"MISCONFIGURATION:|CAPACITY:|ACTION_REQUIRED|Batch job is blocked|^{RUNNABLE_TOO_LONG}", re.IGNORECASE
)

# Of the reasons that ECS gives for a container, the first that matches.
_CONTAINER_REASONS: tuple[tuple[re.Pattern[str], Cause], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (r"OutOfMemory", Cause.OUT_OF_MEMORY),
        (r"no space left on device|CannotCreateVolumeError|Thin Pool", Cause.DISK),
        (r"AccessDenied|not authorized to|unable to assume the role", Cause.ACCESS_DENIED),
        (r"CannotPull|pull image|registry auth|manifest unknown|exec format error", Cause.IMAGE_MISSING),
        (r"executable file not found|no such file or directory", Cause.IMAGE_MISSING),
        (r"ResourceInitializationError|DockerTimeoutError|CannotInspect|InternalError", Cause.THROTTLED),
        (r"CannotCreateContainerError|CannotStartContainerError", Cause.REFUSED),
    )
)

_EXIT_CODES: Mapping[int, Cause] = {
    ExitCode.OK: Cause.LOST,  # what it left was there, and is gone
    ExitCode.USAGE: Cause.REFUSED,
    ExitCode.STRICT: Cause.BAG_UNREADABLE,
    ExitCode.TRANSFORM_FAILED: Cause.REFUSED,
    ExitCode.BAG_UNREADABLE: Cause.BAG_UNREADABLE,
    ExitCode.INPUT_MISSING: Cause.INPUT_MISSING,
    ExitCode.OUTPUT_FAILED: Cause.INPUT_MISSING,
    ExitCode.RETRY: Cause.THROTTLED,
    ExitCode.ACCESS_DENIED: Cause.ACCESS_DENIED,
    ExitCode.PLAN_REFUSED: Cause.REFUSED,
    ExitCode.OUT_OF_MEMORY: Cause.OUT_OF_MEMORY,
    ExitCode.TERMINATED: Cause.SPOT_RECLAIM,
}
"""All others are errors of the engine: 1, and 128 and a signal's number."""

_DISK_FULL = re.compile(
    r"no space left on device|disk quota exceeded|Errno (28|122)\b|database or disk is full", re.IGNORECASE
)
_TOLD_TO_STOP = re.compile(r"ended by SIGTERM")
_NO_DEFINITION = re.compile(
    r"holds no definition of it|does not define it|nothing in the bag says what its messages are"
    r"|definitions in '.*' are not supported|message encoding '.*' is not supported"
)


def cause_of(detail: Mapping[str, Any] | None, *, exit_code: int | None = None, reason: str = "") -> Cause:
    """Why a shard failed.

    ``detail`` is its Batch job as DescribeJobs has it, or None where Batch does not know it; ``exit_code``
    and ``reason`` are of the record that the shard's last attempt left, where it left one.

    >>> cause_of({"container": {"exitCode": 75}, "statusReason": "Your Spot Task was interrupted."})
    <Cause.SPOT_RECLAIM: 'spot_reclaim'>
    """
    status, container = _reasons(detail)
    found = _by_status(detail, status)
    if found is not None:
        return found
    if exit_code is None and detail is not None:
        exit_code = last_exit_code(detail)
    for pattern, cause in _CONTAINER_REASONS:
        # A container that ran says by its exit code what became of it; only its memory is ECS's to tell.
        if pattern.search(container) and (exit_code is None or cause is Cause.OUT_OF_MEMORY):
            return cause
    if exit_code is None:
        return Cause.LOST
    return _by_exit(exit_code, reason)


def cause_of_problem(text: str) -> Cause:
    """The cause that a line of a drive manifest's ``problems`` is of."""
    return Cause.TYPE_UNKNOWN if _NO_DEFINITION.search(text) else Cause.BAG_UNREADABLE


def cause_of_error(code: str) -> Cause:
    """The cause that an error code of S3's or Batch's is of; without one the planner refused the drive.

    >>> cause_of_error("NoSuchBucket")
    <Cause.INPUT_MISSING: 'input_missing'>
    """
    if code in _ACCESS_CODES:
        return Cause.ACCESS_DENIED
    if code in _MISSING_CODES:
        return Cause.INPUT_MISSING
    return Cause.REFUSED if code in ("", "ClientException", "InvalidBucketName") else Cause.THROTTLED


def last_exit_code(detail: Mapping[str, Any]) -> int | None:
    """The exit code of a job's last attempt; None where no process ended by itself."""
    code = (detail.get("container") or {}).get("exitCode")
    if code is None:
        code = (_last_attempt(detail).get("container") or {}).get("exitCode")
    return None if code is None else int(code)


def reclaims(detail: Mapping[str, Any]) -> int:
    """How many of a job's attempts ended because AWS took the machine back."""
    attempts = detail.get("attempts") or []
    return sum(bool(_RECLAIMED.search(str(attempt.get("statusReason") or ""))) for attempt in attempts)


def _reasons(detail: Mapping[str, Any] | None) -> tuple[str, str]:
    """Batch's reason for the job's end, and ECS's for its container's."""
    if detail is None:
        return "", ""
    last = _last_attempt(detail)
    status = detail.get("statusReason") or last.get("statusReason")
    container = (detail.get("container") or {}).get("reason") or (last.get("container") or {}).get("reason")
    return str(status or ""), str(container or "")


def _last_attempt(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    attempts = detail.get("attempts") or [{}]
    last: Mapping[str, Any] = attempts[-1]
    return last


def _by_status(detail: Mapping[str, Any] | None, status: str) -> Cause | None:
    if _RECLAIMED.search(status):
        return Cause.SPOT_RECLAIM
    if _TIMED_OUT.search(status):
        return Cause.TIMEOUT
    if _STUCK.search(status):
        return Cause.STUCK_IN_RUNNABLE
    ended = detail is not None and (detail.get("isTerminated") or detail.get("isCancelled"))
    return Cause.CANCELLED if ended else None


def _by_exit(exit_code: int, reason: str) -> Cause:
    if _DISK_FULL.search(reason):
        return Cause.DISK
    if _NO_DEFINITION.search(reason):
        return Cause.TYPE_UNKNOWN
    if exit_code == ExitCode.RETRY and _TOLD_TO_STOP.search(reason):
        return Cause.SPOT_RECLAIM  # nobody ended the job, and it had time left: its machine went
    return _EXIT_CODES.get(exit_code, Cause.ENGINE_ERROR)
