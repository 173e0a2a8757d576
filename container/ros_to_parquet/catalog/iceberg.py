"""Tables of a lake in an Iceberg catalogue, by pyiceberg: of the files that are there, none is written anew.

A topic is a table, partitioned by definition and drive; a definition that no table holds together with the
others has one of its own. A drive's files come and go in one snapshot a table, which readers see whole.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from ros_to_parquet import drift, lake
from ros_to_parquet.catalog.columns import catalog_name, definition_name, iceberg_columns, with_own
from ros_to_parquet.catalog.files import (
    CatalogError,
    Partition,
    Registered,
    definitions,
    may_be_elsewhere,
    partitions,
)
from ros_to_parquet.contract import OutputFile
from ros_to_parquet.drift import TopicDefinition
from ros_to_parquet.schema_records import read_definitions
from ros_to_parquet.storage import Storage, is_uri, join

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

_CATALOG: Final = "default"
"""Its name in pyiceberg's configuration."""

ICEBERG_FOLDER: Final = "_iceberg"

_ROUNDS: Final = 40
"""Tries of a commit, each from the table as it is then."""

_MOST_WAIT_S: Final = 2.0

_PREFIX: Final = "ros_to_parquet."
"""Of the properties by which a lake knows its own tables."""

_PARTITIONS: Final = ("schema", "drive_id")

