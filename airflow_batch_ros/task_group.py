"""Drives to Parquet as one line of any DAG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import TaskGroup

from airflow_batch_ros.assets import DRIVES_ALIAS
from airflow_batch_ros.operators.announce import RosToParquetAnnounceOperator
from airflow_batch_ros.operators.batch import RosToParquetBatchOperator
from airflow_batch_ros.sensors.batch import RosToParquetBatchSensor

_NOT_GIVEN: Any = object()
"""Where None says something."""


class RosToParquetTaskGroup(TaskGroup):
    """What `ros_to_parquet` returns: the group, its tasks, and what the sensor returns as ``output``."""

    submit: RosToParquetBatchOperator
    wait: RosToParquetBatchSensor
    announce: RosToParquetAnnounceOperator | None

    @property
    def output(self) -> Any:
        """The summary of the drives, for the arguments of tasks that follow."""
        return self.wait.output


def ros_to_parquet(
    group_id: str = "ros_to_parquet",
    *,
    drives: Any = None,
    conf: Any = None,
    output_uri: str | None = None,
    stack_name: str | None = None,
    job_queue: str | None = None,
    job_definition: str | None = None,
    fail_on: Sequence[str] | None = None,
    min_success_ratio: float | str | None = None,
    asset_alias: str | None = DRIVES_ALIAS,
    deferrable: bool | None = None,
    terminate_on_kill: bool | None = None,
    runnable_timeout: timedelta | float | None = None,
    end_stuck: bool | None = None,
    drives_page: bool | None = None,
    poke_interval: timedelta | float | None = None,
    timeout: timedelta | float | None = None,
    aws_conn_id: str | None = _NOT_GIVEN,
    region_name: str | None = None,
    default_args: Mapping[str, Any] | None = None,
    prefix_group_id: bool = True,
    **submit_arguments: Any,
) -> RosToParquetTaskGroup:
    """A task group that submits drives to AWS Batch, waits for them, and announces those in the lake.

    Its tasks are ``submit`` (`RosToParquetBatchOperator`), ``wait`` (`RosToParquetBatchSensor`) and
    ``announce`` (`RosToParquetAnnounceOperator`). What follows the group follows ``wait``, and takes its
    summary as the group's ``output``. ``announce`` is a teardown: it runs whether ``wait`` failed or not, so
    that a drive in the lake is announced though another failed, and does not change the run's state.

    :param drives: ``{drive_id: {"bucket": ..., "prefix": ...}}``, also as what an earlier task returns; or
        ``{"bucket": ..., "prefix": "fleet/*/"}``, which finds them.
    :param conf: a whole conf instead; with neither, the DAG run's conf and params.
    :param fail_on: states of a drive that fail the run, or ``quality_warn``, ``quality_error`` (quality
        checks of that level or a worse one), where the conf has no ``fail_on``.
    :param min_success_ratio: share of the drives that must not fail, where the conf has none: 0 to 1.
    :param asset_alias: the alias of the events; None for no events, and no task ``announce``.
    :param terminate_on_kill: end the jobs when ``wait`` is killed, marked or cleared; True by default.
    :param runnable_timeout: seconds after which ``wait`` calls a job that stays RUNNABLE stuck, and says why;
        with ``end_stuck`` it ends the job.
    :param drives_page: write the page of the run's drives into the lake when they have ended.
    :param timeout: seconds that ``wait`` waits at most.
    :param default_args: arguments of those of the tasks that have them, where they are not given here
        (``{"retries": 2, "mode": "reschedule"}``); they win over the DAG's.
    :param prefix_group_id: whether task ids begin with the group's.
    :param submit_arguments: further arguments of the operator, as ``vcpus``, ``memory_mib``, ``tags``.

    All others are the operator's and the sensor's of those names; what is not given is for the default
    arguments of group and DAG, then for operator and sensor, to say.

    >>> with DAG("nightly"):  # doctest: +SKIP
    ...     drives = ros_to_parquet(drives=find_drives(), output_uri="s3://lake/drives")
    ...     report(drives.output)
    """
    if drives is not None and conf is not None:
        raise ValueError(f"task group {group_id!r} takes 'drives' or 'conf', not both")
    defaults: dict[str, Any] = dict(default_args or {})
    group = RosToParquetTaskGroup(
        group_id=group_id,
        prefix_group_id=prefix_group_id,
        default_args=defaults,  # type: ignore[arg-type]
    )
    if terminate_on_kill is None:  # by itself the sensor ends no jobs
        inherited = {**group.dag.default_args, **group.default_args}
        terminate_on_kill = inherited.get("terminate_on_kill", True)
    connection = _given(region_name=region_name)
    if aws_conn_id is not _NOT_GIVEN:
        connection["aws_conn_id"] = aws_conn_id
    with group:
        group.submit = RosToParquetBatchOperator(
            task_id="submit",
            **_given(
                conf=conf if drives is None else {"drives_to_process": drives},
                output_uri=output_uri,
                stack_name=stack_name,
                job_queue=job_queue,
                job_definition=job_definition,
                fail_on=fail_on,
                min_success_ratio=min_success_ratio,
            ),
            **connection,
            **submit_arguments,
        )
        group.wait = RosToParquetBatchSensor(
            task_id="wait",
            jobs=group.submit.output,
            **_given(
                deferrable=deferrable,
                terminate_on_kill=terminate_on_kill,
                runnable_timeout=runnable_timeout,
                end_stuck=end_stuck,
                drives_page=drives_page,
                poke_interval=poke_interval,
                timeout=timeout,
            ),
            **connection,
        )
        group.announce = None
        if asset_alias is not None:
            group.announce = RosToParquetAnnounceOperator(
                task_id="announce", summary=group.output, asset_alias=asset_alias
            )
            # Not "on_failure_fail_dagrun": the run's state would then be this task's, not that of "wait".
            group.announce.as_teardown()
    return group


def _given(**arguments: Any) -> dict[str, Any]:
    """Those that are: Airflow fills in its default arguments only for what an operator is not passed."""
    return {name: value for name, value in arguments.items() if value is not None}
