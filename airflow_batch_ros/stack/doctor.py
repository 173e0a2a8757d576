"""What keeps jobs of a stack from running, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_batch_ros.stack.deploy import IN_REVIEW, NOT_EXECUTED
from airflow_batch_ros.stack.outputs import find_stack, outputs_of
from airflow_batch_ros.stack.parameters import partition, split_uri

if TYPE_CHECKING:
    import boto3

Level = Literal["ok", "problem", "unknown"]

_MARKS = {"ok": "ok      ", "problem": "PROBLEM ", "unknown": "unknown "}

QUOTAS = {
    "FARGATE": ("fargate", "L-3032A538"),
    "FARGATE_SPOT": ("fargate", "L-36FBB829"),
    "EC2": ("ec2", "L-1216C47A"),
    "SPOT": ("ec2", "L-34B43A08"),
}
"""Service Quotas' codes of the vCPUs an account may run at once, by platform."""

_JOB_ACTIONS = ("s3:GetObject",)
_LAKE_ACTIONS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: how it is, and what to do where it is wrong."""

    level: Level
    what: str
    advice: str = ""

    def line(self) -> str:
        return f"{_MARKS[self.level]}{self.what}{f'; {self.advice}' if self.advice else ''}"


def examine(session: boto3.Session, name: str) -> list[Finding]:
    """Looks at an account and a stack; nothing is changed."""
    found = [*_credentials(session)]
    if any(finding.level == "problem" for finding in found):
        return found
    stack = find_stack(session.client("cloudformation"), name)
    if stack is None:
        advice = f"airflow-batch-ros stack create {name} makes it"
        return [*found, Finding("problem", f"there is no stack {name} in {session.region_name}", advice)]
    found += _stack(name, stack)
    outputs = outputs_of(stack)
    if "RepositoryUri" not in outputs:
        return found
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: _image(session, name, outputs),
        lambda: _definition(session, outputs),
        lambda: _buckets(session, outputs),
        lambda: _rights(session, outputs),
        lambda: _catalog(session, name, stack, outputs),
        lambda: _markers(session, outputs),
        *(
            lambda key=key: _queue(session, outputs[key])
            for key in ("FargateQueueArn", "FargateSpotQueueArn", "Ec2QueueArn", "SpotQueueArn")
            if key in outputs
        ),
    ]
    for check in checks:
        found += _attempted(check)
    return list(dict.fromkeys(found))  # queues may share subnets


def _attempted(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check found; what the caller may not ask is said as unknown, and the others still are done."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    found: list[Finding] = []
    try:
        found.extend(check())
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        found.append(Finding("unknown", f"could not be looked at: {str(error).partition(chr(10))[0]}"))
    return found


def _credentials(session: boto3.Session) -> Iterator[Finding]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        identity = session.client("sts").get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        yield Finding("problem", f"AWS does not know you: {error}", "set credentials, or name a --profile")
        return
    yield Finding("ok", f"you are {identity['Arn']} in {session.region_name}")


def _stack(name: str, stack: Any) -> Iterator[Finding]:
    status = stack["StackStatus"]
    if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        yield Finding("ok", f"stack {name} is {status}")
    elif status == IN_REVIEW:
        advice = f"execute it, or: airflow-batch-ros stack delete {name}"
        yield Finding("problem", f"stack {name} is {status}: {NOT_EXECUTED}", advice)
    elif status.endswith("_IN_PROGRESS"):
        yield Finding("problem", f"stack {name} is {status}", "wait until it has ended")
    else:
        reason = stack.get("StackStatusReason", "")
        yield Finding(
            "problem",
            f"stack {name} is {status}{f': {reason}' if reason else ''}",
            f"its events say why; mend it, then: airflow-batch-ros stack create {name}",
        )


def _image(session: boto3.Session, name: str, outputs: dict[str, str]) -> Iterator[Finding]:
    uri = outputs.get("ImageUri")
    if uri is None:
        advice = f"push one to {outputs['RepositoryUri']}, then: airflow-batch-ros stack create {name}"
        yield Finding("problem", "the stack has no image", advice)
        return
    repository, _, digest = uri.partition("@")
    if repository != outputs["RepositoryUri"]:
        yield Finding("unknown", f"the image {uri} is in another repository")
        return
    ecr = session.client("ecr")
    try:
        ecr.describe_images(repositoryName=repository.partition("/")[2], imageIds=[{"imageDigest": digest}])
    except ecr.exceptions.ImageNotFoundException:
        advice = f"push it again, then: airflow-batch-ros stack update {name} --image URI@sha256:..."
        yield Finding("problem", f"the image {uri} is not in the repository (any more)", advice)
        return
    yield Finding("ok", f"the image is there: {uri}")


def _definition(session: boto3.Session, outputs: dict[str, str]) -> Iterator[Finding]:
    arn = outputs.get("JobDefinitionArn")
    if arn is None:
        return
    found = session.client("batch").describe_job_definitions(jobDefinitions=[arn])["jobDefinitions"]
    if not found or found[0]["status"] != "ACTIVE":
        status = found[0]["status"] if found else "not there"
        yield Finding(
            "problem", f"job definition {arn} is {status}", "airflow-batch-ros stack update registers one"
        )
        return
    yield Finding("ok", f"job definition {arn} is ACTIVE")


def _queue(session: boto3.Session, arn: str) -> Iterator[Finding]:
    batch = session.client("batch")
    queues = batch.describe_job_queues(jobQueues=[arn])["jobQueues"]
    name = arn.rpartition("/")[2]
    if not queues:
        yield Finding("problem", f"job queue {name} is not there", "airflow-batch-ros stack update makes it")
        return
    (queue,) = queues
    if queue["state"] != "ENABLED":
        yield Finding("problem", f"job queue {name} is {queue['state']}", "enable it: it takes no jobs")
    elif queue.get("status", "VALID") != "VALID":
        yield Finding("problem", f"job queue {name} is {queue['status']}: {queue.get('statusReason', '')}")
    else:
        yield Finding("ok", f"job queue {name} is enabled")
    arns = [each["computeEnvironment"] for each in queue["computeEnvironmentOrder"]]
    for environment in batch.describe_compute_environments(computeEnvironments=arns)["computeEnvironments"]:
        yield from _environment(session, environment)


def _environment(session: boto3.Session, environment: Any) -> Iterator[Finding]:
    resources = environment["computeResources"]
    kind = resources["type"]
    what = f"compute environment {environment['computeEnvironmentName']} ({kind})"
    if environment["state"] != "ENABLED":
        yield Finding("problem", f"{what} is {environment['state']}", "enable it: its jobs never start")
    elif environment.get("status", "VALID") != "VALID":
        reason = environment.get("statusReason", "no reason is given")
        yield Finding("problem", f"{what} is {environment['status']}: {reason}")
    else:
        yield Finding("ok", f"{what} is valid")
    yield from _attempted(lambda: _routes(session, resources))
    yield from _attempted(lambda: _quota(session, kind, resources["maxvCpus"]))


def _routes(session: boto3.Session, resources: Any) -> Iterator[Finding]:
    """Whether each subnet leads to ECR, logs and S3: by NAT or internet gateway, or by endpoints."""
    ec2 = session.client("ec2")
    subnets = ec2.describe_subnets(SubnetIds=resources["subnets"])["Subnets"]
    for subnet in subnets:
        vpc = subnet["VpcId"]
        tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
        table = _table_of(subnet["SubnetId"], tables)
        out = [
            route
            for route in (table or {}).get("Routes", [])
            if route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("State", "active") == "active"
        ]
        endpoints = ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["VpcEndpoints"]
        services = {each["ServiceName"].partition(f"{session.region_name}.")[2] for each in endpoints}
        missing = [service for service in ("ecr.api", "ecr.dkr", "logs", "s3") if service not in services]
        what = f"subnet {subnet['SubnetId']}"
        if out:
            yield Finding("ok", f"{what} has a way out ({_target(out[0])})")
        elif missing:
            yield Finding(
                "problem",
                f"{what} has no way to {', '.join(missing)}",
                "jobs would wait in STARTING and fail: add a NAT gateway, or endpoints for these services",
            )
        else:
            yield Finding("ok", f"{what} reaches ECR, logs and S3 by endpoints")


def _table_of(subnet_id: str, tables: list[Any]) -> Any:
    """The subnet's own route table, or its VPC's main one."""
    main = None
    for table in tables:
        for association in table.get("Associations", []):
            if association.get("SubnetId") == subnet_id:
                return table
            if association.get("Main"):
                main = table
    return main


def _target(route: Any) -> str:
    return str(
        route.get("NatGatewayId") or route.get("GatewayId") or route.get("TransitGatewayId") or "a route"
    )


def _quota(session: boto3.Session, kind: str, max_vcpus: int) -> Iterator[Finding]:
    service, code = QUOTAS[kind]
    quota = session.client("service-quotas").get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]
    allowed = int(quota["Value"])
    what = f"{kind}: the account may run {allowed:,} vCPUs at once, the stack asks for up to {max_vcpus:,}"
    if allowed < max_vcpus:
        advice = (
            f"ask for more (Service Quotas, {quota['QuotaName']}), or update the stack: --max-vcpus {allowed}"
        )
        yield Finding("problem", what, advice)
    else:
        yield Finding("ok", what)


def _buckets(session: boto3.Session, outputs: dict[str, str]) -> Iterator[Finding]:
    from botocore.exceptions import ClientError

    s3 = session.client("s3")
    places = [*outputs["SourceUris"].split(","), outputs["OutputUri"]]
    for bucket in dict.fromkeys(split_uri(uri)[0] for uri in places):
        try:
            answer = s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("404", "NoSuchBucket"):
                yield Finding("problem", f"there is no bucket {bucket}", "check its name, or make it")
            elif code == "301":
                yield Finding(
                    "problem", f"bucket {bucket} is in another region", "have the stack in that region"
                )
            else:
                yield Finding("unknown", f"bucket {bucket} does not let you look at it ({code})")
            continue
        region = answer.get("BucketRegion") or session.region_name
        if region != session.region_name:
            advice = "each byte read is billed as traffic between regions: have the stack there"
            yield Finding(
                "problem", f"bucket {bucket} is in {region}, the stack in {session.region_name}", advice
            )
        else:
            yield Finding("ok", f"bucket {bucket} is there")


_CATALOG_ACTIONS = ("glue:GetTables", "glue:CreateTable", "glue:BatchCreatePartition")


def _catalog(session: boto3.Session, name: str, stack: Any, outputs: dict[str, str]) -> Iterator[Finding]:
    """The Glue database that jobs register tables in, if any."""
    given = {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])}
    database = given.get("GlueDatabase", "")
    if not database:
        return
    region = str(session.region_name)
    account = session.client("sts").get_caller_identity()["Account"]
    arn = f"arn:{partition(region)}:glue:{region}:{account}:table/{database}/any"
    results = session.client("iam").simulate_principal_policy(
        PolicySourceArn=outputs["JobRoleArn"], ActionNames=list(_CATALOG_ACTIONS), ResourceArns=[arn]
    )["EvaluationResults"]
    denied = [result["EvalActionName"] for result in results if result["EvalDecision"] != "allowed"]
    if denied:
        advice = f"airflow-batch-ros stack update {name} --glue-database {database}; or look at its policies"
        yield Finding("problem", f"jobs may not register tables in {database} ({', '.join(denied)})", advice)
    else:
        yield Finding("ok", f"jobs may register tables in the Glue database {database}")
    glue = session.client("glue")
    try:
        glue.get_database(Name=database)
    except glue.exceptions.EntityNotFoundException:
        yield Finding("ok", f"Glue database {database} is not there yet: the first drive makes it")
        return
    yield Finding("ok", f"Glue database {database} is there")


def _markers(session: boto3.Session, outputs: dict[str, str]) -> Iterator[Finding]:
    """Whether S3 tells EventBridge of markers."""
    if "MarkersBelow" not in outputs:
        return
    bucket, _ = split_uri(outputs["MarkersBelow"])
    told: Any = session.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    if "EventBridgeConfiguration" in told:
        yield Finding("ok", f"bucket {bucket} tells EventBridge of markers")
    else:
        advice = (
            "turn Amazon EventBridge on in the bucket's properties (docs/aws.md), or no marker starts a run"
        )
        yield Finding("problem", f"bucket {bucket} does not tell EventBridge of objects", advice)


def _rights(session: boto3.Session, outputs: dict[str, str]) -> Iterator[Finding]:
    """What IAM says the job role may do; the policies of buckets and keys are not looked at."""
    iam = session.client("iam")
    start = f"arn:{partition(str(session.region_name))}:s3:::"
    wanted: list[tuple[tuple[str, ...], str, str]] = [
        (_JOB_ACTIONS, uri, "read bags") for uri in outputs["SourceUris"].split(",")
    ]
    wanted.append((_LAKE_ACTIONS, outputs["OutputUri"], "write the lake"))
    for actions, uri, what in wanted:
        bucket, key = split_uri(uri)
        resource = f"{start}{bucket}/{key}/any" if key else f"{start}{bucket}/any"
        results = iam.simulate_principal_policy(
            PolicySourceArn=outputs["JobRoleArn"], ActionNames=list(actions), ResourceArns=[resource]
        )["EvaluationResults"]
        denied = [result["EvalActionName"] for result in results if result["EvalDecision"] != "allowed"]
        if denied:
            advice = "look at its policies, and at the organization's"
            yield Finding("problem", f"jobs may not {what} below {uri} ({', '.join(denied)})", advice)
        else:
            yield Finding("ok", f"jobs may {what} below {uri}")
