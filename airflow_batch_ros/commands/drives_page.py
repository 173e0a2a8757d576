"""``airflow-batch-ros drives-page``: the page of runs and drives, as files beside the reports in the lake."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from airflow_batch_ros.commands import settings as settings_of
from airflow_batch_ros.commands.looking import explained, open_lake
from airflow_batch_ros.commands.terminal import EXIT_HELP, Exit, fail, guarded, positive, print_json, teller

if TYPE_CHECKING:
    from airflow_batch_ros.runs import RunRecord

DEFAULT_RUNS = 20


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "drives-page",
        help="write the page of runs and drives beside the reports in the lake",
        description="Writes how the drives of a run stand, as HTML, and the list of all runs: "
        "_reports/runs/... and _reports/index.html in the lake. The waiting task of a run does so when it "
        "ends; this is for other runs, and for those that go on.",
        epilog=EXIT_HELP,
    )
    parser.add_argument(
        "name", metavar="RUN", nargs="?", help="run id, or dag_id/run_id (default: the newest runs)"
    )
    parser.add_argument(
        "--runs",
        type=positive,
        default=DEFAULT_RUNS,
        metavar="N",
        help="how many of the newest, where none is named (default: %(default)s)",
    )
    parser.add_argument(
        "--console-base-url", metavar="URL", help="where links lead (default: the region's AWS console)"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout; lines for people on stderr")
    settings_of.add_connection(parser)
    parser.set_defaults(run=guarded(_write))


def _write(arguments: argparse.Namespace) -> int:
    from airflow_batch_ros import console, runs
    from airflow_batch_ros.drives_page import static

    say = teller(arguments)
    clients, lake = open_lake(arguments)
    batch = clients.batch
    base = arguments.console_base_url or console.base_for(batch.meta.endpoint_url, batch.meta.region_name)
    found: list[list[RunRecord]]
    unread: list[str] = []
    with explained(lake):
        if arguments.name is not None:
            found = [runs.find(lake, arguments.name)]
        else:
            found, _ = runs.newest_runs(lake, count=arguments.runs, unread=unread)
        for records in found:
            digest = static.write_run(batch, lake, records, console_base=base.rstrip("/"))
            states = ", ".join(f"{count} {state}" for state, count in digest.by_state.items())
            say(f"{records[-1].name}: {states or 'no drive had anything to do'}")
        index = static.write_index(lake)
    if arguments.json:
        print_json({"index": index, "runs": [records[-1].name for records in found]})
    else:
        print(index)
    for problem in unread:
        fail(problem, Exit.REFUSED)
    return Exit.REFUSED if unread else Exit.OK
