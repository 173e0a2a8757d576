"""What the files are like, and that the readers people use have the same values from them, in both styles."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ros_to_parquet.contract import ExtractOptions, ParquetStyle, PointClouds
from ros_to_parquet.encode import CDR
from ros_to_parquet.lake import Lake
from ros_to_parquet.layout import resolve_layout
from ros_to_parquet.parquet_options import PAGE_BYTES, leaves, recorded_schema
from ros_to_parquet.rebuild import rebuild
from tests.engine import roundtrip
from tests.engine.bag.bag_bytes import McapFile, mcap_channel, mcap_message, mcap_schema
from tests.engine.decode import naive
from tests.engine.decode.blocks import HEADERS, connection
from tests.engine.decode.test_pointcloud import velodyne
from tests.engine.parquet_pages import DATA_PAGE, DICTIONARY_PAGE, pages
from tests.engine.sample_bags import START_NS, write_bag, write_mcap
from tests.engine.test_pointclouds import write_clouds
from tests.engine.test_run import extract, plan_for

NUMBERS = """\
bool flag
int8 i8
uint8 u8
int16 i16
uint16 u16
int32 i32
uint32 u32
int64 i64
uint64 u64
float32 f32
float64 f64
string text
uint8[] blob
uint8[4] fixed
uint32[] many
float32[2] pair
string[] texts
builtin_interfaces/Time[] times
"""
NUMBERS_ROW = {
    "flag": True, "i8": -128, "u8": 255, "i16": -(2**15), "u16": 2**16 - 1, "i32": -(2**31), "u32": 2**32 - 1,
    "i64": -(2**63), "u64": 2**64 - 1, "f32": -0.0, "f64": math.pi, "text": "ä", "blob": b"\0\xff",
    "fixed": b"abcd", "many": [0, 2**31, 2**32 - 1], "pair": [1.5, math.inf], "texts": ["", "b"],
    "times": [{"sec": 7, "nanosec": 2**32 - 1}],
}  # fmt: skip


@pytest.fixture(scope="module", params=list(ParquetStyle))
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of one style, named by it; two bags, clouds, and a message of every kind of field."""
    folder = tmp_path_factory.mktemp(request.param)
    root = resolve_layout(connection("pkg/msg/Numbers", NUMBERS)).root
    payload = HEADERS["le"] + naive.encode(root, CDR, NUMBERS_ROW)
    for number, bag in enumerate(("a.bag", "b.mcap")):
        write_bag(folder / bag, start_ns=START_NS + number * 10**12)
    write_clouds(folder / "c.mcap", [velodyne(3), velodyne(0), velodyne(2)])
    numbers = write_mcap(
        folder / "d.mcap", "pkg/msg/Numbers", [payload] * 3, schema=NUMBERS, schema_encoding="ros2msg"
    )
    options = ExtractOptions(pointcloud=PointClouds.DECODED, parquet=request.param)
    bags = [folder / bag for bag in ("a.bag", "b.mcap", "c.mcap")]
    extract(*bags, output=folder / request.param, options=options)
    extract(numbers, output=folder / request.param, drive_id="numbers", options=options)
    return folder / request.param


def tables(lake: Path) -> list[Path]:
    return sorted(path for path in lake.glob("[!_]*/**/*.parquet"))


def expected(file: Path) -> list[dict[str, Any]]:
    return [plain(row) for row in pq.ParquetFile(file).read().to_pylist()]


