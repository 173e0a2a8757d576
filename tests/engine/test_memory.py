"""The memory limit: what is asked for, what a container leaves, and how it is shared out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ros_to_parquet import memory
from ros_to_parquet.cli import main
from ros_to_parquet.contract import ExitCode
from ros_to_parquet.memory import (
    DEFAULT_BUDGET,
    DEFAULT_LIMIT_BYTES,
    IMPORT_BYTES,
    LEAST_LIMIT_BYTES,
    VARIABLE,
    MemoryLimitError,
    choose_limit,
    container_memory,
    parse_limit,
    parse_size,
    share_out,
)

GIB, MIB = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("268435456", 268_435_456),
        ("512MiB", 512 * MIB),
        ("512mib", 512 * MIB),
        ("2G", 2_000_000_000),
        ("2gb", 2_000_000_000),
        ("2 Gi", 2 * GIB),
        ("1.5GiB", 1536 * MIB),
        ("300000k", 300_000_000),
        ("1T", 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == parse_limit(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "5i", "1GiBs", "1e9", "0x10", "1 2"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(MemoryLimitError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "127MiB", "134M"])
def test_a_limit_that_is_too_small(text: str) -> None:
    with pytest.raises(MemoryLimitError, match=f"{text} is too small: 128MiB is the least"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("given", "environment", "container", "limit", "note"),
    [
        (None, {}, None, GIB, ""),
        (None, {}, 8 * GIB, GIB, ""),
        ("2GiB", {VARIABLE: "512MiB"}, None, 2 * GIB, ""),
        (None, {VARIABLE: "512MiB"}, 8 * GIB, 512 * MIB, ""),
        (None, {VARIABLE: ""}, None, GIB, ""),
        ("2GiB", {}, 2 * GIB, 2 * GIB, "the container has 2048MiB in all"),
        (None, {}, GIB, 960 * MIB - IMPORT_BYTES, "from the container, which has 1024MiB in all"),
        (None, {}, 200 * MIB, LEAST_LIMIT_BYTES, "the least there is; from the container, which has 200MiB"),
    ],
)
def test_which_limit_holds(
    given: str | None, environment: dict[str, str], container: int | None, limit: int, note: str
) -> None:
    chosen = choose_limit(given, environment, container)
    assert chosen.limit_bytes == limit
    assert chosen.note.startswith(note) and bool(chosen.note) == bool(note)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "1073741824\n"}, GIB),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/a/b\n", {"a/memory.max": "5000", "a/b/memory.max": "max"}, 5000),
        ("0::/a/b\n", {"a/memory.max": "5000", "a/b/memory.max": "6000"}, 5000),
        ("0::/not/seen/in/here\n", {"memory.max": "7000"}, 7000),
        (
            "9:name=systemd:/\n4:memory:/docker/1f\n0::/\n",
            {"memory/memory.limit_in_bytes": "536870912"},
            512 * MIB,
        ),
        ("4:cpu,memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_what_a_container_may_take(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    root = tmp_path / "cgroup"
    (tmp_path / "self").write_text(groups)
    for name, said in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(said)
    assert container_memory(tmp_path / "self", root) == limit


def test_no_control_groups(tmp_path: Path) -> None:
    assert container_memory(tmp_path / "none") is None


@pytest.mark.parametrize("limit_bytes", [LEAST_LIMIT_BYTES, 256 * MIB, DEFAULT_LIMIT_BYTES, 16 * GIB])
def test_shares_leave_room(limit_bytes: int) -> None:
    budget = share_out(limit_bytes)
    ranges = 6 * budget.window  # an S3 source keeps some
    reading = ranges + 4 * budget.chunk + 2 * budget.joined + budget.read_ahead
    decoding = 1.5 * (budget.pending + budget.take + budget.block)
    writing = budget.waiting + 1.5 * budget.in_flight + 1.25 * budget.upload
    assert reading + decoding + writing <= 0.75 * limit_bytes
    assert 3 * budget.message <= 0.75 * limit_bytes
    assert budget.message == limit_bytes // 4
    assert budget.take <= budget.block <= budget.row_group <= budget.in_flight
    assert budget.window <= budget.chunk <= budget.large <= budget.message


def test_the_shares_of_the_default() -> None:
    """What speed was measured with."""
    assert dataclasses.asdict(DEFAULT_BUDGET) == {
        "limit": GIB,
        "message": 256 * MIB,
        "large": 32 * MIB,
        "chunk": 32 * MIB,
        "window": 8 * MIB,
        "block": 16 * MIB,
        "joined": 16 * MIB,
        "read_ahead": 8 * MIB,
        "take": 4 * MIB,
        "pending": 16 * MIB,
        "row_group": 32 * MIB,
        "waiting": 32 * MIB,
        "in_flight": 64 * MIB,
        "upload": 128 * MIB,
        "alone": 832 * MIB,
        "tables": 768 * MIB,
        "files": 32 * MIB,
        "pictures": 256 * MIB,
        "videos": 384 * MIB,
    }


@pytest.mark.parametrize(("limit", "said"), [("lots", "is no size"), ("1MiB", "128MiB is the least")])
def test_a_limit_that_cannot_be_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str, said: str
) -> None:
    code = main(["extract", str(tmp_path), "--output", str(tmp_path / "lake"), "--memory-limit", limit])
    assert code == ExitCode.USAGE and said in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()


def test_a_small_container_is_said_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "container_memory", lambda: GIB)
    monkeypatch.delenv(VARIABLE, raising=False)
    main(["extract", str(tmp_path), "--output", str(tmp_path / "lake")])
    assert (
        '"event": "memory_limit", "limit": "832MiB", "note": "from the container' in capsys.readouterr().err
    )
