"""From a layout and a wire format to the Forth programs that decode and check whole blocks.

The layout is compiled once into operations (read a run of fixed fields, align, read a string, loop) and
columns (how Arrow arrays are put together from what was read). Two programs are written from the same
operations:

- the *decoder* fills one buffer a string, sequence and run of fixed fields. It trusts every length and
  stops at the first message that does not end where it should;
- the *checker* writes nothing but a verdict a message. It never leaves a message, whatever its lengths
  say, and is run only over what the decoder stopped at.

The language is AwkwardForth; see https://awkward-array.org, "AwkwardForth documentation".
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from math import gcd
from typing import Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from ros_to_parquet.definitions import PLACEHOLDER
from ros_to_parquet.layout import SIZES, Array, Node, Primitive, Sequence, String, Struct
from ros_to_parquet.schema import arrow_type

MAX_EMPTY_ELEMENTS: Final = 16
"""Largest count of elements that take no bytes. Nothing in a message bounds it; at 16 for each four bytes of
a count, the elements of all pending messages stay below 2^31, whatever they say."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How messages are laid out in bytes.

    Attributes:
        name: for people.
        header_bytes: of encapsulation before the payload; alignment counts from behind it.
        max_align: largest alignment of a primitive; 1 where nothing is aligned.
        big_endian: byte order of every number, lengths included.
        padding: bytes that may follow the last field.
        delimiters: which parts begin with their length in bytes: none; collections of anything but
            primitives; these and all messages too.
        terminated: strings end in a NUL that their length counts.
        wide_unit: bytes of one UTF-16 unit of a wide string, and of a wchar.
        wide_counts_bytes: a wide string's length counts bytes, not units.
    """

    name: str
    header_bytes: int = 4
    max_align: int = 8
    big_endian: bool = False
    padding: int = 3
    delimiters: Literal["none", "collections", "all"] = "none"
    terminated: bool = True
    wide_unit: Literal[2, 4] = 4
    wide_counts_bytes: bool = False


ROS1: Final = Wire("ROS 1", header_bytes=0, max_align=1, padding=0, terminated=False)


# --- operations: what is read ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """``size`` bytes of fixed fields (and padding) into ``output``; skipped where that is empty.

    ``fields`` are (offset, path) of each, to say where a message ended early.
    """

    output: str
    size: int
    fields: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Align:
    """Skip to the next multiple of ``to``, counted from the payload's start."""

    to: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """A length, then as many items of ``size`` bytes: counts into ``offsets``, bytes into ``output``.

    ``align`` is that of the items where it is not known to be met, else 1; no items, no alignment.
    ``text``: the items are a string's bytes. ``even``: the length must be even. ``by_place``: where the
    bytes begin in ``data`` goes into ``output``, and they are passed over.
    """

    offsets: str
    output: str
    size: int
    align: int
    path: str
    text: bool = False
    even: bool = False
    by_place: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """A length (or ``count`` times, where ``offsets`` is empty), then as often the body.

    ``least`` is the smallest size of an element in bytes; where it is 0 there is nothing to read.
    """

    offsets: str
    count: int
    least: int
    body: tuple[Operation, ...]
    path: str


@dataclass(frozen=True, slots=True)
class Delimited:
    """A length in bytes, then the body, which may leave bytes of a newer definition unread."""

    body: tuple[Operation, ...]
    path: str


Operation: TypeAlias = Run | Align | Bytes | Loop | Delimited


# --- columns: what becomes of it ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Records:
    """Rows of a structured array: an output seen as records, then the arrays of records inside them."""

    output: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaf:
    """Fixed-size values: a field of records, or the records themselves where ``name`` is empty."""

    records: Records
    name: str
    kind: Literal["number", "bool", "bytes"]
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Text:
    """UTF-8 text of ``offsets`` and ``data``; UTF-16 units where ``unit`` is not 1."""

    offsets: str
    data: str
    unit: int
    big_endian: bool
    terminated: bool
    counts_bytes: bool


