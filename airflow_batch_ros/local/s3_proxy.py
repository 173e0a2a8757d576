"""S3's faults: a proxy before the store, which passes on what no fault befalls, byte for byte.

Bodies stream through it, and the Host header stays as it is, which signatures cover.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from fnmatch import fnmatchcase
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from airflow_batch_ros.local.faults import (
    S3_ERRORS,
    FaultBoard,
    InForce,
    S3Cut,
    S3Error,
    S3Fault,
    S3LostAnswer,
    S3Slow,
    S3StaleListing,
    operation_matches,
)

_PIECE_BYTES = 256 << 10
_SLOW_PIECES = 20
"""Pieces a second that a slow body goes in."""

_STORE_PATIENCE_S = 120.0
_RESET_PATIENCE_S = 5.0
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    }
)

_OBJECT_OPERATIONS = {
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "PUT": "PutObject",
    "DELETE": "DeleteObject",
    "POST": "PostObject",
}
_BUCKET_OPERATIONS = {
    "GET": "ListObjects",
    "HEAD": "HeadBucket",
    "PUT": "CreateBucket",
    "DELETE": "DeleteBucket",
    "POST": "PostObject",
}
_OF_A_QUERY = {
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "uploadId"): "ListParts",
    ("GET", "versions"): "ListObjectVersions",
    ("PUT", "partNumber"): "UploadPart",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("POST", "delete"): "DeleteObjects",
}


@dataclass(frozen=True, slots=True)
class S3Request:
    """What a request asks of which object; of a listing, ``key`` is the prefix."""

    method: str
    operation: str
    bucket: str
    key: str

    def is_meant_by(self, fault: S3Fault) -> bool:
        return (
            (operation_matches(self.operation, fault.operation) or self.method == fault.operation.upper())
            and fnmatchcase(self.bucket, fault.bucket)
            and fnmatchcase(self.key, fault.key)
        )


def parse_request(method: str, target: str, headers: Message | tuple[str, ...]) -> S3Request:
    """By the path, as clients of a server without bucket names in its own name ask.

    >>> parse_request("GET", "/raw?list-type=2&prefix=a%2F", ())
    S3Request(method='GET', operation='ListObjectsV2', bucket='raw', key='a/')
    """
    split = urlsplit(target)
    bucket, _, key = unquote(split.path).lstrip("/").partition("/")
    query = parse_qs(split.query, keep_blank_values=True)
    named = [name for (verb, word), name in _OF_A_QUERY.items() if verb == method and word in query]
    if named:
        operation = named[0]
    elif not bucket:
        operation = "ListBuckets"
    elif key and method == "PUT" and "x-amz-copy-source" in headers:
        operation = "CopyObject"
    else:
        operation = (_OBJECT_OPERATIONS if key else _BUCKET_OPERATIONS).get(method, method)
    if operation.startswith("List"):
        key = key or query.get("prefix", [""])[0]
    return S3Request(method, operation, bucket, key)


class S3Proxy:
    """Answers what comes to ``listener``, from construction to `close`, which closes that too.

    ``store`` is host and port of the store.
    """

    def __init__(self, board: FaultBoard, *, listener: socket.socket, store: tuple[str, int]) -> None:
        handler = type("Handler", (_Handler,), {"board": board, "store": store})
        self._server = _Server(listener.getsockname(), handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="s3-proxy", daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away as they like."""


class _ResetError(Exception):
    """The connection is to be reset, whatever was sent."""


