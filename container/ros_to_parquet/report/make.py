"""Makes the report of a drive in a lake."""

from __future__ import annotations

from ros_to_parquet.lake import Lake
from ros_to_parquet.log import now
from ros_to_parquet.report import page
from ros_to_parquet.report.clouds import find_clouds
from ros_to_parquet.report.drive import Drive, describe_drive
from ros_to_parquet.report.frame_tree import find_tree
from ros_to_parquet.report.frames import find_frames
from ros_to_parquet.report.rates import measure_rate
from ros_to_parquet.report.series import find_series
from ros_to_parquet.report.tables import Tables
from ros_to_parquet.report.track import find_track


class ReportError(LookupError):
    """There is no such drive in the lake; the message says which there are."""


def make_report(lake: Lake, drive_id: str) -> tuple[Drive, str]:
    """What the manifests say of the drive, and its report as HTML.

    Raises:
        ReportError: the lake has nothing of it.
    """
    drive = describe_drive(lake.drive(drive_id))
    if not drive.shards:
        there = lake.drives()
        names = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        raise ReportError(f"{lake.uri}: no drive {drive_id!r}; there are {names or 'none'}")
    tables, axis = Tables(lake.uri), drive.time_axis()
    return drive, page.render(
        drive,
        axis,
        lake=lake.uri,
        made_at=now(),
        rates=[measure_rate(tables, axis, topic) for topic in drive.topics],
        track=find_track(tables, drive),
        sheet=find_frames(tables, drive),
        clouds=find_clouds(tables, drive),
        series=find_series(tables, drive, axis),
        tree=find_tree(tables, drive),
    )
