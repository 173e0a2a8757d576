"""What Airflow and the engine agree on: plans, manifests, where they lie, and exit codes.

Standard library only, so that Airflow can import it. Everything here is JSON on the wire, with sorted
keys and no insignificant white space, so that a SHA-256 of it is reproducible.

Object layout below an output URI (``{output}``)::

    {table}/schema={hash8}/drive_id={drive}/{shard name}.parquet   see `shard_name`
    _plans/runs/{run hash}/{hash}.json                     what a run was asked for, to find its drives by
    _plans/planning/{run hash}/{job id}.json               a Batch job that plans a run
    _plans/drive_id={drive}/{plan id}/plan.json            the plan, immutable
    _plans/drive_id={drive}/{plan id}/generation-{g}.json  shards of a generation, immutable
    _plans/drive_id={drive}/{plan id}/job-{g}.json         the Batch job of a generation
    _manifests/drive_id={drive}/{plan id}/{shard}.started.json     a try of a shard; the next: started-2
    _manifests/drive_id={drive}/{plan id}/{shard}.failed.json
    _manifests/drive_id={drive}/{plan id}/{shard}.json     a shard's manifest: its commit, immutable
    _manifests/drive_id={drive}/{plan id}/drive.json       the drive's manifest for this plan, immutable
    _manifests/drive_id={drive}/{plan id}/finish.json      what became of the finishing steps after it
    _reports/drive_id={drive}/report.html                  the drive's report, of all its plans
    _attachments/drive_id={drive}/{shard name}-...         files that bags have attached
    _files/{table}/drive_id={drive}/{shard name}/...       pictures and videos of a table's rows
    _quality/drive_id={drive}/{plan id}.parquet            results of the quality checks of a plan
    _schemas/{table}/{hash8}.json                          the definition behind a table's schema=
    _frames/{name}/drive_id={drive}/frames.parquet         a frames table: topics put together by time
    _leases/drive_id={drive}.json                          who writes this drive
    _fleet/{drives, bags, topics}/{drive}.parquet          what all drives are searched by
    _catalog/{table}/schema={hash8}/drive_id={drive}/...   which files a Glue catalog's partition is of
    _iceberg/{table}/metadata/...                          an Iceberg table's metadata
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final, TypeVar

T = TypeVar("T")

CONTRACT_VERSION = 1

ALLOW_VARIABLE = "ROS_TO_PARQUET_ALLOW"
"""Environment variable: comma-separated URIs; what a job reads and writes must lie at or below them."""

MSG_PATH_VARIABLE = "ROS_TO_PARQUET_MSG_PATH"
"""Environment variable: comma-separated folders of definitions, looked into after those of the options: an
image's own."""

ROS2_DISTRIBUTIONS = (
    "lyrical",
    "kilted",
    "jazzy",
    "iron",
    "humble",
    "galactic",
    "foxy",
    "eloquent",
    "dashing",
)
"""Newest first; the order in which a standard type is looked up that the bag does not define."""

ROS_DISTRIBUTIONS = (*ROS2_DISTRIBUTIONS, "noetic")
"""Whose standard types the engine has. ROS 1 has the one, which its bags always get."""

MAX_ARRAY_SIZE = 10_000
"""Children an AWS Batch array job can have; the least is 2."""

MAX_REASONS = 100
"""Rejected messages a topic and shard whose offset and reason are listed; the rest are counted."""


SQLITE_SHARED = "-shm"
SQLITE_BESIDE = ("-wal", "-journal", SQLITE_SHARED)
"""What SQLite adds to a database's name: its write-ahead log (messages that are not in the database yet), its
rollback journal (how to take back what was not finished), and memory shared with others (holds nothing)."""


class ContractError(ValueError):
    """A plan, manifest or other object that does not say what this version expects, or a wrong hash."""


class ExitCode(IntEnum):
    """Exit codes of ``ros-to-parquet``. 75 is the only one that a retry can help."""

    OK = 0
    ENGINE_ERROR = 1
    USAGE = 2
    STRICT = 3
    TRANSFORM_FAILED = 4
    BAG_UNREADABLE = 65
    INPUT_MISSING = 66
    OUTPUT_FAILED = 73
    RETRY = 75
    ACCESS_DENIED = 77
    PLAN_REFUSED = 78
    OUT_OF_MEMORY = 137
    TERMINATED = 143


EXIT_CODE_HELP: Mapping[ExitCode, str] = {
    ExitCode.OK: "done; rejected messages and damaged bags, if any, are in the manifest",
    ExitCode.ENGINE_ERROR: "an error of the engine itself: please report it",
    ExitCode.USAGE: "wrong command line",
    ExitCode.STRICT: "done, but with rejects or damage, and --strict was given",
    ExitCode.TRANSFORM_FAILED: "a transform failed, or gave what no table can be: the log has its traceback",
    ExitCode.BAG_UNREADABLE: "nothing could be read from any of the bags",
    ExitCode.INPUT_MISSING: "a bag is not there, or is not the one that was planned (size or ETag changed)",
    ExitCode.OUTPUT_FAILED: "the output could not be written",
    ExitCode.RETRY: "interrupted by something that passes: throttling, network, reclaim; retry helps",
    ExitCode.ACCESS_DENIED: "the store refused access",
    ExitCode.PLAN_REFUSED: "plan with a wrong hash, version, bucket or prefix, or another run has the drive",
    ExitCode.OUT_OF_MEMORY: "killed by the system, most often for memory",
    ExitCode.TERMINATED: "terminated",
}


class DriveState(StrEnum):
    """How a drive ended."""

    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_REJECTS = "succeeded_with_rejects"
    DAMAGED = "damaged"
    PARTIAL = "partial"
    FAILED = "failed"


class FailOn(StrEnum):
    """What a drive can fail by: ending in a state, or a quality check of this level or a worse one."""

    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_REJECTS = "succeeded_with_rejects"
    DAMAGED = "damaged"
    PARTIAL = "partial"
    FAILED = "failed"
    QUALITY_WARN = "quality_warn"
    QUALITY_ERROR = "quality_error"


class BagStatus(StrEnum):
    """How a bag ended: ``unreadable`` is a bag of which nothing could be read."""

    OK = "ok"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


class PointClouds(StrEnum):
    """What becomes of ``sensor_msgs/PointCloud2``.

    ``recorded``: its fields, with the points in a blob; ``decoded``: a column for each of the points' fields.
    """

    RECORDED = "recorded"
    DECODED = "decoded"


class ImageForm(StrEnum):
    """Where the pixels of ``sensor_msgs/Image`` and ``CompressedImage`` are.

    ``recorded``: in ``data``, as recorded; ``png``, ``jpeg``: encoded, in the column ``image``;
    ``png_files``, ``jpeg_files``: encoded, a file each, whose path is in the column ``image_path``;
    ``left_out``: in no table, where a video has them.
    """

    RECORDED = "recorded"
    PNG = "png"
    JPEG = "jpeg"
    PNG_FILES = "png_files"
    JPEG_FILES = "jpeg_files"
    LEFT_OUT = "left_out"


class VideoCodec(StrEnum):
    """What a camera's video is encoded in."""

    NONE = "none"
    H264 = "h264"
    AV1 = "av1"


class ParquetStyle(StrEnum):
    """How tables are encoded; their values are the same.

    ``compatible``: plain values, dictionaries for strings, no unsigned 32-bit integers (Athena takes large
    ones for negative); ``compact``: byte-stream-split floats, delta integers, which Spark has from 4.3 on.
    """

    COMPATIBLE = "compatible"
    COMPACT = "compact"


class CatalogKind(StrEnum):
    """Where tables are registered: Hive's in AWS Glue, or Iceberg's."""

    GLUE = "glue"
    ICEBERG = "iceberg"


class GlueFiles(StrEnum):
    """How a Glue catalogue's partition says which files it has.

    ``listed``: by a list of them, for Athena and Trino; ``folders``: all in its folder, for any reader.
    """

    LISTED = "listed"
    FOLDERS = "folders"


_PERMISSIONS = (
    ("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
    ("List", "s3:ListBucket"),
    ("Get", "s3:GetObject"),
    ("Head", "s3:GetObject, and s3:ListBucket of the bucket, without which what is missing is refused too"),
    ("Abort", "s3:AbortMultipartUpload"),
    ("Delete", "s3:DeleteObject"),
    ("", "s3:PutObject"),
)
"""By how the names of operations begin; the first that fits."""

_CREDENTIALS = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
)


