#!/usr/bin/env bash
# The main job on every host of a TPU slice, from the first VM to the last step:
#   launch/tpu_pod.sh [all|up|run|down] [--dry-run] [flags of vl_ltr_jax.main]
# up:   creates the slice, or takes the one of that name, and installs this checkout
# run:  runs on all hosts; a preempted slice is made again and the run resumes
# down: deletes the slice
# all:  up and run, and down at the end with TEAR_DOWN=1 (the default command)
# Each variable can be given in the environment; WORKDIR has no default.
set -euo pipefail
TPU_NAME=${TPU_NAME:-vl-ltr}
ZONE=${ZONE:-us-west4-a}
PROJECT=${PROJECT:-}                     # gcloud's own by default
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-16}
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-0}                          # 1: cheaper, may be preempted
QUEUED=${QUEUED:-0}                      # 1: wait for capacity as a queued resource
CONFIG=${CONFIG:-configs/places_lt.py}   # a path in the checkout
WORKDIR=${WORKDIR:-}                     # gs://BUCKET/places_lt
TEAR_DOWN=${TEAR_DOWN:-0}
MAX_FAILURES=${MAX_FAILURES:-3}          # in a row, preemptions not counted
RETRY_SECONDS=${RETRY_SECONDS:-30}
REMOTE=${REMOTE:-vl_ltr_jax_job}         # directory in the home of each host
# The image's own Python may be older than 3.11.
INSTALL=${INSTALL:-"{ command -v python3.11 || { sudo apt-get -qq update && sudo apt-get -qq install -y python3.11 python3.11-venv; }; } >/dev/null && python3.11 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"}

root=$(cd "$(dirname "$0")/.." && pwd)
verb=all
case ${1:-} in
  all | up | run | down)
    verb=$1
    shift
    ;;
esac
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
if [[ $verb != down && $WORKDIR != gs://* && $WORKDIR != /* ]]; then
  echo "WORKDIR=${WORKDIR:-} must be a bucket (gs://BUCKET/RUN) or an absolute path that every host sees" >&2
  exit 2
fi

place=(--zone="$ZONE")
if [[ -n $PROJECT ]]; then
  place+=(--project="$PROJECT")
fi
vm=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)
spot=()
if [[ $SPOT == 1 ]]; then
  spot=(--spot)
fi
log=$(mktemp)
archive=$(mktemp -d)/vl_ltr_jax.tar.gz
trap 'rm -rf "$log" "$(dirname "$archive")"' EXIT
trap 'echo "stopped here; the slice $TPU_NAME goes on until: $0 down" >&2; exit 130' INT TERM

call() {
  if ((dry_run)); then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

say() {
  echo "tpu_pod.sh: $*" >&2
}

state() {
  if ((dry_run)); then
    echo ABSENT
  else
    "${vm[@]}" describe "$TPU_NAME" "${place[@]}" --format='value(state)' 2>/dev/null || echo ABSENT
  fi
}

create() {
  if [[ $QUEUED != 1 ]]; then
    call "${vm[@]}" create "$TPU_NAME" "${place[@]}" --accelerator-type="$ACCELERATOR_TYPE" \
      --version="$RUNTIME_VERSION" ${spot[@]+"${spot[@]}"}
    return
  fi
  call "${queue[@]}" create "$TPU_NAME" --node-id="$TPU_NAME" "${place[@]}" \
    --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" ${spot[@]+"${spot[@]}"}
  if ((dry_run)); then
    return
  fi
  local now
  while now=$("${queue[@]}" describe "$TPU_NAME" "${place[@]}" --format='value(state.state)') &&
    [[ $now != ACTIVE ]]; do
    if [[ $now == FAILED || $now == SUSPENDED ]]; then
      say "the queued resource is $now"
      return 1
    fi
    say "the queued resource is $now; looking again in $RETRY_SECONDS s"
    sleep "$RETRY_SECONDS"
  done
}

is_queued() {
  ((!dry_run)) && [[ $QUEUED == 1 ]] &&
    "${queue[@]}" describe "$TPU_NAME" "${place[@]}" >/dev/null 2>&1
}

delete() {
  if [[ $QUEUED == 1 ]]; then
    call "${queue[@]}" delete "$TPU_NAME" "${place[@]}" --force --quiet
  else
    call "${vm[@]}" delete "$TPU_NAME" "${place[@]}" --quiet
  fi
}

on_all() {
  call "${vm[@]}" ssh "$TPU_NAME" "${place[@]}" --worker=all --command="$1"
}

install() {
  (cd "$root" && tar -czf "$archive" vl_ltr_jax configs launch requirements.txt pyproject.toml README.md LICENSE)
  call "${vm[@]}" scp "$archive" "$TPU_NAME": "${place[@]}" --worker=all
  on_all "mkdir -p $REMOTE && tar -xzf vl_ltr_jax.tar.gz -C $REMOTE && cd $REMOTE && $INSTALL"
}

up() {
  local now
  now=$(state)
  if [[ $now != READY ]]; then
    if [[ $now != ABSENT ]] || is_queued; then
      say "the slice is $now: deleting what is left of it"
      delete || return 1
    fi
    create || return 1
  fi
  install || return 1 # -e does not hold where the caller looks at the result
}

run() {
  local flags command code said failures=0
  printf -v flags '%q ' --config="$CONFIG" --workdir="$WORKDIR" "$@"
  while true; do
    # A process that outlived the others may still hold its chips. Codes are echoed since
    # gcloud tells of several hosts only that one has failed.
    command="cd $REMOTE && { pkill -KILL -f '^[^ ]*python[^ ]* -m vl_ltr_jax.main' || true; } && { .venv/bin/python -m vl_ltr_jax.main --distributed $flags; code=\$?; echo \"exit code \$code\"; exit \$code; }"
    code=0
    if ((dry_run)); then
      on_all "$command"
      return
    fi
    on_all "$command" 2>&1 | tee "$log" || code=$?
    if ((code == 0)); then
      return
    fi
    said=$(grep -o 'exit code [0-9]*$' "$log" | sort -u || true)
    if grep -q 'exit code 2$' <<<"$said"; then
      say "the run was refused; its message is above"
      return 2
    fi
    if grep -q 'exit code 130$' <<<"$said"; then
      say "the run was interrupted; the same command goes on"
      return 130
    fi
    if [[ $flags != *--take_over* ]]; then # the processes may have been killed
      flags+="--take_over "
    fi
    if [[ $(state) != READY ]]; then
      say "the slice is gone: making it again, the run resumes from $WORKDIR"
      until up; do
        say "no slice yet; trying again in $RETRY_SECONDS s"
        sleep "$RETRY_SECONDS"
      done
      failures=0
      continue
    fi
    # 143: SIGTERM came before there was anything to save.
    if grep -qE 'exit code (75|143)$' <<<"$said"; then
      say "stopped and saved; going on"
      continue
    fi
    failures=$((failures + 1))
    if ((failures > MAX_FAILURES)); then
      say "failed $failures times in a row; the slice is left as it is"
      return 1
    fi
    say "failed; trying again in $RETRY_SECONDS s ($failures of $MAX_FAILURES)"
    sleep "$RETRY_SECONDS"
  done
}

case $verb in
  up) up ;;
  run) run "$@" ;;
  down) delete ;;
  all)
    up
    code=0
    run "$@" || code=$?
    if [[ $TEAR_DOWN == 1 ]]; then
      delete
    fi
    exit "$code"
    ;;
esac
