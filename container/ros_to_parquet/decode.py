"""Blocks of messages into Arrow columns, without a step of Python a message.

A `Decoder` runs the programs of ``program`` over blocks and puts their outputs together as Arrow arrays,
without a copy where the bytes already lie as Arrow wants them.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

# awkward.forth is this class behind a package that takes half a second to import.
from awkward_cpp.lib._ext import ForthMachine64

from ros_to_parquet.bag.model import Int64Array, MessageBlock, UInt8Array
from ros_to_parquet.definitions import CUSTOM, STANDARD_TYPES, TypeSource, full_type_name
from ros_to_parquet.layout import (
    MAX_MESSAGE_BYTES,
    Array,
    DefinitionError,
    Layout,
    Node,
    Primitive,
    Sequence,
    String,
    Struct,
    fallback_layouts,
    resolve_layout,
)
from ros_to_parquet.program import (
    MAX_EMPTY_ELEMENTS,
    ROS1,
    Blob,
    Column,
    FixedList,
    Group,
    Leaf,
    List,
    Nothing,
    Program,
    Records,
    Step,
    Text,
    Wire,
    compile_program,
)
from ros_to_parquet.schema import arrow_fields

MAX_PENDING_BYTES: Final = MAX_MESSAGE_BYTES
"""Payload between two ``take()``; keeps offsets within 32 bits even if every byte of text is escaped."""


LONG_BYTES: Final = 16 << 10
"""Sequences of messages as long as that on average are copied by numpy. It costs by the message, but no byte
is copied a second time when an output grows."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Columns of messages.

    Attributes:
        columns: one array for each field of ``Decoder.schema``, all as long as ``rows``.
        rows: int64, shape (good messages,): index of each row's message, ascending. Messages count
            from 0 at the first block fed since the last ``take()``.
        rejected: (index, reason) of every other message, ascending.
        repaired_strings: strings that were not UTF-8 and had their bad bytes escaped as ``\\\\xNN``.
        stamps_ns: int64, shape (good messages,), nanoseconds: the stamp of the message's header; None
            where the layout has none.
        remark: what a reader of the table should know; empty where there is nothing.
        repaired: int64, shape (repaired_strings,): index of the message of each, in no order; None where
            the decoder does not tell.
    """

    columns: list[pa.Array]
    rows: Int64Array
    rejected: list[tuple[int, str]]
    repaired_strings: int
    stamps_ns: Int64Array | None
    remark: str = ""
    repaired: Int64Array | None = None


class Decoder:
    """Decodes the messages of one connection.

    Args:
        layout: of the messages.
        encoding: ``ros1`` or ``cdr``. CDR's version and byte order are those of each message's header.
        long_bytes: see `LONG_BYTES`.

    Raises:
        DefinitionError: another encoding.

    Example: ``Decoder(resolve_layout(connection), connection.encoding).decode(block).columns``. Where
    blocks are small, feed several and take their columns at once: building arrays costs per column.
    """

    expansion = 1
    """How many times a message's bytes it takes in memory, at most and about, until ``take``."""

    def __init__(self, layout: Layout, encoding: str, *, long_bytes: int = LONG_BYTES) -> None:
        _check_encoding(layout.root.type_name, encoding)
        self.schema = pa.schema(arrow_fields(layout))
        self.has_stamp = layout.header_index is not None
        self.layout = layout
        self.encoding = encoding
        self._wide = _has_wide_strings(layout.root)
        self._kernels: dict[Wire, _Kernel] = {}
        self._long_bytes = long_bytes
        self._by_place: bool | None = None
        self._fitting: dict[Wire, int] = {}
        self._fed_messages = 0
        self._fed_bytes = 0
        self._rejected: list[tuple[int, str]] = []

    @property
    def pending_bytes(self) -> int:
        """Payload bytes fed since the last ``take()``."""
        return self._fed_bytes

    @property
    def pending_messages(self) -> int:
        """Messages fed since the last ``take()``, good or not."""
        return self._fed_messages

    def decode(self, block: MessageBlock) -> Decoded:
        """``feed`` and ``take``."""
        self.feed(block)
        return self.take()

    def feed(self, block: MessageBlock) -> None:
        """Decodes a block's messages; their columns are had from ``take``. The block is not kept.

        Raises:
            ValueError: a message of the block lies outside of its data.
            OverflowError: more than ``MAX_PENDING_BYTES`` would be pending; ``take`` before.
        """
        self.feed_together([block])

    def feed_together(self, blocks: SequenceOf[MessageBlock]) -> None:
        """``feed`` of blocks that lie in one buffer, maybe of several connections, at the cost of one."""
        data, topic = blocks[0].data, blocks[0].connection.topic
        starts = np.concatenate([block.starts for block in blocks]).astype(np.int64, copy=False)
        lengths = np.concatenate([block.lengths for block in blocks])
        if not len(starts):
            return
        stops = starts + lengths
        if starts.min() < 0 or stops.max() > len(data) or lengths.min() < 0:
            raise ValueError(f"a message of topic {topic} lies outside of its block")
        indices = np.arange(len(starts), dtype=np.int64)
        if lengths.max() > MAX_MESSAGE_BYTES:
            indices = self._refuse_long(indices, lengths)
        payload_bytes = int(lengths[indices].sum()) if len(indices) < len(starts) else int(lengths.sum())
        if self._fed_bytes + payload_bytes > MAX_PENDING_BYTES:
            raise OverflowError(f"more than {MAX_PENDING_BYTES} bytes of messages are pending: take() first")
        if self._by_place is None:  # from its first messages on, for rows of two kernels have to be sorted
            self._by_place = payload_bytes >= self._long_bytes * len(starts)
        if self.encoding == "ros1":
            self._add(data, starts, stops, indices, (ROS1,))
        else:
            for members, representation in _by_representation(data, starts, stops, indices):
                if reason := _REFUSED.get(representation):
                    self._reject(members, [reason] * len(members))
                else:
                    self._add(data, starts, stops, members, self._wires(representation))
        self._fed_messages += len(starts)
        self._fed_bytes += payload_bytes

    def take(self) -> Decoded:
        """The columns of all messages fed since the last time."""
        kernels = list(self._kernels.values()) or [self._kernel(self._wires(_CDR_LE)[0])]
        parts = [part for kernel in kernels for part in kernel.take()]
        columns, rows = _joined(parts)
        rejected = sorted(self._rejected)
        repaired = np.concatenate([part.repaired for part in parts])
        self._rejected = []
        self._fed_messages = self._fed_bytes = 0
        stamps_ns = self._stamps(columns)
        return Decoded(columns, rows, rejected, len(repaired), stamps_ns, repaired=repaired)

    def _add(
        self,
        data: UInt8Array,
        starts: Int64Array,
        stops: Int64Array,
        members: Int64Array,
        wires: SequenceOf[Wire],
    ) -> None:
        """Decodes messages as the first of ``wires`` that fits each; rejects what fits none.

        Where there is more than one, a message can fit several by accident. So the one goes first that has
        fitted the most messages so far.
        """
        if len(wires) > 1:
            for wire in wires:
                begins = starts[members] + wire.header_bytes
                fitting = self._kernel(wire).count_fitting(data, begins, stops[members])
                self._fitting[wire] = self._fitting.get(wire, 0) + fitting
            wires = sorted(wires, key=self._fitting.__getitem__, reverse=True)
        reasons: dict[int, str] = {}
        for wire in wires:
            begins = starts[members] + wire.header_bytes
            failed = self._kernel(wire).add(data, begins, stops[members], members + self._fed_messages)
            for position, reason in failed:
                reasons.setdefault(int(members[position]), reason)
            members = members[[position for position, _ in failed]]
            if not len(members):
                return
        if wires[0] in _WITHOUT_HEADER:
            for index in members.tolist():
                head = data[starts[index] : min(starts[index] + 4, stops[index])].tobytes().hex(" ")
                reasons[index] = f"no CDR header ({head}), and without one: {reasons[index]}"
        self._reject(members, [reasons[index] for index in members.tolist()])

    def _reject(self, members: Int64Array, reasons: list[str]) -> None:
        indices = (members + self._fed_messages).tolist()
        self._rejected += zip(indices, reasons, strict=True)

    def _refuse_long(self, indices: Int64Array, lengths: Int64Array) -> Int64Array:
        long = lengths > MAX_MESSAGE_BYTES
        reasons = [
            f"{size} bytes long, more than the {MAX_MESSAGE_BYTES} of one row" for size in lengths[long]
        ]
        self._reject(indices[long], reasons)
        return indices[~long]

    def _wires(self, representation: int) -> tuple[Wire, ...]:
        if self.encoding == "ros1":
            return (ROS1,)
        wires = _WIRES.get(representation, _WITHOUT_HEADER)
        if not self._wide:
            return wires
        return tuple(
            dataclasses.replace(wire, wide_unit=unit, wide_counts_bytes=counts_bytes)
            for wire in wires
            for unit, counts_bytes in _WIDE_STRINGS
        )

    def _kernel(self, wire: Wire) -> _Kernel:
        if wire not in self._kernels:
            program = compile_program(self.layout.root, wire, by_place=bool(self._by_place))
            self._kernels[wire] = _Kernel(program)
        return self._kernels[wire]

    def _stamps(self, columns: list[pa.Array]) -> Int64Array | None:
        index = self.layout.header_index
        if index is None:
            return None
        header = self.layout.root.fields[index].node
        assert isinstance(header, Struct)
        place = [field.name for field in header.fields].index("stamp")
        stamp = columns[index].field(place)
        # Not to_numpy(): like pa.array() it imports pandas.
        seconds = np.from_dlpack(stamp.field(0)).astype(np.int64)
        nanoseconds = np.from_dlpack(stamp.field(1)).astype(np.int64)
        return seconds * 1_000_000_000 + nanoseconds


