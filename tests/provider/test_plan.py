"""Planning: what is a bag, what is new, and how it is cut into shards; listing on a real S3."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros.conf import DriveSource, NameGlobs
from airflow_batch_ros.lake import Lake, find_replacing
from airflow_batch_ros.plan import (
    Coverage,
    ListedObject,
    Listing,
    PlanError,
    _listed,
    bag_format,
    check_fresh,
    check_saved,
    list_drive,
    make_plan,
    pack,
    read_coverage,
    select_bags,
    slice_count,
    todo,
)
from ros_to_parquet import __version__, contract
from ros_to_parquet.contract import BagSlice, BagStatus, ExtractOptions, Manifest, PlannedBag, Run
from tests.provider.builders import GIB, bag, conf, manifest, plan, put, save_manifests, save_plan

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SOURCE = DriveSource("drive_1", "raw", "drive_1/")
RUN = Run("dag", "run_2")


def listing(*names: str, folders: Sequence[str] = ()) -> Listing:
    return Listing(tuple(ListedObject(name, 100, "e") for name in names), tuple(folders))


def names(bags: Sequence[PlannedBag]) -> list[str]:
    return [each.name for each in bags]


# --- what is a bag ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.bag", "rosbag1"),
        ("a/b/x.mcap", "mcap"),
        ("x_0.db3", "sqlite3"),
        ("X.BAG", "rosbag1"),
        ("x.bag.active", None),
        ("x.bag.zst", "rosbag1.zst"),
        ("x_0.db3.zstd", "sqlite3.zstd"),
        ("X.MCAP.GZ", "mcap.gz"),
        ("x.zip", "archive"),
        ("x.tar.xz", "archive"),
        ("x.bag.tgz", "archive"),
        ("x.gz", None),
        ("x.csv.gz", None),
        ("x.7z", None),
        ("._x.bag", None),
        ("x.db3-wal", None),
        ("metadata.yaml", None),
        ("bag", None),
    ],
)
def test_bags_are_known_by_their_names(name: str, kind: str | None) -> None:
    assert bag_format(name) == kind


def test_a_listing_is_sorted_out() -> None:
    found = select_bags(
        SOURCE,
        listing(
            "b.mcap",
            "a.bag",
            "calib.yaml",
            "run/metadata.yaml",
            "run/run_0.db3",
            "run/run_1.db3",
            "c.bag.active",
            folders=["logs/"],
        ),
        NameGlobs(),
    )
    assert names(found.bags) == ["a.bag", "b.mcap", "run/run_0.db3", "run/run_1.db3"]
    assert found.ignored == ("c.bag.active", "calib.yaml", "logs/")
    assert found.bags[2] == PlannedBag(
        uri="s3://raw/drive_1/run/run_0.db3",
        name="run/run_0.db3",
        format="sqlite3",
        size_bytes=100,
        etag="e",
        recording="run",
        metadata_uri="s3://raw/drive_1/run/metadata.yaml",
    )
    assert (found.bags[0].recording, found.bags[0].metadata_uri) == ("a.bag", "")


def test_the_prefix_may_be_a_rosbag2_folder_itself() -> None:
    found = select_bags(SOURCE, listing("metadata.yaml", "x_0.mcap", "x_1.mcap"), NameGlobs())
    assert {each.recording for each in found.bags} == {"."}
    assert {each.metadata_uri for each in found.bags} == {"s3://raw/drive_1/metadata.yaml"}


def test_what_sqlite_left_beside_a_database_belongs_to_it() -> None:
    objects = listing(
        "run/a.db3",
        "run/a.db3-wal",
        "run/a.db3-shm",
        "run/b.db3",
        "run/b.db3-journal",
        "run/c.db3-wal",
        "d.db3",
    ).objects
    empty = ListedObject("d.db3-wal", 0, "e0")
    found = select_bags(SOURCE, Listing((*objects, empty)), NameGlobs(exclude=("*/b.db3",)))
    assert names(found.bags) == ["d.db3", "run/a.db3"]
    assert found.ignored == ("run/b.db3", "run/b.db3-journal", "run/c.db3-wal")
    assert found.bags[0].beside == ()
    assert [each.uri for each in found.bags[1].beside] == ["s3://raw/drive_1/run/a.db3-wal"]


def test_a_bag_whose_log_is_another_is_another() -> None:
    first, second = (
        select_bags(
            SOURCE, Listing((ListedObject("a.db3", 9, "e1"), ListedObject("a.db3-wal", 9, etag))), NameGlobs()
        ).bags[0]
        for etag in ("w1", "w2")
    )
    assert first.etag == second.etag and first.content != second.content


def test_globs_choose_bags_and_exclusion_wins() -> None:
    found = select_bags(
        SOURCE,
        listing("a.bag", "b.bag", "run/c.bag"),
        NameGlobs(include=("a*", "run/*"), exclude=("*c.bag",)),
    )
    assert names(found.bags) == ["a.bag"]
    assert found.ignored == ("b.bag", "run/c.bag")


@pytest.mark.parametrize(
    ("there", "globs", "text"),
    [
        (listing(), NameGlobs(), "nothing is there; check 'bucket' and 'prefix'"),
        (
            listing("a.txt"),
            NameGlobs(),
            "there is 1 object, none a bag (.bag, .mcap or .db3, compressed or not, .zip or .tar): a.txt",
        ),
        (
            listing(*(f"{n}.txt" for n in range(12))),
            NameGlobs(),
            "12 objects, none a bag (.bag, .mcap or .db3, compressed or not, .zip or .tar): 0.txt, 1.txt",
        ),
        (
            listing(folders=["morning/", "noon/"]),
            NameGlobs(),
            "2 sub-folders (morning/, noon/); set 'recursive' if the bags are in there",
        ),
        (listing("a.bag"), NameGlobs(exclude=("*",)), "the conf's 'bags' leaves out all 1: a.bag"),
    ],
)
def test_a_prefix_without_bags_is_an_error_that_says_what_is_there(
    there: Listing, globs: NameGlobs, text: str
) -> None:
    with pytest.raises(PlanError) as caught:
        select_bags(SOURCE, there, globs)
    assert str(caught.value).startswith("drive 'drive_1': no bag directly under s3://raw/drive_1/")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("there", "text", "exclude"),
    [
        (("x.bag", "x.orig.bag"), "x.bag and x.orig.bag", ["x.orig.bag"]),
        (("x.bag", "x.mcap"), "x.bag and x.mcap", ["x.mcap"]),
        (("x.bag", "x.bag.gz"), "x.bag and x.bag.gz", ["x.bag.gz"]),
        (("x.bag.zst", "x.zip"), "x.bag.zst and x.zip", ["x.zip"]),
        (("x/metadata.yaml", "x/x_0.db3.zstd", "x.tar.gz"), "x.tar.gz and x/", ["x/*"]),
        (
            ("x/metadata.yaml", "x/x_0.db3", "x/x_0.db3.zstd"),
            "x/x_0.db3 and x/x_0.db3.zstd",
            ["x/x_0.db3.zstd"],
        ),
        (("x.bag", "x/metadata.yaml", "x/x_0.db3", "x/x_1.db3"), "x.bag and x/", ["x/*"]),
        (("x/metadata.yaml", "x/x_0.db3", "x/x_0.mcap"), "x/x_0.db3 and x/x_0.mcap", ["x/x_0.mcap"]),
        (
            ("a.bag", "a.orig.bag", "b.bag", "b.db3"),
            "a.bag and a.orig.bag, b.bag and b.db3",
            ["a.orig.bag", "b.db3"],
        ),
    ],
)
def test_a_recording_that_is_there_twice_is_refused_until_told_which(
    there: Sequence[str], text: str, exclude: list[str]
) -> None:
    with pytest.raises(PlanError) as caught:
        select_bags(SOURCE, listing(*there), NameGlobs())
    assert "one recording seems to be there more than once: " + text in str(caught.value)
    advice = str(caught.value).partition('"bags": ')[2]
    assert json.loads(advice) == {"exclude": exclude}
    # What the message advises is what helps.
    assert select_bags(SOURCE, listing(*there), NameGlobs(exclude=tuple(exclude))).bags


def test_equal_names_in_different_folders_are_different_recordings() -> None:
    assert len(select_bags(SOURCE, listing("a/x.bag", "b/x.bag", "b/x_1.mcap"), NameGlobs()).bags) == 3


def test_a_compressed_split_of_a_rosbag2_folder_knows_its_metadata() -> None:
    there = listing("run/metadata.yaml", "run/run_0.db3.zstd", "run/old.bag.gz", "logs.zip")
    archive, bag, split = select_bags(SOURCE, there, NameGlobs()).bags
    assert (archive.format, archive.metadata_uri) == ("archive", "")
    assert (bag.format, bag.metadata_uri) == ("rosbag1.gz", "")
    assert (split.format, split.recording) == ("sqlite3.zstd", "run")
    assert split.metadata_uri == "s3://raw/drive_1/run/metadata.yaml"


# --- cutting and packing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("x.bag", 0, 1),
        ("x.bag", GIB, 1),
        ("x.bag", GIB + 1, 2),
        ("x.mcap", 5 * GIB, 5),
        ("x.db3", 9 * GIB, 1),
        ("x.bag.gz", 9 * GIB, 1),
        ("x.mcap.zst", 9 * GIB, 1),
        ("x.zip", 9 * GIB, 1),
    ],
)
def test_large_bags_with_an_index_are_cut(name: str, size: int, count: int) -> None:
    assert slice_count(bag(name, size), GIB) == count


def test_small_bags_are_packed_together_in_order() -> None:
    work = todo(
        [bag("a.bag", 400), bag("b.bag", 400), bag("c.bag", 400), bag("d.bag", 2500), bag("e.db3", 5000)],
        Coverage(),
        drive_id="drive_1",
        shard_bytes=1000,
    )
    assert pack(work.bags, 1000) == (
        (BagSlice(0), BagSlice(1)),
        (BagSlice(2),),
        (BagSlice(3, 0, 3),),
        (BagSlice(3, 1, 3),),
        (BagSlice(3, 2, 3),),
        (BagSlice(4),),
    )


def test_no_drive_has_more_shards_than_an_array_takes() -> None:
    bags = [bag(f"{number:05d}.db3", 900) for number in range(10_001)]
    work = todo(bags, Coverage(), drive_id="drive_1", shard_bytes=1000)
    shards = pack(work.bags, 1000)
    assert len(shards) == 5001
    assert [part.bag for shard in shards for part in shard] == list(range(10_001))


def test_one_huge_bag_has_no_more_slices_than_an_array_takes() -> None:
    assert slice_count(bag("x.bag", 20_000 * GIB), GIB) == 10_000


# --- what is new ------------------------------------------------------------------------------------

EARLIER = plan([bag("a.bag"), bag("b.bag")])


@pytest.fixture
def lake(s3: S3Client, bucket: str) -> Lake:
    return Lake(s3, f"s3://{bucket}/lake")


def new(
    bags: Sequence[PlannedBag], lake: Lake, options: ExtractOptions | None = None
) -> tuple[list[str], list[str]]:
    """Names of the bags to do, with slices, and of those that are not: covered, or not to be read."""
    coverage = read_coverage(lake, "drive_1", options or ExtractOptions(), plan_id="mine")
    work = todo(bags, coverage, drive_id="drive_1", shard_bytes=GIB)
    said = [f"{each.name}{[part.index for part in slices]}" for each, slices in work.bags]
    return said, [*work.covered, *map(str, work.unreadable)]


def test_covered_bags_are_left_out(lake: Lake) -> None:
    save_manifests(
        lake, [manifest(EARLIER, 0), manifest(EARLIER, 1, status=BagStatus.DAMAGED)], commit_of=EARLIER
    )
    assert new([bag("a.bag"), bag("b.bag"), bag("c.bag")], lake) == (["c.bag[0]"], ["a.bag", "b.bag"])


def test_a_shard_that_is_done_covers_its_bags_though_its_drive_is_not(lake: Lake) -> None:
    save_manifests(lake, [manifest(EARLIER, 1)])
    assert new([bag("a.bag"), bag("b.bag")], lake) == (["a.bag[0]"], ["b.bag"])


def unreadable(shard: int, **changes: Any) -> Manifest:
    """The manifest of a shard of `EARLIER` that could not read its bag."""
    return manifest(
        EARLIER, shard, status=BagStatus.UNREADABLE, **{"rows": 0, "engine_version": __version__, **changes}
    )


def test_an_unreadable_bag_is_not_tried_again_and_said(lake: Lake) -> None:
    save_manifests(lake, [manifest(EARLIER, 0), unreadable(1)], commit_of=EARLIER)
    said = "bag b.bag: not tried again, for an earlier run could read nothing of it: cut off"
    assert new([bag("a.bag"), bag("b.bag")], lake) == ([], ["a.bag", said])


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"engine_version": "0.0.1"}, ExtractOptions()),
        ({}, ExtractOptions(msg_paths=("s3://bucket/msgs",))),
        ({"reason": "it takes more than is left to unpack it: raise --memory-limit, or unpack it"}, None),
    ],
)
def test_an_unreadable_bag_is_tried_again_where_that_may_help(
    lake: Lake, changes: dict[str, str], options: ExtractOptions | None
) -> None:
    left = unreadable(1, **{name: text for name, text in changes.items() if name != "reason"})
    if "reason" in changes:
        damage = (contract.BagDamage(0, changes["reason"]),)
        left = dataclasses.replace(left, bags=(dataclasses.replace(left.bags[0], damage=damage),))
    save_manifests(lake, [unreadable(0), left], commit_of=EARLIER)
    assert new([bag("b.bag")], lake, options) == (["b.bag[0]"], [])


def test_an_unreadable_bag_that_has_changed_is_taken(lake: Lake) -> None:
    """As one that was copied again: no row of it is there to clash with."""
    save_manifests(lake, [unreadable(0), unreadable(1)], commit_of=EARLIER)
    assert new([bag("b.bag", etag="other")], lake) == (["b.bag[0]"], [])


def test_an_unreadable_bag_is_left_where_rows_of_what_it_was_stay(lake: Lake) -> None:
    """As of a drive whose bags were broken later: the run that was to replace it has replaced nothing."""
    save_manifests(lake, [manifest(EARLIER, 0), manifest(EARLIER, 1)], commit_of=EARLIER)
    later = plan([bag("b.bag", etag="broken")], run_id="later", replaces=(EARLIER.plan_id,))
    broken = manifest(later, 0, status=BagStatus.UNREADABLE, rows=0, engine_version=__version__)
    save_manifests(lake, [broken], commit_of=later)
    said = "bag b.bag: not tried again, for an earlier run could read nothing of it: cut off"
    assert new([bag("a.bag"), bag("b.bag", etag="broken")], lake) == ([], ["a.bag", said])
    with pytest.raises(PlanError, match=r"b.bag .its content was another."):
        new([bag("b.bag", etag="whole")], lake)


def test_a_bag_that_gave_no_row_is_taken_with_other_options(lake: Lake) -> None:
    """As after a misspelt topic: no row of it is there to clash with."""
    misspelt = ExtractOptions(("/imuu",))
    left = [manifest(EARLIER, shard, rows=0, topics=(), options=misspelt) for shard in (0, 1)]
    save_manifests(lake, left, commit_of=EARLIER)
    assert new([bag("a.bag"), bag("b.bag", etag="other")], lake) == (["a.bag[0]", "b.bag[0]"], [])
    assert new([bag("a.bag")], lake, misspelt) == ([], ["a.bag"])


def test_of_a_bag_that_is_done_in_part_only_the_other_slices_are_taken(lake: Lake) -> None:
    large = bag("a.bag", 3 * GIB)
    earlier = plan([large], shards=tuple((BagSlice(0, index, 3),) for index in range(3)))
    save_manifests(lake, [manifest(earlier, 1)])
    assert new([large], lake) == (["a.bag[0, 2]"], [])
    save_manifests(lake, [manifest(earlier, 0), manifest(earlier, 2)])
    assert new([large], lake) == ([], ["a.bag"])


def test_strictness_is_no_other_content(lake: Lake) -> None:
    save_manifests(lake, [manifest(EARLIER, 0, options=ExtractOptions(strict=True))])
    assert new([bag("a.bag")], lake) == ([], ["a.bag"])


@pytest.mark.parametrize(
    ("again", "options", "why"),
    [
        (bag("a.bag", etag="other"), ExtractOptions(), "a.bag (its content was another)"),
        (bag("a.bag", 101), ExtractOptions(), "a.bag (its content was another)"),
        (bag("a.bag"), ExtractOptions(("/imu",)), f"a.bag (plan {EARLIER.plan_id}, with other options)"),
        (
            bag("a.bag"),
            ExtractOptions(transforms=contract.transform_rules({"/imu": "smooth"})),
            f"a.bag (plan {EARLIER.plan_id}, with other options)",
        ),
        (
            bag("a.bag"),
            ExtractOptions(images=(contract.parse_image_rule("/cam", "png"),)),
            f"a.bag (plan {EARLIER.plan_id}, with other options)",
        ),
    ],
)
def test_rows_are_not_written_twice_unasked(
    lake: Lake, again: PlannedBag, options: ExtractOptions, why: str
) -> None:
    save_manifests(lake, [manifest(EARLIER, 0)])
    with pytest.raises(PlanError) as caught:
        new([again], lake, options)
    assert f"rows of {why} are in the lake already, and would be there twice" in str(caught.value)
    assert "set 'overwrite' to replace what the drive has, or write to another 'output'" in str(caught.value)


def test_what_an_overwriting_run_has_replaced_covers_nothing(lake: Lake) -> None:
    over = plan([bag("a.bag")], run_id="over", replaces=(EARLIER.plan_id,))
    save_manifests(lake, [manifest(EARLIER, 0), manifest(EARLIER, 1)], commit_of=EARLIER)
    save_manifests(lake, [manifest(over, 0)], commit_of=over)
    assert new([bag("a.bag"), bag("b.bag")], lake) == (["b.bag[0]"], ["a.bag"])


def test_an_overwriting_run_that_did_not_finish_has_replaced_nothing(lake: Lake) -> None:
    over = plan([bag("a.bag", etag="new")], run_id="over", replaces=(EARLIER.plan_id,))
    save_manifests(lake, [manifest(EARLIER, 0), manifest(EARLIER, 1)], commit_of=EARLIER)
    save_manifests(lake, [manifest(over, 0)])
    assert new([bag("a.bag"), bag("b.bag")], lake) == ([], ["a.bag", "b.bag"])


def test_a_drive_that_somebody_has_removed_manifests_of_is_not_taken_for_whole(lake: Lake) -> None:
    save_plan(lake, EARLIER)
    save_manifests(lake, [manifest(EARLIER, 0), manifest(EARLIER, 1)], commit_of=EARLIER)
    assert new([bag("a.bag"), bag("b.bag")], lake) == ([], ["a.bag", "b.bag"])
    lake.delete(contract.manifest_key("drive_1", EARLIER.plan_id, 1))
    gone = rf"1 of 2 shards' manifests in _manifests/drive_id=drive_1/{EARLIER.plan_id} are gone"
    with pytest.raises(
        PlanError, match=f"{gone}: put them back; or set 'overwrite' to extract the drive again"
    ):
        new([bag("a.bag"), bag("b.bag")], lake)


def test_another_contract_version_is_said(lake: Lake) -> None:
    lake.create(contract.manifest_key("drive_1", "0123", 0), json.dumps({"contract_version": 99}).encode())
    with pytest.raises(
        PlanError, match=r"contract version 99.*or set 'overwrite' to extract the drive again"
    ):
        new([bag("a.bag")], lake)


# --- plans on a real S3 -----------------------------------------------------------------------------


def make(s3: S3Client, bucket: str, lake: Lake, **optional: object) -> contract.Plan:
    made = conf(bucket, **optional)
    return make_plan(s3, lake, made.drives[0], made, run=RUN, shard_bytes=GIB)


def test_a_bag_that_gave_no_row_clashes_with_nothing_among_others_that_did(
    s3: S3Client, bucket: str, lake: Lake
) -> None:
    """As one that was copied again when it was whole. Its shards' plan alone does not say so."""
    put(s3, bucket, "drive_1/a.bag", "drive_1/b.bag")
    first = make(s3, bucket, lake)
    first = dataclasses.replace(
        first, plan_id=EARLIER.plan_id, bags=(first.bags[0], bag("b.bag", etag="cut")), shards=EARLIER.shards
    )
    save_plan(lake, first)
    none = manifest(first, 1, rows=0, topics=())
    save_manifests(lake, [manifest(first, 0), none], commit_of=first)
    plan = make(s3, bucket, lake)
    assert ([bag.name for bag in plan.bags], plan.covered) == (["b.bag"], ("a.bag",))
    put(s3, bucket, "drive_1/a.bag", body=b"other")
    with pytest.raises(PlanError, match=r"rows of a.bag .its content was another. are in the lake already"):
        make(s3, bucket, lake)