def s3_advice(operation: str, code: str, message: str) -> str:
    """What to do about an error of S3's that does not pass by itself; empty where nothing is known.

    >>> s3_advice("GetObject", "AccessDenied", "Access Denied")
    'let the role that asks do s3:GetObject there'
    """
    if code.startswith("KMS.") or "kms:" in message:
        if code.startswith("KMS.") and "AccessDenied" not in code:
            return "the KMS key that it is encrypted with cannot be used: enable it, or undo its deletion"
        action = "kms:Decrypt" if operation.startswith(("Get", "Head")) else "kms:GenerateDataKey"
        return (
            f"the KMS key that it is encrypted with is what refuses: let the role that asks do {action} with "
            "that key, in its own policy and in the key's"
        )
    if code == "InvalidObjectState":
        return "it is archived (Glacier): restore it first (aws s3api restore-object), then run again"
    if code in _CREDENTIALS:
        return "check the credentials that are used, and this machine's clock"
    if code == "NoSuchBucket":
        return "check the bucket's name"
    if code == "400":  # the answer to a HEAD, which has no body that would say more
        return "check the credentials that are used, their region, and the KMS key that it is encrypted with"
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        permission = next(each for prefix, each in _PERMISSIONS if operation.startswith(prefix))
        return f"let the role that asks do {permission} there"
    return ""


class Clock(StrEnum):
    """Which of a message's times is meant: when it was recorded, or its header's stamp."""

    LOG_TIME = "log_time"
    STAMP = "stamp"


class Match(StrEnum):
    """Which of a topic's messages a frame gets, of those within the tolerance.

    ``nearest`` in time (of two as near, the earlier); ``previous``: the last one at or before the frame;
    ``interpolated`` between the last one at or before the frame and the first one after it.
    """

    NEAREST = "nearest"
    PREVIOUS = "previous"
    INTERPOLATED = "interpolated"


class Change(StrEnum):
    """How a definition of a topic differs from another one, by what it takes to read both as one table.

    ``same``: nothing, the columns are the same; ``widened``: a cast that keeps every value; ``added``: nulls,
    where one of them lacks fields (and casts, where types are wider too); ``broken``: no table holds both.
    """

    SAME = "same"
    WIDENED = "widened"
    ADDED = "added"
    BROKEN = "broken"


# --- quality checks ---------------------------------------------------------------------------------


class QualityLevel(StrEnum):
    """What a quality check says of a topic."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


class QualityCheck(StrEnum):
    """What is checked of a topic; docs/quality.md defines each."""

    RATE = "rate"
    GAP = "gap"
    COVERAGE = "coverage"
    LOG_ORDER = "log_order"
    LOG_REPEATS = "log_repeats"
    STAMP_ORDER = "stamp_order"
    STAMP_REPEATS = "stamp_repeats"
    STAMP_UNSET = "stamp_unset"
    STAMP_OFFSET = "stamp_offset"
    STAMP_AHEAD = "stamp_ahead"
    LATENCY = "latency"
    FROZEN = "frozen"
    NOT_FINITE = "not_finite"
    FRAMES = "frames"
    CAMERA_SYNC = "camera_sync"
    RETURNS = "returns"


QUALITY_BELOW = frozenset({QualityCheck.RATE, QualityCheck.COVERAGE})
"""Checks whose number is bad if it is below its limits; of all others, if it is above."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """From where on a number is a ``warn`` or an ``error``; None for never. Both None: it is not checked."""

    warn: float | None
    error: float | None

    @property
    def off(self) -> bool:
        return self.warn is None and self.error is None

    def level(self, check: QualityCheck, value: float) -> tuple[QualityLevel, float | None]:
        """The level of a number, and the limit that it is beyond."""
        for level, limit in ((QualityLevel.ERROR, self.error), (QualityLevel.WARN, self.warn)):
            if limit is not None and (value < limit if check in QUALITY_BELOW else value > limit):
                return level, limit
        return QualityLevel.OK, None


QUALITY_DEFAULTS: Mapping[QualityCheck, QualityLimits] = {
    QualityCheck.RATE: QualityLimits(0.9, 0.5),
    QualityCheck.GAP: QualityLimits(5.0, 50.0),
    QualityCheck.COVERAGE: QualityLimits(0.95, 0.5),
    QualityCheck.LOG_ORDER: QualityLimits(0.0, 0.01),
    QualityCheck.LOG_REPEATS: QualityLimits(0.01, None),
    QualityCheck.STAMP_ORDER: QualityLimits(0.0, 0.01),
    QualityCheck.STAMP_REPEATS: QualityLimits(0.0, 0.1),
    QualityCheck.STAMP_UNSET: QualityLimits(0.0, None),
    QualityCheck.STAMP_OFFSET: QualityLimits(0.5, 10.0),
    QualityCheck.STAMP_AHEAD: QualityLimits(0.01, 1.0),
    QualityCheck.LATENCY: QualityLimits(0.2, 2.0),
    QualityCheck.FROZEN: QualityLimits(10.0, None),
    QualityCheck.NOT_FINITE: QualityLimits(0.0, 0.1),
    QualityCheck.FRAMES: QualityLimits(0.0, 0.01),
    QualityCheck.CAMERA_SYNC: QualityLimits(0.02, 0.1),
    QualityCheck.RETURNS: QualityLimits(0.01, 0.1),
}


@dataclass(frozen=True, slots=True)
class QualityRule:
    """Limits of one check, by its name, for topics (a shell glob, as those of `ExtractOptions`)."""

    topics: str
    check: QualityCheck
    warn: float | None
    error: float | None


def quality_limits(rules: Iterable[QualityRule], topic: str) -> Mapping[QualityCheck, QualityLimits]:
    """The limits of every check that a topic is to have; of several rules the longest glob's counts."""
    limits = dict(QUALITY_DEFAULTS)
    for rule in sorted(rules, key=lambda rule: (len(rule.topics), rule.topics)):
        if topic_matches(topic, [rule.topics]):
            limits[rule.check] = QualityLimits(rule.warn, rule.error)
    return {check: limit for check, limit in limits.items() if not limit.off}


def parse_quality(raw: object) -> tuple[tuple[QualityRule, ...], list[str]]:
    """Rules from ``{glob: {check: {"warn": number, "error": number}}}``, and what is wrong, in words.

    ``null`` in place of a glob's checks is none of them, in place of a check's limits not this one, and in
    place of a number never this level. A number that is left out is the default.

    >>> parse_quality({"/imu/*": {"gap": {"error": 20}}})[0]
    (QualityRule(topics='/imu/*', check=<QualityCheck.GAP: 'gap'>, warn=5.0, error=20.0),)
    """
    example = '{"/imu/*": {"gap": {"warn": 3, "error": 20}}}'
    if not isinstance(raw, Mapping):
        return (), [f"expected an object like {example}, not {raw!r:.80}"]
    rules: list[QualityRule] = []
    problems: list[str] = []
    for glob, checks in sorted(raw.items(), key=lambda item: str(item[0])):
        if not isinstance(glob, str) or not glob:
            problems.append(f'{glob!r} is no glob of topics; for example "/imu/*"')
        elif checks is None:
            rules += [QualityRule(glob, check, None, None) for check in QualityCheck]
        elif not isinstance(checks, Mapping):
            problems.append(f"{glob!r}: expected an object of checks or null, not {checks!r:.80}")
        else:
            for name, limits in checks.items():
                if name not in tuple(QualityCheck):
                    problems.append(f"{glob!r}: no check {name!r:.80}; there are {', '.join(QualityCheck)}")
                    continue
                limit, problem = _parse_limits(QualityCheck(name), limits)
                rules.append(QualityRule(glob, QualityCheck(name), limit.warn, limit.error))
                problems += [f"{glob!r}, check {name!r}: {problem}"] if problem else []
    return tuple(sorted(rules, key=lambda rule: (rule.topics, rule.check))), problems


def _parse_limits(check: QualityCheck, raw: object) -> tuple[QualityLimits, str]:
    if raw is None:
        return QualityLimits(None, None), ""
    default = QUALITY_DEFAULTS[check]
    if not isinstance(raw, Mapping) or (raw.keys() - {"warn", "error"}):
        return default, f"expected an object with 'warn' and 'error', or null, not {raw!r:.80}"
    given = {"warn": default.warn, "error": default.error, **raw}
    for name, number in given.items():
        is_number = (
            isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < math.inf
        )
        if number is not None and not is_number:
            return default, f"key {name!r}: expected a number from 0 on or null, not {number!r:.80}"
    warn, error = (None if given[name] is None else float(given[name]) for name in ("warn", "error"))
    if warn is not None and error is not None and (error > warn if check in QUALITY_BELOW else error < warn):
        side = "above" if check in QUALITY_BELOW else "below"
        return default, f"error ({error:g}) is {side} warn ({warn:g}): say both, so that warn comes first"
    return QualityLimits(warn, error), ""


# --- the plan ---------------------------------------------------------------------------------------

