"""grepros with its Parquet sink: as in a ROS 1 environment for ``.bag``, a ROS 2 one for ``.mcap``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peer_scripts.reference_method import stand_in_for_roslz4


def main(bag: Path, output: Path) -> None:
    os.environ["ROS_VERSION"] = "1" if bag.suffix == ".bag" else "2"
    stand_in_for_roslz4()
    plugins = ["grepros.plugins.parquet"]
    if bag.suffix == ".mcap":
        import builtin_interfaces.msg  # noqa: F401 (a part of ROS 2; without it grepros ends as if all were well)

        plugins.append("grepros.plugins.mcap")
    from grepros.main import run

    target = f"{output}/drive.parquet"
    words = ["--plugin", *plugins, "--no-console-output", "-n", str(bag), "--write", target, "format=parquet"]
    sys.argv = ["grepros", *words]
    run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