def _check_encoding(type_name: str, encoding: str) -> None:
    if encoding not in ("ros1", "cdr"):
        raise DefinitionError(
            f"type {type_name or 'unknown'}: message encoding {encoding!r} is not supported; "
            "ros1, cdr, json and protobuf are"
        )


def choose_layout(
    block: MessageBlock,
    types: TypeSource = STANDARD_TYPES,
    decoder: Callable[[Layout, str], Decoder] = Decoder,
) -> tuple[Layout, str]:
    """The layout for a connection, tried on its first block; a remark where it is not the recorded one.

    ``decoder`` gives one to try a layout with, that holds nothing.

    A bag's definition can be a stub, and a bag without definitions leaves open which distribution's they
    are. So where the resolved layout does not exist or decodes none of the block's first messages, the
    first type of the same name in ``types`` that decodes all of them is taken.

    Raises:
        DefinitionError: see ``resolve_layout``; or the message encoding is not supported.
    """
    connection = block.connection
    _check_encoding(full_type_name(connection.type_name), connection.encoding)
    sample = _first_messages(block, 100)
    layout, problem = None, ""
    try:
        layout = resolve_layout(connection, types)
    except DefinitionError as error:
        problem = str(error)
    else:
        rejected = decoder(layout, connection.encoding).decode(sample).rejected
        if not len(sample) or len(rejected) < len(sample):
            return layout, ""
    for standard in fallback_layouts(connection, types):
        known = layout is not None and layout.root == standard.root
        if not known and not decoder(standard, connection.encoding).decode(sample).rejected:
            what = problem or f"type {connection.type_name}: the definition does not fit the messages"
            used = (
                "the definition of msg_path"
                if standard.source == CUSTOM
                else f"the standard type of {standard.source}"
            )
            return standard, f"{what}; {used} does and was used"
    if layout is None:
        raise DefinitionError(problem)
    return layout, ""


