"""Finishing steps: what is done for a drive once it is committed.

The shard that commits a drive does them, after the commit and its sweep, and so does any that finds the drive
committed and its steps not done. A step reads the lake and adds to it; it is idempotent, and may be done by
two at once. Whatever becomes of it, the commit stands: a step that fails is logged, and recorded beside the
drive's manifest.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ros_to_parquet import __version__, contract, lake
from ros_to_parquet.contract import (
    ContractError,
    ExitCode,
    FinishOptions,
    FinishRecord,
    Plan,
    StepResult,
    StepState,
)
from ros_to_parquet.errors import exit_code, unexpected
from ros_to_parquet.log import event, now
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget
from ros_to_parquet.storage import NotFoundError, Storage, StorageError, join
from ros_to_parquet.text import and_more, shown

STEP_SECONDS = 600.0
"""A step that takes longer is broken off; the job's own time-out is the drive's, not a step's."""

FRAMES_SECONDS = 7_200.0
"""Of all frames tables: the times of every topic in them are read."""

MAX_PROBLEM_LENGTH = 500

REPORT_EXTRA = "pip install 'ros-to-parquet[engine,report]'"


class StepError(Exception):
    """A step that cannot be done; the message is for people.

    Attributes:
        exit_code: what the step's own command ends with.
    """

    exit_code = ExitCode.INPUT_MISSING


class StepRefusedError(StepError):
    """A step whose output cannot be written as it is asked for."""

    exit_code = ExitCode.OUTPUT_FAILED


class StepSkippedError(StepError):
    """A step that cannot be done where it runs; the message says what to do."""

    exit_code = ExitCode.ENGINE_ERROR


class _OutOfTimeError(BaseException):
    """As little an `Exception` as ``TerminatedError`` is, and for the same reason."""


@dataclass(frozen=True, slots=True)
class Drive:
    """What a step is about: a committed drive.

    Attributes:
        storage: the lake's.
        output: URI of the lake, without a final slash.
        budget: the memory that a step may take.
        ends_at: when it is broken off, on the monotonic clock.
    """

    storage: Storage
    output: str
    drive_id: str
    options: FinishOptions
    budget: MemoryBudget = DEFAULT_BUDGET
    ends_at: float = float("inf")


@dataclass(frozen=True, slots=True)
class Made:
    """What a step has done: see `StepResult`."""

    wrote: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """What has become of the steps that were wanted, now or before.

    Attributes:
        code: that of the first step that could not be done now.
    """

    steps: tuple[StepResult, ...] = ()
    code: ExitCode = ExitCode.OK


@dataclass(frozen=True, slots=True)
class Step:
    """A finishing step.

    Attributes:
        wanted: whether options ask for it.
        do: does it; raises `StepError`, `StepSkippedError` or any other error.
        seconds: the longest it may take.
    """

    name: str
    wanted: Callable[[FinishOptions], bool]
    do: Callable[[Drive], Made]
    seconds: float = STEP_SECONDS


def _report(drive: Drive) -> Made:
    try:
        from ros_to_parquet.report.make import write_report
    except ModuleNotFoundError as error:
        raise StepSkippedError(f"{error}: it needs {REPORT_EXTRA}") from error
    return Made(wrote=(write_report(drive),))


def _frames(drive: Drive) -> Made:
    from ros_to_parquet.frames.errors import FramesError
    from ros_to_parquet.frames.make import write_frames

    wrote: list[str] = []
    problems: list[str] = []
    refused: list[str] = []
    for table in drive.options.sync:
        try:
            made = write_frames(drive.output, drive.drive_id, table, budget=drive.budget)
        except FramesError as error:
            refused.append(f"{table.name}: {error}")
            continue
        wrote.append(made.path)
        problems += [f"{table.name}: {problem}" for problem in made.problems]
    if refused:
        others = f" (written: {', '.join(wrote)})" if wrote else ""
        raise StepError("; ".join(refused) + others)
    return Made(wrote=tuple(wrote), problem="; ".join(problems))


def _fleet(drive: Drive) -> Made:
    from ros_to_parquet.fleet import write_fleet

    return Made(wrote=tuple(write_fleet(drive.storage, drive.output, drive.drive_id)))


def _catalog(drive: Drive) -> Made:
    from ros_to_parquet.catalog.files import CatalogError
    from ros_to_parquet.catalog.registering import register

    if drive.options.catalog is None:
        raise AssertionError("a step that is not wanted")
    try:
        registered = register(drive.storage, drive.output, drive.drive_id, drive.options.catalog)
    except CatalogError as error:
        raise StepRefusedError(str(error)) from error
    return Made(problem=and_more(registered.left_out))


STEPS: tuple[Step, ...] = (
    Step("report", lambda options: options.report, _report),
    Step("fleet", lambda options: options.fleet, _fleet),
    Step("catalog", lambda options: options.catalog is not None, _catalog),
    Step("frames", lambda options: bool(options.sync), _frames, seconds=FRAMES_SECONDS),
)
"""In the order in which they are done: what a later one shows, an earlier one has written."""


