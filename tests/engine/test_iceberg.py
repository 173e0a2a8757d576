"""A lake's tables in Iceberg catalogues: SQL's on disk, Glue's over HTTP; read by pyiceberg and polars."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from ros_to_parquet import cli, contract, run
from ros_to_parquet.catalog import iceberg
from ros_to_parquet.catalog.columns import iceberg_columns
from ros_to_parquet.catalog.files import CatalogError
from ros_to_parquet.contract import CatalogKind, CatalogOptions, ExitCode, ExtractOptions, FinishOptions
from ros_to_parquet.lake import Lake
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.storage import join, open_storage
from tests.docs.blocks import blocks_of
from tests.engine.sample_bags import START_NS, write_bag, write_defined
from tests.engine.test_glue import BROKEN, FIRST, KIND, WIDER, Place

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

pytest.importorskip("pyiceberg", reason="pip install 'ros-to-parquet[iceberg]'")
pytest.importorskip("sqlalchemy")

JOB = run.JobIdentity("", 1, "")


class Fleet:
    """A lake on disk, and an SQL catalogue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = str(folder / "the lake")
        self.properties = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db"}
        self.storage = open_storage(self.output)

    def words(self) -> list[str]:
        given = [f"--property={key}={value}" for key, value in self.properties.items()]
        return ["catalog", self.output, "iceberg:fleet", *given]

    def extract(self, bag: Path, drive_id: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "output": self.output, "drive_id": drive_id, "options": ExtractOptions(), "overwrite": False,
            "take_over": False,
        }  # fmt: skip
        run.run_shard(make_plan([str(bag)], **arguments | changes), 0, JOB)

    def speeds(self, drive_id: str, text: str, *values: Any, **changes: Any) -> None:
        rows = speeds(text, *values)
        bag = write_defined(self.folder / drive_id / "a.bag", text, rows, topic="/speed", kind=KIND)
        self.extract(bag, drive_id, **changes)

    def open(self) -> iceberg.IcebergNamespace:
        return iceberg.open_namespace(self.output, "fleet", self.properties)

    def register(self, drive_id: str) -> Any:
        return iceberg.register_drive(self.storage, self.open(), drive_id)

    def table(self, name: str) -> Any:
        return self.open().catalog.load_table(("fleet", name))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return sorted(self.table(name).scan().to_arrow().to_pylist(), key=lambda row: row["log_time_ns"])

    def files(self) -> list[str]:
        """All files that the catalogue points at."""
        namespace = self.open()
        names = [name for _, name in namespace.catalog.list_tables("fleet")]
        return sorted(
            task.file.file_path.removeprefix("file://")
            for name in names
            for task in self.table(name).scan().plan_files()
        )

    def named(self) -> list[str]:
        lake = Lake(self.output)
        return sorted(
            f"{self.output}/{file.path}" for drive in lake.drives() for file in lake.drive(drive).files()
        )


def speeds(text: str, *values: Any) -> list[Mapping[str, Any]]:
    more = {"source": "gps"} if "source" in text else {}
    rows: list[Mapping[str, Any]] = [{"value": value, "gear": gear, **more} for value, gear in values]
    return (
        [{**row, "path": [Place.point()(1.0, 2.0, row["value"])]} for row in rows] if "path" in text else rows
    )


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_lake_is_read_as_it_is(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("a.bag", "b.mcap")):
        write_bag(fleet.folder / name, start_ns=START_NS + number * 10**12)
        fleet.extract(fleet.folder / name, f"drive_{number}")
    capsys.readouterr()
    assert cli.main(fleet.words()) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[-1] == "4 tables of 2 drives: 8 changes, 0 removed"
    assert cli.main(fleet.words()) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[-1] == "4 tables of 2 drives: 0 changes, 0 removed"
    assert fleet.files() == fleet.named()
    for table in Lake(fleet.output).tables():
        lake = Lake(fleet.output).dataset(table).to_table().to_pylist()
        name = table.replace(".", "__")
        found = fleet.rows(name)
        assert len(found) == 80
        for one, other in zip(found, sorted(lake, key=lambda row: row["log_time_ns"]), strict=True):
            assert {column: one[column] for column in other} == other


