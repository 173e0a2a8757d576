"""What reaches logs and terminals: no credential, no signature, nothing of messages, nothing that acts."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ros_to_parquet import cli, errors, extraction
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.log import event
from ros_to_parquet.text import print_table, shown
from tests.engine.sample_bags import write_bag, write_mcap
from tests.engine.test_run import cli as process
from tests.engine.test_uris import Web
from tests.engine.test_uris import web as web

SECRET = "CONTENT-8d1f"
SIGNATURE = "SIGNATURE-51c2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://h/x.bag?X-Amz-Signature=S: 503", "http://h/x.bag?...: 503"),
        ("in PostgreSQL+psycopg://me:p@ss@h/c?x", "in PostgreSQL+psycopg://...@h/c?x"),
        ("abfss://box@account.dfs.core.windows.net/x", "abfss://box@account.dfs.core.windows.net/x"),
        ("a." * 100_000, "a." * 100_000),
        (
            "'https://h/x.bag?sig=S&se=1' and (https://h/y#token=S)",
            "'https://h/x.bag?...' and (https://h/y?...",
        ),
        ("https://TOKEN@h:8/x.bag", "https://...@h:8/x.bag"),
        ("http://h/x.bag: no such file?", "http://h/x.bag: no such file?"),
        ("s3://bucket/what?/x#1.bag", "s3://bucket/what?/x#1.bag"),
        ("/cam\x1b[2J\r\nERROR \u202eeman", "/cam\\x1b[2J\\r\\nERROR \\u202eeman"),
        ("/カメラ/été", "/カメラ/été"),
    ],
)
def test_what_is_shown(text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(text) == expected
    print_table(("name", "n"), [(text, "1")])
    assert capsys.readouterr().out.splitlines()[1].startswith(expected)


def test_an_event_is_one_line_on_a_terminal_too() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (io.StringIO(), Terminal()):
        event("bag_damaged", stream=stream, bag="a\n\x1b[31mb", uri="https://h/x?sig=S", offset=3)
        line = stream.getvalue().removeprefix("\r\033[K")
        assert line.count("\n") == 1
        assert "\x1b" not in line
        assert "sig" not in line


# --- whole programs ---------------------------------------------------------------------------------


def rejected_json(path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "at": {"contentEncoding": "base64"}},
    }
    payloads = [{"id": SECRET}, {"id": [SECRET]}, {"at": SECRET}, [SECRET], SECRET]
    text = [json.dumps(each).encode() for each in payloads] + [f'{{"id": "{SECRET}'.encode()]
    write_mcap(
        path, "pkg.Type", text, schema=json.dumps(schema), schema_encoding="jsonschema", encoding="json"
    )


def rejected_ros(path: Path) -> None:
    """Strings that end outside of their message, that are not text, and one that is as it should be."""
    text = SECRET.encode() + b"\0"
    good = b"\0\1\0\0" + struct.pack("<I", len(text)) + text
    payloads = [good[:-4], good + text * 3, good.replace(b"C", b"\xff", 1), good, text, b""]
    write_mcap(path, "std_msgs/msg/String", payloads, schema="string data", schema_encoding="ros2msg")


@pytest.mark.parametrize("write", [rejected_json, rejected_ros])
def test_rejected_messages_are_not_quoted(
    write: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "x.mcap")
    whole = (tmp_path / "x.mcap").read_bytes()
    assert SECRET.encode() in whole
    (tmp_path / "cut.mcap").write_bytes(whole[:-70])
    for name in ("x.mcap", "cut.mcap"):
        lake = tmp_path / f"lake-{name}"
        assert cli.main(["extract", str(tmp_path / name), "--output", str(lake)]) == ExitCode.OK
        said = "".join(capfd.readouterr())
        assert "! " in said, "that some were rejected is said"
        assert SECRET not in said
        manifests = [path.read_text() for path in lake.rglob("_manifests/**/*.json")]
        assert not any(SECRET in text for text in manifests), "which go into Airflow's logs"
        assert any('"reason"' in text for text in manifests)


def test_an_error_that_nobody_thought_of_does_not_quote_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path / "x.bag", messages=2)

    def fail(*_: object) -> None:
        try:
            pa.array([1, SECRET])
        except pa.ArrowInvalid as error:
            raise RuntimeError(f"no row of {SECRET}") from error

    monkeypatch.setattr(extraction.Extraction, "add", fail)
    words = ["extract", str(tmp_path / "x.bag"), "--output", str(tmp_path / "lake")]
    assert cli.main(words) == ExitCode.ENGINE_ERROR
    said = "".join(capfd.readouterr())
    assert SECRET not in said
    assert "RuntimeError; what it says may quote a bag: ROS_TO_PARQUET_DEBUG=1 logs it" in said
    assert "in fail\n" in said
    assert "ArrowInvalid\n" in said
    monkeypatch.setenv(errors.DEBUG_VARIABLE, "1")
    assert cli.main([*words[:-1], str(tmp_path / "lake-2")]) == ExitCode.ENGINE_ERROR
    assert f"RuntimeError: no row of {SECRET}" in "".join(capfd.readouterr())


def test_signed_urls_are_shown_without_their_signatures(
    web: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path / "x.bag", messages=40)
    data = (tmp_path / "x.bag").read_bytes()
    Web.files |= {
        "/x.bag": data,
        "/cut.bag": data[:-500],
        "/junk.bag": b"junk" * 99,
        "/whole.bag": bytes(9 << 20),
    }
    for name, code in {
        "x": ExitCode.OK,
        "cut": ExitCode.OK,
        "junk": ExitCode.BAG_UNREADABLE,
        "whole": ExitCode.INPUT_MISSING,
        "none": ExitCode.INPUT_MISSING,
        "secret": ExitCode.ACCESS_DENIED,
        "busy": ExitCode.RETRY,
    }.items():
        uri = f"{web}/{name}.bag?X-Amz-Credential=A%2F1&X-Amz-Signature={SIGNATURE}"
        assert cli.main(["extract", uri, "--output", str(tmp_path / f"lake-{name}")]) == code, name
        cli.main(["info", uri])
        said = "".join(capfd.readouterr())
        assert f"{name}.bag" in said
        assert SIGNATURE not in said
        assert "Credential" not in said


def test_credentials_are_in_no_line(tmp_path: Path) -> None:
    """A store that is not there, that refuses them, and the environment of a whole process."""
    write_bag(tmp_path / "x.bag", messages=2)
    planted = {
        name: f"PLANTED-{name}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    }
    more = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "x"}
    done = process("extract", tmp_path / "x.bag", "--output", "s3://lake/x", **planted, **more)
    assert done.returncode == ExitCode.RETRY
    assert "127.0.0.1:9" in done.stderr
    assert "PLANTED" not in done.stdout + done.stderr
