"""A stack's parameters: from a command line's options to the template's, checked before AWS is asked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ros_to_parquet.contract import CATALOG_DATABASE

PLATFORMS = ("FARGATE", "FARGATE_SPOT", "EC2", "SPOT")
NETWORKS = ("given", "nat", "endpoints")
REMOVAL_POLICIES = ("RETAIN", "DESTROY")

_USE = {"FARGATE": "UseFargate", "FARGATE_SPOT": "UseFargateSpot", "EC2": "UseEc2", "SPOT": "UseSpot"}

_GIB = 1024

_GRAVITON = re.compile(r"(default_arm64|a1|[a-z]+\d+[a-z]*g[a-z]*)(\..+)?")
"""Instance types and families whose processors are arm64: a g behind the generation says so."""

FARGATE_MEMORY_MIB: Mapping[str, tuple[int, ...]] = {
    "0.25": (512, 1 * _GIB, 2 * _GIB),
    "0.5": tuple(gib * _GIB for gib in range(1, 5)),
    "1": tuple(gib * _GIB for gib in range(2, 9)),
    "2": tuple(gib * _GIB for gib in range(4, 17)),
    "4": tuple(gib * _GIB for gib in range(8, 31)),
    "8": tuple(gib * _GIB for gib in range(16, 61, 4)),
    "16": tuple(gib * _GIB for gib in range(32, 121, 8)),
}
"""Memory that a Fargate task may have, in MiB, by its vCPUs."""

MAX_RETRIES = 9
"""AWS Batch starts a job at most ten times."""

PARTITION_OF_REGION = {"cn": "aws-cn", "us-gov": "aws-us-gov"}

_CONF_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^*?]+")
_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<key>.*))?")


class StackError(ValueError):
    """A stack that cannot be made, changed or used as asked; says why and what to do."""


class OptionsError(StackError):
    """Options that cannot be, whatever there is in AWS."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What a stack is made with; None is the template's default, or what the stack has already.

    Attributes:
        sources: S3 URIs below which jobs may read bags.
        output: S3 URI of the lake.
        platforms: the first is the default one; each gets a compute environment and a queue.
        retries: times a job is started again; the template's ``Attempts`` less one.
        schedule: when a run of the conf at the S3 URI ``schedule_conf`` starts, ``rate(...)`` or
            ``cron(...)``; empty for no more.
        marker: ``s3://bucket/prefix/NAME``: an object of that name, in a folder below the prefix, starts a
            run of the folder's drive, by ``marker_conf`` (an S3 URI), if any; empty for no more.
    """

    sources: tuple[str, ...] | None = None
    output: str | None = None
    create_output_bucket: bool | None = None
    full_access_policy_arn: str | None = None
    kms_key_arns: tuple[str, ...] | None = None
    glue_database: str | None = None
    requester_pays: bool | None = None
    architecture: str | None = None
    platforms: tuple[str, ...] | None = None
    vcpus: str | None = None
    memory_mib: int | None = None
    ephemeral_storage_gib: int | None = None
    retries: int | None = None
    timeout_seconds: int | None = None
    efs_file_system_id: str | None = None
    efs_access_point_id: str | None = None
    min_vcpus: int | None = None
    desired_vcpus: int | None = None
    max_vcpus: int | None = None
    instance_types: tuple[str, ...] | None = None
    spot_allocation_strategy: str | None = None
    spot_price_percentage: int | None = None
    launch_template_id: str | None = None
    launch_template_version: str | None = None
    ami_id: str | None = None
    disk_gib: int | None = None
    queue_priority: int | None = None
    fair_share: bool | None = None
    runnable_timeout_seconds: int | None = None
    network: str | None = None
    vpc_cidr: str | None = None
    vpc_id: str | None = None
    subnet_ids: tuple[str, ...] | None = None
    security_group_ids: tuple[str, ...] | None = None
    assign_public_ip: str | None = None
    log_retention_days: int | None = None
    notification_topic_arn: str | None = None
    notification_email: str | None = None
    schedule: str | None = None
    schedule_conf: str | None = None
    marker: str | None = None
    marker_conf: str | None = None


_DERIVED = {
    *("sources", "output", "platforms", "retries", "vpc_cidr"),
    *("schedule_conf", "marker", "marker_conf"),
}

_CONFS = (("schedule", "ScheduleConfUri", "Schedule"), ("marker", "MarkerConfUri", "MarkerBucket"))
"""What starts runs, with the parameters of its conf and of itself."""


def template_parameters(options: StackOptions, *, region: str) -> dict[str, str]:
    """The template's parameters that the options decide, as CloudFormation takes them.

    Raises:
        OptionsError: an option cannot be; the message has every problem.
    """
    problems: list[str] = []
    found: dict[str, str] = {}
    for each in fields(options):
        value = getattr(options, each.name)
        if value is not None and each.name not in _DERIVED:
            found[_pascal(each.name)] = _text(value)
    if options.sources is not None:
        found.update(_sources(options.sources, region, problems))
    if options.output is not None:
        found.update(_output(options.output, problems))
    if options.vpc_cidr is not None:
        found.update(_network(options.vpc_cidr, problems))
    if options.platforms is not None:
        found.update(_platforms(options.platforms, problems))
    if options.marker is not None:
        found.update(_marker(options.marker, problems))
    for name, uri in (("ScheduleConfUri", options.schedule_conf), ("MarkerConfUri", options.marker_conf)):
        if uri is not None:
            found[name] = uri
            if uri and not _CONF_URI.fullmatch(uri):
                problems.append(f"conf {uri!r} is no object in S3 (s3://bucket/key)")
    if options.glue_database and not re.fullmatch(CATALOG_DATABASE, options.glue_database):
        problems.append(
            f"glue-database {options.glue_database!r}: lower-case letters, digits and _ can be, 255 at most"
        )
    if options.retries is not None:
        if not 0 <= options.retries <= MAX_RETRIES:
            problems.append(f"retries {options.retries}: 0 to {MAX_RETRIES} can be")
        found["Attempts"] = str(options.retries + 1)
    if problems:
        raise OptionsError("; ".join(problems))
    return found


def check_parameters(parameters: Mapping[str, str], *, given: Mapping[str, str] | None = None) -> None:
    """Holds all parameters together against what AWS would refuse late, or only when a job starts.

    ``given`` are those of them that are asked for now, None for all: the conf of a schedule that was ended
    may stay.

    Raises:
        OptionsError: with every problem.
    """
    problems = []
    if parameters.get("Network", "given") == "given" and not parameters.get("SubnetIds"):
        problems.append(
            "no subnets: name them (--subnet-id), or let the stack make a network (--network nat)"
        )
    if parameters.get("EfsFileSystemId") and parameters.get("Network", "given") != "given":
        problems.append(
            "efs-file-system-id: a network that is made here has no mount targets of it; name the subnets of "
            "one that has (--subnet-id)"
        )
    used = {name for name, flag in _USE.items() if parameters.get(flag) == "true"}
    used.add(parameters.get("Platform", "FARGATE_SPOT"))
    if used & {"EC2", "SPOT"}:
        problems += _on_instances(parameters)
    if used & {"FARGATE", "FARGATE_SPOT"}:
        vcpus, memory_mib = parameters.get("Vcpus", "2"), int(parameters.get("MemoryMib", "4096"))
        sizes = FARGATE_MEMORY_MIB.get(vcpus)
        if sizes is None:
            problems.append(f"vcpus {vcpus}: Fargate has {', '.join(FARGATE_MEMORY_MIB)}")
        elif memory_mib not in sizes:
            nearest = min(sizes, key=lambda size: (abs(size - memory_mib), size))
            problems.append(
                f"memory-mib {memory_mib}: Fargate has {sizes[0]} to {sizes[-1]} for {vcpus} vCPUs, in "
                f"steps; the nearest is {nearest}"
            )
    if parameters.get("Schedule") and not parameters.get("ScheduleConfUri"):
        problems.append(
            "a schedule needs a conf: put one in S3 and name it (--schedule-conf s3://bucket/key)"
        )
    for option, conf, start in _CONFS:
        if (parameters if given is None else given).get(conf) and not parameters.get(start):
            problems.append(
                f"{option}-conf {parameters[conf]}: there is no {option} that it is of (--{option})"
            )
    if parameters.get("FairShare") == "true" and (
        parameters.get("Schedule") or parameters.get("MarkerBucket")
    ):
        problems.append(
            "fair-share: its queues take no job without a shareIdentifier, and rules (--schedule, --marker) "
            "give none; have another stack for them"
        )
    below = parameters.get("MarkersBelow", "")
    if below and not any(below.startswith(source) for source in parameters["SourceUris"].split(",")):
        problems.append(f"markers below {below}: jobs may not read there; name it as --source too")
    if problems:
        raise OptionsError("; ".join(problems))


def _on_instances(parameters: Mapping[str, str]) -> list[str]:
    """What EC2 and Spot would refuse, or never start a job on."""
    problems = []
    if not parameters.get("Vcpus", "2").isdecimal():
        problems.append(f"vcpus {parameters['Vcpus']}: EC2 instances have whole ones")
    least, desired, most = (
        int(parameters.get(name, default))
        for name, default in (("MinVcpus", "0"), ("DesiredVcpus", "0"), ("MaxVcpus", "256"))
    )
    if not (least <= (desired or least) <= most):
        problems.append(f"desired-vcpus {desired}: between min-vcpus {least} and max-vcpus {most} can be")
    arm64 = parameters.get("Architecture") == "ARM64"
    types = parameters.get("InstanceTypes", "default_x86_64").split(",")
    if wrong := [each for each in types if bool(_GRAVITON.fullmatch(each)) != arm64]:
        other = (
            "x86_64: name others (--instance-type default_arm64)"
            if arm64
            else "arm64: say --architecture ARM64"
        )
        problems.append(f"instance-type {', '.join(wrong)} is {other}")
    return problems


def partition(region: str) -> str:
    """``aws``, ``aws-cn`` or ``aws-us-gov``: what ARNs of a region begin with."""
    return next((name for start, name in PARTITION_OF_REGION.items() if region.startswith(start)), "aws")


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes around it) of an S3 URI.

    Raises:
        OptionsError: it is none.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise OptionsError(f"{uri!r} is no S3 URI (s3://bucket/prefix/)")
    key = (match["key"] or "").strip("/")
    if "*" in key or "?" in key or "," in key:
        raise OptionsError(f"{uri!r}: a prefix with *, ? or a comma cannot be given rights to")
    return match["bucket"], key


def _sources(uris: Sequence[str], region: str, problems: list[str]) -> dict[str, str]:
    places = []
    for uri in uris:
        try:
            places.append(split_uri(uri))
        except OptionsError as error:
            problems.append(f"source {error}")
    if not uris:
        problems.append("no source: where are the bags? (--source s3://bucket/prefix/)")
    start = f"arn:{partition(region)}:s3:::"
    below = [f"{bucket}/{key}/" if key else f"{bucket}/" for bucket, key in places]
    return {
        "SourceUris": ",".join(f"s3://{each}" for each in below),
        "SourceObjectArns": ",".join(f"{start}{each}*" for each in below),
        "SourceBucketArns": ",".join(dict.fromkeys(f"{start}{bucket}" for bucket, _ in places)),
    }


def _output(uri: str, problems: list[str]) -> dict[str, str]:
    try:
        bucket, key = split_uri(uri)
    except OptionsError as error:
        problems.append(f"output {error}")
        return {}
    return {"OutputBucket": bucket, "OutputPrefix": key}


def _marker(uri: str, problems: list[str]) -> dict[str, str]:
    """Which objects are markers, as a rule's pattern takes it, and the URI that drives' ids begin after."""
    if not uri:
        return {"MarkerBucket": "", "MarkerKeys": "-", "MarkersBelow": ""}
    try:
        bucket, key = split_uri(uri)
    except OptionsError as error:
        problems.append(f"marker {error}")
        return {}
    folder, slash, name = key.rpartition("/")
    if not name or uri.endswith("/"):
        problems.append(f"marker {uri!r}: it ends in the name of an object, such as s3://bucket/prefix/_DONE")
        return {}
    prefix = folder + slash
    return {
        "MarkerBucket": bucket,
        "MarkerKeys": f"{prefix}*/{name}",
        "MarkersBelow": f"s3://{bucket}/{prefix}",
    }


def _network(cidr: str, problems: list[str]) -> dict[str, str]:
    """The VPC's addresses and, of each quarter but the last, a subnet's."""
    try:
        whole = ipaddress.IPv4Network(cidr)
        if not 16 <= whole.prefixlen <= 24:
            raise ValueError(f"/{whole.prefixlen}: /16 to /24 can be")
    except ValueError as error:
        problems.append(f"vpc-cidr {error}")
        return {}
    names = ("PrivateCidr1", "PrivateCidr2", "PublicCidr")
    subnets = zip(names, map(str, whole.subnets(prefixlen_diff=2)), strict=False)
    return {"VpcCidr": cidr, **dict(subnets)}


def _platforms(platforms: Sequence[str], problems: list[str]) -> dict[str, str]:
    unknown = [platform for platform in platforms if platform not in PLATFORMS]
    if unknown or not platforms:
        problems.append(f"platform {', '.join(unknown) or 'missing'}: {', '.join(PLATFORMS)} can be")
        return {}
    return {
        "Platform": platforms[0],
        **{flag: _text(platform in platforms) for platform, flag in _USE.items()},
    }


def _pascal(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)
