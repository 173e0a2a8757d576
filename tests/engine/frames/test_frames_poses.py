"""Poses by TF: held against matrices multiplied message by message, and what cannot be known is said."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ros_to_parquet.frames import poses as poses_module
from ros_to_parquet.frames.errors import FramesError
from ros_to_parquet.frames.make import write_frames
from ros_to_parquet.frames.tree import Edge, find_way
from tests.engine.frames.drives import MS, Message, extracted, image, made, table_of, transform, write
from tests.engine.sample_bags import START_NS, write_mcap

Matrix = npt.NDArray[np.float64]
STILL = (0.0, 0.0, 0.0, 1.0)
ORIGIN = (0.0, 0.0, 0.0)


def about_z(angle: float) -> tuple[float, float, float, float]:
    return 0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)


def matrix(place: Sequence[float], turn: Sequence[float]) -> Matrix:
    """A pose as 4 by 4 numbers, by the textbook's formula for a unit quaternion."""
    x, y, z, w = np.array(turn) / np.linalg.norm(turn)
    made = np.eye(4)
    made[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    made[:3, 3] = place
    return made


def pose_matrix(pose: Mapping[str, Any]) -> Matrix:
    return matrix(list(pose["translation"].values()), list(pose["rotation"].values()))


def between(samples: Sequence[tuple[int, Any, Any]], at_ns: int) -> Matrix:
    """A moving edge's matrix at a time: rotations by a power of the rotation from one to the next."""
    for (start, place, turn), (end, other_place, other_turn) in pairwise(samples):
        if start <= at_ns <= end:
            share = (at_ns - start) / (end - start)
            one, two = matrix(ORIGIN, turn)[:3, :3], matrix(ORIGIN, other_turn)[:3, :3]
            step = one.T @ two
            angle = math.acos(max(-1.0, min(1.0, (np.trace(step) - 1) / 2)))
            made = np.eye(4)
            if angle > 1e-9:
                axis = (step - step.T) / (2 * math.sin(angle))
                part = (
                    np.eye(3) + math.sin(share * angle) * axis + (1 - math.cos(share * angle)) * axis @ axis
                )
                made[:3, :3] = one @ part
            else:
                made[:3, :3] = one
            made[:3, 3] = (1 - share) * np.array(place) + share * np.array(other_place)
            return made
    raise AssertionError(at_ns)


@pytest.mark.parametrize("part_rows", [3, 65_536])
def test_as_matrices_multiplied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_rows: int) -> None:
    """map -> odom -> base moving, base -> camera and map -> station static."""
    monkeypatch.setattr(poses_module, "_PART_ROWS", part_rows)
    rng = np.random.default_rng(4)

    def path(period_ms: int) -> list[tuple[int, Any, Any]]:
        return [(at * MS, rng.normal(size=3), rng.normal(size=4)) for at in range(-200, 3_000, period_ms)]

    # Times of messages lag behind their stamps, and are out of order between edges.
    moving = {("map", "odom"): path(400), ("odom", "base"): path(50)}
    static = {
        ("base", "camera"): ((1.0, 0.2, 1.5), (0.5, -0.5, 0.5, -0.5)),
        ("map", "station"): ((5, 6, 7), about_z(2)),
    }
    messages: list[Message] = [
        transform(0, *((*names, *values) for names, values in static.items()), topic="/tf_static")
    ]
    messages += [
        transform(at + 230 * MS, (*names, place, turn), stamp_ns=at)
        for names, samples in moving.items()
        for at, place, turn in samples
    ]
    frames = [image(at * MS, at, stamp_ns=at * MS) for at in range(0, 2_600, 33)]
    bags = [
        write(tmp_path / "a.bag", sorted(messages[::2], key=lambda each: each.at_ns)),
        write(tmp_path / "b.bag", sorted([*messages[1::2], *frames], key=lambda each: each.at_ns)),
    ]
    lake = extracted(tmp_path / "lake", *bags)
    result, rows = made(
        lake,
        reference="/camera",
        clock="stamp",
        pose=[
            {"parent": "map", "child": "camera"},
            {"parent": "camera", "child": "map", "column": "back"},
            {"parent": "station", "child": "/base", "column": "across"},
            {"parent": "base", "child": "camera", "column": "static"},
        ],
    )
    assert [each.matched for each in result.columns] == [len(frames)] * 5
    fixed = {names: matrix(*values) for names, values in static.items()}
    for row in rows:
        at = row["time_ns"] - START_NS
        base = between(moving["map", "odom"], at) @ between(moving["odom", "base"], at)
        camera = base @ fixed["base", "camera"]
        assert np.allclose(pose_matrix(row["pose"]), camera, atol=1e-9)
        assert np.allclose(pose_matrix(row["back"]), np.linalg.inv(camera), atol=1e-9)
        assert np.allclose(
            pose_matrix(row["across"]), np.linalg.inv(fixed["map", "station"]) @ base, atol=1e-9
        )
        assert np.allclose(pose_matrix(row["static"]), fixed["base", "camera"], atol=1e-12)
        assert row["static"]["gap_ns"] == 0
        assert row["pose"]["gap_ns"] in (0, 400 * MS)


