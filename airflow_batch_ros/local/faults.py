"""Faults that an embedded AWS has on purpose: what each is, which of them are in force, and whom they befall.

A fault is a small frozen dataclass; what it does is done where it belongs: to S3's requests in `s3_proxy`,
to those of Batch and CloudWatch Logs in `api_faults`, to jobs in `batch_jobs`.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType, NoneType
from typing import Any, Generic, TypeVar

_KMS_KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"

S3_ERRORS: Mapping[str, tuple[int, str, str]] = MappingProxyType(
    {
        "AccessDenied": (403, "AccessDenied", "Access Denied"),
        "KMSAccessDenied": (
            403,
            "AccessDenied",
            (
                "User: arn:aws:sts::123456789012:assumed-role/jobs/job is not authorized to perform: {kms} "
                f"on resource: {_KMS_KEY} because no identity-based policy allows the {{kms}} action"
            ),
        ),
        "KMSDisabled": (
            400,
            "KMS.DisabledException",
            f"{_KMS_KEY} is disabled.",
        ),
        "InvalidObjectState": (
            403,
            "InvalidObjectState",
            "The operation is not valid for the object's storage class",
        ),
        "ExpiredToken": (400, "ExpiredToken", "The provided token has expired."),
        "NoSuchKey": (404, "NoSuchKey", "The specified key does not exist."),
        "NoSuchBucket": (404, "NoSuchBucket", "The specified bucket does not exist"),
        "NoSuchUpload": (404, "NoSuchUpload", "The specified upload does not exist."),
        "ConditionalRequestConflict": (
            409,
            "ConditionalRequestConflict",
            "The conditional request cannot succeed due to a conflicting operation against this resource.",
        ),
        "PreconditionFailed": (
            412,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
        ),
        "InternalError": (500, "InternalError", "We encountered an internal error. Please try again."),
        "ServiceUnavailable": (503, "ServiceUnavailable", "Service is unable to handle request."),
        "SlowDown": (503, "SlowDown", "Please reduce your request rate."),
    }
)
"""HTTP status, code and message as S3 gives them, by what `S3Error` calls them."""

BATCH_ERRORS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "TooManyRequestsException": (429, "Too Many Requests"),
        "ServerException": (500, "An unexpected error occurred."),
        "ClientException": (400, "The request was refused on purpose."),
        "AccessDeniedException": (403, "User is not authorized to perform this action."),
    }
)


class FaultError(ValueError):
    """A fault that there is not, or with a value that it does not take; the message says which there are."""


# --- what can go wrong ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong on purpose: for whatever it matches, unless said otherwise.

    Attributes:
        skip: so many of what it matches are spared first.
        times: so many of what comes then it befalls, no more; None for all.
        probability: with which it befalls each of them.
        seed: of that chance; equal seeds choose alike.
    """

    skip: int = 0
    times: int | None = None
    probability: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Fault(Fault):
    """Of requests to S3.

    Attributes:
        operation: glob of S3's name for it (``GetObject``, ``UploadPart``, ``List*``) or of its method.
        bucket: glob.
        key: glob, which crosses ``/``; of a listing, of the prefix it asks for.
    """

    operation: str = "*"
    bucket: str = "*"
    key: str = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Error(S3Fault):
    """The request is refused, and nothing of it is done. ``error`` is one of `S3_ERRORS`."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Slow(S3Fault):
    """The answer begins late, and bodies go slowly, both ways.

    Attributes:
        before_s: seconds until the answer begins.
        bytes_per_second: None for as fast as it goes.
    """

    before_s: float = 0.0
    bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Cut(S3Fault):
    """The connection is reset in the middle of a body: of what is sent, which S3 never has, or of the answer.

    Attributes:
        after_bytes: bytes of the body that come through; a shorter one is not cut.
    """

    after_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class S3LostAnswer(S3Fault):
    """The request is carried out, and the connection is reset instead of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3StaleListing(S3Fault):
    """A listing goes on to answer as it did the first time it was asked for while this fault is in force.

    What was written since is not in it, what was deleted since still is.
    """

    operation: str = "List*"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchThrottling(Fault):
    """Batch takes so many requests a second and answers others with TooManyRequestsException.

    Attributes:
        operation: glob of Batch's name for it (``SubmitJob``, ``Describe*``).
        requests_per_second: what the bucket of tokens gains; AWS's is near 50 an account.
        burst: what it holds.
    """

    operation: str = "*"
    requests_per_second: float = 50.0
    burst: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRefusal(Fault):
    """Batch refuses a request, and nothing of it is done. ``error`` is one of `BATCH_ERRORS`."""

    operation: str = "*"
    error: str = "ServerException"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLateAnswer(Fault):
    """Batch carries a request out, and answers when the client has given up.

    Attributes:
        after_s: seconds until the answer; None for never: the connection is closed.
    """

    operation: str = "SubmitJob"
    after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFault(Fault):
    """Of jobs.

    Attributes:
        job: glob of its name.
        index: an array's child; None for plain jobs and all children.
    """

    job: str = "*"
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStuck(JobFault):
    """It stays RUNNABLE while this fault is in force, and goes on then.

    Attributes:
        reason: its ``statusReason``, as Batch gives one to a job that blocks its queue.
        cancel_after_s: seconds until it is cancelled with that reason, as by a queue's
            ``jobStateTimeLimitActions``; None for never.
    """

    reason: str = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"
    cancel_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReclaimed(JobFault):
    """The attempt's host is taken away: ``Host EC2 (instance i-...) terminated.``, and no exit code.

    Attributes:
        at_line: when it logs a line that this glob matches; None for as soon as it runs.
    """

    at_line: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUnknown(JobFault):
    """DescribeJobs and ListJobs do not know it, though it runs; of an array, its children neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNotFound(JobFault):
    """The attempt does not start: ``CannotPullContainerError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnds(JobFault):
    """The attempt ends with this exit code before its command has done anything.

    Attributes:
        reason: of the container, as ``OutOfMemoryError: Container killed due to memory usage``.
    """

    exit_code: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsMissing(Fault):
    """CloudWatch Logs has not what its reader asks for.

    Attributes:
        what: ``stream`` or ``group``.
        stream: glob of the names of streams that are asked for.
    """

    what: str = "stream"
    stream: str = "*"


