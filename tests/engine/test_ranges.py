"""Reading ahead: what is asked of a store, by how the reader goes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from ros_to_parquet.storage import ChangedError, ObjectInfo, TransientError, ranges
from ros_to_parquet.storage.ranges import RangeSource

KB = 1 << 10
DATA = random.Random(6).randbytes(1000 * KB)


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the real sizes."""
    monkeypatch.setattr(ranges, "LEAST_BYTES", 64)
    monkeypatch.setattr(ranges, "GAP_BYTES", 256)
    monkeypatch.setattr(ranges, "_WAIT_S", 0.0001)


@dataclass
class Store:
    """A store of one object, and what was asked of it."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    fetch: Callable[[int, int], bytes] = lambda start, end: DATA[start:end]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, start: int, end: int) -> bytes:
        with self.lock:
            self.asked.append((start, end))
        return self.fetch(start, end)

    def fetched(self, start: int, end: int) -> int:
        """Bytes between these that were asked for."""
        return sum(max(min(stop, end) - max(first, start), 0) for first, stop in self.asked)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def source(store: Store) -> Iterator[RangeSource]:
    source = RangeSource(ObjectInfo("s3://b/x", len(DATA), ""), store.get, file_name="x", read_bytes=8 * KB)
    yield source
    source.close()


def test_a_forward_reader_fetches_each_byte_once_in_large_requests(store: Store, source: RangeSource) -> None:
    assert b"".join(source.read_at(start, 8 * KB) for start in range(0, len(DATA), 8 * KB)) == DATA
    assert sorted(store.asked) == [(start, start + 8 * KB) for start in range(0, len(DATA), 8 * KB)]
    assert (source.requests, source.bytes_fetched) == (125, len(DATA))


def test_small_reads_forward_become_large_requests(store: Store, source: RangeSource) -> None:
    assert b"".join(source.read_at(start, 100) for start in range(0, len(DATA), 100)) == DATA
    assert source.bytes_fetched == len(DATA)
    assert source.requests < 125 + 20


def test_several_requests_are_in_flight_ahead_of_a_forward_reader() -> None:
    """Each ends when the one so many after it has begun: with fewer the reader would stand still."""
    begun = {start: threading.Event() for start in range(0, len(DATA), 8 * KB)}
    reading = range(48 * KB, 200 * KB, 8 * KB)  # before them it is not yet known that it goes forward
    stood_still = []

    def wait(start: int, end: int) -> bytes:
        begun[start].set()
        last = start + ranges.READS_AHEAD * 8 * KB
        if start in reading and not begun[last].wait(timeout=60):
            stood_still.append(start)
        return DATA[start:end]

    source = RangeSource(ObjectInfo("s3://b/x", len(DATA), ""), wait, file_name="x", read_bytes=8 * KB)
    for start in range(0, 200 * KB, 8 * KB):
        assert source.read_at(start, 8 * KB) == DATA[start : start + 8 * KB]
        assert not stood_still
    source.close()


def test_a_reader_that_jumps_gets_no_more_than_it_asks_for(store: Store, source: RangeSource) -> None:
    places = random.Random(1).sample(range(0, 1000, 4), 100)
    for place in places:
        assert source.read_at(place * KB, 2 * KB) == DATA[place * KB : (place + 2) * KB]
    assert sorted(store.asked) == sorted((place * KB, (place + 2) * KB) for place in places)


def test_what_a_forward_reader_leaves_out_is_not_fetched(store: Store, source: RangeSource) -> None:
    wanted = [(start, start + 3 * KB) for start in range(0, 900 * KB, 10 * KB)]
    for start, end in wanted:
        assert source.read_at(start, end - start) == DATA[start:end]
    assert source.bytes_fetched == sum(end - start for start, end in wanted)


def test_a_small_gap_does_not_end_going_forward(store: Store, source: RangeSource) -> None:
    for start in range(0, 500 * KB, 3 * KB):
        assert source.read_at(start, 3 * KB - 200) == DATA[start : start + 3 * KB - 200]
    assert source.requests < 500 // 8 + 10
    assert store.fetched(0, 500 * KB) <= 500 * KB


def test_after_a_jump_no_more_is_wasted_than_was_read_in_one_go(store: Store, source: RangeSource) -> None:
    for start in range(0, 16 * KB, 4 * KB):
        source.read_at(start, 4 * KB)
    source.read_at(900 * KB, KB)
    assert store.fetched(16 * KB, 900 * KB) <= 16 * KB


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_reads(source: RangeSource, seed: int) -> None:
    chance = random.Random(seed)
    place = 0
    for _ in range(300):
        if chance.random() < 0.2:
            place = chance.randrange(len(DATA))
        length = chance.choice([1, 100, KB, 8 * KB, 30 * KB])
        assert source.read_at(place, length) == DATA[place : place + length]
        place += length + chance.choice([0, 0, 100, KB])
        held_bytes = sum(each.end - each.start for each in source._held)
        assert held_bytes <= (ranges.READS_AHEAD + 1) * 8 * KB + 4 * 64


def test_beside_the_end(source: RangeSource) -> None:
    assert source.read_at(len(DATA) - 5, 100) == DATA[-5:]
    assert source.read_at(len(DATA), 1) == b""
    assert source.read_at(len(DATA) + 7, 1) == b""
    assert source.read_at(0, 0) == b""


def test_what_came_cut_off_is_asked_for_again(store: Store, source: RangeSource) -> None:
    store.fetch = lambda start, end: DATA[start : end - (len(store.asked) < 3)]
    assert source.read_at(0, KB) == DATA[:KB]
    assert source.requests == 3
    store.fetch = lambda start, end: DATA[start : end - 1]
    with pytest.raises(TransientError, match="s3://b/x: got 1023 of 1024 bytes at 102400"):
        source.read_at(100 * KB, KB)


def test_what_was_cut_off_goes_on_where_it_ended(store: Store, source: RangeSource) -> None:
    """However often, as long as something comes: only tries in a row that give nothing are counted."""
    store.fetch = lambda start, end: b"" if len(store.asked) % 4 else DATA[start : min(start + 100, end)]
    assert source.read_at(0, KB) == DATA[:KB]
    given = [start for number, (start, _) in enumerate(store.asked, 1) if not number % 4]
    assert given == list(range(0, KB, 100)), "no byte was asked for again that had come"
    assert source.bytes_fetched == KB


def test_other_errors_are_raised_at_once(store: Store, source: RangeSource) -> None:
    def changed(start: int, end: int) -> bytes:
        raise ChangedError("s3://b/x: changed")

    store.fetch = changed
    with pytest.raises(ChangedError):
        source.read_at(0, KB)
    assert source.requests == 1


def test_what_is_expected_is_read_ahead_and_nothing_else(store: Store, source: RangeSource) -> None:
    pieces = [(100, 8 * KB), (50 * KB, 53 * KB), (90 * KB, 90 * KB + 9), (200 * KB, 200 * KB + 80)]
    pieces += [(start * KB, (start + 8) * KB) for start in range(300, 900, 100)]
    source.expect(pieces)
    for start, end in pieces:
        assert source.read_at(start, end - start) == DATA[start:end]
    assert sorted(store.asked) == pieces
    assert source.read_at(30 * KB, 100) == DATA[30 * KB : 30 * KB + 100]


def test_what_is_expected_and_not_read_is_at_most_a_few_pieces(store: Store, source: RangeSource) -> None:
    source.expect([(start, start + 8 * KB) for start in range(0, len(DATA), 8 * KB)])
    source.read_at(0, 8 * KB)
    source.read_at(500 * KB, 8 * KB)
    source.close()
    assert store.fetched(0, len(DATA)) <= 2 * (1 + ranges.READS_AHEAD) * 8 * KB + 8 * KB
