"""What is behind the ``schema=`` partitions of a lake: one small record a definition, made when it is new.

A drive's commit compares its definitions with each other and with what the lake has by these records, which
repeat what any of the partition's files says of itself. A record that is missing is made by the next commit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet import contract, drift
from ros_to_parquet.contract import (
    Column,
    ContractError,
    Drift,
    DriveManifest,
    Plan,
    SchemaRecord,
    SchemaTotal,
    TableTotal,
)
from ros_to_parquet.drift import TopicDefinition
from ros_to_parquet.log import event
from ros_to_parquet.parquet_options import recorded_schema
from ros_to_parquet.storage import AccessDeniedError, NotFoundError, Storage, join
from ros_to_parquet.storage.arrow_reading import reading_filesystem
from ros_to_parquet.transforms import METADATA_KEY

_THREADS: Final = 16

MAX_RECORDED: Final = 5_000
"""New definitions that one commit records; the next one goes on."""

MAX_TYPE_LENGTH: Final = 1_000
"""Of a column's type in a record, in words."""

MAX_COMPARED_TABLES: Final = 1_000
"""Tables with several definitions that one commit compares."""

_MAX_OTHERS: Final = 32
"""Definitions of a table that are looked at to find the one to compare a new one with."""

Known = Mapping[str, set[str]]
"""By table, the digits of the definitions that the lake has records of."""


def _in_words(columns: pa.Schema) -> tuple[Column, ...]:
    """A column's type may name thousands of fields."""
    return tuple(Column(column.name, str(column.type)[:MAX_TYPE_LENGTH]) for column in columns)


# --- definitions -------------------------------------------------------------------------------------


def definition_of_file(columns: pa.Schema) -> TopicDefinition:
    """What a file says of itself; ``columns`` as of `recorded_schema`."""
    said = {key.decode(): value.decode("utf-8", "replace") for key, value in (columns.metadata or {}).items()}
    transform = said.get(METADATA_KEY)
    return TopicDefinition(
        columns=columns,
        type_name=said.get("ros.type", ""),
        text=said.get("ros.definition", ""),
        text_format=said.get("ros.definition_format", ""),
        encoding=said.get("ros.encoding", ""),
        transform=str(json.loads(transform)["name"]) if transform else "",
    )


def definition_of_record(record: SchemaRecord) -> TopicDefinition:
    columns = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(record.arrow_schema)))
    return TopicDefinition(
        columns=columns,
        type_name=record.type_name,
        text=record.definition,
        text_format=record.definition_format,
        encoding=record.encoding,
        transform=record.transform,
    )


def read_definitions(
    storage: Storage, output: str, wanted: Sequence[tuple[str, str, str]]
) -> list[TopicDefinition | None]:
    """Of each (table, digits, path of one of its files): by its record, else by that file.

    None where neither can be read, which the log says.
    """

    def read(each: tuple[str, str, str]) -> TopicDefinition | None:
        table, digits, path = each
        record = _load(storage, join(output, contract.schema_key(table, digits)))
        return definition_of_record(record) if record else _read_file(storage, output, path)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="schemas") as pool:
        return list(pool.map(read, wanted))


def _read_file(storage: Storage, output: str, path: str) -> TopicDefinition | None:
    try:
        footer = pq.read_metadata(join(output, path), filesystem=reading_filesystem(storage))
    except (NotFoundError, AccessDeniedError, pa.ArrowInvalid) as error:
        event("definition_unknown", file=path, reason=str(error))
        return None
    return definition_of_file(recorded_schema(footer))


def _load(storage: Storage, uri: str) -> SchemaRecord | None:
    try:
        return contract.from_json(SchemaRecord, storage.read(uri), where=uri)
    except NotFoundError:
        return None
    except ContractError as error:  # it only repeats what files say
        event("schema_record_refused", reason=str(error))
        return None


# --- a drive's commit --------------------------------------------------------------------------------


def find_drift(storage: Storage, plan: Plan, commit: DriveManifest) -> list[Drift]:
    """Records the drive's new definitions; returns how those differ from what the drive or the lake had.

    A definition is new if this plan, or one that it replaces, has brought it into the lake; so that a run
    that is killed says on its retry what it would have said. Of two drives that bring one each at once, the
    later to look sees the other's. Rights that are missing are logged; the commit goes on without.

    Raises:
        StorageError: the store has failed.
    """
    try:
        return _find_drift(storage, plan, commit)
    except AccessDeniedError as error:
        event("drift_unknown", drive_id=plan.drive_id, reason=str(error))
        return []


