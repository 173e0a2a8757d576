"""Rows out of blocks of messages: what becomes of each topic of a shard, counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from ros_to_parquet import __version__, contract, parquet
from ros_to_parquet.bag.join import SMALL_BYTES
from ros_to_parquet.bag.model import Connection, Int64Array, LogTimes, MessageBlock, UInt8Array
from ros_to_parquet.bag.source import give_back
from ros_to_parquet.contract import Plan, PointClouds
from ros_to_parquet.decode import Decoded, Decoder
from ros_to_parquet.decoders import Decoders, prepare
from ros_to_parquet.definitions import TypeSource
from ros_to_parquet.images import Camera, ImagePart, ImageRows, ImageRules, Images, ImageTable
from ros_to_parquet.images import is_image as is_image_layout
from ros_to_parquet.layout import MAX_MESSAGE_BYTES, DefinitionError
from ros_to_parquet.memory import DECODER_BYTES, DEFAULT_BUDGET, TABLE_BYTES, MemoryBudget, readable
from ros_to_parquet.parquet_memory import encoding_bytes
from ros_to_parquet.picture_files import PictureFiles
from ros_to_parquet.pointcloud import POINT_CLOUD, CloudDecoder, CloudTable, is_point_cloud
from ros_to_parquet.quality.values import Facts, Look
from ros_to_parquet.quality.watch import Stream, Watch
from ros_to_parquet.reading import memory_bytes
from ros_to_parquet.records import RecordDecoder
from ros_to_parquet.transforms import METADATA_KEY, RunningTransform, TopicInfo, Transform, Transforms

_SHARED_TAKES = 4
"""How many times as much a decoder holds that several connections share: it is cut up among them."""


@dataclass(frozen=True, slots=True)
class _Messages:
    """What is known of messages beside their payload; see `MessageBlock`, without its buffer."""

    log_times_ns: Int64Array
    publish_times_ns: Int64Array | None
    sequences: Int64Array | None
    offsets: Int64Array
    lengths: Int64Array

    @classmethod
    def joined(cls, blocks: Sequence[MessageBlock | _Messages]) -> _Messages:
        return cls(
            np.concatenate([block.log_times_ns for block in blocks]),
            _concatenated([block.publish_times_ns for block in blocks]),
            _concatenated([block.sequences for block in blocks]),
            np.concatenate([block.offsets for block in blocks]),
            np.concatenate([block.lengths for block in blocks]),
        )


def _concatenated(arrays: Sequence[Int64Array | None]) -> Int64Array | None:
    """All of them or none of them: one connection's blocks are of one format."""
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


@dataclass(slots=True)
class _Span:
    """The log times that a file has, and the bag that the first one is of."""

    first_bag: str = ""
    log_times: LogTimes = field(default_factory=LogTimes)

    def add(self, rows: pa.RecordBatch, bag: str) -> None:
        """Takes in rows of one bag; without times where a transform has left them out."""
        place = rows.schema.get_field_index("log_time_ns")
        if place >= 0 and rows.num_rows and self.log_times.add(np.from_dlpack(rows.column(place))):
            self.first_bag = bag


