"""Runs whose planning is a Batch job too: asked for by a person, by a schedule, by an object in S3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros import jobs, lease, planning, runs
from airflow_batch_ros.arrivals import drive_below
from airflow_batch_ros.conf import DRIVES_TO_PROCESS_SCHEMA, ConfError, parse_conf
from airflow_batch_ros.jobs import LIVE, SubmitOptions, describe
from ros_to_parquet.contract import Run
from tests.provider.bags import MESSAGES, ros1_bag
from tests.provider.builders import put
from tests.provider.test_commands import Shell, until
from tests.provider.test_commands import shell as shell
from tests.provider.test_fanout import SMALL
from tests.provider.waiting import QUEUE, wait_for_end

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

PLANNER = "ros-to-parquet-plan"


@pytest.fixture(scope="session")
def started_by_rules(batch: BatchClient) -> str:
    """A definition whose jobs are told by parameters what started them, as the stack's rules do."""
    batch.register_job_definition(
        jobDefinitionName="test-started-by-rules",
        type="container",
        containerProperties={
            "image": "ros-to-parquet",
            "command": ["submit", "--run-id", "Ref::run", "Ref::said", "Ref::uri"],
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}],
        },
        retryStrategy={"attempts": 1},
    )
    return "test-started-by-rules"


def start(shell: Shell, definition: str, run_id: str, said: str, uri: str, **environment: str) -> str:
    """As EventBridge does it; the planning job's id."""
    own = {"AIRFLOW_BATCH_ROS_OUTPUT": shell.output, "AIRFLOW_BATCH_ROS_JOB_DEFINITION": "test-good"}
    variables = [{"name": name, "value": value} for name, value in (own | environment).items()]
    submitted = shell.batch.submit_job(
        jobName="started",
        jobQueue=QUEUE,
        jobDefinition=definition,
        parameters={"run": run_id, "said": said, "uri": uri},
        containerOverrides={"environment": variables},  # type: ignore[typeddict-item]
    )
    return submitted["jobId"]


@pytest.fixture
def remote(shell: Shell) -> Shell:
    put(shell.s3, shell.bucket, "confs/nightly.json", body=shell.conf("one", "two").encode())
    put(shell.s3, shell.bucket, "fleet/car_7/day_1/x.bag", body=ros1_bag())
    return shell


# --- asked for by a person --------------------------------------------------------------------------


def test_nothing_but_the_submission_of_the_planning_happens_here(remote: Shell) -> None:
    more = ("--remote", "--shard-bytes", str(SMALL), "--tag", "team=maps", "--wait", "--poll-seconds", "0.3")
    done = remote.submit("r", "one", "two", more=more)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"run r, output {remote.output}"
    assert lines[1].startswith("submitted job ")
    assert not any(line.startswith("drive one: plan") for line in lines), "it is planned elsewhere"
    table = {line.split()[0]: line.split()[1:] for line in lines[-3:]}
    assert table["two"][:5] == ["succeeded", "2/2", "2", f"{2 * MESSAGES}", f"{2 * MESSAGES}"]
    assert len(runs.find(remote.lake, "r")) == 1, "who asked and who plans leave one record"
    job = remote.batch.describe_jobs(jobs=remote.job_ids("r", "two"))["jobs"][0]
    assert job["tags"]["team"] == "maps"
    assert "plan 9" not in remote.run("logs", "r").out
    said = remote.run("logs", "r", "--all").out
    assert "planning | drive one: plan " in said
    assert "one/0 | " in said
    # Again, it adopts and finds all done.
    again = remote.submit("r", "one", "two", more=(*more, "--json"))
    assert again.code == 0
    assert again.json["totals"]["rows"] == 3 * MESSAGES
    assert len(remote.job_ids("r", "one")) == 1


