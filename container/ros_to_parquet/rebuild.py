"""The lake back to a bag: the recorded messages of a drive, or some of them, as an MCAP file."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

from ros_to_parquet import __version__, contract
from ros_to_parquet.bag.mcap_writer import MAX_CHANNELS, McapChannel, McapSchema, McapWriter
from ros_to_parquet.bag.model import Connection, Int64Array
from ros_to_parquet.bag.source import READ_BYTES
from ros_to_parquet.contract import (
    BagResult,
    BagStatus,
    ExtractOptions,
    ImageForm,
    Manifest,
    TopicResult,
)
from ros_to_parquet.encode import ENCODINGS, Encoder
from ros_to_parquet.images import EXACT, ImageTable, form_of
from ros_to_parquet.images import METADATA_KEY as IMAGES_KEY
from ros_to_parquet.lake import Lake
from ros_to_parquet.layout import (
    DefinitionError,
    Layout,
    definition_of,
    fallback_layouts,
    resolve_layout,
)
from ros_to_parquet.parquet import int64_column
from ros_to_parquet.parquet_options import recorded_schema
from ros_to_parquet.pointcloud import METADATA_KEY, CloudTable
from ros_to_parquet.progress import Progress
from ros_to_parquet.reading import topic_filter
from ros_to_parquet.schema import arrow_fields, schema_hash
from ros_to_parquet.storage import (
    ExistsError,
    NotAFileError,
    NotFoundError,
    Storage,
    arrow_filesystem,
    join,
    normalize,
    open_storage,
)

ENCODE_BYTES: Final = 4 << 20
"""Rows of one table that are encoded at a time."""

_THREADS: Final = 16
"""Footers read at a time."""

_PICTURES: Final = 16
"""Pictures that messages are made of at a time."""

_ROSBAG2_RECORD: Final = "rosbag2"
"""A metadata record in which rosbag2 says which files and how many messages its own bag has."""

_PROFILES: Final = {"ros1": "ros1", "cdr": "ros2"}
"""MCAP's names for files of one message encoding."""

_MIN_NS: Final = -(1 << 63)
_END_NS: Final = 1 << 63


class RebuildError(ValueError):
    """The bag cannot be rebuilt: no such drive or topic, or a table that is not as its metadata says."""


@dataclass(frozen=True, slots=True)
class Window:
    """Log times from ``start_ns`` on and before ``stop_ns``, nanoseconds since 1970."""

    start_ns: int = _MIN_NS
    stop_ns: int = _END_NS

    def meets(self, first_ns: int, last_ns: int) -> bool:
        return first_ns < self.stop_ns and last_ns >= self.start_ns


