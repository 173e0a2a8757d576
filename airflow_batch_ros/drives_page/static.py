"""The page as files beside the reports: for whoever reads the lake, and for Airflow without such plugins.

``_reports/index.html`` lists runs, ``_reports/runs/{slug}.html`` is a run's drives. All is made of what the
lake and Batch say, so that it does not matter who writes it, or how often.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_batch_ros import runs
from airflow_batch_ros.drives_page.lines import (
    DriveLine,
    Links,
    RunDigest,
    Shards,
    digest_of,
    links_of,
    read_lines,
    run_slug,
    with_jobs,
)
from airflow_batch_ros.drives_page.render import DriveRow, RunPage, RunRow, RunsPage, render
from airflow_batch_ros.lake import READ_THREADS, Found, Lake
from airflow_batch_ros.runs import RunRecord
from ros_to_parquet import contract
from ros_to_parquet.contract import ContractError, Run

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

FOLDER = contract.REPORTS_FOLDER
INDEX_KEY = f"{FOLDER}/index.html"

INDEX_RUNS = 200
"""Runs that the index lists."""

DRIVES_SHOWN = 2_000
"""Drives of a run on its page; `airflow-batch-ros status` has them all."""

WRITES = 5
"""Tries to write a run's page where others write it too."""

_HTML = "text/html; charset=utf-8"


def write_run(
    batch: BatchClient,
    lake: Lake,
    records: Sequence[RunRecord],
    *,
    console_base: str = "",
    known: Mapping[str, DriveLine] | None = None,
) -> RunDigest:
    """Writes a run's page, and how it stands, for the index.

    ``records`` are the run's, oldest first; ``known`` has lines of drives that were just read, by plan id.
    Several may write the page at once, of a run whose sensor is mapped: whoever finds that another has in
    between starts again, so that what stays was read last.
    """
    last = records[-1]
    drives = runs.drives_of(records)
    key = digest_key(last.run)
    for _ in range(WRITES):
        there = lake.find(key)
        lines = read_lines(batch, lake, drives, known=known)
        # To the microsecond: no two are to have one ETag, which S3 makes of the content.
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        digest = digest_of(last.run, lines, submitted_at=last.submitted_at, written_at=now)
        if _put(lake, key, contract.to_json(digest), there, "application/json"):
            page = _run_page(batch, lake, records, lines, digest, console_base).encode()
            lake.write(f"{FOLDER}/runs/{run_slug(last.run)}.html", page, content_type=_HTML)
            if read_digest(lake, last.run) == digest:
                break
    return digest


def write_index(lake: Lake) -> str:
    """Writes the list of runs; its URI. To be called after the run's own page was written.

    Of several that write at once the one that comes last knows of all: whoever finds that another has written
    in between starts again, once. Were it so again, then that other one began after this one's first try, and
    so after this one's run was there.
    """
    for _ in range(2):
        there = lake.find(INDEX_KEY)
        # S3's ETag is of the content: no two lists are to have one.
        data = f"{render(_index(lake))}\n<!-- {uuid.uuid4().hex} -->\n".encode()
        if _put(lake, INDEX_KEY, data, there, _HTML):
            break
    return lake.uri(INDEX_KEY)


def _put(lake: Lake, key: str, data: bytes, there: Found | None, content_type: str) -> bool:
    """Whether it was written: not where another has since ``there`` was."""
    if there is None:
        return lake.create(key, data, content_type=content_type)
    return lake.replace(key, data, etag=there.etag, content_type=content_type)


def _run_page(
    batch: BatchClient,
    lake: Lake,
    records: Sequence[RunRecord],
    lines: Sequence[DriveLine],
    digest: RunDigest,
    console_base: str,
) -> str:
    last = records[-1]
    shown = with_jobs(lake, lines[:DRIVES_SHOWN])
    links = links_of(batch, lake, shown, console_base=console_base, report_url=_report_url)
    page = RunPage(
        lake=lake.output,
        written_at=digest.written_at,
        places=(("All runs", "../index.html"),),
        dag_id=last.run.dag_id,
        run_id=last.run.run_id,
        submitted_at=last.submitted_at,
        digest=digest,
        shards=sum_of(line.shards for line in lines),
        states=[(state, count, "", False) for state, count in digest.by_state.items()],
        rows=[DriveRow(line, "", labelled(each)) for line, each in zip(shown, links, strict=True)],
        first=min(1, len(shown)),
        last=len(shown),
        of=len(shown),
        more=len(lines) - len(shown),
    )
    return render(page)


def digest_key(run: Run) -> str:
    return f"{FOLDER}/runs/{run_slug(run)}.json"


def read_digest(lake: Lake, run: Run) -> RunDigest | None:
    """How the run stood when its page was written; None where that was not, or by another release."""
    try:
        return lake.load(RunDigest, digest_key(run))
    except ContractError:
        return None


def row_of(records: Sequence[RunRecord], digest: RunDigest | None, *, url: str = "") -> RunRow:
    """A run's row, by its digest where that is not older than what was submitted."""
    last = records[-1]
    row = RunRow(
        dag_id=last.run.dag_id,
        run_id=last.run.run_id,
        submitted_at=last.submitted_at,
        drives=len(runs.drives_of(records)),
        url=url,
    )
    if digest is None or digest.submitted_at < last.submitted_at:
        return row
    return replace(row, states=digest.by_state, rows=digest.rows, bytes_read=digest.bytes_read)


def labelled(links: Links) -> list[tuple[str, str]]:
    """The links that there are, as a row has them."""
    every = (("Report", links.report), ("Job", links.job), ("Log", links.log))
    return [(label, url) for label, url in every if url]


def sum_of(parts: Iterable[Shards]) -> Shards:
    total = done = running = failed = 0
    for each in parts:
        total, done = total + each.total, done + each.done
        running, failed = running + each.running, failed + each.failed
    return Shards(total, done, running, failed)


def _index(lake: Lake) -> RunsPage:
    unread: list[str] = []
    found, _ = runs.newest_runs(lake, count=INDEX_RUNS, unread=unread)
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="runs") as pool:
        digests = list(pool.map(lambda records: read_digest(lake, records[-1].run), found))
    rows = []
    for records, digest in zip(found, digests, strict=True):
        run = records[-1].run
        url = f"runs/{run_slug(run)}.html" if digest else ""
        row = row_of(records, digest, url=url)
        rows.append(
            replace(row, unknown="submitted again since" if digest else "not ended, or without a page")
        )
    rows += [
        RunRow(dag_id="", run_id=said, submitted_at="", drives=0, unknown="cannot be read") for said in unread
    ]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return RunsPage(lake=lake.output, written_at=now, rows=rows)


def _report_url(line: DriveLine) -> str:
    return f"../{quote(f'drive_id={line.drive_id}', safe='=')}/report.html"
