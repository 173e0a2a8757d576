"""An AWS that fails on purpose, and this process' way to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_batch_ros.clients import Clients, open_session
from airflow_batch_ros.local import EmbeddedAws, ServerOptions
from airflow_batch_ros.local.batch_stack import RETRY_STRATEGY
from ros_to_parquet.storage import s3 as s3_module

ENGINE = Path(__file__).with_name("engine.py")
DEFINITION = "faults"


@pytest.fixture(scope="package")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """Its jobs ask S3 once for what they want, so that a test need not wait for the client's patience."""
    options = ServerOptions(
        entrypoint=(sys.executable, str(ENGINE)), slots=4, kill_grace_s=1.0, s3_faults=True
    )
    with EmbeddedAws(tmp_path_factory.mktemp("aws"), buckets=["raw", "lake"], options=options) as running:
        running.client("batch").register_job_definition(
            jobDefinitionName=DEFINITION,
            type="container",
            containerProperties={
                "image": "ros-to-parquet",
                "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}],
                "environment": [{"name": "AWS_MAX_ATTEMPTS", "value": "1"}],
            },
            retryStrategy={**RETRY_STRATEGY, "attempts": 2},
        )
        yield running


@pytest.fixture(scope="package")
def clients(aws: EmbeddedAws) -> Iterator[Clients]:
    """As the command line has them; the engine in this process reaches the same S3."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environment().items():
            patch.setenv(name, value)
        patch.setattr(s3_module, "_client", None)
        yield Clients(open_session())
