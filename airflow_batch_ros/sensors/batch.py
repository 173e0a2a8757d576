"""The sensor that waits for the operator's Batch jobs and says what became of the drives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_batch_ros.jobs import DriveJob
from airflow_batch_ros.links.batch import BatchJobLink, BatchLogsLink, DriveReportLink, LakeLink
from airflow_batch_ros.waiting import DEFAULT_UNKNOWN_AFTER_S, Waiting, amount_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_batch_ros.hooks.batch import RosToParquetBatchHook
    from airflow_batch_ros.summary import DriveSummary


WAITS_FOLDER = "_plans/waits"
"""Of the lake: lists of jobs that are too long for a trigger."""


class RosToParquetBatchSensor(BaseSensorOperator):
    """Waits until all Batch jobs of `RosToParquetBatchOperator` have ended; returns the run's summary.

    The summary (`airflow_batch_ros.summary.as_dict`) is made from the manifests in the lake: per drive its
    state, tables, messages, rows, rejects, bytes, seconds, and each failed shard with its cause, reason and
    link. Where too few of the drives (conf ``min_success_ratio``) are well (conf ``fail_on``), the task fails
    when all have ended, with the causes of all in one message, and without a retry: waiting again cannot
    help. The summary is then there as XCom all the same. Clearing the operator's task with this one runs
    what is missing.

    :param jobs: the operator's return value.
    :param deferrable: wait in the triggerer, with one trigger for all jobs; else as ``mode`` says.
    :param terminate_on_kill: end the jobs when the task is killed, marked or cleared, deferred or not.
        (In mode ``reschedule`` there is nobody to be told between two pokes.)
    :param unknown_after_s: seconds after which a job that Batch does not know counts as ended.
    :param runnable_timeout: seconds after which a job that stays RUNNABLE (of an array: none of its children
        starts or runs) is called stuck: the log says why, as far as Batch does. None for never.
    :param end_stuck: end such jobs; their shards then fail with the cause ``stuck_in_runnable``.
    :param drives_page: when all have ended, write the page of the run's drives and the list of runs into the
        lake: ``_reports/index.html``. What keeps it from being written is a warning in the log.
    :param poke_interval: seconds between two polls; deferred the first ones follow sooner.
    :param aws_conn_id: AWS connection for S3 and Batch.
    :param region_name: wins over the connection's region.
    """

    template_fields: Sequence[str] = ("jobs", "aws_conn_id", "region_name")
    template_fields_renderers = {"jobs": "json"}  # noqa: RUF012
    operator_extra_links = (BatchJobLink(), BatchLogsLink(), LakeLink(), DriveReportLink())
    ui_color = "#dcebf7"

    def __init__(
        self,
        *,
        jobs: Any,
        deferrable: bool = True,
        terminate_on_kill: bool = False,
        unknown_after_s: float = DEFAULT_UNKNOWN_AFTER_S,
        runnable_timeout: timedelta | float | None = None,
        end_stuck: bool = False,
        drives_page: bool = True,
        poke_interval: timedelta | float = 30,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.jobs = jobs
        self.deferrable = deferrable
        self.terminate_on_kill = terminate_on_kill
        self.unknown_after_s = unknown_after_s
        self.runnable_timeout = runnable_timeout
        self.end_stuck = end_stuck
        self.drives_page = drives_page
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self._waiting: Waiting | None = None
        self._drives: list[DriveSummary] = []

    def execute(self, context: Context) -> Any:
        if self.reschedule:
            context = _dated(context)
        self._store_links(context)
        if self.deferrable and self._poll(context):
            from airflow_batch_ros.triggers.batch import MAX_JOB_IDS, RosToParquetBatchTrigger

            ids = self._job_ids()
            self.defer(
                trigger=RosToParquetBatchTrigger(
                    job_ids=ids[:MAX_JOB_IDS],
                    job_ids_uri=self._save_ids(ids[MAX_JOB_IDS:]),
                    poll_interval_s=float(self.poke_interval),
                    unknown_after_s=self.unknown_after_s,
                    terminate_on_kill=self.terminate_on_kill,
                    aws_conn_id=self.aws_conn_id,
                    region_name=self.region_name or None,
                    runnable_timeout_s=self._runnable_timeout_s(),
                    end_stuck=self.end_stuck,
                    amount=astuple(amount_of(self._drive_jobs())),
                ),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )
        with self._timeout_in_words():
            return super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        with self._timeout_in_words():
            return super().resume_execution(next_method, next_kwargs, context)

    def poke(self, context: Context) -> PokeReturnValue:
        if self._poll(context):
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._finish(context))

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        if event is None or event.get("status") != "ended":
            raise AirflowException(str((event or {}).get("message", f"not an event of the trigger: {event}")))
        return self._finish(context)

    def on_kill(self) -> None:
        """Ends the jobs, if that was asked for."""
        if not self.terminate_on_kill:
            return
        from airflow_batch_ros.jobs import shown_ids, terminate
        from airflow_batch_ros.triggers.batch import KILLED

        ids = self._job_ids()
        self.log.info("killed: terminating Batch jobs %s", shown_ids(ids))
        for problem in terminate(self._hook().batch, ids, KILLED):
            self.log.error("could not terminate %s", problem)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage:  # noqa: ARG002
        """What the drives in the lake read and wrote; asked for by Airflow's OpenLineage provider."""
        from airflow_batch_ros import lineage

        return lineage.of_drives(self._hook().s3, self._drives)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage:
        """The same: of a run that fails, most drives may be well."""
        return self.get_openlineage_facets_on_complete(task_instance)

    @contextmanager
    def _timeout_in_words(self) -> Iterator[None]:
        """Airflow's own are "Trigger timeout". (Airflow 2 raises another error if it was deferred.)"""
        try:
            yield
        except AirflowSensorTimeout:
            raise AirflowSensorTimeout(
                f"not all of {len(self._job_ids())} Batch jobs have ended after {self.timeout:g} s, the "
                "timeout; they go on: clear this task to wait for them, or end them with "
                "airflow-batch-ros cancel"
            ) from None

    def _poll(self, context: Context) -> bool:
        """Whether a job is still to end."""
        from airflow_batch_ros.jobs import look_at
        from airflow_batch_ros.stuck import look_after

        if self._waiting is None:
            self._waiting = Waiting(
                self._job_ids(),
                unknown_after_s=self.unknown_after_s,
                waited_s=self._waited_s(context),
                runnable_timeout_s=self._runnable_timeout_s(),
                amount=amount_of(self._drive_jobs()),
            )
        if self._waiting.open:
            batch = self._hook().batch
            if news := self._waiting.update(look_at(batch, self._waiting.open)):
                self.log.info(news)
            for stuck in look_after(batch, self._waiting, end=self.end_stuck):
                self.log.warning(stuck)
        return bool(self._waiting.open)

    def _runnable_timeout_s(self) -> float | None:
        given = self.runnable_timeout
        return given.total_seconds() if isinstance(given, timedelta) else given

    def _store_links(self, context: Context, *, reports: Sequence[str] = ()) -> None:
        """The operator's links, for this task too, and one to ``reports``: in the console that it named."""
        from airflow_batch_ros import console
        from airflow_batch_ros.jobs import describe, log_group
        from airflow_batch_ros.links import batch as links

        # Airflow asks for the links of a task that failed too, and logs an error for each it cannot find.
        if not reports:
            context["ti"].xcom_push(key=links.LINKS_KEY, value={})
        jobs = self._drive_jobs()
        consoles = [job.console_url for job in jobs if job.console_url]
        if consoles:
            batch = self._hook().batch
            first = self._job_ids()[0]
            group = log_group(describe(batch, [first]).get(first))
            base = console.base_of(consoles[0])
            context["ti"].xcom_push(
                key=links.LINKS_KEY,
                value=links.urls(base, batch.meta.region_name, jobs, group, reports=reports),
            )

    def _waited_s(self, context: Context) -> float:
        """How long earlier pokes have waited: in mode ``reschedule`` each is a process of its own."""
        first = _first_reschedule_date(context) if self.reschedule else None
        return (datetime.now(UTC) - first).total_seconds() if first else 0.0

    def _finish(self, context: Context) -> dict[str, Any]:
        from airflow_batch_ros import summary

        hook = self._hook()
        try:
            drives = summary.summarize(hook.s3, hook.batch, hook.logs, self._drive_jobs())
        except summary.SummaryError as error:
            raise AirflowException(str(error)) from None
        self._drives = drives
        for line in summary.log_lines(drives):
            self.log.info(line)
        if reports := [drive.report for drive in drives if drive.report]:
            self._store_links(context, reports=reports)
        if self.drives_page:
            self._write_pages(context, drives)
        result = summary.as_dict(drives)
        if message := summary.failure_message(drives):
            context["ti"].xcom_push(key="return_value", value=result)
            raise AirflowFailException(message)
        return result

    def _write_pages(self, context: Context, drives: Sequence[DriveSummary]) -> None:
        """The run's page in each lake that it wrote to; of a run that others submitted there is none."""
        from botocore.exceptions import BotoCoreError, ClientError

        from airflow_batch_ros import console, runs
        from airflow_batch_ros.drives_page import static
        from airflow_batch_ros.drives_page.lines import line_of_summary
        from airflow_batch_ros.lake import Lake
        from ros_to_parquet.contract import ContractError, Run

        hook = self._hook()
        run = Run(dag_id=context["ti"].dag_id, run_id=context["run_id"])
        consoles = [drive.job.console_url for drive in drives if drive.job.console_url]
        base = console.base_of(consoles[0]) if consoles else ""
        for output in dict.fromkeys(drive.job.output for drive in drives):
            lake = Lake(hook.s3, output)
            here = [drive for drive in drives if drive.job.output == output]
            known = {drive.job.plan_id: line_of_summary(drive) for drive in here}
            try:
                if records := runs.of_run(lake, run):
                    static.write_run(hook.batch, lake, records, console_base=base, known=known)
                    self.log.info("page of the run's drives: %s", static.write_index(lake))
            except (BotoCoreError, ClientError, ContractError) as error:
                self.log.warning(
                    "the page %s could not be written (drives_page=False does without): %s",
                    lake.uri(static.INDEX_KEY),
                    error,
                )

    def _drive_jobs(self) -> list[DriveJob]:
        # None at all where patterns have found nothing new.
        return [DriveJob.from_dict(entry) for entry in _flat(self.jobs)]

    def _job_ids(self) -> list[str]:
        return [job.job_id for job in self._drive_jobs() if job.job_id]

    def _save_ids(self, ids: list[str]) -> str | None:
        """Where in the lake the ids are that do not fit into a trigger; None where all do."""
        if not ids:
            return None
        from airflow_batch_ros.lake import Lake
        from ros_to_parquet import contract

        data = json.dumps(ids).encode()
        lake = Lake(self._hook().s3, self._drive_jobs()[0].output)
        key = f"{WAITS_FOLDER}/{contract.sha256(data)[:16]}.json"
        lake.write(key, data)
        return lake.uri(key)

    def _hook(self) -> RosToParquetBatchHook:
        from airflow_batch_ros.hooks.batch import RosToParquetBatchHook

        return RosToParquetBatchHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name or None)