TRANSFORM_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""What an entry point of a transform may be called."""


@dataclass(frozen=True, slots=True)
class TransformRule:
    """Topics (a shell glob, as those of `ExtractOptions`) whose rows go through the transform ``name``."""

    topics: str
    name: str


def transform_rules(names: Mapping[str, str]) -> tuple[TransformRule, ...]:
    """The rules that a mapping from globs to names says; equal whatever order it was written in."""
    return tuple(TransformRule(topics, names[topics]) for topics in sorted(names))


DEFAULT_JPEG_QUALITY = 90

MAX_IMAGE_SIDE = 65_500
"""Pixels; what a JPEG can have."""


@dataclass(frozen=True, slots=True)
class ImageRule:
    """What becomes of the pictures of topics.

    Attributes:
        topics: a shell glob, as those of `ExtractOptions`, or one topic's name.
        form: where the pixels are.
        video: the codec of a video beside the table.
        max_width: pixels; larger pictures are made smaller, in proportion. 0 for any.
        max_height: likewise.
        quality: of JPEG, 1 to 100; 0 where nothing becomes a JPEG.
    """

    topics: str
    form: ImageForm = ImageForm.RECORDED
    video: VideoCodec = VideoCodec.NONE
    max_width: int = 0
    max_height: int = 0
    quality: int = 0

    @property
    def is_jpeg(self) -> bool:
        return self.form in (ImageForm.JPEG, ImageForm.JPEG_FILES)

    @property
    def changes(self) -> bool:
        """Whether rows are other than without the rule."""
        return self.form is not ImageForm.RECORDED or self.video is not VideoCodec.NONE

    def __str__(self) -> str:
        sizes = [("max_width", self.max_width), ("max_height", self.max_height), ("quality", self.quality)]
        said = [f"{name}={value}" for name, value in sizes if value]
        video = [] if self.video is VideoCodec.NONE else [f"video={self.video}"]
        return ",".join([self.form, *video, *said])


def parse_image_rule(topics: str, raw: object) -> ImageRule:
    """The rule that a text (``jpeg_files,max_width=640,video=h264``) or a mapping says.

    >>> str(parse_image_rule("/cam/*", {"form": "jpeg_files", "video": "h264", "max_width": 640}))
    'jpeg_files,video=h264,max_width=640,quality=90'

    Raises:
        ValueError: it says none; the message says why.
    """
    if isinstance(raw, str):
        form, *rest = raw.split(",")
        given: dict[str, object] = {"form": form}
        for part in rest:
            key, equals, value = part.partition("=")
            if not equals or key in given:
                raise ValueError(f"{raw!r}: after the form come options of one value each, as max_width=640")
            given[key] = int(value) if value.isascii() and value.isdigit() else value
    elif isinstance(raw, Mapping):
        given = dict(raw)
    else:
        raise ValueError(f"expected {' or '.join(ImageForm)}, or an object with the key 'form'")
    known = [each.name for each in dataclasses.fields(ImageRule) if each.name != "topics"]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{unknown[0]!r} is unknown; known are {', '.join(known)}")
    form_said = _one_of("form", given.get("form", ImageForm.RECORDED), ImageForm)
    video = _one_of("video", given.get("video", VideoCodec.NONE), VideoCodec)
    rule = ImageRule(
        topics,
        form_said,
        video,
        max_width=_whole("max_width", given.get("max_width", 0), MAX_IMAGE_SIDE),
        max_height=_whole("max_height", given.get("max_height", 0), MAX_IMAGE_SIDE),
        quality=_whole("quality", given.get("quality", 0), 100),
    )
    if rule.form is ImageForm.LEFT_OUT and rule.video is VideoCodec.NONE:
        raise ValueError("left_out keeps no picture anywhere: give it a video, or exclude the topic")
    if rule.quality and not rule.is_jpeg:
        raise ValueError(f"quality is JPEG's; the form is {rule.form}")
    if (rule.max_width or rule.max_height) and not rule.changes:
        raise ValueError("what is kept as recorded is not made smaller: choose another form, or a video")
    if rule.is_jpeg and not rule.quality:
        rule = dataclasses.replace(rule, quality=DEFAULT_JPEG_QUALITY)
    return rule


_Word = TypeVar("_Word", bound=StrEnum)


def _one_of(name: str, raw: object, choices: type[_Word]) -> _Word:
    if isinstance(raw, str) and raw in tuple(choices):
        return choices(raw)
    raise ValueError(f"{name}: expected {', '.join(choices)}, not {raw!r:.80}")


def _whole(name: str, raw: object, most: int) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= most:
        return raw
    raise ValueError(f"{name}: expected a whole number up to {most:,}, not {raw!r:.80}")


def image_rules(rules: Iterable[ImageRule]) -> tuple[ImageRule, ...]:
    """Rules as options have them: in one order, and none where they change nothing."""
    ordered = tuple(sorted(rules, key=lambda rule: rule.topics))
    return ordered if any(rule.changes for rule in ordered) else ()


IMAGE_TYPES = ("sensor_msgs/Image", "sensor_msgs/CompressedImage")


def is_image_type(type_name: str) -> bool:
    """Whether messages of this type, as either version of ROS names it, have pictures.

    >>> is_image_type("sensor_msgs/msg/Image"), is_image_type("sensor_msgs/PointCloud2")
    (True, False)
    """
    return type_name.replace("/msg/", "/") in IMAGE_TYPES


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """What to extract. Two runs with equal options make equal tables of one bag.

    Attributes:
        include_topics: shell globs over the whole topic name, ``*`` crosses ``/``; ("*",) is all.
        exclude_topics: likewise; exclusion wins.
        strict: rejects and damage make the shard fail (after its manifest is written).
        ros_distro: one of `ROS_DISTRIBUTIONS`, whose standard types are tried first where a bag does not
            define a type; empty for the newest.
        msg_paths: folders (paths or URIs, without a final slash) of message definitions, for types
            that a bag does not define; of a type that several of them have, the first one's is taken.
        pointcloud: what becomes of point clouds.
        parquet: how files are encoded.
        transforms: which topics' rows go through which transforms (`transform_rules`).
        images: what becomes of which topics' pictures (`image_rules`).
    """

    include_topics: tuple[str, ...] = ("*",)
    exclude_topics: tuple[str, ...] = ()
    strict: bool = False
    ros_distro: str = ""
    msg_paths: tuple[str, ...] = ()
    pointcloud: PointClouds = PointClouds.RECORDED
    parquet: ParquetStyle = ParquetStyle.COMPATIBLE
    transforms: tuple[TransformRule, ...] = ()
    images: tuple[ImageRule, ...] = ()


UNLIMITED_NS: Final = (1 << 63) - 1
"""A tolerance that nothing is beyond."""

FRAMES_TOLERANCE_NS: Final = 100_000_000
POSE_TOLERANCE_NS: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class FrameTopic:
    """A column of a frames table: what a topic has at the time of each frame.

    Attributes:
        column: its name; empty for the name of the topic's table.
        tolerance_ns: how far a message may be from the frame; `UNLIMITED_NS` for any time.
        fields: paths in the message (``pose.position.x``), or of the engine's own columns; ("*",) is all of
            the message; none are all but blobs and the points of clouds.
    """

    topic: str
    column: str = ""
    method: Match = Match.NEAREST
    tolerance_ns: int = FRAMES_TOLERANCE_NS
    clock: Clock = Clock.LOG_TIME
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FramePose:
    """A column of a frames table: where the coordinate frame ``child`` is in ``parent``, by TF.

    Attributes:
        tolerance_ns: how far each transform that is interpolated between may be from the frame.
        topics: to take transforms from; none are all topics of TF's types.
    """

    parent: str
    child: str
    column: str = "pose"
    tolerance_ns: int = POSE_TOLERANCE_NS
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FramesTable:
    """A table with a row for each message of a topic, or at a fixed rate, and what others have at that time.

    Attributes:
        name: of the table, below ``_frames/``.
        reference: the topic; empty where ``rate_hz`` says when frames are.
        rate_hz: 0 where there is a reference.
        clock: of the frames.
        topics: columns; the reference is one of them.
    """

    name: str = "frames"
    reference: str = ""
    rate_hz: float = 0.0
    clock: Clock = Clock.LOG_TIME
    topics: tuple[FrameTopic, ...] = ()
    poses: tuple[FramePose, ...] = ()


CATALOG_DATABASE = r"[a-z0-9_]{1,255}"
"""What a database of a catalogue may be called, so that all engines take it."""


@dataclass(frozen=True, slots=True)
class CatalogOptions:
    """Where a drive's tables are registered once it is committed.

    Attributes:
        database: Glue's database, or Iceberg's namespace.
        files: of a Glue catalogue.
    """

    kind: CatalogKind
    database: str
    files: GlueFiles = GlueFiles.LISTED


@dataclass(frozen=True, slots=True)
class FinishOptions:
    """What is done for a drive once it is committed; no row depends on it. See ``ros_to_parquet.finish``.

    Attributes:
        report: the drive's report, one HTML page.
        fleet: its rows of the fleet tables, which all drives are searched by.
        catalog: where its tables are registered; None for nowhere.
        sync: frames tables to make.
    """

    report: bool = False
    fleet: bool = False
    catalog: CatalogOptions | None = None
    sync: tuple[FramesTable, ...] = ()


@dataclass(frozen=True, slots=True)
class FileBeside:
    """A file that SQLite left beside a database; the end of its URI says which (`SQLITE_BESIDE`)."""

    uri: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class PlannedBag:
    """One bag file.

    Attributes:
        uri: ``s3://bucket/key``, another URI, or a local path.
        name: the file's path below the drive's prefix; the ``bag`` column of its rows (in an archive: with
            the path of the bag in it).
        format: as its name says (`bag_format`); the engine looks at the bytes.
        size_bytes: size when planned.
        etag: the store's ETag when planned; empty where the store has none.
        recording: the rosbag2 folder that holds it (its path below the prefix), or ``name`` itself.
        metadata_uri: the folder's ``metadata.yaml``, empty where there is none.
        beside: SQLite's write-ahead log or rollback journal of it, where they are not empty.
    """

    uri: str
    name: str
    format: str
    size_bytes: int
    etag: str
    recording: str
    metadata_uri: str = ""
    beside: tuple[FileBeside, ...] = ()

    @property
    def content(self) -> tuple[str, int, str]:
        """Name, size and ETag, which the files beside it are part of: what a bag is covered by."""
        return self.name, self.size_bytes, "+".join([self.etag, *(each.etag for each in self.beside)])


@dataclass(frozen=True, slots=True)
class BagSlice:
    """Slice ``index`` of ``count`` of the plan's bag number ``bag``."""

    bag: int
    index: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """Who asked: an Airflow run, or a run of the command line (``dag_id`` is empty then)."""

    dag_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Pricing:
    """What each container of a run is and costs, as far as who planned it knew.

    Attributes:
        platform: ``FARGATE``, ``FARGATE_SPOT``, ``EC2`` or ``SPOT``.
        job_queue: whose machines these are.
        memory_gb: 2^30 bytes each, as AWS counts memory.
        vcpu_hour: price of one of ``vcpus`` for an hour.
        gb_hour: of one of ``memory_gb``; 0 where the vCPUs' price has it in it.
        origin: of the prices, for people.
        least_s: seconds of an attempt that are billed at least.
    """

    platform: str
    region: str
    architecture: str
    job_queue: str
    vcpus: float
    memory_gb: float
    vcpu_hour: float
    gb_hour: float
    currency: str
    origin: str
    least_s: float

    @property
    def is_spot(self) -> bool:
        return self.platform in ("SPOT", "FARGATE_SPOT")


