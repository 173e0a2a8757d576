"""Quality checks: each fires on its fault and is quiet without it, and any split gives the same numbers."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import ros_to_parquet
from ros_to_parquet import contract, run
from ros_to_parquet.cli import main
from ros_to_parquet.contract import (
    BagSlice,
    DriveManifest,
    DriveQuality,
    DriveState,
    ExitCode,
    ExtractOptions,
    FailOn,
    Manifest,
    PointClouds,
    QualityCheck,
    QualityFinding,
    QualityLevel,
    QualityLimits,
    QualityRule,
    fails_on,
    parse_quality,
    quality_limits,
)
from ros_to_parquet.lake import Lake, standing_commits
from ros_to_parquet.quality import numbers as numbers_of
from ros_to_parquet.quality.histogram import Histogram, bins_of
from ros_to_parquet.quality.numbers import Numbers, TopicNumbers
from ros_to_parquet.quality.values import Look
from ros_to_parquet.report.make import make_report
from ros_to_parquet.storage import open_storage
from tests.engine.bag.bag_bytes import McapFile, mcap_channel, mcap_message, mcap_schema
from tests.engine.sample_bags import START_NS, write_bag, write_mcap

STORE = get_typestore(Stores.ROS1_NOETIC)
TYPES: Any = STORE.types
MS = 1_000_000
LENGTH_MS = 6_000

Message = tuple[int, str, Any, int]
"""Log time in milliseconds from the beginning, topic, message, and which of its publishers sent it."""
Results = dict[tuple[str, str], dict[str, Any]]


# --- bags, lakes ------------------------------------------------------------------------------------


def write(path: Path, messages: Iterable[Message], *, chunk_bytes: int = 8_000) -> Path:
    """A ROS 1 bag of these messages, in the order given, of many chunks."""
    with Writer(path) as writer:
        writer.chunk_threshold = chunk_bytes
        connections: dict[tuple[str, str, int], Any] = {}
        for log_ms, topic, message, publisher in messages:
            key = (topic, message.__msgtype__, publisher)
            if key not in connections:
                connections[key] = writer.add_connection(
                    topic, key[1], typestore=STORE, callerid=f"/node_{publisher}"
                )
            writer.write(connections[key], START_NS + log_ms * MS, STORE.serialize_ros1(message, key[1]))
    return path


def header(stamp_ms: int | None) -> Any:
    """None is a stamp that nobody has set."""
    seconds = (0, 0) if stamp_ms is None else divmod(START_NS + stamp_ms * MS, 10**9)
    return TYPES["std_msgs/msg/Header"](0, TYPES["builtin_interfaces/msg/Time"](*seconds), "base")


def imu(stamp_ms: int | None, value: float) -> Any:
    vector, covariance = TYPES["geometry_msgs/msg/Vector3"], np.zeros(9)
    turn = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    return TYPES["sensor_msgs/msg/Imu"](
        header(stamp_ms), turn, covariance, vector(value, 0, 0), covariance, vector(0, 0, 9.81), covariance
    )


def fix(stamp_ms: int | None, altitude: float) -> Any:
    status = TYPES["sensor_msgs/msg/NavSatStatus"](0, 1)
    return TYPES["sensor_msgs/msg/NavSatFix"](header(stamp_ms), status, 48.1, 11.5, altitude, np.zeros(9), 0)


def jpeg(number: int, *, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def compressed(stamp_ms: int | None, data: bytes, said: str = "jpeg") -> Any:
    return TYPES["sensor_msgs/msg/CompressedImage"](header(stamp_ms), said, np.frombuffer(data, np.uint8))


def raw(stamp_ms: int | None, number: int, *, missing: int = 0) -> Any:
    pixels = np.random.default_rng(number).integers(0, 255, 32 * 24 - missing, dtype=np.uint8)
    return TYPES["sensor_msgs/msg/Image"](header(stamp_ms), 24, 32, "mono8", 0, 32, pixels)


def scan(stamp_ms: int | None, number: int, *, back: int) -> Any:
    ranges = np.random.default_rng(number).uniform(1, 20, 90).astype(np.float32)
    ranges[back:] = np.inf
    empty = np.empty(0, dtype=np.float32)
    limits = (0.0, 1.0, 0.1, 0.0, 0.1, 0.5, 30.0)
    return TYPES["sensor_msgs/msg/LaserScan"](header(stamp_ms), *limits, ranges, empty)


def cloud(stamp_ms: int | None, number: int, *, back: int, points: int = 120) -> Any:
    values = np.random.default_rng(number).uniform(1, 20, (points, 4)).astype(np.float32)
    values[back:, :3] = np.nan
    field = TYPES["sensor_msgs/msg/PointField"]
    fields = [field(name, 4 * place, 7, 1) for place, name in enumerate(("x", "y", "z", "intensity"))]
    data = np.frombuffer(values.tobytes(), np.uint8)
    return TYPES["sensor_msgs/msg/PointCloud2"](
        header(stamp_ms), 1, points, fields, False, 16, 16 * points, data, False
    )


def every(step_ms: int, *, until_ms: int = LENGTH_MS) -> range:
    return range(0, until_ms, step_ms)


def of_imu(
    topic: str,
    *,
    times: Iterable[int] = every(20),
    stamp: Callable[[int], int | None] = lambda time: time - 2,
    value: Callable[[int], float] = lambda time: float(np.sin(time)),
) -> Iterator[Message]:
    return ((time, topic, imu(stamp(time), value(time)), 0) for time in times)


def faults() -> list[Message]:
    """A topic for each fault, and for each kind of topic one without."""
    rng = np.random.default_rng(5)
    jitter = {time: int(rng.integers(0, 3)) for time in every(20)}
    found = [
        of_imu("/imu/good"),
        of_imu("/imu/jitter", times=[time + jitter[time] for time in every(20)]),
        of_imu("/imu/drops", times=[time for time in every(20) if (time // 20) % 10 not in (2, 5, 7)]),
        of_imu("/imu/gap", times=[time for time in every(20) if not 2_000 <= time < 2_400]),
        of_imu("/imu/outage", times=[time for time in every(20) if not 2_000 <= time < 4_000]),
        of_imu("/imu/dies", times=every(20, until_ms=2_000)),
        of_imu("/imu/late", stamp=lambda time: time - 800),
        of_imu("/imu/other_clock", stamp=lambda time: time - 40_000_000),
        of_imu("/imu/ahead", stamp=lambda time: time + 300),
        of_imu("/imu/bursts", stamp=lambda time: time - (400 if time % 1_000 < 40 else 2)),
        of_imu("/imu/repeats", stamp=lambda time: time // 100 * 100 - 2),
        of_imu("/imu/backwards", stamp=lambda time: time - (50 if time == 3_000 else 2)),
        of_imu("/imu/unset", stamp=lambda time: None if time < 1_000 else time),
        of_imu("/imu/frozen", value=lambda time: float(np.sin(min(time, 3_000)))),
        of_imu("/imu/nan", value=lambda time: float("nan") if time % 1_000 == 0 else time),
        of_imu(
            "/imu/infinite", value=lambda time: (-1) ** (time // 20) * float("inf") if time < 3_000 else time
        ),
        ((time, "/events", TYPES["std_msgs/msg/String"]("x"), 0) for time in (100, 120, 140, 3_000, 5_500)),
        ((time, "/gps/no_altitude", fix(time, float("nan")), 0) for time in every(100)),
        ((time, "/cmd", TYPES["std_msgs/msg/Float32"](float(time // 1_500)), 0) for time in every(50)),
        ((time, "/constant", TYPES["std_msgs/msg/Float32"](1.0), 0) for time in every(50)),
        # Two publishers in turn, each in order.
        ((time, "/two", TYPES["std_msgs/msg/Float32"](time), time // 20 % 2) for time in every(20)),
        ((time, "/cam/a", compressed(time - 2, jpeg(time)), 0) for time in every(50)),
        ((time, "/cam/b", compressed(time - 3, jpeg(time, kind="PNG"), "png"), 0) for time in every(50)),
        ((time + 25, "/cam/late", compressed(time + 22, jpeg(time)), 0) for time in every(50)),
        ((time, "/cam/slow", raw(time, time), 0) for time in every(200)),
        (
            (time, "/cam/cut_off", compressed(time - 2, jpeg(time)[: -200 if time == 3_000 else None]), 0)
            for time in every(50)
        ),
        ((time, "/cam/padded", compressed(time - 2, jpeg(time) + bytes(50)), 0) for time in every(50)),
        ((time, "/cam/short", raw(time, time, missing=time == 1_000), 0) for time in every(200)),
        ((time, "/cam/stuck", raw(time, 1), 0) for time in every(200)),
        ((time, "/lidar/good", cloud(time, time, back=100 - time // 200), 0) for time in every(100)),
        (
            (time, "/lidar/drops", cloud(time, time, back=10 if 3_000 <= time < 3_500 else 110), 0)
            for time in every(100)
        ),
        ((time, "/scan/good", scan(time, time, back=80), 0) for time in every(100)),
        ((time, "/scan/drops", scan(time, time, back=20 if time > 5_000 else 80), 0) for time in every(100)),
    ]
    return sorted((message for topic in found for message in topic), key=lambda message: message[0])


def extracted(*bags: Path, output: Path, words: Sequence[str] = ()) -> Lake:
    command = ["extract", *map(str, bags), "--output", str(output), "--drive-id", "d", *words]
    assert main(command) == ExitCode.OK
    return ros_to_parquet.open(str(output))


def results(lake: Lake) -> Results:
    return {(row["topic"], row["check"]): row for row in lake.quality().to_table().to_pylist()}


def quality(lake: Lake) -> DriveQuality:
    (commit,) = standing_commits(lake.drive("d").commits)
    assert commit.quality is not None
    return commit.quality


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bag") / "faults.bag", faults(), chunk_bytes=40_000)


@pytest.fixture(scope="module")
def lake(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    # Frozen for seconds, since the bag is short.
    rules = {"*": {"frozen": {"warn": 1}}}
    return extracted(bag, output=tmp_path_factory.mktemp("lake"), words=["--quality", json.dumps(rules)])


# --- each check -------------------------------------------------------------------------------------

FAULTS = [
    ("/imu/drops", "rate", "warn", 0.7),
    ("/imu/gap", "gap", "warn", 21),
    ("/imu/outage", "gap", "error", 101),
    ("/imu/dies", "coverage", "error", 0.33),
    ("/imu/late", "stamp_offset", "warn", 0.8),
    ("/imu/other_clock", "stamp_offset", "error", 40_000),
    ("/imu/ahead", "stamp_ahead", "warn", 0.3),
    ("/imu/bursts", "latency", "warn", 0.4),
    ("/imu/repeats", "stamp_repeats", "error", 0.8),
    ("/imu/backwards", "stamp_order", "warn", 1 / 300),
    ("/imu/unset", "stamp_unset", "warn", 1 / 6),
    ("/imu/frozen", "frozen", "warn", 2.98),
    ("/imu/nan", "not_finite", "warn", 6 / 300),
    ("/imu/infinite", "not_finite", "error", 0.5),
    ("/cam/late", "camera_sync", "warn", 0.024),
    ("/cam/cut_off", "frames", "warn", 1 / 120),
    ("/cam/short", "frames", "error", 1 / 30),
    ("/cam/stuck", "frozen", "warn", 5.8),
    ("/lidar/drops", "returns", "warn", 5 / 60),
    ("/scan/drops", "returns", "error", 9 / 60),
]


@pytest.mark.parametrize(("topic", "check", "level", "value"), FAULTS)
def test_a_fault_is_found(lake: Lake, topic: str, check: str, level: str, value: float) -> None:
    row = results(lake)[topic, check]
    assert (row["level"], row["value"]) == (level, pytest.approx(value, rel=0.02)), row["detail"]


def test_nothing_else_is_found(lake: Lake) -> None:
    """Each fault but one shows in its own check alone."""
    known = {(topic, check) for topic, check, _, _ in FAULTS}
    also = {
        ("/imu/outage", "rate"),  # a third of the messages is gone
        ("/imu/bursts", "stamp_order"),  # with delays as these
    }
    found = {key for key, row in results(lake).items() if row["level"] != "ok"}
    assert found == known | also


@pytest.mark.parametrize(
    ("topic", "check"),
    [
        ("/events", "rate"),  # five, and then only now and then
        ("/events", "gap"),
        ("/gps/no_altitude", "frozen"),  # a position that never changes
        ("/cmd", "frozen"),  # most values are as before
        ("/constant", "frozen"),
        ("/imu/other_clock", "latency"),  # known to 1 % of eleven hours
        ("/cam/slow", "not_finite"),
        ("/cam/a", "camera_sync"),  # what others are held against
        ("/imu/good", "frames"),
        ("/imu/good", "returns"),
    ],
)
def test_what_is_not_looked_at(lake: Lake, topic: str, check: str) -> None:
    assert (topic, check) not in results(lake)
    assert any(key[0] == topic for key in results(lake))


def test_a_topic_is_in_order_whose_publishers_take_turns(lake: Lake) -> None:
    rows = results(lake)
    assert [rows["/two", check]["value"] for check in ("log_order", "log_repeats")] == [0, 0]
    assert rows["/two", "rate"]["value"] == pytest.approx(1, rel=0.02)
    assert rows["/two", "gap"]["value"] == pytest.approx(1, rel=0.02)


def test_log_times_out_of_order_and_repeated(tmp_path: Path) -> None:
    times = [*range(0, 400, 20), 300, 400, 400, *range(420, 1_000, 20)]
    bag = write(tmp_path / "x.bag", of_imu("/imu", times=times))
    rows = results(extracted(bag, output=tmp_path / "lake"))
    order, repeats = rows["/imu", "log_order"], rows["/imu", "log_repeats"]
    assert (order["level"], order["value"]) == ("error", 1 / len(times))
    assert (repeats["level"], repeats["value"]) == ("warn", 1 / len(times))
    assert order["detail"] == "1 of 52 messages were recorded after a later one"


def test_where_a_gap_is(lake: Lake) -> None:
    row = results(lake)["/imu/gap", "gap"]
    assert row["log_time_ns"] == START_NS + 1_980 * MS
    assert row["detail"].startswith("1 of more than 5 times the usual interval; the longest is 0.42 s")
    assert (row["unit"], row["warn"], row["error"], row["messages"]) == ("x", 5, 50, 280)


def test_frames_are_opened(lake: Lake, tmp_path: Path) -> None:
    """The first of each camera, and some: a JPEG whose end is there may lack its middle."""
    assert "2 of which were decoded: none is bad" in results(lake)["/cam/a", "frames"]["detail"]
    broken = [jpeg(0)[:300] + b"\xff\xd9", *(jpeg(number) for number in range(1, 20))]
    messages = [(50 * place, "/cam", compressed(0, data), 0) for place, data in enumerate(broken)]
    row = results(extracted(write(tmp_path / "x.bag", messages), output=tmp_path / "lake"))["/cam", "frames"]
    assert (row["level"], row["value"]) == ("error", 1 / 20)
    assert "1 that cannot be decoded" in row["detail"]


def test_without_pillow_no_frame_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_to_parquet.quality.watch.find_spec", lambda name: None)
    messages = [(50 * place, "/cam", compressed(0, jpeg(place)), 0) for place in range(20)]
    row = results(extracted(write(tmp_path / "x.bag", messages), output=tmp_path / "lake"))["/cam", "frames"]
    assert (row["level"], row["detail"]) == ("ok", "of 20 frames, 0 of which were decoded: none is bad")


def test_decoded_clouds_have_the_same_returns(lake: Lake, bag: Path, tmp_path: Path) -> None:
    words = ["--pointcloud", str(PointClouds.DECODED), "--topics", "/lidar/*"]
    decoded = results(extracted(bag, output=tmp_path / "lake", words=words))
    for topic in ("/lidar/good", "/lidar/drops"):
        assert decoded[topic, "returns"]["value"] == results(lake)[topic, "returns"]["value"]


def test_clouds_whose_rows_are_padded_have_the_same_returns(tmp_path: Path) -> None:
    def padded(time: int, padding: int) -> Any:
        made = cloud(time, time, back=60)
        rows = np.asarray(made.data).reshape(10, -1)
        made.height, made.width, made.row_step = 10, 12, 12 * 16 + padding
        made.data = np.pad(rows, ((0, 0), (0, padding))).reshape(-1)
        return made

    details = set()
    for padding in (0, 4, 40):
        messages = [(time, "/lidar", padded(time, padding), 0) for time in every(100)]
        lake = extracted(write(tmp_path / f"{padding}.bag", messages), output=tmp_path / f"{padding}")
        details.add(results(lake)["/lidar", "returns"]["detail"])
    assert details == {"0 of 60 have less than half of the usual 60 returns"}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 31])
def test_each_number_of_a_short_list_is_looked_at(count: int) -> None:
    rows = np.vstack([np.zeros(count), np.eye(count), np.zeros(count)]).astype(np.float32)
    lists = pa.array([*rows.tolist(), []], pa.list_(pa.float32()))
    look = Look(pa.schema([("data", lists.type)]), "std_msgs/Float32MultiArray")
    found = look.at([lists], np.arange(len(lists)), None).signatures
    alone = look.at([lists.slice(0, count + 1)], np.arange(count + 1), None).signatures
    assert found is not None and alone is not None
    assert len(set(found.tolist())) == count + 2
    assert found[0] == found[-2]
    assert found.tolist()[: count + 1] == alone.tolist(), "however rows lie together"


# --- any split --------------------------------------------------------------------------------------


def planned(bags: Sequence[Path], output: Path, shards: Sequence[Sequence[BagSlice]]) -> contract.Plan:
    """A plan of these shards, saved, with the drive's lease."""
    found = []
    for path in bags:
        info = open_storage(str(path)).head(str(path))
        found.append(
            contract.PlannedBag(str(path), path.name, "rosbag1", info.size_bytes, info.etag, path.name)
        )
    asked = contract.Run("dag", "run")
    plan = contract.Plan(
        contract_version=contract.CONTRACT_VERSION,
        plan_id=contract.make_plan_id(asked, "d"),
        run=asked,
        drive_id="d",
        source=str(bags[0].parent),
        output=str(output),
        options=ExtractOptions(),
        bags=tuple(found),
        shards=tuple(map(tuple, shards)),
    )
    lease = contract.Lease("d", plan.plan_id, asked, "now")
    output.mkdir()
    open_storage(str(output)).create(f"{output}/{contract.lease_key('d')}", contract.to_json(lease))
    return plan


