"""A small town to drive through: streets, houses, trees, cars, and what rays from a sensor hit in it.

Metres, east is x, north is y; the middle of the first crossing is the origin. Traffic keeps to the right.
Everything follows from constants and a seed, so two calls make the same town.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

SEED = 20260512
STREETS_X = (-120.0, 0.0, 120.0, 240.0)
STREETS_Y = (-80.0, 0.0, 80.0, 160.0)
LANE_M = 3.5
PARKING_M = 2.2
SIDEWALK_M = 3.0
CURB_M = LANE_M + PARKING_M
FACADE_M = CURB_M + SIDEWALK_M
FAR_M = 1e6
"""Distance of what no ray hits."""

CAR_LENGTH_M, CAR_WIDTH_M, CAR_HEIGHT_M = 4.4, 1.8, 1.45


@dataclass(frozen=True, slots=True)
class Path:
    """A closed path, sampled every decimetre: place, heading (unwrapped) and curvature by distance."""

    distance_m: Floats
    x: Floats
    y: Floats
    heading: Floats
    curvature: Floats
    length_m: float

    def at(self, distance_m: Floats) -> tuple[Floats, Floats, Floats]:
        """x, y and heading; distances wrap around the path, the heading turns on with each lap."""
        laps, rest = np.divmod(distance_m, self.length_m)
        turn = self.heading[-1] - self.heading[0]
        return (
            np.interp(rest, self.distance_m, self.x),
            np.interp(rest, self.distance_m, self.y),
            np.interp(rest, self.distance_m, self.heading) + laps * turn,
        )


def block_loop(*, outward_m: float, corner_m: float) -> Path:
    """The way around the town's middle block, counter-clockwise, from the middle of its south side.

    ``outward_m`` is the distance from the streets' middle lines, ``corner_m`` the turning radius.
    """
    x0, x1 = STREETS_X[1] - outward_m, STREETS_X[2] + outward_m
    y0, y1 = STREETS_Y[1] - outward_m, STREETS_Y[2] + outward_m
    corners = [(x1, y0, -90.0), (x1, y1, 0.0), (x0, y1, 90.0), (x0, y0, 180.0)]
    points = [np.array([[(x0 + x1) / 2, y0]])]
    for corner_x, corner_y, start_deg in corners:
        middle_x = corner_x - corner_m if corner_x == x1 else corner_x + corner_m
        middle_y = corner_y - corner_m if corner_y == y1 else corner_y + corner_m
        angle = np.radians(np.linspace(start_deg, start_deg + 90.0, 60))
        points.append(
            np.column_stack([middle_x + corner_m * np.cos(angle), middle_y + corner_m * np.sin(angle)])
        )
    points.append(points[0])
    rough = np.concatenate(points)
    x, y = _even(rough[:, 0], rough[:, 1])
    # A wheel is turned over some metres, not at once: without this the yaw rate would jump.
    kernel = np.exp(-0.5 * (np.arange(-90, 91) / 30.0) ** 2)
    x, y = (_smooth_periodic(values, kernel / kernel.sum()) for values in (x, y))
    x, y = _even(np.append(x, x[0]), np.append(y, y[0]))
    x, y = np.append(x, x[0]), np.append(y, y[0])
    steps = np.hypot(np.diff(x), np.diff(y))
    distance = np.concatenate([[0.0], np.cumsum(steps)])
    # Central differences over the seam: the last point is the first.
    ahead_x, ahead_y = np.append(x[1:], x[1]), np.append(y[1:], y[1])
    behind_x, behind_y = np.append(x[-2], x[:-1]), np.append(y[-2], y[:-1])
    heading = np.unwrap(np.arctan2(ahead_y - behind_y, ahead_x - behind_x))
    curvature = np.gradient(heading, distance)
    return Path(distance, x, y, heading, curvature, float(distance[-1]))


def _even(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Points a decimetre apart along a closed line; the last point, which is the first, is left out."""
    distance = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    wanted = np.linspace(0.0, distance[-1], int(distance[-1] * 10), endpoint=False)
    return np.interp(wanted, distance, x), np.interp(wanted, distance, y)


def _smooth_periodic(values: Floats, kernel: Floats) -> Floats:
    half = len(kernel) // 2
    return np.convolve(np.concatenate([values[-half:], values, values[:half]]), kernel, "valid")


