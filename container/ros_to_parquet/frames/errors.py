"""What stands against a frames table."""

from __future__ import annotations


class FramesError(ValueError):
    """A frames table that cannot be made of a drive; the message says why, and what to do."""
