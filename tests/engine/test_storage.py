"""One suite for every storage: on disk, S3 over HTTP, and filesystems of pyarrow and fsspec."""

from __future__ import annotations

import importlib.util
import io
import re
import threading
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow.fs as fs
import pytest

from ros_to_parquet import cli
from ros_to_parquet.storage import (
    PART_BYTES,
    READ_BYTES,
    AccessDeniedError,
    ChangedError,
    ExistsError,
    FileSystemStorage,
    LocalStorage,
    LocationError,
    NotFoundError,
    S3Storage,
    Storage,
    StorageError,
    TransientError,
    join,
    normalize,
    open_storage,
)
from ros_to_parquet.storage import s3 as s3_module
from ros_to_parquet.storage.arrow_files import ArrowFiles
from ros_to_parquet.storage.filesystem import HIDDEN, Files
from ros_to_parquet.storage.fsspec_files import FsspecFiles
from tests.engine.sample_bags import write_bag

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws


class StorageTests:
    """What every storage must do. Subclasses give ``storage`` and ``base``."""

    def test_write_and_read(self, storage: Storage, base: str) -> None:
        storage.write(join(base, "a/b.json"), b"one")
        storage.write(join(base, "a/b.json"), b"two")
        assert storage.read(join(base, "a/b.json")) == b"two"
        assert storage.head(join(base, "a/b.json")).size_bytes == 3

    def test_create_has_one_winner(self, storage: Storage, base: str) -> None:
        uri = join(base, "lease")
        won: list[bytes] = []

        def compete(data: bytes) -> None:
            try:
                storage.create(uri, data)
                won.append(data)
            except ExistsError:
                pass

        threads = [threading.Thread(target=compete, args=(str(n).encode(),)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read(uri) == won[0]
        with pytest.raises(ExistsError, match="already there"):
            storage.create(uri, b"late")

    def test_what_is_not_there(self, storage: Storage, base: str) -> None:
        for verb in (storage.head, storage.read):
            with pytest.raises(NotFoundError) as caught:
                verb(join(base, "nothing"))
            assert join(base, "nothing") in str(caught.value)
        storage.delete(join(base, "nothing"))
        assert list(storage.objects(join(base, "nothing"))) == []
        assert storage.folders(join(base, "nothing")) == []

    def test_objects_and_folders(self, storage: Storage, base: str) -> None:
        for key in ("t/a/1", "t/a/2", "t/b/c/3", "t/4", "tt/5"):
            storage.write(join(base, key), key.encode())
        assert sorted(info.uri for info in storage.objects(join(base, "t"))) == [
            join(base, key) for key in ("t/4", "t/a/1", "t/a/2", "t/b/c/3")
        ]
        assert storage.folders(join(base, "t")) == ["a", "b"]
        storage.delete(join(base, "t/b/c/3"))
        assert [info.uri for info in storage.objects(join(base, "t/b"))] == []

    @pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 12_345])
    def test_upload_is_invisible_until_published(self, storage: Storage, base: str, size: int) -> None:
        data = bytes(range(256)) * (size // 256 + 1)
        uri = join(base, f"up/{size}")
        upload = storage.upload(uri)
        for start in range(0, size, 1 << 20):
            upload.write(memoryview(data)[start : min(start + (1 << 20), size)])
        with pytest.raises(NotFoundError):
            storage.head(uri)
        assert list(storage.objects(join(base, "up"))) == []
        upload.publish()
        assert upload.size_bytes == size
        assert storage.read(uri) == data[:size]

    @pytest.mark.parametrize("size", [10, PART_BYTES + 1])
    def test_aborted_upload_leaves_nothing(self, storage: Storage, base: str, size: int) -> None:
        upload = storage.upload(join(base, "gone/x"))
        upload.write(bytes(size))
        upload.abort()
        assert list(storage.objects(join(base, "gone"))) == []

    def test_an_upload_whose_process_was_killed_is_found_and_ended(self, storage: Storage, base: str) -> None:
        storage.upload(join(base, "t/x")).write(bytes(PART_BYTES))
        storage.upload(join(base, "tt/x")).write(bytes(PART_BYTES))
        (left,) = storage.unfinished(join(base, "t"))
        assert left.uri.startswith(join(base, "t/"))
        storage.end(left)
        storage.end(left)
        assert list(storage.unfinished(join(base, "t"))) == []
        assert len(list(storage.unfinished(base))) == 1

    @pytest.mark.parametrize("size", [10, 2 * PART_BYTES + 1])
    def test_abort_after_publish_takes_nothing_back(self, storage: Storage, base: str, size: int) -> None:
        upload = storage.upload(join(base, "x"))
        upload.write(bytes(size))
        upload.publish()
        upload.abort()
        assert storage.head(join(base, "x")).size_bytes == size

    def test_reads_anywhere(self, storage: Storage, base: str) -> None:
        data = bytes(range(251)) * (2 * READ_BYTES // 251 + 1000)
        storage.write(join(base, "big"), data)
        source = storage.open(storage.head(join(base, "big")))
        assert source.size == len(data)
        assert source.read_at(0, 10) == data[:10]
        assert source.read_at(READ_BYTES - 5, 10) == data[READ_BYTES - 5 : READ_BYTES + 5]
        assert source.read_at(len(data) - 3, 10) == data[-3:]
        assert source.read_at(len(data), 10) == b""
        assert (
            b"".join(source.read_at(start, READ_BYTES) for start in range(0, len(data), READ_BYTES)) == data
        )
        assert Path(source.local_path()).read_bytes() == data
        source.close()

    def test_a_changed_object_is_not_read(self, storage: Storage, base: str) -> None:
        storage.write(join(base, "bag"), b"before")
        info = storage.head(join(base, "bag"))
        storage.write(join(base, "bag"), b"after!")
        with pytest.raises(ChangedError, match="changed since it was planned"):
            storage.open(info).read_at(0, 6)


class TestLocalStorage(StorageTests):
    @pytest.fixture
    def storage(self) -> LocalStorage:
        return LocalStorage()

    @pytest.fixture
    def base(self, tmp_path: Path) -> str:
        return str(tmp_path)

    def test_an_aborted_upload_leaves_no_partial_file(self, tmp_path: Path) -> None:
        upload = LocalStorage().upload(str(tmp_path / "x"))
        upload.write(b"data")
        upload.abort()
        assert list(tmp_path.iterdir()) == []

    def test_a_name_as_long_as_a_folder_takes(self, tmp_path: Path) -> None:
        path = tmp_path / ("漢" * 83 + ".mcap")
        LocalStorage().write(str(path), b"data")
        assert path.read_bytes() == b"data"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_upload_to_a_full_disk_can_be_aborted(self, tmp_path: Path) -> None:
        upload = LocalStorage().upload(str(tmp_path / "x"))
        (partial,) = tmp_path.iterdir()
        partial.unlink()
        partial.symlink_to("/dev/full")
        with pytest.raises(StorageError, match="x: No space left on device"):
            upload.write(b"more than there is room for")
        upload.abort()
        assert list(tmp_path.iterdir()) == []

    def test_writing_while_others_delete_the_last_file_of_the_folder(self, tmp_path: Path) -> None:
        storage = LocalStorage()

        def write_and_delete(name: str) -> None:
            for _ in range(1000):
                storage.write(str(tmp_path / "lake" / "_leases" / name), b"")
                storage.delete(str(tmp_path / "lake" / "_leases" / name))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write_and_delete, "abcd"))

    def test_a_file_where_a_folder_is_needed(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="file"):
            LocalStorage().write(str(tmp_path / "file" / "x"), b"")