_PROPERTIES: Final = {
    "format-version": "2",
    # The files are the lake's: no engine is to remove them with a table or an old snapshot.
    "gc.enabled": "false",
    # A conflict is looked at anew here: another job may have added the same files.
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


@dataclass(frozen=True, slots=True)
class IcebergNamespace:
    """A lake's namespace in an Iceberg catalogue."""

    catalog: Catalog
    name: str
    output: str

    def identifier(self, table: str) -> tuple[str, str]:
        return self.name, table


def open_namespace(output: str, name: str, properties: Mapping[str, str]) -> IcebergNamespace:
    """The namespace ``name``, which is made where there is none.

    Args:
        properties: of pyiceberg's catalogue: ``type`` (``sql``, ``glue``, ``rest``, ...), ``uri``, ...; what
            they leave out pyiceberg takes from its own configuration (PYICEBERG_CATALOG__DEFAULT__URI, ...,
            .pyiceberg.yaml). Without any of both it is Glue, for a lake in S3.

    Raises:
        CatalogError: pyiceberg is not installed, or it cannot open the catalogue.
    """
    try:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.exceptions import NamespaceAlreadyExistsError
        from pyiceberg.utils.config import Config
    except ModuleNotFoundError as error:
        raise CatalogError(
            f"{error}: Iceberg needs pip install 'ros-to-parquet[iceberg]'; in the image: "
            "image build --pip-packages 'pyiceberg[glue]'"
        ) from error
    given = dict(properties)
    configured = Config().get_catalog_config(_CATALOG) or {}
    if not given and not configured and output.startswith("s3://"):
        given = {"type": "glue"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "s3.endpoint" not in {**configured, **given}:  # which boto3 heeds, and pyiceberg does not
        given["s3.endpoint"] = endpoint
    try:
        catalog = load_catalog(_CATALOG, **given)
        with suppress(NamespaceAlreadyExistsError):
            catalog.create_namespace(name)
    except Exception as error:  # each kind of catalogue has errors of its own
        raise CatalogError(f"Iceberg catalogue: {type(error).__name__}: {error}") from error
    return IcebergNamespace(catalog, name, output)


def register_drive(
    storage: Storage, namespace: IcebergNamespace, drive_id: str, *, everywhere: bool = False
) -> Registered:
    """Has the tables hold exactly the files that the drive's manifests name; none if there are none.

    Args:
        everywhere: look for files of the drive in all tables, though no run has replaced any.

    Raises:
        CatalogError: a table of the same name is not this lake's, or its catalogue refuses.
        StorageError: the lake cannot be read.
    """
    with _catalogue_errors(namespace):
        return lake.derive(
            storage,
            namespace.output,
            drive_id,
            lambda record: _register(storage, namespace, record, everywhere or may_be_elsewhere(record)),
        )


@contextmanager
def _catalogue_errors(namespace: IcebergNamespace) -> Iterator[None]:
    """What a catalogue refuses as `CatalogError`: each kind has errors of its own."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in (
            "pyiceberg",
            "botocore",
            "sqlalchemy",
            "requests",
        ):
            raise
        said = f"{type(error).__name__}: {error}"
        raise CatalogError(f"Iceberg namespace {namespace.name}: {said}") from error


def _register(
    storage: Storage, namespace: IcebergNamespace, record: lake.DriveRecord, everywhere: bool
) -> Registered:
    found = partitions(record)
    known = definitions(storage, namespace.output, found)
    left_out = [
        f"table {table}, schema {digits}: its columns cannot be read"
        for table, digits in found.keys() - known
    ]
    tables: dict[str, list[tuple[Partition, Sequence[OutputFile]]]] = {}
    for key, definition in known.items():
        name, lacking = _place(storage, namespace, key, definition, found[key][0].path)
        tables.setdefault(name, []).append((key, found[key]))
        left_out += [f"table {key[0]}, schema {key[1]}: column {each}" for each in lacking]
        if name != catalog_name(key[0]):
            left_out.append(f"schema {key[1]} of table {key[0]} goes with no other: it is table {name}")
    changed = 0
    for name in sorted({*tables, *(_own_tables(namespace) if everywhere else ())}):
        changed += _put_files(namespace, name, record.drive_id, tables.get(name, []))
    return Registered(tuple(sorted(tables)), changed, tuple(sorted(left_out)))


def _own_tables(namespace: IcebergNamespace) -> list[str]:
    """Names of the lake's tables."""
    from pyiceberg.exceptions import NoSuchTableError

    names = []
    for _, name in namespace.catalog.list_tables(namespace.name):
        with suppress(NoSuchTableError):
            if _is_own(namespace, namespace.catalog.load_table(namespace.identifier(name))):
                names.append(name)
    return names


def _is_own(namespace: IcebergNamespace, table: Table) -> bool:
    return str(table.properties.get(f"{_PREFIX}lake")) == namespace.output


# --- tables ------------------------------------------------------------------------------------------


def _place(
    storage: Storage, namespace: IcebergNamespace, key: Partition, definition: TopicDefinition, sample: str
) -> tuple[str, list[str]]:
    """The table that a definition's files go to, made or widened for it; and what it cannot have of them."""
    columns, left_out = iceberg_columns(
        definition.columns if definition.transform else with_own(definition.columns)
    )
    name, own = catalog_name(key[0]), definition_name(*key)
    if namespace.catalog.table_exists(namespace.identifier(own)):
        return own, left_out
    if not _take(storage, namespace, name, key, definition, columns, sample):
        name = own
        _take(storage, namespace, name, key, definition, columns, sample)
    return name, left_out


def _take(
    storage: Storage,
    namespace: IcebergNamespace,
    name: str,
    key: Partition,
    definition: TopicDefinition,
    columns: pa.Schema,
    sample: str,
) -> bool:
    """Whether a table has, or takes, the columns of a definition; else it holds what is broken with it.

    ``sample``: one of its files, by which its columns can be read where the lake has no record of them.
    """
    from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError

    for attempt in range(_ROUNDS):
        try:
            table = namespace.catalog.load_table(namespace.identifier(name))
        except NoSuchTableError:
            with suppress(TableAlreadyExistsError):  # another drive's job was faster
                _create(namespace, name, key, definition, columns)
            continue
        if not _is_own(namespace, table):
            raise CatalogError(
                f"Iceberg table {namespace.name}.{name} is not of this lake: give {namespace.output} a "
                "namespace of its own"
            )
        held: dict[str, str] = json.loads(table.properties[f"{_PREFIX}schemas"])
        if key[1] in held:
            return True
        wanted = [(key[0], digits, sample) for digits, sample in held.items()]
        read = read_definitions(storage, namespace.output, wanted)
        others = [(digits, each) for (_, digits, _), each in zip(wanted, read, strict=True) if each]
        if drift.find_broken([*others, (key[1], definition)]):
            return False
        try:
            _widen(table, columns, {**held, key[1]: sample})
        except CommitFailedException:
            _wait(attempt)
        except (ValueError, TypeError):  # Iceberg promotes fewer types than our definitions do
            return False
        else:
            return True
    raise _busy(namespace, name)


def _create(
    namespace: IcebergNamespace, name: str, key: Partition, definition: TopicDefinition, columns: pa.Schema
) -> None:
    from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.schema import assign_fresh_schema_ids
    from pyiceberg.transforms import IdentityTransform

    given = pa.schema([*columns, *(pa.field(each, pa.string()) for each in _PARTITIONS)])
    schema = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(given))
    spec = PartitionSpec(
        *(
            PartitionField(schema.find_field(each).field_id, 1000 + place, IdentityTransform(), each)
            for place, each in enumerate(_PARTITIONS)
        )
    )
    namespace.catalog.create_table(
        namespace.identifier(name),
        schema,
        location=_iceberg_uri(join(namespace.output, f"{ICEBERG_FOLDER}/{name}")),
        partition_spec=spec,
        properties={
            **_PROPERTIES,
            f"{_PREFIX}lake": namespace.output,
            f"{_PREFIX}table": key[0],
            f"{_PREFIX}schemas": json.dumps({}),
            "comment": f"Table {key[0]} of {namespace.output}, {definition.type_name}",
            "schema.name-mapping.default": schema.name_mapping.model_dump_json(),
        },
    )


def _widen(table: Table, columns: pa.Schema, held: Mapping[str, str]) -> None:
    with table.transaction() as change:
        with change.update_schema() as update:
            update.union_by_name(columns)
        change.set_properties({f"{_PREFIX}schemas": json.dumps(held, sort_keys=True)})


def _iceberg_uri(uri: str) -> str:
    return uri if is_uri(uri) else f"file://{uri}"  # nothing escaped: nobody takes it back


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0, min(_MOST_WAIT_S, 0.05 * 2**attempt)))


