"""JSON and YAML in which no key is there twice: readers of both keep the last one without a word.

Nothing here imports Airflow or boto3: a DAG file may import it at parse time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml


class TwiceError(ValueError):
    """Keys that are there twice. ``problems`` has every one of them, a sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


def load_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        TwiceError: a key is there twice.
        ValueError: it is not JSON.

    >>> load_json('{"drives_to_process": {"new": {}, "new": {}}}')
    Traceback (most recent call last):
        ...
    airflow_batch_ros.twice.TwiceError: drive 'new' is there twice
    """
    doubled = False

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal doubled
        value = dict(found)
        if len(value) == len(found):
            return value
        doubled = True
        return _Doubled(found)

    value = json.loads(text, object_pairs_hook=pairs)
    if doubled:
        raise TwiceError(list(dict.fromkeys(_problems(value))))
    return value


def check_yaml(root: yaml.Node | None) -> None:
    """``root`` is of a YAML document, as ``yaml.compose`` has it.

    Raises:
        TwiceError: a key is there twice.
    """
    problems: list[str] = []
    seen: set[int] = set()  # an alias is the node that it names
    left: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while left:
        path, node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        kind = getattr(node, "id", "")
        if kind == "sequence":
            left += [(path, each) for each in node.value]
        elif kind == "mapping":
            keys = [str(key.value) for key, _ in node.value if getattr(key, "id", "") == "scalar"]
            problems += [_said(path, key) for key in _repeated(keys)]
            left += [((*path, str(key.value)), each) for key, each in node.value]
    if problems:
        raise TwiceError(problems)


class _Doubled(dict[str, Any]):
    """An object with keys that are there twice: ``pairs`` has all of it."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _repeated(keys: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for key in keys:
        if key in seen:
            repeated[key] = None
        seen.add(key)
    return list(repeated)


def _problems(root: object) -> Iterator[str]:
    left: list[tuple[tuple[str, ...], object]] = [((), root)]
    while left:
        path, value = left.pop()
        if isinstance(value, _Doubled):
            yield from (_said(path, key) for key in _repeated([key for key, _ in value.pairs]))
        if isinstance(value, dict):
            pairs = value.pairs if isinstance(value, _Doubled) else list(value.items())
            left += [((*path, key), each) for key, each in reversed(pairs)]
        elif isinstance(value, list):
            left += [(path, each) for each in value]


def _said(path: tuple[str, ...], key: str) -> str:
    """What a user calls a key of a conf, or of settings."""
    if path[:1] == ("drives_to_process",):
        if len(path) == 1 and key not in ("bucket", "prefix"):
            return f"drive {key!r} is there twice"
        if len(path) == 2:
            return f"drive {path[1]!r}, key {key!r} is there twice"
    where = f" of {'.'.join(path)!r}" if path else ""
    return f"key {key!r}{where} is there twice"
