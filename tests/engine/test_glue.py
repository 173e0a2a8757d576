"""A lake's tables in a Glue database: over HTTP, and read as Athena reads them."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from ros_to_parquet import cli, contract, run
from ros_to_parquet.catalog import athena_views, glue
from ros_to_parquet.catalog.columns import catalog_name, hive_columns, hive_text, presto_text
from ros_to_parquet.catalog.files import CatalogError
from ros_to_parquet.contract import CatalogKind, CatalogOptions, ExitCode, ExtractOptions, FinishOptions
from ros_to_parquet.fleet import SCHEMAS
from ros_to_parquet.lake import Lake
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.storage import arrow_filesystem, open_storage
from tests.engine.sample_bags import START_NS, write_bag, write_defined

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

JOB = run.JobIdentity("", 1, "")
KIND = "car/msg/Speed"
FIRST = "float32 value\nuint8 gear\ngeometry_msgs/Point[] path\n"
WIDER = "float64 value\nuint16 gear\nstring source\ngeometry_msgs/Point[] path\n"
BROKEN = "float64 value\nstring gear\n"


@cache
def _clients(aws: EmbeddedAws) -> tuple[Any, Any]:
    return aws.client("glue"), aws.client("s3")


class Place:
    """A lake in S3, and a Glue database of its own."""

    def __init__(self, aws: EmbeddedAws, folder: Path) -> None:
        name = uuid.uuid4().hex[:12]
        self.glue, s3 = _clients(aws)
        s3.create_bucket(Bucket=f"glue-{name}")
        self.output = f"s3://glue-{name}/the lake"
        self.database = f"db_{name}"
        self.folder = folder
        self.finish = FinishOptions(catalog=CatalogOptions(CatalogKind.GLUE, self.database))

    def extract(self, bag: Path, drive_id: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "output": self.output, "drive_id": drive_id, "options": ExtractOptions(), "overwrite": False,
            "take_over": False, "finish": self.finish,
        }  # fmt: skip
        run.run_shard(make_plan([str(bag)], **arguments | changes), 0, JOB)

    def speeds(self, drive_id: str, text: str, *values: Any, **changes: Any) -> None:
        """A drive of messages on ``/speed``, of a value and a gear each."""
        more: dict[str, Any] = {"source": "gps"} if "source" in text else {}
        rows = [{"value": value, "gear": gear, **more} for value, gear in values]
        if "path" in text:
            point = self.point()
            rows = [{**row, "path": [point(1.0, 2.0, row["value"])]} for row in rows]
        bag = write_defined(self.folder / drive_id / "a.bag", text, rows, topic="/speed", kind=KIND)
        self.extract(bag, drive_id, **changes)

    @staticmethod
    def point() -> Any:
        from rosbags.typesys import Stores, get_typestore

        return get_typestore(Stores.ROS1_NOETIC).types["geometry_msgs/msg/Point"]

    def tables(self) -> dict[str, dict[str, Any]]:
        pages = self.glue.get_paginator("get_tables").paginate(DatabaseName=self.database)
        return {table["Name"]: table for page in pages for table in page["TableList"]}

    def partitions(self, table: str) -> list[dict[str, Any]]:
        pages = self.glue.get_paginator("get_partitions").paginate(
            DatabaseName=self.database, TableName=table
        )
        return [each for page in pages for each in page["Partitions"]]

    def listed(self, partition: dict[str, Any]) -> list[str]:
        """The files that a partition is of, as Athena finds them: URIs."""
        place = partition["StorageDescriptor"]["Location"]
        objects = [info.uri for info in open_storage(place).objects(place.rstrip("/"))]
        if "Symlink" not in partition["StorageDescriptor"]["InputFormat"]:
            return sorted(objects)
        return [line for uri in objects for line in open_storage(uri).read(uri).decode().splitlines()]

    def files(self) -> list[str]:
        """All files that the database points at."""
        tables = [name for name, table in self.tables().items() if table["PartitionKeys"]]
        return sorted(uri for name in tables for each in self.partitions(name) for uri in self.listed(each))

    def named(self) -> list[str]:
        """All files that manifests name."""
        lake = Lake(self.output)
        return sorted(
            f"{self.output}/{file.path}" for drive in lake.drives() for file in lake.drive(drive).files()
        )

    def athena(self, query: str) -> list[tuple[Any, ...]]:
        """What Athena would answer: DuckDB, with the tables as the database declares them, and its views."""
        connection = duckdb.connect()
        connection.execute(f'CREATE SCHEMA "{self.database}"')
        kept = []
        tables = self.tables()
        for name, table in tables.items():
            if not table["PartitionKeys"]:
                continue
            parts = []
            for number, each in enumerate(self.partitions(name)):
                # By the names of columns, whatever case; what a file lacks is null.
                there = _dataset(self.listed(each)).to_table()
                folded = there.rename_columns([column.lower() for column in there.column_names])
                kept.append(folded)
                connection.register(f"{name}_{number}", folded)
                columns = [
                    f'CAST({_column(name, folded)} AS {_duckdb(kind)}) AS "{name}"'
                    for name, kind in _columns(table).items()
                ]
                keys = zip(table["PartitionKeys"], each["Values"], strict=True)
                columns += [f"'{value}' AS \"{key['Name']}\"" for key, value in keys]
                parts.append(f'SELECT {", ".join(columns)} FROM "{name}_{number}"')
            if parts:
                connection.execute(f'CREATE VIEW "{self.database}"."{name}" AS {" UNION ALL ".join(parts)}')
        for name, table in tables.items():
            if table["TableType"] == "VIRTUAL_VIEW":
                said = athena_views.read_view(table["ViewOriginalText"])
                sql = _duckdb(said["originalSql"])
                connection.execute(f'CREATE VIEW "{self.database}"."{name}" AS {sql}')
                made = connection.execute(f'SELECT * FROM "{self.database}"."{name}" LIMIT 0').description
                assert [each[0] for each in made or ()] == [each["name"] for each in said["columns"]]
        connection.execute(f'USE "{self.database}"')
        return connection.execute(query).fetchall()


def _columns(table: dict[str, Any]) -> dict[str, str]:
    return {each["Name"]: each["Type"] for each in table["StorageDescriptor"]["Columns"]}


def _dataset(uris: Sequence[str]) -> ds.Dataset:
    filesystem, _ = arrow_filesystem(uris[0])
    return ds.dataset([uri.removeprefix("s3://") for uri in uris], filesystem=filesystem)


def _column(name: str, table: pa.Table) -> str:
    return f'"{name}"' if name in table.column_names else "NULL"


_HIVE = re.compile(r"\b(array|struct)<([^<>]*)>")


def _in_duckdb(found: re.Match[str]) -> str:
    return f"{found[2]}[]" if found[1] == "array" else "STRUCT(" + re.sub(r"(\w+):", r'"\1" ', found[2]) + ")"


def _duckdb(text: str) -> str:
    """A Hive or Presto type, or a view's SQL, in DuckDB's words."""
    # From within: what is done has no angle brackets any more.
    while (plain := _HIVE.sub(_in_duckdb, text)) != text:
        text = plain
    text = re.sub(r"\barray\((\w+)\)", r"\1[]", text)
    text = re.sub(r"transform\((.*?), (e\d) -> ", r"list_transform(\1, lambda \2: ", text)
    for word, other in (("(?:var)?binary", "BLOB"), ("string", "VARCHAR"), ("timestamp", "TIMESTAMPTZ")):
        text = re.sub(rf'(?<!")\b{word}\b', other, text)  # a column may be called so
    return text


@pytest.fixture
def place(tmp_path: Path, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    return Place(embedded_aws, tmp_path)


# --- drives ------------------------------------------------------------------------------------------


def test_a_run_registers_its_drive(place: Place) -> None:
    for number, name in enumerate(("a.bag", "b.mcap")):
        write_bag(place.folder / name, start_ns=START_NS + number * 10**12)
        place.extract(place.folder / name, f"drive_{number}")
    assert place.files() == place.named()
    tables = place.tables()
    assert {name for name in tables if tables[name]["TableType"] == "VIRTUAL_VIEW"} == {
        *("imu__data", "gps__fix", "camera__image__compressed", "status")
    }
    imu = tables["imu__data___6a62c6da"]
    columns = _columns(imu)
    assert (columns["log_time"], columns["log_time_ns"], columns["bag"]) == ("timestamp", "bigint", "string")
    assert columns["orientation"] == "struct<x:double,y:double,z:double,w:double>"
    assert columns["orientation_covariance"] == "array<double>"
    assert (columns["publish_time_ns"], columns["sequence"]) == ("bigint", "bigint")  # of MCAP
    assert place.athena(
        "SELECT drive_id, count(*), count(sequence) FROM imu__data GROUP BY 1 ORDER BY 1"
    ) == [
        ("drive_0", 40, 0),
        ("drive_1", 40, 40),
    ]
    query = "SELECT sum(linear_acceleration.x), max(orientation_covariance[9]) FROM imu__data"
    assert place.athena(query) == [(2 * sum(range(40)), 8.0)]


def test_what_is_there_already_is_left(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.speeds("d", FIRST, (1.0, 1))
    before = place.tables()
    words = ["catalog", place.output, f"glue:{place.database}"]
    capsys.readouterr()
    assert cli.main(words) == ExitCode.OK
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "2 tables of 1 drives: 0 changes, 0 removed"
    assert (said[0], said[1][:8]) == ("speed", "speed___")
    assert place.tables() == before


def test_a_drive_that_is_replaced_has_its_rows_once_at_any_moment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.speeds("d", FIRST, (1.5, 1), (2.5, 2))
    seen = []
    commit = glue.register_drive

    def look(*arguments: Any, **more: Any) -> Any:
        """The lake is committed and swept, the catalogue not yet: it names what is gone, nothing twice."""
        seen.append(place.files())
        made = commit(*arguments, **more)
        seen.append(place.files())
        return made

    monkeypatch.setattr(glue, "register_drive", look)
    before = place.files()
    place.speeds("d", FIRST, (7.5, 7), overwrite=True)
    assert seen == [before, place.named()]
    assert len(place.named()) == 1 and before != place.named()
    assert place.athena("SELECT value, gear FROM speed") == [(7.5, 7)]
    lists = [info.uri for info in open_storage(place.output).objects(f"{place.output}/_catalog")]
    assert len(lists) == 1, "the list of what was replaced is removed"
    place.speeds("d", BROKEN, (1.0, "R"), overwrite=True)
    assert place.files() == place.named()


def test_a_drive_that_is_gone_is_forgotten(place: Place) -> None:
    place.speeds("one", FIRST, (1.0, 1))
    place.speeds("two", WIDER, (2.0, 300))
    place.speeds("two", WIDER, (3.0, 4), overwrite=True)
    storage = open_storage(place.output)
    for folder in ("_manifests", "speed"):
        for info in list(storage.objects(f"{place.output}/{folder}")):
            if "drive_id=two" in info.uri:
                storage.delete(info.uri)
    assert cli.main(["catalog", place.output, f"glue:{place.database}"]) == ExitCode.OK
    assert place.files() == place.named()
    assert place.athena("SELECT drive_id, value FROM speed") == [("one", 1.0)]
    assert len([name for name in place.tables() if name.startswith("speed___")]) == 1
    for info in list(storage.objects(place.output)):
        if "drive_id=one" in info.uri and "/_catalog/" not in info.uri:
            storage.delete(info.uri)
    place.speeds("one", WIDER, (5.0, 5), finish=FinishOptions())  # as if it had never been there
    words = ["catalog", place.output, f"glue:{place.database}", "--drive-id", "one"]
    assert cli.main(words) == ExitCode.OK
    assert place.files() == place.named()


def test_definitions_that_one_table_holds_are_one_view(place: Place) -> None:
    place.speeds("one", FIRST, (0.5, 255))
    place.speeds("two", WIDER, (1e300, 65_535))
    rows = place.athena("SELECT drive_id, value, gear, source, path FROM speed ORDER BY drive_id")
    assert rows == [
        ("one", 0.5, 255, None, [{"x": 1.0, "y": 2.0, "z": 0.5}]),
        ("two", 1e300, 65_535, "gps", [{"x": 1.0, "y": 2.0, "z": 1e300}]),
    ]
    view = place.tables()["speed"]
    assert _columns(view)["gear"] == "int"
    assert (view["Parameters"]["presto_view"], view["ViewExpandedText"]) == ("true", "/* Presto View */")


def test_definitions_that_no_table_holds_have_tables_alone(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.speeds("one", FIRST, (0.5, 1))
    assert "speed" in place.tables()
    place.speeds("two", BROKEN, (1.5, "R"))
    names = sorted(name for name in place.tables() if name.startswith("speed"))
    assert [name[:8] for name in names] == ["speed___", "speed___"]
    assert place.files() == place.named()
    capsys.readouterr()
    assert cli.main(["catalog", place.output, f"glue:{place.database}", "--drive-id", "two"]) == ExitCode.OK
    assert "! left out: table speed has no view, but a table for each definition: " in capsys.readouterr().out


def test_drives_that_end_at_once_are_all_there(place: Place) -> None:
    """Each brings the same new tables, and one a definition of its own."""
    for number in range(4):
        text = WIDER if number == 3 else FIRST
        place.speeds(f"d{number}", text, (float(number), number), finish=FinishOptions())
    database = glue.open_database(place.output, place.database)
    barrier = threading.Barrier(4)
    failed: list[BaseException] = []

    def register(drive_id: str) -> None:
        try:
            barrier.wait()
            glue.register_drive(open_storage(place.output), database, drive_id)
        except BaseException as error:  # noqa: BLE001 (raised below)
            failed.append(error)

    threads = [threading.Thread(target=register, args=(f"d{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert place.files() == place.named()
    assert place.athena("SELECT drive_id, value FROM speed ORDER BY 1") == [
        (f"d{number}", float(number)) for number in range(4)
    ]


def test_one_drive_by_two_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has it all done while the first is between looking and creating."""
    place.speeds("d", FIRST, (1.0, 1), finish=FinishOptions())
    database, storage = glue.open_database(place.output, place.database), open_storage(place.output)
    put = glue._put_partition
    calls = []

    def slow(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 1:
            monkeypatch.setattr(glue, "_put_partition", put)
            client = database.client
            create = client.batch_create_partition

            def late(**request: Any) -> Any:
                monkeypatch.setattr(client, "batch_create_partition", create)
                glue.register_drive(storage, database, "d")
                answer = create(**request)
                assert answer["Errors"][0]["ErrorDetail"]["ErrorCode"] == "AlreadyExistsException"
                return answer

            monkeypatch.setattr(client, "batch_create_partition", late)
        return put(*arguments)

    monkeypatch.setattr(glue, "_put_partition", slow)
    glue.register_drive(storage, database, "d")
    assert len(calls) == 1
    assert place.files() == place.named()


def test_as_folders(place: Place) -> None:
    options = CatalogOptions(CatalogKind.GLUE, place.database, contract.GlueFiles.FOLDERS)
    place.speeds("d", FIRST, (1.0, 1), finish=FinishOptions(catalog=options))
    (name,) = (name for name in place.tables() if name.startswith("speed___"))
    (partition,) = place.partitions(name)
    digits = name.rpartition("___")[2]
    assert partition["StorageDescriptor"]["Location"] == f"{place.output}/speed/schema={digits}/drive_id=d/"
    assert place.files() == place.named()
    assert cli.main(["catalog", place.output, f"glue:{place.database}"]) == ExitCode.OK
    (partition,) = place.partitions(name)
    assert "Symlink" in partition["StorageDescriptor"]["InputFormat"], "changed to a list of files"
    assert place.files() == place.named()


def test_the_fleet_tables_are_tables_too(place: Place) -> None:
    place.speeds("d", FIRST, (1.0, 1), finish=FinishOptions(fleet=True, catalog=place.finish.catalog))
    for name, schema in SCHEMAS.items():
        table = place.tables()[f"fleet___{name}"]
        files = place.listed(table)
        assert files == [f"{place.output}/_fleet/{name}/d.parquet"]
        assert [each["Name"] for each in table["StorageDescriptor"]["Columns"]] == schema.names
        assert _dataset(files).schema.names == schema.names


# --- refusals ----------------------------------------------------------------------------------------


def test_a_database_of_another_lake_is_refused(place: Place, embedded_aws: EmbeddedAws) -> None:
    place.speeds("d", FIRST, (1.0, 1))
    other = Place(embedded_aws, place.folder / "other")
    other.finish, other.database = place.finish, place.database
    other.speeds("d", FIRST, (1.0, 1))  # the drive is committed all the same
    assert len(Lake(other.output).drive("d").files()) == 1
    database = glue.open_database(other.output, place.database)
    said = f"is of the lake {place.output}: give {other.output} a database of its own"
    with pytest.raises(CatalogError, match=re.escape(said)):
        glue.register_drive(open_storage(other.output), database, "d")


def test_a_lake_on_disk_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["catalog", str(tmp_path), "glue:drives"]) == ExitCode.OUTPUT_FAILED
    assert "a Glue catalogue is of a lake in S3; for this one take Iceberg" in capsys.readouterr().err
    assert cli.main(["catalog", str(tmp_path), "hive:drives"]) == ExitCode.USAGE
    assert cli.main(["catalog", str(tmp_path), "glue:My-Drives"]) == ExitCode.USAGE
    assert "glue:NAME, glue-folders:NAME, iceberg:NAME" in capsys.readouterr().err


