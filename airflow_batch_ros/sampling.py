"""A look into drives before they are run: which objects may be read, and what the engine says of their bags.

Nothing is read whole: a byte of some objects of each drive, and of one bag what ``ros-to-parquet sample``
takes. The engine is a process of its own, for nothing here imports what it is made of.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.lake import error_code, said_by
from airflow_batch_ros.pace import Pace
from ros_to_parquet.contract import ExtractOptions, Plan, PlannedBag

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3 import S3Client

ENGINE_MODULES = ("pyarrow", "numpy", "rosbags", "awkward")
"""Without them the engine is not installed, but for the part that this package is made with."""

PROBES_A_DRIVE = 20
"""Bags of a drive of which a byte is read, evenly spread."""

PROBES_PER_S = 200.0

PROCESSES = 2

BAGS_A_PROCESS = 50
"""Looked into by one process, so that its start is paid for once."""

BAG_TIMEOUT_S = 300.0
"""How long a process may say nothing."""

_REFUSED = frozenset({"AccessDenied", "403", "InvalidObjectState", "KMS.DisabledException"})


class SampleError(RuntimeError):
    """Bags cannot be looked into at all; says what to do."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a drive's bags may be read.

    Attributes:
        probed: bags of which a byte was read, or could not be.
        refused: their names with what S3 said.
        first: the first bag that may be read; None where there is none.
    """

    probed: int
    refused: tuple[tuple[str, str], ...]
    first: PlannedBag | None


@dataclass(frozen=True, slots=True)
class DriveSample:
    """What a look into a drive has shown. ``bag`` is what ``ros-to-parquet sample`` says of its first bag."""

    drive_id: str
    probe: Probe
    bag: Mapping[str, Any] | None

    @property
    def unknown(self) -> list[Mapping[str, Any]]:
        """Topics whose type nobody defines."""
        return [topic for topic in self.topics if topic["unknown"]]

    @property
    def topics(self) -> list[Mapping[str, Any]]:
        return list((self.bag or {}).get("topics") or ())

    @property
    def problems(self) -> list[str]:
        """In words, what is wrong; empty for a drive that looks well."""
        said = [f"bag {name} cannot be read: {why}" for name, why in self.probe.refused]
        if self.bag is None:
            return said
        name = self.probe.first.name if self.probe.first else ""
        if self.bag.get("problem"):
            return [*said, f"bag {name}: {self.bag['problem']}"]
        said += [f"bag {name}: {each}" for each in self.bag["damage"]]
        if (more := self.bag["damage_count"] - len(self.bag["damage"])) > 0:
            said.append(f"bag {name}: and {more} more places that are damaged")
        for topic in self.topics:
            if topic["unknown"]:
                said.append(f"topic {topic['topic']}: {topic['problem']}")
            elif topic["rejected"]:
                said.append(
                    f"topic {topic['topic']}: {topic['rejected']} of the first {topic['sampled']} messages "
                    f"cannot be decoded: {topic['problem']}"
                )
        if self.bag.get("note"):
            said.append(f"bag {name}: {self.bag['note']}")
        return said

    def as_dict(self) -> dict[str, Any]:
        return {
            "probed": self.probe.probed,
            "refused": [{"bag": name, "reason": why} for name, why in self.probe.refused],
            "bag": None if self.probe.first is None else self.probe.first.name,
            "sample": None if self.bag is None else dict(self.bag),
            "problems": self.problems,
        }


def check_engine() -> None:
    """Raises `SampleError` where the engine is not installed here."""
    missing = [name for name in ENGINE_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise SampleError(
            f"--sample looks into bags with the engine, which is not installed here (no "
            f"{', '.join(missing)}): pip install 'ros-to-parquet[engine]', or leave --sample out"
        )


def sample_drives(
    session: boto3.Session,
    s3: S3Client,
    plans: Sequence[Plan],
    *,
    seconds: float,
    max_bytes: int,
    requester_pays: bool,
    command: Sequence[str] = (sys.executable, "-m", "ros_to_parquet"),
) -> dict[str, DriveSample]:
    """Looks into a bag of each plan's drive; by drive id.

    All plans are of one conf: their options are alike.

    Raises:
        botocore's ``ClientError``: S3 did not answer for another reason than that it may not be read.
    """
    if not plans:
        return {}
    pace = Pace(PROBES_PER_S)
    with ThreadPoolExecutor(16, thread_name_prefix="probing") as pool:
        probes = list(pool.map(lambda plan: probe(s3, plan, pace, requester_pays=requester_pays), plans))
    uris = [each.first.uri for each in probes if each.first is not None]
    words = [*command, "sample", "--json", "--seconds", f"{seconds:g}", "--max-bytes", str(max_bytes)]
    words += option_words(plans[0].options)
    looked = look_into(words, uris, environment_of(session, requester_pays=requester_pays))
    return {
        plan.drive_id: DriveSample(plan.drive_id, each, looked.get(each.first.uri) if each.first else None)
        for plan, each in zip(plans, probes, strict=True)
    }


def probe(s3: S3Client, plan: Plan, pace: Pace, *, requester_pays: bool) -> Probe:
    """Reads a byte of some of the plan's bags."""
    from botocore.exceptions import ClientError

    step = max(1.0, len(plan.bags) / PROBES_A_DRIVE)
    some = [plan.bags[int(place * step)] for place in range(min(PROBES_A_DRIVE, len(plan.bags)))]
    payer: dict[str, Any] = {"RequestPayer": "requester"} if requester_pays else {}
    refused: list[tuple[str, str]] = []
    first: PlannedBag | None = None
    for bag in some:
        bucket, _, key = bag.uri.removeprefix("s3://").partition("/")
        pace.wait()
        try:
            s3.get_object(Bucket=bucket, Key=key, Range="bytes=0-0", **payer)["Body"].read()
        except ClientError as error:
            if error_code(error) == "InvalidRange":  # it is empty, as the engine will say
                first = first or bag
                continue
            if error_code(error) not in _REFUSED and not error_code(error).startswith("KMS."):
                raise
            refused.append((bag.name, said_by(error)))
        else:
            first = first or bag
    return Probe(len(some), tuple(refused), first)


