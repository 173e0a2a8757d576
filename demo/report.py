"""What a person wants to know of a run: its drives, why some are not whole, its tables, how to query them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

Summary = Mapping[str, Any]
"""What the sensor returns: see ``airflow_batch_ros.summary.as_dict``."""

WIDE = 125
"""Columns of a console from which on all of a drive's columns fit."""

TABLES_SHOWN = 20
REASONS_SHOWN = 4
DRIVES_QUERIED = 6
REPORTS_SHOWN = 6
MORE = "make demo ALL=1 shows them"

_STATE_STYLES = {
    "succeeded": "green",
    "succeeded_with_rejects": "yellow",
    "damaged": "yellow",
    "partial": "red",
    "failed": "red",
}


def drives_table(summary: Summary, *, width: int) -> Table:
    """A line a drive, and the sum; below `WIDE` columns without what matters least."""
    wide = width >= WIDE
    table = Table(title="Drives", title_justify="left", title_style="bold", header_style="dim", box=None)
    table.add_column("drive", overflow="fold", min_width=12)
    table.add_column("state", min_width=9)
    for name in ("bags", "Batch job", *(("job state",) if wide else ())):
        table.add_column(name, no_wrap=True)
    for name in (
        *(("shards",) if wide else ()),
        "messages",
        "rows",
        "rejects",
        *(("MB",) if wide else ()),
        "MB/s",
    ):
        table.add_column(name, justify="right", no_wrap=True)

    def add(*cells: str, job_state: str, shards: str, counted: Mapping[str, Any], style: str = "") -> None:
        table.add_row(
            *cells,
            *((job_state, shards) if wide else ()),
            f"{counted['messages']:,}",
            f"{counted['rows']:,}",
            f"{counted['rejected']:,}",
            *((f"{counted['bytes_read'] / 1e6:.1f}",) if wide else ()),
            _speed(counted["bytes_read"], counted["shard_seconds"]),
            style=style,
        )

    for drive in summary["drives"]:
        add(
            escape(drive["drive_id"]),
            _state(drive["state"]),
            _bags(drive),
            "nothing new" if drive["work"] == "nothing" else (drive["job_id"] or "-")[:8],
            job_state=drive["job_state"] or "-",
            shards=f"{drive['shards_done']}/{max(drive['shards'], drive['shards_done'])}",
            counted=drive,
        )
    totals = summary["totals"]
    table.add_section()
    name = f"{totals['drives']} drive{'' if totals['drives'] == 1 else 's'}"
    add(name, "", f"{totals['bags']}", "", job_state="", shards="", counted=totals, style="bold")
    return table


def states_line(summary: Summary) -> str:
    """How many drives ended in which state, in markup."""
    return ", ".join(f"{count} {_state(state)}" for state, count in summary["totals"]["states"].items())


def _state(state: str) -> str:
    """A state to read, in its colour."""
    return f"[{_STATE_STYLES.get(state, 'white')}]{state.replace('_', ' ')}[/]"


def _bags(drive: Mapping[str, Any]) -> str:
    """How many bags, and how many of them the lake had before."""
    return f"{drive['bags']}" + (f" + {drive['covered']} known" if drive["covered"] else "")


def _speed(count: int, seconds: float) -> str:
    return f"{count / 1e6 / seconds:.1f}" if seconds and count else "-"


def reasons(summary: Summary, *, every: bool) -> list[str]:
    """For each drive that is not plainly ``succeeded``: why, in lines of markup."""
    lines: list[str] = []
    for drive in summary["drives"]:
        said = [f"shard {shard['shard']}: {shard['reason']}" for shard in drive["failed_shards"]]
        said += drive["problems"]
        if drive["state"] == "succeeded" and not said:
            continue
        lines.append(f"[bold]{escape(drive['drive_id'])}[/]  {_state(drive['state'])}")
        shown = said if every else said[:REASONS_SHOWN]
        lines += [f"    {escape(reason)}" for reason in shown]
        if len(said) > len(shown):
            lines.append(f"    … and {len(said) - len(shown)} more ({MORE})")
        if not said:
            lines.append(f"    no reason was recorded; see {escape(drive['manifest'])}")
    return lines


def reports(summary: Summary, lake: str) -> list[str]:
    """Where the reports of the first drives are; ``lake`` stands for the output that the summary names."""
    found = [
        f"{lake}{drive['report'].removeprefix(drive['output'])}"
        for drive in summary["drives"]
        if drive["report"]
    ]
    more = len(found) - REPORTS_SHOWN
    return found[:REPORTS_SHOWN] + ([f"… and {more} more"] if more > 0 else [])


@dataclass(frozen=True, slots=True)
class LakeTable:
    """One table over all drives of a run."""

    name: str
    types: tuple[str, ...]
    drives: int
    rows: int
    rejected: int
    bytes_written: int