def run_all(plan: contract.Plan, order: Iterable[int] | None = None) -> Lake:
    for shard in order or range(len(plan.shards)):
        run.run_shard(plan, shard, run.JobIdentity("", 1, ""))
    return ros_to_parquet.open(plan.output)


def without_samples(found: Results) -> Results:
    """How many frames are opened is a matter of shards: the first of each is."""
    return {key: {**row, "detail": ""} if key[1] == "frames" else row for key, row in found.items()}


def test_any_split_gives_the_same_numbers(bag: Path, tmp_path: Path) -> None:
    whole = results(run_all(planned([bag], tmp_path / "1", [[BagSlice(0)]])))
    assert len(whole) > 300
    plan = planned([bag], tmp_path / "4", [[BagSlice(0, index, 4)] for index in range(4)])
    split = results(run_all(plan, order=reversed(range(4))))
    assert without_samples(split) == without_samples(whole)
    two = [[BagSlice(0, 2, 3), BagSlice(0, 0, 3)], [BagSlice(0, 1, 3)]]
    assert without_samples(results(run_all(planned([bag], tmp_path / "two", two)))) == without_samples(whole)


def test_numbers_survive_their_text(lake: Lake) -> None:
    (read,) = lake.drive("d").manifests
    assert read.quality == "", "who reads drives has no use for them"
    path = Path(lake.uri) / contract.manifest_key("d", read.plan_id, read.shard)
    first = contract.from_json(contract.Manifest, path.read_bytes(), where=str(path))
    loaded = numbers_of.load(first.quality)
    assert loaded is not None
    assert numbers_of.dump(loaded) == first.quality
    assert len(first.quality) < 600 * len(loaded.topics)


