"""What the demo prints of a run's summary."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from airflow_batch_ros.causes import Cause
from airflow_batch_ros.jobs import DriveJob
from airflow_batch_ros.summary import DriveSummary, FailedShard, as_dict
from demo import report
from ros_to_parquet.contract import CONTRACT_VERSION, DriveManifest, DriveState, Run, TableTotal


def drive(
    drive_id: str,
    state: DriveState,
    *tables: TableTotal,
    problems: tuple[str, ...] = (),
    failed: tuple[FailedShard, ...] = (),
    work: str = "submitted",
    covered: int = 0,
) -> DriveSummary:
    job = DriveJob(
        drive_id=drive_id,
        work=work,
        source=f"s3://bags/drives/{drive_id}/",
        output="s3://lake",
        plan_id="0123456789ab",
        plan_uri="s3://lake/_plans/x",
        job_id=None if work == "nothing" else "aaaabbbb-cccc-dddd-eeee-ffff00001111",
        job_name="x",
        job_queue="q",
        generation=0,
        array_size=0,
        submitted_shards=1,
        shards=1,
        bags=2,
        bag_bytes=10,
        covered=covered,
        ignored=0,
        fail_on=("failed", "partial"),
    )
    result = DriveManifest(
        contract_version=CONTRACT_VERSION,
        plan_id="0123456789ab",
        run=Run("d", "r"),
        drive_id=drive_id,
        state=state,
        shards=0 if failed else 1,
        bags=2,
        unreadable_bags=0,
        damaged_bags=0,
        unverified_bags=0,
        messages=sum(table.messages for table in tables),
        rows=sum(table.rows for table in tables),
        rejected=sum(table.rejected for table in tables),
        bytes_read=50_000_000,
        bytes_written=1000,
        shard_seconds=2.0,
        tables=tables,
        problems=problems,
    )
    state_of_job = None if work == "nothing" else "FAILED" if failed else "SUCCEEDED"
    return DriveSummary(job, state, result, failed, len(failed), state_of_job, 3.0, "s3://lake/_manifests/x/")


def total(name: str, rows: int, rejected: int = 0, kind: str = "sensor_msgs/msg/Imu") -> TableTotal:
    return TableTotal(name, (f"/{name}",), (kind,), rows + rejected, rows, rejected, rows * 10)


def printed(summary: Any, *, every: bool = False, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.print_summary(console, summary, every=every)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line(text: str, start: str) -> list[str]:
    (found,) = [each for each in text.splitlines() if each.strip().startswith(start)]
    return found.split()


def line_text(text: str, start: str) -> str:
    return next(each for each in text.splitlines() if each.strip().startswith(start))


SUMMARY = as_dict(
    [
        drive("drive_1", DriveState.SUCCEEDED, total("imu.data", 1200), total("gps.fix", 30)),
        drive(
            "drive_2",
            DriveState.SUCCEEDED_WITH_REJECTS,
            total("imu.data", 800, 5, "sensor_msgs/Imu"),
            problems=tuple(f"topic /imu/data: [{number}] of 805 messages rejected" for number in range(7)),
        ),
        drive(
            "drive_3",
            DriveState.FAILED,
            failed=(FailedShard(0, Cause.BAG_UNREADABLE, "exit code 65 (nothing could be read)", 65),),
        ),
    ]
)


def test_reports_are_named_where_they_are() -> None:
    assert report.reports(SUMMARY, "lake") == []
    drives = [
        {"output": "s3://b/lake", "report": f"s3://b/lake/_reports/drive_id={n}/report.html"}
        for n in range(9)
    ]
    named = report.reports({"drives": drives}, ".demo/lake")
    assert named[0] == ".demo/lake/_reports/drive_id=0/report.html"
    assert named[report.REPORTS_SHOWN :] == ["… and 3 more"]


def test_every_drive_has_a_line_with_its_counts() -> None:
    text = printed(SUMMARY)
    counted = line_text(text, "drive_1  ").split()
    assert counted[1:6] == ["succeeded", "2", "aaaabbbb", "SUCCEEDED", "1/1"]
    assert counted[6:] == ["1,230", "1,230", "0", "50.0", "25.0"]
    assert line_text(text, "drive_2  ").split()[1:4] == ["succeeded", "with", "rejects"]
    assert line_text(text, "drive_2  ").split()[-5:-2] == ["805", "800", "5"]
    assert line_text(text, "drive_3  ").split()[1:6] == ["failed", "2", "aaaabbbb", "FAILED", "0/1"]
    assert "1 succeeded, 1 succeeded with rejects, 1 failed" in text
    assert line(text, "3 drives")[-5:] == ["2,035", "2,030", "5", "150.0", "25.0"]


def test_a_narrow_console_keeps_every_name_and_count() -> None:
    text = printed(SUMMARY, width=80)
    (row,) = [each for each in text.splitlines() if each.startswith(" drive_1 ")]
    assert row.split() == ["drive_1", "succeeded", "2", "aaaabbbb", "1,230", "1,230", "0", "25.0"]


def test_drives_that_are_not_whole_have_their_reasons() -> None:
    text = printed(SUMMARY)
    assert "shard 0: exit code 65 (nothing could be read)" in text
    assert "topic /imu/data: [3] of 805 messages rejected" in text
    assert "[4] of 805" not in text
    assert "… and 3 more (make demo ALL=1 shows them)" in text
    assert "[6] of 805" in printed(SUMMARY, every=True)


def test_tables_are_merged_over_drives() -> None:
    text = printed(SUMMARY)
    types = ["sensor_msgs/msg/Imu,", "sensor_msgs/Imu"]
    assert line(text, "imu.data") == ["imu.data", *types, "2", "2,000", "5", "0.02"]
    assert line(text, "gps.fix")[-4:] == ["1", "30", "0", "0.00"]
    assert line(text, "2 tables")[-3:] == ["2,030", "5", "0.02"]
    names = [table.name for table in report.merge_tables(SUMMARY)]
    assert names == ["imu.data", "gps.fix"]


def test_many_tables_are_cut_and_their_sum_kept() -> None:
    many = as_dict(
        [drive("d", DriveState.SUCCEEDED, *(total(f"t{number:02}", 100 + number) for number in range(30)))]
    )
    text = printed(many)
    assert "t29" in text
    assert "t05" not in text
    assert line(text, "… and 10 more")[-3:] == ["1,045", "0", "0.01"]
    assert "t05" in printed(many, every=True)
    assert "more" not in printed(many, every=True)


def test_a_drive_with_nothing_new_says_so() -> None:
    text = printed(as_dict([drive("d", DriveState.SUCCEEDED, work="nothing", covered=2)]))
    assert "nothing new" in line_text(text, "d  ")
    assert "2 + 2 known" in line_text(text, "d  ")


def test_names_are_not_taken_for_markup() -> None:
    text = printed(as_dict([drive("d", DriveState.DAMAGED, problems=("bag [bold]x[/].bag: broken",))]))
    assert "bag [bold]x[/].bag: broken" in text


def test_the_sql_runs_over_the_copy(tmp_path: Path) -> None:
    for drive_id, count in (("007", 3), ("drive_1", 5)):
        folder = tmp_path / f"it's/gps.fix/schema=0011aabb/drive_id={drive_id}"
        folder.mkdir(parents=True)
        times = pa.array(range(count), pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"log_time": times, f"only_{count}": times}), folder / "a.parquet")
    query = report.queries("gps.fix", ["007"], "it's")
    columns, rows = report.run_sql(query.sql, at=tmp_path)
    assert columns == ["drive_id", "rows", "first", "last"]
    assert [row[:2] for row in rows] == [("drive_1", 5), ("007", 3)]


def test_the_query_is_of_the_imu_or_the_largest_table() -> None:
    largest = report.LakeTable("big", (), 1, 99, 0, 0)
    imu = report.LakeTable("imu.data", (), 1, 5, 0, 0)
    empty = report.LakeTable("empty", (), 1, 0, 0, 0)
    assert report.choose_table([largest, imu, empty]) is imu
    assert report.choose_table([largest, empty]) is largest
    assert report.choose_table([empty]) is None
    assert "angular_velocity.z" in report.queries("imu.data", [], "lake").sql
