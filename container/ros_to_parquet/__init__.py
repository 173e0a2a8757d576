"""ROS bags to typed Parquet tables, decoded in columns, without ROS.

The base install holds ``ros_to_parquet.contract`` alone; everything else needs ``ros-to-parquet[engine]``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes time, in which nothing catches an interrupt
if TYPE_CHECKING:
    from ros_to_parquet.lake import Lake

__version__ = "0.1.0"

__all__ = ["__version__", "open"]


def open(uri: str) -> Lake:  # noqa: A001 (read as ros_to_parquet.open)
    """The lake at ``uri`` (``s3://bucket/prefix``, another URI, or a folder), read through its manifests."""
    from ros_to_parquet.lake import Lake

    return Lake(uri)
