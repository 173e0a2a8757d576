"""Queue, definition, output and account: from flags, environment, a YAML file or a stack; in that order."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_batch_ros.allowed import AllowList, parse_allowed
from airflow_batch_ros.conf import ConfError, parse_output
from airflow_batch_ros.prices import Prices, parse_prices
from airflow_batch_ros.twice import TwiceError, check_yaml, load_json

if TYPE_CHECKING:
    from airflow_batch_ros.clients import Clients

N = TypeVar("N", int, float)

PREFIX = "AIRFLOW_BATCH_ROS_"
"""Of environment variables: ``AIRFLOW_BATCH_ROS_JOB_QUEUE``, and so on."""

DEFAULT_FILE = "airflow-batch-ros.yaml"
"""Read where it lies in the current folder."""

NAMES = (
    "output",
    "job_queue",
    "job_definition",
    "planner_definition",
    "vcpus",
    "memory_mib",
    "max_memory_mib",
    "on_demand_queue",
    "share_identifier",
    "requester_pays",
    "allowed_uris",
    "prices",
    "region",
    "profile",
    "role_arn",
    "stack",
)

FLAGS = ("requester_pays",)
"""Those that are true or false."""

DEFAULTS = {
    "job_queue": "ros-to-parquet",
    "job_definition": "ros-to-parquet",
    "planner_definition": "ros-to-parquet-plan",
}


_NEVER_EMPTY = frozenset(
    ("job_queue", "job_definition", "planner_definition", "region", "profile", "role_arn", "stack")
)


class SettingsError(ValueError):
    """A setting that is missing or wrong; the message says where it came from."""


@dataclass(frozen=True, slots=True)
class Setting:
    value: str
    origin: str

    def __str__(self) -> str:
        return f"{self.value!r} (from {self.origin})"


@dataclass(frozen=True, slots=True)
class Settings:
    """What was said, by name.

    Attributes:
        tags: of jobs: those of a flag win over those of the environment, and those over the file's.
    """

    given: Mapping[str, Setting]
    tags: Mapping[str, str]

    def find(self, name: str) -> str | None:
        setting = self.given.get(name)
        return None if setting is None else setting.value

    def number(self, name: str, kind: Callable[[str], N]) -> N | None:
        setting = self.given.get(name)
        if setting is None:
            return None
        try:
            number = kind(setting.value)
        except ValueError as error:
            whole = "whole " if kind is int else ""
            raise SettingsError(f"{name} {setting}: a {whole}number is expected") from error
        if not 0 < number < math.inf:
            raise SettingsError(f"{name} {setting}: a number above 0 is expected")
        return number

    def flag(self, name: str, *, default: bool = False) -> bool:
        setting = self.given.get(name)
        if setting is None:
            return default
        if setting.value.lower() not in ("true", "false"):
            raise SettingsError(f"{name} {setting}: true or false is expected")
        return setting.value.lower() == "true"

    def output(self) -> str:
        """Raises `SettingsError` where none is said, or what is said is none."""
        setting = self.given.get("output")
        if setting is None:
            raise SettingsError(f"no output is said: {how_to_say('output')}, or --stack NAME for a stack's")
        try:
            return parse_output(setting.value, where=f"output from {setting.origin}")
        except ConfError as error:
            raise SettingsError(error.problems[0]) from error

    def allow_list(self) -> AllowList | None:
        """Raises `ConfError` where what is said is none."""
        setting = self.given.get("allowed_uris")
        if setting is None:
            return None
        return parse_allowed(setting.value, origin=f"allowed_uris from {setting.origin}")

    def prices(self) -> Prices | None:
        """What is paid for containers, where a file says so.

        Raises:
            SettingsError: it cannot be read.
            ConfError: it does not say it.
        """
        setting = self.given.get("prices")
        if setting is None:
            return None
        try:
            raw = load_json(Path(setting.value).read_text())
        except TwiceError as error:
            raise SettingsError(f"prices {setting}: {error}") from error
        except (OSError, ValueError) as error:
            raise SettingsError(f"prices {setting} cannot be read: {error}") from error
        problems: list[str] = []
        found = parse_prices(raw, where=f"prices {setting}", problems=problems)
        if problems:
            raise ConfError(problems)
        return found

    def clients(self) -> Clients:
        from botocore.exceptions import ProfileNotFound

        from airflow_batch_ros.clients import Clients, open_session

        try:
            return Clients(
                open_session(
                    region=self.find("region"), profile=self.find("profile"), role_arn=self.find("role_arn")
                )
            )
        except ProfileNotFound as error:
            profile = self.given.get("profile", Setting(os.environ.get("AWS_PROFILE", ""), "AWS_PROFILE"))
            raise SettingsError(f"profile {profile}: AWS's configuration has no such profile") from error

    def described(self, *names: str) -> str:
        """The settings of these names that are said, each with its origin."""
        return ", ".join(f"{_words(name)} {self.given[name]}" for name in names if name in self.given)


def how_to_say(name: str) -> str:
    """The ways to say a setting, for a message."""
    flag = f"--{name.replace('_', '-')}"
    return f"say {flag}, {PREFIX}{name.upper()} in the environment or {name!r} in {DEFAULT_FILE}"


def add_connection(parser: argparse.ArgumentParser) -> None:
    """The flags that all of these commands have."""
    group = parser.add_argument_group(
        "where", f"Else {PREFIX}OUTPUT (and so on) in the environment, the YAML file, the stack's outputs."
    )
    group.add_argument("--output", metavar="URI", help="of the lake: s3://bucket/prefix")
    group.add_argument("--stack", metavar="NAME", help="whose outputs say output, job queue and definition")
    group.add_argument("--region", help="default: as AWS's own tools find it")
    group.add_argument("--profile", metavar="NAME", help="of AWS's configuration")
    group.add_argument("--role-arn", metavar="ARN", help="a role to take on")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help=f"YAML (default: {DEFAULT_FILE}, where there is one)"
    )


def add_job_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """The flags of commands that submit jobs. ``default`` says what holds where nothing is said."""
    group = parser.add_argument_group("jobs")
    group.add_argument("--job-queue", metavar="NAME_OR_ARN", help=f"default: {default}")
    group.add_argument("--job-definition", metavar="NAME_OR_ARN", help=f"default: {default}")
    group.add_argument("--vcpus", metavar="N", help="of each container (default: the definition's)")
    group.add_argument("--memory-mib", metavar="N", help="of each container (default: the definition's)")
    group.add_argument("--share-identifier", metavar="NAME", help="of a queue with fair share")
    group.add_argument(
        "--max-memory-mib",
        metavar="N",
        help="most that a container is given where shards ran out of memory (default: 122880)",
    )
    group.add_argument(
        "--on-demand-queue",
        metavar="NAME_OR_ARN",
        help="where shards go that Spot has reclaimed twice (default: the stack's, else nowhere)",
    )
    group.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="of the jobs; repeatable"
    )
    group.add_argument(
        "--requester-pays",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the buckets of bags bill who reads them: agree to pay",
    )
    group.add_argument(
        "--allowed-uris",
        metavar="URI,...",
        help="the places that a conf may name, s3://bucket/folder (default: what the job definition allows)",
    )


def read_settings(
    arguments: argparse.Namespace,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """What flags, environment and file say; `with_stack` adds what a stack says.

    Raises:
        SettingsError: the file or a tag cannot be read.
    """
    environ = os.environ if environ is None else environ
    file = _read_file(arguments, environ, Path.cwd() if folder is None else folder)
    flags = read_flags(arguments)
    said = {
        name: Setting(environ[variable], f"{variable} in the environment")
        for name in NAMES
        if environ.get(variable := PREFIX + name.upper())
    }
    variable = f"{PREFIX}TAGS"
    texts = [text.strip() for text in environ.get(variable, "").split(",") if text.strip()]
    tags = dict(_tag(text, f"{variable} in the environment") for text in texts)
    return Settings({**file.given, **said, **flags.given}, {**file.tags, **tags, **flags.tags})


def read_flags(arguments: argparse.Namespace) -> Settings:
    """What flags alone say.

    Raises:
        SettingsError: a tag cannot be read, or a name is empty.
    """
    flags = {name: getattr(arguments, name, None) for name in NAMES}
    given = {
        name: _setting(name, str(value), f"--{name.replace('_', '-')}")
        for name, value in flags.items()
        if value is not None
    }
    return Settings(given, dict(_tag(text, "--tag") for text in getattr(arguments, "tag", [])))


def with_stack(settings: Settings, clients: Clients, *, needed: Sequence[str]) -> Settings:
    """Adds of ``needed`` what is not said and a stack's outputs say: those of `StackOutputs`.

    AWS is only asked where something is missing and a stack is said.

    Raises:
        SettingsError: the stack does not say it.
    """
    missing = [name for name in needed if name not in settings.given]
    stack = settings.given.get("stack")
    if not missing or stack is None:
        return settings
    from airflow_batch_ros.stack.outputs import resolve
    from airflow_batch_ros.stack.parameters import StackError

    try:
        found = resolve(clients.cloudformation, stack.value)
    except StackError as error:
        raise SettingsError(f"stack {stack}: {error}") from error
    values = {
        "output": found.output_uri,
        "job_queue": found.job_queue,
        "job_definition": found.job_definition,
        "planner_definition": found.planner_definition,
        "on_demand_queue": found.on_demand_queue,
        "requester_pays": str(found.requester_pays),
    }
    if empty := [name for name in missing if not values[name]]:
        raise SettingsError(
            f"stack {stack}: it was made by an earlier version and has no {_words(empty[0])}; make it newer: "
            f"airflow-batch-ros stack update {stack.value}"
        )
    origin = f"stack {stack.value}"
    taken = {name: Setting(values[name], origin) for name in missing}
    if "job_queue" in taken and found.on_demand_queue:
        taken["on_demand_queue"] = Setting(found.on_demand_queue, origin)
    return replace(settings, given={**taken, **settings.given})


def with_defaults(settings: Settings) -> Settings:
    """Adds the queue's and the definition's default names."""
    defaults = {name: Setting(value, "the default") for name, value in DEFAULTS.items()}
    return replace(settings, given={**defaults, **settings.given})


def _read_file(arguments: argparse.Namespace, environ: Mapping[str, str], folder: Path) -> Settings:
    """What the YAML file says, if there is one."""
    variable = f"{PREFIX}CONFIG"
    flag: Path | None = arguments.config
    if flag is not None:
        path, origin = flag, "--config"
    elif environ.get(variable):
        path, origin = Path(environ[variable]), f"{variable} in the environment"
    else:
        path, origin = folder / DEFAULT_FILE, ""
        if not path.exists():
            return Settings({}, {})
    raw = _load_yaml(path, origin)
    known = (*NAMES, "tags")
    if unknown := [str(key) for key in raw if key not in known]:
        raise SettingsError(f"{path}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    settings = {}
    for name, value in raw.items():
        if name == "tags" or value is None:
            continue
        if name in FLAGS and not isinstance(value, bool):
            raise SettingsError(f"{path}: {name}: true or false is expected, not {value!r:.80}")
        if (isinstance(value, bool) and name not in FLAGS) or not isinstance(value, str | int | float):
            raise SettingsError(f"{path}: {name}: text or a number is expected, not {value!r:.80}")
        settings[name] = _setting(name, str(value), str(path))
    tags = raw.get("tags") or {}
    if not isinstance(tags, dict) or not all(isinstance(each, str | int | float) for each in tags.values()):
        raise SettingsError(f"{path}: tags: a mapping of names to texts is expected, not {tags!r:.80}")
    return Settings(settings, {str(key): str(value) for key, value in tags.items()})


def _setting(name: str, value: str, origin: str) -> Setting:
    setting = Setting(value, origin)
    if not value and name in _NEVER_EMPTY:
        raise SettingsError(f"{name} {setting}: it is empty")
    return setting


def _load_yaml(path: Path, origin: str) -> dict[Any, Any]:
    import yaml

    shown = f"{path} (from {origin})" if origin else str(path)
    try:
        text = path.read_text()
        check_yaml(yaml.compose(text, Loader=yaml.SafeLoader))
        raw = yaml.safe_load(text)
    except TwiceError as error:
        raise SettingsError(f"{shown}: {error}") from error
    except OSError as error:
        raise SettingsError(f"{shown} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{shown} is not YAML: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SettingsError(f"{shown}: a mapping of settings is expected, not {raw!r:.80}")
    return raw


def _tag(text: str, origin: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise SettingsError(f"tag {text!r} (from {origin}): KEY=VALUE is expected")
    return key, value


def _words(name: str) -> str:
    return name.replace("_", " ")