def test_pauses_between_bags_are_no_gaps(tmp_path: Path) -> None:
    """The second bag follows at once, the third a minute, the fourth days later; one topic misses a bag."""
    bags = []
    for number, begin_ms in enumerate((0, 2_000, 64_000, 500_000_000)):
        times = range(begin_ms, begin_ms + 2_000, 20)
        messages = [*of_imu("/always", times=times)]
        messages += of_imu("/not_in_second", times=times) if number != 1 else []
        bags.append(write(tmp_path / f"{number}.bag", sorted(messages, key=lambda message: message[0])))
    for name, shards in (
        ("one", [[BagSlice(number) for number in (3, 1, 0, 2)]]),
        ("four", [[BagSlice(number)] for number in range(4)]),
    ):
        rows = results(run_all(planned(bags, tmp_path / name, shards)))
        always, missing = (rows[topic, "gap"] for topic in ("/always", "/not_in_second"))
        assert (always["level"], always["value"]) == ("ok", pytest.approx(1, rel=0.02))
        assert (missing["level"], missing["value"]) == ("error", pytest.approx(100, rel=0.02))
        assert rows["/always", "rate"]["value"] == pytest.approx(1, rel=0.02)
        assert rows["/always", "coverage"]["value"] == 1


def test_many_stamps_of_cameras_are_thinned_out_alike() -> None:
    rng = np.random.default_rng(2)
    ticks = np.sort(rng.integers(0, 3_600 * 10_000, 20_000))
    whole, parts = TopicNumbers("/a", "t"), TopicNumbers("/a", "t")
    whole.note_stamps(ticks)
    for part in np.array_split(ticks, 9)[::-1]:
        other = TopicNumbers("/a", "t")
        other.note_stamps(part)
        parts.add(other)
    assert 0 < len(whole.stamps) <= numbers_of.MOST_STAMPS
    assert whole.level == parts.level > 0
    assert whole.stamps.tolist() == parts.stamps.tolist()


