"""Topics whose definition changes: said by the commit, read together where one table holds all, reported."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_to_parquet import cli, contract, drift, lake, run, schema_records, views
from ros_to_parquet.contract import Change, Drift, DriveManifest, ExtractOptions, Plan, PointClouds
from ros_to_parquet.drift import TopicDefinition
from ros_to_parquet.history import TopicDrift, Version
from ros_to_parquet.lake import READ_TOGETHER, Lake
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.storage import AccessDeniedError, LocalStorage, ObjectInfo
from tests.engine.decode.test_pointcloud import Cloud
from tests.engine.installed import install
from tests.engine.sample_bags import START_NS, write_defined, write_mcap
from tests.engine.test_pointclouds import write_clouds

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

JOB = run.JobIdentity("", 1, "")
SECOND = 1_000_000_000

SPEED = "car/msg/Speed"
FIRST = "float32 value\nuint8 gear\n"
WIDER = "float64 value\nuint16 gear\n"
ADDED = "float64 value\nuint16 gear\nstring source\n"
BROKEN = "float64 value\nstring gear\n"


def write(path: Path, text: str, values: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    return write_defined(path, text, values, **{"topic": "/speed", "kind": SPEED, **more})


def speeds(*gears: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"value": 0.5 + number, "gear": gear, **more} for number, gear in enumerate(gears)]


def plan_of(bags: Path, output: Path | str, **changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "output": str(output), "drive_id": bags.name, "options": ExtractOptions(), "overwrite": False,
        "take_over": False,
    }  # fmt: skip
    return make_plan([str(bags)], **arguments | changes)


def extract(bags: Path, output: Path, **changes: Any) -> DriveManifest:
    """The drive's commit."""
    made = plan_of(bags, output, **changes)
    run.run_shard(made, 0, JOB)
    key = output / contract.drive_manifest_key(made.drive_id, made.plan_id)
    return contract.from_json(DriveManifest, key.read_bytes(), where=str(key))


def said(commit: DriveManifest) -> list[tuple[str, str, str, str]]:
    assert commit.drift_count == len(commit.drift)
    return [(each.topic, str(each.change), each.bag, each.before_drive) for each in commit.drift]


def report(output: Path | str, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert cli.main(["drift", str(output), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)["topics"]


# --- what a difference is ----------------------------------------------------------------------------


def message(*fields: tuple[str, pa.DataType], **said: str) -> TopicDefinition:
    return TopicDefinition(pa.schema([pa.field(*each, nullable=False) for each in fields]), **said)


def list_of(item: pa.DataType, size: int = -1) -> pa.DataType:
    return pa.list_(pa.field("element", item, nullable=False), size)


def struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(*each, nullable=False) for each in fields.items()])


F32, F64, I8, I32, I64, U8, U16, U32, U64 = (
    pa.float32(), pa.float64(), pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "change", "text", "common"),
    [
        (F32, F64, "widened", "`x` float32 -> float64", F64),
        (F64, F32, "widened", "`x` float64 -> float32: read as float64", F64),
        (I8, I32, "widened", "`x` int8 -> int32", I32),
        (U8, I8, "widened", "`x` uint8 -> int8: read as int16", pa.int16()),
        (U32, I32, "widened", "`x` uint32 -> int32: read as int64", I64),
        (U32, I64, "widened", "`x` uint32 -> int64", I64),
        (U64, I64, "broken", "`x` uint64 -> int64: no integer holds both", None),
        (I32, F64, "broken", "`x` int32 -> float64: an integer became a float", None),
        (F32, I64, "broken", "`x` float32 -> int64: a float became an integer", None),
        (pa.bool_(), U8, "broken", "`x` bool -> uint8: another type", None),
        (pa.string(), F64, "broken", "`x` string -> float64: another type", None),
        (pa.binary(4), pa.binary(), "widened", "`x` bytes[4] -> bytes", pa.binary()),
        (pa.binary(), list_of(U16), "broken", "`x` bytes -> uint16[]: another type", None),
        (list_of(F64, 9), list_of(F64), "widened", "`x` float64[9] -> float64[]", list_of(F64)),
        (list_of(F32, 9), list_of(F64, 9), "widened", "`x` float32[9] -> float64[9]", list_of(F64, 9)),
        (
            list_of(F64, 9), list_of(F64, 36), "widened", "`x` float64[9] -> float64[36]: read as float64[]",
            list_of(F64),
        ),
        (list_of(I32), list_of(F64), "broken", "`x` int32[] -> float64[]: an integer became a float", None),
        (
            list_of(struct(a=F32), 2), list_of(struct(a=F64)), "widened", "`x[].a` float32 -> float64",
            list_of(struct(a=F64)),
        ),
        (struct(a=struct(b=I8)), struct(a=struct(b=U8)), "widened", "`x.a.b` int8 -> uint8: read as int16",
         struct(a=struct(b=pa.int16()))),
        (struct(a=F32), struct(b=I8), "broken", "`x` a -> b: no field is in both", None),
        (pa.dictionary(pa.int32(), pa.string()), pa.large_string(), "same", "", pa.string()),
        (pa.timestamp("us"), pa.timestamp("ms"), "broken",
         "`x` timestamp[us] -> timestamp[ms]: another type", None),
    ],
)  # fmt: skip
def test_types(
    old: pa.DataType, new: pa.DataType, change: str, text: str, common: pa.DataType | None
) -> None:
    one, other = message(("x", old)), message(("x", new))
    difference = drift.compare(one, other)
    assert difference.change == change
    assert difference.texts()[:1] == ([text] if text else [])
    assert drift.compare(other, one).change == change
    if common is None:
        with pytest.raises(drift.DriftError, match="no table holds both schema=a and schema=b"):
            drift.common_columns([("a", one), ("b", other)])
    else:
        assert drift.common_columns([("a", one), ("b", other)]).field("x").type == common
        assert drift.common_columns([("b", other), ("a", one)]).field("x").type == common


