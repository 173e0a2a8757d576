"""A local Airflow, and one run of the DAG in it as ``airflow dags test`` does it: for real, in a process."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_batch_ros.local.processes import die_with_parent

DAG_ID = "ros_image_pipeline"
SENSOR_TASK = "wait"


class AirflowError(RuntimeError):
    """Airflow itself did not do what was asked; the message says where to look."""


@dataclass(frozen=True, slots=True)
class LocalAirflow:
    """An ``AIRFLOW_HOME`` with a SQLite database, whose DAGs are the repository's.

    Attributes:
        environment: for its processes, the embedded AWS's connection included.
    """

    home: Path
    environment: Mapping[str, str]

    @property
    def database(self) -> Path:
        return self.home / "airflow.db"

    @property
    def log(self) -> Path:
        """Everything that the last run said."""
        return self.home / "last-run.log"


def local_airflow(home: Path, *, dags: Path, aws: Mapping[str, str]) -> LocalAirflow:
    """Settings of a quiet Airflow in ``home``; nothing is made yet."""
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        # Nothing here passes only after minutes.
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_COLOR": "1",
        "PYTHONWARNINGS": "ignore",
        # So that messages are not broken into lines: they are looked for in the log.
        "COLUMNS": "1000",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return LocalAirflow(home, {**others, **aws, **settings})


def prepare(airflow: LocalAirflow) -> bool:
    """Make the database, unless this version of Airflow has made it already; whether it had to.

    Raises:
        AirflowError: ``airflow db migrate`` failed.
    """
    from importlib.metadata import version

    stamp, wanted = airflow.home / ".migrated", version("apache-airflow")
    if airflow.database.exists() and stamp.exists() and stamp.read_text() == wanted:
        return False
    airflow.home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*_airflow(), "db", "migrate"],
        env=dict(airflow.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise AirflowError(f"airflow db migrate failed:\n{done.stdout[-3000:]}")
    stamp.write_text(wanted)
    return True


def _airflow() -> list[str]:
    """The ``airflow`` of this very environment."""
    return [sys.executable, "-m", "airflow"]


def shown_conf(conf: Mapping[str, Any]) -> str:
    """The conf as JSON to read: a line a drive."""
    lines = []
    for key, value in conf.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"    {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items())
            lines.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def start_run(airflow: LocalAirflow, conf: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start a DAG run; what it says goes to `LocalAirflow.log`."""
    with airflow.log.open("wb") as log:
        return subprocess.Popen(
            [*_airflow(), "dags", "test", DAG_ID, "--conf", json.dumps(conf)],
            env=dict(airflow.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the demo: Airflow would take it for a task that failed and is to be tried again.
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )


def end(run: subprocess.Popen[bytes]) -> None:
    """End the run's process, where it still runs."""
    if run.poll() is None:
        run.terminate()
        try:
            run.wait(3)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: the DAG run's: ``success`` or ``failed``.
        summary: the sensor's return value; None where the run did not get that far.
    """

    run_id: str
    state: str
    summary: dict[str, Any] | None


def last_run(airflow: LocalAirflow) -> int:
    """Number of the newest DAG run in the database; 0 where there is none."""
    with closing(sqlite3.connect(airflow.database)) as database:
        (number,) = database.execute("SELECT coalesce(max(id), 0) FROM dag_run").fetchone()
    return int(number)


def read_outcome(airflow: LocalAirflow, *, after: int) -> Outcome | None:
    """The run that was started after run number ``after``; None where none came to be."""
    with closing(sqlite3.connect(airflow.database)) as database:
        run = database.execute(
            "SELECT run_id, state FROM dag_run WHERE dag_id = ? AND id > ? ORDER BY id DESC LIMIT 1",
            (DAG_ID, after),
        ).fetchone()
        if run is None:
            return None
        value = database.execute(
            "SELECT value FROM xcom WHERE dag_id = ? AND run_id = ? AND task_id = ? AND key = 'return_value'",
            (DAG_ID, run[0], SENSOR_TASK),
        ).fetchone()
    return Outcome(run[0], run[1], _decoded(value[0]) if value else None)


def _decoded(value: Any) -> Any:
    """A value as Airflow's JSON column holds it: JSON, in which the value may again be JSON."""
    while isinstance(value, str | bytes):
        value = json.loads(value)
    return value


_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Exception|Error): (.*)$")
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT|^Traceback |^$")


def read_error(airflow: LocalAirflow) -> str:
    """What the run's log says went wrong: the last exception's message, else the log's end."""
    lines = airflow.log.read_text(errors="replace").splitlines()
    for place in range(len(lines) - 1, -1, -1):
        if found := _ERROR.match(lines[place]):
            rest = itertools.takewhile(lambda line: not _LOG_LINE.match(line), lines[place + 1 :])
            return "\n".join([found[1], *rest])
    return "\n".join(lines[-15:]) or "it said nothing"
