"""What cannot be done, and what is said of an error that nobody thought of."""

from __future__ import annotations

import errno
import os
import sys
import traceback

from ros_to_parquet.contract import ContractError, ExitCode
from ros_to_parquet.termination import TerminatedError

DEBUG_VARIABLE = "ROS_TO_PARQUET_DEBUG"
"""Environment variable: not empty, errors of the engine itself are logged with what they say."""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of an `OSError` that is nobody's fault but the disk's."""


class ShardError(Exception):
    """A shard that cannot be done; ``exit_code`` says whether a retry can help."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code(error: BaseException) -> ExitCode:
    """What a command that raised this ends with."""
    from ros_to_parquet import storage
    from ros_to_parquet.bag.model import BagError

    match error:
        case ShardError():
            return error.exit_code
        case BagError():
            return ExitCode.BAG_UNREADABLE
        case storage.LocationError():
            return ExitCode.USAGE
        case ContractError():
            return ExitCode.PLAN_REFUSED
        case TerminatedError() | storage.TransientError():
            return ExitCode.RETRY
        case storage.AccessDeniedError():
            return ExitCode.ACCESS_DENIED
        case storage.NotFoundError():
            return ExitCode.INPUT_MISSING
        case storage.StorageError():
            return ExitCode.OUTPUT_FAILED
        case MemoryError():
            return ExitCode.OUT_OF_MEMORY
        case OSError() if error.errno in DISK_FULL:
            return ExitCode.OUTPUT_FAILED
        case _:
            return ExitCode.ENGINE_ERROR


def unexpected(error: BaseException) -> str:
    """Prints where an error that nobody thought of came from; without its words, which may quote a bag."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
        return f"{type(error).__name__}: {error}"
    frames: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        frames = [*traceback.format_tb(cause.__traceback__), f"{type(cause).__name__}\n", *frames]
        cause = cause.__cause__ or cause.__context__
    print("".join(frames), end="", file=sys.stderr, flush=True)
    return f"{type(error).__name__}; what it says may quote a bag: {DEBUG_VARIABLE}=1 logs it"