@pytest.mark.parametrize(
    ("old", "new", "change", "texts"),
    [
        ("a b", "a b c", "added", ["`c` added (float32)"]),
        ("a b c", "a c", "added", ["`b` removed (float32)"]),
        ("a b", "b a", "same", ["the order of its fields differs"]),
        ("a b c", "a q c", "broken", ["`b` -> `q`: renamed, or another float32 in its place"]),
        ("a b c", "q a c", "added", ["`b` removed (float32)", "`q` added (float32)"]),
        ("a b c", "a B c", "broken", ["`b` -> `B`: renamed, or another float32 in its place"]),
        ("a b c", "B a c", "broken", ["`b` -> `B`: renamed, or another float32 in its place"]),
        ("a b", "c d", "broken", ["the message a, b -> c, d: no field is in both"]),
    ],
)
def test_fields_that_come_and_go(old: str, new: str, change: str, texts: list[str]) -> None:
    one, other = (message(*((name, F32) for name in names.split())) for names in (old, new))
    difference = drift.compare(one, other)
    assert (difference.change, difference.texts()) == (change, texts)
    assert drift.compare(other, one).change == change


def test_the_engines_own_columns_are_no_drift_and_a_field_that_may_be_null_is() -> None:
    mcap = message(("log_time_ns", I64), ("publish_time_ns", I64), ("bag", pa.string()), ("x", F32))
    stamped = message(("log_time_ns", I64), ("stamp_ns", I64), ("bag", pa.string()), ("x", F32))
    assert drift.compare(mcap, stamped) == drift.Difference(Change.SAME)
    common = drift.common_columns([("a", mcap), ("b", stamped)])
    assert {each.name: each.nullable for each in common} == {
        "log_time_ns": False, "stamp_ns": True, "publish_time_ns": True, "bag": False, "x": False,
    }  # fmt: skip
    optional = TopicDefinition(pa.schema([("x", F32)]))
    difference = drift.compare(message(("x", F32)), optional)
    assert (difference.change, difference.texts()) == ("widened", ["`x` float32 -> float32, may be null"])
    assert drift.adaptations(mcap.columns, common) == []


def test_another_type_with_the_same_columns_is_the_same_and_one_with_others_on_both_sides_is_broken() -> None:
    old = message(("header", I32), ("x", F32), type_name="a/Old")
    assert drift.compare(old, message(("header", I32), ("x", F32), type_name="a/msg/Old")).texts() == []
    renamed = drift.compare(old, message(("header", I32), ("x", F64), type_name="a/msg/New"))
    assert renamed.texts() == ["`x` float32 -> float64", "its type is a/msg/New, was a/msg/Old"]
    assert renamed.change == "widened"
    other = message(("header", I32), ("y", F64), type_name="a/msg/New")
    assert drift.compare(old, other).texts()[0] == (
        "the message a/msg/Old -> a/msg/New: another type, and each has fields that the other lacks"
    )
    assert drift.compare(old, TopicDefinition(other.columns, "a/Old")).change == "added"


def test_what_texts_say_beside_columns() -> None:
    def of(text: str) -> TopicDefinition:
        return TopicDefinition(pa.schema([("x", pa.string())]), "a/msg/B", text, "ros2msg", "cdr")

    difference = drift.compare(
        of("uint8 ON=1\nuint8 OFF=2\nstring<=10 x\nint32[<=3] y\n"),
        of("# comment\nuint8 ON=1\nuint8 OFF=0\nuint8 AUTO=3\nstring x\nint32[] y\n"),
    )
    assert difference.change == "widened"
    assert difference.texts() == [
        "`x` string<=10 -> string",
        "`y` [<=3] -> []",
        "constants of a/msg/B changed: OFF 2 -> 0",
        "constants of a/msg/B added: AUTO=3",
    ]


INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]


@st.composite
def type_pairs(draw: st.DrawFn, depth: int = 2) -> tuple[pa.DataType, pa.DataType]:
    """Types of one field before and after, mostly such that one type holds both."""
    kinds = ["integer", "float", "bytes", "any", "equal"] + ["list", "struct"] * (depth > 0)
    match draw(st.sampled_from(kinds)):
        case "integer":
            return draw(st.sampled_from(INTEGERS)), draw(st.sampled_from(INTEGERS))
        case "float":
            return draw(st.sampled_from([F32, F64])), draw(st.sampled_from([F32, F64]))
        case "bytes":
            return draw(st.sampled_from([pa.binary(), pa.binary(2)])), draw(st.sampled_from([pa.binary(3)]))
        case "any":
            some = st.sampled_from([*INTEGERS, F64, pa.string(), pa.bool_(), list_of(F32)])
            return draw(some), draw(some)
        case "list":
            old, new = draw(type_pairs(depth=depth - 1))
            sizes = st.sampled_from([-1, 1, 2])
            return list_of(old, draw(sizes)), list_of(new, draw(sizes))
        case "struct":
            return struct(**draw(field_sets(depth - 1))[0]), struct(**draw(field_sets(depth - 1))[1])
    one = draw(st.sampled_from([pa.string(), pa.bool_(), pa.binary(), F32, list_of(I32)]))
    return one, one


