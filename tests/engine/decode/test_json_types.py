"""JSON messages: columns from a JSON Schema, rows from text, and what is rejected."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mcap.reader import make_reader

from ros_to_parquet.bag.model import Connection
from ros_to_parquet.contract import ExtractOptions, ParquetStyle
from ros_to_parquet.decoders import Decoders, prepare
from ros_to_parquet.definitions import STANDARD_TYPES, DefinitionError
from ros_to_parquet.json_types import json_type
from ros_to_parquet.records import RecordDecoder
from tests.engine.decode.blocks import block, connection
from tests.engine.sample_bags import write_mcap
from tests.engine.test_run import REAL_BAGS, extract, rows

TIME = {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}}
SCHEMA = {
    "type": "object",
    "required": ["id", "when", "points"],
    "properties": {
        "id": {"type": "integer"},
        "when": {**TIME, "required": ["sec", "nsec"]},
        "points": {
            "type": "array",
            "items": {"type": "object", "required": ["x"], "properties": {"x": {"type": "number"}}},
        },
        "name": {"type": "string"},
        "data": {"type": "string", "contentEncoding": "base64"},
        "good": {"type": "boolean"},
        "pose": {"type": "object", "required": ["x"], "properties": {"x": {"type": "number"}}},
    },
}
MESSAGE = {
    "id": 7,
    "when": {"sec": 1, "nsec": 2},
    "points": [{"x": 1}, {"x": 2.5}],
    "name": "é",
    "data": base64.b64encode(b"\0\xff").decode(),
    "good": True,
    "pose": {"x": 1.0},
}
ROW = {**MESSAGE, "data": b"\0\xff"}
LEAST = {"id": 1, "when": {"sec": 0, "nsec": 0}, "points": []}


MULTIPLYING = {
    "$ref": "#/$defs/0",
    "$defs": {
        str(level): {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/{level + 1}"} for name in "abcdefghij"},
        }
        for level in range(20)
    },
}


def json_connection(schema: Any, *, text: str | None = None) -> Connection:
    definition = json.dumps(schema) if text is None else text
    return connection("pkg.Type", definition, encoding="json", definition_format="jsonschema")


def schema_of(schema: Any) -> pa.Schema:
    return json_type(json_connection(schema)).schema


def field_type(schema: Any, **document: Any) -> pa.DataType:
    return schema_of({"type": "object", "properties": {"a": schema}, **document}).field("a").type


def decode(schema: Any, *messages: Any) -> tuple[list[dict[str, Any]], Any]:
    decoder = RecordDecoder(json_type(json_connection(schema)))
    payloads = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages]
    for part in (payloads[:1], payloads[1:]):
        decoder.feed(block(part))
    decoded = decoder.take()
    for array, field in zip(decoded.columns, decoder.schema, strict=True):
        assert array.type == field.type
        assert field.nullable or not array.null_count
        array.validate(full=True)
    table = pa.Table.from_arrays(decoded.columns, schema=decoder.schema)
    assert table.num_rows == len(decoded.rows)
    return table.to_pylist(), decoded


def test_columns_and_rows() -> None:
    schema = schema_of(SCHEMA)
    assert {field.name: field.nullable for field in schema} == {
        **dict.fromkeys(("id", "when", "points"), False),
        **dict.fromkeys(("name", "data", "good", "pose"), True),
    }
    assert schema.field("when").type == pa.struct(
        [pa.field("sec", pa.int64(), nullable=False), pa.field("nsec", pa.int64(), nullable=False)]
    )
    assert schema.field("points").type.value_type.field("x").type == pa.float64()
    assert schema.field("data").type == pa.binary()
    found, decoded = decode(SCHEMA, MESSAGE, LEAST)
    absent = dict.fromkeys(("name", "data", "good", "pose"))
    assert found == [ROW, LEAST | absent]
    assert decoded.rejected == []
    assert decoded.remark == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "7"}, "field id is a string, not an integer"),
        ({"id": True}, "field id is true or false, not an integer"),
        ({"id": 1.5}, "field id is a number, not an integer"),
        ({"id": 2**63}, "field id is an integer, not one of 64 bits"),
        ({"id": None}, "field id is null"),
        ({"when": {"sec": 1}}, "field when.nsec is missing"),
        ({"points": {}}, "field points is an object, not an array"),
        ({"points": [{"x": "far"}]}, "field points[].x is a string, not a number"),
        ({"points": [{"x": 10**400}]}, "not a number of 64 bits"),
        ({"data": "?"}, "field data is not base64"),
        ({"name": 1}, "field name is an integer, not a string"),
        ({"good": 1}, "field good is an integer, not true or false"),
        ({"pose": []}, "field pose is an array, not an object"),
    ],
)
def test_a_message_that_is_not_of_its_schema_is_rejected_alone(change: dict[str, Any], reason: str) -> None:
    found, decoded = decode(SCHEMA, MESSAGE, MESSAGE | change, LEAST)
    assert [row["id"] for row in found] == [7, 1]
    assert decoded.rows.tolist() == [0, 2]
    ((index, said),) = decoded.rejected
    assert index == 1
    assert reason in said
    if "64 bits" not in reason and "base64" not in reason:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(MESSAGE | change, SCHEMA)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b"", "not JSON: Expecting value"),
        (b'{"id": "\xff"}', "not UTF-8 text: byte 0xff at 8"),
        (b"[" * 100_000, "nested too deep"),
        (b"[]", "the message is an array, not an object"),
        (b"null", "the message is null, not an object"),
    ],
)
def test_what_is_no_json_is_rejected(payload: bytes, reason: str) -> None:
    found, decoded = decode(SCHEMA, LEAST, payload, LEAST)
    assert len(found) == 2
    assert decoded.rejected[0][0] == 1
    assert reason in decoded.rejected[0][1]


@pytest.mark.parametrize("schema", [True, {"properties": {"a": {}}}])
def test_nesting_is_rejected_at_any_depth_or_read(schema: Any) -> None:
    limit = sys.getrecursionlimit()
    depths = range(limit - 200, limit + 20)
    decoder = RecordDecoder(json_type(json_connection(schema)))
    decoder.feed(block([b'{"a":' + b"[" * depth + b"]" * depth + b"}" for depth in depths]))
    decoded = decoder.take()
    assert len(decoded.rows) + len(decoded.rejected) == len(depths)
    assert {reason for _, reason in decoded.rejected} <= {"nested too deep"}


def test_integers_that_are_written_as_floats_and_numbers_that_are_not_finite() -> None:
    found, _ = decode(SCHEMA, b'{"id": 7.0, "when": {"sec": 0, "nsec": 0}, "points": [{"x": Infinity}]}')
    assert (found[0]["id"], found[0]["points"]) == (7, [{"x": float("inf")}])


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": ["number", "null"]}, pa.float64()),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"type": ["integer", "string"]}, pa.string()),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, pa.int64()),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, pa.string()),
        ({"type": "integer", "oneOf": [{"const": 0, "title": "A"}, {"const": 1}]}, pa.int64()),
        ({"oneOf": [{"const": "a"}, {"const": "b"}]}, pa.string()),
        ({"enum": [1, 2]}, pa.int64()),
        ({"const": True}, pa.bool_()),
        ({}, pa.string()),
        (True, pa.string()),
        ({"type": "object"}, pa.string()),
        ({"type": "object", "additionalProperties": {"type": "number"}}, pa.string()),
        ({"type": "array"}, pa.string()),
        ({"type": "array", "items": [{"type": "number"}]}, pa.string()),
        ({"items": {"type": "integer"}}, pa.list_(pa.field("element", pa.int64(), nullable=False))),
        ({"$ref": "https://example.com/other.json"}, pa.string()),
        ({"$ref": "#/nothing"}, pa.string()),
    ],
)
def test_types(schema: Any, kind: pa.DataType) -> None:
    assert field_type(schema) == kind


def test_references_and_schemas_within_themselves() -> None:
    defs = {
        "n": {"type": "integer"},
        "pair": {"properties": {"a~b/c": {"$ref": "#/$defs/n"}}},
        "tree": {
            "type": "object",
            "properties": {"n": {"$ref": "#/$defs/n"}, "next": {"$ref": "#/$defs/tree"}},
        },
        "both": {
            "allOf": [{"$ref": "#/$defs/pair"}, {"properties": {"x": {"type": "number"}}, "required": ["x"]}]
        },
    }
    defs["pointed"] = {"$ref": "#/$defs/pair/properties/a~0b~1c"}
    document = {"$defs": defs}
    assert field_type({"$ref": "#/$defs/pointed"}, **document) == pa.int64()
    generic = {"$defs": {"Partial<100%>": {"type": "boolean"}}}
    assert field_type({"$ref": "#/$defs/Partial%3C100%25%3E"}, **generic) == pa.bool_()
    both = field_type({"$ref": "#/$defs/both"}, **document)
    assert [(child.name, str(child.type), child.nullable) for child in both] == [
        ("a~b/c", "int64", True),
        ("x", "double", False),
    ]
    schema = {"type": "object", "properties": {"t": {"$ref": "#/$defs/tree"}}, **document}
    found, _ = decode(schema, {"t": {"n": 1, "next": {"n": 2, "next": {"n": 3}}}})
    assert found == [{"t": {"n": 1, "next": '{"n":2,"next":{"n":3}}'}}]


def test_messages_without_a_schema_and_those_that_are_no_objects() -> None:
    bare = connection("", "", encoding="json")
    decoder = RecordDecoder(json_type(bare))
    decoder.feed(block([b'{"a": [1, "\xc3\xa9"]}', b"null", b"oops"]))
    decoded = decoder.take()
    assert decoded.columns[0].to_pylist() == ['{"a":[1,"é"]}', "null"]
    assert decoded.rejected == [(2, "not JSON: Expecting value: line 1 column 1 (char 0)")]
    assert decode({"type": "array", "items": {"type": "number"}}, [1, 2], [])[0] == [
        {"value": [1.0, 2.0]},
        {"value": []},
    ]
    assert decode({"type": ["number", "null"]}, 1, None)[0] == [{"value": 1.0}, {"value": None}]


def test_fields_that_the_schema_does_not_name_are_said() -> None:
    extra = LEAST | {"colour": "red", "when": {"sec": 0, "nsec": 0, "zone": "UTC"}}
    found, decoded = decode(SCHEMA, LEAST, extra)
    assert len(found) == 2
    assert decoded.remark.endswith("that are in no column: colour, when.zone")


def test_half_of_a_surrogate_pair_is_escaped_and_counted() -> None:
    found, decoded = decode(
        SCHEMA, LEAST, b'{"id":1,"when":{"sec":0,"nsec":0},"points":[],"name":"\\ud800!"}'
    )
    assert found[1]["name"] == "\\ud800!"
    assert decoded.repaired_strings == 1


def test_names_of_the_engine_and_names_that_differ_in_case() -> None:
    integer = {"type": "integer"}
    schema = {"type": "object", "properties": {"log_time": integer, "A": integer, "a": integer}}
    assert decode(schema, {"log_time": 1, "A": 2, "a": 3})[0] == [{"log_time_": 1, "A": 2, "a_": 3}]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (json_connection(None, text="{"), "type pkg.Type: its JSON Schema is not JSON"),
        (
            connection("pkg/Type", "uint8 a", encoding="json"),
            "JSON messages with a definition in 'ros2msg' are not supported; jsonschema is",
        ),
        (
            json_connection({"type": "object", "properties": {f"p{n}": {} for n in range(5001)}}),
            "type pkg.Type: its JSON Schema has more than 5000 fields",
        ),
        (json_connection(MULTIPLYING), "its JSON Schema has more than 5000 fields"),
    ],
)
def test_schemas_that_cannot_be_used(source: Connection, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        json_type(source)
    assert said in str(caught.value)


def test_the_hash_is_of_name_and_schema() -> None:
    def digits(source: Connection) -> str:
        import dataclasses

        return prepare(
            dataclasses.replace(block([b"{}"]), connection=source), STANDARD_TYPES, Decoders()
        ).schema_hash

    one, two = json_connection(SCHEMA), json_connection({**SCHEMA, "required": []})
    assert digits(one) == digits(json_connection(SCHEMA)) != digits(two)


def test_from_bag_to_parquet_and_back(tmp_path: Path) -> None:
    messages = [MESSAGE, LEAST, {**MESSAGE, "id": "x"}, {**LEAST, "more": 1}]
    bag = write_mcap(
        tmp_path / "a.mcap",
        "pkg.Type",
        [json.dumps(message).encode() for message in messages],
        schema=json.dumps(SCHEMA),
        schema_encoding="jsonschema",
        encoding="json",
    )
    (topic,) = extract(bag, output=tmp_path / "lake").topics
    assert (topic.messages, topic.rows, topic.rejected) == (4, 3, 1)
    assert topic.rejects[0].reason == "field id is a string, not an integer"
    assert topic.remark.endswith("in no column: more")
    table = rows(tmp_path / "lake", "topic").select(list(ROW))
    absent = dict.fromkeys(("name", "data", "good", "pose"))
    assert table.to_pylist() == [ROW, LEAST | absent, LEAST | absent]


@pytest.mark.parametrize("style", ParquetStyle)
def test_a_name_with_a_dot_beside_the_path_that_it_looks_like(tmp_path: Path, style: ParquetStyle) -> None:
    inner = {"type": "object", "required": ["b", "c"]}
    inner["properties"] = {"b": {"type": "number"}, "c": {"type": "integer"}}
    named = {"a.b": {"type": "string"}, "a": inner, "a.c": {"type": "number"}}
    message = {"a.b": "text", "a": {"b": 0.5, "c": 7}, "a.c": 1.5}
    bag = write_mcap(
        tmp_path / "a.mcap",
        "pkg.Type",
        [json.dumps(message).encode()],
        schema=json.dumps({"type": "object", "required": list(named), "properties": named}),
        schema_encoding="jsonschema",
        encoding="json",
    )
    extract(bag, output=tmp_path / "lake", options=ExtractOptions(parquet=style))
    (file,) = (tmp_path / "lake" / "topic").rglob("*.parquet")
    assert pq.read_table(file, partitioning=None).select(list(named)).to_pylist() == [message]


@pytest.mark.skipif(not REAL_BAGS.exists(), reason="no real bags here")
def test_a_real_bag(tmp_path: Path) -> None:
    bag = REAL_BAGS / "lichtblick-suite+lichtblick" / "custom-camera-model.mcap"
    manifest = extract(bag, output=tmp_path)
    assert {topic.topic: (topic.rows, topic.rejected, topic.remark) for topic in manifest.topics} == {
        "/camera_calibration": (10, 0, ""),
        "/camera_calibration/custom": (10, 0, ""),
        "/image/compressed": (10, 0, ""),
    }
    with bag.open("rb") as file:
        recorded: dict[str, list[Any]] = {}
        for _, channel, message in make_reader(file).iter_messages():
            recorded.setdefault(channel.topic, []).append(json.loads(message.data))
    for topic in manifest.topics:
        table = rows(tmp_path, topic.table).to_pylist()
        for row, message in zip(table, recorded[topic.topic], strict=True):
            for key, value in message.items():
                assert row[key] == (base64.b64decode(value) if key == "data" else value)
