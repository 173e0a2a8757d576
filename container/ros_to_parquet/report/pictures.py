"""Pictures of messages, to be looked at."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ros_to_parquet import pictures
from ros_to_parquet.pictures import PictureError

__all__ = ["PictureError", "opened_picture", "picture_of", "small_jpeg"]

MOST_PIXELS = 120_000_000
"""A picture that claims more is not opened: a few bytes can claim any size."""


def picture_of(message: Mapping[str, Any]) -> Image.Image:
    """The picture of a row of ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Raises:
        PictureError: its bytes are none, or of an encoding that is not known.
    """
    claim = pictures.claim_of(message)
    if claim.width * claim.height > MOST_PIXELS:
        raise PictureError(f"{claim.width} by {claim.height} pixels are too many")
    return Image.fromarray(pictures.shown(pictures.decode(message)))


def opened_picture(data: bytes) -> Image.Image:
    """The picture that a file holds which the engine has made of a message; likewise."""
    return picture_of({"format": "", "data": data})


def small_jpeg(picture: Image.Image, width: int, quality: int = 70) -> tuple[bytes, tuple[int, int]]:
    """A JPEG no wider than ``width`` and no higher than that, and its width and height."""
    small = picture.copy()
    small.thumbnail(
        (width, width), Image.Resampling.BOX if picture.width > 4 * width else Image.Resampling.LANCZOS
    )
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue(), small.size
