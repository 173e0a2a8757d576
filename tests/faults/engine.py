"""The entry point of jobs in these tests: the engine of this tree, whatever is installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "container"))

from ros_to_parquet.entry import main

main()
