"""``airflow-batch-ros image``: the image that jobs run, built here and pushed to a stack's repository."""

from __future__ import annotations

import argparse
import base64
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_batch_ros.commands.terminal import CommandError, Exit, guarded
from airflow_batch_ros.image.context import build_context, engine_version, whole_context
from airflow_batch_ros.image.engine import (
    ENGINES,
    Engine,
    ImageError,
    find_engine,
    inspect,
    login,
    push,
)

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

PLATFORMS = ("linux/amd64", "linux/arm64")

NAME = "ros-to-parquet"

ARCHITECTURES = {"X86_64": "amd64", "ARM64": "arm64"}
"""What an image registry calls the architectures of a stack."""

EXIT_HELP = (
    "exit codes: 0 well; 2 wrong command line; 4 it could not be built or pushed, and why is said; 75 AWS "
    "could not be asked, and trying again may help"
)

_ECR_HOST = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)"
)
_REFERENCE = re.compile(r"(?P<repository>[^@]+?)(?::(?P<tag>\w[\w.-]{0,127}))?")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "image",
        help="build the image that jobs run, and push it",
        description="Builds the image that AWS Batch runs from what this package carries, with Docker or "
        "Podman, and pushes it to a stack's repository or any other.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    build = actions.add_parser(
        "build",
        help="build the image",
        description="Builds the image. What the engine prints goes to stderr, the image's name to stdout.",
        epilog=EXIT_HELP,
    )
    _add_common(build)
    build.add_argument(
        "--platform",
        choices=PLATFORMS,
        help="default: this machine's; another needs emulation (QEMU's binfmt handlers)",
    )
    build.add_argument(
        "--extra-packages",
        nargs="+",
        metavar="PACKAGE",
        help="of Debian, installed too (default: EXTRA_PACKAGES in the environment)",
    )
    build.add_argument(
        "--pip-packages",
        nargs="+",
        metavar="REQUIREMENT",
        help="installed beside the engine, whose own packages stay as they are locked (default: "
        "PIP_PACKAGES in the environment)",
    )
    build.add_argument(
        "--base-image",
        metavar="REFERENCE",
        help="python:3.12-slim-bookworm from another registry, or by digest",
    )
    build.add_argument(
        "--build-arg",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="handed on, such as HTTPS_PROXY, or REVISION for the label; repeatable",
    )
    build.add_argument("--pull", action="store_true", help="look for a newer base image")
    build.set_defaults(run=_command(_build))

    send = actions.add_parser(
        "push",
        help="push the image to a stack's repository, or any other",
        description="Pushes the image, and prints it by digest. Logs in to ECR by itself, as AWS's own tools "
        "find credentials, and for this push alone; elsewhere the engine's own login holds.",
        epilog=EXIT_HELP,
    )
    _add_common(send)
    place = send.add_mutually_exclusive_group(required=True)
    place.add_argument("--stack", metavar="NAME", help="whose repository it goes to")
    place.add_argument("--to", metavar="REPOSITORY[:TAG]", help="any repository")
    send.add_argument(
        "--update",
        action="store_true",
        help="have the stack's jobs run it: job definitions are made, or made anew, with its digest",
    )
    send.add_argument("--region", metavar="REGION", help="default: as AWS's own tools find it")
    send.add_argument("--profile", metavar="NAME", help="of AWS's configuration")
    send.add_argument(
        "--role-arn", default="", metavar="ARN", help="with --update: the role that CloudFormation acts with"
    )
    send.set_defaults(run=_command(_push))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=ENGINES, help="default: the first of them that answers")
    parser.add_argument(
        "--tag", metavar="NAME:TAG", help=f"the image's name here (default: {NAME}: and the version)"
    )


