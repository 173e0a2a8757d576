"""Small bags of every format to be damaged, and what the engine must make of each that is.

Hundreds of damaged bags go through the engine together, as the bags of one drive: from plan to lake.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import sqlite3
import struct
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import lz4.frame
import pyarrow.parquet as pq
import zstandard

from ros_to_parquet import contract, run
from ros_to_parquet.contract import BagResult, BagStatus, ExitCode, ExtractOptions, Manifest
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.memory import DEFAULT_BUDGET, MemoryBudget
from tests.engine.bag.bag_bytes import (
    T0,
    McapFile,
    Ros1Bag,
    mcap_channel,
    mcap_message,
    mcap_schema,
    ros1_index,
    ros1_message,
)

CHUNKS, PER_CHUNK = 3, 3
TOPICS = ("/a", "/b")
BATCH = 250
"""Bags of one drive: what costs by the drive is paid once."""

Row = tuple[str, int, str]
"""Topic, log time, text."""


@dataclass(frozen=True)
class Sample:
    """A bag and where its messages are.

    Attributes:
        rows: what its messages say.
        units: for each message where the smallest piece begins and ends that can be read alone and holds it:
            its record, its chunk if that is compressed, its page.
        definitions: where its topics, types and definitions are recorded among the messages.
        damage_is_found: nothing of a message changes without being said: it has checksums.
        goes_on: where an index says where to go on after what is broken, the place where that begins; else 0.
        head_bytes: what nothing can be read without, at the beginning.
        needed_bytes: what follows is padding, which may be cut off; 0 for none.
    """

    ending: str
    data: bytes
    rows: tuple[Row, ...]
    units: tuple[tuple[int, int], ...]
    definitions: tuple[tuple[int, int], ...] = ()
    damage_is_found: bool = False
    goes_on: int = 0
    head_bytes: int = 8
    needed_bytes: int = 0
    chunks: tuple[int, ...] = field(default_factory=tuple)
    """For each message where its chunk begins."""


def _row(number: int) -> Row:
    return TOPICS[number % 3 == 2], T0 + number, f"this is message {number:03d}"


def _ros1_text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _cdr_text(text: str) -> bytes:
    return b"\0\1\0\0" + struct.pack("<I", len(text) + 1) + text.encode() + b"\0"


ROWS = tuple(_row(number) for number in range(CHUNKS * PER_CHUNK))


def _units(
    data: bytes, chunks: Sequence[tuple[int, int]], *, compressed: bool, head: int
) -> list[tuple[int, int]]:
    """Where each message is: its chunk, or its record of ``head`` bytes and a text."""
    units = []
    for number, (_, _, text) in enumerate(ROWS):
        if compressed:
            units.append(chunks[number // PER_CHUNK])
        else:
            place = data.index(text.encode())
            units.append((place - head, place + len(text) + 1))
    return units


def ros1(compression: str = "none", *, indexed: bool = True) -> Sample:
    bag = Ros1Bag()
    chunks = []
    for chunk in range(CHUNKS):
        records = [] if chunk else [bag.connection(number, topic) for number, topic in enumerate(TOPICS)]
        index: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
        for topic, log_time, text in ROWS[chunk * PER_CHUNK :][:PER_CHUNK]:
            conn = TOPICS.index(topic)
            index[conn].append((log_time, sum(map(len, records))))
            records.append(ros1_message(conn, log_time, _ros1_text(text)))
        begin = bag.position
        bag.chunk(records, {conn: len(entries) for conn, entries in index.items()}, compression)
        chunks.append((begin, bag.position))
        for conn, entries in index.items():
            bag.add(ros1_index(conn, entries))
    data = bag.bytes(indexed=indexed)
    compressed = compression != "none"
    units = _units(data, chunks, compressed=compressed, head=50)
    first = chunks[0][1] if compressed else units[0][0]
    return Sample(
        ".bag",
        data,
        ROWS,
        tuple(units),
        definitions=((chunks[0][0], first),),
        goes_on=bag.position if indexed else 0,
        head_bytes=13,
        chunks=tuple(chunks[number // PER_CHUNK][0] for number in range(len(ROWS))),
    )


def mcap(compression: str = "", *, summary: bool = True, chunked: bool = True) -> Sample:
    file = McapFile()
    defined = file.define(
        mcap_schema(1), *(mcap_channel(number, 1, topic) for number, topic in enumerate(TOPICS))
    )
    chunks = []
    begin_data = len(file.data)
    for chunk in range(CHUNKS):
        content = b"" if chunk else defined
        counts: Counter[int] = Counter()
        for number, (topic, log_time, text) in enumerate(ROWS[chunk * PER_CHUNK :][:PER_CHUNK]):
            channel = TOPICS.index(topic)
            counts[channel] += 1
            content += mcap_message(channel, number, log_time, _cdr_text(text))
        begin = len(file.data)
        if chunked:
            file.chunk(content, dict(counts), compression)
        else:
            file.add(content)
            file.count(dict(counts))
        chunks.append((begin, len(file.data)))
    data = file.bytes(summary=summary)
    units = _units(data, chunks, compressed=bool(compression), head=9 + 22 + 8)
    return Sample(
        ".mcap",
        data,
        ROWS,
        tuple(units),
        definitions=((begin_data, chunks[0][1] if compression else units[0][0]),),
        damage_is_found=chunked,
        goes_on=len(file.data) if summary and chunked else 0,
        chunks=tuple(chunks[number // PER_CHUNK][0] for number in range(len(ROWS))),
    )


def sqlite(folder: Path) -> Sample:
    """In pages of 512 bytes, of which few hold one message each."""
    path = folder / "made.db3"
    rows = tuple((topic, log_time, text.ljust(200, ".")) for topic, log_time, text in ROWS)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            """PRAGMA page_size = 512;
            CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
            INSERT INTO schema VALUES(4, 'jazzy');
            CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
                serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL,
                type_description_hash TEXT NOT NULL);
            CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL,
                encoding TEXT NOT NULL, encoded_message_definition TEXT NOT NULL,
                type_description_hash TEXT NOT NULL);
            CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,
                timestamp INTEGER NOT NULL, data BLOB NOT NULL);
            CREATE INDEX timestamp_idx ON messages(timestamp ASC);
            INSERT INTO message_definitions VALUES(1, 'std_msgs/msg/String', 'ros2msg', 'string data', '');"""
        )
        database.executemany(
            "INSERT INTO topics VALUES(?, ?, 'std_msgs/msg/String', 'cdr', '', '')",
            enumerate(TOPICS, start=1),
        )
        database.executemany(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)",
            [(1 + TOPICS.index(topic), log_time, _cdr_text(text)) for topic, log_time, text in rows],
        )
        database.commit()
        roots = [
            page for (page,) in database.execute("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0")
        ]
    data = path.read_bytes()
    path.unlink()
    pages = [data.index(text.encode()) // 512 for _, _, text in rows]
    assert not set(pages) & {page - 1 for page in roots}
    # Of the schema's own table all pages, for what they say is needed for every row.
    schema = {here.start() // 512 for here in re.finditer(b"CREATE ", data)}
    leading = {0, *(page - 1 for page in roots), *schema}
    places = [(page * 512, page * 512 + 512) for page in sorted(leading)]
    return Sample(
        ".db3",
        data,
        rows,
        tuple((page * 512, page * 512 + 512) for page in pages),
        definitions=tuple(places),
        head_bytes=512,
        chunks=tuple(page * 512 for page in pages),
    )


def packed(sample: Sample, ending: str) -> Sample:
    """The bag in an archive or compressed: of which any byte may be needed for all that comes after it."""
    name, needed = f"a{sample.ending}", 0
    if ending == ".zip-stored":
        data, inner = _zip(name, sample.data, zipfile.ZIP_STORED), ".zip"
    elif ending == ".zip":
        data, inner = _zip(name, sample.data, zipfile.ZIP_DEFLATED), ending
    elif ending in (".tar", ".tar.gz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            header = tarfile.TarInfo(name)
            header.size = len(sample.data)
            tar.addfile(header, io.BytesIO(sample.data))
        needed = 512 + -(-len(sample.data) // 512) * 512
        data, inner = file.getvalue()[: needed + 1024], ending
        if ending == ".tar.gz":
            data, needed = gzip.compress(data, mtime=0), 0
    else:
        compress: Callable[[bytes], bytes] = {
            ".gz": lambda content: gzip.compress(content, mtime=0),
            ".bz2": bz2.compress,
            ".xz": lzma.compress,
            ".zst": zstandard.compress,
            ".lz4": lz4.frame.compress,
        }[ending]
        data, inner = compress(sample.data), sample.ending + ending
    return Sample(
        inner,
        data,
        sample.rows,
        ((0, len(data)),) * len(sample.rows),
        head_bytes=len(data),
        needed_bytes=needed,
    )


def _zip(name: str, content: bytes, method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return file.getvalue()


SAMPLES: dict[str, Callable[[Path], Sample]] = {
    "ros1": lambda _: ros1(),
    "ros1, no index": lambda _: ros1(indexed=False),
    "ros1, lz4": lambda _: ros1("lz4"),
    "ros1, bz2": lambda _: ros1("bz2"),
    "mcap": lambda _: mcap(),
    "mcap, no summary": lambda _: mcap(summary=False),
    "mcap, no chunks": lambda _: mcap(chunked=False),
    "mcap, zstd": lambda _: mcap("zstd"),
    "mcap, lz4": lambda _: mcap("lz4"),
    "sqlite": sqlite,
    **{
        f"mcap in {ending[1:]}": lambda _, ending=ending: packed(mcap(), ending)  # type: ignore[misc]
        for ending in (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".zip-stored", ".tar", ".tar.gz")
    },
}

# --- damage -----------------------------------------------------------------------------------------

How = Literal["cut off", "inverted", "one bit", "4 GiB", "2^63"]
EVERY_WAY: tuple[How, ...] = ("cut off", "inverted", "one bit", "4 GiB", "2^63")
"""The last two put a number in the place of any that may be a length: 4 or 8 bytes."""

_NUMBERS: dict[How, bytes] = {"4 GiB": b"\xff" * 4, "2^63": struct.pack("<Q", 1 << 63)}


def damaged(data: bytes, place: int, how: How) -> bytes:
    if how == "cut off":
        return data[:place]
    if number := _NUMBERS.get(how):
        return (data[:place] + number + data[place + len(number) :])[: len(data)]
    mask = 0xFF if how == "inverted" else 1 << (place * 5) % 8
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def must_be_there(sample: Sample, place: int, how: How) -> set[Row]:
    """The rows that a bag must give that is damaged at ``place``."""
    if place < sample.head_bytes:
        return set()
    if how == "cut off":
        if sample.ending == ".db3":  # of which the pages that lead to the others may be anywhere
            place = place // 512 * 512
            if any(end > place for _, end in sample.definitions):
                return set()
        return {row for row, (_, end) in zip(sample.rows, sample.units, strict=True) if end <= place}
    last = place + len(_NUMBERS.get(how, b"x"))
    if any(begin < last and place < end for begin, end in sample.definitions):
        return set()
    found = set()
    chunks = sample.chunks or (0,) * len(sample.rows)
    for row, (_, end), chunk in zip(sample.rows, sample.units, chunks, strict=True):
        if end <= place or (last <= chunk and last <= sample.goes_on):
            found.add(row)
    return found


# --- through the engine -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What became of one bag."""

    result: BagResult
    rows: Counter[Row]


