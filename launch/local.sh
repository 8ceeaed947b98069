#!/usr/bin/env bash
# N processes on this machine's CPU, to rehearse a cluster:
#   bash launch/local.sh 2 [--dry-run] [flags of vl_ltr_jax.main]
# Ends with the code of the first process that fails, and then stops the others.
# SIGTERM and Ctrl-C end it, with 75 once all have saved: it starts nothing again. A
# second one kills.
set -euo pipefail
CONFIG=${CONFIG:-configs/shapes_lt.py}
WORKDIR=${WORKDIR:-}                # runs/shapes_lt_Np by default
DEVICES=${DEVICES:-1}               # virtual devices of each process
PYTHON=${PYTHON:-.venv/bin/python}
GRACE_SECONDS=${GRACE_SECONDS:-20}  # between asking a process to stop and killing it

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
count=$1
shift
dry_run=0
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
for flag in "$@"; do # --config=FILE is taken in place of CONFIG
  shift
  case $flag in
    --config=*) CONFIG=${flag#*=} ;;
    *) set -- "$@" "$flag" ;;
  esac
done
name=$(basename "${CONFIG%%:*}" .py)
command=("$PYTHON" -m vl_ltr_jax.main --config="$CONFIG"
  --workdir="${WORKDIR:-runs/${name}_${count}p}" "$@")
port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS=cpu
export XLA_FLAGS="--xla_force_host_platform_device_count=$DEVICES ${XLA_FLAGS:-}"
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count

pids=()
signal=TERM
ask_to_stop() {
  kill "-$signal" "${pids[@]}" 2>/dev/null || true
  signal=KILL # who asks again does not wait: outside of training it may take long
}
trap ask_to_stop INT TERM
for ((process = 0; process < count; process++)); do
  if ((dry_run)); then
    printf 'JAX_PROCESS_ID=%d' "$process"
    printf ' %s=%q' JAX_PLATFORMS "$JAX_PLATFORMS" XLA_FLAGS "$XLA_FLAGS" \
      JAX_COORDINATOR_ADDRESS "$JAX_COORDINATOR_ADDRESS" JAX_NUM_PROCESSES "$count"
    printf ' %q' "${command[@]}"
    printf '\n'
    continue
  fi
  JAX_PROCESS_ID=$process "${command[@]}" &
  pids+=($!)
done

status=0
killer=
while ((${#pids[@]} > 0)); do
  # Not `wait -n`: it never tells of one that ends while a signal is handled.
  sleep 0.2 || true
  running=" $(jobs -pr | tr '\n' ' ') "
  for index in "${!pids[@]}"; do
    if [[ $running == *" ${pids[index]} "* ]]; then
      continue
    fi
    code=0
    wait "${pids[index]}" || code=$?
    unset 'pids[index]'
    if ((code != 0 && status == 0)); then
      status=$code
      if ((${#pids[@]} > 0)); then
        # The others would wait for the one that is gone.
        ask_to_stop
        (sleep "$GRACE_SECONDS" && kill -KILL "${pids[@]}" 2>/dev/null) &
        killer=$!
      fi
    fi
  done
done
if [[ -n $killer ]]; then
  kill "$killer" 2>/dev/null || true # its numbers may belong to others by then
fi
exit "$status"
