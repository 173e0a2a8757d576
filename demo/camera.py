"""Pictures of the town as a car's cameras would see it, drawn with numpy and Pillow.

A frame is put together back to front: sky, ground, house fronts (a ray a picture column), then trees and
cars from far to near, then the bonnet and the text that cameras burn in. 640 x 360 takes about ten
milliseconds, so that a minute of several cameras is made while one waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from demo import town as town_module
from demo.scenery import (
    DOOR,
    FACADE_KINDS,
    FACADE_MODULE_M,
    FACADE_RGB,
    FACADE_TEXELS,
    FACADE_TEXELS_FAR,
    FAR_FACADE_M,
    FAR_GROUND_M,
    FAR_TEXELS,
    MAP_SOUTH_M,
    MAP_WEST_M,
    PAINTS,
    ROOF,
    ROOF_M,
    SHOP,
    SIGHT_M,
    SKY_COLUMNS,
    SKY_ROWS,
    SKY_TANGENT,
    TEXEL_M,
    Light,
    Scenery,
    pack,
)
from demo.town import CAR_HEIGHT_M, CAR_LENGTH_M, CAR_WIDTH_M, Cars, Floats


@dataclass(frozen=True, slots=True)
class Lens:
    """A camera on the car: its picture, how it is mounted, and tables that follow from both.

    Attributes:
        focal_px: focal length; the picture's middle column looks straight ahead.
        yaw_rad: mounting angle, counter-clockwise from the car's heading.
        left: for each column, how far left its ray goes for a metre ahead.
        depth: distance ahead of the ground in each row below the horizon.
    """

    name: str
    width: int
    height: int
    focal_px: float
    yaw_rad: float
    mount_ahead_m: float
    mount_height_m: float
    horizon_row: int
    bonnet: bool
    left: Floats
    depth: npt.NDArray[np.float32]
    jitter: npt.NDArray[np.float32]


def make_lens(
    name: str,
    *,
    width: int,
    height: int,
    field_of_view_deg: float,
    yaw_deg: float,
    bonnet: bool = False,
    mount_ahead_m: float = 0.6,
    mount_height_m: float = 1.45,
) -> Lens:
    focal = width / 2 / math.tan(math.radians(field_of_view_deg) / 2)
    horizon = int(height * 0.47)
    # Room above and below, from which a pitching car cuts the picture: see `render`.
    rows = np.arange(1, height - horizon + PITCH_ROOM_PX + 1)
    # Each pixel looks up the ground a little beside its own place: that softens the texels' edges.
    jitter = np.random.default_rng(town_module.SEED).uniform(-0.5, 0.5, (2, len(rows), width))
    return Lens(
        name=name,
        width=width,
        height=height,
        focal_px=focal,
        yaw_rad=math.radians(yaw_deg),
        mount_ahead_m=mount_ahead_m,
        mount_height_m=mount_height_m,
        horizon_row=horizon,
        bonnet=bonnet,
        left=(width / 2 - np.arange(width) - 0.5) / focal,
        depth=(mount_height_m * focal / rows).astype(np.float32),
        jitter=jitter.astype(np.float32),
    )


PITCH_ROOM_PX = 8


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera is, which way the car heads, and what to write into the picture.

    ``pitch_px`` is how far the picture is shifted down because the car's nose is up.
    """

    x: float
    y: float
    heading_rad: float
    pitch_px: int
    caption: str