def plain(value: Any) -> Any:
    """A value whatever library it is of: binaries are bytes, times in UTC, decimals whole numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Decimal):
        assert value == int(value)
        return int(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


def assert_same(found: list[dict[str, Any]], file: Path) -> None:
    rows = expected(file)
    assert len(found) == len(rows)
    for one, other in zip(found, rows, strict=True):
        assert naive.same({name: plain(one[name]) for name in other}, other)


# --- the files ---------------------------------------------------------------------------------------


def test_encodings_statistics_and_page_index(lake: Path) -> None:
    compact = lake.name == ParquetStyle.COMPACT
    seen = set()
    for file in tables(lake):
        metadata = pq.read_metadata(file)
        kinds = dict(leaves(recorded_schema(metadata)))
        for number in range(metadata.row_group(0).num_columns):
            column = metadata.row_group(0).column(number)
            path, kind = column.path_in_schema, kinds[column.path_in_schema]
            blob = pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
            text = pa.types.is_string(kind) or pa.types.is_dictionary(kind)
            whole = pa.types.is_integer(kind) or pa.types.is_timestamp(kind)
            values = set(column.encodings) - {"RLE"}
            if text:
                assert values == ({"PLAIN", "RLE_DICTIONARY"} if compact else {"PLAIN_DICTIONARY"})
            elif compact and pa.types.is_floating(kind):
                assert values == {"BYTE_STREAM_SPLIT"}
            elif compact and whole:
                assert values == {"DELTA_BINARY_PACKED"}
            else:
                assert values <= {"PLAIN"}
            kinds_of_pages = {page.kind for page in pages(file, path)}
            assert kinds_of_pages == ({DATA_PAGE, DICTIONARY_PAGE} if text else {DATA_PAGE}), "v1 pages"
            prunes = not blob and ".list." not in path
            assert (column.statistics is not None) == column.has_column_index == prunes, path
            assert column.has_offset_index
            if "image" in str(file) and path == "data":
                assert column.compression == "UNCOMPRESSED", "a JPEG does not get smaller"
            elif not blob:
                assert column.compression == "ZSTD"
            seen.add("text" if text else "blob" if blob else str(kind))
    assert {"text", "blob", "bool", "float", "double", "uint8", "uint64", "timestamp[us, tz=UTC]"} <= seen


def test_types_are_those_that_all_readers_have(lake: Path) -> None:
    compatible = lake.name == ParquetStyle.COMPATIBLE
    for file in tables(lake):
        schema = pq.read_metadata(file).schema
        for number in range(len(schema)):
            column = schema.column(number)
            logical = json.loads(column.logical_type.to_json())
            assert column.physical_type in (
                "BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY",
            )  # fmt: skip
            assert logical["Type"] in ("None", "String", "Int", "Timestamp"), column
            if logical["Type"] == "Timestamp":
                assert (logical["timeUnit"], logical["isAdjustedToUTC"]) == ("microseconds", True)
            if compatible and logical["Type"] == "Int" and not logical["isSigned"]:
                assert logical["bitWidth"] != 32
            lists = column.path.count(".list.")
            assert column.max_repetition_level == lists, "lists are of three levels, list and element"
            assert column.path.count(".list.element") == lists
            nullable = int(column.path == "data_gaps")
            assert column.max_definition_level == lists + nullable, "a level a list: nothing is null"


def test_rows_are_declared_and_sorted_by_log_time(lake: Path) -> None:
    for file in tables(lake):
        metadata = pq.read_metadata(file)
        assert metadata.num_row_groups
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            assert group.sorting_columns == (pq.SortingColumn(0), pq.SortingColumn(1))
            assert [group.column(place).path_in_schema for place in range(2)] == ["log_time", "log_time_ns"]
            times = pq.ParquetFile(file).read_row_group(number, ["log_time_ns"])[0].to_pylist()
            assert times == sorted(times)


def test_messages_out_of_order_are_sorted_by_row_group_and_come_back(tmp_path: Path) -> None:
    """Within one log time they stay in the order they were recorded in."""
    times = [50, 10, 50, 30, 90, 90, 20, 50]
    file = McapFile()
    file.add(file.define(mcap_schema(1, "std_msgs/msg/String", "ros2msg", "string data")))
    file.add(file.define(mcap_channel(1, 1, "/topic", "cdr")))
    for number, time in enumerate(times):
        text = f"{number:03d}\0".encode()
        file.add(mcap_message(1, number, time, HEADERS["le"] + struct.pack("<I", len(text)) + text))
    file.count({1: len(times)})
    (tmp_path / "a.mcap").write_bytes(file.bytes())
    manifest = extract(tmp_path / "a.mcap", output=tmp_path / "lake")
    (written,) = manifest.topics[0].files
    table = pq.read_table(tmp_path / "lake" / written.path)
    order = sorted(range(len(times)), key=times.__getitem__)
    assert table["log_time_ns"].to_pylist() == sorted(times)
    assert table["data"].to_pylist() == [f"{number:03d}" for number in order]
    rebuild(Lake(str(tmp_path / "lake")), "drive_1", str(tmp_path / "back.mcap"))
    recorded = roundtrip.read(tmp_path / "a.mcap")
    assert roundtrip.read(tmp_path / "back.mcap").messages == recorded.messages


def test_pages_hold_few_long_blobs(tmp_path: Path) -> None:
    """So that a range read of one image does not fetch all of its row group."""
    size, count = 700_000, 12
    payload = HEADERS["le"] + struct.pack("<I", size) + bytes(size)
    bag = write_mcap(
        tmp_path / "a.mcap",
        "pkg/msg/Image",
        [payload] * count,
        schema="uint8[] data",
        schema_encoding="ros2msg",
    )
    manifest = extract(bag, output=tmp_path / "lake")
    (written,) = manifest.topics[0].files
    found = pages(tmp_path / "lake" / written.path, "data")
    assert len(found) >= count // 2
    assert max(page.size for page in found) < 2 * PAGE_BYTES


def test_many_short_rows_share_pages(tmp_path: Path) -> None:
    payload = HEADERS["le"] + struct.pack("<I", 3) + b"abc"
    bag = write_mcap(
        tmp_path / "a.mcap",
        "pkg/msg/Short",
        [payload] * 5_000,
        schema="uint8[] data",
        schema_encoding="ros2msg",
    )
    manifest = extract(bag, output=tmp_path / "lake")
    (written,) = manifest.topics[0].files
    assert len(pages(tmp_path / "lake" / written.path, "data")) == 1


# --- the same in both styles -------------------------------------------------------------------------


def test_the_compatible_style_has_the_same_values_and_comes_back(tmp_path: Path) -> None:
    bags = [write_clouds(tmp_path / "clouds.mcap", [velodyne(3)]), tmp_path / "all.mcap"]
    write_bag(bags[1])
    for style in ParquetStyle:
        options = ExtractOptions(parquet=style)
        for bag in bags:
            extract(bag, output=tmp_path / "lake", drive_id=f"{style}_{bag.stem}", options=options)
    one = Lake(str(tmp_path / "lake"))
    for bag in bags:
        compatible, compact = (f"{style}_{bag.stem}" for style in ParquetStyle)
        for table in one.tables([compact]):
            rows = [one.dataset(table, drives=[drive]).to_table() for drive in (compact, compatible)]
            assert rows[0].drop("drive_id") == rows[1].drop("drive_id")
            both = one.dataset(table, drives=[compact, compatible]).to_table()
            assert both.schema.remove_metadata() == rows[0].schema.remove_metadata()
            assert both.num_rows == 2 * rows[0].num_rows
        outputs = [tmp_path / f"{drive}.mcap" for drive in (compact, compatible)]
        for drive, output in zip((compact, compatible), outputs, strict=True):
            rebuild(one, drive, str(output))
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
        recorded = roundtrip.read(bag)
        assert roundtrip.compare(recorded, roundtrip.read(outputs[1]).messages) == {
            "equal": len(recorded.messages)
        }


def test_a_bag_that_was_extracted_in_another_style_is_not_extracted_again(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.mcap")
    extract(tmp_path / "a.mcap", output=tmp_path / "lake")
    options = ExtractOptions(parquet=ParquetStyle.COMPATIBLE)
    again = plan_for(tmp_path / "a.mcap", output=tmp_path / "lake", options=options)
    assert (again.shards, again.covered) == ((), ("a.mcap",))


# --- readers -----------------------------------------------------------------------------------------


def test_pyarrow(lake: Path) -> None:
    (numbers,) = expected(next((lake / "topic").glob("*/drive_id=numbers/*")))[:1]
    assert naive.same({name: numbers[name] for name in NUMBERS_ROW}, NUMBERS_ROW)
    assert Lake(str(lake)).dataset("topic", drives=["drive_1"]).count_rows() == 3


def test_duckdb(lake: Path) -> None:
    for file in tables(lake):
        with duckdb.connect() as connected:
            connected.execute("SET TimeZone = 'UTC'")
            assert_same(connected.read_parquet(str(file)).to_arrow_table().to_pylist(), file)


def test_polars(lake: Path) -> None:
    polars = pytest.importorskip("polars")
    for file in tables(lake):
        assert_same(polars.read_parquet(file, hive_partitioning=False).to_dicts(), file)


def test_fastparquet(lake: Path) -> None:
    """Columns that are neither nested nor lists, of the compatible style: it has no more."""
    fastparquet = pytest.importorskip("fastparquet")
    if lake.name == ParquetStyle.COMPACT:
        pytest.skip("fastparquet does not have byte-stream-split")
    for file in tables(lake):
        flat = [field.name for field in pq.read_schema(file) if not pa.types.is_nested(field.type)]
        frame = fastparquet.ParquetFile(str(file)).to_pandas(columns=flat)
        rows = expected(file)
        for name in flat:
            assert [plain(value) for value in frame[name].tolist()] == [row[name] for row in rows], name


def test_spark(lake: Path) -> None:
    """Before 4.3 its vectorized reader lacks byte-stream-split; the other one has it."""
    sql = pytest.importorskip("pyspark.sql")
    vectorized = str(lake.name == ParquetStyle.COMPATIBLE).lower()
    session = (
        sql.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    session.conf.set("spark.sql.parquet.enableVectorizedReader", vectorized)
    for file in tables(lake):
        rows = session.read.parquet(str(file)).collect()
        assert_same([row.asDict(recursive=True) for row in rows], file)
