"""``docker compose run demo``: generated drives through an Airflow that runs already, by its REST API."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from demo import report, store
from demo.bags import DriveFiles, whole_folder
from demo.drive import make_drives
from demo.steps import Steps

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DAG_ID = "ros_image_pipeline"
WAIT_TASK = "wait"
POLL_S = 1.0
PATIENCE_S = 600.0
WIDTH = 130


class RefusedError(RuntimeError):
    """Airflow did not do what it was asked; the message says what it answered."""


@dataclass
class Airflow:
    """Its REST API, logged in.

    Attributes:
        url: where it answers here.
    """

    url: str
    user: str
    password: str
    _token: str = field(default="", repr=False)

    def login(self) -> None:
        answer = self.call("POST", "/auth/token", {"username": self.user, "password": self.password})
        self._token = str(answer["access_token"])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """JSON of the answer.

        Raises:
            RefusedError: another status than 2xx, or no answer.
        """
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RefusedError(f"{method} {path}: {error.code} {error.read().decode()[:1000]}") from error
        except OSError as error:
            raise RefusedError(f"{method} {self.url}{path}: {error}") from error


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo.airflow",
        description="Uploads generated drives, triggers ros_image_pipeline in an Airflow that runs, waits "
        "and prints what came of it. S3 is that of the environment (AWS_ENDPOINT_URL_S3, ...).",
    )
    parser.add_argument("--airflow", required=True, metavar="URL", help="where Airflow answers")
    parser.add_argument("--shown", metavar="URL", help="where a person finds it (default: likewise)")
    parser.add_argument("--user", default="airflow")
    parser.add_argument("--password", default="airflow")
    parser.add_argument("--bucket", default="drives", help="for the bags (default: %(default)s)")
    parser.add_argument("--lake", default="s3://lake/drives", help="Airflow's output (default: %(default)s)")
    parser.add_argument("--folder", type=Path, required=True, help="where the generated drives are kept")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=max(WIDTH, int(os.environ.get("COLUMNS", "0"))))
    airflow = Airflow(options.airflow, options.user, options.password)
    shown = options.shown or options.airflow
    try:
        state = run(console, airflow, options, shown)
    except RefusedError as error:
        console.print(f"\n[red]✗[/] {escape(str(error))}", soft_wrap=True)
        return 1
    console.print(f"\n[bold]Airflow[/] {shown}  user {options.user}, password {options.password}")
    return 0 if state == "success" else 1


def run(console: Console, airflow: Airflow, options: argparse.Namespace, shown: str) -> str:
    """All steps; the DAG run's state."""
    import boto3

    s3: S3Client = boto3.client("s3")
    steps = Steps(console, 3)
    with steps.step("Drives") as step:
        drives = [whole_folder(folder) for folder in make_drives(options.folder)]
        step.detail = ", ".join(f"{drive.drive_id}: {len(drive.files)} files" for drive in drives)
    with steps.step("Upload to S3", total_bytes=_size(drives)) as step:
        sent = store.upload(s3, options.bucket, drives, progress=step.advance)
        step.detail = f"s3://{options.bucket}/drives/: {sent.moved_bytes / 1e6:.1f} MB"
    conf = store.conf_of(s3, drives, bucket=options.bucket, lake=options.lake)
    with steps.step(f"DAG {DAG_ID}") as step:
        airflow.login()
        runs = f"/api/v2/dags/{DAG_ID}/dagRuns"
        run_id = airflow.call("POST", runs, {"logical_date": None, "conf": conf})["dag_run_id"]
        state = _wait(airflow, f"{runs}/{run_id}")
        step.detail = f"run {run_id}, {state}: {shown}/dags/{DAG_ID}/runs/{run_id}"
    entry = airflow.call("GET", f"{runs}/{run_id}/taskInstances/{WAIT_TASK}/xcomEntries/return_value")
    value = entry["value"]
    summary: Mapping[str, Any] = json.loads(value) if isinstance(value, str) else value
    console.print()
    report.print_summary(console, summary, every=False)
    for uri in report.reports(summary, options.lake):
        console.print(f"report: {uri}", soft_wrap=True)
    return state


def _size(drives: Sequence[DriveFiles]) -> int:
    return sum(file.path.stat().st_size for drive in drives for file in drive.files)


def _wait(airflow: Airflow, path: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        state = str(airflow.call("GET", path)["state"])
        if state in ("success", "failed"):
            return state
        if time.monotonic() > deadline:
            raise RefusedError(f"the DAG run is still {state} after {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
