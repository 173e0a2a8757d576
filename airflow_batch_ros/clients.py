"""AWS clients, set up for what this package does with them; Airflow's hook takes the same settings."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client

MAX_ATTEMPTS = 10
"""Tries of one request before its error is raised; what an Airflow connection says wins."""

PATIENT: Any = {"mode": "adaptive", "total_max_attempts": MAX_ATTEMPTS}
"""Throttled requests are tried again, ever more slowly."""

PERSISTENT: Any = {"mode": "standard", "total_max_attempts": MAX_ATTEMPTS}

ONCE: Any = {"mode": "standard", "total_max_attempts": 1}
"""For SubmitJob, which has no idempotency token."""

MAX_CONNECTIONS = 64
"""To one service: more threads than that ask at a time nowhere here."""

SESSION_NAME = "airflow-batch-ros"


def client_config(retries: Any) -> Config:
    return Config(retries=retries, max_pool_connections=MAX_CONNECTIONS, connect_timeout=10, read_timeout=60)


class Clients:
    """Clients of one boto3 session, each made when it is first used."""

    def __init__(self, session: boto3.Session) -> None:
        self.session = session

    @cached_property
    def batch(self) -> BatchClient:
        """For reading and terminating."""
        return self.session.client("batch", config=client_config(PATIENT))

    @cached_property
    def submitter(self) -> BatchClient:
        """For SubmitJob alone."""
        return self.session.client("batch", config=client_config(ONCE))

    @cached_property
    def s3(self) -> S3Client:
        """For listings, plans and manifests."""
        return self.session.client("s3", config=client_config(PERSISTENT))

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        return self.session.client("logs", config=client_config(PATIENT))

    @cached_property
    def cloudformation(self) -> CloudFormationClient:
        return self.session.client("cloudformation", config=client_config(PERSISTENT))


def open_session(
    *, region: str | None = None, profile: str | None = None, role_arn: str | None = None
) -> boto3.Session:
    """A session of boto3's own way to find region and credentials, but for what is said here.

    The role's credentials are got when they are first needed, and again before they expire.
    """
    session = boto3.Session(region_name=region, profile_name=profile)
    return session if role_arn is None else _assume_role(session, role_arn)


def _assume_role(source: boto3.Session, role_arn: str) -> boto3.Session:
    import botocore.session
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
    from botocore.exceptions import NoCredentialsError

    credentials = source.get_credentials()
    if credentials is None:
        raise NoCredentialsError

    def client(service: str, **arguments: Any) -> Any:
        arguments.pop("region_name", None)
        keys = {
            name: arguments[name]
            for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
            if name in arguments
        }
        return source.client(service, config=client_config(PERSISTENT), **keys)  # type: ignore[call-overload]

    fetcher = AssumeRoleCredentialFetcher(
        client_creator=client,
        source_credentials=credentials,
        role_arn=role_arn,
        extra_args={"RoleSessionName": SESSION_NAME},
    )
    assumed = botocore.session.Session(
        profile=source.profile_name if source.profile_name != "default" else None
    )
    # botocore has no public way to give a session credentials that renew themselves.
    assumed._credentials = DeferredRefreshableCredentials(  # type: ignore[attr-defined]
        refresh_using=fetcher.fetch_credentials, method="assume-role"
    )
    return boto3.Session(botocore_session=assumed, region_name=source.region_name)
