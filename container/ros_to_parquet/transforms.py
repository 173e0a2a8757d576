"""Transforms: a team's own code between the rows of a topic and its table, found by entry point.

An entry point of the group `GROUP` is one of two:

- a function ``(rows, topic) -> rows``, called with each `pyarrow.RecordBatch` and the `TopicInfo`;
- a class, where rows depend on those before them: an object of it is made, with the `TopicInfo`, for each bag
  (the slice of it that the shard has) and each publisher of the topic that the bag tells apart. Its method
  ``transform(rows) -> rows`` is called with each batch, in the order of the recording; its method
  ``finish() -> rows``, if it has one, at the end of the bag.

What they give back is `Output`. docs/transforms.md says what a table of it looks like.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet.contract import TransformRule, topic_matches
from ros_to_parquet.parquet import TableColumns
from ros_to_parquet.parquet_options import leaves
from ros_to_parquet.schema import ELEMENT

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "ros_to_parquet.transforms"
"""Entry point group."""

METADATA_KEY: Final = "ros_to_parquet.transform"
"""Key-value metadata of a file whose rows a transform has made: JSON of name, distribution and version."""

Output: TypeAlias = "pa.RecordBatch | pa.Table | Iterable[pa.RecordBatch | pa.Table] | None"
"""Rows that a transform gives back; None for none. All batches of one topic and bag have the same columns."""

_OWN: Final = {
    field.name: field for field in TableColumns(stamp=True, publish_time=True, sequence=True).fields()
}
"""The engine's own columns: they come first and keep their types where a transform keeps them."""

_PLACES: Final = {name: place for place, name in enumerate(_OWN)}

_PARTITIONS: Final = frozenset({"schema", "drive_id"})


class TransformChoiceError(ValueError):
    """Transforms that cannot be had, or not all at once: the conf or the image is wrong."""


class TransformError(RuntimeError):
    """A transform has failed, or given what no table can be: says which, and on which rows."""


class _OutputError(ValueError):
    """What a transform gave is not what it may give."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """Whose rows a transform is given.

    Attributes:
        bag: the bag's name, as the column ``bag`` has it.
        type_name: as recorded: ``sensor_msgs/Image`` in ROS 1, ``sensor_msgs/msg/Image`` in ROS 2.
        definition: of the message; empty where the bag has none.
        schema: of the rows: the engine's own columns, then the message's fields, as in any table.
    """

    drive_id: str
    bag: str
    topic: str
    type_name: str
    definition: str
    encoding: str
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Transform:
    """An installed transform: the function or class of the entry point ``name``, and the package it is of."""

    name: str
    distribution: str
    version: str
    code: Callable[..., Any]

    def __str__(self) -> str:
        return f"transform {self.name} ({self.distribution} {self.version})"

    @property
    def metadata(self) -> str:
        """What files say of it, under `METADATA_KEY`."""
        return json.dumps({"name": self.name, "distribution": self.distribution, "version": self.version})

    def schema_hash(self, digits: str, made: pa.Schema) -> str:
        """Eight hex digits for the table of what it has made of rows whose own are ``digits``."""
        columns = [(field.name, str(field.type), field.nullable) for field in made]
        return hashlib.sha256(f"{digits} {self.name} {json.dumps(columns)}".encode()).hexdigest()[:8]


# --- which -------------------------------------------------------------------------------------------


def find_transforms() -> dict[str, list[EntryPoint]]:
    """The entry points of all that is installed, by name. More than one of a name is a mistake."""
    from importlib.metadata import entry_points  # reads the metadata of every package

    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, package_of(point))):
        found.setdefault(point.name, []).append(point)
    return found


def package_of(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that has the entry point."""
    return (point.dist.name, point.dist.version) if point.dist else ("", "")


class Transforms:
    """The transforms that options choose.

    Raises:
        TransformChoiceError: one is not installed, installed twice, or cannot be imported.
    """

    def __init__(self, rules: Sequence[TransformRule]) -> None:
        self._rules = tuple(rules)
        installed = find_transforms() if rules else {}
        self._by_name = {name: _load(name, installed) for name in sorted({rule.name for rule in rules})}

    def of(self, topic: str) -> Transform | None:
        """The topic's transform.

        Raises:
            TransformChoiceError: rules name several.
        """
        rules = [rule for rule in self._rules if topic_matches(topic, [rule.topics])]
        if len({rule.name for rule in rules}) > 1:
            both = ", ".join(f"{rule.topics!r}: {rule.name}" for rule in rules)
            raise TransformChoiceError(f"topic {topic} has several transforms ({both}); a topic has one")
        return self._by_name[rules[0].name] if rules else None


