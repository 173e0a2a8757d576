"""Definitions as they are found in bags, odd ones included, and their hashes."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from rosbags.typesys import get_types_from_idl

from ros_to_parquet.decode import Decoder
from ros_to_parquet.definitions import ROS2_DISTRIBUTIONS, parse_msg
from ros_to_parquet.idl import parse_idl
from ros_to_parquet.layout import (
    Array,
    DefinitionError,
    Field,
    Node,
    Primitive,
    Sequence,
    String,
    Struct,
    definition_of,
    fallback_layouts,
    resolve_layout,
    standard_layout,
)
from ros_to_parquet.schema import md5sum, rihs01, schema_hash

from . import oracles
from .blocks import block, connection

SEPARATOR = "=" * 80


def shape(node: Node) -> object:
    """A node in brief, to compare with."""
    match node:
        case Primitive():
            return node.name
        case String():
            return "wstring" if node.wide else "string"
        case Struct():
            return {field.name: shape(field.node) for field in node.fields}
        case Array():
            return [shape(node.item), node.size]
        case Sequence():
            return [shape(node.item)]


def fields(definition: str, *, encoding: str = "cdr", definition_format: str | None = None) -> object:
    source = connection("pkg/Type", definition, encoding=encoding, definition_format=definition_format)
    return shape(resolve_layout(source).root)


# --- against `rosbags` -------------------------------------------------------------------------------


def test_ros1_texts_resolve_as_the_standard_types_do() -> None:
    store = oracles.typestore("ros1_noetic")
    for name in store.fielddefs:
        if name.startswith("builtin_interfaces"):
            continue  # ROS 1 has no such messages
        text, md5 = store.generate_msgdef(name)
        layout = resolve_layout(connection(name, text, encoding="ros1"))
        assert shape(layout.root) == shape(standard_layout(name, "ros1_noetic", 1).root)
        assert md5sum(layout.root) == md5


@pytest.mark.parametrize("distribution", ROS2_DISTRIBUTIONS)
def test_ros2_texts_resolve_as_the_standard_types_do(distribution: str) -> None:
    store = oracles.typestore(f"ros2_{distribution}")
    for name in store.fielddefs:
        text, _ = store.generate_msgdef(name, 2)
        layout = resolve_layout(connection(name, text))
        standard = standard_layout(name, f"ros2_{distribution}", 2)
        assert shape(layout.root) == shape(standard.root)
        assert rihs01(layout.root) == rihs01(standard.root)
        if not re.search(r"\bchar\b", text):
            # `rosbags` has another number for char; bags recorded by ROS 2 itself tell that it is uint8's.
            assert f"RIHS01_{rihs01(layout.root)}" == store.hash_rihs01(name)


# --- the language ------------------------------------------------------------------------------------


def test_what_the_two_versions_call_differently() -> None:
    text = "byte a\nchar b\ntime t\nduration d\n"
    assert fields(text, encoding="ros1") == {
        "a": "int8",
        "b": "uint8",
        "t": {"sec": "uint32", "nanosec": "uint32"},
        "d": {"sec": "int32", "nanosec": "int32"},
    }
    assert fields(text) == {
        "a": "uint8",
        "b": "uint8",
        "t": {"sec": "int32", "nanosec": "uint32"},
        "d": {"sec": "int32", "nanosec": "uint32"},
    }


def test_shapes_bounds_defaults_constants_and_comments() -> None:
    text = """
    # a comment
    uint8 MODE=1 # one
    uint8 lower_case = 2
    string NAME=a # b = c
    string<=5 WORD="x"
    float64[9] fixed
    float64[] any # with a comment
    int32[<=3] bounded
    string<=10[<=5] names ["a", "b"]
    bool  flag   true
    string text "a=b # c"\r
    @key
    @verbatim(language="comment", text="x") uint8 id
    wstring wide
    wstring<=3 narrow
    uint8[0] none
    """
    assert fields(text) == {
        "fixed": ["float64", 9],
        "any": ["float64"],
        "bounded": ["int32"],
        "names": ["string"],
        "flag": "bool",
        "text": "string",
        "id": "uint8",
        "wide": "wstring",
        "narrow": "wstring",
        "none": ["uint8", 0],
    }
    constants = parse_msg(text, "pkg/Type", ros_version=1)["pkg/msg/Type"].constants
    assert [(c.type_name, c.name, c.text) for c in constants] == [
        ("uint8", "MODE", "1"),
        ("uint8", "lower_case", "2"),
        ("string", "NAME", "a # b = c"),
        ("string", "WORD", '"x"'),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_dependencies_follow_separators(newline: str) -> None:
    lines = ["Inner[] items", "other/Inner one", SEPARATOR, "MSG: pkg/Inner", "uint8 x", ""]
    lines += [SEPARATOR + "  ", "MSG: other/msg/Inner", "float32 y", SEPARATOR, "MSG: pkg/Inner", "int64 z"]
    assert fields(newline.join(lines)) == {"items": [{"x": "uint8"}], "one": {"y": "float32"}}


def test_the_root_may_have_a_header_of_its_own() -> None:
    text = f"{SEPARATOR}\nMSG: pkg/Type\nInner a\n{SEPARATOR}\nMSG: pkg/Inner\nbool b\n"
    assert fields(text) == {"a": {"b": "bool"}}
    assert fields(f"{SEPARATOR}\nMSG: pkg/Inner\nbool b\n") == {}


def test_missing_dependencies_are_taken_from_the_standard_types() -> None:
    assert fields("Header header\ngeometry_msgs/Point[2] p", encoding="ros1") == {
        "header": {"seq": "uint32", "stamp": {"sec": "uint32", "nanosec": "uint32"}, "frame_id": "string"},
        "p": [{"x": "float64", "y": "float64", "z": "float64"}, 2],
    }
    assert fields("Header header") == {
        "header": {"stamp": {"sec": "int32", "nanosec": "uint32"}, "frame_id": "string"}
    }


def test_a_package_may_have_a_header_of_its_own_in_ros2_alone() -> None:
    text = f"Header header\n{SEPARATOR}\nMSG: pkg/Header\nuint8 x\n"
    assert fields(text) == {"header": {"x": "uint8"}}
    ros1 = f"{text}{SEPARATOR}\nMSG: std_msgs/Header\nuint8 y\n"
    assert fields(ros1, encoding="ros1") == {"header": {"y": "uint8"}}


@pytest.mark.parametrize("type_name", ["pkg/srv/Add_Event", "pkg/srv/Add"])
def test_a_service_gives_request_response_and_event(type_name: str) -> None:
    text = f"int64 a\nInner b\n---\nint64 sum\n{SEPARATOR}\nMSG: pkg/Inner\nbool c\n"
    event = resolve_layout(connection("pkg/srv/Add_Event", text.replace("pkg/srv/Add", type_name))).root
    assert [field.name for field in event.fields] == ["info", "request", "response"]
    assert shape(event.fields[1].node) == [{"a": "int64", "b": {"c": "bool"}}]
    assert shape(event.fields[2].node) == [{"sum": "int64"}]
    assert shape(resolve_layout(connection("pkg/srv/Add_Response", text)).root) == {"sum": "int64"}


def test_an_action_gives_its_messages() -> None:
    text = "int32 order\n---\nint32[] sequence\n---\nint32[] partial\n"

    def of(suffix: str) -> object:
        return shape(resolve_layout(connection(f"pkg/action/Fib{suffix}", text)).root)

    uuid = {"uuid": ["uint8", 16]}
    assert of("_FeedbackMessage") == {"goal_id": uuid, "feedback": {"partial": ["int32"]}}
    assert of("_SendGoal_Request") == {"goal_id": uuid, "goal": {"order": "int32"}}
    assert of("_GetResult_Response") == {"status": "int8", "result": {"sequence": ["int32"]}}
    event = of("_SendGoal_Event")
    assert isinstance(event, dict)
    assert event["request"] == [{"goal_id": uuid, "goal": {"order": "int32"}}]
    assert event["response"] == [{"accepted": "bool", "stamp": {"sec": "int32", "nanosec": "uint32"}}]


IDL = """// generated
#include "geometry_msgs/msg/Point.idl"
module pkg {
  module msg {
    typedef double double__3[3];
    typedef geometry_msgs::msg::Point Spot;
    enum Mode { OFF, ON };
    module Type_Constants { const octet DEBUG = 10; };
    @verbatim (language="comment", text="A comment")
    struct Inner { wstring name; };
    struct Type {
      double__3 fixed;
      sequence<Inner, 4> inner;
      @key Mode mode;
      Spot spot;
      octet raw;
      char letter;
      sequence<octet> blob;
      long double wide;
    };
  };
};
"""


def test_idl() -> None:
    point = {"x": "float64", "y": "float64", "z": "float64"}
    wanted = {
        "fixed": ["float64", 3],
        "inner": [{"name": "wstring"}],
        "mode": "int32",
        "spot": point,
        "raw": "uint8",
        "letter": "uint8",
        "blob": ["uint8"],
        "wide": "float128",
    }
    assert fields(IDL, definition_format="ros2idl") == wanted
    headed = f"{SEPARATOR}\nIDL: pkg/msg/Type\n{IDL}"
    assert fields(headed, definition_format="ros2idl") == wanted


def test_idl_is_parsed_as_rosbags_does() -> None:
    text = "module a { module msg { struct B { float x; sequence<long, 3> y; string<4> z; }; }; };"
    (mine,) = parse_idl(text, "a/msg/B").values()
    _, theirs = get_types_from_idl(text)["a/msg/B"]
    assert [field.name for field in mine.fields] == [name for name, _ in theirs]
    assert [(field.type_name, field.shape, field.size) for field in mine.fields] == [
        ("float32", "scalar", 0),
        ("int32", "sequence", 3),
        ("string", "scalar", 0),
    ]


# --- without a definition ----------------------------------------------------------------------------


def test_types_without_a_definition_are_standard_types() -> None:
    layout = resolve_layout(connection("sensor_msgs/Imu"))
    assert (layout.source, layout.ros_version) == (f"ros2_{ROS2_DISTRIBUTIONS[0]}", 2)
    assert resolve_layout(connection("sensor_msgs/Imu", encoding="ros1")).source == "ros1_noetic"


def test_an_older_distribution_is_used_where_newer_ones_lack_the_type() -> None:
    newest = oracles.typestore(f"ros2_{ROS2_DISTRIBUTIONS[0]}").fielddefs
    gone = next(name for name in oracles.typestore("ros2_dashing").fielddefs if name not in newest)
    assert resolve_layout(connection(gone)).source in [f"ros2_{name}" for name in ROS2_DISTRIBUTIONS[1:]]


def test_fallback_layouts_have_each_content_once() -> None:
    layouts = fallback_layouts(connection("visualization_msgs/msg/Marker"))
    assert len(layouts) > 1
    assert layouts[0].source == f"ros2_{ROS2_DISTRIBUTIONS[0]}"
    assert all(layouts[0].root != other.root for other in layouts[1:])
    assert fallback_layouts(connection("pkg/msg/Unknown")) == []


def test_an_empty_definition() -> None:
    md5_of_nothing = "d41d8cd98f00b204e9800998ecf8427e"

    def resolve(name: str, format_: str, digest: str = "") -> Struct:
        return resolve_layout(
            connection(name, "", definition_format=format_, definition_hash=digest, encoding="ros1")
        ).root

    assert resolve("pkg/Nothing", "ros1msg", md5_of_nothing).fields == ()
    assert resolve("pkg/Nothing", "ros2msg").fields == ()
    assert len(resolve("std_msgs/String", "ros2msg").fields) == 1
    with pytest.raises(DefinitionError, match="the bag holds no definition of it and it is not a standard"):
        resolve("pkg/Nothing", "ros1msg", "0123456789abcdef0123456789abcdef")


def test_a_definition_of_nothing_but_comments() -> None:
    assert resolve_layout(connection("pkg/Type", "# nothing\nuint8 A=1")).root.fields == ()
    assert resolve_layout(connection("std_msgs/String", "# to be filled in")).source.startswith("ros2_")
    assert resolve_layout(connection("std_msgs/Empty", "# really")).source == "recorded"


# --- what cannot be ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("pkg/Type again", "type pkg/msg/Type: its definition is recursive: pkg/msg/Type -> pkg/msg/Type"),
        (
            f"A a\n{SEPARATOR}\nMSG: pkg/A\nB b\n{SEPARATOR}\nMSG: pkg/B\nA a",
            "recursive: pkg/msg/A -> pkg/msg/B",
        ),
        ("Missing x", "no definition of pkg/msg/Missing, needed by pkg/msg/Type, in the bag"),
        ("uint8 a\nthis is: not it", "type pkg/msg/Type: line 2 of its definition does not parse: 'this is"),
        ("uint8", "does not parse: 'uint8'"),
        ("@optional uint8 a", "optional members are not supported"),
        ("uint8 a\n---\nuint8 b\n---\nuint8 c\n---\nuint8 d", "has 4 parts between '---' lines"),
        ("float64[4000000000] x", "at least 32000000000 bytes a message"),
        (f"A[] x\n{SEPARATOR}\nMSG: pkg/A\nfloat64[4000000000] x", "at least 32000000000 bytes a message"),
        (f"{SEPARATOR}\nMSG: pkg/Other\nuint8 a\n{SEPARATOR}", ""),
    ],
)
def test_errors_name_the_type_and_what_is_wrong(definition: str, message: str) -> None:
    if not message:
        assert fields(definition) == {}
        return
    with pytest.raises(DefinitionError, match="type pkg/msg/Type") as error:
        fields(definition)
    assert message in str(error.value)


def test_many_messages_without_fields() -> None:
    """They have a byte each in ROS 2, and none in ROS 1."""
    text = f"A[10000] x\n{SEPARATOR}\nMSG: pkg/A\n"
    decoded = Decoder(resolve_layout(connection("pkg/Type", text)), "cdr").decode(block([bytes(10_004)]))
    assert decoded.rejected == []
    assert len(decoded.columns[0].values) == 10_000
    with pytest.raises(DefinitionError, match="10000 values in 0 bytes: arrays of messages without fields"):
        resolve_layout(connection("pkg/Type", text, encoding="ros1"))


def chain(levels: int, field: str = "{next} x") -> str:
    sections = [field.format(next="L1")]
    sections += [f"MSG: pkg/L{level}\n" + field.format(next=f"L{level + 1}") for level in range(1, levels)]
    sections.append(f"MSG: pkg/L{levels}\nuint8 x")
    return f"\n{SEPARATOR}\n".join(sections)


def test_deep_definitions() -> None:
    decoder = Decoder(resolve_layout(connection("pkg/Type", chain(60, "{next}[] x"))), "cdr")
    assert decoder.decode(block([b"\0\1\0\0\0\0\0\0"])).rejected == []
    deepest = Decoder(resolve_layout(connection("pkg/Type", chain(63, "{next}[] x"))), "cdr")
    decoded = deepest.decode(block([b"\0\1\0\0" + b"\1\0\0\0" * 63 + b"\7"]))
    (column,) = decoded.columns
    while not isinstance(column, pa.UInt8Array):
        column = column.field(0) if isinstance(column, pa.StructArray) else column.values
    assert (decoded.rejected, column.to_pylist()) == ([], [7])
    for text in (chain(1_000), chain(100, "{next}[] x")):
        with pytest.raises(DefinitionError, match="nested deeper than 64 messages"):
            fields(text)


def test_definitions_that_multiply() -> None:
    with pytest.raises(DefinitionError, match="columns, more than 5000"):
        fields(chain(40, "{next} a\n{next} b"))
    empty = chain(40, "{next} a\n{next} b").replace("uint8 x", "")
    with pytest.raises(DefinitionError, match="columns, more than 5000"):
        fields(empty)


def test_unknown_formats_and_encodings() -> None:
    with pytest.raises(
        DefinitionError, match="type pkg/msg/Type: definitions in 'protobuf' are not supported"
    ):
        fields("x", definition_format="protobuf")
    with pytest.raises(DefinitionError, match="line 1 of its definition does not parse as IDL"):
        fields("struct {", definition_format="ros2idl")
    with pytest.raises(DefinitionError, match="type pkg/msg/Type: message encoding 'json' is not supported"):
        Decoder(resolve_layout(connection("pkg/Type", "uint8 x")), "json")


# --- hashes ------------------------------------------------------------------------------------------


def test_hashes_are_recorded_or_computed() -> None:
    def of(definition_hash: str, encoding: str) -> str:
        source = connection(
            "std_msgs/String", "string data", encoding=encoding, definition_hash=definition_hash
        )
        return schema_hash(source, resolve_layout(source))

    md5 = "992ce8a1687cec8c8bd883ec73ca41d1"
    assert of(md5, "ros1") == of("", "ros1") == of("*", "ros1") == md5[:8]
    assert of("f" * 32, "ros1") == "ffffffff"
    assert of("RIHS01_" + "0123456789abcdef" * 4, "cdr") == "01234567"
    assert of("", "cdr") == of("hash1", "cdr") == "df668c74"
    fallback = connection("std_msgs/String", "uint8 stub", definition_hash="RIHS01_" + "f" * 64)
    assert schema_hash(fallback, standard_layout("std_msgs/msg/String", "ros2_humble", 2)) == "df668c74"


def test_same_name_other_definition_is_another_layout() -> None:
    one, two = (resolve_layout(connection("pkg/Type", text)) for text in ("uint8 a", "string a"))
    assert one.root != two.root
    assert resolve_layout(connection("pkg/Type", "uint8 a")) is one
    assert one.root.fields == (Field("a", Primitive("uint8", "uint8")),)


def test_a_type_without_a_package_has_a_definition() -> None:
    """Names of types are what a bag says, as of one that no ROS recorded."""
    layout = resolve_layout(connection("Type", "int8 n\n"))
    assert definition_of(layout) == ("int8 n\n", "ros2msg")