def render(scenery: Scenery, lens: Lens, view: View, cars: Cars) -> Image.Image:
    """The picture (RGB) that ``lens`` takes from ``view``."""
    heading = view.heading_rad + lens.yaw_rad
    forward = (math.cos(heading), math.sin(heading))
    ray_x = forward[0] - lens.left * forward[1]
    ray_y = forward[1] + lens.left * forward[0]
    top = lens.horizon_row + PITCH_ROOM_PX
    canvas = np.empty((lens.height + 2 * PITCH_ROOM_PX, lens.width), np.uint32)
    canvas[:top] = _sky_rows(scenery, lens, heading, rows=top)
    canvas[top:] = _ground_rows(scenery, lens, view, ray_x=ray_x, ray_y=ray_y)
    wall_depth = _draw_walls(canvas, scenery, lens, view, ray_x=ray_x, ray_y=ray_y)
    first = PITCH_ROOM_PX - max(-PITCH_ROOM_PX, min(PITCH_ROOM_PX, view.pitch_px))
    cut = np.ascontiguousarray(canvas[first : first + lens.height])
    image = Image.frombuffer("RGBX", (lens.width, lens.height), cut).convert("RGB")
    stage = _Stage(image, ImageDraw.Draw(image), lens, view, forward, top - first, wall_depth)
    _draw_things(stage, scenery, cars)
    if lens.bonnet:
        _draw_bonnet(stage)
    stage.draw.rectangle((0, 0, lens.width, 17), fill=(16, 16, 18))
    stage.draw.text((6, 1), view.caption, fill=(238, 238, 238), font=scenery.font)
    return image


def jpeg(image: Image.Image, *, quality: int) -> bytes:
    out = BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _sky_rows(scenery: Scenery, lens: Lens, heading: float, *, rows: int) -> npt.NDArray[np.uint32]:
    azimuth = heading + np.arctan(lens.left)
    columns = (azimuth / (2 * math.pi) * SKY_COLUMNS).astype(np.int64) % SKY_COLUMNS
    # What is far to the side is also further away: the same height stands lower in the picture.
    levels = np.arange(rows, 0, -1) / lens.focal_px / SKY_TANGENT * SKY_ROWS
    return scenery.sky[np.minimum(levels.astype(np.int64), SKY_ROWS - 1)[:, None], columns[None, :]]


def _ground_rows(
    scenery: Scenery, lens: Lens, view: View, *, ray_x: Floats, ray_y: Floats
) -> npt.NDArray[np.uint32]:
    far_rows = int(np.searchsorted(-lens.depth, -FAR_GROUND_M))
    ray_x, ray_y = ray_x.astype(np.float32), ray_y.astype(np.float32)
    place_x, place_y = np.float32(view.x - MAP_WEST_M), np.float32(view.y - MAP_SOUTH_M)

    def look_up(rows: slice, ground: npt.NDArray[Any], texel_m: float) -> npt.NDArray[Any]:
        height, width = ground.shape
        depth = lens.depth[rows, None] / np.float32(texel_m)
        column = depth * ray_x + (place_x / np.float32(texel_m)) + lens.jitter[0, rows]
        row = depth * ray_y + (place_y / np.float32(texel_m)) + lens.jitter[1, rows]
        column, row = column.astype(np.int32), row.astype(np.int32)
        np.clip(column, 0, width - 1, out=column)
        np.clip(row, 0, height - 1, out=row)
        row *= width
        row += column
        return np.asarray(ground.reshape(-1)[row])

    far = look_up(slice(0, far_rows), scenery.ground_far, TEXEL_M * FAR_TEXELS)
    near = scenery.palette[look_up(slice(far_rows, None), scenery.ground, TEXEL_M)]
    clear = np.exp(-lens.depth[:far_rows] / 140.0)[:, None, None]
    bytes_far = np.ascontiguousarray(far).view(np.uint8).reshape(far_rows, lens.width, 4)
    hazy = bytes_far * clear + np.array([*scenery.light.haze, 255], np.float32) * (1 - clear)
    return np.concatenate([hazy.astype(np.uint8).view(np.uint32)[..., 0], near])


