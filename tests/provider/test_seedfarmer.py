"""The module for seed-farmer: its commands run as CodeBuild runs them, its rights held to the least."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airflow_batch_ros.stack import deploy, outputs
from airflow_batch_ros.stack.environment import read_environment
from airflow_batch_ros.stack.parameters import StackError, StackOptions
from tests.provider.bags import ros1_bag
from tests.provider.builders import put
from tests.provider.test_stack import UNBOUNDED, load, statements

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

MODULE = Path(deploy.__file__).with_name("seedfarmer")
ROOT = Path(__file__).parents[2]
PARAMETER = "SEEDFARMER_PARAMETER_"

SEEDFARMER = """
import json, os, pathlib, sys
metadata = pathlib.Path(os.environ["METADATA"])
known = json.loads(metadata.read_text()) if metadata.exists() else {}
match sys.argv[1:]:
    case ["metadata", "add", "-j", text]:
        known |= json.loads(text)
    case ["metadata", "add", "-k", key, "-v", value]:
        known[key] = value
    case _:
        sys.exit(f"unknown: {sys.argv}")
metadata.write_text(json.dumps(known))
"""
"""The two forms of seed-farmer's command that the module uses."""

DOCKER = """
import hashlib, json, os, pathlib, sys
import boto3
arguments = sys.argv[1:]
calls, pushed = pathlib.Path(os.environ["DOCKER_CALLS"]), pathlib.Path(os.environ["DOCKER_CALLS"] + "-pushed")
with calls.open("a") as file:
    print(*arguments, file=file)
if arguments[0] == "login":
    assert sys.stdin.read().strip(), "no password"
if arguments[0] == "build":
    assert pathlib.Path(arguments[-1], "Dockerfile").exists(), arguments
if arguments[:2] == ["image", "inspect"]:
    digests = pushed.read_text().splitlines() if pushed.exists() else []
    print(json.dumps([{"Architecture": "amd64", "Size": 1, "RepoDigests": digests}]))
if arguments[0] == "push":
    repository = arguments[1].rpartition(":")[0]
    name, tag = repository.partition("/")[2], arguments[1].rpartition(":")[2]
    config = {"size": 1, "digest": "sha256:" + hashlib.sha256(b"image").hexdigest()}
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []})
    ecr = boto3.client("ecr")
    try:
        ecr.put_image(repositoryName=name, imageTag=tag, imageManifest=manifest)
    except ecr.exceptions.ImageAlreadyExistsException:
        pass  # as a registry takes the same image twice
    (image,) = ecr.describe_images(repositoryName=name)["imageDetails"]
    pushed.write_text(repository + "@" + image["imageDigest"])
"""
"""Docker, as far as the module's commands go: the image it pushes is in ECR afterwards."""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The module as it lies in CodeBuild's bundle, with commands beside it."""
    folder = tmp_path / "bundle" / "module"
    shutil.copytree(MODULE, folder)
    commands = tmp_path / "bin"
    commands.mkdir()
    programs = {"seedfarmer": SEEDFARMER, "docker": DOCKER}
    for name, text in programs.items():
        (commands / name).write_text(f"#!{sys.executable}\n{text}")
        (commands / name).chmod(0o755)
    program = commands / "airflow-batch-ros"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom airflow_batch_ros.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    return folder


def run_phases(
    module: Path, what: str, *, skip: str = "", **parameters: str
) -> subprocess.CompletedProcess[str]:
    """All phases' commands in one shell, as in a build; the first that fails ends it."""
    phases = yaml.safe_load((module / "deployspec.yaml").read_text())[what]["phases"]
    order = [name for name in ("install", "pre_build", "build", "post_build") if name in phases]
    commands = [command for name in order if name != skip for command in phases[name]["commands"]]
    top = module.parents[1]
    environment = {
        **os.environ,
        "PATH": f"{top / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'container'}",
        "METADATA": str(top / "metadata.json"),
        "DOCKER_CALLS": str(top / "docker-calls"),
        "SEEDFARMER_PROJECT_NAME": "fleet",
        "SEEDFARMER_DEPLOYMENT_NAME": "test",
        "SEEDFARMER_MODULE_NAME": "etl-ros-to-parquet",
        **{PARAMETER + name: value for name, value in parameters.items()},
    }
    script = "set -e\n" + "\n".join(commands)
    return subprocess.run(
        ["sh", "-c", script], cwd=module, env=environment, capture_output=True, text=True, check=False
    )


