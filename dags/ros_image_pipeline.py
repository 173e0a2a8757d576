"""Drives of ROS bags in S3 to Parquet tables, on AWS Batch: trigger it with a JSON conf."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_batch_ros.conf import CONF_KEYS, param_schema
from airflow_batch_ros.task_group import ros_to_parquet

DOC = """\
### Drives of ROS bags to Parquet

Trigger with a conf that names the drives; the bags are those directly under each prefix:

```json
{"drives_to_process": {
  "drive_1": {"bucket": "raw-data", "prefix": "drive_1/"},
  "drive_2": {"bucket": "raw-data", "prefix": "drive_2/"}
}}
```

Each drive becomes one AWS Batch job; the tables are `{output}/{topic}/schema=.../drive_id={drive}/*.parquet`.

| optional key | what it says | default |
| --- | --- | --- |
| `output` | S3 URI of the lake | Variable `ros_to_parquet_output` |
| `topics` | `{"include": [...], "exclude": [...]}`: globs, `*` crosses `/`, exclude wins | all |
| `bags` | likewise, over the bags' paths below the prefix | all |
| `recursive` | take the bags in sub-folders too | `false` |
| `overwrite` | extract bags again that the lake has, and replace them | `false` |
| `fail_on` | what fails the run, also `damaged`, `quality_error` | `["failed", "partial"]` |
| `min_success_ratio` | share of the drives that must not end in such a state, or the run fails | `1.0` |
| `ros_distro` | the ROS 2 distribution whose standard types bags without definitions use | the newest |
| `msg_path` | `["s3://bucket/my_packages"]`: message packages for types that bags do not define | none |
| `pointcloud` | `decoded`: a list column for each field of a cloud (x, y, z, intensity, ...) | `recorded` |
| `parquet` | `compact`: smaller files, which Spark before 4.3 cannot read | `compatible` |
| `transforms` | `{"/camera/*": "brightness"}`: topics whose rows go through code of yours | none |
| `images` | `{"/camera/*": "jpeg_files"}`: pictures encoded, in the table or as files; videos | as recorded |
| `quality` | `{"/imu/*": {"gap": {"warn": 3, "error": 20}}}`: limits of quality checks | docs/quality.md |
| `prices` | `{"vcpu_hour": 0.0125, "gb_hour": 0.0014}`: what you pay for containers | AWS's list |

`{"bucket": "raw-data", "prefix": "fleet/*/"}` instead of drives takes each folder that it finds as a drive,
and of these what is new: good for every night.

A drive whose bags are all in the lake already has nothing to do.
To run only what failed, clear `submit` and what follows.
What goes on from drives in the lake can be scheduled on `AssetAlias("ros_to_parquet_drives")`.

| Airflow Variable | for | default |
| --- | --- | --- |
| `ros_to_parquet_output` | the lake, where the conf names none | |
| `ros_to_parquet_stack` | stack of `airflow-batch-ros stack`, whose lake, queue and definition are taken | |
| `ros_to_parquet_job_queue` | Batch job queue | the stack's, else `ros-to-parquet` |
| `ros_to_parquet_job_definition` | Batch job definition | the stack's, else `ros-to-parquet` |
| `ros_to_parquet_on_demand_queue` | queue for shards that Spot has reclaimed twice | the stack's |
| `ros_to_parquet_aws_conn_id` | AWS connection | `aws_default` |

(In the environment: `AIRFLOW_VAR_ROS_TO_PARQUET_OUTPUT`, and so on.)
"""

DESCRIPTIONS = {
    "drives_to_process": 'Drive ids, each with bucket and prefix: `{"drive_1": {"bucket": "raw-data", '
    '"prefix": "drive_1/"}}`; or a pattern that finds them: `{"bucket": "raw-data", "prefix": "fleet/*/"}`',
    "topics": 'Topics to take: `{"include": ["/imu/*"], "exclude": ["*/image_raw"]}`; all by default',
    "bags": "Bags to take, likewise, by their path below the prefix; all by default",
    "output": "S3 URI of the lake; by default the Variable `ros_to_parquet_output`",
    "recursive": "Take the bags in sub-folders too",
    "overwrite": "Extract bags again that the lake has, and replace them",
    "fail_on": "States of a drive that fail the run; `quality_warn`, `quality_error`: quality checks of that "
    'level or a worse one; `["failed", "partial"]` by default',
    "min_success_ratio": "Share of the drives, 0 to 1, that must not end so; `1.0`, all, by default",
    "ros_distro": "ROS 2 distribution whose standard types are tried first where a bag does not define a "
    "type; the newest by default",
    "msg_path": 'S3 URIs of message packages, for types that a bag does not define: `["s3://bucket/my_packages"]`',
    "pointcloud": "`decoded`: a list column for each field of a point cloud (x, y, z, intensity, ...); "
    "`recorded`, with the points in a blob, by default",
    "parquet": "Encodings: `compatible`, the default, or `compact`: smaller, not for Spark before 4.3",
    "transforms": 'Topics whose rows go through code that your image adds: `{"/camera/*": "brightness"}`',
    "images": 'Pictures of topics as PNG or JPEG, in the table or as files, and videos: `{"/camera/*": '
    '"jpeg_files", "/front": {"form": "png", "max_width": 640}}`; as recorded by default',
    "quality": "Limits of quality checks by topic: "
    '`{"/imu/*": {"gap": {"warn": 3, "error": 20}, "frozen": null}}`; `{"*": null}` turns all off',
    "report": "Make each drive's report, one HTML page in the lake; `true` by default",
    "sync": "Frames tables: what topics have at the time of each message of another, or at a fixed rate: "
    '`{"reference": "/camera/image_raw", "topics": {"/imu/data": {"method": "interpolated"}}}`',
    "prices": 'What you pay for containers: `{"vcpu_hour": 0.0125, "gb_hour": 0.0014}`; by default what AWS '
    "lists",
    "fleet": "Write each drive's rows of the tables that drives are searched by; `true` by default",
    "catalog": 'Register tables: `{"kind": "glue", "database": "drives"}`; `iceberg` likewise',
}


def variable(name: str, default: str) -> str:
    """A template of an Airflow Variable: read when the task runs, never when the file is parsed."""
    return f"{{{{ var.value.get('ros_to_parquet_{name}', '{default}') }}}}"


with DAG(
    dag_id="ros_image_pipeline",
    schedule=None,
    catchup=False,
    tags=["ros", "parquet"],
    doc_md=DOC,
    params={
        # Without a default: a run cannot do without it.
        key: Param(description_md=DESCRIPTIONS[key], **param_schema(key))
        if key == "drives_to_process"
        else Param(None, description_md=DESCRIPTIONS[key], **param_schema(key))
        for key in CONF_KEYS
    },
) as dag:
    ros_to_parquet(
        prefix_group_id=False,
        output_uri=variable("output", ""),
        stack_name=variable("stack", ""),
        job_queue=variable("job_queue", ""),
        job_definition=variable("job_definition", ""),
        on_demand_queue=variable("on_demand_queue", ""),
        aws_conn_id=variable("aws_conn_id", "aws_default"),
        default_args={"retries": 2},
    )