def extract(bags: Path, lake: Path, budget: MemoryBudget = DEFAULT_BUDGET) -> Manifest:
    """A bag, or a folder of them, as a drive, from plan to commit."""
    plan = make_plan(
        [str(bags)],
        output=str(lake),
        drive_id="d",
        options=ExtractOptions(),
        overwrite=False,
        take_over=False,
    )
    return run.run_shard(plan, 0, run.JobIdentity("", 1, ""), budget=budget)


def found_in(manifest: Manifest, lake: Path) -> dict[str, Found]:
    """By the name of the bag's file, and what must hold of any manifest."""
    assert run.exit_code(manifest) in (ExitCode.OK, ExitCode.BAG_UNREADABLE)
    rows: dict[str, Counter[Row]] = {bag.name: Counter() for bag in manifest.bags}
    for topic in manifest.topics:
        assert topic.messages == topic.rows + topic.rejected
        assert len(topic.rejects) == min(topic.rejected, contract.MAX_REASONS)
        there = 0
        for file in topic.files:
            columns = pq.read_table(lake / file.path).to_pydict()
            there += len(columns["bag"])
            texts = columns.get("data", [""] * len(columns["bag"]))
            for bag, log_time, text in zip(columns["bag"], columns["log_time_ns"], texts, strict=True):
                name = bag if bag in rows else bag.partition("/")[0]
                rows[name][topic.topic, log_time, str(text)] += 1
        assert there == topic.rows
    assert sum(topic.messages for topic in manifest.topics) == sum(bag.extracted for bag in manifest.bags)
    return {bag.name: Found(bag, rows[bag.name]) for bag in manifest.bags}


