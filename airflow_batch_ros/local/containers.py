"""Runs attempts of Batch jobs as containers of a Docker engine, with what Batch would give and forbid them.

Of the engine's own limits: memory with no swap beside it, CPU time, no capability, no new privilege. Their
only network is one without a way out, on which the embedded AWS is: nothing else can be reached.

What it starts carries the label `OWNER_LABEL`. It is removed when an attempt ends; what a server that was
killed leaves behind, a watchdog of its own removes at once, or the next server over the same folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from airflow_batch_ros.local.runners import MAX_LINE_BYTES, CannotStartError, ContainerSpec, Exit, Launch
from airflow_batch_ros.local.state import ContainerOptions, LocalAwsError

if TYPE_CHECKING:
    from docker.client import DockerClient
    from docker.models.containers import Container

OWNER_LABEL = "airflow-batch-ros.owner"
JOB_LABEL = "airflow-batch-ros.job"
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
"""As ECS words it, and with it Batch."""


class ContainerRunner:
    """Starts containers on one network; `close` removes all that is left, also after a crash.

    Args:
        owner: of all containers and networks that are made; what it has already is removed first.

    Raises:
        LocalAwsError: no Docker engine answers, or there is no such network or image.
    """

    def __init__(self, options: ContainerOptions, *, owner: str) -> None:
        self._owner = owner
        with _told("the Docker engine (is it running, and may this user ask it?)"):
            self._docker = _client()
            remove_all(self._docker, owner)
            self._cpus = int(self._docker.info()["NCPU"])
        with _told(f"image {options.image!r} (build it: docker build --tag {options.image} container)"):
            self._docker.images.get(options.image)
        with _told(f"network {options.network or 'of the jobs'!r}"):
            if options.network:
                self._network = self._docker.networks.get(options.network).name or options.network
                self.host = options.host
            else:
                self._network, self.host = self._make_network()
        # It sees this process end, however it does, by the end of its input.
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "airflow_batch_ros.local.containers", owner],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _make_network(self) -> tuple[str, str]:
        """An internal network, and this machine's address on it."""
        network = self._docker.networks.create(
            f"airflow-batch-ros-{self._owner}", internal=True, labels={OWNER_LABEL: self._owner}
        )
        network.reload()
        return str(network.name), str(network.attrs["IPAM"]["Config"][0]["Gateway"])

    def start(self, launch: Launch) -> ContainerExecution:
        from docker.errors import DockerException, ImageNotFound

        if launch.container.beyond:
            raise CannotStartError(
                f"CannotCreateContainerError: not given here: {', '.join(launch.container.beyond)}"
            )
        try:
            container = self._create(launch)
        except ImageNotFound as error:
            raise CannotStartError(
                f"CannotPullContainerError: no image {launch.container.image} on this machine, and none is "
                "pulled here: build it, or pull it"
            ) from error
        except DockerException as error:
            raise CannotStartError(f"CannotCreateContainerError: {error}") from error
        try:
            output = container.attach(stream=True, demux=True)  # before the start: no line is missed
            container.start()
        except (DockerException, OSError) as error:
            _remove(container)
            raise CannotStartError(f"CannotStartContainerError: {error}") from error
        return ContainerExecution(container, output)

    def _create(self, launch: Launch) -> Container:
        from docker.types import Mount

        asked: ContainerSpec = launch.container
        return self._docker.containers.create(
            asked.image,
            list(launch.command),
            name=launch.name,
            labels={OWNER_LABEL: self._owner, JOB_LABEL: launch.job_id},
            environment=dict(launch.environment),
            user=asked.user,
            read_only=asked.read_only_root,
            init=asked.init or None,
            tmpfs={path: f"size={size}m" for path, size in asked.tmpfs},
            mounts=[Mount(target=path, source=None) for path in asked.volumes],
            mem_limit=f"{asked.memory_mib}m",
            memswap_limit=f"{asked.memory_mib}m",
            nano_cpus=int(min(asked.vcpus, self._cpus) * 1e9),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network=self._network,
        )

    def close(self) -> None:
        """Remove all that is left. No attempt is started any more."""
        with _told("the Docker engine"):
            remove_all(self._docker, self._owner)
        self._watchdog.communicate()


class ContainerExecution:
    """A container that was started; its output is attached."""

    def __init__(self, container: Container, output: Iterator[tuple[bytes | None, bytes | None]]) -> None:
        self._container = container
        self._output = output

    def lines(self) -> Iterator[bytes]:
        rest = [b"", b""]  # of a line that has not ended: standard output's and standard error's
        for parts in self._output:
            for stream, part in enumerate(parts):
                *whole, rest[stream] = (rest[stream] + (part or b"")).split(b"\n")
                for line in whole:
                    yield from _cut(line.removesuffix(b"\r"))
                while len(rest[stream]) >= MAX_LINE_BYTES:
                    yield rest[stream][:MAX_LINE_BYTES]
                    rest[stream] = rest[stream][MAX_LINE_BYTES:]
        for line in rest:
            yield from _cut(line)

    def wait(self) -> Exit:
        from docker.errors import DockerException

        try:
            code = int(self._container.wait(timeout=None)["StatusCode"])
            self._container.reload()
        except DockerException as error:
            raise OSError(str(error)) from error
        killed = code != 0 and self._container.attrs["State"]["OOMKilled"]
        return Exit(code, OUT_OF_MEMORY if killed else None)

    def terminate(self) -> None:
        self._signal("SIGTERM")

    def kill(self) -> None:
        self._signal("SIGKILL")

    def _signal(self, name: str) -> None:
        from docker.errors import APIError

        try:
            self._container.kill(signal=name)
        except APIError as error:
            if error.status_code not in (404, 409):  # it has ended
                raise OSError(str(error)) from error

    def close(self) -> None:
        _remove(self._container)


def _cut(line: bytes) -> Iterator[bytes]:
    for start in range(0, len(line), MAX_LINE_BYTES):
        yield line[start : start + MAX_LINE_BYTES]


def remove_all(docker: DockerClient, owner: str) -> None:
    """Remove every container and network of ``owner``, whatever it does."""
    from docker.errors import NotFound

    label = {"label": f"{OWNER_LABEL}={owner}"}
    for container in docker.containers.list(all=True, filters=label, ignore_removed=True):
        _remove(container)
    for network in docker.networks.list(filters=label):
        with suppress(NotFound):
            network.remove()


def _remove(container: Container) -> None:
    from docker.errors import APIError

    try:
        container.remove(v=True, force=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # gone, or somebody else is removing it
            raise OSError(str(error)) from error


def _client() -> DockerClient:
    from docker.client import from_env

    docker: DockerClient = from_env()
    return docker


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what Docker says into one message; ``what`` is what it was asked about."""
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, OSError) as error:
        raise LocalAwsError(f"jobs cannot run as containers: {what}: {error}") from error


def main(owner: str) -> None:
    """The watchdog: wait for the server to end, then remove what it left."""
    sys.stdin.read()
    with suppress(LocalAwsError), _told("the Docker engine"):  # gone too: there is nothing to remove
        remove_all(_client(), owner)


if __name__ == "__main__":
    main(sys.argv[1])
