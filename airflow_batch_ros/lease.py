"""One writer a drive: a lease object per (output, drive), taken with a conditional put.

The engine checks it at a shard's start and commit and gives it back with the drive's commit. Whoever gets it
ends what others have begun (`end_others`), so that a run which only seemed dead cannot add to it any more: a
lease that is stolen in the worst moment costs work, never rows.
"""

from __future__ import annotations

from collections.abc import Callable

from airflow_batch_ros.lake import Found, Lake, drive_folders, error_code
from ros_to_parquet import contract
from ros_to_parquet.contract import ContractError, Lease, Manifest, Plan, Run

GRACE_S = 600.0
"""How long a run may take between its lease and its first job, before others count it as dead."""

COMMAND_LINE_GRACE_S = 86_400.0
"""Likewise for a run of ``ros-to-parquet`` on some machine, which has no job to ask for."""

_TRIES = 5


class LeaseHeldError(RuntimeError):
    """Another run has the drive; the message says which, and why it counts as alive."""


def acquire(lake: Lake, lease: Lease, *, sign_of_life: Callable[[Lease, float], str | None]) -> bool:
    """Takes the drive's lease; True if this run did not have it before.

    ``sign_of_life`` is told another run's lease and its age in seconds, and says why that run is alive;
    None for a dead one, whose lease is taken over.

    Raises:
        LeaseHeldError: a live run has it.
        ContractError: the lease is none, or of another version.
    """
    key = contract.lease_key(lease.drive_id)
    for _ in range(_TRIES):
        if lake.create(key, contract.to_json(lease)):
            return True
        found = lake.find(key)
        if found is None:
            continue  # given back meanwhile
        try:
            holder = contract.from_json(Lease, found.data, where=lake.uri(key))
        except ContractError as error:
            raise ContractError(f"{error}; where no run is writing the drive, delete that object") from None
        if holder.plan_id == lease.plan_id:
            return False
        if alive := sign_of_life(holder, found.age_s):
            raise LeaseHeldError(
                f"drive {lease.drive_id!r}: {contract.run_in_words(holder.run)} has it since "
                f"{holder.acquired_at} ({alive}); try again when that run has ended"
            )
        if _take_over(lake, key, lease, found):
            return True
    raise LeaseHeldError(f"drive {lease.drive_id!r}: several runs are after its lease; try again")


def holder(lake: Lake, drive_id: str) -> Lease | None:
    """Who has the drive; None where nobody does."""
    return lake.load(Lease, contract.lease_key(drive_id))


def release(lake: Lake, drive_id: str, plan_id: str) -> None:
    """Gives the drive back, where it is still this plan's."""
    current = holder(lake, drive_id)
    if current is not None and current.plan_id == plan_id:
        lake.delete(contract.lease_key(drive_id))


def end_others(lake: Lake, drive_id: str, plan_id: str, run: Run) -> None:
    """Leaves a last word on each other plan of the drive that has begun and not ended.

    To be called with the lease, and before it is read what there is: what others write from here on is void.
    """
    for other_id, folder in drive_folders(lake, drive_id).items():
        if folder.commit or other_id == plan_id or not folder.begun:
            continue
        other = lake.load(Plan, contract.plan_key(drive_id, other_id))
        if other is None:
            continue  # somebody tidied up; without its plan no shard can be run
        if len(folder.shards) == len(other.shards) and not other.replaces:
            continue  # nothing can come any more
        manifests = lake.load_all(Manifest, [key for _, key in sorted(folder.shards.items())])
        word = contract.take_over(other, manifests, run)
        lake.create(contract.drive_manifest_key(drive_id, other_id), contract.to_json(word))


def _take_over(lake: Lake, key: str, lease: Lease, found: Found) -> bool:
    from botocore.exceptions import ClientError

    data = contract.to_json(lease)
    try:
        taken = lake.replace(key, data, etag=found.etag)
    except ClientError as error:
        if error_code(error) != "NotImplemented":
            raise
        # A store without conditional overwrite: of several runs that delete it, one creates it.
        lake.delete(key)
        taken = lake.create(key, data)
    # Stores that do not know the condition ignore it: the last writer has the lease.
    current = holder(lake, lease.drive_id)
    return taken and current is not None and current.plan_id == lease.plan_id
