"""Archives and compressed files: the bags in them, one after the other, in one forward pass."""

from __future__ import annotations

import posixpath
import struct
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from ros_to_parquet.bag.extras import Attachment, Extras, HasExtras
from ros_to_parquet.bag.model import (
    BagError,
    BagReader,
    Connection,
    Damage,
    MessageBlock,
    differing_counts,
    note,
)
from ros_to_parquet.bag.source import CountedSource, ForwardSource
from ros_to_parquet.bag.streams import (
    MAX_MEMORY_BYTES,
    Bounded,
    Checked,
    Decompressed,
    Section,
    Staged,
    Window,
)
from ros_to_parquet.contract import SQLITE_SHARED, bag_format, recording_stem, sqlite_owner

HEAD_BYTES = 512
"""So much of a file tells what it is."""

MAX_DEPTH = 4
"""Archives and compressions within one another: ``x.bag.gz`` in a ``.tar.gz`` in a ``.zip``."""

_MAX_DIRECTORY_BYTES = 256 << 20
"""Of an archive's own data, no more is read at once."""

_SPARSE_STEP_BYTES = 16 << 10

_NAMES_SHOWN = 5

SQLITE_MAGIC = b"SQLite format 3\0"

_MAGIC: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # of no files
}

_ZIP_CODECS = {8: "deflate", 12: "bzip2", 93: "zstd", 95: "xz"}
_ZIP_REFUSED = {9: "Deflate64", 14: "LZMA", 98: "PPMd", 99: "AES encryption"}
_ZIP_STORED = 0
_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ZIP_ENCRYPTED = 0x1


def packing(head: bytes) -> str:
    """``zip``, ``tar`` or the name of a compression; empty for a file that is neither.

    ``head``: its first `HEAD_BYTES`.
    """
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if len(head) == HEAD_BYTES:
        with suppress(tarfile.HeaderError):
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
            return "tar"
    return ""


@dataclass(frozen=True, slots=True)
class Packed:
    """A bag that is packed: its path in the archive (empty in a file that is one bag, compressed), its bytes,
    and the first `HEAD_BYTES` of them."""

    name: str
    source: CountedSource
    head: bytes


