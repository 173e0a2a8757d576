"""Tables of a lake in an AWS Glue database, for Athena and all that reads Glue.

Of each definition of a topic a table (`definition_name`), with a partition for each drive; of each topic a
view (`catalog_name`) over them. A table holds one definition, so that no reader has to reconcile types; the
view has the casts.

Partitions name their files in a list of its own in the lake (``_catalog/``), as S3 Inventory's tables do: a
partition changes from one list to another in one request, so that readers have each row once while a drive is
replaced, too. Or they are folders, for readers that do not know such lists: Spark, Hive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa

from ros_to_parquet import contract, drift, lake
from ros_to_parquet.catalog import athena_views
from ros_to_parquet.catalog.columns import (
    catalog_name,
    definition_name,
    hive_columns,
    hive_text,
    with_own,
)
from ros_to_parquet.catalog.files import (
    CatalogError,
    Registered,
    definitions,
    may_be_elsewhere,
    partitions,
    topics_of,
)
from ros_to_parquet.contract import FLEET_TABLES, GlueFiles, OutputFile
from ros_to_parquet.drift import TopicDefinition
from ros_to_parquet.fleet import SCHEMAS as FLEET_SCHEMAS
from ros_to_parquet.schema_records import read_definitions
from ros_to_parquet.storage import Storage, join
from ros_to_parquet.text import and_more

CATALOG_FOLDER: Final = "_catalog"

ATTEMPTS: Final = 10
"""Tries of one request, by the client itself; ``AWS_MAX_ATTEMPTS`` says otherwise."""

_ROUNDS: Final = 20
"""Times that a catalogue is brought up to what it should be, while others change it too."""

_THREADS: Final = 8
_DELETED_AT_ONCE: Final = 25

_PREFIX: Final = "ros_to_parquet."
"""Of the parameters by which a lake knows its own tables."""

_FORM: Final = "1"
"""Another one has tables and views written anew."""

_SERDE: Final = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
_FORMATS: Final = {
    GlueFiles.LISTED: (
        "org.apache.hadoop.hive.ql.io.SymlinkTextInputFormat",
        "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
    ),
    GlueFiles.FOLDERS: (
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    ),
}
_PARTITION_KEYS: Final = [{"Name": name, "Type": "string"} for name in athena_views.PARTITIONS]


@dataclass(frozen=True, slots=True)
class GlueDatabase:
    """A lake's database in Glue."""

    client: Any
    name: str
    output: str
    files: GlueFiles = GlueFiles.LISTED

    def owns(self, table: Mapping[str, Any]) -> bool:
        return str(table.get("Parameters", {}).get(f"{_PREFIX}lake", "")) == self.output


def open_database(output: str, name: str, files: GlueFiles = GlueFiles.LISTED) -> GlueDatabase:
    """The database ``name``, which is made where it is missed: credentials and region as boto3 finds them.

    Raises:
        CatalogError: the lake is not in S3.
    """
    if not output.startswith("s3://"):
        raise CatalogError(f"{output}: a Glue catalogue is of a lake in S3; for this one take Iceberg")
    return GlueDatabase(_client(output), name, output, files)


@cache
def _client(output: str) -> Any:
    """In the region that boto3 finds, else in that of the lake's bucket. To make one takes a second."""
    import boto3
    from botocore.config import Config

    from ros_to_parquet.storage.s3 import client_attempts

    session = boto3.Session()
    retries: Any = {"mode": "standard", "total_max_attempts": client_attempts(ATTEMPTS)}
    config = Config(retries=retries, max_pool_connections=2 * _THREADS)
    client = session.client("glue", region_name=session.region_name or _region_of(output), config=config)
    _ = client.exceptions  # threads that were the first to ask for it would have classes of their own each
    return client


def _region_of(output: str) -> str:
    from ros_to_parquet.storage.s3 import s3_client, split_s3

    answer = s3_client().head_bucket(Bucket=split_s3(output)[0])
    return answer.get("BucketRegion") or "us-east-1"


@contextmanager
def _glue_errors(database: GlueDatabase) -> Iterator[None]:
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        message = error.response.get("Error", {}).get("Message", "")
        said = f"Glue database {database.name}: {error.operation_name}: {code}: {message}".rstrip(": .")
        if "AccessDenied" in code:
            said += f"; let the role that asks do glue:{error.operation_name} on the catalog, this database "
            said += "and its tables (stack update NAME --glue-database), and in Lake Formation if that has it"
        raise CatalogError(said) from error
    except aws.BotoCoreError as error:
        raise CatalogError(f"Glue database {database.name}: {error}") from error


