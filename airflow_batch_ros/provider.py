"""What Airflow knows of this provider, by the entry point ``apache_airflow_provider``."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """By Airflow's ``provider_info.schema.json``."""
    integration = "ROS to Parquet on AWS Batch"
    return {
        "package-name": "airflow-batch-ros",
        "name": "ROS to Parquet",
        "description": "Drives of ROS bags in S3 become typed Parquet tables, on AWS Batch.",
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://docs.aws.amazon.com/batch/",
                "tags": ["aws"],
            }
        ],
        "operators": [
            {
                "integration-name": integration,
                "python-modules": [
                    "airflow_batch_ros.operators.batch",
                    "airflow_batch_ros.operators.announce",
                ],
            }
        ],
        "sensors": [{"integration-name": integration, "python-modules": ["airflow_batch_ros.sensors.batch"]}],
        "hooks": [{"integration-name": integration, "python-modules": ["airflow_batch_ros.hooks.batch"]}],
        "triggers": [
            {
                "integration-name": integration,
                "python-modules": ["airflow_batch_ros.triggers.batch", "airflow_batch_ros.triggers.arrivals"],
            }
        ],
        "extra-links": [
            "airflow_batch_ros.links.batch.BatchJobLink",
            "airflow_batch_ros.links.batch.BatchLogsLink",
            "airflow_batch_ros.links.batch.LakeLink",
            "airflow_batch_ros.links.batch.DriveReportLink",
        ],
        "config": {
            "ros_to_parquet": {
                "description": "Options of airflow-batch-ros.",
                "options": {
                    "console_base_url": {
                        "description": "Where links to jobs, logs and the lake lead, instead of the "
                        "region's AWS console.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "https://eu-central-1.console.aws.amazon.com",
                        "default": "",
                    },
                    "lakes": {
                        "description": "The lakes that the page Drives shows: S3 URIs with commas between. "
                        "By default the one that the Variable ros_to_parquet_output names, else that of the "
                        "stack in ros_to_parquet_stack; the connection is ros_to_parquet_aws_conn_id's.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://lake/drives,s3://lake/tests",
                        "default": "",
                    },
                    "allowed_uris": {
                        "description": "The places that a conf may name, for bags, message packages and the "
                        "lake: S3 URIs of buckets and folders, with commas between. Without it, what the job "
                        "definition lets its jobs read and write.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://raw-drives,s3://lake/drives",
                        "default": "",
                    },
                },
            }
        },
    }
