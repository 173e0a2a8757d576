"""The tree of coordinate frames that a drive's transforms make."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ros_to_parquet.report.drive import Drive, share_of
from ros_to_parquet.report.tables import Tables, type_at

MOST_EDGES = 2_000

MOST_ROWS = 2_000_000
"""Of a topic, that are read; of more, evenly spread ones."""

_TYPES = ("tf2_msgs/TFMessage", "tf/tfMessage")


@dataclass(frozen=True, slots=True)
class Edge:
    """A transform from ``parent`` to ``child``, sent ``count`` times; ``static`` if only on /tf_static."""

    parent: str
    child: str
    count: int
    static: bool


@dataclass(frozen=True, slots=True)
class FrameTree:
    """All edges but ``left_out`` of them. Of each topic's rows at least ``share`` was read."""

    edges: tuple[Edge, ...]
    left_out: int
    share: float = 1.0

    @property
    def roots(self) -> list[str]:
        children = {edge.child for edge in self.edges}
        return sorted({edge.parent for edge in self.edges} - children)

    @property
    def parents_of(self) -> dict[str, list[str]]:
        """Frames with more than one parent: no tree has them."""
        parents: dict[str, list[str]] = {}
        for edge in self.edges:
            parents.setdefault(edge.child, []).append(edge.parent)
        return {child: sorted(set(several)) for child, several in parents.items() if len(set(several)) > 1}

    def below(self, parent: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.parent == parent]


def find_tree(tables: Tables, drive: Drive) -> FrameTree:
    """The edges of all TF topics."""
    counts: dict[tuple[str, str], int] = {}
    moving: set[tuple[str, str]] = set()
    left_out = 0
    share = 1.0
    for topic in drive.of_type(*_TYPES):
        static = topic.name.rpartition("/")[2] == "tf_static"
        read = 0
        for batch in tables.batches(topic.files, _transforms, most_rows=MOST_ROWS):
            read += batch.num_rows
            flat = batch.column("transforms").flatten()
            pairs = pa.table(
                {"parent": flat.field("header").field("frame_id"), "child": flat.field("child_frame_id")}
            )
            for row in pairs.group_by(["parent", "child"]).aggregate([([], "count_all")]).to_pylist():
                if row["parent"] is None or row["child"] is None:  # as a message in JSON may have it
                    continue
                pair = (row["parent"].lstrip("/"), row["child"].lstrip("/"))
                if pair not in counts and len(counts) >= MOST_EDGES:
                    left_out += 1
                    continue
                counts[pair] = counts.get(pair, 0) + row["count_all"]
                if not static:
                    moving.add(pair)
        share = min(share, share_of(read, topic))
    edges = [Edge(*pair, count, pair not in moving) for pair, count in sorted(counts.items())]
    return FrameTree(tuple(edges), left_out, share)


def _transforms(schema: pa.Schema) -> list[str]:
    """The column of transforms, where it is one of transforms: a bag may define its own."""
    kind = type_at(schema, "transforms")
    if kind is None or not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
        return []
    each = pa.schema([pa.field("each", kind.value_type)])
    names = [type_at(each, f"each.{path}") for path in ("header.frame_id", "child_frame_id")]
    return ["transforms"] if all(name is not None and pa.types.is_string(name) for name in names) else []
