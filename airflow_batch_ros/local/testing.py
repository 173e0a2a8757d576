"""Pytest fixtures over the embedded AWS; a ``conftest.py`` imports those that it offers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_batch_ros.local import EmbeddedAws, ServerOptions

__all__ = ["embedded_aws", "faulty_aws"]


@pytest.fixture(scope="session")
def embedded_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """One embedded AWS for all tests of a session, in a folder of its own; jobs run the engine.

    Jobs end five seconds after SIGTERM, and their time-outs may be as short as a second.
    """
    options = ServerOptions(kill_grace_s=5.0, minimum_timeout_s=1)
    with EmbeddedAws(tmp_path_factory.mktemp("embedded-aws"), options=options) as aws:
        yield aws


@pytest.fixture(scope="session")
def faulty_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """Another one, whose S3 too fails on purpose where a test says so: ``with faulty_aws.faults(...)``."""
    options = ServerOptions(kill_grace_s=5.0, minimum_timeout_s=1, s3_faults=True)
    with EmbeddedAws(tmp_path_factory.mktemp("faulty-aws"), options=options) as aws:
        yield aws
