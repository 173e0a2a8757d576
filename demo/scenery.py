"""The surfaces of the town, painted once: ground, house fronts, sky, trees.

All are tables of colours that `demo.camera` looks up, so that a frame costs a few array operations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from demo import town as town_module
from demo.town import CURB_M, FACADE_M, LANE_M, STREETS_X, STREETS_Y, Town

MAP_WEST_M, MAP_SOUTH_M, MAP_EAST_M, MAP_NORTH_M = -150.0, -110.0, 270.0, 190.0
TEXEL_M = 0.08
FAR_TEXELS = 4
"""Beyond `FAR_GROUND_M` the ground is looked up in a map that is this much coarser, or it would flicker."""
FAR_GROUND_M = 32.0
SIGHT_M = 170.0

GRASS, ASPHALT, PAINT, SIDEWALK, CURB, PATCH, YARD, IRON = range(8)
GROUND_RGB = (
    (104, 122, 62),
    (98, 98, 102),
    (226, 226, 220),
    (158, 152, 142),
    (188, 184, 176),
    (82, 82, 86),
    (140, 134, 120),
    (58, 56, 56),
)
SHADOW = 128
"""Bit of a ground texel that lies in a house's shadow; the low four bits are grain, three the material."""

FACADE_TEXELS = 64
FACADE_TEXELS_FAR = 16
FAR_FACADE_M = 38.0
FACADE_MODULE_M = 3.0
ROOF_M = 2.4
WINDOW_DARK, WINDOW_CURTAIN, WINDOW_BLIND, WINDOW_LIT, SHOP, DOOR, ROOF = range(7)
FACADE_KINDS = 7
FACADE_RGB = (
    (214, 190, 150),
    (200, 120, 90),
    (222, 214, 198),
    (168, 84, 66),
    (182, 186, 176),
    (232, 206, 128),
    (150, 160, 176),
    (196, 150, 128),
    (176, 168, 150),
    (226, 226, 222),
    (144, 104, 84),
    (190, 178, 190),
)
ROOF_RGB = ((120, 62, 48), (86, 80, 82), (138, 84, 62), (98, 74, 66))
PAINTS = (
    (196, 198, 202),
    (32, 34, 40),
    (168, 28, 30),
    (238, 238, 236),
    (30, 62, 120),
    (92, 96, 100),
    (44, 88, 66),
    (206, 168, 62),
)
SKY_COLUMNS, SKY_ROWS, SKY_TANGENT = 2048, 256, 0.75


@dataclass(frozen=True, slots=True)
class Light:
    """The time of day.

    Attributes:
        sun_azimuth_rad: where the sun stands, counter-clockwise from east.
        sun_elevation_rad: above the horizon; sets how long shadows are.
        tint: multiplies everything (red, green, blue).
        zenith, haze: sky colours at the top and at the horizon.
    """

    sun_azimuth_rad: float
    sun_elevation_rad: float
    tint: tuple[float, float, float]
    zenith: tuple[int, int, int]
    haze: tuple[int, int, int]


MORNING = Light(math.radians(-38), math.radians(38), (1.0, 1.0, 0.98), (84, 138, 204), (206, 218, 228))
EVENING = Light(math.radians(205), math.radians(22), (1.02, 0.88, 0.72), (74, 98, 158), (242, 204, 158))


@dataclass(frozen=True, slots=True)
class Scenery:
    """The town's surfaces, painted once.

    Attributes:
        ground: (rows from south, columns from west) of palette numbers.
        ground_far: the same, coarser, as packed colours.
        palette: packed colour of each ground palette number.
        facades: packed texels of all house fronts, fine then coarse; see `_facade_index`.
        sky: (SKY_ROWS from the horizon up, SKY_COLUMNS) packed colours; column 0 is east.
        trees: one picture a kind.
        house_style: number of each house's front.
    """

    town: Town
    light: Light
    ground: npt.NDArray[np.uint8]
    ground_far: npt.NDArray[np.uint32]
    palette: npt.NDArray[np.uint32]
    facades: npt.NDArray[np.uint32]
    sky: npt.NDArray[np.uint32]
    trees: tuple[Image.Image, ...]
    house_style: npt.NDArray[np.int64]
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont


