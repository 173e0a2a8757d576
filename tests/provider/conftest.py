"""A real S3 server and a real Batch API for the provider's tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Client]:
    from airflow_batch_ros.local import seaweed

    folder = tmp_path_factory.mktemp("s3")
    server = seaweed.start(
        folder / "data",
        seaweed.Credentials("key", "secret-key"),
        ports=seaweed.choose_ports({}),
        log=folder / "log",
    )
    try:
        seaweed.wait_until_ready(server)
        yield boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id="key",
            aws_secret_access_key="secret-key",
            region_name="us-east-1",
        )
    finally:
        seaweed.stop(server)


@pytest.fixture
def bucket(s3: S3Client) -> str:
    """A new and empty bucket."""
    name = f"bucket-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name