def _find_drift(storage: Storage, plan: Plan, commit: DriveManifest) -> list[Drift]:
    tables = {each.table: each for each in commit.tables if each.schemas}
    known = _list_known(storage, plan.output, tables)
    new = [
        (table, schema)
        for name, table in tables.items()
        for schema in table.schemas
        if schema.schema not in known[name]
    ]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="schemas") as pool:
        if new:
            list(pool.map(lambda each: _record(storage, plan, *each), new[:MAX_RECORDED]))
            known = _list_known(storage, plan.output, tables)
        changed = [
            each for name, each in tables.items() if len(known[name] | {s.schema for s in each.schemas}) > 1
        ]
        if len(changed) > MAX_COMPARED_TABLES:
            left = len(changed) - MAX_COMPARED_TABLES
            event("drift_not_compared", drive_id=plan.drive_id, tables=left)
        found = pool.map(
            lambda each: list(_drift_of(storage, plan, each, known[each.table])),
            changed[:MAX_COMPARED_TABLES],
        )
        return [each for some in found for each in some]


def _list_known(storage: Storage, output: str, tables: Iterable[str]) -> Known:
    known: dict[str, set[str]] = {table: set() for table in tables}
    for info in storage.objects(join(output, contract.SCHEMAS_FOLDER)):
        *_, table, name = info.uri.split("/")
        if table in known and name.endswith(".json"):
            known[table].add(name.removesuffix(".json"))
    return known


def _record(storage: Storage, plan: Plan, table: TableTotal, schema: SchemaTotal) -> None:
    definition = _read_file(storage, plan.output, schema.sample)
    if definition is None:
        return
    record = SchemaRecord(
        contract_version=contract.CONTRACT_VERSION,
        table=table.table,
        schema=schema.schema,
        topic=table.topics[0],
        type_name=definition.type_name,
        definition=definition.text,
        definition_format=definition.text_format,
        encoding=definition.encoding,
        transform=definition.transform,
        arrow_schema=base64.b64encode(definition.columns.remove_metadata().serialize()).decode(),
        drive_id=plan.drive_id,
        plan_id=plan.plan_id,
        first_log_time_ns=schema.first_log_time_ns,
        first_bag=schema.first_bag,
        columns=_in_words(definition.columns),
    )
    uri = join(plan.output, contract.schema_key(table.table, schema.schema))
    with suppress(FileExistsError):  # another drive's commit was faster
        storage.create(uri, contract.to_json(record))


def _drift_of(storage: Storage, plan: Plan, table: TableTotal, known: set[str]) -> Iterator[Drift]:
    """Of a table with several definitions, in the drive or in the lake."""
    own = {each.schema: each for each in table.schemas}
    first = table.schemas[0].schema
    records = {
        digits: record
        for digits in own
        if (record := _load(storage, join(plan.output, contract.schema_key(table.table, digits))))
    }
    if first in records and records[first].plan_id in (plan.plan_id, *plan.replaces):
        before = _before(storage, plan, table.table, records[first], known - own.keys())
        if before:
            record, drive_id = before
            yield _compare(table, own[first], records[first], record, drive_id)
    for schema, following in zip(table.schemas, table.schemas[1:], strict=False):
        one, other = records.get(schema.schema), records.get(following.schema)
        if one and other:
            yield _compare(table, following, other, one, plan.drive_id)


def _before(
    storage: Storage, plan: Plan, table: str, new: SchemaRecord, others: set[str]
) -> tuple[SchemaRecord, str] | None:
    """What the lake had: the latest definition before the new one, else the earliest; and a drive with it."""
    records = [
        record
        for digits in sorted(others)[:_MAX_OTHERS]
        if (record := _load(storage, join(plan.output, contract.schema_key(table, digits))))
    ]
    time_ns = new.first_log_time_ns or 0
    records.sort(key=lambda each: _distance(each.first_log_time_ns or 0, time_ns))
    for record in records:
        if drive_id := _holder(storage, plan, table, record.schema):
            return record, drive_id
    return None


def _distance(time_ns: int, new_ns: int) -> tuple[bool, int]:
    return time_ns > new_ns, abs(new_ns - time_ns)


def _holder(storage: Storage, plan: Plan, table: str, digits: str) -> str:
    """A drive that has files of a definition, but what this plan replaces; empty where none has."""
    for info in storage.objects(join(plan.output, f"{table}/schema={digits}")):
        drive_id = info.uri.split("/")[-2].removeprefix("drive_id=")
        if drive_id != plan.drive_id or not plan.replaces:
            return drive_id
    return ""


def _compare(
    table: TableTotal, schema: SchemaTotal, record: SchemaRecord, before: SchemaRecord, drive_id: str
) -> Drift:
    difference = drift.compare(definition_of_record(before), definition_of_record(record))
    texts = difference.texts()
    return Drift(
        topic=table.topics[0],
        table=table.table,
        change=difference.change,
        schema=schema.schema,
        before=before.schema,
        before_drive=drive_id,
        bag=schema.first_bag,
        first_log_time_ns=schema.first_log_time_ns,
        fields=tuple(texts[: contract.MAX_FIELDS]),
        field_count=len(texts),
    )
