"""The demo's Airflow: its settings, what it reads back, and the whole of it once for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags import rosbag1
from rosbags.typesys import Stores, get_typestore

from demo import pipeline

ROOT = Path(__file__).parents[2]


def airflow(tmp_path: Path) -> pipeline.LocalAirflow:
    return pipeline.local_airflow(tmp_path / "airflow", dags=ROOT / "dags", aws={"AWS_X": "y"})


def test_nothing_of_the_users_airflow_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT", "s3://production")
    environment = airflow(tmp_path).environment
    assert "AIRFLOW__CORE__EXECUTOR" not in environment
    assert "AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT" not in environment
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/airflow/airflow.db"
    assert environment["AWS_X"] == "y"


def test_the_shown_conf_is_the_conf() -> None:
    conf = {"drives_to_process": {"a": {"bucket": "b", "prefix": "a/"}, "c": {}}, "overwrite": True}
    shown = pipeline.shown_conf(conf)
    assert json.loads(shown) == conf
    assert '    "a": {"bucket": "b", "prefix": "a/"},\n' in shown


LOG = """\
2026-11-21T07:56:55.05Z [error    ] Task failed with exception     [task] loc=task_runner.py:1639
Traceback (most recent call last):
  File "fanout.py", line 100, in submit_all
airflow_batch_ros.fanout.FanoutError: an earlier exception

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "batch.py", line 108, in execute
    raise AirflowFailException(str(error)) from error
airflow.sdk.exceptions.AirflowFailException: 2 drives cannot be run; nothing was submitted:
- drive 'a': no bag
- drive 'b': one recording
  seems to be there twice
2026-11-21T07:56:55.06Z [error    ] XCom not found: ValueError: no
DagRun failed
"""


def test_the_error_is_the_last_exceptions_whole_message(tmp_path: Path) -> None:
    there = airflow(tmp_path)
    there.home.mkdir()
    there.log.write_text(LOG)
    assert pipeline.read_error(there) == (
        "2 drives cannot be run; nothing was submitted:\n- drive 'a': no bag\n- drive 'b': one recording\n"
        "  seems to be there twice"
    )
    there.log.write_text("Killed\n")
    assert pipeline.read_error(there) == "Killed"


def run_demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", "--folder", str(tmp_path / "demo"), *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "140"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_folder_without_bags_is_told_and_fails(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--bags", str(tmp_path))
    assert done.returncode == 1
    assert "no .bag, .mcap or .db3 file" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.airflow
@pytest.mark.slow
def test_the_demo_for_real(tmp_path: Path) -> None:
    """A good drive, and one of which nothing can be read: the run fails, and the demo tells both."""
    bags = tmp_path / "bags"
    (bags / "good").mkdir(parents=True)
    (bags / "bad").mkdir()
    (bags / "bad/noise.bag").write_bytes(b"not a bag at all" * 100)
    (bags / "good/notes.txt").write_text("no bag")
    store = get_typestore(Stores.ROS1_NOETIC)
    text = store.types["std_msgs/msg/String"]
    with rosbag1.Writer(bags / "good/x.bag") as writer:
        connection = writer.add_connection("/said", "std_msgs/msg/String", typestore=store)
        for number in range(7):
            data = store.serialize_ros1(text(f"word {number}"), "std_msgs/msg/String")
            writer.write(connection, 1_000_000_000 + number, data)
    done = run_demo(tmp_path, "--bags", str(bags))
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    (good,) = [line for line in lines if line[:2] == ["good", "succeeded"]]
    assert good[2] == "1"
    assert good[4:9] == ["SUCCEEDED", "1/1", "7", "7", "0"]
    (bad,) = [line for line in lines if line[:2] == ["bad", "failed"] and len(line) > 2]
    assert bad[4] == "FAILED"
    assert "not bags, left out: good/notes.txt" in done.stdout
    assert "bag noise.bag" in done.stdout
    assert "The DAG run failed, as it should: bad" in done.stdout
    assert next(line for line in lines if line[:1] == ["said"])[:5] == [
        "said",
        "std_msgs/String",
        "1",
        "7",
        "0",
    ]
    assert any(line[:2] == ["good", "7"] for line in lines), "the query's result"
    summary = json.loads((tmp_path / "demo/last-run.json").read_text())
    assert {drive["drive_id"]: drive["state"] for drive in summary["drives"]} == {
        "good": "succeeded",
        "bad": "failed",
    }
    assert list((tmp_path / "demo/lake/said").rglob("drive_id=good/*.parquet"))
    page = tmp_path / "demo/lake/_reports/drive_id=good/report.html"
    assert f"{page}" in done.stdout.replace("\n", "")
    assert "7 messages = 7 rows + 0 rejects" in page.read_text()
