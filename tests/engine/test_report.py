"""A drive's report: what it measures, what it shows of good and bad drives, and that it is all there is."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_to_parquet.cli import main
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.lake import Lake
from ros_to_parquet.report import page, plots, series
from ros_to_parquet.report.clouds import find_clouds, points_of
from ros_to_parquet.report.drive import Drive, describe_drive
from ros_to_parquet.report.frame_tree import FrameTree, find_tree
from ros_to_parquet.report.frames import find_frames
from ros_to_parquet.report.make import ReportError, make_report
from ros_to_parquet.report.pictures import PictureError, picture_of, small_jpeg
from ros_to_parquet.report.rates import BINS, Gap, Rate, measure_rate
from ros_to_parquet.report.series import find_series
from ros_to_parquet.report.tables import Tables
from ros_to_parquet.report.time_axis import make_axis
from ros_to_parquet.report.track import Track, find_track
from tests.engine.bag.bag_bytes import McapFile, mcap_channel, mcap_message, mcap_schema
from tests.engine.sample_bags import START_NS, write_bag, write_defined, write_mcap

STORE = get_typestore(Stores.ROS1_NOETIC)
STORE.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
TYPES: Any = STORE.types
SECOND_NS = 1_000_000_000
ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""

Message = tuple[int, str, Any]
"""Nanoseconds from the drive's start, topic, message."""


# --- bags, lakes ------------------------------------------------------------------------------------


def write(path: Path, messages: Iterable[Message]) -> Path:
    """A ROS 1 bag of these messages, in the order given."""
    with Writer(path) as writer:
        connections: dict[tuple[str, str], Any] = {}
        for offset_ns, topic, message in messages:
            name = message.__msgtype__
            if (topic, name) not in connections:
                connections[topic, name] = writer.add_connection(topic, name, typestore=STORE)
            data = STORE.serialize_ros1(message, name)
            writer.write(connections[topic, name], START_NS + offset_ns, data)
    return path


def extracted(*bags: Path, output: Path, drive_id: str = "drive_1") -> Lake:
    words = ["extract", *map(str, bags), "--output", str(output), "--drive-id", drive_id]
    assert main(words) == ExitCode.OK
    return Lake(str(output))


def opened(lake: Lake, drive_id: str = "drive_1") -> tuple[Tables, Drive]:
    return Tables(lake.uri), describe_drive(lake.drive(drive_id))


def header(number: int = 0) -> Any:
    return TYPES["std_msgs/msg/Header"](number, TYPES["builtin_interfaces/msg/Time"](1, 0), "base")


def number_message(value: float) -> Any:
    return TYPES["std_msgs/msg/Float64"](value)


def fix(latitude: float, longitude: float, status: int = 0) -> Any:
    return TYPES["sensor_msgs/msg/NavSatFix"](
        header(), TYPES["sensor_msgs/msg/NavSatStatus"](status, 1), latitude, longitude, 0.0, np.zeros(9), 0
    )


def transform(*pairs: tuple[str, str]) -> Any:
    zero = TYPES["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    still = TYPES["geometry_msgs/msg/Transform"](
        zero, TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    )
    one = TYPES["geometry_msgs/msg/TransformStamped"]
    time = TYPES["builtin_interfaces/msg/Time"](1, 0)
    stamped = [one(TYPES["std_msgs/msg/Header"](0, time, parent), child, still) for parent, child in pairs]
    return TYPES["tf2_msgs/msg/TFMessage"](stamped)


# --- rates and gaps ---------------------------------------------------------------------------------