def test_a_plan(s3: S3Client, bucket: str, lake: Lake) -> None:
    put(
        s3,
        bucket,
        "drive_1/",
        "drive_1/a.bag",
        "drive_1/notes.txt",
        "drive_10/other.bag",
        "drive_1/deep/b.bag",
    )
    made = make(s3, bucket, lake)
    etag = s3.head_object(Bucket=bucket, Key="drive_1/a.bag")["ETag"].strip('"')
    assert made == contract.Plan(
        contract_version=1,
        plan_id=contract.make_plan_id(RUN, "drive_1"),
        run=RUN,
        drive_id="drive_1",
        source=f"s3://{bucket}/drive_1/",
        output=f"s3://{bucket}/lake",
        options=ExtractOptions(),
        bags=(PlannedBag(f"s3://{bucket}/drive_1/a.bag", "a.bag", "rosbag1", 3, etag, "a.bag"),),
        shards=((BagSlice(0),),),
        ignored=("deep/", "notes.txt"),
        ignored_count=2,
    )


def test_more_objects_than_a_page(s3: S3Client, bucket: str, lake: Lake) -> None:
    put(s3, bucket, *(f"drive_1/{number:04d}.bag" for number in range(1005)), body=b"")
    assert names(make(s3, bucket, lake).bags) == [f"{number:04d}.bag" for number in range(1005)]