@dataclass(slots=True)
class RebuiltTopic:
    """What became of one topic and type.

    Attributes:
        messages: written.
        rejected: messages that did not decode when the drive was extracted, so that the lake lacks them; at
            any time, for the manifests do not tell when all of them were recorded.
        repaired_strings: likewise, strings that were not UTF-8 and are written as the lake has them.
        unwritten: messages in the lake that are not written, as they cannot be.
        unwritten_as: their encoding (``json``, ``protobuf``), or that a transform has changed their rows, or
            that their pictures are not as recorded.
    """

    topic: str
    type_name: str
    messages: int = 0
    rejected: int = 0
    repaired_strings: int = 0
    unwritten: int = 0
    unwritten_as: str = ""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was written.

    Attributes:
        not_extracted: messages of the drive's bags that no table was made of, as they were left out by topic.
        flawed_bags: bags that were damaged or could not be read: the lake has what could be.
        unfinished: an extraction of the drive is under way or has failed: the lake has what is done.
        extras_left_out: attachments and metadata records that the lake does not have.
    """

    topics: list[RebuiltTopic]
    size_bytes: int
    not_extracted: int
    flawed_bags: int
    unfinished: bool
    extras_left_out: int

    @property
    def messages(self) -> int:
        return sum(topic.messages for topic in self.topics)


def rebuild(
    lake: Lake,
    drive_id: str,
    output: str,
    *,
    topics: ExtractOptions = ExtractOptions(),  # noqa: B008 (frozen)
    window: Window = Window(),
) -> Rebuilt:
    """Writes the messages of a drive to ``output`` (a path or an S3 URI), in the order of their log times.

    Before them come the attachments and metadata records of all its bags.

    In memory are the row groups that overlap at one time, and one open chunk. The output appears when it is
    complete; shows progress on a terminal.

    Raises:
        RebuildError: there is nothing to rebuild, or a file of the lake cannot be read.
        StorageError: the output is there already (`ExistsError`) or cannot be written; a manifest cannot be
            read.
    """
    output = normalize(output)
    storage = open_storage(output)
    _refuse_existing(storage, output)
    try:
        record = lake.drive(drive_id)
    except KeyError as error:
        raise RebuildError(str(error.args[0])) from None
    standing = contract.standing_manifests(record.manifests, record.commits)
    if not standing:
        raise RebuildError(f"{lake.uri}: of drive {drive_id} no bag has been read")
    results = _wanted_results(drive_id, standing, topics)
    tallies = _tallies(results)
    source = _open_tables(lake, results, tallies)
    if not source.channels and (unwritten := {tally.unwritten_as for tally in tallies.values()} - {""}):
        raise RebuildError(
            f"drive {drive_id}: there is nothing to rebuild: messages are {', '.join(sorted(unwritten))}; "
            f"{' and '.join(ENCODINGS)} can be written, as recorded"
        )
    if len(source.channels) > MAX_CHANNELS:
        raise RebuildError(
            f"drive {drive_id}: {len(source.channels):,} topics and connections are more than the "
            f"{MAX_CHANNELS:,} of an MCAP file; take fewer topics"
        )
    bags = contract.counting_bags(standing)
    upload = storage.upload(output)
    try:
        _write(upload.write, source, window, tallies, lake, bags)
        upload.publish()
    except BaseException:
        upload.abort()
        raise
    committed = {commit.plan_id for commit in record.commits}
    return Rebuilt(
        topics=[tallies[key] for key in sorted(tallies)],
        size_bytes=upload.size_bytes,
        not_extracted=sum(bag.messages - bag.extracted for bag in bags),
        flawed_bags=len({bag.name for bag in bags if bag.status is not BagStatus.OK}),
        unfinished=any(manifest.plan_id not in committed for manifest in standing),
        extras_left_out=sum(
            bag.extras_left_out + sum(not each.path for each in bag.attachments) for bag in bags
        ),
    )


def _refuse_existing(storage: Storage, output: str) -> None:
    try:
        storage.head(output)
    except NotAFileError as error:
        raise ExistsError(f"{error}; write to another place") from error
    except NotFoundError:
        return
    raise ExistsError(f"{output}: is there already; remove it or write to another place")


def _wanted_results(drive_id: str, standing: Sequence[Manifest], topics: ExtractOptions) -> list[TopicResult]:
    wanted = topic_filter(topics)
    known = sorted({topic.topic for manifest in standing for topic in manifest.topics})
    if not known:
        raise RebuildError(f"drive {drive_id}: there is nothing to rebuild: no message was extracted")
    results = [topic for manifest in standing for topic in manifest.topics if wanted(topic.topic)]
    if not results:
        raise RebuildError(f"drive {drive_id}: no topic matches; there are {', '.join(known[:20])}")
    return results


def _write(
    write: Callable[[bytes], object],
    source: _Source,
    window: Window,
    tallies: Mapping[tuple[str, str], RebuiltTopic],
    lake: Lake,
    bags: Sequence[BagResult],
) -> None:
    """Writes the file, and counts."""
    encodings = {channel.encoding for channel in source.channels}
    profile = _PROFILES[encodings.pop()] if len(encodings) == 1 else ""
    by_channel = [tallies[channel.topic, channel.schema.name] for channel in source.channels]
    writer = McapWriter(write, source.channels, profile=profile, library=f"ros-to-parquet {__version__}")
    _write_extras(writer, lake, bags)
    groups = [group for group in source.groups if window.meets(group.first_ns, group.last_ns)]
    for group, message in _merged(source, groups, window):
        writer.add(
            group.channel_id,
            message.payload,
            log_time_ns=message.log_time_ns,
            publish_time_ns=message.publish_time_ns,
            sequence=message.sequence,
        )
        by_channel[group.channel_id - 1].messages += 1
    writer.close()


def _write_extras(writer: McapWriter, lake: Lake, bags: Sequence[BagResult]) -> None:
    """Writes attachments, and metadata records: once where bags of one recording repeat them."""
    records = dict.fromkeys(record for bag in bags for record in bag.metadata)
    for record in records:
        if record.name != _ROSBAG2_RECORD:
            writer.add_metadata(record.name, record.values)
    storage = open_storage(lake.uri)
    for attachment in (each for bag in bags for each in bag.attachments if each.path):
        uri = join(lake.uri, attachment.path)
        with closing(storage.open(storage.head(uri))) as source:
            writer.add_attachment(
                name=attachment.name,
                media_type=attachment.media_type,
                log_time_ns=attachment.log_time_ns,
                create_time_ns=attachment.create_time_ns,
                size_bytes=source.size,
                pieces=(source.read_at(start, READ_BYTES) for start in range(0, source.size, READ_BYTES)),
            )


def _tallies(results: Sequence[TopicResult]) -> dict[tuple[str, str], RebuiltTopic]:
    """One a topic and type, so far with what is known without reading."""
    tallies: dict[tuple[str, str], RebuiltTopic] = {}
    for result in results:
        tally = tallies.setdefault(
            (result.topic, result.type_name), RebuiltTopic(result.topic, result.type_name)
        )
        tally.rejected += result.rejected
        tally.repaired_strings += result.repaired_strings
        if result.transform:
            tally.unwritten += result.rows
            tally.unwritten_as = f"changed by the transform {result.transform.name}"
    return tallies


# --- tables ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """What all files of one topic, definition, connection and set of columns share.

    Attributes:
        fields: the message's own columns, with their types.
        clouds: where the columns are those of decoded point clouds.
        images: where a rule for images has made some of them.
    """

    layout: Layout
    channel: McapChannel
    fields: tuple[pa.Field, ...]
    clouds: CloudTable | None
    images: ImageTable | None

    @property
    def needed(self) -> list[str]:
        """Columns that messages are made of."""
        return [field.name for field in self.fields] if self.images is None else self.images.needed


@dataclass(frozen=True, slots=True)
class _RowGroup:
    """A row group: the unit that is read and put in order."""

    path: str
    number: int
    channel_id: int
    table: _Table
    extras: tuple[str, ...]
    first_ns: int
    last_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Source:
    filesystem: fs.FileSystem
    root: str
    channels: list[McapChannel]
    groups: list[_RowGroup]


def _open_tables(
    lake: Lake, results: Sequence[TopicResult], tallies: Mapping[tuple[str, str], RebuiltTopic]
) -> _Source:
    """Reads the footers of all files, in the order of their paths; counts those that cannot be written."""
    filesystem, root = arrow_filesystem(lake.uri)
    recorded = [topic for topic in results if not topic.transform]  # `_tallies` has counted the others
    paths = sorted({f"{root}/{file.path}" for topic in recorded for file in topic.files if file.rows})
    tables: dict[bytes, _Table] = {}
    channel_ids: dict[McapChannel, int] = {}
    groups: list[_RowGroup] = []

    def footer(path: str) -> pq.FileMetaData:
        with _reading(path):
            return pq.read_metadata(path, filesystem=filesystem)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="lake") as pool:
        for start in range(0, len(paths), 4 * _THREADS):  # only some footers at a time are in memory
            some = paths[start : start + 4 * _THREADS]
            for path, metadata in zip(some, pool.map(footer, some), strict=True):
                schema = recorded_schema(metadata)
                said = _described(schema)
                if (encoding := said.get("ros.encoding", "")) not in ENCODINGS:
                    tally = tallies[said["ros.topic"], said["ros.type"]]
                    tally.unwritten += metadata.num_rows
                    tally.unwritten_as = encoding
                    continue
                if inexact := _inexact(filesystem, path, metadata, form_of(said)):
                    tally = tallies[said["ros.topic"], said["ros.type"]]
                    tally.unwritten += inexact
                    tally.unwritten_as = f"pictures that are not as recorded (images: {form_of(said)})"
                    if inexact == metadata.num_rows:
                        continue
                key = schema.serialize().to_pybytes()
                if key not in tables:
                    tables[key] = _table(path, schema)
                table = tables[key]
                channel_id = channel_ids.setdefault(table.channel, len(channel_ids) + 1)
                groups += _row_groups(path, metadata, schema, channel_id, table, filesystem)
    return _Source(filesystem, root, list(channel_ids), groups)


def _inexact(filesystem: fs.FileSystem, path: str, metadata: pq.FileMetaData, form: ImageForm) -> int:
    """Rows of a file whose messages its pictures do not tell."""
    if form is ImageForm.RECORDED:
        return 0
    if form is ImageForm.LEFT_OUT:
        return int(metadata.num_rows)
    groups = range(metadata.num_row_groups)
    columns = [_read(filesystem, path, each, [EXACT]).column(0) for each in groups]
    exact = sum(int(each.true_count) for column in columns for each in column.chunks)
    return int(metadata.num_rows) - exact


def _described(schema: pa.Schema) -> dict[str, str]:
    """What a file says of itself."""
    return {
        key.decode(): value.decode("utf-8", "surrogateescape")
        for key, value in (schema.metadata or {}).items()
        if key.startswith(b"ros")
    }


def _table(path: str, schema: pa.Schema) -> _Table:
    """Raises `RebuildError` where the file's metadata does not lead to its columns."""
    said = _described(schema)
    try:
        connection = Connection(
            id=0,
            topic=said["ros.topic"],
            type_name=said["ros.type"],
            definition=said["ros.definition"],
            definition_format=said["ros.definition_format"],
            definition_hash=said["ros.definition_hash"],
            encoding=said["ros.encoding"],
            metadata=json.loads(said["ros.connection"]),
        )
        found = _found(connection, schema, said)
    except KeyError as error:
        raise RebuildError(f"{path}: is not a file of this engine: its metadata lacks {error}") from error
    except DefinitionError as error:
        raise RebuildError(f"{path}: {error}") from error
    if found is None:
        raise RebuildError(
            f"{path}: the definition of {connection.type_name} that it names does not make its columns; "
            f"it was written by ros-to-parquet {said.get('ros_to_parquet.version')}, this is {__version__}"
        )
    return found