def container_cost(pricing: Pricing, seconds: float) -> float:
    """What so many seconds of one of its containers cost.

    >>> container_cost(Pricing("EC2", "", "", "", 2.0, 4.0, 0.05, 0.0, "USD", "", 0.0), 3600)
    0.1
    """
    hourly = pricing.vcpus * pricing.vcpu_hour + pricing.memory_gb * pricing.gb_hour
    return seconds * hourly / 3600


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does for one drive; immutable once saved.

    Attributes:
        plan_id: twelve hex digits of (run, drive); see `make_plan_id`.
        source: ``s3://bucket/prefix/`` of the drive, another URI, or a local path.
        output: URI of the lake, without a final slash.
        shards: each a tuple of bag slices; a shard's number is its place here.
        replaces: plan ids whose output this plan's drive commit supersedes (``overwrite``).
        ignored: objects below the prefix that are not bags (their names; bounded, see `MAX_REASONS`).
        covered: names of bags left out because an earlier manifest covers them.
        quality: limits of the quality checks that are not the defaults.
        finish: what is done once the drive is committed.
        pricing: what its containers cost; None where nobody knew, or none is used.
    """

    contract_version: int
    plan_id: str
    run: Run
    drive_id: str
    source: str
    output: str
    options: ExtractOptions
    bags: tuple[PlannedBag, ...]
    shards: tuple[tuple[BagSlice, ...], ...]
    replaces: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_count: int = 0
    covered: tuple[str, ...] = ()
    quality: tuple[QualityRule, ...] = ()
    finish: FinishOptions = field(default_factory=FinishOptions)
    pricing: Pricing | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """The shards that one submission of a plan runs: array child ``i`` runs ``shards[i]``."""

    contract_version: int
    plan_id: str
    generation: int
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The Batch job of a generation."""

    plan_id: str
    generation: int
    job_id: str
    job_name: str
    job_queue: str
    array_size: int
    """0 for a plain job."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may write a drive's tables: the plan named here, and no other."""

    drive_id: str
    plan_id: str
    run: Run
    acquired_at: str
    """ISO 8601, UTC; for people."""
    process: str = ""
    """Of a run of the command line: by which its machine knows whether it is alive (`process_id.own`)."""


# --- names of bags ----------------------------------------------------------------------------------

BAG_FORMATS: Mapping[str, str] = {".bag": "rosbag1", ".mcap": "mcap", ".db3": "sqlite3"}

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4")
"""Endings of files that are compressed whole."""

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", *(f".tar{end}" for end in COMPRESSIONS))

BAG_ENDINGS = ".bag, .mcap or .db3, compressed or not, .zip or .tar"
"""For people."""


def bag_format(name: str) -> str | None:
    """What a file's name promises; None for what is no bag.

    ``rosbag1``, ``mcap`` or ``sqlite3``; with the ending of its compression (``mcap.zst``); or ``archive``,
    which may hold bags. ``x.bag.active`` is no bag, nor is the ``._x.bag`` that macOS leaves beside a file.

    >>> bag_format("a/x.BAG"), bag_format("x.db3.zstd"), bag_format("x.tar.gz"), bag_format("._x.bag")
    ('rosbag1', 'sqlite3.zstd', 'archive', None)
    """
    base = name.rpartition("/")[2].lower()
    if base.startswith("._"):
        return None
    if base.endswith(ARCHIVES):
        return "archive"
    compression = next((end for end in COMPRESSIONS if base.endswith(end)), "")
    bare = base.removesuffix(compression)
    return next((kind + compression for end, kind in BAG_FORMATS.items() if bare.endswith(end)), None)


def recording_stem(name: str) -> str:
    """What names of one recording have in common.

    >>> {recording_stem(f"a/x{end}") for end in (".bag", ".orig.bag", ".mcap", ".bag.gz", ".tar.zst", ".zip")}
    {'a/x'}
    """
    stem = name
    for endings in (ARCHIVES, COMPRESSIONS, tuple(BAG_FORMATS), (".orig",)):
        longest = max((end for end in endings if stem.lower().endswith(end)), key=len, default="")
        stem = stem[: len(stem) - len(longest)]
    return stem


# --- what a shard leaves behind ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartedRecord:
    """A shard in flight: written first by every try, under a number of its own."""

    plan_id: str
    shard: int
    job_id: str
    attempt: int
    log_stream: str
    started_at: str


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """Why an attempt of a shard ended without a manifest."""

    plan_id: str
    shard: int
    job_id: str
    attempt: int
    exit_code: int
    reason: str
    failed_at: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that became no row."""

    bag: str
    offset: int
    """Where it lies in the bag file (the chunk that holds it, or the record; the row id in SQLite)."""
    log_time_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One Parquet file.

    Attributes:
        path: relative to the output URI.
        first_log_time_ns: the least of its column; None where it has none (no rows, a transform that leaves
            the column out), or an earlier version wrote the manifest.
        last_log_time_ns: likewise, the greatest.
        first_bag: the bag that ``first_log_time_ns`` is of, as in the column ``bag``; without it, of the rows
            that were written first.
    """

    path: str
    rows: int
    size_bytes: int
    first_log_time_ns: int | None = None
    last_log_time_ns: int | None = None
    first_bag: str = ""


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files of a table's rows: pictures, videos. All there are in a folder that no other try of a shard has.

    Attributes:
        folder: relative to the output URI, without a final slash. The rows say which file is whose.
        files: of the topic and definition; those of others may be there too.
        size_bytes: of them together.
    """

    folder: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a transform made of a topic's rows.

    Attributes:
        name: of its entry point.
        distribution: the package that it is of.
        version: of that package.
        rows_in: given to it: all of the topic's rows.
        rows_out: taken from it: those in the table.
    """

    name: str
    distribution: str
    version: str
    rows_in: int
    rows_out: int

    def __str__(self) -> str:
        return (
            f"transform {self.name} ({self.distribution} {self.version}) "
            f"made {self.rows_out:,} rows of {self.rows_in:,}"
        )


