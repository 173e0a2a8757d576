"""The commands of ``ros-to-parquet``: a module has arguments and code of one, or of a few that go together.

What is heavy (numpy, pyarrow, boto3) is imported where a command needs it: ``--version`` and ``--help`` are
for people, and a container's health check.
"""
