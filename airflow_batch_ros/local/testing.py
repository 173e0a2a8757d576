"""A pytest fixture over the embedded AWS; a ``conftest.py`` imports `embedded_aws` to offer it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_batch_ros.local import EmbeddedAws, ServerOptions

__all__ = ["embedded_aws"]


@pytest.fixture(scope="session")
def embedded_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """One embedded AWS for all tests of a session, in a folder of its own; jobs run the engine.

    Jobs end five seconds after SIGTERM, and their time-outs may be as short as a second.
    """
    options = ServerOptions(kill_grace_s=5.0, minimum_timeout_s=1)
    with EmbeddedAws(tmp_path_factory.mktemp("embedded-aws"), options=options) as aws:
        yield aws