def _load(name: str, installed: Mapping[str, Sequence[EntryPoint]]) -> Transform:
    points = installed.get(name, ())
    if not points:
        known = ", ".join(installed) or "none"
        raise TransformChoiceError(
            f"transform {name} is not installed where the engine runs; installed: {known} "
            f"(entry points of the group {GROUP})"
        )
    if len(points) > 1:
        packages = " and ".join(package for package, _ in map(package_of, points))
        raise TransformChoiceError(
            f"transform {name} is in several packages: {packages}; uninstall all but one"
        )
    (point,) = points
    package, version = package_of(point)
    where = f"transform {name} ({package} {version}), {point.value}"
    try:
        code = point.load()
    except (Exception, SystemExit) as error:
        raise TransformChoiceError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from error
    method = getattr(code, "transform", None) if isinstance(code, type) else code
    if not callable(method):
        kind = "is a class without a method transform(rows)" if isinstance(code, type) else "cannot be called"
        raise TransformChoiceError(f"{where}: {kind}; it is to be a function (rows, topic) or such a class")
    return Transform(name, package, version, code)


# --- at work -----------------------------------------------------------------------------------------


class RunningTransform:
    """A transform at work on one publisher's rows of one bag.

    Raises, as each of its methods:
        TransformError: the transform's code has failed, or gave what no table can be.
    """

    def __init__(self, transform: Transform, topic: TopicInfo) -> None:
        self.schema: pa.Schema | None = None
        """Of all batches that come out; None before the first."""
        self._where = f"{transform}: topic {topic.topic}, bag {topic.bag}"
        code = transform.code
        if isinstance(code, type):
            (worker,) = self._guarded(lambda: iter([code(topic)]), lambda: "")
            self._call: Callable[[pa.RecordBatch], Output] = worker.transform
            self._finish: Callable[[], Output] = getattr(worker, "finish", _nothing)
        else:
            self._call = lambda rows: code(rows, topic)
            self._finish = _nothing

    def apply(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """What comes out for ``rows``."""
        return self._guarded(lambda: map(self._fitted, _batches(self._call(rows))), lambda: _times(rows))

    def finish(self) -> Iterator[pa.RecordBatch]:
        """What comes out at the end of the bag."""
        return self._guarded(lambda: map(self._fitted, _batches(self._finish())), lambda: ", at its end")

    def too_large(self, reason: str) -> TransformError:
        """The error to raise where a row that came out cannot be written."""
        return TransformError(f"{self._where}: it gave a row that is {reason}")

    def _guarded(self, call: Callable[[], Iterator[Any]], times: Callable[[], str]) -> Iterator[Any]:
        try:
            yield from call()
        except MemoryError:
            raise
        except _OutputError as error:
            raise TransformError(f"{self._where}{times()}: {error}") from None
        except (Exception, SystemExit) as error:  # with 0, the shard would seem to be done
            last = extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
            raise TransformError(f"{self._where}{times()}: {reason}") from error

    def _fitted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """``batch`` with the engine's own columns in front and with their types.

        Raises:
            _OutputError: it cannot be a table, or its columns are not those of the first batch.
        """
        batch.validate()
        names = batch.schema.names
        if self.schema is None:
            _check_names(names)
        order = sorted(range(len(names)), key=lambda place: _PLACES.get(names[place], len(_PLACES)))
        columns = [_own(names[place], batch.column(place)) for place in order]
        fields = [
            _OWN.get(names[place], batch.schema.field(place)).with_type(column.type)
            for place, column in zip(order, columns, strict=True)
        ]
        if self.schema is None:
            schema = pa.schema(fields)
            _check_types(schema)
            self.schema = schema
        elif changes := _changes(self.schema, fields):
            raise _OutputError(
                f"its columns differ from those of its first batch: {changes}; they are to be the same for "
                "all rows of a topic and bag"
            )
        for field, column in zip(self.schema, columns, strict=True):
            if place := _unexpected_null(field.name, field, column):
                raise _OutputError(f"column {place} has nulls, and its type says that it has none")
        made = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        _check_times(made)
        return made


def _nothing() -> None:
    return None


def _times(rows: pa.RecordBatch) -> str:
    times_ns = np.from_dlpack(rows.column("log_time_ns"))
    first, last = (_iso(int(time_ns)) for time_ns in (times_ns.min(), times_ns.max()))
    if rows.num_rows == 1:
        return f", 1 row of log time {first}"
    return f", {rows.num_rows:,} rows of log times {first} to {last}"


def _iso(time_ns: int) -> str:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _batches(output: Output) -> Iterator[pa.RecordBatch]:
    if output is None:
        return
    if isinstance(output, pa.RecordBatch):
        yield output
    elif isinstance(output, pa.Table):
        # Where it has no rows, its columns still say what the table is.
        yield from output.to_batches() or [pa.RecordBatch.from_pylist([], schema=output.schema)]
    elif isinstance(output, Iterable) and not (isinstance(output, Mapping) or hasattr(output, "__array__")):
        for each in output:
            if not isinstance(each, pa.RecordBatch | pa.Table):
                raise _OutputError(f"it gave {_kind(each)} among its batches, not a pyarrow.RecordBatch")
            yield from _batches(each)
    else:
        raise _OutputError(
            f"it gave {_kind(output)}; it is to give a pyarrow.RecordBatch or Table, several of them, or None"
        )


def _kind(value: object) -> str:
    kind = type(value)
    return f"a {kind.__module__.partition('.')[0]}.{kind.__qualname__}".replace("builtins.", "")


# --- what may come out -------------------------------------------------------------------------------


def _check_names(names: Sequence[str]) -> None:
    used: set[str] = set()
    for name in names:
        if not name:
            raise _OutputError("it gave a column without a name")
        if name.lower() in _PARTITIONS:
            raise _OutputError(
                f"column {name!r}: {', '.join(sorted(_PARTITIONS))} are partitions of the table"
            )
        if name.lower() in used:
            raise _OutputError(f"column {name!r} is there twice (most readers do not tell A from a)")
        used.add(name.lower())
    if not names:
        raise _OutputError("it gave a batch without columns")


def _own(name: str, column: pa.Array) -> pa.Array:
    """The column, of the engine's own type if it is one of the engine's own."""
    field = _OWN.get(name)
    if field is None:
        return _joinable(column)
    if column.type == field.type:
        return column
    try:
        if pa.types.is_dictionary(field.type):
            return column.cast(pa.string()).dictionary_encode()
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise _OutputError(
            f"column {name} is {column.type}, and in every table {field.type}: {error}; name it otherwise"
        ) from error


def _joinable(column: pa.Array) -> pa.Array:
    """The column of a type whose batches can be put together and sorted, whatever their values.

    Dictionaries outgrow narrow indices together, and are not joined where they hold nulls; Arrow does not
    sort views.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        if column.dictionary.null_count:
            return column.dictionary_decode().dictionary_encode()
        return column.cast(pa.dictionary(pa.int32(), kind.value_type))
    if pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.binary())
    return column


def _check_nested_names(path: str, kind: pa.DataType) -> None:
    if pa.types.is_struct(kind):
        used: set[str] = set()
        for child in kind:
            if child.name.lower() in used:
                raise _OutputError(
                    f"field {path}.{child.name} is there twice (most readers do not tell A from a)"
                )
            used.add(child.name.lower())
            _check_nested_names(f"{path}.{child.name}", child.type)
    elif pa.types.is_map(kind):
        _check_nested_names(f"{path}.value", kind.item_type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        _check_nested_names(f"{path}.{ELEMENT}", kind.value_type)


def _check_types(schema: pa.Schema) -> None:
    for column in schema:
        _check_nested_names(column.name, column.type)
    for path, kind in leaves(schema):
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            raise _OutputError(
                f"column {path} is {kind}, which cannot be sorted: cast it to string or binary"
            )
        if pa.types.is_null(kind):
            raise _OutputError(
                f"column {path} has no type: give one, so that batches with values have the same"
            )
        if (pa.types.is_timestamp(kind) or pa.types.is_time64(kind)) and kind.unit == "ns":
            raise _OutputError(
                f"column {path} is {kind}, which not every reader of Parquet has: cast it to us, or to int64"
            )
    try:
        pq.write_table(schema.empty_table(), pa.BufferOutputStream())
    except pa.ArrowException as error:
        raise _OutputError(f"Parquet cannot hold its columns: {error}") from error


def _unexpected_null(place: str, field: pa.Field, column: pa.Array) -> str:
    """Which part of a column has nulls though its type says that it has none; empty where none has."""
    if column.null_count and not field.nullable:
        return place
    kind = field.type
    if pa.types.is_struct(kind):
        inside = [(f"{place}.{child.name}", child, column.field(number)) for number, child in enumerate(kind)]
    elif pa.types.is_map(kind):
        inside = [(f"{place}.value", kind.item_field, column.items)]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inside = [(f"{place}.{ELEMENT}", kind.value_field, column.flatten())]
    else:
        inside = []
    return next(filter(None, (_unexpected_null(*each) for each in inside)), "")


def _changes(schema: pa.Schema, fields: Sequence[pa.Field]) -> str:
    """How ``fields`` differ from the schema: the first difference of each kind; empty where they do not."""
    now = {field.name: field.type for field in fields}
    missing = [name for name in schema.names if name not in now]
    new = [name for name in now if name not in schema.names]
    other = [field for field in schema if field.name in now and field.type != now[field.name]]
    found = []
    if missing:
        found.append(f"{missing[0]} is missing")
    if new:
        found.append(f"{new[0]} is new")
    if other:
        found.append(f"{other[0].name} is {now[other[0].name]}, was {other[0].type}")
    if not found and list(now) != schema.names:
        found.append(f"they come in the order {', '.join(now)}")
    return ", ".join(found)


def _check_times(batch: pa.RecordBatch) -> None:
    """Files are sorted by both columns, and readers go by it."""
    if tuple(batch.schema.names[:2]) != ("log_time", "log_time_ns") or not batch.num_rows:
        return
    times_us = np.from_dlpack(batch.column(0).view(pa.int64()))
    times_ns = np.from_dlpack(batch.column(1))
    wrong = np.flatnonzero(times_us != np.floor_divide(times_ns, 1000))
    if len(wrong):
        row = int(wrong[0])
        raise _OutputError(
            f"row {row} has log_time {batch.column(0)[row]} and log_time_ns {times_ns[row]}, "
            "which are not one time: change both or neither"
        )
