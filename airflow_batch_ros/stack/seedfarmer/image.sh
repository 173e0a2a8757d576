#!/bin/sh
# Builds the image from the context that the installed provider carries, and pushes it to the stack's repository.
set -eu
repository=$(airflow-batch-ros stack outputs "$1" --format json |
  python -c 'import json, sys; print(json.load(sys.stdin)["RepositoryUri"])')
context=$(python -c '
from pathlib import Path
import airflow_batch_ros
provider = Path(airflow_batch_ros.__file__).parent
packed = provider / "_container"
print(packed if packed.is_dir() else provider.with_name("container"))')
case ${SEEDFARMER_PARAMETER_ARCHITECTURE:-X86_64} in
  ARM64) platform=linux/arm64 ;;
  *) platform=linux/amd64 ;;
esac
aws ecr get-login-password | docker login --username AWS --password-stdin "${repository%%/*}"
docker build --platform "$platform" --tag "$repository:latest" "$context"
docker push "$repository:latest"