class Contents:
    """The bags in an archive or compressed file, ``root``; a decompressor may take ``memory_bytes``.

    Attributes:
        kinds: archives and compressions that were met, the outermost first.
        damage: of the archive, not of its bags.
        others: names of the first files that are not bags, their number is ``other_count``. The
            ``metadata.yaml`` of a rosbag2 folder is none of them.
    """

    def __init__(self, root: CountedSource, memory_bytes: int) -> None:
        self._root = root
        self._memory_bytes = memory_bytes
        self.kinds: dict[str, None] = {}
        self.damage: list[Damage] = []
        self.others: list[str] = []
        self.other_count = 0
        self._recordings: dict[str, str] = {}

    def bags(self, source: CountedSource, name: str = "", depth: int = 0) -> Iterator[Packed]:
        """Each bag, to be read before the next is asked for."""
        head = source.read_at(0, HEAD_BYTES)
        kind = packing(head)
        if not kind:
            yield Packed(name, source, head)
            return
        self.kinds[kind] = None
        if depth == MAX_DEPTH:
            self.harm(name, 0, f"it is packed more than {MAX_DEPTH} times over: unpack it first")
        elif kind == "zip":
            yield from self._zip(source, name, depth)
        elif kind == "tar":
            yield from self._tar(source, name, depth)
        else:
            stream = Decompressed(source, kind, memory_bytes=self._memory_bytes)
            content = ForwardSource(Bounded(stream, self._root))
            yield from self.bags(content, name, depth + 1)
            self._finish(content, name)

    def harm(self, name: str, offset: int, reason: str) -> None:
        note(self.damage, Damage(offset, _said(name, reason), True))

    def _finish(self, source: ForwardSource | Window, name: str) -> None:
        """Notes what is wrong with a member, or with what was decompressed, now that it has been read."""
        if problem := source.finish():
            self.harm(name, source.size, problem)

    def _leave(self, name: str, size: int) -> None:
        """Counts a file that is no bag."""
        if sqlite_owner(name):
            if size and not name.endswith(SQLITE_SHARED):
                self.harm(
                    name,
                    -1,
                    "what SQLite left beside a bag is not read in an archive: unpack it for all messages",
                )
        elif posixpath.basename(name) != "metadata.yaml":
            self.other_count += 1
            self.others += [name] if len(self.others) < _NAMES_SHOWN else []

    def _is_bag(self, name: str, size: int) -> bool:
        """Whether a member is to be read, by its name."""
        if bag_format(name) is None:
            self._leave(name, size)
            return False
        known = self._recordings.setdefault(recording_stem(name), name)
        if known != name:
            self.harm(
                name,
                0,
                f"it seems to be the same recording as {known}, whose rows would be there twice: not read",
            )
        return known == name

    def _tar(self, source: CountedSource, name: str, depth: int) -> Iterator[Packed]:
        file = _File(source)
        last = ""
        offset = 0
        try:
            tar = tarfile.TarFile(fileobj=cast(Any, file))
            header = tar.next()
            while header is not None:
                offset = tar.offset
                last = _joined(name, header.name)
                if not header.isfile():
                    if not header.isdir():
                        self._leave(last, 0)
                elif self._is_bag(last, header.size):
                    yield from self._tar_member(source, tar, header, last, depth)
                block = source.read_at(offset, tarfile.BLOCKSIZE)
                if not block:
                    is_cut = offset > source.size
                    reason = f"is cut off inside {last}" if is_cut else "has no end mark"
                    self.harm(
                        name,
                        min(offset, source.size),
                        f"the tar archive {reason}: it may lack its last files",
                    )
                    return
                if not any(block):
                    return
                file.seek(offset)
                header = tarfile.TarInfo.fromtarfile(tar)
        except (tarfile.TarError, ValueError) as error:
            self.harm(name, offset, f"the tar archive cannot be read from here on: {error}")

    def _tar_member(
        self, source: CountedSource, tar: tarfile.TarFile, header: tarfile.TarInfo, name: str, depth: int
    ) -> Iterator[Packed]:
        if header.issparse():
            content = ForwardSource(_SparseFile(tar, header))
        elif source.forward:
            content = ForwardSource(Section(source, header.offset_data, header.size))
        else:
            there = max(0, min(header.size, source.size - header.offset_data))
            window = Window(source, header.offset_data, there, name)
            yield from self.bags(CountedSource(window), name, depth + 1)
            if there < header.size:
                self.harm(name, there, f"it is cut off: {there:,} of {header.size:,} bytes are there")
            return
        yield from self.bags(content, name, depth + 1)
        self._finish(content, name)

    def _zip(self, source: CountedSource, name: str, depth: int) -> Iterator[Packed]:
        if source.forward:
            self.harm(
                name,
                0,
                "a zip archive within compressed data, whose directory is at its end: unpack it first",
            )
            return
        file = _File(source)
        try:
            with zipfile.ZipFile(cast(Any, file)) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
            if file.failure is not None:  # which zipfile takes for the end of the file
                raise file.failure from error
            self.harm(
                name,
                0,
                f"the zip archive is cut off or damaged where its directory is ({error}): "
                "copy it again, or repair it with `zip -FF`",
            )
            return
        reached = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            path = _joined(name, member.filename)
            if member.header_offset < reached:
                self.harm(path, 0, "it lies within the file before it, as in a decompression bomb: not read")
                continue
            reached = member.header_offset + _ZIP_LOCAL_HEADER.size + member.compress_size
            # Not is_dir(), which raises where a file has no name.
            if not member.filename.endswith("/") and self._is_bag(path, member.file_size):
                yield from self._zip_member(source, member, path, depth)

    def _zip_member(
        self, source: CountedSource, member: zipfile.ZipInfo, name: str, depth: int
    ) -> Iterator[Packed]:
        method = member.compress_type
        codec = _ZIP_CODECS.get(method)
        if member.flag_bits & _ZIP_ENCRYPTED:
            self.harm(name, 0, "it is encrypted: unpack the zip archive with its password first")
            return
        if codec is None and method != _ZIP_STORED:
            self.harm(
                name,
                0,
                f"it is packed with {_ZIP_REFUSED.get(method, f'method {method}')}, which is not supported "
                "(none, Deflate, bzip2, xz and zstd are): unpack the zip archive first",
            )
            return
        local = source.read_at(member.header_offset, _ZIP_LOCAL_HEADER.size)
        if len(local) < _ZIP_LOCAL_HEADER.size or not local.startswith(b"PK\x03\x04"):
            self.harm(name, 0, "it is not where the zip archive's directory says")
            return
        _, name_bytes, extra_bytes = _ZIP_LOCAL_HEADER.unpack(local)
        start = member.header_offset + _ZIP_LOCAL_HEADER.size + name_bytes + extra_bytes
        content: CountedSource
        if codec is None:
            window = Window(source, start, member.file_size, name, crc32=member.CRC)
            yield from self.bags(CountedSource(window), name, depth + 1)
            self._finish(window, name)
        else:
            stream = Decompressed(
                source, codec, start=start, size=member.compress_size, memory_bytes=self._memory_bytes
            )
            content = ForwardSource(Bounded(Checked(stream, member.CRC, member.file_size), self._root))
            yield from self.bags(content, name, depth + 1)
            self._finish(content, name)


