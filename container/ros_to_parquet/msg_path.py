"""Folders of message definitions, as ROS packages have them, for types that a bag does not define."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from ros_to_parquet.contract import MSG_PATH_VARIABLE, ROS_DISTRIBUTIONS, ContractError, ExtractOptions
from ros_to_parquet.definitions import (
    Definition,
    DefinitionError,
    DefinitionSyntaxError,
    RosVersion,
    TypeSource,
    parse_msg,
)
from ros_to_parquet.idl import parse_idl
from ros_to_parquet.storage import normalize, open_storage

KINDS = {".msg": "msg", ".srv": "srv", ".action": "action", ".idl": "msg"}
"""Endings of definitions, and the part of a type's name that says the same."""

_PACKAGE = "package.xml"
_PACKAGE_NAME = re.compile(r"<name>\s*([A-Za-z]\w*)\s*</name>")
_READERS = 8
_ROS_VERSIONS: tuple[RosVersion, ...] = (1, 2)


class MsgPathError(ValueError):
    """A folder of definitions that cannot be used; the message names it, or the file and line."""


def folders_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The folders that `MSG_PATH_VARIABLE` names."""
    return tuple(
        normalize(folder)
        for text in environ.get(MSG_PATH_VARIABLE, "").split(",")
        if (folder := text.strip())
    )


def load_types(options: ExtractOptions) -> TypeSource:
    """What the options say of types that a bag does not define, read from their folders.

    Raises:
        ContractError: a distribution that is not known.
        MsgPathError: a folder holds no definition, or one that does not parse, or two of one type.
        StorageError: a folder cannot be read.
    """
    if options.ros_distro and options.ros_distro not in ROS_DISTRIBUTIONS:
        raise ContractError(
            f"ROS distribution {options.ros_distro!r} is not known; known are {', '.join(ROS_DISTRIBUTIONS)}"
        )
    custom: dict[RosVersion, dict[str, Definition]] = {version: {} for version in _ROS_VERSIONS}
    for folder in options.msg_paths:
        for version, definitions in _read_folder(folder).items():
            custom[version] = definitions | custom[version]  # the first folder that has a type wins
    return TypeSource(custom, options.ros_distro)


def _read_folder(folder: str) -> Mapping[RosVersion, dict[str, Definition]]:
    texts = _read_texts(folder)
    packages = {
        posixpath.dirname(uri): match[1]
        for uri, text in texts.items()
        if posixpath.basename(uri) == _PACKAGE and (match := _PACKAGE_NAME.search(text))
    }
    # A package that is installed has its .msg files as .idl, too: what was written by hand goes first.
    uris = sorted(
        (uri for uri in texts if posixpath.basename(uri) != _PACKAGE),
        key=lambda uri: (uri.endswith(".idl"), uri),
    )
    if not uris:
        raise MsgPathError(
            f"msg path {folder}: no message definition there ({', '.join(KINDS)}); name a folder of ROS "
            "packages, or one package, as pkg/msg/Type.msg"
        )
    found: dict[RosVersion, dict[str, Definition]] = {}
    for version in _ROS_VERSIONS:
        found[version] = {}
        origins: dict[str, str] = {}
        for uri in uris:
            for definition in _parse(uri, _type_name(uri, packages), texts[uri], version):
                known = found[version].setdefault(definition.name, definition)
                origin = origins.setdefault(definition.name, uri)
                if known.fields != definition.fields and not uri.endswith(".idl"):
                    raise MsgPathError(
                        f"msg path {folder}: {origin} and {uri} both define {definition.name}, and differ; "
                        "name the folder of one of them"
                    )
    return found


def _read_texts(folder: str) -> dict[str, str]:
    """Definitions and package manifests below ``folder`` by URI."""
    storage = open_storage(folder)
    uris = [
        info.uri
        for info in storage.objects(folder)
        if posixpath.splitext(info.uri)[1] in KINDS or posixpath.basename(info.uri) == _PACKAGE
    ]
    with ThreadPoolExecutor(_READERS) as readers:  # each is a request, where the folder is on S3
        texts = readers.map(storage.read, uris)
        return {uri: text.decode("utf-8", "replace") for uri, text in zip(uris, texts, strict=True)}


def _type_name(uri: str, packages: Mapping[str, str]) -> str:
    """``pkg/msg/Type`` of a file: its package by ``package.xml``, else by the folder above ``msg``.

    A file in ``msg/deeper/`` is of the package all the same; without a folder ``msg``, ``srv`` or
    ``action`` its own folder is the package.
    """
    stem, ending = posixpath.splitext(posixpath.basename(uri))
    folders = list(_parents(uri))
    place = next((folder for folder in folders if posixpath.basename(folder) in KINDS.values()), None)
    by_name = folders[0] if place is None else posixpath.dirname(place)
    package = next(
        (packages[folder] for folder in folders if folder in packages), posixpath.basename(by_name)
    )
    # An installed service has its parts as srv/Name_Request.msg.
    kind = KINDS[ending] if place is None else posixpath.basename(place)
    return f"{package}/{kind}/{stem}"


def _parents(uri: str) -> Iterator[str]:
    while (folder := posixpath.dirname(uri)) not in (uri, "") and not re.fullmatch("[a-z0-9+.-]+:/?", folder):
        yield folder
        uri = folder


def _parse(uri: str, type_name: str, text: str, version: RosVersion) -> Iterable[Definition]:
    try:
        if not uri.endswith(".idl"):
            return parse_msg(text, type_name, ros_version=version).values()
        return parse_idl(text, type_name).values() if version == 2 else ()
    except DefinitionSyntaxError as error:
        raise MsgPathError(f"{uri}, line {error.line}: {error.problem}") from error
    except DefinitionError as error:
        raise MsgPathError(f"{uri}: {error}") from error
