"""``airflow-batch-ros image`` with a stand-in for Docker that writes down what it is asked; and the wheel."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batch_ros import cli
from airflow_batch_ros.image.context import build_context
from airflow_batch_ros.stack import deploy, outputs

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_batch_ros.local import EmbeddedAws

ROOT = Path(__file__).parents[2]
REGION = "us-east-1"
DIGEST = f"sha256:{'a1' * 32}"

ENGINE = f"""#!{sys.executable}
import json, os, pathlib, sys
words, folder = sys.argv[1:], pathlib.Path({{folder!r}})
config = pathlib.Path(os.environ.get("DOCKER_CONFIG", folder))
asked = {{{{"words": words, "input": sys.stdin.read(), "config": str(config)}}}}
asked["configuration"] = json.loads((config / "config.json").read_text()) if words[0] == "login" else None
with (folder / "asked").open("a") as file:
    file.write(json.dumps(asked) + chr(10))
pushed = folder / "pushed"
if words[0] == "push":
    print("progress of the push")
    pushed.write_text(words[-1].rpartition(":")[0].removeprefix("docker.io/") + "@{DIGEST}")
if words[:2] == ["image", "inspect"]:
    digests = [pushed.read_text()] if pushed.exists() else []
    print(json.dumps([{{{{"Architecture": "amd64", "Size": 1_000_000, "RepoDigests": digests}}}}]))
if words[0] in os.environ.get("FAILS", "").split():
    print("told to fail", file=sys.stderr)
    sys.exit(1)
"""


class Docker:
    """The stand-in: its folder is on the path, and says what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command("docker")

    def _command(self, name: str) -> None:
        path = self._folder / name
        path.write_text(ENGINE.format(folder=str(self._folder)))
        path.chmod(0o755)

    def asked(self, verb: str) -> list[dict[str, Any]]:
        lines = (self._folder / "asked").read_text().splitlines()
        return [each for each in map(json.loads, lines) if each["words"][0] == verb]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("EXTRA_PACKAGES", "PIP_PACKAGES"):
        monkeypatch.delenv(name, raising=False)
    return Docker(folder)


def image(*words: str) -> int:
    return cli.main(["image", *words])


