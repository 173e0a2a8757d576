"""Messages with pixels, and points, as small pictures."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

MOST_PIXELS = 120_000_000
"""A picture that claims more is not opened: a few bytes can claim any size."""

DEPTH_HEADER_BYTES = 12
"""What compressed_depth_image_transport puts in front of its PNG."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""That are opened. Pillow knows dozens more; for some of them it runs other programs on what a bag holds."""

Pixels = npt.NDArray[Any]
T = TypeVar("T")

_KINDS: Mapping[type, str] = {bytes: "bytes", str: "a string", int: "an integer"}

# What Pillow raises on data that is not as its format says.
_UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class PictureError(ValueError):
    """A message whose picture cannot be shown; the message says why."""


# Channels and type of a pixel, and which channels are red, green and blue.
_PLAIN: Mapping[str, tuple[int, str, tuple[int, ...]]] = {
    "rgb8": (3, "u1", (0, 1, 2)),
    "bgr8": (3, "u1", (2, 1, 0)),
    "rgba8": (4, "u1", (0, 1, 2)),
    "bgra8": (4, "u1", (2, 1, 0)),
    "rgb16": (3, "u2", (0, 1, 2)),
    "bgr16": (3, "u2", (2, 1, 0)),
    "rgba16": (4, "u2", (0, 1, 2)),
    "bgra16": (4, "u2", (2, 1, 0)),
    "mono8": (1, "u1", (0,)),
    "mono16": (1, "u2", (0,)),
    "8UC1": (1, "u1", (0,)),
    "8UC3": (3, "u1", (2, 1, 0)),
    "8UC4": (4, "u1", (2, 1, 0)),
    "16UC1": (1, "u2", (0,)),
    "16SC1": (1, "i2", (0,)),
    "32FC1": (1, "f4", (0,)),
    "64FC1": (1, "f8", (0,)),
}
_DEPTHS = frozenset({"mono16", "16UC1", "16SC1", "32FC1", "64FC1"})
"""Pixels that are distances or counts: what is shown is stretched to what is there."""

# Where the colours of a square of two by two pixels are: red, both greens, blue.
_BAYER: Mapping[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "rggb": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "bggr": ((1, 1), (0, 1), (1, 0), (0, 0)),
    "gbrg": ((1, 0), (0, 0), (1, 1), (0, 1)),
    "grbg": ((0, 1), (0, 0), (1, 1), (1, 0)),
}
# Of two pixels in four bytes: where the two lights, u and v are.
_YUV: Mapping[str, tuple[int, int, int, int]] = {
    "yuv422": (1, 3, 0, 2),
    "uyvy": (1, 3, 0, 2),
    "yuv422_yuy2": (0, 2, 1, 3),
    "yuyv": (0, 2, 1, 3),
}


def picture_of(message: Mapping[str, Any]) -> Image.Image:
    """The picture of a row of ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Raises:
        PictureError: its bytes are none, or of an encoding that is not known.
    """
    if "format" in message:
        return _compressed(_member(message, "data", bytes), _member(message, "format", str))
    return _raw(message)


