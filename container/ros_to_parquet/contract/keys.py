"""Where things lie.

Object layout below an output URI (``{output}``)::

    {table}/schema={hash8}/drive_id={drive}/{shard name}.parquet   see `shard_name`
    _plans/runs/{run hash}/{hash}.json                     what a run was asked for, to find its drives by
    _plans/planning/{run hash}/{job id}.json               a Batch job that plans a run
    _plans/drive_id={drive}/{plan id}/plan.json            the plan, immutable
    _plans/drive_id={drive}/{plan id}/generation-{g}.json  shards of a generation, immutable
    _plans/drive_id={drive}/{plan id}/job-{g}.json         the Batch job of a generation
    _manifests/drive_id={drive}/{plan id}/{shard}.started.json     a try of a shard; the next: started-2
    _manifests/drive_id={drive}/{plan id}/{shard}.failed.json
    _manifests/drive_id={drive}/{plan id}/{shard}.json     a shard's manifest: its commit, immutable
    _manifests/drive_id={drive}/{plan id}/drive.json       the drive's manifest for this plan, immutable
    _manifests/drive_id={drive}/{plan id}/finish.json      what became of the finishing steps after it
    _reports/drive_id={drive}/report.html                  the drive's report, of all its plans
    _attachments/drive_id={drive}/{shard name}-...         files that bags have attached
    _files/{table}/drive_id={drive}/{shard name}/...       pictures and videos of a table's rows
    _quality/drive_id={drive}/{plan id}.parquet            results of the quality checks of a plan
    _schemas/{table}/{hash8}.json                          the definition behind a table's schema=
    _frames/{name}/drive_id={drive}/frames.parquet         a frames table: topics put together by time
    _leases/drive_id={drive}.json                          who writes this drive
    _fleet/{drives, bags, topics}/{drive}.parquet          what all drives are searched by
    _catalog/{table}/schema={hash8}/drive_id={drive}/...   which files a Glue catalog's partition is of
    _iceberg/{table}/metadata/...                          an Iceberg table's metadata
"""

from __future__ import annotations

from ros_to_parquet.contract.wire import sha256

RUNS_FOLDER = "_plans/runs"


def run_folder(run_id: str) -> str:
    """Where the records of all runs of that id are: of whatever DAG, or of the command line."""
    return f"{RUNS_FOLDER}/{sha256(run_id.encode())[:16]}"


def run_key(run_id: str, digest: str) -> str:
    return f"{run_folder(run_id)}/{digest}.json"


def planning_folder(run_id: str) -> str:
    """Where the records of the Batch jobs are that plan runs of that id."""
    return f"_plans/planning/{sha256(run_id.encode())[:16]}"


def plan_folder(drive_id: str, plan_id: str) -> str:
    return f"_plans/drive_id={drive_id}/{plan_id}"


def plan_key(drive_id: str, plan_id: str) -> str:
    return f"{plan_folder(drive_id, plan_id)}/plan.json"


def generation_key(drive_id: str, plan_id: str, generation: int) -> str:
    return f"{plan_folder(drive_id, plan_id)}/generation-{generation}.json"


def sizes_key(drive_id: str, plan_id: str, generation: int) -> str:
    return f"{plan_folder(drive_id, plan_id)}/sizes-{generation}.json"


def job_record_key(drive_id: str, plan_id: str, generation: int) -> str:
    return f"{plan_folder(drive_id, plan_id)}/job-{generation}.json"


def manifest_folder(drive_id: str, plan_id: str) -> str:
    return f"_manifests/drive_id={drive_id}/{plan_id}"


def manifest_key(drive_id: str, plan_id: str, shard: int) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/{shard:05d}.json"


def started_key(drive_id: str, plan_id: str, shard: int, number: int = 1) -> str:
    """Of the shard's try ``number``; the first is 1."""
    return (
        f"{manifest_folder(drive_id, plan_id)}/{shard:05d}.started{f'-{number}' if number > 1 else ''}.json"
    )


def failed_key(drive_id: str, plan_id: str, shard: int) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/{shard:05d}.failed.json"


def drive_manifest_key(drive_id: str, plan_id: str) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/drive.json"


FINISH_NAME = "finish.json"


def finish_key(drive_id: str, plan_id: str) -> str:
    return f"{manifest_folder(drive_id, plan_id)}/{FINISH_NAME}"


def attachment_folder(drive_id: str) -> str:
    return f"_attachments/drive_id={drive_id}"


FILES_FOLDER = "_files"


def files_folder(table: str, drive_id: str, name: str = "") -> str:
    """Where pictures and videos of a drive's rows in a table are: those of the shard `shard_name`, or all."""
    return f"{FILES_FOLDER}/{table}/drive_id={drive_id}{f'/{name}' if name else ''}"


def quality_folder(drive_id: str) -> str:
    return f"_quality/drive_id={drive_id}"


def quality_key(drive_id: str, plan_id: str) -> str:
    """The results of the quality checks of a plan."""
    return f"{quality_folder(drive_id)}/{plan_id}.parquet"


REPORTS_FOLDER = "_reports"


def report_key(drive_id: str) -> str:
    return f"{REPORTS_FOLDER}/drive_id={drive_id}/report.html"


FRAMES_FOLDER = "_frames"

FRAMES_FILE = "frames.parquet"


def frames_key(name: str, drive_id: str) -> str:
    """Where a drive's frames table is: one object, so that it is replaced at once."""
    return f"{FRAMES_FOLDER}/{name}/drive_id={drive_id}/{FRAMES_FILE}"


FLEET_FOLDER = "_fleet"

FLEET_TABLES = ("drives", "bags", "topics")


def fleet_key(table: str, drive_id: str) -> str:
    """Where a drive's rows of a fleet table are."""
    return f"{FLEET_FOLDER}/{table}/{drive_id}.parquet"


SCHEMAS_FOLDER = "_schemas"


def schema_key(table: str, schema: str) -> str:
    """Where the record of a table's definition is."""
    return f"{SCHEMAS_FOLDER}/{table}/{schema}.json"


def schema_of(path: str) -> str:
    """The digits of the ``schema=`` partition that a file lies in; empty where it lies in none.

    >>> schema_of("imu.data/schema=1a2b3c4d/drive_id=d/x.parquet"), schema_of("imu/x.parquet")
    ('1a2b3c4d', '')
    """
    return next((step.removeprefix("schema=") for step in path.split("/") if step.startswith("schema=")), "")


def lease_key(drive_id: str) -> str:
    return f"_leases/drive_id={drive_id}.json"


def shard_name(plan_id: str, shard: int, number: int = 1) -> str:
    """File name of the Parquet files of a shard's try ``number``, without its ending: no two tries share one.

    >>> shard_name("0123456789ab", 7), shard_name("0123456789ab", 7, 2)
    ('0123456789ab-00007', '0123456789ab-00007-try2')
    """
    return f"{plan_id}-{shard:05d}{f'-try{number}' if number > 1 else ''}"