def _command(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    @guarded
    @functools.wraps(command)
    def run(arguments: argparse.Namespace) -> int:
        from airflow_batch_ros.stack.parameters import StackError

        try:
            return command(arguments)
        except (ImageError, StackError) as error:
            raise CommandError(str(error), Exit.REFUSED) from error

    return run


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- build ------------------------------------------------------------------------------------------


def _build(arguments: argparse.Namespace) -> int:
    context = build_context()
    version = engine_version(context)
    tag = arguments.tag or f"{NAME}:{version}"
    given = {"VERSION": version}
    for name, words in (
        ("EXTRA_PACKAGES", arguments.extra_packages),
        ("PIP_PACKAGES", arguments.pip_packages),
    ):
        packages = " ".join(words) if words else os.environ.get(name, "").strip()
        if packages:
            given[name] = packages
    if arguments.base_image:
        given["BASE_IMAGE"] = arguments.base_image
    given |= dict(_build_argument(text) for text in arguments.build_arg)
    engine = find_engine(arguments.engine)
    _say(f"building {tag} with {engine.name} from {context}")
    words = ["build", "--tag", tag]
    for name, value in given.items():
        words += ["--build-arg", f"{name}={value}"]
    if arguments.platform:
        words += ["--platform", arguments.platform]
    if arguments.pull:
        words.append("--pull")
    # An image with attestations is an index of several, of which a registry's list shows each.
    environment = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    with whole_context() as folder:
        built = engine.run(*words, str(folder), environment=environment)
    if not built:
        raise ImageError(
            f"{tag} could not be built, as {engine.name} says above"
            + (
                f"; if it cannot run programs for {arguments.platform}: {_EMULATION}"
                if arguments.platform
                else ""
            )
        )
    image = inspect(engine, tag)
    if image is None:
        raise ImageError(f"{engine.name} has built {tag}, but does not have it: a builder of its own?")
    _say(f"built {tag}: {image.size_bytes / 1e6:.0f} MB, linux/{image.architecture}")
    print(tag)
    return Exit.OK


_EMULATION = "install QEMU's handlers (the package qemu-user-static), or build on such a machine"


def _build_argument(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CommandError(f"--build-arg {text}: KEY=VALUE is expected", Exit.USAGE)
    return key, value


# --- push -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    """Where an image goes."""

    repository: str
    tag: str
    stack: StackTypeDef | None = None


def _push(arguments: argparse.Namespace) -> int:
    if arguments.update and not arguments.stack:
        raise CommandError("--update: of which stack? (--stack NAME)", Exit.USAGE)
    engine = find_engine(arguments.engine)
    local = arguments.tag or f"{NAME}:{engine_version(build_context())}"
    image = inspect(engine, local)
    if image is None:
        raise ImageError(f"{engine.name} has no image {local}: airflow-batch-ros image build makes it")
    target = _target(arguments, local)
    if target.stack is not None:
        _check_architecture(target.stack, local, image.architecture)
    with _logged_in(engine, target.repository, arguments) as environment:
        _say(f"pushing {local} to {target.repository}:{target.tag} with {engine.name}")
        pushed = push(engine, local, target.repository, target.tag, environment)
    print(pushed, flush=True)
    if target.stack is not None:
        _give(arguments, target.stack, pushed)
    return Exit.OK


def _target(arguments: argparse.Namespace, local: str) -> _Target:
    _, local_tag = split_reference(local)
    if arguments.to:
        repository, tag = split_reference(arguments.to)
        return _Target(repository, tag or local_tag or "latest")
    from airflow_batch_ros.stack import outputs
    from airflow_batch_ros.stack.command import session_of

    cloudformation = session_of(arguments).client("cloudformation")
    made = outputs.read_outputs(cloudformation, arguments.stack)
    if "RepositoryUri" not in made:
        raise ImageError(f"stack {arguments.stack} has no output RepositoryUri: was it made by this package?")
    stack = outputs.find_stack(cloudformation, arguments.stack)
    return _Target(made["RepositoryUri"], local_tag or "latest", stack)


def split_reference(text: str) -> tuple[str, str]:
    """Repository and tag (empty where none is named) of an image's name.

    >>> split_reference("localhost:5000/ros-to-parquet:0.1.0")
    ('localhost:5000/ros-to-parquet', '0.1.0')

    Raises:
        ImageError: it is none to push to.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ImageError(f"{text}: REPOSITORY or REPOSITORY:TAG is expected")
    return match["repository"], match["tag"] or ""


def _check_architecture(stack: StackTypeDef, local: str, architecture: str) -> None:
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])}
    wanted = ARCHITECTURES.get(parameters.get("Architecture", ""))
    if wanted not in (None, architecture):
        raise ImageError(
            f"{local} is for linux/{architecture}, stack {stack['StackName']} runs jobs on linux/{wanted}: "
            f"airflow-batch-ros image build --platform linux/{wanted}"
        )


def _logged_in(
    engine: Engine, repository: str, arguments: argparse.Namespace
) -> AbstractContextManager[Mapping[str, str] | None]:
    """The environment of the push, which for ECR has a login."""
    registry = repository.partition("/")[0]
    ecr = _ECR_HOST.fullmatch(registry)
    if ecr is None:
        return nullcontext()
    import boto3

    session = boto3.Session(profile_name=arguments.profile, region_name=ecr["region"])
    return login(engine, registry, *_authorization(session))


def _authorization(session: boto3.Session) -> tuple[str, str]:
    """User and password, good for twelve hours, of all of ECR in the session's region."""
    (found,) = session.client("ecr").get_authorization_token()["authorizationData"]
    user, _, password = base64.b64decode(found["authorizationToken"]).decode().partition(":")
    return user, password


def _give(arguments: argparse.Namespace, stack: StackTypeDef, pushed: str) -> None:
    """Has the stack run the image, or says how it would."""
    from airflow_batch_ros.stack import deploy, outputs
    from airflow_batch_ros.stack.command import session_of

    name = arguments.stack
    if not arguments.update:
        action = "update" if "JobDefinitionArn" in outputs.outputs_of(stack) else "create"
        _say(f"next: airflow-batch-ros stack {action} {name} --image {pushed}")
        return
    cloudformation = session_of(arguments).client("cloudformation")
    deployment = deploy.Deployment(cloudformation, _say, arguments.role_arn)
    since = datetime.now(UTC) - deploy.CLOCK_SKEW
    if deploy.update(deployment, name, {"ImageUri": pushed}):
        deploy.wait(deployment, name, since=since)
        _say(f"stack {name} runs {pushed}")
    else:
        _say(f"stack {name} runs it already")
