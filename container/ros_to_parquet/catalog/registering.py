"""A drive's tables, or all drives', registered as options say: the finishing step ``catalog``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ros_to_parquet.contract import CatalogKind, CatalogOptions

if TYPE_CHECKING:
    from ros_to_parquet.catalog.files import Registered
    from ros_to_parquet.storage import Storage


def register(
    storage: Storage,
    output: str,
    drive_id: str,
    options: CatalogOptions,
    properties: Mapping[str, str] | None = None,
) -> Registered:
    """Registers what a drive has, as ``options`` say; see `glue.register_drive` and `iceberg.register_drive`.

    Raises:
        CatalogError: it cannot be registered; the message says what to do.
        StorageError: the lake cannot be read or written.
    """
    return open_catalog(storage, output, options, properties or {})[0](drive_id)


def open_catalog(
    storage: Storage,
    output: str,
    options: CatalogOptions,
    properties: Mapping[str, str],
    *,
    everywhere: bool = False,
) -> tuple[Callable[[str], Registered], Callable[[], int]]:
    """What registers a drive, and what forgets those that are gone."""
    if options.kind is CatalogKind.GLUE:
        from ros_to_parquet.catalog import glue

        database = glue.open_database(output, options.database, options.files)
        return (
            lambda drive_id: glue.register_drive(storage, database, drive_id, everywhere=everywhere),
            lambda: glue.forget_gone(storage, database),
        )
    from ros_to_parquet.catalog import iceberg

    namespace = iceberg.open_namespace(output, options.database, properties)
    return (
        lambda drive_id: iceberg.register_drive(storage, namespace, drive_id, everywhere=everywhere),
        lambda: iceberg.forget_gone(storage, namespace),
    )
