"""Drives as Airflow's assets: the events of those that a run brought into the lake, and what DAGs read back.

The asset is the lake, by its URI, with an event a drive. (An asset a drive would leave Airflow with a row for
each drive ever recorded, all of which it looks through for every DAG that is scheduled on the alias.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from airflow_batch_ros.jobs import Work
from ros_to_parquet.contract import DriveState

DRIVES_ALIAS = "ros_to_parquet_drives"
"""Name of the asset alias that DAGs which go on from drives are scheduled on."""

WHOLE = (DriveState.SUCCEEDED, DriveState.SUCCEEDED_WITH_REJECTS, DriveState.DAMAGED)
"""States of a drive whose rows are committed to the lake."""


@dataclass(frozen=True, slots=True)
class LakeDrive:
    """A drive that a run has committed to the lake. The numbers are of that run's bags.

    Attributes:
        state: ``succeeded``, ``succeeded_with_rejects`` or ``damaged``.
        source: S3 URI of the bags' folder.
        output: S3 URI of the lake.
        plan_id: of the run's plan for the drive; the same if an event comes twice.
        manifest: S3 URI of the drive's manifest.
        tables: rows by table, of those that have any and that the summary lists (`summary.MAX_TABLES`).
        bytes_read, bytes_written: of bags, and of Parquet.
        report: S3 URI of the drive's report; empty where there is none (yet).
        console_url: the page of its Batch job; empty where there was no job or no console is known.
    """

    drive_id: str
    state: str
    source: str
    output: str
    plan_id: str
    manifest: str
    bags: int
    messages: int
    rows: int
    rejected: int
    tables: Mapping[str, int]
    bytes_read: int = 0
    bytes_written: int = 0
    report: str = ""
    console_url: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "tables": dict(self.tables)}

    def as_extra(self) -> dict[str, Any]:
        """The event's extra; ``tables`` is JSON text, since Airflow before 3.1 fails on values with parts."""
        return {**asdict(self), "tables": json.dumps(dict(self.tables))}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> LakeDrive:
        """Raises `KeyError` for an extra that `as_extra` did not make; one of an older release lacks some."""
        values = {
            each.name: extra[each.name]
            for each in fields(cls)
            if each.default is MISSING or each.name in extra
        }
        return cls(**{**values, "tables": json.loads(values["tables"])})


def lake_drives(summary: Mapping[str, Any]) -> list[LakeDrive]:
    """The drives of a sensor's summary that its run has committed, but for those that the run fails on.

    A drive of which there was nothing to do is not among them.
    """
    return [
        LakeDrive(
            drive_id=drive["drive_id"],
            state=drive["state"],
            source=drive["source"],
            output=drive["output"],
            plan_id=drive["plan_id"],
            manifest=drive["manifest"],
            bags=drive["bags"],
            messages=drive["messages"],
            rows=drive["rows"],
            rejected=drive["rejected"],
            tables={table["table"]: table["rows"] for table in drive["tables"] if table["rows"]},
            bytes_read=drive.get("bytes_read", 0),
            bytes_written=drive.get("bytes_written", 0),
            report=drive.get("report") or "",
            console_url=drive.get("console_url") or "",
        )
        for drive in summary["drives"]
        if drive["state"] in WHOLE and not drive["failed"] and drive["work"] != Work.NOTHING
    ]


def triggering_drives(context: Any) -> list[LakeDrive]:
    """The drives whose events started this DAG run, each once.

    ``context`` is the task's. A run that was started by hand has none.
    """
    found: dict[tuple[str, str, str], LakeDrive] = {}
    for extra in _triggering_extras(context):
        if "plan_id" in extra:
            drive = LakeDrive.from_extra(extra)
            found[drive.output, drive.drive_id, drive.plan_id] = drive
    return list(found.values())


def arrived_drives(context: Any) -> dict[str, dict[str, str]]:
    """``drives_to_process`` of the `NewDrivesTrigger` events that started this DAG run."""
    found: dict[str, dict[str, str]] = {}
    for extra in _triggering_extras(context):
        found |= (extra.get("payload") or {}).get("drives_to_process", {})
    return found


def _triggering_extras(context: Any) -> Iterator[Mapping[str, Any]]:
    """Some of them twice: Airflow 3 gives an alias' events by the alias and by the asset."""
    events = context.get("triggering_asset_events") or context.get("triggering_dataset_events") or {}
    for of_one in events.values():
        for event in of_one:
            yield event.extra or {}
