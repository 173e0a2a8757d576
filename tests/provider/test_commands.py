"""The commands over runs (submit, status, logs, cancel, retry), with a real S3 and a Batch with real jobs."""

from __future__ import annotations

import argparse
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from airflow_batch_ros import cli, clients, lease, runs
from airflow_batch_ros.clients import Clients, open_session
from airflow_batch_ros.commands import logs
from airflow_batch_ros.commands.settings import Setting, SettingsError, read_settings, with_defaults
from airflow_batch_ros.commands.submit import make_run_id
from airflow_batch_ros.commands.terminal import shards_named, teller
from airflow_batch_ros.conf import parse_conf
from airflow_batch_ros.drives_page import static
from airflow_batch_ros.fanout import Fanout, FanoutError
from airflow_batch_ros.jobs import LIVE, SubmitOptions, describe, job_state, recorded_jobs
from airflow_batch_ros.lake import Lake, drive_folder
from airflow_batch_ros.local import JobStuck
from ros_to_parquet import contract
from ros_to_parquet.contract import JobRecord, Lease, Run
from tests.provider.bags import MESSAGES, UNREADABLE, cut_off, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import ROOT
from tests.provider.test_fanout import SMALL
from tests.provider.waiting import QUEUE, end_all, until, wait_for_end

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

