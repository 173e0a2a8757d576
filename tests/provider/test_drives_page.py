"""The page of runs and drives: what it reads, what it shows, and who may see it."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros import runs
from airflow_batch_ros.cli import main
from airflow_batch_ros.drives_page import lines, shards, static
from airflow_batch_ros.drives_page.kept import Kept
from airflow_batch_ros.drives_page.lines import DriveLine, Shards, digest_of, read_lines
from airflow_batch_ros.drives_page.plugin import has_page
from airflow_batch_ros.drives_page.render import (
    STRIP_CELLS,
    DrivePage,
    DriveRow,
    RunPage,
    RunRow,
    RunsPage,
    render,
    strip_of,
)
from airflow_batch_ros.drives_page.shards import ShardLine
from airflow_batch_ros.jobs import SubmitOptions
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.runs import drives_of
from airflow_batch_ros.status import ShardState
from airflow_batch_ros.summary import summarize
from ros_to_parquet import contract
from ros_to_parquet.contract import DriveState, Run
from tests.provider.bags import MESSAGES, ros1_bag
from tests.provider.builders import bag as planned_bag
from tests.provider.builders import conf, manifest, put, save_manifests, save_plan
from tests.provider.builders import plan as make_plan
from tests.provider.test_fanout import World
from tests.provider.waiting import QUEUE

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

SMALL = 8000
CONSOLE = "http://console"


@pytest.fixture
def world(
    aws: EmbeddedAws, s3: S3Client, batch: BatchClient, bucket: str, definitions: dict[str, str]
) -> Iterator[World]:
    made = World(aws, s3, batch, bucket, definitions)
    put(s3, bucket, "drive_1/a.bag", body=ros1_bag())
    put(s3, bucket, "drive_2/b.bag", body=ros1_bag(first=100))
    put(s3, bucket, "drive_2/c.bag", body=ros1_bag(first=200))
    yield made
    made.end("drive_1", "drive_2")


def records(world: World, run_id: str = "run_1") -> list[runs.RunRecord]:
    return runs.of_run(world.lake, Run("dag", f"{world.bucket}-{run_id}"))


def read(world: World, run_id: str = "run_1") -> dict[str, DriveLine]:
    found = read_lines(world.batch, world.lake, drives_of(records(world, run_id)))
    return {line.drive_id: line for line in found}


@contextmanager
def counted(*clients: Any) -> Iterator[Counter[str]]:
    """How often the clients were asked, by operation."""
    counts: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:
        counts[model.name] += 1

    for client in clients:
        client.meta.events.register("before-call.*.*", count, unique_id="counted")
    try:
        yield counts
    finally:
        for client in clients:
            client.meta.events.unregister("before-call.*.*", unique_id="counted")


def leave(world: World, *drives: str, run_id: str = "run_1", run: Run | None = None) -> str:
    """What a run of these drives leaves in the lake once all is done; its id. No job runs for it."""
    run = run or Run("dag", f"{world.bucket}-{run_id}")
    options = SubmitOptions("queue", "definition")
    runs.save(world.lake, run, conf(world.bucket, *drives), options=options, shard_bytes=1)
    for drive in drives:
        plan_id = contract.make_plan_id(run, drive)
        changes: dict[str, Any] = {"plan_id": plan_id, "run": run, "drive_id": drive}
        made = make_plan([planned_bag("a.bag")], output=world.lake.output, **changes)
        save_plan(world.lake, made)
        save_manifests(world.lake, [manifest(made, 0)], commit_of=made)
        record = contract.JobRecord(plan_id, 0, f"job-of-{drive}", "name", "queue", 0)
        world.lake.create(contract.job_record_key(drive, plan_id, 0), contract.to_json(record))
    return run.run_id


# --- how drives stand -------------------------------------------------------------------------------


def test_drives_from_submission_to_commit(world: World, gate: Path) -> None:
    jobs = world.fanout("drive_1", "drive_2", definition="gated", shard_bytes=SMALL).submit_all()
    two = jobs[1]
    found = read(world)
    assert {line.shards.total for line in found.values()} == {1, 2}
    assert {line.state for line in found.values()} <= {"waiting", "running"}
    assert (found["drive_2"].job_id, found["drive_2"].ended) == (two.job_id, False)
    gate.touch()
    world.wait(*jobs)
    found = read(world)
    line = found["drive_2"]
    assert (line.state, line.committed, line.rows, line.tables) == ("succeeded", True, 2 * MESSAGES, 1)
    assert (line.shards, line.failing, line.note) == (Shards(2, 2), False, "")
    (with_job,) = lines.with_jobs(world.lake, [line])
    assert with_job.job_id == two.job_id
    put(world.s3, world.bucket, "lake/_reports/drive_id=drive_2/report.html")
    links = lines.links_of(
        world.batch,
        world.lake,
        [with_job, found["drive_1"]],
        console_base=CONSOLE,
        report_url=lambda each: f"/{each.drive_id}",
    )
    assert links[0].job.startswith(f"{CONSOLE}/batch/home?region=us-east-1#jobs/detail/")
    assert [each.report for each in links] == ["/drive_2", ""]
    again = read_lines(world.batch, world.lake, drives_of(records(world)), known={line.plan_id: with_job})
    assert again[1] is with_job, "what is known is not asked for"

    # The second run finds nothing to do.
    nothing = world.fanout("drive_1", run_id="run_2").submit_all()
    line = read(world, "run_2")["drive_1"]
    assert line.state == "nothing_to_do"
    (summary,) = summarize(world.s3, world.batch, world.aws.client("logs"), nothing)
    assert summary.result.rows == MESSAGES
    assert lines.line_of_summary(summary) == line, "what earlier runs have done is theirs"


def test_shards_that_fail_and_those_that_another_job_then_does(world: World) -> None:
    (first,) = world.fanout("drive_2", definition="some fail", shard_bytes=SMALL).submit_all()
    world.wait(first)
    line = read(world)["drive_2"]
    assert (line.state, line.failing) == ("partial", True)
    assert line.shards == Shards(2, 1, failed=1)
    assert line.job_state == "FAILED"
    (summary,) = summarize(world.s3, world.batch, world.aws.client("logs"), [first])
    said = lines.line_of_summary(summary)
    assert (said.state, said.failing, said.shards) == (line.state, line.failing, line.shards)
    assert said.note.startswith("shard 1: engine_error: exit code 70")

    (drive,) = drives_of(records(world))
    detail = shards.read_drive(world.batch, world.lake, drive)
    assert detail.states == (ShardState.DONE, ShardState.FAILED)
    done, failed = shards.read_shards(world.batch, world.lake, detail, [0, 1], console_base=CONSOLE)
    assert (done.cause, failed.cause, failed.job_id) == ("", "engine_error", f"{first.job_id}:1")
    assert "exit code 70" in failed.reason
    assert "log-events" in failed.log_url
    assert "log-events" in done.log_url
    assert detail.of("failed") == [1]

    (second,) = world.fanout("drive_2", shard_bytes=SMALL).submit_all()
    assert (second.generation, second.array_size) == (1, 0)
    world.wait(second)
    line = read(world)["drive_2"]
    assert (line.state, line.shards, line.rows) == ("succeeded", Shards(2, 2), 2 * MESSAGES)
    detail = shards.read_drive(world.batch, world.lake, drive)
    assert (detail.states, detail.commit is not None) == ((ShardState.DONE, ShardState.DONE), True)
    old, new = shards.read_shards(world.batch, world.lake, detail, [0, 1], console_base=CONSOLE)
    assert (old.job_id, new.job_id) == ("", second.job_id), "the last job did the second shard alone"


def test_a_drive_that_another_run_has_replaced(world: World) -> None:
    first = world.fanout("drive_1").submit_all()
    world.wait(*first)
    world.wait(*world.fanout("drive_1", run_id="run_2", overwrite=True).submit_all())
    line = read(world)["drive_1"]
    assert (line.state, line.failing, line.ended, line.rows) == ("succeeded", False, True, 0)
    assert (line.replaced, line.shards) == (True, Shards())
    assert line.note.startswith(f"replaced by run '{world.bucket}-run_2' of DAG 'dag' (succeeded): ")
    (summary,) = summarize(world.s3, world.batch, world.aws.client("logs"), first)
    assert lines.line_of_summary(summary) == line
    (drive,) = drives_of(records(world))
    found = shards.read_drive(world.batch, world.lake, drive)
    assert (found.line, found.states) == (line, ())
    text = Links(render(a_drive_page(line, shards=Shards()))).text
    assert "replaced by run" in text
    assert "lost" not in text


def test_what_was_not_submitted_and_what_batch_has_forgotten(world: World) -> None:
    made = conf(world.bucket, "drive_1", "drive_2")
    run = Run("dag", f"{world.bucket}-run_9")
    runs.save(world.lake, run, made, options=SubmitOptions("queue", "definition"), shard_bytes=1)
    assert {line.state for line in read(world, "run_9").values()} == {"not_planned"}

    first, second = (contract.make_plan_id(run, drive) for drive in ("drive_1", "drive_2"))
    planned = make_plan([planned_bag("a.bag")] * 3, plan_id=first, run=run, output=world.lake.output)
    save_plan(world.lake, planned)
    assert read(world, "run_9")["drive_1"].state == "not_submitted"

    forgotten = make_plan(
        [planned_bag("a.bag")] * 3, plan_id=second, run=run, drive_id="drive_2", output=world.lake.output
    )
    save_plan(world.lake, forgotten)
    record = contract.JobRecord(second, 0, "00000000-0000-0000-0000-000000000000", "n", "q", 3)
    world.lake.create(contract.job_record_key("drive_2", second, 0), contract.to_json(record))
    save_manifests(world.lake, [manifest(forgotten, 1)])
    line = read(world, "run_9")["drive_2"]
    assert (line.state, line.failing, line.shards) == ("partial", True, Shards(3, 1, failed=2))
    assert line.note == "Batch does not know the job any more"


def test_a_drive_that_its_quality_fails(world: World) -> None:
    run = Run("dag", f"{world.bucket}-run_1")
    made = conf(world.bucket, "drive_1", fail_on=["quality_error"])
    runs.save(world.lake, run, made, options=SubmitOptions("queue", "definition"), shard_bytes=1)
    plan_id = contract.make_plan_id(run, "drive_1")
    planned = make_plan([planned_bag("a.bag")], plan_id=plan_id, run=run, output=world.lake.output)
    level, check = contract.QualityLevel.ERROR, contract.QualityCheck.GAP
    finding = contract.QualityFinding(HOSTILE, check, level, 30, 20, "s", "after 3 s")
    quality = contract.DriveQuality("_quality/x", ok=7, warn=0, error=1, findings=(finding,))
    commit = dataclasses.replace(contract.fold(planned, [manifest(planned, 0)]), quality=quality)
    world.lake.create(contract.drive_manifest_key("drive_1", plan_id), contract.to_json(commit))
    line = read(world)["drive_1"]
    assert (line.state, line.failing) == ("succeeded", True)
    assert line.quality == "quality: 1 error, 0 warnings, 7 checks ok"
    assert "quality: 1 error" in Links(render(a_run_page([line]))).text
    found = Links(render(a_drive_page(line, commit=commit)))
    assert "gap 30 s (error above 20): after 3 s" in found.text
    assert found.tags["script"] == 0


def test_the_cost_does_not_grow_with_shards(world: World) -> None:
    """Ten committed drives of two hundred shards: a request each, and no list."""
    names = [f"drive_{number}" for number in range(10)]
    run = Run("dag", f"{world.bucket}-many")
    options = SubmitOptions("queue", "definition")
    runs.save(world.lake, run, conf(world.bucket, *names), options=options, shard_bytes=1)
    for name in names:
        plan_id = contract.make_plan_id(run, name)
        planned = make_plan(
            [planned_bag("a.bag")] * 200, plan_id=plan_id, run=run, drive_id=name, output=world.lake.output
        )
        key = contract.drive_manifest_key(name, plan_id)
        folded = contract.fold(planned, [manifest(planned, 0)] * 200)
        world.lake.create(key, contract.to_json(folded))
    drives = drives_of(records(world, "many"))
    with counted(world.s3, world.batch) as counts:
        found = read_lines(world.batch, world.lake, drives)
    assert dict(counts) == {"GetObject": 10}
    assert {line.rows for line in found} == {2000}


# --- as files ---------------------------------------------------------------------------------------


def text_of(lake: Lake, key: str) -> str:
    data = lake.read(key)
    assert data is not None, f"there is no {key}"
    return data.decode()


def test_pages_as_files(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    put(world.s3, world.bucket, "lake/_reports/drive_id=drive_1/report.html")
    leave(world, "drive_1", "drive_2")
    assert main(["drives-page", "--output", world.lake.output, "--console-base-url", CONSOLE]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"dag/{world.bucket}-run_1: 2 succeeded",
        f"s3://{world.bucket}/lake/_reports/index.html",
    ]
    index = Links(text_of(world.lake, static.INDEX_KEY))
    (run_page,) = index.urls
    assert "2 succeeded" in index.text
    page = Links(text_of(world.lake, f"_reports/{run_page}"))
    assert page.urls[0] == "../index.html"
    assert "../drive_id=drive_1/report.html" in page.urls
    assert "../drive_id=drive_2/report.html" not in page.urls
    assert sum(url.startswith(f"{CONSOLE}/batch/home") for url in page.urls) == 2
    answer = world.s3.head_object(Bucket=world.bucket, Key=f"lake/{static.INDEX_KEY}")
    assert answer["ContentType"] == "text/html; charset=utf-8"

    # Another run has begun.
    leave(world, "drive_1", run_id="run_2")
    static.write_index(world.lake)
    assert "not ended, or without a page" in text_of(world.lake, static.INDEX_KEY)
    assert main(["drives-page", f"{world.bucket}-run_2", "--output", world.lake.output, "--json"]) == 0
    index = Links(text_of(world.lake, static.INDEX_KEY))
    assert (len(index.urls), "1 succeeded" in index.text) == (2, True)

    # One that is retried: what its page says is of before.
    (record,) = records(world, "run_2")
    runs.save(
        world.lake, record.run, record.conf, options=record.submit_options, shard_bytes=record.shard_bytes
    )
    static.write_index(world.lake)
    assert "submitted again since" in text_of(world.lake, static.INDEX_KEY)


def test_of_two_runs_that_end_at_once_the_list_has_both(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is held between reading and writing, while the other does all of it; whichever is first."""
    leave(world, "drive_1", run_id="run_1")
    leave(world, "drive_2", run_id="run_2")
    made = static.render
    for there_before in (False, True):
        for run_id in ("run_1", "run_2"):
            world.lake.delete(static.digest_key(records(world, run_id)[0].run))
        if not there_before:
            world.lake.delete(static.INDEX_KEY)
        reached, go_on = threading.Event(), threading.Event()
        held: list[int] = []

        def slow(
            page: Any,
            held: list[int] = held,
            reached: threading.Event = reached,
            go_on: threading.Event = go_on,
        ) -> str:
            text = made(page)
            if isinstance(page, RunsPage) and threading.current_thread().name == "slow":
                held.append(len([row for row in page.rows if row.states]))
                reached.set()
                assert go_on.wait(120)
            return text

        monkeypatch.setattr(static, "render", slow)

        def write(run_id: str) -> None:
            static.write_run(world.batch, world.lake, records(world, run_id))
            static.write_index(world.lake)

        thread = threading.Thread(target=write, args=("run_1",), name="slow")
        thread.start()
        assert reached.wait(120)
        write("run_2")
        go_on.set()
        thread.join()
        assert held == [1, 2], "the first try did not know of the other run, the second does"
        assert text_of(world.lake, static.INDEX_KEY).count("1 <span") == 2


