"""Drives that arrive: what markers and messages say of them, and the trigger on a real queue."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_batch_ros.arrivals import StoredObject, created_objects, drive_id_of, drive_of, marked_drives
from airflow_batch_ros.conf import MAX_DRIVE_ID_LENGTH, parse_conf
from airflow_batch_ros.triggers import arrivals as triggers
from airflow_batch_ros.triggers.arrivals import NewDrivesTrigger
from tests.provider.builders import put

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws


def s3_message(*keys: str, bucket: str = "raw", event: str = "ObjectCreated:Put") -> str:
    """What S3 sends to a queue; keys as it writes them."""
    records = [
        {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}} for key in keys
    ]
    return json.dumps({"Records": records})


EVENT_BRIDGE = {
    "detail-type": "Object Created",
    "source": "aws.s3",
    "detail": {"bucket": {"name": "raw"}, "object": {"key": "a b/_COMPLETE"}},
}


@pytest.mark.parametrize(
    ("body", "objects"),
    [
        (s3_message("a+b/_COMPLETE", "c%2Bd/x.bag"), ["a b/_COMPLETE", "c+d/x.bag"]),
        (s3_message("a/_COMPLETE", event="s3:ObjectCreated:CompleteMultipartUpload"), ["a/_COMPLETE"]),
        (s3_message("a/_COMPLETE", event="ObjectRemoved:Delete"), []),
        (json.dumps({"Type": "Notification", "Message": s3_message("a/_COMPLETE")}), ["a/_COMPLETE"]),
        (json.dumps(EVENT_BRIDGE), ["a b/_COMPLETE"]),
        (json.dumps({**EVENT_BRIDGE, "detail-type": "Object Deleted"}), []),
        (json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "raw"}), []),
    ],
)
def test_messages_of_s3(body: str, objects: list[str]) -> None:
    assert created_objects(body) == [StoredObject("raw", key) for key in objects]


@pytest.mark.parametrize(
    "body",
    [
        *("hello", "3", "{}", '{"Records": [{"eventName": 3}]}', '{"Records": 1}', '{"secret": "4711"}'),
        "[" * 200_000,
        json.dumps({**EVENT_BRIDGE, "detail": {"bucket": {"name": "raw"}, "object": {"key": 4711}}}),
        json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {}}}]}),
    ],
)
def test_other_messages_are_refused(body: str) -> None:
    with pytest.raises(ValueError) as caught:
        created_objects(body)
    assert "4711" not in str(caught.value), "what it says is somebody else's; the reason is logged"


def test_a_marker_stands_for_its_folder() -> None:
    assert drive_of(StoredObject("raw", "x/car_7/_COMPLETE")) == {
        "raw.x.car_7": {"bucket": "raw", "prefix": "x/car_7/"}
    }
    assert drive_of(StoredObject("raw", "x/car_7/a.bag")) == {}
    assert drive_of(StoredObject("raw", "x/not_COMPLETE")) == {}
    assert drive_of(StoredObject("raw", "_COMPLETE")) == {"raw": {"bucket": "raw", "prefix": ""}}
    assert list(drive_of(StoredObject("raw", "x/done.txt"), name="done.txt")) == ["raw.x"]
    ids = {each for bucket in ("raw", "raw2") for each in drive_of(StoredObject(bucket, "x/_COMPLETE"))}
    assert len(ids) == 2, "equal folders of two buckets are two drives"


def test_each_folder_has_a_drive_id_of_its_own() -> None:
    folders = [
        "a/b",
        "a.b",
        "a b",
        "a_b",
        "a//b",
        "_a",
        "-",
        "ä",
        "x" * 100,
        "x" * 101,
        "y" + "x" * 100,
        "/a",
    ]
    ids = {drive_id_of(folder) for folder in folders}
    assert len(ids) == len(folders)
    assert max(map(len, ids)) == MAX_DRIVE_ID_LENGTH
    parse_conf(
        {"drives_to_process": {each: {"bucket": "raw", "prefix": f"{n}/"} for n, each in enumerate(ids)}}
    )
    assert drive_id_of("2026-11-20/car_7") == "2026-11-20.car_7"


def test_markers_of_an_interval(s3: S3Client, bucket: str) -> None:
    put(s3, bucket, "in/one/a.bag", "in/one/_COMPLETE", "in/two/a.bag", "out/three/_COMPLETE")
    written = s3.head_object(Bucket=bucket, Key="in/one/_COMPLETE")["LastModified"]
    second = timedelta(seconds=1)
    one = {f"{bucket}.in.one": {"bucket": bucket, "prefix": "in/one/"}}
    assert marked_drives(s3, bucket, "in/", since=written, before=written + second) == one
    assert marked_drives(s3, bucket, "in/", since=written - second, before=written) == {}


# --- the trigger ------------------------------------------------------------------------------------


@pytest.fixture
def queue(aws: EmbeddedAws, bucket: str) -> tuple[Any, str]:
    """A client and a queue's URL."""
    sqs = aws.client("sqs")
    return sqs, sqs.create_queue(QueueName=bucket, Attributes={"VisibilityTimeout": "0"})["QueueUrl"]


