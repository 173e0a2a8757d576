"""Faults of requests to Batch and CloudWatch Logs, and the address at which faults are added and removed."""

from __future__ import annotations

import io
import json
import re
import socket
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Request, Response

from airflow_batch_ros.local.faults import (
    BATCH_ERRORS,
    BatchLateAnswer,
    BatchRefusal,
    FaultBoard,
    FaultError,
    LogsMissing,
    from_raw,
    operation_matches,
)

PATH = "/faults"
"""GET lists the faults in force, POST adds a list of them, DELETE ends those of ids in its query, or all."""

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

_LOG_READERS = frozenset({"GetLogEvents", "FilterLogEvents", "DescribeLogStreams"})


def control(board: FaultBoard, environ: dict[str, Any]) -> Response:
    """Answers a request to `PATH`."""
    request = Request(environ)
    if request.method == "GET":
        return _json(board.shown())
    # A page that a browser shows may not send JSON, or delete, here without asking first, which is refused.
    if request.method == "POST" and request.mimetype == "application/json":
        try:
            faults = [from_raw(raw) for raw in json.loads(request.get_data())]
        except (FaultError, ValueError, TypeError, AttributeError) as error:
            return _json({"message": str(error)}, status=400)
        return _json(board.add(faults))
    if request.method == "DELETE":
        return _json(board.remove(request.args.getlist("id") or None))
    return _json({"message": "GET, DELETE, or POST of application/json"}, status=405)


def answer(
    board: FaultBoard, application: Application, environ: dict[str, Any], start_response: Any
) -> Iterable[bytes]:
    """What ``application`` answers, but for the fault that befalls the request."""
    service, operation = _asked(environ)
    if service == "batch":
        return _batch(board, application, operation, environ, start_response)
    if service == "logs" and operation in _LOG_READERS:
        missing = _missing_logs(board, environ)
        if missing is not None:
            return missing(environ, start_response)
    return application(environ, start_response)


def _asked(environ: dict[str, Any]) -> tuple[str, str]:
    """Service and operation: by the scope of the signature, and by path or header."""
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    path = environ.get("PATH_INFO", "")
    return (scope[1] if scope else ""), (target or path).replace("/", ".").rpartition(".")[2]


def _batch(
    board: FaultBoard, application: Application, operation: str, environ: dict[str, Any], start_response: Any
) -> Iterable[bytes]:
    if board.throttled(operation):
        return _refused("TooManyRequestsException")(environ, start_response)
    refusal = board.befalling(BatchRefusal, lambda fault: operation_matches(operation, fault.operation))
    if refusal is not None:
        return _refused(refusal.fault.error)(environ, start_response)
    late = board.befalling(BatchLateAnswer, lambda fault: operation_matches(operation, fault.operation))
    if late is None:
        return application(environ, start_response)
    body, status, headers = run_wsgi_app(application, environ, buffered=True)
    if late.fault.after_s is None:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError  # which the server takes for a client that went away
    time.sleep(late.fault.after_s)
    start_response(status, headers.to_wsgi_list())
    return body


def _refused(error: str) -> Response:
    status, message = BATCH_ERRORS[error]
    response = _json({"message": message}, status=status)
    response.headers["x-amzn-ErrorType"] = error
    return response


def _missing_logs(board: FaultBoard, environ: dict[str, Any]) -> Response | None:
    data = Request(environ).get_data()
    environ["wsgi.input"] = io.BytesIO(data)
    stream = str(json.loads(data or b"{}").get("logStreamName", ""))
    found = board.befalling(LogsMissing, lambda fault: fnmatchcase(stream, fault.stream))
    if found is None:
        return None
    message = f"The specified log {found.fault.what} does not exist."
    response = _json({"__type": "ResourceNotFoundException", "message": message}, status=400)
    response.mimetype = "application/x-amz-json-1.1"
    return response


def _json(content: Any, *, status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, mimetype="application/json")
