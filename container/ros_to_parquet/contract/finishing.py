"""What is done for a drive once it is committed, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ros_to_parquet.contract.outcomes import StepState


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
