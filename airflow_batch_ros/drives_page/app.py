"""The page in Airflow's API server: behind its login, and for each run behind the right to read its DAG.

What a user may not see is not found: nothing tells whether it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from airflow_batch_ros import runs
from airflow_batch_ros.drives_page.kept import Kept
from airflow_batch_ros.drives_page.lines import (
    DriveLine,
    RunDigest,
    Shards,
    count_states,
    digest_of,
    links_of,
    read_lines,
    with_jobs,
)
from airflow_batch_ros.drives_page.places import Place, PlaceError, find_places
from airflow_batch_ros.drives_page.render import (
    POLICY,
    DrivePage,
    DriveRow,
    MessagePage,
    RunPage,
    RunRow,
    RunsPage,
    render,
    strip_of,
)
from airflow_batch_ros.drives_page.shards import SHARDS_A_PAGE, DriveShards, read_drive, read_shards
from airflow_batch_ros.drives_page.static import labelled, read_digest, row_of, sum_of
from airflow_batch_ros.lake import TooLargeError, said_by
from airflow_batch_ros.runs import RunDrive, RunRecord
from airflow_batch_ros.status import ShardState
from ros_to_parquet import contract
from ros_to_parquet.contract import ContractError, Run

if TYPE_CHECKING:
    from collections.abc import Awaitable

RUNS_A_PAGE = 25
DRIVES_A_PAGE = 50

MAX_DRIVES = 5_000
"""Drives of a run that are read; of more, the first ones."""

MAX_COUNTED = 200
"""Drives of the runs of a page whose states are looked up where no page of theirs was written."""

REFRESH_S = 15

LIVE_S = 10.0
"""How long what goes on is taken to be as it was, whoever looks."""

ENDED_S = 120.0

MAX_REPORT_BYTES = 20_000_000

REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A report is made of what bags say: it is shown as if of another site, and runs nothing."""

Text = Annotated[str, Query(max_length=1_000)]
Number = Annotated[int, Query(ge=1, le=100_000)]


def make_app(places: Callable[[], Sequence[Place]] = find_places) -> FastAPI:
    """The application; ``places`` gives the lakes."""
    site = Site(places)
    app = FastAPI(title="ROS to Parquet", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", f"{POLICY}; frame-ancestors 'self'")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        if error.status_code == 401:
            return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)), 303)
        return _message(f"{error.detail}", "", status=error.status_code)

    @app.exception_handler(PlaceError)
    async def lost(_request: Request, error: PlaceError) -> Response:
        return _message("No lake to look at", str(error), status=503)

    @app.exception_handler(ContractError)
    async def foreign(_request: Request, error: ContractError) -> Response:
        return _message("Written by another release", str(error), status=502)

    _handle_aws_errors(app)

    @app.get("/", response_class=HTMLResponse)
    def of_runs(user: GetUserDep, lake: Text = "", page: Number = 1) -> str:
        return render(site.runs_page(Viewer(user), lake, page))

    @app.get("/run", response_class=HTMLResponse)
    def of_run(
        user: GetUserDep,
        run: Text,
        dag: Text = "",
        lake: Text = "",
        state: Text = "",
        q: Text = "",
        page: Number = 1,
        refresh: bool = False,
    ) -> str:
        asked = Asked(lake, Run(dag, run), state=state, query=q, page=page, refresh=refresh)
        return render(site.run_page(Viewer(user), asked))

    @app.get("/drive", response_class=HTMLResponse)
    def of_drive(
        user: GetUserDep,
        run: Text,
        drive: Text,
        dag: Text = "",
        lake: Text = "",
        state: Text = "",
        page: Number = 1,
        refresh: bool = False,
    ) -> str:
        asked = Asked(lake, Run(dag, run), drive, state=state, page=page, refresh=refresh)
        return render(site.drive_page(Viewer(user), asked))

    @app.get("/report")
    def of_report(user: GetUserDep, run: Text, drive: Text, dag: Text = "", lake: Text = "") -> Response:
        data = site.report(Viewer(user), Asked(lake, Run(dag, run), drive))
        return HTMLResponse(data, headers={"Content-Security-Policy": REPORT_POLICY})

    return app