@dataclass(frozen=True, slots=True)
class TopicResult:
    """What a shard made of one topic and definition. ``messages == rows + rejected``, always."""

    topic: str
    table: str
    type_name: str
    schema_hash: str
    messages: int
    rows: int
    rejected: int
    repaired_strings: int
    """Strings that were not UTF-8; kept with their bad bytes escaped."""
    bytes_in: int
    first_log_time_ns: int | None
    last_log_time_ns: int | None
    files: tuple[OutputFile, ...]
    rejects: tuple[Reject, ...]
    """The first `MAX_REASONS` of them."""
    remark: str = ""
    """What a reader of the table should know, e.g. that the bag's own definition did not fit."""
    transform: Transformed | None = None
    """Where the rows went through one: ``files`` have the rows that came out of it."""
    beside: tuple[FileSet, ...] = ()
    """Pictures and videos of the rows."""


@dataclass(frozen=True, slots=True)
class BagDamage:
    """A part of a bag that could not be read; see ``ros_to_parquet.bag.model.Damage``."""

    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attachment of an MCAP file.

    Attributes:
        offset: where its bytes begin in the bag file.
        crc_ok: whether its bytes are as its checksum says; None where it has none, or was not copied.
        path: its copy, relative to the output URI; empty where it was too large for one, or cannot be had
            twice (more than 1 MiB in a bag that is compressed as a whole).
        member: the bag's path in its archive, where it is in one.
    """

    name: str
    media_type: str
    log_time_ns: int
    create_time_ns: int
    offset: int
    size_bytes: int
    crc_ok: bool | None
    path: str
    member: str = ""


@dataclass(frozen=True, slots=True)
class BagMetadata:
    """A metadata record of an MCAP file; ``values`` are pairs of key and value. See `Attachment`."""

    name: str
    values: tuple[tuple[str, ...], ...]
    member: str = ""


@dataclass(frozen=True, slots=True)
class BagResult:
    """What a shard read of one bag slice.

    Attributes:
        bytes_read: bytes that were read: not those of chunks without a wanted topic by the bag's own index.
        messages: messages found, wanted or not, and those of the chunks that were not read.
        extracted: messages of wanted topics: each is a row or a reject.
        verified: every connection has as many messages as the bag's own index says (else ``damage`` says
            which have not), or its folder's ``metadata.yaml`` where it has none; None where that does not
            say either (``unverified``). Of an archive: of all bags in it.
        remarks: what else people should know of it, though nothing of it is damaged.
        unread: how many of ``messages`` are of chunks that were not read; the index is all that says so.
        extras_left_out: attachments and metadata records past the engine's limits, neither listed nor copied.
        first_log_time_ns: the least of the messages that were extracted; None where there is none, or an
            earlier version wrote the manifest.
        last_log_time_ns: likewise, the greatest.
    """

    name: str
    slice: BagSlice
    status: BagStatus
    size_bytes: int
    etag: str
    bytes_read: int
    messages: int
    extracted: int
    expected_messages: int | None
    verified: bool | None
    damage: tuple[BagDamage, ...]
    remarks: tuple[str, ...] = ()
    unread: int = 0
    attachments: tuple[Attachment, ...] = ()
    metadata: tuple[BagMetadata, ...] = ()
    extras_left_out: int = 0
    first_log_time_ns: int | None = None
    last_log_time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A shard's commit: no manifest, it did not happen."""

    contract_version: int
    engine_version: str
    plan_id: str
    drive_id: str
    shard: int
    options: ExtractOptions
    job_id: str
    attempt: int
    log_stream: str
    started_at: str
    finished_at: str
    seconds: float
    peak_memory_bytes: int
    bytes_read: int
    bytes_written: int
    topics: tuple[TopicResult, ...]
    bags: tuple[BagResult, ...]
    replaces: tuple[str, ...] = ()
    """The plan's: while it is not empty, the manifest counts only once its drive is committed."""
    memory_limit_bytes: int = 0
    """What the engine was allowed above import: messages larger than a quarter of it are rejects. 0 where an
    earlier version wrote the manifest."""
    pricing: Pricing | None = None
    """The plan's."""
    quality: str = ""
    """Numbers that quality checks of the drive are made of (``ros_to_parquet.quality.numbers``): JSON, zlib,
    base64; empty where there are none."""


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """A quality check of a topic that is not ok.

    Attributes:
        value: the number that was checked, in ``unit``; ``limit`` is what it is beyond.
        detail: what it is made of, for people.
        log_time_ns: where to look; None where no place is worse than others.
    """

    topic: str
    check: QualityCheck
    level: QualityLevel
    value: float
    limit: float
    unit: str
    detail: str
    log_time_ns: int | None = None

    def __str__(self) -> str:
        side = "below" if self.check in QUALITY_BELOW else "above"
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"topic {self.topic}: {self.check} {self.value:.4g}{unit} ({self.level} {side} {self.limit:g}): "
            f"{self.detail}"
        )


@dataclass(frozen=True, slots=True)
class DriveQuality:
    """Results of the quality checks of a plan's bags; counts are of checks of topics.

    Attributes:
        path: the table that has all of them, relative to the output URI.
        findings: those that are not ok, errors first; the first `MAX_REASONS`.
    """

    path: str
    ok: int
    warn: int
    error: int
    findings: tuple[QualityFinding, ...] = ()

    @property
    def level(self) -> QualityLevel:
        """The worst of all."""
        return QualityLevel.ERROR if self.error else QualityLevel.WARN if self.warn else QualityLevel.OK

    def as_dict(self, findings: Sequence[str] | None = None) -> dict[str, Any]:
        """For JSON; ``findings`` are all in words where they are not given."""
        said = [str(each) for each in self.findings] if findings is None else list(findings)
        counts = {"ok": self.ok, "warn": self.warn, "error": self.error}
        return {"level": str(self.level), **counts, "findings": said}

    def __str__(self) -> str:
        errors = "1 error" if self.error == 1 else f"{self.error:,} errors"
        warnings = "1 warning" if self.warn == 1 else f"{self.warn:,} warnings"
        return f"quality: {errors}, {warnings}, {self.ok:,} checks ok"


@dataclass(frozen=True, slots=True)
class SchemaTotal:
    """One definition of a table of a drive: a ``schema=`` partition with rows.

    Attributes:
        schema: eight hex digits, as in the partition's name.
        first_log_time_ns: see `OutputFile`.
        last_log_time_ns: likewise.
        first_bag: likewise; empty where nobody knows.
        sample: path of one of its files, relative to the output URI.
    """

    schema: str
    rows: int
    first_log_time_ns: int | None
    last_log_time_ns: int | None
    first_bag: str
    sample: str


@dataclass(frozen=True, slots=True)
class TableTotal:
    """One table of a drive, over all shards of a plan."""

    table: str
    topics: tuple[str, ...]
    type_names: tuple[str, ...]
    messages: int
    rows: int
    rejected: int
    bytes_written: int
    transforms: tuple[Transformed, ...] = ()
    """One for each transform, and version of it, that rows of the table went through."""
    schemas: tuple[SchemaTotal, ...] = ()
    """In the order of their first log times; none where an earlier version wrote the manifest."""
    files_beside: int = 0
    """Pictures and videos of the rows; their bytes are in ``bytes_written``."""
    bytes_in: int = 0
    """Of messages; 0 where an earlier version wrote the manifest."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A topic's definition that a drive has beside another one, or that the lake has first from this drive.

    Attributes:
        schema: its eight digits, as in ``schema=``.
        before: those of the definition that it is compared with: the drive's own before it, else one that
            the lake had.
        before_drive: a drive that has that one.
        bag: the drive's first bag with the definition, and ``first_log_time_ns`` its first message there.
        fields: what differs, a text each; the first `MAX_FIELDS`.
    """

    topic: str
    table: str
    change: Change
    schema: str
    before: str
    before_drive: str
    bag: str
    first_log_time_ns: int | None
    fields: tuple[str, ...]
    field_count: int

    def __str__(self) -> str:
        since = f" from bag {self.bag} on" if self.bag else ""
        listed = "; ".join(self.fields) or "nothing in its columns"
        more = self.field_count - len(self.fields)
        return (
            f"topic {self.topic}: its definition changed{since}: {self.change} (schema {self.schema} here, "
            f"{self.before} in drive {self.before_drive}): {listed}{f'; and {more} more' if more > 0 else ''}"
        )


