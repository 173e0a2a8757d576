"""Finishing steps: what follows a drive's commit, whatever becomes of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ros_to_parquet import contract, finish, lake, run
from ros_to_parquet.cli import main
from ros_to_parquet.contract import DriveManifest, ExitCode, ExtractOptions, FinishOptions, FinishRecord, Plan
from ros_to_parquet.contract import StepState as State
from ros_to_parquet.finish import Drive, Made, Step
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.storage import LocalStorage, StorageError, join
from ros_to_parquet.termination import TerminatedError
from tests.engine.sample_bags import START_NS, write_bag

JOB = run.JobIdentity("", 1, "")
REPORT = FinishOptions(report=True)


def words(bag: Path, output: Path, *more: str) -> list[str]:
    return ["extract", str(bag), "--output", str(output), "--drive-id", "d", *more]


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    write_bag(tmp_path / "a.bag", messages=3)
    return tmp_path / "a.bag"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def planned(bag: Path, output: Path, *, overwrite: bool = False) -> Plan:
    return make_plan(
        [str(bag)],
        output=str(output),
        drive_id="d",
        options=ExtractOptions(),
        overwrite=overwrite,
        take_over=False,
        finish=REPORT,
    )


def record_of(plan: Plan) -> FinishRecord | None:
    return finish.read_record(LocalStorage(), plan.output, "d", plan.plan_id)


def is_committed(plan: Plan) -> bool:
    return Path(join(plan.output, contract.drive_manifest_key("d", plan.plan_id))).exists()


def use(monkeypatch: pytest.MonkeyPatch, **steps: Callable[[Drive], Made]) -> None:
    """These steps instead of all that there are; every drive that wants a report gets them."""
    made = tuple(Step(name, lambda options: options.report, do) for name, do in steps.items())
    monkeypatch.setattr(finish, "STEPS", made)


def no_step(_: Drive) -> Made:
    return Made()


def test_a_plan_says_what_is_done_after_it_and_an_older_one_nothing(bag: Path, output: Path) -> None:
    plan = planned(bag, output)
    data = contract.to_json(plan)
    assert contract.from_json(Plan, data, where="plan") == plan
    older = json.loads(data)
    assert older["finish"].pop("report")
    assert contract.from_json(Plan, json.dumps(older).encode(), where="plan").finish == FinishOptions()
    del older["finish"]
    assert contract.from_json(Plan, json.dumps(older).encode(), where="plan").finish == FinishOptions()


def test_the_report_is_made_with_the_commit(
    bag: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(bag, output, "--report")) == ExitCode.OK
    page = output / "_reports/drive_id=d/report.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {page}"
    assert "12 messages = 12 rows + 0 rejects" in page.read_text()
    (path,) = output.glob("_manifests/drive_id=d/*/finish.json")
    record = contract.from_json(FinishRecord, path.read_bytes(), where="it")
    assert [(step.step, step.state, step.wrote) for step in record.steps] == [
        ("report", State.DONE, ("_reports/drive_id=d/report.html",))
    ]
    assert record.steps[0].seconds > 0
    assert lake.read_drive(LocalStorage(), str(output), "d").files()  # to whom the record is none of theirs


def test_without_being_asked_nothing_is_done(bag: Path, output: Path) -> None:
    assert main(words(bag, output)) == ExitCode.OK
    assert not list(output.glob("_manifests/*/*/finish.json"))
    assert not (output / "_reports").exists()


def test_a_report_can_be_asked_for_afterwards(
    bag: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(bag, output)) == ExitCode.OK
    assert main(["finish", str(output), "--drive-id", "d"]) == ExitCode.OK
    assert "no finishing step is asked for" in capsys.readouterr().out
    assert main(words(bag, output, "--report")) == ExitCode.OK  # which has nothing else to do
    page = output / "_reports/drive_id=d/report.html"
    assert f"report: {page}" in capsys.readouterr().out
    page.unlink()
    assert main(["finish", str(output), "--drive-id", "d", "--report"]) == ExitCode.OK
    assert page.exists()
    assert main(["finish", str(output), "--drive-id", "e", "--report"]) == ExitCode.INPUT_MISSING


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (["--catalog", "glue:drives"], ExitCode.OUTPUT_FAILED, "! catalog failed: "),
        (["--sync", '{"reference": "/none"}'], ExitCode.INPUT_MISSING, "! frames failed: "),
    ],
)
def test_a_mistake_in_what_is_asked_for_is_no_error_of_the_engine(
    bag: Path, output: Path, capsys: pytest.CaptureFixture[str], asked: list[str], code: ExitCode, said: str
) -> None:
    assert main(words(bag, output)) == ExitCode.OK
    finish_words = ["finish", str(output), "--drive-id", "d"]
    assert main([*finish_words, *asked]) == code
    assert said in capsys.readouterr().out
    assert main([*finish_words, "--report"]) == ExitCode.OK  # whatever became of another step before
    assert said not in capsys.readouterr().out


def test_a_drive_that_is_not_there_is_said_as_by_other_commands(
    bag: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(bag, output)) == ExitCode.OK
    capsys.readouterr()
    for command in (["finish"], ["report"], ["frames", "--reference", "/status"]):
        assert main([*command, str(output), "--drive-id", "e"]) == ExitCode.INPUT_MISSING
        assert f"{output}: no drive 'e'; there are d" in capsys.readouterr().err


def test_in_a_lake_that_was_moved_it_is_done_there(bag: Path, output: Path, tmp_path: Path) -> None:
    assert main(words(bag, output)) == ExitCode.OK
    moved = output.rename(tmp_path / "moved")
    assert main(["finish", str(moved), "--drive-id", "d", "--report"]) == ExitCode.OK
    assert (moved / "_reports/drive_id=d/report.html").exists()
    assert list(moved.glob("_manifests/drive_id=d/*/finish.json"))
    assert not output.exists()


def broken(_: Drive) -> Made:
    raise StorageError("the store is full")


def strange(_: Drive) -> Made:
    raise ZeroDivisionError(f"quoting {7 * 11 * 13 * 17}")  # not as its source has it


def test_a_step_that_fails_is_said_and_the_drive_is_committed(
    bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, first=broken, second=strange, third=lambda _: Made(("a/b",), "half of it"))
    assert main(words(bag, output, "--report")) == ExitCode.OK
    said = capsys.readouterr()
    assert said.out.splitlines()[-4:] == [
        "! first failed: the store is full",
        "! second failed: ZeroDivisionError; what it says may quote a bag: ROS_TO_PARQUET_DEBUG=1 logs it",
        f"third: {output}/a/b",
        "! third done: half of it",
    ]
    assert "17017" not in said.err
    assert '"event": "finished", "drive_id": "d", "step": "first", "state": "failed"' in said.err
    (path,) = output.glob("_manifests/drive_id=d/*/drive.json")
    assert contract.from_json(DriveManifest, path.read_bytes(), where="it").rows == 12


def test_who_comes_again_does_what_is_not_done(
    bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str, *, fails: bool) -> Callable[[Drive], Made]:
        def do(drive: Drive) -> Made:
            calls.append(name)
            return broken(drive) if fails else Made()

        return do

    plan = planned(bag, output)
    use(monkeypatch, good=counted("good", fails=False), bad=counted("bad", fails=True))
    run.run_shard(plan, 0, JOB)
    use(monkeypatch, good=counted("good", fails=False), bad=counted("bad", fails=False))
    for _ in range(2):  # a shard that is done already
        run.run_shard(plan, 0, JOB)
    assert calls == ["good", "bad", "bad"]
    record = record_of(plan)
    assert record is not None
    assert [(step.step, step.state) for step in record.steps] == [("good", State.DONE), ("bad", State.DONE)]


def test_a_step_that_is_killed_is_done_by_who_comes_next(
    bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Drive) -> Made:
        raise TerminatedError

    plan = planned(bag, output)
    use(monkeypatch, only=killed)
    with pytest.raises(TerminatedError):
        run.run_shard(plan, 0, JOB)
    assert is_committed(plan)
    assert record_of(plan) is None
    use(monkeypatch, only=no_step)
    run.run_shard(plan, 0, JOB)
    record = record_of(plan)
    assert record is not None
    assert record.steps[0].state is State.DONE


def test_a_step_without_an_end_is_broken_off(
    bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(_: Drive) -> Made:
        while True:
            try:
                sum(range(1000))
            except Exception:  # noqa: BLE001, S112 (as libraries have it)
                continue

    plan = planned(bag, output)
    monkeypatch.setattr(finish, "STEPS", (Step("only", lambda _: True, endless, seconds=0.05),))
    run.run_shard(plan, 0, JOB)
    record = record_of(plan)
    assert record is not None
    assert (record.steps[0].state, record.steps[0].problem) == (State.FAILED, "broken off after 0.05 s")


def test_without_matplotlib_the_report_is_skipped(
    bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("ros_to_parquet.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(words(bag, output, "--report")) == ExitCode.OK
    assert "! report skipped: " in (said := capsys.readouterr().out)
    assert "pip install 'ros-to-parquet[engine,report]'" in said
    assert main(["finish", str(output), "--drive-id", "d"]) == ExitCode.ENGINE_ERROR


def test_a_record_that_cannot_be_written_or_read_does_not_matter(
    bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, only=no_step)
    plan = planned(bag, output)
    monkeypatch.setattr(finish.contract, "finish_key", lambda *_: "_manifests/drive_id=d")  # a folder
    run.run_shard(plan, 0, JOB)
    assert is_committed(plan)
    said = capsys.readouterr().err
    assert "finish_record_unknown" in said
    assert "finish_not_recorded" in said


def test_a_plan_that_is_replaced_meanwhile_leaves_nothing_behind(
    bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(_: Drive) -> Made:
        use(monkeypatch, only=no_step)
        assert main(words(bag, output, "--overwrite", "--report")) == ExitCode.OK
        return Made()

    plan = planned(bag, output)
    use(monkeypatch, only=overtaken)
    run.run_shard(plan, 0, JOB)
    (left,) = output.glob("_manifests/drive_id=d/*")
    assert left.name != plan.plan_id
    assert (left / "finish.json").exists()


def test_overwrite_sweeps_the_record_of_what_it_replaces(bag: Path, output: Path) -> None:
    plan = planned(bag, output)
    run.run_shard(plan, 0, JOB)
    assert record_of(plan) is not None
    assert main(words(bag, output, "--overwrite")) == ExitCode.OK
    assert record_of(plan) is None
    assert len(list(output.glob("_manifests/drive_id=d/*"))) == 1


def test_a_record_that_was_left_alone_is_no_run_under_way(bag: Path, output: Path) -> None:
    plan = planned(bag, output)
    run.run_shard(plan, 0, JOB)
    for path in (output / contract.manifest_folder("d", plan.plan_id)).iterdir():
        if path.name != contract.FINISH_NAME:
            path.unlink()
    other = replace(plan, plan_id="other")
    assert not lake.end_others(LocalStorage(), other)
    assert not is_committed(plan)


def test_two_at_once(bag: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(bag, output)
    use(monkeypatch, only=no_step)
    run.run_shard(replace(plan, finish=FinishOptions()), 0, JOB)
    together = threading.Barrier(2, timeout=60)

    def meet(_: Drive) -> Made:
        together.wait()
        return Made(("x",))

    use(monkeypatch, only=meet)
    threads = [threading.Thread(target=finish.finish_drive, args=(LocalStorage(), plan)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = record_of(plan)
    assert record is not None
    assert record.steps[0].wrote == ("x",)


def test_a_report_of_a_drive_that_gets_a_bag_meanwhile_has_it(
    bag: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ros_to_parquet.report import make

    write_bag(tmp_path / "b.bag", messages=2, start_ns=START_NS + 10**10)
    made = make.make_report
    calls = 0

    def slow(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        page = made(*arguments, **named)  # type: ignore[arg-type]
        if calls == 1:
            assert main(words(tmp_path / "b.bag", output)) == ExitCode.OK
        return page

    monkeypatch.setattr(make, "make_report", slow)
    run.run_shard(planned(bag, output), 0, JOB)
    assert calls == 2
    page = (output / contract.report_key("d")).read_text()
    assert "20 messages = 20 rows + 0 rejects" in page