def test_frames_of_one_second_are_not_all_kept() -> None:
    """Such a bag is damaged, or made to do damage: its stamps cannot be thinned out by the second."""
    whole, parts = TopicNumbers("/a", "t"), TopicNumbers("/a", "t")
    ticks = np.arange(5_000) % 10_000
    whole.note_stamps(ticks)
    for part in np.array_split(ticks, 3):
        parts.note_stamps(part)
    assert whole.stamps.tolist() == parts.stamps.tolist() == list(range(numbers_of.MOST_STAMPS))


def test_times_of_any_bits_are_measured(tmp_path: Path) -> None:
    file = McapFile()
    file.add(file.define(mcap_schema(1, "std_msgs/msg/Empty", "", ""), mcap_channel(1, 1, "/a")))
    times = [5, 6, 2**63 - 1, 2**63, 2**64 - 1, *range(2**62, 2**62 + 40)]
    for number, time in enumerate(times):
        file.add(mcap_message(1, number, time, b"\0\1\0\0\0"))
    (tmp_path / "x.mcap").write_bytes(file.bytes())
    rows = results(extracted(tmp_path / "x.mcap", output=tmp_path / "lake"))
    assert rows["/a", "log_order"]["messages"] == len(times)
    assert rows["/a", "log_order"]["value"] == 1 / len(times), "2^63 is read as the least of all"
    assert rows["/a", "log_repeats"]["value"] == 0
    assert all(np.isfinite(row["value"]) for row in rows.values())


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("string name\nstring offset\nuint8 datatype", ("x", "far", 7)),
        ("string name\nfloat64 offset\nuint8 datatype", ("x", float("nan"), 7)),
        ("string name\nint64 offset\nuint8 datatype", ("x", -1_000_000_000, 7)),
        ("int32[] name\nuint32 offset\nuint8 datatype", (np.ones(1, np.int32), 0, 7)),
        ("string name\nuint32 offset\nuint8[] datatype", ("x", 0, np.ones(1, np.uint8))),
    ],
)
def test_points_of_a_bags_own_making_are_not_counted(tmp_path: Path, text: str, field: Any) -> None:
    """A bag can define its own PointField: every row of it is there all the same."""
    definition = (
        "uint32 height\nuint32 width\nsensor_msgs/PointField[] fields\nbool is_bigendian\n"
        f"uint32 point_step\nuint8[] data\n{'=' * 80}\nMSG: sensor_msgs/PointField\n{text}\n"
    )
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition, "sensor_msgs/msg/PointCloud2"))
    kinds: Any = store.types
    point = kinds["sensor_msgs/msg/PointField"](*field)
    message = kinds["sensor_msgs/msg/PointCloud2"](1, 4, [point], False, 16, np.ones(64, np.uint8))
    data = bytes(store.serialize_cdr(message, "sensor_msgs/msg/PointCloud2"))
    bag = write_mcap(
        tmp_path / "x.mcap",
        "sensor_msgs/msg/PointCloud2",
        [data] * 20,
        schema=definition,
        schema_encoding="ros2msg",
    )
    rows = results(extracted(bag, output=tmp_path / "lake"))
    assert rows["/topic", "frozen"]["messages"] == 20
    assert ("/topic", "returns") not in rows