# --- drives ------------------------------------------------------------------------------------------


def register_drive(
    storage: Storage, database: GlueDatabase, drive_id: str, *, everywhere: bool = False
) -> Registered:
    """Has the database point at exactly the files that the drive's manifests name; at none if there are none.

    Args:
        everywhere: look for files of the drive in all tables, though no run has replaced any.

    Raises:
        CatalogError: Glue refuses, or the database has a table of the same name that is not this lake's.
        StorageError: the lake cannot be read or written.
    """
    with _glue_errors(database):
        return lake.derive(
            storage,
            database.output,
            drive_id,
            lambda record: _register(storage, database, record, everywhere or may_be_elsewhere(record)),
        )


def _register(
    storage: Storage, database: GlueDatabase, record: lake.DriveRecord, everywhere: bool
) -> Registered:
    found = partitions(record)
    known = definitions(storage, database.output, found)
    topics = topics_of(record)
    left_out = [
        f"table {table}, schema {digits}: its columns cannot be read"
        for table, digits in found.keys() - known
    ]
    wanted: dict[str, _DefinitionTable] = {}
    for (table, digits), definition in known.items():
        made = _DefinitionTable.of(table, digits, topics[table], definition, found[table, digits])
        wanted[made.name] = made
        left_out += [f"table {table}, schema {digits}: column {each}" for each in made.left_out]
    places = {
        name: _write_list(storage, database, record.drive_id, each, found[each.table, each.digits])
        for name, each in wanted.items()
    }

    def bring_up() -> _Done:
        own = _own_tables(database)
        given = {each.name: each.input(database) for each in wanted.values()} | _fleet_tables(database)
        done = _Done(_put_tables(database, own, given))
        others = [name for name in own if everywhere and _is_definition(own[name])]
        names = sorted({*wanted, *others})
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="glue") as pool:
            for each in pool.map(
                lambda name: _put_partition(
                    storage, database, name, record.drive_id, wanted.get(name), places.get(name)
                ),
                names,
            ):
                done = done.add(each)
        return done

    changed = _settle(database, bring_up)
    problems: dict[str, str] = {}
    changed += _settle(
        database, lambda: _put_views(storage, database, {table for table, _ in known}, problems)
    )
    views = {catalog_name(table) for table, _ in known if table not in problems}
    left_out += problems.values()
    return Registered(tuple(sorted(views | wanted.keys())), changed, tuple(sorted(left_out)))


@dataclass(frozen=True, slots=True)
class _Done:
    """How much was done, and whether to look again: others change the same."""

    count: int = 0
    again: bool = False

    def add(self, other: _Done) -> _Done:
        return _Done(self.count + other.count, self.again or other.again)


def _settle(database: GlueDatabase, bring_up: Callable[[], _Done]) -> int:
    """Does it until there is nothing to look at again; how much was done in all."""
    total = 0
    for _ in range(_ROUNDS):
        done = bring_up()
        total += done.count
        if not done.again:
            return total
    raise CatalogError(f"Glue database {database.name}: it is changed again and again meanwhile; try again")


@dataclass(frozen=True, slots=True)
class _DefinitionTable:
    """A table of one definition; ``columns`` are those that Hive has."""

    name: str
    table: str
    digits: str
    topics: tuple[str, ...]
    type_name: str
    sample: str
    columns: pa.Schema
    left_out: tuple[str, ...]

    @classmethod
    def of(
        cls,
        table: str,
        digits: str,
        topics: Sequence[str],
        definition: TopicDefinition,
        files: Sequence[OutputFile],
    ) -> _DefinitionTable:
        columns, left_out = _columns(definition)
        return cls(
            name=definition_name(table, digits),
            table=table,
            digits=digits,
            topics=tuple(topics),
            type_name=definition.type_name,
            sample=files[0].path,
            columns=columns,
            left_out=tuple(left_out),
        )

    def glue_columns(self) -> list[dict[str, str]]:
        return _glue_columns(self.columns)

    def input(self, database: GlueDatabase) -> dict[str, Any]:
        folder = f"schema={self.digits}"
        place = (
            f"{CATALOG_FOLDER}/{self.table}/{folder}"
            if database.files is GlueFiles.LISTED
            else f"{self.table}/{folder}"
        )
        about = f"Topic {', '.join(self.topics)}, {self.type_name}, schema {self.digits} alone"
        if self.left_out:
            about += f"; without {and_more(self.left_out)}"
        return {
            "Name": self.name,
            "Description": about[:2048],
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {
                "EXTERNAL": "TRUE",
                "classification": "parquet",
                **_said(database, table=self.table, schema=self.digits, sample=self.sample),
            },
            "PartitionKeys": _PARTITION_KEYS,
            "StorageDescriptor": _storage_descriptor(database.files, self.glue_columns(), database, place),
        }


