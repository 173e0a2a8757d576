"""The conf of a run: what `ros_image_pipeline` is triggered with, checked before anything is listed.

Nothing here imports Airflow or boto3: a DAG file may import it at parse time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from airflow_batch_ros.prices import Prices, parse_prices
from airflow_batch_ros.twice import TwiceError, load_json
from ros_to_parquet.contract import (
    CATALOG_DATABASE,
    MAX_IMAGE_SIDE,
    ROS_DISTRIBUTIONS,
    TRANSFORM_NAME,
    CatalogKind,
    CatalogOptions,
    ExtractOptions,
    FailOn,
    FinishOptions,
    GlueFiles,
    ImageForm,
    ImageRule,
    ParquetStyle,
    PointClouds,
    QualityCheck,
    QualityRule,
    TransformRule,
    VideoCodec,
    bag_format,
    image_rules,
    parse_image_rule,
    parse_quality,
    transform_rules,
)
from ros_to_parquet.sync_conf import SYNC_SCHEMA, parse_sync

_Choice = TypeVar("_Choice", bound=StrEnum)

CONF_KEYS = (
    "drives_to_process",
    "topics",
    "bags",
    "output",
    "recursive",
    "overwrite",
    "fail_on",
    "min_success_ratio",
    "ros_distro",
    "msg_path",
    "pointcloud",
    "parquet",
    "transforms",
    "images",
    "quality",
    "report",
    "sync",
    "fleet",
    "catalog",
    "prices",
)

DEFAULT_FAIL_ON = (FailOn.FAILED, FailOn.PARTIAL)

DEFAULT_FINISH = FinishOptions(report=True, fleet=True)

MAX_DRIVE_ID_LENGTH = 100
"""So that a Batch job's name (128 characters) holds drive, plan and generation."""

MAX_PREFIX_BYTES = 900
"""An S3 key is at most 1,024 bytes; the rest is for the bag's own name."""

_DRIVE_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_FOUND_ID = r"(?=.{1,100}$)(\*|[A-Za-z0-9][A-Za-z0-9_.-]*\*)[A-Za-z0-9_.-]*"
"""Of a pattern: an id with one star, for what the pattern finds."""
_BUCKET = r"(?!.*\.\.)(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_NO_TEMPLATE = (
    "; Airflow renders values of a mapping and not its keys: let a task return the drives, or write the conf "
    "as JSON text"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_GLOBS_SCHEMA: Mapping[str, Any] = {
    "type": "array",
    "items": {"type": "string", "minLength": 1},
}

_FILTER_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"include": {**_GLOBS_SCHEMA, "minItems": 1}, "exclude": _GLOBS_SCHEMA},
}


def _place_schema(prefix: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["bucket", "prefix"],
        "additionalProperties": False,
        "properties": {
            "bucket": {"type": "string", "pattern": f"^{_BUCKET}$"},
            "prefix": {"type": "string", "pattern": prefix},
        },
    }


_PATTERN_SCHEMA = _place_schema(r"^(?!/|s3://)(?!.*\*\*)[^\x00-\x1f\x7f]*\*[^\x00-\x1f\x7f]*$")

DRIVES_TO_PROCESS_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": f"^({_DRIVE_ID}|{_FOUND_ID})$"},
    # One pattern by itself, or drives and patterns by their ids.
    "if": {"required": ["bucket"], "properties": {"bucket": {"type": "string"}}},
    "then": _PATTERN_SCHEMA,
    "else": {
        "patternProperties": {
            r"^[^*]*$": _place_schema(r"^(?!/|s3://)[^*\x00-\x1f\x7f]*$"),
            r"\*": _PATTERN_SCHEMA,
        }
    },
}

_IMAGE_RULE = (
    rf"^(?!{ImageForm.LEFT_OUT}$)({'|'.join(ImageForm)})(,(video|max_width|max_height|quality)=[a-z0-9]+)*$"
)

