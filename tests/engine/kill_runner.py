"""Kills the engine with SIGKILL at every change it makes to a store, starts it again, and looks at the lake.

``python -m tests.engine.kill_runner JOB.json`` prints a `Report` as JSON. The process imports all that the
engine needs once and starts no thread; each death is a fork of it, and so is each look at the lake.

A change is what the system or the server is asked for, whatever the engine calls it. On disk: a file opened
for writing, written, moved, linked or removed, a folder made or removed (Python's audit events). On S3: a
request that is no read. A process dies ``before`` it, ``within`` it (half of what is to be written is) or
``after`` it; on disk ``after`` is before the next one.

With a rival the process is not killed there but stopped, as one that counts as dead and is only slow; the
rival does its work to the end; then the stopped one goes on.
"""

from __future__ import annotations

import functools
import http.client
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import botocore.client
import pyarrow.parquet as pq

import ros_to_parquet
from ros_to_parquet import cli, contract
from ros_to_parquet import extraction as _extraction  # noqa: F401
from ros_to_parquet import run as _run  # noqa: F401 (all that a shard needs, before the first fork)
from ros_to_parquet.contract import Lease, Plan
from ros_to_parquet.lake import Lake
from ros_to_parquet.storage import arrow_filesystem, is_uri, join, local, normalize, open_storage, s3

BEFORE, WITHIN, AFTER = "before", "within", "after"
LEFT_OUT: Final = "/status"
"""The topic that what is overwritten lacks, so that old and new can be told apart."""

_PART_BYTES: Final = 5 << 20
"""Of multipart uploads here: the least that S3 takes."""

_REFUSED: Final = "refused"

_PATHS: Final = ("image_path", "video_path")

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS: Final = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
_READS: Final = ("Get", "Head", "List")

Rows = Mapping[str, Sequence[int]]
"""Log times by table, sorted."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to try.

    Attributes:
        flow: ``shards``: those of a plan, one after the other; ``extract``: the command line;
            ``overwrite``: the command line over a drive that is there, without `LEFT_OUT`; ``race``: `race`.
        base: folder or URI; every death has a lake of its own below it.
        bags: for ``extract`` and ``overwrite``.
        plan: for ``shards``, as JSON; its output is replaced.
        expected: of the whole drive.
        rival: ``same``: what the process does, too; ``other``: the command line, which takes the drive over;
            ``over``: it overwrites; empty: the process is killed.
        samples: how many changes are tried, evenly spread; 0 for all.
        options: of ``extract``.
    """

    flow: str
    base: str
    scratch: str
    bags: Sequence[str]
    plan: str
    expected: Rows
    moments: Sequence[str]
    rival: str = ""
    samples: int = 0
    options: Sequence[str] = ()


