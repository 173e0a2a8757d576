"""Who has a drive: processes of the command line that are alive, and dead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ros_to_parquet
from ros_to_parquet import contract, process_id, run
from ros_to_parquet.contract import ExitCode, ExtractOptions, Plan
from ros_to_parquet.errors import ShardError
from ros_to_parquet.local_plan import make_plan
from ros_to_parquet.storage import open_storage
from tests.engine.sample_bags import write_bag

HOLD = """
import sys
from ros_to_parquet.contract import ExtractOptions
from ros_to_parquet.local_plan import make_plan

wanted = {"drive_id": "d", "options": ExtractOptions(), "overwrite": False, "take_over": False}
make_plan([sys.argv[1]], output=sys.argv[2], **wanted)
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    write_bag(tmp_path / "a.bag", messages=3)
    return tmp_path / "a.bag"


@pytest.fixture
def holder(tmp_path: Path, bag: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lease of the drive."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(bag), str(tmp_path / "lake")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "taken\n"
    yield child
    child.kill()
    child.communicate()


def plan_of(bag: Path, **options: Any) -> Plan:
    given: dict[str, Any] = {"options": ExtractOptions(), "overwrite": False, "take_over": False}
    return make_plan([str(bag)], output=str(bag.parent / "lake"), drive_id="d", **(given | options))


OTHERS = {"the same": {}, "another": {"options": ExtractOptions(exclude_topics=("/status",))}}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_a_live_process_is_named_and_a_dead_one_loses_its_lease(
    bag: Path, holder: subprocess.Popen[str], options: dict[str, Any]
) -> None:
    said = rf"drive d: run 'extract-\w+' of the command line has it since .* \(process {holder.pid} on "
    with pytest.raises(ShardError, match=said) as caught:
        plan_of(bag, **options)
    assert caught.value.exit_code is ExitCode.PLAN_REFUSED
    holder.kill()
    holder.wait()
    run.run_shard(plan_of(bag, **options), 0, run.JobIdentity("", 1, ""))
    lake = ros_to_parquet.open(str(bag.parent / "lake"))
    assert lake.dataset("imu.data").count_rows() == 3
    assert not (bag.parent / "lake" / contract.lease_key("d")).exists()


def test_a_live_process_loses_it_to_whoever_says_so(bag: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.poll() is None
    plan = plan_of(bag, take_over=True)
    run.check_lease(open_storage(plan.output), plan)


def test_processes_are_known_by_more_than_their_number() -> None:
    own = process_id.own()
    assert process_id.is_alive(own)
    assert process_id.is_alive(own[:-1] + ("1" if own[-1] == "0" else "0")) is False, "its number given again"
    host, _, rest = own.partition(" ")
    assert process_id.is_alive(f"other-{host} {rest}") is None
    assert process_id.is_alive("") is None