def verdict(sample: Sample, place: int, how: How, found: Found) -> str:
    """What is wrong with what became of a damaged bag; empty where it is as it must be."""
    result, rows = found.result, found.rows
    said = [f"{each.offset}: {each.reason}" for each in result.damage]
    told = f"{result.status.value}, {sum(rows.values())} rows of {result.extracted}, {said}"
    if missing := must_be_there(sample, place, how) - set(rows):
        return f"{len(missing)} rows are lost: {sorted(missing)[0]} ({told})"
    # What was compressed refers back: where that is wrong, whole records may be repeated, in what is damaged.
    if sum(rows.values()) > len(sample.rows) and sample.head_bytes < len(sample.data):
        return f"rows are there twice ({told})"
    if (result.status is BagStatus.OK) != (not result.damage):
        return f"status and damage differ ({told})"
    if how == "cut off":
        if result.status is BagStatus.OK:
            is_padding = 0 < sample.needed_bytes < place and set(rows) == set(sample.rows)
            return "" if is_padding else f"it is cut off, which is not said ({told})"
        if not any(each.offset >= 0 for each in result.damage):
            return f"no place is named ({told})"
        if set(rows) - set(sample.rows):
            return f"rows that were not written ({told})"
    elif result.status is BagStatus.OK and result.extracted < len(sample.rows) and not result.remarks:
        return f"messages are lost, which is not said ({told})"
    elif sample.damage_is_found and result.status is BagStatus.OK and set(rows) != set(sample.rows):
        return f"messages are changed, which is not said ({told})"
    return ""


