"""A bag's messages held against those rebuilt from the lake, byte for byte, and why some are not the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ros_to_parquet.bag import LocalFile, open_bag
from ros_to_parquet.cli import main
from ros_to_parquet.decode import Decoder, choose_layout
from ros_to_parquet.decoders import RECORD_TYPES
from ros_to_parquet.encode import CDR
from ros_to_parquet.lake import Lake
from ros_to_parquet.layout import DefinitionError, Layout, Node, Primitive, Struct
from ros_to_parquet.program import ROS1, Wire
from ros_to_parquet.rebuild import Rebuilt, rebuild

from .decode import naive
from .decode.blocks import HEADERS


class Message(NamedTuple):
    """All that is kept of a message; times and sequence as MCAP has them where the bag has none."""

    topic: str
    type_name: str
    encoding: str
    log_time_ns: int
    publish_time_ns: int
    sequence: int
    payload: bytes


@dataclass(slots=True)
class Recorded:
    """A bag's messages that decode, in log time order, and the layout of each connection's messages."""

    messages: list[Message] = field(default_factory=list)
    layouts: dict[tuple[str, str, str], Layout] = field(default_factory=dict)
    rejected: int = 0
    foreign: int = 0
    """Of the rejected: messages that the lake has, in an encoding that is not ROS's."""


def read(path: Path) -> Recorded:
    """What a bag holds, read by the engine's own reader."""
    recorded = Recorded()
    decoders: dict[int, Decoder | None] = {}
    for block in open_bag(LocalFile(path)).blocks():
        connection = block.connection
        key = (connection.topic, connection.type_name, connection.encoding)
        if connection.id not in decoders:
            try:
                layout, _ = choose_layout(block)
                decoders[connection.id] = Decoder(layout, connection.encoding)
                recorded.layouts[key] = layout
            except DefinitionError:
                decoders[connection.id] = None
        decoder = decoders[connection.id]
        rows = [] if decoder is None else decoder.decode(block).rows.tolist()
        recorded.rejected += len(block) - len(rows)
        recorded.foreign += len(block) if connection.encoding in RECORD_TYPES else 0
        for row in rows:
            log_time = int(block.log_times_ns[row])
            publish_times, sequences = block.publish_times_ns, block.sequences
            start = int(block.starts[row])
            recorded.messages.append(
                Message(
                    *key,
                    log_time,
                    log_time if publish_times is None else int(publish_times[row]),
                    0 if sequences is None else int(sequences[row]),
                    block.data[start : start + int(block.lengths[row])].tobytes(),
                )
            )
    recorded.messages.sort(key=lambda message: message.log_time_ns)
    return recorded


def extract_and_rebuild(bag: Path, folder: Path) -> tuple[Rebuilt, Path]:
    """The bag through a lake of its own."""
    output = folder / "rebuilt.mcap"
    assert main(["extract", str(bag), "--output", str(folder / "lake"), "--drive-id", "d"]) == 0
    return rebuild(Lake(str(folder / "lake")), "d", str(output)), output


def compare(recorded: Recorded, rebuilt: list[Message]) -> Counter[str]:
    """How many messages are equal, and how many are normalised by reason.

    Everything but the payload must be the same. A payload that differs must be what a naive codec makes of
    the recorded one, and there must be a reason for it.
    """
    outcome: Counter[str] = Counter()
    ours, theirs = _streams(recorded.messages), _streams(rebuilt)
    assert ours.keys() == theirs.keys()
    for key, messages in ours.items():
        assert len(messages) == len(theirs[key])
        for before, after in zip(messages, theirs[key], strict=True):
            assert before[:-1] == after[:-1]
            if before.payload == after.payload:
                outcome["equal"] += 1
                continue
            normal, reasons = normalise(recorded.layouts[key].root, before.encoding, before.payload)
            assert after.payload == normal, (before, after)
            assert reasons, before
            outcome[", ".join(sorted(reasons))] += 1
    return outcome


def _streams(messages: list[Message]) -> dict[tuple[str, str, str], list[Message]]:
    streams = defaultdict(list)
    for message in messages:
        streams[message.topic, message.type_name, message.encoding].append(message)
    return streams


def normalise(root: Struct, encoding: str, payload: bytes) -> tuple[bytes, set[str]]:
    """The message as it is written back, and what of its bytes is not kept."""
    if encoding == "ros1":
        watcher, header, wire = _Watcher(ROS1, payload), b"", ROS1
    else:
        header, wire = HEADERS["le"], CDR
        representation = payload[:2]
        if representation not in (b"\0\0", b"\0\1"):
            watcher = _Watcher(Wire("CDR without a header", header_bytes=0), payload)
            watcher.reasons.add("no CDR header")
        else:
            watcher = _Watcher(Wire("CDR", big_endian=not payload[1]), payload[4:])
            if payload[2:4] != b"\0\0":
                watcher.reasons.add("options in the CDR header")
            if watcher.wire.big_endian:
                watcher.reasons.add("big-endian")
    if not root.fields:
        watcher.reasons.add("bytes of a message without fields")
        return header + naive.encode(root, wire, {}), watcher.reasons
    message = watcher.node(root)
    if watcher.position < len(watcher.data):
        watcher.reasons.add("bytes behind the last field")
    return header + naive.encode(root, wire, message), watcher.reasons


class _Watcher(naive._Reader):
    """Notes bytes that the values do not tell."""

    def __init__(self, wire: Wire, data: bytes) -> None:
        super().__init__(wire, data)
        self.reasons: set[str] = set()

    def align(self, size: int) -> None:
        start = self.position
        super().align(size)
        if any(self.data[start : self.position]):
            self.reasons.add("padding that was not zero")

    def plain(self, node: Node) -> object:
        if isinstance(node, Primitive) and node.name == "bool" and self.data[self.position] > 1:
            self.reasons.add("a bool that was neither 0 nor 1")
        return super().plain(node)

    def text(self) -> str:
        start = self.position + (-self.position % min(4, self.wire.max_align)) + 4
        value = super().text()
        raw = self.data[start : self.position]
        if self.wire.terminated and not raw.endswith(b"\0"):
            self.reasons.add("a string without its terminator")
        try:
            raw.decode()
        except UnicodeDecodeError:
            self.reasons.add("text that was not UTF-8")
        return value
