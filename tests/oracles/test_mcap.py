"""``mcap``, ``mcap-ros1-support`` and ``mcap-ros2-support`` against the engine, from file to Parquet."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import mcap_ros1.decoder
import mcap_ros2.decoder
import pytest
from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader

from .lake import REAL_BAGS, assert_same, extract

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not REAL_BAGS.is_dir(), reason="the folder of real bags is not there"),
]

UNDECODED_BY_MCAP = {
    "bag_with_topics_and_service_events.mcap": "events of services, defined by a text with ---",
    "soccer_goal_12.mcap": "messages compressed one by one",
    "wrong_rmw_test_0.mcap": "an encoding that does not exist",
    "test_sample_no_rosout.mcap": "point clouds that are cut off",
}
"""Files with messages that ``mcap`` finds and its decoders do not take, and why."""


def messages_by_mcap(path: Path) -> tuple[dict[str, list[tuple[int, Any]]], dict[str, list[int]]]:
    """Decoded messages by topic, and the times of those that ``mcap``'s decoders do not take."""
    values: dict[str, list[tuple[int, Any]]] = {}
    undecoded: dict[str, list[int]] = {}
    factories = [mcap_ros1.decoder.DecoderFactory(), mcap_ros2.decoder.DecoderFactory()]
    decoders: dict[int, Any] = {}
    with path.open("rb") as file:
        try:
            for schema, channel, message in NonSeekingReader(file).iter_messages(log_time_order=False):
                if channel.id not in decoders:
                    decoders[channel.id] = _decoder(factories, channel.message_encoding, schema)
                try:
                    value = plain(decoders[channel.id](message.data))
                except Exception:  # noqa: BLE001 (whatever it raises is its verdict)
                    undecoded.setdefault(channel.topic, []).append(message.log_time)
                else:
                    values.setdefault(channel.topic, []).append((message.log_time, value))
        except (McapError, struct.error):  # a file that is cut off: what was found until there
            pass
    return values, undecoded


def _decoder(factories: list[Any], encoding: str, schema: Any) -> Any:
    if encoding == "json":
        return json.loads
    for factory in factories:
        try:
            if decoder := factory.decoder_for(encoding, schema):
                return decoder
        except Exception:  # noqa: BLE001, S112 (its parser does not take the definition)
            continue
    return None


def plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "secs"):
        return {"sec": value.secs, "nanosec": value.nsecs}
    if hasattr(value, "__slots__") and not isinstance(value, str | bytes | int | float):
        return {name: plain(getattr(value, name)) for name in value.__slots__}
    return value


@pytest.mark.parametrize("path", sorted(REAL_BAGS.rglob("*.mcap")), ids=lambda path: path.name)
def test_real_files(path: Path, tmp_path: Path) -> None:
    values, undecoded = messages_by_mcap(path)
    if "lichtblick" in str(path):
        pytest.skip("JSON: its values are held against its schema in the engine's own tests")
    compared = assert_same(extract(path, tmp_path), values, undecoded=undecoded)
    assert bool(undecoded) == (path.name in UNDECODED_BY_MCAP), undecoded.keys()
    assert compared == sum(map(len, values.values()))
