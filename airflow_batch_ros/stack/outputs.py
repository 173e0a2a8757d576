"""What a stack made, found by the stack's name: its outputs, for people, shells and DAGs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batch_ros.stack.parameters import StackError, split_uri

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

FORMATS = ("table", "env", "json", "airflow")

_ON_DEMAND = {"FARGATE_SPOT": "FargateQueueArn", "SPOT": "Ec2QueueArn"}
"""The output that names a queue for the same job definition as the platform's, which is never reclaimed."""

_NOT_THERE = "does not exist"


@dataclass(frozen=True, slots=True)
class StackOutputs:
    """Outputs of a stack whose image is there, by the names that the operators use.

    ``on_demand_queue`` is empty where the default queue is not on Spot, or the stack has no other.
    """

    job_queue: str
    job_definition: str
    planner_definition: str
    output_uri: str
    requester_pays: bool
    on_demand_queue: str = ""


def find_stack(cloudformation: CloudFormationClient, name: str) -> StackTypeDef | None:
    """The stack as CloudFormation describes it; None where there is none (or it was deleted)."""
    from botocore.exceptions import ClientError

    try:
        found = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if _NOT_THERE in str(error):
            return None
        raise
    return next((stack for stack in found if stack["StackStatus"] != "DELETE_COMPLETE"), None)


def outputs_of(stack: StackTypeDef) -> dict[str, str]:
    """Outputs by name."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def read_outputs(cloudformation: CloudFormationClient, name: str) -> dict[str, str]:
    """Outputs by name.

    Raises:
        StackError: there is no such stack, or it is not (yet) made.
    """
    stack = find_stack(cloudformation, name)
    region = cloudformation.meta.region_name
    if stack is None:
        raise StackError(
            f"there is no stack {name} in {region}: airflow-batch-ros stack create {name} makes it"
        )
    found = outputs_of(stack)
    if not found:
        raise StackError(f"stack {name} in {region} has no outputs: it is {stack['StackStatus']}")
    return found


def resolve(cloudformation: CloudFormationClient, name: str) -> StackOutputs:
    """What a run needs of a stack.

    Raises:
        StackError: there is no such stack, or it has no image yet.
    """
    outputs = read_outputs(cloudformation, name)
    if "JobDefinitionArn" not in outputs:
        raise StackError(
            f"stack {name} has no job definition, for it has no image yet: push one to "
            f"{outputs.get('RepositoryUri', 'its repository')}, then: airflow-batch-ros stack create {name}"
        )
    return StackOutputs(
        job_queue=outputs["JobQueueArn"],
        job_definition=outputs["JobDefinitionArn"],
        # A stack of an earlier version has none.
        planner_definition=outputs.get("PlannerJobDefinitionArn", ""),
        output_uri=outputs["OutputUri"],
        requester_pays=outputs.get("RequesterPays") == "true",
        on_demand_queue=_on_demand_queue(outputs),
    )


def _on_demand_queue(outputs: Mapping[str, str]) -> str:
    return outputs.get(_ON_DEMAND.get(outputs.get("Platform", ""), ""), "")


def render(outputs: Mapping[str, str], form: str) -> str:
    """The outputs as one of `FORMATS`: ``env`` a shell's exports, ``airflow`` Variables as JSON."""
    if form == "json":
        return json.dumps(dict(outputs), indent=2, sort_keys=True)
    if form == "table":
        width = max(map(len, outputs), default=0)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in sorted(outputs.items()))
    variables = {
        "ros_to_parquet_output": outputs.get("OutputUri"),
        "ros_to_parquet_job_queue": outputs.get("JobQueueArn"),
        "ros_to_parquet_job_definition": outputs.get("JobDefinitionArn"),
        "ros_to_parquet_on_demand_queue": _on_demand_queue(outputs),
    }
    known = {name: value for name, value in variables.items() if value}
    if form == "airflow":  # as `airflow variables import` takes it
        return json.dumps(known, indent=2)
    return "\n".join(
        f"export AIRFLOW_VAR_{name.upper()}={shlex.quote(value)}" for name, value in known.items()
    )


def bucket_policy(uris: Sequence[str], readers: Sequence[str], *, partition: str) -> str:
    """Statements for the policies of buckets in other accounts: ``readers`` may read below ``uris``.

    JSON, by bucket; to be added to the policy that the bucket has.
    """
    by_bucket: dict[str, list[str]] = {}
    for uri in uris:
        bucket, key = split_uri(uri)
        by_bucket.setdefault(bucket, []).append(key)
    policies = {}
    for bucket, keys in by_bucket.items():
        arn = f"arn:{partition}:s3:::{bucket}"
        objects = [f"{arn}/{key}/*" if key else f"{arn}/*" for key in keys]
        principal = {"AWS": list(readers)}
        policies[bucket] = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "ReadBags",
                    "Effect": "Allow",
                    "Principal": principal,
                    "Action": "s3:GetObject",
                    "Resource": objects,
                },
                {
                    "Sid": "ListBags",
                    "Effect": "Allow",
                    "Principal": principal,
                    "Action": "s3:ListBucket",
                    "Resource": arn,
                },
            ],
        }
    return json.dumps(policies, indent=2)
