"""Blocks of messages out of a shard's bags, read ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, Self, TypeAlias, TypeVar

from ros_to_parquet import contract, termination
from ros_to_parquet.bag import open_bag
from ros_to_parquet.bag.extras import HasExtras
from ros_to_parquet.bag.model import BagError, BagReader, MessageBlock
from ros_to_parquet.beside import open_beside
from ros_to_parquet.contract import ExitCode, ExtractOptions, Plan
from ros_to_parquet.errors import ShardError
from ros_to_parquet.memory import MemoryBudget
from ros_to_parquet.recording import Folder, Recording, check_folder
from ros_to_parquet.storage import (
    AccessDeniedError,
    ChangedError,
    ObjectInfo,
    StorageError,
    TransientError,
    open_storage,
)

MESSAGE_OVERHEAD_BYTES: Final = 64
"""What a message takes in memory beside its payload (times, offsets): more than many a payload."""

_SMALL_BAG_BYTES: Final = 8 << 20
"""Behind a bag up to this size others are opened while rows are made, until the bytes ahead are too many."""

_READER_BYTES: Final = 1 << 20
"""What the reader of a small bag takes beside as much as the bag: its index and definitions."""


def topic_filter(options: ExtractOptions) -> Callable[[str], bool]:
    """Whether a topic is wanted: by its name (`contract.topic_matches`), exclusion wins."""
    matches = contract.topic_matches
    return lambda topic: matches(topic, options.include_topics) and not matches(topic, options.exclude_topics)


def memory_bytes(block: MessageBlock) -> int:
    """About what a block's messages take in memory."""
    if block.oversize:
        return MESSAGE_OVERHEAD_BYTES * len(block)
    return int(block.lengths.sum()) + MESSAGE_OVERHEAD_BYTES * len(block)


@contextmanager
def input_errors(plan: Plan) -> Iterator[None]:
    """A bag that is not there, or not as it was planned, as `ShardError`."""
    try:
        yield
    except (TransientError, AccessDeniedError):
        raise
    except StorageError as error:
        changed = isinstance(error, ChangedError)
        advice = "; a retry would ask for what was planned: start a new run" if changed else ""
        raise ShardError(f"drive {plan.drive_id}, bag {error}{advice}", ExitCode.INPUT_MISSING) from error


# --- a shard's bags ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenedBag:
    """A bag slice whose blocks follow; ``place`` is its number in the shard."""

    place: int
    part: contract.BagSlice
    bag: contract.PlannedBag
    folder: Folder
    reader: BagReader


@dataclass(frozen=True, slots=True)
class ReadBag:
    """All blocks have come. Where it ``waits``, attachments can be read until the next item is asked for."""

    opened: OpenedBag

    @property
    def waits(self) -> bool:
        """Whether nothing more is to be read before this has been taken."""
        reader = self.opened.reader
        has_attachments = isinstance(reader, HasExtras) and bool(reader.extras.attachments)
        return has_attachments or self.opened.bag.size_bytes > _SMALL_BAG_BYTES


@dataclass(frozen=True, slots=True)
class UnreadableBag:
    """A bag slice of which there are no messages to be had."""

    part: contract.BagSlice
    bag: contract.PlannedBag
    folder: Folder
    reason: str


Item: TypeAlias = OpenedBag | MessageBlock | ReadBag | UnreadableBag


def read_bags(plan: Plan, shard: int, budget: MemoryBudget) -> Generator[Item]:
    """All of a shard's bags, one after another: each as `UnreadableBag`, or `OpenedBag`, blocks, `ReadBag`.

    Raises:
        ShardError: a bag is not there, or has changed.
        StorageError: it cannot be read for now, or this process may not.
    """
    for place, part in enumerate(plan.shards[shard]):
        yield from _read_bag(plan, place, part, budget)


def _read_bag(plan: Plan, place: int, part: contract.BagSlice, budget: MemoryBudget) -> Generator[Item]:
    bag = plan.bags[part.bag]
    storage = open_storage(bag.uri, read_bytes=budget.window)
    folder = Folder(Recording())
    with ExitStack() as stack, input_errors(plan):
        try:
            text = storage.read(bag.metadata_uri).decode("utf-8", "replace") if bag.metadata_uri else None
            if text is not None and part.index == 0:
                folder = check_folder(plan, bag, text, storage)
            source = stack.enter_context(closing(storage.open(ObjectInfo(bag.uri, bag.size_bytes, bag.etag))))
            reader = open_bag(
                source,
                wanted=topic_filter(plan.options),
                slice_index=part.index,
                slice_count=part.count,
                metadata=text,
                budget=budget,
                beside=open_beside(stack, storage, bag.uri, bag.beside),
            )
        except BagError as error:
            yield UnreadableBag(part, bag, folder, str(error))
            return
        opened = OpenedBag(place, part, bag, folder, reader)
        yield opened
        yield from reader.blocks()
        yield ReadBag(opened)


# --- ahead ------------------------------------------------------------------------------------------

_T = TypeVar("_T")


class ReadAhead(Generic[_T]):
    """Items that are made by a thread of their own, from the start on, some of them ahead.

    An exception of the producer is raised where its item would have come. To ``close`` it stops the producer
    before it makes another item, and waits for that.

    Args:
        items: is closed by the producer.
        held_bytes: what an item holds in memory, until the one behind it is asked for.
        budget_bytes: no item is made while as much or more is held.
        large_bytes: behind an item that holds more, none is made while anything is held.
    """

    def __init__(
        self,
        items: Generator[_T],
        held_bytes: Callable[[_T], int],
        *,
        budget_bytes: int,
        large_bytes: int,
    ) -> None:
        self._held_bytes = held_bytes
        self._budget_bytes = budget_bytes
        self._large_bytes = large_bytes
        self._ready: queue.SimpleQueue[tuple[_T, int] | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._held = 0
        self._stopped = False
        self._producer = threading.Thread(target=self._produce, args=(items,), name="bag-reader", daemon=True)
        self._producer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[_T]:
        while (made := self._ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            item, held = made
            yield item
            with self._room:
                self._held -= held
                self._room.notify()

    def close(self) -> None:
        with self._room:
            self._stopped = True
            self._room.notify()
        self._producer.join(termination.READER_PATIENCE_S if termination.asked() else None)

    def _produce(self, items: Generator[_T]) -> None:
        try:
            with closing(items):
                for item in items:
                    if not self._hand_on(item, self._held_bytes(item)):
                        return
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001 (raised again by the consumer)
            self._ready.put(error)

    def _hand_on(self, item: _T, held: int) -> bool:
        """Puts an item where the consumer finds it; False once nobody wants more."""
        with self._room:
            self._room.wait_for(lambda: self._stopped or self._held < self._budget_bytes)
            if self._stopped:
                return False
            self._held += held
        self._ready.put((item, held))
        if held > self._large_bytes:
            with self._room:
                self._room.wait_for(lambda: self._stopped or not self._held)
        return not self._stopped


def read_ahead(plan: Plan, shard: int, budget: MemoryBudget) -> ReadAhead[Item]:
    """`read_bags`, ahead of who takes the rows as far as the memory budget has room for."""

    def held_bytes(item: Item) -> int:
        if isinstance(item, MessageBlock):
            return memory_bytes(item)
        if not isinstance(item, ReadBag):
            return 0
        return budget.large + 1 if item.waits else item.opened.bag.size_bytes + _READER_BYTES

    return ReadAhead(
        read_bags(plan, shard, budget),
        held_bytes,
        budget_bytes=budget.read_ahead,
        large_bytes=budget.large,
    )
