#!/usr/bin/env bash
# Run a command as a Slurm job and wait for it: the launcher of `python -m flows.pipeline --placement isolated` (docs/placement.md).
#
#     --launch 'infra/slurm/submit.sh --partition=cpu --cpus-per-task=4 --mem=16G --time=04:00:00 --'
#     --launch 'gpu=infra/slurm/submit.sh --partition=gpu --gres=gpu:1 --time=08:00:00 --'
#
# Before `--` stand options of sbatch, behind it the command. The job's output is passed on while it runs, and its status is the
# status here. Whoever ends this script (Ctrl-C, a time limit, the death of the flow) cancels the job. The log stays in INKWELL_SLURM_LOGS
# (default: .inkwell/slurm), a folder that the nodes write and this machine reads.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

options=()
while [ "$#" -gt 0 ] && [ "$1" != "--" ]; do
    case "$1" in
        -a* | --array | --array=*)
            echo "submit.sh: a stage is one job; leave $1 away." >&2
            exit 2
            ;;
        # sbatch reads these as its own wherever they stand, and what is waited for and shown would be another thing
        --wait | -W* | --parsable | -o* | --output | --output=* | -e* | --error | --error=* | --wrap | --wrap=*)
            echo "submit.sh: $1 is set here; leave it away." >&2
            exit 2
            ;;
    esac
    options+=("$1")
    shift
done
if [ "$#" -lt 2 ]; then
    echo "submit.sh: write submit.sh [OPTIONS OF SBATCH] -- COMMAND [ARGUMENTS]." >&2
    exit 2
fi
shift
if ! command -v sbatch >/dev/null; then
    echo "submit.sh: sbatch was not found: this is no machine from which jobs can be submitted." >&2
    exit 2
fi

logs="${INKWELL_SLURM_LOGS:-.inkwell/slurm}"
mkdir -p "$logs"
logs="$(cd "$logs" && pwd)"
told="$(mktemp "$logs/.submitted.XXXXXX")"
job="" cluster="" waiting="" following=""

read_number() { # what sbatch --parsable says first: the job's number, and behind a semicolon the cluster's name where there are several
    if [ -z "$job" ]; then
        IFS=';' read -r job cluster <"$told" || job="" # no whole line yet
    fi
}

# shellcheck disable=SC2329 # the trap calls it
leave() { # the job must not outlive this script
    trap '' INT TERM HUP
    if [ -n "$waiting" ]; then
        # Submitted and not told yet: a moment's patience, or a job would be left that nobody knows of.
        for _ in {1..50}; do
            read_number
            if [ -n "$job" ] || ! kill -0 "$waiting" 2>/dev/null; then
                break
            fi
            sleep 0.1 || true
        done
        if [ -n "$job" ]; then
            scancel ${cluster:+"--clusters=$cluster"} "$job" || true
        fi
        kill "$waiting" 2>/dev/null || true
    fi
    if [ -n "$following" ]; then
        kill "$following" 2>/dev/null || true
    fi
    rm -f "$told"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# In a session of its own: a signal to this script's group must not end sbatch before it has told the job's number.
setsid sbatch --wait --parsable --export=ALL --output="$logs/%j.log" ${options[@]+"${options[@]}"} "$here/stage.sbatch" "$@" >"$told" &
waiting=$!
until [ -n "$job" ] || ! kill -0 "$waiting" 2>/dev/null; do
    read_number
    sleep 0.1 || true # a signal to the group ends it too
done
read_number
if [ -n "$job" ]; then
    echo "submit.sh: job $job" >&2
    # --pid: it reads to the end once the job is over, and stops
    tail --lines=+1 --quiet --follow=name --retry --sleep-interval=0.5 --pid="$waiting" "$logs/$job.log" 2>/dev/null &
    following=$!
fi
status=0
wait "$waiting" || status=$?
waiting="" # the job is over: there is nothing to cancel
if [ -n "$following" ]; then
    wait "$following" || true
    following=""
fi
exit "$status"
