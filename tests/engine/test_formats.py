"""Files with the oddities of real recorders, made by hand, from the file to the rows; ``docs/formats.md``."""

from __future__ import annotations

import ast
import re
import struct
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ros_to_parquet.contract import Manifest
from tests.engine.bag.bag_bytes import (
    MCAP_MAGIC,
    MD5,
    T0,
    McapFile,
    Ros1Bag,
    mcap_channel,
    mcap_header,
    mcap_message,
    mcap_schema,
    read,
    ros1_connection,
    ros1_message,
)
from tests.engine.test_run import cli, extract

ROOT = Path(__file__).parents[2]
SEPARATOR = "=" * 80
CDR = b"\0\1\0\0"
TEXT = CDR + struct.pack("<I", 4) + b"abc\0"


def tables(lake: Path, *keys: str) -> dict[str, list[dict[str, Any]]]:
    """The messages' own fields (or ``keys``) of each table's rows, whatever schema they have."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(lake.glob("[!_]*/*/*/*.parquet")):
        read = pq.ParquetFile(path).read()
        names = keys or [name for name in read.column_names if name not in OWN]
        found.setdefault(path.parts[len(lake.parts)], []).extend(read.select(names).to_pylist())
    return found


OWN = frozenset({"log_time", "log_time_ns", "publish_time_ns", "sequence", "bag"})


def extracted(tmp_path: Path, data: bytes, suffix: str = ".mcap") -> tuple[Manifest, Path]:
    bag = tmp_path / f"odd{suffix}"
    bag.write_bytes(data)
    manifest = extract(bag, output=tmp_path / "lake")
    assert all(topic.messages == topic.rows + topic.rejected for topic in manifest.topics)
    return manifest, tmp_path / "lake"


def counts(manifest: Manifest) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for topic in manifest.topics:
        rows, rejected = found.get(topic.topic, (0, 0))
        found[topic.topic] = rows + topic.rows, rejected + topic.rejected
    return found


def mcap(
    *definitions: bytes, messages: list[tuple[int, bytes]], profile: str = "ros2", **chunk: str
) -> bytes:
    file = McapFile(data=MCAP_MAGIC + mcap_header(profile))
    content = file.define(*definitions)
    content += b"".join(mcap_message(to, n, T0 + n, payload) for n, (to, payload) in enumerate(messages))
    file.chunk(content, {to: sum(other == to for other, _ in messages) for to, _ in messages}, **chunk)
    return file.bytes()


def test_topics_of_any_name_and_channels_without_a_schema(tmp_path: Path) -> None:
    data = mcap(
        mcap_schema(1),
        mcap_channel(1, 1, "/with space/ü"),
        mcap_channel(2, 0, "/json", "json"),
        mcap_channel(3, 0, "/cdr"),
        mcap_channel(4, 1, "/raw", "application/octet-stream"),
        mcap_channel(5, 1, ""),
        mcap_channel(6, 0, "/raw2", "cbor"),
        messages=[(1, TEXT), (2, b'{"a":1}'), (3, TEXT), (4, b"x"), (5, TEXT), (6, b"x")],
    )
    manifest, lake = extracted(tmp_path, data)
    assert counts(manifest) == {
        "/with space/ü": (1, 0),
        "/json": (1, 0),
        "/cdr": (0, 1),
        "/raw": (0, 1),
        "": (1, 0),
        "/raw2": (0, 1),
    }
    reasons = {topic.topic: topic.rejects[0].reason for topic in manifest.topics if topic.rejected}
    assert reasons["/cdr"].startswith("nothing in the bag says what its messages are")
    assert reasons["/raw2"].startswith("type unknown: message encoding 'cbor' is not supported")
    assert "message encoding 'application/octet-stream' is not supported" in reasons["/raw"]
    found = tables(lake)
    assert found["with%20space.%C3%BC"] == [{"data": "abc"}]
    assert found["json"] == [{"value": '{"a":1}'}]


def test_ros1_messages_inside_mcap(tmp_path: Path) -> None:
    data = mcap(
        mcap_schema(1, "std_msgs/String", "ros1msg"),
        mcap_channel(1, 1, "/s", "ros1", {"md5sum": MD5, "latching": "1", "callerid": "/node"}),
        messages=[(1, struct.pack("<I", 3) + b"abc")],
        profile="ros1",
        compression="lz4",
    )
    manifest, lake = extracted(tmp_path, data)
    assert counts(manifest) == {"/s": (1, 0)}
    assert tables(lake) == {"s": [{"data": "abc"}]}


def test_one_type_with_two_definitions_on_one_topic_and_json_beside_cdr(tmp_path: Path) -> None:
    data = mcap(
        mcap_schema(1, "pkg/msg/T", data="int32 a\n"),
        mcap_schema(2, "pkg/msg/T", data="int32 a\nint32 b\n"),
        mcap_schema(3, "T", "jsonschema", '{"type": "object", "properties": {"a": {"type": "integer"}}}'),
        mcap_channel(1, 1, "/t"),
        mcap_channel(2, 2, "/t"),
        mcap_channel(3, 3, "/t", "json"),
        messages=[(1, CDR + struct.pack("<i", 5)), (2, CDR + struct.pack("<ii", 6, 7)), (3, b'{"a": 8}')],
    )
    manifest, lake = extracted(tmp_path, data)
    assert counts(manifest) == {"/t": (3, 0)}
    assert sorted(tables(lake)["t"], key=lambda row: row["a"]) == [{"a": 5}, {"a": 6, "b": 7}, {"a": 8}]
    assert len(list((lake / "t").iterdir())) == 3  # a definition each


def test_a_topic_that_has_no_columns_beside_one_that_has(tmp_path: Path) -> None:
    union = "module pkg { module msg { union U switch (long) { case 1: long a; }; struct T { U u; }; }; };"
    data = mcap(
        mcap_schema(1, "pkg/msg/T", "ros2idl", union),
        mcap_schema(2),
        mcap_channel(1, 1, "/union"),
        mcap_channel(2, 2, "/text"),
        messages=[(1, CDR + bytes(8)), (2, TEXT), (1, CDR + bytes(8))],
    )
    manifest, lake = extracted(tmp_path, data)
    assert counts(manifest) == {"/union": (0, 2), "/text": (1, 0)}
    (reason,) = {reject.reason for topic in manifest.topics for reject in topic.rejects}
    assert reason.startswith("type pkg/msg/T: line 1 of its definition uses the union U; unions, maps,")
    assert tables(lake) == {"text": [{"data": "abc"}]}


def test_nested_sequences_of_an_idl_become_nested_lists_and_come_back(tmp_path: Path) -> None:
    idl = "module p { module msg { struct T { sequence<sequence<long>> m; wchar w; double g[2][2]; }; }; };"
    lists = struct.pack("<IIiiI", 2, 2, 1, 2, 0)
    payload = CDR + lists + struct.pack("<I", 65) + struct.pack("<4d", 1, 2, 3, 4)
    data = mcap(mcap_schema(1, "p/msg/T", "ros2idl", idl), mcap_channel(1, 1, "/n"), messages=[(1, payload)])
    _, lake = extracted(tmp_path, data)
    assert tables(lake) == {"n": [{"m": [[1, 2], []], "w": 65, "g": [[1.0, 2.0], [3.0, 4.0]]}]}
    again = tmp_path / "again.mcap"
    done = cli("rebuild", lake, "--drive-id", "drive_1", "--output", again)
    assert done.returncode == 0, done.stderr
    found = read(again.read_bytes())
    assert found.payloads("/n") == [payload]
    assert found.reader.connections()[0].definition == idl


def test_events_of_services_and_actions(tmp_path: Path) -> None:
    """As `ros2 bag record` writes them: the definition is the whole service's or action's."""
    action, service = "int32 order\n---\nint32[] done\n---\nint32[] part\n", "int64 a\n---\nint64 sum\n"
    feedback = (
        f"unique_identifier_msgs/UUID goal_id\nex/Fib_Feedback feedback\n{SEPARATOR}\n"
        f"MSG: unique_identifier_msgs/UUID\nuint8[16] uuid\n{SEPARATOR}\nMSG: ex/Fib_Feedback\nint32[] part\n"
    )
    uuid = bytes(range(16))
    info = struct.pack("<BxxxiI16s4xq", 1, 5, 6, uuid, 9)
    goal = CDR + info + struct.pack("<I16siI", 1, uuid, 7, 0)
    result = CDR + info + struct.pack("<IIbxxxIi", 0, 1, 4, 1, 11)
    data = mcap(
        mcap_schema(1, "ex/action/Fib_FeedbackMessage", data=feedback),
        mcap_schema(2, "ex/action/Fib_FeedbackMessage", data=action),
        mcap_schema(3, "ex/srv/Add_Event", data=service),
        mcap_schema(4, "ex/action/Fib_SendGoal_Event", data=action),
        mcap_schema(5, "ex/action/Fib_GetResult_Event", data=action),
        *(mcap_channel(n, n, f"/{n}") for n in range(1, 6)),
        messages=[
            (1, CDR + uuid + struct.pack("<Iii", 2, 3, 4)),
            (2, CDR + uuid + struct.pack("<Iii", 2, 3, 4)),
            (3, CDR + info + struct.pack("<I4xqI", 1, 2, 0)),
            (4, goal),
            (5, result),
        ],
        compression="zstd",
    )
    manifest, lake = extracted(tmp_path, data)
    assert set(counts(manifest).values()) == {(1, 0)}
    found = {table: row for table, (row,) in tables(lake).items()}
    assert found["1"] == found["2"] == {"goal_id": {"uuid": uuid}, "feedback": {"part": [3, 4]}}
    said = {
        "event_type": 1,
        "stamp": {"sec": 5, "nanosec": 6},
        "client_gid": uuid,
        "sequence_number": 9,
    }
    assert found["3"] == {"info": said, "request": [{"a": 2}], "response": []}
    request = [{"goal_id": {"uuid": uuid}, "goal": {"order": 7}}]
    assert found["4"] == {"info": said, "request": request, "response": []}
    assert found["5"] == {"info": said, "request": [], "response": [{"status": 4, "result": {"done": [11]}}]}


def test_both_byte_orders_and_both_versions_of_cdr_on_one_topic(tmp_path: Path) -> None:
    text = struct.pack("<II", 1, 2) + b"q\0"
    payloads = [
        CDR + struct.pack("<B7xd", 1, 2.5) + text,
        b"\0\0\0\0" + struct.pack(">B7xdII", 1, 2.5, 1, 2) + b"q\0",
        b"\0\7\0\2" + struct.pack("<B3xdI", 1, 2.5, len(text)) + text + b"\0\0",
    ]
    data = mcap(
        mcap_schema(1, "pkg/msg/T", data="uint8 a\nfloat64 b\nstring[] s\n"),
        mcap_channel(1, 1, "/t"),
        messages=[(1, payload) for payload in payloads],
    )
    _, lake = extracted(tmp_path, data)
    assert tables(lake) == {"t": [{"a": 1, "b": 2.5, "s": ["q"]}] * 3}


def test_a_ros1_connection_whose_type_was_not_known(tmp_path: Path) -> None:
    bag = Ros1Bag()
    record = bag.connection(0, "/any", "*", "")
    bag.chunk([record, ros1_message(0, T0, b"abc")], {0: 1})
    manifest, _ = extracted(tmp_path, bag.bytes(), ".bag")
    (topic,) = manifest.topics
    assert (topic.rows, topic.rejected) == (0, 1)
    assert topic.rejects[0].reason.startswith("nothing in the bag says what its messages are")


@pytest.mark.parametrize("compression", ["none", "bz2", "lz4"])
def test_ros1_definitions_that_are_no_utf8_and_headers_with_more_fields(
    tmp_path: Path, compression: str
) -> None:
    bag = Ros1Bag()
    record = ros1_connection(
        0, "/a b", "pkg/T", "float32 a # DEG\n", latching=b"1", more=b"\xff\xfe", tcp_nodelay=b"0"
    )
    record = bag.connections[0] = record.replace(b"DEG", b"\xb0C\xff")
    bag.chunk([], {}, compression)
    bag.chunk([record, ros1_message(0, T0, struct.pack("<f", 1.5))], {0: 1}, compression)
    manifest, lake = extracted(tmp_path, bag.bytes(), ".bag")
    assert counts(manifest) == {"/a b": (1, 0)}
    assert tables(lake) == {"a%20b": [{"a": 1.5}]}


# --- docs/formats.md ---------------------------------------------------------------------------------


def test_every_test_that_the_documentation_names_is_there() -> None:
    lines = [
        line for line in (ROOT / "docs" / "formats.md").read_text().splitlines() if line.startswith("| ")
    ]
    rows = [line for line in lines if not re.match(r"\| (format|oddity|what is refused|---)", line)]
    assert len(rows) > 50
    named: dict[str, set[str]] = {}
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert tests, f"no test holds: {row}"
        for path, name in tests:
            named.setdefault(path, set()).add(name)
    for path, names in named.items():
        tree = ast.parse((ROOT / path).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert names <= functions, f"{path} has no {', '.join(names - functions)}"
