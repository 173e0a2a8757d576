"""The contract: canonical JSON, what it refuses, table names, and the fold of manifests into a drive."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_to_parquet import contract
from ros_to_parquet.contract import (
    BagDamage,
    BagResult,
    BagSlice,
    BagStatus,
    ContractError,
    DriveManifest,
    DriveState,
    ExtractOptions,
    Manifest,
    OutputFile,
    Plan,
    PlannedBag,
    Reject,
    Run,
    TopicResult,
)

RUN = Run("ros_image_pipeline", "manual__1")


def plan(shards: int = 2, *, replaces: tuple[str, ...] = ()) -> Plan:
    bags = tuple(
        PlannedBag(f"s3://raw/d/{n}.bag", f"{n}.bag", "rosbag1", 10, f"e{n}", f"{n}.bag")
        for n in range(shards)
    )
    return Plan(
        contract_version=contract.CONTRACT_VERSION,
        plan_id=contract.make_plan_id(RUN, "drive_1"),
        run=RUN,
        drive_id="drive_1",
        source="s3://raw/d/",
        output="s3://lake/out",
        options=ExtractOptions(),
        bags=bags,
        shards=tuple((BagSlice(n),) for n in range(shards)),
        replaces=replaces,
    )


def bag_result(name: str, status: BagStatus = BagStatus.OK, **changes: object) -> BagResult:
    result = BagResult(name, BagSlice(0), status, 10, "e" + name[0], 10, 5, 5, 5, True, ())
    return dataclasses.replace(result, **changes)  # type: ignore[arg-type]


def manifest(
    shard: int, *bags: BagResult, rejected: int = 0, plan_id: str = "", **changes: object
) -> Manifest:
    rejects = (Reject(bags[0].name, 77, 5, "ends 3 bytes early"),) if rejected else ()
    topic = TopicResult(
        topic="/imu",
        table="imu",
        type_name="sensor_msgs/Imu",
        schema_hash="6a62c6da",
        messages=5,
        rows=5 - rejected,
        rejected=rejected,
        repaired_strings=0,
        bytes_in=100,
        first_log_time_ns=1,
        last_log_time_ns=9,
        files=(OutputFile(f"imu/schema=6a62c6da/drive_id=drive_1/x-{shard}.parquet", 5 - rejected, 50),),
        rejects=rejects,
    )
    made = Manifest(
        contract_version=contract.CONTRACT_VERSION,
        engine_version="0.1.0",
        plan_id=plan_id or plan().plan_id,
        drive_id="drive_1",
        shard=shard,
        options=ExtractOptions(),
        job_id="job",
        attempt=1,
        log_stream="",
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:00:01Z",
        seconds=1.5,
        peak_memory_bytes=1,
        bytes_read=10,
        bytes_written=50,
        topics=(topic,),
        bags=bags,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        plan(),
        manifest(
            0, bag_result("0.bag", damage=(BagDamage(7, "cut off"),), verified=None, expected_messages=None)
        ),
        contract.fold(plan(1), [manifest(0, bag_result("0.bag"))]),
        contract.Lease("drive_1", "abc", RUN, "2026-01-01T00:00:00Z"),
        contract.Generation(contract.CONTRACT_VERSION, "abc", 1, (3, 7)),
        contract.JobRecord("abc", 0, "id", "name", "queue", 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_json_round_trip_is_canonical(value: object) -> None:
    data = contract.to_json(value)
    again = contract.from_json(type(value), data, where="x")
    assert again == value
    assert contract.to_json(again) == data
    assert b" " not in data.split(b'"')[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.pop("drive_id"), "p: key drive_id is missing"),
        (lambda raw: raw.update(colour="red"), "p: unknown keys colour: of a later version?"),
        (lambda raw: raw.update(contract_version=99), "p: contract version 99, this engine speaks 1"),
        (lambda raw: raw.update(drive_id=7), "p.drive_id: expected str, not 7"),
        (lambda raw: raw["bags"][1].update(size_bytes="10"), "p.bags[1].size_bytes: expected int, not '10'"),
        (lambda raw: raw.update(shards=None), "p.shards: expected a list, not None"),
        (lambda raw: raw.update(run=[]), "p.run: expected an object, not []"),
    ],
)
def test_what_is_not_a_plan_is_refused_by_name(change: object, said: str) -> None:
    raw = json.loads(contract.to_json(plan()))
    change(raw)  # type: ignore[operator]
    with pytest.raises(ContractError) as caught:
        contract.from_json(Plan, json.dumps(raw).encode(), where="p")
    assert str(caught.value).startswith(said)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(ContractError, match="p: not JSON"):
        contract.from_json(Plan, b"\xff", where="p")


@pytest.mark.parametrize(
    ("topic", "table"),
    [
        ("/flir_adk/rgb_front_left/image_raw", "flir_adk.rgb_front_left.image_raw"),
        ("/a/b", "a.b"),
        ("/a_b", "a_b"),
        ("foo", "foo"),
        ("/foo", "foo"),
        ("/_hidden", "%5Fhidden"),
        ("/a.b", "a%2Eb"),
        ("../../etc", "%2E%2E.%2E%2E.etc"),
        ("/täst", "t%C3%A4st"),
        ("/", "%2F"),
        ("/Foo Bar", "Foo%20Bar"),
        ("//", "%2F%2F"),
        ("///", "%2F%2F."),
        ("//a", "%2F%2Fa"),
        ("/" + "n" * 200, "n" * 200),
        ("/" + "n" * 201, "n" * 181 + "%7e291c4194382c6bd5"),
        ("/" + "\N{GRINNING FACE}" * 60, "%F0%9F%98%80" * 15 + "%7e9781b3a1be313613"),
    ],
)
def test_table_names(topic: str, table: str) -> None:
    assert contract.table_name(topic) == table


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_topics_share_a_table_only_if_ros_resolves_them_to_one(one: str, other: str) -> None:
    same = contract.topic_key(one) == contract.topic_key(other)
    assert (contract.table_name(one) == contract.table_name(other)) == same
    assert not contract.table_name(one).startswith("_")
    assert "/" not in contract.table_name(one)


@pytest.mark.parametrize(
    ("manifests", "state"),
    [
        ([], DriveState.FAILED),
        ([manifest(0, bag_result("0.bag"))], DriveState.PARTIAL),
        ([manifest(0, bag_result("0.bag")), manifest(1, bag_result("1.bag"))], DriveState.SUCCEEDED),
        (
            [manifest(0, bag_result("0.bag"), rejected=2), manifest(1, bag_result("1.bag"))],
            DriveState.SUCCEEDED_WITH_REJECTS,
        ),
        (
            [
                manifest(0, bag_result("0.bag"), rejected=2),
                manifest(1, bag_result("1.bag", BagStatus.DAMAGED)),
            ],
            DriveState.DAMAGED,
        ),
        (
            [manifest(0, bag_result("0.bag")), manifest(1, bag_result("1.bag", BagStatus.UNREADABLE))],
            DriveState.DAMAGED,
        ),
        (
            [manifest(n, bag_result(f"{n}.bag", BagStatus.UNREADABLE)) for n in range(2)],
            DriveState.FAILED,
        ),
    ],
)
def test_state_of_a_drive(manifests: list[Manifest], state: DriveState) -> None:
    assert contract.fold(plan(2), manifests).state is state


def test_fold_adds_up_and_names_what_is_wrong() -> None:
    damaged = bag_result("1.bag", BagStatus.DAMAGED, damage=(BagDamage(4096, "cut off inside a chunk"),))
    drive = contract.fold(plan(2), [manifest(1, damaged, rejected=2), manifest(0, bag_result("0.bag"))])
    assert (drive.messages, drive.rows, drive.rejected) == (10, 8, 2)
    assert drive.tables[0].table == "imu"
    assert drive.tables[0].topics == ("/imu",)
    assert drive.problems == (
        "bag 1.bag at offset 4096: cut off inside a chunk",
        "topic /imu: 2 of 5 messages rejected; the first: bag 1.bag at offset 77: ends 3 bytes early",
    )


def test_a_replaced_plan_and_an_uncommitted_replacement_do_not_count() -> None:
    old = manifest(0, bag_result("0.bag"), plan_id="old")
    new = manifest(0, bag_result("0.bag"), plan_id="new", replaces=("old",))
    assert contract.standing_manifests([old, new], []) == [old]
    commit: DriveManifest = dataclasses.replace(
        contract.fold(plan(1), [new]), plan_id="new", replaces=("old",)
    )
    assert contract.standing_manifests([old, new], [commit]) == [new]


def test_a_bag_is_covered_when_all_slices_are_there_with_equal_options() -> None:
    options = ExtractOptions()
    half = bag_result("0.bag", slice=BagSlice(0, 0, 2))
    other_half = bag_result("0.bag", slice=BagSlice(3, 1, 2))
    assert contract.covered_bags([manifest(0, half)], options) == set()
    assert contract.covered_bags([manifest(0, half), manifest(1, other_half)], options) == {
        ("0.bag", 10, "e0")
    }
    assert contract.covered_bags([manifest(0, bag_result("0.bag"))], ExtractOptions(("/imu",))) == set()
    unreadable = bag_result("0.bag", BagStatus.UNREADABLE)
    assert contract.covered_bags([manifest(0, unreadable)], options) == set()


class Counted(int):
    """A number that knows how often any of its kind was compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_many_slices_of_a_bag_are_held_against_each_other_once() -> None:
    whole = bag_result("0.bag")
    slices = [BagSlice(0, number, Counted(200)) for number in range(199)]
    manifests = [
        manifest(number, dataclasses.replace(whole, slice=each)) for number, each in enumerate(slices)
    ]
    Counted.comparisons = 0
    assert contract.covered_bags(manifests, manifests[0].options) == set()
    assert Counted.comparisons < 10 * len(slices)