# --- names and types ---------------------------------------------------------------------------------


def test_no_two_tables_have_one_name() -> None:
    tables = ["a.b", "a_b", "a__b", "A.b", "a.B", "a-b", "a..b", "a_.b", "a._b", "%5Fx", "_x", "x_", "a%2Eb"]
    tables += ["a.b.c", "a.b_c", "a_b.c", "x" * 150, "x" * 151, "%2F"]
    names = [catalog_name(table) for table in tables]
    assert len(set(names)) == len(tables)
    assert (names[0], names[1]) == ("a__b", "a_b")
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_]{0,120}", name) and "___" not in name


def test_types_and_what_has_none() -> None:
    inner = pa.struct([("X", pa.uint16()), ("a.b", pa.int8()), ("half", pa.float16())])
    columns = pa.schema(
        [
            ("log_time", pa.timestamp("us", "UTC")),
            ("bag", pa.dictionary(pa.int32(), pa.string())),
            ("u8", pa.uint8()),
            ("u32", pa.uint32()),
            ("u64", pa.uint64()),
            ("blob", pa.binary(16)),
            ("matrix", pa.list_(pa.list_(pa.float32(), 3), 3)),
            ("inner", pa.list_(inner)),
            ("by", pa.map_(pa.string(), pa.int64())),
            ("range (m)", pa.float64()),
            ("took", pa.duration("us")),
            ("none", pa.struct([("half", pa.float16())])),
            ("price", pa.decimal128(9, 2)),
        ]
    )
    kept, left_out = hive_columns(columns)
    assert {each.name: hive_text(each.type) for each in kept} == {
        "log_time": "timestamp",
        "bag": "string",
        "u8": "smallint",
        "u32": "bigint",
        "u64": "bigint",
        "blob": "binary",
        "matrix": "array<array<float>>",
        "inner": "array<struct<x:int>>",
        "by": "map<string,bigint>",
        "price": "decimal(9,2)",
    }
    assert presto_text(kept.field("inner").type) == 'array(row("x" integer))'
    assert left_out == [
        "inner[].a.b: its name is not of letters, digits and _",
        "inner[].half: there is no type for halffloat",
        "range (m): its name is not of letters, digits and _",
        "took: there is no type for duration[us]",
        "none.half: there is no type for halffloat",
    ]