@dataclass(frozen=True, slots=True)
class Blob:
    offsets: str
    data: str


@dataclass(frozen=True, slots=True)
class List:
    offsets: str
    item: Column
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class FixedList:
    size: int
    item: Column
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Group:
    """A struct."""

    items: tuple[Column, ...]
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Nothing:
    """What takes no bytes: empty lists, or zeros in the place of an empty ROS 1 message."""

    type: pa.DataType


Column: TypeAlias = Leaf | Text | Blob | List | FixedList | Group | Nothing


@dataclass(frozen=True, slots=True)
class Step:
    """What a checker's verdict points at; ``kind`` says which sentence to make of it."""

    kind: Literal["run", "length", "count", "text", "items", "empty", "odd", "delimiter", "end"]
    path: str = ""
    fields: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """Both programs of a layout and a wire format, and the columns that their outputs become.

    Inputs of both: ``data`` (bytes), ``starts`` (int64, of each payload behind its header), ``stops``
    (int64). Both run until they pause for the next inputs.

    Attributes:
        decoder: fills the outputs, uint8 and int32, that ``columns`` name.
        checker: writes ``step`` (int32: 0, or the number in ``steps`` of what is wrong), ``at`` (int64:
            where in ``data``) and ``amount`` (int64), one of each a message.
        record_types: how the bytes of an output are seen, by output.
        by_place: outputs, int64, that say where a message's bytes begin in ``data``; for each the output
            of their offsets, and how many bytes an item has.
    """

    wire: Wire
    decoder: str
    checker: str
    columns: tuple[Column, ...]
    record_types: dict[str, np.dtype[np.void]]
    steps: tuple[Step, ...]
    by_place: dict[str, tuple[str, int]]


# --- compiling ---------------------------------------------------------------------------------------

State: TypeAlias = tuple[int, int]
"""(modulus, remainder) of the position in the payload, as far as it is known before the message is."""

_CODES: Final = {
    "bool": "u1",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "int64": "i8",
    "uint64": "u8",
    "float32": "f4",
    "float64": "f8",
    "float128": "V16",
}


@functools.lru_cache(maxsize=1024)
def compile_program(root: Struct, wire: Wire, *, by_place: bool = False) -> Program:
    """The programs of a message type on a wire, made once.

    Args:
        root: that of a `Layout`.
        by_place: of a message's own sequences of primitives, the decoder tells where they are instead of
            copying them.
    """
    compiler = _Compiler(wire, by_place=by_place)
    columns: tuple[Column, ...] = ()
    if root.fields:
        columns = compiler.message(root)
    elif wire.padding:
        # ROS 2 puts one byte into an empty message. Some writers do not, others pad it.
        wire = dataclasses.replace(wire, padding=4)
    checker = _CheckerWriter(wire)
    return Program(
        wire=wire,
        decoder=_decoder_text(compiler.operations, wire),
        checker=checker.text(compiler.operations),
        columns=columns,
        record_types=compiler.record_types,
        steps=tuple(checker.steps),
        by_place={
            each.output: (each.offsets, each.size)
            for each in compiler.operations
            if isinstance(each, Bytes) and each.by_place
        },
    )


class _OpenRun:
    """Fixed fields that are being collected to be read at once."""

    def __init__(self) -> None:
        self.records: Records | None = None
        self.types: list[tuple[object, int]] = []
        self.fields: list[tuple[int, str]] = []
        self.size = 0

    def add(self, dtype: object, size: int, path: str) -> str:
        """Name of the new field."""
        self.types.append((dtype, self.size))
        self.fields.append((self.size, path))
        self.size += size
        return f"f{len(self.types) - 1}"

    def record_type(self) -> np.dtype[np.void]:
        return np.dtype(
            {
                "names": [f"f{index}" for index in range(len(self.types))],
                "formats": [dtype for dtype, _ in self.types],
                "offsets": [offset for _, offset in self.types],
                "itemsize": self.size,
            }
        )


