"""Fixtures for all tests."""

from airflow_batch_ros.local.testing import embedded_aws, faulty_aws

__all__ = ["embedded_aws", "faulty_aws"]