@dataclass(slots=True)
class _Tally:
    """What has become of one topic and definition so far."""

    topic: str
    type_name: str
    schema_hash: str
    messages: int = 0
    rows: int = 0
    rejected: int = 0
    repaired_strings: int = 0
    bytes_in: int = 0
    log_times: LogTimes = field(default_factory=LogTimes)
    rejects: list[contract.Reject] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    remark: str = ""
    clouds_as_recorded: int = 0
    cloud_problem: str = ""
    images_as_recorded: int = 0
    image_problem: str = ""
    transform: Transform | None = None
    rows_out: int = 0

    def keep_clouds(self, count: int, problem: str) -> None:
        """Notes clouds that were to be decoded and are kept as recorded; the first reason is told."""
        self.clouds_as_recorded += count
        self.cloud_problem = self.cloud_problem or problem

    def keep_images(self, count: int, problem: str) -> None:
        """Likewise pictures that were to be made."""
        self.images_as_recorded += count
        self.image_problem = self.image_problem or problem

    @property
    def owner(self) -> tuple[str, str, str]:
        """Whose files beside the table are."""
        return (self.topic, self.type_name, self.schema_hash)

    def count(self, block: MessageBlock) -> None:
        self.log_times.add(block.log_times_ns)
        self.messages += len(block)
        self.bytes_in += int(block.lengths.sum())

    def reject(self, bag: str, about: _Messages, rejected: Sequence[tuple[int, str]]) -> None:
        self.rejected += len(rejected)
        for index, reason in rejected[: contract.MAX_REASONS - len(self.rejects)]:
            offset, log_time_ns = int(about.offsets[index]), int(about.log_times_ns[index])
            self.rejects.append(contract.Reject(bag, offset, log_time_ns, reason))

    def result(
        self,
        files: Mapping[str, parquet.TableFile],
        spans: Mapping[str, _Span],
        beside: tuple[contract.FileSet, ...],
    ) -> contract.TopicResult:
        if self.messages != self.rows + self.rejected:
            raise AssertionError(
                f"{self.topic}: {self.messages} messages, {self.rows} rows, {self.rejected} rejects"
            )
        written = sum(files[path].rows for path in self.paths)
        if written != (self.rows if self.transform is None else self.rows_out):
            raise AssertionError(f"{self.topic}: {self.rows} rows, {self.rows_out} out, {written} written")
        return contract.TopicResult(
            topic=self.topic,
            table=contract.table_name(self.topic),
            type_name=self.type_name,
            schema_hash=self.schema_hash,
            messages=self.messages,
            rows=self.rows,
            rejected=self.rejected,
            repaired_strings=self.repaired_strings,
            bytes_in=self.bytes_in,
            first_log_time_ns=self.log_times.first_ns,
            last_log_time_ns=self.log_times.last_ns,
            files=tuple(_output_file(files[path], spans.get(path, _Span())) for path in self.paths),
            rejects=tuple(self.rejects),
            remark="; ".join(filter(None, (self.remark, self._cloud_remark(), self._image_remark()))),
            transform=None if self.transform is None else self._transformed(self.transform),
            beside=beside,
        )

    def _transformed(self, made_by: Transform) -> contract.Transformed:
        return contract.Transformed(
            made_by.name, made_by.distribution, made_by.version, self.rows, self.rows_out
        )

    def _cloud_remark(self) -> str:
        if not self.cloud_problem:
            return ""
        count = self.clouds_as_recorded
        which = "1 cloud is" if count == 1 else f"{count:,} clouds are" if count else "clouds are"
        return f"{which} kept as recorded, in the column data: {self.cloud_problem}"

    def _image_remark(self) -> str:
        if not self.image_problem:
            return ""
        count = self.images_as_recorded
        which = "1 picture is" if count == 1 else f"{count:,} pictures are" if count else "pictures are"
        return f"{which} kept as recorded, in the column data: {self.image_problem}"


