"""Every command and every Python block of the documentation is run, or said why not; the site is built."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import jsonschema
import pytest
import yaml

from airflow_batch_ros import cli as provider_cli
from airflow_batch_ros.commands import settings
from airflow_batch_ros.conf import CONF_KEYS, conf_schema, parse_conf
from airflow_batch_ros.summary import as_dict
from ros_to_parquet import cli as engine_cli
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of
from tests.docs.workspace import RUN, Workspace, make_workspace
from tests.provider.test_drift import summary

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

ELSEWHERE: Mapping[str, str] = {
    r"source \.venv/bin/activate": "the tests are run by that environment",
    r"docker ": "tests/container builds the image and runs compose, where there is a Docker engine",
    r"aws ": "AWS's own command line",
    r"pip install": "scripts/setup, container/Dockerfile and docker/Dockerfile install both packages",
    r"uv build": "tests/provider/test_image.py builds the wheels",
    r"airflow (providers|variables|dags) ": "Airflow's own; tests/provider runs what it leads to",
    r"duckdb lake\.duckdb": "its shell is another package; test_drift.py runs the views",
    r"scripts/(ci-container|fuzz)": "CI itself, and tests/fuzz",
}
"""Commands that are not run here, by how they begin, and who does run them."""

PARSED: Mapping[str, str] = {
    r"airflow-batch-ros image (build|push)": "needs a Docker engine: tests/provider/test_image.py",
    r"airflow-batch-ros local up .*--containers": "needs a Docker engine: tests/container",
    r"ros-to-parquet extract https://": "needs another host: tests/engine/test_uris.py",
    r"ros-to-parquet catalog .* iceberg:": "needs a package: tests/engine/test_iceberg.py",
    r"ros-to-parquet extract .*--transform ": "needs packages installed: tests/engine/test_transforms.py",
}
"""Commands of ours of which only the words are held to their parser, and why."""

NOT_EVERYWHERE = ("polars", "pandas", "pyiceberg")
"""Packages of readers: a Python block that imports one is run where it is installed."""

EXIT_CODES: Mapping[str, int] = {
    r"airflow-batch-ros stack doctor": 4,  # it finds no image, and a network that is not AWS's
}
"""Of commands whose end is another than 0 here."""

BEFORE: Mapping[str, tuple[str, str]] = {"docs/mwaa.md": ("docs/aws.md", r"airflow-batch-ros stack create")}
"""Of a page that begins where another one has a command: that page, and how the command begins."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, embedded_aws: EmbeddedAws) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made"), embedded_aws)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    typed_in = made.copied(tmp_path / "typed")
    yield typed_in
    if (typed_in.folder / ".local").exists():  # a page may end with its servers up
        ended = typed_in.bash("airflow-batch-ros local down")
        assert ended.returncode == 0, ended.stdout


def first_that_fits(rules: Mapping[str, object], command: str) -> str | None:
    return next((rule for rule in rules if re.match(rule, command)), None)


def commands_of(page: str) -> Iterator[tuple[Block, str]]:
    for block in blocks_of(page):
        if block.language == "console":
            for command in block.commands:
                yield block, command
        elif block.language in ("bash", "sh"):
            yield block, block.body


