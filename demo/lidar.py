"""A spinning lidar on the car's roof: sixteen rings that hit ground, houses, trees and cars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo import town as town_module
from demo.town import CAR_HEIGHT_M, CAR_LENGTH_M, CAR_WIDTH_M, FAR_M, Cars, Floats, Town

ELEVATIONS_RAD = np.radians(np.linspace(-15.0, 15.0, 16))
FIRINGS = 450
"""Directions a turn, in each of which all rings are fired."""
TURN_S = 0.1
MOUNT_HEIGHT_M = 1.9
RANGE_M = 80.0
POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2"), ("time", "<f4")]
)
"""One return: metres in the sensor's frame when it was fired; ``time`` is seconds since the turn began."""


@dataclass(frozen=True, slots=True)
class Poses:
    """Where the sensor is at each firing: arrays of `FIRINGS`."""

    x: Floats
    y: Floats
    heading: Floats


def scan(town: Town, cars: Cars, poses: Poses, rng: np.random.Generator) -> npt.NDArray[np.void]:
    """The returns of one turn, in the order of firing; what hits nothing within range is left out."""
    turn = np.linspace(np.pi, -np.pi, FIRINGS, endpoint=False)
    ray_x, ray_y = np.cos(poses.heading + turn), np.sin(poses.heading + turn)
    slope = np.tan(ELEVATIONS_RAD).astype(np.float32)
    # Level distance and brightness of the nearest surface, for each ring and firing.
    with np.errstate(divide="ignore"):
        ground = np.where(slope < 0, np.float32(MOUNT_HEIGHT_M) / -slope, np.float32(FAR_M))
    nearest = np.repeat(ground[:, None], FIRINGS, axis=1)
    bright = np.full(nearest.shape, 14.0)

    def meet(distance: Floats, low: Floats, high: Floats, brightness: Floats) -> None:
        """Surfaces, level distances (n, firings), that stand upright from ``low`` to ``high`` (n)."""
        # Most are behind something in every direction: those cost nothing any more.
        seen = np.flatnonzero((distance < in_front).any(axis=1))
        distance = distance[seen].astype(np.float32, copy=False)
        low, high = low[seen, None].astype(np.float32), high[seen, None].astype(np.float32)
        for ring, rise in enumerate(slope if len(seen) else ()):
            height = np.float32(MOUNT_HEIGHT_M) + distance * rise
            met = np.where((height >= low) & (height <= high), distance, np.float32(FAR_M))
            first = met.argmin(axis=0)
            candidate = met[first, np.arange(FIRINGS)]
            closer = candidate < nearest[ring]
            nearest[ring][closer] = candidate[closer]
            bright[ring][closer] = brightness[seen][first][closer]

    x, y = float(poses.x.mean()), float(poses.y.mean())
    walls = town_module.walls_in_sight(town.walls, x, y, range_m=RANGE_M)
    to_walls = town_module.cast(walls, poses.x, poses.y, ray_x, ray_y)
    # Houses are so high that what is behind the nearest one is out of reach, or out of range.
    in_front = to_walls.min(axis=0) + np.float32(0.01)
    meet(to_walls, np.zeros(len(walls.at)), walls.height, 30.0 + walls.house * 37 % 60)
    near = np.hypot(cars.x - x, cars.y - y) < RANGE_M
    boxes = _cast_boxes(cars.x[near], cars.y[near], cars.heading[near], poses, ray_x, ray_y)
    meet(boxes, np.full(near.sum(), 0.25), np.full(near.sum(), CAR_HEIGHT_M), 90.0 + 8.0 * cars.colour[near])
    trees = town.trees[np.hypot(town.trees[:, 0] - x, town.trees[:, 1] - y) < RANGE_M]
    height = trees[:, 2]
    for radius, low, high in ((0.18, 0.0, 0.4), (0.28 * height, 0.35, 0.97)):
        round_ = _cast_circles(trees[:, 0], trees[:, 1], radius, poses, ray_x, ray_y)
        meet(round_, low * height, high * height, np.full(len(trees), 24.0))
    return _returns(nearest, bright, turn, rng)


def _returns(nearest: Floats, bright: Floats, turn: Floats, rng: np.random.Generator) -> npt.NDArray[np.void]:
    # Firing by firing, ring by ring within: the order in which such sensors send.
    distance = nearest.T + rng.normal(0.0, 0.015, nearest.T.shape)
    seen = nearest.T < RANGE_M
    firing, ring = np.nonzero(seen)
    level = distance[seen]
    points = np.zeros(len(level), POINT)
    points["x"] = level * np.cos(turn[firing])
    points["y"] = level * np.sin(turn[firing])
    points["z"] = level * np.tan(ELEVATIONS_RAD)[ring]
    points["intensity"] = np.round(bright.T[seen] * rng.uniform(0.8, 1.2, len(level)))
    points["ring"] = ring
    points["time"] = firing * (TURN_S / FIRINGS)
    return points


def _cast_boxes(x: Floats, y: Floats, heading: Floats, poses: Poses, ray_x: Floats, ray_y: Floats) -> Floats:
    """Distance along each ray to each upright box of a car's size: (boxes, rays), `FAR_M` for never."""
    cos, sin = np.cos(heading)[:, None], np.sin(heading)[:, None]
    away_x, away_y = poses.x - x[:, None], poses.y - y[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse_u = 1.0 / (ray_x * cos + ray_y * sin)
        inverse_v = 1.0 / (ray_y * cos - ray_x * sin)
    u, v = away_x * cos + away_y * sin, away_y * cos - away_x * sin
    u1, u2 = (-CAR_LENGTH_M / 2 - u) * inverse_u, (CAR_LENGTH_M / 2 - u) * inverse_u
    v1, v2 = (-CAR_WIDTH_M / 2 - v) * inverse_v, (CAR_WIDTH_M / 2 - v) * inverse_v
    enter = np.maximum(np.minimum(u1, u2), np.minimum(v1, v2))
    leave = np.minimum(np.maximum(u1, u2), np.maximum(v1, v2))
    return np.where((enter < leave) & (enter > 0.5), enter, FAR_M)


def _cast_circles(
    x: Floats, y: Floats, radius: Floats | float, poses: Poses, ray_x: Floats, ray_y: Floats
) -> Floats:
    """Distance along each ray to each upright cylinder: (cylinders, rays), `FAR_M` for never."""
    away_x, away_y = x[:, None] - poses.x, y[:, None] - poses.y
    along = away_x * ray_x + away_y * ray_y
    aside = away_x * ray_y - away_y * ray_x
    inside = np.broadcast_to(np.asarray(radius), x.shape)[:, None] ** 2 - aside**2
    enter = along - np.sqrt(np.maximum(inside, 0.0))
    return np.where((inside > 0) & (enter > 0.5), enter, FAR_M)