def _output_file(file: parquet.TableFile, span: _Span) -> contract.OutputFile:
    return contract.OutputFile(
        path=file.path,
        rows=file.rows,
        size_bytes=file.upload.size_bytes,
        first_log_time_ns=span.log_times.first_ns,
        last_log_time_ns=span.log_times.last_ns,
        first_bag=span.first_bag,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sink:
    """What takes rows of one topic, definition and set of columns.

    Attributes:
        digits: of the columns' schema.
        metadata: what a file of such rows says of itself beside what all do.
        path: the file; empty where the rows are to go through ``transform`` first.
    """

    tally: _Tally
    connection: Connection
    digits: str
    schema: pa.Schema
    metadata: Mapping[str, str]
    path: str = ""
    transform: Transform | None = None


@dataclass(frozen=True, slots=True)
class _Table:
    """Where a connection's rows go, and how they are made.

    Attributes:
        connection: with the definition that the decoder goes by.
        schema_hash: of that definition.
        own: the engine's own columns.
        sink: None where `clouds` or `camera` says only later which.
        clouds: where point clouds are to become columns: their fields choose the sink.
        camera: where pictures are to be made: whether they can be chooses the sink.
    """

    connection: Connection
    schema_hash: str
    own: parquet.TableColumns
    decoder: Decoder | RecordDecoder
    sink: _Sink | None
    clouds: CloudDecoder | None = None
    camera: Camera | None = None

    @property
    def expansion(self) -> int:
        """How many times a message's bytes its rows take.

        Of clouds, blob and columns are there at a time; of pictures, those recorded and those made.
        """
        return self.decoder.expansion * (1 if self.clouds is None and self.camera is None else 2)


@dataclass(slots=True)
class _Target:
    """What becomes of a connection's messages; resolved at its first block, looked up once a block.

    ``running`` are the transforms at work on the connection's rows, where there are any; ``stream`` is what
    quality checks measure of it.
    """

    tally: _Tally
    table: _Table | None
    refusal: str = ""
    work: _Work | None = None
    stream: Stream | None = None
    running: dict[_Sink, RunningTransform] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Work:
    """A decoder and the messages it holds: of one connection, or of several with one layout.

    Each block costs an entry in ``pending``; Arrow arrays, which cost by the column, are made once for all.
    """

    decoder: Decoder | RecordDecoder
    shared: bool
    pending: list[tuple[_Target, _Messages]] = field(default_factory=list)
    pending_bytes: int = 0


class Extraction:
    """One shard in the making: blocks in, rows and counted rejects out; its files are called ``name``."""

    def __init__(
        self,
        plan: Plan,
        shard: int,
        tables: parquet.TableWriters,
        types: TypeSource,
        transforms: Transforms,
        image_rules: ImageRules,
        files: PictureFiles,
        budget: MemoryBudget = DEFAULT_BUDGET,
        *,
        name: str = "",
    ) -> None:
        self._plan = plan
        self._shard = shard
        self.name = name or contract.shard_name(plan.plan_id, shard)
        self._types = types
        self._transforms = transforms
        self._image_rules = image_rules
        self._files = files
        self.images = Images(files, budget, self._take_images)
        self._tables = tables
        self._budget = budget
        self._tallies: dict[tuple[str, str, str], _Tally] = {}
        self._sinks: dict[tuple[str, str, str, pa.Schema], _Sink] = {}
        self._topics: set[str] = set()
        """Those that have a sink."""
        self._taken: set[str] = set()
        self._spans: dict[str, _Span] = {}
        self._part = contract.BagSlice(0)
        self._members = 0
        self._bag = ""
        self._bag_name = parquet.bag_name("")
        self._member = ""
        self._targets: dict[int, _Target] = {}
        self._watch = Watch(plan.quality)
        self._streams: dict[int, Stream | None] = {}
        self._looks: dict[tuple[Decoder | RecordDecoder, str], Look] = {}
        self._oversize: dict[int, list[MessageBlock]] = {}
        self._decoders = Decoders()
        self._work: dict[Decoder | RecordDecoder, _Work] = {}
        self._unfed: dict[_Work, list[MessageBlock]] = {}
        self._unfed_data: UInt8Array | None = None
        self._pending_bytes = 0

    def close(self) -> None:
        """Gives up what is not finished."""
        self.images.close()

    def begin_bag(self, place: int) -> None:
        """Blocks that follow are of the shard's bag number ``place``."""
        self._part = self._plan.shards[self._shard][place]
        self._members = 0
        self._begin(self._plan.bags[self._part.bag].name)

    def _begin(self, bag: str, member: str = "") -> None:
        self._watch.begin(self._part.bag, self._members, self._part.index, split=self._part.count > 1)
        self._streams = {}
        self._bag = bag
        self._bag_name = parquet.bag_name(bag)
        self._member = member
        self._targets = {}
        self._work = {}
        self._pending_bytes = 0

    def _begin_member(self, member: str) -> None:
        """The current bag is an archive; blocks that follow are of this bag in it, whose name rows have."""
        self.end_bag()
        self._members += 1
        archive = self._bag.removesuffix(f"/{self._member}") if self._member else self._bag
        self._begin(f"{archive}/{member}", member)

    def end_bag(self) -> None:
        """Hands on what has been decoded and not yet become rows."""
        # Last, for a message that can be read tells better what the topic's are.
        for connection_id, blocks in self._oversize.items():
            if connection_id not in self._targets:
                self._targets[connection_id] = self._resolve(blocks[0].part(0, 0))
            for block in blocks:
                self._refuse_oversize(self._targets[connection_id], block)
        self._oversize = {}
        for work in self._work.values():
            self._take(work)
        self.images.drain()
        for target in self._targets.values():
            for sink, running in target.running.items():
                for rows in running.finish():
                    self._append_made(sink, running, rows)
        self._watch.end()

    def add(self, block: MessageBlock) -> None:
        """Counts and decodes a block of the current bag."""
        if block.connection.member != self._member:
            self._begin_member(block.connection.member)
        stream = self._measure(block)
        target = self._targets.get(block.connection.id)
        if block.oversize and (target is None or target.table is not None):
            self._oversize.setdefault(block.connection.id, []).append(block)
            return
        if target is None:
            target = self._targets[block.connection.id] = self._resolve(block)
        target.stream = stream
        expansion = target.table.expansion if target.table else 1
        most_bytes = self._budget.message // expansion
        for part in _parts(block, self._budget.block // expansion):
            if int(part.lengths.max()) > most_bytes:  # alone in its part
                self._refuse_oversize(target, part)
                continue
            target.tally.count(part)
            about = _Messages.joined([part])
            if target.table is not None and int(part.lengths.max()) > self._budget.large:
                self._add_large(target, part, about)
                continue
            if target.table is None:
                refused = [(index, target.refusal) for index in range(len(part))]
                target.tally.reject(self._bag, about, refused)
                continue
            size_bytes = memory_bytes(part)
            work = self._work_for(target, target.table, size_bytes)
            if work.shared:
                self._feed_later(work, part)
            else:
                work.decoder.feed(part)
            work.pending.append((target, about))
            cost = size_bytes * expansion
            work.pending_bytes += cost
            self._pending_bytes += cost
            if work.pending_bytes >= self._budget.take * (_SHARED_TAKES if work.shared else 1):
                self._take(work)
            elif self._pending_bytes >= self._budget.pending:
                self._take_largest()

    def _measure(self, block: MessageBlock) -> Stream | None:
        """Takes the block's times for quality checks."""
        self._watch.note_block(int(block.offsets[0]))
        connection = block.connection
        if connection.id not in self._streams:
            self._streams[connection.id] = self._watch.stream(
                connection.topic, connection.type_name, connection.id
            )
        stream = self._streams[connection.id]
        if stream is not None:
            self._watch.note_messages(stream, block.log_times_ns, block.offsets)
        return stream

    def _add_large(self, target: _Target, block: MessageBlock, about: _Messages) -> None:
        """A message that fits if nothing else is in memory beside it, and it is there as seldom as can be."""
        assert target.table is not None
        for each in self._work.values():
            self._take(each)
        self.images.drain()
        self._tables.settle()
        work = self._work_for(target, target.table, memory_bytes(block))
        work.decoder.feed(block)
        give_back(block.data)
        work.pending.append((target, about))
        self._take(work, large=True)

    def _refuse_oversize(self, target: _Target, block: MessageBlock) -> None:
        """Counts messages that are too large as rejects."""
        expansion = target.table.expansion if target.table else 1
        target.tally.count(block)
        reasons = [
            (row, _too_large(size, self._budget, expansion))
            for row, size in enumerate(block.lengths.tolist())
        ]
        target.tally.reject(self._bag, _Messages.joined([block]), reasons)

    def _feed_later(self, work: _Work, block: MessageBlock) -> None:
        """Feeds all small blocks of one buffer at once; the buffer is let go when another one comes."""
        if self._unfed and block.data is not self._unfed_data:
            self._feed_all()
        self._unfed_data = block.data
        self._unfed.setdefault(work, []).append(block)

    def _feed_all(self) -> None:
        for work in list(self._unfed):
            self._feed(work)

    def _feed(self, work: _Work) -> None:
        if blocks := self._unfed.pop(work, None):
            assert isinstance(work.decoder, Decoder)
            work.decoder.feed_together(blocks)
        if not self._unfed:
            self._unfed_data = None

    def _work_for(self, target: _Target, table: _Table, size_bytes: int) -> _Work:
        """Who decodes a target's messages: it shares a decoder until it has many bytes at once."""
        alone = (
            size_bytes >= SMALL_BYTES
            or table.clouds is not None
            or table.camera is not None
            or not isinstance(table.decoder, Decoder)
        )
        if target.work is not None:
            if not (alone and target.work.shared):
                return target.work
            self._take(target.work)  # before what comes now
        decoder = table.decoder
        if alone and isinstance(decoder, Decoder):
            decoder = Decoder(decoder.layout, decoder.encoding)
        target.work = self._work.setdefault(decoder, _Work(decoder, shared=not alone))
        return target.work

    def _take_largest(self) -> None:
        """Makes some room at once: to look at every decoder each time would cost by their number squared."""
        most_bytes = self._budget.pending * 7 // 8
        for work in sorted(self._work.values(), key=lambda each: each.pending_bytes, reverse=True):
            if self._pending_bytes <= most_bytes:
                return
            self._take(work)

    def _take(self, work: _Work, *, large: bool = False) -> None:
        """Rows and rejects of what a decoder holds."""
        self._feed(work)
        pending, work.pending = work.pending, []
        self._pending_bytes -= work.pending_bytes
        work.pending_bytes = 0
        if not pending:
            return
        about = _Messages.joined([each for _, each in pending])
        decoded = work.decoder.take()
        target = pending[0][0]
        if any(each is not target for each, _ in pending):
            self._share_out(pending, about, decoded)
            return
        assert target.table is not None
        target.tally.reject(self._bag, about, decoded.rejected)
        target.tally.repaired_strings += decoded.repaired_strings
        target.tally.remark = decoded.remark or target.tally.remark
        target.tally.rows += len(decoded.rows)
        facts = self._facts([target], about, decoded)
        if target.stream is not None and facts is not None:
            self._watch.note_rows(target.stream, facts)
        if target.table.camera is not None:
            log_times = about.log_times_ns[decoded.rows]
            self.images.add(ImageRows(target.table.camera, decoded, log_times, (target, about), large))
            return
        if target.table.clouds is None:
            assert target.table.sink is not None
            self._append(target, target.table.sink, about, decoded, large=large)
            return
        for part in target.table.clouds.split(decoded):
            if part.table is None:
                target.tally.keep_clouds(len(part.decoded.rows), part.problem)
            sink = self._cloud_sink(target.tally, target.table, part.table)
            self._append(target, sink, about, part.decoded, large=large)

    def _take_images(self, rows: ImageRows, part: ImagePart) -> None:
        """Rows whose pictures were made, or that are kept as recorded."""
        target, about = rows.key
        if part.table is None:
            target.tally.keep_images(len(part.decoded.rows), part.problem)
        sink = self._image_sink(target.tally, target.table, part.table)
        size_bytes = sum(column.nbytes for column in part.decoded.columns)
        large = len(part.decoded.rows) == 1 and size_bytes > self._budget.large
        if large:
            self._tables.settle()
        self._append(target, sink, about, part.decoded, large=large)

    def _share_out(
        self,
        pending: Sequence[tuple[_Target, _Messages]],
        about: _Messages,
        decoded: Decoded,
    ) -> None:
        """To each target what is of its own messages."""
        starts = np.cumsum([0, *(len(each.offsets) for _, each in pending)])
        bag = self._bag
        for index, reason in decoded.rejected:
            owner, _ = pending[int(np.searchsorted(starts, index, side="right")) - 1]
            owner.tally.reject(bag, about, [(index, reason)])
        assert decoded.repaired is not None
        for place in (np.searchsorted(starts, decoded.repaired, side="right") - 1).tolist():
            pending[place][0].tally.repaired_strings += 1
        if not len(decoded.rows):
            return
        table = pending[0][0].table
        assert table is not None
        assert table.sink is not None
        rows = self._rows(table.sink, about, decoded)
        bounds = np.searchsorted(decoded.rows, starts).tolist()
        pieces: dict[int, tuple[_Target, list[pa.RecordBatch]]] = {}
        ranges: dict[int, list[tuple[int, int]]] = {}
        for (target, _), (first, last) in zip(pending, pairwise(bounds), strict=True):
            if first < last:
                pieces.setdefault(id(target), (target, []))[1].append(rows.slice(first, last - first))
                ranges.setdefault(id(target), []).append((first, last))
        facts = self._facts([target for target, _ in pieces.values()], about, decoded)
        for target, slices in pieces.values():
            if target.stream is not None and facts is not None:
                self._watch.note_rows(target.stream, facts.take(ranges[id(target)]))
            assert target.table is not None
            assert target.table.sink is not None
            own = pa.concat_batches(slices)  # a copy: a slice would keep the whole in memory
            target.tally.rows += own.num_rows
            if target.table.sink.transform is not None:
                self._apply(target.table.sink.transform, target, target.table.sink, own)
            else:
                self._write(target.table.sink.path, own)

    def _facts(self, targets: Sequence[_Target], about: _Messages, decoded: Decoded) -> Facts | None:
        """What quality checks measure of rows as recorded; None where nothing is checked."""
        target = next((each for each in targets if each.stream is not None), None)
        if target is None or target.table is None or not len(decoded.rows):
            return None
        schema, type_name = target.table.decoder.schema, target.table.connection.type_name
        key = (target.table.decoder, type_name)
        if key not in self._looks:
            self._looks[key] = Look(schema, type_name)
        look = self._looks[key]
        return look.at(decoded.columns, about.log_times_ns[decoded.rows], decoded.stamps_ns)

    def _append(
        self, target: _Target, sink: _Sink, about: _Messages, decoded: Decoded, *, large: bool
    ) -> None:
        if not len(decoded.rows):
            return
        rows, tally = self._rows(sink, about, decoded), target.tally
        if sink.transform is not None:
            self._apply(sink.transform, target, sink, rows)
            return
        if not large:
            self._write(sink.path, rows)
            return
        if reason := self._too_large_to_write(rows, int(about.lengths[0])):
            tally.rows -= len(decoded.rows)
            tally.reject(self._bag, about, [(row, reason) for row in decoded.rows.tolist()])
            return
        self._write(self._large_path(sink), rows, large=True)

    def _write(self, path: str, rows: pa.RecordBatch, *, large: bool = False) -> None:
        """Hands rows of the current bag to the file at ``path``."""
        self._spans.setdefault(path, _Span(self._bag)).add(rows, self._bag)
        if large:
            self._tables.append_large(path, rows)
        else:
            self._tables.append(path, rows)

    def _too_large_to_write(self, rows: pa.RecordBatch, size_bytes: int) -> str:
        """Why a large row cannot be written, and what to do; empty where it can."""
        needed = encoding_bytes(rows.columns) + sum(column.nbytes for column in rows.columns)
        if needed <= self._budget.alone:
            return ""
        return (
            f"{size_bytes:,} bytes long, and about {needed:,} to write as columns, more than "
            f"{self._budget.alone:,} of the memory limit: raise --memory-limit to "
            f"{readable(needed * self._budget.limit // self._budget.alone)}"
        )

    def _apply(self, transform: Transform, target: _Target, sink: _Sink, rows: pa.RecordBatch) -> None:
        """Rows go through their transform, and what comes out to its file."""
        running = target.running.get(sink)
        if running is None:
            connection = sink.connection
            topic = TopicInfo(
                drive_id=self._plan.drive_id,
                bag=self._bag,
                topic=connection.topic,
                type_name=connection.type_name,
                definition=connection.definition,
                encoding=connection.encoding,
                schema=sink.schema,
            )
            running = target.running[sink] = RunningTransform(transform, topic)
        for made in running.apply(rows.replace_schema_metadata(None)):  # which may be another topic's
            self._append_made(sink, running, made)

    def _append_made(self, sink: _Sink, running: RunningTransform, rows: pa.RecordBatch) -> None:
        """Takes rows that a transform has made, however many and large."""
        assert sink.transform is not None
        file = self._made_sink(sink, sink.transform, rows.schema)
        sink.tally.rows_out += rows.num_rows
        for part in _pieces(rows, self._budget.row_group):
            piece = pa.RecordBatch.from_arrays(part.columns, schema=file.schema)
            if piece.num_rows == 1 and piece.nbytes > self._budget.large:
                if reason := self._too_large_to_write(piece, piece.nbytes):
                    raise running.too_large(reason)
                self._tables.settle()
                self._write(self._large_path(file), piece, large=True)
                continue
            if piece.get_total_buffer_size() > 2 * piece.nbytes:
                piece = pa.concat_batches([piece])  # a copy: a slice would keep the whole in memory
            self._write(file.path, piece)

    def _rows(self, sink: _Sink, about: _Messages, decoded: Decoded) -> pa.RecordBatch:
        """Rows of the sink, or of another one with the same columns."""
        return pa.RecordBatch.from_arrays(self._columns(about, decoded), schema=sink.schema)

    def _large_path(self, sink: _Sink) -> str:
        """The file beside the sink's that takes large rows of the same table."""
        large = f"{sink.path.removesuffix('.parquet')}-large.parquet"
        if large not in self._taken:
            self._taken.add(large)
            self._tables.open_large(large, sink.path)
            sink.tally.paths.append(large)
        return large

    def results(self, files: Mapping[str, parquet.TableFile]) -> tuple[contract.TopicResult, ...]:
        """One result a topic and definition, sorted by topic."""
        tallies = sorted(self._tallies.items())
        return tuple(tally.result(files, self._spans, self._files.sets(tally.owner)) for _, tally in tallies)

    def quality(self) -> str:
        """Numbers of all topics, as the manifest has them."""
        return self._watch.dump()

    def _columns(self, about: _Messages, decoded: Decoded) -> list[pa.Array]:
        """In the order of `parquet.TableColumns.fields`, then the message's own."""
        rows = decoded.rows
        log_times = about.log_times_ns[rows]
        columns = [parquet.time_column(log_times), parquet.int64_column(log_times)]
        if decoded.stamps_ns is not None:
            columns += [parquet.time_column(decoded.stamps_ns), parquet.int64_column(decoded.stamps_ns)]
        if about.publish_times_ns is not None:
            columns.append(parquet.int64_column(about.publish_times_ns[rows]))
        if about.sequences is not None:
            columns.append(parquet.int64_column(about.sequences[rows]))
        columns.append(parquet.bag_column(len(rows), self._bag_name))
        return columns + decoded.columns

    def _resolve(self, block: MessageBlock) -> _Target:
        """The target of the block's connection."""
        if refusal := self._no_room(block.connection.topic):
            return _Target(self._tally(block.connection, ""), None, refusal)
        try:
            made = prepare(block, self._types, self._decoders)
        except DefinitionError as error:
            return _Target(self._tally(block.connection, ""), None, str(error))
        columns = parquet.TableColumns(
            stamp=made.decoder.has_stamp,
            publish_time=block.publish_times_ns is not None,
            sequence=block.sequences is not None,
        )
        tally = self._tally(made.connection, made.schema_hash)
        tally.remark = tally.remark or made.remark
        clouds = None
        if self._plan.options.pointcloud is PointClouds.DECODED and isinstance(made.decoder, Decoder):
            if is_point_cloud(made.decoder.layout):
                clouds = CloudDecoder(made.decoder.layout)
            elif made.decoder.layout.root.type_name == POINT_CLOUD:
                tally.keep_clouds(0, "its definition is not the one that ROS has")
        tally.transform = self._transforms.of(made.connection.topic)
        camera = self._camera(tally, made.connection, made.decoder)
        table = _Table(made.connection, made.schema_hash, columns, made.decoder, None, clouds, camera)
        if clouds is None and camera is None:
            table = replace(table, sink=self._sink(tally, table, made.schema_hash, made.decoder.schema))
        return _Target(tally, table)

    def _camera(
        self, tally: _Tally, connection: Connection, decoder: Decoder | RecordDecoder
    ) -> Camera | None:
        """Whose pictures the connection's are, where some are to be made."""
        if not isinstance(decoder, Decoder) or not contract.is_image_type(decoder.layout.root.type_name):
            return None
        rule = self._image_rules.of(connection.topic)
        if rule is None:
            return None
        if not is_image_layout(decoder.layout):
            tally.keep_images(0, "its definition is not the one that ROS has")
            return None
        return Camera(
            owner=tally.owner,
            table=contract.table_name(connection.topic),
            publisher=connection.metadata.get("callerid", ""),
            images=ImageTable(tuple(decoder.schema), rule),
        )

    def _image_sink(self, tally: _Tally, table: _Table, images: ImageTable | None) -> _Sink:
        """What takes rows whose pictures were made, or that are kept as recorded."""
        if images is None:
            return self._sink(tally, table, table.schema_hash, table.decoder.schema)
        digits = images.schema_hash(table.schema_hash)
        return self._sink(tally, table, digits, images.schema, images.metadata)

    def _no_room(self, topic: str) -> str:
        """Why a topic gets no table, and what to do; empty where it has one or may."""
        taken = TABLE_BYTES * len(self._sinks) + DECODER_BYTES * len(self._decoders)
        if taken < self._budget.tables or topic in self._topics:
            return ""
        return (
            f"a table more than the memory limit has room for ({len(self._sinks):,} are there): raise "
            f"--memory-limit to {readable(2 * self._budget.limit)}, or choose topics"
        )

    def _cloud_sink(self, tally: _Tally, table: _Table, clouds: CloudTable | None) -> _Sink:
        """What takes decoded clouds with these fields, or clouds that are kept as recorded."""
        if clouds is None:
            return self._sink(tally, table, table.schema_hash, table.decoder.schema)
        digits = clouds.schema_hash(table.schema_hash)
        return self._sink(tally, table, digits, clouds.schema, clouds.metadata)

    def _tally(self, connection: Connection, digits: str) -> _Tally:
        key = (connection.topic, connection.type_name, digits)
        return self._tallies.setdefault(key, _Tally(*key))

    def _sink(
        self,
        tally: _Tally,
        table: _Table,
        digits: str,
        message: pa.Schema,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> _Sink:
        """What takes rows of ``message`` with the engine's own columns: their file or transform."""
        schema = pa.schema(table.own.fields() + list(message))
        key = (table.connection.topic, table.connection.type_name, digits, schema)
        if key not in self._sinks:
            self._topics.add(key[0])
            new = _Sink(tally, table.connection, digits, schema, metadata, transform=tally.transform)
            self._sinks[key] = new if new.transform is not None else self._open(new)
        return self._sinks[key]

    def _made_sink(self, sink: _Sink, transform: Transform, schema: pa.Schema) -> _Sink:
        """The file that takes rows of ``schema``, which the transform has made of the sink's."""
        connection = sink.connection
        digits = transform.schema_hash(sink.digits, schema)
        key = (connection.topic, connection.type_name, digits, schema)
        if key not in self._sinks:
            metadata = {**sink.metadata, METADATA_KEY: transform.metadata}
            self._sinks[key] = self._open(_Sink(sink.tally, connection, digits, schema, metadata))
        return self._sinks[key]

    def _open(self, sink: _Sink) -> _Sink:
        """The sink with its file, which is begun.

        One topic and definition has one file a shard. A relative topic, a type of another name or a bag
        with other columns (sequence, publish time) in the same table gets a file of its own.
        """
        topic = sink.connection.topic
        folder = f"{contract.table_name(topic)}/schema={sink.digits}/drive_id={self._plan.drive_id}"
        candidates = (
            f"{folder}/{self.name}{f'-{number}' if number > 1 else ''}.parquet" for number in count(1)
        )
        # Where file systems fold case, topics that differ by it share a folder.
        path = next(candidate for candidate in candidates if candidate.casefold() not in self._taken)
        self._taken.add(path.casefold())
        self._tables.open(
            path, sink.schema, {**_table_metadata(sink.connection, sink.digits), **sink.metadata}
        )
        sink.tally.paths.append(path)
        return replace(sink, path=path, schema=self._tables.schema_of(path))


def _too_large(size_bytes: int, budget: MemoryBudget, expansion: int) -> str:
    """Why a message of this size is a reject, and what to do."""
    most_bytes = budget.message // expansion
    share = "a quarter" if expansion == 1 else f"1/{4 * expansion} for its encoding"
    reason = f"{size_bytes:,} bytes long or more, larger than {most_bytes:,} ({share} of the memory limit)"
    if size_bytes > MAX_MESSAGE_BYTES:
        return f"{reason}, and than the {MAX_MESSAGE_BYTES:,} of one row, which no limit changes"
    return f"{reason}: raise --memory-limit to {readable(4 * expansion * size_bytes)}"


def _parts(block: MessageBlock, most_bytes: int) -> Iterator[MessageBlock]:
    """The block in parts of at most ``most_bytes``, or of one message."""
    if len(block) < 2 or int(block.lengths.sum()) <= most_bytes:
        yield block
    else:
        middle = len(block) // 2
        yield from _parts(block.part(0, middle), most_bytes)
        yield from _parts(block.part(middle, len(block)), most_bytes)


def _pieces(rows: pa.RecordBatch, most_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows in pieces of at most ``most_bytes``, or of one row."""
    if rows.num_rows < 2 or rows.nbytes <= most_bytes:
        if rows.num_rows:
            yield rows
    else:
        middle = rows.num_rows // 2
        yield from _pieces(rows.slice(0, middle), most_bytes)
        yield from _pieces(rows.slice(middle), most_bytes)


def _table_metadata(connection: Connection, digits: str) -> dict[str, str]:
    """What a file says of itself: enough to explain the table and to rebuild the bag's messages."""
    return {
        "ros.topic": connection.topic,
        "ros.type": connection.type_name,
        "ros.definition": connection.definition,
        "ros.definition_format": connection.definition_format,
        "ros.definition_hash": connection.definition_hash,
        "ros.encoding": connection.encoding,
        "ros.connection": json.dumps(dict(connection.metadata), sort_keys=True),
        "ros_to_parquet.schema": digits,
        "ros_to_parquet.version": __version__,
        "ros_to_parquet.contract_version": str(contract.CONTRACT_VERSION),
    }
