"""What rows depend on: which topics are extracted, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ros_to_parquet.contract.images import ImageRule

MSG_PATH_VARIABLE = "ROS_TO_PARQUET_MSG_PATH"
"""Environment variable: comma-separated folders of definitions, looked into after those of the options: an
image's own."""

ROS2_DISTRIBUTIONS = (
    "lyrical",
    "kilted",
    "jazzy",
    "iron",
    "humble",
    "galactic",
    "foxy",
    "eloquent",
    "dashing",
)
"""Newest first; the order in which a standard type is looked up that the bag does not define."""

ROS_DISTRIBUTIONS = (*ROS2_DISTRIBUTIONS, "noetic")
"""Whose standard types the engine has. ROS 1 has the one, which its bags always get."""


class PointClouds(StrEnum):
    """What becomes of ``sensor_msgs/PointCloud2``.

    ``recorded``: its fields, with the points in a blob; ``decoded``: a column for each of the points' fields.
    """

    RECORDED = "recorded"
    DECODED = "decoded"


class ParquetStyle(StrEnum):
    """How tables are encoded; their values are the same.

    ``compatible``: plain values, dictionaries for strings, no unsigned 32-bit integers (Athena takes large
    ones for negative); ``compact``: byte-stream-split floats, delta integers, which Spark has from 4.3 on.
    """

    COMPATIBLE = "compatible"
    COMPACT = "compact"


TRANSFORM_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""What an entry point of a transform may be called."""


@dataclass(frozen=True, slots=True)
class TransformRule:
    """Topics (a shell glob, as those of `ExtractOptions`) whose rows go through the transform ``name``."""

    topics: str
    name: str


def transform_rules(names: Mapping[str, str]) -> tuple[TransformRule, ...]:
    """The rules that a mapping from globs to names says; equal whatever order it was written in."""
    return tuple(TransformRule(topics, names[topics]) for topics in sorted(names))


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """What to extract. Two runs with equal options make equal tables of one bag.

    Attributes:
        include_topics: shell globs over the whole topic name, ``*`` crosses ``/``; ("*",) is all.
        exclude_topics: likewise; exclusion wins.
        strict: rejects and damage make the shard fail (after its manifest is written).
        ros_distro: one of `ROS_DISTRIBUTIONS`, whose standard types are tried first where a bag does not
            define a type; empty for the newest.
        msg_paths: folders (paths or URIs, without a final slash) of message definitions, for types
            that a bag does not define; of a type that several of them have, the first one's is taken.
        pointcloud: what becomes of point clouds.
        parquet: how files are encoded.
        transforms: which topics' rows go through which transforms (`transform_rules`).
        images: what becomes of which topics' pictures (`image_rules`).
    """

    include_topics: tuple[str, ...] = ("*",)
    exclude_topics: tuple[str, ...] = ()
    strict: bool = False
    ros_distro: str = ""
    msg_paths: tuple[str, ...] = ()
    pointcloud: PointClouds = PointClouds.RECORDED
    parquet: ParquetStyle = ParquetStyle.COMPATIBLE
    transforms: tuple[TransformRule, ...] = ()
    images: tuple[ImageRule, ...] = ()


def make_same_rows(one: ExtractOptions, other: ExtractOptions) -> bool:
    """Whether both make the same rows of a bag: they may differ in how a shard ends and files are encoded."""
    return what_makes_rows(one) == what_makes_rows(other)


def what_makes_rows(options: ExtractOptions) -> ExtractOptions:
    """The options, alike in all that makes no other rows."""
    return dataclasses.replace(options, strict=False, parquet=ParquetStyle.COMPATIBLE)
