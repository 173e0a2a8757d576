"""Which of a run's Batch jobs are still to end; for the trigger and for the sensor's own polls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_batch_ros.jobs import ENDED, UNKNOWN, DriveJob, count_states, job_state

DEFAULT_UNKNOWN_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Amount:
    """How much the jobs of a run have to do, so that a wait can say how far they are.

    Attributes:
        shards: that the jobs run; 0 where that is not known.
        shards_before: that were done before these jobs.
        bag_bytes: stored bytes of the bags that the jobs read.
    """

    shards: int = 0
    shards_before: int = 0
    bag_bytes: int = 0


def amount_of(jobs: Iterable[DriveJob]) -> Amount:
    """A part of a plan's shards is taken to have as large a part of its bytes: they are of about one size."""
    shards = before = bag_bytes = 0
    for job in jobs:
        runs = (job.array_size or 1) if job.job_id else 0
        shards += runs
        before += max(0, job.shards - runs)
        bag_bytes += job.bag_bytes * min(runs, job.shards) // max(1, job.shards)
    return Amount(shards, before, bag_bytes)


class Waiting:
    """What is known of each job by the polls so far.

    A job that Batch does not know for ``unknown_after_s`` counts as ended, as `jobs.UNKNOWN`: Batch forgets
    jobs some days after their end, and the manifests say what became of it.

    :param waited_s: how long polls that this object has not seen have been going on.
    :param runnable_timeout_s: a job that is RUNNABLE for so long is stuck: see `take_stuck`. None for never.
    :param amount: what the jobs have to do; with it the news say how far they are.
    :param now: seconds since 1970, as Batch's times are.
    """

    def __init__(
        self,
        job_ids: Sequence[str],
        *,
        unknown_after_s: float = DEFAULT_UNKNOWN_AFTER_S,
        waited_s: float = 0.0,
        runnable_timeout_s: float | None = None,
        amount: Amount = Amount(),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.states: dict[str, str] = dict.fromkeys(job_ids, UNKNOWN)
        self.open: list[str] = list(dict.fromkeys(job_ids))
        self._unknown_after_s = unknown_after_s
        self._clock = clock
        self._last_seen = dict.fromkeys(job_ids, clock() - waited_s)
        # Of each job its shards' states alone: a thousand descriptions are tens of MB.
        self._shards: dict[str, dict[str, int]] = {job_id: {UNKNOWN: 1} for job_id in self.open}
        self._told = ""
        self._amount = amount
        self._times: dict[str, tuple[float, float | None]] = {}
        self._begun_s = 0.0
        self._runnable_timeout_s = runnable_timeout_s
        self._now = now
        self._runnable_since: dict[str, float] = {}
        self._stuck: dict[str, float] = {}
        self._taken: set[str] = set()

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in which state."""
        return dict(Counter(self.states.values()))

    def update(self, details: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Takes a poll of the `open` jobs; a line on how things stand if that has changed."""
        now = self._clock()
        still_open = []
        for job_id in self.open:
            detail = details.get(job_id)
            if detail is None:
                ended = now - self._last_seen[job_id] >= self._unknown_after_s
            else:
                self._shards[job_id] = count_states([detail])
                self._last_seen[job_id] = now
                ended = job_state(detail) in ENDED
                self._note_times(job_id, detail)
                self._watch_runnable(job_id, detail, now)
            self.states[job_id] = job_state(detail)
            if not ended:
                still_open.append(job_id)
        self.open = still_open
        shards = _sum(self._shards.values())
        told = f"jobs: {_shown(self.counts)}; shards: {_shown(shards)}"
        if told == self._told:
            return None
        self._told = told
        return told + self._how_far(shards)

    def _how_far(self, shards: Mapping[str, int]) -> str:
        """How many shards are done of all; from the first that has ended, how fast that goes.

        Speed and time left are by the jobs' own times, so that they do not depend on who polls since when;
        and not by jobs that had ended before any that was waited for last was submitted: of an earlier try.
        """
        amount = self._amount
        if not amount.shards:
            return ""
        total = amount.shards_before + amount.shards
        said = f"; {amount.shards_before + shards.get('SUCCEEDED', 0):,} of {total:,} shards done"
        left = amount.shards - sum(shards.get(state, 0) for state in ENDED)
        begun = [self._times[job_id][0] for job_id in self.open if job_id in self._times]
        self._begun_s = min(begun, default=self._begun_s)
        times = {
            job_id: created_s
            for job_id, (created_s, stopped_s) in self._times.items()
            if stopped_s is None or stopped_s >= self._begun_s
        }
        elapsed_s = self._now() - min(times.values(), default=self._now())
        if elapsed_s <= 0:
            return said
        shards = _sum(self._shards[job_id] for job_id in times)
        done, ended = shards.get("SUCCEEDED", 0), sum(shards.get(state, 0) for state in ENDED)
        if done and amount.bag_bytes:
            said += f", {amount.bag_bytes * done / amount.shards / elapsed_s / 1e6:,.1f} MB/s"
        if ended and left > 0:
            said += f", {in_words(left * elapsed_s / ended)} left"
        return said

    def _note_times(self, job_id: str, detail: Mapping[str, Any]) -> None:
        if created_ms := detail.get("createdAt"):
            stopped_ms = detail.get("stoppedAt")
            self._times[job_id] = (created_ms / 1000, stopped_ms / 1000 if stopped_ms else None)

    def take_stuck(self) -> list[tuple[str, float]]:
        """Jobs that are stuck, with the seconds since they became RUNNABLE; each is given once.

        An array is RUNNABLE while a child of it is, and none starts or runs. A job that has never run counts
        from its submission, by Batch's clock, so that it does not matter who has polled since.
        """
        found = [(job_id, seconds) for job_id, seconds in self._stuck.items() if job_id not in self._taken]
        self._taken.update(job_id for job_id, _ in found)
        return found

    def give_back(self, job_ids: Iterable[str]) -> None:
        """Jobs of which `take_stuck` is to tell again."""
        self._taken.difference_update(job_ids)

    def _watch_runnable(self, job_id: str, detail: Mapping[str, Any], now: float) -> None:
        if self._runnable_timeout_s is None:
            return
        children = (detail.get("arrayProperties") or {}).get("statusSummary") or {job_state(detail): 1}
        if not children.get("RUNNABLE") or children.get("STARTING") or children.get("RUNNING"):
            self._runnable_since.pop(job_id, None)
            self._stuck.pop(job_id, None)
            return
        if job_id not in self._runnable_since:
            has_run = any(children.get(state) for state in ENDED) or detail.get("attempts")
            submitted_s = (detail.get("createdAt") or 0) / 1000
            age_s = 0.0 if has_run or not submitted_s else max(0.0, self._now() - submitted_s)
            self._runnable_since[job_id] = now - age_s
        seconds = now - self._runnable_since[job_id]
        if seconds >= self._runnable_timeout_s:
            self._stuck[job_id] = seconds


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        for state, count in part.items():
            counts[state] = counts.get(state, 0) + count
    return counts


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def in_words(seconds: float) -> str:
    """A time that is an estimate.

    >>> in_words(48), in_words(700), in_words(9000)
    ('about 48 s', 'about 12 min', 'about 2.5 h')
    """
    if seconds < 90:
        return f"about {max(1.0, seconds):.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