def _found(connection: Connection, schema: pa.Schema, said: Mapping[str, str]) -> _Table | None:
    """By the layout that the table was made with: it has the file's columns and hash."""

    def candidates() -> Iterator[Layout]:
        yield resolve_layout(connection)
        yield from fallback_layouts(connection)  # a standard type, of the distribution that fitted

    for layout in candidates():
        # The recorded hash is not that of the table where its definition was not what was used.
        hashes = {schema_hash(each, layout) for each in (connection, replace(connection, definition_hash=""))}
        fields, clouds, images = arrow_fields(layout), None, None
        if METADATA_KEY in said:
            clouds = CloudTable.from_metadata(layout, said[METADATA_KEY])
            hashes = {clouds.schema_hash(digits) for digits in hashes}
            fields = list(clouds.schema)
        elif IMAGES_KEY in said:
            images = ImageTable.from_metadata(layout, said[IMAGES_KEY])
            hashes = {images.schema_hash(digits) for digits in hashes}
            fields = [field for field in fields if field.name in images.schema.names]
        types = {field.name: field.type for field in schema}
        same = all(types.get(field.name) == field.type for field in fields)
        if same and said["ros_to_parquet.schema"] in hashes:
            return _Table(layout, _channel(connection, layout), tuple(fields), clouds, images)
    return None


