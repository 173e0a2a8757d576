"""``plan --sample``: which bags may be read, and what the engine says of one of each drive."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from airflow_batch_ros import sampling
from airflow_batch_ros.pace import Pace
from airflow_batch_ros.sampling import SampleError, environment_of, look_into, option_words, probe
from ros_to_parquet.contract import ExtractOptions
from tests.engine.sample_bags import write_mcap
from tests.provider.bags import UNREADABLE, cut_off, ros1_bag
from tests.provider.builders import bag, plan, put
from tests.provider.test_commands import Shell, shell
from tests.provider.test_load import counted_calls

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["shell"]

FAST = Pace(1e6)


class Guarded:
    """An S3 that does not let all objects be read."""

    def __init__(self, **codes: str) -> None:
        self.codes = codes
        self.asked: list[dict[str, Any]] = []

    def get_object(self, **asked: Any) -> Any:
        self.asked.append(asked)
        name = asked["Key"].rpartition("/")[2].partition(".")[0]
        if name in self.codes:
            raise ClientError({"Error": {"Code": self.codes[name], "Message": "no"}}, "GetObject")
        return {"Body": type("Body", (), {"read": lambda _: b"#"})()}


def test_a_byte_of_each_bag_is_asked_for_and_what_s3_says_of_others() -> None:
    made = plan([bag(f"{name}.bag") for name in "abcd"])
    s3: Any = Guarded(a="AccessDenied", b="InvalidObjectState", c="InvalidRange")
    found = probe(s3, made, FAST, requester_pays=True)
    assert {(asked["Range"], asked["RequestPayer"]) for asked in s3.asked} == {("bytes=0-0", "requester")}
    assert found.first == made.bags[2]  # an empty one: the engine says what is wrong with it
    assert [name for name, _ in found.refused] == ["a.bag", "b.bag"]
    assert "let the role that asks do s3:GetObject there" in found.refused[0][1]
    assert "it is archived (Glacier): restore it first" in found.refused[1][1]
    with pytest.raises(ClientError):
        probe(Guarded(a="SlowDown"), made, FAST, requester_pays=False)  # type: ignore[arg-type]


def test_of_many_bags_some_are_asked_for_evenly_spread() -> None:
    s3: Any = Guarded()
    found = probe(s3, plan([bag(f"{number:04d}.bag") for number in range(1000)]), FAST, requester_pays=False)
    assert (found.probed, len(s3.asked)) == (20, 20)
    assert [asked["Key"][-8:-4] for asked in s3.asked[:3]] == ["0000", "0050", "0100"]


def test_the_options_of_a_plan_are_said_to_the_engine() -> None:
    options = ExtractOptions(("/a", "-b*"), ("*/c",), ros_distro="humble", msg_paths=("s3://m/x",))
    assert option_words(options) == [
        *("--topics", "/a", "[-]b*", "--exclude", "*/c", "--msg-path=s3://m/x", "--ros-distro", "humble")
    ]


CRASHES = """
import json, os, sys
bags = sys.argv[sys.argv.index("--") + 1 :]
for bag in bags:
    if "bad" in bag:
        print("it was too much", file=sys.stderr)
        os._exit(137)
    print(json.dumps({"uri": bag}), flush=True)
"""


def test_a_bag_that_ends_the_engine_is_named_and_the_others_are_looked_into() -> None:
    uris = ["one", "bad-1", "two", "bad-2"]
    found = look_into([sys.executable, "-c", CRASHES], uris, {})
    assert {uri for uri, said in found.items() if "problem" not in said} == {"one", "two"}
    assert found["bad-1"]["problem"] == "the engine ended with code 137: it was too much"
    assert found["bad-2"]["exit_code"] == 137


def test_an_engine_that_says_nothing_is_ended() -> None:
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    found = look_into(words, ["a"], {}, timeout_s=0.5)
    assert found["a"]["problem"].startswith("the engine said nothing for 0 s")


def test_an_engine_that_does_not_take_its_words_is_an_error() -> None:
    words = [sys.executable, "-c", "import sys; print('unknown option', file=sys.stderr); sys.exit(2)"]
    with pytest.raises(SampleError, match="the engine ended with code 2: unknown option"):
        look_into(words, ["a"], {})


def test_the_engine_has_the_sessions_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret", region_name="eu-west-1")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "old")
    found = environment_of(session, requester_pays=True)
    assert (found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]) == ("key", "secret")
    assert (found["AWS_REGION"], found["ROS_TO_PARQUET_REQUEST_PAYER"]) == ("eu-west-1", "requester")
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(found)


def test_a_plan_with_a_look_into_each_drive(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = write_mcap(tmp_path / "x.mcap", "my_msgs/msg/Thing", [b"\0\1\0\0abcd"] * 3)
    put(shell.s3, shell.bucket, "odd/x.mcap", body=odd.read_bytes())
    put(shell.s3, shell.bucket, "cut/x.bag", body=cut_off(ros1_bag(messages=2000)))
    put(shell.s3, shell.bucket, "broken/x.bag", body=UNREADABLE)
    drives = ("one", "odd", "cut", "broken")
    words = ("plan", "--conf", shell.conf(*drives), "--job-definition", "test-good", "--sample")
    with counted_calls(monkeypatch) as calls:
        done = shell.run(*words, "--json")
    assert done.code == 1
    assert not {"PutObject", "SubmitJob"} & set(calls)
    found = {drive["drive_id"]: drive["sample"] for drive in done.json["drives"]}
    assert found["one"]["problems"] == []
    (topic,) = found["one"]["sample"]["topics"]
    assert (topic["topic"], topic["messages"], topic["sampled"]) == ("/temperature", 20, 20)
    (unknown,) = found["odd"]["problems"]
    assert unknown.startswith("topic /topic: type my_msgs/msg/Thing: the bag holds no definition of it")
    assert found["odd"]["sample"]["topics"][0]["unknown"]
    assert any(text.startswith("bag x.bag: ") for text in found["cut"]["problems"])
    assert found["cut"]["sample"]["topics"][0]["sampled"] > 0
    assert found["broken"]["problems"]
    lines = done.err.splitlines()
    assert any(line.startswith("one: a.bag: 19 s looked at, ") for line in lines)
    assert "    /temperature (sensor_msgs/Temperature): 20 messages in the bag" in [
        line.replace("sensor_msgs/msg/", "sensor_msgs/") for line in lines
    ]
    good = shell.run("plan", "--conf", shell.conf("one"), "--job-definition", "test-good", "--sample")
    assert good.code == 0
    monkeypatch.setattr(sampling, "ENGINE_MODULES", ("no_such_module",))
    none = shell.run(*words)
    assert (none.code, "pip install 'ros-to-parquet[engine]'" in none.err) == (2, True)
