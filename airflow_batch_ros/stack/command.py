"""``airflow-batch-ros stack``: what AWS needs to run drives, in one CloudFormation stack."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.stack import deploy, outputs
from airflow_batch_ros.stack.environment import read_environment
from airflow_batch_ros.stack.parameters import (
    MAX_RETRIES,
    NETWORKS,
    PLATFORMS,
    REMOVAL_POLICIES,
    OptionsError,
    StackError,
    StackOptions,
    partition,
    template_parameters,
)

if TYPE_CHECKING:
    import boto3

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PROBLEMS = 4

DEFAULT_PLATFORM = "FARGATE_SPOT"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "stack",
        help="queues, job definitions, roles and repository in your AWS account, as one stack",
        description="One CloudFormation stack: the image's repository, roles with the rights they need, "
        "compute environments, job queues and job definitions, optionally a network.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    create = actions.add_parser(
        "create",
        help="make a stack, or go on making it",
        description="Makes the stack in two steps: first all that needs no image, the repository among it; "
        "then, with an image in it (--image, or the last one pushed), the job definitions. Run again after "
        "the image was pushed, or after an error, it goes on where it was.",
    )
    _add_common(create)
    _add_options(create)
    create.add_argument(
        "--from-env",
        metavar="PREFIX",
        help="options are environment variables too: PREFIXMEMORY_MIB and so on; flags win, and what neither "
        "says has its default, also where the stack is there already",
    )
    _add_wait(create)
    create.set_defaults(run=_guarded(_create))

    update = actions.add_parser(
        "update",
        help="change a stack; what is not named stays",
        description="Options not given stay as they are.",
    )
    _add_common(update)
    _add_options(update)
    _add_wait(update)
    update.set_defaults(run=_guarded(_update))

    delete = actions.add_parser(
        "delete",
        help="delete what the stack made; images and logs stay, unless it was made with DESTROY",
    )
    _add_common(delete)
    delete.add_argument("--missing-ok", action="store_true", help="no error where there is none")
    _add_wait(delete)
    delete.set_defaults(run=_guarded(_delete))

    show = actions.add_parser("outputs", help="what the stack made, for people, shells and Airflow")
    _add_common(show)
    show.add_argument(
        "--format",
        choices=(*outputs.FORMATS, "bucket-policy"),
        default="table",
        help="env: exports for Airflow's environment; airflow: for `airflow variables import`; "
        "bucket-policy: what source buckets of other accounts must let in (default: %(default)s)",
    )
    show.set_defaults(run=_guarded(_outputs))

    check = actions.add_parser(
        "doctor",
        help="say in words what is wrong with a stack or an account",
        description=f"Checks what jobs need; exit code {EXIT_PROBLEMS} where something is wrong.",
    )
    _add_common(check)
    check.set_defaults(run=_guarded(_doctor))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the stack's")
    parser.add_argument("--region", metavar="REGION", help="default: as AWS's own tools find it")
    parser.add_argument("--profile", metavar="NAME", help="of AWS's configuration")
    parser.add_argument(
        "--role-arn", default="", metavar="ARN", help="the role that CloudFormation acts with"
    )


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="until AWS has done it, or end while AWS goes on (default: wait)",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="on all that is made; repeatable"
    )
    what = parser.add_argument_group("what jobs may read and write")
    what.add_argument(
        "--source",
        dest="sources",
        action="append",
        metavar="URI",
        help="s3://bucket/prefix/ below which jobs may read bags; repeatable",
    )
    what.add_argument("--output", metavar="URI", help="s3://bucket/prefix of the lake")
    what.add_argument(
        "--create-output-bucket",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="make the lake's bucket (default: it is there)",
    )
    what.add_argument(
        "--full-access-policy-arn",
        metavar="ARN",
        help="a policy of yours, instead of rights on source and output",
    )
    what.add_argument(
        "--kms-key-arn",
        dest="kms_key_arns",
        action="append",
        metavar="ARN",
        help="of the buckets; repeatable",
    )
    what.add_argument(
        "--glue-database",
        metavar="NAME",
        help="jobs may register tables in it (the conf's catalog); '' for no more",
    )
    what.add_argument(
        "--requester-pays",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="source buckets bill who reads",
    )
    image = parser.add_argument_group("the image")
    image.add_argument(
        "--image", metavar="URI@sha256:...", help="default: the last one in the stack's repository"
    )
    image.add_argument("--architecture", choices=("X86_64", "ARM64"), help="default: X86_64")
    job = parser.add_argument_group("each job")
    job.add_argument("--vcpus", metavar="N", help="default: 2")
    job.add_argument("--memory-mib", type=int, metavar="N", help="default: 4096")
    job.add_argument("--ephemeral-storage-gib", type=int, metavar="N", help="disk on Fargate (default: 21)")
    job.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help=f"0 to {MAX_RETRIES}: of jobs that were reclaimed (default: 3)",
    )
    job.add_argument("--timeout-seconds", type=int, metavar="N", help="of an attempt (default: 21600)")
    job.add_argument("--efs-file-system-id", metavar="ID", help="mounted at /mnt/efs, read-only")
    job.add_argument("--efs-access-point-id", metavar="ID")
    place = parser.add_argument_group("where jobs run")
    place.add_argument(
        "--platform",
        dest="platforms",
        action="append",
        choices=PLATFORMS,
        help=f"repeatable: each gets a queue, the first is the default one (default: {DEFAULT_PLATFORM})",
    )
    place.add_argument("--min-vcpus", type=int, metavar="N", help="kept running on EC2 (default: 0)")
    place.add_argument("--desired-vcpus", type=int, metavar="N", help="to begin with on EC2 (default: 0)")
    place.add_argument("--max-vcpus", type=int, metavar="N", help="default: 256")
    place.add_argument(
        "--instance-type",
        dest="instance_types",
        action="append",
        metavar="TYPE",
        help="or family, optimal, default_arm64; repeatable (default: default_x86_64)",
    )
    place.add_argument("--spot-allocation-strategy", metavar="NAME")
    place.add_argument("--spot-price-percentage", type=int, metavar="N", help="of the on-demand price")
    place.add_argument("--launch-template-id", metavar="ID")
    place.add_argument("--launch-template-version", metavar="VERSION")
    place.add_argument("--ami-id", metavar="ID", help="Amazon Linux 2023 with the ECS agent")
    place.add_argument("--disk-gib", type=int, metavar="N", help="of EC2 instances (default: 100)")
    place.add_argument("--queue-priority", type=int, metavar="N")
    place.add_argument(
        "--fair-share", action=argparse.BooleanOptionalAction, default=None, help="by shareIdentifier"
    )
    place.add_argument(
        "--runnable-timeout-seconds",
        type=int,
        metavar="N",
        help="after which a job that can never start fails (default: 3600)",
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--network", choices=NETWORKS, help="nat and endpoints make a VPC (default: given, with --subnet-id)"
    )
    network.add_argument("--vpc-cidr", metavar="CIDR", help="of the VPC that is made (default: 10.42.0.0/16)")
    network.add_argument(
        "--vpc-id", metavar="ID", help="of the subnets given, where a security group is made"
    )
    network.add_argument("--subnet-id", dest="subnet_ids", action="append", metavar="ID", help="repeatable")
    network.add_argument(
        "--security-group-id", dest="security_group_ids", action="append", metavar="ID", help="repeatable"
    )
    network.add_argument("--assign-public-ip", choices=("ENABLED", "DISABLED"), help="default: DISABLED")
    start = parser.add_argument_group(
        "what starts runs by itself",
        "An empty text ends it: --schedule ''. Of objects, S3 has to tell EventBridge.",
    )
    start.add_argument("--schedule", metavar="EXPRESSION", help="such as 'rate(1 day)'")
    start.add_argument("--schedule-conf", metavar="URI", help="its conf: s3://bucket/key")
    start.add_argument(
        "--marker",
        metavar="URI",
        help="s3://bucket/prefix/NAME: a NAME in a folder below the prefix starts a run of that folder",
    )
    start.add_argument("--marker-conf", metavar="URI", help="s3://bucket/key: all of its conf but the drives")
    rest = parser.add_argument_group("logs, notices, removal")
    rest.add_argument("--log-retention-days", type=int, metavar="N", help="default: 30")
    rest.add_argument("--notification-topic-arn", metavar="ARN", help="SNS topic that is told of failed jobs")
    rest.add_argument(
        "--notification-email", metavar="ADDRESS", help="without a topic: have one made that writes there"
    )
    rest.add_argument(
        "--removal-policy",
        choices=REMOVAL_POLICIES,
        help="what deleting the stack does with images and logs (default: RETAIN); a lake is never emptied",
    )


def _guarded(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Errors that a user can cause or mend as one line."""

    def run(arguments: argparse.Namespace) -> int:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            return command(arguments)
        except OptionsError as error:
            print(error, file=sys.stderr)
            return EXIT_USAGE
        except StackError as error:
            print(error, file=sys.stderr)
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            print(f"AWS: {error}", file=sys.stderr)
        return EXIT_FAILED

    return run


