#!/usr/bin/env bash
# Run a command as a job of a Ray cluster and wait for it: the launcher of `python -m flows.pipeline --placement isolated` (docs/placement.md).
#
#     export RAY_API_SERVER_ADDRESS=http://FIRST:8265
#     --launch 'infra/ray/submit.sh --entrypoint-num-cpus=4 --'
#     --launch 'gpu=infra/ray/submit.sh --entrypoint-num-gpus=1 --'
#
# Before `--` stand options of `ray job submit`, behind it the command. The job's output is passed on while it runs; Ray tells whether it ended well,
# and not with which status: 0 or 1. Whoever ends this script (Ctrl-C, a time limit, the death of the flow) stops the job; after a `kill -9` of
# this script itself it goes on (`ray job list`).
#
# The project's folder lies on a disk that all machines see, with .venv in it (or INKWELL_VENV elsewhere). Credentials are those of the
# environment in which `ray start` was called: what a job is given from here stands on Ray's page. The cluster needs Ray's job server (`ray[default]`).
set -euo pipefail
project="$(cd "$(dirname "$0")/../.." && pwd)"

address=() options=()
while [ "$#" -gt 0 ] && [ "$1" != "--" ]; do
    case "$1" in
        --no-wait | --job-id | --job-id=* | --submission-id | --submission-id=* | --runtime-env* | --working-dir | --working-dir=*)
            echo "submit.sh: $1 is set here; leave it away." >&2
            exit 2
            ;;
        --address=*) address=("$1") ;;
        --address)
            echo "submit.sh: write --address=ADDRESS." >&2
            exit 2
            ;;
        *) options+=("$1") ;;
    esac
    shift
done
if [ "$#" -lt 2 ]; then
    echo "submit.sh: write submit.sh [OPTIONS OF ray job submit] -- COMMAND [ARGUMENTS]." >&2
    exit 2
fi
shift
if ! command -v ray >/dev/null; then
    echo "submit.sh: ray was not found: this is no machine from which jobs can be submitted." >&2
    exit 2
fi
if [ -z "${address[*]-}${RAY_API_SERVER_ADDRESS:-}${RAY_ADDRESS:-}" ]; then
    # Ray would start a cluster on this machine.
    echo "submit.sh: name the cluster: RAY_API_SERVER_ADDRESS=http://FIRST:8265." >&2
    exit 2
fi

venv="${INKWELL_VENV:-$project/.venv}"
if [ "$1" = python ] && [ -x "$venv/bin/python" ]; then
    set -- "$venv/bin/python" "${@:2}"
fi
# shellcheck disable=SC2016 # it is Python's
handed_on="$("${PYTHON:-python3}" -c '
import json, os, sys
names = ("INKWELL_PIPELINE", "INKWELL_TRACKING", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
handed_on = {name: os.environ[name] for name in names if name in os.environ}
print(json.dumps({"env_vars": {"PYTHONPATH": sys.argv[1], **handed_on}}))
' "$project")"

name="inkwell-stage-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')"
job="" submitting=""

# shellcheck disable=SC2329 # the trap calls it
leave() { # the job must not outlive this script
    trap '' INT TERM HUP
    if [ -n "$job" ]; then
        # In a session of its own, and again where the job is not registered yet: it goes on where whoever ends us loses patience.
        setsid bash -c 'for _ in 1 2 3 4 5; do if ray job stop --no-wait "$@"; then break; fi; sleep 1; done' \
            stop ${address[@]+"${address[@]}"} "$job" >/dev/null 2>&1 || true
    fi
    if [ -n "$submitting" ]; then
        kill "$submitting" 2>/dev/null || true
    fi
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

job="$name"
# In a session of its own: a signal to this script's group must not end it before the job is registered and can be stopped.
setsid ray job submit ${address[@]+"${address[@]}"} --submission-id="$name" --runtime-env-json="$handed_on" \
    ${options[@]+"${options[@]}"} -- "$@" &
submitting=$!
submitted=0
wait "$submitting" || submitted=$?
submitting=""
# A job that somebody has stopped counts as no failure for `ray job submit`, and a stream that breaks as one: Ray is asked what has become of it.
for _ in {1..5}; do
    case "$(ray job status ${address[@]+"${address[@]}"} "$name" 2>&1 || true)" in
        *"'$name' succeeded"*)
            job=""
            exit 0
            ;;
        *"'$name' failed"* | *"'$name' was stopped"*)
            job=""
            exit 1
            ;;
    esac
    sleep 1 || true
done
echo "submit.sh: the job $name has not ended, and its output cannot be followed (status $submitted): it is stopped." >&2
exit 1
