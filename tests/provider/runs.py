"""Runs a DAG in this process, and reads from Airflow's database what became of it."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from datetime import datetime
from typing import Any

from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

DATE = "logical_date" if AIRFLOW_V_3_0_PLUS else "execution_date"


def query(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of Airflow's database."""
    path = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database:
        return database.execute(statement, values).fetchall()


def run(
    dag: Any, conf: dict[str, Any] | None = None, *, logical_date: datetime | None = None
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The run's state, its tasks' states, and what they returned."""
    when = {} if logical_date is None else {DATE: logical_date}
    done = dag.test(run_conf=conf, **when)
    states = dict(query("select task_id, state from task_instance where run_id = ?", done.run_id))
    values = query("select task_id, value from xcom where key = 'return_value' and run_id = ?", done.run_id)
    # Airflow 3 keeps JSON in a column of that type: its text is the JSON of a JSON text in some versions.
    returned = {task: _json(_json(value)) for task, value in values}
    return str(getattr(done.state, "value", done.state)), states, returned


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


def asset_events(alias: str, uri: str) -> list[dict[str, Any]]:
    """The extras of the events that an asset had by an alias, in their order."""
    kind = "asset" if AIRFLOW_V_3_0_PLUS else "dataset"
    rows = query(
        f"select event.extra from {kind}_event event join {kind} on {kind}.id = event.{kind}_id "
        f"join {kind}_alias_{kind}_event link on link.event_id = event.id "
        f"join {kind}_alias alias on alias.id = link.alias_id "
        f"where alias.name = ? and {kind}.uri = ? order by event.id",
        alias,
        uri,
    )
    return [json.loads(extra) for (extra,) in rows]
