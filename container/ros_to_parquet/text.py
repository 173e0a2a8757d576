"""Text for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ros_to_parquet.contract import one_line

NAMED = 5

_SIGNED = re.compile(r"(\bhttps?://)([^\s/?#@]*@)?([^\s?#'\"<>]*)([?#][^\s'\"<>]*)?")
_PASSWORD = re.compile(r"(?<![\w+.-])([a-z][a-z0-9+.-]*://)[^\s/?#:@]*:[^\s/?#]*@", re.IGNORECASE)


def shown(text: str) -> str:
    """``text`` for a line of a log or a terminal: URLs without what opens them, nothing that moves a cursor.

    >>> shown("https://host/x.bag?X-Amz-Signature=4f2a: 503")
    'https://host/x.bag?...: 503'
    >>> shown("no answer from postgresql://me:secret@host/catalog")
    'no answer from postgresql://...@host/catalog'
    """
    return one_line(_PASSWORD.sub(r"\1...@", _SIGNED.sub(_unsigned, text)))


def _unsigned(url: re.Match[str]) -> str:
    scheme, user, place, query = url.groups()
    end = ":" if query and query.endswith(":") else ""  # of a message that goes on
    return f"{scheme}{'...@' if user else ''}{place}{'?...' if query else ''}{end}"


def say(line: str) -> None:
    """Prints a line for people."""
    print(shown(line))


def and_more(names: Sequence[str]) -> str:
    """The first `NAMED` of them, and how many more there are."""
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns: numbers to the right, everything else to the left."""
    rows = [[shown(cell) for cell in row] for row in rows]
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(not cell or cell.replace(",", "").isdigit() for cell in column[1:]) for column in columns]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(cells).rstrip())
