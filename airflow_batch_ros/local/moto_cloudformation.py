"""Batch's resources in moto's CloudFormation: made, changed and deleted with their stack, as on AWS."""

from __future__ import annotations

from typing import Any

from moto.batch.models import (
    BatchBackend,
    ComputeEnvironment,
    JobDefinition,
    JobQueue,
    batch_backends,
)
from moto.batch.utils import lowercase_first_key
from moto.cloudformation.models import Stack
from moto.cloudformation.parsing import ResourceMap, parse_and_update_resource
from moto.ec2.models import ec2_backends
from moto.ec2.models.route_tables import RouteTable
from moto.ecr.models import Repository
from moto.iam.models import ManagedPolicy, iam_backends
from moto.utilities.utils import get_partition

_SERVICE = "batch.amazonaws.com"


def install() -> None:
    """Replaces how moto's CloudFormation handles compute environments, job queues and job definitions.

    And how it updates a stack (moto forgets the conditions of resources then) and deletes it (in any order).
    """
    create_repository = staticmethod(_create_repository_in_lower_case)
    setattr(Repository, "create_from_cloudformation_json", create_repository)  # noqa: B010
    setattr(RouteTable, "delete_from_cloudformation_json", staticmethod(_delete_route_table))  # noqa: B010
    setattr(ManagedPolicy, "delete_from_cloudformation_json", staticmethod(_delete_policy))  # noqa: B010
    setattr(Stack, "parameter_list", property(_parameter_list))  # noqa: B010
    setattr(ResourceMap, "update", _update_stack)  # noqa: B010
    setattr(ResourceMap, "delete", _delete_stack)  # noqa: B010
    for model, create, update, delete in (
        (ComputeEnvironment, _create_environment, _update_environment, _delete_environment),
        (JobQueue, _create_queue, _update_queue, _delete_queue),
        (JobDefinition, _create_definition, _update_definition, _deregister),
    ):
        setattr(model, "create_from_cloudformation_json", staticmethod(create))  # noqa: B010
        setattr(model, "update_from_cloudformation_json", staticmethod(update))  # noqa: B010
        setattr(model, "delete_from_cloudformation_json", staticmethod(delete))  # noqa: B010


_create_repository = Repository.create_from_cloudformation_json


def _create_repository_in_lower_case(resource_name: str, *args: Any, **kwargs: Any) -> Repository:
    """ECR's names have no capitals, so those that CloudFormation makes up have none."""
    repository: Repository = _create_repository(resource_name.lower(), *args, **kwargs)
    return repository


def _delete_route_table(resource_name: str, _json: Any, account_id: str, region_name: str) -> None:
    backend = ec2_backends[account_id][region_name]
    backend.get_route_table(resource_name).associations.clear()  # subnets' own, which moto keeps
    backend.delete_route_table(resource_name)


def _delete_policy(resource_name: str, _json: Any, account_id: str, region_name: str) -> None:
    iam_backends[account_id][get_partition(region_name)].delete_policy(resource_name)


def _parameter_list(stack: Stack) -> list[dict[str, Any]]:
    """A stack's parameters as texts, as they were given; moto shows a list as Python does."""
    return [
        {"ParameterKey": name, "ParameterValue": ",".join(value) if isinstance(value, list) else value}
        for name, value in stack.resource_map.resolved_parameters.items()
    ]


def _update_stack(
    resources: ResourceMap, template: dict[str, Any], parameters: dict[str, Any] | None = None
) -> None:
    """Makes what is wanted now and was not there, changes what differs, deletes what is wanted no more."""
    before = {
        name: resource
        for name in resources.resources
        if (resource := resources._parsed_resources.get(name)) is not None
    }
    definitions = resources._resource_json_map
    modified = resources.build_resource_diff(template, parameters)["Modify"]
    resources._template = template
    if parameters:
        resources.input_parameters = parameters
    resources.load_mapping()
    resources.load_parameters()
    resources.load_conditions()
    resources._resource_json_map = template["Resources"]
    for name, definition in template["Resources"].items():
        condition = definition.get("Condition")
        if condition and not resources.lazy_condition_map[condition]:
            continue
        if (original := before.pop(name, None)) is None:
            resources._parsed_resources.pop(name, None)
            _ = resources[name]  # which makes it
        elif name in modified:
            changed = parse_and_update_resource(
                name, definition, resources, resources._account_id, resources._region_name
            )
            resources._parsed_resources[name] = original if changed is None else changed
    for name, resource in reversed(before.items()):
        resources._parsed_resources.pop(name)
        if definitions[name].get("DeletionPolicy") != "Retain":
            _delete(resources, resource, definitions[name])


def _delete_stack(resources: ResourceMap) -> None:
    """Deletes what is not to be retained, the last made first."""
    for name, resource in reversed(list(resources._parsed_resources.items())):
        definition = resources._resource_json_map.get(name)
        if definition is None or resource is None or definition.get("DeletionPolicy") == "Retain":
            continue
        _delete(resources, resource, definition)
        resources._parsed_resources.pop(name)


def _delete(resources: ResourceMap, resource: Any, definition: dict[str, Any]) -> None:
    if isinstance(resource, Repository) and definition["Properties"].get("EmptyOnDelete"):
        resource.images.clear()
    resources._delete_resource(resource, definition)


