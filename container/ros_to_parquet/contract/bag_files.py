"""What the names of files say: bags, compressed ones, archives, and what SQLite leaves beside a database."""

from __future__ import annotations

from collections.abc import Mapping

SQLITE_SHARED = "-shm"

SQLITE_BESIDE = ("-wal", "-journal", SQLITE_SHARED)
"""What SQLite adds to a database's name: its write-ahead log (messages that are not in the database yet), its
rollback journal (how to take back what was not finished), and memory shared with others (holds nothing)."""

BAG_FORMATS: Mapping[str, str] = {".bag": "rosbag1", ".mcap": "mcap", ".db3": "sqlite3"}

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4")
"""Endings of files that are compressed whole."""

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", *(f".tar{end}" for end in COMPRESSIONS))

BAG_ENDINGS = ".bag, .mcap or .db3, compressed or not, .zip or .tar"
"""For people."""


def bag_format(name: str) -> str | None:
    """What a file's name promises; None for what is no bag.

    ``rosbag1``, ``mcap`` or ``sqlite3``; with the ending of its compression (``mcap.zst``); or ``archive``,
    which may hold bags. ``x.bag.active`` is no bag, nor is the ``._x.bag`` that macOS leaves beside a file.

    >>> bag_format("a/x.BAG"), bag_format("x.db3.zstd"), bag_format("x.tar.gz"), bag_format("._x.bag")
    ('rosbag1', 'sqlite3.zstd', 'archive', None)
    """
    base = name.rpartition("/")[2].lower()
    if base.startswith("._"):
        return None
    if base.endswith(ARCHIVES):
        return "archive"
    compression = next((end for end in COMPRESSIONS if base.endswith(end)), "")
    bare = base.removesuffix(compression)
    return next((kind + compression for end, kind in BAG_FORMATS.items() if bare.endswith(end)), None)


def recording_stem(name: str) -> str:
    """What names of one recording have in common.

    >>> {recording_stem(f"a/x{end}") for end in (".bag", ".orig.bag", ".mcap", ".bag.gz", ".tar.zst", ".zip")}
    {'a/x'}
    """
    stem = name
    for endings in (ARCHIVES, COMPRESSIONS, tuple(BAG_FORMATS), (".orig",)):
        longest = max((end for end in endings if stem.lower().endswith(end)), key=len, default="")
        stem = stem[: len(stem) - len(longest)]
    return stem


def sqlite_owner(name: str) -> str:
    """The database that SQLite would leave a file of this name beside; empty where it would not.

    >>> sqlite_owner("a/x.db3-wal"), sqlite_owner("a/x.db3")
    ('a/x.db3', '')
    """
    return next((name.removesuffix(end) for end in SQLITE_BESIDE if name.endswith(f".db3{end}")), "")