@dataclass(frozen=True, slots=True)
class Asked:
    """What a URL asks for."""

    lake: str
    run: Run
    drive: str = ""
    state: str = ""
    query: str = ""
    page: int = 1
    refresh: bool = False

    def url(self, kind: str, /, **changes: Any) -> str:
        """A URL beside this one's; what is empty is left out."""
        asked = replace(self, **changes)
        said = {
            "lake": asked.lake,
            "dag": asked.run.dag_id,
            "run": asked.run.run_id,
            "drive": asked.drive,
            "state": asked.state,
            "q": asked.query,
            "page": asked.page if asked.page > 1 else "",
            "refresh": "true" if asked.refresh else "",
        }
        return f"{kind}?{urlencode({name: value for name, value in said.items() if value})}"


class Viewer:
    """A user of Airflow's, and what they may see."""

    def __init__(self, user: Any) -> None:
        self._user = user
        self._may: dict[str, bool] = {}

    def may_see(self, run: Run) -> bool:
        """A run of a DAG: who may read its runs. One of the command line: who may see all that goes on."""
        if run.dag_id not in self._may:
            self._may[run.dag_id] = self._ask(run.dag_id)
        return self._may[run.dag_id]

    def _ask(self, dag_id: str) -> bool:
        manager = get_auth_manager()
        if not dag_id:
            return manager.is_authorized_view(access_view=AccessView.CLUSTER_ACTIVITY, user=self._user)
        return manager.is_authorized_dag(
            method="GET", access_entity=DagAccessEntity.RUN, details=_details(dag_id), user=self._user
        )


def _details(dag_id: str) -> DagDetails:
    from airflow.models.dag import DagModel

    team_of = getattr(DagModel, "get_team_name", None)  # since Airflow 3.2
    return DagDetails(id=dag_id, team_name=team_of(dag_id)) if team_of else DagDetails(id=dag_id)


