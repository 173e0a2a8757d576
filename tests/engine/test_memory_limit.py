"""The memory limit on input made to break it: whole processes, peak memory above that of an empty bag."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import lz4.frame
import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard

from ros_to_parquet.cli import main
from ros_to_parquet.contract import ExitCode, Manifest
from ros_to_parquet.lake import Lake
from ros_to_parquet.memory import LEAST_LIMIT_BYTES, share_out
from ros_to_parquet.storage import LocalStorage, open_storage
from ros_to_parquet.storage.fsspec_files import FsspecFiles
from tests.engine.bag.bag_bytes import (
    MCAP_MAGIC,
    T0,
    mcap_attachment,
    mcap_channel,
    mcap_header,
    mcap_message,
    mcap_record,
    mcap_schema,
    ros1_bag_header,
    ros1_connection,
    ros1_fields,
    ros1_message,
    text,
    u32,
)
from tests.engine.installed import install
from tests.engine.test_images import compressed as compressed_image
from tests.engine.test_images import file_of as image_file
from tests.engine.test_images import frames as image_frames
from tests.engine.test_images import png_claiming
from tests.engine.test_images import raw as raw_image
from tests.engine.test_images import write as write_images

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

LIMIT_BYTES = 192 << 20
S3_CLIENT_BYTES = 24 << 20
"""What importing it takes, which a local bag does not."""

BLOB = "uint8[] data\n"
TEXT = "string data\n"
CDR = b"\0\1\0\0"


# --- whole processes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extracted:
    """``above_bytes``: peak resident memory above that of a bag without messages."""

    manifest: Manifest
    above_bytes: int

    @property
    def counts(self) -> tuple[int, int]:
        topics = self.manifest.topics
        return sum(topic.rows for topic in topics), sum(topic.rejected for topic in topics)

    @property
    def reason(self) -> str:
        return self.manifest.topics[0].rejects[0].reason


def peak_bytes(
    bag: Path | str,
    output: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    limit_bytes: int = LIMIT_BYTES,
    options: Sequence[str] = (),
    timeout_s: float = 120,
) -> int:
    """A child's peak is at least its parent's when it was started: so a small shell of nothing starts it."""
    command = [sys.executable, "-m", "ros_to_parquet", "extract", str(bag), "--output", str(output)]
    command += ["--drive-id", "d", "--memory-limit", str(limit_bytes), *options]
    small = (
        "import os, sys; child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); "
        "_, status, usage = os.wait4(child, 0); "
        "print(os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@"', "sh", sys.executable, "-S", "-c", small, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    code, peak = done.stdout.split()[-2:]
    assert code == "0", done.stderr
    return int(peak)


@pytest.fixture(scope="module")
def nothing_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What an extraction takes of a bag without messages."""
    folder = tmp_path_factory.mktemp("nothing")
    write_mcap(folder / "a.mcap", {"/a": BLOB}, iter(()))
    return peak_bytes(folder / "a.mcap", str(folder / "lake"))


Extract = Callable[[Path], Extracted]


@pytest.fixture
def extract(tmp_path: Path, nothing_bytes: int) -> Extract:
    def run(bag: Path) -> Extracted:
        output = tmp_path / "lake"
        peak = peak_bytes(bag, str(output))
        return Extracted(Lake(str(output)).drive("d").manifests[0], peak - nothing_bytes)

    return run


# --- bags, written a piece at a time -----------------------------------------------------------------


def write_mcap(path: Path, topics: dict[str, str], messages: Iterator[tuple[int, bytes]]) -> Path:
    """Messages outside of chunks: (number of the topic, payload)."""
    with path.open("wb") as file:
        file.write(MCAP_MAGIC + mcap_header())
        for number, (topic, definition) in enumerate(topics.items()):
            file.write(mcap_schema(number + 1, f"test/T{number}", "ros2msg", definition))
            file.write(mcap_channel(number, number + 1, topic))
        for count, (number, payload) in enumerate(messages):
            file.write(mcap_message(number, count, T0 + count, payload))
        file.write(MCAP_END)
    return path


MCAP_END = mcap_record(15, u32(0)) + mcap_record(2, struct.pack("<QQI", 0, 0, 0)) + MCAP_MAGIC


