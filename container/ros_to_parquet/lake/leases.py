"""A drive's lease: who may write its tables."""

from __future__ import annotations

from ros_to_parquet import contract
from ros_to_parquet.contract import Plan
from ros_to_parquet.storage import NotFoundError, Storage, join


def has_lease(storage: Storage, plan: Plan) -> bool:
    uri = join(plan.output, contract.lease_key(plan.drive_id))
    try:
        return contract.from_json(contract.Lease, storage.read(uri), where=uri).plan_id == plan.plan_id
    except NotFoundError:
        return False


def release_lease(storage: Storage, plan: Plan) -> None:
    """Gives the drive's lease back, where it is still this plan's."""
    if has_lease(storage, plan):
        storage.delete(join(plan.output, contract.lease_key(plan.drive_id)))


def describe(lease: contract.Lease) -> str:
    """Who has the lease, and since when."""
    return f"{contract.run_in_words(lease.run)} has it since {lease.acquired_at}"
