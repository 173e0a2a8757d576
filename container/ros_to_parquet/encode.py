"""Arrow columns back into serialized messages: the inverse of ``decode``.

As there, no step of Python is taken a message: a Forth program, generated from the layout, walks through the
columns' buffers and copies each value to where the wire format has it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# awkward.forth is this class behind a package that takes half a second to import.
from awkward_cpp.lib._ext import ForthMachine64

from ros_to_parquet.bag.model import Int64Array, UInt8Array
from ros_to_parquet.layout import (
    SIZES,
    Array,
    DefinitionError,
    Layout,
    Node,
    Primitive,
    Sequence,
    String,
    Struct,
)
from ros_to_parquet.program import ROS1, Wire
from ros_to_parquet.schema import arrow_fields

CDR: Final = Wire("CDR")
"""What messages of ROS 2 are written as: CDR (XCDR1), little-endian, wide strings in units of four bytes."""

ENCODINGS: Final = ("ros1", "cdr")
"""Those that messages can be written in."""

_CDR_HEADER: Final = (0, 1, 0, 0)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Messages, one behind the other.

    Attributes:
        data: uint8, shape (bytes,).
        ends: int64, shape (messages,): where each message ends in ``data``; the next begins there.
    """

    data: UInt8Array
    ends: Int64Array


class Encoder:
    """Encodes the columns of one table.

    Args:
        layout: of the messages.
        encoding: ``ros1``, or ``cdr`` (written as `CDR`, whatever its version and byte order once were).

    Raises:
        DefinitionError: another encoding.
    """

    def __init__(self, layout: Layout, encoding: str) -> None:
        if encoding not in ENCODINGS:
            raise DefinitionError(
                f"type {layout.root.type_name}: message encoding {encoding!r} is not supported; "
                "ros1 and cdr are"
            )
        self.schema = pa.schema(arrow_fields(layout))
        self._root = layout.root
        self._wire = ROS1 if encoding == "ros1" else CDR
        self._machine = ForthMachine64(_program(layout.root, self._wire), output_resize_factor=2.0)

    def encode(self, columns: SequenceOf[pa.Array], rows: int) -> Encoded:
        """The messages of ``rows`` rows; ``columns`` are those of ``schema``.

        Raises:
            ValueError: a column is of another type or length, or has nulls, which messages cannot have.
        """
        for column, field in zip(columns, self.schema, strict=True):
            if column.type != field.type or len(column) != rows:
                raise ValueError(
                    f"column {field.name} is {len(column)} x {column.type}, not {rows} x {field.type}"
                )
        arrays = itertools.chain.from_iterable(
            _buffers(field.node, column, self._wire)
            for field, column in zip(self._root.fields, columns, strict=True)
        )
        inputs: dict[str, npt.NDArray[Any]] = {f"in{number}": array for number, array in enumerate(arrays)}
        inputs["rows"] = np.array([rows], np.int64)
        self._machine.run(inputs)
        return Encoded(self._machine.output("out"), self._machine.output("ends"))


# --- the program -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _program(root: Struct, wire: Wire) -> str:
    """Reads the buffers of `_buffers`, in their order, as inputs ``in0``, ``in1`` and so on."""
    numbers = itertools.count()
    body: list[str] = []
    for field in root.fields:
        body += _words(field.node, wire, numbers)
    if not root.fields and wire.max_align > 1:
        body.append("0 out <- stack")  # ROS 2's placeholder
    header = [f"{byte} out <- stack" for byte in _CDR_HEADER[: wire.header_bytes]]
    return "\n".join(
        [
            "input rows output out uint8 output ends int64 variable base",
            *(f"input in{number}" for number in range(next(numbers))),
            "rows q-> stack 0 do",
            *header,
            "out len base !",
            *body,
            "out len ends <- stack",
            "loop",
        ]
    )


def _words(node: Node, wire: Wire, numbers: Iterator[int]) -> list[str]:
    """Words that append one value of ``node`` to the output."""
    match node:
        case Primitive():
            return [*_align(SIZES[node.name], wire), f"{SIZES[node.name]} in{next(numbers)} #B-> out"]
        case String():
            length, data = _length(wire, numbers), f"in{next(numbers)} #B-> out"
            if node.wide:
                return [*length, f"{wire.wide_unit} * {data}"]
            return [*length, f"1- {data} 0 out <- stack" if wire.terminated else data]
        case Struct():
            fields = [field.node for field in node.fields] or _placeholder(wire)
            return [word for field in fields for word in _words(field, wire, numbers)]
        case Array(size=0):
            return []
        case Array(item=Primitive(name=name), size=size):
            return [*_align(SIZES[name], wire), f"{size * SIZES[name]} in{next(numbers)} #B-> out"]
        case Array(item=item, size=size):
            return [f"{size} 0 do", *_words(item, wire, numbers), "loop"]
        case Sequence(item=Primitive(name=name)):
            length = _length(wire, numbers)
            if align := _align(SIZES[name], wire) if SIZES[name] > 4 else []:
                align = ["dup if", *align, "then"]  # where there are no elements, there is no padding
            return [*length, *align, f"{SIZES[name]} * in{next(numbers)} #B-> out"]
        case Sequence(item=item):
            return [*_length(wire, numbers), "0 do", *_words(item, wire, numbers), "loop"]