_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "drives_to_process": DRIVES_TO_PROCESS_SCHEMA,
    "topics": _FILTER_SCHEMA,
    "bags": _FILTER_SCHEMA,
    "output": {"type": "string", "pattern": r"^s3://[^/]+"},
    "recursive": {"type": "boolean"},
    "overwrite": {"type": "boolean"},
    "fail_on": {"type": "array", "items": {"type": "string", "enum": [choice.value for choice in FailOn]}},
    "min_success_ratio": {"type": "number", "minimum": 0, "maximum": 1},
    "ros_distro": {"type": "string", "enum": list(ROS_DISTRIBUTIONS)},
    "msg_path": {"type": "array", "items": {"type": "string", "pattern": r"^s3://[^/]+"}},
    "pointcloud": {"type": "string", "enum": [choice.value for choice in PointClouds]},
    "parquet": {"type": "string", "enum": [choice.value for choice in ParquetStyle]},
    "transforms": {
        "type": "object",
        "propertyNames": {"minLength": 1},
        "additionalProperties": {"type": "string", "pattern": f"^{TRANSFORM_NAME}$"},
    },
    "images": {
        "type": "object",
        "propertyNames": {"minLength": 1},
        "additionalProperties": {
            "type": ["string", "object"],
            "pattern": _IMAGE_RULE,
            "additionalProperties": False,
            "properties": {
                "form": {"type": "string", "enum": [form.value for form in ImageForm]},
                "video": {"type": "string", "enum": [codec.value for codec in VideoCodec]},
                "max_width": {"type": "integer", "minimum": 0, "maximum": MAX_IMAGE_SIDE},
                "max_height": {"type": "integer", "minimum": 0, "maximum": MAX_IMAGE_SIDE},
                "quality": {"type": "integer", "minimum": 0, "maximum": 100},
            },
        },
    },
    "quality": {
        "type": "object",
        "propertyNames": {"minLength": 1},
        "additionalProperties": {
            "type": ["object", "null"],
            "propertyNames": {"enum": [check.value for check in QualityCheck]},
            "additionalProperties": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {
                    "warn": {"type": ["number", "null"], "minimum": 0},
                    "error": {"type": ["number", "null"], "minimum": 0},
                },
            },
        },
    },
    "report": {"type": "boolean"},
    "sync": SYNC_SCHEMA,
    "fleet": {"type": "boolean"},
    "catalog": {
        "type": "object",
        "required": ["kind", "database"],
        "additionalProperties": False,
        "properties": {
            "kind": {"type": "string", "enum": [kind.value for kind in CatalogKind]},
            "database": {"type": "string", "pattern": f"^{CATALOG_DATABASE}$"},
            "files": {"type": "string", "enum": [files.value for files in GlueFiles]},
        },
        "if": {"properties": {"kind": {"const": CatalogKind.ICEBERG.value}}},
        "then": {"properties": {"files": False}},
    },
    "prices": {
        "type": "object",
        "required": ["vcpu_hour", "gb_hour"],
        "additionalProperties": False,
        "properties": {
            "vcpu_hour": {"type": "number", "minimum": 0},
            "gb_hour": {"type": "number", "minimum": 0},
            "currency": {"type": "string", "minLength": 1, "maxLength": 8},
        },
    },
}


