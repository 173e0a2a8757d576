"""What becomes of pictures: forms, videos, and the rules that say which topic gets which."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar


class ImageForm(StrEnum):
    """Where the pixels of ``sensor_msgs/Image`` and ``CompressedImage`` are.

    ``recorded``: in ``data``, as recorded; ``png``, ``jpeg``: encoded, in the column ``image``;
    ``png_files``, ``jpeg_files``: encoded, a file each, whose path is in the column ``image_path``;
    ``left_out``: in no table, where a video has them.
    """

    RECORDED = "recorded"
    PNG = "png"
    JPEG = "jpeg"
    PNG_FILES = "png_files"
    JPEG_FILES = "jpeg_files"
    LEFT_OUT = "left_out"


class VideoCodec(StrEnum):
    """What a camera's video is encoded in."""

    NONE = "none"
    H264 = "h264"
    AV1 = "av1"


DEFAULT_JPEG_QUALITY = 90

MAX_IMAGE_SIDE = 65_500
"""Pixels; what a JPEG can have."""


@dataclass(frozen=True, slots=True)
class ImageRule:
    """What becomes of the pictures of topics.

    Attributes:
        topics: a shell glob, as those of `ExtractOptions`, or one topic's name.
        form: where the pixels are.
        video: the codec of a video beside the table.
        max_width: pixels; larger pictures are made smaller, in proportion. 0 for any.
        max_height: likewise.
        quality: of JPEG, 1 to 100; 0 where nothing becomes a JPEG.
    """

    topics: str
    form: ImageForm = ImageForm.RECORDED
    video: VideoCodec = VideoCodec.NONE
    max_width: int = 0
    max_height: int = 0
    quality: int = 0

    @property
    def is_jpeg(self) -> bool:
        return self.form in (ImageForm.JPEG, ImageForm.JPEG_FILES)

    @property
    def changes(self) -> bool:
        """Whether rows are other than without the rule."""
        return self.form is not ImageForm.RECORDED or self.video is not VideoCodec.NONE

    def __str__(self) -> str:
        sizes = [("max_width", self.max_width), ("max_height", self.max_height), ("quality", self.quality)]
        said = [f"{name}={value}" for name, value in sizes if value]
        video = [] if self.video is VideoCodec.NONE else [f"video={self.video}"]
        return ",".join([self.form, *video, *said])


def parse_image_rule(topics: str, raw: object) -> ImageRule:
    """The rule that a text (``jpeg_files,max_width=640,video=h264``) or a mapping says.

    >>> str(parse_image_rule("/cam/*", {"form": "jpeg_files", "video": "h264", "max_width": 640}))
    'jpeg_files,video=h264,max_width=640,quality=90'

    Raises:
        ValueError: it says none; the message says why.
    """
    if isinstance(raw, str):
        form, *rest = raw.split(",")
        given: dict[str, object] = {"form": form}
        for part in rest:
            key, equals, value = part.partition("=")
            if not equals or key in given:
                raise ValueError(f"{raw!r}: after the form come options of one value each, as max_width=640")
            given[key] = int(value) if value.isascii() and value.isdigit() else value
    elif isinstance(raw, Mapping):
        given = dict(raw)
    else:
        raise ValueError(f"expected {' or '.join(ImageForm)}, or an object with the key 'form'")
    known = [each.name for each in dataclasses.fields(ImageRule) if each.name != "topics"]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{unknown[0]!r} is unknown; known are {', '.join(known)}")
    form_said = _one_of("form", given.get("form", ImageForm.RECORDED), ImageForm)
    video = _one_of("video", given.get("video", VideoCodec.NONE), VideoCodec)
    rule = ImageRule(
        topics,
        form_said,
        video,
        max_width=_whole("max_width", given.get("max_width", 0), MAX_IMAGE_SIDE),
        max_height=_whole("max_height", given.get("max_height", 0), MAX_IMAGE_SIDE),
        quality=_whole("quality", given.get("quality", 0), 100),
    )
    if rule.form is ImageForm.LEFT_OUT and rule.video is VideoCodec.NONE:
        raise ValueError("left_out keeps no picture anywhere: give it a video, or exclude the topic")
    if rule.quality and not rule.is_jpeg:
        raise ValueError(f"quality is JPEG's; the form is {rule.form}")
    if (rule.max_width or rule.max_height) and not rule.changes:
        raise ValueError("what is kept as recorded is not made smaller: choose another form, or a video")
    if rule.is_jpeg and not rule.quality:
        rule = dataclasses.replace(rule, quality=DEFAULT_JPEG_QUALITY)
    return rule


_Word = TypeVar("_Word", bound=StrEnum)


def _one_of(name: str, raw: object, choices: type[_Word]) -> _Word:
    if isinstance(raw, str) and raw in tuple(choices):
        return choices(raw)
    raise ValueError(f"{name}: expected {', '.join(choices)}, not {raw!r:.80}")


def _whole(name: str, raw: object, most: int) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= most:
        return raw
    raise ValueError(f"{name}: expected a whole number up to {most:,}, not {raw!r:.80}")


def image_rules(rules: Iterable[ImageRule]) -> tuple[ImageRule, ...]:
    """Rules as options have them: in one order, and none where they change nothing."""
    ordered = tuple(sorted(rules, key=lambda rule: rule.topics))
    return ordered if any(rule.changes for rule in ordered) else ()


IMAGE_TYPES = ("sensor_msgs/Image", "sensor_msgs/CompressedImage")


def is_image_type(type_name: str) -> bool:
    """Whether messages of this type, as either version of ROS names it, have pictures.

    >>> is_image_type("sensor_msgs/msg/Image"), is_image_type("sensor_msgs/PointCloud2")
    (True, False)
    """
    return type_name.replace("/msg/", "/") in IMAGE_TYPES