@dataclass(slots=True)
class Report:
    """What came of it. ``deaths`` by kind of change and moment; ``problems`` in sentences."""

    changes: int = 0
    deaths: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Reaper:
    """Counts changes, and kills the process at number ``at`` (0: never). Tells its ``pipe`` what that was.

    ``end`` may be SIGSTOP instead: then it goes on when it is told to.
    """

    def __init__(self, at: int, moment: str, pipe: int, end: int = signal.SIGKILL) -> None:
        self._at, self._moment, self._pipe, self._end = at, moment, pipe, end
        self._lock = threading.Lock()
        self._cut = threading.local()
        self.count = 0

    def begins(self, kind: str) -> str:
        """To be called before a change: when to die, if it is this one's turn."""
        with self._lock:
            self.count += 1
            mine = self.count == self._at
        if mine and self._moment == BEFORE:
            self.die(kind)
        return self._moment if mine and self._moment != BEFORE else ""

    def die(self, kind: str) -> None:
        os.write(self._pipe, f"{kind} {self._moment}\n".encode())
        os.kill(os.getpid(), self._end)

    def watch(self) -> None:
        """From here on; there is no way back."""
        sys.addaudithook(self._on_event)
        self._watch_files()
        self._watch_requests()

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & _WRITES and path != os.devnull:
                self.begins("open")
        elif event in _EVENTS:
            self.begins(event)

    def _watch_files(self) -> None:
        write = local._OpenFiles.write

        def watched(files: Any, path: str, data: Any) -> int:
            when = self.begins("write")
            if when == WITHIN:
                view = memoryview(data).cast("B")
                write(files, path, view[: len(view) // 2])
                self.die("write")
            return write(files, path, data)

        local._OpenFiles.write = watched  # type: ignore[method-assign]

    def _watch_requests(self) -> None:
        call = botocore.client.BaseClient._make_api_call  # type: ignore[attr-defined]
        send = http.client.HTTPConnection.send

        def watched(client: Any, operation: str, parameters: Any) -> Any:
            if operation.startswith(_READS):
                return call(client, operation, parameters)
            when = self.begins(operation)
            self._cut.operation = operation if when == WITHIN else ""
            answer = call(client, operation, parameters)
            if when:
                self.die(operation)
            return answer

        def cut(connection: Any, data: Any) -> None:
            operation = getattr(self._cut, "operation", "")
            if operation and not (isinstance(data, bytes) and b"100-continue" in data):
                whole = data if isinstance(data, (bytes, bytearray)) else data.read()
                send(connection, bytes(whole[: len(whole) // 2]))
                self.die(operation)
            send(connection, data)

        botocore.client.BaseClient._make_api_call = watched  # type: ignore[attr-defined]
        http.client.HTTPConnection.send = cut  # type: ignore[method-assign]


def fork(work: Callable[[int], None], when_stopped: Callable[[], None] | None = None) -> tuple[int, str]:
    """Runs ``work`` in a child: its status as ``waitpid`` has it, and what it wrote to its pipe.

    A child that is stopped goes on after ``when_stopped``.
    """
    return end(start(work), when_stopped)


def start(work: Callable[[int], None]) -> tuple[int, int]:
    """A child that does ``work``, and the pipe that it writes to."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            work(writing)
            code = 0
        except BaseException as error:  # noqa: BLE001 (told to the parent)
            os.write(writing, f"{type(error).__name__}: {error}"[:4000].encode())
        finally:
            os._exit(code)
    os.close(writing)
    return child, reading


def end(started: tuple[int, int], when_stopped: Callable[[], None] | None = None) -> tuple[int, str]:
    child, reading = started
    status = os.waitpid(child, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        assert when_stopped is not None
        when_stopped()
        os.kill(child, signal.SIGCONT)
        status = os.waitpid(child, 0)[1]
    with os.fdopen(reading, "rb") as pipe:
        return status, pipe.read().decode()


class RefusedError(Exception):
    """Another run has the drive."""


class Trial:
    """One lake in which the engine dies once."""

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.output = normalize(join(job.base, name))
        self.scratch = Path(job.scratch, name)

    def prepare(self) -> None:
        """What there is before anything dies."""
        self.scratch.mkdir(parents=True)
        if self.job.flow == "shards":
            plan = replace(contract.from_json(Plan, self.job.plan.encode(), where="plan"), output=self.output)
            storage = open_storage(self.output)
            storage.write(
                join(self.output, contract.plan_key(plan.drive_id, plan.plan_id)), contract.to_json(plan)
            )
            lease = Lease(plan.drive_id, plan.plan_id, plan.run, "")
            storage.write(join(self.output, contract.lease_key(plan.drive_id)), contract.to_json(lease))
        elif self.job.flow == "overwrite":
            self.extract("--exclude", LEFT_OUT)

    def run(self) -> None:
        """All of it, from whatever is there."""
        if self.job.flow == "shards":
            plan = contract.from_json(Plan, self.job.plan.encode(), where="plan")
            uri = join(self.output, contract.plan_key(plan.drive_id, plan.plan_id))
            for shard in range(len(plan.shards)):
                self._command("run", "--plan", uri, "--shard", str(shard))
        else:
            self.extract(*(["--overwrite"] if self.job.flow == "overwrite" else []))

    def run_rival(self) -> None:
        """What somebody else does meanwhile; where the drive is the first one's still, it is refused."""
        try:
            if self.job.rival == "same":
                self.run()
            else:
                self.extract("--take-over", *(["--overwrite"] if self.job.rival == "over" else []))
        except RefusedError:
            if self.job.rival != "same":
                raise
            return
        if (seen := read(self.output)) != self.job.expected:
            raise AssertionError(f"rival: manifests: {counts(seen)}, not {counts(self.job.expected)}")

    def extract(self, *options: str) -> None:
        words = [*self.job.bags, "--output", self.output, "--drive-id", "d", *self.job.options, *options]
        self._command("extract", *words)

    def _command(self, *words: str) -> None:
        tempfile.tempdir = str(self.scratch)
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = cli.main(list(words))
        if code == contract.ExitCode.PLAN_REFUSED:
            raise RefusedError(said.getvalue()[-2000:])
        if code != 0:
            raise AssertionError(f"exit code {code}: {said.getvalue()[-2000:]}")

    def check_between(self) -> None:
        """After the death: nothing is there twice, nothing is half there."""
        seen = read(self.output)
        whole = self.job.expected
        if self.job.flow == "overwrite":
            old = {table: times for table, times in whole.items() if f"/{table}" != LEFT_OUT}
            if seen not in (old, whole):
                raise AssertionError(f"neither the old nor the new: {counts(seen)}")
            return
        for table, times in seen.items():
            if Counter(times) - Counter(whole[table]):
                raise AssertionError(f"{table}: rows that are there twice, or are none of the bags'")
        standing = {path for _, path in named(self.output)}
        if missing := standing - stored(self.output):
            raise AssertionError(f"named and not there: {sorted(missing)}")

    def check_after(self) -> None:
        """After the next run: each row once, by the manifests and by the files, and nothing else."""
        if (seen := read(self.output)) != self.job.expected:
            raise AssertionError(f"manifests: {counts(seen)}, not {counts(self.job.expected)}")
        if (seen := read_files(self.output)) != self.job.expected:
            raise AssertionError(f"files: {counts(seen)}, not {counts(self.job.expected)}")
        storage = open_storage(self.output)
        there, wanted = stored(self.output), {path for _, path in named(self.output)}
        if there != wanted:
            raise AssertionError(f"orphans {sorted(there - wanted)}, missing {sorted(wanted - there)}")
        if unfinished := list(storage.unfinished(self.output)):
            raise AssertionError(f"unfinished: {unfinished}")
        if leases := [info.uri for info in storage.objects(join(self.output, "_leases"))]:
            raise AssertionError(f"leases: {leases}")
        for info in storage.objects(join(self.output, "_manifests")):
            if info.uri.rpartition("/")[2][:-5].isdigit():
                manifest = contract.from_json(contract.Manifest, storage.read(info.uri), where=info.uri)
                if any(topic.messages != topic.rows + topic.rejected for topic in manifest.topics):
                    raise AssertionError(f"{info.uri}: messages are not rows and rejects")
        if left := sorted(path.name for path in self.scratch.iterdir()):
            raise AssertionError(f"left on scratch disk: {left}")

    def clear(self) -> None:
        shutil.rmtree(self.scratch)
        if not is_uri(self.output):
            shutil.rmtree(self.output)


def read(output: str) -> Rows:
    """By the manifests."""
    found = ros_to_parquet.open(output)
    return {
        table: sorted(found.dataset(table).to_table(["log_time_ns"])["log_time_ns"].to_pylist())
        for table in found.tables()
    }


def read_files(output: str) -> Rows:
    """By a plain glob."""
    filesystem, root = arrow_filesystem(output)
    times: dict[str, list[int]] = {}
    for path in stored(output):
        if path.endswith(".parquet"):
            rows = pq.read_table(f"{root}/{path}", columns=["log_time_ns"], filesystem=filesystem)
            if rows.num_rows:
                times.setdefault(path.partition("/")[0], []).extend(rows["log_time_ns"].to_pylist())
    return {table: sorted(each) for table, each in times.items()}


def stored(output: str) -> set[str]:
    """What is in the lake of rows, attachments, pictures and videos, whoever wrote it."""
    paths = (info.uri.removeprefix(f"{output}/") for info in open_storage(output).objects(output))
    return {
        path for path in paths if not path.startswith("_") or path.startswith(("_attachments/", "_files/"))
    }


def named(output: str) -> list[tuple[str, str]]:
    """(drive id, path) of what manifests that count name, and the rows of their files."""
    paths = []
    found = Lake(output)
    filesystem, root = arrow_filesystem(output)
    for drive_id in found.drives():
        record = found.drive(drive_id)
        for manifest in contract.standing_manifests(record.manifests, record.commits):
            paths += [(drive_id, file.path) for topic in manifest.topics for file in topic.files]
            paths += [(drive_id, each.path) for bag in manifest.bags for each in bag.attachments if each.path]
            for file in (file for topic in manifest.topics if topic.beside for file in topic.files):
                with pq.ParquetFile(f"{root}/{file.path}", filesystem=filesystem) as table:
                    columns = [name for name in table.schema_arrow.names if name in _PATHS]
                    beside = {path for row in table.read(columns).to_pylist() for path in row.values()}
                paths += [(drive_id, path) for path in beside]
    return paths


def counts(rows: Rows) -> dict[str, int]:
    return {table: len(times) for table, times in rows.items()}


def sweep(job: Job) -> Report:
    """Every change that is asked for, at every moment."""
    begun = time.monotonic()
    report = Report()
    whole = Trial(job, "whole")
    status, said = fork(lambda pipe: (whole.prepare(), _counted(whole, pipe), None)[-1])
    if status:
        return replace(report, problems=[f"undisturbed: {said}"])
    report.changes = int(said)
    _, said = fork(lambda _: whole.check_after())
    report.problems += [f"undisturbed: {said}"] if said else []
    stride = max(1, report.changes // job.samples) if job.samples else 1
    for number, at in enumerate(range(1 + stride // 2, report.changes + 1, stride)):
        moments = [job.moments[number % len(job.moments)]] if job.samples else job.moments
        for moment in moments:
            _try(Trial(job, f"{at}-{moment}"), at, moment, report)
    report.seconds = time.monotonic() - begun
    return report


def race(job: Job) -> Report:
    """``job.samples`` times three processes at one drive, at nearly one time: two alike, one that overwrites.

    Each ends well or is refused with who has the drive; then the lake is as if there had been one.
    """
    begun, report = time.monotonic(), Report()
    for seed in range(job.samples):
        trial = Trial(job, f"race-{seed}")
        _, said = fork(functools.partial(_prepared, trial))
        delays = random.Random(seed)
        racers = [
            start(functools.partial(_racer, trial, delays.uniform(0, 0.3), options))
            for options in ((), (), ("--overwrite",))
        ]
        for racer in racers:
            status, said = end(racer)
            kind = "refused" if said.startswith(_REFUSED) else "done"
            if status:
                report.problems.append(f"seed {seed}: {said}")
            report.deaths[kind] = report.deaths.get(kind, 0) + 1
        status, said = fork(functools.partial(_afterwards, trial))
        if status:
            report.problems.append(f"seed {seed}: afterwards: {said}")
        else:
            trial.clear()
    report.changes, report.seconds = job.samples, time.monotonic() - begun
    return report


def _prepared(trial: Trial, _: int) -> None:
    trial.prepare()


def _afterwards(trial: Trial, _: int) -> None:
    trial.run()
    trial.check_after()


def _racer(trial: Trial, delay_s: float, options: Sequence[str], pipe: int) -> None:
    time.sleep(delay_s)
    try:
        trial.extract(*options)
    except RefusedError as error:
        if "run '" not in str(error):
            raise
        os.write(pipe, _REFUSED.encode())


def _counted(trial: Trial, pipe: int) -> None:
    reaper = Reaper(0, "", pipe)
    reaper.watch()
    trial.run()
    os.write(pipe, str(reaper.count).encode())


def _try(trial: Trial, at: int, moment: str, report: Report) -> None:
    if trial.job.rival:
        _rival(trial, at, moment, report)
        return

    def dying(pipe: int) -> None:
        trial.prepare()
        Reaper(at, moment, pipe).watch()
        trial.run()

    def again(_: int) -> None:
        trial.check_between()
        trial.run()
        trial.check_after()

    status, said = fork(dying)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        report.deaths[said.strip()] = report.deaths.get(said.strip(), 0) + 1
    elif status:
        report.problems.append(f"{at} {moment}: did not die, but failed: {said}")
        return
    else:  # nothing to be within of, or one change less than the first time
        trial.clear()
        return
    after, problem = fork(again)
    if after:
        report.problems.append(f"{at}, {said.strip() or moment}: {problem}")
    else:
        trial.clear()


def _rival(trial: Trial, at: int, moment: str, report: Report) -> None:
    problems: list[str] = []

    def stopping(pipe: int) -> None:
        trial.prepare()
        Reaper(at, moment, pipe, signal.SIGSTOP).watch()
        try:
            trial.run()
        except RefusedError:
            os.write(pipe, _REFUSED.encode())

    def meanwhile() -> None:
        status, said = fork(lambda _: trial.run_rival())
        if status:
            problems.append(said)

    def look(_: int) -> None:
        trial.check_after()

    status, said = fork(stopping, meanwhile)
    kind, _, said = said.partition("\n")
    if status:
        problems.append(f"went on: {said}")
    elif kind:
        kind = f"{kind}, then {said or 'done'}"
        report.deaths[kind] = report.deaths.get(kind, 0) + 1
    if not problems:
        _, said = fork(look)
        problems += [said] if said else []
    if problems:
        report.problems.append(f"{at}, {kind or moment}: {'; '.join(problems)}")
    else:
        trial.clear()


def main(path: str) -> None:
    job = Job(**json.loads(Path(path).read_bytes()))
    s3.PART_BYTES = _PART_BYTES
    if is_uri(job.base):
        s3.s3_client()  # made once; it connects when it is used
    print(json.dumps(asdict(race(job) if job.flow == "race" else sweep(job))))


if __name__ == "__main__":
    main(sys.argv[1])