def option_words(options: ExtractOptions) -> list[str]:
    """The options of a plan that matter to a look, as the engine's command line has them."""
    words = ["--topics", *map(_glob_word, options.include_topics)]
    if options.exclude_topics:
        words += ["--exclude", *map(_glob_word, options.exclude_topics)]
    words += [f"--msg-path={folder}" for folder in options.msg_paths]
    if options.ros_distro:
        words += ["--ros-distro", options.ros_distro]
    return words


def _glob_word(glob: str) -> str:
    """A glob of the same meaning that no command line takes for an option."""
    return f"[-]{glob[1:]}" if glob.startswith("-") else glob


def environment_of(session: boto3.Session, *, requester_pays: bool) -> dict[str, str]:
    """This process' own, with the session's credentials and region."""
    environment = dict(os.environ)
    environment.pop("AWS_PROFILE", None)
    credentials = session.get_credentials()
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        own = {
            "AWS_ACCESS_KEY_ID": frozen.access_key,
            "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
            "AWS_SESSION_TOKEN": frozen.token,
        }
        environment = {name: value for name, value in environment.items() if name not in own}
        environment |= {name: value for name, value in own.items() if value}
    if session.region_name:
        environment |= {"AWS_REGION": session.region_name, "AWS_DEFAULT_REGION": session.region_name}
    if requester_pays:
        environment["ROS_TO_PARQUET_REQUEST_PAYER"] = "requester"
    return environment


def look_into(
    words: Sequence[str],
    uris: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout_s: float = BAG_TIMEOUT_S,
) -> dict[str, Mapping[str, Any]]:
    """What the engine says of each bag, by URI; of one that it ended over, that it did."""
    parts = [uris[first : first + BAGS_A_PROCESS] for first in range(0, len(uris), BAGS_A_PROCESS)]
    found: dict[str, Mapping[str, Any]] = {}
    with ThreadPoolExecutor(PROCESSES, thread_name_prefix="sampling") as pool:
        for part in pool.map(lambda part: dict(_look(words, part, environment, timeout_s)), parts):
            found |= part
    return found


def _look(
    words: Sequence[str], uris: Sequence[str], environment: Mapping[str, str], timeout_s: float
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    left = list(uris)
    while left:
        before = len(left)
        said = ""
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                # After "--" what begins with a dash is a bag.
                [*words, "--", *left],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                text=True,
            )
            try:
                for line in _lines(process, timeout_s):
                    entry = json.loads(line)
                    yield left.pop(0), entry
            except _SilentError:
                said = f"the engine said nothing for {timeout_s:.0f} s"
            finally:
                process.kill()
                process.wait()
            errors.seek(0)
            last = [text for text in errors.read().splitlines() if text.strip()][-1:]
        if left:
            why = said or f"the engine ended with code {process.returncode}"
            if len(left) == before and not said and process.returncode == 2:
                raise SampleError(f"{why}: {''.join(last)}")  # it did not take its words
            yield left.pop(0), {"problem": f"{why}: {''.join(last)[:500]}", "exit_code": process.returncode}


class _SilentError(Exception):
    """A process says nothing for too long."""


def _lines(process: subprocess.Popen[str], timeout_s: float) -> Iterator[str]:
    """What the process prints, a line at a time, until it ends."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=timeout_s)
        except queue.Empty:
            raise _SilentError from None
        if line is None:
            process.wait()
            return
        yield line


def lines_of(samples: Sequence[DriveSample], *, most: int) -> list[str]:
    """For people: a line a drive, its topics, and what is wrong with it."""
    told: list[str] = []
    for sample in samples:
        name = sample.probe.first.name if sample.probe.first else "no bag"
        seconds, size = (sample.bag or {}).get("seconds", 0.0), (sample.bag or {}).get("bytes_read", 0)
        asked = f"{sample.probe.probed} bag{'' if sample.probe.probed == 1 else 's'} asked for"
        told.append(
            f"{sample.drive_id}: {name}: {seconds:.0f} s looked at, {size / 1e6:.1f} MB; {asked}, "
            f"{len(sample.probe.refused)} refused"
        )
        known = [topic for topic in sample.topics if not topic["unknown"]]
        told += [f"    {_topic_line(topic)}" for topic in known[:most]]
        if (more := len(known) - most) > 0:
            told.append(f"    and {more} more topics; --json has all")
        told += [f"    ! {problem}" for problem in sample.problems[:most]]
        if (more := len(sample.problems) - most) > 0:
            told.append(f"    ! and {more} more; --json has all")
    return told


def _topic_line(topic: Mapping[str, Any]) -> str:
    messages = topic["messages"]
    counted = f"{topic['sampled']:,} messages" if messages is None else f"{messages:,} messages in the bag"
    return f"{topic['topic']} ({topic['type_name']}): {counted}"