@st.composite
def field_sets(draw: st.DrawFn, depth: int = 2) -> tuple[dict[str, pa.DataType], dict[str, pa.DataType]]:
    """Fields of a message before and after: ``k`` is in both."""
    old: dict[str, pa.DataType] = {"k": I8}
    new: dict[str, pa.DataType] = {"k": I8}
    for name in draw(st.permutations(["a", "B", "c"])):
        before, after = draw(type_pairs(depth))
        there = draw(st.sampled_from(["both", "both", "old", "new"]))
        old |= {name: before} if there != "new" else {}
        new |= {name: after} if there != "old" else {}
    return old, new


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({each.name: values_of(each.type) for each in kind})
    if pa.types.is_fixed_size_list(kind):
        return st.lists(values_of(kind.value_type), min_size=kind.list_size, max_size=kind.list_size)
    if pa.types.is_list(kind):
        return st.lists(values_of(kind.value_type), max_size=2)
    if pa.types.is_integer(kind):
        bits, signed = kind.bit_width, pa.types.is_signed_integer(kind)
        return st.integers(-(2 ** (bits - 1)) * signed, 2 ** (bits - signed) - 1)
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width, allow_nan=False)
    if pa.types.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    return {pa.string(): st.text("aé", max_size=2), pa.binary(): st.binary(max_size=3)}.get(
        kind, st.booleans()
    )


def padded(value: Any, kind: pa.DataType) -> Any:
    """A value as it is, with None for fields of ``kind`` that it lacks: naive, and all that may be done."""
    if pa.types.is_struct(kind) and value is not None:
        return {each.name: padded(value.get(each.name), each.type) for each in kind}
    if (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) and value is not None:
        return [padded(item, kind.value_type) for item in value]
    return value


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_definitions_keep_every_value_or_are_refused(data: st.DataObject) -> None:
    keep_every_value(data)


@pytest.mark.long
@settings(max_examples=3_000, deadline=None)
@given(st.data())
def test_very_many_definitions_keep_every_value_or_are_refused(data: st.DataObject) -> None:
    keep_every_value(data)


def keep_every_value(data: st.DataObject) -> None:
    """By pyarrow's dataset and by DuckDB's view."""
    pair = data.draw(field_sets())
    definitions = [message(("log_time_ns", I64), *fields.items()) for fields in pair]
    named = list(zip(("aa", "bb"), definitions, strict=True))
    change = drift.compare(*definitions).change
    hypothesis.event(str(change))
    assert drift.compare(*definitions[::-1]).change == change
    if change is Change.BROKEN:
        with pytest.raises(drift.DriftError):
            drift.common_columns(named)
        return
    common = drift.common_columns(named)
    rows = [
        data.draw(values_of(pa.struct(list(each.columns)))) | {"log_time_ns": n}
        for n, each in enumerate(definitions)
    ]
    wanted = [padded(row, pa.struct(list(common))) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/t/schema={name}/drive_id=d/x.parquet" for name, _ in named]
        for file, definition, row in zip(files, definitions, rows, strict=True):
            Path(file).parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist([row], schema=definition.columns), file)
        assert ds.dataset(files, schema=common).to_table().to_pylist() == wanted
        versions = [Version(name, each, None, 1, 1, None, None, "d", "") for name, each in named]
        database = duckdb.connect()
        for sql in views.statements(folder, [TopicDrift("t", ("/t",), tuple(versions), None)]):
            database.execute(sql)
        read = database.execute("SELECT * EXCLUDE (schema, drive_id) FROM t ORDER BY log_time_ns")
        names = [column[0] for column in read.description]
        assert [dict(zip(names, row, strict=True)) for row in read.fetchall()] == wanted