def blob(size: int, seed: int = 1) -> bytes:
    return CDR + u32(size) + np.random.default_rng(seed).bytes(size)


def string(size: int) -> bytes:
    return CDR + u32(size + 1) + b"a" * size + b"\0"


# --- what must fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "definition", "payload", "count"),
    [
        ("images", BLOB, blob(5 << 20), 30),
        ("a message of almost a quarter", BLOB, blob(47 << 20), 3),
        ("text of almost a quarter", TEXT, string(47 << 20), 2),
    ],
)
def test_large_messages(
    tmp_path: Path, extract: Extract, name: str, definition: str, payload: bytes, count: int
) -> None:
    done = extract(write_mcap(tmp_path / "a.mcap", {"/a": definition}, repeat((0, payload), count)))
    assert done.counts == (count, 0)
    assert done.above_bytes < LIMIT_BYTES, f"{name}: {done.above_bytes >> 20} MiB"


def test_a_message_that_is_too_large_is_a_reject(tmp_path: Path, extract: Extract) -> None:
    """And what is around it is read."""
    payloads = [blob(1000), CDR + u32(300_000_000) + bytes(300_000_000), blob(2000)]
    done = extract(write_mcap(tmp_path / "a.mcap", {"/a": BLOB}, iter([(0, each) for each in payloads])))
    assert done.counts == (2, 1) and done.above_bytes < 32 << 20
    assert done.reason == (
        "300,000,008 bytes long or more, larger than 50,331,648 (a quarter of the memory limit): "
        "raise --memory-limit to 1145MiB"
    )
    assert done.manifest.topics[0].rejects[0].log_time_ns == T0 + 1
    assert done.manifest.memory_limit_bytes == LIMIT_BYTES


def test_a_message_that_grows_when_it_is_written_is_a_reject(tmp_path: Path, extract: Extract) -> None:
    """A grid of 40 MiB: Parquet's levels and integers of it are 16 times as much."""
    payload = CDR + u32(40 << 20) + bytes(40 << 20)
    done = extract(write_mcap(tmp_path / "a.mcap", {"/a": "int8[] data\n"}, repeat((0, payload), 2)))
    assert done.counts == (0, 2) and done.above_bytes < LIMIT_BYTES
    assert "to write as columns" in done.reason and "raise --memory-limit to" in done.reason


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_one_chunk_of_all(tmp_path: Path, extract: Extract, compression: str) -> None:
    head = ros1_connection(0, "/a", "test/T", BLOB)
    random = np.random.default_rng(1).bytes(20_000)
    piece = b"".join(
        ros1_message(0, T0 + number, u32(60_000) + random + bytes(40_000)) for number in range(100)
    )
    pieces = 60
    compressor = lz4.frame.LZ4FrameCompressor()
    fields = ros1_fields(
        op=b"\5", compression=compression.encode(), size=u32(len(head) + pieces * len(piece))
    )
    with (tmp_path / "a.bag").open("wb") as file:
        file.write(b"#ROSBAG V2.0\n" + ros1_bag_header(0, 0, 0) + u32(len(fields)) + fields)
        place = file.tell()
        file.write(u32(0))
        if compression == "lz4":
            file.write(compressor.begin() + compressor.compress(head))
            for _ in range(pieces):
                file.write(compressor.compress(piece))
            file.write(compressor.flush())
        else:
            file.write(head)
            for _ in range(pieces):
                file.write(piece)
        size = file.tell() - place - 4
        file.seek(place)
        file.write(u32(size))
    done = extract(tmp_path / "a.bag")
    assert done.counts == (100 * pieces, 0) and done.above_bytes < LIMIT_BYTES


def test_a_million_tiny_messages_in_one_chunk(tmp_path: Path, extract: Extract) -> None:
    thousand = b"".join(mcap_message(0, n, T0 + n, CDR + b"\1") for n in range(1000))
    head = mcap_schema(1, "test/T", "ros2msg", "bool b\n") + mcap_channel(0, 1, "/a")
    content = head + 1000 * thousand
    stored = zstandard.compress(content)
    body = struct.pack("<QQQI", T0, T0, len(content), 0) + text("zstd") + struct.pack("<Q", len(stored))
    (tmp_path / "a.mcap").write_bytes(MCAP_MAGIC + mcap_header() + mcap_record(6, body + stored) + MCAP_END)
    done = extract(tmp_path / "a.mcap")
    assert done.counts == (1_000_000, 0) and done.above_bytes < LIMIT_BYTES


