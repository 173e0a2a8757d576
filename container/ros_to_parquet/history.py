"""Across drives: which definitions a topic has had, from which drive and bag on, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from ros_to_parquet import drift
from ros_to_parquet.contract import Change, ExtractOptions, SchemaTotal, add_schemas, topic_matches
from ros_to_parquet.drift import Difference, FieldChange, TopicDefinition
from ros_to_parquet.lake import TableSchemas, read_schemas
from ros_to_parquet.schema_records import read_definitions
from ros_to_parquet.storage import Storage, join

_DRIVES_AT_A_TIME: Final = 8
_SEVERITY: Final = tuple(Change)


@dataclass(frozen=True, slots=True)
class Version:
    """One definition of a topic, in all drives.

    Attributes:
        schema: its digits, as in ``schema=``.
        definition: None where neither its record nor a file can be read.
        since: how it differs from the one before it; None of the first, and where one is not known.
        first_drive: where the first of its messages is; ``first_bag`` is the bag of that drive.
    """

    schema: str
    definition: TopicDefinition | None
    since: Difference | None
    drives: int
    rows: int
    first_log_time_ns: int | None
    last_log_time_ns: int | None
    first_drive: str
    first_bag: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "type": self.definition.type_name if self.definition else None,
            "transform": self.definition.transform if self.definition else None,
            "change": str(self.since.change) if self.since else None,
            "fields": [
                {"path": each.path, "kind": str(each.kind), "text": str(each)} for each in self.since.fields
            ]
            if self.since
            else [],
            "notes": list(self.since.notes) if self.since else [],
            "drives": self.drives,
            "rows": self.rows,
            "first_log_time_ns": self.first_log_time_ns,
            "last_log_time_ns": self.last_log_time_ns,
            "first_drive": self.first_drive,
            "first_bag": self.first_bag,
        }


@dataclass(frozen=True, slots=True)
class TopicDrift:
    """A topic's definitions, in the order of their first log times.

    Attributes:
        broken: the first two, by their digits, that no table holds together, and why.
    """

    table: str
    topics: tuple[str, ...]
    versions: tuple[Version, ...]
    broken: tuple[str, str, list[FieldChange]] | None

    @property
    def change(self) -> Change:
        """What it takes to read all of them as one table."""
        if self.broken:
            return Change.BROKEN
        changes = [each.since.change for each in self.versions if each.since]
        return max(changes, key=_SEVERITY.index, default=Change.SAME)

    def definitions(self) -> list[tuple[str, TopicDefinition]]:
        """Those that are known, by their digits."""
        return [(each.schema, each.definition) for each in self.versions if each.definition]

    def together(self) -> list[list[str]]:
        """Those that one table holds together, by their digits: one list where it holds all."""
        return [[digits for digits, _ in group] for group in drift.groups(self.definitions())]

    def as_dict(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "topics": list(self.topics),
            "change": str(self.change),
            "broken": {
                "schemas": list(self.broken[:2]),
                "fields": [str(each) for each in self.broken[2]],
            }
            if self.broken
            else None,
            "together": self.together(),
            "definitions": [each.as_dict() for each in self.versions],
        }


def read_drift(storage: Storage, output: str, options: ExtractOptions, *, single: bool) -> list[TopicDrift]:
    """The topics of ``options`` that have several definitions, or all of them with ``single``; by table.

    Reads the drives' manifests, and one record for each definition that is compared; memory grows with the
    number of tables and definitions, not with that of drives.

    Raises:
        ContractError: a manifest is of another contract version.
    """
    tables = _read_tables(storage, output, options)
    chosen = [tables[name] for name in sorted(tables) if single or len(tables[name].schemas) > 1]
    wanted = [(each.table, use.total.schema, use.total.sample) for each in chosen for use in each.ordered()]
    known = iter(read_definitions(storage, output, wanted))
    return [_compare(each, [next(known) for _ in each.schemas]) for each in chosen]


@dataclass(slots=True)
class _Use:
    """One definition so far; ``drive_id`` is where its first message is, ``last`` who was counted last."""

    total: SchemaTotal
    drive_id: str
    last: str
    drives: int = 1


@dataclass(slots=True)
class _Table:
    table: str
    topics: list[str] = field(default_factory=list)
    schemas: dict[str, _Use] = field(default_factory=dict)

    def add(self, drive_id: str, has: TableSchemas) -> None:
        self.topics += [topic for topic in has.topics if topic not in self.topics]
        for each in has.schemas:
            known = self.schemas.get(each.schema)
            if known is None:
                self.schemas[each.schema] = _Use(each, drive_id, drive_id)
                continue
            (total,) = add_schemas((known.total, each))
            if total.sample != known.total.sample:
                known.drive_id = drive_id
            known.total = total
            known.drives += known.last != drive_id
            known.last = drive_id

    def ordered(self) -> list[_Use]:
        totals = add_schemas(use.total for use in self.schemas.values())
        return [self.schemas[total.schema] for total in totals]


def _read_tables(storage: Storage, output: str, options: ExtractOptions) -> dict[str, _Table]:
    names = storage.folders(join(output, "_manifests"))
    drives = [name.removeprefix("drive_id=") for name in names]
    tables: dict[str, _Table] = {}
    with ThreadPoolExecutor(_DRIVES_AT_A_TIME, thread_name_prefix="drives") as pool:
        for start in range(0, len(drives), 4 * _DRIVES_AT_A_TIME):
            some = drives[start : start + 4 * _DRIVES_AT_A_TIME]
            read = pool.map(lambda drive_id: read_schemas(storage, output, drive_id), some)
            for drive_id, found in zip(some, read, strict=True):
                for table, has in found.items():
                    if has.schemas and any(_is_wanted(topic, options) for topic in has.topics):
                        tables.setdefault(table, _Table(table)).add(drive_id, has)
    return tables


def _is_wanted(topic: str, options: ExtractOptions) -> bool:
    return topic_matches(topic, options.include_topics) and not topic_matches(topic, options.exclude_topics)


def _compare(table: _Table, definitions: Sequence[TopicDefinition | None]) -> TopicDrift:
    since = [drift.compare(old, new) if old and new else None for old, new in pairwise((None, *definitions))]
    versions = tuple(
        Version(
            schema=use.total.schema,
            definition=definition,
            since=difference,
            drives=use.drives,
            rows=use.total.rows,
            first_log_time_ns=use.total.first_log_time_ns,
            last_log_time_ns=use.total.last_log_time_ns,
            first_drive=use.drive_id,
            first_bag=use.total.first_bag,
        )
        for use, definition, difference in zip(table.ordered(), definitions, since, strict=True)
    )
    known = [(each.schema, each.definition) for each in versions if each.definition]
    return TopicDrift(table.table, tuple(table.topics), versions, drift.find_broken(known))


# --- for people --------------------------------------------------------------------------------------


def lines(found: Sequence[TopicDrift], *, fields: int) -> Iterator[str]:
    """What a report says, with at most ``fields`` lines a change."""
    for each in found:
        count = len(each.versions)
        verdict = {
            Change.SAME: "the same columns",
            Change.WIDENED: "widened: one table holds all, with casts that keep every value",
            Change.ADDED: "added: one table holds all, with nulls for fields that some lack",
            Change.BROKEN: "broken: no table holds all",
        }[each.change]
        yield f"{', '.join(each.topics)}: {count} definition{'s' if count > 1 else ''}, {verdict}"
        for version in each.versions:
            yield from _version_lines(version, fields)
        if each.broken and not any(v.since and v.since.change is Change.BROKEN for v in each.versions):
            one, other, changes = each.broken
            yield f"  {one} and {other}: {changes[0]}"
        if each.broken and (several := [group for group in each.together() if len(group) > 1]):
            yield f"  one table holds {', another one '.join(' and '.join(group) for group in several)}"


def _version_lines(version: Version, fields: int) -> Iterator[str]:
    known = version.definition
    kind = known.type_name if known else "not readable"
    if known and known.transform:
        kind += f" by transform {known.transform}"
    change = f"{version.since.change}, " if version.since else ""
    drives = "1 drive" if version.drives == 1 else f"{version.drives:,} drives"
    yield (
        f"  {version.schema}  {change}{kind}: {version.rows:,} rows in {drives}, "
        f"{time_text(version.first_log_time_ns)} to {time_text(version.last_log_time_ns)}"
    )
    bag = f", bag {version.first_bag}" if version.first_bag else ""
    yield f"    from drive {version.first_drive}{bag} on"
    texts = version.since.texts() if version.since else []
    yield from (f"    {text}" for text in texts[:fields])
    if len(texts) > fields:
        yield f"    and {len(texts) - fields} more"


def time_text(time_ns: int | None) -> str:
    """ISO 8601, UTC, to the second; times that no calendar has, in nanoseconds."""
    if time_ns is None:
        return "unknown"
    try:
        return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