def rate_of(folder: Path, times_ns: Sequence[int], bags: int = 1) -> Rate:
    """The rate of a topic with messages at these times, shared between bags one behind the other."""
    share = -(-len(times_ns) // bags)
    paths = [
        write(
            folder / f"{number}.bag",
            [(time, "/x", number_message(1.0)) for time in times_ns[number * share : (number + 1) * share]],
        )
        for number in range(bags)
    ]
    tables, drive = opened(extracted(*paths, output=folder / "lake"))
    (topic,) = drive.topics
    return measure_rate(tables, drive.time_axis(), topic)


@pytest.mark.parametrize("bags", [1, 3])
def test_a_regular_topic_with_a_gap(tmp_path: Path, bags: int) -> None:
    times = [number * SECOND_NS // 20 for number in range(400) if not 100 <= number < 120]
    rate = rate_of(tmp_path, times, bags)
    assert rate.regular
    assert rate.usual_s == pytest.approx(0.05, rel=0.02)
    (gap,) = rate.gaps
    assert gap.start_ns == START_NS + times[99]
    assert gap.seconds == pytest.approx(21 / 20)
    assert (int(rate.counts.sum()), rate.out_of_order, rate.repeated) == (380, 0, 0)


def test_an_irregular_topic_has_no_gaps(tmp_path: Path) -> None:
    times = [int(time) for time in np.cumsum(np.random.default_rng(2).lognormal(18, 2, 60))]
    rate = rate_of(tmp_path, times)
    assert (rate.regular, rate.gaps) == (False, ())


def test_few_messages_say_nothing(tmp_path: Path) -> None:
    rate = rate_of(tmp_path, [0, SECOND_NS])
    assert (rate.usual_s, rate.regular, int(rate.counts.sum())) == (None, False, 2)


def test_repeated_log_times_are_counted(tmp_path: Path) -> None:
    rate = rate_of(tmp_path, [number // 2 * SECOND_NS for number in range(40)])
    assert (rate.repeated, rate.out_of_order) == (20, 0)


def test_long_pauses_are_no_gaps_and_take_no_room(tmp_path: Path) -> None:
    year_ns = 365 * 86_400 * SECOND_NS
    times = [number * SECOND_NS // 10 for number in range(100)]
    first = write(tmp_path / "a.bag", [(time, "/x", number_message(1.0)) for time in times])
    second = write(tmp_path / "b.bag", [(year_ns + time, "/x", number_message(2.0)) for time in times])
    lake = extracted(first, output=tmp_path / "lake")
    extracted(second, output=tmp_path / "lake")
    tables, drive = opened(lake)
    axis = drive.time_axis()
    assert axis.pauses == 1
    assert axis.length_ns == 2 * times[-1]
    assert axis.seconds(START_NS + year_ns) == pytest.approx(times[-1] / 1e9)
    rate = measure_rate(tables, axis, drive.topics[0])
    assert rate.gaps == ()
    assert np.count_nonzero(rate.counts) > 150
    assert "Without 1 pause in which nothing was recorded" in make_report(lake, "drive_1")[1]


def test_short_pauses_stay() -> None:
    axis = make_axis([(0, 10 * SECOND_NS), (40 * SECOND_NS, 50 * SECOND_NS), (5 * SECOND_NS, 12 * SECOND_NS)])
    assert (axis.pauses, axis.length_ns) == (0, 50 * SECOND_NS)
    none = make_axis([])
    assert (none.pauses, none.length_ns) == (0, 1)


def test_times_may_be_any_64_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = -(2**63), 2**63 - 1
    axis = make_axis([(first, 5), (3, last)])
    assert axis.length_ns == axis.between_ns(first, last) == 2**64 - 1
    assert axis.bins(np.array([first, 0, last]), 4).tolist() == [0, 2, 3]
    assert axis.seconds(last) == pytest.approx(2**64 / 1e9)
    file = McapFile()
    file.add(file.define(mcap_schema(1, "std_msgs/msg/Empty", "", "")))
    file.add(file.define(mcap_channel(1, 1, "/x", "cdr")))
    for number, time_ns in enumerate((2**63 - 1, 2**62, 2**63)):
        file.add(mcap_message(1, number, time_ns, b"\0\1\0\0\0"))
    (tmp_path / "a.mcap").write_bytes(file.bytes())
    lake = extracted(tmp_path / "a.mcap", output=tmp_path / "lake")
    tables, drive = opened(lake)
    counts = measure_rate(tables, drive.time_axis(), drive.topics[0]).counts
    assert (counts[0], counts[BINS * 3 // 4], counts[-1], counts.sum()) == (1, 1, 1, 3)
    capsys.readouterr()
    assert main(["report", lake.uri, "--drive-id", "drive_1"]) == ExitCode.OK
    assert capsys.readouterr().err == ""


def test_times_farther_apart_than_an_integer_holds_are_in_order(tmp_path: Path) -> None:
    times = [-(2**63) + number * SECOND_NS for number in range(20)]
    times += [(100 + number) * SECOND_NS for number in range(20)]
    file = McapFile()
    file.add(file.define(mcap_schema(1, "std_msgs/msg/Empty", "", "")))
    file.add(file.define(mcap_channel(1, 1, "/x", "cdr")))
    for number, time_ns in enumerate((*times, 2**63 - 1)):
        file.add(mcap_message(1, number, time_ns % 2**64, b"\0\1\0\0\0"))
    (tmp_path / "a.mcap").write_bytes(file.bytes())
    tables, drive = opened(extracted(tmp_path / "a.mcap", output=tmp_path / "lake"))
    rate = measure_rate(tables, drive.time_axis(), drive.topics[0])
    assert (rate.out_of_order, rate.repeated, rate.regular) == (0, 0, True)
    assert rate.gaps == (Gap(times[19], times[20]), Gap(times[-1], 2**63 - 1))


# --- tracks, fields, frames -------------------------------------------------------------------------


def track_of(folder: Path, messages: Iterable[Message]) -> Track | None:
    return find_track(*opened(extracted(write(folder / "a.bag", messages), output=folder / "lake")))


def test_a_track_by_gps(tmp_path: Path) -> None:
    # A degree of latitude is 111.2 km: 10 m/s to the north at ten fixes a second.
    step = 1.0 / 111_194.9
    fixes = [(number * SECOND_NS // 10, "/fix", fix(48 + number * step, 9.0)) for number in range(200)]
    bad = [
        (20 * SECOND_NS + 1, "/fix", fix(float("nan"), 9.0)),
        (20 * SECOND_NS + 2, "/fix", fix(0.0, 0.0, status=-1)),
        (20 * SECOND_NS + 3, "/fix", fix(91.0, 9.0)),
    ]
    track = track_of(tmp_path, [*fixes, *bad])
    assert track is not None
    assert track.origin == pytest.approx((48.0, 9.0))
    assert track.left_out == 3
    assert track.length_m == pytest.approx(199, rel=1e-3)
    assert track.speed_mps == pytest.approx(np.full(200, 10.0), rel=1e-2)
    assert np.abs(track.east_m).max() < 1e-6


def test_a_track_across_the_date_line_is_short(tmp_path: Path) -> None:
    fixes = [(number * SECOND_NS, "/fix", fix(0.0, lon)) for number, lon in enumerate((179.9999, -179.9999))]
    track = track_of(tmp_path, fixes)
    assert track is not None
    assert track.length_m == pytest.approx(22.2, rel=1e-2)


def test_without_places_odometry_is_the_track(tmp_path: Path) -> None:
    pose = TYPES["geometry_msgs/msg/Pose"]
    still = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    zero = TYPES["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    twist = TYPES["geometry_msgs/msg/TwistWithCovariance"](
        TYPES["geometry_msgs/msg/Twist"](zero, zero), np.zeros(36)
    )
    messages: list[Message] = [(0, "/fix", fix(0.0, 0.0, status=-1))]
    for number in range(11):
        place = TYPES["geometry_msgs/msg/Point"](3.0 * number, 4.0 * number, 0.0)
        with_covariance = TYPES["geometry_msgs/msg/PoseWithCovariance"](pose(place, still), np.zeros(36))
        odometry = TYPES["nav_msgs/msg/Odometry"](header(), "base", with_covariance, twist)
        messages.append((number * SECOND_NS, "/odom", odometry))
    track = track_of(tmp_path, messages)
    assert track is not None
    assert (track.topic.name, track.origin) == ("/odom", None)
    assert track.length_m == pytest.approx(50.0)


def test_no_track(tmp_path: Path) -> None:
    assert track_of(tmp_path, [(0, "/x", number_message(1.0))]) is None


def test_what_stands_still_has_no_map_and_single_messages_no_times(tmp_path: Path) -> None:
    still = write(
        tmp_path / "still.bag", [(number * SECOND_NS, "/fix", fix(48.0, 9.0)) for number in range(5)]
    )
    _, made = make_report(extracted(still, output=tmp_path / "lake", drive_id="still"), "still")
    assert "/fix stays where it is." in made
    apart = write(
        tmp_path / "apart.bag",
        [(day * 86_400 * SECOND_NS, f"/x{day}", number_message(1.0)) for day in (0, 1)],
    )
    _, made = make_report(extracted(apart, output=tmp_path / "lake", drive_id="apart"), "apart")
    assert (
        "Without 1 pause in which nothing was recorded: times here and below are of single messages." in made
    )
    assert "e-" not in re.sub("<style>.*</style>|<[^>]+>", "", made, flags=re.DOTALL).replace("extract-", "")


def test_fields_that_change_and_fields_that_do_not(tmp_path: Path) -> None:
    messages: list[Message] = []
    for number in range(100):
        value = float("nan") if number == 50 else float(number)
        messages.append((number * SECOND_NS, "/changes", number_message(value)))
        messages.append((number * SECOND_NS, "/stays", number_message(7.0)))
    tables, drive = opened(extracted(write(tmp_path / "a.bag", messages), output=tmp_path / "lake"))
    found = find_series(tables, drive, drive.time_axis())
    (group,) = found.groups
    assert (group.topic.name, group.paths, group.not_finite) == ("/changes", ["data"], 1)
    assert (np.nanmin(group.lines[0].least), np.nanmax(group.lines[0].most)) == (0.0, 99.0)
    (constant,) = found.constants
    assert (constant.topic.name, constant.paths) == ("/stays", ["data"])


def test_values_that_are_not_there_are_not_said_to_be_not_finite(tmp_path: Path) -> None:
    bag = write_mcap(
        tmp_path / "a.mcap",
        "car/Speed",
        [json.dumps({"value": number} if number % 2 else {}).encode() for number in range(20)],
        schema=json.dumps({"type": "object", "properties": {"value": {"type": "number"}}}),
        schema_encoding="jsonschema",
        encoding="json",
    )
    tables, drive = opened(extracted(bag, output=tmp_path / "lake"))
    (group,) = find_series(tables, drive, drive.time_axis()).groups
    assert (np.nanmax(group.lines[0].most), group.not_finite) == (19.0, 0)


def test_fields_of_all_definitions(tmp_path: Path) -> None:
    bags = []
    for number, text in enumerate(("float32 value", "float64 value\nfloat64 more")):
        bags.append(tmp_path / f"{number}.bag")
        fields = [line.split()[1] for line in text.split("\n")]
        values = [dict.fromkeys(fields, float(row)) for row in range(5)]
        start_ns = START_NS + number * 10 * SECOND_NS
        write_defined(bags[-1], text, values, topic="/speed", kind="car/msg/Speed", start_ns=start_ns)
    tables, drive = opened(extracted(*bags, output=tmp_path / "lake"))
    found = find_series(tables, drive, drive.time_axis())
    seen = {group.path: int(np.isfinite(group.lines[0].least).sum()) for group in found.groups}
    assert seen == {"value": 10, "more": 5}


def tree_of(folder: Path, *messages: Message) -> FrameTree:
    return find_tree(*opened(extracted(write(folder / "a.bag", messages), output=folder / "lake")))


def test_the_tree_of_frames(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path,
        (0, "/tf_static", transform(("/base", "camera"), ("base", "lidar"))),
        (1, "/tf", transform(("odom", "base"))),
        (2, "/tf", transform(("odom", "base"), ("map", "camera"))),
    )
    edges = {(edge.parent, edge.child): (edge.count, edge.static) for edge in tree.edges}
    assert edges == {
        ("base", "camera"): (1, True),
        ("base", "lidar"): (1, True),
        ("odom", "base"): (2, False),
        ("map", "camera"): (1, False),
    }
    assert tree.roots == ["map", "odom"]
    assert tree.parents_of == {"camera": ["base", "map"]}


def test_transforms_in_json_without_names_are_no_edges(tmp_path: Path) -> None:
    kinds: Any = {"frame_id": {"type": "string"}}
    header = {"type": "object", "properties": kinds}
    each = {"type": "object", "properties": {"header": header, "child_frame_id": {"type": "string"}}}
    named = {"header": {"frame_id": "map"}, "child_frame_id": "base"}
    sent = [named, {**named, "child_frame_id": None}, {**named, "header": {}}, named]
    bag = write_mcap(
        tmp_path / "a.mcap",
        "tf2_msgs/TFMessage",
        [json.dumps({"transforms": sent}).encode()],
        schema=json.dumps({"type": "object", "properties": {"transforms": {"type": "array", "items": each}}}),
        schema_encoding="jsonschema",
        encoding="json",
    )
    tree = find_tree(*opened(extracted(bag, output=tmp_path / "lake")))
    assert [(edge.parent, edge.child, edge.count) for edge in tree.edges] == [("map", "base", 2)]


def test_a_loop_of_frames_is_said(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", [(0, "/tf", transform(("a", "b"), ("b", "a")))])
    assert "a" in make_report(extracted(bag, output=tmp_path / "lake"), "drive_1")[1]


# --- pictures and clouds ----------------------------------------------------------------------------

RED, GREEN, BLUE = (200, 10, 20), (10, 200, 20), (10, 20, 200)


def png_claiming(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size, and no pixel of it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    size, crc = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + size + head + crc + bytes(4) + b"IDAT"


def raw(encoding: str, data: bytes, *, width: int = 2, height: int = 2, step: int = 0, big: int = 0) -> Any:
    return {
        "encoding": encoding,
        "data": data,
        "width": width,
        "height": height,
        "step": step,
        "is_bigendian": big,
    }


@pytest.mark.parametrize(
    ("encoding", "pixel", "colour"),
    [
        ("rgb8", bytes(RED), RED),
        ("bgr8", bytes(RED[::-1]), RED),
        ("rgba8", bytes((*RED, 0)), RED),
        ("bgra8", bytes((*RED[::-1], 0)), RED),
        ("8UC3", bytes(RED[::-1]), RED),
        ("mono8", b"\x50", (0x50, 0x50, 0x50)),
        ("rgb16", bytes((0, 200, 0, 10, 0, 20)), RED),
        ("bayer_rggb8", b"", None),
    ],
)
def test_raw_pictures(encoding: str, pixel: bytes, colour: tuple[int, int, int] | None) -> None:
    if colour is None:
        cells = bytes((200, 10, 30, 20))  # red, green / green, blue
        assert picture_of(raw(encoding, cells)).getpixel((0, 0)) == (200, 20, 20)
        return
    padded = (pixel * 2 + b"\xff\xff\xff") * 2
    picture = picture_of(raw(encoding, padded, step=len(pixel) * 2 + 3))
    assert (picture.size, picture.getpixel((1, 1))) == ((2, 2), colour)


@pytest.mark.parametrize(
    ("pattern", "cells"),
    [("bggr", (20, 20, 20, 200)), ("gbrg", (20, 20, 200, 20)), ("grbg", (20, 200, 20, 20))],
)
def test_other_bayer_patterns(pattern: str, cells: tuple[int, ...]) -> None:
    assert picture_of(raw(f"bayer_{pattern}8", bytes(cells))).getpixel((0, 0)) == (200, 20, 20)
    deep = np.array(cells, dtype="<u2") << 8
    assert picture_of(raw(f"bayer_{pattern}16", deep.tobytes())).getpixel((0, 0)) == (200, 20, 20)


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")])
def test_yuv_pictures(encoding: str, order: str) -> None:
    of = {"y": 16 + 219 * 0.587, "u": 128 - 224 * 0.331, "v": 128 - 224 * 0.419}  # of (0, 255, 0)
    picture = picture_of(raw(encoding, bytes(round(of[char]) for char in order) * 2, step=4))
    assert picture.size == (2, 2)
    assert np.allclose(picture.getpixel((0, 0)), (0, 255, 0), atol=2)


@pytest.mark.parametrize(
    ("encoding", "kind", "big"),
    [
        ("16UC1", "<u2", 0),
        ("mono16", ">u2", 1),
        ("32FC1", "<f4", 0),
        ("64FC1", "<f8", 0),
        ("16SC1", "<i2", 0),
    ],
)
def test_depth_is_stretched(encoding: str, kind: str, big: int) -> None:
    values = np.array([[0, 1000], [2000, 3000]], dtype=kind)
    picture = np.asarray(picture_of(raw(encoding, values.tobytes(), big=big)))[:, :, 0]
    assert picture[0, 0] == 0
    assert picture[0, 1] < picture[1, 0] < picture[1, 1]


def test_compressed_pictures() -> None:
    made = io.BytesIO()
    Image.new("RGB", (8, 4), BLUE).save(made, "PNG")
    assert picture_of({"format": "png", "data": made.getvalue()}).getpixel((3, 3)) == BLUE
    depth = io.BytesIO()
    Image.fromarray(np.array([[500, 4000]], dtype=np.uint16)).save(depth, "PNG")
    shown = picture_of({"format": "16UC1; compressedDepth png", "data": bytes(12) + depth.getvalue()})
    assert np.asarray(shown)[0, 0, 0] < np.asarray(shown)[0, 1, 0]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"format": "jpeg", "data": b"no picture"}, "'jpeg': cannot identify"),
        (raw("rgb8", b"123"), "its 3 bytes are not 2 lines"),
        (raw("rgb8", bytes(12), step=5), "2 lines of 5, 6 in each used"),
        (raw("rgb8", b"", width=0), "it has no pixels"),
        (raw("rgb8", b"", width=1 << 31, height=1 << 31), "its 0 bytes are not 2147483648 lines"),
        ({"format": "png", "data": png_claiming(100_000, 1_300)}, "100000 by 1300 pixels are too many"),
        (raw("magic", bytes(12)), "encoding 'magic' is not known here"),
    ],
)
def test_what_is_no_picture_is_said(message: Any, why: str) -> None:
    with pytest.raises(PictureError, match=re.escape(why)):
        picture_of(message)


def test_a_small_picture_keeps_its_shape() -> None:
    jpeg, size = small_jpeg(Image.new("RGB", (1920, 1080)), 320)
    assert size == (320, 180)
    assert Image.open(io.BytesIO(jpeg)).size == size


def cloud(points: np.ndarray[Any, Any], *, row_step: int | None = None, **changes: Any) -> Any:
    fields = [
        {"name": name, "offset": offset, "datatype": 7, "count": 1}
        for name, offset in (("x", 0), ("y", 4), ("z", 8))
    ]
    row = {
        "fields": fields,
        "width": len(points),
        "height": 1,
        "point_step": 12,
        "row_step": 12 * len(points) if row_step is None else row_step,
        "is_bigendian": False,
        "data": points.astype("<f4").tobytes(),
    }
    return {**row, **changes}


def test_a_point_next_to_the_edge_of_a_cloud(tmp_path: Path) -> None:
    points = np.zeros((12, 3))
    points[:, 0] = [-np.nextafter(1.0, 0.0), *[1.0] * 11]
    kind = TYPES["sensor_msgs/msg/PointField"]
    fields = [kind(name, 8 * place, 8, 1) for place, name in enumerate("xyz")]
    data = np.frombuffer(points.tobytes(), np.uint8)
    cloud = TYPES["sensor_msgs/msg/PointCloud2"](header(), 1, 12, fields, False, 24, 12 * 24, data, True)
    tables, drive = opened(
        extracted(write(tmp_path / "a.bag", [(0, "/lidar", cloud)]), output=tmp_path / "l")
    )
    (view,) = find_clouds(tables, drive)
    assert (view.points, view.reach_m, view.problem) == (12, 1.0, "")


def test_points_of_clouds() -> None:
    points = np.arange(30.0).reshape(10, 3)
    for row in (cloud(points), cloud(points, row_step=0), cloud(points, width=5, height=2, row_step=60)):
        assert np.array_equal(np.column_stack(points_of(row)), points)
    big = cloud(points, is_bigendian=True, data=points.astype(">f4").tobytes())
    assert np.array_equal(np.column_stack(points_of(big)), points)
    decoded = {"x": [1.0], "y": [2.0], "z": [3.0]}
    assert [values.tolist() for values in points_of(decoded)] == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fields": []}, "no field x"),
        ({"data": b"123"}, "its 3 bytes are not"),
        ({"point_step": 8, "row_step": 80}, "lies beyond the end of a point"),
        ({"data": None, "x": [1.0], "y": [1.0, 2.0], "z": [1.0]}, "not one number a point each"),
        ({"data": None, "x": 1.0, "y": 1.0, "z": 1.0}, "not one number a point each"),
        ({"fields": ["x", "y", "z"]}, "not that of a cloud"),
        ({"width": float("inf")}, "not that of a cloud"),
    ],
)
def test_what_is_no_cloud_is_said(changes: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        points_of(cloud(np.zeros((10, 3)), **changes))


# --- definitions that are not what the name of the type says ----------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("uint8 gear", {"gear": 3}), ("string gear", {"gear": "R"})),
        (("string gear", {"gear": "R"}), ("uint8 gear", {"gear": 3})),
        (
            (
                "std_msgs/String name\nuint8 gear",
                {"name": STORE.types["std_msgs/msg/String"]("x"), "gear": 3},
            ),
            ("uint8 name", {"name": 1}),
        ),
    ],
)
def test_a_field_of_another_type_in_another_bag(tmp_path: Path, first: Any, second: Any) -> None:
    bags = []
    for number, (text, values) in enumerate((first, second)):
        bag = tmp_path / f"{number}.bag"
        start_ns = START_NS + number * 100 * SECOND_NS
        both = [{"speed": number * 2.0 + speed, **values} for speed in (1.0, 2.0)]
        text = f"float64 speed\n{text}"
        bags.append(write_defined(bag, text, both, topic="/car", kind="car/msg/State", start_ns=start_ns))
    tables, drive = opened(extracted(*bags, output=tmp_path / "lake"))
    found = find_series(tables, drive, drive.time_axis())
    (speed,) = (group for group in found.groups if group.paths == ["speed"])
    assert (np.nanmin(speed.lines[0].least), np.nanmax(speed.lines[0].most)) == (1.0, 4.0)


WORD = b"\x00\x01\x00\x00" + b"\x02\x00\x00\x00x\x00"
"""A message of one string, as CDR."""


@pytest.mark.parametrize(
    ("type_name", "schema", "payload", "said"),
    [
        ("sensor_msgs/msg/Image", "string data", WORD, "no width that is an integer"),
        ("sensor_msgs/msg/CompressedImage", "string format", WORD, "no data that is bytes"),
        ("sensor_msgs/msg/CompressedImage", "uint8 format", b"\x00\x01\x00\x00\x01", "no data that is bytes"),
        ("sensor_msgs/msg/PointCloud2", "string data", WORD, "not that of a cloud"),
        ("sensor_msgs/msg/PointCloud2", "string x", WORD, "not that of a cloud"),
        ("sensor_msgs/msg/NavSatFix", "string latitude", WORD, ""),
        ("sensor_msgs/msg/NavSatFix", "string status", WORD, ""),
        ("nav_msgs/msg/Odometry", "string pose", WORD, ""),
        ("sensor_msgs/msg/Image", "string image_path", WORD, "its image_path is no file of the drive"),
        ("tf2_msgs/msg/TFMessage", "string transforms", WORD, ""),
        (
            "tf2_msgs/msg/TFMessage",
            "string[] transforms",
            b"\x00\x01\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00x\x00",
            "",
        ),
    ],
)
def test_a_standard_type_with_a_definition_of_its_own(
    tmp_path: Path, type_name: str, schema: str, payload: bytes, said: str
) -> None:
    bag = tmp_path / "a.mcap"
    write_mcap(bag, type_name, [payload] * 3, schema=schema, schema_encoding="ros2msg")
    drive, text = make_report(extracted(bag, output=tmp_path / "lake"), "drive_1")
    assert (drive.rows, drive.rejected) == (3, 0)
    assert said in html.unescape(text)


@pytest.mark.parametrize("folder", ["../..", "../../_files/cam/drive_id=drive_1/x/../.."])
def test_a_path_of_a_bags_own_leads_to_no_file_outside_of_the_drive(tmp_path: Path, folder: str) -> None:
    """A bag can define its own Image, with an image_path; and what is there may be anybody's picture."""
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    path = f"_files/cam/drive_id=drive_1/{folder}/private.png".encode()
    payload = b"\0\1\0\0" + struct.pack("<I", len(path) + 1) + path + b"\0"
    bag, schema = tmp_path / "a.mcap", "string image_path\n"
    write_mcap(bag, "sensor_msgs/msg/Image", [payload], schema=schema, schema_encoding="ros2msg")
    lake = extracted(bag, output=tmp_path / "lake")
    (camera,) = find_frames(*opened(lake)).cameras
    assert [each.problem for each in camera.frames] == ["its image_path is no file of the drive"]


def test_a_picture_file_that_is_gone_is_said(tmp_path: Path) -> None:
    path = b"_files/cam/drive_id=drive_1/x/1.png"
    payload = b"\0\1\0\0" + struct.pack("<I", len(path) + 1) + path + b"\0"
    bag, schema = tmp_path / "a.mcap", "string image_path\n"
    write_mcap(bag, "sensor_msgs/msg/Image", [payload], schema=schema, schema_encoding="ros2msg")
    _, text = make_report(extracted(bag, output=tmp_path / "lake"), "drive_1")
    assert "its file is not there" in text


def test_numbers_too_large_to_be_plotted_are_told_apart(tmp_path: Path) -> None:
    """Their differences would be infinite, of which nothing can be drawn."""
    odometry = "geometry_msgs/PoseWithCovariance pose\n"
    for name, member in (("PoseWithCovariance", "Pose pose"), ("Pose", "Point position")):
        odometry += f"{'=' * 80}\nMSG: geometry_msgs/{name}\ngeometry_msgs/{member}\n"
    odometry += f"{'=' * 80}\nMSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
    values = [(1.0, 2.0), (1e308, -1e308), (9e99, -9e99), (-1e308, 1e308), (3.0, 4.0)]
    payloads = [b"\0\1\0\0" + struct.pack("<ddd", *each, 0.0) for each in values]
    bag = tmp_path / "a.mcap"
    write_mcap(bag, "nav_msgs/msg/Odometry", payloads, schema=odometry, schema_encoding="ros2msg")
    lake = extracted(bag, output=tmp_path / "lake")
    track = find_track(*opened(lake))
    assert track is not None
    assert track.east_m.tolist() == [1.0, 9e99, 3.0]
    assert track.left_out == 2
    drive, _ = make_report(lake, "drive_1")
    tables, _ = opened(lake)
    (group,) = find_series(tables, drive, drive.time_axis()).groups
    assert group.not_finite == 4


def test_no_other_program_is_run_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(postscript)) as opened_by_pillow:
        assert opened_by_pillow.format == "EPS"
    with pytest.raises(PictureError, match="cannot identify"):
        picture_of({"format": "jpeg", "data": postscript})


# --- the page ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Bags of both versions of ROS: Imu, fixes, frames of a camera, strings."""
    folder = tmp_path_factory.mktemp("sample")
    write_bag(folder / "a.bag")
    write_bag(folder / "b.mcap", start_ns=START_NS + SECOND_NS)
    return extracted(folder / "a.bag", folder / "b.mcap", output=folder / "lake")


def test_the_command_writes_into_the_lake(sample: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", sample.uri, "--drive-id", "drive_1"]) == ExitCode.OK
    said = capsys.readouterr().out.splitlines()
    path = Path(sample.uri, "_reports", "drive_id=drive_1", "report.html")
    assert said[-1] == str(path)
    made = path.read_text()
    assert "320 messages = 320 rows + 0 rejects" in made
    assert "2 of 2 bags hold as many messages as their own index says" in made
    for topic in ("/imu/data", "/gps/fix", "/camera/image/compressed", "/status"):
        assert topic in made
    assert sample.tables() == [each for each in sample.tables() if not each.startswith("_")]


def test_the_command_writes_elsewhere(sample: Lake, tmp_path: Path) -> None:
    words = ["report", sample.uri, "--drive-id", "drive_1", "--output", str(tmp_path / "x" / "r.html")]
    assert main(words) == ExitCode.OK
    assert (tmp_path / "x" / "r.html").read_text().startswith("<!doctype html>")


def test_a_drive_that_is_not_there(sample: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", sample.uri, "--drive-id", "nobody"]) == ExitCode.INPUT_MISSING
    assert "no drive 'nobody'; there are drive_1" in capsys.readouterr().err
    with pytest.raises(ReportError):
        make_report(sample, "")


def test_the_page_asks_nobody_for_anything(sample: Lake) -> None:
    _, made = make_report(sample, "drive_1")
    named = set(re.findall(r"https?://[^\"'\s<)]*", made))
    assert named <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in made
    assert not re.search(r"<script|<link|@import|url\((?!#)", made)
    ids = re.findall(r'\sid="([^"]*)"', made)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", made)) | set(re.findall(r'href="#([^"]*)"', made))
    assert used <= set(ids)


def test_everything_has_a_text(sample: Lake) -> None:
    _, made = make_report(sample, "drive_1")
    for tag in re.findall(r"<img [^>]*>", made):
        assert re.search(r'alt="[^"]+"', tag), tag
    for tag in re.findall(r"<svg [^>]*>", made):
        assert re.search(r'role="img" aria-label="[^"]+"', tag), tag


def test_names_of_topics_and_bags_are_text(tmp_path: Path) -> None:
    names = ["/<script>alert(1)</script>", '/a"b', "/日本", "/$x$", "/right\u202eto left", "/>x"]
    bag = write(
        tmp_path / "<img src=x>.bag",
        [(number * 1000, name, number_message(number)) for number in range(3) for name in names],
    )
    _, made = make_report(extracted(bag, output=tmp_path / "lake"), "drive_1")
    assert "<script" not in made
    assert "<img src=x>" not in made
    assert "\u202e" not in made
    for name in ("/<script>alert(1)</script>", "/日本", "/$x$", "/>x"):
        assert html.escape(name) in made


def test_a_drive_without_messages_and_a_damaged_one(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.bag", [])
    _, made = make_report(extracted(empty, output=tmp_path / "lake", drive_id="empty"), "empty")
    assert "0 messages = 0 rows + 0 rejects" in made
    cut = tmp_path / "cut.bag"
    write_bag(cut)
    cut.write_bytes(cut.read_bytes()[:-3000])
    _, made = make_report(extracted(cut, output=tmp_path / "lake", drive_id="cut"), "cut")
    assert 'class="state fair">damaged' in made
    assert "1 could not be read whole" in made


@pytest.mark.parametrize("strips", [10, pytest.param(page.MOST_STRIPS, marks=pytest.mark.long)])
def test_many_topics_and_cameras_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strips: int
) -> None:
    monkeypatch.setattr(page, "MOST_STRIPS", strips)
    if strips == 10:
        monkeypatch.setattr(series, "MOST_GROUPS", 10)
    image = TYPES["sensor_msgs/msg/Image"]
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8).reshape(-1)
    messages: list[Message] = [
        (number * 1_000_000, f"/camera_{camera}", image(header(), 60, 80, "rgb8", 0, 240, noise))
        for number in range(10)
        for camera in range(18)
    ]
    messages += [
        (number * 1_000_000, f"/number_{topic}", number_message(float(rng.random())))
        for number in range(10)
        for topic in range(130)
    ]
    lake = extracted(write(tmp_path / "a.bag", messages), output=tmp_path / "lake")
    _, made = make_report(lake, "drive_1")
    assert len(made.encode()) < 5_000_000
    assert f"{148 - strips} more topics are not shown" in made
    assert "Not shown: /camera_8, /camera_9" in made
    assert "messages within topics are not plotted" in made


def test_what_the_build_of_the_image_tries_can_be_done() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "container/check.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "checked: 1440 messages of 9 tables" in done.stdout


def test_many_gaps_are_drawn_as_few_marks() -> None:
    axis = make_axis([(0, 1000 * SECOND_NS)])
    near = [Gap(number * SECOND_NS, number * SECOND_NS + SECOND_NS // 2) for number in range(100, 600)]
    far = Gap(900 * SECOND_NS, 950 * SECOND_NS)
    marks = plots._marks(axis, Rate(np.zeros(360), 0.1, True, (*near, far), 0, 0))
    assert [(round(start, 2), round(width, 2)) for start, width in marks] == [(0.1, 0.5), (0.9, 0.05)]


def test_what_is_missing_is_said(sample: Lake) -> None:
    """Where matplotlib is not installed: in a process of its own, as it may be imported here already."""
    code = (
        "import sys; sys.modules['matplotlib'] = None; from ros_to_parquet.cli import main; "
        f"sys.exit(main(['report', {sample.uri!r}, '--drive-id', 'drive_1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.ENGINE_ERROR
    assert "pip install 'ros-to-parquet[engine,report]'" in done.stderr


LOOK = """
const page = document.getElementById('f').contentDocument, styles = page.defaultView;
const images = [...page.images].filter(each => each.complete && each.naturalWidth > 0);
const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3)
  .map(each => each / 255).map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
  .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = styles.getComputedStyle(element).backgroundColor;
    if (numbers(colour)[3] !== 0) return colour;
  }
};
let least = 99, texts = 0;
for (const element of page.querySelectorAll('body *')) {
  const own = [...element.childNodes].some(each => each.nodeType === 3 && each.data.trim());
  if (!own || !element.getClientRects().length || ['STYLE', 'title'].includes(element.tagName)) continue;
  const style = styles.getComputedStyle(element);
  const colour = element instanceof styles.SVGElement ? style.fill : style.color;
  const [low, high] = [light(colour), light(behind(element))].sort((one, other) => one - other);
  least = Math.min(least, (high + 0.05) / (low + 0.05));
  texts += 1;
}
const wide = [...page.querySelectorAll('.wide')].every(each => each.tabIndex === 0);
document.getElementById('said').textContent = JSON.stringify({
  width: page.documentElement.scrollWidth, images: images.length,
  drawings: page.querySelectorAll('svg').length, contrast: least, texts, wide,
  page: light(styles.getComputedStyle(page.body).backgroundColor)});
"""
"""What a script beside the page, which has none, sees of it. Contrast by WCAG 2's relative luminance."""


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_in_a_browser(tmp_path: Path, width: int, dark: bool) -> None:
    """No part is wider than the window, every picture is one, and what is written can be read."""
    image = TYPES["sensor_msgs/msg/Image"]
    messages: list[Message] = []
    for number in range(12):
        pixels = np.full(60 * 80 * 3, number * 20, dtype=np.uint8)
        picture = image(header(), 60, 80, "rgb8", 0, 240, pixels)
        messages.append((number * SECOND_NS, "/a_camera_with_a_rather_long_name/image_raw", picture))
        messages.append((number * SECOND_NS, "/fix", fix(48 + number * 1e-4, 9.0)))
    lake = extracted(write(tmp_path / "a.bag", messages), output=tmp_path / "lake")
    # A page is loaded when its pictures are, but for lazy ones; decoding later would race the browser's end.
    text = make_report(lake, "drive_1")[1]
    assert text.count(' loading="lazy"') == 8
    (tmp_path / "report.html").write_text(text.replace(' loading="lazy"', ""))
    (tmp_path / "frame.html").write_text(
        f"<iframe id=f src=report.html style='width:{width}px;height:900px'></iframe><pre id=said></pre>"
        f"<script>window.onload = () => {{ {LOOK} }}</script>"
    )
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--allow-file-access-from-files", "--virtual-time-budget=10000", "--dump-dom"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *(f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'frame.html'}"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = re.search(r'<pre id="said">(.+?)</pre>', done.stdout)
    assert found, done.stdout[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert seen["width"] <= width
    assert seen["images"] == 8
    assert seen["drawings"] == 4, "two strips, the track, the latitude"
    assert seen["wide"], "what is moved sideways can be, with the keyboard"
    assert (seen["page"] < 0.1) is dark
    assert seen["texts"] > 100
    assert seen["contrast"] >= 4.5