def _columns(definition: TopicDefinition) -> tuple[pa.Schema, list[str]]:
    """A transform's columns are its own."""
    return hive_columns(definition.columns if definition.transform else with_own(definition.columns))


def _glue_columns(columns: Iterable[pa.Field]) -> list[dict[str, str]]:
    return [{"Name": each.name.lower(), "Type": hive_text(each.type)} for each in columns]


def _said(database: GlueDatabase, **more: str) -> dict[str, str]:
    said = {"lake": database.output, "form": _FORM, **more}
    return {f"{_PREFIX}{key}": value for key, value in said.items()}


def _parameter(table: Mapping[str, Any], name: str) -> str:
    return str(table.get("Parameters", {}).get(f"{_PREFIX}{name}", ""))


def _is_definition(table: Mapping[str, Any]) -> bool:
    return bool(_parameter(table, "schema"))


def _storage_descriptor(
    files: GlueFiles, columns: Sequence[Mapping[str, str]], database: GlueDatabase, place: str
) -> dict[str, Any]:
    read, write = _FORMATS[files]
    return {
        "Columns": list(columns),
        "Location": f"{join(database.output, place).rstrip('/')}/",
        "InputFormat": read,
        "OutputFormat": write,
        "SerdeInfo": {"SerializationLibrary": _SERDE, "Parameters": {"serialization.format": "1"}},
    }


# --- tables ------------------------------------------------------------------------------------------


def _own_tables(database: GlueDatabase) -> dict[str, dict[str, Any]]:
    """The lake's tables and views, by their names; makes the database where there is none."""
    client = database.client
    pages = client.get_paginator("get_tables").paginate(DatabaseName=database.name)
    try:
        return {
            table["Name"]: dict(table)
            for page in pages
            for table in page["TableList"]
            if database.owns(table)
        }
    except client.exceptions.EntityNotFoundException:
        about = f"Drives of {database.output}"[:2048]
        with suppress(client.exceptions.AlreadyExistsException):  # another drive's job was faster
            client.create_database(DatabaseInput={"Name": database.name, "Description": about})
        return {}


def _put_tables(
    database: GlueDatabase, own: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, dict[str, Any]]
) -> int:
    """Makes tables that are missing or differ; how many."""
    done = 0
    for name, given in wanted.items():
        if name not in own:
            _create_table(database, given)
            done += 1
        elif not _is_same(own[name], given):
            database.client.update_table(
                DatabaseName=database.name,
                TableInput=given,
                SkipArchive=True,
            )
            done += 1
    return done


def _create_table(database: GlueDatabase, given: dict[str, Any]) -> None:
    client = database.client
    try:
        client.create_table(DatabaseName=database.name, TableInput=given)
    except (
        client.exceptions.AlreadyExistsException
    ):  # another drive's job was faster, or it is somebody else's
        there = client.get_table(DatabaseName=database.name, Name=given["Name"])["Table"]
        if not database.owns(there):
            of = _parameter(there, "lake")
            raise CatalogError(
                f"Glue database {database.name} has a table {given['Name']} that is "
                f"{f'of the lake {of}' if of else 'not of this lake'}: give {database.output} a database "
                "of its own"
            ) from None


