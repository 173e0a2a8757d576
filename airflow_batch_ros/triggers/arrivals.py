"""The trigger that starts DAGs when drives arrive, by the messages that S3 sends to an SQS queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from airflow.triggers import base
from airflow.triggers.base import TriggerEvent
from botocore.exceptions import BotoCoreError, ClientError

from airflow_batch_ros.arrivals import MARKER, created_objects, drive_of
from airflow_batch_ros.hooks.batch import RosToParquetBatchHook
from airflow_batch_ros.triggers.batch import in_thread

MAX_MESSAGES = 10
"""That SQS hands out at a time."""

LONG_POLL_S = 10
"""Seconds that SQS waits for a message; a triggerer that stops waits for them too."""

KEPT_S = 5.0
"""Between an event and the end of its messages, for the triggerer to save it: a triggerer that ends before
that leaves the messages in the queue, and the next one fires again."""

PAUSE_S = 30.0
"""Before SQS is asked again where it could not be."""

# Airflow 2 has no assets that are watched.
_EventTrigger: Any = getattr(base, "BaseEventTrigger", base.BaseTrigger)


class NewDrivesTrigger(_EventTrigger):  # type: ignore[misc]
    """Fires when markers of drives were written to S3: ``{"drives_to_process": {id: {bucket, prefix}}}``.

    For an `AssetWatcher` (Airflow 3); `airflow_batch_ros.assets.arrived_drives` reads its events. S3 sends
    the messages when it is set to notify the queue of created objects, itself or by SNS or EventBridge.
    Messages that are none of S3's stay in the queue, for its dead-letter queue.

    :param queue_url: the SQS queue.
    :param marker: name of the object that is written last to a drive's folder; others are passed over.
    :param aws_conn_id: AWS connection for SQS.
    :param region_name: wins over the connection's region.
    """

    def __init__(
        self,
        *,
        queue_url: str,
        marker: str = MARKER,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
    ) -> None:
        super().__init__()
        self.queue_url = queue_url
        self.marker = marker
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "queue_url": self.queue_url,
                "marker": self.marker,
                "aws_conn_id": self.aws_conn_id,
                "region_name": self.region_name,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        sqs = None
        while True:
            try:
                if sqs is None:
                    sqs = await in_thread(self._sqs)
                messages = await in_thread(partial(self._receive, sqs))
            except (ClientError, BotoCoreError) as error:
                self.log.error("queue %s could not be asked: %s", self.queue_url, error)
                sqs = None  # what was wrong may be the connection
                await asyncio.sleep(PAUSE_S)
                continue
            drives, understood = self._read(messages)
            if drives:
                self.log.info("new drives: %s", ", ".join(drives))
                yield TriggerEvent({"drives_to_process": drives})  # type: ignore[no-untyped-call]
                await asyncio.sleep(KEPT_S)
            if understood:
                await in_thread(partial(self._delete, sqs, understood))

    def _read(
        self, messages: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, dict[str, str]], list[dict[str, Any]]]:
        """The drives that messages tell of, and the messages that were S3's."""
        drives: dict[str, dict[str, str]] = {}
        understood = []
        for message in messages:
            try:
                objects = created_objects(message["Body"])
            except ValueError as error:
                self.log.warning("message %s stays in the queue: %s", message["MessageId"], error)
                continue
            understood.append(message)
            for each in objects:
                drives |= drive_of(each, name=self.marker)
        return drives, understood

    def _receive(self, sqs: Any) -> list[dict[str, Any]]:
        answer = sqs.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=MAX_MESSAGES, WaitTimeSeconds=LONG_POLL_S
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        return messages

    def _delete(self, sqs: Any, messages: Sequence[dict[str, Any]]) -> None:
        entries = [
            {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]}
            for place, message in enumerate(messages)
        ]
        try:
            failed = sqs.delete_message_batch(QueueUrl=self.queue_url, Entries=entries).get("Failed", [])
        except (ClientError, BotoCoreError) as error:
            failed = [error]
        for each in failed:
            self.log.error("a message was not deleted, so it will come again: %s", each)

    def _sqs(self) -> Any:
        return RosToParquetBatchHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name).sqs
