"""How the car moves: a speed that fits the road, then everything that sensors feel of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo.town import Floats, Path

RATE_HZ = 200
TOP_SPEED_MPS = 12.5
SIDEWAYS_MPS2, SPEED_UP_MPS2, BRAKE_MPS2 = 3.0, 2.2, 2.6
FOLLOWING_S, FOLLOWING_M = 1.9, 8.0
"""The car ahead is where we will be so much later, and so far further."""


@dataclass(frozen=True, slots=True)
class Motion:
    """The car over time, `RATE_HZ` samples a second; metres, radians, seconds."""

    time_s: Floats
    distance_m: Floats
    x: Floats
    y: Floats
    heading: Floats
    speed: Floats
    acceleration: Floats
    yaw_rate: Floats

    def at(self, name: str, time_s: Floats) -> Floats:
        """A column at any time within the drive."""
        column: Floats = getattr(self, name)
        return np.interp(time_s, self.time_s, column)


def drive_along(
    path: Path, *, start_m: float, length_m: float, start_mps: float, end_mps: float, standing_s: float
) -> Motion:
    """Drive ``length_m`` of the closed ``path``; a start or end at 0 m/s stands still for ``standing_s``."""
    distance = np.arange(0.0, length_m, 0.1)
    places = (start_m + distance) % path.length_m
    curvature = np.abs(np.interp(places, path.distance_m, path.curvature))
    speed = np.minimum(TOP_SPEED_MPS, np.sqrt(SIDEWAYS_MPS2 / np.maximum(curvature, 1e-4)))
    # What can be reached from the start, then what can still be braked away before the end.
    speed[0], speed[-1] = start_mps, end_mps
    for place in range(1, len(speed)):
        speed[place] = min(speed[place], np.sqrt(speed[place - 1] ** 2 + 0.2 * SPEED_UP_MPS2))
    for place in range(len(speed) - 2, -1, -1):
        speed[place] = min(speed[place], np.sqrt(speed[place + 1] ** 2 + 0.2 * BRAKE_MPS2))
    between = (speed[1:] + speed[:-1]) / 2
    arrival = np.concatenate([[0.0], np.cumsum(np.diff(distance) / np.maximum(between, 0.05))])
    before = standing_s if start_mps == 0 else 0.0
    after = standing_s if end_mps == 0 else 0.0
    time = np.arange(0, round((before + arrival[-1] + after) * RATE_HZ)) / RATE_HZ
    travelled = start_m + np.interp(time - before, arrival, distance)
    # Feet move pedals over some tenths of a second: without this the acceleration would jump.
    kernel = np.exp(-0.5 * (np.arange(-120, 121) / 40.0) ** 2)
    travelled = _smooth(travelled, kernel / kernel.sum())
    x, y, heading = path.at(travelled)
    speed = np.gradient(travelled, time)
    return Motion(
        time_s=time,
        distance_m=travelled,
        x=x,
        y=y,
        heading=heading,
        speed=speed,
        acceleration=np.gradient(speed, time),
        yaw_rate=np.gradient(heading, time),
    )


def _smooth(values: Floats, kernel: Floats) -> Floats:
    """Smoothed, with the ends continued at their own slope, so that a rolling start stays one."""
    half = len(kernel) // 2
    steps = np.arange(1, half + 1)
    head = values[0] - steps[::-1] * (values[1] - values[0])
    tail = values[-1] + steps * (values[-1] - values[-2])
    return np.convolve(np.concatenate([head, values, tail]), kernel, "valid")


def car_ahead(motion: Motion, time_s: float) -> tuple[float, bool]:
    """Where along the path the car is that we follow, and whether its brake lights are on."""
    later = np.array([time_s + FOLLOWING_S])
    distance = float(motion.at("distance_m", later)[0])
    past_end = max(float(later[0] - motion.time_s[-1]), 0.0) * float(motion.speed[-1])
    return distance + past_end + FOLLOWING_M, bool(motion.at("acceleration", later)[0] < -0.6)
