"""A stack made, changed and deleted; what CloudFormation says meanwhile is handed on as it comes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from airflow_batch_ros.stack.outputs import find_stack, outputs_of
from airflow_batch_ros.stack.parameters import OptionsError, StackError, check_parameters

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef
    from mypy_boto3_ecr import ECRClient

POLL_S = 5.0

CLOCK_SKEW = timedelta(seconds=5)
"""Between AWS's clock, which events have, and this machine's."""

MAX_TEMPLATE_BYTES = 51_200
"""Of a template that is sent with the request."""

IN_REVIEW = "REVIEW_IN_PROGRESS"
"""State of a stack that a change set is to make: nothing goes on, until somebody executes it."""

NOT_EXECUTED = "a change set has made it, which nobody has executed"

_CAPABILITIES: Any = ["CAPABILITY_IAM"]
_NO_CHANGE = "No updates are to be performed"


@dataclass(frozen=True, slots=True)
class Deployment:
    """How CloudFormation is asked.

    Attributes:
        say: is given each line of progress.
        role_arn: the role that CloudFormation acts with; empty for the caller's.
        tags: of the stack, and so of all that it makes.
    """

    cloudformation: CloudFormationClient
    say: Callable[[str], None]
    role_arn: str = ""
    tags: Mapping[str, str] | None = None
    poll_s: float = POLL_S


def template_text(removal_policy: str = "RETAIN") -> str:
    """The template as it is sent; with DESTROY, deleting the stack deletes images and logs. A lake stays.

    Comments and empty lines are left out: there is a limit to its size.
    """
    text = files("airflow_batch_ros.stack").joinpath("template.yaml").read_text("utf-8")
    text = re.sub(r"^ *# .*\n|  # .*$|^\n", "", text, flags=re.MULTILINE)
    if removal_policy == "DESTROY":
        text = text.replace("DeletionPolicy: Retain", "DeletionPolicy: Delete")
        text = text.replace("UpdateReplacePolicy: Retain", "UpdateReplacePolicy: Delete")
        text = text.replace(
            "ImageScanningConfiguration: ", "EmptyOnDelete: true\n      ImageScanningConfiguration: "
        )
    return _compact(text)


def _compact(text: str) -> str:
    """The same YAML in fewer bytes: a parameter is one line, lists stand below their keys."""
    import yaml

    root: Any = yaml.compose(text)
    parameters = next(value for key, value in root.value if key.value == "Parameters")
    for _, parameter in parameters.value:
        parameter.flow_style = True
    said = yaml.serialize(root, width=10_000, allow_unicode=True)
    return re.sub(r"(!(?:Ref|GetAtt|Condition)) '([\w.:]+)'", r"\1 \2", said)


def template_defaults() -> dict[str, str | None]:
    """The template's parameters and their defaults; None where one has none."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes CloudFormation's tags, whose meaning is not asked for, as what they are on."""

    def untagged(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return loader.construct_scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node)
        return None

    Loader.add_multi_constructor("!", untagged)
    parameters = yaml.load(template_text(), Loader)["Parameters"]
    return {name: str(each["Default"]) if "Default" in each else None for name, each in parameters.items()}


def create(
    deployment: Deployment, name: str, parameters: Mapping[str, str], *, removal_policy: str = "RETAIN"
) -> None:
    """Begins to make the stack.

    Raises:
        OptionsError: the parameters cannot be.
        StackError: there is a stack of this name.
    """
    check_parameters(parameters)
    if find_stack(deployment.cloudformation, name) is not None:
        raise StackError(
            f"there is a stack {name} already: change it with airflow-batch-ros stack update {name}"
        )
    deployment.cloudformation.create_stack(
        StackName=name,
        TemplateBody=template_text(removal_policy),
        # All of them, so that a later version's other defaults do not change what was made.
        Parameters=_as_list({**_present(template_defaults()), **parameters}),
        Capabilities=_CAPABILITIES,
        OnFailure="DO_NOTHING",  # so that what failed can be looked at, and the rest be resumed
        **_common(deployment),
    )


def update(
    deployment: Deployment, name: str, parameters: Mapping[str, str], *, removal_policy: str | None = None
) -> bool:
    """Begins to change the stack; parameters that are not given stay. False where there is nothing to change.

    Raises:
        OptionsError: the parameters cannot be.
        StackError: there is no such stack.
    """
    stack = find_stack(deployment.cloudformation, name)
    if stack is None:
        raise StackError(f"there is no stack {name}: airflow-batch-ros stack create {name} makes it")
    from botocore.exceptions import ClientError

    defaults = template_defaults()  # an older version's template may have had other parameters
    before = {
        each["ParameterKey"]: each["ParameterValue"]
        for each in stack.get("Parameters", [])
        if each["ParameterKey"] in defaults
    }
    check_parameters({**before, **parameters}, given=parameters)
    if parameters.get("FairShare", before.get("FairShare", "false")) != before.get("FairShare", "false"):
        raise OptionsError(
            f"fair-share: AWS lets no queue change it; stack {name} would have to be made anew"
        )
    if removal_policy is None:
        deployed = deployment.cloudformation.get_template(StackName=name)["TemplateBody"]
        removal_policy = "RETAIN" if "DeletionPolicy: Retain" in str(deployed) else "DESTROY"
    try:
        deployment.cloudformation.update_stack(
            StackName=name,
            TemplateBody=template_text(removal_policy),
            Parameters=_as_list(parameters, kept=before),
            Capabilities=_CAPABILITIES,
            **_common(deployment),
        )
    except ClientError as error:
        if _NO_CHANGE in str(error):
            return False
        raise
    return True


def delete(deployment: Deployment, name: str) -> str:
    """Begins to delete the stack; its id, by which events are found when it is gone.

    Raises:
        StackError: there is no such stack.
    """
    stack = find_stack(deployment.cloudformation, name)
    if stack is None:
        raise StackError(f"there is no stack {name}")
    role: Any = {"RoleARN": deployment.role_arn} if deployment.role_arn else {}
    deployment.cloudformation.delete_stack(StackName=name, **role)
    return stack["StackId"]


def wait(deployment: Deployment, name: str, *, since: datetime) -> StackTypeDef | None:
    """Waits until what goes on with the stack (name or id) has ended; None where it is gone.

    Events since then are told as they come.

    Raises:
        StackError: it did not end well; with the reasons that resources gave.
    """
    seen: set[str] = set()
    problems: list[str] = []
    while True:
        stack = find_stack(deployment.cloudformation, name)  # first, so that no event is missed
        if stack is None:
            return None
        _tell_events(deployment, stack["StackId"], since, seen, problems)
        status = str(stack["StackStatus"])
        if not status.endswith("_IN_PROGRESS") or status == IN_REVIEW:
            break
        time.sleep(deployment.poll_s)
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        unsaid = NOT_EXECUTED if status == IN_REVIEW else "no reason is given"
        reasons = "; ".join(problems) or stack.get("StackStatusReason", unsaid)
        raise StackError(f"stack {name} is {status}: {reasons}")
    return stack


def _tell_events(
    deployment: Deployment, stack_id: str, since: datetime, seen: set[str], problems: list[str]
) -> None:
    events = []
    pages = deployment.cloudformation.get_paginator("describe_stack_events")
    for page in pages.paginate(StackName=stack_id):
        fresh = [
            event
            for event in page["StackEvents"]
            if event["EventId"] not in seen and event["Timestamp"] >= since
        ]
        events += fresh
        if len(fresh) < len(page["StackEvents"]):  # newest first: the rest is older
            break
    for event in reversed(events):
        seen.add(event["EventId"])
        status, resource = str(event.get("ResourceStatus", "")), event.get("LogicalResourceId", "")
        reason = event.get("ResourceStatusReason", "")
        moment = event["Timestamp"].astimezone().strftime("%H:%M:%S")
        deployment.say(f"{moment}  {status:<28} {resource}{f': {reason}' if reason else ''}")
        if status.endswith("_FAILED") and reason:
            problems.append(f"{resource}: {reason}")


def _as_list(parameters: Mapping[str, str], kept: Iterable[str] = ()) -> Any:
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in sorted(parameters.items())]
    return given + [
        {"ParameterKey": name, "UsePreviousValue": True} for name in kept if name not in parameters
    ]


def _present(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _common(deployment: Deployment) -> Any:
    tags = [{"Key": key, "Value": value} for key, value in (deployment.tags or {}).items()]
    return {
        **({"RoleARN": deployment.role_arn} if deployment.role_arn else {}),
        **({"Tags": tags} if tags else {}),
    }


def newest_image(ecr: ECRClient, stack: StackTypeDef) -> str | None:
    """URI by digest of the image that was pushed last to the stack's repository; None where there is none.

    One with a tag, where there is any: parts of an index, such as attestations, have none.
    """
    repository = outputs_of(stack).get("RepositoryUri")
    if repository is None:
        return None
    pages = ecr.get_paginator("describe_images").paginate(repositoryName=repository.partition("/")[2])
    images = [image for page in pages for image in page["imageDetails"]]
    if not images:
        return None
    tagged = [image for image in images if image.get("imageTags")]
    newest = max(tagged or images, key=lambda image: image["imagePushedAt"])
    return f"{repository}@{newest['imageDigest']}"
