"""Names that a bag says (topics, types, fields, attachments, metadata): never a path, never code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import ros_to_parquet
from ros_to_parquet import cli
from ros_to_parquet.contract import ExitCode, table_name
from tests.engine.bag.bag_bytes import (
    T0,
    McapFile,
    Ros1Bag,
    mcap_attachment,
    mcap_channel,
    mcap_message,
    mcap_metadata,
    mcap_schema,
    ros1_fields,
    ros1_message,
    ros1_record,
    u32,
)

TOPICS = [
    *("../../etc/passwd", "/../../../tmp/x", "..", ".", "/", "a/../../b", "..\\..\\x", "C:\\x"),
    *("/dev/null", "~root/x", "s3://other/x", "file:///etc/passwd", "%2e%2e%2fx", "a?versionId=1#x"),
    *("_plans/x", "_manifests/x.json", "drive_id=other", "schema=0", "x.parquet", ".hidden", "_"),
    *("a\0b", "a\nb", "\x1b]0;pwned\x07", "\u202egpj.x", "é/カ", "a" * 100, "con", "nul.txt"),
    *(
        "<script>alert(1)</script>",
        "{{ 7*7 }}",
        "${HOME}",
        "$(touch pwned)",
        "`touch pwned`",
        "'; DROP TABLE x",
    ),
]
FIELDS = [
    "begin",
    "exit",
    "halt",
    "loop",
    "i",
    "data",
    "base",
    "output",
    "class_",
    "None_",
    "import_",
    "drop",
]
"""Words of Forth, Python and SQL that ROS takes as fields' names."""