KINDS: Mapping[str, type[Fault]] = MappingProxyType(
    {
        "s3-error": S3Error,
        "s3-slow": S3Slow,
        "s3-cut": S3Cut,
        "s3-lost-answer": S3LostAnswer,
        "s3-stale-listing": S3StaleListing,
        "batch-throttling": BatchThrottling,
        "batch-refusal": BatchRefusal,
        "batch-late-answer": BatchLateAnswer,
        "job-stuck": JobStuck,
        "host-reclaimed": HostReclaimed,
        "job-unknown": JobUnknown,
        "image-not-found": ImageNotFound,
        "job-ends": JobEnds,
        "logs-missing": LogsMissing,
    }
)
"""Every fault by the name that the command line and the wire have for it."""

_NAMES = {kind: name for name, kind in KINDS.items()}


# --- on the wire ------------------------------------------------------------------------------------


def name_of(fault: Fault) -> str:
    return _NAMES[type(fault)]


def to_raw(fault: Fault) -> dict[str, Any]:
    """JSON-able; `from_raw` reads it."""
    return {"kind": name_of(fault), **dataclasses.asdict(fault)}


def describe(fault: Fault) -> str:
    """The fault's name and what differs from its defaults, as on the command line.

    >>> describe(S3Error(error="SlowDown", key="*.bag", times=2))
    's3-error --times 2 --key *.bag --error SlowDown'
    """
    said = [
        f"--{each.name.replace('_', '-')} {getattr(fault, each.name)}"
        for each in dataclasses.fields(fault)
        if getattr(fault, each.name) != each.default
    ]
    return " ".join([name_of(fault), *said])


def field_types(kind: type[Fault]) -> dict[str, type]:
    """``int``, ``float`` or ``str`` of each of a kind's fields, whether it may be None or not."""
    hints = typing.get_type_hints(kind)
    types: dict[str, type] = {}
    for each in dataclasses.fields(kind):
        (types[each.name],) = [part for part in _parts(hints[each.name]) if part is not NoneType]
    return types


def _parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def from_raw(raw: Mapping[str, Any]) -> Fault:
    """What `to_raw` wrote.

    Raises:
        FaultError: no such fault, field or value.
    """
    values = dict(raw)
    kind = KINDS.get(str(values.pop("kind", "")))
    if kind is None:
        raise FaultError(f"no fault {raw.get('kind')!r}; there are {', '.join(KINDS)}")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise FaultError(f"{raw['kind']} has no {name!r}; it has {', '.join(hints)}")
        allowed = _parts(hints[name])
        if not isinstance(value, (*allowed, int) if float in allowed else allowed):
            raise FaultError(f"{raw['kind']}: {name} cannot be {value!r}")
    try:
        return checked(kind(**values))
    except TypeError as error:
        raise FaultError(f"{raw['kind']}: {error}") from error