def merge_tables(summary: Summary) -> list[LakeTable]:
    """The run's tables, the one with most rows first."""
    merged: dict[str, LakeTable] = {}
    for drive in summary["drives"]:
        for table in drive["tables"]:
            known = merged.get(table["table"], LakeTable(table["table"], (), 0, 0, 0, 0))
            merged[table["table"]] = LakeTable(
                name=known.name,
                types=tuple(dict.fromkeys((*known.types, *table["type"].split(", ")))),
                drives=known.drives + 1,
                rows=known.rows + table["rows"],
                rejected=known.rejected + table["rejected"],
                bytes_written=known.bytes_written + table["bytes_written"],
            )
    return sorted(merged.values(), key=lambda table: (-table.rows, table.name))


def tables_table(tables: Sequence[LakeTable], *, every: bool) -> Table:
    """A line a table; the `TABLES_SHOWN` largest unless ``every``."""
    table = Table(title="Tables", title_justify="left", title_style="bold", header_style="dim", box=None)
    table.add_column("table", overflow="fold")
    table.add_column("type", overflow="fold")
    for name in ("drives", "rows", "rejects", "Parquet MB"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = tables if every else tables[:TABLES_SHOWN]
    for each in shown:
        table.add_row(
            escape(each.name),
            escape(", ".join(each.types)),
            f"{each.drives}",
            f"{each.rows:,}",
            f"{each.rejected:,}",
            f"{each.bytes_written / 1e6:.2f}",
        )
    rest = tables[len(shown) :]
    if rest:
        table.add_row(
            f"… and {len(rest)} more ({MORE})",
            "",
            "",
            f"{sum(each.rows for each in rest):,}",
            f"{sum(each.rejected for each in rest):,}",
            f"{sum(each.bytes_written for each in rest) / 1e6:.2f}",
            style="dim",
        )
    table.add_section()
    table.add_row(
        f"{len(tables)} table{'' if len(tables) == 1 else 's'}",
        "",
        "",
        f"{sum(each.rows for each in tables):,}",
        f"{sum(each.rejected for each in tables):,}",
        f"{sum(each.bytes_written for each in tables) / 1e6:.2f}",
        style="bold",
    )
    return table


@dataclass(frozen=True, slots=True)
class Queries:
    """Two ways to read a table of the local copy; ``sql`` for DuckDB, ``python`` with pyarrow."""

    sql: str
    python: str


def queries(table: str, drives: Sequence[str], lake: str) -> Queries:
    """Queries of ``table`` in the lake copy at ``lake``, over the run's ``drives``."""
    path = f"{lake}/{table}/**/*.parquet".replace("'", "''")
    options = "hive_partitioning = true, hive_types_autocast = false, union_by_name = true"
    columns = "drive_id, count(*) AS rows, min(log_time) AS first, max(log_time) AS last"
    if table == "imu.data":
        columns = (
            "drive_id, count(*) AS rows, max(log_time) - min(log_time) AS duration, "
            "round(max(abs(angular_velocity.z)), 2) AS fastest_turn_rad_s"
        )
    sql = (
        f"SELECT {columns}\nFROM read_parquet('{path}',\n  {options})\n"
        f"GROUP BY drive_id ORDER BY rows DESC LIMIT {DRIVES_QUERIED}"
    )
    python = f"ros_to_parquet.open({lake!r}).dataset({table!r}, drives={list(drives[:1])}).to_table()"
    return Queries(sql, python)


def choose_table(tables: Sequence[LakeTable]) -> LakeTable | None:
    """The table to show a query of: the generated drive's IMU, else the one with most rows."""
    with_rows = [table for table in tables if table.rows]
    imu = [table for table in with_rows if table.name == "imu.data"]
    return next(iter(imu or with_rows), None)


def result_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A query's result."""
    table = Table(header_style="dim", box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    return table


def run_sql(sql: str, *, at: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a DuckDB query whose paths are relative to ``at``."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{str(at).replace(chr(39), chr(39) * 2)}'")
        result = connection.execute(sql)
        return [column[0] for column in result.description or []], result.fetchall()


def run_python(table: str, drives: Sequence[str], lake: Path) -> str:
    """What `Queries.python` gives, told in a line: how many rows, and which columns."""
    import ros_to_parquet

    found = ros_to_parquet.open(str(lake)).dataset(table, drives=drives[:1]).to_table()
    return f"{found.num_rows} rows; columns {', '.join(found.column_names)}"


def print_summary(console: Console, summary: Summary, *, every: bool) -> list[LakeTable]:
    """Prints drives, reasons and tables; returns the tables."""
    console.print(drives_table(summary, width=console.width))
    console.print(f"\n{states_line(summary)}")
    said = reasons(summary, every=every)
    if said:
        console.print("\n[bold]Why[/]")
        for line in said:
            indent = len(line) - len(line.lstrip())
            console.print(Padding(line.lstrip(), (0, 0, 0, indent)))
    console.print()
    tables = merge_tables(summary)
    console.print(tables_table(tables, every=every))
    return tables
