"""Protobuf messages: columns from descriptors, rows by the library, and what is rejected."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ros_to_parquet.bag.model import Connection
from ros_to_parquet.definitions import DefinitionError
from ros_to_parquet.protobuf_types import protobuf_type
from ros_to_parquet.records import RecordDecoder
from tests.engine.decode.blocks import block, connection
from tests.engine.sample_bags import write_mcap
from tests.engine.test_run import extract, rows

pytest.importorskip("google.protobuf")

from google.protobuf import descriptor_pb2, message_factory, struct_pb2, text_format, timestamp_pb2

# In the grammar of descriptors, with the words that every field has cut short.
FILE = """
name: "car.proto" package: "car" syntax: "proto3"
dependency: "google/protobuf/timestamp.proto" dependency: "google/protobuf/struct.proto"
enum_type { name: "Gear" value { name: "PARK" number: 0 } value { name: "DRIVE" number: 1 } }
message_type { name: "Nothing" }
message_type { name: "Point" field { name: "x" number: 1 type: DOUBLE } }
message_type { name: "Tree"
  field { name: "n" number: 1 type: INT32 }
  field { name: "next" number: 2 type: MESSAGE type_name: ".car.Tree" }
}
message_type { name: "State"
  field { name: "time" number: 1 type: MESSAGE type_name: ".google.protobuf.Timestamp" }
  field { name: "gear" number: 2 type: ENUM type_name: ".car.Gear" }
  field { name: "points" number: 3 type: MESSAGE type_name: ".car.Point" repeated }
  field { name: "name" number: 4 type: STRING }
  field { name: "data" number: 5 type: BYTES }
  field { name: "limits" number: 6 type: MESSAGE type_name: ".car.State.LimitsEntry" repeated }
  field { name: "left" number: 7 type: FLOAT oneof_index: 0 }
  field { name: "right" number: 8 type: BOOL oneof_index: 0 }
  field { name: "tree" number: 9 type: MESSAGE type_name: ".car.Tree" }
  field { name: "any" number: 10 type: MESSAGE type_name: ".google.protobuf.Struct" }
  field { name: "nothing" number: 11 type: MESSAGE type_name: ".car.Nothing" }
  field { name: "big" number: 12 type: UINT64 }
  field { name: "bag" number: 13 type: SINT64 repeated }
  nested_type { name: "LimitsEntry" options { map_entry: true }
    field { name: "key" number: 1 type: STRING }
    field { name: "value" number: 2 type: INT32 }
  }
  oneof_decl { name: "side" }
}
"""


def _with_label(match: re.Match[str]) -> str:
    return f"{match[1]} label: LABEL_{'REPEATED' if match[2] else 'OPTIONAL'} }}"


def file_set() -> descriptor_pb2.FileDescriptorSet:
    """In the wrong order: the file first, what it imports after it."""
    files = descriptor_pb2.FileDescriptorSet()
    text = re.sub(r"(type: )([A-Z])", r"\1TYPE_\2", FILE)
    text = re.sub(r"(?<=field { )([^}]*?)( repeated)? }", _with_label, text)
    text_format.Parse(text, files.file.add())
    for module in (timestamp_pb2, struct_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    return files


def state_class() -> Any:
    files = file_set().file
    return message_factory.GetMessages([files[1], files[2], files[0]])["car.State"]


def proto_connection(type_name: str = "car.State", *, data: bytes | None = None) -> Connection:
    data = file_set().SerializeToString() if data is None else data
    return connection(
        type_name, base64.b64encode(data).decode(), encoding="protobuf", definition_format="protobuf"
    )


def full_state() -> Any:
    state = state_class()(
        gear=1, name="é", data=b"\0\xff", limits={"b": -1, "a": 2}, right=False, big=2**64 - 1, bag=[-1, 2]
    )
    state.time.seconds, state.time.nanos = 5, 6
    state.points.add(x=1.5)
    state.points.add()
    state.tree.n = 1
    state.tree.next.n = 2
    state.any["k"] = [1, "two"]
    state.nothing.SetInParent()
    return state


ROW = {
    "time": {"seconds": 5, "nanos": 6},
    "gear": 1,
    "points": [{"x": 1.5}, {"x": 0.0}],
    "name": "é",
    "data": b"\0\xff",
    "limits": [{"key": "a", "value": 2}, {"key": "b", "value": -1}],
    "left": None,
    "right": False,
    "tree": {"n": 1, "next": '{"n": 2}'},
    "any": '{"k": [1.0, "two"]}',
    "nothing": {"structure_needs_at_least_one_member": 0},
    "big": 2**64 - 1,
    "bag_": [-1, 2],
}
EMPTY_ROW = {
    **dict.fromkeys(("time", "left", "right", "tree", "any", "nothing")),
    "gear": 0,
    "points": [],
    "name": "",
    "data": b"",
    "limits": [],
    "big": 0,
    "bag_": [],
}


def test_columns_and_rows() -> None:
    decoder = RecordDecoder(protobuf_type(proto_connection()))
    schema = decoder.schema
    assert [field.name for field in schema if field.nullable] == [
        "time",
        "left",
        "right",
        "tree",
        "any",
        "nothing",
    ]
    assert schema.field("left").type == pa.float32()
    assert schema.field("big").type == pa.uint64()
    assert schema.field("data").type == pa.binary()
    decoder.feed(block([full_state().SerializeToString(), b"\x0a\xff", b"", b"\x22\x01\xff"]))
    decoded = decoder.take()
    for array, field in zip(decoded.columns, schema, strict=True):
        assert array.type == field.type
        array.validate(full=True)
    assert pa.Table.from_arrays(decoded.columns, schema=schema).to_pylist() == [ROW, EMPTY_ROW]
    assert decoded.rows.tolist() == [0, 2]
    assert [index for index, _ in decoded.rejected] == [1, 3]
    assert all(reason.startswith("not a car.State: ") for _, reason in decoded.rejected)


def test_fields_that_the_schema_does_not_name_are_said() -> None:
    decoder = RecordDecoder(protobuf_type(proto_connection()))
    decoder.feed(block([b"\xf8\x01\x05" + state_class()(gear=1).SerializeToString()]))
    decoded = decoder.take()
    assert decoded.columns[1].to_pylist() == [1]
    assert decoded.remark.endswith("in no column: car.State number 31")


def test_fields_that_are_called_as_methods_of_messages_are() -> None:
    files = descriptor_pb2.FileDescriptorSet()
    message = files.file.add(name="m.proto", package="m").message_type.add(name="M")
    for number, name in enumerate(("HasField", "DESCRIPTOR", "ListFields"), start=1):
        message.field.add(name=name, number=number, type=5, label=1)
    message.field.add(name="inner", number=4, type=11, label=1, type_name=".m.M")
    decoder = RecordDecoder(protobuf_type(proto_connection("m.M", data=files.SerializeToString())))
    decoder.feed(block([b"\x08\x07\x10\x08\xf8\x01\x05", b"\x22\x02\x08\x07"]))
    decoded = decoder.take()
    assert [column.to_pylist() for column in decoded.columns] == [[7], [8], [None], [None]]
    assert decoded.remark.endswith("in no column: m.M number 31")
    assert decoded.rejected == [(1, "a m.M that JSON cannot say")]


def test_messages_in_messages_that_multiply_are_refused() -> None:
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="m.proto", package="m")
    for level in range(20):
        message = file.message_type.add(name=f"M{level}")
        for number in range(1, 11 if level < 19 else 1):
            message.field.add(
                name=f"f{number}", number=number, type=11, label=1, type_name=f".m.M{level + 1}"
            )
    with pytest.raises(DefinitionError, match=r"type m\.M0: its protobuf schema has more than 5000 fields"):
        protobuf_type(proto_connection("m.M0", data=files.SerializeToString()))


def test_values_that_are_not_numbers() -> None:
    decoder = RecordDecoder(protobuf_type(proto_connection()))
    decoder.feed(block([state_class()(left=math.inf).SerializeToString()]))
    assert decoder.take().columns[6].to_pylist() == [math.inf]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (proto_connection("car.Missing"), "type car.Missing: its protobuf schema cannot be used: "),
        (
            proto_connection(data=b"\xff"),
            "it must be a FileDescriptorSet with the type and all that it imports",
        ),
        (proto_connection(data=file_set().file[0].SerializeToString()), "its protobuf schema cannot be used"),
        (connection("car.State", "", encoding="protobuf"), "need a schema of encoding 'protobuf'"),
    ],
)
def test_schemas_that_cannot_be_used(source: Connection, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        protobuf_type(source)
    assert said in str(caught.value)


def test_from_bag_to_parquet(tmp_path: Path) -> None:
    bag = write_mcap(
        tmp_path / "a.mcap",
        "car.State",
        [full_state().SerializeToString(), b"\x0a\xff", b""],
        schema=file_set().SerializeToString(),
        schema_encoding="protobuf",
        encoding="protobuf",
    )
    (topic,) = extract(bag, output=tmp_path / "lake").topics
    assert (topic.messages, topic.rows, topic.rejected) == (3, 2, 1)
    assert rows(tmp_path / "lake", "topic").select(list(ROW)).to_pylist() == [ROW, EMPTY_ROW]
