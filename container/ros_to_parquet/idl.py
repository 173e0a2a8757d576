"""Definitions in OMG IDL: the part that messages use, each name resolved to what is on the wire."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, TypeAlias

from ros_to_parquet.definitions import (
    PLACEHOLDER,
    Constant,
    Definition,
    DefinitionSyntaxError,
    FieldDefinition,
    Shape,
    split_sections,
    take_header,
)

Value: TypeAlias = bool | int | float | str
Expression: TypeAlias = Callable[[], Value]
"""Evaluated when everything is declared, for it may name a constant of another section."""

_PRIMITIVES: Final = {
    "boolean": "bool",
    "octet": "byte",
    "char": "char",
    "wchar": "wchar",
    "short": "int16",
    "long": "int32",
    "long long": "int64",
    "unsigned short": "uint16",
    "unsigned long": "uint32",
    "unsigned long long": "uint64",
    "float": "float32",
    "double": "float64",
    "long double": "float128",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
_NOT_READ: Final = frozenset(
    {"any", "bitset", "eventtype", "exception", "fixed", "interface", "map", "native", "Object", "union"}
    | {"ValueBase", "valuetype"}
)
"""Keywords of what has no columns; an error only where a message uses it."""

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/|\#[^\n]*)
      | (?P<text>L?"(?:\\.|[^"\\])*"|L?'(?:\\.|[^'\\])+')
      | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<sign>::|.)""",
    re.VERBOSE | re.DOTALL,
)
_OPERATORS: Final[tuple[dict[str, Callable[..., Value]], ...]] = (
    {"|": operator.or_},
    {"^": operator.xor},
    {"&": operator.and_},
    {"<<": lambda a, b: a << min(b, 65), ">>": operator.rshift},
    {"+": operator.add, "-": operator.sub},
    {"*": operator.mul, "/": lambda a, b: a // b if isinstance(a, int) else a / b, "%": operator.mod},
)
_SIGNS: Final[dict[str, Callable[..., Value]]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": operator.invert,
}
_MAX_SHAPES: Final = 64
_MAX_TOKENS: Final = 50_000
"""Of one text: ROS's longest have a few thousand, and each takes half a kilobyte."""
_SUMS: Final = 4
"""Level of `_OPERATORS` above the shifts: in ``sequence<T, N>`` a ``>`` is the end."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    rest: str
    """What stands from it to the end of its line, to be shown."""


@dataclass(frozen=True, slots=True)
class _Type:
    """A builtin, or a ``name`` seen from ``scope``; ``shapes`` are what it is wrapped in, outermost first."""

    builtin: str
    token: _Token
    name: str = ""
    scope: tuple[str, ...] = ()
    shapes: tuple[tuple[Shape, Expression | None], ...] = ()
    string_bound: Expression | None = None


@dataclass(frozen=True, slots=True)
class _Struct:
    base: _Type | None
    members: tuple[tuple[str, _Type], ...]


@dataclass(frozen=True, slots=True)
class _Const:
    type: _Type
    value: Expression


@dataclass(frozen=True, slots=True)
class _NotRead:
    keyword: str


@dataclass(slots=True)
class _Names:
    """Everything declared, by its full name with slashes. A `_Type` is a typedef, an enum or a bitmask."""

    type_name: str
    found: dict[str, _Type | _Struct | _Const | _NotRead] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)

    def lookup(self, name: str, scope: tuple[str, ...]) -> str | None:
        """Full name of what ``name`` means in ``scope``: the innermost that is declared."""
        if name.startswith("/"):
            return name[1:] if name[1:] in self.found else None
        places = ("/".join((*scope[:depth], name)) for depth in range(len(scope), -1, -1))
        return next((place for place in places if place in self.found), None)

    def value(self, name: str, scope: tuple[str, ...], token: _Token) -> Value:
        known = self.lookup(name, scope)
        if known in self.values:  # each once: constants of constants would multiply
            return self.values[known]
        const = self.found[known] if known else None
        if known is None or not isinstance(const, _Const) or known in self.busy:
            self.fail(token, "names no constant that is declared")
        self.busy.append(known)
        value = self.evaluate(const.value, const.type.token)
        self.busy.pop()
        self.values[known] = value
        return value

    def number(self, expression: Expression | None, token: _Token) -> int:
        """A bound or a size; 0 where there is none."""
        value = 0 if expression is None else self.evaluate(expression, token)
        if not isinstance(value, int) or not 0 <= value < 1 << 32:
            self.fail(token, "has a bound that is no number of elements")
        return value

    def evaluate(self, expression: Expression, token: _Token) -> Value:
        try:
            return expression()
        except (TypeError, ValueError, ArithmeticError) as error:
            raise DefinitionSyntaxError(
                self.type_name, token.line, f"has a constant without a value: {token.rest!r:.80}"
            ) from error

    def fail(self, token: _Token, problem: str) -> NoReturn:
        raise DefinitionSyntaxError(self.type_name, token.line, f"{problem}: {token.rest!r:.80}")

    def not_read(self, token: _Token, what: str) -> NoReturn:
        raise DefinitionSyntaxError(
            self.type_name,
            token.line,
            what,
            advice="unions, maps, bitsets and optional members have no columns; leave the topic out, or "
            "record it as another type",
        )


def parse_idl(text: str, type_name: str) -> dict[str, Definition]:
    """Definitions in an IDL text, or in several of them after ``IDL: pkg/msg/Name`` headers.

    A typedef is what it stands for, an enumeration a signed integer and a bitmask an unsigned one, of the
    size that their ``@bit_bound`` asks for (32 bits). A struct begins with the members of its base.

    Raises:
        DefinitionSyntaxError: the text does not parse, or a message uses what has no columns (a union, a
            map, a bitset, an optional member).
    """
    names = _Names(type_name)
    try:
        for section in split_sections(text):
            _, body = take_header(section, "IDL:")
            _Parser(names, _tokens(body.text, body.first_line, type_name)).definitions((), end="")
        structs = [name for name, what in names.found.items() if isinstance(what, _Struct)]
        found = {name: _definition(names, name) for name in structs}
    except RecursionError as error:
        raise DefinitionSyntaxError(type_name, 1, "is nested too deeply") from error
    if type_name not in found:
        # Other users of IDL have no module ``msg``.
        same = next((name for name in found if name == type_name.replace("/msg/", "/")), None)
        if same:
            found[type_name] = replace(found[same], name=type_name)
    return found


def _tokens(text: str, first_line: int, type_name: str) -> list[_Token]:
    tokens, line = [], first_line
    for match in _TOKEN.finditer(text):
        assert match.lastgroup is not None
        if match.lastgroup != "space":
            rest = text[match.start() : match.start() + 100].partition("\n")[0]
            tokens.append(_Token(match.lastgroup, match[0], line, rest))
            if len(tokens) > _MAX_TOKENS:
                raise DefinitionSyntaxError(type_name, line, f"is past {_MAX_TOKENS:,} words and signs")
        line += match[0].count("\n")
    tokens.append(_Token("end", "", line, ""))
    return tokens


# --- from names to what is on the wire ---------------------------------------------------------------


def _definition(names: _Names, name: str) -> Definition:
    members = [_field(names, member, type_) for member, type_ in _members(names, name)]
    inside = f"{name}_Constants/"
    constants = [
        Constant(
            _field(names, "", const.type).type_name,
            full.removeprefix(inside),
            str(names.evaluate(const.value, const.type.token)),
        )
        for full, const in names.found.items()
        if full.startswith(inside) and isinstance(const, _Const)
    ]
    placeholder = [member.name for member in members] == [PLACEHOLDER]
    return Definition(name, () if placeholder else tuple(members), tuple(constants))


def _members(names: _Names, name: str) -> Iterable[tuple[str, _Type]]:
    """Those of its base first."""
    struct = names.found[name]
    assert isinstance(struct, _Struct)
    if struct.base is not None:
        base = names.lookup(struct.base.name, struct.base.scope)
        if base is None or not isinstance(names.found[base], _Struct) or base in (name, *names.busy):
            names.fail(struct.base.token, "names no struct that is declared")
        names.busy.append(name)
        yield from _members(names, base)
        names.busy.pop()
    yield from struct.members


def _field(names: _Names, name: str, type_: _Type) -> FieldDefinition:
    shapes = list(type_.shapes)
    string_bound, token = type_.string_bound, type_.token
    seen: list[str] = []
    builtin = type_.builtin
    while not builtin:
        known = names.lookup(type_.name, type_.scope)
        what = names.found[known] if known else None
        if isinstance(what, _NotRead):
            names.not_read(token, f"uses the {what.keyword} {type_.name.rpartition('/')[2]}")
        if isinstance(what, _Const) or known in seen:
            names.fail(token, "names no type that is declared")
        if not isinstance(what, _Type):  # a struct, or a type that the text does not have
            if known is None:
                local = "/" not in type_.name
                known = "/".join((*type_.scope, type_.name)) if local else type_.name.removeprefix("/")
            builtin = known
            break
        assert known is not None
        seen.append(known)
        type_ = what
        shapes += type_.shapes
        builtin, string_bound = type_.builtin, type_.string_bound
    if len(shapes) > _MAX_SHAPES:
        names.fail(token, f"is nested deeper than {_MAX_SHAPES} arrays")
    sizes = [(shape, names.number(size, token)) for shape, size in shapes]
    shape, size = sizes[0] if sizes else ("scalar", 0)
    return FieldDefinition(
        builtin,
        name,
        shape,
        size=size,
        string_bound=names.number(string_bound, token),
        inner=tuple(sizes[1:]),
    )


# --- parsing -----------------------------------------------------------------------------------------


class _Parser:
    """One token after another; what is declared goes into ``names``."""

    def __init__(self, names: _Names, tokens: list[_Token]) -> None:
        self._names = names
        self._tokens = tokens
        self._position = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self, text: str = "") -> _Token:
        """The next token, which must be ``text`` if that is given."""
        token = self._next
        if token.kind == "end" or (text and token.text != text):
            self._names.fail(token, "does not parse as IDL")
        self._position += 1
        return token

    def _take_if(self, text: str) -> bool:
        if self._next.text != text:
            return False
        self._take()
        return True

    def _identifier(self) -> str:
        if self._next.kind != "name":
            self._names.fail(self._next, "does not parse as IDL")
        return self._take().text

    # --- declarations

    def definitions(self, scope: tuple[str, ...], *, end: str) -> None:
        while self._next.text != end:
            annotations = self._annotations()
            keyword = self._take()
            match keyword.text:
                case "module":
                    inner = (*scope, self._identifier())
                    self._take("{")
                    self.definitions(inner, end="}")
                    self._take("}")
                case "struct":
                    self._struct(scope)
                case "enum" | "bitmask":
                    self._enumeration(keyword, scope, annotations)
                case "typedef":
                    type_ = self._type(scope)
                    for name, declared in self._declarators(type_, scope):
                        self._declare(scope, name, declared)
                case "const":
                    type_ = self._type(scope)
                    name = self._identifier()
                    self._take("=")
                    self._declare(scope, name, _Const(type_, self._expression(scope)))
                case text if text in _NOT_READ:
                    self._declare(scope, self._identifier(), _NotRead(text))
                    self._skip()
                case _:
                    self._names.fail(keyword, "does not parse as IDL")
            self._take(";")

    def _declare(self, scope: tuple[str, ...], name: str, what: _Type | _Struct | _Const | _NotRead) -> None:
        self._names.found.setdefault("/".join((*scope, name)), what)

    def _struct(self, scope: tuple[str, ...]) -> None:
        name = self._identifier()
        if self._next.text == ";":
            return  # said to be there, and defined elsewhere
        base = self._type(scope) if self._take_if(":") else None
        members: list[tuple[str, _Type]] = []
        self._take("{")
        while not self._take_if("}"):
            line = self._next
            annotations = self._annotations()
            if annotations.get("optional", "FALSE") != "FALSE":
                self._names.not_read(
                    line, f"is optional, optional members are not supported: {line.rest!r:.80}"
                )
            members += self._declarators(self._type(scope), scope)
            self._take(";")
        self._declare(scope, name, _Struct(base, tuple(members)))

    def _enumeration(self, keyword: _Token, scope: tuple[str, ...], annotations: dict[str, str]) -> None:
        """The type is an integer; its names are constants, as its scope sees them."""
        name = self._identifier()
        bound = annotations.get("bit_bound", "32")
        bits = next((size for size in (8, 16, 32, 64) if bound.isdecimal() and int(bound) <= size), 0)
        if not bits:
            self._names.fail(keyword, "has a bit bound that is not understood")
        builtin = f"uint{bits}" if keyword.text == "bitmask" else f"int{bits}"
        type_ = _Type(builtin, keyword)
        self._declare(scope, name, type_)
        self._take("{")
        value = 0
        while True:
            given = self._annotations()
            given_value = given.get("value", given.get("position", ""))
            if re.fullmatch(r"-?\d+", given_value):
                value = int(given_value)
            text = self._identifier()
            for place in (scope, (*scope, name)):
                self._declare(place, text, _Const(type_, lambda value=value: value))  # type: ignore[misc]
            value += 1
            if not self._take_if(","):
                break
        self._take("}")

    def _declarators(self, type_: _Type, scope: tuple[str, ...]) -> list[tuple[str, _Type]]:
        found = []
        while True:
            name = self._identifier()
            sizes: list[tuple[Shape, Expression | None]] = []
            while self._take_if("["):
                sizes.append(("array", self._expression(scope)))
                self._take("]")
            found.append((name, replace(type_, shapes=(*sizes, *type_.shapes))))
            if not self._take_if(","):
                return found

    def _annotations(self) -> dict[str, str]:
        """By name: what is in the parentheses without ``value=``, or ``TRUE`` where there are none."""
        found = {}
        while self._take_if("@"):
            name = self._identifier()
            while self._take_if("::"):
                name = self._identifier()
            found[name] = "TRUE"
            if self._next.text == "(":
                begin = self._position + 1
                self._skip_brackets()
                inside = [token.text for token in self._tokens[begin : self._position - 1]]
                found[name] = "".join(inside[2:] if inside[:2] == ["value", "="] else inside)
        return found

    def _skip(self) -> None:
        """To the ``;`` of a declaration that is not read."""
        while self._next.text != ";":
            if self._next.text in ("{", "("):
                self._skip_brackets()
            else:
                self._take()

    def _skip_brackets(self) -> None:
        depth = 0
        while True:
            text = self._take().text
            depth += (text in ("(", "{")) - (text in (")", "}"))
            if not depth:
                return

    # --- types and expressions

    def _type(self, scope: tuple[str, ...]) -> _Type:
        token = self._next
        if token.text == "sequence":
            self._take()
            self._take("<")
            item = self._type(scope)
            bound = self._expression(scope, _SUMS) if self._take_if(",") else None
            self._take(">")
            return replace(item, shapes=(("sequence", bound), *item.shapes))
        if token.text in ("string", "wstring"):
            self._take()
            bound = None
            if self._take_if("<"):
                bound = self._expression(scope, _SUMS)
                self._take(">")
            return _Type(token.text, token, string_bound=bound)
        if token.text in _NOT_READ:
            self._names.not_read(token, f"uses {token.text}, which is not supported: {token.rest!r:.80}")
        words = token.text
        if words in ("unsigned", "long", *_PRIMITIVES):
            self._take()
            while f"{words} {self._next.text}" in (*_PRIMITIVES, "unsigned long"):
                words += f" {self._take().text}"
            if words not in _PRIMITIVES:
                self._names.fail(self._next, "does not parse as IDL")
            return _Type(_PRIMITIVES[words], token)
        return _Type("", token, name=self._scoped_name(), scope=scope)

    def _scoped_name(self) -> str:
        """With slashes; one in front where it is seen from outside of all modules."""
        name = "/" if self._take_if("::") else ""
        name += self._identifier()
        while self._take_if("::"):
            name += f"/{self._identifier()}"
        return name

    def _expression(self, scope: tuple[str, ...], level: int = 0) -> Expression:
        if level == len(_OPERATORS):
            return self._operand(scope)
        left = self._expression(scope, level + 1)
        while (sign := self._operator(level)) is not None:
            left = _applied(sign, left, self._expression(scope, level + 1))
        return left

    def _operator(self, level: int) -> Callable[..., Value] | None:
        text = self._next.text
        if text in ("<", ">"):
            text *= 2 if self._tokens[self._position + 1].text == text else 1
        sign = _OPERATORS[level].get(text)
        if sign is not None:
            self._position += len(text)
        return sign

    def _operand(self, scope: tuple[str, ...]) -> Expression:
        token = self._next
        if token.text in ("-", "+", "~"):
            self._take()
            return _applied(_SIGNS[token.text], self._operand(scope))
        if self._take_if("("):
            inner = self._expression(scope)
            self._take(")")
            return inner
        if token.kind == "text":
            parts = []
            while self._next.kind == "text":
                parts.append(self._take().text.removeprefix("L")[1:-1])
            return _constant("".join(parts))
        if token.kind == "number":
            self._take()
            return _constant(_number(token.text))
        if token.text in ("TRUE", "FALSE"):
            self._take()
            return _constant(token.text == "TRUE")
        name = self._scoped_name()
        return lambda: self._names.value(name, scope, token)


def _constant(value: Value) -> Expression:
    return lambda: value


def _applied(sign: Callable[..., Value], *operands: Expression) -> Expression:
    """Of numbers alone, and to numbers of 64 bits: a definition is not to take all memory."""

    def result() -> Value:
        values = [operand() for operand in operands]
        if any(isinstance(value, str) for value in values):
            raise TypeError("not a number")
        value = sign(*values)
        if isinstance(value, int) and abs(value) > 1 << 64:
            raise OverflowError("more than 64 bits")
        return value

    return result


def _number(text: str) -> int | float:
    if re.fullmatch(r"0[xX].*", text):
        return int(text, 16)
    if re.fullmatch(r"0[0-7]+", text):
        return int(text, 8)
    return int(text) if text.isdecimal() else float(text)
