#!/usr/bin/env bash
# Run a command as a Kubernetes Job and wait for it: the launcher of `python -m flows.pipeline --placement isolated` (docs/placement.md).
#
#     --launch 'infra/kubernetes/submit.sh --cpu 4 --memory 16Gi --'
#     --launch 'gpu=infra/kubernetes/submit.sh --image inkwell-worker-cuda:0.1.0 --gpus 1 --memory 32Gi --'
#
# Before `--` stand options of stage.py, which writes the Job, behind it the command. The pod's output is passed on while it runs, its status is the
# status here. Whoever ends this script (Ctrl-C, a time limit, the death of the flow) deletes the Job; its pod has two minutes to write a
# checkpoint. After a `kill -9` of this script itself the Job goes on: `kubectl delete job --selector=app.kubernetes.io/name=inkwell-job`.
# kubectl's own settings say which cluster; INKWELL_NAMESPACE is the namespace (default: inkwell).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

for option in "$@"; do
    case "$option" in
        --) break ;;
        --name | --name=* | --namespace | --namespace=*)
            echo "submit.sh: $option is set here (INKWELL_NAMESPACE); leave it away." >&2
            exit 2
            ;;
    esac
done
if ! command -v kubectl >/dev/null; then
    echo "submit.sh: kubectl was not found: this is no machine from which Jobs can be created." >&2
    exit 2
fi
cluster=(kubectl --namespace "${INKWELL_NAMESPACE:-inkwell}")
name="inkwell-stage-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')"
manifest="$("${PYTHON:-python3}" "$here/stage.py" --name "$name" --namespace "${cluster[2]}" "$@")"
job="" creating="" following=""

# shellcheck disable=SC2329 # the trap calls it
leave() { # the Job must not outlive this script
    trap '' INT TERM HUP
    if [ -n "$creating" ]; then
        # Asked for and not there yet: a moment's patience, or a Job would be left that nobody knows of.
        for _ in {1..50}; do
            kill -0 "$creating" 2>/dev/null || break
            sleep 0.1 || true
        done
    fi
    if [ -n "$following" ]; then
        kill "$following" 2>/dev/null || true
    fi
    if [ -n "$job" ]; then
        setsid "${cluster[@]}" delete job "$job" --ignore-not-found --wait=false >/dev/null || true
    fi
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

job="$name"
# In a session of its own: a signal to this script's group must not end it half done.
setsid "${cluster[@]}" create --filename - >&2 <<<"$manifest" &
creating=$!
created=0
wait "$creating" || created=$?
creating=""
if [ "$created" -ne 0 ]; then
    job=""
    exit 2 # kubectl has said why
fi

of_pod() { # what the pod's only container says of itself; nothing before there is one
    "${cluster[@]}" get pods --selector="job-name=$name" \
        --output="jsonpath={.items[0].status.containerStatuses[0].$1}" 2>/dev/null || true
}

status=0 why=""
finished() { # sets `status`; where there is no pod to ask (evicted, deleted), the Job itself knows
    local code counts
    code="$(of_pod state.terminated.exitCode)"
    if [ -n "$code" ]; then
        status="$code"
        return 0
    fi
    if ! counts="$("${cluster[@]}" get job "$name" --ignore-not-found \
        --output='jsonpath={.metadata.name} {.status.succeeded} {.status.failed}' 2>/dev/null)"; then
        return 1 # the cluster does not answer: it may again
    fi
    case "$counts" in
        "") status=1 why="the Job $name was deleted" ;;
        "$name 1 "*) status=0 ;;
        "$name  1") status=1 why="the pod of $name is gone" ;;
        *) return 1 ;;
    esac
}

until [ -n "$(of_pod state.running.startedAt)" ] || finished; do
    sleep 1 || true
done
shown=""
until [ -n "$shown" ] && finished; do
    # A stream that has broken begins again near its end.
    "${cluster[@]}" logs --follow ${shown:+"--since=3s"} "job/$name" &
    following=$!
    wait "$following" || true
    following="" shown=yes
    sleep 1 || true # the status is told a little later than the last line
done
job="" # it is over, and its end can be looked at for a day
if [ -n "$why" ]; then
    echo "submit.sh: $why." >&2
fi
exit "$status"