# --- from bags to reading -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bag", ".mcap", ".db3"])
def test_wider_and_more_fields_read_as_one_and_are_said(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lake"
    write(tmp_path / f"one/a{suffix}", FIRST, speeds(1, 2))
    write(tmp_path / f"two/b{suffix}", FIRST, speeds(3), start_ns=START_NS + 10 * SECOND)
    write(tmp_path / f"two/c{suffix}", ADDED, speeds(400, source="can"), start_ns=START_NS + 20 * SECOND)
    assert said(extract(tmp_path / "one", output)) == []
    commit = extract(tmp_path / "two", output)
    assert said(commit) == [("/speed", "added", f"c{suffix}", "two")]
    assert str(commit.drift[0]).startswith(
        f"topic /speed: its definition changed from bag c{suffix} on: added (schema "
    )
    assert commit.drift[0].fields == (
        "`source` added (string)", "`value` float32 -> float64", "`gear` uint8 -> uint16",
    )  # fmt: skip

    dataset = Lake(str(output)).topic("/speed")
    rows = dataset.to_table().sort_by("log_time_ns")
    assert rows.select(["value", "gear", "source", "drive_id"]).to_pylist() == [
        {"value": 0.5, "gear": 1, "source": None, "drive_id": "one"},
        {"value": 1.5, "gear": 2, "source": None, "drive_id": "one"},
        {"value": 0.5, "gear": 3, "source": None, "drive_id": "two"},
        {"value": 0.5, "gear": 400, "source": "can", "drive_id": "two"},
    ]
    drifted = commit.drift[0]
    assert json.loads(dataset.schema.metadata[READ_TOGETHER]) == {
        drifted.before: [
            "`source` is null",
            "`value` is cast from float32 to float64",
            "`gear` is cast from uint8 to uint16",
        ]
    }  # fmt: skip
    assert dataset.schema.metadata[b"ros.type"].endswith(b"Speed")
    assert b"ros.definition" not in dataset.schema.metadata
    alone = Lake(str(output)).topic("/speed", schema=drifted.before)
    assert alone.schema.field("value").type == pa.float32()
    assert alone.to_table().num_rows == 3

    (topic,) = report(output, capsys)
    assert (topic["topics"], topic["change"], topic["broken"]) == (["/speed"], "added", None)
    old, new = topic["definitions"]
    assert (old["drives"], old["rows"], old["first_drive"], old["first_bag"]) == (2, 3, "one", f"a{suffix}")
    assert (new["drives"], new["rows"], new["first_drive"], new["first_bag"]) == (1, 1, "two", f"c{suffix}")
    assert new["first_log_time_ns"] == START_NS + 20 * SECOND
    assert [each["text"] for each in new["fields"]] == [
        "`source` added (string)", "`value` float32 -> float64", "`gear` uint8 -> uint16",
    ]  # fmt: skip


def test_broken_definitions_are_read_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.mcap", FIRST, speeds(1, 2)).parent, output)
    following = write(tmp_path / "two/b.mcap", BROKEN, speeds("R"), start_ns=START_NS + 10 * SECOND)
    commit = extract(following.parent, output)
    assert said(commit) == [("/speed", "broken", "b.mcap", "one")]
    old, new = commit.drift[0].before, commit.drift[0].schema
    with pytest.raises(drift.DriftError) as refused:
        Lake(str(output)).topic("/speed")
    assert str(refused.value) == (
        f"{output}: table speed: its definition changed so that no table holds both schema={old} and "
        f"schema={new}: `gear` uint8 -> string: another type. Read them apart: schema='{old}', schema='{new}'"
    )
    assert Lake(str(output)).topic("/speed", schema=new).to_table()["gear"].to_pylist() == ["R"]
    assert Lake(str(output)).topic("/speed", drives=["one"]).to_table()["gear"].to_pylist() == [1, 2]
    with pytest.raises(KeyError, match=f"no schema 00000000; there are .*{old}"):
        Lake(str(output)).topic("/speed", schema="00000000")

    capsys.readouterr()
    assert cli.main(["drift", str(output)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "/speed: 2 definitions, broken: no table holds all",
        f"  {old}  car/msg/Speed: 2 rows in 1 drive, 2023-11-14T22:13:20Z to 2023-11-14T22:13:21Z",
        "    from drive one, bag a.mcap on",
        f"  {new}  broken, car/msg/Speed: 1 rows in 1 drive, 2023-11-14T22:13:30Z to 2023-11-14T22:13:30Z",
        "    from drive two, bag b.mcap on",
        "    `gear` uint8 -> string: another type",
        "    `value` float32 -> float64",
    ]


def test_two_that_go_with_a_third_and_not_with_each_other_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lake"
    for number, text in enumerate(["int32 a\nuint8 q\n", "int32 a\n", "int32 a\nstring q\n"]):
        values = {"a": 1, **({"q": "x"} if "string" in text else {"q": 3} if "q" in text else {})}
        bag = write(tmp_path / f"{number}/x.mcap", text, [values], start_ns=START_NS + number * SECOND)
        extract(bag.parent, output)
    (topic,) = report(output, capsys)
    first, second, third = topic["definitions"]
    assert [first["change"], second["change"], third["change"]] == [None, "added", "added"]
    assert topic["change"] == "broken"
    assert topic["broken"] == {
        "schemas": [first["schema"], third["schema"]], "fields": ["`q` uint8 -> string: another type"],
    }  # fmt: skip
    capsys.readouterr()
    assert cli.main(["drift", str(output)]) == 0
    names = [each["schema"] for each in topic["definitions"]]
    assert topic["together"] == [names[:2], names[2:]]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"  {names[0]} and {names[2]}: `q` uint8 -> string: another type",
        f"  one table holds {names[0]} and {names[1]}",
    ]
    with pytest.raises(drift.DriftError) as refused:
        Lake(str(output)).topic("/speed")
    apart = f"Read them apart: schema={names[:2]}, schema='{names[2]}'"
    assert str(refused.value).endswith(apart)
    together = Lake(str(output)).topic("/speed", schema=names[:2]).to_table().sort_by("log_time_ns")
    assert together["q"].to_pylist() == [3, None]
    database = with_views(output, capsys)
    assert sorted(comments(database)) == sorted(
        [*(f"speed@{name}" for name in names), f"speed@{names[0]}+{names[1]}"]
    )
    query = f'SELECT q FROM "speed@{names[0]}+{names[1]}" ORDER BY log_time_ns'
    assert database.execute(query).fetchall() == [(3,), (None,)]


STAMPED = "std_msgs/Header header\ngeometry_msgs/Vector3 speed\nfloat64[9] covariance\n"


def test_ros_1_and_ros_2_of_one_type_are_one_table(tmp_path: Path) -> None:
    """The header's seq went and its stamp's seconds are signed: all values are there."""
    output = tmp_path / "lake"
    for suffix, more, sec in ((".bag", [7], 2**31 - 1), (".mcap", [], -5)):
        store = get_typestore(Stores.ROS1_NOETIC if more else Stores.ROS2_HUMBLE)
        types = store.types
        value = {
            "header": types["std_msgs/msg/Header"](*more, types["builtin_interfaces/msg/Time"](sec, 9), "f"),
            "speed": types["geometry_msgs/msg/Vector3"](1.0, 2.0, 3.0),
            "covariance": np.arange(9.0),
        }
        start_ns = START_NS + (not more) * SECOND
        extract(
            write(tmp_path / f"d{suffix[1:]}/a{suffix}", STAMPED, [value], start_ns=start_ns).parent, output
        )
    (commit,) = [
        each for drive in ("dbag", "dmcap") for each in Lake(str(output)).drive(drive).commits if each.drift
    ]
    assert commit.drift[0].fields == (
        "`header.seq` removed (uint32)", "`header.stamp.sec` uint32 -> int32: read as int64",
    )  # fmt: skip
    rows = Lake(str(output)).topic("/speed").to_table().sort_by("log_time_ns").to_pylist()
    assert [row["header"] for row in rows] == [
        {"seq": 7, "stamp": {"sec": 2**31 - 1, "nanosec": 9}, "frame_id": "f"},
        {"seq": None, "stamp": {"sec": -5, "nanosec": 9}, "frame_id": "f"},
    ]
    assert [row["publish_time_ns"] is None for row in rows] == [True, False]
    assert rows[0]["covariance"] == rows[1]["covariance"] == list(range(9))


def test_another_message_type_on_the_topic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lake"
    write(tmp_path / "d/a.bag", "float32 data\n", [{"data": 0.5}], kind="std_msgs/msg/Float32")
    wider = [{"data": 0.25}]
    write(
        tmp_path / "d/b.bag", "float64 data\n", wider, kind="std_msgs/msg/Float64", start_ns=START_NS + SECOND
    )
    write(
        tmp_path / "e/a.bag", "bool on\n", [{"on": True}], kind="car/msg/On", start_ns=START_NS + 2 * SECOND
    )
    (first,) = extract(tmp_path / "d", output).drift
    assert (first.change, first.fields) == (
        Change.WIDENED,
        ("`data` float32 -> float64", "its type is std_msgs/msg/Float64, was std_msgs/msg/Float32"),
    )
    (second,) = extract(tmp_path / "e", output).drift
    assert (second.change, second.fields[0]) == (Change.BROKEN, "the message data -> on: no field is in both")
    (topic,) = report(output, capsys)
    assert [each["type"] for each in topic["definitions"]] == [
        "std_msgs/Float32", "std_msgs/Float64", "car/On",
    ]  # fmt: skip


def test_constants_alone_are_the_same_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ROS 1's md5sum is over constants too, so that the partition is another."""
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.bag", f"uint8 P=0\n{FIRST}", speeds(1)).parent, output)
    commit = extract(
        write(tmp_path / "two/a.bag", f"uint8 P=9\n{FIRST}", speeds(2), start_ns=START_NS + SECOND).parent,
        output,
    )
    assert (said(commit), commit.drift[0].fields) == (
        [("/speed", "same", "a.bag", "one")], ("constants of car/msg/Speed changed: P 0 -> 9",),
    )  # fmt: skip
    assert "the same columns" in "".join(_text(output, capsys))
    assert Lake(str(output)).topic("/speed").to_table()["gear"].to_pylist() == [1, 2]


def _text(output: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert cli.main(["drift", str(output), *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_clouds_whose_fields_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xyz = [(name, place * 4, 7, 1) for place, name in enumerate("xyz")]
    clouds = [
        Cloud([*xyz, ("ring", 12, 2, 1)], 13, 2, bytes(26)),
        Cloud([*xyz, ("ring", 12, 4, 1)], 14, 2, bytes(28)),
        Cloud([*xyz, ("ring", 12, 4, 1), ("time", 14, 8, 1)], 22, 1, bytes(22)),
    ]
    bag = write_clouds(tmp_path / "a.mcap", clouds)
    output = tmp_path / "lake"
    commit = extract(bag, output, drive_id="d", options=ExtractOptions(pointcloud=PointClouds.DECODED))
    assert [(each.change, each.fields[0]) for each in commit.drift] == [
        ("widened", "`ring` uint8[] -> uint16[]"),
        ("added", "`time` added (float64[])"),
    ]
    assert [each["first_log_time_ns"] for each in report(output, capsys)[0]["definitions"]] == [
        START_NS, START_NS + 1, START_NS + 2,
    ]  # fmt: skip
    rows = Lake(str(output)).topic("/topic").to_table().sort_by("log_time_ns")
    assert rows.schema.field("ring").type.value_type == pa.uint16()
    assert rows["time"].to_pylist() == [None, None, [0.0]]


def test_json_whose_fields_may_be_left_out(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    for name, required, values in (("a", ["x", "on"], [{"x": 1, "on": True}]), ("b", ["x"], [{"x": 2}])):
        properties = {"x": {"type": "integer"}, "on": {"type": "boolean"}}
        schema = json.dumps({"type": "object", "properties": properties, "required": required})
        (tmp_path / name).mkdir()
        payloads = [json.dumps(value).encode() for value in values]
        bag = tmp_path / name / "a.mcap"
        write_mcap(bag, "T", payloads, schema=schema, schema_encoding="jsonschema", encoding="json")
        commit = extract(tmp_path / name, output)
    assert (said(commit), commit.drift[0].fields) == (
        [("/topic", "widened", "a.mcap", "a")], ("`on` bool -> bool, may be null",),
    )  # fmt: skip
    rows = Lake(str(output)).topic("/topic").to_table().select(["x", "on"]).to_pylist()
    assert rows == [{"x": 1, "on": True}, {"x": 2, "on": None}]


def test_rows_that_a_transform_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "site")
    install(
        tmp_path / "site",
        "def it(rows, topic):\n    return rows.drop_columns(['gear', 'log_time', 'log_time_ns'])",
        {"it": "it"},
    )
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, output)
    options = ExtractOptions(transforms=contract.transform_rules({"/speed": "it"}))
    bag = write(tmp_path / "two/a.bag", FIRST, speeds(1, 2), start_ns=START_NS + SECOND)
    commit = extract(bag.parent, output, options=options)
    assert (said(commit), commit.drift[0].fields) == (
        [("/speed", "added", "a.bag", "one")],
        ("`gear` removed (uint8)", "its rows are made by transform it, were as recorded"),
    )
    (topic,) = report(output, capsys)
    made = topic["definitions"][1]
    assert (made["transform"], made["first_bag"], made["rows"]) == ("it", "a.bag", 2)
    # Without times of their own, those of the messages that the rows were made of.
    assert (made["first_log_time_ns"], made["last_log_time_ns"]) == (START_NS + SECOND, START_NS + 2 * SECOND)
    rows = Lake(str(output)).topic("/speed").to_table()
    assert sorted(rows["gear"].to_pylist(), key=str) == [1, None, None]
    assert rows["log_time_ns"].null_count == 2


# --- what a commit says, and when ----------------------------------------------------------------------


def test_who_brings_a_definition_says_so_and_nobody_after(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    for number in range(4):
        text = FIRST if number in (0, 2) else ADDED
        more = {} if text == FIRST else {"source": "can"}
        write(tmp_path / f"d{number}/a.bag", text, speeds(1, **more), start_ns=START_NS + number * SECOND)
    assert [len(extract(tmp_path / f"d{number}", output).drift) for number in range(4)] == [0, 1, 0, 0]
    records = sorted((output / "_schemas" / "speed").iterdir())
    assert len(records) == 2
    # A run that replaces the one that brought it brings it again; who has it now is another drive.
    again = extract(tmp_path / "d1", output, overwrite=True)
    assert said(again) == [("/speed", "added", "a.bag", "d0")]
    # And what only it had is not held against anybody when it is gone.
    only = extract(write(tmp_path / "solo/a.bag", "int8 a\n", [{"a": 1}], topic="/other").parent, output)
    assert only.drift == ()
    write(tmp_path / "solo/a.bag", "string a\n", [{"a": "x"}], topic="/other", start_ns=START_NS + SECOND)
    assert extract(tmp_path / "solo", output, overwrite=True).drift == ()


def test_an_older_drive_that_comes_later_is_held_against_what_the_lake_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lake"
    extract(
        write(tmp_path / "new/a.bag", ADDED, speeds(1, source="x"), start_ns=START_NS + SECOND).parent, output
    )
    commit = extract(write(tmp_path / "old/a.bag", FIRST, speeds(1)).parent, output)
    assert commit.drift[0].fields[0] == "`source` removed (string)"
    (topic,) = report(output, capsys)
    assert [each["first_drive"] for each in topic["definitions"]] == ["old", "new"]
    assert topic["definitions"][1]["fields"][0]["text"] == "`source` added (string)"


class WatchedStorage(LocalStorage):
    """Notes verbs, refuses those on URIs with ``refused``; ``meanwhile`` happens before the first create."""

    def __init__(self, refused: str = "\0", meanwhile: Any = None) -> None:
        self.calls: list[str] = []
        self._refused = refused
        self._meanwhile = meanwhile

    def _note(self, verb: str, uri: str) -> None:
        self.calls.append(f"{verb} {uri.rpartition('/')[2]}")
        if self._refused in uri:
            raise AccessDeniedError(f"{uri}: access denied")

    def read(self, uri: str) -> bytes:
        self._note("read", uri)
        return super().read(uri)

    def create(self, uri: str, data: bytes) -> None:
        self._note("create", uri)
        if self._meanwhile:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        super().create(uri, data)

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        self._note("list", folder)
        return super().objects(folder)


def committed(plan: Plan) -> DriveManifest:
    (commit,) = lake.read_drive(LocalStorage(), plan.output, plan.drive_id).commits
    return commit


def test_a_lake_that_has_all_definitions_costs_one_listing(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, output)
    plan = plan_of(write(tmp_path / "two/a.bag", FIRST, speeds(1)).parent, output)
    run.run_shard(plan, 0, JOB)
    storage = WatchedStorage()
    assert schema_records.find_drift(storage, plan, committed(plan)) == []
    assert storage.calls == ["list _schemas"]


def test_of_two_drives_that_bring_a_definition_each_at_once_one_says_so(tmp_path: Path) -> None:
    output = tmp_path / "lake"
    plans = []
    for name, text in (("one", FIRST), ("two", WIDER)):
        plans.append(plan_of(write(tmp_path / name / "a.bag", text, speeds(1)).parent, output))
        run.run_shard(plans[-1], 0, JOB)
    commits = [committed(plan) for plan in plans]
    for path in (output / "_schemas" / "speed").iterdir():
        path.unlink()
    found: dict[str, list[Drift]] = {}

    def other() -> None:
        found["two"] = schema_records.find_drift(LocalStorage(), plans[1], commits[1])

    found["one"] = schema_records.find_drift(WatchedStorage(meanwhile=other), plans[0], commits[0])
    assert [len(found[name]) for name in ("one", "two")] == [1, 0]
    # What a retry says is what it would have said.
    assert schema_records.find_drift(LocalStorage(), plans[0], commits[0]) == found["one"]


def test_a_record_names_its_columns_for_who_has_no_arrow(tmp_path: Path) -> None:
    plan = plan_of(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, tmp_path / "lake")
    run.run_shard(plan, 0, JOB)
    (table,) = committed(plan).tables
    path = tmp_path / "lake" / contract.schema_key("speed", table.schemas[0].schema)
    record = contract.from_json(contract.SchemaRecord, path.read_bytes(), where=str(path))
    columns = schema_records.definition_of_record(record).columns
    assert [(each.name, each.type) for each in record.columns] == [
        (each.name, str(each.type)) for each in columns
    ]
    assert ("log_time_ns", "int64") in {(each.name, each.type) for each in record.columns}


@pytest.mark.parametrize("refused", ["_schemas", ".parquet"])
def test_rights_that_are_missing_are_said_and_the_commit_goes_on(
    tmp_path: Path, refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, tmp_path / "lake")
    run.run_shard(plan, 0, JOB)
    (tmp_path / "lake" / contract.schema_key("speed", committed(plan).tables[0].schemas[0].schema)).unlink()

    class Refusing(WatchedStorage):
        def head(self, uri: str) -> ObjectInfo:
            self._note("head", uri)
            return super().head(uri)

    assert schema_records.find_drift(Refusing(refused), plan, committed(plan)) == []
    logged = capsys.readouterr().err
    assert ("drift_unknown" if refused == "_schemas" else "definition_unknown") in logged
    assert "access denied" in logged


def test_records_that_are_missing_or_broken_are_read_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, output)
    extract(write(tmp_path / "two/a.bag", WIDER, speeds(1), start_ns=START_NS + SECOND).parent, output)
    before = report(output, capsys)
    one, other = (output / "_schemas" / "speed").iterdir()
    one.unlink()
    other.write_text("{")
    assert report(output, capsys) == before
    # The next commit records again what is missing.
    extract(write(tmp_path / "three/a.bag", FIRST, speeds(1)).parent, output)
    extract(write(tmp_path / "four/a.bag", WIDER, speeds(1)).parent, output)
    assert one.is_file()


# --- across drives ---------------------------------------------------------------------------------------


def test_a_drive_that_is_not_committed_and_manifests_of_an_earlier_version_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.bag", FIRST, speeds(1, 2)).parent, output)
    extract(write(tmp_path / "two/a.bag", WIDER, speeds(1), start_ns=START_NS + SECOND).parent, output)
    before = report(output, capsys)
    for path in output.rglob("_manifests/**/drive.json"):
        commit = json.loads(path.read_bytes())
        if commit["drive_id"] == "one":
            path.unlink()
        else:
            for table in commit["tables"]:
                del table["schemas"]
            path.write_text(json.dumps(commit))
    assert report(output, capsys) == before
    for path in output.rglob("_manifests/**/00000.json"):
        manifest = json.loads(path.read_bytes())
        for topic in manifest["topics"]:
            for file in topic["files"]:
                for name in ("first_log_time_ns", "last_log_time_ns", "first_bag"):
                    del file[name]
        path.write_text(json.dumps(manifest))
    (topic,) = report(output, capsys)
    for each in before[0]["definitions"]:
        each["first_bag"] = ""
    assert topic == before[0]


def test_topics_are_chosen_and_a_lake_without_drift_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, output)
    assert _text(output, capsys) == ["No topic has more than one definition."]
    assert _text(output, capsys, "--all")[0] == "/speed: 1 definition, the same columns"
    assert report(output, capsys, "--all", "--topic", "/other/*") == []
    assert [each["table"] for each in report(output, capsys, "--all", "--topics", "/sp*")] == ["speed"]
    assert cli.main(["drift", str(tmp_path / "nothing")]) == contract.ExitCode.INPUT_MISSING
    assert "no lake is there" in capsys.readouterr().err


# --- views ------------------------------------------------------------------------------------------------


def with_views(output: Path, capsys: pytest.CaptureFixture[str]) -> duckdb.DuckDBPyConnection:
    """A database with the views that the command prints."""
    capsys.readouterr()
    assert cli.main(["views", str(output)]) == 0
    database = duckdb.connect()
    database.execute(capsys.readouterr().out)
    return database


def comments(database: duckdb.DuckDBPyConnection) -> dict[str, str]:
    found = database.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()
    return dict(found)


def test_a_view_reads_definitions_together_and_says_what_it_casts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "it's a [lake]"
    old = "Point[] points\nuint8 gear\n" + "=" * 80 + "\nMSG: car/Point\nfloat32 x\nfloat32[2] w\n"
    new = (
        "Point[] points\nint8 gear\nstring source\n"
        + "=" * 80
        + "\nMSG: car/Point\nfloat64 x\nfloat32[] w\nint8 q\n"
    )
    for name, text, number in (("007", old, 0), ("008", new, 1)):
        store = get_typestore(Stores.ROS2_HUMBLE)
        store.register(get_types_from_msg(text, SPEED))
        point = store.types["car/msg/Point"]
        points = [point(1.5, np.ones(2, np.float32), *([3] if number else []))]
        value = {"points": points, "gear": -7 if number else 250, **({"source": "can"} if number else {})}
        bag = write(tmp_path / name / "a.mcap", text, [value], start_ns=START_NS + number * SECOND)
        extract(bag.parent, output)
    write(tmp_path / "007/b.bag", "string a\n", [{"a": "one"}], topic='/quo"te')
    extract(tmp_path / "007", output)
    database = with_views(output, capsys)
    query = "SELECT drive_id, points, gear, source FROM speed ORDER BY log_time_ns"
    assert database.execute(query).fetchall() == [
        ("007", [{"x": 1.5, "w": [1.0, 1.0], "q": None}], 250, None),
        ("008", [{"x": 1.5, "w": [1.0, 1.0], "q": 3}], -7, "can"),
    ]
    types = database.execute("SELECT typeof(points), typeof(gear) FROM speed LIMIT 1").fetchone()
    assert types == ("STRUCT(x DOUBLE, w FLOAT[], q TINYINT)[]", "SMALLINT")
    first, second = [each["schema"] for each in report(output, capsys)[0]["definitions"]]
    assert comments(database) == {
        "speed": f"Topic /speed, car/msg/Speed; in schema {first}: `source` is null, `points[].q` is null, "
        "`points[].x` is cast from float32 to float64, `points[].w` is cast from float32[2] to float32[], "
        f"`gear` is cast from uint8 to int16; in schema {second}: `gear` is cast from int8 to int16",
        "quo%22te": 'Topic /quo"te, car/Speed',
    }


def test_views_take_no_column_of_the_lakes_own_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gear=9" / "drive_id=q" / "run=5"
    extract(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, output)
    database = with_views(output, capsys)
    digits = report(output, capsys, "--all")[0]["definitions"][0]["schema"]
    assert database.execute("SELECT gear, schema, drive_id FROM speed").fetchall() == [(1, digits, "one")]
    columns = {name for name, *_ in database.execute("DESCRIBE speed").fetchall()}
    plain = tmp_path / "plain"
    extract(tmp_path / "one", plain)
    database = with_views(plain, capsys)
    assert {name for name, *_ in database.execute("DESCRIBE speed").fetchall()} == columns


def test_topics_whose_names_differ_by_case_alone_have_a_view_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, topic in enumerate(("/foo", "/Foo", "/bar")):
        write(tmp_path / "one" / f"{number}.bag", FIRST, speeds(number), topic=topic)
    extract(tmp_path / "one", tmp_path / "lake")
    database = with_views(tmp_path / "lake", capsys)
    gears = {}
    for name, comment in comments(database).items():
        gears[comment] = database.execute(f'SELECT gear FROM "{name}"').fetchall()
    assert {comment.split(",")[0]: rows for comment, rows in gears.items()} == {
        "Topic /foo": [(0,)],
        "Topic /Foo": [(1,)],
        "Topic /bar": [(2,)],
    }
    assert "bar" in comments(database)
    assert cli.main(["views", str(tmp_path / "lake"), "--topics", "/none"]) == 0
    assert capsys.readouterr().out == "-- No topic of the lake matches.\n"
    assert cli.main(["drift", str(tmp_path / "lake"), "--topics", "/none"]) == 0
    assert capsys.readouterr().out == "No topic of the lake matches.\n"


def test_broken_definitions_have_a_view_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lake"
    extract(write(tmp_path / "one/a.bag", FIRST, speeds(1)).parent, output)
    database = with_views(output, capsys)
    assert database.execute("SELECT gear FROM speed").fetchall() == [(1,)]
    extract(write(tmp_path / "two/a.mcap", BROKEN, speeds("R"), start_ns=START_NS + SECOND).parent, output)
    first, second = [each["schema"] for each in report(output, capsys)[0]["definitions"]]
    database = with_views(output, capsys)
    assert sorted(comments(database)) == sorted([f"speed@{first}", f"speed@{second}"])
    assert comments(database)[f"speed@{second}"] == (
        f"Topic /speed, car/msg/Speed, schema {second} alone, for no table holds both schema {first} and "
        f"{second}: `gear` uint8 -> string: another type"
    )
    assert database.execute(f'SELECT gear FROM "speed@{second}"').fetchall() == [("R",)]


def test_on_s3(
    tmp_path: Path,
    embedded_aws: EmbeddedAws,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bucket = f"drift-{uuid.uuid4().hex[:12]}"
    embedded_aws.client("s3").create_bucket(Bucket=bucket)
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    write(tmp_path / "one/a.bag", FIRST, speeds(1))
    write(tmp_path / "two/a.mcap", ADDED, speeds(1, source="x"), start_ns=START_NS + SECOND)
    output = f"s3://{bucket}/a lake"
    for name in ("one", "two"):
        run.run_shard(plan_of(tmp_path / name, output), 0, JOB)
    logged = capsys.readouterr().err
    assert '"schema_drift", "drive_id": "two", "topic": "/speed", "change": "added"' in logged
    (topic,) = report(output, capsys)
    assert [(each["first_drive"], each["rows"]) for each in topic["definitions"]] == [("one", 1), ("two", 1)]
    assert Lake(output).topic("/speed").to_table()["value"].to_pylist() == [0.5, 0.5]
    assert cli.main(["views", output]) == 0
    digits = topic["definitions"][0]["schema"]
    assert f"'{output}/speed/schema={digits}/drive_id=*/*.parquet'" in capsys.readouterr().out
