"""mcap with mcap-ros2-support, as most Python scripts read MCAP: decoding alone, nothing is written."""

from __future__ import annotations

import sys
from pathlib import Path

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory


def main(bag: Path) -> None:
    with bag.open("rb") as file:
        for _ in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages():
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