class ConfError(ValueError):
    """A conf that cannot be run. ``problems`` has every one of them, a sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the conf has {count}:\n" + "\n".join(f"- {problem}" for problem in problems))


@dataclass(frozen=True, slots=True)
class DriveSource:
    """Where a drive's bags are. ``prefix`` ends in ``/``, or is empty: the bucket's root.

    ``found``: a pattern found it, so that it need not have a bag, or anything new.
    """

    drive_id: str
    bucket: str
    prefix: str
    found: bool = False

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class DrivePattern:
    """Folders that are a drive each.

    Attributes:
        drive_id: with one star, for what names a folder; see `finding.drive_id`.
        prefix: ends in ``/``; a star is any characters but ``/``.
    """

    drive_id: str
    bucket: str
    prefix: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def base(self) -> str:
        """URI of the folder, without a final slash, that all it may find lies below."""
        folder = self.prefix.partition("*")[0].rpartition("/")[0]
        return f"s3://{self.bucket}/{folder}".rstrip("/")


@dataclass(frozen=True, slots=True)
class NameGlobs:
    """Shell globs over whole names; ``*`` crosses ``/``; exclusion wins."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PipelineConf:
    """A checked conf.

    Attributes:
        drives: in the conf's order; no two of them overlap.
        options: what to extract.
        bags: which bags to take, by their path below the drive's prefix.
        output: ``s3://bucket/prefix`` without a final slash, or None where the conf names none.
        recursive: also take bags in sub-folders that are no rosbag2 folders.
        overwrite: extract all bags again; the result replaces the drive's earlier ones.
        fail_on: what a drive fails by.
        min_success_ratio: the run fails where less than this share of its drives are in other states.
        finish: what is done for a drive once it is committed.
        patterns: what finds further drives.
        found: whether ``drives`` has those that the patterns find.
        prices: what containers cost, where it is not AWS's list price.
        quality: limits of the quality checks that are not the defaults.
    """

    drives: tuple[DriveSource, ...]
    options: ExtractOptions = field(default_factory=ExtractOptions)
    bags: NameGlobs = field(default_factory=NameGlobs)
    output: str | None = None
    recursive: bool = False
    overwrite: bool = False
    fail_on: tuple[FailOn, ...] = DEFAULT_FAIL_ON
    min_success_ratio: float = 1.0
    finish: FinishOptions = DEFAULT_FINISH
    patterns: tuple[DrivePattern, ...] = ()
    found: bool = False
    prices: Prices | None = None
    quality: tuple[QualityRule, ...] = ()


def param_schema(key: str) -> dict[str, Any]:
    """The JSON schema of one key of the conf, as an Airflow `Param` takes it.

    An optional key may also be null, which is the same as leaving it out.
    """
    schema = dict(_SCHEMAS[key])
    if key == "drives_to_process":
        return schema
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    if "anyOf" in schema:
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    kinds = schema["type"]
    return {**schema, "type": ["null", *([kinds] if isinstance(kinds, str) else kinds)]}


def conf_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a whole conf."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["drives_to_process"],
        "additionalProperties": False,
        "properties": {key: param_schema(key) for key in CONF_KEYS},
    }


def parse_conf(raw: object, *, defaults: Mapping[str, Any] | None = None) -> PipelineConf:
    """The conf that ``raw`` (a mapping, or its JSON text) says; ``defaults`` are of keys that it leaves out.

    Raises:
        ConfError: with all that is wrong; each problem names the drive and the key.

    >>> parse_conf({"drives_to_process": {"drive_1": {"bucket": "raw-data", "prefix": "drive_1"}}}).drives
    (DriveSource(drive_id='drive_1', bucket='raw-data', prefix='drive_1/'),)
    """
    if isinstance(raw, str):
        try:
            raw = load_json(raw)
        except TwiceError as error:
            raise ConfError(error.problems) from error
        except ValueError as error:
            raise ConfError(
                [f"it is text, and not JSON ({error}); in a template write {{{{ dag_run.conf | tojson }}}}"]
            ) from error
    if not isinstance(raw, Mapping):
        raise ConfError([f"expected an object with the key 'drives_to_process', not {_shown(raw)}"])
    if {"bucket", "prefix"} <= raw.keys() and "drives_to_process" not in raw:
        raise ConfError(["keys 'bucket' and 'prefix': write {\"drives_to_process\": {\"bucket\": ...}}"])
    known = ", ".join(CONF_KEYS)
    problems = [f"key {key!r} is unknown; known are {known}" for key in raw if key not in CONF_KEYS]
    said = {key: value for key, value in raw.items() if value is not None or key == "drives_to_process"}
    given = {**(defaults or {}), **said}
    drives, patterns = _drives(given.get("drives_to_process"), problems, there="drives_to_process" in given)
    topics = _globs("topics", given.get("topics"), problems)
    conf = PipelineConf(
        drives=drives,
        options=ExtractOptions(
            include_topics=topics.include,
            exclude_topics=topics.exclude,
            ros_distro=_distribution(given["ros_distro"], problems) if "ros_distro" in given else "",
            msg_paths=_msg_paths(given["msg_path"], problems) if "msg_path" in given else (),
            pointcloud=_choice("pointcloud", given, PointClouds.RECORDED, problems),
            parquet=_choice("parquet", given, ParquetStyle.COMPATIBLE, problems),
            transforms=_transforms(given.get("transforms", {}), problems),
            images=_images(given.get("images", {}), problems),
        ),
        bags=_globs("bags", given.get("bags"), problems),
        output=_uri("key 'output'", "s3://bucket/lake", given["output"], problems)
        if "output" in given
        else None,
        recursive=_flag("recursive", given.get("recursive", False), problems),
        overwrite=_flag("overwrite", given.get("overwrite", False), problems),
        fail_on=_fail_on(given["fail_on"], problems) if "fail_on" in given else DEFAULT_FAIL_ON,
        min_success_ratio=_ratio("min_success_ratio", given.get("min_success_ratio", 1.0), problems),
        quality=_quality(given.get("quality", {}), problems),
        finish=FinishOptions(
            report=_flag("report", given.get("report", DEFAULT_FINISH.report), problems),
            sync=parse_sync(given["sync"], problems) if "sync" in given else (),
            fleet=_flag("fleet", given.get("fleet", DEFAULT_FINISH.fleet), problems),
            catalog=_catalog(given["catalog"], problems) if "catalog" in given else None,
        ),
        patterns=patterns,
        prices=parse_prices(given["prices"], where="key 'prices'", problems=problems)
        if "prices" in given
        else None,
    )
    if problems:
        raise ConfError(problems)
    return conf