def test_ignored_names_are_bounded_and_counted(s3: S3Client, bucket: str, lake: Lake) -> None:
    put(s3, bucket, "drive_1/x.bag", *(f"drive_1/{number:03d}.txt" for number in range(130)))
    made = make(s3, bucket, lake)
    assert (len(made.ignored), made.ignored_count) == (100, 130)


def test_rosbag2_folders_are_taken_and_other_folders_only_when_asked(
    s3: S3Client, bucket: str, lake: Lake
) -> None:
    put(
        s3,
        bucket,
        "drive_1/run/metadata.yaml",
        "drive_1/run/run_0.mcap",
        "drive_1/run/extra/no.mcap",
        "drive_1/metadata.yaml.d/x.bag",
        "drive_1/sub/a.bag",
        "drive_1/sub/deep/metadata.yaml",
        "drive_1/sub/deep/b_0.db3",
    )
    assert names(make(s3, bucket, lake).bags) == ["run/run_0.mcap"]
    everything = make(s3, bucket, lake, recursive=True)
    assert names(everything.bags) == [
        "metadata.yaml.d/x.bag",
        "run/extra/no.mcap",
        "run/run_0.mcap",
        "sub/a.bag",
        "sub/deep/b_0.db3",
    ]
    assert everything.bags[4].recording == "sub/deep"


