"""The benchmarks' own parts, on bags of a few messages. Nothing here is timed against a limit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rosbags.highlevel import AnyReader

from benchmarks import __main__ as command
from benchmarks import cache, growth, limits, measure, peers, s3, startup
from benchmarks.cache import Bag
from benchmarks.growth import Step
from benchmarks.measure import Measurement, ProcessError
from benchmarks.report import Report, as_json, as_markdown, readme_table, tables, target_table, targets

SCALE = 0.002


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache.CACHE = tmp_path_factory.mktemp("bags")


@pytest.fixture
def telemetry() -> Bag:
    return cache.cached_bag("telemetry", ".mcap", SCALE)


@pytest.fixture
def report(telemetry: Bag, tmp_path: Path) -> Report:
    """As if all peers but the script of ``rosbags`` were missing."""
    machine = {"cores": 2, "cpu": "any", "memory_gb": 4, "system": "Linux", "python": "3", "scale": SCALE}
    made = Report(machine | {"rounds": 1})
    made.comparisons[telemetry.name] = peers.compare(
        telemetry, repeat=1, scratch=tmp_path, chosen=(peers.OURS, peers.NAIVE, peers.REFERENCE)
    )
    made.bags[telemetry.name] = {"messages": telemetry.messages, "bytes": telemetry.size_bytes}
    return made


def test_bags_are_made_once_and_read_back(telemetry: Bag) -> None:
    made_at = telemetry.path.stat().st_mtime_ns
    again = cache.cached_bag("telemetry", ".mcap", SCALE)
    assert again == telemetry
    assert again.path.stat().st_mtime_ns == made_at
    assert _messages(telemetry.path) == telemetry.messages > 400


def test_a_series_differs_in_one_number() -> None:
    bag = cache.cached_series(messages=60, topics=7, nesting=3)
    assert _messages(bag.path) == 60
    with AnyReader([bag.path]) as reader:
        assert len(reader.topics) == 7
        connection, _, data = next(reader.messages())
        message = reader.deserialize(data, connection.msgtype)
        assert len(message.values[3].values[3].values) == 4


def _messages(bag: Path) -> int:
    with AnyReader([bag]) as reader:
        return reader.message_count


def test_every_contender_counts_the_same_rows(report: Report, telemetry: Bag) -> None:
    results = {each.contender.name: each for each in report.comparisons[telemetry.name]}
    for name in (peers.OURS, peers.NAIVE):
        measured = results[name].measured
        assert measured is not None
        assert results[name].rows == telemetry.messages
        assert measured.output_bytes > 0
        assert measured.peak_bytes > 10 << 20
    assert results[peers.REFERENCE].error == "does not read .mcap"


def test_a_peer_that_is_missing_or_fails_is_shown(
    telemetry: Bag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('no such message')"]
    entered = [
        peers.Contender("missing", [str(tmp_path / "absent"), "{bag}"], "yes"),
        peers.Contender("broken", broken, "yes"),
    ]
    monkeypatch.setattr(peers, "contenders", lambda: entered)
    found = peers.compare(telemetry, repeat=2, scratch=tmp_path)
    assert [each.error for each in found] == [f"not installed: {tmp_path / 'absent'}", "no such message"]
    shown = Report({"scale": 1.0}, {telemetry.name: found}, {telemetry.name: {"messages": 9, "bytes": 9}})
    assert "no such message" in as_markdown(next(tables(shown)))


def test_a_share_is_reckoned_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Bag(tmp_path / "x.bag", "telemetry", 1.0, 1000)
    parts = {0.1: Bag(tmp_path / "tenth.bag", "telemetry", 0.1, 100)}
    parts[0.02] = Bag(tmp_path / "less.bag", "telemetry", 0.02, 20)
    monkeypatch.setattr(peers, "cached_bag", lambda kind, suffix, scale: parts[round(scale, 3)])
    seconds = {"tenth.bag": 3.0, "less.bag": 1.4}  # one second of start-up, twenty milliseconds a message
    monkeypatch.setattr(
        peers,
        "_run_once",
        lambda item, bag, *_, **__: (Measurement(seconds[bag.path.name], 0.0, 1, 10), bag.messages),
    )
    item = peers.Contender("slow", [], "yes", share=0.1)
    measured, rows = peers._measure(item, whole, tmp_path, count_rows=True)
    assert measured.wall_s == pytest.approx(21.0)
    assert rows == 1000


def test_the_limit_writes_the_same_rows_without_decoding(telemetry: Bag, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with limits.recorded(telemetry, tmp_path) as kept:
        replay = measure.module("benchmarks.tables", "replay", str(telemetry.path), str(kept), str(out))
        measure.run(replay, tmp_path)
        written = [
            pq.read_table(path, partitioning=None)
            for path in sorted((kept / "lake").glob("[!_]*/**/*.parquet"))
        ]
        replayed = [pq.read_table(path, partitioning=None) for path in sorted(out.glob("*.parquet"))]
        found = limits.encoding(telemetry, kept, repeat=1, scratch=tmp_path)
    assert sum(len(table) for table in replayed) == telemetry.messages
    assert sorted(map(_summary, replayed)) == sorted(map(_summary, written))
    assert found.ours_bytes > 0
    assert found.defaults_bytes > 0


def _summary(table: object) -> tuple[int, str]:
    return (len(table), str(table.schema.remove_metadata()))  # type: ignore[arg-type, attr-defined]


def test_growth_is_held_against_the_input() -> None:
    bag = Bag(Path("x.mcap"), "series", 1.0, 10)
    spent = Measurement(1.0, 1.0, 1)
    first = Step("topics", 10, bag, spent, 0.1, None)
    linear = Step("topics", 100, bag, spent, 1.0, first)
    worse = Step("topics", 200, bag, spent, 4.0, linear)
    assert [first.more_than_linear, linear.more_than_linear, worse.more_than_linear] == [False, False, True]
    assert Step("topics", 100, bag, spent, 1.0, Step("topics", 10, bag, spent, 0.0, None)).growth is None
    assert [len(entries) for entries in growth.series(1000).values()] == [3, 5, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="inotify")
def test_the_first_read_is_seen(telemetry: Bag, tmp_path: Path) -> None:
    assert 0 < startup.first_read_s(telemetry, repeat=1, scratch=tmp_path) < measure.TIMEOUT_S


def test_requests_to_s3_are_counted(telemetry: Bag, tmp_path: Path) -> None:
    with s3.serving(tmp_path) as server:
        found = s3.from_s3(telemetry, server, repeat=1, scratch=tmp_path)
    assert found.bag_requests == 1  # it is smaller than one read
    assert found.requests["PUT"] > 6  # a table each, and the records of the drive
    assert found.first_byte_s > 0


def test_what_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"^ValueError: of what$"):
        measure.run([sys.executable, "-c", "raise ValueError('of what')"], tmp_path)


def test_reports_have_all_sections(report: Report, telemetry: Bag, tmp_path: Path) -> None:
    spent = Measurement(2.0, 3.0, 100 << 20, 7)
    report.limits.append(limits.Limit(telemetry, spent, Measurement(1.0, 1.0, 1)))
    report.encodings.append(limits.Encoding(telemetry, 1.0, 10, 2.0, 20))
    report.steps.append(Step("topics", 1, telemetry, spent, 1.0, None))
    report.first_byte_s = 0.5
    report.from_s3.append(s3.FromS3(telemetry, spent, spent, {"GET": 3}, 2, 0.9))
    aims = {each.name: each.met for each in targets(report)}
    assert aims["telemetry.mcap: speed of the no-decode limit's"] is False
    assert aims["telemetry.mcap: Parquet's size to pyarrow's defaults"] is True
    assert aims["cost grows linearly"] is True
    assert aims["start-up, on disk"] is True
    assert aims["start-up, S3, telemetry.mcap"] is False
    text = "\n".join(as_markdown(table) for table in [*tables(report), target_table(report)])
    for words in ("ros-to-parquet", "50%", "3 GET", "does not read .mcap", "MISSED"):
        assert words in text
    assert readme_table(report).count("\n") == 2
    assert json.loads(json.dumps(as_json(report)))["limits"][0]["bag"] == "telemetry.mcap"
    command._print(command.describe(report.machine), list(tables(report)))