def parse_output(uri: str, *, where: str = "argument 'output_uri' of the operator") -> str:
    """``uri``, which the conf did not name, as ``s3://bucket/prefix`` without a final slash.

    ``where`` is what names it, for the message.

    Raises:
        ConfError: not an S3 URI, or one that no bucket can have.
    """
    problems: list[str] = []
    output = _uri(where, "s3://bucket/lake", uri, problems)
    if problems:
        raise ConfError(problems)
    return output


def _drives(
    raw: object, problems: list[str], *, there: bool
) -> tuple[tuple[DriveSource, ...], tuple[DrivePattern, ...]]:
    example = '{"drive_1": {"bucket": "my-bucket", "prefix": "drive_1/"}}'
    if not there:
        problems.append(f"key 'drives_to_process' is missing; for example {example}")
        return (), ()
    if not isinstance(raw, Mapping):
        said = f"key 'drives_to_process': expected an object like {example}, not {_shown(raw)}"
        if isinstance(raw, str):
            said += "; text is taken as a whole conf: '{\"drives_to_process\": {{ params.drives | tojson }}}'"
        problems.append(said)
        return (), ()
    if not raw:
        problems.append(f"key 'drives_to_process' names no drive; for example {example}")
        return (), ()
    if isinstance(raw.get("bucket"), str):  # one pattern by itself
        raw = {"*": raw}
    found = [drive for key, value in raw.items() if (drive := _drive(key, value, problems)) is not None]
    drives = tuple(each for each in found if isinstance(each, DriveSource))
    problems.extend(overlaps(drives))
    return drives, tuple(each for each in found if isinstance(each, DrivePattern))


def _drive(drive_id: object, raw: object, problems: list[str]) -> DriveSource | DrivePattern | None:
    count = len(problems)
    is_pattern = isinstance(drive_id, str) and "*" in drive_id
    if is_pattern and not re.fullmatch(_FOUND_ID, str(drive_id)):
        problems.append(
            f"drive {drive_id!r}: the id of drives that a pattern finds has one '*', for the name of the "
            'folder, and else what ids have: "*" or "fleet_a.*"'
        )
    elif not is_pattern and not (isinstance(drive_id, str) and re.fullmatch(_DRIVE_ID, drive_id)):
        problems.append(
            f"drive {drive_id!r}: a drive id begins with a letter or digit, goes on with letters, digits, "
            f"'_', '-' and '.', and has at most {MAX_DRIVE_ID_LENGTH} characters: it names folders and jobs"
            + (_NO_TEMPLATE if "{{" in str(drive_id) else "")
        )
    if not isinstance(raw, Mapping):
        problems.append(
            f"drive {drive_id!r}: expected an object with the keys 'bucket' and 'prefix', not {_shown(raw)}"
        )
        return None
    problems.extend(
        f"drive {drive_id!r}, key {key!r}: unknown; a drive has 'bucket' and 'prefix'"
        for key in raw
        if key not in ("bucket", "prefix")
    )
    bucket = _bucket(drive_id, raw, problems)
    prefix = _prefix(drive_id, raw, problems, is_pattern=is_pattern)
    if len(problems) > count:
        return None
    kind = DrivePattern if is_pattern else DriveSource
    return kind(str(drive_id), bucket, prefix)


