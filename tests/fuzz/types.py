"""The target of the definition compiler and the decoders: a definition, and messages that may be of its type.

An input is a byte that says what kind of definition it is and whose, the definition, and the messages, each
with its length (uint16) before it. Any bytes are an input.
"""

from __future__ import annotations

import base64
import functools
import random
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ros_to_parquet.bag.model import Connection, MessageBlock
from ros_to_parquet.decode import Decoded, Decoder
from ros_to_parquet.decoders import Decoders, prepare
from ros_to_parquet.definitions import STANDARD_TYPES, DefinitionError
from ros_to_parquet.layout import (
    Array,
    Layout,
    Node,
    Primitive,
    String,
    Struct,
    definition_of,
    resolve_layout,
)
from ros_to_parquet.layout import Sequence as SequenceNode
from ros_to_parquet.program import ROS1, Wire
from ros_to_parquet.records import RecordDecoder
from tests.engine.decode import naive, oracles
from tests.engine.decode.blocks import rows
from tests.fuzz.bags import memory_within_limit
from tests.fuzz.mutation import Raw, number_in, rearranged

KINDS = (
    ("ros1", "ros1msg"),
    ("cdr", "ros2msg"),
    ("cdr", "ros2idl"),
    ("json", "jsonschema"),
    ("protobuf",) * 2,
)
NAMES = ("pkg/msg/Type", "pkg/Type", "std_msgs/msg/String", "sensor_msgs/Imu", "pkg/srv/Do_Event", "pkg.Type")

XCDR2 = Wire("XCDR2", max_align=4, delimiters="collections")
APPENDABLE = replace(XCDR2, delimiters="all")
WIRES = {
    b"\0\1": Wire("CDR"),
    b"\0\0": Wire("CDR", big_endian=True),
    b"\0\7": XCDR2,
    b"\0\6": replace(XCDR2, big_endian=True),
    b"\0\x09": APPENDABLE,
    b"\0\x14": replace(APPENDABLE, big_endian=True),
}
"""By the first two bytes of a message, those that tell."""

_MOST_ITEMS = 1000
"""In arrays, for the slow codecs that inputs are compared with."""


