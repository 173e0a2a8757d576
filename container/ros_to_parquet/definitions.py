"""Message definitions as ROS writes them: .msg, .srv and .action texts, and the standard types.

A definition is parsed into flat, named records here; ``layout`` resolves them into one tree a type.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ros_to_parquet.contract import ROS2_DISTRIBUTIONS

if TYPE_CHECKING:
    from rosbags.interfaces.typing import FieldDesc, Typesdict

RosVersion = Literal[1, 2]
Shape = Literal["scalar", "array", "sequence"]

PLACEHOLDER: Final = "structure_needs_at_least_one_member"
"""The one uint8 that ROS 2 puts into a message without fields, under this name."""

BUILTINS: Final = frozenset(
    {"bool", "byte", "char", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
    | {"float32", "float64", "float128", "string", "wstring", "wchar"}
)
ROS1_BUILTINS: Final = frozenset({"time", "duration"})

CUSTOM: Final = "msg_path"
"""Source of a type whose definition was given beside the bag, as ``--msg-path`` does."""


class DefinitionError(ValueError):
    """A type that cannot be decoded: unknown, incomplete, recursive, or a text that does not parse.

    The message names the type and says what to do.
    """


class DefinitionSyntaxError(DefinitionError):
    """A text that does not parse: ``line`` (from 1; of the whole text) and ``problem`` say where and why.

    ``advice`` ends the message: what to do about it.
    """

    def __init__(
        self,
        type_name: str,
        line: int,
        problem: str,
        *,
        advice: str = "the bag's definition is damaged or not a ROS message definition",
    ) -> None:
        super().__init__(f"type {type_name}: line {line} of its definition {problem}; {advice}")
        self.line = line
        self.problem = problem


@dataclass(frozen=True, slots=True)
class FieldDefinition:
    """One field, before its type is resolved.

    Attributes:
        type_name: a builtin as declared (``byte``, ``time``, ``string``) or ``pkg/msg/Name``.
        name: as declared.
        shape: one value, a fixed-size array or a sequence.
        size: elements of an array; largest count of a bounded sequence; 0 where there is no bound.
        string_bound: largest length of a bounded string; 0 where there is no bound.
        inner: shapes and sizes of what the array or sequence has as elements, where these are arrays or
            sequences too, the outermost first. IDL alone has such fields.
    """

    type_name: str
    name: str
    shape: Shape = "scalar"
    size: int = 0
    string_bound: int = 0
    inner: tuple[tuple[Shape, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    type_name: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Definition:
    """One message type: ``name`` is ``pkg/msg/Name``."""

    name: str
    fields: tuple[FieldDefinition, ...]
    constants: tuple[Constant, ...] = ()


def full_type_name(name: str, *, package: str = "") -> str:
    """``name`` with its package and kind; ``::`` is how IDL writes a slash.

    >>> full_type_name("sensor_msgs/Imu"), full_type_name("Imu", package="sensor_msgs")
    ('sensor_msgs/msg/Imu', 'sensor_msgs/msg/Imu')
    """
    parts = [part for part in name.replace("::", "/").split("/") if part]
    if len(parts) == 1 and package:
        return f"{package}/msg/{parts[0]}"
    if len(parts) == 2:
        return f"{parts[0]}/msg/{parts[1]}"
    return "/".join(parts)


# --- .msg, .srv and .action -------------------------------------------------------------------------

_SECTION = re.compile(r"^={10,}[ \t]*$", re.MULTILINE)
_SERVICE_PART = re.compile(r"^---[ \t]*$", re.MULTILINE)
_ANNOTATION = re.compile(r"@\w+(?:\([^)]*\))?\s*")
_LINE = re.compile(
    r"""(?P<type>[A-Za-z][\w/]*)
        (?:<=(?P<string_bound>\d+))?
        (?P<array>\[(?P<bounded><=)?(?P<size>\d*)\])?
        \s+(?P<name>[A-Za-z_]\w*)
        \s*(?P<rest>(?:[=#]|(?<=\s)).*)?""",
    re.VERBOSE,
)


def parse_msg(text: str, type_name: str, *, ros_version: RosVersion) -> dict[str, Definition]:
    """Definitions in ``text``: that of ``type_name`` first, its dependencies after lines of ``=``.

    A text with ``---`` is a service's or an action's: the types that ROS 2 derives from it (requests,
    responses, events, feedback messages) are made from its parts.

    Raises:
        DefinitionSyntaxError: a line does not parse.
        DefinitionError: likewise, where no one line is to blame.
    """
    found: dict[str, Definition] = {}
    root = full_type_name(type_name)
    for section in split_sections(text):
        name, body = take_header(section, "MSG:")
        name = full_type_name(name) if name else root
        parts = _split_parts(body)
        if len(parts) == 1:
            definitions = [_parse_body(body, name, ros_version)]
        else:
            definitions = _derive_interface(parts, name, ros_version)
        for definition in definitions:
            found.setdefault(definition.name, definition)
    return found


@dataclass(frozen=True, slots=True)
class TextPart:
    """A part of a text, and the number of its first line there."""

    text: str
    first_line: int = 1


def _split(text: TextPart, separator: re.Pattern[str]) -> list[TextPart]:
    parts, first_line = [], text.first_line
    for part in separator.split(text.text):
        parts.append(TextPart(part, first_line))
        first_line += part.count("\n")  # a separator has no line end of its own
    return parts


def split_sections(text: str) -> list[TextPart]:
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\0\ufeff")
    first, *others = _split(TextPart(text), _SECTION)
    # Nothing in front of a separator is an empty message, unless the root follows under its own header.
    return [first, *others] if first.text.strip() else [*others, first]


def _split_parts(body: TextPart) -> list[TextPart]:
    """The parts of a service or an action; one where it is a message."""
    return _split(body, _SERVICE_PART)


def take_header(section: TextPart, keyword: str) -> tuple[str, TextPart]:
    """Type name of a ``MSG: pkg/Name`` line at the start, if there is one, and the rest."""
    stripped = section.text.lstrip("\n")
    head, _, body = stripped.partition("\n")
    if head.startswith(keyword):
        above = len(section.text) - len(stripped) + 1
        return head[len(keyword) :].strip(), TextPart(body, section.first_line + above)
    return "", section


def _parse_body(body: TextPart, name: str, ros_version: RosVersion) -> Definition:
    package = name.split("/", 1)[0]
    fields: list[FieldDefinition] = []
    constants: list[Constant] = []
    for number, line in enumerate(body.text.split("\n"), start=body.first_line):
        declaration = line.strip()
        while declaration.startswith("@"):
            if declaration.startswith("@optional"):
                raise DefinitionSyntaxError(name, number, "is optional: optional members are not supported")
            declaration, found = _ANNOTATION.subn("", declaration, count=1)
            if not found:
                break
        if not declaration or declaration.startswith("#"):
            continue
        match = _LINE.fullmatch(declaration)
        if match is None:
            raise DefinitionSyntaxError(name, number, f"does not parse: {declaration!r:.80}")
        rest = match["rest"] or ""
        if rest.startswith("="):
            text = rest[1:]
            if match["type"] not in ("string", "wstring"):
                text = text.partition("#")[0]
            constants.append(Constant(match["type"], match["name"], text.strip()))
            continue
        type_name = match["type"]
        if type_name not in BUILTINS and not (ros_version == 1 and type_name in ROS1_BUILTINS):
            type_name = _reference(type_name, package, ros_version)
        shape: Shape = "scalar"
        if match["array"]:
            shape = "array" if match["size"] and not match["bounded"] else "sequence"
        fields.append(
            FieldDefinition(
                type_name,
                match["name"],
                shape,
                size=int(match["size"] or 0),
                string_bound=int(match["string_bound"] or 0),
            )
        )
    return Definition(name, _without_placeholder(fields), tuple(constants))


def _reference(type_name: str, package: str, ros_version: RosVersion) -> str:
    if ros_version == 1 and type_name == "Header":
        return "std_msgs/msg/Header"
    if ros_version == 2 and type_name in ROS1_BUILTINS:
        return f"builtin_interfaces/msg/{type_name.capitalize()}"
    return full_type_name(type_name, package=package)


def _without_placeholder(fields: list[FieldDefinition]) -> tuple[FieldDefinition, ...]:
    return () if [field.name for field in fields] == [PLACEHOLDER] else tuple(fields)


def _derive_interface(parts: list[TextPart], name: str, ros_version: RosVersion) -> list[Definition]:
    """The message types of a service (two parts) or an action (three), as rosidl derives them."""
    if len(parts) not in (2, 3):
        raise DefinitionSyntaxError(
            name,
            parts[3].first_line,
            f"begins one part too many: it has {len(parts)} parts between '---' lines; "
            "a service has two, an action three",
        )
    package, _, base = name.rpartition("/")
    base = base.removesuffix("_Event")
    if len(parts) == 2:
        base = base.removesuffix("_Request").removesuffix("_Response")
        stem = f"{package}/{base}"
        return [
            _parse_body(parts[0], f"{stem}_Request", ros_version),
            _parse_body(parts[1], f"{stem}_Response", ros_version),
            _service_event(stem),
        ]
    for suffix in ("_Request", "_Response", "_SendGoal", "_GetResult", "_FeedbackMessage", "_Feedback"):
        base = base.removesuffix(suffix)
    stem = f"{package}/{base.removesuffix('_Goal').removesuffix('_Result')}"
    goal_id = FieldDefinition("unique_identifier_msgs/msg/UUID", "goal_id")
    return [
        _parse_body(parts[0], f"{stem}_Goal", ros_version),
        _parse_body(parts[1], f"{stem}_Result", ros_version),
        _parse_body(parts[2], f"{stem}_Feedback", ros_version),
        Definition(f"{stem}_FeedbackMessage", (goal_id, FieldDefinition(f"{stem}_Feedback", "feedback"))),
        Definition(f"{stem}_SendGoal_Request", (goal_id, FieldDefinition(f"{stem}_Goal", "goal"))),
        Definition(
            f"{stem}_SendGoal_Response",
            (
                FieldDefinition("bool", "accepted"),
                FieldDefinition("builtin_interfaces/msg/Time", "stamp"),
            ),
        ),
        Definition(f"{stem}_GetResult_Request", (goal_id,)),
        Definition(
            f"{stem}_GetResult_Response",
            (FieldDefinition("int8", "status"), FieldDefinition(f"{stem}_Result", "result")),
        ),
        _service_event(f"{stem}_SendGoal"),
        _service_event(f"{stem}_GetResult"),
    ]


def _service_event(stem: str) -> Definition:
    return Definition(
        f"{stem}_Event",
        (
            FieldDefinition("service_msgs/msg/ServiceEventInfo", "info"),
            FieldDefinition(f"{stem}_Request", "request", "sequence", size=1),
            FieldDefinition(f"{stem}_Response", "response", "sequence", size=1),
        ),
    )


# --- types that the bag does not define -------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class TypeSource:
    """Where a type is looked up that the bag does not define: given definitions, then the standard types.

    Attributes:
        custom: given definitions by the type's name; texts mean different things to ROS 1 and ROS 2.
        distribution: the ROS 2 distribution whose standard types are tried first; empty for the newest.
    """

    custom: Mapping[RosVersion, Mapping[str, Definition]] = field(default_factory=dict)
    distribution: str = ""

    def find(self, type_name: str, *, ros_version: RosVersion) -> dict[str, Definition]:
        """Definitions of ``type_name`` by their source, the preferred one first; empty if unknown.

        A source is `CUSTOM` or a distribution of rosbags' type stores, as ``ros2_jazzy``.
        """
        found = {}
        if custom := self.custom.get(ros_version, {}).get(type_name):
            found[CUSTOM] = custom
        for store in self._stores(ros_version):
            definition = _standard_definition(store, type_name, ros_version)
            if definition is not None:
                found[store] = definition
        return found

    def _stores(self, ros_version: RosVersion) -> list[str]:
        if ros_version == 1:
            return ["ros1_noetic"]
        # The sort is stable: the newest of the others stays first.
        names = sorted(ROS2_DISTRIBUTIONS, key=lambda name: name != self.distribution)
        return [f"ros2_{name}" for name in names]


STANDARD_TYPES: Final = TypeSource()
"""The standard types alone, the newest distribution first."""


@functools.cache
def _standard_definition(store: str, type_name: str, ros_version: RosVersion) -> Definition | None:
    types = _store(store)
    return _from_rosbags(type_name, types, ros_version=ros_version) if type_name in types else None


@functools.cache
def _store(name: str) -> Typesdict:
    module = importlib.import_module(f"rosbags.typesys.stores.{name}")
    types: Typesdict = module.FIELDDEFS
    return types


def _from_rosbags(
    name: str, types: Mapping[str, tuple[object, list[tuple[str, FieldDesc]]]], *, ros_version: RosVersion
) -> Definition:
    constants, fields = types[name]
    assert isinstance(constants, list)
    return Definition(
        name,
        _without_placeholder([_field_from_rosbags(field, desc, ros_version) for field, desc in fields]),
        tuple(Constant(kind, constant, str(value)) for constant, kind, value in constants),
    )


_ROS1_NAMES = {"builtin_interfaces/msg/Time": "time", "builtin_interfaces/msg/Duration": "duration"}


def _field_from_rosbags(name: str, desc: FieldDesc, ros_version: RosVersion) -> FieldDefinition:
    from rosbags.interfaces import Nodetype

    shape: Shape = "scalar"
    size = 0
    inner = desc
    if desc[0] == Nodetype.ARRAY or desc[0] == Nodetype.SEQUENCE:
        shape = "array" if desc[0] == Nodetype.ARRAY else "sequence"
        inner, size = desc[1]
    if inner[0] == Nodetype.BASE:
        type_name, string_bound = inner[1]
        return FieldDefinition(type_name, name, shape, size=size, string_bound=string_bound)
    assert inner[0] == Nodetype.NAME
    reference = inner[1]
    if ros_version == 1:
        reference = _ROS1_NAMES.get(reference, reference)
    return FieldDefinition(reference, name, shape, size=size)
