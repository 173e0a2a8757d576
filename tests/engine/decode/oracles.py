"""What other decoders make of a message, in the form that Arrow's ``to_pylist`` has."""

from __future__ import annotations

import functools
import keyword
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from ros_to_parquet.definitions import PLACEHOLDER
from ros_to_parquet.layout import Array, Node, Primitive, Sequence, String, Struct
from ros_to_parquet.schema import unique_names


@functools.cache
def typestore(name: str) -> Typestore:
    """A standard store of `rosbags`; not to be added to."""
    return get_typestore(Stores(name))


def from_object(value: Any, node: Node) -> Any:
    """A message object of `rosbags` or `mcap`'s decoders.

    `rosbags` takes ROS 2's ``byte`` for int8 and `mcap` ``char`` for int8; both are uint8: mended here.
    """
    match node:
        case Primitive(name="bool"):
            return bool(value)
        case Primitive(name="uint8"):
            return int(value) & 0xFF
        case Primitive(name=name) if name.startswith("float"):
            return float(value)
        case Primitive():
            return int(value)
        case String():
            return value
        case Struct(fields=()):
            return {PLACEHOLDER: getattr(value, PLACEHOLDER, 0)}
        case Struct(type_name="time"):  # uint32 both; `rosbags` has them as ROS 2 does
            return {name: number & 0xFFFFFFFF for name, number in _time(value).items()}
        case Struct(type_name="duration"):
            return {name: (number + 2**31) % 2**32 - 2**31 for name, number in _time(value).items()}
        case Struct():
            names = unique_names(field.name for field in node.fields)
            return {
                name: from_object(_attribute(value, field.name), field.node)
                for name, field in zip(names, node.fields, strict=True)
            }
        case Array() | Sequence():
            is_none = isinstance(node, Array) and node.size == 0
            if isinstance(node.item, Primitive) and node.item.name == "uint8" and not is_none:
                return (
                    bytes(value) if isinstance(value, bytes) else np.array(value).astype(np.uint8).tobytes()
                )
            return [from_object(item, node.item) for item in _items(value)]


def _time(value: Any) -> dict[str, int]:
    if hasattr(value, "secs"):
        return {"sec": value.secs, "nanosec": value.nsecs}
    return {"sec": value.sec, "nanosec": value.nanosec}


def _attribute(value: Any, name: str) -> Any:
    return getattr(value, f"{name}_" if keyword.iskeyword(name) else name)


def _items(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
