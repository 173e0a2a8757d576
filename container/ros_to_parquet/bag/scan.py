"""Records found by their own lengths: a small compiled loop over a buffer, and a walk over a whole bag.

Both chunked formats are a row of records that say how long they are, in the file and again in each chunk.
Nothing else is needed to find messages, so an index that is missing or lies does not matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from awkward_cpp.lib._ext import ForthMachine64  # awkward.forth is this, and takes half a second to import

from ros_to_parquet.bag.model import Int64Array, UInt8Array
from ros_to_parquet.bag.source import ForwardBuffer


@dataclass(frozen=True, slots=True)
class Records:
    """Complete records that follow one another in a buffer; arrays of int64, shape (records,).

    Attributes:
        kinds: opcodes; -1 where a record's header cannot be read.
        starts: where each record begins in the buffer.
        bodies: where its body (what follows its header) begins.
        ends: where it ends.
    """

    kinds: Int64Array
    starts: Int64Array
    bodies: Int64Array
    ends: Int64Array

    def __len__(self) -> int:
        return len(self.starts)


R = TypeVar("R", bound=Records)
R_co = TypeVar("R_co", bound=Records, covariant=True)


def part(records: R, first: int, last: int) -> R:
    """Records ``first`` to ``last`` (not included)."""
    arrays = (getattr(records, field.name)[first:last] for field in dataclasses.fields(records))
    return type(records)(*arrays)


class Scanner:
    """Finds where records begin and end, 20 million a second.

    Args:
        program: AwkwardForth over the input ``data`` that writes each record's ``heads`` and ``sizes``.
        overhead_bytes: length of a record beside its size (and beside its head, where that is a size).
        head_is_size: the head is the size of a header that precedes the body.
    """

    def __init__(self, program: str, *, overhead_bytes: int, head_is_size: bool) -> None:
        self._machine = ForthMachine64(program)
        self._overhead_bytes = overhead_bytes
        self._head_is_size = head_is_size

    def scan(self, data: UInt8Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Heads, body sizes and ends of the complete records at the start of ``data``."""
        self._machine.run(
            {"data": data}, raise_user_halt=False, raise_read_beyond=False, raise_skip_beyond=False
        )
        sizes = self._machine.output("sizes").astype(np.int64)
        if len(sizes) and sizes[-1] > len(data):  # cannot be complete, and might overflow the sum
            sizes = sizes[:-1]
        heads = self._machine.output("heads")[: len(sizes)].astype(np.int64)
        ends = np.cumsum(sizes + self._overhead_bytes + (heads if self._head_is_size else 0))
        complete = np.searchsorted(ends, len(data), side="right")
        return heads[:complete], sizes[:complete], ends[:complete]


