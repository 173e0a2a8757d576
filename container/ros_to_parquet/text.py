"""Text for people."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 5


def and_more(names: Sequence[str]) -> str:
    """The first `NAMED` of them, and how many more there are."""
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def printable(text: str) -> str:
    """Without what turns the direction of other text around, or shows as nothing."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns: numbers to the right, everything else to the left."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(not cell or cell.replace(",", "").isdigit() for cell in column[1:]) for column in columns]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(cells).rstrip())
