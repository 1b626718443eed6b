#!/usr/bin/env bash
# Build the images of infra/compose.yaml, each with the commit that it is made of. There is no repository in an image, and the lineage of
# what runs there tells the commit (docs/lineage.md).
#
#     infra/build.sh                          all of them
#     COMPOSE_PROFILES=gpu infra/build.sh     the GPU worker's too
#     infra/build.sh --pull worker            what stands here goes to `docker compose build`
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# As in components/tracking/surroundings.py: what decides the outcome beside the parameters.
code=(components flows conf/accepted dvc.yaml requirements.lock)
named=20 # changed files that are named; the rest are counted

project() { git -C "$here/.." -c core.quotePath=false "$@"; }

INKWELL_COMMIT="" INKWELL_TREE=""
if INKWELL_COMMIT="$(project rev-parse --verify HEAD 2>/dev/null)"; then
    mapfile -t changed < <(project status --porcelain --untracked-files=all --no-renames -- "${code[@]}" | cut -c4- | LC_ALL=C sort)
    INKWELL_TREE=clean
    if [ "${#changed[@]}" -gt 0 ]; then
        printf -v names '%s, ' "${changed[@]:0:named}"
        INKWELL_TREE="changed: ${names%, }"
        if [ "${#changed[@]}" -gt "$named" ]; then
            INKWELL_TREE="$INKWELL_TREE and $((${#changed[@]} - named)) more"
        fi
    fi
    echo "build.sh: commit $INKWELL_COMMIT, $INKWELL_TREE" >&2
else
    INKWELL_COMMIT=""
    echo "build.sh: this folder is no git repository: what runs in these images will tell no commit." >&2
fi
export INKWELL_COMMIT INKWELL_TREE
exec docker compose --file "$here/compose.yaml" build "$@"
