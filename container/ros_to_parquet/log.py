"""Log events with fields: JSON lines where a machine reads them, short text on a terminal."""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from ros_to_parquet.text import shown

_lock = threading.Lock()


def now() -> str:
    """The time in ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(name: str, /, *, stream: TextIO | None = None, **fields: Any) -> None:
    """Writes one event to standard error (or ``stream``) as one line."""
    out = stream or sys.stderr
    fields = {key: shown(value) if isinstance(value, str) else value for key, value in fields.items()}
    if out.isatty():
        said = " ".join(f"{key}={value}" for key, value in fields.items())
        line = f"\r\033[K{name}: {said}"
    else:
        line = json.dumps({"time": now(), "event": name, **fields}, default=str)
    with _lock:
        print(line, file=out, flush=True)