def session_of(arguments: argparse.Namespace) -> boto3.Session:
    """Of the profile and region that were asked for.

    Raises:
        OptionsError: there is no region.
    """
    import boto3

    session = boto3.Session(profile_name=arguments.profile, region_name=arguments.region)
    if session.region_name is None:
        raise OptionsError("no region: name one (--region, or AWS_DEFAULT_REGION)")
    return session


def _options(arguments: argparse.Namespace) -> StackOptions:
    values: dict[str, Any] = {}
    for each in dataclasses.fields(StackOptions):
        value = getattr(arguments, each.name)
        values[each.name] = tuple(value) if isinstance(value, list) else value
    return StackOptions(**values)


def _deployment(arguments: argparse.Namespace, session: boto3.Session) -> deploy.Deployment:
    tags = {}
    for tag in getattr(arguments, "tag", []):
        key, separator, value = tag.partition("=")
        if not (key and separator):
            raise OptionsError(f"--tag {tag}: KEY=VALUE is expected")
        tags[key] = value
    return deploy.Deployment(session.client("cloudformation"), print, arguments.role_arn, tags)


def _create(arguments: argparse.Namespace) -> int:
    session = session_of(arguments)
    deployment = _deployment(arguments, session)
    options = _options(arguments)
    if arguments.from_env is not None:
        options = _with_environment(arguments, options)
    given = template_parameters(options, region=session.region_name)
    if arguments.from_env is not None:
        given = {**_defaults(), **given}
    stack = outputs.find_stack(deployment.cloudformation, arguments.name)
    if stack is None:
        parameters = {"Platform": DEFAULT_PLATFORM, **given}
        if "SourceUris" not in parameters or "OutputBucket" not in parameters:
            raise OptionsError(
                "--source and --output are needed: where the bags are, and where the tables go"
            )
        with _progress(deployment, arguments):
            deploy.create(
                deployment,
                arguments.name,
                {**parameters, "ImageUri": arguments.image or ""},
                removal_policy=arguments.removal_policy or "RETAIN",
            )
        if not arguments.wait:
            return 0
    else:
        print(f"stack {arguments.name} is {stack['StackStatus']}; going on")
        if str(stack["StackStatus"]).endswith("_IN_PROGRESS"):
            deploy.wait(deployment, arguments.name, since=datetime.now(UTC))
    return _give_image(arguments, session, deployment, given)


