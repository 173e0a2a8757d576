"""Pictures of rows, as options ask for them: encoded into their tables, in files beside them, or as videos.

Pixels are decoded and encoded by several threads; rows come out in the order in which they went in. What
does not decode is kept as recorded, in the table that the topic has without a rule.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ros_to_parquet.bag.model import Int64Array
from ros_to_parquet.contract import ImageForm, ImageRule, VideoCodec, topic_key, topic_matches
from ros_to_parquet.decode import Decoded
from ros_to_parquet.layout import Layout, Node, Primitive, String
from ros_to_parquet.layout import Sequence as SequenceNode
from ros_to_parquet.memory import MemoryBudget, readable
from ros_to_parquet.parquet import int64_column
from ros_to_parquet.picture_files import PictureFiles
from ros_to_parquet.schema import arrow_fields
from ros_to_parquet.videos import VideoFrame, Videos

IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"

METADATA_KEY: Final = "ros_to_parquet.images"
"""Key-value metadata of a file whose pictures a rule has made: JSON of form, video and sizes."""

MAX_JPEG_SIDE: Final = 65_500
"""Pixels; libjpeg's."""

_FILES: Final = (ImageForm.PNG_FILES, ImageForm.JPEG_FILES)
_ENCODED: Final = (ImageForm.PNG, ImageForm.JPEG, *_FILES)

_READS: Final = 16
"""Files read at a time."""

_MOST_THREADS: Final = 8
_QUEUED_A_THREAD: Final = 4


class ImageChoiceError(ValueError):
    """Rules that cannot be followed here, or not all at once: the conf or the image is wrong."""


# --- which -------------------------------------------------------------------------------------------


class ImageRules:
    """The rules that options have.

    Raises:
        ImageChoiceError: they take a package that is not installed.
    """

    def __init__(self, rules: Sequence[ImageRule]) -> None:
        self._rules = tuple(rules)
        changing = [rule for rule in rules if rule.changes]
        videos = [rule for rule in changing if rule.video is not VideoCodec.NONE]
        for wanted, package, module, extra in (
            (changing, "Pillow", "PIL", "images"),
            (videos, "PyAV", "av", "video"),
        ):
            if wanted and importlib.util.find_spec(module) is None:
                raise ImageChoiceError(
                    f"images: {wanted[0].topics!r}: {wanted[0]}: this takes {package}, which is not "
                    f"installed where the engine runs: pip install 'ros-to-parquet[engine,{extra}]', or an "
                    "image with it (docs/images.md)"
                )

    def of(self, topic: str) -> ImageRule | None:
        """The topic's rule, where it changes anything: the one that names it, else whose glob matches.

        Raises:
            ImageChoiceError: several globs match, with rules that differ.
        """
        named = [rule for rule in self._rules if topic_key(rule.topics) == topic_key(topic)]
        rules = named or [rule for rule in self._rules if topic_matches(topic, [rule.topics])]
        if len({str(rule) for rule in rules}) > 1:
            both = ", ".join(f"{rule.topics!r}: {rule}" for rule in rules)
            raise ImageChoiceError(
                f"topic {topic} has several rules for its images ({both}); a rule that names it would hold"
            )
        return rules[0] if rules and rules[0].changes else None


def is_image(layout: Layout) -> bool:
    """Whether messages are ``Image`` or ``CompressedImage`` as ROS defines them."""
    nodes = {field.name: field.node for field in layout.root.fields}
    wanted = _MEMBERS.get(layout.root.type_name)
    return (
        wanted is not None
        and nodes.keys() == {*wanted, "header", "data"}
        and all(_is(nodes[name], kind) for name, kind in wanted.items())
        and isinstance(nodes["data"], SequenceNode)
        and _is(nodes["data"].item, "uint8")
    )


_MEMBERS: Final[Mapping[str, Mapping[str, str]]] = {
    IMAGE: {
        "height": "uint32",
        "width": "uint32",
        "encoding": "string",
        "is_bigendian": "uint8",
        "step": "uint32",
    },
    COMPRESSED_IMAGE: {"format": "string"},
}