class Site:
    """The pages of some lakes, for whoever looks."""

    def __init__(self, places: Callable[[], Sequence[Place]]) -> None:
        self._places = places
        self._runs = Kept(200)
        self._lines = Kept(20)
        self._committed = Kept(100_000)
        self._drives = Kept(20)
        self._links = Kept(100)

    def runs_page(self, viewer: Viewer, lake: str, number: int) -> RunsPage:
        places = self._places()
        place = self._place(lake)

        def ask() -> tuple[list[list[RunRecord]], bool, int]:
            unread: list[str] = []
            skip = (number - 1) * RUNS_A_PAGE
            found, older = runs.newest_runs(place.lake, skip=skip, count=RUNS_A_PAGE, unread=unread)
            return found, older, len(unread)

        found, older, unread = self._runs.get((place.uri, number), ask, seconds=LIVE_S)
        budget, rows = MAX_COUNTED, []
        for records in found:
            run = records[-1].run
            if not viewer.may_see(run):
                continue
            asked = Asked(place.uri, run)
            digest = self._digest(place, records, budget)
            if digest is not None and not digest.written_at:
                budget -= digest.drives
            row = row_of(records, digest, url=asked.url("run"))
            rows.append(replace(row, airflow_url=_airflow_url(run), unknown="open to see"))
        if unread:
            # Of which DAG it is, and so who may see it, nobody can tell.
            said = f"{unread} more, whose record cannot be read"
            rows.append(
                RunRow(
                    dag_id="",
                    run_id=said,
                    submitted_at="",
                    drives=0,
                    unknown="airflow-batch-ros status names it",
                )
            )
        here = urlencode({"lake": place.uri})
        return RunsPage(
            **_common(place, [("Airflow", "../")]),
            rows=rows,
            lakes=[(each.uri, f"./?{urlencode({'lake': each.uri})}", each is place) for each in places],
            previous_url=f"./?{here}&page={number - 1}" if number > 1 else "",
            previous_word="Newer runs",
            next_url=f"./?{here}&page={number + 1}" if older else "",
            next_word="Older runs",
        )

    def run_page(self, viewer: Viewer, asked: Asked) -> RunPage:
        place, records = self._records(viewer, asked)
        asked = replace(asked, lake=place.uri)
        every = runs.drives_of(records)
        lines = self._read_lines(place, records)
        last = records[-1]
        wanted = [
            line
            for line in lines
            if asked.state in ("", line.state) and asked.query.lower() in line.drive_id.lower()
        ]
        first = (asked.page - 1) * DRIVES_A_PAGE
        part = wanted[first : first + DRIVES_A_PAGE]

        def ask() -> list[DriveRow]:
            return self._rows(place, asked, part)

        key = (place.uri, asked.run, tuple((line.plan_id, line.job_state) for line in part))
        rows = self._links.get(key, ask, seconds=LIVE_S)
        # Their jobs and links are kept, how they stand is as new as the rest of the page.
        rows = [
            replace(row, line=replace(line, job_id=row.line.job_id))
            for row, line in zip(rows, part, strict=True)
        ]
        counts = count_states(lines)
        chips = [("", len(lines)), *counts.items()]
        ended = all(line.ended for line in lines)
        return RunPage(
            **_common(place, [("Airflow", "../"), ("All runs", f"./?{urlencode({'lake': place.uri})}")]),
            **_refreshed(asked, "run", ended=ended),
            previous_url=asked.url("run", page=asked.page - 1) if asked.page > 1 else "",
            next_url=asked.url("run", page=asked.page + 1) if len(wanted) > first + len(part) else "",
            dag_id=last.run.dag_id,
            run_id=last.run.run_id,
            submitted_at=last.submitted_at,
            digest=digest_of(last.run, lines, submitted_at=last.submitted_at, written_at=""),
            shards=sum_of(line.shards for line in lines),
            states=[
                (state, count, asked.url("run", state=state, page=1), state == asked.state)
                for state, count in chips
            ],
            rows=rows,
            first=first + 1,
            last=first + len(part),
            of=len(wanted),
            more=len(every) - len(lines),
            form={
                name: value
                for name, value in (
                    *(("lake", place.uri), ("dag", last.run.dag_id), ("run", last.run.run_id)),
                    ("state", asked.state),
                )
                if value
            },
            query=asked.query,
        )

    def drive_page(self, viewer: Viewer, asked: Asked) -> DrivePage:
        place, records = self._records(viewer, asked)
        asked = replace(asked, lake=place.uri)
        drive = self._drive(records, asked)
        key = (place.uri, drive.plan_id)
        found = self._drives.get(key, lambda: read_drive(place.batch, place.lake, drive), seconds=_drive_kept)
        wanted = found.of(asked.state)
        first = (asked.page - 1) * SHARDS_A_PAGE
        part = wanted[first : first + SHARDS_A_PAGE]
        shards = read_shards(place.batch, place.lake, found, part, console_base=place.console_base)
        counts = found.counts
        (row,) = self._rows(place, asked, [found.line])
        run = (asked.run.run_id, asked.url("run", drive="", state="", page=1, refresh=False))
        index = f"./?{urlencode({'lake': place.uri})}"
        chips = [
            ("", len(found.states)),
            *((str(each), counts[each]) for each in ShardState if each in counts),
        ]
        return DrivePage(
            **_common(place, [("Airflow", "../"), ("All runs", index), run]),
            **_refreshed(asked, "drive", ended=found.line.ended),
            previous_url=asked.url("drive", page=asked.page - 1) if asked.page > 1 else "",
            next_url=asked.url("drive", page=asked.page + 1) if len(wanted) > first + len(part) else "",
            run_id=asked.run.run_id,
            line=found.line,
            shards=_shards(found) if found.states else found.line.shards,
            states=[
                (state, count, asked.url("drive", state=state, page=1) + "#shards", state == asked.state)
                for state, count in chips
            ],
            strip=strip_of(found.states),
            rows=shards,
            first=first + 1,
            last=first + len(part),
            of=len(wanted),
            bags=len(found.plan.bags) if found.plan else 0,
            bag_bytes=found.bag_bytes,
            links=row.links,
            commit=found.commit,
            finish=found.finish,
        )

    def report(self, viewer: Viewer, asked: Asked) -> bytes:
        """The drive's report.

        Raises:
            HTTPException: 404 where there is none, or none that this user may see; 413 where it is too large.
        """
        place, records = self._records(viewer, asked)
        drive = self._drive(records, asked)
        try:
            data = place.lake.read(contract.report_key(drive.drive_id), most_bytes=MAX_REPORT_BYTES)
        except TooLargeError as error:
            raise HTTPException(413, f"The report is too large to be shown here: {error}") from error
        if data is None:
            raise HTTPException(404, "There is no report of this drive")
        return data

    def _place(self, uri: str) -> Place:
        """The lake of that URI, of those that are Airflow's; the first of them where none is named."""
        places = self._places()
        for place in places:
            if uri in ("", place.uri):
                return place
        raise HTTPException(404, "No such lake")

    def _records(self, viewer: Viewer, asked: Asked) -> tuple[Place, list[RunRecord]]:
        place = self._place(asked.lake)
        if not viewer.may_see(asked.run):
            raise HTTPException(404, "No such run")
        key = (place.uri, asked.run)
        records = self._runs.get(key, lambda: runs.of_run(place.lake, asked.run), seconds=LIVE_S)
        if not records:
            raise HTTPException(404, "No such run")
        return place, records

    def _drive(self, records: Sequence[RunRecord], asked: Asked) -> RunDrive:
        found = [drive for drive in runs.drives_of(records) if drive.drive_id == asked.drive]
        if not found:
            raise HTTPException(404, "The run has no such drive")
        return found[0]

    def _read_lines(self, place: Place, records: Sequence[RunRecord]) -> list[DriveLine]:
        drives = runs.drives_of(records)[:MAX_DRIVES]

        def ask() -> list[DriveLine]:
            known = {
                drive.plan_id: line
                for drive in drives
                if (line := self._committed.find((place.uri, drive.plan_id)))
            }
            lines = read_lines(place.batch, place.lake, drives, known=known)
            for line in lines:
                if line.committed:
                    self._committed.put((place.uri, line.plan_id), line, seconds=3600.0)
            return lines

        key = (place.uri, records[-1].run, records[-1].submitted_at)
        return self._lines.get(key, ask, seconds=_lines_kept)

    def _digest(self, place: Place, records: Sequence[RunRecord], budget: int) -> RunDigest | None:
        """How a run stood when its page was written; else how it stands, with no time of writing.

        None where that would be to look at more than ``budget`` drives.
        """
        last = records[-1]

        def ask() -> RunDigest | None:
            return read_digest(place.lake, last.run)

        digest = self._runs.get(("digest", place.uri, last.run), ask, seconds=LIVE_S)
        if digest is not None and digest.ended and digest.submitted_at >= last.submitted_at:
            return digest
        if len(runs.drives_of(records)) > budget:
            return None
        lines = self._read_lines(place, records)
        return digest_of(last.run, lines, submitted_at=last.submitted_at, written_at="")

    def _rows(self, place: Place, asked: Asked, lines: Sequence[DriveLine]) -> list[DriveRow]:
        def report_url(line: DriveLine) -> str:
            return asked.url("report", drive=line.drive_id, state="", query="", page=1, refresh=False)

        shown = with_jobs(place.lake, lines)
        links = links_of(
            place.batch, place.lake, shown, console_base=place.console_base, report_url=report_url
        )
        return [
            DriveRow(
                line,
                asked.url("drive", drive=line.drive_id, state="", query="", page=1, refresh=False),
                labelled(each),
            )
            for line, each in zip(shown, links, strict=True)
        ]


