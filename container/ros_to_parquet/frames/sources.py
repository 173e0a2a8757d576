"""A topic's messages in a drive, a stretch of time at a time, whatever files they are in and in what order.

Of every file only the footer is read beforehand: which row groups it has, and from when to when. A stretch
is read from the row groups that reach into it. Those of the last stretch stay in memory, up to a limit: a
topic that was recorded in order is read once; one all of whose row groups overlap is read again for each
stretch, but never held whole.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

from ros_to_parquet import contract
from ros_to_parquet.contract import Clock, FrameTopic
from ros_to_parquet.frames.arrays import Float64Array, Int64Array, column, integers, one_array
from ros_to_parquet.frames.columns import Choice, Version, choose, clock_column, conform
from ros_to_parquet.frames.errors import FramesError
from ros_to_parquet.parquet_options import recorded_schema

_THREADS = 16
"""Footers read at a time."""

LOG_TIME = "log_time_ns"


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The parts that a topic's rows come in, an entry each.

    Attributes:
        first, last: times, by the topic's clock.
        rows: how many.
        start: the number of its first row in the file.
        size: in memory, of what is read of it, in bytes.
        file: the place of its file.
        number: its own in the file.
    """

    first: Int64Array
    last: Int64Array
    rows: Int64Array
    start: Int64Array
    size: Int64Array
    file: Int64Array
    number: Int64Array

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def of(cls, entries: Sequence[tuple[int, int, int, int, int, int, int]]) -> Groups:
        table = np.array(entries, dtype=np.int64).reshape(len(entries), 7)
        return cls(*(np.ascontiguousarray(table[:, place]) for place in range(7)))

    def overlap(self, first_ns: int, last_ns: int) -> Float64Array:
        """Which part of each group is in a stretch, if its rows are evenly spread: 0 to 1."""
        begin = np.maximum(self.first, first_ns).astype(np.float64)
        end = np.minimum(self.last, last_ns).astype(np.float64)
        length = self.last.astype(np.float64) - self.first + 1
        return np.clip((end - begin + 1) / length, 0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The rows of a group.

    Attributes:
        times: by the topic's clock.
        table: log times, in a column without a name, and what is wanted of the rows.
        order: places of the rows by time; of one time by the log; None where they lie so.
        ordered: the times in that order.
    """

    times: Int64Array
    table: pa.Table
    order: Int64Array | None
    ordered: Int64Array

    @classmethod
    def of(cls, times: Int64Array, table: pa.Table) -> Part:
        if (times[1:] > times[:-1]).all():
            return cls(times, table, None, times)
        order = np.lexsort((integers(one_array(table.column(0))), times))
        return cls(times, table, order, times[order])

    @property
    def size_bytes(self) -> int:
        more = 0 if self.order is None else 2 * self.order.nbytes
        return int(self.times.nbytes + self.table.get_total_buffer_size() + more)

    def next_to(self, at: Int64Array) -> Int64Array:
        """Places of the rows that are the last before or the first after one of the times, in their order.

        Of rows of one time the last: no other can be what a time gets. The times are to be sorted.
        """
        ends = np.searchsorted(at, self.ordered[[0, -1]])
        at = at[max(int(ends[0]) - 1, 0) : int(ends[1]) + 1]  # farther times get what these get
        before = np.searchsorted(self.ordered, at, side="right") - 1
        after = np.searchsorted(self.ordered, at, side="left")
        after = self.ordered[after[after < len(self.ordered)]]
        last = np.searchsorted(self.ordered, after, side="right") - 1
        places = np.unique(np.concatenate((before[before >= 0], last)))
        return places if self.order is None else np.sort(self.order[places])


class Source(Protocol):
    """What parts come from."""

    @property
    def groups(self) -> Groups: ...
    def load(self, group: int) -> Part: ...


@dataclass(slots=True)
class Cache:
    """Parts that were read last, up to ``limit_bytes`` of them; the last one in any case."""

    limit_bytes: int
    held_bytes: int = 0
    parts: OrderedDict[tuple[int, int], Part] = field(default_factory=OrderedDict)
    used: set[tuple[int, int]] = field(default_factory=set)

    def drop_unused(self) -> None:
        """Gives up parts that nobody has asked for since the last call: time goes on, and seldom back."""
        for key in [key for key in self.parts if key not in self.used]:
            self.held_bytes -= self.parts.pop(key).size_bytes
        self.used.clear()

    def get(self, source: Source, group: int) -> Part:
        key = (id(source), group)
        self.used.add(key)
        part = self.parts.get(key)
        if part is not None:
            self.parts.move_to_end(key)
            return part
        part = source.load(group)
        self.parts[key] = part
        self.held_bytes += part.size_bytes
        while self.held_bytes > self.limit_bytes and len(self.parts) > 1:
            self.held_bytes -= self.parts.popitem(last=False)[1].size_bytes
        return part


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Rows of a stretch of time.

    Attributes:
        times: rising.
        table: of each, as `Part` has them.
        group: that each is of.
        row: its number in the group.
    """

    times: Int64Array
    table: pa.Table
    group: Int64Array
    row: Int64Array

    def take(self, places: Int64Array) -> pa.Table:
        return self.table.take(column(places))

    def slice(self, start: int, rows: int) -> Stretch:
        part = slice(start, start + rows)
        return Stretch(self.times[part], self.table.slice(start, rows), self.group[part], self.row[part])


def read_stretch(
    source: Source,
    cache: Cache,
    first_ns: int,
    last_ns: int,
    *,
    at: Int64Array | None = None,
    repeated: bool = False,
) -> Stretch | None:
    """The rows from ``first_ns`` to ``last_ns``, both inclusive; None where there are none.

    In order of the clock; of one time, in order of the log; of one log time too, as they lie in the files.
    Of rows of one time there is only the last one, unless they may be ``repeated``. Where it is known what
    times they are wanted ``at``, others than those next to these may be left out.
    """
    groups = source.groups
    pieces: list[tuple[Int64Array, Int64Array, Int64Array, pa.Table]] = []
    for group in np.flatnonzero((groups.first <= last_ns) & (groups.last >= first_ns)):
        part = cache.get(source, int(group))
        if at is None:
            inside = np.flatnonzero((part.times >= first_ns) & (part.times <= last_ns))
        else:
            inside = part.next_to(at)
            inside = inside[(part.times[inside] >= first_ns) & (part.times[inside] <= last_ns)]
        if len(inside):
            rows = part.table if len(inside) == len(part.times) else part.table.take(column(inside))
            pieces.append((part.times[inside], np.full(len(inside), group), inside, rows))
    if not pieces:
        return None
    times, group_of, row_of = (np.concatenate([piece[place] for piece in pieces]) for place in range(3))
    table = pa.concat_tables([piece[3] for piece in pieces])
    order = np.lexsort((integers(one_array(table.column(0))), times))
    if not repeated:
        ordered = times[order]
        order = order[np.append(ordered[1:] != ordered[:-1], True)]
    if not np.array_equal(order, np.arange(len(times))):
        table = table.combine_chunks().take(column(order))
    return Stretch(times[order], table, group_of[order], row_of[order])


def reach(groups: Groups, first_ns: int, last_ns: int, tolerance_ns: int) -> tuple[int, int]:
    """The stretch that has all rows that a time from ``first_ns`` to ``last_ns`` may get.

    However large the tolerance, nothing is read beyond the next row on either side.
    """
    least, most = _INT64.min, _INT64.max
    begin, end = max(first_ns - tolerance_ns, least), min(last_ns + tolerance_ns, most)
    earlier, later = groups.last[groups.last < first_ns], groups.first[groups.first > last_ns]
    if len(earlier):
        begin = max(begin, int(earlier.max()))
    if len(later):
        end = min(end, int(later.min()))
    return begin, end


_INT64 = np.iinfo(np.int64)


# --- a topic in the lake ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LakeTopic:
    """A topic's Parquet files: a `Source`."""

    filesystem: fs.FileSystem
    root: str
    paths: tuple[str, ...]
    clock: Clock
    choice: Choice
    groups: Groups

    def _read(self, group: int, columns: Collection[str]) -> pa.Table:
        path = self.paths[int(self.groups.file[group])]
        with pq.ParquetFile(self.filesystem.open_input_file(f"{self.root}/{path}")) as file:
            number = int(self.groups.number[group])
            return file.read_row_group(number, columns=sorted(columns), use_threads=False)

    def times(self, group: int) -> Int64Array:
        """The times of a group alone, as they lie in the file."""
        clock = clock_column(self.clock)
        return integers(one_array(self._read(group, [clock]).column(clock)))

    def load(self, group: int) -> Part:
        read = self._read(group, {LOG_TIME, clock_column(self.clock), *self.choice.paths})
        logs = one_array(read.column(LOG_TIME)).cast(pa.int64())
        values = [
            conform(one_array(read.column(name)), each.type)
            if name in read.column_names
            else pa.nulls(read.num_rows, each.type)
            for name, each in zip(self.choice.names, self.choice.fields, strict=True)
        ]
        return Part.of(
            integers(one_array(read.column(clock_column(self.clock)))),
            pa.table([logs, *values], schema=pa.schema([_LOGS, *self.choice.fields])),
        )


_LOGS = pa.field("", pa.int64())


@dataclass(frozen=True, slots=True)
class _Footer:
    """What is kept of a file's: its version of the columns, and a line for each row group with rows."""

    version: str
    schema: pa.Schema
    sizes: dict[str, int]
    groups: tuple[tuple[int, int, int, int, int, int], ...]


def open_topic(
    filesystem: fs.FileSystem, root: str, topic: FrameTopic, files: Sequence[contract.OutputFile]
) -> LakeTopic:
    """The topic's files, of which footers are read.

    Raises:
        FramesError: its rows have not the time that is asked for, or not the fields.
    """
    ordered = sorted(files, key=lambda each: (each.first_log_time_ns or 0, each.path))
    paths = tuple(each.path for each in ordered)
    versions: dict[str, Version] = {}
    sizes: dict[str, dict[str, int]] = {}
    lines: list[tuple[str, int, tuple[int, int, int, int, int, int]]] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="frames") as pool:
        for start in range(0, len(paths), 4 * _THREADS):
            some = paths[start : start + 4 * _THREADS]
            for place, footer in enumerate(
                pool.map(lambda path: _footer(filesystem, root, path, topic), some), start
            ):
                versions.setdefault(footer.version, Version(contract.schema_of(paths[place]), footer.schema))
                sizes.setdefault(footer.version, footer.sizes)
                lines += [(footer.version, place, line) for line in footer.groups]
    choice = choose(topic.topic, list(versions.values()), topic.fields)
    wanted = (LOG_TIME, clock_column(topic.clock), *choice.paths)
    shares = {version: _share(each, wanted) for version, each in sizes.items()}
    groups = Groups.of(
        [
            (first, last, rows, start, int(size * shares[version]), place, number)
            for version, place, (first, last, rows, start, size, number) in lines
        ]
    )
    return LakeTopic(filesystem, root, paths, topic.clock, choice, groups)


