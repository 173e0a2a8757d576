"""Parquet writers over a storage that fails."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ros_to_parquet import parquet
from ros_to_parquet.storage import LocalStorage, LocalUpload, NotFoundError, StorageError, TransientError

SCHEMA = pa.schema([pa.field("x", pa.int64(), nullable=False)])


class FailingUpload(LocalUpload):
    """Fails to write, publish or end where its name says so."""

    def native(self) -> pa.NativeFile:
        return pa.OSFile("/dev/full", "wb") if "disk-full" in self.uri else super().native()

    def write(self, data: Any) -> int:
        if "write-fails" in self.uri:
            raise TransientError(f"{self.uri}: SlowDown")
        return super().write(data)

    def publish(self, *, exclusive: bool = False) -> None:
        if "publish-fails" in self.uri:
            raise TransientError(f"{self.uri}: SlowDown")
        super().publish(exclusive=exclusive)

    def abort(self) -> None:
        super().abort()
        if "abort-fails" in self.uri:
            raise StorageError(f"{self.uri}: cannot be ended")


class FailingStorage(LocalStorage):
    def upload(self, uri: str) -> LocalUpload:
        return FailingUpload(uri)


@pytest.mark.filterwarnings("error")  # what a writer does when it is collected raises nowhere else
@pytest.mark.parametrize(
    ("failing", "files_of_arrow", "problem"),
    [
        ("write-fails", 0, "write-fails: SlowDown"),
        ("publish-fails", 0, "publish-fails: SlowDown"),
        ("publish-fails", 64, "publish-fails: SlowDown"),
        pytest.param(
            "disk-full",
            64,
            "disk-full: No space left on device$",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux"),
        ),
    ],
)
def test_a_failed_step_ends_every_upload_and_is_what_is_raised(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    files_of_arrow: int,
    problem: str,
) -> None:
    monkeypatch.setattr(parquet, "_MOST_NATIVE", files_of_arrow)
    names = ["first", "abort-fails", failing, "last"]
    with (
        pytest.raises(StorageError, match=problem),
        parquet.TableWriters(FailingStorage(), str(tmp_path)) as tables,
    ):
        for name in names:
            tables.open(name, SCHEMA, {})
            tables.append(name, pa.record_batch([parquet.int64_column(np.arange(3))], SCHEMA))
        tables.finish()
        tables.publish()
    del tables
    gc.collect()
    assert {path.name for path in tmp_path.iterdir()} <= {"first", "abort-fails", "last"}
    assert "upload_not_ended" in capsys.readouterr().err


def test_a_file_that_somebody_has_swept_is_not_made_again(tmp_path: Path) -> None:
    upload = LocalStorage().upload(str(tmp_path / "a.parquet"))
    (partial,) = tmp_path.iterdir()
    partial.unlink()
    with pytest.raises(NotFoundError):
        upload.native()
    assert not list(tmp_path.iterdir())