def frames_and(path: Path, *messages: Message, times_ms: Sequence[int] = (0, 100, 200)) -> Any:
    frames = [image(at * MS, number) for number, at in enumerate(times_ms)]
    return extracted(path / "lake", write(path / "a.bag", [*frames, *messages]))


def odom(at_ms: int, x: float, *, stamp_ms: int | None = None) -> Message:
    when = at_ms if stamp_ms is None else stamp_ms
    return transform(at_ms * MS, ("odom", "base", (x, 0, 0), STILL), stamp_ns=when * MS)


def xs(rows: Sequence[Mapping[str, Any]], column: str = "pose") -> list[float | None]:
    return [None if row[column] is None else row[column]["translation"]["x"] for row in rows]


def test_why_there_is_no_pose(tmp_path: Path) -> None:
    lake = frames_and(
        tmp_path,
        *(odom(at, float(at)) for at in (20, 60, 110, 500)),
        times_ms=(0, 50, 100, 200, 400, 600),
    )
    result, rows = made(
        lake, reference="/camera", pose={"parent": "odom", "child": "base", "tolerance_ms": 60}
    )
    assert xs(rows) == [None, 50.0, 100.0, None, None, None]
    assert result.columns[1].reasons == (
        "odom -> base: before its first or after its last transform: 2",
        "odom -> base: no transforms on both sides within 60 ms: 2",
    )
    _, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base", "tolerance_ms": 1000})
    assert xs(rows) == [None, 50.0, 100.0, 200.0, 400.0, None]


def test_frames_far_from_any_transform(tmp_path: Path) -> None:
    lake = frames_and(tmp_path, odom(0, 1.0), odom(10_000, 2.0), times_ms=(5_000,))
    result, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base"})
    assert xs(rows) == [None]
    assert result.columns[1].reasons == ("odom -> base: no transforms on both sides within 500 ms: 1",)


def test_the_clock_is_the_tables(tmp_path: Path) -> None:
    lake = frames_and(tmp_path, *(odom(at, float(at), stamp_ms=at + 40) for at in range(0, 400, 20)))
    _, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base"})
    assert xs(rows) == [0.0, 100.0, 200.0]
    _, rows = made(lake, reference="/camera", clock="stamp", pose={"parent": "odom", "child": "base"})
    assert xs(rows) == [None, 60.0, 160.0]


def test_a_static_transform_that_changes_and_one_that_comes_late(tmp_path: Path) -> None:
    def static(at_ms: int, x: float) -> Message:
        return transform(at_ms * MS, ("base", "lidar", (x, 0, 0), STILL), topic="/robot/tf_static")

    lake = frames_and(tmp_path, static(50, 1.0), static(60, 1.0), static(150, 2.0))
    _, rows = made(lake, reference="/camera", pose={"parent": "base", "child": "lidar"})
    assert xs(rows) == [1.0, 1.0, 2.0]


def test_an_edge_that_is_also_sent_as_moving_is_moving(tmp_path: Path) -> None:
    still = transform(0, ("odom", "base", (77.0, 0, 0), STILL), topic="/tf_static")
    lake = frames_and(tmp_path, still, *(odom(at, float(at)) for at in (0, 150)))
    _, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base"})
    assert xs(rows) == [0.0, 100.0, None]