def everything(aws: EmbeddedAws) -> dict[str, set[str]]:
    """What there is in the account, of all kinds that the stack makes."""
    batch, iam, ec2 = aws.client("batch"), aws.client("iam"), aws.client("ec2")
    return {
        "queues": {each["jobQueueArn"] for each in batch.describe_job_queues()["jobQueues"]},
        "environments": {
            each["computeEnvironmentArn"]
            for each in batch.describe_compute_environments()["computeEnvironments"]
        },
        "definitions": {
            each["jobDefinitionArn"]
            for each in batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]
        },
        "roles": {
            each["Arn"] for each in iam.list_roles()["Roles"] if "/aws-service-role/" not in each["Arn"]
        },
        "policies": {each["Arn"] for each in iam.list_policies(Scope="Local")["Policies"]},
        "repositories": {
            each["repositoryUri"] for each in aws.client("ecr").describe_repositories()["repositories"]
        },
        "logs": {each["arn"] for each in aws.client("logs").describe_log_groups()["logGroups"]},
        "stacks": {each["StackId"] for each in aws.client("cloudformation").describe_stacks()["Stacks"]},
        "networks": {each["VpcId"] for each in ec2.describe_vpcs()["Vpcs"]},
        "groups": {each["GroupId"] for each in ec2.describe_security_groups()["SecurityGroups"]},
    }


@pytest.mark.airflow
def test_deployed_and_destroyed(aws: EmbeddedAws, s3: S3Client, bucket: str, module: Path) -> None:
    put(s3, bucket, "drives/drive_1/a.bag", body=ros1_bag())
    put(s3, bucket, "dags/shared/another_teams_dag.py", body=b"")
    subnets = [each["SubnetId"] for each in aws.client("ec2").describe_subnets()["Subnets"]]
    before = everything(aws)
    objects = s3.list_objects_v2(Bucket=bucket)["Contents"]
    parameters = {
        "SOURCES": json.dumps([f"{bucket}/drives/"]),
        "OUTPUT": bucket,
        "SUBNET_IDS": json.dumps(subnets[:2]),
        "TIMEOUT_SECONDS": "1800",
        "PIP_PACKAGES": "fleet-messages",
    }
    done = run_phases(module, "deploy", skip="install", **parameters)
    assert done.returncode == 0, done.stderr
    metadata = json.loads((module.parents[1] / "metadata.json").read_text())
    name = "fleet-test-etl-ros-to-parquet"
    made = outputs.read_outputs(aws.client("cloudformation"), name)
    assert metadata == {**made, "StackName": name}
    batch = aws.client("batch")
    (definition,) = batch.describe_job_definitions(jobDefinitions=[metadata["JobDefinitionArn"]])[
        "jobDefinitions"
    ]
    assert definition["retryStrategy"]["attempts"] == 2
    assert definition["timeout"]["attemptDurationSeconds"] == 1800
    sizes = {
        each["type"]: each["value"] for each in definition["containerProperties"]["resourceRequirements"]
    }
    assert sizes == {"VCPU": "4", "MEMORY": "16384"}
    assert metadata["JobQueueArn"] == metadata["FargateQueueArn"]
    assert metadata["OutputUri"] == f"s3://{bucket}"
    calls = (module.parents[1] / "docker-calls").read_text().splitlines()
    build, login, push = (each for each in calls if each.partition(" ")[0] in ("build", "login", "push"))
    assert "--platform linux/amd64" in build
    assert "PIP_PACKAGES=fleet-messages" in build
    assert login.endswith(metadata["RepositoryUri"].partition("/")[0])
    assert push.startswith(f"push {metadata['RepositoryUri']}:")

    parameters |= {"MEMORY_MIB": "30720", "RETRIES": "2"}  # what is said no more has its default again
    del parameters["TIMEOUT_SECONDS"]
    assert run_phases(module, "deploy", skip="install", **parameters).returncode == 0
    made = outputs.read_outputs(aws.client("cloudformation"), name)
    (definition,) = batch.describe_job_definitions(jobDefinitions=[made["JobDefinitionArn"]])[
        "jobDefinitions"
    ]
    assert definition["retryStrategy"]["attempts"] == 3
    assert definition["timeout"]["attemptDurationSeconds"] == 21600

    done = run_phases(module, "destroy", skip="install")
    assert done.returncode == 0, done.stderr
    after = everything(aws)
    # Revisions before the last stay, for jobs that wait.
    after["definitions"] -= {metadata["JobDefinitionArn"], metadata["PlannerJobDefinitionArn"]}
    assert after == before
    assert s3.list_objects_v2(Bucket=bucket)["Contents"] == objects
    done = run_phases(module, "destroy", skip="install")  # of a deploy that never began
    assert (done.returncode, done.stdout) == (0, f"there is no stack {name}\n")