def finish_drive(
    storage: Storage, plan: Plan, *, budget: MemoryBudget = DEFAULT_BUDGET, again: bool = False
) -> Finished:
    """Does the steps that the plan asks for.

    To be called when the plan is committed. Steps that are done already are not done ``again``.
    Never raises for a step that fails, nor where the record cannot be read or written.
    """
    wanted = [step for step in STEPS if step.wanted(plan.finish)]
    if not wanted:
        return Finished()
    before = read_record(storage, plan.output, plan.drive_id, plan.plan_id)
    known = {each.step: each for each in before.steps} if before else {}
    drive = Drive(storage, plan.output, plan.drive_id, plan.finish, budget)
    done = {
        step.name: _do(step, drive)
        for step in wanted
        if again or step.name not in known or known[step.name].state is not StepState.DONE
    }
    results = known | {name: result for name, (result, _) in done.items()}
    if before is None or done:
        steps = tuple(results.values())
        record = FinishRecord(
            contract.CONTRACT_VERSION, __version__, plan.plan_id, plan.drive_id, now(), steps
        )
        _write_record(storage, plan, record)
    code = next((code for _, code in done.values() if code is not ExitCode.OK), ExitCode.OK)
    return Finished(tuple(results[step.name] for step in wanted), code)


def finish_committed(
    storage: Storage,
    output: str,
    drive_id: str,
    options: FinishOptions | None = None,
    *,
    budget: MemoryBudget = DEFAULT_BUDGET,
    again: bool = False,
) -> Finished:
    """`finish_drive` for the plan that was committed last of a drive in the lake.

    Args:
        options: what to do, instead of what that plan asks for.

    Raises:
        StepError: the lake has no committed plan of the drive.
    """
    plan_id = lake.last_committed(storage, output, drive_id)
    if plan_id is None:
        there = lake.Lake(output).drives()
        if drive_id not in there:
            raise StepError(lake.no_drive(output, drive_id, there))
        raise StepError(f"{output}: drive {drive_id!r} has no run that is committed")
    uri = join(output, contract.plan_key(drive_id, plan_id))
    plan = contract.from_json(Plan, storage.read(uri), where=uri)
    # A lake may have been moved, or copied, since the plan was made.
    plan = replace(plan, output=output, finish=plan.finish if options is None else options)
    return finish_drive(storage, plan, budget=budget, again=again)


def read_record(storage: Storage, output: str, drive_id: str, plan_id: str) -> FinishRecord | None:
    """What was done after the commit of a plan; None where that is not known."""
    uri = join(output, contract.finish_key(drive_id, plan_id))
    try:
        return contract.from_json(FinishRecord, storage.read(uri), where=uri)
    except NotFoundError:
        return None
    except (StorageError, ContractError) as error:  # then the steps are done again, which changes nothing
        event("finish_record_unknown", drive_id=drive_id, uri=uri, reason=str(error))
        return None


def _write_record(storage: Storage, plan: Plan, record: FinishRecord) -> None:
    uri = join(plan.output, contract.finish_key(plan.drive_id, plan.plan_id))
    try:
        storage.write(uri, contract.to_json(record))
        try:
            storage.head(join(plan.output, contract.drive_manifest_key(plan.drive_id, plan.plan_id)))
        except NotFoundError:  # another run has replaced the drive meanwhile, and swept this one's folder
            storage.delete(uri)
    except StorageError as error:  # the log has it; who comes next does the steps again
        event("finish_not_recorded", drive_id=plan.drive_id, uri=uri, reason=str(error))


def _do(step: Step, drive: Drive) -> tuple[StepResult, ExitCode]:
    begin = time.monotonic()
    event("finishing", drive_id=drive.drive_id, step=step.name)
    made, state, code = Made(), StepState.DONE, ExitCode.OK
    try:
        with _time_limit(step.seconds):
            made = step.do(replace(drive, ends_at=begin + step.seconds))
    except StepSkippedError as error:
        made, state, code = Made(problem=str(error)), StepState.SKIPPED, error.exit_code
    except _OutOfTimeError:
        problem = f"broken off after {step.seconds:g} s"
        made, state, code = Made(problem=problem), StepState.FAILED, ExitCode.ENGINE_ERROR
    except Exception as error:  # noqa: BLE001 (the drive is committed, whatever goes wrong with what is added)
        made, state = Made(problem=_in_words(error)), StepState.FAILED
        code = error.exit_code if isinstance(error, StepError) else exit_code(error)
    seconds = round(time.monotonic() - begin, 3)
    problem = shown(made.problem)[:MAX_PROBLEM_LENGTH]
    event(
        "finished",
        drive_id=drive.drive_id,
        step=step.name,
        state=str(state),
        seconds=seconds,
        wrote=list(made.wrote),
        problem=problem,
    )
    return StepResult(step.name, state, seconds, problem, made.wrote), code


def _in_words(error: Exception) -> str:
    if isinstance(error, StepError | StorageError | ContractError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; give the job more"
    return unexpected(error)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises `_OutOfTimeError` after so long, wherever that is; by SIGALRM, so in the main thread alone."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def out_of_time(*_: object) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def lines(steps: Iterable[StepResult], output: str) -> list[str]:
    """A line for each step: what it wrote, or why not."""
    said = []
    for each in steps:
        wrote = ", ".join(join(output, path) for path in each.wrote)
        if each.state is StepState.DONE:
            said.append(f"{each.step}: {wrote}" if wrote else each.step)
        if each.problem:
            said.append(f"! {each.step} {each.state}: {each.problem}")
    return said