def _with_environment(arguments: argparse.Namespace, flags: StackOptions) -> StackOptions:
    """What flags do not say, as the environment says it; image and removal policy go to ``arguments``."""
    said, image, removal_policy = read_environment(os.environ, arguments.from_env)
    arguments.image = arguments.image or image or None
    arguments.removal_policy = arguments.removal_policy or removal_policy or "RETAIN"
    given = {
        each.name: value
        for each in dataclasses.fields(flags)
        if (value := getattr(flags, each.name)) is not None
    }
    return dataclasses.replace(said, **given)


def _defaults() -> dict[str, str]:
    """Of all options: what was said before, and is said no more, does not stay."""
    known = {name: value for name, value in deploy.template_defaults().items() if value is not None}
    del known["ImageUri"]
    return {**known, "Platform": DEFAULT_PLATFORM}


def _give_image(
    arguments: argparse.Namespace,
    session: boto3.Session,
    deployment: deploy.Deployment,
    given: dict[str, str],
) -> int:
    """The second step of ``create``: the job definitions, which need an image."""
    stack = outputs.find_stack(deployment.cloudformation, arguments.name)
    if stack is None:
        raise StackError(f"stack {arguments.name} is gone")
    made = outputs.outputs_of(stack)
    image = arguments.image or deploy.newest_image(session.client("ecr"), stack) or ""
    if not image:
        print(
            "next: build the image, and push it for the stack to run:\n"
            "  airflow-batch-ros image build\n"
            f"  airflow-batch-ros image push --stack {arguments.name} --update\n"
            f"or push one to {made.get('RepositoryUri')} by other means, then run this again:\n"
            f"  airflow-batch-ros stack create {arguments.name}"
        )
        return 0
    with _progress(deployment, arguments) as progress:
        progress.changed = deploy.update(
            deployment, arguments.name, {**given, "ImageUri": image}, removal_policy=arguments.removal_policy
        )
    if arguments.wait:
        _print_outputs(deployment, arguments.name)
    return 0


