"""SeaweedFS on loopback, and a proxy before it that counts requests: ``python -m benchmarks.s3_server DIR``.

A process of its own, driven by lines of JSON: ``{"upload": PATH, "key": KEY}`` and ``{"requests": ""}``,
which answers with the requests seen since it was last asked. It ends with its input.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from airflow_batch_ros.local import seaweed
from airflow_batch_ros.local.state import Credentials

BUCKET = "benchmarks"
_HOP_BY_HOP = {"connection", "transfer-encoding", "expect", "keep-alive"}


class CountingProxy(ThreadingHTTPServer):
    """Hands every request on as it is, its host and so its signature included, and keeps a line of each."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port = port
        self.seen: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self) -> list[dict[str, Any]]:
        """The requests since the last call: method, path, time (monotonic, seconds), bytes in and out."""
        seen, self.seen = self.seen, []
        return seen


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer's head and body go out together
    server: CountingProxy
    _upstream: http.client.HTTPConnection | None = None

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # a client that has what it wants closes without a word
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def _forward(self) -> None:
        at = time.monotonic()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port)
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self._upstream.putheader(name, value)
        self._upstream.endheaders(body)
        answer = self._upstream.getresponse()
        data = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        self.server.seen.append(
            {"method": self.command, "path": self.path, "at": at, "sent": len(body), "got": len(data)}
        )

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815 (http.server's names)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Nothing: each request is kept instead."""


def main(folder: Path) -> None:
    credentials = Credentials("benchmarks", "benchmarks-only")
    server = seaweed.start(
        folder / "data",
        credentials,
        ports=seaweed.choose_ports({}),
        host="127.0.0.1",
        bind_address="127.0.0.1",
        log=folder / "seaweed.log",
    )
    try:
        seaweed.wait_until_ready(server)
        proxy = CountingProxy(server.ports["s3"])
        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=BUCKET)
        about = {"url": server.url, "proxy": proxy.url, "key": credentials.access_key}
        _say(about | {"secret": credentials.secret_key})
        for line in sys.stdin:
            asked = json.loads(line)
            if "upload" in asked:
                client.upload_file(asked["upload"], BUCKET, asked["key"])
                _say({})
            else:
                _say({"requests": proxy.take()})
    finally:
        seaweed.stop(server)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
