#!/usr/bin/env bash
# Run a command in a container and wait for it: the launcher of `python -m flows.pipeline --placement isolated` (docs/placement.md).
#
#     --launch 'infra/docker/submit.sh --memory=12g --'
#     --launch 'gpu=infra/docker/submit.sh --image=inkwell-worker-cuda:0.1.0 --gpus=all --'
#
# Before `--` stand options of `docker run` and --image (default: INKWELL_IMAGE, else inkwell-worker:0.1.0), behind it the worker's command. The
# folders that its --repository and --scratch name are in the container under the same paths, the repository to be read only. The container runs as
# you, so that what it writes is yours, in this machine's network unless --network says otherwise; credentials are handed on by name.
#
# Output and status are those of the command. The container ends with this script, however that ends: its command runs under flows/keeper.py,
# at the end of a pipe that nobody but this script holds open.
set -euo pipefail

image="${INKWELL_IMAGE:-inkwell-worker:0.1.0}"
network=(--network=host)
options=()
while [ "$#" -gt 0 ] && [ "$1" != "--" ]; do
    case "$1" in
        --image=*) image="${1#--image=}" ;;
        --image)
            echo "submit.sh: write --image=NAME." >&2
            exit 2
            ;;
        -d | --detach | --detach=* | -i | --interactive | -t | --tty | -it | --name | --name=* | --rm | --entrypoint | --entrypoint=*)
            echo "submit.sh: $1 is set here; leave it away." >&2
            exit 2
            ;;
        --network | --network=* | --net | --net=*)
            network=()
            options+=("$1")
            ;;
        *) options+=("$1") ;;
    esac
    shift
done
if [ "$#" -lt 2 ]; then
    echo "submit.sh: write submit.sh [OPTIONS OF docker run] -- COMMAND [ARGUMENTS]." >&2
    exit 2
fi
shift
if ! command -v docker >/dev/null; then
    echo "submit.sh: docker was not found: this is no machine on which containers can be started." >&2
    exit 2
fi

repository="" scratch="" before=""
for word in "$@"; do
    case "$before" in
        --repository) repository="$word" ;;
        --scratch) scratch="$word" ;;
    esac
    before="$word"
done
if { [ -d "$repository" ] && [ "${repository#/}" = "$repository" ]; } || { [ -n "$scratch" ] && [ "${scratch#/}" = "$scratch" ]; }; then
    echo "submit.sh: a container starts in another folder: give --repository and --scratch as whole paths." >&2
    exit 2
fi
mounts=() home=/tmp/home
if [ -d "$repository" ]; then
    mounts+=(--mount "type=bind,source=$repository,target=$repository,readonly")
fi
if [ -n "$scratch" ]; then
    home="$scratch/.home" # what libraries keep for the next stage: compiled kernels, DVC's list of hashes
    mkdir -p "$home"
    mounts+=(--mount "type=bind,source=$scratch,target=$scratch")
fi
# LOGNAME: the image does not know you, and libraries ask who works.
environment=(--env LOGNAME=inkwell --env "HOME=$home" --env "XDG_CACHE_HOME=$home/cache" --env "DVC_SITE_CACHE_DIR=$home/dvc"
    --env "TORCHINDUCTOR_CACHE_DIR=$home/cache/inductor" --env "TRITON_CACHE_DIR=$home/cache/triton")
# By name, so that no secret is on a command line; docker leaves out what is not set here.
for name in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ENDPOINT_URL AWS_DEFAULT_REGION \
    MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD INKWELL_PIPELINE INKWELL_TRACKING; do
    environment+=(--env "$name")
done

name="inkwell-stage-$$-$RANDOM$RANDOM"
pipe="$(mktemp -d)"
running=""

# shellcheck disable=SC2329 # the trap calls it
leave() { # the container must not outlive this script
    trap '' INT TERM HUP
    exec 3>&- # the keeper in the container asks the command to end
    if [ -n "$running" ]; then
        # For one that does not listen. In a session of its own: it goes on where whoever ends us loses patience.
        setsid docker stop -t 20 "$name" >/dev/null 2>&1 || true
        kill "$running" 2>/dev/null || true
    fi
    rm -rf "$pipe"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkfifo "$pipe/alive"
exec 3<>"$pipe/alive"
# In a session of its own: a signal to this script's group must not end the client before the container is there.
setsid docker run --rm --init --interactive --no-healthcheck --name "$name" --user "$(id -u):$(id -g)" --shm-size 1g \
    ${network[@]+"${network[@]}"} ${mounts[@]+"${mounts[@]}"} "${environment[@]}" ${options[@]+"${options[@]}"} \
    --entrypoint python "$image" -I -S /opt/inkwell/flows/keeper.py "$@" <"$pipe/alive" 3>&- &
running=$!
status=0
wait "$running" || status=$?
running="" # the container is gone
exit "$status"
