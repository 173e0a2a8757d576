"""``images`` of the options from bag to lake: tables, files, videos; what is kept as recorded."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from ros_to_parquet import contract, images, lake, run, videos
from ros_to_parquet.cli import main
from ros_to_parquet.contract import (
    ExitCode,
    ExtractOptions,
    Manifest,
    TopicResult,
    image_rules,
    parse_image_rule,
)
from ros_to_parquet.errors import ShardError
from ros_to_parquet.lake import Lake
from ros_to_parquet.memory import share_out
from ros_to_parquet.rebuild import RebuildError, rebuild
from ros_to_parquet.report.make import make_report
from ros_to_parquet.storage import LocalStorage, StorageError
from tests.engine import roundtrip
from tests.engine.installed import install
from tests.engine.sample_bags import START_NS, write_mcap
from tests.engine.test_run import JOB, cli, extract, plan_for

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

REAL_BAGS = Path(__file__).parents[2].parent / "shared" / "bags"
STORE = get_typestore(Stores.ROS1_NOETIC)
TYPES: Any = STORE.types
TICK_NS = 100_000_000
WIDTH, HEIGHT = 32, 24
RNG = np.random.default_rng(9)

Message = tuple[int, Any]
"""Log time and message."""


def header() -> Any:
    return TYPES["std_msgs/msg/Header"](0, TYPES["builtin_interfaces/msg/Time"](0, 0), "camera")


def raw(values: Any, encoding: str = "rgb8", *, claim: tuple[int, int] | None = None) -> Any:
    values = np.ascontiguousarray(values)
    height, width = claim or values.shape[:2]
    data = values.reshape(-1).view(np.uint8)
    step = values.nbytes // values.shape[0]
    return TYPES["sensor_msgs/msg/Image"](header(), height, width, encoding, 0, step, data)


def compressed(file: bytes, said: str = "jpeg") -> Any:
    return TYPES["sensor_msgs/msg/CompressedImage"](header(), said, np.frombuffer(file, np.uint8))


def file_of(values: Any, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    return out.getvalue()


def picture(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """Of one colour, which tells the number."""
    return np.full((height, width, 3), (number * 7 % 256, 128, 255 - number * 7 % 256), np.uint8)


def noise(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, topics: dict[str, Iterable[Message]]) -> Path:
    """A ROS 1 bag; messages in the order of their log times, those of one time as they are given."""
    with Writer(path) as writer:
        due = []
        for topic, messages in topics.items():
            connection = None
            for time_ns, message in messages:
                name = message.__msgtype__
                connection = connection or writer.add_connection(topic, name, typestore=STORE)
                due.append((time_ns, connection, STORE.serialize_ros1(message, name)))
        for time_ns, connection, data in sorted(due, key=lambda each: each[0]):
            writer.write(connection, time_ns, data)
    return path


def frames(made: Iterable[Any]) -> list[Message]:
    return [(START_NS + number * TICK_NS, message) for number, message in enumerate(made)]


def options(**rules: Any) -> ExtractOptions:
    """``cam="png"`` is a rule for ``/cam``; ``every`` is one for all topics."""
    return ExtractOptions(
        images=image_rules(
            parse_image_rule("*" if name == "every" else f"/{name}", said) for name, said in rules.items()
        )
    )


def one_topic(manifest: Manifest) -> TopicResult:
    (topic,) = manifest.topics
    assert topic.messages == topic.rows + topic.rejected
    assert sum(file.rows for file in topic.files) == topic.rows
    return topic


def rows(output: Path, table: str = "cam") -> list[dict[str, Any]]:
    """In the order of their log times, and of one time as they are in the file."""
    read = Lake(str(output)).dataset(table).to_table()
    found: list[dict[str, Any]] = sorted(read.to_pylist(), key=lambda row: row["log_time_ns"])
    return found


def opened(data: bytes) -> Image.Image:
    found = Image.open(io.BytesIO(data))
    found.load()
    return found


def files(output: Path) -> set[str]:
    """Of the lake's files beside tables, their paths."""
    return {str(path.relative_to(output)) for path in (output / "_files").rglob("*") if path.is_file()}


# --- in the table ------------------------------------------------------------------------------------


def test_png_in_the_table_is_the_picture(tmp_path: Path) -> None:
    pixels = [noise(HEIGHT, WIDTH, 3) for _ in range(5)]
    bag = write(tmp_path / "a.bag", {"/cam": frames(raw(each[:, :, ::-1], "bgr8") for each in pixels)})
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=options(cam="png")))
    assert (topic.rows, topic.rejected, topic.remark, topic.beside) == (5, 0, "", ())
    (file,) = topic.files
    assert contract.schema_of(file.path) != topic.schema_hash
    schema = pq.read_schema(tmp_path / "lake" / file.path)
    assert schema.names[-9:] == [
        *("height", "width", "encoding", "is_bigendian", "step"),
        *("image_width", "image_height", "image_is_exact", "image"),
    ]
    said = json.loads(schema.metadata[b"ros_to_parquet.images"])
    assert said == {"form": "png", "video": "none", "max_width": 0, "max_height": 0, "quality": 0}
    assert schema.metadata[b"ros.type"] == b"sensor_msgs/Image"
    found = rows(tmp_path / "lake")
    for row, wanted in zip(found, pixels, strict=True):
        made = opened(row["image"])
        assert made.format == "PNG"
        assert (np.asarray(made) == wanted).all()
        assert (row["encoding"], row["image_width"], row["image_height"]) == ("bgr8", WIDTH, HEIGHT)


