"""Which lakes the page shows, and how it reaches them: by the settings that the DAG has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow.models.variable import Variable

from airflow_batch_ros import console
from airflow_batch_ros.conf import ConfError, parse_output
from airflow_batch_ros.drives_page.kept import Kept
from airflow_batch_ros.hooks.batch import RosToParquetBatchHook
from airflow_batch_ros.lake import Lake
from airflow_batch_ros.operators.batch import configured

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

KEPT_S = 60.0
"""How long settings and clients are kept: a change of a Variable or connection is seen after that."""

_HOW = (
    "set the Airflow Variable ros_to_parquet_output to the S3 URI of a lake, ros_to_parquet_stack to the "
    "name of a stack, or the option lakes in section ros_to_parquet of Airflow's configuration"
)


class PlaceError(LookupError):
    """No lake is said, or what is said is none; the message says what to set."""


@dataclass(frozen=True, slots=True)
class Place:
    """A lake, the Batch that its jobs are of, and the console that shows both (empty where none is known)."""

    lake: Lake
    batch: BatchClient
    console_base: str

    @property
    def uri(self) -> str:
        return self.lake.output


_kept = Kept(2)


def find_places() -> Sequence[Place]:
    """The lakes: of option ``lakes``, else the one that the Variables of `ros_image_pipeline` name.

    Raises:
        PlaceError: there is none.
    """
    return _kept.get("places", _find, seconds=KEPT_S)


def _find() -> Sequence[Place]:
    hook = RosToParquetBatchHook(aws_conn_id=_variable("aws_conn_id") or "aws_default")
    said = [uri.strip() for uri in (configured("lakes") or "").split(",") if uri.strip()]
    if not said and (output := _variable("output")):
        said = [output]
    if not said and (stack := _variable("stack")):
        said = [_of_stack(hook, stack)]
    if not said:
        raise PlaceError(_HOW)
    try:
        uris = list(dict.fromkeys(parse_output(uri, where="a lake") for uri in said))
    except ConfError as error:
        raise PlaceError(f"{error.problems[0]}; {_HOW}") from error
    region = hook.batch.meta.region_name
    base = configured("console_base_url") or console.default_base(region)
    return [Place(Lake(hook.s3, uri), hook.batch, base.rstrip("/")) for uri in uris]


def _of_stack(hook: RosToParquetBatchHook, name: str) -> str:
    from airflow_batch_ros.stack.outputs import resolve
    from airflow_batch_ros.stack.parameters import StackError

    try:
        return resolve(hook.cloudformation, name).output_uri
    except StackError as error:
        raise PlaceError(f"Airflow Variable ros_to_parquet_stack: {error}") from error


def _variable(name: str) -> str:
    found = Variable.get(f"ros_to_parquet_{name}", default_var="")
    return str(found or "")