def _is(node: Node, name: str) -> bool:
    return isinstance(node, String) if name == "string" else isinstance(node, Primitive) and node.name == name


# --- tables ------------------------------------------------------------------------------------------

EXACT: Final = "image_is_exact"
"""Column: whether the message's data can be had back, every byte, from the picture."""

_SIZE: Final = (
    pa.field("image_width", pa.int32(), nullable=False),
    pa.field("image_height", pa.int32(), nullable=False),
    pa.field(EXACT, pa.bool_(), nullable=False),
)
_VIDEO: Final = (
    pa.field("video_path", pa.string(), nullable=False),
    pa.field("video_frame", pa.int32(), nullable=False),
    pa.field("video_time_ns", pa.int64(), nullable=False),
)


@dataclass(frozen=True, slots=True)
class ImageTable:
    """A table of pictures that a rule has made; ``message`` are the message's fields as recorded."""

    message: tuple[pa.Field, ...]
    rule: ImageRule

    @property
    def has_data(self) -> bool:
        """Whether the message's data is among the columns, as recorded."""
        return self.rule.form is ImageForm.RECORDED

    @property
    def schema(self) -> pa.Schema:
        """The message's fields, and what the rule adds; without ``data``, where the picture is elsewhere."""
        fields = [each for each in self.message if self.has_data or each.name != "data"]
        # Not the picture first: other bytes in the place of data would be data under another name.
        if self.rule.form in _FILES:
            fields += [*_SIZE, pa.field("image_path", pa.string(), nullable=False)]
        elif self.rule.form in _ENCODED:
            fields += [*_SIZE, pa.field("image", pa.binary(), nullable=False)]
        if self.rule.video is not VideoCodec.NONE:
            fields += _VIDEO
        return pa.schema(fields)

    @property
    def metadata(self) -> dict[str, str]:
        rule = self.rule
        said: dict[str, object] = {"form": rule.form, "video": rule.video}
        said |= {"max_width": rule.max_width, "max_height": rule.max_height, "quality": rule.quality}
        return {METADATA_KEY: json.dumps(said)}

    def schema_hash(self, digits: str) -> str:
        """Eight hex digits for the table of a definition whose own are ``digits``."""
        added = [name for name in self.schema.names if name not in {each.name for each in self.message}]
        text = f"{digits} images {self.has_data} {json.dumps(added)}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def needed(self) -> list[str]:
        """Columns that messages are made of again."""
        names = [each.name for each in self.message if self.has_data or each.name != "data"]
        return names if self.has_data else [*names, _picture_column(self.rule.form), EXACT]

    def recorded(self, columns: Mapping[str, pa.Array], read: Callable[[str], bytes]) -> list[pa.Array]:
        """Columns of the message, of rows that are exact; ``read`` gives a file beside the table."""
        if self.has_data:
            return [columns[each.name] for each in self.message]
        members = [each.name for each in self.message if each.name not in ("header", "data")]
        rows = zip(*(columns[name].to_pylist() for name in members), strict=True)
        pictures = columns[_picture_column(self.rule.form)].to_pylist()
        if self.rule.form in _FILES:
            with ThreadPoolExecutor(_READS, thread_name_prefix="files") as pool:
                pictures = list(pool.map(read, pictures))
        data = [
            _recorded(file, dict(zip(members, row, strict=True)))
            for file, row in zip(pictures, rows, strict=True)
        ]
        return [
            pa.array(data, pa.binary()) if each.name == "data" else columns[each.name]
            for each in self.message
        ]

    @classmethod
    def from_metadata(cls, layout: Layout, text: str) -> ImageTable:
        """Of a file's metadata; the inverse of ``metadata``, but for the topics."""
        said = json.loads(text)
        rule = ImageRule("", ImageForm(said["form"]), VideoCodec(said["video"]))
        return cls(tuple(arrow_fields(layout)), rule)


def _picture_column(form: ImageForm) -> str:
    return "image_path" if form in _FILES else "image"