@pytest.mark.airflow
def test_an_image_that_is_there_is_not_built(aws: EmbeddedAws, bucket: str, module: Path) -> None:
    image = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/ros@sha256:{'0' * 64}"
    parameters = {"SOURCE": bucket, "OUTPUT": f"s3://{bucket}/lake", "NETWORK": "nat", "IMAGE": image}
    done = run_phases(module, "deploy", skip="install", **parameters)
    assert done.returncode == 0, done.stderr
    assert json.loads((module.parents[1] / "metadata.json").read_text())["ImageUri"] == image
    assert not (module.parents[1] / "docker-calls").exists()
    assert run_phases(module, "destroy", skip="install").returncode == 0


def test_what_fails_ends_the_deploy(aws: EmbeddedAws, module: Path) -> None:
    done = run_phases(module, "deploy", skip="install", SOURCES="raw", MEMORY_MB="1", RETRIES="many")
    assert done.returncode == 2
    assert f"{PARAMETER}RETRIES=many: a whole number is expected" in done.stderr
    assert f"{PARAMETER}MEMORY_MB is no option of a stack" in done.stderr
    assert not (module.parents[1] / "metadata.json").exists()


def test_variables_become_options() -> None:
    said = {
        "SOURCES": "raw, s3://other/x/",
        "OUTPUT": "lake/drives",
        "PLATFORM": '["SPOT", "EC2"]',
        "FAIR_SHARE": "True",
        "MAX_VCPUS": "64",
        "VCPUS": "0.5",
        "REMOVAL_POLICY": "retain",
        "EFS_FILE_SYSTEM_ID": "",
        "SOLUTION_NAME": "x",
    }
    environ = {"PATH": "/bin", **{PARAMETER + name: value for name, value in said.items()}}
    assert read_environment(environ, PARAMETER) == (
        StackOptions(
            sources=("s3://raw", "s3://other/x/"),
            output="s3://lake/drives",
            platforms=("SPOT", "EC2"),
            fair_share=True,
            max_vcpus=64,
            vcpus="0.5",
        ),
        "",
        "RETAIN",
    )
    for name, value, problem in (
        ("FAIR_SHARE", "maybe", "true or false is expected"),
        ("SUBNET_IDS", "[1]", "a list of texts is expected"),
        ("SUBNET_IDS", "[", "Expecting value"),
        ("REMOVAL_POLICY", "keep", "RETAIN or DESTROY is expected"),
    ):
        with pytest.raises(StackError, match=f"{PARAMETER}{name}=.*{problem}"):
            read_environment({PARAMETER + name: value}, PARAMETER)


# --- the files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modulestack() -> Mapping[str, Any]:
    return load(MODULE / "modulestack.yaml")