def _joined(name: str, member: str) -> str:
    """The path of a member, as text that fits into a column."""
    text = member.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    path = posixpath.normpath(text).lstrip("/")
    return f"{name}/{path}" if name else path


def _said(name: str, reason: str) -> str:
    return f"{name}: {reason}" if name else reason


# --- what the libraries read ------------------------------------------------------------------------


class _File:
    """A source as a file, for `tarfile` (which is made to go forward) and `zipfile`."""

    def __init__(self, source: CountedSource) -> None:
        self._source = source
        self._place = 0
        self.failure: OSError | None = None
        """Why it could not be read: the store, not the file."""

    def tell(self) -> int:
        return self._place

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._source.size)[whence]
        if self._place < 0:
            raise ValueError("a place before the file's begin")
        return self._place

    def read(self, length: int = -1) -> bytes:
        length = self._source.size - self._place if length < 0 else length
        if length > _MAX_DIRECTORY_BYTES:
            raise ValueError(f"{length:,} bytes are more than any archive needs to describe its files")
        try:
            data = self._source.read_at(self._place, length)
        except OSError as error:
            self.failure = error
            raise
        self._place += len(data)
        return data


class _SparseFile:
    """A sparse member of a tar archive as a `ByteStream`, its holes filled."""

    def __init__(self, tar: tarfile.TarFile, header: tarfile.TarInfo) -> None:
        self.problem = ""
        self._file = cast(Any, tar.extractfile(header))

    def read(self, length: int) -> bytes:
        pieces = []
        while length > 0 and not self.problem:
            try:
                piece = self._file.read1(min(length, _SPARSE_STEP_BYTES))
            except tarfile.ReadError as error:
                self.problem = f"it is cut off: {error}"
                break
            if not piece:
                break
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)


