"""The image that AWS Batch runs, built and pushed with Docker or Podman. No Airflow is needed."""
