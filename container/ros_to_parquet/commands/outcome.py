"""What commands end with: errors as exit codes and reasons."""

from __future__ import annotations

import traceback

from ros_to_parquet.contract import ExitCode
from ros_to_parquet.errors import DISK_FULL, ShardError, exit_code, unexpected
from ros_to_parquet.log import event
from ros_to_parquet.termination import TerminatedError


class UsageError(ValueError):
    """Arguments that each parse but do not go together."""


def fail(code: ExitCode, reason: str) -> int:
    """Logs that the command has failed, and gives its exit code."""
    event("failed", exit_code=int(code), reason=reason)
    return int(code)


def explain(error: Exception | TerminatedError) -> tuple[ExitCode, str]:
    """Exit code and reason of whatever a command raised. An unexpected error's traceback is printed."""
    code = exit_code(error)
    match error:
        case ShardError():
            if code is ExitCode.TRANSFORM_FAILED and error.__cause__ and error.__cause__.__cause__:
                traceback.print_exception(error.__cause__.__cause__)  # who wrote it wants to see where
        case UsageError():
            code = ExitCode.USAGE
        case MemoryError():
            return code, "out of memory; give the job more"
        case OSError() if error.errno in DISK_FULL:  # an output's is a StorageError
            import tempfile

            return code, f"{error}; scratch is {tempfile.gettempdir()}: make room there, or set TMPDIR"
        case OSError() if code is ExitCode.ENGINE_ERROR:
            traceback.print_exception(error)
            return code, f"{type(error).__name__}: {error}"
        case _ if code is ExitCode.ENGINE_ERROR:
            return code, unexpected(error)
    return code, str(error)
