"""Reports of drives that are too large to be read: samples, time that is up, bounded pages and memory."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ros_to_parquet import contract, lake, run
from ros_to_parquet.cli import main
from ros_to_parquet.contract import BagSlice, ExitCode, ExtractOptions
from ros_to_parquet.lake import Lake
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.memory import LEAST_LIMIT_BYTES
from ros_to_parquet.report import drive as drives
from ros_to_parquet.report import page, rates, tables
from ros_to_parquet.report.drive import Drive, Topic, TopicFile, describe_scan
from ros_to_parquet.report.make import make_report
from ros_to_parquet.report.rates import measure_rate
from ros_to_parquet.report.series import find_series
from ros_to_parquet.report.tables import TIMES, Tables
from ros_to_parquet.report.track import find_track
from ros_to_parquet.storage import LocalStorage
from tests.engine.test_report import SECOND_NS, TYPES, extracted, fix, header, number_message, write

SHARDS = 20
A_SHARD = 50
"""Messages of a topic: ten a second."""

PAUSE_AFTER = 7
"""The shard after which nothing was recorded for half a minute."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A drive of as many shards as bags, each with five seconds of numbers and fixes."""
    folder = tmp_path_factory.mktemp("many")
    for shard in range(SHARDS):
        begin = shard * A_SHARD * SECOND_NS // 10 + (30 * SECOND_NS if shard > PAUSE_AFTER else 0)
        messages = []
        for number in range(A_SHARD):
            at = begin + number * SECOND_NS // 10
            count = shard * A_SHARD + number
            messages.append((at, "/number", number_message(float(count))))
            messages.append((at + 1, "/fix", fix(48 + count * 1e-5, 9.0)))
        write(folder / f"{shard:02}.bag", messages)
    plan = make_plan(
        [str(folder)],
        output=str(folder / "lake"),
        drive_id="d",
        options=ExtractOptions(),
        overwrite=False,
        take_over=False,
    )
    plan = dataclasses.replace(plan, shards=tuple((BagSlice(number),) for number in range(SHARDS)))
    for shard in range(SHARDS):
        run.run_shard(plan, shard, run.JobIdentity("job", 1, ""))
    # As a shard leaves it that was begun and reclaimed.
    again = contract.started_key("d", plan.plan_id, 3, 2)
    Path(plan.output, again).write_bytes(b"{}")
    return Lake(plan.output)


def described(of: Lake) -> Drive:
    return describe_scan("d", lake.scan_drive(LocalStorage(), of.uri, "d"))


def topic_of(drive: Drive, name: str) -> Topic:
    (topic,) = (each for each in drive.topics if each.name == name)
    return topic