def test_a_planning_job_that_batch_does_not_know_yet_is_waited_for(
    remote: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def late(batch: BatchClient, job_ids: Sequence[str]) -> dict[str, Any]:
        asked.append(ids := list(job_ids))
        return {} if len(asked) == 1 else describe(batch, ids)

    monkeypatch.setattr(jobs, "describe", late)
    done = remote.submit("r", "one", more=("--remote", "--wait", "--poll-seconds", "0.3"))
    assert (done.code, done.err) == (0, "")
    assert "is UNKNOWN" in done.out


def test_a_run_is_looked_after_while_it_is_planned(remote: Shell) -> None:
    done = remote.submit("r", "one", more=("--remote", "--json", "--planner-definition", "test-hang"))
    assert done.code == 0
    planner = done.json["planned_by"]["job_id"]
    (drive,) = remote.status("r")["drives"]
    assert (drive["state"], drive["ended"], drive["failed"]) == ("planning", False, False)
    assert drive["problems"][0].startswith(f"planning job {planner} is ")
    again = remote.submit("r", "one", more=("--remote", "--planner-definition", "test-hang"))
    assert f"adopted job {planner}, which plans" in again.out
    ended = remote.run("cancel", "r")
    assert (ended.code, f"ending planning job {planner} is " in ended.out) == (0, True)
    assert remote.state(planner) not in LIVE
    (drive,) = remote.status("r")["drives"]
    assert (drive["state"], drive["failed"]) == ("failed", True)
    assert lease.holder(remote.lake, "one") is None
    assert remote.run("retry", "r", "--wait", "--poll-seconds", "0.3").code == 0
    assert remote.status("r")["drives"][0]["rows"] == MESSAGES


def test_planning_that_fails_says_why_by_the_runs_id(remote: Shell) -> None:
    done = remote.submit("r", "nothing", more=("--remote", "--wait", "--poll-seconds", "0.3"))
    assert done.code == 4
    assert "has failed: refused: exit code 4 (refused: a drive cannot be planned" in done.err
    found = remote.run("status", "r")
    assert found.code == 1
    assert "exit code 4" in found.out
    assert f"airflow-batch-ros retry r --output {remote.output}" in found.out
    lines = remote.run("logs", "r").out
    assert "planning | - drive 'nothing': no bag directly under" in lines
    put(remote.s3, remote.bucket, "nothing/late.bag", body=ros1_bag())
    assert remote.submit("r", "nothing", more=("--remote", "--wait", "--poll-seconds", "0.3")).code == 0


def test_a_planning_job_whose_record_was_lost_is_found_by_its_name(
    remote: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("", "r")
    conf, options = parse_conf(remote.conf("one")), SubmitOptions(QUEUE, "test-good")
    runs.save(remote.lake, run, conf, options=options, shard_bytes=SMALL)

    def submit() -> tuple[planning.PlanningRecord, bool]:
        return planning.submit(
            *(remote.batch, remote.batch, remote.lake, run),
            job_queue=QUEUE,
            job_definition="test-hang",
            tags={},
        )

    first, new = submit()
    assert new
    remote.lake.delete(remote.lake.keys("_plans/planning")[0])
    assert submit()[0].job_id == first.job_id


# --- started by rules -------------------------------------------------------------------------------


def test_a_schedule_submits_a_conf_in_s3(remote: Shell, started_by_rules: str) -> None:
    uri = f"s3://{remote.bucket}/confs/nightly.json"
    run_id = "scheduled-2026-11-21T00:00:00Z"
    jobs = [start(remote, started_by_rules, run_id, "--conf", uri) for _ in range(2)]  # events may come twice
    wait_for_end(remote.batch, jobs)
    until(lambda: remote.status(run_id)["ended"])
    found = remote.status(run_id)
    assert [(drive["drive_id"], drive["state"], drive["rows"]) for drive in found["drives"]] == [
        ("one", "succeeded", MESSAGES),
        ("two", "succeeded", 2 * MESSAGES),
    ]
    assert [len(remote.job_ids(run_id, drive)) for drive in ("one", "two")] == [1, 1]


def test_a_marker_makes_a_drive_of_its_folder(remote: Shell, started_by_rules: str) -> None:
    environment = {
        "AIRFLOW_BATCH_ROS_BELOW": f"s3://{remote.bucket}/fleet/",
        "AIRFLOW_BATCH_ROS_CONF": json.dumps({"topics": {"exclude": ["/nothing"]}}),
    }
    uri = f"s3://{remote.bucket}/fleet/car_7/day_1/_DONE"
    wait_for_end(remote.batch, [start(remote, started_by_rules, "s3-1", "--marker", uri, **environment)])
    until(lambda: remote.status("s3-1")["ended"])
    (drive,) = remote.status("s3-1")["drives"]
    assert (drive["drive_id"], drive["state"], drive["rows"]) == ("car_7.day_1", "succeeded", MESSAGES)
    assert drive["source"] == f"s3://{remote.bucket}/fleet/car_7/day_1/"
    (record,) = runs.find(remote.lake, "s3-1")
    assert record.conf.options.exclude_topics == ("/nothing",)


def test_a_rule_whose_planning_fails_leaves_a_run_that_says_so(remote: Shell, started_by_rules: str) -> None:
    uri = f"s3://{remote.bucket}/fleet/car_8/_DONE"
    below = f"s3://{remote.bucket}/fleet/"
    job = start(remote, started_by_rules, "s3-2", "--marker", uri, AIRFLOW_BATCH_ROS_BELOW=below)
    wait_for_end(remote.batch, [job])
    (drive,) = remote.status("s3-2")["drives"]
    assert (drive["drive_id"], drive["state"], drive["failed"]) == ("car_8", "failed", True)
    assert "planning | - drive 'car_8': no bag directly under" in remote.run("logs", "s3-2").out


@pytest.mark.parametrize(
    ("path", "drive_id"),
    [
        ("car_7", "car_7"),
        ("car-7/2026-11-20", "car-7.2026-11-20"),
        ("car.7/a", "car.7.a-"),
        ("car/7.a", "car.7.a-"),
        ("Fahrt München", "Fahrt_M_nchen-"),
        ("_x", "x-"),
        ("é", ""),
        ("x" * 101, "x" * 91 + "-"),
    ],
)
def test_ids_of_drives(path: str, drive_id: str) -> None:
    (made,) = drive_below(f"s3://raw/fleet/{path}/_DONE", below="s3://raw/fleet")
    pattern = DRIVES_TO_PROCESS_SCHEMA["propertyNames"]["pattern"]
    assert parse_conf({"drives_to_process": {made: {"bucket": "raw", "prefix": "x"}}}), pattern
    assert made == drive_id or (made.startswith(drive_id) and len(made) == len(drive_id) + 8)


def test_two_folders_never_share_an_id() -> None:
    paths = ["a/b", "a.b", "a/b.c", "a.b/c", "a.b.c", "a b", "a_b", "ä", "ö"]
    ids = [next(iter(drive_below(f"s3://r/f/{path}/_DONE", below="s3://r/f/"))) for path in paths]
    assert len(set(ids)) == len(paths)


@pytest.mark.parametrize(
    ("words", "environ", "message"),
    [
        ((), {}, "no conf is said: say --conf, or AIRFLOW_BATCH_ROS_CONF in the environment"),
        (("--marker", "s3://r/f/a/_DONE"), {}, "a --marker needs --below, or AIRFLOW_BATCH_ROS_BELOW"),
        (("--conf", "{}", "--below", "s3://r/"), {}, "--below is of a --marker, which is not said"),
        (
            ("--marker", "s3://r/g/a/_DONE"),
            {"BELOW": "s3://r/f/"},
            "marker 's3://r/g/a/_DONE': it is in no folder below 's3://r/f/'",
        ),
        (("--marker", "s3://r/f/_DONE"), {"BELOW": "s3://r/f/"}, "it is in no folder below"),
        (
            ("--marker", "s3://r/f/a/_DONE", "--conf", '{"drives_to_process": {}}'),
            {"BELOW": "s3://r/f"},
            "beside a --marker the conf is an object without drives_to_process",
        ),
        (
            ("--conf", "s3://{bucket}/confs/none.json"),
            {},
            "none.json cannot be read: there is no such object",
        ),
    ],
)
def test_what_starts_a_run_has_to_be_said(
    remote: Shell, words: tuple[str, ...], environ: dict[str, str], message: str, monkeypatch: Any
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"AIRFLOW_BATCH_ROS_{name}", value)
    done = remote.run("submit", *(word.replace("{bucket}", remote.bucket) for word in words))
    assert (done.code, message in done.err) == (2, True), done.err


def test_a_marker_outside_is_an_error_of_the_conf() -> None:
    with pytest.raises(ConfError):
        drive_below("s3://raw/fleet2/a/_DONE", below="s3://raw/fleet")
