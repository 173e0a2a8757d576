"""Pixels of ``sensor_msgs/Image`` and ``CompressedImage``: every encoding that ROS has, decoded and encoded.

A message is a mapping of its fields, as a row has them. Pixels lie as ``sensor_msgs/image_encodings``
says; and where that leaves something open, what cv_bridge does: YUV is BT.601 of limited range, ``8UC3`` and
``8UC4`` are in the order of OpenCV (blue first), Bayer patterns become colours by bilinear interpolation.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Image.MAX_IMAGE_PIXELS = None  # what a picture claims is held against the memory limit: `Claim`

DEPTH_HEADER_BYTES: Final = 12
"""What compressed_depth_image_transport puts in front of its PNG: a number, and two of quantisation."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""That are opened. Pillow knows dozens more; for some of them it runs other programs on what a bag holds."""

MILLIMETRES_A_METRE: Final = 1000
FARTHEST: Final = 65_535
"""Of a depth picture, millimetres."""

_BAND_PIXELS: Final = 1 << 18
"""Pixels that are computed at a time: the wider numbers it takes are never those of a whole picture."""

Pixels = npt.NDArray[Any]
T = TypeVar("T")

_KINDS: Final[Mapping[type, str]] = {bytes: "bytes", str: "a string", int: "an integer"}