def _first_messages(block: MessageBlock, count: int) -> MessageBlock:
    def head(values: Int64Array | None) -> Int64Array | None:
        return None if values is None else values[:count]

    return dataclasses.replace(
        block,
        starts=block.starts[:count],
        lengths=block.lengths[:count],
        log_times_ns=block.log_times_ns[:count],
        publish_times_ns=head(block.publish_times_ns),
        sequences=head(block.sequences),
        offsets=block.offsets[:count],
    )


def _has_wide_strings(node: Node) -> bool:
    match node:
        case Primitive():
            return node.declared == "wchar"
        case String():
            return node.wide
        case Struct():
            return any(_has_wide_strings(field.node) for field in node.fields)
        case Array() | Sequence():
            return _has_wide_strings(node.item)


# --- CDR headers -------------------------------------------------------------------------------------

_CDR_LE: Final = 0x0001
_NO_HEADER: Final = -1


def _representations() -> dict[int, tuple[Wire, ...]]:
    """Wires by representation id: RTPS 2.2's, XTypes 1.3's (0x06 on) and RTPS 2.5's (0x10 on).

    What XTypes calls appendable (delimited) is taken to hold for every message inside, too.
    """
    xcdr2 = Wire("XCDR2", max_align=4, delimiters="collections")
    appendable = dataclasses.replace(xcdr2, name="delimited XCDR2", delimiters="all")
    wires: dict[int, tuple[Wire, ...]] = {}
    for first, wire in (
        (0x00, Wire("CDR")),
        (0x06, xcdr2),
        (0x10, xcdr2),
        (0x08, appendable),
        (0x14, appendable),
    ):
        wires[first] = (dataclasses.replace(wire, big_endian=True),)
        wires[first + 1] = (wire,)
    return wires