@dataclass(frozen=True, slots=True)
class Walls:
    """House fronts: upright, along x or along y. Column arrays, one entry a wall.

    Attributes:
        along_x: the wall runs along x (its y is ``at``); otherwise along y (its x is ``at``).
        start, end: where it begins and ends along its axis.
        outward: which side is outside: +1 or -1 along the other axis.
        height: metres.
        house: number of the house it belongs to.
    """

    along_x: npt.NDArray[np.bool_]
    at: Floats
    start: Floats
    end: Floats
    outward: Floats
    height: Floats
    house: npt.NDArray[np.int64]

    def take(self, which: npt.NDArray[np.int64]) -> Walls:
        return Walls(
            self.along_x[which],
            self.at[which],
            self.start[which],
            self.end[which],
            self.outward[which],
            self.height[which],
            self.house[which],
        )


@dataclass(frozen=True, slots=True)
class Cars:
    """Cars at one moment. Column arrays; ``colour`` is a number that a renderer maps to paint."""

    x: Floats
    y: Floats
    heading: Floats
    colour: npt.NDArray[np.int64]
    braking: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Town:
    """What stands in the town; see `build`."""

    walls: Walls
    house_origins: Floats
    """(houses, 2): the corner from which a wall's pattern of windows is counted."""
    trees: Floats
    """(trees, 4): x, y, height and kind (0, 1, 2)."""
    parked: Cars
    ours: Path
    oncoming: Path


def build() -> Town:
    """The town, always the same."""
    rng = np.random.default_rng(SEED)
    walls: list[tuple[bool, float, float, float, float, float, int]] = []
    origins: list[tuple[float, float]] = []

    def house(x0: float, y0: float, x1: float, y1: float, height: float) -> None:
        number = len(origins)
        origins.append((x0, y0))
        walls.append((True, y0, x0, x1, -1.0, height, number))
        walls.append((True, y1, x0, x1, 1.0, height, number))
        walls.append((False, x0, y0, y1, -1.0, height, number))
        walls.append((False, x1, y0, y1, 1.0, height, number))

    trees: list[tuple[float, float, float, int]] = []
    edges_x = (STREETS_X[0] - 120, *STREETS_X, STREETS_X[-1] + 120)
    edges_y = (STREETS_Y[0] - 80, *STREETS_Y, STREETS_Y[-1] + 80)
    for west, east in itertools.pairwise(edges_x):
        for south, north in itertools.pairwise(edges_y):
            x0, x1 = west + FACADE_M, east - FACADE_M
            y0, y1 = south + FACADE_M, north - FACADE_M
            depth = 11.0
            for side in ("south", "north", "west", "east"):
                level = side in ("south", "north")
                # The rows along x own the corners, so that no two houses stand in each other.
                place, end = (x0, x1) if level else (y0 + depth + 1, y1 - depth - 1)
                while end - place > 7.0:
                    width = min(float(rng.uniform(9.0, 19.0)), end - place)
                    if end - place - width < 7.0:
                        width = end - place
                    height = 3.0 * int(rng.integers(2, 6)) + 2.6
                    setback = float(rng.choice([0.0, 0.0, 0.0, 1.5, 2.5]))
                    if rng.random() < 0.1:
                        spot = place + width / 2
                        trees.append(_garden_tree(rng, side, spot, (x0, y0, x1, y1)))
                    elif side == "south":
                        house(place, y0 + setback, place + width, y0 + depth, height)
                    elif side == "north":
                        house(place, y1 - depth, place + width, y1 - setback, height)
                    elif side == "west":
                        house(x0 + setback, place, x0 + depth, place + width, height)
                    else:
                        house(x1 - depth, place, x1 - setback, place + width, height)
                    place += width
            trees += _street_trees(rng, west, south, east, north)
    columns = list(zip(*walls, strict=True))
    return Town(
        walls=Walls(
            along_x=np.array(columns[0], bool),
            at=np.array(columns[1], float),
            start=np.array(columns[2], float),
            end=np.array(columns[3], float),
            outward=np.array(columns[4], float),
            height=np.array(columns[5], float),
            house=np.array(columns[6], np.int64),
        ),
        house_origins=np.array(origins),
        trees=np.array(trees, float),
        parked=_parked(rng),
        ours=block_loop(outward_m=LANE_M / 2, corner_m=11.0),
        oncoming=block_loop(outward_m=-LANE_M / 2, corner_m=7.0),
    )


def _garden_tree(
    rng: np.random.Generator, side: str, spot: float, lot: tuple[float, float, float, float]
) -> tuple[float, float, float, int]:
    x0, y0, x1, y1 = lot
    places = {
        "south": (spot, y0 + 4),
        "north": (spot, y1 - 4),
        "west": (x0 + 4, spot),
        "east": (x1 - 4, spot),
    }
    return (*places[side], float(rng.uniform(7, 10)), int(rng.integers(3)))