def _bucket(drive_id: object, raw: Mapping[Any, Any], problems: list[str]) -> str:
    where = f"drive {drive_id!r}, key 'bucket'"
    bucket = raw.get("bucket")
    if "bucket" not in raw:
        problems.append(f"{where}: missing")
    elif not isinstance(bucket, str):
        problems.append(f"{where}: expected text, not {_shown(bucket)}")
    elif "/" in bucket or ":" in bucket:
        problems.append(
            f"{where}: {bucket!r} is not a name; write the bucket's name alone, without s3:// or path"
        )
    elif complaint := _bucket_complaint(bucket):
        problems.append(f"{where}: {complaint}")
    else:
        return bucket
    return ""


def _bucket_complaint(bucket: str) -> str | None:
    if re.fullmatch(_BUCKET, bucket):
        return None
    return (
        f"{bucket!r} is no S3 bucket name: 3 to 63 lower-case letters, digits, '-' and '.', beginning and "
        "ending with a letter or digit, without '..' and not an IP address"
    )


def _prefix(drive_id: object, raw: Mapping[Any, Any], problems: list[str], *, is_pattern: bool) -> str:
    where = f"drive {drive_id!r}, key 'prefix'"
    prefix = raw.get("prefix")
    if "prefix" not in raw:
        problems.append(f"{where}: missing; an empty text is the bucket's root")
    elif not isinstance(prefix, str):
        problems.append(f"{where}: expected text, not {_shown(prefix)}")
    elif prefix.startswith("/"):
        problems.append(
            f"{where}: {prefix!r} begins with '/', which S3 keys do not; write {prefix.lstrip('/')!r}"
        )
    elif prefix.startswith("s3://"):
        problems.append(
            f"{where}: {prefix!r} is a URI; write what follows the bucket in it: "
            f"{prefix.removeprefix('s3://').partition('/')[2]!r}"
        )
    elif "*" in prefix and bag_format(prefix):
        problems.append(
            f"{where}: {prefix!r} is a glob of files; write the folder, and choose bags with the conf's "
            "'bags'"
        )
    elif "*" in prefix and not is_pattern:
        problems.append(
            f'{where}: {prefix!r} finds folders that are a drive each: write "*" or "{drive_id}.*" for '
            "the id, whose star is the folder's name"
        )
    elif is_pattern and "*" not in prefix:
        problems.append(
            f"{where}: {prefix!r} has no '*', which finds drives; one drive has an id without: "
            f'{{"drive_1": {{"bucket": ..., "prefix": "{prefix}"}}}}'
        )
    elif "**" in prefix:
        problems.append(
            f"{where}: {prefix!r}: a star is within one folder's name; write '*/*/' for two folders"
        )
    elif bag_format(prefix):
        folder, _, name = prefix.rpartition("/")
        problems.append(
            f"{where}: {prefix!r} is a file's name; write its folder {folder + '/' if folder else ''!r} and "
            f'"bags": {{"include": ["{name}"]}}, or end it with \'/\' if it is a folder'
        )
    elif _CONTROL.search(prefix):
        problems.append(f"{where}: {prefix!r} holds a control character")
    elif len(prefix.encode()) > MAX_PREFIX_BYTES:
        problems.append(f"{where}: {len(prefix.encode())} bytes; at most {MAX_PREFIX_BYTES}")
    else:
        return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    return ""