def test_jpeg_in_the_table_has_the_size_and_quality_asked_for(tmp_path: Path) -> None:
    pixels = [np.asarray(Image.fromarray(noise(6, 8, 3)).resize((640, 480))) for _ in range(2)]
    bag = write(tmp_path / "a.bag", {"/cam": frames(map(raw, pixels))})
    sizes = {}
    for quality in (30, 95):
        rule = {"form": "jpeg", "max_width": 320, "max_height": 100, "quality": quality}
        output = tmp_path / f"lake-{quality}"
        extract(bag, output=output, options=options(cam=rule))
        found = rows(output)
        for row, wanted in zip(found, pixels, strict=True):
            made = opened(row["image"])
            assert (made.format, made.size) == ("JPEG", (133, 100))
            assert (row["image_width"], row["image_height"]) == made.size
            assert (row["width"], row["height"]) == (640, 480)
            small = np.asarray(Image.fromarray(wanted).resize((133, 100), Image.Resampling.LANCZOS))
            assert np.abs(np.asarray(made).astype(int) - small).mean() < 12
        sizes[quality] = len(found[0]["image"])
    assert sizes[30] < sizes[95]


def test_depth_is_kept_as_depth_whatever_is_asked_for(tmp_path: Path) -> None:
    metres = np.array([[0.5, np.nan], [1.234, 99.0]], np.float32)
    thermal = np.array([[3000, 3001]], np.uint16)
    topics = {"/depth": frames([raw(metres, "32FC1")]), "/thermal": frames([raw(thermal, "mono16")])}
    bag = write(tmp_path / "a.bag", topics)
    extract(bag, output=tmp_path / "lake", options=options(every="jpeg"))
    (depth,), (warm,) = rows(tmp_path / "lake", "depth"), rows(tmp_path / "lake", "thermal")
    assert np.asarray(opened(depth["image"])).tolist() == [[500, 0], [1234, 65535]]
    assert np.asarray(opened(warm["image"])).tolist() == thermal.tolist()


def test_what_is_a_jpeg_already_stays_as_it_is(tmp_path: Path) -> None:
    jpeg, png = file_of(noise(HEIGHT, WIDTH, 3)), file_of(noise(HEIGHT, WIDTH, 3), "PNG")
    bag = write(tmp_path / "a.bag", {"/cam": frames([compressed(jpeg), compressed(png, "png")])})
    extract(bag, output=tmp_path / "lake", options=options(cam="jpeg"))
    first, second = (row["image"] for row in rows(tmp_path / "lake"))
    assert first == jpeg
    assert opened(second).format == "JPEG"
    extract(bag, output=tmp_path / "lake", options=options(cam="png"), overwrite=True)
    first, second = (row["image"] for row in rows(tmp_path / "lake"))
    assert opened(first).format == "PNG"
    assert (np.asarray(opened(first)) == np.asarray(opened(jpeg))).all()
    assert second == png


def test_all_messages_come_out_in_order_with_their_own_pictures(tmp_path: Path) -> None:
    """Of different sizes, so that threads end in another order than they began."""
    many = [picture(number, width=16 + number % 5 * 200, height=16) for number in range(120)]
    topics = {"/cam": frames(map(raw, many)), "/b": frames(raw(each) for each in many[:50])}
    bag = write(tmp_path / "a.bag", topics)
    manifest = extract(
        bag, output=tmp_path / "lake", options=options(cam="png", b="png_files"), budget=share_out(128 << 20)
    )
    assert [(topic.rows, topic.rejected) for topic in manifest.topics] == [(50, 0), (120, 0)]
    for row, wanted in zip(rows(tmp_path / "lake"), many, strict=True):
        assert (np.asarray(opened(row["image"])) == wanted).all()
    for row, wanted in zip(rows(tmp_path / "lake", "b"), many[:50], strict=True):
        made = opened((tmp_path / "lake" / row["image_path"]).read_bytes())
        assert (np.asarray(made) == wanted).all()


# --- files -------------------------------------------------------------------------------------------


def test_files_have_the_log_time_for_a_name_and_rows_their_path(tmp_path: Path) -> None:
    messages = frames(compressed(file_of(picture(number))) for number in range(4))
    messages.append((messages[2][0], compressed(file_of(noise(HEIGHT, WIDTH, 3)))))
    bag = write(tmp_path / "a.bag", {"/cam/front": messages})
    output = tmp_path / "lake"
    manifest = extract(bag, output=output, options=options(every="jpeg_files"))
    topic, name = one_topic(manifest), contract.shard_name(manifest.plan_id, 0)
    folder = f"_files/cam.front/drive_id=drive_1/{name}"
    times = sorted(time_ns for time_ns, _ in messages[:4])
    wanted = [f"{folder}/{time_ns}.jpg" for time_ns in times]
    wanted.insert(3, f"{folder}/{times[2]}-2.jpg")
    found = rows(output, "cam.front")
    assert [row["image_path"] for row in found] == wanted
    assert files(output) == set(wanted)
    by_time = sorted(messages, key=lambda each: each[0])
    assert [(output / path).read_bytes() for path in wanted] == [bytes(each.data) for _, each in by_time]
    size = sum((output / path).stat().st_size for path in wanted)
    assert topic.beside == (contract.FileSet(folder, 5, size),)
    assert contract.folders_of(manifest) == [folder]
    assert manifest.bytes_written == size + sum(file.size_bytes for file in topic.files)
    (commit,) = Lake(str(output)).drive("drive_1").commits
    (table,) = commit.tables
    assert (table.files_beside, table.bytes_written) == (5, manifest.bytes_written)
    assert contract.from_json(Manifest, contract.to_json(manifest), where="x") == manifest
    joined = duckdb.execute(
        "SELECT count(*) FROM read_parquet(?) t JOIN glob(?) f ON ends_with(f.file, t.image_path)",
        [str(output / "cam.front/**/*.parquet"), str(output / "_files/**/*.jpg")],
    ).fetchall()
    assert joined == [(5,)]


