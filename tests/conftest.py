"""Fixtures for all tests."""

import signal

import pytest

from airflow_batch_ros.local.testing import embedded_aws, faulty_aws

__all__ = ["embedded_aws", "faulty_aws"]

# What a shell starts in the background ignores Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Names bytes by their place: an archive's have the time of day in them, and processes have to agree."""
    return argname if isinstance(val, bytes) else None