def test_casts_within_lists_and_structs() -> None:
    old = pa.schema([("p", pa.list_(pa.struct([("x", pa.float32()), ("y", pa.int8())]))), ("q", pa.int8())])
    new = pa.schema(
        [("p", pa.list_(pa.struct([("x", pa.float64()), ("z", pa.string())]))), ("q", pa.int32())]
    )
    query = athena_views.view_query("db", [("t", old)], new)
    assert query.splitlines()[0] == (
        'SELECT transform("p", e0 -> IF(e0 IS NULL, NULL, CAST(ROW(CAST(e0."x" AS double), NULL) AS '
        'row("x" double, "z" varchar)))) AS "p", CAST("q" AS integer) AS "q", "schema", "drive_id"'
    )
    connection = duckdb.connect()
    connection.execute("CREATE SCHEMA db")
    points = "[{'x': 0.5::FLOAT, 'y': 1::TINYINT}, NULL]"
    connection.execute(
        f"CREATE VIEW db.t AS SELECT {points} AS p, 7::TINYINT AS q, 's' AS schema, 'd' AS drive_id"
    )
    assert connection.execute(_duckdb(query)).fetchall() == [([{"x": 0.5, "z": None}, None], 7, "s", "d")]


def test_errors_of_glue_are_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    database = glue.open_database(place.output, place.database)

    def refuse(raised: str) -> Callable[..., Any]:
        def paginator(name: str) -> Any:
            raise ClientError({"Error": {"Code": raised, "Message": "no"}}, "GetTables")

        return paginator

    place.speeds("d", FIRST, (1.0, 1), finish=FinishOptions())
    monkeypatch.setattr(database.client, "get_paginator", refuse("AccessDeniedException"))
    said = f"Glue database {place.database}: GetTables: AccessDeniedException: no; let the role that asks do "
    with pytest.raises(CatalogError, match=re.escape(f"{said}glue:GetTables")):
        glue.register_drive(open_storage(place.output), database, "d")