def test_of_two_sensors_of_a_run_that_end_at_once_the_page_is_of_who_read_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(world, "drive_1")
    (record,) = records(world)
    both = dataclasses.replace(record, conf=conf(world.bucket, "drive_1", "drive_2"))
    read_of = static.read_lines
    reads: list[int] = []

    def read_and_be_overtaken(*arguments: Any, **options: Any) -> list[DriveLine]:
        found = read_of(*arguments, **options)
        reads.append(sum(line.ended for line in found))
        if len(reads) == 1:  # meanwhile the other drive ends, and its sensor writes the page
            leave(world, "drive_2")
            static.write_run(world.batch, world.lake, [both])
        return found

    monkeypatch.setattr(static, "read_lines", read_and_be_overtaken)
    digest = static.write_run(world.batch, world.lake, [both])
    assert reads == [1, 2, 2]
    assert (digest.ended, digest.by_state) == (True, {"succeeded": 2})
    assert static.read_digest(world.lake, record.run) == digest
    (page,) = [key for key in world.lake.keys("_reports/runs") if key.endswith(".html")]
    assert "2 of 2" in Links(text_of(world.lake, page)).text


def test_a_digest_that_another_release_wrote_is_as_none(world: World) -> None:
    run = Run("dag", "run")
    world.lake.write(static.digest_key(run), b'{"new": 1}')
    assert static.read_digest(world.lake, run) is None