@pytest.mark.parametrize(
    ("parent", "child", "why"),
    [
        ("map", "base", "none has 'map'; there are 'odom', 'site', 'base', 'lidar', 'mast'"),
        ("map", "nose", "none has 'nose' or 'map'; there are 'odom', 'site', 'base', 'lidar', 'mast'"),
        ("mast", "lidar", "'lidar' is below 'odom', 'mast' is below 'site'"),
        ("site", "base", "'base' is below 'odom', 'site' has no parent"),
    ],
)
def test_frames_that_nothing_connects(tmp_path: Path, parent: str, child: str, why: str) -> None:
    still = [
        transform(0, (*edge, ORIGIN, STILL), topic="/tf_static")
        for edge in (("base", "lidar"), ("site", "mast"))
    ]
    lake = frames_and(tmp_path, odom(0, 1.0), *still)
    result, rows = made(lake, reference="/camera", pose={"parent": parent, "child": child})
    assert xs(rows) == [None] * 3
    assert result.problems == (f"pose of {child!r} in {parent!r}: no transforms connect them: {why}",)
    assert result.columns[1].reasons == ("no transforms connect the two: 3",)


def test_bad_transforms_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [
        transform(50 * MS, ("odom", "base", (math.nan, 0, 0), STILL)),
        transform(60 * MS, ("odom", "base", ORIGIN, (0, 0, 0, 0))),
        transform(70 * MS, ("odom", "base", ORIGIN, (math.inf, 0, 0, 1))),
        transform(80 * MS, ("odom", "base", ORIGIN, (1e200, 0, 0, 1e200))),
    ]
    lake = frames_and(tmp_path, odom(0, 0.0), *bad, odom(200, 200.0))
    result, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base"})
    assert xs(rows) == [0.0, 100.0, 200.0]
    (problem,) = result.problems
    assert problem == (
        "pose of 'base' in 'odom': 4 transforms were left out: their numbers are not finite, or their "
        "quaternion is no rotation"
    )


@pytest.mark.parametrize("topic", ["/tf", "/tf_static"])
def test_an_edge_without_any_good_transform(tmp_path: Path, topic: str) -> None:
    bad = transform(0, ("odom", "base", ORIGIN, (0, 0, 0, 0)), topic=topic)
    result, rows = made(
        frames_and(tmp_path, bad), reference="/camera", pose={"parent": "odom", "child": "base"}
    )
    assert xs(rows) == [None] * 3
    assert result.columns[1].reasons == ("odom -> base: all of its transforms were left out: 3",)


def test_rotations_that_are_not_of_length_one_are_made_so(tmp_path: Path) -> None:
    long = transform(0, ("odom", "base", (1, 0, 0), (0, 0, 3, 3)), topic="/tf_static")
    down = transform(0, ("base", "nose", (2, 0, 0), STILL), topic="/tf_static")
    lake = frames_and(tmp_path, long, down)
    _, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "nose"})
    assert list(rows[0]["pose"]["translation"].values()) == pytest.approx([1, 2, 0])


def test_several_parents_are_refused_in_words(tmp_path: Path) -> None:
    other = transform(0, ("world", "base", ORIGIN, STILL), topic="/other/tf")
    lake = frames_and(tmp_path, odom(0, 1.0), odom(200, 1.0), other)
    with pytest.raises(FramesError) as refused:
        write_frames(lake.uri, "d", table_of(reference="/camera", pose={"parent": "odom", "child": "base"}))
    assert str(refused.value) == (
        "pose of 'base' in 'odom': frame 'base' has several parents, 'odom', 'world', so that nobody can say "
        'where it is; name the "topics" whose transforms are to be taken'
    )
    assert lake.frames_tables() == []
    _, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base", "topics": ["/tf"]})
    assert xs(rows) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        ("string transforms\n", b"\0\1\0\0" + struct.pack("<I", 2) + b"a\0"),
        ("float64[] transforms\n", b"\0\1\0\0" + struct.pack("<I", 0)),
        ("string other\n", b"\0\1\0\0" + struct.pack("<I", 2) + b"a\0"),
    ],
)
def test_transforms_of_a_bags_own_making_are_refused_in_words(
    tmp_path: Path, text: str, payload: bytes
) -> None:
    """A bag can define its own TFMessage."""
    own = write_mcap(
        tmp_path / "own.mcap", "tf2_msgs/msg/TFMessage", [payload], schema=text, schema_encoding="ros2msg"
    )
    bag = write(tmp_path / "a.bag", [image(0, 0), odom(0, 1.0), odom(200, 1.0)])
    lake = extracted(tmp_path / "lake", bag, own)
    with pytest.raises(FramesError, match=r"topic /topic: its transforms have no header\.frame_id as TF's"):
        write_frames(lake.uri, "d", table_of(reference="/camera", pose={"parent": "odom", "child": "base"}))
    _, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base", "topics": ["/tf"]})
    assert xs(rows) == [1.0]