_WIRES: Final = _representations()
_WITHOUT_HEADER: Final = tuple(
    Wire("CDR without a header", header_bytes=0, padding=0, big_endian=big_endian)
    for big_endian in (False, True)
)
_REFUSED: Final = {
    representation: f"CDR representation 0x{representation:04x} is not supported: {kind}"
    for representation, kind in (
        (0x02, "a parameter list"),
        (0x03, "a parameter list"),
        (0x04, "XML"),
        (0x0A, "a parameter list"),
        (0x0B, "a parameter list"),
        (0x12, "a parameter list"),
        (0x13, "a parameter list"),
    )
}
_WIDE_STRINGS: Final[tuple[tuple[Any, bool], ...]] = ((4, False), (2, False), (2, True))
"""(bytes a unit, length counts bytes): Fast CDR 1 and its followers, Fast CDR 2, XTypes."""


def _by_representation(
    data: UInt8Array, starts: Int64Array, stops: Int64Array, indices: Int64Array
) -> Iterator[tuple[Int64Array, int]]:
    """The messages by the representation id of their headers; -1 for those without a known one."""
    short = stops[indices] - starts[indices] < 4
    if not short.any():
        representations = data[starts[indices]].astype(np.int64) << 8
        representations |= data[starts[indices] + 1]
    else:
        representations = np.full(len(indices), _NO_HEADER, np.int64)
        begins = starts[indices[~short]]
        representations[~short] = (data[begins].astype(np.int64) << 8) | data[begins + 1]
    if len(representations) and (representations == representations[0]).all():
        groups = representations[:1]
    else:
        groups = np.unique(representations)
    known = [number for number in groups.tolist() if number in _WIRES or number in _REFUSED]
    for number in known:
        yield (indices if len(groups) == 1 else indices[representations == number]), number
    if len(known) < len(groups):
        yield indices[~np.isin(representations, known)], _NO_HEADER


# --- running programs --------------------------------------------------------------------------------

_QUIET: Final = {
    f"raise_{name}": False
    for name in (
        "user_halt",
        "recursion_depth_exceeded",
        "stack_underflow",
        "stack_overflow",
        "read_beyond",
        "seek_beyond",
        "skip_beyond",
    )
}
_SIZES: Final = {
    "stack_size": 256,
    "recursion_depth": 256,
    "string_buffer_size": 64,
    "output_initial_size": 64,
}
"""Of a new machine, in items: enough for `MAX_DEPTH`. The usual 1,024 of each are 40 KiB a topic."""
_NO_BYTES: Final = np.zeros(0, np.uint8)
_NO_INDICES: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Part:
    """Columns of some rows, which are the messages ``rows``; ``repaired`` as `Decoded` has it."""

    columns: list[pa.Array]
    rows: Int64Array
    repaired: Int64Array


