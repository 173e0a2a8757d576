"""Which of a run's Batch jobs are still to end; for the trigger and for the sensor's own polls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from airflow_batch_ros.jobs import ENDED, UNKNOWN, count_states, job_state

DEFAULT_UNKNOWN_AFTER_S = 300.0


class Waiting:
    """What is known of each job by the polls so far.

    A job that Batch does not know for ``unknown_after_s`` counts as ended, as `jobs.UNKNOWN`: Batch forgets
    jobs some days after their end, and the manifests say what became of it.

    :param waited_s: how long polls that this object has not seen have been going on.
    """

    def __init__(
        self,
        job_ids: Sequence[str],
        *,
        unknown_after_s: float = DEFAULT_UNKNOWN_AFTER_S,
        waited_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.states: dict[str, str] = dict.fromkeys(job_ids, UNKNOWN)
        self.open: list[str] = list(dict.fromkeys(job_ids))
        self._unknown_after_s = unknown_after_s
        self._clock = clock
        self._last_seen = dict.fromkeys(job_ids, clock() - waited_s)
        # Of each job its shards' states alone: a thousand descriptions are tens of MB.
        self._shards: dict[str, dict[str, int]] = {job_id: {UNKNOWN: 1} for job_id in self.open}
        self._told = ""

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
            self.states[job_id] = job_state(detail)
            if not ended:
                still_open.append(job_id)
        self.open = still_open
        told = f"jobs: {_shown(self.counts)}; shards: {_shown(_sum(self._shards.values()))}"
        if told == self._told:
            return None
        self._told = told
        return told


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        for state, count in part.items():
            counts[state] = counts.get(state, 0) + count
    return counts


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
