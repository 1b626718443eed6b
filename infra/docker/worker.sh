#!/usr/bin/env bash
# The worker's container: a workspace on the volume, brought to this image's code, then Prefect's worker.
#
#   INKWELL_WORKSPACE         the workspace's folder (set by the image)
#   INKWELL_PARAMETERS        what it is composed of, as in `python -m flows.parameters`: "corpus=tang size=laptop"
#   INKWELL_PARAMETERS_FILE   what goes over that, where it is there: a YAML file on the volume, which no start and no new image takes away
#   INKWELL_DVC_REMOTE        where DVC's cache is shared: s3://bucket (its endpoint: AWS_ENDPOINT_URL); empty: nowhere
#   INKWELL_WORK_POOL         the pool to work for
#
# Arguments replace the worker: `docker compose run --rm worker python -m flows.pipeline --plan`. A stage of the isolated placement
# (`python -m flows.placement.worker ...`) brings a clone of its own: no workspace is made for it.
set -euo pipefail
project="$(cd "$(dirname "$0")/../.." && pwd)"

mkdir -p "$HOME" "$XDG_CACHE_HOME" "$PREFECT_HOME"
case " $* " in
    *" flows.placement.worker "*) exec "$@" ;;
esac

: "${INKWELL_WORKSPACE:?the folder of the workspace}"
read -r -a parameters <<<"${INKWELL_PARAMETERS:-}"
if [ -n "${INKWELL_PARAMETERS_FILE:-}" ] && [ -e "$INKWELL_PARAMETERS_FILE" ]; then
    parameters+=("$INKWELL_PARAMETERS_FILE")
fi
python -m flows.workspace "$INKWELL_WORKSPACE" "${parameters[@]}"
cd "$INKWELL_WORKSPACE"

if [ -n "${INKWELL_DVC_REMOTE:-}" ]; then
    dvc remote add --quiet --default --force store "$INKWELL_DVC_REMOTE"
    if [ -n "${AWS_ENDPOINT_URL:-}" ]; then
        dvc remote modify --quiet store endpointurl "$AWS_ENDPOINT_URL"
    fi
fi

if [ "$#" -gt 0 ]; then
    exec "$@"
fi
# A process pool: the flow runs as a child of the worker, in this container. One at a time, because a workspace has one lock.
exec prefect --no-prompt worker start \
    --pool "${INKWELL_WORK_POOL:-inkwell}" \
    --type process \
    --base-job-template "$project/infra/pools/process.json" \
    --install-policy never \
    --limit 1 \
    --with-healthcheck