def _length(wire: Wire, numbers: Iterator[int]) -> list[str]:
    """Words that copy a length of four bytes to the output and leave it on the stack."""
    name = f"in{next(numbers)}"
    return [*_align(4, wire), f"{name} I-> stack -4 {name} skip 4 {name} #B-> out"]


def _align(size: int, wire: Wire) -> list[str]:
    to = min(size, 8, wire.max_align)
    return [f"base @ out len - {to - 1} and 0 do 0 out <- stack loop"] if to > 1 else []


def _placeholder(wire: Wire) -> list[Node]:
    """What a nested message without fields is on the wire: a byte in ROS 2, nothing in ROS 1."""
    return [Primitive("uint8", "uint8")] if wire.max_align > 1 else []


# --- the buffers -------------------------------------------------------------------------------------


def _buffers(node: Node, array: pa.Array, wire: Wire) -> Iterator[npt.NDArray[Any]]:
    """The values of a column as they are on the wire, leaf by leaf; lengths in front of what they count.

    The order is that in which `_words` takes input numbers.
    """
    if array.null_count:
        raise ValueError(f"{array.null_count} nulls in a column of {array.type}: messages have none")
    match node:
        case Primitive():
            yield _values(array)
        case String(wide=True):
            yield from _wide_texts(array, wire)
        case String():
            lengths, data = _binary(array)
            yield lengths + np.uint32(wire.terminated)
            yield data
        case Struct():
            fields = [field.node for field in node.fields] or _placeholder(wire)
            for number, field in enumerate(fields):
                yield from _buffers(field, array.field(number), wire)
        case Array(size=0):
            pass
        case Array(item=Primitive(name="uint8")):
            yield _values(array)
        case Array(item=item):
            yield from _buffers(item, array.flatten(), wire)
        case Sequence(item=Primitive(name="uint8")):
            yield from _binary(array)
        case Sequence(item=item):
            yield _lengths(_fixed(array.offsets, np.int32))
            yield from _buffers(item, array.flatten(), wire)


def _fixed(array: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Values of a primitive array, without a copy (and without pandas, which ``to_numpy`` imports)."""
    size = np.dtype(dtype).itemsize
    data = array.buffers()[1]
    if data is None:
        return np.zeros(0, dtype)
    return np.frombuffer(data, dtype, count=len(array), offset=array.offset * size)


def _values(array: pa.Array) -> UInt8Array:
    """Bytes of fixed-size values; a bool takes one."""
    if pa.types.is_boolean(array.type):
        packed = _bytes(array.buffers()[1], array.offset // 8, (array.offset + len(array) + 7) // 8)
        return np.unpackbits(packed, bitorder="little")[array.offset % 8 :][: len(array)]
    width = array.type.byte_width
    return _bytes(array.buffers()[1], array.offset * width, (array.offset + len(array)) * width)


def _binary(array: pa.Array) -> tuple[npt.NDArray[np.uint32], UInt8Array]:
    """Lengths and bytes of text or binary."""
    _, offsets, data = array.buffers()
    if not len(array):
        return np.zeros(0, np.uint32), np.zeros(0, np.uint8)
    places = np.frombuffer(offsets, np.int32, count=len(array) + 1, offset=array.offset * 4)
    return _lengths(places), _bytes(data, int(places[0]), int(places[-1]))


def _bytes(buffer: pa.Buffer | None, start: int, stop: int) -> UInt8Array:
    if buffer is None or start == stop:
        return np.zeros(0, np.uint8)
    return np.frombuffer(buffer, np.uint8, count=stop - start, offset=start)


def _lengths(offsets: npt.NDArray[np.int32]) -> npt.NDArray[np.uint32]:
    return np.diff(offsets).astype(np.uint32)


def _wide_texts(array: pa.Array, wire: Wire) -> Iterator[npt.NDArray[Any]]:
    """UTF-16 units of strings, one by one: they are rare."""
    texts = [text.encode("utf-16-le") for text in array.to_pylist()]
    yield np.array([len(text) // 2 for text in texts], np.uint32)
    yield np.frombuffer(b"".join(texts), "<u2").astype(f"<u{wire.wide_unit}").view(np.uint8)