# --- what is shown ----------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>\" onmouseover='x' \x1b[2J\u202egnp.exe"


class Links(HTMLParser):
    """The elements and links of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.urls: list[str] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.add(name)
            if name == "href":
                self.urls.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def a_line(**changes: Any) -> DriveLine:
    told: dict[str, Any] = {"drive_id": "d", "source": "s3://raw/d/", "plan_id": "p", "state": "succeeded"}
    return DriveLine(**{**told, **changes})


def a_run_page(of: list[DriveLine], **changes: Any) -> RunPage:
    run = Run("dag", "run")
    told: dict[str, Any] = {
        "lake": "s3://lake",
        "written_at": "2026-11-21T20:00:00+00:00",
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "submitted_at": "2026-11-21T19:00:00+00:00",
        "digest": digest_of(run, of, submitted_at="", written_at=""),
        "shards": static.sum_of(line.shards for line in of),
        "states": [("", len(of), "./", True)],
        "rows": [DriveRow(line) for line in of],
        "first": 1,
        "last": len(of),
        "of": len(of),
    }
    return RunPage(**{**told, **changes})


def a_drive_page(line: DriveLine, **changes: Any) -> DrivePage:
    told: dict[str, Any] = {
        "lake": "s3://lake",
        "written_at": "2026-11-21T20:00:00+00:00",
        "run_id": "run",
        "line": line,
        "shards": Shards(1, 1),
        "states": [("", 1, "#shards", True)],
        "strip": [(ShardState.DONE, 0, 1)],
        "rows": [],
        "first": 1,
        "last": 1,
        "of": 1,
        "bags": 1,
        "bag_bytes": 1,
    }
    return DrivePage(**{**told, **changes})


def test_nothing_that_others_have_named_acts_in_the_browser() -> None:
    planned = make_plan([planned_bag("a.bag")])
    table = contract.TableTotal(HOSTILE, (HOSTILE,), (HOSTILE,), 1, 1, 0, 1)
    commit = contract.fold(planned, [manifest(planned, 0)])
    commit = dataclasses.replace(commit, tables=(table,), problems=(HOSTILE,))
    step = contract.StepResult(HOSTILE, contract.StepState.FAILED, 1.0, HOSTILE)
    finish = contract.FinishRecord(1, "0", "p", "d", "", (step,))
    bad = a_line(drive_id=HOSTILE, source=HOSTILE, note=HOSTILE, job_id=HOSTILE, plan_id=HOSTILE)
    failed = ShardLine(0, ShardState.FAILED, HOSTILE, HOSTILE, job_url=HOSTILE, log_url=HOSTILE)
    row = RunRow(
        dag_id=HOSTILE, run_id=HOSTILE, submitted_at=HOSTILE, drives=1, url=HOSTILE, airflow_url=HOSTILE
    )
    common: dict[str, Any] = {"lake": HOSTILE, "written_at": HOSTILE, "places": [(HOSTILE, HOSTILE)]}
    pages = [
        RunsPage(**common, rows=[row], lakes=[(HOSTILE, HOSTILE, False), ("x", "y", True)]),
        a_run_page(
            [bad],
            **common,
            run_id=HOSTILE,
            query=HOSTILE,
            form={"run": HOSTILE},
            rows=[DriveRow(bad, HOSTILE, [("Report", HOSTILE)])],
            states=[(HOSTILE, 1, HOSTILE, False)],
        ),
        a_drive_page(bad, **common, commit=commit, finish=finish, rows=[failed], links=[("Report", HOSTILE)]),
    ]
    for page in pages:
        html = render(page)
        found = Links(html)
        assert found.tags["script"] == 0
        assert not {name for name in found.attributes if name.startswith("on")}
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert "<script>alert(1)</script>" in found.text, "it is shown as it is"


def test_a_page_is_complete_and_says_what_colours_say() -> None:
    rows = [
        a_line(state="running", shards=Shards(8, 3, 2, 1)),
        a_line(drive_id="e", state="damaged", failing=True, tables=1, rows=12345, note="a.bag ends early"),
    ]
    html = render(a_run_page(rows))
    assert html.startswith("<!doctype html>")
    assert html.rstrip().endswith("</html>")
    found = Links(html)
    assert 'aria-label="3 of 8 shards done, 2 running, 1 failed, 2 waiting"' in html
    for text in ("running", "damaged", "(fails the run)", "12,345", "a.bag ends early", "2 drives"):
        assert text in found.text
    assert found.tags["table"] == found.tags["caption"] == 1
    assert "default-src &#39;none&#39;" in html


def test_a_strip_shows_the_worst_of_its_neighbours() -> None:
    done, failed = ShardState.DONE, ShardState.FAILED
    assert strip_of([done, done, failed]) == [(done, 0, 2), (failed, 2, 1)]
    many = [done] * 10_000
    many[5_000] = failed
    many[9_999] = ShardState.RUNNING
    half, last = STRIP_CELLS // 2, STRIP_CELLS - 1
    assert strip_of(many) == [
        *((done, 0, half), (failed, half, 1), (done, half + 1, last - half - 1)),
        (ShardState.RUNNING, last, 1),
    ]


# --- in Airflow -------------------------------------------------------------------------------------

needs_page = pytest.mark.skipif(not has_page(), reason="this Airflow has no such pages")


class Manager:
    """Of the DAGs' runs a user may see those that are named; those of the command line if told so."""

    def __init__(self, *dags: str, all_activity: bool = False) -> None:
        self.dags, self.all_activity = dags, all_activity

    def is_authorized_dag(self, *, method: str, access_entity: Any, details: Any, user: Any) -> bool:
        assert (method, access_entity.value, user) == ("GET", "RUN", "someone")
        return details.id in self.dags

    def is_authorized_view(self, *, access_view: Any, user: Any) -> bool:
        assert (access_view.value, user) == ("CLUSTER_ACTIVITY", "someone")
        return self.all_activity

    def get_url_login(self, *, next_url: str) -> str:
        return f"/auth/login?next={next_url}"


