"""moto's server on loopback, with Batch jobs run for real."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from airflow_batch_ros.local import api_faults, console, moto_batch, moto_cloudformation
from airflow_batch_ros.local.batch_jobs import BatchEngine
from airflow_batch_ros.local.faults import FaultBoard
from airflow_batch_ros.local.runners import Runner
from airflow_batch_ros.local.state import ServerOptions

_METADATA_PATH = "/ecs-metadata/v4"


class MotoServer:
    """Serves from construction to `close`; one a process, for moto's state is global.

    It answers what comes to ``listener``: others reach it as ``host``, jobs as ``job_host``.
    """

    def __init__(
        self,
        options: ServerOptions,
        runner: Runner,
        board: FaultBoard,
        *,
        host: str,
        job_host: str,
        listener: socket.socket,
        client_environment: Mapping[str, str],
    ) -> None:
        self._region = options.region
        self._board = board
        self._console_client: console.Client | None = None
        self._moto = DomainDispatcherApplication(create_backend_app)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
        address, port = listener.getsockname()
        with listener:  # the server has a copy of its own
            self._server = make_server(
                address,
                port,
                self._answer,
                threaded=True,
                request_handler=MotoRequestHandler,
                fd=listener.fileno(),
            )
        self.url = f"http://{host}:{port}"
        job_url = f"http://{job_host}:{port}"
        self.slots = options.slots or os.cpu_count() or 1
        self._engine = BatchEngine(
            slots=self.slots,
            runner=runner,
            metadata_url=f"{job_url}{_METADATA_PATH}",
            kill_grace_s=options.kill_grace_s,
            board=board,
        )
        moto_batch.install(
            self._engine,
            minimum_timeout_s=options.minimum_timeout_s,
            client_environment={"AWS_ENDPOINT_URL": job_url, **client_environment},
        )
        moto_cloudformation.install()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="moto", daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        if path.startswith(f"{_METADATA_PATH}/"):
            return self._container_metadata(path.rpartition("/")[2])(environ, start_response)
        if path.startswith(f"{console.BASE_PATH}/") and path != console.VIEW_PATH:
            return Response(console.PAGE, mimetype="text/html")(environ, start_response)
        if _is_of_another_site(environ):
            return Response("not for web pages of others\n", status=403)(environ, start_response)
        if path == console.VIEW_PATH:
            return self._console_view(environ)(environ, start_response)
        if path == api_faults.PATH:
            return api_faults.control(self._board, environ)(environ, start_response)
        return api_faults.answer(self._board, self._moto, environ, start_response)

    def open_console(self, client: console.Client) -> None:
        """Answer the console's pages, with what ``client`` finds."""
        self._console_client = console.cached(client)

    def _console_view(self, environ: dict[str, Any]) -> Response:
        if self._console_client is None:
            return Response("<h1>Starting</h1>", mimetype="text/html", status=503)
        asked = {key: values[0] for key, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        view = console.render(
            self._console_client,
            path=asked.get("path", ""),
            query=asked.get("query", ""),
            fragment=asked.get("fragment", ""),
        )
        return Response(view, mimetype="text/html")

    def _container_metadata(self, attempt_id: str) -> Response:
        """What the ECS agent tells a container about itself (task metadata endpoint, version 4), in part."""
        stream = self._engine.log_stream(attempt_id)
        if stream is None:
            return Response(status=404)
        options = {
            "awslogs-group": moto_batch.LOG_GROUP,
            "awslogs-stream": stream,
            "awslogs-region": self._region,
        }
        metadata = {"DockerId": attempt_id, "LogDriver": "awslogs", "LogOptions": options}
        return Response(json.dumps(metadata), mimetype="application/json")

    def close(self) -> None:
        """End all jobs, then stop answering."""
        self._engine.close()
        self._server.shutdown()
        self._server.server_close()


def _is_of_another_site(environ: Mapping[str, Any]) -> bool:
    """Whether a browser sends it for another site's page, or to a name that only resolves to this machine.

    Jobs are programs that run here, and nobody is asked who they are: a page that is open in the user's
    browser must not submit any.
    """
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    if site is None and origin is None:
        return False  # not a browser's
    host = environ.get("HTTP_HOST", "")
    own = site in (None, "none", "same-origin") and (origin is None or urlsplit(origin).netloc == host)
    return not (own and _is_local_name(urlsplit(f"//{host}").hostname or ""))


def _is_local_name(name: str) -> bool:
    """An address, ``localhost``, or a name of this network (compose's): no name that anybody can register."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name
    return True
