"""Definitions in IDL: what messages there may be made of, against `rosbags` and the naive codec."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from rosbags.typesys import get_types_from_idl

from ros_to_parquet.decode import Decoder
from ros_to_parquet.definitions import DefinitionError, DefinitionSyntaxError
from ros_to_parquet.encode import CDR, Encoder
from ros_to_parquet.idl import parse_idl
from ros_to_parquet.layout import definition_of, resolve_layout
from ros_to_parquet.program import Wire
from ros_to_parquet.schema import rihs01

from . import naive
from .blocks import HEADERS, block, connection, rows
from .test_definitions import SEPARATOR, fields
from .test_random_types import WIRES


def struct(members: str, before: str = "") -> str:
    return f"module pkg {{ module msg {{ {before} struct Type {{ {members} }}; }}; }};"


def members_of(text: str) -> object:
    return fields(text, definition_format="ros2idl")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (struct("sequence<sequence<long>> m;"), [["int32"]]),
        (struct("sequence<sequence<long, 2> , 3> m;"), [["int32"]]),
        (struct("sequence<long> m[2];"), [["int32"], 2]),
        (struct("double m[2][3];"), [["float64", 3], 2]),
        (struct("M m;", "typedef double R[3]; typedef R M[2];"), [["float64", 3], 2]),
        (struct("sequence<R> m;", "typedef double R[3];"), [["float64", 3]]),
        (struct("R m[2];", "typedef sequence<octet, 4> R;"), [["uint8"], 2]),
        (struct("R m;", "typedef string<8> R;"), "string"),
        (struct("wstring<10> m;"), "wstring"),
        (struct("sequence<wstring<4>, 2> m;"), ["wstring"]),
        (struct("wchar m;"), "uint32"),
        (struct("unsigned long long m;"), "uint64"),
        (struct("int8 m;"), "int8"),
        (struct("E m;", "enum E { A, B };"), "int32"),
        (struct("E m;", "@bit_bound(8) enum E { A, @value(5) B };"), "int8"),
        (struct("long m[B];", "@bit_bound(8) enum E { A, @value(5) B };"), ["int32", 5]),
        (struct("B m;", "@bit_bound(value=12) bitmask B { @position(3) X, Y };"), "uint16"),
        (struct("B m;", "bitmask B { X };"), "uint32"),
        (
            struct("long m[(N << 1) - M::K / 2];", "const long N = 2 + 1; module M { const long K = 4; };"),
            ["int32", 4],
        ),
        (struct("char m[0x1F & 7];"), ["uint8", 7]),
        (
            struct(
                "string<N> m;", 'const long N = 3; const wstring W = L"x; y" "z"; const char C = \'\\n\';'
            ),
            "string",
        ),
        (struct("@default(value=3) @range(min=-1.5, max=2) long m;"), "int32"),
        (struct('@unit("@optional") @optional(FALSE) long m; // @optional\n'), "int32"),
        (struct("/* @optional long a; */ @key @id(3) long m;"), "int32"),
        (struct('@verbatim(language="comment", text="a;" "b }")\nlong m;'), "int32"),
        ("#ifndef X\n#define X\n  #pragma once\n" + struct("long m;") + "\n#endif", "int32"),
        (
            "@nested @final " + struct("long m;", "native N; union U switch (long) { case 1: long a; };"),
            "int32",
        ),
        (
            struct("Later m;", "struct Later;") + " module pkg { module msg { struct Later {long a;}; };};",
            {"a": "int32"},
        ),
        ("module o { struct T { long a; }; }; " + struct("::o::T m;"), {"a": "int32"}),
        ("\ufeff" + struct("// ° \r\n long m;\r\n"), "int32"),
    ],
)
def test_members(text: str, wanted: object) -> None:
    assert members_of(text) == {"m": wanted}


def test_several_declarators_bases_and_no_members() -> None:
    assert members_of(struct("long a, b[2], _c;")) == {"a": "int32", "b": ["int32", 2], "_c": "int32"}
    assert members_of(struct("long b;", "struct Base { short a; };").replace("Type {", "Type : Base {")) == {
        "a": "int16",
        "b": "int32",
    }
    assert members_of(struct("")) == {}
    assert members_of(struct("octet structure_needs_at_least_one_member;")) == {}


def test_names_of_other_sections_and_of_no_module_msg() -> None:
    inner = "module o { module msg { typedef double R[2]; enum E {A}; struct I { R r; E e; }; }; };"
    text = f"{struct('o::msg::I i; o::msg::R r;')}\n{SEPARATOR}\nIDL: o/msg/I\n{inner}"
    pair = ["float64", 2]
    assert members_of(text) == {"i": {"r": pair, "e": "int32"}, "r": pair}
    for name in ("pkg/Type", "pkg::Type"):
        source = connection(name, "module pkg { struct Type { long a; }; };", definition_format="omgidl")
        assert [field.name for field in resolve_layout(source).root.fields] == ["a"]


def test_constants_of_constants_do_not_multiply() -> None:
    doubled = "".join(f"const long N{n} = N{n - 1} + N{n - 1} - N{n - 1}; " for n in range(1, 60))
    assert members_of(struct("long m[N59];", f"const long N0 = 3; {doubled}")) == {"m": ["int32", 3]}


def test_constants_are_kept() -> None:
    text = struct(
        "long a;",
        'module Type_Constants { const string S = "a;b"; const double D = 1.5e-3; const boolean B = TRUE;'
        " const uint8 U = 0x0F; const octet O = ~-3; const long L = 017; };",
    )
    constants = parse_idl(text, "pkg/msg/Type")["pkg/msg/Type"].constants
    assert [(each.type_name, each.name, each.text) for each in constants] == [
        ("string", "S", "a;b"),
        ("float64", "D", "0.0015"),
        ("bool", "B", "True"),
        ("uint8", "U", "15"),
        ("byte", "O", "2"),
        ("int32", "L", "15"),
    ]


def test_equals_rosbags_where_rosbags_reads_it() -> None:
    text = struct(
        "boolean a; octet b; char c; short d[3]; sequence<unsigned long, 4> e; string<5> f; wstring g;"
        " R h; sequence<Inner> i; long double j; builtin_interfaces::msg::Time k; long long l; float m;",
        "typedef double R[3]; struct Inner { int8 x; };",
    )
    mine, theirs = parse_idl(text, "pkg/msg/Type"), get_types_from_idl(text)
    assert set(mine) == set(theirs)
    for name, (_, members) in theirs.items():
        for field, (member, (kind, of)) in zip(mine[name].fields, members, strict=True):
            shape, size = {3: ("array", of[1]), 4: ("sequence", of[1])}.get(int(kind), ("scalar", 0))
            item = of[0][1] if shape != "scalar" else of
            builtin, bound = item if isinstance(item, tuple) else (item, 0)
            found = (field.name, field.type_name, field.string_bound, field.shape, field.size)
            assert found == (member, builtin, bound, shape, size)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            struct("U u;", "union U switch (long) { case 1: long a; };"),
            "line 1 of its definition uses the union U;",
        ),
        (struct("sequence<B> b;", "bitset B { bitfield<3> a; };"), "uses the bitset B;"),
        (
            struct("\nmap<string, long> m;"),
            "line 2 of its definition uses map, which is not supported: 'map<",
        ),
        (struct("any a;"), "uses any, which is not supported"),
        (struct("\n\n@optional long a;"), "line 3 of its definition is optional, optional members are not"),
    ],
)
def test_what_has_no_columns_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as error:
        members_of(text)
    assert "type pkg/msg/Type: " in str(error.value) and problem in str(error.value)
    assert "have no columns; leave the topic out" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "struct {",
        struct("long a"),
        struct("unsigned float a;"),
        struct("long a[N];"),
        struct("long a[N];", "const long N = N;"),
        struct("long a[1 / 0];"),
        struct('long a["3"];'),
        struct("long a[-1];"),
        struct("long a[1 << 99999999999];"),
        struct('long a["x" * 99999999999];'),
        struct("A a;", "typedef B A; typedef A B;"),
        struct("long a;", "struct B : B { long b; };"),
        struct("N a;", "const long N = 1;"),
        struct("long a" + "[1]" * 65 + ";"),
        struct("sequence<" * 9_000 + "long" + ">" * 9_000 + " a;"),
        struct("E e;", "@bit_bound(99) enum E { A };"),
        "module pkg { /* no end",
        'const string A = "no end;',
        struct("long a;") + "}",
    ],
)
def test_what_does_not_parse(text: str) -> None:
    with pytest.raises(DefinitionSyntaxError, match="type pkg/msg/Type: line 1 of its definition"):
        parse_idl(text, "pkg/msg/Type")


# --- messages ----------------------------------------------------------------------------------------

NESTED = struct(
    "octet o; sequence<sequence<double>> lists; long grid[2][3]; sequence<string> words[2]; boolean b;"
    " sequence<Corner> corners; sequence<sequence<Inner, 3>> inner; B mask; E mode; octet raw[2][2];"
    " sequence<sequence<octet>> blobs; double end;",
    "typedef double Corner[4]; struct Inner { octet k; sequence<short> v[2]; string<4> s; };"
    " @bit_bound(16) bitmask B { X }; enum E { A, C };",
)
WIDE = struct("octet o; wchar one; double x; wchar few[3]; sequence<wchar> many; octet z; wstring w;")


@pytest.mark.parametrize("name", [name for name in WIRES if name != "ros1"])
def test_nested_sequences_and_arrays_equal_the_naive_codec(name: str) -> None:
    wire, header = WIRES[name]
    layout = resolve_layout(connection("pkg/Type", NESTED, definition_format="ros2idl"))
    rng = random.Random(5)
    messages = [naive.random_message(layout.root, wire, rng) for _ in range(60)]
    decoder = Decoder(layout, "cdr")
    payloads = [header + naive.encode(layout.root, wire, message) for message in messages]
    decoded = decoder.decode(block(payloads))
    assert decoded.rejected == []
    assert naive.same(rows(decoder, decoded), messages)
    if wire == CDR:
        again = Encoder(layout, "cdr").encode(decoded.columns, 60)
        ends = [0, *again.ends.tolist()]
        assert [again.data[a:b].tobytes() for a, b in itertools.pairwise(ends)] == payloads


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("unit", [2, 4])
def test_wide_characters_of_either_size(header: str, unit: int) -> None:
    """Writers differ: four bytes, or two."""
    layout = resolve_layout(connection("pkg/Type", WIDE, definition_format="ros2idl"))
    wire = replace(Wire("CDR"), big_endian=header == "be", wide_unit=unit)  # type: ignore[arg-type]
    messages = [
        {"o": 1, "one": 0xE4, "x": 0.5, "few": [65, 66, 0xFFFF], "many": [67] * count, "z": 9, "w": "wide ä"}
        for count in (0, 1, 2, 5)
    ]
    payloads = [HEADERS[header] + naive.encode(layout.root, wire, message) for message in messages]
    decoder = Decoder(layout, "cdr")
    decoded = decoder.decode(block(payloads))
    assert decoded.rejected == []
    assert rows(decoder, decoded) == messages


@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        WIDE,
        struct("long a[2][2];", 'module Type_Constants { const string S = "x"; const boolean B = TRUE; };'),
        struct("long a[2][2];", r"module Type_Constants { const char C = 'c'; const wchar W = L'\''; };"),
    ],
)
def test_a_definition_is_written_as_idl_where_msg_cannot_say_it(text: str) -> None:
    layout = resolve_layout(connection("pkg/Type", text, definition_format="ros2idl"))
    written, definition_format = definition_of(layout)
    assert definition_format == "ros2idl"
    assert resolve_layout(connection("pkg/Type", written, definition_format="ros2idl")).root == layout.root


def test_nested_types_differ_in_their_hash() -> None:
    shapes = ("sequence<long> m;", "sequence<sequence<long>> m;", "sequence<long> m[2];", "long m[2][2];")
    hashes = {
        rihs01(resolve_layout(connection("pkg/Type", struct(m), definition_format="ros2idl")).root)
        for m in shapes
    }
    assert len(hashes) == len(shapes)
