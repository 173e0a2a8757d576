"""A slow, obvious codec of ROS messages: one value after another, as the wire formats say.

Values are what Arrow's ``to_pylist`` makes of the same message: dicts, lists, bytes, str, numbers.
"""

from __future__ import annotations

import math
import random
import struct
from typing import Any

from ros_to_parquet.definitions import PLACEHOLDER
from ros_to_parquet.layout import SIZES, Array, Node, Primitive, Sequence, String, Struct
from ros_to_parquet.program import Wire
from ros_to_parquet.schema import unique_names

FORMATS = {
    "bool": "B",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}


def _format(node: Primitive, wire: Wire) -> str:
    return FORMATS[f"uint{8 * wire.wide_unit}" if node.declared == "wchar" else node.name]


class BadMessageError(ValueError):
    """Does not decode."""


def decode(root: Struct, wire: Wire, payload: bytes) -> dict[str, Any]:
    """The message in ``payload`` (without its header)."""
    reader = _Reader(wire, payload)
    if not root.fields:
        if len(payload) > (4 if wire.padding else 0):
            raise BadMessageError("bytes left over")
        return {}
    message: dict[str, Any] = reader.node(root)
    if len(payload) - reader.position > wire.padding:
        raise BadMessageError("bytes left over")
    return message


def encode(root: Struct, wire: Wire, message: dict[str, Any]) -> bytes:
    """The payload of ``message``, without a header."""
    writer = _Writer(wire)
    if root.fields:
        writer.node(root, message)
    elif wire.padding:
        writer.data += b"\0"
    return bytes(writer.data)


def _is_none(node: Node) -> bool:
    return isinstance(node, Array) and node.size == 0


def _names(node: Struct) -> list[str]:
    return unique_names(field.name for field in node.fields)


class _Reader:
    def __init__(self, wire: Wire, data: bytes) -> None:
        self.wire, self.data, self.position = wire, data, 0

    def take(self, size: int) -> bytes:
        if self.position + size > len(self.data):
            raise BadMessageError(f"{size} bytes wanted at {self.position} of {len(self.data)}")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, code: str) -> Any:
        size = struct.calcsize("=" + code)
        self.align(size)
        return struct.unpack((">" if self.wire.big_endian else "<") + code, self.take(size))[0]

    def align(self, size: int) -> None:
        self.take(-self.position % min(size, 8, self.wire.max_align))

    def length(self, least: int) -> int:
        count: int = self.number("I")
        if count * least > len(self.data) - self.position:
            raise BadMessageError("a count that cannot be")
        return count

    def delimited(self, node: Node) -> Any:
        end = self.number("I") + self.position
        value = self.plain(node)
        if self.position > end or end > len(self.data):
            raise BadMessageError("delimiter")
        self.position = end
        return value

    def node(self, node: Node) -> Any:
        return self.delimited(node) if _is_delimited(node, self.wire) else self.plain(node)

    def plain(self, node: Node) -> Any:
        if isinstance(node, Primitive):
            if node.name == "float128":
                self.align(8)
                return self.take(16)
            value = self.number(_format(node, self.wire))
            return bool(value) if node.name == "bool" else value
        if isinstance(node, String):
            return self.wide() if node.wide else self.text()
        if isinstance(node, Struct):
            if not node.fields:
                return {PLACEHOLDER: self.number("B") if self.wire.max_align > 1 else 0}
            return {
                name: self.node(field.node) for name, field in zip(_names(node), node.fields, strict=True)
            }
        count = node.size if isinstance(node, Array) else self.length(least_size(node.item, self.wire))
        if isinstance(node, Sequence) and least_size(node.item, self.wire) == 0 and count > 16:
            raise BadMessageError("too many empty elements")
        if isinstance(node.item, Primitive) and node.item.name == "uint8" and not _is_none(node):
            return self.take(count)
        return [self.node(node.item) for _ in range(count)]

    def text(self) -> str:
        raw = self.take(self.length(1))
        if self.wire.terminated and raw.endswith(b"\0"):
            raw = raw[:-1]
        return raw.decode(errors="backslashreplace")

    def wide(self) -> str:
        count = self.number("I")
        if self.wire.wide_counts_bytes:
            if count % 2:
                raise BadMessageError("odd")
            count //= 2
        raw = self.take(count * self.wire.wide_unit)
        order = "big" if self.wire.big_endian else "little"
        units = [
            int.from_bytes(raw[place : place + self.wire.wide_unit], order)  # type: ignore[arg-type]
            for place in range(0, len(raw), self.wire.wide_unit)
        ]
        return b"".join(unit.to_bytes(2, "little") for unit in units).decode("utf-16-le")