def overlaps(drives: Sequence[DriveSource]) -> list[str]:
    """What is wrong with drives of which one lies in another: each bag would be taken twice."""
    problems: list[str] = []
    outer: DriveSource | None = None
    for drive in sorted(drives, key=lambda drive: (drive.bucket, drive.prefix)):
        if outer is None or drive.bucket != outer.bucket or not drive.prefix.startswith(outer.prefix):
            outer = drive
        elif drive.prefix == outer.prefix:
            problems.append(
                f"drives {outer.drive_id!r} and {drive.drive_id!r}, key 'prefix': both are {drive.uri}; "
                "each bag belongs to one drive"
            )
        else:
            problems.append(
                f"drive {drive.drive_id!r}, key 'prefix': {drive.uri} lies inside {outer.uri} of drive "
                f"{outer.drive_id!r}; each bag belongs to one drive"
            )
    return problems


def _globs(key: str, raw: object, problems: list[str]) -> NameGlobs:
    if raw is None:
        return NameGlobs()
    if not isinstance(raw, Mapping):
        problems.append(
            f"key {key!r}: expected an object with the keys 'include' and 'exclude', not {_shown(raw)}"
        )
        return NameGlobs()
    problems.extend(
        f"key {key!r}: {name!r} is unknown; it has 'include' and 'exclude'"
        for name in raw
        if name not in ("include", "exclude")
    )
    include = _texts(f"{key}.include", raw["include"], problems) if "include" in raw else ("*",)
    if include == ():
        problems.append(f"key '{key}.include': an empty list takes nothing; leave it out to take all")
    return NameGlobs(
        include=include or ("*",), exclude=_texts(f"{key}.exclude", raw.get("exclude", []), problems) or ()
    )


def _texts(key: str, raw: object, problems: list[str]) -> tuple[str, ...] | None:
    if isinstance(raw, list | tuple) and all(isinstance(item, str) and item for item in raw):
        return tuple(raw)
    problems.append(f'key {key!r}: expected a list of globs like ["/camera/*"], not {_shown(raw)}')
    return None


def _uri(where: str, example: str, raw: object, problems: list[str]) -> str:
    """An S3 URI without a final slash."""
    if not isinstance(raw, str) or not raw.startswith("s3://"):
        problems.append(f"{where}: expected an S3 URI like {example}, not {_shown(raw)}")
        return ""
    bucket, _, prefix = raw.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    if complaint := _bucket_complaint(bucket):
        problems.append(f"{where}: {complaint}")
    if prefix.startswith("/") or "//" in prefix or _CONTROL.search(prefix) or "*" in prefix:
        problems.append(f"{where}: {raw!r}: its path has an empty part, a '*' or a control character")
    if len(prefix.encode()) > MAX_PREFIX_BYTES // 2:
        problems.append(f"{where}: its path has more than {MAX_PREFIX_BYTES // 2} bytes")
    return f"s3://{bucket}/{prefix}".rstrip("/")


def _msg_paths(raw: object, problems: list[str]) -> tuple[str, ...]:
    if not isinstance(raw, list | tuple):
        problems.append(
            "key 'msg_path': expected a list of S3 URIs like [\"s3://bucket/my_packages\"], "
            f"not {_shown(raw)}"
        )
        return ()
    return tuple(_uri("key 'msg_path'", "s3://bucket/my_packages", item, problems) for item in raw)


def _distribution(raw: object, problems: list[str]) -> str:
    if isinstance(raw, str) and raw in ROS_DISTRIBUTIONS:
        return raw
    problems.append(
        f"key 'ros_distro': {_shown(raw)} is no ROS distribution that is known; "
        f"known are {', '.join(ROS_DISTRIBUTIONS)}"
    )
    return ""


def _choice(key: str, given: Mapping[str, object], default: _Choice, problems: list[str]) -> _Choice:
    raw, choices = given.get(key, default.value), type(default)
    if isinstance(raw, str) and raw in tuple(choices):
        return choices(raw)
    problems.append(f"key {key!r}: expected {' or '.join(choices)}, not {_shown(raw)}")
    return default