def _recorded(file: bytes, message: Mapping[str, Any]) -> bytes:
    from ros_to_parquet import pictures

    return file if pictures.is_compressed(message) else pictures.recorded_data(file, message)


def form_of(said: Mapping[str, str]) -> ImageForm:
    """Where a file's pictures are, by its metadata."""
    return ImageForm(json.loads(said[METADATA_KEY])["form"]) if METADATA_KEY in said else ImageForm.RECORDED


# --- at work -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What has become of one message's picture.

    Attributes:
        problem: why it is kept as recorded; empty where a picture was made.
        data: the encoded picture; empty where it is in a file, or not encoded.
        path: of its file, relative to the output URI.
    """

    problem: str = ""
    data: bytes = b""
    path: str = ""
    width: int = 0
    height: int = 0
    exact: bool = False
    video: VideoFrame | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """What a thread has made: a file's bytes and ending, and pixels for a video."""

    problem: str = ""
    data: bytes = b""
    suffix: str = ""
    width: int = 0
    height: int = 0
    exact: bool = False
    frame: Any = None


@dataclass(frozen=True, slots=True)
class Camera:
    """Whose pictures they are.

    Attributes:
        owner: of files: topic, type and definition.
        table: the table's name.
        publisher: as the bag tells it: of several on one topic, each has a video of its own.
    """

    owner: Hashable
    table: str
    publisher: str
    images: ImageTable


@dataclass(slots=True, eq=False)
class ImageRows:
    """Decoded messages on their way to rows.

    Attributes:
        log_times_ns: of each of the decoded rows.
        key: what the caller wants to know when they come out.
        large: they are one large message, beside which little else fits.
        first: rows that have been handed on.
        made: of those that follow, as far as they are made; ``made_bytes`` in memory.
    """

    camera: Camera
    decoded: Decoded
    log_times_ns: Int64Array
    key: Any
    large: bool
    first: int = 0
    made: list[Made] = field(default_factory=list)
    made_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ImagePart:
    """Rows that go to one table; ``table`` is None for messages kept as recorded, ``problem`` says why."""

    decoded: Decoded
    table: ImageTable | None
    problem: str = ""


