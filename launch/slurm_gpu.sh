#!/usr/bin/env bash
# One process per GPU under SLURM; JAX learns the rest from SLURM's variables:
#   sbatch --nodes=2 launch/slurm_gpu.sh --config=configs/imagenet_lt.py --workdir=DIR
# Two minutes before the time limit each process receives SIGTERM, saves and exits with
# 143; the job then queues again and resumes. DIR must be a shared file system.
#SBATCH --job-name=vl-ltr
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
export XLA_PYTHON_CLIENT_MEM_FRACTION=.92

srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" -m vl_ltr_jax.main --distributed "$@"
status=$?
if [[ $status -eq 143 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