def test_manifests_and_plans_of_before_are_still_read(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])})
    plan = plan_for(bag, output=tmp_path / "lake")
    manifest = run.run_shard(plan, 0, JOB)
    record = json.loads(contract.to_json(manifest))
    del record["options"]["images"], record["topics"][0]["beside"]
    assert contract.from_json(Manifest, json.dumps(record).encode(), where="x") == manifest
    record = json.loads(contract.to_json(plan))
    del record["options"]["images"]
    assert contract.from_json(contract.Plan, json.dumps(record).encode(), where="x") == plan


def test_topics_that_differ_by_case_share_no_file(tmp_path: Path) -> None:
    topics = {"/Cam": frames([raw(picture(1))]), "/cam": frames([raw(picture(2))])}
    output = tmp_path / "lake"
    extract(write(tmp_path / "a.bag", topics), output=output, options=options(every="png_files"))
    assert len({path.casefold() for path in files(output)}) == 2
    for table, number in (("Cam", 1), ("cam", 2)):
        (row,) = rows(output, table)
        assert (np.asarray(opened((output / row["image_path"]).read_bytes())) == picture(number)).all()


def test_files_on_a_store(tmp_path: Path, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket="images-lake")
    bag = write(tmp_path / "a.bag", {"/cam": frames(raw(picture(number)) for number in range(12))})
    arguments = ["extract", str(bag), "--output", "s3://images-lake/x", "--drive-id", "d"]
    assert main([*arguments, "--images", "/cam=png_files,video=h264"]) == ExitCode.OK
    before = Lake("s3://images-lake/x").dataset("cam").to_table().to_pylist()
    for row in (before[0], before[11]):
        made = s3.get_object(Bucket="images-lake", Key=f"x/{row['image_path']}")["Body"].read()
        assert opened(made).size == (WIDTH, HEIGHT)
    video = s3.get_object(Bucket="images-lake", Key=f"x/{before[0]['video_path']}")["Body"].read()
    assert len(decoded_video(video)) == 12
    assert main([*arguments, "--overwrite", "--images", "/cam=jpeg_files"]) == ExitCode.OK
    listed = s3.list_objects_v2(Bucket="images-lake", Prefix="x/_files/")["Contents"]
    now = {
        f"x/{row['image_path']}" for row in Lake("s3://images-lake/x").dataset("cam").to_table().to_pylist()
    }
    assert {each["Key"] for each in listed} == now


# --- what is kept as recorded ------------------------------------------------------------------------