MAX_FIELDS = 10
"""Fields of a changed definition that are named in manifests; all are counted."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, and its type in Arrow's words, which may be cut short."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class SchemaRecord:
    """The definition behind a ``schema=`` partition, kept once, so that nobody opens Parquet to compare it.

    Attributes:
        table: of the partition.
        schema: its eight digits.
        topic: one of those that the table is of.
        definition: as in the key-value metadata of the partition's files; so are format and encoding.
        transform: ``name version`` of the transform that made the columns; empty where none did.
        arrow_schema: the columns: Arrow's IPC form of the schema, in base64.
        columns: the same for who has no Arrow; none where an earlier version wrote the record.
        drive_id: the drive that brought it first.
        plan_id: the plan that did.
        first_log_time_ns: of its messages in that drive.
        first_bag: of that drive.
    """

    contract_version: int
    table: str
    schema: str
    topic: str
    type_name: str
    definition: str
    definition_format: str
    encoding: str
    transform: str
    arrow_schema: str
    drive_id: str
    plan_id: str
    first_log_time_ns: int | None
    first_bag: str
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class DriveManifest:
    """The last word on one plan of a drive: its commit, the fold of all its shards' manifests.

    Or, where another run took the drive before all of them were there, the fold of those that count.

    Attributes:
        unverified_bags: bags without an index of their own to check the count against.
        problems: one sentence each, naming bag, topic and offset; the first `MAX_REASONS`.
        taken_over_by: the run that took the drive; None for a commit.
        counted: then the shards whose manifests count: what others write later is void.
        drift: definitions that changed; the first `MAX_REASONS`.
        drift_count: how many there are.
        quality: results of the quality checks; None where none were made.
    """

    contract_version: int
    plan_id: str
    run: Run
    drive_id: str
    state: DriveState
    shards: int
    bags: int
    unreadable_bags: int
    damaged_bags: int
    unverified_bags: int
    messages: int
    rows: int
    rejected: int
    bytes_read: int
    bytes_written: int
    shard_seconds: float
    tables: tuple[TableTotal, ...]
    problems: tuple[str, ...]
    replaces: tuple[str, ...] = ()
    covered: tuple[str, ...] = field(default=())
    taken_over_by: Run | None = None
    counted: tuple[int, ...] = ()
    drift: tuple[Drift, ...] = ()
    drift_count: int = 0
    quality: DriveQuality | None = None


class StepState(StrEnum):
    """How a finishing step ended; ``skipped`` is one that could not be done where it ran."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of a finishing step.

    Attributes:
        problem: why it was skipped or has failed, and what to do; of one that is done, what it left out.
        wrote: objects and folders, relative to the output URI.
    """

    step: str
    state: StepState
    seconds: float
    problem: str = ""
    wrote: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinishRecord:
    """What was done for a drive after the commit of a plan. The last word is that of who did it last."""

    contract_version: int
    engine_version: str
    plan_id: str
    drive_id: str
    finished_at: str
    steps: tuple[StepResult, ...]


def fold(plan: Plan, manifests: Iterable[Manifest]) -> DriveManifest:
    """The drive's manifest from its shards' manifests (all of them for a commit).

    A sequence of them may be in any order; an iterator must be in the order of shards, and none is kept.
    With manifests missing the state is ``partial``, or ``failed`` where there are none.
    """
    by_shard = (
        sorted(manifests, key=lambda manifest: manifest.shard)
        if isinstance(manifests, Sequence)
        else manifests
    )
    shards = bytes_read = bytes_written = 0
    seconds = 0.0
    tables: dict[str, TableTotal] = {}
    schemas: dict[str, tuple[SchemaTotal, ...]] = {}
    statuses: dict[str, BagStatus] = {}
    unverified: set[str] = set()
    problems: list[str] = []
    idle = list(plan.options.transforms)
    idle_images = [rule for rule in plan.options.images if rule.changes]
    severity = list(BagStatus)
    for manifest in by_shard:
        shards += 1
        bytes_read += manifest.bytes_read
        bytes_written += manifest.bytes_written
        seconds += manifest.seconds
        for bag in manifest.bags:
            known = statuses.get(bag.name, BagStatus.OK)
            statuses[bag.name] = max(known, bag.status, key=severity.index)
            if bag.verified is None:
                unverified.add(bag.name)
            for damage in bag.damage:
                place = f" at offset {damage.offset}" if damage.offset >= 0 else ""
                problems.append(f"bag {bag.name}{place}: {damage.reason}")
            problems += [f"bag {bag.name}: {remark}" for remark in bag.remarks]
        for topic in manifest.topics:
            total = tables.get(topic.table, TableTotal(topic.table, (), (), 0, 0, 0, 0))
            tables[topic.table] = TableTotal(
                table=topic.table,
                topics=_with(total.topics, topic.topic),
                type_names=_with(total.type_names, topic.type_name),
                messages=total.messages + topic.messages,
                rows=total.rows + topic.rows,
                rejected=total.rejected + topic.rejected,
                bytes_written=total.bytes_written + bytes_written_of(topic),
                transforms=add_transforms(total.transforms, (topic.transform,) if topic.transform else ()),
                files_beside=total.files_beside + sum(each.files for each in topic.beside),
                bytes_in=total.bytes_in + topic.bytes_in,
            )
            schemas[topic.table] = add_schemas((*schemas.get(topic.table, ()), *file_schemas(topic)))
            idle = [rule for rule in idle if not topic_matches(topic.topic, [rule.topics])]
            if is_image_type(topic.type_name):
                idle_images = [rule for rule in idle_images if not topic_matches(topic.topic, [rule.topics])]
            if topic.rejected:
                first = topic.rejects[0]
                problems.append(
                    f"topic {topic.topic}: {topic.rejected} of {topic.messages} messages rejected; "
                    f"the first: bag {first.bag} at offset {first.offset}: {first.reason}"
                )
            if topic.remark:
                problems.append(f"topic {topic.topic}: {topic.remark}")
        del problems[MAX_REASONS:]
    if tables and shards == len(plan.shards):
        unused = [f"transform {rule.name}: no topic matches {rule.topics!r}" for rule in idle]
        unused += [f"images: no topic with pictures matches {rule.topics!r}" for rule in idle_images]
        problems = [*unused, *problems][:MAX_REASONS]
    rejected = sum(table.rejected for table in tables.values())
    unreadable = sum(status is BagStatus.UNREADABLE for status in statuses.values())
    damaged = sum(status is BagStatus.DAMAGED for status in statuses.values())
    if not shards or (statuses and unreadable == len(statuses)):
        state = DriveState.FAILED
    elif shards < len(plan.shards):
        state = DriveState.PARTIAL
    elif unreadable or damaged:
        state = DriveState.DAMAGED
    elif rejected:
        state = DriveState.SUCCEEDED_WITH_REJECTS
    else:
        state = DriveState.SUCCEEDED
    return DriveManifest(
        contract_version=CONTRACT_VERSION,
        plan_id=plan.plan_id,
        run=plan.run,
        drive_id=plan.drive_id,
        state=state,
        shards=shards,
        bags=len(statuses),
        unreadable_bags=unreadable,
        damaged_bags=damaged,
        unverified_bags=len(unverified),
        messages=sum(table.messages for table in tables.values()),
        rows=sum(table.rows for table in tables.values()),
        rejected=rejected,
        bytes_read=bytes_read,
        bytes_written=bytes_written,
        shard_seconds=round(seconds, 3),
        tables=tuple(dataclasses.replace(tables[name], schemas=schemas[name]) for name in sorted(tables)),
        problems=tuple(problems),
        replaces=plan.replaces,
        covered=plan.covered,
    )


def fails_on(fail_on: Iterable[str], state: DriveState, quality: DriveQuality | None = None) -> bool:
    """Whether a drive fails that ended so.

    >>> fails_on(["failed", "quality_warn"], DriveState.SUCCEEDED, DriveQuality("", ok=9, warn=0, error=1))
    True
    """
    wanted = set(fail_on)
    level = QualityLevel.OK if quality is None else quality.level
    by_quality = (level is QualityLevel.ERROR and FailOn.QUALITY_ERROR in wanted) or (
        level is not QualityLevel.OK and FailOn.QUALITY_WARN in wanted
    )
    return str(state) in wanted or by_quality


def add_quality(first: DriveQuality | None, second: DriveQuality | None) -> DriveQuality | None:
    """Both together, of two plans of a drive; the table is the second's."""
    if first is None or second is None:
        return first or second
    findings = sorted(
        (*first.findings, *second.findings), key=lambda each: each.level is not QualityLevel.ERROR
    )
    return DriveQuality(
        path=second.path,
        ok=first.ok + second.ok,
        warn=first.warn + second.warn,
        error=first.error + second.error,
        findings=tuple(findings[:MAX_REASONS]),
    )


def take_over(plan: Plan, manifests: Iterable[Manifest], by: Run) -> DriveManifest:
    """The last word on a plan that is not committed and whose drive ``by`` has taken.

    ``manifests`` are those there (an iterator: in the order of shards). They count, but for those of a plan
    that replaces others: readers go on seeing what it was to replace.
    """
    counted = () if plan.replaces else tuple(manifests)
    said = (
        f"{run_in_words(by)} has taken the drive over: {len(counted)} of {len(plan.shards)} shards of this "
        "run count, and no other will"
    )
    drive = fold(plan, counted)
    return dataclasses.replace(
        drive,
        state=max(drive.state, DriveState.PARTIAL, key=list(DriveState).index),
        problems=(said, *drive.problems)[:MAX_REASONS],
        replaces=(),
        taken_over_by=by,
        counted=tuple(manifest.shard for manifest in counted),
    )