def checked(fault: Fault) -> Fault:
    """The fault, if its values are such as there are.

    Raises:
        FaultError: they are not.
    """
    name = name_of(fault)
    if isinstance(fault, S3Error) and fault.error not in S3_ERRORS:
        raise FaultError(f"{name}: no error {fault.error!r}; there are {', '.join(S3_ERRORS)}")
    if isinstance(fault, BatchRefusal) and fault.error not in BATCH_ERRORS:
        raise FaultError(f"{name}: no error {fault.error!r}; there are {', '.join(BATCH_ERRORS)}")
    if isinstance(fault, LogsMissing) and fault.what not in ("stream", "group"):
        raise FaultError(f"{name}: what is missing is 'stream' or 'group', not {fault.what!r}")
    if not 0 <= fault.probability <= 1:
        raise FaultError(f"{name}: probability is between 0 and 1, not {fault.probability}")
    for each in dataclasses.fields(fault):
        value = getattr(fault, each.name)
        if each.name not in ("seed", "index") and isinstance(value, int | float) and value < 0:
            raise FaultError(f"{name}: {each.name} cannot be {value}")
    for rate in ("bytes_per_second", "requests_per_second"):
        if getattr(fault, rate, None) == 0:
            raise FaultError(f"{name}: {rate} is more than 0")
    return fault


# --- what is in force -------------------------------------------------------------------------------

F = TypeVar("F", bound=Fault)


@dataclass(slots=True)
class InForce(Generic[F]):
    """A fault that was added, and how it went.

    Attributes:
        met: how many requests, jobs or looks it matched.
        hits: how many of these it befell.
        memory: of what does it, for as long as it is in force.
    """

    id: str
    fault: F
    met: int = 0
    hits: int = 0
    memory: dict[Any, Any] = field(default_factory=dict)
    chance: random.Random = field(default_factory=random.Random)

    def befall(self) -> bool:
        """Counts one more that it matches; whether it befalls it."""
        self.met += 1
        spent = self.fault.times is not None and self.hits >= self.fault.times
        if self.met <= self.fault.skip or spent:
            return False
        if self.fault.probability < 1 and self.chance.random() >= self.fault.probability:
            return False
        self.hits += 1
        return True


class FaultBoard:
    """The faults in force; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[InForce[Any]] = []
        self._added = 0
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Has ``listener`` called when faults have been removed."""
        self._listeners.append(listener)

    def add(self, faults: Iterable[Fault]) -> list[str]:
        """Puts them in force; their ids."""
        with self._lock:
            ids = []
            for fault in faults:
                self._added += 1
                ids.append(f"fault-{self._added}")
                self._faults.append(InForce(ids[-1], fault, chance=random.Random(fault.seed)))
            return ids

    def remove(self, ids: Iterable[str] | None = None) -> list[str]:
        """Ends those of these ids, or all; the ids of what it ended."""
        with self._lock:
            wanted = {each.id for each in self._faults}.intersection(ids if ids is not None else self._ids())
            self._faults = [each for each in self._faults if each.id not in wanted]
        for listener in self._listeners:
            listener()
        return sorted(wanted)

    def _ids(self) -> list[str]:
        return [each.id for each in self._faults]

    def has(self, fault_id: str) -> bool:
        return fault_id in self._ids()

    def shown(self) -> list[dict[str, Any]]:
        """Each with its id and how it went, JSON-able."""
        with self._lock:
            return [
                {"id": each.id, "met": each.met, "hits": each.hits, "fault": to_raw(each.fault)}
                for each in self._faults
            ]

    def befalling(self, kind: type[F], matches: Callable[[F], bool]) -> InForce[F] | None:
        """The first fault of a kind, or below it, that ``matches`` and befalls what is asked about."""
        with self._lock:
            for each in self._faults:
                if isinstance(each.fault, kind) and matches(each.fault) and each.befall():
                    return each
        return None

    def throttled(self, operation: str) -> bool:
        """Whether a request to Batch finds no token left; it takes one otherwise."""
        with self._lock:
            for each in self._faults:
                fault = each.fault
                if not isinstance(fault, BatchThrottling) or not _named(operation, fault.operation):
                    continue
                now = time.monotonic()
                gained = (now - each.memory.get("at", now)) * fault.requests_per_second
                tokens = min(float(fault.burst), each.memory.get("tokens", float(fault.burst)) + gained)
                each.memory |= {"at": now, "tokens": max(tokens - 1, 0.0) if tokens >= 1 else tokens}
                if tokens < 1 and each.befall():
                    return True
        return False


def job_matches(fault: JobFault, name: str, index: int | None) -> bool:
    return fnmatchcase(name, fault.job) and fault.index in (None, index)


def _named(operation: str, pattern: str) -> bool:
    return fnmatchcase(operation.lower(), pattern.lower())


def operation_matches(operation: str, pattern: str) -> bool:
    """Whether a glob means an operation; without case, as its name on the wire is."""
    return _named(operation, pattern)
