"""Bags and lakes at other URIs than S3's: in memory, and bags on a web server, through the command line."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import ros_to_parquet
from ros_to_parquet import cli, contract
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.storage import Storage, StorageError, TransientError, join, normalize, open_storage
from ros_to_parquet.storage.ranges import RangeSource
from tests.engine.sample_bags import TOPICS, write_bag

pytest.importorskip("fsspec")


@pytest.fixture
def base() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def storage(base: str) -> Storage:
    return open_storage(base)


def put_bag(storage: Storage, uri: str, folder: Path, *, messages: int = 40) -> None:
    local = folder / uri.rpartition("/")[2]
    write_bag(local, messages=messages)
    storage.write(uri, local.read_bytes())
    local.unlink()


def extract(*arguments: str) -> int:
    return cli.main(["extract", *arguments])


def test_a_drive_in_memory_there_and_back(
    storage: Storage, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = join(base, "lake")
    for name in ("a.bag", "b.mcap", "c.db3"):
        put_bag(storage, join(base, f"raw/drive_1/{name}"), tmp_path)
    storage.write(join(base, "raw/drive_1/notes.txt"), b"not a bag")
    assert extract(join(base, "raw/drive_1/"), "--output", lake) == ExitCode.OK
    opened = ros_to_parquet.open(lake)
    assert opened.drives() == ["drive_1"]
    rows = opened.dataset("status").to_table(columns=["bag", "data"]).to_pylist()
    assert sorted((row["bag"], row["data"]) for row in rows) == sorted(
        (bag, f"round {number}") for bag in ("a.bag", "b.mcap", "c.db3") for number in range(40)
    )
    (manifest,) = opened.drive("drive_1").manifests
    assert all(bag.verified for bag in manifest.bags)

    capsys.readouterr()
    assert extract(join(base, "raw/drive_1"), "--output", f"{lake}/") == ExitCode.OK
    assert "has all 3 bags of drive drive_1 already" in capsys.readouterr().out
    put_bag(storage, join(base, "raw/drive_1/d.bag"), tmp_path, messages=5)
    assert extract(join(base, "raw/drive_1"), "--output", lake) == ExitCode.OK
    assert opened.dataset("status").count_rows() == 125
    put_bag(storage, join(base, "raw/drive_1/d.bag"), tmp_path, messages=6)
    assert extract(join(base, "raw/drive_1"), "--output", lake) == ExitCode.USAGE  # it is another bag now
    assert extract(join(base, "raw/drive_1"), "--output", lake, "--overwrite") == ExitCode.OK
    assert opened.dataset("status").count_rows() == 126

    clip = join(base, "clip.mcap")
    assert cli.main(["rebuild", lake, "--drive-id", "drive_1", "--output", clip]) == ExitCode.OK
    assert cli.main(["rebuild", lake, "--drive-id", "drive_1", "--output", clip]) == ExitCode.OUTPUT_FAILED
    capsys.readouterr()
    assert cli.main(["info", clip]) == ExitCode.OK
    assert f"{126 * len(TOPICS)} (index says {126 * len(TOPICS)})" in capsys.readouterr().out
    assert list(storage.unfinished(base)) == []


def test_definitions_at_a_uri(storage: Storage, base: str, tmp_path: Path) -> None:
    storage.write(join(base, "mine/robot_msgs/msg/Blink.msg"), b"bool on\n")
    put_bag(storage, join(base, "x.bag"), tmp_path)
    types = ("--msg-path", join(base, "mine"))
    assert extract(join(base, "x.bag"), "--output", join(base, "lake"), *types) == ExitCode.OK
    assert extract(join(base, "x.bag"), "--output", base, "--msg-path", join(base, "none")) == ExitCode.USAGE


def test_of_a_run_that_fails_nothing_is_visible(
    storage: Storage, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bag(storage, join(base, "a.bag"), tmp_path)
    put_bag(storage, join(base, "b.bag"), tmp_path)
    read_at = RangeSource.read_at

    def broken(source: RangeSource, offset: int, length: int) -> bytes:
        if source.name.endswith("b.bag"):
            raise TransientError(f"{source.name}: the network is down")
        return read_at(source, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(RangeSource, "read_at", broken)
        lake = join(base, "lake")
        bags = [join(base, "a.bag"), join(base, "b.bag")]
        assert extract(*bags, "--output", lake, "--drive-id", "d") == ExitCode.RETRY
    left = [info.uri.removeprefix(lake) for info in storage.objects(lake)]
    assert left
    assert all(re.match("/_(plans|manifests)/.*(plan|started).*json|/_plans/", uri) for uri in left)
    assert ros_to_parquet.open(lake).tables() == []
    assert extract(*bags, "--output", lake, "--drive-id", "d") == ExitCode.OK
    assert ros_to_parquet.open(lake).dataset("status").count_rows() == 80


def test_a_job_reads_and_writes_only_what_is_allowed(
    storage: Storage,
    base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    put_bag(storage, join(base, "raw/x.bag"), tmp_path)
    lake = join(base, "lake")
    assert extract(join(base, "raw/x.bag"), "--output", lake) == ExitCode.OK
    (uri,) = [info.uri for info in storage.objects(join(lake, "_plans"))]
    digest = contract.sha256(storage.read(uri))
    run = ["run", "--plan", uri, "--plan-sha256", digest]
    monkeypatch.setenv(contract.ALLOW_VARIABLE, f"{base}/raw, {lake}/")
    assert cli.main(run) == ExitCode.OK
    assert cli.main([*run[:-1], "0" * 64]) == ExitCode.PLAN_REFUSED
    monkeypatch.setenv(contract.ALLOW_VARIABLE, f"{base}/ra, {lake}")
    assert cli.main(run) == ExitCode.PLAN_REFUSED
    assert f"{base}/raw/x.bag is outside of what this deployment allows" in capfd.readouterr().err
    for word in ("--plan", "--index-map"):  # not even read: there is none
        elsewhere = [*run, "--shard", "0", word, f"{base}/lake-2/none.json"]
        assert cli.main(elsewhere) == ExitCode.PLAN_REFUSED
        assert f"job: {base}/lake-2/none.json is outside" in capfd.readouterr().err


# --- a web server -----------------------------------------------------------------------------------


class Web(BaseHTTPRequestHandler):
    """Files by name; of some it does not give parts, their sizes, or anything."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes] = {}  # noqa: RUF012 (the test's)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path == "/secret.bag":
            self.send_error(403)
            return
        if path == "/busy.bag":
            self.send_error(503)
            return
        if path not in self.files:
            self.send_error(404)
            return
        data = self.files[path]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked and "whole" not in path else data
        self.send_response(206 if len(part) < len(data) else 200)
        self.send_header("ETag", f'"{contract.sha256(data)[:8]}"')
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if with_body:
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    pytest.importorskip("aiohttp")
    Web.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_bag_on_a_web_server(web: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bag(tmp_path / "x.bag", messages=4000)
    Web.files["/drives/x.bag"] = (tmp_path / "x.bag").read_bytes()
    assert len(Web.files["/drives/x.bag"]) > 8 << 20  # more than one request
    lake = str(tmp_path / "lake")
    signed = f"{web}/drives/x.bag?signature=a/b%2F"
    assert extract(signed, "--output", lake) == ExitCode.OK
    dataset = ros_to_parquet.open(lake).dataset("status")
    assert dataset.count_rows() == 4000
    assert dataset.to_table(columns=["bag", "drive_id"]).slice(0, 1).to_pylist() == [
        {"bag": "x.bag", "drive_id": "x"}
    ]
    capsys.readouterr()
    assert extract(f"{web}/drives/x.bag", "--output", lake) == ExitCode.OK  # by its ETag
    assert "Nothing to do" in capsys.readouterr().out
    assert cli.main(["info", f"{web}/drives/x.bag"]) == ExitCode.OK
    assert "16,000 (index says 16,000)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        (
            "/none.bag",
            ExitCode.INPUT_MISSING,
            "no such file, or a folder: a web server's files are read one by",
        ),
        ("/secret.bag", ExitCode.ACCESS_DENIED, "access denied"),
        ("/busy.bag", ExitCode.RETRY, "503"),
    ],
)
def test_what_a_web_server_refuses(
    web: str, path: str, code: ExitCode, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert extract(f"{web}{path}", "--output", str(tmp_path / "lake")) == code
    assert said in capfd.readouterr().err


def test_a_web_server_that_gives_no_parts(web: str) -> None:
    Web.files["/whole.bag"] = bytes(9 << 20)
    storage = open_storage(web)
    source = storage.open(storage.head(f"{web}/whole.bag"))
    with pytest.raises(StorageError, match=r"/whole\.bag: the server gives no parts of a file"):
        source.read_at(1 << 20, 10)
    source.close()


def test_nothing_is_written_to_a_web_server(web: str, tmp_path: Path) -> None:
    write_bag(tmp_path / "x.bag")
    assert extract(str(tmp_path / "x.bag"), "--output", f"{web}/lake") != ExitCode.OK
    for verb in ("write", "create"):
        with pytest.raises(StorageError, match="a web server is only read"):
            getattr(open_storage(web), verb)(f"{web}/x", b"")


def test_a_web_server_that_is_not_there() -> None:
    pytest.importorskip("aiohttp")
    uri = normalize("http://127.0.0.1:9/x.bag")
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9/x\.bag"):
        open_storage(uri).head(uri)