def many_topics(path: Path, topics: int, payload: bytes, rounds: int, definition: str = BLOB) -> Path:
    names = {f"/topic_{number}": definition for number in range(topics)}
    return write_mcap(path, names, ((count % topics, payload) for count in range(topics * rounds)))


def test_many_topics_with_large_messages(tmp_path: Path, extract: Extract) -> None:
    """Their rows wait on disk: each table has one row group, where memory alone would make three."""
    done = extract(many_topics(tmp_path / "a.mcap", 150, blob(600_000), 3))
    assert done.counts == (450, 0) and done.above_bytes < LIMIT_BYTES
    files = [tmp_path / "lake" / file.path for topic in done.manifest.topics for file in topic.files]
    assert {pq.read_metadata(path).num_row_groups for path in files} == {1}


@pytest.mark.slow
def test_two_thousand_topics(tmp_path: Path, extract: Extract) -> None:
    definition = "float64 x\nfloat64 y\nuint8[] b\n"
    payload = CDR + struct.pack("<dd", 1.5, 2.5) + u32(3000) + bytes(3000)
    done = extract(many_topics(tmp_path / "a.mcap", 2000, payload, 20, definition))
    assert done.counts == (40_000, 0) and done.above_bytes < LIMIT_BYTES, done.above_bytes >> 20


def test_what_comes_out_of_a_transform(tmp_path: Path, nothing_bytes: int) -> None:
    sizes = [20_000] * 8000 + [30_000_000] * 3
    bag = write_mcap(tmp_path / "a.mcap", {"/a": BLOB}, ((0, blob(size)) for size in sizes))
    # Of the small ones a slice, which would keep its whole batch in memory; large ones twice.
    code = """
    def some(rows, topic):
        large = rows["data"].nbytes > 16 << 20
        return [rows, rows] if large else rows.slice(0, max(1, rows.num_rows // 8))
    """
    install(tmp_path / "site", code, {"some": "some"})
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    output = str(tmp_path / "lake")
    peak = peak_bytes(bag, output, environment, options=("--transform", "*=some"))
    (topic,) = Lake(output).drive("d").manifests[0].topics
    assert topic.transform is not None
    assert (topic.rows, topic.rejected) == (8003, 0)
    small, large = topic.files
    assert (large.rows, small.rows + large.rows) == (6, topic.transform.rows_out)
    assert 600 < small.rows < 1600
    assert pq.read_metadata(tmp_path / "lake" / small.path).num_row_groups < 8
    assert peak - nothing_bytes < LIMIT_BYTES


VIDEO_LIBRARY_BYTES = 48 << 20


@pytest.mark.parametrize(
    ("rule", "limit_bytes"),
    [("png", LEAST_LIMIT_BYTES), ("recorded,video=h264", LIMIT_BYTES)],
)
def test_pictures(tmp_path: Path, nothing_bytes: int, rule: str, limit_bytes: int) -> None:
    """As large as the limit takes, some that claim to be larger, and many at a time."""
    noise = np.random.default_rng(1).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    jpeg, huge = image_file(noise), png_claiming(100_000, 100_000)
    topics = {
        "/raw": [raw_image(noise)] * 4,
        "/jpeg": [compressed_image(jpeg)] * 10 + [compressed_image(huge)] * 3,
        "/small": [raw_image(noise[:480, :640])] * 30,
    }
    bag = write_images(tmp_path / "a.bag", {topic: image_frames(some) for topic, some in topics.items()})
    output = str(tmp_path / "lake")
    peak = peak_bytes(bag, output, limit_bytes=limit_bytes, options=("--images", f"*={rule}"))
    results = {topic.topic: topic for topic in Lake(output).drive("d").manifests[0].topics}
    assert {name: (each.rows, each.rejected) for name, each in results.items()} == {
        name: (len(some), 0) for name, some in topics.items()
    }
    if "video" in rule:  # there is an encoder for two of three
        assert peak - nothing_bytes < limit_bytes + VIDEO_LIBRARY_BYTES, (peak - nothing_bytes) >> 20
        assert sum(len(each.beside) for each in results.values()) == 2
        return
    assert peak - nothing_bytes < limit_bytes, (peak - nothing_bytes) >> 20
    assert (results["/raw"].remark, results["/small"].remark) == ("", "")
    assert results["/jpeg"].remark.startswith(
        "3 pictures are kept as recorded, in the column data: 100,000 by"
    )


