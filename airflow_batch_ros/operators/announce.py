"""The operator that tells other DAGs of drives in the lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias, BaseOperator
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_batch_ros.assets import DRIVES_ALIAS, lake_drives

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class RosToParquetAnnounceOperator(BaseOperator):
    """Emits an asset event for each drive that a run has committed to the lake.

    The asset is the lake's URI, under an alias that DAGs can be scheduled on; the event's extra has the
    fields of `airflow_batch_ros.assets.LakeDrive`. It is a task of its own because Airflow drops the events
    of a task that fails, and the sensor fails where one drive of many does.

    :param summary: the return value of `RosToParquetBatchSensor`; without one there is nothing to announce.
    :param asset_alias: name of the alias.
    """

    template_fields: Sequence[str] = ("summary",)
    template_fields_renderers = {"summary": "json"}  # noqa: RUF012
    ui_color = "#f5ead0"

    def __init__(self, *, summary: Any, asset_alias: str = DRIVES_ALIAS, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "outlets": [*kwargs.get("outlets", ()), AssetAlias(asset_alias)]})
        self.summary = summary
        self.asset_alias = asset_alias

    def execute(self, context: Context) -> None:
        if self.summary is None:
            self.log.info("no summary of drives, so none to announce")
            return
        if not AIRFLOW_V_3_0_PLUS:
            _know_alias(self.asset_alias)
        drives = lake_drives(self.summary)
        events = context["outlet_events"][AssetAlias(self.asset_alias)]
        for drive in drives:
            events.add(Asset(drive.output), extra=drive.as_extra())
            report = f", report {drive.report}" if drive.report else ""
            self.log.info("drive %s: %d rows in %s%s", drive.drive_id, drive.rows, drive.output, report)
        self.log.info("announced %d of %d drives", len(drives), len(self.summary["drives"]))


def _know_alias(name: str) -> None:
    """Airflow 2 fails on an alias that its database lacks, as of a DAG that only ``dags test`` has read."""
    from airflow.models.dataset import DatasetAliasModel  # type: ignore[import-not-found]
    from airflow.utils.session import create_session

    with create_session() as session:
        if not session.query(DatasetAliasModel).filter_by(name=name).first():
            session.add(DatasetAliasModel(name=name))