class _Aside:
    """Contents of attachments, in a file on scratch disk that has no name: it goes when the process does."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._places: dict[Attachment, int] = {}

    def __contains__(self, attachment: Attachment) -> bool:
        return attachment in self._places

    def write(self, attachment: Attachment, content: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="ros-to-parquet-")  # noqa: SIM115 (lives on)
            weakref.finalize(self, self._file.close)
        self._places[attachment] = self._file.tell()
        self._file.write(content)

    def read(self, attachment: Attachment) -> bytes:
        assert self._file is not None
        self._file.seek(self._places[attachment])
        return self._file.read(attachment.size_bytes)


# --- the reader -------------------------------------------------------------------------------------


class ArchiveReader:
    """The bags in an archive or compressed file as one `BagReader`; it cannot be split.

    Connections name the bag that they are of (``member``). What is damaged is said with the bag's name, at
    offsets in the bag as it would be unpacked.

    Args:
        source: the archive.
        open_reader: makes a reader of a bag that is not packed and its first bytes.
        slice_index: the first slice is the whole.
        memory_bytes: what a decompressor may take.

    Raises:
        BagError: there is damage and no bag that can be read.
    """

    def __init__(
        self,
        source: CountedSource,
        open_reader: Callable[[CountedSource, bytes], BagReader],
        *,
        slice_index: int,
        memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        self.compressions: dict[str, int] = {}
        self.counts: dict[int, int] = {}
        self.unread_messages = 0
        self._source = source
        self._open_reader = open_reader
        self._contents = Contents(source, memory_bytes)
        self.damage = self._contents.damage
        self._formats: dict[str, None] = {}
        self._connections: list[Connection] = []
        self._definitions: dict[str, str] = {}
        self._expected: dict[int, int] = {}
        self._is_indexed = True
        self._staged: Staged | None = None
        self.extras = Extras()
        self._owners: dict[Attachment, HasExtras] = {}
        self._aside = _Aside()
        self._packed = self._contents.bags(source) if slice_index == 0 else iter(())
        self._next = self._open_next()
        if self._next is None and self.damage:
            reasons = "; ".join(damage.reason for damage in self.damage[:_NAMES_SHOWN])
            raise BagError(f"nothing can be read of it ({self._packing}): {reasons}")

    @property
    def format(self) -> str:
        """What is in what, as ``mcap, sqlite3 in zip``."""
        return f"{', '.join(self._formats) or 'no bag'} in {self._packing}"

    @property
    def _packing(self) -> str:
        return " in ".join(reversed(self._contents.kinds))

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    @property
    def remark(self) -> str:
        """What of its files is no bag; empty where all are bags."""
        count, names = self._contents.other_count, self._contents.others
        if not count:
            return "" if self._formats else "it holds no file"
        shown = ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")
        files = "1 file" if count == 1 else f"{count:,} files"
        return f"{files} in it left, not a bag: {shown}" if self._formats else f"it holds no bag: {shown}"

    def connections(self) -> list[Connection]:
        return list(self._connections)

    def expected_counts(self) -> dict[int, int] | None:
        return self._expected if self._is_indexed else None

    def blocks(self) -> Iterator[MessageBlock]:
        try:
            yield from self._blocks()
        finally:
            self._unstage()

    def _blocks(self) -> Iterator[MessageBlock]:
        while self._next is not None:
            packed, reader = self._next
            first = len(self._connections)
            for block in reader.blocks():
                self._adopt(packed, reader, first)
                yield replace(block, connection=self._connections[first + block.connection.id])
            self._adopt(packed, reader, first)
            self._settle(packed, reader, first)
            self._unstage()
            self._next = self._open_next()
        if not self._is_indexed:  # then nobody else holds those of the others against their index
            found = {number: self.counts.get(number, 0) for number in self._expected}
            if differing := differing_counts(self._connections, found, self._expected):
                self._contents.harm("", -1, f"an index in it promises other counts: {differing}")

    def attachment_pieces(self, attachment: Attachment) -> Iterator[bytes]:
        if attachment in self._aside:
            return iter((self._aside.read(attachment),))
        return self._owners[attachment].attachment_pieces(attachment)

    def attachment_crc32(self, attachment: Attachment) -> int:
        if attachment in self._aside:
            return attachment.crc32
        return self._owners[attachment].attachment_crc32(attachment)

    def _open_next(self) -> tuple[Packed, BagReader] | None:
        for packed in self._packed:
            source = packed.source
            if source.forward and packed.head.startswith(SQLITE_MAGIC):  # which is read here and there
                self._staged = Staged(source)
                source = CountedSource(self._staged)
            try:
                reader = self._open_reader(source, packed.head)
            except BagError as error:
                self._contents.harm(packed.name, 0, str(error))
                self._unstage()
                continue
            self._formats[reader.format] = None
            return packed, reader
        return None

    def _unstage(self) -> None:
        if self._staged is not None:
            self._staged.close()
            self._staged = None

    def _adopt(self, packed: Packed, reader: BagReader, first: int) -> None:
        """Numbers the reader's connections after those of all before it."""
        known = len(self._connections) - first
        if known == len(reader.counts):
            return
        for connection in reader.connections()[known:]:
            self._connections.append(
                replace(
                    connection,
                    id=first + connection.id,
                    member=packed.name,
                    # equal texts are kept once, however many bags there are
                    definition=self._definitions.setdefault(connection.definition, connection.definition),
                )
            )

    def _settle(self, packed: Packed, reader: BagReader, first: int) -> None:
        """Takes over what the reader has found, now that its bag has been read."""
        self.unread_messages += reader.unread_messages
        self.counts |= {first + number: count for number, count in reader.counts.items()}
        if isinstance(reader, HasExtras):
            self.extras.left_out += reader.extras.left_out
            for attachment in reader.extras.attachments:
                adopted = replace(attachment, member=packed.name, content=None)
                if not self.extras.add_attachment(adopted):
                    continue
                if attachment.content is None:
                    self._owners[adopted] = reader
                else:
                    self._aside.write(adopted, attachment.content)
            reader.extras.attachments.clear()  # of any number of bags they would be held
            for record in reader.extras.metadata:
                self.extras.add_metadata(replace(record, member=packed.name))
        for damage in reader.damage:
            note(self.damage, replace(damage, reason=_said(packed.name, damage.reason)))
        for compression, count in reader.compressions.items():
            self.compressions[compression] = self.compressions.get(compression, 0) + count
        expected = reader.expected_counts()
        if expected is None:
            self._is_indexed = False
            return
        for number, count in expected.items():
            number = first + number if number >= 0 else number
            self._expected[number] = self._expected.get(number, 0) + count
