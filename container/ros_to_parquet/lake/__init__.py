"""A drive's state in the lake, read from its manifests; and the lake as datasets of what they name.

Import names from here: which module has one is this package's own affair.
"""

from __future__ import annotations

from ros_to_parquet.lake.committing import (
    commit_drive,
    end_others,
    is_replaced,
    last_committed,
    read_commit,
)
from ros_to_parquet.lake.leases import describe, release_lease
from ros_to_parquet.lake.records import (
    DriveRecord,
    DriveScan,
    LackingError,
    ReplacedError,
    TableSchemas,
    check_whole,
    derive,
    list_commits,
    no_drive,
    no_lake,
    read_drive,
    read_schemas,
    read_whole,
    scan_drive,
    standing_commits,
)
from ros_to_parquet.lake.sweeping import sweep
from ros_to_parquet.lake.tables import PARTITIONS, READ_TOGETHER, Lake, LakeTopic

__all__ = [
    "PARTITIONS",
    "READ_TOGETHER",
    "DriveRecord",
    "DriveScan",
    "LackingError",
    "Lake",
    "LakeTopic",
    "ReplacedError",
    "TableSchemas",
    "check_whole",
    "commit_drive",
    "derive",
    "describe",
    "end_others",
    "is_replaced",
    "last_committed",
    "list_commits",
    "no_drive",
    "no_lake",
    "read_commit",
    "read_drive",
    "read_schemas",
    "read_whole",
    "release_lease",
    "scan_drive",
    "standing_commits",
    "sweep",
]