def test_the_lake_is_no_part_of_a_drive_around_it(s3: S3Client, bucket: str) -> None:
    put(s3, bucket, "a.bag", "out/lake/imu/x.bag", "out/b.bag")
    root = DriveSource("drive_1", bucket, "")
    output = f"s3://{bucket}/out/lake"
    assert [each.name for each in list_drive(s3, root, recursive=True, output=output).objects] == [
        "a.bag",
        "out/b.bag",
    ]
    flat = list_drive(s3, root, recursive=False, output=f"s3://{bucket}/out")
    assert ([each.name for each in flat.objects], flat.folders) == (["a.bag"], ())


def test_a_drive_with_nothing_new_gets_an_empty_plan(s3: S3Client, bucket: str, lake: Lake) -> None:
    put(s3, bucket, "drive_1/a.bag")
    first = dataclasses.replace(make(s3, bucket, lake), plan_id="0123456789ab")
    save_manifests(lake, [manifest(first, 0)], commit_of=first)
    again = make(s3, bucket, lake)
    assert (again.bags, again.shards, again.covered) == ((), (), ("a.bag",))


@pytest.mark.parametrize("recursive", [False, True])
def test_archived_bags_are_refused_unless_the_lake_has_them(
    s3: S3Client, bucket: str, lake: Lake, recursive: bool
) -> None:
    put(s3, bucket, "drive_1/a.bag")
    done = dataclasses.replace(make(s3, bucket, lake), plan_id="0123456789ab")
    save_manifests(lake, [manifest(done, 0)], commit_of=done)
    s3.put_object(Bucket=bucket, Key="drive_1/a.bag", Body=b"bag", StorageClass="GLACIER")
    s3.put_object(Bucket=bucket, Key="drive_1/b.bag", Body=b"bag", StorageClass="GLACIER_IR")
    again = make(s3, bucket, lake, recursive=recursive)
    assert (names(again.bags), again.covered) == (["b.bag"], ("a.bag",))
    s3.put_object(Bucket=bucket, Key="drive_1/c.bag", Body=b"bag", StorageClass="DEEP_ARCHIVE")
    with pytest.raises(PlanError) as caught:
        make(s3, bucket, lake, recursive=recursive)
    assert str(caught.value) == (
        f"drive 'drive_1': under s3://{bucket}/drive_1/ 1 bag to read is archived (Glacier): c.bag; restore "
        "what is to be read (aws s3api restore-object) and try again, or leave it out by the conf's 'bags'"
    )