class _Writer:
    def __init__(self, wire: Wire) -> None:
        self.wire, self.data = wire, bytearray()

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % min(size, 8, self.wire.max_align))

    def number(self, code: str, value: Any) -> None:
        self.align(struct.calcsize("=" + code))
        self.data += struct.pack((">" if self.wire.big_endian else "<") + code, value)

    def node(self, node: Node, value: Any) -> None:
        if not _is_delimited(node, self.wire):
            self.plain(node, value)
            return
        self.number("I", 0)
        begin = len(self.data)
        self.plain(node, value)
        order = ">I" if self.wire.big_endian else "<I"
        struct.pack_into(order, self.data, begin - 4, len(self.data) - begin)

    def plain(self, node: Node, value: Any) -> None:
        if isinstance(node, Primitive):
            if node.name == "float128":
                self.align(8)
                self.data += value
            else:
                self.number(_format(node, self.wire), value)
        elif isinstance(node, String):
            self.text(node, value)
        elif isinstance(node, Struct):
            if not node.fields and self.wire.max_align > 1:
                self.number("B", value[PLACEHOLDER])
            for name, field in zip(_names(node), node.fields, strict=True):
                self.node(field.node, value[name])
        else:
            if isinstance(node, Sequence):
                self.number("I", len(value))
            for item in value:
                self.node(node.item, item)

    def text(self, node: String, value: str) -> None:
        wire = self.wire
        if not node.wide:
            raw = value.encode() + (b"\0" if wire.terminated else b"")
            self.number("I", len(raw))
            self.data += raw
            return
        units = struct.unpack(f"<{len(value.encode('utf-16-le')) // 2}H", value.encode("utf-16-le"))
        self.number("I", len(units) * (wire.wide_unit if wire.wide_counts_bytes else 1))
        for unit in units:
            self.data += unit.to_bytes(wire.wide_unit, "big" if wire.big_endian else "little")


def _is_delimited(node: Node, wire: Wire) -> bool:
    if isinstance(node, Struct):
        return wire.delimiters == "all"
    if _is_none(node):
        return False
    if wire.delimiters == "none" or not isinstance(node, Array | Sequence):
        return False
    item = node.item
    while isinstance(node, Array) and isinstance(item, Array):  # XTypes: one array of several dimensions
        item = item.item
    return not isinstance(item, Primitive)


def least_size(node: Node, wire: Wire) -> int:
    """Smallest number of bytes of a node, padding and delimiters not counted."""
    if isinstance(node, Primitive):
        return SIZES[node.name]
    if isinstance(node, Struct):
        if not node.fields:
            return 1 if wire.max_align > 1 else 0
        return sum(least_size(field.node, wire) for field in node.fields)
    if isinstance(node, Array):
        return node.size * least_size(node.item, wire)
    return 4


# --- values ------------------------------------------------------------------------------------------

TEXTS = ("", "a", "frame_id", "ä€𝄞", "\0", "a\0b", "x" * 40, "line\nline")


def random_message(root: Struct, wire: Wire, rng: random.Random) -> dict[str, Any]:
    """A message; that of a type without fields is an empty dict."""
    message: dict[str, Any] = random_value(root, wire, rng) if root.fields else {}
    return message


def random_value(node: Node, wire: Wire, rng: random.Random) -> Any:
    """A value of ``node``: extremes, NaN and empty sequences among them."""
    if isinstance(node, Primitive):
        return _random_number(node.name, rng)
    if isinstance(node, String):
        text = rng.choice(TEXTS)
        return text[: node.bound] if node.bound else text
    if isinstance(node, Struct):
        if not node.fields:
            return {PLACEHOLDER: rng.randrange(256) if wire.max_align > 1 else 0}
        return {
            name: random_value(field.node, wire, rng)
            for name, field in zip(_names(node), node.fields, strict=True)
        }
    count = node.size if isinstance(node, Array) else rng.choice((0, 0, 1, 2, 3))
    if isinstance(node, Sequence) and node.bound:
        count = min(count, node.bound)
    items = [random_value(node.item, wire, rng) for _ in range(count)]
    if isinstance(node.item, Primitive) and node.item.name == "uint8":
        return items if _is_none(node) else bytes(items)
    return items


def _random_number(name: str, rng: random.Random) -> Any:
    if name == "bool":
        return rng.random() < 0.5
    if name == "float128":
        return rng.randbytes(16)
    if name.startswith("float"):
        value = rng.choice((0.0, -0.0, math.inf, -math.inf, math.nan, 1e-310, rng.gauss(0, 1e3)))
        return struct.unpack("f", struct.pack("f", value))[0] if name == "float32" else value
    bits = 8 * SIZES[name]
    low, high = (0, 2**bits - 1) if name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return rng.choice((low, high, 0, rng.randint(low, high)))


def same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN and 0.0 differs from -0.0."""
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("d", one) == struct.pack("d", other) or (one != one and other != other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)
