"""The operator that turns drives into AWS Batch jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator

from airflow_batch_ros.allowed import AllowList, check_allowed, of_job_definition, parse_allowed
from airflow_batch_ros.conf import CONF_KEYS, ConfError, PipelineConf, parse_conf, parse_output
from airflow_batch_ros.jobs import (
    DEFAULT_MAX_MEMORY_MIB,
    DriveJob,
    SubmitOptions,
    describe,
    log_group,
    shown_ids,
)
from airflow_batch_ros.links.batch import BatchJobLink, BatchLogsLink, LakeLink
from airflow_batch_ros.plan import DEFAULT_SHARD_BYTES

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage
    from mypy_boto3_batch import BatchClient

    from airflow_batch_ros.fanout import Fanout
    from airflow_batch_ros.hooks.batch import RosToParquetBatchHook
    from airflow_batch_ros.stack.outputs import StackOutputs


N = TypeVar("N", int, float)

DEFAULT_NAME = "ros-to-parquet"
"""Of the job queue and the job definition, where neither they nor a stack are named."""


class RosToParquetBatchOperator(BaseOperator):
    """Plans drives of ROS bags and submits one AWS Batch job per drive; does not wait for them.

    Returns a list with an entry per drive (the fields of `airflow_batch_ros.jobs.DriveJob`), which
    `RosToParquetBatchSensor` takes. All drives are planned before any is submitted: if one cannot be,
    nothing is submitted and the error names every problem. Running the task again submits nothing that is
    live or done, and of what failed only the shards that are missing.

    :param conf: ``{"drives_to_process": {drive_id: {"bucket": ..., "prefix": ...}}}`` and the optional keys
        of `airflow_batch_ros.conf`, as a mapping or JSON text. By default the DAG run's conf, and the
        DAG's params of the same names.
    :param output_uri: S3 URI of the lake, where the conf has no ``output``.
    :param stack_name: a stack of ``airflow-batch-ros stack``, for what of output_uri, job_queue and
        job_definition is not given.
    :param job_queue: Batch job queue; by default the stack's, else ``ros-to-parquet``.
    :param job_definition: Batch job definition, whose image's entry point is ``ros-to-parquet``; by default
        the stack's, else ``ros-to-parquet``.
    :param fail_on: states of a drive that fail the run, or ``quality_warn``, ``quality_error`` (quality
        checks of that level or a worse one), where the conf has no ``fail_on``.
    :param min_success_ratio: share of the drives, 0 to 1, that must not end in such a state, or the run
        fails; where the conf has none. By default 1: any drive fails it.
    :param shard_bytes: stored bytes of bags that one container reads; larger bags are split.
    :param vcpus: vCPUs of each container; by default the job definition's.
    :param memory_mib: memory of each container; by default the job definition's.
    :param max_memory_mib: most that a container is given where shards ran out of memory; each time that what
        is missing is submitted again they get twice what they had.
    :param on_demand_queue: where shards go that Spot has reclaimed twice; by default the stack's queue that
        is not on Spot, where its default queue is taken.
    :param tags: tags of the jobs and of what Batch starts for them.
    :param requester_pays: the buckets of bags bill who reads them, and you agree to pay; by default what the
        stack says, else False.
    :param submit_options: further members of the SubmitJob request, as boto3 names them (``timeout``,
        ``retryStrategy``, ``shareIdentifier``, ``containerOverrides``...).
    :param allowed_uris: the places (``s3://bucket/folder``) that a conf may name: what is at and below them.
        Not templated, so that a conf has no say in it. The option ``allowed_uris`` in section
        ``ros_to_parquet`` of Airflow's configuration holds too, and so does what the job definition lets its
        jobs read and write: each can only take away.
    :param console_base_url: where links lead; by default the option ``console_base_url`` in section
        ``ros_to_parquet`` of Airflow's configuration, else the AWS console of the region.
    :param aws_conn_id: AWS connection for S3 and Batch.
    :param region_name: wins over the connection's region.
    """

    template_fields: Sequence[str] = (
        "conf",
        "output_uri",
        "stack_name",
        "job_queue",
        "job_definition",
        "fail_on",
        "min_success_ratio",
        "shard_bytes",
        "vcpus",
        "memory_mib",
        "max_memory_mib",
        "on_demand_queue",
        "tags",
        "submit_options",
        "console_base_url",
        "aws_conn_id",
        "region_name",
    )
    template_fields_renderers = {"conf": "json", "tags": "json", "submit_options": "json"}  # noqa: RUF012
    operator_extra_links = (BatchJobLink(), BatchLogsLink(), LakeLink())
    ui_color = "#cfe8d5"

    def __init__(
        self,
        *,
        conf: Mapping[str, Any] | str | None = None,
        output_uri: str | None = None,
        stack_name: str | None = None,
        job_queue: str | None = None,
        job_definition: str | None = None,
        fail_on: Sequence[str] | None = None,
        min_success_ratio: float | str | None = None,
        shard_bytes: int | str | None = DEFAULT_SHARD_BYTES,
        vcpus: float | str | None = None,
        memory_mib: int | str | None = None,
        max_memory_mib: int | str | None = None,
        on_demand_queue: str | None = None,
        tags: Mapping[str, str] | None = None,
        requester_pays: bool | None = None,
        submit_options: Mapping[str, Any] | None = None,
        allowed_uris: Sequence[str] | None = None,
        console_base_url: str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conf = conf
        self.output_uri = output_uri
        self.stack_name = stack_name
        self.job_queue = job_queue
        self.job_definition = job_definition
        self.fail_on = fail_on
        self.min_success_ratio = min_success_ratio
        self.shard_bytes = shard_bytes
        self.vcpus = vcpus
        self.memory_mib = memory_mib
        self.max_memory_mib = max_memory_mib
        self.on_demand_queue = on_demand_queue
        self.tags = tags
        self.requester_pays = requester_pays
        self.submit_options = submit_options
        self.allowed_uris = allowed_uris
        self.console_base_url = console_base_url
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self._fanout: Fanout | None = None
        self._jobs: list[DriveJob] = []
        self._killed = False

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from botocore.exceptions import BotoCoreError, ClientError

        from airflow_batch_ros.fanout import FanoutError
        from airflow_batch_ros.links.batch import LINKS_KEY

        # Airflow asks for the links of a task that failed too, and logs an error for each it cannot find.
        context["ti"].xcom_push(key=LINKS_KEY, value={})
        # "from None": these messages say all, and the log would have each of them twice.
        try:
            return self._submit_all(context)
        except ConfError as error:
            raise AirflowFailException(str(error)) from None
        except FanoutError as error:
            raise (AirflowException if error.retry_helps else AirflowFailException)(str(error)) from None
        except (BotoCoreError, ClientError) as error:
            raise AirflowException(
                f"AWS could not be asked with connection {self.aws_conn_id!r}: {error}; if trying again "
                "does not help (it submits nothing twice), check the connection's credentials, region and "
                "endpoints"
            ) from error

    def _submit_all(self, context: Context) -> list[dict[str, Any]]:
        from airflow_batch_ros.fanout import Fanout
        from airflow_batch_ros.hooks.batch import RosToParquetBatchHook
        from airflow_batch_ros.pricing import find_containers
        from ros_to_parquet.contract import Run, one_line

        ratio = _number("min_success_ratio", float, self.min_success_ratio)
        own = {"fail_on": self.fail_on, "min_success_ratio": ratio}
        defaults = {key: value for key, value in own.items() if value is not None}
        conf = parse_conf(raw_conf(context) if self.conf is None else self.conf, defaults=defaults)
        hook = RosToParquetBatchHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name or None)
        stack = self._stack(hook, conf)
        output = self._output(conf, stack)
        options = self._submit_options(stack)
        _check_request(hook.batch, options)
        check_allowed(conf, output, self._allow_lists(hook, options))
        self._fanout = Fanout(
            s3=hook.s3,
            batch=hook.batch,
            submitter=hook.submitter,
            output=output,
            conf=conf,
            run=Run(dag_id=context["ti"].dag_id, run_id=context["run_id"]),
            options=options,
            shard_bytes=_size("shard_bytes", int, self.shard_bytes) or DEFAULT_SHARD_BYTES,
            containers=find_containers(hook.batch, options, own=conf.prices, say=self.log.warning),
            say=lambda line: self.log.info(one_line(line)),
            killed=self._killed,
        )
        jobs = self._jobs = self._fanout.submit_all()
        return [job.as_dict() for job in self._with_links(context, hook, jobs)]

    def on_kill(self) -> None:
        """Ends the jobs that this task has submitted or adopted."""
        self._killed = True
        if self._fanout is not None:
            self.log.info("killed: terminating Batch jobs %s", shown_ids(self._fanout.owned))
            for problem in self._fanout.kill():
                self.log.error("could not terminate %s", problem)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage:  # noqa: ARG002
        """The folders of bags that were submitted; asked for by Airflow's OpenLineage provider."""
        from airflow_batch_ros import lineage

        return lineage.of_jobs(self._jobs)

    def _stack(self, hook: RosToParquetBatchHook, conf: PipelineConf) -> StackOutputs | None:
        """What the stack made, where anything is to be taken from it."""
        output_is_known = conf.output is not None or bool(self.output_uri)
        known = output_is_known and self.job_queue and self.job_definition
        if not self.stack_name or (known and self.requester_pays is not None):
            return None
        from airflow_batch_ros.stack.outputs import resolve
        from airflow_batch_ros.stack.parameters import StackError

        try:
            return resolve(hook.cloudformation, self.stack_name)
        except StackError as error:
            raise ConfError([f"argument stack_name: {error}"]) from error

    def _output(self, conf: PipelineConf, stack: StackOutputs | None) -> str:
        if conf.output is not None:
            return conf.output
        if not self.output_uri and stack is not None:
            return parse_output(stack.output_uri)
        if not self.output_uri:
            problem = (
                "key 'output': missing, and there is no default (argument output_uri of the operator, which "
                "the DAG ros_image_pipeline takes from the Airflow Variable ros_to_parquet_output)"
            )
            raise ConfError([problem])
        return parse_output(self.output_uri)

    def _allow_lists(self, hook: RosToParquetBatchHook, options: SubmitOptions) -> list[AllowList | None]:
        lists = [of_job_definition(hook.batch, options, say=self.log.warning)]
        if self.allowed_uris is not None:
            lists.append(parse_allowed(self.allowed_uris, origin="argument allowed_uris of the operator"))
        if text := configured("allowed_uris"):
            option = "option allowed_uris in section ros_to_parquet of Airflow's configuration"
            lists.append(parse_allowed(text, origin=option))
        return lists

    def _submit_options(self, stack: StackOutputs | None) -> SubmitOptions:
        if not isinstance(self.requester_pays, bool | None):  # a text is true, whatever it says
            raise ConfError(
                [f"argument requester_pays: True, False or None is expected, not {self.requester_pays!r}"]
            )
        return SubmitOptions(
            job_queue=self.job_queue or (stack.job_queue if stack else DEFAULT_NAME),
            job_definition=self.job_definition or (stack.job_definition if stack else DEFAULT_NAME),
            vcpus=_size("vcpus", float, self.vcpus),
            memory_mib=_size("memory_mib", int, self.memory_mib),
            max_memory_mib=_size("max_memory_mib", int, self.max_memory_mib) or DEFAULT_MAX_MEMORY_MIB,
            on_demand_queue=self.on_demand_queue
            or ("" if stack is None or self.job_queue else stack.on_demand_queue),
            tags=_tags(self.tags),
            extra=_mapping("submit_options", self.submit_options),
            requester_pays=bool(stack and stack.requester_pays)
            if self.requester_pays is None
            else self.requester_pays,
        )

    def _with_links(
        self, context: Context, hook: RosToParquetBatchHook, jobs: list[DriveJob]
    ) -> list[DriveJob]:
        from airflow_batch_ros import console
        from airflow_batch_ros.links import batch as links

        region = hook.batch.meta.region_name
        base = (
            self.console_base_url or configured("console_base_url") or console.default_base(region)
        ).rstrip("/")
        linked = [
            replace(job, console_url=console.job_url(base, region, job.job_id) if job.job_id else None)
            for job in jobs
        ]
        ids = [job.job_id for job in jobs if job.job_id]
        group = log_group(describe(hook.batch, ids[:1]).get(ids[0])) if ids else None
        context["ti"].xcom_push(key=links.LINKS_KEY, value=links.urls(base, region, linked, group))
        for job in linked:
            if job.console_url:
                self.log.info("drive %s: %s", job.drive_id, job.console_url)
        return linked


def _number(name: str, kind: Callable[[Any], N], value: object) -> N | None:
    """An argument that may have come from a template.

    Raises:
        ConfError: not a number.
    """
    if value in (None, "", "None"):
        return None
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfError([f"argument {name}: a number is expected, not {value!r}"]) from error


def _size(name: str, kind: Callable[[Any], N], value: object) -> N | None:
    """A `_number` above 0, and finite."""
    size = _number(name, kind, value)
    if size is not None and not 0 < size < math.inf:
        raise ConfError([f"argument {name}: a number above 0 is expected, not {value!r}"])
    return size


def _mapping(name: str, value: object) -> dict[str, Any]:
    """Raises `ConfError` for what is none; None, or an empty text, is an empty one."""
    if value in (None, "", "None"):
        return {}
    if not isinstance(value, Mapping):
        raise ConfError([f"argument {name}: a mapping is expected, not {value!r}"])
    return dict(value)


def _tags(value: object) -> dict[str, str]:
    """With numbers as text, which native templates make of ``{{ ds_nodash }}``."""
    given = _mapping("tags", value)
    problems = [
        f"argument tags: {key!r}: text is expected, not {each!r}"
        for key, each in given.items()
        if not isinstance(each, str | int | float)
    ]
    if problems:
        raise ConfError(problems)
    return {str(key): str(each) for key, each in given.items()}


def _check_request(batch: BatchClient, options: SubmitOptions) -> None:
    """Raises `ConfError` for members that no SubmitJob request has, by what boto3 knows of it."""
    from botocore.validate import ParamValidator

    shape = batch.meta.service_model.operation_model("SubmitJob").input_shape
    if shape is None:
        return
    required = dict.fromkeys(shape.required_members, "added later")
    report = ParamValidator().validate({**required, **options.extra}, shape)
    if report.has_errors():
        problems = report.generate_report().splitlines()
        raise ConfError([f"argument submit_options: {problem}" for problem in problems])


def raw_conf(context: Context) -> dict[str, Any]:
    """The conf of a DAG run: its params by the conf's keys, and all that it was triggered with.

    What it was triggered with is taken whole, so that a key that is misspelt is refused, not ignored.
    """
    params = context.get("params") or {}
    known = {key: params[key] for key in CONF_KEYS if key in params and params[key] is not None}
    given = context["dag_run"].conf or {}
    return {**known, **given}


def configured(option: str) -> str | None:
    """An option in section ``ros_to_parquet`` of Airflow's configuration; None where it is not set."""
    from airflow.configuration import conf

    return conf.get("ros_to_parquet", option, fallback=None) or None
