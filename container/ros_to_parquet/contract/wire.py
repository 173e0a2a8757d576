"""JSON on the wire: canonical, so that a SHA-256 of it is reproducible; refused where it is another's."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")

CONTRACT_VERSION = 1

_ONE_VERSION = "use one version of airflow-batch-ros and of the image"


class ContractError(ValueError):
    """A plan, manifest or other object that does not say what this version expects, or a wrong hash."""


def to_json(value: Any) -> bytes:
    """Canonical JSON of one of the contract's dataclasses."""
    # Field by field: as nested dictionaries, a manifest of thousands of topics would be in memory twice.
    return json.dumps(value, default=_as_object, sort_keys=True, separators=(",", ":")).encode()


def _as_object(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def from_json(kind: type[T], data: bytes, *, where: str) -> T:
    """The dataclass ``kind`` that ``data`` holds.

    Raises:
        ContractError: not JSON, a field is missing, unknown or of a wrong type, or another contract
            version; the message begins with ``where``.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{where}: not JSON: {error}") from error
    version = raw.get("contract_version", CONTRACT_VERSION) if isinstance(raw, dict) else None
    if version != CONTRACT_VERSION:
        raise ContractError(
            f"{where}: contract version {version}, this engine speaks {CONTRACT_VERSION}; {_ONE_VERSION}"
        )
    return typing.cast(T, _parse(kind, raw, where))


def _parse(kind: Any, raw: Any, where: str) -> Any:
    """``raw`` (from JSON) as ``kind``: a dataclass, an enum, a scalar, an optional or a tuple of those."""
    if type(raw) is kind:  # a scalar, as most are; what JSON gives is no dataclass
        return raw
    shape, inner = _shape(kind)
    if shape is tuple:
        if not isinstance(raw, list):
            raise ContractError(f"{where}: expected a list, not {raw!r:.80}")
        return tuple(_parse(inner, value, f"{where}[{place}]") for place, value in enumerate(raw))
    if shape is typing.Optional:
        return None if raw is None else _parse(inner, raw, where)
    if shape is dataclass:
        return _parse_dataclass(kind, raw, where)
    if issubclass(kind, StrEnum):
        try:
            return kind(raw)
        except ValueError as error:
            raise ContractError(f"{where}: {error}") from error
    if kind is float and type(raw) is int:
        return float(raw)
    raise ContractError(f"{where}: expected {kind.__name__}, not {raw!r:.80}")


@functools.cache
def _shape(kind: Any) -> tuple[Any, Any]:
    """``tuple`` or ``Optional`` and what is in it, ``dataclass``, or None for enums and scalars."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        return tuple, typing.get_args(kind)[0]
    if origin in (typing.Union, types.UnionType):
        (inner,) = (option for option in typing.get_args(kind) if option is not types.NoneType)
        return typing.Optional, inner
    return dataclass if dataclasses.is_dataclass(kind) else None, None


def _parse_dataclass(kind: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ContractError(f"{where}: expected an object, not {raw!r:.80}")
    fields = _fields(kind)
    if unknown := sorted(raw.keys() - fields.keys()):
        raise ContractError(f"{where}: unknown keys {', '.join(unknown)}: of a later version? {_ONE_VERSION}")
    values = {}
    for name, (hint, required) in fields.items():
        if name in raw:
            value = raw[name]
            values[name] = value if type(value) is hint else _parse(hint, value, f"{where}.{name}")
        elif required:
            raise ContractError(f"{where}: key {name} is missing")
    return kind(**values)


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """A dataclass's fields by name: their types, and whether they have no default."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }
