"""The reference module's method: bagpy writes a CSV file a topic, pandas reads it, fastparquet writes it.

ROS's ``rosbag`` reads lz4 chunks through a compiled module that no wheel has; the `lz4` package stands in.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lz4.frame


def stand_in_for_roslz4() -> None:
    """To be called before anything imports ``rosbag``."""
    made: Any = ModuleType("roslz4")
    made.compress, made.decompress = lz4.frame.compress, lz4.frame.decompress
    sys.modules["roslz4"] = made


def main(bag: Path, output: Path) -> None:
    stand_in_for_roslz4()
    import pandas as pd
    from bagpy import bagreader

    link = output / "drive.bag"  # bagpy writes its CSV files beside the bag
    link.symlink_to(bag)
    reader = bagreader(str(link), verbose=False)
    for topic in reader.topics:
        table = pd.read_csv(reader.message_by_topic(topic))
        name = topic.strip("/").replace("/", "_")
        table.to_parquet(output / f"{name}.parquet", engine="fastparquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
