"""``pointcloud: decoded`` from bag to tables, through the readers of tables, and back to a bag."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros_to_parquet.cli import main
from ros_to_parquet.contract import ExtractOptions, Manifest, ParquetStyle, PointClouds, TopicResult
from ros_to_parquet.drift import DriftError
from ros_to_parquet.lake import Lake
from ros_to_parquet.rebuild import rebuild
from tests.engine import roundtrip
from tests.engine.decode import naive
from tests.engine.decode.test_pointcloud import CLOUD, WIRES, XYZ, Cloud, layout_of, some_clouds, velodyne
from tests.engine.sample_bags import write_mcap
from tests.engine.test_run import extract

REAL_BAGS = Path(__file__).parents[2].parent / "shared" / "bags"
WITH_CLOUDS = [
    "embarktrucks+embag/test.bag",
    "dataware-tools+pydtk/sample__data__records.bag",
    "Tiryoh+rosbag-analyzer-web/test_sample_no_rosout.mcap",
]
DECODED = ExtractOptions(pointcloud=PointClouds.DECODED)


def write_clouds(path: Path, clouds: list[Cloud], wire: str = "le") -> Path:
    codec, header = WIRES[wire]
    root = layout_of(wire).root
    payloads = [header + naive.encode(root, codec, cloud.message(codec)) for cloud in clouds]
    return write_mcap(path, CLOUD, payloads, encoding="ros1" if wire == "ros1" else "cdr")


def one_topic(manifest: Manifest) -> TopicResult:
    (topic,) = manifest.topics
    assert topic.messages == topic.rows + topic.rejected
    assert sum(file.rows for file in topic.files) == topic.rows
    return topic


def assert_comes_back(bag: Path, lake: Path, drive_id: str) -> None:
    recorded, output = roundtrip.read(bag), lake / f"{drive_id}.mcap"
    rebuilt = rebuild(Lake(str(lake)), drive_id, str(output))
    outcome = roundtrip.compare(recorded, roundtrip.read(output).messages)
    assert rebuilt.messages == outcome.total() == len(recorded.messages)
    assert outcome.keys() <= {"equal", "big-endian"}


CLOUDS = [
    velodyne(3),
    Cloud([*XYZ, ("line", 12, 2, 1)], 13, 2, bytes(range(26))),
    velodyne(2),
    Cloud(XYZ, 12, 2, bytes(23)),
    Cloud([*XYZ, ("hist", 12, 3, 3)], 20, 2, bytes(range(80)), 2, 40, True),
    velodyne(0),
]


@pytest.mark.parametrize("wire", WIRES)
def test_clouds_of_several_fields_have_a_partition_each_and_come_back(tmp_path: Path, wire: str) -> None:
    bag = write_clouds(tmp_path / "a.mcap", CLOUDS, wire)
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=DECODED))
    assert (topic.rows, topic.rejected) == (6, 0)
    assert sorted(file.rows for file in topic.files) == [1, 1, 1, 3]
    assert len({file.path.split("/")[1] for file in topic.files}) == 4
    assert topic.remark == (
        "1 cloud is kept as recorded, in the column data: "
        "data is 23 bytes long, 1 x 2 points of 12 bytes do not fit"
    )
    (kept,) = (file for file in topic.files if file.path.startswith(f"topic/schema={topic.schema_hash}/"))
    assert pq.read_table(tmp_path / "lake" / kept.path).column("data").to_pylist() == [bytes(23)]
    assert_comes_back(bag, tmp_path / "lake", "drive_1")


@settings(max_examples=20, deadline=None)
@given(some_clouds(), st.sampled_from(tuple(WIRES)), st.sampled_from(list(ParquetStyle)))
def test_any_clouds_come_back_from_the_lake(clouds: list[Cloud], wire: str, style: ParquetStyle) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag, lake = write_clouds(Path(folder, "a.mcap"), clouds, wire), Path(folder, "lake")
        one_topic(extract(bag, output=lake, options=dataclasses.replace(DECODED, parquet=style)))
        assert_comes_back(bag, lake, "drive_1")


def test_tables_of_several_fields_read_as_one(tmp_path: Path) -> None:
    extract(write_clouds(tmp_path / "a.mcap", CLOUDS), output=tmp_path / "lake", options=DECODED)
    dataset = Lake(str(tmp_path / "lake")).dataset("topic", drives=["drive_1"])
    rows = dataset.to_table(columns=["log_time_ns", "x", "ring", "hist", "data", "schema"]).sort_by(
        "log_time_ns"
    )
    assert [None if points is None else len(points) for points in rows["x"].to_pylist()] == [
        3,
        2,
        2,
        None,
        4,
        0,
    ]
    assert [None if points is None else len(points) for points in rows["hist"].to_pylist()] == [
        None, None, None, None, 4, None,
    ]  # fmt: skip
    assert rows["data"].null_count == 5
    query = (
        "FROM read_parquet(?, union_by_name = true, hive_partitioning = true) SELECT {} ORDER BY log_time_ns"
    )
    files = str(tmp_path / "lake/topic/**/*.parquet")
    points = duckdb.execute(query.format("len(x), ring, data IS NULL"), [files]).fetchall()
    assert points == [
        (3, [0, 1, 2], True), (2, None, True), (2, [0, 1], True), (None, None, False), (4, None, True),
        (0, [], True),
    ]  # fmt: skip
    one_kind = ds.dataset(tmp_path / "lake/topic", format="parquet", partitioning="hive")
    for (digits,) in duckdb.execute(query.format("DISTINCT schema").split("ORDER")[0], [files]).fetchall():
        assert one_kind.to_table(filter=ds.field("schema") == digits).num_rows in (1, 3)


def test_a_field_whose_datatype_changes_is_read_as_the_wider_or_by_partition(tmp_path: Path) -> None:
    clouds = [velodyne(3), Cloud([*XYZ, ("ring", 12, 2, 1)], 13, 2, bytes(range(26)))]
    extract(write_clouds(tmp_path / "a.mcap", clouds), output=tmp_path / "lake", options=DECODED)
    rows = Lake(str(tmp_path / "lake")).dataset("topic").to_table().sort_by("log_time_ns")
    assert rows["ring"].type.value_type == pa.uint16()
    assert rows["ring"].to_pylist() == [[0, 1, 2], [12, 25]]
    files = str(tmp_path / "lake/topic/**/*.parquet")
    query = "FROM read_parquet(?, union_by_name = true) SELECT ring, typeof(ring) ORDER BY log_time_ns"
    assert duckdb.execute(query, [files]).fetchall() == [
        ([0, 1, 2], "USMALLINT[]"),
        ([12, 25], "USMALLINT[]"),
    ]
    floats = Cloud([*XYZ, ("ring", 12, 7, 1)], 16, 1, bytes(16))
    extract(
        write_clouds(tmp_path / "b.mcap", [floats]), output=tmp_path / "lake", drive_id="e", options=DECODED
    )
    with pytest.raises(DriftError, match=r"`ring` uint\d+\[\] -> float32\[\]: an integer became a float"):
        Lake(str(tmp_path / "lake")).dataset("topic")


def test_point_clouds_stay_as_recorded_unless_asked(tmp_path: Path) -> None:
    bag = write_clouds(tmp_path / "a.mcap", [velodyne(3)])
    assert main(["extract", str(bag), "--output", str(tmp_path / "lake"), "--drive-id", "blob"]) == 0
    (file,) = (tmp_path / "lake/topic").rglob("*.parquet")
    assert pq.read_schema(file).field("data").type == pa.binary()
    arguments = ["extract", str(bag), "--output", str(tmp_path / "lake"), "--pointcloud", "decoded"]
    assert main([*arguments, "--drive-id", "columns"]) == 0
    (file,) = (tmp_path / "lake/topic").glob("*/drive_id=columns/*.parquet")
    schema = pq.read_schema(file)
    assert "data" not in schema.names
    assert schema.field("ring").type.value_type == pa.uint16()


def test_a_cloud_within_another_message_stays_as_recorded(tmp_path: Path) -> None:
    text = "sensor_msgs/PointCloud2 cloud"
    root = layout_of("le").root
    payload = WIRES["le"][1] + naive.encode(root, WIRES["le"][0], velodyne(2).message(WIRES["le"][0]))
    bag = write_mcap(tmp_path / "a.mcap", "pkg/msg/Scan", [payload], schema=text, schema_encoding="ros2msg")
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=DECODED))
    assert topic.remark == ""
    (row,) = pq.read_table(tmp_path / "lake" / topic.files[0].path).column("cloud").to_pylist()
    assert row["data"] == velodyne(2).data


def test_another_definition_of_a_cloud_stays_as_recorded(tmp_path: Path) -> None:
    bag = write_mcap(
        tmp_path / "a.mcap", CLOUD, [b"\0\1\0\0\2"], schema="uint8 data", schema_encoding="ros2msg"
    )
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=DECODED))
    assert topic.rows == 1
    assert topic.remark == (
        "clouds are kept as recorded, in the column data: its definition is not the one that ROS has"
    )


@pytest.mark.parametrize("name", WITH_CLOUDS)
def test_clouds_of_real_bags_come_back(tmp_path: Path, name: str) -> None:
    if not (REAL_BAGS / name).exists():
        pytest.skip("the real bags are not here")
    bag = REAL_BAGS / name
    manifest = extract(bag, output=tmp_path / "lake", options=DECODED)
    (topic,) = (topic for topic in manifest.topics if topic.type_name.endswith("PointCloud2"))
    assert topic.messages == topic.rows + topic.rejected
    if topic.rejected:  # made up: no message is as long as it says
        assert (topic.rows, topic.files) == (0, ())
        return
    assert topic.remark == ""
    (file,) = topic.files
    table = pq.read_table(tmp_path / "lake" / file.path)
    assert "data" not in table.column_names
    sizes = zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)
    assert [len(points) for points in table["x"]] == [width * height for width, height in sizes]
    assert_comes_back(bag, tmp_path / "lake", "drive_1")
