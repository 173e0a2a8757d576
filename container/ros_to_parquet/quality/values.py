"""What rows hold, an array each: are values as those before, finite, whole frames; how many points came back.

Rows are looked at in columns. Of large values some bytes are, evenly spread, always the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ros_to_parquet.bag.model import Int64Array, UInt8Array

UInt64Array = npt.NDArray[np.uint64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

WORDS = 16
"""Of eight bytes each, that are looked at of a list or blob to tell whether it is as the one before."""

SAMPLED_POINTS = 256
"""Of a cloud or scan, to tell how many have come back."""

CAMERAS = frozenset({"sensor_msgs/Image", "sensor_msgs/CompressedImage"})
CLOUD = "sensor_msgs/PointCloud2"
SCAN = "sensor_msgs/LaserScan"

_PIECE_ROWS = 1024
_JPEG_BEGIN, _JPEG_END = 0xD8FF, 0xD9FF
"""Two bytes, the first one least."""
_PNG_BEGIN = int.from_bytes(b"\x89PNG", "little")
_PNG_END = int.from_bytes(b"IEND\xaeB`\x82", "little")
_DEPTH_HEADER_BYTES = 12
_TAIL_BYTES = 1 << 16

# sensor_msgs/PointField's numbers of the types that a coordinate can have.
_COORDINATES: Mapping[int, str] = {7: "f4", 8: "f8"}

_FIELD: Mapping[str, pa.DataType] = {"name": pa.string(), "offset": pa.uint32(), "datatype": pa.uint8()}
"""What is read of a sensor_msgs/PointField."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: UInt64Array) -> UInt64Array:
    """SplitMix64's numbers for these."""
    made = values * _FACTOR
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        made = (made ^ (made >> np.uint64(shift))) * np.uint64(factor)
    return made ^ (made >> np.uint64(31))


_FACTORS = _mixed(np.arange(1, WORDS + 1, dtype=np.uint64)) | np.uint64(1)


class Frame(IntEnum):
    """What a camera's frame is, by its size, and its first and last bytes."""

    JPEG = 0
    PNG = 1
    OTHER = 2
    RAW = 3
    EMPTY = 10
    CUT_OFF = 11
    TOO_SHORT = 12

    @property
    def bad(self) -> bool:
        return self >= Frame.EMPTY


