"""What an embedded AWS has in Batch: compute environment, job queue and job definition, made by the API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ros_to_parquet.contract import ALLOW_VARIABLE

JOB_QUEUE = "ros-to-parquet"
JOB_DEFINITION = "ros-to-parquet"
PLANNER_DEFINITION = "ros-to-parquet-plan"
COMPUTE_ENVIRONMENT = "ros-to-parquet"
IMAGE = "ros-to-parquet"

RETRY_STRATEGY: dict[str, Any] = {
    "attempts": 3,
    "evaluateOnExit": [
        {"onStatusReason": "Host EC2*", "action": "RETRY"},  # the instance was reclaimed
        {"onStatusReason": "Your Spot Task was interrupted*", "action": "RETRY"},  # likewise on Fargate
        {"onExitCode": "75", "action": "RETRY"},  # the engine's ExitCode.RETRY
        {"onReason": "*", "action": "EXIT"},  # without it, what matches nothing is retried
    ],
}
JOB_TIMEOUT_S = 6 * 3600


def make_queue(client: Callable[[str], Any]) -> None:
    """Make compute environment, job queue and the definition of jobs that plan.

    ``client`` makes a boto3 client of a service.
    """
    batch, ec2 = client("batch"), client("ec2")
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "batch.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    role = client("iam").create_role(RoleName=COMPUTE_ENVIRONMENT, AssumeRolePolicyDocument=json.dumps(trust))
    subnet = ec2.describe_subnets()["Subnets"][0]
    group = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [subnet["VpcId"]]}])
    environment = batch.create_compute_environment(
        computeEnvironmentName=COMPUTE_ENVIRONMENT,
        type="MANAGED",
        state="ENABLED",
        computeResources={
            "type": "FARGATE",
            "maxvCpus": 256,
            "subnets": [subnet["SubnetId"]],
            "securityGroupIds": [group["SecurityGroups"][0]["GroupId"]],
        },
        serviceRole=role["Role"]["Arn"],
    )
    batch.create_job_queue(
        jobQueueName=JOB_QUEUE,
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": environment["computeEnvironmentArn"]}],
    )
    batch.register_job_definition(
        jobDefinitionName=PLANNER_DEFINITION,
        type="container",
        platformCapabilities=["FARGATE"],
        containerProperties={
            "image": "ros-to-parquet",
            "command": ["--help"],
            "resourceRequirements": [{"type": "VCPU", "value": "0.5"}, {"type": "MEMORY", "value": "1024"}],
        },
        retryStrategy=RETRY_STRATEGY,
        timeout={"attemptDurationSeconds": JOB_TIMEOUT_S},
    )


def allow(batch: Any, uris: Iterable[str], *, image: str = IMAGE) -> None:
    """Have the job definition let jobs read and write below ``uris`` too.

    That takes a new revision, where there is no job definition yet or a URI is new to it. ``image`` is that
    of the first revision; later ones keep it.
    """
    container = _container(batch)
    if container is None:
        _register_job_definition(batch, sorted(uris), image)
        return
    allowed = _allowed(container)
    if not allowed.issuperset(uris):
        _register_job_definition(batch, sorted(allowed.union(uris)), container["image"])


def _container(batch: Any) -> Mapping[str, Any] | None:
    """The container of the newest revision of the job definition; None where there is none."""
    found = batch.describe_job_definitions(jobDefinitionName=JOB_DEFINITION, status="ACTIVE")[
        "jobDefinitions"
    ]
    if not found:
        return None
    newest: Mapping[str, Any] = max(found, key=lambda definition: definition["revision"])
    return dict(newest["containerProperties"])


def _allowed(container: Mapping[str, Any]) -> set[str]:
    for variable in container["environment"]:
        if variable["name"] == ALLOW_VARIABLE:
            return set(variable["value"].split(","))
    return set()


def _register_job_definition(batch: Any, allowed: Sequence[str], image: str) -> None:
    batch.register_job_definition(
        jobDefinitionName=JOB_DEFINITION,
        type="container",
        platformCapabilities=["FARGATE"],
        containerProperties={
            "image": image,
            "command": ["--help"],
            "readonlyRootFilesystem": True,  # the image's scratch is a volume
            "resourceRequirements": [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "4096"}],
            "environment": [{"name": ALLOW_VARIABLE, "value": ",".join(allowed)}] if allowed else [],
        },
        retryStrategy=RETRY_STRATEGY,
        timeout={"attemptDurationSeconds": JOB_TIMEOUT_S},
    )