def outside(folder: Path, lake: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and lake not in path.parents]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder deep enough to be left upwards, where all of it would be seen."""
    deep = tmp_path / "1" / "2" / "3" / "4"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "1"))
    return deep


def extract(folder: Path, bag: bytes, name: str) -> Path:
    (folder / name).write_bytes(bag)
    lake = folder / "lake"
    assert cli.main(["extract", str(folder / name), "--output", str(lake), "--drive-id", "d"]) == ExitCode.OK
    return lake


def hostile_bag() -> bytes:
    """A message on each of `TOPICS`, whose types are called likewise, with attachments of these names."""
    file = McapFile()
    definition = "\n".join(f"uint8 {name}" for name in FIELDS)
    for number, topic in enumerate(TOPICS, 1):
        kind = f"{topic[:50]}/msg/Type"
        file.add(file.define(mcap_schema(number, kind, "ros2msg", definition)))
        file.add(file.define(mcap_channel(number, number, topic, "cdr")))
        file.add(mcap_message(number, 0, T0 + number, b"\0\1\0\0" + bytes(range(len(FIELDS)))))
        file.add(mcap_attachment(topic, b"attached"))
        file.add(mcap_metadata(topic, key=topic))
    file.count(dict.fromkeys(range(1, len(TOPICS) + 1), 1))
    return file.bytes()


def test_topics_types_and_fields_are_names_and_nothing_else(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lake = extract(folder, hostile_bag(), "x.mcap")
    said = "".join(capfd.readouterr())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said)
    assert outside(tmp_path, lake) == [str(folder / "x.mcap")]
    written = [path.relative_to(lake).parts for path in lake.glob("*/schema=*/**/*.parquet")]
    assert {parts[0] for parts in written} == {table_name(topic) for topic in TOPICS}
    for table, schema, drive, name in written:
        assert re.fullmatch(r"[A-Za-z0-9.%_-]+", table)
        assert table[0] not in "._"
        assert re.fullmatch(r"schema=[0-9a-f]{8}", schema)
        assert drive == "drive_id=d"
        assert re.fullmatch(r"[0-9a-f]+-\d+\.parquet", name)
    (manifest,) = ros_to_parquet.open(str(lake)).drive("d").manifests
    assert sorted({topic.topic for topic in manifest.topics}) == sorted(set(TOPICS))
    assert sum(topic.rows for topic in manifest.topics) == len(TOPICS), "all of them are read"
    (row,) = pq.read_table(next(lake.rglob("con/**/*.parquet")), partitioning=None).to_pylist()
    assert {name: row[name] for name in FIELDS} == {name: place for place, name in enumerate(FIELDS)}
    assert cli.main(["info", str(folder / "x.mcap")]) == ExitCode.OK
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", "".join(capfd.readouterr()))


def test_definitions_are_data(folder: Path, tmp_path: Path) -> None:
    """In each language of definitions; those that cannot be are refused, and nothing is run or written."""
    touch = f"__import__('os').system('touch {tmp_path}/pwned')"
    keys = [
        f"'+{touch}+'",
        f"{{{{ {touch} }}}}",
        f"$(touch {tmp_path}/pwned)",
        f": evil {touch} ; evil",
        "a\nb",
        "../x",
    ]
    definitions: list[tuple[str, str, str | bytes]] = [
        ("ros2msg", "cdr", f"uint8 a\nstring b {touch!r}\nuint8 C={touch}"),
        ("ros2msg", "cdr", f"uint8 a ; {touch}"),
        ("ros2msg", "cdr", "uint8 a\n" + "=" * 80 + f"\nMSG: ../../{touch}\nuint8 b"),
        (
            "ros2idl",
            "cdr",
            f'module m {{ struct S {{ octet a; @verbatim(language="py", text="{touch}") octet b; }}; }};',
        ),
        ("jsonschema", "json", json.dumps({"type": "object", "properties": {key: {} for key in keys}})),
        ("jsonschema", "json", json.dumps({"$ref": f"file://{tmp_path}/1/other.json"})),
        ("jsonschema", "json", json.dumps({"$ref": "http://127.0.0.1:9/other.json"})),
    ]
    proto = FileDescriptorProto(name="../../pwned.proto", package="m.msg")
    message = proto.message_type.add(name="S")
    for number, name in enumerate(("a", "begin", "halt", "__class__", touch), 1):
        field = message.field.add(name=name, number=number, label=1, type=9, json_name=f"../{number}{touch}")
        field.default_value = touch
    whole = FileDescriptorSet(file=[proto]).SerializeToString()
    del message.field[-1]  # without the name that no protobuf can have
    sets = [
        ("protobuf", "protobuf", whole),
        ("protobuf", "protobuf", FileDescriptorSet(file=[proto]).SerializeToString()),
    ]
    file = McapFile()
    for number, (language, encoding, definition) in enumerate(definitions + sets, 1):
        kind = "m.msg.S" if language == "protobuf" else "m/msg/S"
        file.add(file.define(mcap_schema(number, kind, language, definition)))
        file.add(file.define(mcap_channel(number, number, f"/t{number}", encoding)))
        payload = {"json": b"{}", "protobuf": b"\x0a\x01x"}.get(encoding, bytes(64))
        file.add(mcap_message(number, 0, T0 + number, payload))
    file.count(dict.fromkeys(range(1, len(definitions + sets) + 1), 1))
    lake = extract(folder, file.bytes(), "x.mcap")
    assert outside(tmp_path, lake) == [str(folder / "x.mcap")]
    (manifest,) = ros_to_parquet.open(str(lake)).drive("d").manifests
    assert [topic.rows + topic.rejected for topic in manifest.topics] == [1] * len(definitions + sets)
    assert [topic.rows for topic in manifest.topics if topic.topic in ("/t8", "/t9")] == [0, 1]


def test_connection_headers_choose_no_path(folder: Path, tmp_path: Path) -> None:
    bag, records, places = Ros1Bag(), list[bytes](), {}
    for number, topic in enumerate(TOPICS):
        body = ros1_fields(
            topic=topic.encode(),
            type=b"../../x/Y",
            md5sum=b"../../../../../../../../../../..",
            message_definition=b"string data",
            callerid=topic.encode(),
            latching=b"../",
        )
        header = {"op": b"\x07", "conn": u32(number), "topic": topic.encode()}
        records.append(ros1_record(header, body))
    for number in range(len(TOPICS)):
        places[number] = [(T0, sum(map(len, records)))]
        records.append(ros1_message(number, T0, b"payload"))
    bag.chunk(records, dict.fromkeys(places, 1))
    lake = extract(folder, bag.bytes(), "x.bag")
    assert outside(tmp_path, lake) == [str(folder / "x.bag")]
    (manifest,) = ros_to_parquet.open(str(lake)).drive("d").manifests
    assert sum(topic.messages for topic in manifest.topics) == len(TOPICS)
    for path in lake.iterdir():
        assert re.fullmatch(r"[A-Za-z0-9.%_-]+", path.name)


AUDITED = """
import os, sys

DEEDS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.symlink", "socket.connect")

def tell(*words):  # in one write: there are several threads
    os.write(1, f"\\n{' '.join(words)}\\n".encode())

def hook(name, arguments):
    if name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        tell("wrote", os.path.abspath(str(arguments[0])))
    elif name in DEEDS:
        tell("did", name)

from ros_to_parquet import cli
sys.addaudithook(hook)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_what_is_written_lies_in_the_lake_or_in_scratch_and_nothing_is_run(folder: Path) -> None:
    (folder / "x.mcap").write_bytes(hostile_bag())
    words = ["extract", str(folder / "x.mcap"), "--output", str(folder / "lake")]
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, *words], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == ExitCode.OK, done.stderr
    lines = done.stdout.splitlines()
    written = [line.removeprefix("wrote ") for line in lines if line.startswith("wrote ")]
    assert len(written) >= 2 * len(TOPICS)
    scratch = (f"{folder / 'lake'}/", f"{os.environ['TMPDIR']}/ros-to-parquet-", "/dev/null")
    assert not [path for path in written if not path.startswith(scratch)]
    assert not [line for line in lines if line.startswith("did ")]


def test_attachments_choose_no_path(folder: Path, tmp_path: Path) -> None:
    lake = extract(folder, hostile_bag(), "x.mcap")
    assert outside(tmp_path, lake) == [str(folder / "x.mcap")]
    kept = [path for path in (lake / "_attachments").rglob("*") if path.is_file()]
    assert [path.parent.name for path in kept] == ["drive_id=d"] * len(TOPICS)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in kept)
