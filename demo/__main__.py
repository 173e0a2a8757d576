"""``make demo``: drives of ROS bags become Parquet through Airflow and AWS Batch, all on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from airflow_batch_ros.jobs import count_states, describe
from airflow_batch_ros.local import JOB_QUEUE, EmbeddedAws, LocalAwsError
from demo import pipeline, report, store
from demo.bags import DriveFiles, NoBagsError, group, whole_folder
from demo.drive import make_drives
from demo.steps import Step, Steps

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[1]
BAGS_BUCKET, LAKE_BUCKET = "bags", "lake"
OUTPUT = f"s3://{LAKE_BUCKET}"
POLL_S = 0.5
SILENCE_S = 60.0
"""A machine that has too much to do answers late; after so long the server is taken to be gone."""
NARROWEST = 130
"""Columns that the tables need; taken where there is no terminal to ask."""


class DemoError(RuntimeError):
    """The pipeline broke; the message says how."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line.

    Attributes:
        bags: a folder of drives, or one bag; None generates drives.
        every: print all tables and reasons.
        folder: where everything is kept.
    """

    bags: Path | None
    every: bool
    folder: Path


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Runs the DAG ros_image_pipeline for real over drives of ROS bags, on an embedded AWS.",
    )
    parser.add_argument(
        "--bags",
        type=Path,
        help="a folder, each of its sub-folders a drive, or one bag; without it two drives are generated",
    )
    parser.add_argument("--all", action="store_true", help="print every table and every reason")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".demo", help="where everything is kept (default: .demo)"
    )
    parsed = parser.parse_args(arguments)
    return Options(parsed.bags, parsed.all, parsed.folder.resolve())


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, NARROWEST))
    try:
        run_demo(options, console)
    except (NoBagsError, LocalAwsError, pipeline.AirflowError, DemoError) as error:
        console.print(f"\n[red]✗[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\n[red]✗[/] stopped; what was started has been ended")
        return 130
    return 0


def run_demo(options: Options, console: Console) -> None:
    """All steps. It returns where every drive has ended in a state, whichever.

    Raises:
        NoBagsError, LocalAwsError, AirflowError, DemoError: it did not get that far.
    """
    started = time.monotonic()
    options.folder.mkdir(parents=True, exist_ok=True)
    steps = Steps(console, 6)
    drives = take_drives(options, console, steps)
    with steps.step("Embedded AWS") as step:
        aws = EmbeddedAws(options.folder / "aws", buckets=(BAGS_BUCKET, LAKE_BUCKET)).start()
        server = aws.server
        step.detail = f"S3 at {server.s3_endpoint_url}, Batch at {server.endpoint_url}, {server.slots} slots"
    try:
        run_pipeline(options, console, steps, drives, aws)
        s3_url = server.s3_endpoint_url
    finally:
        aws.stop()
    seconds = time.monotonic() - started
    console.print(
        f"\n[dim]{seconds:.1f} s in all. The servers are stopped; S3 keeps its data in "
        f"{shown_path(options.folder / 'aws')} and will be at {s3_url} again.[/]"
    )


def take_drives(options: Options, console: Console, steps: Steps) -> list[DriveFiles]:
    """The drives to process: those of ``--bags``, or the generated ones."""
    with steps.step("Drives") as step:
        if options.bags is None:
            made: list[str] = []

            def on_file(name: str, size: int) -> None:
                made.append(name)
                step.now(f"{name}, {size / 1e6:.1f} MB")

            folders = make_drives(options.folder / "drives", on_file=on_file)
            drives = [whole_folder(folder) for folder in folders]
            notes: tuple[str, ...] = ()
            how = "generated" if made else "generated before"
        else:
            grouping = group(options.bags)
            drives, notes = list(grouping.drives), grouping.notes
            if grouping.not_bags:
                notes += (f"not bags, left out: {_some(grouping.not_bags)}",)
            how = f"from {options.bags}"
        files = [file for drive in drives for file in drive.files]
        size = sum(file.path.stat().st_size for file in files)
        step.detail = f"{_count(drives, 'drive')}, {_count(files, 'file')}, {size / 1e6:.1f} MB, {how}"
    for note in notes:
        console.print(Padding(f"[yellow]·[/] {escape(note)}", (0, 0, 0, 4)))
    return drives


def run_pipeline(
    options: Options, console: Console, steps: Steps, drives: Sequence[DriveFiles], aws: EmbeddedAws
) -> None:
    """Upload, DAG run and local copy; then what became of it."""
    s3: S3Client = aws.client("s3")
    total = sum(file.path.stat().st_size for drive in drives for file in drive.files)
    with steps.step("Upload to S3", total_bytes=total) as step:
        sent = store.upload(s3, BAGS_BUCKET, drives, progress=step.advance)
        step.detail = f"s3://{BAGS_BUCKET}/drives/: {_told(sent, step.seconds)}"
    with steps.step("Airflow") as step:
        variables = {"AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT": OUTPUT}
        airflow = pipeline.local_airflow(
            options.folder / "airflow", dags=ROOT / "dags", aws={**aws.environment(), **variables}
        )
        made = pipeline.prepare(airflow)
        step.detail = f"{shown_path(airflow.home)}, SQLite" + ("" if made else ", as it was")
    if aws.owned:
        # Leases of runs that were killed: no job of theirs can be alive, for jobs end with the servers.
        store.remove(s3, LAKE_BUCKET, "_leases/")
    conf = store.conf_of(s3, drives, bucket=BAGS_BUCKET, lake=OUTPUT)
    print_conf(console, conf, shown_path(airflow.home))
    with steps.step(f"DAG {pipeline.DAG_ID}") as step:
        outcome = follow_run(airflow, conf, aws.client("batch"), step)
        step.detail = f"run {outcome.run_id}, state {outcome.state}"
    if outcome.summary is None:
        raise DemoError(
            f"the DAG run {outcome.state} before there was a summary:\n{pipeline.read_error(airflow)}\n"
            f"Everything that it said is in {shown_path(airflow.log)}"
        )
    lake = options.folder / "lake"
    with steps.step("Local copy", total_bytes=store.stored_bytes(s3, LAKE_BUCKET, "")) as step:
        copied = store.download(s3, LAKE_BUCKET, "", lake, progress=step.advance)
        step.detail = f"{shown_path(lake)}: {_told(copied, step.seconds)}"
    written = options.folder / "last-run.json"
    written.write_text(json.dumps(outcome.summary, indent=1))
    console.print()
    tables = report.print_summary(console, outcome.summary, every=options.every)
    _print_state(console, outcome, written)
    print_lake(console, lake, outcome.summary, tables, aws.server.s3_endpoint_url)


def print_conf(console: Console, conf: dict[str, Any], airflow_home: str) -> None:
    """The conf, what is said in it, and the command that does the same."""
    console.print("\n[bold]Conf[/]", soft_wrap=True)
    console.print(escape(pipeline.shown_conf(conf)), soft_wrap=True)
    if conf.get("overwrite"):
        console.print(
            "[dim]The lake has drives of these from an earlier run, of which a plain conf would find nothing "
            'new: "overwrite" has them done again and replaced.[/]'
        )
    if conf.get("recursive"):
        console.print('[dim]Bags lie deeper than directly below a prefix: "recursive" finds them.[/]')
    console.print(
        f"[dim]As {airflow_home} does it: airflow dags test {pipeline.DAG_ID} --conf '<the conf>'[/]\n",
        soft_wrap=True,
    )


def follow_run(
    airflow: pipeline.LocalAirflow, conf: dict[str, Any], batch: BatchClient, step: Step
) -> pipeline.Outcome:
    """Run the DAG; say where its Batch jobs are until it has ended."""
    before = pipeline.last_run(airflow)
    begun_ms = time.time() * 1000
    run = pipeline.start_run(airflow, conf)
    answered = time.monotonic()
    try:
        while run.poll() is None:
            time.sleep(POLL_S)
            try:
                step.now(_jobs_now(batch, begun_ms))
                answered = time.monotonic()
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() - answered > SILENCE_S:
                    raise DemoError(f"Batch has not answered for {SILENCE_S:.0f} s: {error}") from error
    finally:
        pipeline.end(run)
    outcome = pipeline.read_outcome(airflow, after=before)
    if outcome is None:
        raise DemoError(
            f"no DAG run came to be (exit code {run.returncode}):\n{pipeline.read_error(airflow)}\n"
            f"Everything that it said is in {shown_path(airflow.log)}"
        )
    return outcome


def _jobs_now(batch: BatchClient, begun_ms: float) -> str:
    """How many jobs (an array's children each) are in which state."""
    found = batch.get_paginator("list_jobs").paginate(
        jobQueue=JOB_QUEUE, filters=[{"name": "AFTER_CREATED_AT", "values": [str(int(begun_ms))]}]
    )
    ids = [job["jobId"] for page in found for job in page["jobSummaryList"]]
    counts = count_states(describe(batch, ids).values())
    states = [f"{counts[state]} {state}" for state in _STATES if state in counts]
    return ", ".join(states) or "planning"


_STATES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")


def _print_state(console: Console, outcome: pipeline.Outcome, written: Path) -> None:
    assert outcome.summary is not None
    failed = [drive["drive_id"] for drive in outcome.summary["drives"] if drive["failed"]]
    console.print()
    if failed:
        console.print(
            f"[bold]The DAG run {outcome.state}[/], as it should: {_some(failed)} ended in a state that "
            "fails a run (conf fail_on; by default failed and partial). The other drives are in the lake."
        )
    else:
        console.print(f"[bold]The DAG run: {outcome.state}.[/] No drive failed it.")
    console.print(f"[dim]The summary, as the sensor returned it: {shown_path(written)}[/]", soft_wrap=True)


def print_lake(
    console: Console, lake: Path, summary: report.Summary, tables: Sequence[report.LakeTable], endpoint: str
) -> None:
    """Where the Parquet is and the drives' reports, and two queries that have been run."""
    console.print("\n[bold]Parquet[/]")
    console.print(
        f"{OUTPUT}/{{table}}/schema=…/drive_id={{drive}}/*.parquet  (S3 endpoint {endpoint})", soft_wrap=True
    )
    console.print(
        f"{shown_path(lake)}/  the same, copied here: it can be queried with no server running",
        soft_wrap=True,
    )
    if reports := report.reports(summary, shown_path(lake)):
        console.print("\n[bold]Reports[/]  a page a drive, to open in a browser")
        for path in reports:
            console.print(escape(path), soft_wrap=True)
    table = report.choose_table(tables)
    if table is None:
        console.print("No table has a row.")
        return
    drives = [
        drive["drive_id"]
        for drive in summary["drives"]
        if any(each["table"] == table.name and each["rows"] for each in drive["tables"])
    ]
    queries = report.queries(table.name, drives, shown_path(lake))
    console.print("\n[bold]DuckDB[/] (duckdb.sql), over every drive in the lake")
    console.print(escape(queries.sql), soft_wrap=True)
    console.print(report.result_table(*report.run_sql(queries.sql, at=Path.cwd())))
    console.print("\n[bold]pyarrow[/]")
    console.print(escape(queries.python), soft_wrap=True)
    console.print(f"[dim]{escape(report.run_python(table.name, drives, lake))}[/]")


def shown_path(path: Path) -> str:
    """``path`` from where the person is, where it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _told(done: store.Transfer, seconds: float) -> str:
    said = []
    if done.moved:
        speed = done.moved_bytes / 1e6 / max(seconds, 1e-3)
        said.append(f"{done.moved} files, {done.moved_bytes / 1e6:.1f} MB, {speed:.0f} MB/s")
    if done.same:
        said.append(f"{done.same} were there")
    if done.removed:
        said.append(f"{done.removed} old ones removed")
    return "; ".join(said) or "nothing to do"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
