"""Columns: their types, their names, and what Parquet and other readers make of them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ros_to_parquet.bag.model import Connection, MessageBlock
from ros_to_parquet.decode import Decoder, choose_layout
from ros_to_parquet.layout import DefinitionError, resolve_layout, standard_layout
from ros_to_parquet.program import Wire
from ros_to_parquet.schema import arrow_fields, unique_names

from . import naive
from .blocks import HEADERS, block, connection, rows

KITCHEN_SINK = """
std_msgs/Header header
bool flag
byte[] raw
char[4] tag
int8[] small
uint16 port
float32[3] xyz
float64[] any
string[] names
string[2] pair
wstring wide
geometry_msgs/Point32[] points
geometry_msgs/Point[2] corners
std_msgs/Empty nothing
std_msgs/Empty[] nothings
uint32[0] none
geometry_msgs/Polygon[] areas
builtin_interfaces/Duration[] spans
"""


def test_types() -> None:
    text = """
bool a
byte b
uint8[] c
uint8[3] d
string e
float32[2] f
Inner[] g
uint8[0] h
std_msgs/Empty i
================================================================================
MSG: pkg/Inner
int64 x
"""

    def fields_of(encoding: str) -> list[pa.Field]:
        return arrow_fields(resolve_layout(connection("pkg/Type", text, encoding=encoding)))

    def element(kind: pa.DataType) -> pa.Field:
        return pa.field("element", kind, nullable=False)

    inner = pa.struct([pa.field("x", pa.int64(), nullable=False)])
    empty = pa.struct([pa.field("structure_needs_at_least_one_member", pa.uint8(), nullable=False)])
    wanted = {
        "a": pa.bool_(),
        "b": pa.uint8(),
        "c": pa.binary(),
        "d": pa.binary(3),
        "e": pa.string(),
        "f": pa.list_(element(pa.float32()), 2),
        "g": pa.list_(element(inner)),
        "h": pa.list_(element(pa.uint8())),
        "i": empty,
    }
    assert fields_of("cdr") == [pa.field(name, kind, nullable=False) for name, kind in wanted.items()]
    assert [field.type for field in fields_of("ros1")[1:2]] == [pa.int8()]


def test_names_that_are_taken_get_underscores() -> None:
    text = "uint8 stamp\nuint8 Bag\nuint8 d\nuint8 D\nuint8 d_\nuint8 schema\nInner x\n"
    text += f"{'=' * 80}\nMSG: pkg/Inner\nuint8 stamp\nuint8 K\nuint8 k\n"
    layout = resolve_layout(connection("pkg/Type", text))
    fields = arrow_fields(layout)
    assert [field.name for field in fields] == ["stamp_", "Bag_", "d", "D_", "d__", "schema_", "x"]
    assert [field.name for field in fields[-1].type] == ["stamp", "K", "k_"]
    assert unique_names(["a", "a", "A"]) == ["a", "a_", "A__"]


@pytest.fixture
def decoded_table() -> tuple[pa.Table, list[dict[str, Any]]]:
    layout = resolve_layout(connection("pkg/Type", KITCHEN_SINK))
    rng = random.Random(4)
    wire = Wire("CDR")
    messages = [naive.random_message(layout.root, wire, rng) for _ in range(40)]
    decoder = Decoder(layout, "cdr")
    decoded = decoder.decode(block([HEADERS["le"] + naive.encode(layout.root, wire, m) for m in messages]))
    assert naive.same(rows(decoder, decoded), messages)
    return pa.Table.from_arrays(decoded.columns, schema=decoder.schema), messages


def test_parquet_gives_back_what_was_written(
    decoded_table: tuple[pa.Table, list[dict[str, Any]]], tmp_path: Path
) -> None:
    table, messages = decoded_table
    pq.write_table(table, tmp_path / "t.parquet")
    read = pq.read_table(tmp_path / "t.parquet")
    assert read.schema == table.schema
    assert naive.same(read.to_pylist(), messages)
    bare = pq.read_table(tmp_path / "t.parquet", columns=["tag", "raw", "xyz", "corners"])
    assert bare.num_rows == len(messages)


def test_duckdb_reads_every_column(
    decoded_table: tuple[pa.Table, list[dict[str, Any]]], tmp_path: Path
) -> None:
    duckdb = pytest.importorskip("duckdb")
    table, messages = decoded_table
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    found = duckdb.sql(f"select * from '{path}'").fetchall()
    assert len(found) == len(messages)
    for name in ("raw", "tag", "flag", "port", "pair", "names", "points", "none"):
        column = [row[0] for row in duckdb.sql(f"select {name} from '{path}'").fetchall()]
        plain = [[dict(item) for item in value] if name == "points" else value for value in column]
        flat = [list(value) if isinstance(value, tuple) else value for value in plain]
        assert naive.same(flat, [message[name] for message in messages]), name


# --- which layout ------------------------------------------------------------------------------------

LOG = """
builtin_interfaces/Time stamp
uint8 level
string name
string msg
string file
string function
uint32 line
"""


def test_a_stub_gives_way_to_the_standard_type_that_fits() -> None:
    whole = connection("rcl_interfaces/msg/Log", LOG)
    rng = random.Random(6)
    wire = Wire("CDR")
    root = resolve_layout(whole).root
    payloads = [
        HEADERS["le"] + naive.encode(root, wire, naive.random_message(root, wire, rng)) for _ in range(9)
    ]
    stub = block_of(connection("rcl_interfaces/msg/Log", "uint8 level"), payloads)
    layout, remark = choose_layout(stub)
    assert layout.source.startswith("ros2_")
    assert remark == (
        "type rcl_interfaces/msg/Log: the definition does not fit the messages; "
        f"the standard type of {layout.source} does and was used"
    )
    assert choose_layout(block_of(whole, payloads)) == (resolve_layout(whole), "")
    one_bad = block_of(whole, [b"bad", *payloads])
    assert choose_layout(one_bad) == (resolve_layout(whole), "")
    broken = block_of(connection("rcl_interfaces/msg/Log", "uint8"), payloads)
    layout, remark = choose_layout(broken)
    assert layout.source.startswith("ros2_")
    assert "does not parse: 'uint8'" in remark
    with pytest.raises(DefinitionError, match="does not parse"):
        choose_layout(block_of(connection("rcl_interfaces/msg/Log", "uint8"), [b"bad"]))


def test_an_older_distribution_is_chosen_by_what_decodes() -> None:
    unknown = connection("visualization_msgs/msg/MarkerArray")
    newest = resolve_layout(unknown)
    foxy = standard_layout("visualization_msgs/msg/MarkerArray", "ros2_foxy", 2)
    assert newest.root != foxy.root
    wire, rng = Wire("CDR"), random.Random(8)
    messages = [naive.random_message(foxy.root, wire, rng) for _ in range(20)]
    payloads = [
        HEADERS["le"] + naive.encode(foxy.root, wire, message) for message in messages if message["markers"]
    ]
    layout, remark = choose_layout(block_of(unknown, payloads))
    assert layout.root == foxy.root
    assert remark.endswith("does and was used")


def block_of(source: Connection, payloads: list[bytes]) -> MessageBlock:
    return dataclasses.replace(block(payloads), connection=source)
