"""Small blocks of one connection, from many chunks, made into one.

A block costs the same however few messages are in it, and with hundreds of topics a chunk holds one or two
messages of each. So what a chunk has little of waits until there is more, copied into one buffer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ros_to_parquet.bag.model import Int64Array, Messages, UInt8Array

SMALL_BYTES = 64 << 10
"""What a buffer holds of a connection waits if it is less."""

_MESSAGE_BYTES = 64
"""What a message takes in memory beside its payload."""


class Waiting:
    """Messages that wait to be joined, of any connections.

    Args:
        most_bytes: all of them together; past it, or past `SMALL_BYTES` a connection, it is `full`.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffers: list[UInt8Array] = []
        self._messages: list[Messages] = []
        self._connections: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._held_bytes = 0

    @property
    def full(self) -> bool:
        """Whether it is time to `release` what waits."""
        count = int(np.count_nonzero(self._connections))
        return self._held_bytes >= min(self._most_bytes, max(1, count) * SMALL_BYTES)

    def small(self, messages: Messages) -> npt.NDArray[np.bool_]:
        """Which of a buffer's messages are to wait: those of connections that it has little of.

        What follows messages that wait already waits too, so that a connection's stay in order.
        """
        ids = messages.connections
        sizes = np.bincount(ids, weights=messages.lengths + _MESSAGE_BYTES, minlength=len(self._connections))
        self._connections = np.append(self._connections, np.zeros(len(sizes) - len(self._connections), bool))
        small: npt.NDArray[np.bool_] = ((sizes < SMALL_BYTES) | self._connections)[ids]
        return small

    def add(self, data: UInt8Array, messages: Messages) -> None:
        """Messages of ``data``, behind those that wait. The buffer is kept where it holds little else."""
        size_bytes = int(messages.lengths.sum())
        if 2 * size_bytes < data.nbytes:
            data, messages = gathered(data, messages)
        self._buffers.append(data)
        self._messages.append(messages)
        self._connections[messages.connections] = True
        self._held_bytes += data.nbytes + _MESSAGE_BYTES * len(messages)

    def release(self) -> tuple[UInt8Array, Messages]:
        """All that waits, as messages of one buffer in the order of the bag."""
        bases = np.cumsum([0, *(len(buffer) for buffer in self._buffers)])[:-1]
        moved = [
            messages.at(messages.starts + base)
            for messages, base in zip(self._messages, bases.tolist(), strict=True)
        ]
        data = self._buffers[0] if len(self._buffers) == 1 else np.concatenate(self._buffers)
        self._buffers, self._messages, self._held_bytes = [], [], 0
        self._connections[:] = False
        return data, Messages.joined(moved)

    def __bool__(self) -> bool:
        return bool(self._messages)


def gathered(data: UInt8Array, messages: Messages) -> tuple[UInt8Array, Messages]:
    """The messages in a buffer of their own."""
    view, stops = data.data, (messages.starts + messages.lengths).tolist()
    own, starts, _ = joined(
        [view[start:stop] for start, stop in zip(messages.starts.tolist(), stops, strict=True)]
    )
    return own, messages.at(starts)


def joined(payloads: Sequence[bytes | memoryview]) -> tuple[UInt8Array, Int64Array, Int64Array]:
    """Payloads in one buffer; where each starts; its length."""
    lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths) - lengths, lengths
