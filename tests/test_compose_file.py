"""What docker-compose.yaml opens to others, read from the file: tests/container runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent.parent / "docker-compose.yaml").read_text()
)["services"]


def test_ports_are_published_on_loopback_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"aws", "api-server"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert not [name for name, service in SERVICES.items() if service.get("network_mode") == "host"]


def test_one_service_alone_has_the_socket_which_is_as_good_as_root() -> None:
    having = [
        name
        for name, service in SERVICES.items()
        if any("docker.sock" in str(each) for each in service.get("volumes", ()))
    ]
    assert having == ["aws"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_rights_that_they_do_not_need(name: str) -> None:
    service = SERVICES[name]
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    # Those two begin as root, to go on as users of their own.
    needed = {
        "aws": ["SETGID", "SETUID"],
        "postgres": ["CHOWN", "DAC_READ_SEARCH", "FOWNER", "SETGID", "SETUID"],
    }
    assert service.get("cap_add", []) == needed.get(name, [])