def test_a_restored_bag_is_taken() -> None:
    item: Any = {"Key": "drive_1/a.bag", "Size": 3, "ETag": '"e"', "StorageClass": "GLACIER"}
    assert _listed(item, SOURCE) == ListedObject("a.bag", 3, "e", archived=True)
    under_way = item | {"RestoreStatus": {"IsRestoreInProgress": True}}
    assert _listed(under_way, SOURCE).archived
    expires = datetime(2027, 1, 1, tzinfo=UTC)
    restored = item | {"RestoreStatus": {"IsRestoreInProgress": False, "RestoreExpiryDate": expires}}
    assert not _listed(restored, SOURCE).archived


def test_overwriting_takes_all_and_replaces_all(s3: S3Client, bucket: str, lake: Lake) -> None:
    put(s3, bucket, "drive_1/a.bag")
    first = dataclasses.replace(make(s3, bucket, lake), plan_id="0123456789ab")
    save_manifests(lake, [manifest(first, 0)], commit_of=first)
    again = make(s3, bucket, lake, overwrite=True)
    assert (names(again.bags), again.covered, again.replaces) == (["a.bag"], (), ("0123456789ab",))


# --- retries ----------------------------------------------------------------------------------------


def test_a_saved_plan_must_be_what_the_conf_says(bucket: str) -> None:
    source = conf(bucket).drives[0]
    saved = plan([bag("a.bag")], source=source.uri)
    check_saved(saved, source, conf(bucket))
    with pytest.raises(PlanError, match=r"run_1\) was planned with source .* so start a new run"):
        check_saved(saved, source, conf(bucket, topics={"include": ["/imu"]}))
    other = conf(bucket, transforms={"/imu": "smooth"})
    with pytest.raises(PlanError, match=r"transforms \{\}, images \{\}; the conf says otherwise now"):
        check_saved(saved, source, other)
    with pytest.raises(PlanError, match="so start a new run"):
        check_saved(saved, source, conf(bucket, images={"/cam": "png"}))
    with pytest.raises(PlanError, match="so start a new run"):
        check_saved(saved, DriveSource("drive_1", bucket, "elsewhere/"), conf(bucket))


