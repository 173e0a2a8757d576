"""The boundaries between the packages, as checks that fail: by reading the sources, and by importing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROVIDER = ROOT / "airflow_batch_ros"
ENGINE = ROOT / "container" / "ros_to_parquet"
CONTRACT = ENGINE / "contract"
DAGS = ROOT / "dags"

STANDARD_LIBRARY = sys.stdlib_module_names


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute module name of every import in a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    assert paths
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in paths
        for line, module in imports(path)
        if module.split(".")[0] in forbidden
    ]


def test_the_provider_never_imports_the_engines_libraries() -> None:
    heavy = ("pyarrow", "numpy", "rosbags", "awkward", "awkward_cpp", "pandas", "lz4", "zstandard")
    assert offenders(sorted([*PROVIDER.rglob("*.py"), *DAGS.rglob("*.py")]), *heavy) == []


def test_the_engine_never_imports_airflow() -> None:
    assert offenders(sorted(ENGINE.rglob("*.py")), "airflow", "airflow_batch_ros") == []


def test_the_commands_never_import_airflow() -> None:
    modules = (
        "allowed",
        "arrivals",
        "assets",
        "clients",
        "conf",
        "fanout",
        "jobs",
        "lake",
        "lease",
        "plan",
        "runs",
        "status",
        "summary",
        "waiting",
    )
    folders = ("commands", "image", "stack")
    paths = [PROVIDER / f"{name}.py" for name in modules]
    paths += [path for folder in folders for path in (PROVIDER / folder).glob("*.py")]
    in_airflow = ("app.py", "places.py", "plugin.py")
    paths += [path for path in (PROVIDER / "drives_page").glob("*.py") if path.name not in in_airflow]
    assert offenders(sorted(paths), "airflow") == []


def test_the_provider_uses_nothing_of_the_engine_but_the_contract() -> None:
    allowed = {
        "ros_to_parquet",
        "ros_to_parquet.__version__",
        "ros_to_parquet.contract",
        "ros_to_parquet.standard_output",
        "ros_to_parquet.sync_conf",
    }
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted([*PROVIDER.rglob("*.py"), *DAGS.rglob("*.py")])
        for line, module in imports(path)
        if module.split(".")[0] == "ros_to_parquet"
        and module not in allowed
        and not module.startswith(tuple(f"{each}." for each in allowed - {"ros_to_parquet"}))
    ]
    assert found == []


def test_the_contract_is_standard_library_only() -> None:
    beside = ("sync_conf", "standard_output", "__init__")
    found = [
        module
        for path in (*CONTRACT.glob("*.py"), *(ENGINE / f"{name}.py" for name in beside))
        for _, module in imports(path)
        if module.split(".")[0] not in STANDARD_LIBRARY
        and module not in ("ros_to_parquet", "ros_to_parquet.__version__")
        and not module.startswith(("ros_to_parquet.lake", "ros_to_parquet.contract"))
    ]
    assert found == []


@pytest.mark.parametrize("package", [CONTRACT, ENGINE / "lake"], ids=lambda package: package.name)
def test_which_module_of_a_package_has_a_name_is_its_own_affair(package: Path) -> None:
    modules = {f"ros_to_parquet.{package.name}.{path.stem}" for path in package.glob("*.py")}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for folder in (PROVIDER, DAGS, ENGINE)
        for path in sorted(folder.rglob("*.py"))
        if package not in path.parents
        for line, module in imports(path)
        if module in modules
    ]
    assert found == []


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import ros_to_parquet.contract", ["numpy", "pyarrow", "boto3", "rosbags"]),
        (
            "import ros_to_parquet.cli; ros_to_parquet.cli.build_parser()",
            ["numpy", "pyarrow", "boto3", "rosbags"],
        ),
        (
            "import ros_to_parquet.run, ros_to_parquet.local_plan, ros_to_parquet.progress",
            [
                "awkward",
                "boto3",
                "fsspec",
                "google.protobuf",
                "pandas",
                "rosbags",
                "sqlite3",
                "tqdm",
                "urllib.request",
            ],
        ),
        ("import airflow_batch_ros.cli", ["airflow", "boto3", "moto"]),
        ("import airflow_batch_ros.drives_page.plugin", ["boto3", "fastapi"]),
        ("import airflow_batch_ros.local", ["airflow"]),
        (
            "import airflow_batch_ros.fanout, airflow_batch_ros.status, airflow_batch_ros.clients",
            ["airflow", "pyarrow", "numpy"],
        ),
        ("import airflow_batch_ros.conf, airflow_batch_ros.plan", ["airflow", "pyarrow", "numpy", "rosbags"]),
    ],
)
def test_what_an_import_brings_along(statement: str, unwanted: list[str]) -> None:
    code = f"import sys\n{statement}\nprint([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