def file_schemas(topic: TopicResult) -> Iterator[SchemaTotal]:
    """Of each of a topic's files with rows, what it adds to its definition."""
    for file in topic.files:
        digits = schema_of(file.path)
        if file.rows and digits:
            # An earlier version knew the times of all of a topic's messages together; a transform may have
            # left them out.
            said = file if file.first_log_time_ns is not None else topic
            yield SchemaTotal(
                digits,
                file.rows,
                said.first_log_time_ns,
                said.last_log_time_ns,
                file.first_bag,
                file.path,
            )


def _add_schema(first: SchemaTotal, second: SchemaTotal) -> SchemaTotal:
    earliest = min(first, second, key=_by_time)
    lasts = [each.last_log_time_ns for each in (first, second) if each.last_log_time_ns is not None]
    return dataclasses.replace(
        earliest, rows=first.rows + second.rows, last_log_time_ns=max(lasts, default=None)
    )


def add_schemas(schemas: Iterable[SchemaTotal]) -> tuple[SchemaTotal, ...]:
    """All together, in the order of their first log times; those of the same digits are one."""
    added: dict[str, SchemaTotal] = {}
    for each in schemas:
        known = added.get(each.schema)
        added[each.schema] = each if known is None else _add_schema(known, each)
    return tuple(sorted(added.values(), key=_by_time))


def _by_time(schema: SchemaTotal) -> tuple[bool, int, str]:
    return schema.first_log_time_ns is None, schema.first_log_time_ns or 0, schema.schema


def standing_manifests(manifests: Iterable[Manifest], commits: Iterable[DriveManifest]) -> list[Manifest]:
    """The manifests whose rows are the drive's: of all its shard manifests and drive manifests.

    A manifest is a commit of its own, but for these: a later commit has replaced its plan; its plan replaces
    others (``overwrite``) and is not committed yet, so that readers see the old or the new; another run took
    the drive before it was there, and does its work.
    """
    commits = tuple(commits)
    superseded = {plan_id for commit in commits for plan_id in commit.replaces}
    last_words = {commit.plan_id: commit for commit in commits}
    return [
        manifest
        for manifest in manifests
        if manifest.plan_id not in superseded
        and not is_void(manifest.shard, last_words.get(manifest.plan_id))
        and (manifest.plan_id in last_words or not manifest.replaces)
    ]


def is_void(shard: int, last_word: DriveManifest | None) -> bool:
    """Whether the shard's manifest came after another run had taken the drive from its plan."""
    return last_word is not None and last_word.taken_over_by is not None and shard not in last_word.counted


def bytes_written_of(topic: TopicResult) -> int:
    """Bytes of a topic's tables, and of pictures and videos beside them."""
    return sum(file.size_bytes for file in topic.files) + sum(each.size_bytes for each in topic.beside)


def folders_of(manifest: Manifest) -> list[str]:
    """All folders that a manifest names: every file in them is one of its rows'."""
    return sorted({each.folder for topic in manifest.topics for each in topic.beside})


def paths_of(manifest: Manifest) -> list[str]:
    """All files that a manifest names; those in `folders_of` are beside them."""
    files = [file.path for topic in manifest.topics for file in topic.files]
    return files + [each.path for bag in manifest.bags for each in bag.attachments if each.path]


def run_in_words(run: Run) -> str:
    """For people.

    >>> run_in_words(Run("dag", "r1")), run_in_words(Run("", "extract-1"))
    ("run 'r1' of DAG 'dag'", "run 'extract-1' of the command line")
    """
    return f"run {run.run_id!r} of " + (f"DAG {run.dag_id!r}" if run.dag_id else "the command line")


def make_same_rows(one: ExtractOptions, other: ExtractOptions) -> bool:
    """Whether both make the same rows of a bag: they may differ in how a shard ends and files are encoded."""
    return dataclasses.replace(one, strict=other.strict, parquet=other.parquet) == other


def covered_bags(standing: Iterable[Manifest], options: ExtractOptions) -> set[tuple[str, int, str]]:
    """(name, size, ETag) of the bags that standing manifests cover whole, with options of the same rows.

    A bag that could not be read is not covered: another version of the engine may read it.
    """
    slices: dict[tuple[str, int, str], set[BagSlice]] = {}
    for manifest in standing:
        if make_same_rows(manifest.options, options):
            for bag in manifest.bags:
                if bag.status is not BagStatus.UNREADABLE:
                    place = dataclasses.replace(bag.slice, bag=0)
                    slices.setdefault((bag.name, bag.size_bytes, bag.etag), set()).add(place)
    return {
        bag
        for bag, done in slices.items()
        if any(sum(each.count == of.count for each in done) == of.count for of in done)
    }


def add_transforms(first: Iterable[Transformed], second: Iterable[Transformed]) -> tuple[Transformed, ...]:
    """Both together: those of one name, distribution and version are one."""
    added: dict[tuple[str, str, str], Transformed] = {}
    for each in (*first, *second):
        known = added.get((each.name, each.distribution, each.version))
        added[each.name, each.distribution, each.version] = (
            each
            if known is None
            else dataclasses.replace(
                each, rows_in=known.rows_in + each.rows_in, rows_out=known.rows_out + each.rows_out
            )
        )
    return tuple(added.values())


def _with(values: tuple[str, ...], value: str) -> tuple[str, ...]:
    return values if value in values else (*values, value)


# --- where things lie -------------------------------------------------------------------------------


def sqlite_owner(name: str) -> str:
    """The database that SQLite would leave a file of this name beside; empty where it would not.

    >>> sqlite_owner("a/x.db3-wal"), sqlite_owner("a/x.db3")
    ('a/x.db3', '')
    """
    return next((name.removesuffix(end) for end in SQLITE_BESIDE if name.endswith(f".db3{end}")), "")


def make_plan_id(run: Run, drive_id: str) -> str:
    """Twelve hex digits that name what a run does for a drive; the same on every retry of the run."""
    return hashlib.sha256(f"{run.dag_id}\n{run.run_id}\n{drive_id}".encode()).hexdigest()[:12]


RUNS_FOLDER = "_plans/runs"


def run_folder(run_id: str) -> str:
    """Where the records of all runs of that id are: of whatever DAG, or of the command line."""
    return f"{RUNS_FOLDER}/{sha256(run_id.encode())[:16]}"


def run_key(run_id: str, digest: str) -> str:
    return f"{run_folder(run_id)}/{digest}.json"


def planning_folder(run_id: str) -> str:
    """Where the records of the Batch jobs are that plan runs of that id."""
    return f"_plans/planning/{sha256(run_id.encode())[:16]}"


def plan_folder(drive_id: str, plan_id: str) -> str:
    return f"_plans/drive_id={drive_id}/{plan_id}"


def plan_key(drive_id: str, plan_id: str) -> str:
    return f"{plan_folder(drive_id, plan_id)}/plan.json"


def generation_key(drive_id: str, plan_id: str, generation: int) -> str:
    return f"{plan_folder(drive_id, plan_id)}/generation-{generation}.json"


def sizes_key(drive_id: str, plan_id: str, generation: int) -> str:
    return f"{plan_folder(drive_id, plan_id)}/sizes-{generation}.json"


def job_record_key(drive_id: str, plan_id: str, generation: int) -> str:
    return f"{plan_folder(drive_id, plan_id)}/job-{generation}.json"


def manifest_folder(drive_id: str, plan_id: str) -> str:
    return f"_manifests/drive_id={drive_id}/{plan_id}"


def manifest_key(drive_id: str, plan_id: str, shard: int) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/{shard:05d}.json"


def started_key(drive_id: str, plan_id: str, shard: int, number: int = 1) -> str:
    """Of the shard's try ``number``; the first is 1."""
    return (
        f"{manifest_folder(drive_id, plan_id)}/{shard:05d}.started{f'-{number}' if number > 1 else ''}.json"
    )


def failed_key(drive_id: str, plan_id: str, shard: int) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/{shard:05d}.failed.json"


def drive_manifest_key(drive_id: str, plan_id: str) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/drive.json"


FINISH_NAME = "finish.json"


def finish_key(drive_id: str, plan_id: str) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/{FINISH_NAME}"


def attachment_folder(drive_id: str) -> str:
    return f"_attachments/drive_id={drive_id}"


FILES_FOLDER = "_files"


def files_folder(table: str, drive_id: str, name: str = "") -> str:
    """Where pictures and videos of a drive's rows in a table are: those of the shard `shard_name`, or all."""
    return f"{FILES_FOLDER}/{table}/drive_id={drive_id}{f'/{name}' if name else ''}"


