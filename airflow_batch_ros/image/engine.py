"""Docker or Podman, as a command. What it prints meanwhile goes to stderr, so that stdout is for results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENGINES = ("docker", "podman")

_ANSWERS: Mapping[str, tuple[str, ...]] = {
    "docker": ("version", "--format", "{{.Server.Version}}"),
    "podman": ("info", "--format", "{{.Version.Version}}"),
}
"""What an engine answers that is there."""

_OWN_LOGIN = ("auths", "credsStore", "credHelpers")
"""Of Docker's configuration."""


class ImageError(RuntimeError):
    """An image that cannot be built or pushed; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Docker or Podman.

    Attributes:
        name: one of `ENGINES`, whose ways differ a little.
        path: of the command.
    """

    name: str
    path: str

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> bool:
        """Runs a command whose output goes to stderr as it comes; whether it went well."""
        sys.stderr.flush()
        done = subprocess.run(
            [self.path, *words],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env={**os.environ, **(environment or {})},
            check=False,
        )
        return done.returncode == 0

    def ask(
        self, *words: str, text: str | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command for its output, with ``text`` on its standard input."""
        return subprocess.run(
            [self.path, *words],
            input=text or "",
            capture_output=True,
            text=True,
            env={**os.environ, **(environment or {})},
            check=False,
        )


def find_engine(name: str | None) -> Engine:
    """The engine of that name, else the first of `ENGINES` that answers.

    Raises:
        ImageError: there is none, or it does not answer.
    """
    problems = []
    for candidate in (name,) if name else ENGINES:
        path = shutil.which(candidate)
        if path is None:
            problems.append(f"there is no command {candidate}")
            continue
        engine = Engine(candidate, path)
        answer = engine.ask(*_ANSWERS[candidate])
        if answer.returncode == 0:
            return engine
        problems.append(f"{candidate} does not answer: {last_line(answer.stderr)}")
    raise ImageError(
        f"no engine to build images with: {'; '.join(problems)}. Install Docker or Podman, or start it, or "
        "build where it is"
    )


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


@contextmanager
def login(engine: Engine, registry: str, user: str, password: str) -> Iterator[Mapping[str, str]]:
    """Logs in to a registry; the environment in which the engine is, then.

    The password goes over standard input into a folder that is removed afterwards: the user's own logins
    stay as they are.

    Raises:
        ImageError: the registry refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="airflow-batch-ros-") as folder:
        if engine.name == "docker":
            _copy_configuration(Path(folder), registry)
            environment = {"DOCKER_CONFIG": folder}
        else:
            environment = {"REGISTRY_AUTH_FILE": str(Path(folder, "auth.json"))}
        words = ("login", "--username", user, "--password-stdin", registry)
        done = engine.ask(*words, text=password, environment=environment)
        if done.returncode:
            raise ImageError(f"{registry} refuses the login: {last_line(done.stderr)}")
        yield environment


def _copy_configuration(folder: Path, registry: str) -> None:
    """Docker's configuration without its logins: contexts, plugins and proxies are needed all the same."""
    own = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    settings = {}
    if (own / "config.json").is_file():
        settings = json.loads((own / "config.json").read_text("utf-8"))
    kept = {key: value for key, value in settings.items() if key not in _OWN_LOGIN}
    # With no login at all, docker would keep this one in the user's own store of secrets.
    (folder / "config.json").write_text(json.dumps({**kept, "auths": {registry: {}}}), "utf-8")
    for name in ("contexts", "cli-plugins"):
        if (own / name).is_dir():
            (folder / name).symlink_to((own / name).resolve())


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image that the engine has.

    Attributes:
        architecture: ``amd64`` or ``arm64``, as image registries call them.
        digests: ``repository@sha256:...`` of where it was pushed to or pulled from.
    """

    architecture: str
    size_bytes: int
    digests: Sequence[str]


def inspect(engine: Engine, reference: str) -> LocalImage | None:
    """The image of that name or id; None where there is none."""
    done = engine.ask("image", "inspect", reference)
    if done.returncode:
        return None
    (found,) = json.loads(done.stdout)
    return LocalImage(found["Architecture"], int(found["Size"]), found.get("RepoDigests") or ())


def push(
    engine: Engine, local: str, repository: str, tag: str, environment: Mapping[str, str] | None = None
) -> str:
    """Pushes the image ``local`` as ``repository:tag``; ``repository@sha256:...``.

    Raises:
        ImageError: it could not be pushed.
    """
    remote = f"{repository}:{tag}"
    before = _digests(engine, local, repository)
    tagged = engine.ask("tag", local, remote)
    if tagged.returncode:
        raise ImageError(f"{local} cannot be tagged as {remote}: {last_line(tagged.stderr)}")
    with tempfile.TemporaryDirectory(prefix="airflow-batch-ros-") as folder:
        file = Path(folder, "digest")
        words = ("--digestfile", str(file)) if engine.name == "podman" else ()
        if not engine.run("push", *words, remote, environment=environment):
            registry = repository.partition("/")[0]
            raise ImageError(
                f"{remote} could not be pushed, as {engine.name} says above. Where {registry} wants a login: "
                f"{engine.name} login {registry}"
            )
        if engine.name == "podman":
            return f"{repository}@{file.read_text().strip()}"
    after = _digests(engine, remote, repository)
    found = [each for each in after if each not in before] or after
    if len(found) != 1:
        raise ImageError(
            f"{remote} is pushed, but Docker knows {len(found)} digests of it ({', '.join(found)}): look for "
            "the one in the registry, and give it to airflow-batch-ros stack update --image"
        )
    return found[0]


def _digests(engine: Engine, reference: str, repository: str) -> list[str]:
    image = inspect(engine, reference)
    known = _familiar(repository)
    digests = [each.partition("@") for each in image.digests] if image else []
    return [f"{repository}@{digest}" for name, _, digest in digests if _familiar(name) == known]


def _familiar(repository: str) -> str:
    """As Docker calls it, which leaves out its own registry however that was written."""
    return repository.removeprefix("index.").removeprefix("docker.io/").removeprefix("library/")
