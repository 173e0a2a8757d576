"""The fleet tables: what they say, that they follow the manifests, and who is found by them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

import ros_to_parquet
from ros_to_parquet import cli, contract, fleet, lake, places, run
from ros_to_parquet.commands.fleet import parse_place
from ros_to_parquet.contract import BagSlice, ExitCode, ExtractOptions, FinishOptions, Manifest
from ros_to_parquet.fleet import Place, Query
from ros_to_parquet.places import Fixes
from ros_to_parquet.report import drive as report_drive
from ros_to_parquet.report.drive import describe_drive
from ros_to_parquet.storage import LocalStorage
from tests.engine.sample_bags import START_NS, write_bag, write_defined
from tests.engine.test_run import JOB, extract, plan_for

FLEET = FinishOptions(fleet=True)
SECOND = 1_000_000_000
DAY = 86_400 * SECOND


def drive(output: Path, drive_id: str, *, start_ns: int = START_NS, **changes: Any) -> Manifest:
    """A drive that goes north from 48.0, 11.0, a degree a message."""
    bag = output.with_name(f"{drive_id}.bag")
    bag.unlink(missing_ok=True)
    write_bag(bag, start_ns=start_ns)
    return extract(bag, output=output, drive_id=drive_id, finish=FLEET, **changes)


def tables(output: Path) -> dict[str, list[dict[str, Any]]]:
    found = ros_to_parquet.open(str(output))
    return {name: found.fleet(name).to_pylist() for name in contract.FLEET_TABLES}


def found(output: Path, **query: Any) -> list[str]:
    rows = [fleet.read_fleet(LocalStorage(), str(output), name) for name in ("drives", "topics")]
    return [each.drive_id for each in fleet.find_drives(*rows, Query(**query))]


def test_a_drives_rows_say_what_its_manifests_say(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    manifest = drive(output, "car_7")
    said = tables(output)
    (row,) = said["drives"]
    last_ns = START_NS + 39 * 10_000_000 + 3
    assert (row["first_log_time_ns"], row["last_log_time_ns"]) == (START_NS, last_ns)
    assert row["last_log_time"].timestamp() == pytest.approx(last_ns / 1e9, abs=1e-6)
    assert row["duration_s"] == pytest.approx(0.390000003)
    assert (row["messages"], row["rows"], row["rejected"], row["topics"], row["bags"]) == (160, 160, 0, 4, 1)
    assert (row["state"], row["output"], row["gps_topic"]) == ("succeeded", str(output), "/gps/fix")
    assert (row["min_latitude"], row["max_latitude"]) == (48.0, 87.0)
    assert (row["min_longitude"], row["max_longitude"]) == (11.0, 11.0)
    assert row["source"] == str(tmp_path)
    assert row["bytes_written"] == manifest.bytes_written
    (bag,) = said["bags"]
    assert (bag["bag"], bag["uri"], bag["status"]) == ("car_7.bag", str(tmp_path / "car_7.bag"), "ok")
    assert (bag["first_log_time_ns"], bag["last_log_time_ns"]) == (START_NS, last_ns)
    assert (bag["min_latitude"], bag["max_latitude"], bag["verified"]) == (48.0, 87.0, True)
    topics = {topic["topic"]: topic for topic in said["topics"]}
    assert set(topics) == {"/imu/data", "/gps/fix", "/camera/image/compressed", "/status"}
    imu = topics["/imu/data"]
    assert (imu["type"], imu["table"], imu["schemas"]) == ("sensor_msgs/Imu", "imu.data", ["6a62c6da"])
    assert (imu["rows"], imu["rate_hz"]) == (40, pytest.approx(100))
    assert imu["bytes_written"] == sum(
        file.size_bytes for topic in manifest.topics if topic.topic == "/imu/data" for file in topic.files
    )
    for name, rows in said.items():
        assert sum(each["messages"] for each in rows) == 160, name


def test_rows_follow_overwriting_new_bags_and_removal(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    drive(output, "d")
    drive(output, "d", start_ns=START_NS + DAY, overwrite=True)
    (row,) = tables(output)["drives"]
    assert (row["first_log_time_ns"], row["rows"]) == (START_NS + DAY, 160)
    write_bag(tmp_path / "more.mcap", start_ns=START_NS)
    extract(tmp_path / "more.mcap", output=output, drive_id="d", finish=FLEET)
    said = tables(output)
    assert [(each["first_log_time_ns"], each["rows"]) for each in said["drives"]] == [(START_NS, 320)]
    assert [each["bag"] for each in said["bags"]] == ["d.bag", "more.mcap"]
    for path in (output / "_manifests/drive_id=d").rglob("*.json"):
        path.unlink()
    assert fleet.write_fleet(LocalStorage(), str(output), "d") == []
    assert tables(output) == {"drives": [], "bags": [], "topics": []}


def bags_said(output: Path) -> list[tuple[str, str, int, int]]:
    return [(bag["bag"], bag["status"], bag["messages"], bag["extracted"]) for bag in tables(output)["bags"]]


def test_a_drive_is_what_all_its_runs_have_made_of_it(tmp_path: Path) -> None:
    """A bag that was copied in vain, and then again, leaves nothing to be said."""
    output = tmp_path / "lake"
    (tmp_path / "d.bag").write_bytes(b"")
    extract(tmp_path / "d.bag", output=output, drive_id="d", finish=FLEET)
    (row,) = tables(output)["drives"]
    assert (row["state"], row["bags"], row["unreadable_bags"], row["rows"]) == ("failed", 1, 1, 0)
    assert row["problems"] == [
        "bag d.bag at offset 0: the file is empty (0 bytes): the recording or the copy of it failed"
    ]
    drive(output, "d")
    (row,) = tables(output)["drives"]
    assert (row["state"], row["bags"], row["unreadable_bags"], row["rows"]) == ("succeeded", 1, 0, 160)
    assert (row["problems"], bags_said(output)) == ([], [("d.bag", "ok", 160, 160)])
    (tmp_path / "more.bag").write_bytes(b"")
    extract(tmp_path / "d.bag", tmp_path / "more.bag", output=output, drive_id="d", finish=FLEET)
    (row,) = tables(output)["drives"]
    assert (row["state"], row["bags"], row["unreadable_bags"], row["rows"]) == ("damaged", 2, 1, 160)
    assert bags_said(output) == [("d.bag", "ok", 160, 160), ("more.bag", "unreadable", 0, 0)]


def test_what_several_runs_say_of_a_bag_is_said_once(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags" / "x.bag").write_bytes(b"")
    for number in range(3):
        write_bag(tmp_path / "bags" / f"{number}.bag", start_ns=START_NS + number * DAY)
        extract(tmp_path / "bags", output=output, drive_id="d", finish=FLEET)
    (row,) = tables(output)["drives"]
    assert (row["state"], row["bags"], row["unreadable_bags"], row["rows"]) == ("damaged", 4, 1, 480)
    assert sorted(problem.split(":")[1] for problem in row["problems"]) == [
        " not tried again, for an earlier run could read nothing of it",
        " the file is empty (0 bytes)",
    ]


def test_a_bag_of_which_nothing_was_wanted_is_counted_once(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    drive(output, "d", options=ExtractOptions(("/misspelt",)))
    (row,) = tables(output)["drives"]
    assert (row["state"], row["rows"], len(row["problems"])) == ("succeeded", 0, 1)
    assert bags_said(output) == [("d.bag", "ok", 160, 0)]
    drive(output, "d", options=ExtractOptions(("/imu/*",)))
    (row,) = tables(output)["drives"]
    assert (row["state"], row["rows"], row["problems"]) == ("succeeded", 40, [])
    assert bags_said(output) == [("d.bag", "ok", 160, 40)]


def test_a_run_that_was_taken_over_does_not_stay_partial(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    (tmp_path / "bags").mkdir()
    for number in range(2):
        write_bag(tmp_path / "bags" / f"{number}.bag", start_ns=START_NS + number * DAY)
    arguments: dict[str, Any] = {"output": output, "drive_id": "d", "take_over": True}

    def state() -> contract.DriveState | None:
        return describe_drive(lake.read_drive(LocalStorage(), str(output), "d")).state

    began = plan_for(tmp_path / "bags", **arguments)  # of which one shard is done when it is killed
    began = replace(began, shards=((BagSlice(0),), (BagSlice(1),)))
    LocalStorage().write(str(output / contract.plan_key("d", began.plan_id)), contract.to_json(began))
    run.run_shard(began, 0, JOB)
    assert state() is None, "it is at work"
    taker = plan_for(tmp_path / "bags", **arguments)
    assert (taker.covered, len(taker.bags)) == (("0.bag",), 1)
    assert state() is contract.DriveState.PARTIAL
    run.run_shard(taker, 0, JOB)
    assert state() is contract.DriveState.SUCCEEDED


def test_what_is_written_while_another_run_replaces_the_drive_is_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "lake"
    drive(output, "d")
    made = fleet.find_fixes
    asked: list[object] = []

    def slow(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 1:
            drive(output, "d", start_ns=START_NS + DAY, overwrite=True)
        return made(*arguments)

    monkeypatch.setattr(fleet, "find_fixes", slow)
    assert fleet.write_fleet(LocalStorage(), str(output), "d")
    (row,) = tables(output)["drives"]
    assert (len(asked), row["first_log_time_ns"]) == (3, START_NS + DAY)  # the other run's step asks once


def test_a_lake_from_before_is_brought_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lake"
    for name in ("a", "b"):
        write_bag(tmp_path / f"{name}.bag")
        extract(tmp_path / f"{name}.bag", output=output, drive_id=name)
    assert cli.main(["fleet", str(output)]) == ExitCode.OK
    said = capsys.readouterr().out.splitlines()
    assert said == ["0 of 0 drives", "! not in the fleet tables: a, b; --update writes them"]
    assert cli.main(["fleet", str(output), "--near", "48,11,5"]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == said
    assert cli.main(["fleet", str(output), "--update"]) == ExitCode.OK
    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[-1]) == ("2 drives written, 0 removed", "2 of 2 drives")
    assert said[2].split() == [
        *("a", "2023-11-14T22:13:20Z", "0.0", "succeeded", "/camera/image/compressed,", "/gps/fix,"),
        *("/imu/data,", "and", "1", "more"),
    ]
    storage = LocalStorage()
    assert fleet.update_fleet(storage, str(output)) == fleet.Updated((), ())
    write_bag(tmp_path / "c.bag", start_ns=START_NS + DAY)
    extract(tmp_path / "c.bag", output=output, drive_id="b")
    for path in (output / "_manifests/drive_id=a").rglob("*.json"):
        path.unlink()
    for folder in (output / "_manifests/drive_id=a").iterdir():
        folder.rmdir()
    (output / "_manifests/drive_id=a").rmdir()
    assert fleet.update_fleet(storage, str(output)) == fleet.Updated(("b",), ("a",))
    assert [each["bags"] for each in tables(output)["drives"]] == [2]


def test_drives_by_topic_place_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lake"
    drive(output, "first")
    drive(output, "second", start_ns=START_NS + 2 * DAY)
    write_defined(
        tmp_path / "third.bag", "float32 speed\n", [{"speed": 1.0}], topic="/speed", kind="car/msg/Speed"
    )
    extract(tmp_path / "third.bag", output=output, drive_id="third", finish=FLEET)
    assert found(output) == ["first", "third", "second"]
    assert found(output, topics=("/gps/*", "/nothing")) == ["first", "second"]
    assert found(output, topics=("/speed",)) == ["third"]
    assert found(output, since_ns=START_NS + DAY) == ["second"]
    assert found(output, until_ns=START_NS + DAY) == ["first", "third"]
    near, far = Place(60.5, 11.0, 1.0), Place(60.5, 12.0, 1.0)  # between two fixes; 55 km to the side
    assert found(output, near=near) == ["first", "second"]
    assert found(output, near=far) == []
    assert found(output, near=Place(60.5, 12.0, 56.0)) == ["first", "second"]
    # It was there half a second after it began.
    assert found(output, near=Place(48.0, 11.0, 10.0), since_ns=START_NS + 300_000_000) == ["second"]
    assert found(output, near=near, topics=("/speed",)) == []
    words = ["fleet", str(output), "--topic", "/imu/*", "--near=48,11,5", "--until", "2023-11-15", "--json"]
    assert cli.main(words) == ExitCode.OK
    said = json.loads(capsys.readouterr().out)
    assert [(each["drive_id"], each["topics"], each["distance_km"]) for each in said["drives"]] == [
        ("first", {"/imu/data": 40}, 0.0)
    ]
    assert said["not_in_the_tables"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--near", "48,11"], "--near 48,11: expected LAT,LON,KM, as 48.137,11.575,5"),
        (["--near", "91,11,5"], "latitude is from -90 to 90"),
        (["--near", "48,11,-5"], "a distance is not less than 0"),
        (["--near", "nan,11,5"], "latitude is from -90 to 90"),
        (["--since", "yesterday"], "yesterday is no time"),
    ],
)
def test_a_query_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], said: str
) -> None:
    assert cli.main(["fleet", str(tmp_path), *words]) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_the_documented_query(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    drive(output, "first")
    drive(output, "second", start_ns=START_NS + 2 * DAY)
    text = (Path(__file__).parents[2] / "docs/catalog.md").read_text()
    (query,) = [block.partition("```")[0] for block in text.split("```sql\n")[1:] if "_fleet/" in block]
    database = duckdb.connect()
    asked = query.replace("'lake/", f"'{output}/").replace("2026-11-14", "2023-11-15")
    for place, drives in (("48.137, 11.575", ["second"]), ("48.137, 13.575", [])):
        rows = database.execute(asked.replace("48.137, 11.575", place)).fetchall()
        assert [row[0] for row in rows] == drives


# --- places ------------------------------------------------------------------------------------------


def test_fixes_that_are_no_places_are_left_out(tmp_path: Path) -> None:
    name = "sensor_msgs/msg/NavSatFix"
    bag = tmp_path / "a.bag"
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = store.types[name]
    stamp = store.types["builtin_interfaces/msg/Time"](1, 2)
    header = store.types["std_msgs/msg/Header"](0, stamp, "gps")
    fixes = [(0, 0, 0), (0, math.nan, 11), (-1, 48, 11), (0, 48.5, 11.5), (0, 95, 11), (1, 48.25, -190)]
    with Writer(bag) as writer:
        connection = writer.add_connection("/fix", name, typestore=store)
        for number, (status, latitude, longitude) in enumerate(fixes):
            about = store.types["sensor_msgs/msg/NavSatStatus"](status, 1)
            message = kind(header, about, float(latitude), float(longitude), 0.0, np.zeros(9), 0)
            data = store.serialize_ros1(message, name)
            writer.write(connection, START_NS + number, data)
    extract(bag, output=tmp_path / "lake", drive_id="d", finish=FLEET)
    (row,) = tables(tmp_path / "lake")["drives"]
    assert (row["gps_fixes"], row["min_latitude"], row["max_latitude"]) == (2, 48.25, 48.5)
    assert (row["min_longitude"], row["max_longitude"]) == (11.5, 170.0)
    assert [point["log_time_ns"] - START_NS for point in row["track"]] == [3, 5]


def test_a_track_is_no_farther_from_any_fix_than_it_says() -> None:
    rng = np.random.default_rng(7)
    steps = rng.normal(0, 2e-4, size=(2, 20_000)).cumsum(axis=1)
    times = START_NS + np.arange(20_000) * 100_000_000
    fixes = Fixes("/fix", times, 48 + steps[0], 11 + steps[1])
    track = places.make_track(fixes)
    assert len(track.times_ns) <= places.TRACK_POINTS + 2
    assert (track.times_ns[0], track.times_ns[-1]) == (times[0], times[-1])
    assert 0 < track.error_m < 2_000
    for number in range(0, 20_000, 37):  # so that no drive that was there is missed
        assert places.nearest_m(track, fixes.latitude[number], fixes.longitude[number]) == 0.0


def test_a_track_over_the_antimeridian() -> None:
    longitude = (np.linspace(179.0, 181.0, 50) + 180) % 360 - 180
    track = places.make_track(Fixes("/fix", np.arange(50), np.full(50, -17.0), longitude), 10)
    assert places.nearest_m(track, -17.0, 180.0) < 100
    assert places.nearest_m(track, -17.0, 0.0) > 1_000_000


def test_a_drive_that_stood_still() -> None:
    track = places.make_track(Fixes("/fix", np.arange(9), np.full(9, 48.0), np.full(9, 11.0)))
    assert track.error_m == 0.0
    assert places.nearest_m(track, 48.0, 11.0) == 0.0
    assert places.nearest_m(track, 49.0, 11.0) == pytest.approx(111_195, rel=1e-3)


def test_more_fixes_than_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive(tmp_path / "lake", "d")
    monkeypatch.setattr(places, "MOST_FIXES", 10)
    fleet.write_fleet(LocalStorage(), str(tmp_path / "lake"), "d")
    (row,) = tables(tmp_path / "lake")["drives"]
    assert (row["gps_fixes"], row["gps_sampled"]) == (10, True)


def test_fixes_of_shards_whose_files_are_not_known_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_drive, "MOST_PARTS", 1)
    for number in range(2):
        write_bag(tmp_path / f"{number}.bag", messages=40, start_ns=START_NS + number * DAY)
        extract(tmp_path / f"{number}.bag", output=tmp_path / "lake", drive_id="d")
    fleet.write_fleet(LocalStorage(), str(tmp_path / "lake"), "d")
    (row,) = tables(tmp_path / "lake")["drives"]
    assert (row["gps_fixes"], row["gps_sampled"]) == (40, True)


def test_where_nothing_says_where_it_was(tmp_path: Path) -> None:
    write_defined(
        tmp_path / "a.bag", "float32 speed\n", [{"speed": 1.0}], topic="/speed", kind="car/msg/Speed"
    )
    extract(tmp_path / "a.bag", output=tmp_path / "lake", drive_id="d", finish=FLEET)
    (row,) = tables(tmp_path / "lake")["drives"]
    assert (row["track"], row["gps_topic"], row["gps_fixes"], row["min_latitude"]) == (None, None, 0, None)
    assert parse_place("48.137,11.575,5") == Place(48.137, 11.575, 5.0)


# --- topics of a lake --------------------------------------------------------------------------------


def test_the_topics_of_drives(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    drive(output, "first")
    drive(output, "second", start_ns=START_NS + DAY)
    both = {topic.name: topic for topic in ros_to_parquet.open(str(output)).topics()}
    imu = both["/imu/data"]
    assert (imu.type_name, imu.table, imu.drives) == ("sensor_msgs/Imu", "imu.data", ("first", "second"))
    assert (imu.messages, imu.rows, imu.rejected) == (80, 80, 0)
    assert (imu.first_log_time_ns, imu.rate_hz) == (START_NS, pytest.approx(100))
    assert imu.last_log_time_ns == START_NS + DAY + 390_000_000
    one = ros_to_parquet.open(str(output)).topics(["first"])
    assert [topic.rows for topic in one] == [40] * 4
    with pytest.raises(KeyError, match="no fleet table cars; there are drives, bags, topics"):
        ros_to_parquet.open(str(output)).fleet("cars")


def test_a_topic_has_the_definitions_of_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many shards some files alone are known by name."""
    monkeypatch.setattr(report_drive, "MOST_PARTS", 1)
    output = tmp_path / "lake"
    for number, text in enumerate(("float32 speed\n", "float64 speed\n")):
        bag = tmp_path / f"{number}.bag"
        write_defined(bag, text, [{"speed": 1.0}], topic="/speed", kind="car/msg/Speed")
        extract(bag, output=output, drive_id="d")
    (topic,) = ros_to_parquet.open(str(output)).topics()
    assert len(topic.schemas) == 2


def test_derived_again_and_again(tmp_path: Path) -> None:
    drive(tmp_path / "lake", "d")
    calls = []

    def replace(record: lake.DriveRecord) -> int:
        calls.append(record.files()[0].path)
        if len(calls) < 3:
            drive(tmp_path / "lake", "d", start_ns=START_NS + len(calls), overwrite=True)
            raise FileNotFoundError("what it was about to read")
        return len(calls)

    assert lake.derive(LocalStorage(), str(tmp_path / "lake"), "d", replace) == 3
    assert len(set(calls)) == 3
    with pytest.raises(FileNotFoundError):
        lake.derive(LocalStorage(), str(tmp_path / "lake"), "d", lambda _: (tmp_path / "no").read_bytes())