def _properties(resource: Any) -> dict[str, Any]:
    """The resource's properties, named as Batch's API names them."""
    return lowercase_first_key(_present(resource["Properties"]))


def _present(value: Any) -> Any:
    """``value`` without what is AWS::NoValue, which moto leaves in lists."""
    if isinstance(value, dict):
        return {name: _present(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_present(each) for each in value if each is not None]
    return value


def _service_role(backend: BatchBackend, properties: dict[str, Any]) -> str:
    """The role that was named, else Batch's service-linked one, made where the account has none yet."""
    if role := properties.get("serviceRole"):
        return str(role)
    path = f"/aws-service-role/{_SERVICE}/"
    for role in backend.iam_backend.roles.values():
        if role.path == path:
            return str(role.arn)
    return str(backend.iam_backend.create_service_linked_role(_SERVICE, "", "").arn)


# --- compute environments ---------------------------------------------------------------------------


def _resources(properties: dict[str, Any]) -> dict[str, Any]:
    resources: dict[str, Any] = properties["computeResources"]
    numbers = ("minvCpus", "maxvCpus", "desiredvCpus", "bidPercentage")
    found = {name: int(value) if name in numbers else value for name, value in resources.items()}
    types = found.get("instanceTypes")
    if isinstance(types, str):  # moto does not split a list parameter's default
        found["instanceTypes"] = types.split(",")
    return found


def _create_environment(
    resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> ComputeEnvironment:
    backend = batch_backends[account_id][region_name]
    properties = _properties(cloudformation_json)
    resources = _resources(properties)
    # moto knows no families of instances and no default_x86_64.
    known = {**resources, "instanceTypes": ["optimal"]} if "instanceTypes" in resources else resources
    environment = backend.create_compute_environment(
        resource_name,
        properties["type"].upper(),
        properties.get("state", "ENABLED"),
        known,
        _service_role(backend, properties),
    )
    environment.compute_resources = resources
    return environment


def _update_environment(
    original_resource: ComputeEnvironment, cloudformation_json: Any, **_: Any
) -> ComputeEnvironment:
    properties = _properties(cloudformation_json)
    original_resource.state = properties.get("state", "ENABLED")
    original_resource.compute_resources = _resources(properties)
    return original_resource


def _delete_environment(resource_name: str, _json: Any, account_id: str, region_name: str) -> None:
    batch_backends[account_id][region_name].delete_compute_environment(resource_name)


# --- job queues -------------------------------------------------------------------------------------


def _queue_arguments(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "priority": properties["priority"],
        "state": properties.get("state", "ENABLED"),
        "compute_env_order": properties["computeEnvironmentOrder"],
        "schedule_policy": properties.get("schedulingPolicyArn"),
    }


def _create_queue(
    resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> JobQueue:
    backend = batch_backends[account_id][region_name]
    return backend.create_job_queue(
        queue_name=resource_name, **_queue_arguments(_properties(cloudformation_json))
    )


def _update_queue(
    original_resource: JobQueue, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> JobQueue:
    backend = batch_backends[account_id][region_name]
    backend.update_job_queue(
        queue_name=original_resource.name, **_queue_arguments(_properties(cloudformation_json))
    )
    return original_resource


def _delete_queue(resource_name: str, _json: Any, account_id: str, region_name: str) -> None:
    batch_backends[account_id][region_name].delete_job_queue(resource_name)


# --- job definitions --------------------------------------------------------------------------------


def _register(name: str, cloudformation_json: Any, account_id: str, region_name: str) -> JobDefinition:
    properties = _properties(cloudformation_json)
    container = properties.get("containerProperties")
    if container is not None:
        container["resourceRequirements"] = [
            {"type": each["type"], "value": str(each["value"])}
            for each in container.get("resourceRequirements", [])
        ]
    timeout = properties.get("timeout") or {}
    retry = properties.get("retryStrategy") or {}
    return batch_backends[account_id][region_name].register_job_definition(
        def_name=name,
        parameters=cloudformation_json["Properties"].get("Parameters") or {},
        _type=properties["type"],
        tags=cloudformation_json["Properties"].get("Tags") or {},
        retry_strategy={**retry, "attempts": int(retry.get("attempts", 1))},
        container_properties=container,
        node_properties=None,
        eks_properties=None,
        timeout={name: int(value) for name, value in timeout.items()},
        platform_capabilities=properties.get("platformCapabilities") or [],
        propagate_tags=bool(properties.get("propagateTags")),
    )


def _create_definition(
    resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> JobDefinition:
    return _register(resource_name, cloudformation_json, account_id, region_name)


def _update_definition(
    original_resource: JobDefinition, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> JobDefinition:
    """A new revision; the old one goes, unless it is to stay for jobs that wait."""
    kept = _properties(cloudformation_json).get("resourceRetentionPolicy") or {}
    if str(kept.get("skipDeregisterOnUpdate", "false")).lower() != "true":
        original_resource.deregister()
    return _register(original_resource.name, cloudformation_json, account_id, region_name)


def _deregister(resource_name: str, _json: Any, account_id: str, region_name: str) -> None:
    batch_backends[account_id][region_name].deregister_job_definition(resource_name)