def test_a_plan_is_stale_once_another_run_has_done_its_work(lake: Lake) -> None:
    mine = plan([bag("a.bag"), bag("b.bag")], run_id="mine")
    check_fresh(lake, mine, missing=[0, 1])
    save_manifests(lake, [manifest(EARLIER, 0)])
    check_fresh(lake, mine, missing=[1])
    with pytest.raises(
        PlanError, match=rf"another \(plan {EARLIER.plan_id}\) has extracted a.bag; start a new"
    ):
        check_fresh(lake, mine, missing=[0, 1])


def test_the_other_slices_of_a_bag_do_not_make_a_plan_stale(lake: Lake) -> None:
    large = bag("a.bag", 3 * GIB)
    earlier = plan([large], shards=tuple((BagSlice(0, index, 3),) for index in range(3)))
    save_manifests(lake, [manifest(earlier, 1)])
    check_fresh(
        lake, plan([large], run_id="mine", shards=((BagSlice(0, 0, 3), BagSlice(0, 2, 3)),)), missing=[0]
    )
    with pytest.raises(PlanError):
        check_fresh(lake, plan([large], run_id="mine"), missing=[0])


def test_an_overwriting_plan_is_stale_once_there_is_more_to_replace(lake: Lake) -> None:
    save_manifests(lake, [manifest(EARLIER, 0)])
    over = plan([bag("z.bag")], run_id="over", replaces=(EARLIER.plan_id,))
    check_fresh(lake, over, missing=[0])
    other = plan([bag("c.bag")], run_id="other")
    save_plan(lake, other)
    save_manifests(lake, [manifest(other, 0)])
    with pytest.raises(PlanError, match=r"has extracted c\.bag"):
        check_fresh(lake, over, missing=[0])


