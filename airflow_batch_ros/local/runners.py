"""How an attempt of a Batch job runs: as a process of this machine here, as a container in `containers`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from airflow_batch_ros.local.processes import die_with_parent

MAX_LINE_BYTES = 256 * 1024
"""Of a log event; what is longer is cut in pieces."""


class CannotStartError(OSError):
    """An attempt could not be started; the message is the reason as ECS words it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What a job asks of its container; a process has none of it.

    Attributes:
        vcpus, memory_mib: limits, not shares.
        user: as in the Dockerfile; None is the image's own.
        tmpfs: sizes in MiB by path.
        volumes: paths at which an empty volume is mounted, gone with the attempt.
        beyond: what else it asks for, and no container of this machine is given.
    """

    image: str
    vcpus: float
    memory_mib: int
    user: str | None = None
    read_only_root: bool = False
    init: bool = False
    tmpfs: tuple[tuple[str, int], ...] = ()
    volumes: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One attempt. ``name`` is of letters, digits, ``-`` and ``_``, and no other attempt's."""

    name: str
    job_id: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    container: ContainerSpec


@dataclass(frozen=True, slots=True)
class Exit:
    """How an attempt ended by itself. ``code`` is None where nobody could tell: ``reason`` says why."""

    code: int | None
    reason: str | None = None


class Execution(Protocol):
    """An attempt that runs."""

    def lines(self) -> Iterator[bytes]:
        """Its output as it comes, without line ends, none longer than `MAX_LINE_BYTES`; to be read once."""

    def wait(self) -> Exit:
        """Block until it ends."""

    def terminate(self) -> None:
        """SIGTERM to its first process. Nothing where it has ended."""

    def kill(self) -> None:
        """SIGKILL to all of it. Nothing where it has ended."""

    def close(self) -> None:
        """Remove what is left of it, its disk too. It has ended."""


class Runner(Protocol):
    """Starts attempts; from any thread, and an attempt may end with the thread that started it."""

    def start(self, launch: Launch) -> Execution:
        """Raises OSError, ValueError or SubprocessError where it does not start."""


@dataclass(frozen=True, slots=True)
class ProcessRunner:
    """Runs commands as processes.

    Attributes:
        entrypoint: program and first arguments, before a job's command.
        base_environment: of every process, beneath the job's own.
        scratch: each attempt gets a folder below it as its working directory, ``HOME`` and ``TMPDIR``, gone
            with the attempt as a container's disk is.
    """

    entrypoint: tuple[str, ...]
    base_environment: Mapping[str, str]
    scratch: Path

    def start(self, launch: Launch) -> ProcessExecution:
        scratch = tempfile.mkdtemp(dir=self.scratch, prefix="job-")
        own = {"HOME": scratch, "TMPDIR": scratch}
        try:
            # It leads a group of its own, so that what it leaves behind can be ended as a container's is.
            process = subprocess.Popen(
                [*self.entrypoint, *launch.command],
                cwd=scratch,
                env={**self.base_environment, **own, **launch.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return ProcessExecution(process, scratch)


@dataclass(frozen=True, slots=True)
class ProcessExecution:
    process: subprocess.Popen[bytes]
    scratch: str

    def lines(self) -> Iterator[bytes]:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            while line := pipe.readline(MAX_LINE_BYTES):
                yield line.rstrip(b"\r\n")

    def wait(self) -> Exit:
        returncode = self.process.wait()
        return Exit(returncode if returncode >= 0 else 128 - returncode)

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()  # what it left running
        shutil.rmtree(self.scratch, ignore_errors=True)