def gather(data: UInt8Array, starts: Int64Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Structures of ``dtype`` that lie at ``starts`` in ``data``, aligned or not; shape (starts,)."""
    if not len(starts):
        return np.empty(0, dtype)
    width = dtype.itemsize
    overlapping = np.ndarray((len(data) - width + 1,), f"V{width}", data.data, strides=(1,))
    return overlapping[starts].view(dtype)


# --- the walk over a bag ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """So many bytes must be seen to tell."""

    size: int
    what: str = "record"


@dataclass(frozen=True, slots=True)
class Need:
    """The record is ``size`` bytes long."""

    size: int
    what: str = "record"


@dataclass(frozen=True, slots=True)
class Skip:
    """The next ``size`` bytes hold nothing to read; ``noted``: it is said that they were passed."""

    size: int
    what: str = "record"
    noted: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """No record begins here."""

    reason: str


class Framing(Protocol[R_co]):
    """How a format lays out its records."""

    def records(self, window: UInt8Array) -> R_co:
        """The records at the start of the window, up to the first that is not complete or not sound."""
        ...

    def step(self, window: UInt8Array, left: int, /) -> Look | Need | Skip | Broken:
        """What to do about a first record that ``records`` does not take.

        ``left`` bytes are left in the bag, of which the window shows some.
        """
        ...

    def is_chunk(self, window: UInt8Array) -> bool:
        """Whether a chunk's record begins at the start of the window."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Which records of a bag to read: those that begin in [``begin``, ``end``).

    Attributes:
        walk_from: where some record begins, at or before ``begin``.
        data_end: where the bag's data ends, maybe after ``end``.
        anchors: offsets of chunks by the bag's index, ascending: where to go on after a broken record.
        exact: a record that begins before ``end`` should not go on after it.
        data_start: where the bag's first record begins.
    """

    walk_from: int
    begin: int
    end: int
    data_end: int
    anchors: Int64Array
    exact: bool = False
    data_start: int = 0


def plan_span(
    *,
    size: int,
    data_start: int,
    data_end: int,
    anchors: Int64Array,
    slice_index: int,
    slice_count: int,
) -> Span | None:
    """What slice ``slice_index`` of ``slice_count`` reads; None if nothing.

    Without chunk offsets (``anchors``) a bag cannot be split: its first slice takes it whole.
    """
    if slice_count == 1 or not len(anchors):
        whole = Span(data_start, data_start, data_end, data_end, anchors, data_start=data_start)
        return whole if slice_index == 0 else None
    begin, end = slice_bounds(size, slice_index, slice_count)
    before = int(np.searchsorted(anchors, begin, side="right"))
    walk_from = int(anchors[before - 1]) if before else data_start
    return Span(walk_from, begin, min(end, data_end), data_end, anchors, data_start=data_start)


_MOST_LOOKS = 8
"""At chunks that may be none, before a bag is walked from its beginning."""


def walked_from_chunk(span: Span, begins_chunk: Callable[[int], bool]) -> Span:
    """The span, walked from the nearest offset by the index where there is a chunk.

    From within a chunk or message, records might be passed over in silence.
    """
    if span.walk_from == span.data_start:
        return span
    before = int(np.searchsorted(span.anchors, span.walk_from, side="right"))
    nearest = span.anchors[max(before - _MOST_LOOKS, 0) : before][::-1].tolist()
    return dataclasses.replace(span, walk_from=next(filter(begins_chunk, nearest), span.data_start))


def slice_bounds(size: int, slice_index: int, slice_count: int) -> tuple[int, int]:
    """The first offset of a slice, and the first after it."""
    return slice_index * size // slice_count, (slice_index + 1) * size // slice_count


def without(span: Span, left_out: list[tuple[int, int]]) -> list[Span]:
    """What is left of a span when some ranges, ascending, are left out of it."""
    spans = []
    walk_from, begin = span.walk_from, span.begin
    for start, end in left_out:
        if walk_from < start:
            spans.append(dataclasses.replace(span, walk_from=walk_from, begin=begin, end=start, exact=True))
        walk_from = begin = end
    if walk_from < span.end:
        spans.append(dataclasses.replace(span, walk_from=walk_from, begin=begin))
    return spans


def merged(begins: Int64Array, ends: Int64Array, gap: int = 0) -> list[tuple[int, int]]:
    """Ranges, ascending, as one where one begins at most ``gap`` after the other's end."""
    if not len(begins):
        return []
    apart = np.flatnonzero(begins[1:] > ends[:-1] + gap)
    firsts, lasts = begins[np.append(0, apart + 1)], ends[np.append(apart, len(ends) - 1)]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """Records in a window of the bag that begins at ``offset``."""

    offset: int
    window: UInt8Array
    records: R


@dataclass(frozen=True, slots=True)
class Cut:
    """A record that is cut off, with what there is of it, or broken (and the window empty).

    ``ends_bag``: there is no place known where records go on.
    """

    offset: int
    window: UInt8Array
    reason: str
    ends_bag: bool


@dataclass(frozen=True, slots=True)
class Passed:
    """A record that was not read but for its beginning."""

    offset: int
    window: UInt8Array


@dataclass(frozen=True, slots=True)
class Overrun:
    """The last record of an exact span went on after it, to ``offset``."""

    offset: int


def _first_after(anchors: Int64Array, position: int) -> int | None:
    after = int(np.searchsorted(anchors, position, side="right"))
    return int(anchors[after]) if after < len(anchors) else None


@dataclass(frozen=True, slots=True)
class Large:
    """A record of ``size`` bytes that is too large for a window, which shows how it begins.

    ``cut``: more of it is not there, which has been told.
    """

    offset: int
    size: int
    window: UInt8Array
    cut: bool = False


def _swallowing(
    buffer: ForwardBuffer, framing: Framing[R], anchors: Int64Array, position: int, records: R
) -> int | None:
    """The first of a window's records within which a chunk begins by the bag's index: its length is wrong.

    An index may be wrong itself: a chunk must be there.
    """
    if not len(anchors) or not len(records):
        return None
    starts, ends = position + records.starts, position + records.ends
    after = np.searchsorted(anchors, starts, side="right")
    following = anchors[np.minimum(after, len(anchors) - 1)]
    for row in np.flatnonzero((after < len(anchors)) & (following < ends)).tolist():
        if _is_chunk(buffer, framing, int(following[row])):
            return int(row)
    return None


def _is_chunk(buffer: ForwardBuffer, framing: Framing[R], offset: int) -> bool:
    return framing.is_chunk(buffer.peek(offset, BEGINNING_BYTES))


BEGINNING_BYTES = 8 << 10
"""More than the header of a chunk or message has."""


def _beginning(buffer: ForwardBuffer, position: int, size: int) -> UInt8Array:
    return buffer.window(position, min(size, BEGINNING_BYTES))[:size]


def walk(
    buffer: ForwardBuffer, framing: Framing[R], span: Span, *, largest: Mapping[str, int]
) -> Iterator[Batch[R] | Large | Cut | Passed | Overrun]:
    """All of a span's records in the order of the file, in windows, and what is broken between them.

    ``largest``: how many bytes a record may have to be shown whole, by what it is (see `Need`).
    """
    position = span.walk_from
    need = 1
    while position < span.end:
        left = span.data_end - position
        window = buffer.window(position, min(need, left))[: min(left, max(need, span.end - position))]
        if len(window) < min(need, left):  # the source is shorter than it said
            left = len(window)
            if not left:
                return
        records = framing.records(window)
        swallowing = _swallowing(buffer, framing, span.anchors, position, records)
        if swallowing is not None:
            records = part(records, 0, swallowing)
        if len(records):
            first, last = np.searchsorted(records.starts, (span.begin - position, span.end - position))
            if first < last:
                yield Batch(position, window, part(records, int(first), int(last)))
            position += int(records.ends[last - 1])
            need = 1
            continue
        step = framing.step(window, left)
        goes_on = _first_after(span.anchors, position)
        swallows = (
            not isinstance(step, Broken | Look)
            and goes_on is not None
            and goes_on < position + step.size
            and _is_chunk(buffer, framing, goes_on)
        )
        if not isinstance(step, Broken) and not swallows and step.size <= left:
            before_span = isinstance(step, Need) and position + step.size <= span.begin
            if isinstance(step, Skip) or before_span:
                if isinstance(step, Skip) and step.noted and position >= span.begin:
                    yield Passed(position, window)
                position += step.size
                need = 1
                continue
            if isinstance(step, Need) and step.size > largest[step.what]:
                yield Large(position, step.size, _beginning(buffer, position, left))
                position += step.size
                need = 1
                continue
            if step.size > len(window):
                need = step.size
                continue
        if isinstance(step, Broken):
            reason, shown = step.reason, 0
        else:
            reason = f"cut off inside a {step.what}: {left:,} of {step.size:,} bytes are there"
            if swallows and step.size <= left:
                reason = (
                    f"a {step.what} says that it is {step.size:,} bytes long, but a chunk begins within it"
                )
            shown = left if goes_on is None else goes_on - position
            if isinstance(step, Skip):
                shown = 0
        if position >= span.begin:
            if isinstance(step, (Need, Look)) and shown > largest[step.what]:
                yield Cut(position, window[:0], reason, goes_on is None)
                yield Large(position, shown, _beginning(buffer, position, shown), cut=True)
            else:
                yield Cut(position, buffer.window(position, shown)[:shown], reason, goes_on is None)
        if goes_on is None:
            return
        position = goes_on
        need = 1
    if span.exact and position > span.end:
        yield Overrun(position)