def test_the_rights_of_the_modules_role(modulestack: Mapping[str, Any]) -> None:
    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([lint, MODULE / "modulestack.yaml"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    unbounded = UNBOUNDED | {"batch:DescribeSchedulingPolicies"}
    through = {"ForAnyValue:StringEquals": {"aws:CalledVia": "cloudformation.amazonaws.com"}}
    for policy, statement in statements(modulestack):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert all("*" not in action for action in actions), statement["Sid"]
        if statement["Resource"] == "*":
            assert set(actions) <= unbounded, statement["Sid"]
        if policy != "StackPolicy":  # of which CloudFormation alone may make use
            assert through.items() <= statement["Condition"].items(), statement["Sid"]
    inline = [each["Properties"]["PolicyDocument"] for each in modulestack["Resources"].values()]
    assert sum(len("".join(json.dumps(each).split())) for each in inline) < 10_240  # IAM's limit of a role


def test_the_role_may_make_all_that_the_stack_has(modulestack: Mapping[str, Any]) -> None:
    """For each kind of resource in the template, the action that makes it and the one that deletes it."""
    allowed = {
        action
        for _, statement in statements(modulestack)
        for action in (
            statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        )
    }
    other_names = {
        "AWS::EC2::EIP": ("AllocateAddress", "ReleaseAddress"),
        "AWS::EC2::SubnetRouteTableAssociation": ("AssociateRouteTable", "DisassociateRouteTable"),
        "AWS::EC2::VPCGatewayAttachment": ("AttachInternetGateway", "DetachInternetGateway"),
        "AWS::EC2::VPC": ("CreateVpc", "DeleteVpc"),
        "AWS::EC2::VPCEndpoint": ("CreateVpcEndpoint", "DeleteVpcEndpoints"),
        "AWS::Batch::JobDefinition": ("RegisterJobDefinition", "DeregisterJobDefinition"),
        "AWS::Events::Rule": ("PutRule", "DeleteRule"),
        "AWS::SNS::TopicPolicy": ("SetTopicAttributes",),
        "AWS::IAM::Policy": ("PutRolePolicy", "DeleteRolePolicy"),
        "AWS::IAM::ManagedPolicy": ("CreatePolicy", "DeletePolicy"),
        "AWS::S3::Bucket": ("CreateBucket",),  # which stays
    }
    template = load(MODULE.with_name("template.yaml"))
    for kind in {resource["Type"] for resource in template["Resources"].values()}:
        _, service, what = kind.split("::")
        for action in other_names.get(kind, (f"Create{what}", f"Delete{what}")):
            assert f"{service.lower()}:{action}" in allowed, kind


def test_the_role_may_attach_the_policies_of_the_stacks_roles(modulestack: Mapping[str, Any]) -> None:
    found = {statement["Sid"]: statement for _, statement in statements(modulestack)}
    policies = found["AttachPolicies"]["Condition"]["ArnEquals"]["iam:PolicyARN"]
    assert {"Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:policy/${ProjectName}-*"} in policies
    roles = load(MODULE.with_name("template.yaml"))["Resources"]
    managed = json.dumps(roles["InstanceRole"]["Properties"]["ManagedPolicyArns"][0])
    assert managed in map(json.dumps, policies)
    assert {"Ref": "AirflowPolicy"} in roles["PlannerRole"]["Properties"]["ManagedPolicyArns"]


def test_the_sample_names_options_and_the_defaults_are_the_deployspecs() -> None:
    manifest = yaml.safe_load((MODULE / "manifest.yaml").read_text())
    parameters = {each["name"]: each for each in manifest["parameters"]}
    environ = {
        PARAMETER + name.replace("-", "_").upper(): str(each.get("value", "x"))
        for name, each in parameters.items()
    }
    options, _, removal_policy = read_environment(environ, PARAMETER)
    assert (options.retries, options.memory_mib, removal_policy) == (1, 16384, "DESTROY")
    deployspec, readme = (MODULE / "deployspec.yaml").read_text(), (MODULE / "README.md").read_text()
    for name in ("platform", "retries", "vcpus", "memory-mib"):
        value = parameters[name]["value"]
        assert f"{name.replace('-', '_').upper()}:-{value}}}" in deployspec
        assert f"defaults to `{value}`" in readme.partition(f"`{name}`:")[2].partition("\n-")[0]
    assert all(f"`{name}`" in readme for name in parameters)


def test_the_install_phase(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_DEPS", "NO_INDEX", "DRY_RUN", "DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(f"PIP_{name}", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip reads it the other way round
    (module.parents[1] / "bin" / "pip").symlink_to(Path(sys.executable).with_name("pip"))
    spec = yaml.safe_load((module / "deployspec.yaml").read_text())
    assert spec["deploy"]["phases"]["install"] == spec["destroy"]["phases"]["install"]
    spec["deploy"]["phases"] = {"install": spec["deploy"]["phases"]["install"]}
    (module / "deployspec.yaml").write_text(yaml.safe_dump(spec))
    done = run_phases(module, "deploy", PACKAGES=f"{ROOT} {ROOT / 'container'}")
    assert done.returncode == 0, done.stderr
