"""How commands, shards, bags, drives and finishing steps end."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum

MAX_REASONS = 100
"""Rejected messages a topic and shard whose offset and reason are listed; the rest are counted."""


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
    ExitCode.OUTPUT_FAILED: "the output, or scratch (TMPDIR), could not be written",
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


class StepState(StrEnum):
    """How a finishing step ended; ``skipped`` is one that could not be done where it ran."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