def _street_trees(
    rng: np.random.Generator, west: float, south: float, east: float, north: float
) -> list[tuple[float, float, float, int]]:
    """Trees along the curbs of a block, some left out."""
    inset = CURB_M + 0.8
    trees = []
    for x in np.arange(west + 20, east - 19, 14.0):
        trees += [(x, south + inset), (x, north - inset)]
    for y in np.arange(south + 20, north - 19, 14.0):
        trees += [(west + inset, y), (east - inset, y)]
    return [
        (float(x), float(y), float(rng.uniform(4.5, 7.5)), int(rng.integers(3)))
        for x, y in trees
        if rng.random() < 0.6
    ]


def _parked(rng: np.random.Generator) -> Cars:
    """Cars in the parking lanes of the streets around the middle block."""
    places: list[tuple[float, float, float]] = []
    beside = LANE_M + PARKING_M / 2
    for street in STREETS_Y[1:3]:
        for x in np.arange(STREETS_X[0] + 18, STREETS_X[-1] - 18, 6.2):
            if min(abs(x - crossing) for crossing in STREETS_X) > 15:
                places += [(x, street - beside, 0.0), (x, street + beside, np.pi)]
    for street in STREETS_X[1:3]:
        for y in np.arange(STREETS_Y[0] + 18, STREETS_Y[-1] - 18, 6.2):
            if min(abs(y - crossing) for crossing in STREETS_Y) > 15:
                places += [(street + beside, y, np.pi / 2), (street - beside, y, -np.pi / 2)]
    taken = [place for place in places if rng.random() < 0.6]
    x, y, heading = (np.array(column) for column in zip(*taken, strict=True))
    count = len(taken)
    return Cars(
        x + rng.uniform(-0.4, 0.4, count) * np.cos(heading),
        y + rng.uniform(-0.4, 0.4, count) * np.sin(heading),
        heading + rng.normal(0, 0.015, count),
        rng.integers(0, 8, count),
        np.zeros(count, bool),
    )


ONCOMING_CARS = ((0.0, 9.0), (58.0, 9.0), (131.0, 9.0), (214.0, 9.0), (265.0, 9.0), (330.0, 9.0))
"""Where each oncoming car is at time 0 (metres along its path), and its speed (m/s)."""


def cars_at(town: Town, time_s: float, *, lead_distance_m: float, lead_braking: bool) -> Cars:
    """Every car in the town at a moment: parked, oncoming, and the one that we follow."""
    oncoming = np.array([start + speed * time_s for start, speed in ONCOMING_CARS])
    # They drive the path the other way round.
    x, y, heading = town.oncoming.at(-oncoming)
    lead_x, lead_y, lead_heading = town.ours.at(np.array([lead_distance_m]))
    return Cars(
        np.concatenate([town.parked.x, x, lead_x]),
        np.concatenate([town.parked.y, y, lead_y]),
        np.concatenate([town.parked.heading, heading + np.pi, lead_heading]),
        np.concatenate([town.parked.colour, np.arange(len(oncoming)) % 8, [2]]),
        np.concatenate([town.parked.braking, np.zeros(len(oncoming), bool), [lead_braking]]),
    )


def walls_in_sight(walls: Walls, x: float, y: float, *, range_m: float) -> Walls:
    """The walls that turn their outside to (x, y) and come nearer than ``range_m``."""
    across = np.where(walls.along_x, y, x) - walls.at
    along = np.where(walls.along_x, x, y)
    gap = np.maximum(np.maximum(walls.start - along, along - walls.end), 0.0)
    seen = (across * walls.outward > 0) & (np.hypot(across, gap) < range_m)
    return walls.take(np.flatnonzero(seen))


def cast(
    walls: Walls, origin_x: Floats | float, origin_y: Floats | float, ray_x: Floats, ray_y: Floats
) -> npt.NDArray[np.float32]:
    """How far each ray goes to each wall, in units of the ray's length: (walls, rays), `FAR_M` for never."""
    count = len(ray_x)
    x, y, turn_x, turn_y = (
        np.broadcast_to(np.asarray(part, np.float32), count) for part in (origin_x, origin_y, ray_x, ray_y)
    )
    steps = np.empty((len(walls.at), count), np.float32)
    for along_x in (True, False):
        which = walls.along_x == along_x
        from_along, from_across = (x, y) if along_x else (y, x)
        ray_along, ray_across = (turn_x, turn_y) if along_x else (turn_y, turn_x)
        at, start, end = (part[which, None].astype(np.float32) for part in (walls.at, walls.start, walls.end))
        with np.errstate(divide="ignore", invalid="ignore"):
            some = (at - from_across) / ray_across
            hit = from_along + some * ray_along
            some[~((some > 0.05) & (hit >= start) & (hit <= end))] = FAR_M
        steps[which] = some
    return steps
