"""Adds, shows and ends the faults of an embedded AWS that runs, from whichever process."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_batch_ros.local.faults import Fault, FaultError, S3Fault, checked, from_raw, name_of, to_raw
from airflow_batch_ros.local.state import LocalAwsError, RunningServer

_PATH = "/faults"
_TIMEOUT_S = 30.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the user has


@dataclass(frozen=True, slots=True)
class AddedFault:
    """A fault in force: how many requests, jobs or looks it has met, and how many of these it befell."""

    id: str
    fault: Fault
    met: int
    hits: int


def add(server: RunningServer, faults: Sequence[Fault]) -> list[str]:
    """Puts faults in force; their ids.

    Raises:
        FaultError: one has values that it cannot have.
        LocalAwsError: it is of S3's, and there is no proxy before S3.
    """
    for fault in faults:
        checked(fault)
        if isinstance(fault, S3Fault) and not server.s3_faults:
            raise LocalAwsError(
                f"{name_of(fault)}: this embedded AWS has no proxy before S3; start it with "
                "`airflow-batch-ros local up --s3-faults`, or ServerOptions(s3_faults=True)"
            )
    return [str(each) for each in _ask(server, "POST", content=[to_raw(fault) for fault in faults])]


def shown(server: RunningServer) -> list[AddedFault]:
    """All that are in force, the oldest first."""
    return [
        AddedFault(each["id"], from_raw(each["fault"]), each["met"], each["hits"])
        for each in _ask(server, "GET")
    ]


def end(server: RunningServer, ids: Iterable[str] = ()) -> list[str]:
    """Ends those of these ids, or all where there are none; the ids of what was ended."""
    query = urllib.parse.urlencode([("id", each) for each in ids])
    return [str(each) for each in _ask(server, "DELETE", query=query)]


def _ask(server: RunningServer, method: str, *, content: Any = None, query: str = "") -> Any:
    request = urllib.request.Request(
        f"{server.endpoint_url}{_PATH}{f'?{query}' if query else ''}",
        data=None if content is None else json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    try:
        with _DIRECT.open(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise FaultError(json.load(error)["message"]) from error


class FaultsInForce:
    """Faults that were added together: what `EmbeddedAws.faults` gives."""

    def __init__(self, server: RunningServer, ids: Sequence[str]) -> None:
        self._server = server
        self.ids = tuple(ids)

    def hits(self, place: int | None = None) -> int:
        """How often they have befallen something: all of them, or the one at ``place`` of those given."""
        counted = {each.id: each.hits for each in shown(self._server)}
        wanted = self.ids if place is None else self.ids[place : place + 1]
        return sum(counted[each] for each in wanted)

    def wait(self, hits: int = 1, *, patience_s: float = 60.0) -> None:
        """Block until they have befallen so much.

        Raises:
            TimeoutError: they have not, within ``patience_s``.
        """
        deadline = time.monotonic() + patience_s
        while self.hits() < hits:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.hits()} of {hits} hits after {patience_s:.0f} s")
            time.sleep(0.05)

    def end(self) -> None:
        """End them before their time."""
        if self.ids:
            end(self._server, self.ids)
