"""Transforms: a team's code between rows and tables, what it may give, what becomes of it when it fails."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.typesys import Stores, get_typestore

import ros_to_parquet
from ros_to_parquet import contract
from ros_to_parquet.cli import main
from ros_to_parquet.commands.extract import parse_transforms
from ros_to_parquet.commands.outcome import UsageError
from ros_to_parquet.contract import (
    BagSlice,
    DriveState,
    ExitCode,
    ExtractOptions,
    Manifest,
    PointClouds,
    TopicResult,
    Transformed,
    TransformRule,
)
from ros_to_parquet.errors import ShardError
from ros_to_parquet.memory import share_out
from ros_to_parquet.rebuild import RebuildError, rebuild
from ros_to_parquet.run import run_shard
from tests.engine.decode.test_pointcloud import velodyne
from tests.engine.installed import install
from tests.engine.sample_bags import START_NS, TOPICS, write_bag, write_mcap
from tests.engine.test_pointclouds import write_clouds
from tests.engine.test_run import JOB, cli, extract, plan_for, rows

EXAMPLE = Path(__file__).parents[2] / "examples" / "transforms"

Installer = Callable[..., str]

IMU = {"/imu/*": "it"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Installs code whose ``it`` is the transform of that name; returns the package's name."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)

    def with_code(code: str, **names: str) -> str:
        return install(site, code, names or {"it": "it"})

    return with_code


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    write_bag(tmp_path / "a.bag")
    return tmp_path / "a.bag"


def options(names: dict[str, str], **changes: Any) -> ExtractOptions:
    return ExtractOptions(transforms=contract.transform_rules(names), **changes)


def of(manifest: Manifest, topic: str) -> TopicResult:
    (result,) = [each for each in manifest.topics if each.topic == topic]
    assert result.messages == result.rows + result.rejected
    written = result.transform.rows_out if result.transform else result.rows
    assert sum(file.rows for file in result.files) == written
    if result.transform:
        assert result.transform.rows_in == result.rows
    return result


# --- the example -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's wheel unpacked: what pip makes of it."""
    folder = tmp_path_factory.mktemp("example")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=EXAMPLE,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def write_images(path: Path, frames: list[tuple[str, np.ndarray]]) -> None:
    """Images of 4 x 6, a third of a second apart; each array is (4, step)."""
    store = get_typestore(Stores.ROS1_NOETIC)
    image, header, time = (
        store.types[name]
        for name in ("sensor_msgs/msg/Image", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Rosbag1Writer(path) as writer:
        connection = writer.add_connection("/camera/image_raw", image.__msgtype__, typestore=store)
        for number, (encoding, pixels) in enumerate(frames):
            stamp = header(seq=number, stamp=time(sec=number, nanosec=0), frame_id="camera")
            message = image(stamp, 4, 6, encoding, 0, pixels.shape[1], pixels.reshape(-1))
            data = store.serialize_ros1(message, image.__msgtype__)
            writer.write(connection, START_NS + number * 333_333_333, data)


def test_the_example_in_a_process_of_its_own(tmp_path: Path, example: Path) -> None:
    rng = np.random.default_rng(5)
    grey, colour, padded = (rng.integers(0, 255, (4, step), dtype=np.uint8) for step in (6, 18, 20))
    write_images(
        tmp_path / "camera.bag",
        [
            ("mono8", grey),
            ("bgr8", colour),
            ("rgb8", padded),
            ("16UC1", rng.integers(0, 255, (4, 12), np.uint8)),
        ],
    )
    write_bag(tmp_path / "other.bag", messages=250)
    path = os.pathsep.join([str(example), *sys.path])
    listed = cli("transforms", PYTHONPATH=path)
    assert [line.split()[:3] for line in listed.stdout.splitlines()[-2:]] == [
        ["image_brightness", "drive-transforms", "0.1.0"],
        ["one_per_second", "drive-transforms", "0.1.0"],
    ]
    done = cli(
        *("extract", tmp_path / "camera.bag", tmp_path / "other.bag", "--output", tmp_path / "lake"),
        *("--drive-id", "drive_1", "--transform", "/camera/image_raw=image_brightness"),
        *("--transform", "/imu/*=one_per_second", "--transform", "/nowhere=one_per_second"),
        PYTHONPATH=path,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "/camera/image_raw: transform image_brightness (drive-transforms 0.1.0) made 4 rows of 4"
        in done.stdout
    )
    assert "/imu/data: transform one_per_second (drive-transforms 0.1.0) made 3 rows of 250" in done.stdout
    assert "! transform one_per_second: no topic matches '/nowhere'" in done.stdout

    lake = ros_to_parquet.open(str(tmp_path / "lake"))
    images = rows(tmp_path / "lake", "camera.image_raw")
    assert "data" not in images.column_names
    expected = [grey.mean(), colour.mean(), padded[:, :18].mean(), None]
    assert images.column("brightness").to_pylist() == pytest.approx(expected)
    imu = rows(tmp_path / "lake", "imu.data")
    times_ns = imu.column("log_time_ns").to_numpy()
    assert times_ns[0] == START_NS
    assert (np.diff(times_ns // 10**9) == 1).all()
    assert lake.drive("drive_1").commits[-1].state is DriveState.SUCCEEDED


# --- what a transform may do -------------------------------------------------------------------------

HALVES = """
    def it(rows, topic):
        return rows.filter(pa.array(rows.column("linear_acceleration").field("x").to_numpy() % 2 == 0))
"""


def test_rows_in_and_out_are_counted_apart(tmp_path: Path, bag: Path, installed: Installer) -> None:
    package = installed(HALVES)
    plain = of(extract(bag, output=tmp_path / "plain"), "/imu/data")
    manifest = extract(bag, output=tmp_path / "lake", options=options(IMU))
    imu = of(manifest, "/imu/data")
    assert imu.transform == Transformed("it", package, "1.2", rows_in=40, rows_out=20)
    assert [of(manifest, topic).transform for topic in TOPICS[1:]] == [None] * 3

    # The same columns, but rows that are not what was recorded: a partition of their own.
    assert imu.schema_hash == plain.schema_hash
    (file,) = imu.files
    assert file.path.split("/")[1] != plain.files[0].path.split("/")[1]
    schema = pq.read_schema(tmp_path / "lake" / file.path)
    assert schema.equals(pq.read_schema(tmp_path / "plain" / plain.files[0].path))
    said = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert (
        said["ros_to_parquet.transform"] == f'{{"name": "it", "distribution": "{package}", "version": "1.2"}}'
    )
    assert said["ros.topic"] == "/imu/data"
    assert f"schema={said['ros_to_parquet.schema']}" == file.path.split("/")[1]

    left = rows(tmp_path / "lake", "imu.data")
    assert left.column("linear_acceleration").combine_chunks().field("x").to_pylist() == list(range(0, 40, 2))
    commit = ros_to_parquet.open(str(tmp_path / "lake")).drive("drive_1").commits[-1]
    (table,) = [each for each in commit.tables if each.table == "imu.data"]
    assert (table.messages, table.rows, table.transforms) == (40, 40, (imu.transform,))
    assert commit.problems == ()


GIVES = {
    "a batch": "rows.select(['log_time_ns', 'bag'])",
    "a table": "pa.Table.from_batches([rows.select(['log_time_ns', 'bag'])])",
    "a list": "[each.select(['log_time_ns', 'bag']) for each in (rows.slice(0, 1), rows.slice(1))]",
    "an iterator": "(rows.slice(place, 1).select(['bag', 'log_time_ns']) for place in range(rows.num_rows))",
    "a reader": "pa.RecordBatchReader.from_batches(rows.select(['log_time_ns', 'bag']).schema,"
    " [rows.select(['log_time_ns', 'bag'])])",
}


@pytest.mark.parametrize("gives", GIVES)
def test_rows_are_taken_in_any_arrow_form(
    tmp_path: Path, bag: Path, installed: Installer, gives: str
) -> None:
    installed(f"def it(rows, topic):\n    return {GIVES[gives]}")
    imu = of(extract(bag, output=tmp_path / "lake", options=options(IMU)), "/imu/data")
    assert imu.transform is not None
    assert imu.transform.rows_out == 40
    table = rows(tmp_path / "lake", "imu.data")
    assert table.column_names == ["log_time_ns", "bag", "schema", "drive_id"], "the engine's own come first"
    assert table.column("log_time_ns").to_pylist() == [START_NS + number * 10**7 for number in range(40)]


@pytest.mark.parametrize(
    ("gives", "columns"),
    [
        ("None", None),
        ("[]", None),
        ("rows.select(['log_time_ns', 'header']).slice(0, 0)", ["log_time_ns", "header"]),
    ],
)
def test_all_rows_may_go(
    tmp_path: Path, bag: Path, installed: Installer, gives: str, columns: list[str] | None
) -> None:
    installed(f"def it(rows, topic):\n    return {gives}")
    imu = of(extract(bag, output=tmp_path / "lake", options=options(IMU)), "/imu/data")
    assert (imu.messages, imu.rows, imu.rejected) == (40, 40, 0)
    assert imu.transform is not None
    assert imu.transform.rows_out == 0
    assert [pq.read_schema(tmp_path / "lake" / file.path).names for file in imu.files] == (
        [columns] if columns else []
    )


def test_rows_may_become_more_and_other(tmp_path: Path, bag: Path, installed: Installer) -> None:
    installed("""
    def it(rows, topic):
        for time_ns in rows.column("log_time_ns").to_pylist():
            yield pa.RecordBatch.from_pydict({
                "tags": pa.array([[("axis", name)] for name in "zyx"], pa.map_(pa.string(), pa.string())),
                "log_time": pa.array([time_ns // 1000] * 3, pa.timestamp("us", "UTC")),
                "log_time_ns": pa.array([time_ns] * 3, pa.int64()),
                "bag": ["from " + topic.bag] * 3,
            })
    """)
    imu = of(extract(bag, output=tmp_path / "lake", options=options(IMU)), "/imu/data")
    assert imu.transform is not None
    assert (imu.transform.rows_in, imu.transform.rows_out) == (40, 120)
    file = pq.ParquetFile(tmp_path / "lake" / imu.files[0].path)
    assert file.schema_arrow.names == ["log_time", "log_time_ns", "bag", "tags"]
    assert file.schema_arrow.field("bag").type == pa.dictionary(pa.int32(), pa.string())
    assert [column.column_index for column in file.metadata.row_group(0).sorting_columns] == [0, 1]
    table = file.read()
    assert table.column("tags").to_pylist()[:3] == [[("axis", name)] for name in "zyx"]
    assert set(table.column("bag").to_pylist()) == {"from a.bag"}


def test_an_object_a_bag_and_what_it_has_left_at_the_end(tmp_path: Path, installed: Installer) -> None:
    write_bag(tmp_path / "a.bag")
    write_bag(tmp_path / "b.bag", messages=25, start_ns=START_NS + 10**10)
    installed("""
    class it:
        def __init__(self, topic):
            self.topic, self.seen, self.last_ns = topic, 0, 0

        def transform(self, rows):
            assert rows.schema.equals(self.topic.schema), rows.schema
            times_ns = rows.column("log_time_ns").to_pylist()
            assert times_ns == sorted(times_ns) and times_ns[0] > self.last_ns
            self.seen += rows.num_rows
            self.last_ns = times_ns[-1]

        def finish(self):
            return pa.RecordBatch.from_pylist(
                [{"bag": self.topic.bag, "type": self.topic.type_name, "seen": self.seen}]
            )
    """)
    bags = (tmp_path / "a.bag", tmp_path / "b.bag")
    chosen = options({"/imu/*": "it", "/status": "it"}, include_topics=("/imu/*", "/status"))
    manifest = extract(*bags, output=tmp_path / "lake", options=chosen)
    assert of(manifest, "/imu/data").transform == of(manifest, "/status").transform
    for table, kind in (("imu.data", "sensor_msgs/Imu"), ("status", "std_msgs/String")):
        found = ros_to_parquet.open(str(tmp_path / "lake")).dataset(table).to_table().to_pylist()
        assert [(row["bag"], row["type"], row["seen"]) for row in found] == [
            ("a.bag", kind, 40),
            ("b.bag", kind, 25),
        ]


def test_publishers_have_an_object_each_in_the_order_of_the_recording(
    tmp_path: Path, installed: Installer
) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    text = store.types["std_msgs/msg/String"]
    with Rosbag1Writer(tmp_path / "a.bag") as writer:
        publishers = [
            writer.add_connection("/status", text.__msgtype__, typestore=store, callerid=name)
            for name in ("/one", "/two")
        ]
        for number in range(60):
            data = store.serialize_ros1(text(f"{number % 2}"), text.__msgtype__)
            writer.write(publishers[number % 2], START_NS + number, data)
    installed("""
    class it:
        def __init__(self, topic):
            self.rows = []

        def transform(self, rows):
            self.rows.append(rows)

        def finish(self):
            table = pa.Table.from_batches(self.rows)
            return table.append_column("place", pa.array(range(table.num_rows), pa.int64()))
    """)
    extract(tmp_path / "a.bag", output=tmp_path / "lake", options=options({"*": "it"}))
    table = rows(tmp_path / "lake", "status")
    assert table.column("place").to_pylist() == [number // 2 for number in range(60)]
    assert table.column("data").to_pylist() == ["0", "1"] * 30


def test_rejected_messages_do_not_come_to_it(tmp_path: Path, installed: Installer) -> None:
    installed("def it(rows, topic):\n    return rows.slice(1)")
    payloads = [b"\0\1\0\0" + bytes([number, 0, 0, 0]) for number in range(6)] + [b"\0\1\0\0\7"]
    bag = write_mcap(tmp_path / "a.mcap", "x/Number", payloads, schema="uint32 n", schema_encoding="ros2msg")
    manifest = extract(bag, output=tmp_path / "lake", options=options({"*": "it"}))
    topic = of(manifest, "/topic")
    assert (topic.messages, topic.rows, topic.rejected) == (7, 6, 1)
    assert topic.transform is not None
    assert topic.transform.rows_out == 5


def test_dictionaries_and_views_of_many_batches_are_one_column(tmp_path: Path, installed: Installer) -> None:
    """More values than a batch's indices reach, nulls among them, and rows that are yet to be sorted."""
    installed("""
    def it(rows, topic):
        for start in (200, 100, 0):
            part = rows.slice(start, 100)
            numbers = part.column("n").to_pylist()
            names = pa.array([f"n{n}" if n % 2 else None for n in numbers])
            indices = pa.array(range(100), pa.int8())
            yield (
                part.append_column("label", pa.DictionaryArray.from_arrays(indices, names))
                .append_column("name", pa.array([f"n{n}" for n in numbers]).dictionary_encode()
                    .cast(pa.dictionary(pa.int8(), pa.string())))
                .append_column("text", pa.array([f"n{n}" for n in numbers], pa.string_view()))
                .append_column("raw", pa.array([b"%d" % n for n in numbers], pa.binary_view()))
            )
    """)
    payloads = [b"\0\1\0\0" + number.to_bytes(4, "little") for number in range(300)]
    bag = write_mcap(tmp_path / "a.mcap", "x/Number", payloads, schema="uint32 n", schema_encoding="ros2msg")
    of(extract(bag, output=tmp_path / "lake", options=options({"*": "it"})), "/topic")
    table = rows(tmp_path / "lake", "topic")
    names = [f"n{number}" for number in range(300)]
    assert table.column("n").to_pylist() == list(range(300))
    assert table.column("name").to_pylist() == table.column("text").to_pylist() == names
    assert table.column("raw").to_pylist() == [b"%d" % number for number in range(300)]
    assert table.column("label").to_pylist() == [None if n % 2 == 0 else names[n] for n in range(300)]


def test_decoded_clouds_come_to_it_as_columns(tmp_path: Path, installed: Installer) -> None:
    installed("""
    def it(rows, topic):
        assert "data" not in rows.schema.names
        return rows.select(["log_time_ns", "x"])
    """)
    bag = write_clouds(tmp_path / "a.mcap", [velodyne(3), velodyne(5)])
    chosen = options({"*": "it"}, pointcloud=PointClouds.DECODED)
    of(extract(bag, output=tmp_path / "lake", options=chosen), "/topic")
    assert [len(each) for each in rows(tmp_path / "lake", "topic").column("x").to_pylist()] == [3, 5]


def test_large_rows_and_batches_keep_their_file_and_row_groups(tmp_path: Path, installed: Installer) -> None:
    budget = share_out(128 << 20)
    blob = np.random.default_rng(1).bytes(1000)
    sizes = [6 << 20, 1000, 5 << 20, 2000]  # budget.large is 4 MiB
    payloads = [
        b"\0\1\0\0" + size.to_bytes(4, "little") + (blob * (size // 1000 + 1))[:size] for size in sizes
    ]
    schema = {"schema": "uint8[] data", "schema_encoding": "ros2msg"}
    bag = write_mcap(tmp_path / "a.mcap", "x/Blob", payloads, **schema)  # type: ignore[arg-type]
    installed(
        """
    def as_it_is(rows, topic):
        return rows

    def first_byte(rows, topic):
        firsts = [value[:1] for value in rows.column("data").to_pylist()]
        return rows.drop_columns(["data"]).append_column("first", pa.array(firsts, pa.binary()))

    class ten_times:
        def __init__(self, topic):
            self.rows = []

        def transform(self, rows):
            self.rows += [rows] * 10

        def finish(self):
            return pa.Table.from_batches(self.rows).combine_chunks()
    """,
        as_it_is="as_it_is",
        first_byte="first_byte",
        ten_times="ten_times",
    )

    def result(name: str) -> TopicResult:
        lake = tmp_path / name
        return of(extract(bag, output=lake, options=options({"*": name}), budget=budget), "/topic")

    same = result("as_it_is")
    assert sorted((file.rows, file.path.endswith("-large.parquet")) for file in same.files) == [
        (2, False),
        (2, True),
    ]
    assert [len(value) for value in rows(tmp_path / "as_it_is", "topic").column("data").to_pylist()] == sizes

    (file,) = result("first_byte").files
    assert (file.rows, file.size_bytes < 10_000) == (4, True)

    many = [pq.ParquetFile(tmp_path / "ten_times" / file.path) for file in result("ten_times").files]
    assert sum(file.metadata.num_rows for file in many) == 40
    groups = [file.metadata.row_group(number) for file in many for number in range(file.num_row_groups)]
    assert max(group.total_byte_size for group in groups) < 1.1 * budget.row_group


def test_a_row_too_large_to_write_says_which_limit_to_raise(
    tmp_path: Path, bag: Path, installed: Installer
) -> None:
    installed("""
    def it(rows, topic):
        numbers = pa.array(np.zeros(30 << 20, np.uint8))
        yield pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)], ["n"])
    """)  # noqa: E501
    with pytest.raises(ShardError, match=r"it gave a row that is .* raise --memory-limit to \d+MiB"):
        extract(bag, output=tmp_path / "lake", options=options(IMU), budget=share_out(128 << 20))


# --- what it may not do ------------------------------------------------------------------------------


def test_a_transform_that_fails_fails_the_shard_and_says_where(
    tmp_path: Path, bag: Path, installed: Installer
) -> None:
    package = installed("""
    def it(rows, topic):
        return rows.drop_columns(["colour"])
    """)
    with pytest.raises(ShardError) as caught:
        extract(bag, output=tmp_path / "lake", options=options(IMU))
    assert caught.value.exit_code is ExitCode.TRANSFORM_FAILED
    said = str(caught.value)
    assert said.startswith(
        f"drive drive_1: transform it ({package} 1.2): topic /imu/data, bag a.bag, 40 rows of log times "
        "2023-11-14T22:13:20.123456789Z to 2023-11-14T22:13:20.513456789Z: KeyError: "
    )
    assert "colour" in said
    assert not list((tmp_path / "lake").rglob("*.parquet")), "nothing of the shard is visible"


def test_a_transform_that_ends_the_process_fails_the_shard(
    tmp_path: Path, bag: Path, installed: Installer
) -> None:
    installed("import sys\ndef it(rows, topic):\n    sys.exit(0)")
    with pytest.raises(ShardError, match="SystemExit: 0 ") as caught:
        extract(bag, output=tmp_path / "lake", options=options(IMU))
    assert caught.value.exit_code is ExitCode.TRANSFORM_FAILED


def test_a_failure_in_a_process_has_its_traceback_in_the_log_and_its_exit_code(
    tmp_path: Path, bag: Path
) -> None:
    install(tmp_path / "site", "def it(rows, topic):\n    return 1 / 0", {"it": "it"})
    path = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    done = cli("extract", bag, "--output", tmp_path / "lake", "--transform", "/imu/*=it", PYTHONPATH=path)
    assert done.returncode == ExitCode.TRANSFORM_FAILED
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert "return 1 / 0" in done.stderr
    assert "ZeroDivisionError: division by zero (" in done.stderr.splitlines()[-1]


CLASS = """
    class it:
        def __init__(self, topic):
            {begin}

        def transform(self, rows):
            return None

        def finish(self):
            return {end}
"""


@pytest.mark.parametrize(
    ("begin", "end", "where"),
    [
        ("raise OSError('no calibration')", "None", "bag a.bag: OSError: no calibration ("),
        ("pass", "1 / 0", "bag a.bag, at its end: ZeroDivisionError: division by zero ("),
    ],
)
def test_failures_at_the_beginning_and_the_end_of_a_bag(
    tmp_path: Path, bag: Path, installed: Installer, begin: str, end: str, where: str
) -> None:
    installed(CLASS.format(begin=begin, end=end))
    with pytest.raises(ShardError) as caught:
        extract(bag, output=tmp_path / "lake", options=options(IMU))
    assert where in str(caught.value)


def add(value: str, name: str = "x") -> str:
    return f"rows.append_column('{name}', {value})"


BAD = [
    ("7", "it gave a int; it is to give a pyarrow.RecordBatch or Table, several of them, or None"),
    ("'rows'", "it gave a str among its batches, not a pyarrow.RecordBatch"),
    ("{'a': rows}", "it gave a dict; it is to give"),
    ("np.zeros(3)", "it gave a numpy.ndarray; it is to give"),
    ("[rows, None]", "it gave a NoneType among its batches"),
    (add("pa.nulls(40)"), "column x has no type: give one, so that batches with values have the same"),
    (
        add("pa.array([0] * 40, pa.timestamp('ns'))"),
        "column x is timestamp[ns], which not every reader of Parquet",
    ),
    (
        add("pa.array([[0]] * 40, pa.list_(pa.time64('ns')))"),
        "column x.list.element is time64[ns], which not",
    ),
    (add("pa.array([{}] * 40, pa.struct([]))"), "Parquet cannot hold its columns: "),
    (add("pa.array([0] * 40)", "schema"), "column 'schema': drive_id, schema are partitions of the table"),
    (add("pa.array([0] * 40)", "Drive_ID"), "column 'Drive_ID': drive_id, schema are partitions"),
    (
        add("pa.array([0] * 40)", "HEADER"),
        "column 'HEADER' is there twice (most readers do not tell A from a)",
    ),
    (
        add("pa.array([[]] * 40, pa.list_(pa.struct({'p': pa.struct({'X': 'int8', 'x': 'int8'})})))"),
        "field x.element.p.x is there twice (most readers do not tell A from a)",
    ),
    (add("pa.array([0] * 40)", ""), "it gave a column without a name"),
    ("pa.RecordBatch.from_arrays([], schema=pa.schema([]))", "it gave a batch without columns"),
    (
        "rows.set_column(0, 'log_time', pa.array(['now'] * 40))",
        "column log_time is string, and in every table timestamp[us, tz=UTC]: ",
    ),
    (
        "rows.set_column(1, 'log_time_ns', pa.array([None] * 40, pa.int64()))",
        "column log_time_ns has nulls, and its type says that it has none",
    ),
    (
        "rows.set_column(1, 'log_time_ns', pa.array([1] * 40))",
        "row 0 has log_time 2023-11-14 22:13:20.123456+00:00 and log_time_ns 1, which are not one time",
    ),
    (
        "[rows.select(['bag', 'log_time']), rows.select(['bag'])]",
        "its columns differ from those of its first batch: log_time is missing; they are to be the same",
    ),
    (
        "[rows.select(['bag']), rows.select(['bag', 'log_time'])]",
        "those of its first batch: log_time is new;",
    ),
    (
        "[rows.select(['header']), pa.RecordBatch.from_pydict({'header': [1]})]",
        "those of its first batch: header is int64, was struct<",
    ),
    (
        "[rows.select(['header', 'orientation']), rows.select(['orientation', 'header'])]",
        "those of its first batch: they come in the order orientation, header;",
    ),
    (
        "rows.select(['header']).set_column(0, 'x', pa.nulls(40, rows['header'].type))",
        "column x.seq has nulls, and its type says that it has none",
    ),
    (
        add("pa.array([[0, None]] * 40, pa.list_(pa.field('element', pa.int8(), nullable=False)))"),
        "column x.element has nulls, and its type says that it has none",
    ),
]


@pytest.mark.parametrize(("gives", "reason"), BAD)
def test_what_no_table_can_be_is_refused(
    tmp_path: Path, bag: Path, installed: Installer, gives: str, reason: str
) -> None:
    package = installed(f"def it(rows, topic):\n    return {gives}")
    with pytest.raises(ShardError) as caught:
        extract(bag, output=tmp_path / "lake", options=options(IMU))
    assert caught.value.exit_code is ExitCode.TRANSFORM_FAILED
    assert str(caught.value).startswith(
        f"drive drive_1: transform it ({package} 1.2): topic /imu/data, bag a.bag, 40 rows"
    )
    assert reason in str(caught.value)


# --- which transform ---------------------------------------------------------------------------------


def test_an_unknown_name_is_said_with_the_known_ones_before_anything_is_written(
    tmp_path: Path, bag: Path, installed: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    installed("def it(rows, topic):\n    return rows")
    arguments = ["extract", str(bag), "--output", str(tmp_path / "lake"), "--transform", "/imu/*=brightness"]
    assert main(arguments) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert re.search(
        r"transform brightness is not installed where the engine runs; installed: (.*, )?it\b", said
    )
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import no_such_module",
            ": cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("import sys\nsys.exit(0)", ": cannot be imported: SystemExit: 0"),
        ("that = 1", ": cannot be imported: AttributeError: "),
        ("it = 7", ": cannot be called; it is to be a function (rows, topic) or such a class"),
        ("class it:\n    pass", ": is a class without a method transform(rows); it is to be a function"),
    ],
)
def test_code_that_is_no_transform(
    tmp_path: Path, bag: Path, installed: Installer, code: str, reason: str
) -> None:
    installed(code)
    with pytest.raises(ShardError) as caught:
        extract(bag, output=tmp_path / "lake", options=options(IMU))
    assert caught.value.exit_code is ExitCode.USAGE
    assert reason in str(caught.value)


def test_a_name_of_two_packages_is_nobodys(tmp_path: Path, bag: Path, installed: Installer) -> None:
    both = " and ".join(sorted(installed("def it(rows, topic):\n    return rows") for _ in range(2)))
    with pytest.raises(
        ShardError, match=f"transform it is in several packages: {both}; uninstall all but one"
    ):
        extract(bag, output=tmp_path / "lake", options=options(IMU))


def test_a_topic_has_one_transform(tmp_path: Path, bag: Path, installed: Installer) -> None:
    installed("def it(rows, topic):\n    return rows.slice(1)", it="it", other="it")
    both = options({"/imu/*": "it", "*data": "other"})
    with pytest.raises(ShardError) as caught:
        extract(bag, output=tmp_path / "lake", options=both)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "topic /imu/data has several transforms ('*data': other, '/imu/*': it); a topic has one" in str(
        caught.value
    )
    same = options({"/imu/*": "it", "*data": "it"})
    twice = of(extract(bag, output=tmp_path / "same", options=same), "/imu/data")
    assert twice.transform is not None
    assert twice.transform.rows_out == 39, "once, though two globs say it"
    # Of a topic that is not wanted it does not matter.
    extract(bag, output=tmp_path / "none", options=dataclasses.replace(both, exclude_topics=("/imu/*",)))


def test_globs_that_match_nothing_are_said_once_all_shards_are_done() -> None:
    from tests.engine.test_contract import bag_result, manifest, plan

    rules = (TransformRule("/im*", "a"), TransformRule("/camera/*", "b"))
    topics = ("/im*", "/lidar")
    checks = contract.parse_quality({"/lidar": None, "*": {"gap": {"warn": 3}}})[0]
    made = dataclasses.replace(plan(), options=ExtractOptions(topics, transforms=rules), quality=checks)
    shards = [manifest(number, bag_result(f"{number}.bag", slice=BagSlice(number))) for number in range(2)]
    assert contract.fold(made, shards).problems == (
        "topics: there is no message of a topic that matches '/lidar' (ros-to-parquet info BAG lists topics)",
        "transform b: no topic matches '/camera/*'",
        "quality: no topic matches '/lidar'",
    )
    assert contract.fold(made, shards).state is DriveState.SUCCEEDED
    assert contract.fold(made, shards[:1]).problems == ()


def test_versions_that_differ_between_shards_are_told_apart() -> None:
    first, second = (Transformed("a", "p", version, 5, 2) for version in ("1.0", "1.1"))
    assert contract.add_transforms([first], [second, first]) == (Transformed("a", "p", "1.0", 10, 4), second)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["/imu"], "--transform /imu: expected GLOB=NAME"),
        (["=it"], "--transform =it: expected GLOB=NAME"),
        (["/imu= it"], "--transform /imu= it: expected GLOB=NAME"),
        (["/imu=a", "/imu=b"], "--transform: /imu has both a and b; a topic has one"),
    ],
)
def test_arguments_that_say_no_transform(given: list[str], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_transforms(given)
    assert reason in str(caught.value)


# --- runs --------------------------------------------------------------------------------------------


def test_other_transforms_are_another_extraction(tmp_path: Path, bag: Path, installed: Installer) -> None:
    installed("def it(rows, topic):\n    return rows.slice(1)")
    lake = tmp_path / "lake"
    extract(bag, output=lake)
    with pytest.raises(
        ShardError, match=r"rows of a\.bag are in the lake already, of other content, other op"
    ):
        plan_for(bag, output=lake, options=options(IMU))
    again = plan_for(bag, output=lake, options=options(IMU), overwrite=True)
    run_shard(again, 0, JOB)
    assert rows(lake, "imu.data").num_rows == 39
    assert plan_for(bag, output=lake, options=options(IMU)).shards == (), "done"
    assert contract.from_json(contract.Plan, contract.to_json(again), where="").options == options(IMU)


def test_a_shard_that_failed_is_done_once_the_transform_is_mended(
    tmp_path: Path, bag: Path, installed: Installer
) -> None:
    installed("""
    import pathlib
    def it(rows, topic):
        if not pathlib.Path(__file__).with_name("mended").exists():
            raise ValueError("broken")
        return rows
    """)
    with pytest.raises(ShardError, match="broken"):
        extract(bag, output=tmp_path / "lake", options=options(IMU))
    (tmp_path / "site" / "mended").touch()
    manifest = extract(bag, output=tmp_path / "lake", options=options(IMU))
    assert of(manifest, "/imu/data").rows == 40


def test_transformed_topics_are_not_rebuilt_and_that_is_said(
    tmp_path: Path, bag: Path, installed: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    installed("def it(rows, topic):\n    return rows.slice(10)")
    lake = str(tmp_path / "lake")
    extract(bag, output=tmp_path / "lake", options=options(IMU))
    output = str(tmp_path / "back.mcap")
    assert main(["rebuild", lake, "--drive-id", "drive_1", "--output", output]) == 0
    said = capsys.readouterr().out
    assert "! /imu/data: 40 messages are changed by the transform it: not written" in said
    assert "120 messages, " in said
    with pytest.raises(RebuildError, match=r"nothing to rebuild: messages are changed by the transform it; "):
        rebuild(
            ros_to_parquet.open(lake), "drive_1", str(tmp_path / "x.mcap"), topics=ExtractOptions(("/imu/*",))
        )


def test_what_is_installed_is_looked_up_only_where_it_is_asked_for(tmp_path: Path, bag: Path) -> None:
    code = (
        "import sys; from ros_to_parquet.cli import main; main(sys.argv[1:]); "
        "print('importlib.metadata' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "extract", str(bag), "--output", str(tmp_path / "lake")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"
