"""The process behind an embedded AWS: SeaweedFS as its child, moto's server in it, jobs as its children.

Started by `stack` as ``python -m airflow_batch_ros.local.server SETTINGS`` with the settings as JSON. It
ends on SIGTERM, or when its standard input closes (so with its parent, unless detached), or when
SeaweedFS ends; its children end with it even when it is killed.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.local import batch_stack, seaweed
from airflow_batch_ros.local.faults import FaultBoard
from airflow_batch_ros.local.processes import PORT_TRIES, FileLock, listen, start_time
from airflow_batch_ros.local.runners import ProcessRunner
from airflow_batch_ros.local.seaweed import PortLostError, Seaweed
from airflow_batch_ros.local.state import (
    EXIT_ALREADY_RUNNING,
    ContainerOptions,
    Credentials,
    Kept,
    LocalAwsError,
    RunningServer,
    ServerOptions,
    StateFolder,
    read_kept,
    write_kept,
    write_running,
)

if TYPE_CHECKING:
    from airflow_batch_ros.local.containers import ContainerRunner

_LOOPBACK = "127.0.0.1"
_PASSED_ON = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""Of the user's environment, what jobs see."""


def main(argv: list[str] | None = None) -> int:
    settings = json.loads((argv or sys.argv[1:])[0])
    options = _parse_options(settings["options"])
    state = StateFolder(Path(settings["state_dir"]))
    lock = FileLock(state.lock)
    if not lock.acquire():
        return EXIT_ALREADY_RUNNING
    end: queue.SimpleQueue[str] = (
        queue.SimpleQueue()
    )  # of all that could be used, it may be put to by a signal
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: end.put(f"signal {number}"))
    if not settings["detached"]:
        threading.Thread(target=_end_with_input, args=(end,), daemon=True).start()
    try:
        _serve(state, options, end)
    except (LocalAwsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parse_options(raw: dict[str, Any]) -> ServerOptions:
    credentials = raw["credentials"] and Credentials(**raw["credentials"])
    containers = raw["containers"] and ContainerOptions(**raw["containers"])
    parsed = {"entrypoint": tuple(raw["entrypoint"]), "credentials": credentials, "containers": containers}
    return ServerOptions(**raw | parsed)


def _end_with_input(end: queue.SimpleQueue[str]) -> None:
    while os.read(0, 4096):
        pass
    end.put("the parent ended")


def _serve(state: StateFolder, options: ServerOptions, end: queue.SimpleQueue[str]) -> None:
    state.running.unlink(missing_ok=True)
    shutil.rmtree(state.scratch, ignore_errors=True)
    state.scratch.mkdir()
    kept = read_kept(state)
    write_kept(state, kept)  # before anything is started that its owner has to be known for
    with ExitStack() as ends:
        ends.callback(shutil.rmtree, state.scratch, ignore_errors=True)
        runner: ProcessRunner | ContainerRunner
        if options.containers is None:
            runner = ProcessRunner(options.entrypoint, _base_environment(), state.scratch)
            host = job_host = _LOOPBACK
            jobs = "processes"
        else:
            from airflow_batch_ros.local.containers import ContainerRunner

            runner = ContainerRunner(options.containers, owner=kept.owner)
            ends.callback(runner.close)
            job_host = runner.host
            host = _LOOPBACK if options.containers.network else job_host
            jobs = f"containers of {options.containers.image}"
        bind_address = "0.0.0.0" if options.all_interfaces else host
        listener = ends.enter_context(listen(bind_address, options.port, remembered=kept.port))
        port = listener.getsockname()[1]
        credentials = options.credentials or kept.credentials
        board = FaultBoard()
        proxy_port = 0
        if options.s3_faults:
            from airflow_batch_ros.local.s3_proxy import S3Proxy

            s3_listener = ends.enter_context(
                listen(bind_address, options.s3_port, remembered=kept.s3_proxy_port)
            )
            proxy_port = s3_listener.getsockname()[1]
            store = _start_store(state, credentials, kept.s3_ports, ends=ends)
            proxy = S3Proxy(board, listener=s3_listener, store=(_LOOPBACK, store.ports["s3"]))
            ends.callback(proxy.close)
        else:
            store = _start_store(
                state,
                credentials,
                kept.s3_ports,
                ends=ends,
                host=host,
                bind_address=bind_address,
                s3_port=options.s3_port,
            )
        s3_port = proxy_port or store.ports["s3"]
        from airflow_batch_ros.local.moto_server import MotoServer

        aws = MotoServer(
            options,
            runner,
            board,
            host=host,
            job_host=job_host,
            listener=listener,
            client_environment=_client_environment(credentials, f"http://{job_host}:{s3_port}"),
        )
        ends.callback(aws.close)
        ends.callback(state.running.unlink, missing_ok=True)
        server = RunningServer(
            pid=os.getpid(),
            started=start_time(os.getpid()) or "",
            started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            endpoint_url=aws.url,
            s3_endpoint_url=f"http://{host}:{s3_port}",
            s3_faults=options.s3_faults,
            region=options.region,
            slots=aws.slots,
            jobs=jobs,
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
        )
        aws.open_console(server.client)
        batch_stack.make_queue(server.client)
        seaweed.reclaim_space(store)
        write_kept(state, Kept(credentials, kept.owner, port, store.ports, proxy_port or kept.s3_proxy_port))
        write_running(state, server)
        _wait_for_end(store, end)


def _start_store(
    state: StateFolder,
    credentials: Credentials,
    remembered: Mapping[str, int],
    *,
    ends: ExitStack,
    host: str = _LOOPBACK,
    bind_address: str = _LOOPBACK,
    s3_port: int = 0,
) -> Seaweed:
    """SeaweedFS, which answers and ``ends`` stops; on other ports where one was lost before it listened.

    Raises:
        LocalAwsError: it does not start.
        OSError: ``s3_port`` is taken.
    """
    tries_left = PORT_TRIES
    while True:
        store = seaweed.start(
            state.s3,
            credentials,
            ports=seaweed.choose_ports(remembered, s3_port=s3_port),
            host=host,
            bind_address=bind_address,
            log=state.seaweed_log,
        )
        ends.callback(seaweed.stop, store)
        # It takes a second, in which SeaweedFS starts.
        import airflow_batch_ros.local.moto_server  # noqa: F401

        tries_left -= 1
        try:
            seaweed.wait_until_ready(store)
        except PortLostError:
            if not tries_left:
                raise
            remembered = {}
        else:
            return store


def _wait_for_end(store: Seaweed, end: queue.SimpleQueue[str]) -> None:
    while True:
        try:
            end.get(timeout=0.5)
        except queue.Empty:
            code = store.process.poll()
            if code is not None:
                raise LocalAwsError(f"SeaweedFS ended with exit code {code}: see {store.log}") from None
        else:
            return


def _base_environment() -> dict[str, str]:
    """What jobs find beside their own environment; like the image's, it has output reach the log at once."""
    programs = Path(sys.executable).parent
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    }


def _client_environment(credentials: Credentials, s3_url: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_ENDPOINT_URL_S3": s3_url,
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    exit_code = main()
    sys.stderr.flush()
    os._exit(exit_code)  # all is ended and written; taking moto down in good order takes most of a second
