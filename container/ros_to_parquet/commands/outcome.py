"""What commands end with: errors as exit codes and reasons."""

from __future__ import annotations

import traceback

from ros_to_parquet.contract import ContractError, ExitCode
from ros_to_parquet.errors import unexpected
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
    from ros_to_parquet import storage
    from ros_to_parquet.bag.model import BagError
    from ros_to_parquet.errors import ShardError

    match error:
        case ShardError():
            if error.exit_code is ExitCode.TRANSFORM_FAILED and error.__cause__ and error.__cause__.__cause__:
                traceback.print_exception(error.__cause__.__cause__)  # who wrote it wants to see where
            return error.exit_code, str(error)
        case BagError():
            return ExitCode.BAG_UNREADABLE, str(error)
        case UsageError() | storage.LocationError():
            return ExitCode.USAGE, str(error)
        case ContractError():
            return ExitCode.PLAN_REFUSED, str(error)
        case TerminatedError() | storage.TransientError():
            return ExitCode.RETRY, str(error)
        case storage.AccessDeniedError():
            return ExitCode.ACCESS_DENIED, str(error)
        case storage.NotFoundError():
            return ExitCode.INPUT_MISSING, str(error)
        case storage.StorageError():
            return ExitCode.OUTPUT_FAILED, str(error)
        case MemoryError():
            return ExitCode.OUT_OF_MEMORY, "out of memory; give the job more"
        case OSError():  # such as a full disk
            traceback.print_exception(error)
            return ExitCode.ENGINE_ERROR, f"{type(error).__name__}: {error}"
        case _:
            return ExitCode.ENGINE_ERROR, unexpected(error)
