"""The AWS stack: its template held to what it promises, and made, changed, used and deleted for real."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from airflow_batch_ros import cli
from airflow_batch_ros.commands import settings
from airflow_batch_ros.operators.batch import RosToParquetBatchOperator
from airflow_batch_ros.stack import deploy, doctor, outputs
from airflow_batch_ros.stack.doctor import Finding, examine
from airflow_batch_ros.stack.parameters import (
    FARGATE_MEMORY_MIB,
    PLATFORMS,
    OptionsError,
    StackError,
    StackOptions,
    check_parameters,
    partition,
    template_parameters,
)
from tests.provider.bags import MESSAGES, ros1_bag
from tests.provider.builders import put
from tests.provider.conftest import make_context
from tests.provider.waiting import wait_for_end

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

TEMPLATE = Path(deploy.__file__).with_name("template.yaml")
REGION = "us-east-1"

UNBOUNDED = {
    "ecr:GetAuthorizationToken",
    "batch:DescribeJobs",
    "batch:ListJobs",
    "batch:DescribeJobDefinitions",
} | {
    "batch:DescribeJobQueues",
    "batch:DescribeComputeEnvironments",
}
"""Actions that AWS gives no resource: a statement about them has to name all."""


class _Loader(yaml.SafeLoader):
    pass


def _tagged(loader: Any, suffix: str, node: Any) -> Any:
    make = {
        yaml.ScalarNode: loader.construct_scalar,
        yaml.SequenceNode: lambda each: loader.construct_sequence(each, deep=True),
        yaml.MappingNode: lambda each: loader.construct_mapping(each, deep=True),
    }[type(node)]
    return {suffix: make(node)}


_Loader.add_multi_constructor("!", _tagged)


def load(path: Path) -> Mapping[str, Any]:
    """A template, its short tags as mappings of the tag's name."""
    loaded: Mapping[str, Any] = yaml.load(path.read_text(), _Loader)
    return loaded


@pytest.fixture(scope="module")
def template() -> Mapping[str, Any]:
    return load(TEMPLATE)


