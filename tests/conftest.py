"""Fixtures for all tests."""

import signal

from airflow_batch_ros.local.testing import embedded_aws, faulty_aws

__all__ = ["embedded_aws", "faulty_aws"]

# What a shell starts in the background ignores Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