@dataclass(frozen=True)
class Case:
    kind: int
    definition: bytes
    messages: tuple[bytes, ...]

    @property
    def encoding(self) -> str:
        return KINDS[self.kind % len(KINDS)][0]

    def connection(self) -> Connection:
        encoding, definition_format = KINDS[self.kind % len(KINDS)]
        if encoding == "protobuf":
            text = base64.b64encode(self.definition).decode()
        else:
            text = self.definition.decode("utf-8", "backslashreplace")
        name = NAMES[self.kind // len(KINDS) % len(NAMES)]
        return Connection(0, "/topic", name, text, definition_format, "", encoding)


def split(data: bytes) -> Case:
    size = int.from_bytes(data[1:3], "little")
    return Case(data[0] if data else 0, data[3 : 3 + size], tuple(_pieces(data[3 + size :])))


def _pieces(data: bytes) -> Iterator[bytes]:
    position = 0
    while position + 2 <= len(data):
        size = int.from_bytes(data[position : position + 2], "little")
        yield data[position + 2 : position + 2 + size]
        position += 2 + size


def join(case: Case) -> bytes:
    definition = case.definition[:0xFFFF]
    messages = b"".join(struct.pack("<H", len(each[:0xFFFF])) + each[:0xFFFF] for each in case.messages)
    return bytes([case.kind % 256]) + struct.pack("<H", len(definition)) + definition + messages


# --- what must hold ---------------------------------------------------------------------------------


def check(data: bytes) -> None:
    """Compiles a definition and decodes messages: each is a row or a reject, whatever lies beside it.

    Rows are held against the naive codec and, now and then, `rosbags`.
    """
    with memory_within_limit():
        _check(data)


def _check(data: bytes) -> None:
    case = split(data)
    connection = case.connection()
    block = _block(connection, case.messages, gap=b"\xff\xff\xff")
    try:
        made = prepare(block, STANDARD_TYPES, Decoders())
    except DefinitionError as error:
        assert str(error)
        return
    decoder = made.decoder
    decoded, values = _decode(decoder, block)
    again, same_values = _decode(decoder, _block(connection, case.messages, gap=bytes(5)))
    assert decoded.rejected == again.rejected
    assert naive.same(values, same_values), "bytes outside of the messages are in the rows"
    if isinstance(decoder, Decoder) and _largest_array(decoder.layout.root) <= _MOST_ITEMS:
        found = dict(zip(decoded.rows.tolist(), values, strict=True))
        _compare_with_naive(decoder, case, found)
        root = decoder.layout.root
        # What has no way to be written anew: empty messages, other names, other formats' constants.
        if root.fields and "." not in root.type_name and not root.constants and not _is_wide(root):
            _assert_explains_itself(connection, decoder.layout)
        if zlib.crc32(data) % 4 == 0 and decoder.layout.source == "recorded":
            _compare_with_rosbags(decoder, case, found)


def _block(connection: Connection, messages: Sequence[bytes], *, gap: bytes) -> MessageBlock:
    """The messages one after another, with bytes between them that belong to none."""
    data = gap + b"".join(message + gap for message in messages)
    lengths = np.array([len(message) for message in messages], np.int64)
    starts = np.cumsum(lengths + len(gap)) - lengths
    times = np.arange(len(messages), dtype=np.int64)
    return MessageBlock(connection, np.frombuffer(data, np.uint8), starts, lengths, times, None, None, times)


def _decode(decoder: Decoder | RecordDecoder, block: MessageBlock) -> tuple[Decoded, list[dict[str, Any]]]:
    decoder.feed(block)
    decoded = decoder.take()
    indices = sorted([*decoded.rows.tolist(), *(index for index, _ in decoded.rejected)])
    assert indices == list(range(len(block)))
    assert all(reason for _, reason in decoded.rejected)
    return decoded, rows(decoder, decoded)  # type: ignore[arg-type]


def _largest_array(node: Node) -> int:
    match node:
        case Struct():
            return max((_largest_array(field.node) for field in node.fields), default=0)
        case Array():
            return max(node.size, 1) * max(_largest_array(node.item), 1)
        case SequenceNode():
            return _largest_array(node.item)
        case _:
            return 1


def _is_wide(node: Node) -> bool:
    """Whether there is text whose layout each middleware has its own way of."""
    match node:
        case Primitive():
            return node.declared == "wchar"
        case String():
            return node.wide
        case Struct():
            return any(_is_wide(field.node) for field in node.fields)
        case Array() | SequenceNode():
            return _is_wide(node.item)


def _wire(case: Case, message: bytes) -> tuple[Wire, int] | None:
    """How a message is laid out, and the length of its header; None where it does not say."""
    if case.encoding == "ros1":
        return ROS1, 0
    wire = WIRES.get(message[:2]) if len(message) >= 4 else None
    return None if wire is None else (wire, 4)


def _compare_with_naive(decoder: Decoder, case: Case, found: dict[int, dict[str, Any]]) -> None:
    root = decoder.layout.root
    if _is_wide(root):
        return
    for index, message in enumerate(case.messages):
        wire = _wire(case, message)
        if wire is None:
            continue
        try:
            expected = naive.decode(root, wire[0], message[wire[1] :])
        except naive.BadMessageError as error:
            assert index not in found, f"message {index} is a row, and none for the naive codec: {error}"
            continue
        assert index in found, f"message {index} is rejected, and read by the naive codec"
        wanted = dict(zip(decoder.schema.names, expected.values(), strict=True))
        assert naive.same(found[index], wanted), f"message {index}: {found[index]} is not {wanted}"


def _assert_explains_itself(connection: Connection, layout: Layout) -> None:
    """The definition that is written to a table is of the same type."""
    text, definition_format = definition_of(layout)
    again = replace(connection, definition=text, definition_format=definition_format)
    assert _bare(resolve_layout(again).root) == _bare(layout.root), text


def _bare(node: Node) -> object:
    match node:
        case Struct():
            return node.type_name, tuple((field.name, _bare(field.node)) for field in node.fields)
        case Array():
            return "array", node.size, _bare(node.item)
        case SequenceNode():
            return "sequence", node.bound, _bare(node.item)
        case _:
            return node


def _compare_with_rosbags(decoder: Decoder, case: Case, found: dict[int, dict[str, Any]]) -> None:
    """What both accept is the same."""
    root = decoder.layout.root
    connection = case.connection()
    store = _rosbags(connection.definition, connection.definition_format, root.type_name)
    if store is None or _is_wide(root) or not root.fields:
        return
    read = store.deserialize_ros1 if case.encoding == "ros1" else store.deserialize_cdr
    for index, row in found.items():
        message = case.messages[index]
        wire = _wire(case, message)
        if wire is None or wire[0].delimiters != "none":
            continue
        try:
            theirs = oracles.from_object(read(message, root.type_name), root)
        except Exception:  # noqa: BLE001, S112 (whatever rosbags raises for what it does not read)
            continue
        wanted = dict(zip(decoder.schema.names, theirs.values(), strict=True))
        assert naive.same(row, wanted), f"message {index}: rosbags has {wanted}, not {row}"


@functools.lru_cache(maxsize=64)
def _rosbags(definition: str, definition_format: str, type_name: str) -> Typestore | None:
    """A store of `rosbags` with the type; None where it does not take the definition."""
    try:
        types: Typesdict = (
            get_types_from_idl(definition)
            if definition_format == "ros2idl"
            else get_types_from_msg(definition, type_name)
        )
        store = get_typestore(Stores.ROS1_NOETIC if definition_format == "ros1msg" else Stores.EMPTY)
        store.register(types)
    except Exception:  # noqa: BLE001 (whatever rosbags raises for a text that it does not read)
        return None
    return store


# --- changes ----------------------------------------------------------------------------------------

_LINES = (
    *(
        "bool a",
        "byte b",
        "char c",
        "int8 d",
        "uint8[] e",
        "float32[3] f",
        "float64 g",
        "string h",
        "wstring i",
    ),
    *("time stamp", "duration d", "Header header", "std_msgs/Header header", "string<=5 j", "uint8[<=3] k"),
    *(
        "Inner l",
        "Inner[] m",
        "Inner[2] n",
        "pkg/Inner o",
        "Type p",
        "uint16 X=5",
        "string S=a#b",
        "---",
        "=",
    ),
    *("=" * 80, "MSG: pkg/Inner", "MSG: pkg/Type", "MSG: std_msgs/Header", "uint32 seq", "uint8[0] q", "#"),
    *("Inner[0] r", "Inner[4000000000] s", "uint8[4000000000] t", "float128 u", "bool[] v", "string[] w"),
)
_WORDS = (
    *("bool", "byte", "char", "int8", "uint16", "int32", "uint64", "float32", "float64", "string", "wstring"),
    *("[]", "[1]", "[3]", "[<=2]", "<=4", "struct", "module", "typedef", "const", "enum", "bitmask", "union"),
    *(
        "sequence<",
        ">",
        "long",
        "unsigned",
        "octet",
        "wchar",
        "boolean",
        "double",
        "{",
        "}",
        ";",
        "::",
        "@",
        "(",
    ),
    *(")", "=", "#", "//", "/*", "*/", "<<", "+", "-", "~", "0x10", "99999999999999999999", "1e400", "@key"),
    *("default", "@optional", "@bit_bound(8)", '@verbatim(language="c", text="x")', "Inner", "Type", "pkg"),
    *(
        '"type"',
        '"object"',
        '"array"',
        '"items"',
        '"$ref"',
        '"#"',
        '"integer"',
        '"null"',
        "true",
        "[",
        "]",
        ",",
    ),
)


def mutate(data: bytes, other: bytes, rng: random.Random, raw: Raw) -> bytes:
    """One change: of the definition by words, lines or bytes; of a message; or other messages of the type."""
    case, another = split(data), split(other)
    match rng.randrange(9):
        case 0:
            definition = raw(case.definition, len(case.definition) + 32)
            return join(replace(case, definition=definition))
        case 1 | 2:
            return join(replace(case, definition=_reworded(case.definition, rng)))
        case 3:
            lines = case.definition.split(b"\n")
            others = another.definition.split(b"\n") + [line.encode() for line in rng.sample(_LINES, 3)]
            return join(replace(case, definition=b"\n".join(rearranged(lines, others, rng))))
        case 4 | 5:
            return join(replace(case, messages=_messages_of(case, rng) or another.messages))
        case 6 if case.messages:
            place = rng.randrange(len(case.messages))
            message = case.messages[place]
            if rng.random() < 0.5 and message:
                message = number_in(message, rng.randrange(len(message)), rng.choice((1, 2, 4, 8)), rng)
            else:
                message = raw(message, len(message) + 16)
            changed = (*case.messages[:place], message, *case.messages[place + 1 :])
            return join(replace(case, messages=changed))
        case 7:
            return join(
                replace(case, messages=tuple(rearranged(list(case.messages), list(another.messages), rng)))
            )
        case _:
            return join(replace(case, kind=rng.randrange(len(KINDS) * len(NAMES))))


def _reworded(definition: bytes, rng: random.Random) -> bytes:
    """A word taken out, put in, or in the place of another."""
    words = re.findall(rb"\s+|\w+|[^\w\s]", definition) or [b""]
    place = rng.randrange(len(words))
    word = rng.choice(_WORDS).encode()
    match rng.randrange(4):
        case 0:
            words[place] = word
        case 1:
            words.insert(place, word)
        case 2:
            words[place] = rng.choice(words)
        case _:
            del words[place]
    return b"".join(words)


def _messages_of(case: Case, rng: random.Random) -> tuple[bytes, ...]:
    """Messages of the definition's type, if it has one, of which some are broken."""
    if case.encoding not in ("ros1", "cdr"):
        return ()
    try:
        root = resolve_layout(case.connection()).root
    except DefinitionError:
        return ()
    if _largest_array(root) > 50 or _is_wide(root):
        return ()
    header = b"" if case.encoding == "ros1" else rng.choice(list(WIRES))
    wire = WIRES.get(header, ROS1)
    made = []
    for _ in range(rng.randint(1, 4)):
        content = naive.encode(root, wire, naive.random_message(root, wire, rng))
        if rng.random() < 0.2 and content:
            content = content[: rng.randrange(len(content))]
        made.append((header and header + b"\0\0") + content)
    return tuple(made)


# --- seeds ------------------------------------------------------------------------------------------

_INNER = f"{'=' * 80}\nMSG: pkg/Inner\nuint8 n\nstring[] names\nfloat32[2] xy\n"
_HEADER = f"{'=' * 80}\nMSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id\n"
_DEFINITIONS: tuple[tuple[str, int, int, str], ...] = (
    ("ros1-text", 0, 0, "string data\n"),
    ("ros1-numbers", 0, 1, "int8 A=5\nbool a\nuint8[] b\nchar c\nfloat64[3] d\nint64 e\nbyte[4] f\n"),
    ("ros1-nested", 0, 1, f"Header header\nInner one\nInner[] many\nduration d\n{_INNER}{_HEADER}"),
    ("ros1-standard", 0, 3, ""),
    ("ros1-service", 0, 1, "int32 a\n---\nstring b\n"),
    ("ros2-numbers", 1, 0, 'bool a\nuint8[] b\nfloat64[3] c\nint64 d 5\nuint8[<=2] e\nstring<=9 f "x"\n'),
    ("ros2-nested", 1, 0, f"Inner one\nInner[] many\nInner[2] two\nuint16 k\n{_INNER}"),
    ("ros2-wide", 1, 0, "wstring a\nint8 b\nwstring[] c\n"),
    ("ros2-empty", 1, 0, f"Nothing[] a\nNothing b\n{'=' * 80}\nMSG: pkg/Nothing\n# none\n"),
    ("ros2-event", 1, 4, "int64 a\n---\nint64 sum\n"),
    ("ros2-standard", 1, 2, ""),
    (
        "idl",
        2,
        0,
        """
module pkg { module msg {
const long N = 2 + 1;
typedef double R[3];
enum E { A, @value(5) B };
@verbatim(language="comment", text="x")
struct Inner { octet o; R r; };
struct Type : Base { sequence<sequence<long, N>> a; Inner i[2]; E e; string<8> s; };
struct Base { boolean first; };
bitmask M { @position(3) X };
union U switch (long) { case 1: long a; };
}; };
""",
    ),
    (
        "json",
        3,
        0,
        """{"type": "object", "required": ["a"], "properties": {
"a": {"type": "integer"}, "b": {"type": ["string", "null"]},
"c": {"type": "array", "items": {"$ref": "#/$defs/p"}},
"d": {"type": "string", "contentEncoding": "base64"}},
"$defs": {"p": {"type": "object", "properties": {"x": {"type": "number"}, "next": {"$ref": "#/$defs/p"}}}}}
""",
    ),
)
_JSON = (
    b'{"a": 1, "b": null, "c": [{"x": 1.5}, {"next": {"x": 2}}], "d": "YWJj", "e": 7}',
    b'{"a": 9223372036854775808}',
    b'{"b": "\\ud800"}',
    b"[1, 2",
)


def seeds() -> dict[str, bytes]:
    rng = random.Random(1)
    made = {}
    for name, kind, type_, text in _DEFINITIONS:
        case = Case(kind + len(KINDS) * type_, text.encode(), ())
        messages = _JSON if name == "json" else _messages_of(case, rng)
        made[name] = join(replace(case, messages=messages))
    return made | {"protobuf": _protobuf_seed()}


def _protobuf_seed() -> bytes:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="a.proto", package="pkg", syntax="proto3")
    type_ = file.message_type.add(name="Type")
    field = descriptor_pb2.FieldDescriptorProto
    for number, (name, kind, label) in enumerate(
        [
            ("n", field.TYPE_INT32, field.LABEL_OPTIONAL),
            ("text", field.TYPE_STRING, field.LABEL_OPTIONAL),
            ("data", field.TYPE_BYTES, field.LABEL_REPEATED),
            ("next", field.TYPE_MESSAGE, field.LABEL_OPTIONAL),
            ("x", field.TYPE_DOUBLE, field.LABEL_REPEATED),
        ],
        start=1,
    ):
        type_.field.add(name=name, number=number, type=kind, label=label)
    type_.field[3].type_name = ".pkg.Type"
    files = descriptor_pb2.FileDescriptorSet(file=[file])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    new = message_factory.GetMessageClass(pool.FindMessageTypeByName("pkg.Type"))
    messages = (new(n=5, text="a", data=[b"x"], next=new(n=7), x=[1.5, 2]), new())
    kind = KINDS.index(("protobuf", "protobuf")) + len(KINDS) * NAMES.index("pkg.Type")
    content = tuple(message.SerializeToString() for message in messages)
    return join(Case(kind, files.SerializeToString(), content))