def _draw_walls(
    canvas: npt.NDArray[np.uint32],
    scenery: Scenery,
    lens: Lens,
    view: View,
    *,
    ray_x: Floats,
    ray_y: Floats,
) -> Floats:
    """Draws the house fronts; the depth of the nearest wall in each column (`FAR_M` where there is none).

    In a column two walls can be seen: the nearest, and above it the one that reaches highest.
    """
    walls = town_module.walls_in_sight(scenery.town.walls, view.x, view.y, range_m=SIGHT_M)
    depths = town_module.cast(walls, view.x, view.y, ray_x, ray_y)
    columns = np.arange(lens.width)
    nearest = np.argmin(depths, axis=0)
    highest = np.argmax((walls.height[:, None] - lens.mount_height_m) / depths, axis=0)
    front = _facades(scenery, walls, view, nearest, depths[nearest, columns], ray_x, ray_y)
    behind = _facades(scenery, walls, view, highest, depths[highest, columns], ray_x, ray_y)
    top = lens.horizon_row + PITCH_ROOM_PX
    bottom = min(len(canvas), top + int(lens.mount_height_m * lens.focal_px / front.depth.min()) + 2)
    slope = ((top - np.arange(bottom) - 0.5) / lens.focal_px).astype(np.float32)[:, None]
    mount = np.float32(lens.mount_height_m)
    height = mount + front.depth * slope
    inside = (height >= 0) & (height <= front.height)
    np.copyto(canvas[:bottom], _colours(scenery, front, height), where=inside)
    above = mount + behind.depth * slope
    row, column = np.nonzero((height > front.height) & (above <= behind.height))
    canvas[row, column] = _colours(scenery, behind.take(column), above[row, column])
    return np.asarray(depths[nearest, columns])


@dataclass(frozen=True, slots=True)
class _Facades:
    """The wall that each picture column (or pixel) shows, and which part of it; arrays of one length.

    Attributes:
        depth: of the wall; its ``height`` is -1 where there is no wall.
        module: a number of the house and of the window's place along its front.
        size: texels along a module.
        texel: the first texel in `Scenery.facades` of the style, moved to the place along the module.
        shade: brightness, 256 for full.
        haze: packed colour of the air between, to add.
    """

    depth: npt.NDArray[np.float32]
    height: npt.NDArray[np.float32]
    module: npt.NDArray[np.int32]
    size: npt.NDArray[np.int32]
    texel: npt.NDArray[np.int32]
    shade: npt.NDArray[np.uint32]
    haze: npt.NDArray[np.uint32]

    def take(self, which: npt.NDArray[np.int64]) -> _Facades:
        return _Facades(
            self.depth[which],
            self.height[which],
            self.module[which],
            self.size[which],
            self.texel[which],
            self.shade[which],
            self.haze[which],
        )


def _facades(
    scenery: Scenery,
    walls: town_module.Walls,
    view: View,
    which: npt.NDArray[np.int64],
    depth: npt.NDArray[np.float32],
    ray_x: Floats,
    ray_y: Floats,
) -> _Facades:
    along_x = walls.along_x[which]
    house = walls.house[which]
    origin = scenery.town.house_origins[house]
    along = np.where(along_x, view.x + depth * ray_x - origin[:, 0], view.y + depth * ray_y - origin[:, 1])
    # Whole windows only: the module is stretched until the wall is a whole number of them.
    width = walls.end[which] - walls.start[which]
    count = np.maximum(np.round(width / FACADE_MODULE_M), 1)
    along = np.clip(along / width * count, 0, count - 0.001)
    far = depth > FAR_FACADE_M
    size = np.where(far, FACADE_TEXELS_FAR, FACADE_TEXELS)
    fine_texels = len(FACADE_RGB) * FACADE_KINDS * FACADE_TEXELS**2
    first = np.where(far, fine_texels, 0) + scenery.house_style[house] * FACADE_KINDS * size**2
    sun_x, sun_y = math.cos(scenery.light.sun_azimuth_rad), math.sin(scenery.light.sun_azimuth_rad)
    facing = walls.outward[which] * np.where(along_x, sun_y, sun_x)
    bright = np.where(facing > 0, 0.74 + 0.26 * facing, 0.62 + 0.08 * facing)
    clear = np.exp(-np.minimum(depth, 1e3) / 260.0)
    haze = (1 - clear)[:, None] * np.array(scenery.light.haze)
    return _Facades(
        depth=depth,
        height=np.where(depth < SIGHT_M * 1.5, walls.height[which], -1.0).astype(np.float32),
        module=(along.astype(np.int64) + house * 37).astype(np.int32),
        size=size.astype(np.int32),
        texel=(first + (along % 1.0 * size).astype(np.int64)).astype(np.int32),
        shade=(bright * clear * 256).astype(np.uint32),
        haze=pack(haze.astype(np.uint8)) & np.uint32(0x00FFFFFF),
    )