def _member(message: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A bag can define its own ``sensor_msgs/Image``."""
    value = message.get(name)
    if not isinstance(value, kind):
        raise PictureError(f"its definition has no {name} that is {_KINDS[kind]}")
    return value


def _compressed(data: bytes, said: str) -> Image.Image:
    if "compressedDepth" in said:
        data = data[DEPTH_HEADER_BYTES:]
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        if opened.width * opened.height > MOST_PIXELS:
            raise PictureError(f"{opened.width} by {opened.height} pixels are too many")
        opened.load()
    except _UNREADABLE as error:
        raise PictureError(f"{said or 'no format'}: {error}") from error
    if opened.mode.startswith(("I", "F")):
        return _stretched(np.asarray(opened))
    return opened.convert("RGB")


def check_picture(data: bytes) -> None:
    """Decodes all pixels of a JPEG or PNG, also of one behind compressedDepth's header, and keeps none.

    Raises:
        PictureError: they cannot be decoded.
    """
    if data[DEPTH_HEADER_BYTES:].startswith(b"\x89PNG"):
        data = data[DEPTH_HEADER_BYTES:]
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        if opened.width * opened.height > MOST_PIXELS:
            raise PictureError(f"{opened.width} by {opened.height} pixels are too many")
        opened.draft(
            "L", (max(1, opened.width // 8), max(1, opened.height // 8))
        )  # entropy coding is all there
        opened.load()
    except _UNREADABLE as error:
        raise PictureError(str(error)) from error


def _raw(message: Mapping[str, Any]) -> Image.Image:
    width, height, step = (_member(message, name, int) for name in ("width", "height", "step"))
    encoding = _member(message, "encoding", str)
    data = np.frombuffer(_member(message, "data", bytes), dtype=np.uint8)
    if width <= 0 or height <= 0:
        raise PictureError("it has no pixels")
    if width * height > MOST_PIXELS:
        raise PictureError(f"{width} by {height} pixels are too many")
    if encoding in _PLAIN:
        channels, kind, colours = _PLAIN[encoding]
        item = np.dtype(kind).newbyteorder(">" if message.get("is_bigendian") else "<")
        pixels = _lines(data, height, step, width * channels * item.itemsize).view(item)
        pixels = pixels.reshape(height, width, channels)[:, :, list(colours)]
        if encoding in _DEPTHS:
            return _stretched(pixels[:, :, 0])
        small = pixels if item.itemsize == 1 else (pixels >> 8)
        return Image.fromarray(np.ascontiguousarray(np.squeeze(small.astype(np.uint8)))).convert("RGB")
    pattern = encoding.removeprefix("bayer_").rstrip("0123456789")
    if encoding.startswith("bayer_") and pattern in _BAYER:
        deep = encoding.endswith("16")
        lines = _lines(data, height, step, width * (2 if deep else 1))
        cells = lines.view(">u2" if message.get("is_bigendian") else "<u2") >> 8 if deep else lines
        return _debayered(cells, pattern)
    if encoding in _YUV:
        return _from_yuv(_lines(data, height, step, width * 2), encoding, width)
    raise PictureError(f"encoding {encoding!r} is not known here")


def _lines(data: Pixels, height: int, step: int, line_bytes: int) -> Pixels:
    """The bytes of each line, without what drivers leave behind it."""
    step = step or line_bytes
    if step < line_bytes or len(data) < (height - 1) * step + line_bytes:
        raise PictureError(
            f"its {len(data)} bytes are not {height} lines of {step}, {line_bytes} in each used"
        )
    padded = np.zeros(height * step, dtype=np.uint8) if len(data) < height * step else data[: height * step]
    if len(data) < height * step:
        padded[: len(data)] = data
    return np.ascontiguousarray(padded.reshape(height, step)[:, :line_bytes])


def _debayered(cells: Pixels, pattern: str) -> Image.Image:
    """A pixel for each two by two: half the size, which is more than a small picture needs."""
    height, width = cells.shape[0] // 2 * 2, cells.shape[1] // 2 * 2
    red, green, other_green, blue = (
        cells[row:height:2, column:width:2].astype(np.uint16) for row, column in _BAYER[pattern]
    )
    pixels = np.stack((red, (green + other_green) // 2, blue), axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


def _from_yuv(lines: Pixels, encoding: str, width: int) -> Image.Image:
    """The first pixel of every two: a small picture needs no more."""
    light, _, blue, red = _YUV[encoding]
    pairs = lines[:, : width // 2 * 4].reshape(lines.shape[0], width // 2, 4)
    pixels = np.ascontiguousarray(pairs[:, :, [light, blue, red]])
    return Image.fromarray(pixels, mode="YCbCr").resize((width, lines.shape[0])).convert("RGB")


def _stretched(values: Pixels) -> Image.Image:
    """Grey from the near to the far, without the hundredth at each end; what is not finite or 0 is black."""
    numbers = values.astype(np.float64)
    real = np.isfinite(numbers) & (numbers != 0)
    if not np.any(real):
        return Image.fromarray(np.zeros(values.shape, dtype=np.uint8)).convert("RGB")
    low, high = np.percentile(numbers[real], (1, 99))
    grey = np.clip((numbers - low) / max(high - low, 1e-12), 0, 1) * 215 + 40
    return Image.fromarray(np.where(real, grey, 0).astype(np.uint8)).convert("RGB")


def small_jpeg(picture: Image.Image, width: int, quality: int = 70) -> tuple[bytes, tuple[int, int]]:
    """A JPEG no wider than ``width`` and no higher than that, and its width and height."""
    small = picture.copy()
    small.thumbnail(
        (width, width), Image.Resampling.BOX if picture.width > 4 * width else Image.Resampling.LANCZOS
    )
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue(), small.size
