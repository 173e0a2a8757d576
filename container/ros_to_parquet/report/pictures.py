"""Pictures of messages, to be looked at."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from ros_to_parquet import pictures
from ros_to_parquet.memory import DEFAULT_LIMIT_BYTES
from ros_to_parquet.pictures import PictureError

__all__ = ["PictureError", "opened_picture", "picture_of", "small_jpeg"]

MOST_PIXELS = 120_000_000
"""A picture that claims more is not opened: a few bytes can claim any size."""


def picture_of(
    message: Mapping[str, Any], *, enough: int = MOST_PIXELS, memory_bytes: int = DEFAULT_LIMIT_BYTES
) -> Image.Image:
    """The picture of a row of ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Args:
        enough: pixels to a side: of a picture with twice as many, every n-th line and column is taken.
        memory_bytes: what decoding it may take.

    Raises:
        PictureError: its bytes are none, of an encoding that is not known, or it is too large.
    """
    claim = pictures.claim_of(message)
    # A JPEG is decoded at a half, a quarter or an eighth of its size.
    part = next((part for part in (8, 4, 2) if min(claim.width, claim.height) >= part * enough), 1)
    needed = claim.working_bytes // (part**2 if claim.coded == "JPEG" else 1)
    if claim.width * claim.height > MOST_PIXELS or needed > memory_bytes:
        raise PictureError(f"{claim.width} by {claim.height} pixels are too many")
    picture = pictures.decode(message, wanted=(enough, enough))
    every = max(1, max(picture.width, picture.height) // enough)
    return Image.fromarray(pictures.shown(replace(picture, values=picture.values[::every, ::every])))


def opened_picture(data: Any, *, enough: int, memory_bytes: int) -> Image.Image:
    """The picture that a file holds which the engine has made of a message; likewise."""
    return picture_of({"format": "", "data": data}, enough=enough, memory_bytes=memory_bytes)


def small_jpeg(picture: Image.Image, width: int, quality: int = 70) -> tuple[bytes, tuple[int, int]]:
    """A JPEG no wider than ``width`` and no higher than that, and its width and height."""
    small = picture.reduce(max(1, max(picture.size) // (4 * width)))  # and so no copy of all of it
    small.thumbnail((width, width), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue(), small.size