class _Handler(BaseHTTPRequestHandler):
    board: ClassVar[FaultBoard]
    store: ClassVar[tuple[str, int]]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name above)
        """Nothing: there is a log of the store's."""

    def handle_expect_100(self) -> bool:
        return True  # it is said when no fault is in the way

    def do_GET(self) -> None:
        try:
            self._handle()
        except (_ResetError, HTTPException, OSError):
            # Whatever the store or the client did not finish is reset, so that nobody takes it for whole.
            _wait_until_sent(self.connection)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _handle(self) -> None:
        asked = parse_request(self.command, self.path, self.headers)
        found = self.board.befalling(S3Fault, asked.is_meant_by)
        fault = None if found is None else found.fault
        if isinstance(fault, S3Error):
            self._refuse(fault, asked)
            return
        if found is not None and self.path in found.memory:
            self._send(*found.memory[self.path])
            return
        if self._waits_to_send():
            self.send_response_only(100)
            self.end_headers()
        connection = HTTPConnection(*self.store, timeout=_STORE_PATIENCE_S)
        try:
            answer = self._forward(connection, fault)
            if isinstance(fault, S3LostAnswer):
                answer.read()
                raise _ResetError
            if isinstance(fault, S3Slow):
                time.sleep(fault.before_s)
            self._pass_on(answer, found)
        finally:
            connection.close()

    # --- to the store

    def _forward(self, connection: HTTPConnection, fault: S3Fault | None) -> HTTPResponse:
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                connection.putheader(name, value)
        if chunked := self._is_chunked():
            connection.putheader("Transfer-Encoding", "chunked")
        body = self._body()
        if isinstance(fault, S3Cut) and (chunked or int(self.headers.get("Content-Length") or 0)):
            body = _cut(body, fault.after_bytes)
        elif isinstance(fault, S3Slow) and fault.bytes_per_second:
            body = _slowed(body, fault.bytes_per_second)
        try:
            connection.endheaders(body, encode_chunked=chunked)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the store has answered before it had all; so do we
        return connection.getresponse()

    def _is_chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _waits_to_send(self) -> bool:
        """Whether the client sends its body only when it is told to go on."""
        return self.headers.get("Expect", "").lower() == "100-continue"

    def _body(self) -> Iterator[bytes]:
        """What the client sends, without its chunks."""
        if not self._is_chunked():
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self._exactly(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read1(min(size, _PIECE_BYTES))
            if not piece:
                raise _ResetError  # the client went away
            yield piece
            size -= len(piece)

    # --- to the client

    def _pass_on(self, answer: HTTPResponse, found: InForce[S3Fault] | None) -> None:
        fault = None if found is None else found.fault
        headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP]
        if isinstance(fault, S3StaleListing) and found is not None and answer.status == 200:
            found.memory[self.path] = (answer.status, headers, answer.read())
            self._send(*found.memory[self.path])
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in headers:
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length is None and "Content-Length" not in answer.headers:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        pieces = _pieces(answer)
        if isinstance(fault, S3Cut):
            pieces = _cut(pieces, fault.after_bytes)
        elif isinstance(fault, S3Slow) and fault.bytes_per_second:
            pieces = _slowed(pieces, fault.bytes_per_second)
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunked else piece)
        if answer.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, fault: S3Error, asked: S3Request) -> None:
        status, code, message = S3_ERRORS[fault.error]
        said = message.format(kms="kms:Decrypt" if self.command == "GET" else "kms:GenerateDataKey")
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            f"<Message>{escape(said)}</Message>"
            f"<Resource>/{escape(asked.bucket)}/{escape(asked.key)}</Resource>"
            "<RequestId>FAULT</RequestId></Error>"
        )
        headers = [("Content-Type", "application/xml")]
        if self._waits_to_send():
            self.close_connection = True
            headers.append(("Connection", "close"))
        else:
            for _ in self._body():  # a connection that is closed before would lose the answer
                pass
        self._send(status, headers, body.encode())


def _wait_until_sent(connection: socket.socket) -> None:
    """A reset drops what waits to be sent; the client is to have that first."""
    unsent = array("i", [0])
    deadline = time.monotonic() + _RESET_PATIENCE_S
    with suppress(OSError):
        while time.monotonic() < deadline:
            fcntl.ioctl(connection, termios.TIOCOUTQ, unsent)
            if not unsent[0]:
                return
            time.sleep(0.001)


def _pieces(answer: HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read1(_PIECE_BYTES):
        yield piece
    if answer.length:  # the store broke off
        raise _ResetError


def _cut(pieces: Iterator[bytes], after_bytes: int) -> Iterator[bytes]:
    """As much of a body; where there is more of it, the connection ends."""
    for piece in pieces:
        if len(piece) > after_bytes:
            if after_bytes:  # a chunk of none would say that the body ends here
                yield piece[:after_bytes]
            raise _ResetError
        yield piece
        after_bytes -= len(piece)


def _slowed(pieces: Iterator[bytes], bytes_per_second: int) -> Iterator[bytes]:
    step = max(1, bytes_per_second // _SLOW_PIECES)
    for piece in pieces:
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            time.sleep(len(part) / bytes_per_second)
            yield part