def _footer(filesystem: fs.FileSystem, root: str, path: str, topic: FrameTopic) -> _Footer:
    with pq.ParquetFile(filesystem.open_input_file(f"{root}/{path}")) as file:
        schema = recorded_schema(file.metadata)
        _check_clock(topic, path, schema)
        clock = clock_column(topic.clock)
        leaf = [file.metadata.schema.column(each).path for each in range(file.metadata.num_columns)]
        groups: list[tuple[int, int, int, int, int, int]] = []
        sizes: dict[str, int] = {}
        start = 0
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if group.num_rows:
                first, last = _span(file, number, clock, leaf.index(clock))
                groups.append((first, last, group.num_rows, start, group.total_byte_size, number))
                if not sizes:
                    sizes = {
                        name: group.column(each).total_uncompressed_size for each, name in enumerate(leaf)
                    }
            start += group.num_rows
        columns = schema.remove_metadata().serialize().to_pybytes()
        version = hashlib.sha256(contract.schema_of(path).encode() + columns).hexdigest()
        return _Footer(version, schema, sizes, tuple(groups))


def _span(file: pq.ParquetFile, number: int, clock: str, leaf: int) -> tuple[int, int]:
    said = file.metadata.row_group(number).column(leaf).statistics
    if said is not None and said.has_min_max:
        return int(said.min), int(said.max)
    times = integers(one_array(file.read_row_group(number, columns=[clock], use_threads=False).column(0)))
    return int(times.min()), int(times.max())


def _check_clock(topic: FrameTopic, path: str, schema: pa.Schema) -> None:
    if LOG_TIME not in schema.names:
        raise FramesError(
            f"topic {topic.topic}: {path} has no column {LOG_TIME}: a transform has left it out"
        )
    if clock_column(topic.clock) not in schema.names:
        raise FramesError(
            f"topic {topic.topic}: its messages have no header, and so no stamp: give it "
            f'"clock": "{Clock.LOG_TIME}" ({path})'
        )


def _share(sizes: Mapping[str, int], wanted: Sequence[str]) -> float:
    """Which part of a row group's bytes is read."""
    read = sum(
        size for name, size in sizes.items() if any(f"{name}.".startswith(f"{each}.") for each in wanted)
    )
    return read / max(sum(sizes.values()), 1)
