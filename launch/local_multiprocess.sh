#!/usr/bin/env bash
# Several processes on this machine's CPU, to rehearse a cluster:
#   launch/local_multiprocess.sh 2 --config=configs/shapes_lt.py --workdir=/tmp/shapes
# DEVICES sets the virtual devices of each process (default 4), PYTHON the interpreter.
set -euo pipefail
if [[ $# -lt 3 ]]; then
  sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python3}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="--xla_force_host_platform_device_count=${DEVICES:-4}"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((process = 0; process < count; process++)); do
  "$python" -m vl_ltr_jax.main "$@" \
    --coordinator_address="127.0.0.1:$port" --num_processes="$count" \
    --process_id="$process" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"
