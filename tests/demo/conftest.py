"""The demo is a program of the repository and not installed: its root must be on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