def _busy(namespace: IcebergNamespace, name: str) -> CatalogError:
    return CatalogError(
        f"Iceberg table {namespace.name}.{name}: others commit to it again and again meanwhile; try again"
    )


# --- files -------------------------------------------------------------------------------------------


def _put_files(
    namespace: IcebergNamespace,
    name: str,
    drive_id: str,
    wanted: Iterable[tuple[Partition, Sequence[OutputFile]]],
) -> int:
    """Has a table hold these files of a drive, and no others; how many came and went."""
    from pyiceberg.exceptions import CommitFailedException
    from pyiceberg.expressions import EqualTo

    given = {
        _iceberg_uri(join(namespace.output, file.path)): (key, file)
        for key, files in wanted
        for file in files
    }
    for attempt in range(_ROUNDS):
        table = namespace.catalog.load_table(namespace.identifier(name))
        there = [task.file for task in table.scan(row_filter=EqualTo("drive_id", drive_id)).plan_files()]
        seen: set[str] = set()
        gone = []
        for file in there:
            if file.file_path not in given or file.file_path in seen:
                gone.append(file)
            seen.add(file.file_path)
        new = [each for path, each in given.items() if path not in seen]
        if not gone and not new:
            return 0
        files = [_data_file(table, namespace.output, drive_id, *each) for each in new]
        try:
            _commit(table, drive_id, files, gone)
        except CommitFailedException:
            _wait(attempt)
        else:
            return len(gone) + len(new)
    raise _busy(namespace, name)


def _commit(table: Table, drive_id: str, new: Sequence[DataFile], gone: Sequence[DataFile]) -> None:
    with table.transaction() as change:
        update = change.update_snapshot(snapshot_properties={f"{_PREFIX}drive_id": drive_id})
        with update.overwrite() if gone else update.merge_append() as snapshot:
            for file in gone:
                snapshot.delete_data_file(file)
            for file in new:
                snapshot.append_data_file(file)


def _data_file(table: Table, output: str, drive_id: str, key: Partition, file: OutputFile) -> DataFile:
    """What Iceberg says of a file, as its manifest has it: rows, bytes, first and last log time."""
    from pyiceberg.conversions import to_bytes
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    bounds: dict[str, dict[int, bytes]] = {"lower_bounds": {}, "upper_bounds": {}}
    for which, time_ns in (("lower_bounds", file.first_log_time_ns), ("upper_bounds", file.last_log_time_ns)):
        for column, value in (("log_time_ns", time_ns), ("log_time", time_ns and time_ns // 1000)):
            if value is not None and column in table.schema().column_names:
                found = table.schema().find_field(column)
                bounds[which][found.field_id] = to_bytes(found.field_type, value)
    more: dict[str, Any] = dict(bounds)
    return DataFile.from_args(
        _table_format_version=table.metadata.format_version,
        content=DataFileContent.DATA,
        file_path=_iceberg_uri(join(output, file.path)),
        file_format=FileFormat.PARQUET,
        partition=Record(key[1], drive_id),
        record_count=file.rows,
        file_size_in_bytes=file.size_bytes,
        spec_id=table.metadata.default_spec_id,
        **more,
    )


# --- the lake ----------------------------------------------------------------------------------------


def forget_gone(storage: Storage, namespace: IcebergNamespace) -> int:
    """Removes the files of drives that the lake has not any more; how many."""
    with _catalogue_errors(namespace):
        return sum(_forget_gone(storage, namespace, name) for name in _own_tables(namespace))


def _forget_gone(storage: Storage, namespace: IcebergNamespace, name: str) -> int:
    table = namespace.catalog.load_table(namespace.identifier(name))
    there = {str(task.file.partition[1]) for task in table.scan().plan_files()}
    # Listed after the table was read: a drive that came meanwhile is among them.
    folders = storage.folders(join(namespace.output, "_manifests")) if there else []
    gone = [drive_id for drive_id in sorted(there) if f"drive_id={drive_id}" not in folders]
    return sum(_put_files(namespace, name, drive_id, []) for drive_id in gone)