def of_type(template: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {
        name: resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


# --- the template -----------------------------------------------------------------------------------


def test_the_template_is_clean_and_can_be_sent() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), TEMPLATE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    assert len(deploy.template_text("DESTROY").encode()) <= deploy.MAX_TEMPLATE_BYTES


def test_every_option_is_a_parameter(template: Mapping[str, Any]) -> None:
    values: dict[str, Any] = {
        "sources": ("s3://raw/",),
        "output": "s3://lake",
        "platforms": PLATFORMS,
        "retries": 1,
        "vpc_cidr": "10.0.0.0/16",
        "marker": "s3://raw/_DONE",
        "schedule_conf": "s3://raw/nightly.json",
        "marker_conf": "s3://raw/topics.json",
    }
    options = {
        field.name: values.get(field.name, "1" if "tuple" not in str(field.type) else ("1",))
        for field in dataclasses.fields(StackOptions)
    }
    given = template_parameters(StackOptions(**options), region=REGION)
    assert given.keys() <= template["Parameters"].keys()
    assert set(template["Parameters"]) - set(given) == {"ImageUri", "Ec2AllocationStrategy"}


def test_jobs_run_as_nobody_on_a_read_only_root_from_a_digest(template: Mapping[str, Any]) -> None:
    definitions = of_type(template, "AWS::Batch::JobDefinition")
    assert definitions.keys() == {"FargateJobDefinition", "Ec2JobDefinition", "PlannerJobDefinition"}
    assert template["Parameters"]["ImageUri"]["AllowedPattern"].endswith("@sha256:[0-9a-f]{64}$")
    for name, definition in definitions.items():
        container = definition["ContainerProperties"]
        assert container["User"] == "10001"
        assert container["ReadonlyRootFilesystem"] is True
        assert not container.get("Privileged")
        assert container["Image"] == {"Ref": "ImageUri"}
        assert container["JobRoleArn"] != container["ExecutionRoleArn"]
        if name != "PlannerJobDefinition":
            assert container["Environment"][0]["Name"] == "ROS_TO_PARQUET_ALLOW"
        assert definition["ResourceRetentionPolicy"]["SkipDeregisterOnUpdate"] is True
        assert definition["Timeout"]["AttemptDurationSeconds"] == {"Ref": "TimeoutSeconds"}


def test_what_is_tried_again(template: Mapping[str, Any]) -> None:
    for definition in of_type(template, "AWS::Batch::JobDefinition").values():
        rules = definition["RetryStrategy"]["EvaluateOnExit"]
        assert len(rules) <= 5
        assert [rule["Action"] for rule in rules] == ["RETRY", "RETRY", "RETRY", "EXIT"]
        assert rules[-1] == {"Action": "EXIT", "OnReason": "*"}  # no match would mean another attempt
        assert rules[2]["OnExitCode"] == "75"


def test_what_can_never_start_fails(template: Mapping[str, Any]) -> None:
    queues = of_type(template, "AWS::Batch::JobQueue")
    assert len(queues) == len(PLATFORMS)
    for queue in queues.values():
        limits = queue["JobStateTimeLimitActions"]
        assert {limit["Reason"].partition(":")[0] for limit in limits} == {"MISCONFIGURATION", "CAPACITY"}
        assert all(limit["Action"] == "CANCEL" and limit["State"] == "RUNNABLE" for limit in limits)


def statements(template: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        documents = [properties.get("PolicyDocument")]
        documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        for document in documents:
            for statement in (document or {}).get("Statement", []):
                yield name, statement


def test_rights_are_the_least(template: Mapping[str, Any]) -> None:
    found = list(statements(template))
    assert len(found) > 15
    for name, statement in found:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert all("*" not in action for action in actions), (name, statement["Sid"])
        if statement["Resource"] == "*":
            assert set(actions) <= UNBOUNDED, (name, statement["Sid"])
        if "iam:PassRole" in actions:
            assert statement["Condition"]["StringEquals"] == {
                "iam:PassedToService": "ecs-tasks.amazonaws.com"
            }
    job = {statement["Sid"]: statement for name, statement in found if name == "JobPolicy"}
    assert job["PlansAreReadOnly"]["Effect"] == "Deny"
    assert job["ReadBags"]["Action"] == "s3:GetObject"


def test_jobs_that_plan_have_a_role_of_their_own(template: Mapping[str, Any]) -> None:
    container = template["Resources"]["PlannerJobDefinition"]["Properties"]["ContainerProperties"]
    assert container["JobRoleArn"] == {"GetAtt": "PlannerRole.Arn"}
    role = template["Resources"]["PlannerRole"]["Properties"]
    assert role["ManagedPolicyArns"][0] == {"Ref": "AirflowPolicy"}
    found = {statement["Sid"]: (name, statement) for name, statement in statements(template)}
    assert template["Resources"]["ConfPolicy"]["Properties"]["Roles"] == [{"Ref": "PlannerRole"}]
    assert found["ReadConfs"][1]["Action"] == "s3:GetObject"
    places = {
        "sources": ("s3://raw/",),
        "output": "s3://lake",
        "platforms": PLATFORMS,
        "subnet_ids": ("subnet-1",),
    }
    more = {"marker": "s3://raw/_DONE", "marker_conf": "s3://raw/topics.json"}
    given = template_parameters(StackOptions(**places, **more), region=REGION)
    made = resolve(template, {"ImageUri": f"r@sha256:{'0' * 64}", **given})["PlannerJobDefinition"]
    said = {each["Name"]: each["Value"] for each in made["ContainerProperties"]["Environment"]}
    own = ("output", "job_queue", "job_definition", "requester_pays", "conf", "below")
    assert said.keys() == {"AWS_DEFAULT_REGION", *(settings.PREFIX + each.upper() for each in own)}
    assert said["AIRFLOW_BATCH_ROS_JOB_QUEUE"] == {"Ref": "FargateQueue"}
    name, submit = found["SubmitPlanning"]
    assert (name, submit["Action"], len(submit["Resource"])) == ("EventsRole", "batch:SubmitJob", 2)
    assert submit["Resource"][1]["Sub"].endswith(":job-definition/${AWS::StackName}-plan:*")


def test_rules_say_what_the_command_line_takes(template: Mapping[str, Any]) -> None:
    """moto sends no events: what a rule makes of one is put through the command line here."""
    resources = template["Resources"]
    command = resources["PlannerJobDefinition"]["Properties"]["ContainerProperties"]["Command"]
    events: dict[str, dict[str, str]] = {
        "ScheduleRule": {"time": "2026-11-21T00:00:00Z"},
        "MarkerRule": {
            "bucket": "raw",
            "key": "fleet/car_7/_DONE",
            "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        },
    }
    parsed = {}
    for name, event in events.items():
        rule = resources[name]["Properties"]
        (target,) = rule["Targets"]
        assert target["RoleArn"] == {"GetAtt": "EventsRole.Arn"}
        assert target["BatchParameters"]["JobDefinition"] == {"Ref": "PlannerJobDefinition"}
        transformer = target["InputTransformer"]
        assert transformer["InputPathsMap"].keys() == event.keys()
        text = transformer["InputTemplate"]
        text = text["Sub"].replace("${ScheduleConfUri}", "s3://raw/c.json") if "Sub" in text else text
        for key, value in event.items():
            text = text.replace(f"<{key}>", value)
        parameters = json.loads(text)["Parameters"]
        words = [
            parameters[word.removeprefix("Ref::")] if word.startswith("Ref::") else word for word in command
        ]
        parsed[name] = cli.build_parser().parse_args(words)
    assert (parsed["ScheduleRule"].conf, parsed["ScheduleRule"].marker) == ("s3://raw/c.json", None)
    assert parsed["ScheduleRule"].run_id == "scheduled-2026-11-21T00:00:00Z"
    assert parsed["MarkerRule"].marker == "s3://raw/fleet/car_7/_DONE"
    assert parsed["MarkerRule"].run_id == "s3-6a7e8feb-b491-4cf7-a9f1-bf3703467718"
    pattern = resources["MarkerRule"]["Properties"]["EventPattern"]
    assert pattern["detail"] == {
        "bucket": {"name": [{"Ref": "MarkerBucket"}]},
        "object": {"key": [{"wildcard": {"Ref": "MarkerKeys"}}]},
    }


def test_failures_are_told_once_a_job(template: Mapping[str, Any]) -> None:
    resources = template["Resources"]
    detail = resources["FailureRule"]["Properties"]["EventPattern"]["detail"]
    assert detail["status"] == ["FAILED"]
    assert detail["arrayProperties"] == {"index": [{"exists": False}]}, "not once a child of an array"
    (statement,) = resources["TopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": {"GetAtt": "FailureRule.Arn"}}}


def test_what_stays_when_the_stack_goes(template: Mapping[str, Any]) -> None:
    kept = {name for name, each in template["Resources"].items() if each.get("DeletionPolicy") == "Retain"}
    assert kept == {"Repository", "Output", "LogGroup"}
    destroyed = yaml.load(deploy.template_text("DESTROY"), _Loader)["Resources"]
    policies = {name: destroyed[name]["DeletionPolicy"] for name in kept}
    assert policies == {"Repository": "Delete", "Output": "Retain", "LogGroup": "Delete"}
    assert destroyed["Output"]["UpdateReplacePolicy"] == "Retain", "a lake is never deleted"
    assert destroyed["Repository"]["Properties"]["EmptyOnDelete"] is True


NO_VALUE = object()


def resolve(template: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
    """Properties of the resources that CloudFormation would make of these parameters, by name.

    References to resources stay what they are; what moto does not model can be looked at all the same.
    """
    values: dict[str, Any] = {name: each.get("Default") for name, each in template["Parameters"].items()}
    values |= parameters
    lists = {name for name, each in template["Parameters"].items() if each["Type"] == "CommaDelimitedList"}

    def text(value: Any) -> str:
        return ",".join(value) if isinstance(value, list) else str(value)

    def condition(what: Any) -> bool:
        if isinstance(what, str):
            return condition(template["Conditions"][what])
        ((kind, of),) = what.items()
        match kind:
            case "Condition":
                return condition(of)
            case "Equals":
                left, right = map(evaluate, of)
                return text(left) == text(right)
            case "Not":
                return not condition(of[0])
            case "And" | "Or":
                return (all if kind == "And" else any)(map(condition, of))
        raise AssertionError(what)

    def evaluate(what: Any) -> Any:
        if isinstance(what, list):
            return [each for each in map(evaluate, what) if each is not NO_VALUE]
        if not isinstance(what, dict):
            return what
        match what:
            case {"Ref": "AWS::NoValue"}:
                return NO_VALUE
            case {"Ref": name} if name in lists:
                return str(values[name] or "").split(",")
            case {"Ref": name} if name in values:
                return values[name]
            case {"If": [name, then, otherwise]}:
                return evaluate(then if condition(name) else otherwise)
            case {"Join": [separator, parts]}:
                return separator.join(map(text, evaluate(parts)))
            case {"Sub": str() as written}:
                for name, value in values.items():
                    written = written.replace(f"${{{name}}}", text(value))
                return written
        found = {name: evaluate(each) for name, each in what.items()}
        return {name: each for name, each in found.items() if each is not NO_VALUE}

    return {
        name: evaluate(resource.get("Properties", {}))
        for name, resource in template["Resources"].items()
        if "Condition" not in resource or condition(resource["Condition"])
    }


@pytest.mark.parametrize(
    ("options", "resource", "path", "value"),
    [
        ({"platforms": ("SPOT",)}, "SpotEnvironment", "ComputeResources.Type", "SPOT"),
        ({"platforms": ("EC2",)}, "Ec2JobDefinition", "PlatformCapabilities", ["EC2"]),
        ({"platforms": ("SPOT",)}, "FargateQueue", "", None),
        ({"min_vcpus": 4}, "Ec2Environment", "ComputeResources.MinvCpus", "4"),
        ({"desired_vcpus": 8}, "Ec2Environment", "ComputeResources.DesiredvCpus", "8"),
        ({}, "Ec2Environment", "ComputeResources.DesiredvCpus", None),  # an update may not lower it
        ({"max_vcpus": 9}, "FargateSpotEnvironment", "ComputeResources.MaxvCpus", "9"),
        (
            {"instance_types": ("c7g", "m7g.large")},
            "SpotEnvironment",
            "ComputeResources.InstanceTypes",
            ["c7g", "m7g.large"],
        ),
        ({"spot_price_percentage": 60}, "SpotEnvironment", "ComputeResources.BidPercentage", "60"),
        (
            {"spot_allocation_strategy": "SPOT_CAPACITY_OPTIMIZED"},
            "SpotEnvironment",
            "ComputeResources.AllocationStrategy",
            "SPOT_CAPACITY_OPTIMIZED",
        ),
        ({}, "Ec2Environment", "ComputeResources.AllocationStrategy", "BEST_FIT_PROGRESSIVE"),
        (
            {"launch_template_id": "lt-1"},
            "Ec2Environment",
            "ComputeResources.LaunchTemplate.LaunchTemplateId",
            "lt-1",
        ),
        (
            {"launch_template_id": "lt-1", "launch_template_version": "7"},
            "SpotEnvironment",
            "ComputeResources.LaunchTemplate.Version",
            "7",
        ),
        ({"launch_template_id": "lt-1"}, "LaunchTemplate", "", None),
        (
            {"ami_id": "ami-1"},
            "Ec2Environment",
            "ComputeResources.Ec2Configuration.0.ImageIdOverride",
            "ami-1",
        ),
        ({}, "Ec2Environment", "ComputeResources.Ec2Configuration.0", {"ImageType": "ECS_AL2023"}),
        (
            {"disk_gib": 500},
            "LaunchTemplate",
            "LaunchTemplateData.BlockDeviceMappings.0.Ebs.VolumeSize",
            "500",
        ),
        ({"queue_priority": 7}, "SpotQueue", "Priority", "7"),
        ({"fair_share": True}, "FargateQueue", "SchedulingPolicyArn", {"Ref": "SchedulingPolicy"}),
        ({}, "FargateQueue", "SchedulingPolicyArn", None),
        ({}, "SchedulingPolicy", "", None),
        ({"runnable_timeout_seconds": 900}, "Ec2Queue", "JobStateTimeLimitActions.2.MaxTimeSeconds", "900"),
        ({"vcpus": "4"}, "FargateJobDefinition", "ContainerProperties.ResourceRequirements.0.Value", "4"),
        (
            {"memory_mib": 8192},
            "Ec2JobDefinition",
            "ContainerProperties.ResourceRequirements.1.Value",
            "8192",
        ),
        (
            {"ephemeral_storage_gib": 99},
            "FargateJobDefinition",
            "ContainerProperties.EphemeralStorage.SizeInGiB",
            "99",
        ),
        ({"ephemeral_storage_gib": 99}, "Ec2JobDefinition", "ContainerProperties.EphemeralStorage", None),
        ({"retries": 2}, "Ec2JobDefinition", "RetryStrategy.Attempts", "3"),
        ({"timeout_seconds": 60}, "FargateJobDefinition", "Timeout.AttemptDurationSeconds", "60"),
        (
            {"architecture": "ARM64"},
            "FargateJobDefinition",
            "ContainerProperties.RuntimePlatform.CpuArchitecture",
            "ARM64",
        ),
        (
            {"assign_public_ip": "ENABLED"},
            "FargateJobDefinition",
            "ContainerProperties.NetworkConfiguration.AssignPublicIp",
            "ENABLED",
        ),
        (
            {"requester_pays": True},
            "Ec2JobDefinition",
            "ContainerProperties.Environment.1",
            {"Name": "ROS_TO_PARQUET_REQUEST_PAYER", "Value": "requester"},
        ),
        ({"requester_pays": False}, "Ec2JobDefinition", "ContainerProperties.Environment.1", None),
        (
            {"efs_file_system_id": "fs-1", "efs_access_point_id": "fsap-2"},
            "FargateJobDefinition",
            "ContainerProperties.Volumes.1.EfsVolumeConfiguration",
            {
                "FileSystemId": "fs-1",
                "TransitEncryption": "ENABLED",
                "AuthorizationConfig": {"Iam": "ENABLED", "AccessPointId": "fsap-2"},
            },
        ),
        (
            {"efs_file_system_id": "fs-1"},
            "Ec2JobDefinition",
            "ContainerProperties.MountPoints.1",
            {"SourceVolume": "efs", "ContainerPath": "/mnt/efs", "ReadOnly": True},
        ),
        (
            {"efs_file_system_id": "fs-1"},
            "JobEfsPolicy",
            "PolicyDocument.Statement.0.Action",
            "elasticfilesystem:ClientMount",
        ),
        ({}, "FargateJobDefinition", "ContainerProperties.MountPoints.1", None),
        (
            {"kms_key_arns": ("arn:k1", "arn:k2")},
            "JobKeyPolicy",
            "PolicyDocument.Statement.0.Resource",
            ["arn:k1", "arn:k2"],
        ),
        (
            {"glue_database": "drives"},
            "JobCatalogPolicy",
            "PolicyDocument.Statement.0.Action.0",
            "glue:GetDatabase",
        ),
        ({}, "JobCatalogPolicy", "", None),
        ({"full_access_policy_arn": "arn:p"}, "JobRole", "ManagedPolicyArns", ["arn:p"]),
        ({"full_access_policy_arn": "arn:p"}, "JobPolicy", "", None),
        ({"create_output_bucket": True}, "Output", "BucketName", "lake"),
        ({"network": "nat", "vpc_cidr": "10.9.0.0/16"}, "PrivateSubnet2", "CidrBlock", "10.9.64.0/18"),
        ({"network": "endpoints"}, "EcsTelemetryEndpoint", "PrivateDnsEnabled", True),
        ({"network": "endpoints"}, "NatGateway", "", None),
        (
            {"subnet_ids": ("subnet-1", "subnet-2")},
            "SpotEnvironment",
            "ComputeResources.Subnets",
            ["subnet-1", "subnet-2"],
        ),
        (
            {"security_group_ids": ("sg-1",)},
            "FargateEnvironment",
            "ComputeResources.SecurityGroupIds",
            ["sg-1"],
        ),
        ({"vpc_id": "vpc-1"}, "JobSecurityGroup", "VpcId", "vpc-1"),
        ({"log_retention_days": 90}, "LogGroup", "RetentionInDays", "90"),
        ({"notification_topic_arn": "arn:t"}, "FailureRule", "Targets.0.Arn", "arn:t"),
    ],
)
def test_what_each_option_does(
    template: Mapping[str, Any], options: dict[str, Any], resource: str, path: str, value: Any
) -> None:
    everywhere = {
        "sources": ("s3://raw/",),
        "output": "s3://lake",
        "platforms": PLATFORMS,
        "subnet_ids": ("subnet-1",),
    }
    given = template_parameters(StackOptions(**{**everywhere, **options}), region=REGION)
    found: Any = resolve(template, {"ImageUri": f"r@sha256:{'0' * 64}", **given}).get(resource)
    if not path:
        assert (found is None) == (value is None)
        return
    for step in path.split("."):
        if isinstance(found, list):
            found = found[int(step)] if int(step) < len(found) else None
        else:
            found = found.get(step)
    assert found == value


# --- parameters -------------------------------------------------------------------------------------


def test_sources_become_rights() -> None:
    options = StackOptions(sources=("s3://raw/fleet/a/", "s3://raw/b", "s3://other"), output="s3://lake/x/")
    assert template_parameters(options, region="us-gov-west-1") == {
        "SourceUris": "s3://raw/fleet/a/,s3://raw/b/,s3://other/",
        "SourceObjectArns": "arn:aws-us-gov:s3:::raw/fleet/a/*,arn:aws-us-gov:s3:::raw/b/*,"
        "arn:aws-us-gov:s3:::other/*",
        "SourceBucketArns": "arn:aws-us-gov:s3:::raw,arn:aws-us-gov:s3:::other",
        "OutputBucket": "lake",
        "OutputPrefix": "x",
    }
    assert partition("cn-north-1") == "aws-cn"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (StackOptions(sources=("raw/fleet",)), "source 'raw/fleet' is no S3 URI"),
        (StackOptions(sources=("s3://raw/*/x",)), "cannot be given rights to"),
        (StackOptions(sources=()), "no source"),
        (StackOptions(output="lake"), "output 'lake' is no S3 URI"),
        (StackOptions(platforms=("EKS",)), "platform EKS: FARGATE, FARGATE_SPOT, EC2, SPOT can be"),
        (StackOptions(retries=10), "retries 10: 0 to 9 can be"),
        (StackOptions(vpc_cidr="10.0.0.0/8"), "vpc-cidr /8: /16 to /24 can be"),
        (StackOptions(marker="s3://raw/fleet/"), "it ends in the name of an object"),
        (StackOptions(marker="raw/_DONE"), "marker 'raw/_DONE' is no S3 URI"),
        (StackOptions(schedule_conf="c.json"), "conf 'c.json' is no object in S3"),
        (StackOptions(vpc_cidr="10.0.0.1/16"), "vpc-cidr 10.0.0.1/16 has host bits set"),
    ],
)
def test_options_that_cannot_be(options: StackOptions, said: str) -> None:
    with pytest.raises(OptionsError, match=said.replace("(", r"\(")):
        template_parameters(options, region=REGION)


def test_markers_become_a_pattern() -> None:
    made = template_parameters(StackOptions(marker="s3://raw/fleet/_DONE"), region=REGION)
    assert made == {
        "MarkerBucket": "raw",
        "MarkerKeys": "fleet/*/_DONE",
        "MarkersBelow": "s3://raw/fleet/",
    }
    assert (
        template_parameters(StackOptions(marker="s3://raw/_DONE"), region=REGION)["MarkerKeys"] == "*/_DONE"
    )
    ended = template_parameters(StackOptions(marker=""), region=REGION)
    assert (ended["MarkerBucket"], ended["MarkersBelow"]) == ("", "")
    sources = {"Network": "nat", "SourceUris": "s3://raw/fleet/,s3://other/"}
    check_parameters({**sources, **made})
    with pytest.raises(StackError, match="jobs may not read there; name it as --source too"):
        check_parameters({**sources, "MarkersBelow": "s3://raw/"})
    for started in (made, {"Schedule": "rate(1 day)", "ScheduleConfUri": "s3://raw/c.json"}):
        with pytest.raises(StackError, match="no job without a shareIdentifier"):
            check_parameters({**sources, **started, "FairShare": "true"})
    with pytest.raises(StackError, match="a schedule needs a conf"):
        check_parameters({"Network": "nat", "Schedule": "rate(1 day)"})


@pytest.mark.parametrize(("option", "name"), [("schedule", "ScheduleConfUri"), ("marker", "MarkerConfUri")])
def test_a_conf_of_nothing_is_refused_but_may_be_left_over(option: str, name: str) -> None:
    left = {"Network": "nat", name: "s3://raw/c.json"}
    with pytest.raises(OptionsError, match=f"^{option}-conf s3://raw/c.json: there is no {option} that"):
        check_parameters(left)
    check_parameters(left, given={"MaxVcpus": "1"})


def test_all_problems_are_said_at_once() -> None:
    options = StackOptions(sources=("x",), output="y", retries=-1)
    with pytest.raises(StackError) as caught:
        template_parameters(options, region=REGION)
    assert str(caught.value).count(";") == 2


@pytest.mark.parametrize("vcpus", FARGATE_MEMORY_MIB)
def test_sizes_that_fargate_has(vcpus: str) -> None:
    for memory_mib in FARGATE_MEMORY_MIB[vcpus]:
        check_parameters({"Network": "nat", "Vcpus": vcpus, "MemoryMib": str(memory_mib)})
        with pytest.raises(StackError, match=f"the nearest is {memory_mib}$"):
            check_parameters({"Network": "nat", "Vcpus": vcpus, "MemoryMib": str(memory_mib + 1)})


def test_parameters_that_do_not_go_together() -> None:
    with pytest.raises(StackError, match="no subnets: name them"):
        check_parameters({"Network": "given", "SubnetIds": ""})
    with pytest.raises(StackError, match=r"vcpus 3: Fargate has 0\.25, 0\.5"):
        check_parameters({"Network": "nat", "Vcpus": "3"})
    ec2 = {"Network": "nat", "Platform": "EC2"}
    check_parameters({**ec2, "Vcpus": "3", "MemoryMib": "3000"})
    with pytest.raises(StackError, match=r"vcpus 0\.5: EC2 instances have whole ones"):
        check_parameters({**ec2, "Vcpus": "0.5"})
    with pytest.raises(StackError, match="desired-vcpus 2: between min-vcpus 4 and max-vcpus 256 can be"):
        check_parameters({**ec2, "MinVcpus": "4", "DesiredVcpus": "2"})
    check_parameters({**ec2, "MinVcpus": "4"})
    with pytest.raises(StackError, match="efs-file-system-id: a network that is made here"):
        check_parameters({"Network": "nat", "EfsFileSystemId": "fs-1"})


@pytest.mark.parametrize(
    ("architecture", "types", "wrong"),
    [
        ("ARM64", "default_arm64,c7g,m6gd.large,im4gn,g5g.xlarge,a1,hpc7g", ""),
        ("X86_64", "default_x86_64,optimal,c7i,g5.xlarge,gr6,m6a.large,c7i-flex", ""),
        ("ARM64", "default_x86_64,c7g", "default_x86_64 is x86_64: name others"),
        ("X86_64", "c7i,c7g,r8gd.large", r"c7g, r8gd\.large is arm64: say --architecture ARM64"),
    ],
)
def test_instances_and_their_architecture(architecture: str, types: str, wrong: str) -> None:
    parameters = {"Network": "nat", "Platform": "SPOT", "Architecture": architecture, "InstanceTypes": types}
    if not wrong:
        check_parameters(parameters)
        return
    with pytest.raises(OptionsError, match=wrong):
        check_parameters(parameters)


def test_policy_for_buckets_of_other_accounts() -> None:
    policies = json.loads(
        outputs.bucket_policy(["s3://raw/a/", "s3://raw/b/", "s3://other/"], ["arn:r"], partition="aws")
    )
    assert policies.keys() == {"raw", "other"}
    read, listing = policies["raw"]["Statement"]
    assert read["Resource"] == ["arn:aws:s3:::raw/a/*", "arn:aws:s3:::raw/b/*"]
    assert listing["Resource"] == "arn:aws:s3:::raw"
    assert policies["other"]["Statement"][0]["Resource"] == ["arn:aws:s3:::other/*"]


# --- for real ---------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return cli.main(["stack", *arguments, "--region", REGION])


def push_image(aws: EmbeddedAws, repository_uri: str, content: str = "1") -> str:
    """Has the repository hold an image; its digest."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"size": 1, "digest": f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"},
            "layers": [],
        }
    )
    name = repository_uri.partition("/")[2]
    image = aws.client("ecr").put_image(repositoryName=name, imageTag=content, imageManifest=manifest)
    digest: str = image["image"]["imageId"]["imageDigest"]
    return digest


def levels(findings: list[Finding], about: str) -> set[str]:
    return {finding.level for finding in findings if about in finding.what}


@pytest.mark.airflow
def test_from_nothing_to_rows_and_back(
    aws: EmbeddedAws, s3: S3Client, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import boto3

    name = f"ros-{bucket}"
    lake = f"s3://{bucket}/lake"
    assert run("outputs", name) == 1
    assert f"there is no stack {name}" in capsys.readouterr().err
    options = ["--source", f"s3://{bucket}/drives/", "--output", lake, "--network", "nat"]
    assert run("create", name, *options, "--platform", "FARGATE", "--platform", "SPOT", "--retries", "1") == 0
    said = capsys.readouterr().out
    assert "CREATE_COMPLETE" in said
    assert f"airflow-batch-ros stack create {name}" in said  # what to do next: push the image
    cloudformation = aws.client("cloudformation")
    made = outputs.read_outputs(cloudformation, name)
    assert "JobDefinitionArn" not in made
    with pytest.raises(StackError, match="has no image yet"):
        outputs.resolve(cloudformation, name)

    digest = push_image(aws, made["RepositoryUri"])
    assert run("create", name) == 0  # goes on where it was
    made = outputs.read_outputs(cloudformation, name)
    assert made["ImageUri"].endswith(digest)
    assert made["JobQueueArn"] == made["FargateQueueArn"] != made["SpotQueueArn"]
    definitions = aws.client("batch").describe_job_definitions(jobDefinitions=[made["JobDefinitionArn"]])
    (definition,) = definitions["jobDefinitions"]
    assert definition["retryStrategy"]["attempts"] == 2
    allowed = definition["containerProperties"]["environment"][0]["value"]
    assert allowed == f"{lake}/,s3://{bucket}/drives/"

    put(s3, bucket, "drives/drive_1/a.bag", body=ros1_bag())
    operator = RosToParquetBatchOperator(
        task_id="submit",
        stack_name=name,
        conf={"drives_to_process": {"drive_1": {"bucket": bucket, "prefix": "drives/drive_1/"}}},
    )
    (job,) = operator.execute(make_context(f"run-{name}"))
    wait_for_end(aws.client("batch"), [job["job_id"]])
    manifests = [
        key["Key"]
        for key in s3.list_objects_v2(Bucket=bucket, Prefix="lake/_manifests/")["Contents"]
        if key["Key"].endswith("drive.json")
    ]
    commit = json.loads(s3.get_object(Bucket=bucket, Key=manifests[0])["Body"].read())
    assert (commit["state"], commit["rows"]) == ("succeeded", MESSAGES)

    put(s3, bucket, "drives/drive_2/a.bag", body=ros1_bag())
    conf = json.dumps({"drives_to_process": {"drive_2": {"bucket": bucket, "prefix": "drives/drive_2/"}}})
    words = [
        "submit",
        "--remote",
        "--stack",
        name,
        "--conf",
        conf,
        "--wait",
        "--poll-seconds",
        "0.3",
        "--json",
    ]
    capsys.readouterr()
    assert cli.main([*words, "--region", REGION]) == 0
    (drive,) = json.loads(capsys.readouterr().out)["drives"]
    assert (drive["state"], drive["rows"]) == ("succeeded", MESSAGES)

    # By the definition's own command, as a rule of the stack starts it: a drive of a marker's folder.
    below = f"s3://{bucket}/drives/"
    assert run("update", name, "--marker", f"{below}_DONE") == 0
    made = outputs.read_outputs(cloudformation, name)
    put(s3, bucket, "drives/drive_3/a.bag", body=ros1_bag())
    started = aws.client("batch").submit_job(
        jobName="marker",
        jobQueue=made["JobQueueArn"],
        jobDefinition=made["PlannerJobDefinitionArn"],
        parameters={"run": "s3-1", "said": "--marker", "uri": f"{below}drive_3/_DONE"},
    )["jobId"]
    wait_for_end(aws.client("batch"), [started])
    (planner,) = aws.client("batch").describe_jobs(jobs=[started])["jobs"]
    assert planner["status"] == "SUCCEEDED"
    key = next(
        each["Key"]
        for each in s3.list_objects_v2(Bucket=bucket, Prefix="lake/_plans/drive_id=drive_3/")["Contents"]
        if each["Key"].endswith("/job-0.json")
    )
    record = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert record["job_queue"] == made["JobQueueArn"]
    findings = examine(boto3.Session(region_name=REGION), name)
    assert levels(findings, "tell EventBridge") == {"problem"}

    assert run("update", name, "--memory-mib", "8192", "--max-vcpus", "32") == 0
    updated = outputs.read_outputs(cloudformation, name)
    assert updated["JobDefinitionArn"] != made["JobDefinitionArn"]  # another revision
    assert updated["MaxVcpus"] == "32"
    assert run("update", name, "--memory-mib", "5000") == 2
    assert "the nearest is 5120" in capsys.readouterr().err

    role = f"airflow-{bucket}"
    iam = aws.client("iam")
    iam.create_role(RoleName=role, Path="/service-role/", AssumeRolePolicyDocument="{}")
    iam.attach_role_policy(RoleName=role, PolicyArn=made["AirflowPolicyArn"])
    capsys.readouterr()
    assert run("outputs", name, "--format", "bucket-policy") == 0
    policies = json.loads(capsys.readouterr().out)
    readers = policies[bucket]["Statement"][0]["Principal"]["AWS"]
    assert readers == [made["JobRoleArn"], f"arn:aws:iam::123456789012:role/service-role/{role}"]
    iam.detach_role_policy(RoleName=role, PolicyArn=made["AirflowPolicyArn"])
    iam.delete_role(RoleName=role)

    findings = examine(boto3.Session(region_name=REGION), name)
    assert levels(findings, f"stack {name}") == {"ok"}
    assert levels(findings, "the image is there") == {"ok"}
    assert levels(findings, "job queue") == {"ok"}
    assert levels(findings, f"bucket {bucket} is") == {"ok"}
    aws.client("batch").update_job_queue(jobQueue=made["FargateQueueArn"], state="DISABLED")
    aws.client("ecr").batch_delete_image(
        repositoryName=made["RepositoryUri"].partition("/")[2], imageIds=[{"imageDigest": digest}]
    )
    assert run("doctor", name) == 4
    said = capsys.readouterr().out
    assert "PROBLEM job queue" in said
    assert "is DISABLED; enable it" in said
    assert "is not in the repository (any more)" in said

    assert run("delete", name) == 0
    assert outputs.find_stack(cloudformation, name) is None
    queues = aws.client("batch").describe_job_queues()["jobQueues"]
    assert made["FargateQueueArn"] not in {queue["jobQueueArn"] for queue in queues}
    assert not aws.client("iam").list_roles(PathPrefix="/")["Roles"] or made["JobRoleArn"] not in {
        role["Arn"] for role in aws.client("iam").list_roles()["Roles"]
    }
    repositories = aws.client("ecr").describe_repositories()["repositories"]
    assert made["RepositoryUri"] in {each["repositoryUri"] for each in repositories}  # retained
    assert run("delete", name) == 1


@pytest.mark.airflow
@pytest.mark.parametrize(
    ("extra", "resources"),
    [
        (["--platform", "EC2"], {"Ec2Queue", "LaunchTemplate", "InstanceProfile"}),
        (["--platform", "FARGATE_SPOT", "--network", "endpoints"], {"EcrApiEndpoint", "LogsEndpoint"}),
        (
            [
                "--platform",
                "SPOT",
                "--network",
                "endpoints",
                "--instance-type",
                "c7g",
                "--architecture",
                "ARM64",
            ],
            {"EcsEndpoint", "SpotEnvironment"},
        ),
        (["--kms-key-arn", "arn:aws:kms:us-east-1:123456789012:key/k"], {"JobKeyPolicy", "AirflowKeyPolicy"}),
        (["--notification-topic-arn", "arn:aws:sns:us-east-1:123456789012:t"], {"FailureRule"}),
        (["--glue-database", "drives"], {"JobCatalogPolicy"}),
        (["--notification-email", "fleet@example.org"], {"FailureRule", "Topic"}),
        (
            [
                *("--schedule", "rate(1 day)", "--schedule-conf", "s3://{bucket}/nightly.json"),
                *("--marker", "s3://{bucket}/fleet/_DONE", "--marker-conf", "s3://{bucket}/rest.json"),
            ],
            {"ScheduleRule", "MarkerRule", "EventsRole", "ConfPolicy"},
        ),
        (["--requester-pays", "--ephemeral-storage-gib", "50"], set()),
        (["--efs-file-system-id", "fs-1", "--subnet-id", "SUBNET"], {"JobEfsPolicy", "JobSecurityGroup"}),
        (["--full-access-policy-arn", "arn:aws:iam::123456789012:policy/mine"], set()),
        (["--removal-policy", "DESTROY", "--tag", "team=fleet"], set()),
        (["--role-arn", "arn:aws:iam::123456789012:role/cfn", "--create-output-bucket"], {"Output"}),
    ],
)
def test_options_of_the_template(
    aws: EmbeddedAws, bucket: str, extra: list[str], resources: set[str]
) -> None:
    name = f"opt-{bucket}"
    if "policy/mine" in str(extra):
        statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::x/*"}
        document = {"Version": "2012-10-17", "Statement": [statement]}
        aws.client("iam").create_policy(PolicyName="mine", PolicyDocument=json.dumps(document))
    subnet = aws.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    extra = [word.replace("SUBNET", subnet) for word in extra]
    network = [] if {"--network", "--subnet-id"} & set(extra) else ["--network", "nat"]
    image = f"r.example/x@sha256:{'0' * 64}"
    options = ["--source", f"s3://{bucket}/", "--output", f"s3://{bucket}/lake", "--image", image]
    extra = [word.replace("{bucket}", bucket) for word in extra]
    assert run("create", name, *options, *network, *extra) == 0
    cloudformation = aws.client("cloudformation")
    there = {
        each["LogicalResourceId"]
        for each in cloudformation.list_stack_resources(StackName=name)["StackResourceSummaries"]
    }
    assert resources <= there
    assert ("JobPolicy" in there) == ("policy/mine" not in str(extra))
    assert "JobDefinitionArn" in outputs.read_outputs(cloudformation, name)
    stack = outputs.find_stack(cloudformation, name)
    assert stack is not None
    if "--tag" in extra:
        assert {"Key": "team", "Value": "fleet"} in stack["Tags"]
    if "--role-arn" in extra:
        assert stack["RoleARN"].endswith("role/cfn")
    assert run("delete", name) == 0


@pytest.mark.airflow
def test_doctor_sees_subnets_that_lead_nowhere(
    aws: EmbeddedAws, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"sick-{bucket}"
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.1.0/24")["Subnet"]["SubnetId"]
    places = [
        "--source",
        f"s3://{bucket}/",
        "--source",
        "s3://nowhere-to-be-found/",
        "--output",
        f"s3://{bucket}/lake",
    ]
    network = ["--vpc-id", vpc, "--subnet-id", subnet]
    assert run("create", name, *places, *network, "--fair-share", "--no-wait") == 0
    assert run("doctor", name) == 4
    said = capsys.readouterr().out
    assert f"PROBLEM subnet {subnet} has no way to ecr.api, ecr.dkr, logs, s3" in said
    assert "PROBLEM the stack has no image; push one to" in said
    assert "PROBLEM there is no bucket nowhere-to-be-found" in said
    for service in ("ecr.api", "ecr.dkr", "logs", "s3"):
        ec2.create_vpc_endpoint(
            VpcId=vpc, ServiceName=f"com.amazonaws.{REGION}.{service}", VpcEndpointType="Interface"
        )
    assert run("doctor", name) == 4
    assert f"ok      subnet {subnet} reaches ECR, logs and S3 by endpoints" in capsys.readouterr().out
    assert run("update", name, "--no-fair-share") == 2
    assert "fair-share: AWS lets no queue change it" in capsys.readouterr().err
    assert run("delete", name, "--wait") == 0
    assert run("delete", name, "--missing-ok") == 0


class Answers:
    """A session whose clients get these answers, held to AWS's own shapes: what moto does not model."""

    region_name = REGION

    def __init__(self, **answers: list[tuple[str, dict[str, Any]]]) -> None:
        self._answers = answers

    def client(self, service: str) -> Any:
        import boto3
        from botocore.stub import Stubber

        client = boto3.client(service, region_name=REGION)
        stubber = Stubber(client)
        for method, answer in self._answers[service.replace("-", "_")]:
            stubber.add_response(method, answer)
        stubber.activate()
        return client


@pytest.mark.parametrize(
    ("allowed", "level", "said"),
    [
        (64.0, "problem", "may run 64 vCPUs at once, the stack asks for up to 256"),
        (256.0, "ok", "may run 256 vCPUs at once"),
    ],
)
def test_doctor_compares_quotas(aws: EmbeddedAws, allowed: float, level: str, said: str) -> None:
    session: Any = Answers(
        service_quotas=[("get_service_quota", {"Quota": {"Value": allowed, "QuotaName": "Fargate"}})]
    )
    (finding,) = doctor._quota(session, "FARGATE", 256)
    assert finding.level == level
    assert said in finding.what
    assert (level == "problem") == ("stack: --max-vcpus 64" in finding.advice)


class InReview:
    """Knows a stack that only a change set has made, which nobody has executed."""

    def __init__(self) -> None:
        self.asked = 0

    def describe_stacks(self, **_: Any) -> dict[str, Any]:
        self.asked += 1
        assert self.asked < 10, "it waits for ever"
        return {"Stacks": [{"StackName": "ros", "StackId": "arn", "StackStatus": "REVIEW_IN_PROGRESS"}]}

    def get_paginator(self, _: str) -> Any:
        return SimpleNamespace(paginate=lambda **_: [{"StackEvents": []}])


def test_a_stack_in_review_is_not_waited_for() -> None:
    deployment = deploy.Deployment(cast(Any, InReview()), print, poll_s=0.0)
    with pytest.raises(StackError, match="stack ros is REVIEW_IN_PROGRESS: a change set has made it, which"):
        deploy.wait(deployment, "ros", since=datetime.now(UTC))
    (finding,) = doctor._stack("ros", InReview().describe_stacks()["Stacks"][0])
    assert finding.level == "problem"
    assert "execute it" in finding.advice


def test_doctor_says_what_jobs_may_not_do(aws: EmbeddedAws) -> None:
    def decided(**decisions: str) -> tuple[str, dict[str, Any]]:
        results = [
            {"EvalActionName": f"s3:{action}", "EvalDecision": decision}
            for action, decision in decisions.items()
        ]
        return "simulate_principal_policy", {"EvaluationResults": results}

    session: Any = Answers(
        iam=[
            decided(GetObject="implicitDeny"),
            decided(GetObject="allowed", PutObject="explicitDeny", DeleteObject="allowed"),
        ]
    )
    made = {
        "SourceUris": "s3://raw/a/",
        "OutputUri": "s3://lake",
        "JobRoleArn": "arn:aws:iam::123456789012:role/job",
    }
    assert [(finding.level, finding.what) for finding in doctor._rights(session, made)] == [
        ("problem", "jobs may not read bags below s3://raw/a/ (s3:GetObject)"),
        ("problem", "jobs may not write the lake below s3://lake (s3:PutObject)"),
    ]


@pytest.mark.parametrize(
    ("decision", "there", "level", "said"),
    [
        ("allowed", True, "ok", ["jobs may register tables in the Glue database drives", "drives is there"]),
        ("allowed", False, "ok", ["jobs may register", "is not there yet: the first drive makes it"]),
        (
            "implicitDeny",
            True,
            "problem",
            ["jobs may not register tables in drives (glue:Cr", "is there"],
        ),
    ],
)
def test_doctor_looks_at_the_glue_database(
    aws: EmbeddedAws, bucket: str, decision: str, there: bool, level: str, said: list[str]
) -> None:
    glue = aws.client("glue")
    database = f"drives_{bucket.replace('-', '_')}"
    if there:
        glue.create_database(DatabaseInput={"Name": database})
    results = [{"EvalActionName": "glue:CreateTable", "EvalDecision": decision}]
    session: Any = Answers(
        iam=[("simulate_principal_policy", {"EvaluationResults": results})],
        sts=[("get_caller_identity", {"Account": "123456789012"})],
    )
    session.client = lambda name, ask=session.client: glue if name == "glue" else ask(name)
    stack = {"Parameters": [{"ParameterKey": "GlueDatabase", "ParameterValue": database}]}
    made = {"JobRoleArn": "arn:aws:iam::123456789012:role/job"}
    found = list(doctor._catalog(session, "ros", stack, made))
    assert found[0].level == level
    for finding, text in zip(found, said, strict=True):
        assert text in finding.what.replace(database, "drives")
    assert list(doctor._catalog(session, "ros", {"Parameters": []}, made)) == []


def test_doctor_hands_on_why_an_environment_is_invalid(aws: EmbeddedAws) -> None:
    arn = f"arn:aws:batch:{REGION}:123456789012"
    environment = {
        "computeEnvironmentName": "spot",
        "computeEnvironmentArn": f"{arn}:compute-environment/spot",
        "ecsClusterArn": "",
        "state": "ENABLED",
        "status": "INVALID",
        "statusReason": "CLIENT_ERROR - no such instance profile",
        "computeResources": {"type": "SPOT", "maxvCpus": 8, "subnets": []},
    }
    queue = {
        "jobQueueName": "q",
        "jobQueueArn": f"{arn}:job-queue/q",
        "state": "ENABLED",
        "status": "VALID",
        "priority": 1,
        "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": environment["computeEnvironmentArn"]}],
    }
    session: Any = Answers(
        batch=[
            ("describe_job_queues", {"jobQueues": [queue]}),
            ("describe_compute_environments", {"computeEnvironments": [environment]}),
        ],
        ec2=[("describe_subnets", {"Subnets": []})],
        service_quotas=[("get_service_quota", {"Quota": {"Value": 8.0, "QuotaName": "Spot"}})],
    )
    assert [(finding.level, finding.what) for finding in doctor._queue(session, queue["jobQueueArn"])] == [
        ("ok", "job queue q is enabled"),
        ("problem", "compute environment spot (SPOT) is INVALID: CLIENT_ERROR - no such instance profile"),
        ("ok", "SPOT: the account may run 8 vCPUs at once, the stack asks for up to 8"),
    ]


def test_command_lines_that_cannot_be(aws: EmbeddedAws, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("create", "x", "--network", "nat") == 2
    assert "--source and --output are needed" in capsys.readouterr().err
    assert run("create", "x", "--source", "s3://raw/", "--output", "s3://lake", "--tag", "team") == 2
    assert "KEY=VALUE" in capsys.readouterr().err
    assert run("create", "x", "--source", "s3://raw/", "--output", "s3://lake") == 2
    assert "no subnets" in capsys.readouterr().err
    assert run("update", "x", "--memory-mib", "4096") == 1  # which could be, of a stack that is there