def quality_folder(drive_id: str) -> str:
    return f"_quality/drive_id={drive_id}"


def quality_key(drive_id: str, plan_id: str) -> str:
    """The results of the quality checks of a plan."""
    return f"{quality_folder(drive_id)}/{plan_id}.parquet"


REPORTS_FOLDER = "_reports"


def report_key(drive_id: str) -> str:
    return f"{REPORTS_FOLDER}/drive_id={drive_id}/report.html"


FRAMES_FOLDER = "_frames"


FRAMES_FILE = "frames.parquet"


def frames_key(name: str, drive_id: str) -> str:
    """Where a drive's frames table is: one object, so that it is replaced at once."""
    return f"{FRAMES_FOLDER}/{name}/drive_id={drive_id}/{FRAMES_FILE}"


FLEET_FOLDER = "_fleet"
FLEET_TABLES = ("drives", "bags", "topics")


def fleet_key(table: str, drive_id: str) -> str:
    """Where a drive's rows of a fleet table are."""
    return f"{FLEET_FOLDER}/{table}/{drive_id}.parquet"


SCHEMAS_FOLDER = "_schemas"


def schema_key(table: str, schema: str) -> str:
    """Where the record of a table's definition is."""
    return f"{SCHEMAS_FOLDER}/{table}/{schema}.json"


def schema_of(path: str) -> str:
    """The digits of the ``schema=`` partition that a file lies in; empty where it lies in none.

    >>> schema_of("imu.data/schema=1a2b3c4d/drive_id=d/x.parquet"), schema_of("imu/x.parquet")
    ('1a2b3c4d', '')
    """
    return next((step.removeprefix("schema=") for step in path.split("/") if step.startswith("schema=")), "")


def lease_key(drive_id: str) -> str:
    return f"_leases/drive_id={drive_id}.json"


def shard_name(plan_id: str, shard: int, number: int = 1) -> str:
    """File name of the Parquet files of a shard's try ``number``, without its ending: no two tries share one.

    >>> shard_name("0123456789ab", 7), shard_name("0123456789ab", 7, 2)
    ('0123456789ab-00007', '0123456789ab-00007-try2')
    """
    return f"{plan_id}-{shard:05d}{f'-try{number}' if number > 1 else ''}"


def is_allowed(uri: str, allowed: Iterable[str]) -> bool:
    """Whether ``uri`` is one of the ``allowed`` places or lies below one, by whole parts of its path.

    What steps upwards on its way does not, however it is written.

    >>> is_allowed("s3://raw/fleet/car_7/x.bag", ["s3://raw/fleet"])
    True
    >>> is_allowed("s3://raw/fleet_2/x.bag", ["s3://raw/fleet"])
    False
    >>> is_allowed("s3://raw/fleet/%2e%2e/x.bag", ["s3://raw/fleet"])
    False
    """
    plain = uri
    while (decoded := urllib.parse.unquote(plain)) != plain:
        plain = decoded
    if ".." in re.split(r"[/\\]", plain):
        return False
    return any(f"{uri}/".startswith(f"{place.rstrip('/')}/") for place in allowed)


_MOVES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal or a log acts upon: control characters, ends of lines, changes of direction."""


def one_line(text: str) -> str:
    """``text``, of which a bag or a store may have said a part, for a line of a log or a terminal.

    >>> one_line("/cam\\n\\x1b[2Jera")
    '/cam\\\\n\\\\x1b[2Jera'
    """
    return _MOVES.sub(lambda found: repr(found[0])[1:-1], text)


def topic_key(topic: str) -> str:
    """``topic`` as ROS resolves it, with its leading slash."""
    return topic if topic.startswith("/") else f"/{topic}"


def topic_matches(topic: str, globs: Iterable[str]) -> bool:
    """Whether one of the shell globs is ``topic``'s: over the whole name, ``*`` crosses ``/``.

    A relative topic matches as ROS would resolve it too.

    >>> topic_matches("foo", ["/f*"]), topic_matches("/foo", ["foo"])
    (True, False)
    """
    names = {topic, topic_key(topic)}
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


MAX_TABLE_NAME: Final = 200
"""Characters, of ASCII: file systems take 255 bytes a name, catalogues as many."""


def table_name(topic: str) -> str:
    """The table of a topic: ``/flir_adk/rgb_front_left/image_raw`` is ``flir_adk.rgb_front_left.image_raw``.

    The leading ``/`` is dropped, ``/`` becomes ``.``, anything else outside ``[A-Za-z0-9_-]`` and a leading
    ``_`` or ``.`` (which engines skip) are percent-encoded as UTF-8, so that no two topics share a table by
    accident. No name is ``.`` or ``..``, nor longer than `MAX_TABLE_NAME`: a longer one ends in a hash of it.

    >>> table_name("/a/b"), table_name("/a_b"), table_name("a.b"), table_name("/_x")
    ('a.b', 'a_b', 'a%2Eb', '%5Fx')
    """
    encoded = "".join(
        "." if char == "/" else char if re.fullmatch(r"[A-Za-z0-9_-]", char) else _percent(char)
        for char in topic.removeprefix("/")
    )
    if encoded.startswith("_"):
        encoded = "%5F" + encoded[1:]
    elif encoded.startswith("."):  # once would be the table of the topic without a name
        encoded = "%2F%2F" + encoded[1:]
    if len(encoded) > MAX_TABLE_NAME:
        # In lower case, as no character is encoded: nothing else is called so.
        ending = f"%7e{sha256(encoded.encode())[:16]}"
        encoded = re.sub(r"%.?$", "", encoded[: MAX_TABLE_NAME - len(ending)]) + ending
    return encoded or "%2F"


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


# --- JSON -------------------------------------------------------------------------------------------


def to_json(value: Any) -> bytes:
    """Canonical JSON of a dataclass of this module."""
    return json.dumps(dataclasses.asdict(value), sort_keys=True, separators=(",", ":")).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def from_json(kind: type[T], data: bytes, *, where: str) -> T:
    """The dataclass ``kind`` that ``data`` holds.

    Raises:
        ContractError: not JSON, a field is missing, unknown or of a wrong type, or another contract
            version; the message begins with ``where``.
    """
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise ContractError(f"{where}: not JSON: {error}") from error
    version = raw.get("contract_version", CONTRACT_VERSION) if isinstance(raw, dict) else None
    if version != CONTRACT_VERSION:
        raise ContractError(
            f"{where}: contract version {version}, this engine speaks {CONTRACT_VERSION}; "
            "use one version of airflow-batch-ros and of the image"
        )
    return typing.cast(T, _parse(kind, raw, where))


def _parse(kind: Any, raw: Any, where: str) -> Any:
    """``raw`` (from JSON) as ``kind``: a dataclass, an enum, a scalar, an optional or a tuple of those."""
    if type(raw) is kind:  # a scalar, as most are; what JSON gives is no dataclass
        return raw
    shape, inner = _shape(kind)
    if shape is tuple:
        if not isinstance(raw, list):
            raise ContractError(f"{where}: expected a list, not {raw!r:.80}")
        return tuple(_parse(inner, value, f"{where}[{place}]") for place, value in enumerate(raw))
    if shape is typing.Optional:
        return None if raw is None else _parse(inner, raw, where)
    if shape is dataclass:
        return _parse_dataclass(kind, raw, where)
    if issubclass(kind, StrEnum):
        try:
            return kind(raw)
        except ValueError as error:
            raise ContractError(f"{where}: {error}") from error
    if kind is float and type(raw) is int:
        return float(raw)
    raise ContractError(f"{where}: expected {kind.__name__}, not {raw!r:.80}")


@functools.cache
def _shape(kind: Any) -> tuple[Any, Any]:
    """``tuple`` or ``Optional`` and what is in it, ``dataclass``, or None for enums and scalars."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        return tuple, typing.get_args(kind)[0]
    if origin in (typing.Union, types.UnionType):
        (inner,) = (option for option in typing.get_args(kind) if option is not types.NoneType)
        return typing.Optional, inner
    return dataclass if dataclasses.is_dataclass(kind) else None, None


def _parse_dataclass(kind: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ContractError(f"{where}: expected an object, not {raw!r:.80}")
    fields = _fields(kind)
    if unknown := sorted(raw.keys() - fields.keys()):
        raise ContractError(f"{where}: unknown keys {', '.join(unknown)}")
    values = {}
    for name, (hint, required) in fields.items():
        if name in raw:
            value = raw[name]
            values[name] = value if type(value) is hint else _parse(hint, value, f"{where}.{name}")
        elif required:
            raise ContractError(f"{where}: key {name} is missing")
    return kind(**values)


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """A dataclass's fields by name: their types, and whether they have no default."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }
