"""The conf: what it means, every complaint's text, and the JSON schema that says the same to Airflow."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jsonschema
import pytest

from airflow_batch_ros.conf import (
    CONF_KEYS,
    MAX_DRIVE_ID_LENGTH,
    ConfError,
    DrivePattern,
    DriveSource,
    NameGlobs,
    PipelineConf,
    conf_schema,
    param_schema,
    parse_conf,
    parse_output,
)
from airflow_batch_ros.prices import Prices
from ros_to_parquet.contract import (
    CatalogKind,
    CatalogOptions,
    DriveState,
    ExtractOptions,
    FinishOptions,
    GlueFiles,
    ImageForm,
    ImageRule,
    ParquetStyle,
    PointClouds,
    TransformRule,
    VideoCodec,
)

DRIVE = {"bucket": "raw-data", "prefix": "drive_1/"}
GOOD = {"drives_to_process": {"drive_1": DRIVE}}


def refuses_by_schema(raw: object) -> bool:
    try:
        jsonschema.validate(raw, conf_schema())
    except jsonschema.ValidationError:
        return True
    return False


def with_drive(key: str, value: object) -> dict[str, Any]:
    return {"drives_to_process": {"drive_1": {**DRIVE, key: value}}}


def pattern(prefix: str) -> dict[str, str]:
    return {"bucket": "raw-data", "prefix": prefix}


def test_the_plain_conf_is_enough() -> None:
    assert parse_conf(GOOD) == PipelineConf(
        drives=(DriveSource("drive_1", "raw-data", "drive_1/"),),
        options=ExtractOptions(("*",), ()),
        bags=NameGlobs(("*",), ()),
        output=None,
        recursive=False,
        overwrite=False,
        fail_on=(DriveState.FAILED, DriveState.PARTIAL),
    )


def test_every_optional_key() -> None:
    conf = parse_conf(
        {
            **GOOD,
            "topics": {"include": ["/imu/*", "/gps"], "exclude": ["*/image_raw"]},
            "bags": {"exclude": ["x.orig.bag"]},
            "output": "s3://lake-bucket/some/lake/",
            "recursive": True,
            "overwrite": True,
            "fail_on": ["damaged", "failed"],
            "min_success_ratio": 0.75,
            "ros_distro": "humble",
            "msg_path": ["s3://msgs-bucket/ours/", "s3://msgs-bucket/theirs"],
            "pointcloud": "decoded",
            "parquet": "compatible",
            "transforms": {"/imu/*": "one_per_second", "/gps": "team.smooth-2"},
            "images": {"/rear": {"form": "left_out", "video": "av1", "max_height": 480}, "*": "jpeg_files"},
            "report": False,
            "prices": {"vcpu_hour": 0.01, "gb_hour": 0, "currency": "EUR"},
            "fleet": False,
            "catalog": {"kind": "glue", "database": "drives", "files": "folders"},
        }
    )
    assert conf.prices == Prices(0.01, 0.0, "EUR")
    assert conf.options == ExtractOptions(
        ("/imu/*", "/gps"),
        ("*/image_raw",),
        ros_distro="humble",
        msg_paths=("s3://msgs-bucket/ours", "s3://msgs-bucket/theirs"),
        pointcloud=PointClouds.DECODED,
        parquet=ParquetStyle.COMPATIBLE,
        transforms=(TransformRule("/gps", "team.smooth-2"), TransformRule("/imu/*", "one_per_second")),
        images=(
            ImageRule("*", ImageForm.JPEG_FILES, quality=90),
            ImageRule("/rear", ImageForm.LEFT_OUT, VideoCodec.AV1, max_height=480),
        ),
    )
    assert conf.bags == NameGlobs(("*",), ("x.orig.bag",))
    assert conf.output == "s3://lake-bucket/some/lake"
    assert conf.recursive
    assert conf.overwrite
    assert conf.fail_on == (DriveState.DAMAGED, DriveState.FAILED)
    assert conf.min_success_ratio == 0.75
    catalog = CatalogOptions(CatalogKind.GLUE, "drives", GlueFiles.FOLDERS)
    assert conf.finish == FinishOptions(catalog=catalog)
    assert parse_conf(GOOD).finish == FinishOptions(report=True, fleet=True)


def test_the_order_of_images_and_what_changes_nothing_make_no_other_conf() -> None:
    one, other = (
        parse_conf({**GOOD, "images": dict(pairs)})
        for pairs in (
            [("/a", "png"), ("/b", "jpeg")],
            [("/b", {"form": "jpeg", "quality": 90}), ("/a", "png")],
        )
    )
    assert one == other
    assert parse_conf({**GOOD, "images": {"/a": "recorded", "/b": {}}}) == parse_conf(GOOD)
    assert len(parse_conf({**GOOD, "images": {"/a": "recorded", "*": "png"}}).options.images) == 2


def test_the_order_of_transforms_makes_no_other_conf() -> None:
    one, other = (
        {**GOOD, "transforms": dict(pairs)}
        for pairs in ([("/a", "x"), ("/b", "y")], [("/b", "y"), ("/a", "x")])
    )
    assert parse_conf(one) == parse_conf(other)
    assert parse_conf({**GOOD, "transforms": {}}) == parse_conf(GOOD)


def test_json_text_and_nulls_are_taken() -> None:
    nulls = dict.fromkeys(CONF_KEYS) | GOOD
    assert parse_conf(json.dumps(GOOD)) == parse_conf(nulls) == parse_conf(GOOD)


@pytest.mark.parametrize(
    ("given", "prefix"), [("drive1", "drive1/"), ("a/b/", "a/b/"), ("", ""), ("päckchen 1", "päckchen 1/")]
)
def test_a_prefix_gets_its_final_slash(given: str, prefix: str) -> None:
    conf = parse_conf(with_drive("prefix", given))
    assert conf.drives[0].prefix == prefix
    assert conf.drives[0].uri == f"s3://raw-data/{prefix}"


def test_drive1_and_drive10_do_not_overlap() -> None:
    drives = {name: {"bucket": "raw-data", "prefix": name} for name in ("drive1", "drive10", "drive")}
    assert len(parse_conf({"drives_to_process": drives}).drives) == 3


BAD: list[tuple[object, str]] = [
    ([], "expected an object with the key 'drives_to_process', not []"),
    ({}, "key 'drives_to_process' is missing; for example {\"drive_1\": "),
    (DRIVE, "keys 'bucket' and 'prefix': write {\"drives_to_process\": {\"bucket\": ...}}"),
    ({"drives_to_process": {}}, "key 'drives_to_process' names no drive; for example"),
    ({"drives_to_process": None}, "key 'drives_to_process': expected an object like"),
    ({"drives_to_process": ["drive_1"]}, "key 'drives_to_process': expected an object like"),
    ({**GOOD, "overwritte": True}, "key 'overwritte' is unknown; known are drives_to_process, topics, bags"),
    (
        {"drives_to_process": {"drive_1": "s3://raw-data"}},
        "drive 'drive_1': expected an object with the keys",
    ),
    ({"drives_to_process": {"a/b": DRIVE}}, "drive 'a/b': a drive id begins with a letter or digit"),
    ({"drives_to_process": {"": DRIVE}}, "drive '': a drive id begins with a letter or digit"),
    ({"drives_to_process": {"_x": DRIVE}}, "drive '_x': a drive id begins"),
    ({"drives_to_process": {".x": DRIVE}}, "drive '.x': a drive id begins"),
    ({"drives_to_process": {"..": DRIVE}}, "drive '..': a drive id begins"),
    ({"drives_to_process": {"drive 1": DRIVE}}, "drive 'drive 1': a drive id begins"),
    ({"drives_to_process": {"x" * 101: DRIVE}}, f"at most {MAX_DRIVE_ID_LENGTH} characters"),
    ({"drives_to_process": {"drive_1": {"prefix": "x/"}}}, "drive 'drive_1', key 'bucket': missing"),
    (
        {"drives_to_process": {"drive_1": {"bucket": "raw"}}},
        "drive 'drive_1', key 'prefix': missing; an empty",
    ),
    (with_drive("region", "eu"), "drive 'drive_1', key 'region': unknown; a drive has 'bucket' and 'prefix'"),
    (with_drive("bucket", 7), "drive 'drive_1', key 'bucket': expected text, not 7"),
    (
        with_drive("bucket", "s3://raw/x"),
        "drive 'drive_1', key 'bucket': 's3://raw/x' is not a name; write the",
    ),
    (
        with_drive("bucket", "Raw_Data"),
        "drive 'drive_1', key 'bucket': 'Raw_Data' is no S3 bucket name: 3 to 63",
    ),
    (with_drive("bucket", "ab"), "'ab' is no S3 bucket name"),
    (with_drive("bucket", "a..b"), "'a..b' is no S3 bucket name"),
    (with_drive("bucket", "-abc"), "'-abc' is no S3 bucket name"),
    (with_drive("bucket", "192.168.0.1"), "'192.168.0.1' is no S3 bucket name"),
    (with_drive("prefix", None), "drive 'drive_1', key 'prefix': expected text, not null"),
    (
        with_drive("prefix", "/drive_1/"),
        "'/drive_1/' begins with '/', which S3 keys do not; write 'drive_1/'",
    ),
    (
        with_drive("prefix", "s3://raw-data/2026/drive_1/"),
        "key 'prefix': 's3://raw-data/2026/drive_1/' is a URI; write what follows the bucket in it: '2026/dr",
    ),
    (
        {"drives_to_process": {"*": pattern("s3://raw-data/*/")}},
        "'s3://raw-data/*/' is a URI; write what follows the bucket in it: '*/'",
    ),
    (
        {"drives_to_process": {"drive_{{ ds }}": DRIVE}},
        "names folders and jobs; Airflow renders values of a mapping and not its keys: let a task return the",
    ),
    (
        {"drives_to_process": json.dumps({"drive_1": DRIVE})},
        "; text is taken as a whole conf: '{\"drives_to_process\": {{ params.drives | tojson }}}'",
    ),
    (
        with_drive("prefix", "drive_1/*.bag"),
        "'drive_1/*.bag' is a glob of files; write the folder, and choose bags with",
    ),
    (
        with_drive("prefix", "fleet/*/"),
        '\'fleet/*/\' finds folders that are a drive each: write "*" or "drive_1.*" for the id',
    ),
    ({"drives_to_process": {"*": DRIVE}}, "drive '*', key 'prefix': 'drive_1/' has no '*', which finds"),
    ({"drives_to_process": DRIVE}, "drive '*', key 'prefix': 'drive_1/' has no '*', which finds drives"),
    ({"drives_to_process": {"bucket": "raw-data"}}, "drive '*', key 'prefix': missing"),
    ({"drives_to_process": {"*": pattern("a/**/")}}, "a star is within one folder's name; write '*/*/'"),
    ({"drives_to_process": {"a*b*": pattern("a/*/")}}, "drive 'a*b*': the id of drives that a pattern finds"),
    ({"drives_to_process": {"_*": pattern("a/*/")}}, "drive '_*': the id of drives that a pattern finds"),
    (
        {"drives_to_process": {"*": {"bucket": "raw-*", "prefix": "a/*/"}}},
        "'raw-*' is no S3 bucket name",
    ),
    (with_drive("prefix", "a\nb/"), "drive 'drive_1', key 'prefix': 'a\\nb/' holds a control character"),
    ({**GOOD, "topics": ["/imu"]}, "key 'topics': expected an object with the keys 'include' and 'exclude'"),
    (
        {**GOOD, "topics": {"only": ["/imu"]}},
        "key 'topics': 'only' is unknown; it has 'include' and 'exclude'",
    ),
    ({**GOOD, "topics": {"include": "/imu"}}, "key 'topics.include': expected a list of globs like"),
    ({**GOOD, "topics": {"include": []}}, "key 'topics.include': an empty list takes nothing; leave it out"),
    ({**GOOD, "bags": {"exclude": [1]}}, "key 'bags.exclude': expected a list of globs like"),
    (
        {**GOOD, "output": "/data/lake"},
        "key 'output': expected an S3 URI like s3://bucket/lake, not \"/data/lake\"",
    ),
    ({**GOOD, "recursive": "yes"}, "key 'recursive': expected true or false, not \"yes\""),
    ({**GOOD, "overwrite": 1}, "key 'overwrite': expected true or false, not 1"),
    ({**GOOD, "min_success_ratio": 1.5}, "key 'min_success_ratio': expected a number from 0 to 1, not 1.5"),
    ({**GOOD, "min_success_ratio": True}, "key 'min_success_ratio': expected a number from 0 to 1, not true"),
    ({**GOOD, "fail_on": "failed"}, "key 'fail_on': expected a list of drive states (succeeded, "),
    (
        {**GOOD, "ros_distro": "hydra"},
        "key 'ros_distro': \"hydra\" is no ROS distribution that is known; known",
    ),
    ({**GOOD, "ros_distro": 1}, "known are lyrical, kilted, jazzy, iron, humble, galactic, foxy"),
    (
        {**GOOD, "msg_path": "s3://msgs/x"},
        "key 'msg_path': expected a list of S3 URIs like [\"s3://bucket/my",
    ),
    ({**GOOD, "msg_path": ["/msgs"]}, "key 'msg_path': expected an S3 URI like s3://bucket/my_packages, not"),
    (
        {**GOOD, "pointcloud": "columns"},
        "key 'pointcloud': expected recorded or decoded, not \"columns\"",
    ),
    (
        {**GOOD, "images": "png"},
        'key \'images\': expected an object of globs and forms like {"/camera/*": "jpeg_files"}, not "png"',
    ),
    ({**GOOD, "images": {"": "png"}}, "key 'images': '' is no glob of topics; for example \"/camera/*\""),
    ({**GOOD, "images": {"/cam": "gif"}}, "key 'images': '/cam': form: expected recorded, png, jpeg, png_fi"),
    ({**GOOD, "images": {"/cam": 7}}, "key 'images': '/cam': expected recorded or png or jpeg or png_files"),
    (
        {**GOOD, "images": {"/cam": {"size": 7}}},
        "key 'images': '/cam': 'size' is unknown; known are form, vid",
    ),
    (
        {**GOOD, "images": {"/cam": {"form": "png", "max_width": True}}},
        "key 'images': '/cam': max_width: expected a whole number up to 65,500, not True",
    ),
    (
        {**GOOD, "images": {"/cam": "left_out"}},
        "key 'images': '/cam': left_out keeps no picture anywhere: give",
    ),
    ({**GOOD, "prices": 0.01}, 'key \'prices\': expected an object like {"vcpu_hour": 0.0125, "gb_hour": 0.'),
    ({**GOOD, "prices": {"vcpu_hour": 1}}, "key 'prices': 'gb_hour': expected a price, a number from 0 on"),
    (
        {**GOOD, "prices": {"vcpu_hour": -1, "gb_hour": 0}},
        "key 'prices': 'vcpu_hour': expected a price, a number from 0 on",
    ),
    (
        {**GOOD, "prices": {"vcpu_hour": 1, "gb_hour": 0, "hour": 1}},
        "key 'prices': 'hour' is unknown; it has 'vcpu_hour', 'gb_hour' and 'currency'",
    ),
    (
        {**GOOD, "prices": {"vcpu_hour": 1, "gb_hour": 0, "currency": ""}},
        "key 'prices': 'currency': expected a short name",
    ),
    ({**GOOD, "report": "no"}, "key 'report': expected true or false, not \"no\""),
    ({**GOOD, "fleet": 1}, "key 'fleet': expected true or false, not 1"),
    ({**GOOD, "catalog": "glue"}, 'key \'catalog\': expected an object like {"kind": "glue", "database": '),
    ({**GOOD, "catalog": {"kind": "hive", "database": "d"}}, "'catalog.kind': expected glue or iceberg, not"),
    (
        {**GOOD, "catalog": {"kind": "glue"}},
        "'catalog.database': expected lower-case letters, digits and '_'",
    ),
    (
        {**GOOD, "catalog": {"kind": "glue", "database": "My-DB"}},
        "digits and '_', 255 at most, not \"My-DB\"",
    ),
    (
        {**GOOD, "catalog": {"kind": "glue", "database": "d", "files": "all"}},
        "'catalog.files': expected listed or folders, not \"all\"",
    ),
    (
        {**GOOD, "catalog": {"kind": "iceberg", "database": "d", "files": "listed"}},
        "'catalog.files': only a catalog of the kind glue has it",
    ),
    (
        {**GOOD, "catalog": {"kind": "glue", "database": "d", "db": 1}},
        "key 'catalog': 'db' is unknown; it has",
    ),
    ({**GOOD, "parquet": 2}, "key 'parquet': expected compatible or compact, not 2"),
    (
        {**GOOD, "transforms": ["/imu/*=smooth"]},
        'key \'transforms\': expected an object of globs and names like {"/camera/*": "brightness"}, not [',
    ),
    (
        {**GOOD, "transforms": {"": "smooth"}},
        "key 'transforms': '' is no glob of topics; for example \"/camera/*\"",
    ),
    (
        {**GOOD, "transforms": {"/imu/*": ["smooth"]}},
        "key 'transforms': '/imu/*': expected the name of one transform: letters, digits, '_', '-' and",
    ),
    ({**GOOD, "transforms": {"/imu": "pkg:smooth"}}, "key 'transforms': '/imu': expected the name of one"),
    ({**GOOD, "transforms": {"/imu": ""}}, "key 'transforms': '/imu': expected the name of one transform"),
    ({**GOOD, "fail_on": ["broken"]}, "key 'fail_on': \"broken\" is no drive state; known are succeeded, "),
]

BEYOND_THE_SCHEMA: list[tuple[object, str]] = [
    ("{'drives_to_process': {}}", "it is text, and not JSON ("),
    ('{"drives_to_process": {"new": {"bucket": "b"}, "new": {}}}', "- drive 'new' is there twice"),
    ('{"drives_to_process": {"new": {"bucket": "b", "bucket": "c"}}}', "drive 'new', key 'bucket' is there"),
    ('{"drives_to_process": {"bucket": "b", "bucket": "c"}}', "key 'bucket' of 'drives_to_process' is there"),
    ('{"drives_to_process": {}, "topics": "/a", "topics": "/b"}', "- key 'topics' is there twice"),
    ('{"sync": [{"name": "a", "name": "b"}]}', "- key 'name' of 'sync' is there twice"),
    ('{"bags": {"include": "a", "include": "b"}}', "- key 'include' of 'bags' is there twice"),
    (with_drive("prefix", "x" * 901), "drive 'drive_1', key 'prefix': 901 bytes; at most 900"),
    (
        with_drive("prefix", "drive_1/run.bag"),
        'write its folder \'drive_1/\' and "bags": {"include": ["run.bag"]}, or end it with \'/\' if it is',
    ),
    ({**GOOD, "output": "s3://Lake/x"}, "key 'output': 'Lake' is no S3 bucket name"),
    ({**GOOD, "msg_path": ["s3://Msgs/x"]}, "key 'msg_path': 'Msgs' is no S3 bucket name"),
    ({**GOOD, "output": "s3://lake-bucket/a//b"}, "its path has an empty part, a '*' or a control character"),
    ({**GOOD, "output": f"s3://lake-bucket/{'x' * 451}"}, "key 'output': its path has more than 450 bytes"),
    (
        {"drives_to_process": {"a": DRIVE, "b": {"bucket": "raw-data", "prefix": "drive_1"}}},
        "drives 'a' and 'b', key 'prefix': both are s3://raw-data/drive_1/; each bag belongs to one drive",
    ),
    (
        {"drives_to_process": {"in": {"bucket": "raw-data", "prefix": "drive_1/x"}, "out": DRIVE}},
        "drive 'in', key 'prefix': s3://raw-data/drive_1/x/ lies inside s3://raw-data/drive_1/ of drive",
    ),
    (
        {"drives_to_process": {"root": {"bucket": "raw-data", "prefix": ""}, "in": DRIVE}},
        "drive 'in', key 'prefix': s3://raw-data/drive_1/ lies inside s3://raw-data/ of drive 'root'",
    ),
]


@pytest.mark.parametrize(("raw", "text"), BAD + BEYOND_THE_SCHEMA)
def test_a_bad_conf_is_refused_with_the_drive_and_the_key(raw: object, text: str) -> None:
    with pytest.raises(ConfError) as caught:
        parse_conf(raw)
    assert text in str(caught.value)
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith("the conf has 1 problem:\n- ")


@pytest.mark.parametrize(("raw", "text"), BAD)
def test_the_schema_refuses_it_too(raw: object, text: str) -> None:
    assert refuses_by_schema(raw)


@pytest.mark.parametrize(
    ("drives", "patterns"),
    [
        (pattern("fleet/*/"), [DrivePattern("*", "raw-data", "fleet/*/")]),
        ({"*": pattern("fleet/*")}, [DrivePattern("*", "raw-data", "fleet/*/")]),
        (
            {"eu.*": pattern("eu/*/2026-*/"), "us.*": pattern("us/*/")},
            [DrivePattern("eu.*", "raw-data", "eu/*/2026-*/"), DrivePattern("us.*", "raw-data", "us/*/")],
        ),
    ],
)
def test_patterns_of_folders_find_drives(drives: dict[str, Any], patterns: list[DrivePattern]) -> None:
    raw = {"drives_to_process": drives}
    assert not refuses_by_schema(raw)
    assert parse_conf(raw) == PipelineConf(drives=(), patterns=tuple(patterns))
    both = parse_conf({"drives_to_process": {**GOOD["drives_to_process"], "*": pattern("a/*/")}})
    assert [drive.drive_id for drive in both.drives] == ["drive_1"]
    assert len(both.patterns) == 1


def test_drives_may_be_called_bucket_and_prefix() -> None:
    raw = {"drives_to_process": {"bucket": DRIVE, "prefix": {**DRIVE, "prefix": "x/"}}}
    assert not refuses_by_schema(raw)
    assert [drive.drive_id for drive in parse_conf(raw).drives] == ["bucket", "prefix"]


@pytest.mark.parametrize("raw", [GOOD, dict.fromkeys(CONF_KEYS) | GOOD, with_drive("prefix", "")])
def test_the_schema_takes_what_is_good(raw: object) -> None:
    assert not refuses_by_schema(raw)


def test_all_problems_come_in_one_message() -> None:
    raw = {
        "drives_to_process": {"a b": {"bucket": "X", "prefix": "/p"}, "ok": DRIVE, "two": {"bucket": "raw"}},
        "recursive": "no",
        "colour": "red",
    }
    with pytest.raises(ConfError) as caught:
        parse_conf(raw)
    assert len(caught.value.problems) == 6
    assert str(caught.value).startswith("the conf has 6 problems:\n- key 'colour' is unknown")
    for part in ("drive 'a b': a drive id", "'X' is no S3 bucket", "write 'p'", "drive 'two', key 'prefix'"):
        assert part in str(caught.value)


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(ConfError) as caught:
        parse_conf({**GOOD, "recursive": ["x" * 1000]})
    assert len(str(caught.value)) < 200


def test_optional_params_may_be_null_and_the_drives_may_not() -> None:
    for key in CONF_KEYS:
        schema = param_schema(key)
        nullable = key != "drives_to_process"
        assert jsonschema.Draft202012Validator(schema).is_valid(None) is nullable


@pytest.mark.parametrize(
    ("uri", "output"), [("s3://lake-1", "s3://lake-1"), ("s3://lake-1/a/", "s3://lake-1/a")]
)
def test_outputs_lose_their_final_slash(uri: str, output: str) -> None:
    assert parse_output(uri) == output


def test_the_conf_needs_neither_airflow_nor_boto3() -> None:
    code = "import sys, airflow_batch_ros.conf; print({'airflow', 'boto3', 'botocore'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