class TestS3Storage(StorageTests):
    @pytest.fixture
    def storage(self, s3: EmbeddedAws) -> S3Storage:
        return S3Storage()

    @pytest.fixture
    def base(self, s3: EmbeddedAws) -> str:
        bucket = f"storage-{uuid.uuid4().hex[:12]}"
        s3.client("s3").create_bucket(Bucket=bucket)
        return f"s3://{bucket}/lake"

    def test_what_many_uploads_hold_in_memory_is_bounded(self, s3: EmbeddedAws, base: str) -> None:
        storage = S3Storage(upload_memory_bytes=4 << 20)
        contents = {join(base, str(n)): bytes([n]) * ((1 << 20) + n) for n in range(30)}
        storage.write(join(base, "warm"), b"")
        tracemalloc.start()
        uploads = [storage.upload(uri) for uri in contents]
        for _ in range(2):
            for upload in uploads:
                upload.write(contents[upload.uri])
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
        tracemalloc.stop()
        for upload in uploads:
            upload.publish()
            assert storage.read(upload.uri) == 2 * contents[upload.uri]

    def test_the_parts_of_a_large_object_grow(
        self, storage: S3Storage, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S3 takes 10,000 parts, which of the first size would hold 84 GB."""
        monkeypatch.setattr(s3_module, "PARTS_OF_A_SIZE", 2, raising=False)
        upload = storage.upload(join(base, "x"))
        sizes = []
        for _ in range(9 * PART_BYTES // (1 << 20)):
            upload.write(bytes(1 << 20))
            if upload._part.size_bytes == 0:
                sizes.append(upload.size_bytes - sum(sizes))
        assert sizes == [PART_BYTES, PART_BYTES, 2 * PART_BYTES, 2 * PART_BYTES, 3 * PART_BYTES]
        upload.publish()
        assert storage.head(join(base, "x")).size_bytes == 9 * PART_BYTES

    def test_a_bucket_that_is_not_there(self, storage: S3Storage) -> None:
        with pytest.raises(NotFoundError, match="NoSuchBucket"):
            storage.read("s3://no-such-bucket-here/x")
        with pytest.raises(NotFoundError, match="NoSuchBucket"):
            list(storage.objects("s3://no-such-bucket-here/x"))

    def test_wrong_credentials_are_access_denied(
        self, s3: EmbeddedAws, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        monkeypatch.setattr(s3_module, "_client", None)
        with pytest.raises(AccessDeniedError):
            S3Storage().write(join(base, "x"), b"")

    def test_no_server_is_transient(self, s3: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3_module, "_client", None)
        monkeypatch.setattr(s3_module, "CLIENT_ATTEMPTS", 1)
        with pytest.raises(TransientError, match="s3://b/x"):
            S3Storage().read("s3://b/x")

    @pytest.mark.parametrize("text", ["x", "0", "-1", "2.5"])
    def test_tries_that_are_no_number_are_said(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", text)
        monkeypatch.setattr(s3_module, "_client", None)
        with pytest.raises(StorageError, match=f"AWS_MAX_ATTEMPTS is {text!r}; it can be"):
            S3Storage().read("s3://b/x")


class TestRequesterPays:
    """Buckets that bill who reads them refuse requests that do not say so."""

    @pytest.fixture
    def drive(self, s3: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(s3_module, "_client", None)
        write_bag(tmp_path / "a.bag")
        bucket = f"payer-{uuid.uuid4().hex[:12]}"
        s3.client("s3").create_bucket(Bucket=bucket)
        s3.client("s3").put_object(Bucket=bucket, Key="drive/a.bag", Body=(tmp_path / "a.bag").read_bytes())
        return f"s3://{bucket}/drive"

    def reads_of_an_extraction(self, drive: str, tmp_path: Path) -> dict[str, set[bool]]:
        """What is asked of S3 by method, each with whether all, none or some say who pays."""
        seen: dict[str, set[bool]] = {}

        def note(request: Any, **_: Any) -> None:
            what = "LIST" if "list-type" in request.url else request.method
            said = request.headers.get("x-amz-request-payer")
            seen.setdefault(what, set()).add(said in ("requester", b"requester"))

        s3_module.s3_client().meta.events.register("before-send.s3", note)
        assert cli.main(["extract", drive, "--output", str(tmp_path / "lake")]) == 0
        return seen

    def test_every_read_says_so(self, drive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(s3_module.REQUEST_PAYER_VARIABLE, "requester")
        seen = self.reads_of_an_extraction(drive, tmp_path)
        assert seen.keys() >= {"LIST", "GET"}
        assert set().union(*seen.values()) == {True}

    def test_nothing_is_said_unasked(self, drive: str, tmp_path: Path) -> None:
        assert set().union(*self.reads_of_an_extraction(drive, tmp_path).values()) == {False}

    def test_another_value_is_refused(self, drive: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(s3_module.REQUEST_PAYER_VARIABLE, "true")
        with pytest.raises(StorageError, match="ROS_TO_PARQUET_REQUEST_PAYER is 'true'; it can be"):
            S3Storage().read(f"{drive}/a.bag")


class FileSystemTests(StorageTests):
    """Through pyarrow or fsspec."""

    def test_an_upload_whose_process_was_killed_is_found_and_ended(self, storage: Storage, base: str) -> None:
        """Nothing is there of it; only if it was killed while it was published there may be a hidden file."""
        storage.upload(join(base, "t/x")).write(bytes(2 * PART_BYTES))
        assert list(storage.unfinished(base)) == list(storage.objects(base)) == []
        storage.write(join(base, f"t/{HIDDEN}12-x"), b"cut o")
        assert list(storage.objects(base)) == []
        (left,) = storage.unfinished(join(base, "t"))
        storage.end(left)
        storage.end(left)
        assert list(storage.unfinished(base)) == []

    def test_a_changed_object_is_not_read(self, storage: Storage, base: str) -> None:
        """Not even if it changes while it is read; a store's times may be of whole seconds."""
        storage.write(join(base, "bag"), bytes(3 * READ_BYTES))
        info = storage.head(join(base, "bag"))
        source = storage.open(info)
        assert source.read_at(0, 10) == bytes(10)
        storage.write(join(base, "bag"), bytes(3 * READ_BYTES + 1))
        for reader in (source, storage.open(info)):
            with pytest.raises(ChangedError, match="changed since it was planned"):
                reader.read_at(2 * READ_BYTES, 6)
            reader.close()

    def test_listings_and_heads_agree(self, storage: Storage, base: str) -> None:
        storage.write(join(base, "t/bag"), b"x")
        assert list(storage.objects(join(base, "t"))) == [storage.head(join(base, "t/bag"))]

    def test_an_upload_that_waits_on_scratch_disk(self, storage: Storage, base: str) -> None:
        storage = FileSystemStorage(storage._files, upload_memory_bytes=1000)  # type: ignore[attr-defined]
        upload = storage.upload(join(base, "x"))
        for byte in range(10):
            upload.write(bytes([byte]) * 999)
        upload.publish()
        assert storage.read(join(base, "x")) == b"".join(bytes([byte]) * 999 for byte in range(10))

    def test_a_put_that_is_interrupted_leaves_nothing(
        self, storage: FileSystemStorage, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As SIGTERM does, in the middle of the work of whatever library: by an exception."""
        whole = type(storage._files).put

        def interrupted(files: Files, uri: str, data: BinaryIO) -> None:
            whole(files, uri, io.BytesIO(data.read(5)))
            raise KeyboardInterrupt

        monkeypatch.setattr(type(storage._files), "put", interrupted)
        upload = storage.upload(join(base, "t/x"))
        upload.write(bytes(100))
        with pytest.raises(KeyboardInterrupt):
            upload.publish()
        upload.abort()
        assert list(storage.objects(base)) == list(storage.unfinished(base)) == []


class TestMemory(FileSystemTests):
    """fsspec, as of a store whose put is all or nothing."""

    @pytest.fixture
    def base(self) -> str:
        return f"memory://{uuid.uuid4().hex}"

    @pytest.fixture
    def storage(self, base: str) -> Storage:
        return open_storage(base)

    def test_a_version_that_is_gone_is_a_changed_object(
        self, storage: Storage, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Google's store says that there is no such version, not that there is another."""

        def gone(start: int, end: int) -> bytes:
            raise FileNotFoundError(base)

        storage.write(join(base, "bag"), b"before")
        info = storage.head(join(base, "bag"))
        monkeypatch.setattr(FsspecFiles, "reader", lambda files, uri: gone)
        storage.write(join(base, "bag"), b"after")
        with pytest.raises(ChangedError, match="changed since it was planned"):
            storage.open(info).read_at(0, 6)
        storage.delete(join(base, "bag"))
        with pytest.raises(NotFoundError, match="/bag: no such file"):
            storage.open(info).read_at(0, 6)


class TestFsspecFolders(FileSystemTests):
    """fsspec, as of a server with folders, whose files are moved into place."""

    @pytest.fixture
    def storage(self) -> FileSystemStorage:
        return FileSystemStorage(FsspecFiles.open("local://"))

    @pytest.fixture
    def base(self, tmp_path: Path) -> str:
        return f"local://{tmp_path}"


class TestArrowFolders(FileSystemTests):
    """pyarrow, as of HDFS."""

    @pytest.fixture
    def storage(self) -> FileSystemStorage:
        return FileSystemStorage(ArrowFiles(fs.LocalFileSystem(), "hdfs://", ""))

    @pytest.fixture
    def base(self, tmp_path: Path) -> str:
        return f"hdfs://{tmp_path}"


class TestArrowS3(FileSystemTests):
    """pyarrow's S3, which has the errors and the puts of its other object stores."""

    @pytest.fixture
    def base(self, s3: EmbeddedAws) -> str:
        bucket = f"storage-{uuid.uuid4().hex[:12]}"
        s3.client("s3").create_bucket(Bucket=bucket)
        return f"s3://{bucket}/lake"

    @pytest.fixture
    def storage(self, s3: EmbeddedAws, base: str) -> FileSystemStorage:
        return FileSystemStorage(ArrowFiles.open(base.removesuffix("/lake")))

    def test_errors(self, storage: Storage, s3: EmbeddedAws, base: str) -> None:
        with pytest.raises(NotFoundError, match="no-such-bucket-here"):
            FileSystemStorage(ArrowFiles.open("s3://no-such-bucket-here")).read("s3://no-such-bucket-here/x")
        key = s3.environment()["AWS_ACCESS_KEY_ID"]
        for server, verb, kind in [
            (s3.environment()["AWS_ENDPOINT_URL_S3"], "write", AccessDeniedError),
            ("http://127.0.0.1:9", "read", TransientError),
        ]:
            filesystem = fs.S3FileSystem(
                access_key=key,
                secret_key="wrong",
                endpoint_override=server,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            )
            stranger = FileSystemStorage(ArrowFiles(filesystem, "s3://b", "b"))
            with pytest.raises(kind, match="s3://b/x"):
                stranger.write("s3://b/x", b"") if verb == "write" else stranger.read("s3://b/x")


def test_a_package_that_is_missing_is_named() -> None:
    pytest.importorskip("fsspec")
    if importlib.util.find_spec("dropboxdrivefs"):
        pytest.skip("dropboxdrivefs is installed")
    with pytest.raises(LocationError, match=r"dropbox:// needs another package: .*dropboxdrivefs"):
        open_storage(normalize("dropbox://lake/x"))


@pytest.fixture
def s3(embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> EmbeddedAws:
    """The embedded AWS as this process' S3."""
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_module, "_client", None)
    return embedded_aws


def test_locations_become_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalize("lake") == str(tmp_path / "lake")
    assert normalize("bags/../lake/") == str(tmp_path / "lake")
    assert normalize("file:///a%20b/c/") == "/a b/c"
    assert normalize("file://localhost/a") == "/a"
    assert normalize("s3://bucket/lake/") == "s3://bucket/lake"
    assert isinstance(open_storage(normalize("lake")), LocalStorage)
    assert isinstance(open_storage("s3://bucket/lake"), S3Storage)
    assert normalize("s3://bucket/") == "s3://bucket"
    assert normalize("gs://bucket//lake/../other/") == "gs://bucket/other"
    assert (
        normalize("abfss://box@account.dfs.core.windows.net/") == "abfss://box@account.dfs.core.windows.net"
    )
    assert normalize("hdfs:///lake/") == "hdfs:///lake"
    assert normalize("memory:///lake/") == normalize("memory://lake") == "memory://lake"
    assert normalize("https://host/x.bag?sign=a/../b") == "https://host/x.bag?sign=a/../b"
    for location, said in [
        ("gopher://host/x", "no support for gopher://; use a path, s3://, gs://"),
        ("gs:///x", "names no host or bucket (gs://name/...)"),
        ("memory://", "names no place"),
        ("hdfs:///", "names no place"),
        ("zip://x.bag::https://host/x.zip", "chained URIs are not supported"),
        ("sftp://me:secret@host/x", "sftp://...@host/x: a password in a URI"),
        ("file://tmp/lake", "three slashes"),
        ("s3://", "names no bucket"),
        ("s3:///key", "names no bucket"),
    ]:
        with pytest.raises(StorageError, match=re.escape(said)):
            normalize(location)
