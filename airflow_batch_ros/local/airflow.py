"""A local Airflow over an embedded AWS: ``airflow standalone``, with a login that is known, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from airflow_batch_ros.local.processes import choose_port, die_with_parent, start_time
from airflow_batch_ros.local.state import LocalAwsError

USER = PASSWORD = "airflow"
DEFAULT_HOME = Path(".local/airflow")
START_PATIENCE_S = 180.0
STOP_PATIENCE_S = 10.0
_HAS_PROC = Path("/proc/self/stat").exists()
_PARTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
_USERS_OWN = ("AIRFLOW_VAR_", "AIRFLOW_CONN_")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the user has


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowOptions:
    """How it runs.

    Attributes:
        home: its ``AIRFLOW_HOME``: database, logs, login.
        dags: the folder of the DAGs.
        port: of the web server; 0 is any free one.
        environment: beside the user's own, of which Airflow's settings and all that names AWS is left out,
            but not ``AIRFLOW_VAR_*`` and ``AIRFLOW_CONN_*``.
    """

    home: Path
    dags: Path
    port: int
    environment: Mapping[str, str]


class LocalAirflow:
    """``airflow standalone`` and all that it starts; a context manager, or `start` and `stop`.

    Raises (on start):
        LocalAwsError: it ended, did not come up, or its port is taken.
    """

    def __init__(self, options: AirflowOptions) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def log(self) -> Path:
        return self._options.home / "standalone.log"

    @property
    def _session(self) -> Path:
        """Which session was started, for the case that this process is killed before it ends it."""
        return self._options.home / "session.json"

    def start(self) -> Self:
        """Return when the web server, scheduler, triggerer and DAG processor are healthy."""
        home = self._options.home
        home.mkdir(parents=True, exist_ok=True)
        self._end_session()
        try:
            port = choose_port(self._options.port, remembered=8080)
        except OSError as error:
            raise LocalAwsError(f"Airflow: {error}") from error
        self.url = f"http://127.0.0.1:{port}"
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({USER: PASSWORD}))
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow_batch_ros.local.standalone"],
                env=self._environment(port, passwords),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        self._process = process
        self._session.write_text(json.dumps({"pid": process.pid, "since": start_time(process.pid)}))
        try:
            self._wait_until_healthy(process)
        except BaseException:
            self.stop()
            raise
        return self

    def wait(self) -> None:
        """Block until it ends by itself.

        Raises:
            LocalAwsError: it did.
        """
        if self._process is not None:
            raise LocalAwsError(f"Airflow ended with exit code {self._process.wait()}: see {self.log}")

    def stop(self) -> None:
        """End all of it: ``standalone`` leaves its children behind when it is ended."""
        self._end_session()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self, port: int, passwords: Path) -> dict[str, str]:
        home = self._options.home
        users = dict(os.environ)
        own = {name: value for name, value in users.items() if name.startswith(_USERS_OWN)}
        others = {name: value for name, value in users.items() if not name.startswith(("AIRFLOW", "AWS_"))}
        settings = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._options.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "10",  # nothing here passes only after minutes
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",  # which goes before the other one where the user has it
        }
        return {**others, **settings, **self._options.environment, **own}

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_PATIENCE_S
        while not self._is_healthy():
            if process.poll() is not None:
                end = self.log.read_text(errors="replace")[-2_000:]
                raise LocalAwsError(f"airflow standalone ended with exit code {process.returncode}:\n{end}")
            if time.monotonic() > deadline:
                raise LocalAwsError(f"Airflow was not up within {START_PATIENCE_S:.0f} s: see {self.log}")
            time.sleep(0.3)

    def _is_healthy(self) -> bool:
        try:
            with _DIRECT.open(f"{self.url}/api/v2/monitor/health", timeout=10) as answer:
                parts = json.load(answer)
        except (OSError, ValueError):
            return False
        return all(parts[part]["status"] == "healthy" for part in _PARTS)

    def _end_session(self) -> None:
        """SIGTERM to every process of the session that was started over this home, then SIGKILL."""
        try:
            leader = json.loads(self._session.read_text())
        except FileNotFoundError:
            return
        pid = leader["pid"]
        ours = start_time(pid) in (None, leader["since"])  # not another one of that number by now
        if ours and (self._process is not None or any(_is_airflow(each) for each in session_members(pid))):
            _end_session(pid)
        self._session.unlink()


def _end_session(session: int) -> None:
    # Without /proc its leader has to end the others, which it does when it is interrupted.
    number = signal.SIGTERM if _HAS_PROC else signal.SIGINT
    deadline = time.monotonic() + STOP_PATIENCE_S
    told: set[int] = set()
    while members := session_members(session):
        if time.monotonic() > deadline:
            if number is signal.SIGKILL:
                return
            number, told, deadline = signal.SIGKILL, set(), deadline + STOP_PATIENCE_S
        for pid in set(members) - told:  # some come while others go
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        told.update(members)
        time.sleep(0.05)


def session_members(session: int) -> list[int]:
    """All live processes that a session's leader has started, however deep, also those it left behind."""
    if not _HAS_PROC:
        return [session] if start_time(session) is not None else []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, member_of, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(member_of) == session and state != "Z":
                found.append(int(entry.name))
    return found


def _is_airflow(pid: int) -> bool:
    try:
        return not _HAS_PROC or b"airflow" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