def png_claiming(width: int, height: int) -> bytes:
    """A PNG that says so, and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["png", "png_files", "jpeg", "left_out,video=h264", "recorded,video=h264"])
def test_pictures_that_do_not_decode_are_kept_as_recorded(tmp_path: Path, form: str) -> None:
    good, cut = file_of(noise(64, 64, 3)), file_of(noise(64, 64, 3))[:-200]
    bad = [b"no picture", png_claiming(100_000, 100_000), cut]
    bag = write(tmp_path / "a.bag", {"/cam": frames(map(compressed, [bad[0], good, bad[1], good, bad[2]]))})
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=options(cam=form)))
    assert (topic.rows, topic.rejected) == (5, 0)
    assert topic.remark == (
        "3 pictures are kept as recorded, in the column data: 'jpeg': cannot identify it as a picture"
    )
    (kept,) = (file for file in topic.files if contract.schema_of(file.path) == topic.schema_hash)
    (made,) = (file for file in topic.files if file is not kept)
    assert (kept.rows, made.rows) == (3, 2)
    assert pq.read_table(tmp_path / "lake" / kept.path).column("data").to_pylist() == bad
    assert len(rows(tmp_path / "lake")) == 5  # both together, too
    assert len(files(tmp_path / "lake")) == (2 if form == "png_files" else 1 if "video" in form else 0)
    (commit,) = Lake(str(tmp_path / "lake")).drive("drive_1").commits
    assert f"topic /cam: {topic.remark}" in commit.problems


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            compressed(png_claiming(100_000, 100_000), "png"),
            r"100,000 by 100,000 pixels take about .* raise --memo",
        ),
        (raw(picture(1), claim=(100_000, 100_000)), "its 2304 bytes are not 100000 lines"),
        (raw(noise(4, 4), "32FC9"), "encoding '32FC9' is not known here"),
        (raw(noise(4, 4), "16SC1", claim=(4, 2)), "its numbers have a sign"),
    ],
)
def test_why_it_is_kept_is_said(tmp_path: Path, message: Any, why: str) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([message])})
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=options(cam="png_files")))
    assert (topic.rows, topic.rejected) == (1, 0)
    with pytest.raises(AssertionError, match=f"1 picture is kept as recorded, in the column data: {why}"):
        raise AssertionError(topic.remark)
    assert files(tmp_path / "lake") == set()


def test_another_definition_of_an_image_stays_as_recorded(tmp_path: Path) -> None:
    bag = write_mcap(
        tmp_path / "a.mcap",
        "sensor_msgs/msg/Image",
        [b"\0\1\0\0\2"],
        schema="uint8 data",
        schema_encoding="ros2msg",
    )
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=options(every="png")))
    assert topic.remark == (
        "pictures are kept as recorded, in the column data: its definition is not the one that ROS has"
    )


def test_a_large_picture_is_written_alone(tmp_path: Path) -> None:
    """Raw ones that are large as messages, and compressed ones that become so."""
    budget = share_out(128 << 20)
    pixels = noise(1100, 1300, 3)  # 4.3 MB, where a large one has more than 4 MiB
    jpeg = file_of(pixels)
    assert len(jpeg) < budget.large < pixels.nbytes
    messages = [raw(picture(1)), raw(pixels), raw(picture(2))]
    topics = {"/cam": frames(messages), "/jpeg": frames([compressed(jpeg), compressed(file_of(picture(3)))])}
    bag = write(tmp_path / "a.bag", topics)
    manifest = extract(bag, output=tmp_path / "lake", options=options(every="png"), budget=budget)
    for topic in manifest.topics:
        assert topic.remark == ""
        assert [file.path.endswith("-large.parquet") for file in topic.files].count(True) == 1
    found = rows(tmp_path / "lake")
    assert (np.asarray(opened(found[1]["image"])) == pixels).all()
    assert [opened(row["image"]).size for row in rows(tmp_path / "lake", "jpeg")] == [(1300, 1100), (32, 24)]


# --- videos ------------------------------------------------------------------------------------------


def decoded_video(data: bytes) -> list[tuple[int, Any]]:
    """Of each frame: nanoseconds from the beginning, and pixels."""
    with av.open(io.BytesIO(data)) as container:
        shown = container.decode(video=0)
        return [(round(each.pts * each.time_base * 10**9), each.to_ndarray(format="rgb24")) for each in shown]


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_video_shows_frames_when_they_were_logged(tmp_path: Path, codec: str) -> None:
    offsets = [0, 33_000_000, 90_000_000, 90_000_000, 5_000_000_000, 5_050_000_500]
    wide = [picture(number * 5, width=98, height=65) for number in range(len(offsets))]
    times = [START_NS + offset for offset in offsets]
    bag = write(tmp_path / "a.bag", {"/cam": list(zip(times, map(raw, wide), strict=True))})
    output = tmp_path / "lake"
    topic = one_topic(extract(bag, output=output, options=options(cam=f"left_out,video={codec}")))
    (path,) = files(output)
    assert path.endswith(f"/{START_NS}.mp4")
    assert topic.beside[0].files == 1
    assert topic.beside[0].size_bytes == (output / path).stat().st_size
    found = rows(output)
    assert [(row["log_time_ns"], row["video_frame"]) for row in found] == list(
        zip(times, range(6), strict=True)
    )
    assert {row["video_path"] for row in found} == {path}
    assert not found[0].keys() & {"data", "image", "image_path"}
    # Two of one time are shown one after the other; times are in microseconds.
    wanted = [0, 33_000_000, 90_000_000, 90_001_000, 5_000_000_000, 5_050_000_000]
    assert [row["video_time_ns"] for row in found] == wanted
    with av.open(str(output / path)) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name in {"h264": ("h264",), "av1": ("av1", "libdav1d")}[codec]
        assert (stream.frames, stream.width, stream.height) == (6, 98, 66)
        assert next(container.decode(stream)).colorspace == 6  # BT.601, whatever a player would guess
    shown = decoded_video((output / path).read_bytes())
    assert [time_ns for time_ns, _ in shown] == wanted
    for (_, pixels), row in zip(shown, wide, strict=True):
        assert np.abs(pixels[10:50, 10:80].astype(int) - row[0, 0]).mean() < 8


@pytest.mark.skipif(sys.platform != "linux", reason="where threads are scheduled so")
@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_video_makes_no_thread_real_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """SVT-AV1 would, as root: the engine, and jobs started by who calls it, starved the machine."""
    before, add = os.sched_getscheduler(0), videos.Videos.add
    seen: list[int] = []

    def noted(*arguments: Any, **more: Any) -> videos.VideoFrame:
        made = add(*arguments, **more)
        seen.extend(os.sched_getscheduler(int(each.name)) for each in Path("/proc/self/task").iterdir())
        return made

    monkeypatch.setattr(videos.Videos, "add", noted)
    bag = write(tmp_path / "a.bag", {"/cam": frames(raw(picture(number)) for number in range(3))})
    extract(bag, output=tmp_path / "lake", options=options(cam=f"left_out,video={codec}"))
    assert len(seen) > 3
    assert set(seen) == {before} == {os.sched_getscheduler(0)}


def test_one_video_a_camera_and_size_over_all_bags_of_a_shard(tmp_path: Path) -> None:
    def some(first: int, count: int, **size: int) -> list[Message]:
        numbers = range(first, first + count)
        return [(START_NS + number * TICK_NS, raw(picture(number, **size))) for number in numbers]

    first = write(tmp_path / "a.bag", {"/cam": some(0, 3), "/b": some(0, 2)})
    second = write(tmp_path / "b.bag", {"/cam": some(3, 3) + some(6, 2, width=64, height=48)})
    output = tmp_path / "lake"
    extract(first, second, output=output, options=options(every="jpeg_files,video=h264"))
    found = rows(output)
    places = [(Path(row["video_path"]).stem, row["video_frame"]) for row in found]
    small, large = str(START_NS), str(START_NS + 6 * TICK_NS)
    assert places == [*((small, number) for number in range(6)), (large, 0), (large, 1)]
    assert {row["video_path"] for row in rows(output, "b")} != {row["video_path"] for row in found}
    assert len(files(output)) == 3 + 8 + 2
    for row in found:
        shown = decoded_video((output / row["video_path"]).read_bytes())
        assert shown[row["video_frame"]][0] == row["video_time_ns"]


def test_a_video_beside_what_is_recorded_changes_no_byte(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames(raw(noise(HEIGHT, WIDTH, 3)) for _ in range(3))})
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=options(cam="recorded,video=h264")))
    schema = pq.read_schema(tmp_path / "lake" / topic.files[0].path)
    assert schema.names[-4:] == ["data", "video_path", "video_frame", "video_time_ns"]
    recorded, output = roundtrip.read(bag), tmp_path / "again.mcap"
    rebuilt = rebuild(Lake(str(tmp_path / "lake")), "drive_1", str(output))
    assert rebuilt.messages == 3
    assert roundtrip.compare(recorded, roundtrip.read(output).messages) == {"equal": 3}


def test_depth_in_a_video_is_grey_from_near_to_far(tmp_path: Path) -> None:
    near_to_far = np.repeat(np.linspace(500, 4000, 64, dtype=np.uint16)[None], 64, axis=0)
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(near_to_far, "16UC1")] * 2)})
    extract(bag, output=tmp_path / "lake", options=options(cam="recorded,video=h264"))
    (path,) = files(tmp_path / "lake")
    line = decoded_video((tmp_path / "lake" / path).read_bytes())[1][1][32, :, 0].astype(int)
    assert line[0] < line[20] < line[40] < line[63]


def test_encoders_past_the_memory_limit_are_not_begun(tmp_path: Path) -> None:
    many = {f"/cam{number}": frames([raw(picture(number, width=640, height=480))]) for number in range(5)}
    manifest = extract(
        write(tmp_path / "a.bag", many),
        output=tmp_path / "lake",
        options=options(every="left_out,video=h264"),
        budget=share_out(128 << 20),
    )
    kept = [topic for topic in manifest.topics if topic.remark]
    assert 0 < len(kept) < 5
    assert "encoders of videos would take" in kept[0].remark
    assert "or raise --memory-limit to" in kept[0].remark
    assert len(files(tmp_path / "lake")) == 5 - len(kept)
    assert all(topic.rows == 1 for topic in manifest.topics)


@pytest.mark.parametrize(("codec", "width", "height"), [("h264", 16_386, 2), ("av1", 2, 8_706)])
def test_frames_larger_than_an_encoder_takes_are_kept_as_recorded(
    tmp_path: Path, codec: str, width: int, height: int
) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1, width=width, height=height))])})
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=options(cam=f"left_out,video={codec}")))
    assert topic.rows == 1
    assert f"{width:,} by {height:,} pixels are too many for a video in {codec}" in topic.remark
    assert files(tmp_path / "lake") == set()


# --- which -------------------------------------------------------------------------------------------


def test_the_rule_that_names_a_topic_wins_over_globs(tmp_path: Path) -> None:
    topics = {f"/cam/{name}": frames([raw(picture(1))]) for name in ("a", "b", "c")}
    bag = write(tmp_path / "a.bag", topics)
    arguments = ["extract", str(bag), "--output", str(tmp_path / "lake"), "--drive-id", "d"]
    rules = ["--images", "/cam/*=png", "--images", "/cam/b=recorded", "--images", "/cam/c=jpeg,max_width=16"]
    assert main([*arguments, *rules]) == ExitCode.OK
    assert opened(rows(tmp_path / "lake", "cam.a")[0]["image"]).format == "PNG"
    assert rows(tmp_path / "lake", "cam.b")[0]["data"] == picture(1).tobytes()
    assert opened(rows(tmp_path / "lake", "cam.c")[0]["image"]).size == (16, 12)


def test_rules_that_contradict_each_other_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])})
    arguments = ["extract", str(bag), "--output", str(tmp_path / "lake")]
    assert main([*arguments, "--images", "/c*=png", "--images", "*m=jpeg"]) == ExitCode.USAGE
    assert (
        "topic /cam has several rules for its images ('*m': jpeg,quality=90, '/c*': png)"
        in capsys.readouterr().err
    )
    assert main([*arguments, "--images", "/c*=png", "--images", "*m=png"]) == ExitCode.OK


def test_rules_may_contradict_each_other_on_what_has_no_pictures(tmp_path: Path) -> None:
    status = STORE.types["std_msgs/msg/String"]("ok")
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))]), "/status": frames([status])})
    extract(bag, output=tmp_path / "lake", options=options(cam="png", **{"s*": "jpeg", "*s": "png"}))
    assert rows(tmp_path / "lake", "status")[0]["data"] == "ok"


def test_a_rule_that_no_topic_with_pictures_has_is_said(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])})
    extract(bag, output=tmp_path / "lake", options=options(cam="png", other="jpeg"))
    (commit,) = Lake(str(tmp_path / "lake")).drive("drive_1").commits
    assert commit.problems == ("images: no topic with pictures matches '/other'",)
    assert commit.state == "succeeded"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("/cam", "expected GLOB=FORM"),
        ("/cam=gif", "form: expected recorded, png, jpeg, png_files, jpeg_files, left_out, not 'gif'"),
        ("/cam=png,video=mpeg", "video: expected none, h264, av1, not 'mpeg'"),
        ("/cam=png,max_width=wide", "max_width: expected a whole number up to 65,500, not 'wide'"),
        ("/cam=jpeg,quality=101", "quality: expected a whole number up to 100, not 101"),
        ("/cam=png,quality=90", "quality is JPEG's; the form is png"),
        ("/cam=left_out", "left_out keeps no picture anywhere"),
        ("/cam=recorded,max_width=10", "what is kept as recorded is not made smaller"),
        ("/cam=png,size=10", "'size' is unknown; known are form, video, max_width, max_height, quality"),
        ("/cam=png,max_width", "after the form come options of one value each"),
    ],
)
def test_what_is_no_rule_is_refused(
    tmp_path: Path, said: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["extract", "a.bag", "--output", str(tmp_path / "lake"), "--images", said]
    assert main(arguments) == ExitCode.USAGE
    assert why in json.loads(capsys.readouterr().err)["reason"]


@pytest.mark.parametrize(
    ("form", "module", "extra"), [("png", "PIL", "images"), ("recorded,video=av1", "av", "video")]
)
def test_a_package_that_is_missing_is_said_before_anything_is_done(
    tmp_path: Path, form: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])})
    plan = plan_for(bag, output=tmp_path / "lake", options=options(cam=form))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(ShardError, match=rf"'/cam'.*\[engine,{extra}\]") as caught:
        run.run_shard(plan, 0, JOB)
    assert caught.value.exit_code is ExitCode.USAGE
    assert not list((tmp_path / "lake").rglob("*.parquet"))
    images.ImageRules(options(cam="recorded").images)  # needs nothing


def test_without_rules_nothing_of_it_is_imported(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])})
    code = (
        "import sys; from ros_to_parquet.cli import main; "
        f"assert main(['extract', {str(bag)!r}, '--output', {str(tmp_path / 'lake')!r}]) == 0; "
        "assert not {'PIL', 'av'} & sys.modules.keys()"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def run_python(code: str) -> Any:
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


# --- nothing is left over ----------------------------------------------------------------------------


def test_files_of_killed_tries_are_swept_by_the_commit(tmp_path: Path) -> None:
    bag, output = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])}), tmp_path / "lake"
    dead = output / "_files" / "cam" / "drive_id=drive_1" / "feedfeedfeed-00000"
    other_table = output / "_files" / "gone" / "drive_id=drive_1" / "feedfeedfeed-00000"
    other_drive = output / "_files" / "cam" / "drive_id=drive_2" / "feedfeedfeed-00000"
    for folder in (dead, other_table, other_drive):
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"x")
    extract(bag, output=output, options=options(cam="png_files"))
    (row,) = rows(output)
    assert files(output) == {row["image_path"], str((other_drive / "1.png").relative_to(output))}


def test_overwrite_replaces_files_with_the_rows(tmp_path: Path) -> None:
    bag, output = (
        write(tmp_path / "a.bag", {"/cam": frames(map(raw, map(picture, range(3))))}),
        tmp_path / "lake",
    )
    extract(bag, output=output, options=options(cam="png_files,video=h264"))
    before = files(output)
    with pytest.raises(ShardError, match=r"rows of a\.bag are in the lake already"):
        plan_for(bag, output=output, options=options(cam="jpeg_files"))
    assert plan_for(bag, output=output, options=options(cam="png_files,video=h264")).shards == ()
    extract(bag, output=output, options=options(cam="jpeg_files"), overwrite=True)
    assert files(output) == {row["image_path"] for row in rows(output)}
    assert not files(output) & before
    extract(bag, output=output, overwrite=True)
    assert files(output) == set()


@pytest.mark.parametrize("puts", [0, 3])
def test_an_error_leaves_no_file(tmp_path: Path, puts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bag, output = (
        write(tmp_path / "a.bag", {"/cam": frames(map(raw, map(picture, range(9))))}),
        tmp_path / "lake",
    )
    put, done = LocalStorage.write, []

    def failing(storage: LocalStorage, uri: str, data: bytes) -> None:
        if "_files" in uri and len(done) >= puts:
            raise StorageError(f"{uri}: no space left")
        done.append(uri)
        put(storage, uri, data)

    chosen = options(cam="png_files,video=h264")
    plan = plan_for(bag, output=output, options=chosen)
    with monkeypatch.context() as broken:
        broken.setattr(LocalStorage, "write", failing)
        with pytest.raises(StorageError, match="no space left"):
            run.run_shard(plan, 0, JOB)
    assert files(output) == set()
    assert not list(output.rglob(".partial*"))
    run.run_shard(plan, 0, JOB)
    assert len(files(output)) == 10
    assert len(rows(output)) == 9


def test_of_two_tries_of_a_shard_the_files_of_one_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is slow: the other has ended when it comes to its manifest."""
    bag, output = (
        write(tmp_path / "a.bag", {"/cam": frames(map(raw, map(picture, range(3))))}),
        tmp_path / "lake",
    )
    plan = plan_for(bag, output=output, options=options(cam="png_files"))
    commit = run._commit

    def overtaken(storage: Any, plan: Any, manifest: Manifest, number: int) -> Manifest:
        with monkeypatch.context() as undone:
            undone.setattr(run, "_commit", commit)
            run._try_shard(storage, plan, 0, JOB, budget=share_out(1 << 30), progress=lambda _: None)
        assert len(files(output)) == 3  # of the one that has ended; this one's are gone
        return commit(storage, plan, manifest, number)

    monkeypatch.setattr(run, "_commit", overtaken)
    manifest = run.run_shard(plan, 0, JOB)
    assert contract.folders_of(manifest)[0].endswith("-00000-try2")
    assert files(output) == {row["image_path"] for row in rows(output)}
    assert len(files(output)) == 3


