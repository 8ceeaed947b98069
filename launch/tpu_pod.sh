#!/usr/bin/env bash
# The same command on every host of a TPU pod slice; JAX learns the rest from the pod:
#   TPU_NAME=my-v5e-64 ZONE=us-west4-a launch/tpu_pod.sh \
#     --config=configs/imagenet_lt.py --workdir=gs://BUCKET/imagenet_lt
# The repository must lie in ~/vl_ltr_jax on each host, installed with
#   python3 -m venv .venv && .venv/bin/pip install -e '.[tpu]'
set -euo pipefail
: "${TPU_NAME:?name of the TPU slice}" "${ZONE:?its zone}"

printf -v arguments '%q ' "$@"
exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
  --command="cd ~/vl_ltr_jax && .venv/bin/python -m vl_ltr_jax.main --distributed $arguments"
