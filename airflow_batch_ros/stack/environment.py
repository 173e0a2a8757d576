"""A stack's options from environment variables of one prefix, as a seed-farmer module is given them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from airflow_batch_ros.stack.parameters import REMOVAL_POLICIES, OptionsError, StackOptions

BESIDE = (
    "PACKAGES",
    "EXTRA_PACKAGES",
    "PIP_PACKAGES",
    "SOLUTION_ID",
    "SOLUTION_NAME",
    "SOLUTION_VERSION",
)
"""Parameters of a module that say nothing of its stack."""

_TRUTHS = {"true": True, "false": False}


def read_environment(environ: Mapping[str, str], prefix: str) -> tuple[StackOptions, str, str]:
    """Options, image and removal policy (empty where not said) of the variables that begin with ``prefix``.

    A variable is named as its option is (``MEMORY_MIB``), of a repeatable option in singular or plural
    (``PLATFORM``, ``SUBNET_IDS``). Lists are JSON or parted by commas. Buckets need no ``s3://``. What is
    empty is not said.

    Raises:
        OptionsError: with every variable that is unknown or wrong.
    """
    said = {
        name.removeprefix(prefix): text.strip() for name, text in environ.items() if name.startswith(prefix)
    }
    said = {name: text for name, text in said.items() if text and name not in BESIDE}
    image = said.pop("IMAGE", "")
    removal_policy = said.pop("REMOVAL_POLICY", "").upper()
    problems = []
    if removal_policy not in ("", *REMOVAL_POLICIES):
        problems.append(
            f"{prefix}REMOVAL_POLICY={removal_policy}: {' or '.join(REMOVAL_POLICIES)} is expected"
        )
    values: dict[str, Any] = {}
    for field in dataclasses.fields(StackOptions):
        kind = str(field.type).removesuffix(" | None")
        names = [field.name.upper()]
        if kind.startswith("tuple"):
            names.append(field.name.removesuffix("s").upper())
        for name in names:
            if (text := said.pop(name, "")) == "":
                continue
            try:
                values[field.name] = _KINDS[kind](text)
            except ValueError as error:
                problems.append(f"{prefix}{name}={text}: {error}")
    problems += [f"{prefix}{name} is no option of a stack" for name in sorted(said)]
    if problems:
        raise OptionsError("; ".join(problems))
    if "sources" in values:
        values["sources"] = tuple(_uri(source) for source in values["sources"])
    if "output" in values:
        values["output"] = _uri(values["output"])
    return StackOptions(**values), image, removal_policy


def _texts(text: str) -> tuple[str, ...]:
    if not text.startswith("["):
        return tuple(each.strip() for each in text.split(",") if each.strip())
    found = json.loads(text)
    if not all(isinstance(each, str) for each in found):
        raise ValueError("a list of texts is expected")
    return tuple(found)


def _whole(text: str) -> int:
    if not text.removeprefix("-").isdecimal():
        raise ValueError("a whole number is expected")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError("true or false is expected")
    return _TRUTHS[text.lower()]


_KINDS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": _whole,
    "bool": _truth,
    "tuple[str, ...]": _texts,
}


def _uri(place: str) -> str:
    return place if "://" in place else f"s3://{place}"