def _is_same(there: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether all that matters is so; which topics and file brought a definition first does not."""

    def matter(table: Mapping[str, Any]) -> tuple[object, ...]:
        place = table.get("StorageDescriptor", {})
        columns = [(each["Name"], each.get("Type")) for each in place.get("Columns", [])]
        parameters = {
            key: value
            for key, value in table.get("Parameters", {}).items()
            if key.startswith(_PREFIX) and key != f"{_PREFIX}sample"
        }
        text = table.get("ViewOriginalText", "")
        return columns, place.get("Location"), place.get("InputFormat"), parameters, text

    return matter(there) == matter(given)


def _fleet_tables(database: GlueDatabase) -> dict[str, dict[str, Any]]:
    """The fleet tables are a folder each, of one file a drive."""
    made = {}
    for table in FLEET_TABLES:
        name = f"fleet___{table}"
        place = f"{contract.FLEET_FOLDER}/{table}"
        columns = _glue_columns(hive_columns(FLEET_SCHEMAS[table])[0])
        made[name] = {
            "Name": name,
            "Description": f"The {table} of all drives of {database.output}"[:2048],
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"EXTERNAL": "TRUE", "classification": "parquet", **_said(database)},
            "PartitionKeys": [],
            "StorageDescriptor": _storage_descriptor(GlueFiles.FOLDERS, columns, database, place),
        }
    return made


# --- partitions --------------------------------------------------------------------------------------


def _write_list(
    storage: Storage,
    database: GlueDatabase,
    drive_id: str,
    table: _DefinitionTable,
    files: Sequence[OutputFile],
) -> str:
    """Where a partition is to be, relative to the lake; what it lists is there when this returns."""
    folder = f"{table.table}/schema={table.digits}/drive_id={drive_id}"
    if database.files is GlueFiles.FOLDERS:
        return folder
    data = "".join(f"{join(database.output, file.path)}\n" for file in files).encode()
    folder = f"{CATALOG_FOLDER}/{folder}/{contract.sha256(data)[:12]}"
    storage.write(join(database.output, f"{folder}/files.txt"), data)
    return folder


def _put_partition(
    storage: Storage,
    database: GlueDatabase,
    name: str,
    drive_id: str,
    table: _DefinitionTable | None,
    place: str | None,
) -> _Done:
    """Makes, changes or removes a drive's partition of a table."""
    client = database.client
    try:
        there = client.get_paginator("get_partitions").paginate(
            DatabaseName=database.name, TableName=name, Expression=f"drive_id = '{drive_id}'"
        )
        known = [dict(each) for page in there for each in page["Partitions"]]
        if table is None or place is None:
            return _Done(_delete_partitions(storage, database, name, known))
        given = {
            "Values": [table.digits, drive_id],
            "Parameters": _said(database),
            "StorageDescriptor": _storage_descriptor(database.files, table.glue_columns(), database, place),
        }
        if not known:
            answer = client.batch_create_partition(
                DatabaseName=database.name,
                TableName=name,
                PartitionInputList=[given],
            )
            return _Done(1, _refuse_errors(database, name, answer.get("Errors", [])))
        if _is_same(known[0], given):
            return _Done()
        client.update_partition(
            DatabaseName=database.name,
            TableName=name,
            PartitionValueList=given["Values"],
            PartitionInput=given,
        )
        _remove_lists(storage, database, known, but=place)
    except client.exceptions.EntityNotFoundException:  # table or partition was removed meanwhile
        return _Done(again=table is not None)
    return _Done(1)


def _refuse_errors(database: GlueDatabase, name: str, errors: Sequence[Any]) -> bool:
    """Raises `CatalogError` for what went wrong; whether others have done something meanwhile."""
    for each in errors:
        detail = each.get("ErrorDetail", {})
        if detail.get("ErrorCode") not in ("AlreadyExistsException", "EntityNotFoundException"):
            said = f"{detail.get('ErrorCode')}: {detail.get('ErrorMessage')}"
            raise CatalogError(f"Glue database {database.name}, table {name}: {said}")
    return bool(errors)


def _delete_partitions(
    storage: Storage, database: GlueDatabase, name: str, known: Sequence[Mapping[str, Any]]
) -> int:
    for start in range(0, len(known), _DELETED_AT_ONCE):
        some = known[start : start + _DELETED_AT_ONCE]
        answer = database.client.batch_delete_partition(
            DatabaseName=database.name,
            TableName=name,
            PartitionsToDelete=[{"Values": each["Values"]} for each in some],
        )
        _refuse_errors(database, name, answer.get("Errors", []))
    _remove_lists(storage, database, known)
    return len(known)


def _remove_lists(
    storage: Storage, database: GlueDatabase, known: Sequence[Mapping[str, Any]], but: str = ""
) -> None:
    """Removes the lists that partitions named before; never one that is, or becomes, another one's."""
    ours = join(database.output, f"{CATALOG_FOLDER}/")
    for each in known:
        place = str(each.get("StorageDescriptor", {}).get("Location", "")).rstrip("/")
        if place.startswith(ours) and place != join(database.output, but):
            storage.delete(f"{place}/files.txt")


# --- views -------------------------------------------------------------------------------------------


def _put_views(
    storage: Storage, database: GlueDatabase, tables: Iterable[str], problems: dict[str, str]
) -> _Done:
    """Makes the views of some tables of the lake, by the definitions that the database has.

    Another drive's job may bring a definition at the same time: a view that was made is looked at again.
    Why a table has none goes into ``problems``.
    """
    own = _own_tables(database)
    digits: dict[str, dict[str, str]] = {table: {} for table in tables}
    for there in own.values():
        if _is_definition(there) and _parameter(there, "table") in digits:
            digits[_parameter(there, "table")][_parameter(there, "schema")] = _parameter(there, "sample")
    done = 0
    for table, samples in digits.items():
        done += _put_view(storage, database, own, table, samples, problems)
    return _Done(done, done > 0)


def _put_view(
    storage: Storage,
    database: GlueDatabase,
    own: Mapping[str, Mapping[str, Any]],
    table: str,
    samples: Mapping[str, str],
    problems: dict[str, str],
) -> int:
    """``samples``: by the digits of the table's definitions, a file of each."""
    name = catalog_name(table)
    schemas = ",".join(sorted(samples))
    there = own.get(name)
    if there and (_parameter(there, "schemas"), _parameter(there, "form")) == (schemas, _FORM):
        return 0
    if not samples:
        return _delete_table(database, name) if there else 0
    read = read_definitions(
        storage, database.output, [(table, each, samples[each]) for each in sorted(samples)]
    )
    known = [(each, found) for each, found in zip(sorted(samples), read, strict=True) if found]
    if broken := drift.find_broken(known):
        one, other, fields = broken
        reason = f"no table holds both schema {one} and {other}: {fields[0]}"
        problems[table] = f"table {table} has no view, but a table for each definition: {reason}"
        return _delete_table(database, name) if there else 0
    if not known:
        return 0
    parts = [(definition_name(table, each), _columns(found)[0]) for each, found in known]
    merged = drift.common_columns(
        [(each, TopicDefinition(columns)) for (each, _), (_, columns) in zip(known, parts, strict=True)]
    )
    common = pa.schema(hive_columns(merged)[0])
    query = athena_views.view_query(database.name, parts, common)
    types = ", ".join(dict.fromkeys(found.type_name for _, found in known))
    given = {
        "Name": name,
        "Description": f"Table {table}, {types}: {len(known)} definitions"[:2048],
        "TableType": "VIRTUAL_VIEW",
        "Parameters": {
            "presto_view": "true",
            "comment": "Presto View",
            **_said(database, table=table, schemas=schemas),
        },
        "PartitionKeys": [],
        "StorageDescriptor": {
            "Columns": [*_glue_columns(common), *_PARTITION_KEYS],
            "Location": "",
            "SerdeInfo": {},
        },
        "ViewOriginalText": athena_views.view_text(database.name, query, common),
        "ViewExpandedText": "/* Presto View */",
    }
    return _put_tables(database, own, {name: given})


def _delete_table(database: GlueDatabase, name: str) -> int:
    try:
        database.client.delete_table(DatabaseName=database.name, Name=name)
    except database.client.exceptions.EntityNotFoundException:
        return 0
    return 1


# --- the lake ----------------------------------------------------------------------------------------


def forget_gone(storage: Storage, database: GlueDatabase) -> int:
    """Removes partitions of drives that the lake has not any more, then tables that have none; how many."""
    with _glue_errors(database):
        own = {name: table for name, table in _own_tables(database).items() if _is_definition(table)}
        done = 0
        empty = []
        for name in own:
            pages = database.client.get_paginator("get_partitions").paginate(
                DatabaseName=database.name, TableName=name
            )
            known = [dict(each) for page in pages for each in page["Partitions"]]
            # Listed after the partitions: a drive that came meanwhile is among them.
            folders = storage.folders(join(database.output, "_manifests")) if known else []
            gone = [each for each in known if f"drive_id={each['Values'][1]}" not in folders]
            done += _delete_partitions(storage, database, name, gone)
            if len(gone) == len(known):
                empty.append(name)
        for name in empty:  # a drive that is about to add a partition makes the table again
            done += _delete_table(database, name)
        tables = {_parameter(own[name], "table") for name in empty}
        return done + _settle(database, lambda: _put_views(storage, database, tables, {}))