def test_a_plan_is_replaced_by_a_commit_that_names_it_or_named_who_did(lake: Lake) -> None:
    first, taken = plan([bag("a.bag")], run_id="first"), plan([bag("a.bag")], run_id="taken")
    second = plan([bag("a.bag")], run_id="second", replaces=(first.plan_id,))
    third = plan([bag("a.bag")], run_id="third", replaces=(second.plan_id,))
    for each in (first, taken, second, third):
        save_plan(lake, each)
    word = contract.take_over(taken, [], third.run)
    lake.create(contract.drive_manifest_key("drive_1", taken.plan_id), contract.to_json(word))
    save_manifests(lake, [manifest(second, 0)])
    assert find_replacing(lake, "drive_1", first.plan_id) is None, "not before the commit"
    commit = contract.fold(second, [manifest(second, 0)])
    lake.create(contract.drive_manifest_key("drive_1", second.plan_id), contract.to_json(commit))
    found = find_replacing(lake, "drive_1", first.plan_id)
    assert found is not None
    assert found.run == second.run
    lake.delete(contract.manifest_key("drive_1", second.plan_id, 0))
    lake.delete(contract.drive_manifest_key("drive_1", second.plan_id))
    save_manifests(lake, [manifest(third, 0)], commit_of=third)
    assert {
        each.run.run_id: found.run.run_id
        if (found := find_replacing(lake, "drive_1", each.plan_id))
        else None
        for each in (first, taken, second, third)
    } == {"first": "third", "taken": None, "second": "third", "third": None}
    # Of one that has begun, only who named it has replaced it.
    started = contract.started_key("drive_1", first.plan_id, 0, 1)
    lake.create(started, b"{}")
    assert find_replacing(lake, "drive_1", first.plan_id) is None