class _Memory:
    """What was found out about nodes, by their id: definitions nest, and the same is asked at every level."""

    def __init__(self) -> None:
        self.exits: dict[tuple[int, State], State] = {}
        self.types: dict[int, pa.DataType] = {}


class _Compiler:
    """Compiles nodes one after another, keeping track of what is known about the alignment."""

    def __init__(
        self,
        wire: Wire,
        *,
        state: State | None = None,
        memory: _Memory | None = None,
        by_place: bool = False,
    ) -> None:
        self.operations: list[Operation] = []
        self.record_types: dict[str, np.dtype[np.void]] = {}
        self._wire = wire
        self._by_place = by_place
        self._state: State = state or (wire.max_align, 0)
        self._memory = memory or _Memory()
        self._run: _OpenRun | None = None
        self._outputs = 0

    def message(self, root: Struct) -> tuple[Column, ...]:
        group = self._node(root, "")
        self._close_run()
        assert isinstance(group, Group)
        return group.items

    # --- nodes

    def _node(self, node: Node, path: str) -> Column:
        match node:
            case Primitive():
                return self._values(node, path)
            case String():
                return self._text(node, path)
            case Struct():
                return self._struct(node, path)
            case Array():
                return self._array(node, path)
            case Sequence():
                return self._sequence(node, path)

    def _struct(self, struct: Struct, path: str) -> Column:
        if self._wire.delimiters == "all":
            with self._delimited(path):
                return self._members(struct, path)
        return self._members(struct, path)

    def _members(self, struct: Struct, path: str) -> Column:
        prefix = f"{path}." if path else ""
        if struct.fields:
            items = tuple(self._node(field.node, prefix + field.name) for field in struct.fields)
        elif self._empty_bytes:
            items = (self._values(_PLACEHOLDER, prefix + PLACEHOLDER),)
        else:
            items = (Nothing(pa.uint8()),)
        return Group(items, self._type(struct))

    def _values(self, primitive: Primitive, path: str, count: int | None = None) -> Leaf:
        """One value, or ``count`` of them."""
        size = self._size(primitive)
        self._align(size)
        dtype = self._number(primitive)
        records, name = self._add_to_run(
            dtype if count is None else (dtype, (count,)), size * (1 if count is None else count), path
        )
        return _leaf(primitive, records, name)

    def _text(self, string: String, path: str) -> Column:
        wire = self._wire
        self._length()
        unit = wire.wide_unit if string.wide else 1
        counts_bytes = string.wide and wire.wide_counts_bytes
        offsets, data = self._new_output(), self._new_output()
        self.operations.append(
            Bytes(offsets, data, 1 if counts_bytes else unit, 1, path, text=True, even=counts_bytes)
        )
        self._state = (min(unit, wire.max_align), 0)
        return Text(offsets, data, unit, wire.big_endian, wire.terminated and not string.wide, counts_bytes)

    def _array(self, array: Array, path: str) -> Column:
        item, size, type_ = array.item, array.size, self._type(array)
        if size == 0:
            return Nothing(type_)
        if isinstance(item, Primitive):
            leaf = self._values(item, path, size)
            if item.name == "uint8":
                return dataclasses.replace(leaf, kind="bytes", type=type_)
            return FixedList(size, leaf, type_)
        if self._wire.delimiters == "none" and self._primitive_sizes(item) == []:
            return FixedList(size, self._node(item, f"{path}[]"), type_)  # takes no bytes
        if self._wire.delimiters != "none" and not _is_of_primitives(array):
            with self._delimited(path):
                return FixedList(size, self._repeated(item, size, path), type_)
        if uniform := self._uniform(item):
            item_size, alignment = uniform
            self._align(alignment)
            return FixedList(size, self._records_in_run(item, item_size, size, path), type_)
        return FixedList(size, self._repeated(item, size, path), type_)

    def _repeated(self, item: Node, count: int, path: str) -> Column:
        self._settle(item)
        body, column = self._body(item, path)
        self.operations.append(Loop("", count, self._least(item), body, path))
        return column

    def _records_in_run(self, item: Node, item_size: int, count: int, path: str) -> Column:
        run = self._open_run()
        assert run.records is not None
        records = Records(run.records.output, (*run.records.parts, f"f{len(run.types)}"))
        record_type, column = self._record(item, records, path)
        self._add_to_run((record_type, (count,)), item_size * count, path)
        return column

    def _sequence(self, sequence: Sequence, path: str) -> Column:
        if self._wire.delimiters != "none" and not isinstance(sequence.item, Primitive):
            with self._delimited(path):
                return self._counted(sequence, path)
        return self._counted(sequence, path)

    def _counted(self, sequence: Sequence, path: str) -> Column:
        item, type_ = sequence.item, self._type(sequence)
        self._length()
        offsets = self._new_output()
        if isinstance(item, Primitive):
            data, size = self._new_output(), self._size(item)
            self.record_types[data] = np.dtype(self._number(item))
            self._bulk(offsets, data, size, min(size, 8), path, by_place=self._by_place)
            if item.name == "uint8":
                return Blob(offsets, data)
            return List(offsets, _leaf(item, Records(data), ""), type_)
        if uniform := self._uniform(item):
            data = self._new_output()
            self.record_types[data], column = self._record(item, Records(data), path)
            self._bulk(offsets, data, *uniform, path)
            return List(offsets, column, type_)
        self._settle(item)
        entry = self._state
        body, column = self._body(item, path)
        self._state = entry
        self.operations.append(Loop(offsets, 0, self._least(item), body, path))
        return List(offsets, column, type_)

    def _bulk(
        self, offsets: str, data: str, size: int, alignment: int, path: str, *, by_place: bool = False
    ) -> None:
        alignment = min(alignment, self._wire.max_align)
        none = some = self._state
        aligned = none[0] % alignment == 0 and none[1] % alignment == 0
        if not aligned:
            some = (alignment, 0)
        self.operations.append(
            Bytes(offsets, data, size, 1 if aligned else alignment, path, by_place=by_place)
        )
        step = gcd(some[0], size)
        self._state = _merge(none, (step, some[1] % step))

    def _record(self, item: Node, records: Records, path: str) -> tuple[np.dtype[np.void], Column]:
        """The record type of a uniform item, and the column of many of them."""
        inner = _Compiler(self._wire, memory=self._memory)
        inner._run = _OpenRun()
        inner._run.records = records
        column = inner._node(item, f"{path}[]")
        return inner._run.record_type(), column

    # --- alignment

    def _align(self, size: int) -> None:
        """Moves to the next multiple of ``size``: at no cost where the position is known well enough."""
        to = min(size, 8, self._wire.max_align)
        modulus, remainder = self._state
        if modulus % to == 0:
            padding = -remainder % to
            if padding:
                self._open_run().size += padding
                self._advance(padding)
        else:
            self._close_run()
            self.operations.append(Align(to))
            self._state = (to, 0)

    def _advance(self, size: int) -> None:
        modulus, remainder = self._state
        self._state = (modulus, (remainder + size) % modulus)

    def _settle(self, item: Node) -> None:
        """Forgets what is not known at the start of every item, the first and all others."""
        self._close_run()
        while (merged := _merge(self._state, self._exit(item, self._state))) != self._state:
            self._state = merged

    def _exit(self, node: Node, state: State) -> State:
        """What is known behind ``node`` if ``state`` is known before it."""
        key = (id(node), state)
        exits = self._memory.exits
        if key not in exits:
            scratch = _Compiler(self._wire, state=state, memory=self._memory)
            scratch._node(node, "")
            exits[key] = scratch._state
        return exits[key]

    # --- parts of operations

    def _length(self) -> None:
        """Room for a length or a count, which is an operation of its own."""
        self._align(4)
        self._close_run()
        self._advance(4)

    def _body(self, item: Node, path: str) -> tuple[tuple[Operation, ...], Column]:
        with self._inside() as body:
            column = self._node(item, f"{path}[]")
        return tuple(body), column

    @contextlib.contextmanager
    def _delimited(self, path: str) -> Iterator[None]:
        self._length()
        with self._inside() as body:
            yield
        self.operations.append(Delimited(tuple(body), path))
        self._state = (1, 0)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[list[Operation]]:
        """Operations of a body, where nothing is by its place."""
        outside, by_place = self.operations, self._by_place
        body: list[Operation] = []
        self.operations, self._by_place = body, False
        yield body
        self._close_run()
        self.operations, self._by_place = outside, by_place

    def _open_run(self) -> _OpenRun:
        if self._run is None:
            self._run = _OpenRun()
            self._run.records = Records(self._new_output())
        return self._run

    def _add_to_run(self, dtype: object, size: int, path: str) -> tuple[Records, str]:
        run = self._open_run()
        assert run.records is not None
        name = run.add(dtype, size, path)
        self._advance(size)
        return run.records, name

    def _close_run(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        assert run.records is not None
        output = run.records.output if run.types else ""
        if output:
            self.record_types[output] = run.record_type()
        self.operations.append(Run(output, run.size, tuple(run.fields)))

    def _new_output(self) -> str:
        self._outputs += 1
        return f"o{self._outputs}"

    def _type(self, node: Node) -> pa.DataType:
        types = self._memory.types
        if id(node) not in types:
            types[id(node)] = arrow_type(node)
        return types[id(node)]

    def _number(self, primitive: Primitive) -> str:
        code = f"u{self._wire.wide_unit}" if primitive.declared == "wchar" else _CODES[primitive.name]
        return (">" if self._wire.big_endian else "<") + code

    # --- sizes

    def _size(self, primitive: Primitive) -> int:
        return self._wire.wide_unit if primitive.declared == "wchar" else SIZES[primitive.name]

    @property
    def _empty_bytes(self) -> int:
        """Bytes that a message without fields takes, inside another one."""
        return 0 if self._wire.max_align == 1 else 1

    def _least(self, node: Node) -> int:
        """Smallest number of bytes that ``node`` can take."""
        match node:
            case Primitive():
                return self._size(node)
            case Struct(fields=()):
                return self._empty_bytes
            case Struct():
                return sum(self._least(field.node) for field in node.fields)
            case Array():
                return node.size * self._least(node.item)
            case _:
                return 4

    def _uniform(self, item: Node) -> tuple[int, int] | None:
        """(size, alignment) of an item of which many lie one behind the other, all padded alike.

        That is so if its size is fixed and a multiple of its largest alignment, which must be the first
        field's too: then every item starts where the one before ends. None for any other.
        """
        alignments = [min(size, 8, self._wire.max_align) for size in self._primitive_sizes(item) or ()]
        if not alignments or alignments[0] != max(alignments):
            return None
        scratch = _Compiler(self._wire, memory=self._memory)
        scratch._node(item, "")
        assert scratch._run is not None
        size = scratch._run.size
        return None if size % alignments[0] else (size, alignments[0])

    def _primitive_sizes(self, node: Node) -> list[int] | None:
        """Sizes of the primitives that ``node`` always is made of; None where that is not fixed."""
        match node:
            case Primitive():
                return [self._size(node)]
            case Struct() if self._wire.delimiters != "all":
                if not node.fields:
                    return [1] * self._empty_bytes
                parts = [self._primitive_sizes(field.node) for field in node.fields]
                known = [part for part in parts if part is not None]
                return list(itertools.chain(*known)) if len(known) == len(parts) else None
            case Array(size=0):
                return []
            case Array() if self._wire.delimiters == "none" or _is_of_primitives(node):
                return self._primitive_sizes(node.item)
            case _:
                return None


_PLACEHOLDER: Final = Primitive("uint8", "uint8")


def _is_of_primitives(array: Array) -> bool:
    """Whether it is one block of primitives, in however many dimensions: XCDR2 gives these no length."""
    item = array.item
    while isinstance(item, Array):
        item = item.item
    return isinstance(item, Primitive)


def _merge(one: State, other: State) -> State:
    """What is known where either may be the case."""
    modulus = gcd(one[0], other[0])
    while (one[1] - other[1]) % modulus:
        modulus //= 2
    return modulus, one[1] % modulus


def _leaf(primitive: Primitive, records: Records, name: str) -> Leaf:
    kind: Literal["number", "bool", "bytes"] = "number"
    if primitive.name == "bool":
        kind = "bool"
    elif primitive.name == "float128":
        kind = "bytes"
    return Leaf(records, name, kind, arrow_type(primitive))


# --- writing the decoder -----------------------------------------------------------------------------


def _decoder_text(operations: SequenceOf[Operation], wire: Wire) -> str:
    offsets: list[str] = []
    outputs: list[str] = []
    places: list[str] = []
    for operation in _walk(operations):
        match operation:
            case Run():
                outputs.append(operation.output)
            case Bytes():
                offsets.append(operation.offsets)
                (places if operation.by_place else outputs).append(operation.output)
            case Loop():
                offsets.append(operation.offsets)
    words = ["input data input starts input stops variable base"]
    words += [f"output {name} uint8" for name in outputs if name]
    words += [f"output {name} int64" for name in places]
    # Offsets begin with 0, as Arrow's do.
    words += [f"output {name} int32 0 {name} <- stack" for name in offsets if name]
    words += [
        "begin pause starts len 8 / 0 do",
        "starts q-> stack dup base ! data seek",
        *_decode(operations, wire),
        f"stops q-> stack data pos - {_surplus(wire)} if halt then",
        "loop again",
    ]
    return "\n".join(words)


def _surplus(wire: Wire) -> str:
    """( bytes behind the last field -- nonzero if that cannot be )"""
    if wire.padding == 0:
        return ""
    if wire.padding == 3:
        return "-4 and"
    return f"dup 0 < swap {wire.padding} > or"


def _walk(operations: SequenceOf[Operation]) -> Iterator[Operation]:
    for operation in operations:
        yield operation
        if isinstance(operation, Loop | Delimited):
            yield from _walk(operation.body)


def _decode(operations: SequenceOf[Operation], wire: Wire) -> list[str]:
    length = "data !I-> stack" if wire.big_endian else "data I-> stack"
    words = []
    for operation in operations:
        match operation:
            case Run(output="", size=size):
                words.append(f"{size} data skip")
            case Run(output=output, size=size):
                words.append(f"{size} data #B-> {output}")
            case Align(to=to):
                words.append(f"base @ data pos - {to - 1} and data skip")
            case Bytes():
                words.append(length)
                if operation.even:
                    words.append("dup 1 and if halt then")
                words.append(f"dup {operation.offsets} +<- stack")
                if operation.align > 1:
                    words.append("dup 0= invert base @ data pos -")
                    words.append(f"{operation.align - 1} and and data skip")
                if operation.size > 1:
                    words.append(f"{operation.size} *")
                if operation.by_place:
                    words.append(f"data pos {operation.output} <- stack data skip")
                else:
                    words.append(f"data #B-> {operation.output}")
            case Loop(offsets="", count=count, body=body):
                words += [f"{count} 0 do", *_decode(body, wire), "loop"]
            case Loop(offsets=offsets, least=0):
                words.append(f"{length} dup {MAX_EMPTY_ELEMENTS} > if halt then {offsets} +<- stack")
            case Loop(offsets=offsets, body=body):
                words += [f"{length} dup {offsets} +<- stack 0 do", *_decode(body, wire), "loop"]
            case Delimited(body=body):
                words += [f"{length} data pos +", *_decode(body, wire)]
                words.append("dup data pos < if halt then data seek")
    return words


# --- writing the checker -----------------------------------------------------------------------------

# Every word does nothing once a step has failed, so that a checker needs no way out of its loops.
_CHECKER_WORDS: Final = """
input data input starts input stops
output step int32 output at int64 output amount int64
variable base variable stop variable ok
: fail ( amount step -- )
  ok @ if step <- stack amount <- stack data pos at <- stack 0 ok ! else drop drop then ;
: take ( bytes step -- )
  ok @ if over data pos + stop @ > if fail else drop data skip then else drop drop then ;
: length ( step -- length )
  ok @ if
    data pos 4 + stop @ > if 4 swap fail 0 else drop data {length} stack then
  else drop 0 then ;
: plausible ( step count size -- count )
  over * data pos + stop @ > if swap fail 0 else nip then ;
: align ( mask -- )
  base @ data pos - and stop @ data pos - min data skip ;
: close ( end step -- )
  ok @ if
    over data pos < if fail else over stop @ > if fail else drop data seek then then
  else drop drop then ;
"""


class _CheckerWriter:
    def __init__(self, wire: Wire) -> None:
        self.steps = [Step("end")]  # number 0 is used by no verdict: it means a good message
        self._wire = wire

    def text(self, operations: SequenceOf[Operation]) -> str:
        body = self._check(operations)
        end = self._step(Step("end"))
        return "\n".join(
            [
                _CHECKER_WORDS.format(length="!I->" if self._wire.big_endian else "I->"),
                "begin pause starts len 8 / 0 do",
                "-1 ok ! starts q-> stack dup base ! data seek stops q-> stack stop !",
                *body,
                f"ok @ if stop @ data pos - dup {_surplus(self._wire)}",
                f"if {end} fail else drop 0 step <- stack 0 amount <- stack 0 at <- stack then then",
                "loop again",
            ]
        )

    def _step(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def _check(self, operations: SequenceOf[Operation]) -> list[str]:
        words: list[str] = []
        for operation in operations:
            match operation:
                case Run():
                    words.append(f"{operation.size} {self._step(Step('run', fields=operation.fields))} take")
                case Align(to=to):
                    words.append(f"{to - 1} align")
                case Bytes():
                    words += self._check_bytes(operation)
                case Loop():
                    words += self._check_loop(operation)
                case Delimited(path=path, body=body):
                    words.append(f"{self._step(Step('length', path))} length data pos +")
                    words += self._check(body)
                    words.append(f"{self._step(Step('delimiter', path))} close")
        return words

    def _check_bytes(self, operation: Bytes) -> list[str]:
        content = self._step(Step("text" if operation.text else "count", operation.path))
        words = [f"{content} {self._step(Step('length', operation.path))} length {operation.size} plausible"]
        if operation.even:
            words.append(f"dup 1 and if {self._step(Step('odd', operation.path))} fail 0 then")
        if operation.align > 1:
            words.append(f"dup if {operation.align - 1} align then")
        if operation.size > 1:
            words.append(f"{operation.size} * {self._step(Step('items', operation.path))} take")
        else:
            words.append(f"{content} take")
        return words

    def _check_loop(self, operation: Loop) -> list[str]:
        path = operation.path
        if not operation.offsets:
            words = [str(operation.count)]
        elif operation.least == 0:
            words = [f"{self._step(Step('length', path))} length dup {MAX_EMPTY_ELEMENTS} >"]
            return [*words, f"if {self._step(Step('empty', path))} fail else drop then"]
        else:
            count = self._step(Step("count", path))
            words = [f"{count} {self._step(Step('length', path))} length {operation.least} plausible"]
        return [
            *words,
            "begin dup 0 > ok @ and while 1-",
            *self._check(operation.body),
            "repeat drop",
        ]
