"""Packages of transforms, installed for a test: a module and its entry points in a folder of their own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from ros_to_parquet.transforms import GROUP

_numbers = itertools.count(1)


def install(folder: Path, code: str, names: Mapping[str, str], *, version: str = "1.2") -> str:
    """Installs ``code``, which has ``np`` and ``pa``, into ``folder``, which is to be on ``sys.path``.

    ``names`` are entry points: what is called so in the code. Returns the package's name.
    """
    number = next(_numbers)  # a module is imported once a process
    module, package = f"transforms_{number}", f"test-transforms-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(f"import numpy as np\nimport pyarrow as pa\n{dedent(code)}")
    info = folder / f"test_transforms_{number}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    points = "\n".join(f"{name} = {module}:{thing}" for name, thing in names.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n")
    return package
