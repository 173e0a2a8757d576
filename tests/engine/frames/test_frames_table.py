"""Frames tables of whole drives: what a row has, against looking at every message of the bags."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_to_parquet import contract, drift, finish
from ros_to_parquet.cli import main
from ros_to_parquet.contract import ExitCode, FinishOptions, PointClouds
from ros_to_parquet.frames import make
from ros_to_parquet.frames.errors import FramesError
from ros_to_parquet.frames.make import write_frames
from ros_to_parquet.lake import Lake
from tests.engine.frames.drives import (
    MS,
    TYPES,
    Message,
    extracted,
    header,
    image,
    made,
    speed,
    table_of,
    transform,
    values,
    write,
)
from tests.engine.sample_bags import START_NS, write_bag, write_defined

RNG = np.random.default_rng(11)


def shuffled(messages: list[Message]) -> list[Message]:
    """As a recorder that is behind leaves them: near their places."""
    places = np.arange(len(messages)) + RNG.normal(0, 4, len(messages))
    return [messages[place] for place in np.argsort(places)]


def drive_messages() -> list[Message]:
    """A camera, a topic that is faster, one that is slower; times that repeat, and stamps that lag."""
    frames = [image(number * 100 * MS + int(RNG.integers(0, 9 * MS)), number) for number in range(60)]
    fast = [
        speed(at, float(number), count=number, stamp_ns=at - int(RNG.integers(0, 40 * MS)))
        for number, at in enumerate(np.sort(RNG.integers(0, 6_000 * MS, 500)).tolist())
    ]
    again = [
        speed(each.at_ns, -each.message.value, count=-each.message.count, stamp_ns=place * 50 * MS)
        for place, each in enumerate(fast[::25])
    ]
    slow = [speed(number * 730 * MS, float(number), topic="/slow") for number in range(9)]
    return [*frames, *fast, *again, *slow]


def nearest(
    messages: Sequence[Message],
    at_ns: int,
    *,
    topic: str,
    clock: str,
    tolerance_ns: int,
    previous: bool = False,
) -> Message | None:
    """The message that the words mean: every one is looked at."""

    def when(each: Message) -> int:
        if clock == "log_time":
            return each.at_ns
        time = each.message.header.stamp
        return int(time.sec) * 10**9 + int(time.nanosec) - START_NS

    found = None
    for each in messages:
        if each.topic != topic or abs(when(each) - at_ns) > tolerance_ns or (previous and when(each) > at_ns):
            continue
        key = (abs(when(each) - at_ns), when(each))
        if found is None:
            found = each
            continue
        best = (abs(when(found) - at_ns), when(found))
        # Of one time the last by the log; of one log time too, the last recorded.
        if key < best or (key == best and each.at_ns >= found.at_ns):
            found = each
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[Message]]:
    """A drive of three bags that overlap in time, with messages out of order, in many row groups."""
    folder = tmp_path_factory.mktemp("drive")
    messages = drive_messages()
    parts = [shuffled(messages[number::3]) for number in range(3)]
    bags = [write(folder / f"{number}.bag", part) for number, part in enumerate(parts)]
    lake = extracted(folder / "lake", *bags, small_groups=True)
    files = [file.path for file in lake.drive("d").files() if file.path.startswith("speed/")]
    assert len(files) == 3
    assert all(pq.ParquetFile(f"{lake.uri}/{path}").num_row_groups > 1 for path in files)
    # In the order in which rows lie in the lake: a topic's files by their first log time, rows by log time.
    found = []
    for topic in ("/camera", "/speed", "/slow"):
        of_topic = [[each for each in part if each.topic == topic] for part in parts]
        for part in sorted(of_topic, key=lambda part: min(each.at_ns for each in part)):
            found += sorted(part, key=lambda each: each.at_ns)
    return lake, found


@pytest.mark.parametrize("clock", ["log_time", "stamp"])
@pytest.mark.parametrize("method", ["nearest", "previous"])
@pytest.mark.parametrize("window_rows", [7, 65_536])
def test_each_frame_has_the_message_that_is_meant(
    recorded: tuple[Lake, list[Message]],
    monkeypatch: pytest.MonkeyPatch,
    clock: str,
    method: str,
    window_rows: int,
) -> None:
    monkeypatch.setattr(make, "_WINDOW_ROWS", window_rows)
    lake, messages = recorded
    _, rows = made(
        lake,
        name=f"by_{clock}",
        reference="/camera",
        clock=clock,
        topics={
            "/speed": {"method": method, "tolerance_ms": 12},
            "/slow": {"method": method, "tolerance_ms": "unlimited"},
        },
    )
    frames = [each for each in messages if each.topic == "/camera"]
    assert sorted(row["camera"]["header"]["seq"] for row in rows) == list(range(60))
    assert len(rows) == len(frames) == 60
    times = [row["time_ns"] for row in rows]
    assert times == sorted(times)
    for row in rows:
        assert row["camera"]["time_ns"] == row["time_ns"]
        assert row["camera"]["delta_ns"] == 0
        for topic, tolerance_ns in (("/speed", 12 * MS), ("/slow", 10**18)):
            wanted = nearest(
                messages,
                row["time_ns"] - START_NS,
                topic=topic,
                clock=clock,
                tolerance_ns=tolerance_ns,
                previous=method == "previous",
            )
            found = row[topic[1:]]
            if wanted is None:
                assert found is None
            else:
                assert (found["value"], found["count"]) == (wanted.message.value, wanted.message.count)
                assert found["time_ns"] - row["time_ns"] == found["delta_ns"]
    assert any(row["speed"] is None for row in rows)
    assert any(row["speed"] is not None for row in rows)


def test_as_duckdbs_asof_join_over_the_lake(recorded: tuple[Lake, list[Message]]) -> None:
    lake, _ = recorded
    _, rows = made(
        lake,
        name="asof",
        reference="/camera",
        topics={"/speed": {"method": "previous", "tolerance_ms": "unlimited", "fields": ["value"]}},
    )
    found = duckdb.sql(
        f"""
        SELECT camera.log_time_ns, speed.log_time_ns
        FROM read_parquet('{lake.uri}/camera/**/*.parquet') camera
        ASOF LEFT JOIN read_parquet('{lake.uri}/speed/**/*.parquet') speed
        ON camera.log_time_ns >= speed.log_time_ns
        ORDER BY 1
        """
    ).fetchall()
    ours = [(row["time_ns"], None if row["speed"] is None else row["speed"]["time_ns"]) for row in rows]
    assert ours == found


def test_nested_messages_are_as_the_lake_has_them(tmp_path: Path) -> None:
    edges = [("map", f"n{number}", (number, 0, 0), (0, 0, 0, 1)) for number in range(3)]
    messages = [transform(number * MS, *edges[: number % 4]) for number in range(9)]
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", messages))
    _, rows = made(lake, reference="/tf")
    recorded = lake.topic("/tf").to_table(columns=["transforms"]).column("transforms").to_pylist()
    assert values(rows, "tf", "transforms") == recorded
    assert [len(each) for each in recorded] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_between_two_messages(tmp_path: Path) -> None:
    frames = [image(at * MS, number) for number, at in enumerate((0, 10, 15, 30, 99))]
    fast = [speed(0, 1.0, count=1), speed(20 * MS, 3.0, count=5), speed(80 * MS, 9.0, count=9)]
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [*frames, *fast]))
    result, rows = made(
        lake, reference="/camera", topics={"/speed": {"method": "interpolated", "tolerance_ms": 55}}
    )
    assert values(rows, "speed", "value") == [1.0, 2.0, 2.5, 4.0, None]
    assert values(rows, "speed", "count") == [1, 1, 5, 5, None]
    assert values(rows, "speed", "delta_ns") == [0, -10 * MS, 5 * MS, -10 * MS, None]
    assert values(rows, "speed", "gap_ns") == [0, 20 * MS, 20 * MS, 60 * MS, None]
    assert result.columns[1].reasons == ("no messages on both sides within 55 ms: 1",)
    said = pq.read_metadata(f"{lake.uri}/{result.path}").metadata
    assert json.loads(said[b"ros_to_parquet.frames_result"])["columns"][1] == {
        "column": "speed",
        "source": "/speed",
        "matched": 4,
        "reasons": ["no messages on both sides within 55 ms: 1"],
    }
    assert json.loads(said[b"ros_to_parquet.frames"])["table"]["reference"] == "/camera"


def test_times_are_as_the_lake_has_them(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(5, 0), image(1_999, 1)]))
    _, rows = made(lake, reference="/camera")
    assert [row["time_ns"] for row in rows] == [START_NS + 5, START_NS + 1_999]
    assert [int(row["time"].timestamp() * 1e6 + 0.5) * 1000 for row in rows] == [
        row["time_ns"] // 1000 * 1000 for row in rows
    ]


def test_frames_of_one_time_are_a_row_each(tmp_path: Path) -> None:
    frames = [image(5 * MS, number, stamp_ns=0) for number in range(4)]
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [*frames, speed(4 * MS, 1.0)]))
    for clock in ("log_time", "stamp"):
        _, rows = made(lake, reference="/camera", clock=clock, topics={"/speed": {"clock": "log_time"}})
        assert [row["camera"]["header"]["seq"] for row in rows] == [0, 1, 2, 3]


# --- fixed rates ------------------------------------------------------------------------------------


def test_a_fixed_rate(tmp_path: Path) -> None:
    messages = [speed(at * MS, float(at)) for at in range(0, 1_000, 7)]
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", messages))
    _, rows = made(lake, rate_hz=30, topics={"/speed": {"method": "interpolated"}})
    first, last = START_NS, START_NS + 994 * MS
    ticks = [
        tick
        for k in range(first * 30 // 10**9, last * 30 // 10**9 + 2)
        if first <= (tick := k * 10**9 // 30) <= last
    ]
    assert [row["time_ns"] for row in rows] == ticks
    expected = [(tick - START_NS) / MS for tick in ticks]
    assert values(rows, "speed", "value") == pytest.approx(expected)


def test_a_rate_goes_on_through_gaps_but_not_through_long_pauses(tmp_path: Path) -> None:
    minutes = 60_000 * MS
    messages = [speed(at, 0.0) for at in (0, 10_000 * MS, 10_000 * MS + 61 * 60_000 * MS)]
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", messages))
    _, rows = made(lake, rate_hz=1, tolerance_ms=999, topics={"/speed": {}})
    times = np.array([row["time_ns"] for row in rows]) - START_NS
    assert len(rows) in (10, 11)
    assert (times % (1000 * MS) == times[0]).all()
    assert times.max() < minutes
    assert [value is not None for value in values(rows, "speed", "value")].count(True) < 4


# --- definitions that change, topics that are not there ---------------------------------------------


def test_definitions_that_one_table_holds(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    old = {"text": "float32 value", "kind": "car/msg/Speed", "topic": "/speed"}
    new = {"text": "float64 value\nstring source", "kind": "car/msg/Speed", "topic": "/speed"}
    bags = [
        write_defined(
            tmp_path / "a.bag", old["text"], [{"value": 1.5}] * 2, topic="/speed", kind=old["kind"]
        ),
        write_defined(
            tmp_path / "b.bag",
            new["text"],
            [{"value": 2.5, "source": "wheel"}] * 2,
            topic="/speed",
            kind=new["kind"],
            start_ns=START_NS + 10**10,
        ),
    ]
    drive = extracted(lake, *bags)
    _, rows = made(drive, reference="/speed")
    assert values(rows, "speed", "value") == [1.5, 1.5, 2.5, 2.5]
    assert values(rows, "speed", "source") == [None, None, "wheel", "wheel"]
    assert drive.frames().schema.field("speed").type.field("value").type == "double"


def test_definitions_that_no_table_holds_are_refused_but_for_what_they_share(tmp_path: Path) -> None:
    bags = [
        write_defined(
            tmp_path / f"{number}.bag",
            f"{kind} value\nuint8 same",
            [{"value": 1, "same": number}],
            topic="/speed",
            kind="car/msg/Speed",
            start_ns=START_NS + number * 10**9,
        )
        for number, kind in enumerate(("int32", "float64"))
    ]
    lake = extracted(tmp_path / "lake", *bags)
    with pytest.raises(FramesError, match="topic /speed: its definition changed so that no table holds both"):
        write_frames(lake.uri, "d", table_of(reference="/speed"))
    _, rows = made(lake, reference="/speed", topics={"/speed": {"fields": ["same"]}})
    assert values(rows, "speed", "same") == [0, 1]


def test_topics_that_are_not_there(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0), image(10, 1)]))
    result, rows = made(lake, reference="/camera", topics={"/nowhere": {}})
    assert [row["nowhere"] for row in rows] == [None, None]
    assert result.problems == ("topic /nowhere: the drive has no rows of it",)
    assert result.columns[1].reasons == ("the drive has no rows of it: 2",)
    with pytest.raises(
        FramesError, match=r"topic /front, the reference: .* no rows of it; there are /camera"
    ):
        write_frames(lake.uri, "d", table_of(reference="/front"))
    with pytest.raises(FramesError, match="no drive 'other'; there are d"):
        write_frames(lake.uri, "other", table_of(reference="/camera"))


def test_a_rate_without_any_message_is_an_empty_table(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0)]))
    result, rows = made(lake, rate_hz=10, topics={"/nowhere": {}})
    assert (rows, result.rows) == ([], 0)


def test_a_stamp_that_messages_do_not_have(tmp_path: Path) -> None:
    plain = Message(0, "/plain", TYPES["std_msgs/msg/Float64"](1.0))
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0), plain]))
    with pytest.raises(
        FramesError, match=r'topic /plain: .* no header, and so no stamp: .* "clock": "log_time"'
    ):
        write_frames(lake.uri, "d", table_of(reference="/camera", clock="stamp", topics={"/plain": {}}))
    _, rows = made(lake, reference="/camera", clock="stamp", topics={"/plain": {"clock": "log_time"}})
    assert values(rows, "plain", "data") == [1.0]


# --- columns ----------------------------------------------------------------------------------------


def test_fields(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.bag", messages=5)
    lake = extracted(tmp_path / "lake", tmp_path / "a.bag")
    _, rows = made(
        lake,
        reference="/camera/image/compressed",
        topics={
            "/camera/image/compressed": {"column": "camera"},
            "/imu/data": {"column": "imu", "fields": ["linear_acceleration.y", "header.frame_id", "bag"]},
            "/status": {"fields": ["*"]},
        },
    )
    assert list(rows[0]) == ["time", "time_ns", "camera", "imu", "status", "drive_id"]
    assert list(rows[0]["imu"]) == [
        *("time_ns", "delta_ns", "bag", "header", "linear_acceleration"),
        *("file", "row_group", "row"),
    ]
    assert rows[0]["imu"]["bag"] == "a.bag"
    assert rows[0]["imu"]["linear_acceleration"] == {"y": 0.5}
    assert rows[0]["imu"]["header"] == {"frame_id": "base"}
    assert list(rows[0]["camera"]) == [
        *("time_ns", "delta_ns", "header", "format", "file", "row_group", "row")
    ]
    with pytest.raises(FramesError, match=r"topic /status: it has no field 'nix'; its columns: .*data"):
        write_frames(lake.uri, "d", table_of(reference="/status", topics={"/status": {"fields": ["nix"]}}))
    with pytest.raises(FramesError, match=r"no field 'header\.nix'"):
        write_frames(
            lake.uri, "d", table_of(reference="/imu/data", topics={"/imu/data": {"fields": ["header.nix"]}})
        )


def test_blobs_in_lists_are_left_out(tmp_path: Path) -> None:
    text = f"car/Packet[] packets\nfloat64 value\n{'=' * 80}\nMSG: car/Packet\nuint8[] data\nint32 count\n"
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg(text, "car/msg/Packets"))
    types: Any = store.types
    packets = [types["car/msg/Packet"](np.ones(99, np.uint8), number) for number in range(3)]
    with Writer(tmp_path / "a.bag") as writer:
        connection = writer.add_connection("/packets", "car/msg/Packets", typestore=store)
        message = types["car/msg/Packets"](packets, 1.5)
        writer.write(connection, START_NS, bytes(store.serialize_ros1(message, "car/msg/Packets")))
    lake = extracted(tmp_path / "lake", tmp_path / "a.bag")
    (row,) = made(lake, reference="/packets")[1]
    assert row["packets"]["packets"] == [{"count": number} for number in range(3)]
    (row,) = made(lake, reference="/packets", topics={"/packets": {"fields": ["*"]}})[1]
    assert row["packets"]["packets"][0] == {"data": b"\1" * 99, "count": 0}


def test_images_by_key_and_embedded(tmp_path: Path) -> None:
    frames = [image(number * 10 * MS, number) for number in range(200)]
    lake = extracted(
        tmp_path / "lake", write(tmp_path / "a.bag", [*frames, speed(0, 1.0)]), small_groups=True
    )
    _, rows = made(lake, reference="/speed", topics={"/camera": {}})
    assert "data" not in rows[0]["camera"]
    result, rows = made(lake, name="keys", reference="/camera")
    table = lake.frames("keys").to_table()
    groups = {row["camera"]["row_group"] for row in rows}
    assert len(groups) > 1
    order = RNG.permutation(len(rows)).tolist()
    keys = table.take(order)["camera"]
    fetched = lake.fetch(keys, columns=["data", "encoding"])
    assert fetched.column("data").to_pylist() == [bytes([number % 256] * 24) for number in order]
    assert set(fetched.column("encoding").to_pylist()) == {"rgb8"}
    embedded, rows = made(
        lake, name="embedded", reference="/camera", topics={"/camera": {"fields": ["data", "header"]}}
    )
    assert values(rows, "camera", "data") == [bytes([number % 256] * 24) for number in range(200)]
    assert result.rows == embedded.rows == 200


def test_images_that_are_files_have_their_path(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", [image(number * 10 * MS, number) for number in range(3)])
    words = ["extract", str(bag), "--output", str(tmp_path / "lake"), "--drive-id", "d"]
    assert main([*words, "--images", "/camera=png_files"]) == ExitCode.OK
    _, rows = made(Lake(str(tmp_path / "lake")), reference="/camera")
    paths = values(rows, "camera", "image_path")
    assert len(set(paths)) == 3
    assert all((tmp_path / "lake" / path).is_file() for path in paths)


def test_keys_that_are_null_are_rows_of_nulls(tmp_path: Path) -> None:
    lake = extracted(
        tmp_path / "lake", write(tmp_path / "a.bag", [speed(0, 1.0), speed(10**9, 2.0), image(0, 9)])
    )
    made(lake, reference="/speed", topics={"/camera": {}})
    fetched = lake.fetch(lake.frames().to_table()["camera"], columns=["data", "width"])
    assert fetched.column("width").to_pylist() == [4, None]
    assert fetched.column("data").to_pylist() == [bytes([9] * 24), None]


def test_keys_that_are_all_null_are_as_many_rows_of_nulls(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [speed(0, 1.0), image(10**9, 9)]))
    made(lake, reference="/speed", topics={"/camera": {}})
    keys = lake.frames().to_table()["camera"]
    assert lake.fetch(keys, columns=["data", "width"]).to_pylist() == [{"data": None, "width": None}]
    assert lake.fetch(keys).to_pylist() == [{}]
    assert lake.fetch(keys.slice(0, 0), columns=["data"]).to_pylist() == []


def test_keys_of_drives_whose_definitions_differ(tmp_path: Path) -> None:
    """ROS 2 has no `header.seq`, and its seconds have a sign."""
    for drive_id, name in (("d", "a.bag"), ("e", "e.mcap")):
        write_bag(tmp_path / name, messages=3)
        lake = extracted(tmp_path / "lake", tmp_path / name, drive_id=drive_id)
        made(lake, drive_id, reference="/imu/data", topics={"/gps/fix": {}})
    keys = lake.frames().to_table()["imu.data"]
    fetched, both = lake.fetch(keys), lake.dataset("imu.data").to_table()
    assert fetched.to_pylist() == both.select(fetched.column_names).to_pylist()
    assert fetched.schema.field("header").type == both.schema.field("header").type
    assert [row["seq"] is None for row in fetched["header"].to_pylist()] == [False] * 3 + [True] * 3
    sec = lake.fetch(keys, columns=["header.stamp.sec"]).to_pylist()
    assert sec[0] == sec[3] == {"header": {"stamp": {"sec": START_NS // 10**9}}}


def test_a_column_that_one_definition_alone_has_is_fetched(tmp_path: Path) -> None:
    for drive_id, text, value in (
        ("d", "float64 value", {"value": 1.5}),
        ("e", "float64 value\nstring source", {"value": 2.5, "source": "wheel"}),
    ):
        bag = tmp_path / f"{drive_id}.bag"
        write_defined(bag, text, [value] * 2, topic="/speed", kind="car/msg/Speed")
        lake = extracted(tmp_path / "lake", bag, drive_id=drive_id)
        made(lake, drive_id, reference="/speed")
    keys = lake.frames().to_table()["speed"].take([2, 0, 1, 0, 3])
    sources = ["wheel", None, None, None, "wheel"]
    assert lake.fetch(keys, columns=["source"]).to_pylist() == [{"source": each} for each in sources]


def test_keys_of_definitions_that_no_table_holds(tmp_path: Path) -> None:
    """Columns that are the same in both are fetched, others are named."""
    for drive_id, text in (("d", "int32 value\nint32 count"), ("e", "float64 value\nint32 count")):
        bag = write_defined(
            tmp_path / f"{drive_id}.bag",
            text,
            [{"value": 1, "count": 2}],
            topic="/speed",
            kind="car/msg/Speed",
        )
        lake = extracted(tmp_path / "lake", bag, drive_id=drive_id)
        made(lake, drive_id, reference="/speed", topics={"/speed": {"fields": ["count"]}})
    keys = lake.frames().to_table()["speed"]
    assert lake.fetch(keys, columns=["count"]).to_pylist() == [{"count": 2}] * 2
    with pytest.raises(
        drift.DriftError, match=r"no table holds both .*`value` int32 -> float64.*name other columns"
    ):
        lake.fetch(keys)


def test_what_cannot_be_fetched_is_said(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 1)]))
    made(lake, reference="/camera")
    table = lake.frames().to_table()
    with pytest.raises(KeyError, match=r"table camera: no column dta; there are log_time, .*, data"):
        lake.fetch(table["camera"], columns=["data", "dta"])
    for keys in (table["time"], "camera", table["camera"].combine_chunks().field("header")):
        with pytest.raises(TypeError, match="keys are a topic's column of a frames table"):
            lake.fetch(keys)  # type: ignore[arg-type]


def test_decoded_clouds_are_left_out_and_fetched(tmp_path: Path) -> None:
    points = np.arange(12, dtype="<f4")
    kind = TYPES["sensor_msgs/msg/PointField"]
    fields = [kind(name, 4 * place, 7, 1) for place, name in enumerate("xyz")]
    cloud = TYPES["sensor_msgs/msg/PointCloud2"](
        header(), 1, 4, fields, False, 12, 48, points.view("u1"), True
    )
    bag = write(tmp_path / "a.bag", [Message(0, "/lidar", cloud), image(0, 1)])
    lake = extracted(tmp_path / "lake", bag, pointcloud=PointClouds.DECODED)
    _, rows = made(lake, reference="/camera", topics={"/lidar": {}})
    assert "x" not in rows[0]["lidar"]
    assert rows[0]["lidar"]["width"] == 4
    found = lake.fetch(lake.frames().to_table()["lidar"], columns=["x", "z"])
    assert found.to_pylist() == [{"x": [0.0, 3.0, 6.0, 9.0], "z": [2.0, 5.0, 8.0, 11.0]}]


def test_fields_that_are_called_as_a_columns_own(tmp_path: Path) -> None:
    bag = write_defined(
        tmp_path / "a.bag",
        "string file\nint64 row\nint64 time_ns\nfloat64[2] pair\nuint8[2] two\nuint32 large",
        [{"file": "f", "row": 7, "time_ns": 8, "pair": np.array([1.0, 2.0]), "two": np.array([1, 2], "u1"),
          "large": 2**32 - 1}],
        topic="/odd",
        kind="car/msg/Odd",
    )  # fmt: skip
    _, rows = made(extracted(tmp_path / "lake", bag), reference="/odd")
    odd = rows[0]["odd"]
    assert (odd["file_"], odd["row_"], odd["time_ns_"], odd["row"]) == ("f", 7, 8, 0)
    assert (odd["pair"], odd["two"], odd["large"]) == ([1.0, 2.0], b"\1\2", 2**32 - 1)


# --- several drives, again, replaced ----------------------------------------------------------------


def test_drives_with_other_columns_are_one_table(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0), speed(0, 1.0)]))
    extracted(tmp_path / "lake", write(tmp_path / "b.bag", [image(0, 0)]), drive_id="e")
    for drive_id in ("d", "e"):
        made(lake, drive_id, reference="/camera", topics={"/speed": {}})
    rows = lake.frames().to_table().to_pylist()
    assert [(row["drive_id"], row["speed"] and row["speed"]["value"]) for row in rows] == [
        ("d", 1.0),
        ("e", None),
    ]
    assert lake.frames(drives=["e"]).count_rows() == 1
    assert lake.frames_tables() == ["frames"]
    assert lake.tables() == ["camera", "speed"]
    with pytest.raises(KeyError, match="no frames table other; there are frames"):
        lake.frames("other")
    with pytest.raises(KeyError, match="nothing of drive nix"):
        lake.frames(drives=["nix"])


def test_drives_that_no_table_holds_are_named(tmp_path: Path) -> None:
    for drive_id, text in (("d", "int32 value"), ("e", "float64 value")):
        bag = write_defined(
            tmp_path / f"{drive_id}.bag", text, [{"value": 1}], topic="/speed", kind="car/msg/Speed"
        )
        lake = extracted(tmp_path / "lake", bag, drive_id=drive_id)
        made(lake, drive_id, reference="/speed")
    with pytest.raises(drift.DriftError) as said:
        lake.frames()
    assert str(said.value) == (
        f"{lake.uri}: frames table frames: its definition changed so that no table holds both drive_id=d and "
        "drive_id=e: `speed.value` int32 -> float64: an integer became a float. "
        "Read them apart: drives=['d'], drives=['e']"
    )


def test_a_table_is_replaced_at_once(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0)]))
    made(lake, reference="/camera")
    extracted(tmp_path / "lake", write(tmp_path / "b.bag", [image(10, 1)]))
    _, rows = made(lake, reference="/camera")
    assert [row["camera"]["header"]["seq"] for row in rows] == [0, 1]
    files = [path.name for path in (tmp_path / "lake" / "_frames").rglob("*") if path.is_file()]
    assert files == ["frames.parquet"]


def test_an_overwritten_drive_has_no_frames_of_what_was_replaced(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0)]))
    extracted(tmp_path / "lake", tmp_path / "a.bag", drive_id="e")
    for drive_id in ("d", "e"):
        made(lake, drive_id, reference="/camera")
    keys = lake.frames(drives=["d"]).to_table()["camera"]
    extracted(tmp_path / "lake", tmp_path / "a.bag", overwrite=True)
    assert lake.frames().to_table().column("drive_id").to_pylist() == ["e"]
    with pytest.raises(FileNotFoundError):
        lake.fetch(keys)
    made(lake, reference="/camera")
    plan = lake.drive("d").commits[-1].plan_id
    finish.finish_committed(lake._storage, lake.uri, "d", FinishOptions(report=False))
    assert lake.drive("d").commits[-1].plan_id == plan
    assert sorted(lake.frames().to_table().column("drive_id").to_pylist()) == ["d", "e"]


def test_a_frames_table_that_cannot_be_read_does_not_keep_a_drive_from_being_replaced(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0)]))
    result, _ = made(lake, reference="/camera")
    (tmp_path / "lake" / result.path).write_bytes(b"PAR1 cut off")
    extracted(tmp_path / "lake", tmp_path / "a.bag", overwrite=True)
    assert lake.frames_tables() == []
    assert lake.dataset("camera").count_rows() == 1


def test_a_drive_that_is_replaced_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its files are read, and when they have been."""
    bag = write(tmp_path / "a.bag", [image(0, 0)])
    lake = extracted(tmp_path / "lake", bag)
    real = make._Making

    def late(*arguments: Any) -> Any:
        extracted(tmp_path / "lake", bag, overwrite=True)
        return real(*arguments)

    class Later(real):  # type: ignore[misc, valid-type]
        def batches(self, window_bytes: int) -> Any:
            yield from list(super().batches(window_bytes))
            extracted(tmp_path / "lake", bag, overwrite=True)

    for making in (late, Later):
        monkeypatch.setattr(make, "_Making", making)
        with pytest.raises(FramesError, match=r"drive 'd' was replaced while its frames table was made"):
            write_frames(lake.uri, "d", table_of(reference="/camera"))
        assert lake.frames_tables() == []
    monkeypatch.setattr(make, "_Making", real)
    assert write_frames(lake.uri, "d", table_of(reference="/camera")).rows == 1