def _transforms(raw: object, problems: list[str]) -> tuple[TransformRule, ...]:
    """Which transforms there are is for the image to say."""
    if not isinstance(raw, Mapping):
        problems.append(
            "key 'transforms': expected an object of globs and names like "
            f'{{"/camera/*": "brightness"}}, not {_shown(raw)}'
        )
        return ()
    names: dict[str, str] = {}
    for glob, name in raw.items():
        if not isinstance(glob, str) or not glob:
            problems.append(f"key 'transforms': {glob!r} is no glob of topics; for example \"/camera/*\"")
        elif not isinstance(name, str) or not re.fullmatch(TRANSFORM_NAME, name):
            problems.append(
                f"key 'transforms': {glob!r}: expected the name of one transform: letters, digits, '_', '-' "
                f"and '.', not {_shown(name)}"
            )
        else:
            names[glob] = name
    return transform_rules(names)


def _images(raw: object, problems: list[str]) -> tuple[ImageRule, ...]:
    if not isinstance(raw, Mapping):
        problems.append(
            'key \'images\': expected an object of globs and forms like {"/camera/*": "jpeg_files"}, '
            f"not {_shown(raw)}"
        )
        return ()
    rules = []
    for glob, said in raw.items():
        if not isinstance(glob, str) or not glob:
            problems.append(f"key 'images': {glob!r} is no glob of topics; for example \"/camera/*\"")
            continue
        try:
            rules.append(parse_image_rule(glob, said))
        except ValueError as error:
            problems.append(f"key 'images': {glob!r}: {error}")
    return image_rules(rules)


def _catalog(raw: object, problems: list[str]) -> CatalogOptions | None:
    count = len(problems)
    example = '{"kind": "glue", "database": "drives"}'
    if not isinstance(raw, Mapping):
        problems.append(f"key 'catalog': expected an object like {example}, not {_shown(raw)}")
        return None
    problems.extend(
        f"key 'catalog': {name!r} is unknown; it has 'kind', 'database' and 'files'"
        for name in raw
        if name not in ("kind", "database", "files")
    )
    kind, files = raw.get("kind"), raw.get("files", GlueFiles.LISTED.value)
    if not isinstance(kind, str) or kind not in tuple(CatalogKind):
        problems.append(f"key 'catalog.kind': expected {' or '.join(CatalogKind)}, not {_shown(kind)}")
    if not isinstance(files, str) or files not in tuple(GlueFiles):
        problems.append(f"key 'catalog.files': expected {' or '.join(GlueFiles)}, not {_shown(files)}")
    elif "files" in raw and kind != CatalogKind.GLUE:
        problems.append("key 'catalog.files': only a catalog of the kind glue has it")
    database = raw.get("database")
    if not isinstance(database, str) or not re.fullmatch(CATALOG_DATABASE, database):
        problems.append(
            "key 'catalog.database': expected lower-case letters, digits and '_', 255 at most, "
            f"not {_shown(database)}"
        )
    if len(problems) > count:
        return None
    return CatalogOptions(CatalogKind(str(kind)), str(database), GlueFiles(str(files)))


def _flag(key: str, raw: object, problems: list[str]) -> bool:
    if not isinstance(raw, bool):
        problems.append(f"key {key!r}: expected true or false, not {_shown(raw)}")
        return False
    return raw


def _ratio(key: str, raw: object, problems: list[str]) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw <= 1:
        problems.append(f"key {key!r}: expected a number from 0 to 1, not {_shown(raw)}")
        return 1.0
    return float(raw)


def _quality(raw: object, problems: list[str]) -> tuple[QualityRule, ...]:
    rules, found = parse_quality(raw)
    problems.extend(f"key 'quality': {problem}" for problem in found)
    return rules


def _fail_on(raw: object, problems: list[str]) -> tuple[FailOn, ...]:
    known = ", ".join(FailOn)
    if not isinstance(raw, list | tuple):
        problems.append(f"key 'fail_on': expected a list of drive states ({known}), not {_shown(raw)}")
        return ()
    found = []
    for item in raw:
        if isinstance(item, str) and item in tuple(FailOn):
            found.append(FailOn(item))
        else:
            problems.append(f"key 'fail_on': {_shown(item)} is no drive state; known are {known}")
    return tuple(found)


def _shown(value: object) -> str:
    """``value`` for a message: as JSON has it, and short."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