PROGRAM = str(Path(sys.executable).with_name("airflow-batch-ros"))


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """Runs commands over one bucket, in this process or, with ``process``, in one of their own."""

    s3: S3Client
    batch: BatchClient
    bucket: str
    capsys: pytest.CaptureFixture[str]

    @property
    def output(self) -> str:
        return f"s3://{self.bucket}/lake"

    @property
    def lake(self) -> Lake:
        return Lake(self.s3, self.output)

    def conf(self, *drives: str, **optional: Any) -> str:
        raw = {drive: {"bucket": self.bucket, "prefix": f"{drive}/"} for drive in drives}
        return json.dumps({"drives_to_process": raw, "report": False, "fleet": False, **optional})

    def run(self, *words: str) -> Done:
        self.capsys.readouterr()
        try:
            code = cli.main([*words, "--output", self.output])
        except SystemExit as error:
            code = int(str(error.code))
        said = self.capsys.readouterr()
        return Done(code, said.out, said.err)

    def process(self, *words: str, stdin: str | None = None) -> Done:
        done = subprocess.run(
            [PROGRAM, *words, "--output", self.output],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def submit(self, run_id: str, *drives: str, does: str = "good", more: tuple[str, ...] = ()) -> Done:
        conf = ("--conf", self.conf(*drives), "--run-id", run_id, "--job-definition", f"test-{does}")
        return self.run("submit", *conf, *more)

    def status(self, run_id: str, *more: str) -> Any:
        return self.run("status", run_id, "--json", *more).json

    def job_ids(self, run_id: str, drive_id: str) -> list[str]:
        plan_id = contract.make_plan_id(Run("", run_id), drive_id)
        return [record.job_id for record in recorded_jobs(self.lake, drive_id, plan_id)]

    def state(self, job_id: str) -> str:
        return job_state(describe(self.batch, [job_id]).get(job_id))


@pytest.fixture
def shell(
    s3: S3Client,
    batch: BatchClient,
    bucket: str,
    definitions: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    put(s3, bucket, "one/a.bag", body=ros1_bag())
    put(s3, bucket, "two/b.bag", body=ros1_bag(first=100))
    put(s3, bucket, "two/c.bag", body=ros1_bag(first=200))
    yield Shell(s3, batch, bucket, capsys)
    end_all(batch)


def test_each_line_is_written_whole_whatever_other_threads_print(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    teller(argparse.Namespace(json=False))("drive one: done\ndrive two: done")
    assert written == ["drive one: done\ndrive two: done\n"]


# --- submit -----------------------------------------------------------------------------------------


def test_submit_waits_and_says_what_became_of_the_drives(shell: Shell) -> None:
    conf = shell.conf("one", "two")
    words = ("submit", "--conf", "-", "--run-id", "r-1", "--wait", "--shard-bytes", str(SMALL))
    first = shell.process(*words, "--poll-seconds", "0.3", stdin=conf)
    assert (first.code, first.err) == (0, "")
    lines = first.out.splitlines()
    assert lines[0] == f"run r-1, output {shell.output}"
    assert any(line.startswith("drive two: 0 of 2 shards done, ") for line in lines)
    table = {line.split()[0]: line.split()[1:] for line in lines[-3:]}
    assert table["drive"][:6] == ["state", "shards", "bags", "messages", "rows", "rejects"]
    assert table["one"][:6] == ["succeeded", "1/1", "1", f"{MESSAGES}", f"{MESSAGES}", "0"]
    assert table["two"][:6] == ["succeeded", "2/2", "2", f"{2 * MESSAGES}", f"{2 * MESSAGES}", "0"]
    # The same run again: nothing is submitted twice.
    jobs = shell.job_ids("r-1", "one"), shell.job_ids("r-1", "two")
    again = shell.process(*words, "--json", stdin=conf)
    assert again.code == 0
    assert "drive one: done by an earlier try" in again.err
    assert "drive two: 2 of 2 shards done" in again.err
    assert again.json["run"] == "r-1"
    assert [drive["work"] for drive in again.json["drives"]] == ["done", "done"]
    assert again.json["totals"]["rows"] == 3 * MESSAGES
    assert (shell.job_ids("r-1", "one"), shell.job_ids("r-1", "two")) == jobs


def test_submit_without_wait_makes_a_run_id_and_the_drive_commits_itself(shell: Shell) -> None:
    conf = shell.conf("one", report=True)
    done = shell.run("submit", "--conf", conf, "--json", "--tag", "team=maps", "--vcpus", "0.5")
    assert done.code == 0
    (drive,) = done.json["drives"]
    detail = describe(shell.batch, [drive["job_id"]])[drive["job_id"]]
    assert detail["tags"]["team"] == "maps"
    assert "shareIdentifier" not in detail
    assert {"type": "VCPU", "value": "0.5"} in detail["container"]["resourceRequirements"]
    assert f"airflow-batch-ros status {done.json['run']} --output {shell.output}" in done.err
    until(lambda: shell.status(done.json["run"])["ended"])
    assert shell.status(done.json["run"])["drives"][0]["state"] == "succeeded"
    assert drive_folder(shell.lake, "one", drive["plan_id"]).commit, "the shard that completed it"
    assert lease.holder(shell.lake, "one") is None
    report = f"{shell.output}/_reports/drive_id=one/report.html"
    until(lambda: shell.status(done.json["run"])["drives"][0]["report"] == report)  # after the commit
    assert shell.run("status", done.json["run"]).out.splitlines()[-1] == f"one: report {report}"
    # A later run finds nothing new, and says what the lake has.
    again = shell.run("submit", "--conf", shell.conf("one"), "--wait", "--json")
    assert f"one: report {report}" in again.err
    later = again.json
    assert [drive["work"] for drive in later["drives"]] == ["nothing"]
    bags = shell.status(later["run"], "--bags")["drives"][0]
    assert (bags["state"], bags["rows"]) == ("succeeded", MESSAGES)
    assert [(bag["name"], bag["state"]) for bag in bags["bag_list"]] == [("a.bag", "in_the_lake")]


def test_run_ids_are_in_order_of_time_and_unlike() -> None:
    made = [make_run_id() for _ in range(3)]
    assert len(set(made)) == 3
    assert sorted(run_id[:16] for run_id in made) == [run_id[:16] for run_id in made]


@pytest.mark.parametrize(
    ("conf", "code", "text"),
    [
        ('{"drives_to_process": {"a": {"bucket": "x"}}}', 2, "drive 'a', key 'bucket': 'x' is no S3 bucket"),
        ("{", 2, "--conf is not JSON: "),
        ('{"drives_to_process": {"new": {}, "new": {}}}', 2, "--conf: drive 'new' is there twice"),
        ("nowhere.json", 2, "--conf nowhere.json cannot be read: "),
        *((uri, 2, f"--conf {uri}: s3://bucket/key is expected\n") for uri in ("s3://", "s3://b", "s3://b/")),
        ("s3://no-such-bucket/c.json", 2, "--conf s3://no-such-bucket/c.json cannot be read: NoSuchBucket: "),
        (
            '{"drives_to_process": {"a": {"bucket": "no-such-bucket", "prefix": ""}}}',
            4,
            "drive 'a': S3 refused ListObjectsV2 (NoSuchBucket",
        ),
    ],
)
def test_what_cannot_be_run_is_said_with_an_exit_code(shell: Shell, conf: str, code: int, text: str) -> None:
    done = shell.run("submit", "--conf", conf)
    assert (done.code, text in done.err) == (code, True), done.err
    if code == 4:
        where = f"with output {shell.output!r} (from --output), job queue 'ros-to-parquet' (from the default)"
        assert where in done.err


def test_a_drive_that_another_run_has_may_be_tried_again(shell: Shell) -> None:
    assert shell.submit("first", "one", does="hang").code == 0
    done = shell.submit("second", "one")
    assert done.code == 75
    assert "run 'first' of the command line has it since" in done.err
    assert "(its Batch job " in done.err


def test_a_mistyped_queue_is_refused_and_the_corrected_command_runs(shell: Shell) -> None:
    wrong = shell.submit("first", "one", does="hang", more=("--job-queue", "nope"))
    assert (wrong.code, "Job queue nope does not exist [refused]" in wrong.err) == (4, True), wrong.err
    for words in (("status",), ("logs",), ("cancel",)):
        done = shell.run(*words, "first")
        assert "does not exist" not in done.err, (words, done.err)
    (drive,) = shell.status("first")["drives"]
    assert drive["ended"] is False
    assert shell.submit("second", "one", does="hang").code == 0


def test_a_planning_job_for_a_queue_that_is_not_there_is_refused(shell: Shell) -> None:
    done = shell.submit("r", "one", more=("--remote", "--job-queue", "nope", "--planner-definition", "p"))
    assert (done.code, "Job queue nope does not exist" in done.err) == (4, True), done.err


def test_a_run_that_died_before_it_submitted_leaves_its_drive_to_others_soon(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("", "dead")
    dead = Lease("one", contract.make_plan_id(run, "one"), run, "2026-01-01T00:00:00+00:00")
    assert shell.lake.create(contract.lease_key("one"), contract.to_json(dead))
    conf, options = parse_conf(shell.conf("one")), SubmitOptions(QUEUE, "test-good")
    runs.save(shell.lake, run, conf, options=options, shard_bytes=SMALL)
    assert "has not submitted yet" in shell.submit("second", "one").err
    (drive,) = shell.status("dead")["drives"]
    assert (drive["state"], drive["ended"]) == ("not_planned", False)
    monkeypatch.setattr(lease, "GRACE_S", 0.0)
    assert shell.submit("second", "one").code == 0


# --- status, logs, retry ----------------------------------------------------------------------------


def test_a_failed_shard_is_explained_and_run_again_alone(shell: Shell) -> None:
    more = ("--shard-bytes", str(SMALL), "--wait", "--poll-seconds", "0.3")
    done = shell.submit("r", "one", "two", does="some-fail", more=more)
    assert done.code == 1
    assert "1 of 2 drives failed:\n- two: partial, 1 of 2 shards done" in done.out
    assert f"are missing: airflow-batch-ros retry r --output {shell.output}" in done.out

    process = shell.process("status", "r", "--json", "--bags")
    assert process.code == 1
    found = process.json
    assert (found["ended"], found["failed"], found["totals"]["rows"]) == (True, True, 2 * MESSAGES)
    one, two = found["drives"]
    assert (one["state"], one["failed"]) == ("succeeded", False)
    assert (two["state"], two["failed"]) == ("partial", True)
    assert two["shards"] == {"done": 1, "running": 0, "failed": 1, "waiting": 0}
    (failed,) = two["failed_shards"]
    assert (failed["shard"], failed["reason"], failed["exit_code"]) == (1, "exit code 70", 70)
    assert (failed["cause"], failed["log_lines"]) == ("engine_error", ["told to exit 70"])
    assert [(bag["name"], bag["state"], bag["messages"]) for bag in two["bag_list"]] == [
        ("b.bag", "ok", MESSAGES),
        ("c.bag", "failed", 0),
    ]
    said = shell.run("status", "r", "--bags", "--drive", "two").out
    assert f"shard 1: engine_error: exit code 70 (log stream {failed['log_stream']})" in said
    assert "        | told to exit 70\n" in said
    assert "one" not in said.split()

    assert shell.run("logs", "r").out.splitlines() == ["two/1 | told to exit 70"]
    good = shell.run("logs", "r", "--drive", "two", "--shard", "0").out
    assert all(line.startswith("two/0 | ") for line in good.splitlines())
    assert "shard_started" in good
    refused = shell.run("logs", "r", "--drive", "two", "--shard", "2")
    assert (refused.code, refused.err) == (2, "drive two has no shard 2: it has 2, the first is 0\n")

    again = shell.process(
        *("retry", "r", "--wait", "--poll-seconds", "0.3"),
        *("--job-definition", "test-good", "--memory-mib", "1024"),
    )
    assert (again.code, again.err) == (0, "")
    assert "drive one: done by an earlier try" in again.out
    assert "for 1 of 2 shards" in again.out
    assert len(shell.job_ids("r", "two")) == 2
    last = describe(shell.batch, shell.job_ids("r", "two")[1:]).popitem()[1]
    assert {"type": "MEMORY", "value": "1024"} in last["container"]["resourceRequirements"]
    now = shell.status("r")
    assert (now["failed"], [drive["state"] for drive in now["drives"]]) == (False, ["succeeded"] * 2)
    assert (
        shell.run("logs", "r").err
        == "no shard has failed without a manifest; --shard N or --all for others\n"
    )


def test_a_drive_that_another_run_has_replaced_is_no_failure_and_is_not_run_again(shell: Shell) -> None:
    wait = ("--wait", "--poll-seconds", "0.3")

    def overwrite(run_id: str, does: str = "good") -> int:
        words = ("--conf", shell.conf("one", overwrite=True), "--job-definition", f"test-{does}", *wait)
        return shell.run("submit", "--run-id", run_id, *words).code

    assert shell.submit("z1", "one", "two", more=wait).code == 0
    jobs = shell.job_ids("z1", "one"), shell.job_ids("z1", "two")
    assert overwrite("z2") == 0
    said = shell.run("status", "z1")
    assert said.code == 0
    assert "    replaced by run 'z2' of the command line (succeeded): what this run extracted" in said.out
    assert "lost" not in said.out
    assert "airflow-batch-ros retry" not in said.out
    found = shell.status("z1", "--bags")
    one, two = found["drives"]
    assert (found["ended"], found["failed"], found["totals"]["rows"]) == (True, False, 2 * MESSAGES)
    assert (one["state"], one["failed"], one["rows"], one["failed_shards"]) == ("succeeded", False, 0, [])
    logs_of = shell.run("logs", "z1")
    assert (logs_of.code, logs_of.out) == (0, "")
    assert logs_of.err.startswith("drive one: replaced by run 'z2' of the command line (succeeded): what")
    assert len(logs_of.err.splitlines()) == 1
    assert "one/0 | " in shell.run("logs", "z1", "--all").out
    assert set(one["shards"].values()) == {0}
    assert [(bag["name"], bag["state"]) for bag in one["bag_list"]] == [("a.bag", "replaced")]
    assert (two["state"], two["rows"], two["problems"]) == ("succeeded", 2 * MESSAGES, [])

    again = shell.run("retry", "z1")
    assert (again.code, again.err) == (0, "")
    assert "drive one: replaced by run 'z2' of the command line" in again.out
    assert "a retry would not bring it back; nothing is submitted" in again.out
    assert "drive two: done by an earlier try" in again.out
    waited = shell.run("retry", "z1", "--json", *wait)
    assert (waited.code, waited.json["totals"]["failed_shards"]) == (0, 0)
    assert [drive["work"] for drive in waited.json["drives"]] == ["nothing", "done"]
    assert (shell.job_ids("z1", "one"), shell.job_ids("z1", "two")) == jobs
    assert lease.holder(shell.lake, "one") is None

    # One that fails before it commits has replaced nothing, and hides nothing.
    assert overwrite("z3", does="oom") == 1
    assert (shell.run("status", "z2").code, shell.run("status", "z3").code) == (0, 1)
    assert "retry z3" in shell.run("status", "z3").out
    assert overwrite("z4") == 0
    for run_id, code in (("z1", 0), ("z2", 0), ("z3", 1)):
        said = shell.run("status", run_id, "--drive", "one")
        assert (said.code, "replaced by run 'z4'" in said.out) == (code, code == 0)


def test_a_retry_gives_more_memory_where_it_ran_out(shell: Shell) -> None:
    wait = ("--wait", "--poll-seconds", "0.3")
    assert shell.submit("r", "one", does="oom", more=wait).code == 1
    refused = shell.run("retry", "r", *wait)
    assert refused.code == 1
    assert "drive one: 1 shard ran out of memory: 1024 MiB after 512" in refused.out
    assert "shard 0: out_of_memory: exit code 137 (killed by the system" in refused.out
    most = ("--max-memory-mib", "1500", "--job-definition", "test-good")
    assert "memory: 1500 MiB after 1024" in shell.run("retry", "r", *most, *wait).out
    details = describe(shell.batch, shell.job_ids("r", "one"))
    needs = [details[job_id]["container"]["resourceRequirements"] for job_id in shell.job_ids("r", "one")]
    assert [{each["type"]: each["value"] for each in every}["MEMORY"] for every in needs] == [
        "512",
        "1024",
        "1500",
    ]
    assert shell.status("r")["drives"][0]["state"] == "succeeded"


def test_what_stays_runnable_is_ended_and_a_share_of_the_drives_decides(
    shell: Shell, aws: EmbeddedAws
) -> None:
    conf = shell.conf("one", "two", min_success_ratio=0.5)
    words = ("submit", "--conf", conf, "--run-id", "r", "--job-definition", "test-good")
    wait = ("--wait", "--poll-seconds", "0.3", "--runnable-timeout", "0.2", "--end-stuck")
    with aws.faults(JobStuck(job="two-*")):
        done = shell.run(*words, *wait)
    assert done.code == 0
    assert "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT; it is ended\n" in done.out
    assert "1 of 2 drives failed (success ratio 0.5, min_success_ratio 0.5), which does not fail" in done.out
    assert "    shard 0: stuck_in_runnable: Stuck in RUNNABLE for " in done.out
    found = shell.run("status", "r", "--json")
    assert (found.code, found.json["failed"]) == (0, False)
    assert [drive["failed"] for drive in found.json["drives"]] == [False, True]
    assert shell.run("retry", "r", "--wait", "--poll-seconds", "0.3").code == 0
    assert [drive["state"] for drive in shell.status("r")["drives"]] == ["succeeded"] * 2


def test_a_damaged_and_an_unreadable_bag_are_named(shell: Shell) -> None:
    put(shell.s3, shell.bucket, "bad/cut.bag", body=cut_off(ros1_bag(messages=2000)))
    put(shell.s3, shell.bucket, "bad/junk.bag", body=UNREADABLE)
    assert shell.submit("r", "bad", more=("--wait", "--poll-seconds", "0.3")).code == 0
    said = shell.run("status", "r", "--bags")
    assert said.code == 0
    assert [line.split()[:2] for line in said.out.splitlines()[-2:]] == [
        ["cut.bag", "damaged"],
        ["junk.bag", "unreadable"],
    ]
    assert "bag junk.bag at offset 0: " in said.out
    planned = shell.run("plan", "--conf", shell.conf("bad"), "--json")
    assert (planned.code, [bag["name"] for bag in planned.json["drives"][0]["unreadable"]]) == (
        0,
        ["junk.bag"],
    )
    assert "drive bad: bag junk.bag: not tried again" in shell.run("plan", "--conf", shell.conf("bad")).out
    again = shell.submit("again", "bad", more=("--wait", "--poll-seconds", "0.3"))
    assert again.code == 0
    assert "drive bad: nothing to do, all bags that can be read are in the lake" in again.out
    said = shell.run("status", "again", "--bags")
    assert [line.split()[:2] for line in said.out.splitlines()[-2:]] == [
        ["cut.bag", "in"],  # the lake
        ["junk.bag", "unreadable"],
    ]
    assert "bag junk.bag: not tried again, for an earlier run could read nothing of it: " in said.out


@pytest.mark.parametrize("kind", ["plan", "job", "commit"])
def test_a_drive_whose_record_is_cut_off_hides_no_other(shell: Shell, kind: str) -> None:
    shell.submit("r", "one", "two", more=("--wait", "--poll-seconds", "0.3"))
    plan_id = contract.make_plan_id(Run("", "r"), "one")
    key = {
        "plan": contract.plan_key("one", plan_id),
        "job": contract.job_record_key("one", plan_id, 0),
        "commit": contract.drive_manifest_key("one", plan_id),
    }[kind]
    shell.lake.write(key, (shell.lake.read(key) or b"")[:50])
    said = shell.run("status", "r", "--json")
    one, two = said.json["drives"]
    assert (said.code, said.err) == (4, "")
    assert (one["drive_id"], one["state"], one["ended"]) == ("one", "unknown", False)
    assert one["problems"][0].startswith(f"{shell.output}/{key}: not JSON")
    assert (two["state"], two["rows"]) == ("succeeded", 2 * MESSAGES)
    assert f"    {shell.output}/{key}: not JSON" in shell.run("status", "r").out
    page = shell.run("drives-page")
    assert page.code == 0
    assert page.out.splitlines()[0] == ("r: 1 unknown, 1 succeeded" if kind == "commit" else "r: 2 succeeded")


def test_a_manifest_that_somebody_has_removed_is_said_and_no_retry_is_advised(shell: Shell) -> None:
    shell.submit("r", "one", more=("--wait", "--poll-seconds", "0.3"))
    plan_id = contract.make_plan_id(Run("", "r"), "one")
    shell.lake.delete(contract.manifest_key("one", plan_id, 0))
    said = shell.run("status", "r").out
    assert (
        f"    1 of 1 shards' manifests in _manifests/drive_id=one/{plan_id} are gone, with their rows: "
        in said
    )
    assert "retry" not in said


def test_a_run_of_airflow_is_found_with_all_drives_of_its_mapped_tasks(shell: Shell) -> None:
    run = Run("some_dag", f"scheduled__2026-11-21T00:00:00+00:00-{shell.bucket}")
    jobs = []
    for drive, does in (("one", "good"), ("two", "hang")):
        made = fanout(shell, run, drive, does=does)
        jobs += [str(job.job_id) for job in made.submit_all()]
    wait_for_end(shell.batch, jobs[:1])
    for name in (run.run_id, f"some_dag/{run.run_id}"):
        found = shell.status(name)
        assert found["run"] == {"dag_id": "some_dag", "run_id": run.run_id}
        assert {drive["drive_id"]: drive["job_id"] for drive in found["drives"]} == {
            "one": jobs[0],
            "two": jobs[1],
        }
    assert shell.run("status", f"other_dag/{run.run_id}").code == 3
    # What is live is adopted, and what is done is left.
    retried = shell.run("retry", run.run_id, "--json").json
    assert {drive["drive_id"]: (drive["work"], drive["job_id"]) for drive in retried["drives"]} == {
        "one": ("done", jobs[0]),
        "two": ("adopted", jobs[1]),
    }
    fanout(shell, replace(run, dag_id="b_dag"), "one").submit_all()
    both = shell.run("status", run.run_id)
    assert both.code == 3
    assert both.err.endswith(f"say which: b_dag/{run.run_id}, some_dag/{run.run_id}\n")


def test_the_newest_runs_are_listed(shell: Shell) -> None:
    assert shell.run("status").out == f"no runs in {shell.output}\n"
    for run in (Run("", "a"), Run("dag", "b")):
        options = SubmitOptions(QUEUE, "test-good")
        conf = parse_conf(shell.conf("one", "two"))
        runs.save(shell.lake, run, conf, options=options, shard_bytes=SMALL)
    found = shell.run("status", "--json").json
    assert [(each["dag_id"], each["run_id"], each["drives"]) for each in found["runs"]] == [
        ("dag", "b", ["one", "two"]),
        ("", "a", ["one", "two"]),
    ]
    lines = shell.run("status").out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "dag/b", "a"]


def test_a_run_whose_record_is_cut_off_hides_no_other(shell: Shell) -> None:
    options = SubmitOptions(QUEUE, "test-good")
    for run_id in ("a", "b"):
        runs.save(
            shell.lake, Run("", run_id), parse_conf(shell.conf("one")), options=options, shard_bytes=SMALL
        )
    (key,) = shell.lake.keys(contract.run_folder("b"))
    shell.lake.write(key, (shell.lake.read(key) or b"")[:50])
    wrong = f"{shell.output}/{key}: not JSON"
    said = shell.run("status", "--json")
    assert (said.code, [each["run_id"] for each in said.json["runs"]]) == (4, ["a"])
    assert said.err.startswith(wrong)
    said = shell.run("drives-page")
    assert (said.code, said.out.splitlines()[0]) == (4, "a: 1 not_planned")
    assert said.err.startswith(wrong)
    assert wrong in (shell.lake.read(static.INDEX_KEY) or b"").decode()


def test_a_run_that_found_nothing_new_is_said_as_such(shell: Shell) -> None:
    conf = replace(parse_conf(shell.conf("one")), drives=(), found=True)
    runs.save(shell.lake, Run("", "r"), conf, options=SubmitOptions(QUEUE, "test-good"), shard_bytes=SMALL)
    assert shell.run("drives-page").out.splitlines()[0] == "r: no drive had anything to do"


def test_a_page_that_may_not_be_written_says_which_right_is_missing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> bool:
        answer: Any = {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}
        raise ClientError(answer, "PutObject")

    monkeypatch.setattr(Lake, "create", refused)
    said = shell.run("drives-page")
    expected = (
        "PutObject is refused: AccessDenied: Access Denied; let the role that asks do s3:PutObject there"
    )
    assert (said.code, said.err) == (4, f"lake {shell.output}: {expected}\n")


def test_a_run_of_several_submissions_is_listed_once_with_all_its_drives(shell: Shell) -> None:
    options = SubmitOptions(QUEUE, "test-good")
    for drives in (("one",), ("two",), ("one", "two")):
        conf = parse_conf(shell.conf(*drives))
        runs.save(shell.lake, Run("dag", "r"), conf, options=options, shard_bytes=SMALL)
    newest = runs.find(shell.lake, "r")[-1].submitted_at
    (found,) = shell.run("status", "--json").json["runs"]
    assert (found["submitted_at"], found["drives"]) == (newest, ["one", "two"])
    assert shell.run("status").out.splitlines()[1:] == [f"dag/r  {newest}       2"]


def fanout(shell: Shell, run: Run, *drives: str, does: str = "good") -> Fanout:
    return Fanout(
        s3=shell.s3,
        batch=shell.batch,
        submitter=shell.batch,
        output=shell.output,
        conf=parse_conf(shell.conf(*drives)),
        run=run,
        options=SubmitOptions(QUEUE, f"test-{does}"),
    )


def test_shards_are_named_in_few_words() -> None:
    assert shards_named([3]) == "shard 3"
    assert shards_named([3, 5, 6, 7, 9]) == "shards 3, 5 to 7, 9"


def test_a_missing_region_and_a_broken_connection_have_codes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(clients, "PERSISTENT", clients.ONCE)
        patch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        done = shell.run("status", "r")
    assert (done.code, done.err.startswith("AWS could not be asked: Could not connect")) == (75, True)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "nowhere")
    done = shell.submit("r", "one")
    assert (done.code, "no AWS region is said: say --region, " in done.err) == (2, True)


def test_a_lake_that_is_not_there_takes_no_record_of_a_run_that_is_planned_in_batch(shell: Shell) -> None:
    where = ("--output", "s3://a-bucket-that-is-not-there/lake")
    words = ("submit", "--remote", "--conf", shell.conf("one"), "--job-definition", "test-good", *where)
    shell.capsys.readouterr()
    assert cli.main([*words]) == 4
    assert shell.capsys.readouterr().err.startswith("lake s3://a-bucket-that-is-not-there/lake: there is no ")


def test_what_is_not_there_is_said(shell: Shell) -> None:
    for command in ("status", "logs", "cancel", "retry"):
        done = shell.run(command, "nobody")
        assert done.code == 3
        assert done.err.startswith(f"no run 'nobody' in {shell.output}: check its id")
    shell.submit("r", "one", does="hang")
    done = shell.run("status", "r", "--drive", "three")
    assert (done.code, done.err) == (3, "run 'r' has no drive 'three'; it has one\n")


@pytest.mark.parametrize(
    "words", ["status", "status r", "drives-page", "drives-page r", "logs r", "cancel r", "retry r"]
)
def test_a_lake_that_is_not_there_or_may_not_be_read_is_said(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(Shell, "output", "s3://a-bucket-that-is-not-there/lake")
    done = shell.run(*words.split())
    assert (done.code, done.out) == (4, "")
    assert done.err == (
        "lake s3://a-bucket-that-is-not-there/lake: there is no bucket a-bucket-that-is-not-there; check the "
        "output (--output, AIRFLOW_BATCH_ROS_OUTPUT, airflow-batch-ros.yaml or --stack), and the account "
        "that is asked\n"
    )
    monkeypatch.setattr(Shell, "output", f"s3://{shell.bucket}/lake")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    done = shell.run(*words.split())
    assert (done.code, len(done.err.splitlines())) == (4, 1)
    assert done.err.startswith(f"lake {shell.output}: ListObjectsV2 is refused: SignatureDoesNotMatch: ")
    assert done.err.endswith("; check the credentials that are used, and this machine's clock\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("drives-page --runs 0", "argument --runs: a whole number above 0 is expected, not '0'"),
        ("drives-page --runs \u00b2", "argument --runs: a whole number above 0 is expected, not '\u00b2'"),
        ("plan --shard-bytes many", "argument --shard-bytes: a whole number above 0 is expected, not 'many'"),
        (f"plan --shard-bytes {'9' * 5000}", f"above 0 is expected, not '{'9' * 39}"),
        ("plan --sample-seconds 0", "--sample-seconds: a number of seconds above 0 is expected, not '0'"),
        ("plan --sample-seconds nan", "--sample-seconds: a number of seconds above 0 is expected, not 'nan'"),
        ("plan --sample-seconds inf", "--sample-seconds: a number of seconds above 0 is expected, not 'inf'"),
        ("submit --poll-seconds -1", "--poll-seconds: a number of seconds above 0 is expected, not '-1'"),
        ("retry r --runnable-timeout nan", "a number of seconds is expected, 0 or more, not 'nan'"),
        ("cancel r --patience-seconds -1", "a number of seconds is expected, 0 or more, not '-1'"),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_words(shell: Shell, words: str, expected: str) -> None:
    done = shell.run(*words.split())
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert "invalid" not in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("again", [False, True], ids=["submit", "retry"])
def test_what_waits_says_when_it_is_stopped_that_the_jobs_go_on(
    shell: Shell, number: signal.Signals, code: int, again: bool
) -> None:
    words = ["submit", "--run-id", "r", "--conf", shell.conf("one"), "--job-definition", "test-hang"]
    if again:
        assert shell.run(*words).code == 0
        words = ["retry", "r"]
    waits = subprocess.Popen(
        [PROGRAM, *words, "--wait", "--output", shell.output],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with waits:
        assert waits.stdout is not None
        assert any(line.startswith("drive one: 0 of 1 shards done") for line in waits.stdout)
        waits.send_signal(number)
        _, said = waits.communicate(timeout=60)
    at = f"r --output {shell.output}"
    assert waits.returncode == code
    assert said == (
        f"waits no longer, but the jobs go on: airflow-batch-ros status {at} says how they stand, "
        f"airflow-batch-ros cancel {at} ends them\n"
    )
    (job_id,) = shell.job_ids("r", "one")
    assert shell.state(job_id) in LIVE


def test_logs_are_followed_to_the_end(shell: Shell, monkeypatch: pytest.MonkeyPatch, gate: Path) -> None:
    monkeypatch.setattr(logs, "FOLLOW_S", 0.3)
    shell.submit("r", "one", does="gated")
    find_streams = logs._find_streams

    def find_and_open(*arguments: Any) -> Any:
        found = find_streams(*arguments)
        gate.touch()
        return found

    monkeypatch.setattr(logs, "_find_streams", find_and_open)
    done = shell.run("logs", "r", "--follow")
    assert done.code == 0
    assert "shard_started" in done.out
    assert "shard_done" in done.out or "drive_committed" in done.out
    assert len(done.out.splitlines()) == len(set(done.out.splitlines())), "a line came twice"
    done = shell.run("logs", "r", "--follow")
    assert (done.code, done.out, done.err) == (
        0,
        "",
        "nothing runs, and no shard has failed; --shard N or --all for the lines of others\n",
    )


def test_logs_outlive_batchs_memory_but_not_cloudwatchs(shell: Shell, aws: Any) -> None:
    shell.submit("r", "one", more=("--wait", "--poll-seconds", "0.3"))
    (job_id,) = shell.job_ids("r", "one")
    plan_id = contract.make_plan_id(Run("", "r"), "one")
    key = contract.job_record_key("one", plan_id, 0)
    record = shell.lake.load(JobRecord, key)
    assert record is not None
    shell.lake.write(key, contract.to_json(replace(record, job_id="forgotten")))
    done = shell.run("logs", "r", "--all")
    assert "one/0 | " in done.out
    stream = describe(shell.batch, [job_id])[job_id]["container"]["logStreamName"]
    aws.client("logs").delete_log_stream(logGroupName="/aws/batch/job", logStreamName=stream)
    done = shell.run("logs", "r", "--all")
    assert done.out == ""
    assert done.err.startswith(f"drive one, shard 0: CloudWatch has no stream {stream} in /aws/batch/job: ")


# --- cancel -----------------------------------------------------------------------------------------


def test_cancel_ends_what_is_live_and_gives_the_drives_back(shell: Shell) -> None:
    assert shell.submit("r", "one", "two", does="hang", more=("--shard-bytes", str(SMALL))).code == 0
    jobs = [job for drive in ("one", "two") for job in shell.job_ids("r", drive)]
    until(lambda: shell.status("r")["drives"][1]["shards"]["running"] == 2)
    running = shell.run("status", "r")
    assert running.code == 0
    assert "running" in running.out
    done = shell.process("cancel", "r", "--reason", "wrong drive", "--json")
    assert done.code == 0, done.err
    entries = {entry["drive_id"]: entry for entry in done.json["drives"]}
    assert entries["one"] == {"drive_id": "one", "ended": jobs[:1], "still_live": [], "given_back": True}
    assert not any(shell.state(job) in LIVE for job in jobs)
    assert lease.holder(shell.lake, "one") is lease.holder(shell.lake, "two") is None
    found = shell.status("r")
    assert (found["ended"], found["failed"]) == (True, True)
    assert [drive["state"] for drive in found["drives"]] == ["failed", "failed"]
    assert "wrong drive" in found["drives"][0]["failed_shards"][0]["reason"]
    again = shell.run("cancel", "r")
    assert (again.code, again.out.splitlines()) == (
        0,
        [f"drive {d}: nothing was live" for d in ("one", "two")],
    )
    assert shell.submit("other", "two", more=("--wait", "--poll-seconds", "0.3")).code == 0
    # The cancelled run can go on with what nobody else did meanwhile.
    assert shell.run("retry", "r", "--drive", "one", "--job-definition", "test-good").code == 0
    refused = shell.run("retry", "r", "--drive", "two")
    assert refused.code == 4
    assert "has extracted b.bag; start a new run" in refused.err


def test_cancel_ends_the_other_drives_jobs_where_records_of_one_are_cut_off(shell: Shell) -> None:
    shell.submit("r", "one", "two", does="hang")
    jobs = {drive: shell.job_ids("r", drive)[0] for drive in ("one", "two")}
    key = contract.job_record_key("one", contract.make_plan_id(Run("", "r"), "one"), 0)
    record = shell.lake.read(key) or b""
    shell.lake.write(key, record[:50])
    done = shell.run("cancel", "r")
    assert done.code == 4
    assert f"drive one: what it runs is not known: {shell.output}/{key}: not JSON" in done.out
    assert "drive two: its job has ended, and other runs can have the drive now" in done.out
    assert (shell.state(jobs["two"]) in LIVE, shell.state(jobs["one"]) in LIVE) == (False, True)
    shell.lake.write(key, record)
    shell.lake.write(contract.lease_key("one"), b"{")
    done = shell.run("cancel", "r", "--json")
    assert done.code == 4
    (problem,) = done.json["problems"]
    assert problem.startswith(
        f"drive one: it is not given back: {shell.output}/{contract.lease_key('one')}: "
    )
    assert shell.state(jobs["one"]) not in LIVE


# --- settings ---------------------------------------------------------------------------------------


def arguments(*words: str) -> Any:
    return cli.build_parser().parse_args(["submit", "--conf", "-", *words])


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "airflow-batch-ros.yaml").write_text(
        "output: s3://file/lake\nregion: eu-west-1\njob_queue: from-file\nvcpus: 4\n"
        "tags: {team: file, cost: file, site: 7}\n"
    )
    environ = {
        "AIRFLOW_BATCH_ROS_OUTPUT": "s3://environment/lake/",
        "AIRFLOW_BATCH_ROS_REGION": "eu-west-2",
        "AIRFLOW_BATCH_ROS_PROFILE": "",
        "AIRFLOW_BATCH_ROS_TAGS": "team=environment, cost=environment",
    }
    flags = arguments("--output", "s3://flag/lake", "--tag", "team=flag")
    found = with_defaults(read_settings(flags, environ=environ, folder=tmp_path))
    assert found.given == {
        "output": Setting("s3://flag/lake", "--output"),
        "region": Setting("eu-west-2", "AIRFLOW_BATCH_ROS_REGION in the environment"),
        "job_queue": Setting("from-file", str(tmp_path / "airflow-batch-ros.yaml")),
        "vcpus": Setting("4", str(tmp_path / "airflow-batch-ros.yaml")),
        "job_definition": Setting("ros-to-parquet", "the default"),
        "planner_definition": Setting("ros-to-parquet-plan", "the default"),
    }
    assert found.tags == {"team": "flag", "cost": "environment", "site": "7"}
    assert read_settings(arguments(), environ=environ, folder=tmp_path).output() == "s3://environment/lake"
    named = tmp_path / "other.yaml"
    named.write_text("stack: mine\n")
    elsewhere = read_settings(arguments("--config", str(named)), environ={}, folder=tmp_path)
    assert elsewhere.given == {"stack": Setting("mine", str(named))}


def test_a_queue_with_fair_share_needs_a_share_identifier(shell: Shell) -> None:
    policy = shell.batch.create_scheduling_policy(name=f"{shell.bucket}-shares")["arn"]
    (plain,) = shell.batch.describe_job_queues(jobQueues=[QUEUE])["jobQueues"]
    fair = f"{shell.bucket}-fair"
    order = plain["computeEnvironmentOrder"]
    shell.batch.create_job_queue(
        jobQueueName=fair,
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=order,
        schedulingPolicyArn=policy,
    )
    words = ("submit", "--conf", shell.conf("one"), "--job-queue", fair, "--run-id", "r-1", "--json")
    assert "shareIdentifier is missing" in shell.run(*words).err
    (drive,) = shell.run(*words, "--share-identifier", "maps").json["drives"]
    detail = describe(shell.batch, [drive["job_id"]])[drive["job_id"]]
    assert detail["shareIdentifier"] == "maps"


WAYS = {
    "job_queue": ("--job-queue", "AIRFLOW_BATCH_ROS_JOB_QUEUE"),
    "job_definition": ("--job-definition", "AIRFLOW_BATCH_ROS_JOB_DEFINITION"),
    "output": ("--output", "AIRFLOW_BATCH_ROS_OUTPUT"),
    "max_memory_mib": ("--max-memory-mib", "AIRFLOW_BATCH_ROS_MAX_MEMORY_MIB"),
    "on_demand_queue": ("--on-demand-queue", "AIRFLOW_BATCH_ROS_ON_DEMAND_QUEUE"),
    "share_identifier": ("--share-identifier", "AIRFLOW_BATCH_ROS_SHARE_IDENTIFIER"),
    "region": ("--region", "AIRFLOW_BATCH_ROS_REGION"),
    "profile": ("--profile", "AIRFLOW_BATCH_ROS_PROFILE"),
    "role_arn": ("--role-arn", "AIRFLOW_BATCH_ROS_ROLE_ARN"),
}
"""How each setting of one value is said."""


@pytest.mark.parametrize("name", WAYS)
def test_each_setting_comes_from_the_first_place_that_says_it(name: str, tmp_path: Path) -> None:
    flag, variable = WAYS[name]
    (tmp_path / "airflow-batch-ros.yaml").write_text(f"{name}: of-the-file\n")

    def found(*words: str, **environ: str) -> str | None:
        return read_settings(arguments(*words), environ=environ, folder=tmp_path).find(name)

    assert found() == "of-the-file"
    assert found(**{variable: "of-the-environment"}) == "of-the-environment"
    assert found(flag, "of-the-flag", **{variable: "of-the-environment"}) == "of-the-flag"


def test_region_profile_and_role_reach_the_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws_config = tmp_path / "config"
    aws_config.write_text("[profile fleet]\naws_access_key_id = own\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(aws_config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "airflow-batch-ros.yaml").write_text("region: eu-west-3\nprofile: fleet\n")
    session = read_settings(arguments(), environ={}, folder=tmp_path).clients().session
    credentials = session.get_credentials()
    assert (session.region_name, credentials and credentials.access_key) == ("eu-west-3", "own")
    role = {"AIRFLOW_BATCH_ROS_ROLE_ARN": "arn:aws:iam::123456789012:role/operators"}
    session = read_settings(arguments(), environ=role, folder=tmp_path).clients().session
    credentials = session.get_credentials()
    assert credentials is not None
    assert credentials.method == "assume-role"


def test_a_flag_of_the_file_is_true_or_false(tmp_path: Path) -> None:
    file = tmp_path / "airflow-batch-ros.yaml"
    file.write_text("requester_pays: true\n")

    def found(*words: str, **environ: str) -> bool:
        return read_settings(arguments(*words), environ=environ, folder=tmp_path).flag("requester_pays")

    assert found()
    assert not found("--no-requester-pays")
    assert not found(AIRFLOW_BATCH_ROS_REQUESTER_PAYS="false")
    with pytest.raises(SettingsError, match=r"'1' .from AIRFLOW_BATCH_ROS_REQUESTER_PAYS.*true or false"):
        found(AIRFLOW_BATCH_ROS_REQUESTER_PAYS="1")
    file.write_text("requester_pays: 'yes'\n")
    with pytest.raises(SettingsError, match="requester_pays: true or false is expected, not 'yes'"):
        found()


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("job_que: x\n", (), "airflow-batch-ros.yaml: unknown job_que; known are output, job_queue, "),
        ("- x\n", (), "airflow-batch-ros.yaml: a mapping of settings is expected, not ['x']"),
        ("output: [x]\n", (), "airflow-batch-ros.yaml: output: text or a number is expected, not ['x']"),
        ("output: {\n", (), "airflow-batch-ros.yaml is not YAML: "),
        ("output: a\noutput: b\n", (), "airflow-batch-ros.yaml: key 'output' is there twice"),
        ("tags: {a: 1, a: 2}\n", (), "airflow-batch-ros.yaml: key 'a' of 'tags' is there twice"),
        ("tags: x\n", (), "airflow-batch-ros.yaml: tags: a mapping of names to texts is expected, not 'x'"),
        ("", ("--tag", "x"), "tag 'x' (from --tag): KEY=VALUE is expected"),
        ("", ("--job-queue", ""), "job_queue '' (from --job-queue): it is empty"),
        ("region: ''\n", (), "airflow-batch-ros.yaml): it is empty"),
        ("", ("--config", "none.yaml"), "none.yaml (from --config) cannot be read: No such file"),
        ("output: lake\n", (), "output from "),
        (
            "",
            (),
            "no output is said: say --output, AIRFLOW_BATCH_ROS_OUTPUT in the environment or 'output' in",
        ),
    ],
)
def test_a_wrong_setting_is_said_with_where_it_came_from(
    tmp_path: Path, text: str, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "airflow-batch-ros.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_settings(arguments(*words), environ={}, folder=tmp_path).output()
    assert message in str(caught.value)


def test_a_conf_that_has_a_key_twice_is_refused_wherever_it_comes_from(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shell.conf("a").replace('"report"', '"topics": "/a", "topics": "/b", "report"')
    (tmp_path / "conf.json").write_text(text)
    put(shell.s3, shell.bucket, "conf.json", body=text.encode())
    for conf in (text, str(tmp_path / "conf.json"), f"s3://{shell.bucket}/conf.json", "-"):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        done = shell.run("plan", "--conf", conf)
        assert (done.code, "key 'topics' is there twice" in done.err) == (2, True), done.err


def test_prices_that_are_said_twice_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"vcpu_hour": 1, "vcpu_hour": 2, "gb_hour": 1, "currency": "EUR"}')
    settings = read_settings(arguments(), environ={"AIRFLOW_BATCH_ROS_PRICES": str(file)}, folder=tmp_path)
    with pytest.raises(SettingsError, match="key 'vcpu_hour' is there twice"):
        settings.prices()


def test_a_number_and_a_profile_are_checked(tmp_path: Path) -> None:
    found = read_settings(arguments("--vcpus", "many", "--profile", "nobody"), environ={}, folder=tmp_path)
    with pytest.raises(SettingsError, match=r"vcpus 'many' \(from --vcpus\): a number is expected"):
        found.number("vcpus", float)
    with pytest.raises(SettingsError, match="a whole number is expected"):
        found.number("vcpus", int)
    for number in ("0", "-1", "nan", "inf"):
        with pytest.raises(SettingsError, match=rf"vcpus '{number}' .*: a number above 0 is expected"):
            read_settings(arguments("--vcpus", number), environ={}, folder=tmp_path).number("vcpus", float)
    with pytest.raises(SettingsError, match=r"profile 'nobody' \(from --profile\): AWS's configuration has"):
        found.clients()


def test_a_stack_says_what_nothing_else_does(shell: Shell, aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "JobQueueArn": QUEUE,
        "JobDefinitionArn": "test-good",
        "OutputUri": f"s3://{shell.bucket}/from-stack",
        "Platform": "FARGATE_SPOT",
        "FargateQueueArn": "not-on-spot",
    }
    template = {
        "Resources": {"Group": {"Type": "AWS::Logs::LogGroup"}},
        "Outputs": {name: {"Value": value} for name, value in values.items()},
    }
    stack = f"stack-{shell.bucket}"
    aws.client("cloudformation").create_stack(StackName=stack, TemplateBody=json.dumps(template))
    monkeypatch.setenv("AIRFLOW_BATCH_ROS_STACK", stack)
    words = ["submit", "--conf", shell.conf("one"), "--run-id", "r", "--json"]
    shell.capsys.readouterr()
    assert cli.main(words) == 0
    (drive,) = json.loads(shell.capsys.readouterr().out)["drives"]
    assert drive["output"] == values["OutputUri"]
    (record,) = runs.find(Lake(shell.s3, values["OutputUri"]), "r")
    assert record.submit_options.on_demand_queue == "not-on-spot"
    definition = describe(shell.batch, [drive["job_id"]])[drive["job_id"]]["jobDefinition"]
    assert "/test-good:" in definition
    assert cli.main(["status", "r"]) == 0
    assert cli.main(["status", "r", "--stack", "nowhere"]) == 2
    assert "stack 'nowhere' (from --stack): there is no stack nowhere" in shell.capsys.readouterr().err


def test_a_role_is_taken_on(aws: Any) -> None:
    own, role = open_session(), open_session(role_arn="arn:aws:iam::123456789012:role/operators")
    credentials = role.get_credentials(), own.get_credentials()
    assert None not in credentials
    assumed, source = (each.get_frozen_credentials() for each in credentials if each is not None)
    assert assumed.access_key != source.access_key
    assert assumed.token
    assert role.region_name == own.region_name
    assert Clients(role).batch.describe_job_queues()["jobQueues"]


def test_every_command_and_its_flags_are_documented() -> None:
    documented = (ROOT / "docs" / "command-line.md").read_text()
    (subparsers,) = (each for each in cli.build_parser()._actions if isinstance(each.choices, dict))
    for name in ("submit", "status", "logs", "cancel", "retry"):
        assert f"`{name} " in documented
        flags = {flag for action in subparsers.choices[name]._actions for flag in action.option_strings}
        own = {"-h", "--help", "--poll-seconds", "--patience-seconds", "--shard-bytes", "--reason"}
        assert [flag for flag in sorted(flags - own) if flag not in documented] == []


def test_a_retry_that_fails_says_how_many_were_submitted(shell: Shell) -> None:
    run = Run("", "r")
    for drive in ("one", "two"):
        fanout(shell, run, drive, does="hang").submit_all()
    shell.run("cancel", "r")
    put(shell.s3, shell.bucket, "two/b.bag", body=ros1_bag(first=1))
    holder = Lease("two", "other", Run("", "other"), "2026-01-01T00:00:00+00:00")
    assert shell.lake.create(contract.lease_key("two"), contract.to_json(holder))
    done = shell.run("retry", "r", "--job-definition", "test-good")
    assert done.code == 75
    assert done.err.startswith("1 drive cannot be run; 1 other is submitted:\n- drive 'two': run 'other'")
    with pytest.raises(FanoutError):
        fanout(shell, run, "two").submit_all()


FULL = "standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="a device that is always full")
@pytest.mark.parametrize(("reader", "code", "said"), [("> /dev/full", 4, FULL), ("| true", 0, "")])
def test_standard_output_that_cannot_be_written(reader: str, code: int, said: str) -> None:
    program = f"'{sys.executable}' -c 'import sys; from airflow_batch_ros.cli import main; sys.exit(main())'"
    done = subprocess.run(
        ["bash", "-c", f"(sleep 0.1; {program} --help) {reader}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, said)