def _update(arguments: argparse.Namespace) -> int:
    session = session_of(arguments)
    deployment = _deployment(arguments, session)
    given = template_parameters(_options(arguments), region=session.region_name)
    if arguments.image:
        given["ImageUri"] = arguments.image
    with _progress(deployment, arguments) as progress:
        progress.changed = deploy.update(
            deployment, arguments.name, given, removal_policy=arguments.removal_policy
        )
    if arguments.wait:
        _print_outputs(deployment, arguments.name)
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    session = session_of(arguments)
    deployment = _deployment(arguments, session)
    since = datetime.now(UTC) - deploy.CLOCK_SKEW
    if arguments.missing_ok and outputs.find_stack(deployment.cloudformation, arguments.name) is None:
        print(f"there is no stack {arguments.name}")
        return 0
    stack_id = deploy.delete(deployment, arguments.name)
    if arguments.wait:
        deploy.wait(deployment, stack_id, since=since)
        print(f"stack {arguments.name} is deleted")
    return 0


@dataclasses.dataclass
class _Progress:
    changed: bool = True


@contextmanager
def _progress(deployment: deploy.Deployment, arguments: argparse.Namespace) -> Iterator[_Progress]:
    """Waits for what was begun inside, unless it was not to be waited for, or nothing was."""
    since = datetime.now(UTC) - deploy.CLOCK_SKEW
    progress = _Progress()
    yield progress
    if not progress.changed:
        print(f"stack {arguments.name} is as asked already")
    elif arguments.wait:
        deploy.wait(deployment, arguments.name, since=since)


def _print_outputs(deployment: deploy.Deployment, name: str) -> None:
    print(outputs.render(outputs.read_outputs(deployment.cloudformation, name), "table"))


def _outputs(arguments: argparse.Namespace) -> int:
    session = session_of(arguments)
    found = outputs.read_outputs(session.client("cloudformation"), arguments.name)
    if arguments.format == "bucket-policy":
        uris = found["SourceUris"].split(",")
        print(outputs.bucket_policy(uris, _readers(session, found), partition=partition(session.region_name)))
    else:
        print(outputs.render(found, arguments.format))
    return 0


def _readers(session: boto3.Session, found: dict[str, str]) -> list[str]:
    """The job role, and the roles that the policy for Airflow is attached to."""
    iam = session.client("iam")
    pages = iam.get_paginator("list_entities_for_policy").paginate(PolicyArn=found["AirflowPolicyArn"])
    names = [role["RoleName"] for page in pages for role in page["PolicyRoles"]]
    # Only the role itself tells its path, which is a part of its ARN (MWAA's are below service-role/).
    return [found["JobRoleArn"], *(iam.get_role(RoleName=name)["Role"]["Arn"] for name in names)]


def _doctor(arguments: argparse.Namespace) -> int:
    from airflow_batch_ros.stack.doctor import examine

    findings = examine(session_of(arguments), arguments.name)
    for finding in findings:
        print(finding.line())
    return EXIT_PROBLEMS if any(finding.level == "problem" for finding in findings) else 0
