"""The engine's own Arrow tables of a bag, kept, and what writing them as Parquet takes without decoding.

    python -m benchmarks.tables record BAG FOLDER       extract BAG, keep every batch of rows in FOLDER
    python -m benchmarks.tables replay BAG FOLDER OUT   read and decompress BAG, write the kept batches
    python -m benchmarks.tables write HOW FOLDER OUT    write the kept batches; HOW is ours or defaults

``replay`` is the limit of the engine: its reader, its writer threads and its Parquet, and no decoder.
``write`` prints CPU-seconds and bytes of writing alone, by the engine's options or pyarrow's defaults with zstd.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet import cli, parquet, run
from ros_to_parquet.bag import open_bag
from ros_to_parquet.storage import normalize, open_storage

_ORDER = "order.json"


class _Recording(parquet.TableWriters):
    """Keeps what is appended, in order, each table a stream of Arrow batches."""

    folder: Path

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._streams: dict[str, pa.RecordBatchStreamWriter] = {}
        self._order: list[int] = []

    def append(self, path: str, columns: list[pa.Array]) -> None:
        schema = self.schema_of(path)
        assert schema is not None
        if path not in self._streams:
            target = str(self.folder / f"{len(self._streams)}.arrows")
            self._streams[path] = pa.ipc.new_stream(target, schema)
        self._order.append(list(self._streams).index(path))
        self._streams[path].write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        super().append(path, columns)

    def finish(self) -> Any:
        for stream in self._streams.values():
            stream.close()
        (self.folder / _ORDER).write_text(json.dumps(self._order))
        return super().finish()


def record(bag: Path, folder: Path) -> None:
    """Extracts ``bag``; leaves its batches in ``folder``."""
    _Recording.folder = folder
    run.parquet.TableWriters = _Recording  # type: ignore[misc]
    code = cli.main(["extract", str(bag), "--output", str(folder / "lake")])
    if code:
        raise SystemExit(code)


def recorded(folder: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches in the order in which they were appended, with the number of their table. Nothing is copied."""
    order = json.loads((folder / _ORDER).read_text())
    streams = [
        pa.ipc.open_stream(pa.memory_map(str(folder / f"{number}.arrows"))) for number in range(max(order) + 1)
    ]
    for number in order:
        yield number, streams[number].read_next_batch()


def replay(bag: Path, folder: Path, output: Path) -> None:
    """What the engine does with ``bag``, but that its tables are those of ``folder``, as evenly as they come."""
    uri = normalize(str(bag))
    source_storage, storage = open_storage(uri), open_storage(str(output))
    batches = list(recorded(folder))
    total_bytes = sum(batch.nbytes for _, batch in batches)
    paths: dict[int, str] = {}
    appended_bytes = 0
    waiting = iter(batches)

    def append_to(share: float) -> None:
        nonlocal appended_bytes
        while appended_bytes < share * total_bytes and (item := next(waiting, None)) is not None:
            number, batch = item
            if number not in paths:
                paths[number] = f"{number}.parquet"
                metadata = batch.schema.metadata or {}
                described = {key.decode(): value.decode("utf-8", "replace") for key, value in metadata.items()}
                tables.open(paths[number], batch.schema, described)
            tables.append(paths[number], batch.columns)
            appended_bytes += batch.nbytes

    with (
        closing(source_storage.open(source_storage.head(uri))) as source,
        parquet.TableWriters(storage, str(output)) as tables,
    ):
        reader = open_bag(source)
        with closing(run.read_ahead(reader.blocks(), run.READ_AHEAD_BYTES)) as blocks:
            for _ in blocks:
                append_to(reader.bytes_read / source.size)
        append_to(2.0)
        tables.finish()
        tables.publish()


def write(how: str, folder: Path, output: Path) -> None:
    """Prints ``{"cpu_s": ..., "bytes": ...}`` of one thread that writes the tables, one after another."""
    batches: dict[int, list[pa.RecordBatch]] = {}
    for number, batch in recorded(folder):
        batches.setdefault(number, []).append(batch)
    tables = {number: pa.Table.from_batches(some).combine_chunks() for number, some in batches.items()}
    pa.set_cpu_count(1)
    begin = time.process_time()
    for number, table in tables.items():
        path = output / f"{number}.parquet"
        if how == "defaults":
            pq.write_table(table, path, compression="zstd")
        else:
            first = table.to_batches()[0]
            rows = max(1, round(table.num_rows * parquet.ROW_GROUP_BYTES / max(1, table.nbytes)))
            options = parquet.writer_options(table.schema, parquet.incompressible_leaves(first))
            pq.write_table(table, path, row_group_size=rows, **options)
    cpu_s = time.process_time() - begin
    size_bytes = sum(path.stat().st_size for path in output.glob("*.parquet"))
    print(json.dumps({"cpu_s": cpu_s, "bytes": size_bytes}))


def main(words: list[str]) -> None:
    match words:
        case ["record", bag, folder]:
            record(Path(bag), Path(folder))
        case ["replay", bag, folder, output]:
            replay(Path(bag), Path(folder), Path(output))
        case ["write", ("ours" | "defaults") as how, folder, output]:
            write(how, Path(folder), Path(output))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
