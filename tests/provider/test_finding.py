"""Drives found by patterns: which folders they are, how they are called, and what a run makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros import finding, runs
from airflow_batch_ros.allowed import AllowList, check_allowed
from airflow_batch_ros.conf import ConfError, DrivePattern, PipelineConf, parse_conf
from airflow_batch_ros.fanout import Fanout, FanoutError
from airflow_batch_ros.finding import drive_id, find_drives, with_found
from airflow_batch_ros.jobs import SubmitOptions, Work
from airflow_batch_ros.plan import PlanError
from ros_to_parquet import contract
from ros_to_parquet.contract import Plan, Run
from tests.provider.bags import MESSAGES, UNREADABLE, ros1_bag
from tests.provider.builders import manifest, put, save_manifests, save_plan
from tests.provider.test_commands import Shell, shell
from tests.provider.test_fanout import QUEUE, World, world
from tests.provider.test_load import counted_calls

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

__all__ = ["shell", "world"]


def patterns(bucket: str, **prefixes: str) -> PipelineConf:
    """A conf of patterns; of their ids ``_`` is the star."""
    raw = {key.replace("_", "*"): {"bucket": bucket, "prefix": each} for key, each in prefixes.items()}
    return parse_conf({"drives_to_process": raw, "report": False})


def found(s3: S3Client, bucket: str, prefix: str, *, output: str = "s3://lake/out") -> dict[str, str]:
    """Ids and prefixes."""
    drives = find_drives(s3, DrivePattern("*", bucket, prefix), output=output)
    assert all(drive.found for drive in drives)
    return {drive.drive_id: drive.prefix for drive in drives}


def small_pages(aws: EmbeddedAws) -> S3Client:
    """A client whose listings have two folders a page."""
    client: S3Client = aws.client("s3")
    client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.setdefault("MaxKeys", 2)
    )
    return client


def test_many_stars_cost_no_more_than_few() -> None:
    assert finding._names("*a" * 20 + "*b").fullmatch("a" * 200) is None
    matches = finding._names("car_*[1]*.d*")
    names = ("car_x[1]y.d", "car_[1].day\n", "car_1.d", "car_[1]d", "car_[1].d")
    assert [bool(matches.fullmatch(name)) for name in names] == [True, True, False, False, True]
    assert finding._names("a*a").fullmatch("a") is None


def test_a_pattern_that_finds_the_lake_alone_says_so(s3: S3Client, bucket: str) -> None:
    put(s3, bucket, "fleet/car_1/a.bag", body=b"x")
    with pytest.raises(PlanError, match=f"matches only folders of the lake s3://{bucket}; check 'output'"):
        found(s3, bucket, "fleet/*/", output=f"s3://{bucket}")


@pytest.mark.parametrize(
    ("of", "prefix", "folder", "made"),
    [
        ("*", "fleet/*/", "fleet/car_7/", "car_7"),
        ("eu.*", "fleet/*/", "fleet/car_7/", "eu.car_7"),
        ("*", "fleet/car_*/", "fleet/car_7/", "car_7"),
        ("*", "*/*/", "car_7/2026-11-20/", "car_7.2026-11-20"),
        ("*", "*/raw/*/bags/", "car_7/raw/2026-11-20/bags/", "car_7.2026-11-20"),
        ("*", "fleet/*/", "fleet/car.7/", "car.7-"),
        ("*", "fleet/*/", "fleet/Fahrt München/", "Fahrt_M_nchen-"),
    ],
)
def test_a_drive_is_called_as_the_folders_in_the_stars_places(
    of: str, prefix: str, folder: str, made: str
) -> None:
    name = drive_id(DrivePattern(of, "raw", prefix), folder)
    assert name == made or (name.startswith(made) and len(name) == len(made) + 8)


def test_which_folders_a_pattern_finds(s3: S3Client, bucket: str) -> None:
    put(
        s3,
        bucket,
        *("fleet/car_1/a.bag", "fleet/car_2/deep/a.bag", "fleet/van_1/a.bag", "fleet/loose.bag"),
        *("fleet/_tmp/a.bag", "fleet/.trash/a.bag", "fleet/car_3/bags/a.bag", "other/car_9/a.bag"),
        *("fleet/lake/imu/x.parquet", "fleet/car+1/a.bag"),
    )
    output = f"s3://{bucket}/fleet/lake"
    every = found(s3, bucket, "fleet/*/", output=output)
    (odd,) = (each for each in every if each.startswith("car_1-"))
    assert every[odd] == "fleet/car+1/"
    assert set(every) == {"car_1", odd, "car_2", "car_3", "van_1"}
    assert set(found(s3, bucket, "fleet/car_*/")) == {"car_1", "car_2", "car_3"}
    assert found(s3, bucket, "fleet/*_1/") == {"car_1": "fleet/car_1/", "van_1": "fleet/van_1/"}
    assert found(s3, bucket, "fleet/*/bags/") == {"car_3": "fleet/car_3/bags/"}
    assert set(found(s3, bucket, "*/car_*/")) >= {"fleet.car_1", "other.car_9"}
    assert found(s3, bucket, "fleet/_t*/") != {}


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("fleet/bus_*/", "matches no folder; nothing is there; check"),
        ("fleet/*_x/", "matches no folder; there are fleet/car_1/, fleet/car_2/; check"),
        ("fleet/*/bags/", "matches no folder; there are fleet/car_1/"),
    ],
)
def test_a_pattern_that_finds_nothing_says_what_is_there(
    s3: S3Client, bucket: str, prefix: str, text: str
) -> None:
    put(s3, bucket, "fleet/car_1/a.bag", "fleet/car_2/a.bag")
    with pytest.raises(PlanError, match=r"pattern '\*' \(s3://") as caught:
        found(s3, bucket, prefix)
    assert text in str(caught.value)


def test_a_pattern_that_finds_too_much_is_refused(
    s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "MAX_FOLDERS", 3)
    put(
        s3,
        bucket,
        *(f"a/{number}/x.bag" for number in range(3)),
        *(f"b/{number}/x.bag" for number in range(4)),
    )
    assert len(found(s3, bucket, "a/*/")) == 3
    for prefix in ("b/*/", "*/*/"):
        with pytest.raises(PlanError, match="matches more than 3 folders; make it narrower"):
            found(s3, bucket, prefix)


def test_only_folders_that_match_are_too_many(
    aws: EmbeddedAws, s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "MAX_FOLDERS", 3)
    put(s3, bucket, *(f"fleet/{number}{end}/x.bag" for number in range(3) for end in ("_a", "_b", "_c")))
    assert set(found(small_pages(aws), bucket, "fleet/*_c/")) == {"0_c", "1_c", "2_c"}


def test_more_folders_than_a_page(aws: EmbeddedAws, s3: S3Client, bucket: str) -> None:
    put(s3, bucket, *(f"fleet/{number}/x.bag" for number in range(5)))
    assert len(found(small_pages(aws), bucket, "fleet/*/")) == 5


def test_what_two_patterns_find_is_told_apart(s3: S3Client, bucket: str) -> None:
    put(s3, bucket, "eu/car_1/a.bag", "us/car_1/a.bag")

    def ids(conf: PipelineConf) -> list[str]:
        of_each = [find_drives(s3, pattern, output="s3://lake/out") for pattern in conf.patterns]
        return [drive.drive_id for drive in with_found(conf, of_each).drives]

    raw = {"bucket": bucket, "prefix": "eu/car_1/"}
    named = parse_conf({"drives_to_process": {"first": raw, "*": {"bucket": bucket, "prefix": "*/*/"}}})
    assert ids(named) == ["first", "us.car_1"]
    assert ids(patterns(bucket, **{"eu._": "eu/*/", "us._": "us/*/"})) == ["eu.car_1", "us.car_1"]
    clash = parse_conf(
        {
            "drives_to_process": {
                "*": {"bucket": bucket, "prefix": "eu/*/"},
                "car*": {"bucket": bucket, "prefix": "us/car*/"},
            }
        }
    )
    assert ids(clash) == ["car_1", "carcar_1"]
    same = replace(clash, patterns=tuple(replace(each, drive_id="*") for each in clash.patterns))
    with pytest.raises(ConfError, match=r"'car_1': s3://.*eu/car_1/ and s3://.*us/car_1/ would both be it"):
        ids(same)
    with pytest.raises(ConfError, match="lies inside"):
        ids(patterns(bucket, **{"a._": "*/", "b._": "*/*/"}))


@pytest.mark.parametrize(
    ("prefix", "outside"),
    [
        ("fleet/*/", False),
        ("fleet/eu/*/", False),
        ("fleet/car_*/*/", False),
        ("*/", True),
        ("fleets/*/", True),
        ("fleet*/", True),
        ("fleet/../*/", True),
        ("fleet/*/../../secret/", True),
        ("fleet/*/%2e%2e/x/", True),
    ],
)
def test_a_pattern_reaches_no_further_than_what_is_allowed(prefix: str, outside: bool) -> None:
    conf = patterns("raw-data", _=prefix)
    lists = [AllowList(("s3://raw-data/fleet", "s3://lake"), "here")]
    if outside:
        with pytest.raises(
            ConfError, match=r"drive '\*': s3://raw-data.* is outside of what this deployment"
        ):
            check_allowed(conf, "s3://lake/out", lists)
    else:
        check_allowed(conf, "s3://lake/out", lists)


def test_a_folder_that_steps_upwards_is_no_drive(s3: S3Client, bucket: str) -> None:
    put(s3, bucket, "fleet/%2e%2e/a.bag", "fleet/car_1/a.bag")
    with pytest.raises(PlanError, match=r"finds what steps upwards: s3://.*/fleet/%2e%2e/"):
        found(s3, bucket, "fleet/*/")


# --- runs -------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(world: World) -> Iterator[World]:
    put(world.s3, world.bucket, "fleet/car_1/a.bag", "fleet/car_2/a.bag", body=ros1_bag())
    put(world.s3, world.bucket, "fleet/empty/readme.txt")
    yield world
    world.end("car_1", "car_2")


def over(fleet: World, run_id: str, **more: Any) -> tuple[Fanout, list[str]]:
    said: list[str] = []
    fanout = fleet.fanout(made=patterns(fleet.bucket, _="fleet/*/"), run_id=run_id, **more)
    fanout.say = said.append
    return fanout, said


def extract(world: World, fanout: Fanout) -> None:
    """Leaves what the run's jobs would, without running them."""
    looks, problems, _ = fanout.look()
    assert not problems
    for made in (look.plan for look in looks if look.plan is not None and look.plan.shards):
        save_plan(world.lake, made)
        manifests = [manifest(made, shard) for shard in range(len(made.shards))]
        save_manifests(world.lake, manifests, commit_of=made)


