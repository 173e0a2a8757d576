"""Makes the report of a drive in a lake."""

from __future__ import annotations

from ros_to_parquet import contract, finish
from ros_to_parquet.lake import Lake, list_commits
from ros_to_parquet.log import now
from ros_to_parquet.report import page
from ros_to_parquet.report.clouds import find_clouds
from ros_to_parquet.report.cost import find_cost
from ros_to_parquet.report.drive import Drive, describe_drive
from ros_to_parquet.report.frame_tree import find_tree
from ros_to_parquet.report.frames import find_frames
from ros_to_parquet.report.rates import measure_rate
from ros_to_parquet.report.series import find_series
from ros_to_parquet.report.tables import Tables
from ros_to_parquet.report.track import find_track
from ros_to_parquet.storage import join

_TRIES = 3


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
        cost=find_cost(drive.shards),
    )


def write_report(about: finish.Drive) -> str:
    """Makes a drive's report as a finishing step; its path, relative to the lake.

    Raises:
        StepError: the drive is gone.
    """
    path = contract.report_key(about.drive_id)
    for _ in range(_TRIES):
        commits = list_commits(about.storage, about.output, about.drive_id)
        try:
            _, page = make_report(Lake(about.output), about.drive_id)
        except ReportError as error:
            raise finish.StepError(str(error)) from error
        about.storage.write(join(about.output, path), page.encode())
        # Another run may have committed meanwhile, and written its report before this older one.
        if list_commits(about.storage, about.output, about.drive_id) == commits:
            break
    return path