class Browser:
    """Asks the page as a user's browser does."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, *, logged_in: bool = True) -> None:
        from airflow.api_fastapi.core_api.security import get_user
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        from airflow_batch_ros.drives_page import app
        from airflow_batch_ros.drives_page.places import Place

        self.manager = Manager("dag")
        monkeypatch.setattr(app, "get_auth_manager", lambda: self.manager)
        monkeypatch.setattr(app, "_details", lambda dag_id: SimpleNamespace(id=dag_id))
        page = app.make_app(lambda: [Place(world.lake, world.batch, CONSOLE)])
        if logged_in:
            page.dependency_overrides[get_user] = lambda: "someone"
        site = FastAPI()
        site.mount("/ros-to-parquet", page)
        self.client = TestClient(site, follow_redirects=False)

    def get(self, url: str, status: int = 200) -> Any:
        answer = self.client.get(f"/ros-to-parquet/{url}")
        assert answer.status_code == status, answer.text
        return answer

    def page(self, url: str, status: int = 200) -> Links:
        return Links(self.get(url, status).text)


@needs_page
def test_from_the_runs_to_a_shard_and_a_report(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world.s3, world.bucket, "lake/_reports/drive_id=drive_1/report.html", body=b"<h1>a drive</h1>")
    jobs = world.fanout("drive_1", "drive_2", definition="some fail", shard_bytes=SMALL).submit_all()
    world.wait(*jobs)
    browser = Browser(world, monkeypatch)
    index = browser.page("")
    assert "1 succeeded, 1 partial" in index.text
    assert "cannot be read" not in index.text
    run_url = next(url for url in index.urls if url.startswith("run?"))
    assert f"../dags/dag/runs/{world.bucket}-run_1" in index.urls

    run = browser.page(run_url)
    assert "1 failed" in run.text
    assert "2 of 3" in run.text
    drives = [url for url in run.urls if url.startswith("drive?")]
    assert len(drives) == 2
    assert sum("/batch/home" in url for url in run.urls) == 2
    only = browser.page(run_url + "&state=partial")
    assert [url for url in only.urls if url.startswith("drive?")] == [drives[1].replace("&drive=", "&drive=")]
    assert "No such drives" in browser.page(run_url + "&q=nobody").text
    assert "1 drive" in browser.page(run_url + "&q=VE_1").text

    drive = browser.page(drives[1])
    assert "engine_error" in drive.text
    assert any("log-events" in url for url in drive.urls)
    assert "1 shard" in browser.page(drives[1] + "&state=failed").text
    assert "No such shards" in browser.page(drives[1] + "&page=7").text

    report_url = next(url for url in run.urls if url.startswith("report?"))
    report = browser.get(report_url)
    assert report.text == "<h1>a drive</h1>"
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    monkeypatch.setattr("airflow_batch_ros.drives_page.app.MAX_REPORT_BYTES", 5)
    refused = browser.page(report_url, status=413)
    assert f"{world.lake.output}/_reports/drive_id=drive_1/report.html: 16 bytes, more than 5" in refused.text
    browser.get(report_url.replace("drive_1", "drive_2"), 404)
    browser.get(report_url.replace("drive_1", "drive_9"), 404)


@needs_page
def test_who_is_not_logged_in_is_led_to_the_login(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser(world, monkeypatch, logged_in=False)
    for url in ("", "run?run=x", "drive?run=x&drive=y", "report?run=x&drive=y"):
        answer = browser.get(url, 303)
        assert answer.headers["location"].startswith("/auth/login?next=http://testserver/ros-to-parquet/")


@needs_page
def test_runs_are_for_those_who_may_see_their_dag(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = leave(world, "drive_1")
    leave(world, "drive_2", run=Run("", "by-hand"))
    put(world.s3, world.bucket, "lake/_reports/drive_id=drive_1/report.html")
    browser = Browser(world, monkeypatch)
    of_dag = (f"run?dag=dag&run={name}", f"drive?dag=dag&run={name}&drive=drive_1")
    report = f"report?dag=dag&run={name}&drive=drive_1"
    by_hand = "run?run=by-hand"
    for url in (*of_dag, report):
        browser.get(url)
    browser.get(by_hand, 404)
    assert "by-hand" not in browser.page("").text

    browser.manager = Manager("another", all_activity=True)
    for url in (*of_dag, report):
        browser.get(url, 404)
    browser.get(by_hand)
    text = browser.page("").text
    assert "by-hand" in text
    assert name not in text
    # A run of a DAG is not had by leaving out which, nor a lake that is not Airflow's by naming it.
    browser.get(f"run?run={name}", 404)
    browser.get(f"{by_hand}&lake=s3://secret/lake", 404)


@needs_page
def test_a_thousand_drives_are_read_once_and_shown_page_by_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"car_{number:04d}" for number in range(1_000)]
    options = SubmitOptions("queue", "definition")
    run = Run("dag", f"{world.bucket}-many")
    runs.save(world.lake, run, conf(world.bucket, *names), options=options, shard_bytes=1)
    asked: list[int] = []

    def fake(batch: Any, lake: Any, drives: Any, *, known: Any) -> list[DriveLine]:
        asked.append(len(drives) - len(known))
        return [
            a_line(
                drive_id=each.drive_id, plan_id=each.plan_id, shards=Shards(10_000, 9_999, 1), state="running"
            )
            for each in drives
        ]

    from airflow_batch_ros.drives_page import app

    monkeypatch.setattr(app, "read_lines", fake)
    browser = Browser(world, monkeypatch)
    url = f"run?dag=dag&run={run.run_id}"
    page = browser.page(url)
    assert "9,999,000 of 10,000,000" in page.text
    assert "1 to 50 of 1,000 drives" in page.text
    with counted(world.s3, world.batch) as counts:
        text = browser.page(f"{url}&page=20").text
    assert "951 to 1,000 of 1,000 drives" in text
    assert dict(counts) == {"HeadObject": 50}
    assert asked == [1_000]
    browser.get(f"{url}&page=0", 422)


@needs_page
def test_a_run_whose_record_cannot_be_read_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("run_1", "run_2"):
        runs.save(
            world.lake,
            Run("dag", f"{world.bucket}-{run_id}"),
            conf(world.bucket, "drive_1"),
            options=SubmitOptions(QUEUE, "test-good"),
            shard_bytes=SMALL,
        )
    (key,) = world.lake.keys(contract.run_folder(f"{world.bucket}-run_2"))
    world.lake.write(key, b"{")
    text = Browser(world, monkeypatch).page("").text
    assert f"{world.bucket}-run_1" in text
    assert f"{world.bucket}-run_2" not in text
    assert "1 more, whose record cannot be read" in text


@needs_page
def test_what_goes_wrong_is_said_on_the_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_batch_ros.drives_page import places

    browser = Browser(world, monkeypatch)
    monkeypatch.setattr(
        Lake, "newest_folders", lambda self, folder: self.s3.get_object(Bucket="gone-1", Key="x")
    )
    text = browser.page("", 502).text
    assert "GetObject: NoSuchBucket" in text
    monkeypatch.setattr(places, "_kept", Kept(1))
    monkeypatch.setattr(places, "_variable", lambda name: "")
    with pytest.raises(places.PlaceError, match="set the Airflow Variable ros_to_parquet_output"):
        places.find_places()
    settings = {"output": f"{world.lake.output}/", "aws_conn_id": "aws_default"}
    monkeypatch.setattr(places, "_variable", lambda name: settings.get(name, ""))
    (place,) = places.find_places()
    assert place.uri == world.lake.output
    assert place.lake.keys("_plans") == []


@pytest.mark.parametrize(
    ("version", "there"),
    [("2.11.0", False), ("3.0.6", False), ("3.1.0", False), ("3.1.1", True), ("3.3.2", True)],
)
def test_which_airflow_can_have_the_page(version: str, there: bool) -> None:
    assert has_page(version) is there


def test_an_answer_is_kept_for_its_time_and_asked_for_once() -> None:
    now = [0.0]
    kept = Kept(2, clock=lambda: now[0])
    asked: list[str] = []

    def ask(name: str) -> Any:
        return lambda: asked.append(name) or name.upper()

    assert [kept.get("a", ask("a"), seconds=10) for _ in range(3)] == ["A", "A", "A"]
    now[0] = 10.5
    kept.get("a", ask("a"), seconds=lambda answer: 5.0 if answer == "A" else 0.0)
    assert asked == ["a", "a"]
    kept.get("b", ask("b"), seconds=10)
    kept.get("c", ask("c"), seconds=10)
    assert (kept.find("a"), kept.find("b"), kept.find("c")) == (None, "B", "C")
    with pytest.raises(ZeroDivisionError):
        kept.get("d", lambda: 1 / 0, seconds=10)
    assert kept.get("d", ask("d"), seconds=10) == "D"

    reached, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        reached.set()
        assert go_on.wait(120)
        asked.append("e")
        return "E"

    threads = [threading.Thread(target=kept.get, args=("e", slow), kwargs={"seconds": 10}) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert reached.wait(120)
    go_on.set()
    for thread in threads:
        thread.join()
    assert asked.count("e") == 1


def test_states_of_drives_are_those_of_the_contract() -> None:
    assert all(a_line(state=state).ended for state in DriveState)
    assert not a_line(state="running").ended


@pytest.mark.parametrize(
    ("covered", "unreadable", "fail_on", "failing"),
    [
        ((), 1, ["failed"], True),
        ((), 1, [], False),
        (("a.bag",), 1, ["failed"], False),
        (("a.bag",), 1, ["failed", "damaged"], True),
        (("a.bag",), 0, ["failed", "damaged"], False),
    ],
)
def test_a_drive_with_nothing_to_do_fails_by_bags_that_cannot_be_read(
    s3: S3Client, bucket: str, covered: tuple[str, ...], unreadable: int, fail_on: list[str], failing: bool
) -> None:
    lake = Lake(s3, f"s3://{bucket}/lake")
    run = Run("dag", "r")
    options = SubmitOptions("queue", "definition")
    runs.save(lake, run, conf(bucket, fail_on=fail_on), options=options, shard_bytes=1)
    (drive,) = drives_of(runs.find(lake, "r"))
    left = (contract.KnownUnreadable("x.bag", "cut off"),) * unreadable
    made = make_plan([], output=lake.output, covered=covered, unreadable=left)
    save_plan(lake, dataclasses.replace(made, run=run, plan_id=drive.plan_id))
    line = lines._unsubmitted(lake, drive, None)
    assert (line.state, line.failing) == (lines.NOTHING_TO_DO, failing)
    assert line.note.endswith("1 cannot be read") is bool(unreadable)