def test_a_nightly_run_takes_what_is_new_or_has_changed(
    fleet: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said = over(fleet, "night_1")
    jobs = first.submit_all()
    assert [job.drive_id for job in jobs] == ["car_1", "car_2"]
    assert any(
        line.startswith("drive empty: left out: drive 'empty': no bag directly under") for line in said
    )
    assert "3 drives found and named: 2 to do, nothing new in 0, 1 left out" in said
    fleet.wait(*jobs)

    again, said = over(fleet, "night_2")
    with counted_calls(monkeypatch) as calls:
        assert again.submit_all() == []
    assert "3 drives found and named: 0 to do, nothing new in 2, 1 left out" in said
    # Nothing is written but the run's record, and nobody is asked for a job.
    assert (set(calls), calls["PutObject"]) == ({"ListObjectsV2", "GetObject", "PutObject"}, 1)
    assert sum(calls.values()) <= 4 + 6 * 2

    put(fleet.s3, fleet.bucket, "fleet/car_1/b.bag", body=ros1_bag(first=100))
    put(fleet.s3, fleet.bucket, "fleet/car_2/a.bag", body=ros1_bag(first=500, messages=3))
    third, said = over(fleet, "night_3")
    new, changed = third.submit_all()
    assert (new.bags, new.covered, changed.bags, changed.covered) == (1, 1, 1, 0)
    assert "drive car_2: bags have changed since they were extracted: all of it is extracted again" in said
    fleet.wait(new, changed)
    assert fleet.rows("car_1", new.plan_id) == MESSAGES
    assert fleet.rows("car_2", changed.plan_id) == 3


def test_a_changed_bag_is_not_taken_where_rows_of_others_would_be_lost(fleet: World) -> None:
    put(fleet.s3, fleet.bucket, "fleet/car_1/b.bag")
    extract(fleet, over(fleet, "night_1")[0])
    fleet.s3.delete_object(Bucket=fleet.bucket, Key="fleet/car_1/b.bag")
    put(fleet.s3, fleet.bucket, "fleet/car_1/a.bag", body=ros1_bag(first=500))
    second, _ = over(fleet, "night_2")
    with pytest.raises(FanoutError, match=r"rows of a.bag .its content was another. are in the lake already"):
        second.submit_all()


def test_a_second_try_takes_the_drives_of_the_first(fleet: World) -> None:
    first, _ = over(fleet, "night", definition="hang")
    assert len(first.submit_all()) == 2
    put(fleet.s3, fleet.bucket, "fleet/car_3/a.bag", body=ros1_bag())
    second, _ = over(fleet, "night", definition="hang")
    assert [(job.drive_id, job.work) for job in second.submit_all()] == [
        ("car_1", Work.ADOPTED),
        ("car_2", Work.ADOPTED),
    ]
    first.kill("the test is over")


def test_a_second_try_of_a_night_without_anything_new_asks_no_pattern_again(
    fleet: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(fleet, over(fleet, "night_1")[0])
    assert over(fleet, "night_2")[0].submit_all() == []
    put(fleet.s3, fleet.bucket, "fleet/car_3/a.bag")
    assert over(fleet, "night_2")[0].submit_all() == []
    looks, _, _ = over(fleet, "night_3")[0].look()
    assert [look.source.drive_id for look in looks if not look.left_out] == ["car_3"]
    # Of a fleet's many drives with nothing new the names of the bags are not kept.
    assert {look.plan.covered for look in looks if look.plan is not None} == {()}


def test_a_bag_that_cannot_be_read_is_tried_by_one_night_alone(fleet: World) -> None:
    put(fleet.s3, fleet.bucket, "fleet/car_1/x.bag", body=UNREADABLE)
    fleet.wait(*over(fleet, "night_1")[0].submit_all())
    second, said = over(fleet, "night_2")
    assert second.submit_all() == []
    nothing = "nothing new in 2 (1 of them with bags that cannot be read)"
    assert f"3 drives found and named: 0 to do, {nothing}, 1 left out" in said
    put(fleet.s3, fleet.bucket, "fleet/car_1/b.bag", body=ros1_bag(first=50))
    third, said = over(fleet, "night_3")
    (job,) = third.submit_all()
    assert (job.bags, job.covered, job.unreadable) == (1, 1, 1)
    assert any("drive car_1: bag x.bag: not tried again, for an earlier run" in each for each in said)


def test_a_drive_that_another_run_has_is_left_to_it(fleet: World) -> None:
    first, _ = over(fleet, "night_1", definition="hang")
    first.submit_all()
    put(fleet.s3, fleet.bucket, "fleet/car_3/a.bag", body=ros1_bag())
    second, said = over(fleet, "night_2")
    (job,) = second.submit_all()
    assert job.drive_id == "car_3"
    assert any("drive car_1: left out: run " in line and "has it (its Batch job" in line for line in said)
    fleet.wait(job)
    first.kill("the test is over")


def test_folders_without_any_bag_are_an_error(fleet: World) -> None:
    fanout = fleet.fanout(made=patterns(fleet.bucket, _="f*/"))
    with pytest.raises(
        FanoutError, match=r"no bag directly under .*set 'recursive' if the bags are in there"
    ):
        fanout.submit_all()
    nowhere = fleet.fanout(made=patterns("no-such-bucket-here", _="*/"))
    with pytest.raises(FanoutError, match=r"drive '\*': S3 refused ListObjectsV2 .NoSuchBucket"):
        nowhere.submit_all()


def test_a_committed_plan_of_many_shards_is_known_by_two_objects(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world.s3, world.bucket, *(f"fleet/car_1/{number}.bag" for number in range(40)))
    extract(world, over(world, "night_1", shard_bytes=3)[0])
    assert len(world.lake.keys("_manifests/drive_id=car_1")) == 41
    again, _ = over(world, "night_2", shard_bytes=3)
    with counted_calls(monkeypatch) as calls:
        assert again.submit_all() == []
    assert calls["GetObject"] == 2  # the drive's manifest and its plan, however many shards there are
    other, _ = over(world, "night_3", shard_bytes=3)
    other.conf = replace(other.conf, options=replace(other.conf.options, include_topics=("/x",)))
    with pytest.raises(FanoutError, match=r"rows of 0.bag .plan .*, with other options., 1.bag"):
        other.submit_all()


def test_a_run_whose_patterns_nobody_has_asked_is_taken_up_by_a_retry(shell: Shell) -> None:
    """As ``submit --remote`` leaves it, and the job that plans finds it."""
    conf = patterns(shell.bucket, _="*e/")
    options = SubmitOptions(QUEUE, "test-good")
    runs.save(shell.lake, Run("", "remote"), conf, options=options, shard_bytes=1 << 30)
    said = shell.run("status", "remote").out
    assert f"drives of s3://{shell.bucket}/*e/: not looked for yet" in said
    first = shell.run("retry", "remote", "--json", "--wait", "--poll-seconds", "0.3")
    assert [(drive["drive_id"], drive["work"]) for drive in first.json["drives"]] == [("one", "submitted")]
    again = shell.run("retry", "remote", "--json")
    assert [(drive["drive_id"], drive["work"]) for drive in again.json["drives"]] == [("one", "done")]
    assert "not looked for yet" not in shell.run("status", "remote").out


def test_submit_and_retry_take_patterns(shell: Shell) -> None:
    conf = json.dumps({"drives_to_process": {"bucket": shell.bucket, "prefix": "*e/"}, "report": False})
    words = ("--conf", conf, "--job-definition", "test-good", "--wait", "--poll-seconds", "0.5", "--json")
    put(shell.s3, shell.bucket, "three/a.bag", body=ros1_bag())
    done = shell.run("submit", "--run-id", "first", *words)
    assert (done.code, {drive["drive_id"] for drive in done.json["drives"]}) == (0, {"one", "three"})
    again = shell.run("submit", "--run-id", "second", *words)
    assert (again.code, again.json["drives"]) == (0, [])
    assert shell.run("status", "second").out.splitlines()[1:] == ["no drive had anything to do"]
    assert shell.run("retry", "second", "--wait").out.splitlines()[-1] == "nothing to do"
    assert {drive["drive_id"] for drive in shell.status("first")["drives"]} == {"one", "three"}
    retried = shell.run("retry", "first", "--json")
    assert {drive["work"] for drive in retried.json["drives"]} == {"done"}
    second = contract.make_plan_id(Run("", "second"), "one")
    assert shell.lake.load(Plan, contract.plan_key("one", second)) is None