class _Machine:
    """A Forth machine that is paused at the top of its loop, waiting for messages."""

    def __init__(self, source: str) -> None:
        self._machine = ForthMachine64(source, output_resize_factor=2.0, **_SIZES)
        self.reset()

    def reset(self) -> None:
        """Begins with empty outputs; those taken before stay valid."""
        self._machine.run({"data": _NO_BYTES, "starts": _NO_INDICES, "stops": _NO_INDICES})

    def run(self, data: UInt8Array, starts: Int64Array, stops: Int64Array) -> int:
        """How many messages were done before the machine stopped; after fewer than all it must be reset."""
        self._machine.begin_again({"data": data, "starts": starts, "stops": stops}, False)
        if self._machine.resume(**_QUIET) is None:
            return len(starts)
        return int(self._machine.input_position("starts")) // starts.itemsize - 1

    def output(self, name: str) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self._machine.output(name)
        return array


_MOST_USUAL_BYTES: Final = 8 << 20


class _Joined:
    """Bytes of many places, one behind the other."""

    def __init__(self) -> None:
        self._data = _NO_BYTES
        self._size = self._usual_size = 0

    def add(self, data: UInt8Array, places: Int64Array, lengths: Int64Array) -> None:
        """Copies ``lengths`` bytes from each of ``places`` in ``data``."""
        end = self._size + int(lengths.sum())
        if end > len(self._data):
            grown: UInt8Array = np.empty(max(end, 2 * len(self._data), self._usual_size), np.uint8)
            grown[: self._size] = self._data[: self._size]
            self._data = grown
        size = self._size
        for place, length in zip(places.tolist(), lengths.tolist(), strict=True):
            self._data[size : size + length] = data[place : place + length]
            size += length
        self._size = size

    def take(self) -> UInt8Array:
        """All of it; what comes next has memory of its own, as much at once as is likely to be needed."""
        taken = self._data[: self._size]
        self._usual_size = min(self._size + self._size // 8, _MOST_USUAL_BYTES)
        self._data, self._size = _NO_BYTES, 0
        return taken


class _Kernel:
    """Decodes the messages of one wire format."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._decoder = _Machine(program.decoder)
        self._checker: _Machine | None = None
        self._joined = {name: _Joined() for name in program.by_place}
        self._copied_rows = 0
        self._rows: list[Int64Array] = []
        self._parts: list[_Part] = []

    def add(
        self, data: UInt8Array, starts: Int64Array, stops: Int64Array, rows: Int64Array
    ) -> list[tuple[int, str]]:
        """Decodes messages, which are rows of these numbers; (position, reason) of those that do not.

        At most three passes, whatever the messages hold: one until the first bad message, a check of it and
        all behind it, and one over those that are good.
        """
        data, starts, stops = self._own(data, starts, stops)
        done = self._decoder.run(data, starts, stops)
        self._rows.append(rows[:done])
        self._copy(data, done)
        if done == len(starts):
            return []
        self._finish_part()
        failed, reasons = self._check(data, starts[done:], stops[done:])
        good = np.delete(np.arange(done, len(starts)), failed)
        if self._decoder.run(data, starts[good], stops[good]) != len(good):
            raise RuntimeError(
                "the decoder stopped at a message that its checker accepts: a bug, please report it"
            )
        self._rows.append(rows[good])
        self._copy(data, len(good))
        return [(done + int(position), reason) for position, reason in zip(failed, reasons, strict=True)]

    def _copy(self, data: UInt8Array, rows: int) -> None:
        """Of what the decoder tells by its place in ``data``, copies that of its last so many rows."""
        begin, end = self._copied_rows, self._copied_rows + rows
        for name, (offsets, size) in self._program.by_place.items():
            lengths = np.diff(self._decoder.output(offsets)[begin : end + 1]).astype(np.int64) * size
            self._joined[name].add(data, self._decoder.output(name)[begin:end], lengths)
        self._copied_rows = end

    def count_fitting(self, data: UInt8Array, starts: Int64Array, stops: Int64Array) -> int:
        """How many of the messages would decode."""
        failed, _ = self._check(*self._own(data, starts, stops))
        return len(starts) - len(failed)

    def _own(
        self, data: UInt8Array, starts: Int64Array, stops: Int64Array
    ) -> tuple[UInt8Array, Int64Array, Int64Array]:
        """Messages where the machine may write: it swaps the bytes of big-endian numbers in their place."""
        if not self._program.wire.big_endian:
            return data, starts, stops
        view = data.data
        own = bytearray().join(
            [view[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        )
        ends = np.cumsum(stops - starts)
        return np.frombuffer(own, np.uint8), ends - (stops - starts), ends

    def take(self) -> list[_Part]:
        """What was decoded since the last time: at least one part, however empty."""
        if self._rows or not self._parts:
            self._finish_part()
        parts, self._parts = self._parts, []
        return parts

    def _finish_part(self) -> None:
        rows = np.concatenate(self._rows) if self._rows else _NO_INDICES
        self._rows = []
        joined = {name: each.take() for name, each in self._joined.items()}
        self._copied_rows = 0
        builder = _Builder(self._decoder, joined, self._program.record_types)
        columns = [builder.build(column, len(rows)) for column in self._program.columns]
        repaired = rows[builder.repaired] if builder.repaired else _NO_INDICES
        self._parts.append(_Part(columns, rows, repaired))
        self._decoder.reset()

    def _check(self, data: UInt8Array, starts: Int64Array, stops: Int64Array) -> tuple[Int64Array, list[str]]:
        """Positions of the messages that cannot be decoded, and why."""
        if self._checker is None:
            self._checker = _Machine(self._program.checker)
        if self._checker.run(data, starts, stops) != len(starts):
            raise RuntimeError("the checker left a message: a bug, please report it")
        steps, places, amounts = (self._checker.output(name) for name in ("step", "at", "amount"))
        self._checker.reset()
        failed = np.flatnonzero(steps)
        left = stops[failed] - places[failed]
        reasons = [
            _reason(self._program.steps[step], amount, rest)
            for step, amount, rest in zip(
                steps[failed].tolist(), amounts[failed].tolist(), left.tolist(), strict=True
            )
        ]
        return failed, reasons


def _reason(step: Step, amount: int, left: int) -> str:
    """What is wrong with a message of which ``left`` bytes are left at a step that wants ``amount``."""
    field = f"field {step.path}" if step.path else "the message"
    match step.kind:
        case "run":
            # The fields of a run are read at once: the message ends in the last one that begins before.
            begun = [path for offset, path in step.fields if offset <= left] or [
                path for _, path in step.fields[:1]
            ]
            place = f"in field {begun[-1]}" if begun else "in padding"
            return f"ends {amount - left} bytes or more too early, {place}"
        case "length":
            return f"ends too early, in the length of {field}"
        case "items":
            return f"ends {amount - left} bytes or more too early, in {field}"
        case "text":
            return f"{field} says it is {amount} bytes long, {left} are left"
        case "count":
            return f"{field} says it has {amount} elements, {left} bytes are left"
        case "empty":
            return f"{field} says it has {amount} elements of no size, more than {MAX_EMPTY_ELEMENTS}"
        case "odd":
            return f"{field} is UTF-16 and has an odd number of bytes"
        case "delimiter":
            return f"the length in front of {field} does not fit what is in it"
        case "end":
            return f"{left} bytes left over after the last field"


def _joined(parts: list[_Part]) -> tuple[list[pa.Array], Int64Array]:
    """The parts as one, in the order of the messages."""
    if len(parts) > 1:
        parts = [part for part in parts if len(part.rows)] or parts[:1]
    if len(parts) == 1:
        return parts[0].columns, parts[0].rows
    rows = np.concatenate([part.rows for part in parts])
    columns = [pa.concat_arrays(arrays) for arrays in zip(*(part.columns for part in parts), strict=True)]
    if (rows[1:] < rows[:-1]).any():
        order = np.argsort(rows, kind="stable")
        indices = _numbers(pa.int64(), order)
        rows, columns = rows[order], [column.take(indices) for column in columns]
    return columns, rows


# --- Arrow arrays ------------------------------------------------------------------------------------


def _numbers(type_: pa.DataType, values: np.ndarray[Any, Any]) -> pa.Array:
    # Not pa.array(): it imports pandas wherever that is installed.
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)])


class _Builder:
    """Puts Arrow arrays together from a decoder's outputs.

    Attributes:
        repaired: the row of every string that was not UTF-8.
    """

    def __init__(
        self,
        machine: _Machine,
        joined: dict[str, UInt8Array],
        record_types: dict[str, np.dtype[np.void]],
    ) -> None:
        self.repaired: list[int] = []
        self._lists: list[int | np.ndarray[Any, Any]] = []  # sizes or offsets of those we are in
        self._machine = machine
        self._joined = joined
        self._record_types = record_types
        self._records: dict[Records, np.ndarray[Any, Any]] = {}

    def build(self, column: Column, rows: int) -> pa.Array:
        match column:
            case Leaf():
                return self._leaf(column, rows)
            case Text():
                return self._text(column, rows)
            case Blob():
                offsets = self._offsets(column.offsets, rows)
                data = self._bytes(column.data)[: offsets[-1]]
                return pa.Array.from_buffers(
                    pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
                )
            case List():
                offsets = self._offsets(column.offsets, rows)
                self._lists.append(offsets)
                items = self.build(column.item, int(offsets[-1]))
                self._lists.pop()
                return pa.Array.from_buffers(
                    column.type, rows, [None, pa.py_buffer(offsets)], children=[items]
                )
            case FixedList():
                self._lists.append(column.size)
                items = self.build(column.item, rows * column.size)
                self._lists.pop()
                return pa.Array.from_buffers(column.type, rows, [None], children=[items])
            case Group():
                children = [self.build(item, rows) for item in column.items]
                return pa.Array.from_buffers(column.type, rows, [None], children=children)
            case Nothing():
                zeros = pa.py_buffer(np.zeros(rows + 1, np.int32))
                if not pa.types.is_list(column.type):
                    return pa.Array.from_buffers(column.type, rows, [None, zeros])
                items = pa.nulls(0, column.type.value_type)
                return pa.Array.from_buffers(column.type, rows, [None, zeros], children=[items])

    def _offsets(self, name: str, rows: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return self._machine.output(name)[: rows + 1]

    def _bytes(self, name: str) -> UInt8Array:
        return self._joined[name] if name in self._joined else self._machine.output(name)

    def _all_records(self, records: Records) -> np.ndarray[Any, Any]:
        """The records, those past the rows asked for included."""
        if records not in self._records:
            if records.parts:
                outer = self._all_records(Records(records.output, records.parts[:-1]))
                self._records[records] = outer[records.parts[-1]].reshape(-1)
            else:
                record_type = self._record_types[records.output]
                data = self._bytes(records.output)
                whole = len(data) // record_type.itemsize * record_type.itemsize
                self._records[records] = data[:whole].view(record_type)
        return self._records[records]

    def _leaf(self, leaf: Leaf, rows: int) -> pa.Array:
        """``rows`` values; a field of several values a record (a fixed-size array) gives them all."""
        values = self._all_records(leaf.records)
        if leaf.name:
            values = values[leaf.name]
        if leaf.kind == "bytes":
            # Few or many values a record: what counts is bytes.
            size = rows * leaf.type.byte_width
            data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)[:size]
            return pa.Array.from_buffers(leaf.type, rows, [None, pa.py_buffer(data)])
        if leaf.kind == "bool":
            values = np.packbits(values.reshape(-1)[:rows] != 0, bitorder="little")
        else:  # in the byte order of this machine; a wchar may come as two bytes
            values = np.ascontiguousarray(values, leaf.type.to_pandas_dtype()).reshape(-1)[:rows]
        return pa.Array.from_buffers(leaf.type, rows, [None, pa.py_buffer(values)])

    def _note_repaired(self, index: int) -> None:
        """Notes the row of item ``index`` of the lists that we are in."""
        for places in reversed(self._lists):
            if isinstance(places, int):
                index //= places
            else:
                index = int(np.searchsorted(places, index, side="right")) - 1
        self.repaired.append(index)

    # --- text

    def _text(self, column: Text, rows: int) -> pa.Array:
        offsets = self._offsets(column.offsets, rows)
        size = int(offsets[-1]) * (1 if column.counts_bytes else column.unit)
        data = self._machine.output(column.data)[:size]
        if column.unit > 1:
            offsets, data = self._from_wide(column, offsets, data)
        elif column.terminated:
            offsets, data = _without_terminators(offsets, data)
        array = pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
        if len(data) and data.max() >= 0x80:
            try:
                array.validate(full=True)
            except pa.ArrowInvalid:
                return self._repaired(offsets, data)
        return array

    def _repaired(self, offsets: np.ndarray[Any, Any], data: UInt8Array) -> pa.Array:
        """Strings of which some are not UTF-8. In memory are little more than these and the repaired ones."""
        view, repaired, begin = data.data, bytearray(), 0
        lengths = np.diff(offsets)
        for row in _rows_beyond_ascii(offsets, data):
            start, stop = int(offsets[row]), int(offsets[row + 1])
            repaired += view[begin:start]
            place = len(repaired)
            _append_escaped(repaired, view[start:stop])
            begin, lengths[row] = stop, len(repaired) - place
            if len(repaired) - place != stop - start or repaired[place:] != view[start:stop]:
                self._note_repaired(row)
        repaired += view[begin:]
        return pa.Array.from_buffers(
            pa.string(),
            len(lengths),
            [None, pa.py_buffer(_cumulated(lengths)), pa.py_buffer(repaired)],
        )

    def _from_wide(
        self, column: Text, offsets: np.ndarray[Any, Any], data: UInt8Array
    ) -> tuple[np.ndarray[Any, Any], UInt8Array]:
        """UTF-8 of wide strings, one by one: they are rare. Units of four bytes hold UTF-16 or UTF-32."""
        order = "be" if column.big_endian else "le"
        scale = 1 if column.counts_bytes else column.unit
        texts = []
        places = zip((offsets[:-1] * scale).tolist(), (offsets[1:] * scale).tolist(), strict=True)
        for index, (begin, end) in enumerate(places):
            raw, codec = data[begin:end].tobytes(), f"utf-16-{order}"
            if column.unit == 4:
                units = np.frombuffer(raw, ">u4" if column.big_endian else "<u4")
                if len(units) and units.max() > 0xFFFF:
                    codec = f"utf-32-{order}"
                else:
                    raw = units.astype(">u2" if column.big_endian else "<u2").tobytes()
            try:
                text = raw.decode(codec)
            except UnicodeDecodeError:
                text = raw.decode(codec, errors="backslashreplace")
                self._note_repaired(index)
            texts.append(text.encode())
        lengths = np.fromiter(map(len, texts), np.int32, len(texts))
        return _cumulated(lengths), np.frombuffer(b"".join(texts), np.uint8)


_PIECE_BYTES: Final = 1 << 20


def _rows_beyond_ascii(offsets: np.ndarray[Any, Any], data: UInt8Array) -> list[int]:
    """Which strings have bytes that are not ASCII."""
    rows: set[int] = set()
    for begin in range(0, len(data), _PIECE_BYTES):
        found = begin + np.flatnonzero(data[begin : begin + _PIECE_BYTES] >= 0x80)
        rows.update((np.unique(np.searchsorted(offsets, found, side="right")) - 1).tolist())
    return sorted(rows)


def _append_escaped(text: bytearray, raw: memoryview) -> None:
    """Appends ``raw`` with what is not UTF-8 escaped."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for begin in range(0, len(raw), _PIECE_BYTES):
        piece = raw[begin : begin + _PIECE_BYTES].tobytes()
        text += decoder.decode(piece, begin + _PIECE_BYTES >= len(raw)).encode()


def _without_terminators(
    offsets: np.ndarray[Any, Any], data: UInt8Array
) -> tuple[np.ndarray[Any, Any], UInt8Array]:
    """CDR strings without the NUL that their lengths count; one that lacks it is kept whole."""
    if not len(data):
        return offsets, data
    lengths = np.diff(offsets)
    last = offsets[1:] - 1
    ended = (lengths > 0) & (data[last] == 0)
    shorter = _cumulated(lengths - ended)
    if ended.all() and (lengths == lengths[0]).all():
        return shorter, np.ascontiguousarray(data.reshape(len(lengths), -1)[:, :-1]).reshape(-1)
    keep = np.ones(len(data), np.bool_)
    keep[last[ended]] = False
    return shorter, data[keep]


def _cumulated(lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Offsets, int32, of items of these lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
