"""Rows in all Parquet files below a folder, by their footers: ``python -m benchmarks.rows FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    paths = [
        path for path in folder.rglob("*.parquet") if not path.relative_to(folder).parts[0].startswith("_")
    ]
    print(sum(pq.ParquetFile(path).metadata.num_rows for path in paths))