def _first_reschedule_date(context: Context) -> datetime | None:
    """When the first poke was; None in the first poke."""
    instance: Any = context["ti"]
    if hasattr(instance, "get_first_reschedule_date"):
        first: datetime | str | None = instance.get_first_reschedule_date(context)
        return datetime.fromisoformat(first) if isinstance(first, str) else first
    from airflow.models.taskreschedule import TaskReschedule  # Airflow 2
    from airflow.utils.session import create_session

    with create_session() as session:
        pokes: Any = session.scalars(TaskReschedule.stmt_for_task_instance(instance, descending=False))
        earliest = pokes.first()
        return earliest.start_date if earliest else None


def _dated(context: Context) -> Context:
    """For Airflow 3.0 to 3.1.3, whose own sensor fails in ``dag.test()`` at the second poke.

    They give it the date of the first as text there (apache/airflow#58777).
    """
    instance: Any = context["ti"]
    if not hasattr(instance, "get_first_reschedule_date"):
        return context
    return cast("Context", {**context, "ti": _Dated(instance, _first_reschedule_date(context))})


class _Dated:
    """A task instance that knows the date of its first poke."""

    def __init__(self, instance: Any, first: datetime | None) -> None:
        self._instance = instance
        self._first = first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._instance, name)

    def get_first_reschedule_date(self, context: Context) -> datetime | None:  # noqa: ARG002
        return self._first


def _flat(jobs: Any) -> Iterable[Mapping[str, Any]]:
    """The entries of one operator's return value, or of the list of them that a mapped operator gives."""
    if isinstance(jobs, Mapping):
        yield jobs
    elif isinstance(jobs, str) or not isinstance(jobs, Iterable):
        raise AirflowFailException(
            f"'jobs' takes what RosToParquetBatchOperator returns, not {jobs!r:.80}; in Python write "
            "submit.output, a template needs render_template_as_native_obj"
        )
    else:
        for entry in jobs:
            yield from _flat(entry)