def _colours(scenery: Scenery, facades: _Facades, height: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Packed colours of the walls at ``height``, whose last axis goes along ``facades``."""
    floors = height * np.float32(1 / FACADE_MODULE_M)
    floor = floors.astype(np.int32)
    # A hash of house, floor and window decides what is behind it, the same from everywhere.
    kind = (facades.module * np.int32(40503) + floor * np.int32(30011) >> 4) & np.int32(3)
    kind = np.where(floor == 0, np.where(facades.module % 5 == 2, DOOR, SHOP).astype(np.int32), kind)
    kind[facades.height - height < ROOF_M] = ROOF
    kind *= facades.size
    floors -= floor
    floors *= facades.size
    # Below the ground and above the roof, where nothing of this is used, it must stay inside the table.
    kind += np.maximum(floors, 0).astype(np.int32)
    kind *= facades.size
    kind += facades.texel
    packed = scenery.facades[kind]
    # Red and blue at once, then green: two products instead of one a channel.
    red_blue = (packed & np.uint32(0x00FF00FF)) * facades.shade >> np.uint32(8) & np.uint32(0x00FF00FF)
    green = (packed >> np.uint32(8) & np.uint32(0xFF)) * facades.shade & np.uint32(0xFF00)
    return np.asarray(red_blue + green + facades.haze)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A picture in work, and what is needed to put things into it."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    lens: Lens
    view: View
    forward: tuple[float, float]
    horizon_row: int
    wall_depth: Floats

    def ahead_left(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Metres ahead of the camera and to its left."""
        dx, dy = x - self.view.x, y - self.view.y
        return (
            dx * self.forward[0] + dy * self.forward[1],
            dy * self.forward[0] - dx * self.forward[1],
        )

    def project(self, ahead: Floats, left: Floats, height: Floats) -> tuple[Floats, Floats]:
        scale = self.lens.focal_px / ahead
        return (
            self.lens.width / 2 - left * scale,
            self.horizon_row + (self.lens.mount_height_m - height) * scale,
        )


def _draw_things(stage: _Stage, scenery: Scenery, cars: Cars) -> None:
    trees = scenery.town.trees
    tree_ahead, tree_left = stage.ahead_left(trees[:, 0], trees[:, 1])
    car_ahead, car_left = stage.ahead_left(cars.x, cars.y)
    reach = 0.5 * stage.lens.width / stage.lens.focal_px
    things = [
        (float(tree_ahead[number]), "tree", int(number))
        for number in np.flatnonzero(
            (tree_ahead > 1.0) & (tree_ahead < 120) & (np.abs(tree_left) < tree_ahead * reach + 4)
        )
    ]
    things += [
        (float(car_ahead[number]), "car", int(number))
        for number in np.flatnonzero(
            (car_ahead > 1.5) & (car_ahead < 100) & (np.abs(car_left) < car_ahead * reach + 4)
        )
    ]
    for depth, what, number in sorted(things, reverse=True):
        if what == "tree":
            _draw_tree(stage, scenery, trees[number], depth, float(tree_left[number]))
        elif not _is_hidden(stage, depth, float(car_left[number])):
            _draw_car(stage, scenery.light, cars, number)


def _is_hidden(stage: _Stage, ahead: float, left: float) -> bool:
    """Whether a car there is behind walls, told quickly; `_hidden_parts` tells it exactly."""
    middle = stage.lens.width / 2 - left / ahead * stage.lens.focal_px
    half = CAR_LENGTH_M * stage.lens.focal_px / ahead
    walls = stage.wall_depth[max(int(middle - half), 0) : max(int(middle + half) + 1, 0)]
    return len(walls) == 0 or float(walls.max()) < ahead - CAR_LENGTH_M


def _draw_tree(stage: _Stage, scenery: Scenery, tree: Floats, ahead: float, left: float) -> None:
    height = float(tree[2])
    width = height * 160 / 224
    x, foot = stage.project(np.array(ahead), np.array(left), np.array(0.0))
    size = (int(width * stage.lens.focal_px / ahead), int(height * stage.lens.focal_px / ahead))
    if size[0] < 3:
        return
    first, last = int(x) - size[0] // 2, int(x) - size[0] // 2 + size[0]
    shown = np.arange(max(first, 0), min(last, stage.lens.width))
    shown = shown[stage.wall_depth[shown] > ahead]
    if len(shown) == 0:
        return
    # Only the part that is in the picture is scaled: a tree close by is far taller than the picture.
    top = int(foot) - size[1]
    rows = (max(top, 0), min(int(foot), stage.lens.height))
    columns = (int(shown[0]), int(shown[-1]) + 1)
    if rows[1] <= rows[0]:
        return
    picture = scenery.trees[int(tree[3])]
    scale_x, scale_y = picture.width / size[0], picture.height / size[1]
    part = picture.resize(
        (columns[1] - columns[0], rows[1] - rows[0]),
        Image.Resampling.BILINEAR,
        box=(
            (columns[0] - first) * scale_x,
            (rows[0] - top) * scale_y,
            min((columns[1] - first) * scale_x, picture.width),
            min((rows[1] - top) * scale_y, picture.height),
        ),
    )
    stage.image.paste(part, (columns[0], rows[0]), part)


# A car, in metres forward, left and up of its middle: 0-7 the body, 8-15 the cabin, 16-31 the lamps,
# 32-35 its shadow.
_HALF, _SIDE = CAR_LENGTH_M / 2, CAR_WIDTH_M / 2
_WAIST_M = 0.86
_CAR_POINTS = np.array(
    [(x * _HALF, y * _SIDE, z) for z in (0.28, _WAIST_M) for x in (-1, 1) for y in (-1, 1)]
    + [(x, y * 0.82, _WAIST_M) for x in (0.15 - _HALF, 1.0) for y in (-1, 1)]
    + [(x, y * 0.66, CAR_HEIGHT_M) for x in (-1.45, 0.25) for y in (-1, 1)]
    + [(x, y, z) for x in (-_HALF, _HALF) for y in (-0.86, -0.48, 0.48, 0.86) for z in (0.58, 0.76)]
    + [(x * (_HALF + 0.1), y * (_SIDE + 0.1), 0.0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
)
_CAR_SHADOW = slice(32, 36)
# Corners and material of each face, in the order in which a car can be painted without hiding itself.
_CAR_FACES = (
    ((0, 1, 5, 4), "body"),
    ((2, 3, 7, 6), "body"),
    ((0, 2, 6, 4), "body"),
    ((1, 3, 7, 5), "body"),
    ((4, 5, 7, 6), "body"),
    ((16, 17, 19, 18), "tail"),
    ((20, 21, 23, 22), "tail"),
    ((24, 25, 27, 26), "head"),
    ((28, 29, 31, 30), "head"),
    ((8, 9, 13, 12), "glass"),
    ((10, 11, 15, 14), "glass"),
    ((8, 10, 14, 12), "glass"),
    ((9, 11, 15, 13), "glass"),
    ((12, 13, 15, 14), "body"),
)


def _outward_normals() -> Floats:
    """(faces, 3), pointing away from the car's middle."""
    corners = _CAR_POINTS[np.array([face[:3] for face, _ in _CAR_FACES])]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    outward = np.einsum("ij,ij->i", normals, corners.mean(axis=1) - (0.0, 0.0, 0.7))
    return np.asarray(normals * np.sign(outward)[:, None])


_CAR_NORMALS = _outward_normals()
_CAR_ANCHORS = _CAR_POINTS[[face[0] for face, _ in _CAR_FACES]]
_WHEEL_ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_WHEELS = np.array(
    [
        (axle + 0.33 * math.cos(angle), side * (_SIDE + 0.01), 0.33 + 0.33 * math.sin(angle))
        for side in (-1, 1)
        for axle in (-1.35, 1.35)
        for angle in _WHEEL_ANGLES
    ]
)


def _draw_car(stage: _Stage, light: Light, cars: Cars, number: int) -> None:
    heading = float(cars.heading[number])
    cos, sin = math.cos(heading), math.sin(heading)
    points = np.concatenate([_CAR_POINTS, _WHEELS])
    ahead, left = stage.ahead_left(
        cars.x[number] + points[:, 0] * cos - points[:, 1] * sin,
        cars.y[number] + points[:, 0] * sin + points[:, 1] * cos,
    )
    if ahead.min() < 0.7:
        return
    columns, rows = stage.project(ahead, left, points[:, 2])
    hidden = _hidden_parts(stage, columns, rows, float(ahead.mean()))
    if hidden is None:
        return
    spots = list(zip(columns.tolist(), rows.tolist(), strict=True))
    dx, dy = stage.view.x - float(cars.x[number]), stage.view.y - float(cars.y[number])
    eye = np.array([dx * cos + dy * sin, dy * cos - dx * sin, stage.lens.mount_height_m])
    visible = ((eye - _CAR_ANCHORS) * _CAR_NORMALS).sum(axis=1) > 0
    sun = light.sun_azimuth_rad - heading
    bright = 0.72 + 0.3 * np.maximum(_CAR_NORMALS @ (math.cos(sun), math.sin(sun), 0.9), 0.0)
    colours = {
        "body": PAINTS[int(cars.colour[number])],
        "glass": (44, 52, 62),
        "head": (240, 240, 226),
        "tail": (255, 60, 40) if cars.braking[number] else (150, 16, 18),
    }
    stage.draw.polygon(spots[_CAR_SHADOW], fill=(40, 40, 44))
    for place, (corners, material) in enumerate(_CAR_FACES):
        if visible[place]:
            shaded = np.minimum(np.array(colours[material]) * bright[place] * light.tint, 255)
            red, green, blue = shaded.astype(int).tolist()
            stage.draw.polygon([spots[corner] for corner in corners], fill=(red, green, blue))
        if place == 4:
            _draw_wheels(stage, spots[len(_CAR_POINTS) :], eye_left=float(eye[1]))
    for corner, saved in hidden:
        stage.image.paste(saved, corner)


def _draw_wheels(stage: _Stage, spots: list[tuple[float, float]], *, eye_left: float) -> None:
    """The two wheels of the side that is seen, if one is."""
    if abs(eye_left) > _SIDE:
        size = len(_WHEEL_ANGLES)
        first = 2 * size if eye_left > 0 else 0
        for start in (first, first + size):
            stage.draw.polygon(spots[start : start + size], fill=(28, 28, 30))


def _hidden_parts(
    stage: _Stage, columns: Floats, rows: Floats, ahead: float
) -> list[tuple[tuple[int, int], Image.Image]] | None:
    """Pieces of the picture to put back after drawing, for walls are nearer there; None: nothing shows."""
    shown = np.arange(max(int(columns.min()), 0), min(int(columns.max()) + 2, stage.lens.width))
    behind = stage.wall_depth[shown] < ahead
    if behind.all():
        return None
    top, bottom = max(int(rows.min()), 0), min(int(rows.max()) + 2, stage.lens.height)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], behind, [False]]).astype(np.int8)))
    return [
        ((int(shown[0] + first), top), stage.image.crop((shown[0] + first, top, shown[0] + last, bottom)))
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def _draw_bonnet(stage: _Stage) -> None:
    """The front edge of our own car."""
    width, height = stage.lens.width, stage.lens.height
    lift = height * 0.075
    stage.draw.ellipse((-width * 0.1, height - lift, width * 1.1, height + lift * 5), fill=(38, 44, 54))
    stage.draw.arc(
        (-width * 0.1, height - lift, width * 1.1, height + lift * 5), 180, 360, fill=(92, 102, 116), width=2
    )