def of_json(kind: str, **properties: Any) -> dict[str, Any]:
    return {"type": kind, **({"properties": properties} if properties else {})}


def test_transforms_in_json_of_which_some_are_not_there(tmp_path: Path) -> None:
    numbers = {name: of_json("number") for name in "xyzw"}
    stamp = of_json("object", sec=of_json("integer"), nanosec=of_json("integer"))
    each = of_json(
        "object",
        header=of_json("object", stamp=stamp, frame_id=of_json("string")),
        child_frame_id=of_json("string"),
        transform=of_json(
            "object", translation=of_json("object", **numbers), rotation=of_json("object", **numbers)
        ),
    )
    whole = {
        "header": {"stamp": {"sec": 1, "nanosec": 2}, "frame_id": "odom"},
        "child_frame_id": "base",
        "transform": {"translation": {"x": 7, "y": 0, "z": 0}, "rotation": {"x": 0, "y": 0, "z": 0, "w": 1}},
    }
    lacking = [{**whole, "child_frame_id": None}, {**whole, "header": {}}, {**whole, "header": None}]
    messages = [{"transforms": [whole]}, {}, {"transforms": None}, {"transforms": [*lacking, whole]}]
    own = write_mcap(
        tmp_path / "own.mcap",
        "tf2_msgs/TFMessage",
        [json.dumps(message).encode() for message in messages],
        schema=json.dumps(of_json("object", transforms={"type": "array", "items": each})),
        schema_encoding="jsonschema",
        encoding="json",
    )
    lake = extracted(tmp_path / "lake", write(tmp_path / "a.bag", [image(0, 0)]), own)
    result, rows = made(lake, reference="/camera", pose={"parent": "odom", "child": "base"})
    assert xs(rows) == [7.0]
    assert result.problems == ()


def test_names_of_frames_without_end_are_refused_before_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poses_module, "_BATCH_ROWS", 1)
    monkeypatch.setattr(poses_module, "MAX_EDGES", 2)
    names = [transform(at * MS, ("odom", f"child_{at}", ORIGIN, STILL)) for at in range(50)]
    read: list[int] = []
    frames_of = poses_module._frames

    def counted(transforms: Any) -> Any:
        read.append(len(transforms))
        return frames_of(transforms)

    monkeypatch.setattr(poses_module, "_frames", counted)
    with pytest.raises(FramesError, match="more than 2 pairs of coordinate frames"):
        made(frames_and(tmp_path, *names), reference="/camera", pose={"parent": "odom", "child": "child_1"})
    assert len(read) == 3


# --- the tree ---------------------------------------------------------------------------------------


def edges(*pairs: str) -> list[Edge]:
    return [Edge(*pair.split(">")) for pair in pairs]


def test_ways() -> None:
    tree = edges("map>odom", "odom>base", "base>camera", "base>lidar", "else>where")
    way = find_way(tree, "lidar", "camera")
    assert way is not None
    assert [list(map(str, each)) for each in (way.from_child, way.from_parent)] == [
        ["base -> camera"],
        ["base -> lidar"],
    ]
    down = find_way(tree, "odom", "camera")
    assert down is not None
    assert ([str(each) for each in down.from_child], down.from_parent) == (
        ["base -> camera", "odom -> base"],
        (),
    )
    up = find_way(tree, "camera", "odom")
    assert up is not None
    assert (up.from_child, up.from_parent) == ((), down.from_child)
    assert find_way(tree, "map", "where") is None
    assert find_way(tree, "nix", "base") is None


def test_what_is_not_on_the_way_may_be_anything() -> None:
    tree = edges("map>base", "odom>base", "base>camera", "base>lidar", "x>y", "y>x", "a>z", "b>z")
    assert find_way(tree, "lidar", "camera") is not None
    with pytest.raises(FramesError, match="frame 'base' has several parents, 'map', 'odom'"):
        find_way(tree, "map", "camera")


def test_a_circle_is_refused() -> None:
    tree = edges("a>b", "b>c", "c>a")
    with pytest.raises(FramesError, match=r"pose of 'b' in 'z': the transforms go round in a circle: b -> c"):
        find_way(tree, "z", "b")
    assert find_way(tree, "a", "b") is not None