# --- the command line, and a run's last step --------------------------------------------------------


def test_a_runs_finishing_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bag(tmp_path / "a.bag", messages=6)
    (tmp_path / "sync.json").write_text('{"reference": "/imu/data", "topics": {"/gps/fix": {}, "/nix": {}}}')
    words = ["extract", str(tmp_path / "a.bag"), "--output", str(tmp_path / "lake"), "--drive-id", "d"]
    assert main([*words, "--sync", str(tmp_path / "sync.json")]) == ExitCode.OK
    assert "frames: topic /nix: the drive has no rows of it" in capsys.readouterr().out
    lake = Lake(str(tmp_path / "lake"))
    assert lake.frames().count_rows() == 6
    plan_id = lake.drive("d").commits[-1].plan_id
    record = finish.read_record(lake._storage, lake.uri, "d", plan_id)
    assert record is not None
    (step,) = record.steps
    assert (step.step, step.state, step.wrote) == ("frames", "done", (contract.frames_key("frames", "d"),))


def test_tables_that_cannot_be_made_do_not_keep_others_from_being(tmp_path: Path) -> None:
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0)]))
    tables = (table_of(name="no", reference="/nix"), table_of(name="yes", reference="/camera"))
    finished = finish.finish_committed(lake._storage, lake.uri, "d", FinishOptions(sync=tables))
    (step,) = finished.steps
    assert (step.state, finished.code) == ("failed", ExitCode.INPUT_MISSING)
    assert step.problem.startswith("no: topic /nix, the reference: the drive has no rows of it")
    assert step.problem.endswith(f"(written: {contract.frames_key('yes', 'd')})")
    assert lake.frames_tables() == ["yes"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bag(tmp_path / "a.bag", messages=6)
    lake = extracted(tmp_path / "lake", tmp_path / "a.bag")
    capsys.readouterr()
    words = ["frames", lake.uri, "--drive-id", "d"]
    flags = [*words, "--reference", "/imu/data", "--topic", "/gps/fix=previous", "--tolerance-ms", "20"]
    assert main([*flags, "--clock", "stamp", "--pose", "map", "base"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert re.search(r"gps\.fix +/gps/fix +6$", said, re.M)
    assert re.search(r"pose +base in map +0 +no transforms connect the two: 6$", said, re.M)
    assert "! pose of 'base' in 'map': no transforms connect them: the drive has none\n" in said
    assert "6 frames, 0.0 MB in " in said
    assert main([*words, "--sync", '[{"rate_hz": 100, "name": "fast", "topics": {"/imu/data": {}}}]']) == 0
    assert lake.frames_tables() == ["fast", "frames"]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], ExitCode.USAGE, "either --sync, or flags that say the table"),
        (["--reference", "/a", "--sync", "{}"], ExitCode.USAGE, "either --sync, or flags"),
        (["--sync", "{"], ExitCode.USAGE, "--sync: not JSON"),
        (["--sync", "{}"], ExitCode.USAGE, "--sync: either 'reference', the topic whose messages"),
        (["--sync", "no.json"], ExitCode.INPUT_MISSING, "no.json: no such file"),
        (
            ["--reference", "/a", "--topic", "/b=later"],
            ExitCode.USAGE,
            "'method': expected nearest or previous",
        ),
        (
            ["--reference", "/a", "--tolerance-ms", "x"],
            ExitCode.USAGE,
            "'tolerance_ms': expected milliseconds",
        ),
        (["--reference", "/nix"], ExitCode.INPUT_MISSING, "topic /nix, the reference: the drive has no rows"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    code: ExitCode,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0)]))
    capsys.readouterr()
    assert main(["frames", "lake", "--drive-id", "d", *flags]) == code
    out = capsys.readouterr()
    assert said in out.out + out.err