def check_words(command: str) -> None:
    """Holds a command of ours to its parser."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    parser = {"ros-to-parquet": engine_cli, "airflow-batch-ros": provider_cli}[words[0]].build_parser()
    parser.parse_args(words[1:])


def check_target(command: str) -> None:
    words = shlex.split(command, comments=True)
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in commands_of(page))])
def test_commands(page: str, workspace: Workspace) -> None:
    if page in BEFORE:
        other, beginning = BEFORE[page]
        (command,) = [each for _, each in commands_of(other) if re.match(beginning, each)]
        assert workspace.bash(command).returncode == 0
    for block, command in commands_of(page):
        where = f"{page}:{block.line}: {command}"
        if first_that_fits(ELSEWHERE, command) is not None:
            continue
        if re.match(r"make\b", command):
            check_target(command)
        elif first_that_fits(PARSED, command) is not None:
            check_words(command)
        else:
            done = workspace.bash(typed(command))
            rule = first_that_fits(EXIT_CODES, command)
            expected = EXIT_CODES[rule] if rule else 0
            assert done.returncode == expected, f"{where}\n{done.stdout[-3000:]}"


def typed(command: str) -> str:
    """As a reader types it: the run is one there is, and what stays until Ctrl-C goes to the background."""
    command = re.sub(r"\bRUN\b", RUN, command)
    command = re.sub(r"(airflow-batch-ros local up)\b", r"\1 --detach", command)
    return re.sub(r" *\| *jq\b[^#|]*", "", command)


def test_no_rule_is_out_of_use() -> None:
    said = [command for page in PAGES for _, command in commands_of(page)]
    for rules in (ELSEWHERE, PARSED, EXIT_CODES):
        for rule in rules:
            assert any(re.match(rule, command) for command in said), rule


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "python" for b in blocks_of(p))])
def test_python(page: str, workspace: Workspace, tmp_path: Path) -> None:
    """The blocks of a page, one behind the other, as one program; those that are tests, by pytest."""
    blocks = [block for block in blocks_of(page) if block.language == "python" and can_be_run(block)]
    tests = [block for block in blocks if re.search(r"^def test_", block.body, re.M)]
    program = "import pyarrow as pa\nimport ros_to_parquet\n" + "\n".join(
        block.body for block in blocks if block not in tests
    )
    (tmp_path / "page.py").write_text(program)
    done = workspace.bash(f"python {tmp_path / 'page.py'}")
    assert done.returncode == 0, f"{page}\n{done.stdout[-3000:]}"
    if not tests:
        return
    for number, block in enumerate(tests):
        for name, text in files_of(block, number).items():
            (tmp_path / name).write_text(text)
    done = workspace.bash(f"cd {tmp_path} && python -m pytest -q -p no:cacheprovider")
    assert done.returncode == 0, f"{page}\n{done.stdout[-3000:]}"
    assert f"{len(tests)} passed" in done.stdout


def can_be_run(block: Block) -> bool:
    imported = re.findall(r"^(?:import|from) (\w+)", block.body, re.M)
    return all(importlib.util.find_spec(name) for name in imported if name in NOT_EVERYWHERE)


def files_of(block: Block, number: int) -> dict[str, str]:
    """By the comments that name them."""
    parts = re.split(r"^# (\w+\.py)\n", block.body, flags=re.M)
    return (
        {f"test_{number}.py": block.body}
        if len(parts) == 1
        else dict(zip(parts[1::2], parts[2::2], strict=True))
    )


@pytest.mark.parametrize("page", PAGES)
def test_confs_and_settings(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "json":
            said = json.loads(block.body)
            if "drives_to_process" in said:
                parse_conf(said)
        elif block.language == "yaml" and "# airflow-batch-ros.yaml" in block.body:
            assert set(yaml.safe_load(block.body)) <= {*settings.NAMES, "tags"}


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "sql" for b in blocks_of(p))])
def test_queries(page: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    monkeypatch.chdir(workspace.folder)
    for block in blocks_of(page):
        if block.language == "sql":
            found = duckdb.sql(block.body)
            assert found is not None
            assert found.fetchall(), block


# --- the reference of the conf ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    loader = SourceFileLoader("conf_reference", str(ROOT / "scripts" / "conf-reference"))
    spec = importlib.util.spec_from_loader("conf_reference", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_reference_is_of_the_schema(workspace: Workspace) -> None:
    done = workspace.bash(f"python {ROOT / 'scripts' / 'conf-reference'} --check")
    assert done.returncode == 0, done.stdout


def test_every_key_has_an_example_that_is_taken(reference: ModuleType) -> None:
    assert list(reference.EXAMPLES) == list(CONF_KEYS)
    jsonschema.validate(reference.EXAMPLES, conf_schema())
    drives = {"drives_to_process": reference.EXAMPLES["drives_to_process"]}
    for key, value in reference.EXAMPLES.items():
        parse_conf({**drives, key: value})


# --- what tasks return ------------------------------------------------------------------------------


def test_the_table_of_the_summary_has_each_key_of_it() -> None:
    section = (ROOT / "docs" / "dags.md").read_text().partition("## The summary\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    told = as_dict([summary(1)])
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(told["drives"][0])
    totals = section.partition("`totals` has")[2]
    assert set(told["totals"]) == set(re.findall(r"`(\w+)`", totals))


# --- the site ---------------------------------------------------------------------------------------


def test_the_site_is_built(tmp_path: Path) -> None:
    """Strictly: every page is in the navigation, every link and anchor leads somewhere."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--quiet",
            "--strict",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    fetched = re.findall(r'(?:src|href)="(https?:[^"]+)"[^>]*(?:rel="stylesheet"|></script>)', page)
    assert not fetched, "a reader's browser asks nobody else"
