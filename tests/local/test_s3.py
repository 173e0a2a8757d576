"""S3 as jobs and operators use it: what of AWS's promises the store on this machine keeps."""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.session import Session

from airflow_batch_ros.local import EmbeddedAws

PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def s3(aws: EmbeddedAws) -> Any:
    return aws.client("s3")


@pytest.fixture
def key() -> str:
    return f"test/{uuid.uuid4().hex}"


def code(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def body(s3: Any, key: str, **more: str) -> bytes:
    return bytes(s3.get_object(Bucket="lake", Key=key, **more)["Body"].read())


def test_a_put_if_there_is_none(s3: Any, key: str) -> None:
    s3.put_object(Bucket="lake", Key=key, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket="lake", Key=key, Body=b"second", IfNoneMatch="*")
    assert code(error) == ("PreconditionFailed", 412)
    assert body(s3, key) == b"first"


def test_a_put_if_it_is_still_the_same(s3: Any, key: str) -> None:
    first = s3.put_object(Bucket="lake", Key=key, Body=b"first")["ETag"]
    s3.put_object(Bucket="lake", Key=key, Body=b"second", IfMatch=first)
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket="lake", Key=key, Body=b"third", IfMatch=first)
    assert code(error) == ("PreconditionFailed", 412)
    assert body(s3, key) == b"second"


def test_a_delete_if_it_is_still_the_same(s3: Any, key: str) -> None:
    first = s3.put_object(Bucket="lake", Key=key, Body=b"first")["ETag"]
    second = s3.put_object(Bucket="lake", Key=key, Body=b"second")["ETag"]
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket="lake", Key=key, IfMatch=first)
    assert code(error) == ("PreconditionFailed", 412)
    assert body(s3, key) == b"second"
    s3.delete_object(Bucket="lake", Key=key, IfMatch=second)
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket="lake", Key=key)
    assert code(error) == ("NoSuchKey", 404)


@pytest.mark.parametrize("condition", ["IfNoneMatch", "IfMatch"])
def test_of_those_who_race_one_wins(s3: Any, condition: str) -> None:
    def put(writer: int) -> bool:
        try:
            s3.put_object(Bucket="lake", Key=name, Body=str(writer).encode(), **{condition: expected})
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            name, expected = f"race/{uuid.uuid4().hex}", "*"
            if condition == "IfMatch":
                expected = s3.put_object(Bucket="lake", Key=name, Body=b"")["ETag"]
            won = list(pool.map(put, range(6)))
            assert sum(won) == 1
            assert body(s3, name) == str(won.index(True)).encode()


def test_ranges(s3: Any, key: str) -> None:
    content = bytes(range(256)) * 40_000  # ten million bytes: over several chunks of the store
    s3.put_object(Bucket="lake", Key=key, Body=content)
    for first, last in ((0, 0), (4_194_300, 4_194_310), (9_999_999, 10_239_999)):
        assert body(s3, key, Range=f"bytes={first}-{last}") == content[first : last + 1]
    assert body(s3, key, Range="bytes=-5") == content[-5:]


def test_multipart(s3: Any, key: str) -> None:
    upload = {"Bucket": "lake", "Key": key}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    bodies = [b"a" * PART, b"b" * 10]
    parts = [
        {"PartNumber": number, "ETag": s3.upload_part(**upload, PartNumber=number, Body=part)["ETag"]}
        for number, part in enumerate(bodies, 1)
    ]
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket="lake", Key=key)
    assert code(error) == ("404", 404)
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert body(s3, key) == b"".join(bodies)


def test_an_aborted_multipart_upload_leaves_nothing(s3: Any, key: str) -> None:
    upload = {"Bucket": "lake", "Key": key}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    s3.upload_part(**upload, PartNumber=1, Body=b"x" * PART)
    s3.abort_multipart_upload(**upload)
    assert "Contents" not in s3.list_objects_v2(Bucket="lake", Prefix=key)


def test_lists_in_pages_sorted_and_below_a_delimiter(s3: Any, key: str) -> None:
    names = [f"{key}/{folder}/{index}" for folder in ("a", "b") for index in range(3)]
    for name in reversed(names):
        s3.put_object(Bucket="lake", Key=name, Body=b"x")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket="lake", Prefix=f"{key}/", PaginationConfig={"PageSize": 4}
    )
    found = [[item["Key"] for item in page["Contents"]] for page in pages]
    assert found == [names[:4], names[4:]]
    below = s3.list_objects_v2(Bucket="lake", Prefix=f"{key}/", Delimiter="/")
    assert [entry["Prefix"] for entry in below["CommonPrefixes"]] == [f"{key}/a/", f"{key}/b/"]


@pytest.mark.parametrize("name", ["_manifests/drive_id=d 1/x.json", "grüße/ö", "a+b%20c&d", "x" * 200])
def test_names(s3: Any, key: str, name: str) -> None:
    s3.put_object(Bucket="lake", Key=f"{key}/{name}", Body=b"x", Metadata={"md5": "1"})
    assert body(s3, f"{key}/{name}") == b"x"
    assert s3.list_objects_v2(Bucket="lake", Prefix=key)["Contents"][0]["Key"] == f"{key}/{name}"
    assert s3.head_object(Bucket="lake", Key=f"{key}/{name}")["Metadata"] == {"md5": "1"}


def test_a_bucket_that_was_not_made_is_not_there(s3: Any) -> None:
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket="not-made", Key="x", Body=b"")
    assert code(error) == ("NoSuchBucket", 404)


def test_many_buckets(aws: EmbeddedAws, s3: Any) -> None:
    names = [f"bucket-{uuid.uuid4().hex[:8]}" for _ in range(10)]
    aws.ensure_buckets(*names)
    aws.ensure_buckets(*names)
    for name in names:
        s3.put_object(Bucket=name, Key="x", Body=b"x")
        s3.delete_object(Bucket=name, Key="x")
        s3.delete_bucket(Bucket=name)


@pytest.mark.parametrize(
    ("wrong", "says"), [("access_key", "InvalidAccessKeyId"), ("secret_key", "SignatureDoesNotMatch")]
)
def test_wrong_credentials_are_refused(aws: EmbeddedAws, wrong: str, says: str) -> None:
    keys = {"access_key": aws.server.access_key, "secret_key": aws.server.secret_key, wrong: "wrong"}
    client = Session().create_client(
        "s3",
        endpoint_url=aws.server.s3_endpoint_url,
        region_name=aws.server.region,
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
    )
    with pytest.raises(ClientError) as error:
        client.list_objects_v2(Bucket="lake")
    assert code(error) == (says, 403)


def test_space_of_deleted_objects_is_given_back_at_the_next_start(tmp_path: Path) -> None:
    def stored() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*.dat"))

    data = os.urandom(8 << 20)
    with EmbeddedAws(tmp_path, buckets=["lake"]) as aws:
        s3 = aws.client("s3")
        s3.put_object(Bucket="lake", Key="kept", Body=b"kept")
        for _ in range(4):
            s3.put_object(Bucket="lake", Key="again", Body=data)
        s3.delete_object(Bucket="lake", Key="again")
        time.sleep(4)  # the store marks what is deleted in the background
    before = stored()
    assert before > 2 * len(data)
    with EmbeddedAws(tmp_path) as aws:
        assert aws.client("s3").get_object(Bucket="lake", Key="kept")["Body"].read() == b"kept"
        assert stored() < before / 4