def _channel(connection: Connection, layout: Layout) -> McapChannel:
    if layout.source == "recorded" and connection.definition_format:
        text, encoding = connection.definition, connection.definition_format
    else:  # what the bag had is nothing, or not what the messages are
        text, encoding = definition_of(layout)
    metadata: Mapping[str, str] = dict(connection.metadata)
    if connection.definition_hash:  # under the names that MCAP files of ROS 1 and ROS 2 have it
        key = "md5sum" if layout.ros_version == 1 else "topic_type_hash"
        metadata = {key: connection.definition_hash, **metadata}
    return McapChannel(
        topic=connection.topic,
        encoding=connection.encoding,
        schema=McapSchema(connection.type_name, encoding, text),
        metadata=tuple(sorted(metadata.items())),
    )


def _row_groups(
    path: str,
    metadata: pq.FileMetaData,
    schema: pa.Schema,
    channel_id: int,
    table: _Table,
    filesystem: fs.FileSystem,
) -> Iterator[_RowGroup]:
    extras = tuple(name for name in ("publish_time_ns", "sequence") if name in schema.names)
    column = [metadata.schema.column(number).path for number in range(metadata.num_columns)].index(
        "log_time_ns"
    )
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if not group.num_rows:
            continue
        statistics = group.column(column).statistics
        if statistics is not None and statistics.has_min_max:
            first_ns, last_ns = int(statistics.min), int(statistics.max)
        else:
            times = _int64(_read(filesystem, path, number, ["log_time_ns"]).column(0))
            first_ns, last_ns = int(times.min()), int(times.max())
        yield _RowGroup(path, number, channel_id, table, extras, first_ns, last_ns, group.total_byte_size)