def left(sqs: Any, url: str) -> int:
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    return int(found["Attributes"]["ApproximateNumberOfMessages"])


def test_the_trigger_is_what_it_was_made_of() -> None:
    trigger = NewDrivesTrigger(queue_url="https://sqs/q", marker="done", aws_conn_id="a", region_name="r")
    path, arguments = trigger.serialize()
    assert path == "airflow_batch_ros.triggers.arrivals.NewDrivesTrigger"
    assert arguments == {
        "queue_url": "https://sqs/q",
        "marker": "done",
        "aws_conn_id": "a",
        "region_name": "r",
    }
    assert NewDrivesTrigger(**arguments).serialize() == (path, arguments)
    assert isinstance(trigger, BaseTrigger)


@pytest.mark.airflow
def test_the_trigger_fires_once_for_each_marker(
    airflow_database: None,
    queue: tuple[Any, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sqs, url = queue
    monkeypatch.setattr(triggers, "LONG_POLL_S", 0)
    monkeypatch.setattr(triggers, "KEPT_S", 0)
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    sqs.send_message(QueueUrl=url, MessageBody=s3_message("a/x.bag"))
    sqs.send_message(QueueUrl=url, MessageBody=s3_message("a/_COMPLETE", "b/_COMPLETE"))
    a, b = ({f"raw.{name}": {"bucket": "raw", "prefix": f"{name}/"}} for name in "ab")

    async def story() -> None:
        trigger = NewDrivesTrigger(queue_url=url)
        run = trigger.run()
        event = await anext(run)
        assert event.payload == {"drives_to_process": {**a, **b}}
        assert left(sqs, url) == 3, "until the event is kept, its message is"
        # An event for each further message shows that the messages before it are dealt with.
        sqs.send_message(QueueUrl=url, MessageBody=s3_message("b/_COMPLETE"))
        assert (await anext(run)).payload == {"drives_to_process": b}
        await run.aclose()
        assert left(sqs, url) == 2, "what is not S3's, and the last one, whose event nobody has kept"

    asyncio.run(story())


@pytest.mark.airflow
def test_the_trigger_outlives_a_queue_that_cannot_be_asked(
    airflow_database: None,
    queue: tuple[Any, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sqs, url = queue
    monkeypatch.setattr(triggers, "LONG_POLL_S", 0)
    sqs.delete_queue(QueueUrl=url)

    async def mended(seconds: float) -> None:
        assert seconds == triggers.PAUSE_S
        assert sqs.create_queue(QueueName=url.rpartition("/")[2])["QueueUrl"] == url
        sqs.send_message(QueueUrl=url, MessageBody=s3_message("a/_COMPLETE"))

    monkeypatch.setattr(triggers.asyncio, "sleep", mended)

    async def story() -> Any:
        return (await anext(NewDrivesTrigger(queue_url=url).run())).payload

    assert list(asyncio.run(story())["drives_to_process"]) == ["raw.a"]
