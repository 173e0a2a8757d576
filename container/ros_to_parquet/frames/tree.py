"""The tree of coordinate frames, and the way through it from one frame to another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ros_to_parquet.frames.errors import FramesError
from ros_to_parquet.text import and_more

MAX_EDGES = 10_000


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """Where ``child`` is in ``parent``; static if it was sent on a topic of static transforms alone."""

    parent: str
    child: str
    static: bool = False

    def __str__(self) -> str:
        return f"{self.parent} -> {self.child}"


@dataclass(frozen=True, slots=True)
class Way:
    """From ``child`` up to the frame that both are below, and from ``parent`` up to it.

    Both may be empty: where one of them is that frame.
    """

    from_child: tuple[Edge, ...]
    from_parent: tuple[Edge, ...]

    @property
    def edges(self) -> tuple[Edge, ...]:
        return (*self.from_child, *self.from_parent)


def find_way(edges: Collection[Edge], parent: str, child: str) -> Way | None:
    """How ``child`` is reached from ``parent``; None where nothing connects them.

    Raises:
        FramesError: a frame on the way has several parents, or is its own ancestor.
    """
    above = _above(edges)
    one, stopped_one = _climb(above, child)
    other, stopped_other = _climb(above, parent)
    heights = {edge.parent: place + 1 for place, edge in enumerate(other)} | {parent: 0}
    frames = [child, *(edge.parent for edge in one)]
    for place, frame in enumerate(frames):
        if frame in heights:
            return Way(tuple(one[:place]), tuple(other[: heights[frame]]))
    if stopped := stopped_one or stopped_other:
        raise FramesError(f"pose of {child!r} in {parent!r}: {stopped}")
    return None


def why_apart(edges: Collection[Edge], parent: str, child: str) -> str:
    """What a person has to know where `find_way` finds none."""
    above = _above(edges)
    known = sorted({frame for edge in edges for frame in (edge.parent, edge.child)})
    if not known:
        return "the drive has none"
    if unknown := [repr(frame) for frame in (child, parent) if frame not in known]:
        highest_first = sorted(known, key=lambda frame: frame in above)
        return (
            f"none has {' or '.join(unknown)}; there are {and_more([repr(each) for each in highest_first])}"
        )
    ways = {frame: _climb(above, frame)[0] for frame in (child, parent)}
    return ", ".join(
        f"{frame!r} is below {way[-1].parent!r}" if way else f"{frame!r} has no parent"
        for frame, way in ways.items()
    )


def _above(edges: Collection[Edge]) -> dict[str, list[Edge]]:
    """By frame, the edges to its parents."""
    above: dict[str, list[Edge]] = {}
    for edge in edges:
        above.setdefault(edge.child, []).append(edge)
    return above


def _climb(above: Mapping[str, Sequence[Edge]], frame: str) -> tuple[list[Edge], str]:
    """The edges from ``frame`` upwards; and why it went no further, if not for being at the top."""
    way: list[Edge] = []
    seen = [frame]
    while edges := above.get(frame):
        if len(edges) > 1:
            parents = and_more([repr(edge.parent) for edge in sorted(edges)])
            return way, (
                f"frame {frame!r} has several parents, {parents}, so that nobody can say where it is; name "
                'the "topics" whose transforms are to be taken'
            )
        frame = edges[0].parent
        way.append(edges[0])
        if frame in seen:
            loop = [*seen[seen.index(frame) :], frame]
            return way, f"the transforms go round in a circle: {' -> '.join(reversed(loop))}"
        seen.append(frame)
    return way, ""
