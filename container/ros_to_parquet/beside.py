"""What SQLite leaves beside a database that was not closed: its write-ahead log or rollback journal."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress

from ros_to_parquet import contract
from ros_to_parquet.contract import FileBeside
from ros_to_parquet.storage import AccessDeniedError, NotFoundError, ObjectInfo, Source, Storage


def find_beside(storage: Storage, uri: str) -> tuple[FileBeside, ...]:
    """What is beside a file, if that is a database by its name."""
    infos = []
    for end in contract.SQLITE_BESIDE:
        if contract.sqlite_owner(uri + end):
            # S3 answers so for what is not there, too, where it may not be listed.
            with suppress(NotFoundError, AccessDeniedError):
                infos.append(storage.head(uri + end))
    return with_content(infos)


def with_content(infos: Iterable[ObjectInfo]) -> tuple[FileBeside, ...]:
    """Those of the files that can hold anything of the database."""
    return tuple(
        FileBeside(info.uri, info.size_bytes, info.etag)
        for info in sorted(infos, key=lambda info: info.uri)
        if info.size_bytes and not info.uri.endswith(contract.SQLITE_SHARED)
    )


def open_beside(
    stack: ExitStack, storage: Storage, uri: str, files: Iterable[FileBeside]
) -> dict[str, Source]:
    """The files for `ros_to_parquet.bag.open_bag`, open until the stack is left."""
    return {
        each.uri.removeprefix(uri): stack.enter_context(
            closing(storage.open(ObjectInfo(each.uri, each.size_bytes, each.etag)))
        )
        for each in files
    }