class Images:
    """Makes the pictures of a shard. ``hand_on`` is called, in order, with rows that are complete.

    To be closed; after `finish` all is there.
    """

    def __init__(
        self, files: PictureFiles, budget: MemoryBudget, hand_on: Callable[[ImageRows, ImagePart], None]
    ) -> None:
        self._files = files
        self._budget = budget
        self._hand_on = hand_on
        self._videos = Videos(files, memory_bytes=budget.videos, limit_bytes=budget.limit)
        self._pool: ThreadPoolExecutor | None = None
        self._threads = (
            min(_MOST_THREADS, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 2
        )
        self._queue: deque[tuple[ImageRows, int, Future[_Drawn] | _Drawn, int]] = deque()
        self._queued_bytes = 0

    def add(self, rows: ImageRows) -> None:
        """Begins with the pictures of rows; may hand on earlier ones, and all where they are large."""
        for row, message in enumerate(_messages(rows.decoded, rows.camera.images)):
            drawing, cost = self._begin(rows.camera, message)
            most = 1 if rows.large else _QUEUED_A_THREAD * self._threads
            while self._queue and (
                self._queued_bytes + cost > self._budget.pictures or len(self._queue) >= most
            ):
                self._finish_first()
            drawn = drawing if isinstance(drawing, _Drawn) else self._submit(drawing)
            self._queue.append((rows, row, drawn, cost))
            self._queued_bytes += cost
        if rows.large:
            self.drain()

    def _submit(self, drawing: Callable[[], _Drawn]) -> Future[_Drawn]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
        return self._pool.submit(drawing)

    def _begin(self, camera: Camera, message: Mapping[str, Any]) -> tuple[_Drawn | Callable[[], _Drawn], int]:
        """What a thread is to do, and the memory that it takes; or why there is nothing to be done."""
        from ros_to_parquet import pictures

        rule = camera.images.rule
        try:
            claim = pictures.claim_of(message)
        except pictures.PictureError as error:
            return _Drawn(str(error)), 0
        size = pictures.fitted(claim.width, claim.height, rule.max_width, rule.max_height)
        cost = claim.working_bytes + len(message["data"])
        if rule.video is not VideoCodec.NONE:
            cost += 3 * size[0] * size[1]
        problem = ""
        if cost > self._budget.pictures:
            problem = (
                f"{claim.width:,} by {claim.height:,} pixels take about {cost:,} bytes to decode and encode, "
                f"more than {self._budget.pictures:,} of the memory limit: raise --memory-limit to "
                f"{readable(cost * self._budget.limit // self._budget.pictures)}"
            )
        elif rule.is_jpeg and max(size) > MAX_JPEG_SIDE:
            problem = f"{claim.width:,} by {claim.height:,} pixels are too many for a JPEG"
        if problem:
            return _Drawn(problem), 0
        return partial(_draw, message, claim, rule, size), cost

    def drain(self) -> None:
        """Hands on all rows that were added."""
        while self._queue:
            self._finish_first()

    def finish(self) -> None:
        """Ends videos, and waits until all files are there."""
        self.drain()
        self._videos.finish()
        self._files.finish()

    def close(self) -> None:
        self._queue.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._videos.close()

    def _finish_first(self) -> None:
        rows, row, drawing, cost = self._queue.popleft()
        drawn = drawing.result() if isinstance(drawing, Future) else drawing
        made = self._kept(rows, row, drawn)
        self._queued_bytes -= cost
        if len(made.data) > self._budget.large:  # it is written alone
            self._pass(rows)
        rows.made.append(made)
        rows.made_bytes += len(made.data)
        last = rows.first + len(rows.made) == len(rows.decoded.rows)
        if last or rows.made_bytes >= self._budget.take:
            self._pass(rows)

    def _kept(self, rows: ImageRows, row: int, drawn: _Drawn) -> Made:
        """Puts a picture where it is to be."""
        camera, log_time_ns = rows.camera, int(rows.log_times_ns[row])
        rule = camera.images.rule
        problem, video, path = drawn.problem, None, ""
        if not problem and rule.video is not VideoCodec.NONE:
            height, width = drawn.frame.shape[:2]
            whose = (camera.owner, camera.publisher)
            problem = self._videos.problem(whose, rule.video, width, height)
            if not problem:
                video = self._videos.add(
                    whose,
                    rule.video,
                    drawn.frame,
                    owner=camera.owner,
                    table=camera.table,
                    log_time_ns=log_time_ns,
                )
        if problem:
            return Made(problem)
        if rule.form in _FILES:
            path = self._files.name(camera.table, log_time_ns, drawn.suffix)
            self._files.put(camera.owner, path, drawn.data)
        data = b"" if path else drawn.data
        return Made(
            data=data, path=path, width=drawn.width, height=drawn.height, exact=drawn.exact, video=video
        )

    def _pass(self, rows: ImageRows) -> None:
        """Hands on what is made of rows so far."""
        made, first = rows.made, rows.first
        rows.made, rows.made_bytes, rows.first = [], 0, first + len(made)
        good = np.array([place for place, each in enumerate(made) if not each.problem], np.int64)
        if len(good):
            columns = _columns(rows.decoded, rows.camera.images, first, made, good)
            part = _part(rows.decoded, columns, first + good)
            self._hand_on(rows, ImagePart(part, rows.camera.images))
        if len(good) < len(made):
            bad = np.array([place for place, each in enumerate(made) if each.problem], np.int64)
            columns = [column.take(int64_column(first + bad)) for column in rows.decoded.columns]
            part = _part(rows.decoded, columns, first + bad)
            self._hand_on(rows, ImagePart(part, None, made[int(bad[0])].problem))


def _messages(decoded: Decoded, table: ImageTable) -> Any:
    """Each message's fields but its header, ``data`` in place."""
    names = [each.name for each in table.message]
    named = dict(zip(names, decoded.columns, strict=True))
    members = [name for name in names if name not in ("header", "data")]
    values = [named[name].to_pylist() for name in members]
    data = named["data"]
    _, offsets, content = data.buffers()
    if not len(data):
        return
    places = np.frombuffer(offsets, np.int32, count=len(data) + 1, offset=4 * data.offset).tolist()
    view = memoryview(b"" if content is None else content)
    for row, members_of in enumerate(zip(*values, strict=True)):
        yield {**dict(zip(members, members_of, strict=True)), "data": view[places[row] : places[row + 1]]}


def _draw(message: Mapping[str, Any], claim: Any, rule: ImageRule, size: tuple[int, int]) -> _Drawn:
    """To be called by several threads at once."""
    from ros_to_parquet import pictures

    whole = size == (claim.width, claim.height)
    try:
        frame, data, suffix = None, b"", ""
        if rule.form in _ENCODED and whole and (suffix := _as_it_is(message, claim, rule)):
            data = pictures.file_of(message)
        as_it_is = bool(data)
        if as_it_is and rule.video is VideoCodec.NONE:
            pictures.check_file(message)
        else:
            picture = pictures.resized(pictures.decode(message, wanted=None if whole else size), size)
            if rule.form in _ENCODED and not data:
                data, suffix = pictures.encode(picture, quality=rule.quality)
            if rule.video is not VideoCodec.NONE:
                frame = pictures.shown(picture)
    except pictures.PictureError as error:
        return _Drawn(str(error))
    if pictures.is_compressed(message):
        exact = as_it_is and len(data) == len(message["data"])  # else there is a depth header in front of it
    else:
        exact = whole and suffix == "png" and pictures.is_exact(message)
    return _Drawn("", data, suffix, *size, exact, frame)


def _as_it_is(message: Mapping[str, Any], claim: Any, rule: ImageRule) -> str:
    """The ending of the file that a message holds, where it is what the rule would make; else empty."""
    from ros_to_parquet import pictures

    if not pictures.is_compressed(message) or pictures.is_quantised(message):
        return ""
    if claim.coded == "JPEG" and rule.is_jpeg:
        return "jpg"
    # Of two bytes: numbers of sixteen bits, which no JPEG has.
    return "png" if claim.coded == "PNG" and (not rule.is_jpeg or claim.pixel_bytes == 2) else ""


def _columns(
    decoded: Decoded, table: ImageTable, first: int, made: Sequence[Made], good: Int64Array
) -> list[pa.Array]:
    """Columns of ``table.schema``: of the ``good`` rows from ``first`` on, whose pictures were made."""
    chosen = [made[place] for place in good.tolist()]
    columns = []
    for each, column in zip(table.message, decoded.columns, strict=True):
        if each.name == "data" and not table.has_data:
            continue
        whole = len(good) == len(decoded.rows)
        columns.append(column if whole else column.take(int64_column(first + good)))
    if table.rule.form in _ENCODED:
        columns.append(pa.array([each.width for each in chosen], pa.int32()))
        columns.append(pa.array([each.height for each in chosen], pa.int32()))
        columns.append(pa.array([each.exact for each in chosen], pa.bool_()))
    if table.rule.form in _FILES:
        columns.append(pa.array([each.path for each in chosen], pa.string()))
    elif table.rule.form in _ENCODED:
        columns.append(pa.array([each.data for each in chosen], pa.binary()))
    if table.rule.video is not VideoCodec.NONE:
        shown = [each.video for each in chosen if each.video is not None]
        columns.append(pa.array([each.path for each in shown], pa.string()))
        columns.append(pa.array([each.number for each in shown], pa.int32()))
        columns.append(pa.array([each.time_ns for each in shown], pa.int64()))
    return columns


def _part(decoded: Decoded, columns: list[pa.Array], rows: Int64Array) -> Decoded:
    stamps = decoded.stamps_ns
    return Decoded(columns, decoded.rows[rows], [], 0, None if stamps is None else stamps[rows])