# --- messages ----------------------------------------------------------------------------------------


class _Message(NamedTuple):
    log_time_ns: int
    publish_time_ns: int
    sequence: int
    payload: memoryview


def _merged(
    source: _Source, groups: Sequence[_RowGroup], window: Window
) -> Iterator[tuple[_RowGroup, _Message]]:
    """All messages by log time; those of one time in the order of ``groups``.

    A row group is opened when its first message is due.
    """
    due = [(group.first_ns, number) for number, group in enumerate(groups)]
    heapq.heapify(due)
    opened: dict[int, tuple[Iterator[_Message], _Message]] = {}
    read_bytes = 0
    with Progress(sum(group.size_bytes for group in groups)) as progress:
        while due:
            _, number = due[0]
            if number in opened:
                messages, message = opened[number]
                yield groups[number], message
            else:
                messages = _messages(source, groups[number], window)
                read_bytes += groups[number].size_bytes
                progress.show(read_bytes)
            following = next(messages, None)
            if following is None:
                heapq.heappop(due)
                opened.pop(number, None)
            else:
                opened[number] = messages, following
                heapq.heapreplace(due, (following.log_time_ns, number))


def _messages(source: _Source, group: _RowGroup, window: Window) -> Iterator[_Message]:
    """A row group's messages within the window, sorted by log time; in recorded order within one time."""
    images = group.table.images
    needed = ["log_time_ns", *group.extras, *group.table.needed]
    table = _read(source.filesystem, group.path, group.number, needed)
    if EXACT in needed:
        table = table.filter(table.column(EXACT))
    rows = _order(_int64(table.column("log_time_ns")), window)
    if rows is not None:
        table = table.take(int64_column(rows))
    encoder = Encoder(group.table.layout, group.table.channel.encoding)
    step = max(1, ENCODE_BYTES * table.num_rows // max(1, table.nbytes))
    if EXACT in needed:  # what is read is no measure of what it becomes
        step = min(step, _PICTURES)
    for start in range(0, table.num_rows, step):
        part = table.slice(start, step).combine_chunks()
        log_times = _int64(part.column("log_time_ns")).tolist()
        publish_times, sequences = (
            _int64(part.column(name)).tolist() if name in group.extras else default
            for name, default in (("publish_time_ns", log_times), ("sequence", [0] * len(log_times)))
        )
        # The compatible style stores some types as others.
        columns = [_one(part.column(field.name)).cast(field.type) for field in group.table.fields]
        if images is not None:
            given = {name: _one(part.column(name)) for name in group.table.needed}
            given |= {field.name: column for field, column in zip(group.table.fields, columns, strict=True)}
            columns = images.recorded(given, partial(_read_beside, source))
        if group.table.clouds is not None:
            columns = group.table.clouds.recorded(columns)
        encoded = encoder.encode(columns, part.num_rows)
        data, begin = encoded.data.data, 0
        for log_time, publish_time, sequence, end in zip(
            log_times, publish_times, sequences, encoded.ends.tolist(), strict=True
        ):
            yield _Message(log_time, publish_time, sequence, data[begin:end])
            begin = end


def _order(log_times: Int64Array, window: Window) -> Int64Array | None:
    """Rows to take, in order; None where that is all of them as they are."""
    inside = (log_times >= window.start_ns) & (log_times < window.stop_ns)
    if inside.all() and (log_times[1:] >= log_times[:-1]).all():
        return None
    rows = np.flatnonzero(inside)
    return rows[np.argsort(log_times[rows], kind="stable")]


def _read_beside(source: _Source, path: str) -> bytes:
    """A file that a row names."""
    with _reading(path), source.filesystem.open_input_stream(f"{source.root}/{path}") as file:
        return bytes(file.read())


def _read(filesystem: fs.FileSystem, path: str, number: int, columns: list[str]) -> pa.Table:
    with _reading(path), pq.ParquetFile(path, filesystem=filesystem) as file:
        return file.read_row_group(number, columns=columns)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise RebuildError(f"{path}: a file of the drive cannot be read: {error}") from error


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _int64(column: pa.ChunkedArray) -> Int64Array:
    values: Any = np.from_dlpack(_one(column))
    return np.asarray(values, np.int64)