def test_a_second_try_removes_what_the_first_has_left(tmp_path: Path) -> None:
    bag, output = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])}), tmp_path / "lake"
    two = write(tmp_path / "b.bag", {"/cam": [(START_NS + 10**12, raw(picture(2)))]})
    plan = plan_for(bag, two, output=output, options=options(cam="png_files"))
    name = contract.shard_name(plan.plan_id, 0)
    started = output / contract.started_key("drive_1", plan.plan_id, 0)
    started.parent.mkdir(parents=True, exist_ok=True)
    started.write_bytes(contract.to_json(contract.StartedRecord(plan.plan_id, 0, "", 1, "", "2026-01-01")))
    left = output / contract.files_folder("cam", "drive_1", name) / "1.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    manifest = run.run_shard(plan, 0, JOB)
    assert contract.folders_of(manifest) == [contract.files_folder("cam", "drive_1", f"{name}-try2")]
    assert not left.exists()


def test_a_shard_that_comes_too_late_takes_its_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag, output = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])}), tmp_path / "lake"
    plan = plan_for(bag, output=output, options=options(cam="png_files"))
    commit = run._commit

    def overtaken(storage: Any, plan: Any, manifest: Manifest, number: int) -> Manifest:
        word = contract.take_over(plan, [], contract.Run("", "another"))
        storage.create(
            f"{output}/{contract.drive_manifest_key('drive_1', plan.plan_id)}", contract.to_json(word)
        )
        return commit(storage, plan, manifest, number)

    monkeypatch.setattr(run, "_commit", overtaken)
    with pytest.raises(ShardError, match="too late"):
        run.run_shard(plan, 0, JOB)
    assert files(output) == set()
    assert not list(output.rglob("*.parquet"))


