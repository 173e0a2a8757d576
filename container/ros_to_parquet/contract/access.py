"""What a job may read and write, and what to do where a store refuses."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable

ALLOW_VARIABLE = "ROS_TO_PARQUET_ALLOW"
"""Environment variable: comma-separated URIs; what a job reads and writes must lie at or below them."""

_PERMISSIONS = (
    ("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
    ("List", "s3:ListBucket"),
    ("Get", "s3:GetObject"),
    ("Head", "s3:GetObject, and s3:ListBucket of the bucket, without which what is missing is refused too"),
    ("Abort", "s3:AbortMultipartUpload"),
    ("Delete", "s3:DeleteObject"),
    ("", "s3:PutObject"),
)
"""By how the names of operations begin; the first that fits."""

_CREDENTIALS = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
)


def s3_advice(operation: str, code: str, message: str) -> str:
    """What to do about an error of S3's that does not pass by itself; empty where nothing is known.

    >>> s3_advice("GetObject", "AccessDenied", "Access Denied")
    'let the role that asks do s3:GetObject there'
    """
    if code.startswith("KMS.") or "kms:" in message:
        if code.startswith("KMS.") and "AccessDenied" not in code:
            return "the KMS key that it is encrypted with cannot be used: enable it, or undo its deletion"
        action = "kms:Decrypt" if operation.startswith(("Get", "Head")) else "kms:GenerateDataKey"
        return (
            f"the KMS key that it is encrypted with is what refuses: let the role that asks do {action} with "
            "that key, in its own policy and in the key's"
        )
    if code == "InvalidObjectState":
        return "it is archived (Glacier): restore it first (aws s3api restore-object), then run again"
    if code in _CREDENTIALS:
        return "check the credentials that are used, and this machine's clock"
    if code == "NoSuchBucket":
        return "check the bucket's name"
    if code == "400":  # the answer to a HEAD, which has no body that would say more
        return "check the credentials that are used, their region, and the KMS key that it is encrypted with"
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        permission = next(each for prefix, each in _PERMISSIONS if operation.startswith(prefix))
        return f"let the role that asks do {permission} there"
    return ""


def is_allowed(uri: str, allowed: Iterable[str]) -> bool:
    """Whether ``uri`` is one of the ``allowed`` places or lies below one, by whole parts of its path.

    What steps upwards on its way does not, however it is written.

    >>> is_allowed("s3://raw/fleet/car_7/x.bag", ["s3://raw/fleet"])
    True
    >>> is_allowed("s3://raw/fleet_2/x.bag", ["s3://raw/fleet"])
    False
    >>> is_allowed("s3://raw/fleet/%2e%2e/x.bag", ["s3://raw/fleet"])
    False
    """
    plain = uri
    while (decoded := urllib.parse.unquote(plain)) != plain:
        plain = decoded
    if ".." in re.split(r"[/\\]", plain):
        return False
    return any(f"{uri}/".startswith(f"{place.rstrip('/')}/") for place in allowed)