def few_files(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(tables, "LEAST_OPENED_A_TOPIC", count)
    monkeypatch.setattr(tables, "MOST_OPENED_A_TOPIC", count)


def test_a_sample_of_files_tells_the_rate_of_all(many: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = described(many)
    topic, axis = topic_of(drive, "/number"), drive.time_axis()
    whole = measure_rate(Tables(many.uri), axis, topic)
    few_files(monkeypatch, 5)
    some = measure_rate(Tables(many.uri), axis, topic)
    assert (whole.share, some.share) == (1.0, 5 / SHARDS)
    assert whole.counts.sum() == topic.messages
    # Of what was not read the manifests know how many and when.
    assert some.counts.sum() == pytest.approx(topic.messages, rel=0.01)
    assert np.corrcoef(whole.counts.reshape(-1, 9).sum(1), some.counts.reshape(-1, 9).sum(1))[0, 1] > 0.9
    (gap,) = some.gaps
    assert gap == whole.gaps[0]
    assert gap.seconds == pytest.approx(30.1)


def test_a_sample_is_said_and_what_it_shows_spans_the_drive(
    many: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_files(monkeypatch, 4)
    drive = described(many)
    track = find_track(Tables(many.uri), drive)
    assert track is not None
    assert track.share == 4 / SHARDS
    assert track.north_m.max() > 0.8 * 1.11 * SHARDS * A_SHARD
    found = find_series(Tables(many.uri), drive, drive.time_axis())
    assert found.shares == {"/fix": 0.2, "/number": 0.2}
    (number,) = (group for group in found.groups if group.topic.name == "/number")
    assert np.nanmin(number.lines[0].least) < 0.2 * SHARDS * A_SHARD
    assert np.nanmax(number.lines[0].most) > 0.8 * SHARDS * A_SHARD
    text = make_report(many, "d")[1]
    assert text.count("an evenly spread sample was read, of the largest 20 % of the messages") == 3
    assert f"{2 * SHARDS * A_SHARD:,} messages = " in text


def test_of_very_many_shards_some_files_are_kept(many: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drives, "MOST_PARTS", 6)
    drive = described(many)
    topic = topic_of(drive, "/number")
    assert [part.number for part in topic.parts] == [0, 4, 8, 12, 16]
    assert len(topic.spans) == SHARDS
    rate = measure_rate(Tables(many.uri), drive.time_axis(), topic)
    assert rate.share == 5 / SHARDS
    assert rate.counts.sum() == pytest.approx(topic.messages, rel=0.01)
    assert [round(gap.seconds) for gap in rate.gaps] == [30], "no gap where parts were left out"


def test_row_groups_of_one_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = np.arange(10_000, dtype=np.int64) * (SECOND_NS // 100)
    rows = pa.table({TIMES: times, "data": times.astype(np.float64)})
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=500)
    read = Tables(str(tmp_path))
    files = [TopicFile("x.parquet", 10_000)]
    groups = list(read.row_groups(files, lambda _: [TIMES], most_rows=2_000))
    assert len(groups) == 20
    assert [number for number, group in enumerate(groups) if group.batches is not None] == [2, 7, 12, 17]
    assert [group.follows for group in groups[:4]] == [True, False, False, True]
    assert groups[1].times_ns == (int(times[500]), int(times[999]))
    monkeypatch.setattr(rates, "MOST_ROWS", 2_000)
    topic = Topic(
        *("/x", "x", "T", (), 10_000, 10_000, 0, 0, 0, 0, int(times[-1]), ()),
        np.array([[0, times[-1], 10_000]]),
        (drives.TopicPart(0, 0, int(times[-1]), tuple(files)),),
        (),
        transformed=False,
    )
    axis = drives.make_axis([(0, int(times[-1]))])
    rate = measure_rate(read, axis, topic)
    assert (rate.share, rate.gaps, rate.out_of_order) == (0.2, (), 0)
    assert rate.usual_s == pytest.approx(0.01, rel=0.02)
    assert rate.counts.sum() == pytest.approx(10_000, rel=0.02)
    assert rate.counts[1:-1].std() < 2


def test_bags_and_shards_with_what_they_took(many: Lake) -> None:
    drive = described(many)
    assert [shard.tries for shard in drive.shards[:5]] == [1, 1, 1, 2, 1]
    bag = drive.bags[3]
    assert (bag.name, bag.shards, bag.tries) == ("03.bag", 1, 2)
    assert bag.seconds == pytest.approx(drive.shards[3].seconds)
    assert bag.peak_memory_bytes == drive.shards[3].peak_memory_bytes > 0
    text = make_report(many, "d")[1]
    assert f"{SHARDS} shards took " in text
    assert f"in {SHARDS + 1} tries" in text
    assert re.search(r'<td class="number"><span class="bad">2</span></td><td>job</td>', text)


def test_time_that_is_up_leaves_a_report_that_says_so(many: Lake) -> None:
    drive, text = make_report(many, "d", ends_at=time.monotonic())
    assert f"{drive.rows:,} rows + 0 rejects" in text
    assert "Time was up before all of this was read" in text
    assert text.count('class="strip"') == 0
    assert "2 more topics are not shown" in text


def test_a_page_that_would_be_too_large_shows_less(many: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_report(many, "d")[1]
    most = len(whole.encode()) - 10_000
    monkeypatch.setattr(page, "MOST_BYTES", most)
    monkeypatch.setattr(page, "MOST_ROWS", SHARDS)
    small = make_report(many, "d")[1]
    assert len(small.encode()) <= most
    assert "more bags are not shown" in small
    assert f"{2 * SHARDS * A_SHARD:,} messages = " in small


# --- memory -----------------------------------------------------------------------------------------

LIMIT_BYTES = LEAST_LIMIT_BYTES


def peak_bytes(lake_uri: str, drive_id: str) -> int:
    """Of a process that makes a report, which a small one starts: a child has its parent's peak at first."""
    words = ["finish", lake_uri, "--drive-id", drive_id, "--report", "--memory-limit", str(LIMIT_BYTES)]
    script = (
        "import os, resource, sys\n"
        "from ros_to_parquet.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        ["sh", "-c", '"$0" "$@"; exit $?', sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    return int(done.stdout.splitlines()[-1])


def large_frames(width: int, height: int) -> Iterable[tuple[int, str, object]]:
    image = TYPES["sensor_msgs/msg/Image"]
    for topic, encoding, size in (
        ("/depth", "32FC1", 4),
        ("/grey", "mono8", 1),
        ("/bayer", "bayer_rggb8", 1),
    ):
        data = np.full(width * height * size, 65, dtype=np.uint8)
        yield 0, topic, image(header(), height, width, encoding, 0, width * size, data)


def large_cloud(points: int) -> tuple[int, str, object]:
    field = TYPES["sensor_msgs/msg/PointField"]
    fields: Sequence[object] = [field(name, 4 * place, 7, 1) for place, name in enumerate("xyz")]
    data = np.random.default_rng(1).normal(size=(points, 4)).astype("<f4").view(np.uint8).reshape(-1)
    cloud = TYPES["sensor_msgs/msg/PointCloud2"]
    return 0, "/lidar", cloud(header(), 1, points, fields, False, 16, 16 * points, data, True)


def test_memory_stays_within_the_limit(tmp_path: Path) -> None:
    small = write(tmp_path / "small.bag", [(0, "/x", number_message(1.0))])
    extracted(small, output=tmp_path / "lake", drive_id="small")
    large = write(tmp_path / "large.bag", [*large_frames(2_800, 2_500), large_cloud(1_800_000)])
    extracted(large, output=tmp_path / "lake", drive_id="large")
    uri = str(tmp_path / "lake")
    above = peak_bytes(uri, "large") - peak_bytes(uri, "small")
    assert above < LIMIT_BYTES
    text = Path(uri, contract.report_key("large")).read_text()
    assert text.count("data:image/jpeg") == 3
    assert "900,000 points of 1,800,000" in text


def test_the_command_takes_a_limit(many: Lake) -> None:
    words = ["finish", many.uri, "--drive-id", "d", "--report", "--memory-limit", "1KiB"]
    assert main(words) == ExitCode.USAGE
