"""A real S3 and a Batch that runs real jobs for the provider's tests; an Airflow of its own."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

ROOT = Path(__file__).parents[2]

# Airflow reads these when it is imported.
_home = tempfile.mkdtemp(prefix="airflow-batch-ros-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": _home,
    "AIRFLOW__CORE__DAGS_FOLDER": f"{_home}/dags",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_home}/airflow.db",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}

DAGS = Path(_home) / "dags"
DAGS.mkdir()
EXAMPLES = ROOT / "airflow_batch_ros" / "example_dags"
for _folder in (ROOT / "dags", Path(__file__).parent / "dags", EXAMPLES):
    for _file in _folder.glob("*.py"):
        shutil.copy(_file, DAGS)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """The embedded AWS, which this process' boto3 and Airflow's ``aws_default`` reach."""
    from airflow_batch_ros.local import EmbeddedAws, ServerOptions

    entrypoint = (sys.executable, str(Path(__file__).with_name("container.py")))
    options = ServerOptions(entrypoint=entrypoint, slots=4, kill_grace_s=1.0, minimum_timeout_s=1)
    with (
        EmbeddedAws(tmp_path_factory.mktemp("aws"), options=options) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in running.environment().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="session")
def s3(aws: EmbeddedAws) -> S3Client:
    client: S3Client = aws.client("s3")
    return client


@pytest.fixture(scope="session")
def batch(aws: EmbeddedAws) -> BatchClient:
    client: BatchClient = aws.client("batch")
    return client


@pytest.fixture
def bucket(s3: S3Client) -> str:
    """A new and empty bucket."""
    name = f"bucket-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def gate_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture
def gate(gate_path: Path) -> Path:
    """Jobs of the definition ``gated`` begin when there is a file here. There is none when a test begins."""
    gate_path.unlink(missing_ok=True)
    return gate_path


@pytest.fixture(scope="session")
def definitions(batch: BatchClient, gate_path: Path) -> dict[str, str]:
    """Job definitions by what their containers do: see ``container.py``."""

    def register(name: str, does: str) -> str:
        batch.register_job_definition(
            jobDefinitionName=name,
            type="container",
            containerProperties={
                "image": "ros-to-parquet",
                "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}],
                "environment": [{"name": "TEST_CONTAINER", "value": does}],
            },
            retryStrategy={"attempts": 1},
        )
        return name

    kinds: dict[str, str] = {"good": "", "hang": "hang", "oom": "exit 137", "some fail": "exit 70 for 1"}
    kinds["gated"] = f"after {gate_path}"
    return {kind: register(f"test-{kind.replace(' ', '-')}", does) for kind, does in kinds.items()}


@pytest.fixture(scope="session")
def airflow_database(aws: EmbeddedAws) -> None:
    """Airflow's metadata database."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def context() -> dict[str, Any]:
    """What a task's ``execute`` is given, without an Airflow around it; a run of its own."""
    return make_context(f"run_{next(_numbers)}")


def make_context(run_id: str, conf: dict[str, Any] | None = None) -> dict[str, Any]:
    from types import SimpleNamespace

    pushed: dict[str, Any] = {}
    instance = SimpleNamespace(
        dag_id="some_dag",
        xcom_push=lambda key, value: pushed.__setitem__(key, value),
        pushed=pushed,
    )
    return {"ti": instance, "run_id": run_id, "params": {}, "dag_run": SimpleNamespace(conf=conf or {})}