@pytest.mark.parametrize("packed", [True, False])
def test_many_bags(tmp_path: Path, extract: Extract, packed: bool) -> None:
    """Of a message a topic, and with attachments: more in all than the limit."""
    folder = tmp_path / "bags"
    folder.mkdir()
    for number in range(300):
        messages = [mcap_message(topic, 0, T0 + number * 10 + topic, CDR + b"\1") for topic in range(10)]
        channels = [mcap_channel(topic, 1, f"/topic_{topic}") for topic in range(10)]
        attachment = mcap_attachment("calibration.yaml", bytes([number % 250]) * 900_000)
        (folder / f"recording_of_a_drive_{number:03}.mcap").write_bytes(
            b"".join([MCAP_MAGIC, mcap_header(), mcap_schema(1, "test/T", "ros2msg", "bool b\n"), *channels])
            + b"".join([*messages, attachment, MCAP_END])
        )
    if packed:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for bag in sorted(folder.iterdir()):
                archive.write(bag, bag.name)
    done = extract(tmp_path / "a.zip" if packed else folder)
    assert done.counts == (3000, 0) and done.above_bytes < LIMIT_BYTES, done.above_bytes >> 20
    kept = [attachment for bag in done.manifest.bags for attachment in bag.attachments]
    assert len(kept) == 300
    last = kept[-1]
    content = (tmp_path / "lake" / last.path).read_bytes()
    assert content == bytes([299 % 250]) * 900_000


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    """As many topics as a process may usually open files; in this process, whose files can be counted."""
    most = 0
    uploads = [LocalStorage().upload(str(tmp_path / str(number))) for number in range(1100)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for content in (b"one ", b"two"):
        for upload in uploads:
            upload.write(content)
        most = max(most, len(list(Path("/proc/self/fd").iterdir())))
    for upload in uploads:
        upload.publish()
    assert most <= before + 130
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"one two"}


def test_to_a_store(tmp_path: Path, embedded_aws: EmbeddedAws, nothing_bytes: int) -> None:
    bucket = f"memory-{uuid.uuid4().hex[:12]}"
    embedded_aws.client("s3").create_bucket(Bucket=bucket)
    bag = many_topics(tmp_path / "a.mcap", 30, blob(2_000_000), 3)
    embedded_aws.client("s3").put_object(Bucket=bucket, Key="in/a.mcap", Body=bag.read_bytes())
    output = f"s3://{bucket}/lake"
    peak = peak_bytes(f"s3://{bucket}/in/a.mcap", output, embedded_aws.environment(), LEAST_LIMIT_BYTES)
    assert peak - nothing_bytes < LEAST_LIMIT_BYTES + S3_CLIENT_BYTES


def test_a_store_is_asked_for_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several requests are in flight, so each of them is of a size that the limit has room for."""
    pytest.importorskip("fsspec")
    asked: list[int] = []
    reader = FsspecFiles.reader

    def noted(files: FsspecFiles, uri: str) -> Callable[[int, int], bytes]:
        fetch = reader(files, uri)

        def fetched(start: int, end: int) -> bytes:
            asked.append(end - start)
            return fetch(start, end)

        return fetched

    uri = f"memory://{uuid.uuid4().hex}/a.mcap"
    open_storage(uri).write(uri, many_topics(tmp_path / "a.mcap", 2, blob(500_000), 20).read_bytes())
    monkeypatch.setattr(FsspecFiles, "reader", noted)
    arguments = ["--output", str(tmp_path / "lake"), "--drive-id", "d", "--memory-limit", "128MiB"]
    assert main(["extract", uri, *arguments]) == ExitCode.OK
    assert max(asked) == share_out(LEAST_LIMIT_BYTES).window == 1 << 20
    assert sum(asked) < 21_000_000