def test_of_a_bag_that_several_runs_had_those_count_that_gave_rows_or_the_last() -> None:
    nothing = bag_result("0.bag", extracted=0)
    misspelt = manifest(0, nothing, plan_id="a", options=ExtractOptions(("/misspelt",)), finished_at="9")
    again = manifest(0, nothing, plan_id="b", options=ExtractOptions(("/imuu",)), finished_at="8")
    assert contract.counting_bags([misspelt, again]) == [nothing]
    right = bag_result("0.bag")
    assert contract.counting_bags([misspelt, manifest(0, right, plan_id="c"), again]) == [right]
    torn = bag_result("0.bag", BagStatus.UNREADABLE, extracted=0, etag="torn")
    assert contract.counting_bags([manifest(0, torn), manifest(0, right, plan_id="c")]) == [right]


def test_a_slice_that_could_not_be_read_counts_until_it_is() -> None:
    halves = [bag_result("0.bag", slice=BagSlice(0, index, 2)) for index in (0, 1)]
    unread = dataclasses.replace(halves[1], status=BagStatus.UNREADABLE, extracted=0)
    first, second = manifest(0, halves[0], unread), manifest(0, halves[1], plan_id="b")
    assert contract.counting_bags([first]) == [halves[0], unread]
    assert contract.counting_bags([first, second]) == halves


def test_globs_match_whole_topics_as_ros_resolves_them() -> None:
    assert contract.topic_matches("/camera/front/image", ["/imu", "/camera/*"])
    assert contract.topic_matches("camera", ["/camera"])
    assert not contract.topic_matches("/camera", ["camera", "/cam"])


def test_every_exit_code_is_documented() -> None:
    assert set(contract.EXIT_CODE_HELP) == set(contract.ExitCode)