def test_runs_of_equal_values_go_on_across_slices(tmp_path: Path) -> None:
    def value(time: int) -> float:
        return 1.0 if 500 < time < 4_000 else float(np.sin(time))

    bag = write(tmp_path / "x.bag", of_imu("/imu", value=value), chunk_bytes=4_000)
    seen = []
    for count in (1, 2, 7):
        plan = planned([bag], tmp_path / f"{count}", [[BagSlice(0, index, count)] for index in range(count)])
        row = results(run_all(plan))["/imu", "frozen"]
        seen.append((row["value"], row["log_time_ns"], row["detail"]))
    assert seen == [(pytest.approx(3.46), START_NS + 520 * MS, seen[0][2])] * 3
    assert seen[0][2] == "174 messages in 3.46 s have the same values"


def test_bins_are_about_one_percent_wide() -> None:
    values = np.array([0, 1, -1, 10, 999_999, -123_456_789, 2**62], dtype=np.int64)
    for value, place in zip(values.tolist(), bins_of(values).tolist(), strict=True):
        histogram = Histogram({place: 1})
        assert histogram.quantile(0.5) == pytest.approx(value, rel=0.011)
    assert (bins_of(-values) == -bins_of(values)).all()


def test_quantiles_and_counts_of_a_histogram() -> None:
    values = np.random.default_rng(1).integers(-(10**9), 10**9, 5_000)
    histogram = Histogram()
    for part in np.array_split(values, 7):
        histogram.add(part)
    assert histogram.total == 5_000
    for share in (0.01, 0.5, 0.99):
        assert histogram.quantile(share) == pytest.approx(
            float(np.quantile(values, share)), rel=0.02, abs=1e6
        )
    assert histogram.count_above(5e8) == pytest.approx((values > 5e8).sum(), rel=0.03)
    assert histogram.count_below(-5e8) == pytest.approx((values < -5e8).sum(), rel=0.03)
    assert Histogram.from_pairs(histogram.as_pairs()) == histogram


