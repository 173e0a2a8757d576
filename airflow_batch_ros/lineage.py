"""What a run read and wrote, as OpenLineage's datasets: of drives the bags' folders, of the lake its tables.

Airflow's OpenLineage provider asks the tasks for it, where it is installed and told where to send events;
nothing of it is imported before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.assets import WHOLE
from airflow_batch_ros.jobs import DriveJob, Work
from airflow_batch_ros.lake import READ_THREADS, Lake
from airflow_batch_ros.summary import DriveSummary
from ros_to_parquet import contract
from ros_to_parquet.contract import ContractError, SchemaRecord, TableTotal

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from mypy_boto3_s3 import S3Client

MAX_DATASETS = 100
"""Inputs, and outputs, that a task names: the first drives, and the tables with most rows."""

MAX_FIELDS = 1_000


def of_jobs(jobs: Sequence[DriveJob]) -> OperatorLineage:
    """What was submitted to be read: a dataset a drive, with its bags' number and size."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    found = [
        _folder(job.source, files=job.bags, size_bytes=job.bag_bytes)
        for job in jobs[:MAX_DATASETS]
        if job.work != Work.NOTHING
    ]
    return OperatorLineage(inputs=found)


def of_drives(s3: S3Client, drives: Sequence[DriveSummary]) -> OperatorLineage:
    """What was read and committed: a dataset a drive, and a dataset a table over all of them.

    Columns are those of the table's newest definition, where the lake has a record of them.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    whole = [drive for drive in drives if drive.state in WHOLE and drive.job.work != Work.NOTHING]
    inputs = [
        _folder(
            drive.job.source,
            files=drive.result.bags,
            size_bytes=drive.result.bytes_read,
            messages=drive.result.messages,
        )
        for drive in whole[:MAX_DATASETS]
    ]
    outputs: list[Any] = []
    for output in dict.fromkeys(drive.job.output for drive in whole):
        tables: dict[str, list[TableTotal]] = {}
        for drive in whole:
            if drive.job.output == output:
                for table in drive.result.tables:
                    tables.setdefault(table.table, []).append(table)
        most = sorted(tables.values(), key=lambda parts: (-sum(part.rows for part in parts), parts[0].table))
        outputs += _tables(Lake(s3, output), most[: MAX_DATASETS - len(outputs)])
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _folder(source: str, *, files: int, size_bytes: int, messages: int | None = None) -> Any:
    from openlineage.client.generated.base import InputDataset
    from openlineage.client.generated.input_statistics_input_dataset import InputStatisticsInputDatasetFacet

    namespace, name = _place(source)
    statistics = InputStatisticsInputDatasetFacet(rowCount=messages, size=size_bytes, fileCount=files)
    return InputDataset(namespace, name, inputFacets={"inputStatistics": statistics})


def _tables(lake: Lake, tables: Sequence[Sequence[TableTotal]]) -> list[Any]:
    """A dataset each of the tables, which come as their parts by drive."""
    from concurrent.futures import ThreadPoolExecutor

    from airflow.providers.common.compat.openlineage.facet import (
        DocumentationDatasetFacet,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
        SchemaDatasetFacet,
        SchemaDatasetFacetFields,
    )

    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="lineage") as pool:
        schemas = list(pool.map(lambda parts: _columns(lake, parts), tables))
    found = []
    for parts, columns in zip(tables, schemas, strict=True):
        namespace, name = _place(f"{lake.output}/{parts[0].table}")
        topics = _joined(topic for part in parts for topic in part.topics)
        types = _joined(name for part in parts for name in part.type_names)
        facets: dict[str, Any] = {"documentation": DocumentationDatasetFacet(f"topic {topics}, {types}")}
        if columns:
            fields = [SchemaDatasetFacetFields(name=column, type=kind) for column, kind in columns]
            facets["schema"] = SchemaDatasetFacet(fields=fields)
        statistics = OutputStatisticsOutputDatasetFacet(
            rowCount=sum(part.rows for part in parts), size=sum(part.bytes_written for part in parts)
        )
        outputs = {"outputStatistics": statistics}
        found.append(OutputDataset(namespace, name, facets=facets, outputFacets=outputs))
    return found


def _columns(lake: Lake, parts: Sequence[TableTotal]) -> list[tuple[str, str]]:
    """Names and types; none where there is no record of them, or another release's."""
    newest = [schema for part in parts for schema in part.schemas][-1:]
    for schema in newest:
        try:
            record = lake.load(SchemaRecord, contract.schema_key(parts[0].table, schema.schema))
        except ContractError:
            return []
        if record is not None:
            return [(column.name, column.type) for column in record.columns[:MAX_FIELDS]]
    return []


def _place(uri: str) -> tuple[str, str]:
    """Namespace and name of a place in S3, as OpenLineage has them.

    >>> _place("s3://raw/drive_1/")
    ('s3://raw', 'drive_1')
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return f"s3://{bucket}", key.strip("/") or "/"


def _joined(names: Iterable[str]) -> str:
    return contract.one_line(", ".join(dict.fromkeys(names)))