def test_a_listing_of_files_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drive may have millions of them: only folders that no manifest names are looked into."""
    bag, output = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])}), tmp_path / "lake"
    listed: list[str] = []
    objects = LocalStorage.objects

    def noted(storage: LocalStorage, folder: str) -> Any:
        listed.append(folder)
        return objects(storage, folder)

    monkeypatch.setattr(LocalStorage, "objects", noted)
    extract(bag, output=output, options=options(cam="png_files"))
    assert not [folder for folder in listed if "/_files/" in folder]


# --- beside the rest ---------------------------------------------------------------------------------


def test_transforms_get_the_rows_with_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames(map(raw, map(picture, range(3))))})
    code = """
    def sized(rows, topic):
        return rows.select(["log_time", "log_time_ns", "image_path", "image_width"])
    """
    install(tmp_path / "site", code, {"sized": "sized"})
    monkeypatch.syspath_prepend(tmp_path / "site")
    chosen = ExtractOptions(
        images=options(cam="png_files").images, transforms=contract.transform_rules({"/cam": "sized"})
    )
    topic = one_topic(extract(bag, output=tmp_path / "lake", options=chosen))
    assert topic.transform is not None
    assert [row["image_width"] for row in rows(tmp_path / "lake")] == [WIDTH] * 3


@pytest.mark.parametrize("form", ["png", "png_files", "png_files,video=h264"])
def test_lossless_pictures_come_back_byte_for_byte(tmp_path: Path, form: str) -> None:
    """Of raw images, what PNG keeps whole; of compressed ones the files that stayed as they were."""
    size = (HEIGHT, WIDTH)
    exact = [
        *(raw(noise(*size, 3), encoding) for encoding in ("rgb8", "bgr8", "8UC3")),
        *(raw(noise(*size, 4), encoding) for encoding in ("rgba8", "bgra8")),
        *(raw(noise(*size, 6).view("<u2"), encoding) for encoding in ("rgb16", "bgr16")),
        raw(noise(*size, 8).view("<u2"), "bgra16"),
        *(raw(noise(*size, 2).view("<u2")[:, :, 0], encoding) for encoding in ("mono16", "16UC1")),
        raw(noise(*size), "mono8"),
    ]
    files = [compressed(file_of(noise(*size, 3), "PNG"), "rgb8; png compressed") for _ in range(40)]
    topics = {f"/raw{number}": frames([message] * 2) for number, message in enumerate(exact)}
    bag = write(tmp_path / "a.bag", {**topics, "/compressed": frames(files)})
    extract(bag, output=tmp_path / "lake", options=options(every=form))
    assert all(row["image_is_exact"] for row in rows(tmp_path / "lake", "compressed"))
    recorded, output = roundtrip.read(bag), tmp_path / "again.mcap"
    rebuilt = rebuild(Lake(str(tmp_path / "lake")), "drive_1", str(output))
    assert sum(topic.unwritten for topic in rebuilt.topics) == 0
    assert roundtrip.compare(recorded, roundtrip.read(output).messages) == {"equal": 2 * len(exact) + 40}


def test_big_endian_pixels_come_back(tmp_path: Path) -> None:
    message = raw(noise(HEIGHT, WIDTH, 6).view(">u2"), "rgb16")
    message.is_bigendian = 1
    bag = write(tmp_path / "a.bag", {"/cam": frames([message])})
    extract(bag, output=tmp_path / "lake", options=options(cam="png"))
    (row,) = rows(tmp_path / "lake")
    assert row["image_is_exact"]
    output = tmp_path / "again.mcap"
    rebuild(Lake(str(tmp_path / "lake")), "drive_1", str(output))
    assert roundtrip.compare(roundtrip.read(bag), roundtrip.read(output).messages) == {"equal": 1}


def inexact_messages() -> list[Any]:
    padded = raw(noise(HEIGHT, WIDTH, 3))
    padded.step, padded.data = WIDTH * 3 + 4, np.resize(padded.data, (WIDTH * 3 + 4) * HEIGHT)
    longer = raw(noise(HEIGHT, WIDTH, 3))
    longer.data = np.append(longer.data, np.uint8(7))
    return [
        padded,
        longer,
        raw(noise(HEIGHT, WIDTH), "bayer_rggb8"),
        raw(noise(HEIGHT, WIDTH, 2), "yuyv"),
        raw(noise(HEIGHT, WIDTH).astype(np.float32), "32FC1"),
    ]


def test_rebuild_says_what_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = file_of(noise(HEIGHT, WIDTH).astype(np.uint16), "PNG")
    depth = compressed(bytes(12) + png, "16UC1; compressedDepth png")
    topics = {
        "/cam": frames([*inexact_messages(), raw(noise(4, 4), "8UC7"), raw(noise(4, 4), "8UC1")]),
        "/depth": frames([depth]),
        "/b": frames([raw(picture(2))]),
    }
    bag, output = write(tmp_path / "a.bag", topics), tmp_path / "again.mcap"
    extract(
        bag, output=tmp_path / "lake", options=options(cam="png_files", depth="png", b="left_out,video=h264")
    )
    arguments = ["rebuild", str(tmp_path / "lake"), "--drive-id", "drive_1", "--output", str(output)]
    assert main(arguments) == ExitCode.OK
    said = capsys.readouterr().out
    for topic, count, form in (("/cam", 5, "png_files"), ("/depth", 1, "png"), ("/b", 1, "left_out")):
        assert (
            f"! {topic}: {count} messages are pictures that are not as recorded (images: {form}): not" in said
        )
    # The one of an encoding that is not known was kept as recorded; the last one is exact.
    kept = {each.payload for each in roundtrip.read(output).messages}
    assert len(kept) == 2
    assert kept <= {each.payload for each in roundtrip.read(bag).messages}


def test_rebuild_of_resized_or_jpeg_pictures_is_refused_by_name(tmp_path: Path) -> None:
    jpeg = compressed(file_of(noise(HEIGHT, WIDTH, 3)))
    bag = write(tmp_path / "a.bag", {"/raw": frames([raw(picture(1))]), "/jpeg": frames([jpeg])})
    extract(bag, output=tmp_path / "lake", options=options(every="jpeg,max_width=16"))
    with pytest.raises(RebuildError, match=r"nothing to rebuild: messages are pictures .* \(images: jpeg\)"):
        rebuild(Lake(str(tmp_path / "lake")), "drive_1", str(tmp_path / "again.mcap"))
    extract(bag, output=tmp_path / "lake", options=options(every="jpeg"), overwrite=True)
    rebuilt = rebuild(Lake(str(tmp_path / "lake")), "drive_1", str(tmp_path / "again.mcap"))
    assert [(topic.topic, topic.messages, topic.unwritten) for topic in rebuilt.topics] == [
        ("/jpeg", 1, 0),
        ("/raw", 0, 1),
    ]


def test_a_picture_that_is_gone_is_said_by_rebuild(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames([raw(picture(1))])})
    extract(bag, output=tmp_path / "lake", options=options(cam="png_files"))
    (path,) = files(tmp_path / "lake")
    (tmp_path / "lake" / path).unlink()
    with pytest.raises(RebuildError, match=f"{path}: a file of the drive cannot be read"):
        rebuild(Lake(str(tmp_path / "lake")), "drive_1", str(tmp_path / "again.mcap"))


def test_the_report_shows_pictures_wherever_they_are(tmp_path: Path) -> None:
    names = {
        "table": "png",
        "beside": "jpeg_files",
        "kept": "recorded,video=h264",
        "film": "left_out,video=h264",
    }
    bag = write(tmp_path / "a.bag", {f"/{name}": frames([raw(picture(1))]) for name in names})
    extract(bag, output=tmp_path / "lake", options=options(**names))
    _, page = make_report(Lake(str(tmp_path / "lake")), "drive_1")
    assert page.count("data:image/jpeg") == 3
    assert "it is in a video alone: _files/film/" in page


def test_the_command_line_as_a_process(tmp_path: Path) -> None:
    bag = write(tmp_path / "a.bag", {"/cam": frames(map(raw, map(picture, range(3))))})
    done = cli("extract", bag, "--output", tmp_path / "lake", "--images", "/cam=jpeg_files,video=av1")
    assert done.returncode == 0, done.stderr
    assert "Svt" not in done.stderr
    assert len(files(tmp_path / "lake")) == 4


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("klintan+rosbag2.js/sample.db3", 2),
        ("rosbag-sharing-community+amber/soccer_goal_12.mcap", 2),
        ("UbiquityRobotics+fiducials/aruco_images.bag", 1),
    ],
)
def test_pictures_of_real_bags(tmp_path: Path, name: str, count: int) -> None:
    if not (REAL_BAGS / name).exists():
        pytest.skip("the real bags are not here")
    output = tmp_path / "lake"
    manifest = extract(
        REAL_BAGS / name, output=output, options=options(every="png_files,max_height=240,video=h264")
    )
    for topic in manifest.topics:
        assert topic.messages == topic.rows + topic.rejected
        assert topic.remark == ""
    pictures = [path for path in files(output) if path.endswith(".png")]
    assert len(pictures) == count
    for path in pictures:
        with Image.open(output / path) as made:
            assert made.height == 240
            assert len(made.convert("RGB").getcolors(1 << 24) or ()) > 100
    shutil.rmtree(output)
    assert lake is not None