def test_what_a_query_leaves_out_is_not_opened(fleet: Fleet) -> None:
    for number in range(2):
        fleet.speeds(f"d{number}", FIRST, (float(number), number))
        write = fleet.folder / f"later_{number}.bag"
        write_defined(
            write, FIRST, speeds(FIRST, (9.0, 9)), topic="/speed", kind=KIND, start_ns=START_NS + 10**15
        )
        fleet.extract(write, f"later_{number}")
    assert cli.main(fleet.words()) == ExitCode.OK
    table = fleet.table("speed")
    assert len(list(table.scan(row_filter="drive_id = 'd1'").plan_files())) == 1
    assert len(list(table.scan(row_filter=f"log_time_ns > {START_NS + 10**14}").plan_files())) == 2
    assert len(list(table.scan(row_filter="log_time < '2023-11-15T00:00:00+00:00'").plan_files())) == 2
    (row,) = table.scan(row_filter="drive_id = 'd1'").to_arrow().to_pylist()
    assert (row["value"], row["drive_id"]) == (1.0, "d1")


def test_the_documentation_finds_the_rows_of_a_drive(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyiceberg finds none where the filter names a partition that is not selected."""
    for drive_id in ("drive_1", "drive_2"):
        write_bag(fleet.folder / f"{drive_id}.bag", messages=3)
        fleet.extract(fleet.folder / f"{drive_id}.bag", drive_id)
    assert cli.main(fleet.words()) == ExitCode.OK
    monkeypatch.chdir(fleet.folder)
    (block,) = (each for each in blocks_of("docs/catalog.md") if "load_catalog" in each.body)
    said: dict[str, Any] = {}
    exec(compile(block.body, "docs/catalog.md", "exec"), said)
    assert said["rows"].num_rows == 3
    assert set(said["rows"].column("drive_id").to_pylist()) == {"drive_1"}


def test_a_drive_that_is_replaced_changes_in_one_snapshot(fleet: Fleet) -> None:
    fleet.speeds("d", FIRST, (1.5, 1), (2.5, 2))
    fleet.register("d")
    fleet.speeds("d", FIRST, (7.5, 7), overwrite=True)
    before = len(fleet.table("speed").snapshots())
    assert fleet.register("d").changed == 2
    assert len(fleet.table("speed").snapshots()) == before + 1
    assert [row["value"] for row in fleet.rows("speed")] == [7.5]
    assert fleet.files() == fleet.named()
    fleet.speeds("d", BROKEN, (1.0, "R"), overwrite=True)
    fleet.register("d")
    assert fleet.files() == fleet.named()
    assert fleet.table("speed").properties["gc.enabled"] == "false"


def test_definitions_that_one_table_holds_are_one(fleet: Fleet) -> None:
    fleet.speeds("one", FIRST, (0.5, 255))
    fleet.speeds("two", WIDER, (1e300, 65_535))
    assert cli.main(fleet.words()) == ExitCode.OK
    rows = [(row["drive_id"], row["value"], row["gear"], row["source"]) for row in fleet.rows("speed")]
    assert sorted(rows) == [("one", 0.5, 255, None), ("two", 1e300, 65_535, "gps")]
    assert [row["path"] for row in fleet.rows("speed") if row["drive_id"] == "one"] == [
        [{"x": 1.0, "y": 2.0, "z": 0.5}]
    ]


def test_a_definition_that_goes_with_no_other_has_a_table(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.speeds("one", FIRST, (0.5, 1))
    fleet.speeds("two", BROKEN, (1.5, "R"))
    assert cli.main(fleet.words()) == ExitCode.OK
    (other,) = (name for _, name in fleet.open().catalog.list_tables("fleet") if name != "speed")
    assert f"goes with no other: it is table {other}" in capsys.readouterr().out
    assert [row["gear"] for row in fleet.rows(other)] == ["R"]
    assert [row["gear"] for row in fleet.rows("speed")] == [1]


def test_a_drive_that_is_gone_is_forgotten(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.speeds("one", FIRST, (1.0, 1))
    fleet.speeds("two", FIRST, (2.0, 2))
    assert cli.main(fleet.words()) == ExitCode.OK
    for info in list(fleet.storage.objects(fleet.output)):
        if "drive_id=two" in info.uri:
            fleet.storage.delete(info.uri)
    capsys.readouterr()
    assert cli.main(fleet.words()) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[-1] == "1 tables of 1 drives: 0 changes, 1 removed"
    assert [row["drive_id"] for row in fleet.rows("speed")] == ["one"]


def test_a_drive_that_lacks_manifests_is_left_as_it_was(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.speeds("one", FIRST, (1.0, 1))
    (plan,) = (each.plan_id for each in Lake(fleet.output).drive("one").commits)
    later = write_defined(
        fleet.folder / "one" / "b.bag", FIRST, speeds(FIRST, (3.0, 3)), topic="/speed", kind=KIND
    )
    fleet.extract(later, "one")
    fleet.speeds("two", FIRST, (2.0, 2))
    searched = ["fleet", fleet.output, "--update-all"]
    assert [cli.main(words) for words in (fleet.words(), searched)] == [ExitCode.OK, ExitCode.OK]
    files, tables = fleet.files(), Lake(fleet.output).fleet("topics")
    fleet.storage.delete(join(fleet.output, contract.manifest_key("one", plan, 0)))
    capsys.readouterr()
    for words in (fleet.words(), searched):
        assert cli.main(words) == ExitCode.INPUT_MISSING
        assert f"! left as it was: {fleet.output}: drive 'one': 1 of 1 shards'" in capsys.readouterr().out
    assert cli.main([*searched, "--json"]) == ExitCode.INPUT_MISSING
    assert len(json.loads(capsys.readouterr().out)["left_as_they_were"]) == 1
    assert (fleet.files(), Lake(fleet.output).fleet("topics")) == (files, tables)

    with pytest.raises(run.ShardError, match=r"1 of 1 shards' manifests in .* are gone, with their rows"):
        fleet.extract(later, "one")
    fleet.extract(later, "one", overwrite=True)
    assert [cli.main(words) for words in (fleet.words(), searched)] == [ExitCode.OK, ExitCode.OK]
    assert [row["gear"] for row in fleet.rows("speed") if row["drive_id"] == "one"] == [3]


def test_drives_that_end_at_once_are_all_there(fleet: Fleet) -> None:
    """Commits of Iceberg conflict; whoever loses begins again from the table as it is."""
    for number in range(4):
        fleet.speeds(f"d{number}", WIDER if number == 3 else FIRST, (float(number), number))
    barrier = threading.Barrier(4)
    failed: list[BaseException] = []
    fleet.open()

    def register(drive_id: str) -> None:
        try:
            namespace = fleet.open()
            barrier.wait()
            iceberg.register_drive(fleet.storage, namespace, drive_id)
        except BaseException as error:  # noqa: BLE001 (asserted below)
            failed.append(error)

    threads = [threading.Thread(target=register, args=(f"d{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert fleet.files() == fleet.named()
    assert sorted(row["value"] for row in fleet.rows("speed")) == [0.0, 1.0, 2.0, 3.0]


def test_one_drive_by_two_at_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second commits while the first is about to: no file is there twice."""
    fleet.speeds("d", FIRST, (1.0, 1))
    commit = iceberg._commit
    calls = []

    def slow(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            fleet.register("d")
        commit(*arguments)

    monkeypatch.setattr(iceberg, "_commit", slow)
    fleet.register("d")
    assert len(calls) == 2  # the first lost, and found nothing left to do
    assert fleet.files() == fleet.named()


def test_a_namespace_of_another_lake_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    fleet.speeds("d", FIRST, (1.0, 1))
    fleet.register("d")
    other = Fleet(tmp_path / "other")
    other.properties = fleet.properties
    other.speeds("d", FIRST, (1.0, 1))
    with pytest.raises(CatalogError, match=r"table fleet\.speed is not of this lake: give .* a namespace of"):
        other.register("d")


def test_a_catalogue_that_cannot_be_opened_is_said(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.properties = {"type": "none-such"}
    fleet.speeds("d", FIRST, (1.0, 1))
    assert cli.main(fleet.words()) == ExitCode.OUTPUT_FAILED
    assert "Iceberg catalogue: ValueError: " in capsys.readouterr().err


def test_what_a_catalogue_refuses_is_said(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiceberg.exceptions import ForbiddenError

    fleet.speeds("d", FIRST, (1.0, 1))
    namespace = fleet.open()

    def refuse(*_: Any) -> Any:
        raise ForbiddenError("not yours")

    monkeypatch.setattr(namespace.catalog, "load_table", refuse)
    with pytest.raises(CatalogError, match="Iceberg namespace fleet: ForbiddenError: not yours"):
        iceberg.register_drive(fleet.storage, namespace, "d")


def test_in_glue_over_http(
    tmp_path: Path, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the finishing step of a job does it: all that it knows is the environment."""
    for name, value in embedded_aws.environment().items():
        monkeypatch.setenv(name, value)
    bucket, database = f"ice-{uuid.uuid4().hex[:12]}", f"ice_{uuid.uuid4().hex[:12]}"
    embedded_aws.client("s3").create_bucket(Bucket=bucket)
    finish = FinishOptions(catalog=CatalogOptions(CatalogKind.ICEBERG, database))
    fleet = Fleet(tmp_path)
    fleet.output = f"s3://{bucket}/lake"
    fleet.speeds("d", FIRST, (1.5, 1), finish=finish)
    fleet.speeds("d", FIRST, (2.5, 2), overwrite=True, finish=finish)
    catalog = iceberg.open_namespace(fleet.output, database, {}).catalog
    table = catalog.load_table((database, "speed"))
    assert table.scan().to_arrow().select(["drive_id", "value"]).to_pylist() == [
        {"drive_id": "d", "value": 2.5}
    ]
    assert [task.file.file_path for task in table.scan().plan_files()] == fleet.named()
    assert table.location() == f"s3://{bucket}/lake/_iceberg/speed"


def test_polars_reads_them(fleet: Fleet) -> None:
    polars = pytest.importorskip("polars")
    fleet.speeds("one", FIRST, (0.5, 255))
    fleet.speeds("two", WIDER, (1e300, 65_535))
    assert cli.main(fleet.words()) == ExitCode.OK
    frame = polars.scan_iceberg(fleet.table("speed")).filter(polars.col("drive_id") == "two")
    assert frame.select("value", "gear", "source").collect().rows() == [(1e300, 65_535, "gps")]


def test_types_and_what_has_none() -> None:
    columns = pa.schema(
        [
            ("u8", pa.uint8()), ("u16", pa.uint16()), ("u32", pa.uint32()), ("u64", pa.uint64()),
            ("half", pa.float16()), ("bag", pa.dictionary(pa.int32(), pa.string())),
            ("blob", pa.binary(16)), ("three", pa.list_(pa.field("element", pa.uint8()), 3)),
            ("ns", pa.timestamp("ns")), ("us", pa.timestamp("us", "UTC")), ("range (m)", pa.float64()),
        ]
    )  # fmt: skip
    kept, left_out = iceberg_columns(columns)
    assert {each.name: str(each.type) for each in kept} == {
        "u8": "int32", "u16": "int32", "u32": "int64", "u64": "int64", "bag": "string",
        "blob": "fixed_size_binary[16]", "three": "list<element: int32>", "us": "timestamp[us, tz=UTC]",
        "range (m)": "double",
    }  # fmt: skip
    assert left_out == ["half: there is no type for halffloat", "ns: there is no type for timestamp[ns]"]
