"""Copies to S3 and back, against the embedded S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_batch_ros.local import EmbeddedAws
from demo import store
from demo.bags import group
from demo.store import Transfer


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with EmbeddedAws(tmp_path_factory.mktemp("aws"), buckets=("bags",)) as aws:
        yield aws.client("s3")


def upload(s3: Any, folder: Path) -> tuple[Transfer, int]:
    """What was done, and how many bytes were told."""
    told: list[int] = []
    return store.upload(s3, "bags", group(folder).drives, progress=told.append), sum(told)


def test_only_what_changed_is_sent_and_what_is_gone_is_removed(s3: Any, tmp_path: Path) -> None:
    drive = tmp_path / "fleet/monday"
    drive.mkdir(parents=True)
    (drive / "a.bag").write_bytes(b"a" * 1000)
    (drive / "b.bag").write_bytes(b"b" * 500)
    (drive / "empty.bag").touch()
    assert upload(s3, tmp_path / "fleet") == (Transfer(3, 1500, 0, 0), 1500)
    assert upload(s3, tmp_path / "fleet") == (Transfer(0, 0, 3, 0), 1500)
    (drive / "a.bag").write_bytes(b"A" * 1000)
    (drive / "b.bag").unlink()
    assert upload(s3, tmp_path / "fleet") == (Transfer(1, 1000, 1, 1), 1000)
    listed = s3.list_objects_v2(Bucket="bags", Prefix="drives/monday/")["Contents"]
    assert [(item["Key"], item["Size"]) for item in listed] == [
        ("drives/monday/a.bag", 1000),
        ("drives/monday/empty.bag", 0),
    ]


def test_the_copy_is_what_the_bucket_has(s3: Any, tmp_path: Path) -> None:
    def put(key: str, data: bytes) -> None:
        s3.put_object(Bucket="bags", Key=f"lake/{key}", Body=data)

    def copy() -> Transfer:
        return store.download(s3, "bags", "lake/", tmp_path / "copy", progress=lambda _: None)

    put("t/schema=1/drive_id=d/a.parquet", b"12345")
    put("_manifests/m.json", b"{}")
    assert copy() == Transfer(2, 7, 0, 0)
    s3.delete_object(Bucket="bags", Key="lake/t/schema=1/drive_id=d/a.parquet")
    put("t/schema=2/drive_id=d/b.parquet", b"678")
    put("_manifests/m.json", b"[]")
    assert copy() == Transfer(2, 5, 0, 1)
    files = sorted(path for path in (tmp_path / "copy").rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path / "copy").as_posix() for path in files] == [
        "_manifests/m.json",
        "t/schema=2/drive_id=d/b.parquet",
    ]
    assert not (tmp_path / "copy/t/schema=1").exists()
    assert (tmp_path / "copy/_manifests/m.json").read_bytes() == b"[]"
    assert copy() == Transfer(1, 2, 1, 0)


def test_what_is_below_a_prefix_can_be_weighed_and_removed(s3: Any) -> None:
    for name in ("x/1", "x/2", "y/1"):
        s3.put_object(Bucket="bags", Key=f"some/{name}", Body=b"123")
    assert store.stored_bytes(s3, "bags", "some/") == 9
    store.remove(s3, "bags", "some/x/")
    assert store.stored_bytes(s3, "bags", "some/") == 3