# --- limits -----------------------------------------------------------------------------------------


def test_limits_of_the_longest_glob_count() -> None:
    rules, problems = parse_quality(
        {
            "*": {"gap": {"warn": 10, "error": None}, "frozen": None},
            "/imu/*": {"gap": {"error": 30}},
            "/camera/*": None,
        }
    )
    assert problems == []
    assert quality_limits(rules, "/imu/data")[QualityCheck.GAP] == QualityLimits(5, 30)
    assert quality_limits(rules, "/x")[QualityCheck.GAP] == QualityLimits(10, None)
    assert QualityCheck.FROZEN not in quality_limits(rules, "/x")
    assert quality_limits(rules, "/camera/front") == {}
    assert quality_limits([], "/x") == contract.QUALITY_DEFAULTS


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ([], 'expected an object like {"/imu/*": {"gap": {"warn": 3, "error": 20}}}, not []'),
        ({"": {}}, "'' is no glob of topics; for example \"/imu/*\""),
        ({"*": 3}, "'*': expected an object of checks or null, not 3"),
        ({"*": {"gaps": None}}, "'*': no check 'gaps'; there are rate, gap, coverage, log_order, "),
        ({"*": {"gap": 3}}, "'*', check 'gap': expected an object with 'warn' and 'error', or null, not 3"),
        ({"*": {"gap": {"bad": 3}}}, "'*', check 'gap': expected an object with 'warn' and 'error'"),
        ({"*": {"gap": {"warn": "3"}}}, "'*', check 'gap': key 'warn': expected a number from 0 on or null"),
        ({"*": {"gap": {"error": True}}}, "'*', check 'gap': key 'error': expected a number from 0 on"),
        ({"*": {"gap": {"error": -1}}}, "'*', check 'gap': key 'error': expected a number from 0 on"),
        ({"*": {"gap": {"error": float("nan")}}}, "'*', check 'gap': key 'error': expected a number"),
        ({"*": {"gap": {"error": 1}}}, "'*', check 'gap': error (1) is below warn (5): say both"),
        ({"*": {"rate": {"warn": 0.2}}}, "'*', check 'rate': error (0.5) is above warn (0.2): say both"),
    ],
)
def test_wrong_limits_are_said(raw: object, problem: str) -> None:
    _, problems = parse_quality(raw)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_limits_decide_the_level() -> None:
    limits = QualityLimits(5, 50)
    assert limits.level(QualityCheck.GAP, 5) == (QualityLevel.OK, None)
    assert limits.level(QualityCheck.GAP, 5.1) == (QualityLevel.WARN, 5)
    assert limits.level(QualityCheck.GAP, 51) == (QualityLevel.ERROR, 50)
    assert QualityLimits(0.9, 0.5).level(QualityCheck.RATE, 0.4) == (QualityLevel.ERROR, 0.5)
    assert QualityLimits(0.9, 0.5).level(QualityCheck.RATE, 1.4) == (QualityLevel.OK, None)
    assert QualityLimits(None, 50).level(QualityCheck.GAP, 40) == (QualityLevel.OK, None)


