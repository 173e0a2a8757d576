"""What a network neighbour can reach of the embedded AWS: nothing."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import urlsplit

import pytest

from airflow_batch_ros.local import EmbeddedAws
from tests.local.sockets import descendants, listening

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_sockets_are_seen_as_they_are() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("0.0.0.0", 0)) as all_of_them:
        found = {(str(address), port) for address, port in listening([os.getpid()])}
        assert found >= {("127.0.0.1", one.getsockname()[1]), ("0.0.0.0", all_of_them.getsockname()[1])}
    if socket.has_dualstack_ipv6():
        with socket.create_server(("::", 0), family=socket.AF_INET6) as six:
            assert ("::", six.getsockname()[1]) in {(str(at), port) for at, port in listening([os.getpid()])}


def test_all_of_it_listens_on_loopback_alone(aws: EmbeddedAws) -> None:
    """S3 with its master, volume and filer servers, each with its gRPC port; Batch, logs and pages."""
    server = aws.server
    processes = descendants(server.pid)
    assert len(processes) > 1, "SeaweedFS is a process of its own"
    found = listening(processes)
    assert not [each for each in found if not each[0].is_loopback]
    ports = {urlsplit(url).port for url in (server.endpoint_url, server.s3_endpoint_url)}
    assert ports < {port for _, port in found}
    assert len(found) >= 9
