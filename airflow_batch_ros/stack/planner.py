"""This package as the image takes it: what plans and submits, without Airflow."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import airflow_batch_ros

FOLDER = "provider"
"""In the image's build context; the Dockerfile takes what it finds there."""

COMMANDS = ("submit", "retry")
"""Commands of this package that ``ros-to-parquet`` hands over to it."""


def add_to_context(context: Path) -> None:
    """Lays this package beside the engine in a build context, as it is to lie among installed packages."""
    folder = context / FOLDER
    root = Path(airflow_batch_ros.__file__).parent
    shutil.copytree(root, folder / root.name, ignore=shutil.ignore_patterns("_container", "__pycache__"))
    number = version("airflow-batch-ros")
    info = folder / f"airflow_batch_ros-{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: airflow-batch-ros\nVersion: {number}\n")
    lines = [f"{command} = airflow_batch_ros.cli:main" for command in COMMANDS]
    (info / "entry_points.txt").write_text("\n".join(["[ros_to_parquet.commands]", *lines, ""]))


if __name__ == "__main__":
    add_to_context(Path(sys.argv[1]))