def test_checks_that_are_off_are_not_there(bag: Path, tmp_path: Path) -> None:
    rules = tmp_path / "quality.json"
    rules.write_text(json.dumps({"*": None, "/imu/gap": {"gap": {"warn": 1000, "error": None}}}))
    some = ["--topics", "/imu/g*", "/cam/*", "--quality"]
    made = extracted(bag, output=tmp_path / "some", words=[*some, str(rules)])
    assert {key: row["level"] for key, row in results(made).items()} == {("/imu/gap", "gap"): "ok"}
    off = extracted(bag, output=tmp_path / "off", words=[*some, "off"])
    assert results(off) == {}
    (commit,) = off.drive("d").commits
    assert commit.quality is None
    assert not (tmp_path / "off" / "_quality").exists()


def test_wrong_limits_on_the_command_line(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for said, problem in (
        ('{"*": {"gaps": null}}', "--quality: '*': no check 'gaps'"),
        ("{", "--quality: not JSON"),
        (str(tmp_path / "none.json"), "is no JSON, and no file of it"),
    ):
        words = ["extract", str(bag), "--output", str(tmp_path / "lake"), "--quality", said]
        assert main(words) == ExitCode.USAGE
        assert problem in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("fail_on", "state", "levels", "fails"),
    [
        ((FailOn.FAILED,), DriveState.FAILED, None, True),
        ((FailOn.FAILED,), DriveState.SUCCEEDED, (1, 1), False),
        ((FailOn.QUALITY_ERROR,), DriveState.SUCCEEDED, (1, 1), True),
        ((FailOn.QUALITY_ERROR,), DriveState.SUCCEEDED, (1, 0), False),
        ((FailOn.QUALITY_WARN,), DriveState.SUCCEEDED, (1, 0), True),
        ((FailOn.QUALITY_WARN,), DriveState.SUCCEEDED, (0, 1), True),
        ((FailOn.QUALITY_WARN,), DriveState.SUCCEEDED, (0, 0), False),
        ((FailOn.QUALITY_WARN,), DriveState.SUCCEEDED, None, False),
    ],
)
def test_what_a_drive_fails_by(
    fail_on: tuple[FailOn, ...], state: DriveState, levels: tuple[int, int] | None, fails: bool
) -> None:
    found = None if levels is None else DriveQuality("", 3, *levels)
    assert fails_on(fail_on, state, found) is fails


def test_states_can_be_failed_by() -> None:
    assert {str(state) for state in DriveState} < {str(choice) for choice in FailOn}


# --- what is written --------------------------------------------------------------------------------