@dataclass
class Tally:
    """What became of many damaged bags."""

    tried: int = 0
    read: int = 0
    said_damaged: int = 0
    unreadable: int = 0
    rows: int = 0
    due: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def sweep(name: str, how: How, places: Sequence[int], folder: Path) -> Tally:
    """All bags that are damaged at one of the places go through the engine."""
    sample = SAMPLES[name](folder)
    tally = Tally()
    for first in range(0, len(places), BATCH):
        _sweep(sample, how, places[first : first + BATCH], folder, tally)
    return tally


def _sweep(sample: Sample, how: How, places: Sequence[int], folder: Path, tally: Tally) -> None:
    bags, lake = folder / "bags", folder / "lake"
    bags.mkdir()
    names = {f"{place:06d}{sample.ending}": place for place in places}
    for name, place in names.items():
        (bags / name).write_bytes(damaged(sample.data, place, how))
    begin = time.monotonic()
    found: dict[str, Found] | None = None
    try:
        found = found_in(extract(bags, lake), lake)
    except Exception as error:  # noqa: BLE001 (whatever a bag raises is what is looked for)
        if len(places) == 1:
            tally.wrong.append(f"{how} at {places[0]}: {type(error).__name__}: {error}")
    finally:
        shutil.rmtree(bags)
        shutil.rmtree(lake, ignore_errors=True)
    tally.slowest_s = max(tally.slowest_s, time.monotonic() - begin)
    if found is None:  # which of them is it?
        middle = len(places) // 2
        for part in (places[:middle], places[middle:]) if middle else ():
            _sweep(sample, how, part, folder, tally)
        tally.tried += not middle
        return
    for name, place in names.items():
        each = found[name]
        tally.tried += 1
        tally.read += each.result.status is BagStatus.OK
        tally.said_damaged += each.result.status is BagStatus.DAMAGED
        tally.unreadable += each.result.status is BagStatus.UNREADABLE
        tally.rows += sum(each.rows.values())
        tally.due += len(must_be_there(sample, place, how))
        if problem := verdict(sample, place, how, each):
            tally.wrong.append(f"{how} at {place}: {problem}")
