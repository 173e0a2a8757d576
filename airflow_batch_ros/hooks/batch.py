"""The AWS clients of one connection, set up for what this provider does with them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

from airflow_batch_ros.clients import ONCE, PATIENT, PERSISTENT, client_config

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client


class RosToParquetBatchHook(AwsBaseHook):
    """S3 and Batch clients of an AWS connection (``endpoint_url`` and ``service_config`` are honoured).

    :param aws_conn_id: the Airflow connection; None for boto3's own way to find credentials.
    :param region_name: wins over the connection's.
    """

    def __init__(self, aws_conn_id: str | None = "aws_default", region_name: str | None = None) -> None:
        super().__init__(aws_conn_id=aws_conn_id, region_name=region_name, client_type="batch")

    @cached_property
    def batch(self) -> BatchClient:
        """For reading and terminating: throttled requests are tried again, ever more slowly."""
        client: BatchClient = _client(self, PATIENT)
        return client

    @cached_property
    def submitter(self) -> BatchClient:
        """For SubmitJob, which has no idempotency token: each request is sent once."""
        client: BatchClient = _client(self, ONCE, override=True)
        return client

    @cached_property
    def s3(self) -> S3Client:
        """For plans and manifests."""
        client: S3Client = self._other("s3")
        return client

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        """For the last lines of shards that failed."""
        client: CloudWatchLogsClient = self._other("logs")
        return client

    @cached_property
    def cloudformation(self) -> CloudFormationClient:
        """For the outputs of a stack."""
        client: CloudFormationClient = self._other("cloudformation")
        return client

    @cached_property
    def sqs(self) -> Any:
        """For the messages of drives that arrive."""
        return self._other("sqs")

    def _other(self, service: str) -> Any:
        hook = AwsBaseHook(aws_conn_id=self.aws_conn_id, region_name=self._region_name, client_type=service)
        return _client(hook, PERSISTENT)


def _client(hook: AwsBaseHook, retries: Any, *, override: bool = False) -> Any:
    own = client_config(retries)
    # Of two configs the merged-in one wins, where it says anything: else the connection's.
    merged = hook.config.merge(own) if override else own.merge(hook.config)
    return hook.get_client_type(region_name=hook.region_name, config=merged)
