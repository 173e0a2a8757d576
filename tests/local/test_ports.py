"""Ports that are lost between choosing them and listening on them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_batch_ros import cli
from airflow_batch_ros.local import EmbeddedAws, LocalAwsError, seaweed
from airflow_batch_ros.local.processes import choose_port, listen
from airflow_batch_ros.local.seaweed import PortLostError
from airflow_batch_ros.local.server import _start_store
from airflow_batch_ros.local.state import Credentials, StateFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")

ELSEWHERE = "127.0.0.2"
"""Where a port may be taken that is free on 127.0.0.1, by which ports are chosen: chosen, it is lost."""

CREDENTIALS = Credentials("key", "secret")


@pytest.fixture
def lost() -> Iterator[int]:
    port = choose_port(0, remembered=0)
    with socket.create_server((ELSEWHERE, port)):
        yield port


def test_another_port_is_listened_on_where_the_chosen_one_is_lost(lost: int) -> None:
    assert choose_port(0, remembered=lost) == lost
    with listen(ELSEWHERE, 0, remembered=lost) as other:
        address, port = other.getsockname()
        assert address == ELSEWHERE
        assert port != lost
        socket.create_connection((address, port)).close()


def test_a_port_that_was_asked_for_is_refused_in_words(lost: int) -> None:
    with pytest.raises(OSError, match=f"^port {lost} is taken; choose another one, or 0 for any$"):
        listen(ELSEWHERE, lost, remembered=0)


@pytest.mark.parametrize("name", ["s3", "master.grpc"])
def test_the_store_says_that_a_port_is_lost(tmp_path: Path, name: str) -> None:
    ports = seaweed.choose_ports({})
    with socket.create_server(("127.0.0.1", ports[name])):
        store = seaweed.start(
            tmp_path / "s3",
            CREDENTIALS,
            ports=ports,
            host="127.0.0.1",
            bind_address="127.0.0.1",
            log=tmp_path / "log",
        )
        try:
            with pytest.raises(PortLostError, match="SeaweedFS ended with exit code"):
                seaweed.wait_until_ready(store)
        finally:
            seaweed.stop(store)


def test_the_store_starts_on_other_ports_where_one_is_lost(tmp_path: Path, lost: int) -> None:
    with ExitStack() as ends:
        store = _start_store(
            StateFolder(tmp_path),
            CREDENTIALS,
            {"s3": lost},
            ends=ends,
            host=ELSEWHERE,
            bind_address=ELSEWHERE,
        )
        assert store.ports["s3"] != lost
        socket.create_connection((ELSEWHERE, store.ports["s3"])).close()
    assert store.process.returncode is not None


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
@pytest.mark.parametrize("flag", ["--port", "--s3-port"])
def test_what_is_no_port_is_refused(flag: str, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["local", "up", flag, port])
    assert f"a whole number from 0 to 65535 is expected, not '{port}'" in capsys.readouterr().err


def test_a_file_is_no_state_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(LocalAwsError, match="cannot be its folder: "):
            EmbeddedAws(path).start()