# What Pillow raises on data that is not as its format says.
_UNREADABLE: Final = (
    *(OSError, EOFError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class PictureError(ValueError):
    """A message whose picture cannot be had; the message says why."""


class Meaning(Enum):
    """What numbers of a picture are: brightness and colours, depth (0 or not finite: none), or anything."""

    LIGHT = "light"
    MILLIMETRES = "millimetres"
    METRES = "metres"
    NUMBERS = "numbers"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Pixels of one message.

    Attributes:
        values: shape (height, width), or (height, width, 3 or 4) for red, green, blue and alpha. Light is
            uint8 or uint16, depth in millimetres uint16.
    """

    values: Pixels
    meaning: Meaning

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def height(self) -> int:
        return int(self.values.shape[0])


@dataclass(frozen=True, slots=True)
class Claim:
    """What a message says of its picture before a pixel is decoded.

    Attributes:
        pixel_bytes: of one pixel, decoded.
        coded: ``JPEG`` or ``PNG``, where the message's data (or what follows a depth header) is such a file.
    """

    width: int
    height: int
    pixel_bytes: int
    coded: str = ""

    @property
    def working_bytes(self) -> int:
        """About what decoding and encoding it takes at its peak, beside the message.

        The pixels are there decoded, filtered and packed; colours of 16 bits in the other byte order, too.
        """
        copies = 3 if self.pixel_bytes <= 4 else 4
        return self.width * self.height * (copies * self.pixel_bytes + 1)


# --- encodings ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plain:
    """Pixels one behind the other: ``order`` says which of their numbers are red, green, blue (and alpha)."""

    dtype: str
    order: tuple[int, ...] = (0,)
    meaning: Meaning = Meaning.LIGHT


_RGB, _BGR, _RGBA, _BGRA = (0, 1, 2), (2, 1, 0), (0, 1, 2, 3), (2, 1, 0, 3)

_PLAIN: Final[Mapping[str, _Plain]] = {
    "rgb8": _Plain("u1", _RGB),
    "bgr8": _Plain("u1", _BGR),
    "rgba8": _Plain("u1", _RGBA),
    "bgra8": _Plain("u1", _BGRA),
    "rgb16": _Plain("u2", _RGB),
    "bgr16": _Plain("u2", _BGR),
    "rgba16": _Plain("u2", _RGBA),
    "bgra16": _Plain("u2", _BGRA),
    "mono8": _Plain("u1"),
    "mono16": _Plain("u2"),
    "8UC1": _Plain("u1"),
    "8UC3": _Plain("u1", _BGR),
    "8UC4": _Plain("u1", _BGRA),
    "16UC1": _Plain("u2", meaning=Meaning.MILLIMETRES),
    "16UC3": _Plain("u2", _BGR),
    "16UC4": _Plain("u2", _BGRA),
    "32FC1": _Plain("f4", meaning=Meaning.METRES),
    "64FC1": _Plain("f8", meaning=Meaning.METRES),
    "8SC1": _Plain("i1", meaning=Meaning.NUMBERS),
    "16SC1": _Plain("i2", meaning=Meaning.NUMBERS),
    "32SC1": _Plain("i4", meaning=Meaning.NUMBERS),
}

_BAYER: Final[Mapping[str, tuple[int, int]]] = {
    "rggb": (0, 0),
    "grbg": (0, 1),
    "gbrg": (1, 0),
    "bggr": (1, 1),
}
"""Row and column of the first red cell."""

_YUV: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "yuv422": (1, 3, 0, 2),
    "uyvy": (1, 3, 0, 2),
    "yuv422_yuy2": (0, 2, 1, 3),
    "yuyv": (0, 2, 1, 3),
}
"""Of two pixels in four bytes: where both lights, u and v are."""

_PLANES: Final[Mapping[str, tuple[int, int]]] = {"nv21": (2, 1), "nv24": (1, 0)}
"""All lights, then all colours: how many pixels share a colour each way, and where u is of the two."""


_NAME: Final = re.compile(r"[A-Za-z0-9 ;_/+.-]{1,48}")


def _named(said: str) -> str:
    """An encoding or format for a sentence, where it can be one: it may be any text, of any length."""
    return repr(said) if _NAME.fullmatch(said) else "without a name" if not said else "of another name"


def is_compressed(message: Mapping[str, Any]) -> bool:
    """Whether it is a ``CompressedImage``."""
    return "format" in message


def claim_of(message: Mapping[str, Any]) -> Claim:
    """What the message says of its picture.

    Raises:
        PictureError: it has none, or of an encoding that is not known.
    """
    if is_compressed(message):
        opened = _opened(*_compressed_members(message))
        channels = {"L": 1, "1": 1, "I;16": 2, "I;16B": 2, "RGB": 3, "YCbCr": 3}.get(opened.mode, 4)
        return Claim(opened.width, opened.height, channels, opened.format or "")
    width, height, encoding = _raw_members(message)
    if plain := _PLAIN.get(encoding):
        stored = decoded = len(plain.order) * np.dtype(plain.dtype).itemsize
    elif bayer := _bayer_of(encoding):
        stored, decoded = bayer[1], 3 * bayer[1]
    elif encoding in _YUV or encoding in _PLANES:
        stored, decoded = 2 if encoding in _YUV else 1, 3
    else:
        raise PictureError(f"encoding {_named(encoding)} is not known here")
    _check_lines(len(_data(message)), height, width * stored, member(message, "step", int))
    return Claim(width, height, decoded)


def decode(message: Mapping[str, Any], *, wanted: tuple[int, int] | None = None) -> Picture:
    """The message's picture; a JPEG may come smaller, though not smaller than ``wanted`` (width, height).

    Raises:
        PictureError: its bytes are none, or of an encoding that is not known.
    """
    if is_compressed(message):
        return _decompressed(*_compressed_members(message), wanted)
    width, height, encoding = _raw_members(message)
    step = member(message, "step", int)
    data = np.frombuffer(_data(message), np.uint8)
    order: Literal["<", ">"] = ">" if message.get("is_bigendian") else "<"
    if plain := _PLAIN.get(encoding):
        kind = np.dtype(plain.dtype).newbyteorder(order)
        return Picture(
            _in_order(_grid(data, height, width, step, kind, len(plain.order)), plain.order), plain.meaning
        )
    if bayer := _bayer_of(encoding):
        pattern, item_bytes = bayer
        kind = np.dtype(f"u{item_bytes}").newbyteorder(order)
        cells = _grid(data, height, width, step, kind, 1)[:, :, 0]
        return Picture(_debayered(cells.astype(kind.newbyteorder("=")), *_BAYER[pattern]), Meaning.LIGHT)
    if encoding in _YUV:
        return Picture(
            _from_packed(_grid(data, height, width, step, np.dtype("u1"), 2), encoding), Meaning.LIGHT
        )
    if encoding in _PLANES:
        return Picture(_from_planes(data, height, width, step, encoding), Meaning.LIGHT)
    raise PictureError(f"encoding {_named(encoding)} is not known here")


def member(message: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A field of a message: a bag can define its own ``sensor_msgs/Image``."""
    value = message.get(name)
    if not isinstance(value, kind):
        raise PictureError(f"its definition has no {name} that is {_KINDS[kind]}")
    return value


def _data(message: Mapping[str, Any]) -> Any:
    value = message.get("data")
    return value if isinstance(value, memoryview) else member(message, "data", bytes)


def _raw_members(message: Mapping[str, Any]) -> tuple[int, int, str]:
    width, height = member(message, "width", int), member(message, "height", int)
    if width <= 0 or height <= 0:
        raise PictureError("it has no pixels")
    return width, height, member(message, "encoding", str)


def _compressed_members(message: Mapping[str, Any]) -> tuple[Any, str]:
    return _data(message), member(message, "format", str)


def _bayer_of(encoding: str) -> tuple[str, int] | None:
    """Pattern and bytes of a cell."""
    pattern, bits = encoding.removeprefix("bayer_")[:4], encoding[10:]
    if encoding.startswith("bayer_") and pattern in _BAYER and bits in ("8", "16"):
        return pattern, int(bits) // 8
    return None


def _grid(data: Pixels, height: int, width: int, step: int, kind: np.dtype[Any], channels: int) -> Pixels:
    """The numbers in place, shape (height, width, channels), without what drivers leave behind a line."""
    step = _check_lines(len(data), height, width * channels * kind.itemsize, step)
    strides = (step, channels * kind.itemsize, kind.itemsize)
    return np.ndarray((height, width, channels), kind, buffer=data, strides=strides)


def _check_lines(size_bytes: int, height: int, line_bytes: int, step: int) -> int:
    """Bytes from the beginning of a line to the next one's."""
    step = step or line_bytes
    if step < line_bytes or size_bytes < (height - 1) * step + line_bytes:
        raise PictureError(
            f"its {size_bytes} bytes are not {height} lines of {step}, {line_bytes} in each used"
        )
    return step


def _in_order(grid: Pixels, order: tuple[int, ...]) -> Pixels:
    if len(order) == 1:
        return np.ascontiguousarray(grid[:, :, 0], grid.dtype.newbyteorder("="))
    values = np.empty(grid.shape, grid.dtype.newbyteorder("="))
    for place, channel in enumerate(order):
        values[:, :, place] = grid[:, :, channel]
    return values


def _bands(height: int, width: int) -> Iterator[slice]:
    """Even numbers of lines, the last aside."""
    lines = max(2, _BAND_PIXELS // max(1, width) // 2 * 2)
    for start in range(0, height, lines):
        yield slice(start, min(height, start + lines))


def _debayered(cells: Pixels, red_row: int, red_column: int) -> Pixels:
    """Colours by the mean of the nearest cells that have them; beyond the edge lies what lies within it."""
    height, width = cells.shape
    wide = np.uint16 if cells.dtype == np.uint8 else np.uint32
    around = np.pad(cells, 1, mode="reflect")
    values = np.empty((height, width, 3), cells.dtype)
    for band in _bands(height, width):
        near, out = around[band.start : band.stop + 2].astype(wide), values[band]
        for row in (0, 1):
            for column in (0, 1):
                target = out[row::2, column::2]

                def at(
                    down: int, right: int, row: int = row, column: int = column, to: Pixels = target
                ) -> Pixels:
                    return near[1 + row + down :: 2, 1 + column + right :: 2][: to.shape[0], : to.shape[1]]  # noqa: B023

                in_red_row, in_red_column = row == red_row, column == red_column
                if in_red_row == in_red_column:
                    own, far = (0, 2) if in_red_row else (2, 0)
                    target[:, :, own] = at(0, 0)
                    target[:, :, 1] = (at(-1, 0) + at(1, 0) + at(0, -1) + at(0, 1) + 2) >> 2
                    target[:, :, far] = (at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1) + 2) >> 2
                else:
                    beside, above = (0, 2) if in_red_row else (2, 0)
                    target[:, :, 1] = at(0, 0)
                    target[:, :, beside] = (at(0, -1) + at(0, 1) + 1) >> 1
                    target[:, :, above] = (at(-1, 0) + at(1, 0) + 1) >> 1
    return values


_YUV_BITS: Final = 20
_LIGHT, _RED_V, _GREEN_V, _GREEN_U, _BLUE_U = 1_220_542, 1_673_527, -852_492, -409_993, 2_116_026
"""BT.601 of limited range, in 2 to the 20th: 1.164, 1.596, -0.813, -0.391, 2.018."""


def _colours(light: Pixels, u: Pixels, v: Pixels, out: Pixels) -> None:
    """RGB of one band, from uint8 of one shape."""
    bright = np.maximum(light.astype(np.int32) - 16, 0) * _LIGHT + (1 << (_YUV_BITS - 1))
    blue, red = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    for channel, added in enumerate((red * _RED_V, red * _GREEN_V + blue * _GREEN_U, blue * _BLUE_U)):
        out[..., channel] = np.clip((bright + added) >> _YUV_BITS, 0, 255)


def _from_packed(grid: Pixels, encoding: str) -> Pixels:
    """Two bytes a pixel, of which pairs share their colours; shape (height, width, 2)."""
    height, width, _ = grid.shape
    first, second, u, v = _YUV[encoding]
    values = np.empty((height, width, 3), np.uint8)
    even = width // 2 * 2
    for band in _bands(height, width):
        pairs = np.ascontiguousarray(grid[band, :even]).reshape(band.stop - band.start, even // 2, 4)
        for place, light in enumerate((first, second)):
            _colours(pairs[:, :, light], pairs[:, :, u], pairs[:, :, v], values[band, place:even:2])
    if even < width:  # half a pair
        values[:, even] = values[:, even - 1] if even else 0
    return values


def _from_planes(data: Pixels, height: int, width: int, step: int, encoding: str) -> Pixels:
    share, u = _PLANES[encoding]
    step = step or width
    colour_lines, colour_columns, colour_step = -(-height // share), -(-width // share), 2 * step // share
    light_bytes = height * step
    if step < width or len(data) < light_bytes + (colour_lines - 1) * colour_step + 2 * colour_columns:
        raise PictureError(f"its {len(data)} bytes are not {height} lines of {step} and as many colours")
    lights = _grid(data, height, width, step, np.dtype("u1"), 1)[:, :, 0]
    pairs = _grid(data[light_bytes:], colour_lines, colour_columns, colour_step, np.dtype("u1"), 2)
    values = np.empty((height, width, 3), np.uint8)
    for band in _bands(height, width):
        some = pairs[band.start // share : -(-band.stop // share)]
        some = some.repeat(share, 0).repeat(share, 1)[: band.stop - band.start, :width]
        _colours(lights[band], some[:, :, u], some[:, :, 1 - u], values[band])
    return values


# --- compressed --------------------------------------------------------------------------------------


def file_of(message: Mapping[str, Any]) -> bytes:
    """The picture file that a ``CompressedImage`` holds."""
    data, said = _compressed_members(message)
    return bytes(data[DEPTH_HEADER_BYTES:] if "compressedDepth" in said else data)


def is_quantised(message: Mapping[str, Any]) -> bool:
    """Whether the numbers of its file are no picture yet: depth in metres, as compressedDepth keeps it."""
    said = str(message.get("format", ""))
    return "compressedDepth" in said and said.split(";")[0].strip() == "32FC1"


def _opened(data: Any, said: str) -> Image.Image:
    if "compressedDepth" in said:
        if "rvl" in said.lower():
            raise PictureError(f"{_named(said)}: RVL is not known here")
        data = data[DEPTH_HEADER_BYTES:]
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except _UNREADABLE as error:
        raise PictureError(f"{_named(said)}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """Pillow's words, without the address of an object."""
    return "cannot identify it as a picture" if isinstance(error, UnidentifiedImageError) else str(error)


def _decompressed(data: Any, said: str, wanted: tuple[int, int] | None) -> Picture:
    opened = _opened(data, said)
    try:
        if wanted is not None:
            opened.draft(None, wanted)
        opened.load()
        values, meaning = _values_of(opened)
    except _UNREADABLE as error:
        raise PictureError(f"{_named(said)}: {error}") from error
    recorded = said.split(";")[0].strip()
    if "compressedDepth" not in said:
        depth = recorded == "16UC1" and values.ndim == 2 and values.dtype == np.uint16
        return Picture(values, Meaning.MILLIMETRES if depth else meaning)
    if values.ndim != 2 or values.dtype != np.uint16:
        raise PictureError(f"{_named(said)}: its PNG is not of 16 bits")
    if recorded != "32FC1":
        return Picture(values, Meaning.MILLIMETRES)
    _, first, second = struct.unpack("<iff", bytes(data[:DEPTH_HEADER_BYTES]))
    metres = np.zeros(values.shape, np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        np.divide(
            np.float32(first), values.astype(np.float32) - np.float32(second), out=metres, where=values > 0
        )
    return Picture(metres, Meaning.METRES)


def _values_of(opened: Image.Image) -> tuple[Pixels, Meaning]:
    mode = opened.mode
    if mode in ("I;16", "I;16B", "I;16L"):
        return np.asarray(opened).astype(np.uint16), Meaning.LIGHT
    if mode == "I":
        values = np.asarray(opened)
        if values.size and int(values.min()) >= 0 and int(values.max()) <= FARTHEST:
            return values.astype(np.uint16), Meaning.LIGHT
        return values, Meaning.NUMBERS
    if mode == "F":
        return np.asarray(opened), Meaning.METRES
    if mode in ("1", "L"):
        return np.asarray(opened.convert("L")), Meaning.LIGHT
    transparent = mode in ("RGBA", "LA", "PA", "La", "RGBa") or (
        mode == "P" and "transparency" in opened.info
    )
    return np.asarray(opened.convert("RGBA" if transparent else "RGB")), Meaning.LIGHT


def check_file(message: Mapping[str, Any]) -> None:
    """Raises `PictureError` unless the file in a ``CompressedImage`` can be decoded to its end."""
    opened = _opened(*_compressed_members(message))
    try:
        opened.draft(None, (1, 1))  # the least work that still reads every byte
        opened.load()
    except _UNREADABLE as error:
        raise PictureError(f"{_named(message['format'])}: {error}") from error


# --- and back ----------------------------------------------------------------------------------------


def is_exact(message: Mapping[str, Any]) -> bool:
    """Whether a PNG of an ``Image``'s pixels tells every byte of its data, with its other fields."""
    plain = _PLAIN.get(str(message["encoding"]))
    if plain is None or plain.meaning not in (Meaning.LIGHT, Meaning.MILLIMETRES):
        return False
    line_bytes = message["width"] * len(plain.order) * np.dtype(plain.dtype).itemsize
    return bool(message["step"] == line_bytes and len(message["data"]) == line_bytes * message["height"])


def recorded_data(file: bytes, message: Mapping[str, Any]) -> bytes:
    """The data of an ``Image`` for which `is_exact` was true, from the PNG that `encode` made of it."""
    plain = _PLAIN[message["encoding"]]
    kind = np.dtype(plain.dtype).newbyteorder(">" if message["is_bigendian"] else "<")
    values = _read_png(file)
    data = np.empty((message["height"], message["width"], len(plain.order)), kind)
    for place, channel in enumerate(plain.order):
        data[:, :, channel] = values[:, :, place]
    return data.tobytes()


def _read_png(file: bytes) -> Pixels:
    """Pixels of what `_png` has written, shape (height, width, channels)."""
    width, height, bits, colour = struct.unpack(">IIBB", file[16:26])
    kind, channels = np.dtype(f">u{bits // 8}"), {0: 1, 2: 3, 6: 4}[colour]
    size = int.from_bytes(file[33:37], "big")
    lines = np.frombuffer(zlib.decompress(memoryview(file)[41 : 41 + size]), np.uint8).reshape(height, -1)
    samples = lines[:, 1:].reshape(height, width, channels * kind.itemsize)
    return np.cumsum(samples, axis=1, dtype=np.uint8).view(kind)


# --- sizes -------------------------------------------------------------------------------------------


def fitted(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """The size of a picture that is to be no wider and no higher, 0 for any; it never gets larger.

    >>> fitted(1920, 1080, 640, 0), fitted(1920, 1080, 640, 100), fitted(320, 240, 640, 480)
    ((640, 360), (178, 100), (320, 240))
    """
    share = min(1.0, (max_width or width) / width, (max_height or height) / height)
    return max(1, round(width * share)), max(1, round(height * share))


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture of that (width, height): light smoothed, other numbers those of the nearest pixels.

    The mean of a near depth and a far one would be a point where nothing is.
    """
    if size == (picture.width, picture.height):
        return picture
    values = picture.values
    if picture.meaning is not Meaning.LIGHT:
        rows = (np.arange(size[1]) * 2 + 1) * picture.height // (2 * size[1])
        columns = (np.arange(size[0]) * 2 + 1) * picture.width // (2 * size[0])
        return Picture(np.ascontiguousarray(values[rows][:, columns]), picture.meaning)
    if values.dtype == np.uint8 or values.ndim == 2:
        small = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.LANCZOS))
    else:
        small = np.stack(
            [
                np.asarray(
                    Image.fromarray(np.ascontiguousarray(values[:, :, channel])).resize(
                        size, Image.Resampling.LANCZOS
                    )
                )
                for channel in range(values.shape[2])
            ],
            axis=2,
        )
    return Picture(small, picture.meaning)


# --- encoded -----------------------------------------------------------------------------------------


def encode(picture: Picture, *, quality: int = 0) -> tuple[bytes, str]:
    """A file, and ``jpg`` or ``png``: a JPEG where a ``quality`` is asked for and eight bits are enough.

    Depth is a PNG of 16 bits in millimetres: 0 is none, 65,535 that and all that is farther.

    Raises:
        PictureError: its numbers are neither light nor depth.
    """
    values = picture.values
    if picture.meaning is Meaning.NUMBERS:
        raise PictureError("its numbers have a sign: they are neither light nor depth")
    if picture.meaning is Meaning.METRES:
        values = millimetres(values)
    if quality and picture.meaning is Meaning.LIGHT and (values.dtype == np.uint8 or values.ndim == 3):
        small = values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(small[:, :, :3]) if small.ndim == 3 else small).save(
            out, "JPEG", quality=quality
        )
        return out.getvalue(), "jpg"
    return _png(values), "png"


def millimetres(metres: Pixels) -> Pixels:
    """Depth in whole millimetres, uint16; 0 where there is none."""
    values = np.zeros(metres.shape, np.uint16)
    for band in _bands(*metres.shape):
        some = metres[band].astype(np.float64) * MILLIMETRES_A_METRE
        with np.errstate(invalid="ignore"):
            real = np.isfinite(some) & (some > 0)
        values[band] = np.where(real, np.clip(np.rint(np.where(real, some, 0)), 0, FARTHEST), 0)
    return values


def _png(values: Pixels) -> bytes:
    """Light or numbers of 8 or 16 bits: grey, RGB or RGBA. Source: the PNG specification, filter 1 (sub).

    Pillow takes five times as long for files a tenth larger, and has no colours of 16 bits.
    """
    height, width = values.shape[:2]
    pixel_bytes = values.itemsize * (values.shape[2] if values.ndim == 3 else 1)
    lines = np.ascontiguousarray(values, values.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + lines.shape[1]), np.uint8)
    filtered[:, 0] = 1
    filtered[:, 1 : 1 + pixel_bytes] = lines[:, :pixel_bytes]
    np.subtract(lines[:, pixel_bytes:], lines[:, :-pixel_bytes], out=filtered[:, 1 + pixel_bytes :])
    colour = {1: 0, 3: 2, 4: 6}[pixel_bytes // values.itemsize]
    head = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, 0)
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    packed = packer.compress(filtered.data) + packer.flush()
    chunks = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# --- to be looked at ---------------------------------------------------------------------------------


def shown(picture: Picture) -> Pixels:
    """What a screen can show, uint8, shape (height, width, 3): depth and the like as grey."""
    values = picture.values
    if picture.meaning is not Meaning.LIGHT or (values.ndim == 2 and values.dtype == np.uint16):
        values = _stretched(values)
    elif values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    if values.ndim == 2:
        return np.repeat(values[:, :, None], 3, axis=2)
    return np.ascontiguousarray(values[:, :, :3])


def _stretched(values: Pixels) -> Pixels:
    """Grey from the near to the far, without the hundredth at each end; what is not finite or 0 is black."""
    numbers = values.astype(np.float32)
    real = np.isfinite(numbers) & (numbers != 0)
    if not np.any(real):
        return np.zeros(values.shape, np.uint8)
    low, high = (float(each) for each in np.percentile(numbers[real], (1, 99)))
    with np.errstate(invalid="ignore", over="ignore"):
        grey = np.clip((numbers - low) / max(high - low, 1e-12), 0, 1) * 215 + 40
    return np.where(real, grey, 0).astype(np.uint8)