def test_the_wheel_carries_the_build_context(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")  # of the development's environment, not of other Airflow versions
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    found = subprocess.run(
        [
            *(sys.executable, "-c"),
            "from airflow_batch_ros.image.context import build_context; print(build_context())",
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    context = Path(found.stdout.strip())
    assert context == tmp_path / "site" / "airflow_batch_ros" / "_container"
    tracked = {
        path.relative_to(ROOT / "container")
        for path in (ROOT / "container").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    carried = {path.relative_to(context) for path in context.rglob("*") if path.is_file()}
    assert carried == tracked
    copied = {"Dockerfile", ".dockerignore", "pyproject.toml", "requirements.lock", "requirements-build.lock"}
    copied.add("check.py")
    assert copied <= {str(path) for path in carried}


def test_build_in_a_checkout(docker: Docker, capfd: pytest.CaptureFixture[str]) -> None:
    assert build_context() == ROOT / "container"
    assert image("build") == 0
    said = capfd.readouterr()
    assert said.out == "ros-to-parquet:0.1.0\n"
    assert "1 MB, linux/amd64" in said.err
    (asked,) = docker.asked("build")
    context = asked["words"][-1]
    assert not Path(context).exists()
    assert asked["words"] == [
        "build", "--tag", "ros-to-parquet:0.1.0", "--build-arg", "VERSION=0.1.0", context,
    ]  # fmt: skip


def test_what_is_built_in(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTRA_PACKAGES", " tree ")
    monkeypatch.setenv("PIP_PACKAGES", "not-this")
    words = ("--pip-packages", "humanize>=4", "tabulate", "--platform", "linux/arm64", "--tag", "mine:1")
    more = ("--base-image", "registry.example/python:3.12", "--build-arg", "REVISION=abc=1", "--pull")
    assert image("build", *words, *more) == 0
    (asked,) = docker.asked("build")
    arguments = asked["words"]
    given = {arguments[place + 1] for place, word in enumerate(arguments) if word == "--build-arg"}
    assert given == {
        "VERSION=0.1.0",
        "EXTRA_PACKAGES=tree",
        "PIP_PACKAGES=humanize>=4 tabulate",
        "BASE_IMAGE=registry.example/python:3.12",
        "REVISION=abc=1",
    }
    assert arguments[arguments.index("--platform") + 1] == "linux/arm64"
    assert "--pull" in arguments


@pytest.mark.parametrize(
    ("fails", "words", "said"),
    [
        ("version", ("build",), "docker does not answer: told to fail; there is no command podman"),
        ("", ("build", "--engine", "podman"), "there is no command podman"),
        ("build", ("build", "--platform", "linux/arm64"), "could not be built, as docker says above; if"),
        ("", ("build", "--build-arg", "x"), "--build-arg x: KEY=VALUE is expected"),
        ("image", ("push", "--to", "host/x"), "docker has no image ros-to-parquet:0.1.0: airflow-batch-ros"),
        ("push", ("push", "--to", "host/x"), "docker login host"),
        ("", ("push", "--to", "host/x", "--update"), "--update: of which stack?"),
        ("", ("push", "--to", "host/x@sha256:1"), "REPOSITORY or REPOSITORY:TAG is expected"),
    ],
)
def test_what_is_wrong_is_said(
    docker: Docker,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fails: str,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setenv("FAILS", fails)
    assert image(*words) == (2 if "KEY=VALUE" in said or "--update" in said else 4)
    assert said in capfd.readouterr().err


def test_without_any_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert image("build") == 4
    said = capfd.readouterr().err
    assert "there is no command docker; there is no command podman. Install Docker or Podman" in said


@pytest.mark.parametrize(
    ("to", "remote"),
    [
        ("localhost:5000/team/x", "localhost:5000/team/x:0.1.0"),
        ("registry.example/x:two", "registry.example/x:two"),
        ("team/x", "team/x:0.1.0"),
        ("docker.io/team/x", "docker.io/team/x:0.1.0"),
    ],
)
def test_push_to_any_repository(
    docker: Docker, capfd: pytest.CaptureFixture[str], to: str, remote: str
) -> None:
    assert image("push", "--to", to) == 0
    said = capfd.readouterr()
    assert said.out == f"{remote.rpartition(':')[0]}@{DIGEST}\n"
    assert "progress of the push" in said.err
    (asked,) = docker.asked("push")
    assert asked["words"] == ["push", remote]
    assert [each["words"] for each in docker.asked("tag")] == [["tag", "ros-to-parquet:0.1.0", remote]]
    assert docker.asked("login") == []


@pytest.mark.airflow
def test_push_to_a_stack(
    aws: EmbeddedAws,
    s3: S3Client,
    bucket: str,
    docker: Docker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Logged in by ECR's token, for this push alone; then the stack's job definitions have the digest."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    (tmp_path / ".docker" / "contexts").mkdir(parents=True)
    own = {"auths": {"elsewhere": {"auth": "x"}}, "credsStore": "desktop", "currentContext": "far"}
    (tmp_path / ".docker" / "config.json").write_text(json.dumps(own))
    assert image("push", "--stack", "no-such-stack") == 4
    assert "there is no stack no-such-stack in us-east-1" in capfd.readouterr().err

    name = f"image-{bucket}"
    options = ("--source", f"s3://{bucket}/", "--output", f"s3://{bucket}/lake", "--network", "nat")
    assert cli.main(["stack", "create", name, *options, "--platform", "FARGATE"]) == 0
    cloudformation = aws.client("cloudformation")
    repository = outputs.read_outputs(cloudformation, name)["RepositoryUri"]
    capfd.readouterr()

    assert image("push", "--stack", name) == 0
    pushed = f"{repository}@{DIGEST}"
    said = capfd.readouterr()
    assert said.out == f"{pushed}\n"
    assert f"next: airflow-batch-ros stack create {name} --image {pushed}" in said.err
    (logged_in,) = docker.asked("login")
    registry = repository.partition("/")[0]
    assert logged_in["words"] == ["login", "--username", "AWS", "--password-stdin", registry]
    token = aws.client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    assert (user, logged_in["input"]) == ("AWS", password)
    assert logged_in["configuration"] == {"currentContext": "far", "auths": {registry: {}}}
    (push,) = docker.asked("push")
    assert push["words"] == ["push", f"{repository}:0.1.0"]
    assert push["config"] == logged_in["config"] != str(tmp_path / ".docker")
    assert not Path(push["config"]).exists()
    assert json.loads((tmp_path / ".docker" / "config.json").read_text()) == own
    everything = [each["words"] for verb in ("login", "push", "tag", "image") for each in docker.asked(verb)]
    assert password not in f"{everything} {said.out} {said.err}"

    assert image("push", "--stack", name, "--update") == 0
    made = outputs.read_outputs(cloudformation, name)
    assert made["ImageUri"] == pushed
    batch = aws.client("batch")
    (definition,) = batch.describe_job_definitions(jobDefinitions=[made["JobDefinitionArn"]])[
        "jobDefinitions"
    ]
    assert definition["containerProperties"]["image"] == pushed
    assert image("push", "--stack", name) == 0
    assert f"stack update {name} --image {pushed}" in capfd.readouterr().err

    assert cli.main(["stack", "update", name, "--architecture", "ARM64"]) == 0
    capfd.readouterr()
    assert image("push", "--stack", name) == 4
    assert "runs jobs on linux/arm64: airflow-batch-ros image build --platform" in capfd.readouterr().err
    monkeypatch.setenv("FAILS", "login")
    assert cli.main(["stack", "update", name, "--architecture", "X86_64"]) == 0
    assert image("push", "--stack", name) == 4
    assert f"{registry} refuses the login: told to fail" in capfd.readouterr().err
    assert cli.main(["stack", "delete", name]) == 0


def test_the_newest_image_is_one_with_a_tag() -> None:
    """Of an index the parts are in the repository too, pushed at the same time."""

    class Ecr:
        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self, repositoryName: str) -> Any:  # noqa: N803 (boto3's name)
            tagged = {"imageDigest": "sha256:index", "imagePushedAt": 1, "imageTags": ["0.1.0"]}
            return [{"imageDetails": [tagged, {"imageDigest": "sha256:part", "imagePushedAt": 2}]}]

    stack: Any = {"Outputs": [{"OutputKey": "RepositoryUri", "OutputValue": "host/x"}]}
    ecr: Any = Ecr()
    assert deploy.newest_image(ecr, stack) == "host/x@sha256:index"
