"""Goes on from drives as soon as they are in the lake, whichever DAG brought them: one task a drive.

It is scheduled on the alias of all drives' events, or on one lake's where `ROS_TO_PARQUET_LAKE` in the
environment is its URI: Airflow 2.11 and 3.0 do not hand over the first event of a lake by the alias.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Asset, AssetAlias, task

from airflow_batch_ros.assets import DRIVES_ALIAS, triggering_drives

LAKE = os.environ.get("ROS_TO_PARQUET_LAKE")

with DAG(
    dag_id="example_drives_in_lake",
    schedule=[Asset(LAKE) if LAKE else AssetAlias(DRIVES_ALIAS)],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["ros", "example"],
    doc_md=__doc__,
) as dag:

    @task
    def drives(**context: Any) -> list[dict[str, Any]]:
        """What started this run: the drives announced since the last one."""
        return [drive.as_dict() for drive in triggering_drives(context)]

    @task(multiple_outputs=False)
    def look_at(drive: dict[str, Any]) -> dict[str, list[str]]:
        """Each table's columns, where the engine is installed; its rows go to the log."""
        print(f"drive {drive['drive_id']}: {drive['state']}, {drive['rows']} rows in {drive['output']}")
        for table, rows in drive["tables"].items():
            print(f"  {table}: {rows} rows")
        if find_spec("pyarrow") is None:
            print("to read the tables themselves: pip install 'ros-to-parquet[engine]'")
            return {}

        import ros_to_parquet

        lake = ros_to_parquet.open(drive["output"])
        tables = {table: lake.dataset(table, drives=[drive["drive_id"]]) for table in drive["tables"]}
        return {table: dataset.schema.names for table, dataset in tables.items()}

    look_at.expand(drive=drives())