def paint(town: Town, light: Light) -> Scenery:
    """All surfaces of ``town`` in ``light``; about half a second."""
    rng = np.random.default_rng(town_module.SEED + 1)
    ground = _paint_ground(town, light, rng)
    palette = pack(_ground_palette(light))
    height, width = ground.shape
    coarse = Image.frombuffer("RGBX", (width, height), palette[ground]).convert("RGB").reduce(FAR_TEXELS)
    return Scenery(
        town=town,
        light=light,
        ground=ground,
        ground_far=pack(np.asarray(coarse)),
        palette=palette,
        facades=_paint_facades(light, rng),
        sky=_paint_sky(light, rng),
        trees=tuple(_paint_tree(light, rng, kind) for kind in range(3)),
        house_style=rng.integers(0, len(FACADE_RGB), len(town.house_origins)),
        font=ImageFont.load_default(13),
    )


def pack(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """(..., 3) bytes as (...) words, which numpy gathers in one go."""
    padded = np.full((*rgb.shape[:-1], 4), 255, np.uint8)
    padded[..., :3] = rgb
    return padded.view(np.uint32)[..., 0]


def _tinted(rgb: npt.ArrayLike, light: Light) -> npt.NDArray[np.uint8]:
    return np.clip(np.asarray(rgb, float) * light.tint, 0, 255).astype(np.uint8)


def _ground_palette(light: Light) -> npt.NDArray[np.uint8]:
    """(256, 3): material times grain, in the sun and in shadow."""
    colours = np.array(GROUND_RGB, float)
    grain = 1.0 + (np.arange(16) - 7.5) / 7.5 * 0.16
    lit = colours[:, None, :] * grain[None, :, None]
    shaded = lit * np.array([0.5, 0.54, 0.62])
    return _tinted(np.concatenate([lit.reshape(128, 3), shaded.reshape(128, 3)]), light)


def _paint_ground(town: Town, light: Light, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The map of the ground, with lane marks, crossings, patches and the houses' shadows."""
    width = int((MAP_EAST_M - MAP_WEST_M) / TEXEL_M)
    height = int((MAP_NORTH_M - MAP_SOUTH_M) / TEXEL_M)
    image = Image.new("L", (width, height), YARD)
    draw = ImageDraw.Draw(image)

    def box(x0: float, y0: float, x1: float, y1: float, what: int) -> None:
        draw.rectangle(
            (
                (x0 - MAP_WEST_M) / TEXEL_M,
                (y0 - MAP_SOUTH_M) / TEXEL_M,
                (x1 - MAP_WEST_M) / TEXEL_M - 1,
                (y1 - MAP_SOUTH_M) / TEXEL_M - 1,
            ),
            fill=what,
        )

    for half, what in ((FACADE_M, SIDEWALK), (CURB_M + 0.15, CURB), (CURB_M, ASPHALT)):
        for x in STREETS_X:
            box(x - half, MAP_SOUTH_M, x + half, MAP_NORTH_M, what)
        for y in STREETS_Y:
            box(MAP_WEST_M, y - half, MAP_EAST_M, y + half, what)
    # The inside of a block, past the houses, is lawn; seen through the gaps.
    edges_x, edges_y = (-240.0, *STREETS_X, 360.0), (-160.0, *STREETS_Y, 240.0)
    for west, east in itertools.pairwise(edges_x):
        for south, north in itertools.pairwise(edges_y):
            box(west + FACADE_M + 3, south + FACADE_M + 3, east - FACADE_M - 3, north - FACADE_M - 3, GRASS)
    for x, y in town.trees[:, :2]:
        box(x - 0.6, y - 0.6, x + 0.6, y + 0.6, GRASS)
    for _ in range(420):
        x, y = rng.uniform(MAP_WEST_M, MAP_EAST_M), rng.uniform(MAP_SOUTH_M, MAP_NORTH_M)
        if _on_street(x, y, LANE_M - 0.6):
            if rng.random() < 0.3:
                box(x - 0.3, y - 0.3, x + 0.3, y + 0.3, IRON)
            else:
                long, short = rng.uniform(1.5, 7.0), rng.uniform(0.4, 1.3)
                along_x = min(abs(y - street) for street in STREETS_Y) < LANE_M
                box(x, y, x + (long if along_x else short), y + (short if along_x else long), PATCH)
    _paint_marks(box)
    shadows = _paint_shadows(town, light, (width, height))
    tile = np.clip(rng.normal(7.5, 2.6, (375, 375)), 0, 15).astype(np.uint8)
    blotches = Image.fromarray(rng.integers(0, 255, (24, 24), np.uint8)).resize(
        (375, 375), Image.Resampling.BICUBIC
    )
    tile = np.clip(tile + (np.asarray(blotches, np.int16) - 128) // 40, 0, 15).astype(np.uint8)
    grain = np.tile(tile, (height // 375 + 1, width // 375 + 1))[:height, :width]
    painted: npt.NDArray[np.uint8] = np.asarray(image) * 16 + grain + shadows
    return painted


def _on_street(x: float, y: float, half_m: float) -> bool:
    return (
        min(abs(x - street) for street in STREETS_X) < half_m
        or min(abs(y - street) for street in STREETS_Y) < half_m
    )


def _paint_marks(box: Callable[[float, float, float, float, int], None]) -> None:
    """Middle lines, parking lanes, stop lines and zebra crossings, none of them inside a crossing."""
    clear = CURB_M + 5.5
    for along_x, streets, crossings in ((True, STREETS_Y, STREETS_X), (False, STREETS_X, STREETS_Y)):
        low, high = (MAP_WEST_M, MAP_EAST_M) if along_x else (MAP_SOUTH_M, MAP_NORTH_M)

        def mark(
            street: float, a: float, b: float, c: float, d: float, what: int, along_x: bool = along_x
        ) -> None:
            """``a`` to ``b`` along the street, ``c`` to ``d`` across it."""
            if along_x:
                box(a, street + c, b, street + d, what)
            else:
                box(street + c, a, street + d, b, what)

        for street in streets:
            for place in np.arange(low, high, 6.0):
                if min(abs(place + 1.5 - crossing) for crossing in crossings) > clear + 2:
                    mark(street, place, place + 3.0, -0.08, 0.08, PAINT)
            for place in np.arange(low, high, 6.2):
                if min(abs(place - crossing) for crossing in crossings) > clear + 4:
                    for side in (-1, 1):
                        ends = sorted((side * LANE_M, side * CURB_M))
                        mark(street, place - 0.05, place + 0.05, ends[0], ends[1], PAINT)
                        mark(street, place, place + 1.0, side * LANE_M - 0.05, side * LANE_M + 0.05, PAINT)
            for crossing in crossings:
                for side in (-1, 1):
                    near, far = sorted((crossing + side * (CURB_M + 0.8), crossing + side * (CURB_M + 3.8)))
                    for stripe in np.arange(-CURB_M + 0.4, CURB_M - 0.4, 1.0):
                        mark(street, near, far, stripe, stripe + 0.5, PAINT)
                    stop = crossing + side * (CURB_M + 4.8)
                    lane = (-LANE_M, -0.1) if (side < 0) == along_x else (0.1, LANE_M)
                    mark(street, stop - 0.2, stop + 0.2, lane[0], lane[1], PAINT)


def _paint_shadows(town: Town, light: Light, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """`SHADOW` where a house or a tree keeps the sun off the ground."""
    image = Image.new("L", size, 0)
    draw = ImageDraw.Draw(image)
    away_x, away_y = -math.cos(light.sun_azimuth_rad), -math.sin(light.sun_azimuth_rad)
    stretch = 1.0 / math.tan(light.sun_elevation_rad)

    def texel(x: float, y: float) -> tuple[float, float]:
        return (x - MAP_WEST_M) / TEXEL_M, (y - MAP_SOUTH_M) / TEXEL_M

    walls = town.walls
    for number in range(len(walls.at)):
        # The shadow of a box is the union of what each of its walls sweeps towards the shadow's end.
        reach = walls.height[number] * stretch
        a, b = walls.start[number], walls.end[number]
        at = walls.at[number]
        ends = [(a, at), (b, at)] if walls.along_x[number] else [(at, a), (at, b)]
        moved = [(x + away_x * reach, y + away_y * reach) for x, y in ends]
        draw.polygon([texel(*ends[0]), texel(*ends[1]), texel(*moved[1]), texel(*moved[0])], fill=SHADOW)
    for x, y, height, _kind in town.trees:
        middle_x, middle_y = x + away_x * height * 0.6 * stretch, y + away_y * height * 0.6 * stretch
        radius = height * 0.3
        draw.ellipse(
            (*texel(middle_x - radius, middle_y - radius), *texel(middle_x + radius, middle_y + radius)),
            fill=SHADOW,
        )
    return np.asarray(image)


def _paint_facades(light: Light, rng: np.random.Generator) -> npt.NDArray[np.uint32]:
    """Every style and kind of facade module, fine ones first, then the same coarse."""
    fine, coarse = [], []
    for style, colour in enumerate(FACADE_RGB):
        for kind in range(FACADE_KINDS):
            module = _paint_module(colour, style, kind, rng)
            tinted = Image.fromarray(_tinted(np.asarray(module), light))
            fine.append(np.asarray(tinted))
            coarse.append(np.asarray(tinted.reduce(FACADE_TEXELS // FACADE_TEXELS_FAR)))
    return np.concatenate([pack(np.stack(fine)).ravel(), pack(np.stack(coarse)).ravel()])


def _paint_module(
    colour: tuple[int, int, int], style: int, kind: int, rng: np.random.Generator
) -> Image.Image:
    """One 3 m x 3 m piece of a front; row 0 is its bottom."""
    size = FACADE_TEXELS
    base = ROOF_RGB[style % 4] if kind == ROOF else colour
    grain = rng.normal(0, 5, (size, size, 1)) + rng.normal(0, 3, (size, 1, 1))
    image = Image.fromarray(np.clip(np.array(base) + grain, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    dark = tuple(int(channel * 0.72) for channel in base)
    frame = (238, 236, 230) if style % 3 else (84, 66, 52)
    if kind == ROOF:
        for row in range(0, size, 6):
            draw.line((0, row, size, row), fill=dark)
            for column in range((row // 6 % 2) * 4, size, 8):
                draw.line((column, row, column, row + 6), fill=dark)
        return image
    if style in (1, 3, 10):
        for row in range(0, size, 4):
            draw.line((0, row, size, row), fill=tuple(int(channel * 0.9) for channel in base))
    draw.line((0, size - 2, size, size - 2), fill=dark, width=2)
    if kind in (WINDOW_DARK, WINDOW_CURTAIN, WINDOW_BLIND, WINDOW_LIT):
        glass = (250, 214, 132) if kind == WINDOW_LIT else (52, 64, 80)
        draw.rectangle((17, 17, 47, 54), fill=frame)
        draw.rectangle((20, 20, 44, 51), fill=glass)
        draw.polygon([(20, 34), (36, 51), (44, 51), (20, 26)], fill=tuple(min(255, g + 26) for g in glass))
        if kind == WINDOW_CURTAIN:
            draw.rectangle((20, 20, 26, 51), fill=(214, 208, 196))
            draw.rectangle((38, 20, 44, 51), fill=(214, 208, 196))
        if kind == WINDOW_BLIND:
            draw.rectangle((20, 36, 44, 51), fill=(176, 168, 150))
        draw.line((32, 20, 32, 51), fill=frame, width=2)
        draw.line((20, 40, 44, 40), fill=frame, width=2)
        draw.rectangle((14, 13, 50, 16), fill=dark)
    elif kind == SHOP:
        draw.rectangle((4, 8, 60, 46), fill=(40, 42, 46))
        draw.rectangle((7, 11, 57, 43), fill=(118, 138, 146))
        draw.polygon([(10, 11), (30, 43), (44, 43), (24, 11)], fill=(156, 176, 184))
        awning = ((170, 46, 40), (40, 84, 120), (54, 104, 64), (196, 156, 60))[style % 4]
        draw.rectangle((2, 47, 62, 58), fill=awning)
    elif kind == DOOR:
        draw.rectangle((20, 0, 44, 48), fill=frame)
        draw.rectangle((23, 0, 41, 45), fill=((92, 54, 34), (40, 66, 56), (108, 30, 30))[style % 3])
        draw.rectangle((26, 28, 38, 40), fill=(60, 72, 84))
    return image


def _paint_sky(light: Light, rng: np.random.Generator) -> npt.NDArray[np.uint32]:
    """Sky with clouds, and hills that tell one heading from another."""
    up = np.linspace(0, 1, SKY_ROWS)[:, None, None]
    zenith, haze = np.array(light.zenith, float), np.array(light.haze, float)
    colours = haze + (zenith - haze) * np.clip(up * 1.25, 0, 1) ** 0.7
    colours = np.repeat(colours, SKY_COLUMNS, axis=1)
    clouds = np.zeros((SKY_ROWS, SKY_COLUMNS))
    for octave, weight in ((8, 0.5), (16, 0.27), (32, 0.15), (64, 0.08)):
        knots = rng.uniform(0, 255, (octave, octave * 2)).astype(np.uint8)
        ring = Image.fromarray(np.concatenate([knots, knots[:, :4]], axis=1))
        scale = SKY_COLUMNS // (octave * 2)
        big = ring.resize(((octave * 2 + 4) * scale, SKY_ROWS), Image.Resampling.BICUBIC)
        clouds += np.asarray(big, float)[:, scale * 2 : scale * 2 + SKY_COLUMNS] / 255 * weight
    cover = np.clip((clouds - 0.47) * 5.0, 0, 1)[:, :, None] * np.clip(up * 5, 0, 1) * 0.9
    bright = np.minimum(haze * 1.1 + 12, 255)
    colours += (bright * (0.86 + 0.14 * up) - colours) * cover
    azimuth = np.linspace(0, 2 * np.pi, SKY_COLUMNS, endpoint=False)
    for number, (tallness, tone) in enumerate(((0.085, 0.78), (0.05, 0.6))):
        ridge = sum(
            np.sin(azimuth * wave + rng.uniform(0, 6.28)) / wave**0.5
            for wave in (2, 3, 5, 9 + number, 17, 31)
        )
        top = (tallness * (0.55 + 0.22 * ridge)) / SKY_TANGENT * SKY_ROWS
        hill = (np.array([92, 116, 112]) * (1 - tone) + haze * tone) * (1.0 - 0.05 * number)
        below = np.arange(SKY_ROWS)[:, None] < top[None, :]
        colours[below] = hill
    return pack(np.clip(colours, 0, 255).astype(np.uint8))


def _paint_tree(light: Light, rng: np.random.Generator, kind: int) -> Image.Image:
    """A tree on nothing: 160 x 224, its foot in the middle of the lower edge."""
    image = Image.new("RGBA", (160, 224), (70, 90, 40, 0))
    draw = ImageDraw.Draw(image)
    draw.polygon([(73, 223), (77, 120), (84, 120), (88, 223)], fill=(82, 62, 46, 255))
    leaf = np.array(((84, 118, 48), (70, 104, 54), (108, 128, 52))[kind], float)
    # Leaves further up and to the light are painted later and brighter.
    blobs = 340
    radius = rng.uniform(0, 1, blobs) ** 0.6
    angle = rng.uniform(0, 2 * np.pi, blobs)
    x = 80 + np.cos(angle) * radius * (62 if kind != 1 else 44)
    y = 84 - np.sin(angle) * radius * (66 if kind != 1 else 78)
    for place in np.argsort(-y + rng.normal(0, 14, blobs)):
        tone = 0.62 + 0.5 * (150 - y[place]) / 150 + rng.normal(0, 0.1)
        size = float(rng.uniform(5, 13))
        red, green, blue = np.clip(leaf * tone, 0, 255).astype(int).tolist()
        spot = (x[place] - size, y[place] - size * 0.8, x[place] + size, y[place] + size * 0.8)
        draw.ellipse(spot, fill=(red, green, blue, 255))
    image = image.filter(ImageFilter.GaussianBlur(0.8))
    tinted = np.asarray(image).copy()
    tinted[..., :3] = _tinted(tinted[..., :3], light)
    return Image.fromarray(tinted)
