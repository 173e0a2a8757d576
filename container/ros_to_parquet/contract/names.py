"""Names of topics: what they match, the tables they get, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from ros_to_parquet.contract.wire import sha256

_MOVES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal or a log acts upon: control characters, ends of lines, changes of direction."""


def one_line(text: str) -> str:
    """``text``, of which a bag or a store may have said a part, for a line of a log or a terminal.

    >>> one_line("/cam\\n\\x1b[2Jera")
    '/cam\\\\n\\\\x1b[2Jera'
    """
    return _MOVES.sub(lambda found: repr(found[0])[1:-1], text)


def topic_key(topic: str) -> str:
    """``topic`` as ROS resolves it, with its leading slash."""
    return topic if topic.startswith("/") else f"/{topic}"


def topic_matches(topic: str, globs: Iterable[str]) -> bool:
    """Whether one of the shell globs is ``topic``'s: over the whole name, ``*`` crosses ``/``.

    A relative topic matches as ROS would resolve it too.

    >>> topic_matches("foo", ["/f*"]), topic_matches("/foo", ["foo"])
    (True, False)
    """
    names = {topic, topic_key(topic)}
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


MAX_TABLE_NAME: Final = 200
"""Characters, of ASCII: file systems take 255 bytes a name, catalogues as many."""


def table_name(topic: str) -> str:
    """The table of a topic: ``/flir_adk/rgb_front_left/image_raw`` is ``flir_adk.rgb_front_left.image_raw``.

    The leading ``/`` is dropped, ``/`` becomes ``.``, anything else outside ``[A-Za-z0-9_-]`` and a leading
    ``_`` or ``.`` (which engines skip) are percent-encoded as UTF-8, so that no two topics share a table by
    accident. No name is ``.`` or ``..``, nor longer than `MAX_TABLE_NAME`: a longer one ends in a hash of it.

    >>> table_name("/a/b"), table_name("/a_b"), table_name("a.b"), table_name("/_x")
    ('a.b', 'a_b', 'a%2Eb', '%5Fx')
    """
    encoded = "".join(
        "." if char == "/" else char if re.fullmatch(r"[A-Za-z0-9_-]", char) else _percent(char)
        for char in topic.removeprefix("/")
    )
    if encoded.startswith("_"):
        encoded = "%5F" + encoded[1:]
    elif encoded.startswith("."):  # once would be the table of the topic without a name
        encoded = "%2F%2F" + encoded[1:]
    if len(encoded) > MAX_TABLE_NAME:
        # In lower case, as no character is encoded: nothing else is called so.
        ending = f"%7e{sha256(encoded.encode())[:16]}"
        encoded = re.sub(r"%.?$", "", encoded[: MAX_TABLE_NAME - len(ending)]) + ending
    return encoded or "%2F"


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))
