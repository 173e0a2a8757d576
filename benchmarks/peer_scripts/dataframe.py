"""rosbags-dataframe: a data frame a topic with every field, pandas to Parquet. Says which topics fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
from rosbags.dataframe import get_dataframe
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Nodetype


def leaves(reader: AnyReader, type_name: str, prefix: str = "") -> list[str]:
    """Dotted names of all fields that are not messages themselves."""
    found = []
    for name, description in reader.typestore.fielddefs[type_name][1]:
        if description[0] == Nodetype.NAME:
            found += leaves(reader, str(description[1]), f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def main(bag: Path, output: Path) -> None:
    with AnyReader([bag]) as reader:
        for topic, about in reader.topics.items():
            assert about.msgtype is not None
            frame = get_dataframe(reader, topic, leaves(reader, about.msgtype))
            name = topic.strip("/").replace("/", ".")
            try:
                frame.to_parquet(output / f"{name}.parquet", compression="zstd")
            except pa.ArrowInvalid as error:
                (output / f"{name}.parquet").unlink(missing_ok=True)
                print(f"{topic} fails: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
