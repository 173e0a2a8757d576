"""A plain boto3 download to nowhere: ``python -m benchmarks.download s3://BUCKET/KEY``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import boto3

if __name__ == "__main__":
    bucket, _, key = sys.argv[1].removeprefix("s3://").partition("/")
    with Path(os.devnull).open("wb") as nowhere:
        boto3.client("s3").download_fileobj(bucket, key, nowhere)