def test_the_manifest_has_the_findings_and_the_log_says_them(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--topics", "/imu/o*", "/imu/[dgln]*", "/scan/*"]
    made = extracted(bag, output=tmp_path / "lake", words=words)
    found, rows = quality(made), results(made)
    counts = Counter(row["level"] for row in rows.values())
    assert (found.ok, found.warn, found.error) == (counts["ok"], counts["warn"], counts["error"])
    assert {(each.topic, each.check) for each in found.findings} == {
        key for key, row in rows.items() if row["level"] != "ok"
    }
    levels = [each.level for each in found.findings]
    assert levels == sorted(levels, key=lambda level: level is not QualityLevel.ERROR)
    assert found.level is QualityLevel.ERROR
    printed = capsys.readouterr()
    assert str(found) in printed.out
    assert f"\n  error: {found.findings[0]}\n" in printed.out
    assert '"event": "quality"' in printed.err


def test_the_findings_of_a_manifest_are_bounded(tmp_path: Path) -> None:
    messages = (
        (time, f"/imu/{number:03}", imu(None, time), 0)
        for time in every(20, until_ms=240)
        for number in range(120)
    )
    found = quality(extracted(write(tmp_path / "x.bag", messages), output=tmp_path / "lake"))
    assert found.warn == 120
    assert len(found.findings) == contract.MAX_REASONS


def test_an_overwritten_drive_has_the_new_results_alone(tmp_path: Path) -> None:
    bag = tmp_path / "x.bag"
    output = tmp_path / "lake"
    write(bag, of_imu("/imu/old"))
    extracted(bag, output=output)
    bag.unlink()
    write(bag, of_imu("/imu/new"))
    made = extracted(bag, output=output, words=["--overwrite"])
    assert {topic for topic, _ in results(made)} == {"/imu/new"}
    assert len(list((output / "_quality").rglob("*.parquet"))) == 1


def test_bags_of_a_later_run_have_results_of_their_own(tmp_path: Path) -> None:
    first, second = tmp_path / "1.bag", tmp_path / "2.bag"
    output = tmp_path / "lake"
    write(first, of_imu("/imu"))
    extracted(first, output=output)
    write(second, of_imu("/imu", times=range(10_000, 12_000, 20)))
    made = extracted(first, second, output=output)
    rows = made.quality(["d"]).to_table().to_pylist()
    assert sorted(row["messages"] for row in rows if row["check"] == "rate") == [100, 300]
    assert {row["plan_id"] for row in rows} == {commit.plan_id for commit in made.drive("d").commits}
    assert {row["drive_id"] for row in rows} == {"d"}


def test_a_lake_without_results_has_an_empty_table(tmp_path: Path) -> None:
    bag = tmp_path / "x.bag"
    write_bag(bag, messages=2)
    made = extracted(bag, output=tmp_path / "lake", words=["--quality", "off"])
    table = made.quality().to_table()
    assert table.num_rows == 0
    assert {"topic", "check", "level", "value", "drive_id"} <= set(table.column_names)


def test_manifests_of_before_are_read(lake: Lake) -> None:
    record = lake.drive("d")
    (commit,), (manifest,) = record.commits, record.manifests
    assert contract.from_json(DriveManifest, without_quality(commit), where="x") == replace(
        commit, quality=None
    )
    assert contract.from_json(Manifest, without_quality(manifest), where="x") == replace(manifest, quality="")


def without_quality(value: DriveManifest | Manifest) -> bytes:
    said = json.loads(contract.to_json(value))
    del said["quality"]
    return json.dumps(said).encode()


def test_numbers_of_another_version_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "x.bag", of_imu("/imu"))
    plan = planned([bag], tmp_path / "lake", [[BagSlice(0, 0, 2)], [BagSlice(0, 1, 2)]])
    run.run_shard(plan, 0, run.JobIdentity("", 1, ""))
    monkeypatch.setattr(numbers_of, "VERSION", 2)
    run.run_shard(plan, 1, run.JobIdentity("", 1, ""))
    rows = results(ros_to_parquet.open(plan.output))
    assert 0 < rows["/imu", "rate"]["messages"] < 300
    assert "1 shards were measured by another version of the engine" in capsys.readouterr().err


def test_the_report_shows_the_findings(bag: Path, tmp_path: Path) -> None:
    words = ["--topics", "/imu/outage"]
    _, page = make_report(extracted(bag, output=tmp_path / "lake", words=words), "d")
    assert '<section id="quality"' in page
    assert "quality: 1 error, 1 warning, " in page
    assert "the longest is 2.02 s" in page
    _, page = make_report(extracted(bag, output=tmp_path / "off", words=[*words, "--quality", "off"]), "d")
    assert '<section id="quality"' not in page


def test_the_table_is_plain_parquet(lake: Lake) -> None:
    (path,) = (Path(lake.uri) / "_quality").rglob("*.parquet")
    table = pq.read_table(path)
    assert table.column("level")[0].as_py() == "error"
    assert table.schema.field("log_time").type == pa.timestamp("us", tz="UTC")


def test_findings_in_words() -> None:
    finding = QualityFinding(
        "/imu", QualityCheck.GAP, QualityLevel.WARN, 8.41234, 5, "x", "2 of them", START_NS
    )
    assert str(finding) == "topic /imu: gap 8.412 x (warn above 5): 2 of them"
    low = replace(finding, check=QualityCheck.RATE, value=0.4, limit=0.5, unit="")
    assert str(low) == "topic /imu: rate 0.4 (warn below 0.5): 2 of them"


def test_rules_are_part_of_the_plan() -> None:
    rule = QualityRule("*", QualityCheck.GAP, None, 7.0)
    said = contract.to_json(replace(planned_nothing(), quality=(rule,)))
    assert contract.from_json(contract.Plan, said, where="x").quality == (rule,)


def planned_nothing() -> contract.Plan:
    asked = contract.Run("", "r")
    return contract.Plan(1, "0" * 12, asked, "d", "s", "o", ExtractOptions(), (), ())


def test_nothing_is_settled_of_no_messages() -> None:
    assert Numbers().settle().length_ns == 1
    assert numbers_of.dump(Numbers()) == ""
