"""From the messages of one buffer to blocks, one for each connection."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ros_to_parquet.bag.decompress import ZSTD_MAGIC, decompress_message
from ros_to_parquet.bag.join import Waiting, gathered, joined
from ros_to_parquet.bag.model import (
    MAX_DAMAGE,
    Connection,
    Damage,
    Int64Array,
    MessageBlock,
    Messages,
    UInt8Array,
)
from ros_to_parquet.memory import MemoryBudget, readable

MAX_BLOCK_MESSAGES = 65_536

_TEXTS = ("topic", "type_name", "definition", "definition_format", "definition_hash", "encoding", "member")

_NO_ROOM = -1
"""The id of a connection that is not kept."""

_PAST_ROOM, _OTHERS = -(1 << 63) - 2, -(1 << 63) - 1
"""In the place of recorded ids: of connections that are not kept; of undefined ones, where they are many."""

_CONNECTION_BYTES = 2 << 10
"""What a connection takes in memory beside its texts, its messages' counts in the manifest included."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a buffer says of a connection: its id as recorded, where in the buffer, and it (with id 0).

    ``offset`` is that of its chunk in the bag, where the buffer is of several: messages of those before come
    too early for it.
    """

    recorded_id: int
    position: int
    content: Connection
    offset: int = 0


class ConnectionTable:
    """The connections of one bag, what was found of each, and what they are called in the bag.

    A recorded id that is defined again with other content becomes a connection of its own.
    """

    _TABLE_SIZE = 1 << 16

    def __init__(self, wanted: Callable[[str], bool], budget: MemoryBudget) -> None:
        self._wanted = wanted
        self._budget = budget
        self._taken: list[bool] = []
        self._meaning: dict[int, int] = {}
        self._known: dict[int, dict[tuple[object, ...], int]] = {}
        self._lookup = np.full(self._TABLE_SIZE, -1, np.int64)
        self._definitions: dict[str, str] = {}
        self._held_bytes = 0
        self._undefined: dict[int, list[int]] = {}
        self._waiting = Waiting(budget.joined)
        self.connections: list[Connection] = []
        self.counts: dict[int, int] = {}
        self.compressed_messages = 0

    def define(self, recorded_id: int, content: Connection) -> int:
        """The connection that ``recorded_id`` means from here on; its id, or `_NO_ROOM`."""
        known = self._known.get(recorded_id, {})
        key = (*(getattr(content, name) for name in _TEXTS), tuple(sorted(content.metadata.items())))
        if key not in known:
            definition = self._definitions.setdefault(content.definition, content.definition)
            size_bytes = _CONNECTION_BYTES + len(content.topic) + len(content.type_name)
            size_bytes += len(definition) if definition is content.definition else 0
            size_bytes += sum(len(name) + len(value) for name, value in content.metadata.items())
            if self._held_bytes + size_bytes > self._budget.limit // 8:
                self._mean(recorded_id, _NO_ROOM)
                return _NO_ROOM
            self._held_bytes += size_bytes
            self._known[recorded_id] = known
            known[key] = len(self.connections)
            # Equal texts are kept once, however many connections have them.
            connection = dataclasses.replace(content, id=known[key], definition=definition)
            self.connections.append(connection)
            self.counts[connection.id] = 0
            self._taken.append(self._wanted(connection.topic))
        self._mean(recorded_id, known[key])
        return known[key]

    def _mean(self, recorded_id: int, connection_id: int) -> None:
        self._meaning[recorded_id] = connection_id
        if 0 <= recorded_id < self._TABLE_SIZE:
            self._lookup[recorded_id] = connection_id

    def __contains__(self, recorded_id: int) -> bool:
        return recorded_id in self._meaning

    @property
    def is_ambiguous(self) -> bool:
        """Whether an id was defined with more than one content."""
        return any(len(known) > 1 for known in self._known.values())

    def expected(self, recorded: Mapping[int, int]) -> dict[int, int]:
        """Counts by recorded id as counts by connection.

        Where a recorded id became several connections, what was found of the others is taken off the
        first one's: the bag's index does not tell them apart. What the bag never defines counts as -1.
        """
        counts = dict.fromkeys(self.counts, 0)
        for recorded_id, count in recorded.items():
            if recorded_id not in self._known:
                counts[-1] = counts.get(-1, 0) + count
                continue
            first, *others = self._known[recorded_id].values()
            counts[first] += count - sum(self.counts[other] for other in others)
            for other in others:
                counts[other] += self.counts[other]
        return counts

    def undefined(self) -> list[Damage]:
        """Messages that had to be left: the bag defines no such connection, or there is no room for it."""
        return [
            Damage(offset, f"{count:,} messages of {self._called(recorded_id)}", False)
            for recorded_id, (count, offset) in sorted(self._undefined.items())
        ]

    def _called(self, recorded_id: int) -> str:
        """Connections whose messages had to be left, and why."""
        if recorded_id == _PAST_ROOM:
            return (
                f"connections past the first {len(self.connections):,}, for which the memory limit has no "
                f"room: raise --memory-limit to {readable(2 * self._budget.limit)}"
            )
        which = "others" if recorded_id == _OTHERS else f"connection {recorded_id}"
        return f"{which}, which the bag never defines"

    def blocks(
        self, data: UInt8Array, messages: Messages, definitions: Sequence[Definition] = ()
    ) -> Iterator[MessageBlock]:
        """The messages of wanted connections, one block or more for each; all are counted.

        Those of which the buffer has little wait for more: see ``join``, and `rest`.

        A definition holds from its place in the buffer on; the first one of an id also before it.
        """
        first, again = [], []
        for definition in definitions:
            if definition.recorded_id in self:
                again.append(definition)
            else:
                self.define(definition.recorded_id, definition.content)
                first.append(definition)
        ids = self._resolve(messages.connections)
        for definition in first:
            early = messages.offsets < definition.offset
            ids[early & (messages.connections == definition.recorded_id)] = -1
        if again:
            meanings = [self.define(definition.recorded_id, definition.content) for definition in again]
            rows, places = _last_before(messages, again)
            ids[rows] = np.array(meanings, np.int64)[places]
        yield from self._resolved(data, self._counted(messages, ids))

    def oversize(self, messages: Messages) -> Iterator[MessageBlock]:
        """A message of which nothing but its head was read; it is counted."""
        messages = self._counted(messages, self._resolve(messages.connections))
        if len(messages):
            yield _as_oversize(self._block(_NO_DATA, messages))

    def rest(self) -> Iterator[MessageBlock]:
        """Blocks of what still waits; to be called at the end."""
        if self._waiting:
            yield from self._by_connection(*self._waiting.release())

    def _counted(self, messages: Messages, ids: Int64Array) -> Messages:
        """The messages of wanted connections, by their own ids; all are counted."""
        found = np.bincount(ids + 1, minlength=len(self.connections) + 1)  # the first one is for id -1
        present = np.flatnonzero(found[1:])
        for connection_id, count in zip(present.tolist(), found[1:][present].tolist(), strict=True):
            self.counts[connection_id] += count
        if found[0]:
            self._leave(messages, np.flatnonzero(ids < 0))
        messages = dataclasses.replace(messages, connections=ids)
        if found[0] or not all(self._taken):
            taken = np.array([*self._taken, False])  # the last one is for id -1
            messages = messages.rows(np.flatnonzero(taken[ids]))
        return messages

    def _resolved(self, data: UInt8Array, messages: Messages) -> Iterator[MessageBlock]:
        small = self._waiting.small(messages)
        if not small.all():
            data_of_large, large = data, messages.rows(np.flatnonzero(~small))
            if self._pins_too_much(data, large):
                data_of_large, large = gathered(data, large)
            yield from self._by_connection(data_of_large, large)
        if small.any():
            self._waiting.add(data, messages.rows(np.flatnonzero(small)))
            if self._waiting.full:
                yield from self._by_connection(*self._waiting.release())

    def _pins_too_much(self, data: UInt8Array, messages: Messages) -> bool:
        """Whether blocks would keep a buffer in memory that is mostly of messages which are not in them."""
        whole = data if all(self._taken) or not isinstance(data.base, np.ndarray) else data.base
        return 2 * int(messages.lengths.sum()) < whole.nbytes

    def _by_connection(self, data: UInt8Array, messages: Messages) -> Iterator[MessageBlock]:
        """One block or more for each connection."""
        ids = messages.connections
        if ids.min() < ids.max():
            narrow = ids.astype(np.int16) if ids.max() < 1 << 15 else ids  # int16 sorts by radix
            messages = messages.rows(np.argsort(narrow, kind="stable"))
        changes = (np.flatnonzero(np.diff(messages.connections)) + 1).tolist()
        for first, last in itertools.pairwise([0, *changes, len(messages)]):
            yield from self._cut(data, messages.rows(slice(first, last)))

    def _resolve(self, recorded: Int64Array) -> Int64Array:
        if not len(recorded) or (recorded.min() >= 0 and recorded.max() < self._TABLE_SIZE):
            return self._lookup[recorded]
        distinct, inverse = np.unique(recorded, return_inverse=True)
        known = np.array([self._meaning.get(int(recorded_id), -1) for recorded_id in distinct], np.int64)
        return known[inverse]

    def _leave(self, messages: Messages, rows: Int64Array) -> None:
        recorded, first, counts = np.unique(messages.connections[rows], return_index=True, return_counts=True)
        offsets = messages.offsets[rows][first]
        for recorded_id, offset, count in zip(
            recorded.tolist(), offsets.tolist(), counts.tolist(), strict=True
        ):
            if recorded_id in self:
                recorded_id = _PAST_ROOM
            elif recorded_id not in self._undefined and len(self._undefined) >= MAX_DAMAGE:
                recorded_id = _OTHERS
            self._undefined.setdefault(recorded_id, [0, offset])[0] += count

    def _cut(self, data: UInt8Array, messages: Messages) -> Iterator[MessageBlock]:
        """Messages of one connection in blocks that are not too large."""
        block = self._block(data, messages)
        ends = np.cumsum(block.lengths)
        if len(block) <= MAX_BLOCK_MESSAGES and ends[-1] <= self._budget.block:
            yield from self._decompressed(block)
            return
        first = 0
        while first < len(block):
            before = int(ends[first - 1]) if first else 0
            fits = int(np.searchsorted(ends, before + self._budget.block, side="right"))
            last = min(max(fits, first + 1), first + MAX_BLOCK_MESSAGES)
            yield from self._decompressed(block.part(first, last))
            first = last

    def _block(self, data: UInt8Array, messages: Messages) -> MessageBlock:
        return MessageBlock(
            connection=self.connections[int(messages.connections[0])],
            data=data,
            starts=messages.starts,
            lengths=messages.lengths,
            log_times_ns=messages.log_times_ns,
            publish_times_ns=messages.publish_times_ns,
            sequences=messages.sequences,
            offsets=messages.offsets,
        )

    def _decompressed(self, block: MessageBlock) -> Iterator[MessageBlock]:
        """The block, its messages decompressed where each is a zstd frame (rosbag2's compression by message).

        The bag itself does not say so (its folder's metadata.yaml does, if it is there), but no CDR message
        begins as a zstd frame does. A message that begins so and is none stays as it is.
        """
        if block.connection.encoding != "cdr":
            yield block
            return
        compressed = np.flatnonzero(block.lengths >= len(ZSTD_MAGIC))
        for place, byte in enumerate(ZSTD_MAGIC):
            compressed = compressed[block.data[block.starts[compressed] + place] == byte]
            if not len(compressed):
                yield block
                return
        self.compressed_messages += len(compressed)
        frames = set(compressed.tolist())
        first = 0
        payloads: list[bytes] = []
        size_bytes = 0
        most_bytes = self._budget.message
        for row, (start, length) in enumerate(
            zip(block.starts.tolist(), block.lengths.tolist(), strict=True)
        ):
            stored = block.data[start : start + length].tobytes()
            content = decompress_message(stored, most_bytes=most_bytes) if row in frames else None
            payload = stored if content is None else content
            if len(payload) > most_bytes:
                if payloads:
                    yield _rebuilt(block.part(first, row), payloads)
                lengths = np.array([len(payload)], np.int64)
                yield _as_oversize(dataclasses.replace(block.part(row, row + 1), lengths=lengths))
                first, payloads, size_bytes = row + 1, [], 0
                continue
            if payloads and size_bytes + len(payload) > self._budget.block:
                yield _rebuilt(block.part(first, row), payloads)
                first, payloads, size_bytes = row, [], 0
            payloads.append(payload)
            size_bytes += len(payload)
        if payloads:
            yield _rebuilt(block.part(first, len(block)), payloads)


def _last_before(messages: Messages, definitions: Sequence[Definition]) -> tuple[Int64Array, Int64Array]:
    """Messages with a definition of their connection before them in the buffer, and which is the last."""
    recorded = np.array([definition.recorded_id for definition in definitions], np.int64)
    positions = np.array([definition.position for definition in definitions], np.int64)
    distinct = np.array(sorted({definition.recorded_id for definition in definitions}), np.int64)
    place = np.minimum(np.searchsorted(distinct, messages.connections), len(distinct) - 1)
    rows = np.flatnonzero(distinct[place] == messages.connections)
    # Numbers that are in the order of connections, and within one in the order of the buffer.
    width = 1 + max(int(positions.max()), int(messages.starts.max(initial=0)))
    keys = np.searchsorted(distinct, recorded) * width + positions
    order = np.argsort(keys, kind="stable")
    before = np.searchsorted(keys[order], place[rows] * width + messages.starts[rows]) - 1
    last = order[np.maximum(before, 0)]
    fits = (before >= 0) & (recorded[last] == messages.connections[rows])
    return rows[fits], last[fits]


def groups(ids: Int64Array) -> Iterator[tuple[int, Int64Array | slice]]:
    """Each distinct id and where it stands, in order; a slice where it stands everywhere."""
    if not len(ids):
        return
    if ids.min() == ids.max():
        yield int(ids[0]), slice(None)
        return
    narrow = ids.astype(np.int16) if ids.max() < 1 << 15 else ids  # int16 sorts by radix
    order = np.argsort(narrow, kind="stable")
    sorted_ids = ids[order]
    changes = np.flatnonzero(np.diff(sorted_ids)) + 1
    for rows in np.split(order, changes):
        yield int(ids[rows[0]]), rows


_NO_DATA = np.zeros(0, np.uint8)


def _as_oversize(block: MessageBlock) -> MessageBlock:
    return dataclasses.replace(block, data=_NO_DATA, starts=np.zeros_like(block.starts), oversize=True)


def _rebuilt(block: MessageBlock, payloads: Sequence[bytes | memoryview]) -> MessageBlock:
    data, starts, lengths = joined(payloads)
    return dataclasses.replace(block, data=data, starts=starts, lengths=lengths)
