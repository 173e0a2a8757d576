"""The image's build context: in a checkout the folder ``container``, else what the wheel carries of it."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_batch_ros.image.engine import ImageError
from airflow_batch_ros.stack.planner import add_to_context

_PACKAGE = Path(__file__).parents[1]

PLACES = (_PACKAGE / "_container", _PACKAGE.parent / "container")
"""Where it may be; the first is package data (see the wheel's ``force-include``)."""


def build_context() -> Path:
    """The folder with the Dockerfile.

    Raises:
        ImageError: the package is installed in a way that leaves it out.
    """
    for place in PLACES:
        if (place / "Dockerfile").is_file():
            return place
    raise ImageError(
        f"the image's build context is neither in {PLACES[0]} nor in {PLACES[1]}: "
        "install airflow-batch-ros from its wheel, or run this in a checkout"
    )


@contextmanager
def whole_context() -> Iterator[Path]:
    """A copy of the build context with this package in it, so that the image can plan; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="airflow-batch-ros-") as temporary:
        folder = Path(temporary, "context")
        shutil.copytree(build_context(), folder, ignore=shutil.ignore_patterns("__pycache__"))
        add_to_context(folder)
        yield folder


def engine_version(context: Path) -> str:
    """The version of the engine that an image of this context holds."""
    project = tomllib.loads((context / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])
