"""The engine's own Arrow tables of a bag, kept, and what writing them as Parquet takes without decoding.

    python -m benchmarks.tables record BAG FOLDER       extract BAG, keep every batch of rows in FOLDER
    python -m benchmarks.tables replay BAG FOLDER OUT   read and decompress BAG, write the kept batches
    python -m benchmarks.tables write HOW FOLDER OUT    write the kept batches; HOW is ours or defaults

``replay`` is the limit of the engine: its reader, its writer threads and its Parquet, and no decoder.
``write`` prints CPU-seconds and bytes of writing alone, by the engine's options or by pyarrow's defaults.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet import cli, entry, extraction, memory, parquet
from ros_to_parquet.bag.model import MessageBlock
from ros_to_parquet.contract import ParquetStyle
from ros_to_parquet.parquet_options import writer_options

_ORDER = "order.json"
_WRITES = 3


class _Counting(extraction.Extraction):
    """The engine's extraction, with the bytes of messages that it has been given."""

    seen_bytes = 0

    def add(self, block: MessageBlock) -> None:
        _Counting.seen_bytes += int(block.lengths.sum())
        super().add(block)


class _Recording(parquet.TableWriters):
    """Keeps what is appended, a stream of Arrow batches a table, and after how many bytes of messages."""

    folder: Path

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._streams: dict[str, pa.RecordBatchStreamWriter] = {}
        self._order: list[tuple[int, int]] = []

    def append(self, path: str, rows: pa.RecordBatch) -> None:
        if path not in self._streams:
            target = str(self.folder / f"{len(self._streams)}.arrows")
            self._streams[path] = pa.ipc.new_stream(target, self.schema_of(path))
        self._order.append((list(self._streams).index(path), _Counting.seen_bytes))
        self._streams[path].write_batch(rows)
        super().append(path, rows)

    def finish(self) -> Any:
        for stream in self._streams.values():
            stream.close()
        (self.folder / _ORDER).write_text(json.dumps(self._order))
        return super().finish()


class _Replaying(extraction.Extraction):
    """An extraction that decodes nothing: kept batches come when those bytes of messages have been read."""

    folder: Path

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept = recorded(self.folder)
        self._next = next(self._kept, None)
        self._seen_bytes = 0
        self._opened: set[int] = set()

    def add(self, block: MessageBlock) -> None:
        self._seen_bytes += int(block.lengths.sum())
        self._append_to(self._seen_bytes)

    def end_bag(self) -> None:
        self._append_to(sys.maxsize)

    def _append_to(self, seen_bytes: int) -> None:
        while self._next is not None and self._next[1] <= seen_bytes:
            number, _, batch = self._next
            path = f"{number}.parquet"
            if number not in self._opened:
                self._opened.add(number)
                self._tables.open(path, batch.schema.remove_metadata(), {})
            self._tables.append(path, batch)
            self._next = next(self._kept, None)


def record(bag: Path, folder: Path) -> None:
    """Extracts ``bag``; leaves its batches in ``folder``."""
    _Recording.folder = folder
    parquet.TableWriters = _Recording  # type: ignore[misc]
    extraction.Extraction = _Counting  # type: ignore[misc]
    _extract(bag, folder / "lake")


def replay(bag: Path, folder: Path, output: Path) -> None:
    """What the engine does with ``bag``, but that its tables are those of ``folder``."""
    _Replaying.folder = folder
    extraction.Extraction = _Replaying  # type: ignore[misc]
    _extract(bag, output)


def _extract(bag: Path, output: Path) -> None:
    code = cli.main(["extract", str(bag), "--output", str(output)])
    if code:
        raise SystemExit(code)


def recorded(folder: Path, *, mapped: bool = True) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Table number, bytes of messages read before, and batch, as they were appended.

    ``mapped`` batches are views of the page cache; others are read into memory.
    """
    opener = pa.memory_map if mapped else pa.OSFile
    order = json.loads((folder / _ORDER).read_text())
    tables = max((number for number, _ in order), default=-1) + 1
    streams = [pa.ipc.open_stream(opener(str(folder / f"{number}.arrows"))) for number in range(tables)]
    for number, seen_bytes in order:
        yield number, seen_bytes, streams[number].read_next_batch()


def write(how: str, folder: Path, output: Path) -> None:
    """Prints ``{"cpu_s": ..., "bytes": ...}`` of one thread that writes the tables, one after another.

    Defaults are pyarrow's with zstd. The least of some tries, for the first also pays for fresh memory.
    """
    batches: dict[int, list[pa.RecordBatch]] = {}
    for number, _, batch in recorded(folder, mapped=False):
        batches.setdefault(number, []).append(batch)
    tables = {number: pa.Table.from_batches(some).combine_chunks() for number, some in batches.items()}
    pa.set_cpu_count(1)
    spent = []
    for _ in range(_WRITES):
        begin = time.process_time()
        for number, table in tables.items():
            options: dict[str, Any] = {"compression": "zstd"}
            if how == "ours":
                rows = max(1, round(table.num_rows * memory.DEFAULT_BUDGET.row_group / max(1, table.nbytes)))
                chosen = writer_options(table.to_batches(), style=ParquetStyle.COMPATIBLE)
                options = {"row_group_size": rows, **chosen}
            pq.write_table(table, output / f"{number}.parquet", **options)
        spent.append(time.process_time() - begin)
    size_bytes = sum(path.stat().st_size for path in output.glob("*.parquet"))
    print(json.dumps({"cpu_s": min(spent), "bytes": size_bytes}))


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
    entry.tune()
    main(sys.argv[1:])
    entry.leave(0)