@dataclass(frozen=True, slots=True)
class Facts:
    """Of rows, arrays as long as they are; None where there is nothing to look at.

    Attributes:
        log_times_ns: None where the rows have none.
        stamps_ns: of headers.
        signatures: equal for rows whose values are.
        not_finite: of each field that has some, which rows have them.
        frames: of a camera, `Frame`.
        blobs: of a camera whose frames are compressed.
        returns: of a lidar.
    """

    log_times_ns: Int64Array
    stamps_ns: Int64Array | None
    signatures: Int64Array | None
    not_finite: tuple[tuple[str, BoolArray], ...]
    frames: Int64Array | None
    blobs: pa.Array | None
    returns: Int64Array | None

    def take(self, ranges: Sequence[tuple[int, int]]) -> Facts:
        """Of some of the rows, by where they begin and end."""
        if len(ranges) == 1 and ranges[0] == (0, len(self.log_times_ns)):
            return self
        places = np.concatenate([np.arange(first, last) for first, last in ranges])

        def of(array: Any) -> Any:
            return None if array is None else array[places]

        blobs = self.blobs
        if blobs is not None:
            blobs = pa.concat_arrays([blobs.slice(first, last - first) for first, last in ranges])
        return Facts(
            self.log_times_ns[places],
            of(self.stamps_ns),
            of(self.signatures),
            tuple((path, which[places]) for path, which in self.not_finite),
            of(self.frames),
            blobs,
            of(self.returns),
        )


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A field of rows that is looked at: where it is, and its path for people."""

    path: str
    place: tuple[int, ...]
    kind: pa.DataType

    def of(self, columns: Sequence[pa.Array]) -> pa.Array:
        first, *rest = self.place
        values = columns[first]
        for child in rest:
            values = values.field(child)
        return values


class Look:
    """What is looked at of rows as they were recorded, of one type; resolved once, used for every batch.

    A bag can define its own ``sensor_msgs/Image``: what is not as ROS has it is not looked at.
    """

    def __init__(self, schema: pa.Schema, type_name: str) -> None:
        plain = type_name.replace("/msg/", "/")
        self._places = {name: place for place, name in enumerate(schema.names)}
        kinds = {field.name: field.type for field in schema}
        leaves = [
            leaf
            for place, each in enumerate(schema)
            if each.name != "header"
            for leaf in _leaves(each, each.name, (place,))
        ]
        self._floats = [leaf for leaf in leaves if pa.types.is_floating(leaf.kind)]
        self._lists = [leaf for leaf in leaves if not pa.types.is_floating(leaf.kind)]

        def have(test: Callable[[pa.DataType], bool], *names: str) -> bool:
            return all(name in kinds and test(kinds[name]) for name in names)

        blob = have(pa.types.is_binary, "data")
        self._compressed = plain == "sensor_msgs/CompressedImage" and blob
        self._raw = (
            plain == "sensor_msgs/Image" and blob and have(pa.types.is_uint32, "height", "width", "step")
        )
        self._scan = (
            plain == SCAN
            and have(_is_ranges, "ranges")
            and have(pa.types.is_float32, "range_min", "range_max")
        )
        self._cloud = (
            plain == CLOUD
            and blob
            and have(pa.types.is_uint32, "height", "width", "point_step", "row_step")
            and have(pa.types.is_boolean, "is_bigendian")
            and have(_is_fields, "fields")
        )

    def at(
        self, columns: Sequence[pa.Array], log_times_ns: Int64Array, stamps_ns: Int64Array | None
    ) -> Facts:
        """What the rows are; ``columns`` are the message's own."""
        signatures: UInt64Array | None = None
        not_finite: list[tuple[str, BoolArray]] = []
        for leaf in self._floats:
            values = leaf.of(columns)
            if values.null_count:
                values = values.fill_null(0.0)
            size = values.type.bit_width // 8
            numbers = _numbers(values, f"f{size}")
            with np.errstate(all="ignore"):
                finite = bool(np.isfinite(numbers.sum()))  # most often all are
            if not finite and (bad := ~np.isfinite(numbers)).any():
                not_finite.append((leaf.path, bad))
            words = numbers.view(f"u{size}").astype(np.uint64, copy=False)
            signatures = words if signatures is None else signatures * _FACTOR + words
        for leaf in self._lists:
            words = _sampled(*_bytes_of(leaf.of(columns)))
            signatures = words if signatures is None else signatures * _FACTOR + words
        return Facts(
            log_times_ns=log_times_ns,
            stamps_ns=stamps_ns,
            signatures=None if signatures is None else signatures.view(np.int64),
            not_finite=tuple(not_finite),
            frames=self._frames(columns),
            blobs=columns[self._places["data"]] if self._compressed else None,
            returns=self._returns(columns),
        )

    def _of(self, columns: Sequence[pa.Array], name: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        return _numbers(columns[self._places[name]], kind)

    def _frames(self, columns: Sequence[pa.Array]) -> Int64Array | None:
        if not (self._compressed or self._raw):
            return None
        data, offsets = _bytes_of(columns[self._places["data"]])
        if self._compressed:
            return _compressed_frames(data, offsets)
        height, width, step = (
            self._of(columns, name, np.uint32).astype(np.int64) for name in ("height", "width", "step")
        )
        sizes = np.diff(offsets)
        frames = np.full(len(sizes), Frame.RAW, dtype=np.int64)
        frames[(sizes < height * step) | (step < width)] = Frame.TOO_SHORT
        frames[(sizes == 0) | (height == 0) | (width == 0)] = Frame.EMPTY
        return frames

    def _returns(self, columns: Sequence[pa.Array]) -> Int64Array | None:
        if self._scan:
            low, high = (self._of(columns, name, np.float32) for name in ("range_min", "range_max"))
            return _scan_returns(columns[self._places["ranges"]], low, high)
        return _cloud_returns(columns, self._places) if self._cloud else None


def _is_ranges(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_float32(kind.value_type))


def _is_fields(kind: pa.DataType) -> bool:
    """Whether it is of sensor_msgs/PointField's."""
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return False
    there = {child.name: child.type for child in kind.value_type}
    return all(there.get(name) == wanted for name, wanted in _FIELD.items())


def _leaves(field: pa.Field, path: str, place: tuple[int, ...]) -> Iterator[_Leaf]:
    """Floating-point numbers outside of lists, lists of numbers, and blobs."""
    kind = field.type
    if pa.types.is_struct(kind):
        for number, child in enumerate(kind):
            yield from _leaves(child, f"{path}.{child.name}", (*place, number))
        return
    floating = kind.value_type if pa.types.is_list(kind) else kind
    if pa.types.is_float32(floating) or pa.types.is_float64(floating) or pa.types.is_binary(kind):
        yield _Leaf(path, place, kind)


def _numbers(values: pa.Array, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """A view of an array without nulls."""
    made = np.dtype(kind)
    buffer = values.buffers()[1]
    if buffer is None or not len(values):
        return np.empty(0, dtype=made)
    return np.frombuffer(buffer, made, len(values), values.offset * made.itemsize)


def _bytes_of(values: pa.Array) -> tuple[UInt8Array, Int64Array]:
    """The bytes of all lists or blobs, and where each begins and ends."""
    if not len(values):
        return np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    offsets = np.frombuffer(values.buffers()[1], np.int32, len(values) + 1, values.offset * 4).astype(
        np.int64
    )
    if pa.types.is_list(values.type):
        inner = values.values
        size = inner.type.bit_width // 8
        offsets = (offsets + inner.offset) * size
        buffer = inner.buffers()[1]
    else:
        buffer = values.buffers()[2]
    return (np.empty(0, dtype=np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)), offsets


def _sampled(data: UInt8Array, offsets: Int64Array) -> UInt64Array:
    """A number of each row's length and of words spread over it."""
    sizes = np.diff(offsets)
    made = sizes.astype(np.uint64)
    if not len(sizes):
        return made
    if sizes[0] and not sizes[0] % 8 and bool((sizes == sizes[0]).all()):
        words = data[offsets[0] : offsets[-1]].reshape(len(sizes), -1).view(np.uint64)
        places = _spread(sizes[:1] // 8)[0]
        made += (words[:, places] * _FACTORS).sum(axis=1, dtype=np.uint64)
        return made
    for begin in range(0, len(sizes), _PIECE_ROWS):
        piece = np.arange(begin, min(begin + _PIECE_ROWS, len(sizes)))
        piece = piece[sizes[piece] > 0]
        if not len(piece):
            continue
        long = sizes[piece]
        # Whole words as above; where there is half a word at the end, it is looked at too.
        odd = np.arange(WORDS) * np.maximum(long - 8, 0)[:, None] // (WORDS - 1)
        starts = np.where((long % 8 > 0)[:, None], odd, _spread(np.maximum(long // 8, 1)) * 8)
        inside = np.minimum(starts[:, :, None] + np.arange(8), sizes[piece][:, None, None] - 1)
        taken = data[inside + offsets[piece][:, None, None]].view(np.uint64)[:, :, 0]
        made[piece] += (taken * _FACTORS).sum(axis=1, dtype=np.uint64)
    return made


def _spread(sizes: Int64Array) -> Int64Array:
    """`WORDS` places in each of so many, evenly spread from the first to the last."""
    places: Int64Array = np.arange(WORDS) * (sizes[:, None] - 1) // (WORDS - 1)
    return places


def _compressed_frames(data: UInt8Array, offsets: Int64Array) -> Int64Array:
    sizes = np.diff(offsets)
    frames = np.full(len(sizes), Frame.OTHER, dtype=np.int64)
    some = np.flatnonzero(sizes >= 2 * _DEPTH_HEADER_BYTES)
    starts, stops = offsets[:-1][some], offsets[1:][some]
    kinds = np.full(len(some), Frame.OTHER, dtype=np.int64)
    begin = _word(data, starts, 4)
    jpeg = (begin & 0xFFFF) == _JPEG_BEGIN
    png = (begin == _PNG_BEGIN) | (_word(data, starts + _DEPTH_HEADER_BYTES, 4) == _PNG_BEGIN)
    end = _word(data, stops - 8, 8)
    kinds[jpeg] = np.where((end[jpeg] >> np.uint64(48)) == _JPEG_END, Frame.JPEG, Frame.CUT_OFF)
    kinds[png & ~jpeg] = np.where(end[png & ~jpeg] == _PNG_END, Frame.PNG, Frame.CUT_OFF)
    padded = jpeg & (kinds == Frame.CUT_OFF) & (end >> np.uint64(56) == 0)
    for place in np.flatnonzero(padded).tolist():
        tail = data[max(starts[place], stops[place] - _TAIL_BYTES) : stops[place]].tobytes()
        if tail.rstrip(b"\0").endswith(b"\xff\xd9"):  # many a camera pads its frames
            kinds[place] = Frame.JPEG
    frames[some] = kinds
    frames[sizes == 0] = Frame.EMPTY
    return frames


def _word(data: UInt8Array, starts: Int64Array, size: int) -> UInt64Array:
    """Numbers of so many bytes, the first one least."""
    if not len(starts):
        return np.empty(0, dtype=np.uint64)
    taken = data[starts[:, None] + np.arange(size)].astype(np.uint64)
    words = np.bitwise_or.reduce(taken << (np.arange(size, dtype=np.uint64) * np.uint64(8)), axis=1)
    return np.asarray(words, dtype=np.uint64)


def _scan_returns(ranges: pa.Array, low: Float32Array, high: Float32Array) -> Int64Array:
    """How many ranges of each scan are finite, not zero, and between its ``low`` and ``high``."""
    data, offsets = _bytes_of(ranges)
    numbers = data[: len(data) // 4 * 4].view(np.float32)
    counts: Int64Array = np.diff(offsets) // 4
    made = np.zeros(len(counts), dtype=np.int64)
    for first, last in _of_one_size(counts):
        count = int(counts[first])
        rows = numbers[offsets[first] // 4 : offsets[last] // 4].reshape(last - first, count)
        some = rows[:, :: max(1, count // SAMPLED_POINTS)] if count else rows
        back = np.isfinite(some) & (some != 0)
        back &= (some >= low[first:last, None]) & (some <= high[first:last, None])
        made[first:last] = np.round(back.sum(axis=1) * (count / max(some.shape[1], 1)))
    return made


def _of_one_size(counts: Int64Array) -> Iterator[tuple[int, int]]:
    """Where stretches of equal counts begin and end."""
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)]
    yield from ((first, last) for first, last in pairwise(edges) if first < last)


def _cloud_returns(columns: Sequence[pa.Array], places: Mapping[str, int]) -> Int64Array | None:
    """How many points of each cloud have an x, finite and not 0; None where their first has none to read."""
    count = len(columns[places["data"]])
    if not count:
        return None
    known = {each["name"]: each for each in columns[places["fields"]][0].as_py()}
    if "x" not in known or known["x"]["datatype"] not in _COORDINATES:
        return None
    offset = int(known["x"]["offset"])
    order = ">" if columns[places["is_bigendian"]][0].as_py() else "<"
    kind = np.dtype(order + _COORDINATES[known["x"]["datatype"]])
    data, offsets = _bytes_of(columns[places["data"]])
    width, height, step, row_step = (
        _numbers(columns[places[name]], np.uint32).astype(np.int64).tolist()
        for name in ("width", "height", "point_step", "row_step")
    )
    made = np.zeros(count, dtype=np.int64)
    bounds = offsets.tolist()
    for row in range(count):
        first, size = bounds[row], bounds[row + 1] - bounds[row]
        if step[row] < offset + kind.itemsize:
            continue
        points = min(width[row] * height[row], size // step[row])
        stride = max(1, points // SAMPLED_POINTS)
        line = width[row] * step[row]
        if row_step[row] > line > 0 and size >= (height[row] - 1) * row_step[row] + line:
            number = np.arange(0, points, stride)
            at = first + offset + number // width[row] * row_step[row] + number % width[row] * step[row]
            some = data[at[:, None] + np.arange(kind.itemsize)].view(kind)[:, 0]
        else:
            some = np.ndarray(
                (len(range(0, points, stride)),),
                kind,
                buffer=data,
                offset=first + offset if points else 0,
                strides=(stride * step[row],),
            )
        back = int(np.count_nonzero(np.isfinite(some) & (some != 0)))
        made[row] = round(back * points / max(len(some), 1))
    return made