def _handle_aws_errors(app: FastAPI) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    @app.exception_handler(ClientError)
    async def refused(_request: Request, error: ClientError) -> Response:
        return _message("AWS did not answer this", f"{error.operation_name}: {said_by(error)}", status=502)

    @app.exception_handler(BotoCoreError)
    async def unreachable(_request: Request, error: BotoCoreError) -> Response:
        return _message("AWS could not be asked", str(error), status=502)


def _message(title: str, text: str, *, status: int) -> Response:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    places = (("Airflow", "../"), ("All runs", "./"))
    page = MessagePage(lake="Drives", written_at=now, places=places, title=title, text=text)
    return HTMLResponse(render(page), status)


def _common(place: Place, places: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "lake": place.uri,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "places": places,
    }


def _refreshed(asked: Asked, page: str, *, ended: bool) -> Mapping[str, Any]:
    if ended:
        return {}
    every = f"refresh every {REFRESH_S} s"
    return {
        "refresh_s": REFRESH_S if asked.refresh else 0,
        "refresh_url": asked.url(page, refresh=not asked.refresh),
        "refresh_word": f"stop: {every}" if asked.refresh else every,
    }


def _airflow_url(run: Run) -> str:
    """The run in Airflow's own pages."""
    if not run.dag_id:
        return ""
    return f"../dags/{quote(run.dag_id, safe='')}/runs/{quote(run.run_id, safe='')}"


def _lines_kept(lines: Sequence[DriveLine]) -> float:
    return ENDED_S if all(line.ended for line in lines) else LIVE_S


def _drive_kept(drive: DriveShards) -> float:
    return ENDED_S if drive.line.committed else LIVE_S


def _shards(drive: DriveShards) -> Shards:
    counts = drive.counts
    return Shards(
        len(drive.states),
        *(counts.get(state, 0) for state in (ShardState.DONE, ShardState.RUNNING, ShardState.FAILED)),
    )
